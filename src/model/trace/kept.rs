//! What is kept of a job besides its lines: few numbers, exact even where lines were left out.

use serde::{Deserialize, Serialize};

use crate::model::id::ContentHash;
use crate::model::swarm::Source;
use crate::model::time::UnixMs;

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Microseconds since it began.
    pub at_us: u64,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// What one source did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTally {
    /// Who; `None` stands for all that found no place of their own.
    pub source: Option<Source>,
    /// It is there.
    pub connected: bool,
    /// Bytes that were verified first by it.
    pub bytes: u64,
    /// Runs asked for.
    pub requested: u64,
    /// Of these, runs that had failed elsewhere.
    pub retries: u64,
    /// Runs that came.
    pub ok: u64,
    /// Runs whose lease ended.
    pub timed_out: u64,
    /// Runs that failed.
    pub failed: u64,
    /// Runs with a bad piece.
    pub corrupted: u64,
    /// Runs taken back.
    pub cancelled: u64,
    /// Pieces proven bad.
    pub bad_pieces: u64,
    /// Sum of what was measured from a request to its first byte, microseconds.
    pub rtt_us: u64,
    /// How often that was measured.
    pub rtts: u64,
    /// Microseconds in which at least one run of it was under way.
    pub active_us: u64,
    /// Runs under way.
    pub open: u64,
    /// Since when, microseconds since the job began.
    pub open_since_us: u64,
    /// Why it went, or gets no more.
    pub gone: Option<String>,
}

/// A part of the file, for a picture of who delivered what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Bytes of it that were seen coming.
    pub bytes: u64,
    /// Who sent the last of them: place in [`Tally::sources`].
    pub source: Option<u16>,
    /// A piece of it came bad.
    pub bad: bool,
}

/// Sums over all lines of a job, those left out included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The file, if its hash is known.
    pub content: Option<ContentHash>,
    /// Its length, bytes; 0 if not known.
    pub size: u64,
    /// Bytes that were there before.
    pub there: u64,
    /// How often it began or went on.
    pub starts: u64,
    /// How it ended; `None` while it runs or waits.
    pub ended: Option<Ended>,
    /// Whether the whole file held.
    pub verified: Option<bool>,
    /// Sources in the order in which they came; at most `limits::TRACE_SOURCES`, and one for all others.
    pub sources: Vec<SourceTally>,
    /// Times work was taken from a source that became slow.
    pub rebalances: u64,
    /// Parts of the file, of equal length but for the last; at most `limits::TRACE_CELLS`.
    pub cells: Vec<Cell>,
}

/// A job as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceHead {
    /// Its name: a content hash, or a transfer's id.
    pub job: String,
    /// What it fetches, for people.
    pub title: String,
    /// When it began first.
    pub began_at: UnixMs,
    /// Its last line, microseconds since then.
    pub last_us: u64,
    /// Lines kept. They are numbered from 0.
    pub lines: u64,
    /// Bytes of these lines.
    pub bytes: u64,
    /// Lines that were not kept.
    pub left_out: u64,
    /// Sums.
    pub tally: Tally,
}

impl TraceHead {
    /// When its last line was written.
    pub fn last_at(&self) -> UnixMs {
        UnixMs(self.began_at.0.saturating_add(self.last_us / 1_000))
    }
}
