//! A fetch that helps a download from Soulseek: it takes over the bytes that the user sent, is held back where a rule
//! wants that, and asks before its file is put in its place. Who is helped, and within which rules, is `app::rescue`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{MeshService, Running, fetch, locked, unreadable};
use crate::engine::soulseek::io::Refusal;
use crate::engine::swarm::list::{PIECE_LEN, PieceList};
use crate::engine::swarm::scheduler::RUN_MAX;
use crate::model::gossip::Offer;
use crate::model::id::{ContentHash, PeerId, Username};
use crate::model::limits;
use crate::model::mesh::{Fetch, FetchRequest, FetchState, FetchView, PeerView};
use crate::model::variant::Measured;
use crate::store::StoreError;

/// Bytes of the longest run: while less is left of a quota, nothing is asked for.
pub const RUN_LEN: u64 = RUN_MAX as u64 * PIECE_LEN;

/// Characters of an ID that stand for it among people.
const NAME: usize = 12;

/// Holds runs back before they are asked for, so that no peer is blamed for waiting.
#[derive(Debug, Default)]
pub struct Brake(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// Bytes per second; `None`: as fast as it goes; 0: nothing.
    rate: Option<u64>,
    /// Bytes that may be asked for; less than nothing while a long run is paid off.
    level: i64,
    at: Option<Instant>,
}

impl Brake {
    /// From now on: bytes per second, 0 for nothing, `None` for as fast as it goes.
    pub fn set(&self, rate: Option<u64>) {
        let mut held = locked(&self.0);
        if held.rate != rate {
            *held = Held { rate, level: 0, at: Some(Instant::now()) };
        }
    }

    /// What it is set to.
    pub fn rate(&self) -> Option<u64> {
        locked(&self.0).rate
    }

    /// Whether a run may be asked for now.
    pub fn is_open(&self) -> bool {
        let mut held = locked(&self.0);
        let Some(rate) = held.rate else { return true };
        let now = Instant::now();
        let passed = held.at.map_or(0, |at| u64::try_from(now.duration_since(at).as_millis()).unwrap_or(u64::MAX));
        let more = i64::try_from(rate.saturating_mul(passed) / 1_000).unwrap_or(i64::MAX);
        if more > 0 {
            // A pause earns no more than a second's worth.
            held.level = held.level.saturating_add(more).min(i64::try_from(rate).unwrap_or(i64::MAX));
            held.at = Some(now);
        }
        rate > 0 && held.level > 0
    }

    /// A run was asked for.
    pub fn spend(&self, bytes: u64) {
        let mut held = locked(&self.0);
        if held.rate.is_some() {
            held.level = held.level.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

/// Bytes that all rescues, or all jobs, together may still bring. What is asked for is set aside until its run is over, and what runs
/// brought that are over counts until it is in what is set: so it is never passed.
#[derive(Debug, Default)]
pub struct Quota(Mutex<Left>);

#[derive(Debug, Default)]
struct Left {
    /// When it was set.
    at_most: u64,
    /// For runs under way.
    aside: u64,
    /// Of runs that are over.
    over: u64,
}

impl Quota {
    /// What runs brought at most that are over and that is not in what was set. To be asked before it is read how much
    /// moved, and given to [`Quota::set`].
    pub fn over(&self) -> u64 {
        locked(&self.0).over
    }

    /// So much is left now, what `over` stood for counted.
    pub fn set(&self, left: u64, over: u64) {
        let mut quota = locked(&self.0);
        quota.at_most = left;
        quota.over = quota.over.saturating_sub(over);
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        locked(&self.0).left()
    }

    /// Room for one run, if there is.
    pub(super) fn set_aside(self: &Arc<Self>) -> Option<SetAside> {
        let mut quota = locked(&self.0);
        if quota.left() < RUN_LEN {
            return None;
        }
        quota.aside = quota.aside.saturating_add(RUN_LEN);
        Some(SetAside { quota: Arc::clone(self), bytes: RUN_LEN, asked: false })
    }
}

impl Left {
    fn left(&self) -> u64 {
        self.at_most.saturating_sub(self.aside).saturating_sub(self.over)
    }
}

/// One run's share of a quota; when it is dropped the run is over, or was never asked for.
#[derive(Debug)]
pub(super) struct SetAside {
    quota: Arc<Quota>,
    bytes: u64,
    asked: bool,
}

impl SetAside {
    /// A run of so many bytes is asked for.
    pub(super) fn ask(&mut self, bytes: u64) {
        let mut quota = locked(&self.quota.0);
        quota.aside = quota.aside.saturating_sub(self.bytes).saturating_add(bytes);
        drop(quota);
        (self.bytes, self.asked) = (bytes, true);
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        let mut quota = locked(&self.quota.0);
        quota.aside = quota.aside.saturating_sub(self.bytes);
        if self.asked {
            quota.over = quota.over.saturating_add(self.bytes);
        }
    }
}

/// A question whether a finished file may be put in its place.
#[derive(Debug)]
pub struct Approval {
    /// The file, if it was measured already.
    pub measured: Option<Box<Measured>>,
    /// Whether it may, or why not.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// The partial file of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its name in the incomplete folder.
    pub file: String,
    /// Bytes of it that count; `None`: as many as it has. After another boot those alone that were synced.
    pub trusted: Option<u64>,
}

impl Origin {
    /// Bytes that count of a file this long.
    pub(super) fn len(&self, len: u64) -> u64 {
        self.trusted.map_or(len, |trusted| trusted.min(len))
    }
}

/// What a fetch knows of the download it helps.
#[derive(Debug)]
pub struct Assist {
    /// Who sends the download.
    pub user: Username,
    /// Holds this fetch back.
    pub brake: Brake,
    /// What all rescues may still bring.
    pub quota: Arc<Quota>,
    /// The download's partial file. Short and synchronous.
    origin: Mutex<Option<Origin>>,
    /// Bytes that came from mesh peers, whatever became of them.
    came: AtomicU64,
    /// Peers whose piece lists are not those of the file. Short and synchronous; at most `limits::RESCUE_LIARS`.
    liars: Mutex<BTreeSet<PeerId>>,
    /// A piece of the download is not that of the file fetched.
    differs: AtomicBool,
    ask: mpsc::Sender<Approval>,
}

impl Assist {
    /// For a download of this user; the receiver is asked before the file is placed.
    pub fn new(user: Username, quota: Arc<Quota>) -> (Arc<Self>, mpsc::Receiver<Approval>) {
        let (ask, asked) = mpsc::channel(1);
        let assist = Self {
            user,
            brake: Brake::default(),
            quota,
            origin: Mutex::default(),
            came: AtomicU64::new(0),
            liars: Mutex::default(),
            differs: AtomicBool::new(false),
            ask,
        };
        (Arc::new(assist), asked)
    }

    /// Where the download's bytes lie now; `None`: it has none.
    pub fn set_origin(&self, partial: Option<Origin>) {
        *locked(&self.origin) = partial;
    }

    pub(super) fn origin(&self) -> Option<Origin> {
        locked(&self.origin).clone()
    }

    /// Bytes that came from mesh peers.
    pub fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// Peers whose piece lists were not those of the file.
    pub fn liars(&self) -> BTreeSet<PeerId> {
        locked(&self.liars).clone()
    }

    pub(super) fn blame(&self, peer: PeerId) {
        let mut liars = locked(&self.liars);
        if liars.len() < limits::RESCUE_LIARS {
            liars.insert(peer);
        }
    }

    /// Nothing may be asked for now, and perhaps not for long: not as one that is merely slowed down.
    pub(super) fn is_held(&self) -> bool {
        self.brake.rate() == Some(0) || self.quota.left() < RUN_LEN
    }

    /// Whether the download and the file fetched were seen to be different.
    pub fn differs(&self) -> bool {
        self.differs.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, bytes: usize) {
        self.came.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn note_difference(&self) {
        self.differs.store(true, Ordering::Relaxed);
    }

    /// Room for a run, if one may be asked for now.
    pub(super) fn open(&self) -> Option<SetAside> {
        if self.brake.is_open() { self.quota.set_aside() } else { None }
    }

    /// Whether the finished file may be put in its place. A fetch that is called off waits for no answer: whoever would
    /// give it may be waiting for the fetch.
    pub(super) async fn approved(
        &self,
        measured: Option<Box<Measured>>,
        cancel: &CancellationToken,
    ) -> Result<(), String> {
        let (answer, heard) = oneshot::channel();
        let gone = || "the rescue is over".to_owned();
        let asked = async {
            self.ask.send(Approval { measured, answer }).await.map_err(|_| gone())?;
            heard.await.map_err(|_| gone())?
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(gone()),
            verdict = asked => verdict,
        }
    }
}

impl MeshService {
    fn live(&self) -> Option<&Arc<Running>> {
        self.running.as_ref()
    }

    /// Whether this file is being fetched now, for whatever reason.
    pub fn is_fetching(&self, content: ContentHash) -> bool {
        self.live().is_some_and(|running| locked(&running.live).contains_key(&content))
    }

    /// How many files are being fetched; those that only wait for the folder which they go to are not counted.
    pub fn fetching(&self) -> usize {
        let comes = |live: &&super::Live| !locked(&live.progress).away;
        self.live().map_or(0, |running| locked(&running.live).values().filter(comes).count())
    }

    /// Begins a fetch that helps a download, or goes on with the one that did before the program ended.
    ///
    /// # Errors
    /// As for any fetch.
    pub async fn help(&self, request: FetchRequest, assist: Arc<Assist>) -> Result<(), Refusal> {
        self.begin(request, Some(assist)).await
    }

    /// Stops a fetch that helps, and forgets it with its partial file; a finished file stays.
    async fn let_go(&self, content: ContentHash) {
        // One that is not kept any more needs nothing.
        if let Err(refusal) = self.forget(content, true).await
            && refusal != Refusal::NotFound
        {
            tracing::warn!(%content, ?refusal, "a fetch could not be forgotten");
        }
        if let Some(running) = self.live() {
            locked(&running.assists).remove(&content);
        }
    }

    /// Stops a fetch that a job asked for, and forgets it with its partial file. What was found out about the copy is not
    /// forgotten. The answer is the finished file, if there is one: it stays.
    pub async fn leave(&self, content: ContentHash) -> Option<String> {
        match self.forget(content, false).await {
            Ok(finished) => finished,
            Err(Refusal::NotFound) => None,
            Err(refusal) => {
                tracing::warn!(%content, ?refusal, "a fetch could not be forgotten");
                None
            }
        }
    }

    /// Fetches into these folders below the downloads folder, with the recording that each was begun for.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn into_folders(&self, is_one: impl Fn(&str) -> bool) -> Result<Vec<(Fetch, Option<u128>)>, Refusal> {
        let mut kept = self.kept().await?;
        kept.retain(|fetch| is_one(&fetch.folder));
        let with = |fetch: Fetch| {
            let recording = self.parts.store.fetch_recording(fetch.content)?;
            Ok((fetch, recording))
        };
        kept.into_iter().map(with).collect::<Result<_, StoreError>>().map_err(unreadable)
    }

    /// A rescue is over: a fetch that came to its end stays in the list, any other is stopped and forgotten. So does one
    /// that brought what nobody wanted: whoever told of it is not to be believed anew.
    pub async fn release(&self, content: ContentHash, came: bool) {
        let failed = async || {
            let view = self.fetch_view(content).await;
            view.is_some_and(|view| matches!(view.fetch.state, FetchState::Failed(_)))
        };
        if !came && !failed().await {
            return self.let_go(content).await;
        }
        if let Some(running) = self.live() {
            locked(&running.assists).remove(&content);
        }
    }

    /// What connected peers offer of a recording; nothing where others are being asked already.
    pub async fn offers_of(&self, recording: u128) -> Vec<Offer> {
        self.offers(vec![recording]).await.unwrap_or_default()
    }

    /// How a fetch stands.
    pub async fn fetch_view(&self, content: ContentHash) -> Option<FetchView> {
        self.fetches(Some(content)).await.ok()?.into_iter().next()
    }

    /// The piece list of a file, kept or asked of those connected, and who sent another one. `None`: nobody has it.
    pub async fn find_list(&self, content: ContentHash, size: u64) -> (Option<PieceList>, BTreeSet<PeerId>) {
        match self.live() {
            Some(running) => fetch::find_list(running, content, size).await,
            None => (None, BTreeSet::new()),
        }
    }

    /// Lays the partial file of a download beside a piece list: whole pieces that are equal from the first on, and
    /// whether one differs.
    pub async fn beside(&self, partial: &Origin, list: &PieceList) -> Option<(usize, bool)> {
        match fetch::feed::beside(self.live()?, partial, list).await {
            Ok(looked) => Some((looked.equal, looked.differs)),
            Err(error) => {
                tracing::warn!(%error, file = partial.file, "a partial file could not be read");
                None
            }
        }
    }

    /// Peers that the owner named and that are connected, and what they are called: the user name they claim, or the
    /// beginning of their ID.
    pub fn vouchers(&self) -> BTreeMap<PeerId, String> {
        let Some(running) = self.live() else { return BTreeMap::new() };
        let name = |peer: &PeerView| {
            if peer.username.is_empty() {
                peer.id.to_string().chars().take(NAME).collect()
            } else {
                peer.username.clone()
            }
        };
        let peers = running.mesh.peers().into_iter().filter(|peer| peer.named && peer.connected);
        peers.map(|peer| (peer.id, name(&peer))).collect()
    }

    /// Peers that are connected.
    pub fn connected(&self) -> BTreeSet<PeerId> {
        let Some(running) = self.live() else { return BTreeSet::new() };
        running.mesh.links().iter().map(crate::net::mesh::Link::id).collect()
    }

    /// Holds all fetches back: bytes per second, 0 for nothing, `None` for as fast as they go.
    pub fn hold_back(&self, rate: Option<u64>) {
        if let Some(running) = self.live() {
            running.fair.set(rate);
        }
    }

    /// Whether nothing is asked of peers.
    pub fn is_paused(&self) -> bool {
        self.live().is_some_and(|running| running.fair.rate() == Some(0))
    }

    /// Has somebody looked for who has this recording, if the owner lets the DHT be asked.
    pub fn seek(&self, recording: u128) {
        if let Some(running) = self.live() {
            running.seek(recording);
        }
    }

    /// Whether new uploads to peers are refused.
    pub fn refuse_uploads(&self, refuse: bool) {
        if let Some(running) = self.live() {
            running.refusing.store(refuse, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_brake_lets_through_what_it_is_set_to() {
        let brake = Brake::default();
        assert!(brake.is_open());
        brake.set(Some(100_000));
        let (mut asked, run) = (0_u64, 64 * 1_024);
        for _ in 0..1_000 {
            tokio::time::advance(Duration::from_millis(100)).await;
            if brake.is_open() {
                brake.spend(run);
                asked += run;
            }
        }
        // A hundred seconds of it; a run more is under way at most.
        assert!((10_000_000..10_000_000 + run + 100_000).contains(&asked), "{asked}");
        brake.set(Some(0));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!brake.is_open());
        brake.set(None);
        assert!(brake.is_open());
    }

    #[tokio::test]
    async fn a_fetch_that_is_called_off_waits_for_no_approval() {
        let (assist, mut asked) = Assist::new(Username::new("u"), Arc::default());
        let cancel = CancellationToken::new();
        let asking = tokio::spawn({
            let (assist, cancel) = (Arc::clone(&assist), cancel.clone());
            async move { assist.approved(None, &cancel).await }
        });
        // It was asked, and whoever would answer waits for the fetch to end.
        let approval = asked.recv().await.unwrap();
        cancel.cancel();
        assert!(asking.await.unwrap().is_err());
        drop(approval);
        assert!(assist.approved(None, &cancel).await.is_err(), "nor does one that asks too late");
    }

    #[test]
    fn after_another_boot_only_what_was_synced_counts() {
        let origin = |trusted| Origin { file: "1.partial".to_owned(), trusted };
        assert_eq!((origin(None).len(9), origin(Some(5)).len(9), origin(Some(5)).len(3)), (9, 5, 3));
    }

    #[test]
    fn a_quota_counts_what_is_under_way() {
        let quota = Arc::new(Quota::default());
        quota.set(5 * RUN_LEN / 2, 0);
        let (assist, _asked) = Assist::new(Username::new("u"), Arc::clone(&quota));
        let mut first = assist.open().unwrap();
        assert_eq!(quota.left(), 3 * RUN_LEN / 2);
        first.ask(PIECE_LEN);
        let second = assist.open().unwrap();
        assert_eq!(quota.left(), 3 * RUN_LEN / 2 - PIECE_LEN);
        drop(second);
        assert_eq!((quota.left(), quota.over()), (5 * RUN_LEN / 2 - PIECE_LEN, 0), "it was not asked for");
        let mut second = assist.open().unwrap();
        second.ask(RUN_LEN);
        let mut third = assist.open().unwrap();
        third.ask(RUN_LEN);
        assert!(assist.open().is_none(), "{}", quota.left());
        // What is over counts on until it was heard what came.
        drop((first, second));
        assert!(assist.open().is_none(), "{}", quota.left());
        let over = quota.over();
        assert_eq!(over, RUN_LEN + PIECE_LEN);
        drop(third);
        quota.set(3 * RUN_LEN / 2 - PIECE_LEN, over);
        assert_eq!((quota.left(), quota.over()), (RUN_LEN / 2 - PIECE_LEN, RUN_LEN), "the third is not in it yet");
        quota.set(RUN_LEN, quota.over());
        assert!(assist.open().is_some());
        quota.set(RUN_LEN - 1, 0);
        assert!(assist.open().is_none());
    }
}
