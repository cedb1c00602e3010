//! The Doctor of the daemon: one scan at a time, taken up again after a restart, on a schedule if wanted; statistics
//! and identification kept up in between; slower when the box has other things to do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::easel::Easel;
use super::scan::{self, Reins};
use super::{DoctorError, Ground, load, settle, walk};
use crate::engine::library::governor::{Load, tempo};
use crate::model::health::{LocalPath, Progress, Scan, ScanCounts, ScanRequest, ScanStatus};
use crate::model::id::ScanId;
use crate::model::time::UnixMs;
use crate::net::catalog;
use crate::store::StoreError;
use crate::store::library::TodoKind;

/// Between two looks at load and schedule.
const LOOK: Duration = Duration::from_secs(5);
/// Between two attempts to ask the catalogue about what it could not be asked. Pacing is the catalogue's.
const CATCH_UP: Duration = Duration::from_secs(600);

/// When and what to scan by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Scans may be asked for.
    pub enabled: bool,
    /// Folders; empty: the shared ones.
    pub paths: Vec<LocalPath>,
    /// Between two scans; `None`: never by itself.
    pub every: Option<Duration>,
    /// Between two computations of all statistics.
    pub recount_every: Duration,
    /// Ask no catalogue on the net.
    pub offline: bool,
}

/// Why a scan cannot begin or be found.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// One runs.
    #[error("a scan is running; stop it or wait for its end")]
    Busy,
    /// Nothing was named, or what was named is not there.
    #[error("{0}")]
    Nowhere(String),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No random bits for an id.
    #[error("no randomness for the scan's id")]
    Random,
}

/// Figures since the start, for `/metrics`.
#[derive(Debug, Default)]
struct Counters {
    files: AtomicU64,
    audio_ms: AtomicU64,
    bytes: AtomicU64,
}

/// Figures since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Files measured.
    pub files: u64,
    /// Seconds of audio in them.
    pub audio_s: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Of the catalogs.
    pub catalogs: Vec<catalog::Figures>,
}

/// What is running.
#[derive(Default)]
struct Running {
    scan: Option<ScanId>,
    /// To be begun by the task.
    wanted: Option<Scan>,
    reins: Option<Arc<Reins>>,
}

struct Inner {
    ground: Ground,
    schedule: Schedule,
    /// Held for a few instructions.
    running: Mutex<Running>,
    changed: Notify,
    progress: watch::Sender<Progress>,
    /// Scans that came to their end since the start, however they ended.
    ended: watch::Sender<u64>,
    counters: Counters,
    easel: Easel,
    /// Transfers under way, as the publisher last said.
    transfers: AtomicU64,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Doctor {
    inner: Arc<Inner>,
}

impl Doctor {
    /// On this ground. [`run`] does the work.
    pub fn new(ground: Ground, schedule: Schedule) -> Self {
        let inner = Inner {
            ground,
            schedule,
            running: Mutex::default(),
            changed: Notify::new(),
            progress: watch::Sender::new(Progress::default()),
            ended: watch::Sender::new(0),
            counters: Counters::default(),
            easel: Easel::default(),
            transfers: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What it works with.
    pub fn ground(&self) -> &Ground {
        &self.inner.ground
    }

    pub(super) fn easel(&self) -> &Easel {
        &self.inner.easel
    }

    /// How many transfers are under way.
    pub fn set_transfers(&self, transfers: u64) {
        self.inner.transfers.store(transfers, Ordering::Relaxed);
    }

    /// The running scan, as it goes.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.inner.progress.subscribe()
    }

    /// How many scans came to their end since the start, however they ended: of a short one nobody may see that it ran.
    pub fn ended(&self) -> watch::Receiver<u64> {
        self.inner.ended.subscribe()
    }

    /// Figures since the start.
    pub fn figures(&self) -> Figures {
        let counters = &self.inner.counters;
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Figures {
            files: of(&counters.files),
            audio_s: of(&counters.audio_ms) / 1_000,
            bytes: of(&counters.bytes),
            catalogs: self.inner.ground.catalogue.figures(),
        }
    }

    /// Begins a scan. Blocks on the store and the disk. Without paths it looks at those of the schedule.
    ///
    /// # Errors
    /// When one runs, or there is nothing to look at.
    pub fn start(&self, mut request: ScanRequest) -> Result<ScanId, StartError> {
        if !self.schedule().enabled {
            return Err(StartError::Nowhere("the configuration says library_health.enabled: false".to_owned()));
        }
        if request.paths.is_empty() {
            request.paths = self.present();
        }
        if request.paths.is_empty() {
            return Err(StartError::Nowhere("no folder is named, and none is shared".to_owned()));
        }
        walk::roots(&request).map_err(|error| StartError::Nowhere(error.to_string()))?;
        let scan = new_scan(request, self.inner.ground.clock.now().wall).ok_or(StartError::Random)?;
        {
            let mut running = self.running();
            if running.scan.is_some() {
                return Err(StartError::Busy);
            }
            running.scan = Some(scan.id);
        }
        let (id, row) = (scan.id, scan.clone());
        let kept = self.inner.ground.store.write_blocking(move |txn, tables| tables.library.put_scan(txn, &row));
        let mut running = self.running();
        if let Err(error) = kept {
            running.scan = None;
            return Err(error.into());
        }
        running.wanted = Some(scan);
        drop(running);
        self.inner.changed.notify_one();
        Ok(id)
    }

    /// Stops a scan; false when it does not run.
    pub fn stop(&self, id: ScanId) -> bool {
        let running = self.running();
        let is_it = running.scan == Some(id);
        if is_it && let Some(reins) = &running.reins {
            reins.stop();
        }
        is_it
    }

    fn schedule(&self) -> &Schedule {
        &self.inner.schedule
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place of the running scan; `None` when it is taken.
    fn claim(&self, scan: Scan) -> Option<Scan> {
        let mut running = self.running();
        match running.wanted.take() {
            Some(wanted) => Some(wanted),
            None if running.scan.is_some() => None,
            None => {
                running.scan = Some(scan.id);
                Some(scan)
            }
        }
    }

    /// Folders of the schedule that are there: one on a disk that is not plugged in keeps nobody from looking at the others, and
    /// nothing of it is forgotten. All of them, so that it is told, when none is.
    fn present(&self) -> Vec<LocalPath> {
        let all = &self.schedule().paths;
        let there: Vec<LocalPath> = all.iter().filter(|path| walk::to_path(path).exists()).cloned().collect();
        if there.is_empty() { all.clone() } else { there }
    }

    fn wanted(&self) -> Option<Scan> {
        self.running().wanted.take()
    }

    /// The scan the schedule asks for now. Blocks.
    fn due(&self) -> Result<Option<Scan>, StoreError> {
        let schedule = self.schedule();
        let Some(every) = schedule.every.filter(|_| schedule.enabled && !schedule.paths.is_empty()) else {
            return Ok(None);
        };
        let now = self.inner.ground.clock.now().wall;
        let scans = self.inner.ground.store.read(|txn, tables| tables.library.scans(txn))?;
        // One that failed is tried again after an hour, not at once and not after a week.
        let retry = Duration::from_secs(3_600).min(every);
        let present = self.present();
        // Not one that left out a folder whose disk is back.
        let is_whole = |scan: &Scan| present.iter().all(|path| scan.request.paths.contains(path));
        let last =
            |is_one: &dyn Fn(&Scan) -> bool| scans.iter().filter(|scan| is_one(scan)).map(|scan| scan.started_at).max();
        let done = last(&|scan| match scan.status {
            ScanStatus::Completed => is_whole(scan),
            status => status == ScanStatus::Cancelled,
        });
        let failed = last(&|scan| scan.status == ScanStatus::Failed);
        let waits = done.is_some_and(|at| now.since(at) < every) || failed.is_some_and(|at| now.since(at) < retry);
        if waits {
            return Ok(None);
        }
        let mut request = ScanRequest::of(present);
        request.offline = schedule.offline;
        Ok(new_scan(request, now))
    }

    /// Runs a scan to its end on a thread of its own, with the tempo kept up meanwhile.
    async fn conduct(&self, scan: Scan, cancel: &CancellationToken) -> Result<(), String> {
        let reins = Arc::new(Reins::default());
        self.running().reins = Some(reins.clone());
        let (this, id, held) = (self.clone(), scan.id, reins.clone());
        let before = scan.counts;
        let mut work =
            tokio::task::spawn_blocking(move || scan::run(&this.inner.ground, scan, &held, &this.inner.progress));
        let mut told = before;
        let outcome = loop {
            self.govern(&reins);
            tokio::select! {
                outcome = &mut work => break outcome,
                () = cancel.cancelled(), if !reins.must_stop() => reins.halt(),
                () = tokio::time::sleep(LOOK) => {}
            }
            let counts = self.inner.progress.borrow().counts;
            self.count(&mut told, counts);
        };
        *self.running() = Running::default();
        self.inner.ended.send_modify(|ended| *ended = ended.wrapping_add(1));
        match outcome {
            Ok(Ok(scan)) => {
                self.count(&mut told, scan.counts);
                tracing::info!(%id, status = scan.status.name(), files = scan.counts.files,
                    measured = scan.counts.measured, issues = scan.counts.issues, "library scan");
                Ok(())
            }
            Ok(Err(error @ (DoctorError::Store(_) | DoctorError::Defect))) => Err(error.to_string()),
            Ok(Err(error)) => {
                tracing::warn!(%id, %error, "library scan");
                Ok(())
            }
            Err(panic) => Err(panic.to_string()),
        }
    }

    fn count(&self, told: &mut ScanCounts, now: ScanCounts) {
        let counters = &self.inner.counters;
        counters.files.fetch_add(now.measured.saturating_sub(told.measured), Ordering::Relaxed);
        counters.audio_ms.fetch_add(now.audio_ms.saturating_sub(told.audio_ms), Ordering::Relaxed);
        counters.bytes.fetch_add(now.bytes.saturating_sub(told.bytes), Ordering::Relaxed);
        *told = now;
    }

    #[expect(clippy::cast_precision_loss, reason = "a handful of workers over a handful of cores")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
    fn govern(&self, reins: &Reins) {
        let cores = load::cores();
        let workers = self.inner.ground.workers;
        let transfers = u32::try_from(self.inner.transfers.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        let load = Load {
            per_core: load::per_core(cores),
            own_per_core: workers as f32 / cores as f32,
            temperature_c: load::temperature_c(),
            transfers,
        };
        let tempo = tempo(&load, workers, cores);
        self.inner.ground.measure.set_rest((tempo.rest * 1_000.0).clamp(0.0, 1e6) as u32);
        reins.set_workers(tempo.workers);
    }
}

/// A scan that begins now; `None` without random bits.
pub fn new_scan(request: ScanRequest, now: UnixMs) -> Option<Scan> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).ok()?;
    Some(Scan {
        id: ScanId::from_random(u128::from_be_bytes(bits)),
        request,
        status: ScanStatus::Running,
        started_at: now,
        completed_at: None,
        error: None,
        counts: ScanCounts::default(),
    })
}

/// Works until cancelled: what a kill cut short first, then what is asked for and what is due.
///
/// # Errors
/// When the store cannot be used; the supervisor begins again.
pub async fn run(doctor: Doctor, cancel: CancellationToken) -> Result<(), String> {
    let store = doctor.inner.ground.store.clone();
    let cut_short =
        blocking(move || store.read(|txn, tables| tables.library.unfinished_scan(txn))).await?.map_err(text)?;
    if let Some(scan) = cut_short
        && let Some(scan) = doctor.claim(scan)
    {
        tracing::info!(id = %scan.id, "a library scan that was cut short goes on");
        doctor.conduct(scan, &cancel).await?;
    }
    let mono = || doctor.inner.ground.clock.now().mono;
    // A store from before peers were listened to has statistics, and no consensus made of them.
    let store = doctor.inner.ground.store.clone();
    let old = blocking(move || {
        store.read(|txn, tables| {
            let none = tables.gossip.consensus_after(txn, None, 1)?.is_empty();
            Ok(none && !tables.library.recordings_after(txn, None, 1)?.is_empty())
        })
    });
    let recounted = if old.await?.map_err(text)? { None } else { Some(mono()) };
    let (mut caught_up, mut recounted) = (None::<Duration>, recounted);
    loop {
        if cancel.is_cancelled() {
            return Ok(());
        }
        if let Some(scan) = doctor.wanted() {
            doctor.conduct(scan, &cancel).await?;
            continue;
        }
        let this = doctor.clone();
        if let Some(scan) = blocking(move || this.due()).await?.map_err(text)?
            && let Some(scan) = doctor.claim(scan)
        {
            doctor.conduct(scan, &cancel).await?;
            continue;
        }
        let schedule = doctor.schedule();
        if !schedule.offline && caught_up.is_none_or(|at| mono().saturating_sub(at) >= CATCH_UP) {
            doctor
                .between(&cancel, |ground, reins| {
                    let waits = ground.store.read(|txn, tables| {
                        let mut any = false;
                        for kind in [TodoKind::Identify, TodoKind::AskRecording, TodoKind::AskRelease] {
                            any |= !tables.library.todo(txn, kind, None, 1)?.is_empty();
                        }
                        Ok(any)
                    })?;
                    if waits { settle::Settler::new(ground, reins, false).catch_up().map(drop) } else { Ok(()) }
                })
                .await?;
            caught_up = Some(mono());
        }
        if recounted.is_none_or(|at| mono().saturating_sub(at) >= schedule.recount_every) {
            doctor.between(&cancel, settle::recount).await?;
            recounted = Some(mono());
        }
        // What peers told since: nobody else looks at it before the next scan.
        let store = doctor.inner.ground.store.clone();
        let told = blocking(move || store.read(|txn, tables| tables.library.todo(txn, TodoKind::Recording, None, 1)));
        if !told.await?.map_err(text)?.is_empty() {
            doctor
                .between(&cancel, |ground, reins| settle::Settler::new(ground, reins, true).recordings().map(drop))
                .await?;
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = doctor.inner.changed.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

impl Doctor {
    /// Work between scans. It gives way to a scan that is asked for.
    async fn between(
        &self,
        cancel: &CancellationToken,
        work: impl FnOnce(&Ground, &Reins) -> Result<(), DoctorError> + Send + 'static,
    ) -> Result<(), String> {
        let reins = Arc::new(Reins::default());
        let (ground, held) = (self.inner.ground.clone(), reins.clone());
        let mut working = tokio::task::spawn_blocking(move || work(&ground, &held));
        let outcome = loop {
            tokio::select! {
                outcome = &mut working => break outcome,
                () = cancel.cancelled(), if !reins.must_stop() => reins.stop(),
                () = self.inner.changed.notified() => {
                    reins.stop();
                    self.inner.changed.notify_one();
                    break working.await;
                }
            }
        };
        match outcome {
            Ok(Ok(()) | Err(DoctorError::Stopped)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(panic) => Err(panic.to_string()),
        }
    }

    /// Judges everything anew, see [`settle::rejudge`]. Blocks; not while a scan runs.
    ///
    /// # Errors
    /// When a scan runs, or the store cannot be used.
    pub fn rejudge(&self, force: bool) -> Result<u64, DoctorError> {
        settle::rejudge(&self.inner.ground, &Reins::default(), force)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used by map_err")]
fn text(error: StoreError) -> String {
    error.to_string()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}
