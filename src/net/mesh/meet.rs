//! Calls those who were found: whom and when is `engine::mesh::candidates`' decision.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::dial::{Missed, connect};
use super::{Reached, Shared, locked};
use crate::engine::mesh::candidates::{Call, Candidate, Ended, Passed, Range};
use crate::model::id::PeerId;
use crate::model::limits;
use crate::model::mesh::Origin;

/// A call from outside shows for so long that the port is open. Chosen: a day, within which routers forget.
const CALLED: Duration = Duration::from_secs(24 * 3_600);
/// An address of nobody (RFC 5737) on the way to everybody. Nothing is sent there.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// Takes somebody who was found.
pub(super) fn add(shared: &Shared, candidate: Candidate) -> Result<(), Passed> {
    if let Some(key) = candidate.key.filter(|key| shared.named.contains_key(key)) {
        // Named peers have a task of their own; only what cannot be a lie about others is worth its time.
        if candidate.origin == Origin::Lan {
            let mut sightings = candidate.addresses;
            sightings.truncate(limits::MESH_ADDRESSES);
            let old = locked(&shared.sightings).insert(key, sightings.clone());
            if old.as_ref() != Some(&sightings) {
                shared.found.send_modify(|count| *count += 1);
            }
        }
        return Ok(());
    }
    if candidate.key.is_some_and(|key| shared.banned.contains(&key)) {
        return Err(Passed::Banned);
    }
    locked(&shared.candidates).add(candidate, shared.now())?;
    shared.found.send_modify(|count| *count += 1);
    Ok(())
}

/// Calls until cancelled.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut found = shared.found.subscribe();
    let mut changes = shared.changes.subscribe();
    loop {
        let due = loop {
            let now = shared.now();
            let links = locked(&shared.links).clone();
            // Whoever called us does not keep us from calling others.
            let found = links.values().filter(|link| link.dialled() && !shared.named.contains_key(&link.id()));
            let strangers = found.count();
            let connected = |key: Option<PeerId>, addresses: &[SocketAddr]| {
                key.is_some_and(|key| links.contains_key(&key))
                    || links.values().any(|link| addresses.contains(&link.listens_at()))
            };
            let mut candidates = locked(&shared.candidates);
            match candidates.next(strangers, connected, now) {
                Some(call) => {
                    drop(candidates);
                    shared.tasks.spawn(attempt(Arc::clone(&shared), call));
                }
                None => break candidates.next_timeout().filter(|due| *due > now),
            }
        };
        let turn = async {
            match due {
                Some(due) => sleep_until(shared.began + due).await,
                None => std::future::pending().await,
            }
        };
        // Whoever is due and not called waits for room, or for somebody to go.
        tokio::select! {
            () = shared.cancel.cancelled() => return,
            () = turn => {}
            changed = found.changed() => if changed.is_err() { return },
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

async fn attempt(shared: Arc<Shared>, call: Call) {
    let ended = tokio::select! {
        () = shared.cancel.cancelled() => return,
        ended = tries(&shared, &call) => ended,
    };
    let now = shared.now();
    locked(&shared.candidates).ended(call.number, ended, now, &mut locked(&shared.chance));
    shared.found.send_modify(|count| *count += 1);
}

/// Each address in turn.
async fn tries(shared: &Arc<Shared>, call: &Call) -> Ended {
    let mut ended = Ended::Failed;
    for address in &call.addresses {
        let mut began = None;
        let met = |peer| {
            began = Some(Instant::now());
            locked(&shared.candidates).connected(call.number, peer);
        };
        match connect(shared, *address, call.key, met).await {
            Ok(why) => {
                tracing::debug!(%address, why, "a mesh peer that was found is gone");
                return Ended::Over(began.map(|began| began.elapsed()).unwrap_or_default());
            }
            Err(Missed::Own) => return Ended::Own(*address),
            Err(Missed::Known(peer)) => return Ended::Known(peer),
            Err(Missed::Failed(why)) => {
                tracing::debug!(why, "a mesh candidate is not there");
                ended = Ended::Failed;
            }
        }
    }
    ended
}

/// Why others can reach us, if they can.
pub(super) fn reached(shared: &Shared) -> Option<Reached> {
    let called = *locked(&shared.called);
    let ago = called.map(|(_, at)| shared.now().saturating_sub(at)).filter(|ago| *ago < CALLED);
    if let Some(ago) = ago {
        return Some(Reached::Called(ago));
    }
    let ip = shared.bind.ip();
    if ip.is_unspecified() {
        let ip = towards_anywhere()?;
        return Range::is_global(ip).then_some(Reached::Direct(ip));
    }
    // Bound to one address, that one is meant.
    locked(&shared.candidates).range().allows(shared.bind).then_some(Reached::Direct(ip))
}

/// Our IPv4 address on the way to the Internet. Nothing is sent.
fn towards_anywhere() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ANYWHERE).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
