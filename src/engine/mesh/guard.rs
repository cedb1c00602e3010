//! Who may connect how often, who may not for a while, and whose seats are kept free.
//!
//! Addresses are counted before their handshake, keys after it; of IPv6 a /64 counts as one address, because one machine
//! has all of it. Both are remembered in tables of fixed size: when one is full, whoever was quiet longest is forgotten.
//! Bans of the owner are not kept here; these have a term.
//!
//! | Seat | For | How many |
//! |---|---|---|
//! | handshake | a caller whose key is not proven | `limits::MESH_HANDSHAKES`, and some more where a named peer was before |
//! | named | peers that the owner named, either way | kept free for as many as are named |
//! | found | strangers that we called | kept free for as many as we may call |
//! | caller | strangers that called us | what is left |
//!
//! So strangers cannot keep out those whom the owner named, nor those whom we choose to call.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::model::id::PeerId;
use crate::model::limits;

const MINUTE: Duration = Duration::from_secs(60);
const BAN: Duration = Duration::from_secs(limits::MESH_BAN_S);
/// An address is banned when so many keys could have been banned behind it. Chosen.
const KEYS_PER_ADDRESS: u32 = 5;
/// Handshakes beside `limits::MESH_HANDSHAKES`, for addresses at which a named peer was before. Chosen.
const FRIENDS: usize = 4;

/// Why a caller is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is banned for a while, or by the owner.
    #[error("it is banned")]
    Banned,
    /// It has as many connections as one address may.
    #[error("too many connections from one address")]
    PerAddress,
    /// It calls too often.
    #[error("too many attempts from one address")]
    TooOften,
    /// No more connections at all.
    #[error("no room for more connections")]
    Full,
    /// Too many others are in their handshake.
    #[error("too many handshakes at once")]
    Handshakes,
    /// No buffers.
    #[error("no buffers are free")]
    Buffers,
    /// It did not get through the handshake, or showed another key than it must.
    #[error("the handshake failed")]
    Handshake,
}

impl Refused {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Banned, Self::PerAddress, Self::TooOften, Self::Full, Self::Handshakes, Self::Buffers, Self::Handshake];

    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Banned => "banned",
            Self::PerAddress => "per_address",
            Self::TooOften => "too_often",
            Self::Full => "full",
            Self::Handshakes => "handshakes",
            Self::Buffers => "buffers",
            Self::Handshake => "handshake_failed",
        }
    }
}

/// Whose seat it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The owner named it.
    Named,
    /// A stranger that we called.
    Found,
    /// A stranger that called us.
    Caller,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seats {
    /// Connections at once.
    pub all: usize,
    /// Of these, kept for peers that are named.
    pub named: usize,
    /// Of the others, kept for those whom we call.
    pub found: usize,
}

impl Seats {
    /// For so many named peers, and so many strangers that we may call: these get at most half of what the named leave.
    pub fn new(all: usize, named: usize, found: usize) -> Self {
        let named = named.min(all);
        Self { all, named, found: found.min((all - named) / 2) }
    }
}

/// How a caller behaved.
#[derive(Clone, Debug, Default)]
struct Record {
    /// Connections that are open, and handshakes.
    open: usize,
    /// A named peer was there.
    friend: bool,
    /// Attempts since `counted_from`.
    attempts: usize,
    counted_from: Duration,
    violations: u32,
    banned_until: Option<Duration>,
    last: Duration,
}

impl Record {
    fn is_banned(&mut self, now: Duration) -> bool {
        if self.banned_until.is_some_and(|until| until <= now) {
            self.banned_until = None;
            self.violations = 0;
        }
        self.banned_until.is_some()
    }

    fn strike(&mut self, violations_max: u32, now: Duration) {
        self.last = now;
        self.violations = self.violations.saturating_add(1);
        if self.violations >= violations_max {
            self.banned_until = Some(now.saturating_add(BAN));
        }
    }
}

/// What counts as one address: of IPv6 a /64, but on the local network, where it is that of the whole house, a machine.
fn scope(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_unique_local() => IpAddr::V6(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The tables.
#[derive(Debug)]
pub struct Guard {
    addresses: BTreeMap<IpAddr, Record>,
    keys: BTreeMap<PeerId, Record>,
    seats: Seats,
    /// Callers whose key is not proven.
    greeting: usize,
    named: usize,
    found: usize,
    callers: usize,
}

impl Guard {
    /// With so many seats.
    pub fn new(seats: Seats) -> Self {
        let (addresses, keys) = (BTreeMap::new(), BTreeMap::new());
        Self { addresses, keys, seats, greeting: 0, named: 0, found: 0, callers: 0 }
    }

    /// Whether there is a seat for one more of these.
    fn has_room(&self, who: Who) -> bool {
        let Seats { all, named, found } = self.seats;
        let strangers = self.found + self.callers;
        let left = all.saturating_sub(named);
        self.open() < all
            && match who {
                Who::Named => true,
                Who::Found => strangers < left,
                Who::Caller => strangers < left && self.callers < left.saturating_sub(found),
            }
    }

    fn seats_of(&mut self, who: Option<Who>) -> &mut usize {
        match who {
            None => &mut self.greeting,
            Some(Who::Named) => &mut self.named,
            Some(Who::Found) => &mut self.found,
            Some(Who::Caller) => &mut self.callers,
        }
    }

    /// Somebody calls from this address, and may show its key. When let in, [`Guard::proven`] or [`Guard::left`] must
    /// follow.
    ///
    /// # Errors
    /// It is not let in.
    pub fn calls(&mut self, address: IpAddr, now: Duration) -> Result<(), Refused> {
        let missed = self.named < self.seats.named && self.has_room(Who::Named);
        let (greeting, room) = (self.greeting, missed || self.has_room(Who::Caller));
        let loopback = address.to_canonical().is_loopback();
        let record = entry(&mut self.addresses, scope(address), now);
        record.last = now;
        if record.is_banned(now) {
            return Err(Refused::Banned);
        }
        if now.saturating_sub(record.counted_from) >= MINUTE {
            (record.attempts, record.counted_from) = (0, now);
        }
        record.attempts = record.attempts.saturating_add(1);
        if !loopback {
            if record.attempts > limits::MESH_ATTEMPTS_PER_MINUTE {
                return Err(Refused::TooOften);
            }
            if record.open >= limits::MESH_CONNECTIONS_PER_ADDRESS {
                return Err(Refused::PerAddress);
            }
        }
        if !room {
            return Err(Refused::Full);
        }
        if greeting >= limits::MESH_HANDSHAKES + if record.friend { FRIENDS } else { 0 } {
            return Err(Refused::Handshakes);
        }
        record.open += 1;
        self.greeting += 1;
        Ok(())
    }

    /// A caller that was let in has shown its key. Its handshake is over, whatever the answer.
    ///
    /// # Errors
    /// There is no seat for it; [`Guard::left`] must follow as if its key were not proven.
    pub fn proven(&mut self, address: IpAddr, who: Who, now: Duration) -> Result<(), Refused> {
        if !self.has_room(who) {
            return Err(Refused::Full);
        }
        self.greeting = self.greeting.saturating_sub(1);
        *self.seats_of(Some(who)) += 1;
        entry(&mut self.addresses, scope(address), now).friend |= who == Who::Named;
        Ok(())
    }

    /// We call; counts like a caller, but is never refused for its address. [`Guard::left`] must follow.
    ///
    /// # Errors
    /// There is no room.
    pub fn dials(&mut self, address: IpAddr, who: Who, now: Duration) -> Result<(), Refused> {
        if !self.has_room(who) {
            return Err(Refused::Full);
        }
        let record = entry(&mut self.addresses, scope(address), now);
        record.open += 1;
        record.friend |= who == Who::Named;
        *self.seats_of(Some(who)) += 1;
        Ok(())
    }

    /// A connection is gone; `None`: before its key was proven.
    pub fn left(&mut self, address: IpAddr, who: Option<Who>) {
        let seats = self.seats_of(who);
        *seats = seats.saturating_sub(1);
        if let Some(record) = self.addresses.get_mut(&scope(address)) {
            record.open = record.open.saturating_sub(1);
        }
    }

    /// Whether this key may be connected with now.
    pub fn may(&mut self, key: PeerId, now: Duration) -> bool {
        self.keys.get_mut(&key).is_none_or(|record| !record.is_banned(now))
    }

    /// It did what it must not. The key is `None` before it is proven.
    pub fn strike(&mut self, address: IpAddr, key: Option<PeerId>, now: Duration) {
        // Behind one address may be many, so a proven key answers for itself; but keys cost nothing.
        let most = if let Some(key) = key {
            entry(&mut self.keys, key, now).strike(limits::MESH_VIOLATIONS, now);
            limits::MESH_VIOLATIONS * KEYS_PER_ADDRESS
        } else {
            limits::MESH_VIOLATIONS
        };
        if key.is_none() || !address.to_canonical().is_loopback() {
            entry(&mut self.addresses, scope(address), now).strike(most, now);
        }
    }

    /// Connections that are open; handshakes are not.
    pub fn open(&self) -> usize {
        self.named + self.found + self.callers
    }
}

/// The record of a caller; a new one takes the place of whoever was quiet longest and has nothing open, of those with
/// whom no named peer was if there are any.
fn entry<K: Ord + Copy>(table: &mut BTreeMap<K, Record>, key: K, now: Duration) -> &mut Record {
    if table.len() >= limits::MESH_STRUCK && !table.contains_key(&key) {
        let idle = table.iter().filter(|(_, record)| record.open == 0);
        let quiet = idle.min_by_key(|(_, record)| (record.friend, record.banned_until, record.last));
        if let Some(quiet) = quiet.map(|(key, _)| *key) {
            table.remove(&quiet);
        }
    }
    table.entry(key).or_insert_with(|| Record { counted_from: now, last: now, ..Record::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn one_address_has_few_connections_and_few_attempts() {
        let mut guard = Guard::new(Seats::new(50, 0, 0));
        for _ in 0..limits::MESH_CONNECTIONS_PER_ADDRESS {
            assert_eq!(guard.calls(address(1), at(0)), Ok(()));
        }
        assert_eq!(guard.calls(address(1), at(0)), Err(Refused::PerAddress));
        guard.left(address(1), None);
        assert_eq!(guard.calls(address(1), at(1)), Ok(()));
        for _ in limits::MESH_CONNECTIONS_PER_ADDRESS + 2..limits::MESH_ATTEMPTS_PER_MINUTE {
            assert_eq!(guard.calls(address(1), at(2)), Err(Refused::PerAddress));
        }
        guard.left(address(1), None);
        assert_eq!(guard.calls(address(1), at(3)), Err(Refused::TooOften));
        assert_eq!(guard.calls(address(2), at(3)), Ok(()), "others are not affected");
        assert_eq!(guard.calls(address(1), at(63)), Ok(()));
        // The same address in its IPv6 clothes.
        let mapped = IpAddr::from(std::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped());
        assert_eq!(guard.calls(mapped, at(64)), Err(Refused::PerAddress));
    }

    fn home(n: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, n])
    }

    /// Calls and shows its key.
    fn comes(guard: &mut Guard, at: IpAddr, who: Who) -> Result<(), Refused> {
        guard.calls(at, Duration::ZERO)?;
        let seated = guard.proven(at, who, Duration::ZERO);
        if seated.is_err() {
            guard.left(at, None);
        }
        seated
    }

    #[test]
    fn all_together_have_so_many() {
        let mut guard = Guard::new(Seats::new(2, 0, 0));
        let dial = |guard: &mut Guard| guard.dials(home(1), Who::Found, at(0));
        assert_eq!((comes(&mut guard, home(1), Who::Caller), dial(&mut guard)), (Ok(()), Ok(())));
        assert_eq!(guard.calls(home(1), at(0)), Err(Refused::Full));
        assert_eq!(dial(&mut guard), Err(Refused::Full));
        guard.left(home(1), Some(Who::Found));
        assert_eq!((guard.calls(home(1), at(0)), guard.open()), (Ok(()), 1));
    }

    #[test]
    fn strangers_leave_seats_to_the_named_and_to_those_we_call() {
        // Two named, three to be called: five strangers may call.
        let mut guard = Guard::new(Seats::new(10, 2, 3));
        for n in 1..=5 {
            assert_eq!(comes(&mut guard, home(n), Who::Caller), Ok(()));
        }
        // Their key is looked at while a named peer is missing.
        assert_eq!(guard.calls(home(6), at(0)), Ok(()));
        assert_eq!(guard.proven(home(6), Who::Caller, at(0)), Err(Refused::Full));
        guard.left(home(6), None);
        for _ in 0..3 {
            assert_eq!(guard.dials(home(7), Who::Found, at(0)), Ok(()));
        }
        assert_eq!(guard.dials(home(7), Who::Found, at(0)), Err(Refused::Full));
        assert_eq!(comes(&mut guard, home(8), Who::Named), Ok(()));
        assert_eq!(guard.dials(home(9), Who::Named, at(0)), Ok(()));
        assert_eq!((guard.open(), guard.calls(home(10), at(0))), (10, Err(Refused::Full)));
        guard.left(home(1), Some(Who::Caller));
        assert_eq!(comes(&mut guard, home(10), Who::Caller), Ok(()));
        // Those we call leave no room to callers, and have at most half.
        assert_eq!(Seats::new(10, 2, 50), Seats { all: 10, named: 2, found: 4 });
        assert_eq!(Seats::new(10, 64, 50), Seats { all: 10, named: 10, found: 0 });
    }

    #[test]
    fn handshakes_are_few_and_a_friend_has_some_more() {
        let mut guard = Guard::new(Seats::new(50, 1, 0));
        assert_eq!(comes(&mut guard, address(9), Who::Named), Ok(()));
        guard.left(address(9), Some(Who::Named));
        for _ in 0..limits::MESH_HANDSHAKES {
            assert_eq!(guard.calls(home(1), at(1)), Ok(()));
        }
        assert_eq!(guard.calls(home(2), at(1)), Err(Refused::Handshakes));
        assert_eq!(guard.calls(address(9), at(1)), Ok(()));
        guard.left(home(1), None);
        guard.left(home(1), None);
        assert_eq!(guard.calls(home(2), at(1)), Ok(()));
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let mut guard = Guard::new(Seats::new(50, 0, 0));
        let ip = |net: u16, host: u16| IpAddr::from([0x2001, 0x470, 1, net, host, host, host, host]);
        for host in 0..3 {
            assert_eq!(guard.calls(ip(1, host), at(0)), Ok(()));
        }
        assert_eq!(guard.calls(ip(1, 99), at(0)), Err(Refused::PerAddress));
        assert_eq!(guard.calls(ip(2, 99), at(0)), Ok(()));
        guard.left(ip(1, 77), None);
        assert_eq!(guard.calls(ip(1, 99), at(0)), Ok(()));
        // All boxes of a house have these networks.
        for net in [0xfe80, 0xfd00] {
            for host in 0..4 {
                assert_eq!(guard.calls(IpAddr::from([net, 0, 0, 0, 0, 0, 0, host]), at(0)), Ok(()), "{net:x} {host}");
            }
        }
    }

    #[test]
    fn keys_of_one_address_are_counted_together() {
        let mut guard = Guard::new(Seats::new(50, 0, 0));
        let key = |n: u32| PeerId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        let many = limits::MESH_VIOLATIONS * KEYS_PER_ADDRESS;
        for n in 0..many {
            assert_eq!(guard.calls(address(1), at(u64::from(n) * 61)), Ok(()), "{n}");
            guard.left(address(1), None);
            guard.strike(address(1), Some(key(n)), at(u64::from(n) * 61));
            guard.strike(home(1), Some(key(n)), at(u64::from(n) * 61));
        }
        let end = u64::from(many) * 61;
        assert_eq!(guard.calls(address(1), at(end)), Err(Refused::Banned), "fifteen keys, one violation each");
        assert_eq!(guard.calls(home(1), at(end)), Ok(()), "loopback is no address of a stranger");
        assert!(guard.may(key(0), at(end)));
    }

    #[test]
    fn violations_ban_for_a_term() {
        let mut guard = Guard::new(Seats::new(50, 0, 0));
        let key = PeerId([1; 32]);
        for seconds in 0..u64::from(limits::MESH_VIOLATIONS) {
            assert!(guard.may(key, at(seconds)));
            guard.strike(address(1), Some(key), at(seconds));
            guard.strike(address(2), None, at(seconds));
        }
        assert!(!guard.may(key, at(301)));
        assert!(guard.may(PeerId([2; 32]), at(301)));
        assert_eq!(guard.calls(address(1), at(301)), Ok(()), "the key answers, not the address");
        assert_eq!(guard.calls(address(2), at(301)), Err(Refused::Banned));
        assert!(guard.may(key, at(302)));
        assert_eq!(guard.calls(address(2), at(302)), Ok(()));
        guard.strike(address(1), Some(key), at(303));
        assert!(guard.may(key, at(303)), "after the term it begins anew");
    }

    #[test]
    fn the_tables_are_bounded_and_forget_the_quiet() {
        let mut guard = Guard::new(Seats::new(50, 0, 0));
        let key = |n: usize| PeerId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        for n in 0..limits::MESH_STRUCK * 2 {
            guard.strike(address(1), Some(key(n)), at(n as u64));
        }
        assert_eq!(guard.keys.len(), limits::MESH_STRUCK);
        assert!(!guard.keys.contains_key(&key(0)) && guard.keys.contains_key(&key(limits::MESH_STRUCK * 2 - 1)));
    }
}
