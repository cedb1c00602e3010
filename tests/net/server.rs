//! The connection to the server, and the listening port.

use slskdn::engine::soulseek::io::{ConnEvent, Input, NetAction};
use slskdn::engine::soulseek::server::{FromServer, ToServer};
use slskdn::model::music::WireText;
use slskdn::net::soulseek::{NetError, NetSettings, Network};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::rig::{Rig, User, patient, text, wide};

async fn connected(rig: &mut Rig) -> User {
    rig.net.perform(NetAction::ServerConnect);
    let (stream, _) = rig.server.accept().await.unwrap();
    match rig.event().await {
        Input::ServerUp { at } => assert_eq!(rig.server.local_addr().unwrap(), at.into()),
        other => panic!("{other:?}"),
    }
    User(stream)
}

async fn down(rig: &mut Rig, says: &str) {
    match rig.event().await {
        Input::ServerDown { reason } => assert!(reason.contains(says), "{reason:?}"),
        other => panic!("{other:?}"),
    }
}

fn login() -> ToServer {
    ToServer::Login { user: WireText::from("us"), password: "pw".into(), major: 177, hash: "h".into(), minor: 1 }
}

#[tokio::test]
async fn a_login_goes_out_as_the_protocol_writes_it() {
    let mut rig = Rig::start().await;
    let mut server = connected(&mut rig).await;
    assert!(rig.net.stats().server);
    rig.net.perform(NetAction::ServerSend(login()));
    let body = [text("us"), text("pw"), 177_u32.to_le_bytes().to_vec(), text("h"), 1_u32.to_le_bytes().to_vec()];
    let frame = wide(1, &body.concat());
    assert_eq!(server.read(frame.len()).await, frame);
    rig.end().await;
}

#[tokio::test]
async fn a_frame_may_come_byte_by_byte() {
    let mut rig = Rig::start().await;
    let mut server = connected(&mut rig).await;
    let frames = [wide(41, &[]), wide(66, &text("maintenance")), wide(41, &[])].concat();
    for byte in frames {
        server.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert!(matches!(rig.event().await, Input::Server(FromServer::Relogged)));
    match rig.event().await {
        Input::Server(FromServer::AdminMessage { text }) => assert_eq!(text.as_str(), "maintenance"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(rig.event().await, Input::Server(FromServer::Relogged)));
    rig.end().await;
}

#[tokio::test]
async fn impossible_lengths_end_the_connection() {
    for length in [0_u32, 3, 16 * 1024 * 1024 + 1, 1 << 31, u32::MAX] {
        let mut rig = Rig::start().await;
        let mut server = connected(&mut rig).await;
        server.send(&[length.to_le_bytes(), 41_u32.to_le_bytes()].concat()).await;
        down(&mut rig, &length.to_string()).await;
        server.hung_up().await;
        assert!(!rig.net.stats().server);
        assert_eq!(rig.net.stats().violations, 1);
        rig.end().await;
    }
}

#[tokio::test]
async fn a_message_that_does_not_decode_is_skipped() {
    let mut rig = Rig::start().await;
    let mut server = connected(&mut rig).await;
    // Somebody's search without its query, then something else.
    server.send(&[wide(26, &text("bob")), wide(41, &[])].concat()).await;
    assert!(matches!(rig.event().await, Input::Server(FromServer::Relogged)));
    assert!(rig.net.stats().server);
    rig.end().await;
}

#[tokio::test]
async fn an_end_by_the_server_is_told_and_an_end_by_us_is_not() {
    let mut rig = Rig::start().await;
    let server = connected(&mut rig).await;
    drop(server);
    down(&mut rig, "closed the connection").await;

    let mut server = connected(&mut rig).await;
    rig.net.perform(NetAction::ServerSend(ToServer::ServerPing));
    rig.net.perform(NetAction::ServerClose);
    assert_eq!(server.read_all().await, wide(32, &[]), "what was sent before arrives");
    // The next event belongs to the next connection.
    connected(&mut rig).await;
    rig.end().await;
}

#[tokio::test]
async fn a_second_connect_replaces_the_first() {
    let mut rig = Rig::start().await;
    let mut first = connected(&mut rig).await;
    let _second = connected(&mut rig).await;
    first.hung_up().await;
    rig.end().await;
}

#[tokio::test]
async fn another_configured_server_ends_the_connection_to_the_old_one() {
    let mut rig = Rig::start().await;
    let mut old = connected(&mut rig).await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    rig.net.set_server(rig.server.local_addr().unwrap().to_string());
    rig.net.perform(NetAction::ServerSend(ToServer::ServerPing));
    assert_eq!(old.read(8).await, wide(32, &[]), "the same address again changes nothing");

    rig.net.set_server(elsewhere.local_addr().unwrap().to_string());
    down(&mut rig, "another server").await;
    old.hung_up().await;
    rig.net.perform(NetAction::ServerSend(login()));
    rig.server = elsewhere;
    connected(&mut rig).await;
    rig.end().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_one_sentence() {
    let mut rig = Rig::start().await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = nobody.to_string();
    rig.net.set_server(nobody.clone());
    rig.net.perform(NetAction::ServerConnect);
    down(&mut rig, &format!("{nobody}: ")).await;
    rig.net.set_server("no port here".to_owned());
    rig.net.perform(NetAction::ServerConnect);
    down(&mut rig, "\"no port here\" cannot be resolved").await;
    rig.end().await;
}

#[tokio::test]
async fn a_taken_port_is_one_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let settings = NetSettings {
        bind: "127.0.0.1".parse().unwrap(),
        port,
        server: "127.0.0.1:1".to_owned(),
        spool_dir: dir.path().to_owned(),
        deadlines: patient(),
    };
    let (inputs, _events) = mpsc::channel(1);
    let refused = Network::start(settings, inputs, CancellationToken::new()).await.err().unwrap();
    assert!(matches!(refused, NetError::TakenPort { .. }));
    assert_eq!(
        refused.to_string(),
        format!("port {port} on 127.0.0.1 is taken by another program: choose another soulseek.listen_port")
    );
}

#[tokio::test]
async fn the_port_may_change_while_connections_stand() {
    let mut rig = Rig::start().await;
    let (mut user, conn) = rig.call().await;
    let before = rig.net.local_port();

    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert!(rig.net.rebind(taken.local_addr().unwrap().port()).await.is_err());
    assert_eq!(rig.net.local_port(), before, "a refused change changes nothing");

    let after = rig.net.rebind(0).await.unwrap();
    assert_ne!(after, before);
    assert_eq!(rig.net.local_port(), after);
    let _caller = rig.call().await;
    // The old socket closes in its own task, soon.
    while TcpStream::connect(("127.0.0.1", before)).await.is_ok() {
        tokio::task::yield_now().await;
    }

    user.send(&super::rig::pierce_fire_wall(7)).await;
    loop {
        match rig.conn_event().await {
            (of, ConnEvent::Init(_)) => break assert_eq!(of, conn, "the old connection stands"),
            // Callers of the old port, in its last moment.
            (of, _) => assert_ne!(of, conn),
        }
    }
    rig.end().await;
}
