//! Every state met with every event, and both sides talking to one another.

use super::super::frame::{ChunkRequest, ErrorCode, HEADER_LEN};
use super::*;

const CONTENT: ContentHash = ContentHash([4; 32]);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn hello(nonce: u64) -> Hello {
    Hello { version: PROTOCOL, nonce, features: FEATURES.to_owned(), software: "slskdn/0".into(), ..Hello::default() }
}

fn step(session: &mut Session, input: Input<'_>, now: Duration) -> Vec<Action> {
    let mut out = Vec::new();
    session.handle(input, now, &mut out);
    out
}

/// Feeds whole frames as a socket would cut them.
fn feed(session: &mut Session, mut bytes: &[u8], now: Duration) -> Vec<Action> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let taken = session.wanted().min(bytes.len());
        session.handle(Input::Bytes(&bytes[..taken]), now, &mut out);
        bytes = &bytes[taken..];
    }
    out
}

fn sent(actions: &[Action]) -> Vec<u8> {
    actions.iter().flat_map(|a| if let Action::Send(bytes) = a { bytes.clone() } else { Vec::new() }).collect()
}

fn open_pair() -> (Session, Session) {
    let (mut dialler, mut listener) = (Session::new(Side::Dialler, hello(1)), Session::new(Side::Listener, hello(2)));
    let first = sent(&step(&mut dialler, Input::Opened, at(0)));
    assert_eq!(step(&mut listener, Input::Opened, at(0)), []);
    let answer = feed(&mut listener, &first, at(0));
    assert!(matches!(answer.last(), Some(Action::Ready(_))));
    let ready = feed(&mut dialler, &sent(&answer), at(0));
    let Some(Action::Ready(greeted)) = ready.last() else { panic!("{ready:?}") };
    assert_eq!(
        (greeted.version, greeted.features.as_slice()),
        (1, &["mesh", "chunks", "mbid", "hash_sync"].map(str::to_owned)[..])
    );
    (dialler, listener)
}

#[test]
fn a_question_finds_its_answer_once() {
    let (mut dialler, mut listener) = open_pair();
    let question = sent(&step(&mut dialler, Input::Ask(77, CONTENT), at(1)));
    let asked = feed(&mut listener, &question, at(1));
    let [Action::Asked(id, CONTENT)] = asked[..] else { panic!("{asked:?}") };
    let answer = sent(&step(&mut listener, Input::Answer(id, Some(9)), at(2)));
    assert_eq!(feed(&mut dialler, &answer, at(2)), [Action::Heard(77, Some(9))]);
    assert_eq!(feed(&mut dialler, &answer, at(2)), [], "a second answer means nothing");
    step(&mut dialler, Input::Ask(78, CONTENT), at(3));
    assert_eq!(dialler.deadline(), Some(at(13)));
    assert_eq!(step(&mut dialler, Input::Tick, at(13)), [Action::Heard(78, None)]);
    for number in 0..limits::MESH_QUESTIONS as u64 {
        assert_eq!(sent(&step(&mut dialler, Input::Ask(number, CONTENT), at(14))).len(), HEADER_LEN + 32);
    }
    assert_eq!(step(&mut dialler, Input::Ask(99, CONTENT), at(14)), [Action::Heard(99, None)]);
    let closed = step(&mut dialler, Input::Ended, at(14));
    assert_eq!(closed.len(), limits::MESH_QUESTIONS + 1, "everybody who waits is told");
}

#[test]
fn a_quiet_peer_is_pinged_and_a_silent_one_left() {
    let (mut dialler, mut listener) = open_pair();
    let ping = sent(&step(&mut dialler, Input::Tick, at(30)));
    let pong = sent(&feed(&mut listener, &ping, at(30)));
    assert_eq!(feed(&mut dialler, &pong, at(31)), []);
    assert_eq!(dialler.deadline(), Some(at(61)));
    assert_eq!(sent(&step(&mut dialler, Input::Tick, at(61))).len(), HEADER_LEN);
    // Other words do not stand for the pong.
    feed(&mut dialler, &Message::Ping.encode([5; 16]), at(70));
    assert_eq!(step(&mut dialler, Input::Tick, at(90)), []);
    assert_eq!(step(&mut dialler, Input::Tick, at(91)), [Action::Close(CloseReason::NoPong)]);
    assert_eq!(dialler.deadline(), None);
}

#[test]
fn who_talks_too_much_is_closed() {
    let (_, mut listener) = open_pair();
    let unknown = {
        let mut frame = Message::Ping.encode([0; 16]);
        frame[1] = 0xee;
        frame
    };
    for _ in 0..limits::MESH_MESSAGES_PER_SECOND * 10 {
        assert_eq!(feed(&mut listener, &unknown, at(1)), []);
    }
    let mut patient = feed(&mut listener, &unknown, at(2));
    assert_eq!(patient, [], "a second later there are ten more");
    for _ in 0..limits::MESH_MESSAGES_PER_SECOND {
        patient.extend(feed(&mut listener, &unknown, at(2)));
    }
    assert_eq!(patient, [Action::Close(CloseReason::TooMany)]);
}

#[test]
fn greetings_that_cannot_be_are_refused() {
    let wrong = [
        Hello { version: 0, ..hello(1) },
        Hello { version: PROTOCOL_MAX + 1, ..hello(1) },
        Hello { software: "x".repeat(65), ..hello(1) },
        Hello { username: "x".repeat(65), ..hello(1) },
    ];
    for hello_ in wrong {
        let mut listener = Session::new(Side::Listener, hello(2));
        step(&mut listener, Input::Opened, at(0));
        let out = feed(&mut listener, &Message::Hello(hello_).encode([0; 16]), at(0));
        assert!(matches!(out[..], [Action::Close(_)]), "{out:?}");
    }
    let mut dialler = Session::new(Side::Dialler, hello(1));
    step(&mut dialler, Input::Opened, at(0));
    let out = feed(&mut dialler, &Message::Hello(hello(3)).encode([0; 16]), at(0));
    assert_eq!(out, [Action::Close(CloseReason::Greeting("it answers somebody else"))]);
    let mut newer = Session::new(Side::Listener, hello(2));
    step(&mut newer, Input::Opened, at(0));
    let many = Hello { version: 7, features: format!("{} {}", "x".repeat(33), "f ".repeat(50)), ..hello(1) };
    let out = feed(&mut newer, &Message::Hello(many).encode([0; 16]), at(0));
    let Some(Action::Ready(greeted)) = out.last() else { panic!("{out:?}") };
    assert_eq!((greeted.version, greeted.features.len()), (1, FEATURES_MAX));
}

/// What a stranger may send, one of each kind, and bytes that are nothing.
fn frames() -> Vec<Vec<u8>> {
    let chunk = ChunkRequest { content: CONTENT, offset: 0, length: 1, priority: 5, deadline_ms: 1 };
    let mut unknown = Message::Ping.encode([0; 16]);
    unknown[1] = 0xee;
    let messages = [
        Message::Hello(Hello { echo: 1, ..hello(1) }),
        Message::Ping,
        Message::Pong,
        Message::Query(CONTENT),
        Message::Holding(None),
        Message::PieceList(CONTENT, 1),
        Message::Chunk(chunk),
        Message::Granted(1),
        Message::Refused(ErrorCode::NotFound),
    ];
    messages.iter().map(|m| m.encode([3; 16])).chain([unknown, vec![0xff; 23]]).collect()
}

#[derive(Clone, Debug)]
enum Event {
    Opened,
    Frame(Vec<u8>),
    Ended,
    Tick,
    Ask,
    Answer,
}

#[test]
fn every_state_meets_every_event() {
    let mut events: Vec<Event> = frames().into_iter().map(Event::Frame).collect();
    events.extend([Event::Opened, Event::Ended, Event::Tick, Event::Ask, Event::Answer]);
    let fresh = |side| Session::new(side, hello(1));
    let greeting = |side| {
        let mut session = fresh(side);
        step(&mut session, Input::Opened, at(0));
        session
    };
    let open = |side| {
        let mut session = greeting(side);
        feed(&mut session, &frames()[0], at(0));
        assert_eq!(session.state, State::Open);
        session
    };
    let closed = |side| {
        let mut session = open(side);
        step(&mut session, Input::Ended, at(0));
        session
    };
    for side in [Side::Dialler, Side::Listener] {
        for (index, make) in [&fresh as &dyn Fn(Side) -> Session, &greeting, &open, &closed].into_iter().enumerate() {
            for event in &events {
                let mut session = make(side);
                let before = session.state;
                let now = at(1);
                let out = match event {
                    Event::Frame(bytes) => feed(&mut session, bytes, now),
                    Event::Opened => step(&mut session, Input::Opened, now),
                    Event::Ended => step(&mut session, Input::Ended, now),
                    Event::Tick => step(&mut session, Input::Tick, now),
                    Event::Ask => step(&mut session, Input::Ask(1, CONTENT), now),
                    Event::Answer => step(&mut session, Input::Answer([1; 16], None), now),
                };
                let next = match (before, event) {
                    (State::Closed, _) | (_, Event::Ended) => State::Closed,
                    (State::Fresh, Event::Opened) => State::Greeting,
                    (State::Greeting, Event::Frame(bytes)) => match bytes[1] {
                        1 => State::Open,
                        _ => State::Closed,
                    },
                    (State::Open, Event::Frame(bytes)) => match bytes[1] {
                        2..=5 | 0xee => State::Open,
                        _ => State::Closed,
                    },
                    (same, _) => same,
                };
                assert_eq!(session.state, next, "{side:?} {before:?} {event:?} {out:?}");
                let closes = out.iter().filter(|a| matches!(a, Action::Close(_))).count();
                assert_eq!(closes, usize::from(before != State::Closed && next == State::Closed), "{index} {event:?}");
                // A state that is no end wakes up by itself, and is left at the latest two waits later.
                assert_eq!(session.deadline().is_some(), !matches!(next, State::Fresh | State::Closed));
            }
        }
    }
    let mut late = greeting(Side::Listener);
    assert_eq!(step(&mut late, Input::Tick, at(5)), [Action::Close(CloseReason::NoHello)]);
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_leave_it_standing(bytes in proptest::collection::vec(any::<u8>(), 0..400), greeted: bool) {
            let mut session = Session::new(Side::Listener, hello(1));
            step(&mut session, Input::Opened, at(0));
            if greeted {
                feed(&mut session, &frames()[0], at(0));
            }
            feed(&mut session, &bytes, at(1));
            step(&mut session, Input::Tick, at(1_000));
        }
    }
}
