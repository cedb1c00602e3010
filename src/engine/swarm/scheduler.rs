//! Which source fetches which pieces next.
//!
//! A mesh peer is asked for runs of 1 to 8 pieces, about a quarter of a second of its work each, and for so many at once
//! that its line stays full ([`flow`]). The free slot of the cheapest source takes the piece of the highest priority
//! ([`choose`]). Nobody is given what others would finish sooner; when all is given out, the pieces that would come last
//! are asked for a second time, a few of them. A run that is not done when its lease ends is taken back.
//!
//! A Soulseek user delivers one run from an offset that is taken once, and only one such run is under way. The mesh takes
//! what lies ahead of it, the farthest first; when the run reaches what is there already, it is ended (DESIGN decision 7).
//!
//! A source that sent three proven bad pieces is dropped from the file (DECISIONS 4); one that fails rests a while, longer
//! each time; one of bad reputation is asked only when nobody else is there. What a piece's bytes must be is `list`'s;
//! asking and storing is done elsewhere. Everything that happens is told as [`TraceKind`].

mod choose;
mod flow;
mod site;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use self::site::Site;
pub use self::site::{Share, Worth};
use super::cost::CostSettings;
use super::metrics::SourceMetrics;
use super::reputation::{Reputation, ReputationSettings};
use crate::engine::mesh::exchange::PIECE_LEN;
use crate::model::swarm::{CancelReason, Priority, Source};
use crate::model::trace::{ChunkResult, TraceKind};

/// Longest run (SPEC-FACTS 10: 512 KiB).
pub const RUN_MAX: usize = 8;
/// Runs under way with one source: the streams a peer lets us open.
pub const RUNS_MAX: usize = 16;
/// Proven bad pieces after which a source is dropped (DECISIONS 4).
pub const BAD_MAX: u32 = 3;
/// The longest lease, and the first of a source (SPEC-FACTS 6.4: 10 s for 512 KiB).
const LEASE_MAX: Duration = Duration::from_secs(10);
/// The shortest: below it a busy moment of either side would count as a stall. Chosen.
const LEASE_MIN: Duration = Duration::from_secs(2);
/// A Soulseek user may be silent so long (SPEC-FACTS 6.4).
const STREAM_SILENT: Duration = Duration::from_secs(30);
/// Rest after a failure; doubles with each in a row.
const REST: Duration = Duration::from_secs(1);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(60);
/// Bytes that waited for our own speed limit so lately may still. Chosen: longer than a pause between two events of a
/// fetch that moves.
const LIMITED: Duration = Duration::from_secs(1);
/// Pieces whose priority is raised at most; further ones stay as they are. 16 sources with all their runs are 2,048.
const RAISED_MAX: usize = 4_096;

/// How the swarm is to work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwarmSettings {
    /// What counts how much.
    pub cost: CostSettings,
    /// Whether work is taken back from sources that became slow.
    pub rebalance: bool,
    /// At least so often.
    pub rebalance_interval: Duration,
    /// And after so many runs.
    pub rebalance_chunks: u32,
    /// When the cost is more than so many times what it was.
    pub rebalance_threshold: f64,
    /// Trust.
    pub reputation: ReputationSettings,
    /// For choices at random, when the cost function is off.
    pub seed: u64,
}

impl Default for SwarmSettings {
    /// SPEC-FACTS 17.
    fn default() -> Self {
        Self {
            cost: CostSettings::default(),
            rebalance: true,
            rebalance_interval: Duration::from_secs(30),
            rebalance_chunks: 10,
            rebalance_threshold: 2.0,
            reputation: ReputationSettings::default(),
            seed: 0,
        }
    }
}

/// One run under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// What to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Its name from now on.
    pub run: RunId,
    /// Whom to ask.
    pub source: Source,
    /// Which pieces. Of a Soulseek user all to the end of the file; it is taken back earlier.
    pub pieces: Range<usize>,
    /// When the lease ends if nothing comes, by the monotonic clock.
    pub until: Duration,
    /// For the request.
    pub priority: Priority,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All of it came.
    Whole,
    /// The source failed or went.
    Failed,
    /// A piece of it was proven bad.
    Corrupt,
    /// The source gives nothing now.
    Busy,
    /// The source says it has no such file, or none for us: it is gone until it comes again.
    Gone,
    /// It was taken back by us.
    Cancelled,
}

#[derive(Clone, Debug)]
struct Run {
    source: Source,
    pieces: Range<usize>,
    /// Pieces that came, counted from the first.
    got: usize,
    /// Bytes that were verified first by it.
    fresh: u64,
    asked: Duration,
    until: Duration,
    lease: Duration,
    /// What the source was taken to cost.
    cost: f64,
    first_byte: Option<Duration>,
    /// Bytes of its pieces came, not only the word that they will.
    begun: bool,
    endgame: bool,
    /// Taken back, and not yet heard to be over.
    over: bool,
}

/// One file being fetched.
#[derive(Debug)]
pub struct Scheduler {
    settings: SwarmSettings,
    size: u64,
    verified: Vec<bool>,
    left: usize,
    /// Mesh runs that ask for each piece now.
    asked: Vec<u8>,
    /// No open piece is below, and none at or above.
    low: usize,
    high: usize,
    /// Pieces of another priority than the rest.
    raised: BTreeMap<usize, Priority>,
    sources: BTreeMap<Source, Site>,
    runs: BTreeMap<RunId, Run>,
    ids: u64,
    /// The run of a Soulseek user.
    stream: Option<RunId>,
    /// Pieces that came when they were there already.
    twice: u64,
    random: u64,
    rebalanced: Duration,
    chunks_since: u32,
    cancels: Vec<(RunId, CancelReason)>,
    events: Vec<TraceKind>,
    /// When bytes waited for our own speed limit last.
    limited: Option<Duration>,
    /// Somebody outside brings the file from its beginning.
    rescues: bool,
}

impl Scheduler {
    /// For a file of this size of which these pieces are there already.
    pub fn new(size: u64, verified: Vec<bool>, settings: SwarmSettings) -> Self {
        let left = verified.iter().filter(|there| !**there).count();
        Self {
            settings,
            size,
            left,
            asked: vec![0; verified.len()],
            low: 0,
            high: verified.len(),
            verified,
            raised: BTreeMap::new(),
            sources: BTreeMap::new(),
            runs: BTreeMap::new(),
            ids: 0,
            stream: None,
            twice: 0,
            random: settings.seed | 1,
            rebalanced: Duration::ZERO,
            chunks_since: 0,
            cancels: Vec::new(),
            events: Vec::new(),
            limited: None,
            rescues: false,
        }
    }

    /// Somebody outside may bring the file from its beginning: pieces are asked for from its end on, as a rescue.
    pub fn rescue(&mut self) {
        self.rescues = true;
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

    /// Whether this source is known, here and not dropped.
    pub fn has(&self, source: &Source) -> bool {
        self.sources.get(source).is_some_and(|site| site.here && !site.share.dropped)
    }

    /// Sources that are here and not dropped.
    pub fn here(&self) -> usize {
        self.sources.values().filter(|site| site.here && !site.share.dropped).count()
    }

    /// A source is here, perhaps again, with what is known of it from before.
    pub fn came(&mut self, source: Source, metrics: SourceMetrics, known: Reputation) {
        self.events.push(TraceKind::PeerConnected(source.clone()));
        let site = self.sources.entry(source).or_insert_with(|| Site::new(metrics, known));
        site.here = true;
    }

    /// A source is gone: what it was asked for is open again.
    pub fn went(&mut self, source: &Source, why: &str, now: Duration) {
        let Some(site) = self.sources.get_mut(source) else { return };
        if !site.here {
            return;
        }
        site.here = false;
        self.events.push(TraceKind::PeerDisconnected(source.clone(), why.to_owned()));
        let runs = site.runs.clone();
        if !runs.is_empty() {
            self.fail(source, true, now);
        }
        for run in runs {
            self.close(run, ChunkResult::Error, now);
            self.cancels.push((run, CancelReason::Error));
        }
    }

    /// A source has the file no more, and says so: no fault, and nobody knows for how long.
    fn lost(&mut self, source: &Source, why: &str) {
        let Some(site) = self.sources.get_mut(source).filter(|site| site.here) else { return };
        site.here = false;
        self.events.push(TraceKind::PeerDisconnected(source.clone(), why.to_owned()));
        for run in site.runs.clone() {
            self.take_back(run, CancelReason::Error);
        }
    }

    /// This Soulseek user sends the file from its beginning and from nowhere else.
    pub fn sends_whole_only(&mut self, source: &Source) {
        if let Some(site) = self.sources.get_mut(source) {
            site.whole_only = true;
        }
    }

    /// Bytes wait for our own speed limit now: what comes late does so by our doing.
    pub fn limited(&mut self, now: Duration) {
        self.limited = Some(now);
    }

    /// Whether that was so a moment ago.
    fn is_limited(&self, now: Duration) -> bool {
        self.limited.is_some_and(|at| now.saturating_sub(at) < LIMITED)
    }

    /// These pieces are wanted before others, or like all others again.
    pub fn prioritise(&mut self, pieces: Range<usize>, priority: Priority) {
        for piece in pieces.start..pieces.end.min(self.verified.len()) {
            if priority == Priority::Normal {
                self.raised.remove(&piece);
            } else if !self.verified[piece] && self.raised.len() < RAISED_MAX {
                self.raised.insert(piece, priority);
            }
        }
    }

    /// Who was asked for this run, while it is under way.
    pub fn source(&self, run: RunId) -> Option<&Source> {
        self.runs.get(&run).map(|run| &run.source)
    }

    /// Runs to be taken back since this was last asked, each once. Each still has to be told as ended.
    pub fn take_cancels(&mut self) -> Vec<(RunId, CancelReason)> {
        std::mem::take(&mut self.cancels)
    }

    /// What happened since this was last asked.
    pub fn take_events(&mut self) -> Vec<TraceKind> {
        std::mem::take(&mut self.events)
    }

    /// The first byte of the answer to a run came.
    pub fn first_byte(&mut self, run: RunId, now: Duration) {
        let Some(run) = self.runs.get_mut(&run) else { return };
        let Some(site) = self.sources.get_mut(&run.source) else { return };
        if run.first_byte.is_none() {
            run.first_byte = Some(now);
            site.record.rtt(now.saturating_sub(run.asked));
            site.flow.first_byte(run.asked, now);
        }
    }

    /// Bytes of a run came, less than a piece yet: the source is alive.
    pub fn alive(&mut self, run: RunId, now: Duration) {
        let Some(run) = self.runs.get_mut(&run) else { return };
        run.begun = true;
        if let Some(site) = self.sources.get_mut(&run.source) {
            site.flow.heard = Some(now);
        }
        if matches!(run.source, Source::Soulseek(_)) {
            run.until = now.saturating_add(STREAM_SILENT);
        }
    }

    /// A piece of a run came, was checked and, if good and new, stored. Answers whether it is the first good one.
    pub fn piece(&mut self, id: RunId, piece: usize, good: bool, now: Duration) -> bool {
        self.first_byte(id, now);
        // What our own limit lets through says nothing of the source.
        let (len, limited) = (self.piece_len(piece), self.is_limited(now));
        let Some(run) = self.runs.get_mut(&id) else { return false };
        run.begun = true;
        let source = run.source.clone();
        let Some(site) = self.sources.get_mut(&source) else { return false };
        #[expect(clippy::cast_precision_loss, reason = "at most a piece")]
        if let Some(sample) = site.flow.came(len as f64, now).filter(|_| !limited) {
            site.record.throughput(sample);
        }
        if !good {
            if matches!(source, Source::Soulseek(_)) {
                // It goes on behind the bad piece: who mends that is no end of the run.
                run.got = run.got.max((piece + 1).saturating_sub(run.pieces.start));
            }
            return self.bad(&source, piece);
        }
        run.got = run.got.max((piece + 1).saturating_sub(run.pieces.start));
        if matches!(source, Source::Soulseek(_)) {
            run.until = now.saturating_add(STREAM_SILENT);
        } else if !run.over
            && let Some(asked) = self.asked.get_mut(piece)
        {
            *asked = asked.saturating_sub(1);
        }
        site.flow.trust();
        let first = matches!(self.verified.get(piece), Some(false));
        if first {
            self.verified[piece] = true;
            self.left -= 1;
            self.raised.remove(&piece);
            run.fresh += len;
            site.share.pieces += 1;
            site.record.brought(len);
        } else {
            self.twice += 1;
        }
        self.prune(piece);
        first
    }

    /// A piece was put in by somebody who is no source of this swarm, checked and stored. Answers whether it is new.
    pub fn given(&mut self, piece: usize) -> bool {
        if self.verified.get(piece) != Some(&false) {
            return false;
        }
        self.verified[piece] = true;
        self.left -= 1;
        self.raised.remove(&piece);
        self.prune(piece);
        true
    }

    fn bad(&mut self, source: &Source, piece: usize) -> bool {
        self.events.push(TraceKind::BadPiece { source: source.clone(), piece: piece as u64 });
        let Some(site) = self.sources.get_mut(source) else { return false };
        site.share.bad = site.share.bad.saturating_add(1);
        site.flow.distrust();
        if site.bad.len() < BAD_MAX as usize {
            site.bad.push(piece);
        }
        site.record.sent_bad();
        if site.share.bad >= BAD_MAX && !site.share.dropped {
            self.drop_source(source, "it sent bad pieces");
        }
        false
    }

    fn drop_source(&mut self, source: &Source, why: &str) {
        let Some(site) = self.sources.get_mut(source) else { return };
        site.share.dropped = true;
        self.events.push(TraceKind::PeerDisconnected(source.clone(), why.to_owned()));
        for run in site.runs.clone() {
            self.take_back(run, CancelReason::Error);
        }
    }

    /// Takes back the runs that are of no use any more now that this piece is there.
    fn prune(&mut self, piece: usize) {
        let useless = |run: &Run| {
            let next = run.pieces.start + run.got;
            let mut rest = next..run.pieces.end;
            match run.source {
                Source::Mesh(_) => {
                    run.pieces.contains(&piece) && !rest.is_empty() && rest.all(|piece| self.verified[piece])
                }
                // It does not jump: what is there ends it.
                Source::Soulseek(_) => self.verified.get(next) == Some(&true),
            }
        };
        let runs: Vec<RunId> =
            self.runs.iter().filter(|(_, run)| !run.over && useless(run)).map(|(id, _)| *id).collect();
        for id in runs {
            let reason = if self.stream == Some(id) || self.left == 0 {
                CancelReason::Complete
            } else {
                CancelReason::SwarmRebalanced
            };
            if self.stream == Some(id)
                && let Some(site) = self.runs.get(&id).and_then(|run| self.sources.get_mut(&run.source))
            {
                site.spent = true;
            }
            self.take_back(id, reason);
        }
    }

    /// Ends a run from our side.
    fn take_back(&mut self, id: RunId, reason: CancelReason) {
        let Some(run) = self.runs.get(&id).filter(|run| !run.over) else { return };
        self.events.push(TraceKind::ChunkTakenBack {
            run: id.0,
            source: run.source.clone(),
            offset: run.pieces.start as u64 * PIECE_LEN,
            bytes: run.fresh,
            reason,
        });
        self.cancels.push((id, reason));
        self.release(id, reason != CancelReason::Complete);
    }

    /// The run is over for us, and this is how; what of it did not come is open again.
    fn close(&mut self, id: RunId, result: ChunkResult, now: Duration) {
        let Some(run) = self.runs.get(&id).filter(|run| !run.over) else { return };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.events.push(TraceKind::ChunkEnded {
            run: id.0,
            source: run.source.clone(),
            offset: run.pieces.start as u64 * PIECE_LEN,
            bytes: run.fresh,
            result,
            rtt_us: run.first_byte.map(|first| micros(first.saturating_sub(run.asked))),
            took_us: micros(now.saturating_sub(run.asked)),
        });
        if let Some(site) = self.sources.get_mut(&run.source) {
            match result {
                ChunkResult::Ok => site.failures = 0,
                ChunkResult::Timeout | ChunkResult::Error => site.share.failed += 1,
                ChunkResult::Corruption => {}
            }
            site.record.ended(result);
        }
        self.chunks_since = self.chunks_since.saturating_add(1);
        self.release(id, true);
    }

    fn release(&mut self, id: RunId, again: bool) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.over = true;
        if self.stream == Some(id) {
            self.stream = None;
        } else {
            for piece in run.pieces.start + run.got..run.pieces.end {
                self.asked[piece] = self.asked[piece].saturating_sub(1);
                if !self.verified[piece] && self.asked[piece] == 0 {
                    (self.low, self.high) = (self.low.min(piece), self.high.max(piece + 1));
                    if again && self.raised.len() < RAISED_MAX {
                        self.raised.entry(piece).or_insert(Priority::Retry);
                    }
                }
            }
        }
        let Some(site) = self.sources.get_mut(&run.source) else { return };
        site.runs.retain(|other| *other != id);
        if site.runs.is_empty() {
            site.flow.idle();
        }
    }

    /// The source rests. Failures together count once, and against it if they are `to_blame`: a lease that ended is
    /// counted as such.
    fn fail(&mut self, source: &Source, to_blame: bool, now: Duration) {
        let Some(site) = self.sources.get_mut(source) else { return };
        site.flow.distrust();
        if site.rests_until <= now {
            site.failures = site.failures.saturating_add(1);
            let rest = REST.saturating_mul(1_u32 << (site.failures - 1).min(6)).min(REST_MAX);
            site.rests_until = now.saturating_add(rest);
            if to_blame {
                site.record.failed();
            }
        }
    }

    /// A run is over. Each is told once; others mean nothing.
    pub fn ended(&mut self, id: RunId, how: Ended, now: Duration) {
        let Some(run) = self.runs.get(&id) else { return };
        let source = run.source.clone();
        if !run.over {
            match how {
                Ended::Whole => self.close(id, ChunkResult::Ok, now),
                Ended::Corrupt => self.close(id, ChunkResult::Corruption, now),
                Ended::Failed | Ended::Busy => {
                    // Having no slot for us is no fault.
                    self.fail(&source, how == Ended::Failed, now);
                    self.close(id, ChunkResult::Error, now);
                }
                Ended::Gone => {
                    self.close(id, ChunkResult::Error, now);
                    self.lost(&source, "it does not have the file, or not for us");
                }
                Ended::Cancelled => self.release(id, true),
            }
        }
        self.runs.remove(&id);
    }

    /// Bytes of a piece; 0 where there is none.
    fn piece_len(&self, piece: usize) -> u64 {
        self.size.saturating_sub((piece as u64).saturating_mul(PIECE_LEN)).min(PIECE_LEN)
    }
}
