use super::*;

use proptest::prelude::*;

fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn rules() -> Rules {
    Rules { queue: s(1_800), throughput_min: 10 * 1_024, duration: s(300), stall: s(120), window: 12, interval: s(30) }
}

fn seen(stage: Stage, bytes: u64) -> Seen {
    Seen { id: TransferId(1), stage, bytes }
}

/// The first look that tells something, every ten seconds.
fn first(rules: Rules, until: u64, script: impl Fn(u64) -> Seen) -> Option<(u64, Reason)> {
    let mut detector = Detector::new(rules);
    (0..=until / 10).map(|n| n * 10).find_map(|at| {
        let told = detector.look(&[script(at)], s(at));
        told.first().map(|(_, reason)| (at, *reason))
    })
}

/// What it is called, what is told when, and how the download goes.
type Case<'a> = (&'a str, Option<(u64, Reason)>, &'a dyn Fn(u64) -> Seen);

#[test]
fn each_rule_holds_when_its_time_is_up_and_not_before() {
    let kib = 1_024;
    let cases: [Case<'_>; 9] = [
        ("queued", Some((1_800, Reason::QueuedTooLong)), &|_| seen(Stage::Queued, 0)),
        ("stalled at 12 %", Some((220, Reason::Stalled)), &|at| seen(Stage::Active, at.min(100) * 100 * kib)),
        ("2 KiB/s", Some((300, Reason::ThroughputTooLow)), &|at| seen(Stage::Active, at * 2 * kib)),
        ("11 KiB/s", None, &|at| seen(Stage::Active, at * 11 * kib)),
        ("offline", Some((120, Reason::PeerDisconnected)), &|_| seen(Stage::Offline, 0)),
        ("it waits for us", None, &|_| seen(Stage::Held, 0)),
        ("no first byte", Some((120, Reason::Stalled)), &|_| seen(Stage::Active, 0)),
        ("attempts that bring nothing", Some((170, Reason::Stalled)), &|at| {
            // As the engine does it: bytes, silence, an end after 60 s, a pause, the queue again.
            let stage = match at {
                0..120 => Stage::Active,
                120..150 => Stage::Failing,
                _ => Stage::Queued,
            };
            seen(stage, at.min(50) * 100 * kib)
        }),
        ("placing", None, &|_| seen(Stage::Placing, 5)),
    ];
    for (name, wanted, script) in cases {
        assert_eq!(first(rules(), 4_000, script), wanted, "{name}");
    }
}

#[test]
fn what_was_there_before_the_start_and_does_not_grow_is_stalled() {
    assert_eq!(first(rules(), 400, |_| seen(Stage::Queued, 77)), Some((120, Reason::Stalled)));
}

#[test]
fn ten_samples_would_never_span_the_time() {
    let ten = Rules { window: 10, ..rules() };
    assert_eq!(first(ten, 4_000, |at| seen(Stage::Active, at * 2_048)), None, "C4");
}

#[test]
fn a_recovery_is_seen_and_ends_every_complaint() {
    let mut detector = Detector::new(rules());
    let mut bytes = 0;
    for at in 0..30 {
        detector.look(&[seen(Stage::Active, bytes)], s(at * 10));
    }
    for at in 300..360 {
        bytes += 100 * 1_024;
        let hung = detector.look(&[seen(Stage::Active, bytes)], s(at));
        assert!(at < 340 || hung.is_empty() || hung[0].1 == Reason::ThroughputTooLow, "{hung:?}");
    }
    assert!(detector.look(&[], s(400)).is_empty());
    assert_eq!(detector.hung_for(TransferId(1)), Duration::ZERO, "it is forgotten");
}

proptest! {
    #[test]
    fn whatever_happens_a_quick_download_is_left_alone_and_a_silent_one_found(
        stages in proptest::collection::vec(0..6_usize, 1..60),
    ) {
        let all = [Stage::Held, Stage::Offline, Stage::Queued, Stage::Failing, Stage::Active, Stage::Placing];
        let mut detector = Detector::new(rules());
        let (mut at, mut bytes) = (0, 1);
        for stage in &stages {
            at += 10;
            bytes += 500 * 1_024;
            let told = detector.look(&[seen(all[*stage], bytes)], s(at));
            prop_assert!(told.is_empty(), "{told:?}");
        }
        let mut found = false;
        for _ in 0..13 {
            at += 10;
            found |= !detector.look(&[seen(Stage::Failing, bytes)], s(at)).is_empty();
        }
        prop_assert!(found);
    }
}
