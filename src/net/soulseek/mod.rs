//! Connections to the Soulseek server and to users.
//!
//! This room performs the engine's [`NetAction`]s and reports what happens as [`Input`]s. It turns bytes into messages
//! and messages into bytes, and enforces what needs no decision: frame limits, connection limits, and the deadlines of
//! dials, first messages and stalled writes. Whom to call, what a connection is for and when an idle one ends is the
//! engine's business; file bytes are the disk shell's, which takes the socket over by
//! [`Network::take_file_stream`].
//!
//! One task owns each connection and reads and writes it (`user_conn`, `server_link`). Everybody else reaches it by its
//! outbox, which never blocks. A connection that someone made to us is numbered here, from [`ACCEPTED_FIRST`] on; the
//! engine numbers its dials from 2^63, where callers never reach.
//!
//! ```text
//! dialled:   Dial ─▶ connecting ─▶ Dialled ─▶ (SendInit) ─▶ Adopt ─┐      ┌▶ Peer, Distributed: messages both ways
//! accepted:  Accepted ─▶ first message ─▶ Init ─▶ Adopt ───────────┴──────┼▶ FileIn: token ─▶ parked ─▶ handed over
//!                                                                         └▶ FileOut: parked ─▶ handed over
//! ```
//! Every stage but adopted message connections has a deadline; each ends in `Closed`, or in silence after `Close`.

mod end;
mod listener;
mod messages;
mod named;
mod outbox;
mod server_link;
mod share_list;
mod shared;
mod user_conn;
mod wire;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::end::End;
use self::listener::Listener;
use self::named::Named;
use self::outbox::Pushed;
use self::server_link::ServerLink;
pub use self::shared::{ACCEPTED_FIRST, NetStats};
use self::shared::{Conn, Order, Shared};
use crate::engine::soulseek::io::{Input, NetAction};
use crate::model::id::{ConnId, Username};
use crate::model::limits;

/// Where to listen, whom to call, where to spool.
#[derive(Clone, Debug)]
pub struct NetSettings {
    /// Address to listen on; unspecified means every interface.
    pub bind: Ipv4Addr,
    /// TCP port to listen on; 0 lets the system choose.
    pub port: u16,
    /// The Soulseek server as `host:port`.
    pub server: String,
    /// Folder for the share lists of others; made when it is missing.
    pub spool_dir: PathBuf,
    /// How long things may take.
    pub deadlines: Deadlines,
}

/// How long things may take. The defaults are those of [`limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// A dial to a user, waiting for a free place included.
    pub dial: Duration,
    /// The connection to the server, name lookup included.
    pub server_connect: Duration,
    /// The first message of somebody who called, and the token of a file connection.
    pub handshake: Duration,
    /// The engine's word on a fresh connection, and the taking over of a file connection.
    pub decision: Duration,
    /// From a frame's first byte to its last, and between two pieces of a share list.
    pub frame: Duration,
    /// Taking 16 KiB of what we send, and a full mailbox getting room again.
    pub write_stall: Duration,
    /// For the other side to end a connection that we closed.
    pub linger: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(limits::DIAL_S),
            server_connect: Duration::from_secs(limits::SERVER_CONNECT_S),
            handshake: Duration::from_secs(limits::HANDSHAKE_S),
            decision: Duration::from_secs(limits::PEER_IDLE_S),
            frame: Duration::from_secs(limits::FRAME_S),
            write_stall: Duration::from_secs(limits::WRITE_STALL_S),
            linger: Duration::from_secs(1),
        }
    }
}

/// Why the network does not start, or does not change its port.
#[derive(Debug, Error)]
pub enum NetError {
    /// Another program has the port.
    #[error("port {port} on {bind} is taken by another program: choose another soulseek.listen_port")]
    TakenPort {
        /// Configured address.
        bind: Ipv4Addr,
        /// Configured port.
        port: u16,
    },
    /// The system refuses to listen for another reason.
    #[error("cannot listen on {bind}:{port}: {source}")]
    Listen {
        /// Configured address.
        bind: Ipv4Addr,
        /// Configured port.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// The spool folder cannot be made or emptied of unfinished files.
    #[error("cannot use {} for share lists of others: {source}", path.display())]
    SpoolFolder {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// All connections to the Soulseek network. A cheap handle: clones share them.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
    server: Arc<ServerLink>,
    listener: Arc<Listener>,
}

impl Network {
    /// Listens, and reports to `inputs` from then on. `cancel` ends every connection politely.
    ///
    /// # Errors
    /// [`NetError`]: the port or the spool folder cannot be had.
    pub async fn start(
        settings: NetSettings,
        inputs: mpsc::Sender<Input>,
        cancel: CancellationToken,
    ) -> Result<Self, NetError> {
        let spool_dir = settings.spool_dir.clone();
        share_list::prepare(&spool_dir)
            .await
            .map_err(|source| NetError::SpoolFolder { path: spool_dir.clone(), source })?;
        let shared = Arc::new(Shared::new(spool_dir, settings.deadlines, inputs, cancel));
        let listener = Listener::start(Arc::clone(&shared), settings.bind, settings.port).await?;
        let server = ServerLink::new(Arc::clone(&shared), settings.server);
        Ok(Self { shared, server: Arc::new(server), listener: Arc::new(listener) })
    }

    /// The port that users reach us at.
    pub fn local_port(&self) -> u16 {
        self.listener.port()
    }

    /// Listens on another port from now on; connections that stand are kept. On an error the old port stays.
    ///
    /// # Errors
    /// [`NetError`]: the new port cannot be had.
    pub async fn rebind(&self, port: u16) -> Result<u16, NetError> {
        self.listener.rebind(port).await
    }

    /// Uses this server (`host:port`) from the next `ServerConnect` on. A connection to another one ends, with a
    /// `ServerDown`.
    pub fn set_server(&self, server: String) {
        self.server.set_address(server);
    }

    /// The file with the compressed body of our share list; until one is named, others see an empty list.
    pub fn set_share_list(&self, path: PathBuf) {
        self.shared.set_share_list(path);
    }

    /// Where a user's share list lies once it was received.
    pub fn spool_path(&self, user: &Username) -> PathBuf {
        share_list::spool_path(self.shared.spool_dir(), user)
    }

    /// Counts, as they are now.
    pub fn stats(&self) -> NetStats {
        self.shared.stats(self.server.is_up())
    }

    /// Resolves when every connection has ended after `cancel`.
    pub async fn finished(&self) {
        self.shared.finished().await;
    }

    /// Carries out an action. Never waits for a remote: what cannot go out now waits in the connection's mailbox, and
    /// a connection whose mailbox stays full is closed. An action for a connection that is gone does nothing.
    pub fn perform(&self, action: NetAction) {
        match action {
            NetAction::ServerConnect => self.server.connect(),
            NetAction::ServerSend(message) => self.server.send(message),
            NetAction::ServerClose => self.server.close(),
            NetAction::Dial { conn, to } => user_conn::dial(&self.shared, conn, to),
            NetAction::SendInit(conn, init) => self.order(conn, Order::Init(init)),
            NetAction::Adopt(conn, purpose) => self.order(conn, Order::Adopt(purpose)),
            NetAction::SendPeer(conn, message) => self.order(conn, Order::Peer(message)),
            NetAction::SendDistributed(conn, message) => self.order(conn, Order::Distributed(message)),
            NetAction::SendShareList(conn) => self.order(conn, Order::ShareList),
            NetAction::ExpectShareList(conn, user) => {
                if let Some(conn) = self.shared.find(conn) {
                    conn.expect_share_list(user);
                }
            }
            NetAction::SearchTokens(tokens) => self.shared.set_search_tokens(tokens),
            NetAction::Close(conn) => {
                if let Some(conn) = self.shared.forget(conn) {
                    conn.outbox.close();
                }
            }
        }
    }

    /// The socket of a `FileIn` connection whose token was reported, or of an adopted `FileOut` connection, with every
    /// byte behind the token still in it. The connection is forgotten here: no event follows. `None`: it is gone, or
    /// not such a connection.
    pub async fn take_file_stream(&self, conn: ConnId) -> Option<TcpStream> {
        let (hand, taken) = oneshot::channel();
        self.order(conn, Order::HandOver(hand));
        taken.await.ok()
    }

    fn order(&self, id: ConnId, order: Order) {
        let Some(conn) = self.shared.find(id) else {
            debug!(conn = id.0, order = %Named(&order), "not sent: the connection is gone");
            return;
        };
        debug!(conn = id.0, order = %Named(&order), "to send");
        let weight = order.weight();
        if conn.outbox.push(order, weight) == Pushed::Filled {
            self.watch(conn);
        }
    }

    fn watch(&self, conn: Arc<Conn>) {
        let patience = self.shared.deadlines.write_stall;
        self.shared.spawn(async move { conn.outbox.overdue(patience).await });
    }
}
