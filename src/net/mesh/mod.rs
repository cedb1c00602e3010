//! QUIC connections with mesh peers.
//!
//! One UDP port, TLS 1.3 with both keys proven ([`identity`]), one control stream per connection driven by
//! `engine::mesh::session` ([`link`]), and a stream of its own for each request ([`exchange`]). Named peers are called
//! until they answer, with growing pauses ([`dial`]); others that were found are called when
//! `engine::mesh::candidates` says so ([`meet`]). Who may connect how often is `engine::mesh::guard`'s decision;
//! what is served, and what is asked for, is decided by whoever holds the [`Mesh`] and takes its [`Incoming`].
//!
//! Buffers of connections are paid for in blocks of the one pool: without a free block there is no connection, and
//! windows grow only while blocks are to be had.

mod delay;
mod dial;
mod exchange;
mod identity;
mod link;
mod listen;
mod meet;
mod telling;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::exchange::{Answer, Body, RequestError, StopCode};
pub use self::identity::{Identity, SECRET_LEN};
pub use self::link::Link;
pub use self::telling::Telling;
use self::telling::Turns;
use crate::engine::mesh::candidates::{Candidate, Candidates, Passed, Range};
use crate::engine::mesh::control::Sealed;
use crate::engine::mesh::exchange::Wanted;
use crate::engine::mesh::frame::Hello;
use crate::engine::mesh::gossip::MBID;
use crate::engine::mesh::guard::{Guard, Refused, Seats};
use crate::engine::soulseek::chance::Chance;
use crate::model::id::{ContentHash, PeerId};
use crate::model::limits;
use crate::model::mesh::PeerView;

/// For TLS to be over (SPEC-FACTS 8).
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A packet at least so often, so that the other side and routers between know that we are there.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Nothing heard for so long: gone. Chosen: four keep-alives.
const IDLE: Duration = Duration::from_secs(20);
/// Bytes of one block of the pool.
const BLOCK: u32 = 64 * 1024;
/// Window of one stream (DECISIONS 8).
const STREAM_WINDOW: u32 = 1024 * 1024;
/// For the last packets to go out. QUIC then waits for late ones of the other side, three of its own timeouts: seconds, when
/// the processor is busy or the peer is gone.
const PARTING: Duration = Duration::from_secs(1);
/// Between two lines in the log about callers that were refused.
const TELL: Duration = Duration::from_secs(10);

/// Bytes a sender has on the way before it knows how many the way bears: 56 packets, evenly over a round trip. A piece, or
/// the list of a long file, then comes in one round trip instead of three; what a way does not bear is sent again.
const FIRST_WINDOW: u64 = 56 * 1_200;

/// What the kernel may hold for the socket, bytes, as far as it lets us (`net.core.rmem_max`): a tenth of a second at
/// 10 MB/s. The usual 208 KiB overflow when the processor is busy for 50 ms, and QUIC takes that for a crowded network.
const SOCKET_BUFFER: usize = 1024 * 1024;

/// Codes of closed connections.
mod code {
    /// The program stops, or the connection is one too many.
    pub(super) const DONE: u32 = 0;
    /// There is another connection between the two.
    pub(super) const DUPLICATE: u32 = 1;
    /// What came breaks the rules.
    pub(super) const VIOLATION: u32 = 2;
    /// Not now: no room.
    pub(super) const FULL: u32 = 3;
    /// The owner bans this key.
    pub(super) const BANNED: u32 = 4;
}

/// Why there is no mesh.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// The key file is damaged.
    #[error("the mesh key has {0} bytes instead of 32")]
    Secret(usize),
    /// TLS does not work here.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// QUIC finds no cipher in it.
    #[error("TLS has no cipher for QUIC: {0}")]
    Cipher(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
    /// The port is taken.
    #[error("UDP port {port} on {address} (mesh.port) cannot be had: {source}; is another program using it?")]
    Bind {
        /// As configured.
        address: IpAddr,
        /// As configured.
        port: u16,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// A peer that the owner named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its key's hash.
    pub id: PeerId,
    /// `host:port`.
    pub address: String,
}

/// How the mesh is set up.
#[derive(Debug)]
pub struct MeshSettings {
    /// Which addresses may be dialled when the DHT names them.
    pub range: Range,
    /// With so many connected that we called and the owner did not name, nobody of the DHT is called. So many seats are
    /// kept for them.
    pub strangers_max: usize,
    /// To listen on; port 0 lets the system choose.
    pub bind: SocketAddr,
    /// Our key.
    pub identity: Identity,
    /// Called until they answer; one that is named several times is tried at each address.
    pub peers: Vec<Named>,
    /// Keys that are neither called nor let in.
    pub banned: BTreeSet<PeerId>,
    /// Connections at once, both ways; those who are named have theirs kept free.
    pub connections_max: usize,
    /// Several packets in one system call, where kernel and network card can.
    pub gso: bool,
    /// What we say of ourselves; nonce, echo and port are filled in here.
    pub hello: Hello,
    /// Blocks of 64 KiB that connections may take for their buffers.
    pub blocks: Arc<Semaphore>,
    /// Packets come and go later by this; zero but in the lab.
    pub delay: Duration,
}

/// How it is known that others can reach our port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Our own address is one that may be dialled: no router is between.
    Direct(IpAddr),
    /// Somebody called from outside, so long ago.
    Called(Duration),
}

/// What peers want of us.
#[derive(Debug)]
pub enum Incoming {
    /// Is this file shared with them? The answer is its length.
    Query {
        /// Who asks.
        peer: PeerId,
        /// Its Soulseek user name, as it claims.
        username: String,
        /// Which file.
        content: ContentHash,
        /// Where the answer goes; dropping it means no.
        reply: oneshot::Sender<Option<u64>>,
    },
    /// Bytes are wanted.
    Request {
        /// What.
        wanted: Wanted,
        /// Grants or refuses.
        answer: Box<Answer>,
    },
}

/// What a peer says about recordings.
#[derive(Debug)]
pub struct Told {
    /// Who says it.
    pub peer: PeerId,
    /// What.
    pub said: Sealed,
}

/// Figures since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests granted.
    pub served: u64,
    /// Requests refused.
    pub refused: u64,
    /// Connections refused: limits, bans, wrong keys.
    pub turned_away: u64,
    /// The same by reason.
    pub turned_away_by: Vec<(&'static str, u64)>,
    /// Bytes of bodies sent.
    pub bytes_out: u64,
}

#[derive(Debug, Default)]
struct Counters {
    served: AtomicU64,
    refused: AtomicU64,
    /// As `Refused::ALL`.
    turned_away: [AtomicU64; Refused::ALL.len()],
    bytes_out: AtomicU64,
}

/// What all tasks of the mesh share.
#[derive(Debug)]
struct Shared {
    identity: Identity,
    endpoint: Endpoint,
    transport: Arc<TransportConfig>,
    hello: Hello,
    bind: SocketAddr,
    /// Whom the owner named, with their addresses.
    named: BTreeMap<PeerId, Vec<String>>,
    banned: BTreeSet<PeerId>,
    blocks: Arc<Semaphore>,
    incoming: mpsc::Sender<Incoming>,
    told: mpsc::Sender<Told>,
    /// Words of ours about recordings that wait to be written.
    telling: Turns,
    /// Until somebody takes it. Short and synchronous.
    hears: Mutex<Option<mpsc::Receiver<Told>>>,
    /// Somebody takes it, sooner or later: we say that we speak of recordings.
    listens: bool,
    began: Instant,
    counters: Counters,
    /// When callers that were refused were last spoken of, and how many since. Short and synchronous.
    spoken: Mutex<(Option<Duration>, u64)>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    /// Short and synchronous.
    guard: Mutex<Guard>,
    /// Short and synchronous.
    links: Mutex<BTreeMap<PeerId, Link>>,
    /// Why a named peer is not connected. Short and synchronous.
    problems: Mutex<BTreeMap<PeerId, String>>,
    /// Counts changes of `links`.
    changes: watch::Sender<u64>,
    /// Whom to call besides. Short and synchronous.
    candidates: Mutex<Candidates>,
    /// Where else named peers were seen: on the own network. Short and synchronous.
    sightings: Mutex<BTreeMap<PeerId, Vec<SocketAddr>>>,
    /// Counts changes of `candidates` and `sightings`.
    found: watch::Sender<u64>,
    chance: Mutex<Chance>,
    /// When somebody last called from an address that may be dialled. Short and synchronous.
    called: Mutex<Option<(SocketAddr, Duration)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody called us and was let in.
    fn called_by(&self, address: SocketAddr) {
        if locked(&self.candidates).range().allows(address) {
            *locked(&self.called) = Some((address, self.now()));
        }
    }

    /// Counts a caller that was refused, and speaks of it, now and then.
    fn refused(&self, address: SocketAddr, why: Refused) {
        if let Some(at) = Refused::ALL.iter().position(|reason| *reason == why) {
            Self::count(&self.counters.turned_away[at]);
        }
        let (now, mut spoken) = (self.now(), locked(&self.spoken));
        spoken.1 += 1;
        if spoken.0.is_none_or(|at| now.saturating_sub(at) >= TELL) {
            tracing::warn!(%address, %why, refused = spoken.1, "mesh callers are refused; this is the last of them");
            *spoken = (Some(now), 0);
        }
    }

    fn strike(&self, address: SocketAddr, peer: Option<PeerId>) {
        locked(&self.guard).strike(address.ip(), peer, self.now());
    }
}

/// The handle. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Mesh {
    shared: Arc<Shared>,
}

impl Mesh {
    /// Opens the port, listens and calls, until cancelled. Must be called inside the runtime.
    ///
    /// # Errors
    /// The port cannot be had, or TLS cannot be set up.
    pub fn start(
        settings: MeshSettings,
        incoming: mpsc::Sender<Incoming>,
        cancel: CancellationToken,
    ) -> Result<Self, MeshError> {
        let MeshSettings {
            range,
            strangers_max,
            bind,
            identity,
            peers,
            banned,
            connections_max,
            gso,
            hello,
            blocks,
            delay,
        } = settings;
        let transport = Arc::new(transport(gso));
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(identity.server()?)?));
        server
            .transport_config(Arc::clone(&transport))
            .migration(false)
            .max_incoming(limits::MESH_HANDSHAKES)
            .incoming_buffer_size(limits::MESH_INCOMING_BYTES / limits::MESH_HANDSHAKES as u64)
            .incoming_buffer_size_total(limits::MESH_INCOMING_BYTES);
        let failed = |source| MeshError::Bind { address: bind.ip(), port: bind.port(), source };
        let socket = std::net::UdpSocket::bind(bind).map_err(failed)?;
        let wide = socket2::SockRef::from(&socket);
        if let Err(error) = wide.set_recv_buffer_size(SOCKET_BUFFER).and(wide.set_send_buffer_size(SOCKET_BUFFER)) {
            tracing::debug!(%error, "the socket keeps the buffers it has");
        }
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = if delay.is_zero() {
            Endpoint::new(EndpointConfig::default(), Some(server), socket, runtime)
        } else {
            delay::delayed(socket, delay, runtime.as_ref()).and_then(|socket| {
                Endpoint::new_with_abstract_socket(EndpointConfig::default(), Some(server), socket, runtime)
            })
        };
        let endpoint = endpoint.map_err(failed)?;
        let port = endpoint.local_addr().map_err(failed)?.port();
        let own = identity.id();
        let mut named: BTreeMap<PeerId, Vec<String>> = BTreeMap::new();
        for peer in peers.into_iter().take(limits::MESH_NAMED).filter(|peer| peer.id != own) {
            named.entry(peer.id).or_default().push(peer.address);
        }
        let allowed = named.keys().filter(|id| !banned.contains(id)).count();
        let seats = Seats::new(connections_max.min(limits::MESH_CONNECTIONS), allowed, strangers_max);
        let mut seed = [0; 8];
        SystemRandom::new().fill(&mut seed).map_err(|_| MeshError::Random)?;
        let mut candidates = Candidates::new(own, range, strangers_max);
        candidates.is_ours(SocketAddr::new(bind.ip(), port));
        let (told, hears) = mpsc::channel(limits::GOSSIP_WAITING);
        let listens = hello.features.split(' ').any(|feature| feature == MBID);
        let shared = Arc::new(Shared {
            listens,
            bind: SocketAddr::new(bind.ip(), port),
            candidates: Mutex::new(candidates),
            sightings: Mutex::default(),
            found: watch::Sender::new(0),
            chance: Mutex::new(Chance::new(u64::from_le_bytes(seed))),
            called: Mutex::default(),
            identity,
            endpoint,
            transport,
            hello: Hello { port, ..hello },
            named,
            banned,
            telling: Turns::new(limits::GOSSIP_TELLING, Arc::clone(&blocks)),
            blocks,
            incoming,
            told,
            hears: Mutex::new(Some(hears)),
            began: Instant::now(),
            counters: Counters::default(),
            spoken: Mutex::default(),
            cancel,
            tasks: TaskTracker::new(),
            guard: Mutex::new(Guard::new(seats)),
            links: Mutex::default(),
            problems: Mutex::default(),
            changes: watch::Sender::new(0),
        });
        shared.tasks.spawn(listen::listen(Arc::clone(&shared)));
        for peer in shared.named.keys() {
            shared.tasks.spawn(dial::keep(Arc::clone(&shared), *peer));
        }
        shared.tasks.spawn(meet::run(Arc::clone(&shared)));
        Ok(Self { shared })
    }

    /// Closes all connections at once, also those that are in the middle of a handshake, and lets nobody in any more.
    pub fn close(&self) {
        self.shared.endpoint.close(VarInt::from_u32(code::DONE), b"");
    }

    /// Waits until all connections are closed. To be called after the cancellation.
    pub async fn stopped(&self) {
        self.close();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        // What is still open then says nothing any more.
        let _ = timeout(PARTING, self.shared.endpoint.wait_idle()).await;
    }

    /// Our own id.
    pub fn id(&self) -> PeerId {
        self.shared.identity.id()
    }

    /// The UDP port in use.
    pub fn port(&self) -> u16 {
        self.shared.hello.port
    }

    /// Connections with peers that have greeted.
    pub fn links(&self) -> Vec<Link> {
        locked(&self.shared.links).values().cloned().collect()
    }

    /// The connection with this peer.
    pub fn link(&self, peer: PeerId) -> Option<Link> {
        locked(&self.shared.links).get(&peer).cloned()
    }

    /// Calls somebody who was found, when it is time. A peer that the owner named is called at these addresses too.
    ///
    /// # Errors
    /// It is not taken.
    pub fn meet(&self, candidate: Candidate) -> Result<(), Passed> {
        meet::add(&self.shared, candidate)
    }

    /// Whether the Soulseek server is on a private network: then nodes are too (DECISIONS 10).
    pub fn set_server_near(&self, near: bool) {
        locked(&self.shared.candidates).set_server_near(near);
    }

    /// Never to be called: it leads to us.
    pub fn is_ours(&self, at: SocketAddr) {
        locked(&self.shared.candidates).is_ours(at);
    }

    /// Random bits, for who needs chance.
    pub fn seed(&self) -> u64 {
        locked(&self.shared.chance).bits()
    }

    /// Candidates known now.
    pub fn candidates(&self) -> usize {
        locked(&self.shared.candidates).len()
    }

    /// Why others can reach our port without help of a router, if they can: nothing is between, or somebody did.
    pub fn reached(&self) -> Option<Reached> {
        meet::reached(&self.shared)
    }

    /// Changes whenever a peer comes or goes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// What peers say about recordings, for whoever asks first. Until then a few words of it wait.
    pub fn hear(&self) -> Option<mpsc::Receiver<Told>> {
        locked(&self.shared.hears).take()
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        let Counters { served, refused, turned_away, bytes_out } = &self.shared.counters;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let reasons: Vec<_> = Refused::ALL.iter().zip(turned_away).map(|(why, n)| (why.name(), of(n))).collect();
        Stats {
            served: of(served),
            refused: of(refused),
            turned_away: reasons.iter().map(|(_, count)| count).sum(),
            turned_away_by: reasons,
            bytes_out: of(bytes_out),
        }
    }

    /// Peers named or connected, by id.
    pub fn peers(&self) -> Vec<PeerView> {
        let mut peers: BTreeMap<PeerId, PeerView> = BTreeMap::new();
        let problems = locked(&self.shared.problems).clone();
        for (id, addresses) in &self.shared.named {
            let view = PeerView {
                id: *id,
                address: addresses.join(", "),
                named: true,
                connected: false,
                dialled: false,
                origin: None,
                software: String::new(),
                username: String::new(),
                features: Vec::new(),
                rtt_us: 0,
                problem: problems.get(id).cloned().unwrap_or_default(),
            };
            peers.insert(*id, view);
        }
        for link in self.links() {
            let mut view = link.view();
            if let Some(named) = peers.get(&link.id()) {
                view.named = true;
                view.address.clone_from(&named.address);
            } else {
                view.origin = locked(&self.shared.candidates).origin(link.id());
            }
            peers.insert(link.id(), view);
        }
        peers.into_values().collect()
    }
}

fn transport(gso: bool) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut congestion = CubicConfig::default();
    congestion.initial_window(FIRST_WINDOW);
    transport
        // The control stream is one more.
        .max_concurrent_bidi_streams(VarInt::from_u32(limits::MESH_STREAMS + 1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(BLOCK))
        .send_window(u64::from(BLOCK))
        // Requests are answered one after the other: half of many files is worth less than one.
        .send_fairness(false)
        .congestion_controller_factory(Arc::new(congestion))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .enable_segmentation_offload(gso);
    transport
}

/// So many blocks of 64 KiB for memory of the mesh, if a quarter of the pool is still left to those who move bytes. Nobody
/// waits here, so nobody waits for others who wait likewise.
pub fn spare(blocks: &Arc<Semaphore>, count: u32) -> Option<OwnedSemaphorePermit> {
    let enough = blocks.available_permits() >= count as usize + limits::BLOCKS / 4;
    if enough { Arc::clone(blocks).try_acquire_many_owned(count).ok() } else { None }
}

/// For calling this peer and nobody else, or whoever is there.
fn client(shared: &Shared, peer: Option<PeerId>) -> Result<quinn::ClientConfig, MeshError> {
    let tls = QuicClientConfig::try_from(shared.identity.client(peer)?)?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::clone(&shared.transport));
    Ok(config)
}
