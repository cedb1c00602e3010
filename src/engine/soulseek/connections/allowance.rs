//! How many dials may begin: a bucket of `limits::DIALS_PER_SECOND`, refilled evenly.

use std::time::Duration;

use crate::model::limits;

/// Between two dials once the bucket is empty.
const INTERVAL: Duration = Duration::from_millis(1_000 / limits::DIALS_PER_SECOND as u64);
/// A full bucket, as time: one second's dials at once.
const BURST: Duration = Duration::from_secs(1);

/// The generic cell rate algorithm: `full_at` is when the bucket is full again.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    full_at: Duration,
}

impl Allowance {
    /// When the next dial may begin.
    pub(super) fn next(&self) -> Duration {
        self.full_at.saturating_add(INTERVAL).saturating_sub(BURST)
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        if self.next() > now {
            return false;
        }
        self.full_at = self.full_at.max(now).saturating_add(INTERVAL);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_at_once_then_ten_a_second() {
        let mut allowance = Allowance::default();
        let mut begun = 0;
        for ms in 0..5_000 {
            while allowance.take(Duration::from_millis(100_000 + ms)) {
                begun += 1;
            }
            if ms == 0 {
                assert_eq!(begun, 10);
            }
        }
        assert_eq!(begun, 10 + 49);
        assert!(allowance.next() > Duration::from_millis(104_999));
    }
}
