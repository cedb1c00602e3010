//! Messages between users.

use std::net::SocketAddr;

use slskdn::engine::soulseek::distributed::DistributedMessage;
use slskdn::engine::soulseek::frame::deflate;
use slskdn::engine::soulseek::io::{ConnEvent, NetAction, Purpose};
use slskdn::engine::soulseek::peer::{Init, PeerMessage};
use slskdn::engine::soulseek::server::ConnectionType;
use slskdn::model::id::{ConnId, Token};
use slskdn::model::music::WireText;
use tokio::net::TcpListener;

use super::rig::{Rig, SOON, User, narrow, patient, peer_init, pierce_fire_wall, text, wide};

/// The node dials a user and its dial succeeds.
async fn dialled(rig: &mut Rig, conn: ConnId) -> User {
    let user = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let SocketAddr::V4(to) = user.local_addr().unwrap() else { unreachable!() };
    rig.net.perform(NetAction::Dial { conn, to });
    let (stream, _) = user.accept().await.unwrap();
    match rig.conn_event().await {
        (of, ConnEvent::Dialled) if of == conn => User(stream),
        other => panic!("{other:?}"),
    }
}

fn queue_upload(path: &str) -> PeerMessage {
    PeerMessage::QueueUpload { path: WireText::from(path) }
}

/// A search reply with one file, compressed as on the wire.
fn search_reply(token: u32) -> Vec<u8> {
    let file = [&[1][..], &text("a\\b.flac"), &7_u64.to_le_bytes(), &text(""), &[0; 4]].concat();
    let head = [text("them"), token.to_le_bytes().to_vec(), 1_u32.to_le_bytes().to_vec()].concat();
    // Free slot, speed, queue length.
    wide(9, &deflate(&[head, file, vec![1, 0, 0, 0, 0, 0, 0, 0, 0]].concat()))
}

#[tokio::test]
async fn peer_messages_go_both_ways() {
    let mut rig = Rig::start().await;
    let (mut user, conn) = rig.caller("P", Purpose::Peer).await;
    user.send(&wide(43, &text("Music\\a.flac"))).await;
    match rig.conn_event().await {
        (of, ConnEvent::Peer(message)) if of == conn => assert_eq!(message, queue_upload("Music\\a.flac")),
        other => panic!("{other:?}"),
    }
    rig.net.perform(NetAction::SendPeer(conn, queue_upload("x")));
    rig.net.perform(NetAction::SendPeer(conn, PeerMessage::UserInfoRequest));
    assert_eq!(user.read(13).await, wide(43, &text("x")));
    assert_eq!(user.read(8).await, wide(15, &[]));
    assert_eq!(rig.net.stats().peer, 1);
    drop(user);
    assert_eq!(rig.closed(conn).await, (String::new(), false));
    rig.end().await;
}

#[tokio::test]
async fn a_dialled_connection_sends_its_first_message_then_talks() {
    let mut rig = Rig::start().await;
    let conn = ConnId(5);
    let mut user = dialled(&mut rig, conn).await;
    let init = Init::PeerInit { user: WireText::from("us"), kind: ConnectionType::Peer, token: Token(0) };
    rig.net.perform(NetAction::SendInit(conn, init));
    rig.net.perform(NetAction::Adopt(conn, Purpose::Peer));
    rig.net.perform(NetAction::SendPeer(conn, PeerMessage::GetSharedFileList));
    let expected = [peer_init("us", "P"), wide(4, &[])].concat();
    assert_eq!(user.read(expected.len()).await, expected);
    rig.end().await;
}

#[tokio::test]
async fn a_failed_dial_is_told() {
    let mut rig = Rig::start().await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let SocketAddr::V4(to) = nobody else { unreachable!() };
    rig.net.perform(NetAction::Dial { conn: ConnId(1), to });
    assert!(matches!(rig.conn_event().await, (ConnId(1), ConnEvent::DialFailed { .. })));
    assert_eq!(rig.net.take_file_stream(ConnId(1)).await.map(|_| ()), None);
    rig.end().await;
}

#[tokio::test]
async fn pierce_fire_wall_both_ways() {
    let mut rig = Rig::start().await;
    let (mut caller, conn) = rig.call().await;
    caller.send(&pierce_fire_wall(u32::MAX)).await;
    match rig.conn_event().await {
        (of, ConnEvent::Init(init)) if of == conn => {
            assert_eq!(init, Init::PierceFireWall { token: Token(u32::MAX) });
        }
        other => panic!("{other:?}"),
    }

    let mut called = dialled(&mut rig, ConnId(9)).await;
    rig.net.perform(NetAction::SendInit(ConnId(9), Init::PierceFireWall { token: Token(1 << 31) }));
    assert_eq!(called.read(9).await, pierce_fire_wall(1 << 31));
    rig.end().await;
}

#[tokio::test]
async fn what_follows_the_first_message_waits_for_adoption() {
    let mut rig = Rig::start().await;
    let (mut user, conn) = rig.call().await;
    user.send(&[peer_init("them", "P"), wide(15, &[]), wide(4, &[])].concat()).await;
    assert!(matches!(rig.conn_event().await, (_, ConnEvent::Init(_))));
    tokio::task::yield_now().await;
    assert!(rig.event_now().is_none());
    rig.net.perform(NetAction::Adopt(conn, Purpose::Peer));
    assert!(matches!(rig.conn_event().await, (_, ConnEvent::Peer(PeerMessage::UserInfoRequest))));
    assert!(matches!(rig.conn_event().await, (_, ConnEvent::Peer(PeerMessage::GetSharedFileList))));
    rig.end().await;
}

#[tokio::test]
async fn distributed_messages_go_both_ways() {
    let mut rig = Rig::start().await;
    let (mut user, conn) = rig.caller("D", Purpose::Distributed).await;
    // An unknown code is skipped.
    user.send(&[narrow(200, &[1, 2, 3]), narrow(4, &3_i32.to_le_bytes())].concat()).await;
    match rig.conn_event().await {
        (of, ConnEvent::Distributed(message)) if of == conn => {
            assert_eq!(message, DistributedMessage::BranchLevel { level: 3 });
        }
        other => panic!("{other:?}"),
    }
    rig.net.perform(NetAction::SendDistributed(conn, DistributedMessage::BranchRoot { user: WireText::from("r") }));
    assert_eq!(user.read(10).await, narrow(5, &text("r")));
    assert_eq!(rig.net.stats().distributed, 1);
    rig.end().await;
}

#[tokio::test]
async fn a_close_of_ours_flushes_and_is_not_told() {
    let mut rig = Rig::start().await;
    let (mut user, conn) = rig.caller("P", Purpose::Peer).await;
    // Unread bytes at the close must not cost the other side our last words.
    user.send(&wide(43, &text("late"))).await;
    for _ in 0..50 {
        rig.net.perform(NetAction::SendPeer(conn, queue_upload("x")));
    }
    rig.net.perform(NetAction::Close(conn));
    rig.net.perform(NetAction::SendPeer(conn, queue_upload("after the close")));
    assert_eq!(user.read_all().await, wide(43, &text("x")).repeat(50));
    drop(user);
    // What was received before the close may still be told; an end is not.
    let (_next, _) = rig.call_past(conn).await;
    rig.end().await;
}

#[tokio::test]
async fn replies_to_no_search_of_ours_are_dropped_after_their_token() {
    let mut rig = Rig::start().await;
    let (mut user, _) = rig.caller("P", Purpose::Peer).await;
    rig.net.perform(NetAction::SearchTokens(vec![Token(7), Token(8)]));
    user.send(&[search_reply(6), search_reply(8), search_reply(9)].concat()).await;
    match rig.conn_event().await {
        (_, ConnEvent::Peer(PeerMessage::FileSearchResponse(reply))) => {
            assert_eq!((reply.token, reply.files.len()), (Token(8), 1));
        }
        other => panic!("{other:?}"),
    }
    rig.net.perform(NetAction::SearchTokens(Vec::new()));
    user.send(&[search_reply(8), wide(4, &[])].concat()).await;
    assert!(matches!(rig.conn_event().await, (_, ConnEvent::Peer(PeerMessage::GetSharedFileList))));
    assert_eq!(rig.net.stats().unwanted_results, 3);
    rig.end().await;
}

#[tokio::test]
async fn a_large_unwanted_reply_is_skipped_whole() {
    let mut rig = Rig::start().await;
    let (mut user, _) = rig.caller("P", Purpose::Peer).await;
    // What lies behind the token is never looked at: no zlib, and the connection goes on.
    let mut body = deflate(&[text("them"), 1_u32.to_le_bytes().to_vec(), vec![0; 64]].concat());
    body.resize(300_000, 0xaa);
    user.send(&[wide(9, &body), wide(4, &[])].concat()).await;
    assert!(matches!(rig.conn_event().await, (_, ConnEvent::Peer(PeerMessage::GetSharedFileList))));
    rig.end().await;
}

#[tokio::test]
async fn a_message_that_does_not_end_is_given_up() {
    let mut rig = Rig::start_with(slskdn::net::soulseek::Deadlines { frame: SOON, ..patient() }).await;
    let (mut user, conn) = rig.caller("P", Purpose::Peer).await;
    user.send(&wide(43, &text("Music\\a.flac"))[..10]).await;
    let (reason, violation) = rig.closed(conn).await;
    assert!(!violation && reason.contains("did not end in time"), "{reason:?}");
    user.hung_up().await;
    rig.end().await;
}

#[tokio::test]
async fn an_unknown_peer_message_is_skipped() {
    let mut rig = Rig::start().await;
    let (mut user, _) = rig.caller("P", Purpose::Peer).await;
    user.send(&[wide(4_000, &[1; 5_000]), wide(4, &[])].concat()).await;
    assert!(matches!(rig.conn_event().await, (_, ConnEvent::Peer(PeerMessage::GetSharedFileList))));
    rig.end().await;
}
