//! What bytes of audio files say about themselves, without decoding them.

pub mod container;
