//! Requests on streams of their own, both ways. The rules are `engine::mesh::exchange`'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt, WriteError};
use tokio::time::{Instant, timeout};

use super::link::Link;
use super::window::Wide;
use super::{Incoming, Shared};
use crate::engine::mesh::exchange::{Asking, Failure, Served, Serving, Wanted, cancel_code, cancel_reason};
use crate::engine::mesh::frame::{ErrorCode, MessageId};
use crate::model::id::PeerId;
use crate::model::swarm::CancelReason;

/// For a request to come whole once its stream is open.
const REQUEST: Duration = Duration::from_secs(10);
/// For the peer to take what we send, in all, beside [`FLOOR`].
const STALL: Duration = Duration::from_secs(30);
/// And a second more for each so many bytes of an answer, so that a slow line is no offence and a byte now and then is.
/// Time that our own limits take does not count.
const FLOOR: u64 = 2 * 1024;
/// For a refusal to be taken: who reads at all needs no longer.
const REFUSAL: Duration = Duration::from_secs(2);
/// A stream that is taken back without a reason; those with one are `engine::mesh::exchange::cancel_code`'s.
const CANCELLED: u32 = 0;

/// Why bytes will not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The connection or the stream is gone.
    #[error("the peer is gone: {0}")]
    Gone(String),
    /// The peer's answer.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// The bytes of a granted request. Dropping it takes the request back.
#[derive(Debug)]
pub struct Body {
    asking: Asking,
    receive: RecvStream,
    wide: Wide,
    stop: StopCode,
}

/// Why a request is taken back, should it be: told before it is dropped. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct StopCode(Arc<AtomicU32>);

impl StopCode {
    /// The reason is this.
    pub fn set(&self, reason: CancelReason) {
        self.0.store(cancel_code(reason), Ordering::Relaxed);
    }

    /// Whether it is this.
    pub fn is(&self, reason: CancelReason) -> bool {
        self.0.load(Ordering::Relaxed) == cancel_code(reason)
    }
}

impl Body {
    /// Bytes still to come.
    pub fn left(&self) -> u64 {
        self.asking.left()
    }

    /// Fills the buffer, or as much of it as is left.
    ///
    /// # Errors
    /// They do not come.
    pub async fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, RequestError> {
        let wanted = usize::try_from(self.left()).unwrap_or(usize::MAX).min(buffer.len());
        let mut filled = 0;
        while filled < wanted {
            filled += self.read(&mut buffer[filled..wanted]).await?;
        }
        Ok(filled)
    }

    /// Waits for bytes and takes as many as there are and find room: 0 only without room, or when none are left. Can be
    /// given up and called again.
    ///
    /// # Errors
    /// They do not come.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, RequestError> {
        let wanted = usize::try_from(self.left()).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        match self.receive.read(&mut buffer[..wanted]).await {
            Ok(Some(count)) => {
                self.asking.body(count as u64)?;
                self.wide.moved(count as u64);
                Ok(count)
            }
            Ok(None) => {
                self.asking.end(false)?;
                Err(RequestError::Gone("the stream ended".to_owned()))
            }
            Err(error) => Err(RequestError::Gone(error.to_string())),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.asking.is_over() {
            // A stream that is over already needs no stop.
            let _ = self.receive.stop(VarInt::from_u32(self.stop.0.load(Ordering::Relaxed)));
        }
    }
}

/// Asks, and waits for the answer's head.
pub(super) async fn ask(
    (mut send, receive): (SendStream, RecvStream),
    wanted: Wanted,
    id: MessageId,
    wide: Wide,
    stop: StopCode,
) -> Result<Body, RequestError> {
    let gone = |error: &dyn std::fmt::Display| RequestError::Gone(error.to_string());
    let (asking, request) = Asking::new(wanted, id);
    // From here on dropping it stops the stream.
    let mut body = Body { asking, receive, wide, stop };
    send.write_all(&request).await.map_err(|error| gone(&error))?;
    send.finish().map_err(|error| gone(&error))?;
    let mut buffer = [0; 512];
    while body.asking.wants_head() > 0 {
        let most = body.asking.wants_head().min(buffer.len());
        match body.receive.read(&mut buffer[..most]).await {
            Ok(Some(count)) => body.asking.head(&buffer[..count])?,
            Ok(None) => body.asking.end(false)?,
            Err(error) => return Err(gone(&error)),
        }
    }
    Ok(body)
}

/// A peer's request, to be granted or refused. Dropping it breaks it off.
#[derive(Debug)]
pub struct Answer {
    serving: Serving,
    send: SendStream,
    link: Link,
    wide: Option<Wide>,
    taken_back: Option<CancelReason>,
    patience: Patience,
}

/// How long a peer may still take over what it is sent.
#[derive(Debug, Default)]
struct Patience {
    /// Time that it took so far, and the bytes.
    waited: Duration,
    taken: u64,
}

/// The peer takes too long.
#[derive(Debug, PartialEq, Eq)]
struct TooSlow;

impl Patience {
    /// Waits for the peer to take some bytes; `write` answers how many. Only this time counts, not that between two writes.
    async fn take<E>(&mut self, write: impl Future<Output = Result<usize, E>>) -> Result<Result<usize, E>, TooSlow> {
        let whole = STALL + Duration::from_secs(self.taken / FLOOR);
        let began = Instant::now();
        let written = timeout(whole.saturating_sub(self.waited), write).await.map_err(|_| TooSlow)?;
        self.waited += began.elapsed();
        self.taken += *written.as_ref().unwrap_or(&0) as u64;
        Ok(written)
    }
}

impl Answer {
    /// Who asks.
    pub fn peer(&self) -> PeerId {
        self.link.id()
    }

    /// Whether the owner named it.
    pub fn is_named(&self) -> bool {
        self.link.is_named()
    }

    /// Its Soulseek user name, as it claims.
    pub fn username(&self) -> &str {
        &self.link.greeted().username
    }

    /// Why the peer took its request back, if it did and said so. Known once something could not be sent.
    pub fn taken_back(&self) -> Option<CancelReason> {
        self.taken_back
    }

    /// Refuses.
    pub async fn refuse(mut self, code: ErrorCode) {
        Shared::count(&self.link.shared().counters.refused);
        let bytes = self.serving.refuse(code);
        self.last(bytes).await;
    }

    /// These bytes and no more.
    async fn last(&mut self, bytes: Vec<u8>) {
        if matches!(timeout(REFUSAL, self.write(bytes.into())).await, Ok(true)) {
            // Nobody may be there to hear it.
            let _ = self.send.finish();
        } else {
            self.reset();
        }
    }

    /// Breaks it off. A stream that is over already needs no end.
    fn reset(&mut self) {
        let _ = self.send.reset(VarInt::from_u32(cancel_code(CancelReason::Error)));
    }

    /// Grants; the bytes must follow.
    pub async fn grant(&mut self) -> bool {
        Shared::count(&self.link.shared().counters.served);
        self.wide = Some(self.link.widen_sending());
        let bytes = self.serving.grant();
        self.write(bytes.into()).await
    }

    /// Sends bytes of the body, which are kept until the peer has them. False when it does not want them any more, or they
    /// are more than it asked for.
    pub async fn send(&mut self, bytes: Bytes) -> bool {
        let count = bytes.len() as u64;
        if !self.write(bytes).await || self.serving.sent(count).is_err() {
            return false;
        }
        self.link.shared().counters.bytes_out.fetch_add(count, Ordering::Relaxed);
        if self.serving.is_over() {
            let _ = self.send.finish();
        }
        true
    }

    async fn write(&mut self, bytes: Bytes) -> bool {
        let mut rest = [bytes];
        while !rest[0].is_empty() {
            // What was written is cut off.
            let some = async { self.send.write_chunks(&mut rest).await.map(|written| written.bytes) };
            let count = match self.patience.take(some).await {
                Ok(Ok(count)) => count,
                failed => {
                    if let Ok(Err(WriteError::Stopped(code))) = failed {
                        self.taken_back = cancel_reason(code.into_inner());
                    }
                    self.serving.end();
                    self.reset();
                    return false;
                }
            };
            if let Some(wide) = &self.wide {
                wide.moved(count as u64);
            }
        }
        true
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.serving.is_over() || self.serving.left() > 0 {
            self.reset();
        }
    }
}

/// Reads a peer's request and hands it on. `Err` is a violation, in one sentence.
pub(super) async fn serve((send, mut receive): (SendStream, RecvStream), link: &Link) -> Result<(), String> {
    let mut serving = Serving::default();
    let mut buffer = [0; 512];
    let reading = async {
        loop {
            let most = serving.wants().min(buffer.len());
            match receive.read(&mut buffer[..most]).await {
                Ok(Some(count)) => match serving.request(&buffer[..count]) {
                    Ok(Served::More) => {}
                    Ok(decided) => return Ok(Some(decided)),
                    Err(failure) => return Err(failure.to_string()),
                },
                // It changed its mind.
                Ok(None) | Err(_) => return Ok(None),
            }
        }
    };
    let served = match timeout(REQUEST, reading).await {
        Ok(read) => read?,
        Err(_) => return Err("a request did not come whole in time".to_owned()),
    };
    // What follows a request means nothing.
    let _ = receive.stop(VarInt::from_u32(CANCELLED));
    let (link_of_it, patience) = (link.clone(), Patience::default());
    let mut answer = Box::new(Answer { serving, send, link: link_of_it, wide: None, taken_back: None, patience });
    match served {
        Some(Served::Decide(wanted)) => {
            // Waits for room; whoever serves may be gone, then the answer is dropped.
            let _ = link.shared().incoming.send(Incoming::Request { wanted, answer }).await;
        }
        Some(Served::Refuse(bytes)) => {
            Shared::count(&link.shared().counters.refused);
            answer.last(bytes).await;
        }
        Some(Served::More) | None => {}
    }
    Ok(())
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
