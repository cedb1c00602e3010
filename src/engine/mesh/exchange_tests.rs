//! Both sides talking to one another, and every state met with every event.

use super::super::frame::HEADER_LEN;
use super::*;

const CONTENT: ContentHash = ContentHash([6; 32]);

fn chunk(offset: u64, length: u32) -> Wanted {
    Wanted::Chunk(ChunkRequest { content: CONTENT, offset, length, priority: 5, deadline_ms: 5_000 })
}

/// Gives a machine bytes as it wants them; the last answer, or the first failure.
fn ask_head(asking: &mut Asking, mut bytes: &[u8]) -> Result<(), Failure> {
    while !bytes.is_empty() && asking.wants_head() > 0 {
        let taken = asking.wants_head().min(bytes.len());
        asking.head(&bytes[..taken])?;
        bytes = &bytes[taken..];
    }
    Ok(())
}

fn serve_request(serving: &mut Serving, mut bytes: &[u8]) -> Result<Served, Failure> {
    let mut last = Served::More;
    while !bytes.is_empty() && serving.wants() > 0 {
        let taken = serving.wants().min(bytes.len());
        last = serving.request(&bytes[..taken])?;
        bytes = &bytes[taken..];
    }
    Ok(last)
}

#[test]
fn what_is_asked_is_what_is_served() {
    for wanted in [chunk(PIECE_LEN, 524_288), chunk(0, 1), Wanted::PieceList(CONTENT, 5 * PIECE_LEN)] {
        let (mut asking, request) = Asking::new(wanted, [3; 16]);
        let mut serving = Serving::default();
        assert_eq!(serve_request(&mut serving, &request), Ok(Served::Decide(wanted)));
        assert_eq!(serving.wants(), 0);
        assert_eq!(ask_head(&mut asking, &serving.grant()), Ok(()));
        assert_eq!((asking.left(), serving.left()), (wanted.length(), wanted.length()));
        assert_eq!((asking.body(1), serving.sent(1)), (Ok(()), Ok(())));
        let left = wanted.length() - 1;
        if left > 0 {
            assert!(!asking.is_over() && !serving.is_over());
            assert_eq!((asking.body(left), serving.sent(left)), (Ok(()), Ok(())));
        }
        assert!(asking.is_over() && serving.is_over());
        assert_eq!(asking.end(false), Ok(()), "the end of the stream is expected now");
    }
}

#[test]
fn a_refusal_is_told() {
    let (mut asking, request) = Asking::new(chunk(0, 5), [3; 16]);
    let mut serving = Serving::default();
    serve_request(&mut serving, &request).unwrap();
    let answer = serving.refuse(ErrorCode::RateLimited);
    assert!(serving.is_over() && serving.grant().is_empty() && serving.refuse(ErrorCode::NotFound).is_empty());
    assert_eq!(ask_head(&mut asking, &answer), Err(Failure::Refused(ErrorCode::RateLimited)));
}

#[test]
fn what_cannot_be_is_refused_before_anybody_looks() {
    let longest = u64::from(u32::try_from(limits::PIECE_LIST_LEN).unwrap()) / ENTRY_LEN * PIECE_LEN;
    let impossible = [
        chunk(0, 0),
        chunk(1, 5),
        chunk(0, 524_289),
        chunk(0, u32::MAX),
        chunk(u64::MAX - PIECE_LEN + 1, 65_536),
        Wanted::PieceList(CONTENT, 0),
        Wanted::PieceList(CONTENT, PIECE_LEN),
        Wanted::PieceList(CONTENT, longest + 1),
        Wanted::PieceList(CONTENT, u64::MAX),
    ];
    for wanted in impossible {
        let (_, request) = Asking::new(wanted, [0; 16]);
        let mut serving = Serving::default();
        let served = serve_request(&mut serving, &request);
        let refused = Message::Refused(ErrorCode::InvalidRange).encode([0; 16]);
        assert_eq!(served, Ok(Served::Refuse(refused)), "{wanted:?}");
        assert!(serving.is_over());
    }
    assert!(Wanted::PieceList(CONTENT, longest).is_possible() && chunk(0, 524_288).is_possible());
}

#[test]
fn another_length_than_asked_is_no_grant() {
    for granted in [0, 4, 6, u64::MAX] {
        let (mut asking, _) = Asking::new(chunk(0, 5), [0; 16]);
        let answer = Message::Granted(granted).encode([0; 16]);
        assert_eq!(ask_head(&mut asking, &answer), Err(Failure::Length { granted, wanted: 5 }));
        assert!(asking.is_over());
    }
}

fn frames() -> Vec<Vec<u8>> {
    let messages = [
        Message::Ping,
        Message::Query(CONTENT),
        Message::Holding(None),
        Message::PieceList(CONTENT, 2 * PIECE_LEN),
        chunk(0, 5).message(),
        Message::Granted(5),
        Message::Refused(ErrorCode::NotFound),
    ];
    let mut unknown = Message::Ping.encode([0; 16]);
    unknown[1] = 0xee;
    messages.iter().map(|m| m.encode([0; 16])).chain([unknown, vec![0xff; HEADER_LEN]]).collect()
}

#[test]
fn every_state_of_asking_meets_every_event() {
    let asked = || Asking::new(chunk(0, 5), [0; 16]).0;
    let granted = || {
        let mut asking = asked();
        ask_head(&mut asking, &Message::Granted(5).encode([0; 16])).unwrap();
        asking
    };
    let over = || {
        let mut asking = granted();
        asking.body(5).unwrap();
        asking
    };
    for frame in frames() {
        let mut asking = asked();
        let outcome = ask_head(&mut asking, &frame);
        assert_eq!(outcome.is_ok(), frame[1] == 18, "{frame:?}");
        assert_eq!(asking.is_over(), frame[1] != 18);
        for make in [&granted as &dyn Fn() -> Asking, &over] {
            let mut asking = make();
            assert_eq!(asking.head(&frame), Err(Failure::Unexpected));
            assert!(asking.is_over());
        }
    }
    for (make, count, works) in [
        (&asked as &dyn Fn() -> Asking, 1, false),
        (&granted, 4, true),
        (&granted, 5, true),
        (&granted, 6, false),
        (&granted, u64::MAX, false),
        (&over, 1, false),
    ] {
        let mut asking = make();
        assert_eq!(asking.body(count).is_ok(), works);
        assert_eq!(asking.is_over(), !works || count == 5);
    }
    for late in [false, true] {
        assert_eq!(asked().end(late), Err(if late { Failure::Late } else { Failure::Short { left: 5 } }));
        assert_eq!(granted().end(late), Err(if late { Failure::Late } else { Failure::Short { left: 5 } }));
        assert_eq!(over().end(late), Ok(()));
    }
}

#[test]
fn every_state_of_serving_meets_every_event() {
    let deciding = || {
        let mut serving = Serving::default();
        serve_request(&mut serving, &chunk(0, 5).message().encode([0; 16])).unwrap();
        serving
    };
    let sending = || {
        let mut serving = deciding();
        assert!(!serving.grant().is_empty());
        serving
    };
    let over = || {
        let mut serving = sending();
        serving.sent(5).unwrap();
        serving
    };
    for frame in frames() {
        let mut serving = Serving::default();
        let served = serve_request(&mut serving, &frame);
        assert_eq!(served.is_ok(), matches!(frame[1], 16 | 17), "{frame:?}");
        assert_eq!(serving.is_over(), served.is_err());
        for make in [&deciding as &dyn Fn() -> Serving, &sending, &over] {
            let mut serving = make();
            assert_eq!(serving.request(&frame), Err(Failure::Unexpected));
            assert!(serving.is_over());
        }
    }
    for (make, count, works) in [
        (&Serving::default as &dyn Fn() -> Serving, 0, false),
        (&deciding, 5, false),
        (&sending, 4, true),
        (&sending, 6, false),
        (&over, 0, false),
    ] {
        let mut serving = make();
        assert_eq!(serving.sent(count).is_ok(), works);
        assert_eq!(serving.is_over(), !works);
    }
    for make in [&Serving::default as &dyn Fn() -> Serving, &sending, &over] {
        assert!(make().grant().is_empty() && make().refuse(ErrorCode::IoError).is_empty());
        let mut serving = make();
        serving.end();
        assert!(serving.is_over() && serving.left() == 0);
    }
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_leave_both_sides_standing(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut asking, _) = Asking::new(chunk(0, 5), [0; 16]);
            let _ = ask_head(&mut asking, &bytes);
            let _ = serve_request(&mut Serving::default(), &bytes);
        }
    }
}

#[test]
fn every_reason_has_a_code_of_its_own() {
    let codes: std::collections::BTreeSet<u32> = CancelReason::ALL.into_iter().map(cancel_code).collect();
    assert_eq!(codes.len(), CancelReason::ALL.len());
    for reason in CancelReason::ALL {
        assert_eq!(cancel_reason(u64::from(cancel_code(reason))), Some(reason));
    }
    assert_eq!(
        (cancel_reason(0), cancel_reason(15), cancel_reason(23), cancel_reason(u64::MAX)),
        (None, None, None, None)
    );
}
