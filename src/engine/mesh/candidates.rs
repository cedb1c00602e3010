//! Whom to call besides the peers that the owner named, and when.
//!
//! Candidates come from the DHT, which knows an address and nothing else, or from the own network, which also knows the
//! key. Here it is decided which of them are taken at all, whose turn it is, and when somebody is given up; the calls
//! themselves are `net::mesh`'s. Whoever they are is proven by TLS, never here.
//!
//! A stranger in the DHT can invent as many addresses as it likes. So the table is bounded, few are taken of one
//! network, none that is not reachable from everywhere unless the owner allows it (DECISIONS 10), calls are few a
//! second, and there are no more once enough strangers are connected.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use crate::engine::soulseek::chance::Chance;
use crate::engine::soulseek::connections::address;
use crate::model::id::PeerId;
use crate::model::limits;
use crate::model::mesh::Origin;

/// The pause after the first failure; doubles with each.
const PAUSE: Duration = Duration::from_secs(15);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// A connection that lasted so long was a good one.
const STABLE: Duration = Duration::from_secs(30);
/// Failures in a row after which a candidate is forgotten: some five minutes.
const FAILURES: u32 = 5;
/// Between two calls.
const SPACING: Duration = Duration::from_millis(1_000 / limits::MESH_CALLS_PER_SECOND);

/// Somebody who may be a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Whose key must be there; `None` if that is not known.
    pub key: Option<PeerId>,
    /// Where to try, best first.
    pub addresses: Vec<SocketAddr>,
    /// Who told of it.
    pub origin: Origin,
}

/// Why a candidate is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Passed {
    /// It is us.
    #[error("that is this node")]
    Own,
    /// No address that may be dialled.
    #[error("its address may not be dialled")]
    Address,
    /// Its network has as many already.
    #[error("too many candidates of one network")]
    Crowded,
    /// The owner bans it.
    #[error("the configuration bans it")]
    Banned,
    /// The table is full of better ones.
    #[error("no room for more candidates")]
    Full,
}

/// Which addresses may be dialled (DECISIONS 10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// `network.private_ranges`.
    pub private: Vec<(Ipv4Addr, u8)>,
    /// The Soulseek server itself is on a private network.
    pub server_near: bool,
}

impl Range {
    /// Whether this address may be dialled when a stranger names it.
    pub fn allows(&self, at: SocketAddr) -> bool {
        match (at.ip().to_canonical(), at.port()) {
            (_, 0) => false,
            (IpAddr::V4(ip), port) => address::dialable(SocketAddrV4::new(ip, port), self.server_near, &self.private),
            (IpAddr::V6(ip), _) => is_global_v6(ip),
        }
    }

    /// The same for an address on the Internet, whatever is allowed besides.
    pub fn is_global(ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => address::is_global(ip),
            IpAddr::V6(ip) => is_global_v6(ip),
        }
    }
}

/// Global unicast, less documentation and what wraps IPv4 addresses (RFC 6890 and its updates).
fn is_global_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    (0x2000..0x4000).contains(&first) && first != 0x2002 && !(first == 0x2001 && (second < 0x0200 || second == 0x0db8))
}

/// A call to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Comes back with what came of it.
    pub number: u64,
    /// Whose key must be there; `None` if that is not known.
    pub key: Option<PeerId>,
    /// Where to try, in this order.
    pub addresses: Vec<SocketAddr>,
    /// Who told of it.
    pub origin: Origin,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// There was no connection.
    Failed,
    /// This peer is connected already.
    Known(PeerId),
    /// We called ourselves, at this address.
    Own(SocketAddr),
    /// There was a connection, and it is over after so long.
    Over(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Calling,
    Connected,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Option<PeerId>,
    /// What TLS proved at its address, the last time.
    proven: Option<PeerId>,
    addresses: Vec<SocketAddr>,
    origin: Origin,
    state: State,
    failures: u32,
    not_before: Duration,
}

/// The table.
#[derive(Debug)]
pub struct Candidates {
    own: PeerId,
    /// Where we were found to be ourselves; the oldest is forgotten.
    own_addresses: VecDeque<SocketAddr>,
    range: Range,
    strangers_max: usize,
    entries: BTreeMap<u64, Entry>,
    numbers: u64,
    next_call: Duration,
}

impl Candidates {
    /// An empty table. Nobody of the DHT is called while so many strangers are connected.
    pub fn new(own: PeerId, range: Range, strangers_max: usize) -> Self {
        Self {
            own,
            own_addresses: VecDeque::new(),
            range,
            strangers_max,
            entries: BTreeMap::new(),
            numbers: 0,
            next_call: Duration::ZERO,
        }
    }

    /// Which addresses may be dialled.
    pub fn range(&self) -> &Range {
        &self.range
    }

    /// The Soulseek server is near, or is not.
    pub fn set_server_near(&mut self, near: bool) {
        self.range.server_near = near;
    }

    /// Never to be dialled: it leads here.
    pub fn is_ours(&mut self, at: SocketAddr) {
        let at = canonical(at);
        if self.own_addresses.contains(&at) {
            return;
        }
        self.own_addresses.push_back(at);
        while self.own_addresses.len() > limits::MESH_OWN_ADDRESSES {
            self.own_addresses.pop_front();
        }
        self.entries.retain(|_, entry| {
            entry.addresses.retain(|address| *address != at);
            !entry.addresses.is_empty() || entry.state != State::Waiting
        });
    }

    /// Somebody was found. One who is known already gets the new addresses besides.
    ///
    /// # Errors
    /// It is not taken.
    pub fn add(&mut self, candidate: Candidate, now: Duration) -> Result<(), Passed> {
        let Candidate { key, addresses, origin } = candidate;
        if key == Some(self.own) {
            return Err(Passed::Own);
        }
        let machine = |at: &SocketAddr| {
            let ip = at.ip();
            at.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
        };
        let given = !addresses.is_empty();
        let mut fresh: Vec<SocketAddr> = addresses.into_iter().map(canonical).collect();
        fresh.retain(|at| match origin {
            Origin::Lan => machine(at),
            Origin::Dht => self.range.allows(*at),
        });
        let allowed = fresh.len();
        fresh.retain(|at| !self.own_addresses.contains(at));
        fresh.truncate(limits::MESH_ADDRESSES);
        if fresh.is_empty() {
            return Err(if given && allowed > 0 { Passed::Own } else { Passed::Address });
        }
        let same = |entry: &Entry| match key {
            Some(key) => entry.key == Some(key),
            None => entry.addresses.iter().any(|at| fresh.contains(at)),
        };
        if let Some(entry) = self.entries.values_mut().find(|entry| same(entry)) {
            // Where it is now comes first; where it was may still be right.
            let old = std::mem::take(&mut entry.addresses);
            let moved = fresh.iter().any(|at| !old.contains(at));
            fresh.extend(old.into_iter().filter(|at| !fresh.contains(at)).collect::<Vec<_>>());
            fresh.truncate(limits::MESH_ADDRESSES);
            entry.addresses = fresh;
            entry.origin = entry.origin.min(origin);
            if moved && entry.state == State::Waiting {
                (entry.failures, entry.not_before) = (0, now);
            }
            return Ok(());
        }
        if origin == Origin::Dht {
            let network = network(fresh[0].ip());
            let of_it = |entry: &&Entry| {
                entry.origin == Origin::Dht && entry.addresses.iter().any(|at| self::network(at.ip()) == network)
            };
            if self.entries.values().filter(of_it).count() >= limits::MESH_CANDIDATES_PER_NETWORK {
                return Err(Passed::Crowded);
            }
        }
        if self.entries.len() >= limits::MESH_CANDIDATES {
            // Whoever failed most gives way, one of the DHT first; a fresh one of the DHT does not push others out.
            let weak = |entry: &Entry| (entry.origin, entry.failures);
            let weakest = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.state == State::Waiting)
                .max_by_key(|(_, entry)| weak(entry))
                .map(|(number, entry)| (*number, weak(entry)));
            match weakest {
                Some((number, weakness)) if weakness > (origin, 0) => self.entries.remove(&number),
                _ => return Err(Passed::Full),
            };
        }
        self.numbers += 1;
        let entry =
            Entry { key, proven: None, addresses: fresh, origin, state: State::Waiting, failures: 0, not_before: now };
        self.entries.insert(self.numbers, entry);
        Ok(())
    }

    /// Whose turn it is. `strangers` are connected that the owner did not name; `connected` says whether this peer is,
    /// or somebody at this address. [`Candidates::ended`] must follow.
    pub fn next(
        &mut self,
        strangers: usize,
        connected: impl Fn(Option<PeerId>, &[SocketAddr]) -> bool,
        now: Duration,
    ) -> Option<Call> {
        let calling = self.entries.values().filter(|entry| entry.state == State::Calling).count();
        if now < self.next_call || calling >= limits::MESH_CALLS_AT_ONCE {
            return None;
        }
        let enough = strangers.saturating_add(calling) >= self.strangers_max;
        let due = |entry: &Entry| {
            entry.state == State::Waiting
                && entry.not_before <= now
                && !(enough && entry.origin == Origin::Dht)
                && !connected(entry.key.or(entry.proven), &entry.addresses)
        };
        // Those of the own network first, then whoever waits longest.
        let first = self.entries.iter().filter(|(_, entry)| due(entry));
        let (&number, _) = first.min_by_key(|(number, entry)| (entry.origin, entry.not_before, **number))?;
        let entry = self.entries.get_mut(&number)?;
        entry.state = State::Calling;
        self.next_call = now.saturating_add(SPACING);
        Some(Call { number, key: entry.key, addresses: entry.addresses.clone(), origin: entry.origin })
    }

    /// When to ask for the next call at the latest; `None` while nobody waits. Somebody connected may go earlier.
    pub fn next_timeout(&self) -> Option<Duration> {
        let waiting = self.entries.values().filter(|entry| entry.state == State::Waiting);
        waiting.map(|entry| entry.not_before.max(self.next_call)).min()
    }

    /// The call has become a connection with this peer.
    pub fn connected(&mut self, number: u64, peer: PeerId) {
        if let Some(entry) = self.entries.get_mut(&number) {
            (entry.state, entry.proven) = (State::Connected, Some(peer));
        }
    }

    /// The call or its connection is over.
    pub fn ended(&mut self, number: u64, ended: Ended, now: Duration, chance: &mut Chance) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        entry.state = State::Waiting;
        match ended {
            Ended::Own(at) => {
                self.entries.remove(&number);
                self.is_ours(at);
                return;
            }
            Ended::Known(peer) => {
                entry.proven = Some(peer);
                entry.failures = 0;
            }
            Ended::Over(lasted) if lasted >= STABLE => entry.failures = 0,
            Ended::Over(_) | Ended::Failed => entry.failures += 1,
        }
        if entry.failures >= FAILURES {
            self.entries.remove(&number);
            return;
        }
        let pause = PAUSE.saturating_mul(1 << entry.failures.saturating_sub(1)).min(PAUSE_MAX);
        entry.not_before = now.saturating_add(jittered(pause, chance));
    }

    /// Candidates, connected ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Who told of this peer.
    pub fn origin(&self, peer: PeerId) -> Option<Origin> {
        let mut of_it = self.entries.values().filter(|entry| entry.key == Some(peer) || entry.proven == Some(peer));
        of_it.next().map(|entry| entry.origin)
    }
}

/// Between three quarters and five quarters of it, so that nodes that lost each other do not meet in a storm.
fn jittered(pause: Duration, chance: &mut Chance) -> Duration {
    let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis((ms - ms / 4).saturating_add(chance.below(ms / 2 + 1)))
}

fn canonical(at: SocketAddr) -> SocketAddr {
    match (at.ip().to_canonical(), at) {
        // The scope of a link-local address must stay.
        (IpAddr::V6(_), _) => at,
        (ip, _) => SocketAddr::new(ip, at.port()),
    }
}

/// What one owner of addresses usually has: /24, or /48.
pub(super) fn network(ip: IpAddr) -> (bool, u64) {
    match ip {
        IpAddr::V4(ip) => (false, u64::from(ip.to_bits() >> 8)),
        IpAddr::V6(ip) => (true, u64::try_from(ip.to_bits() >> 80).unwrap_or(u64::MAX)),
    }
}

#[cfg(test)]
#[path = "candidates_tests.rs"]
mod tests;
