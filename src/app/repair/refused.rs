//! What the disk refuses: tried again with growing pauses, and given up in the end, so that no job waits for ever.

use std::path::Path;

use super::mender::{Mender, Placed, groups, os};
use super::swap::{Folder, FolderError};
use crate::engine::repair::turn;
use crate::model::job::JobId;
use crate::model::repair::{Repair, RepairState};

impl Mender {
    /// The finished file of a track could not be put in its place, and why. After many attempts its repairs fail, and the
    /// old files stay. Blocks. Attempts are counted from the start of the program on.
    ///
    /// # Errors
    /// The store cannot be used.
    pub fn put_off(&self, job: &JobId, track: usize, finished: &Path, why: String) -> Result<Placed, String> {
        let times = {
            let mut refused = self.refused();
            let times = refused.entry((job.clone(), track)).or_default();
            *times = times.saturating_add(1);
            *times
        };
        if let Some(pause) = turn::pause(times) {
            return Ok(Placed::Later(why, pause));
        }
        let hands = self.hands();
        let rows = self.rows(job, track).map_err(|error| error.to_string())?;
        for group in groups(rows.into_iter().filter(|row| row.state == RepairState::Swapping).collect()) {
            let has_name = group.iter().any(has_name);
            if let Err(also) = self.let_go(group)
                && !has_name
            {
                // The old file is there as `.bak` alone: that is not left so.
                tracing::error!(%job, also, "a file that a repair renamed could not get its name back yet");
                return Ok(Placed::Later(why, turn::PAUSE_MAX));
            }
        }
        // Where the new file was in its place already, it stays there.
        let rows = self.rows(job, track).map_err(|error| error.to_string())?;
        let some_are_done = rows.iter().any(|row| row.state == RepairState::Done);
        let is_open = |row: &Repair| matches!(row.state, RepairState::Fetching | RepairState::Swapping);
        let mut open: Vec<Repair> = rows.into_iter().filter(is_open).collect();
        let now = self.now();
        self.mark(&mut open, |row| {
            row.state = RepairState::Failed(format!("it was tried {times} times: {why}"));
            (row.told, row.ended_at, row.places) = (false, Some(now), None);
        })?;
        drop(hands);
        self.refused().remove(&(job.clone(), track));
        if some_are_done { self.place(job, track, finished) } else { Ok(Placed::Refused(why)) }
    }

    /// The folder in which an old file is to be put back. An undoing that was begun ends where that is gone for good.
    pub(super) fn folder_of(&self, row: &Repair, rows: &mut [Repair]) -> Result<Folder, String> {
        let at = row.old.as_ref().map(|old| old.path.folder().to_vec()).unwrap_or_default();
        let at = os(&crate::model::health::LocalPath(at)).to_owned();
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

/// Whether the track lies under the name of the old file or of the new one.
fn has_name(row: &Repair) -> bool {
    let there = |path: &crate::model::health::LocalPath| os(path).symlink_metadata().is_ok();
    row.old.as_ref().is_some_and(|old| there(&old.path)) || row.places.as_ref().is_some_and(|places| there(&places.new))
}
