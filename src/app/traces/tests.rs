//! Lines through the writer into a store and back; each of the four limits.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::model::id::{ContentHash, PeerId};
use crate::model::swarm::Priority;
use crate::store::StoreOptions;

fn settings() -> SwarmEvents {
    SwarmEvents {
        enabled: true,
        retention_days: 30,
        max_events_per_job: 10_000,
        retention_jobs: 100,
        log_to_file: false,
    }
}

fn open(folder: &Path) -> Store {
    Store::open(&folder.join("store"), StoreOptions::default()).unwrap()
}

fn start(store: &Store, folder: &Path, settings: SwarmEvents) -> Traces {
    Traces::start(store.clone(), Clock::start(), settings, folder.join("traces"))
}

fn peer(n: u8) -> Source {
    Source::Mesh(PeerId([n; 32]))
}

fn begins(there: u64) -> TraceKind {
    TraceKind::JobStart { content: Some(ContentHash([7; 32])), size: 1_000_000, there }
}

fn asked(run: u64, source: Source) -> TraceKind {
    let (offset, length) = (run * 65_536, 65_536);
    TraceKind::ChunkRequested { run, source, offset, length, priority: Priority::Normal, cost: None, endgame: false }
}

fn came(run: u64, source: Source) -> TraceKind {
    TraceKind::ChunkEnded {
        run,
        source,
        offset: run * 65_536,
        bytes: 65_536,
        result: ChunkResult::Ok,
        rtt_us: Some(2_000),
        took_us: 10_000,
    }
}

#[tokio::test]
async fn a_job_is_written_read_and_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let traces = start(&store, folder.path(), settings());
    let job = traces.begin("j".into(), "a song".into());
    job.record(begins(0));
    job.record(TraceKind::PeerConnected(peer(1)));
    job.record(asked(0, peer(1)));
    job.record(came(0, peer(1)));
    traces.stop().await;
    // After the end nothing is written, and nothing waits.
    job.record(TraceKind::Note("too late".into()));
    traces.settle().await;

    let traces = start(&store, folder.path(), settings());
    let job = traces.begin("j".into(), "another title".into());
    job.record(begins(65_536));
    job.record(came(1, peer(2)));
    job.record(TraceKind::JobComplete(None));
    traces.settle().await;
    let view = look::job(&store, "j", 0, 100).unwrap().unwrap();
    let kinds: Vec<_> = view.events.iter().map(|event| event.kind.as_str()).collect();
    let all =
        ["JobStart", "PeerConnected", "ChunkRequested", "ChunkReceived", "JobStart", "ChunkReceived", "JobComplete"];
    assert_eq!(kinds, all);
    assert_eq!(view.events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
    assert!(view.events.is_sorted_by_key(|event| event.at_us));
    let summary = &view.summary;
    assert_eq!((summary.title.as_str(), summary.status.as_str(), summary.starts), ("a song", "completed", 2));
    assert_eq!((summary.bytes, summary.there_bytes, summary.chunks_ok), (131_072, 0, 2));
    assert_eq!(summary.sources.len(), 2);
    let page = look::job(&store, "j", 5, 1).unwrap().unwrap();
    assert_eq!(page.events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [5]);
    assert!(look::job(&store, "k", 0, 1).unwrap().is_none());

    // One that was completed begins anew.
    let job = traces.begin("j".into(), "again".into());
    job.record(begins(0));
    traces.settle().await;
    let view = look::job(&store, "j", 0, 100).unwrap().unwrap();
    assert_eq!((view.summary.title.as_str(), view.summary.status.as_str(), view.events.len()), ("again", "running", 1));
    let counts = traces.counts();
    assert_eq!(counts.chunks.iter().map(|(_, _, runs)| runs).sum::<u64>(), 1);
    assert!(counts.chunks.contains(&("overlay", "ok", 1)), "{counts:?}");
    assert_eq!(counts.lost, 0);
}

#[tokio::test]
async fn more_lines_than_a_job_may_have_are_counted_and_the_sums_stay_exact() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let traces = start(&store, folder.path(), SwarmEvents { max_events_per_job: 20, ..settings() });
    let job = traces.begin("j".into(), String::new());
    job.record(begins(0));
    for run in 0..15 {
        job.record(asked(run, peer(1)));
        job.record(came(run, peer(1)));
    }
    job.record(TraceKind::JobComplete(None));
    traces.settle().await;
    let view = look::job(&store, "j", 0, 100).unwrap().unwrap();
    assert_eq!((view.summary.events, view.events.len(), view.summary.events_left_out), (20, 20, 12));
    assert_eq!(view.events.last().unwrap().kind, "JobComplete");
    assert_eq!((view.summary.chunks_ok, view.summary.bytes), (15, 15 * 65_536));
}

#[tokio::test]
async fn more_bytes_than_a_job_may_have_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let traces = start(&store, folder.path(), SwarmEvents { max_events_per_job: 1_000_000, ..settings() });
    let job = traces.begin("j".into(), String::new());
    let text = "x".repeat(limits::TRACE_TEXT_LEN);
    let lines = limits::TRACE_BYTES / limits::TRACE_TEXT_LEN as u64;
    for n in 0..lines {
        job.record(TraceKind::Note(text.clone()));
        if n % 100 == 0 {
            traces.settle().await;
        }
    }
    traces.settle().await;
    let head = store.trace_head("j").unwrap().unwrap();
    assert!(head.bytes <= limits::TRACE_BYTES && head.bytes + 300 > limits::TRACE_BYTES, "{} bytes", head.bytes);
    assert_eq!(head.lines + head.left_out, lines);
    assert!(head.left_out > 0);
}

#[tokio::test]
async fn the_jobs_that_were_written_to_last_are_kept_with_their_logs() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let traces = start(
        &store,
        folder.path(),
        SwarmEvents { retention_jobs: 3, retention_days: 100_000, log_to_file: true, ..settings() },
    );
    for n in 0..12 {
        let job = traces.begin_since(format!("j{n}"), String::new(), Some(UnixMs(1_000_000_000_000)));
        for at in 0..3 {
            job.record_at(UnixMs(1_700_000_000_000 + n * 1_000), TraceKind::Note(format!("line {at}")));
        }
        traces.settle().await;
    }
    traces.settle().await;
    let kept: Vec<_> = look::jobs(&store).unwrap().into_iter().map(|job| job.job_id).collect();
    assert_eq!(kept, ["j11", "j10", "j9"]);
    let mut logs: Vec<_> =
        std::fs::read_dir(folder.path().join("traces")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    logs.sort();
    assert_eq!(logs, ["j10.log", "j11.log", "j9.log"]);
    let log = std::fs::read_to_string(folder.path().join("traces/j9.log")).unwrap();
    assert_eq!(log.lines().count(), 3);
    assert!(log.lines().next().unwrap().ends_with(" Note - line 0"), "{log}");
    let sizes = store.stats().unwrap().tables;
    assert!(sizes.contains(&("trace-jobs", 3)) && sizes.contains(&("traces", 9)), "{sizes:?}");
}

#[tokio::test]
async fn jobs_of_long_ago_are_forgotten_at_the_start_and_every_day() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let traces = start(&store, folder.path(), settings());
    let now = Clock::start().now().wall;
    let days = |n: u64| UnixMs(now.0 - n * 24 * 3_600_000);
    for (job, age) in [("old", 31), ("new", 29)] {
        let trace = traces.begin_since(job.into(), String::new(), Some(days(40)));
        // More lines than one commit removes.
        for line in 0..1_200 {
            trace.record_at(days(age), TraceKind::Note("then".into()));
            if line % 100 == 0 {
                traces.settle().await;
            }
        }
    }
    traces.stop().await;
    assert_eq!(look::jobs(&store).unwrap().len(), 2);

    let traces = start(&store, folder.path(), settings());
    // Time stands still until everybody waits, so whatever is due has begun when a sleep is over; settling waits for it.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(1)).await;
    traces.settle().await;
    let kept = || look::jobs(&store).unwrap().into_iter().map(|job| job.job_id).collect::<Vec<_>>();
    assert_eq!(kept(), ["new"]);
    assert!(store.trace_lines("old", 0, 1, |_| true).unwrap().is_empty());
    // The next look is a day later.
    let trace = traces.begin_since("older".into(), String::new(), Some(days(50)));
    trace.record_at(days(45), TraceKind::Note("then".into()));
    tokio::time::sleep(Duration::from_secs(23 * 3_600)).await;
    traces.settle().await;
    assert_eq!(kept(), ["new", "older"]);
    tokio::time::sleep(Duration::from_secs(2 * 3_600)).await;
    traces.settle().await;
    assert_eq!(kept(), ["new"]);
}

#[tokio::test]
async fn an_owner_who_wants_no_traces_gets_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let traces = start(&store, folder.path(), SwarmEvents { enabled: false, ..settings() });
    traces.begin("j".into(), String::new()).record(begins(0));
    traces.settle().await;
    assert!(look::jobs(&store).unwrap().is_empty());
}

#[tokio::test]
async fn a_line_without_room_to_wait_is_counted_and_nobody_waits() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let traces = start(&store, folder.path(), settings());
    let job = traces.begin("j".into(), String::new());
    // The writer runs on this thread, so it hears nothing meanwhile.
    for _ in 0..2 * limits::TRACE_WAITING {
        job.record(TraceKind::Note(String::new()));
    }
    let lost = traces.counts().lost;
    assert_eq!(lost, limits::TRACE_WAITING as u64 + 1);
    traces.settle().await;
    job.record(TraceKind::JobComplete(None));
    traces.settle().await;
    let view = look::job(&store, "j", 0, 1_000).unwrap().unwrap();
    assert_eq!((view.summary.events_left_out, view.events.len()), (lost, limits::TRACE_WAITING));
}
