//! What pages and tools ask of the Doctor, and what it answers.

use super::scan::{Progress, Scan, ScanRequest};
use crate::model::gossip::{Badge, Consensus, Offered};

use super::{CanonicalStats, Issue, IssueKind, IssueStatus, Judged, LocalPath, Severity, Variant};
use crate::model::id::{ContentHash, IssueId, ScanId};

/// Counts of the whole collection or of a folder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HealthSummary {
    /// Files known.
    pub files: u64,
    /// Open issues of each kind, in the order of [`IssueKind::ALL`].
    pub by_kind: [u64; 8],
    /// Open issues of each severity, in the order of [`Severity::ALL`].
    pub by_severity: [u64; 5],
    /// 1 is well, 0 is ill.
    pub health_score: f64,
    /// The last scan to end.
    pub last_scan: Option<Scan>,
}

impl HealthSummary {
    /// Open issues of one kind.
    pub fn of(&self, kind: IssueKind) -> u64 {
        self.by_kind.get(usize::from(kind.number())).copied().unwrap_or(0)
    }

    /// All open issues.
    pub fn open(&self) -> u64 {
        self.by_kind.iter().sum()
    }
}

/// How the copies score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scores {
    /// Copies by score, from 0 upwards in steps of a twentieth, and in each by verdict: clean, uncertain, transcode.
    pub steps: [[u64; 3]; 20],
}

impl Scores {
    /// Counts one copy.
    pub fn add(&mut self, judged: &Judged) {
        let last = self.steps.len() - 1;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast saturates")]
        let step = (judged.quality_score * 20.0) as usize;
        if let Some(n) = self.steps[step.min(last)].get_mut(judged.judgement.verdict as usize) {
            *n += 1;
        }
    }
}

/// A filter over issues. Empty lists mean all, but for statuses: there it means the open ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssueFilter {
    /// Kinds wanted.
    pub kinds: Vec<IssueKind>,
    /// Severities wanted.
    pub severities: Vec<Severity>,
    /// Statuses wanted.
    pub statuses: Vec<IssueStatus>,
    /// One release only.
    pub release_id: Option<u128>,
    /// One artist only, as the issue has it.
    pub artist: Option<String>,
    /// Only what lies in this folder.
    pub path: Option<LocalPath>,
    /// Rows to skip.
    pub offset: usize,
    /// Rows at most; capped by `limits::PAGE_ROWS`.
    pub limit: usize,
}

/// Open issues that have something in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssueGroup {
    /// What they have in common, for people.
    pub name: String,
    /// The release, where that is it.
    pub release_id: Option<u128>,
    /// How many.
    pub count: u64,
    /// The worst of them.
    pub severity: Severity,
}

/// Asked of the Doctor by pages and tools.
#[derive(Clone, Debug, PartialEq)]
pub enum HealthRequest {
    /// Begin a scan; without paths the scheduled or shared folders. Answer: `Started`.
    Start(ScanRequest),
    /// Answer: `Done`.
    Stop(ScanId),
    /// Answer: `Scan`.
    Scan(ScanId),
    /// All kept scans, newest first. Answer: `Scans`.
    Scans,
    /// Of everything, or of a folder. Answer: `Summary`.
    Summary(Option<LocalPath>),
    /// Answer: `Issues`.
    Issues(IssueFilter),
    /// Answer: `Issue`.
    Issue(IssueId),
    /// Open issues by artist. Answer: `Groups`.
    ByArtist,
    /// Open issues by release. Answer: `Groups`.
    ByRelease,
    /// What the owner says about an issue. Answer: `Issue`.
    SetStatus(IssueId, IssueStatus),
    /// What is known of a recording, by profile. Answer: `Canonical`.
    Canonical(u128),
    /// The same over all profiles, with the words of peers. Answer: `Consensus`.
    Consensus(u128),
    /// What is known of files that others offer. Answer: `Badges`.
    Badges(Vec<Offered>),
    /// Copies of a recording, the best first. Answer: `Variants`.
    Variants(u128),
    /// One copy with its fingerprint. Answer: `Variants` of one.
    Variant(ContentHash),
    /// The copy that lies there, without its fingerprint. Answer: `Variants` of one, or of none.
    CopyAt(LocalPath),
    /// The spectrogram of a copy. Answer: `Picture`.
    Spectrogram {
        /// Of which.
        copy: ContentHash,
        /// Small enough for a telephone.
        narrow: bool,
    },
    /// How the copies score. Answer: `Scores`.
    Scores,
    /// Judge everything anew from what was measured; with `true` also what was judged by the rules of now. Answer:
    /// `Rejudged`.
    Rejudge(bool),
}

/// The Doctor's answers.
#[derive(Clone, Debug, PartialEq)]
pub enum HealthAnswer {
    /// It is so.
    Done,
    /// A scan began.
    Started(ScanId),
    /// One scan, and how far it is if it runs.
    Scan(Box<Scan>, Option<Box<Progress>>),
    /// Scans.
    Scans(Vec<Scan>),
    /// Counts and score.
    Summary(Box<HealthSummary>),
    /// Rows of this page, and how many there are in all.
    Issues(Vec<Issue>, usize),
    /// One.
    Issue(Box<Issue>),
    /// Groups, the largest first.
    Groups(Vec<IssueGroup>),
    /// Statistics.
    Canonical(Vec<CanonicalStats>),
    /// What all together say; `None` when nobody says anything.
    Consensus(Option<Box<Consensus>>),
    /// One for each that was asked about, and whether canonical ones come first.
    Badges(Vec<Option<Badge>>, bool),
    /// Copies.
    Variants(Vec<Variant>),
    /// A PNG.
    Picture(Vec<u8>),
    /// Counts.
    Scores(Box<Scores>),
    /// How many judgements changed.
    Rejudged(u64),
}
