//! What the Doctor keeps: copies of recordings, what is wrong with them, and the scans that found it.

mod ask;
mod scan;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::ask::{HealthAnswer, HealthRequest, HealthSummary, IssueFilter, IssueGroup, Scores};
pub use self::scan::{EXTENSIONS, FileOutcome, FileRow, Progress, Scan, ScanCounts, ScanRequest, ScanStatus};

use super::id::{ContentHash, IssueId};
use super::time::UnixMs;
use super::variant::{Codec, Measured};
use super::verdict::{Judgement, Reason, Verdict};

/// A path on our own disks: bytes, as the file system has them. Never sent to anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LocalPath(pub Vec<u8>);

impl LocalPath {
    /// The last part of it; the whole when it has but one.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'/').next().unwrap_or(&self.0)
    }

    /// The folder it lies in, without a slash at its end; empty at the root.
    pub fn folder(&self) -> &[u8] {
        self.0.iter().rposition(|byte| *byte == b'/').map_or(&[], |at| &self.0[..at])
    }

    /// Whether it is this folder or lies below it.
    pub fn is_within(&self, folder: &[u8]) -> bool {
        let folder = folder.strip_suffix(b"/").unwrap_or(folder);
        self.0.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

impl fmt::Display for LocalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl From<&str> for LocalPath {
    fn from(path: &str) -> Self {
        Self(path.as_bytes().to_vec())
    }
}

/// What the rules make of one measured file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// 0..=1.
    pub quality_score: f32,
    /// The verdict and its reasons.
    pub judgement: Judgement,
    /// The version of the rules that made it.
    pub analyzer: String,
}

impl Judged {
    /// Whether it is taken for a transcode.
    pub fn is_suspect(&self) -> bool {
        self.judgement.verdict == Verdict::Transcode
    }
}

/// How a copy was matched with a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MatchedBy {
    /// Its tags name the recording.
    Tags,
    /// It sounds like a copy whose recording is known.
    Fingerprint,
    /// A catalogue knew its fingerprint.
    Catalog,
    /// Nobody was asked yet, or could be: it is asked again later.
    Pending,
    /// Everybody was asked, nobody knew.
    Nobody,
}

/// Whose recording a copy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// MusicBrainz recording.
    pub recording_id: Option<u128>,
    /// MusicBrainz release: as tagged, else as the catalogue prefers.
    pub release_id: Option<u128>,
    /// `AcoustID`.
    pub acoustid: Option<u128>,
    /// How it was found.
    pub matched_by: MatchedBy,
}

impl Default for Identity {
    fn default() -> Self {
        Self { recording_id: None, release_id: None, acoustid: None, matched_by: MatchedBy::Pending }
    }
}

/// One audio file by its bytes: what was measured, what is thought of it, where it lies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// What was measured.
    pub measured: Measured,
    /// What is thought of it.
    pub judged: Judged,
    /// Whose recording it is.
    pub identity: Identity,
    /// Files with these bytes; at most `limits::VARIANT_PATHS`.
    pub paths: Vec<LocalPath>,
    /// When it was measured first.
    pub first_seen_at: UnixMs,
    /// When it was measured last.
    pub last_seen_at: UnixMs,
    /// Times it was measured or reported.
    pub seen_count: u32,
}

impl Variant {
    /// `FLAC-16bit-44100Hz-2ch` or `MP3-lossy-44100Hz-2ch` (SPEC-FACTS 2.1, C22).
    pub fn profile(&self) -> String {
        profile(&self.measured)
    }

    /// Its content hash.
    pub fn hash(&self) -> ContentHash {
        self.measured.content_hash
    }
}

/// The codec profile of a measured file, see [`Variant::profile`].
pub fn profile(measured: &Measured) -> String {
    let Measured { codec, sample_rate_hz, channels, .. } = measured;
    match measured.bit_depth.filter(|_| codec.is_lossless()) {
        Some(bits) => format!("{}-{bits}bit-{sample_rate_hz}Hz-{channels}ch", codec.name()),
        None => format!("{}-lossy-{sample_rate_hz}Hz-{channels}ch", codec.name()),
    }
}

/// The eight kinds of issues (SPEC-FACTS 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IssueKind {
    /// Made of a lossy copy.
    SuspectedTranscode,
    /// A much better copy of the recording is known.
    NonCanonicalVariant,
    /// The release its tags name does not have this recording.
    TrackNotInTaggedRelease,
    /// The album folder lacks tracks of its release.
    MissingTrackInRelease,
    /// Unreadable, or its audio is not whole.
    CorruptedFile,
    /// Nobody knows which recording it is.
    MissingMetadata,
    /// The same recording is kept in several qualities.
    MultipleVariants,
    /// Longer or shorter than the recording.
    WrongDuration,
}

impl IssueKind {
    /// All of them, in the order of SPEC-FACTS 5.1.
    pub const ALL: [Self; 8] = [
        Self::SuspectedTranscode,
        Self::NonCanonicalVariant,
        Self::TrackNotInTaggedRelease,
        Self::MissingTrackInRelease,
        Self::CorruptedFile,
        Self::MissingMetadata,
        Self::MultipleVariants,
        Self::WrongDuration,
    ];

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::SuspectedTranscode => "SuspectedTranscode",
            Self::NonCanonicalVariant => "NonCanonicalVariant",
            Self::TrackNotInTaggedRelease => "TrackNotInTaggedRelease",
            Self::MissingTrackInRelease => "MissingTrackInRelease",
            Self::CorruptedFile => "CorruptedFile",
            Self::MissingMetadata => "MissingMetadata",
            Self::MultipleVariants => "MultipleVariants",
            Self::WrongDuration => "WrongDuration",
        }
    }

    /// What people call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::SuspectedTranscode => "Suspected transcode",
            Self::NonCanonicalVariant => "Better copy exists",
            Self::TrackNotInTaggedRelease => "Not on its release",
            Self::MissingTrackInRelease => "Incomplete album",
            Self::CorruptedFile => "Corrupted file",
            Self::MissingMetadata => "Unknown recording",
            Self::MultipleVariants => "Several copies",
            Self::WrongDuration => "Wrong duration",
        }
    }

    /// Whether the program could mend it by itself, once asked.
    pub fn can_auto_fix(self) -> bool {
        matches!(
            self,
            Self::SuspectedTranscode | Self::NonCanonicalVariant | Self::MissingTrackInRelease | Self::CorruptedFile
        )
    }

    /// What would mend it.
    pub fn suggested_action(self) -> &'static str {
        match self {
            Self::SuspectedTranscode => "replace it by a verified lossless copy",
            Self::NonCanonicalVariant => "fetch the better copy and replace this one",
            Self::TrackNotInTaggedRelease => "correct the tags, or choose another release",
            Self::MissingTrackInRelease => "fetch the missing tracks",
            Self::CorruptedFile => "download it again",
            Self::MissingMetadata => "tag it by hand",
            Self::MultipleVariants => "keep the best copy",
            Self::WrongDuration => "check whether it is a live or alternate take",
        }
    }

    /// Its place in [`IssueKind::ALL`].
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The kind of this name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// A blemish.
    Low,
    /// Worth mending.
    Medium,
    /// Wrong.
    High,
    /// Music is lost.
    Critical,
}

impl Severity {
    /// All of them, worst first.
    pub const ALL: [Self; 5] = [Self::Critical, Self::High, Self::Medium, Self::Low, Self::Info];

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "Info",
            Self::Low => "Low",
            Self::Medium => "Medium",
            Self::High => "High",
            Self::Critical => "Critical",
        }
    }

    /// The severity of this name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.name().eq_ignore_ascii_case(name))
    }
}

/// Where an issue stands: `Detected → Acknowledged / Ignored / Fixing → Resolved / Failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IssueStatus {
    /// Found.
    Detected,
    /// The owner has seen it and lets it stand for now.
    Acknowledged,
    /// Something is mending it.
    Fixing,
    /// Mending did not succeed.
    Failed,
    /// The owner says it is no problem; it stays away over rescans.
    Ignored,
    /// It is gone.
    Resolved,
}

impl IssueStatus {
    /// All of them, those in the default view first.
    pub const ALL: [Self; 6] =
        [Self::Detected, Self::Acknowledged, Self::Fixing, Self::Failed, Self::Ignored, Self::Resolved];

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Detected => "Detected",
            Self::Acknowledged => "Acknowledged",
            Self::Fixing => "Fixing",
            Self::Failed => "Failed",
            Self::Ignored => "Ignored",
            Self::Resolved => "Resolved",
        }
    }

    /// Whether it is a problem still: in the default view, and counted by the health score.
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Ignored | Self::Resolved)
    }

    /// The status of this name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name().eq_ignore_ascii_case(name))
    }
}

/// Who ended an issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResolvedBy {
    /// The owner dismissed it.
    UserDismissed,
    /// A job of ours mended it.
    AutoFixed,
    /// It was mended without us: a later scan no longer found it, or the owner said so.
    ManualFix,
}

impl ResolvedBy {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::UserDismissed => "user_dismissed",
            Self::AutoFixed => "auto_fixed",
            Self::ManualFix => "manual_fix",
        }
    }
}

/// A track of a release that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingTrack {
    /// Medium of the release, from 1.
    pub disc: u32,
    /// Place on the medium, from 1.
    pub position: u32,
    /// Title.
    pub title: String,
    /// MusicBrainz recording.
    pub recording_id: u128,
}

/// One of several copies of a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopyOf {
    /// Where it lies.
    pub path: LocalPath,
    /// Its score.
    pub quality_score: f32,
    /// How it is coded.
    pub codec: Codec,
    /// kbit/s.
    pub bitrate_kbps: u32,
}

/// Why we think so, per kind of issue: the numbers a person would check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Evidence {
    /// Of `SuspectedTranscode`.
    Transcode {
        /// The copy's score.
        quality_score: f32,
        /// How it is coded.
        codec: Codec,
        /// kbit/s.
        bitrate_kbps: u32,
        /// DR14, dB.
        dynamic_range: Option<f32>,
        /// Up to where there is content, Hz.
        bandwidth_hz: u32,
        /// Of the verdict, 0..=1.
        confidence: f32,
        /// Rules that fired.
        reasons: Vec<Reason>,
    },
    /// Of `NonCanonicalVariant`.
    NonCanonical {
        /// This copy's score.
        current_quality: f32,
        /// The best one's.
        canonical_quality: f32,
        /// How that one is coded.
        canonical_codec: Codec,
        /// kbit/s.
        canonical_bitrate_kbps: u32,
        /// The best one's bytes.
        canonical_variant: ContentHash,
    },
    /// Of `TrackNotInTaggedRelease`.
    NotInRelease {
        /// Tracks the release has.
        tracks: u32,
    },
    /// Of `MissingTrackInRelease`.
    Missing {
        /// What is not there; at most `limits::MISSING_TRACKS`, see `missing_count`.
        missing: Vec<MissingTrack>,
        /// How many are not there.
        missing_count: u32,
        /// Tracks the release has.
        tracks: u32,
    },
    /// Of `CorruptedFile`.
    Corrupted {
        /// Frames or packets that did not decode.
        bad_frames: u32,
        /// Offset of the first, bytes, and its moment, milliseconds.
        first_bad: Option<(u64, u64)>,
        /// The samples are not those the encoder's MD5 was made of.
        md5_differs: bool,
        /// Samples the headers promise and the file lacks.
        samples_missing: u64,
    },
    /// Of `MissingMetadata`.
    Unknown {
        /// It has a title and an artist in its tags.
        has_tags: bool,
        /// It has a fingerprint to ask by.
        has_fingerprint: bool,
    },
    /// Of `MultipleVariants`.
    Copies {
        /// The best first; at most `limits::VARIANT_PATHS`.
        copies: Vec<CopyOf>,
    },
    /// Of `WrongDuration`.
    Duration {
        /// The file's, milliseconds.
        file_duration_ms: u64,
        /// The recording's, milliseconds.
        mb_duration_ms: u64,
    },
}

/// One problem. There is one row of it, however often it is found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Issue {
    /// Made of kind and subject, so that a rescan finds its row again.
    pub id: IssueId,
    /// What kind.
    pub kind: IssueKind,
    /// How bad.
    pub severity: Severity,
    /// The file, or for `MissingTrackInRelease` the album's folder.
    pub path: LocalPath,
    /// MusicBrainz recording.
    pub recording_id: Option<u128>,
    /// MusicBrainz release.
    pub release_id: Option<u128>,
    /// Artist as known.
    pub artist: String,
    /// Album as known.
    pub album: String,
    /// Title as known.
    pub title: String,
    /// What is wrong, in one sentence.
    pub reason: String,
    /// The numbers behind it.
    pub evidence: Evidence,
    /// The job that mends it.
    pub job: Option<u128>,
    /// Where it stands.
    pub status: IssueStatus,
    /// When it was found first.
    pub detected_at: UnixMs,
    /// When it ended.
    pub resolved_at: Option<UnixMs>,
    /// Who ended it.
    pub resolved_by: Option<ResolvedBy>,
}

/// What is known of one recording in one codec profile (SPEC-FACTS 4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CanonicalStats {
    /// MusicBrainz recording.
    pub recording_id: u128,
    /// See [`Variant::profile`].
    pub profile: String,
    /// Copies with different bytes.
    pub variant_count: u32,
    /// Times they were seen, together.
    pub total_seen_count: u64,
    /// Mean of their scores.
    pub avg_quality: f32,
    /// The best of them.
    pub max_quality: f32,
    /// Share of suspected transcodes, 0..=100.
    pub percent_transcode_suspect: f32,
    /// Copies by codec.
    pub codecs: Vec<(Codec, u32)>,
    /// Copies by bit rate, in steps of 32 kbit/s (the lower end).
    pub bitrates_kbps: Vec<(u32, u32)>,
    /// Copies by sample rate, Hz.
    pub sample_rates_hz: Vec<(u32, u32)>,
    /// The best copy.
    pub best_variant: ContentHash,
    /// How sure it is that this is the copy to have, 0..=1.
    pub canonicality_score: f32,
    /// When this was computed.
    pub updated_at: UnixMs,
}

/// The hyphenated form of an id of MusicBrainz or `AcoustID`.
pub fn uuid_text(id: u128) -> String {
    IssueId(id).to_string()
}

/// An id of MusicBrainz or `AcoustID` from its text.
pub fn parse_uuid(text: &str) -> Option<u128> {
    text.parse::<IssueId>().ok().map(|id| id.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_know_their_folders() {
        let path = LocalPath::from("/music/album/CD 1/a.flac");
        assert_eq!((path.name(), path.folder()), (&b"a.flac"[..], &b"/music/album/CD 1"[..]));
        assert!(path.is_within(b"/music/album") && path.is_within(b"/music/album/") && path.is_within(b"/"));
        assert!(!path.is_within(b"/music/alb") && path.is_within(&path.0));
    }

    #[test]
    fn names_are_read_back() {
        for (at, kind) in IssueKind::ALL.into_iter().enumerate() {
            assert_eq!((IssueKind::parse(kind.name()), usize::from(kind.number())), (Some(kind), at));
        }
        assert!(Severity::ALL.is_sorted_by(|a, b| a > b));
        assert_eq!(Severity::parse("critical"), Some(Severity::Critical));
        assert!(IssueStatus::ALL.into_iter().all(|status| IssueStatus::parse(status.name()) == Some(status)));
    }
}
