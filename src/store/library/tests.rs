use super::*;
use crate::engine::library::{FILE_KINDS, detect, fixtures};
use crate::model::health::{
    FileOutcome, IssueFilter, IssueKind, IssueStatus, ScanCounts, ScanRequest, ScanStatus, Severity,
};
use crate::model::id::ScanId;
use crate::model::limits;
use crate::model::time::UnixMs;
use crate::store::{Store, StoreOptions};

const NOW: UnixMs = UnixMs(1_000);

fn open() -> (Store, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Store::open(dir.path(), StoreOptions::default()).unwrap(), dir)
}

fn row(path: &str, inode: u64, outcome: FileOutcome) -> FileRow {
    FileRow { path: LocalPath::from(path), size: 1, mtime_ns: 2, inode: (0, inode), outcome, scan: ScanId(1) }
}

/// A measured file with bad frames, so that it has an issue.
fn measured(path: &str, inode: u64, content: &str, recording: Option<u128>) -> FileChange {
    let mut variant = fixtures::variant(path, 0.9);
    variant.measured = fixtures::measured(content.as_bytes());
    variant.measured.integrity.bad_frames = 1;
    variant.identity.recording_id = recording;
    let path = LocalPath::from(path);
    let copy = detect::Copy { path: &path, variant: &variant, now: NOW };
    let issues = vec![detect::corrupted_file(&copy).unwrap()];
    FileChange {
        row: FileRow { path: path.clone(), ..row("", inode, FileOutcome::Measured(variant.hash())) },
        variant: Some(Box::new(variant)),
        issues,
        judged: FILE_KINDS.to_vec(),
        moved_from: None,
    }
}

fn put(store: &Store, changes: Vec<FileChange>) {
    store.write_blocking(move |txn, tables| tables.library.put_files(txn, &changes, None, NOW)).unwrap();
}

fn paths(store: &Store, content: &str) -> Vec<String> {
    let hash = fixtures::measured(content.as_bytes()).content_hash;
    let variant = store.read(|txn, tables| tables.library.bare_variant(txn, hash)).unwrap();
    variant.map_or_else(Vec::new, |variant| variant.paths.iter().map(ToString::to_string).collect())
}

fn count(store: &Store, filter: IssueFilter) -> usize {
    store.read(|txn, tables| tables.library.issues(txn, &filter)).unwrap().1
}

#[test]
fn a_copy_lives_as_long_as_a_file_has_its_bytes() {
    let (store, _dir) = open();
    put(&store, vec![measured("/m/a.flac", 1, "x", Some(5)), measured("/m/b.flac", 2, "x", Some(5))]);
    assert_eq!(paths(&store, "x"), ["/m/a.flac", "/m/b.flac"]);
    // One of them becomes something else, the other goes.
    put(&store, vec![measured("/m/a.flac", 1, "y", Some(6))]);
    assert_eq!((paths(&store, "x"), paths(&store, "y")), (vec!["/m/b.flac".to_owned()], vec!["/m/a.flac".to_owned()]));
    store.write_blocking(|txn, tables| tables.library.forget_file(txn, &LocalPath::from("/m/b.flac"), NOW)).unwrap();
    assert!(paths(&store, "x").is_empty());
    let (of_five, of_six, open) = store
        .read(|txn, tables| {
            let library = &tables.library;
            let open = library.issues(txn, &IssueFilter { limit: 9, ..IssueFilter::default() })?.1;
            Ok((library.variants_of(txn, 5)?.len(), library.variants_of(txn, 6)?.len(), open))
        })
        .unwrap();
    assert_eq!((of_five, of_six, open), (0, 1, 1));
    // Both recordings are to be looked at: one lost a copy, one got one.
    let todo = store.read(|txn, tables| tables.library.todo(txn, TodoKind::Recording, None, 9)).unwrap();
    assert_eq!(todo, [Todo::Recording(5), Todo::Recording(6)]);
}

#[test]
fn fingerprints_are_kept_apart_and_come_back() {
    let (store, _dir) = open();
    put(&store, vec![measured("/a.flac", 1, "x", None)]);
    let hash = fixtures::measured(b"x").content_hash;
    let (whole, bare, like, far) = store
        .read(|txn, tables| {
            let library = &tables.library;
            Ok((
                library.variant(txn, hash)?.unwrap().measured.fingerprint,
                library.bare_variant(txn, hash)?.unwrap().measured.fingerprint,
                library.like(txn, 183_000, 7_000)?,
                library.like(txn, 190_000, 7_000)?,
            ))
        })
        .unwrap();
    assert_eq!((whole, bare.len()), (fixtures::measured(b"x").fingerprint, 0));
    assert_eq!((like, far), (vec![(hash, 7)], vec![]));
    // What becomes known of it later leaves the fingerprint alone.
    store
        .write_blocking(move |txn, tables| {
            let mut variant = tables.library.bare_variant(txn, hash)?.unwrap();
            variant.identity.recording_id = Some(8);
            tables.library.put_known(txn, &variant, &[], &[], NOW)
        })
        .unwrap();
    let (print, of_eight) = store
        .read(|txn, tables| Ok((tables.library.print(txn, hash)?, tables.library.variants_of(txn, 8)?.len())))
        .unwrap();
    assert_eq!((print.len(), of_eight), (32, 1));
}

#[test]
fn paths_too_long_for_a_key_are_files_like_others() {
    let (store, _dir) = open();
    let deep = format!("/m/{}", "long/".repeat(150));
    let names: Vec<String> = (0..5).map(|n| format!("{deep}{n}.flac")).collect();
    let changes = names.iter().zip(1..).map(|(name, inode)| measured(name, inode, name, None)).collect();
    put(&store, changes);
    put(&store, vec![measured("/m/short.flac", 9, "s", None), measured("/mm/other.flac", 10, "o", None)]);
    let (found, all, below) = store
        .read(|txn, tables| {
            let library = &tables.library;
            let found = library.file(txn, &LocalPath::from(names[3].as_str()))?.unwrap().path.to_string();
            let mut rows = Vec::new();
            let mut after = None;
            // Page by page, each once.
            loop {
                let page = library.files_in(txn, b"/m", after.as_ref(), 2)?;
                let Some(last) = page.last() else { break };
                after = Some(last.path.clone());
                rows.extend(page.into_iter().map(|row| row.path.to_string()));
            }
            let below = library.file_count(txn, Some(&LocalPath::from(deep.as_str())))?;
            Ok((found, rows, below))
        })
        .unwrap();
    assert_eq!((found, below), (names[3].clone(), 5));
    let mut wanted: Vec<String> = names;
    wanted.push("/m/short.flac".to_owned());
    let mut all = all;
    all.sort();
    wanted.sort();
    assert_eq!(all, wanted);
}

#[test]
fn issues_are_paged_and_filtered_worst_first() {
    let (store, _dir) = open();
    let mut changes: Vec<FileChange> =
        (0..10).map(|n| measured(&format!("/m/{n}.flac"), n, &n.to_string(), None)).collect();
    changes[3].issues[0].severity = Severity::Low;
    changes[4].issues[0].release_id = Some(77);
    changes[5].row.path = LocalPath::from("/m/5.flac");
    put(&store, changes);
    let page = |offset, limit| {
        let filter = IssueFilter { offset, limit, ..IssueFilter::default() };
        store.read(|txn, tables| tables.library.issues(txn, &filter)).unwrap()
    };
    let (first, total) = page(0, 4);
    let rest = page(4, 100).0;
    assert_eq!((first.len(), rest.len(), total), (4, 6, 10));
    assert_eq!(rest.last().map(|issue| issue.severity), Some(Severity::Low));
    let only = |change: fn(&mut IssueFilter)| {
        let mut filter = IssueFilter { limit: 100, ..IssueFilter::default() };
        change(&mut filter);
        count(&store, filter)
    };
    assert_eq!(only(|f| f.severities = vec![Severity::Low, Severity::High]), 1);
    assert_eq!(only(|f| f.kinds = vec![IssueKind::CorruptedFile]), 10);
    assert_eq!(only(|f| f.kinds = vec![IssueKind::WrongDuration]), 0);
    assert_eq!(only(|f| f.release_id = Some(77)), 1);
    assert_eq!(only(|f| f.path = Some(LocalPath::from("/m"))), 10);
    assert_eq!(only(|f| f.path = Some(LocalPath::from("/m/1.flac"))), 1);
    assert_eq!(only(|f| f.statuses = vec![IssueStatus::Resolved]), 0);
    assert_eq!(only(|f| f.artist = Some("artist".into())), 10);
    let (summary, elsewhere, by_release) = store
        .read(|txn, tables| {
            let library = &tables.library;
            let elsewhere = library.summary(txn, Some(&LocalPath::from("/n")))?;
            Ok((library.summary(txn, None)?, elsewhere, library.groups(txn, true)?))
        })
        .unwrap();
    assert_eq!((summary.files, summary.of(IssueKind::CorruptedFile), summary.open()), (10, 10, 10));
    assert!((summary.health_score - (1.0 - (9.0 + 0.1) / 10.0)).abs() < 1e-9);
    assert_eq!((elsewhere.files, elsewhere.open()), (0, 0));
    assert_eq!(
        by_release.iter().map(|g| (g.release_id, g.count, g.name.as_str())).collect::<Vec<_>>(),
        [(Some(77), 1, "Album")]
    );
}

#[test]
fn a_status_moves_a_row_and_leaves_no_second_one() {
    let (store, _dir) = open();
    put(&store, vec![measured("/a.flac", 1, "x", None)]);
    let all = IssueFilter { statuses: IssueStatus::ALL.to_vec(), limit: 9, ..IssueFilter::default() };
    for status in [IssueStatus::Ignored, IssueStatus::Acknowledged, IssueStatus::Resolved, IssueStatus::Detected] {
        let filter = all.clone();
        let rows = store
            .write_blocking(move |txn, tables| {
                let library = &tables.library;
                let mut issue = library.issues(txn, &filter)?.0.remove(0);
                issue.status = status;
                library.put_issue(txn, &issue)?;
                Ok(library.issues(txn, &filter)?.0)
            })
            .unwrap();
        assert_eq!(rows.iter().map(|issue| issue.status).collect::<Vec<_>>(), [status]);
    }
}

#[test]
fn the_newest_scans_are_kept() {
    let (store, _dir) = open();
    let scan = |n: u64, status| Scan {
        id: ScanId(u128::from(n)),
        request: ScanRequest::of(vec![LocalPath::from("/m")]),
        status,
        started_at: UnixMs(n),
        completed_at: None,
        error: None,
        counts: ScanCounts::default(),
    };
    store
        .write_blocking(move |txn, tables| {
            for n in 1..=limits::SCANS as u64 + 5 {
                tables.library.put_scan(txn, &scan(n, ScanStatus::Completed))?;
            }
            // The same scan again is the same row.
            tables.library.put_scan(txn, &scan(50, ScanStatus::Running))
        })
        .unwrap();
    let (scans, unfinished, gone) = store
        .read(|txn, tables| {
            let library = &tables.library;
            Ok((library.scans(txn)?, library.unfinished_scan(txn)?, library.scan(txn, ScanId(5))?))
        })
        .unwrap();
    assert_eq!((scans.len(), scans[0].id), (limits::SCANS, ScanId(limits::SCANS as u128 + 5)));
    assert_eq!((unfinished.map(|scan| scan.id), gone), (Some(ScanId(50)), None));
}

#[test]
fn what_is_to_be_done_is_read_kind_by_kind() {
    let (store, _dir) = open();
    let all = [
        Todo::Recording(1),
        Todo::Recording(2),
        Todo::Recording(u128::MAX),
        Todo::Release(1),
        Todo::Identify(fixtures::measured(b"x").content_hash),
        Todo::AskRecording(3),
        Todo::AskRelease(4),
    ];
    store
        .write_blocking(move |txn, tables| all.iter().try_for_each(|todo| tables.library.put_todo(txn, *todo)))
        .unwrap();
    let read = |kind, after, limit| store.read(|txn, tables| tables.library.todo(txn, kind, after, limit)).unwrap();
    assert_eq!(read(TodoKind::Recording, None, 9), all[..3]);
    assert_eq!(read(TodoKind::Recording, Some(all[0]), 1), all[1..2]);
    assert_eq!(read(TodoKind::Recording, Some(all[2]), 9), []);
    assert_eq!(read(TodoKind::Identify, None, 9), all[4..5]);
    assert_eq!(read(TodoKind::AskRelease, None, 9), all[6..]);
    store.write_blocking(move |txn, tables| tables.library.remove_todo(txn, all[1])).unwrap();
    assert_eq!(read(TodoKind::Recording, None, 9), [all[0], all[2]]);
}
