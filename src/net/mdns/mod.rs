//! Nodes of the own network: tells them of us by multicast DNS, and hears of them (RFC 6762, RFC 6763).
//!
//! The protocol is the crate `mdns-sd`'s, on a thread of its own. The service is [`SERVICE`]; its text says our id,
//! which the connection must prove, and nothing else. Loopback is left out. Anybody on the network can claim anything
//! here; what to think of it is `engine::mesh::candidates`' decision.
//!
//! The crate keeps every record that it hears until it expires, and has no limit of its own. So they are counted once a
//! second: past `limits::MDNS_RECORDS` it is closed with all it holds, and opened again after a pause. Who floods the own
//! network at full speed fills a second's worth before that.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use mdns_sd::{IfKind, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::model::id::PeerId;
use crate::model::limits;

/// What a node is called.
pub const SERVICE: &str = "_slskdn-mesh._udp.local.";
/// The id of its key, 64 hexadecimal digits.
const ID: &str = "id";
/// Between two looks at how much the crate keeps.
const LOOK: Duration = Duration::from_secs(1);
/// Nothing is heard for so long after somebody flooded the network. Chosen.
const PAUSE: Duration = Duration::from_secs(30);
/// The counts of what the crate keeps, by its names.
const KEPT: [&str; 6] = ["cached-ptr", "cached-srv", "cached-addr", "cached-txt", "cached-nsec", "cached-subtype"];
/// For the farewell.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why there is no multicast DNS.
#[derive(Debug, thiserror::Error)]
pub enum MdnsError {
    /// The thread or its sockets cannot be had.
    #[error("multicast DNS does not start: {0}")]
    Start(#[from] mdns_sd::Error),
    /// It stopped by itself.
    #[error("multicast DNS stopped")]
    Stopped,
}

/// A node that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Whose key it says is there.
    pub id: PeerId,
    /// Where it says it listens; at most `limits::MESH_ADDRESSES`.
    pub addresses: Vec<SocketAddr>,
}

/// Tells others of us and hears of them until cancelled. `bind` is where the mesh listens. When nobody takes the
/// sightings they are dropped; they come again.
///
/// # Errors
/// It does not start, or stopped by itself.
pub async fn run(
    own: PeerId,
    bind: SocketAddr,
    seen: mpsc::Sender<Sighting>,
    cancel: CancellationToken,
) -> Result<(), MdnsError> {
    loop {
        let daemon = ServiceDaemon::new()?;
        let done = tokio::select! {
            done = meet(&daemon, own, bind, &seen, &cancel) => done.map(|()| None),
            records = flooded(&daemon) => Ok(Some(records)),
        };
        if let Ok(down) = daemon.shutdown() {
            let _ = timeout(FAREWELL, down.recv_async()).await;
        }
        let Some(records) = done? else { return Ok(()) };
        tracing::warn!(records, "somebody floods multicast DNS; it is left alone for a while");
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = sleep(PAUSE) => {}
        }
    }
}

/// Returns when more records are kept than may be.
async fn flooded(daemon: &ServiceDaemon) -> i64 {
    loop {
        sleep(LOOK).await;
        // It is busy, or over: the one who waits for its events hears of that.
        let Ok(metrics) = daemon.get_metrics() else { continue };
        let Ok(metrics) = metrics.recv_async().await else { continue };
        let records: i64 = KEPT.iter().filter_map(|name| metrics.get(*name)).sum();
        if records > limits::MDNS_RECORDS {
            return records;
        }
    }
}

async fn meet(
    daemon: &ServiceDaemon,
    own: PeerId,
    bind: SocketAddr,
    seen: &mpsc::Sender<Sighting>,
    cancel: &CancellationToken,
) -> Result<(), MdnsError> {
    daemon.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?;
    if bind.is_ipv4() {
        daemon.disable_interface(IfKind::IPv6)?;
    }
    let id = own.to_string();
    // A name is at most 63 bytes; this much of the id is not met twice by chance.
    let name = format!("slskdn-{}", id.get(..16).unwrap_or(&id));
    let (host, texts) = (format!("{name}.local."), [(ID, id.as_str())]);
    let service = if bind.ip().is_unspecified() {
        ServiceInfo::new(SERVICE, &name, &host, (), bind.port(), &texts[..])?.enable_addr_auto()
    } else {
        let mut service = ServiceInfo::new(SERVICE, &name, &host, bind.ip(), bind.port(), &texts[..])?;
        service.set_interfaces(vec![IfKind::Addr(bind.ip())]);
        service
    };
    let full = service.get_fullname().to_owned();
    daemon.register(service)?;
    let events = daemon.browse(SERVICE)?;
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => break,
            event = events.recv_async() => event.map_err(|_| MdnsError::Stopped)?,
        };
        if let ServiceEvent::ServiceResolved(service) = event
            && let Some(sighting) = sighting(&service)
            && sighting.id != own
        {
            // Full: it will be seen again.
            let _ = seen.try_send(sighting);
        }
    }
    let farewell = daemon.unregister(&full)?;
    let _ = timeout(FAREWELL, farewell.recv_async()).await;
    Ok(())
}

/// What a service says, if it makes sense.
fn sighting(service: &ResolvedService) -> Option<Sighting> {
    let id = service.get_property_val_str(ID)?.parse().ok()?;
    let port = service.get_port();
    let mut addresses: Vec<SocketAddr> = service
        .get_addresses()
        .iter()
        .map(|address| match address {
            ScopedIp::V6(v6) => SocketAddr::V6(SocketAddrV6::new(*v6.addr(), port, 0, v6.scope_id().index)),
            other => SocketAddr::new(other.to_ip_addr(), port),
        })
        .filter(|address| port != 0 && !address.ip().to_canonical().is_loopback())
        .collect();
    // The set has no order; the same words shall give the same list, shorter ways first.
    addresses.sort_by_key(|address| (matches!(address.ip(), IpAddr::V6(_)), *address));
    addresses.truncate(limits::MESH_ADDRESSES);
    (!addresses.is_empty()).then_some(Sighting { id, addresses })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn service(id: &str, ips: &str, port: u16) -> ResolvedService {
        ServiceInfo::new(SERVICE, "x", "x.local.", ips, port, &[(ID, id)][..]).unwrap().as_resolved_service()
    }

    #[test]
    fn sense_and_nonsense() {
        let id = PeerId([7; 32]);
        let seen = sighting(&service(&id.to_string(), "192.168.1.9,192.168.1.10,127.0.0.1,fe80::1", 5)).unwrap();
        assert_eq!(seen.id, id);
        let texts: Vec<String> = seen.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["192.168.1.9:5", "192.168.1.10:5", "[fe80::1]:5"]);
        assert_eq!(sighting(&service("me", "192.168.1.9", 5)), None);
        assert_eq!(sighting(&service(&id.to_string(), "192.168.1.9", 0)), None);
        assert_eq!(sighting(&service(&id.to_string(), "127.0.0.1", 5)), None);
        assert_eq!(sighting(&service(&id.to_string(), "::1,::ffff:127.0.0.1", 5)), None, "in its IPv6 clothes");
        let many: Vec<String> = (1..60).map(|n| Ipv4Addr::new(10, 0, 0, n).to_string()).collect();
        let seen = sighting(&service(&id.to_string(), &many.join(","), 5)).unwrap();
        assert_eq!(seen.addresses.len(), limits::MESH_ADDRESSES);
    }
}
