//! Who broke the protocol too often to be let in again for a while.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::model::limits;

/// Strikes within `WINDOW` that close the door. Chosen.
const STRIKES: usize = 3;
/// A strike is forgotten after this. Chosen.
const WINDOW: Duration = Duration::from_secs(10 * 60);
/// How long the door stays closed. Chosen.
const CLOSED: Duration = Duration::from_secs(30 * 60);

/// Bounded by `limits::STRUCK_ADDRESSES`; when full, the address longest quiet is forgotten. Loopback is exempt: a proxy
/// of the owner's speaks for many.
#[derive(Debug, Default)]
pub(super) struct Strikes(BTreeMap<Ipv4Addr, Record>);

#[derive(Debug, Default)]
struct Record {
    times: ArrayVec<Duration, STRIKES>,
    last: Duration,
    closed_until: Option<Duration>,
}

impl Strikes {
    /// Somebody at this address broke the protocol.
    pub(super) fn strike(&mut self, ip: Ipv4Addr, now: Duration) {
        if ip.is_loopback() {
            return;
        }
        if self.0.len() >= limits::STRUCK_ADDRESSES && !self.0.contains_key(&ip) {
            let quietest = self.0.iter().min_by_key(|(_, record)| record.last).map(|(&ip, _)| ip);
            if let Some(quietest) = quietest {
                self.0.remove(&quietest);
            }
        }
        let record = self.0.entry(ip).or_default();
        record.last = now;
        record.times.retain(|at| now.saturating_sub(*at) < WINDOW);
        if record.times.is_full() {
            record.times.remove(0);
        }
        record.times.push(now);
        if record.times.is_full() {
            record.closed_until = Some(now.saturating_add(CLOSED));
            record.times.clear();
        }
    }

    /// Whether callers from there are turned away.
    pub(super) fn closed(&self, ip: Ipv4Addr, now: Duration) -> bool {
        self.0.get(&ip).and_then(|record| record.closed_until).is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn three_in_ten_minutes_close_the_door_for_thirty() {
        let ip = Ipv4Addr::new(5, 6, 7, 8);
        let mut strikes = Strikes::default();
        for minute in [0, 1, 10, 12] {
            strikes.strike(ip, minute * MINUTE);
            assert!(!strikes.closed(ip, minute * MINUTE), "{minute}");
        }
        strikes.strike(ip, 13 * MINUTE);
        assert!(strikes.closed(ip, 13 * MINUTE));
        assert!(!strikes.closed(Ipv4Addr::new(5, 6, 7, 9), 13 * MINUTE));
        assert!(strikes.closed(ip, 42 * MINUTE));
        assert!(!strikes.closed(ip, 43 * MINUTE));
    }

    #[test]
    fn loopback_is_exempt_and_the_table_is_bounded() {
        let mut strikes = Strikes::default();
        for _ in 0..9 {
            strikes.strike(Ipv4Addr::LOCALHOST, MINUTE);
        }
        assert!(!strikes.closed(Ipv4Addr::LOCALHOST, MINUTE));
        for n in 0..2_000_u32 {
            strikes.strike(Ipv4Addr::from_bits(0x0100_0000 + n), Duration::from_millis(n.into()));
        }
        assert_eq!(strikes.0.len(), limits::STRUCK_ADDRESSES);
        assert!(strikes.0.contains_key(&Ipv4Addr::from_bits(0x0100_0000 + 1_999)));
    }
}
