//! Reads one audio file and says what it measures.

pub mod fingerprint;
