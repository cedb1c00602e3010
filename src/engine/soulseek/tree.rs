//! Our place in the distributed search network: which parent feeds us searches, and which children we feed.
//!
//! | State | Begins when | Searches come from |
//! |---|---|---|
//! | alone | login, loss of the parent, reset | nobody |
//! | leaf or node | a possible parent told its level, its root and a search (or the first two, and `GRACE` passed) | the parent |
//! | branch root | alone, and the server embeds a search | the server |
//!
//! Candidates that do not deliver within `CANDIDATE`, and a parent silent for `SILENCE`, are dropped. Children are
//! welcome while we have something to pass on and room, and searches are passed on as they came. Who answers a search
//! is not decided here; every search comes out as a [`TreeSearch`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

use super::Settings;
use super::distributed::{DistributedMessage, DistributedSearch};
use super::effect::{Effect, Effects};
use super::io::NetAction;
use super::server::{FromServer, PossibleParent, ToServer};
use crate::model::id::{ConnId, Token, Username};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::time::Now;
use crate::model::view::TreeView;

/// A possible parent that told level and root is taken without a search after this. Chosen: on a busy network a search
/// comes within a second; on a quiet one nobody should wait for it.
const GRACE: Duration = Duration::from_secs(5);
/// For a possible parent to be reached and to tell level and root; covers both ways of reaching it.
const CANDIDATE: Duration = Duration::from_secs(30);
/// A parent this long silent is dropped. Chosen: longer than any real network is quiet, and a quiet one may be so.
const SILENCE: Duration = Duration::from_secs(30 * 60);
/// Children are kept so long without a source. Chosen: a new parent is usually found within seconds.
const ORPHANS: Duration = Duration::from_secs(60);
/// A child's second connection replaces its first after this: it races as we do, and closes the one it does not want.
const TWIN: Duration = Duration::from_secs(30);
/// A parent that moved more often is dropped: each move is passed on to the server, which bans for many messages.
/// Chosen.
const MOVES: u32 = 30;
/// KiB/s, until the server says otherwise (aioslsk).
const MIN_SPEED: u32 = 1;
/// Until the server says otherwise (aioslsk).
const SPEED_RATIO: u32 = 50;
/// Code of a search, in a server's embedded message and on distributed connections.
const SEARCH: u8 = 3;

/// Somebody searches the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeSearch {
    /// Who.
    pub user: Username,
    /// To be repeated in the answer.
    pub token: Token,
    /// The words.
    pub query: String,
}

#[derive(Debug)]
struct Candidate {
    user: Username,
    since: Duration,
    level: Option<u32>,
    root: Option<WireText>,
    /// Since when level and root are known.
    ready: Option<Duration>,
}

#[derive(Debug)]
struct Parent {
    conn: ConnId,
    user: Username,
    level: u32,
    root: WireText,
    last: Duration,
    /// How often it moved.
    moves: u32,
}

#[derive(Debug)]
struct Child {
    user: Username,
    since: Duration,
}

/// See the module's text.
#[derive(Debug)]
pub struct Tree {
    own: Username,
    logged_in: bool,
    /// Possible parents being called, and until when.
    called: BTreeMap<Username, Duration>,
    candidates: BTreeMap<ConnId, Candidate>,
    parent: Option<Parent>,
    /// The server feeds us.
    branch_root: bool,
    children: BTreeMap<ConnId, Child>,
    /// Children without a source are let go then.
    orphans: Option<Duration>,
    /// Bytes per second, as the server averages it.
    speed: u32,
    min_speed: u32,
    ratio: u32,
    children_max: u32,
    upload_limit: Option<u64>,
    /// What the server was last told.
    accepts: bool,
    searches: VecDeque<TreeSearch>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// Alone.
    pub fn new() -> Self {
        Self {
            own: Username::default(),
            logged_in: false,
            called: BTreeMap::new(),
            candidates: BTreeMap::new(),
            parent: None,
            branch_root: false,
            children: BTreeMap::new(),
            orphans: None,
            speed: 0,
            min_speed: MIN_SPEED,
            ratio: SPEED_RATIO,
            children_max: 0,
            upload_limit: None,
            accepts: false,
            searches: VecDeque::new(),
        }
    }

    /// The owner may allow more or fewer children.
    pub fn on_settings(&mut self, settings: &Settings, out: &mut Effects) {
        self.children_max = settings.children_max;
        self.upload_limit = settings.upload_limit;
        let allowed = usize::try_from(self.children_max).unwrap_or(usize::MAX);
        while self.children.len() > allowed {
            let newest = self.children.iter().max_by_key(|(id, child)| (child.since, **id)).map(|(&id, _)| id);
            let Some(newest) = newest else { break };
            self.children.remove(&newest);
            out.push(Effect::Hang(newest));
        }
        self.tell_accepts(out);
    }

    /// On the network: `Session` has told the server that we are alone and take no children.
    pub fn on_logged_in(&mut self, own: &Username) {
        self.own = own.clone();
        self.logged_in = true;
        self.accepts = false;
        self.min_speed = MIN_SPEED;
        self.ratio = SPEED_RATIO;
    }

    /// Off the network: everything here hangs on the server.
    pub fn on_logged_out(&mut self, out: &mut Effects) {
        self.clear(out);
        self.logged_in = false;
        self.accepts = false;
        self.speed = 0;
    }

    /// The server says something. Looks at possible parents, embedded searches, resets, and the figures that bound the
    /// number of children.
    pub fn on_server(&mut self, message: &FromServer, now: Now, out: &mut Effects) {
        if !self.logged_in {
            return;
        }
        match message {
            FromServer::PossibleParents { parents } => self.on_possible_parents(parents, now, out),
            FromServer::EmbeddedMessage { code, body } => self.on_embedded_by_server(*code, body, out),
            FromServer::ResetDistributed => {
                self.clear(out);
                self.tell_parent(out);
            }
            FromServer::ParentMinSpeed { speed } => self.min_speed = *speed,
            FromServer::ParentSpeedRatio { ratio } => self.ratio = *ratio,
            FromServer::GetUserStats { user, stats } | FromServer::WatchUser { user, found: Some((_, stats)), .. }
                if user.as_str() == self.own.as_str() =>
            {
                self.speed = stats.average_speed;
            }
            _ => return,
        }
        self.tell_accepts(out);
    }

    /// A distributed connection stands: with a possible parent we called, or with somebody who wants to be a child.
    pub fn on_up(&mut self, conn: ConnId, user: Username, incoming: bool, now: Now, out: &mut Effects) {
        if incoming {
            self.on_child(conn, user, now, out);
        } else if self.logged_in && self.parent.is_none() && self.called.contains_key(&user) {
            // Twice the same user, when both ways of reaching it succeed: the first to deliver is taken.
            let candidate = Candidate { user, since: now.mono, level: None, root: None, ready: None };
            self.candidates.insert(conn, candidate);
        } else {
            out.push(Effect::Hang(conn));
        }
    }

    /// A parent, candidate or child says something.
    pub fn on_message(&mut self, conn: ConnId, message: DistributedMessage, now: Now, out: &mut Effects) {
        if self.parent.as_ref().is_some_and(|parent| parent.conn == conn) {
            self.on_parent_says(message, now, out);
        } else if self.candidates.contains_key(&conn) {
            self.on_candidate_says(conn, message, now, out);
        } else if self.children.contains_key(&conn)
            && matches!(message, DistributedMessage::Search(_) | DistributedMessage::Embedded { .. })
        {
            // Searches come from above; a child that sends them has the direction wrong.
            self.children.remove(&conn);
            out.push(Effect::Hang(conn));
            self.tell_accepts(out);
        }
    }

    /// A distributed connection is gone.
    pub fn on_down(&mut self, conn: ConnId, now: Now, out: &mut Effects) {
        self.candidates.remove(&conn);
        if self.children.remove(&conn).is_some() {
            self.tell_accepts(out);
        }
        if self.parent.as_ref().is_some_and(|parent| parent.conn == conn) {
            self.lose_parent(now, out);
        }
    }

    /// The deadline passed.
    pub fn on_timeout(&mut self, now: Now, out: &mut Effects) {
        self.called.retain(|_, until| *until > now.mono);
        let ready = self.candidates.iter().filter_map(|(&id, candidate)| Some((candidate.ready?, id))).min();
        if let Some((since, conn)) = ready
            && since.saturating_add(GRACE) <= now.mono
        {
            self.adopt(conn, now, out);
        }
        self.candidates.retain(|&id, candidate| {
            let keep = candidate.due() > now.mono;
            if !keep {
                out.push(Effect::Hang(id));
            }
            keep
        });
        if self.parent.as_ref().is_some_and(|parent| parent.last.saturating_add(SILENCE) <= now.mono) {
            self.drop_parent(now, out);
        }
        if self.orphans.is_some_and(|until| until <= now.mono) {
            self.orphans = None;
            for (id, _) in std::mem::take(&mut self.children) {
                out.push(Effect::Hang(id));
            }
        }
        for id in self.twins().filter(|(_, due)| *due <= now.mono).map(|(id, _)| id).collect::<Vec<_>>() {
            self.children.remove(&id);
            out.push(Effect::Hang(id));
        }
        self.tell_accepts(out);
    }

    /// When `on_timeout` is due.
    pub fn next_timeout(&self) -> Option<Duration> {
        let candidates = self.candidates.values().map(Candidate::due);
        let parent = self.parent.as_ref().map(|parent| parent.last.saturating_add(SILENCE));
        let twins = self.twins().map(|(_, due)| due);
        candidates.chain(self.called.values().copied()).chain(twins).chain(parent).chain(self.orphans).min()
    }

    /// The oldest search not yet taken.
    pub fn pop_event(&mut self) -> Option<TreeSearch> {
        self.searches.pop_front()
    }

    /// For the page.
    pub fn view(&self) -> TreeView {
        let root = match &self.parent {
            Some(parent) => Some(Username::new(parent.root.as_str())),
            None => self.branch_root.then(|| self.own.clone()),
        };
        TreeView {
            level: self.level(),
            root,
            parent: self.parent.as_ref().map(|parent| parent.user.clone()),
            children: self.child_names().into_iter().cloned().collect(),
        }
    }

    fn on_possible_parents(&mut self, parents: &[PossibleParent], now: Now, out: &mut Effects) {
        if self.parent.is_some() {
            return;
        }
        for offered in parents {
            let user = Username::new(offered.user.as_str());
            let at = u16::try_from(offered.port).ok().map(|port| SocketAddrV4::new(offered.ip, port));
            let Some(at) = at.filter(|at| at.port() != 0) else { continue };
            let known = self.called.contains_key(&user) || user == self.own || self.is_child(&user);
            if !known && self.called.len() < limits::PARENT_CALLS {
                self.called.insert(user.clone(), now.in_(CANDIDATE));
                out.push(Effect::OpenDistributed { user, at });
            }
        }
    }

    fn on_embedded_by_server(&mut self, code: u8, body: &[u8], out: &mut Effects) {
        // With a parent we get every search from there; twice would be twice for the whole branch.
        if self.parent.is_none()
            && code == SEARCH
            && let Ok(search) = DistributedSearch::decode(body)
        {
            self.branch_root = true;
            self.orphans = None;
            self.pass_on(&search, out);
        }
    }

    fn on_candidate_says(&mut self, conn: ConnId, message: DistributedMessage, now: Now, out: &mut Effects) {
        let Some(candidate) = self.candidates.get_mut(&conn) else { return };
        match message {
            DistributedMessage::BranchLevel { level } => {
                let Ok(level) = u32::try_from(level) else { return self.reject(conn, out) };
                candidate.level = Some(level);
                if level == 0 {
                    candidate.root = Some(WireText::from(candidate.user.as_str()));
                }
            }
            // The root of level 0 is that user, whatever it says.
            DistributedMessage::BranchRoot { .. } if candidate.level == Some(0) => {}
            DistributedMessage::BranchRoot { user } => candidate.root = Some(user),
            DistributedMessage::Search(_) | DistributedMessage::Embedded { .. } => {
                if candidate.ready.is_some() {
                    self.adopt(conn, now, out);
                    self.on_parent_says(message, now, out);
                }
                return;
            }
            DistributedMessage::Ping | DistributedMessage::ChildDepth { .. } | DistributedMessage::Other { .. } => {
                return;
            }
        }
        if candidate.root.as_ref().is_some_and(|root| root.as_str() == self.own.as_str()) {
            // It hangs below us: a circle.
            self.reject(conn, out);
        } else if candidate.level.is_some() && candidate.root.is_some() && candidate.ready.is_none() {
            candidate.ready = Some(now.mono);
        }
    }

    fn reject(&mut self, conn: ConnId, out: &mut Effects) {
        self.candidates.remove(&conn);
        out.push(Effect::Hang(conn));
    }

    /// This candidate is the parent from now on.
    fn adopt(&mut self, conn: ConnId, now: Now, out: &mut Effects) {
        let Some(Candidate { user, level: Some(level), root: Some(root), .. }) = self.candidates.remove(&conn) else {
            return;
        };
        for (id, _) in std::mem::take(&mut self.candidates) {
            out.push(Effect::Hang(id));
        }
        self.called.clear();
        // It may have become a child meanwhile.
        self.children.retain(|&id, child| {
            let keep = child.user != user;
            if !keep {
                out.push(Effect::Hang(id));
            }
            keep
        });
        self.parent = Some(Parent { conn, user, level, root, last: now.mono, moves: 0 });
        self.branch_root = false;
        self.orphans = None;
        self.tell_parent(out);
        self.tell_accepts(out);
    }

    fn on_parent_says(&mut self, message: DistributedMessage, now: Now, out: &mut Effects) {
        let Some(parent) = &mut self.parent else { return };
        parent.last = now.mono;
        match message {
            DistributedMessage::Search(search) => self.pass_on(&search, out),
            DistributedMessage::Embedded { code: SEARCH, body } => {
                if let Ok(search) = DistributedSearch::decode(&body) {
                    self.pass_on(&search, out);
                }
            }
            DistributedMessage::BranchLevel { level } => {
                let Ok(level) = u32::try_from(level) else { return self.drop_parent(now, out) };
                if parent.level != level {
                    parent.level = level;
                    if level == 0 {
                        parent.root = WireText::from(parent.user.as_str());
                    }
                    self.follow(now, out);
                }
            }
            DistributedMessage::BranchRoot { user } if user.as_str() == self.own.as_str() => self.drop_parent(now, out),
            DistributedMessage::BranchRoot { user } => {
                if parent.level != 0 && parent.root != user {
                    parent.root = user;
                    self.follow(now, out);
                }
            }
            DistributedMessage::Embedded { .. }
            | DistributedMessage::Ping
            | DistributedMessage::ChildDepth { .. }
            | DistributedMessage::Other { .. } => {}
        }
    }

    /// The parent moved, and we with it.
    fn follow(&mut self, now: Now, out: &mut Effects) {
        let Some(parent) = &mut self.parent else { return };
        parent.moves = parent.moves.saturating_add(1);
        if parent.moves > MOVES {
            self.drop_parent(now, out);
        } else {
            self.tell_place(out);
        }
    }

    fn drop_parent(&mut self, now: Now, out: &mut Effects) {
        if let Some(parent) = &self.parent {
            out.push(Effect::Hang(parent.conn));
            self.lose_parent(now, out);
        }
    }

    fn lose_parent(&mut self, now: Now, out: &mut Effects) {
        self.parent = None;
        self.orphans = (!self.children.is_empty()).then(|| now.in_(ORPHANS));
        self.tell_parent(out);
        self.tell_accepts(out);
    }

    fn on_child(&mut self, conn: ConnId, user: Username, now: Now, out: &mut Effects) {
        let is_parent = self.parent.as_ref().is_some_and(|parent| parent.user == user);
        let known = self.is_child(&user);
        let twins = self.children.values().filter(|child| child.user == user).count();
        let room = self.child_names().len() < self.limit();
        if !self.has_source() || is_parent || user == self.own || twins > 1 || !(known || room) {
            out.push(Effect::Hang(conn));
            return;
        }
        self.children.insert(conn, Child { user, since: now.mono });
        for message in self.place() {
            out.net(NetAction::SendDistributed(conn, message));
        }
        self.tell_accepts(out);
    }

    /// To the children as it came, and to whoever answers.
    fn pass_on(&mut self, search: &DistributedSearch, out: &mut Effects) {
        for &child in self.children.keys() {
            out.net(NetAction::SendDistributed(child, DistributedMessage::Search(search.clone())));
        }
        // Nobody answers themselves.
        if search.user.as_str() != self.own.as_str() {
            self.searches.push_back(TreeSearch {
                user: Username::new(search.user.as_str()),
                token: search.token,
                query: search.query.as_str().to_owned(),
            });
        }
    }

    /// Drops parent, candidates and children.
    fn clear(&mut self, out: &mut Effects) {
        let parent = self.parent.take().map(|parent| parent.conn);
        let candidates = std::mem::take(&mut self.candidates).into_keys();
        let children = std::mem::take(&mut self.children).into_keys();
        for id in candidates.chain(children).chain(parent) {
            out.push(Effect::Hang(id));
        }
        self.called.clear();
        self.branch_root = false;
        self.orphans = None;
    }

    fn level(&self) -> u32 {
        self.parent.as_ref().map_or(0, |parent| parent.level.saturating_add(1))
    }

    fn root(&self) -> WireText {
        self.parent.as_ref().map_or_else(|| WireText::from(self.own.as_str()), |parent| parent.root.clone())
    }

    /// Level and root, as children are told.
    fn place(&self) -> [DistributedMessage; 2] {
        let level = i32::try_from(self.level()).unwrap_or(i32::MAX);
        [DistributedMessage::BranchLevel { level }, DistributedMessage::BranchRoot { user: self.root() }]
    }

    /// Tells the server whether we look for a parent, and everybody where we are.
    fn tell_parent(&self, out: &mut Effects) {
        out.server(ToServer::HaveNoParent { none: self.parent.is_none() });
        self.tell_place(out);
    }

    /// Tells the server and the children where we are.
    fn tell_place(&self, out: &mut Effects) {
        out.server(ToServer::BranchLevel { level: self.level() });
        out.server(ToServer::BranchRoot { user: self.root() });
        for &child in self.children.keys() {
            for message in self.place() {
                out.net(NetAction::SendDistributed(child, message));
            }
        }
    }

    /// Tells the server whether children are welcome, where it does not know.
    fn tell_accepts(&mut self, out: &mut Effects) {
        let accepts = self.has_source() && self.child_names().len() < self.limit();
        if self.logged_in && accepts != self.accepts {
            self.accepts = accepts;
            out.server(ToServer::AcceptChildren { accept: accepts });
        }
    }

    /// There is something to pass on.
    fn has_source(&self) -> bool {
        self.logged_in && (self.parent.is_some() || self.branch_root)
    }

    fn is_child(&self, user: &Username) -> bool {
        self.children.values().any(|child| child.user == *user)
    }

    fn child_names(&self) -> BTreeSet<&Username> {
        self.children.values().map(|child| &child.user).collect()
    }

    /// How many children: one for each 100 × ratio bytes per second that we upload (SOULSEEK-FACTS 3), within what the
    /// owner and `limits` allow.
    fn limit(&self) -> usize {
        let upload_limit = self.upload_limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX));
        let speed = self.speed.min(upload_limit);
        if speed < self.min_speed.saturating_mul(1024) {
            return 0;
        }
        let by_speed = speed.checked_div(self.ratio.saturating_mul(100)).unwrap_or(u32::MAX);
        let allowed = usize::try_from(by_speed.min(self.children_max)).unwrap_or(usize::MAX);
        allowed.min(limits::CHILDREN)
    }

    /// First connections of children that made a second one, and when they are let go.
    fn twins(&self) -> impl Iterator<Item = (ConnId, Duration)> + '_ {
        self.children.iter().filter_map(|(&id, child)| {
            let later = |(&other, twin): (&ConnId, &Child)| {
                (twin.user == child.user && (twin.since, other) > (child.since, id)).then_some(twin.since)
            };
            self.children.iter().filter_map(later).min().map(|since| (id, since.saturating_add(TWIN)))
        })
    }
}

impl Candidate {
    fn due(&self) -> Duration {
        self.ready.map_or(self.since.saturating_add(CANDIDATE), |since| since.saturating_add(GRACE))
    }
}

#[cfg(test)]
mod tests;
