//! What daemon and worker say to one another: frames of a little-endian `u32` length and postcard.

use serde::{Deserialize, Serialize};

use crate::model::limits;
use crate::model::spectrogram::Spectrogram;
use crate::model::variant::Measured;

/// Longest order, bytes.
pub(super) const ORDER_LEN: usize = 1_024;
/// Bytes before a frame's postcard.
pub(super) const PREFIX: usize = 4;

/// What is made of a file's sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Wanted {
    /// Everything that is measured.
    Measurements,
    /// Its spectrogram, and nothing else.
    Spectrogram,
    /// What it is and whether it is whole; of its sound nothing is measured.
    Sound,
}

/// From the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Measure or draw the file whose descriptor came with this frame.
    Measure {
        /// What of it.
        wanted: Wanted,
        /// The end of its name, which says which format is likeliest.
        extension: String,
        /// How long to rest, see `Tempo`.
        rest_permille: u32,
    },
    /// Rest so much from now on.
    Tempo(u32),
}

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Locked in, and waiting for the first file.
    Ready,
    /// It cannot lock itself in, and why: it takes no file.
    Unfit(String),
    /// Still at it; what it has done so far, bytes.
    Progress(u64),
    /// Every byte was read and decoded; what remains is to compute, within the CPU time granted.
    Judging,
    /// Done, or why not.
    Outcome(Outcome),
    /// Drawn.
    Spectrogram(Box<Spectrogram>),
}

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was measured. `Integrity` says whether every byte of it was right.
    Measured(Box<Measured>),
    /// It is of a known format, but no sound can be had from it.
    Corrupted {
        /// What is wrong with it.
        reason: String,
    },
    /// It is of a format, or uses a feature of one, that is not decoded here.
    Unsupported {
        /// Which.
        reason: String,
    },
    /// The worker was stopped or stopped itself: too much memory, time, a crash.
    GaveUp {
        /// Which.
        reason: String,
    },
    /// No worker could be had, so nothing is known about the file: no fault of its.
    NotTried {
        /// What is in the way.
        reason: String,
    },
}

impl Outcome {
    /// Why the file was not measured; `None` when it was.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Measured(_) => None,
            Self::Corrupted { reason }
            | Self::Unsupported { reason }
            | Self::GaveUp { reason }
            | Self::NotTried { reason } => Some(reason),
        }
    }
}

/// One frame; `None` when it is longer than a reader would take.
pub(super) fn frame<T: Serialize>(what: &T) -> Option<Vec<u8>> {
    let body = postcard::to_allocvec(what).ok()?;
    if body.len() > limits::WORKER_ANSWER_LEN {
        return None;
    }
    let mut frame = Vec::with_capacity(PREFIX + body.len());
    frame.extend_from_slice(&u32::try_from(body.len()).ok()?.to_le_bytes());
    frame.extend_from_slice(&body);
    Some(frame)
}
