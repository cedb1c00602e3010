//! Wiring: everything meets here, and here alone.

pub mod cli;
pub mod clock;
pub mod config_file;
pub mod logging;
pub mod pump;
pub mod settings;
pub mod sharing;
pub mod supervise;
