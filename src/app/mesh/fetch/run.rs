//! One run of pieces from one peer: asked, received, checked, written.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::Running;
use super::super::assist::{Assist, SetAside};
use super::super::leash::Leash;
use super::land::Landing;
use super::soulseek::Called;
use crate::app::pump::count;
use crate::disk::DiskError;
use crate::disk::pool::Block;
use crate::engine::mesh::exchange::{Failure, Wanted};
use crate::engine::mesh::frame::{ChunkRequest, ErrorCode};
use crate::engine::swarm::list::{PIECE_LEN, PieceList};
use crate::engine::swarm::scheduler::{Assignment, Ended, RUN_MAX, RunId};
use crate::model::id::PeerId;
use crate::net::mesh::{Body, Link, RequestError, StopCode};

/// Bytes taken at once where the speed is limited, and of a Soulseek user: a second and a half of the slowest that is waited
/// for.
pub(super) const STEP: usize = 8 * 1024;
/// It is told at most so often.
pub(super) const ALIVE: Duration = Duration::from_millis(200);

/// Right pieces wait so long for the next ones, to be written together. Chosen: a quick peer sends eight in less, and a slow
/// one's are written one by one.
const TOGETHER: Duration = Duration::from_millis(20);

/// What a run tells.
pub(super) enum Told {
    /// The peer grants it.
    First(RunId),
    /// Some bytes came.
    Alive(RunId),
    /// A piece came, right (and written) or wrong.
    Piece(RunId, usize, bool),
    /// The disk does not take it.
    Disk(DiskError),
    /// The run is over.
    Ended(RunId, Ended),
    /// Whether this peer has the file.
    Has(PeerId, bool),
    /// A Soulseek user grants a transfer.
    Called(Box<Called>),
    /// Pieces of a download that this fetch helps were taken over.
    Given(Range<usize>),
}

/// Why a run does not go on.
enum Broken {
    /// The disk does not take it; that was told.
    Disk,
    /// It does not come.
    Peer(RequestError),
}

impl From<RequestError> for Broken {
    fn from(error: RequestError) -> Self {
        Self::Peer(error)
    }
}

/// Right pieces that follow one another and are not written yet.
struct Batch {
    first: usize,
    blocks: Vec<Block>,
    /// They are written then at the latest.
    until: Instant,
}

/// One run of pieces from one peer.
pub(super) struct Run {
    pub(super) link: Link,
    pub(super) list: Arc<PieceList>,
    pub(super) landing: Landing,
    pub(super) running: Arc<Running>,
    pub(super) told: mpsc::Sender<Told>,
    pub(super) until: Instant,
    pub(super) stop: StopCode,
    pub(super) permit: OwnedSemaphorePermit,
    /// The download that the fetch helps.
    pub(super) assist: Option<Arc<Assist>>,
    /// What the job that it is for lets it take.
    pub(super) leash: Option<Arc<Leash>>,
    /// What of the quota of either is set aside for this run, as long as it lives.
    pub(super) _aside: Option<SetAside>,
}

impl Run {
    pub(super) async fn go(self, assignment: Assignment, cancel: CancellationToken) {
        let how = tokio::select! {
            biased;
            how = self.fetch(&assignment) => how,
            () = cancel.cancelled() => Ended::Cancelled,
        };
        drop(self.permit);
        // Nobody listens any more once the file is whole.
        let _ = self.told.send(Told::Ended(assignment.run, how)).await;
    }

    async fn fetch(&self, assignment: &Assignment) -> Ended {
        match self.pieces(assignment).await {
            Ok(how) => how,
            Err(Broken::Disk) => Ended::Cancelled,
            Err(Broken::Peer(RequestError::Failed(Failure::Refused(
                ErrorCode::NotFound | ErrorCode::PolicyViolation,
            )))) => Ended::Gone,
            Err(Broken::Peer(RequestError::Failed(Failure::Refused(ErrorCode::RateLimited)))) => Ended::Busy,
            Err(Broken::Peer(error)) => {
                tracing::debug!(peer = %self.link.id(), %error, "a run of pieces failed");
                Ended::Failed
            }
        }
    }

    async fn pieces(&self, assignment: &Assignment) -> Result<Ended, Broken> {
        let run = assignment.run;
        let mut body = self.link.request_until(Wanted::Chunk(self.chunk(assignment)), self.stop.clone()).await?;
        let _ = self.told.send(Told::First(run)).await;
        let mut batch = Batch { first: assignment.pieces.start, blocks: Vec::new(), until: Instant::now() };
        let received = self.receive(assignment, &mut body, &mut batch).await;
        // What was right is written, whatever became of the rest.
        self.land(run, &mut batch).await?;
        received
    }

    async fn receive(&self, assignment: &Assignment, body: &mut Body, batch: &mut Batch) -> Result<Ended, Broken> {
        let run = assignment.run;
        let pool = self.running.parts.pump.disk().pool();
        let mut told_at = Instant::now();
        for piece in assignment.pieces.clone() {
            let len = self.list.piece_len(piece);
            // More than one block only while over half of the pool is free, as `Pool::take_many` has it.
            let plenty = !batch.blocks.is_empty() && pool.available() > pool.blocks() / 2;
            let mut block = if plenty && let Some(block) = pool.try_take() {
                block
            } else {
                self.land(run, batch).await?;
                pool.take().await
            };
            while block.len() < len {
                let filled = self.read(run, body, &mut block, len, batch).await?;
                block.grow(filled);
                if told_at.elapsed() >= ALIVE && block.len() < len {
                    told_at = Instant::now();
                    let _ = self.told.send(Told::Alive(run)).await;
                }
            }
            if !self.list.holds(piece, block.bytes()) {
                self.land(run, batch).await?;
                let _ = self.told.send(Told::Piece(run, piece, false)).await;
                return Ok(Ended::Corrupt);
            }
            if batch.blocks.is_empty() {
                (batch.first, batch.until) = (piece, Instant::now() + TOGETHER);
            }
            batch.blocks.push(block);
            if batch.blocks.len() >= RUN_MAX {
                self.land(run, batch).await?;
            }
        }
        Ok(Ended::Whole)
    }

    /// At least a byte of a piece. Right pieces do not wait for it for long.
    async fn read(
        &self,
        run: RunId,
        body: &mut Body,
        block: &mut Block,
        len: usize,
        batch: &mut Batch,
    ) -> Result<usize, Broken> {
        let wanted = len - block.len();
        let limit = &self.running.parts.pump.limiter().down;
        let own = self.leash.as_ref().map(|leash| &leash.down).filter(|own| own.rate() > 0);
        if limit.rate() > 0 || own.is_some() {
            self.land(run, batch).await?;
            let mut granted = wanted.min(STEP);
            // A job's own first: whoever waits for that does not keep what others could use.
            if let Some(own) = own {
                granted = own.take(granted).await.clamp(1, granted);
            }
            let of_all = limit.take(granted).await.clamp(1, granted);
            if let Some(own) = own {
                own.give_back(granted - of_all);
            }
            let granted = of_all;
            return Ok(self.took(body.fill(&mut block.spare()[..granted]).await?));
        }
        if !batch.blocks.is_empty() {
            tokio::select! {
                biased;
                read = body.read(&mut block.spare()[..wanted]) => return Ok(self.took(read?)),
                () = sleep_until(batch.until) => {}
            }
            self.land(run, batch).await?;
        }
        Ok(self.took(body.read(&mut block.spare()[..wanted]).await?))
    }

    /// Bytes came from the socket: counted, whatever becomes of them.
    fn took(&self, bytes: usize) -> usize {
        let traffic = &self.running.parts.pump.limiter().traffic;
        count(&traffic.overlay_down, bytes);
        if let Some(assist) = &self.assist {
            assist.count(bytes);
            count(&traffic.rescue_down, bytes);
        }
        bytes
    }

    /// Writes what waits, and tells of it.
    async fn land(&self, run: RunId, batch: &mut Batch) -> Result<(), Broken> {
        if batch.blocks.is_empty() {
            return Ok(());
        }
        let blocks = std::mem::take(&mut batch.blocks);
        let pieces = batch.first..batch.first + blocks.len();
        if let Err(error) = self.landing.write(batch.first, blocks).await {
            let _ = self.told.send(Told::Disk(error)).await;
            return Err(Broken::Disk);
        }
        for piece in pieces {
            let _ = self.told.send(Told::Piece(run, piece, true)).await;
        }
        Ok(())
    }

    fn chunk(&self, assignment: &Assignment) -> ChunkRequest {
        let Range { start, .. } = assignment.pieces;
        let length: usize = assignment.pieces.clone().map(|piece| self.list.piece_len(piece)).sum();
        let left = self.until.saturating_duration_since(Instant::now());
        ChunkRequest {
            content: self.list.content(),
            offset: start as u64 * PIECE_LEN,
            length: u32::try_from(length).unwrap_or(u32::MAX),
            priority: assignment.priority.level(),
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        }
    }
}
