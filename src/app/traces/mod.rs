//! Traces: who was asked for what, what came, what was judged (SPEC-FACTS 15).
//!
//! Whoever works on a job holds a [`TraceJob`] and records into it; that costs a clock reading and a place in a queue, and
//! never waits. One task ([`writer`]) adds up, writes in batches, and forgets what the owner does not want kept. What is
//! asked about jobs is read from the store ([`look`]), with or without a daemon.

pub mod look;
pub mod transfers;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use self::writer::Writer;
use super::clock::Clock;
use crate::model::config::SwarmEvents;
use crate::model::limits;
use crate::model::swarm::Source;
use crate::model::time::UnixMs;
use crate::model::trace::{ChunkResult, TraceKind};
use crate::store::Store;

/// Writes traces down. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    told: mpsc::Sender<Told>,
    clock: Clock,
    counters: Counters,
}

/// Sums since the program began.
#[derive(Debug, Default)]
struct Counters {
    /// By network (overlay, soulseek) and result (ok, timeout, error, corruption, cancelled).
    chunks: [[AtomicU64; 5]; 2],
    bad_pieces: AtomicU64,
    rebalances: AtomicU64,
    lost: AtomicU64,
}

/// Sums since the program began, for figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceCounts {
    /// Network, result, runs.
    pub chunks: Vec<(&'static str, &'static str, u64)>,
    /// Pieces proven bad.
    pub bad_pieces: u64,
    /// Times work was taken from a slow source.
    pub rebalances: u64,
    /// Lines that found no room to wait, or could not be written.
    pub lost: u64,
}

/// One job's name, and what is known without its lines.
#[derive(Debug)]
struct Name {
    job: String,
    title: String,
    since: Option<UnixMs>,
    /// Lines that found no room to wait.
    lost: AtomicU64,
}

/// When something happened.
#[derive(Clone, Copy, Debug)]
enum When {
    Mono(Duration),
    Wall(UnixMs),
}

#[derive(Debug)]
enum Told {
    Begin(Arc<Name>),
    Line(Arc<Name>, When, TraceKind),
    /// Everything told before is to be written.
    Settle(oneshot::Sender<()>),
    /// The same, and nothing more comes.
    Stop(oneshot::Sender<()>),
}

/// Records what happens to one job. Cheap to clone; the default records nothing.
#[derive(Clone, Debug, Default)]
pub struct TraceJob {
    to: Option<(Arc<Inner>, Arc<Name>)>,
}

impl Traces {
    /// Starts writing, unless the owner wants no traces. Text logs, if wanted, go into `logs`. To be called inside the
    /// runtime.
    pub fn start(store: Store, clock: Clock, settings: SwarmEvents, logs: PathBuf) -> Self {
        if !settings.enabled {
            return Self::default();
        }
        let (told, hears) = mpsc::channel(limits::TRACE_WAITING);
        let inner = Arc::new(Inner { told, clock, counters: Counters::default() });
        // It must not hold the sending end of its own queue.
        let writer = Writer::new(store, clock, settings, logs, Arc::downgrade(&inner));
        tokio::spawn(writer.run(hears));
        Self { inner: Some(inner) }
    }

    /// A job begins, or goes on: one that was not completed is continued under its old name.
    pub fn begin(&self, job: String, title: String) -> TraceJob {
        self.begin_since(job, title, None)
    }

    /// The same for a job that was asked for earlier.
    pub fn begin_since(&self, job: String, title: String, since: Option<UnixMs>) -> TraceJob {
        let trace = self.job(job, title, since);
        if let Some((_, name)) = &trace.to {
            trace.tell(Told::Begin(Arc::clone(name)));
        }
        trace
    }

    /// For what is heard of a job later: one that was completed stays the same job.
    pub fn afterwards(&self, job: String, title: String) -> TraceJob {
        self.job(job, title, None)
    }

    fn job(&self, job: String, title: String, since: Option<UnixMs>) -> TraceJob {
        let Some(inner) = &self.inner else { return TraceJob::default() };
        let job = cut(job, limits::TRACE_NAME_LEN);
        let name = Name { job, title: cut(title, limits::TRACE_TEXT_LEN), since, lost: AtomicU64::new(0) };
        TraceJob { to: Some((Arc::clone(inner), Arc::new(name))) }
    }

    /// Waits until everything recorded so far can be read.
    pub async fn settle(&self) {
        self.order(Told::Settle).await;
    }

    /// The same, and nothing is written from then on.
    pub async fn stop(&self) {
        self.order(Told::Stop).await;
    }

    async fn order(&self, order: fn(oneshot::Sender<()>) -> Told) {
        let Some(inner) = &self.inner else { return };
        let (done, heard) = oneshot::channel();
        if inner.told.send(order(done)).await.is_ok() {
            // A writer that is gone writes nothing more.
            let _ = heard.await;
        }
    }

    /// Sums since the program began.
    pub fn counts(&self) -> TraceCounts {
        let Some(inner) = &self.inner else { return TraceCounts::default() };
        let counters = &inner.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let networks = ["overlay", "soulseek"].into_iter().zip(&counters.chunks);
        let results = ["ok", "timeout", "error", "corruption", "cancelled"];
        let chunks = networks.flat_map(|(network, counters)| {
            results.into_iter().zip(counters).map(move |(result, counter)| (network, result, read(counter)))
        });
        TraceCounts {
            chunks: chunks.collect(),
            bad_pieces: read(&counters.bad_pieces),
            rebalances: read(&counters.rebalances),
            lost: read(&counters.lost),
        }
    }
}

impl TraceJob {
    /// Whether it writes anything down.
    pub fn is_begun(&self) -> bool {
        self.to.is_some()
    }

    /// Something happened now.
    pub fn record(&self, kind: TraceKind) {
        if let Some((inner, name)) = &self.to {
            self.put(Arc::clone(name), When::Mono(inner.clock.now().mono), kind);
        }
    }

    /// Something happened then, by the calendar. Lines keep their order: one that is told late is not put before others.
    pub fn record_at(&self, at: UnixMs, kind: TraceKind) {
        if let Some((_, name)) = &self.to {
            self.put(Arc::clone(name), When::Wall(at), kind);
        }
    }

    fn put(&self, name: Arc<Name>, when: When, mut kind: TraceKind) {
        match &mut kind {
            TraceKind::JobComplete(Some(text)) | TraceKind::PeerDisconnected(_, text) | TraceKind::Note(text) => {
                *text = cut(std::mem::take(text), limits::TRACE_TEXT_LEN);
            }
            _ => {}
        }
        if let Some((inner, _)) = &self.to {
            inner.counters.count(&kind);
        }
        self.tell(Told::Line(name, when, kind));
    }

    fn tell(&self, told: Told) {
        let Some((inner, name)) = &self.to else { return };
        if inner.told.try_send(told).is_err() {
            name.lost.fetch_add(1, Ordering::Relaxed);
            inner.counters.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Counters {
    fn count(&self, kind: &TraceKind) {
        let network = |source: &Source| usize::from(matches!(source, Source::Soulseek(_)));
        let counter = match kind {
            TraceKind::ChunkEnded { source, result, .. } => {
                let result = match result {
                    ChunkResult::Ok => 0,
                    ChunkResult::Timeout => 1,
                    ChunkResult::Error => 2,
                    ChunkResult::Corruption => 3,
                };
                &self.chunks[network(source)][result]
            }
            TraceKind::ChunkCancelled { source, .. } | TraceKind::ChunkTakenBack { source, .. } => {
                &self.chunks[network(source)][4]
            }
            TraceKind::BadPiece { .. } => &self.bad_pieces,
            TraceKind::SwarmRebalanced { .. } => &self.rebalances,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// At most `len` bytes of a text, whole characters.
fn cut(mut text: String, len: usize) -> String {
    let end = (0..=len.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(end);
    text
}
