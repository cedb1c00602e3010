use super::*;
use crate::model::id::{PeerId, Username};

const LEN: u64 = PIECE_LEN;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn peer(n: u8) -> Source {
    Source::Mesh(PeerId([n; 32]))
}

fn user(name: &str) -> Source {
    Source::Soulseek(Username::from(name))
}

fn come(scheduler: &mut Scheduler, source: Source) {
    scheduler.came(source, SourceMetrics::default(), Reputation::default());
}

fn with(pieces: usize, sources: u8) -> Scheduler {
    let mut scheduler = Scheduler::new(pieces as u64 * LEN, vec![false; pieces], SwarmSettings::default());
    (1..=sources).for_each(|n| come(&mut scheduler, peer(n)));
    scheduler
}

fn all(scheduler: &mut Scheduler, now: Duration) -> Vec<Assignment> {
    scheduler.tick(now);
    std::iter::from_fn(|| scheduler.next(now)).collect()
}

/// All pieces of a run come at once.
fn done(scheduler: &mut Scheduler, run: &Assignment, now: Duration) {
    run.pieces.clone().for_each(|piece| _ = scheduler.piece(run.run, piece, true, now));
    scheduler.ended(run.run, Ended::Whole, now);
}

/// A source that delivers a piece each `ms`, from its probe on until it has delivered so many.
fn warm(scheduler: &mut Scheduler, ms: u64, pieces: usize, from: u64) -> u64 {
    let (mut now, mut open) = (from, Vec::new());
    for _ in 0..pieces {
        open.extend(all(scheduler, at(now)));
        now += ms;
        let run: Assignment = open.remove(0);
        let first = run.pieces.start;
        assert!(scheduler.piece(run.run, first, true, at(now)));
        if run.pieces.len() > 1 {
            open.insert(0, Assignment { pieces: first + 1..run.pieces.end, ..run });
        } else {
            scheduler.ended(run.run, Ended::Whole, at(now));
        }
    }
    now
}

#[test]
fn a_newcomer_is_asked_for_one_piece_and_then_for_more() {
    let mut scheduler = with(1_000, 2);
    let probes = all(&mut scheduler, at(0));
    assert_eq!(probes.iter().map(|run| run.pieces.clone()).collect::<Vec<_>>(), [0..1, 1..2]);
    done(&mut scheduler, &probes[0], at(20));
    let more = all(&mut scheduler, at(20));
    assert!(more.iter().all(|run| run.source == peer(1)), "the other has not shown anything yet");
    assert_eq!(more.iter().map(|run| run.pieces.len()).sum::<usize>(), 3);
}

#[test]
fn runs_are_a_quarter_of_a_second_and_enough_is_under_way() {
    for (ms, run) in [(4, 8), (65, 3), (130, 1)] {
        let mut scheduler = with(2_000, 1);
        let now = warm(&mut scheduler, ms, 200, 0);
        let owed: usize = scheduler.runs.values().map(|run| run.pieces.len() - run.got).sum();
        assert!(owed as u64 * ms <= 400 + 2 * ms && (owed >= 1), "{ms} ms: {owed} pieces");
        let longest = scheduler.runs.values().map(|run| run.pieces.len()).max();
        assert_eq!(longest, Some(run), "{ms} ms at {now}");
    }
}

#[test]
fn what_is_there_is_not_asked_for() {
    let mut there = vec![true; 20];
    (there[3], there[4], there[19]) = (false, false, false);
    let mut scheduler = Scheduler::new(20 * LEN - 5, there, SwarmSettings::default());
    come(&mut scheduler, peer(1));
    let mut asked = Vec::new();
    for n in 0..10 {
        for run in all(&mut scheduler, at(n)) {
            asked.push(run.pieces.clone());
            done(&mut scheduler, &run, at(n));
        }
    }
    assert_eq!((asked.iter().flat_map(Clone::clone).collect::<Vec<_>>(), scheduler.left()), (vec![3, 4, 19], 0));
    assert_eq!(scheduler.deadline(at(20)), None);
}

#[test]
fn a_bad_piece_is_asked_of_another_at_once_and_three_are_too_many() {
    let mut scheduler = with(100, 2);
    let probes = all(&mut scheduler, at(0));
    done(&mut scheduler, &probes[1], at(10));
    let mut run = probes[0].clone();
    for bad in 1..=BAD_MAX {
        assert!(!scheduler.piece(run.run, run.pieces.start, false, at(10)));
        scheduler.ended(run.run, Ended::Corrupt, at(10));
        let asked = all(&mut scheduler, at(10));
        assert!(asked.iter().any(|other| other.source == peer(2) && other.pieces.contains(&run.pieces.start)));
        let next = asked.iter().find(|other| other.source == peer(1)).cloned();
        assert_eq!(next.is_some(), bad < BAD_MAX, "{bad}");
        match next {
            Some(next) => run = next,
            None => break,
        }
        for other in asked.iter().filter(|other| other.source == peer(2)) {
            done(&mut scheduler, other, at(10));
        }
    }
    assert_eq!(scheduler.here(), 1);
    come(&mut scheduler, peer(1));
    assert!(all(&mut scheduler, at(100_000)).iter().all(|run| run.source == peer(2)), "coming back does not help");
    let dropped = |event: &TraceKind| matches!(event, TraceKind::PeerDisconnected(source, _) if *source == peer(1));
    assert_eq!(scheduler.take_events().iter().filter(|event| dropped(event)).count(), 1);
}

#[test]
fn a_lease_ends_and_its_pieces_are_asked_of_others() {
    let mut scheduler = with(64, 2);
    let probes = all(&mut scheduler, at(0));
    assert_eq!(probes[0].until, LEASE_MAX);
    done(&mut scheduler, &probes[0], at(5));
    scheduler.take_events();
    scheduler.tick(at(9_999));
    assert_eq!(scheduler.take_cancels(), []);
    scheduler.tick(LEASE_MAX);
    assert_eq!(scheduler.take_cancels(), [(probes[1].run, CancelReason::Timeout)]);
    let site = &scheduler.sources[&peer(2)];
    assert_eq!(
        (site.record.metrics().timed_out, site.record.deeds().timed_out, site.record.deeds().failed),
        (1, 1.0, 0.0)
    );
    let asked = all(&mut scheduler, LEASE_MAX);
    assert_eq!((asked[0].source.clone(), asked[0].pieces.clone(), asked[0].priority), (peer(1), 1..2, Priority::Retry));
    scheduler.ended(probes[1].run, Ended::Cancelled, LEASE_MAX);
    assert_eq!(scheduler.sources[&peer(2)].record.metrics().failed, 0, "it is counted once");
}

#[test]
fn the_last_pieces_are_asked_for_twice_and_the_first_wins() {
    let mut scheduler = with(200, 2);
    let mut open = all(&mut scheduler, at(0));
    let silent = open.pop().unwrap();
    let mut now = 0;
    while scheduler.left() > 1 {
        now += 20;
        let run = open.remove(0);
        assert_eq!(run.source, peer(1));
        done(&mut scheduler, &run, at(now));
        open.extend(all(&mut scheduler, at(now)));
    }
    now += 100;
    open.extend(all(&mut scheduler, at(now)));
    let again = open.pop().unwrap();
    assert_eq!((again.source.clone(), again.pieces.clone()), (peer(1), silent.pieces.clone()));
    done(&mut scheduler, &again, at(now + 20));
    assert_eq!((scheduler.left(), scheduler.twice()), (0, 0));
    assert_eq!(scheduler.take_cancels(), [(silent.run, CancelReason::Complete)]);
    assert!(!scheduler.piece(silent.run, silent.pieces.start, true, at(now + 30)));
    assert_eq!(scheduler.twice(), 1, "it came after all");
}

#[test]
fn a_source_that_fails_rests_longer_each_time() {
    let mut scheduler = with(64, 1);
    let mut now = at(0);
    for rest in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
        for run in all(&mut scheduler, now) {
            scheduler.ended(run.run, Ended::Failed, now);
        }
        assert_eq!(all(&mut scheduler, now + at(rest - 1)), []);
        assert_eq!(scheduler.deadline(now), Some(now + at(rest)));
        now += at(rest);
    }
    let run = all(&mut scheduler, now).remove(0);
    done(&mut scheduler, &run, now);
    for run in all(&mut scheduler, now) {
        scheduler.ended(run.run, Ended::Failed, now);
    }
    assert!(!all(&mut scheduler, now + at(1_000)).is_empty(), "one good run makes it young again");
}

#[test]
fn whoever_has_it_no_more_is_gone_until_it_comes_again() {
    let mut scheduler = with(64, 1);
    let probe = all(&mut scheduler, at(0)).remove(0);
    done(&mut scheduler, &probe, at(20));
    let runs = all(&mut scheduler, at(20));
    assert!(runs.len() > 1);
    scheduler.ended(runs[0].run, Ended::Gone, at(30));
    let others: Vec<_> = runs[1..].iter().map(|run| (run.run, CancelReason::Error)).collect();
    assert_eq!(scheduler.take_cancels(), others, "what it was asked for besides is taken back");
    for run in &runs[1..] {
        scheduler.ended(run.run, Ended::Gone, at(31));
    }
    assert_eq!((all(&mut scheduler, at(1_000_000)), scheduler.here(), scheduler.has(&peer(1))), (vec![], 0, false));
    let site = &scheduler.sources[&peer(1)];
    assert_eq!((site.share.dropped, site.record.deeds().failed), (false, 0.0), "it is no fault");
    come(&mut scheduler, peer(1));
    assert!(scheduler.has(&peer(1)) && !all(&mut scheduler, at(1_000_001)).is_empty());
}

#[test]
fn whoever_is_dropped_is_no_source_any_more() {
    let mut scheduler = with(64, 2);
    for bad in 0..BAD_MAX {
        assert!(scheduler.has(&peer(1)), "{bad}");
        let now = at(u64::from(bad) * 100);
        let run = all(&mut scheduler, now).into_iter().find(|run| run.source == peer(1)).unwrap();
        scheduler.piece(run.run, run.pieces.start, false, now);
        scheduler.ended(run.run, Ended::Corrupt, now);
    }
    assert!(!scheduler.has(&peer(1)) && scheduler.has(&peer(2)));
    assert_eq!(scheduler.here(), 1, "it is connected still, and does not count");
    come(&mut scheduler, peer(1));
    assert!(!scheduler.has(&peer(1)));
}

#[test]
fn our_own_speed_limit_makes_nobody_late() {
    // Runs of 512 KiB at 20 KB/s, which is what the owner allows: some 26 s each.
    let late = |limited: bool| {
        let mut scheduler = with(1_000, 2);
        let mut now = warm(&mut scheduler, 8, 100, 0);
        let run = all(&mut scheduler, at(now)).into_iter().find(|run| run.source == peer(1));
        let run = run.or_else(|| {
            let (id, run) = scheduler.runs.iter().find(|(_, run)| run.source == peer(1))?;
            Some(Assignment {
                run: *id,
                source: peer(1),
                pieces: run.pieces.clone(),
                until: run.until,
                priority: Priority::Normal,
            })
        });
        let run = run.unwrap();
        let before = scheduler.sources[&peer(1)].record.metrics().sample_count;
        for step in 0..100 {
            now += 250;
            if limited {
                scheduler.limited(at(now));
            }
            scheduler.alive(run.run, at(now));
            if step % 13 == 12 && scheduler.source(run.run).is_some() {
                scheduler.piece(run.run, run.pieces.start + step / 13, true, at(now));
            }
            scheduler.tick(at(now));
        }
        let site = &scheduler.sources[&peer(1)];
        let told = site.record.metrics().sample_count > before;
        let late = site.record.metrics().timed_out;
        if limited {
            // One that sends nothing at all is late all the same.
            for _ in 0..130 {
                now += 250;
                scheduler.limited(at(now));
                scheduler.tick(at(now));
            }
            assert!(scheduler.sources[&peer(1)].record.metrics().timed_out > 0);
        }
        (late > 0, told)
    };
    assert_eq!((late(false), late(true)), ((true, true), (false, false)));
}

#[test]
fn a_bad_piece_does_not_end_the_run_of_a_user() {
    let mut scheduler = Scheduler::new(20 * LEN, vec![false; 20], SwarmSettings::default());
    come(&mut scheduler, user("a"));
    let run = all(&mut scheduler, at(0)).remove(0);
    (0..3).for_each(|piece| _ = scheduler.piece(run.run, piece, true, at(10)));
    scheduler.piece(run.run, 3, false, at(20));
    // The run is behind the bad piece: what the mesh brings there ends it, and what it mends does not.
    come(&mut scheduler, peer(1));
    let mended = all(&mut scheduler, at(30)).into_iter().find(|run| run.source == peer(1)).unwrap();
    assert_eq!(mended.pieces, 3..4);
    done(&mut scheduler, &mended, at(40));
    assert_eq!(scheduler.take_cancels(), [], "it goes on");
    assert!(scheduler.piece(run.run, 4, true, at(50)));
    scheduler.verified[6] = true;
    scheduler.left -= 1;
    assert!(scheduler.piece(run.run, 5, true, at(60)));
    assert_eq!(scheduler.take_cancels(), [(run.run, CancelReason::Complete)], "here it meets what is there");
}

#[test]
fn a_user_who_refuses_offsets_is_asked_for_the_beginning_or_not_at_all() {
    let fresh = |there: &[usize]| {
        let mut verified = vec![false; 20];
        for piece in there {
            verified[*piece] = true;
        }
        let mut scheduler = Scheduler::new(20 * LEN, verified, SwarmSettings::default());
        come(&mut scheduler, user("a"));
        scheduler.sends_whole_only(&user("a"));
        scheduler
    };
    assert_eq!(all(&mut fresh(&[0]), at(0)), []);
    let mut scheduler = fresh(&[5]);
    come(&mut scheduler, peer(1));
    // The first piece is asked of a peer already.
    scheduler.asked[0] = 1;
    assert_eq!(all(&mut scheduler, at(0)).remove(0).pieces, 0..20);
}

#[test]
fn what_others_would_finish_sooner_is_not_given_to_a_slow_source() {
    // 8 MB/s and 0.05 MB/s: at the end the slow one gets nothing that would keep the file waiting.
    for (pieces, time) in [(600, true), (200, false)] {
        let mut scheduler = with(pieces, 1);
        let now = warm(&mut scheduler, 8, 100, 0);
        come(&mut scheduler, peer(2));
        let slow = scheduler.sources.get_mut(&peer(2)).unwrap();
        slow.flow.first_byte(at(0), at(1));
        assert!(slow.flow.came(65_536.0, at(1_301)).is_some());
        slow.flow.idle();
        let asked = all(&mut scheduler, at(now));
        assert_eq!(asked.iter().any(|run| run.source == peer(2)), time, "{pieces}: {asked:?}");
    }
}

#[test]
fn slow_sources_lose_what_they_have_not_begun() {
    let mut scheduler = with(4_000, 1);
    let now = warm(&mut scheduler, 20, 240, 0);
    scheduler.take_events();
    come(&mut scheduler, peer(2));
    let last = scheduler.sources[&peer(1)].runs.clone();
    let waiting = last.iter().filter(|run| !scheduler.runs[*run].begun).count() as u64;
    assert!(waiting > 0);
    // Its line becomes slow: its measured throughput falls while runs wait.
    let site = scheduler.sources.get_mut(&peer(1)).unwrap();
    (0..10).for_each(|_| site.record.throughput(100_000.0));
    scheduler.tick(at(now + 210));
    let events = scheduler.take_events();
    let told = events.iter().find_map(|event| match event {
        TraceKind::SwarmRebalanced { cost_then, cost_now, runs, .. } => Some((*cost_now > 2.0 * cost_then, *runs)),
        _ => None,
    });
    assert_eq!(told, Some((true, waiting)), "what is coming stays: {events:?}");
    let reasons: Vec<_> = scheduler.take_cancels().into_iter().map(|(_, reason)| reason).collect();
    assert!(reasons.iter().all(|reason| *reason == CancelReason::SwarmRebalanced));
    scheduler.tick(at(now + 4_000));
    assert_eq!(scheduler.take_cancels(), [], "never twice within five seconds");
}

#[test]
fn the_last_pieces_go_by_priority() {
    let mut scheduler = with(1_000, 1);
    scheduler.prioritise(500..503, Priority::NearPlaybackHead);
    scheduler.prioritise(700..701, Priority::UserRequested);
    scheduler.prioritise(700..5_000, Priority::RescueMode);
    scheduler.prioritise(701..5_000, Priority::Normal);
    let mut asked = Vec::new();
    let mut open = Vec::new();
    for n in 0..3 {
        open.extend(all(&mut scheduler, at(n)));
        let run = open.remove(0);
        asked.push((run.pieces.start, run.priority));
        done(&mut scheduler, &run, at(n));
    }
    assert_eq!(asked[0], (700, Priority::RescueMode));
    assert_eq!(asked[1], (500, Priority::NearPlaybackHead));
}

#[test]
fn one_user_streams_and_the_mesh_takes_the_far_end() {
    let mut scheduler = Scheduler::new(100 * LEN, vec![false; 100], SwarmSettings::default());
    come(&mut scheduler, user("a"));
    come(&mut scheduler, user("b"));
    come(&mut scheduler, peer(1));
    let asked = all(&mut scheduler, at(0));
    assert_eq!(
        asked.iter().map(|run| (run.source.clone(), run.pieces.clone())).collect::<Vec<_>>(),
        [(user("a"), 0..100), (peer(1), 99..100)]
    );
    let stream = asked[0].clone();
    done(&mut scheduler, &asked[1], at(10));
    assert!(all(&mut scheduler, at(10)).iter().all(|run| run.source == peer(1) && run.pieces.end <= 99));
    // The rest but for the first twenty comes from the mesh.
    let mut now = 10;
    while scheduler.verified().iter().filter(|there| **there).count() < 80 {
        now += 1;
        let runs: Vec<(RunId, Range<usize>)> = scheduler
            .runs
            .iter()
            .filter(|(id, run)| **id != stream.run && !run.over)
            .map(|(id, run)| (*id, run.pieces.clone()))
            .collect();
        for (run, pieces) in runs {
            pieces.for_each(|piece| _ = scheduler.piece(run, piece, true, at(now)));
            scheduler.ended(run, Ended::Whole, at(now));
        }
        all(&mut scheduler, at(now));
    }
    assert!(!scheduler.verified()[0], "the mesh begins at the other end");
    scheduler.take_cancels();
    let end = scheduler.verified().iter().position(|there| *there).unwrap();
    (0..end).for_each(|piece| _ = scheduler.piece(stream.run, piece, true, at(now + 100)));
    let ends: Vec<_> = scheduler.take_cancels().into_iter().filter(|(run, _)| *run == stream.run).collect();
    assert_eq!(ends, [(stream.run, CancelReason::Complete)]);
    scheduler.ended(stream.run, Ended::Cancelled, at(now + 101));
    assert!(all(&mut scheduler, at(now + 200)).iter().all(|run| run.source == peer(1)), "no user is asked again");
}

#[test]
fn a_user_who_falls_silent_is_left_for_another() {
    let stream = |scheduler: &mut Scheduler| {
        come(scheduler, user("a"));
        let run = all(scheduler, at(0)).remove(0);
        (0..10).for_each(|piece| _ = scheduler.piece(run.run, piece, true, at(100 * (piece as u64 + 1))));
        run
    };
    let fresh = || Scheduler::new(100 * LEN, vec![false; 100], SwarmSettings::default());
    let mut scheduler = fresh();
    let run = stream(&mut scheduler);
    scheduler.alive(run.run, at(5_000));
    scheduler.tick(at(34_999));
    assert_eq!(scheduler.take_cancels(), []);
    scheduler.tick(at(35_000));
    assert_eq!(scheduler.take_cancels(), [(run.run, CancelReason::Timeout)]);
    // With another at hand a slow one is not waited for.
    let mut scheduler = fresh();
    let run = stream(&mut scheduler);
    come(&mut scheduler, user("b"));
    scheduler.tick(at(13_000));
    assert_eq!(scheduler.take_cancels(), []);
    let next = all(&mut scheduler, at(16_000));
    assert_eq!(scheduler.take_cancels(), [(run.run, CancelReason::Timeout)]);
    assert_eq!((next[0].source.clone(), next[0].pieces.clone()), (user("b"), 10..100));
}

#[test]
fn what_is_known_comes_along_and_is_given_back() {
    let mut scheduler = Scheduler::new(64 * LEN, vec![false; 64], SwarmSettings::default());
    let good = Reputation { successful: 20.0, ..Reputation::default() };
    scheduler.came(peer(1), SourceMetrics { completed: 5, requested: 5, ..SourceMetrics::default() }, good);
    let asked = all(&mut scheduler, at(0));
    assert!(asked.len() > 1, "whoever was good before needs no probe");
    done(&mut scheduler, &asked[0], at(300));
    let records = scheduler.records();
    assert_eq!((records[0].1.completed, records[0].2.successful), (1, 1.0), "told without what was known");
    assert_eq!(records[0].1.requested, asked.len() as u64);
    assert_eq!(scheduler.sources[&peer(1)].record.metrics().completed, 6);
    assert!(scheduler.records().is_empty(), "and once");
    let worth = scheduler.worth(&peer(1), at(300)).unwrap();
    assert!((worth.reputation - 26.0 / 31.0).abs() < 1e-9);
}

#[test]
fn a_rescue_asks_from_the_end_and_takes_what_is_given() {
    let mut scheduler = with(100, 1);
    scheduler.rescue();
    let probe = all(&mut scheduler, at(0)).remove(0);
    assert_eq!((probe.pieces.clone(), probe.priority), (99..100, Priority::RescueMode));
    assert!((0..99).all(|piece| scheduler.given(piece)));
    assert_eq!((scheduler.left(), scheduler.given(5), scheduler.given(100)), (1, false, false));
    assert!(all(&mut scheduler, at(1)).is_empty(), "only the last piece is missing, and it is asked for");
    assert!(scheduler.given(99), "the user was there first");
    assert_eq!(scheduler.take_cancels(), [(probe.run, CancelReason::Complete)]);
    assert_eq!((scheduler.left(), scheduler.verified().iter().all(|there| *there)), (0, true));
}

#[test]
fn while_the_mesh_is_not_to_be_asked_a_user_is_though_the_mesh_met_its_run() {
    let mut scheduler = with(20, 1);
    come(&mut scheduler, user("a"));
    let stream = scheduler.next_stream(at(0)).unwrap();
    assert_eq!((stream.source.clone(), stream.pieces.clone()), (user("a"), 0..20));
    assert!(scheduler.next_stream(at(0)).is_none(), "one user at a time");
    // What lies ahead of it is there.
    assert!(scheduler.given(5) && (0..5).all(|piece| scheduler.piece(stream.run, piece, true, at(10))));
    assert_eq!(scheduler.take_cancels(), [(stream.run, CancelReason::Complete)]);
    scheduler.ended(stream.run, Ended::Cancelled, at(11));
    assert_eq!(scheduler.next_stream(at(11)).unwrap().pieces, 6..20);
}
