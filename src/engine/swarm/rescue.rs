//! Notices a download from Soulseek that hangs (SPEC-FACTS 7), and says what rescue may do about it ([`guard`]).
//!
//! | Rule | Holds when |
//! |---|---|
//! | queued | it waits in the user's queue for at least `queue` |
//! | slow | bytes come, but over the samples of at least `duration` fewer than `throughput_min` a second |
//! | stalled | bytes came, and for `stall` none did |
//! | gone | the user is offline for `stall` |
//!
//! Time that a download waits for us (the login, a slot, room on the disk) counts for none of them. Finding peers, moving
//! bytes and ending a rescue are `app::rescue`'s.

pub mod guard;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::model::id::TransferId;
use crate::model::limits;
use crate::model::rescue::Reason;

/// Between two looks at the downloads, at most (SPEC-FACTS 7).
pub const CHECK: Duration = Duration::from_secs(10);
/// Samples without which a speed means nothing (SPEC-FACTS 7).
const SAMPLES_MIN: usize = 5;
/// A user who sends more bytes a second than that is quick again (SPEC-FACTS 7).
pub const RECOVERED: u64 = 50 * 1024;

/// When a download hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// In the user's queue.
    pub queue: Duration,
    /// Bytes per second; 0: none is slow.
    pub throughput_min: u64,
    /// It must have been slow so long.
    pub duration: Duration,
    /// Without a byte, or with the user offline.
    pub stall: Duration,
    /// Samples kept.
    pub window: usize,
    /// Between two of them.
    pub interval: Duration,
}

impl Rules {
    /// How often downloads are looked at.
    pub fn every(&self) -> Duration {
        CHECK.min(self.interval).max(Duration::from_secs(1))
    }
}

/// What a download is doing, as far as it can hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It waits for us.
    Held,
    /// Its user is offline.
    Offline,
    /// It waits for its user.
    Queued,
    /// It waits for another attempt.
    Failing,
    /// Bytes may come.
    Active,
    /// All bytes are there.
    Placing,
}

/// One download now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub id: TransferId,
    /// What it is doing.
    pub stage: Stage,
    /// Bytes that are there.
    pub bytes: u64,
}

/// Small: there may be thousands, of which few move.
#[derive(Clone, Debug)]
struct Watched {
    bytes: u64,
    /// While bytes may come.
    samples: Option<VecDeque<(Duration, u64)>>,
    /// Milliseconds of waiting for its user, added up since bytes came last.
    queued: u32,
    offline: u32,
    /// Without a byte, since bytes came.
    silent: u32,
    stage: Stage,
    flowed: bool,
    seen: bool,
}

/// Watches all downloads that are not over.
#[derive(Debug)]
pub struct Detector {
    rules: Rules,
    watched: BTreeMap<TransferId, Watched>,
    /// When it looked last.
    at: Duration,
}

impl Detector {
    /// Watches none yet.
    pub fn new(rules: Rules) -> Self {
        Self { rules, watched: BTreeMap::new(), at: Duration::ZERO }
    }

    /// Downloads that are not over, as they are now; beyond `limits::RESCUE_WATCHED` the last are left out. Answers those that hang, and why; one that hangs is told each time.
    pub fn look(&mut self, downloads: &[Seen], now: Duration) -> Vec<(TransferId, Reason)> {
        for watched in self.watched.values_mut() {
            watched.seen = false;
        }
        let mut hang = Vec::new();
        let passed = now.saturating_sub(self.at);
        self.at = now;
        for download in downloads.iter().take(limits::RESCUE_WATCHED) {
            let rules = &self.rules;
            let known = self.watched.contains_key(&download.id);
            let watched = self.watched.entry(download.id).or_insert_with(|| Watched::new(download));
            watched.look(download, rules, if known { passed } else { Duration::ZERO }, now);
            if let Some(reason) = watched.verdict(rules) {
                hang.push((download.id, reason));
            }
        }
        self.watched.retain(|_, watched| watched.seen);
        hang
    }

    /// Since when nothing good happened: what a rescue waited for.
    pub fn hung_for(&self, id: TransferId) -> Duration {
        self.watched.get(&id).map_or(Duration::ZERO, |watched| {
            let waited = if watched.flowed { watched.silent } else { watched.queued };
            Duration::from_millis(waited.max(watched.offline).into())
        })
    }
}

/// Bytes per second from the first of these to the last, if they lie so far apart.
fn speed(samples: &VecDeque<(Duration, u64)>, span_min: Duration) -> Option<u64> {
    let ((from, before), (to, after)) = (samples.front()?, samples.back()?);
    let span = to.saturating_sub(*from);
    let millis = u64::try_from(span.as_millis()).ok().filter(|millis| *millis > 0 && span >= span_min)?;
    Some(after.saturating_sub(*before).saturating_mul(1_000) / millis)
}

impl Watched {
    fn new(seen: &Seen) -> Self {
        Self {
            bytes: seen.bytes,
            samples: None,
            queued: 0,
            offline: 0,
            silent: 0,
            stage: seen.stage,
            // What was there before the program began came at some time too.
            flowed: seen.bytes > 0,
            seen: true,
        }
    }

    fn look(&mut self, seen: &Seen, rules: &Rules, passed: Duration, now: Duration) {
        let passed = u32::try_from(passed.as_millis()).unwrap_or(u32::MAX);
        self.seen = true;
        let moved = seen.bytes > self.bytes;
        if seen.bytes < self.bytes {
            // It began anew: what was measured is of other bytes.
            self.samples = None;
        }
        self.bytes = seen.bytes;
        if moved {
            self.flowed = true;
            (self.queued, self.silent, self.offline) = (0, 0, 0);
        } else {
            // The time since the last look is what the download did then.
            match self.stage {
                Stage::Held | Stage::Placing => {}
                Stage::Offline => {
                    self.offline = self.offline.saturating_add(passed);
                    self.queued = self.queued.saturating_add(passed);
                }
                Stage::Queued | Stage::Failing => {
                    self.queued = self.queued.saturating_add(passed);
                    self.silent = self.silent.saturating_add(passed);
                }
                Stage::Active => self.silent = self.silent.saturating_add(passed),
            }
        }
        if seen.stage != Stage::Offline {
            self.offline = 0;
        }
        self.stage = seen.stage;
        self.sample(rules, now);
    }

    fn sample(&mut self, rules: &Rules, now: Duration) {
        if self.stage != Stage::Active {
            self.samples = None;
            return;
        }
        let window = self.samples.get_or_insert_default();
        if window.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= rules.interval) {
            window.push_back((now, self.bytes));
        }
        while window.len() > rules.window {
            window.pop_front();
        }
    }

    fn verdict(&self, rules: &Rules) -> Option<Reason> {
        let slow = || {
            let window = self.samples.as_ref()?;
            let enough = window.len() >= SAMPLES_MIN.min(rules.window);
            speed(window, rules.duration).filter(|speed| enough && *speed < rules.throughput_min)
        };
        let passed = |waited: u32, limit: Duration| Duration::from_millis(waited.into()) >= limit;
        match self.stage {
            Stage::Held | Stage::Placing => None,
            Stage::Offline => passed(self.offline, rules.stall).then_some(Reason::PeerDisconnected),
            _ if self.flowed && passed(self.silent, rules.stall) => Some(Reason::Stalled),
            Stage::Queued | Stage::Failing => passed(self.queued, rules.queue).then_some(Reason::QueuedTooLong),
            // A connection on which the first byte never came.
            Stage::Active if passed(self.silent, rules.stall) => Some(Reason::Stalled),
            Stage::Active => slow().map(|_| Reason::ThroughputTooLow),
        }
    }
}
