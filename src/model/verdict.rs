//! What the rules say about a file: whether it was lossy before, how sure that is, and why.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::variant::Codec;

/// Whether a file is what it claims to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// No trace of an earlier, worse coding.
    #[default]
    Clean,
    /// Something looks wrong, but honest music can look so too.
    Uncertain,
    /// It was coded worse before.
    Transcode,
}

impl Verdict {
    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Uncertain => "uncertain",
            Self::Transcode => "transcode",
        }
    }
}

/// A rule that can fire; T1 to T8 are those of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// T1: a lossless file takes less than half of its raw bit rate. Suspicion only: so do quiet and mono recordings.
    Bitrate,
    /// T2: hardly any dynamics. Suspicion only: so are loud masters.
    Dynamics,
    /// T3: a lossless file names a lossy encoder.
    Encoder,
    /// T4: content ends far below half the sample rate.
    Bandwidth,
    /// T5: content ends at a wall.
    BrickWall,
    /// T6: the samples equal those of a known lossy file.
    Equality,
    /// T7: declared bit rate or profile and the spectrum disagree.
    Mismatch,
    /// T8: the header names one preset, the stream shows another.
    TagAnomaly,
    /// The frame grid of a lossy codec shows in the samples.
    FrameGrid,
    /// Low bits of the samples are never used.
    PaddedBits,
}

impl Rule {
    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bitrate => "bitrate",
            Self::Dynamics => "dynamics",
            Self::Encoder => "encoder",
            Self::Bandwidth => "bandwidth",
            Self::BrickWall => "brick_wall",
            Self::Equality => "equality",
            Self::Mismatch => "mismatch",
            Self::TagAnomaly => "tag_anomaly",
            Self::FrameGrid => "frame_grid",
            Self::PaddedBits => "padded_bits",
        }
    }
}

/// A rule that fired, with the numbers that made it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// Which.
    pub rule: Rule,
    /// Named numbers; the unit ends the name (`_hz`, `_db`, `_kbps`).
    pub values: BTreeMap<String, f64>,
}

/// The judgement about one file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// How sure it is, 0..=1.
    pub confidence: f32,
    /// What the source was, where that can be guessed: the codec, and its likely bit rate, kbit/s.
    pub source: Option<Source>,
    /// Every rule that fired, deciding or not, in the order of [`Rule`].
    pub reasons: Vec<Reason>,
}

/// A guess at what a transcode was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `None`: some lossy or narrower form.
    pub codec: Option<Codec>,
    /// kbit/s, from the low-pass; `None` when there is none.
    pub bitrate_kbps: Option<u32>,
    /// Hz, when it was upsampled from a lower rate.
    pub sample_rate_hz: Option<u32>,
}
