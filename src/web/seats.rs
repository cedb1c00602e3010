//! How many connections each address holds: one host of the local network must not take all there are.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::limits;

/// Open connections by address; shared by all listeners.
#[derive(Debug, Default)]
pub(crate) struct Seats(Mutex<BTreeMap<IpAddr, usize>>);

/// One connection's place, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    /// None: this address is not counted.
    from: Option<IpAddr>,
}

/// Whom an address stands for. One host has as many IPv6 addresses as it likes in its network of 64 bits. Loopback is the
/// box itself, perhaps a proxy on it, and is not counted.
fn holder(from: IpAddr) -> Option<IpAddr> {
    let from = from.to_canonical();
    let holder = match from {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        IpAddr::V4(_) => from,
    };
    (!from.is_loopback()).then_some(holder)
}

impl Seats {
    /// A place for a connection from there; none where that address has `limits::WEB_CONNECTIONS_PER_ADDRESS`.
    pub(crate) fn take(self: &Arc<Self>, from: IpAddr) -> Option<Seat> {
        let from = holder(from);
        if let Some(from) = from {
            let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let count = taken.entry(from).or_default();
            if *count >= limits::WEB_CONNECTIONS_PER_ADDRESS {
                return None;
            }
            *count += 1;
        }
        Some(Seat { seats: Arc::clone(self), from })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(from) = self.from else { return };
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&from) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_takes_its_share_and_leaves_the_rest() {
        let seats = Arc::<Seats>::default();
        let take = |from: &str| seats.take(from.parse().unwrap());
        let mut held: Vec<Seat> =
            (0..limits::WEB_CONNECTIONS_PER_ADDRESS).map(|_| take("192.168.1.2").unwrap()).collect();
        assert!(take("192.168.1.2").is_none() && take("::ffff:192.168.1.2").is_none());
        let other = take("192.168.1.3").unwrap();
        held.pop();
        held.push(take("192.168.1.2").unwrap());
        assert!(take("192.168.1.2").is_none());
        drop((held, other));
        assert!(seats.0.lock().unwrap().is_empty(), "an address that left is forgotten");
    }

    #[test]
    fn addresses_of_one_network_are_one_host_and_loopback_is_not_counted() {
        let seats = Arc::<Seats>::default();
        let held: Vec<Option<Seat>> = (0..limits::WEB_CONNECTIONS_PER_ADDRESS)
            .map(|n| seats.take(format!("2001:db8::{n:x}").parse().unwrap()))
            .collect();
        assert!(held.iter().all(Option::is_some) && seats.take("2001:db8::ffff".parse().unwrap()).is_none());
        assert!(seats.take("2001:db8:0:1::1".parse().unwrap()).is_some());
        let own: Vec<_> = (0..limits::WEB_CONNECTIONS).map(|_| seats.take("127.0.0.1".parse().unwrap())).collect();
        assert!(own.iter().all(Option::is_some));
    }
}
