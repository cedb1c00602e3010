//! Messages sent on a connection that the other side closes as idle in the same moment.

use super::*;

#[test]
fn what_met_an_idle_close_is_sent_once_more_over_a_new_connection() {
    let mut rig = Rig::new();
    let old = rig.bob();
    rig.pass(6);
    rig.send("bob");
    rig.pass(1);
    rig.it.expect_share_list(&"bob".into(), ABOUT, rig.now, &mut rig.out);
    rig.did();
    rig.conn(old, gone(false));
    let (dial, _) = rig.racing();
    assert_eq!(rig.events(), []);
    rig.conn(dial, ConnEvent::Dialled);
    let again = rig.did();
    assert!(again.contains(&message(dial)), "{again:?}");
    assert!(again.contains(&Did::Net(NetAction::SendPeer(dial, PeerMessage::GetSharedFileList))), "{again:?}");
    // The new one was not silent: that it is closed too means something else.
    rig.conn(dial, gone(false));
    assert_eq!((rig.did(), rig.events()), (vec![], vec![]));
}

#[test]
fn what_was_heard_or_is_old_or_met_no_silence_is_not_sent_again() {
    for case in ["answered", "answered elsewhere", "old", "busy", "violation"] {
        let mut rig = Rig::new();
        let old = rig.bob();
        let twin = (case == "answered elsewhere").then(|| rig.call_in("bob", BOB, ConnectionType::Peer));
        rig.says(old);
        rig.pass(if case == "busy" { 4 } else { 6 });
        rig.send("bob");
        assert_eq!(rig.did().last(), Some(&message(old)), "{case}");
        match case {
            "answered" => rig.says(old),
            "answered elsewhere" => rig.says(twin.unwrap()),
            "old" => rig.pass(10),
            _ => {}
        }
        rig.conn(old, gone(case == "violation"));
        assert_eq!(rig.did(), [], "{case}");
    }
}

/// A program that was started again is told of by the server before the end of its old connections is seen.
#[test]
fn what_was_said_to_a_user_who_came_back_is_said_on_a_new_connection() {
    for case in ["came back", "spoke since", "not told of"] {
        let mut rig = Rig::new();
        let old = rig.bob();
        rig.says(old);
        if case != "not told of" {
            rig.it.on_user_status(&"bob".into());
        }
        if case == "spoke since" {
            rig.says(old);
        }
        rig.send("bob");
        assert_eq!(rig.did().last(), Some(&message(old)), "{case}");
        rig.conn(old, gone(false));
        if case != "came back" {
            assert_eq!(rig.did(), [], "{case}");
            continue;
        }
        let (dial, _) = rig.racing();
        rig.conn(dial, ConnEvent::Dialled);
        assert!(rig.did().contains(&message(dial)), "{case}");
    }
}

/// Both connections of a race may have stood when their program ended.
#[test]
fn what_every_old_connection_swallows_is_said_on_a_new_one() {
    let mut rig = Rig::new();
    let first = rig.bob();
    let second = rig.call_in("bob", BOB, ConnectionType::Peer);
    rig.says(first);
    rig.did();
    rig.events();
    rig.it.on_user_status(&"bob".into());
    rig.send("bob");
    assert_eq!(rig.did(), [message(first)]);
    rig.conn(first, gone(false));
    assert_eq!(rig.did(), [message(second)]);
    rig.conn(second, gone(false));
    let (dial, _) = rig.racing();
    rig.conn(dial, ConnEvent::Dialled);
    assert!(rig.did().contains(&message(dial)));
    // The new one is nobody's left behind.
    rig.conn(dial, gone(false));
    assert_eq!((rig.did(), rig.events()), (vec![], vec![]));
}

#[test]
fn what_cannot_be_sent_again_is_reported() {
    let mut rig = Rig::new();
    let old = rig.bob();
    rig.pass(30);
    rig.send("bob");
    rig.it.on_logged_out(rig.now, &mut rig.out);
    rig.did();
    rig.conn(old, gone(false));
    assert_eq!((rig.did(), rig.events()), (vec![], vec![unreachable(false, "not logged in")]));
}

#[test]
fn a_pile_for_a_silent_user_is_bounded() {
    let mut rig = Rig::new();
    let bob = rig.bob();
    rig.pass(6);
    for _ in 0..limits::WAITING_PER_USER + 5 {
        rig.send("bob");
    }
    assert_eq!(rig.it.conns[&bob].unheard.len(), limits::WAITING_PER_USER);
    rig.says(bob);
    assert!(rig.it.conns[&bob].unheard.is_empty());
}

/// Nicotine+ 3.3.11 speaks on the connection it made for us, and closes it as our own call comes in.
#[test]
fn what_was_said_on_the_connection_that_lost_the_race_is_said_on_the_other_one() {
    let mut rig = Rig::new();
    let (dial, token) = rig.race();
    rig.conn(dial, ConnEvent::Dialled);
    let call = rig.pierce(token);
    rig.says(call);
    rig.did();
    rig.events();
    rig.send("bob");
    assert_eq!(rig.did(), [message(call)]);
    rig.conn(call, gone(false));
    assert_eq!((rig.did(), rig.events()), (vec![message(dial)], vec![]));
    // Once: what is closed after that was not for a connection's sake.
    rig.conn(dial, gone(false));
    assert_eq!((rig.did(), rig.events()), (vec![], vec![]));
}

#[test]
fn the_answer_to_an_offer_is_never_said_twice() {
    let mut rig = Rig::new();
    let old = rig.bob();
    rig.call_in("bob", BOB, ConnectionType::Peer);
    rig.says(old);
    rig.did();
    let answer = PeerMessage::TransferResponse { token: Token(5), answer: Ok(None) };
    rig.it.send(&"bob".into(), answer, ABOUT, rig.now, &mut rig.out);
    assert_eq!(rig.did().len(), 1);
    rig.conn(old, gone(false));
    assert_eq!(rig.did(), []);
}
