//! What needs leave to mount. `cargo test --test privileged full::` runs it; plain `cargo test` does not.
#![allow(missing_docs, reason = "tests")]

#[path = "disk/full.rs"]
mod full;
#[path = "disk/pump.rs"]
mod pump;
