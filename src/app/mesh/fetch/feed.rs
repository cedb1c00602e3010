//! The bytes of a download from Soulseek that a fetch helps: whole pieces of its partial file are taken over as they
//! come. Each is checked against the list like any other, so it does not matter whose they are.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::land::Landing;
use super::run::Told;
use crate::app::mesh::Running;
use crate::app::mesh::assist::{Assist, Origin};
use crate::disk::DiskError;
use crate::disk::pool::Block;
use crate::engine::swarm::list::{PIECE_LEN, PieceList};

/// Between two looks at the partial file.
const LOOK: Duration = Duration::from_millis(500);
/// Pieces read at once.
const BATCH: usize = 8;

/// Takes pieces over.
pub(super) struct Feed {
    pub(super) running: Arc<Running>,
    pub(super) assist: Arc<Assist>,
    pub(super) list: Arc<PieceList>,
    pub(super) landing: Landing,
    /// The first piece that was not looked at.
    pub(super) next: usize,
    /// Bytes taken over that were not there before.
    pub(super) fresh: u64,
}

/// What is known of whole pieces at the beginning of a partial file, beside a piece list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::app::mesh) struct Looked {
    /// Equal from the first on.
    pub(in crate::app::mesh) equal: usize,
    /// One is different.
    pub(in crate::app::mesh) differs: bool,
}

impl Feed {
    /// Takes over what came since the last time: the next pieces that are right, in one range. Empty: nothing new.
    pub(super) async fn take(&mut self) -> Result<Range<usize>, DiskError> {
        let first = self.next;
        let pump = &self.running.parts.pump;
        let Some(partial) = self.assist.origin() else { return Ok(first..first) };
        let folder = pump.disk().open_folder(&pump.config().incomplete).await?;
        let (origin, len) = match pump.disk().open_existing(&folder, &partial.file).await {
            Ok((file, len)) => (file, partial.len(len)),
            // It was moved, or begins anew: what is not there gives nothing.
            Err(DiskError::Missing(_) | DiskError::NotAFile(_) | DiskError::SymbolicLink(_)) => return Ok(first..first),
            Err(error) => return Err(error),
        };
        let whole = |piece: usize| piece as u64 * PIECE_LEN + self.list.piece_len(piece) as u64 <= len;
        let count = (first..self.list.pieces()).take(BATCH).take_while(|piece| whole(*piece)).count();
        if count == 0 {
            return Ok(first..first);
        }
        let blocks = pump.disk().pool().take_many(count).await;
        let count = count.min(blocks.len());
        let blocks = pump.disk().read(&origin, first as u64 * PIECE_LEN, blocks).await?;
        let mut good = 0;
        for (at, block) in blocks.iter().enumerate().take(count) {
            let piece_len = self.list.piece_len(first + at);
            if block.len() < piece_len || !self.list.holds(first + at, &block.bytes()[..piece_len]) {
                break;
            }
            good += 1;
        }
        if good == 0 {
            // It is passed over, and the mesh brings it.
            self.assist.note_difference();
            self.next += 1;
            return Ok(first..first);
        }
        let mut blocks = blocks;
        blocks.truncate(good);
        if let Some(last) = blocks.last_mut() {
            last.truncate(self.list.piece_len(first + good - 1));
        }
        let mut batch = Vec::new();
        let mut start = first;
        for (at, block) in blocks.into_iter().enumerate() {
            // What a mesh peer brought first is not written a second time.
            if self.landing.lacks(first + at) {
                batch.push(block);
                continue;
            }
            self.write(start, &mut batch).await?;
            start = first + at + 1;
        }
        self.write(start, &mut batch).await?;
        self.next = first + good;
        Ok(first..self.next)
    }

    async fn write(&self, first: usize, batch: &mut Vec<Block>) -> Result<(), DiskError> {
        if batch.is_empty() { Ok(()) } else { self.landing.write(first, std::mem::take(batch)).await }
    }

    /// Goes on for as long as the swarm works.
    pub(super) async fn go(mut self, told: mpsc::Sender<Told>) {
        loop {
            let before = self.next;
            let news = match self.take().await {
                Ok(pieces) if pieces.is_empty() => None,
                Ok(pieces) => Some(Told::Given(pieces)),
                Err(error) => Some(Told::Disk(error)),
            };
            if let Some(news) = news
                && told.send(news).await.is_err()
            {
                return;
            }
            if self.next == before {
                sleep(LOOK).await;
            }
        }
    }
}

/// Lays a partial file in the incomplete folder beside a piece list.
pub(in crate::app::mesh) async fn beside(
    running: &Running,
    partial: &Origin,
    list: &PieceList,
) -> Result<Looked, DiskError> {
    let pump = &running.parts.pump;
    let folder = pump.disk().open_folder(&pump.config().incomplete).await?;
    let (file, len) = match pump.disk().open_existing(&folder, &partial.file).await {
        Ok((file, len)) => (file, partial.len(len)),
        Err(DiskError::Missing(_)) => return Ok(Looked::default()),
        Err(error) => return Err(error),
    };
    let mut looked = Looked { equal: 0, differs: len > list.size() };
    while !looked.differs && looked.equal < list.pieces() {
        let at = looked.equal as u64 * PIECE_LEN;
        let blocks = pump.disk().pool().take_many(BATCH).await;
        let blocks = pump.disk().read(&file, at, blocks).await?;
        let before = looked.equal;
        for block in &blocks {
            let piece = looked.equal;
            let end = piece as u64 * PIECE_LEN + list.piece_len(piece.min(list.pieces() - 1)) as u64;
            if piece >= list.pieces() || block.len() < list.piece_len(piece) || end > len {
                break;
            }
            if !list.holds(piece, &block.bytes()[..list.piece_len(piece)]) {
                looked.differs = true;
                break;
            }
            looked.equal += 1;
        }
        if looked.equal == before {
            break;
        }
    }
    Ok(looked)
}
