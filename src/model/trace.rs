//! What is written down about a job: who was asked for what, what came, what was judged (SPEC-FACTS 15).

mod kept;
mod view;

use serde::{Deserialize, Serialize};

pub use self::kept::{Cell, Ended, SourceTally, Tally, TraceHead};
pub use self::view::{SourceShare, TraceAnswer, TraceCell, TraceLine, TraceRequest, TraceSummary, TraceView};
use super::id::{ContentHash, TransferId};
use super::rescue::{Guardrail, Manner, Reason};
use super::swarm::{CancelReason, Priority, Source};

/// How a run of bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChunkResult {
    /// It came, and was right.
    Ok,
    /// Its lease ended.
    Timeout,
    /// The source failed, refused or went.
    Error,
    /// A piece of it was proven bad.
    Corruption,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TraceKind {
    /// The job began, or goes on after a restart.
    JobStart {
        /// The file, if its hash is known.
        content: Option<ContentHash>,
        /// Bytes; 0 if not known.
        size: u64,
        /// Bytes that are there already.
        there: u64,
    },
    /// The job is over; words for why it failed, nothing if it did not.
    JobComplete(Option<String>),
    /// A source that may have the file was met.
    PeerDiscovered(Source),
    /// It has it.
    PeerConnected(Source),
    /// It is gone, or gets no more; why.
    PeerDisconnected(Source, String),
    /// A run of bytes was asked for.
    ChunkRequested {
        /// Names the run within the job.
        run: u64,
        /// Of whom.
        source: Source,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// And why.
        priority: Priority,
        /// What the scheduler thinks the source costs, if it knows (SPEC-FACTS 6.2).
        cost: Option<f64>,
        /// Whether it was asked of another source too.
        endgame: bool,
    },
    /// It ended.
    ChunkEnded {
        /// Which.
        run: u64,
        /// From whom.
        source: Source,
        /// First byte.
        offset: u64,
        /// Bytes that were verified first by it.
        bytes: u64,
        /// How.
        result: ChunkResult,
        /// From the request to the first byte, microseconds, if one came.
        rtt_us: Option<u64>,
        /// From the request to the end, microseconds.
        took_us: u64,
    },
    /// It was taken back by us. Written before it was told where the run began; now it is
    /// [`TraceKind::ChunkTakenBack`].
    ChunkCancelled {
        /// Which.
        run: u64,
        /// From whom.
        source: Source,
        /// Why.
        reason: CancelReason,
        /// Bytes that had been verified first by it.
        bytes: u64,
    },
    /// A piece was proven bad.
    BadPiece {
        /// Who sent it.
        source: Source,
        /// Which, from 0.
        piece: u64,
    },
    /// What a source that became slow had not begun was given to others.
    SwarmRebalanced {
        /// The slow one.
        source: Source,
        /// Its cost when it was given the work.
        cost_then: f64,
        /// Its cost now.
        cost_now: f64,
        /// Runs taken back.
        runs: u64,
    },
    /// The file as a whole was checked: right or not.
    Verified(bool),
    /// Anything else worth a line.
    Note(String),
    /// It was taken back by us.
    ChunkTakenBack {
        /// Which.
        run: u64,
        /// From whom.
        source: Source,
        /// First byte.
        offset: u64,
        /// Bytes that had been verified first by it.
        bytes: u64,
        /// Why.
        reason: CancelReason,
    },
    /// Mesh peers begin to help a download from Soulseek.
    RescueModeActivated {
        /// The download.
        transfer: TransferId,
        /// Why.
        reason: Reason,
        /// How.
        manner: Manner,
    },
    /// They do not any more; why.
    RescueModeDeactivated(String),
    /// A guardrail was hit; what follows.
    GuardrailHit(Guardrail, String),
}

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceEvent {
    /// Microseconds since the job began.
    pub at_us: u64,
    /// What.
    pub kind: TraceKind,
}
