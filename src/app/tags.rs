//! Tags of a file on the disk, changed so that nothing can be lost: a copy under a hidden name beside the file is changed by
//! the tagger, measured, compared with the file, made durable, and renamed over it. A kill at any moment leaves the old file
//! or the new one whole, and at most the hidden copy, which the next attempt removes.
//!
//! That the sound is the same is found out by a worker, which takes both files apart and decodes them to their end: the hash
//! over the coded audio without tags and headers must be equal, and length, rate, channels, what the codec's headers say
//! (FLAC's STREAMINFO with the MD5 of the samples) and what is damaged as well.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use super::doctor::{Measure, Outcome};
use crate::model::id::RecordingId;
use crate::model::sheet::Sheet;
use crate::model::variant::{Detail, FlacDetail, Measured};
use crate::probe::{Deed, Named, TagError, Tagger};

/// One file at a time: it may take as much memory as several workers.
static ONE: Mutex<()> = Mutex::new(());

/// Why a file's tags were not changed. The file is as it was.
#[derive(Debug, Error)]
pub enum TagsError {
    /// The tags, or their file.
    #[error("its tags were not changed: {0}")]
    Tags(TagError),
    /// The disk.
    #[error("its tags were not changed: {0}")]
    Disk(#[from] io::Error),
    /// The new file cannot be measured, or is not the same sound.
    #[error("its tags were not changed: with others {0}")]
    Sound(String),
    /// There is nothing to measure it with now, as without memory for a worker: another time there may be.
    #[error("its tags were not changed: it could not be measured now: {0}")]
    NotNow(String),
    /// It is another file now.
    #[error("its tags were not changed: somebody else changed the file meanwhile")]
    Changed,
    /// Nobody waits for it any more.
    #[error("it was stopped")]
    Stopped,
}

impl From<TagError> for TagsError {
    fn from(error: TagError) -> Self {
        match error {
            TagError::Stopped => Self::Stopped,
            other => Self::Tags(other),
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing: they name the recording and the release already.
    Already,
    /// Nothing: they name another recording, and may be right.
    Doubtful(RecordingId),
    /// They were written.
    Changed,
}

/// Changes tags.
#[derive(Clone)]
pub struct Tags {
    measure: Arc<dyn Measure>,
    tagger: Tagger,
}

/// Asked now and then whether to stop.
type Stop<'s> = &'s (dyn Fn() -> bool + Sync);

impl Tags {
    /// With these helpers.
    pub fn new(measure: Arc<dyn Measure>, tagger: Tagger) -> Self {
        Self { measure, tagger }
    }

    /// Writes what the tags of a file are to say, if they do not name its recording and release. Others stay. Tags that
    /// name another recording are written only when it is `sure` that they are wrong.
    ///
    /// # Errors
    /// Why not; the file is as it was.
    pub fn write(&self, path: &Path, sheet: &Sheet, sure: bool, stop: Stop<'_>) -> Result<Written, TagsError> {
        forget(path)?;
        let named = self.tagger.work(path, Deed::Read, stop)?;
        let wanted = Named { recording: Some(sheet.recording.0), release: Some(sheet.release.0) };
        if named == wanted {
            return Ok(Written::Already);
        }
        if let Some(other) = named.recording.filter(|other| *other != sheet.recording.0 && !sure) {
            return Ok(Written::Doubtful(RecordingId(other)));
        }
        self.change(path, Deed::Write(sheet), stop, |now| now == wanted)?;
        Ok(Written::Changed)
    }

    /// Replaces the tags of `to` by those of `from`, pictures included, whatever the formats. What tells of the sound of one
    /// file alone (its gain, its gaps, who coded it) is not carried over, and stays where it is.
    ///
    /// # Errors
    /// Why not; both files are as they were.
    pub fn carry(&self, from: &Path, to: &Path, stop: Stop<'_>) -> Result<(), TagsError> {
        forget(to)?;
        let named = self.tagger.work(from, Deed::Read, stop)?;
        self.change(to, Deed::Carry(from), stop, |now| now == named)
    }

    fn change(
        &self,
        path: &Path,
        deed: Deed<'_>,
        stop: Stop<'_>,
        fits: impl Fn(Named) -> bool,
    ) -> Result<(), TagsError> {
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let part = part(path);
        let changed = (|| {
            let before = copy(path, &part)?;
            if !fits(self.tagger.work(&part, deed, stop)?) {
                return Err(TagsError::Sound("they do not say what they should".to_owned()));
            }
            File::open(&part)?.sync_all()?;
            same(&*self.sound(path, path, stop)?, &*self.sound(&part, path, stop)?).map_err(TagsError::Sound)?;
            if stamp(&before) != stamp(&fs::symlink_metadata(path)?) {
                return Err(TagsError::Changed);
            }
            fs::rename(&part, path)?;
            path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
            Ok(())
        })();
        if changed.is_err() {
            // What cannot be removed now is removed by the next attempt.
            let _ = fs::remove_file(&part);
        }
        changed
    }

    fn sound(&self, path: &Path, named: &Path, stop: Stop<'_>) -> Result<Box<Measured>, TagsError> {
        let name = named.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match self.measure.sound(self.measure.open(path)?, &name, stop) {
            None => Err(TagsError::Stopped),
            Some(Outcome::Measured(measured)) => Ok(measured),
            Some(Outcome::NotTried(why)) => Err(TagsError::NotNow(why)),
            Some(Outcome::Broken(why) | Outcome::GaveUp(why) | Outcome::Unsupported(why)) => {
                Err(TagsError::Sound(format!("it could not be measured: {why}")))
            }
        }
    }
}

/// The hidden name beside a file.
fn part(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let short = blake3::hash(name).to_hex();
    path.with_file_name(format!(".{}.tags", short.get(..32).unwrap_or_default()))
}

/// Removes what an attempt at a file's tags that was killed has left behind.
///
/// # Errors
/// The system's reason.
pub fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(part(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// By what a file that was changed is known.
fn stamp(found: &Metadata) -> (u64, u64, u64, i64, i64) {
    (found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec())
}

/// A copy with the same rights; what the file was then.
fn copy(path: &Path, part: &Path) -> io::Result<Metadata> {
    let found = fs::symlink_metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    forget(path)?;
    let mut from = File::open(path)?;
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(part)?;
    io::copy(&mut from, &mut to)?;
    to.set_permissions(fs::Permissions::from_mode(found.mode() & 0o777))?;
    Ok(found)
}

/// Whether two measurements are of the same sound, bit for bit.
fn same(old: &Measured, new: &Measured) -> Result<(), String> {
    // The hash covers the header of the block too, which says whether another follows.
    let detail = |measured: &Measured| match &measured.detail {
        Detail::Flac(detail) => Detail::Flac(FlacDetail { streaminfo_hash: [0; 16], ..detail.clone() }),
        other => other.clone(),
    };
    let shape = |m: &Measured| (m.codec, m.container, m.sample_rate_hz, m.bit_depth, m.channels, m.samples);
    let damage = |m: &Measured| (m.integrity.bad_frames, m.integrity.md5, m.integrity.samples_missing);
    if old.stream_hash != new.stream_hash {
        return Err("its coded sound is another".to_owned());
    }
    if shape(old) != shape(new) || detail(old) != detail(new) {
        return Err("its sound has another shape".to_owned());
    }
    if damage(old) != damage(new) {
        return Err("it is damaged".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_behind_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let song = dir.path().join("song.flac");
        fs::write(&song, b"song").unwrap();
        fs::write(part(&song), b"half").unwrap();
        forget(&song).unwrap();
        forget(&song).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, std::slice::from_ref(&song));
        // A copy has the rights of its file, and takes the place of an older one.
        fs::set_permissions(&song, fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(part(&song), b"half").unwrap();
        copy(&song, &part(&song)).unwrap();
        assert_eq!(fs::read(part(&song)).unwrap(), b"song");
        assert_eq!(fs::metadata(part(&song)).unwrap().mode() & 0o777, 0o640);
        // The longest name there can be.
        let long = dir.path().join("x".repeat(255));
        fs::write(&long, b"long").unwrap();
        copy(&long, &part(&long)).unwrap();
        assert!(copy(dir.path(), &dir.path().join("other")).is_err());
    }
}
