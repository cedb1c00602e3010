//! One connection with a peer: its control stream, and the streams it opens. How much may be on its way is [`super::window`]'s.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream, VarInt};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{sleep_until, timeout};

use super::exchange::{self, Body, RequestError, StopCode};
use super::listen::Seat;
use super::telling::{Teller, Telling};
use super::window::{Way, Wide, Window};
use super::{Incoming, Shared, Told, code, identity, locked, spare};
use crate::engine::mesh::control::Sealed;
use crate::engine::mesh::exchange::Wanted;
use crate::engine::mesh::frame::{Hello, MessageId};
use crate::engine::mesh::guard::{Refused, Who};
use crate::engine::mesh::session::{Action, Greeted, Input, PROTOCOL, Session, Side};
use crate::model::id::{ContentHash, PeerId};
use crate::model::mesh::PeerView;

/// For the control stream to be there, and for a write on it (SPEC-FACTS 8).
const PROMPT: Duration = Duration::from_secs(5);
/// For somebody to listen to what a peer says about recordings; meanwhile nothing else is read from it.
const LISTEN: Duration = Duration::from_secs(2);
/// Blocks a connection must have: its windows of 64 KiB both ways, and its frame being received.
const BLOCKS: u32 = 3;
/// Of two connections between the same two, both as young as this, the one called by the lower id stays. An older one is
/// taken for dead, since nobody calls who is connected.
const YOUNG: Duration = Duration::from_secs(10);
/// Orders waiting for a session; who gives one more waits.
const ORDERS: usize = 32;

/// Something for the session to do.
#[derive(Debug)]
enum Order {
    Ask(ContentHash, oneshot::Sender<Option<u64>>),
    Answer(MessageId, Option<u64>),
    /// The permits are held until it is written.
    Tell(Sealed, Telling),
}

#[derive(Debug)]
struct Inner {
    id: PeerId,
    side: Side,
    address: SocketAddr,
    greeted: Greeted,
    connection: Connection,
    orders: mpsc::Sender<Order>,
    since: Duration,
    requests: AtomicU64,
    nonce: u64,
    shared: Arc<Shared>,
    receiving: Window,
    sending: Window,
    teller: Teller,
    /// The blocks it began with.
    _blocks: OwnedSemaphorePermit,
}

/// A connection with a peer that has greeted. Clones are the same connection.
#[derive(Clone, Debug)]
pub struct Link {
    inner: Arc<Inner>,
}

impl Link {
    /// Who is there.
    pub fn id(&self) -> PeerId {
        self.inner.id
    }

    /// What it says of itself.
    pub fn greeted(&self) -> &Greeted {
        &self.inner.greeted
    }

    /// Where it is called, if we know: where we called it, or the port that it says it listens on.
    pub(super) fn listens_at(&self) -> SocketAddr {
        let Inner { side, address, greeted, .. } = &*self.inner;
        match side {
            Side::Dialler => *address,
            Side::Listener => SocketAddr::new(address.ip(), greeted.port),
        }
    }

    /// The owner named it.
    pub fn is_named(&self) -> bool {
        self.inner.shared.named.contains_key(&self.inner.id)
    }

    /// We called.
    pub fn dialled(&self) -> bool {
        self.inner.side == Side::Dialler
    }

    /// Whether the connection is over.
    pub fn is_closed(&self) -> bool {
        self.inner.connection.close_reason().is_some()
    }

    /// The length of this file, if the peer shares it with us and says so in time.
    pub async fn ask(&self, content: ContentHash) -> Option<u64> {
        let (heard, answer) = oneshot::channel();
        self.inner.orders.send(Order::Ask(content, heard)).await.ok()?;
        answer.await.ok()?
    }

    /// A number of this connection's own, for telling it from an earlier one with the same peer.
    pub fn number(&self) -> u64 {
        self.inner.nonce
    }

    /// Leave to tell the peer something about recordings; to be had before it is made. `None` while the last word is still
    /// on its way, while too many others are, and for a while when the peer was slow.
    pub fn may_tell(&self) -> Option<Telling> {
        self.inner.teller.leave(&self.inner.shared.telling)
    }

    /// Tells it; false when the connection is over.
    pub fn tell(&self, sealed: Sealed, mut leave: Telling) -> bool {
        leave.goes();
        self.inner.orders.try_send(Order::Tell(sealed, leave)).is_ok()
    }

    /// Asks for bytes on a stream of its own, and waits until they begin to come. Dropping the future or the body takes
    /// the request back.
    ///
    /// # Errors
    /// Why they will not come.
    pub async fn request(&self, wanted: Wanted) -> Result<Body, RequestError> {
        self.request_until(wanted, StopCode::default()).await
    }

    /// The same; `stop` tells the peer why it is taken back, if it is.
    ///
    /// # Errors
    /// Why they will not come.
    pub async fn request_until(&self, wanted: Wanted, stop: StopCode) -> Result<Body, RequestError> {
        let inner = &self.inner;
        let number = inner.requests.fetch_add(1, Ordering::Relaxed);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&inner.nonce.to_le_bytes());
        id[8..].copy_from_slice(&number.to_be_bytes());
        let wide = self.widen_receiving();
        let streams = inner.connection.open_bi().await.map_err(|error| RequestError::Gone(error.to_string()))?;
        exchange::ask(streams, wanted, id, wide, stop).await
    }

    /// The peer did what it must not, outside the rules of a stream: it is struck and the connection closed.
    pub fn strike(&self, why: &str) {
        tracing::warn!(peer = %self.inner.id, why, "a mesh peer broke the rules");
        self.inner.shared.strike(self.inner.address, Some(self.inner.id));
        self.inner.connection.close(VarInt::from_u32(code::VIOLATION), why.as_bytes());
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    fn widen_receiving(&self) -> Wide {
        Wide::new(self.clone(), Way::In)
    }

    /// More room for what we send, while the answer holds it.
    pub(super) fn widen_sending(&self) -> Wide {
        Wide::new(self.clone(), Way::Out)
    }

    pub(super) fn window(&self, way: Way) -> &Window {
        match way {
            Way::In => &self.inner.receiving,
            Way::Out => &self.inner.sending,
        }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.inner.connection
    }

    /// For pages.
    pub fn view(&self) -> PeerView {
        let Inner { id, side, address, greeted, connection, .. } = &*self.inner;
        PeerView {
            id: *id,
            address: address.to_string(),
            named: false,
            connected: true,
            dialled: *side == Side::Dialler,
            origin: None,
            software: greeted.software.clone(),
            username: greeted.username.clone(),
            features: greeted.features.clone(),
            rtt_us: u64::try_from(connection.rtt().as_micros()).unwrap_or(u64::MAX),
            problem: String::new(),
        }
    }
}

/// Drives a connection until it is over; says why it is.
pub(super) async fn run(
    shared: &Arc<Shared>,
    connection: Connection,
    side: Side,
    wanted: Option<PeerId>,
    seat: &mut Seat,
) -> String {
    let address = connection.remote_address();
    let turned_away = |code: u32, why: &str| {
        shared.refused(
            address,
            match code {
                code::BANNED => Refused::Banned,
                code::FULL => Refused::Buffers,
                _ => Refused::Handshake,
            },
        );
        connection.close(VarInt::from_u32(code), why.as_bytes());
        why.to_owned()
    };
    let Some(peer) = peer_of(&connection) else { return turned_away(code::VIOLATION, "no key was shown") };
    if wanted.is_some_and(|wanted| wanted != peer) || peer == shared.identity.id() {
        return turned_away(code::VIOLATION, "the key is another one");
    }
    if shared.banned.contains(&peer) || !locked(&shared.guard).may(peer, shared.now()) {
        return turned_away(code::BANNED, "banned");
    }
    if let Err(why) = seat.prove(peer) {
        shared.refused(address, why);
        connection.close(VarInt::from_u32(code::FULL), why.to_string().as_bytes());
        return why.to_string();
    }
    // Strangers leave a quarter of the pool; whom the owner named may have of that.
    let blocks = match seat.who {
        Some(Who::Named) => Arc::clone(&shared.blocks).try_acquire_many_owned(BLOCKS).ok(),
        _ => spare(&shared.blocks, BLOCKS),
    };
    let Some(blocks) = blocks else {
        return turned_away(code::FULL, "no buffers are free");
    };
    let opening = async {
        match side {
            Side::Dialler => connection.open_bi().await,
            Side::Listener => connection.accept_bi().await,
        }
    };
    let streams = match timeout(PROMPT, opening).await {
        Ok(Ok(streams)) => streams,
        Ok(Err(error)) => return closing(&error),
        Err(_) => {
            shared.strike(address, Some(peer));
            return turned_away(code::VIOLATION, "there is no control stream");
        }
    };
    let mut nonce = [0; 8];
    if SystemRandom::new().fill(&mut nonce).is_err() {
        return turned_away(code::FULL, "the system gives no random numbers");
    }
    let nonce = u64::from_le_bytes(nonce);
    let hello = Hello { version: PROTOCOL, nonce, echo: 0, ..shared.hello.clone() };
    let mut control = Control {
        shared: Arc::clone(shared),
        connection: connection.clone(),
        peer,
        side,
        address,
        nonce,
        session: Session::new(side, hello),
        send: streams.0,
        blocks: Some(blocks),
        link: None,
        waiting: std::collections::BTreeMap::new(),
        asked: 0,
    };
    let why = control.run(streams.1).await;
    control.end();
    why
}

/// Words for the end of a connection; what the other side says is marked as such.
fn closing(error: &quinn::ConnectionError) -> String {
    match error {
        quinn::ConnectionError::ApplicationClosed(closed) => {
            let why = match u32::try_from(closed.error_code.into_inner()).unwrap_or(u32::MAX) {
                code::DONE => "it is done",
                code::DUPLICATE => "there is another connection",
                code::VIOLATION => "we broke its rules",
                code::FULL => "it has no room",
                code::BANNED => "it bans us",
                _ => "its reason is not known",
            };
            format!("the peer closed the connection: {why}")
        }
        other => other.to_string(),
    }
}

/// Whose key was proven.
pub(super) fn peer_of(connection: &Connection) -> Option<PeerId> {
    let shown = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    identity::id_of(shown.first()?)
}

/// The control stream and what hangs on it.
struct Control {
    shared: Arc<Shared>,
    connection: Connection,
    peer: PeerId,
    side: Side,
    address: SocketAddr,
    nonce: u64,
    session: Session,
    send: SendStream,
    /// Until they are the link's.
    blocks: Option<OwnedSemaphorePermit>,
    link: Option<Link>,
    /// Who waits for the answer to which question; at most `limits::MESH_QUESTIONS`, as the session holds.
    waiting: std::collections::BTreeMap<u64, oneshot::Sender<Option<u64>>>,
    asked: u64,
}

impl Control {
    async fn run(&mut self, mut receive: RecvStream) -> String {
        let (give_orders, mut orders) = mpsc::channel(ORDERS);
        let mut buffer = [0; 4096];
        if let Some(why) = self.step(Input::Opened, &give_orders).await {
            return why;
        }
        loop {
            let wanted = self.session.wanted().min(buffer.len());
            let deadline = self.session.deadline().map(|at| self.shared.began + at);
            let tick = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let mut told = None;
            let input = tokio::select! {
                () = self.shared.cancel.cancelled() => {
                    self.connection.close(VarInt::from_u32(code::DONE), b"");
                    return "we stop".to_owned();
                }
                read = receive.read(&mut buffer[..wanted]) => match read {
                    Ok(Some(count)) => Input::Bytes(&buffer[..count]),
                    Err(quinn::ReadError::ConnectionLost(error)) => return closing(&error),
                    Ok(None) | Err(_) => Input::Ended,
                },
                () = tick => Input::Tick,
                order = orders.recv() => match order {
                    Some(Order::Ask(content, heard)) => {
                        self.asked += 1;
                        self.waiting.insert(self.asked, heard);
                        Input::Ask(self.asked, content)
                    }
                    Some(Order::Answer(id, size)) => Input::Answer(id, size),
                    Some(Order::Tell(sealed, permits)) => {
                        told = Some(permits);
                        Input::Tell(sealed)
                    }
                    None => continue,
                },
                // Streams are let in only when both have greeted.
                streams = self.connection.accept_bi(), if self.link.is_some() => {
                    match streams {
                        Ok(streams) => self.serve(streams),
                        Err(error) => return closing(&error),
                    }
                    continue;
                }
            };
            if let Some(why) = self.step(input, &give_orders).await {
                return why;
            }
            drop(told);
        }
    }

    /// One input; the reason when it was the last.
    async fn step(&mut self, input: Input<'_>, orders: &mpsc::Sender<Order>) -> Option<String> {
        let mut actions = Vec::new();
        self.session.handle(input, self.shared.now(), &mut actions);
        for action in actions {
            match action {
                Action::Send(bytes) => match self.say(&bytes).await {
                    Some(Ok(())) => {}
                    Some(Err(quinn::WriteError::ConnectionLost(error))) => return Some(closing(&error)),
                    Some(Err(_)) => return Some("the peer closed its control stream".to_owned()),
                    None => return Some("the peer takes no messages".to_owned()),
                },
                Action::Ready(greeted) => {
                    if !self.ready(greeted, orders) {
                        self.connection.close(VarInt::from_u32(code::DUPLICATE), b"");
                        return Some("there is another connection".to_owned());
                    }
                }
                Action::Asked(id, content) => self.asked(id, content, orders.clone()),
                Action::Told(said) => self.told(said).await,
                Action::Heard(number, size) => {
                    if let Some(heard) = self.waiting.remove(&number) {
                        // Who asked may have gone.
                        let _ = heard.send(size);
                    }
                }
                Action::Close(reason) => {
                    let why = reason.to_string();
                    if reason.is_violation() {
                        tracing::warn!(peer = %self.peer, address = %self.address, why, "a mesh peer broke the rules");
                        self.shared.strike(self.address, Some(self.peer));
                        self.connection.close(VarInt::from_u32(code::VIOLATION), why.as_bytes());
                    } else {
                        self.connection.close(VarInt::from_u32(code::DONE), b"");
                    }
                    return Some(why);
                }
            }
        }
        None
    }

    /// Writes on the control stream; `None` when the peer does not take it. Files share the connection's window with it: while
    /// some are on their way, how slowly a peer may read is for them to say, and they are broken off when it is too slow.
    async fn say(&mut self, bytes: &[u8]) -> Option<Result<(), quinn::WriteError>> {
        let mut writing = std::pin::pin!(self.send.write_all(bytes));
        loop {
            match timeout(PROMPT, &mut writing).await {
                Ok(written) => return Some(written),
                Err(_) if self.link.as_ref().is_some_and(|link| link.window(Way::Out).is_used()) => {}
                Err(_) => return None,
            }
        }
    }

    /// Both have greeted. False if another connection with this peer is the better one.
    fn ready(&mut self, greeted: Greeted, orders: &mpsc::Sender<Order>) -> bool {
        let Some(blocks) = self.blocks.take() else { return true };
        let link = Link {
            inner: Arc::new(Inner {
                id: self.peer,
                side: self.side,
                address: self.address,
                greeted,
                connection: self.connection.clone(),
                orders: orders.clone(),
                since: self.shared.now(),
                requests: AtomicU64::new(0),
                nonce: self.nonce,
                shared: Arc::clone(&self.shared),
                receiving: Window::new(Way::In),
                sending: Window::new(Way::Out),
                teller: Teller::default(),
                _blocks: blocks,
            }),
        };
        let mut links = locked(&self.shared.links);
        if let Some(old) = links.get(&self.peer)
            && !old.is_closed()
        {
            let young = self.shared.now().saturating_sub(old.inner.since) < YOUNG;
            let by_lower = (self.side == Side::Dialler) == (self.shared.identity.id() < self.peer);
            if young && old.inner.side != self.side && !by_lower {
                return false;
            }
            old.inner.connection.close(VarInt::from_u32(code::DUPLICATE), b"");
        }
        links.insert(self.peer, link.clone());
        drop(links);
        locked(&self.shared.problems).remove(&self.peer);
        if self.side == Side::Listener {
            self.shared.called_by(self.address);
        }
        tracing::info!(peer = %self.peer, address = %self.address, software = link.greeted().software.escape_debug().to_string(), "a mesh peer is here");
        self.link = Some(link);
        self.shared.changes.send_modify(|changes| *changes += 1);
        true
    }

    /// A question of the peer's, to whoever knows what is shared.
    fn asked(&self, id: MessageId, content: ContentHash, orders: mpsc::Sender<Order>) {
        let Some(link) = &self.link else { return };
        let (reply, answer) = oneshot::channel();
        let username = link.greeted().username.clone();
        let query = Incoming::Query { peer: self.peer, username, content, reply };
        // A full mailbox drops the question, which is an answer too.
        let _ = self.shared.incoming.try_send(query);
        self.shared.tasks.spawn(async move {
            let size = answer.await.ok().flatten();
            // The session may be over.
            let _ = orders.send(Order::Answer(id, size)).await;
        });
    }

    /// What the peer says about recordings, to whoever listens, which at the start may be a moment later. When it takes too
    /// long, it is lost: who wants to know notices the gap and asks again.
    async fn told(&self, said: Sealed) {
        if self.link.is_some() && self.shared.listens {
            let told = Told { peer: self.peer, said };
            if timeout(LISTEN, self.shared.told.send(told)).await.is_err() {
                tracing::debug!(peer = %self.peer, "nobody had time for what a mesh peer said");
            }
        }
    }

    /// A stream that the peer opened.
    fn serve(&self, streams: (SendStream, RecvStream)) {
        let Some(link) = self.link.clone() else { return };
        self.shared.tasks.spawn(async move {
            if let Err(why) = exchange::serve(streams, &link).await {
                link.strike(&why);
            }
        });
    }

    fn end(&mut self) {
        self.connection.close(VarInt::from_u32(code::DONE), b"");
        let path = self.connection.stats().path;
        tracing::debug!(peer = %self.peer, rtt = ?path.rtt, cwnd = path.cwnd, sent = path.sent_packets,
            lost = path.lost_packets, congested = path.congestion_events, "a mesh connection ended");
        let Some(link) = self.link.take() else { return };
        let mut links = locked(&self.shared.links);
        if links.get(&self.peer).is_some_and(|now| Arc::ptr_eq(&now.inner, &link.inner)) {
            links.remove(&self.peer);
        }
        drop(links);
        self.shared.changes.send_modify(|changes| *changes += 1);
    }
}
