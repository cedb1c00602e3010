//! The engine in virtual time: hours in milliseconds, the same again by its seed.

mod faults;
mod scenarios;
mod world;
