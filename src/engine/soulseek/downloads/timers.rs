//! Deadlines of downloads: one per thing that waits, found in the order they pass.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::id::{CommandId, TransferId, Username};

/// What waits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A download in its present phase.
    Download(TransferId),
    /// A user we leave alone for a while.
    User(Username),
    /// Somebody wants to know a place in queue.
    Place(CommandId),
    /// A user is asked about a finished file.
    Origin(TransferId),
    /// The disk was full.
    Disk,
    /// Enough was asked for in this second.
    Pace,
}

/// At most one deadline per timer.
#[derive(Debug, Default)]
pub(super) struct Timers {
    at: BTreeMap<Timer, Duration>,
    order: BTreeSet<(Duration, Timer)>,
}

impl Timers {
    /// Sets or moves a deadline.
    pub(super) fn set(&mut self, timer: Timer, at: Duration) {
        self.clear(&timer);
        self.at.insert(timer.clone(), at);
        self.order.insert((at, timer));
    }

    /// Forgets a deadline.
    pub(super) fn clear(&mut self, timer: &Timer) {
        if let Some(at) = self.at.remove(timer) {
            self.order.remove(&(at, timer.clone()));
        }
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Duration> {
        self.order.first().map(|(at, _)| *at)
    }

    /// One timer's deadline.
    #[cfg(test)]
    pub(super) fn deadline(&self, timer: &Timer) -> Option<Duration> {
        self.at.get(timer).copied()
    }

    /// Takes out one that has passed.
    pub(super) fn pop(&mut self, mono: Duration) -> Option<Timer> {
        if self.next()? > mono {
            return None;
        }
        let (_, timer) = self.order.pop_first()?;
        self.at.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_pass_in_order_and_once() {
        let s = Duration::from_secs;
        let mut timers = Timers::default();
        timers.set(Timer::Disk, s(5));
        timers.set(Timer::Pace, s(3));
        timers.set(Timer::Disk, s(2));
        timers.set(Timer::Place(CommandId(1)), s(1));
        timers.clear(&Timer::Place(CommandId(1)));
        assert_eq!(timers.next(), Some(s(2)));
        assert_eq!(timers.pop(s(1)), None);
        assert_eq!(timers.pop(s(9)), Some(Timer::Disk));
        assert_eq!(timers.pop(s(9)), Some(Timer::Pace));
        assert_eq!(timers.pop(s(9)), None);
        assert_eq!(timers.next(), None);
    }
}
