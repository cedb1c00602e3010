//! The record of one transfer: what is stored, listed and shown.

use serde::{Deserialize, Serialize};

use super::id::{BatchId, TransferId, Username};
use super::music::WireText;
use super::time::UnixMs;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// To us.
    Download,
    /// From us.
    Upload,
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ending {
    /// All bytes are where they belong.
    Succeeded,
    /// The owner, or the user we sent to, called it off.
    Cancelled,
    /// A deadline passed and no retry was left.
    TimedOut,
    /// Something broke and no retry was left.
    Errored,
    /// The other side refuses.
    Rejected,
    /// We ended it for a reason of our own (ban, share removed, shutdown of a stranger's queue).
    Aborted,
}

/// Begins the reason of a download that the disk of this machine refused.
pub const OWN_DISK: &str = "disk: ";
/// Why downloads wait while the disk has no room.
pub const DISK_FULL: &str = "disk full: downloads wait for room";
/// Begins the reason of a download of which several users sent parts that do not fit together.
pub const JOINED: &str = "the joined file is damaged: ";

/// Where a transfer stands. Text forms are slskd's, see `TransferState::name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TransferState {
    /// Recorded, nothing sent yet.
    Requested,
    /// Waits for us: a retry's time, a free slot, room on the disk.
    QueuedLocally,
    /// Waits in the other user's queue.
    QueuedRemotely,
    /// Agreed; the file connection is being made.
    Initializing,
    /// Bytes flow.
    InProgress,
    /// Over.
    Completed(Ending),
}

impl TransferState {
    /// slskd's text for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requested => "Requested",
            Self::QueuedLocally => "Queued, Locally",
            Self::QueuedRemotely => "Queued, Remotely",
            Self::Initializing => "Initializing",
            Self::InProgress => "InProgress",
            Self::Completed(Ending::Succeeded) => "Completed, Succeeded",
            Self::Completed(Ending::Cancelled) => "Completed, Cancelled",
            Self::Completed(Ending::TimedOut) => "Completed, TimedOut",
            Self::Completed(Ending::Errored) => "Completed, Errored",
            Self::Completed(Ending::Rejected) => "Completed, Rejected",
            Self::Completed(Ending::Aborted) => "Completed, Aborted",
        }
    }

    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Completed(_))
    }
}

/// What a finished download's bytes rest on (RELIABILITY-FACTS 3, DECISIONS 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Rung {
    /// One user, one path, expected size.
    SingleSource,
    /// Two users' bytes, joined after a 64 KiB overlap agreed and the container's checksums held.
    JoinedByOverlap,
    /// Every piece under one root that may be trusted.
    Verified,
    /// Every piece under one root that strangers named; it agreed with what the user had sent, and its container's
    /// checksums hold.
    RescuedCopy,
}

/// The partial file of a download.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// Name inside the incomplete folder.
    pub file: String,
    /// Bytes known to be on the disk (fdatasync done). After a power cut only these count.
    pub synced: u64,
    /// The kernel's boot id when `synced` was taken. In the same boot the file's length counts, because writes are
    /// in order and the page cache survives the death of the process.
    pub boot: u128,
    /// Where bytes of another user begin: (offset, user).
    pub joins: Vec<(u64, Username)>,
    /// The user whose bytes begin the file.
    pub first_user: Username,
    /// The path under which that user offered them.
    pub first_path: WireText,
}

/// One transfer. Times are by the calendar; sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Its name for good.
    pub id: TransferId,
    /// Which way.
    pub direction: Direction,
    /// The other user. After a fail-over, the user it comes from now.
    pub user: Username,
    /// The path as the owner of the file names it.
    pub path: WireText,
    /// Wanted size.
    pub size: u64,
    /// Where it stands.
    pub state: TransferState,
    /// Asked for.
    pub requested_at: UnixMs,
    /// Accepted into the other side's queue (download) or ours (upload).
    pub enqueued_at: Option<UnixMs>,
    /// First byte of the current or last attempt.
    pub started_at: Option<UnixMs>,
    /// When it ended.
    pub ended_at: Option<UnixMs>,
    /// Offset at which the current or last attempt began.
    pub start_offset: u64,
    /// Bytes that are there (download) or sent (upload), from the file's beginning.
    pub bytes_done: u64,
    /// Bytes per second over the current or last attempt.
    pub average_speed: u64,
    /// Last place in queue heard, 1 is next.
    pub place_in_queue: Option<u32>,
    /// Why it waits or failed, in one sentence.
    pub reason: Option<String>,
    /// Attempts begun.
    pub attempts: u32,
    /// When the next attempt is due.
    pub next_attempt_at: Option<UnixMs>,
    /// Hidden from lists by the owner.
    pub removed: bool,
    /// Asked for together with others.
    pub batch: Option<BatchId>,
    /// Folder below the downloads folder, instead of the last remote folder's name. Already made safe.
    pub destination: Option<String>,
    /// Where the finished file lies (download) or what is being read (upload).
    pub local_path: Option<String>,
    /// The partial file, while there is one.
    pub partial: Option<Partial>,
    /// What the finished bytes rest on.
    pub rung: Option<Rung>,
    /// Users already tried, the current one included; at most `limits::FAILOVER_USERS`.
    pub tried: Vec<Username>,
}
