//! The Collection Doctor's decisions: what is wrong with a file, an album, a recording, and what a rescan makes of what
//! was found before.
//!
//! [`detect`] holds one function per kind of issue, evidence in, issue out; [`merge`] lets findings meet the stored
//! row; [`consensus`] is what our copies and the words of peers come to; [`scan`] decides what a walk does with each file and how far it has come; [`score`] is the health score;
//! [`governor`] says how quickly to work. How good a copy is, and whether it is a transcode, is `engine::audio`'s;
//! reading files, asking catalogues and keeping rows are the shells'.

pub mod album;
pub mod consensus;
pub mod detect;
pub mod governor;
pub mod merge;
pub mod scan;
pub mod score;
pub mod statistics;

use crate::model::health::{IssueKind, LocalPath};
use crate::model::id::IssueId;

/// Limits of the detectors (SPEC-FACTS 17, `library_health.thresholds`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// A better copy counts when it is better by more than this, 0..=1.
    pub quality_gap: f32,
    /// Difference to the catalogue's duration beyond which it is wrong, milliseconds.
    pub duration_tolerance_ms: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { quality_gap: 0.2, duration_tolerance_ms: 3_000 }
    }
}

/// How the copies of a recording are chosen among (SPEC-FACTS 17, `audio.canonical_scoring`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CanonicalRules {
    /// Offered files are compared with known copies, and copies are chosen by what is known of them.
    pub enabled: bool,
    /// The canonical copy comes first.
    pub prefer: bool,
    /// A copy is fetched beside a good one of our own only when it is better by this, 0..=1.
    pub improvement_min: f32,
    /// What a good one of our own is, 0..=1.
    pub local_enough: f32,
}

impl Default for CanonicalRules {
    fn default() -> Self {
        Self { enabled: true, prefer: true, improvement_min: 0.1, local_enough: 0.85 }
    }
}

/// What an issue is about; with the kind it makes the issue's id, so that a rescan finds the row again. Nothing that
/// may become known later (a recording found by the catalogue) is in it, or a dismissed issue would come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About<'a> {
    /// One file.
    File(&'a LocalPath),
    /// One MusicBrainz recording.
    Recording(u128),
    /// One MusicBrainz release.
    Release(u128),
}

/// The id of the issue of this kind about this.
pub fn issue_id(kind: IssueKind, about: About<'_>) -> IssueId {
    let mut hasher = blake3::Hasher::new_derive_key("slskdn issue id 1");
    hasher.update(&[kind.number()]);
    match about {
        About::File(path) => hasher.update(b"file").update(&path.0),
        About::Recording(id) => hasher.update(b"recording").update(&id.to_be_bytes()),
        About::Release(id) => hasher.update(b"release").update(&id.to_be_bytes()),
    };
    let mut bits = [0; 16];
    hasher.finalize_xof().fill(&mut bits);
    IssueId(u128::from_be_bytes(bits))
}

/// Kinds that are about one file and decided when it is measured.
pub const FILE_KINDS: [IssueKind; 3] =
    [IssueKind::SuspectedTranscode, IssueKind::CorruptedFile, IssueKind::MissingMetadata];
/// Kinds that are about one file and decided when all copies of its recording are known.
pub const COPY_KINDS: [IssueKind; 2] = [IssueKind::NonCanonicalVariant, IssueKind::WrongDuration];
/// The kind that is about one file and decided when its release is known.
pub const RELEASE_FILE_KINDS: [IssueKind; 1] = [IssueKind::TrackNotInTaggedRelease];

/// Every kind that is about one file: what ends when the file is gone.
pub fn all_file_kinds() -> impl Iterator<Item = IssueKind> {
    FILE_KINDS.into_iter().chain(COPY_KINDS).chain(RELEASE_FILE_KINDS)
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
