//! The disk: one suite for both backends, and the pump over loopback sockets.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod backends;
mod killed;
mod origin;
mod pump;
