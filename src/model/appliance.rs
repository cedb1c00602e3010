//! What the appliance's page and API show: the two systems on the card, an update under way, disks that are plugged in.
//! The same structs are written by the appliance's services as JSON.

use serde::{Deserialize, Serialize};

/// Everything of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplianceView {
    /// False on a machine of the owner's own: nothing below has a meaning there but `disks`.
    pub is_appliance: bool,
    /// The systems on the card.
    pub systems: Systems,
    /// The update under way, or how the last one since the start ended.
    pub progress: Option<Progress>,
    /// Disks that are plugged in.
    pub disks: Vec<DiskOffer>,
    /// The clock was set from the network since the start; until then it may be wrong by years.
    pub clock_set: bool,
}

/// The systems on the card, and what became of the last update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Systems {
    /// `A` or `B`.
    pub running: String,
    /// Name of the board.
    pub board: String,
    /// A, then B.
    pub slots: Vec<SlotView>,
    /// The last update that was started, or nothing.
    pub last: Option<LastUpdate>,
}

/// One of the systems.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotView {
    /// `A` or `B`.
    pub name: String,
    /// Version in it; empty when there is none.
    pub version: String,
    /// Starts left before the other one is taken.
    pub tries_left: u8,
}

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It runs, and was found healthy.
    Installed,
    /// It was started, and the box went back to the version before.
    FellBack,
    /// It was not written, and not started.
    Failed,
}

/// The last update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUpdate {
    /// How it ended.
    pub outcome: Outcome,
    /// The version that was to be installed.
    pub version: String,
    /// The version before.
    pub from: String,
    /// Why it did not end well; else empty.
    pub reason: String,
}

/// How far an update is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// `checking`, `writing`, `comparing`, `restarting`, `failed`.
    pub step: String,
    /// Bytes of this step.
    pub done: u64,
    /// Of so many.
    pub all: u64,
    /// Which version.
    pub version: String,
    /// Why it failed; else empty.
    pub error: String,
}

/// A disk that is plugged in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskOffer {
    /// Its name, made of its label.
    pub name: String,
    /// Where it is mounted.
    pub path: String,
    /// Kind of file system.
    pub kind: String,
    /// Bytes free.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// It, or a folder of it, is shared.
    pub shared: bool,
    /// The program may write on it.
    pub writable: bool,
    /// Finished downloads go to it, from the next start on at the latest.
    pub downloads: bool,
}

/// What the page may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplianceRequest {
    /// Answer: `View`.
    View,
    /// The upload is complete: check it, and have it installed. Answer: `Taken`.
    Install {
        /// Also when it is older than what runs.
        forced: bool,
    },
    /// Ends every program, then this. Answer: `Going`.
    Power(Power),
}

/// What becomes of the box after an orderly end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It starts again.
    Restart,
    /// It stays off until somebody takes the plug out and puts it back.
    Off,
}

impl Power {
    /// As the service that does it reads it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Off => "off",
        }
    }
}

/// Answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplianceAnswer {
    /// Everything.
    View(Box<ApplianceView>),
    /// The version that is being installed now.
    Taken(String),
    /// The box goes down now.
    Going,
}
