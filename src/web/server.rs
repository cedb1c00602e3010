//! Sockets, permits and deadlines: an accept loop of our own, because `axum::serve` sets no deadline for headers and
//! takes any number of connections (RELIABILITY-FACTS 1).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::model::limits;
use crate::model::time::Now;

use super::auth::{Auth, LoadError};
use super::browse::BrowseCache;
use super::counts::Counts;
use super::desk::Desk;
use super::guard::{self, Peer};
use super::info::InfoCache;
use super::routes;
use super::seats::{Seat, Seats};
use super::settings::WebSettings;

/// Connections of the command line, apart from the page's: it must get through when browsers hold all of those.
const CONTROL_CONNECTIONS: usize = 4;
/// Bytes of a request line with headers: a path of 4 KiB is three times as long when it is written with percent signs.
const HEAD_LEN: usize = 32 * 1024;
/// Callers that wait in the kernel.
const BACKLOG: i32 = 128;
/// Answers under way may take this long to end when we stop.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// Pause after a failed accept (out of file descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the page and the API could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody listens there.
    #[error("cannot listen on {0}: the port is taken by another program (web.port chooses another)")]
    PortTaken(SocketAddr),
    /// The system refuses.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A passed socket is of no use.
    #[error("the socket that was passed to us cannot be used: {0}")]
    Passed(io::Error),
    /// Another process answers on the control socket.
    #[error("{0:?} answers already: another slskdn runs on this data folder")]
    ControlTaken(PathBuf),
    /// The control socket cannot be made.
    #[error("cannot listen on {path:?}: {source}")]
    Control {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The secrets are not there.
    #[error(transparent)]
    Secrets(#[from] LoadError),
}

/// What every route may use.
pub struct Web {
    /// The way to the rest of the program.
    pub desk: Desk,
    /// Passwords, sessions, tokens, keys.
    pub auth: Auth,
    /// As started.
    pub settings: WebSettings,
    /// Host names that are ours.
    pub(crate) hosts: Vec<String>,
    pub(crate) counts: Counts,
    /// Permits of event streams.
    pub(crate) streams: Arc<Semaphore>,
    /// Permits of large bodies.
    pub(crate) bodies: Semaphore,
    /// Permit of an upload that is streamed to the disk.
    pub(crate) upload: Semaphore,
    /// Share lists fetched lately.
    pub(crate) browsed: BrowseCache,
    /// What users told about themselves lately.
    pub(crate) told: InfoCache,
    pub(crate) stop: CancellationToken,
}

impl Web {
    /// Both clocks, now.
    pub fn now(&self) -> Now {
        (self.settings.clock)()
    }
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Sockets that listen; callers wait in the kernel until [`Server::begin`].
#[derive(Debug)]
pub struct Bound(Vec<(SocketAddr, TcpListener)>);

impl Bound {
    /// Binds every address and takes the passed sockets.
    ///
    /// # Errors
    /// A port is taken, or the system refuses.
    pub fn new(settings: &WebSettings) -> Result<Self, StartError> {
        let mut listeners = Vec::new();
        for address in &settings.addresses {
            listeners.push(bind(*address)?);
        }
        for passed in &settings.listeners {
            let take = || {
                let listener = passed.try_clone()?;
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)
            };
            listeners.push(take().map_err(StartError::Passed)?);
        }
        let with_address = |listener: TcpListener| Ok((listener.local_addr()?, listener));
        let found: io::Result<Vec<_>> = listeners.into_iter().map(with_address).collect();
        found.map(Self).map_err(StartError::Passed)
    }
}

/// The page and the API, listening.
#[derive(Debug)]
pub struct Server {
    web: Arc<Web>,
    addresses: Vec<SocketAddr>,
    needs_setup: bool,
    tasks: TaskTracker,
    control_socket: Option<PathBuf>,
}

enum Listener {
    Tcp(TcpListener, bool),
    Control(UnixListener),
}

impl Server {
    /// Binds and begins.
    ///
    /// # Errors
    /// As [`Bound::new`] and [`Server::begin`].
    pub async fn start(settings: WebSettings, desk: Desk, stop: CancellationToken) -> Result<Self, StartError> {
        let bound = Bound::new(&settings)?;
        Self::begin(bound, settings, desk, stop).await
    }

    /// Gets the secrets ready through the desk (somebody must be answering there) and begins to accept. Ends when
    /// `stop` is cancelled; [`Server::stopped`] waits for it.
    ///
    /// # Errors
    /// The control socket cannot be made, or the secrets cannot be had.
    pub async fn begin(
        bound: Bound,
        settings: WebSettings,
        desk: Desk,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let mut addresses = Vec::new();
        let mut all = Vec::new();
        for (address, listener) in bound.0 {
            addresses.push(address);
            all.push(Listener::Tcp(listener, address.ip().to_canonical().is_loopback()));
        }
        if let Some(path) = &settings.control_socket {
            all.push(Listener::Control(bind_control(path)?));
        }
        let auth = Auth::load(desk.clone(), &settings).await?;
        let needs_setup = settings.authentication
            && !auth.has_password()
            && addresses.iter().any(|address| !address.ip().to_canonical().is_loopback());
        let control_socket = settings.control_socket.clone();
        let web = Arc::new(Web {
            desk,
            auth,
            hosts: our_names(&settings.allowed_hosts),
            counts: Counts::default(),
            streams: Arc::new(Semaphore::new(limits::EVENT_STREAMS)),
            bodies: Semaphore::new(limits::LARGE_BODIES),
            upload: Semaphore::new(1),
            browsed: BrowseCache::default(),
            told: InfoCache::default(),
            stop: stop.clone(),
            settings,
        });
        let router = routes::router(Arc::clone(&web));
        let permits = Arc::new(Semaphore::new(web.settings.connections));
        let seats = Arc::<Seats>::default();
        let tasks = TaskTracker::new();
        for listener in all {
            let permits = match listener {
                Listener::Tcp(..) => Arc::clone(&permits),
                Listener::Control(_) => Arc::new(Semaphore::new(CONTROL_CONNECTIONS)),
            };
            let (web, router) = (Arc::clone(&web), router.clone());
            let door = Door { web, router, permits, seats: Arc::clone(&seats), tasks: tasks.clone() };
            tasks.spawn(door.keep(listener));
        }
        tasks.close();
        Ok(Self { web, addresses, needs_setup, tasks, control_socket })
    }

    /// Where we listen, ports resolved: first the asked-for addresses, then passed sockets.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The set-up code to show to the owner, while the page waits for one.
    pub fn setup_code(&self) -> Option<String> {
        if self.needs_setup { self.web.auth.setup_code() } else { None }
    }

    /// What the routes use.
    pub fn web(&self) -> &Arc<Web> {
        &self.web
    }

    /// Waits until everything has ended after `stop` was cancelled, and removes the control socket. Connections are
    /// given a stated time, then dropped.
    pub async fn stopped(self) {
        self.tasks.wait().await;
        if let Some(path) = &self.control_socket {
            // Gone already is as good.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn our_names(configured: &[String]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "slskdn.local".to_owned()];
    if let Ok(name) = rustix::system::uname().nodename().to_str()
        && !name.is_empty()
    {
        names.push(name.to_owned());
        names.push(format!("{name}.local"));
    }
    names.extend(configured.iter().map(|name| name.trim_matches(['[', ']']).to_owned()));
    names
}

fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let attempt = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // So that 0.0.0.0 and [::] can be asked for side by side.
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    attempt().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::PortTaken(address),
        _ => StartError::Listen { address, source },
    })
}

/// A socket file left by a killed process is replaced; one that answers is somebody else's.
fn bind_control(path: &Path) -> Result<UnixListener, StartError> {
    let problem = |source| StartError::Control { path: path.to_owned(), source };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(StartError::ControlTaken(path.to_owned()));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path).map_err(problem)?,
        Ok(_) => return Err(problem(io::ErrorKind::AlreadyExists.into())),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(problem)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(problem)?;
    Ok(listener)
}

/// One listener's loop and what its connections need.
struct Door {
    web: Arc<Web>,
    router: Router,
    permits: Arc<Semaphore>,
    seats: Arc<Seats>,
    tasks: TaskTracker,
}

impl Door {
    async fn keep(self, listener: Listener) {
        let stop = self.web.stop.clone();
        loop {
            let turn = async {
                // The permit comes first: callers beyond it wait in the kernel, not in our memory.
                let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return };
                match self.accept(&listener, permit).await {
                    Ok(()) => {}
                    Err(problem) => {
                        tracing::warn!(%problem, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = turn => {}
            }
        }
    }

    async fn accept(&self, listener: &Listener, permit: OwnedSemaphorePermit) -> io::Result<()> {
        match listener {
            Listener::Tcp(listener, loopback_bind) => {
                let (stream, remote) = listener.accept().await?;
                // Without either the connection is of no use; the caller has left.
                let Ok(local) = stream.local_addr() else { return Ok(()) };
                let Some(seat) = self.seats.take(remote.ip()) else {
                    self.web.counts.turned_away.fetch_add(1, Relaxed);
                    return Ok(());
                };
                let _ = stream.set_nodelay(true);
                self.serve(stream, Peer::Tcp { remote, local, loopback_bind: *loopback_bind }, (permit, Some(seat)));
            }
            Listener::Control(listener) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred()?.uid();
                if uid != 0 && uid != rustix::process::geteuid().as_raw() {
                    tracing::warn!(uid, "another user knocked at the control socket");
                    return Ok(());
                }
                self.serve(stream, Peer::Control, (permit, None));
            }
        }
        Ok(())
    }

    fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
        place: (OwnedSemaphorePermit, Option<Seat>),
    ) {
        let web = Arc::clone(&self.web);
        let router = self.router.clone();
        web.counts.accepted.fetch_add(1, Relaxed);
        self.tasks.spawn(async move {
            let open = Open::new(&web);
            let settings = &web.settings;
            let stream = super::stall::Stall::new(stream, settings.stall_timeout);
            let service = service_fn(|request| {
                let (web, router) = (Arc::clone(&web), router.clone());
                async move { Ok::<Response, std::convert::Infallible>(guard::answer(web, router, peer, request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(settings.header_timeout)
                .max_buf_size(HEAD_LEN)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            // What a caller breaks is its own loss; nothing of it is worth a line in the log.
            tokio::select! {
                _ = connection.as_mut() => {}
                () = web.stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = tokio::time::timeout(STOP_WITHIN, connection).await;
                }
            }
            drop((open, place));
        });
    }
}

/// Counts a connection while it lives.
struct Open(Arc<Web>);

impl Open {
    fn new(web: &Arc<Web>) -> Self {
        web.counts.connections.fetch_add(1, Relaxed);
        Self(Arc::clone(web))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.connections.fetch_sub(1, Relaxed);
    }
}
