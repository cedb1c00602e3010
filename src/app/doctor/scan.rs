//! One scan: counts what is to be done, measures on several threads, writes down file by file.
//!
//! Threads: one walks ahead and counts, one walks and decides (`engine::library::scan::step`), some measure, and the
//! caller's judges and commits. All mailboxes are bounded, so the walk waits for the workers. A batch is committed
//! after `limits::SCAN_BATCH` files or [`BATCH_TIME`]: a kill costs the files of a batch and those in work, and no
//! finished file is measured twice.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::walk::{self, Met};
use super::{DoctorError, Ground, Outcome, settle};
use crate::engine::audio::sketch::distance;
use crate::engine::library::detect::{self, Copy};
use crate::engine::library::scan::{Step, may_forget, step, time_left_ms};
use crate::engine::library::{FILE_KINDS, all_file_kinds};
use crate::model::health::{FileOutcome, FileRow, Identity, LocalPath, MatchedBy, Progress, Scan, ScanStatus, Variant};
use crate::model::limits;
use crate::model::time::UnixMs;
use crate::model::variant::Measured;
use crate::store::library::FileChange;

/// Age of a batch at which it is committed.
const BATCH_TIME: Duration = Duration::from_secs(5);
/// Rows looked at per read when files that are gone are looked for.
const ROWS: usize = 500;
/// Problems of a walk that are logged.
const PROBLEMS: u32 = 20;
/// Attempts at a file when the machine has nothing to measure it with: a shortage may pass.
const TRIES: u32 = 3;
/// Between them.
const PAUSE: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_millis(500) };
/// Files in a row that could not be tried, after which the scan fails: the shortage does not pass. Chosen.
const UNTRIED_MAX: u32 = 16;

/// Stops a scan, and says how many files it may work on.
#[derive(Debug, Default)]
pub struct Reins {
    stop: AtomicBool,
    /// The program ends: the scan goes on at the next start.
    halt: AtomicBool,
    /// Files at once; 0 is as many as there are workers.
    workers: AtomicU32,
}

impl Reins {
    /// Ends the scan as soon as the files in work are dealt with.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The same because the program ends: the scan's row stays as it is, and the next start takes it up again.
    pub fn halt(&self) {
        self.halt.store(true, Ordering::Relaxed);
        self.stop();
    }

    /// Whether it must end.
    pub fn must_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// At most so many files at once from now on.
    pub fn set_workers(&self, workers: usize) {
        self.workers.store(u32::try_from(workers).unwrap_or(0), Ordering::Relaxed);
    }

    fn may_work(&self, worker: usize) -> bool {
        let most = usize::try_from(self.workers.load(Ordering::Relaxed)).unwrap_or(0);
        most == 0 || worker < most
    }
}

/// A file for a worker.
struct Job {
    met: Met,
    step: Step,
    twin: Option<FileRow>,
}

/// What became of it.
enum Answer {
    /// Passed over.
    Passed,
    /// Renamed; the row it had.
    Renamed(Met, Box<FileRow>),
    /// Measured, or not.
    Done(Met, Outcome),
    /// It changed while it was read, or is gone: for the next scan.
    Fleeting,
    /// The walk ended. Files of each root.
    Walked(Vec<(PathBuf, u64)>),
}

/// Totals of the walk ahead.
#[derive(Default)]
struct Totals {
    files: u64,
    bytes: u64,
    done: bool,
}

/// Runs or continues a scan to its end and writes its row. The progress is told as it goes.
pub fn run(
    ground: &Ground,
    mut scan: Scan,
    reins: &Reins,
    progress: &watch::Sender<Progress>,
) -> Result<Scan, DoctorError> {
    keep(ground, &scan)?;
    let outcome = Run::new(ground, &mut scan, reins, progress).all();
    if matches!(outcome, Err(DoctorError::Stopped)) && reins.halt.load(Ordering::Relaxed) {
        return Ok(scan);
    }
    scan.completed_at = Some(ground.clock.now().wall);
    scan.status = match &outcome {
        Ok(()) => ScanStatus::Completed,
        Err(DoctorError::Stopped) => ScanStatus::Cancelled,
        Err(error) => {
            scan.error = Some(error.to_string());
            ScanStatus::Failed
        }
    };
    progress.send_modify(|progress| progress.scan = None);
    match outcome {
        Ok(()) | Err(DoctorError::Stopped) => {
            keep(ground, &scan)?;
            Ok(scan)
        }
        Err(error) => {
            // The store may be what failed.
            if let Err(also) = keep(ground, &scan) {
                tracing::error!(%also, "the failed scan could not be recorded");
            }
            Err(error)
        }
    }
}

fn keep(ground: &Ground, scan: &Scan) -> Result<(), DoctorError> {
    let scan = scan.clone();
    Ok(ground.store.write_blocking(move |txn, tables| tables.library.put_scan(txn, &scan))?)
}

struct Run<'g> {
    ground: &'g Ground,
    scan: &'g mut Scan,
    reins: &'g Reins,
    progress: &'g watch::Sender<Progress>,
    began: Duration,
    batch: Vec<FileChange>,
    batch_began: Duration,
    /// Bytes of files dealt with, unchanged ones left out: the pace is of measured ones.
    bytes_done: u64,
    last: LocalPath,
    untried: Untried,
}

/// Files that nothing could be said about because no worker could be had. They have no row, so the next scan meets them
/// as new ones.
#[derive(Default)]
struct Untried {
    files: u64,
    /// Since the last file that was dealt with.
    in_a_row: u32,
    /// Of the last one.
    why: String,
}

impl<'g> Run<'g> {
    fn new(ground: &'g Ground, scan: &'g mut Scan, reins: &'g Reins, progress: &'g watch::Sender<Progress>) -> Self {
        let began = ground.clock.now().mono;
        Self {
            ground,
            scan,
            reins,
            progress,
            began,
            batch: Vec::new(),
            batch_began: began,
            bytes_done: 0,
            last: LocalPath::default(),
            untried: Untried::default(),
        }
    }

    fn all(mut self) -> Result<(), DoctorError> {
        let roots = walk::roots(&self.scan.request)?;
        self.ground.measure.ready().map_err(DoctorError::NotReady)?;
        // Counted anew by this walk, which meets every file again.
        self.scan.counts.files = 0;
        let met = self.measure(&roots)?;
        self.say("gone");
        self.forget(&met)?;
        let settler = settle::Settler::new(self.ground, self.reins, self.scan.request.offline);
        self.say("identifying");
        if self.ground.catalogue.can_identify() && !self.scan.request.offline {
            settler.identify()?;
        }
        self.say("recordings");
        self.scan.counts.issues += settler.recordings()?;
        self.say("releases");
        self.scan.counts.issues += settler.releases()?;
        let Untried { files, why, .. } = &self.untried;
        self.scan.error = (*files > 0).then(|| format!("{files} not looked at, left to the next scan: {why}"));
        Ok(())
    }

    fn say(&self, phase: &'static str) {
        let elapsed = self.ground.clock.now().mono.saturating_sub(self.began);
        self.progress.send_modify(|progress| {
            progress.scan = Some(self.scan.id);
            progress.phase = phase;
            progress.counts = self.scan.counts;
            progress.bytes_done = self.bytes_done;
            progress.last.clone_from(&self.last);
            progress.elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            progress.left_ms = time_left_ms(progress);
        });
    }

    /// The files of all roots; answers how many each root has.
    fn measure(&mut self, roots: &[PathBuf]) -> Result<Vec<(PathBuf, u64)>, DoctorError> {
        let (ground, reins, progress) = (self.ground, self.reins, self.progress);
        let scan = self.scan.clone();
        progress.send_replace(Progress::default());
        self.say("files");
        let (jobs, waiting) = sync_channel::<Job>(limits::SCAN_AHEAD);
        let (answers, heard) = sync_channel::<Answer>(limits::SCAN_ANSWERS);
        let waiting = Mutex::new(waiting);
        std::thread::scope(|threads| {
            let spawn = |name: &str| std::thread::Builder::new().name(name.to_owned());
            spawn("doctor-count")
                .spawn_scoped(threads, || count(ground, &scan, roots, reins, progress))
                .map_err(DoctorError::Thread)?;
            for worker in 0..ground.workers.max(1) {
                let (waiting, answers) = (&waiting, answers.clone());
                spawn("doctor-work")
                    .spawn_scoped(threads, move || work(ground, worker, waiting, &answers, reins))
                    .map_err(DoctorError::Thread)?;
            }
            let (scan, told) = (&scan, answers);
            spawn("doctor-walk")
                .spawn_scoped(threads, move || feed(ground, scan, roots, reins, &jobs, &told))
                .map_err(DoctorError::Thread)?;
            let outcome = self.hear(&heard);
            if outcome.is_err() {
                reins.stop();
            }
            // Whoever still has an answer must not wait for us.
            drop(heard);
            outcome
        })
    }

    /// Judges and commits until everybody is done.
    fn hear(&mut self, heard: &Receiver<Answer>) -> Result<Vec<(PathBuf, u64)>, DoctorError> {
        let mut met = None;
        loop {
            match heard.recv_timeout(Duration::from_millis(500)) {
                Ok(Answer::Walked(files)) => met = Some(files),
                Ok(Answer::Passed) => self.scan.counts.files += 1,
                Ok(Answer::Renamed(file, row)) => self.renamed(file, *row),
                Ok(Answer::Done(file, outcome)) => self.done(file, outcome)?,
                Ok(Answer::Fleeting) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let age = self.ground.clock.now().mono.saturating_sub(self.batch_began);
            if self.batch.len() >= limits::SCAN_BATCH || (!self.batch.is_empty() && age >= BATCH_TIME) {
                self.commit()?;
            }
        }
        self.commit()?;
        if self.reins.must_stop() {
            return Err(DoctorError::Stopped);
        }
        met.ok_or(DoctorError::Defect)
    }

    fn add(&mut self, change: FileChange) {
        if self.batch.is_empty() {
            self.batch_began = self.ground.clock.now().mono;
        }
        self.bytes_done = self.bytes_done.saturating_add(change.row.size);
        self.last.clone_from(&change.row.path);
        self.batch.push(change);
    }

    fn renamed(&mut self, file: Met, old: FileRow) {
        self.scan.counts.files += 1;
        self.scan.counts.moved += 1;
        let row = row(file, old.outcome, self.scan);
        // Its issues come with it, see `FileChange::moved_from`.
        let change =
            FileChange { row, variant: None, issues: Vec::new(), judged: Vec::new(), moved_from: Some(old.path) };
        self.add(change);
    }

    fn done(&mut self, file: Met, outcome: Outcome) -> Result<(), DoctorError> {
        let now = self.ground.clock.now().wall;
        if let Outcome::NotTried(why) = outcome {
            return self.not_tried(&file, why);
        }
        self.untried.in_a_row = 0;
        self.scan.counts.files += 1;
        let change = match outcome {
            Outcome::NotTried(_) => return Ok(()),
            Outcome::Measured(measured) => self.measured(file, measured, now)?,
            Outcome::Broken(why) | Outcome::GaveUp(why) => {
                let issue = detect::broken_file(&file.path, &why, now);
                FileChange {
                    row: row(file, FileOutcome::Broken(why), self.scan),
                    variant: None,
                    issues: vec![issue],
                    judged: all_file_kinds().collect(),
                    moved_from: None,
                }
            }
            Outcome::Unsupported(why) => {
                self.scan.counts.unsupported += 1;
                FileChange {
                    row: row(file, FileOutcome::Unsupported(why), self.scan),
                    variant: None,
                    issues: Vec::new(),
                    judged: all_file_kinds().collect(),
                    moved_from: None,
                }
            }
        };
        self.scan.counts.issues += change.issues.len() as u64;
        self.add(change);
        Ok(())
    }

    fn not_tried(&mut self, file: &Met, why: String) -> Result<(), DoctorError> {
        if self.untried.files < u64::from(PROBLEMS) {
            tracing::warn!(file = %file.path, %why, "not looked at");
        }
        self.untried.files += 1;
        self.untried.in_a_row += 1;
        if self.untried.in_a_row >= UNTRIED_MAX {
            self.commit()?;
            return Err(DoctorError::NotReady(format!("files cannot be measured on this machine now: {why}")));
        }
        self.untried.why = why;
        Ok(())
    }

    fn measured(&mut self, file: Met, measured: Box<Measured>, now: UnixMs) -> Result<FileChange, DoctorError> {
        let counts = &mut self.scan.counts;
        counts.measured += 1;
        counts.bytes = counts.bytes.saturating_add(file.seen.size);
        counts.audio_ms = counts.audio_ms.saturating_add(measured.duration_ms);
        let judged = self.ground.judge.judge(&measured);
        let identity = identify(self.ground, &measured)?;
        let hash = measured.content_hash;
        let variant = Variant {
            measured: *measured,
            judged,
            identity,
            paths: vec![file.path.clone()],
            first_seen_at: now,
            last_seen_at: now,
            seen_count: 1,
        };
        let issues = file_issues(&variant, &file.path, now);
        Ok(FileChange {
            row: row(file, FileOutcome::Measured(hash), self.scan),
            variant: Some(Box::new(variant)),
            issues,
            judged: FILE_KINDS.to_vec(),
            moved_from: None,
        })
    }

    fn commit(&mut self) -> Result<(), DoctorError> {
        if !self.batch.is_empty() {
            let (batch, scan, now) = (std::mem::take(&mut self.batch), self.scan.clone(), self.ground.clock.now().wall);
            let count = batch.len();
            let left_out = self
                .ground
                .store
                .write_blocking(move |txn, tables| tables.library.put_files(txn, &batch, Some(&scan), now))?;
            if left_out > 0 {
                tracing::warn!(left_out, of = count, most = limits::DOCTOR_FILES, "files are left out of the scan");
            }
        }
        self.say("files");
        Ok(())
    }

    /// Rows of files that are no longer there.
    fn forget(&mut self, met: &[(PathBuf, u64)]) -> Result<(), DoctorError> {
        for (root, files) in met {
            let folder = walk::from_path(root);
            let store = &self.ground.store;
            let known = store.read(|txn, tables| tables.library.file_count(txn, Some(&folder)))?;
            if !may_forget(*files, known) {
                return Err(DoctorError::Emptied { path: root.display().to_string(), known });
            }
            let mut after: Option<LocalPath> = None;
            loop {
                if self.reins.must_stop() {
                    return Err(DoctorError::Stopped);
                }
                let from = after.clone();
                let rows = store.read(|txn, tables| tables.library.files_in(txn, &folder.0, from.as_ref(), ROWS))?;
                let Some(last) = rows.last() else { break };
                after = Some(last.path.clone());
                let gone: Vec<LocalPath> = rows.into_iter().map(|row| row.path).filter(is_gone).collect();
                if gone.is_empty() {
                    continue;
                }
                if !root.exists() {
                    // Its disk was pulled out meanwhile.
                    return Err(DoctorError::Emptied { path: root.display().to_string(), known });
                }
                self.scan.counts.gone += gone.len() as u64;
                let (scan, now) = (self.scan.clone(), self.ground.clock.now().wall);
                store.write_blocking(move |txn, tables| {
                    for path in &gone {
                        tables.library.forget_file(txn, path, now)?;
                    }
                    tables.library.put_scan(txn, &scan)
                })?;
            }
        }
        Ok(())
    }
}

pub(super) fn is_gone(path: &LocalPath) -> bool {
    let found = std::fs::symlink_metadata(walk::to_path(path));
    let gone = [std::io::ErrorKind::NotFound, std::io::ErrorKind::NotADirectory];
    found.is_err_and(|error| gone.contains(&error.kind()))
}

fn row(file: Met, outcome: FileOutcome, scan: &Scan) -> FileRow {
    let Met { path, seen, .. } = file;
    FileRow { path, size: seen.size, mtime_ns: seen.mtime_ns, inode: seen.inode, outcome, scan: scan.id }
}

/// Issues of one file that need nothing but the file.
pub fn file_issues(variant: &Variant, path: &LocalPath, now: UnixMs) -> Vec<crate::model::health::Issue> {
    let copy = Copy { path, variant, now };
    [detect::suspected_transcode(&copy), detect::corrupted_file(&copy), detect::missing_metadata(&copy)]
        .into_iter()
        .flatten()
        .collect()
}

/// Tags first, then copies that sound alike and whose recording is known. The catalogue is asked afterwards.
pub fn identify(ground: &Ground, measured: &Measured) -> Result<Identity, DoctorError> {
    let tags = &measured.tags;
    let (release_id, acoustid) = (tags.release_id, tags.acoustid);
    if let Some(recording) = tags.recording_id {
        let recording_id = Some(recording);
        return Ok(Identity { recording_id, release_id, acoustid, matched_by: MatchedBy::Tags });
    }
    let pending = Identity { recording_id: None, release_id, acoustid, matched_by: MatchedBy::Pending };
    Ok(match sounds_like(ground, &measured.fingerprint, measured.duration_ms, Some(measured.sketch), &|| false)? {
        Some(recording) => Identity { recording_id: Some(recording), matched_by: MatchedBy::Fingerprint, ..pending },
        None => pending,
    })
}

/// The recording of a copy here that plays about as long and sounds alike. Sketches are of whole files: where only the
/// beginning of one is there, none is compared, and `duration_ms` is what the whole plays for. That may take a while: `stop`
/// ends it, and nothing is found then.
pub fn sounds_like(
    ground: &Ground,
    print: &[u32],
    duration_ms: u64,
    sketch: Option<u64>,
    stop: &dyn Fn() -> bool,
) -> Result<Option<u128>, DoctorError> {
    if print.is_empty() {
        return Ok(None);
    }
    let near = ground.store.read(|txn, tables| tables.library.like(txn, duration_ms, SAME_DURATION_MS))?;
    for (hash, other) in near {
        if sketch.is_some_and(|sketch| distance(other, sketch) > SKETCH_DISTANCE_MAX) {
            continue;
        }
        if stop() {
            return Ok(None);
        }
        // Without sketches there may be many: each is read by itself, so that no reader stays long.
        let known = ground.store.read(|txn, tables| {
            let recording = tables.library.bare_variant(txn, hash)?.and_then(|copy| copy.identity.recording_id);
            recording.map(|recording| Ok((recording, tables.library.print(txn, hash)?))).transpose()
        })?;
        if let Some((recording, theirs)) = known
            && ground.judge.same_sound(print, &theirs)
        {
            return Ok(Some(recording));
        }
    }
    Ok(None)
}

/// Bits in which sketches may differ to be worth comparing. Other recordings differ in half of the 64, the same in
/// other codings in a few.
const SKETCH_DISTANCE_MAX: u32 = 16;
/// Copies of one recording differ in duration by less (SPEC-FACTS 1).
const SAME_DURATION_MS: u64 = 7_000;

/// What is to be done with a file, by its row and that of a file with the same number elsewhere.
fn decide(ground: &Ground, scan: &Scan, met: &Met) -> Result<(Step, Option<FileRow>), DoctorError> {
    let (known, twin) = ground.store.read(|txn, tables| {
        let known = tables.library.file(txn, &met.path)?;
        let twin = match &known {
            Some(row) if met.seen.is(row) => None,
            _ => tables.library.file_by_inode(txn, met.seen.inode)?,
        };
        Ok((known, twin))
    })?;
    let twin = twin.filter(|row| row.path != met.path && is_gone(&row.path));
    let step = step(&met.seen, known.as_ref(), twin.as_ref(), scan.id, scan.request.remeasure);
    Ok((step, twin))
}

/// Walks ahead and counts what will be measured.
fn count(ground: &Ground, scan: &Scan, roots: &[PathBuf], reins: &Reins, progress: &watch::Sender<Progress>) {
    let mut totals = Totals::default();
    let tell = |totals: &Totals| {
        progress.send_modify(|progress| {
            progress.files_total = totals.files;
            progress.bytes_total = totals.bytes;
            progress.walked = totals.done;
        });
    };
    for root in roots {
        walk::files(root, &scan.request, &ground.rules, &mut |_| {}, &mut |met| {
            totals.files += 1;
            if !matches!(decide(ground, scan, &met), Ok((Step::Pass, _))) {
                totals.bytes = totals.bytes.saturating_add(met.seen.size);
            }
            if totals.files.is_multiple_of(256) {
                tell(&totals);
            }
            !reins.must_stop()
        });
    }
    totals.done = true;
    tell(&totals);
}

/// Walks, decides and hands out work.
fn feed(
    ground: &Ground,
    scan: &Scan,
    roots: &[PathBuf],
    reins: &Reins,
    jobs: &SyncSender<Job>,
    told: &SyncSender<Answer>,
) {
    let mut met_files = Vec::new();
    // One file under two names is measured once, under the first.
    let mut problems = 0_u32;
    for root in roots {
        let mut files = 0_u64;
        let mut linked: BTreeSet<(u64, u64)> = BTreeSet::new();
        let mut problem = |sentence: String| {
            problems = problems.saturating_add(1);
            if problems <= PROBLEMS {
                tracing::warn!("{sentence}");
            }
        };
        walk::files(root, &scan.request, &ground.rules, &mut problem, &mut |met| {
            files += 1;
            let sent = match decide(ground, scan, &met) {
                Ok((Step::Pass, _)) => told.send(Answer::Passed).is_ok(),
                Ok((step, twin)) => {
                    // Two new names of one file must not both claim its old row.
                    let is_second = step == Step::Rename
                        && met.names > 1
                        && (linked.len() >= limits::SCAN_LINKS || !linked.insert(met.seen.inode));
                    let step = if is_second { Step::Measure } else { step };
                    jobs.send(Job { met, step, twin }).is_ok()
                }
                Err(error) => {
                    tracing::error!(%error, "the scan cannot look files up");
                    reins.stop();
                    false
                }
            };
            sent && !reins.must_stop()
        });
        met_files.push((root.clone(), files));
    }
    // Whoever listened may have ended.
    let _ = told.send(Answer::Walked(met_files));
}

/// Whether the machine is short of something, which is no fault of the file that was to be opened.
fn is_shortage(error: &std::io::Error) -> bool {
    [libc::EMFILE, libc::ENFILE, libc::ENOMEM].into_iter().any(|code| error.raw_os_error() == Some(code))
}

/// Measures files until there are no more.
fn work(ground: &Ground, worker: usize, waiting: &Mutex<Receiver<Job>>, answers: &SyncSender<Answer>, reins: &Reins) {
    loop {
        while !reins.may_work(worker) && !reins.must_stop() {
            std::thread::sleep(Duration::from_millis(500));
        }
        // Held while waiting: the next one to come gets the lock with it. Whatever a panicked thread did is done.
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { met, step, twin }) = job else { return };
        if reins.must_stop() {
            // The walk must not wait for room.
            continue;
        }
        let answer = match (step, twin) {
            (Step::Rename, Some(row)) => Answer::Renamed(met, Box::new(row)),
            _ => measure(ground, met, reins),
        };
        // Nobody hears it when the scan ends; then the walk is told to stop, and what it sent is taken away here, for
        // it must not wait for room.
        let _ = answers.send(answer);
    }
}

fn measure(ground: &Ground, met: Met, reins: &Reins) -> Answer {
    let mut met = met;
    for _ in 1..TRIES {
        match try_to_measure(ground, met, reins) {
            Answer::Done(again, Outcome::NotTried(_)) if !reins.must_stop() => met = again,
            answer => return answer,
        }
        std::thread::sleep(PAUSE);
    }
    try_to_measure(ground, met, reins)
}

fn try_to_measure(ground: &Ground, met: Met, reins: &Reins) -> Answer {
    let path = walk::to_path(&met.path);
    let file = match ground.measure.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Answer::Fleeting,
        Err(error) if is_shortage(&error) => {
            return Answer::Done(met, Outcome::NotTried(format!("it cannot be opened now: {error}")));
        }
        Err(error) => return Answer::Done(met, Outcome::Broken(format!("it cannot be read: {error}"))),
    };
    let name = String::from_utf8_lossy(met.path.name()).into_owned();
    let Some(outcome) = ground.measure.measure(file, &name, &|| reins.must_stop()) else { return Answer::Fleeting };
    let still = std::fs::symlink_metadata(&path).ok().as_ref().and_then(walk::seen);
    if still.is_some_and(|still| still == met.seen) {
        Answer::Done(met, outcome)
    } else {
        // Half old, half new: the next scan meets it in peace.
        Answer::Fleeting
    }
}
