//! Which source fetches which pieces next.
//!
//! A run is 1 to 8 pieces in a row, asked from one source. Free slots are filled in turn; the first missing run goes to
//! the source whose turn it is. When nothing is missing but runs are still under way, idle sources are given the oldest of
//! them too: the first to verify wins. A run that is not done when its lease ends is taken back. A source that sent three
//! proven bad pieces is dropped from the file (DECISIONS 4); one that fails rests a while, longer each time.
//!
//! What a piece's bytes must be is `list`'s; asking and storing is done elsewhere.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::model::id::PeerId;

/// Longest run (SPEC-FACTS 10: 512 KiB).
pub const RUN_MAX: usize = 8;
/// Runs under way with one source (SPEC-FACTS 10).
pub const SLOTS: usize = 4;
/// Proven bad pieces after which a source is dropped (DECISIONS 4).
pub const BAD_MAX: u32 = 3;
/// The first lease of a source, and the longest (SPEC-FACTS 6.4: 10 s for 512 KiB).
const LEASE: Duration = Duration::from_secs(10);
/// The shortest: below it a busy moment of either side would count as a stall. Chosen.
const LEASE_MIN: Duration = Duration::from_secs(2);
/// Rest after a failure; doubles with each in a row.
const REST: Duration = Duration::from_secs(1);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(60);

/// One run under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// What to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Its name from now on.
    pub run: RunId,
    /// Whom to ask.
    pub source: PeerId,
    /// Which pieces.
    pub pieces: Range<usize>,
    /// When it is taken back, by the monotonic clock.
    pub until: Duration,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All of it came.
    Whole,
    /// The lease ended, the source failed or went, or it refused for now.
    Failed,
    /// The source says it has no such file, or gives us nothing.
    Never,
    /// It was taken back by us: others had all of it first.
    Cancelled,
}

/// What a source has done for the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Pieces that were verified first from here.
    pub pieces: u64,
    /// Proven bad pieces.
    pub bad: u32,
    /// Runs that failed.
    pub failed: u64,
    /// It gets no more of this file.
    pub dropped: bool,
}

#[derive(Debug, Default)]
struct Source {
    share: Share,
    busy: usize,
    rests_until: Duration,
    failures: u32,
    /// Smoothed time of a run.
    run_time: Option<Duration>,
    here: bool,
}

impl Source {
    /// Three times its own time (DESIGN 5).
    fn lease(&self) -> Duration {
        self.run_time.map_or(LEASE, |time| time.saturating_mul(3).clamp(LEASE_MIN, LEASE))
    }
}

#[derive(Debug)]
struct Run {
    source: PeerId,
    pieces: Range<usize>,
    began: Duration,
    until: Duration,
}

/// One file being fetched.
#[derive(Debug)]
pub struct Scheduler {
    verified: Vec<bool>,
    left: usize,
    /// Runs that ask for each piece now.
    asked: Vec<u8>,
    sources: BTreeMap<PeerId, Source>,
    /// Whose turn it was last.
    last: Option<PeerId>,
    runs: BTreeMap<RunId, Run>,
    ids: u64,
    /// Pieces that came when they were there already.
    twice: u64,
}

impl Scheduler {
    /// For a file of which these pieces are there already.
    pub fn new(verified: Vec<bool>) -> Self {
        let left = verified.iter().filter(|there| !**there).count();
        Self {
            left,
            asked: vec![0; verified.len()],
            verified,
            sources: BTreeMap::new(),
            last: None,
            runs: BTreeMap::new(),
            ids: 0,
            twice: 0,
        }
    }

    /// Pieces that are not there yet.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Which pieces are there.
    pub fn verified(&self) -> &[bool] {
        &self.verified
    }

    /// Pieces that came when another source had brought them already.
    pub fn twice(&self) -> u64 {
        self.twice
    }

    /// What each source did, those that are gone included.
    pub fn shares(&self) -> impl Iterator<Item = (PeerId, Share)> {
        self.sources.iter().map(|(peer, source)| (*peer, source.share))
    }

    /// Whether this source is known, here and not dropped.
    pub fn has(&self, peer: PeerId) -> bool {
        self.sources.get(&peer).is_some_and(|source| source.here)
    }

    /// Sources that are here and not dropped.
    pub fn here(&self) -> usize {
        self.sources.values().filter(|source| source.here && !source.share.dropped).count()
    }

    /// A source is here, perhaps again.
    pub fn came(&mut self, peer: PeerId) {
        self.sources.entry(peer).or_default().here = true;
    }

    /// A source is gone. Its runs are told one by one by [`Scheduler::ended`].
    pub fn went(&mut self, peer: PeerId) {
        if let Some(source) = self.sources.get_mut(&peer) {
            source.here = false;
        }
    }

    /// The next run to ask for, if there is anything to ask and somebody to be asked.
    pub fn next(&mut self, now: Duration) -> Option<Assignment> {
        if self.left == 0 {
            return None;
        }
        let free =
            |source: &Source| source.here && !source.share.dropped && source.busy < SLOTS && source.rests_until <= now;
        let behind = self.sources.range((
            self.last.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded),
            std::ops::Bound::Unbounded,
        ));
        let turn: Vec<PeerId> =
            behind.chain(self.sources.iter()).filter(|(_, source)| free(source)).map(|(peer, _)| *peer).collect();
        for peer in turn {
            let Some(pieces) = self.missing().or_else(|| self.late_run(peer)) else { continue };
            return Some(self.assign(peer, pieces, now));
        }
        None
    }

    fn assign(&mut self, peer: PeerId, pieces: Range<usize>, now: Duration) -> Assignment {
        self.ids += 1;
        let run = RunId(self.ids);
        let source = self.sources.entry(peer).or_default();
        source.busy += 1;
        let until = now.saturating_add(source.lease());
        for asked in &mut self.asked[pieces.clone()] {
            *asked = asked.saturating_add(1);
        }
        self.last = Some(peer);
        self.runs.insert(run, Run { source: peer, pieces: pieces.clone(), began: now, until });
        Assignment { run, source: peer, pieces, until }
    }

    /// The first pieces that nobody is asked for.
    fn missing(&self) -> Option<Range<usize>> {
        let wanted = |at: &usize| !self.verified[*at] && self.asked[*at] == 0;
        let first = (0..self.verified.len()).find(wanted)?;
        let count = (first..self.verified.len()).take(RUN_MAX).take_while(wanted).count();
        Some(first..first + count)
    }

    /// What is still missing of the oldest run of somebody else that only one source is asked for.
    fn late_run(&self, peer: PeerId) -> Option<Range<usize>> {
        self.runs.values().filter(|run| run.source != peer).find_map(|run| {
            let wanted = |at: &usize| !self.verified[*at] && self.asked[*at] == 1;
            let first = run.pieces.clone().find(wanted)?;
            let count = (first..run.pieces.end).take_while(wanted).count();
            Some(first..first + count)
        })
    }

    /// Who was asked for this run, while it is under way.
    pub fn source(&self, run: RunId) -> Option<PeerId> {
        self.runs.get(&run).map(|run| run.source)
    }

    /// Whether a piece of this run is still wanted. Once none is, the run is better cancelled.
    pub fn is_wanted(&self, run: RunId) -> bool {
        self.runs.get(&run).is_some_and(|run| run.pieces.clone().any(|at| !self.verified[at]))
    }

    /// A piece of a run came, was checked and, if good and new, stored. Answers whether it is the first good one.
    pub fn piece(&mut self, run: RunId, piece: usize, good: bool) -> bool {
        let Some(source) = self.runs.get(&run).map(|run| run.source) else { return false };
        let Some(source) = self.sources.get_mut(&source) else { return false };
        if !good {
            source.share.bad = source.share.bad.saturating_add(1);
            source.share.dropped |= source.share.bad >= BAD_MAX;
            return false;
        }
        match self.verified.get_mut(piece) {
            Some(there) if !*there => {
                *there = true;
                self.left -= 1;
                source.share.pieces += 1;
                true
            }
            _ => {
                self.twice += 1;
                false
            }
        }
    }

    /// A run is over. Each is told once; others mean nothing.
    pub fn ended(&mut self, run: RunId, how: Ended, now: Duration) {
        let Some(run) = self.runs.remove(&run) else { return };
        for asked in &mut self.asked[run.pieces.clone()] {
            *asked = asked.saturating_sub(1);
        }
        let Some(source) = self.sources.get_mut(&run.source) else { return };
        source.busy = source.busy.saturating_sub(1);
        match how {
            Ended::Whole => {
                source.failures = 0;
                let time = now.saturating_sub(run.began);
                // A third of the new one, as SPEC-FACTS 6.1 smooths.
                source.run_time = Some(source.run_time.map_or(time, |old| (old * 7 + time * 3) / 10));
            }
            Ended::Failed => {
                source.share.failed += 1;
                // Runs that fail together count once.
                if source.rests_until <= now {
                    source.failures = source.failures.saturating_add(1);
                    let rest = REST.saturating_mul(1_u32 << (source.failures - 1).min(6)).min(REST_MAX);
                    source.rests_until = now.saturating_add(rest);
                }
            }
            Ended::Never => source.share.dropped = true,
            Ended::Cancelled => {}
        }
    }

    /// When there may be something to do that nothing else tells: a lease ends, a rest ends.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let leases = self.runs.values().map(|run| run.until);
        let resting = |source: &&Source| source.here && !source.share.dropped && source.rests_until > now;
        leases.chain(self.sources.values().filter(resting).map(|source| source.rests_until)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn with(pieces: usize, sources: u8) -> Scheduler {
        let mut scheduler = Scheduler::new(vec![false; pieces]);
        (1..=sources).for_each(|n| scheduler.came(peer(n)));
        scheduler
    }

    fn all(scheduler: &mut Scheduler, now: Duration) -> Vec<Assignment> {
        std::iter::from_fn(|| scheduler.next(now)).collect()
    }

    fn done(scheduler: &mut Scheduler, run: &Assignment, now: Duration) {
        run.pieces.clone().for_each(|piece| _ = scheduler.piece(run.run, piece, true));
        scheduler.ended(run.run, Ended::Whole, now);
    }

    #[test]
    fn sources_take_turns_until_their_slots_are_full() {
        let mut scheduler = with(1_000, 3);
        let given = all(&mut scheduler, at(0));
        assert_eq!(given.len(), 3 * SLOTS);
        for ((index, run), turn) in given.iter().enumerate().zip([1, 2, 3].into_iter().cycle()) {
            assert_eq!(run.source, peer(turn));
            assert_eq!(run.pieces, index * RUN_MAX..(index + 1) * RUN_MAX);
        }
        done(&mut scheduler, &given[4], at(1));
        let more = all(&mut scheduler, at(1));
        assert_eq!((more.len(), more[0].source, more[0].pieces.clone()), (1, peer(2), 96..104));
    }

    #[test]
    fn what_is_there_is_not_asked_for() {
        let mut there = vec![true; 20];
        there[3] = false;
        there[4] = false;
        there[19] = false;
        let mut scheduler = Scheduler::new(there);
        scheduler.came(peer(1));
        let given = all(&mut scheduler, at(0));
        assert_eq!(given.iter().map(|run| run.pieces.clone()).collect::<Vec<_>>(), [3..5, 19..20]);
        for run in &given {
            done(&mut scheduler, run, at(1));
        }
        assert_eq!((scheduler.left(), scheduler.next(at(2))), (0, None));
    }

    #[test]
    fn the_last_runs_are_asked_for_twice_and_the_first_wins() {
        let mut scheduler = with(8, 2);
        let given = all(&mut scheduler, at(0));
        assert_eq!(given.len(), 2);
        assert_eq!((given[0].pieces.clone(), given[1].pieces.clone()), (0..8, 0..8));
        assert_ne!(given[0].source, given[1].source);
        done(&mut scheduler, &given[1], at(1));
        assert!(!scheduler.is_wanted(given[0].run));
        assert!(!scheduler.piece(given[0].run, 0, true));
        scheduler.ended(given[0].run, Ended::Cancelled, at(1));
        assert_eq!((scheduler.twice(), scheduler.left()), (1, 0));
    }

    #[test]
    fn a_source_that_lies_is_dropped_after_three() {
        let mut scheduler = with(64, 1);
        let run = scheduler.next(at(0)).unwrap();
        for piece in 0..BAD_MAX as usize {
            assert!(scheduler.here() == 1);
            assert!(!scheduler.piece(run.run, piece, false));
        }
        scheduler.ended(run.run, Ended::Failed, at(1));
        assert_eq!((scheduler.here(), scheduler.next(at(100_000))), (0, None));
        scheduler.came(peer(1));
        assert_eq!(scheduler.next(at(100_000)), None, "coming back does not help");
        scheduler.came(peer(2));
        assert_eq!(scheduler.next(at(100_000)).unwrap().pieces, 0..8);
    }

    #[test]
    fn a_source_that_fails_rests_longer_each_time() {
        let mut scheduler = with(64, 1);
        let mut now = at(0);
        for rest in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            let runs = all(&mut scheduler, now);
            assert_eq!(runs.len(), SLOTS);
            for run in &runs {
                scheduler.ended(run.run, Ended::Failed, now);
            }
            assert_eq!(scheduler.next(now + at(rest - 1)), None);
            assert_eq!(scheduler.deadline(now), Some(now + at(rest)));
            now += at(rest);
        }
        let run = scheduler.next(now).unwrap();
        done(&mut scheduler, &run, now);
        let run = scheduler.next(now).unwrap();
        scheduler.ended(run.run, Ended::Failed, now);
        assert!(scheduler.next(now + at(1_000)).is_some(), "one good run makes it young again");
    }

    #[test]
    fn leases_follow_the_source_and_have_bounds() {
        let mut scheduler = with(64, 1);
        let first = scheduler.next(at(0)).unwrap();
        assert_eq!(first.until, LEASE);
        done(&mut scheduler, &first, at(1_000));
        assert_eq!(scheduler.next(at(1_000)).unwrap().until, at(4_000));
        let mut quick = with(64, 1);
        let first = quick.next(at(0)).unwrap();
        done(&mut quick, &first, at(1));
        assert_eq!(quick.next(at(1)).unwrap().until, at(1) + LEASE_MIN);
        let gone = quick.next(at(1)).unwrap();
        quick.went(peer(1));
        quick.ended(gone.run, Ended::Failed, at(2));
        assert_eq!((quick.next(at(60_000)), quick.has(peer(1))), (None, false));
        quick.ended(gone.run, Ended::Whole, at(3));
    }

    #[test]
    fn whoever_never_has_it_is_not_asked_again() {
        let mut scheduler = with(8, 1);
        let run = scheduler.next(at(0)).unwrap();
        scheduler.ended(run.run, Ended::Never, at(0));
        assert_eq!((scheduler.next(at(1_000_000)), scheduler.here()), (None, 0));
    }
}

#[cfg(test)]
mod simulated {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever sources do, as long as one of them is good the file becomes whole, and no piece is counted twice.
        #[test]
        fn every_mix_of_faults_ends(pieces in 1_usize..200, deeds in proptest::collection::vec(0_u8..6, 2..400)) {
            let mut scheduler = Scheduler::new(vec![false; pieces]);
            (0..4).for_each(|n| scheduler.came(PeerId([n; 32])));
            let good = PeerId([0; 32]);
            let mut now = Duration::ZERO;
            let mut open: Vec<Assignment> = Vec::new();
            let mut deeds = deeds.into_iter().cycle();
            for _ in 0..20_000 {
                if scheduler.left() == 0 {
                    break;
                }
                while let Some(run) = scheduler.next(now) {
                    prop_assert!(run.pieces.len() <= RUN_MAX && !run.pieces.is_empty());
                    open.push(run);
                }
                if open.is_empty() {
                    now = scheduler.deadline(now).unwrap_or(now + REST_MAX);
                    continue;
                }
                let deed = deeds.next().unwrap_or(0);
                let run = open.swap_remove(usize::from(deed) % open.len());
                now += Duration::from_millis(u64::from(deed) * 100);
                let how = if run.source == good { 0 } else { deed };
                match how {
                    1 => scheduler.ended(run.run, Ended::Failed, now),
                    2 => {
                        scheduler.piece(run.run, run.pieces.start, false);
                        scheduler.ended(run.run, Ended::Failed, now);
                    }
                    3 => {
                        scheduler.went(run.source);
                        scheduler.ended(run.run, Ended::Failed, now);
                        scheduler.came(run.source);
                    }
                    _ => {
                        for piece in run.pieces.clone() {
                            scheduler.piece(run.run, piece, true);
                        }
                        scheduler.ended(run.run, Ended::Whole, now);
                    }
                }
            }
            prop_assert_eq!(scheduler.left(), 0);
            prop_assert_eq!(scheduler.shares().map(|(_, share)| share.pieces).sum::<u64>(), pieces as u64);
        }
    }
}
