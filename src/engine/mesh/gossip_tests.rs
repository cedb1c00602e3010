//! Two machines that talk, one that lies, one that never stops.

use proptest::prelude::*;

use super::super::control::tests::{advert, claim};
use super::*;
use crate::model::id::ContentHash;

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn features() -> Vec<String> {
    vec![MBID.to_owned(), HASH_SYNC.to_owned()]
}

fn own(latest: u64) -> Own {
    Own { bundle_id: 7, named_id: 70, latest, count: latest }
}

fn machine(latest: u64) -> Gossip {
    let mut gossip = Gossip::new(own(latest));
    gossip.on_connected((peer(1), false), &features(), Heard::default(), Heard::default(), at(0));
    gossip
}

/// All that is due until `until`, each with its moment. Questions for bundles are answered.
fn run(gossip: &mut Gossip, until: Duration) -> Vec<(Duration, Deed)> {
    let mut done = Vec::new();
    while let Some(now) = gossip.next_timeout().filter(|at| *at <= until) {
        let mut out = Vec::new();
        gossip.on_timeout(now, &mut out);
        assert!(!out.is_empty(), "a timeout for nothing at {now:?}");
        for deed in out {
            if let Deed::Advertise { peer, after, .. } = deed {
                gossip.on_advertised(peer, Some((after + 100).min(gossip.own.latest)), now);
            }
            if let Deed::Say(peer, Control::Ask(Ask::Bundles { .. })) = &deed {
                let peer = gossip.peers.get_mut(peer).unwrap();
                (peer.unanswered, peer.ask_due) = (0, now + PERIOD);
            }
            done.push((now, deed));
        }
    }
    done
}

fn say(gossip: &mut Gossip, control: Control, now: Duration) -> Vec<Deed> {
    let mut out = Vec::new();
    gossip.on_message(peer(1), control, now, &mut out);
    out
}

fn bundles(bundle_id: u64, after: u64) -> Control {
    Control::Ask(Ask::Bundles { bundle_id, after })
}

fn adverts(deeds: &[(Duration, Deed)]) -> Vec<(u64, bool)> {
    let only = deeds.iter().filter_map(|(_, deed)| match deed {
        Deed::Advertise { after, whole, .. } => Some((*after, *whole)),
        _ => None,
    });
    only.collect()
}

fn snapshot(n: u8) -> Advert {
    let Control::Advert(advert) = advert(n) else { unreachable!() };
    advert
}

fn is_strike(deeds: &[Deed], words: &str) -> bool {
    matches!(deeds, [Deed::Strike(_, why)] if why.contains(words))
}

#[test]
fn who_connects_is_asked_and_greeted_and_told_nothing_unasked() {
    let mut gossip = machine(250);
    let done: Vec<Deed> = run(&mut gossip, at(600)).into_iter().map(|(_, deed)| deed).collect();
    let hello = Control::SyncHello { bundle_id: 7, latest: 250, count: 250 };
    assert_eq!(done, [Deed::Say(peer(1), bundles(0, 0)), Deed::Say(peer(1), hello)]);
    // Whoever does not speak of recordings is left alone.
    gossip.on_connected((peer(2), false), &["chunks".to_owned()], Heard::default(), Heard::default(), at(0));
    assert_eq!(gossip.peers().collect::<Vec<_>>(), [peer(1)]);
}

#[test]
fn who_asks_gets_all_then_what_is_new_then_a_word_every_quarter_of_an_hour() {
    let mut gossip = machine(250);
    run(&mut gossip, at(1));
    assert_eq!(say(&mut gossip, bundles(3, 99), at(2)), []);
    let told = run(&mut gossip, at(10));
    assert_eq!(adverts(&told), [(0, true), (100, false), (200, false)]);
    let pauses: Vec<Duration> = told.windows(2).map(|two| two[1].0.saturating_sub(two[0].0)).collect();
    assert_eq!(pauses, [PACE, PACE]);
    assert_eq!(adverts(&run(&mut gossip, at(600))), []);
    gossip.on_changed(own(251));
    assert_eq!(adverts(&run(&mut gossip, at(601))), [(250, false)]);
    assert_eq!(adverts(&run(&mut gossip, at(1_000))), [(251, false)], "nothing new: a word after 900 s");
    // It has a part of this list already.
    say(&mut gossip, bundles(7, 251), at(1_000));
    assert_eq!(adverts(&run(&mut gossip, at(1_001))), [(251, false)]);
    // More than there is: a list from before a restored backup.
    say(&mut gossip, bundles(7, 900), at(1_100));
    assert_eq!(adverts(&run(&mut gossip, at(1_101)))[0], (0, true));
    gossip.on_changed(Own { bundle_id: 8, named_id: 80, latest: 1, count: 1 });
    assert_eq!(adverts(&run(&mut gossip, at(1_102))), [(0, true)]);
}

#[test]
fn whoever_is_named_from_now_on_is_told_all_and_goes_on_from_there() {
    // It heard all that strangers are told, and comes back after a restart.
    let come = |named: bool, control: Control| {
        let mut gossip = Gossip::new(own(250));
        gossip.on_connected((peer(1), named), &features(), Heard::default(), Heard::default(), at(0));
        let greeted = run(&mut gossip, at(1));
        let list = greeted.iter().find_map(|(_, deed)| match deed {
            Deed::Say(_, Control::SyncHello { bundle_id, .. }) => Some(*bundle_id),
            _ => None,
        });
        say(&mut gossip, control, at(2));
        (list, adverts(&run(&mut gossip, at(3)))[0])
    };
    assert_eq!(come(false, bundles(7, 240)), (Some(7), (240, false)));
    assert_eq!(come(true, bundles(7, 240)), (Some(70), (0, true)), "its hashes are told anew as well");
    assert_eq!(come(true, bundles(70, 240)), (Some(70), (240, false)));
    assert_eq!(come(false, bundles(70, 240)), (Some(7), (0, true)), "a stranger again");
}

#[test]
fn what_cannot_be_said_now_is_said_later() {
    let mut gossip = machine(5);
    let mut out = Vec::new();
    gossip.on_timeout(at(0), &mut out);
    let Some(Deed::Say(_, ask)) = out.pop() else { panic!("{out:?}") };
    gossip.on_unsaid(peer(1), &ask, at(0));
    assert_eq!(gossip.next_timeout(), Some(at(1)));
    gossip.on_timeout(at(1), &mut out);
    assert_eq!(out.pop(), Some(Deed::Say(peer(1), ask)));
    say(&mut gossip, bundles(0, 0), at(2));
    gossip.on_timeout(at(2), &mut out);
    gossip.on_timeout(at(3), &mut out);
    assert!(matches!(out.last(), Some(Deed::Advertise { .. })), "{out:?}");
    assert_eq!(gossip.next_timeout(), Some(at(31)), "nothing while one is made but the next question");
    gossip.on_advertised(peer(1), None, at(3));
    assert_eq!(gossip.next_timeout(), Some(at(4)));
}

#[test]
fn a_question_that_nobody_answers_is_asked_again_ever_more_seldom() {
    let mut gossip = machine(0);
    let mut asked = Vec::new();
    let mut ask_until = |gossip: &mut Gossip, until: Duration| {
        while let Some(now) = gossip.next_timeout().filter(|now| *now <= until) {
            let mut out = Vec::new();
            gossip.on_timeout(now, &mut out);
            assert!(matches!(out[..], [Deed::Say(_, Control::Ask(Ask::Bundles { .. }))]), "{out:?}");
            asked.push(now.as_secs());
        }
        std::mem::take(&mut asked)
    };
    assert_eq!(ask_until(&mut gossip, at(3_000)), [0, 30, 90, 210, 450, 930, 1_830, 2_730]);
    assert_eq!(say(&mut gossip, advert(3), at(3_001)).len(), 1);
    assert_eq!(ask_until(&mut gossip, at(6_000)), [3_630, 3_660, 3_720, 3_840, 4_080, 4_560, 5_460]);
}

#[test]
fn an_answer_that_cannot_be_told_now_is_told_later() {
    let mut gossip = machine(0);
    run(&mut gossip, at(1));
    for key in 0..10 {
        let [deed] = &say(&mut gossip, Control::SyncAskKey(key), at(10))[..] else { panic!("{key}") };
        gossip.on_untold(deed.clone(), at(10));
        gossip.on_untold(deed.clone(), at(10));
    }
    let told = run(&mut gossip, at(20));
    let keys: Vec<Deed> = (0..limits::GOSSIP_OWED as u64).map(|key| Deed::Key(peer(1), key)).collect();
    assert_eq!(told.iter().map(|(_, deed)| deed.clone()).collect::<Vec<_>>(), keys, "each once, and no more than that");
    assert_eq!(told[0].0, at(11));
    // Still not: it goes on.
    gossip.on_untold(Deed::Delta { peer: peer(1), after: 3, max: 5 }, at(20));
    let mut out = Vec::new();
    gossip.on_timeout(at(21), &mut out);
    assert_eq!(out, [Deed::Delta { peer: peer(1), after: 3, max: 5 }]);
    gossip.on_untold(out.remove(0), at(21));
    assert_eq!(gossip.next_timeout(), Some(at(22)));
    gossip.on_gone(peer(1));
    gossip.on_untold(Deed::Describe(peer(1), 4), at(22));
    assert_eq!(gossip.next_timeout(), None);
}

#[test]
fn a_key_may_be_asked_for_twice_and_is_answered_twice() {
    let mut gossip = machine(0);
    let mut out = Vec::new();
    assert!(gossip.ask_key(peer(1), 5, at(1), &mut out) && !gossip.ask_key(peer(1), 5, at(30), &mut out));
    assert!(gossip.ask_key(peer(1), 5, at(31), &mut out));
    for second in [32, 33] {
        let kept = say(&mut gossip, Control::SyncKey(5, vec![hash(1)]), at(second));
        assert!(matches!(kept[..], [Deed::KeepHashes { .. }]), "{kept:?}");
    }
    assert!(is_strike(&say(&mut gossip, Control::SyncKey(5, vec![]), at(34)), "nobody asked for"));
    // Answers that were lost make room in the end.
    let mut gossip = machine(0);
    let asked = (0..100).filter(|key| gossip.ask_key(peer(1), *key, at(1), &mut out)).count();
    assert_eq!(asked, KEYS);
    assert!(!gossip.ask_key(peer(1), 200, at(900), &mut out) && gossip.ask_key(peer(1), 200, at(901), &mut out));
}

#[test]
fn what_follows_is_kept_and_a_gap_is_asked_about() {
    let mut gossip = machine(0);
    run(&mut gossip, at(0));
    let kept = say(&mut gossip, advert(3), at(1));
    let heard = Heard { bundle: 7, sequence: 3 };
    assert_eq!(kept, [Deed::Keep { peer: peer(1), heard, void: true, recordings: snapshot(3).recordings }]);
    let next = Advert { after: 3, sequence: 4, full_snapshot: false, ..snapshot(1) };
    let kept = say(&mut gossip, Control::Advert(next.clone()), at(2));
    assert!(matches!(&kept[..], [Deed::Keep { heard: Heard { sequence: 4, .. }, void: false, .. }]), "{kept:?}");
    // Overlapping is no gap.
    assert_eq!(say(&mut gossip, Control::Advert(next.clone()), at(3)).len(), 1);
    let gap = Advert { after: 9, sequence: 10, ..next.clone() };
    assert_eq!(say(&mut gossip, Control::Advert(gap.clone()), at(4)), []);
    let asked = run(&mut gossip, at(60));
    assert_eq!(asked, [(at(30), Deed::Say(peer(1), bundles(7, 4)))], "30 s after the last question");
    let other = Advert { bundle_id: 8, after: 4, ..next };
    assert_eq!(say(&mut gossip, Control::Advert(other), at(61)), []);
    assert_eq!(run(&mut gossip, at(62)).len(), 1);
}

#[test]
fn a_liar_is_struck_and_heard_no_more() {
    let mut gossip = machine(0);
    let mut lie = snapshot(2);
    lie.recordings[1].variants[0].size = 0;
    assert!(is_strike(&say(&mut gossip, Control::Advert(lie), at(1)), "file_size_bytes cannot be 0"));
    assert_eq!(say(&mut gossip, advert(1), at(2)), []);
    assert_eq!(gossip.next_timeout(), None);
}

#[test]
fn a_flood_of_adverts_ends_at_its_limit() {
    let mut gossip = machine(0);
    gossip.on_connected((peer(2), false), &features(), Heard::default(), Heard::default(), at(0));
    let (mut kept, mut struck) = (0, 0);
    for n in 0..10_000 {
        for deed in say(&mut gossip, advert(1), at(1) + Duration::from_millis(n)) {
            match deed {
                Deed::Keep { .. } => kept += 1,
                Deed::Strike(_, why) => {
                    assert!(why.contains("too many adverts"), "{why}");
                    struck += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((kept, struck), (limits::GOSSIP_ADVERTS_PER_HOUR, 1));
    assert_eq!(gossip.peers().collect::<Vec<_>>(), [peer(2)], "others are not affected");
    // An hour later there is room again.
    let mut gossip = machine(0);
    for hour in 1..4 {
        for _ in 0..limits::GOSSIP_ADVERTS_PER_HOUR {
            assert_eq!(say(&mut gossip, advert(1), at(hour * 3_600)).len(), 1);
        }
    }
}

#[test]
fn questions_have_their_limits_too() {
    let mut gossip = machine(3);
    for n in 0..limits::GOSSIP_DELTAS_PER_HOUR {
        let asked = say(&mut gossip, Control::SyncAsk { after: n.into(), max: u16::MAX }, at(1));
        assert_eq!(asked, [Deed::Delta { peer: peer(1), after: n.into(), max: limits::GOSSIP_DELTA }]);
    }
    assert!(is_strike(&say(&mut gossip, Control::SyncAskKey(1), at(1)), "too many requests for hashes"));
    let mut gossip = machine(3);
    for _ in 0..limits::GOSSIP_OTHERS_PER_HOUR {
        assert_eq!(say(&mut gossip, bundles(0, 0), at(1)), []);
    }
    assert!(is_strike(&say(&mut gossip, bundles(0, 0), at(1)), "too many messages"));
}

/// It goes and comes back.
fn reconnect(gossip: &mut Gossip, now: Duration) {
    gossip.on_gone(peer(1));
    gossip.on_connected((peer(1), false), &features(), Heard::default(), Heard::default(), now);
}

#[test]
fn coming_back_begins_no_new_hour() {
    let mut gossip = machine(0);
    let mut struck_at = None;
    for n in 0..=limits::GOSSIP_ADVERTS_PER_HOUR {
        if n % 10 == 0 {
            reconnect(&mut gossip, at(u64::from(n)));
        }
        let deeds = say(&mut gossip, Control::Advert(snapshot(1)), at(u64::from(n)));
        if is_strike(&deeds, "too many adverts") {
            struck_at = Some(n);
        }
    }
    assert_eq!(struck_at, Some(limits::GOSSIP_ADVERTS_PER_HOUR));
    reconnect(&mut gossip, at(1_000));
    assert!(is_strike(&say(&mut gossip, Control::Advert(snapshot(1)), at(1_000)), "too many adverts"));
    reconnect(&mut gossip, at(3_600));
    assert!(matches!(say(&mut gossip, Control::Advert(snapshot(1)), at(3_600))[..], [Deed::Keep { .. }]));
    // Nor does it hear the hello again.
    let mut gossip = machine(5);
    let hellos = |deeds: &[(Duration, Deed)]| {
        deeds.iter().filter(|(_, deed)| matches!(deed, Deed::Say(_, Control::SyncHello { .. }))).count()
    };
    assert_eq!(hellos(&run(&mut gossip, at(1))), 1);
    reconnect(&mut gossip, at(2));
    assert_eq!((hellos(&run(&mut gossip, at(1_799))), hellos(&run(&mut gossip, at(1_801)))), (0, 1));
}

#[test]
fn a_list_is_not_told_again_and_again() {
    // It takes fifty frames. The peer has it sent again whenever it may ask, and comes back for it.
    let mut gossip = machine(5_000);
    let (mut told, mut by_hour) = (0, [0_u32; 3]);
    for n in 0..600 {
        let now = at(n * 15);
        if n % 20 == 0 {
            reconnect(&mut gossip, now);
        }
        assert_eq!(say(&mut gossip, bundles(n, 0), now), [], "{n}");
        for (when, _) in
            run(&mut gossip, at(n * 15 + 14)).iter().filter(|(_, deed)| matches!(deed, Deed::Advertise { .. }))
        {
            told += 1;
            by_hour[(when.as_secs() / 3_600) as usize] += 1;
        }
    }
    assert_eq!((told, by_hour), (3 * limits::GOSSIP_TELLS_PER_HOUR, [limits::GOSSIP_TELLS_PER_HOUR; 3]));
}

#[test]
fn counts_of_those_who_left_are_bounded_and_the_oldest_is_forgotten() {
    let mut gossip = machine(0);
    let key = |n: u64| PeerId(*blake3::hash(&n.to_le_bytes()).as_bytes());
    for n in 0..2 * limits::GOSSIP_METERS as u64 {
        gossip.on_connected((key(n), false), &features(), Heard::default(), Heard::default(), at(n));
        gossip.on_gone(key(n));
    }
    assert_eq!(gossip.gone.len(), limits::GOSSIP_METERS);
    assert!(!gossip.gone.contains_key(&key(0)) && gossip.gone.contains_key(&key(511)));
}

fn hash(sequence: u64) -> HashEntry {
    HashEntry { sequence, flac_key: 5, head_sha256: [1; 32], content: ContentHash([2; 32]), size: 9 }
}

fn delta(entries: Vec<HashEntry>, sequence: u64, has_more: bool) -> Control {
    Control::SyncDelta { bundle_id: 3, entries, sequence, has_more }
}

fn hello(bundle_id: u64, latest: u64) -> Control {
    Control::SyncHello { bundle_id, latest, count: latest }
}

fn ask(after: u64) -> Deed {
    Deed::Say(peer(1), Control::SyncAsk { after, max: limits::GOSSIP_DELTA })
}

#[test]
fn hashes_are_fetched_to_their_end_and_not_again_for_half_an_hour() {
    let mut gossip = machine(0);
    assert_eq!(say(&mut gossip, hello(3, 9), at(1)), [ask(0)]);
    let kept = say(&mut gossip, delta(vec![hash(1), hash(4)], 4, true), at(2));
    let keep = |void, sequence, entries| {
        let heard = Heard { bundle: 3, sequence };
        Deed::KeepHashes { peer: peer(1), heard, void, entries }
    };
    assert_eq!(kept, [keep(true, 4, vec![hash(1), hash(4)]), ask(4)]);
    let kept = say(&mut gossip, delta(vec![hash(9)], 9, false), at(3));
    assert_eq!(kept, [keep(false, 9, vec![hash(9)]), Deed::Say(peer(1), Control::SyncAck(9))]);
    assert_eq!(say(&mut gossip, hello(3, 12), at(1_801)), [], "too early");
    assert_eq!(say(&mut gossip, hello(3, 12), at(1_802)), [ask(9)]);
    // The question or its answer was lost.
    assert_eq!(say(&mut gossip, hello(3, 12), at(3_601)), []);
    assert_eq!(say(&mut gossip, hello(3, 12), at(3_602)), [ask(9)]);
    assert_eq!(say(&mut gossip, delta(vec![], 12, false), at(3_603)).len(), 2);
    assert_eq!(say(&mut gossip, hello(3, 12), at(9_000)), [], "nothing new");
    assert!(is_strike(&say(&mut gossip, delta(vec![], 13, false), at(9_001)), "nobody asked for"));
}

#[test]
fn hashes_that_do_not_follow_are_a_violation() {
    let wrong = [
        delta(vec![hash(5), hash(4)], 5, false),
        delta(vec![], 0, true),
        Control::SyncDelta { bundle_id: 4, entries: vec![], sequence: 3, has_more: false },
        delta(vec![HashEntry { size: 0, ..hash(1) }], 1, false),
        Control::SyncKey(5, vec![hash(1)]),
    ];
    for message in wrong {
        let mut gossip = machine(0);
        assert_eq!(say(&mut gossip, hello(3, 9), at(1)), [ask(0)]);
        let deeds = say(&mut gossip, message.clone(), at(2));
        assert!(matches!(deeds[..], [Deed::Strike(..)]), "{message:?}: {deeds:?}");
    }
    let mut gossip = machine(0);
    let mut out = Vec::new();
    assert!(gossip.ask_key(peer(1), 5, at(1), &mut out) && !gossip.ask_key(peer(9), 5, at(1), &mut out));
    assert_eq!(out, [Deed::Say(peer(1), Control::SyncAskKey(5))]);
    assert!(matches!(say(&mut gossip, Control::SyncKey(5, vec![hash(1)]), at(2))[..], [Deed::KeepHashes { .. }]));
}

#[test]
fn five_peers_are_synced_with_in_a_cycle() {
    let mut gossip = Gossip::new(own(0));
    let mut begun = 0;
    for n in 1..20 {
        gossip.on_connected((peer(n), false), &features(), Heard::default(), Heard::default(), at(0));
        let mut out = Vec::new();
        gossip.on_message(peer(n), hello(3, 9), at(400), &mut out);
        begun += out.len();
    }
    assert_eq!(begun, SYNCS);
    let mut out = Vec::new();
    gossip.on_message(peer(19), hello(3, 9), at(700), &mut out);
    assert_eq!(out.len(), 1);
}

#[test]
fn releases_are_described_when_asked_for_and_every_quarter_of_an_hour() {
    let mut gossip = machine(0);
    run(&mut gossip, at(1));
    for release in 1..=10 {
        say(&mut gossip, Control::Ask(Ask::Release(release)), at(2));
    }
    let told = run(&mut gossip, at(800));
    assert_eq!(told.len(), ACTIVE, "the first two were pushed out");
    assert!(told.iter().all(|(_, deed)| matches!(deed, Deed::Describe(_, 3..=10))), "{told:?}");
    let again = run(&mut gossip, at(910));
    assert_eq!(again.iter().filter(|(_, deed)| matches!(deed, Deed::Describe(..))).count(), ACTIVE);
}

proptest! {
    #[test]
    fn whatever_is_said_nothing_grows_and_nothing_false_is_kept(
        words in proptest::collection::vec((0_u8..9, any::<u64>(), any::<u64>(), any::<bool>(), 0_u64..5_000), 1..200),
    ) {
        let mut gossip = machine(3);
        let (mut now, mut kept) = (at(0), 0_u32);
        for (kind, a, b, flag, pause) in words {
            now += Duration::from_secs(pause);
            let control = match kind {
                0 => Control::Advert(Advert {
                    bundle_id: a % 3, after: b % 5, sequence: b % 7, full_snapshot: flag, recordings: vec![
                        RecordingAdvert {
                            mb_recording_id: Some(u128::from(a % 3)),
                            variants: vec![crate::model::gossip::Claim { size: b % 3, ..claim(1) }],
                            ..RecordingAdvert::default()
                        },
                    ],
                }),
                1 => hello(a % 4, b % 9),
                2 => Control::SyncAsk { after: a, max: u16::try_from(b % 2_000).unwrap() },
                3 => delta(vec![hash(a % 9)], b % 9, flag),
                4 => Control::SyncAskKey(a),
                5 => Control::SyncKey(a, vec![hash(b)]),
                6 => Control::SyncAck(a),
                7 => bundles(a % 9, b % 9),
                _ => Control::Ask(Ask::Release(a.into())),
            };
            let mut out = Vec::new();
            gossip.on_message(peer(1), control, now, &mut out);
            gossip.on_timeout(now, &mut out);
            for deed in out {
                match deed {
                    Deed::Keep { recordings, heard, .. } => {
                        kept += 1;
                        prop_assert!(heard.bundle != 0);
                        prop_assert!(recordings.iter().all(|r| r.mb_recording_id != Some(0)));
                        prop_assert!(recordings.iter().flat_map(|r| &r.variants).all(|v| v.size > 0));
                    }
                    Deed::Advertise { peer, after, .. } => gossip.on_advertised(peer, Some(after.max(3)), now),
                    Deed::Strike(struck, _) => {
                        prop_assert_eq!(struck, peer(1));
                        prop_assert_eq!(gossip.peers().count(), 0);
                    }
                    _ => {}
                }
            }
            if let Some(state) = gossip.peers.get(&peer(1)) {
                prop_assert!(state.active.len() <= ACTIVE && state.keys.len() <= KEYS);
            }
        }
        prop_assert!(kept <= 200);
    }
}
