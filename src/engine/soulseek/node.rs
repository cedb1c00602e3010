//! All machines of the Soulseek engine behind one door.
//!
//! The node decides nothing itself but who is told what: an [`Input`] goes to the machines it concerns, and their
//! effects are carried to other machines or out as [`Action`]s, until nobody has anything more to say. Private messages
//! are so little that they live here.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::Duration;

use super::Settings;
use super::chance::Chance;
use super::connections::{Connections, ConnectionsEvent};
use super::downloads::{Downloads, Turn};
use super::effect::{About, Effect, Effects};
use super::inquiries::{self, Inquiries, Question};
use super::io::{Action, Command, Input, NetAction, Notice, Refusal, Reply, ShareAnswer};
use super::peer::PeerMessage;
use super::searches::{self, SearchEvent, Searches};
use super::server::{FromServer, ToServer, UserStatus};
use super::session::{Session, SessionEvent, Standing};
use super::tree::Tree;
use super::uploads::Uploads;
use crate::model::id::{CommandId, SearchId, TransferId, Username};
use crate::model::limits;
use crate::model::music::{ShareCounts, WireText};
use crate::model::record::{Change, PrivateMessage, Wish};
use crate::model::time::{Now, UnixMs};
use crate::model::transfer::{Direction, Transfer};
use crate::model::view::{FlowView, ResponseView, SearchView, ServerState, TreeView};

/// For the page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// The server's address while connected.
    pub endpoint: Option<SocketAddrV4>,
    /// Where the connection to it stands.
    pub server_state: ServerState,
    /// Why we are not logged in.
    pub server_reason: Option<String>,
    /// When we try again.
    pub retry_at: Option<UnixMs>,
    /// Place in the distributed network.
    pub tree: TreeView,
    /// Counters.
    pub downloads: FlowView,
    /// Counters.
    pub uploads: FlowView,
    /// Downloads wait for room on the disk.
    pub disk_full: bool,
    /// Searches of others since the start.
    pub searches_seen: u64,
    /// Of these, answered with at least one file.
    pub searches_answered: u64,
}

/// The engine.
#[derive(Debug)]
pub struct Node {
    settings: Settings,
    chance: Chance,
    session: Session,
    connections: Connections,
    tree: Tree,
    inquiries: Inquiries,
    searches: Searches,
    downloads: Downloads,
    uploads: Uploads,
    effects: Effects,
    actions: VecDeque<Action>,
    /// Our count of messages sent, their id in the store.
    messages_sent: u32,
}

impl Node {
    /// Begins with what the store holds. `seed` is 64 random bits; `standing` is that of the engine before, if there was
    /// one in this process.
    pub fn new(
        settings: Settings,
        seed: u64,
        live: Vec<Transfer>,
        wishes: Vec<Wish>,
        standing: Standing,
        now: Now,
    ) -> Self {
        let mut chance = Chance::new(seed);
        // Tokens and the names of sent messages differ from those of the last run.
        let tokens = u32::try_from(chance.bits() >> 32).unwrap_or(0);
        let messages_sent = u32::try_from(chance.bits() >> 32).unwrap_or(0);
        let connections = Connections::new(Chance::new(chance.bits()));
        let mut node = Self {
            session: Session::new(),
            connections,
            tree: Tree::new(),
            inquiries: Inquiries::new(),
            searches: Searches::new(),
            downloads: Downloads::new(),
            uploads: Uploads::new(tokens),
            effects: Effects::new(),
            actions: VecDeque::new(),
            messages_sent,
            settings,
            chance,
        };
        node.with_turn(now, |node, turn| node.downloads.load(live, turn));
        node.searches.load_wishes(wishes);
        node.connections.on_settings(&node.settings);
        node.tree.on_settings(&node.settings, &mut node.effects);
        node.session.start(standing, &node.settings, now, &mut node.effects);
        node.settle(now);
        node
    }

    /// Something happened.
    pub fn handle(&mut self, input: Input, now: Now) {
        match input {
            Input::ServerUp { at } => {
                self.connections.on_server(at);
                self.session.on_up(at, &self.settings, now, &mut self.effects);
            }
            Input::ServerDown { reason } => self.session.on_down(&reason, &mut self.chance, now),
            Input::Server(message) => self.on_server(message, now),
            Input::Conn(conn, event) => self.connections.on_conn(conn, event, now, &mut self.effects),
            Input::File(id, event) => {
                if self.uploads.get(id).is_some() {
                    self.uploads.on_file_event(id, &event, &self.settings, now, &mut self.effects);
                } else {
                    self.with_turn(now, |node, turn| node.downloads.on_file_event(id, event, turn));
                }
            }
            Input::Share(answer) => self.on_share_answer(answer, now),
            Input::Command(id, command) => self.on_command(id, command, now),
            Input::Timeout => {}
        }
        self.settle(now);
        self.on_timeouts(now);
        self.settle(now);
    }

    /// Where the session stands; see [`Session::hold`] and [`Session::standing`].
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The monotonic moment at which `Input::Timeout` is due.
    pub fn next_timeout(&self) -> Option<Duration> {
        [
            self.session.next_timeout(),
            self.connections.next_timeout(),
            self.tree.next_timeout(),
            self.inquiries.next_timeout(),
            self.searches.next_timeout(),
            self.downloads.next_timeout(),
            self.uploads.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn on_timeouts(&mut self, now: Now) {
        let due = |deadline: Option<Duration>| deadline.is_some_and(|at| at <= now.mono);
        if due(self.session.next_timeout()) {
            self.session.on_timeout(&self.settings, &mut self.chance, now, &mut self.effects);
        }
        if due(self.connections.next_timeout()) {
            self.connections.on_timeout(now, &mut self.effects);
        }
        if due(self.tree.next_timeout()) {
            self.tree.on_timeout(now, &mut self.effects);
        }
        if due(self.inquiries.next_timeout()) {
            self.inquiries.on_timeout(now, &mut self.effects);
        }
        if due(self.searches.next_timeout()) {
            self.with_turn(now, |node, turn| node.searches.on_timeout(turn));
        }
        if due(self.downloads.next_timeout()) {
            self.with_turn(now, |node, turn| node.downloads.on_timeout(turn));
        }
        if due(self.uploads.next_timeout()) {
            self.uploads.on_timeout(&self.settings, now, &mut self.effects);
        }
    }

    /// Lends settings, chance and effects to a machine that takes them as one.
    fn with_turn(&mut self, now: Now, act: impl FnOnce(&mut Machines<'_>, &mut Turn<'_>)) {
        let Self { settings, chance, effects, downloads, searches, .. } = self;
        act(&mut Machines { downloads, searches }, &mut Turn { now, settings, chance, out: effects });
    }

    fn on_server(&mut self, message: FromServer, now: Now) {
        self.session.on_message(&message, &self.settings, &mut self.chance, now, &mut self.effects);
        self.connections.on_message(&message, now, &mut self.effects);
        self.tree.on_server(&message, now, &mut self.effects);
        self.inquiries.on_server(&message, now, &mut self.effects);
        match message {
            FromServer::GetUserStatus { user, status, .. }
            | FromServer::WatchUser { user, found: Some((status, _)), .. } => self.on_presence(&user, status, now),
            FromServer::FileSearch { user, token, query } => {
                let user = Username::new(user.as_str());
                self.with_turn(now, |node, turn| node.searches.on_search(&user, token, query.as_str(), turn));
            }
            FromServer::WishlistInterval { seconds } => {
                self.searches.on_wish_interval(seconds, now);
            }
            FromServer::ExcludedSearchPhrases { phrases } => {
                self.searches.on_excluded(&phrases, &mut self.effects);
            }
            FromServer::MessageUser { id, at, user, text, .. } => self.on_message_user(id, at, &user, &text),
            FromServer::AdminMessage { text } => self.effects.notice(Notice::ServerSays(text.as_str().to_owned())),
            _ => {}
        }
    }

    fn on_presence(&mut self, user: &WireText, status: UserStatus, now: Now) {
        let user = Username::new(user.as_str());
        let online = matches!(status, UserStatus::Online | UserStatus::Away);
        self.connections.on_user_status(&user);
        self.with_turn(now, |node, turn| node.downloads.on_user_status(&user, online, turn));
    }

    /// Kept first, then acknowledged: what is not acknowledged comes again at the next login, and finds its record.
    fn on_message_user(&mut self, id: u32, at: u32, user: &WireText, text: &WireText) {
        let user = Username::new(user.as_str());
        let message = PrivateMessage {
            user: user.clone(),
            // The server tells whole seconds. Their end, so that an answer does not stand before what it answers.
            at: UnixMs(u64::from(at).saturating_mul(1_000).saturating_add(999)),
            id,
            incoming: true,
            text: cut(text.as_str(), limits::MESSAGE_LEN).to_owned(),
            read: false,
        };
        self.effects.store(Change::Message(message));
        self.effects.push(Effect::Act(Action::NetStored(NetAction::ServerSend(ToServer::MessageAcked { id }))));
        self.effects.notice(Notice::MessageReceived(user));
    }

    fn on_share_answer(&mut self, answer: ShareAnswer, now: Now) {
        match answer {
            ShareAnswer::Hits { user, token, files } => {
                let standing = searches::Standing {
                    free_slot: self.uploads.free_slot(&self.settings),
                    speed: self.uploads.usual_speed(),
                    queue_length: self.uploads.queued(),
                };
                self.with_turn(now, |node, turn| node.searches.on_hits(&user, token, files, standing, turn));
            }
            ShareAnswer::File { user, path, found } => {
                let Self { uploads, settings, chance, effects, .. } = self;
                uploads.on_found(&user, &path, found, settings, chance, now, effects);
            }
            ShareAnswer::Folder { user, token, path, folders } => {
                self.inquiries.on_folder(&user, token, path, folders, &mut self.effects);
            }
        }
    }

    fn on_command(&mut self, id: CommandId, command: Command, now: Now) {
        match command {
            Command::Connect => {
                self.session.connect(&self.settings, now, &mut self.effects);
                self.effects.reply(id, Reply::Done);
            }
            Command::Disconnect => {
                self.session.disconnect(&mut self.effects);
                self.effects.reply(id, Reply::Done);
            }
            Command::Configure(settings) => {
                self.settings = *settings;
                let Self { settings, effects, .. } = self;
                self.connections.on_settings(settings);
                self.tree.on_settings(settings, effects);
                self.uploads.on_settings(settings, now, effects);
                self.session.on_settings(settings, now, effects);
                self.effects.reply(id, Reply::Done);
            }
            Command::SharesChanged(counts) => {
                self.on_counts(counts);
                self.effects.reply(id, Reply::Done);
            }
            Command::Search(request) => self.with_turn(now, |node, turn| node.searches.start(id, request, turn)),
            Command::SearchStop(search) => self.with_turn(now, |node, turn| node.searches.stop(id, search, turn)),
            Command::SearchForget(search) => self.with_turn(now, |node, turn| node.searches.forget(id, search, turn)),
            Command::WishAdd(text) => self.with_turn(now, |node, turn| node.searches.add_wish(id, &text, turn)),
            Command::WishRemove(wish) => self.searches.remove_wish(id, wish, &mut self.effects),
            Command::Enqueue(request) => self.with_turn(now, |node, turn| node.downloads.enqueue(id, request, turn)),
            Command::Cancel { direction: Direction::Upload, id: upload, remove } => {
                let Self { uploads, settings, effects, .. } = self;
                if !uploads.cancel(id, upload, remove, settings, now, effects) {
                    effects.refuse(id, Refusal::NotFound);
                }
            }
            Command::Cancel { direction: Direction::Download, id: download, remove } => {
                self.on_download(id, now, |node, turn| node.downloads.cancel(id, download, remove, turn));
            }
            Command::Retry(download) => {
                self.on_download(id, now, |node, turn| node.downloads.retry(id, download, turn));
            }
            Command::Aside(download, aside) => {
                self.on_download(id, now, |node, turn| node.downloads.aside(id, download, aside, turn));
            }
            Command::Rescued(download, file) => {
                self.on_download(id, now, |node, turn| node.downloads.rescued(id, download, *file, turn));
            }
            Command::Place(transfer) => match self.uploads.place(transfer) {
                Ok(place) => self.effects.reply(id, Reply::Place(place)),
                Err(_) => self.on_download(id, now, |node, turn| node.downloads.place(id, transfer, turn)),
            },
            Command::Revive(record) => self.with_turn(now, |node, turn| node.downloads.revive(id, *record, turn)),
            Command::SendMessage(user, text) => self.send_message(id, user, &text, now),
            Command::MessagesRead(user) => {
                self.effects.store(Change::MessagesRead(user));
                self.effects.reply(id, Reply::Done);
            }
            Command::MessagesForget(user) => {
                self.effects.store(Change::MessagesGone(user));
                self.effects.reply(id, Reply::Done);
            }
            Command::Browse(user) => self.ask(id, user, Question::Browse, now),
            Command::Folder(user, path) => self.ask(id, user, Question::Folder(path), now),
            Command::UserInfo(user) => self.ask(id, user, Question::Info, now),
            Command::UserStatus(user) => self.ask(id, user, Question::Status, now),
            Command::UserEndpoint(user) => self.ask(id, user, Question::Endpoint, now),
        }
    }

    fn ask(&mut self, id: CommandId, user: Username, question: Question, now: Now) {
        self.inquiries.ask(id, user, question, &mut self.chance, now, &mut self.effects);
    }

    fn on_download(&mut self, id: CommandId, now: Now, act: impl FnOnce(&mut Machines<'_>, &mut Turn<'_>) -> bool) {
        let mut found = false;
        self.with_turn(now, |node, turn| found = act(node, turn));
        if !found {
            self.effects.refuse(id, Refusal::NotFound);
        }
    }

    fn on_counts(&mut self, counts: ShareCounts) {
        self.session.on_counts(counts, &mut self.effects);
        self.downloads.set_shared_files(counts.files);
    }

    fn send_message(&mut self, id: CommandId, user: Username, text: &str, now: Now) {
        let text = text.trim();
        if !self.session.logged_in() {
            return self.effects.refuse(id, Refusal::NotConnected);
        }
        if text.is_empty() || text.len() > limits::MESSAGE_LEN {
            let why = format!("a message has 1 to {} bytes", limits::MESSAGE_LEN);
            return self.effects.refuse(id, Refusal::Invalid(why));
        }
        self.effects.server(ToServer::MessageUser { user: user.as_str().into(), text: text.into() });
        self.messages_sent = self.messages_sent.wrapping_add(1);
        self.effects.store(Change::Message(PrivateMessage {
            user,
            at: now.wall,
            id: self.messages_sent,
            incoming: false,
            text: text.to_owned(),
            read: true,
        }));
        self.effects.reply(id, Reply::Done);
    }

    /// Carries effects and events until there are none. Each is made by a finite input, so this ends.
    fn settle(&mut self, now: Now) {
        loop {
            if let Some(effect) = self.effects.pop() {
                self.on_effect(effect, now);
            } else if let Some(event) = self.session.pop_event() {
                self.on_session_event(event, now);
            } else if let Some(event) = self.connections.pop_event() {
                self.on_connections_event(event, now);
            } else if let Some(search) = self.tree.pop_event() {
                self.with_turn(now, |node, turn| {
                    node.searches.on_search(&search.user, search.token, &search.query, turn);
                });
            } else if let Some(SearchEvent::Candidates { transfer, candidates }) = self.searches.pop_event() {
                self.with_turn(now, |node, turn| node.downloads.on_candidates(transfer, candidates, turn));
            } else {
                return;
            }
        }
    }

    fn on_effect(&mut self, effect: Effect, now: Now) {
        match effect {
            Effect::Act(action) => self.actions.push_back(action),
            Effect::ToServer(message) => {
                if self.session.logged_in() {
                    self.actions.push_back(Action::Net(NetAction::ServerSend(message)));
                }
            }
            Effect::ToUser { user, message, about } => {
                self.connections.send(&user, message, about, now, &mut self.effects);
            }
            Effect::AskShareList { user, about } => {
                self.connections.expect_share_list(&user, about, now, &mut self.effects);
            }
            Effect::ShareListTo(user) => self.connections.share_list_to(&user, now, &mut self.effects),
            Effect::OpenFile { user, transfer } => {
                self.connections.open_file(&user, transfer, now, &mut self.effects);
            }
            Effect::OpenDistributed { user, at } => {
                self.connections.open_distributed(&user, at, now, &mut self.effects);
            }
            Effect::Hang(conn) => self.connections.close(conn, now, &mut self.effects),
            Effect::Failover { transfer, query } => {
                self.with_turn(now, |node, turn| node.searches.seek(transfer, &query, turn));
            }
        }
    }

    fn on_session_event(&mut self, event: SessionEvent, now: Now) {
        match event {
            SessionEvent::LoggedIn { greeting, .. } => {
                let own = self.session.username().clone();
                self.connections.on_logged_in(&own);
                self.tree.on_logged_in(&own);
                self.inquiries.on_logged_in(&own);
                self.with_turn(now, |node, turn| {
                    node.searches.on_logged_in(turn);
                    node.downloads.on_logged_in(turn);
                });
                self.uploads.on_logged_in(&self.settings, now, &mut self.effects);
                self.effects.notice(Notice::LoggedIn { greeting });
            }
            SessionEvent::LoggedOut { reason, retry_in } => {
                self.connections.on_logged_out(now, &mut self.effects);
                self.tree.on_logged_out(&mut self.effects);
                self.inquiries.on_logged_out(&mut self.effects);
                self.searches.on_logged_out();
                self.uploads.on_logged_out();
                self.with_turn(now, |node, turn| node.downloads.on_logged_out(turn));
                let retry_in_s = retry_in.map(|pause| pause.as_secs());
                self.effects.notice(Notice::LoggedOut { reason, retry_in_s });
            }
        }
    }

    fn on_connections_event(&mut self, event: ConnectionsEvent, now: Now) {
        match event {
            ConnectionsEvent::Peer { user, message } => self.on_peer_message(&user, message, now),
            ConnectionsEvent::FileToken { user, conn, token } => {
                let mut wanted = false;
                self.with_turn(now, |node, turn| wanted = node.downloads.on_file_token(&user, conn, token, turn));
                if !wanted {
                    self.connections.close(conn, now, &mut self.effects);
                }
            }
            ConnectionsEvent::FileOpened { transfer, conn } => {
                self.uploads.on_file_opened(transfer, conn, now, &mut self.effects);
            }
            ConnectionsEvent::FileFailed { transfer, reason } => {
                self.uploads.on_file_failed(transfer, &reason, &self.settings, now, &mut self.effects);
            }
            ConnectionsEvent::Unreachable { user, about, offline, .. } => match about {
                About::Nothing => {}
                About::Download(_) => {
                    self.with_turn(now, |node, turn| node.downloads.on_unreachable(&user, about, offline, turn));
                }
                About::Upload(id) => {
                    self.uploads.on_unreachable(id, offline, &self.settings, now, &mut self.effects);
                }
                About::Inquiry(number) => self.inquiries.on_unreachable(number, &mut self.effects),
            },
            ConnectionsEvent::DistributedUp { conn, user, incoming } => {
                self.tree.on_up(conn, user, incoming, now, &mut self.effects);
            }
            ConnectionsEvent::Distributed { conn, message } => {
                self.tree.on_message(conn, message, now, &mut self.effects);
            }
            ConnectionsEvent::DistributedDown { conn } => self.tree.on_down(conn, now, &mut self.effects),
            ConnectionsEvent::Violation { user, reason } => self.effects.notice(Notice::Violation { user, reason }),
        }
    }

    fn on_peer_message(&mut self, user: &Username, message: PeerMessage, now: Now) {
        if let PeerMessage::FileSearchResponse(reply) = message {
            return self.with_turn(now, |node, turn| node.searches.on_reply(reply, turn));
        }
        if self.uploads.on_peer_message(user, &message, &self.settings, now, &mut self.effects) {
            return;
        }
        let mut taken = false;
        self.with_turn(now, |node, turn| taken = node.downloads.on_peer_message(user, &message, turn));
        if !taken {
            let standing = inquiries::Standing {
                slots: self.settings.upload_slots,
                queue_length: self.uploads.queued(),
                free_slot: self.uploads.free_slot(&self.settings),
            };
            let Self { inquiries, settings, effects, .. } = self;
            inquiries.on_peer(user, message, standing, settings, now, effects);
        }
    }

    /// For the page.
    pub fn view(&self, now: Now) -> NodeView {
        let session = self.session.view(now);
        NodeView {
            endpoint: session.endpoint,
            server_state: session.state,
            server_reason: session.reason,
            retry_at: session.retry_at,
            tree: self.tree.view(),
            downloads: self.downloads.flow(now),
            uploads: self.uploads.flow(),
            disk_full: self.downloads.disk_full(),
            searches_seen: self.searches.counters().seen,
            searches_answered: self.searches.counters().answered,
        }
    }

    /// Transfers that are not over.
    pub fn live(&self, direction: Direction) -> Box<dyn Iterator<Item = &Transfer> + '_> {
        match direction {
            Direction::Download => Box::new(self.downloads.iter()),
            Direction::Upload => Box::new(self.uploads.iter()),
        }
    }

    /// One of them.
    pub fn transfer(&self, direction: Direction, id: TransferId) -> Option<&Transfer> {
        match direction {
            Direction::Download => self.downloads.get(id),
            Direction::Upload => self.uploads.get(id),
        }
    }

    /// Every download that is not over, as rescue sees it.
    pub fn downloads_seen(&self) -> Vec<crate::engine::swarm::rescue::Seen> {
        self.downloads.seen()
    }

    /// Whether a download's user took it into the queue or sent bytes of it, or a search that is kept found it.
    pub fn download_met(&self, id: TransferId) -> bool {
        let found = |transfer: &Transfer| self.searches.offers(&transfer.user, &transfer.path);
        self.downloads.met(id) || self.downloads.get(id).is_some_and(found)
    }

    /// Kept searches of ours, newest first.
    pub fn searches(&self) -> Vec<SearchView> {
        self.searches.views()
    }

    /// One of them with its responses.
    pub fn search(&self, id: SearchId) -> Option<(SearchView, Vec<ResponseView>)> {
        self.searches.view(id)
    }
}

/// The machines that take a [`Turn`].
struct Machines<'a> {
    downloads: &'a mut Downloads,
    searches: &'a mut Searches,
}

/// The longest beginning of at most so many bytes that is whole characters.
fn cut(text: &str, len: usize) -> &str {
    let end = (0..=len.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests;
