//! What a scripted user saw of those who fetch from it.

use serde::{Deserialize, Serialize};

/// Runs told one by one; later ones are only counted.
const RUNS: usize = 1_000;

/// What a scripted user did so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its name.
    pub name: String,
    /// Searches answered.
    pub searches: u64,
    /// Times the file was asked for (`QueueUpload`), repeated ones included.
    pub asked: u64,
    /// Transfers agreed to by both sides.
    pub transfers: u64,
    /// Bytes of the file given to the network, all runs together.
    pub sent: u64,
    /// Pieces of 64 KiB of which a bit was flipped.
    pub corrupted: u64,
    /// File connections on which an offset was asked, oldest first; the first 1,000.
    pub runs: Vec<Run>,
}

/// One file connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Who fetched.
    pub user: String,
    /// From where.
    pub offset: u64,
    /// Bytes sent from there: the run is contiguous.
    pub bytes: u64,
    /// How it ended; `None` while it lasts.
    pub end: Option<RunEnd>,
}

/// How a file connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// All was sent to the end of the file, and the downloader closed.
    Complete,
    /// All was sent, and the downloader did not close in time.
    LeftOpen,
    /// The downloader closed before the end.
    Closed,
    /// The script fell silent; then the downloader closed.
    Silent,
    /// The script refuses this offset, or the file is shorter.
    Denied,
    /// The script left the network.
    Left,
}

impl PeerReport {
    /// A run begins; the answer is its place in the list.
    pub(super) fn begin(&mut self, user: &str, offset: u64) -> Option<usize> {
        if self.runs.len() >= RUNS {
            return None;
        }
        self.runs.push(Run { user: user.to_owned(), offset, bytes: 0, end: None });
        Some(self.runs.len() - 1)
    }

    /// Bytes went out.
    pub(super) fn sent(&mut self, run: Option<usize>, bytes: u64) {
        self.sent += bytes;
        if let Some(run) = run.and_then(|at| self.runs.get_mut(at)) {
            run.bytes += bytes;
        }
    }

    /// A run is over; the first end counts.
    pub(super) fn end(&mut self, run: Option<usize>, end: RunEnd) {
        if let Some(run) = run.and_then(|at| self.runs.get_mut(at)) {
            run.end.get_or_insert(end);
        }
    }
}
