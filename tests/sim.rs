//! The engine in virtual time: hours in milliseconds, the same again by its seed.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a simulation of times and rates, whose failures are told"
)]

mod crowd;
mod faults;
mod mesh;
mod node;
mod scenarios;
mod world;
