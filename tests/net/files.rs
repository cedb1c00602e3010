//! File connections change hands.

use slskdn::engine::soulseek::io::{ConnEvent, NetAction, Purpose};
use slskdn::engine::soulseek::peer::Init;
use slskdn::model::id::{ConnId, Token};
use slskdn::net::soulseek::Deadlines;
use tokio::net::TcpListener;

use super::rig::{PATIENCE, Rig, SOON, User, patient, peer_init, pierce_fire_wall};

#[tokio::test]
async fn nothing_behind_the_token_is_lost() {
    let mut rig = Rig::start().await;
    let (mut user, conn) = rig.call().await;
    // First message, token and file bytes in one segment.
    let data: Vec<u8> = (0..=255).cycle().take(3_000).collect();
    user.send(&[&peer_init("them", "F")[..], &77_u32.to_le_bytes(), &data].concat()).await;
    assert!(matches!(rig.conn_event().await, (_, ConnEvent::Init(_))));
    rig.net.perform(NetAction::Adopt(conn, Purpose::FileIn));
    assert!(matches!(rig.conn_event().await, (of, ConnEvent::FileToken(Token(77))) if of == conn));
    assert_eq!(rig.net.stats().file, 1);

    let mut taken = User(rig.net.take_file_stream(conn).await.unwrap());
    assert_eq!(rig.net.stats().file, 0, "the connection is forgotten");
    taken.send(b"offset").await;
    assert_eq!(user.read(6).await, b"offset");
    drop(user);
    assert_eq!(taken.read_all().await, data);
    assert!(rig.net.take_file_stream(conn).await.is_none(), "it is handed over once");
    rig.net.perform(NetAction::Close(conn));
    rig.end().await;
}

#[tokio::test]
async fn an_upload_takes_its_connection_right_after_the_adoption() {
    let mut rig = Rig::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let std::net::SocketAddr::V4(to) = listener.local_addr().unwrap() else { unreachable!() };
    let conn = ConnId(3);
    rig.net.perform(NetAction::Dial { conn, to });
    let mut user = User(listener.accept().await.unwrap().0);
    assert!(matches!(rig.conn_event().await, (_, ConnEvent::Dialled)));
    rig.net.perform(NetAction::SendInit(conn, Init::PierceFireWall { token: Token(4) }));
    rig.net.perform(NetAction::Adopt(conn, Purpose::FileOut));
    let mut taken = User(rig.net.take_file_stream(conn).await.unwrap());
    taken.send(b"bytes").await;
    drop(taken);
    assert_eq!(user.read_all().await, [&pierce_fire_wall(4)[..], b"bytes"].concat());
    rig.end().await;
}

#[tokio::test]
async fn the_loser_of_two_connections_ends_without_blame() {
    let mut rig = Rig::start().await;
    let (user, conn) = rig.caller("F", Purpose::FileIn).await;
    drop(user);
    assert_eq!(rig.closed(conn).await, (String::new(), false));

    // The same behind the token, before anybody took it.
    let (mut user, conn) = rig.caller("F", Purpose::FileIn).await;
    user.send(&[1, 0, 0, 0]).await;
    assert!(matches!(rig.conn_event().await, (_, ConnEvent::FileToken(Token(1)))));
    drop(user);
    assert_eq!(rig.closed(conn).await, (String::new(), false));
    assert_eq!(rig.net.stats().violations, 0);
    rig.end().await;
}

#[tokio::test]
async fn a_token_that_does_not_come_and_a_socket_that_nobody_takes_have_deadlines() {
    for (deadlines, purpose, says) in [
        (Deadlines { handshake: SOON, ..patient() }, Purpose::FileIn, "no file token"),
        (Deadlines { decision: SOON, ..patient() }, Purpose::FileOut, "decided"),
    ] {
        let mut rig = Rig::start_with(deadlines).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(to) = listener.local_addr().unwrap() else { unreachable!() };
        rig.net.perform(NetAction::Dial { conn: ConnId(1), to });
        let mut user = User(listener.accept().await.unwrap().0);
        assert!(matches!(rig.conn_event().await, (_, ConnEvent::Dialled)));
        rig.net.perform(NetAction::Adopt(ConnId(1), purpose));
        let (reason, violation) = rig.closed(ConnId(1)).await;
        assert!(!violation && reason.contains(says), "{reason:?}");
        user.hung_up().await;
        rig.end().await;
    }
}

#[tokio::test]
async fn only_file_connections_change_hands() {
    let mut rig = Rig::start().await;
    let (_user, conn) = rig.caller("P", Purpose::Peer).await;
    let taken = tokio::time::timeout(PATIENCE, rig.net.take_file_stream(conn)).await.unwrap();
    assert!(taken.is_none());
    assert!(rig.net.take_file_stream(ConnId(1)).await.is_none(), "there is no such connection");
    rig.end().await;
}
