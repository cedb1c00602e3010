//! A finished file beside the files that it was fetched for.

use crate::engine::audio::fingerprint::{self, Verdict as Likeness};
use crate::engine::jobs::judge::Verdict;
use crate::engine::repair::judge::{self, Bar};
use crate::model::id::IssueId;
use crate::model::variant::Measured;

/// Words by which two fingerprints of one recording may lie apart: about 3 s of leading silence.
const OFFSET_MAX: usize = 24;

/// A file that waits to be replaced.
pub(super) struct Waiting {
    pub(super) issue: IssueId,
    pub(super) bar: Bar,
    /// Its fingerprint; may be empty.
    pub(super) print: Vec<u32>,
}

/// What a copy for one track is measured by.
pub struct Bench {
    waiting: Vec<Waiting>,
}

impl Bench {
    /// For these files.
    pub(super) fn new(waiting: Vec<Waiting>) -> Self {
        Self { waiting }
    }

    /// Judges a finished file that the job's own judgement passed, or not. Besides: issues whose file is another
    /// recording by its sound, and is not to be replaced by it.
    pub fn judge(&self, verdict: Verdict, measured: &Measured, score: f32) -> (Verdict, Vec<IssueId>) {
        let alike = |one: &Waiting| -> Option<Likeness> {
            let likeness = fingerprint::compare(&measured.fingerprint, &one.print, OFFSET_MAX);
            likeness.map(|likeness| likeness.verdict())
        };
        let sounds: Vec<Option<Likeness>> = self.waiting.iter().map(alike).collect();
        let bars: Vec<Bar> = self.waiting.iter().map(|one| one.bar.clone()).collect();
        let others = self.waiting.iter().zip(&sounds).filter(|(one, sound)| judge::is_another(&one.bar, **sound));
        let others = others.map(|(one, _)| one.issue).collect();
        (judge::judge(verdict, measured.content_hash, score, &bars, &sounds), others)
    }
}
