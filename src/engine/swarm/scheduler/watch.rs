//! What time brings: leases that end, sources that became slow, moments to look again.

use std::time::Duration;

use super::{LEASE_MAX, RunId, Scheduler};
use crate::model::swarm::{CancelReason, Source};
use crate::model::trace::{ChunkResult, TraceKind};

/// One that is slower for so long is left for another (SPEC-FACTS 6.4), bytes per second.
const STREAM_SLOW: (f64, Duration) = (5_000.0, Duration::from_secs(12));
/// While our own speed limit holds bytes up, a source that sends is heard of at least so often: each waits for its turn.
/// Chosen: sixteen sources with eight runs each, at 2 KB/s.
const SILENT: Duration = Duration::from_secs(30);
/// Rebalancing twice within this time would undo itself (C12).
const REBALANCE_MIN: Duration = Duration::from_secs(5);
/// How often a source that could do more is looked at again while nothing else happens.
const LOOK: Duration = Duration::from_millis(50);

impl Scheduler {
    /// Ends what took too long, and takes work back from sources that became slow.
    pub fn tick(&mut self, now: Duration) {
        let late: Vec<RunId> =
            self.runs.iter().filter(|(_, run)| !run.over && run.until <= now).map(|(id, _)| *id).collect();
        for id in late {
            self.late(id, now);
        }
        self.leave_slow_stream(now);
        let rested = now.saturating_sub(self.rebalanced);
        let due = self.chunks_since >= self.settings.rebalance_chunks || rested >= self.settings.rebalance_interval;
        if self.settings.rebalance && self.settings.cost.enabled && due && rested >= REBALANCE_MIN {
            (self.rebalanced, self.chunks_since) = (now, 0);
            self.rebalance(now);
        }
    }

    fn late(&mut self, id: RunId, now: Duration) {
        let alone = self.sources.values().filter(|site| site.usable(now)).count() < 2;
        let limited = self.is_limited(now);
        let Some(run) = self.runs.get_mut(&id).filter(|run| !run.over) else { return };
        let source = run.source.clone();
        let Some(site) = self.sources.get(&source) else { return };
        let some = run.lease / 3;
        let silent = |time: Duration| now.saturating_sub(site.flow.heard.unwrap_or(run.asked)) >= time;
        if limited && !silent(SILENT) {
            // It waits for us.
            run.until = now.saturating_add(some);
            return;
        }
        let lively = site.flow.heard.is_some() && !silent(some);
        let in_time = now.saturating_sub(run.asked) < LEASE_MAX || alone;
        if lively && in_time && self.stream != Some(id) {
            run.until = now.saturating_add(some);
            return;
        }
        // What the source was asked for besides and has not begun would be late too.
        let waiting = |id: &RunId| self.runs.get(id).is_some_and(|run| !run.begun);
        let others: Vec<RunId> = site.runs.iter().copied().filter(|other| *other != id && waiting(other)).collect();
        self.close(id, ChunkResult::Timeout, now);
        self.cancels.push((id, CancelReason::Timeout));
        self.fail(&source, false, now);
        if !lively {
            for other in others {
                self.take_back(other, CancelReason::SwarmRebalanced);
            }
        }
    }

    fn leave_slow_stream(&mut self, now: Duration) {
        let Some((id, run)) = self.stream.and_then(|id| Some((id, self.runs.get(&id)?))) else { return };
        let long = run.first_byte.is_some_and(|first| now.saturating_sub(first) >= STREAM_SLOW.1);
        let Some(site) = self.sources.get(&run.source) else { return };
        let slow = site.flow.rate(now).is_some_and(|rate| rate < STREAM_SLOW.0);
        let source = run.source.clone();
        let another = self.sources.iter().any(|(other, site)| {
            matches!(other, Source::Soulseek(_)) && *other != source && site.usable(now) && !site.spent
        });
        if long && slow && another && !self.is_limited(now) {
            self.close(id, ChunkResult::Timeout, now);
            self.cancels.push((id, CancelReason::Timeout));
            self.fail(&source, false, now);
        }
    }

    fn rebalance(&mut self, now: Duration) {
        if self.sources.values().filter(|site| site.usable(now)).count() < 2 {
            return;
        }
        let sources: Vec<Source> = self.sources.keys().cloned().collect();
        for source in sources {
            let Some(site) = self.sources.get(&source) else { continue };
            let Some(cost_now) = self.known_cost(site) else { continue };
            let degraded = |id: &&RunId| {
                self.runs.get(id).is_some_and(|run| {
                    !run.begun && self.stream != Some(**id) && cost_now > self.settings.rebalance_threshold * run.cost
                })
            };
            let runs: Vec<RunId> = site.runs.iter().filter(degraded).copied().collect();
            let Some(cost_then) = runs.first().and_then(|id| self.runs.get(id)).map(|run| run.cost) else { continue };
            let count = runs.len() as u64;
            self.events.push(TraceKind::SwarmRebalanced { source, cost_then, cost_now, runs: count });
            for run in runs {
                self.take_back(run, CancelReason::SwarmRebalanced);
            }
        }
    }

    /// When there may be something to do that nothing else tells.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        if self.left == 0 {
            return None;
        }
        let leases = self.runs.values().filter(|run| !run.over).map(|run| run.until);
        let sites = || self.sources.values().filter(|site| site.here && !site.share.dropped);
        let rests = sites().map(|site| site.rests_until).filter(|until| *until > now);
        let roomy = sites().any(|site| site.rests_until <= now && self.room(site, now) >= 1);
        let look = (roomy && !self.runs.is_empty()).then(|| now.saturating_add(LOOK));
        let busy = self.settings.rebalance && !self.runs.is_empty();
        let balance = busy.then(|| self.rebalanced.saturating_add(self.settings.rebalance_interval).max(now + LOOK));
        leases.chain(rests).chain(look).chain(balance).min()
    }
}
