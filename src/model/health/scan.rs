//! Scans of the collection, and what is known of files without opening them.

use serde::{Deserialize, Serialize};

use super::LocalPath;
use crate::model::id::{ContentHash, ScanId};
use crate::model::time::UnixMs;

/// Where a scan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScanStatus {
    /// Under way, or cut short by a power cut and taken up again at the next start.
    Running,
    /// Done.
    Completed,
    /// It could not go on.
    Failed,
    /// The owner stopped it.
    Cancelled,
}

impl ScanStatus {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a scan is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanRequest {
    /// Files or folders.
    pub paths: Vec<LocalPath>,
    /// Folders below them too.
    pub include_subdirectories: bool,
    /// Endings with their dot, lower case.
    pub extensions: Vec<String>,
    /// Measure unchanged files again.
    pub remeasure: bool,
    /// Ask no catalogue on the net.
    pub offline: bool,
}

/// Endings that are looked at unless told otherwise (SPEC-FACTS 5.2, widened by what the decoders take).
pub const EXTENSIONS: [&str; 12] =
    [".flac", ".mp3", ".m4a", ".mp4", ".ogg", ".oga", ".opus", ".wav", ".aac", ".aif", ".aiff", ".aifc"];

impl ScanRequest {
    /// Everything below these paths, unchanged files passed over.
    pub fn of(paths: Vec<LocalPath>) -> Self {
        let extensions = EXTENSIONS.map(str::to_owned).to_vec();
        Self { paths, include_subdirectories: true, extensions, remeasure: false, offline: false }
    }
}

/// One scan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scan {
    /// Its number.
    pub id: ScanId,
    /// What it is to do.
    pub request: ScanRequest,
    /// Where it stands.
    pub status: ScanStatus,
    /// When it began.
    pub started_at: UnixMs,
    /// When it ended.
    pub completed_at: Option<UnixMs>,
    /// Why it failed, or what it had to leave out.
    pub error: Option<String>,
    /// What it has done.
    pub counts: ScanCounts,
}

/// What a scan has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanCounts {
    /// Files looked at, unchanged ones included.
    pub files: u64,
    /// Of these, measured.
    pub measured: u64,
    /// Of these, in a form that is not known.
    pub unsupported: u64,
    /// Of these, files that were renamed and known by their bytes.
    pub moved: u64,
    /// Files that are no longer there.
    pub gone: u64,
    /// Bytes of the measured ones.
    pub bytes: u64,
    /// Milliseconds of audio in them.
    pub audio_ms: u64,
    /// Issues found or seen again.
    pub issues: u64,
}

/// A scan as it runs, for progress bars and the page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// The running scan; `None`: none runs.
    pub scan: Option<ScanId>,
    /// What it is at.
    pub phase: &'static str,
    /// What it has done.
    pub counts: ScanCounts,
    /// Files it will look at, as far as the walk has come.
    pub files_total: u64,
    /// Their bytes.
    pub bytes_total: u64,
    /// Bytes of the files that are dealt with, unchanged ones included.
    pub bytes_done: u64,
    /// The walk has come to its end, so the totals are final.
    pub walked: bool,
    /// The last file dealt with.
    pub last: LocalPath,
    /// Milliseconds since it began.
    pub elapsed_ms: u64,
    /// Milliseconds it may still take, at the pace so far.
    pub left_ms: Option<u64>,
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileOutcome {
    /// It was measured: its content.
    Measured(ContentHash),
    /// It could not be read or decoded at all; why.
    Broken(String),
    /// Its form is not known; why.
    Unsupported(String),
}

/// What is known of one file without opening it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRow {
    /// Where it lies.
    pub path: LocalPath,
    /// Bytes.
    pub size: u64,
    /// Last change, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Device and number of the file on it; a renamed file keeps them.
    pub inode: (u64, u64),
    /// What became of it.
    pub outcome: FileOutcome,
    /// The scan that measured it.
    pub scan: ScanId,
}
