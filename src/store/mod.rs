//! What is kept: one LMDB environment, one writer.
//!
//! The room decides how records lie on the disk, in which groups they are committed, and when the map grows. What is
//! written and when is decided elsewhere, and arrives as [`Change`] lists or as write jobs. A write is answered when
//! it is durable, never before. Reads are short: LMDB cannot reuse pages under a long reader.

mod apply;
mod backup;
pub mod catalog;
mod error;
mod folder;
mod gate;
pub mod gossip;
pub mod jobs;
pub mod library;
mod lists;
pub mod mesh;
mod migrate;
pub mod records;
pub mod repair;
pub mod rescue;
pub mod shares;
pub mod tables;
pub mod traces;
pub mod writer;

use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use heed::{EnvOpenOptions, RoTxn, RwTxn, WithoutTls};

pub use self::backup::{BackupSummary, RESTORED_CONFIG, copies, newest_snapshot, restore, unfinished, verify_backup};
pub use self::error::StoreError;
pub use self::migrate::{FORMAT, Schema, Step};
use self::tables::{Env, TABLES_MAX, Tables};
pub use self::writer::Ticket;
use self::writer::{JOB_BYTES, Job};
use crate::model::record::Change;
use crate::model::units::{GIB, MIB};

/// Map sizes are multiples of this: a page of every kernel we run on divides it.
pub const MAP_STEP: usize = 64 * 1024;
/// The smallest map: all tables, empty, fit.
const MAP_SIZE_MIN: usize = 16 * MAP_STEP;
/// Jobs waiting for the writer; a submitter waits for room, so nothing is dropped.
pub const QUEUE: usize = 1_024;

/// How a store is opened. The defaults are right for the daemon.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Map size to begin with, bytes; rounded up to [`MAP_STEP`] and to what the file already needs.
    pub map_size: usize,
    /// The map never grows past this, bytes.
    pub map_size_max: usize,
    /// Readers at once; LMDB's table gets twice as many slots. Further readers wait.
    pub readers: u32,
    /// The format to bring the store to.
    pub schema: Schema,
}

impl Default for StoreOptions {
    fn default() -> Self {
        let max = if cfg!(target_pointer_width = "64") { 64 * GIB } else { GIB };
        Self {
            map_size: usize::try_from(64 * MIB).unwrap_or(usize::MAX),
            map_size_max: usize::try_from(max).unwrap_or(usize::MAX),
            readers: 48,
            schema: Schema::CURRENT,
        }
    }
}

/// Whether writes are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// They are.
    Well,
    /// A commit failed in a way that ended all writing; the reason in one sentence.
    Poisoned(String),
}

/// Figures for the page and `/metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of address space the map has.
    pub map_size: u64,
    /// Bytes of it that were ever used; freed pages count until they are reused.
    pub used: u64,
    /// Commits since the store was opened.
    pub commits: u64,
    /// Jobs in them.
    pub jobs: u64,
    /// Microseconds of the last commit call (both syncs).
    pub commit_us: u64,
    /// Microseconds from the last group's first job to its end.
    pub group_us: u64,
    /// Times the map grew.
    pub growths: u64,
    /// Readers inside now, this one included.
    pub readers: u32,
    /// Entries of each table.
    pub tables: Vec<(&'static str, u64)>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    commits: AtomicU64,
    jobs: AtomicU64,
    commit_us: AtomicU64,
    group_us: AtomicU64,
    growths: AtomicU64,
    /// Copies being made: long readers for which early growth does not wait.
    copies: AtomicU32,
}

/// What the handle and the writing thread both need.
#[derive(Debug)]
pub(crate) struct Shared {
    env: Env,
    tables: Tables,
    gate: gate::Gate<RoTxn<'static, WithoutTls>>,
    page_size: usize,
    map_size_max: usize,
    poison: Mutex<Option<String>>,
    counters: Counters,
}

impl Shared {
    fn poisoned(&self) -> Option<String> {
        self.poison.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn poison(&self, reason: String) {
        tracing::error!(reason, "the store takes no more writes");
        self.poison.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }

    fn map(&self) -> (usize, usize) {
        let info = self.env.info();
        (info.last_page_number.saturating_add(1).saturating_mul(self.page_size), info.map_size)
    }

    /// Grows at 70 % full (RELIABILITY-FACTS 6), so that `MAP_FULL` is rare. While a copy is made it waits until 90 %.
    fn grow_ahead(&self) -> Result<(), StoreError> {
        let (used, size) = self.map();
        let copying = self.counters.copies.load(Ordering::Relaxed) > 0;
        let mark = if copying { size / 10 * 9 } else { size / 10 * 7 };
        if used >= mark {
            self.grow()?;
        }
        Ok(())
    }

    /// Doubles the map, by 1 GiB at most. False when it is as large as allowed. Only the writing thread calls this,
    /// without a transaction.
    fn grow(&self) -> Result<bool, StoreError> {
        let (_, size) = self.map();
        let step = size.min(usize::try_from(GIB).unwrap_or(usize::MAX));
        let wanted = round_up(size.saturating_add(step)).min(self.map_size_max);
        if wanted <= size {
            return Ok(false);
        }
        self.gate.alone(|| {
            #[expect(unsafe_code, reason = "LMDB leaves it to the caller that no transaction is active")]
            // SAFETY: the gate is shut, so there is no reader and no kept snapshot; the only thread that writes is
            // here, between two transactions.
            let resized = unsafe { self.env.resize(wanted) };
            Ok(resized?)
        })?;
        self.counters.growths.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(from = size, to = wanted, "the store's map grew");
        Ok(true)
    }
}

fn round_up(size: usize) -> usize {
    size.div_ceil(MAP_STEP).saturating_mul(MAP_STEP)
}

#[derive(Debug)]
struct Inner {
    // Dropped in this order by `Drop`: the queue ends, the thread commits what is left and ends, the environment
    // closes, the lock is given back.
    queue: Option<SyncSender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    _lock: folder::Lock,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the writing thread panicked");
        }
    }
}

/// The handle. Clones are cheap; when the last one is dropped everything submitted is committed and the store closed.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

impl Store {
    /// Opens the store in `dir` (made when absent), migrates it if it is older, and starts the writer.
    ///
    /// Fails when another process has it, when the folder lies on a network file system, when the store is newer than
    /// this program, or when the file does not open.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        folder::make(dir)?;
        folder::check_file_system(dir)?;
        let lock = folder::lock(dir)?;
        let env = open_env(dir, options.map_size, options.map_size_max, options.readers.saturating_mul(2))?;
        let stale = env.clear_stale_readers()?;
        if stale > 0 {
            tracing::info!(stale, "readers of a dead process were cleared from the store");
        }
        migrate::bring_to(&env, dir, options.schema, options.map_size_max)?;
        let mut txn = env.write_txn()?;
        let tables = Tables::open(&env, &mut txn)?;
        txn.commit()?;
        folder::sync(dir)?;

        let page_size = usize::try_from(env.stat().page_size).unwrap_or(4096);
        let shared = Arc::new(Shared {
            env,
            tables,
            gate: gate::Gate::new(options.readers),
            page_size,
            map_size_max: options.map_size_max,
            poison: Mutex::new(None),
            counters: Counters::default(),
        });
        let (queue, jobs) = sync_channel(QUEUE);
        let writing = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer::run(&writing, &jobs))
            .map_err(StoreError::io("start the writing thread for", dir))?;
        let inner = Inner { queue: Some(queue), thread: Some(thread), shared, _lock: lock };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Queues a job now and answers when it is durable. Never blocks the caller's thread.
    ///
    /// The job may run more than once (see [`writer`]): it must do the same each time, in well under
    /// `limits::COMMIT_BYTES` of changes, and neither wait for anything nor use this handle.
    pub fn write<T, F>(&self, job: F) -> impl Future<Output = Result<T, StoreError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Fn(&mut RwTxn<'_>, &Tables) -> Result<T, StoreError> + Send + 'static,
    {
        self.write_sized(JOB_BYTES, job)
    }

    /// As [`Store::write`], for a job that leaves about so many dirty bytes: big ones end a group sooner.
    pub fn write_sized<T, F>(
        &self,
        bytes: u64,
        job: F,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Fn(&mut RwTxn<'_>, &Tables) -> Result<T, StoreError> + Send + 'static,
    {
        let (job, ticket) = writer::work(bytes, job);
        // The handle stays with a job that finds no room, so that the store is not closed over it.
        let left = self.try_queue(job).map(|job| job.map(|job| (job, self.clone())));
        async move {
            if let Some((job, store)) = left? {
                // A panic in there drops the job, and the ticket says so.
                drop(tokio::task::spawn_blocking(move || store.queue_blocking(job)).await);
            }
            ticket.await
        }
    }

    /// Queues a job behind all submitted before, to be awaited later. Blocks while [`QUEUE`] jobs wait.
    pub fn submit<T, F>(&self, job: F) -> Ticket<T>
    where
        T: Send + 'static,
        F: Fn(&mut RwTxn<'_>, &Tables) -> Result<T, StoreError> + Send + 'static,
    {
        self.submit_sized(JOB_BYTES, job)
    }

    /// As [`Store::submit`], for a job that leaves about so many dirty bytes: big ones end a group sooner.
    pub fn submit_sized<T, F>(&self, bytes: u64, job: F) -> Ticket<T>
    where
        T: Send + 'static,
        F: Fn(&mut RwTxn<'_>, &Tables) -> Result<T, StoreError> + Send + 'static,
    {
        let (job, ticket) = writer::work(bytes, job);
        self.queue_blocking(job);
        ticket
    }

    /// As [`Store::submit`], waiting on this thread, which must not be one of the async runtime's.
    pub fn write_blocking<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&mut RwTxn<'_>, &Tables) -> Result<T, StoreError> + Send + 'static,
    {
        self.submit(job).wait()
    }

    /// Queues changes that are kept together or not at all; retention happens in the same commit. Order is kept
    /// between calls. Blocks as [`Store::submit`] does.
    pub fn apply(&self, changes: Vec<Change>) -> Ticket<()> {
        let bytes = JOB_BYTES.saturating_mul(changes.len() as u64);
        self.submit_sized(bytes, move |txn, tables| apply::apply(&changes, txn, tables))
    }

    /// Hands a job to the writer, waiting for room. A job that is dropped drops its answer: the ticket says `Closed`.
    fn queue_blocking(&self, job: Box<dyn Job>) {
        if let Some(queue) = &self.inner.queue {
            drop(queue.send(job));
        }
    }

    /// Hands a job to the writer; gives it back when the queue is full.
    fn try_queue(&self, job: Box<dyn Job>) -> Result<Option<Box<dyn Job>>, StoreError> {
        let Some(queue) = &self.inner.queue else { return Err(StoreError::Closed) };
        match queue.try_send(job) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(job)) => Ok(Some(job)),
            Err(TrySendError::Disconnected(_)) => Err(StoreError::Closed),
        }
    }

    /// Reads a consistent state. Short and synchronous: inline for a few records, else in `spawn_blocking`. Waits
    /// while the map grows or all places for readers are taken. Must not wait for a write inside.
    pub fn read<T>(&self, job: impl FnOnce(&RoTxn<'_>, &Tables) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let shared = &self.inner.shared;
        let mut seat = shared.gate.enter()?;
        let txn = seat.snapshot(|| shared.env.clone().static_read_txn())?;
        job(txn, &shared.tables)
    }

    /// Whether writes are taken.
    pub fn health(&self) -> Health {
        self.inner.shared.poisoned().map_or(Health::Well, Health::Poisoned)
    }

    /// Figures.
    pub fn stats(&self) -> Result<Stats, StoreError> {
        let shared = &self.inner.shared;
        let counters = &shared.counters;
        self.read(|txn, tables| {
            let (used, map_size) = shared.map();
            Ok(Stats {
                map_size: map_size as u64,
                used: used as u64,
                commits: counters.commits.load(Ordering::Relaxed),
                jobs: counters.jobs.load(Ordering::Relaxed),
                commit_us: counters.commit_us.load(Ordering::Relaxed),
                group_us: counters.group_us.load(Ordering::Relaxed),
                growths: counters.growths.load(Ordering::Relaxed),
                readers: shared.gate.readers(),
                tables: tables.sizes(txn)?,
            })
        })
    }
}

/// Opens the environment in `dir` with the flags that keep what was acknowledged: the default ones.
fn open_env(dir: &Path, map_size: usize, map_size_max: usize, max_readers: u32) -> Result<Env, StoreError> {
    let file = dir.join("data.mdb");
    let length = file.metadata().map(|data| data.len()).unwrap_or_default();
    // Room for what is there and half as much again.
    let needed = usize::try_from(length / 2 * 3).unwrap_or(usize::MAX);
    let size = round_up(map_size.max(needed).min(map_size_max.max(needed)).max(MAP_SIZE_MIN));
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(size).max_readers(max_readers.max(2)).max_dbs(TABLES_MAX);
    #[expect(unsafe_code, reason = "LMDB maps the file")]
    // SAFETY: the caller holds `store/lock` or made the folder for itself, so nobody else changes the file; the file
    // system is local; no unsafe flag is set.
    let env = unsafe { options.open(dir) };
    Ok(env?)
}
