//! A job: work for the owner that takes many downloads. What is kept, written into manifests, listed and shown.
//!
//! A [`Job`] is the whole of what a manifest carries; what the engine remembers of its attempts is kept apart.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::id::{RecordingId, ReleaseId};
use super::limits;
use super::time::UnixMs;
use super::variant::Codec;

/// A job's name: 1 to 64 letters, digits, `-`, `_` or `.`, not beginning with a dot, so that it can name a file
/// (SPEC-FACTS C11).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(String);

/// The text is no name of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobIdError;

impl fmt::Display for JobIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a job id: expected 1 to 64 letters, digits, `-`, `_` or `.`, not beginning with a dot")
    }
}

impl std::error::Error for JobIdError {}

impl JobId {
    /// Longest name, bytes.
    pub const LEN: usize = 64;

    /// A version 4 UUID out of random bits.
    pub fn from_random(bits: u128) -> Self {
        Self(ReleaseId::from_random(bits).to_string())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for JobId {
    type Err = JobIdError;

    fn from_str(text: &str) -> Result<Self, JobIdError> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let fits = (1..=Self::LEN).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(safe);
        if fits { Ok(Self(text.to_owned())) } else { Err(JobIdError) }
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum JobState {
    /// Waits for its turn.
    #[default]
    Pending,
    /// Is being worked on.
    Running,
    /// Stopped by the owner, to go on later.
    Paused,
    /// Every track lies in its place.
    Completed,
    /// Over, and something is missing.
    Failed,
    /// Called off by the owner.
    Cancelled,
}

impl JobState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Running, Self::Paused, Self::Completed, Self::Failed, Self::Cancelled];

    /// In manifests and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// Where one track stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TrackState {
    /// Wanted; nobody is asked for it yet.
    Pending,
    /// Being downloaded.
    Downloading,
    /// Being measured.
    Checking,
    /// In its place.
    Completed,
    /// Nobody had it.
    Failed,
}

impl TrackState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Downloading, Self::Checking, Self::Completed, Self::Failed];

    /// In manifests and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Downloading => "downloading",
            Self::Checking => "checking",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// The state of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// What says that a finished file is the recording that was wanted, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Proof {
    /// It sounds like a copy of the recording that is known here.
    Sound,
    /// `AcoustID` knows its sound as this recording.
    AcoustId,
    /// Its tags name the recording, and its length fits.
    Tags,
    /// Name, place and measured length fit; nothing else could be asked.
    Length,
}

impl Proof {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sound, Self::AcoustId, Self::Tags, Self::Length];

    /// In manifests and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sound => "fingerprint",
            Self::AcoustId => "acoustid",
            Self::Tags => "tags",
            Self::Length => "length",
        }
    }

    /// The proof of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|proof| proof.name() == name)
    }
}

/// What copies are wanted (SPEC-FACTS 15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraints {
    /// The best first; others are taken where none of these is offered.
    pub preferred_codecs: Vec<Codec>,
    /// Copies that lost something are taken where no other is offered.
    pub allow_lossy: bool,
    /// Of these at most so many.
    pub max_lossy_tracks: Option<u32>,
    /// The copy most peers hold to be the best comes first.
    pub prefer_canonical: bool,
    /// Mesh peers are asked for what no Soulseek user has.
    pub use_overlay: bool,
    /// Kilobits per second they may give: 0 (they are not asked), or from [`limits::JOB_OVERLAY_KBPS_MIN`] on.
    pub overlay_bandwidth_kbps: Option<u32>,
}

impl Constraints {
    /// Why these mesh peers' kilobits per second cannot be had; `None`: they can.
    pub fn too_slow(&self) -> Option<String> {
        let least = limits::JOB_OVERLAY_KBPS_MIN;
        let kbps = self.overlay_bandwidth_kbps.filter(|kbps| (1..least).contains(kbps))?;
        let choice = format!("0 asks no mesh peers, {least} is the least otherwise");
        Some(format!("`overlay_bandwidth_kbps` is {kbps}, too little to bring a file: {choice}"))
    }
}

impl Default for Constraints {
    fn default() -> Self {
        Self {
            preferred_codecs: vec![Codec::Flac],
            allow_lossy: true,
            max_lossy_tracks: None,
            prefer_canonical: true,
            use_overlay: false,
            overlay_bandwidth_kbps: None,
        }
    }
}

/// A track that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobTrack {
    /// Medium, from 1.
    pub medium: u32,
    /// Place on the medium, from 1.
    pub position: u32,
    /// Title.
    pub title: String,
    /// Artist; empty: the release's.
    pub artist: String,
    /// The recording.
    pub recording: RecordingId,
    /// Milliseconds.
    pub duration_ms: Option<u64>,
}

/// A release that is wanted, whole or in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MbRelease {
    /// The release.
    pub release: ReleaseId,
    /// Its title.
    pub title: String,
    /// Its artist.
    pub artist: String,
    /// Folder of the finished album: below the downloads folder, or a whole path inside an allowed one.
    pub target_dir: String,
    /// Wanted tracks, by medium and position.
    pub tracks: Vec<JobTrack>,
    /// Which copies.
    pub constraints: Constraints,
}

/// How far one track is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Where it stands.
    pub state: TrackState,
    /// Size of the file that was chosen.
    pub size: Option<u64>,
    /// Bytes of it that are there.
    pub done: u64,
    /// The file in its place: below the album's folder.
    pub file: Option<String>,
    /// What says that it is the right one.
    pub proof: Option<Proof>,
    /// Why it waits, or what was wrong with the last file, in one sentence.
    pub note: Option<String>,
}

impl Child {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        Self { state: TrackState::Pending, size: None, done: 0, file: None, proof: None, note: None }
    }
}

impl Default for Child {
    fn default() -> Self {
        Self::new()
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its name for good.
    pub id: JobId,
    /// The name it was imported under, where that was taken.
    pub origin: Option<JobId>,
    /// Asked for.
    pub created_at: UnixMs,
    /// Last change.
    pub updated_at: UnixMs,
    /// First taken up.
    pub started_at: Option<UnixMs>,
    /// When it ended.
    pub completed_at: Option<UnixMs>,
    /// What is wanted.
    pub spec: MbRelease,
    /// Where it stands.
    pub state: JobState,
    /// Why it failed, in one sentence.
    pub error: Option<String>,
    /// One for each wanted track, in their order.
    pub children: Vec<Child>,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobProgress {
    /// Wanted.
    pub tracks: u32,
    /// In their places.
    pub done: u32,
    /// Being downloaded or measured.
    pub busy: u32,
    /// Bytes of the files chosen so far.
    pub bytes: u64,
    /// Bytes of them that are there.
    pub bytes_done: u64,
}

impl Job {
    /// The one kind there is, as manifests name it.
    pub const KIND: &'static str = "mb_release";

    /// How far it is.
    pub fn progress(&self) -> JobProgress {
        let mut progress = JobProgress::default();
        for child in &self.children {
            progress.tracks = progress.tracks.saturating_add(1);
            progress.done = progress.done.saturating_add(u32::from(child.state == TrackState::Completed));
            let busy = matches!(child.state, TrackState::Downloading | TrackState::Checking);
            progress.busy = progress.busy.saturating_add(u32::from(busy));
            progress.bytes = progress.bytes.saturating_add(child.size.unwrap_or_default());
            progress.bytes_done = progress.bytes_done.saturating_add(child.done);
        }
        progress
    }
}

/// A new job, as the owner or a tool asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewJob {
    /// A MusicBrainz release id, a Discogs release number (`discogs:123`), or the address of either.
    pub reference: String,
    /// Folder of the album; `None`: `Artist/Title (Year)` below the downloads folder.
    pub target_dir: Option<String>,
    /// Recordings of the release; empty: all its tracks.
    pub tracks: Vec<RecordingId>,
    /// Which copies; `None`: the default.
    pub constraints: Option<Constraints>,
}

/// Asked about jobs.
#[derive(Clone, Debug, PartialEq)]
pub enum JobRequest {
    /// Answer: `Jobs`, newest first.
    List {
        /// Rows to skip.
        offset: usize,
        /// Rows at most; capped by `limits::JOBS_PAGE`.
        limit: usize,
        /// Only those.
        state: Option<JobState>,
    },
    /// Answer: `Job`.
    One(JobId),
    /// Answer: `Job`.
    Create(Box<NewJob>),
    /// Answer: `Job`.
    Pause(JobId),
    /// Answer: `Job`.
    Resume(JobId),
    /// Answer: `Job`.
    Cancel(JobId),
    /// Answer: `Text`, the manifest.
    Export(JobId),
    /// The text of a manifest. Answer: `Job`.
    Import(String),
}

/// A job and what it is doing just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobView {
    /// The job.
    pub job: Job,
    /// What it does or waits for, in one sentence; may be empty.
    pub doing: String,
}

/// Answers about jobs.
#[derive(Clone, Debug, PartialEq)]
pub enum JobAnswer {
    /// Rows of this page, and how many there are in all.
    Jobs(Vec<JobView>, usize),
    /// One.
    Job(Box<JobView>),
    /// A text.
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_jobs_can_name_files() {
        for good in ["a", "01J9ZK3-x_y.z", &"a".repeat(64), &JobId::from_random(7).to_string()] {
            assert_eq!(good.parse::<JobId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".a", "a/b", "a\\b", "a b", "\u{e9}", &"a".repeat(65), "a\0"] {
            assert_eq!(bad.parse::<JobId>(), Err(JobIdError), "{bad:?}");
        }
    }
}
