//! The card itself: the slots' partitions and the FAT partition.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use super::install::Media;
use super::places::Places;
use crate::engine::appliance::bundle::ROOT;
use crate::engine::appliance::slots::{COPY_LEN, Slot};

/// Names of the copies on the boot partition.
const COPIES: [&str; 2] = ["slots.txt", "slots2.txt"];

/// The card of this box.
#[derive(Debug)]
pub struct Card<'a> {
    places: &'a Places,
    /// The part that is being written or read.
    open: Option<(PathBuf, File)>,
}

impl<'a> Card<'a> {
    /// Opens nothing yet.
    pub fn new(places: &'a Places) -> Self {
        Self { places, open: None }
    }

    fn path(&self, slot: Slot, part: &str) -> io::Result<PathBuf> {
        if part == ROOT { self.places.partition(slot) } else { Ok(self.places.fat().join(slot.name()).join(part)) }
    }

    /// The part, opened once for a run of calls.
    fn part(&mut self, slot: Slot, part: &str) -> io::Result<&File> {
        let path = self.path(slot, part)?;
        if self.open.as_ref().is_none_or(|(open, _)| *open != path) {
            let is_root = part == ROOT;
            if !is_root && let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            // A partition is there; it is never made.
            let file = OpenOptions::new().read(true).write(true).create(!is_root).truncate(false).open(&path)?;
            self.open = Some((path, file));
        }
        match &self.open {
            Some((_, file)) => Ok(file),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Media for Card<'_> {
    fn slots(&mut self) -> io::Result<[Vec<u8>; 2]> {
        let read = |name: &str| match super::places::read_plain(&self.places.fat().join(name), COPY_LEN) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            // Garbage of another length is garbage.
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Ok(Vec::new()),
            outcome => outcome,
        };
        Ok([read(COPIES[0])?, read(COPIES[1])?])
    }

    fn write_slots(&mut self, copy: usize, bytes: &[u8; COPY_LEN]) -> io::Result<()> {
        let path = self.places.fat().join(COPIES[copy]);
        // In place: the file keeps its sectors.
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        file.write_all_at(bytes, 0)?;
        if file.metadata()?.len() != COPY_LEN as u64 {
            file.set_len(COPY_LEN as u64)?;
        }
        file.sync_all()
    }

    fn clear(&mut self, slot: Slot) -> io::Result<()> {
        self.open = None;
        let folder = self.places.fat().join(slot.name());
        let gone = |outcome: io::Result<()>| match outcome {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        };
        gone(std::fs::remove_file(folder.join("slot")))?;
        if folder.exists() {
            File::open(&folder)?.sync_all()?;
        }
        gone(std::fs::remove_dir_all(&folder))?;
        std::fs::create_dir(&folder)?;
        File::open(self.places.fat())?.sync_all()
    }

    fn room(&mut self, slot: Slot) -> io::Result<(u64, u64)> {
        let partition = File::open(self.places.partition(slot)?)?;
        let root = io::Seek::seek(&mut &partition, io::SeekFrom::End(0))?;
        let fat = rustix::fs::statvfs(self.places.fat())?;
        let mut room = fat.f_bavail.saturating_mul(fat.f_frsize);
        for entry in walkdir::WalkDir::new(self.places.fat().join(slot.name())).into_iter().filter_map(Result::ok) {
            // Rounded down to whole blocks: at most what removing it frees.
            let length = entry.metadata().map_or(0, |about| if about.is_file() { about.len() } else { 0 });
            room = room.saturating_add(length / fat.f_frsize.max(1) * fat.f_frsize);
        }
        Ok((root, room))
    }

    fn write(&mut self, slot: Slot, part: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.part(slot, part)?.write_all_at(bytes, at)
    }

    fn settle(&mut self, slot: Slot, part: &str) -> io::Result<()> {
        let file = self.part(slot, part)?;
        file.sync_all()?;
        // What is compared afterwards comes from the card, not from memory.
        fadvise(file, 0, None, Advice::DontNeed)?;
        self.open = None;
        if part != ROOT {
            // The file's folder and those above it, which may be new.
            let (path, above) = (self.path(slot, part)?, self.places.fat());
            for folder in path.ancestors().skip(1).take_while(|folder| **folder != *above) {
                File::open(folder)?.sync_all()?;
            }
        }
        Ok(())
    }

    fn read(&mut self, slot: Slot, part: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
        self.part(slot, part)?.read_at(into, at)
    }

    fn note(&mut self, slot: Slot, version: &str) -> io::Result<()> {
        self.places.note_trial(slot, version)
    }
}

/// Whether this is a device to write a system on; a test's are files.
pub(super) fn is_partition(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.file_type().is_block_device())
}
