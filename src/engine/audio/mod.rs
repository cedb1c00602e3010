//! What audio files say about themselves: their bytes as they stand, and the sound that comes out of them.

pub mod canonical;
pub mod container;
pub mod dynamics;
pub mod fingerprint;
pub mod grid;
pub mod loudness;
pub mod quality;
pub mod resample;
pub mod sketch;
pub mod spectrogram;
pub mod spectrum;
pub mod transcode;

#[cfg(test)]
mod fixture;
mod levels;
mod true_peak;
