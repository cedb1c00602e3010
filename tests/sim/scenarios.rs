//! The scenarios of docs/performance.md, in virtual time: time over the physical limit.

use slskdn::engine::swarm::cost::CostSettings;
use slskdn::engine::swarm::reputation::Reputation;
use slskdn::engine::swarm::scheduler::SwarmSettings;
use slskdn::model::swarm::CancelReason;
use slskdn::model::trace::TraceKind;

use super::world::{MIB, Peer, Report, World, ideal};

const LARGE: u64 = 96 * MIB;

fn steady() -> Vec<Peer> {
    [4.0, 2.0, 1.0, 0.5, 0.1].map(Peer::of).to_vec()
}

fn stalling() -> Peer {
    Peer { stall_after: 15_000_000, ..Peer::of(3.0) }
}

fn corrupting() -> Peer {
    Peer { corrupt_every: 1, ..Peer::of(3.0) }
}

fn far(rtt_ms: f64) -> Vec<Peer> {
    steady().into_iter().map(|peer| Peer { rtt_s: rtt_ms / 1_000.0, ramps: true, ..peer }).collect()
}

fn with(mut peers: Vec<Peer>, more: &[Peer]) -> Vec<Peer> {
    peers.extend_from_slice(more);
    peers
}

fn run(name: &str, size: u64, peers: &[Peer]) -> (Report, f64) {
    let report = World::new(size, peers.to_vec(), SwarmSettings::default()).run(600.0);
    let limit = ideal(size, peers);
    let ratio = report.seconds / limit;
    println!(
        "{name}: {ratio:.3} of {limit:.2} s, twice {}, wasted {} KiB, in flight {:?} KiB",
        report.twice,
        report.wasted / 1024,
        report.in_flight.iter().map(|bytes| bytes / 1024).collect::<Vec<_>>()
    );
    assert_eq!(report.failed, None, "{name}");
    (report, ratio)
}

fn holds(name: &str, size: u64, peers: &[Peer], most: f64) {
    let (report, ratio) = run(name, size, peers);
    assert!(ratio <= most, "{name}: {ratio:.3} is more than {most}");
    assert!(report.twice * 64 * 1024 * 100 <= size * 3, "{name}: {} pieces came twice", report.twice);
    for (at, _) in peers.iter().enumerate().filter(|(_, peer)| !peer.is_good()) {
        assert!(report.taken[at] <= MIB, "{name}: {} bytes of one that lies", report.taken[at]);
    }
}

#[test]
fn steady_sources() {
    holds("S1", LARGE, &steady(), 1.03);
}

#[test]
fn a_silent_stall() {
    holds("S2", LARGE, &with(steady(), &[stalling()]), 1.05);
}

#[test]
fn a_source_that_lies() {
    holds("S3", LARGE, &with(steady(), &[corrupting()]), 1.03);
}

#[test]
fn a_stall_and_a_lie() {
    holds("S4", LARGE, &with(steady(), &[stalling(), corrupting()]), 1.06);
}

#[test]
fn one_song() {
    holds("S5", 30_000_000, &steady(), 1.07);
}

#[test]
fn a_slow_tail() {
    holds("S6", LARGE, &[Peer::of(8.0), Peer::of(0.05)], 1.01);
}

#[test]
fn ten_equals() {
    holds("S7", LARGE, &vec![Peer::of(1.0); 10], 1.02);
}

#[test]
fn far_away() {
    for (rtt, most) in [(80.0, 1.06), (150.0, 1.08), (300.0, 1.20), (600.0, 1.45)] {
        holds(&format!("S1 at {rtt} ms"), LARGE, &far(rtt), most);
    }
}

#[test]
fn coming_and_going() {
    let whole = ideal(LARGE, &steady());
    let mut peers = steady();
    peers[1].leave_s = whole / 2.0;
    peers[2].start_s = whole / 4.0;
    peers.push(Peer { start_s: whole / 4.0, leave_s: whole / 2.0, ..Peer::of(2.0) });
    holds("S1 with a coming and going", LARGE, &peers, 1.08);
}

#[test]
fn the_cost_function_is_worth_it() {
    let off =
        SwarmSettings { cost: CostSettings { enabled: false, ..CostSettings::default() }, ..SwarmSettings::default() };
    for (name, peers) in
        [("S1", steady()), ("S2", with(steady(), &[stalling()])), ("S6", vec![Peer::of(8.0), Peer::of(0.05)])]
    {
        let (_, on) = run(name, LARGE, &peers);
        let random: Vec<f64> = (1..=5)
            .map(|seed| World::new(LARGE, peers.clone(), SwarmSettings { seed, ..off }).run(600.0))
            .map(|report| report.seconds / ideal(LARGE, &peers))
            .collect();
        println!("{name} at random: {random:.3?}");
        assert!(random.iter().all(|ratio| *ratio > on), "{name}: {on:.3} against {random:.3?}");
    }
}

/// A user and the mesh meet: the mesh takes the far end, the user's run is ended once, and little comes twice.
#[test]
fn a_stream_and_the_mesh_meet() {
    let user = Peer { soulseek: true, rtt_s: 0.05, ..Peer::of(1.0) };
    let peers = [user, Peer::of(2.0), Peer::of(0.5)];
    let (report, ratio) = run("a user and two peers", LARGE, &peers);
    assert!(ratio <= 1.03, "{ratio:.3}");
    let of_user: Vec<_> = report.cancels.iter().filter(|(peer, _)| *peer == 0).collect();
    assert_eq!(of_user, [&(0, CancelReason::Complete)]);
    assert!(report.twice * 100 <= 96 * 16 * 3, "{} came twice", report.twice);
    let asked = |event: &TraceKind| match event {
        TraceKind::ChunkRequested { source, offset, .. } => Some((source.network(), *offset)),
        _ => None,
    };
    let asked: Vec<_> = report.events.iter().filter_map(|(_, event)| asked(event)).collect();
    assert_eq!(asked.iter().filter(|(network, _)| *network == "soulseek").collect::<Vec<_>>(), [&("soulseek", 0)]);
    let first = asked.iter().find(|(network, _)| *network == "overlay").unwrap();
    assert_eq!(first.1, LARGE - 64 * 1024, "the farthest first");
}

/// A user alone brings it all; the next one goes on where a silent one left.
#[test]
fn users_take_over_from_one_another() {
    let first = Peer { soulseek: true, stall_after: 20_000_000, ..Peer::of(2.0) };
    let second = Peer { soulseek: true, ..Peer::of(1.0) };
    let (report, _) = run("two users", LARGE, &[first, second]);
    assert!(report.seconds < 10.0 + 30.0 + 81.0 + 2.0, "{}", report.seconds);
    assert!(report.wasted <= MIB, "{}", report.wasted);
    assert!(report.cancels.iter().all(|(_, reason)| *reason == CancelReason::Timeout), "{:?}", report.cancels);
}

/// Whoever is not trusted is not asked while others are there.
#[test]
fn bad_reputation_waits() {
    let bad = Reputation { corrupt: 10.0, ..Reputation::default() };
    let peers = [Peer { known: bad, start_s: 0.1, ..Peer::of(4.0) }, Peer { leave_s: 5.0, ..Peer::of(1.0) }];
    let report = World::new(LARGE, peers.to_vec(), SwarmSettings::default()).run(600.0);
    assert_eq!(report.failed, None);
    let first = report.events.iter().find_map(|(at, event)| match event {
        TraceKind::ChunkRequested { source, .. } if source.to_string().starts_with("00") => Some(*at),
        _ => None,
    });
    assert!(first.is_some_and(|at| (5.0..5.2).contains(&at)), "{first:?}");
}

/// A source that becomes ten times slower keeps nobody waiting.
#[test]
fn a_source_that_becomes_slow_is_relieved() {
    let slow = Peer { slow_after: 17_000_000, ..Peer::of(4.0) };
    let report = World::new(LARGE, vec![slow, Peer::of(2.0)], SwarmSettings::default()).run(600.0);
    assert_eq!(report.failed, None);
    let ideal = 17.0 / 4.0 + (100.66 - 25.5) / 2.4;
    assert!(report.seconds / ideal < 1.03, "{:.2} s of {ideal:.2}", report.seconds);
}
