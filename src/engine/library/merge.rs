//! How what a scan finds meets the row that is stored: one row per problem, for ever.
//!
//! | Stored | Found again | Not found any more |
//! |---|---|---|
//! | nothing | `Detected` | – |
//! | `Detected`, `Acknowledged`, `Failed` | stays, evidence is renewed | `Resolved`, manual fix |
//! | `Fixing` | stays, evidence is renewed | `Resolved`, auto fixed |
//! | `Ignored` | stays, evidence is renewed | stays: a false positive that comes back stays dismissed |
//! | `Resolved` | `Detected` anew | stays |

use crate::model::health::{Issue, IssueKind, IssueStatus, ResolvedBy};
use crate::model::time::UnixMs;

/// The row after a scan, or `None` when what is stored (or nothing) is right as it is. `found` and `stored` are of one
/// id.
pub fn merge(stored: Option<&Issue>, found: Option<Issue>, now: UnixMs) -> Option<Issue> {
    match (stored, found) {
        (None, found) => found,
        (Some(stored), Some(found)) if stored.status == IssueStatus::Resolved => {
            Some(Issue { detected_at: now, ..known_as(found, stored) })
        }
        (Some(stored), Some(found)) => {
            let found = known_as(found, stored);
            let renewed = Issue {
                status: stored.status,
                detected_at: stored.detected_at,
                resolved_at: stored.resolved_at,
                resolved_by: stored.resolved_by,
                job: stored.job,
                ..found
            };
            (renewed != *stored).then_some(renewed)
        }
        (Some(stored), None) => {
            let by = match stored.status {
                IssueStatus::Ignored | IssueStatus::Resolved => return None,
                IssueStatus::Fixing => ResolvedBy::AutoFixed,
                IssueStatus::Detected | IssueStatus::Acknowledged | IssueStatus::Failed => ResolvedBy::ManualFix,
            };
            Some(Issue {
                status: IssueStatus::Resolved,
                resolved_at: Some(now),
                resolved_by: Some(by),
                ..stored.clone()
            })
        }
    }
}

/// What nothing can be read of any more is still the recording that it was.
fn known_as(found: Issue, stored: &Issue) -> Issue {
    let says_nothing = found.kind == IssueKind::CorruptedFile
        && found.recording_id.is_none()
        && [&found.artist, &found.album, &found.title].iter().all(|text| text.is_empty());
    if !says_nothing {
        return found;
    }
    Issue {
        recording_id: stored.recording_id,
        release_id: found.release_id.or(stored.release_id),
        artist: stored.artist.clone(),
        album: stored.album.clone(),
        title: stored.title.clone(),
        ..found
    }
}

/// A file was moved: what the owner said about the old row holds for the new one.
#[must_use]
pub fn carry_over(old: &Issue, found: Issue) -> Issue {
    if old.status.is_open() || old.status == IssueStatus::Ignored {
        Issue {
            status: old.status,
            detected_at: old.detected_at,
            resolved_at: old.resolved_at,
            resolved_by: old.resolved_by,
            job: old.job,
            ..found
        }
    } else {
        found
    }
}

/// Why the owner cannot give an issue this status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the owner cannot make an issue {}; possible are Detected, Acknowledged, Ignored and Resolved", wanted.name())]
pub struct StatusError {
    /// What was wanted.
    pub wanted: IssueStatus,
}

/// The row of an issue that a job mends from now on.
#[must_use]
pub fn fixing(issue: &Issue, job: u128) -> Issue {
    let job = Some(job);
    Issue { status: IssueStatus::Fixing, job, resolved_at: None, resolved_by: None, ..issue.clone() }
}

/// What a job came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// What was wrong is gone.
    Yes,
    /// A good file lies beside the bad one: the owner decides.
    Beside,
    /// Nothing was changed.
    No,
    /// It was, and it was undone.
    Undone,
}

/// The row after the job ended, or `None` when what is stored is right as it is. A scan may have looked meanwhile, and
/// the owner may have said something: a word of the owner stands, and what another job does is none of this one's.
pub fn mended(issue: &Issue, job: u128, mended: Mended, now: UnixMs) -> Option<Issue> {
    let is_dismissed = issue.status == IssueStatus::Ignored;
    if issue.job != Some(job) || is_dismissed {
        return None;
    }
    let open = |status| Issue { status, resolved_at: None, resolved_by: None, ..issue.clone() };
    let after = match mended {
        Mended::Yes if issue.status == IssueStatus::Resolved => return None,
        Mended::Yes => Issue {
            status: IssueStatus::Resolved,
            resolved_at: Some(now),
            resolved_by: Some(ResolvedBy::AutoFixed),
            ..issue.clone()
        },
        Mended::Beside | Mended::No if issue.status != IssueStatus::Fixing => return None,
        Mended::No => open(IssueStatus::Failed),
        // Undone not `Detected`: what is repaired by itself would be repaired again.
        Mended::Beside | Mended::Undone => open(IssueStatus::Acknowledged),
    };
    Some(after)
}

/// The row after the owner gave it a status. `Ignored` is "dismiss as false positive".
pub fn set_status(issue: &Issue, wanted: IssueStatus, now: UnixMs) -> Result<Issue, StatusError> {
    let ended = match wanted {
        IssueStatus::Detected | IssueStatus::Acknowledged => None,
        IssueStatus::Ignored => Some(ResolvedBy::UserDismissed),
        IssueStatus::Resolved => Some(ResolvedBy::ManualFix),
        IssueStatus::Fixing | IssueStatus::Failed => return Err(StatusError { wanted }),
    };
    Ok(Issue { status: wanted, resolved_at: ended.map(|_| now), resolved_by: ended, ..issue.clone() })
}
