//! The life of one connection with a user, in one task: from the dial or the call to its end.

use std::future::Future;
use std::io;
use std::net::SocketAddrV4;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tracing::{debug, error};

use super::End;
use super::messages;
use super::named::Named;
use super::shared::{CallerPlaces, Conn, Order, Shared, Stage, count};
use super::wire::{read_body, read_narrow_header, write_paced};
use crate::engine::soulseek::io::{ConnEvent, Purpose};
use crate::engine::soulseek::peer::Init;
use crate::model::id::{ConnId, Token};
use crate::model::limits;

/// Bytes an adopted connection reads ahead. Small, as there are many and most are idle.
const READ_AHEAD: usize = 4 * 1024;
/// Bytes of a closed connection that are read and forgotten while its last words reach the other side.
const LINGER_BYTES: u64 = 64 * 1024;
/// Keep-alive: first probe after this silence, then one each `KEEPALIVE_PROBE`. Chosen: notices a vanished peer within
/// about four minutes and keeps the mapping in a home router, whose timers are rarely below two.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(100);
const KEEPALIVE_PROBE: Duration = Duration::from_secs(30);

/// Opens a connection to a user.
pub(super) fn dial(shared: &Arc<Shared>, id: ConnId, to: SocketAddrV4) {
    let Some(conn) = shared.enter(id, Stage::Dialling) else {
        error!(conn = id.0, "not dialled: the number is in use");
        return;
    };
    let task = dialled(Arc::clone(shared), conn, to);
    shared.spawn(task);
}

/// Takes a caller in.
pub(super) fn accept(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddrV4, places: CallerPlaces) {
    let conn = shared.enter_accepted();
    let task = called(Arc::clone(shared), conn, stream, from, places);
    shared.spawn(task);
}

async fn dialled(shared: Arc<Shared>, conn: Arc<Conn>, to: SocketAddrV4) {
    debug!(conn = conn.id.0, %to, "dialling");
    let attempt = tokio::select! {
        biased;
        () = conn.outbox.closing() => Err(None),
        attempt = timeout(shared.deadlines.dial, connect(&shared, to)) => match attempt {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => Err(Some(error.to_string())),
            Err(_) => Err(Some("no answer in time".to_owned())),
        },
    };
    match attempt {
        Ok((place, stream)) => {
            conn.set_stage(Stage::Greeting);
            let end = contained(async {
                shared.tell(&conn, ConnEvent::Dialled).await?;
                serve(&shared, &conn, stream).await
            })
            .await;
            drop(place);
            report(&shared, &conn, end).await;
        }
        Err(reason) => {
            debug!(conn = conn.id.0, reason, "not dialled");
            report_last(&shared, &conn, reason.map(|reason| ConnEvent::DialFailed { reason })).await;
        }
    }
}

async fn connect(shared: &Shared, to: SocketAddrV4) -> io::Result<(OwnedSemaphorePermit, TcpStream)> {
    let place = Arc::clone(&shared.places).acquire_owned().await.map_err(io::Error::other)?;
    let stream = TcpStream::connect(to).await?;
    Ok((place, stream))
}

async fn called(shared: Arc<Shared>, conn: Arc<Conn>, stream: TcpStream, from: SocketAddrV4, places: CallerPlaces) {
    debug!(conn = conn.id.0, %from, "called");
    let CallerPlaces { place, address, unfinished } = places;
    let end = contained(async {
        let mut stream = stream;
        shared.tell(&conn, ConnEvent::Accepted { from }).await?;
        let init = tokio::select! {
            biased;
            () = conn.outbox.closing() => return Err(End::Ours),
            init = timeout(shared.deadlines.handshake, read_init(&shared, &mut stream)) => init,
        };
        let init = init.map_err(|_| End::gone("no first message in time"))??;
        drop(unfinished);
        debug!(conn = conn.id.0, message = %Named(&init), "received");
        shared.tell(&conn, ConnEvent::Init(init)).await?;
        serve(&shared, &conn, stream).await
    })
    .await;
    drop((place, address));
    report(&shared, &conn, end).await;
}

/// Reads the first message and not a byte more: what follows may be a file's.
async fn read_init(shared: &Shared, stream: &mut TcpStream) -> Result<Init, End> {
    let (code, len) = read_narrow_header(stream, limits::FRAME_INIT).await?;
    let body = read_body(stream, len).await?;
    count(&shared.counters.bytes_in, len.saturating_add(5));
    Ok(Init::decode(code, &body)?)
}

/// Runs a connection's work; a panic in it ends this connection and no other. Not an `async fn`, which would hold the
/// work twice.
fn contained(work: impl Future<Output = Result<(), End>>) -> impl Future<Output = End> {
    AssertUnwindSafe(work).catch_unwind().map(|ended| match ended {
        Ok(Ok(())) => End::Ours,
        Ok(Err(end)) => end,
        Err(_) => {
            error!("a connection's task panicked; the connection is closed");
            End::violation("handling what it sent failed")
        }
    })
}

/// Says that the connection is gone, unless we closed it, and forgets it.
async fn report(shared: &Shared, conn: &Conn, end: End) {
    let closed = match end {
        End::Ours => None,
        End::Gone { reason } => Some(ConnEvent::Closed { reason, violation: false }),
        End::Violation { reason } => {
            count(&shared.counters.violations, 1);
            Some(ConnEvent::Closed { reason, violation: true })
        }
    };
    debug!(conn = conn.id.0, ?closed, "connection ended");
    report_last(shared, conn, closed).await;
}

/// Tells the last event of a connection, if there is one. Whoever hears of it finds the connection forgotten.
async fn report_last(shared: &Shared, conn: &Conn, event: Option<ConnEvent>) {
    if event.is_some() {
        let told = shared.tell_with(conn, || {
            shared.forget(conn.id);
            Ok(event)
        });
        // An error means that we closed it meanwhile: then nobody needs to know.
        let _ = told.await;
    }
    shared.forget(conn.id);
}

/// From the first message on: learns what the connection is for and does that.
async fn serve(shared: &Shared, conn: &Conn, mut stream: TcpStream) -> Result<(), End> {
    tune(&stream);
    let purpose = loop {
        match decision(shared, conn).await? {
            Some(Order::Adopt(purpose)) => break purpose,
            Some(Order::Init(init)) => send_init(shared, conn, &mut stream, &init).await?,
            Some(other) => debug!(conn = conn.id.0, order = %Named(&other), "dropped: not adopted yet"),
            None => return farewell(shared, stream).await,
        }
    };
    conn.set_stage(Stage::Adopted(purpose));
    match purpose {
        Purpose::Peer | Purpose::Distributed => converse(shared, conn, stream, purpose).await,
        Purpose::FileIn => {
            let token = tokio::select! {
                biased;
                () = conn.outbox.closing() => return Err(End::Ours),
                token = timeout(shared.deadlines.handshake, stream.read_u32_le()) => token,
            };
            let token = match token {
                // Of two connections made for one file the loser ends here: nothing is wrong with that.
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(End::gone("")),
                Ok(token) => token?,
                Err(_) => return Err(End::gone("no file token in time")),
            };
            count(&shared.counters.bytes_in, 4);
            shared.tell(conn, ConnEvent::FileToken(Token(token))).await?;
            park(shared, conn, stream).await
        }
        Purpose::FileOut => park(shared, conn, stream).await,
    }
}

/// The next order on a connection that cannot go on without one. `None`: close.
async fn decision(shared: &Shared, conn: &Conn) -> Result<Option<Order>, End> {
    tokio::select! {
        biased;
        () = conn.outbox.overrun() => Err(behind()),
        order = timeout(shared.deadlines.decision, conn.outbox.next()) => {
            order.map_err(|_| End::gone("nothing was decided about it in time"))
        }
    }
}

fn behind() -> End {
    End::gone("does not take what we send")
}

async fn send_init(shared: &Shared, conn: &Conn, stream: &mut TcpStream, init: &Init) -> Result<(), End> {
    let frame = init.encode();
    tokio::select! {
        biased;
        () = conn.outbox.overrun() => return Err(behind()),
        written = write_paced(stream, &frame, shared.deadlines.write_stall) => written?,
    }
    count(&shared.counters.bytes_out, frame.len());
    Ok(())
}

/// Messages both ways until either side ends it.
async fn converse(shared: &Shared, conn: &Conn, stream: TcpStream, purpose: Purpose) -> Result<(), End> {
    let (read_half, mut write_half) = stream.into_split();
    let mut reader = BufReader::with_capacity(READ_AHEAD, read_half);
    let flushed = {
        let reading = messages::read(shared, conn, &mut reader, purpose);
        let writing = messages::write(shared, conn, &mut write_half);
        tokio::pin!(reading, writing);
        tokio::select! {
            biased;
            () = conn.outbox.overrun() => return Err(behind()),
            () = conn.outbox.closing() => {
                // Whoever takes it slowly must not hold up the end of the program, nor its place for long.
                let deadlines = &shared.deadlines;
                let most = if shared.cancel().is_cancelled() { deadlines.linger } else { deadlines.write_stall };
                timeout(most, writing).await.map_err(|_| End::Ours)?
            }
            written = &mut writing => written,
            read = &mut reading => return read,
        }
    };
    flushed?;
    let stream = reader.into_inner().reunite(write_half).map_err(|_| End::Ours)?;
    farewell(shared, stream).await
}

/// Holds a file connection until its socket is asked for.
async fn park(shared: &Shared, conn: &Conn, stream: TcpStream) -> Result<(), End> {
    let order = tokio::select! {
        biased;
        order = decision(shared, conn) => order?,
        gone = hung_up(&stream) => return Err(gone),
    };
    match order {
        Some(Order::HandOver(hand)) => {
            // Forgotten first: whoever takes the socket may close it before this task ends.
            shared.forget(conn.id);
            debug!(conn = conn.id.0, "file connection handed over");
            hand.send(stream).map_err(|_| End::gone("nobody took the file connection"))
        }
        Some(other) => Err(End::gone(format!("{} on a file connection", Named(&other)))),
        None => farewell(shared, stream).await,
    }
}

/// Resolves when the other side hangs up; never once it has sent something that we must not read.
async fn hung_up(stream: &TcpStream) -> End {
    match stream.peek(&mut [0]).await {
        Ok(0) => End::gone(""),
        Ok(_) => std::future::pending().await,
        Err(error) => error.into(),
    }
}

/// Ends a connection so that our last words arrive: what is unread at a close would make the system discard them.
async fn farewell(shared: &Shared, mut stream: TcpStream) -> Result<(), End> {
    let parting = async {
        stream.shutdown().await?;
        let mut rest = (&mut stream).take(LINGER_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // It is closed in any case; how it went changes nothing.
    let _ = timeout(shared.deadlines.linger, parting).await;
    Ok(())
}

/// Small messages go out at once, and a peer that vanished is noticed in the end.
pub(super) fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_PROBE);
    let tuned = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        debug!(%error, "socket options were refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_idle_connection_is_small() {
        let (inputs, _events) = tokio::sync::mpsc::channel(1);
        let cancel = tokio_util::sync::CancellationToken::new();
        let shared =
            Arc::new(Shared::new(std::path::PathBuf::new(), super::super::Deadlines::default(), inputs, cancel));
        let conn = shared.enter_accepted();
        let to = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 1);
        let dialled = size_of_val(&dialled(Arc::clone(&shared), Arc::clone(&conn), to));
        assert!(dialled + READ_AHEAD < 8 * 1024, "{dialled}");
    }

    #[tokio::test]
    async fn a_panic_ends_one_connection() {
        let end = contained(async { panic!("a test's") }).await;
        assert!(end.is_violation());
        assert!(!contained(async { Err(End::gone("")) }).await.is_violation());
    }
}
