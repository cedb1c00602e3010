//! Every decision the program takes, as data in and actions out. No sockets, files, threads, clocks or randomness of its
//! own: time, random seeds and bytes arrive as arguments, so the same code runs in production and under a test's clock.

pub mod appliance;
pub mod audio;
pub mod catalog;
pub mod fairness;
pub mod jobs;
pub mod library;
pub mod manifest;
pub mod mesh;
pub mod repair;
pub mod soulseek;
pub mod swarm;
pub mod trace;
