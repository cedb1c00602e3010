//! What is bounded, and for how long a connection is kept.

use super::*;

#[test]
fn dials_are_paced_and_others_wishes_are_bounded() {
    let mut rig = Rig::new();
    let wishes = 10 + u32::try_from(limits::ASKED_DIALS).unwrap();
    for n in 0..=wishes {
        let ip = Ipv4Addr::from_bits(BOB.to_bits() + n);
        rig.server(&asked(&format!("user{n}"), ConnectionType::Peer, ip, n));
    }
    let did = rig.did();
    let dials = did.iter().filter(|did| matches!(did, Did::Net(NetAction::Dial { .. }))).count();
    assert_eq!(dials, 10);
    assert_eq!(did.last(), Some(&cannot(&format!("user{wishes}"), wishes)));
    assert_eq!(did.len(), 11);
    // An upload does not wait behind them.
    rig.it.open_file(&"bob".into(), FILE, rig.now, &mut rig.out);
    rig.address("bob", BOB_AT);
    rig.did();
    rig.now.mono = rig.it.next_timeout().unwrap();
    rig.it.on_timeout(rig.now, &mut rig.out);
    assert_eq!(rig.did(), [Did::Net(NetAction::Dial { conn: ConnId(DIALLED_FIRST + 10), to: BOB_AT })]);
    rig.pass(5);
    let refusals_and_dials = rig.did();
    let more = refusals_and_dials.iter().filter(|did| matches!(did, Did::Net(NetAction::Dial { .. }))).count();
    assert_eq!(more, 10, "the bucket holds one second's dials");
}

#[test]
fn idle_peer_connections_are_closed() {
    let mut rig = Rig::new();
    let bob = rig.bob();
    rig.pass(59);
    rig.says(bob);
    rig.pass(59);
    rig.send("bob");
    rig.did();
    rig.pass(59);
    assert_eq!(rig.did(), []);
    rig.pass(1);
    assert_eq!(rig.did(), [closed(bob)]);
    assert!(rig.it.reach.is_empty());
}

#[test]
fn share_lists_are_let_in_wherever_they_come_and_keep_the_connection() {
    let mut rig = Rig::new();
    let bob = rig.bob();
    rig.it.expect_share_list(&"bob".into(), ABOUT, rig.now, &mut rig.out);
    let expect = |id| Did::Net(NetAction::ExpectShareList(id, "bob".into()));
    let get = |id| Did::Net(NetAction::SendPeer(id, PeerMessage::GetSharedFileList));
    assert_eq!(rig.did(), [expect(bob), get(bob)]);
    let twin = rig.call_in("bob", BOB, ConnectionType::Peer);
    assert_eq!(rig.did(), [adopt(twin, Purpose::Peer), expect(twin)]);
    rig.says(twin);
    rig.pass(119);
    assert_eq!(rig.did(), [], "the list may come on the older one, and is still on its way");
    rig.conn(bob, ConnEvent::Peer(PeerMessage::SharedFileList { folders: 1, files: 2 }));
    rig.pass(1);
    assert_eq!(rig.did(), [closed(twin)], "idle since its last word");
    let late = rig.call_in("bob", BOB, ConnectionType::Peer);
    assert_eq!(rig.did(), [adopt(late, Purpose::Peer)]);

    // Without a connection it waits for one.
    let mut rig = Rig::new();
    rig.it.expect_share_list(&"bob".into(), ABOUT, rig.now, &mut rig.out);
    let (dial, _) = rig.racing();
    rig.conn(dial, ConnEvent::Dialled);
    assert_eq!(rig.did(), [hello(dial, ConnectionType::Peer), adopt(dial, Purpose::Peer), expect(dial), get(dial)]);
    rig.pass(119);
    assert!(rig.open(dial));
    rig.pass(1);
    assert!(!rig.open(dial) && rig.it.lists.is_empty());
}

#[test]
fn our_share_list_goes_where_it_was_asked_and_keeps_the_connection() {
    let mut rig = Rig::new();
    let bob = rig.bob();
    rig.it.share_list_to(&"bob".into(), rig.now, &mut rig.out);
    rig.it.share_list_to(&"carol".into(), rig.now, &mut rig.out);
    assert_eq!(rig.did(), [Did::Net(NetAction::SendShareList(bob))]);
    rig.pass(599);
    assert!(rig.open(bob));
    rig.pass(1);
    assert!(!rig.open(bob));
}

#[test]
fn callers_are_bounded() {
    let mut rig = Rig::new();
    let stranger = |n: u32| Ipv4Addr::from_bits(Ipv4Addr::new(30, 0, 0, 0).to_bits() + n);
    // Without a first message.
    for n in 0..32 {
        rig.accept(stranger(n));
    }
    assert_eq!(rig.did(), []);
    let one_more = rig.accept(stranger(99));
    assert_eq!(rig.did(), [closed(one_more)]);
    rig.pass(14);
    assert_eq!(rig.did(), []);
    rig.pass(1);
    assert_eq!((rig.did().len(), rig.it.len()), (32, 0));
    // From one address, and from loopback.
    for _ in 0..8 {
        rig.call_in("bob", BOB, ConnectionType::Distributed);
    }
    rig.did();
    let one_more = rig.accept(BOB);
    assert_eq!(rig.did(), [closed(one_more)]);
    for _ in 0..20 {
        rig.call_in("bob", Ipv4Addr::LOCALHOST, ConnectionType::Distributed);
    }
    assert_eq!(rig.it.len(), 28);
    // In all.
    for n in 0..300 {
        rig.call_in(&format!("user{n}"), stranger(n), ConnectionType::Distributed);
    }
    assert_eq!(rig.it.len(), limits::USER_CONNECTIONS);
    // Our own dials wait for room.
    rig.did();
    rig.server(&asked("carol", ConnectionType::Peer, Ipv4Addr::new(20, 0, 0, 3), 5));
    assert_eq!(rig.did(), []);
    rig.conn(one_more, gone(false));
    let first = *rig.it.conns.keys().next().unwrap();
    rig.conn(first, gone(false));
    assert!(matches!(rig.did()[..], [Did::Net(NetAction::Dial { .. })]));
}

#[test]
fn peer_connections_are_bounded_and_the_longest_idle_one_goes() {
    let mut rig = Rig::new();
    let mut conns = Vec::new();
    for n in 0..u32::try_from(limits::PEER_CONNECTIONS).unwrap() {
        let ip = Ipv4Addr::from_bits(BOB.to_bits() + n);
        conns.push(rig.call_in(&format!("user{n}"), ip, ConnectionType::Peer));
        rig.now.mono += Duration::from_millis(10);
    }
    rig.says(conns[0]);
    rig.it.expect_share_list(&"user1".into(), ABOUT, rig.now, &mut rig.out);
    rig.did();
    let newest = rig.call_in("carol", Ipv4Addr::new(30, 0, 0, 1), ConnectionType::Peer);
    assert_eq!(rig.did(), [adopt(newest, Purpose::Peer), closed(conns[2])]);
    // One user may hold three.
    let twins: Vec<ConnId> =
        (0..4).map(|_| rig.call_in("dave", Ipv4Addr::new(30, 0, 0, 2), ConnectionType::Peer)).collect();
    assert_eq!(twins.iter().filter(|&&id| rig.open(id)).count(), 3);
    assert!(!rig.open(twins[0]));
}

#[test]
fn waiting_messages_are_bounded() {
    let mut rig = Rig::new();
    for _ in 0..=limits::WAITING_PER_USER {
        rig.send("bob");
    }
    assert_eq!(rig.events(), [unreachable(false, "too many messages wait for this user")]);
    let reply = || PeerMessage::FileSearchResponse(SearchReply::default());
    let waiting = |rig: &Rig| rig.it.reach.values().map(|reach| reach.waiting.len()).sum::<usize>();
    for n in 0..200 {
        rig.it.send(&format!("seeker{n}").as_str().into(), reply(), About::Nothing, rig.now, &mut rig.out);
    }
    assert_eq!(waiting(&rig), limits::WAITING_PER_USER + limits::WAITING_REPLIES);
    for n in 0..600 {
        rig.send(&format!("user{n}"));
    }
    assert_eq!(rig.it.reach.len(), limits::WAITING_USERS);
    let full = rig.events();
    assert_eq!(full.len(), 600 - (limits::WAITING_USERS - 1 - limits::WAITING_REPLIES));
    for _ in 0..10 {
        for n in 0..300 {
            rig.send(&format!("user{n}"));
        }
    }
    assert_eq!(waiting(&rig), limits::WAITING_MESSAGES);
    // Everything ends by itself.
    rig.pass(20);
    assert!(rig.it.reach.is_empty() && rig.it.attempts.is_empty());
    assert_eq!(rig.it.next_timeout(), None);
}

#[test]
fn three_violations_close_the_door() {
    let mut rig = Rig::new();
    for n in 0..3 {
        let bob = rig.bob();
        rig.conn(bob, gone(true));
        let event = ConnectionsEvent::Violation { user: Some("bob".into()), reason: "gone".to_owned() };
        assert_eq!(rig.events(), [event], "{n}");
    }
    let refused = rig.accept(BOB);
    assert_eq!(rig.did(), [closed(refused)]);
    rig.accept(Ipv4Addr::new(20, 0, 0, 9));
    assert_eq!(rig.did(), []);
    rig.pass(30 * 60);
    rig.did();
    rig.accept(BOB);
    assert_eq!(rig.did(), []);
}

#[test]
fn nobody_else_is_us_and_unknown_callers_are_closed() {
    let mut rig = Rig::new();
    for user in ["alice", "", &"x".repeat(257)] {
        let id = rig.call_in(user, BOB, ConnectionType::Peer);
        assert_eq!(rig.did(), [closed(id)]);
    }
    let id = rig.pierce(Token(12));
    assert_eq!(rig.did(), [closed(id)]);
    rig.send("alice");
    let reason = "that is this program itself".to_owned();
    let event = ConnectionsEvent::Unreachable { user: "alice".into(), about: ABOUT, offline: false, reason };
    assert_eq!(rig.events(), [event]);
}
