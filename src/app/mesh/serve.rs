//! Serves shared files to peers.
//!
//! A peer gets bytes of a file only if the Doctor measured it, the file still has the size and time it had then, and the
//! share index advertises it; never by a path. Peers whose claimed user name is blacklisted get nothing. What a transfer
//! goes through, and how many peers are served at once, is `engine::mesh::uploader`'s: others are told to come later. Speed
//! is the one limit of all uploads.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use super::fetch::{LIST, list_blocks};
use super::{Running, locked};
use crate::app::pump::count;
use crate::app::sharing::Sharing;
use crate::disk::pool::BLOCK_LEN;
use crate::disk::{DiskError, File};
use crate::engine::mesh::exchange::Wanted;
use crate::engine::mesh::frame::{ChunkRequest, ErrorCode};
use crate::engine::mesh::uploader::{Key, Uploads};
use crate::engine::swarm::list::{PIECE_LEN, PieceList, Pieces};
use crate::model::health::FileOutcome;
use crate::model::id::{ContentHash, Username};
use crate::model::limits;
use crate::model::swarm::CancelReason;
use crate::net::mesh::{Answer, Incoming, spare};
use crate::store::Store;

/// Blocks read at once.
const BATCH: usize = 8;
/// A file that was looked up is served so long without another look. Chosen: the requests of a transfer follow one another
/// in far less, and whoever takes a file out of the share need not wait longer for it to be so.
const FRESH: Duration = Duration::from_secs(1);
/// Files that were looked up and are open; the one looked up first is closed for one more.
const OPEN_FILES: usize = 16;

// A piece fills a block.
const _: () = assert!(PIECE_LEN == BLOCK_LEN as u64);

/// All transfers to peers, short and synchronous.
pub(super) struct Uploading(Mutex<Uploads>);

impl Uploading {
    /// With so many slots.
    pub(super) fn new(slots: usize) -> Self {
        Self(Mutex::new(Uploads::new(slots)))
    }

    /// How many transfers are in each state.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        locked(&self.0).counts()
    }
}

impl Running {
    fn uploads<T>(&self, job: impl FnOnce(&mut Uploads, Duration) -> T) -> T {
        job(&mut locked(&self.uploading.0), self.parts.clock.now().mono)
    }
}

/// One granted request. Whatever ends it, its transfer is told.
struct Seat<'a> {
    running: &'a Running,
    key: Key,
    bytes: u64,
    taken_back: Option<CancelReason>,
}

impl<'a> Seat<'a> {
    /// A seat if the peer may be served now.
    fn take(running: &'a Running, answer: &Answer, wanted: Wanted, size: u64) -> Result<Self, ErrorCode> {
        let (key, bytes) = ((answer.peer(), wanted.content()), wanted.length());
        let rate = running.parts.pump.limiter().up.rate();
        match running.uploads(|uploads, now| uploads.requested(key, size, bytes, (answer.is_named(), rate), now)) {
            None => Ok(Self { running, key, bytes, taken_back: None }),
            Some(code) => Err(code),
        }
    }

    fn sent(&self, bytes: u64) {
        self.running.uploads(|uploads, now| uploads.sent(self.key, bytes, now));
    }

    /// The file cannot be served after all.
    fn failed(&self, code: ErrorCode) {
        self.running.uploads(|uploads, now| uploads.failed(self.key, code, now));
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.running.uploads(|uploads, now| uploads.ended(self.key, self.bytes, self.taken_back, now));
    }
}

/// A file that may be served.
pub(super) struct Located {
    path: PathBuf,
    size: u64,
}

/// The same, open.
#[derive(Clone)]
struct Opened {
    file: File,
    path: Arc<PathBuf>,
    size: u64,
}

/// Files that were opened a moment ago, and when they were looked up. Short and synchronous.
#[derive(Default)]
pub(super) struct Opening(Mutex<VecDeque<(ContentHash, Opened, Instant)>>);

impl Opening {
    fn find(&self, content: ContentHash, now: Instant) -> Option<Opened> {
        self.close_old(now);
        let open = locked(&self.0);
        open.iter().find(|(of, ..)| *of == content).map(|(_, opened, _)| opened.clone())
    }

    /// Closes those that nobody asked for lately.
    fn close_old(&self, now: Instant) {
        locked(&self.0).retain(|(_, _, since)| now.saturating_duration_since(*since) < FRESH);
    }

    fn keep(&self, content: ContentHash, opened: Opened, looked_up: Instant) {
        let mut open = locked(&self.0);
        open.retain(|(of, ..)| *of != content);
        if open.len() >= OPEN_FILES {
            open.pop_front();
        }
        open.push_back((content, opened, looked_up));
    }
}

/// Answers peers until cancelled.
pub(super) async fn run(running: Arc<Running>, mut asked: mpsc::Receiver<Incoming>) {
    let permits = Arc::new(Semaphore::new(limits::MESH_REQUESTS));
    let strangers = Arc::new(Semaphore::new(limits::MESH_REQUESTS_STRANGERS));
    loop {
        let incoming = tokio::select! {
            () = running.cancel.cancelled() => return,
            incoming = asked.recv() => incoming,
        };
        match incoming {
            None => return,
            Some(Incoming::Query { peer, username, content, reply }) => {
                let size = if allowed(&running, &username).await {
                    locate(&running, content).await.map(|located| located.size)
                } else {
                    None
                };
                if let Some(size) = size {
                    running.uploads(|uploads, now| uploads.offered((peer, content), size, now));
                }
                // Who asked may be gone.
                let _ = reply.send(size);
            }
            Some(Incoming::Request { wanted, answer }) => {
                let running = Arc::clone(&running);
                let tasks = running.tasks.clone();
                // Nobody's requests keep others' questions waiting.
                let stranger = (!answer.is_named()).then(|| Arc::clone(&strangers).try_acquire_owned()).transpose();
                let permit = Arc::clone(&permits).try_acquire_owned();
                // Strangers leave some to those whom the owner named.
                let (Ok(permit), Ok(of_strangers)) = (permit, stranger) else {
                    tasks.spawn(answer.refuse(ErrorCode::RateLimited));
                    continue;
                };
                tasks.spawn(async move {
                    let cancel = running.cancel.clone();
                    tokio::select! {
                        () = cancel.cancelled() => {}
                        () = serve(&running, wanted, *answer) => {}
                    }
                    drop((permit, of_strangers));
                });
            }
        }
    }
}

/// Whether somebody of this claimed name may get anything.
pub(super) async fn allowed(running: &Running, username: &str) -> bool {
    may(&running.parts.settings.lock().await.banned, username)
}

/// The same, by the names that the owner bans.
pub(super) fn may(banned: &[Username], username: &str) -> bool {
    username.is_empty() || !banned.contains(&Username::from(username))
}

/// The file of this content, if it is shared and is what it was when it was measured.
async fn locate(running: &Running, content: ContentHash) -> Option<Located> {
    let (store, sharing) = (running.parts.store.clone(), running.parts.sharing.clone());
    tokio::task::spawn_blocking(move || find(&store, &sharing, content)).await.ok().flatten()
}

/// The same, on a thread that may wait: what may be served is what peers may be told of.
pub(super) fn find(store: &Store, sharing: &Sharing, content: ContentHash) -> Option<Located> {
    let rows = store.read(|txn, tables| {
        let paths = tables.library.bare_variant(txn, content)?.map(|variant| variant.paths).unwrap_or_default();
        paths.iter().map(|path| tables.library.file(txn, path)).collect::<Result<Vec<_>, _>>()
    });
    let rows = rows.inspect_err(|error| tracing::error!(%error, "a peer's question could not be looked up")).ok()?;
    rows.into_iter().flatten().filter(|row| row.outcome == FileOutcome::Measured(content)).find_map(|row| {
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&row.path.0));
        let shared = sharing.find_local(&path).ok().flatten()?;
        let now = std::fs::symlink_metadata(&shared.local_path).ok()?;
        let changed = now.mtime().saturating_mul(1_000_000_000).saturating_add(now.mtime_nsec());
        let same = now.is_file() && now.len() == row.size && shared.size == row.size && changed == row.mtime_ns;
        same.then_some(Located { path: shared.local_path, size: row.size })
    })
}

/// The file of this content, open, if it may be served.
async fn open(running: &Running, content: ContentHash) -> Result<Opened, ErrorCode> {
    let now = Instant::now();
    if let Some(opened) = running.opening.find(content, now) {
        return Ok(opened);
    }
    let Located { path, size } = locate(running, content).await.ok_or(ErrorCode::NotFound)?;
    let (file, len) = running.parts.pump.disk().open_read(&path).await.map_err(unreadable)?;
    if len != size {
        return Err(ErrorCode::NotFound);
    }
    let opened = Opened { file, path: Arc::new(path), size };
    running.opening.keep(content, opened.clone(), now);
    let (opening, cancel) = (Arc::clone(&running.opening), running.cancel.clone());
    running.tasks.spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = sleep_until(now + FRESH) => opening.close_old(Instant::now()),
        }
    });
    Ok(opened)
}

#[expect(clippy::needless_pass_by_value, reason = "used by map_err")]
fn unreadable(error: DiskError) -> ErrorCode {
    tracing::warn!(%error, "a shared file cannot be read for a peer");
    ErrorCode::IoError
}

async fn serve(running: &Running, wanted: Wanted, answer: Answer) {
    let key = (answer.peer(), wanted.content());
    if let Some(code) = running.uploads(|uploads, now| uploads.cooling(key, now)) {
        return answer.refuse(code).await;
    }
    let opened = if allowed(running, answer.username()).await {
        open(running, wanted.content()).await
    } else {
        Err(ErrorCode::PolicyViolation)
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(code) => {
            running.uploads(|uploads, now| uploads.failed(key, code, now));
            return answer.refuse(code).await;
        }
    };
    if let Some(faults) = &running.faults
        && faults.turns_away().await
    {
        return answer.refuse(ErrorCode::RateLimited).await;
    }
    // What is being served is brought to its end.
    if running.refusing.load(Ordering::Relaxed) && !running.uploads(|uploads, now| uploads.serves(key, now)) {
        running.uploads(|uploads, now| uploads.failed(key, ErrorCode::PolicyViolation, now));
        return answer.refuse(ErrorCode::PolicyViolation).await;
    }
    let seat = match Seat::take(running, &answer, wanted, opened.size) {
        Ok(seat) => seat,
        Err(code) => return answer.refuse(code).await,
    };
    match wanted {
        Wanted::PieceList(content, size) => {
            if size != opened.size {
                return answer.refuse(ErrorCode::NotFound).await;
            }
            match list(running, content, &opened).await {
                // Who takes it too slowly is broken off.
                Ok((mut list, _paid)) => {
                    if let Some(faults) = &running.faults {
                        faults.spoil_list(&mut list);
                    }
                    _ = timeout(LIST, send_list(seat, answer, list.into())).await;
                }
                // There is no room for it now.
                Err(ErrorCode::RateLimited) => answer.refuse(ErrorCode::RateLimited).await,
                Err(code) => {
                    seat.failed(code);
                    answer.refuse(code).await;
                }
            }
        }
        Wanted::Chunk(chunk) => send_chunk(seat, answer, chunk, &opened).await,
    }
}

/// The piece list, with the blocks that pay for it: kept, or made by reading the whole file. Whoever waits for that holds
/// none.
async fn list(
    running: &Running,
    content: ContentHash,
    opened: &Opened,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), ErrorCode> {
    let pay = |copies| spare(&running.blocks, copies * list_blocks(opened.size)).ok_or(ErrorCode::RateLimited);
    let kept = |_paid: &OwnedSemaphorePermit| {
        let list = running.parts.store.piece_list(content).ok().flatten();
        list.filter(|list| PieceList::proves(content, opened.size, list).is_ok())
    };
    let paid = pay(1)?;
    if let Some(list) = kept(&paid) {
        return Ok((list, paid));
    }
    drop(paid);
    let _alone = running.listing.acquire().await.map_err(|_| ErrorCode::IoError)?;
    // One for the peer, one for the store.
    let paid = pay(2)?;
    // Somebody before us may have made it.
    if let Some(list) = kept(&paid) {
        return Ok((list, paid));
    }
    let disk = running.parts.pump.disk();
    let mut pieces = Pieces::default();
    while pieces.size() < opened.size {
        let blocks = disk.pool().take_many(BATCH).await;
        let blocks = disk.read(&opened.file, pieces.size(), blocks).await.map_err(unreadable)?;
        for block in blocks.iter().filter(|block| !block.is_empty()) {
            pieces.add(block.bytes());
        }
        if blocks.iter().any(|block| block.len() < BLOCK_LEN) {
            break;
        }
    }
    if pieces.size() != opened.size || pieces.root() != content {
        tracing::warn!(path = %opened.path.display(), "a shared file is not what it was when it was measured");
        return Err(ErrorCode::NotFound);
    }
    let list = pieces.into_bytes();
    if let Err(error) = running.parts.store.put_piece_list(content, list.clone()).await {
        tracing::warn!(%error, "a piece list could not be kept");
    }
    Ok((list, paid))
}

async fn send_list(mut seat: Seat<'_>, mut answer: Answer, mut list: Bytes) {
    if !answer.grant().await {
        seat.taken_back = answer.taken_back();
        return;
    }
    while !list.is_empty() {
        let part = list.split_to(list.len().min(BLOCK_LEN));
        if !paced(&mut seat, &mut answer, part, false).await {
            return;
        }
    }
}

async fn send_chunk(mut seat: Seat<'_>, mut answer: Answer, chunk: ChunkRequest, opened: &Opened) {
    let length = u64::from(chunk.length);
    if chunk.offset.checked_add(length).is_none_or(|end| end > opened.size) {
        return answer.refuse(ErrorCode::InvalidRange).await;
    }
    let running = seat.running;
    let disk = running.parts.pump.disk();
    if !answer.grant().await {
        seat.taken_back = answer.taken_back();
        return;
    }
    let mut sent = 0;
    while sent < length {
        let wanted = usize::try_from((length - sent).div_ceil(BLOCK_LEN as u64)).unwrap_or(BATCH).min(BATCH);
        let blocks = disk.pool().take_many(wanted).await;
        let Ok(blocks) = disk.read(&opened.file, chunk.offset + sent, blocks).await else {
            return seat.failed(ErrorCode::IoError);
        };
        let before = sent;
        for mut block in blocks {
            block.truncate(usize::try_from(length - sent).unwrap_or(usize::MAX));
            // Once QUIC has all of it, the connection's window pays for it.
            let (bytes, _paid) = block.into_shared();
            let bytes = match &running.faults {
                None => bytes,
                Some(faults) => faults.spoil(bytes),
            };
            let count = bytes.len() as u64;
            if !paced(&mut seat, &mut answer, bytes, true).await {
                return;
            }
            sent += count;
        }
        if sent == before {
            // The file became shorter: breaking off says so.
            return seat.failed(ErrorCode::NotFound);
        }
        seat.sent(sent - before);
    }
}

/// Sends no faster than all uploads together may.
async fn paced(seat: &mut Seat<'_>, answer: &mut Answer, mut bytes: Bytes, of_a_file: bool) -> bool {
    let bucket = &seat.running.parts.pump.limiter().up;
    while !bytes.is_empty() {
        let granted = match &seat.running.faults {
            None => bucket.take(bytes.len()).await,
            Some(faults) => faults.take(bytes.len(), of_a_file).await,
        };
        let granted = granted.clamp(1, bytes.len());
        if !answer.send(bytes.split_to(granted)).await {
            seat.taken_back = answer.taken_back();
            return false;
        }
        count(&seat.running.parts.pump.limiter().traffic.overlay_up, granted);
    }
    true
}
