//! What a walk does with each file it meets, and how far a scan has come.
//!
//! A file's row is its place in the scan: written together with everything found out about it, so a scan that was cut
//! short walks again and passes over what has a row. What remains to be done for recordings and releases is a table of
//! its own, emptied entry by entry. No other cursor is kept.

use crate::model::health::{FileOutcome, FileRow, Progress, ScanRequest};
use crate::model::id::ScanId;

/// What `stat` says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Bytes.
    pub size: u64,
    /// Last change, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Device and number on it.
    pub inode: (u64, u64),
}

impl Seen {
    /// Whether it is, as far as `stat` can tell, the file of this row.
    pub fn is(&self, row: &FileRow) -> bool {
        (self.size, self.mtime_ns) == (row.size, row.mtime_ns)
    }
}

/// What to do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it was dealt with.
    Pass,
    /// It is the file of another row, renamed: only its path is new.
    Rename,
    /// Open and measure it.
    Measure,
}

/// Decides about one file. `known` is the row of its path; `twin` the row of another path with the same device and
/// number, if the file at that path is gone. Renames are believed only for files that were measured.
pub fn step(seen: &Seen, known: Option<&FileRow>, twin: Option<&FileRow>, scan: ScanId, remeasure: bool) -> Step {
    // A scan that measures everything anew still finishes what it began before a restart.
    if let Some(row) = known
        && seen.is(row)
        && (!remeasure || row.scan == scan)
    {
        return Step::Pass;
    }
    let renamed = twin
        .is_some_and(|row| seen.is(row) && seen.inode == row.inode && matches!(row.outcome, FileOutcome::Measured(_)));
    if renamed && !remeasure { Step::Rename } else { Step::Measure }
}

/// Whether files that a scan did not meet may be forgotten. An empty mount point is a disk that is not plugged in, not
/// a collection that was thrown away.
pub fn may_forget(met: u64, known: u64) -> bool {
    met > 0 || known == 0
}

/// Whether a file's name is of a wanted kind.
pub fn is_wanted(request: &ScanRequest, name: &[u8]) -> bool {
    request.extensions.iter().any(|wanted| {
        let wanted = wanted.as_bytes();
        name.len() > wanted.len() && name[name.len() - wanted.len()..].eq_ignore_ascii_case(wanted)
    })
}

/// Time a scan may still take at its pace so far, milliseconds; `None` before anything is known.
pub fn time_left_ms(progress: &Progress) -> Option<u64> {
    if !progress.walked || progress.bytes_done == 0 {
        return None;
    }
    let left = progress.bytes_total.saturating_sub(progress.bytes_done);
    let estimate = u128::from(progress.elapsed_ms) * u128::from(left) / u128::from(progress.bytes_done);
    u64::try_from(estimate).ok()
}
