//! Which issues make which jobs (SPEC-FACTS 5.3).
//!
//! | Issue | Strategy | Job |
//! |---|---|---|
//! | `SuspectedTranscode`, `CorruptedFile` | `RedownloadTracks` | one for each recording |
//! | `NonCanonicalVariant` | `ReplaceWithCanonical` | the same |
//! | `MissingTrackInRelease` | `CompleteAlbum` | one for each release |
//!
//! Issues of one recording share a job: one file is fetched, and copied to each place. It must then do for all of them.

use crate::model::health::{Issue, IssueKind, IssueStatus};
use crate::model::id::IssueId;
use crate::model::job::{Constraints, MbRelease};
use crate::model::repair::Strategy;
use crate::model::variant::Codec;

/// How an issue of this kind is mended; `None`: nobody but its owner can.
pub fn strategy(kind: IssueKind) -> Option<Strategy> {
    match kind {
        IssueKind::SuspectedTranscode | IssueKind::CorruptedFile => Some(Strategy::RedownloadTracks),
        IssueKind::NonCanonicalVariant => Some(Strategy::ReplaceWithCanonical),
        IssueKind::MissingTrackInRelease => Some(Strategy::CompleteAlbum),
        IssueKind::TrackNotInTaggedRelease
        | IssueKind::MissingMetadata
        | IssueKind::MultipleVariants
        | IssueKind::WrongDuration => None,
    }
}

/// How this issue is mended.
///
/// # Errors
/// Why it is not, in one sentence.
pub fn wanted(issue: &Issue) -> Result<Strategy, String> {
    let Some(strategy) = strategy(issue.kind) else {
        return Err(format!("no copy from others mends this: {}", issue.kind.suggested_action()));
    };
    match issue.status {
        IssueStatus::Detected | IssueStatus::Acknowledged | IssueStatus::Failed => Ok(strategy),
        IssueStatus::Fixing => Err("it is being mended".to_owned()),
        IssueStatus::Ignored => Err("it was dismissed: open it again first".to_owned()),
        IssueStatus::Resolved => Err("it is resolved".to_owned()),
    }
}

/// What copies are wanted.
pub fn constraints() -> Constraints {
    Constraints {
        preferred_codecs: vec![Codec::Flac],
        allow_lossy: false,
        max_lossy_tracks: None,
        prefer_canonical: true,
        use_overlay: true,
        ..Constraints::default()
    }
}

/// An issue with what would mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub issue: IssueId,
    /// How.
    pub strategy: Strategy,
    /// What is to be fetched: of a replacement one track.
    pub spec: MbRelease,
}

/// A job, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What is to be fetched.
    pub spec: MbRelease,
    /// Issues and how each is mended, with the index of the track that replaces a file.
    pub issues: Vec<(IssueId, Strategy, Option<u32>)>,
}

/// The jobs for these issues, in their order. The first issue of a recording says from which release it is taken.
pub fn jobs(wanted: Vec<Wanted>) -> Vec<Planned> {
    let mut jobs: Vec<Planned> = Vec::new();
    for one in wanted {
        let replaces = one.strategy != Strategy::CompleteAlbum;
        let track = replaces.then_some(0);
        let recording = |spec: &MbRelease| spec.tracks.first().map(|track| track.recording);
        let same = jobs.iter_mut().find(|job| {
            let is_replacing = job.issues.iter().all(|(_, strategy, _)| *strategy != Strategy::CompleteAlbum);
            if replaces {
                is_replacing && recording(&job.spec) == recording(&one.spec)
            } else {
                !is_replacing && job.spec.release == one.spec.release && job.spec.tracks == one.spec.tracks
            }
        });
        match same {
            Some(job) => job.issues.push((one.issue, one.strategy, track)),
            None => jobs.push(Planned { spec: one.spec, issues: vec![(one.issue, one.strategy, track)] }),
        }
    }
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::jobs::fixtures::{spec, track};
    use crate::model::health::{Evidence, LocalPath, Severity};
    use crate::model::time::UnixMs;

    fn issue(kind: IssueKind, status: IssueStatus) -> Issue {
        Issue {
            id: IssueId(1),
            kind,
            severity: Severity::High,
            path: LocalPath::from("/m/a.flac"),
            recording_id: None,
            release_id: None,
            artist: String::new(),
            album: String::new(),
            title: String::new(),
            reason: String::new(),
            evidence: Evidence::NotInRelease { tracks: 1 },
            job: None,
            status,
            detected_at: UnixMs(1),
            resolved_at: None,
            resolved_by: None,
        }
    }

    #[test]
    fn what_can_be_mended_is_what_the_issue_says() {
        for kind in IssueKind::ALL {
            assert_eq!(strategy(kind).is_some(), kind.can_auto_fix(), "{kind:?}");
            for status in IssueStatus::ALL {
                let open = matches!(status, IssueStatus::Detected | IssueStatus::Acknowledged | IssueStatus::Failed);
                assert_eq!(wanted(&issue(kind, status)).is_ok(), kind.can_auto_fix() && open, "{kind:?} {status:?}");
            }
        }
        assert!(
            wanted(&issue(IssueKind::MissingMetadata, IssueStatus::Detected)).unwrap_err().contains("tag it by hand")
        );
    }

    fn one(id: u128, strategy: Strategy, position: u32) -> Wanted {
        let release = spec("A", "B", &[track(1, position, "T", "A", 100)]);
        Wanted { issue: IssueId(id), strategy, spec: release }
    }

    #[test]
    fn issues_of_one_recording_share_a_job() {
        let again = Strategy::RedownloadTracks;
        let mut other_release = one(3, Strategy::ReplaceWithCanonical, 1);
        other_release.spec.release = crate::model::id::ReleaseId(9);
        let found = jobs(vec![one(1, again, 1), one(2, again, 2), other_release, one(4, again, 1)]);
        let issues: Vec<Vec<u128>> = found.iter().map(|job| job.issues.iter().map(|(id, ..)| id.0).collect()).collect();
        assert_eq!(issues, [vec![1, 3, 4], vec![2]]);
        assert_eq!(found[0].spec.release.0, 1, "the first issue's release");
        assert!(found.iter().flat_map(|job| &job.issues).all(|(_, _, track)| *track == Some(0)));
    }

    #[test]
    fn albums_are_completed_one_by_one_and_replace_nothing() {
        let album = |id, release| {
            let mut wanted = one(id, Strategy::CompleteAlbum, 1);
            wanted.spec.release = crate::model::id::ReleaseId(release);
            wanted
        };
        let found = jobs(vec![album(1, 7), one(2, Strategy::RedownloadTracks, 1), album(3, 8)]);
        let what: Vec<_> = found.iter().map(|job| (job.spec.release.0, job.issues.clone())).collect();
        assert_eq!(
            what,
            [
                (7, vec![(IssueId(1), Strategy::CompleteAlbum, None)]),
                (1, vec![(IssueId(2), Strategy::RedownloadTracks, Some(0))]),
                (8, vec![(IssueId(3), Strategy::CompleteAlbum, None)]),
            ]
        );
    }

    #[test]
    fn only_lossless_copies_are_wanted() {
        let wanted = constraints();
        assert_eq!(
            (wanted.preferred_codecs, wanted.allow_lossy, wanted.prefer_canonical),
            (vec![Codec::Flac], false, true)
        );
    }
}
