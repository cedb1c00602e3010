//! Repairs: which issues make which jobs ([`plan`]), whether a fetched copy may take a file's place ([`judge`]), and how
//! it does without a moment in which no copy lies there ([`swap`]); and when repairs begin by themselves ([`turn`]).
//!
//! Fetching is the jobs' (`engine::jobs`); files, records and catalogs are the shell's.

pub mod judge;
pub mod plan;
pub mod swap;
pub mod turn;
