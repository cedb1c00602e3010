//! Words that the swarm, its traces and its pages share.

use serde::{Deserialize, Serialize};

use super::id::{PeerId, Username};

/// Where bytes of a file come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// A mesh peer: any piece, in any order.
    Mesh(PeerId),
    /// A Soulseek user: one contiguous run from an offset.
    Soulseek(Username),
}

impl Source {
    /// `overlay` or `soulseek` (SPEC-FACTS 15).
    pub fn network(&self) -> &'static str {
        match self {
            Self::Mesh(_) => "overlay",
            Self::Soulseek(_) => "soulseek",
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mesh(peer) => peer.fmt(f),
            Self::Soulseek(user) => user.fmt(f),
        }
    }
}

/// Why a chunk has its priority (SPEC-FACTS 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Priority {
    /// 5.
    Normal,
    /// 6: it failed elsewhere.
    Retry,
    /// 7: the last of the file.
    EndOfFile,
    /// 8: near the playback head.
    NearPlaybackHead,
    /// 9: a rescue.
    RescueMode,
    /// 10: the owner asked.
    UserRequested,
}

impl Priority {
    /// 0 to 10 on the wire; 0 is paused (C16).
    pub fn level(self) -> u8 {
        match self {
            Self::Normal => 5,
            Self::Retry => 6,
            Self::EndOfFile => 7,
            Self::NearPlaybackHead => 8,
            Self::RescueMode => 9,
            Self::UserRequested => 10,
        }
    }
}

/// Why a request is taken back (SPEC-FACTS 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CancelReason {
    /// Others have it, or are asked for it now.
    SwarmRebalanced,
    /// The owner.
    UserCancelled,
    /// It took too long.
    Timeout,
    /// Something broke.
    Error,
    /// A better copy is fetched instead.
    QualityUpgrade,
    /// The owner's rules changed.
    PolicyChange,
    /// Everything is there.
    Complete,
}

impl CancelReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::SwarmRebalanced,
        Self::UserCancelled,
        Self::Timeout,
        Self::Error,
        Self::QualityUpgrade,
        Self::PolicyChange,
        Self::Complete,
    ];

    /// As SPEC-FACTS 10 writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SwarmRebalanced => "swarm_rebalanced",
            Self::UserCancelled => "user_cancelled",
            Self::Timeout => "timeout",
            Self::Error => "error",
            Self::QualityUpgrade => "quality_upgrade",
            Self::PolicyChange => "policy_change",
            Self::Complete => "complete",
        }
    }
}
