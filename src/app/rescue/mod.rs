//! Rescue at work: downloads from Soulseek that hang are helped by mesh peers, within the owner's rules; and this node is
//! kept from taking more than it gives.
//!
//! What hangs and what may be done is decided in `engine::swarm::rescue`, what is fair in `engine::fairness`. Here it is
//! found out which do ([`detect`]), what the file is ([`resolve`]) and which copy helps ([`prepare`]), each rescue is
//! conducted ([`job`]) and its file looked at ([`approve`]), and what moves through the sockets is written down and held
//! against the rules ([`governor`]). The download itself is not touched before its own file is there: it goes on, behind
//! others.

mod approve;
mod detect;
mod governor;
mod job;
mod prepare;
mod resolve;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::governor::Governor;
use super::doctor::Ground;
use super::mesh::MeshService;
use super::mesh::assist::Quota;
use super::soulseek::Parts;
use crate::engine::soulseek::io::Refusal;
use crate::engine::soulseek::node::Node;
use crate::engine::swarm::rescue::{Detector, Rules};
use crate::model::config::{Config, Guardrails};
use crate::model::id::{ContentHash, TransferId};
use crate::model::limits;
use crate::model::rescue::{
    Guardrail, Reason, RescueAnswer, RescueCounts, RescueJob, RescueRequest, RescueState, RescueView,
};
use crate::model::time::Now;
use crate::model::trace::TraceKind;
use crate::model::transfer::{Direction, Ending, Transfer, TransferState};
use crate::model::view::Event;
use crate::store::StoreError;

/// Between two looks at what moved.
const PULSE: Duration = Duration::from_secs(1);
/// Before a download that could not be rescued is looked at again; doubles with each time.
const AGAIN: Duration = Duration::from_secs(10);
/// The longest.
const AGAIN_MAX: Duration = Duration::from_secs(30 * 60);

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::needless_pass_by_value, reason = "used by map_err")]
fn unreadable(error: StoreError) -> Refusal {
    tracing::error!(%error, "the store could not be used");
    Refusal::Full(format!("the store cannot be used: {error}"))
}

/// Watches downloads, and helps. Clones are cheap.
#[derive(Clone)]
pub struct RescueService {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Arc<Parts>,
    mesh: MeshService,
    /// Measures files, and knows copies.
    ground: Ground,
    enabled: bool,
    rules: Rules,
    rails: Guardrails,
    quota: Arc<Quota>,
    governor: Mutex<Governor>,
    /// Rescues under way. Short and synchronous; as many as the owner allows.
    live: Mutex<BTreeMap<TransferId, Live>>,
    /// Downloads that could not be rescued.
    tried: Mutex<BTreeMap<TransferId, Tried>>,
    /// Downloads that were there at the last look, and those of them that failed since.
    watched: Mutex<Watched>,
    counts: Mutex<Counts>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// One rescue under way.
#[derive(Clone)]
struct Live {
    cancel: CancellationToken,
    /// `None`: it is being found out what the file is.
    view: Arc<Mutex<Option<RescueView>>>,
}

#[derive(Debug, Default)]
struct Watched {
    here: BTreeSet<TransferId>,
    failed: BTreeMap<TransferId, Reason>,
}

/// Why a download is not being rescued.
#[derive(Clone, Debug, Default)]
struct Tried {
    /// Looked at again then.
    again: Duration,
    times: u32,
    /// Guardrails that were told.
    told: BTreeSet<Guardrail>,
    /// Copies that proved to be others.
    refuted: BTreeSet<ContentHash>,
    /// The owner wants no rescue.
    unwanted: bool,
    /// This node had not met it on Soulseek then.
    unmet: bool,
}

impl Tried {
    /// Whether it is looked at now.
    fn is_due(&self, now: Duration) -> bool {
        !self.unwanted && self.again <= now
    }

    /// This copy proved to be another: the next one is tried at the next look. False if no more of them are remembered:
    /// then it would be tried again.
    fn refute(&mut self, content: ContentHash) -> bool {
        let remembers = self.refuted.len() < limits::RESCUE_REFUTED || self.refuted.contains(&content);
        if remembers {
            self.refuted.insert(content);
            self.again = Duration::ZERO;
        }
        remembers
    }
}

#[derive(Debug, Default)]
struct Counts {
    hung: BTreeMap<Reason, u64>,
    ended: BTreeMap<RescueState, u64>,
    hits: BTreeMap<Guardrail, u64>,
    bytes: [u64; 2],
    waited: Duration,
}

impl RescueService {
    /// Made of the configuration; [`run`] sets it to work.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn new(
        config: &Config,
        parts: Arc<Parts>,
        mesh: MeshService,
        ground: Ground,
        cancel: CancellationToken,
    ) -> Result<Self, String> {
        let rescue = &config.rescue;
        let governor = Governor::new(config.fairness, &parts).map_err(|error| error.to_string())?;
        let inner = Inner {
            enabled: rescue.enabled && config.mesh.enabled,
            rules: Rules {
                queue: Duration::from_secs(rescue.queue_s),
                throughput_min: rescue.throughput_min,
                duration: Duration::from_secs(rescue.duration_s),
                stall: Duration::from_secs(rescue.stall_s),
                window: rescue.window,
                interval: Duration::from_secs(rescue.sample_s),
            },
            rails: rescue.guardrails.clone(),
            quota: Arc::default(),
            governor: Mutex::new(governor),
            live: Mutex::default(),
            tried: Mutex::default(),
            watched: Mutex::default(),
            counts: Mutex::default(),
            tasks: TaskTracker::new(),
            parts,
            mesh,
            ground,
            cancel,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Waits until all rescues have stopped, and keeps what moved; to be called after the cancellation.
    pub async fn stopped(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.keep_traffic().await;
    }

    /// Answers a page or a tool.
    ///
    /// # Errors
    /// Why not.
    pub async fn answer(&self, request: RescueRequest) -> Result<RescueAnswer, Refusal> {
        let inner = &self.inner;
        match request {
            RescueRequest::Jobs => Ok(RescueAnswer::Jobs(inner.views(None).await?)),
            RescueRequest::Of(ids) => Ok(RescueAnswer::Jobs(inner.views(Some(ids)).await?)),
            RescueRequest::Job(id) => {
                let found = inner.views(Some(vec![id])).await?;
                if found.is_empty() { Err(Refusal::NotFound) } else { Ok(RescueAnswer::Jobs(found)) }
            }
            RescueRequest::Know(known) => {
                inner.know(known).await.map_err(unreadable)?;
                Ok(RescueAnswer::Done)
            }
            RescueRequest::Cancel(id) => {
                inner.end(id).await?;
                Ok(RescueAnswer::Done)
            }
            RescueRequest::Traffic => Ok(RescueAnswer::Traffic(Box::new(inner.traffic()))),
        }
    }

    /// Whether a job may ask the mesh for a file that no Soulseek user sends. The owner allowed that job to; how many are
    /// helped at once and how much the mesh brings in a day holds for it as for rescues.
    ///
    /// # Errors
    /// Which guardrail forbids it; `None`: fairness does.
    pub fn allows_another(&self) -> Result<(), Option<Guardrail>> {
        let inner = &self.inner;
        let traffic = inner.traffic();
        if traffic.windows[0].overlay_down >= inner.rails.daily {
            Err(Some(Guardrail::DailyCap))
        } else if inner.mesh.fetching() >= inner.rails.jobs_max {
            Err(Some(Guardrail::ConcurrentJobs))
        } else if traffic.paused {
            Err(None)
        } else {
            Ok(())
        }
    }

    /// A job was held back by a guardrail: counted here; the job tells it.
    pub fn count_hit(&self, rail: Guardrail) {
        *locked(&self.inner.counts).hits.entry(rail).or_default() += 1;
    }

    /// Since the program began.
    pub fn counts(&self) -> RescueCounts {
        let counts = locked(&self.inner.counts);
        let ended = [RescueState::Completed, RescueState::Failed, RescueState::Cancelled];
        let live = locked(&self.inner.live).values().filter(|live| locked(&live.view).is_some()).count() as u64;
        let mut rescues = vec![(RescueState::Active.name(), live)];
        rescues.extend(ended.map(|state| (state.name(), counts.ended.get(&state).copied().unwrap_or(0))));
        RescueCounts {
            hung: Reason::ALL.map(|reason| (reason.name(), counts.hung.get(&reason).copied().unwrap_or(0))).into(),
            rescues,
            hits: Guardrail::ALL.map(|rail| (rail.key(), counts.hits.get(&rail).copied().unwrap_or(0))).into(),
            bytes: counts.bytes,
            waited_ms: u64::try_from(counts.waited.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// How fairness stands.
    pub fn traffic(&self) -> crate::model::rescue::TrafficView {
        self.inner.traffic()
    }
}

/// Watches until cancelled.
///
/// # Errors
/// None; the type is the supervisor's.
pub async fn run(service: RescueService, cancel: CancellationToken) -> Result<(), String> {
    let inner = &service.inner;
    inner.go_on().await.map_err(|error| error.to_string())?;
    let mut detector = Detector::new(inner.rules);
    let mut tick = tokio::time::interval(PULSE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut look_at = Duration::ZERO;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        inner.pulse().await;
        let now = inner.parts.clock.now().mono;
        if inner.enabled && now >= look_at {
            look_at = now + inner.rules.every();
            inner.detect(&mut detector).await;
        }
    }
}

impl Inner {
    async fn look<T: Send + 'static>(&self, look: impl FnOnce(&Node, Now) -> Option<T> + Send + 'static) -> Option<T> {
        self.parts.node.look(look).await.flatten()
    }

    async fn download(&self, id: TransferId) -> Option<Transfer> {
        self.look(move |node, _| node.transfer(Direction::Download, id).cloned()).await
    }

    /// What the engine recorded last is in the store then. One that takes no more is read all the same.
    async fn flush(&self) {
        let _ = self.parts.store.apply(Vec::new()).await;
    }

    /// One that is over by its user's fault or by chance, and that the owner did not put away.
    async fn failed(&self, id: TransferId) -> Option<Transfer> {
        self.flush().await;
        self.failed_now(id).await
    }

    /// As far as the store knows by now.
    async fn failed_now(&self, id: TransferId) -> Option<Transfer> {
        let store = self.parts.store.clone();
        let kept = tokio::task::spawn_blocking(move || store.transfer(Direction::Download, id)).await;
        let kept = kept.ok()?.ok()??;
        let failed =
            matches!(kept.state, TransferState::Completed(Ending::Errored | Ending::TimedOut | Ending::Rejected));
        (failed && !kept.removed).then_some(kept)
    }

    /// Whether downloads that failed may be rescued.
    fn rescues_failed(&self) -> bool {
        self.rails.overlay_only || !self.rails.soulseek_origin
    }

    /// A download that may be helped: one that is not over, or one that failed if the owner wants that.
    async fn wanted(&self, id: TransferId) -> Option<Transfer> {
        match self.download(id).await {
            None if self.rescues_failed() => self.failed(id).await,
            live => live,
        }
    }

    fn tried<T>(&self, id: TransferId, change: impl FnOnce(&mut Tried) -> T) -> T {
        let mut all = locked(&self.tried);
        // As many as are watched. What the owner said is forgotten last, and is in the store besides.
        if !all.contains_key(&id)
            && all.len() >= limits::RESCUE_WATCHED + limits::RESCUES_FAILED
            && let Some(oldest) = all.iter().min_by_key(|(_, tried)| (tried.unwanted, tried.again)).map(|(id, _)| *id)
        {
            all.remove(&oldest);
        }
        change(all.entry(id).or_default())
    }

    /// A guardrail was hit: counted each time, and told once for each download.
    fn hit(&self, id: TransferId, rail: Guardrail, what: &str, trace: &crate::app::traces::TraceJob) -> bool {
        *locked(&self.counts).hits.entry(rail).or_default() += 1;
        let first = self.tried(id, |tried| tried.told.insert(rail));
        if first {
            tracing::info!(%id, guardrail = rail.key(), what, "a guardrail of rescue was hit");
            trace.record(TraceKind::GuardrailHit(rail, what.to_owned()));
        }
        first
    }

    /// Whoever watches the downloads looks again.
    fn tell(&self, id: TransferId) {
        // Nobody may watch.
        let _ = self.parts.events.send(Event::Transfer(id, Direction::Download));
    }

    /// These downloads are of these recordings, in one commit.
    async fn know(&self, known: Vec<(TransferId, u128)>) -> Result<(), StoreError> {
        let ids: Vec<TransferId> = known.iter().map(|(id, _)| *id).collect();
        let here = self.look(move |node, _| {
            let here = |id: &TransferId| node.transfer(Direction::Download, *id).is_some();
            Some(ids.into_iter().filter(here).collect::<BTreeSet<TransferId>>())
        });
        let here = here.await.unwrap_or_default();
        let known: Vec<_> = known.into_iter().filter(|(id, _)| here.contains(id)).collect();
        let put = self.parts.store.write(move |txn, tables| {
            known.iter().try_for_each(|(id, recording)| tables.rescue.put_recording(txn, *id, *recording))
        });
        put.await?;
        // What could not be rescued for want of it may be so now. What the owner said and what was seen stands.
        let mut tried = locked(&self.tried);
        for id in here {
            if let Some(tried) = tried.get_mut(&id) {
                (tried.again, tried.times) = (Duration::ZERO, 0);
            }
        }
        Ok(())
    }

    /// The owner wants no rescue of this download.
    async fn end(&self, id: TransferId) -> Result<(), Refusal> {
        let live = locked(&self.live).get(&id).cloned();
        let kept = self.parts.store.read(|txn, tables| tables.rescue.job(txn, id)).map_err(unreadable)?;
        if live.is_none() && kept.is_none() {
            return Err(Refusal::NotFound);
        }
        self.tried(id, |tried| tried.unwanted = true);
        if let Some(job) = kept.filter(|job| live.is_none() && !job.unwanted) {
            self.parts.store.put_rescue(RescueJob { unwanted: true, ..job }).await.map_err(unreadable)?;
        }
        if let Some(live) = live {
            live.cancel.cancel();
        }
        Ok(())
    }

    /// Rescues, newest first: those under way as they are, the others as they were kept. All, or those of some downloads.
    async fn views(&self, only: Option<Vec<TransferId>>) -> Result<Vec<RescueView>, Refusal> {
        let store = self.parts.store.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let jobs = match only {
                None => store.rescues(),
                Some(ids) => store.read(|txn, tables| {
                    ids.into_iter()
                        .filter_map(|id| tables.rescue.job(txn, id).transpose())
                        .collect::<Result<Vec<_>, _>>()
                }),
            }?;
            let origins = store.origins(&jobs)?;
            Ok((jobs, origins))
        });
        let kept = kept.await.map_err(|error| Refusal::Full(error.to_string()))?;
        let (kept, origins) = kept.map_err(unreadable)?;
        let live: BTreeMap<TransferId, RescueView> =
            locked(&self.live).iter().filter_map(|(id, live)| Some((*id, locked(&live.view).clone()?))).collect();
        let mut views: Vec<RescueView> =
            kept.into_iter().map(|job| live.get(&job.transfer).cloned().unwrap_or_else(|| quiet(job))).collect();
        for view in &mut views {
            view.origin = origins.get(&view.job.transfer).copied();
        }
        views.sort_by_key(|view| std::cmp::Reverse((view.job.activated_at, view.job.transfer)));
        Ok(views)
    }
}

/// A rescue of which nothing moves.
fn quiet(job: RescueJob) -> RescueView {
    let bytes = if job.state == RescueState::Completed { job.size } else { 0 };
    RescueView {
        origin: None,
        bytes,
        overlay_speed: 0,
        soulseek_speed: 0,
        throttled_to: None,
        yields: false,
        waits: String::new(),
        missing: Vec::new(),
        sources: Vec::new(),
        job,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_copy_is_tried_at_once_and_the_same_one_not_for_ever() {
        let copy = |n: usize| ContentHash([u8::try_from(n).unwrap(); 32]);
        let now = Duration::from_secs(100);
        // It could not be rescued before, and was looked at again when that was due.
        let mut tried = Tried { again: Duration::from_secs(90), times: 3, ..Tried::default() };
        for n in 0..limits::RESCUE_REFUTED {
            assert!(tried.refute(copy(n)) && tried.is_due(now), "{n}");
        }
        assert!(tried.refute(copy(0)), "it is known already");
        assert!(!tried.refute(copy(99)), "what is not remembered is not tried at every look");
        tried.again = now + AGAIN;
        assert!(!tried.is_due(now) && tried.is_due(now + AGAIN));
        tried.unwanted = true;
        assert!(!tried.is_due(now + AGAIN));
    }
}
