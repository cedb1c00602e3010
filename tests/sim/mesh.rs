//! Nodes, lines between them and the DHT in virtual time; what is real and what is modelled: [`super::crowd`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use slskdn::engine::library::consensus::claim_of;
use slskdn::engine::mesh::candidates::{Candidate, Ended};
use slskdn::engine::mesh::control::{Ask, Control};
use slskdn::engine::mesh::frame::Hello;
use slskdn::engine::mesh::gossip::Deed;
use slskdn::engine::mesh::guard::Who;
use slskdn::engine::mesh::meeting::{Errand, content_key};
use slskdn::engine::mesh::session::{Action, CloseReason, FEATURES, Input, PROTOCOL, Session, Side};
use slskdn::engine::soulseek::chance::Chance;
use slskdn::engine::swarm::reputation::Reputation;
use slskdn::model::id::PeerId;
use slskdn::model::mesh::{DhtKey, Origin};

use super::node::{
    CONNECTIONS_MAX, NEIGHBOURS_MAX, NEVER, Node, Private, address_of, copy, id_of, ip_of, node_at, node_of, release_of,
};

/// Addresses one look-up hears of.
pub(super) const SAMPLE: usize = 32;
/// An address is kept so long in the DHT.
pub(super) const KEPT: Duration = Duration::from_secs(1_800);
/// One step of a look-up.
const HOP: Duration = Duration::from_millis(150);
/// Before a call to nobody is given up.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Between two whims of one owner.
const WHIM_S: u64 = 600;
/// Recordings each node shares.
const SHARED: usize = 20;

enum Event {
    Start(usize),
    Leave(usize),
    Wake(usize),
    Whim(usize),
    Errand(usize, u32, Errand),
    /// A call of this life of a node arrives.
    Met(usize, u32, u64, usize),
    Bytes(usize, usize, Vec<u8>),
    /// The other end is gone.
    Gone(usize, usize),
    Tick(usize, usize),
}

pub(super) struct End {
    pub(super) node: usize,
    session: Session,
    ready: bool,
    pub(super) closed: bool,
    tick_at: Duration,
}

pub(super) struct Link {
    pub(super) ends: [End; 2],
    delay: Duration,
    began: Duration,
    /// The dialler's number for the call.
    call: u64,
}

pub(super) struct Crowd {
    pub(super) now: Duration,
    count: u64,
    events: BTreeMap<(Duration, u64), Event>,
    pub(super) nodes: Vec<Node>,
    pub(super) links: Vec<Link>,
    pub(super) dht: BTreeMap<DhtKey, BTreeMap<usize, Duration>>,
    hops: u32,
    pub(super) chance: Chance,
    catalogue: Vec<f64>,
    pub(super) strikes: Vec<String>,
    /// Everything this node sends.
    pub(super) captured: (usize, Vec<u8>),
}

/// 10 to 100 ms, always the same between two.
fn delay(one: usize, other: usize) -> Duration {
    let pair = (one.min(other) * 1_000_003 + one.max(other)) as u64;
    Duration::from_millis(10 + Chance::new(pair).below(91))
}

impl Crowd {
    pub(super) fn new(count: usize, seed: u64, private: &Private) -> Self {
        let mut chance = Chance::new(seed);
        let mut sum = 0.0;
        let catalogue = (1..=10 * count + 100).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        let mut crowd = Self {
            now: Duration::ZERO,
            count: 0,
            events: BTreeMap::new(),
            nodes: Vec::new(),
            links: Vec::new(),
            dht: BTreeMap::new(),
            hops: count.next_power_of_two().trailing_zeros(),
            catalogue: catalogue.collect(),
            chance: chance.clone(),
            strikes: Vec::new(),
            captured: (0, Vec::new()),
        };
        for at in 0..count {
            let private = if at == 0 { private.clone() } else { Private::default() };
            let mut node = Node::new(at, chance.bits(), at % 4 != 3, private);
            while node.copies.len() < SHARED {
                let recording = crowd.draw();
                let version = crowd.chance.below(3);
                node.share(recording, &[version, version + 3][..=(version % 2) as usize]);
            }
            crowd.nodes.push(node);
            let start = Duration::from_millis(crowd.chance.below(300_000));
            crowd.after(start, Event::Start(at));
            let whim = Duration::from_secs(60 + crowd.chance.below(WHIM_S));
            crowd.after(start + whim, Event::Whim(at));
            if at % 10 == 9 {
                let leave = Duration::from_secs(600 + crowd.chance.below(1_800));
                crowd.after(leave, Event::Leave(at));
                crowd.after(leave + Duration::from_secs(600), Event::Start(at));
            }
        }
        crowd
    }

    /// A recording of the catalogue, by how popular it is.
    fn draw(&mut self) -> u128 {
        let at = self.chance.below(1 << 40) as f64 / (1_u64 << 40) as f64 * self.catalogue.last().unwrap();
        self.catalogue.partition_point(|sum| *sum <= at) as u128 + 1
    }

    fn after(&mut self, pause: Duration, event: Event) {
        self.at(self.now + pause, event);
    }

    fn at(&mut self, due: Duration, event: Event) {
        self.count += 1;
        self.events.insert((due, self.count), event);
    }

    pub(super) fn run(&mut self, until: Duration) {
        while let Some(first) = self.events.first_entry().filter(|first| first.key().0 <= until) {
            let ((now, _), event) = first.remove_entry();
            self.now = now;
            self.step(event);
        }
        self.now = until;
    }

    fn step(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Start(at) => {
                let keys = self.nodes[at].keys();
                self.nodes[at].start(at, now, &keys);
                self.touch(at);
            }
            Event::Leave(at) => {
                let open: Vec<usize> = self.nodes[at].links.values().copied().collect();
                for link in open {
                    let side = usize::from(self.links[link].ends[0].node != at);
                    self.part(link, side);
                }
                self.nodes[at].up = false;
            }
            Event::Wake(at) => {
                if self.nodes[at].up && self.nodes[at].wake_at == now {
                    self.wake(at);
                }
            }
            Event::Whim(at) => {
                self.after(Duration::from_secs(WHIM_S), Event::Whim(at));
                if self.nodes[at].up {
                    self.whim(at);
                }
            }
            Event::Errand(at, life, errand) => {
                if self.nodes[at].up && self.nodes[at].life == life {
                    self.look(at, errand);
                }
            }
            Event::Met(from, life, call, to) => self.meet(from, life, call, to),
            Event::Bytes(link, side, bytes) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() && !self.links[link].ends[side].closed {
                    let (part, more) = rest.split_at(self.links[link].ends[side].session.wanted().min(rest.len()));
                    self.feed(link, side, Input::Bytes(part));
                    rest = more;
                }
            }
            Event::Gone(link, side) => self.feed(link, side, Input::Ended),
            Event::Tick(link, side) => {
                let end = &mut self.links[link].ends[side];
                if end.tick_at == now {
                    end.tick_at = NEVER;
                    self.feed(link, side, Input::Tick);
                }
            }
        }
    }

    /// Looks at a node's machines at once.
    fn touch(&mut self, at: usize) {
        self.wake_at(at, self.now);
    }

    fn wake_at(&mut self, at: usize, due: Duration) {
        if self.nodes[at].up && due < self.nodes[at].wake_at {
            self.nodes[at].wake_at = due;
            self.at(due, Event::Wake(at));
        }
    }

    fn wake(&mut self, at: usize) {
        let now = self.now;
        self.nodes[at].wake_at = NEVER;
        let mut deeds = Vec::new();
        self.nodes[at].gossip.on_timeout(now, &mut deeds);
        self.perform(at, deeds);
        let hops = self.hops;
        let node = &mut self.nodes[at];
        node.stand(now);
        let errand = node.meeting.next(now);
        if let Some(errand) = errand {
            let words = if matches!(errand, Errand::Announce(_)) { 2 } else { 1 };
            node.sent.dht += words * u64::from(hops);
            let life = node.life;
            self.after(HOP * hops, Event::Errand(at, life, errand));
        }
        loop {
            let node = &mut self.nodes[at];
            let strangers = node.dialled.len();
            let links = &node.links;
            let known = |key: Option<PeerId>, addresses: &[SocketAddr]| {
                key.is_some_and(|key| links.contains_key(&key))
                    || addresses.iter().any(|address| links.contains_key(&id_of(node_at(*address))))
            };
            let Some(call) = node.candidates.next(strangers, known, now) else { break };
            assert!(strangers < NEIGHBOURS_MAX, "node {at} calls with {strangers} neighbours");
            let (to, life) = (node_at(call.addresses[0]), node.life);
            if node.guard.dials(ip_of(to), Who::Found, now).is_err() {
                node.candidates.ended(call.number, Ended::Failed, now, &mut node.chance);
                continue;
            }
            let there = self.nodes[to].up && self.nodes[to].reachable;
            let pause = if there { delay(at, to) * 2 } else { HANDSHAKE };
            self.after(pause, Event::Met(at, life, call.number, to));
        }
        let node = &self.nodes[at];
        let due = [node.gossip.next_timeout(), node.meeting.next_timeout(), node.candidates.next_timeout()];
        // Whoever is due and not called waits for somebody to go.
        let due = [due[0], due[1], due[2].filter(|due| *due > now)].into_iter().flatten().min();
        self.wake_at(at, due.unwrap_or(NEVER).max(now + Duration::from_millis(1)));
    }

    fn sample(&mut self, key: DhtKey, at: usize) -> Vec<usize> {
        let now = self.now;
        let told = self.dht.entry(key).or_default();
        told.retain(|_, told| now.saturating_sub(*told) < KEPT);
        let mut there: Vec<usize> = told.keys().copied().collect();
        let mut found = Vec::new();
        while found.len() < SAMPLE && !there.is_empty() {
            let place = self.nodes[at].chance.below(there.len() as u64) as usize;
            found.push(there.swap_remove(place));
        }
        found
    }

    fn look(&mut self, at: usize, errand: Errand) {
        let now = self.now;
        let (Errand::Look(key) | Errand::Announce(key)) = errand;
        let found = self.sample(key, at);
        if matches!(errand, Errand::Announce(_)) {
            assert!(self.nodes[at].reachable, "only who can be called is announced");
            self.dht.entry(key).or_default().insert(at, now);
        }
        let node = &mut self.nodes[at];
        for other in found {
            let candidate = Candidate { key: None, addresses: vec![address_of(other)], origin: Origin::Dht };
            // Ours, or no room: as it says.
            let _ = node.candidates.add(candidate, now);
        }
        node.meeting.done(errand, true, now, &mut node.chance);
        self.touch(at);
    }

    fn meet(&mut self, from: usize, life: u32, call: u64, to: usize) {
        let now = self.now;
        if !self.nodes[from].up || self.nodes[from].life != life {
            return;
        }
        let there = self.nodes[to].up && self.nodes[to].reachable;
        let ended = if self.nodes[from].links.contains_key(&id_of(to)) {
            Some(Ended::Known(id_of(to)))
        } else if !there || self.nodes[to].links.contains_key(&id_of(from)) {
            Some(Ended::Failed)
        } else {
            let guard = &mut self.nodes[to].guard;
            let let_in = guard.calls(ip_of(from), now).and_then(|()| {
                let seated = guard.proven(ip_of(from), Who::Caller, now);
                seated.inspect_err(|_| guard.left(ip_of(from), None))
            });
            let_in.err().map(|_| Ended::Failed)
        };
        if let Some(ended) = ended {
            let node = &mut self.nodes[from];
            node.guard.left(ip_of(to), Some(Who::Found));
            node.candidates.ended(call, ended, now, &mut node.chance);
            return self.touch(from);
        }
        self.nodes[from].candidates.connected(call, id_of(to));
        self.nodes[from].dialled.insert(id_of(to));
        let link = self.links.len();
        let ends = [(from, Side::Dialler, to), (to, Side::Listener, from)].map(|(at, side, other)| {
            let node = &mut self.nodes[at];
            node.links.insert(id_of(other), link);
            node.neighbours_most = node.neighbours_most.max(node.links.len());
            let hello = Hello {
                version: PROTOCOL,
                nonce: node.chance.bits(),
                features: FEATURES.to_owned(),
                software: "slskdn/0.1.0".to_owned(),
                port: 5_000,
                username: format!("user{at}"),
                ..Hello::default()
            };
            End { node: at, session: Session::new(side, hello), ready: false, closed: false, tick_at: NEVER }
        });
        self.links.push(Link { ends, delay: delay(from, to), began: now, call });
        self.feed(link, 1, Input::Opened);
        self.feed(link, 0, Input::Opened);
    }

    fn feed(&mut self, link: usize, side: usize, input: Input<'_>) {
        let end = &mut self.links[link].ends[side];
        if end.closed {
            return;
        }
        let mut actions = Vec::new();
        end.session.handle(input, self.now, &mut actions);
        for action in actions {
            self.act(link, side, action);
        }
        let end = &mut self.links[link].ends[side];
        if let Some(due) = end.session.deadline().filter(|due| !end.closed && *due < end.tick_at) {
            // Later deadlines are found when the earlier one comes.
            end.tick_at = due.max(self.now);
            let due = end.tick_at;
            self.at(due, Event::Tick(link, side));
        }
    }

    fn act(&mut self, link: usize, side: usize, action: Action) {
        let (at, other) = (self.links[link].ends[side].node, self.links[link].ends[1 - side].node);
        let (now, peer) = (self.now, id_of(other));
        match action {
            Action::Send(bytes) => {
                let node = &mut self.nodes[at];
                node.sent.frames += 1;
                node.sent.frame_bytes += bytes.len() as u64;
                if self.captured.0 == at {
                    self.captured.1.extend_from_slice(&bytes);
                }
                self.after(self.links[link].delay, Event::Bytes(link, 1 - side, bytes));
            }
            Action::Ready(greeted) => {
                self.links[link].ends[side].ready = true;
                let node = &mut self.nodes[at];
                let (heard, hashes) = node.heard.get(&peer).copied().unwrap_or_default();
                node.gossip.on_connected((peer, false), &greeted.features, heard, hashes, now);
                self.touch(at);
            }
            Action::Asked(id, content) => {
                let size = self.nodes[at].holding(content);
                self.feed(link, side, Input::Answer(id, size));
            }
            Action::Told(sealed) => {
                let mut deeds = Vec::new();
                self.nodes[at].gossip.on_message(peer, sealed.open().unwrap(), now, &mut deeds);
                self.perform(at, deeds);
                self.touch(at);
            }
            Action::Heard(_, size) => {
                let node = &mut self.nodes[at];
                node.holders += u64::from(size.is_some());
                let known = node.reputation.entry(peer).or_default();
                *if size.is_some() { &mut known.successful } else { &mut known.failed } += 1.0;
            }
            Action::Close(reason) => {
                if reason.is_violation() || reason == CloseReason::NoPong {
                    self.strikes.push(format!("{at} of {other}: {reason}"));
                }
                self.part(link, side);
            }
        }
    }

    /// One end of a connection goes.
    fn part(&mut self, link: usize, side: usize) {
        let now = self.now;
        let Link { ends, delay, began, call } = &mut self.links[link];
        let (at, other) = (ends[side].node, ends[1 - side].node);
        if std::mem::replace(&mut ends[side].closed, true) {
            return;
        }
        let (delay, lasted, call) = (*delay, now.saturating_sub(*began), *call);
        let node = &mut self.nodes[at];
        node.links.remove(&id_of(other));
        node.gossip.on_gone(id_of(other));
        node.dialled.remove(&id_of(other));
        node.guard.left(ip_of(other), Some(if side == 0 { Who::Found } else { Who::Caller }));
        if side == 0 {
            node.candidates.ended(call, Ended::Over(lasted), now, &mut node.chance);
        }
        self.after(delay, Event::Gone(link, 1 - side));
        self.touch(at);
    }

    fn tell(&mut self, at: usize, peer: PeerId, control: &Control) -> bool {
        let Some(link) = self.nodes[at].links.get(&peer).copied() else { return false };
        let side = usize::from(self.links[link].ends[0].node != at);
        if !self.links[link].ends[side].ready {
            return false;
        }
        self.feed(link, side, Input::Tell(control.seal().unwrap()));
        true
    }

    fn perform(&mut self, at: usize, deeds: Vec<Deed>) {
        let now = self.now;
        for deed in deeds {
            match deed {
                Deed::Say(peer, control) => {
                    if !self.tell(at, peer, &control) {
                        self.nodes[at].gossip.on_unsaid(peer, &control, now);
                    }
                }
                Deed::Advertise { peer, after, whole } => {
                    let made = self.nodes[at].advert(after, whole);
                    let sequence = made.sequence;
                    let told = self.tell(at, peer, &Control::Advert(made));
                    self.nodes[at].gossip.on_advertised(peer, told.then_some(sequence), now);
                }
                Deed::Delta { peer, after, max } => {
                    let delta = self.nodes[at].delta(after, max);
                    self.tell(at, peer, &delta);
                }
                Deed::Key(peer, key) => {
                    let entries = self.nodes[at].key(key);
                    self.tell(at, peer, &Control::SyncKey(key, entries));
                }
                Deed::Describe(peer, release) => {
                    if let Some(made) = self.nodes[at].descriptor(release) {
                        self.tell(at, peer, &Control::Descriptor(Box::new(made)));
                    }
                }
                Deed::Keep { peer, heard, void, recordings } => {
                    let node = &mut self.nodes[at];
                    node.heard.entry(peer).or_default().0 = heard;
                    let told = node.told.entry(peer).or_default();
                    if void {
                        told.clear();
                    }
                    told.extend(recordings.iter().filter_map(|said| said.mb_recording_id));
                }
                Deed::KeepHashes { peer, heard, void, entries } => {
                    let node = &mut self.nodes[at];
                    node.heard.entry(peer).or_default().1 = heard;
                    node.keys_answered += u64::from(entries.iter().any(|entry| entry.sequence == 0));
                    let kept = node.hashes.entry(peer).or_default();
                    if void {
                        kept.clear();
                    }
                    kept.extend(entries.iter().map(|entry| entry.content));
                }
                Deed::Described(..) => self.nodes[at].described += 1,
                Deed::Strike(peer, why) => self.strikes.push(format!("{at} of {}: {why}", node_of(peer))),
                Deed::Offer(..) | Deed::Offered(..) => panic!("nobody here asks for jobs"),
            }
        }
    }

    /// The owner does something: another copy of a recording, and questions about one, those who served best first.
    fn whim(&mut self, at: usize) {
        let now = self.now;
        let wanted = self.draw();
        let version = self.chance.below(6);
        let node = &mut self.nodes[at];
        let changed = *node.copies.keys().nth(node.chance.below(SHARED as u64) as usize).unwrap();
        node.share(changed, &[version]);
        let own = node.own();
        node.gossip.on_changed(own);
        let wished = copy(wanted, version, &Private::default());
        let claim = claim_of(&wished);
        let mut peers: Vec<PeerId> = node.links.keys().copied().collect();
        let score = |peer: &PeerId| node.reputation.get(peer).map_or(0.5, Reputation::score);
        peers.sort_by(|one, other| score(other).total_cmp(&score(one)));
        let mut deeds = Vec::new();
        for peer in &peers {
            node.gossip.ask_key(*peer, claim.flac_key, now, &mut deeds);
        }
        deeds.extend(peers.first().map(|peer| Deed::Say(*peer, Control::Ask(Ask::Release(release_of(wanted))))));
        let best: Vec<usize> = peers.iter().take(3).map(|peer| node.links[peer]).collect();
        self.perform(at, deeds);
        for link in best {
            let side = usize::from(self.links[link].ends[0].node != at);
            self.feed(link, side, Input::Ask(0, claim.content));
        }
        self.touch(at);
    }

    /// Whether this node's neighbours say they have it, and whether one look-up at its key finds one who has.
    pub(super) fn finds(&mut self, at: usize, recording: u128) -> (bool, bool) {
        let neighbours: Vec<PeerId> = self.nodes[at].links.keys().copied().collect();
        let says = |peer: &PeerId| self.nodes[at].told.get(peer).is_some_and(|told| told.contains(&recording));
        let told = neighbours.iter().any(says);
        let found = self.sample(content_key(recording), at);
        let has = |other: &usize| {
            let node = &self.nodes[*other];
            let room = node.guard.open() < CONNECTIONS_MAX || node.links.contains_key(&id_of(at));
            node.up && room && node.copies.contains_key(&recording)
        };
        (told, found.iter().any(has))
    }
}
