//! What strangers may not do.

use slskdn::engine::soulseek::frame::deflate;
use slskdn::engine::soulseek::io::{ConnEvent, Input, NetAction, Purpose};
use slskdn::engine::soulseek::peer::{PeerMessage, UserInfo};
use slskdn::model::id::Token;
use slskdn::model::limits;
use slskdn::net::soulseek::Deadlines;
use tokio::net::TcpStream;

use super::rig::{PATIENCE, Rig, SOON, User, narrow, patient, peer_init, text, wide};

#[tokio::test]
async fn a_silent_caller_is_sent_away() {
    let mut rig = Rig::start_with(Deadlines { handshake: SOON, ..patient() }).await;
    let (mut user, conn) = rig.call().await;
    // Half a message is no message.
    user.send(&peer_init("them", "P")[..7]).await;
    let (reason, violation) = rig.closed(conn).await;
    assert!(!violation && reason.contains("no first message"), "{reason:?}");
    user.hung_up().await;
    rig.end().await;
}

#[tokio::test]
async fn first_messages_that_break_the_protocol() {
    let mut rig = Rig::start().await;
    let impossible = |length: u32| [&length.to_le_bytes()[..], &[1]].concat();
    let cases = [
        (impossible(0), "0"),
        (impossible(limits::FRAME_INIT + 1), "16385"),
        (impossible(1 << 31), "2147483648"),
        (impossible(u32::MAX), "4294967295"),
        (wide(4, &[]), "code 4"),
        (narrow(2, &[]), "code 2"),
        (narrow(1, &[text("them"), text("X"), vec![0; 4]].concat()), "X"),
        (narrow(1, &text("them")), "too early"),
        (narrow(1, &u32::MAX.to_le_bytes()), "4294967295"),
        (narrow(1, &text(&"u".repeat(limits::USERNAME_LEN + 1))), "257"),
    ];
    for (n, (bytes, says)) in cases.into_iter().enumerate() {
        let (mut user, conn) = rig.call().await;
        user.send(&bytes).await;
        rig.violated(conn, says).await;
        user.hung_up().await;
        assert_eq!(rig.net.stats().violations, n as u64 + 1);
    }
    assert_eq!(rig.net.stats().greeting, 0);
    rig.end().await;
}

#[tokio::test]
async fn oversized_lengths_are_refused_before_a_byte_of_them_came() {
    let mut rig = Rig::start().await;
    let length = |length: u32, code: u32| [length.to_le_bytes(), code.to_le_bytes()].concat();
    let cases = [
        length(limits::FRAME_PEER + 1, 43),
        length(limits::FRAME_PEER + 1, 4_000),
        length(limits::FRAME_RESULTS + 1, 9),
        length(limits::FRAME_RESULTS + 1, 37),
        length(limits::FRAME_SHARES + 1, 5),
        length(1 << 31, 5),
        length(u32::MAX, 9),
        length(0, 4),
        length(3, 4),
    ];
    for bytes in cases {
        let (mut user, conn) = rig.caller("P", Purpose::Peer).await;
        user.send(&bytes).await;
        rig.violated(conn, "a frame of").await;
        user.hung_up().await;
    }
    let (mut user, conn) = rig.caller("D", Purpose::Distributed).await;
    user.send(&[&(limits::FRAME_INIT + 1).to_le_bytes()[..], &[3]].concat()).await;
    rig.violated(conn, "a frame of").await;
    rig.end().await;
}

#[tokio::test]
async fn malformed_messages_are_violations() {
    let mut rig = Rig::start().await;
    rig.net.perform(NetAction::SearchTokens(vec![Token(1)]));
    let reply = |rest: &[u8]| deflate(&[&text("them")[..], &1_u32.to_le_bytes(), rest].concat());
    // Inflates to 16 times what is allowed, out of a few KiB.
    let bomb = reply(&vec![0; limits::INFLATED_RESULTS * 16]);
    let many = reply(&u32::MAX.to_le_bytes());
    let half = many[..many.len() / 2].to_vec();
    let cases = [
        (wide(9, &bomb), "inflates to more"),
        (wide(9, &many), "4294967295"),
        (wide(9, &half), ""),
        (wide(9, b"not zlib at all"), "damaged"),
        (wide(43, &[5, 0, 0, 0, b'a']), "too early"),
        (wide(43, &u32::MAX.to_le_bytes()), "4294967295"),
    ];
    for (bytes, says) in cases {
        let (mut user, conn) = rig.caller("P", Purpose::Peer).await;
        user.send(&bytes).await;
        rig.violated(conn, says).await;
        user.hung_up().await;
    }
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_crowds_take_few_places_and_give_them_back() {
    let mut rig = Rig::start_with(Deadlines { handshake: SOON * 20, ..patient() }).await;
    let mut crowd = Vec::new();
    let (mut came, mut went) = (0, 0);
    for _ in 0..300 {
        crowd.push(TcpStream::connect(("127.0.0.1", rig.net.local_port())).await.unwrap());
        let stats = rig.net.stats();
        assert!(stats.greeting <= limits::UNFINISHED_CONNECTIONS, "{stats:?}");
        while let Some(event) = rig.event_now() {
            tally(&event, &mut came, &mut went);
        }
    }
    // Each of the crowd was either turned away or has had its time.
    while rig.net.stats().refused + went < 300 {
        let event = rig.event().await;
        tally(&event, &mut came, &mut went);
    }
    assert_eq!(came, went);
    assert_eq!(rig.net.stats().greeting, 0);
    assert!(rig.net.stats().refused > 0);

    rig.net.perform(NetAction::SearchTokens(Vec::new()));
    let (mut honest, _) = rig.caller("P", Purpose::Peer).await;
    honest.send(&wide(4, &[])).await;
    assert!(matches!(rig.conn_event().await, (_, ConnEvent::Peer(PeerMessage::GetSharedFileList))));
    drop(crowd);
    rig.end().await;
}

fn tally(event: &Input, came: &mut u64, went: &mut u64) {
    match event {
        Input::Conn(_, ConnEvent::Accepted { .. }) => *came += 1,
        Input::Conn(_, ConnEvent::Closed { violation: false, .. }) => *went += 1,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_full_house_turns_callers_away_and_lets_them_in_again() {
    let mut rig = Rig::start().await;
    let mut house = Vec::new();
    for _ in 0..limits::USER_CONNECTIONS {
        house.push(rig.caller("P", Purpose::Peer).await);
    }
    let port = rig.net.local_port();
    let mut late = User(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    late.hung_up().await;
    assert_eq!(rig.net.stats().refused, 1);

    let (user, conn) = house.pop().unwrap();
    drop(user);
    rig.closed(conn).await;
    // The place is free when the end was told.
    rig.caller("P", Purpose::Peer).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_does_not_read_is_closed_and_nobody_waits() {
    let mut rig = Rig::start_with(Deadlines { write_stall: SOON, ..patient() }).await;
    let (_user, conn) = rig.caller("P", Purpose::Peer).await;
    let (mut other, standing) = rig.caller("P", Purpose::Peer).await;
    let info = UserInfo { picture: Some(vec![7; limits::PICTURE_LEN]), ..UserInfo::default() };
    let flood = async {
        loop {
            rig.net.perform(NetAction::SendPeer(conn, PeerMessage::UserInfoResponse(info.clone())));
            if let Some(event) = rig.event_now() {
                break event;
            }
            tokio::task::yield_now().await;
        }
    };
    match tokio::time::timeout(PATIENCE, flood).await.unwrap() {
        Input::Conn(of, ConnEvent::Closed { reason, violation }) => {
            assert_eq!(of, conn);
            assert!(!violation && reason.contains("does not take"), "{reason:?}");
        }
        other => panic!("{other:?}"),
    }
    other.send(&wide(15, &[])).await;
    match rig.conn_event().await {
        (of, ConnEvent::Peer(PeerMessage::UserInfoRequest)) => assert_eq!(of, standing),
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.net.stats().peer, 1, "the other one stands");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_write_has_a_deadline() {
    let mut rig = Rig::start_with(Deadlines { write_stall: SOON, ..patient() }).await;
    let (_user, conn) = rig.caller("P", Purpose::Peer).await;
    // More than two sockets hold.
    let list = rig.dir.path().join("list");
    std::fs::write(&list, vec![7; 32 * 1024 * 1024]).unwrap();
    rig.net.set_share_list(list);
    rig.net.perform(NetAction::SendShareList(conn));
    let (reason, violation) = rig.closed(conn).await;
    assert!(!violation && reason.contains("does not take"), "{reason:?}");
    rig.end().await;
}

#[tokio::test]
async fn a_burst_for_a_user_just_connected_fits() {
    let mut rig = Rig::start().await;
    let (mut user, conn) = rig.caller("P", Purpose::Peer).await;
    for _ in 0..limits::WAITING_PER_USER {
        rig.net.perform(NetAction::SendPeer(conn, PeerMessage::UserInfoRequest));
    }
    assert_eq!(user.read(8 * limits::WAITING_PER_USER).await, wide(15, &[]).repeat(limits::WAITING_PER_USER));
    rig.end().await;
}

#[tokio::test]
async fn an_engine_that_is_behind_slows_users_down() {
    let mut rig = Rig::start().await;
    let (mut user, _) = rig.caller("P", Purpose::Peer).await;
    // More than the engine's mailbox holds; nothing is lost meanwhile.
    user.send(&wide(15, &[]).repeat(500)).await;
    for _ in 0..500 {
        assert!(matches!(rig.conn_event().await, (_, ConnEvent::Peer(PeerMessage::UserInfoRequest))));
    }
    rig.end().await;
}
