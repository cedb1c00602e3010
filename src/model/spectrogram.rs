//! The picture of a file's sound as numbers: how loud each band is in each stretch of time.

use serde::{Deserialize, Serialize};

use super::id::ContentHash;

/// The level that 0 stands for, dB below a sine of full scale; 255 is that sine itself.
pub const FLOOR_DB: f32 = -120.0;

/// Levels of one file, from its first sample to its last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spectrogram {
    /// Whose picture it is.
    pub content_hash: ContentHash,
    /// Hz; the bands reach from 0 to half of it.
    pub sample_rate_hz: u32,
    /// Samples of one channel.
    pub samples: u64,
    /// Samples of one column.
    pub samples_per_column: u64,
    /// Bands, of equal width.
    pub rows: u16,
    /// One byte for each band of each column: the columns one after the other, each from the lowest band up.
    pub levels: Vec<u8>,
}

impl Spectrogram {
    /// How many columns there are.
    pub fn columns(&self) -> usize {
        self.levels.len() / usize::from(self.rows.max(1))
    }

    /// The levels of one column, the lowest band first; empty beyond the last one.
    pub fn column(&self, column: usize) -> &[u8] {
        self.levels.chunks_exact(usize::from(self.rows.max(1))).nth(column).unwrap_or_default()
    }

    /// Milliseconds of sound.
    pub fn duration_ms(&self) -> u64 {
        self.samples.saturating_mul(1_000) / u64::from(self.sample_rate_hz.max(1))
    }
}
