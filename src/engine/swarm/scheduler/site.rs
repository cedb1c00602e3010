//! One source of the file: how it stands, what it has done, and what of that was not kept yet.
//!
//! Several files may come from one source at a time, and each has a record of its own. So what is to be kept is told as
//! what is new, never as the whole: the store adds it to what the others told.

use std::time::Duration;

use super::flow::Flow;
use super::{RunId, Scheduler};
use crate::engine::swarm::cost::{cost, median};
use crate::engine::swarm::metrics::SourceMetrics;
use crate::engine::swarm::reputation::{NEUTRAL, Reputation};
use crate::model::swarm::Source;
use crate::model::trace::ChunkResult;

/// What a source has done for the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Pieces that were verified first from here.
    pub pieces: u64,
    /// Proven bad pieces.
    pub bad: u32,
    /// Runs that failed or took too long.
    pub failed: u64,
    /// It gets no more of this file.
    pub dropped: bool,
}

/// What a source is worth now, for pages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Worth {
    /// If known.
    pub cost: Option<f64>,
    /// Bytes per second, if known.
    pub rate: Option<f64>,
    /// Seconds to the first byte, average.
    pub rtt_s: f64,
    /// 0 to 1.
    pub reputation: f64,
    /// Runs under way.
    pub runs: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) share: Share,
    pub(super) record: Record,
    pub(super) flow: Flow,
    /// Under way, in the order they were asked for.
    pub(super) runs: Vec<RunId>,
    pub(super) rests_until: Duration,
    pub(super) failures: u32,
    pub(super) here: bool,
    /// A Soulseek user whose run was ended because the rest was there.
    pub(super) spent: bool,
    /// A Soulseek user who sends nothing from an offset.
    pub(super) whole_only: bool,
    /// Pieces that it sent wrong; at most [`super::BAD_MAX`].
    pub(super) bad: Vec<usize>,
}

impl Site {
    /// One that is not here yet, with what is known of it from before.
    pub(super) fn new(metrics: SourceMetrics, known: Reputation) -> Self {
        let good = metrics.completed > 0 && known.score() > NEUTRAL;
        Self {
            share: Share::default(),
            record: Record { metrics, news: SourceMetrics::default(), known, deeds: Reputation::default() },
            flow: Flow::new(good),
            runs: Vec::new(),
            rests_until: Duration::ZERO,
            failures: 0,
            here: false,
            spent: false,
            whole_only: false,
            bad: Vec::new(),
        }
    }

    /// Whether it can be asked at all.
    pub(super) fn usable(&self, now: Duration) -> bool {
        self.here && !self.share.dropped && self.rests_until <= now
    }
}

/// What is measured of a source, and what it did.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// All that is known, from before and from here.
    metrics: SourceMetrics,
    /// From here, since it was told last.
    news: SourceMetrics,
    /// What was told of its deeds, and what was known before.
    known: Reputation,
    /// Its deeds since.
    deeds: Reputation,
}

impl Record {
    fn measured(&mut self, what: impl Fn(&mut SourceMetrics)) {
        what(&mut self.metrics);
        what(&mut self.news);
    }

    pub(super) fn rtt(&mut self, took: Duration) {
        self.measured(|metrics| metrics.rtt_ms.add(took.as_secs_f64() * 1_000.0));
    }

    pub(super) fn throughput(&mut self, bytes_per_s: f64) {
        self.measured(|metrics| metrics.throughput_sample(bytes_per_s));
    }

    pub(super) fn asked(&mut self) {
        self.measured(|metrics| metrics.requested = metrics.requested.saturating_add(1));
    }

    pub(super) fn brought(&mut self, bytes: u64) {
        self.measured(|metrics| metrics.total_bytes = metrics.total_bytes.saturating_add(bytes));
    }

    pub(super) fn sent_bad(&mut self) {
        self.measured(|metrics| metrics.corrupted = metrics.corrupted.saturating_add(1));
        self.deeds.corrupt += 1.0;
    }

    pub(super) fn ended(&mut self, result: ChunkResult) {
        match result {
            ChunkResult::Ok => {
                self.measured(|metrics| metrics.completed = metrics.completed.saturating_add(1));
                self.deeds.successful += 1.0;
            }
            ChunkResult::Timeout => {
                self.measured(|metrics| metrics.timed_out = metrics.timed_out.saturating_add(1));
                self.deeds.timed_out += 1.0;
            }
            ChunkResult::Error => self.measured(|metrics| metrics.failed = metrics.failed.saturating_add(1)),
            // Counted with the piece.
            ChunkResult::Corruption => {}
        }
    }

    pub(super) fn failed(&mut self) {
        self.deeds.failed += 1.0;
    }

    fn take(&mut self) -> Option<(SourceMetrics, Reputation)> {
        let (news, deeds) = (std::mem::take(&mut self.news), std::mem::take(&mut self.deeds));
        self.known = self.known.with(&deeds);
        (news != SourceMetrics::default() || deeds != Reputation::default()).then_some((news, deeds))
    }
}

#[cfg(test)]
impl Record {
    pub(super) fn metrics(&self) -> &SourceMetrics {
        &self.metrics
    }

    pub(super) fn deeds(&self) -> &Reputation {
        &self.deeds
    }
}

impl Scheduler {
    /// What each source did, those that are gone included.
    pub fn shares(&self) -> impl Iterator<Item = (&Source, Share)> {
        self.sources.iter().map(|(source, site)| (source, site.share))
    }

    /// What a source is worth now.
    pub fn worth(&self, source: &Source, now: Duration) -> Option<Worth> {
        let site = self.sources.get(source)?;
        Some(Worth {
            cost: self.known_cost(site),
            rate: site.flow.rate(now),
            rtt_s: site.record.metrics.rtt_ms.average / 1_000.0,
            reputation: self.trust(site),
            runs: site.runs.len(),
        })
    }

    /// What was measured of each source and what it did since this was last asked, to be added to what is kept.
    pub fn records(&mut self) -> Vec<(Source, SourceMetrics, Reputation)> {
        let take = |(source, site): (&Source, &mut Site)| {
            site.record.take().map(|(news, deeds)| (source.clone(), news, deeds))
        };
        self.sources.iter_mut().filter_map(take).collect()
    }

    pub(super) fn trust(&self, site: &Site) -> f64 {
        if self.settings.reputation.enabled { site.record.known.with(&site.record.deeds).score() } else { NEUTRAL }
    }

    pub(super) fn known_cost(&self, site: &Site) -> Option<f64> {
        cost(&site.record.metrics, self.trust(site), &self.settings.cost)
    }

    pub(super) fn median_cost(&self) -> f64 {
        median(self.sources.values().filter(|site| site.here).filter_map(|site| self.known_cost(site)).collect())
    }
}
