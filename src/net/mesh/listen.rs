//! Callers: who is let in, and the seat that each takes.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::timeout;

use super::{HANDSHAKE, Shared, link, locked};
use crate::engine::mesh::guard::{Refused, Who};
use crate::engine::mesh::session::Side;
use crate::model::id::PeerId;

/// Lets callers in, each after it has shown that its address is its own.
pub(super) async fn listen(shared: Arc<Shared>) {
    loop {
        let caller = tokio::select! {
            () = shared.cancel.cancelled() => return,
            caller = shared.endpoint.accept() => caller,
        };
        let Some(caller) = caller else { return };
        if !caller.remote_address_validated() {
            // Cannot fail: the address is not validated.
            let _ = caller.retry();
            continue;
        }
        let address = caller.remote_address();
        let let_in = locked(&shared.guard).calls(address.ip(), shared.now());
        if let Err(why) = let_in {
            shared.refused(address, why);
            caller.refuse();
            continue;
        }
        let mut seat = Seat { shared: Arc::clone(&shared), address: address.ip(), who: None };
        let tasks = shared.tasks.clone();
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            let Ok(connecting) = caller.accept() else { return };
            match timeout(HANDSHAKE, connecting).await {
                Ok(Ok(connection)) => {
                    let why = link::run(&shared, connection, Side::Listener, None, &mut seat).await;
                    tracing::debug!(%address, %why, "a mesh caller is gone");
                }
                failed => {
                    let why = failed.map_or_else(
                        |_| "it took too long".to_owned(),
                        |e| e.err().map(|e| e.to_string()).unwrap_or_default(),
                    );
                    tracing::debug!(%address, why, "a mesh caller did not get through the handshake");
                    shared.refused(address, Refused::Handshake);
                }
            }
            drop(seat);
        });
    }
}

/// A counted connection; counted off when dropped.
pub(super) struct Seat {
    pub(super) shared: Arc<Shared>,
    pub(super) address: IpAddr,
    /// `None` while its key is not proven.
    pub(super) who: Option<Who>,
}

impl Seat {
    /// Its key is proven: it takes its place, unless there is none.
    pub(super) fn prove(&mut self, peer: PeerId) -> Result<(), Refused> {
        if self.who.is_some() {
            return Ok(());
        }
        let who = if self.shared.named.contains_key(&peer) { Who::Named } else { Who::Caller };
        locked(&self.shared.guard).proven(self.address, who, self.shared.now())?;
        self.who = Some(who);
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        locked(&self.shared.guard).left(self.address, self.who);
    }
}
