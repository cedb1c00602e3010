//! Who is connected to whom, and how a message reaches a user: everything about TCP connections between users.
//!
//! Reaching somebody is a race: we dial the address the server gave and at the same time ask the server to make them
//! call us. The first that succeeds is used. Often both do, and the other side may keep either one (SOULSEEK-FACTS 3),
//! so a second peer connection stays beside the first until it delivers something; a second file connection is closed
//! at once. Never is a second one made on purpose.
//!
//! | A connection is | until | Deadline |
//! |---|---|---|
//! | Unfinished | its first message came | `limits::HANDSHAKE_S` and some |
//! | Dialling | the shell reports | `limits::DIAL_S` and some |
//! | Peer | it is idle, replaced or closed | `limits::PEER_IDLE_S` without traffic, longer with a share list under way |
//! | `FileIn` | the uploader's token came | `TOKEN`; then it belongs to the transfer and is forgotten here |
//! | Distributed | `Tree` hangs up, or it is closed | none here: `Tree` has its own |
//!
//! What the messages mean is for other machines. `attempts` holds the race, `address` the rule about whom to dial.

pub(crate) mod address;
mod allowance;
mod attempts;
mod peers;
mod strikes;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use allowance::Allowance;
use attempts::{Attempt, Call, Goal, Why};
use peers::{Reach, Unheard, Waiting};
use strikes::Strikes;

use super::Settings;
use super::chance::Chance;
use super::distributed::DistributedMessage;
use super::effect::{About, Effects};
use super::io::{ConnEvent, NetAction, Purpose};
use super::peer::{Init, PeerMessage};
use super::server::{ConnectionType, FromServer, UserStatus};
use crate::model::id::{ConnId, Token, TransferId, Username};
use crate::model::limits;
use crate::model::time::Now;

/// Connections that we dial are numbered from here upwards; the shell numbers those it accepts from 0.
pub const DIALLED_FIRST: u64 = 1 << 63;

/// The shell keeps its own deadlines; ours pass so much later and only catch what it lost.
const GRACE: Duration = Duration::from_secs(5);
/// For the token on a file connection that somebody made. Chosen.
const TOKEN: Duration = Duration::from_secs(30);
/// How long a share list may be under way: the deadline of a browse inquiry.
pub const SHARE_LIST: Duration = Duration::from_secs(120);
/// How long our own list may take on its way out before the connection counts as idle again. Chosen: 512 KiB a minute
/// for 5 MiB, a list of 100,000 files.
const SHARE_LIST_OUT: Duration = Duration::from_secs(600);
/// What the other side sent before it changed to a newer connection arrives within this. Chosen.
const REPLACED: Duration = Duration::from_secs(5);
const PEER_IDLE: Duration = Duration::from_secs(limits::PEER_IDLE_S);
const HANDSHAKE: Duration = Duration::from_secs(limits::HANDSHAKE_S);

/// For the other machines.
#[derive(Debug, PartialEq, Eq)]
pub enum ConnectionsEvent {
    /// A user says something.
    Peer {
        /// Who: a claim.
        user: Username,
        /// What.
        message: PeerMessage,
    },
    /// Somebody wants to send us a file. Answer with `FileAction::Receive` or with `Connections::close`; the
    /// connection is forgotten here.
    FileToken {
        /// Who: a claim.
        user: Username,
        /// Where.
        conn: ConnId,
        /// As in their TransferRequest.
        token: Token,
    },
    /// A file connection stands and is adopted as `FileOut`; it is forgotten here.
    FileOpened {
        /// The upload.
        transfer: TransferId,
        /// Where.
        conn: ConnId,
    },
    /// None could be made.
    FileFailed {
        /// The upload.
        transfer: TransferId,
        /// In one sentence.
        reason: String,
    },
    /// A message could not be delivered. Not told for `About::Nothing`.
    Unreachable {
        /// To whom.
        user: Username,
        /// On whose behalf.
        about: About,
        /// The server says they are offline (or do not exist).
        offline: bool,
        /// In one sentence.
        reason: String,
    },
    /// A distributed connection stands.
    DistributedUp {
        /// Where.
        conn: ConnId,
        /// With whom: a claim where incoming.
        user: Username,
        /// Of their own accord.
        incoming: bool,
    },
    /// On a distributed connection.
    Distributed {
        /// Where.
        conn: ConnId,
        /// What.
        message: DistributedMessage,
    },
    /// It is gone. Not told after our own `close`.
    DistributedDown {
        /// Which.
        conn: ConnId,
    },
    /// Somebody broke the protocol.
    Violation {
        /// Who, where known: a claim.
        user: Option<Username>,
        /// How.
        reason: String,
    },
}

#[derive(Debug)]
struct Conn {
    ip: Ipv4Addr,
    incoming: bool,
    /// Known from the dial, or from the first message.
    user: Option<Username>,
    stage: Stage,
    /// When it came to be.
    since: Duration,
    /// Last traffic.
    last: Duration,
    /// Not idle before this.
    busy_until: Duration,
    /// A newer connection of the same user delivers: this one goes soon.
    replaced: bool,
    /// The server told of the user coming or going, and they said nothing here since: it may be gone with them.
    stale: bool,
    /// Sent in a doubtful moment, and nothing came back yet.
    unheard: Vec<Unheard>,
}

impl Conn {
    fn new(ip: Ipv4Addr, incoming: bool, stage: Stage, now: Now) -> Self {
        Self {
            ip,
            incoming,
            user: None,
            stage,
            since: now.mono,
            last: now.mono,
            busy_until: Duration::ZERO,
            replaced: false,
            stale: false,
            unheard: Vec::new(),
        }
    }
}

#[derive(Debug)]
enum Stage {
    Unfinished,
    Dialling(Why),
    Peer,
    FileIn,
    Distributed,
}

/// See the module's text.
#[derive(Debug)]
pub struct Connections {
    chance: Chance,
    own: Username,
    logged_in: bool,
    /// The server is at a non-global address.
    server_near: bool,
    private_ranges: Vec<(Ipv4Addr, u8)>,
    next_conn: u64,
    conns: BTreeMap<ConnId, Conn>,
    reach: BTreeMap<Username, Reach>,
    /// Share lists that may come, and until when.
    lists: BTreeMap<Username, Duration>,
    attempts: BTreeMap<Token, Attempt>,
    addresses: BTreeMap<Username, (SocketAddrV4, Duration)>,
    /// Dials that somebody waits for.
    urgent: VecDeque<Call>,
    /// Answers to searches, and what others ask for.
    later: VecDeque<Call>,
    allowance: Allowance,
    strikes: Strikes,
    events: VecDeque<ConnectionsEvent>,
}

impl Connections {
    /// `chance` is for connect tokens.
    pub fn new(chance: Chance) -> Self {
        Self {
            chance,
            own: Username::default(),
            logged_in: false,
            server_near: false,
            private_ranges: Vec::new(),
            next_conn: DIALLED_FIRST,
            conns: BTreeMap::new(),
            reach: BTreeMap::new(),
            lists: BTreeMap::new(),
            attempts: BTreeMap::new(),
            addresses: BTreeMap::new(),
            urgent: VecDeque::new(),
            later: VecDeque::new(),
            allowance: Allowance::default(),
            strikes: Strikes::default(),
            events: VecDeque::new(),
        }
    }

    /// Which non-global addresses may be dialled.
    pub fn on_settings(&mut self, settings: &Settings) {
        self.private_ranges.clone_from(&settings.private_ranges);
    }

    /// The server's address: with a server on a private network, private addresses are dialled.
    pub fn on_server(&mut self, at: SocketAddrV4) {
        self.server_near = !address::is_global(*at.ip());
    }

    /// We are on the network under this name.
    pub fn on_logged_in(&mut self, own: &Username) {
        self.own = own.clone();
        self.logged_in = true;
    }

    /// We are not. Address look-ups fail; connections that exist, or are being dialled, live on.
    pub fn on_logged_out(&mut self, now: Now, out: &mut Effects) {
        self.logged_in = false;
        self.addresses.clear();
        self.later.retain(|call| matches!(call, Call::Attempt(_)));
        for token in self.looking(None) {
            self.fail(token, false, "not logged in", out);
        }
        self.pump(now, out);
    }

    /// The server tells of a user coming or going: they may be elsewhere now, and what stands between us may be about to
    /// close.
    pub fn on_user_status(&mut self, user: &Username) {
        self.addresses.remove(user);
        for id in self.reach.get(user).map_or(&[][..], |reach| &reach.conns) {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.stale = true;
            }
        }
    }

    /// A message for a user: over the connection they last spoke on, or as soon as there is one.
    pub fn send(&mut self, user: &Username, message: PeerMessage, about: About, now: Now, out: &mut Effects) {
        self.deliver(user, Waiting::Message(message), about, now, out);
    }

    /// Asks for a user's share list and lets it in.
    pub fn expect_share_list(&mut self, user: &Username, about: About, now: Now, out: &mut Effects) {
        self.deliver(user, Waiting::ShareList, about, now, out);
    }

    /// Streams our share list to a user who asked. Nothing happens if they are gone: they will ask again.
    pub fn share_list_to(&mut self, user: &Username, now: Now, out: &mut Effects) {
        let Some(id) = self.reach.get(user).and_then(Reach::target) else { return };
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.busy_until = now.in_(SHARE_LIST_OUT);
        }
        out.net(NetAction::SendShareList(id));
    }

    /// Opens a file connection for an upload, at the address the server gives and nowhere else.
    pub fn open_file(&mut self, user: &Username, transfer: TransferId, now: Now, out: &mut Effects) {
        if let Err(reason) = self.start(user, Goal::File(transfer), None, now, out) {
            self.events.push_back(ConnectionsEvent::FileFailed { transfer, reason });
        }
        self.pump(now, out);
    }

    /// Opens a distributed connection to a possible parent. Silent when it fails.
    pub fn open_distributed(&mut self, user: &Username, at: SocketAddrV4, now: Now, out: &mut Effects) {
        // Nobody waits for the reason: `Tree` gives up on its own.
        let _ = self.start(user, Goal::Distributed, Some(at), now, out);
        self.pump(now, out);
    }

    /// Closes a connection, known here or handed on to a transfer.
    pub fn close(&mut self, conn: ConnId, now: Now, out: &mut Effects) {
        self.hang(conn, out);
        self.pump(now, out);
    }

    /// The server says something. Looks at addresses, and at who wants to be called.
    pub fn on_message(&mut self, message: &FromServer, now: Now, out: &mut Effects) {
        match message {
            FromServer::GetPeerAddress { user, ip, port, .. } => {
                self.on_address(&Username::new(user.as_str()), *ip, *port, now, out);
            }
            FromServer::GetUserStatus { user, status: UserStatus::Offline, .. } => {
                self.addresses.remove(&Username::new(user.as_str()));
            }
            FromServer::ConnectToPeer { user, kind, ip, port, token, .. } => {
                let at = u16::try_from(*port).ok().map(|port| SocketAddrV4::new(*ip, port));
                self.on_asked(Username::new(user.as_str()), *kind, *token, at, now, out);
            }
            FromServer::CantConnectToPeer { token } => self.on_indirect_failed(*token, out),
            _ => {}
        }
        self.pump(now, out);
    }

    /// Something happened on a connection.
    pub fn on_conn(&mut self, id: ConnId, event: ConnEvent, now: Now, out: &mut Effects) {
        match event {
            ConnEvent::Accepted { from } => self.on_accepted(id, *from.ip(), now, out),
            ConnEvent::Dialled => self.on_dialled(id, now, out),
            ConnEvent::DialFailed { .. } => {
                if let Some(conn) = self.remove(id) {
                    self.on_lost(conn, out);
                }
            }
            ConnEvent::Init(init) => self.on_init(id, init, now, out),
            ConnEvent::Peer(message) => self.on_peer(id, message, now),
            ConnEvent::Distributed(message) => {
                if self.conns.get(&id).is_some_and(|conn| matches!(conn.stage, Stage::Distributed)) {
                    self.events.push_back(ConnectionsEvent::Distributed { conn: id, message });
                }
            }
            ConnEvent::FileToken(token) => {
                if self.conns.get(&id).is_some_and(|conn| matches!(conn.stage, Stage::FileIn))
                    && let Some(user) = self.conns.remove(&id).and_then(|conn| conn.user)
                {
                    self.heard(&user);
                    self.events.push_back(ConnectionsEvent::FileToken { user, conn: id, token });
                }
            }
            ConnEvent::Closed { reason, violation } => {
                // Connections handed on to a transfer are not ours any more; their end is the transfer's.
                if let Some(mut conn) = self.remove(id) {
                    if violation {
                        self.strikes.strike(conn.ip, now.mono);
                        self.events.push_back(ConnectionsEvent::Violation { user: conn.user.clone(), reason });
                    }
                    if matches!(conn.stage, Stage::Distributed) {
                        self.events.push_back(ConnectionsEvent::DistributedDown { conn: id });
                    }
                    if let Some(user) = conn.user.clone().filter(|_| !violation) {
                        self.redeliver(&user, std::mem::take(&mut conn.unheard), now, out);
                    }
                    self.on_lost(conn, out);
                }
            }
        }
        self.pump(now, out);
    }

    /// The deadline passed.
    pub fn on_timeout(&mut self, now: Now, out: &mut Effects) {
        self.lists.retain(|_, until| *until > now.mono);
        let due: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| self.conn_due(conn).is_some_and(|due| due <= now.mono))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            out.net(NetAction::Close(id));
            if let Some(conn) = self.remove(id) {
                self.on_lost(conn, out);
            }
        }
        self.expire_attempts(now, out);
        self.pump(now, out);
    }

    /// When `on_timeout` is due.
    pub fn next_timeout(&self) -> Option<Duration> {
        let conns = self.conns.values().filter_map(|conn| self.conn_due(conn));
        conns.chain(self.lists.values().copied()).chain(self.attempts_due()).min()
    }

    /// The oldest event not yet taken.
    pub fn pop_event(&mut self) -> Option<ConnectionsEvent> {
        self.events.pop_front()
    }

    /// How many connections there are, file transfers aside.
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    fn conn_due(&self, conn: &Conn) -> Option<Duration> {
        match conn.stage {
            Stage::Unfinished => Some(conn.since.saturating_add(HANDSHAKE).saturating_add(GRACE)),
            Stage::Dialling(_) => Some(conn.since.saturating_add(attempts::DIAL).saturating_add(GRACE)),
            Stage::Peer => {
                let idle = if conn.replaced { REPLACED } else { PEER_IDLE };
                Some(conn.last.saturating_add(idle).max(self.busy_until(conn)))
            }
            Stage::FileIn => Some(conn.since.saturating_add(TOKEN)),
            Stage::Distributed => None,
        }
    }

    /// Not idle before this: a share list is under way, ours or theirs.
    fn busy_until(&self, conn: &Conn) -> Duration {
        let list = conn.user.as_ref().and_then(|user| self.lists.get(user)).copied().unwrap_or_default();
        conn.busy_until.max(list)
    }

    fn on_accepted(&mut self, id: ConnId, ip: Ipv4Addr, now: Now, out: &mut Effects) {
        if self.conns.contains_key(&id) {
            return;
        }
        let unfinished = self.conns.values().filter(|conn| matches!(conn.stage, Stage::Unfinished)).count();
        let there = self.conns.values().filter(|conn| conn.incoming && conn.ip == ip).count();
        let full = self.conns.len() >= limits::USER_CONNECTIONS
            || unfinished >= limits::UNFINISHED_CONNECTIONS
            || (there >= limits::CONNECTIONS_PER_ADDRESS && !ip.is_loopback());
        if full || self.strikes.closed(ip, now.mono) {
            out.net(NetAction::Close(id));
            return;
        }
        let conn = Conn::new(ip, true, Stage::Unfinished, now);
        self.conns.insert(id, conn);
    }

    fn on_init(&mut self, id: ConnId, init: Init, now: Now, out: &mut Effects) {
        if !self.conns.get(&id).is_some_and(|conn| matches!(conn.stage, Stage::Unfinished)) {
            return;
        }
        match init {
            Init::PeerInit { user, kind, token: _ } => {
                let user = Username::new(user.as_str());
                let length = user.as_str().len();
                // Nobody else is us; a caller who says so would get messages meant for nobody.
                if length == 0 || length > limits::USERNAME_LEN || user == self.own {
                    self.hang(id, out);
                } else {
                    self.adopt(id, user, kind, now, out);
                }
            }
            Init::PierceFireWall { token } => self.on_pierced(id, token, now, out),
        }
    }

    /// A connection that belongs to a user from now on, made by them or at their wish.
    fn adopt(&mut self, id: ConnId, user: Username, kind: ConnectionType, now: Now, out: &mut Effects) {
        match kind {
            ConnectionType::Peer => self.adopt_peer(id, &user, now, out),
            ConnectionType::File => {
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.stage = Stage::FileIn;
                    conn.since = now.mono;
                    conn.user = Some(user);
                    out.net(NetAction::Adopt(id, Purpose::FileIn));
                }
            }
            ConnectionType::Distributed => self.adopt_distributed(id, user, true, now, out),
        }
    }

    fn adopt_distributed(&mut self, id: ConnId, user: Username, incoming: bool, now: Now, out: &mut Effects) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.stage = Stage::Distributed;
            conn.since = now.mono;
            conn.user = Some(user.clone());
            out.net(NetAction::Adopt(id, Purpose::Distributed));
            self.events.push_back(ConnectionsEvent::DistributedUp { conn: id, user, incoming });
        }
    }

    /// Closes it of our own accord, without anybody's loss.
    fn hang(&mut self, id: ConnId, out: &mut Effects) {
        out.net(NetAction::Close(id));
        self.remove(id);
    }

    /// Forgets a connection here and with its user.
    fn remove(&mut self, id: ConnId) -> Option<Conn> {
        let conn = self.conns.remove(&id)?;
        if let (Stage::Peer, Some(user)) = (&conn.stage, &conn.user)
            && let Some(reach) = self.reach.get_mut(user)
        {
            reach.conns.retain(|&other| other != id);
            reach.spoke = reach.spoke.filter(|&other| other != id);
            if reach.conns.is_empty() && reach.attempt.is_none() {
                self.reach.remove(user);
            }
        }
        Some(conn)
    }
}

#[cfg(test)]
mod tests;
