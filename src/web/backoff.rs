//! How often a password may be guessed: 5 tries per address, then 15 minutes of silence; 50 wrong ones an hour in all
//! (RELIABILITY-FACTS 7, row 22). Kept in memory: a restart forgets, and nobody outside can cause one.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Tries before an address has to wait.
pub(crate) const TRIES: u32 = 5;
/// How long it waits.
pub(crate) const WAIT: Duration = Duration::from_secs(15 * 60);
/// Wrong tries an hour from everywhere.
pub(crate) const TRIES_PER_HOUR: usize = 50;
const HOUR: Duration = Duration::from_secs(3600);
/// Addresses remembered; when full, the one silent longest is forgotten (the hourly limit still holds).
const ADDRESSES: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Backoff {
    addresses: BTreeMap<IpAddr, Tries>,
    recent: VecDeque<Duration>,
}

#[derive(Debug)]
struct Tries {
    count: u32,
    last: Duration,
}

/// One household has a /64 of IPv6.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Backoff {
    /// Counts a try as wrong before it is checked, so that tries at the same moment cannot slip through together.
    /// The error is how long to wait.
    pub(crate) fn begin(&mut self, address: IpAddr, now: Duration) -> Result<(), Duration> {
        while self.recent.front().is_some_and(|at| now.saturating_sub(*at) >= HOUR) {
            self.recent.pop_front();
        }
        self.addresses.retain(|_, tries| now.saturating_sub(tries.last) < WAIT);
        let key = group(address);
        if let Some(tries) = self.addresses.get(&key)
            && tries.count >= TRIES
        {
            return Err((tries.last + WAIT).saturating_sub(now));
        }
        if self.recent.len() >= TRIES_PER_HOUR {
            let first = self.recent.front().copied().unwrap_or(now);
            return Err((first + HOUR).saturating_sub(now));
        }
        if self.addresses.len() >= ADDRESSES
            && !self.addresses.contains_key(&key)
            && let Some(oldest) = self.addresses.iter().min_by_key(|(_, tries)| tries.last).map(|(key, _)| *key)
        {
            self.addresses.remove(&oldest);
        }
        let tries = self.addresses.entry(key).or_insert(Tries { count: 0, last: now });
        tries.count += 1;
        tries.last = now;
        self.recent.push_back(now);
        Ok(())
    }

    /// The try begun last from this address was right.
    pub(crate) fn succeeded(&mut self, address: IpAddr) {
        if self.addresses.remove(&group(address)).is_some() {
            self.recent.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const AT: Duration = Duration::from_secs(100);

    #[test]
    fn five_tries_then_a_quarter_of_an_hour() {
        let mut backoff = Backoff::default();
        for _ in 0..TRIES {
            assert_eq!(backoff.begin(A, AT), Ok(()));
        }
        assert_eq!(backoff.begin(A, AT), Err(WAIT));
        assert_eq!(backoff.begin("10.0.0.2".parse().unwrap(), AT), Ok(()), "another address is free");
        assert_eq!(backoff.begin(A, AT + WAIT), Ok(()), "over after the wait");
    }

    #[test]
    fn a_right_one_clears_the_count() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            assert_eq!(backoff.begin(A, AT), Ok(()));
            backoff.succeeded(A);
        }
    }

    #[test]
    fn fifty_an_hour_from_everywhere() {
        let mut backoff = Backoff::default();
        for n in 0..u32::try_from(TRIES_PER_HOUR).unwrap() {
            assert_eq!(backoff.begin(IpAddr::V4((0x0a00_0000 + n).into()), AT), Ok(()));
        }
        assert_eq!(backoff.begin("11.0.0.1".parse().unwrap(), AT), Err(HOUR));
        assert_eq!(backoff.begin("11.0.0.1".parse().unwrap(), AT + HOUR), Ok(()));
    }

    #[test]
    fn one_household_of_ipv6_is_one_address() {
        let mut backoff = Backoff::default();
        for n in 0..TRIES {
            assert_eq!(backoff.begin(format!("2001:db8::{n}").parse().unwrap(), AT), Ok(()));
        }
        assert!(backoff.begin("2001:db8::ffff".parse().unwrap(), AT).is_err());
        assert!(backoff.begin("2001:db8:0:1::1".parse().unwrap(), AT).is_ok());
    }

    #[test]
    fn memory_is_bounded() {
        let mut backoff = Backoff::default();
        for n in 0..10_000_u32 {
            let at = AT + Duration::from_millis(u64::from(n) * 80);
            let _ = backoff.begin(IpAddr::V4(n.into()), at);
            assert!(backoff.addresses.len() <= ADDRESSES && backoff.recent.len() <= TRIES_PER_HOUR);
        }
    }
}
