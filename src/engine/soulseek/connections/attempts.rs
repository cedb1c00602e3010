//! The race for a connection: address look-up, direct dial and the call through the server, and the queue of dials.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::address::dialable;
use super::{Conn, Connections, ConnectionsEvent, Stage};
use crate::engine::soulseek::effect::Effects;
use crate::engine::soulseek::io::{NetAction, Purpose};
use crate::engine::soulseek::peer::Init;
use crate::engine::soulseek::server::{ConnectionType, ToServer};
use crate::model::id::{ConnId, Token, TransferId, Username};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::time::Now;

/// One dial, as the shell counts.
pub(super) const DIAL: Duration = Duration::from_secs(limits::DIAL_S);
/// For the server's answer about an address. Chosen.
const LOOK_UP: Duration = Duration::from_secs(20);
/// A dial waits so long for its turn. Chosen: the queue of others' wishes passes in 13 s.
const TURN: Duration = Duration::from_secs(30);
/// How long an address is believed (Nicotine+).
const ADDRESS: Duration = Duration::from_secs(30 * 60);
const INDIRECT: Duration = Duration::from_secs(limits::INDIRECT_S);

/// What a race is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Peer {
        /// Somebody waits for it: before answers to searches.
        urgent: bool,
    },
    File(TransferId),
    Distributed,
}

impl Goal {
    fn kind(self) -> ConnectionType {
        match self {
            Self::Peer { .. } => ConnectionType::Peer,
            Self::File(_) => ConnectionType::File,
            Self::Distributed => ConnectionType::Distributed,
        }
    }
}

/// One race, known to the server by its token.
#[derive(Debug)]
pub(super) struct Attempt {
    user: Username,
    goal: Goal,
    direct: Direct,
    /// The other side's call may come until then. `None`: not asked for, failed or too late.
    indirect: Option<Duration>,
    /// There is a connection; the entry stays for the other side's call, which may replace the first (see the module's
    /// text).
    won: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Direct {
    /// Waits for the address.
    LookingUp { until: Duration },
    /// Waits for its turn.
    Queued { to: SocketAddrV4, until: Duration },
    /// On its way.
    Dialling(ConnId),
    /// Succeeded, failed, called off or not allowed.
    Over,
}

/// Why a connection is being dialled.
#[derive(Debug)]
pub(super) enum Why {
    /// Our own race.
    Attempt(Token),
    /// Somebody asked the server for it.
    Asked(Asked),
}

/// A dial that waits for its turn.
#[derive(Debug)]
pub(super) enum Call {
    Attempt(Token),
    Asked(Asked, SocketAddrV4, Duration),
}

/// What somebody asked for, to be repeated to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    user: Username,
    kind: ConnectionType,
    token: Token,
}

impl Connections {
    /// Begins a race. With `at` the address is known, else it is looked up.
    pub(super) fn start(
        &mut self,
        user: &Username,
        goal: Goal,
        at: Option<SocketAddrV4>,
        now: Now,
        out: &mut Effects,
    ) -> Result<Token, String> {
        if !self.logged_in {
            return Err("not logged in".to_owned());
        }
        if *user == self.own {
            return Err("that is this program itself".to_owned());
        }
        if self.attempts.len() >= limits::ATTEMPTS {
            return Err("too many users are being called".to_owned());
        }
        let token = self.fresh_token();
        let looking = !self.looking(Some(user)).is_empty();
        let direct = Direct::LookingUp { until: now.in_(LOOK_UP) };
        self.attempts.insert(token, Attempt { user: user.clone(), goal, direct, indirect: None, won: false });
        let known = self.addresses.get(user).filter(|(_, since)| now.mono.saturating_sub(*since) < ADDRESS);
        if let Some(at) = at.or(known.map(|(at, _)| *at)) {
            self.call(token, at, now, out);
        } else if !looking {
            out.server(ToServer::GetPeerAddress { user: WireText::from(user.as_str()) });
        }
        Ok(token)
    }

    fn fresh_token(&mut self) -> Token {
        loop {
            let token = Token(u32::try_from(self.chance.bits() >> 32).unwrap_or(0));
            // There are far fewer attempts than tokens.
            if !self.attempts.contains_key(&token) {
                return token;
            }
        }
    }

    /// Races that wait for an address: one user's, or all.
    pub(super) fn looking(&self, user: Option<&Username>) -> Vec<Token> {
        self.attempts
            .iter()
            .filter(|(_, attempt)| matches!(attempt.direct, Direct::LookingUp { .. }))
            .filter(|(_, attempt)| user.is_none_or(|user| attempt.user == *user))
            .map(|(&token, _)| token)
            .collect()
    }

    /// The address is known: both ways at once.
    fn call(&mut self, token: Token, to: SocketAddrV4, now: Now, out: &mut Effects) {
        let allowed = dialable(to, self.server_near, &self.private_ranges);
        let Some(attempt) = self.attempts.get_mut(&token) else { return };
        attempt.indirect = Some(now.in_(INDIRECT));
        out.server(ToServer::ConnectToPeer {
            token,
            user: WireText::from(attempt.user.as_str()),
            kind: attempt.goal.kind(),
        });
        if allowed {
            attempt.direct = Direct::Queued { to, until: now.in_(TURN) };
            let queue = match attempt.goal {
                Goal::Peer { urgent: false } => &mut self.later,
                Goal::Peer { urgent: true } | Goal::File(_) | Goal::Distributed => &mut self.urgent,
            };
            queue.push_back(Call::Attempt(token));
        } else {
            attempt.direct = Direct::Over;
        }
    }

    pub(super) fn on_address(&mut self, user: &Username, ip: Ipv4Addr, port: u32, now: Now, out: &mut Effects) {
        let waiting = self.looking(Some(user));
        if ip.is_unspecified() {
            self.addresses.remove(user);
            for token in waiting {
                self.fail(token, true, &format!("{user} is offline"), out);
            }
            return;
        }
        // Port 0: no listening port; they can still call us.
        let at = SocketAddrV4::new(ip, u16::try_from(port).unwrap_or(0));
        if self.addresses.len() >= limits::ADDRESSES && !self.addresses.contains_key(user) {
            let oldest = self.addresses.iter().min_by_key(|(_, (_, since))| *since).map(|(user, _)| user.clone());
            if let Some(oldest) = oldest {
                self.addresses.remove(&oldest);
            }
        }
        self.addresses.insert(user.clone(), (at, now.mono));
        for token in waiting {
            self.call(token, at, now, out);
        }
    }

    /// Somebody asked the server to make us call them.
    pub(super) fn on_asked(
        &mut self,
        user: Username,
        kind: ConnectionType,
        token: Token,
        at: Option<SocketAddrV4>,
        now: Now,
        out: &mut Effects,
    ) {
        let asked = Asked { user, kind, token };
        // They race as we do: when their own call is here already, a second one would make some clients close it. They
        // are told so: Nicotine+ 3.3.11 holds messages back for as long as it waits for an answer to its token.
        let here = self.conns.values().any(|conn| {
            let same = match kind {
                ConnectionType::Peer => matches!(conn.stage, Stage::Peer),
                ConnectionType::Distributed => matches!(conn.stage, Stage::Distributed),
                ConnectionType::File => false,
            };
            let fresh = now.mono.saturating_sub(conn.since) < INDIRECT;
            same && fresh && conn.incoming && conn.user.as_ref() == Some(&asked.user)
        });
        let queued = self.later.iter().any(|call| matches!(call, Call::Asked(other, ..) if *other == asked));
        let under_way = self
            .conns
            .values()
            .any(|conn| matches!(&conn.stage, Stage::Dialling(Why::Asked(other)) if *other == asked));
        if queued || under_way || asked.user == self.own {
            return;
        }
        if here {
            return refuse(&asked, out);
        }
        let waiting = self.later.iter().filter(|call| matches!(call, Call::Asked(..))).count();
        match at.filter(|&at| dialable(at, self.server_near, &self.private_ranges)) {
            Some(at) if waiting < limits::ASKED_DIALS => {
                self.later.push_back(Call::Asked(asked, at, now.in_(TURN)));
            }
            _ => refuse(&asked, out),
        }
    }

    /// The server says the other side could not call us.
    pub(super) fn on_indirect_failed(&mut self, token: Token, out: &mut Effects) {
        if let Some(attempt) = self.attempts.get_mut(&token) {
            attempt.indirect = None;
            self.check(token, out);
        }
    }

    /// Begins dials as long as the allowance and the number of connections permit.
    pub(super) fn pump(&mut self, now: Now, out: &mut Effects) {
        while self.conns.len() < limits::USER_CONNECTIONS {
            let queue = if self.urgent.is_empty() { &mut self.later } else { &mut self.urgent };
            if queue.is_empty() || !self.allowance.take(now.mono) {
                return;
            }
            let Some(call) = queue.pop_front() else { return };
            let id = ConnId(self.next_conn);
            self.next_conn = self.next_conn.saturating_add(1);
            let (to, user, why) = match call {
                Call::Attempt(token) => {
                    let Some(attempt) = self.attempts.get_mut(&token) else { continue };
                    let Direct::Queued { to, .. } = attempt.direct else { continue };
                    attempt.direct = Direct::Dialling(id);
                    (to, attempt.user.clone(), Why::Attempt(token))
                }
                Call::Asked(asked, to, _) => (to, asked.user.clone(), Why::Asked(asked)),
            };
            let conn = Conn::new(*to.ip(), false, Stage::Dialling(why), now);
            self.conns.insert(id, Conn { user: Some(user), ..conn });
            out.net(NetAction::Dial { conn: id, to });
        }
    }

    /// Our dial succeeded.
    pub(super) fn on_dialled(&mut self, id: ConnId, now: Now, out: &mut Effects) {
        let Some(conn) = self.conns.get_mut(&id) else {
            // Called off while it succeeded.
            out.net(NetAction::Close(id));
            return;
        };
        if !matches!(conn.stage, Stage::Dialling(_)) {
            return;
        }
        let why = std::mem::replace(&mut conn.stage, Stage::Unfinished);
        match why {
            Stage::Dialling(Why::Asked(Asked { user, kind, token })) => {
                // Theirs as much as if they had called.
                conn.incoming = true;
                out.net(NetAction::SendInit(id, Init::PierceFireWall { token }));
                self.adopt(id, user, kind, now, out);
            }
            Stage::Dialling(Why::Attempt(token)) => {
                let Some(attempt) = self.attempts.get_mut(&token) else {
                    self.hang(id, out);
                    return;
                };
                attempt.direct = Direct::Over;
                let user = WireText::from(self.own.as_str());
                let kind = attempt.goal.kind();
                out.net(NetAction::SendInit(id, Init::PeerInit { user, kind, token: Token(0) }));
                self.win(id, token, now, out);
            }
            Stage::Unfinished | Stage::Peer | Stage::FileIn | Stage::Distributed => {}
        }
    }

    /// The other side called, as we asked the server.
    pub(super) fn on_pierced(&mut self, id: ConnId, token: Token, now: Now, out: &mut Effects) {
        if let Some(attempt) = self.attempts.get_mut(&token) {
            attempt.indirect = None;
            self.win(id, token, now, out);
        } else {
            self.hang(id, out);
        }
    }

    /// A connection of this race stands.
    fn win(&mut self, id: ConnId, token: Token, now: Now, out: &mut Effects) {
        let Some((user, goal)) = self.attempts.get(&token).map(|attempt| (attempt.user.clone(), attempt.goal)) else {
            return;
        };
        self.settle(token, out);
        match goal {
            Goal::Peer { .. } => self.adopt_peer(id, &user, now, out),
            Goal::Distributed => self.adopt_distributed(id, user, false, now, out),
            Goal::File(transfer) => {
                // The loser finds no token and is closed.
                self.attempts.remove(&token);
                self.conns.remove(&id);
                out.net(NetAction::Adopt(id, Purpose::FileOut));
                self.events.push_back(ConnectionsEvent::FileOpened { transfer, conn: id });
            }
        }
    }

    /// The race has its connection: calls a dial off that has not succeeded, and leaves only what may still come.
    pub(super) fn settle(&mut self, token: Token, out: &mut Effects) {
        let Some(attempt) = self.attempts.get_mut(&token) else { return };
        attempt.won = true;
        let direct = std::mem::replace(&mut attempt.direct, Direct::Over);
        if attempt.indirect.is_none() {
            self.attempts.remove(&token);
        }
        self.call_off(token, &direct, out);
    }

    fn call_off(&mut self, token: Token, direct: &Direct, out: &mut Effects) {
        match *direct {
            Direct::Dialling(conn) => self.hang(conn, out),
            Direct::Queued { .. } => {
                let other = |call: &Call| !matches!(call, Call::Attempt(queued) if *queued == token);
                self.urgent.retain(other);
                self.later.retain(other);
            }
            Direct::LookingUp { .. } | Direct::Over => {}
        }
    }

    /// A connection ended before or after its use: what its dial was for may have failed by that.
    pub(super) fn on_lost(&mut self, conn: Conn, out: &mut Effects) {
        match conn.stage {
            Stage::Dialling(Why::Asked(asked)) => refuse(&asked, out),
            Stage::Dialling(Why::Attempt(token)) => {
                if let Some(attempt) = self.attempts.get_mut(&token) {
                    attempt.direct = Direct::Over;
                    self.addresses.remove(&attempt.user);
                    self.check(token, out);
                }
            }
            Stage::Unfinished | Stage::Peer | Stage::FileIn | Stage::Distributed => {}
        }
    }

    /// Ends a race when nothing can come of it any more.
    fn check(&mut self, token: Token, out: &mut Effects) {
        let Some(attempt) = self.attempts.get(&token) else { return };
        if attempt.indirect.is_some() || attempt.direct != Direct::Over {
            return;
        }
        if attempt.won {
            self.attempts.remove(&token);
        } else {
            let user = attempt.user.clone();
            self.addresses.remove(&user);
            self.fail(token, false, &format!("{user} can be reached neither directly nor through the server"), out);
        }
    }

    /// A race is lost.
    pub(super) fn fail(&mut self, token: Token, offline: bool, reason: &str, out: &mut Effects) {
        let Some(attempt) = self.attempts.remove(&token) else { return };
        self.call_off(token, &attempt.direct, out);
        match attempt.goal {
            Goal::File(transfer) => {
                self.events.push_back(ConnectionsEvent::FileFailed { transfer, reason: reason.to_owned() });
            }
            Goal::Distributed => {}
            Goal::Peer { .. } => {
                let Some(reach) = self.reach.get_mut(&attempt.user) else { return };
                reach.attempt = None;
                let waiting = std::mem::take(&mut reach.waiting);
                if reach.conns.is_empty() {
                    self.reach.remove(&attempt.user);
                }
                for (_, about) in waiting {
                    self.undelivered(&attempt.user, about, offline, reason);
                }
            }
        }
    }

    pub(super) fn expire_attempts(&mut self, now: Now, out: &mut Effects) {
        let mut refused = Vec::new();
        self.later.retain(|call| match call {
            Call::Asked(asked, _, until) if *until <= now.mono => {
                refused.push(asked.clone());
                false
            }
            Call::Asked(..) | Call::Attempt(_) => true,
        });
        for asked in refused {
            refuse(&asked, out);
        }
        let due: Vec<Token> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| attempt.due().is_some_and(|due| due <= now.mono))
            .map(|(&token, _)| token)
            .collect();
        for token in due {
            let Some(attempt) = self.attempts.get_mut(&token) else { continue };
            match attempt.direct {
                Direct::LookingUp { .. } => {
                    let reason = format!("the server did not say where {} is", attempt.user);
                    self.fail(token, false, &reason, out);
                    continue;
                }
                Direct::Queued { until, .. } if until <= now.mono => {
                    let direct = std::mem::replace(&mut attempt.direct, Direct::Over);
                    self.call_off(token, &direct, out);
                }
                Direct::Queued { .. } | Direct::Dialling(_) | Direct::Over => {}
            }
            if let Some(attempt) = self.attempts.get_mut(&token) {
                attempt.indirect = attempt.indirect.filter(|&until| until > now.mono);
            }
            self.check(token, out);
        }
    }

    pub(super) fn attempts_due(&self) -> impl Iterator<Item = Duration> + '_ {
        let room = self.conns.len() < limits::USER_CONNECTIONS;
        let waits = !self.urgent.is_empty() || !self.later.is_empty();
        let turn = (room && waits).then(|| self.allowance.next());
        let asked = self.later.iter().filter_map(|call| match call {
            Call::Asked(_, _, until) => Some(*until),
            Call::Attempt(_) => None,
        });
        self.attempts.values().filter_map(Attempt::due).chain(asked).chain(turn)
    }
}

impl Attempt {
    fn due(&self) -> Option<Duration> {
        let direct = match self.direct {
            Direct::LookingUp { until } | Direct::Queued { until, .. } => Some(until),
            // The connection has the deadline.
            Direct::Dialling(_) | Direct::Over => None,
        };
        [direct, self.indirect].into_iter().flatten().min()
    }
}

/// Tells whoever asked that we could not call them.
fn refuse(asked: &Asked, out: &mut Effects) {
    let user = WireText::from(asked.user.as_str());
    out.server(ToServer::CantConnectToPeer { token: asked.token, user });
}
