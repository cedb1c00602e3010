//! The public DHT of `BitTorrent`: who is at a key, and that we are.
//!
//! The protocol is the crate `mainline`'s (BEP 5, with the defence of BEP 42 against invented neighbours). It runs on a
//! thread of its own that wakes twenty times a second, so it is opened for an errand and closed when there is none for
//! a while ([`Dht::rest`]); what it learned of other nodes is kept for the next time. It never lives long enough to
//! become a server by itself: we ask and announce, and answer nobody. Only IPv4, as the crate is.
//!
//! When to ask is `engine::mesh::meeting`'s decision, what to think of the answers `engine::mesh::candidates`'.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use futures_util::StreamExt as _;
use mainline::async_dht::AsyncDht;
use mainline::{Dht as Node, Id};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use crate::model::limits;
use crate::model::mesh::DhtKey;

/// Where the way into the DHT begins, when the owner names no other nodes.
pub const ROUTERS: [&str; 3] =
    ["router.bittorrent.com:6881", "dht.transmissionbt.com:6881", "dht.libtorrent.org:25401"];
/// For one look-up. Nodes answer within 2 s, and it takes some ten steps.
const LOOK_UP: Duration = Duration::from_secs(60);
/// For telling the nodes nearest to a key.
const TELL: Duration = Duration::from_secs(15);
/// For the names of the first nodes.
const NAMES: Duration = Duration::from_secs(10);
/// Opened anew after so long: after 15 min the crate would begin to answer others.
const LIFE: Duration = Duration::from_secs(10 * 60);
/// Nodes kept for the next opening.
const KEPT: usize = 64;
/// Addresses of one first node's name that are used.
const ADDRESSES: usize = 4;

/// Why an errand failed.
#[derive(Debug, thiserror::Error)]
pub enum DhtError {
    /// No first node's name leads anywhere.
    #[error("none of the first nodes is found: {0}")]
    NoRouters(String),
    /// The socket cannot be had.
    #[error("its UDP socket cannot be had: {0}")]
    Socket(String),
    /// Nobody answers.
    #[error("no node answers")]
    Silent,
    /// The nodes near the key did not take it.
    #[error("the nodes near the key did not take it: {0}")]
    Untold(String),
}

/// The way into the DHT.
#[derive(Debug)]
pub struct Dht {
    bind: Ipv4Addr,
    routers: Vec<String>,
    /// One errand at a time.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    node: Option<(AsyncDht, Instant)>,
    /// Nodes that answered, the last time.
    known: Vec<SocketAddrV4>,
}

impl Dht {
    /// Not opened yet. Speaks from this address, and begins with these nodes (`host:port`).
    pub fn new(bind: Ipv4Addr, routers: Vec<String>) -> Self {
        Self { bind, routers, inner: Mutex::default() }
    }

    /// Addresses at a key, in no order, at most `limits::DHT_ADDRESSES`. Anybody may have put them there.
    ///
    /// # Errors
    /// The DHT is not reached.
    pub async fn look(&self, key: DhtKey) -> Result<BTreeSet<SocketAddrV4>, DhtError> {
        let mut inner = self.inner.lock().await;
        let node = self.open(&mut inner).await?;
        inner.look(&node, key).await
    }

    /// Tells the nodes nearest to a key that we listen on this port, and answers like [`Dht::look`]. Our address is the
    /// one they see.
    ///
    /// # Errors
    /// The DHT is not reached, or nobody took it.
    pub async fn announce(&self, key: DhtKey, port: u16) -> Result<BTreeSet<SocketAddrV4>, DhtError> {
        let mut inner = self.inner.lock().await;
        let node = self.open(&mut inner).await?;
        // The nodes that answer here give the tokens that an announcement needs; the crate's own search for them asks
        // in a way that older nodes do not understand.
        let found = inner.look(&node, key).await?;
        match timeout(TELL, node.announce_peer(id(key), Some(port))).await {
            Ok(Ok(_)) => Ok(found),
            Ok(Err(error)) => Err(DhtError::Untold(error.to_string())),
            Err(_) => Err(DhtError::Untold("no answer in time".to_owned())),
        }
    }

    /// Nodes known from the last time that it was open.
    pub async fn known(&self) -> usize {
        self.inner.lock().await.known.len()
    }

    /// Closes it until the next errand.
    pub async fn rest(&self) {
        self.inner.lock().await.close().await;
    }

    async fn open(&self, inner: &mut Inner) -> Result<AsyncDht, DhtError> {
        if inner.node.as_ref().is_some_and(|(_, since)| since.elapsed() >= LIFE) {
            inner.close().await;
        }
        if let Some((node, _)) = &inner.node {
            return Ok(node.clone());
        }
        let mut first = inner.known.clone();
        let mut why = "there are none".to_owned();
        for name in &self.routers {
            match timeout(NAMES, tokio::net::lookup_host(name)).await {
                Ok(Ok(found)) => first.extend(found.filter_map(v4).take(ADDRESSES)),
                Ok(Err(error)) => why = format!("{name}: {error}"),
                Err(_) => why = format!("{name}: no answer in time"),
            }
        }
        if first.is_empty() {
            return Err(DhtError::NoRouters(why));
        }
        let bind = self.bind;
        // It waits for its thread.
        let built = tokio::task::spawn_blocking(move || {
            Node::builder().bind_address(bind).port(0).bootstrap(&first).build().map(Node::as_async)
        });
        let node = built.await.map_err(|error| DhtError::Socket(error.to_string()))?;
        let node = node.map_err(|error| DhtError::Socket(error.to_string()))?;
        inner.node = Some((node.clone(), Instant::now()));
        Ok(node)
    }
}

impl Inner {
    async fn look(&mut self, node: &AsyncDht, key: DhtKey) -> Result<BTreeSet<SocketAddrV4>, DhtError> {
        let until = Instant::now() + LOOK_UP;
        let mut found = BTreeSet::new();
        let mut answers = node.get_peers(id(key));
        let over = loop {
            match timeout_at(until, answers.next()).await {
                Ok(Some(addresses)) => {
                    let room = limits::DHT_ADDRESSES - found.len();
                    found.extend(addresses.into_iter().take(room));
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        if !over {
            // Somebody keeps the search going with ever new neighbours: it ends with its thread.
            self.node = None;
            return if found.is_empty() { Err(DhtError::Silent) } else { Ok(found) };
        }
        if found.is_empty() && node.to_bootstrap().await.is_empty() {
            self.known.clear();
            return Err(DhtError::Silent);
        }
        Ok(found)
    }

    async fn close(&mut self) {
        let Some((node, _)) = self.node.take() else { return };
        let known = node.to_bootstrap().await;
        self.known = known.iter().filter_map(|node| node.parse().ok()).take(KEPT).collect();
    }
}

fn id(key: DhtKey) -> Id {
    // An id is 20 bytes, as a key is.
    Id::from_bytes(key.0).unwrap_or_else(|_| Id::random())
}

fn v4(address: SocketAddr) -> Option<SocketAddrV4> {
    match (address.ip().to_canonical(), address.port()) {
        (IpAddr::V4(ip), port) if port != 0 => Some(SocketAddrV4::new(ip, port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::mesh::meeting::rendezvous_key;

    /// A DHT of the crate's own nodes; another program's is in `tests/mesh`.
    async fn nodes(count: usize) -> mainline::Testnet {
        let built = tokio::task::spawn_blocking(move || mainline::Testnet::builder(count).build());
        built.await.unwrap().unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_one_announces_the_other_finds() {
        let world = nodes(10).await;
        let enter = || Dht::new(Ipv4Addr::LOCALHOST, world.bootstrap.clone());
        let (one, other) = (enter(), enter());
        let (here, there) = (rendezvous_key("here"), rendezvous_key("there"));
        assert_eq!(other.look(here).await.unwrap(), BTreeSet::new());
        one.announce(here, 50_305).await.unwrap();
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 50_305);
        assert_eq!(other.look(here).await.unwrap(), BTreeSet::from([address]));
        assert_eq!(other.look(there).await.unwrap(), BTreeSet::new());
        // Closed and opened again it still knows the way, without the first nodes.
        other.rest().await;
        assert!(other.known().await > 0);
        let lost = Dht { routers: vec!["127.0.0.1:1".to_owned()], ..other };
        assert_eq!(lost.announce(here, 50_306).await.unwrap(), BTreeSet::from([address]));
    }

    #[tokio::test]
    async fn a_missing_dht_is_told() {
        let silent = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = silent.local_addr().unwrap().to_string();
        let key = rendezvous_key("here");
        assert!(matches!(Dht::new(Ipv4Addr::LOCALHOST, vec![at]).look(key).await, Err(DhtError::Silent)));
        assert!(matches!(Dht::new(Ipv4Addr::LOCALHOST, Vec::new()).look(key).await, Err(DhtError::NoRouters(_))));
        let name = vec!["nobody.invalid:6881".to_owned()];
        assert!(matches!(Dht::new(Ipv4Addr::LOCALHOST, name).look(key).await, Err(DhtError::NoRouters(_))));
    }
}
