//! How nodes meet: asks the DHT and tells it of us as `engine::mesh::meeting` plans it, listens on the own network, and
//! hands what is found to the mesh.
//!
//! Whether others can reach our port decides whether anything is announced: the router says that it forwards it, the
//! owner says so, our address needs no router, or somebody has called from outside.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Running, announce, locked};
use crate::app::soulseek::Parts;
use crate::engine::mesh::candidates::Candidate;
use crate::engine::mesh::meeting::{Errand, Meeting, Rules, Standing, content_key};
use crate::engine::soulseek::chance::Chance;
use crate::model::config::{self, MeshPortMapping};
use crate::model::limits;
use crate::model::mesh::{Announced, AnnouncementView, DhtKey, LookView, MeetingView, Origin};
use crate::model::time::UnixMs;
use crate::net::dht::{Dht, ROUTERS};
use crate::net::mdns::{self, Sighting};
use crate::net::mesh::{Mesh, Reached};
use crate::net::port_mapping::{Mapped, Mode, PortMapping, Protocol};

/// Between two looks at what is shared.
const REFRESH: Duration = Duration::from_secs(15 * 60);
/// How we stand is looked at so often, besides when peers come and go.
const GLANCE: Duration = Duration::from_secs(10);
/// The DHT is closed when there is nothing to do in it for so long.
const REST: Duration = Duration::from_secs(60);
/// Whoever has a recording is looked for so long after it was last wanted.
const SOUGHT: Duration = Duration::from_secs(10 * 60);
/// What could be announced is remembered so long for those who look at the page.
const SHOWN: Duration = Duration::from_secs(30);

/// What is known for the page, with the mesh on or off.
pub(super) struct Board {
    parts: Arc<Parts>,
    settings: config::Mesh,
    places: Vec<(DhtKey, Announced)>,
    /// What the router says; short and synchronous.
    mapping: Mutex<Option<watch::Receiver<Mapped>>>,
    /// Short and synchronous.
    state: Mutex<State>,
    /// What could be announced, and when it was looked up.
    content: tokio::sync::Mutex<Option<(Instant, Content)>>,
}

type Content = Arc<Vec<(DhtKey, Announced)>>;

#[derive(Default)]
struct State {
    looks: VecDeque<LookView>,
    announced: BTreeMap<DhtKey, UnixMs>,
    problem: String,
    /// The own network's; set once.
    mdns_problem: String,
}

impl Board {
    pub(super) fn new(parts: Arc<Parts>, settings: config::Mesh) -> Self {
        let places = announce::places(&settings.dht);
        let (mapping, state, content) = (Mutex::default(), Mutex::default(), tokio::sync::Mutex::default());
        Self { parts, settings, places, mapping, state, content }
    }

    /// What could be announced besides the places, not older than this.
    async fn content(&self, age_max: Duration) -> Result<Content, String> {
        let mut kept = self.content.lock().await;
        if let Some((at, content)) = &*kept
            && at.elapsed() < age_max
        {
            return Ok(Arc::clone(content));
        }
        let parts = Arc::clone(&self.parts);
        let read = tokio::task::spawn_blocking(move || announce::content(&parts)).await;
        let content = Arc::new(read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?);
        *kept = Some((Instant::now(), Arc::clone(&content)));
        Ok(content)
    }

    /// For the page.
    ///
    /// # Errors
    /// One sentence: the store cannot be read.
    pub(super) async fn view(&self, mesh: Option<&Mesh>) -> Result<MeetingView, String> {
        let content = self.content(SHOWN).await?;
        let (reachable, reach) = mesh.map_or((None, "the mesh is off".to_owned()), |mesh| self.reach(mesh));
        let on = self.settings.enabled && self.settings.dht.enabled;
        let state = locked(&self.state);
        let announcement = |(key, what): &(DhtKey, Announced)| AnnouncementView {
            key: *key,
            what: what.clone(),
            wanted: on && (matches!(what, Announced::Place(_)) || self.settings.dht.announce_content),
            announced_at: state.announced.get(key).copied(),
        };
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(MeetingView {
            mesh: self.settings.enabled,
            dht: on,
            announce_content: self.settings.dht.announce_content,
            mdns: self.settings.enabled && self.settings.mdns,
            mdns_problem: state.mdns_problem.clone(),
            reachable: reachable.is_some(),
            reach,
            neighbours: small(mesh.map_or(0, |mesh| mesh.links().len())),
            neighbours_min: small(self.settings.dht.neighbors_min),
            neighbours_max: small(self.settings.dht.neighbors_max),
            candidates: small(mesh.map_or(0, Mesh::candidates)),
            problem: state.problem.clone(),
            looks: state.looks.iter().cloned().collect(),
            announcements: self.places.iter().chain(content.iter()).map(announcement).collect(),
        })
    }

    /// Which port others reach us at, if they do, and how that is known or what is missing.
    fn reach(&self, mesh: &Mesh) -> (Option<u16>, String) {
        let mapped = locked(&self.mapping).as_ref().map(|mapped| mapped.borrow().clone());
        if let Some(Mapped { text, port: Some(port) }) = &mapped {
            return (Some(port.get()), text.clone());
        }
        let port = mesh.port();
        if self.settings.port_mapping == MeshPortMapping::Manual {
            return (Some(port), format!("UDP port {port} is forwarded, as mesh.port_mapping says"));
        }
        match (mesh.reached(), mapped) {
            (Some(Reached::Direct(ip)), _) => (Some(port), format!("no router stands before {ip}")),
            (Some(Reached::Called(ago)), _) => {
                (Some(port), format!("somebody called from outside {} min ago", ago.as_secs() / 60))
            }
            (None, Some(mapped)) => (None, mapped.text),
            (None, None) => (
                None,
                format!(
                    "nobody has called yet, and mesh.port_mapping is off: forward UDP port {port} to this machine \
                     and say `manual`, or let the router be asked with `auto`"
                ),
            ),
        }
    }

    /// Why peers of the own network are not found.
    fn mdns_failed(&self, why: String) {
        locked(&self.state).mdns_problem = why;
    }

    fn look_done(&self, look: LookView) {
        let mut state = locked(&self.state);
        state.problem.clone_from(&look.problem);
        state.looks.push_front(look);
        state.looks.truncate(limits::DHT_LOOKS_SHOWN);
    }
}

/// Has the port forwarded, if the owner wants it.
pub(super) fn map_port(board: &Board, mesh: &Mesh, cancel: CancellationToken) {
    if board.settings.port_mapping == MeshPortMapping::Auto {
        let mapped = PortMapping::start(Protocol::Udp, mesh.port(), Mode::Auto, cancel);
        *locked(&board.mapping) = Some(mapped);
    }
}

/// Meets those of the own network until cancelled.
pub(super) async fn near(running: Arc<Running>) {
    let settings = &running.board.settings;
    let bind = SocketAddr::new(settings.address, running.mesh.port());
    if bind.ip().is_loopback() {
        running.board.mdns_failed("the mesh listens on loopback only".to_owned());
        return;
    }
    let (tell, mut seen) = mpsc::channel(limits::MDNS_SIGHTINGS);
    let listening = mdns::run(running.mesh.id(), bind, tell, running.cancel.clone());
    let meeting = async {
        while let Some(Sighting { id, addresses }) = seen.recv().await {
            let candidate = Candidate { key: Some(id), addresses, origin: Origin::Lan };
            if let Err(why) = running.mesh.meet(candidate) {
                tracing::debug!(%why, peer = %id, "a peer of the own network was passed over");
            }
        }
    };
    let (ended, ()) = tokio::join!(listening, meeting);
    if let Err(error) = ended {
        tracing::warn!(%error, "peers of the own network are not found");
        running.board.mdns_failed(error.to_string());
    }
}

/// Meets others by the DHT until cancelled.
pub(super) async fn run(running: Arc<Running>) {
    let board = Arc::clone(&running.board);
    let settings = &board.settings.dht;
    let bind = match board.settings.address {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(_) => {
            "the DHT is IPv4 only, and mesh.address is not".clone_into(&mut locked(&board.state).problem);
            return;
        }
    };
    let routers = if settings.bootstrap_nodes.is_empty() {
        ROUTERS.map(str::to_owned).into()
    } else {
        settings.bootstrap_nodes.clone()
    };
    let dht = Dht::new(bind, routers);
    let rules = Rules {
        announce_every: Duration::from_secs(settings.announce_interval_s),
        discover_every: Duration::from_secs(settings.discovery_interval_s),
        neighbours_min: settings.neighbors_min,
        rendezvous: board.places.iter().map(|(key, _)| *key).collect(),
    };
    let now = || running.parts.clock.now().mono;
    let mut chance = Chance::new(running.mesh.seed());
    let mut meeting = Meeting::new(rules, now());
    let mut changes = running.mesh.changes();
    let mut refresh_at = now();
    loop {
        if settings.announce_content && refresh_at <= now() {
            refresh_at = now() + REFRESH;
            match board.content(SHOWN).await {
                Ok(content) => {
                    let keys: Vec<DhtKey> = content.iter().map(|(key, _)| *key).collect();
                    meeting.set_content(&keys, now());
                }
                Err(error) => tracing::error!(error, "what is shared could not be looked up"),
            }
        }
        meeting.set_sought(&running.sought().into_iter().map(content_key).collect::<Vec<_>>(), now());
        let (reachable, _) = board.reach(&running.mesh);
        // Whoever called us may be anybody: with those alone we go on looking.
        let neighbours = running.mesh.links().iter().filter(|link| link.dialled() || link.is_named()).count();
        meeting.set_standing(Standing { neighbours, reachable: reachable.is_some() }, now());
        if let Some(errand) = meeting.next(now()) {
            let reached = tokio::select! {
                () = running.cancel.cancelled() => break,
                reached = go(&running, &dht, errand, reachable, &mut chance) => reached,
            };
            meeting.done(errand, reached, now(), &mut chance);
            continue;
        }
        let due = meeting.next_timeout();
        if due.is_none_or(|due| due > now() + REST) {
            dht.rest().await;
        }
        let pause = due.map_or(GLANCE, |due| due.saturating_sub(now()).min(GLANCE));
        tokio::select! {
            () = running.cancel.cancelled() => break,
            () = sleep_until(Instant::now() + pause) => {}
            changed = changes.changed() => if changed.is_err() { break },
            () = running.seeking.notified() => {}
        }
    }
}

impl Running {
    /// Looks for somebody who has this recording, for a while from now on. False if the owner keeps out of the DHT.
    pub(super) fn seek(&self, recording: u128) -> bool {
        if !self.board.settings.dht.enabled {
            return false;
        }
        let now = Instant::now();
        let mut sought = locked(&self.sought);
        let is_new = sought.insert(recording, now + SOUGHT).is_none_or(|until| until <= now);
        if sought.len() > limits::DHT_SOUGHT
            && let Some(oldest) = sought.iter().min_by_key(|(_, until)| **until).map(|(recording, _)| *recording)
        {
            sought.remove(&oldest);
        }
        drop(sought);
        if is_new {
            self.seeking.notify_one();
        }
        true
    }

    /// Recordings that somebody is looked for who has them.
    fn sought(&self) -> Vec<u128> {
        let now = Instant::now();
        let mut sought = locked(&self.sought);
        sought.retain(|_, until| *until > now);
        sought.keys().copied().collect()
    }
}

/// Does one errand; whether the DHT answered.
async fn go(running: &Running, dht: &Dht, errand: Errand, port: Option<u16>, chance: &mut Chance) -> bool {
    let board = &running.board;
    let (key, done) = match (errand, port) {
        (Errand::Announce(key), Some(port)) => (key, dht.announce(key, port).await),
        (Errand::Look(key) | Errand::Announce(key), _) => (key, dht.look(key).await),
    };
    let at = running.parts.clock.now().wall;
    let look = match done {
        Ok(found) => {
            if matches!(errand, Errand::Announce(_)) && port.is_some() {
                let mut state = locked(&board.state);
                state.announced.insert(key, at);
                // Keys that are no longer announced are of no interest after a day.
                state.announced.retain(|_, told| at.since(*told) < Duration::from_secs(24 * 3_600));
            }
            let mut found: Vec<SocketAddrV4> = found.into_iter().collect();
            let count = found.len();
            // In no order that whoever put them there could choose.
            let mut taken = 0;
            while !found.is_empty() {
                let at = usize::try_from(chance.below(found.len() as u64)).unwrap_or(0);
                let address = SocketAddr::V4(found.swap_remove(at));
                let candidate = Candidate { key: None, addresses: vec![address], origin: Origin::Dht };
                match running.mesh.meet(candidate) {
                    Ok(()) => taken += 1,
                    Err(why) => tracing::debug!(%why, "an address of the DHT was passed over"),
                }
            }
            LookView { key, at, found: count, taken, problem: String::new() }
        }
        Err(error) => LookView { key, at, found: 0, taken: 0, problem: error.to_string() },
    };
    let reached = look.problem.is_empty();
    board.look_done(look);
    reached
}
