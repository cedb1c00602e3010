use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Mutex;

use tokio::sync::watch;

use super::scan::{Reins, run};
use super::*;
use crate::engine::library::fixtures;
use crate::model::health::{
    HealthAnswer, HealthRequest, IssueFilter, IssueKind, IssueStatus, LocalPath, MatchedBy, Progress, Scan, ScanCounts,
    ScanRequest, ScanStatus,
};
use crate::model::id::ScanId;
use crate::model::spectrogram::Spectrogram;
use crate::model::time::UnixMs;
use crate::model::variant::Codec;
use crate::model::verdict::{Judgement, Verdict};
use crate::model::view::Refusal;
use crate::store::StoreOptions;

/// Reads `word=value` lines instead of audio, and counts how often.
#[derive(Default)]
struct Words {
    measured: Mutex<BTreeMap<String, u32>>,
    /// The scan to be stopped after so many files.
    stop_after: Mutex<Option<(usize, Arc<Reins>)>>,
}

impl Measure for Words {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn open(&self, path: &Path) -> std::io::Result<File> {
        File::open(path)
    }

    fn set_rest(&self, _: u32) {}

    fn spectrogram(&self, mut file: File, _: &str) -> Result<Spectrogram, String> {
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        if text.contains("broken") {
            return Err("not one frame could be decoded".to_owned());
        }
        Ok(Spectrogram {
            content_hash: fixtures::measured(text.as_bytes()).content_hash,
            sample_rate_hz: 44_100,
            samples: 44_100,
            samples_per_column: 44_100,
            rows: 4,
            levels: vec![255, 128, 64, 0],
        })
    }

    fn measure(&self, mut file: File, name: &str, _: &(dyn Fn() -> bool + Sync)) -> Option<Outcome> {
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        let mut measured = self.measured.lock().unwrap();
        let times = measured.entry(name.to_owned()).or_default();
        *times += 1;
        let times = *times;
        let total: u32 = measured.values().sum();
        if let Some((files, reins)) = &*self.stop_after.lock().unwrap()
            && total as usize >= *files
        {
            reins.stop();
        }
        let mut found = fixtures::measured(text.as_bytes());
        for (word, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match word {
                "recording" => found.tags.recording_id = value.parse().ok(),
                "release" => found.tags.release_id = value.parse().ok(),
                "track" => found.tags.track = value.parse().ok(),
                "bad" => found.integrity.bad_frames = value.parse().unwrap(),
                "codec" => found.codec = Codec::Mp3,
                "ms" => found.duration_ms = value.parse().unwrap(),
                "broken" => return Some(Outcome::Broken(value.to_owned())),
                "untried" if times <= value.parse().unwrap() => return Some(Outcome::NotTried("no memory".to_owned())),
                "unsupported" => return Some(Outcome::Unsupported(value.to_owned())),
                // The score, for the judge.
                "score" => found.loudness.sample_peak = value.parse().unwrap(),
                "print" => found.fingerprint = vec![value.parse().unwrap()],
                _ => {}
            }
        }
        Some(Outcome::Measured(Box::new(found)))
    }
}

struct Strict;

impl Judge for Strict {
    fn judge(&self, measured: &Measured) -> Judged {
        let score = measured.loudness.sample_peak;
        let verdict = if score < 0.0 { Verdict::Transcode } else { Verdict::Clean };
        let judgement = Judgement { verdict, confidence: 1.0, ..Judgement::default() };
        Judged { quality_score: score.abs(), judgement, analyzer: self.version().to_owned() }
    }

    fn same_sound(&self, a: &[u32], b: &[u32]) -> bool {
        a == b
    }

    fn version(&self) -> &'static str {
        "strict-1"
    }
}

/// Knows release 9 with recordings 11, 12 and 13, each 180 s long, and that nobody knows anything else.
#[derive(Default)]
struct Shelf {
    on: std::sync::atomic::AtomicBool,
}

impl Shelf {
    fn ask<T>(&self, offline: bool, fact: Fact<T>) -> Fact<T> {
        if offline || !self.on.load(std::sync::atomic::Ordering::Relaxed) { Fact::Later } else { fact }
    }
}

impl Catalogue for Shelf {
    fn called(&self, _: u128, _: bool) -> Fact<(String, String)> {
        Fact::Unknown
    }

    fn recording(&self, id: u128, offline: bool) -> Fact<RecordingFacts> {
        let facts = |id| Fact::Known(RecordingFacts { id, duration_ms: Some(180_000) });
        // 99 was merged into 12.
        let known = match id {
            11..=13 => facts(id),
            99 => facts(12),
            _ => Fact::Unknown,
        };
        self.ask(offline, known)
    }

    fn can_identify(&self) -> bool {
        self.on.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn release(&self, id: u128, offline: bool) -> Fact<Release> {
        let track = |n: u32| crate::engine::library::detect::Track {
            disc: 1,
            position: n,
            recording_id: u128::from(10 + n),
            title: format!("Track {n}"),
            duration_ms: Some(180_000),
        };
        let tracks = (1..=3).map(track).collect();
        let known = Fact::Known(Release { id, title: "Album".into(), artist: "Artist".into(), tracks });
        self.ask(offline, if id == 9 { known } else { Fact::Unknown })
    }

    fn figures(&self) -> Vec<crate::net::catalog::Figures> {
        Vec::new()
    }

    fn identify(&self, variant: &Variant, offline: bool) -> Identity {
        let matched_by = match self.ask(offline, Fact::Known(())) {
            Fact::Known(()) => MatchedBy::Nobody,
            _ => MatchedBy::Pending,
        };
        Identity { matched_by, ..variant.identity.clone() }
    }
}

/// A collection of files that are words, with its records.
pub(in crate::app) struct Box_ {
    pub(in crate::app) ground: Ground,
    words: Arc<Words>,
    shelf: Arc<Shelf>,
    pub(in crate::app) music: tempfile::TempDir,
    _store: tempfile::TempDir,
    scans: u128,
}

impl Box_ {
    pub(in crate::app) fn new() -> Self {
        let (music, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (words, shelf) = (Arc::new(Words::default()), Arc::new(Shelf::default()));
        let ground = Ground {
            store: Store::open(dir.path(), StoreOptions::default()).unwrap(),
            measure: words.clone(),
            judge: Arc::new(Strict),
            catalogue: shelf.clone(),
            rules: Arc::new(Rules::new(&[], &[]).unwrap()),
            clock: Clock::start(),
            thresholds: Thresholds::default(),
            canonical: CanonicalRules::default(),
            workers: 2,
        };
        Self { ground, words, shelf, music, _store: dir, scans: 0 }
    }

    pub(in crate::app) fn put(&self, name: &str, lines: &str) {
        let path = self.music.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, lines).unwrap();
    }

    pub(in crate::app) fn path(&self, name: &str) -> LocalPath {
        walk::from_path(&self.music.path().canonicalize().unwrap().join(name))
    }

    fn begin(&mut self) -> Scan {
        self.scans += 1;
        Scan {
            id: ScanId(self.scans),
            request: ScanRequest::of(vec![walk::from_path(self.music.path())]),
            status: ScanStatus::Running,
            started_at: UnixMs(u64::try_from(self.scans).unwrap()),
            completed_at: None,
            error: None,
            counts: ScanCounts::default(),
        }
    }

    fn run(&self, scan: Scan, reins: &Reins) -> Result<Scan, DoctorError> {
        run(&self.ground, scan, reins, &watch::Sender::new(Progress::default()))
    }

    pub(in crate::app) fn scan(&mut self) -> ScanCounts {
        let scan = self.begin();
        let scan = self.run(scan, &Reins::default()).unwrap();
        assert_eq!(scan.status, ScanStatus::Completed);
        scan.counts
    }

    /// Open issues: kind and path below the music folder.
    pub(in crate::app) fn issues(&self) -> Vec<(IssueKind, String)> {
        self.with(&[])
    }

    pub(in crate::app) fn with(&self, statuses: &[IssueStatus]) -> Vec<(IssueKind, String)> {
        let filter = IssueFilter { statuses: statuses.to_vec(), limit: 1_000, ..IssueFilter::default() };
        let (rows, total) = self.ground.store.read(|txn, tables| tables.library.issues(txn, &filter)).unwrap();
        assert_eq!(rows.len(), total);
        let root = self.music.path().canonicalize().unwrap();
        let below = |path: &LocalPath| {
            let path = walk::to_path(path);
            path.strip_prefix(&root).unwrap_or(Path::new("?")).display().to_string()
        };
        let mut issues: Vec<_> = rows.iter().map(|issue| (issue.kind, below(&issue.path))).collect();
        issues.sort();
        issues
    }

    fn measured(&self) -> u32 {
        self.words.measured.lock().unwrap().values().sum()
    }
}

fn is(kind: IssueKind, path: &str) -> (IssueKind, String) {
    (kind, path.to_owned())
}

#[test]
fn a_folder_is_scanned_and_its_problems_are_told_once() {
    let mut doctor = Box_::new();
    doctor.put("a/good.flac", "recording=1\nscore=0.9");
    doctor.put("a/lossy.flac", "recording=2\nscore=-0.4");
    doctor.put("a/bad.mp3", "recording=3\nscore=0.8\nbad=3");
    doctor.put("b/not audio.mp3", "broken=no frame");
    doctor.put("b/odd.m4a", "unsupported=ALS");
    doctor.put("b/cover.jpg", "x");
    doctor.put(".hidden/a.flac", "recording=4");
    doctor.put("b/unknown.flac", "score=0.9");
    let counts = doctor.scan();
    assert_eq!((counts.files, counts.measured, counts.unsupported, counts.gone), (6, 4, 1, 0));
    assert_eq!(counts.audio_ms, 4 * 180_000);
    let expect = [
        is(IssueKind::SuspectedTranscode, "a/lossy.flac"),
        is(IssueKind::CorruptedFile, "a/bad.mp3"),
        is(IssueKind::CorruptedFile, "b/not audio.mp3"),
        is(IssueKind::MissingMetadata, "b/unknown.flac"),
    ];
    assert_eq!(doctor.issues(), expect);
    let before = doctor.measured();
    let again = doctor.scan();
    assert_eq!((again.files, again.measured), (6, 0));
    assert_eq!((doctor.measured(), doctor.issues()), (before, expect.to_vec()));
}

#[test]
fn dismissed_stays_dismissed_and_mended_resolves_itself() {
    let mut doctor = Box_::new();
    doctor.put("a.flac", "recording=1\nscore=-0.4");
    doctor.put("b.flac", "recording=2\nscore=0.9\nbad=1");
    doctor.scan();
    let id = crate::engine::library::issue_id(
        IssueKind::SuspectedTranscode,
        crate::engine::library::About::File(&doctor.path("a.flac")),
    );
    doctor
        .ground
        .store
        .write_blocking(move |txn, tables| {
            let issue = tables.library.issue(txn, id)?.unwrap();
            let issue = crate::engine::library::merge::set_status(&issue, IssueStatus::Ignored, UnixMs(5)).unwrap();
            tables.library.put_issue(txn, &issue)
        })
        .unwrap();
    doctor.put("a.flac", "recording=1\nscore=-0.35");
    doctor.put("b.flac", "recording=2\nscore=0.9\nbad=0");
    doctor.scan();
    assert_eq!(doctor.issues(), []);
    assert_eq!(doctor.with(&[IssueStatus::Ignored]), [is(IssueKind::SuspectedTranscode, "a.flac")]);
    assert_eq!(doctor.with(&[IssueStatus::Resolved]), [is(IssueKind::CorruptedFile, "b.flac")]);
    // Renamed: nothing is measured, and what the owner said goes with the file.
    let before = doctor.measured();
    std::fs::rename(doctor.music.path().join("a.flac"), doctor.music.path().join("c.flac")).unwrap();
    let counts = doctor.scan();
    assert_eq!((counts.moved, counts.measured, doctor.measured()), (1, 0, before));
    assert_eq!(doctor.with(&[IssueStatus::Ignored]), [is(IssueKind::SuspectedTranscode, "c.flac")]);
}

#[test]
fn copies_and_releases_are_looked_at_as_a_whole() {
    let mut doctor = Box_::new();
    doctor.shelf.on.store(true, std::sync::atomic::Ordering::Relaxed);
    doctor.put("album/1.flac", "recording=11\nrelease=9\nscore=0.9");
    doctor.put("album/2.flac", "recording=12\nrelease=9\nscore=0.9\nms=190000");
    doctor.put("album/9.flac", "recording=77\nrelease=9\nscore=0.9");
    doctor.put("loose/1.mp3", "recording=11\nscore=0.5\ncodec=mp3");
    doctor.scan();
    let expect = [
        is(IssueKind::NonCanonicalVariant, "loose/1.mp3"),
        is(IssueKind::TrackNotInTaggedRelease, "album/9.flac"),
        is(IssueKind::MissingTrackInRelease, "album"),
        is(IssueKind::MultipleVariants, "album/1.flac"),
        is(IssueKind::WrongDuration, "album/2.flac"),
    ];
    assert_eq!(doctor.issues(), expect);
    // The missing track comes, the poor copy goes.
    doctor.put("album/3.flac", "recording=13\nrelease=9\nscore=0.9");
    std::fs::remove_file(doctor.music.path().join("loose/1.mp3")).unwrap();
    let counts = doctor.scan();
    assert_eq!((counts.measured, counts.gone), (1, 1));
    assert_eq!(doctor.issues(), [expect[1].clone(), expect[4].clone()]);
    let stats = doctor.ground.store.read(|txn, tables| tables.library.canonical(txn, 11)).unwrap();
    assert_eq!(stats.iter().map(|row| row.profile.as_str()).collect::<Vec<_>>(), ["FLAC-16bit-44100Hz-2ch"]);
}

#[test]
fn a_scan_without_the_net_is_made_whole_later() {
    let mut doctor = Box_::new();
    doctor.put("album/1.flac", "recording=11\nrelease=9\nscore=0.9\nms=170000");
    doctor.put("x.flac", "score=0.9\nprint=5");
    doctor.scan();
    assert_eq!(doctor.issues(), [is(IssueKind::MissingMetadata, "x.flac")]);
    doctor.shelf.on.store(true, std::sync::atomic::Ordering::Relaxed);
    let reins = Reins::default();
    settle::Settler::new(&doctor.ground, &reins, false).catch_up().unwrap();
    let expect = [
        is(IssueKind::MissingTrackInRelease, "album"),
        is(IssueKind::MissingMetadata, "x.flac"),
        is(IssueKind::WrongDuration, "album/1.flac"),
    ];
    assert_eq!(doctor.issues(), expect);
    // A copy that sounds like a known one is known.
    doctor.put("y.flac", "recording=5\nscore=0.9\nprint=6");
    doctor.scan();
    doctor.put("z.flac", "score=0.9\nprint=6");
    doctor.scan();
    let variants = doctor.ground.store.read(|txn, tables| tables.library.variants_of(txn, 5)).unwrap();
    assert_eq!(variants.len(), 2);
    assert!(variants.iter().any(|variant| variant.identity.matched_by == MatchedBy::Fingerprint));
}

#[test]
fn a_stopped_scan_goes_on_where_it_was() {
    let mut doctor = Box_::new();
    for n in 0..60 {
        doctor.put(&format!("{n}.flac"), &format!("recording={}\nscore=0.9\nbad={}", n + 1, n % 2));
    }
    let reins = Arc::new(Reins::default());
    *doctor.words.stop_after.lock().unwrap() = Some((20, reins.clone()));
    let scan = doctor.begin();
    let stopped = doctor.run(scan.clone(), &reins).unwrap();
    assert_eq!(stopped.status, ScanStatus::Cancelled);
    let first = doctor.measured();
    assert!((20..60).contains(&first), "{first}");
    *doctor.words.stop_after.lock().unwrap() = None;
    // As after a restart: the same scan again. What was finished has a row.
    let done = doctor.ground.store.read(|txn, tables| tables.library.file_count(txn, None)).unwrap();
    let finished = doctor.run(scan, &Reins::default()).unwrap();
    assert_eq!((finished.status, finished.counts.files), (ScanStatus::Completed, 60));
    assert_eq!(u64::from(doctor.measured() - first), 60 - done);
    assert_eq!(doctor.issues().len(), 30);
}

#[test]
fn an_empty_mount_point_is_not_a_collection_thrown_away() {
    let mut doctor = Box_::new();
    doctor.put("a.flac", "recording=1\nscore=-0.4");
    doctor.scan();
    std::fs::remove_file(doctor.music.path().join("a.flac")).unwrap();
    let scan = doctor.begin();
    let error = doctor.run(scan.clone(), &Reins::default()).unwrap_err();
    assert!(matches!(error, DoctorError::Emptied { known: 1, .. }), "{error}");
    assert_eq!(doctor.issues().len(), 1);
    let row = doctor.ground.store.read(|txn, tables| tables.library.scan(txn, scan.id)).unwrap().unwrap();
    assert_eq!(row.status, ScanStatus::Failed);
    assert!(row.error.unwrap().contains("is its disk plugged in?"));
}

#[test]
fn a_merged_recording_is_the_one_that_stands() {
    let mut doctor = Box_::new();
    doctor.shelf.on.store(true, std::sync::atomic::Ordering::Relaxed);
    doctor.put("a.flac", "recording=99\nscore=0.9");
    doctor.put("b.mp3", "recording=12\nscore=0.5\ncodec=mp3");
    doctor.scan();
    assert_eq!(
        doctor.issues(),
        [is(IssueKind::NonCanonicalVariant, "b.mp3"), is(IssueKind::MultipleVariants, "a.flac")]
    );
    let of = |id| doctor.ground.store.read(|txn, tables| Ok(tables.library.variants_of(txn, id)?.len())).unwrap();
    assert_eq!((of(99), of(12)), (0, 2));
}

#[test]
fn a_copy_is_found_by_its_place_and_drawn_while_its_bytes_are_there() {
    let mut world = Box_::new();
    world.put("a.flac", "recording=1\nscore=0.9");
    world.put("b.flac", "recording=2\nscore=-0.31");
    world.put("c.mp3", "broken=no frame");
    world.scan();
    let schedule = service::Schedule {
        enabled: true,
        paths: Vec::new(),
        every: None,
        recount_every: std::time::Duration::MAX,
        offline: true,
    };
    let doctor = service::Doctor::new(world.ground.clone(), schedule);
    let copy_at = |name: &str| match doctor.answer(HealthRequest::CopyAt(world.path(name))).unwrap() {
        HealthAnswer::Variants(found) => found.first().map(Variant::hash),
        other => panic!("{other:?}"),
    };
    let (a, b) = (copy_at("a.flac").unwrap(), copy_at("b.flac").unwrap());
    assert_eq!((copy_at("c.mp3"), copy_at("nowhere.flac")), (None, None));
    let draw = |copy| match doctor.answer(HealthRequest::Spectrogram { copy, narrow: false })? {
        HealthAnswer::Picture(png) => Ok(png),
        other => panic!("{other:?}"),
    };
    assert!(draw(a).unwrap().starts_with(b"\x89PNG"));
    // What lies there now is not what was measured.
    world.put("b.flac", "recording=2\nscore=0.7");
    assert!(matches!(draw(b), Err(Refusal::Invalid(why)) if why.contains("has changed")));
    assert!(matches!(draw(crate::model::id::ContentHash([9; 32])), Err(Refusal::NotFound)));
    let HealthAnswer::Scores(scores) = doctor.answer(HealthRequest::Scores).unwrap() else { panic!("no scores") };
    assert_eq!((scores.steps[18], scores.steps[6]), ([1, 0, 0], [0, 0, 1]));
    assert_eq!(scores.steps.iter().flatten().sum::<u64>(), 2);
}

#[test]
fn what_could_not_be_tried_is_no_broken_file_and_is_met_again() {
    let mut doctor = Box_::new();
    doctor.put("a.flac", "recording=1\nscore=0.9");
    // A shortage that passes while the file is tried, and one that lasts longer than a scan.
    doctor.put("b.flac", "recording=2\nscore=0.9\nuntried=2");
    doctor.put("c.flac", "recording=3\nscore=0.9\nuntried=3");
    let scan = doctor.begin();
    let scan = doctor.run(scan, &Reins::default()).unwrap();
    assert_eq!((scan.status, scan.counts.files, scan.counts.measured), (ScanStatus::Completed, 2, 2));
    assert_eq!(scan.error.as_deref(), Some("1 not looked at, left to the next scan: no memory"));
    assert_eq!(doctor.issues(), []);
    let again = doctor.scan();
    assert_eq!((again.files, again.measured), (3, 1));
}

#[test]
fn a_shortage_that_does_not_pass_fails_the_scan_and_keeps_what_was_done() {
    let mut doctor = Box_::new();
    doctor.put("0.flac", "recording=1\nscore=0.9");
    for n in 10..40 {
        doctor.put(&format!("{n}.flac"), "untried=1000");
    }
    let scan = doctor.begin();
    // One at a time: the shortage must not be known before the first file is measured.
    let reins = Reins::default();
    reins.set_workers(1);
    let error = doctor.run(scan.clone(), &reins).unwrap_err();
    assert!(matches!(&error, DoctorError::NotReady(why) if why.ends_with("no memory")), "{error}");
    let row = doctor.ground.store.read(|txn, tables| tables.library.scan(txn, scan.id)).unwrap().unwrap();
    assert_eq!((row.status, row.counts.measured), (ScanStatus::Failed, 1));
    assert_eq!(doctor.ground.store.read(|txn, tables| tables.library.file_count(txn, None)).unwrap(), 1);
    assert_eq!(doctor.issues(), []);
}
