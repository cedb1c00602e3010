//! Brings one file home.
//!
//! Its piece list is proven against its hash first. Then runs of pieces are asked from every connected peer that has the
//! file, as `engine::swarm::scheduler` decides; each piece is checked before it is written. The partial file is the only
//! memory of what is there: when a fetch goes on, the file is read again and every piece of it checked, so that neither a
//! kill nor a power cut can make a bad byte count. The finished file is checked whole, synced, and placed without
//! overwriting anything.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Running, locked, source_view};
use crate::app::pump::{PlaceOrder, Placing};
use crate::app::traces::TraceJob;
use crate::disk::pool::{BLOCK_LEN, Block};
use crate::disk::{DiskError, File};
use crate::engine::mesh::exchange::{Failure, Wanted};
use crate::engine::mesh::frame::{ChunkRequest, ErrorCode};
use crate::engine::soulseek::io::PlaceError;
use crate::engine::swarm::list::{PIECE_LEN, PieceList};
use crate::engine::swarm::scheduler::{Assignment, Ended, RunId, Scheduler};
use crate::model::id::{ContentHash, PeerId, TransferId};
use crate::model::limits;
use crate::model::mesh::{Fetch, FetchState, SourceView};
use crate::model::swarm::{CancelReason, Priority, Source};
use crate::model::trace::{ChunkResult, TraceKind};
use crate::net::mesh::{Link, RequestError, spare};
use crate::store::StoreError;

/// Between two rounds of questions to peers that did not have the file.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// Before another attempt when the disk is full or fails.
const AGAIN: Duration = Duration::from_secs(30);
/// While others use all runs there may be.
const SOON: Duration = Duration::from_millis(100);
/// For a whole piece list.
pub(super) const LIST: Duration = Duration::from_secs(60);
/// Events of runs waiting to be counted; the runs wait.
const EVENTS: usize = 64;
/// Blocks read at once.
const BATCH: usize = 8;
/// SPEC-FACTS 6.3: normal.
const PRIORITY: u8 = 5;

/// How far a fetch is.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) bytes: u64,
    pub(super) twice: u64,
    pub(super) waits: String,
    pub(super) sources: Vec<SourceView>,
}

/// Why an attempt ended without the file.
enum Stop {
    /// The program stops, or the owner does not want it any more.
    Cancelled,
    /// It can be tried again.
    Later(String),
}

impl From<DiskError> for Stop {
    fn from(error: DiskError) -> Self {
        Self::Later(error.to_string())
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Later(error.to_string())
    }
}

impl From<PlaceError> for Stop {
    fn from(error: PlaceError) -> Self {
        Self::Later(match error {
            PlaceError::DiskFull => "no room left on the disk".to_owned(),
            PlaceError::Disk(why) | PlaceError::CheckFailed(why) => why,
        })
    }
}

/// Name in the incomplete folder. Made of the content alone.
pub(super) fn partial_name(content: ContentHash) -> String {
    format!("{content}.mesh")
}

/// Waits until nobody works on this fetch any more.
pub(super) async fn gone(running: &Running, content: ContentHash) {
    while locked(&running.live).contains_key(&content) {
        sleep(Duration::from_millis(10)).await;
    }
}

/// Takes a fetch off the list of those that run, whatever ends it.
struct Listed {
    running: Arc<Running>,
    content: ContentHash,
    progress: Arc<Mutex<Progress>>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut over = locked(&self.running.over);
        if over.len() >= limits::MESH_FETCHES_SHOWN {
            over.pop_front();
        }
        over.push_back((self.content, locked(&self.progress).clone()));
        drop(over);
        locked(&self.running.live).remove(&self.content);
    }
}

/// Works on a fetch until it is over or cancelled.
pub(super) async fn run(
    running: Arc<Running>,
    fetch: Fetch,
    cancel: CancellationToken,
    progress: Arc<Mutex<Progress>>,
) {
    let _listed = Listed { running: Arc::clone(&running), content: fetch.content, progress: Arc::clone(&progress) };
    let wait = |why: &str| why.clone_into(&mut locked(&progress).waits);
    wait("other fetches come first");
    let turn = tokio::select! {
        () = cancel.cancelled() => return,
        turn = Arc::clone(&running.turns).acquire_owned() => turn,
    };
    let Ok(_turn) = turn else { return };
    wait("");
    let trace = running.parts.traces.begin(fetch.content.to_string(), fetch.name.clone());
    let mut work = Work {
        running: Arc::clone(&running),
        fetch,
        cancel: cancel.clone(),
        progress: Arc::clone(&progress),
        trace: trace.clone(),
    };
    loop {
        let why = match work.attempt().await {
            Ok(()) => return trace.record(TraceKind::JobComplete(None)),
            Err(Stop::Cancelled) if running.cancel.is_cancelled() => return,
            Err(Stop::Cancelled) => return trace.record(TraceKind::JobComplete(Some("called off".to_owned()))),
            Err(Stop::Later(why)) => why,
        };
        trace.record(TraceKind::Note(why.clone()));
        tracing::warn!(content = %work.fetch.content, why, "a fetch from the mesh has to wait");
        wait(&why);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep(AGAIN) => wait(""),
        }
    }
}

struct Work {
    running: Arc<Running>,
    fetch: Fetch,
    cancel: CancellationToken,
    progress: Arc<Mutex<Progress>>,
    trace: TraceJob,
}

impl Work {
    async fn attempt(&mut self) -> Result<(), Stop> {
        let pump = self.running.parts.pump.clone();
        let folder = pump.disk().open_folder(&pump.config().incomplete).await?;
        let name = partial_name(self.fetch.content);
        if self.fetch.meant.is_some()
            && matches!(pump.disk().open_existing(&folder, &name).await, Err(DiskError::Missing(_)))
            && self.place().await.is_ok()
        {
            // It was placed before the last kill.
            return Ok(());
        }
        // The list, and what is there and asked for of each piece.
        let blocks = 1 + list_blocks(self.fetch.size);
        let Some(_paid) = spare(&self.running.blocks, blocks) else {
            return Err(Stop::Later("no buffers are free".to_owned()));
        };
        let list = self.list().await?;
        let (file, len) = pump.disk().open_or_create(&folder, &name).await?;
        let size = self.fetch.size;
        if len > size {
            pump.disk().truncate(&file, size).await?;
        }
        let reserved = pump.disk().sizes(&file).await?.allocated;
        let floor = pump.config().free_min.saturating_add(size.saturating_sub(reserved));
        if pump.disk().free_space(&folder).await? < floor {
            return Err(DiskError::Full.into());
        }
        pump.disk().preallocate(&file, size).await?;
        pump.disk().sync_folder(&folder).await?;
        let verified = self.check(&file, &list).await?;
        let there = verified.iter().enumerate().filter(|(_, there)| **there);
        let there = there.map(|(piece, _)| list.piece_len(piece) as u64).sum();
        self.trace.record(TraceKind::JobStart { content: Some(self.fetch.content), size, there });
        let mut swarm = Swarm::new(self, Arc::new(list), file.clone(), verified);
        swarm.run().await?;
        drop(swarm);
        pump.disk().sync_all(&file).await?;
        self.check_whole(&file).await?;
        self.place().await
    }

    /// The piece list: kept, or asked from peers until one of them has a true one.
    async fn list(&self) -> Result<PieceList, Stop> {
        let (content, size) = (self.fetch.content, self.fetch.size);
        if let Some(single) = PieceList::single(content, size) {
            return Ok(single);
        }
        let store = &self.running.parts.store;
        if let Some(kept) = store.piece_list(content)?
            && let Ok(list) = PieceList::prove(content, size, &kept)
        {
            return Ok(list);
        }
        let mut changes = self.running.mesh.changes();
        loop {
            for link in self.running.mesh.links() {
                let asked = tokio::select! {
                    () = self.cancel.cancelled() => return Err(Stop::Cancelled),
                    asked = timeout(LIST, list_from(&link, content, size)) => asked,
                };
                let Ok(Some(bytes)) = asked else { continue };
                match PieceList::prove(content, size, &bytes) {
                    Ok(list) => {
                        store.put_piece_list(content, bytes).await?;
                        self.wait("");
                        return Ok(list);
                    }
                    // Nobody sends such a list by mistake: it is proven before it is served.
                    Err(lie) => link.strike(&lie.to_string()),
                }
            }
            self.wait("no connected peer has the file");
            tokio::select! {
                () = self.cancel.cancelled() => return Err(Stop::Cancelled),
                () = sleep(ASK_AGAIN) => {}
                _ = changes.changed() => {}
            }
        }
    }

    fn wait(&self, why: &str) {
        why.clone_into(&mut locked(&self.progress).waits);
    }

    /// Which pieces of the partial file are right.
    async fn check(&self, file: &File, list: &PieceList) -> Result<Vec<bool>, Stop> {
        let disk = self.running.parts.pump.disk();
        let len = disk.sizes(file).await?.len;
        let mut verified = vec![false; list.pieces()];
        let mut piece = 0;
        while piece < list.pieces() && piece as u64 * PIECE_LEN < len {
            if self.cancel.is_cancelled() {
                return Err(Stop::Cancelled);
            }
            let blocks = disk.pool().take_many(BATCH).await;
            let count = blocks.len();
            let blocks = disk.read(file, piece as u64 * PIECE_LEN, blocks).await?;
            for (at, block) in blocks.iter().enumerate().take(count) {
                if let Some(there) = verified.get_mut(piece + at) {
                    let bytes = &block.bytes()[..block.len().min(list.piece_len(piece + at))];
                    *there = list.holds(piece + at, bytes);
                }
            }
            piece += count;
        }
        Ok(verified)
    }

    async fn check_whole(&self, file: &File) -> Result<(), Stop> {
        let disk = self.running.parts.pump.disk();
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        loop {
            let blocks = disk.pool().take_many(BATCH).await;
            let blocks = disk.read(file, at, blocks).await?;
            let read: usize = blocks.iter().map(Block::len).sum();
            if read == 0 {
                break;
            }
            for block in &blocks {
                hasher.update(block.bytes());
            }
            at += read as u64;
        }
        let held = at == self.fetch.size && *hasher.finalize().as_bytes() == self.fetch.content.0;
        self.trace.record(TraceKind::Verified(held));
        if held {
            return Ok(());
        }
        Err(Stop::Later("the disk does not give back what was written to it".to_owned()))
    }

    /// Moves the whole file to its place and keeps where that is.
    async fn place(&mut self) -> Result<(), Stop> {
        let Fetch { content, size, name, folder, .. } = self.fetch.clone();
        let store = self.running.parts.store.clone();
        // A second round when the name that was meant is taken meanwhile.
        loop {
            let order = PlaceOrder {
                transfer: TransferId(0),
                file: partial_name(content),
                folder: folder.clone(),
                name: name.clone(),
                size,
                check: false,
                meant: self.fetch.meant.clone(),
            };
            match self.running.parts.pump.place_quietly(&order).await? {
                Placing::Meant(path) => self.fetch.meant = Some(path),
                Placing::There(path) => {
                    tracing::info!(%content, path = ?path, "fetched from the mesh");
                    self.fetch.state = FetchState::Done(path);
                    self.fetch.ended_at = Some(self.running.parts.clock.now().wall);
                }
            }
            store.put_fetch(self.fetch.clone()).await?;
            if self.fetch.state != FetchState::Running {
                return Ok(());
            }
        }
    }
}

/// Blocks that the piece list of a file this long fills.
pub(super) fn list_blocks(size: u64) -> u32 {
    u32::try_from((size.div_ceil(PIECE_LEN) * 32).div_ceil(BLOCK_LEN as u64)).unwrap_or(u32::MAX)
}

/// `None`: this peer has no list for us.
async fn list_from(link: &Link, content: ContentHash, size: u64) -> Option<Vec<u8>> {
    if link.ask(content).await != Some(size) {
        return None;
    }
    let mut body = link.request(Wanted::PieceList(content, size)).await.ok()?;
    let mut bytes = vec![0; usize::try_from(body.left()).ok()?.min(limits::PIECE_LIST_LEN)];
    let filled = body.fill(&mut bytes).await.ok()?;
    (filled == bytes.len()).then_some(bytes)
}

/// What a run tells.
enum Told {
    /// A piece came, right (and written) or wrong.
    Piece(RunId, usize, bool),
    /// The disk does not take it.
    Disk(DiskError),
    /// The run is over.
    Ended(RunId, Ended),
    /// Whether this peer has the file.
    Has(PeerId, bool),
}

/// All sources of one file at work.
struct Swarm<'a> {
    work: &'a Work,
    list: Arc<PieceList>,
    file: File,
    scheduler: Scheduler,
    began: Instant,
    told: mpsc::Sender<Told>,
    events: mpsc::Receiver<Told>,
    tasks: JoinSet<()>,
    runs: BTreeMap<RunId, CancellationToken>,
    /// Peers being asked, or that said no, and when to ask them again.
    asked: BTreeMap<PeerId, Instant>,
    bytes: BTreeMap<PeerId, u64>,
    /// When each run was asked for, its first byte, and the bytes that came first by it.
    given: BTreeMap<RunId, (Instant, u64, u64)>,
}

impl<'a> Swarm<'a> {
    fn new(work: &'a Work, list: Arc<PieceList>, file: File, verified: Vec<bool>) -> Self {
        let (told, events) = mpsc::channel(EVENTS);
        Self {
            work,
            list,
            file,
            scheduler: Scheduler::new(verified),
            began: Instant::now(),
            told,
            events,
            tasks: JoinSet::new(),
            runs: BTreeMap::new(),
            asked: BTreeMap::new(),
            bytes: BTreeMap::new(),
            given: BTreeMap::new(),
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn run(&mut self) -> Result<(), Stop> {
        let mut changes = self.work.running.mesh.changes();
        while self.scheduler.left() > 0 {
            self.look_for_sources();
            let starved = self.assign();
            self.show();
            let now = self.now();
            let mut wake = self.scheduler.deadline(now).map_or(self.began + now + ASK_AGAIN, |at| self.began + at);
            if starved {
                wake = wake.min(Instant::now() + SOON);
            }
            let told = tokio::select! {
                () = self.work.cancel.cancelled() => return Err(Stop::Cancelled),
                told = self.events.recv() => told,
                _ = changes.changed() => None,
                () = sleep_until(wake) => None,
            };
            while self.tasks.try_join_next().is_some() {}
            if let Some(told) = told {
                self.hear(told)?;
            }
        }
        self.show();
        Ok(())
    }

    /// Asks peers that are new, or that had it not a while ago. Those that went are told to the scheduler.
    fn look_for_sources(&mut self) {
        let links = self.work.running.mesh.links();
        let here: BTreeSet<PeerId> = links.iter().map(Link::id).collect();
        let known: Vec<PeerId> = self.scheduler.shares().map(|(peer, _)| peer).collect();
        for peer in known {
            if !here.contains(&peer) && self.scheduler.has(peer) {
                self.scheduler.went(peer);
                self.asked.remove(&peer);
                self.trace(TraceKind::PeerDisconnected(Source::Mesh(peer), "the connection is gone".to_owned()));
            }
        }
        let now = Instant::now();
        self.asked.retain(|peer, again| here.contains(peer) && *again > now);
        for link in links {
            let peer = link.id();
            let full = self.scheduler.here() + self.asked.len() >= limits::MESH_SOURCES;
            if self.scheduler.has(peer) || self.asked.contains_key(&peer) || full {
                continue;
            }
            self.asked.insert(peer, now + ASK_AGAIN);
            let (told, content, size) = (self.told.clone(), self.list.content(), self.list.size());
            self.tasks.spawn(async move {
                let has = link.ask(content).await == Some(size);
                // Nobody may listen any more.
                let _ = told.send(Told::Has(peer, has)).await;
            });
        }
    }

    /// Starts what can be started. True if others use all runs there may be.
    fn assign(&mut self) -> bool {
        loop {
            let Ok(permit) = Arc::clone(&self.work.running.runs).try_acquire_owned() else { return true };
            let Some(assignment) = self.scheduler.next(self.now()) else { return false };
            let Some(link) = self.work.running.mesh.link(assignment.source) else {
                self.scheduler.went(assignment.source);
                self.scheduler.ended(assignment.run, Ended::Failed, self.now());
                continue;
            };
            let cancel = CancellationToken::new();
            self.runs.insert(assignment.run, cancel.clone());
            self.asked_for(&assignment);
            let run = Run {
                link,
                list: Arc::clone(&self.list),
                file: self.file.clone(),
                running: Arc::clone(&self.work.running),
                told: self.told.clone(),
                until: self.began + assignment.until,
                permit,
            };
            self.tasks.spawn(run.go(assignment, cancel));
        }
    }

    fn hear(&mut self, told: Told) -> Result<(), Stop> {
        let running = &self.work.running;
        match told {
            Told::Disk(error) => return Err(error.into()),
            Told::Has(peer, true) => {
                self.asked.remove(&peer);
                self.scheduler.came(peer);
                self.trace(TraceKind::PeerConnected(Source::Mesh(peer)));
            }
            Told::Has(..) => {}
            Told::Piece(run, piece, good) => {
                let source = self.scheduler.source(run);
                let first = self.scheduler.piece(run, piece, good);
                let len = self.list.piece_len(piece) as u64;
                if first {
                    running.bytes_in.fetch_add(len, Ordering::Relaxed);
                    if let Some(source) = source {
                        *self.bytes.entry(source).or_default() += len;
                    }
                    if let Some((_, _, bytes)) = self.given.get_mut(&run) {
                        *bytes += len;
                    }
                }
                if !good {
                    running.bad_pieces.fetch_add(1, Ordering::Relaxed);
                    let peer = source.map(|peer| peer.to_string());
                    tracing::warn!(content = %self.list.content(), piece, peer, "a peer sent a bad piece");
                    if let Some(source) = source.map(Source::Mesh) {
                        self.trace(TraceKind::BadPiece { source, piece: piece as u64 });
                    }
                }
                let useless: Vec<RunId> =
                    self.runs.keys().copied().filter(|run| !self.scheduler.is_wanted(*run)).collect();
                for run in useless {
                    // One that has just sent its last piece ends by itself.
                    if let Some(cancel) = self.runs.get(&run) {
                        cancel.cancel();
                    }
                }
            }
            Told::Ended(run, how) => {
                self.runs.remove(&run);
                self.ended(run, how);
                self.scheduler.ended(run, how, self.now());
            }
        }
        Ok(())
    }

    fn trace(&self, kind: TraceKind) {
        self.work.trace.record(kind);
    }

    fn asked_for(&mut self, assignment: &Assignment) {
        let offset = assignment.pieces.start as u64 * PIECE_LEN;
        self.given.insert(assignment.run, (Instant::now(), offset, 0));
        let length = assignment.pieces.clone().map(|piece| self.list.piece_len(piece) as u64).sum();
        self.trace(TraceKind::ChunkRequested {
            run: assignment.run.0,
            source: Source::Mesh(assignment.source),
            offset,
            length,
            priority: Priority::Normal,
            cost: None,
            endgame: false,
        });
    }

    fn ended(&mut self, run: RunId, how: Ended) {
        let Some((since, offset, bytes)) = self.given.remove(&run) else { return };
        let Some(source) = self.scheduler.source(run).map(Source::Mesh) else { return };
        let run = run.0;
        let took_us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let result = match how {
            Ended::Whole => ChunkResult::Ok,
            Ended::Failed | Ended::Never => ChunkResult::Error,
            Ended::Cancelled => {
                let reason = CancelReason::SwarmRebalanced;
                return self.trace(TraceKind::ChunkCancelled { run, source, reason, bytes });
            }
        };
        self.trace(TraceKind::ChunkEnded { run, source, offset, bytes, result, rtt_us: None, took_us });
    }

    fn show(&self) {
        let there = |(piece, there): (usize, &bool)| if *there { self.list.piece_len(piece) as u64 } else { 0 };
        let bytes = self.scheduler.verified().iter().enumerate().map(there).sum();
        let of = |peer: PeerId| self.bytes.get(&peer).copied().unwrap_or(0);
        let sources = self.scheduler.shares().map(|(peer, share)| source_view(peer, share, of(peer))).collect();
        let waits = match (self.scheduler.left(), self.scheduler.here()) {
            (0, _) => "the whole file is being checked",
            (_, 0) => "no connected peer has the file",
            _ => "",
        };
        let twice = self.scheduler.twice();
        *locked(&self.work.progress) = Progress { bytes, twice, waits: waits.to_owned(), sources };
    }
}

/// One run of pieces from one peer.
struct Run {
    link: Link,
    list: Arc<PieceList>,
    file: File,
    running: Arc<Running>,
    told: mpsc::Sender<Told>,
    until: Instant,
    permit: OwnedSemaphorePermit,
}

impl Run {
    async fn go(self, assignment: Assignment, cancel: CancellationToken) {
        let how = tokio::select! {
            biased;
            how = timeout_at(self.until, self.fetch(&assignment)) => how.unwrap_or(Ended::Failed),
            () = cancel.cancelled() => Ended::Cancelled,
        };
        drop(self.permit);
        // Nobody listens any more once the file is whole.
        let _ = self.told.send(Told::Ended(assignment.run, how)).await;
    }

    async fn fetch(&self, assignment: &Assignment) -> Ended {
        match self.pieces(assignment.run, assignment.pieces.clone()).await {
            Ok(true) => Ended::Whole,
            Ok(false) => Ended::Failed,
            Err(RequestError::Failed(Failure::Refused(ErrorCode::NotFound | ErrorCode::PolicyViolation))) => {
                Ended::Never
            }
            Err(error) => {
                tracing::debug!(peer = %self.link.id(), %error, "a run of pieces failed");
                Ended::Failed
            }
        }
    }

    /// `Ok(false)`: a bad piece was among them, or the disk failed.
    async fn pieces(&self, run: RunId, pieces: Range<usize>) -> Result<bool, RequestError> {
        let length: usize = pieces.clone().map(|piece| self.list.piece_len(piece)).sum();
        let left = self.until.saturating_duration_since(Instant::now());
        let chunk = ChunkRequest {
            content: self.list.content(),
            offset: pieces.start as u64 * PIECE_LEN,
            length: u32::try_from(length).unwrap_or(u32::MAX),
            priority: PRIORITY,
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        };
        let mut body = self.link.request(Wanted::Chunk(chunk)).await?;
        let pump = &self.running.parts.pump;
        for piece in pieces {
            let len = self.list.piece_len(piece);
            let mut block = pump.disk().pool().take().await;
            while block.len() < len {
                let granted = pump.limiter().down.take(len - block.len()).await.clamp(1, BLOCK_LEN - block.len());
                let granted = granted.min(len - block.len());
                let filled = body.fill(&mut block.spare()[..granted]).await?;
                block.grow(filled);
            }
            let good = self.list.holds(piece, block.bytes());
            if good && let Err(failed) = pump.disk().write(&self.file, piece as u64 * PIECE_LEN, vec![block]).await {
                let _ = self.told.send(Told::Disk(failed.error)).await;
                return Ok(false);
            }
            let _ = self.told.send(Told::Piece(run, piece, good)).await;
            if !good {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
