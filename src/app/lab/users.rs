//! The Soulseek side of a scenario: a server, and users who share the file. They are tasks of the lab's own process.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::LabError;
use super::scenario::Peer;
use super::soulseek::{self, PeerScript, Server};

/// The server, and where it listens.
pub(super) struct Network {
    runtime: Handle,
    _server: Server,
    port: u16,
}

impl Network {
    pub(super) fn start(runtime: &Handle) -> Result<Self, LabError> {
        let failed = |error: io::Error| LabError::Child { name: "server".to_owned(), why: error.to_string() };
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (server, port) = runtime.block_on(Server::start(bind)).map_err(failed)?;
        Ok(Self { runtime: runtime.clone(), _server: server, port })
    }

    /// What makes the fetching node log in here.
    pub(super) fn settings(&self) -> [String; 4] {
        [
            "soulseek.address=127.0.0.1".to_owned(),
            format!("soulseek.port={}", self.port),
            "soulseek.username=lab".to_owned(),
            "soulseek.password=lab".to_owned(),
        ]
    }
}

/// A user, perhaps not there yet.
pub(super) struct User {
    script: PeerScript,
    file: PathBuf,
    here: Option<soulseek::Peer>,
}

impl User {
    pub(super) fn new(peer: &Peer, file: &Path) -> Self {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let script = PeerScript {
            name: peer.name.clone(),
            path: format!("music\\lab\\{name}"),
            rate: peer.faults.rate.unwrap_or(0),
            rtt: peer.rtt,
            queue: Duration::from_millis(peer.faults.queue_ms),
            stall_after: peer.faults.stall_after,
            recovers: peer.recovers,
            disconnect_after: peer.faults.disconnect_after,
            deny_offset: peer.deny_offset,
            refuses: peer.refuses,
            corrupt_every: peer.faults.corrupt_every.unwrap_or(0),
            // The lab's own clock decides.
            leave_at: None,
        };
        Self { script, file: file.to_owned(), here: None }
    }

    /// The file as others name it.
    pub(super) fn path(&self) -> &str {
        &self.script.path
    }

    /// Logs in.
    pub(super) fn begin(&mut self, network: &Network) -> Result<(), LabError> {
        let failed = |error: io::Error| LabError::Child { name: self.script.name.clone(), why: error.to_string() };
        let file = File::open(&self.file).map_err(failed)?;
        let started = soulseek::Peer::start(self.script.clone(), Arc::new(file), network.port);
        self.here = Some(network.runtime.block_on(started).map_err(failed)?);
        Ok(())
    }

    /// Drops every connection and stays away.
    pub(super) fn leave(&self) {
        if let Some(user) = &self.here {
            user.leave();
        }
    }

    /// What it saw of those who fetch from it.
    pub(super) fn report(&self) -> Option<soulseek::PeerReport> {
        self.here.as_ref().map(soulseek::Peer::report)
    }

    /// Bytes of the file given to the network.
    pub(super) fn sent(&self) -> u64 {
        self.here.as_ref().map_or(0, |user| user.report().sent)
    }
}
