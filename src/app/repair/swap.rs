//! Puts a new file in an old one's place, and the old one back: does the steps of `engine::repair::swap`, each durable
//! before the next is thought of.
//!
//! Everything happens in one folder, through one open handle of it, by names without a slash: a link that is put in the
//! way meanwhile leads nowhere.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

use crate::engine::repair::swap::{self, Lies, Sight, Step, Want, Why};
use crate::model::id::ContentHash;

/// Bytes read at once.
const READ: usize = 64 * 1024;
/// Steps after which something is badly wrong: nobody changes files under our hands for so long.
const STEPS: u32 = 40;

/// Names tried for a file that is to lie beside others.
pub(super) const NAMES: u32 = 100;

/// The bytes of a file, as they are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes {
    pub(super) size: u64,
    pub(super) content: ContentHash,
}

/// Names in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) old: Vec<u8>,
    pub(super) new: Vec<u8>,
    pub(super) backup: Option<Vec<u8>>,
    pub(super) aside: Option<Vec<u8>>,
}

/// What both files are, by their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) old: Bytes,
    pub(super) new: Bytes,
}

/// What it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Stopped(Why),
}

/// Asked before each change of the folder; an error is a kill at that moment. In the running program it never says no.
pub(super) type Before<'a> = &'a dyn Fn() -> io::Result<()>;

/// Device, number, bytes, last change: what a file keeps while nobody writes to it, whatever it is called.
type Mark = (u64, u64, u64, i64, i64);

/// A folder of the library, open.
pub(super) struct Folder {
    handle: OwnedFd,
    /// Contents by mark, so that a file is read once.
    known: BTreeMap<Mark, ContentHash>,
}

/// Why a folder is not worked in.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    /// It lies elsewhere.
    #[error("it lies outside of the downloads folder, the shared folders and the library")]
    Outside,
    /// It cannot be opened.
    #[error("its folder cannot be opened: {0}")]
    Io(#[from] io::Error),
}

fn hash(mut file: impl io::Read) -> io::Result<ContentHash> {
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; READ]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(ContentHash(*hasher.finalize().as_bytes())),
            n => hasher.update(buffer.get(..n).unwrap_or_default()),
        };
    }
}

/// The bytes of a regular file that no link leads to.
pub(super) fn bytes_of(path: &Path) -> io::Result<Bytes> {
    let file = crate::probe::open(path)?;
    Ok(Bytes { size: file.metadata()?.len(), content: hash(file)? })
}

fn copy(from: &mut File, out: &mut File, before: Before<'_>) -> io::Result<()> {
    let mut buffer = vec![0; READ];
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        before()?;
        out.write_all(buffer.get(..n).unwrap_or_default())?;
    }
}

/// Gives a new file the owner and the group of an old one, as far as the system lets us: most often the group at best.
fn own_as(file: &File, uid: u32, gid: u32) {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if rustix::fs::fchown(file, Some(uid), Some(gid)).is_err() {
        let _ = rustix::fs::fchown(file, None, Some(gid));
    }
}

fn is_unsupported(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

impl Folder {
    /// Opens a folder inside one of the roots, reached without links.
    pub(super) fn open(path: &Path, roots: &[PathBuf]) -> Result<Self, FolderError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?;
        // Where the handle really is, whatever became of the path meanwhile.
        let real = std::fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd()))?;
        let inside = |root: &PathBuf| real.starts_with(root.canonicalize().unwrap_or_else(|_| root.clone()));
        if real != path || !roots.iter().any(inside) {
            return Err(FolderError::Outside);
        }
        Ok(Self { handle, known: BTreeMap::new() })
    }

    /// Whether nothing lies under a name.
    pub(super) fn is_free(&self, of: &[u8]) -> io::Result<bool> {
        match rustix::fs::statat(&self.handle, name(of), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(false),
            Err(Errno::NOENT) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// The first free one of these names.
    pub(super) fn free(&self, of: impl Fn(u32) -> Vec<u8>) -> io::Result<Vec<u8>> {
        for number in 1..=NAMES {
            let name = of(number);
            if self.is_free(&name)? {
                return Ok(name);
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "every name for it is taken"))
    }

    /// The bytes of the regular file under a name; `None`: there is nothing, or something else.
    pub(super) fn bytes(&mut self, of: &[u8]) -> io::Result<Option<Bytes>> {
        match self.file(of)? {
            Some(file) => self.identify(file).map(Some),
            None => Ok(None),
        }
    }

    fn file(&self, of: &[u8]) -> io::Result<Option<File>> {
        match rustix::fs::statat(&self.handle, name(of), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.handle, name(of), flags, Mode::empty()) {
            Ok(handle) => Ok(Some(File::from(handle))),
            Err(Errno::NOENT | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn identify(&mut self, file: File) -> io::Result<Bytes> {
        let found = file.metadata()?;
        let mark = (found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec());
        let content = if let Some(content) = self.known.get(&mark) {
            *content
        } else {
            let content = hash(file)?;
            self.known.insert(mark, content);
            content
        };
        Ok(Bytes { size: found.len(), content })
    }

    /// What lies under a name. A file of another size than both is not read.
    fn lies(&mut self, of: &[u8], pair: &Pair) -> io::Result<Lies> {
        if self.is_free(of)? {
            return Ok(Lies::Nothing);
        }
        let Some(file) = self.file(of)? else { return Ok(Lies::Other) };
        let size = file.metadata()?.len();
        if size != pair.old.size && size != pair.new.size {
            return Ok(Lies::Other);
        }
        let bytes = self.identify(file)?;
        Ok(if bytes == pair.new {
            Lies::New
        } else if bytes == pair.old {
            Lies::Old
        } else {
            Lies::Other
        })
    }

    fn sight(&mut self, names: &Names, pair: &Pair, source: Option<&Path>) -> io::Result<Sight> {
        let same = names.old == names.new;
        let old = self.lies(&names.old, pair)?;
        let new = if same { old } else { self.lies(&names.new, pair)? };
        let mut of = |name: &Option<Vec<u8>>| name.as_ref().map_or(Ok(Lies::Nothing), |name| self.lies(name, pair));
        let (backup, aside) = (of(&names.backup)?, of(&names.aside)?);
        let temporary = self.lies(&swap::temporary_name(&names.old), pair)?;
        let inode = |of: &[u8]| {
            let found = rustix::fs::statat(&self.handle, name(of), AtFlags::SYMLINK_NOFOLLOW).ok()?;
            Some((found.st_dev, found.st_ino))
        };
        let linked =
            names.backup.as_ref().is_some_and(|backup| inode(backup).is_some_and(|one| inode(&names.old) == Some(one)));
        let source = match source {
            Some(path) => match crate::probe::open(path) {
                Ok(file) => self.identify(file)? == pair.new,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            },
            None => false,
        };
        Ok(Sight { old, new, backup, temporary, aside, linked, source })
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.handle)?)
    }

    /// Renames, and overwrites nothing.
    fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (dir, from, to) = (self.handle.as_fd(), name(from), name(to));
        match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
            // A disk that cannot look and rename in one: nobody else gives files such names.
            Err(error) if is_unsupported(error) => {
                if !self.is_free(to.as_bytes())? {
                    return Err(Errno::EXIST.into());
                }
                Ok(rustix::fs::renameat(dir, from, dir, to)?)
            }
            renamed => Ok(renamed?),
        }
    }

    fn remove(&self, of: &[u8]) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.handle, name(of), AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&self, names: &Names, source: &Path, before: Before<'_>) -> io::Result<()> {
        let temporary = swap::temporary_name(&names.old);
        self.remove(&temporary)?;
        before()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let out = rustix::fs::openat(&self.handle, name(&temporary), flags, Mode::from_raw_mode(0o644))?;
        let (mut from, mut out) = (crate::probe::open(source)?, File::from(out));
        if let Err(error) = copy(&mut from, &mut out, before) {
            // On a full disk half a file would take the last room. A kill leaves it, and the next attempt removes it.
            if error.kind() == io::ErrorKind::StorageFull {
                self.remove(&temporary)?;
            }
            return Err(error);
        }
        // Whoever may read the old one may read the new one; a disk without such rights has none to give.
        if let Ok(found) = rustix::fs::statat(&self.handle, name(&names.old), AtFlags::SYMLINK_NOFOLLOW) {
            own_as(&out, found.st_uid, found.st_gid);
            let _ = rustix::fs::fchmod(&out, Mode::from_raw_mode(found.st_mode & 0o777));
        }
        out.sync_all()
    }

    fn perform(&self, step: Step, names: &Names, source: Option<&Path>, before: Before<'_>) -> io::Result<()> {
        let nameless = || io::Error::new(io::ErrorKind::InvalidInput, "a name is missing");
        let dir = self.handle.as_fd();
        let temporary = swap::temporary_name(&names.old);
        let backup = || names.backup.as_deref().ok_or_else(nameless);
        let aside = || names.aside.as_deref().ok_or_else(nameless);
        before()?;
        match step {
            Step::Write => self.write(names, source.ok_or_else(nameless)?, before)?,
            Step::Link => {
                let to = backup()?;
                match rustix::fs::linkat(dir, name(&names.old), dir, name(to), AtFlags::empty()) {
                    Err(Errno::PERM | Errno::MLINK | Errno::XDEV) => self.rename(&names.old, to)?,
                    Err(error) if is_unsupported(error) => self.rename(&names.old, to)?,
                    linked => linked?,
                }
            }
            Step::Put if names.old == names.new && !self.is_free(&names.old)? => {
                rustix::fs::renameat(dir, name(&temporary), dir, name(&names.new))?;
            }
            Step::Put => self.rename(&temporary, &names.new)?,
            Step::PutAway => self.rename(&names.old, backup()?)?,
            Step::PutBack => self.rename(backup()?, &names.old)?,
            Step::Exchange => {
                let exchange = RenameFlags::EXCHANGE;
                match rustix::fs::renameat_with(dir, name(&names.old), dir, name(backup()?), exchange) {
                    Err(error) if is_unsupported(error) => self.rename(&names.old, &temporary)?,
                    exchanged => exchanged?,
                }
            }
            Step::Unhide => self.rename(&temporary, backup()?)?,
            Step::LayAside => self.rename(&names.new, aside()?)?,
            Step::RemoveTemporary => self.remove(&temporary)?,
            Step::RemoveBackup => self.remove(backup()?)?,
            Step::RemoveOld => self.remove(&names.old)?,
            Step::Done | Step::Stop(_) => {}
        }
        before()?;
        self.sync()
    }

    fn lead(
        &mut self,
        names: &Names,
        pair: &Pair,
        source: Option<&Path>,
        next: impl Fn(Sight) -> Step,
        before: Before<'_>,
    ) -> io::Result<Outcome> {
        for _ in 0..STEPS {
            let sight = self.sight(names, pair, source)?;
            match next(sight) {
                Step::Done => return Ok(Outcome::Done),
                Step::Stop(why) => return Ok(Outcome::Stopped(why)),
                step => self.perform(step, names, source, before)?,
            }
        }
        Err(io::Error::other("the folder does not come to rest"))
    }

    /// Puts the finished file `source` in the old one's place; without it, goes on from what lies there.
    pub(super) fn swap(
        &mut self,
        want: Want,
        names: &Names,
        pair: &Pair,
        source: Option<&Path>,
        before: Before<'_>,
    ) -> io::Result<Outcome> {
        self.lead(names, pair, source, |sight| swap::next(want, sight), before)
    }

    /// Leaves the old file as it was, unless the new one is in its place already.
    pub(super) fn give_up(&mut self, want: Want, names: &Names, pair: &Pair) -> io::Result<Outcome> {
        self.lead(names, pair, None, |sight| swap::give_up(want, sight), &|| Ok(()))
    }

    /// Puts the old file back, and the new one aside.
    pub(super) fn undo(&mut self, names: &Names, pair: &Pair, before: Before<'_>) -> io::Result<Outcome> {
        let same_name = names.old == names.new;
        self.lead(names, pair, None, |sight| swap::undo(same_name, sight), before)
    }
}
