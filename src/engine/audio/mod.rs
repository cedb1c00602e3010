//! What audio files say about themselves: their bytes as they stand, and the sound that comes out of them.

pub mod canonical;
pub mod container;
#[cfg(test)]
mod fixture;
pub mod grid;
pub mod quality;
pub mod spectrum;
pub mod transcode;
