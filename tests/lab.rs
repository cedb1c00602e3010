//! The lab's own network, and the program on it.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

#[path = "lab/hybrid.rs"]
mod hybrid;
#[path = "lab/node.rs"]
mod node;
#[path = "lab/soulseek.rs"]
mod soulseek;
