//! The one who does the jobs: looks at each running one about once a second, hands what it sees to
//! `engine::jobs::plan`, and does what that says. A job's record is durable before anything is done that it tells of.

mod deeds;
mod mesh;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::check::Checked;
use super::{JobSettings, Tools, cut, manifests, random};
use crate::app::traces::TraceJob;
use crate::engine::jobs::deed::{self, Deed};
use crate::engine::jobs::plan::{self, Order, Seen, Standing};
use crate::engine::jobs::work::{Fetching, Work};
use crate::engine::soulseek::io::{Command, Reply};
use crate::model::id::{TransferId, Username};
use crate::model::job::{Job, JobId, JobState, JobView, TrackState};
use crate::model::limits;
use crate::model::rescue::Guardrail;
use crate::model::trace::TraceKind;
use crate::model::transfer::{DISK_FULL, Direction, Ending, OWN_DISK, Transfer, TransferState};
use crate::model::view::{Refusal, SearchState};
use crate::store::StoreError;

/// Between two looks at the running jobs.
const LOOK: Duration = Duration::from_secs(1);
/// A search ends so long after its last answer, milliseconds (slskd's).
const SEARCH_MS: u64 = 15_000;
/// Before another attempt at what could not be measured or moved.
const AGAIN: Duration = Duration::from_secs(30);
/// How long work under way may take to end with the program.
const PARTING: Duration = Duration::from_secs(3);
/// Folder below the downloads folder where files wait to be checked. It is never shared.
pub const STAGING: &str = ".jobs";

type Answered = oneshot::Sender<Result<JobView, Refusal>>;

/// Told by the handle.
pub(super) enum Told {
    /// A new job.
    Adopt(Box<Job>, Answered),
    Pause(JobId, Answered),
    Resume(JobId, Answered),
    Cancel(JobId, Answered),
}

/// What a file's measuring or moving came to.
enum Done {
    Checked(Checked),
    /// Its name, and what is to be said of it besides.
    Placed(Result<(String, Option<String>), String>),
    /// It is not put where it was to go, and will not be: why.
    Refused(String),
    /// The file has another size than is on record: its tags were written.
    Sized(u64),
}

pub(super) struct Lead<'a> {
    tools: &'a Tools,
    settings: &'a JobSettings,
    cancel: CancellationToken,
    /// Jobs that are not over; those that run have a trace.
    live: BTreeMap<JobId, (JobState, TraceJob)>,
    /// Files being measured or moved: job and track.
    busy: BTreeMap<JobId, BTreeSet<usize>>,
    checks: JoinSet<(JobId, usize, Done)>,
    permits: Arc<Semaphore>,
    /// When it was said last how much the mesh may bring, and what of that was not counted yet.
    ration_at: Option<Duration>,
    rationed: u64,
    /// Of jobs that are not over.
    hits: BTreeMap<JobId, Hits>,
}

/// Guardrails that hold a job back.
#[derive(Debug, Default)]
struct Hits {
    told: BTreeSet<Guardrail>,
    /// What comes from the mesh waits for the day to have room again.
    spent: bool,
}

impl<'a> Lead<'a> {
    pub(super) fn new(tools: &'a Tools, settings: &'a JobSettings, cancel: CancellationToken) -> Self {
        Self {
            tools,
            settings,
            cancel,
            live: BTreeMap::new(),
            busy: BTreeMap::new(),
            checks: JoinSet::new(),
            permits: Arc::new(Semaphore::new(limits::JOB_CHECKS)),
            ration_at: None,
            rationed: 0,
            hits: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self, told: &mut mpsc::Receiver<Told>) -> Result<(), StoreError> {
        let store = self.tools.store.clone();
        let all = tokio::task::spawn_blocking(move || {
            let mut live = Vec::new();
            store.read(|txn, tables| {
                tables.jobs.each(txn, |job| {
                    if !job.state.is_over() {
                        live.push((job.id, job.state));
                    }
                    true
                })
            })?;
            Ok::<_, StoreError>(live)
        });
        for (id, state) in all.await.map_err(|_| StoreError::Closed)?? {
            self.live.insert(id, (state, TraceJob::default()));
        }
        self.reconcile().await?;
        self.end_meshed().await;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => break,
                Some(told) = told.recv() => self.told(told).await?,
                Some(done) = self.checks.join_next(), if !self.checks.is_empty() => {
                    if let Ok((id, track, done)) = done {
                        self.done(&id, track, done).await?;
                    }
                }
                _ = look.tick(), if !self.live.is_empty() => self.look().await?,
            }
        }
        // Workers are let go of within a moment; a thread must not outlive the runtime it waits on.
        let _ = tokio::time::timeout(PARTING, async { while self.checks.join_next().await.is_some() {} }).await;
        Ok(())
    }

    async fn load(&self, id: &JobId) -> Result<Option<(Job, Work)>, StoreError> {
        let (store, id) = (self.tools.store.clone(), id.clone());
        tokio::task::spawn_blocking(move || store.job(&id)).await.map_err(|_| StoreError::Closed)?
    }

    async fn save(&mut self, job: &mut Job, work: &Work) -> Result<(), StoreError> {
        self.save_and_learn(job, work, Vec::new()).await
    }

    /// Keeps a job, and with it what users did for it since it was kept last: each deed counts once, whenever the program
    /// ends.
    async fn save_and_learn(
        &mut self,
        job: &mut Job,
        work: &Work,
        deeds: Vec<(Username, Deed)>,
    ) -> Result<(), StoreError> {
        job.updated_at = self.now();
        for child in &mut job.children {
            child.note = child.note.take().map(|note| cut(&note));
        }
        job.error = job.error.take().map(|error| cut(&error));
        let deeds = deeds.into_iter().map(|(user, deed)| (user, deed.counted())).collect();
        let half_life = self.settings.reputation.half_life;
        self.tools.store.put_job_and_learn(job.clone(), work.clone(), deeds, job.updated_at, half_life).await?;
        if job.state.is_over() {
            self.write_down(job).await;
            let (mender, over) = (self.tools.mender.clone(), job.clone());
            let told = tokio::task::spawn_blocking(move || mender.over(&over)).await;
            told.map_err(|_| StoreError::Closed)??;
            self.live.remove(&job.id);
            self.busy.remove(&job.id);
        } else {
            self.live.entry(job.id.clone()).or_default().0 = job.state;
        }
        Ok(())
    }

    /// Manifests and records are of one mind: what was interrupted between the two is brought to its end.
    async fn reconcile(&mut self) -> Result<(), StoreError> {
        let live: Vec<JobId> = self.live.keys().cloned().collect();
        for id in live {
            if let Some((job, _)) = self.load(&id).await? {
                self.write_down(&job).await;
            }
        }
        let manifests = self.settings.manifests.clone();
        let Ok(files) = tokio::task::spawn_blocking(move || manifests.active()).await else { return Ok(()) };
        for file in files {
            let (settings, now, path) = (self.settings.clone(), self.now(), file.clone());
            let read = tokio::task::spawn_blocking(move || {
                let text = manifests::text_of(&path)?;
                let job = manifests::read(&text, &settings, now).map_err(|error| error.to_string())?;
                Ok::<_, String>(manifests::taken_up(job, &settings))
            });
            let job = match read.await {
                Ok(Ok(job)) => job,
                Ok(Err(why)) => {
                    tracing::warn!(file = %file.display(), why, "an active manifest is not taken up");
                    continue;
                }
                Err(_) => return Ok(()),
            };
            match self.load(&job.id).await? {
                Some((known, _)) if known.state.is_over() => self.write_down(&known).await,
                Some(_) => {}
                None => {
                    let (id, state) = (job.id.clone(), job.state);
                    match self.adopt(job).await? {
                        Ok(_) => tracing::info!(job = %id, state = state.name(), "taken up from its manifest"),
                        Err(why) => tracing::warn!(job = %id, ?why, "an active manifest is not taken up"),
                    }
                }
            }
        }
        Ok(())
    }

    async fn write_down(&self, job: &Job) {
        let (manifests, job) = (self.settings.manifests.clone(), job.clone());
        let written = tokio::task::spawn_blocking(move || manifests.keep(&job)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "a manifest could not be written");
        }
    }

    fn now(&self) -> crate::model::time::UnixMs {
        self.tools.doctor.ground().clock.now().wall
    }

    // ---- What the owner wants ----

    async fn told(&mut self, told: Told) -> Result<(), StoreError> {
        let (answer, to) = match told {
            Told::Adopt(job, to) => (self.adopt(*job).await?, to),
            Told::Pause(id, to) => (self.turn(&id, JobState::Paused).await?, to),
            Told::Resume(id, to) => (self.turn(&id, JobState::Pending).await?, to),
            Told::Cancel(id, to) => (self.turn(&id, JobState::Cancelled).await?, to),
        };
        // Whoever asked may have gone.
        let _ = to.send(answer);
        Ok(())
    }

    async fn adopt(&mut self, mut job: Job) -> Result<Result<JobView, Refusal>, StoreError> {
        if !job.state.is_over() && self.live.len() >= limits::JOBS_LIVE {
            let most = limits::JOBS_LIVE;
            return Ok(Err(Refusal::Full(format!("{most} jobs are not over; cancel one, or wait"))));
        }
        if self.load(&job.id).await?.is_some() {
            let Ok(bits) = random() else { return Ok(Err(Refusal::Duplicate)) };
            job.origin = Some(std::mem::replace(&mut job.id, JobId::from_random(bits)));
        }
        let work = Work::new(job.spec.tracks.len());
        if !job.state.is_over() {
            // Before the record: what the store does not know is taken up from here.
            self.write_down(&job).await;
        }
        self.save(&mut job, &work).await?;
        tracing::info!(job = %job.id, release = %job.spec.release, title = job.spec.title, "a new job");
        Ok(Ok(JobView { job, doing: String::new() }))
    }

    /// Brings a job into another state.
    async fn turn(&mut self, id: &JobId, to: JobState) -> Result<Result<JobView, Refusal>, StoreError> {
        let Some((mut job, mut work)) = self.load(id).await? else { return Ok(Err(Refusal::NotFound)) };
        let from = job.state;
        let fits = match to {
            JobState::Paused => matches!(from, JobState::Pending | JobState::Running),
            JobState::Pending => from == JobState::Paused,
            _ => !from.is_over(),
        };
        if !fits {
            let why = format!("the job is {}", from.name());
            return Ok(Err(Refusal::Invalid(why)));
        }
        job.state = to;
        work.doing = String::new();
        let orders = match to {
            JobState::Paused => plan::let_go(&mut job, &mut work, true),
            JobState::Cancelled => plan::let_go(&mut job, &mut work, false),
            _ => Vec::new(),
        };
        if let Some(search) = work.search.take() {
            let _ = self.tools.node.command(Command::SearchForget(search)).await;
            // It is asked again: nobody has looked at what it found.
            work.asked = work.asked.saturating_sub(1);
        }
        if to == JobState::Cancelled {
            job.completed_at = Some(self.now());
        }
        self.note(&job, to.name());
        if to == JobState::Cancelled
            && let Some((_, trace)) = self.live.get(id)
        {
            trace.record(TraceKind::JobComplete(Some("called off".to_owned())));
        }
        self.save(&mut job, &work).await?;
        for order in orders {
            match order {
                Order::CallOff(transfer) => self.call_off(transfer, to == JobState::Cancelled).await,
                Order::LeaveMesh(content) => self.leave_mesh(content).await,
                Order::Discard(path) => self.discard(path).await,
                _ => {}
            }
        }
        if to == JobState::Cancelled {
            self.sweep(&job.id).await;
        }
        if from == JobState::Paused && to == JobState::Pending {
            // Whoever lets it go on does not want to wait for what the disk refused.
            self.tools.mender.hurry(&job.id, None);
            for fetching in work.tracks.iter().filter_map(|track| track.fetching.as_ref()) {
                self.revive(fetching).await;
            }
        }
        Ok(Ok(JobView { job, doing: work.doing }))
    }

    /// Takes up a download again that a pause stopped.
    async fn revive(&self, fetching: &Fetching) {
        let Some(id) = fetching.transfer else { return };
        let Some(Reply::Refused(Refusal::NotFound)) = self.tools.node.command(Command::Retry(id)).await else { return };
        if let Ok(Some(record)) = self.record(id).await
            && record.state == TransferState::Completed(Ending::Cancelled)
        {
            let _ = self.tools.node.command(Command::Revive(Box::new(record))).await;
        }
    }

    // ---- Rounds ----

    async fn look(&mut self) -> Result<(), StoreError> {
        self.ration();
        self.hits.retain(|id, _| self.live.contains_key(id));
        let running = self.live.values().filter(|(state, _)| *state == JobState::Running).count();
        let mut room = limits::JOBS_AT_ONCE.saturating_sub(running);
        let ids: Vec<(JobId, JobState)> = self.live.iter().map(|(id, (state, _))| (id.clone(), *state)).collect();
        for (id, state) in ids {
            match state {
                JobState::Pending if room > 0 => {
                    room -= 1;
                    self.begin(&id).await?;
                }
                JobState::Running => self.lead(&id).await?,
                _ => {}
            }
        }
        Ok(())
    }

    async fn begin(&mut self, id: &JobId) -> Result<(), StoreError> {
        let Some((mut job, work)) = self.load(id).await? else {
            self.live.remove(id);
            return Ok(());
        };
        job.state = JobState::Running;
        job.started_at = job.started_at.or(Some(self.now()));
        self.note(&job, "running");
        self.save(&mut job, &work).await
    }

    /// A line in the job's trace.
    fn note(&mut self, job: &Job, text: &str) {
        self.trace(job).record(TraceKind::Note(text.to_owned()));
    }

    fn trace(&mut self, job: &Job) -> TraceJob {
        let (_, trace) = self.live.entry(job.id.clone()).or_default();
        if !trace.is_begun() {
            let title = format!("{} \u{2013} {}", job.spec.artist, job.spec.title);
            *trace = self.tools.traces.begin(job.id.to_string(), title);
        }
        trace.clone()
    }

    /// One look at one job.
    async fn lead(&mut self, id: &JobId) -> Result<(), StoreError> {
        let Some((mut job, mut work)) = self.load(id).await? else {
            self.live.remove(id);
            return Ok(());
        };
        let before = (job.clone(), work.clone());
        self.find_meshed(&mut job, &mut work).await;
        let (seen, deeds) = self.see(&job, &work).await?;
        let orders = plan::tick(&mut job, &mut work, &seen, &self.settings.rules, self.now());
        if (&job, &work) != (&before.0, &before.1) {
            self.tell(&before.0, &job);
            self.save_and_learn(&mut job, &work, deeds).await?;
        }
        if job.state.is_over() {
            self.over(&job).await;
            return Ok(());
        }
        for order in orders {
            self.perform(order, &mut job, &mut work).await?;
        }
        Ok(())
    }

    /// What became of tracks goes into the trace.
    fn tell(&mut self, before: &Job, now: &Job) {
        let trace = self.trace(now);
        for ((old, new), track) in before.children.iter().zip(&now.children).zip(&now.spec.tracks) {
            if old.state != new.state {
                let why = new.note.as_deref().map(|note| format!(": {note}")).unwrap_or_default();
                let place = (track.medium, track.position);
                let text = format!("{}-{} {} is {}{why}", place.0, place.1, track.title, new.state.name());
                trace.record(TraceKind::Note(text));
            }
        }
        if now.state.is_over() {
            trace.record(TraceKind::JobComplete(now.error.clone()));
        }
    }

    /// What there is to see, and what it says of users.
    async fn see(&mut self, job: &Job, work: &Work) -> Result<(Seen, Vec<(Username, Deed)>), StoreError> {
        let mut deeds = Vec::new();
        let mut seen = Seen { busy: self.busy.get(&job.id).cloned().unwrap_or_default(), ..Seen::default() };
        if let Some(search) = work.search {
            // Without its answers, which may be many.
            let state = move |node: &crate::engine::soulseek::node::Node, _| {
                node.searches().into_iter().find(|view| view.id == search).map(|view| view.state)
            };
            let state = self.tools.node.look(state).await;
            // An engine that is being made anew knows of no search, and has no answer either.
            seen.search_is_over = match state {
                None => false,
                Some(state) => !matches!(state, Some(SearchState::Queued | SearchState::InProgress)),
            };
        }
        for (at, (child, track)) in job.children.iter().zip(&work.tracks).enumerate() {
            if child.state != TrackState::Downloading {
                continue;
            }
            let standing = match (&track.fetching, &track.mesh) {
                (Some(fetching), _) => self.standing(fetching, &mut deeds).await?,
                (None, Some(mesh)) => self.mesh_standing(mesh, job).await,
                (None, None) => Some(Standing::Unknown),
            };
            seen.downloads.extend(standing.map(|standing| (at, standing)));
        }
        Ok((seen, deeds))
    }

    async fn record(&self, id: TransferId) -> Result<Option<Transfer>, StoreError> {
        // Everything the engine has recorded up to now.
        self.tools.store.apply(Vec::new()).await?;
        let store = self.tools.store.clone();
        let read = tokio::task::spawn_blocking(move || store.transfer(Direction::Download, id)).await;
        read.map_err(|_| StoreError::Closed)?
    }

    /// `None`: the engine cannot be asked now.
    async fn standing(
        &self,
        fetching: &Fetching,
        deeds: &mut Vec<(Username, Deed)>,
    ) -> Result<Option<Standing>, StoreError> {
        let (user, path, id) = (fetching.user.clone(), fetching.path.clone(), fetching.transfer);
        let live = self.tools.node.look(move |node, _| match id {
            Some(id) => node.transfer(Direction::Download, id).cloned(),
            // It was asked for, and the program ended before its name was written down.
            None => node.live(Direction::Download).find(|t| t.user == user && t.path == path).cloned(),
        });
        let transfer = match (live.await, id) {
            (None, _) => return Ok(None),
            (Some(Some(transfer)), _) => Some(transfer),
            (Some(None), Some(id)) => self.record(id).await?,
            (Some(None), None) => None,
        };
        Ok(Some(match transfer {
            None => Standing::Unknown,
            Some(transfer) => match transfer.state {
                TransferState::Completed(Ending::Succeeded) => match transfer.local_path {
                    Some(path) => Standing::Finished(path),
                    None => Standing::Unknown,
                },
                TransferState::Completed(ending) => {
                    let deed = deed::of_ending(ending, transfer.reason.as_deref());
                    deeds.extend(deed.map(|deed| (transfer.user.clone(), deed)));
                    let reason = transfer.reason.unwrap_or_else(|| transfer.state.name().to_owned());
                    Standing::Ended(format!("{}: {reason}", transfer.user))
                }
                // Those of another user would wait for our disk as well; of a whole file only its place is missing.
                _ if transfer.reason.as_ref().is_some_and(|why| why == DISK_FULL || why.starts_with(OWN_DISK))
                    || (transfer.size > 0 && transfer.bytes_done >= transfer.size) =>
                {
                    Standing::Held(transfer.bytes_done)
                }
                _ => Standing::Live(transfer.bytes_done),
            },
        }))
    }

    /// A file was measured or moved.
    async fn done(&mut self, id: &JobId, track: usize, done: Done) -> Result<(), StoreError> {
        if let Some(busy) = self.busy.get_mut(id) {
            busy.remove(&track);
        }
        let Some((mut job, mut work)) = self.load(id).await? else { return Ok(()) };
        if job.state.is_over() || job.children.get(track).is_none_or(|child| child.state != TrackState::Checking) {
            return Ok(());
        }
        let before = job.clone();
        let mut deeds = Vec::new();
        let orders = match done {
            Done::Checked(Checked::Judged(verdict, score, deed)) => {
                let fetching = work.tracks.get(track).and_then(|track| track.fetching.clone());
                if let (Some(deed), Some(fetching)) = (deed, fetching) {
                    let sender = self.sender(&fetching).await?;
                    deeds.extend(sender.map(|user| (user, deed)));
                }
                plan::on_judged(&mut job, &mut work, track, verdict, score)
            }
            Done::Checked(Checked::Later(why) | Checked::Unsure(why)) => {
                tracing::info!(job = %id, why, "a finished file could not be measured yet");
                Vec::new()
            }
            Done::Refused(why) => {
                tracing::warn!(job = %id, why, "a finished file is not put in its place");
                plan::on_refused(&mut job, &mut work, track, why)
            }
            Done::Sized(size) => {
                plan::on_sized(&mut job, track, size);
                Vec::new()
            }
            Done::Placed(outcome) => {
                if let Err(why) = &outcome {
                    tracing::warn!(job = %id, why, "a finished file could not be moved");
                }
                plan::on_placed(&mut job, &mut work, track, outcome);
                Vec::new()
            }
        };
        self.tell(&before, &job);
        self.save_and_learn(&mut job, &work, deeds).await?;
        for order in orders {
            self.perform(order, &mut job, &mut work).await?;
        }
        Ok(())
    }

    /// The one user that a finished download came from: not always who was asked first. `None`: several, or mesh peers.
    async fn sender(&self, fetching: &Fetching) -> Result<Option<Username>, StoreError> {
        let Some(id) = fetching.transfer else { return Ok(None) };
        let transfer = self.record(id).await?.filter(|transfer| deed::is_of_one(transfer.rung));
        Ok(transfer.map(|transfer| transfer.user))
    }

    /// Nothing of a job that is over stays behind.
    async fn over(&mut self, job: &Job) {
        tracing::info!(job = %job.id, state = job.state.name(), error = job.error, "a job is over");
        self.sweep(&job.id).await;
    }
}
