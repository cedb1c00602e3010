//! One run of pieces from one peer: asked, received, checked, written.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::Running;
use super::soulseek::Called;
use crate::disk::{DiskError, File};
use crate::engine::mesh::exchange::{Failure, Wanted};
use crate::engine::mesh::frame::{ChunkRequest, ErrorCode};
use crate::engine::swarm::list::{PIECE_LEN, PieceList};
use crate::engine::swarm::scheduler::{Assignment, Ended, RunId};
use crate::model::id::PeerId;
use crate::net::mesh::{Link, RequestError, StopCode};

/// Bytes read before it is told that the peer is alive: a second and a half of the slowest that is waited for.
pub(super) const STEP: usize = 8 * 1024;
/// It is told at most so often.
pub(super) const ALIVE: Duration = Duration::from_millis(200);

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
}

/// One run of pieces from one peer.
pub(super) struct Run {
    pub(super) link: Link,
    pub(super) list: Arc<PieceList>,
    pub(super) file: File,
    pub(super) running: Arc<Running>,
    pub(super) told: mpsc::Sender<Told>,
    pub(super) until: Instant,
    pub(super) stop: StopCode,
    pub(super) permit: OwnedSemaphorePermit,
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
            Err(RequestError::Failed(Failure::Refused(ErrorCode::NotFound | ErrorCode::PolicyViolation))) => {
                Ended::Gone
            }
            Err(RequestError::Failed(Failure::Refused(ErrorCode::RateLimited))) => Ended::Busy,
            Err(error) => {
                tracing::debug!(peer = %self.link.id(), %error, "a run of pieces failed");
                Ended::Failed
            }
        }
    }

    async fn pieces(&self, assignment: &Assignment) -> Result<Ended, RequestError> {
        let (run, pieces) = (assignment.run, assignment.pieces.clone());
        let mut body = self.link.request_until(Wanted::Chunk(self.chunk(assignment)), self.stop.clone()).await?;
        let _ = self.told.send(Told::First(run)).await;
        let mut told_at = Instant::now();
        let pump = &self.running.parts.pump;
        for piece in pieces {
            let len = self.list.piece_len(piece);
            let mut block = pump.disk().pool().take().await;
            while block.len() < len {
                let wanted = (len - block.len()).min(STEP);
                let granted = pump.limiter().down.take(wanted).await.clamp(1, wanted);
                let filled = body.fill(&mut block.spare()[..granted]).await?;
                block.grow(filled);
                if told_at.elapsed() >= ALIVE && block.len() < len {
                    told_at = Instant::now();
                    let _ = self.told.send(Told::Alive(run)).await;
                }
            }
            let good = self.list.holds(piece, block.bytes());
            if good && let Err(failed) = pump.disk().write(&self.file, piece as u64 * PIECE_LEN, vec![block]).await {
                let _ = self.told.send(Told::Disk(failed.error)).await;
                return Ok(Ended::Cancelled);
            }
            let _ = self.told.send(Told::Piece(run, piece, good)).await;
            if !good {
                return Ok(Ended::Corrupt);
            }
        }
        Ok(Ended::Whole)
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
