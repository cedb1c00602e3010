//! The choice itself: who is asked next, and for what.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::flow::PIECE;
use super::{Assignment, LEASE_MAX, LEASE_MIN, RUN_MAX, RUNS_MAX, Run, RunId, STREAM_SILENT, Scheduler, Site};
use crate::engine::mesh::exchange::PIECE_LEN;
use crate::model::swarm::{Priority, Source};
use crate::model::trace::TraceKind;

/// Of a thousand pieces so many may be asked for twice at the end: below the 3 % of DESIGN 5.
const TWICE_PERMILLE: usize = 20;
/// And so many of a small file.
const TWICE_MIN: usize = 2;
/// A second request must bring the piece so much sooner, seconds. Chosen: more than a measured rate usually errs.
const SOONER: f64 = 0.1;
/// Runs under way with one source while sources are chosen at random (SPEC-FACTS 10).
const RANDOM_SLOTS: usize = 4;
/// From so few tenths of the file left on, they are its end (SPEC-FACTS 6.3).
const END_TENTHS: usize = 1;

struct Pick {
    source: Source,
    pieces: Range<usize>,
    priority: Priority,
    endgame: bool,
}

impl Scheduler {
    /// The next run to ask for, if there is anything to ask and somebody to be asked. [`Scheduler::tick`] comes before.
    pub fn next(&mut self, now: Duration) -> Option<Assignment> {
        if self.left == 0 {
            return None;
        }
        let pick = self.stream_pick(false, now).or_else(|| {
            if self.settings.cost.enabled {
                self.spoilt_pick(now).or_else(|| self.cheapest_pick(now)).or_else(|| self.second_pick(now))
            } else {
                self.random_pick(now)
            }
        });
        let pick = pick.or_else(|| self.last_pick(now))?;
        self.assign(pick, now)
    }

    /// As [`Scheduler::next`], but of Soulseek users alone: the mesh is not to be asked now.
    pub fn next_stream(&mut self, now: Duration) -> Option<Assignment> {
        if self.left == 0 {
            return None;
        }
        let pick = self.stream_pick(true, now)?;
        self.assign(pick, now)
    }

    fn assign(&mut self, pick: Pick, now: Duration) -> Option<Assignment> {
        let Pick { source, pieces, priority, endgame } = pick;
        let median = self.median_cost();
        let site = self.sources.get(&source)?;
        let known = self.known_cost(site);
        let streams = matches!(source, Source::Soulseek(_));
        let lease = match self.eta(site, pieces.len(), now) {
            _ if streams => STREAM_SILENT,
            Some(own) if own < 60.0 => Duration::from_secs_f64(3.0 * own).clamp(LEASE_MIN, LEASE_MAX),
            _ => LEASE_MAX,
        };
        self.ids += 1;
        let id = RunId(self.ids);
        let until = now.saturating_add(lease);
        let run = Run {
            source: source.clone(),
            pieces: pieces.clone(),
            got: 0,
            fresh: 0,
            asked: now,
            until,
            lease,
            cost: known.unwrap_or(median),
            first_byte: None,
            begun: false,
            endgame,
            over: false,
        };
        if streams {
            self.stream = Some(id);
        } else {
            for asked in &mut self.asked[pieces.clone()] {
                *asked = asked.saturating_add(1);
            }
        }
        let site = self.sources.get_mut(&source)?;
        site.runs.push(id);
        site.record.asked();
        self.runs.insert(id, run);
        self.events.push(TraceKind::ChunkRequested {
            run: id.0,
            source: source.clone(),
            offset: pieces.start as u64 * PIECE_LEN,
            length: pieces.clone().map(|piece| self.piece_len(piece)).sum(),
            priority,
            cost: known,
            endgame,
        });
        Some(Assignment { run: id, source, pieces, until, priority })
    }

    /// Nobody wants to and nothing is under way: whoever can, must. A Soulseek user again, or a peer that sent the piece
    /// wrong before.
    fn last_pick(&mut self, now: Duration) -> Option<Pick> {
        if self.runs.values().any(|run| !run.over) {
            return None;
        }
        self.stream_pick(true, now).or_else(|| {
            let piece = (self.low..self.high).find(|piece| self.is_open(*piece))?;
            let source = self.candidates(now).into_iter().next()?;
            Some(Pick { source, pieces: piece..piece + 1, priority: Priority::Retry, endgame: false })
        })
    }

    /// A Soulseek user, if none is at work. Once the run of one met what was there, the mesh does the rest, if there is
    /// any; unless it cannot (`again`).
    fn stream_pick(&self, again: bool, now: Duration) -> Option<Pick> {
        if self.stream.is_some() {
            return None;
        }
        let is_stream = |source: &Source| matches!(source, Source::Soulseek(_));
        let trusted = |site: &Site| self.trust(site) >= self.settings.reputation.quarantine_threshold;
        let meshed = self.sources.iter().any(|(source, site)| !is_stream(source) && site.usable(now) && trusted(site));
        let met = self.sources.values().any(|site| site.spent);
        let begins = self.verified.first() == Some(&false);
        let mut users: Vec<(bool, f64, &Source)> = self
            .sources
            .iter()
            .filter(|(source, site)| is_stream(source) && site.usable(now) && (begins || !site.whole_only))
            .filter(|(_, site)| site.runs.is_empty() && (again || !(meshed && met)))
            .map(|(source, site)| (site.spent, self.known_cost(site).unwrap_or_default(), source))
            .collect();
        users.sort_by(|a, b| (a.0, a.2).cmp(&(b.0, b.2)).then(a.1.total_cmp(&b.1)));
        let source = users.first()?.2.clone();
        let missing = |piece: &usize| !self.verified[*piece];
        let whole_only = self.sources.get(&source).is_some_and(|site| site.whole_only);
        let start = (0..self.verified.len())
            .find(|piece| missing(piece) && (whole_only || self.asked[*piece] == 0))
            .or_else(|| (0..self.verified.len()).find(missing))?;
        let pieces = start..self.verified.len();
        Some(Pick { source, pieces, priority: self.plain_priority(), endgame: false })
    }

    /// A piece that somebody sent wrong is asked of somebody else at once, whatever that one is worth.
    fn spoilt_pick(&self, now: Duration) -> Option<Pick> {
        let spoilt = self.sources.values().filter(|site| site.here).flat_map(|site| site.bad.iter().copied());
        for piece in spoilt.filter(|piece| self.is_open(*piece)) {
            let fits = |(source, site): &(&Source, &Site)| {
                matches!(source, Source::Mesh(_))
                    && site.usable(now)
                    && self.room(site, now) >= 1
                    && !site.bad.contains(&piece)
            };
            // Trust first, then the time; of whom nothing is known brings it within a second.
            let order = |site: &Site| {
                let doubtful = self.trust(site) < self.settings.reputation.quarantine_threshold;
                (doubtful, self.eta(site, 1, now).unwrap_or(1.0))
            };
            let best = self
                .sources
                .iter()
                .filter(fits)
                .map(|(source, site)| (order(site), source))
                .min_by(|a, b| a.0.0.cmp(&b.0.0).then(a.0.1.total_cmp(&b.0.1)));
            if let Some((_, source)) = best {
                let (source, pieces) = (source.clone(), piece..piece + 1);
                return Some(Pick { source, pieces, priority: Priority::Retry, endgame: false });
            }
        }
        None
    }

    /// The cheapest source with a free slot that would not be the last to finish, and the piece of the highest priority.
    fn cheapest_pick(&mut self, now: Duration) -> Option<Pick> {
        let median = self.median_cost();
        let mut free: Vec<(f64, Source)> = self
            .candidates(now)
            .into_iter()
            .filter_map(|source| Some((self.known_cost(self.sources.get(&source)?).unwrap_or(median), source)))
            .collect();
        free.sort_by(|a, b| a.0.total_cmp(&b.0));
        // While nothing is under way nobody is waited for.
        let idle = self.runs.values().all(|run| run.over);
        let limit = if idle { f64::INFINITY } else { self.horizon(now).max(self.soonest(now)) };
        for (_, source) in free {
            let Some(site) = self.sources.get(&source) else { continue };
            let most = self.room(site, now).min(site.flow.run(now, RUN_MAX));
            let count = match self.eta(site, 1, now) {
                None => 1,
                Some(_) => (1..=most)
                    .rev()
                    .find(|n| self.eta(site, *n, now).is_some_and(|eta| eta <= limit + 1e-6))
                    .unwrap_or(0),
            };
            if count == 0 {
                continue;
            }
            if let Some((pieces, priority)) = self.open(&source, count, now) {
                return Some(Pick { source, pieces, priority, endgame: false });
            }
        }
        None
    }

    /// All pieces are asked for: one that would come late is asked for again.
    fn second_pick(&self, now: Duration) -> Option<Pick> {
        let budget = self.twice_left();
        if budget == 0 || self.has_open() {
            return None;
        }
        let mut free: Vec<(f64, Source)> = self
            .candidates(now)
            .into_iter()
            .filter_map(|source| Some((self.eta(self.sources.get(&source)?, 1, now)?, source)))
            .collect();
        free.sort_by(|a, b| a.0.total_cmp(&b.0));
        if free.is_empty() {
            return None;
        }
        let coming = self.coming(now);
        for (eta, source) in free {
            let site = self.sources.get(&source)?;
            let worth = |piece: &usize, own: f64| {
                coming.get(piece).is_some_and(|(at, askers)| {
                    *askers < 3 && *at > own + SOONER.max(own * 0.25) && !site.bad.contains(piece)
                }) && !site.runs.iter().any(|id| self.runs.get(id).is_some_and(|run| run.pieces.contains(piece)))
            };
            let latest = coming.iter().filter(|(piece, _)| worth(piece, eta)).max_by(|a, b| a.1.0.total_cmp(&b.1.0));
            let Some((&last, _)) = latest else { continue };
            let most = self.room(site, now).min(site.flow.run(now, RUN_MAX)).min(budget);
            let mut pieces = last..last + 1;
            while pieces.len() < most
                && pieces.start > 0
                && self.eta(site, pieces.len() + 1, now).is_some_and(|eta| worth(&(pieces.start - 1), eta))
            {
                pieces.start -= 1;
            }
            return Some(Pick { source, pieces, priority: Priority::EndOfFile, endgame: true });
        }
        None
    }

    fn random_pick(&mut self, now: Duration) -> Option<Pick> {
        let mut free: Vec<Source> = self.candidates(now);
        free.retain(|source| self.sources.get(source).is_some_and(|site| site.runs.len() < RANDOM_SLOTS));
        while !free.is_empty() {
            // Xorshift; Marsaglia 2003.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let at = usize::try_from(self.random % free.len() as u64).unwrap_or_default();
            let source = free.swap_remove(at);
            if let Some((pieces, priority)) = self.open(&source, RUN_MAX, now) {
                return Some(Pick { source, pieces, priority, endgame: false });
            }
            let budget = self.twice_left().min(RUN_MAX);
            let site = self.sources.get(&source)?;
            let oldest = self.runs.values().find(|run| {
                let rest = run.pieces.start + run.got;
                !run.over
                    && run.source != source
                    && rest < run.pieces.end
                    && self.asked[rest] == 1
                    && !self.verified[rest]
                    && !site.bad.contains(&rest)
            });
            if let Some(run) = oldest.filter(|_| budget > 0) {
                let start = run.pieces.start + run.got;
                let pieces = start..run.pieces.end.min(start + budget);
                return Some(Pick { source, pieces, priority: Priority::EndOfFile, endgame: true });
            }
        }
        None
    }

    /// Mesh sources that may be asked now and have room. Those of bad reputation only if there are no others.
    fn candidates(&self, now: Duration) -> Vec<Source> {
        let threshold = self.settings.reputation.quarantine_threshold;
        let trusted = |site: &Site| self.trust(site) >= threshold;
        let works = |source: &Source, site: &Site| matches!(source, Source::Mesh(_)) || !site.runs.is_empty();
        let anybody =
            self.sources.iter().any(|(source, site)| site.usable(now) && trusted(site) && works(source, site));
        self.sources
            .iter()
            .filter(|(source, site)| {
                matches!(source, Source::Mesh(_))
                    && site.usable(now)
                    && (!anybody || trusted(site))
                    && self.room(site, now) >= 1
            })
            .map(|(source, _)| source.clone())
            .collect()
    }

    /// Pieces that a source should be asked for besides what it has: none until there is room for a whole run.
    pub(super) fn room(&self, site: &Site, now: Duration) -> usize {
        if site.runs.len() >= RUNS_MAX {
            return 0;
        }
        if !self.settings.cost.enabled {
            return RUN_MAX;
        }
        let free = ((site.flow.window(now) - self.queued(site)) / PIECE).max(0.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and small")]
        let whole = free as usize;
        if whole >= site.flow.least(now, RUN_MAX) { whole } else { 0 }
    }

    /// Bytes it was asked for that did not come yet.
    fn queued(&self, site: &Site) -> f64 {
        let rest = |id: &RunId| self.runs.get(id).map_or(0, |run| run.pieces.len().saturating_sub(run.got));
        #[expect(clippy::cast_precision_loss, reason = "a number of pieces")]
        let pieces = site.runs.iter().map(rest).sum::<usize>() as f64;
        pieces * PIECE
    }

    /// Seconds until a source would have delivered so many more pieces; `None` while its rate is not known.
    fn eta(&self, site: &Site, pieces: usize, now: Duration) -> Option<f64> {
        let rate = site.flow.rate(now)?.max(1.0);
        #[expect(clippy::cast_precision_loss, reason = "a number of pieces")]
        let more = pieces as f64 * PIECE;
        Some(((self.queued(site) + more) / rate).max(site.flow.rtt() + more / rate))
    }

    /// The soonest that anybody would deliver one more piece, free or not.
    fn soonest(&self, now: Duration) -> f64 {
        let threshold = self.settings.reputation.quarantine_threshold;
        self.sources
            .iter()
            .filter(|(source, site)| {
                matches!(source, Source::Mesh(_)) && site.usable(now) && self.trust(site) >= threshold
            })
            .filter_map(|(_, site)| self.eta(site, 1, now))
            .fold(f64::INFINITY, f64::min)
    }

    /// Seconds until the whole file could be there, if every source worked at its rate to the end. Infinite while nothing
    /// is known.
    fn horizon(&self, now: Duration) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a number of pieces")]
        let mut left = self.left as f64 * PIECE;
        let mut sites: Vec<(f64, f64, f64)> = self
            .sources
            .iter()
            .filter(|(_, site)| site.usable(now))
            .filter_map(|(source, site)| {
                let streams = self.stream.is_some_and(|id| site.runs.contains(&id));
                if !streams && matches!(source, Source::Soulseek(_)) {
                    return None;
                }
                let queued = if streams { 0.0 } else { self.queued(site) };
                let wait = if site.runs.is_empty() { site.flow.rtt() } else { 0.0 };
                Some((site.flow.rate(now)?.max(1.0), queued, wait))
            })
            .collect();
        loop {
            let rates: f64 = sites.iter().map(|(rate, ..)| rate).sum();
            if sites.is_empty() || rates <= 0.0 {
                return f64::INFINITY;
            }
            let time = (left + sites.iter().map(|(rate, _, wait)| rate * wait).sum::<f64>()) / rates;
            let before = sites.len();
            // Who has more than it can do until then does only that.
            sites.retain(|(rate, queued, _)| {
                let stuck = queued / rate > time;
                if stuck {
                    left -= queued;
                }
                !stuck
            });
            if sites.len() == before {
                return time.max(0.0);
            }
        }
    }

    /// Pieces under way: the seconds until the first asker will have delivered each, and how many askers there are.
    fn coming(&self, now: Duration) -> BTreeMap<usize, (f64, u8)> {
        let mut coming: BTreeMap<usize, (f64, u8)> = BTreeMap::new();
        for site in self.sources.values() {
            let mut before = 0.0;
            for run in site.runs.iter().filter_map(|id| self.runs.get(id)) {
                let waited = now.saturating_sub(run.asked).as_secs_f64();
                let mut own = 0.0;
                for piece in run.pieces.start + run.got..run.pieces.end {
                    (before, own) = (before + PIECE, own + PIECE);
                    let at = match site.flow.rate(now) {
                        Some(rate) => (before / rate.max(1.0)).max(site.flow.rtt() + own / rate.max(1.0) - waited),
                        // As long again as it has taken.
                        None => waited.max(0.25),
                    };
                    if !self.verified[piece] {
                        let entry = coming.entry(piece).or_insert((at, 0));
                        *entry = (entry.0.min(at), entry.1.saturating_add(1));
                    }
                }
            }
        }
        coming
    }

    /// Pieces that may still be asked for a second time.
    fn twice_left(&self) -> usize {
        let most = (self.verified.len() * TWICE_PERMILLE / 1_000).max(TWICE_MIN);
        let under_way = self.runs.values().filter(|run| run.endgame && !run.over);
        let used = under_way.map(|run| run.pieces.len() - run.got.min(run.pieces.len())).sum::<usize>();
        most.saturating_sub(used).saturating_sub(usize::try_from(self.twice).unwrap_or(usize::MAX))
    }

    fn plain_priority(&self) -> Priority {
        if self.rescues {
            return Priority::RescueMode;
        }
        if self.left * 10 <= self.verified.len() * END_TENTHS { Priority::EndOfFile } else { Priority::Normal }
    }

    fn is_open(&self, piece: usize) -> bool {
        self.verified.get(piece) == Some(&false) && self.asked[piece] == 0
    }

    fn has_open(&self) -> bool {
        (self.low..self.high).any(|piece| self.is_open(piece))
    }

    /// Up to so many open pieces in a row, of the highest priority; ahead of a stream the farthest.
    fn open(&mut self, source: &Source, count: usize, now: Duration) -> Option<(Range<usize>, Priority)> {
        while self.low < self.high && !self.is_open(self.low) {
            self.low += 1;
        }
        while self.high > self.low && !self.is_open(self.high - 1) {
            self.high -= 1;
        }
        let site = self.sources.get(source)?;
        let others = self.sources.values().filter(|site| site.usable(now)).count() > 1;
        // What it sent wrong is asked of others, if there are any.
        let fits = |piece: usize| self.is_open(piece) && !(others && site.bad.contains(&piece));
        let plain = self.plain_priority();
        let raised =
            self.raised.iter().filter(|(piece, _)| fits(**piece)).max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0)));
        if let Some((&start, &priority)) = raised.filter(|(_, priority)| priority.level() > Priority::Normal.level()) {
            let same = |piece: usize| fits(piece) && self.raised.get(&piece) == Some(&priority);
            let end = (start + 1..start + count).find(|piece| !same(*piece)).unwrap_or(start + count);
            return Some((start..end.min(self.verified.len()), priority));
        }
        let usual = |piece: usize| fits(piece) && !self.raised.contains_key(&piece);
        if let Some(run) = self.stream.and_then(|id| self.runs.get(&id)) {
            // The stream would be there first.
            let stream = self.sources.get(&run.source)?;
            let position = run.pieces.start + run.got;
            let own = self.eta(site, 1, now).unwrap_or_default();
            let last = (position..self.high).rev().find(|piece| usual(*piece))?;
            #[expect(clippy::cast_precision_loss, reason = "a number of pieces")]
            let away = (last + 1 - position) as f64 * PIECE;
            if stream.flow.rate(now).is_some_and(|rate| away / rate.max(1.0) <= own) {
                return None;
            }
            let first = (position..last).rev().take(count - 1).take_while(|piece| usual(*piece)).last();
            return Some((first.unwrap_or(last)..last + 1, plain));
        }
        if self.rescues {
            let last = (self.low..self.high).rev().find(|piece| usual(*piece))?;
            let first = (self.low..last).rev().take(count - 1).take_while(|piece| usual(*piece)).last();
            return Some((first.unwrap_or(last)..last + 1, plain));
        }
        let start = (self.low..self.high).find(|piece| usual(*piece))?;
        let end = (start + 1..(start + count).min(self.high)).find(|piece| !usual(*piece));
        Some((start..end.unwrap_or((start + count).min(self.high)), plain))
    }
}
