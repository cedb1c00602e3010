//! Callers: listening, and turning away those for whom there is no place.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::shared::{CallerPlaces, Shared, count};
use super::{NetError, user_conn};

/// How long to wait when the system has no more descriptors or memory for a caller. Chosen: long enough not to spin,
/// short enough not to be noticed.
const OUT_OF_RESOURCES: Duration = Duration::from_millis(100);

/// The listening socket and the task that accepts from it.
pub(super) struct Listener {
    shared: Arc<Shared>,
    bind: Ipv4Addr,
    port: AtomicU16,
    // Held to swap the one for the other.
    accepting: Mutex<CancellationToken>,
}

impl Listener {
    pub(super) async fn start(shared: Arc<Shared>, bind: Ipv4Addr, port: u16) -> Result<Self, NetError> {
        let (socket, port) = listen(bind, port).await?;
        let accepting = shared.cancel().child_token();
        shared.spawn(accept_all(Arc::clone(&shared), socket, accepting.clone()));
        info!(port, "listening for users");
        Ok(Self { shared, bind, port: AtomicU16::new(port), accepting: Mutex::new(accepting) })
    }

    pub(super) fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    pub(super) async fn rebind(&self, port: u16) -> Result<u16, NetError> {
        if port == self.port() {
            return Ok(port);
        }
        let (socket, port) = listen(self.bind, port).await?;
        let accepting = self.shared.cancel().child_token();
        self.shared.spawn(accept_all(Arc::clone(&self.shared), socket, accepting.clone()));
        self.port.store(port, Ordering::Relaxed);
        let before = {
            let mut current = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, accepting)
        };
        before.cancel();
        info!(port, "listening for users");
        Ok(port)
    }
}

async fn listen(bind: Ipv4Addr, port: u16) -> Result<(TcpListener, u16), NetError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => NetError::TakenPort { bind, port },
        _ => NetError::Listen { bind, port, source },
    };
    let socket = TcpListener::bind(SocketAddrV4::new(bind, port)).await.map_err(failed)?;
    let port = socket.local_addr().map_err(failed)?.port();
    Ok((socket, port))
}

async fn accept_all(shared: Arc<Shared>, socket: TcpListener, accepting: CancellationToken) {
    loop {
        let caller = tokio::select! {
            biased;
            () = accepting.cancelled() => return,
            caller = socket.accept() => caller,
        };
        match caller {
            Ok((stream, SocketAddr::V4(from))) => admit(&shared, stream, from),
            // An IPv4 socket has no other callers.
            Ok((_, SocketAddr::V6(_))) => {}
            Err(error) if gone_before_accept(&error) => {}
            Err(error) => {
                warn!(%error, "cannot take a caller; trying again shortly");
                tokio::select! {
                    () = accepting.cancelled() => return,
                    () = tokio::time::sleep(OUT_OF_RESOURCES) => {}
                }
            }
        }
    }
}

fn gone_before_accept(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddrV4) {
    let Some(places) = places(shared, *from.ip()) else {
        count(&shared.counters.refused, 1);
        debug!(%from, "turned away: no place for another caller");
        return;
    };
    user_conn::accept(shared, stream, from, places);
}

fn places(shared: &Arc<Shared>, ip: Ipv4Addr) -> Option<CallerPlaces> {
    Some(CallerPlaces {
        place: Arc::clone(&shared.places).try_acquire_owned().ok()?,
        address: shared.enter_address(ip)?,
        unfinished: Arc::clone(&shared.unfinished).try_acquire_owned().ok()?,
    })
}
