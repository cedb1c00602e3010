//! The io_uring backend: one thread with a ring of its own, many operations in flight.
//!
//! tokio-uring's runtime lives on one thread and panics where io_uring is refused, so the ring is probed first: set-up,
//! the operations we use, and a real write, sync and read through the finished runtime. Only then is it trusted with
//! files.

use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_uring::buf::{IoBuf, IoBufMut};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

use super::blocking::{VECTORS_MAX, filled};
use super::pool::{BLOCK_LEN, Block, Pool};
use super::{DiskError, File, Job, WriteFailed};

/// Entries of the submission queue; the completion queue has twice as many. More than are ever in flight.
const ENTRIES: u32 = 128;

/// Operations in flight at once; further ones wait in the mailbox. Chosen: two for each of 32 busy transfers.
const IN_FLIGHT: u32 = 64;

/// How long the probe may take: a memory file answers in microseconds unless the kernel is emulated.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Somebody who wants to know whether the ring's thread still turns.
pub(super) type Call = oneshot::Sender<()>;

/// Serves this queue until every sender is gone, or says why not and gives the queue back. Calls are answered at once.
pub(super) fn start(
    queue: mpsc::Receiver<Job>,
    calls: mpsc::Receiver<Call>,
) -> Result<(), (String, mpsc::Receiver<Job>)> {
    if let Err(reason) = probe() {
        return Err((reason, queue));
    }
    let (ready, is_ready) = sync_channel(1);
    let (hand_over, take_over) = sync_channel::<mpsc::Receiver<Job>>(1);
    let thread = std::thread::Builder::new().name("disk-ring".to_owned()).spawn(move || {
        let run = AssertUnwindSafe(|| {
            tokio_uring::builder().entries(ENTRIES).start(async {
                let tried = try_out().await;
                let works = tried.is_ok();
                if ready.send(tried).is_err() || !works {
                    return;
                }
                // The queue comes only after the try-out, so that it can be given back if that fails.
                if let Ok(queue) = take_over.recv() {
                    tokio_uring::spawn(answer(calls));
                    serve(queue).await;
                }
            });
        });
        if catch_unwind(run).is_err() {
            tracing::error!("the disk ring has ended");
        }
    });
    if let Err(error) = thread {
        return Err((format!("no thread: {error}"), queue));
    }
    let reason = match is_ready.recv_timeout(PROBE_TIMEOUT) {
        Ok(Ok(())) => match hand_over.send(queue) {
            Ok(()) => return Ok(()),
            Err(returned) => return Err(("its thread ended".to_owned(), returned.0)),
        },
        Ok(Err(error)) => error,
        Err(_) => "the ring does not answer".to_owned(),
    };
    Err((reason, queue))
}

/// Whether the kernel gives a ring, and one with our operations.
fn probe() -> Result<(), String> {
    let ring = IoUring::new(ENTRIES).map_err(|error| format!("io_uring_setup: {error}"))?;
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known).map_err(|error| format!("io_uring_register: {error}"))?;
    let needed = [
        ("readv", opcode::Readv::CODE),
        ("writev", opcode::Writev::CODE),
        ("fsync", opcode::Fsync::CODE),
        ("cancel", opcode::AsyncCancel::CODE),
    ];
    match needed.iter().find(|(_, code)| !known.is_supported(*code)) {
        Some((name, _)) => Err(format!("this kernel's ring has no {name}")),
        None => Ok(()),
    }
}

/// A round trip through the ring: what was written and synced is read again.
async fn try_out() -> Result<(), String> {
    let pool = Pool::new(2);
    let memory = rustix::fs::memfd_create("slskdn-probe", MemfdFlags::CLOEXEC).map_err(|errno| errno.to_string())?;
    let file = File { fd: Arc::new(memory) };
    let mut block = pool.take().await;
    let sample: Vec<u8> = (0..BLOCK_LEN).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect();
    block.push(&sample);
    write(&file, 0, vec![block]).await.map_err(|error| error.to_string())?;
    sync(&file, true).await.map_err(|error| error.to_string())?;
    let back = read(&file, 0, vec![pool.take().await]).await.map_err(|error| error.to_string())?;
    if back.first().is_some_and(|block| block.bytes() == sample) {
        Ok(())
    } else {
        Err("bytes came back other than they went".to_owned())
    }
}

/// Beside the operations, which may all be waiting for a slow disk: whoever calls asks about the thread alone.
async fn answer(mut calls: mpsc::Receiver<Call>) {
    while let Some(call) = calls.recv().await {
        let _ = call.send(());
    }
}

async fn serve(mut queue: mpsc::Receiver<Job>) {
    let permits = Arc::new(Semaphore::new(IN_FLIGHT as usize));
    while let Some(job) = queue.recv().await {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        tokio_uring::spawn(async move {
            perform(job).await;
            drop(permit);
        });
    }
    // The runtime must not end before the kernel is done with the last buffer.
    let _ = permits.acquire_many(IN_FLIGHT).await;
}

async fn perform(job: Job) {
    match job {
        Job::Write { file, at, blocks, done } => {
            let _ = done.send(write(&file, at, blocks).await);
        }
        Job::Read { file, at, blocks, done } => {
            let _ = done.send(read(&file, at, blocks).await);
        }
        Job::Sync { file, data_only, done } => {
            let _ = done.send(sync(&file, data_only).await);
        }
    }
}

async fn write(file: &File, at: u64, mut blocks: Vec<Block>) -> Result<(), WriteFailed> {
    let total: usize = blocks.iter().map(Block::len).sum();
    let mut written = 0_usize;
    while written < total {
        let offset = at.saturating_add(written as u64);
        let vectors = vectors(&mut blocks, |block| (block.stable_ptr().cast_mut(), block.bytes_init()), written);
        let (count, pointer) = (u32::try_from(vectors.len()).unwrap_or(u32::MAX), vectors.as_ptr());
        let entry = opcode::Writev::new(Fd(file.fd.as_raw_fd()), pointer.cast(), count).offset(offset).build();
        let (result, returned) = submit(file, blocks, vectors, entry).await;
        blocks = returned;
        match result {
            Ok(0) => return Err(WriteFailed { written: written as u64, error: DiskError::new("writing", Errno::IO) }),
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(WriteFailed { written: written as u64, error: DiskError::new("writing", errno) }),
        }
    }
    Ok(())
}

async fn read(file: &File, at: u64, mut blocks: Vec<Block>) -> Result<Vec<Block>, DiskError> {
    let mut total = 0_usize;
    while blocks.last().is_some_and(|block| block.room() > 0) {
        let offset = at.saturating_add(total as u64);
        let room = |block: &mut Block| {
            let len = block.len();
            (block.stable_mut_ptr().wrapping_add(len), block.room())
        };
        let vectors = vectors(&mut blocks, room, 0);
        let (count, pointer) = (u32::try_from(vectors.len()).unwrap_or(u32::MAX), vectors.as_ptr());
        let entry = opcode::Readv::new(Fd(file.fd.as_raw_fd()), pointer.cast(), count).offset(offset).build();
        let (result, returned) = submit(file, blocks, vectors, entry).await;
        blocks = returned;
        match result {
            Ok(0) => break,
            Ok(count) => {
                total += count;
                filled(&mut blocks, count);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(DiskError::new("reading", errno)),
        }
    }
    Ok(blocks)
}

async fn sync(file: &File, data_only: bool) -> Result<(), DiskError> {
    let flags = if data_only { FsyncFlags::DATASYNC } else { FsyncFlags::empty() };
    loop {
        let entry = opcode::Fsync::new(Fd(file.fd.as_raw_fd())).flags(flags).build();
        match submit(file, Vec::new(), Vec::new(), entry).await.0 {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(DiskError::new("syncing", errno)),
        }
    }
}

/// One piece of memory, laid out as the kernel's `iovec`.
#[repr(C)]
struct Vector {
    base: *mut u8,
    len: usize,
}

/// The pieces that `piece` names in these blocks, without the first `skip` bytes and without empty ones; as many as one
/// operation may have.
fn vectors(blocks: &mut [Block], piece: impl Fn(&mut Block) -> (*mut u8, usize), mut skip: usize) -> Vec<Vector> {
    let mut vectors = Vec::with_capacity(blocks.len());
    for block in blocks {
        let (base, len) = piece(block);
        let gone = skip.min(len);
        skip -= gone;
        if len > gone && vectors.len() < VECTORS_MAX {
            vectors.push(Vector { base: base.wrapping_add(gone), len: len - gone });
        }
    }
    vectors
}

/// What must stay where it is until the kernel is done: the runtime keeps it even if nobody waits any more.
struct Kept {
    /// Keeps the descriptor from being closed and given to another file.
    _file: File,
    blocks: Vec<Block>,
    _vectors: Vec<Vector>,
}

struct Outcome;

impl OneshotOutputTransform for Outcome {
    type Output = (Result<usize, Errno>, Vec<Block>);
    type StoredData = Kept;

    fn transform_oneshot_output(self, kept: Kept, entry: cqueue::Entry) -> Self::Output {
        let result = entry.result();
        (usize::try_from(result).map_err(|_| Errno::from_raw_os_error(result.saturating_neg())), kept.blocks)
    }
}

/// Hands an entry to the ring together with the memory it points to.
async fn submit(
    file: &File,
    blocks: Vec<Block>,
    vectors: Vec<Vector>,
    entry: squeue::Entry,
) -> (Result<usize, Errno>, Vec<Block>) {
    let kept = Kept { _file: file.clone(), blocks, _vectors: vectors };
    UnsubmittedOneshot::new(kept, Outcome, entry).submit().await
}
