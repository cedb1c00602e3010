//! The connection to the server: one at a time, made when the engine says so.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::End;
use super::named::Named;
use super::outbox::{Bounds, Outbox, Pushed};
use super::shared::{Shared, count};
use super::user_conn::tune;
use super::wire::{frame_begins, read_body, read_wide_header, write_paced};
use crate::engine::soulseek::frame::WIDE_HEADER_LEN;
use crate::engine::soulseek::io::Input;
use crate::engine::soulseek::server::{FromServer, ToServer};
use crate::model::limits;

/// Bytes read ahead.
const READ_AHEAD: usize = 16 * 1024;
/// What one waiting message for the server counts for; ours are all small.
const WEIGHT: usize = 512;

const OUTBOX: Bounds = Bounds {
    full: limits::SERVER_BACKLOG,
    messages: limits::SERVER_BACKLOG,
    bytes: limits::SERVER_BACKLOG * WEIGHT,
    total_bytes: usize::MAX,
};

/// One connection to the server, or the attempt at one.
struct Link {
    outbox: Outbox<ToServer>,
    up: AtomicBool,
    // Cancelled to end it with a `ServerDown`, where closing the outbox ends it in silence.
    replaced: CancellationToken,
}

struct Current {
    address: String,
    link: Option<Arc<Link>>,
    // A link to the server configured before, until the next order: what the engine is told of it must not be taken
    // for the new one's.
    replaced: Option<Arc<Link>>,
}

impl Current {
    /// Ends what there is, in silence.
    fn hang_up(&mut self) {
        for link in [self.link.take(), self.replaced.take()].into_iter().flatten() {
            link.outbox.close();
        }
    }
}

/// The place of the connection to the server.
pub(super) struct ServerLink {
    shared: Arc<Shared>,
    // Held to look or to replace, never across an await.
    current: Mutex<Current>,
}

impl ServerLink {
    pub(super) fn new(shared: Arc<Shared>, address: String) -> Self {
        Self { shared, current: Mutex::new(Current { address, link: None, replaced: None }) }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_up(&self) -> bool {
        self.current().link.as_ref().is_some_and(|link| link.up.load(Ordering::Relaxed))
    }

    /// Another server from now on. A connection to the old one ends, and the engine is told.
    pub(super) fn set_address(&self, address: String) {
        let mut current = self.current();
        if current.address == address {
            return;
        }
        current.address = address;
        if let Some(link) = current.link.take() {
            link.replaced.cancel();
            current.replaced = Some(link);
        }
    }

    /// Begins a connection; one that stands is closed in silence.
    pub(super) fn connect(&self) {
        let link = Arc::new(Link {
            outbox: Outbox::new(OUTBOX, Arc::default(), self.shared.cancel().child_token()),
            up: false.into(),
            replaced: CancellationToken::new(),
        });
        let mut current = self.current();
        current.hang_up();
        current.link = Some(Arc::clone(&link));
        let task = keep(Arc::clone(&self.shared), link, current.address.clone());
        self.shared.spawn(task);
    }

    pub(super) fn send(&self, message: ToServer) {
        let current = self.current();
        let Some(link) = current.link.as_ref().filter(|link| link.up.load(Ordering::Relaxed)) else {
            debug!(message = %Named(&message), "not sent: no connection to the server");
            return;
        };
        debug!(message = %Named(&message), "to the server");
        if link.outbox.push(message, WEIGHT) == Pushed::Overrun {
            debug!("the server does not take what we send");
        }
    }

    /// Hangs up in silence.
    pub(super) fn close(&self) {
        self.current().hang_up();
    }
}

/// The life of one connection, from the look-up on.
async fn keep(shared: Arc<Shared>, link: Arc<Link>, address: String) {
    let work = std::panic::AssertUnwindSafe(talk(&shared, &link, &address)).catch_unwind();
    let end = tokio::select! {
        biased;
        () = link.replaced.cancelled() => End::gone("another server was configured"),
        end = work => match end {
            Ok(Ok(())) => End::Ours,
            Ok(Err(end)) => end,
            Err(_) => {
                error!("the server connection's task panicked; the connection is closed");
                End::violation("handling what the server sent failed")
            }
        },
    };
    link.up.store(false, Ordering::Relaxed);
    let reason = match end {
        End::Ours => {
            info!("hung up on the server");
            return;
        }
        End::Violation { reason } => {
            count(&shared.counters.violations, 1);
            reason
        }
        End::Gone { reason } if reason.is_empty() => "the server closed the connection".to_owned(),
        End::Gone { reason } => reason,
    };
    info!(reason = ?reason, "server connection down");
    // An error means that the engine hung up meanwhile, or is gone.
    let _ = tell(&shared, &link, || Ok(Input::ServerDown { reason })).await;
}

async fn tell(shared: &Shared, link: &Link, input: impl FnOnce() -> Result<Input, End>) -> Result<(), End> {
    shared.tell_unless(link.outbox.closing(), || input().map(Some)).await
}

async fn talk(shared: &Shared, link: &Link, address: &str) -> Result<(), End> {
    let connecting = timeout(shared.deadlines.server_connect, connect(address));
    let (stream, at) = tokio::select! {
        biased;
        () = link.outbox.closing() => return Ok(()),
        connected = connecting => connected.map_err(|_| End::gone(format!("{address} does not answer")))??,
    };
    tune(&stream);
    link.up.store(true, Ordering::Relaxed);
    info!(server = ?address, "connected to the server");
    tell(shared, link, || Ok(Input::ServerUp { at })).await?;

    let (read_half, mut write_half) = stream.into_split();
    let mut reader = BufReader::with_capacity(READ_AHEAD, read_half);
    {
        let reading = read(shared, link, &mut reader);
        let writing = write(shared, link, &mut write_half);
        tokio::pin!(reading, writing);
        tokio::select! {
            biased;
            () = link.outbox.overrun() => return Err(End::gone("the server does not take what we send")),
            () = link.outbox.closing() => {
                timeout(shared.deadlines.linger, writing).await.map_err(|_| End::Ours)??;
            }
            written = &mut writing => written?,
            read = &mut reading => return read,
        }
    }
    // Nothing hangs on how it takes our leave.
    let _ = timeout(shared.deadlines.linger, write_half.shutdown()).await;
    Ok(())
}

async fn connect(address: &str) -> Result<(TcpStream, SocketAddrV4), End> {
    let found = lookup_host(address)
        .await
        .map_err(|error| End::gone(format!("the address {address:?} cannot be resolved: {error}")))?;
    let mut last = End::gone(format!("the address {address:?} has no IPv4 address"));
    for at in found {
        let SocketAddr::V4(at) = at else { continue };
        match TcpStream::connect(at).await {
            Ok(stream) => return Ok((stream, at)),
            Err(error) => last = End::gone(format!("{address}: {error}")),
        }
    }
    Err(last)
}

async fn read(shared: &Shared, link: &Link, reader: &mut (impl AsyncBufRead + Unpin)) -> Result<(), End> {
    while frame_begins(reader).await? {
        let frame = timeout(shared.deadlines.frame, async {
            let (code, len) = read_wide_header(reader, |_| limits::FRAME_SERVER).await?;
            Ok::<_, End>((code, read_body(reader, len).await?))
        });
        let (code, body) = frame.await.map_err(|_| End::gone("a message of the server did not end in time"))??;
        count(&shared.counters.bytes_in, body.len().saturating_add(WIDE_HEADER_LEN));
        // The frames around it are in order, and what the server passes on of others is not its fault. Hanging up would
        // bring it back at every login.
        let decoded = FromServer::decode(code, &body);
        drop(body);
        let message = match decoded {
            Ok(message) => message,
            Err(error) => {
                count(&shared.counters.violations, 1);
                debug!(code, %error, "skipped: a message of the server that does not decode");
                continue;
            }
        };
        debug!(message = %Named(&message), code, "from the server");
        tell(shared, link, || Ok(Input::Server(message))).await?;
    }
    Err(End::gone(""))
}

async fn write(shared: &Shared, link: &Link, writer: &mut (impl AsyncWrite + Unpin)) -> Result<(), End> {
    while let Some(message) = link.outbox.next().await {
        let frame = message.encode();
        write_paced(writer, &frame, shared.deadlines.write_stall).await?;
        count(&shared.counters.bytes_out, frame.len());
    }
    Ok(())
}
