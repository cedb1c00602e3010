use super::*;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn key(n: u64) -> DhtKey {
    rendezvous_key(&n.to_string())
}

fn rules(places: u64) -> Rules {
    Rules {
        announce_every: at(900),
        discover_every: at(600),
        neighbours_min: 3,
        rendezvous: (0..places).map(key).collect(),
    }
}

/// Runs until a moment; every errand takes a second and is answered. Says what was done when.
fn run(meeting: &mut Meeting, from: Duration, until: Duration) -> Vec<(Duration, Errand)> {
    let mut chance = Chance::new(1);
    let (mut now, mut done) = (from, Vec::new());
    loop {
        while let Some(errand) = meeting.next(now) {
            done.push((now, errand));
            assert_eq!(meeting.next(now), None, "one at a time");
            assert_eq!(meeting.next_timeout(), None);
            meeting.done(errand, true, now + at(1), &mut chance);
        }
        match meeting.next_timeout() {
            Some(due) if due < until => now = now.max(due),
            _ => return done,
        }
    }
}

fn is_look(errand: Errand) -> bool {
    matches!(errand, Errand::Look(_))
}

#[test]
fn keys_are_the_hashes_of_their_texts() {
    // `printf %s slskdn-appliance-mesh-v1 | sha1sum`
    assert_eq!(rendezvous_key(RENDEZVOUS[0]).to_string(), "f63bddf581a85c757a787db1b1b14e6763fdf1b9");
    // `printf %s slskdn-appliance-mb-v1:01234567-89ab-cdef-0123-456789abcdef | sha1sum`
    let id = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
    assert_eq!(content_key(id).to_string(), "86e0880c4061e228f90b4162ad9d143066dfcf23");
}

#[test]
fn nobody_is_told_of_us_while_nobody_can_reach_us() {
    let mut meeting = Meeting::new(rules(3), at(0));
    meeting.set_content(&[key(100)], at(0));
    let done = run(&mut meeting, at(0), at(100_000));
    assert!(done.iter().all(|(_, errand)| is_look(*errand)));
    // Three places, each every 600 to 660 s.
    assert!((3 * 145..=3 * 167).contains(&done.len()), "{}", done.len());
    for place in (0..3).map(key) {
        let moments: Vec<_> = done.iter().filter(|(_, errand)| *errand == Errand::Look(place)).map(|d| d.0).collect();
        assert!(moments.windows(2).all(|pair| pair[1].saturating_sub(pair[0]) >= at(600)), "{moments:?}");
    }
}

#[test]
fn enough_neighbours_end_the_looking_and_their_loss_begins_it_anew() {
    let mut meeting = Meeting::new(rules(1), at(0));
    assert_eq!(meeting.next(at(0)), Some(Errand::Look(key(0))));
    meeting.done(Errand::Look(key(0)), true, at(1), &mut Chance::new(1));
    meeting.set_standing(Standing { neighbours: 3, reachable: false }, at(2));
    assert_eq!((meeting.next(at(10_000)), meeting.next_timeout()), (None, None));
    meeting.set_standing(Standing { neighbours: 2, reachable: false }, at(10_000));
    assert_eq!(meeting.next(at(10_000)), Some(Errand::Look(key(0))));
}

#[test]
fn a_hundred_announcements_are_spread_over_their_interval() {
    let mut meeting = Meeting::new(rules(3), at(0));
    let content: Vec<DhtKey> = (100..200).map(key).collect();
    meeting.set_content(&content, at(0));
    // A long time later the port is open: what fell due does not come at once.
    meeting.set_standing(Standing { neighbours: 5, reachable: true }, at(50_000));
    let done = run(&mut meeting, at(50_000), at(50_000 + 3_600));
    assert!(done.iter().all(|(_, errand)| !is_look(*errand)));
    assert!(done.windows(2).all(|pair| pair[1].0.saturating_sub(pair[0].0) >= at(3)), "a pause behind each");
    for announced in content.iter().copied().chain((0..3).map(key)) {
        let moments: Vec<_> =
            done.iter().filter(|(_, errand)| *errand == Errand::Announce(announced)).map(|d| d.0).collect();
        assert!((3..=4).contains(&moments.len()), "{moments:?}");
        assert!(moments.windows(2).all(|pair| pair[1].saturating_sub(pair[0]) >= at(900)), "{moments:?}");
    }
    let in_the_first_minute = done.iter().filter(|(moment, _)| *moment < at(50_060)).count();
    assert!(in_the_first_minute <= 3 + 7, "{in_the_first_minute}");
}

#[test]
fn content_can_be_taken_back() {
    let mut meeting = Meeting::new(rules(1), at(0));
    meeting.set_standing(Standing { neighbours: 5, reachable: true }, at(0));
    meeting.set_content(&[key(100), key(101)], at(0));
    meeting.set_content(&[key(101)], at(1));
    let done = run(&mut meeting, at(1), at(5_000));
    let told = |n| done.iter().any(|(_, errand)| *errand == Errand::Announce(key(n)));
    assert!(told(0) && told(101) && !told(100));
    // One under way when it was taken back.
    meeting.done(Errand::Announce(key(100)), true, at(5_001), &mut Chance::new(1));
    meeting.set_content(&[], at(5_001));
    assert!(run(&mut meeting, at(5_001), at(10_000)).iter().all(|(_, errand)| *errand == Errand::Announce(key(0))));
}

#[test]
fn an_announcement_is_a_look_too() {
    let mut meeting = Meeting::new(rules(1), at(0));
    meeting.set_standing(Standing { neighbours: 0, reachable: true }, at(0));
    let done: Vec<Errand> = run(&mut meeting, at(0), at(1_300)).into_iter().map(|(_, errand)| errand).collect();
    let (look, announce) = (Errand::Look(key(0)), Errand::Announce(key(0)));
    assert_eq!(done, [look, announce, look, announce]);
}

#[test]
fn a_silent_dht_is_asked_less_and_less() {
    let mut meeting = Meeting::new(rules(3), at(0));
    let mut chance = Chance::new(1);
    let (mut now, mut pauses) = (at(0), Vec::new());
    for _ in 0..12 {
        let errand = meeting.next(now).unwrap();
        meeting.done(errand, false, now, &mut chance);
        let due = meeting.next_timeout().unwrap();
        pauses.push(due.saturating_sub(now));
        now = due;
    }
    assert!(pauses[0] >= at(15) && pauses[0] <= at(17), "{pauses:?}");
    assert!(pauses[11] >= at(600) && pauses[11] <= at(660), "{pauses:?}");
    let errand = meeting.next(now).unwrap();
    meeting.done(errand, true, now, &mut chance);
    assert!(meeting.next_timeout().unwrap().saturating_sub(now) < at(3), "once it answers, the other places follow");
}

#[test]
fn whoever_has_a_recording_is_looked_for_at_once_and_then_less_and_less() {
    let mut meeting = Meeting::new(rules(1), at(0));
    // Enough neighbours: nobody else is looked for.
    meeting.set_standing(Standing { neighbours: 5, reachable: false }, at(0));
    assert_eq!(run(&mut meeting, at(0), at(5_000)), []);
    meeting.set_sought(&[key(7)], at(5_000));
    meeting.set_sought(&[key(7)], at(5_001));
    let looks = run(&mut meeting, at(5_001), at(10_000));
    assert!(looks.iter().all(|(_, errand)| *errand == Errand::Look(key(7))));
    let moments: Vec<u64> = looks.iter().map(|(moment, _)| moment.as_secs() - 5_000).collect();
    assert_eq!(moments[0], 1);
    for (pair, pause) in moments.windows(2).zip([60, 120, 240, 480, 900, 900, 900]) {
        let waited = pair[1] - pair[0];
        assert!((pause..=pause + pause / 10 + 2).contains(&waited), "{moments:?}");
    }
    assert!(moments.len() >= 7, "{moments:?}");
    // Nobody wants it any more; wanted again it is looked for at once.
    meeting.set_sought(&[], at(10_000));
    assert_eq!(run(&mut meeting, at(10_000), at(20_000)), []);
    meeting.set_sought(&[key(7), key(8)], at(20_000));
    assert_eq!(run(&mut meeting, at(20_000), at(20_030)).len(), 2);
    // A DHT that does not answer is left alone for a while.
    let mut chance = Chance::new(1);
    let errand = meeting.next(at(21_000)).unwrap();
    meeting.done(errand, false, at(21_001), &mut chance);
    assert_eq!(meeting.next(at(21_010)), None);
    assert!(meeting.next(at(21_020)).is_some());
}
