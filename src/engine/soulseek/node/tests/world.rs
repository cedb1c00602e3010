//! Engines, a small server, a network and file shells between them, under a clock turned by hand. What may happen next
//! is chosen by dice, so a seed is a whole run; what must hold at all times is asserted as it happens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::files::{Disk, Jobs, Kept};
use super::server::Server;
use crate::engine::soulseek::chance::Chance;
use crate::engine::soulseek::distributed::DistributedMessage;
use crate::engine::soulseek::io::{
    Action, Command, ConnEvent, FileAction, Input, NetAction, Notice, Purpose, Reply, ShareAnswer, ShareAsk,
    SharedLocation,
};
use crate::engine::soulseek::node::Node;
use crate::engine::soulseek::peer::{Init, PeerMessage, RemoteFile, RemoteFolder};
use crate::engine::soulseek::server::{FromServer, ToServer};
use crate::engine::soulseek::session::Standing;
use crate::engine::soulseek::{Secret, Settings};
use crate::model::id::{CommandId, ConnId, Token, TransferId, Username};
use crate::model::music::{Attributes, ShareCounts, SharedFile, WireText};
use crate::model::record::Change;
use crate::model::time::{Now, UnixMs};
use crate::model::transfer::{Direction, Ending, Transfer, TransferState};

/// Where the server is: a private address, so that private ones may be dialled.
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 100), 2242);

/// What travels on a connection between users.
#[derive(Clone, Debug)]
pub(super) enum Wire {
    Init(Init),
    Peer(PeerMessage),
    Distributed(DistributedMessage),
    ShareList {
        folders: u32,
        files: u32,
    },
    Token(Token),
    Offset(u64),
    /// So many bytes of this content.
    Bytes(u32, u64),
    HangUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Accepted: the first message is read without being asked to.
    Called,
    /// Nothing is read before `Adopt`.
    Undecided,
    Reading(Purpose),
    /// A file connection waits for the file shell.
    Parked,
    /// The file shell has it.
    Held(TransferId),
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct End {
    /// `None`: the other end is gone.
    other: Option<(usize, ConnId)>,
    pub(super) stage: Stage,
    pub(super) inbox: VecDeque<Wire>,
    lists_wanted: u32,
}

#[derive(Debug)]
enum Ack {
    Store(Vec<Change>),
    Reply(CommandId, Reply),
    Net(NetAction),
}

/// The connection to the server.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Asked for, not yet up.
    dialled: bool,
    pub(super) up: bool,
    pub(super) user: Option<String>,
    to: VecDeque<ToServer>,
    pub(super) from: VecDeque<FromServer>,
}

/// A user's box.
pub(super) struct Station {
    pub(super) settings: Settings,
    pub(super) node: Node,
    pub(super) firewalled: bool,
    /// Path and (size, content).
    pub(super) shares: BTreeMap<String, (u64, u32)>,
    pub(super) kept: Kept,
    pub(super) disk: Disk,
    pub(super) jobs: Jobs,
    pub(super) notices: Vec<Notice>,
    /// Commands of this life and their replies.
    pub(super) asked: BTreeMap<CommandId, Option<Reply>>,
    /// Downloads of which `Placed` was told.
    placed: BTreeSet<TransferId>,
    pub(super) ends: BTreeMap<ConnId, End>,
    dials: VecDeque<(ConnId, SocketAddrV4)>,
    /// Connections of which we were told that they are gone, or that we closed.
    gone: BTreeSet<ConnId>,
    accepted: u64,
    pub(super) line: Line,
    acks: VecDeque<Ack>,
    asks: VecDeque<ShareAsk>,
    tokens: Vec<Token>,
    /// Timeouts in a row at one and the same moment.
    spins: u32,
}

/// See the module's text.
pub(super) struct World {
    pub(super) now: Now,
    pub(super) dice: Chance,
    pub(super) stations: Vec<Station>,
    pub(super) server: Server,
    commands: u64,
    /// What the file shell may report besides success.
    pub(super) faults: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Up(usize),
    ToServer(usize),
    FromServer(usize),
    Commit(usize),
    Ask(usize),
    Dial(usize),
    Read(usize, ConnId),
    Send(usize, TransferId),
    Report(usize),
}

pub(super) fn settings(name: &str) -> Settings {
    Settings {
        username: name.into(),
        password: Secret("pw".to_owned()),
        listen_port: 5000,
        description: format!("{name}'s box"),
        upload_slots: 2,
        download_slots: 3,
        user_queue_files: 50,
        user_queue_mib: 0,
        queue_files: 100,
        queue_mib: 0,
        banned: Vec::new(),
        children_max: 3,
        upload_limit: None,
        download_attempts_max: 3,
        failover: true,
        private_ranges: Vec::new(),
    }
}

impl World {
    /// Stations of these names, each sharing what `shares` gives it; everybody is on the network when it returns.
    pub(super) fn new(seed: u64, names: &[(&str, bool)], shares: &[(&str, &str, u64, u32)]) -> Self {
        let now = Now { mono: Duration::from_secs(100), wall: UnixMs(1_000_000_000) };
        let mut dice = Chance::new(seed);
        let stations = names
            .iter()
            .map(|&(name, firewalled)| {
                let settings = settings(name);
                let node = Node::new(settings.clone(), dice.bits(), Vec::new(), Vec::new(), Standing::default(), now);
                let mine = shares.iter().filter(|(owner, ..)| *owner == name);
                let shares = mine.map(|&(_, path, size, content)| (path.to_owned(), (size, content))).collect();
                Station {
                    settings,
                    node,
                    firewalled,
                    shares,
                    kept: Kept::default(),
                    disk: Disk::default(),
                    jobs: Jobs::default(),
                    notices: Vec::new(),
                    asked: BTreeMap::new(),
                    placed: BTreeSet::new(),
                    ends: BTreeMap::new(),
                    dials: VecDeque::new(),
                    gone: BTreeSet::new(),
                    accepted: 0,
                    line: Line::default(),
                    acks: VecDeque::new(),
                    asks: VecDeque::new(),
                    tokens: Vec::new(),
                    spins: 0,
                }
            })
            .collect();
        let mut world = Self { now, dice, stations, server: Server::default(), commands: 0, faults: false };
        for at in 0..names.len() {
            world.perform(at);
            world.count(at);
        }
        world.until("everybody is logged in", |world| (0..names.len()).all(|at| world.logged_in(at)));
        world
    }

    pub(super) fn logged_in(&self, at: usize) -> bool {
        self.stations[at].node.view(self.now).server_state == crate::model::view::ServerState::LoggedIn
    }

    fn count(&mut self, at: usize) {
        let files = u32::try_from(self.stations[at].shares.len()).unwrap();
        self.command(at, Command::SharesChanged(ShareCounts { folders: 1, files }));
    }

    pub(super) fn command(&mut self, at: usize, command: Command) -> CommandId {
        self.commands += 1;
        let id = CommandId(self.commands);
        if let Command::Configure(settings) = &command {
            self.stations[at].settings = (**settings).clone();
        }
        self.stations[at].asked.insert(id, None);
        self.handle(at, Input::Command(id, command));
        id
    }

    /// Asks and runs until the reply is there.
    pub(super) fn ask(&mut self, at: usize, command: Command) -> Reply {
        let what = format!("{command:?} is answered");
        let id = self.command(at, command);
        self.until(&what, |world| world.stations[at].asked[&id].is_some());
        self.stations[at].asked[&id].clone().unwrap()
    }

    /// Runs until it is so.
    pub(super) fn until(&mut self, what: &str, is: impl Fn(&Self) -> bool) {
        let end = self.now.mono + Duration::from_secs(4 * 3600);
        while !is(self) {
            assert!(self.now.mono < end, "in four hours never: {what}");
            self.step();
        }
    }

    /// Lets so much time pass.
    pub(super) fn pass(&mut self, seconds: u64) {
        let end = self.now.mono + Duration::from_secs(seconds);
        while self.now.mono < end {
            self.step();
        }
    }

    /// One thing happens, or time goes on to the next deadline.
    pub(super) fn step(&mut self) {
        let steps = self.steps();
        if steps.is_empty() {
            let next = self.stations.iter().filter_map(|station| station.node.next_timeout()).min();
            let next = next.unwrap_or(self.now.mono + Duration::from_secs(600));
            self.turn(next.saturating_sub(self.now.mono));
            self.timeouts();
            return;
        }
        let ms = self.dice.below(30);
        self.turn(Duration::from_millis(ms));
        self.timeouts();
        // The one chosen may have gone by a deadline.
        let steps = self.steps();
        if !steps.is_empty() {
            let chosen = usize::try_from(self.dice.below(steps.len() as u64)).unwrap();
            self.take(steps[chosen]);
        }
    }

    fn turn(&mut self, by: Duration) {
        self.now = Now { mono: self.now.mono + by, wall: self.now.wall.plus(by) };
        if !by.is_zero() {
            self.stations.iter_mut().for_each(|station| station.spins = 0);
        }
    }

    fn timeouts(&mut self) {
        for at in 0..self.stations.len() {
            if self.stations[at].node.next_timeout().is_some_and(|due| due <= self.now.mono) {
                self.stations[at].spins += 1;
                assert!(self.stations[at].spins < 50, "a deadline that has passed stays");
                self.handle(at, Input::Timeout);
            }
        }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (at, station) in self.stations.iter().enumerate() {
            let line = &station.line;
            let mut offer = |possible: bool, step: Step| {
                if possible {
                    steps.push(step);
                }
            };
            offer(line.dialled, Step::Up(at));
            offer(!line.to.is_empty(), Step::ToServer(at));
            offer(!line.from.is_empty(), Step::FromServer(at));
            offer(!station.acks.is_empty(), Step::Commit(at));
            offer(!station.asks.is_empty(), Step::Ask(at));
            offer(!station.dials.is_empty(), Step::Dial(at));
            offer(!station.jobs.reports.is_empty(), Step::Report(at));
            for (&conn, end) in &station.ends {
                offer(!end.inbox.is_empty() && end.stage != Stage::Undecided, Step::Read(at, conn));
            }
            for id in station.jobs.ready_to_send() {
                offer(true, Step::Send(at, id));
            }
        }
        steps
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Up(at) => {
                self.stations[at].line = Line { up: true, ..Line::default() };
                self.handle(at, Input::ServerUp { at: SERVER });
            }
            Step::ToServer(at) => {
                if let Some(message) = self.stations[at].line.to.pop_front() {
                    self.serve(at, message);
                }
            }
            Step::FromServer(at) => {
                if let Some(message) = self.stations[at].line.from.pop_front() {
                    self.handle(at, Input::Server(message));
                }
            }
            Step::Commit(at) => self.commit(at),
            Step::Ask(at) => {
                if let Some(ask) = self.stations[at].asks.pop_front()
                    && let Some(answer) = self.stations[at].look_up(ask)
                {
                    self.handle(at, Input::Share(answer));
                }
            }
            Step::Dial(at) => self.dial(at),
            Step::Read(at, conn) => self.read(at, conn),
            Step::Send(at, id) => self.send_some(at, id),
            Step::Report(at) => self.report(at),
        }
    }

    // ---- The engine ----

    /// Feeds one engine and performs what it wants.
    pub(super) fn handle(&mut self, at: usize, input: Input) {
        if let Input::File(id, crate::engine::soulseek::io::FileEvent::Placed(Ok(_))) = &input {
            self.stations[at].placed.insert(*id);
        }
        let decides = match &input {
            Input::Conn(conn, ConnEvent::Dialled | ConnEvent::Init(_) | ConnEvent::FileToken(_)) => Some(*conn),
            _ => None,
        };
        self.stations[at].node.handle(input, self.now);
        self.perform(at);
        let station = &self.stations[at];
        if let Some(end) = decides.and_then(|conn| station.ends.get(&conn)) {
            assert!(!matches!(end.stage, Stage::Undecided | Stage::Parked), "left undecided: {end:?}");
        }
        let waits = |state| !matches!(state, TransferState::QueuedLocally | TransferState::Requested);
        let moving = station.node.live(Direction::Download).chain(station.node.live(Direction::Upload));
        if self.logged_in(at) || moving.map(|transfer| transfer.state).any(waits) {
            assert!(station.node.next_timeout().is_some(), "no deadline");
        }
    }

    fn perform(&mut self, at: usize) {
        let mut actions = 0;
        while let Some(action) = self.stations[at].node.poll() {
            actions += 1;
            assert!(actions < 10_000, "no end of actions");
            let station = &mut self.stations[at];
            match action {
                Action::Net(NetAction::ServerSend(ToServer::MessageAcked { .. })) => {
                    panic!("a message is acknowledged before it is kept")
                }
                Action::Net(action) => self.net(at, action),
                Action::NetStored(action) => station.acks.push_back(Ack::Net(action)),
                Action::Store(changes) => {
                    for change in &changes {
                        if let Change::Transfer(record) = change
                            && record.direction == Direction::Download
                            && record.state == TransferState::Completed(Ending::Succeeded)
                        {
                            assert!(station.placed.contains(&record.id), "succeeded before it is in its place");
                        }
                    }
                    station.acks.push_back(Ack::Store(changes));
                }
                Action::Reply(id, reply) => {
                    let twice = station.acks.iter().any(|ack| matches!(ack, Ack::Reply(other, _) if *other == id));
                    assert!(!twice, "two replies to one command");
                    station.acks.push_back(Ack::Reply(id, reply));
                }
                Action::Notice(notice) => {
                    if let Notice::DownloadFinished(id) = &notice {
                        let said = station.recorded(*id).map(|record| record.state);
                        assert_eq!(said, Some(TransferState::Completed(Ending::Succeeded)), "told before recorded");
                    }
                    station.notices.push(notice);
                }
                Action::Share(ask) => station.asks.push_back(ask),
                Action::File(action) => self.file(at, action),
            }
        }
    }

    fn commit(&mut self, at: usize) {
        let station = &mut self.stations[at];
        match station.acks.pop_front() {
            Some(Ack::Store(changes)) => station.kept.apply_all(changes),
            Some(Ack::Reply(id, reply)) => {
                if let Reply::Enqueued { accepted, .. } = &reply {
                    assert!(accepted.iter().all(|id| station.kept.transfers.contains_key(id)), "replied, not kept");
                }
                let heard = station.asked.get_mut(&id).expect("a reply to a command");
                assert!(heard.is_none(), "two replies to one command");
                *heard = Some(reply);
            }
            Some(Ack::Net(action)) => {
                if let NetAction::ServerSend(ToServer::MessageAcked { id }) = &action {
                    let kept = station.kept.messages.values().any(|message| message.incoming && message.id == *id);
                    assert!(kept, "acknowledged, not kept");
                }
                self.net(at, action);
            }
            None => {}
        }
    }

    /// The process dies. A power cut costs what was not synced.
    pub(super) fn restart(&mut self, at: usize, power_cut: bool) {
        // Some of what was under way reached the disk.
        let reached = self.dice.below(self.stations[at].acks.len() as u64 + 1);
        for _ in 0..reached {
            if let Some(Ack::Store(changes)) = self.stations[at].acks.pop_front() {
                self.stations[at].kept.apply_all(changes);
            }
        }
        let conns: Vec<ConnId> = self.stations[at].ends.keys().copied().collect();
        for conn in conns {
            self.close(at, conn);
        }
        self.offline(at);
        let seed = self.dice.bits();
        let station = &mut self.stations[at];
        station.disk.restart(power_cut);
        station.jobs = Jobs::default();
        (station.line, station.tokens, station.accepted) = (Line::default(), Vec::new(), 0);
        station.asked.clear();
        station.acks.clear();
        station.asks.clear();
        station.dials.clear();
        station.gone.clear();
        let live = station.kept.transfers.values().filter(|record| !record.state.is_over()).cloned().collect();
        let wishes = station.kept.wishes.values().cloned().collect();
        station.node = Node::new(station.settings.clone(), seed, live, wishes, Standing::default(), self.now);
        self.perform(at);
        self.count(at);
    }

    // ---- The network between users ----

    fn net(&mut self, at: usize, action: NetAction) {
        let station = &mut self.stations[at];
        let known = |conn: &ConnId| {
            let there = station.ends.contains_key(conn) || station.dials.iter().any(|(dialled, _)| dialled == conn);
            assert!(there, "{action:?} for a connection that is not there (gone: {})", station.gone.contains(conn));
        };
        match action {
            NetAction::ServerConnect => station.line.dialled = true,
            NetAction::ServerSend(message) => {
                if station.line.up {
                    station.line.to.push_back(message);
                }
            }
            NetAction::ServerClose => {
                self.offline(at);
                self.stations[at].line = Line::default();
            }
            NetAction::Dial { conn, to } => station.dials.push_back((conn, to)),
            NetAction::SearchTokens(tokens) => station.tokens = tokens,
            NetAction::Close(ref conn) => {
                known(conn);
                self.close(at, *conn);
            }
            NetAction::Adopt(ref conn, purpose) => {
                known(conn);
                let end = station.ends.get_mut(conn).expect("adopted before it stands");
                assert_eq!(end.stage, Stage::Undecided, "adopted twice");
                end.stage = if purpose == Purpose::FileOut { Stage::Parked } else { Stage::Reading(purpose) };
            }
            NetAction::SendInit(ref conn, ref init) => {
                known(conn);
                assert_eq!(station.ends[conn].stage, Stage::Undecided);
                self.wire(at, *conn, Wire::Init(init.clone()));
            }
            NetAction::SendPeer(ref conn, ref message) => {
                known(conn);
                assert_eq!(station.ends[conn].stage, Stage::Reading(Purpose::Peer));
                self.wire(at, *conn, Wire::Peer(message.clone()));
            }
            NetAction::SendDistributed(ref conn, ref message) => {
                known(conn);
                assert_eq!(station.ends[conn].stage, Stage::Reading(Purpose::Distributed));
                self.wire(at, *conn, Wire::Distributed(message.clone()));
            }
            NetAction::SendShareList(ref conn) => {
                known(conn);
                let files = u32::try_from(station.shares.len()).unwrap();
                self.wire(at, *conn, Wire::ShareList { folders: 1, files });
            }
            NetAction::ExpectShareList(ref conn, _) => {
                known(conn);
                if let Some(end) = station.ends.get_mut(conn) {
                    end.lists_wanted += 1;
                }
            }
        }
    }

    /// Puts something on a connection; lost where the other end is gone.
    pub(super) fn wire(&mut self, at: usize, conn: ConnId, what: Wire) {
        if let Some((other, there)) = self.stations[at].ends.get(&conn).and_then(|end| end.other)
            && let Some(end) = self.stations[other].ends.get_mut(&there)
        {
            end.inbox.push_back(what);
        }
    }

    /// Our end of it goes; the other end reads what is there and then the end.
    pub(super) fn close(&mut self, at: usize, conn: ConnId) {
        self.wire(at, conn, Wire::HangUp);
        let station = &mut self.stations[at];
        station.gone.insert(conn);
        station.dials.retain(|(dialled, _)| *dialled != conn);
        if let Some((other, there)) = station.ends.remove(&conn).and_then(|end| end.other)
            && let Some(end) = self.stations[other].ends.get_mut(&there)
        {
            end.other = None;
        }
    }

    /// The wire is cut: what was under way is lost, both ends are told.
    pub(super) fn cut(&mut self, at: usize, conn: ConnId) {
        let other = self.stations[at].ends.get(&conn).and_then(|end| end.other);
        for (at, conn) in [Some((at, conn)), other].into_iter().flatten() {
            if let Some(end) = self.stations[at].ends.get_mut(&conn) {
                end.inbox.clear();
                end.inbox.push_back(Wire::HangUp);
                end.other = None;
            }
        }
    }

    fn dial(&mut self, at: usize) {
        let Some((conn, to)) = self.stations[at].dials.pop_front() else { return };
        let other = usize::from(to.ip().octets()[3]) - 1;
        if to.port() != 5000 || self.stations.get(other).is_none_or(|station| station.firewalled) {
            self.stations[at].gone.insert(conn);
            return self.handle(at, Input::Conn(conn, ConnEvent::DialFailed { reason: "refused".to_owned() }));
        }
        let there = ConnId(self.stations[other].accepted);
        self.stations[other].accepted += 1;
        let end = |other, stage| End { other: Some(other), stage, inbox: VecDeque::new(), lists_wanted: 0 };
        self.stations[at].ends.insert(conn, end((other, there), Stage::Undecided));
        self.stations[other].ends.insert(there, end((at, conn), Stage::Called));
        let from = SocketAddrV4::new(address(at), 40_000);
        self.handle(other, Input::Conn(there, ConnEvent::Accepted { from }));
        if self.stations[at].ends.contains_key(&conn) {
            self.handle(at, Input::Conn(conn, ConnEvent::Dialled));
        }
    }

    fn read(&mut self, at: usize, conn: ConnId) {
        let Some(end) = self.stations[at].ends.get_mut(&conn) else { return };
        if let Stage::Held(id) = end.stage {
            return self.read_file(at, conn, id);
        }
        let Some(wire) = end.inbox.pop_front() else { return };
        let event = match (end.stage, wire) {
            (_, Wire::HangUp) => ConnEvent::Closed { reason: String::new(), violation: false },
            (Stage::Called, Wire::Init(init)) => {
                end.stage = Stage::Undecided;
                ConnEvent::Init(init)
            }
            (Stage::Reading(Purpose::Peer), Wire::Peer(PeerMessage::FileSearchResponse(reply))) => {
                if !self.stations[at].tokens.contains(&reply.token) {
                    return;
                }
                ConnEvent::Peer(PeerMessage::FileSearchResponse(reply))
            }
            (Stage::Reading(Purpose::Peer), Wire::Peer(message)) => ConnEvent::Peer(message),
            (Stage::Reading(Purpose::Peer), Wire::ShareList { folders, files }) => {
                assert!(end.lists_wanted > 0, "a share list that nobody let in");
                end.lists_wanted -= 1;
                ConnEvent::Peer(PeerMessage::SharedFileList { folders, files })
            }
            (Stage::Reading(Purpose::Distributed), Wire::Distributed(message)) => ConnEvent::Distributed(message),
            (Stage::Reading(Purpose::FileIn), Wire::Token(token)) => {
                end.stage = Stage::Parked;
                ConnEvent::FileToken(token)
            }
            (stage, wire) => panic!("{wire:?} on a connection that is {stage:?}"),
        };
        if matches!(event, ConnEvent::Closed { .. }) {
            self.close(at, conn);
        }
        self.handle(at, Input::Conn(conn, event));
    }

    /// The file shell takes a connection over.
    pub(super) fn hold(&mut self, at: usize, conn: ConnId, id: TransferId) -> bool {
        let Some(end) = self.stations[at].ends.get_mut(&conn) else { return false };
        assert_eq!(end.stage, Stage::Parked, "not a file connection");
        end.stage = Stage::Held(id);
        true
    }

    fn file(&mut self, at: usize, action: FileAction) {
        self.start_file(at, action);
    }
}

pub(super) fn address(at: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(at + 1).unwrap())
}

impl Station {
    /// Every record is durable.
    pub(super) fn all_kept(&self) -> bool {
        !self.acks.iter().any(|ack| matches!(ack, Ack::Store(_)))
    }

    /// A record as the engine last asked for it to be kept.
    fn recorded(&self, id: TransferId) -> Option<&Transfer> {
        let waiting = self.acks.iter().rev().find_map(|ack| match ack {
            Ack::Store(changes) => changes.iter().rev().find_map(|change| match change {
                Change::Transfer(record) if record.id == id => Some(&**record),
                _ => None,
            }),
            _ => None,
        });
        waiting.or_else(|| self.kept.transfers.get(&id))
    }

    fn look_up(&self, ask: ShareAsk) -> Option<ShareAnswer> {
        match ask {
            ShareAsk::Excluded(_) => None,
            ShareAsk::Search { user, token, query } => {
                let found =
                    |path: &str| query.split(' ').all(|word| path.to_lowercase().contains(&word.to_lowercase()));
                let files = self.shares.iter().filter(|(path, _)| found(path)).map(|(path, &(size, _))| SharedFile {
                    path: path.clone(),
                    size,
                    attributes: Attributes::default(),
                });
                Some(ShareAnswer::Hits { user, token, files: files.collect() })
            }
            ShareAsk::File { user, path } => {
                let found = self
                    .shares
                    .get(path.as_str())
                    .map(|&(size, _)| SharedLocation { local_path: path.as_str().into(), size });
                Some(ShareAnswer::File { user, path, found })
            }
            ShareAsk::Folder { user, token, path } => {
                let inside = |name: &&String| name.starts_with(path.as_str());
                let file = |name: &String| RemoteFile {
                    code: 1,
                    name: name.as_str().into(),
                    size: self.shares[name].0,
                    extension: WireText::default(),
                    attributes: Vec::new(),
                };
                let files: Vec<RemoteFile> = self.shares.keys().filter(inside).map(file).collect();
                let folder = RemoteFolder { name: path.clone(), files };
                let folders = if folder.files.is_empty() { Vec::new() } else { vec![folder] };
                Some(ShareAnswer::Folder { user, token, path, folders })
            }
        }
    }

    /// Ids of transfers that are not over.
    pub(super) fn live(&self, direction: Direction) -> Vec<TransferId> {
        self.node.live(direction).map(|transfer| transfer.id).collect()
    }

    /// Whose box it is.
    pub(super) fn name(&self) -> Username {
        self.settings.username.clone()
    }
}
