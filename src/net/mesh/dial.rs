//! Calls a named peer until it answers, and again when it is gone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::{Instant, sleep, timeout};

use super::{HANDSHAKE, Named, Seat, Shared, client, link, locked};
use crate::engine::mesh::session::Side;
use crate::model::id::PeerId;

/// The first pause; doubles with each failure.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A connection that lasted so long was a good one.
const STABLE: Duration = Duration::from_secs(30);
/// Addresses of one host name that are tried.
const ADDRESSES: usize = 4;
/// The name TLS wants to hear; nobody checks it.
const SERVER_NAME: &str = "slskdn";
/// TLS failed over the certificate: alerts `bad_certificate` to `certificate_unknown`, 42 to 46 (RFC 8446, section 6),
/// behind 0x100 (RFC 9001, section 4.8).
const KEY_ALERTS: std::ops::RangeInclusive<u64> = 0x12a..=0x12e;

/// Keeps the connection until cancelled.
pub(super) async fn keep(shared: Arc<Shared>, peer: Named) {
    let mut pause = PAUSE;
    let mut changes = shared.changes.subscribe();
    loop {
        // It may have called us.
        let connected = |shared: &Shared| locked(&shared.links).contains_key(&peer.id);
        while connected(&shared) {
            tokio::select! {
                () = shared.cancel.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
        let began = Instant::now();
        let why = tokio::select! {
            () = shared.cancel.cancelled() => return,
            why = call(&shared, &peer) => why,
        };
        if !connected(&shared) {
            tracing::debug!(peer = %peer.id, address = peer.address, why, "a mesh peer is not connected");
            locked(&shared.problems).insert(peer.id, why);
        }
        if began.elapsed() >= STABLE {
            pause = PAUSE;
        }
        tokio::select! {
            () = shared.cancel.cancelled() => return,
            () = sleep(jittered(pause)) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Between half and the whole of it, so that two nodes do not keep missing each other.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0_u8];
    // Without random numbers it is the whole pause.
    let share = SystemRandom::new().fill(&mut byte).map_or(255, |()| u32::from(byte[0]));
    pause / 2 + pause / 2 * share / 255
}

/// Calls each address in turn and stays with the first that answers. Says why it is over.
async fn call(shared: &Arc<Shared>, peer: &Named) -> String {
    if shared.banned.contains(&peer.id) {
        return "the configuration bans it".to_owned();
    }
    let addresses: Vec<SocketAddr> = match timeout(HANDSHAKE, tokio::net::lookup_host(&peer.address)).await {
        Ok(Ok(found)) => found.take(ADDRESSES).collect(),
        Ok(Err(error)) => return format!("{} is not found: {error}", peer.address),
        Err(_) => return format!("{} is not found: no answer in time", peer.address),
    };
    let mut why = format!("{} has no address", peer.address);
    for address in addresses {
        match connect(shared, address, peer.id).await {
            Ok(reason) => return reason,
            Err(reason) => why = reason,
        }
    }
    why
}

/// `Ok`: there was a connection, and it is over.
async fn connect(shared: &Arc<Shared>, address: SocketAddr, peer: PeerId) -> Result<String, String> {
    locked(&shared.guard).dials(address.ip(), shared.now()).map_err(|why| why.to_string())?;
    let _seat = Seat { shared: Arc::clone(shared), address: address.ip() };
    let config = client(shared, peer).map_err(|error| error.to_string())?;
    let connecting =
        shared.endpoint.connect_with(config, address, SERVER_NAME).map_err(|error| format!("{address}: {error}"))?;
    let connection = match timeout(HANDSHAKE, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(quinn::ConnectionError::TransportError(error))) if KEY_ALERTS.contains(&u64::from(error.code)) => {
            return Err(format!("{address} has another key than the one that is named"));
        }
        Ok(Err(error)) => return Err(format!("{address}: {error}")),
        Err(_) => return Err(format!("{address} does not answer")),
    };
    Ok(link::run(shared, connection, Side::Dialler, Some(peer)).await)
}
