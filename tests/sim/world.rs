//! Peers and lines in virtual time around the real scheduler.
//!
//! A peer serialises what it was asked for at its rate, in the order of the requests; bytes and requests take half a round
//! trip. With `ramps` it keeps no more bytes on the way than a window that begins small and grows by what is
//! acknowledged, as QUIC does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use slskdn::engine::swarm::metrics::SourceMetrics;
use slskdn::engine::swarm::reputation::Reputation;
use slskdn::engine::swarm::scheduler::{Ended, RunId, Scheduler, SwarmSettings};
use slskdn::model::id::{PeerId, Username};
use slskdn::model::swarm::{CancelReason, Source};
use slskdn::model::trace::TraceKind;

pub(super) const PIECE: u64 = 64 * 1024;
pub(super) const MIB: u64 = 1024 * 1024;
/// Bytes sent at once.
const QUANTUM: u64 = 16 * 1024;
/// QUIC's window at the beginning, and the most our connections have (`net::mesh`).
const WINDOW: (f64, f64) = (67_200.0, 4.0 * 1024.0 * 1024.0);

/// One source.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Bytes per second.
    pub(super) rate: f64,
    pub(super) rtt_s: f64,
    pub(super) start_s: f64,
    pub(super) leave_s: f64,
    /// Silent once it has sent so much.
    pub(super) stall_after: u64,
    /// Gone once it has sent so much.
    pub(super) disconnect_after: u64,
    /// Every n-th piece is bad; 0: none.
    pub(super) corrupt_every: u64,
    pub(super) ramps: bool,
    /// A tenth of the rate once it has sent so much.
    pub(super) slow_after: u64,
    pub(super) soulseek: bool,
    pub(super) known: Reputation,
}

impl Peer {
    pub(super) fn of(megabytes_per_s: f64) -> Self {
        Self {
            rate: megabytes_per_s * 1e6,
            rtt_s: 0.0005,
            start_s: 0.0,
            leave_s: f64::INFINITY,
            stall_after: u64::MAX,
            disconnect_after: u64::MAX,
            corrupt_every: 0,
            ramps: false,
            slow_after: u64::MAX,
            soulseek: false,
            known: Reputation::default(),
        }
    }

    pub(super) fn is_good(&self) -> bool {
        self.corrupt_every == 0
    }

    /// Good bytes it could have sent until then.
    fn could(&self, time: f64) -> f64 {
        let most = self.stall_after.min(self.disconnect_after) as f64;
        if self.is_good() { (self.rate * (time.min(self.leave_s) - self.start_s).max(0.0)).min(most) } else { 0.0 }
    }
}

/// When the good sources at full rate have delivered the file.
pub(super) fn ideal(size: u64, peers: &[Peer]) -> f64 {
    let (mut low, mut high) = (0.0, 1e7);
    while high - low > 1e-4 {
        let middle = f64::midpoint(low, high);
        let all: f64 = peers.iter().map(|peer| peer.could(middle)).sum();
        if all >= size as f64 { high = middle } else { low = middle }
    }
    high
}

/// How a fetch went.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) seconds: f64,
    /// Why it is not whole.
    pub(super) failed: Option<String>,
    pub(super) twice: u64,
    /// Bytes that arrived for nothing.
    pub(super) wasted: u64,
    /// Bytes that arrived from each.
    pub(super) taken: Vec<u64>,
    pub(super) cancels: Vec<(usize, CancelReason)>,
    pub(super) events: Vec<(f64, TraceKind)>,
    /// Most bytes asked of one source and not there yet.
    pub(super) in_flight: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Join(usize),
    Leave(usize),
    Request(usize, RunId),
    Cancel(usize, RunId),
    Sent(usize),
    Arrive(usize, RunId, u64),
    Acked(usize, u64),
    Wake,
}

#[derive(Debug)]
struct Line {
    queue: VecDeque<(RunId, u64)>,
    sending: bool,
    window: f64,
    on_the_way: u64,
    sent: u64,
    pieces: u64,
    here: bool,
}

struct Live {
    peer: usize,
    pieces: Range<usize>,
    came: u64,
    length: u64,
}

pub(super) struct World {
    size: u64,
    peers: Vec<Peer>,
    lines: Vec<Line>,
    scheduler: Scheduler,
    now: u64,
    count: u64,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<(u64, u64), Event>,
    live: BTreeMap<RunId, Live>,
    wakes: BTreeSet<u64>,
    report: Report,
    started: BTreeSet<RunId>,
}

fn ns(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

impl World {
    pub(super) fn new(size: u64, peers: Vec<Peer>, settings: SwarmSettings) -> Self {
        let pieces = usize::try_from(size.div_ceil(PIECE)).unwrap();
        Self::resumed(size, vec![false; pieces], peers, settings)
    }

    pub(super) fn resumed(size: u64, there: Vec<bool>, peers: Vec<Peer>, settings: SwarmSettings) -> Self {
        let line = || Line {
            queue: VecDeque::new(),
            sending: false,
            window: WINDOW.0,
            on_the_way: 0,
            sent: 0,
            pieces: 0,
            here: false,
        };
        let report = Report {
            seconds: 0.0,
            failed: None,
            twice: 0,
            wasted: 0,
            taken: vec![0; peers.len()],
            cancels: Vec::new(),
            events: Vec::new(),
            in_flight: vec![0; peers.len()],
        };
        let mut world = Self {
            size,
            lines: peers.iter().map(|_| line()).collect(),
            scheduler: Scheduler::new(size, there, settings),
            now: 0,
            count: 0,
            heap: BinaryHeap::new(),
            events: BTreeMap::new(),
            live: BTreeMap::new(),
            wakes: BTreeSet::new(),
            report,
            started: BTreeSet::new(),
            peers,
        };
        for at in 0..world.peers.len() {
            world.after(world.peers[at].start_s, Event::Join(at));
            if world.peers[at].leave_s.is_finite() {
                world.after(world.peers[at].leave_s, Event::Leave(at));
            }
        }
        world
    }

    fn after(&mut self, seconds: f64, event: Event) {
        self.count += 1;
        let key = (self.now + ns(seconds), self.count);
        self.heap.push(Reverse(key));
        self.events.insert(key, event);
    }

    fn time(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    fn source(&self, at: usize) -> Source {
        if self.peers[at].soulseek {
            Source::Soulseek(Username::new(format!("user {at}")))
        } else {
            Source::Mesh(PeerId([u8::try_from(at).unwrap(); 32]))
        }
    }

    /// Runs until the file is whole or that much time has passed.
    pub(super) fn run(mut self, limit_s: f64) -> Report {
        while self.scheduler.left() > 0 {
            let Some(Reverse(key)) = self.heap.pop() else {
                self.report.failed = Some("nothing happens any more".to_owned());
                break;
            };
            self.now = key.0;
            if self.now > ns(limit_s) {
                self.report.failed = Some(if self.scheduler.here() == 0 {
                    "no source is left".to_owned()
                } else {
                    format!("{} pieces are missing", self.scheduler.left())
                });
                break;
            }
            let event = self.events.remove(&key).unwrap();
            if event == Event::Wake {
                self.wakes.remove(&key.0);
            }
            let look = self.step(event);
            if look {
                self.act();
            }
        }
        self.report.seconds = self.now as f64 / 1e9;
        self.report.twice = self.scheduler.twice();
        self.note();
        self.report
    }

    fn note(&mut self) {
        let at = self.now as f64 / 1e9;
        self.report.events.extend(self.scheduler.take_events().into_iter().map(|event| (at, event)));
    }

    fn act(&mut self) {
        self.scheduler.tick(self.time());
        loop {
            for (run, reason) in self.scheduler.take_cancels() {
                if let Some(live) = self.live.remove(&run) {
                    self.report.cancels.push((live.peer, reason));
                    self.after(self.peers[live.peer].rtt_s / 2.0, Event::Cancel(live.peer, run));
                }
                self.scheduler.ended(run, Ended::Cancelled, self.time());
            }
            let Some(given) = self.scheduler.next(self.time()) else { break };
            let peer = (0..self.peers.len()).find(|at| self.source(*at) == given.source).unwrap();
            assert!(self.lines[peer].here, "only those who are here are asked");
            let streams = self.peers[peer].soulseek;
            assert!(!given.pieces.is_empty() && (streams || given.pieces.len() <= 8), "{given:?}");
            let end = (given.pieces.end as u64 * PIECE).min(self.size);
            let length = end - given.pieces.start as u64 * PIECE;
            self.live.insert(given.run, Live { peer, pieces: given.pieces, came: 0, length });
            let owed: u64 =
                self.live.values().filter(|live| live.peer == peer).map(|live| live.length - live.came).sum();
            let runs = self.live.values().filter(|live| live.peer == peer).count();
            assert!(runs <= 16, "{runs} streams");
            if !streams {
                self.report.in_flight[peer] = self.report.in_flight[peer].max(owed);
            }
            self.after(self.peers[peer].rtt_s / 2.0, Event::Request(peer, given.run));
        }
        self.note();
        if let Some(at) = self.scheduler.deadline(self.time()) {
            let at = u64::try_from(at.as_nanos()).unwrap().max(self.now + 1);
            if self.wakes.first().is_none_or(|first| at < *first) {
                self.wakes.insert(at);
                self.count += 1;
                self.heap.push(Reverse((at, self.count)));
                self.events.insert((at, self.count), Event::Wake);
            }
        }
    }

    /// Whether the scheduler may want to do something now.
    fn step(&mut self, event: Event) -> bool {
        match event {
            Event::Join(at) => {
                self.lines[at].here = true;
                self.scheduler.came(self.source(at), SourceMetrics::default(), self.peers[at].known);
                true
            }
            Event::Leave(at) => self.leave(at),
            Event::Request(at, run) => {
                if let Some(live) = self.live.get(&run) {
                    self.lines[at].queue.push_back((run, live.length));
                    self.send(at);
                }
                false
            }
            Event::Cancel(at, run) => {
                self.lines[at].queue.retain(|(other, _)| *other != run);
                false
            }
            Event::Sent(at) => {
                self.lines[at].sending = false;
                if self.lines[at].sent >= self.peers[at].disconnect_after {
                    return self.leave(at);
                }
                self.send(at);
                false
            }
            Event::Acked(at, bytes) => {
                let line = &mut self.lines[at];
                line.on_the_way -= bytes;
                let grown = line.window + bytes as f64;
                line.window = grown.min(WINDOW.1);
                self.send(at);
                false
            }
            Event::Arrive(at, run, bytes) => self.arrive(at, run, bytes),
            Event::Wake => true,
        }
    }

    fn leave(&mut self, at: usize) -> bool {
        if std::mem::replace(&mut self.lines[at].here, false) {
            self.lines[at].queue.clear();
            self.live.retain(|_, live| live.peer != at || live.came == live.length);
            self.scheduler.went(&self.source(at), "it left", self.time());
        }
        true
    }

    fn send(&mut self, at: usize) {
        let (peer, line) = (&self.peers[at], &mut self.lines[at]);
        let full = peer.ramps && line.on_the_way > 0 && line.on_the_way as f64 + QUANTUM as f64 > line.window;
        if line.sending || !line.here || full || line.sent >= peer.stall_after.min(peer.disconnect_after) {
            return;
        }
        let Some((run, left)) = line.queue.front_mut() else { return };
        let run = *run;
        let bytes = QUANTUM.min(*left);
        *left -= bytes;
        if *left == 0 {
            line.queue.pop_front();
        }
        line.sending = true;
        line.sent += bytes;
        let rate = if line.sent > peer.slow_after { peer.rate / 10.0 } else { peer.rate };
        let took = bytes as f64 / rate;
        let (rtt, ramps) = (peer.rtt_s, peer.ramps);
        if ramps {
            line.on_the_way += bytes;
            self.after(took + rtt, Event::Acked(at, bytes));
        }
        self.after(took, Event::Sent(at));
        self.after(took + rtt / 2.0, Event::Arrive(at, run, bytes));
    }

    fn arrive(&mut self, at: usize, run: RunId, bytes: u64) -> bool {
        if !self.lines[at].here {
            return false;
        }
        self.report.taken[at] += bytes;
        let now = self.time();
        let Some(live) = self.live.get_mut(&run) else {
            self.report.wasted += bytes;
            return false;
        };
        if self.started.insert(run) {
            self.scheduler.first_byte(run, now);
        }
        let before = live.came / PIECE;
        live.came += bytes;
        let whole = live.came == live.length;
        let after = if whole { live.length.div_ceil(PIECE) } else { live.came / PIECE };
        self.scheduler.alive(run, now);
        for piece in before..after {
            let index = live.pieces.start + usize::try_from(piece).unwrap();
            self.lines[at].pieces += 1;
            let every = self.peers[at].corrupt_every;
            let good = every == 0 || !self.lines[at].pieces.is_multiple_of(every);
            let len = (self.size - index as u64 * PIECE).min(PIECE);
            if !self.scheduler.piece(run, index, good, now) {
                self.report.wasted += len;
            }
            if !good {
                self.live.remove(&run);
                self.scheduler.ended(run, Ended::Corrupt, now);
                self.after(self.peers[at].rtt_s / 2.0, Event::Cancel(at, run));
                return true;
            }
        }
        if whole {
            self.live.remove(&run);
            self.scheduler.ended(run, Ended::Whole, now);
        }
        after > before
    }
}
