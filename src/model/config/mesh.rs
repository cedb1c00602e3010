//! The section `mesh`.

use std::net::{IpAddr, Ipv4Addr};

use super::Reader;
use crate::model::id::PeerId;
use crate::model::limits;

/// Section `mesh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// There is one.
    pub enabled: bool,
    /// To listen on.
    pub address: IpAddr,
    /// UDP; 0 lets the system choose.
    pub port: u16,
    /// To be called: key's hash and `host:port`.
    pub peers: Vec<(PeerId, String)>,
    /// Neither called nor let in.
    pub banned: Vec<PeerId>,
    /// Connections at once.
    pub connections_max: usize,
    /// Peers served at once.
    pub upload_slots: usize,
    /// Segmentation offload.
    pub gso: bool,
    /// Tell peers about recordings, and listen to them.
    pub gossip: bool,
}

impl Reader<'_> {
    pub(super) fn mesh(&mut self) -> Mesh {
        let mut peers = Vec::new();
        for text in self.list("mesh.peers") {
            let parts = text.split_once('@').and_then(|(id, address)| Some((id.parse().ok()?, address)));
            let port = |address: &str| address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            match parts {
                Some((id, address)) if port(address) => peers.push((id, address.to_owned())),
                _ => self.wrong("mesh.peers", format!("a peer like ID@host:50305 is wanted, not `{text}`")),
            }
        }
        if peers.len() > limits::MESH_NAMED {
            self.wrong("mesh.peers", format!("at most {} peers can be named", limits::MESH_NAMED));
        }
        let mut banned = Vec::new();
        for text in self.list("mesh.banned") {
            match text.parse() {
                Ok(id) => banned.push(id),
                Err(wrong) => self.wrong("mesh.banned", format!("{wrong}, not `{text}`")),
            }
        }
        Mesh {
            enabled: self.flag("mesh.enabled"),
            address: self.parsed("mesh.address", "an IP address", IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            port: self.port("mesh.port"),
            peers,
            banned,
            connections_max: self.small("mesh.max_connections") as usize,
            upload_slots: self.small("mesh.upload_slots") as usize,
            gso: self.flag("mesh.gso"),
            gossip: self.flag("mesh.gossip"),
        }
    }
}
