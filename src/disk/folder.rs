//! Folders and the names inside them.
//!
//! A file that strangers helped to name is only ever opened below a folder of ours: the kernel resolves the name with
//! `openat2` and refuses to leave the folder or to follow symbolic links. Where `openat2` is missing the name is walked
//! step by step with `O_NOFOLLOW`, which refuses the same.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Disk, DiskError, File};

/// An open folder. Clones are the same folder.
#[derive(Clone, Debug)]
pub struct Folder {
    fd: Arc<OwnedFd>,
    path: Arc<Path>,
}

impl Folder {
    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether files can be moved between both without being copied, as far as the numbers of their disks tell.
    pub fn is_on_the_disk_of(&self, other: &Self) -> bool {
        let number = |folder: &Self| rustix::fs::fstat(folder.fd.as_fd()).map(|found| found.st_dev).ok();
        number(self) == number(other)
    }

    /// Whether names may hold `?`, `:` and the like. FAT and exFAT refuse them, and Windows does not open what NTFS took.
    pub fn takes_any_name(&self) -> bool {
        let kind = rustix::fs::fstatfs(self.fd.as_fd()).map_or(0, |found| found.f_type);
        !WINDOWS.contains(&kind)
    }
}

/// Numbers of FAT, exFAT, NTFS3 and NTFS in statfs(2), the kernel's `fs/ntfs3/ntfs.h` and `include/uapi/linux/magic.h`.
const WINDOWS: [rustix::fs::FsWord; 4] = [0x4d44, 0x2011_bab0, 0x7366_746e, 0x5346_544e];

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Disk {
    /// Opens a folder the owner named; links on the way are the owner's affair.
    pub async fn open_folder(&self, path: &Path) -> Result<Folder, DiskError> {
        let path: Arc<Path> = path.into();
        self.errand(move || {
            let fd = rustix::fs::open(&*path, FOLDER, Mode::empty()).map_err(|errno| named(&path, errno))?;
            Ok(Folder { fd: Arc::new(fd), path })
        })
        .await
    }

    /// Opens a file of the owner's for reading, with its length. Not a link, not a pipe, not a device.
    pub async fn open_read(&self, path: &Path) -> Result<(File, u64), DiskError> {
        let path = path.to_owned();
        self.errand(move || {
            // Without NONBLOCK a pipe put in place of the file would hold the thread for good.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| named(&path, errno))?;
            regular(fd, &path)
        })
        .await
    }

    /// Opens a file inside a folder for reading and writing, with its length; makes it if need be.
    pub async fn open_or_create(&self, folder: &Folder, name: &str) -> Result<(File, u64), DiskError> {
        self.open_inside(folder, name, OFlags::RDWR | OFlags::CREATE).await
    }

    /// Makes a file inside a folder that was not there before.
    pub async fn create_new(&self, folder: &Folder, name: &str) -> Result<File, DiskError> {
        Ok(self.open_inside(folder, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL).await?.0)
    }

    /// Opens a file inside a folder for reading, with its length.
    pub async fn open_existing(&self, folder: &Folder, name: &str) -> Result<(File, u64), DiskError> {
        self.open_inside(folder, name, OFlags::RDONLY).await
    }

    async fn open_inside(&self, folder: &Folder, name: &str, flags: OFlags) -> Result<(File, u64), DiskError> {
        let (folder, name) = (folder.clone(), name.to_owned());
        self.errand(move || {
            let path = folder.path.join(&name);
            let fd = beneath(folder.fd.as_fd(), &name, flags | OFlags::NONBLOCK, &path)?;
            regular(fd, &path)
        })
        .await
    }

    /// Makes the folders of a relative path (`/` between levels, empty for none) inside a folder and opens the last.
    /// New ones are on the disk for good.
    pub async fn make_folders(&self, folder: &Folder, inside: &str) -> Result<Folder, DiskError> {
        let (folder, inside) = (folder.clone(), inside.to_owned());
        self.errand(move || {
            let mut at = folder;
            for step in steps(&inside)? {
                let path: Arc<Path> = at.path.join(step).into();
                match rustix::fs::mkdirat(at.fd.as_fd(), step, Mode::from_raw_mode(0o777)) {
                    Ok(()) => sync_folder(&at)?,
                    Err(Errno::EXIST) => {}
                    Err(errno) => return Err(named(&path, errno)),
                }
                let fd = rustix::fs::openat(at.fd.as_fd(), step, FOLDER | OFlags::NOFOLLOW, Mode::empty()).map_err(
                    |errno| if errno == Errno::NOTDIR { not_a_folder(&at, step) } else { named(&path, errno) },
                )?;
                at = Folder { fd: Arc::new(fd), path };
            }
            Ok(at)
        })
        .await
    }

    /// Gives a file its final name. Never overwrites. Both folders are on the disk for good afterwards.
    ///
    /// # Errors
    /// `Taken`, `Missing` or `OtherFileSystem` leave everything as it was.
    pub async fn rename(&self, from: &Folder, old: &str, to: &Folder, new: &str) -> Result<(), DiskError> {
        let (from, old, to, new) = (from.clone(), old.to_owned(), to.clone(), new.to_owned());
        self.errand(move || {
            let (old, new) = (single(&old)?, single(&new)?);
            move_without_overwriting(&from, old, &to, new)?;
            sync_folder(&to)?;
            sync_folder(&from)
        })
        .await
    }

    /// Removes a file inside a folder; one that is not there is fine.
    pub async fn remove(&self, folder: &Folder, name: &str) -> Result<(), DiskError> {
        let (folder, name) = (folder.clone(), name.to_owned());
        self.errand(move || match rustix::fs::unlinkat(folder.fd.as_fd(), single(&name)?, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(named(&folder.path.join(&name), errno)),
        })
        .await
    }

    /// Makes the names in a folder durable.
    pub async fn sync_folder(&self, folder: &Folder) -> Result<(), DiskError> {
        let folder = folder.clone();
        self.errand(move || sync_folder(&folder)).await
    }

    /// Makes everything durable that lies on the disk of this folder; exFAT and NTFS count as put away in order then.
    pub async fn sync_file_system(&self, folder: &Folder) -> Result<(), DiskError> {
        let folder = folder.clone();
        let sync = move || {
            let refused = |errno| DiskError::new(&folder.path.display().to_string(), errno);
            rustix::fs::syncfs(folder.fd.as_fd()).map_err(refused)
        };
        super::sent(&self.syncs, sync).await
    }

    /// Bytes that an ordinary user may still write where this folder lies.
    pub async fn free_space(&self, folder: &Folder) -> Result<u64, DiskError> {
        let folder = folder.clone();
        self.errand(move || {
            let space = rustix::fs::fstatvfs(folder.fd.as_fd()).map_err(|errno| named(&folder.path, errno))?;
            Ok(space.f_bavail.saturating_mul(space.f_frsize))
        })
        .await
    }
}

fn move_without_overwriting(from: &Folder, old: &str, to: &Folder, new: &str) -> Result<(), DiskError> {
    let (source, target) = (from.path.join(old), to.path.join(new));
    match rustix::fs::renameat_with(from.fd.as_fd(), old, to.fd.as_fd(), new, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(DiskError::Taken(target)),
        Err(Errno::NOENT) => Err(DiskError::Missing(source)),
        Err(Errno::XDEV) => Err(DiskError::OtherFileSystem(target)),
        // A file system that does not know the flag (some network and FUSE ones): an empty file of our own claims the
        // name, then the rename replaces it.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            let claim = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let claimed = rustix::fs::openat(to.fd.as_fd(), new, claim, Mode::from_raw_mode(0o666));
            claimed.map_err(|errno| {
                if errno == Errno::EXIST { DiskError::Taken(target.clone()) } else { named(&target, errno) }
            })?;
            rustix::fs::renameat(from.fd.as_fd(), old, to.fd.as_fd(), new).map_err(|errno| {
                // The claim must not stay behind as an empty file; if it does, it does no harm.
                let _ = rustix::fs::unlinkat(to.fd.as_fd(), new, AtFlags::empty());
                match errno {
                    Errno::NOENT => DiskError::Missing(source),
                    Errno::XDEV => DiskError::OtherFileSystem(target),
                    other => named(&source, other),
                }
            })
        }
        Err(errno) => Err(named(&target, errno)),
    }
}

fn sync_folder(folder: &Folder) -> Result<(), DiskError> {
    match rustix::fs::fsync(folder.fd.as_fd()) {
        // File systems without durable names (some FUSE ones) say so this way; there is nothing to wait for then.
        Ok(()) | Err(Errno::INVAL | Errno::NOSYS) => Ok(()),
        // Not `named`: ENODEV of a disk that went away says nothing of the folder.
        Err(errno) => Err(DiskError::new(&folder.path.display().to_string(), errno)),
    }
}

/// Opens a relative path below a folder, by the kernel's own containment where it has it.
fn beneath(folder: BorrowedFd<'_>, name: &str, flags: OFlags, shown: &Path) -> Result<OwnedFd, DiskError> {
    steps(name)?.last().ok_or_else(|| DiskError::UnsafeName(name.into()))?;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o666) } else { Mode::empty() };
    let contained = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(folder, name, flags, mode, contained) {
        // EPERM is how container sandboxes refuse what they do not know.
        Err(Errno::NOSYS | Errno::PERM) => walk(folder, name, flags, mode, shown),
        Err(errno) => Err(named(shown, errno)),
        Ok(fd) => Ok(fd),
    }
}

/// The same without `openat2`.
fn walk(folder: BorrowedFd<'_>, name: &str, flags: OFlags, mode: Mode, shown: &Path) -> Result<OwnedFd, DiskError> {
    let steps = steps(name)?;
    let (last, folders) = steps.split_last().ok_or_else(|| DiskError::UnsafeName(name.into()))?;
    let mut held: Option<OwnedFd> = None;
    for step in folders {
        let at = held.as_ref().map_or(folder, AsFd::as_fd);
        let next = rustix::fs::openat(at, *step, FOLDER | OFlags::NOFOLLOW, Mode::empty());
        held = Some(next.map_err(|errno| named(shown, errno))?);
    }
    let at = held.as_ref().map_or(folder, AsFd::as_fd);
    rustix::fs::openat(at, *last, flags, mode).map_err(|errno| named(shown, errno))
}

/// The levels of a relative path; nothing else is let through.
fn steps(path: &str) -> Result<Vec<&str>, DiskError> {
    let unsafe_name = || DiskError::UnsafeName(PathBuf::from(path));
    if path.contains('\0') {
        return Err(unsafe_name());
    }
    Path::new(path)
        .components()
        .map(|component| match component {
            Component::Normal(step) => step.to_str().ok_or_else(unsafe_name),
            _ => Err(unsafe_name()),
        })
        .collect()
}

/// A name without levels.
fn single(name: &str) -> Result<&str, DiskError> {
    match steps(name)?.as_slice() {
        [only] if *only == name => Ok(name),
        _ => Err(DiskError::UnsafeName(name.into())),
    }
}

fn regular(fd: OwnedFd, path: &Path) -> Result<(File, u64), DiskError> {
    let stat = rustix::fs::fstat(&fd).map_err(|errno| named(path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(DiskError::NotAFile(path.to_owned()));
    }
    // NONBLOCK has done its work. Left on, io_uring would refuse with EAGAIN on file systems that can only block.
    rustix::fs::fcntl_setfl(&fd, OFlags::empty()).map_err(|errno| named(path, errno))?;
    Ok((File { fd: Arc::new(fd) }, u64::try_from(stat.st_size).unwrap_or(0)))
}

fn not_a_folder(at: &Folder, step: &str) -> DiskError {
    let path = at.path.join(step);
    match rustix::fs::statat(at.fd.as_fd(), step, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => DiskError::SymbolicLink(path),
        _ => DiskError::Taken(path),
    }
}

fn named(path: &Path, errno: Errno) -> DiskError {
    match errno {
        Errno::NOENT => DiskError::Missing(path.to_owned()),
        Errno::EXIST => DiskError::Taken(path.to_owned()),
        Errno::LOOP => DiskError::SymbolicLink(path.to_owned()),
        Errno::XDEV => DiskError::UnsafeName(path.to_owned()),
        Errno::ISDIR | Errno::NXIO | Errno::NODEV => DiskError::NotAFile(path.to_owned()),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => {
            DiskError::Denied(path.to_owned(), std::io::Error::from(errno).to_string())
        }
        other => DiskError::new(&path.display().to_string(), other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_leave_their_folder() {
        for bad in ["..", "a/../b", "/etc/passwd", "a/../../b", "a\0b", "./a/.."] {
            assert!(steps(bad).is_err(), "{bad:?}");
        }
        for bad in ["", ".", "a/b", "a/", "..", "/a", "./a"] {
            assert!(single(bad).is_err(), "{bad:?}");
        }
        assert_eq!(steps("a/b/c"), Ok(vec!["a", "b", "c"]));
        assert_eq!(steps(""), Ok(vec![]));
        assert_eq!(single("a b"), Ok("a b"));
    }

    #[test]
    fn walking_refuses_what_the_kernel_refuses() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("inside")).unwrap();
        std::fs::write(scratch.path().join("inside/file"), b"x").unwrap();
        std::os::unix::fs::symlink("inside", scratch.path().join("folder-link")).unwrap();
        std::os::unix::fs::symlink("inside/file", scratch.path().join("link")).unwrap();
        let root = rustix::fs::open(scratch.path(), FOLDER, Mode::empty()).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for open in [
            |root: BorrowedFd<'_>, name: &str, flags| walk(root, name, flags, Mode::empty(), Path::new(name)),
            |root: BorrowedFd<'_>, name: &str, flags| beneath(root, name, flags, Path::new(name)),
        ] {
            assert!(open(root.as_fd(), "inside/file", flags).is_ok());
            for bad in ["link", "folder-link/file", "../x", "inside/../../x", "missing", ""] {
                assert!(open(root.as_fd(), bad, flags).is_err(), "{bad:?}");
            }
        }
    }
}
