//! What is remembered of a job's attempts besides the job itself. It is kept in the store and never leaves the box.

use serde::{Deserialize, Serialize};

use crate::model::id::{ContentHash, SearchId, TransferId, Username};
use crate::model::music::WireText;
use crate::model::time::UnixMs;

/// How good a copy an offered file claims to be, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Grade {
    /// Known as the copy to have.
    Canonical,
    /// Of a preferred codec.
    Preferred,
    /// Lossless all the same.
    Lossless,
    /// Lossy, 256 kbit/s or more.
    GoodLossy,
    /// Lossy.
    Lossy,
    /// Known as made of a lossy copy, whatever it calls itself.
    Suspect,
}

impl Grade {
    /// Whether something is lost in it.
    pub fn is_lossy(self) -> bool {
        self >= Self::GoodLossy
    }
}

/// A file that may be one of the wanted tracks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedFile {
    /// Index of the track in the job.
    pub track: u16,
    /// As its owner names it.
    pub path: WireText,
    /// Bytes.
    pub size: u64,
    /// How good it claims to be.
    pub grade: Grade,
}

/// One album folder of one user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Who.
    pub user: Username,
    /// The folder, without those of single media.
    pub folder: String,
    /// A slot is free.
    pub free_slot: bool,
    /// Bytes per second, as claimed.
    pub speed: u32,
    /// Files waiting there.
    pub queue: u32,
    /// What is known of the user, 0 to 1,000; 500 is nothing.
    pub reputation: u16,
    /// A file of this folder was not what it claimed to be.
    pub in_doubt: bool,
    /// Files, at most one a track.
    pub files: Vec<OfferedFile>,
}

/// A download on behalf of a track.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetching {
    /// From whom.
    pub user: Username,
    /// Which of its files.
    pub path: WireText,
    /// The download; `None` until it is recorded.
    pub transfer: Option<TransferId>,
    /// When it was asked for, or last moved.
    pub since: UnixMs,
    /// Bytes that were there then.
    pub bytes: u64,
}

/// A copy that mesh peers are asked for on behalf of a track.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meshed {
    /// Which copy; `None` until one is chosen.
    pub content: Option<ContentHash>,
    /// When it was asked for, or last moved.
    pub since: UnixMs,
    /// Bytes that were there then.
    pub bytes: u64,
}

/// A finished file that is the right recording, but a worse copy than was wanted. It is taken when no other is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// Where it lies.
    pub path: String,
    /// How good it is, thousandths.
    pub score: u16,
    /// What says that it is the right one.
    pub proof: crate::model::job::Proof,
    /// What is wrong with it.
    pub why: String,
}

/// What one track has been through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackWork {
    /// The download under way.
    pub fetching: Option<Fetching>,
    /// The fetch from mesh peers under way, or the finished file's.
    pub mesh: Option<Meshed>,
    /// They were asked in this round.
    pub mesh_tried: bool,
    /// How often they had too much to do in this round.
    pub mesh_busy: u32,
    /// Copies of theirs that were not what was wanted; at most `limits::JOB_TRIED`.
    pub mesh_wrong: Vec<ContentHash>,
    /// The finished file being measured or moved.
    pub local: Option<String>,
    /// It was found to be right and is to be moved to its place.
    pub proven: Option<crate::model::job::Proof>,
    /// Files that were asked for in this round, by [`super::offer::file_key`]; at most `limits::JOB_TRIED`.
    pub tried: Vec<u64>,
    /// Files that were fetched and not what was wanted; at most `limits::JOB_TRIED`.
    pub wrong: Vec<u64>,
    /// The best of those set aside.
    pub aside: Option<Aside>,
}

/// What a job has been through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Queries of this round that were asked.
    pub asked: u32,
    /// Rounds that found not everything.
    pub rounds: u32,
    /// The search that runs.
    pub search: Option<SearchId>,
    /// Nothing is searched for before this moment.
    pub rest_until: Option<UnixMs>,
    /// What is on offer.
    pub offers: Vec<Offer>,
    /// Each track.
    pub tracks: Vec<TrackWork>,
    /// What it does or waits for, in one sentence.
    pub doing: String,
}

impl Work {
    /// Nothing was tried yet.
    pub fn new(tracks: usize) -> Self {
        Self { tracks: vec![TrackWork::default(); tracks], ..Self::default() }
    }
}
