//! A network shell, its events, and users made of plain sockets.

use std::time::Duration;

use slskdn::engine::soulseek::io::{ConnEvent, Input, NetAction, Purpose};
use slskdn::engine::soulseek::peer::Init;
use slskdn::model::id::ConnId;
use slskdn::net::soulseek::{Deadlines, NetSettings, Network};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Long enough for the slowest machine; only a broken test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// So long that it never passes in a test.
pub(crate) const NEVER: Duration = Duration::from_secs(3_600);

/// So short that a test may wait for it to pass.
pub(crate) const SOON: Duration = Duration::from_millis(50);

/// Deadlines that never pass.
pub(crate) fn patient() -> Deadlines {
    Deadlines {
        dial: NEVER,
        server_connect: NEVER,
        handshake: NEVER,
        decision: NEVER,
        frame: NEVER,
        write_stall: NEVER,
        linger: SOON,
    }
}

pub(crate) struct Rig {
    pub(crate) net: Network,
    pub(crate) server: TcpListener,
    pub(crate) dir: TempDir,
    events: mpsc::Receiver<Input>,
    cancel: CancellationToken,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_with(patient()).await
    }

    pub(crate) async fn start_with(deadlines: Deadlines) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = NetSettings {
            bind: "127.0.0.1".parse().unwrap(),
            port: 0,
            server: server.local_addr().unwrap().to_string(),
            spool_dir: dir.path().join("spool"),
            deadlines,
        };
        let (inputs, events) = mpsc::channel(16);
        let cancel = CancellationToken::new();
        let net = Network::start(settings, inputs, cancel.clone()).await.unwrap();
        Self { net, server, dir, events, cancel }
    }

    /// The next thing that the engine would see.
    pub(crate) async fn event(&mut self) -> Input {
        timeout(PATIENCE, self.events.recv()).await.expect("an event").expect("an open channel")
    }

    /// What has happened without waiting for it.
    pub(crate) fn event_now(&mut self) -> Option<Input> {
        self.events.try_recv().ok()
    }

    /// The next event, which must be of a connection.
    pub(crate) async fn conn_event(&mut self) -> (ConnId, ConnEvent) {
        match self.event().await {
            Input::Conn(conn, event) => (conn, event),
            other => panic!("{other:?}"),
        }
    }

    /// The next event, which must end this connection: its reason and whether it is a violation.
    pub(crate) async fn closed(&mut self, conn: ConnId) -> (String, bool) {
        match self.conn_event().await {
            (of, ConnEvent::Closed { reason, violation }) if of == conn => (reason, violation),
            other => panic!("{other:?}"),
        }
    }

    /// The next event must end this connection as a violation whose reason says this.
    pub(crate) async fn violated(&mut self, conn: ConnId, says: &str) {
        let (reason, violation) = self.closed(conn).await;
        assert!(violation && reason.contains(says), "{reason:?}");
    }

    /// Somebody calls, and no end of `gone` is told up to then.
    pub(crate) async fn call_past(&mut self, gone: ConnId) -> (User, ConnId) {
        let stream = TcpStream::connect(("127.0.0.1", self.net.local_port())).await.unwrap();
        loop {
            match self.conn_event().await {
                (conn, ConnEvent::Accepted { .. }) => break (User(stream), conn),
                (conn, ConnEvent::Peer(_)) if conn == gone => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Somebody calls.
    pub(crate) async fn call(&mut self) -> (User, ConnId) {
        let stream = TcpStream::connect(("127.0.0.1", self.net.local_port())).await.unwrap();
        let from = stream.local_addr().unwrap();
        match self.conn_event().await {
            (conn, ConnEvent::Accepted { from: seen }) => {
                assert_eq!(from, seen.into());
                (User(stream), conn)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Somebody calls for this kind of connection (`P`, `F` or `D`) and is taken in.
    pub(crate) async fn caller(&mut self, kind: &str, purpose: Purpose) -> (User, ConnId) {
        let (mut user, conn) = self.call().await;
        user.send(&peer_init("them", kind)).await;
        match self.conn_event().await {
            (of, ConnEvent::Init(Init::PeerInit { user, .. })) if of == conn => assert_eq!(user.as_str(), "them"),
            other => panic!("{other:?}"),
        }
        self.net.perform(NetAction::Adopt(conn, purpose));
        (user, conn)
    }

    /// Everything ends, and no task is left.
    pub(crate) async fn end(self) {
        self.cancel.cancel();
        // The engine takes no more.
        drop(self.events);
        timeout(PATIENCE, self.net.finished()).await.expect("no task is left");
    }
}

/// The other end of a connection.
pub(crate) struct User(pub(crate) TcpStream);

impl User {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        timeout(PATIENCE, self.0.read_exact(&mut bytes)).await.expect("bytes").expect("bytes");
        bytes
    }

    /// Everything up to the end of the stream.
    pub(crate) async fn read_all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await.expect("an end").expect("an end");
        bytes
    }

    /// The stream ends, one way or the other, without another byte.
    pub(crate) async fn hung_up(&mut self) {
        match timeout(PATIENCE, self.0.read(&mut [0])).await.expect("an end") {
            Ok(0) | Err(_) => {}
            Ok(_) => panic!("bytes instead of an end"),
        }
    }
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).unwrap();
    [&len.to_le_bytes(), text.as_bytes()].concat()
}

/// A server or peer message.
pub(crate) fn wide(code: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(4 + body.len()).unwrap();
    [&len.to_le_bytes()[..], &code.to_le_bytes(), body].concat()
}

/// An init or distributed message.
pub(crate) fn narrow(code: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(1 + body.len()).unwrap();
    [&len.to_le_bytes()[..], &[code], body].concat()
}

pub(crate) fn peer_init(user: &str, kind: &str) -> Vec<u8> {
    narrow(1, &[text(user), text(kind), vec![0; 4]].concat())
}

pub(crate) fn pierce_fire_wall(token: u32) -> Vec<u8> {
    narrow(0, &token.to_le_bytes())
}
