//! Wiring: everything meets here, and here alone.

pub mod cli;
pub mod clock;
pub mod desk;
pub mod hash;
pub mod logging;
pub mod pump;
pub mod run;
pub mod sharing;
pub mod supervise;
