//! What the disk refuses: tried again with growing pauses, and given up in the end, so that no job waits for ever.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::mender::{Mender, Placed, groups, joined, os};
use super::swap::{Folder, FolderError};
use crate::engine::repair::{swap, turn};
use crate::model::health::LocalPath;
use crate::model::id::IssueId;
use crate::model::job::JobId;
use crate::model::repair::{Repair, RepairState};

/// Why a swap cannot be done now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Hindrance {
    /// The disk refuses it; that is tried so often and no more.
    #[error("{0}")]
    Refused(String),
    /// The disk is not plugged in.
    #[error("{0}")]
    Away(String),
}

impl From<String> for Hindrance {
    fn from(why: String) -> Self {
        Self::Refused(why)
    }
}

impl Mender {
    /// Counts a refusal: how many there were for this track, and the pause before the next attempt, if there is to be one.
    /// Counted from the start of the program on.
    pub(super) fn count(&self, job: &JobId, track: usize) -> (u32, Option<Duration>) {
        let mut refused = self.refused();
        let times = refused.entry((job.clone(), track)).or_default();
        *times = times.saturating_add(1);
        (*times, turn::pause(*times))
    }

    /// Waits for the next attempt at what [`Placed::Later`] told of: until the pause is over, or the owner wants it now.
    pub async fn rest(&self, job: &JobId, track: usize, pause: Duration) {
        let (woken, key) = (Arc::new(Notify::new()), (job.clone(), track));
        self.resting().insert(key.clone(), woken.clone());
        let _ = tokio::time::timeout(pause, woken.notified()).await;
        self.resting().remove(&key);
    }

    /// The owner wants another attempt now: whoever rests before it is woken, and refusals are counted anew. `track`: of
    /// this one alone. Whether anybody rested.
    pub fn hurry(&self, job: &JobId, track: Option<usize>) -> bool {
        let is_meant = |(of, at): &(JobId, usize)| of == job && track.is_none_or(|track| track == *at);
        let resting: Vec<_> =
            self.resting().iter().filter(|(key, _)| is_meant(key)).map(|(_, woken)| woken.clone()).collect();
        // A job that goes on begins anew, even where a pause of its own is over meanwhile.
        if track.is_none() || !resting.is_empty() {
            self.refused().retain(|key, _| !is_meant(key));
        }
        for woken in &resting {
            woken.notify_one();
        }
        !resting.is_empty()
    }

    /// The finished file of a track could not be put in the place of what these issues are about, and why. After many
    /// attempts their repairs fail, and the old files stay. Blocks.
    ///
    /// # Errors
    /// The store cannot be used.
    pub(super) fn put_off(
        &self,
        job: &JobId,
        track: usize,
        finished: &Path,
        refused: &[(IssueId, String)],
    ) -> Result<Placed, String> {
        let first = refused.first().map(|(_, why)| why.clone()).unwrap_or_default();
        let (times, pause) = self.count(job, track);
        if let Some(pause) = pause {
            return Ok(Placed::Later(first, pause));
        }
        let hands = self.hands();
        let mut stuck = BTreeSet::new();
        let rows = self.rows(job, track).map_err(|error| error.to_string())?;
        for group in groups(rows.into_iter().filter(|row| row.state == RepairState::Swapping).collect()) {
            let issues: Vec<IssueId> = group.iter().map(|row| row.issue).collect();
            if !refused.iter().any(|(issue, _)| issues.contains(issue)) {
                continue;
            }
            let row = group.first().cloned();
            if let Err(also) = self.let_go(group)
                && !row.is_some_and(|row| is_untouched(&row))
            {
                // What lies there would be forgotten, and the old file may be there as `.bak` alone: not left so.
                tracing::error!(%job, also, "what a repair had begun could not be taken back yet");
                stuck.extend(issues);
            }
        }
        // Where the new file was in its place already, it stays there.
        let rows = self.rows(job, track).map_err(|error| error.to_string())?;
        let why = |row: &Repair| refused.iter().find(|(issue, _)| *issue == row.issue).map(|(_, why)| why.as_str());
        let is_open = |row: &Repair| matches!(row.state, RepairState::Fetching | RepairState::Swapping);
        let goes_on = |row: &Repair| row.state == RepairState::Done || (is_open(row) && why(row).is_none());
        let some_go_on = rows.iter().any(goes_on);
        let fails = |row: &Repair| is_open(row) && why(row).is_some() && !stuck.contains(&row.issue);
        let mut failed: Vec<Repair> = rows.into_iter().filter(fails).collect();
        let now = self.now();
        self.mark(&mut failed, |row| {
            row.state = RepairState::Failed(format!("it was tried {times} times: {}", why(row).unwrap_or_default()));
            (row.told, row.ended_at, row.places) = (false, Some(now), None);
        })?;
        drop(hands);
        if !stuck.is_empty() {
            return Ok(Placed::Later(first, turn::PAUSE_MAX));
        }
        self.refused().remove(&(job.clone(), track));
        if some_go_on { self.place(job, track, finished) } else { Ok(Placed::Refused(first)) }
    }

    /// The folder in which an old file is to be put back. An undoing that was begun ends where that is gone for good.
    pub(super) fn folder_of(&self, row: &Repair, rows: &mut [Repair]) -> Result<Folder, String> {
        let at = row.old.as_ref().map(|old| old.path.folder().to_vec()).unwrap_or_default();
        let at = os(&LocalPath(at)).to_owned();
        let error = match Folder::open(&at, &self.inner.roots) {
            Ok(folder) => return Ok(folder),
            Err(error) => error,
        };
        let gone = match &error {
            FolderError::Io(error) => {
                matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
            }
            FolderError::Outside => true,
        };
        let why = error.to_string();
        if row.state == RepairState::Undoing && gone && !self.is_away(&at) {
            let now = self.now();
            let why = format!("the old file was not put back: {why}");
            self.mark(rows, |row| {
                row.state = RepairState::Failed(why.clone());
                (row.told, row.ended_at) = (false, Some(now));
            })?;
            return Err(why);
        }
        Err(why)
    }
}

/// Whether the old file lies where it was, and nothing beside it that a swap may have put there.
fn is_untouched(row: &Repair) -> bool {
    let (Some(old), Some(places)) = (&row.old, &row.places) else { return true };
    let is_free =
        |path: &LocalPath| os(path).symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    // A folder of that name is in the way, and not ours.
    let hidden = joined(old.path.folder(), &swap::temporary_name(old.path.name()));
    let is_hidden_free = is_free(&hidden) || os(&hidden).symlink_metadata().is_ok_and(|found| !found.is_file());
    os(&old.path).symlink_metadata().is_ok()
        && (places.new == old.path || is_free(&places.new))
        && places.backup.as_ref().is_none_or(is_free)
        && is_hidden_free
}
