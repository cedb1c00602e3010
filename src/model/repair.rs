//! Repairs: what becomes of an issue that the owner wants mended, as pages and tools see it, and what is kept of it.

use serde::{Deserialize, Serialize};

use super::health::LocalPath;
use super::id::{ContentHash, IssueId};
use super::job::{JobId, Proof};
use super::time::UnixMs;

/// How an issue is mended (SPEC-FACTS 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Strategy {
    /// Another copy of the recording is fetched and takes the file's place.
    RedownloadTracks,
    /// The same, and the copy must be better than the file by a stated amount.
    ReplaceWithCanonical,
    /// The missing tracks of the release are fetched; nothing is replaced.
    CompleteAlbum,
}

impl Strategy {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::RedownloadTracks => "RedownloadTracks",
            Self::ReplaceWithCanonical => "ReplaceWithCanonical",
            Self::CompleteAlbum => "CompleteAlbum",
        }
    }

    /// What it does, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::RedownloadTracks => "fetches a verified lossless copy and puts it in the file\u{2019}s place",
            Self::ReplaceWithCanonical => "fetches the better copy and puts it in the file\u{2019}s place",
            Self::CompleteAlbum => "fetches the missing tracks into the album\u{2019}s folder",
        }
    }
}

/// What happens to the old file, as the configuration said when the repair began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manner {
    /// It is kept as `NAME.bak`.
    Backup,
    /// It is removed once the new one is in its place and durable.
    NoBackup,
    /// It stays what it is, and the new one lies beside it.
    Beside,
    /// There is none.
    Add,
}

impl Manner {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::NoBackup => "no_backup",
            Self::Beside => "beside",
            Self::Add => "add",
        }
    }
}

/// Where a repair stands: `Fetching → Swapping → Done → Undoing → Undone`, or `Failed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RepairState {
    /// Its job looks for a copy.
    Fetching,
    /// A copy is there, and takes the file's place.
    Swapping,
    /// The copy lies in its place.
    Done,
    /// Nothing was changed; why, in one sentence.
    Failed(String),
    /// The old file is being put back.
    Undoing,
    /// The old file lies in its place again.
    Undone,
}

impl RepairState {
    /// Its name in the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::Swapping => "swapping",
            Self::Done => "done",
            Self::Failed(_) => "failed",
            Self::Undoing => "undoing",
            Self::Undone => "undone",
        }
    }

    /// Whether something is still to happen by itself.
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Fetching | Self::Swapping | Self::Undoing)
    }

    /// Why it failed, in one sentence.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Failed(why) => Some(why),
            _ => None,
        }
    }
}

/// The file that is to be replaced, as it was when the repair began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OldFile {
    /// Where it lies.
    pub path: LocalPath,
    /// Its bytes.
    pub content: ContentHash,
    /// How many.
    pub size: u64,
    /// Its score, 0..=1; `None` where its sound is damaged and a score says nothing.
    pub score: Option<f32>,
}

/// The file that replaces it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewFile {
    /// Its bytes.
    pub content: ContentHash,
    /// How many.
    pub size: u64,
    /// Its score, 0..=1.
    pub score: f32,
    /// What says that it is the recording.
    pub proof: Proof,
}

/// Where the files of a replacement lie, or are to lie: all in the folder of the old file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// The new file; after an undoing its `NAME.bak`.
    pub new: LocalPath,
    /// The old one as `NAME.bak`. `None`: there is no such file, or none any more.
    pub backup: Option<LocalPath>,
    /// Where the new one goes when the old one is put back.
    pub aside: Option<LocalPath>,
}

/// A repair of one issue. There is one row of it: a second repair of the issue replaces the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repair {
    /// Which issue.
    pub issue: IssueId,
    /// The job that fetches.
    pub job: JobId,
    /// Index of the track in the job; of `CompleteAlbum` nothing.
    pub track: Option<u32>,
    /// How.
    pub strategy: Strategy,
    /// What becomes of the old file.
    pub manner: Manner,
    /// The old file; of `CompleteAlbum` nothing.
    pub old: Option<OldFile>,
    /// What was fetched, once it was found to be right.
    pub new: Option<NewFile>,
    /// Where the files lie, once that is settled.
    pub places: Option<Places>,
    /// Where it stands.
    pub state: RepairState,
    /// The program began it by itself (`library_health.remediation.auto_fix_transcodes`).
    pub by_itself: bool,
    /// The new file is to have the tags of the old one.
    pub keep_tags: bool,
    /// It has them, or cannot have them.
    pub tags_kept: bool,
    /// The library and the shares know what it did last.
    pub told: bool,
    /// When it began.
    pub began_at: UnixMs,
    /// Last change.
    pub updated_at: UnixMs,
    /// When it ended.
    pub ended_at: Option<UnixMs>,
}

impl Repair {
    /// Why it cannot be undone, in one sentence; `None`: it can.
    pub fn not_undone_because(&self) -> Option<&'static str> {
        match (&self.state, self.manner) {
            (RepairState::Fetching | RepairState::Swapping, _) => Some("it is under way: cancel its job instead"),
            (RepairState::Failed(_), _) => Some("it failed, and there is nothing to be put back"),
            (RepairState::Undone, _) => Some("it was undone already"),
            (RepairState::Done, Manner::Add) => Some("it added tracks to the album and replaced nothing"),
            (RepairState::Done, Manner::Beside) => Some("it replaced nothing: the new file lies beside the old one"),
            (RepairState::Done, Manner::NoBackup) => {
                Some("there is no backup: library_health.remediation.backup_before_replace was false")
            }
            // An undoing that did not come to its end may be asked for again.
            (RepairState::Done, Manner::Backup) | (RepairState::Undoing, _) => None,
        }
    }
}

/// How repairs went since the program began; an issue that is mended twice counts twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairCounts {
    /// Issues that a job was begun for.
    pub begun: u64,
    /// Of these and of those begun earlier: a better copy lies in its place.
    pub done: u64,
    /// The old file stays; an undoing that failed is not counted.
    pub failed: u64,
    /// The old file was put back.
    pub undone: u64,
    /// Milliseconds from the wish to the end, sum of those that were done.
    pub took_ms: u64,
}

/// What came of wanting issues mended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// The jobs that were begun, in the order of the issues.
    pub jobs: Vec<JobId>,
    /// Issues that are being mended, and by which job.
    pub begun: Vec<(IssueId, JobId)>,
    /// Issues that are not, and why, in one sentence each.
    pub refused: Vec<(IssueId, String)>,
}

/// Asked about repairs.
#[derive(Clone, Debug, PartialEq)]
pub enum RepairRequest {
    /// Mend issues. Answer: `Begun`.
    Fix {
        /// Which, at most `limits::FIX_AT_ONCE`.
        issues: Vec<IssueId>,
        /// The new files are to have the tags of the old ones.
        keep_tags: bool,
    },
    /// The repairs of these issues, of those that have one. Answer: `Repairs`.
    Of(Vec<IssueId>),
    /// The repair of one issue. Answer: `Repairs` of one; refused as not found when there is none.
    One(IssueId),
    /// The repairs that one job fetches for. Answer: `Repairs`.
    OfJob(JobId),
    /// Put the old file of this issue back. Answer: `Repairs` of one.
    Undo(IssueId),
}

/// Answers about repairs.
#[derive(Clone, Debug, PartialEq)]
pub enum RepairAnswer {
    /// Some were begun, or none.
    Begun(Begun),
    /// Rows.
    Repairs(Vec<Repair>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_finished_replacement_with_a_backup_is_undone() {
        let mut repair = Repair {
            issue: IssueId(1),
            job: JobId::from_random(1),
            track: Some(0),
            strategy: Strategy::RedownloadTracks,
            manner: Manner::Backup,
            old: None,
            new: None,
            places: None,
            state: RepairState::Done,
            by_itself: false,
            keep_tags: false,
            tags_kept: false,
            told: false,
            began_at: UnixMs(1),
            updated_at: UnixMs(1),
            ended_at: None,
        };
        assert_eq!(repair.not_undone_because(), None);
        for manner in [Manner::NoBackup, Manner::Beside, Manner::Add] {
            repair.manner = manner;
            assert!(repair.not_undone_because().is_some(), "{manner:?}");
        }
        repair.manner = Manner::Backup;
        let states = [RepairState::Fetching, RepairState::Swapping, RepairState::Failed("x".into())];
        for state in states.into_iter().chain([RepairState::Undone]) {
            repair.state = state;
            assert!(repair.not_undone_because().is_some(), "{repair:?}");
        }
    }
}
