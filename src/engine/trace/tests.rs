//! Sums, summaries, lines, and what a Soulseek download tells.

use std::time::Duration;

use super::transfer::{About, Attempt};
use super::*;
use crate::engine::soulseek::io::{FileEvent, ReceiveEnd};
use crate::model::id::{ContentHash, PeerId, TransferId};
use crate::model::limits::{TRACE_CELLS, TRACE_SOURCES};
use crate::model::swarm::{CancelReason, Priority, Source};
use crate::model::time::UnixMs;
use crate::model::trace::{ChunkResult, Tally, TraceEvent, TraceHead, TraceKind};
use crate::model::transfer::{Direction, Ending, Transfer, TransferState};
use crate::model::units::MIB;

const PIECE: u64 = 65_536;

fn peer(n: u8) -> Source {
    Source::Mesh(PeerId([n; 32]))
}

fn start(size: u64, there: u64) -> TraceKind {
    TraceKind::JobStart { content: Some(ContentHash([1; 32])), size, there }
}

fn asked(run: u64, source: Source, priority: Priority) -> TraceKind {
    TraceKind::ChunkRequested {
        run,
        source,
        offset: run * PIECE,
        length: PIECE,
        priority,
        cost: Some(1.5),
        endgame: false,
    }
}

fn ended(run: u64, source: Source, bytes: u64, result: ChunkResult) -> TraceKind {
    let rtt_us = (result == ChunkResult::Ok).then_some(2_000);
    TraceKind::ChunkEnded { run, source, offset: run * PIECE, bytes, result, rtt_us, took_us: 5_000 }
}

fn tally(lines: &[(u64, TraceKind)]) -> Tally {
    let mut tally = Tally::default();
    for (at, kind) in lines {
        add(&mut tally, *at, kind);
    }
    tally
}

#[test]
fn sums_say_who_brought_what_and_how_quickly() {
    let (ann, bob) = (peer(1), peer(2));
    let tally = tally(&[
        (0, start(10 * PIECE, PIECE)),
        (0, TraceKind::PeerConnected(ann.clone())),
        (0, TraceKind::PeerConnected(bob.clone())),
        (0, asked(0, ann.clone(), Priority::Normal)),
        (100_000, asked(1, ann.clone(), Priority::Normal)),
        (500_000, ended(0, ann.clone(), PIECE, ChunkResult::Ok)),
        (1_000_000, ended(1, ann.clone(), PIECE, ChunkResult::Ok)),
        // A second in which nothing is asked for counts for nobody's speed.
        (2_000_000, asked(2, ann.clone(), Priority::Normal)),
        (3_000_000, ended(2, ann.clone(), 0, ChunkResult::Timeout)),
        (3_000_000, asked(3, bob.clone(), Priority::Retry)),
        (3_100_000, TraceKind::BadPiece { source: bob.clone(), piece: 3 }),
        (3_100_000, ended(3, bob.clone(), 0, ChunkResult::Corruption)),
        (3_200_000, asked(4, bob.clone(), Priority::Normal)),
        (
            3_300_000,
            TraceKind::ChunkTakenBack {
                run: 4,
                source: bob.clone(),
                offset: 5 * PIECE,
                bytes: PIECE,
                reason: CancelReason::SwarmRebalanced,
            },
        ),
        (3_300_000, TraceKind::SwarmRebalanced { source: bob.clone(), cost_then: 1.0, cost_now: 3.0, runs: 1 }),
        (3_400_000, TraceKind::PeerDisconnected(bob, "dropped".into())),
        (4_000_000, TraceKind::Verified(true)),
        (4_000_000, TraceKind::JobComplete(None)),
    ]);
    let head = TraceHead { job: "j".into(), lines: 18, last_us: 4_000_000, tally, ..TraceHead::default() };
    let summary = summarize(&head, Vec::new());
    assert_eq!((summary.status.as_str(), summary.duration_ms, summary.verified), ("completed", 4_000, Some(true)));
    assert_eq!((summary.bytes, summary.there_bytes, summary.size_bytes), (3 * PIECE, PIECE, 10 * PIECE));
    assert_eq!((summary.overlay_bytes, summary.soulseek_bytes), (3 * PIECE, 0));
    let chunks = (summary.chunks_total, summary.chunks_ok, summary.chunks_failed, summary.chunks_cancelled);
    assert_eq!((chunks, summary.rebalances), ((5, 2, 2, 1), 1));
    let [ann, bob] = &summary.sources[..] else { panic!("{:?}", summary.sources) };
    assert_eq!((ann.bytes, ann.mean_speed_bps, ann.rtt_ms), (2 * PIECE, PIECE, Some(2.0)));
    assert_eq!((ann.timeouts, ann.errors, ann.retries), (1, 1, 0));
    assert_eq!((bob.corrupt, bob.errors, bob.bad_pieces, bob.retries, bob.cancelled), (1, 1, 1, 1, 1));
    assert_eq!((bob.connected, bob.gone.as_deref()), (false, Some("dropped")));
    assert!((ann.percent - 66.7).abs() < 0.1 && (bob.percent - 33.3).abs() < 0.1);
    let cells: Vec<_> = summary.cells.iter().map(|cell| (cell.percent, cell.source, cell.bad)).collect();
    assert_eq!(cells.len(), 10);
    assert_eq!(cells[..4], [(100, Some(0), false), (100, Some(0), false), (0, None, false), (0, None, true)]);
    assert_eq!(cells[4..7], [(0, None, false), (100, Some(1), false), (0, None, false)], "what came of it stays");
}

#[test]
fn a_job_that_goes_on_forgets_what_was_under_way() {
    let mut lines = vec![
        (0, start(4 * PIECE, 0)),
        (0, asked(0, peer(1), Priority::Normal)),
        (1_000_000, ended(0, peer(1), PIECE, ChunkResult::Ok)),
        (1_000_000, asked(1, peer(1), Priority::Normal)),
    ];
    lines.push((2_000_000, start(4 * PIECE, PIECE)));
    lines.push((2_000_000, TraceKind::PeerConnected(peer(1))));
    lines.push((2_000_000, asked(0, peer(1), Priority::Normal)));
    lines.push((3_000_000, ended(0, peer(1), PIECE, ChunkResult::Ok)));
    let tally = tally(&lines);
    assert_eq!((tally.starts, tally.there, tally.ended.clone()), (2, 0, None));
    let source = &tally.sources[0];
    assert_eq!((source.open, source.active_us, source.connected), (0, 3_000_000, true));
    assert_eq!(tally.cells.iter().map(|cell| cell.bytes).collect::<Vec<_>>(), [PIECE, 0, 0, 0]);
    assert_eq!(short(&TraceHead { tally, ..TraceHead::default() }).status, "running");
}

#[test]
fn sources_and_cells_are_bounded() {
    let mut tally = tally(&[(0, start(4 * 1024 * MIB, 0))]);
    assert_eq!(tally.cells.len(), TRACE_CELLS);
    for n in 0..=u8::MAX {
        add(&mut tally, 0, &ended(u64::from(n), peer(n), PIECE, ChunkResult::Ok));
    }
    assert_eq!(tally.sources.len(), TRACE_SOURCES + 1);
    let others = &short(&TraceHead { tally: tally.clone(), ..TraceHead::default() }).sources[TRACE_SOURCES];
    assert_eq!((others.peer_id.as_str(), others.bytes), ("others", (256 - TRACE_SOURCES as u64) * PIECE));
    // Nonsense changes no more than its own numbers.
    add(&mut tally, 0, &TraceKind::BadPiece { source: peer(1), piece: u64::MAX });
    let wild = TraceKind::ChunkEnded {
        run: 0,
        source: peer(1),
        offset: u64::MAX,
        bytes: u64::MAX,
        result: ChunkResult::Ok,
        rtt_us: Some(u64::MAX),
        took_us: u64::MAX,
    };
    add(&mut tally, 0, &wild);
    add(&mut tally, 0, &wild);
    assert_eq!(tally.sources[1].bytes, u64::MAX);
}

#[test]
fn every_byte_lies_in_one_cell() {
    for size in [1, PIECE - 1, PIECE, PIECE + 1, 300 * PIECE + 5, 4 * 1024 * MIB] {
        let whole = TraceKind::ChunkEnded {
            run: 0,
            source: peer(1),
            offset: 0,
            bytes: size,
            result: ChunkResult::Ok,
            rtt_us: None,
            took_us: 1,
        };
        let mut tally = tally(&[(0, start(size, 0)), (1, whole)]);
        assert_eq!(tally.cells.iter().map(|cell| cell.bytes).sum::<u64>(), size, "{size}");
        let head = TraceHead { tally: tally.clone(), ..TraceHead::default() };
        assert!(summarize(&head, Vec::new()).cells.iter().all(|cell| cell.percent == 100), "{size}");
        // Its last byte is in the last cell.
        let cells = tally.cells.len();
        add(&mut tally, 2, &TraceKind::BadPiece { source: peer(1), piece: (size - 1) / PIECE });
        assert!(tally.cells[cells - 1].bad && tally.cells.iter().filter(|cell| cell.bad).count() == 1, "{size}");
    }
}

#[test]
fn lines_have_the_words_of_the_traces() {
    let of = |kind| line(7, &TraceEvent { at_us: 1, kind });
    let came = of(ended(2, peer(1), PIECE, ChunkResult::Ok));
    assert_eq!(
        (came.kind.as_str(), came.result.as_deref(), came.source.as_deref()),
        ("ChunkReceived", Some("ok"), Some("overlay"))
    );
    assert_eq!((came.chunk_offset, came.chunk_length, came.rtt_ms), (Some(2 * PIECE), Some(PIECE), Some(2.0)));
    assert_eq!((came.throughput_bps, came.duration_ms, came.sequence), (Some(PIECE * 200), Some(5.0), 7));
    assert!(!came.is_error);
    let late = of(ended(2, peer(1), 0, ChunkResult::Timeout));
    assert_eq!((late.kind.as_str(), late.result.as_deref(), late.is_error), ("ChunkTimedOut", Some("timeout"), true));
    let user = Source::Soulseek("ann".into());
    let torn = of(ended(2, user, 0, ChunkResult::Corruption));
    assert_eq!(
        (torn.kind.as_str(), torn.source.as_deref(), torn.peer_id.as_deref()),
        ("ChunkFailed", Some("soulseek"), Some("ann"))
    );
    let asked = of(asked(1, peer(1), Priority::RescueMode));
    assert_eq!((asked.priority, asked.cost), (Some(9), Some(1.5)));
    assert!(of(TraceKind::JobComplete(Some("no room".into()))).is_error);
    let plain = [ended(0, peer(1), 1, ChunkResult::Ok), super::tests::asked(0, peer(1), Priority::Normal)];
    assert!(plain.iter().all(|kind| !is_key(kind)));
    let telling = [start(1, 0), TraceKind::Note(String::new()), ended(0, peer(1), 1, ChunkResult::Error)];
    assert!(telling.iter().all(is_key));
}

fn record(state: TransferState) -> Transfer {
    Transfer {
        id: TransferId(1),
        direction: Direction::Download,
        user: "ann".into(),
        path: "Music\\song.flac".into(),
        size: 20 * MIB,
        state,
        requested_at: UnixMs(1_000),
        enqueued_at: Some(UnixMs(3_000)),
        started_at: None,
        ended_at: None,
        start_offset: 0,
        bytes_done: 0,
        average_speed: 0,
        place_in_queue: None,
        reason: None,
        attempts: 1,
        next_attempt_at: None,
        removed: false,
        batch: None,
        destination: None,
        local_path: None,
        partial: None,
        rung: None,
        tried: Vec::new(),
    }
}

#[test]
fn a_soulseek_download_is_told_in_steps() {
    let about = About::of(&record(TransferState::Initializing));
    assert_eq!((about.title.as_str(), about.requested_at), ("song.flac", UnixMs(1_000)));
    let (begins, queued_at, discovered) = about.begins();
    let user = Source::Soulseek("ann".into());
    assert_eq!(begins, TraceKind::JobStart { content: None, size: 20 * MIB, there: 0 });
    assert_eq!((queued_at, discovered), (Some(UnixMs(3_000)), TraceKind::PeerDiscovered(user.clone())));
    let at = Duration::from_secs;
    let (mut attempt, mut out) = (Attempt::new(&about, at(1)), Vec::new());
    attempt.on_event(&FileEvent::Started { offset: 0 }, at(2), &mut out);
    for (second, mib) in [(3, 3), (4, 6), (5, 9), (6, 12), (7, 19)] {
        attempt.on_event(&FileEvent::Progress { position: mib * MIB }, at(second), &mut out);
    }
    attempt.on_event(&FileEvent::Synced { synced: 8, boot: 1 }, at(7), &mut out);
    attempt.on_event(&FileEvent::Received(ReceiveEnd::Complete), at(8), &mut out);
    assert!(!attempt.on_record(&record(TransferState::InProgress), &mut out), "it is not in its place yet");
    assert!(attempt.on_record(&record(TransferState::Completed(Ending::Succeeded)), &mut out));
    let step = |run, offset, bytes, seconds: u64| TraceKind::ChunkEnded {
        run,
        source: user.clone(),
        offset: offset * MIB,
        bytes: bytes * MIB,
        result: ChunkResult::Ok,
        rtt_us: None,
        took_us: seconds * 1_000_000,
    };
    let all = [
        TraceKind::PeerConnected(user.clone()),
        step(0, 0, 9, 3),
        step(1, 9, 10, 2),
        step(2, 19, 1, 1),
        TraceKind::PeerDisconnected(user.clone(), "everything came".into()),
        TraceKind::JobComplete(None),
    ];
    assert_eq!(out, all);
}

#[test]
fn a_soulseek_download_that_breaks_off_says_why() {
    let about = About::of(&record(TransferState::Initializing));
    let (mut attempt, mut out) = (Attempt::new(&about, Duration::ZERO), Vec::new());
    attempt.on_event(&FileEvent::Started { offset: 0 }, Duration::ZERO, &mut out);
    attempt.on_event(&FileEvent::Received(ReceiveEnd::Closed { position: 5 }), Duration::from_secs(1), &mut out);
    let queued = record(TransferState::QueuedLocally);
    assert!(attempt.on_record(&queued, &mut out), "the next attempt has its own first lines");
    assert!(matches!(&out[1], TraceKind::ChunkEnded { bytes: 5, result: ChunkResult::Error, .. }), "{out:?}");
    assert!(matches!(&out[2], TraceKind::PeerDisconnected(_, why) if why.contains("closed")), "{out:?}");

    let (mut attempt, mut out) = (Attempt::new(&about, Duration::ZERO), Vec::new());
    let mut failed = record(TransferState::Completed(Ending::Errored));
    failed.reason = Some("no room".into());
    assert!(attempt.on_record(&failed, &mut out));
    assert_eq!(out, [TraceKind::JobComplete(Some("no room".into()))]);
    failed.reason = None;
    out.clear();
    attempt.on_record(&failed, &mut out);
    assert_eq!(out, [TraceKind::JobComplete(Some("Completed, Errored".into()))]);
}
