//! Scans shared folders into the index, watches them, and answers from the index.
//!
//! Decides when the disk is looked at and what of it is shared; the index itself is `store::shares`, and how a query
//! finds files is `engine::soulseek::shares`. One thread does all looking: it compares folders with the index after
//! the start, on demand, when the system tells of a change, and at an interval. Answers never wait for it: they come
//! from the index as the last commit left it, so also at once after a restart.
//!
//! A shared folder that is missing, unreadable, or empty where it had files is *away*: most likely its disk is not
//! mounted. Its files stay in the index and are not answered; when the folder has content again it is scanned, and
//! only when the owner removes the share are they forgotten.

mod audio;
mod list;
mod mailbox;
pub(in crate::app) mod rules;
mod scan;
mod watch;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch::Receiver as Watched;

use self::mailbox::Mailbox;
use self::rules::{Root, Rules};
use self::worker::Worker;
use super::clock::Clock;
use crate::engine::soulseek::io::{ShareAnswer, ShareAsk, SharedLocation};
use crate::engine::soulseek::peer::{RemoteFile, RemoteFolder};
use crate::engine::soulseek::sharelist::ShareListError;
use crate::engine::soulseek::shares::{Phrases, Query};
use crate::model::limits;
use crate::model::music::{SharedFile, WireText};
use crate::model::view::{FileView, FolderView, ShareView};
use crate::store::{Store, StoreError};

/// Why sharing refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum SharingError {
    /// A filter is no regular expression we understand.
    #[error("the filter `{filter}` is not understood: {source}")]
    Filter {
        /// As configured.
        filter: String,
        /// What is wrong with it.
        source: Box<regex::Error>,
    },
    /// The filters are too large together.
    #[error("the filters of the shares cannot be used together: {0}")]
    Filters(Box<regex::Error>),
    /// No share has this id.
    #[error("there is no share {0}")]
    UnknownShare(String),
    /// The index cannot be read or changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The browse reply cannot be written.
    #[error("cannot write the share list {path}: {source}")]
    List {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The browse reply cannot be made.
    #[error(transparent)]
    ListContent(#[from] ShareListError),
    /// The system starts no thread.
    #[error("cannot start the thread that scans shares: {0}")]
    Thread(std::io::Error),
}

/// What is shared and how it is looked at.
#[derive(Clone, Debug)]
pub struct ShareSettings {
    /// Name others see (empty: the folder's own) and absolute path.
    pub directories: Vec<(String, PathBuf)>,
    /// Folders and files never shared, wherever they lie: the owner's exceptions, and the program's own folders.
    pub excluded: Vec<PathBuf>,
    /// Regular expressions, ignoring case; a file whose path on the disk matches one is not shared.
    pub filters: Vec<String>,
    /// Notice changes at once where the system tells of them.
    pub watch: bool,
    /// Between two complete comparisons with the disk.
    pub check_every: Duration,
    /// Rest so many times as long as the work took: 0 is full speed, 1 half of the time (DECISIONS 27).
    pub rest: f64,
    /// Where the browse reply is kept.
    pub list: PathBuf,
}

/// Settings, checked.
#[derive(Debug)]
struct Plan {
    roots: Vec<Root>,
    rules: Rules,
    settings: ShareSettings,
}

impl Plan {
    fn new(settings: ShareSettings) -> Result<Self, SharingError> {
        let rules = Rules::new(&settings.filters, &settings.excluded)?;
        Ok(Self { roots: rules::roots(&settings.directories), rules, settings })
    }
}

/// The handle. Clones are cheap; when the last one is dropped the thread is told to end.
#[derive(Clone, Debug)]
pub struct Sharing {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    mailbox: Arc<Mailbox>,
    view: Watched<ShareView>,
    /// Replaced as a whole; the lock is held to copy a pointer.
    phrases: RwLock<Arc<Phrases>>,
    opened: Arc<AtomicU64>,
    list: PathBuf,
    /// Disconnected when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.mailbox.end();
    }
}

impl Sharing {
    /// Starts the thread. When this returns, the index of the last run answers, without shares that are no longer
    /// configured. Blocks for one commit.
    pub fn start(store: Store, settings: ShareSettings, clock: Clock) -> Result<Self, SharingError> {
        let list = settings.list.clone();
        let plan = Plan::new(settings)?;
        let mailbox = Arc::new(Mailbox::new(clock));
        let opened = Arc::new(AtomicU64::new(0));
        let (worker, view) = Worker::new(store.clone(), plan, Arc::clone(&mailbox), Arc::clone(&opened), clock)?;
        let (running, ended) = sync_channel::<()>(1);
        std::thread::Builder::new()
            .name("shares".to_owned())
            .spawn(move || {
                worker.run();
                drop(running);
            })
            .map_err(SharingError::Thread)?;
        let phrases = RwLock::new(Arc::new(Phrases::default()));
        let inner = Inner { store, mailbox, view, phrases, opened, list, ended: Mutex::new(ended) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Other folders or rules from now on; the running scan ends and all shares are scanned. The place of the browse
    /// reply stays.
    pub fn configure(&self, mut settings: ShareSettings) -> Result<(), SharingError> {
        settings.list.clone_from(&self.inner.list);
        self.inner.mailbox.adopt(Box::new(Plan::new(settings)?));
        Ok(())
    }

    /// Scans one share, by the id of its view, or all, as soon as the running scan is over.
    pub fn rescan(&self, root: Option<&str>) -> Result<(), SharingError> {
        let id = root.map(|name| self.root_id(name)).transpose()?;
        self.inner.mailbox.scan(id);
        Ok(())
    }

    /// Looks at one path again, soon: something was put there, or taken away.
    pub fn touch(&self, path: &Path) {
        self.inner.mailbox.touch(path);
    }

    /// Ends the running scan; what it found so far stays.
    pub fn stop_scan(&self) {
        self.inner.mailbox.stop_scan();
    }

    /// What we share, as it changes.
    pub fn view(&self) -> Watched<ShareView> {
        self.inner.view.clone()
    }

    /// Audio headers read since the start.
    pub fn opened(&self) -> u64 {
        self.inner.opened.load(Ordering::Relaxed)
    }

    /// The browse reply: the compressed body of code 5, ready to be sent behind `sharelist::header`. It is replaced
    /// by renaming, so an open one can be read to its end. In the first moments of the very first start it is
    /// not there.
    pub fn share_list(&self) -> &Path {
        &self.inner.list
    }

    /// Tells the thread to end and waits for it. False if it is not done in time: a disk may not answer.
    pub fn end(&self, wait: Duration) -> bool {
        self.inner.mailbox.end();
        let ended = self.inner.ended.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(ended.recv_timeout(wait), Err(RecvTimeoutError::Timeout))
    }

    /// Answers the engine from the index; `None` where it wants no answer. Reads the disk: call it where blocking is
    /// allowed. If the index cannot be read the answer is empty and the log says why.
    pub fn answer(&self, ask: ShareAsk) -> Option<ShareAnswer> {
        fn or_empty<T: Default>(what: &str, found: Result<T, SharingError>) -> T {
            found.unwrap_or_else(|error| {
                tracing::error!(%error, "{what} could not be answered");
                T::default()
            })
        }
        match ask {
            ShareAsk::Search { user, token, query } => {
                let files = or_empty("a search", self.search(&query, limits::SEARCH_REPLY_FILES));
                Some(ShareAnswer::Hits { user, token, files })
            }
            ShareAsk::Excluded(phrases) => {
                let phrases = Arc::new(Phrases::new(phrases));
                *self.inner.phrases.write().unwrap_or_else(PoisonError::into_inner) = phrases;
                None
            }
            ShareAsk::File { user, path } => {
                let found = or_empty("a file request", self.find(&path));
                Some(ShareAnswer::File { user, path, found })
            }
            ShareAsk::Folder { user, token, path } => {
                let folders = or_empty("a folder request", self.folder(&path));
                Some(ShareAnswer::Folder { user, token, path, folders })
            }
        }
    }

    /// Files that answer a query, at most `limit`, without those that the server's phrases exclude.
    pub fn search(&self, query: &str, limit: usize) -> Result<Vec<SharedFile>, SharingError> {
        let Some(query) = Query::parse(query) else { return Ok(Vec::new()) };
        let phrases = Arc::clone(&self.inner.phrases.read().unwrap_or_else(PoisonError::into_inner));
        Ok(self.inner.store.read(|txn, tables| tables.shares.reader(txn)?.search(&query, &phrases, limit))?)
    }

    /// Where the file advertised under exactly this path lies; `None` if there is none, or if by now a link leads it
    /// out of its share.
    pub fn find(&self, path: &WireText) -> Result<Option<SharedLocation>, SharingError> {
        let found = self.inner.store.read(|txn, tables| tables.shares.reader(txn)?.find(path))?;
        // The file itself and not a link to it, which the disk would refuse to open.
        let real = found.and_then(|file| Some((real_path_within(&file.root_path, &file.local_path)?, file.size)));
        Ok(real.map(|(local_path, size)| SharedLocation { local_path, size }))
    }

    /// The shared file at this path of the disk; `None` as for [`Sharing::find`].
    pub fn find_local(&self, path: &Path) -> Result<Option<SharedLocation>, SharingError> {
        let found = self.inner.store.read(|txn, tables| tables.shares.reader(txn)?.find_local(path))?;
        let real = found.and_then(|file| Some((real_path_within(&file.root_path, &file.local_path)?, file.size)));
        Ok(real.map(|(local_path, size)| SharedLocation { local_path, size }))
    }

    /// A shared folder and those below it; empty if it is not shared.
    pub fn folder(&self, path: &WireText) -> Result<Vec<RemoteFolder>, SharingError> {
        Ok(self.inner.store.read(|txn, tables| tables.shares.reader(txn)?.folder(path.as_str()))?)
    }

    /// Our own folders for the page: those of one share, by id, or all; at most `limit` from `offset` on, and how many
    /// there are in all.
    pub fn folders(
        &self,
        root: Option<&str>,
        offset: usize,
        limit: usize,
    ) -> Result<(Vec<FolderView>, usize), SharingError> {
        let id = root.map(|name| self.root_id(name)).transpose()?;
        let limit = limit.min(limits::PAGE_ROWS);
        let (rows, total) = self.inner.store.read(|txn, tables| tables.shares.reader(txn)?.page(id, offset, limit))?;
        Ok((rows.into_iter().map(folder_view).collect(), total))
    }

    fn root_id(&self, name: &str) -> Result<u32, SharingError> {
        let known = self.inner.view.borrow().roots.iter().any(|root| root.id == name);
        let id = u32::from_str_radix(name, 16).ok().filter(|_| known);
        id.ok_or_else(|| SharingError::UnknownShare(name.to_owned()))
    }
}

/// Whether a path of the disk lies in a folder, links resolved on both sides.
fn real_path_within(folder: &Path, path: &Path) -> Option<PathBuf> {
    let (folder, path) = (folder.canonicalize().ok()?, path.canonicalize().ok()?);
    path.starts_with(folder).then_some(path)
}

fn folder_view(folder: RemoteFolder) -> FolderView {
    FolderView { name: folder.name, files: folder.files.into_iter().map(file_view).collect() }
}

fn file_view(file: RemoteFile) -> FileView {
    FileView {
        attributes: file.known_attributes(),
        extension: file.extension.as_str().to_owned(),
        name: file.name,
        size: file.size,
        code: file.code,
    }
}
