//! The mesh at work: serves shared files to peers and fetches files from them.
//!
//! Connections are `net::mesh`'s, rules `engine::mesh`'s, the choice of pieces `engine::swarm`'s. This room brings them
//! together with the store, the share index and the disk: [`serve`] answers peers, [`fetch`] brings one file home,
//! [`choose`] says which copy of a recording that is, [`gossip`] tells peers about recordings and keeps what they tell,
//! [`assist`] is what a fetch knows of a download from Soulseek that it helps, [`leash`] what it may take on behalf of a job,
//! [`meet`] finds peers by the DHT and on the own network, [`announce`] knows what may be told there, [`key`] keeps our
//! key. What the owner asked for is kept in the store and goes on after a restart.

mod announce;
pub mod assist;
pub(in crate::app) mod choose;
mod fetch;
mod gossip;
mod key;
mod leash;
mod meet;
mod serve;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::assist::{Assist, Brake};
use self::fetch::Progress;
use self::leash::Leashes;
use self::meet::Board;
use self::serve::{Opening, Uploading};
use super::doctor::Measure;
use super::lab::faults::Faults;
use super::soulseek::Parts;
use crate::engine::library::CanonicalRules;
use crate::engine::mesh::candidates::Range;
use crate::engine::mesh::downloader::State;
use crate::engine::mesh::frame::Hello;
use crate::engine::mesh::session::{FEATURES, FEATURES_SILENT};
use crate::engine::soulseek::io::Refusal;
use crate::engine::soulseek::names;
use crate::engine::swarm::cost::CostSettings;
use crate::engine::swarm::list::PieceList;
use crate::engine::swarm::reputation::ReputationSettings;
use crate::engine::swarm::scheduler::{Share, SwarmSettings, Worth};
use crate::model::config::Config;
use crate::model::id::ContentHash;
use crate::model::limits;
use crate::model::mesh::{Fetch, FetchRequest, FetchState, FetchView, MeshAnswer, MeshRequest, MeshView, SourceView};
use crate::model::rescue::RescueState;
use crate::model::swarm::Source;
use crate::net::mesh::{Incoming, Mesh, MeshSettings, Named};
use crate::store::StoreError;

/// Runs of pieces under way at once, all fetches together: each may hold one block of the pool, and most of the pool is
/// others'.
const RUNS: usize = limits::BLOCKS / 4;

/// The mesh, or that it is off. Clones are cheap.
#[derive(Clone)]
pub struct MeshService {
    parts: Arc<Parts>,
    running: Option<Arc<Running>>,
    board: Arc<Board>,
}

struct Running {
    mesh: Mesh,
    board: Arc<Board>,
    parts: Arc<Parts>,
    uploading: Uploading,
    opening: Arc<Opening>,
    /// Whole files are read for their piece lists one at a time.
    listing: Semaphore,
    /// The permits of the pool: long lists pay with blocks.
    blocks: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    runs: Arc<Semaphore>,
    /// Fetches that are not over. Short and synchronous.
    live: Mutex<BTreeMap<ContentHash, Live>>,
    /// What was known of the last fetches that are over. Short and synchronous; the oldest is forgotten.
    over: Mutex<VecDeque<(ContentHash, Progress)>>,
    /// One change of the kept fetches at a time.
    changing: tokio::sync::Mutex<()>,
    swarm: SwarmSettings,
    cancel: CancellationToken,
    tasks: TaskTracker,
    bytes_in: AtomicU64,
    bad_pieces: AtomicU64,
    /// In the lab alone.
    faults: Option<Arc<Faults>>,
    /// Peers served at once.
    upload_slots: usize,
    /// How copies are chosen among.
    canonical: CanonicalRules,
    /// Who waits for what peers offer. Short and synchronous.
    answers: Mutex<gossip::Answers>,
    /// Flac keys that peers are to be asked for.
    keys: mpsc::Sender<u64>,
    /// Decodes what was fetched. In the lab's peers there is none.
    measure: Option<Arc<dyn Measure>>,
    /// Recordings that are wanted and that nobody connected has, and until when they are looked for. Short and
    /// synchronous; at most `limits::DHT_SOUGHT`.
    sought: Mutex<BTreeMap<u128, Instant>>,
    /// One more of them.
    seeking: Notify,
    /// Fetches that help downloads from Soulseek. Short and synchronous; as many as there are fetches.
    assists: Mutex<BTreeMap<ContentHash, Arc<Assist>>>,
    /// Hold the fetches of jobs.
    leashes: Leashes,
    /// Holds all fetches back while this node gives too little.
    fair: Brake,
    /// No new uploads to peers.
    refusing: AtomicBool,
}

#[derive(Clone)]
struct Live {
    cancel: CancellationToken,
    progress: Arc<Mutex<Progress>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::needless_pass_by_value, reason = "used by map_err")]
fn unreadable(error: StoreError) -> Refusal {
    tracing::error!(%error, "the store could not be used");
    Refusal::Full(format!("the store cannot be used: {error}"))
}

impl MeshService {
    /// Starts what the configuration asks for, and goes on with the fetches of the last run.
    ///
    /// # Errors
    /// One sentence: the port is taken, the key cannot be read or kept, the store cannot be read.
    pub fn start(
        config: &Config,
        data: &Path,
        parts: Arc<Parts>,
        measure: Arc<dyn Measure>,
        cancel: CancellationToken,
    ) -> Result<Self, String> {
        Self::begin_with(config, data, parts, cancel, Some(measure), (None, Duration::ZERO))
    }

    /// As [`MeshService::start`], for a peer of the lab: what it serves suffers these faults, and each of its packets
    /// comes and goes later by `delay`.
    ///
    /// # Errors
    /// As there.
    pub fn start_in_lab(
        config: &Config,
        data: &Path,
        parts: Arc<Parts>,
        cancel: CancellationToken,
        faults: Option<Arc<Faults>>,
        delay: Duration,
    ) -> Result<Self, String> {
        Self::begin_with(config, data, parts, cancel, None, (faults, delay))
    }

    fn begin_with(
        config: &Config,
        data: &Path,
        parts: Arc<Parts>,
        cancel: CancellationToken,
        measure: Option<Arc<dyn Measure>>,
        (faults, delay): (Option<Arc<Faults>>, Duration),
    ) -> Result<Self, String> {
        let settings = &config.mesh;
        let board = Arc::new(Board::new(Arc::clone(&parts), settings.clone()));
        if !settings.enabled {
            return Ok(Self { parts, running: None, board });
        }
        let identity = key::load_or_make(&data.join("identity"))?;
        tracing::info!(id = %identity.id(), "the mesh is on");
        let (incoming, asked) = mpsc::channel::<Incoming>(limits::MESH_REQUESTS);
        let hello = Hello {
            features: if settings.gossip { FEATURES } else { FEATURES_SILENT }.to_owned(),
            software: concat!("slskdn/", env!("CARGO_PKG_VERSION")).to_owned(),
            username: config.soulseek.username.clone(),
            ..Hello::default()
        };
        let named = settings.peers.iter().map(|(id, address)| Named { id: *id, address: address.clone() });
        let mesh = Mesh::start(
            MeshSettings {
                range: Range { private: config.private_ranges.clone(), server_near: false },
                strangers_max: if settings.dht.enabled { settings.dht.neighbors_max } else { 0 },
                bind: SocketAddr::new(settings.address, settings.port),
                identity,
                peers: named.collect(),
                banned: settings.banned.iter().copied().collect(),
                connections_max: settings.connections_max,
                gso: settings.gso,
                hello,
                blocks: parts.pump.disk().pool().permits(),
                delay,
            },
            incoming,
            cancel.clone(),
        )
        .map_err(|error| error.to_string())?;
        let (keys, asked_keys) = mpsc::channel(gossip::KEYS);
        meet::map_port(&board, &mesh, cancel.clone());
        let running = Arc::new(Running {
            mesh,
            board: Arc::clone(&board),
            parts: Arc::clone(&parts),
            uploading: Uploading::new(settings.upload_slots),
            opening: Arc::default(),
            listing: Semaphore::new(1),
            blocks: parts.pump.disk().pool().permits(),
            turns: Arc::new(Semaphore::new(limits::MESH_FETCHES_AT_ONCE)),
            runs: Arc::new(Semaphore::new(RUNS)),
            live: Mutex::default(),
            over: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            swarm: swarm_settings(config),
            cancel,
            tasks: TaskTracker::new(),
            bytes_in: AtomicU64::new(0),
            bad_pieces: AtomicU64::new(0),
            faults,
            upload_slots: settings.upload_slots,
            canonical: super::apply::canonical(config),
            answers: Mutex::default(),
            keys,
            measure,
            sought: Mutex::default(),
            seeking: Notify::new(),
            assists: Mutex::default(),
            leashes: Leashes::default(),
            fair: Brake::default(),
            refusing: AtomicBool::new(false),
        });
        running.tasks.spawn(serve::run(Arc::clone(&running), asked));
        if settings.mdns {
            running.tasks.spawn(meet::near(Arc::clone(&running)));
        }
        if settings.dht.enabled {
            running.tasks.spawn(meet::run(Arc::clone(&running)));
        }
        if settings.gossip {
            running.tasks.spawn(gossip::run(Arc::clone(&running), asked_keys));
        }
        let mut left = parts.store.fetches().map_err(|error| error.to_string())?;
        // Those that help a download go on when it is seen how that one stands.
        let helping = parts.store.rescues().map_err(|error| error.to_string())?;
        let helps = |content| helping.iter().any(|job| job.state == RescueState::Active && job.content == content);
        left.retain(|fetch| fetch.state == FetchState::Running && !helps(fetch.content));
        left.sort_by_key(|fetch| fetch.asked_at);
        for fetch in left {
            running.go_on(fetch);
        }
        Ok(Self { parts, running: Some(running), board })
    }

    /// Where the Soulseek server is: peers may be on a private network when it is (DECISIONS 10).
    pub fn server_at(&self, endpoint: Option<SocketAddrV4>) {
        if let (Some(running), Some(at)) = (&self.running, endpoint) {
            running.mesh.set_server_near(!Range::is_global(IpAddr::V4(*at.ip())));
        }
    }

    /// Waits until everything has stopped; to be called after the cancellation.
    pub async fn stopped(&self) {
        let Some(running) = &self.running else { return };
        // First: what waits for a peer, if only for it to take a refusal, waits no longer.
        running.mesh.close();
        running.tasks.close();
        running.tasks.wait().await;
        running.mesh.stopped().await;
    }

    /// The mesh at a glance.
    pub fn view(&self) -> MeshView {
        let Some(running) = &self.running else { return MeshView::default() };
        let stats = running.mesh.stats();
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let live: Vec<Live> = locked(&running.live).values().cloned().collect();
        let sources: BTreeMap<Source, SourceView> = live
            .iter()
            .flat_map(|live| locked(&live.progress).sources.clone())
            .map(|source| (source.source.clone(), source))
            .collect();
        let threshold = running.swarm.reputation.quarantine_threshold * 1_000.0;
        let below = |source: &SourceView| {
            #[expect(clippy::cast_precision_loss, reason = "at most a thousand")]
            let reputation = source.reputation_milli as f64;
            reputation < threshold
        };
        MeshView {
            enabled: true,
            id: Some(running.mesh.id()),
            port: running.mesh.port(),
            connected: small(running.mesh.links().len()),
            fetching: small(locked(&running.live).len()),
            served: stats.served,
            refused: stats.refused,
            turned_away: stats.turned_away,
            turned_away_by: stats.turned_away_by,
            bytes_out: stats.bytes_out,
            bytes_in: running.bytes_in.load(Ordering::Relaxed),
            bad_pieces: running.bad_pieces.load(Ordering::Relaxed),
            uploads: running.uploading.counts().into_iter().collect(),
            avoided: small(sources.values().filter(|source| below(source)).count()),
            cost_milli: spread(sources.values().filter_map(|source| source.cost_milli)),
        }
    }

    /// Answers a page or a tool.
    ///
    /// # Errors
    /// Why not.
    pub async fn answer(&self, request: MeshRequest) -> Result<MeshAnswer, Refusal> {
        match request {
            MeshRequest::Peers => {
                Ok(MeshAnswer::Peers(self.running.as_ref().map(|running| running.mesh.peers()).unwrap_or_default()))
            }
            MeshRequest::Meeting => {
                let mesh = self.running.as_ref().map(|running| &running.mesh);
                let view = self.board.view(mesh).await;
                view.map(|view| MeshAnswer::Meeting(Box::new(view))).map_err(Refusal::Full)
            }
            MeshRequest::Fetches => Ok(MeshAnswer::Fetches(self.fetches(None).await?)),
            MeshRequest::Fetch(content) => {
                let found = self.fetches(Some(content)).await?;
                if found.is_empty() { Err(Refusal::NotFound) } else { Ok(MeshAnswer::Fetches(found)) }
            }
            MeshRequest::Start(request) => self.begin(request, None).await.map(|()| MeshAnswer::Done),
            MeshRequest::StartRecording(request) => self.begin_recording(request).await,
            MeshRequest::Offers(recordings) => Ok(MeshAnswer::Offers(self.offers(recordings).await?)),
            MeshRequest::Release(release) => Ok(MeshAnswer::Releases(self.releases(release).await?)),
            MeshRequest::Hashes(key) => Ok(MeshAnswer::Hashes(self.hashes(key).await?)),
            MeshRequest::Forget(content) => self.forget(content, true).await.map(|_| MeshAnswer::Done),
        }
    }

    async fn kept(&self) -> Result<Vec<Fetch>, Refusal> {
        let store = self.parts.store.clone();
        let read = tokio::task::spawn_blocking(move || store.fetches()).await;
        read.map_err(|error| Refusal::Full(error.to_string()))?.map_err(unreadable)
    }

    /// Newest first.
    async fn fetches(&self, only: Option<ContentHash>) -> Result<Vec<FetchView>, Refusal> {
        let mut kept = self.kept().await?;
        kept.retain(|fetch| only.is_none_or(|only| fetch.content == only));
        kept.sort_by_key(|fetch| std::cmp::Reverse(fetch.asked_at));
        let live = self.running.as_ref().map(|running| locked(&running.live).clone()).unwrap_or_default();
        let view = |fetch: Fetch| {
            let known = live.get(&fetch.content).map(|live| locked(&live.progress).clone());
            let progress = known.or_else(|| self.remembered(fetch.content)).unwrap_or_default();
            let done = matches!(fetch.state, FetchState::Done(_));
            FetchView {
                bytes: if done { fetch.size } else { progress.bytes },
                twice: progress.twice,
                waits: match fetch.state {
                    FetchState::Running if self.running.is_none() => "the mesh is off".to_owned(),
                    FetchState::Running => progress.waits,
                    FetchState::Done(_) | FetchState::Failed(_) => String::new(),
                },
                away: progress.away && fetch.state == FetchState::Running,
                sources: progress.sources,
                missing: if done { Vec::new() } else { progress.missing },
                fetch,
            }
        };
        Ok(kept.into_iter().map(view).collect())
    }

    /// What was known of a fetch when it was over.
    fn remembered(&self, content: ContentHash) -> Option<Progress> {
        let over = locked(&self.running.as_ref()?.over);
        over.iter().rev().find(|(over, _)| *over == content).map(|(_, progress)| progress.clone())
    }

    /// Begins a fetch. One that helps goes on with what is kept of it, the place that was meant for it included.
    async fn begin(&self, request: FetchRequest, assist: Option<Arc<Assist>>) -> Result<(), Refusal> {
        let off = || Refusal::Invalid("the mesh is off: mesh.enabled".to_owned());
        let running = self.running.as_ref().ok_or_else(off)?;
        PieceList::fits(request.size).map_err(|error| Refusal::Invalid(error.to_string()))?;
        if request.size == 0 {
            return Err(Refusal::Invalid("a file of 0 bytes need not be fetched".to_owned()));
        }
        let name = if request.name.trim().is_empty() { request.content.to_string() } else { request.name };
        let fetch = Fetch {
            content: request.content,
            size: request.size,
            name: names::safe_name(&name),
            folder: names::safe_destination(&request.folder).unwrap_or_default(),
            asked_at: self.parts.clock.now().wall,
            ended_at: None,
            state: FetchState::Running,
            meant: None,
        };
        let _alone = running.changing.lock().await;
        let kept = if assist.is_some() { self.kept().await? } else { Vec::new() };
        let same = |kept: &Fetch| (kept.content, kept.size) == (fetch.content, fetch.size);
        let kept = kept.into_iter().find(|kept| same(kept) && kept.state == FetchState::Running);
        let fetch = kept.unwrap_or(fetch);
        let running_now = locked(&running.live).len();
        if locked(&running.live).contains_key(&fetch.content) {
            return Err(Refusal::Duplicate);
        }
        if running_now >= limits::MESH_FETCHES {
            return Err(Refusal::Full(format!("at most {} files are fetched from the mesh", limits::MESH_FETCHES)));
        }
        let ways = self.parts.store.put_fetch_ways(fetch.content, request.soulseek, request.recording);
        ways.await.map_err(unreadable)?;
        self.parts.store.put_fetch(fetch.clone()).await.map_err(unreadable)?;
        if let Some(assist) = assist {
            locked(&running.assists).insert(fetch.content, assist);
        }
        running.go_on(fetch);
        Ok(())
    }

    /// Stops a fetch and takes it off the list, with its partial file; a finished file stays, and is the answer. With
    /// `anew` the copy may be chosen again, whatever was found out about it.
    async fn forget(&self, content: ContentHash, anew: bool) -> Result<Option<String>, Refusal> {
        if self.fetches(Some(content)).await?.is_empty() {
            return Err(Refusal::NotFound);
        }
        let mut _alone = None;
        if let Some(running) = &self.running {
            _alone = Some(running.changing.lock().await);
            let live = locked(&running.live).get(&content).cloned();
            if let Some(live) = live {
                live.cancel.cancel();
                fetch::gone(running, content).await;
            }
        }
        let discarded = self.parts.pump.discard(&fetch::partial_name(content)).await;
        discarded.map_err(|error| Refusal::Full(error.to_string()))?;
        let store = &self.parts.store;
        let over = self.kept().await?.into_iter().find(|fetch| fetch.content == content).map(|fetch| fetch.state);
        if anew && let Some(recording) = store.fetch_recording(content).map_err(unreadable)? {
            // What the owner forgets may be chosen again.
            let believed = store.write(move |txn, tables| {
                let library = tables.library;
                tables.gossip.believe(txn, recording, content, &library)
            });
            believed.await.map_err(unreadable)?;
        }
        store.remove_fetch(content).await.map_err(unreadable)?;
        Ok(over.and_then(|state| if let FetchState::Done(path) = state { Some(path) } else { None }))
    }
}

impl Running {
    /// Works on a kept fetch until it is over, or until the program stops.
    fn go_on(self: &Arc<Self>, fetch: Fetch) {
        let live = Live { cancel: self.cancel.child_token(), progress: Arc::default() };
        locked(&self.live).insert(fetch.content, live.clone());
        self.tasks.spawn(fetch::run(Arc::clone(self), fetch, live.cancel, live.progress));
    }
}

/// Mean and variance (of the population) of costs in thousandths, in thousandths.
fn spread(costs: impl Iterator<Item = u64>) -> (u64, u64) {
    let costs: Vec<u128> = costs.map(u128::from).collect();
    let count = costs.len() as u128;
    let Some(mean) = costs.iter().sum::<u128>().checked_div(count) else { return (0, 0) };
    let squares = costs.iter().map(|cost| cost.abs_diff(mean).saturating_pow(2)).fold(0, u128::saturating_add);
    let whole = |value: u128| u64::try_from(value).unwrap_or(u64::MAX);
    (whole(mean), whole(squares / count / 1_000))
}

/// What a source did and is worth, for pages.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped by the cast; none is negative")]
fn source_view(source: Source, share: Share, bytes: u64, worth: Worth, state: State) -> SourceView {
    let scaled = |value: f64, by: f64| (value * by).round() as u64;
    SourceView {
        source,
        bytes,
        bad_pieces: share.bad,
        failed: share.failed,
        dropped: share.dropped,
        cost_milli: worth.cost.map(|cost| scaled(cost, 1_000.0)),
        rate: worth.rate.map(|rate| scaled(rate, 1.0)),
        rtt_us: scaled(worth.rtt_s, 1_000_000.0),
        reputation_milli: scaled(worth.reputation, 1_000.0),
        requests: worth.runs as u64,
        state: state.name(),
    }
}

/// As the scheduler wants it.
fn swarm_settings(config: &Config) -> SwarmSettings {
    let swarm = &config.swarm;
    let of = |milli: u32| f64::from(milli) / 1_000.0;
    SwarmSettings {
        cost: CostSettings {
            enabled: swarm.cost_enabled,
            throughput_weight: of(swarm.throughput_milli),
            error_rate_weight: of(swarm.error_rate_milli),
            timeout_rate_weight: of(swarm.timeout_rate_milli),
            rtt_weight: of(swarm.rtt_milli),
            zero_throughput_penalty: of(swarm.zero_throughput_milli),
            high_error_rate_penalty: of(swarm.high_error_rate_milli),
        },
        rebalance: swarm.rebalance,
        rebalance_interval: Duration::from_secs(swarm.rebalance_interval_s),
        rebalance_chunks: swarm.rebalance_chunks,
        rebalance_threshold: of(swarm.rebalance_threshold_milli),
        reputation: reputation_settings(config),
        seed: 1,
    }
}

/// As the scheduler and jobs want it.
pub(crate) fn reputation_settings(config: &Config) -> ReputationSettings {
    let swarm = &config.swarm;
    ReputationSettings {
        enabled: swarm.reputation,
        quarantine_threshold: f64::from(swarm.quarantine_milli) / 1_000.0,
        half_life: Duration::from_secs(swarm.half_life_days.saturating_mul(24 * 3_600)),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn costs_have_a_mean_and_a_variance() {
        let spread = |costs: &[u64]| super::spread(costs.iter().copied());
        assert_eq!(spread(&[]), (0, 0));
        assert_eq!(spread(&[5_000]), (5_000, 0));
        // 1, 3 and 5: the mean is 3, the variance 8 / 3.
        assert_eq!(spread(&[1_000, 3_000, 5_000]), (3_000, 2_666));
        assert_eq!(spread(&[u64::MAX, 0]).1, u64::MAX);
    }
}
