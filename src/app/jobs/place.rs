//! Files on the owner's disk: where an album may go, and how a finished file gets there without anything being
//! overwritten or lost.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::engine::soulseek::names;

/// Names tried for one file.
const NAMES: u32 = 100;

/// Why an album may not go somewhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum TargetError {
    /// Nothing is left of it.
    #[error("`{0}` names no folder")]
    Empty(String),
    /// It leads out.
    #[error("`{0}` is outside of the downloads folder and the shared folders")]
    Outside(String),
}

/// The folder of an album: below the downloads folder, or a whole path inside one of the allowed folders. Links in what
/// exists of it are followed before it is compared.
pub(super) fn target(wanted: &str, downloads: &Path, roots: &[PathBuf]) -> Result<PathBuf, TargetError> {
    let given = Path::new(wanted);
    let climbs = given.components().any(|part| matches!(part, Component::ParentDir));
    let unfit = wanted.chars().any(char::is_control) || wanted.len() > crate::model::limits::PATH_LEN;
    if climbs || unfit {
        return Err(TargetError::Outside(wanted.chars().take(200).collect()));
    }
    let folder = if given.is_absolute() {
        given.to_owned()
    } else {
        let safe = names::safe_destination(wanted).ok_or_else(|| TargetError::Empty(wanted.to_owned()))?;
        downloads.join(safe)
    };
    let real = real(&folder);
    let inside = |root: &Path| real.starts_with(root.canonicalize().unwrap_or_else(|_| root.to_owned()));
    if std::iter::once(downloads).chain(roots.iter().map(PathBuf::as_path)).any(inside) {
        Ok(folder)
    } else {
        Err(TargetError::Outside(wanted.to_owned()))
    }
}

/// The path with the links in its existing part followed.
fn real(path: &Path) -> PathBuf {
    let mut rest = Vec::new();
    let mut head = path;
    loop {
        if let Ok(mut found) = head.canonicalize() {
            found.extend(rest.iter().rev());
            return found;
        }
        match (head.file_name(), head.parent()) {
            (Some(name), Some(parent)) => {
                rest.push(name.to_owned());
                head = parent;
            }
            _ => return path.to_owned(),
        }
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AlreadyExists
}

fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(io::Error::from)
}

/// `Name (2).ext`.
fn numbered(name: &str, number: u32) -> String {
    match (number, name.rsplit_once('.')) {
        (0 | 1, _) => name.to_owned(),
        (_, Some((stem, extension))) if !stem.is_empty() => format!("{stem} ({number}).{extension}"),
        _ => format!("{name} ({number})"),
    }
}

/// Moves a finished file into a folder, which is made; the name gets a number where it is taken. Durable when it
/// returns. A file that is gone and lies there already, with this size, was moved before a crash.
pub(super) fn place(from: &Path, folder: &Path, name: &str, size: u64) -> io::Result<String> {
    fs::create_dir_all(folder)?;
    let moved =
        |name: &str| fs::symlink_metadata(folder.join(name)).is_ok_and(|found| found.is_file() && found.len() == size);
    if fs::symlink_metadata(from).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        let found = (1..NAMES).map(|number| numbered(name, number)).find(|name| moved(name));
        return found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the finished file is gone"));
    }
    File::open(from)?.sync_all()?;
    for number in 1..NAMES {
        let name = numbered(name, number);
        let to = folder.join(&name);
        let renamed = match rename_new(from, &to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy(from, folder, &to),
            renamed => renamed,
        };
        match renamed {
            Ok(()) => {
                sync_folder(folder)?;
                if let Some(parent) = folder.parent() {
                    sync_folder(parent)?;
                }
                return Ok(name);
            }
            Err(error) if is_taken(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "its name is taken"))
}

/// Onto another disk: beside its place first, so that nobody sees half a file.
fn copy(from: &Path, folder: &Path, to: &Path) -> io::Result<()> {
    let part = folder.join(format!(".{}.part", to.file_name().map(|n| n.to_string_lossy()).unwrap_or_default()));
    let copied = (|| {
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).open(&part)?;
        io::copy(&mut File::open(from)?, &mut out)?;
        out.sync_all()?;
        rename_new(&part, to)
    })();
    if copied.is_err() {
        let _ = fs::remove_file(&part);
    }
    copied?;
    fs::remove_file(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn albums_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (downloads, music) = (dir.path().join("downloads"), dir.path().join("music"));
        for folder in [&downloads, &music] {
            fs::create_dir_all(folder).unwrap();
        }
        std::os::unix::fs::symlink("/", downloads.join("out")).unwrap();
        let roots = [music.clone()];
        let of = |wanted: &str| target(wanted, &downloads, &roots);
        assert_eq!(of("Artist/Album").unwrap(), downloads.join("Artist/Album"));
        assert_eq!(of(music.join("A").to_str().unwrap()).unwrap(), music.join("A"));
        for bad in ["..", "a/../../b", "/etc", "out/etc", "", "/", "a\0b", dir.path().to_str().unwrap()] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nothing_is_overwritten_and_a_second_try_finds_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let album = dir.path().join("a/b");
        fs::write(dir.path().join("1"), b"one").unwrap();
        fs::write(dir.path().join("2"), b"two!").unwrap();
        assert_eq!(place(&dir.path().join("1"), &album, "x.flac", 3).unwrap(), "x.flac");
        assert_eq!(place(&dir.path().join("2"), &album, "x.flac", 4).unwrap(), "x (2).flac");
        assert_eq!(place(&dir.path().join("2"), &album, "x.flac", 4).unwrap(), "x (2).flac", "after a crash");
        assert_eq!(fs::read(album.join("x.flac")).unwrap(), b"one");
        assert!(place(&dir.path().join("3"), &album, "y.flac", 4).is_err());
    }
}
