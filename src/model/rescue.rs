//! Rescue and fairness as pages and tools see them, and what is kept of them.

use serde::{Deserialize, Serialize};

use super::id::{ContentHash, PeerId, TransferId, Username};
use super::mesh::SourceView;
use super::music::WireText;
use super::time::UnixMs;

/// Why a download hangs (SPEC-FACTS 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// Too long in the user's queue.
    QueuedTooLong,
    /// Slow for too long.
    ThroughputTooLow,
    /// No byte for too long.
    Stalled,
    /// The user is offline.
    PeerDisconnected,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::QueuedTooLong, Self::ThroughputTooLow, Self::Stalled, Self::PeerDisconnected];

    /// As SPEC-FACTS writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueuedTooLong => "QueuedTooLong",
            Self::ThroughputTooLow => "ThroughputTooLow",
            Self::Stalled => "Stalled",
            Self::PeerDisconnected => "PeerDisconnected",
        }
    }

    /// In words, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::QueuedTooLong => "too long in the user\u{2019}s queue",
            Self::ThroughputTooLow => "too slow",
            Self::Stalled => "no bytes came any more",
            Self::PeerDisconnected => "the user is offline",
        }
    }
}

/// What rescue may never do. Each is a key of `transfers.rescue_mode.guardrails`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Guardrail {
    /// Nothing is wanted from a Soulseek user any more.
    SoulseekOrigin,
    /// It was never met on Soulseek.
    SeenOnSoulseek,
    /// Nobody knows which recording it is.
    FingerprintVerification,
    /// The mesh brought too much for what Soulseek brought: half the speed.
    Ratio,
    /// As many rescues as there may be are under way.
    ConcurrentJobs,
    /// Rescues brought as much as they may in a day.
    DailyCap,
    /// The owner allows rescue without Soulseek: a ratio or an origin that would have counted did not.
    OverlayOnly,
}

impl Guardrail {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::SoulseekOrigin,
        Self::SeenOnSoulseek,
        Self::FingerprintVerification,
        Self::Ratio,
        Self::ConcurrentJobs,
        Self::DailyCap,
        Self::OverlayOnly,
    ];

    /// Its configuration key.
    pub fn key(self) -> &'static str {
        match self {
            Self::SoulseekOrigin => "require_soulseek_origin",
            Self::SeenOnSoulseek => "require_seen_on_soulseek",
            Self::FingerprintVerification => "require_fingerprint_verification",
            Self::Ratio => "max_overlay_to_soulseek_ratio",
            Self::ConcurrentJobs => "max_concurrent_rescue_jobs",
            Self::DailyCap => "max_overlay_mb_per_day",
            Self::OverlayOnly => "allow_overlay_only",
        }
    }
}

/// How a rescue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RescueState {
    /// Bytes come, or are waited for.
    Active,
    /// The file is there.
    Completed,
    /// It came to nothing; the download goes on without.
    Failed,
    /// The download did without, or is wanted no more.
    Cancelled,
}

impl RescueState {
    /// As SPEC-FACTS 7 writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// How the mesh helps (SPEC-FACTS 7, splice rule).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Manner {
    /// It fills the rest of the very file.
    Splice,
    /// It brings another copy of the recording into a file of its own.
    WholeVariant,
}

impl Manner {
    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Splice => "splice",
            Self::WholeVariant => "whole_variant",
        }
    }
}

/// A peer that offered or sent what is not the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Liar {
    /// Who.
    pub peer: PeerId,
    /// Under which name.
    pub content: ContentHash,
    /// What was wrong, in one sentence.
    pub why: String,
}

/// A rescue, as it is kept. Its id is that of the download.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueJob {
    /// The download.
    pub transfer: TransferId,
    /// From whom it was wanted.
    pub user: Username,
    /// As that user names it.
    pub path: WireText,
    /// MusicBrainz recording, if it is known.
    pub recording: Option<u128>,
    /// Why.
    pub reason: Reason,
    /// Since when.
    pub activated_at: UnixMs,
    /// When it was over.
    pub ended_at: Option<UnixMs>,
    /// How it stands.
    pub state: RescueState,
    /// Which file the mesh brings.
    pub content: ContentHash,
    /// Its length, bytes.
    pub size: u64,
    /// How.
    pub manner: Manner,
    /// What its file is called, made safe; empty where none is fetched.
    pub name: String,
    /// Who vouches for it: a peer that the owner named, or this node itself, which had it.
    pub vouched_by: Option<String>,
    /// Bytes that came from mesh peers, whatever became of them.
    pub overlay_bytes: u64,
    /// Bytes that came from Soulseek, those before included.
    pub soulseek_bytes: u64,
    /// Guardrails that were hit, each once.
    pub hits: Vec<Guardrail>,
    /// How it ended, in one sentence; empty while it runs.
    pub told: String,
    /// Where the file lies that it brought.
    pub local_path: Option<String>,
    /// The owner ended it: the download is not rescued again.
    pub unwanted: bool,
    /// Who offered or sent what is not the file; at most `limits::RESCUE_LIARS`.
    pub liars: Vec<Liar>,
}

/// What the user said, after the file had come from mesh peers, of the file that was wanted (DECISIONS 6). It changes nothing
/// of the file that is here: two files are different then, and which of them is wrong nobody can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The last bytes of its file are those of the file that is here.
    Agrees,
    /// They are others.
    Differs,
    /// Its file has this many bytes.
    OtherSize(u64),
}

impl Origin {
    /// For tools.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Differs | Self::OtherSize(_) => "differs",
        }
    }

    /// In words, for people.
    pub fn words(self) -> String {
        match self {
            Self::Agrees => "the user\u{2019}s file ends as this one does".to_owned(),
            Self::Differs => "the user\u{2019}s file ends otherwise: it is another one".to_owned(),
            Self::OtherSize(bytes) => format!("the user\u{2019}s file is another one, of {bytes} bytes"),
        }
    }
}

impl RescueJob {
    /// Nothing more is to be done for this download: another copy is there beside it, or the owner wants no help.
    pub fn settles(&self) -> bool {
        self.unwanted || (self.state == RescueState::Completed && self.manner == Manner::WholeVariant)
    }

    /// Where another copy of the recording lies that it brought.
    pub fn copy_beside(&self) -> Option<&str> {
        let there = self.state == RescueState::Completed && self.manner == Manner::WholeVariant;
        self.local_path.as_deref().filter(|_| there)
    }

    /// Names a peer, once for each file.
    pub fn name_liar(&mut self, liar: Liar) {
        let known = |other: &Liar| (other.peer, other.content) == (liar.peer, liar.content);
        if self.liars.len() < super::limits::RESCUE_LIARS && !self.liars.iter().any(known) {
            self.liars.push(liar);
        }
    }
}

/// A rescue with what is known of it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RescueView {
    /// What is kept.
    pub job: RescueJob,
    /// What the user said of the file since.
    pub origin: Option<Origin>,
    /// Bytes of the file that are there and verified.
    pub bytes: u64,
    /// Bytes per second from mesh peers now.
    pub overlay_speed: u64,
    /// Bytes per second from the Soulseek user, over the last minute at most.
    pub soulseek_speed: u64,
    /// The mesh is held to this many bytes per second.
    pub throttled_to: Option<u64>,
    /// The Soulseek user is quick again: the mesh gives way.
    pub yields: bool,
    /// What it waits for, in a few words; empty while bytes come.
    pub waits: String,
    /// What is missing: from byte, to byte; the first of them.
    pub missing: Vec<(u64, u64)>,
    /// What each source did.
    pub sources: Vec<SourceView>,
}

/// Since the program began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RescueCounts {
    /// Downloads that hung, by reason.
    pub hung: Vec<(&'static str, u64)>,
    /// Rescues by how they ended; `active` are under way.
    pub rescues: Vec<(&'static str, u64)>,
    /// Guardrails hit.
    pub hits: Vec<(&'static str, u64)>,
    /// Bytes that rescues brought: from mesh peers, and meanwhile from the Soulseek users.
    pub bytes: [u64; 2],
    /// Milliseconds from the last good moment of downloads to their rescue, sum.
    pub waited_ms: u64,
}

/// Bytes of files that went through our sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// To mesh peers.
    pub overlay_up: u64,
    /// From mesh peers.
    pub overlay_down: u64,
    /// To Soulseek users.
    pub soulseek_up: u64,
    /// From Soulseek users.
    pub soulseek_down: u64,
    /// Of those from mesh peers, for rescues.
    pub rescue_down: u64,
}

impl Moved {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            overlay_up: self.overlay_up.saturating_add(other.overlay_up),
            overlay_down: self.overlay_down.saturating_add(other.overlay_down),
            soulseek_up: self.soulseek_up.saturating_add(other.soulseek_up),
            soulseek_down: self.soulseek_down.saturating_add(other.soulseek_down),
            rescue_down: self.rescue_down.saturating_add(other.rescue_down),
        }
    }

    /// Sent, both networks.
    pub fn up(self) -> u64 {
        self.overlay_up.saturating_add(self.soulseek_up)
    }

    /// Received, both networks.
    pub fn down(self) -> u64 {
        self.overlay_down.saturating_add(self.soulseek_down)
    }

    /// Thousandths: sent by received. `None`: nothing was received.
    pub fn ratio_milli(self) -> Option<u64> {
        u64::try_from(u128::from(self.up()) * 1_000 / u128::from(self.down().max(1))).ok().filter(|_| self.down() > 0)
    }
}

/// Which of the rules of fairness is broken (SPEC-FACTS 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Violation {
    /// Too little is given for what is taken.
    LowContribution,
    /// Too little is given to mesh peers for what they gave: a warning.
    LowOverlayContribution,
    /// Too much is sent to mesh peers for what is sent on Soulseek.
    ExcessiveOverlay,
    /// As much came from mesh peers as may in a day.
    DailyOverlay,
}

impl Violation {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::LowContribution, Self::LowOverlayContribution, Self::ExcessiveOverlay, Self::DailyOverlay];

    /// As SPEC-FACTS writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::LowContribution => "low_contribution",
            Self::LowOverlayContribution => "low_overlay_contribution",
            Self::ExcessiveOverlay => "excessive_overlay",
            Self::DailyOverlay => "daily_overlay_download",
        }
    }

    /// What it is, for people.
    pub fn message(self) -> &'static str {
        match self {
            Self::LowContribution => "This node received more than it sent within 7 days.",
            Self::LowOverlayContribution => "Mesh peers sent this node more than it sent them within 24 hours.",
            Self::ExcessiveOverlay => "This node sent much more to mesh peers than on Soulseek within 7 days.",
            Self::DailyOverlay => "As much was fetched from mesh peers within 24 hours as may be.",
        }
    }
}

/// How fairness stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficView {
    /// It is watched.
    pub enabled: bool,
    /// Within 24 hours, 7 days, 30 days.
    pub windows: [Moved; 3],
    /// What is broken, and what is done about it.
    pub violations: Vec<(Violation, &'static str)>,
    /// Bytes to be received in a window before its ratios count.
    pub grace: u64,
    /// Bytes that rescues may still bring within 24 hours, and may bring in all.
    pub rescue_left: (u64, u64),
    /// Mesh downloads are held to half their speed.
    pub throttled: bool,
    /// Which is this many bytes per second; `None` until it was seen what it is.
    pub held_to: Option<u64>,
    /// They stopped.
    pub paused: bool,
    /// New uploads to mesh peers are refused.
    pub refusing: bool,
}

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RescueRequest {
    /// Answer: `Jobs`, newest first.
    Jobs,
    /// Answer: `Jobs` with one.
    Job(TransferId),
    /// Those of these downloads that have one. Answer: `Jobs`.
    Of(Vec<TransferId>),
    /// Downloads are of these recordings; those that are not there any more are passed over. Answer: `Done`.
    Know(Vec<(TransferId, u128)>),
    /// End a rescue; the download goes on without, and is not rescued again. Answer: `Done`.
    Cancel(TransferId),
    /// Answer: `Traffic`.
    Traffic,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RescueAnswer {
    /// It is so.
    Done,
    /// Rescues.
    Jobs(Vec<RescueView>),
    /// Fairness.
    Traffic(Box<TrafficView>),
}
