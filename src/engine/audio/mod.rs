//! What audio files say about themselves: their bytes as they stand, and the sound that comes out of them.

pub mod container;
pub mod dynamics;
pub mod fingerprint;
pub mod loudness;
pub mod resample;
pub mod sketch;

mod levels;
mod true_peak;
