//! The one writing thread: it takes jobs in the order they came, runs as many as fit one transaction, commits, and only
//! then answers.
//!
//! A group ends when no job is waiting, after [`GROUP_JOBS`] jobs, after `limits::COMMIT_BYTES` of estimated dirty
//! pages or after [`GROUP_TIME`]; while a commit waits for the disk the next group gathers in the queue, so one job
//! alone is committed at once and many share the two syncs.
//!
//! A job that fails takes nobody down: the jobs before it are run again and committed, then it is run as the first of
//! a transaction of its own, and its error is its answer. A full map grows and the group is run again. That is why
//! jobs are `Fn`. A panic, or an error of the disk in a commit, ends all writing: what the file holds is then for a
//! restart to find out.

use std::any::Any;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use heed::RwTxn;
use tokio::sync::oneshot;

use super::tables::Tables;
use super::{Shared, StoreError, folder};
use crate::model::limits;

/// Jobs of one commit at most (RELIABILITY-FACTS 6 and PERFORMANCE-FACTS E: group by 500 records).
pub const GROUP_JOBS: usize = 500;
/// Age of a group, from its first job, at which it is committed although more jobs wait.
pub const GROUP_TIME: Duration = Duration::from_millis(20);
/// Dirty bytes a job is taken for when it does not say: two pages. With it a full group is `limits::COMMIT_BYTES`.
pub const JOB_BYTES: u64 = limits::COMMIT_BYTES / GROUP_JOBS as u64;

/// One piece of writing, its type hidden.
pub(super) trait Job: Send {
    /// Dirty bytes it is expected to leave.
    fn bytes(&self) -> u64;
    /// Does it, once more if need be; only the last result counts.
    fn run(&mut self, txn: &mut RwTxn<'_>, tables: &Tables) -> Result<(), StoreError>;
    /// Tells whoever waits.
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Work<T, F> {
    job: F,
    bytes: u64,
    result: Option<T>,
    waiting: oneshot::Sender<Result<T, StoreError>>,
}

/// Makes a job and the ticket for its answer.
pub(super) fn work<T, F>(bytes: u64, job: F) -> (Box<dyn Job>, Ticket<T>)
where
    T: Send + 'static,
    F: Fn(&mut RwTxn<'_>, &Tables) -> Result<T, StoreError> + Send + 'static,
{
    let (waiting, answer) = oneshot::channel();
    (Box::new(Work { job, bytes, result: None, waiting }), Ticket { answer })
}

impl<T, F> Job for Work<T, F>
where
    T: Send + 'static,
    F: Fn(&mut RwTxn<'_>, &Tables) -> Result<T, StoreError> + Send + 'static,
{
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn run(&mut self, txn: &mut RwTxn<'_>, tables: &Tables) -> Result<(), StoreError> {
        self.result = None;
        self.result = Some((self.job)(txn, tables)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { result, waiting, .. } = *self;
        let answer = outcome.and_then(|()| result.ok_or(StoreError::Closed));
        // Nobody waits any more when the ticket was dropped; the write stands all the same.
        drop(waiting.send(answer));
    }
}

/// The answer to a submitted job, when it is durable. Dropping it does not undo the job.
#[derive(Debug)]
#[must_use = "a write is durable when its ticket says so"]
pub struct Ticket<T> {
    answer: oneshot::Receiver<Result<T, StoreError>>,
}

impl<T> Ticket<T> {
    /// One whose job is somebody else's.
    #[cfg(test)]
    pub(crate) fn of(answer: oneshot::Receiver<Result<T, StoreError>>) -> Self {
        Self { answer }
    }

    /// Waits on a thread that is not one of the async runtime's (there it panics: await the ticket instead).
    pub fn wait(self) -> Result<T, StoreError> {
        self.answer.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }
}

impl<T> Future for Ticket<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
    }
}

/// How one try at a group ended.
enum Try {
    /// The first jobs, so many, are on the disk.
    Committed(usize),
    /// The first job failed by itself.
    Failed(StoreError),
    /// Run again, with so many jobs at most.
    Again(usize),
    /// The first jobs, so many, could not be kept, but the store is whole.
    Refused(usize, fn() -> StoreError),
    /// No more writing.
    Broken(String),
}

/// The thread's life: until every sender is gone and the queue is empty, so closing the store flushes it.
pub(super) fn run(shared: &Shared, queue: &Receiver<Box<dyn Job>>) {
    let mut jobs: VecDeque<Box<dyn Job>> = VecDeque::new();
    let mut at_most = GROUP_JOBS;
    loop {
        if jobs.is_empty() {
            match queue.recv() {
                Ok(job) => jobs.push_back(job),
                Err(_) => return,
            }
        }
        if let Some(reason) = shared.poisoned() {
            jobs.drain(..).for_each(|job| job.answer(Err(StoreError::Poisoned(reason.clone()))));
            continue;
        }
        let tried = catch_unwind(AssertUnwindSafe(|| try_group(shared, queue, &mut jobs, at_most)))
            .unwrap_or_else(|panic| Try::Broken(format!("panic while writing: {}", panic_text(panic.as_ref()))));
        at_most = GROUP_JOBS;
        match tried {
            Try::Committed(done) => jobs.drain(..done).for_each(|job| job.answer(Ok(()))),
            Try::Failed(error) => {
                if let Some(job) = jobs.pop_front() {
                    job.answer(Err(error));
                }
            }
            Try::Again(fewer) => at_most = fewer.max(1),
            Try::Refused(done, error) => jobs.drain(..done).for_each(|job| job.answer(Err(error()))),
            Try::Broken(reason) => shared.poison(reason),
        }
    }
}

fn try_group(
    shared: &Shared,
    queue: &Receiver<Box<dyn Job>>,
    jobs: &mut VecDeque<Box<dyn Job>>,
    at_most: usize,
) -> Try {
    if let Err(error) = shared.grow_ahead() {
        return Try::Broken(format!("the map cannot grow: {error}"));
    }
    let mut txn = match shared.env.write_txn() {
        Ok(txn) => txn,
        Err(error) => return Try::Broken(format!("no write transaction: {error}")),
    };
    let began = moment();
    let mut done = 0;
    let mut bytes = 0_u64;
    let stop = loop {
        let full = bytes >= limits::COMMIT_BYTES || (done > 0 && began.elapsed() >= GROUP_TIME);
        if done == at_most || full {
            break None;
        }
        if done == jobs.len() {
            match queue.try_recv() {
                Ok(job) => jobs.push_back(job),
                Err(_) => break None,
            }
        }
        match jobs[done].run(&mut txn, &shared.tables) {
            Ok(()) => {
                bytes = bytes.saturating_add(jobs[done].bytes());
                done += 1;
            }
            Err(error) => break Some(error),
        }
    };
    match stop {
        None => commit(shared, txn, done, began),
        Some(StoreError::MapFull) => {
            txn.abort();
            grow(shared, done + 1, Try::Failed(StoreError::MapFull))
        }
        Some(error) if done == 0 => {
            txn.abort();
            Try::Failed(error)
        }
        Some(_) => {
            txn.abort();
            Try::Again(done)
        }
    }
}

fn commit(shared: &Shared, txn: RwTxn<'_>, done: usize, began: Instant) -> Try {
    let syncing = moment();
    match shared.gate.around_commit(|| txn.commit()).map_err(StoreError::from) {
        Ok(()) => {
            let counters = &shared.counters;
            counters.commits.fetch_add(1, Ordering::Relaxed);
            counters.jobs.fetch_add(done as u64, Ordering::Relaxed);
            counters.commit_us.store(micros(syncing), Ordering::Relaxed);
            counters.group_us.store(micros(began), Ordering::Relaxed);
            Try::Committed(done)
        }
        Err(StoreError::MapFull) => grow(shared, done, Try::Refused(done, || StoreError::MapFull)),
        Err(StoreError::DiskFull) => Try::Refused(done, || StoreError::DiskFull),
        // A job hid an error after which LMDB keeps nothing of the transaction: halve until it stands alone.
        Err(StoreError::Database(heed::Error::Mdb(heed::MdbError::BadTxn))) if done > 1 => Try::Again(done / 2),
        Err(error @ StoreError::Database(heed::Error::Mdb(heed::MdbError::BadTxn))) => Try::Failed(error),
        // LMDB reports a short write as EIO. On a full disk that is what happened.
        Err(_) if !folder::has_room(shared.env.path(), 2 * limits::COMMIT_BYTES) => {
            Try::Refused(done, || StoreError::DiskFull)
        }
        Err(error) => Try::Broken(format!("commit failed: {error}")),
    }
}

/// After `MAP_FULL`: a larger map and the same jobs again; at the largest size fewer jobs, and one alone is refused.
fn grow(shared: &Shared, done: usize, refused: Try) -> Try {
    match shared.grow() {
        Ok(true) => Try::Again(done),
        Ok(false) if done > 1 => Try::Again(done / 2),
        Ok(false) => refused,
        Err(error) => Try::Broken(format!("the map cannot grow: {error}")),
    }
}

#[expect(clippy::disallowed_methods, reason = "measures a commit and ages a group; no record depends on it")]
fn moment() -> Instant {
    Instant::now()
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words")
}
