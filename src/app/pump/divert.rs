//! A download whose bytes do not go into a partial file of its own: somebody else takes the file connection over.
//!
//! The engine runs the download as any other, with its queue, place, slot and limits. Only when the uploader's token is
//! there, and the bytes are about to be asked for, the connection goes to whoever registered for the download's batch.
//! The engine hears how far it is and how it ended, never that it is complete: the bytes are not in its partial file.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{Limiter, PROGRESS_EVERY, count, receive::send_offset};
use crate::engine::soulseek::io::{FileEvent, Input, ReceiveEnd};
use crate::model::id::{BatchId, TransferId, Username};
use crate::model::limits::{HANDSHAKE_S, MESH_FETCHES};

/// Who takes file connections over, by batch. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Diversions {
    takers: Arc<Mutex<BTreeMap<BatchId, mpsc::Sender<Diverted>>>>,
}

/// Takes connections of one batch over for as long as it lives.
#[derive(Debug)]
pub struct Diversion {
    all: Diversions,
    batch: BatchId,
    connections: mpsc::Receiver<Diverted>,
}

impl Diversions {
    fn locked(&self) -> MutexGuard<'_, BTreeMap<BatchId, mpsc::Sender<Diverted>>> {
        self.takers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the connections of this batch go to the caller. `None`: somebody has them already, or there are as
    /// many takers as fetches.
    pub fn register(&self, batch: BatchId) -> Option<Diversion> {
        let (taker, connections) = mpsc::channel(1);
        let mut takers = self.locked();
        if takers.contains_key(&batch) || takers.len() >= MESH_FETCHES {
            return None;
        }
        takers.insert(batch, taker);
        Some(Diversion { all: self.clone(), batch, connections })
    }

    /// Who takes the connections of this batch.
    pub fn taker(&self, batch: BatchId) -> Option<mpsc::Sender<Diverted>> {
        self.locked().get(&batch).cloned()
    }
}

impl Diversion {
    /// The next connection. It has been granted, and waits for an offset.
    pub async fn next(&mut self) -> Option<Diverted> {
        self.connections.recv().await
    }
}

impl Drop for Diversion {
    fn drop(&mut self) {
        self.all.locked().remove(&self.batch);
    }
}

/// A file connection taken over. It is closed, and the engine hears of that, when this is dropped.
#[derive(Debug)]
pub struct Diverted {
    /// The download.
    pub transfer: TransferId,
    /// Who sends.
    pub user: Username,
    /// Bytes of the whole file, as agreed.
    pub size: u64,
    /// Until it is hung up.
    stream: Option<TcpStream>,
    /// Position in the file of the next byte.
    position: u64,
    told_at: Instant,
    limiter: Limiter,
    events: mpsc::Sender<Input>,
    stop: CancellationToken,
    ended: Option<oneshot::Sender<ReceiveEnd>>,
}

impl Diverted {
    /// Takes a connection over whose token was read. The receiver hears how it ended.
    pub fn new(
        (transfer, user, size): (TransferId, Username, u64),
        stream: TcpStream,
        limiter: Limiter,
        events: mpsc::Sender<Input>,
        stop: CancellationToken,
    ) -> (Self, oneshot::Receiver<ReceiveEnd>) {
        let (ended, end) = oneshot::channel();
        let told_at = Instant::now();
        let ended = Some(ended);
        let stream = Some(stream);
        (Self { transfer, user, size, stream, position: 0, told_at, limiter, events, stop, ended }, end)
    }

    /// Asks for the bytes from `offset` on.
    ///
    /// # Errors
    /// The connection is gone, or takes nothing.
    pub async fn begin(&mut self, offset: u64) -> io::Result<()> {
        self.position = offset;
        let stream = self.stream.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        timeout(Duration::from_secs(HANDSHAKE_S), send_offset(stream, offset)).await??;
        self.tell(FileEvent::Started { offset }).await;
        self.told_at = Instant::now();
        Ok(())
    }

    /// Some of the next bytes, as many as there are and the speed limit allows; 0 at the end of the stream.
    ///
    /// # Errors
    /// The connection broke, or the engine wants the transfer to end.
    pub async fn fill(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let stream = self.stream.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let read = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(io::ErrorKind::Interrupted.into()),
            read = read(stream, &self.limiter, bytes) => read?,
        };
        self.position = self.position.saturating_add(read as u64);
        if self.told_at.elapsed() >= PROGRESS_EVERY {
            self.told_at = Instant::now();
            let event = FileEvent::Progress { position: self.position };
            // While the mailbox is full nobody waits for news of progress.
            let _ = self.events.try_send(Input::File(self.transfer, event));
        }
        Ok(read)
    }

    /// Position in the file of the next byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The engine wants the transfer to end: the owner called it off, or it is of no use any more.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Closes the connection. The engine hears how far it came now, and that it is over when this is dropped.
    pub fn hang_up(&mut self) {
        self.stream = None;
        let event = FileEvent::Progress { position: self.position };
        // While the mailbox is full nobody waits for news of progress.
        let _ = self.events.try_send(Input::File(self.transfer, event));
    }

    async fn tell(&self, event: FileEvent) {
        // An engine that is gone needs no news.
        let _ = self.events.send(Input::File(self.transfer, event)).await;
    }
}

impl Drop for Diverted {
    fn drop(&mut self) {
        let position = self.position;
        if let Some(ended) = self.ended.take() {
            let stopped = self.stop.is_cancelled();
            // The shell may be gone.
            let _ =
                ended.send(if stopped { ReceiveEnd::Stopped { position } } else { ReceiveEnd::Closed { position } });
        }
    }
}

async fn read(stream: &TcpStream, limiter: &Limiter, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        let granted = limiter.down.take(bytes.len()).await;
        let read = stream.try_read(&mut bytes[..granted]);
        let came = read.as_ref().map_or(0, |count| *count);
        limiter.down.give_back(granted - came);
        count(&limiter.traffic.soulseek_down, came);
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}
