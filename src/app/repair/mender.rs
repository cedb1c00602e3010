//! What becomes of the files that jobs fetch for repairs. The one who does the jobs asks here: what a copy must be
//! ([`Mender::bench`]), where a finished one goes ([`Mender::place`]), and tells when a job is over ([`Mender::over`]).
//!
//! Records go before deeds: a row says what is about to happen under which names, so that [`Mender::recover`] can bring
//! it to its end after a kill.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heed::RwTxn;
use tokio::sync::Notify;

use super::bench::{Bench, Waiting};
use super::count::Counts;
use super::refused::Hindrance;
use super::swap::{Bytes, Folder, NAMES, Names, Outcome, Pair};
use crate::app::doctor::Ground;
use crate::engine::library::merge::{self, Mended};
use crate::engine::repair::judge::Bar;
use crate::engine::repair::swap::{self, Fate, Want, Why};
use crate::engine::repair::turn;
use crate::model::health::{IssueFilter, IssueStatus, LocalPath, parse_uuid};
use crate::model::id::IssueId;
use crate::model::job::{Job, JobId, JobState};
use crate::model::limits;
use crate::model::repair::{Manner, NewFile, OldFile, Places, Repair, RepairState};
use crate::model::time::UnixMs;
use crate::store::tables::Tables;
use crate::store::{Store, StoreError};

/// Why a repair failed whose job was called off.
const CANCELLED: &str = "cancelled";

pub(super) struct Inner {
    pub(super) ground: Ground,
    /// Folders that may be written to.
    pub(super) roots: Vec<PathBuf>,
    /// What a better copy must be better by, 0..=1.
    pub(super) improvement_min: f32,
    /// Held while files change places: one at a time.
    hands: Mutex<()>,
    /// How often the disk refused the finished file of a track, of jobs that are not over.
    refused: Mutex<BTreeMap<(JobId, usize), u32>>,
    /// Those of them that wait for their next attempt, to be woken when the owner asks for it.
    resting: Mutex<BTreeMap<(JobId, usize), Arc<Notify>>>,
    pub(super) counts: Counts,
    /// Something is to be told to library and shares.
    pub(super) news: Notify,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Mender {
    pub(super) inner: Arc<Inner>,
}

/// Where the finished file of a track went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// In the place of what it was fetched for: its name, and a sentence for the job's trace.
    Swapped(String, String),
    /// No file is to be replaced by it, or none can be: it goes where the job's files go.
    AsUsual,
    /// The disk refuses it or is not there, and why; to be tried again after this pause.
    Later(String, Duration),
    /// The same, and it was tried often enough: its repairs have failed, and nobody needs the file.
    Refused(String),
}

pub(super) fn os(path: &LocalPath) -> &Path {
    Path::new(OsStr::from_bytes(&path.0))
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

pub(super) fn joined(folder: &[u8], name: &[u8]) -> LocalPath {
    LocalPath([folder, b"/", name].concat())
}

/// What the job's issues name it by.
pub(super) fn job_number(job: &JobId) -> Option<u128> {
    parse_uuid(job.as_str())
}

fn sentence(why: Why) -> &'static str {
    match why {
        Why::Changed => "the old file was changed or removed meanwhile; it was left as it is",
        Why::Taken => "every name that its backup could have is taken",
        Why::Gone => "the new file is gone",
    }
}

/// Writes a row that is there already, and what follows from it for its issue.
pub(super) fn write(txn: &mut RwTxn<'_>, tables: &Tables, row: &Repair, now: UnixMs) -> Result<(), StoreError> {
    tables.repairs.put(txn, row)?;
    let mended = match (&row.state, row.manner) {
        // Until the library has looked at the tracks, it would find them missing anew.
        (RepairState::Done, Manner::Add) if !row.told => return Ok(()),
        (RepairState::Done, Manner::Beside) => Mended::Beside,
        (RepairState::Done, _) => Mended::Yes,
        (RepairState::Failed(_), _) => Mended::No,
        (RepairState::Undone, _) => Mended::Undone,
        (RepairState::Fetching | RepairState::Swapping | RepairState::Undoing, _) => return Ok(()),
    };
    let (Some(issue), Some(job)) = (tables.library.issue(txn, row.issue)?, job_number(&row.job)) else { return Ok(()) };
    match merge::mended(&issue, job, mended, now) {
        Some(issue) => tables.library.put_issue(txn, &issue),
        None => Ok(()),
    }
}

impl Mender {
    /// For files inside of these folders. `improvement_min`, 0..=1, is what a better copy must be better by.
    pub fn new(ground: Ground, roots: Vec<PathBuf>, improvement_min: f32) -> Self {
        let inner = Inner {
            ground,
            roots,
            improvement_min,
            hands: Mutex::default(),
            refused: Mutex::default(),
            resting: Mutex::default(),
            counts: Counts::default(),
            news: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// While it is held nobody else changes places, or rows of files.
    pub(super) fn hands(&self) -> MutexGuard<'_, ()> {
        self.inner.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn refused(&self) -> MutexGuard<'_, BTreeMap<(JobId, usize), u32>> {
        self.inner.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn resting(&self) -> MutexGuard<'_, BTreeMap<(JobId, usize), Arc<Notify>>> {
        self.inner.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn store(&self) -> &Store {
        &self.inner.ground.store
    }

    pub(super) fn now(&self) -> UnixMs {
        self.inner.ground.clock.now().wall
    }

    pub(super) fn rows(&self, job: &JobId, track: usize) -> Result<Vec<Repair>, StoreError> {
        let track = u32::try_from(track).ok();
        let mut rows = self.store().repairs_of(job)?;
        rows.retain(|row| row.track.is_some() && row.track == track && row.old.is_some());
        Ok(rows)
    }

    // ---- Asked by the one who does the jobs ----

    /// What a copy for this track is measured by; `None`: it is to replace nothing. Blocks on the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn bench(&self, job: &JobId, track: usize) -> Result<Option<Bench>, StoreError> {
        let rows = self.rows(job, track)?;
        let waiting = rows.iter().filter(|row| row.state.is_live());
        let olds: Vec<(&Repair, &OldFile)> = waiting.filter_map(|row| Some((row, row.old.as_ref()?))).collect();
        if olds.is_empty() {
            return Ok(None);
        }
        let waiting = self.store().read(|txn, tables| {
            let one = |(row, old): &(&Repair, &OldFile)| {
                let bar = Bar::of(row.strategy, old, self.inner.improvement_min);
                Ok(Waiting { issue: row.issue, bar, print: tables.library.print(txn, old.content)? })
            };
            olds.iter().map(one).collect::<Result<Vec<_>, StoreError>>()
        })?;
        Ok(Some(Bench::new(waiting)))
    }

    /// A copy was found to be right, but not for `others`. Blocks; durable when it returns.
    ///
    /// # Errors
    /// The store cannot be used.
    pub fn found(&self, job: &JobId, track: usize, new: &NewFile, others: &[IssueId]) -> Result<(), StoreError> {
        let mut rows = self.rows(job, track)?;
        rows.retain(|row| row.state == RepairState::Fetching);
        let now = self.now();
        for row in &mut rows {
            (row.new, row.updated_at) = (Some(new.clone()), now);
            if others.contains(&row.issue) {
                let why = "it does not sound like the copy that was found: its tags may name the wrong recording";
                (row.state, row.ended_at) = (RepairState::Failed(why.to_owned()), Some(now));
            }
        }
        self.write(rows)
    }

    /// Puts the finished file of a track where it belongs; what hinders it at one place keeps it from no other. Blocks;
    /// durable when it returns.
    ///
    /// # Errors
    /// Why not now, in one sentence: it is to be tried again.
    pub fn place(&self, job: &JobId, track: usize, finished: &Path) -> Result<Placed, String> {
        let hands = self.hands();
        // Nobody else changes rows of files meanwhile.
        let rows = self.rows(job, track).map_err(|error| error.to_string())?;
        if rows.is_empty() {
            return Ok(Placed::AsUsual);
        }
        let rows = self.without_dismissed(rows)?;
        let waiting: BTreeSet<_> = rows.iter().filter(|row| row.state.is_live()).map(|row| row.issue).collect();
        let (mut swapped, mut refused, mut away) = (None, Vec::new(), None);
        for group in groups(rows) {
            let issues: Vec<IssueId> = group.iter().map(|row| row.issue).collect();
            match self.swap(group, Some(finished)) {
                Ok(Some(Repair { state: RepairState::Done, places: Some(places), old: Some(old), .. })) => {
                    swapped = Some((text(places.new.name()), told(&old.path, &places)));
                }
                Ok(_) => {}
                Err(Hindrance::Refused(why)) => refused.extend(issues.into_iter().map(|issue| (issue, why.clone()))),
                Err(Hindrance::Away(why)) => away = away.or(Some(why)),
            }
        }
        drop(hands);
        if !refused.is_empty() {
            return self.put_off(job, track, finished, &refused);
        }
        // Nobody refused anything: it is waited for, however long that takes.
        if let Some(why) = away {
            return Ok(Placed::Later(why, turn::PAUSE_MAX));
        }
        self.refused().remove(&(job.clone(), track));
        let Some((name, told)) = swapped else {
            let mut failed = self.rows(job, track).map_err(|error| error.to_string())?;
            failed.retain(|row| row.state.failure().is_some() && waiting.contains(&row.issue));
            self.mark(&mut failed, |row| {
                let why = row.state.failure().unwrap_or_default();
                row.state = RepairState::Failed(format!("{why}; the new file lies in the folder of the job"));
            })?;
            return Ok(Placed::AsUsual);
        };
        // Every place has its own copy.
        if let Err(error) = std::fs::remove_file(finished)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = %finished.display(), %error, "a file that was put in its place is left over");
        }
        Ok(Placed::Swapped(name, told))
    }

    /// A job is over: so are its repairs. Blocks.
    ///
    /// # Errors
    /// The store cannot be used.
    pub fn over(&self, job: &Job) -> Result<(), StoreError> {
        let hands = self.hands();
        for group in groups(self.store().repairs_of(&job.id)?) {
            if let Err(why) = self.let_go(group) {
                tracing::warn!(job = %job.id, why, "what a repair had begun is left over");
            }
        }
        let mut rows = self.store().repairs_of(&job.id)?;
        rows.retain(|row| matches!(row.state, RepairState::Fetching | RepairState::Swapping));
        self.end(rows, Some(job))?;
        drop(hands);
        self.refused().retain(|(known, _), _| *known != job.id);
        let over = job_number(&job.id);
        self.orphans(move |number| over == Some(number))
    }

    /// Without those whose issue the owner dismissed meanwhile: their files stay.
    fn without_dismissed(&self, rows: Vec<Repair>) -> Result<Vec<Repair>, String> {
        let (mut dismissed, mut others) = (Vec::new(), Vec::new());
        for row in rows {
            let issue = self.store().read(|txn, tables| tables.library.issue(txn, row.issue));
            let issue = issue.map_err(|error| error.to_string())?;
            let goes = issue.is_some_and(|issue| issue.status == IssueStatus::Ignored);
            if goes && row.state == RepairState::Fetching { dismissed.push(row) } else { others.push(row) }
        }
        let now = self.now();
        self.mark(&mut dismissed, |row| {
            (row.state, row.ended_at) = (RepairState::Failed("its issue was dismissed".to_owned()), Some(now));
        })?;
        Ok(others)
    }

    /// Takes back a swap that was begun, or brings it to its end where the new file is in its place.
    pub(super) fn let_go(&self, mut rows: Vec<Repair>) -> Result<(), String> {
        rows.retain(|row| row.state == RepairState::Swapping);
        let Some(Repair { old: Some(old), new: Some(new), places: Some(places), manner, .. }) = rows.first().cloned()
        else {
            return Ok(());
        };
        let at = os(&LocalPath(old.path.folder().to_vec())).to_owned();
        let mut folder = Folder::open(&at, &self.inner.roots).map_err(|error| error.to_string())?;
        let names = names(&old.path, &places);
        let want = Want { same_name: names.old == names.new, fate: fate(manner) };
        let outcome = folder.give_up(want, &names, &pair(&old, &new)).map_err(|error| error.to_string())?;
        if outcome == Outcome::Done {
            self.settle(&mut rows, &places)?;
        }
        Ok(())
    }

    // ---- Ends ----

    fn write(&self, rows: Vec<Repair>) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let now = self.now();
        let turned = self.store().write_blocking(move |txn, tables| {
            let mut turned = Vec::new();
            for row in &rows {
                let before = tables.repairs.repair(txn, row.issue)?.map(|before| before.state);
                write(txn, tables, row, now)?;
                let before = before.filter(|before| before.name() != row.state.name());
                turned.extend(before.map(|before| (before, row.clone())));
            }
            Ok(turned)
        })?;
        self.inner.counts.turned(&turned);
        self.inner.news.notify_one();
        Ok(())
    }

    /// Ends repairs whose job will bring no file any more.
    fn end(&self, mut rows: Vec<Repair>, job: Option<&Job>) -> Result<(), StoreError> {
        let now = self.now();
        for row in &mut rows {
            let why = match job {
                None => "its job is gone".to_owned(),
                Some(job) if job.state == JobState::Cancelled => CANCELLED.to_owned(),
                Some(job) if job.state == JobState::Completed && row.manner == Manner::Add => String::new(),
                Some(job) => {
                    let child = row.track.and_then(|at| job.children.get(usize::try_from(at).ok()?));
                    let note = child.and_then(|child| child.note.clone());
                    let error = job.error.clone().unwrap_or_else(|| "the copy was not put in its place".to_owned());
                    note.map_or(error.clone(), |note| format!("{error} (the last: {note})"))
                }
            };
            // Some tracks of an album may have come all the same.
            row.told = row.manner != Manner::Add || job.is_none();
            row.state = if why.is_empty() { RepairState::Done } else { RepairState::Failed(why) };
            (row.updated_at, row.ended_at) = (now, Some(now));
        }
        self.write(rows)
    }

    /// Issues that a job of these was mending and whose row is gone, or is that of a file that was renamed.
    fn orphans(&self, is_over: impl Fn(u128) -> bool + Send + Sync + 'static) -> Result<(), StoreError> {
        let now = self.now();
        self.store().write_blocking(move |txn, tables| {
            let statuses = vec![IssueStatus::Fixing];
            let filter = IssueFilter { statuses, limit: limits::PAGE_ROWS, ..IssueFilter::default() };
            let (fixing, _) = tables.library.issues(txn, &filter)?;
            for issue in fixing {
                let Some(job) = issue.job.filter(|job| is_over(*job)) else { continue };
                let row = tables.repairs.repair(txn, issue.id)?;
                let is_busy = |row: &Repair| row.state.is_live() || (row.state == RepairState::Done && !row.told);
                if row.is_some_and(|row| is_busy(&row) && job_number(&row.job) == Some(job)) {
                    continue;
                }
                if let Some(issue) = merge::mended(&issue, job, Mended::No, now) {
                    tables.library.put_issue(txn, &issue)?;
                }
            }
            Ok(())
        })
    }

    // ---- Swaps ----

    /// Brings the rows of one old file to their end; the first of them as it then is. `Err`: it is to be tried again.
    fn swap(&self, mut rows: Vec<Repair>, finished: Option<&Path>) -> Result<Option<Repair>, Hindrance> {
        rows.retain(|row| matches!(row.state, RepairState::Fetching | RepairState::Swapping | RepairState::Done));
        let Some(first) = rows.first().cloned() else { return Ok(None) };
        if first.state == RepairState::Done {
            return Ok(Some(first));
        }
        let (Some(old), Some(new)) = (first.old.clone(), first.new.clone()) else { return Ok(None) };
        let at = os(&LocalPath(old.path.folder().to_vec())).to_owned();
        let mut folder = match Folder::open(&at, &self.inner.roots) {
            Ok(folder) => folder,
            Err(error) if self.is_away(&at) => return Err(Hindrance::Away(error.to_string())),
            Err(error) => {
                let now = self.now();
                self.mark(&mut rows, |row| {
                    row.state = RepairState::Failed(format!("the file is not where it was: {error}"));
                    (row.told, row.ended_at, row.places) = (false, Some(now), None);
                })?;
                return Ok(rows.into_iter().next());
            }
        };
        let pair = pair(&old, &new);
        let mut places = first.places.clone();
        let known = places.as_ref().map(|places| os(&places.new).to_owned());
        let extension = finished
            .map(Path::to_owned)
            .or(known)
            .and_then(|path| path.extension().map(|extension| extension.to_string_lossy().to_lowercase()));
        let extension = extension.unwrap_or_default();
        for _ in 0..NAMES {
            let planned = if let Some(places) = places.take() {
                places
            } else {
                let places = choose(&folder, &old.path, first.manner, &extension).map_err(|error| error.to_string())?;
                self.mark(&mut rows, |row| {
                    (row.state, row.places) = (RepairState::Swapping, Some(places.clone()));
                })?;
                places
            };
            let names = names(&old.path, &planned);
            let want = Want { same_name: names.old == names.new, fate: fate(first.manner) };
            let outcome = folder
                .swap(want, &names, &pair, finished, &|| Ok(()))
                .map_err(|error| format!("{}: {error}", text(old.path.folder())))?;
            let now = self.now();
            match outcome {
                Outcome::Stopped(Why::Taken) => continue,
                Outcome::Done => self.settle(&mut rows, &planned)?,
                Outcome::Stopped(why) => self.mark(&mut rows, |row| {
                    row.state = RepairState::Failed(sentence(why).to_owned());
                    (row.told, row.ended_at, row.places) = (false, Some(now), None);
                })?,
            }
            return Ok(rows.first().cloned());
        }
        Err("every name for the backup is taken".to_owned().into())
    }

    /// Whether a folder may be on a disk that is not plugged in: what it lies in is not there either, or has nothing in
    /// it.
    pub(super) fn is_away(&self, folder: &Path) -> bool {
        let is_empty = |root: &Path| std::fs::read_dir(root).map_or(true, |mut entries| entries.next().is_none());
        self.inner.roots.iter().filter(|root| folder.starts_with(root)).any(|root| is_empty(root))
    }

    /// The new file is in its place.
    fn settle(&self, rows: &mut [Repair], places: &Places) -> Result<(), String> {
        let now = self.now();
        self.mark(rows, |row| {
            let kept = places.backup.clone().filter(|_| row.manner == Manner::Backup);
            row.places = Some(Places { backup: kept, ..places.clone() });
            (row.state, row.told, row.ended_at) = (RepairState::Done, false, Some(now));
        })
    }

    /// Changes rows, here and in the store.
    pub(super) fn mark(&self, rows: &mut [Repair], change: impl Fn(&mut Repair)) -> Result<(), String> {
        let now = self.now();
        for row in rows.iter_mut() {
            change(row);
            row.updated_at = now;
        }
        self.write(rows.to_vec()).map_err(|error| error.to_string())
    }

    /// Puts the old file of a repair back. Blocks.
    ///
    /// # Errors
    /// Why not, in one sentence.
    pub(super) fn undo(&self, row: &Repair) -> Result<Repair, String> {
        let hands = self.hands();
        // What another one did meanwhile.
        let row = self.store().repair(row.issue).map_err(|error| error.to_string())?.ok_or("it is forgotten")?;
        if let Some(why) = row.not_undone_because() {
            return Err(why.to_owned());
        }
        let done = self.put_back(&row);
        drop(hands);
        done
    }

    fn put_back(&self, row: &Repair) -> Result<Repair, String> {
        let (Some(old), Some(places)) = (row.old.clone(), row.places.clone()) else {
            return Err("it is not known where the files lie".to_owned());
        };
        // Several issues of one file are one repair of it.
        let mut rows = self.store().repairs_of(&row.job).map_err(|error| error.to_string())?;
        rows.retain(|other| other.state == row.state && other.places == row.places && other.old.is_some());
        rows.sort_by_key(|other| other.issue != row.issue);
        let io = |error: std::io::Error| format!("{}: {error}", text(old.path.folder()));
        let mut folder = self.folder_of(row, &mut rows)?;
        let mut at = Names { aside: None, ..names(&old.path, &places) };
        if row.state == RepairState::Done {
            // The owner may have written new tags since: what lies there is kept, whatever it is.
            if let Some(found) = folder.bytes(&at.new).map_err(io)? {
                for row in &mut rows {
                    if let Some(new) = &mut row.new {
                        (new.content, new.size) = (found.content, found.size);
                    }
                }
            }
        }
        let Some(new) = rows.first().and_then(|row| row.new.clone()) else {
            return Err("it is not known what was put there".to_owned());
        };
        let pair = pair(&old, &new);
        let backup = places.backup.clone();
        at.aside = places.aside.as_ref().map(|path| path.name().to_vec());
        for _ in 0..NAMES {
            let aside = match at.aside.take() {
                Some(aside) => aside,
                None if at.old == at.new => backup.as_ref().map(|path| path.name().to_vec()).unwrap_or_default(),
                None => folder.free(|number| swap::backup_name(&at.new, number)).map_err(io)?,
            };
            let planned = Places { aside: Some(joined(old.path.folder(), &aside)), ..places.clone() };
            self.mark(&mut rows, |row| {
                (row.state, row.places) = (RepairState::Undoing, Some(planned.clone()));
            })?;
            let names = Names { aside: (at.old != at.new).then(|| aside.clone()), ..at.clone() };
            let now = self.now();
            match folder.undo(&names, &pair, &|| Ok(())).map_err(io)? {
                Outcome::Done => self.mark(&mut rows, |row| {
                    let new = joined(old.path.folder(), &aside);
                    row.places = Some(Places { new, backup: None, aside: None });
                    (row.state, row.told, row.ended_at) = (RepairState::Undone, false, Some(now));
                })?,
                Outcome::Stopped(Why::Taken) => continue,
                Outcome::Stopped(_) => {
                    self.mark(&mut rows, |row| {
                        (row.state, row.places) = (RepairState::Done, Some(Places { aside: None, ..places.clone() }));
                    })?;
                    return Err("the files were changed or removed since; nothing was touched".to_owned());
                }
            }
            return rows.into_iter().next().ok_or_else(|| "it is forgotten".to_owned());
        }
        Err("every name for the new file is taken".to_owned())
    }

    // ---- At the start ----

    /// Brings to an end what a kill cut short, and ends what nobody works for any more. To be called before jobs are
    /// done. Blocks.
    ///
    /// # Errors
    /// The store cannot be used.
    pub fn recover(&self) -> Result<(), StoreError> {
        let live = self.store().read(|txn, tables| tables.repairs.those(txn, |row| row.state.is_live()))?;
        let mut by_job: BTreeMap<JobId, Vec<Repair>> = BTreeMap::new();
        for row in live {
            by_job.entry(row.job.clone()).or_default().push(row);
        }
        for (id, mut rows) in by_job {
            let job = self.store().job(&id)?;
            for group in groups(rows.extract_if(.., |row| row.state == RepairState::Swapping).collect()) {
                let track = group.first().and_then(|row| usize::try_from(row.track?).ok()).unwrap_or(usize::MAX);
                let work = job.as_ref().and_then(|(_, work)| work.tracks.get(track));
                let finished = work.and_then(|track| track.local.clone()).map(PathBuf::from);
                if let Err(why) = self.swap(group, finished.as_deref()) {
                    tracing::warn!(job = %id, %why, "a repair could not be brought to its end yet");
                }
            }
            for group in groups(rows.extract_if(.., |row| row.state == RepairState::Undoing).collect()) {
                let Some(row) = group.into_iter().next() else { continue };
                if let Err(why) = self.put_back(&row) {
                    tracing::warn!(job = %id, why, "an undoing could not be brought to its end yet");
                }
            }
            let job = job.map(|(job, _)| job);
            if job.as_ref().is_none_or(|job| job.state.is_over()) {
                self.end(rows, job.as_ref())?;
            }
        }
        let alive = self.store().read(|txn, tables| {
            let mut alive = BTreeSet::new();
            tables.jobs.each(txn, |job| {
                if !job.state.is_over() {
                    alive.extend(job_number(&job.id));
                }
                true
            })?;
            Ok(alive)
        })?;
        self.orphans(move |job| !alive.contains(&job))
    }
}

fn pair(old: &OldFile, new: &NewFile) -> Pair {
    Pair { old: Bytes { size: old.size, content: old.content }, new: Bytes { size: new.size, content: new.content } }
}

/// Rows by their old file.
pub(super) fn groups(rows: Vec<Repair>) -> Vec<Vec<Repair>> {
    let mut groups: BTreeMap<LocalPath, Vec<Repair>> = BTreeMap::new();
    for row in rows {
        let Some(path) = row.old.as_ref().map(|old| old.path.clone()) else { continue };
        groups.entry(path).or_default().push(row);
    }
    groups.into_values().collect()
}

fn fate(manner: Manner) -> Fate {
    match manner {
        Manner::Backup => Fate::Kept,
        Manner::NoBackup => Fate::Removed,
        Manner::Beside | Manner::Add => Fate::Stays,
    }
}

/// Where the files of a swap are to lie: names that are free now.
fn choose(folder: &Folder, old: &LocalPath, manner: Manner, extension: &str) -> std::io::Result<Places> {
    let (name, at) = (old.name(), old.folder());
    let stays = manner == Manner::Beside;
    let new = if swap::keeps_name(name, extension) && !stays {
        name.to_vec()
    } else {
        folder.free(|number| swap::new_name(name, extension, number))?
    };
    // Where the old one is removed at the end, it has that name for a moment.
    let backup = if stays { None } else { Some(folder.free(|number| swap::backup_name(name, number))?) };
    Ok(Places { new: joined(at, &new), backup: backup.map(|name| joined(at, &name)), aside: None })
}

fn names(old: &LocalPath, places: &Places) -> Names {
    Names {
        old: old.name().to_vec(),
        new: places.new.name().to_vec(),
        backup: places.backup.as_ref().map(|path| path.name().to_vec()),
        aside: places.aside.as_ref().map(|path| path.name().to_vec()),
    }
}

/// For the job's trace.
fn told(old: &LocalPath, places: &Places) -> String {
    match &places.backup {
        Some(backup) => format!("{} replaces {}, kept as {}", text(places.new.name()), old, text(backup.name())),
        None => format!("{} was put beside or in the place of {old}", text(places.new.name())),
    }
}
