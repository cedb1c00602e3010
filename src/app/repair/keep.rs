//! The tags of the old file in the new one, where the owner wants that: before the two change places.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::mender::{Mender, os};
use super::swap::{self, Bytes};
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
    /// Why not now; to be tried again after this pause.
    Later(String, Duration),
    /// The program ends.
    Stopped,
}

impl Mender {
    /// Gives the finished file of a track the tags of the file that it replaces, if the owner wants that. The sound stays bit
    /// for bit the same, or nothing is changed. After many attempts it keeps its own: a file that was found to be right is
    /// worth more than its tags. Blocks; durable when it returns.
    ///
    /// # Errors
    /// The store cannot be used.
    pub fn keep_tags(
        &self,
        job: &JobId,
        track: usize,
        finished: &Path,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Kept, String> {
        let why = match self.carry_tags(job, track, finished, stop) {
            Err(why) => why,
            kept => return kept,
        };
        if let (_, Some(pause)) = self.count(job, track) {
            return Ok(Kept::Later(why, pause));
        }
        self.tags_are_kept(job, track, swap::bytes_of(finished).ok())?;
        // What the disk refuses from here on is another matter.
        self.refused().remove(&(job.clone(), track));
        Ok(Kept::No(why))
    }

    /// `Err`: why not now.
    fn carry_tags(
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
        self.tags_are_kept(job, track, Some(now))?;
        Ok(kept)
    }

    /// No more is done about the tags of a track's file, which is now these bytes; `None`: it is not known.
    fn tags_are_kept(&self, job: &JobId, track: usize, now: Option<Bytes>) -> Result<(), String> {
        let _hands = self.hands();
        // The owner may have called it off meanwhile.
        let mut rows = self.rows(job, track).map_err(|error| error.to_string())?;
        rows.retain(|row| row.state == RepairState::Fetching);
        self.mark(&mut rows, |row| {
            row.tags_kept = true;
            if let (Some(new), Some(now)) = (&mut row.new, now) {
                (new.content, new.size) = (now.content, now.size);
            }
        })
    }
}
