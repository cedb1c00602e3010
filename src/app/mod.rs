//! Wiring: everything meets here, and here alone.

pub mod appliance;
pub mod apply;
pub mod backup;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config_file;
pub mod control;
pub mod desk;
pub mod doctor;
pub mod hash;
pub mod jobs;
pub mod lab;
pub mod logging;
mod lookups;
pub mod mesh;
pub mod picture;
pub mod publish;
pub mod pump;
pub mod rescue;
pub mod run;
pub mod settings;
pub mod sharing;
pub mod soulseek;
pub mod supervise;
pub mod traces;
pub mod upkeep;
