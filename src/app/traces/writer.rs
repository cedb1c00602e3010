//! The task that adds up lines, writes them in batches and forgets old jobs.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Inner, Name, Told, When};
use crate::app::clock::Clock;
use crate::engine::trace::{add, is_key, line};
use crate::model::config::SwarmEvents;
use crate::model::limits;
use crate::model::time::{Now, UnixMs};
use crate::model::trace::{TraceEvent, TraceHead, TraceKind};
use crate::store::records::encode;
use crate::store::{Store, StoreError};

/// A line waits so long for others to be written with it.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// Or for so many.
const BATCH_LINES: usize = 256;
/// Between two looks for what is to be forgotten.
const PURGE_EVERY: Duration = Duration::from_secs(24 * 3_600);
/// Lines removed in one commit.
const PURGE_LINES: usize = 500;
/// One line in so many is kept for what tells the story, when the ordinary ones have filled the rest.
const RESERVE: u64 = 20;

/// A job whose sums are in memory.
struct Live {
    head: TraceHead,
    /// This moment of the monotonic clock was so many microseconds after the job began.
    base: (Duration, u64),
    lines: Vec<(u64, TraceEvent)>,
    changed: bool,
}

/// Lines on their way to the disk: how many, and what waits for them.
type Writing = (usize, Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>);

pub(super) struct Writer {
    store: Store,
    clock: Clock,
    settings: SwarmEvents,
    logs: PathBuf,
    inner: Weak<Inner>,
    live: BTreeMap<String, Live>,
    waiting: usize,
    write_at: Option<Instant>,
    /// While it goes on further lines are gathered.
    writing: Option<Writing>,
}

impl Writer {
    pub(super) fn new(store: Store, clock: Clock, settings: SwarmEvents, logs: PathBuf, inner: Weak<Inner>) -> Self {
        Self { store, clock, settings, logs, inner, live: BTreeMap::new(), waiting: 0, write_at: None, writing: None }
    }

    /// Until told to stop, or until nobody can tell anything.
    pub(super) async fn run(mut self, mut hears: mpsc::Receiver<Told>) {
        let mut purge_at = Instant::now();
        loop {
            let wake = self.write_at.map_or(purge_at, |at| at.min(purge_at));
            let written = async {
                match &mut self.writing {
                    Some((_, written)) => written.await,
                    None => std::future::pending().await,
                }
            };
            let told = tokio::select! {
                told = hears.recv() => told,
                written = written => {
                    self.written(written);
                    continue;
                }
                () = sleep_until(wake) => {
                    let now = Instant::now();
                    if self.write_at.is_some_and(|at| at <= now) {
                        self.write().await;
                    }
                    if purge_at <= now {
                        self.purge(None).await;
                        purge_at = now + PURGE_EVERY;
                    }
                    continue;
                }
            };
            match told {
                Some(Told::Begin(name)) => self.begin(&name).await,
                Some(Told::Line(name, when, kind)) => self.add(&name, when, kind).await,
                Some(Told::Settle(done)) => {
                    self.write_all().await;
                    // Whoever asked may have gone.
                    let _ = done.send(());
                }
                Some(Told::Stop(done)) => {
                    self.write_all().await;
                    drop(self);
                    let _ = done.send(());
                    return;
                }
                None => return self.write_all().await,
            }
        }
    }

    async fn begin(&mut self, name: &Arc<Name>) {
        self.load(name).await;
        let Some(live) = self.live.get(&name.job) else { return };
        let completed = live.head.tally.ended.as_ref().is_some_and(|ended| ended.error.is_none());
        if completed {
            // The same file once more is another job.
            self.live.remove(&name.job);
            self.remove(&name.job).await;
            self.load(name).await;
        }
        if let Some(live) = self.live.get_mut(&name.job) {
            live.changed = true;
        }
        if self.heads() > self.settings.retention_jobs {
            self.purge(Some(&name.job)).await;
        }
    }

    /// How many jobs there are, those only in memory included.
    fn heads(&self) -> usize {
        let stored = self.store.read(|txn, tables| tables.traces.count(txn)).unwrap_or(0);
        let unwritten = self.live.values().filter(|live| live.head.lines == live.lines.len() as u64).count();
        usize::try_from(stored).unwrap_or(usize::MAX).saturating_add(unwritten)
    }

    /// Brings a job into memory, from the store or new. Another that was quiet longest makes room.
    async fn load(&mut self, name: &Arc<Name>) {
        if self.live.contains_key(&name.job) {
            return;
        }
        if self.live.len() >= limits::TRACE_JOBS {
            self.write_all().await;
            let quiet = self.live.iter().min_by_key(|(_, live)| live.head.last_at()).map(|(job, _)| job.clone());
            if let Some(quiet) = quiet {
                self.live.remove(&quiet);
            }
        }
        let now = self.clock.now();
        let kept = self.store.trace_head(&name.job);
        let kept = kept.inspect_err(|error| tracing::warn!(%error, job = name.job, "a trace cannot be read"));
        let head = kept.ok().flatten().unwrap_or_else(|| TraceHead {
            job: name.job.clone(),
            title: name.title.clone(),
            began_at: name.since.unwrap_or(now.wall).min(now.wall),
            ..TraceHead::default()
        });
        let so_far = micros(now.wall.since(head.began_at)).max(head.last_us);
        let live = Live { head, base: (now.mono, so_far), lines: Vec::new(), changed: false };
        self.live.insert(name.job.clone(), live);
    }

    async fn add(&mut self, name: &Arc<Name>, when: When, kind: TraceKind) {
        self.load(name).await;
        let settings = &self.settings;
        let Some(live) = self.live.get_mut(&name.job) else { return };
        let head = &mut live.head;
        let at_us = match when {
            When::Mono(at) => live.base.1.saturating_add(micros(at)).saturating_sub(micros(live.base.0)),
            When::Wall(at) => micros(at.since(head.began_at)),
        };
        let at_us = at_us.max(head.last_us);
        head.last_us = at_us;
        head.left_out = head.left_out.saturating_add(name.lost.swap(0, Ordering::Relaxed));
        add(&mut head.tally, at_us, &kind);
        let key = is_key(&kind);
        let event = TraceEvent { at_us, kind };
        // As it will lie in the store, with its key.
        let bytes = encode(&event).map_or(u64::MAX, |bytes| (bytes.len() + head.job.len() + 9) as u64);
        if has_room(head, settings.max_events_per_job, key, bytes) {
            live.lines.push((head.lines, event));
            head.lines += 1;
            head.bytes += bytes;
            self.waiting += 1;
        } else {
            head.left_out = head.left_out.saturating_add(1);
        }
        live.changed = true;
        self.write_at.get_or_insert_with(|| Instant::now() + BATCH_TIME);
        if self.waiting >= BATCH_LINES {
            self.write().await;
        }
    }

    /// Everything that waits, and waits until it is written.
    async fn write_all(&mut self) {
        self.write().await;
        self.finish().await;
    }

    /// Waits for the lines on their way.
    async fn finish(&mut self) {
        if let Some((_, written)) = &mut self.writing {
            let written = written.await;
            self.written(written);
        }
    }

    fn written(&mut self, written: Result<(), StoreError>) {
        let lines = self.writing.take().map_or(0, |(lines, _)| lines);
        if let Err(error) = written {
            tracing::warn!(%error, "lines of traces could not be written");
            if let Some(inner) = self.inner.upgrade() {
                inner.counters.lost.fetch_add(lines as u64, Ordering::Relaxed);
            }
        }
    }

    /// Begins to write everything that waits, in one commit. Waits only for the one before.
    async fn write(&mut self) {
        self.finish().await;
        (self.waiting, self.write_at) = (0, None);
        let mut batch = Vec::new();
        for live in self.live.values_mut().filter(|live| live.changed) {
            live.changed = false;
            let lines = std::mem::take(&mut live.lines);
            if self.settings.log_to_file
                && let Err(error) = log(&self.logs, &live.head, &lines)
            {
                tracing::warn!(%error, job = live.head.job, "a trace's log cannot be written");
            }
            let stored = lines.iter().filter_map(|(number, event)| Some((*number, encode(event).ok()?)));
            batch.push((live.head.clone(), stored.collect::<Vec<_>>()));
        }
        if batch.is_empty() {
            return;
        }
        let lines = batch.iter().map(|(_, lines)| lines.len()).sum();
        let written = self.store.write(move |txn, tables| {
            batch.iter().try_for_each(|(head, lines)| tables.traces.append(txn, head, lines))
        });
        self.writing = Some((lines, Box::pin(written)));
    }

    /// Forgets jobs that are too old, and the oldest when there are too many. The one that `begins` is the newest.
    async fn purge(&mut self, begins: Option<&str>) {
        self.write_all().await;
        let heads = match self.store.trace_heads() {
            Ok(heads) => heads,
            Err(error) => return tracing::warn!(%error, "old traces cannot be looked for"),
        };
        let now = self.clock.now();
        let known = heads.into_iter().map(|head| {
            let last = if begins == Some(&head.job) { now.wall } else { head.last_at() };
            (last, head.job)
        });
        for job in too_old(known.collect(), &self.settings, now) {
            self.live.remove(&job);
            self.remove(&job).await;
        }
    }

    async fn remove(&mut self, job: &str) {
        loop {
            let name = job.to_owned();
            let removed = self.store.write(move |txn, tables| tables.traces.remove_some(txn, &name, PURGE_LINES)).await;
            match removed {
                Ok(true) => break,
                Ok(false) => {}
                Err(error @ (StoreError::DiskFull | StoreError::MapFull)) => {
                    return tracing::warn!(%error, job, "a trace cannot be removed now");
                }
                Err(error) => return tracing::warn!(%error, job, "a trace cannot be removed"),
            }
        }
        // Usually there is none.
        let _ = std::fs::remove_file(log_path(&self.logs, job));
    }
}

/// Which jobs go: too old, or more than may be kept. Those written to last stay.
fn too_old(mut jobs: Vec<(UnixMs, String)>, settings: &SwarmEvents, now: Now) -> Vec<String> {
    jobs.sort_by(|a, b| b.cmp(a));
    let age = Duration::from_secs(settings.retention_days.saturating_mul(24 * 3_600));
    let gone = |(place, (last, _)): &(usize, (UnixMs, String))| {
        *place >= settings.retention_jobs || now.wall.since(*last) > age
    };
    jobs.into_iter().enumerate().filter(gone).map(|(_, (_, job))| job).collect()
}

/// Whether a line of so many bytes may be kept. Ordinary lines leave the last part to those that tell the story.
fn has_room(head: &TraceHead, lines_max: u64, key: bool, bytes: u64) -> bool {
    let limit = |whole: u64| if key { whole } else { whole - whole.div_ceil(RESERVE) };
    head.lines < limit(lines_max) && head.bytes.saturating_add(bytes) <= limit(limits::TRACE_BYTES)
}

fn micros(while_: Duration) -> u64 {
    u64::try_from(while_.as_micros()).unwrap_or(u64::MAX)
}

/// Where a job's text log lies. Names that are no file names are hashed.
fn log_path(logs: &Path, job: &str) -> PathBuf {
    let plain = job.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let name = if plain && !job.is_empty() { job.to_owned() } else { blake3::hash(job.as_bytes()).to_string() };
    logs.join(format!("{name}.log"))
}

fn log(logs: &Path, head: &TraceHead, lines: &[(u64, TraceEvent)]) -> std::io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(logs)?;
    let mut text = Vec::new();
    for (number, event) in lines {
        let line = line(*number, event);
        let who = line.peer_id.as_deref().unwrap_or("-").escape_default();
        let message = line.message.escape_debug();
        writeln!(text, "+{}.{:06} {} {who} {message}", event.at_us / 1_000_000, event.at_us % 1_000_000, line.kind)?;
    }
    let path = log_path(logs, &head.job);
    std::fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(days: u64, jobs: usize) -> SwarmEvents {
        SwarmEvents {
            enabled: true,
            retention_days: days,
            max_events_per_job: 100,
            retention_jobs: jobs,
            log_to_file: false,
        }
    }

    const DAY_MS: u64 = 24 * 3_600_000;

    #[test]
    fn old_jobs_go_and_the_newest_stay() {
        let now = Now { mono: Duration::ZERO, wall: UnixMs(100 * DAY_MS) };
        let job = |day: u64| (UnixMs(day * DAY_MS), format!("d{day}"));
        let jobs: Vec<_> = [70, 99, 69, 98, 71].into_iter().map(job).collect();
        assert_eq!(too_old(jobs.clone(), &settings(30, 10), now), ["d69"]);
        assert_eq!(too_old(jobs.clone(), &settings(1_000, 3), now), ["d70", "d69"]);
        assert_eq!(too_old(jobs.clone(), &settings(1_000, 5), now), [""; 0]);
        // Under a clock that is behind nothing is old.
        assert_eq!(too_old(jobs, &settings(30, 10), Now { wall: UnixMs(0), ..now }), [""; 0]);
    }

    #[test]
    fn ordinary_lines_leave_room_for_the_story() {
        let mut head = TraceHead::default();
        let room = |head: &TraceHead, key| has_room(head, 100, key, 50);
        head.lines = 94;
        assert!(room(&head, false));
        head.lines = 95;
        assert!(!room(&head, false) && room(&head, true));
        head.lines = 100;
        assert!(!room(&head, true));
        head.lines = 0;
        head.bytes = limits::TRACE_BYTES - limits::TRACE_BYTES / RESERVE - 50;
        assert!(room(&head, false));
        head.bytes += 1;
        assert!(!room(&head, false) && room(&head, true));
        head.bytes = limits::TRACE_BYTES - 49;
        assert!(!room(&head, true));
    }

    #[test]
    fn names_of_logs_stay_in_their_folder() {
        let logs = Path::new("/l");
        assert_eq!(log_path(logs, "ab-12"), Path::new("/l/ab-12.log"));
        for odd in ["", "../x", "a/b", "a.b", "\u{e9}"] {
            let path = log_path(logs, odd);
            assert_eq!((path.parent(), path.to_string_lossy().len()), (Some(logs), 3 + 64 + 4), "{odd}");
        }
    }
}
