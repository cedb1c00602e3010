//! Repairs in the running program: issues that the owner wants mended become jobs, and what the jobs bring takes the
//! place of what was bad.
//!
//! Decisions are `engine::repair`'s, fetching is the jobs'. [`look`] finds out what an issue takes, [`mender`] is asked
//! by the one who does the jobs and holds the files' records, [`swap`] moves files. The service here answers pages and
//! tools, tells the library and the shares what changed, and begins repairs by itself where the owner wants that.

mod bench;
mod count;
mod keep;
mod look;
mod mender;
mod news;
mod refused;
mod swap;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::bench::Bench;
pub use self::keep::Kept;
pub use self::mender::{Mender, Placed};

use self::look::Case;
use self::mender::job_number;
use super::doctor::scan::Reins;
use super::doctor::service::Doctor;
use super::doctor::walk::to_path;
use super::doctor::{DoctorError, learn};
use super::jobs::{Jobs, new_id, new_job};
use super::sharing::Sharing;
use crate::engine::library::merge;
use crate::engine::repair::plan::{self, Planned};
use crate::engine::repair::turn::Turn;
use crate::model::config::Remediation;
use crate::model::health::{Issue, IssueFilter, IssueKind, IssueStatus};
use crate::model::id::IssueId;
use crate::model::job::JobId;
use crate::model::limits;
use crate::model::repair::{Begun, Manner, Repair, RepairAnswer, RepairCounts, RepairRequest, RepairState, Strategy};
use crate::model::view::Refusal;
use crate::net::catalog::Catalog;
use crate::store::StoreError;

/// Between two looks at what is to be told, and at what is to be begun by itself.
const LOOK: Duration = Duration::from_secs(5);
/// A wish waits so long for what is still to be told; then it is looked at as things are.
const UNTOLD: Duration = Duration::from_secs(20);
/// Rows told at once.
const TOLD_AT_ONCE: usize = 16;
/// Issues looked at for one that may be begun by itself; those that were refused come again later, see [`Turn`].
const CANDIDATES: usize = 256;

/// What repairs are done with.
#[derive(Clone)]
pub struct Parts {
    /// Holds the records.
    pub mender: Mender,
    /// Fetch.
    pub jobs: Jobs,
    /// Knows releases.
    pub catalog: Catalog,
    /// Is told what changed.
    pub doctor: Doctor,
    /// Are told what changed.
    pub sharing: Sharing,
}

/// How issues are to be mended.
#[derive(Clone, Copy, Debug)]
struct Wish {
    /// The program wants it.
    by_itself: bool,
    /// With the tags of the old files.
    keep_tags: bool,
}

/// How they are done.
#[derive(Clone, Copy, Debug)]
pub struct RepairSettings {
    /// What the owner wants.
    pub remediation: Remediation,
    /// No catalog on the net is asked when files are looked at.
    pub offline: bool,
}

struct Inner {
    parts: Parts,
    settings: RepairSettings,
    /// Issues that could not be begun by themselves, since they were last looked at anew.
    refused: Mutex<BTreeSet<IssueId>>,
    /// Held while issues become jobs: catalogs are asked for one wish after the other.
    wishes: tokio::sync::Mutex<()>,
    /// How many rows library and shares were told of.
    told: watch::Sender<u64>,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct RepairService {
    inner: Arc<Inner>,
}

#[expect(clippy::needless_pass_by_value, reason = "used by map_err")]
fn unreadable(error: StoreError) -> Refusal {
    tracing::error!(%error, "the store could not be used");
    Refusal::Full(format!("the store cannot be used: {error}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Refusal::Full(error.to_string()))
}

fn plain(refusal: Refusal) -> String {
    match refusal {
        Refusal::Full(why) | Refusal::Invalid(why) => why,
        other => format!("{other:?}"),
    }
}

impl RepairService {
    /// With these parts. [`run`] does what goes on by itself.
    pub fn new(parts: Parts, settings: RepairSettings) -> Self {
        Self {
            inner: Arc::new(Inner {
                parts,
                settings,
                refused: Mutex::default(),
                wishes: tokio::sync::Mutex::default(),
                told: watch::Sender::default(),
            }),
        }
    }

    fn mender(&self) -> &Mender {
        &self.inner.parts.mender
    }

    /// Since the program began.
    pub fn counts(&self) -> RepairCounts {
        self.mender().counts()
    }

    /// Answers a page or a tool.
    ///
    /// # Errors
    /// Why not.
    pub async fn answer(&self, request: RepairRequest) -> Result<RepairAnswer, Refusal> {
        let store = self.mender().store().clone();
        match request {
            RepairRequest::Fix { issues, keep_tags } => {
                let wish = Wish { by_itself: false, keep_tags };
                Ok(RepairAnswer::Begun(self.fix(issues, wish).await?))
            }
            RepairRequest::Of(issues) => {
                let read = move || {
                    store.read(|txn, tables| {
                        let rows = issues.into_iter().map(|issue| tables.repairs.repair(txn, issue));
                        rows.filter_map(Result::transpose).collect::<Result<Vec<_>, StoreError>>()
                    })
                };
                Ok(RepairAnswer::Repairs(blocking(read).await?.map_err(unreadable)?))
            }
            RepairRequest::OfJob(job) => {
                let rows = blocking(move || store.repairs_of(&job)).await?;
                Ok(RepairAnswer::Repairs(rows.map_err(unreadable)?))
            }
            RepairRequest::One(issue) => {
                let row = blocking(move || store.repair(issue)).await?.map_err(unreadable)?;
                Ok(RepairAnswer::Repairs(vec![row.ok_or(Refusal::NotFound)?]))
            }
            RepairRequest::Undo(issue) => {
                let row = blocking(move || store.repair(issue)).await?.map_err(unreadable)?.ok_or(Refusal::NotFound)?;
                let mender = self.mender().clone();
                let row = blocking(move || mender.undo(&row)).await?.map_err(Refusal::Invalid)?;
                Ok(RepairAnswer::Repairs(vec![row]))
            }
        }
    }

    // ---- Beginning ----

    async fn fix(&self, issues: Vec<IssueId>, wish: Wish) -> Result<Begun, Refusal> {
        let mut unique = Vec::new();
        for issue in issues {
            if !unique.contains(&issue) {
                unique.push(issue);
            }
        }
        if unique.is_empty() || unique.len() > limits::FIX_AT_ONCE {
            let most = limits::FIX_AT_ONCE;
            return Err(Refusal::Invalid(format!("one to {most} issues are mended at once, not {}", unique.len())));
        }
        if !wish.by_itself {
            self.until_told(&unique).await?;
        }
        let _one = self.inner.wishes.lock().await;
        let mut begun = Begun::default();
        let (mut cases, mut hurried) = (Vec::new(), BTreeSet::new());
        for issue in unique {
            if !wish.by_itself
                && let Some(job) = self.hurry(issue, &mut hurried).await?
            {
                if !begun.jobs.contains(&job) {
                    begun.jobs.push(job.clone());
                }
                begun.begun.push((issue, job));
                continue;
            }
            match look::look(self.mender(), &self.inner.parts.catalog, issue).await {
                Ok(case) => cases.push(case),
                Err(why) => begun.refused.push((issue, why)),
            }
        }
        for job in plan::jobs(cases.iter().map(|case| case.wanted.clone()).collect()) {
            let issues: Vec<IssueId> = job.issues.iter().map(|(issue, ..)| *issue).collect();
            let refused = self.begin(job, &cases, wish).await;
            match refused {
                Ok((id, refused)) => {
                    let refused_too = |issue: &IssueId| refused.iter().any(|(other, _)| other == issue);
                    begun.begun.extend(issues.iter().filter(|i| !refused_too(i)).map(|issue| (*issue, id.clone())));
                    begun.jobs.push(id);
                    begun.refused.extend(refused);
                }
                Err(refused) => begun.refused.extend(refused),
            }
        }
        Ok(begun)
    }

    /// If the repair of an issue rests because the disk refused it, it is tried again now: by this job.
    async fn hurry(&self, issue: IssueId, hurried: &mut BTreeSet<(JobId, usize)>) -> Result<Option<JobId>, Refusal> {
        let store = self.mender().store().clone();
        let row = blocking(move || store.repair(issue)).await?.map_err(unreadable)?;
        let Some(row) = row.filter(|row| matches!(row.state, RepairState::Fetching | RepairState::Swapping)) else {
            return Ok(None);
        };
        let Some(track) = row.track.and_then(|track| usize::try_from(track).ok()) else { return Ok(None) };
        // Of a file that mends several issues, the first of them has woken the job.
        let is_awake = hurried.contains(&(row.job.clone(), track)) || self.mender().hurry(&row.job, Some(track));
        if is_awake {
            hurried.insert((row.job.clone(), track));
        }
        Ok(is_awake.then_some(row.job))
    }

    /// Waits a moment for the library to know what repairs did last to the files of these issues: of a file just put back it
    /// would say that it has changed.
    async fn until_told(&self, issues: &[IssueId]) -> Result<(), Refusal> {
        let mut told = self.inner.told.subscribe();
        let wait = async {
            loop {
                told.borrow_and_update();
                let (store, of) = (self.mender().store().clone(), issues.to_vec());
                let untold = move || {
                    store.read(|txn, tables| tables.repairs.those(txn, |row| !row.told && of.contains(&row.issue)))
                };
                if blocking(untold).await?.map_err(unreadable)?.is_empty() {
                    return Ok(());
                }
                self.mender().inner.news.notify_one();
                if told.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(UNTOLD, wait).await.unwrap_or(Ok(()))
    }

    fn manner(&self, strategy: Strategy) -> Manner {
        let Remediation { replace, backup, .. } = self.inner.settings.remediation;
        match (strategy, replace, backup) {
            (Strategy::CompleteAlbum, ..) => Manner::Add,
            (_, false, _) => Manner::Beside,
            (_, true, true) => Manner::Backup,
            (_, true, false) => Manner::NoBackup,
        }
    }

    /// Begins one job; issues that have no part in it are refused, and if that is all of them there is no job.
    async fn begin(
        &self,
        job: Planned,
        cases: &[Case],
        wish: Wish,
    ) -> Result<(JobId, Vec<(IssueId, String)>), Vec<(IssueId, String)>> {
        let all = |why: String| job.issues.iter().map(|(issue, ..)| (*issue, why.clone())).collect::<Vec<_>>();
        let id = new_id().map_err(&all)?;
        let now = self.mender().now();
        let row = |(issue, strategy, track): &(IssueId, Strategy, Option<u32>)| Repair {
            issue: *issue,
            job: id.clone(),
            track: *track,
            strategy: *strategy,
            manner: self.manner(*strategy),
            old: cases.iter().find(|case| case.wanted.issue == *issue).and_then(|case| case.old.clone()),
            new: None,
            places: None,
            state: RepairState::Fetching,
            by_itself: wish.by_itself,
            keep_tags: wish.keep_tags,
            tags_kept: false,
            told: true,
            began_at: now,
            updated_at: now,
            ended_at: None,
        };
        let rows: Vec<Repair> = job.issues.iter().map(row).collect();
        let number = job_number(&id).unwrap_or_default();
        // The records first: a file that comes without one would replace nothing.
        let write = self.mender().store().write(move |txn, tables| {
            let live = tables.repairs.those(txn, |repair| repair.state.is_live())?;
            let mut before: Vec<(Issue, Option<Repair>)> = Vec::new();
            let mut refused: Vec<(IssueId, String)> = Vec::new();
            for row in &rows {
                let other = live.iter().find(|other| {
                    let same =
                        |old: &crate::model::repair::OldFile| row.old.as_ref().is_some_and(|o| o.path == old.path);
                    other.issue == row.issue || other.old.as_ref().is_some_and(same)
                });
                let Some(issue) = tables.library.issue(txn, row.issue)? else { continue };
                // It may have changed while catalogs were asked.
                let wanted = plan::wanted(&issue).map(drop);
                let why = match (other, wanted) {
                    (Some(_), _) => Some("another repair of the same file is under way".to_owned()),
                    (None, Err(why)) => Some(why),
                    (None, Ok(())) => None,
                };
                let known = tables.repairs.repair(txn, row.issue)?;
                let why = match why {
                    None if !tables.repairs.put(txn, row)? => {
                        Some(format!("{} repairs are under way, which is all there may be", limits::REPAIRS))
                    }
                    why => why,
                };
                if let Some(why) = why {
                    refused.push((issue.id, why));
                } else {
                    tables.library.put_issue(txn, &merge::fixing(&issue, number))?;
                    before.push((issue, known));
                }
            }
            Ok((before, refused))
        });
        let (before, refused) = write.await.map_err(|error| all(plain(unreadable(error))))?;
        if before.is_empty() {
            return Err(refused);
        }
        let Err(why) = self.inner.parts.jobs.take_up(new_job(id.clone(), job.spec.clone(), now)).await else {
            self.mender().inner.counts.begun(before.len());
            tracing::info!(job = %id, issues = before.len(), title = job.spec.title, "a repair was begun");
            return Ok((id, refused));
        };
        // As if nobody had asked.
        let back = self.mender().store().write(move |txn, tables| {
            for (issue, known) in &before {
                tables.library.put_issue(txn, issue)?;
                match known {
                    Some(row) => drop(tables.repairs.put(txn, row)?),
                    None => tables.repairs.remove(txn, issue.id)?,
                }
            }
            Ok(())
        });
        if let Err(error) = back.await {
            tracing::error!(%error, "a repair that could not be begun is ended at the next start");
        }
        Err(all(plain(why)))
    }

    // ---- By itself ----

    /// Tells the library and the shares what repairs changed; what cannot be looked at now stays for the next time.
    async fn tell(&self, reins: &Arc<Reins>, cancel: &CancellationToken) -> Result<(), Refusal> {
        let mender = self.mender().clone();
        let untold = blocking(move || {
            let rows = mender.store().read(|txn, tables| tables.repairs.those(txn, |repair| !repair.told))?;
            let rows = rows.into_iter().take(TOLD_AT_ONCE);
            rows.map(|row| Ok((mender.changed(&row)?, row))).collect::<Result<Vec<_>, StoreError>>()
        });
        for (files, row) in untold.await?.map_err(unreadable)? {
            for file in &files {
                self.inner.parts.sharing.touch(&to_path(&file.path));
            }
            let (ground, held) = (self.inner.parts.doctor.ground().clone(), Arc::clone(reins));
            let offline = self.inner.settings.offline;
            let mut learning = tokio::task::spawn_blocking(move || learn::learn(&ground, &files, &held, offline));
            let learned = tokio::select! {
                learned = &mut learning => learned,
                // A worker is let go of within a moment; its thread must not outlive the runtime it waits on.
                () = cancel.cancelled() => {
                    reins.stop();
                    learning.await
                }
            };
            match learned.map_err(|error| Refusal::Full(error.to_string()))? {
                Ok(()) => {}
                Err(DoctorError::Store(error)) => return Err(unreadable(error)),
                Err(error) => {
                    tracing::debug!(issue = %row.issue, %error, "what a repair changed is looked at later");
                    if cancel.is_cancelled() {
                        return Ok(());
                    }
                    continue;
                }
            }
            let mender = self.mender().clone();
            blocking(move || mender.told(&row)).await?.map_err(unreadable)?;
            self.inner.told.send_modify(|told| *told = told.wrapping_add(1));
        }
        Ok(())
    }

    /// Begins repairs of suspected transcodes; true while there may be more of them.
    async fn begin_by_itself(&self) -> Result<bool, Refusal> {
        let (store, refused) = (self.mender().store().clone(), self.refused().len());
        let read = move || {
            store.read(|txn, tables| {
                let under_way = tables.repairs.those(txn, |repair| repair.by_itself && repair.state.is_live())?.len();
                let filter = IssueFilter {
                    kinds: vec![IssueKind::SuspectedTranscode],
                    statuses: vec![IssueStatus::Detected],
                    limit: CANDIDATES.saturating_add(refused),
                    ..IssueFilter::default()
                };
                let mut found = tables.library.issues(txn, &filter)?.0;
                // What the owner undid is not done again.
                let mut undone = BTreeSet::new();
                for issue in &found {
                    let row = tables.repairs.repair(txn, issue.id)?;
                    if row.is_some_and(|row| row.state == RepairState::Undone) {
                        undone.insert(issue.id);
                    }
                }
                found.retain(|issue| !undone.contains(&issue.id));
                Ok((under_way, found))
            })
        };
        let (under_way, found) = blocking(read).await?.map_err(unreadable)?;
        let refused = |issue: &IssueId| self.refused().contains(issue);
        let open: Vec<IssueId> = found.iter().map(|issue| issue.id).filter(|issue| !refused(issue)).collect();
        let room = limits::AUTO_FIXES.saturating_sub(under_way);
        let next: Vec<IssueId> = open.iter().copied().take(room).collect();
        if next.is_empty() {
            return Ok(!open.is_empty());
        }
        let begun = self.fix(next, Wish { by_itself: true, keep_tags: false }).await?;
        for (issue, why) in begun.refused {
            tracing::info!(%issue, why, "a suspected transcode is not repaired by itself");
            self.refused().insert(issue);
        }
        Ok(true)
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, BTreeSet<IssueId>> {
        self.inner.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells what repairs changed, and begins some by itself where the owner wants that, until cancelled.
///
/// # Errors
/// The store cannot be used; the supervisor begins again.
pub async fn run(service: RepairService, cancel: CancellationToken) -> Result<(), String> {
    let reins = Arc::new(Reins::default());
    // Before the first look: no scan ends unseen in between.
    let mut ended = service.inner.parts.doctor.ended();
    let mut turn = service.inner.settings.remediation.auto_fix_transcodes.then(Turn::default);
    loop {
        service.tell(&reins, &cancel).await.map_err(plain)?;
        if let Some(turn) = &mut turn {
            let now = service.mender().inner.ground.clock.now().mono;
            let scans = *ended.borrow_and_update();
            if turn.look(scans, now) {
                service.refused().clear();
            }
            if turn.is_due() {
                tokio::select! {
                    more = service.begin_by_itself() => turn.went(more.map_err(plain)?),
                    () = cancel.cancelled() => return Ok(()),
                }
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = service.mender().inner.news.notified() => {}
            Ok(()) = ended.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
