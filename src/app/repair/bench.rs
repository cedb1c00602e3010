//! A finished file beside the files that it was fetched for.

use crate::engine::audio::fingerprint::{self, Verdict as Likeness};
use crate::engine::jobs::judge::Verdict;
use crate::engine::repair::judge::{self, Bar};
use crate::model::variant::Measured;

/// Words by which two fingerprints of one recording may lie apart: about 3 s of leading silence.
const OFFSET_MAX: usize = 24;

/// What a copy for one track is measured by.
pub struct Bench {
    bars: Vec<Bar>,
    /// The fingerprints of the files of `bars`.
    prints: Vec<Vec<u32>>,
}

impl Bench {
    /// Of the files that are to be replaced, each with its fingerprint, which may be empty.
    pub(super) fn new(bars: Vec<Bar>, prints: Vec<Vec<u32>>) -> Self {
        Self { bars, prints }
    }

    /// Judges a finished file that the job's own judgement passed, or not.
    pub fn judge(&self, verdict: Verdict, measured: &Measured, score: f32) -> Verdict {
        let alike = |print: &Vec<u32>| -> Option<Likeness> {
            let likeness = fingerprint::compare(&measured.fingerprint, print, OFFSET_MAX);
            likeness.map(|likeness| likeness.verdict())
        };
        let sounds: Vec<Option<Likeness>> = self.prints.iter().map(alike).collect();
        judge::judge(verdict, measured.content_hash, score, &self.bars, &sounds)
    }
}
