use super::*;

const ME: PeerId = PeerId([9; 32]);

fn table() -> Candidates {
    Candidates::new(ME, Range::default(), 3)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn found(text: &str) -> Candidate {
    Candidate { key: None, addresses: vec![address(text)], origin: Origin::Dht }
}

fn near(key: u8, texts: &[&str]) -> Candidate {
    let addresses = texts.iter().map(|text| address(text)).collect();
    Candidate { key: Some(PeerId([key; 32])), addresses, origin: Origin::Lan }
}

fn next(table: &mut Candidates, strangers: usize, now: Duration) -> Option<Call> {
    table.next(strangers, |_, _| false, now)
}

#[test]
fn strangers_words_lead_nowhere_but_to_the_internet() {
    let mut table = table();
    for text in ["10.0.0.1:1", "127.0.0.1:1", "192.168.1.1:1", "169.254.1.1:1", "8.8.8.8:0", "[fe80::1]:1", "[::1]:1"] {
        assert_eq!(table.add(found(text), at(0)), Err(Passed::Address), "{text}");
    }
    // IPv4 in the clothes of IPv6.
    assert_eq!(table.add(found("[::ffff:10.0.0.1]:1"), at(0)), Err(Passed::Address));
    assert_eq!(table.add(found("8.8.8.8:1"), at(0)), Ok(()));
    assert_eq!(table.add(found("[2a00::1]:1"), at(0)), Ok(()));
    // The owner's own words and the own network's are another thing.
    assert_eq!(table.add(near(1, &["192.168.1.1:1"]), at(0)), Ok(()));
    assert_eq!(table.add(near(2, &["224.0.0.1:1", "0.0.0.0:1"]), at(0)), Err(Passed::Address));
    let range = Range { private: vec![(Ipv4Addr::new(127, 0, 0, 0), 8)], server_near: false };
    let mut home = Candidates::new(ME, range, 3);
    assert_eq!(home.add(found("127.0.0.1:1"), at(0)), Ok(()));
    assert_eq!(home.add(found("10.0.0.1:1"), at(0)), Err(Passed::Address));
    home.set_server_near(true);
    assert_eq!(home.add(found("10.0.0.1:1"), at(0)), Ok(()));
}

#[test]
fn one_network_has_two_candidates() {
    let mut table = table();
    assert_eq!(table.add(found("8.8.8.1:1"), at(0)), Ok(()));
    assert_eq!(table.add(found("8.8.8.1:1"), at(0)), Ok(()), "the same one again");
    assert_eq!(table.len(), 1);
    assert_eq!(table.add(found("8.8.8.2:1"), at(0)), Ok(()));
    assert_eq!(table.add(found("8.8.8.3:1"), at(0)), Err(Passed::Crowded));
    assert_eq!(table.add(found("8.8.9.3:1"), at(0)), Ok(()));
    assert_eq!(table.add(found("[2a00:1:2:3::1]:1"), at(0)), Ok(()));
    assert_eq!(table.add(found("[2a00:1:2:4::1]:1"), at(0)), Ok(()));
    assert_eq!(table.add(found("[2a00:1:2:5::1]:1"), at(0)), Err(Passed::Crowded));
    assert_eq!(table.add(near(1, &["8.8.8.9:1"]), at(0)), Ok(()), "the own network is not the DHT");
}

#[test]
fn the_table_is_bounded_and_the_own_network_goes_before() {
    let mut table = table();
    let many = u8::try_from(limits::MESH_CANDIDATES).unwrap();
    for n in 0..many {
        assert_eq!(table.add(found(&format!("8.{n}.0.1:1")), at(0)), Ok(()));
    }
    assert_eq!(table.add(found("9.0.0.1:1"), at(0)), Err(Passed::Full));
    assert_eq!(table.add(near(1, &["10.0.0.1:1"]), at(0)), Ok(()));
    assert_eq!(table.len(), limits::MESH_CANDIDATES);
    // One that failed gives way to a fresh one.
    let call = next(&mut table, 0, at(1)).unwrap();
    assert_eq!(call.origin, Origin::Lan);
    let call = next(&mut table, 0, at(2)).unwrap();
    table.ended(call.number, Ended::Failed, at(3), &mut Chance::new(1));
    assert_eq!(table.add(found("9.0.0.1:1"), at(4)), Ok(()));
    assert_eq!(table.len(), limits::MESH_CANDIDATES);
}

#[test]
fn calls_are_few_a_second_and_few_at_once() {
    let mut table = table();
    for n in 20..30 {
        table.add(near(n, &[&format!("10.0.{n}.1:1")]), at(0)).unwrap();
    }
    let first = next(&mut table, 0, at(1)).unwrap();
    assert_eq!(next(&mut table, 0, at(1)), None, "not in the same moment");
    assert_eq!(table.next_timeout(), Some(at(1) + SPACING));
    let mut calls = 1;
    for tick in 1..40 {
        calls += usize::from(next(&mut table, 0, at(1) + SPACING * tick).is_some());
    }
    assert_eq!(calls, limits::MESH_CALLS_AT_ONCE);
    table.connected(first.number, first.key.unwrap());
    assert!(next(&mut table, 0, at(100)).is_some(), "a connection is no call");
}

#[test]
fn enough_strangers_are_enough() {
    let mut table = table();
    table.add(found("8.8.1.1:1"), at(0)).unwrap();
    table.add(found("8.8.2.1:1"), at(0)).unwrap();
    assert_eq!(next(&mut table, 3, at(0)), None);
    assert!(next(&mut table, 2, at(0)).is_some());
    assert_eq!(next(&mut table, 2, at(1)), None, "the one being called counts too");
    table.add(near(1, &["10.0.0.1:1"]), at(1)).unwrap();
    assert_eq!(next(&mut table, 50, at(1)).map(|call| call.origin), Some(Origin::Lan));
}

#[test]
fn pauses_grow_until_it_is_given_up() {
    let mut table = table();
    let mut chance = Chance::new(7);
    table.add(found("8.8.8.8:1"), at(0)).unwrap();
    let mut now = at(0);
    let mut pauses = Vec::new();
    while let Some(call) = next(&mut table, 0, now) {
        table.ended(call.number, Ended::Failed, now, &mut chance);
        let Some(due) = table.next_timeout() else { break };
        assert_eq!(next(&mut table, 0, due.saturating_sub(Duration::from_millis(1))), None);
        pauses.push(due.saturating_sub(now));
        now = due;
    }
    assert!(table.is_empty());
    assert_eq!(pauses.len(), FAILURES as usize - 1);
    for (pause, n) in pauses.iter().zip(0_u32..) {
        let whole = PAUSE * 2_u32.pow(n);
        assert!(*pause >= whole * 3 / 4 && *pause <= whole * 5 / 4, "{pauses:?}");
    }
}

#[test]
fn we_never_call_ourselves_twice() {
    let mut table = table();
    let mut chance = Chance::new(7);
    assert_eq!(table.add(Candidate { key: Some(ME), ..near(1, &["10.0.0.1:1"]) }, at(0)), Err(Passed::Own));
    table.add(found("8.8.8.8:1"), at(0)).unwrap();
    let call = next(&mut table, 0, at(0)).unwrap();
    table.ended(call.number, Ended::Own(address("8.8.8.8:1")), at(1), &mut chance);
    assert_eq!(table.add(found("8.8.8.8:1"), at(2)), Err(Passed::Own));
    assert!(table.is_empty());
    // Other ports of that address are others.
    assert_eq!(table.add(found("8.8.8.8:2"), at(2)), Ok(()));
    table.is_ours(address("8.8.8.8:2"));
    assert!(table.is_empty());
    for port in 10..1_000 {
        table.is_ours(SocketAddr::from(([1, 1, 1, 1], port)));
    }
    assert_eq!(table.own_addresses.len(), limits::MESH_OWN_ADDRESSES);
}

#[test]
fn whoever_is_connected_is_not_called() {
    let mut table = table();
    let mut chance = Chance::new(7);
    let peer = PeerId([4; 32]);
    table.add(found("8.8.8.8:1"), at(0)).unwrap();
    let call = next(&mut table, 0, at(0)).unwrap();
    table.ended(call.number, Ended::Known(peer), at(0), &mut chance);
    assert_eq!(table.origin(peer), Some(Origin::Dht));
    assert_eq!(table.next(0, |key, _| key == Some(peer), at(1_000)), None);
    assert_eq!(table.next(0, |_, at| at.contains(&address("8.8.8.8:1")), at(1_000)), None);
    // The key that was there need not be there the next time.
    assert_eq!(next(&mut table, 0, at(1_000)).map(|call| call.key), Some(None));
}

#[test]
fn new_addresses_come_first_and_wake_it() {
    let mut table = table();
    let mut chance = Chance::new(7);
    table.add(near(1, &["10.0.0.1:1"]), at(0)).unwrap();
    let call = next(&mut table, 0, at(0)).unwrap();
    table.ended(call.number, Ended::Failed, at(0), &mut chance);
    table.add(near(1, &["10.0.0.1:1"]), at(1)).unwrap();
    assert_eq!(next(&mut table, 0, at(1)), None, "nothing new, the pause holds");
    table.add(near(1, &["10.0.0.2:1", "[fe80::1%3]:1"]), at(2)).unwrap();
    let call = next(&mut table, 0, at(2)).unwrap();
    let texts: Vec<String> = call.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.0.0.2:1", "[fe80::1%3]:1", "10.0.0.1:1"]);
    let many: Vec<String> = (1..20).map(|n| format!("10.1.0.{n}:1")).collect();
    table.add(near(2, &many.iter().map(String::as_str).collect::<Vec<_>>()), at(3)).unwrap();
    assert_eq!(next(&mut table, 0, at(4)).unwrap().addresses.len(), limits::MESH_ADDRESSES);
}
