//! Jobs in the running program. Decisions are `engine::jobs`'s; searching and downloading go through the node's own
//! doors with their limits; one task ([`lead`]) owns every job's record.

mod check;
mod lead;
pub mod manifests;
mod place;
mod tag;
mod yaml;

pub use self::lead::STAGING;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::lead::{Lead, Told};
use self::manifests::Manifests;
use super::apply::Folders;
use super::catalog;
use super::doctor::service::Doctor;
use super::mesh::{MeshService, reputation_settings};
use super::repair::Mender;
use super::rescue::RescueService;
use super::soulseek::NodeHandle;
use super::traces::Traces;
use crate::engine::jobs::plan::Rules;
use crate::engine::jobs::{place as places, reference};
use crate::engine::manifest;
use crate::engine::swarm::reputation::ReputationSettings;
use crate::model::catalog::{Release, TrackInRelease};
use crate::model::config::Config;
use crate::model::job::{
    Child, Constraints, Job, JobAnswer, JobId, JobRequest, JobState, JobTrack, JobView, MbRelease, NewJob,
};
use crate::model::limits;
use crate::model::time::UnixMs;
use crate::model::view::Refusal;
use crate::net::catalog::{Catalog, Later};
use crate::store::{Store, StoreError};

/// What jobs are done with.
#[derive(Clone)]
pub struct Tools {
    /// Records.
    pub store: Store,
    /// Searches and downloads.
    pub node: NodeHandle,
    /// Measures and knows copies.
    pub doctor: Doctor,
    /// Releases and sounds.
    pub catalog: Catalog,
    /// What happened is written down.
    pub traces: Traces,
    /// Puts files in the place of bad ones.
    pub mender: Mender,
    /// Brings what no user has.
    pub mesh: MeshService,
    /// Says whether it may.
    pub rescue: RescueService,
}

/// How they are done.
#[derive(Clone, Debug)]
pub struct JobSettings {
    /// How patient the owner is.
    pub rules: Rules,
    /// Where everything lies.
    pub folders: Folders,
    /// Folders besides the downloads folder that an album may go to.
    pub roots: Vec<PathBuf>,
    /// Where every job is written down too.
    pub manifests: Manifests,
    /// The tags of finished files are written.
    pub write_tags: bool,
    /// How users are trusted that jobs met before.
    pub reputation: ReputationSettings,
}

impl JobSettings {
    /// As configured.
    pub fn new(config: &Config, folders: &Folders) -> Self {
        let jobs = &config.jobs;
        let rest = Duration::from_secs(jobs.search_again_minutes.saturating_mul(60));
        let shared = config.shares.directories.iter().map(|(_, path)| PathBuf::from(path));
        let library = config.library_health.library_paths.iter().map(PathBuf::from);
        Self {
            rules: Rules { rounds: jobs.search_rounds, rest },
            folders: folders.clone(),
            roots: shared.chain(library).collect(),
            manifests: Manifests::new(jobs.manifests.then(|| folders.data.join(&jobs.manifests_path))),
            write_tags: jobs.write_tags,
            reputation: reputation_settings(config),
        }
    }
}

impl JobSettings {
    /// Every folder that an album may go to.
    pub fn allowed(&self) -> Vec<PathBuf> {
        std::iter::once(self.folders.downloads.clone()).chain(self.roots.iter().cloned()).collect()
    }
}

struct Inner {
    tools: Tools,
    settings: JobSettings,
    told: mpsc::Sender<Told>,
    hears: Mutex<mpsc::Receiver<Told>>,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    inner: Arc<Inner>,
}

/// Does the jobs until cancelled.
///
/// # Errors
/// The store cannot be used.
pub async fn run(jobs: Jobs, cancel: CancellationToken) -> Result<(), String> {
    let mut hears = jobs.inner.hears.lock().await;
    Lead::new(&jobs.inner.tools, &jobs.inner.settings, cancel).run(&mut hears).await.map_err(|error| error.to_string())
}

#[expect(clippy::needless_pass_by_value, reason = "used by map_err")]
fn unreadable(error: StoreError) -> Refusal {
    tracing::error!(%error, "the store could not be used");
    Refusal::Full(format!("the store cannot be used: {error}"))
}

fn later(error: &Later) -> Refusal {
    Refusal::Full(format!("the catalog cannot be asked now: {error}"))
}

impl Jobs {
    /// With these tools. [`run`] does the work.
    pub fn new(tools: Tools, settings: JobSettings) -> Self {
        let (told, hears) = mpsc::channel(limits::JOB_ORDERS);
        Self { inner: Arc::new(Inner { tools, settings, told, hears: Mutex::new(hears) }) }
    }

    /// Answers one question.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn answer(&self, request: JobRequest) -> Result<JobAnswer, Refusal> {
        match request {
            JobRequest::List { offset, limit, state } => self.list(offset, limit, state).await,
            JobRequest::One(id) => self.one(id).await,
            JobRequest::Create(new) => {
                let job = self.create(*new).await?;
                self.adopt(job).await
            }
            JobRequest::Pause(id) => self.order(|to| Told::Pause(id, to)).await,
            JobRequest::Resume(id) => self.order(|to| Told::Resume(id, to)).await,
            JobRequest::Export(id) => {
                let (job, _) = self.read(move |store| store.job(&id)).await?.ok_or(Refusal::NotFound)?;
                Ok(JobAnswer::Text(manifest::write(&job)))
            }
            JobRequest::Import(text) => {
                let now = self.inner.tools.doctor.ground().clock.now().wall;
                let settings = &self.inner.settings;
                let job = manifests::read(&text, settings, now).map_err(|error| Refusal::Invalid(error.to_string()))?;
                self.adopt(manifests::taken_up(job, settings)).await
            }
            JobRequest::Cancel(id) => self.order(|to| Told::Cancel(id, to)).await,
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let store = self.inner.tools.store.clone();
        let read = tokio::task::spawn_blocking(move || read(&store)).await;
        read.map_err(|error| Refusal::Full(error.to_string()))?.map_err(unreadable)
    }

    async fn list(&self, offset: usize, limit: usize, state: Option<JobState>) -> Result<JobAnswer, Refusal> {
        let listed = self.read(move |store| {
            store.read(|txn, tables| {
                let (mut rows, mut count, mut skipped) = (Vec::new(), 0_usize, 0);
                tables.jobs.each(txn, |job| {
                    if state.is_none_or(|state| job.state == state) {
                        count += 1;
                        if skipped < offset {
                            skipped += 1;
                        } else if rows.len() < limit.min(limits::JOBS_PAGE) {
                            rows.push(job);
                        }
                    }
                    true
                })?;
                let with_work = rows.into_iter().map(|job| {
                    let doing = tables.jobs.work(txn, &job.id)?.doing;
                    Ok(JobView { job, doing })
                });
                Ok((with_work.collect::<Result<Vec<_>, StoreError>>()?, count))
            })
        });
        let (rows, count) = listed.await?;
        Ok(JobAnswer::Jobs(rows, count))
    }

    async fn one(&self, id: JobId) -> Result<JobAnswer, Refusal> {
        let (job, work) = self.read(move |store| store.job(&id)).await?.ok_or(Refusal::NotFound)?;
        Ok(JobAnswer::Job(Box::new(JobView { job, doing: work.doing })))
    }

    async fn order(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<JobView, Refusal>>) -> Told,
    ) -> Result<JobAnswer, Refusal> {
        let stopping = || Refusal::Full("the program is stopping".to_owned());
        let (to, heard) = oneshot::channel();
        self.inner.told.send(order(to)).await.map_err(|_| stopping())?;
        Ok(JobAnswer::Job(Box::new(heard.await.map_err(|_| stopping())??)))
    }

    /// Takes up a job that was made here.
    ///
    /// # Errors
    /// Why not: too many are not over, or the program ends.
    pub async fn take_up(&self, job: Job) -> Result<JobId, Refusal> {
        match self.adopt(job).await? {
            JobAnswer::Job(view) => Ok(view.job.id),
            JobAnswer::Jobs(..) | JobAnswer::Text(_) => Err(Refusal::NotFound),
        }
    }

    /// Hands a new job to the one who does them.
    async fn adopt(&self, job: Job) -> Result<JobAnswer, Refusal> {
        self.order(|to| Told::Adopt(Box::new(job), to)).await
    }

    /// A job for the release that was named.
    async fn create(&self, new: NewJob) -> Result<Job, Refusal> {
        let invalid = |text: String| Refusal::Invalid(text);
        if let Some(why) = new.constraints.as_ref().and_then(Constraints::too_slow) {
            return Err(invalid(why));
        }
        let catalog = &self.inner.tools.catalog;
        let id = match reference::parse(&new.reference).map_err(|error| invalid(error.to_string()))? {
            reference::Reference::MusicBrainz(id) => id,
            reference::Reference::Discogs(number) => {
                let linked = catalog.linked_to_discogs(number).await.map_err(|error| later(&error))?;
                linked.ok_or_else(|| invalid(format!("no release of MusicBrainz links to Discogs release {number}")))?
            }
        };
        let release = catalog::release(catalog, id).await.map_err(|error| later(&error))?;
        let release = release.ok_or_else(|| invalid(format!("MusicBrainz has no release {id}")))?;
        let tracks = wanted(&release, &new).map_err(invalid)?;
        let year = release.date.and_then(|date| date.year);
        let target_dir = match new.target_dir.map(|dir| dir.trim().to_owned()).filter(|dir| !dir.is_empty()) {
            Some(dir) => {
                self.target(&dir).map_err(|error| invalid(format!("target_dir: {error}")))?;
                dir
            }
            None => places::folder(&release.artist, &release.title, year),
        };
        let now = self.inner.tools.doctor.ground().clock.now().wall;
        let bits = random().map_err(Refusal::Full)?;
        let spec = MbRelease {
            release: release.id,
            title: cut(&release.title),
            artist: cut(&release.artist),
            target_dir,
            tracks,
            constraints: new.constraints.unwrap_or_default(),
        };
        Ok(new_job(JobId::from_random(bits), spec, now))
    }

    fn target(&self, wanted: &str) -> Result<PathBuf, place::TargetError> {
        place::target(wanted, &self.inner.settings.folders.downloads, &self.inner.settings.roots)
    }
}

/// A job that nobody has taken up yet.
pub(super) fn new_job(id: JobId, spec: MbRelease, now: UnixMs) -> Job {
    Job {
        id,
        origin: None,
        created_at: now,
        updated_at: now,
        started_at: None,
        completed_at: None,
        state: JobState::Pending,
        error: None,
        children: vec![Child::new(); spec.tracks.len()],
        spec,
    }
}

/// Whether a job's album may go to this folder, a whole path.
///
/// # Errors
/// Why not.
pub(super) fn may_go_to(folder: &str, allowed: &[PathBuf]) -> Result<(), String> {
    let (first, others) = allowed.split_first().ok_or("no folder may be written to")?;
    place::target(folder, first, others).map(drop).map_err(|error| error.to_string())
}

/// At most `limits::JOB_TEXT` bytes of a text, whole characters.
pub(super) fn cut(text: &str) -> String {
    let most = limits::JOB_TEXT.min(text.len());
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

/// A name for a new job.
///
/// # Errors
/// There is no randomness.
pub fn new_id() -> Result<JobId, String> {
    random().map(JobId::from_random)
}

/// Random bits for an id.
fn random() -> Result<u128, String> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| format!("no randomness: {error}"))?;
    Ok(u128::from_be_bytes(bits))
}

/// A track of a release as jobs want it.
pub(super) fn job_track(release: &Release, track: &TrackInRelease) -> JobTrack {
    JobTrack {
        medium: track.medium,
        position: track.position,
        title: cut(&track.title),
        artist: if track.artist == release.artist { String::new() } else { cut(&track.artist) },
        recording: track.recording,
        duration_ms: track.duration_ms,
    }
}

/// The tracks of a release that are wanted.
fn wanted(release: &Release, new: &NewJob) -> Result<Vec<JobTrack>, String> {
    if let Some(stranger) = new.tracks.iter().find(|id| !release.tracks().any(|track| track.recording == **id)) {
        return Err(format!("the release has no recording {stranger}"));
    }
    let chosen = release.tracks().filter(|track| {
        if new.tracks.is_empty() { track.is_expected() } else { new.tracks.contains(&track.recording) }
    });
    let tracks: Vec<JobTrack> = chosen.map(|track| job_track(release, track)).collect();
    if tracks.is_empty() {
        return Err("the release has no tracks that could be fetched".to_owned());
    }
    if tracks.len() > limits::JOB_TRACKS {
        let (found, most) = (tracks.len(), limits::JOB_TRACKS);
        return Err(format!("the release has {found} tracks, at most {most} at once: name some of them"));
    }
    Ok(tracks)
}

#[cfg(test)]
mod manifest_tests;
