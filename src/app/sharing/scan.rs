//! Compares shared folders with the index and changes the index, folder by folder.
//!
//! Only what is new or has another size or time is opened. A link is followed when it leads to a place inside the same
//! share; one that leads out is a problem for the page. A linked folder is entered once per scan and never from inside
//! itself, so links cannot make a loop. Pipes, sockets and devices are passed over.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::audio;
use super::rules::{FolderId, Root, Rules, skips_name};
use crate::app::appliance::usb;
use crate::app::clock::Clock;
use crate::engine::soulseek::shares::advertise;
use crate::model::limits;
use crate::model::music::Attributes;
use crate::store::shares::{FolderPlace, KnownFile, KnownFolder, ScannedFile, ShareChange};
use crate::store::{Store, StoreError};

/// Changes of one commit: well below `limits::COMMIT_BYTES` of dirty pages.
const BATCH: usize = 1_000;
/// Entries between two rests and two reports.
const STEP: u64 = 128;
/// Folders asked of the index at once.
const PATHS: usize = 500;
/// Problems of one scan that are told; the rest is counted.
const PROBLEMS: usize = 50;
/// Longest single rest.
const REST_MAX: Duration = Duration::from_secs(1);

/// Why a scan ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScanError {
    /// The owner stopped it, or the program ends.
    #[error("the scan was stopped")]
    Stopped,
    /// The index cannot be read or changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Sentences for the page, a bounded number of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Problems {
    told: Vec<String>,
    untold: u64,
}

impl Problems {
    pub(super) fn add(&mut self, sentence: String) {
        if self.told.len() < PROBLEMS {
            self.told.push(sentence);
        } else {
            self.untold = self.untold.saturating_add(1);
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let more = (self.untold > 0).then(|| format!("and {} more problems like these", self.untold));
        self.told.iter().cloned().chain(more).collect()
    }
}

/// What a scan needs of its surroundings.
pub(super) struct Ground<'g> {
    pub(super) store: &'g Store,
    pub(super) rules: &'g Rules,
    pub(super) clock: Clock,
    /// Rest so many times as long as the work took.
    pub(super) rest: f64,
    /// Says that the scan must end.
    pub(super) stop: &'g (dyn Fn() -> bool + 'g),
    /// Told the number of files seen, now and then.
    pub(super) seen: &'g (dyn Fn(u64) + 'g),
    /// Headers read since the start.
    pub(super) opened: &'g AtomicU64,
}

/// A scan under way. Changes not yet committed are lost with it, unless [`Scan::finish`] is called.
pub(super) struct Scan<'g> {
    ground: Ground<'g>,
    batch: Vec<ShareChange>,
    entries: u64,
    files: u64,
    rested_at: Duration,
    problems: Problems,
}

/// A folder still to be read.
struct Todo {
    /// Below the root, as reached.
    local: PathBuf,
    /// Virtual path.
    path: String,
    /// Where it is, links resolved.
    real: PathBuf,
}

/// Something in a folder.
struct Entry {
    name: OsString,
    kind: Kind,
}

enum Kind {
    File(Metadata),
    /// With its place, links resolved.
    Folder(PathBuf),
}

/// What a walk has come across.
struct Walk<'r> {
    root: &'r Root,
    /// The root, links resolved.
    real: PathBuf,
    todo: Vec<Todo>,
    /// Hashes of the virtual paths of folders that are there.
    there: BTreeSet<u64>,
    /// Virtual paths whose content is unknown because of an error that may pass: the index keeps them.
    kept: Vec<String>,
    /// Linked folders entered.
    linked: BTreeSet<PathBuf>,
}

impl<'g> Scan<'g> {
    pub(super) fn new(ground: Ground<'g>) -> Self {
        let rested_at = ground.clock.now().mono;
        Self { ground, batch: Vec::new(), entries: 0, files: 0, rested_at, problems: Problems::default() }
    }

    /// Commits what is left, also after an early end, and tells the problems.
    pub(super) fn finish(mut self) -> (Problems, Result<(), ScanError>) {
        let flushed = self.flush();
        (self.problems, flushed)
    }

    pub(super) fn problem(&mut self, sentence: String) {
        self.problems.add(sentence);
    }

    /// Brings a folder of a root, or the root itself (`local` empty), and all below it up to date. The folder's virtual
    /// path must be given, as `path`. A folder that is not there leaves the index.
    pub(super) fn tree(&mut self, root: &Root, local: &Path, path: &str) -> Result<(), ScanError> {
        let Some(mut walk) = self.begin(root, local, path) else {
            return self.forget(path, &Walk::nothing(root));
        };
        while let Some(todo) = walk.todo.pop() {
            self.folder(&mut walk, &todo, true)?;
        }
        self.forget(path, &walk)
    }

    /// Brings the files that lie directly in one folder up to date.
    pub(super) fn shallow(&mut self, root: &Root, local: &Path, path: &str) -> Result<(), ScanError> {
        match self.begin(root, local, path) {
            Some(mut walk) => match walk.todo.pop() {
                Some(todo) => self.folder(&mut walk, &todo, false),
                None => Ok(()),
            },
            None => self.forget(path, &Walk::nothing(root)),
        }
    }

    /// A walk that begins at this folder; `None` if it is not there, or not ours to share.
    fn begin<'r>(&mut self, root: &'r Root, local: &Path, path: &str) -> Option<Walk<'r>> {
        let real_root = root.path.canonicalize().ok()?;
        if usb::disk_of(&root.path).is_some_and(|disk| !real_root.starts_with(disk)) {
            self.problem(format!("{} leads out of its disk and is left out", root.path.display()));
            return None;
        }
        let real = root.path.join(local).canonicalize().ok()?;
        if !real.starts_with(&real_root) || self.ground.rules.exclude_whole(&real) {
            return None;
        }
        let todo = vec![Todo { local: local.to_owned(), path: path.to_owned(), real }];
        Some(Walk { real: real_root, todo, ..Walk::nothing(root) })
    }

    /// Removes the folders at and below a path that the walk has not found.
    fn forget(&mut self, path: &str, walk: &Walk<'_>) -> Result<(), ScanError> {
        let mut after: Option<String> = None;
        loop {
            let paths = self
                .ground
                .store
                .read(|txn, tables| tables.shares.reader(txn)?.paths_below(path, after.as_deref(), PATHS))?;
            for path in &paths {
                let kept = || walk.kept.iter().any(|kept| is_at_or_below(path, kept));
                if !walk.there.contains(&hash(path)) && !kept() {
                    for file in self.known(path)?.files.into_values() {
                        self.change(ShareChange::Remove(file.id))?;
                    }
                }
            }
            let Some(last) = paths.last() else { return Ok(()) };
            after = Some(last.clone());
        }
    }

    /// Compares one folder with the index.
    fn folder(&mut self, walk: &mut Walk<'_>, todo: &Todo, deep: bool) -> Result<(), ScanError> {
        let on_disk = walk.root.path.join(&todo.local);
        let entries = match self.entries(walk, todo, &on_disk) {
            Ok(entries) => entries?,
            Err(error) => {
                let gone = error.kind() == io::ErrorKind::NotFound;
                if !gone {
                    self.problem(format!("cannot read the folder {}: {error}", on_disk.display()));
                }
                // What nobody may read cannot be sent either. Other errors may pass.
                if !gone && error.kind() != io::ErrorKind::PermissionDenied {
                    walk.kept.push(todo.path.clone());
                }
                return Ok(());
            }
        };
        walk.there.insert(hash(&todo.path));
        let (folders, files): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| matches!(entry.kind, Kind::Folder(_)));
        self.files(walk.root, todo, &on_disk, &files)?;
        if deep {
            let names: Vec<&[u8]> = folders.iter().map(|entry| entry.name.as_bytes()).collect();
            for (name, entry) in advertise(&names).into_iter().zip(&folders).rev() {
                let Kind::Folder(real) = &entry.kind else { continue };
                let path = format!("{}\\{name}", todo.path);
                if path.len() > limits::PATH_LEN {
                    self.problem(format!("the path of the folder {} is too long", real.display()));
                    continue;
                }
                walk.todo.push(Todo { local: todo.local.join(&entry.name), path, real: real.clone() });
            }
        }
        Ok(())
    }

    /// What lies in a folder and may be shared, by name.
    fn entries(
        &mut self,
        walk: &mut Walk<'_>,
        todo: &Todo,
        on_disk: &Path,
    ) -> io::Result<Result<Vec<Entry>, ScanError>> {
        let mut entries = Vec::new();
        let here = FolderId::of(on_disk);
        for entry in fs::read_dir(on_disk)? {
            if let Err(stopped) = self.breathe() {
                return Ok(Err(stopped));
            }
            let entry = entry?;
            let name = entry.file_name();
            // A file that vanished since is no problem.
            let Ok(kind) = entry.file_type() else { continue };
            let found = if kind.is_symlink() {
                self.link(walk, todo, &entry.path())
            } else if kind.is_dir() {
                Some(Kind::Folder(todo.real.join(&name)))
            } else if kind.is_file() {
                entry.metadata().ok().map(Kind::File)
            } else {
                None
            };
            let Some(kind) = found else { continue };
            let hidden = here.is_some_and(|here| self.ground.rules.exclude_in(here, &name));
            let skipped = hidden
                || match &kind {
                    Kind::Folder(real) => skips_name(name.as_bytes(), true) || self.ground.rules.exclude(real),
                    Kind::File(_) => {
                        skips_name(name.as_bytes(), false)
                            || self.ground.rules.filter(&entry.path())
                            || self.ground.rules.exclude(&todo.real.join(&name))
                    }
                };
            if !skipped {
                entries.push(Entry { name, kind });
            }
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Ok(entries))
    }

    /// What a link leads to, if that may be shared.
    fn link(&mut self, walk: &mut Walk<'_>, todo: &Todo, link: &Path) -> Option<Kind> {
        // A dangling link is nobody's problem.
        let target = link.canonicalize().ok()?;
        if !target.starts_with(&walk.real) {
            self.problem(format!("the link {} leads out of its share and is left out", link.display()));
            return None;
        }
        let metadata = fs::metadata(&target).ok()?;
        if metadata.is_file() {
            (!self.ground.rules.exclude_whole(&target)).then_some(Kind::File(metadata))
        } else {
            let first = metadata.is_dir()
                && !todo.real.starts_with(&target)
                && !self.ground.rules.exclude_whole(&target)
                && walk.linked.insert(target.clone());
            first.then_some(Kind::Folder(target))
        }
    }

    /// Compares the files of one folder with what the index knows of it.
    fn files(&mut self, root: &Root, todo: &Todo, on_disk: &Path, files: &[Entry]) -> Result<(), ScanError> {
        let mut known = self.known(&todo.path)?;
        let local = todo.local.as_os_str().as_bytes();
        let moved = known.local != local;
        let place = Arc::new(FolderPlace { root: root.id, path: todo.path.clone(), local: local.to_vec() });
        let names: Vec<&[u8]> = files.iter().map(|entry| entry.name.as_bytes()).collect();
        for (name, entry) in advertise(&names).into_iter().zip(files) {
            let Kind::File(metadata) = &entry.kind else { continue };
            self.breathe()?;
            self.files = self.files.saturating_add(1);
            let on_disk = on_disk.join(&entry.name);
            if todo.path.len() + 1 + name.len() > limits::PATH_LEN {
                self.problem(format!("the path of the file {} is too long", on_disk.display()));
                continue;
            }
            let scanned = ScannedFile {
                local_name: (entry.name != OsStr::new(&name)).then(|| entry.name.as_bytes().to_vec()),
                name,
                size: metadata.len(),
                mtime_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
                attributes: Attributes::default(),
            };
            let old = known.files.remove(&scanned.name);
            if !moved && old.is_some_and(|old| is_same(&old, &scanned)) {
                continue;
            }
            let mut scanned = scanned;
            if audio::is_audio(&on_disk) {
                self.ground.opened.fetch_add(1, Ordering::Relaxed);
                scanned.attributes = audio::attributes(&on_disk);
            }
            self.change(ShareChange::Put(Arc::clone(&place), scanned))?;
        }
        for gone in known.files.into_values() {
            self.change(ShareChange::Remove(gone.id))?;
        }
        Ok(())
    }

    fn known(&self, path: &str) -> Result<KnownFolder, ScanError> {
        Ok(self.ground.store.read(|txn, tables| tables.shares.reader(txn)?.known_folder(path))?)
    }

    fn change(&mut self, change: ShareChange) -> Result<(), ScanError> {
        self.batch.push(change);
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ScanError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        let left_out = self.ground.store.write_blocking(move |txn, tables| tables.shares.apply(txn, &batch))?;
        if left_out > 0 {
            let most = limits::SHARED_FILES;
            self.problem(format!("{left_out} files are left out: the index holds {most} at most"));
        }
        Ok(())
    }

    /// Between two entries: ends when told to, reports, and rests in proportion to the work done.
    fn breathe(&mut self) -> Result<(), ScanError> {
        if (self.ground.stop)() {
            return Err(ScanError::Stopped);
        }
        self.entries = self.entries.wrapping_add(1);
        if self.entries.is_multiple_of(STEP) {
            (self.ground.seen)(self.files);
            if self.ground.rest > 0.0 {
                let worked = self.ground.clock.now().mono.saturating_sub(self.rested_at);
                std::thread::sleep(worked.mul_f64(self.ground.rest).min(REST_MAX));
                self.rested_at = self.ground.clock.now().mono;
            }
        }
        Ok(())
    }
}

impl<'r> Walk<'r> {
    fn nothing(root: &'r Root) -> Self {
        Self {
            root,
            real: PathBuf::new(),
            todo: Vec::new(),
            there: BTreeSet::new(),
            kept: Vec::new(),
            linked: BTreeSet::new(),
        }
    }
}

fn is_same(old: &KnownFile, new: &ScannedFile) -> bool {
    (old.size, old.mtime_ns, &old.local_name) == (new.size, new.mtime_ns, &new.local_name)
}

fn is_at_or_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('\\'))
}

/// 64 bits of a path's hash: 8 bytes a folder instead of its name.
fn hash(path: &str) -> u64 {
    blake3::hash(path.as_bytes()).as_bytes().first_chunk().copied().map_or(0, u64::from_le_bytes)
}
