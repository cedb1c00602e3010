//! The one real clock: nothing else in the program reads time for a decision.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::model::time::{Now, UnixMs};

/// Reads both clocks; made once.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    /// Monotonic time counts from here.
    #[expect(clippy::disallowed_methods, reason = "the one real clock")]
    pub fn start() -> Self {
        Self { began: Instant::now() }
    }

    /// Both clocks, now. A calendar before 1970 reads as 1970.
    #[expect(clippy::disallowed_methods, reason = "the one real clock")]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.began.elapsed(), wall: UnixMs(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)) }
    }
}
