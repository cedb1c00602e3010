//! The blocking backend: positional reads and writes on a few threads.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use tokio::sync::mpsc;

use super::pool::Block;
use super::{DiskError, File, Job, Shared, StartError, WriteFailed};

/// Threads for file data: enough that one waiting in fsync does not hold up the others. Chosen.
const THREADS: usize = 3;

/// Pieces of memory in one operation (`IOV_MAX` of Linux).
pub(super) const VECTORS_MAX: usize = 1024;

/// Serves this queue until every sender is gone.
pub(super) fn start(queue: mpsc::Receiver<Job>) -> Result<(), StartError> {
    workers("disk", THREADS, queue, perform)
}

/// Threads that take from one queue until every sender is gone.
pub(super) fn workers<T: Send + 'static>(
    name: &str,
    threads: usize,
    queue: mpsc::Receiver<T>,
    perform: impl Fn(T) + Copy + Send + 'static,
) -> Result<(), StartError> {
    let queue: Shared<T> = Arc::new(Mutex::new(queue));
    for number in 0..threads {
        let queue = Arc::clone(&queue);
        let run = move || {
            loop {
                // Taken in a statement of its own, so that the lock is free while the work is done.
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
                let Some(next) = next else { return };
                // A panic costs the one operation: its answer is dropped, which its caller sees as `Ended`.
                if catch_unwind(AssertUnwindSafe(|| perform(next))).is_err() {
                    tracing::error!("a disk operation panicked");
                }
            }
        };
        let thread = std::thread::Builder::new().name(format!("{name}-{number}"));
        thread.spawn(run).map_err(|error| StartError::Thread(error.to_string()))?;
    }
    Ok(())
}

/// One operation. Callers that went away do not get their answer.
fn perform(job: Job) {
    match job {
        Job::Write { file, at, blocks, done } => {
            let result = write(&file, at, &blocks);
            drop(blocks);
            let _ = done.send(result);
        }
        Job::Read { file, at, blocks, done } => {
            let _ = done.send(read(&file, at, blocks));
        }
        Job::Sync { file, data_only, done } => {
            let synced =
                if data_only { rustix::fs::fdatasync(file.fd.as_fd()) } else { rustix::fs::fsync(file.fd.as_fd()) };
            let _ = done.send(synced.map_err(|errno| DiskError::new("syncing", errno)));
        }
    }
}

fn write(file: &File, at: u64, blocks: &[Block]) -> Result<(), WriteFailed> {
    let mut slices: Vec<IoSlice<'_>> = blocks.iter().map(|block| IoSlice::new(block.bytes())).collect();
    let mut rest = slices.as_mut_slice();
    let mut written = 0_u64;
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match rustix::io::pwritev(file.fd.as_fd(), &rest[..rest.len().min(VECTORS_MAX)], at.saturating_add(written)) {
            Ok(0) => return Err(WriteFailed { written, error: DiskError::new("writing", Errno::IO) }),
            Ok(count) => {
                written += count as u64;
                IoSlice::advance_slices(&mut rest, count);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(WriteFailed { written, error: DiskError::new("writing", errno) }),
        }
    }
    Ok(())
}

fn read(file: &File, at: u64, mut blocks: Vec<Block>) -> Result<Vec<Block>, DiskError> {
    let mut total = 0_u64;
    let mut full = 0;
    while full < blocks.len() {
        let mut slices: Vec<IoSliceMut<'_>> =
            blocks[full..].iter_mut().take(VECTORS_MAX).map(|block| IoSliceMut::new(block.spare())).collect();
        match rustix::io::preadv(file.fd.as_fd(), &mut slices, at.saturating_add(total)) {
            Ok(0) => break,
            Ok(count) => {
                total += count as u64;
                full += filled(&mut blocks[full..], count);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(DiskError::new("reading", errno)),
        }
    }
    Ok(blocks)
}

/// Counts `count` fresh bytes in the room of these blocks; returns how many of them are full now, from the first.
pub(super) fn filled(blocks: &mut [Block], count: usize) -> usize {
    let mut left = count;
    let mut full = 0;
    for block in blocks {
        let here = left.min(block.room());
        block.grow(here);
        left -= here;
        if block.room() > 0 {
            break;
        }
        full += 1;
    }
    full
}
