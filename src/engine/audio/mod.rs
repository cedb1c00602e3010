//! What audio files say about themselves: their bytes as they stand, and the sound that comes out of them.

pub mod container;
