//! The tags of the old file in the new one, where the owner wants that: before the two change places.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::mender::{Mender, os};
use super::swap;
use crate::app::tags::{self, Tags, TagsError};
use crate::model::job::JobId;
use crate::model::repair::{Repair, RepairState};
use crate::probe::Tagger;

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nothing was wanted, or it was done.
    Yes,
    /// The new file keeps its own tags, and why.
    No(String),
    /// The program ends.
    Stopped,
}

impl Mender {
    /// Gives the finished file of a track the tags of the file that it replaces, if the owner wants that. The sound stays bit
    /// for bit the same, or nothing is changed. Blocks; durable when it returns.
    ///
    /// # Errors
    /// Why not now, in one sentence: it is to be tried again.
    pub fn keep_tags(
        &self,
        job: &JobId,
        track: usize,
        finished: &Path,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Kept, String> {
        let mut rows = self.rows(job, track).map_err(|error| error.to_string())?;
        rows.retain(|row| row.state.is_live());
        // Once files change places, all are what they are to be.
        let wanted = rows.iter().any(|row| row.keep_tags && !row.tags_kept)
            && rows.iter().all(|row| row.state == RepairState::Fetching);
        if !wanted || !finished.exists() {
            return Ok(Kept::Yes);
        }
        let of = |row: &Repair| row.old.as_ref().map(|old| os(&old.path).to_owned());
        let olds: BTreeSet<PathBuf> = rows.iter().filter_map(of).collect();
        let kept = match olds.first() {
            Some(old) if olds.len() == 1 => {
                let tags = Tags::new(self.inner.ground.measure.clone(), Tagger::new(PathBuf::from("/proc/self/exe")));
                match tags.carry(old, finished, stop) {
                    Ok(()) => Kept::Yes,
                    Err(TagsError::Stopped) => return Ok(Kept::Stopped),
                    // Another time there may be room.
                    Err(TagsError::Disk(error)) if error.kind() == io::ErrorKind::StorageFull => {
                        return Err(error.to_string());
                    }
                    // There was nothing to measure it with: that says nothing of the file.
                    Err(TagsError::NotNow(why)) => return Err(why),
                    Err(error) => Kept::No(error.to_string()),
                }
            }
            _ => Kept::No("it replaces several files, whose tags may differ".to_owned()),
        };
        // What an attempt that was killed has left.
        tags::forget(finished).map_err(|error| error.to_string())?;
        let now = swap::bytes_of(finished).map_err(|error| error.to_string())?;
        let _hands = self.hands();
        // The owner may have called it off meanwhile.
        let mut rows = self.rows(job, track).map_err(|error| error.to_string())?;
        rows.retain(|row| row.state == RepairState::Fetching);
        self.mark(&mut rows, |row| {
            row.tags_kept = true;
            if let Some(new) = &mut row.new {
                (new.content, new.size) = (now.content, now.size);
            }
        })?;
        Ok(kept)
    }
}
