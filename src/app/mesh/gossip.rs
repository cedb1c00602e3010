//! Tells peers about recordings we share, and keeps what they tell.
//!
//! When and how much is `engine::mesh::gossip`'s decision; this room does its deeds. [`tell`] makes what is told out of
//! the Doctor's copies: only of files that [`super::serve`] would serve, looked at anew each time. What changed is noted
//! by the store when a copy changes; everything is looked over at the start, once a day, and within an hour when the shares
//! changed. Copies that changed before they were shared are looked at again when the shares change.

mod tell;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use self::tell::Over;
pub(super) use self::tell::own_offer;
use super::{Running, locked, serve};
use crate::engine::mesh::control::{CacheJob, Control, Descriptor, RecordingAdvert};
use crate::engine::mesh::gossip::{Deed, Gossip, Own};
use crate::model::gossip::{Claim, HashEntry, Heard};
use crate::model::id::PeerId;
use crate::model::limits;
use crate::model::music::ShareCounts;
use crate::model::record::Change;
use crate::model::time::UnixMs;
use crate::model::view::ShareView;
use crate::net::mesh::{Link, Telling, Told, spare};
use crate::store::gossip::Room;
use crate::store::{Store, StoreError};

/// Name of the setting that keeps the id of our list.
const BUNDLE: &str = "mesh.gossip.bundle";
/// Between two looks at what changed here.
const LOOK: Duration = Duration::from_secs(2);
/// Between two looks over everything.
const OVER_ALL: Duration = Duration::from_secs(86_400);
/// The same, when the shares changed.
const OVER_SHARES: Duration = Duration::from_secs(3_600);
/// Between two looks for peers whose hashes are too old.
const EXPIRE: Duration = Duration::from_secs(3_600);
/// Recordings with changed copies that were not shared then; further ones wait for the look over everything.
const UNSHARED: usize = 4_096;
/// Before another attempt when the store fails or no buffers are free.
const AGAIN: Duration = Duration::from_secs(30);
/// Recordings looked at in one go.
const BATCH: usize = 32;
/// Flac keys waiting to be asked for.
pub(super) const KEYS: usize = 8;
/// Hashes of one commit.
const HASHES: usize = 128;

/// Answers that somebody waits for.
#[derive(Default)]
pub(super) struct Answers {
    /// Of which job.
    pub(super) offers: BTreeMap<u128, mpsc::Sender<(PeerId, Box<CacheJob>)>>,
    /// Of which release.
    pub(super) descriptors: BTreeMap<u128, mpsc::Sender<(PeerId, Box<Descriptor>)>>,
}

/// Tells and hears until the program stops.
pub(super) async fn run(running: Arc<Running>, mut keys: mpsc::Receiver<u64>) {
    let Some(mut hears) = running.mesh.hear() else { return };
    loop {
        // Frames that come and go are paid for with blocks, as connections are.
        let paid = spare(&running.blocks, limits::GOSSIP_BLOCKS);
        let failed = match paid {
            None => "no buffers are free".to_owned(),
            Some(_paid) => match Work::new(Arc::clone(&running)).await {
                Ok(mut work) => match work.run(&mut hears, &mut keys).await {
                    Ok(()) => return,
                    Err(error) => error.to_string(),
                },
                Err(error) => error,
            },
        };
        tracing::warn!(why = failed, "peers are not told about recordings just now");
        tokio::select! {
            () = running.cancel.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Reads or writes the store on a thread that may wait.
async fn stored<T: Send + 'static>(
    running: &Arc<Running>,
    work: impl FnOnce(&Running) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let running = Arc::clone(running);
    let worked = tokio::task::spawn_blocking(move || work(&running)).await;
    worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// What is shared, when no scan is changing it: a watched folder changes it without one.
fn shown(shares: &ShareView) -> Option<(Option<UnixMs>, ShareCounts, u64)> {
    (!shares.scanning).then_some((shares.scanned_at, shares.counts, shares.bytes))
}

fn own(store: &Store, bundle_id: u64) -> Result<Own, StoreError> {
    let (latest, count) = store.read(|txn, tables| tables.gossip.own(txn))?;
    Ok(Own { bundle_id, named_id: tell::list(bundle_id, true), latest, count })
}

struct Work {
    running: Arc<Running>,
    began: Instant,
    bundle_id: u64,
    machine: Gossip,
    /// Connections that the machine knows, by their numbers.
    links: BTreeMap<PeerId, u64>,
    over: Over,
    over_due: Duration,
    /// When the last one began.
    over_at: Duration,
    /// Recordings whose changed copies were not shared when they were looked at.
    unshared: BTreeSet<u128>,
    /// Those of them that are to be looked at again now.
    again: Vec<u128>,
    /// Peers whose void words are being removed.
    sweeping: BTreeSet<PeerId>,
    expire_due: Duration,
}

impl Work {
    async fn new(running: Arc<Running>) -> Result<Self, String> {
        let store = running.parts.store.clone();
        let kept = stored(&running, |running| running.parts.store.setting(BUNDLE)).await.map_err(|e| e.to_string())?;
        let bundle_id = match kept.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes) {
            Some(id) if id != 0 => id,
            _ => {
                let id = getrandom::u64().map_err(|error| format!("no randomness: {error}"))?.max(1);
                let change = Change::Setting(BUNDLE.to_owned(), Some(id.to_le_bytes().to_vec()));
                store.apply(vec![change]).await.map_err(|error| error.to_string())?;
                id
            }
        };
        let own = stored(&running, move |running| own(&running.parts.store, bundle_id)).await;
        let own = own.map_err(|error| error.to_string())?;
        Ok(Self {
            running,
            began: Instant::now(),
            bundle_id,
            machine: Gossip::new(own),
            links: BTreeMap::new(),
            over: Over::After(None),
            over_due: OVER_ALL,
            over_at: Duration::ZERO,
            unshared: BTreeSet::new(),
            again: Vec::new(),
            sweeping: BTreeSet::new(),
            expire_due: Duration::ZERO,
        })
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn run(
        &mut self,
        hears: &mut mpsc::Receiver<Told>,
        keys: &mut mpsc::Receiver<u64>,
    ) -> Result<(), StoreError> {
        let mut changes = self.running.mesh.changes();
        let mut shares = self.running.parts.sharing.view();
        let mut shared = shown(&shares.borrow_and_update());
        let mut look = self.began;
        loop {
            self.meet().await?;
            let mut deeds = Vec::new();
            self.machine.on_timeout(self.now(), &mut deeds);
            self.perform(deeds).await?;
            let due = self.machine.next_timeout().map(|at| self.began + at);
            let wake = due.map_or(look, |due| due.min(look));
            tokio::select! {
                () = self.running.cancel.cancelled() => return Ok(()),
                told = hears.recv() => {
                    let Some(Told { peer, said }) = told else { return Ok(()) };
                    let mut deeds = Vec::new();
                    match said.open() {
                        Ok(control) => {
                            // Who speaks may have come a moment ago.
                            self.meet().await?;
                            self.machine.on_message(peer, control, self.now(), &mut deeds);
                        }
                        Err(error) => deeds.push(Deed::Strike(peer, error.to_string())),
                    }
                    self.perform(deeds).await?;
                }
                Some(key) = keys.recv() => {
                    let peers: Vec<PeerId> = self.machine.peers().collect();
                    let mut deeds = Vec::new();
                    for peer in peers {
                        self.machine.ask_key(peer, key, self.now(), &mut deeds);
                    }
                    self.perform(deeds).await?;
                }
                changed = changes.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep_until(wake) => {}
            }
            if Instant::now() >= look {
                let shares = shown(&shares.borrow_and_update());
                if shares.is_some() && shares != shared {
                    shared = shares;
                    self.over_due = self.over_due.min(self.over_at.saturating_add(OVER_SHARES));
                    self.again.extend(std::mem::take(&mut self.unshared));
                }
                if self.now() >= self.over_due {
                    (self.over_at, self.over_due) = (self.now(), self.now().saturating_add(OVER_ALL));
                    self.over = Over::After(None);
                }
                let more = self.look().await?;
                look = Instant::now() + if more { Duration::ZERO } else { LOOK };
            }
        }
    }

    /// Tells the machine who came and who went. Whom the owner bans meanwhile has gone.
    async fn meet(&mut self) -> Result<(), StoreError> {
        let mut links = self.running.mesh.links();
        let banned = self.running.parts.settings.lock().await.banned.clone();
        if !banned.is_empty() {
            links.retain(|link| serve::may(&banned, &link.greeted().username));
        }
        let now: BTreeMap<PeerId, u64> = links.iter().map(|link| (link.id(), link.number())).collect();
        if now == self.links {
            return Ok(());
        }
        for (peer, number) in &self.links {
            if now.get(peer) != Some(number) {
                self.machine.on_gone(*peer);
            }
        }
        for link in links {
            let peer = link.id();
            if self.links.get(&peer) == Some(&link.number()) {
                continue;
            }
            let read = move |running: &Running| running.parts.store.read(|txn, tables| tables.gossip.heard(txn, peer));
            let (heard, hashes) = stored(&self.running, read).await?;
            let (whose, features) = ((peer, link.is_named()), &link.greeted().features);
            self.machine.on_connected(whose, features, heard, hashes, self.now());
        }
        self.links = now;
        Ok(())
    }

    /// Looks at what may have changed here, and removes what peers took back; true when there is more of it.
    async fn look(&mut self) -> Result<bool, StoreError> {
        let mut more = false;
        if self.now() >= self.expire_due {
            let now = self.running.parts.clock.now().wall;
            let expired = self.running.parts.store.write(move |txn, tables| tables.gossip.expire(txn, now)).await?;
            self.sweeping.extend(expired);
            if expired.is_none() {
                self.expire_due = self.now().saturating_add(EXPIRE);
            }
        }
        if let Some(peer) = self.sweeping.first().copied() {
            let left = self.running.parts.store.write(move |txn, tables| {
                let library = tables.library;
                tables.gossip.sweep(txn, peer, &library)
            });
            if !left.await? {
                self.sweeping.remove(&peer);
            }
            more = !self.sweeping.is_empty();
        }
        let over = self.over;
        let again = self.again.split_off(self.again.len().saturating_sub(BATCH));
        let looked = stored(&self.running, move |running| tell::look(running, over, again, BATCH)).await?;
        self.over = looked.next;
        self.unshared.extend(looked.unshared);
        while self.unshared.len() > UNSHARED {
            self.unshared.pop_first();
        }
        if looked.changed {
            let bundle_id = self.bundle_id;
            self.machine.on_changed(stored(&self.running, move |running| own(&running.parts.store, bundle_id)).await?);
        }
        Ok(more || looked.more || looked.next != Over::Done || !self.again.is_empty())
    }

    async fn perform(&mut self, deeds: Vec<Deed>) -> Result<(), StoreError> {
        for deed in deeds {
            match deed {
                Deed::Say(peer, control) => {
                    if !self.tell(peer, &control) {
                        self.machine.on_unsaid(peer, &control, self.now());
                    }
                }
                // What cannot be told now is not made.
                Deed::Advertise { peer, after, whole } => {
                    let mut told = None;
                    if let Some((link, leave)) = self.may_tell(peer) {
                        let (bundle_id, named) = (self.bundle_id, link.is_named());
                        let advert = move |running: &Running| tell::advert(running, bundle_id, after, whole, named);
                        let made = stored(&self.running, advert).await?;
                        let sequence = made.sequence;
                        told = self.told(&link, leave, &Control::Advert(made)).then_some(sequence);
                    }
                    self.machine.on_advertised(peer, told, self.now());
                }
                Deed::Delta { peer, after, max } => {
                    let Some((link, leave)) = self.may_tell(peer) else {
                        self.machine.on_untold(deed, self.now());
                        continue;
                    };
                    let (bundle_id, named) = (self.bundle_id, link.is_named());
                    let delta = move |running: &Running| tell::delta(running, bundle_id, after, max, named);
                    let delta = stored(&self.running, delta).await?;
                    if !self.told(&link, leave, &delta) {
                        self.machine.on_untold(deed, self.now());
                    }
                }
                Deed::Key(peer, key) => {
                    let Some((link, leave)) = self.may_tell(peer) else {
                        self.machine.on_untold(deed, self.now());
                        continue;
                    };
                    let entries = stored(&self.running, move |running| tell::key(running, key)).await?;
                    if !self.told(&link, leave, &Control::SyncKey(key, entries)) {
                        self.machine.on_untold(deed, self.now());
                    }
                }
                Deed::Describe(peer, release) => {
                    let Some((link, leave)) = self.may_tell(peer) else {
                        self.machine.on_untold(deed, self.now());
                        continue;
                    };
                    let made = stored(&self.running, move |running| tell::descriptor(running, release)).await?;
                    if let Some(descriptor) = made
                        && !self.told(&link, leave, &Control::Descriptor(Box::new(descriptor)))
                    {
                        self.machine.on_untold(deed, self.now());
                    }
                }
                // Who asks for offers waits a moment only, and asks again.
                Deed::Offer(peer, job) => {
                    let Some((link, leave)) = self.may_tell(peer) else { continue };
                    let made = stored(&self.running, move |running| own_offer(running, &job)).await?;
                    self.told(&link, leave, &Control::CacheJob(Box::new(made)));
                }
                Deed::Keep { peer, heard, void, recordings } => self.keep(peer, heard, void, recordings).await?,
                Deed::KeepHashes { peer, heard, void, entries } => self.keep_hashes(peer, heard, void, entries).await?,
                Deed::Described(peer, descriptor) => {
                    // Nobody may wait for it, or others were quicker.
                    let waits = locked(&self.running.answers).descriptors.get(&descriptor.mb_release_id).cloned();
                    let _ = waits.map(|waits| waits.try_send((peer, descriptor)));
                }
                Deed::Offered(peer, job) => {
                    let waits = locked(&self.running.answers).offers.get(&job.job_id).cloned();
                    let _ = waits.map(|waits| waits.try_send((peer, job)));
                }
                Deed::Strike(peer, why) => {
                    if let Some(link) = self.running.mesh.link(peer) {
                        link.strike(&why);
                    }
                }
            }
        }
        Ok(())
    }

    /// False when it cannot be told now.
    fn tell(&self, peer: PeerId, control: &Control) -> bool {
        self.may_tell(peer).is_some_and(|(link, leave)| self.told(&link, leave, control))
    }

    /// Whether it can be told anything now.
    fn may_tell(&self, peer: PeerId) -> Option<(Link, Telling)> {
        let link = self.running.mesh.link(peer)?;
        let leave = link.may_tell()?;
        Some((link, leave))
    }

    /// Tells it, on the account of what we may send.
    fn told(&self, link: &Link, leave: Telling, control: &Control) -> bool {
        let Some(sealed) = control.seal() else { return false };
        self.running.parts.pump.limiter().up.owe(sealed.body().len());
        link.tell(sealed, leave)
    }

    /// Room for what is noted of a peer; false if there is none.
    async fn room(&self, peer: PeerId) -> Result<bool, StoreError> {
        let now = self.running.parts.clock.now().wall;
        loop {
            let made = self.running.parts.store.write(move |txn, tables| {
                let library = tables.library;
                tables.gossip.make_room(txn, peer, now, &library)
            });
            match made.await? {
                Room::Making => {}
                made => return Ok(made == Room::Made),
            }
        }
    }

    async fn keep(
        &mut self,
        peer: PeerId,
        heard: Heard,
        void: bool,
        recordings: Vec<RecordingAdvert>,
    ) -> Result<(), StoreError> {
        if !self.room(peer).await? {
            return Ok(());
        }
        // Who names no recording says nothing that could be compared.
        let named = recordings.into_iter().filter_map(|said| Some((said.mb_recording_id?, said.variants)));
        let words: BTreeMap<u128, Vec<Claim>> = named.map(|(id, claims)| (id, distinct(claims))).collect();
        let words: Vec<(u128, Vec<Claim>)> = words.into_iter().collect();
        let now = self.running.parts.clock.now().wall;
        tracing::debug!(%peer, recordings = words.len(), sequence = heard.sequence, "a peer told what it has");
        let kept = self.running.parts.store.write(move |txn, tables| {
            let library = tables.library;
            tables.gossip.keep(txn, (peer, heard, void), &words, now, &library)
        });
        kept.await?;
        if void {
            self.sweeping.insert(peer);
        }
        Ok(())
    }

    async fn keep_hashes(
        &mut self,
        peer: PeerId,
        heard: Heard,
        void: bool,
        entries: Vec<HashEntry>,
    ) -> Result<(), StoreError> {
        if !self.room(peer).await? {
            return Ok(());
        }
        let now = self.running.parts.clock.now().wall;
        let mut parts: Vec<Vec<HashEntry>> = entries.chunks(HASHES).map(<[HashEntry]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        for (n, part) in parts.into_iter().enumerate() {
            let told = (peer, heard, void && n == 0);
            let store = &self.running.parts.store;
            store.write(move |txn, tables| tables.gossip.keep_hashes(txn, told, &part, now)).await?;
        }
        if void {
            self.sweeping.insert(peer);
        }
        Ok(())
    }
}

/// Each copy once: the last word on it.
fn distinct(claims: Vec<Claim>) -> Vec<Claim> {
    let by_content: BTreeMap<_, Claim> = claims.into_iter().map(|claim| (claim.content, claim)).collect();
    by_content.into_values().collect()
}
