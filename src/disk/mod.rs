//! Bytes to and from the disk, through one pool of buffers.
//!
//! [`Disk`] is the handle. File data go over io_uring on a thread of its own ([`uring`]) or, where that is refused,
//! through plain system calls on a few threads ([`blocking`]); both pass the same tests. Everything else (opening,
//! renaming, folders, free space) runs on two further threads, because it may block and the ring has no entry for all of
//! it. Mailboxes are bounded: a slow disk makes the callers wait.
//!
//! The room checks every completion: a short write is continued, a full disk is [`DiskError::Full`] with the count of
//! bytes that did arrive. It keeps no order between operations that are under way together; whoever needs one waits for
//! the first before asking for the second. What the bytes mean, when to sync and what to do when the disk is full is
//! decided elsewhere.

pub mod blocking;
pub mod folder;
pub mod pool;
pub mod uring;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};

pub use self::folder::Folder;
use self::pool::{Block, Pool};

/// Operations waiting for a backend, before callers wait for room. Chosen: more than transfers run at once by default.
const MAILBOX: usize = 128;

/// Threads for everything but file data: two, so that one slow folder does not hold up all others.
const HELPERS: usize = 2;

/// What the file system refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// ENOSPC or EDQUOT.
    #[error("no room left on the disk")]
    Full,
    /// There is something of that name already.
    #[error("the name {0:?} is taken")]
    Taken(PathBuf),
    /// There is nothing of that name.
    #[error("{0:?} does not exist")]
    Missing(PathBuf),
    /// Absolute, empty, or leading out of its folder.
    #[error("{0:?} is not a name inside a folder")]
    UnsafeName(PathBuf),
    /// A symbolic link where none may be.
    #[error("{0:?} is a symbolic link")]
    SymbolicLink(PathBuf),
    /// A folder, device or pipe where a file must be.
    #[error("{0:?} is not a regular file")]
    NotAFile(PathBuf),
    /// The file system is read-only, or others own what is there: its name, and the system's sentence.
    #[error("{0:?} cannot be used: {1}")]
    Denied(PathBuf, String),
    /// A rename would have to copy.
    #[error("{0:?} is on another file system")]
    OtherFileSystem(PathBuf),
    /// Anything else.
    #[error("{what} failed: {why}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's sentence and number.
        why: String,
    },
    /// The thread that would do it is gone. It never comes back by itself.
    #[error("the disk thread has ended")]
    Ended,
}

impl DiskError {
    fn new(what: &str, errno: Errno) -> Self {
        match errno {
            Errno::NOSPC | Errno::DQUOT => Self::Full,
            other => Self::Io { what: what.to_owned(), why: std::io::Error::from(other).to_string() },
        }
    }
}

/// A write that did not get through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("after {written} bytes: {error}")]
pub struct WriteFailed {
    /// Bytes of this write that are in the file.
    pub written: u64,
    /// What stopped it.
    pub error: DiskError,
}

/// An open file. Clones are the same file; it closes with the last one.
#[derive(Clone, Debug)]
pub struct File {
    fd: Arc<OwnedFd>,
}

impl File {
    /// Takes over an open file of the standard library.
    pub fn from_std(file: std::fs::File) -> Self {
        Self { fd: Arc::new(file.into()) }
    }
}

/// Sizes of a file, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Its length.
    pub len: u64,
    /// Room it occupies, preallocated room included.
    pub allocated: u64,
}

/// Which backend is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring if it works here, else blocking.
    Auto,
    /// io_uring or nothing.
    Uring,
    /// Plain system calls.
    Blocking,
}

/// Which backend runs, for the log and the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendReport {
    /// `io_uring` or `blocking`.
    pub name: &'static str,
    /// Why it is not io_uring, in one sentence; empty if it is.
    pub reason: String,
}

/// No backend could be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// io_uring was demanded and is not to be had.
    #[error("io_uring does not work here: {0}")]
    Uring(String),
    /// The system gives no thread.
    #[error("no thread for the disk: {0}")]
    Thread(String),
}

/// An operation on file data.
#[derive(Debug)]
pub(crate) enum Job {
    /// Put these bytes, one block behind the other, at this offset.
    Write { file: File, at: u64, blocks: Vec<Block>, done: oneshot::Sender<Result<(), WriteFailed>> },
    /// Fill these blocks from this offset, until the end of the file.
    Read { file: File, at: u64, blocks: Vec<Block>, done: oneshot::Sender<Result<Vec<Block>, DiskError>> },
    /// Make it durable; with `data_only` without times and the like.
    Sync { file: File, data_only: bool, done: oneshot::Sender<Result<(), DiskError>> },
}

/// Work that may block.
type Errand = Box<dyn FnOnce() + Send>;

/// The handle. Clones reach the same threads, which end when the last one is gone and the work is done.
#[derive(Clone, Debug)]
pub struct Disk {
    jobs: mpsc::Sender<Job>,
    errands: mpsc::Sender<Errand>,
    /// Those that may take minutes on a slow disk: one at a time, and nothing else waits for them.
    syncs: mpsc::Sender<Errand>,
    /// To the ring's thread; nobody is there with plain system calls.
    calls: Option<mpsc::Sender<uring::Call>>,
    pool: Pool,
}

impl Disk {
    /// Starts the threads. May block for a moment, at most a few seconds if io_uring does not answer.
    ///
    /// # Errors
    /// With `Backend::Uring` when io_uring is refused; with any when the system gives no thread.
    pub fn start(backend: Backend, pool: Pool) -> Result<(Self, BackendReport), StartError> {
        let (jobs, job_queue) = mpsc::channel(MAILBOX);
        let (calls, called) = mpsc::channel(1);
        let report = match backend {
            Backend::Blocking => {
                blocking::start(job_queue)?;
                BackendReport { name: "blocking", reason: "it was asked for".to_owned() }
            }
            Backend::Auto | Backend::Uring => match uring::start(job_queue, called) {
                Ok(()) => BackendReport { name: "io_uring", reason: String::new() },
                Err((reason, _)) if backend == Backend::Uring => return Err(StartError::Uring(reason)),
                Err((reason, job_queue)) => {
                    blocking::start(job_queue)?;
                    BackendReport { name: "blocking", reason: format!("io_uring does not work here: {reason}") }
                }
            },
        };
        let (errands, errand_queue) = mpsc::channel::<Errand>(MAILBOX);
        blocking::workers("disk-helper", HELPERS, errand_queue, |errand| errand())?;
        let (syncs, sync_queue) = mpsc::channel::<Errand>(MAILBOX);
        blocking::workers("disk-sync", 1, sync_queue, |errand| errand())?;
        let calls = report.reason.is_empty().then_some(calls);
        Ok((Self { jobs, errands, syncs, calls, pool }, report))
    }

    /// The buffers.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Waits until the thread that turns the ring says that it is there; `false` when it has ended. No disk is asked: one
    /// that is slow, or gone, holds up its own operations only. With plain system calls there is no thread of ours that
    /// could hang but in one of them: always `true`, at once.
    pub async fn is_there(&self) -> bool {
        let Some(calls) = &self.calls else { return true };
        let (call, answer) = oneshot::channel();
        calls.send(call).await.is_ok() && answer.await.is_ok()
    }

    /// Writes these blocks one behind the other. They go back to the pool.
    ///
    /// # Errors
    /// With the number of bytes that are in the file all the same.
    pub async fn write(&self, file: &File, at: u64, blocks: Vec<Block>) -> Result<(), WriteFailed> {
        let (done, answer) = oneshot::channel();
        let job = Job::Write { file: file.clone(), at, blocks, done };
        let ended = |()| WriteFailed { written: 0, error: DiskError::Ended };
        self.jobs.send(job).await.map_err(|_| ended(()))?;
        answer.await.map_err(|_| ended(()))?
    }

    /// Fills the room of these blocks from this offset on. Fewer bytes, or none, come back only at the end of the file.
    pub async fn read(&self, file: &File, at: u64, blocks: Vec<Block>) -> Result<Vec<Block>, DiskError> {
        let (done, answer) = oneshot::channel();
        let job = Job::Read { file: file.clone(), at, blocks, done };
        self.jobs.send(job).await.map_err(|_| DiskError::Ended)?;
        answer.await.map_err(|_| DiskError::Ended)?
    }

    /// fdatasync: the bytes written so far, and the length, survive a power cut.
    pub async fn sync_data(&self, file: &File) -> Result<(), DiskError> {
        self.sync(file, true).await
    }

    /// fsync: as [`Disk::sync_data`], with all that is known about the file.
    pub async fn sync_all(&self, file: &File) -> Result<(), DiskError> {
        self.sync(file, false).await
    }

    async fn sync(&self, file: &File, data_only: bool) -> Result<(), DiskError> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job::Sync { file: file.clone(), data_only, done }).await.map_err(|_| DiskError::Ended)?;
        answer.await.map_err(|_| DiskError::Ended)?
    }

    /// Reserves room up to `len` bytes without changing the file's length, so that the length stays the count of bytes
    /// really written. File systems that cannot reserve are left alone.
    pub async fn preallocate(&self, file: &File, len: u64) -> Result<(), DiskError> {
        let file = file.clone();
        self.errand(move || match rustix::fs::fallocate(file.fd.as_fd(), FallocateFlags::KEEP_SIZE, 0, len.max(1)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(errno) => Err(DiskError::new("reserving room", errno)),
        })
        .await
    }

    /// Length and occupied room.
    pub async fn sizes(&self, file: &File) -> Result<Sizes, DiskError> {
        let file = file.clone();
        self.errand(move || {
            let stat = rustix::fs::fstat(file.fd.as_fd()).map_err(|errno| DiskError::new("reading a size", errno))?;
            let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
            // `st_blocks` counts 512 bytes whatever the block size of the file system.
            Ok(Sizes { len: unsigned(stat.st_size), allocated: unsigned(stat.st_blocks).saturating_mul(512) })
        })
        .await
    }

    /// Lets the kernel forget its copies of these bytes, as far as they are on the disk. It may keep them all the same.
    pub async fn uncache(&self, file: &File, at: u64, len: u64) -> Result<(), DiskError> {
        let file = file.clone();
        self.errand(move || {
            // A length of zero would be all of the file.
            let Some(len) = std::num::NonZeroU64::new(len) else { return Ok(()) };
            rustix::fs::fadvise(file.fd.as_fd(), at, Some(len), rustix::fs::Advice::DontNeed)
                .map_err(|errno| DiskError::new("letting go of a file's pages", errno))
        })
        .await
    }

    /// Sets the length; room reserved behind it is given back.
    pub async fn truncate(&self, file: &File, len: u64) -> Result<(), DiskError> {
        let file = file.clone();
        self.errand(move || {
            rustix::fs::ftruncate(file.fd.as_fd(), len).map_err(|errno| DiskError::new("cutting a file", errno))
        })
        .await
    }

    /// Does something that blocks, away from the caller's thread. Nothing remote may choose what.
    pub(crate) async fn errand<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, DiskError> {
        sent(&self.errands, work).await
    }
}

/// Lets one of a queue's threads do it.
async fn sent<T: Send + 'static>(
    to: &mpsc::Sender<Errand>,
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    let (done, answer) = oneshot::channel();
    let errand: Errand = Box::new(move || {
        // Nobody waits any more: the answer is dropped.
        let _ = done.send(work());
    });
    to.send(errand).await.map_err(|_| DiskError::Ended)?;
    answer.await.map_err(|_| DiskError::Ended)?
}

/// A queue that several threads take from. The lock is held while one of them waits; the others wait for the lock.
type Shared<T> = Arc<Mutex<mpsc::Receiver<T>>>;
