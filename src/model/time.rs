//! Time as an argument. Only `app::clock` makes a `Now`; everything else is handed one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01 UTC by the box's calendar clock, which may be wrong and may jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// This moment and a while.
    #[must_use]
    pub fn plus(self, while_: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(while_.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the process began; never goes back. Deadlines and durations are made of this.
    pub mono: Duration,
    /// The calendar. Records and pages show this; nothing is decided by it but what must outlive a restart.
    pub wall: UnixMs,
}

impl Now {
    /// The monotonic moment `after` from now.
    pub fn in_(&self, after: Duration) -> Duration {
        self.mono.saturating_add(after)
    }
}
