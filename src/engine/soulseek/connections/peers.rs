//! Peer messages: which connection carries one, what waits until there is one, and which of two goes.

use std::collections::VecDeque;
use std::time::Duration;

use super::attempts::Goal;
use super::{Connections, ConnectionsEvent, SHARE_LIST, Stage};
use crate::engine::soulseek::effect::{About, Effects};
use crate::engine::soulseek::io::{NetAction, Purpose};
use crate::engine::soulseek::peer::PeerMessage;
use crate::model::id::{ConnId, Token, Username};
use crate::model::limits;
use crate::model::time::Now;

/// A connection silent for longer may be closed by the other side as idle while a message is on its way. Chosen.
const SILENT: Duration = Duration::from_secs(5);
/// News of that close come within this after the message was sent. Chosen: a slow round trip, with a lost packet.
const NEWS: Duration = Duration::from_secs(10);

/// How a user is reached with peer messages.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Peer connections, oldest first.
    pub(super) conns: Vec<ConnId>,
    /// The one they last spoke on.
    pub(super) spoke: Option<ConnId>,
    /// Messages that wait; never any while there is a connection, and never any without an attempt.
    pub(super) waiting: VecDeque<(Waiting, About)>,
    /// The race under way.
    pub(super) attempt: Option<Token>,
}

impl Reach {
    /// Where a message goes: where they last spoke, else the newest, as others do.
    pub(super) fn target(&self) -> Option<ConnId> {
        self.spoke.or_else(|| self.conns.last().copied())
    }
}

#[derive(Clone, Debug)]
pub(super) enum Waiting {
    Message(PeerMessage),
    /// `GetSharedFileList`, with the reply let in.
    ShareList,
    /// One of these for the second time.
    Again(Box<Waiting>),
}

impl Waiting {
    /// Whether it may be kept for a second delivery, and there was none; on a stale connection even if there was one, for
    /// of several that a program left behind each may swallow it. Large answers are not: whoever asked is still talking.
    /// Nor is the answer to an offer: heard twice it makes Nicotine+ 3.3.11 open two file connections, and fail.
    fn kept(&self, stale: bool) -> bool {
        match self {
            Self::Again(item) => stale && item.kept(stale),
            Self::ShareList => true,
            Self::Message(message) => !matches!(
                message,
                PeerMessage::TransferResponse { .. }
                    | PeerMessage::FileSearchResponse(_)
                    | PeerMessage::FolderContentsResponse { .. }
                    | PeerMessage::UserInfoResponse(_)
            ),
        }
    }
}

/// Sent on a connection that the other side may have closed in the same moment: as idle, because there is another one
/// between us, as after a race that both of its connections won, or with the program itself.
#[derive(Debug)]
pub(super) struct Unheard {
    item: Waiting,
    about: About,
    /// When the connection still stands then, it arrived.
    until: Duration,
}

impl Connections {
    pub(super) fn adopt_peer(&mut self, id: ConnId, user: &Username, now: Now, out: &mut Effects) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.stage = Stage::Peer;
        conn.since = now.mono;
        conn.last = now.mono;
        conn.user = Some(user.clone());
        out.net(NetAction::Adopt(id, Purpose::Peer));
        if self.lists.contains_key(user) {
            out.net(NetAction::ExpectShareList(id, user.clone()));
        }
        let reach = self.reach.entry(user.clone()).or_default();
        reach.conns.push(id);
        let crowded = reach.conns.len() > limits::PEER_CONNECTIONS_PER_USER;
        let surplus = reach.conns.iter().copied().find(|&conn| crowded && Some(conn) != reach.spoke && conn != id);
        let attempt = reach.attempt.take();
        let waiting = std::mem::take(&mut reach.waiting);
        if let Some(token) = attempt {
            self.settle(token, out);
        }
        for (item, about) in waiting {
            self.send_on(id, user, item, about, now, out);
        }
        if let Some(surplus) = surplus {
            self.hang(surplus, out);
        }
        self.thin_out(id, now, out);
    }

    /// Holds the number of peer connections by closing the one idle longest, busy ones last.
    fn thin_out(&mut self, newest: ConnId, now: Now, out: &mut Effects) {
        let peers = || self.conns.iter().filter(|(_, conn)| matches!(conn.stage, Stage::Peer));
        if peers().count() <= limits::PEER_CONNECTIONS {
            return;
        }
        let idlest = peers()
            .filter(|&(&id, _)| id != newest)
            .min_by_key(|(_, conn)| (self.busy_until(conn) > now.mono, conn.last))
            .map(|(&id, _)| id);
        if let Some(idlest) = idlest {
            self.hang(idlest, out);
        }
    }

    pub(super) fn on_peer(&mut self, id: ConnId, message: PeerMessage, now: Now) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (Stage::Peer, Some(user)) = (&conn.stage, conn.user.clone()) else { return };
        conn.last = now.mono;
        conn.replaced = false;
        conn.stale = false;
        if matches!(message, PeerMessage::SharedFileList { .. }) {
            self.lists.remove(&user);
        }
        if let Some(reach) = self.reach.get_mut(&user) {
            reach.spoke = Some(id);
            for older in reach.conns.iter().take_while(|&&other| other != id) {
                if let Some(older) = self.conns.get_mut(older).filter(|older| !older.replaced) {
                    older.replaced = true;
                    older.last = now.mono;
                }
            }
        }
        self.heard(&user);
        self.events.push_back(ConnectionsEvent::Peer { user, message });
    }

    /// The user speaks, here or on another connection: what they were told before has arrived, or is answered already.
    pub(super) fn heard(&mut self, user: &Username) {
        for id in self.reach.get(user).map_or(&[][..], |reach| &reach.conns) {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.unheard = Vec::new();
            }
        }
    }

    /// A peer connection was closed by the other side: what was sent on it just now and may be lost is sent once more.
    pub(super) fn redeliver(&mut self, user: &Username, unheard: Vec<Unheard>, now: Now, out: &mut Effects) {
        for Unheard { item, about, .. } in unheard.into_iter().filter(|unheard| unheard.until > now.mono) {
            let again = if matches!(item, Waiting::Again(_)) { item } else { Waiting::Again(Box::new(item)) };
            self.deliver(user, again, about, now, out);
        }
    }

    pub(super) fn deliver(&mut self, user: &Username, item: Waiting, about: About, now: Now, out: &mut Effects) {
        if let Some(id) = self.reach.get(user).and_then(Reach::target) {
            self.send_on(id, user, item, about, now, out);
            return;
        }
        if let Err(reason) = self.wait_for(user, item, about, now, out) {
            self.undelivered(user, about, false, &reason);
        }
        self.pump(now, out);
    }

    /// Puts a message where it waits for a connection, and begins the race for one.
    fn wait_for(
        &mut self,
        user: &Username,
        item: Waiting,
        about: About,
        now: Now,
        out: &mut Effects,
    ) -> Result<(), String> {
        let is_reply = |item: &Waiting| matches!(item, Waiting::Message(PeerMessage::FileSearchResponse(_)));
        let waiting = self.reach.values().flat_map(|reach| &reach.waiting);
        if waiting.clone().count() >= limits::WAITING_MESSAGES
            || (is_reply(&item) && waiting.filter(|(item, _)| is_reply(item)).count() >= limits::WAITING_REPLIES)
        {
            return Err("too many messages wait for connections".to_owned());
        }
        let attempt = match self.reach.get(user).and_then(|reach| reach.attempt) {
            Some(attempt) => attempt,
            None if self.reach.values().filter(|reach| reach.attempt.is_some()).count() >= limits::WAITING_USERS => {
                return Err("too many users are being called".to_owned());
            }
            None => self.start(user, Goal::Peer { urgent: about != About::Nothing }, None, now, out)?,
        };
        let reach = self.reach.entry(user.clone()).or_default();
        reach.attempt = Some(attempt);
        reach.waiting.push_back((item, about));
        if reach.waiting.len() > limits::WAITING_PER_USER
            && let Some((_, about)) = reach.waiting.pop_front()
        {
            self.undelivered(user, about, false, "too many messages wait for this user");
        }
        Ok(())
    }

    fn send_on(&mut self, id: ConnId, user: &Username, item: Waiting, about: About, now: Now, out: &mut Effects) {
        let twins = self.reach.get(user).is_some_and(|reach| reach.conns.len() > 1);
        let kept: usize = self.conns.values().map(|conn| conn.unheard.len()).sum();
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.unheard.retain(|unheard| unheard.until > now.mono);
            let silent = now.mono.saturating_sub(conn.last) > SILENT || !conn.unheard.is_empty();
            let doubtful = silent || twins || conn.stale;
            let room = kept < limits::UNHEARD_MESSAGES && conn.unheard.len() < limits::WAITING_PER_USER;
            if doubtful && room && item.kept(conn.stale) {
                conn.unheard.push(Unheard { item: item.clone(), about, until: now.in_(NEWS) });
            }
            conn.last = now.mono;
        }
        self.say(id, user, item, now, out);
    }

    fn say(&mut self, id: ConnId, user: &Username, item: Waiting, now: Now, out: &mut Effects) {
        match item {
            Waiting::Again(item) => self.say(id, user, *item, now, out),
            Waiting::Message(message) => out.net(NetAction::SendPeer(id, message)),
            Waiting::ShareList => {
                self.lists.insert(user.clone(), now.in_(SHARE_LIST));
                // The reply may come on a twin of this connection.
                for &conn in self.reach.get(user).map_or(&[][..], |reach| &reach.conns) {
                    out.net(NetAction::ExpectShareList(conn, user.clone()));
                }
                out.net(NetAction::SendPeer(id, PeerMessage::GetSharedFileList));
            }
        }
    }

    pub(super) fn undelivered(&mut self, user: &Username, about: About, offline: bool, reason: &str) {
        if about != About::Nothing {
            let (user, reason) = (user.clone(), reason.to_owned());
            self.events.push_back(ConnectionsEvent::Unreachable { user, about, offline, reason });
        }
    }
}
