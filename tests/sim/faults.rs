//! Random mixed faults: every fetch becomes whole, or ends because nobody was left who could deliver it.
//!
//! `SLSKDN_SIM_COUNT` sets how many (500), `SLSKDN_SIM_SEED` plays one again.

use std::collections::BTreeMap;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};

use slskdn::engine::swarm::cost::CostSettings;
use slskdn::engine::swarm::reputation::Reputation;
use slskdn::engine::swarm::scheduler::SwarmSettings;
use slskdn::model::swarm::CancelReason;
use slskdn::model::trace::TraceKind;

use super::world::{MIB, PIECE, Peer, Report, World};

/// Hours of virtual time.
const LIMIT_S: f64 = 12.0 * 3_600.0;

/// Splitmix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.roll(1_000_000) as f64 / 1e6)
    }
}

fn peer(dice: &mut Dice) -> Peer {
    let mut peer =
        Peer { rtt_s: dice.between(0.000_2, 0.6), ramps: dice.one_in(2), ..Peer::of(dice.between(0.02, 10.0)) };
    if dice.one_in(3) {
        peer.start_s = dice.between(0.01, 30.0);
    }
    if dice.one_in(4) {
        peer.leave_s = peer.start_s + dice.between(0.01, 60.0);
    }
    if dice.one_in(4) {
        peer.stall_after = dice.roll(20 * MIB);
    }
    if dice.one_in(5) {
        peer.disconnect_after = dice.roll(20 * MIB);
    }
    if dice.one_in(5) {
        peer.corrupt_every = 1 + dice.roll(40);
    }
    if dice.one_in(6) {
        peer.soulseek = true;
        peer.corrupt_every = 0;
    }
    if dice.one_in(6) {
        peer.known = Reputation { corrupt: 10.0, ..Reputation::default() };
    }
    peer
}

fn is_steady(peer: &Peer) -> bool {
    peer.is_good() && peer.leave_s.is_infinite() && peer.stall_after.min(peer.disconnect_after) == u64::MAX
}

struct Case {
    size: u64,
    there: Vec<bool>,
    peers: Vec<Peer>,
    settings: SwarmSettings,
}

fn case(seed: u64) -> Case {
    let mut dice = Dice(seed);
    let scale = [PIECE, 4 * MIB, 48 * MIB][usize::try_from(dice.roll(3)).unwrap()];
    let size = 1 + dice.roll(scale);
    let mut there = vec![false; usize::try_from(size.div_ceil(PIECE)).unwrap()];
    if dice.one_in(3) {
        there.fill_with(|| dice.one_in(3));
    }
    let mut peers: Vec<Peer> = (0..=dice.roll(8)).map(|_| peer(&mut dice)).collect();
    if !dice.one_in(6) {
        peers.push(Peer { rtt_s: dice.between(0.000_2, 0.6), ..Peer::of(dice.between(0.05, 4.0)) });
    }
    let mut settings = SwarmSettings { seed, ..SwarmSettings::default() };
    settings.cost = CostSettings { enabled: !dice.one_in(8), ..settings.cost };
    Case { size, there, peers, settings }
}

fn check(case: &Case, report: &Report) {
    let Case { size, peers, settings, .. } = case;
    if let Some(why) = &report.failed {
        assert!(!peers.iter().any(is_steady), "{why}, though somebody could have delivered it");
    }
    let pieces = size.div_ceil(PIECE);
    let streams = peers.iter().any(|peer| peer.soulseek);
    if settings.cost.enabled && !streams {
        assert!(report.twice <= pieces * 3 / 100 + 3, "{} of {pieces} pieces came twice", report.twice);
    }
    let mut open: BTreeMap<u64, bool> = BTreeMap::new();
    let mut bad: BTreeMap<String, u64> = BTreeMap::new();
    for (_, event) in &report.events {
        match event {
            TraceKind::ChunkRequested { run, .. } => assert_eq!(open.insert(*run, true), None, "run {run} twice"),
            TraceKind::ChunkEnded { run, .. } | TraceKind::ChunkTakenBack { run, .. } => {
                assert_eq!(open.insert(*run, false), Some(true), "run {run} ended twice");
            }
            TraceKind::BadPiece { source, .. } => *bad.entry(source.to_string()).or_default() += 1,
            _ => {}
        }
    }
    assert!(bad.values().all(|count| *count <= 3), "{bad:?}");
    for (at, peer) in peers.iter().enumerate() {
        if peer.corrupt_every == 1 {
            assert!(report.taken[at] <= MIB, "{} bytes of one that only lies", report.taken[at]);
        }
        let polite = (at, CancelReason::Complete);
        assert!(!peer.soulseek || report.cancels.iter().filter(|cancel| **cancel == polite).count() <= pieces as usize);
    }
}

fn play(seed: u64) {
    let case = case(seed);
    let report = World::resumed(case.size, case.there.clone(), case.peers.clone(), case.settings).run(LIMIT_S);
    let outcome = catch_unwind(AssertUnwindSafe(|| check(&case, &report)));
    if outcome.is_err() {
        println!("{} bytes from {:#?}", case.size, case.peers);
        println!("{:.3} s, left because {:?}", report.seconds, report.failed);
        for (at, event) in report.events.iter().rev().take(40).rev() {
            println!("{at:10.3} {event:?}");
        }
        panic!("seed {seed}");
    }
}

#[test]
fn every_fetch_ends() {
    if let Ok(seed) = env::var("SLSKDN_SIM_SEED") {
        play(seed.parse().unwrap());
        return;
    }
    let count: u64 = env::var("SLSKDN_SIM_COUNT").map_or(500, |count| count.parse().unwrap());
    for seed in 1..=count {
        if let Err(why) = catch_unwind(|| play(seed)) {
            println!(
                "SLSKDN_SIM_SEED={seed} cargo test --test tests sim::faults::every_fetch_ends -- --exact --nocapture"
            );
            std::panic::resume_unwind(why);
        }
    }
}
