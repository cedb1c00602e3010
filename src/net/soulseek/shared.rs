//! What all connections share: the table of connections, the places and budgets, the counters.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::outbox::{Bounds, Outbox};
use super::{Deadlines, End};
use crate::engine::soulseek::distributed::DistributedMessage;
use crate::engine::soulseek::io::{ConnEvent, Input, Purpose};
use crate::engine::soulseek::peer::{Init, PeerMessage, RemoteFile};
use crate::model::id::{ConnId, Token, Username};
use crate::model::limits;

/// Connections that others made to us are numbered from here on; those the engine dials are numbered from 2^63.
pub const ACCEPTED_FIRST: u64 = 0;

/// Frames up to this size are received without asking the budget for large ones.
const SMALL_FRAME: usize = 64 * 1024;
/// The unit of that budget: semaphores count in `u32`.
const KIB: usize = 1024;

const OUTBOX: Bounds = Bounds {
    full: limits::CONN_MAILBOX,
    messages: limits::CONN_BACKLOG,
    bytes: limits::CONN_BACKLOG_BYTES,
    total_bytes: limits::BACKLOG_BYTES,
};

/// Counts, as they were at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// The connection to the server stands.
    pub server: bool,
    /// Dials that have not succeeded yet.
    pub dialling: usize,
    /// Connections that are not adopted yet.
    pub greeting: usize,
    /// Peer-message connections.
    pub peer: usize,
    /// Distributed connections.
    pub distributed: usize,
    /// File connections not handed over yet.
    pub file: usize,
    /// Bytes of messages received, server and users, since the start.
    pub bytes_in: u64,
    /// Bytes of messages sent, likewise.
    pub bytes_out: u64,
    /// Connections ended because the other side broke the protocol.
    pub violations: u64,
    /// Callers turned away because there was no place.
    pub refused: u64,
    /// Search replies dropped unread because nobody waits for them.
    pub unwanted_results: u64,
}

/// Counters that only grow.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) violations: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) unwanted_results: AtomicU64,
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

/// What a connection's task is told to do, in this order.
#[derive(Debug)]
pub(super) enum Order {
    Init(Init),
    Adopt(Purpose),
    Peer(PeerMessage),
    Distributed(DistributedMessage),
    ShareList,
    HandOver(oneshot::Sender<TcpStream>),
}

impl Order {
    /// About how many bytes it holds while it waits.
    pub(super) fn weight(&self) -> usize {
        let list = |files: &[RemoteFile]| files.iter().map(|file| 128 + file.name.as_str().len()).sum::<usize>();
        let content = match self {
            Self::Peer(PeerMessage::FileSearchResponse(reply)) => list(&reply.files) + list(&reply.locked_files),
            Self::Peer(PeerMessage::FolderContentsResponse { folders, .. }) => {
                folders.iter().map(|folder| 128 + list(&folder.files)).sum()
            }
            Self::Peer(PeerMessage::UserInfoResponse(info)) => {
                info.description.as_str().len() + info.picture.as_ref().map_or(0, Vec::len)
            }
            Self::Distributed(DistributedMessage::Search(search)) => search.query.as_str().len() + search.tail.len(),
            _ => 0,
        };
        256 + content
    }
}

/// How far a connection is; for the counts only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Dialling,
    Greeting,
    Adopted(Purpose),
}

impl Stage {
    fn to_byte(self) -> u8 {
        match self {
            Self::Dialling => 0,
            Self::Greeting => 1,
            Self::Adopted(Purpose::Peer) => 2,
            Self::Adopted(Purpose::Distributed) => 3,
            Self::Adopted(Purpose::FileIn | Purpose::FileOut) => 4,
        }
    }
}

/// One connection as everybody but its task sees it.
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) outbox: Outbox<Order>,
    stage: AtomicU8,
    // Held to put the name in or take it out.
    expected: Mutex<Option<Username>>,
}

impl Conn {
    pub(super) fn set_stage(&self, stage: Stage) {
        self.stage.store(stage.to_byte(), Ordering::Relaxed);
    }

    /// The next share list on this connection is this user's and is welcome.
    pub(super) fn expect_share_list(&self, user: Username) {
        *self.expected.lock().unwrap_or_else(PoisonError::into_inner) = Some(user);
    }

    /// Whose share list is welcome now; the one after it is not.
    pub(super) fn take_expected(&self) -> Option<Username> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[derive(Default)]
struct Table {
    conns: BTreeMap<ConnId, Arc<Conn>>,
    addresses: BTreeMap<Ipv4Addr, usize>,
    accepted: u64,
}

/// The state of the whole shell.
pub(super) struct Shared {
    pub(super) deadlines: Deadlines,
    pub(super) counters: Counters,
    /// Places for connections with users.
    pub(super) places: Arc<Semaphore>,
    /// Of these, for callers that have not said anything yet.
    pub(super) unfinished: Arc<Semaphore>,
    /// Share lists being received.
    pub(super) spools: Semaphore,
    /// Large frames being received, in KiB.
    large_frames: Semaphore,
    queued_bytes: Arc<AtomicUsize>,
    inputs: mpsc::Sender<Input>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    spool_dir: PathBuf,
    // Each is held for a look-up or a replacement only.
    table: Mutex<Table>,
    search_tokens: RwLock<BTreeSet<Token>>,
    share_list: RwLock<Option<PathBuf>>,
}

impl Shared {
    pub(super) fn new(
        spool_dir: PathBuf,
        deadlines: Deadlines,
        inputs: mpsc::Sender<Input>,
        cancel: CancellationToken,
    ) -> Self {
        let tasks = TaskTracker::new();
        tasks.close();
        Self {
            deadlines,
            counters: Counters::default(),
            places: Arc::new(Semaphore::new(limits::USER_CONNECTIONS)),
            unfinished: Arc::new(Semaphore::new(limits::UNFINISHED_CONNECTIONS)),
            spools: Semaphore::new(limits::BROWSE_SPOOLS),
            large_frames: Semaphore::new(limits::FRAMES_AT_ONCE_BYTES / KIB),
            queued_bytes: Arc::default(),
            inputs,
            cancel,
            tasks,
            spool_dir,
            table: Mutex::default(),
            search_tokens: RwLock::default(),
            share_list: RwLock::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held, so a poisoned lock still guards a sound table.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a task that [`Shared::finished`] waits for.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    pub(super) async fn finished(&self) {
        self.cancel.cancelled().await;
        self.tasks.wait().await;
    }

    /// Cancelled when the whole shell ends.
    pub(super) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Memory for the mailbox of a connection, with a share in the sum of all.
    pub(super) fn queued_bytes(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.queued_bytes)
    }

    /// A new connection of the engine's naming. `None`: the name is in use.
    pub(super) fn enter(&self, id: ConnId, stage: Stage) -> Option<Arc<Conn>> {
        let mut table = self.table();
        if table.conns.contains_key(&id) {
            return None;
        }
        let conn = self.new_conn(id, stage);
        table.conns.insert(id, Arc::clone(&conn));
        Some(conn)
    }

    /// A new connection that somebody made to us.
    pub(super) fn enter_accepted(&self) -> Arc<Conn> {
        let mut table = self.table();
        let id = ConnId(ACCEPTED_FIRST.saturating_add(table.accepted));
        table.accepted = table.accepted.saturating_add(1);
        let conn = self.new_conn(id, Stage::Greeting);
        table.conns.insert(id, Arc::clone(&conn));
        conn
    }

    fn new_conn(&self, id: ConnId, stage: Stage) -> Arc<Conn> {
        Arc::new(Conn {
            id,
            outbox: Outbox::new(OUTBOX, self.queued_bytes(), self.cancel.child_token()),
            stage: AtomicU8::new(stage.to_byte()),
            expected: Mutex::default(),
        })
    }

    pub(super) fn find(&self, id: ConnId) -> Option<Arc<Conn>> {
        self.table().conns.get(&id).cloned()
    }

    /// Takes a connection out of the table: it gets no further orders.
    pub(super) fn forget(&self, id: ConnId) -> Option<Arc<Conn>> {
        self.table().conns.remove(&id)
    }

    /// One more connection from this address, while it may have one. Loopback always may.
    pub(super) fn enter_address(self: &Arc<Self>, ip: Ipv4Addr) -> Option<AddressPlace> {
        if !ip.is_loopback() {
            let mut table = self.table();
            let taken = table.addresses.entry(ip).or_default();
            if *taken >= limits::CONNECTIONS_PER_ADDRESS {
                return None;
            }
            *taken += 1;
        }
        Some(AddressPlace { shared: Arc::clone(self), ip })
    }

    /// Reports something about a connection; waits while the engine is behind. `Err`: we closed the connection, so
    /// nothing is reported any more.
    pub(super) async fn tell(&self, conn: &Conn, event: ConnEvent) -> Result<(), End> {
        self.tell_with(conn, || Ok(Some(event))).await
    }

    /// As [`Shared::tell`], but the event, if any, is made only once there is room for it: a small frame may decode to
    /// megabytes, and no more of those exist at once than the engine's mailbox holds.
    pub(super) async fn tell_with(
        &self,
        conn: &Conn,
        event: impl FnOnce() -> Result<Option<ConnEvent>, End>,
    ) -> Result<(), End> {
        self.tell_unless(conn.outbox.closing(), || Ok(event()?.map(|event| Input::Conn(conn.id, event)))).await
    }

    /// Reports something to the engine, unless we hang up before it has room.
    pub(super) async fn tell_unless(
        &self,
        hung_up: impl Future<Output = ()>,
        input: impl FnOnce() -> Result<Option<Input>, End>,
    ) -> Result<(), End> {
        let room = tokio::select! {
            biased;
            () = hung_up => return Err(End::Ours),
            room = self.inputs.reserve() => room.map_err(|_| End::Ours)?,
        };
        if let Some(input) = input()? {
            room.send(input);
        }
        Ok(())
    }

    /// Waits for a share of the memory for large frames. Small ones need none.
    pub(super) async fn frame_allowance(&self, len: usize) -> Option<tokio::sync::SemaphorePermit<'_>> {
        if len <= SMALL_FRAME {
            return None;
        }
        // No frame is larger than the whole allowance: frame limits are below it.
        let kib = u32::try_from(len.div_ceil(KIB)).unwrap_or(u32::MAX);
        self.large_frames.acquire_many(kib).await.ok()
    }

    pub(super) fn set_search_tokens(&self, tokens: Vec<Token>) {
        let tokens = tokens.into_iter().collect();
        *self.search_tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    pub(super) fn wants_results(&self, token: Token) -> bool {
        self.search_tokens.read().unwrap_or_else(PoisonError::into_inner).contains(&token)
    }

    pub(super) fn set_share_list(&self, path: PathBuf) {
        *self.share_list.write().unwrap_or_else(PoisonError::into_inner) = Some(path);
    }

    pub(super) fn share_list(&self) -> Option<PathBuf> {
        self.share_list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn spool_dir(&self) -> &Path {
        &self.spool_dir
    }

    pub(super) fn stats(&self, server: bool) -> NetStats {
        let mut by_stage = [0; 5];
        for conn in self.table().conns.values() {
            if let Some(n) = by_stage.get_mut(usize::from(conn.stage.load(Ordering::Relaxed))) {
                *n += 1;
            }
        }
        let [dialling, greeting, peer, distributed, file] = by_stage;
        NetStats {
            server,
            dialling,
            greeting,
            peer,
            distributed,
            file,
            bytes_in: self.counters.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.counters.bytes_out.load(Ordering::Relaxed),
            violations: self.counters.violations.load(Ordering::Relaxed),
            refused: self.counters.refused.load(Ordering::Relaxed),
            unwanted_results: self.counters.unwanted_results.load(Ordering::Relaxed),
        }
    }
}

/// A connection's place among those from its address; given back when dropped.
pub(super) struct AddressPlace {
    shared: Arc<Shared>,
    ip: Ipv4Addr,
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        if let Some(taken) = table.addresses.get_mut(&self.ip) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                table.addresses.remove(&self.ip);
            }
        }
    }
}

/// What an accepted connection holds for as long as it lives.
pub(super) struct CallerPlaces {
    /// Among all connections.
    pub(super) place: OwnedSemaphorePermit,
    /// Among those from its address.
    pub(super) address: AddressPlace,
    /// Among those that have not said anything yet; given up with the first message.
    pub(super) unfinished: OwnedSemaphorePermit,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Arc<Shared> {
        let (inputs, _) = mpsc::channel(1);
        Arc::new(Shared::new(PathBuf::new(), Deadlines::default(), inputs, CancellationToken::new()))
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let shared = shared();
        let ip = Ipv4Addr::new(192, 0, 2, 1);
        let mut held: Vec<_> = (0..limits::CONNECTIONS_PER_ADDRESS).map(|_| shared.enter_address(ip)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(shared.enter_address(ip).is_none());
        assert!(shared.enter_address(Ipv4Addr::new(192, 0, 2, 2)).is_some(), "another address has its own places");
        held.pop();
        assert!(shared.enter_address(ip).is_some());
        held.clear();
        assert!(shared.table().addresses.is_empty());

        let home: Vec<_> = (0..100).map(|_| shared.enter_address(Ipv4Addr::LOCALHOST)).collect();
        assert!(home.iter().all(Option::is_some), "loopback is exempt");
    }

    #[test]
    fn numbers_of_callers_and_of_the_engine_do_not_meet() {
        let shared = shared();
        assert!(shared.enter(ConnId(1 << 63), Stage::Dialling).is_some());
        assert!(shared.enter(ConnId(1 << 63), Stage::Dialling).is_none(), "a name is used once");
        assert_eq!(shared.enter_accepted().id, ConnId(ACCEPTED_FIRST));
        assert_eq!(shared.enter_accepted().id, ConnId(ACCEPTED_FIRST + 1));
        assert_eq!(shared.stats(false), NetStats { dialling: 1, greeting: 2, ..NetStats::default() });
    }

    #[test]
    fn no_frame_is_larger_than_the_allowance() {
        for most in [limits::FRAME_RESULTS, limits::FRAME_PEER, limits::FRAME_SERVER] {
            assert!(most as usize <= limits::FRAMES_AT_ONCE_BYTES);
        }
    }
}
