//! Where a file's energy lies, and what traces of a lossy codec it bears: the raw evidence of the transcode verdict.

use serde::{Deserialize, Serialize};

/// The measured spectrum. Levels are medians or percentiles over the loud windows of the whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spectrum {
    /// Windows that were loud enough to count.
    pub windows: u32,
    /// Up to where there is content, Hz.
    pub effective_bandwidth_hz: u32,
    /// The edge of a low-pass, Hz, where there is one.
    pub nominal_lowpass_hz: Option<u32>,
    /// Geometric over arithmetic mean of the power, 0..=1.
    pub flatness: f32,
    /// Energy above 16 kHz over all energy.
    pub hf_energy_ratio: f32,
}
