//! Every state with every event; slots, bandwidth, bounds; and that every transfer ends.

use std::time::Duration;

use proptest::prelude::*;

use super::frame::ErrorCode;
use super::uploader::{
    Action, COOL_DOWN, Event, KEPT, LINGER, QUEUE, QUEUE_MIN, State, TEARDOWN, TTL, Upload, Uploads,
};
use crate::model::id::{ContentHash, PeerId};
use crate::model::limits;
use crate::model::swarm::CancelReason;

const NOW: Duration = Duration::from_secs(1_000);
const SIZE: u64 = 1_000;

fn key(peer: u8, file: u8) -> (PeerId, ContentHash) {
    (PeerId([peer; 32]), ContentHash([file; 32]))
}

/// One in this state, reached the way the table says, with one request of 100 bytes under way where requests are.
fn upload(state: State) -> Upload {
    let mut upload = Upload::new(SIZE, NOW);
    let events: &[Event] = match state {
        State::Idle => &[],
        State::Pending => &[Event::Offered],
        State::Serving => &[Event::Offered, Event::Requested(100)],
        State::Throttled => &[Event::Offered, Event::Requested(100), Event::Capped],
        State::Teardown => {
            &[Event::Requested(100), Event::Requested(100), Event::Cancelled(100, CancelReason::Complete)]
        }
        State::Rejected(_) => &[Event::Requested(100), Event::Failed(ErrorCode::IoError)],
        State::Done => &[Event::Requested(100), Event::Cancelled(100, CancelReason::Complete), Event::Cleaned],
    };
    for event in events {
        upload.handle(*event, NOW);
    }
    assert_eq!(upload.state(), state);
    upload
}

const REJECTED: State = State::Rejected(ErrorCode::IoError);
const STATES: [State; 7] =
    [State::Idle, State::Pending, State::Serving, State::Throttled, State::Teardown, REJECTED, State::Done];

/// An event, and what each state, in the order of `STATES`, becomes and does.
type Row = (Event, [(State, Option<Action>); 7]);

#[test]
fn every_state_answers_every_event() {
    use Action as A;
    use Event as E;
    use State as S;
    let limited = Some(A::Refuse(ErrorCode::RateLimited));
    let refused = Some(A::Refuse(ErrorCode::IoError));
    let not_found = Some(A::Refuse(ErrorCode::NotFound));
    let gone = S::Rejected(ErrorCode::NotFound);
    // What each state, in the order of STATES, becomes and does.
    let table: [Row; 12] = [
        (
            E::Offered,
            [
                (S::Pending, None),
                (S::Pending, None),
                (S::Serving, None),
                (S::Throttled, None),
                (S::Teardown, None),
                (S::Pending, None),
                (S::Pending, None),
            ],
        ),
        (
            E::Requested(100),
            [
                (S::Serving, Some(A::Grant)),
                (S::Serving, Some(A::Grant)),
                (S::Serving, Some(A::Grant)),
                (S::Serving, Some(A::Grant)),
                (S::Teardown, limited),
                (REJECTED, refused),
                (S::Serving, Some(A::Grant)),
            ],
        ),
        (
            E::Capped,
            [
                (S::Throttled, limited),
                (S::Throttled, limited),
                (S::Throttled, limited),
                (S::Throttled, limited),
                (S::Teardown, limited),
                (REJECTED, refused),
                (S::Throttled, limited),
            ],
        ),
        (E::Room, STATES.map(|state| (if state == S::Throttled { S::Serving } else { state }, None))),
        (E::Sent(10), STATES.map(|state| (state, None))),
        (E::Ended(100), STATES.map(|state| (state, None))),
        (E::Cancelled(100, CancelReason::SwarmRebalanced), STATES.map(|state| (state, None))),
        (
            E::Cancelled(100, CancelReason::UserCancelled),
            STATES.map(|state| match state {
                S::Serving | S::Throttled => (S::Teardown, Some(A::Close)),
                state => (state, None),
            }),
        ),
        (
            E::Failed(ErrorCode::NotFound),
            STATES.map(|state| match state {
                S::Teardown | S::Done => (state, not_found),
                _ => (gone, not_found),
            }),
        ),
        (E::Cleaned, STATES.map(|state| (if state == S::Teardown { S::Done } else { state }, None))),
        (E::Tick, STATES.map(|state| if state == S::Idle { (S::Idle, Some(A::Forget)) } else { (state, None) })),
        (E::Ended(u64::MAX), STATES.map(|state| (state, None))),
    ];
    for (event, row) in table {
        for (before, (after, action)) in STATES.into_iter().zip(row) {
            let mut upload = upload(before);
            assert_eq!(upload.handle(event, NOW), action, "{before:?} {event:?}");
            assert_eq!(upload.state(), after, "{before:?} {event:?}");
        }
    }
}

#[test]
fn every_state_ends_at_its_deadline() {
    use Action as A;
    use State as S;
    let table = [
        (S::Idle, Duration::ZERO, S::Idle, Some(A::Forget)),
        (S::Pending, TTL, S::Idle, Some(A::Forget)),
        (S::Serving, TTL, S::Teardown, Some(A::Close)),
        (S::Throttled, TTL, S::Teardown, Some(A::Close)),
        (S::Teardown, TEARDOWN, S::Done, None),
        (REJECTED, COOL_DOWN, S::Teardown, Some(A::Close)),
        (S::Done, KEPT, S::Idle, Some(A::Forget)),
    ];
    for (before, after, next, action) in table {
        let mut upload = upload(before);
        if matches!(before, S::Serving | S::Throttled) {
            // While a request is under way it goes on.
            assert_eq!((upload.handle(Event::Tick, NOW + TTL), upload.state()), (None, before));
            upload = self::upload(before);
            upload.handle(Event::Ended(100), NOW);
        }
        assert_eq!(upload.deadline(), NOW + after, "{before:?}");
        if after > Duration::ZERO {
            assert_eq!(
                upload.handle(Event::Tick, (NOW + after).saturating_sub(Duration::from_millis(1))),
                None,
                "{before:?}"
            );
            assert_eq!(upload.state(), before);
        }
        assert_eq!(upload.handle(Event::Tick, NOW + after), action, "{before:?}");
        assert_eq!(upload.state(), next, "{before:?}");
    }
}

#[test]
fn the_last_byte_ends_a_transfer_once_nothing_is_under_way() {
    let mut upload = Upload::new(SIZE, NOW);
    for _ in 0..2 {
        upload.handle(Event::Requested(SIZE / 2), NOW);
    }
    upload.handle(Event::Sent(SIZE), NOW);
    assert_eq!((upload.handle(Event::Ended(SIZE / 2), NOW), upload.state()), (None, State::Serving));
    assert_eq!(upload.handle(Event::Ended(SIZE / 2), NOW), Some(Action::Close));
    assert_eq!((upload.state(), upload.sent(), upload.open()), (State::Teardown, SIZE, 0));
    // The same file once more is another transfer.
    upload.handle(Event::Cleaned, NOW);
    assert_eq!(upload.handle(Event::Requested(10), NOW), Some(Action::Grant));
    assert_eq!(upload.sent(), 0);
}

#[test]
fn slots_are_per_peer_linger_and_are_left_at_once_by_whoever_is_done() {
    let mut uploads = Uploads::new(2);
    let ask = |uploads: &mut Uploads, peer, file, now| uploads.requested(key(peer, file), SIZE, 100, (false, 0), now);
    let limited = Some(ErrorCode::RateLimited);
    assert_eq!(ask(&mut uploads, 1, 1, NOW), None);
    assert_eq!(ask(&mut uploads, 1, 2, NOW), None, "several files of one peer share its slot");
    assert_eq!(ask(&mut uploads, 2, 1, NOW), None);
    assert_eq!(ask(&mut uploads, 3, 1, NOW), limited);
    uploads.ended(key(1, 1), 100, None, NOW);
    uploads.ended(key(1, 2), 100, None, NOW);
    assert_eq!(ask(&mut uploads, 3, 1, NOW), limited, "whoever asks again at once keeps the slot");
    assert_eq!(uploads.counts()["throttled"], 1);
    uploads.tick(NOW + LINGER);
    assert_eq!(uploads.counts().get("throttled"), None, "there is room again");
    assert_eq!(ask(&mut uploads, 3, 1, NOW + LINGER), None);
    assert_eq!(ask(&mut uploads, 1, 1, NOW + LINGER), limited);
    uploads.ended(key(3, 1), 100, Some(CancelReason::Complete), NOW + LINGER);
    assert_eq!(ask(&mut uploads, 1, 1, NOW + LINGER), None, "the third is done and leaves its slot");
}

#[test]
fn a_named_peer_gets_the_slot_of_a_stranger_who_ends_what_was_granted() {
    let mut uploads = Uploads::new(2);
    let ask = |uploads: &mut Uploads, peer, named| uploads.requested(key(peer, 1), SIZE, 100, (named, 0), NOW);
    let limited = Some(ErrorCode::RateLimited);
    assert_eq!((ask(&mut uploads, 1, false), ask(&mut uploads, 1, false)), (None, None));
    assert_eq!(ask(&mut uploads, 2, false), None);
    assert_eq!(ask(&mut uploads, 11, true), None, "the owner named it");
    assert_eq!(ask(&mut uploads, 2, false), limited, "it had less under way than the other stranger");
    assert_eq!(ask(&mut uploads, 1, false), None, "only one has to yield");
    assert_eq!(uploads.counts()["throttled"], 1);
    uploads.ended(key(2, 1), 100, None, NOW);
    assert_eq!(ask(&mut uploads, 2, false), limited, "its slot is gone");
    // The first has two requests under way: it yields them as they end.
    assert_eq!(ask(&mut uploads, 12, true), None);
    assert_eq!(ask(&mut uploads, 1, false), limited);
    assert_eq!(ask(&mut uploads, 13, true), limited, "named peers do not displace one another");
    assert_eq!((ask(&mut uploads, 11, true), ask(&mut uploads, 12, true)), (None, None));
    for _ in 0..3 {
        uploads.ended(key(1, 1), 100, None, NOW);
    }
    uploads.ended(key(12, 1), 100, None, NOW);
    uploads.ended(key(12, 1), 100, Some(CancelReason::Complete), NOW);
    assert_eq!(ask(&mut uploads, 1, false), None, "a stranger gets what a named peer leaves");
}

#[test]
fn no_more_is_granted_than_goes_out_soon() {
    let mut uploads = Uploads::new(5);
    let rate = 100_000;
    let most = rate * QUEUE.as_secs();
    assert!(most > QUEUE_MIN);
    let limited = Some(ErrorCode::RateLimited);
    assert_eq!(uploads.requested(key(1, 1), SIZE, 50 * most, (false, rate), NOW), None, "one alone is always served");
    assert_eq!(uploads.requested(key(2, 1), SIZE, 1, (false, rate), NOW), limited);
    uploads.ended(key(1, 1), 50 * most, None, NOW);
    assert_eq!(uploads.requested(key(2, 1), SIZE, most - 1, (false, rate), NOW), None);
    assert_eq!(uploads.requested(key(1, 1), SIZE, 1, (false, rate), NOW), None);
    assert_eq!(uploads.requested(key(1, 1), SIZE, 1, (false, rate), NOW), limited);
    assert_eq!(uploads.requested(key(3, 1), SIZE, most, (true, rate), NOW), None, "a named peer waits for no stranger");
    assert_eq!(uploads.requested(key(4, 1), SIZE, 1, (true, rate), NOW), limited, "but for another named one");
    assert_eq!(uploads.requested(key(1, 1), SIZE, 1, (false, 0), NOW), None, "without a limit there is none");
    let mut uploads = Uploads::new(5);
    for _ in 0..4 {
        assert_eq!(uploads.requested(key(1, 1), SIZE, QUEUE_MIN / 4, (false, 1), NOW), None, "a slow line stays busy");
    }
    assert_eq!(uploads.requested(key(1, 1), SIZE, 1, (false, 1), NOW), limited);
}

#[test]
fn whoever_was_refused_cools_down_until_an_offer() {
    let mut uploads = Uploads::new(1);
    uploads.failed(key(1, 1), ErrorCode::NotFound, NOW);
    assert_eq!(uploads.cooling(key(1, 1), NOW), Some(ErrorCode::NotFound));
    assert_eq!(uploads.cooling(key(1, 2), NOW), None);
    assert_eq!(uploads.cooling(key(1, 1), NOW + COOL_DOWN), None);
    uploads.failed(key(1, 2), ErrorCode::NotFound, NOW);
    uploads.offered(key(1, 2), SIZE, NOW);
    assert_eq!(uploads.cooling(key(1, 2), NOW), None);
    assert_eq!(uploads.requested(key(1, 2), SIZE, 1, (false, 0), NOW), None);
}

#[test]
fn transfers_are_bounded_and_what_is_served_stays() {
    let mut uploads = Uploads::new(300);
    let many = u16::try_from(limits::MESH_UPLOADS).unwrap() + 50;
    let key = |n: u16| {
        let mut file = [0; 32];
        file[..2].copy_from_slice(&n.to_be_bytes());
        (PeerId([1; 32]), ContentHash(file))
    };
    assert_eq!(uploads.requested(key(0), SIZE, 1, (false, 0), NOW), None);
    for n in 1..many {
        uploads.offered(key(n), SIZE, NOW + Duration::from_millis(u64::from(n)));
    }
    assert_eq!(uploads.counts().values().sum::<u64>(), limits::MESH_UPLOADS as u64);
    assert_eq!(uploads.counts()["serving"], 1);
    for n in 1..many {
        let granted = uploads.requested(key(n), SIZE, 1, (false, 0), NOW).is_none();
        assert_eq!(granted, usize::from(n) < limits::MESH_UPLOADS, "{n}");
    }
}

fn event() -> impl Strategy<Value = Event> {
    let bytes = prop_oneof![Just(0), 1..2_000_u64, Just(u64::MAX)];
    let reason = proptest::sample::select(&CancelReason::ALL[..]);
    prop_oneof![
        Just(Event::Offered),
        bytes.clone().prop_map(Event::Requested),
        Just(Event::Capped),
        Just(Event::Room),
        bytes.clone().prop_map(Event::Sent),
        bytes.clone().prop_map(Event::Ended),
        (bytes, reason).prop_map(|(bytes, reason)| Event::Cancelled(bytes, reason)),
        Just(Event::Failed(ErrorCode::PolicyViolation)),
        Just(Event::Cleaned),
        Just(Event::Tick),
    ]
}

proptest! {
    #[test]
    fn nothing_panics_and_every_transfer_ends(events in proptest::collection::vec((event(), 0..700_u64), 0..60)) {
        let mut upload = Upload::new(SIZE, NOW);
        let mut now = NOW;
        for (event, later) in events {
            now += Duration::from_secs(later);
            let before = upload.state();
            let action = upload.handle(event, now);
            prop_assert!(upload.deadline() <= now + TTL);
            // Bytes are granted only by a request, and only to whoever is served afterwards.
            prop_assert_eq!(action == Some(Action::Grant), matches!(event, Event::Requested(_)) && upload.state() == State::Serving);
            prop_assert_eq!(action == Some(Action::Close), before != State::Teardown && upload.state() == State::Teardown);
        }
        // Streams end by their own deadlines; from then on time alone brings every transfer to its end.
        for _ in 0..=upload.open() {
            upload.handle(Event::Ended(0), now);
        }
        let mut forgotten = false;
        for _ in 0..5 {
            now = now.max(upload.deadline());
            forgotten |= upload.handle(Event::Tick, now) == Some(Action::Forget);
        }
        prop_assert!(forgotten, "{:?}", upload);
    }

    #[test]
    fn slots_are_never_exceeded(
        asks in proptest::collection::vec((0..6_u8, 0..3_u8, 0..4_u8, 0..8_u64), 0..120),
        slots in 1..4_usize,
        // These and those above them are named.
        friends in 0..7_u8,
    ) {
        let mut uploads = Uploads::new(slots);
        let mut now = NOW;
        let mut open: Vec<(u8, u8)> = Vec::new();
        for (peer, file, what, later) in asks {
            now += Duration::from_secs(later);
            match what {
                0 | 1 => {
                    if uploads.requested(key(peer, file), SIZE, 100, (peer >= friends, 0), now).is_none() {
                        open.push((peer, file));
                    }
                }
                2 => {
                    if let Some((peer, file)) = open.pop() {
                        let reason = (later % 2 == 0).then_some(CancelReason::Complete);
                        uploads.ended(key(peer, file), 100, reason, now);
                    }
                }
                _ => uploads.failed(key(peer, file), ErrorCode::NotFound, now),
            }
            let peers: std::collections::BTreeSet<u8> = open.iter().map(|(peer, _)| *peer).collect();
            let named = peers.iter().filter(|peer| **peer >= friends).count();
            prop_assert!(named <= slots && peers.len() - named <= slots, "{:?}", open);
        }
    }
}

#[test]
fn whoever_got_something_is_in_the_middle_and_who_was_told_to_wait_is_not() {
    let mut uploads = Uploads::new(1);
    assert!(!uploads.serves(key(1, 1), NOW));
    uploads.offered(key(1, 1), SIZE, NOW);
    assert!(!uploads.serves(key(1, 1), NOW), "it asked for nothing yet");
    assert_eq!(uploads.requested(key(1, 1), SIZE, 100, (false, 0), NOW), None);
    assert_eq!(uploads.requested(key(2, 1), SIZE, 100, (false, 0), NOW), Some(ErrorCode::RateLimited));
    assert!(uploads.serves(key(1, 1), NOW) && !uploads.serves(key(2, 1), NOW));
    uploads.sent(key(1, 1), 100, NOW);
    uploads.ended(key(1, 1), 100, None, NOW);
    assert!(uploads.serves(key(1, 1), NOW), "its next request is another part of the same");
    uploads.failed(key(1, 1), ErrorCode::PolicyViolation, NOW);
    assert!(!uploads.serves(key(1, 1), NOW));
}
