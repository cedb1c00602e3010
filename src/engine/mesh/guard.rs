//! Who may connect how often, and who may not for a while.
//!
//! Addresses are counted before their handshake, keys after it. Both are remembered in tables of fixed size: when one
//! is full, whoever was quiet longest is forgotten. Bans of the owner are not kept here; these have a term.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::model::id::PeerId;
use crate::model::limits;

const MINUTE: Duration = Duration::from_secs(60);
const BAN: Duration = Duration::from_secs(limits::MESH_BAN_S);
/// An address is banned when so many keys could have been banned behind it. Chosen.
const KEYS_PER_ADDRESS: u32 = 5;

/// Why a caller is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is banned for a while.
    #[error("banned for a while")]
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
}

/// How a caller behaved.
#[derive(Clone, Debug, Default)]
struct Record {
    /// Connections that are open.
    open: usize,
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

/// The tables.
#[derive(Debug)]
pub struct Guard {
    addresses: BTreeMap<IpAddr, Record>,
    keys: BTreeMap<PeerId, Record>,
    open: usize,
    open_max: usize,
}

impl Guard {
    /// Lets in so many connections at once.
    pub fn new(open_max: usize) -> Self {
        Self { addresses: BTreeMap::new(), keys: BTreeMap::new(), open: 0, open_max }
    }

    /// Somebody calls from this address. When let in, [`Guard::left`] must follow at the connection's end.
    ///
    /// # Errors
    /// It is not let in.
    pub fn calls(&mut self, address: IpAddr, now: Duration) -> Result<(), Refused> {
        let address = address.to_canonical();
        if self.open >= self.open_max {
            return Err(Refused::Full);
        }
        let record = entry(&mut self.addresses, address, now);
        record.last = now;
        if record.is_banned(now) {
            return Err(Refused::Banned);
        }
        if now.saturating_sub(record.counted_from) >= MINUTE {
            (record.attempts, record.counted_from) = (0, now);
        }
        record.attempts = record.attempts.saturating_add(1);
        if !address.is_loopback() {
            if record.attempts > limits::MESH_ATTEMPTS_PER_MINUTE {
                return Err(Refused::TooOften);
            }
            if record.open >= limits::MESH_CONNECTIONS_PER_ADDRESS {
                return Err(Refused::PerAddress);
            }
        }
        record.open += 1;
        self.open += 1;
        Ok(())
    }

    /// We call; counts like a caller, but is never refused for its address. [`Guard::left`] must follow.
    ///
    /// # Errors
    /// There is no room.
    pub fn dials(&mut self, address: IpAddr, now: Duration) -> Result<(), Refused> {
        if self.open >= self.open_max {
            return Err(Refused::Full);
        }
        entry(&mut self.addresses, address.to_canonical(), now).open += 1;
        self.open += 1;
        Ok(())
    }

    /// A connection is gone.
    pub fn left(&mut self, address: IpAddr) {
        self.open = self.open.saturating_sub(1);
        if let Some(record) = self.addresses.get_mut(&address.to_canonical()) {
            record.open = record.open.saturating_sub(1);
        }
    }

    /// Whether this key may be connected with now.
    pub fn may(&mut self, key: PeerId, now: Duration) -> bool {
        self.keys.get_mut(&key).is_none_or(|record| !record.is_banned(now))
    }

    /// It did what it must not. The key is `None` before it is proven.
    pub fn strike(&mut self, address: IpAddr, key: Option<PeerId>, now: Duration) {
        let address = address.to_canonical();
        // Behind one address may be many, so a proven key answers for itself; but keys cost nothing.
        let most = if let Some(key) = key {
            entry(&mut self.keys, key, now).strike(limits::MESH_VIOLATIONS, now);
            limits::MESH_VIOLATIONS * KEYS_PER_ADDRESS
        } else {
            limits::MESH_VIOLATIONS
        };
        if key.is_none() || !address.is_loopback() {
            entry(&mut self.addresses, address, now).strike(most, now);
        }
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open
    }
}

/// The record of a caller; a new one takes the place of whoever was quiet longest and has nothing open.
fn entry<K: Ord + Copy>(table: &mut BTreeMap<K, Record>, key: K, now: Duration) -> &mut Record {
    if table.len() >= limits::MESH_STRUCK && !table.contains_key(&key) {
        let idle = table.iter().filter(|(_, record)| record.open == 0);
        if let Some(quiet) = idle.min_by_key(|(_, record)| (record.banned_until, record.last)).map(|(key, _)| *key) {
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
        let mut guard = Guard::new(50);
        for _ in 0..limits::MESH_CONNECTIONS_PER_ADDRESS {
            assert_eq!(guard.calls(address(1), at(0)), Ok(()));
        }
        assert_eq!(guard.calls(address(1), at(0)), Err(Refused::PerAddress));
        guard.left(address(1));
        assert_eq!(guard.calls(address(1), at(1)), Ok(()));
        for _ in limits::MESH_CONNECTIONS_PER_ADDRESS + 2..limits::MESH_ATTEMPTS_PER_MINUTE {
            assert_eq!(guard.calls(address(1), at(2)), Err(Refused::PerAddress));
        }
        guard.left(address(1));
        assert_eq!(guard.calls(address(1), at(3)), Err(Refused::TooOften));
        assert_eq!(guard.calls(address(2), at(3)), Ok(()), "others are not affected");
        assert_eq!(guard.calls(address(1), at(63)), Ok(()));
        // The same address in its IPv6 clothes.
        let mapped = IpAddr::from(std::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped());
        assert_eq!(guard.calls(mapped, at(64)), Err(Refused::PerAddress));
    }

    #[test]
    fn all_together_have_so_many() {
        let mut guard = Guard::new(2);
        let home = IpAddr::from([127, 0, 0, 1]);
        assert_eq!((guard.calls(home, at(0)), guard.dials(home, at(0))), (Ok(()), Ok(())));
        assert_eq!((guard.calls(home, at(0)), guard.dials(home, at(0))), (Err(Refused::Full), Err(Refused::Full)));
        guard.left(home);
        assert_eq!(guard.calls(home, at(0)), Ok(()));
    }

    #[test]
    fn violations_ban_for_a_term() {
        let mut guard = Guard::new(50);
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
        let mut guard = Guard::new(50);
        let key = |n: usize| PeerId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        for n in 0..limits::MESH_STRUCK * 2 {
            guard.strike(address(1), Some(key(n)), at(n as u64));
        }
        assert_eq!(guard.keys.len(), limits::MESH_STRUCK);
        assert!(!guard.keys.contains_key(&key(0)) && guard.keys.contains_key(&key(limits::MESH_STRUCK * 2 - 1)));
    }
}
