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
    /// Whether the port is forwarded.
    pub port_mapping: MeshPortMapping,
    /// Find peers on the own network.
    pub mdns: bool,
    /// Section `mesh.dht`.
    pub dht: MeshDht,
}

/// Whether a router forwards the mesh's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeshPortMapping {
    /// It is asked to.
    Auto,
    /// It does, says the owner.
    Manual,
    /// It is not asked.
    Off,
}

/// Section `mesh.dht`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshDht {
    /// It is used.
    pub enabled: bool,
    /// Recordings and releases are announced.
    pub announce_content: bool,
    /// Seconds between two announcements of one key.
    pub announce_interval_s: u64,
    /// Seconds between two looks at one key.
    pub discovery_interval_s: u64,
    /// Peers with which nobody is looked for.
    pub neighbors_min: usize,
    /// Peers with which nobody is called who was found.
    pub neighbors_max: usize,
    /// `host:port`; empty for well-known ones.
    pub bootstrap_nodes: Vec<String>,
    /// Texts whose hashes are the meeting places; empty for our own.
    pub rendezvous_keys: Vec<String>,
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
        let port_mapping = match self.text("mesh.port_mapping").to_ascii_lowercase().as_str() {
            "auto" => MeshPortMapping::Auto,
            "manual" => MeshPortMapping::Manual,
            _ => MeshPortMapping::Off,
        };
        Mesh {
            port_mapping,
            mdns: self.flag("mesh.mdns"),
            dht: self.dht(),
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

    fn dht(&mut self) -> MeshDht {
        let bootstrap_nodes = self.list("mesh.dht.bootstrap_nodes");
        for node in &bootstrap_nodes {
            if !node.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
                self.wrong("mesh.dht.bootstrap_nodes", format!("a node like host:6881 is wanted, not `{node}`"));
            }
        }
        let rendezvous_keys = self.list("mesh.dht.rendezvous_keys");
        for (name, count, max) in [
            ("mesh.dht.bootstrap_nodes", bootstrap_nodes.len(), limits::DHT_BOOTSTRAP_NODES),
            ("mesh.dht.rendezvous_keys", rendezvous_keys.len(), limits::DHT_RENDEZVOUS_KEYS),
        ] {
            if count > max {
                self.wrong(name, format!("at most {max} are allowed"));
            }
        }
        MeshDht {
            enabled: self.flag("mesh.dht.enabled"),
            announce_content: self.flag("mesh.dht.announce_content"),
            announce_interval_s: self.number("mesh.dht.announce_interval"),
            discovery_interval_s: self.number("mesh.dht.discovery_interval"),
            neighbors_min: self.small("mesh.dht.min_neighbors") as usize,
            neighbors_max: self.small("mesh.dht.max_neighbors") as usize,
            bootstrap_nodes,
            rendezvous_keys,
        }
    }
}
