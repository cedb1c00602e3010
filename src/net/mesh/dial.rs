//! Calls a named peer until it answers, and again when it is gone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::VarInt;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::{Instant, sleep, timeout};

use super::listen::Seat;
use super::{HANDSHAKE, Link, Shared, client, code, link, locked};
use crate::engine::mesh::guard::Who;
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
pub(super) async fn keep(shared: Arc<Shared>, peer: PeerId) {
    let mut pause = PAUSE;
    let mut changes = shared.changes.subscribe();
    let mut found = shared.found.subscribe();
    let seen = |shared: &Shared| locked(&shared.sightings).get(&peer).cloned().unwrap_or_default();
    let mut sightings = seen(&shared);
    loop {
        // It may have called us.
        let connected = |shared: &Shared| locked(&shared.links).contains_key(&peer);
        while connected(&shared) {
            tokio::select! {
                () = shared.cancel.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
        let began = Instant::now();
        let why = tokio::select! {
            () = shared.cancel.cancelled() => return,
            why = call(&shared, peer, &sightings) => why,
        };
        if !connected(&shared) {
            tracing::debug!(%peer, why, "a mesh peer is not connected");
            locked(&shared.problems).insert(peer, why);
        }
        if began.elapsed() >= STABLE {
            pause = PAUSE;
        }
        let moved = async {
            while found.changed().await.is_ok() {
                if seen(&shared) != sightings {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = shared.cancel.cancelled() => return,
            () = sleep(jittered(pause)) => {}
            // It was seen somewhere else.
            () = moved => pause = PAUSE,
        }
        sightings = seen(&shared);
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

/// Calls each address in turn, those where it was seen on the own network last, and stays with the first that answers.
/// Says why it is over.
async fn call(shared: &Arc<Shared>, peer: PeerId, sightings: &[SocketAddr]) -> String {
    if shared.banned.contains(&peer) {
        return "the configuration bans it".to_owned();
    }
    let mut why = "it has no address".to_owned();
    for name in shared.named.get(&peer).into_iter().flatten() {
        let addresses: Vec<SocketAddr> = match timeout(HANDSHAKE, tokio::net::lookup_host(name)).await {
            Ok(Ok(found)) => found.take(ADDRESSES).collect(),
            Ok(Err(error)) => {
                why = format!("{name} is not found: {error}");
                continue;
            }
            Err(_) => {
                why = format!("{name} is not found: no answer in time");
                continue;
            }
        };
        if addresses.is_empty() {
            why = format!("{name} has no address");
        }
        for address in addresses {
            match connect(shared, address, Some(peer), |_| {}).await {
                Ok(reason) => return reason,
                Err(reason) => why = reason.to_string(),
            }
        }
    }
    for address in sightings {
        // What a neighbour on the own network claims is not worth a sentence of its own.
        if let Ok(reason) = connect(shared, *address, Some(peer), |_| {}).await {
            return reason;
        }
    }
    why
}

/// Why there was no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Missed {
    /// It is our own address.
    #[error("that is this node")]
    Own,
    /// There is a connection with this peer already.
    #[error("{0} is connected already")]
    Known(PeerId),
    /// Nobody there, or not whom we wanted.
    #[error("{0}")]
    Failed(String),
}

/// Calls an address. `met` is told whose key was proven before anything is said. `Ok`: there was a connection, and it
/// is over.
pub(super) async fn connect(
    shared: &Arc<Shared>,
    address: SocketAddr,
    wanted: Option<PeerId>,
    met: impl FnOnce(PeerId),
) -> Result<String, Missed> {
    let failed = |why: &dyn std::fmt::Display| Missed::Failed(format!("{address}: {why}"));
    let who = if wanted.is_some_and(|wanted| shared.named.contains_key(&wanted)) { Who::Named } else { Who::Found };
    let room = locked(&shared.guard).dials(address.ip(), who, shared.now());
    room.map_err(|why| Missed::Failed(why.to_string()))?;
    let mut seat = Seat { shared: Arc::clone(shared), address: address.ip(), who: Some(who) };
    let config = client(shared, wanted).map_err(|error| Missed::Failed(error.to_string()))?;
    let connecting = shared.endpoint.connect_with(config, address, SERVER_NAME).map_err(|error| failed(&error))?;
    let connection = match timeout(HANDSHAKE, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(quinn::ConnectionError::TransportError(error))) if KEY_ALERTS.contains(&u64::from(error.code)) => {
            return Err(Missed::Failed(format!("{address} has another key than the one that is named")));
        }
        Ok(Err(error)) => return Err(failed(&error)),
        Err(_) => return Err(Missed::Failed(format!("{address} does not answer"))),
    };
    let peer = link::peer_of(&connection).ok_or_else(|| failed(&"no key was shown"))?;
    if peer == shared.identity.id() {
        connection.close(VarInt::from_u32(code::DONE), b"");
        return Err(Missed::Own);
    }
    // A second connection would take the first for dead and end it with everything under way on it.
    let known = |links: &BTreeMap<PeerId, Link>| links.get(&peer).is_some_and(|link| !link.is_closed());
    if wanted.is_none() && known(&locked(&shared.links)) {
        connection.close(VarInt::from_u32(code::DUPLICATE), b"");
        return Err(Missed::Known(peer));
    }
    met(peer);
    Ok(link::run(shared, connection, Side::Dialler, Some(peer), &mut seat).await)
}
