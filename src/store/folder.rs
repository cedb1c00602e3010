//! The store's folder: its lock, the file systems it may lie on, and the sync of folders.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, fstatvfs, statfs};

use super::StoreError;

/// The file whose lock says who owns the store.
pub(super) const LOCK: &str = "lock";

/// Makes the folder if it is absent, for the owner only.
pub(super) fn make(dir: &Path) -> Result<(), StoreError> {
    let made = !dir.exists();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(StoreError::io("make the folder", dir))?;
    if made {
        sync(parent(dir))?;
    }
    Ok(())
}

/// The folder that holds this path.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes names made, renamed or removed in this folder survive a power cut.
pub(super) fn sync(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync the folder", dir))
}

/// The lock of a folder; given back when dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    /// Closing would not do: a process that is just being started holds a copy of the open file until its `exec`, and
    /// the lock with it (`flock(2)`). It ends for all copies when one is told so.
    fn drop(&mut self) {
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "the store's lock could not be given back");
        }
    }
}

/// Takes the lock, or says that somebody else has it.
pub(super) fn lock(dir: &Path) -> Result<Lock, StoreError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(StoreError::io("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked(dir.to_owned())),
        Err(error) => Err(StoreError::Io { what: "lock", path, source: error.into() }),
    }
}

/// Refuses network file systems.
pub(super) fn check_file_system(dir: &Path) -> Result<(), StoreError> {
    let path = dir.canonicalize().map_err(StoreError::io("find", dir))?;
    let stat = statfs(&path).map_err(|error| StoreError::io("look at the file system of", dir)(error.into()))?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::unnecessary_cast,
        reason = "the magic is 32 bits wide, in a field of another width or sign on each target"
    )]
    let magic = stat.f_type as u32;
    match network_kind(magic, mounted_as(&mounts, &path).as_deref()) {
        Some(kind) => Err(StoreError::NetworkFileSystem { path: dir.to_owned(), kind }),
        None => Ok(()),
    }
}

/// Whether at least this many bytes are free there.
pub(super) fn has_room(dir: &Path, bytes: u64) -> bool {
    let free = File::open(dir).ok().and_then(|dir| fstatvfs(dir).ok());
    free.is_none_or(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) >= bytes)
}

/// Magic numbers of statfs(2), from linux/magic.h and the file systems' own headers.
const NETWORK: [(u32, &str); 9] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x7375_7245, "Coda"),
    (0x564c, "NCP"),
    (0x0102_1997, "9P"),
];
const FUSE: u32 = 0x6573_5546;

/// FUSE programs that reach over a network; local ones (NTFS, exFAT, mergerfs) are let in.
const NETWORK_FUSE: [&str; 14] = [
    "sshfs",
    "rclone",
    "s3fs",
    "goofys",
    "gcsfuse",
    "glusterfs",
    "ceph",
    "curlftpfs",
    "davfs",
    "juicefs",
    "smbnetfs",
    "nfs",
    "afuse",
    "mount-s3",
];

fn network_kind(magic: u32, mounted_as: Option<&str>) -> Option<String> {
    if magic == FUSE {
        let program = mounted_as.map(|kind| kind.strip_prefix("fuse.").unwrap_or(kind))?;
        return NETWORK_FUSE.iter().any(|name| program.contains(name)).then(|| program.to_owned());
    }
    NETWORK.iter().find(|(number, _)| *number == magic).map(|(_, name)| (*name).to_owned())
}

/// The file-system type of the mount a path lies on, from mountinfo: the longest mount point that is a prefix.
fn mounted_as(mounts: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, String)> = None;
    for line in mounts.lines() {
        let mut halves = line.splitn(2, " - ");
        let (Some(mount), Some(kind)) = (halves.next(), halves.next()) else { continue };
        let Some(point) = mount.split(' ').nth(4).map(unescape) else { continue };
        let Some(kind) = kind.split(' ').next() else { continue };
        let length = point.as_os_str().len();
        if path.starts_with(&point) && best.as_ref().is_none_or(|(longest, _)| length >= *longest) {
            best = Some((length, kind.to_owned()));
        }
    }
    best.map(|(_, kind)| kind)
}

/// mountinfo writes blanks in names as octal.
fn unescape(name: &str) -> PathBuf {
    PathBuf::from(name.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known() {
        const EXT4: u32 = 0xef53;
        const TMPFS: u32 = 0x0102_1994;
        for (magic, name) in NETWORK {
            assert_eq!(network_kind(magic, None).as_deref(), Some(name));
        }
        assert_eq!(network_kind(EXT4, Some("ext4")), None);
        assert_eq!(network_kind(TMPFS, Some("tmpfs")), None);
        assert_eq!(network_kind(FUSE, Some("fuse.sshfs")).as_deref(), Some("sshfs"));
        assert_eq!(network_kind(FUSE, Some("fuseblk")), None);
        assert_eq!(network_kind(FUSE, Some("fuse.mergerfs")), None);
    }

    #[test]
    fn a_copy_of_the_open_file_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        // As a child has it between `fork` and `exec`.
        let _copy = held.0.try_clone().unwrap();
        assert!(matches!(lock(dir.path()), Err(StoreError::Locked(_))));
        drop(held);
        lock(dir.path()).unwrap();
    }

    #[test]
    fn the_mount_with_the_longest_name_counts() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      30 22 0:40 / /mnt/my\\040nas rw shared:1 - fuse.sshfs host: rw\n\
                      31 22 0:41 / /mnt rw - tmpfs none rw\n";
        assert_eq!(mounted_as(mounts, Path::new("/mnt/my nas/store")).as_deref(), Some("fuse.sshfs"));
        assert_eq!(mounted_as(mounts, Path::new("/mnt/other")).as_deref(), Some("tmpfs"));
        assert_eq!(mounted_as(mounts, Path::new("/var/lib")).as_deref(), Some("ext4"));
    }

    #[test]
    fn a_local_folder_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        check_file_system(dir.path()).unwrap();
    }
}
