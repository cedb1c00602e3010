//! Where the pieces of a file land.
//!
//! Pieces are checked before they come here ([`super::run`]). What was written is read back while the rest still comes,
//! and made durable every so often, so that little is left to do when the last piece is there. A list that folds to the
//! file's hash proves each of its entries: a file whose every piece was read back right is the file, and need not be hashed
//! once more from one end to the other.
//!
//! What is read back must have the checksum that right bytes had when they were written: nobody forges what the own disk
//! gives back, so a CRC-32 is enough. What was not written just now is checked against the list.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::super::locked;
use super::{BATCH, Stop};
use crate::disk::pool::Block;
use crate::disk::{Disk, DiskError, File};
use crate::engine::swarm::list::{PIECE_LEN, PieceList};

/// Ranges that wait to be read back; one more is read back at the end.
const WAITING: usize = 256;
/// Bytes after which what was written is made durable, if the time before is done. Chosen: little is left to do at the end
/// of a long file, a power cut costs a moment of a memory card, and the memory that is let go ([`settle`]) comes round while
/// it is still at hand. With 4, 8, 16 and 128 MiB a fetched GiB took 3.7, 3.5, 3.6 and 4.0 s of processor time at both ends.
const SYNC_BYTES: u64 = 8 * 1024 * 1024;

/// So long it is waited for what the disk makes of what it was given, when nothing more will be. Chosen: a slow card takes
/// some seconds for what is written between two syncs.
const HEAR: Duration = Duration::from_secs(20);

/// What the disk gives back is not what was written.
const WRONG: &str = "the disk does not give back what was written to it";

/// The place, for those who write. Clones are the same.
#[derive(Clone)]
pub(super) struct Landing {
    ground: Arc<Ground>,
    written: mpsc::Sender<Landed>,
}

/// Pieces that were written, one behind the other, by their checksums.
struct Landed {
    first: usize,
    sums: Vec<u32>,
}

struct Ground {
    disk: Disk,
    file: File,
    list: Arc<PieceList>,
    /// Pieces that were read from the disk and are right. Short and synchronous.
    held: Mutex<Vec<bool>>,
    /// Nothing is written any more.
    over: CancellationToken,
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
        let ground = Arc::new(Ground { disk, file, list, held: Mutex::new(held), over: CancellationToken::new() });
        let task = AbortOnDropHandle::new(tokio::spawn(follow(Arc::clone(&ground), landed)));
        (Self { ground: Arc::clone(&ground), written }, Follower { ground, task })
    }

    /// Whether this piece was not yet read from the disk and right.
    pub(super) fn lacks(&self, piece: usize) -> bool {
        locked(&self.ground.held).get(piece) != Some(&true)
    }

    /// Writes right pieces, one behind the other from this one on.
    pub(super) async fn write(&self, first: usize, blocks: Vec<Block>) -> Result<(), DiskError> {
        let Ground { disk, file, .. } = &*self.ground;
        let sums = blocks.iter().map(|block| crc32fast::hash(block.bytes())).collect();
        disk.write(file, first as u64 * PIECE_LEN, blocks).await.map_err(|failed| failed.error)?;
        // With too many waiting it is read back at the end.
        let _ = self.written.try_send(Landed { first, sums });
        Ok(())
    }
}

/// Until nobody writes any more.
async fn follow(ground: Arc<Ground>, mut landed: mpsc::Receiver<Landed>) -> Result<(), Stop> {
    let (mut unsynced, mut bytes) = (Stretches::default(), 0);
    let mut sync: Option<AbortOnDropHandle<Result<(), DiskError>>> = None;
    loop {
        let next = tokio::select! {
            biased;
            next = landed.recv() => next,
            () = ground.over.cancelled() => None,
        };
        let Some(Landed { first, sums }) = next else { break };
        let pieces = first..first + sums.len();
        bytes += pieces.len() as u64 * PIECE_LEN;
        ground
            .read_back(pieces.clone(), |piece, bytes| sums.get(piece - first) == Some(&crc32fast::hash(bytes)))
            .await?;
        unsynced.add(pieces);
        if bytes >= SYNC_BYTES && sync.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
            ended(sync.take()).await?;
            bytes = 0;
            sync =
                Some(AbortOnDropHandle::new(tokio::spawn(settle(Arc::clone(&ground), std::mem::take(&mut unsynced)))));
        }
    }
    ended(sync).await
}

/// Makes what was written durable, and lets the kernel use the memory for what comes next: a long file would else push
/// everything else out, and fresh memory costs more than the copy that fills it.
async fn settle(ground: Arc<Ground>, pieces: Stretches) -> Result<(), DiskError> {
    ground.disk.sync_data(&ground.file).await?;
    for (start, end) in pieces.0 {
        let (at, len) = (start as u64 * PIECE_LEN, (end - start) as u64 * PIECE_LEN);
        // Only advice: what it says is right either way.
        let _ = ground.disk.uncache(&ground.file, at, len).await;
    }
    Ok(())
}

/// Pieces without gaps between them, by the first, with the one behind the last.
#[derive(Debug, Default)]
struct Stretches(BTreeMap<usize, usize>);

impl Stretches {
    fn add(&mut self, pieces: Range<usize>) {
        let (mut start, mut end) = (pieces.start, pieces.end);
        if let Some((&before, &its_end)) = self.0.range(..=start).next_back()
            && its_end >= start
        {
            start = before;
            end = end.max(its_end);
        }
        while let Some((&behind, &its_end)) = self.0.range(start..=end).next() {
            self.0.remove(&behind);
            end = end.max(its_end);
        }
        self.0.insert(start, end);
    }
}

/// A sync that fails says so once: it must be heard.
async fn ended(sync: Option<AbortOnDropHandle<Result<(), DiskError>>>) -> Result<(), Stop> {
    match sync {
        Some(sync) => Ok(sync.await.unwrap_or(Err(DiskError::Ended))?),
        None => Ok(()),
    }
}

impl Ground {
    /// Reads these pieces; each must be `right`.
    async fn read_back(&self, pieces: Range<usize>, right: impl Fn(usize, &[u8]) -> bool) -> Result<(), Stop> {
        let mut next = pieces.start;
        while next < pieces.end {
            let blocks = self.disk.pool().take_many(BATCH.min(pieces.end - next)).await;
            let blocks = self.disk.read(&self.file, next as u64 * PIECE_LEN, blocks).await?;
            for block in &blocks {
                let bytes = &block.bytes()[..block.len().min(self.list.piece_len(next))];
                if !right(next, bytes) {
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
            self.read_back(pieces, |piece, bytes| self.list.holds(piece, bytes)).await?;
        }
        let len = self.disk.sizes(&self.file).await?.len;
        if len == self.list.size() { Ok(()) } else { Err(Stop::Later(WRONG.to_owned())) }
    }
}

impl Follower {
    /// Every piece was written and nobody writes any more: all of it becomes durable and was read back right.
    pub(super) async fn finish(mut self, cancel: &CancellationToken) -> Result<(), Stop> {
        self.ground.over.cancel();
        (&mut self.task).await.unwrap_or(Err(Stop::Later(DiskError::Ended.to_string())))?;
        let (synced, read) = tokio::join!(self.ground.disk.sync_all(&self.ground.file), self.ground.read_rest(cancel));
        synced?;
        read
    }

    /// The file is not whole, and for this reason nobody writes any more: the reason, unless the disk gave another. A sync
    /// that failed says so once, and whoever reads the file again may see bytes that are not on the disk.
    pub(super) async fn beside(mut self, stop: Stop) -> Stop {
        self.ground.over.cancel();
        let failed = match timeout(HEAR, &mut self.task).await {
            Ok(Ok(Err(Stop::Later(failed) | Stop::Wrong(failed)))) => failed,
            // It is right so far; or it takes too long, and the next attempt begins with a sync.
            Ok(Ok(Ok(()) | Err(Stop::Cancelled)) | Err(_)) | Err(_) => return stop,
        };
        tracing::warn!(why = failed, "the disk did not take what was fetched from the mesh");
        match stop {
            Stop::Later(why) if why != failed => Stop::Later(format!("{failed}; besides: {why}")),
            Stop::Later(_) => Stop::Later(failed),
            Stop::Cancelled | Stop::Wrong(_) => stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Backend;
    use crate::disk::pool::{BLOCK_LEN, Pool};
    use crate::engine::swarm::list::Pieces;

    #[test]
    fn stretches_grow_together() {
        let mut stretches = Stretches::default();
        for (pieces, wanted) in [
            (8..16, vec![(8, 16)]),
            (0..4, vec![(0, 4), (8, 16)]),
            (16..17, vec![(0, 4), (8, 17)]),
            (4..8, vec![(0, 17)]),
            (3..5, vec![(0, 17)]),
            (20..24, vec![(0, 17), (20, 24)]),
            (16..30, vec![(0, 30)]),
            (31..32, vec![(0, 30), (31, 32)]),
            (30..31, vec![(0, 32)]),
        ] {
            stretches.add(pieces.clone());
            assert_eq!(stretches.0.iter().map(|(a, b)| (*a, *b)).collect::<Vec<_>>(), wanted, "{pieces:?}");
        }
    }

    struct Field {
        disk: Disk,
        file: File,
        list: Arc<PieceList>,
        bytes: Vec<u8>,
        _folder: tempfile::TempDir,
        path: std::path::PathBuf,
    }

    async fn field() -> Field {
        let (disk, _) = Disk::start(Backend::Auto, Pool::new(32)).unwrap();
        let bytes: Vec<u8> = (0..20 * BLOCK_LEN + 77).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut pieces = Pieces::default();
        bytes.chunks(BLOCK_LEN).for_each(|piece| pieces.add(piece));
        let root = pieces.root();
        let list = Arc::new(PieceList::prove(root, bytes.len() as u64, &pieces.into_bytes()).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let open = disk.open_folder(folder.path()).await.unwrap();
        let (file, _) = disk.open_or_create(&open, "file").await.unwrap();
        Field { disk, file, list, bytes, _folder: folder, path }
    }

    impl Field {
        fn landing(&self, held: Vec<bool>) -> (Landing, Follower) {
            Landing::new(self.disk.clone(), self.file.clone(), Arc::clone(&self.list), held)
        }

        async fn write(&self, landing: &Landing, pieces: Range<usize>, bytes: &[u8]) {
            let mut blocks = Vec::new();
            for piece in pieces.clone() {
                let mut block = self.disk.pool().take().await;
                block.push(&bytes[piece * BLOCK_LEN..((piece + 1) * BLOCK_LEN).min(bytes.len())]);
                blocks.push(block);
            }
            landing.write(pieces.start, blocks).await.unwrap();
        }
    }

    async fn end(landing: Landing, follower: Follower) -> Result<(), &'static str> {
        drop(landing);
        match follower.finish(&CancellationToken::new()).await {
            Ok(()) => Ok(()),
            Err(Stop::Cancelled) => Err("cancelled"),
            Err(Stop::Wrong(why)) => panic!("{why}"),
            Err(Stop::Later(why)) => {
                assert_eq!(why, WRONG);
                Err("wrong")
            }
        }
    }

    #[tokio::test]
    async fn what_landed_right_is_right_and_what_did_not_is_found() {
        let field = field().await;
        let bytes = field.bytes.clone();
        let (landing, follower) = field.landing(vec![false; 21]);
        let twin = landing.clone();
        assert!((0..21).all(|piece| landing.lacks(piece)));
        for pieces in [8..16, 16..21, 0..1, 1..8] {
            field.write(&landing, pieces, &bytes).await;
        }
        assert_eq!(end(landing, follower).await, Ok(()));
        assert!(!(0..21).any(|piece| twin.lacks(piece)));
        assert_eq!(std::fs::read(&field.path).unwrap(), bytes);

        // Whatever is written to it lands at its end.
        let mut bent = bytes.clone();
        bent[9 * BLOCK_LEN + 5] ^= 1;
        std::fs::write(&field.path, &bent).unwrap();
        let file = std::fs::File::options().read(true).append(true).open(&field.path).unwrap();
        let file = File::from_std(file);
        let (landing, follower) = Landing::new(field.disk.clone(), file, Arc::clone(&field.list), vec![true; 21]);
        field.write(&landing, 8..16, &bytes).await;
        assert_eq!(end(landing, follower).await, Err("wrong"));
    }

    #[tokio::test]
    async fn a_sync_that_fails_is_heard_whatever_else_ends_the_fetch() {
        let pieces = usize::try_from(SYNC_BYTES / PIECE_LEN).unwrap() + 1;
        let (disk, _) = Disk::start(Backend::Auto, Pool::new(32)).unwrap();
        let (mut zeros, zero) = (Pieces::default(), vec![0; BLOCK_LEN]);
        (0..pieces).for_each(|_| zeros.add(&zero));
        let (root, size) = (zeros.root(), zeros.size());
        let list = Arc::new(PieceList::prove(root, size, &zeros.into_bytes()).unwrap());
        // It gives back zeros, takes whatever is written, and cannot be synced.
        let file = std::fs::File::options().read(true).write(true).open("/dev/zero").unwrap();
        let file = File::from_std(file);
        let failed = disk.sync_data(&file).await.unwrap_err().to_string();
        for (stop, wanted) in [
            (Stop::Later("nobody".to_owned()), Some(format!("{failed}; besides: nobody"))),
            (Stop::Later(failed.clone()), Some(failed.clone())),
            (Stop::Cancelled, None),
        ] {
            let held = vec![false; pieces];
            let (landing, follower) = Landing::new(disk.clone(), file.clone(), Arc::clone(&list), held);
            for first in 0..pieces {
                let mut block = disk.pool().take().await;
                block.push(&zero);
                landing.write(first, vec![block]).await.unwrap();
            }
            // All of it was read back, and the sync is under way or over.
            while locked(&follower.ground.held).contains(&false) {
                tokio::task::yield_now().await;
            }
            let told = match follower.beside(stop).await {
                Stop::Later(why) => Some(why),
                Stop::Cancelled => None,
                Stop::Wrong(why) => panic!("{why}"),
            };
            assert_eq!(told, wanted);
        }
        // What did not land far enough to be synced has nothing to say.
        let (landing, follower) = Landing::new(disk.clone(), file, list, vec![false; pieces]);
        assert!(matches!(follower.beside(Stop::Later("nobody".to_owned())).await, Stop::Later(why) if why == "nobody"));
        drop(landing);
    }

    #[tokio::test]
    async fn what_others_wrote_is_read_at_the_end() {
        let field = field().await;
        let mut bent = field.bytes.clone();
        std::fs::write(&field.path, &bent).unwrap();
        let (landing, follower) = field.landing(vec![false; 21]);
        assert_eq!(end(landing, follower).await, Ok(()));

        bent[20 * BLOCK_LEN] ^= 1;
        std::fs::write(&field.path, &bent).unwrap();
        let mut held = vec![true; 21];
        let (landing, follower) = field.landing(held.clone());
        assert_eq!(end(landing, follower).await, Ok(()), "what was read before is not read again");
        held[20] = false;
        let (landing, follower) = field.landing(held);
        assert_eq!(end(landing, follower).await, Err("wrong"));

        // Longer or shorter is another file.
        for len in [field.bytes.len() + 1, field.bytes.len() - 1] {
            let mut other = field.bytes.clone();
            other.resize(len, 0);
            std::fs::write(&field.path, &other).unwrap();
            let (landing, follower) = field.landing(vec![true; 21]);
            assert_eq!(end(landing, follower).await, Err("wrong"), "{len}");
        }
        let (landing, follower) = field.landing(vec![false; 21]);
        drop(landing);
        let cancel = CancellationToken::new();
        cancel.cancel();
        assert!(matches!(follower.finish(&cancel).await, Err(Stop::Cancelled)));
    }
}
