//! Finds the files of a scan, in order. The rules are those of shares: nothing the owner left out, nothing of other
//! programs, and no links, for what a link inside the collection leads to is met by itself, and what lies outside is
//! not part of it.

use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::DoctorError;
use crate::app::sharing::rules::{Rules, skips_name};
use crate::engine::library::scan::{Seen, is_wanted};
use crate::model::health::{LocalPath, ScanRequest};
use crate::model::limits;

/// A file of the walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// Where it lies, links resolved up to the folder the walk began in.
    pub path: LocalPath,
    /// What `stat` says.
    pub seen: Seen,
    /// How many names the file has on its disk.
    pub names: u64,
}

/// The path of these bytes.
pub fn to_path(path: &LocalPath) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(path.0.clone()))
}

/// A path's bytes.
pub fn from_path(path: &Path) -> LocalPath {
    LocalPath(path.as_os_str().as_bytes().to_vec())
}

/// What `stat` says of a file; `None` when it is no regular file.
pub fn seen(metadata: &fs::Metadata) -> Option<Seen> {
    metadata.is_file().then(|| Seen {
        size: metadata.len(),
        mtime_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
        inode: (metadata.dev(), metadata.ino()),
    })
}

fn met(path: &Path, metadata: &fs::Metadata) -> Option<Met> {
    Some(Met { path: from_path(path), seen: seen(metadata)?, names: metadata.nlink() })
}

/// Begins of a scan with links resolved, so that a file has one name however the scan was asked for.
pub fn roots(request: &ScanRequest) -> Result<Vec<PathBuf>, DoctorError> {
    let mut roots = Vec::new();
    for path in request.paths.iter().take(limits::SCAN_PATHS) {
        let cannot = |error| DoctorError::Unreadable { path: path.to_string(), error };
        let root = to_path(path).canonicalize().map_err(cannot)?;
        if root.is_dir() {
            fs::read_dir(&root).map_err(cannot)?;
        }
        roots.push(root);
    }
    roots.sort();
    // A folder below another one of the list is part of it.
    let all = roots.clone();
    roots.retain(|root| {
        !request.include_subdirectories || !all.iter().any(|other| other != root && root.starts_with(other))
    });
    roots.dedup();
    Ok(roots)
}

/// Tells every wanted file to `each`, until that answers false. What cannot be read is told to `problem`.
pub fn files(
    root: &Path,
    request: &ScanRequest,
    rules: &Rules,
    problem: &mut dyn FnMut(String),
    each: &mut dyn FnMut(Met) -> bool,
) {
    if root.is_file() {
        // Named by itself, so wanted whatever it is called.
        if let Some(met) = fs::metadata(root).ok().and_then(|metadata| met(root, &metadata)) {
            each(met);
        }
        return;
    }
    let depth = if request.include_subdirectories { usize::MAX } else { 1 };
    let walk = WalkDir::new(root).follow_links(false).max_depth(depth).sort_by_file_name().into_iter();
    let walk = walk.filter_entry(|entry| {
        let is_folder = entry.file_type().is_dir();
        let left_out = skips_name(entry.file_name().as_bytes(), is_folder) || rules.exclude(entry.path());
        entry.depth() == 0 || !left_out
    });
    for entry in walk {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                // Something that vanished while we walked is no problem.
                if error.io_error().is_none_or(|error| error.kind() != std::io::ErrorKind::NotFound) {
                    problem(error.to_string());
                }
                continue;
            }
        };
        if !entry.file_type().is_file() || !is_wanted(request, entry.file_name().as_bytes()) {
            continue;
        }
        if rules.filter(entry.path()) || entry.path().as_os_str().len() > limits::PATH_LEN {
            continue;
        }
        let Some(met) = entry.metadata().ok().and_then(|metadata| met(entry.path(), &metadata)) else { continue };
        if !each(met) {
            return;
        }
    }
}
