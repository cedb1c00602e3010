//! Where a file's energy lies, and what traces of a lossy codec it bears: the raw evidence of the transcode verdict.
//!
//! Everything a rule may want is kept, so that a new version of the rules judges anew without decoding. In postcard it
//! takes less than 400 bytes.

use serde::{Deserialize, Serialize};

/// Bands of [`Spectrum::loud_db`] and [`Spectrum::median_db`], from 0 Hz to half the sample rate.
pub const PROFILE_BANDS: usize = 64;

/// The measured spectrum. Levels are percentiles over the audible windows of the whole file, in dB: a full-scale sine
/// reads 0 in its bin; white noise of a 16-bit rounding reads about -129.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spectrum {
    /// Windows that were loud enough to count (above -60 dBFS).
    pub windows: u32,
    /// Up to where there is content, Hz.
    pub effective_bandwidth_hz: u32,
    /// The edge of a low-pass, Hz, where there is one.
    pub nominal_lowpass_hz: Option<u32>,
    /// Geometric over arithmetic mean of the median power, 0..=1.
    pub flatness: f32,
    /// Energy above 16 kHz over all energy.
    pub hf_energy_ratio: f32,
    /// The steepest fall above 1 kHz after which nothing rises again.
    pub edge: Edge,
    /// 90th percentile of each band's mean level, dB; empty when nothing was measured, else [`PROFILE_BANDS`] long.
    pub loud_db: Vec<i8>,
    /// 50th percentile likewise.
    pub median_db: Vec<i8>,
    /// Bits of a sample that are ever used, counted from the top: 16 in a 24-bit file is padding.
    pub used_bits: u8,
    /// Energy of the difference of the first two channels over that of their sum, dB; -120 for equal or single channels.
    pub side_db: f32,
    /// Frame grids of lossy codecs, each as strong as it was found; empty when they were not looked for.
    pub grids: Vec<Grid>,
}

/// The steepest fall of level with frequency, above which nothing comes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// Its middle, Hz; 0 when nothing was measured.
    pub hz: u32,
    /// Fall from the mean of the 410 Hz below to the highest mean of any 410 Hz above, 90 Hz left out on each side, dB.
    pub depth_db: f32,
    /// Level below the edge, dB.
    pub below_db: f32,
    /// The highest mean level of any 410 Hz above it, dB.
    pub above_db: f32,
    /// Hz it takes to fall by the inner 80 % of its depth.
    pub width_hz: u32,
    /// Mean level from 700 Hz above the edge to half the sample rate, dB: the residual floor.
    pub floor_db: f32,
    /// Loudest row there, dB: what stands out of the floor.
    pub floor_peak_db: f32,
}

/// Lossy codecs whose frame grid can be seen in decoded samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GridCodec {
    /// MPEG layer III: granules of 576 samples.
    Mp3,
    /// AAC: frames of 1024 samples.
    Aac,
    /// Vorbis: long blocks of 2048 samples that begin at multiples of 64.
    Vorbis,
    /// Opus's CELT: frames of 960 samples at 48 kHz.
    Opus,
}

impl GridCodec {
    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mp3 => "MP3",
            Self::Aac => "AAC",
            Self::Vorbis => "Vorbis",
            Self::Opus => "Opus",
        }
    }
}

/// How strongly one codec's frame grid shows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// Whose grid.
    pub codec: GridCodec,
    /// Where it begins, samples of the codec's rate modulo its frame.
    pub offset: u16,
    /// Excess of near-zero lines at the best offset, in robust standard deviations over all offsets. Music that was
    /// never coded stays below about 5.
    pub strength: f32,
    /// The same of the best offset elsewhere.
    pub runner_up: f32,
    /// Nearness of the lines to zero at the best offset, 0..=1.
    pub share: f32,
    /// The same at the median offset.
    pub usual: f32,
    /// Of `groups` disjoint groups of excerpts, how many have their best offset there (±1).
    pub agreeing: u8,
    /// Groups.
    pub groups: u8,
    /// Excerpts looked at.
    pub excerpts: u8,
}
