//! How a connection ends.

use std::io;

use crate::engine::soulseek::frame::FrameError;

/// Why a connection's task ends.
#[derive(Debug)]
pub(super) enum End {
    /// We ended it, or handed its socket over: nobody needs to be told.
    Ours,
    /// It is gone.
    Gone {
        /// For the log; empty for an ordinary end.
        reason: String,
    },
    /// The other side broke the protocol.
    Violation {
        /// How.
        reason: String,
    },
}

impl End {
    /// It is gone, for this reason.
    pub(super) fn gone(reason: impl Into<String>) -> Self {
        Self::Gone { reason: reason.into() }
    }

    /// The other side broke the protocol.
    pub(super) fn violation(reason: impl Into<String>) -> Self {
        Self::Violation { reason: reason.into() }
    }

    /// Whether the other side broke the protocol.
    #[cfg(test)]
    pub(super) fn is_violation(&self) -> bool {
        matches!(self, Self::Violation { .. })
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The stream ended between messages, or where the rest of one should be: the other side hung up.
            io::ErrorKind::UnexpectedEof => Self::gone("the stream ends within a message"),
            _ => Self::gone(error.to_string()),
        }
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        Self::violation(error.to_string())
    }
}
