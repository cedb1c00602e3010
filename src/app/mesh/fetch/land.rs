//! Where the pieces of a file land.
//!
//! Pieces are checked before they come here ([`super::run`]). What was written is read back and checked against the
//! proven list while the rest still comes, and made durable every so often, so that little is left to do when the last
//! piece is there. A list that folds to the file's hash proves each of its entries: a file whose every piece was read
//! back right is the file, and need not be hashed once more from one end to the other.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::super::locked;
use super::{BATCH, Stop};
use crate::disk::pool::Block;
use crate::disk::{Disk, DiskError, File};
use crate::engine::swarm::list::{PIECE_LEN, PieceList};

/// Ranges that wait to be read back; one more is read back at the end.
const WAITING: usize = 256;
/// Bytes after which what was written is made durable. Chosen: two seconds of a memory card, so that the end of a long
/// file does not wait for all of it, and a power cut costs no more than that.
const SYNC_BYTES: u64 = 64 * 1024 * 1024;

/// What the disk gives back is not what was written.
const WRONG: &str = "the disk does not give back what was written to it";

/// The place, for those who write. Clones are the same.
#[derive(Clone)]
pub(super) struct Landing {
    ground: Arc<Ground>,
    written: mpsc::Sender<Range<usize>>,
}

struct Ground {
    disk: Disk,
    file: File,
    list: Arc<PieceList>,
    /// Pieces that were read from the disk and are right. Short and synchronous.
    held: Mutex<Vec<bool>>,
}

/// Reads back what lands; stops when dropped.
pub(super) struct Follower {
    ground: Arc<Ground>,
    task: AbortOnDropHandle<Result<(), Stop>>,
}

impl Landing {
    /// For a file of which these pieces were read and are right.
    pub(super) fn new(disk: Disk, file: File, list: Arc<PieceList>, held: Vec<bool>) -> (Self, Follower) {
        let (written, landed) = mpsc::channel(WAITING);
        let ground = Arc::new(Ground { disk, file, list, held: Mutex::new(held) });
        let task = AbortOnDropHandle::new(tokio::spawn(follow(Arc::clone(&ground), landed)));
        (Self { ground: Arc::clone(&ground), written }, Follower { ground, task })
    }

    /// Writes right pieces, one behind the other from this one on.
    pub(super) async fn write(&self, first: usize, blocks: Vec<Block>) -> Result<(), DiskError> {
        let Ground { disk, file, .. } = &*self.ground;
        let pieces = first..first + blocks.len();
        disk.write(file, first as u64 * PIECE_LEN, blocks).await.map_err(|failed| failed.error)?;
        // With too many waiting it is read back at the end.
        let _ = self.written.try_send(pieces);
        Ok(())
    }
}

/// Until nobody writes any more.
async fn follow(ground: Arc<Ground>, mut landed: mpsc::Receiver<Range<usize>>) -> Result<(), Stop> {
    let mut unsynced = 0;
    let mut sync: Option<AbortOnDropHandle<Result<(), DiskError>>> = None;
    while let Some(pieces) = landed.recv().await {
        unsynced += pieces.len() as u64 * PIECE_LEN;
        ground.read_back(pieces).await?;
        if unsynced >= SYNC_BYTES && sync.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
            ended(sync.take()).await?;
            unsynced = 0;
            let ground = Arc::clone(&ground);
            sync = Some(AbortOnDropHandle::new(tokio::spawn(async move { ground.disk.sync_data(&ground.file).await })));
        }
    }
    ended(sync).await
}

/// A sync that fails says so once: it must be heard.
async fn ended(sync: Option<AbortOnDropHandle<Result<(), DiskError>>>) -> Result<(), Stop> {
    match sync {
        Some(sync) => Ok(sync.await.unwrap_or(Err(DiskError::Ended))?),
        None => Ok(()),
    }
}

impl Ground {
    async fn read_back(&self, pieces: Range<usize>) -> Result<(), Stop> {
        let mut next = pieces.start;
        while next < pieces.end {
            let blocks = self.disk.pool().take_many(BATCH.min(pieces.end - next)).await;
            let blocks = self.disk.read(&self.file, next as u64 * PIECE_LEN, blocks).await?;
            for block in &blocks {
                let bytes = &block.bytes()[..block.len().min(self.list.piece_len(next))];
                if !self.list.holds(next, bytes) {
                    return Err(Stop::Later(WRONG.to_owned()));
                }
                if let Some(held) = locked(&self.held).get_mut(next) {
                    *held = true;
                }
                next += 1;
            }
        }
        Ok(())
    }

    /// The first pieces, at most a batch, that were not read back yet.
    fn missing(&self) -> Option<Range<usize>> {
        let held = locked(&self.held);
        let first = held.iter().position(|held| !held)?;
        let count = held[first..].iter().take(BATCH).take_while(|held| !**held).count();
        Some(first..first + count)
    }

    async fn read_rest(&self, cancel: &CancellationToken) -> Result<(), Stop> {
        while let Some(pieces) = self.missing() {
            if cancel.is_cancelled() {
                return Err(Stop::Cancelled);
            }
            self.read_back(pieces).await?;
        }
        let len = self.disk.sizes(&self.file).await?.len;
        if len == self.list.size() { Ok(()) } else { Err(Stop::Later(WRONG.to_owned())) }
    }
}

impl Follower {
    /// Every piece was written and nobody writes any more: all of it becomes durable and was read back right.
    pub(super) async fn finish(mut self, cancel: &CancellationToken) -> Result<(), Stop> {
        (&mut self.task).await.unwrap_or(Err(Stop::Later(DiskError::Ended.to_string())))?;
        let (synced, read) = tokio::join!(self.ground.disk.sync_all(&self.ground.file), self.ground.read_rest(cancel));
        synced?;
        read
    }
}
