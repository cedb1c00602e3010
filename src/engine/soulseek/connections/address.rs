//! Which addresses may be dialled: a server must not turn us against the owner's own network (RELIABILITY-FACTS 4,
//! row 6).

use std::net::{Ipv4Addr, SocketAddrV4};

/// Whether a user at this address may be dialled. With `server_near` (the server itself is on a private network) every
/// address that can belong to one machine may; otherwise global ones and those in `ranges`.
pub(crate) fn dialable(to: SocketAddrV4, server_near: bool, ranges: &[(Ipv4Addr, u8)]) -> bool {
    let ip = *to.ip();
    let machine = !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast();
    to.port() != 0 && machine && (server_near || is_global(ip) || ranges.iter().any(|&range| within(ip, range)))
}

/// Reachable from anywhere, by the IANA registry of special-purpose addresses (RFC 6890 and its updates).
pub(crate) fn is_global(ip: Ipv4Addr) -> bool {
    const SPECIAL: [(Ipv4Addr, u8); 14] = [
        (Ipv4Addr::UNSPECIFIED, 8),
        (Ipv4Addr::new(10, 0, 0, 0), 8),
        (Ipv4Addr::new(100, 64, 0, 0), 10),
        (Ipv4Addr::new(127, 0, 0, 0), 8),
        (Ipv4Addr::new(169, 254, 0, 0), 16),
        (Ipv4Addr::new(172, 16, 0, 0), 12),
        (Ipv4Addr::new(192, 0, 0, 0), 24),
        (Ipv4Addr::new(192, 0, 2, 0), 24),
        (Ipv4Addr::new(192, 88, 99, 0), 24),
        (Ipv4Addr::new(192, 168, 0, 0), 16),
        (Ipv4Addr::new(198, 18, 0, 0), 15),
        (Ipv4Addr::new(198, 51, 100, 0), 24),
        (Ipv4Addr::new(203, 0, 113, 0), 24),
        // Multicast, reserved and broadcast in one.
        (Ipv4Addr::new(224, 0, 0, 0), 3),
    ];
    !SPECIAL.iter().any(|&range| within(ip, range))
}

fn within(ip: Ipv4Addr, (network, prefix): (Ipv4Addr, u8)) -> bool {
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(u32::from(prefix))).unwrap_or(0);
    ip.to_bits() & mask == network.to_bits() & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddrV4 {
        SocketAddrV4::new(text.parse().unwrap(), 2234)
    }

    #[test]
    fn only_global_addresses_are_dialled() {
        for ip in
            ["1.1.1.1", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "192.167.1.1", "223.255.255.255"]
        {
            assert!(dialable(at(ip), false, &[]), "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!dialable(at(ip), false, &[]), "{ip}");
        }
        assert!(!dialable(SocketAddrV4::new(Ipv4Addr::new(1, 1, 1, 1), 0), false, &[]));
    }

    #[test]
    fn ranges_and_a_near_server_allow_more() {
        let home = [(Ipv4Addr::new(192, 168, 7, 0), 24)];
        assert!(dialable(at("192.168.7.200"), false, &home));
        assert!(!dialable(at("192.168.8.1"), false, &home));
        assert!(dialable(at("10.1.2.3"), false, &[(Ipv4Addr::UNSPECIFIED, 0)]));
        assert!(dialable(at("10.1.2.3"), false, &[(Ipv4Addr::new(10, 1, 2, 3), 32)]));
        assert!(dialable(at("127.0.0.1"), true, &[]));
        for ip in ["0.0.0.0", "224.0.0.1", "255.255.255.255"] {
            assert!(!dialable(at(ip), true, &[(Ipv4Addr::UNSPECIFIED, 0)]), "{ip}");
        }
    }
}
