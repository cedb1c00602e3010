//! Brings one file home.
//!
//! Its piece list is proven against its hash first. Then runs of pieces are asked from every connected peer that has the
//! file ([`swarm`]), as `engine::swarm::scheduler` decides; each piece is checked before it is written ([`run`]). The partial file is the only
//! memory of what is there: when a fetch goes on, the file is read again and every piece of it checked, so that neither a
//! kill nor a power cut can make a bad byte count. The whole file is read back and checked as it comes ([`land`]), synced,
//! and, if it was fetched as a recording, checked by its sound ([`sound`]); then it is placed without overwriting anything.

pub(super) mod feed;
mod land;
mod run;
mod soulseek;
mod sound;
mod swarm;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::feed::Feed;
use self::land::{Follower, Landing};
use self::swarm::Swarm;
use super::assist::Assist;
use super::leash::Leash;
use super::{Running, locked};
use crate::app::pump::{PlaceOrder, Placing, count};
use crate::app::traces::TraceJob;
use crate::disk::pool::BLOCK_LEN;
use crate::disk::{DiskError, File};
use crate::engine::mesh::exchange::Wanted;
use crate::engine::soulseek::io::PlaceError;
use crate::engine::swarm::cost::{UNKNOWN, cost};
use crate::engine::swarm::list::{PIECE_LEN, PieceList};
use crate::model::id::{ContentHash, PeerId, TransferId, Username};
use crate::model::limits;
use crate::model::mesh::{Fetch, FetchState, SourceView};
use crate::model::music::WireText;
use crate::model::swarm::Source;
use crate::model::trace::TraceKind;
use crate::net::mesh::{Link, spare};
use crate::store::StoreError;

/// What a fetch waits for that nobody can serve.
const NOBODY: &str = "no connected peer has the file";
/// Between two rounds of questions to peers that did not have the file.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// Before another attempt when the disk is full or fails.
const AGAIN: Duration = Duration::from_secs(30);
/// For a whole piece list.
pub(super) const LIST: Duration = Duration::from_secs(60);
/// The next peer is asked for the list too when the one before has not sent it in this time. Chosen: a list of a whole
/// album's worth from a peer of 0.5 MB/s.
const HURRY: Duration = Duration::from_millis(200);
/// Lists asked for at the same time: half a second of a slow peer is more than what a second list costs.
const LISTS_AT_FIRST: usize = 2;
/// Lists under way at once.
const LISTS_AT_ONCE: usize = 4;
/// Blocks read at once.
const BATCH: usize = 8;

/// How far a fetch is.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) bytes: u64,
    pub(super) twice: u64,
    pub(super) waits: String,
    /// It is whole, and the folder is missing which it goes to.
    pub(super) away: bool,
    pub(super) sources: Vec<SourceView>,
    pub(super) missing: Vec<(u64, u64)>,
}

/// Why an attempt ended without the file.
enum Stop {
    /// The program stops, or the owner does not want it any more.
    Cancelled,
    /// It can be tried again.
    Later(String),
    /// It is not what was wanted, and will not be another time.
    Wrong(String),
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
            PlaceError::Disk(why) | PlaceError::FolderAway(why) | PlaceError::CheckFailed(why) => why,
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
    if running.parts.store.fetch_users(fetch.content).is_ok_and(|users| !users.is_empty()) {
        // What was under way when the program ended would go on as a download of its own.
        soulseek::call_off(&running.parts, fetch.content, &cancel).await;
    }
    let assist = locked(&running.assists).get(&fetch.content).cloned();
    let leash = running.leashes.of(&fetch.folder);
    let trace = running.parts.traces.begin(fetch.content.to_string(), fetch.name.clone());
    let mut work = Work {
        running: Arc::clone(&running),
        fetch,
        cancel: cancel.clone(),
        progress: Arc::clone(&progress),
        trace: trace.clone(),
        users: Vec::new(),
        assist,
        leash,
        recording: None,
        away: false,
    };
    let called_off = || {
        // A fetch that goes on after a restart is not over.
        if !running.cancel.is_cancelled() {
            trace.record(TraceKind::JobComplete(Some("called off".to_owned())));
        }
    };
    loop {
        wait("other fetches come first");
        let turn = tokio::select! {
            () = cancel.cancelled() => return called_off(),
            turn = Arc::clone(&running.turns).acquire_owned() => turn,
        };
        let Ok(turn) = turn else { return };
        wait("");
        let attempt = work.attempt().await;
        locked(&progress).away = work.away;
        // Whoever waits now lets others try.
        drop(turn);
        if !work.users.is_empty() {
            soulseek::call_off(&running.parts, work.fetch.content, &running.cancel).await;
        }
        let why = match attempt {
            Ok(()) => return trace.record(TraceKind::JobComplete(None)),
            Err(Stop::Cancelled) => return called_off(),
            Err(Stop::Later(why)) => why,
            Err(Stop::Wrong(why)) => match work.give_up(&why).await {
                Ok(()) => return trace.record(TraceKind::JobComplete(Some(why))),
                // It is looked at again, and is no better then.
                Err(_) => why,
            },
        };
        trace.record(TraceKind::Note(why.clone()));
        tracing::warn!(content = %work.fetch.content, why, "a fetch from the mesh has to wait");
        wait(&why);
        tokio::select! {
            () = cancel.cancelled() => return called_off(),
            () = sleep(AGAIN) => {}
        }
    }
}

struct Work {
    running: Arc<Running>,
    fetch: Fetch,
    cancel: CancellationToken,
    progress: Arc<Mutex<Progress>>,
    trace: TraceJob,
    /// Soulseek users who share the file, and under which path.
    users: Vec<(Username, WireText)>,
    /// The download from Soulseek that it helps.
    assist: Option<Arc<Assist>>,
    /// What the job that it is for lets it take.
    leash: Option<Arc<Leash>>,
    /// What it is fetched as.
    recording: Option<u128>,
    /// The last attempt found that only the folder was missing which the file goes to.
    away: bool,
}

impl Work {
    async fn attempt(&mut self) -> Result<(), Stop> {
        if std::mem::take(&mut self.away) {
            // All else was looked at then.
            return self.place().await;
        }
        let pump = self.running.parts.pump.clone();
        let folder = pump.disk().open_folder(&pump.config().incomplete).await?;
        let name = partial_name(self.fetch.content);
        if self.fetch.meant.is_some()
            && matches!(pump.disk().open_existing(&folder, &name).await, Err(DiskError::Missing(_)))
        {
            match self.place().await {
                // It was placed before the last kill.
                Ok(()) => return Ok(()),
                Err(stop) if self.away => return Err(stop),
                Err(_) => {}
            }
        }
        // The list, and what is there and asked for of each piece.
        self.recording = self.running.parts.store.fetch_recording(self.fetch.content)?;
        let blocks = 1 + list_blocks(self.fetch.size);
        let Some(_paid) = spare(&self.running.blocks, blocks) else {
            return Err(Stop::Later("no buffers are free".to_owned()));
        };
        let (list, holders) = self.list().await?;
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
        let mut verified = self.check(&file, &list).await?;
        let list = Arc::new(list);
        self.users = self.running.parts.store.fetch_users(self.fetch.content)?;
        let (landing, follower) = Landing::new(pump.disk().clone(), file.clone(), Arc::clone(&list), verified.clone());
        let feed = match self.take_over(&landing, &list, &mut verified).await {
            Ok(feed) => feed,
            Err(stop) => return Err(self.heard(follower, stop).await),
        };
        let there = verified.iter().enumerate().filter(|(_, there)| **there);
        let there = there.map(|(piece, _)| list.piece_len(piece) as u64).sum();
        self.trace.record(TraceKind::JobStart { content: Some(self.fetch.content), size, there });
        let mut swarm = Swarm::new(self, list, file, landing, verified, holders);
        if let Err(stop) = swarm.run(feed).await {
            drop(swarm);
            return Err(self.heard(follower, stop).await);
        }
        let held = follower.finish(&self.cancel).await;
        if !matches!(held, Err(Stop::Cancelled)) {
            self.trace.record(TraceKind::Verified(held.is_ok()));
        }
        let checked = match held {
            Ok(()) => self.check_sound().await,
            Err(stop) => Err(stop),
        };
        swarm.verified(checked.is_ok());
        drop(swarm);
        let measured = checked?;
        if let Some(assist) = &self.assist
            && let Err(why) = assist.approved(measured, &self.cancel).await
        {
            self.trace.record(TraceKind::Note(why));
            return Err(Stop::Cancelled);
        }
        self.place().await
    }

    /// Why an attempt ended that did not bring all: what the disk has to say of it goes before. The end of the program does
    /// not wait for that.
    async fn heard(&self, follower: Follower, stop: Stop) -> Stop {
        let ends = self.running.cancel.clone();
        tokio::select! {
            stop = follower.beside(stop) => stop,
            () = ends.cancelled() => Stop::Cancelled,
        }
    }

    /// Takes over what the user sent of the download that this fetch helps; the answer takes over what comes later.
    async fn take_over(
        &self,
        landing: &Landing,
        list: &Arc<PieceList>,
        verified: &mut [bool],
    ) -> Result<Option<Feed>, Stop> {
        let Some(assist) = &self.assist else { return Ok(None) };
        let (running, assist) = (Arc::clone(&self.running), Arc::clone(assist));
        let mut feed = Feed { running, assist, list: Arc::clone(list), landing: landing.clone(), next: 0, fresh: 0 };
        while !self.cancel.is_cancelled() {
            let before = feed.next;
            // Those that are there already are not written again.
            let there = verified.iter().skip(before).take_while(|there| **there).count();
            feed.next += there;
            for piece in feed.take().await? {
                verified[piece] = true;
                feed.fresh += list.piece_len(piece) as u64;
            }
            if feed.next == before {
                return Ok(Some(feed));
            }
        }
        Err(Stop::Cancelled)
    }

    /// The piece list: kept, or asked from peers until one of them has a true one. And which peers said meanwhile that
    /// they have the file.
    async fn list(&self) -> Result<(PieceList, BTreeSet<PeerId>), Stop> {
        let (content, size) = (self.fetch.content, self.fetch.size);
        if let Some(single) = PieceList::single(content, size) {
            return Ok((single, BTreeSet::new()));
        }
        let store = &self.running.parts.store;
        if let Some(kept) = store.piece_list(content)?
            && let Ok(list) = PieceList::prove(content, size, &kept)
        {
            return Ok((list, BTreeSet::new()));
        }
        let mut changes = self.running.mesh.changes();
        loop {
            let (found, liars) = self.list_of(self.cheapest_first()).await?;
            for peer in liars {
                self.trace.record(TraceKind::Note(format!("peer {peer} sent a piece list of another file")));
                if let Some(assist) = &self.assist {
                    assist.blame(peer);
                }
            }
            if let Some((list, holders)) = found {
                store.put_piece_list(content, list.bytes().to_vec()).await?;
                self.wait("");
                return Ok((list, holders));
            }
            self.seek();
            if self.others_wait() {
                return Err(Stop::Later(NOBODY.to_owned()));
            }
            self.wait(NOBODY);
            tokio::select! {
                () = self.cancel.cancelled() => return Err(Stop::Cancelled),
                () = sleep(ASK_AGAIN) => {}
                _ = changes.changed() => {}
            }
        }
    }

    /// Has somebody looked for who has it: nobody connected does.
    fn seek(&self) {
        if let Some(recording) = self.recording {
            self.running.seek(recording);
        }
    }

    /// Whether this fetch takes the turn of another.
    fn others_wait(&self) -> bool {
        self.running.turns.available_permits() == 0
    }

    /// Connected peers, those that were quick and good before at the head.
    fn cheapest_first(&self) -> Vec<Link> {
        let running = &self.running;
        let costs = |link: &Link| {
            let (metrics, known) = running.parts.store.source(&Source::Mesh(link.id())).unwrap_or_default();
            cost(&metrics, known.score(), &running.swarm.cost).unwrap_or(UNKNOWN)
        };
        let mut links: Vec<(f64, Link)> = running.mesh.links().into_iter().map(|link| (costs(&link), link)).collect();
        links.sort_by(|a, b| a.0.total_cmp(&b.0));
        links.into_iter().map(|(_, link)| link).collect()
    }

    /// Asks for the list, one more when the answers let themselves be waited for. All are asked
    /// besides whether they have the file. And who sent a list that is not that of the file.
    async fn list_of(
        &self,
        links: Vec<Link>,
    ) -> Result<(Option<(PieceList, BTreeSet<PeerId>)>, BTreeSet<PeerId>), Stop> {
        let (content, size) = (self.fetch.content, self.fetch.size);
        let (mut holders, mut liars) = (BTreeSet::new(), BTreeSet::new());
        let (mut questions, mut lists) = (JoinSet::new(), JoinSet::new());
        for link in links.iter().take(limits::MESH_SOURCES) {
            let link = link.clone();
            questions.spawn(async move { (link.id(), link.ask(content).await == Some(size)) });
        }
        let mut links = links.into_iter();
        let (mut more, mut hurry) = (true, Instant::now());
        loop {
            if more && (lists.len() < LISTS_AT_FIRST || Instant::now() >= hurry) && lists.len() < LISTS_AT_ONCE {
                hurry = Instant::now() + HURRY;
                // The first one is paid for.
                let paid = if lists.is_empty() { None } else { spare(&self.running.blocks, list_blocks(size)) };
                if (lists.is_empty() || paid.is_some())
                    && let Some(link) = links.next()
                {
                    let limiter = self.running.parts.pump.limiter().clone();
                    lists.spawn(async move {
                        let bytes = timeout(LIST, list_from(&link, content, size)).await.ok().flatten();
                        count(&limiter.traffic.overlay_down, bytes.as_ref().map_or(0, Vec::len));
                        drop(paid);
                        (link, bytes)
                    });
                    continue;
                }
                more = links.len() > 0;
            }
            if lists.is_empty() && !more {
                return Ok((None, liars));
            }
            tokio::select! {
                () = self.cancel.cancelled() => return Err(Stop::Cancelled),
                Some(Ok((peer, has))) = questions.join_next() => {
                    if has {
                        holders.insert(peer);
                    }
                }
                Some(Ok((link, bytes))) = lists.join_next() => {
                    let Some(bytes) = bytes else { continue };
                    match PieceList::prove(content, size, &bytes) {
                        Ok(list) => {
                            holders.insert(link.id());
                            return Ok((Some((list, holders)), liars));
                        }
                        // Nobody sends such a list by mistake: it is proven before it is served.
                        Err(lie) => {
                            liars.insert(link.id());
                            link.strike(&lie.to_string());
                        }
                    }
                }
                () = sleep_until(hurry), if more && lists.len() < LISTS_AT_ONCE => {}
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
        // What could not be written last time is still in memory, and looks as if it were on the disk.
        if len > 0 {
            disk.sync_data(file).await?;
        }
        disk.uncache(file, 0, len).await?;
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
            let placing = self.running.parts.pump.place_quietly(&order).await;
            self.away = matches!(placing, Err(PlaceError::FolderAway(_)));
            match placing? {
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

/// The piece list of a file, kept or asked of those connected, and who sent another one.
pub(super) async fn find_list(
    running: &Arc<Running>,
    content: ContentHash,
    size: u64,
) -> (Option<PieceList>, BTreeSet<PeerId>) {
    let nobody = (None, BTreeSet::new());
    if PieceList::fits(size).is_err() {
        return nobody;
    }
    let Some(_paid) = spare(&running.blocks, 1 + list_blocks(size)) else { return nobody };
    if let Some(single) = PieceList::single(content, size) {
        return (Some(single), BTreeSet::new());
    }
    let kept = running.parts.store.piece_list(content).ok().flatten();
    if let Some(list) = kept.and_then(|kept| PieceList::prove(content, size, &kept).ok()) {
        return (Some(list), BTreeSet::new());
    }
    let fetch = Fetch {
        content,
        size,
        name: String::new(),
        folder: String::new(),
        asked_at: running.parts.clock.now().wall,
        ended_at: None,
        state: FetchState::Running,
        meant: None,
    };
    let asking = Work {
        running: Arc::clone(running),
        fetch,
        cancel: running.cancel.clone(),
        progress: Arc::default(),
        trace: TraceJob::default(),
        users: Vec::new(),
        assist: None,
        leash: None,
        recording: None,
        away: false,
    };
    let Ok((found, liars)) = asking.list_of(asking.cheapest_first()).await else { return nobody };
    let list = found.map(|(list, _)| list);
    if let Some(list) = &list
        && let Err(error) = running.parts.store.put_piece_list(content, list.bytes().to_vec()).await
    {
        tracing::warn!(%error, "a piece list could not be kept");
    }
    (list, liars)
}

/// `None`: this peer has no list for us.
async fn list_from(link: &Link, content: ContentHash, size: u64) -> Option<Vec<u8>> {
    let mut body = link.request(Wanted::PieceList(content, size)).await.ok()?;
    let mut bytes = vec![0; usize::try_from(body.left()).ok()?.min(limits::PIECE_LIST_LEN)];
    let filled = body.fill(&mut bytes).await.ok()?;
    (filled == bytes.len()).then_some(bytes)
}
