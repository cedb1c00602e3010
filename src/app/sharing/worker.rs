//! The thread that looks at the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::watch;

use super::mailbox::{Mailbox, Order};
use super::rules::{Root, skips_name};
use super::scan::{Ground, Problems, Scan, ScanError};
use super::watch::Watch;
use super::{Plan, SharingError, audio, list};
use crate::app::clock::Clock;
use crate::engine::soulseek::shares::is_plain_name;
use crate::model::music::ShareCounts;
use crate::model::view::{ShareRootView, ShareView};
use crate::store::shares::ShareChange;
use crate::store::{Store, StoreError};

/// Between two looks whether an absent share is back.
const AWAY_CHECK: Duration = Duration::from_secs(60);
/// Until the next attempt after the index failed.
const RETRY: Duration = Duration::from_secs(300);
/// The browse reply is made again after so many times what it took: at most 5 % of the time go into it.
const LIST_PAUSE: u32 = 20;
/// Between two looks at the counts during a scan.
const COUNT_EVERY: Duration = Duration::from_millis(500);
/// Files forgotten in one commit.
const FORGET: usize = 1_000;
/// Problems shown.
const PROBLEMS: usize = 100;

/// What a problem is about: a new finding about the same thing replaces the old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Index,
    List,
    Watch,
    Away(u32),
    Scan(u32),
}

pub(super) struct Worker {
    store: Store,
    plan: Plan,
    mailbox: Arc<Mailbox>,
    view: watch::Sender<ShareView>,
    opened: Arc<AtomicU64>,
    clock: Clock,
    watch: Option<Watch>,
    problems: BTreeMap<Topic, Vec<String>>,
    away: BTreeSet<u32>,
    check_due: Duration,
    away_due: Duration,
    /// When the browse reply may be made again.
    list_due: Duration,
    list_stale: bool,
}

impl Worker {
    /// Makes the index answer as far as it fits the plan.
    pub(super) fn new(
        store: Store,
        plan: Plan,
        mailbox: Arc<Mailbox>,
        opened: Arc<AtomicU64>,
        clock: Clock,
    ) -> Result<(Self, watch::Receiver<ShareView>), SharingError> {
        let (view, watched) = watch::channel(ShareView::default());
        let now = clock.now().mono;
        let worker = Self {
            store,
            plan,
            mailbox,
            view,
            opened,
            clock,
            watch: None,
            problems: BTreeMap::new(),
            away: BTreeSet::new(),
            check_due: now,
            away_due: now,
            list_due: now,
            list_stale: true,
        };
        worker.hide_foreign()?;
        worker.publish(None)?;
        Ok((worker, watched))
    }

    /// Works until it is told to end. A panic ends one piece of work, not the thread.
    pub(super) fn run(mut self) {
        audio::limit_this_thread();
        self.guarded(Self::enter);
        // Before the first scan, so that there is always a list to send; the pause is for those after it.
        self.guarded(Self::make_list);
        self.list_due = self.clock.now().mono;
        loop {
            let mut deadline = self.check_due;
            if !self.away.is_empty() {
                deadline = deadline.min(self.away_due);
            }
            if self.list_stale {
                deadline = deadline.min(self.list_due);
            }
            let order = self.mailbox.next(deadline);
            match order {
                Order::End => return,
                Order::Adopt(plan) => {
                    self.plan = *plan;
                    self.guarded(Self::enter);
                    self.guarded(Self::scan_all);
                }
                Order::ScanAll => self.guarded(Self::scan_all),
                Order::Scan(ids) => self.guarded(|worker| {
                    let roots = worker.roots(|root| ids.contains(&root.id));
                    worker.scan(&roots)
                }),
                Order::Look(paths) => self.guarded(|worker| worker.look(&paths)),
                Order::Timeout if self.clock.now().mono >= self.check_due => self.guarded(Self::scan_all),
                Order::Timeout => self.guarded(Self::look_for_absent),
            }
            self.guarded(Self::make_list);
        }
    }

    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Result<(), SharingError>) {
        let sentence = match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("a scan ended by a defect of the program; the log has the details".to_owned()),
        };
        if let Some(sentence) = sentence {
            tracing::error!(reason = sentence, "the shares could not be brought up to date");
            self.problems.insert(Topic::Index, vec![sentence]);
            let retry = self.clock.now().mono.saturating_add(RETRY);
            self.check_due = retry;
            self.list_due = self.list_due.max(retry);
        }
        if let Err(error) = self.publish(None) {
            tracing::error!(%error, "the share index cannot be read");
        }
    }

    fn roots(&self, wanted: impl Fn(&Root) -> bool) -> Vec<Root> {
        self.plan.roots.iter().filter(|root| wanted(root)).cloned().collect()
    }

    /// Stops answers from roots that are not in the plan, or there under another name.
    fn hide_foreign(&self) -> Result<(), StoreError> {
        let planned: BTreeMap<u32, String> = self.plan.roots.iter().map(|root| (root.id, root.alias.clone())).collect();
        self.store.write_blocking(move |txn, tables| {
            for (id, root) in tables.shares.roots(txn)? {
                if planned.get(&id) != Some(&root.alias) {
                    tables.shares.put_root(txn, id, &root.alias, &root.local_path, false)?;
                }
            }
            Ok(())
        })
    }

    /// Makes the index fit a new plan: forgets what is foreign to it, adds what is new, and watches.
    fn enter(&mut self) -> Result<(), SharingError> {
        self.hide_foreign()?;
        self.problems.clear();
        self.away.clear();
        let stored = self.store.read(|txn, tables| tables.shares.roots(txn))?;
        // All of it before anything is added: a new share may take the name of an old one.
        for (id, record) in stored {
            if !self.plan.roots.iter().any(|root| root.id == id && root.alias == record.alias) {
                self.forget_root(id)?;
            }
        }
        self.watch = None;
        if self.plan.settings.watch {
            match Watch::start(Arc::clone(&self.mailbox)) {
                Ok(watch) => self.watch = Some(watch),
                Err(sentence) => drop(self.problems.insert(Topic::Watch, vec![sentence])),
            }
        }
        for root in self.roots(|_| true) {
            self.attend(&root)?;
        }
        self.list_stale = true;
        Ok(())
    }

    fn forget_root(&self, id: u32) -> Result<(), SharingError> {
        loop {
            let files = self.store.read(|txn, tables| tables.shares.reader(txn)?.root_files(id, FORGET))?;
            if files.is_empty() {
                self.store.write_blocking(move |txn, tables| tables.shares.remove_root(txn, id))?;
                return Ok(());
            }
            let changes: Vec<ShareChange> = files.into_iter().map(ShareChange::Remove).collect();
            self.store.write_blocking(move |txn, tables| tables.shares.apply(txn, &changes))?;
        }
    }

    /// Looks whether a root is there, notes it, and watches it if so.
    fn attend(&mut self, root: &Root) -> Result<bool, SharingError> {
        let known =
            self.store.read(|txn, tables| Ok(tables.shares.roots(txn)?.into_iter().find(|(id, _)| *id == root.id)))?;
        let files = known.as_ref().map_or(0, |(_, record)| record.files);
        let absence = absence(&root.path, files);
        let present = absence.is_none();
        if known.is_none_or(|(_, record)| record.present != present || record.alias != root.alias) {
            let (id, alias) = (root.id, root.alias.clone());
            let path = std::os::unix::ffi::OsStrExt::as_bytes(root.path.as_os_str()).to_vec();
            self.store.write_blocking(move |txn, tables| tables.shares.put_root(txn, id, &alias, &path, present))?;
        }
        if let Some(sentence) = absence {
            if self.away.insert(root.id) {
                tracing::warn!("{sentence}");
            }
            self.problems.insert(Topic::Away(root.id), vec![sentence]);
            if let Some(watch) = &mut self.watch {
                watch.remove(&root.path);
            }
        } else {
            self.away.remove(&root.id);
            self.problems.remove(&Topic::Away(root.id));
            if let Some(watch) = &mut self.watch
                && let Err(sentence) = watch.add(&root.path)
            {
                let told = self.problems.entry(Topic::Watch).or_default();
                if !told.contains(&sentence) {
                    told.push(sentence);
                }
            }
        }
        Ok(present)
    }

    fn scan_all(&mut self) -> Result<(), SharingError> {
        let roots = self.roots(|_| true);
        let scanned = self.scan(&roots);
        self.check_due = self.clock.now().mono.saturating_add(self.plan.settings.check_every);
        scanned
    }

    /// Scans roots, until it is told to stop.
    fn scan(&mut self, roots: &[Root]) -> Result<(), SharingError> {
        // Also after an early end: what was committed is to be seen in the browse reply.
        self.list_stale = true;
        let known = self.store.read(|txn, tables| tables.shares.roots(txn))?;
        let ids: BTreeSet<u32> = roots.iter().map(|root| root.id).collect();
        let total: u64 =
            known.iter().filter(|(id, _)| ids.contains(id)).map(|(_, record)| u64::from(record.files)).sum();
        let mut seen = 0;
        self.publish(Some((0, total)))?;
        for root in roots {
            if !self.attend(root)? {
                continue;
            }
            let (problems, files, result) =
                self.with_scan((seen, total), |scan| scan.tree(root, Path::new(""), &root.alias));
            seen += files;
            match result {
                Ok(()) => drop(self.problems.insert(Topic::Scan(root.id), problems.lines())),
                Err(ScanError::Stopped) => return Ok(()),
                Err(ScanError::Store(error)) => return Err(error.into()),
            }
        }
        let now = self.clock.now().wall;
        self.store.write_blocking(move |txn, tables| tables.shares.set_scanned_at(txn, now))?;
        self.problems.remove(&Topic::Index);
        Ok(())
    }

    /// One scan, committed also when it was stopped. `progress`: files seen before it, and in all the last time.
    fn with_scan(
        &self,
        progress: (u64, u64),
        work: impl FnOnce(&mut Scan<'_>) -> Result<(), ScanError>,
    ) -> (Problems, u64, Result<(), ScanError>) {
        let (before, total) = progress;
        let last = std::cell::Cell::new((self.clock.now().mono, 0));
        let seen = |files: u64| {
            let now = self.clock.now().mono;
            let (published, _) = last.get();
            if now.saturating_sub(published) < COUNT_EVERY {
                last.set((published, files));
            } else {
                last.set((now, files));
                // Only the progress is at stake; the scan itself will meet the same error.
                drop(self.publish(Some((before.saturating_add(files), total))));
            }
        };
        let stop = || self.mailbox.must_stop();
        let mut scan = Scan::new(Ground {
            store: &self.store,
            rules: &self.plan.rules,
            clock: self.clock,
            rest: self.plan.settings.rest,
            stop: &stop,
            seen: &seen,
            opened: &self.opened,
        });
        let result = work(&mut scan);
        let (problems, committed) = scan.finish();
        (problems, last.get().1, result.and(committed))
    }

    /// Brings what was touched up to date.
    fn look(&mut self, paths: &BTreeSet<PathBuf>) -> Result<(), SharingError> {
        self.list_stale = true;
        let mut whole = BTreeSet::new();
        let mut trees: BTreeSet<(usize, PathBuf)> = BTreeSet::new();
        let mut shallow: BTreeSet<(usize, PathBuf)> = BTreeSet::new();
        for path in paths {
            for (at, root) in self.plan.roots.iter().enumerate() {
                let Ok(local) = path.strip_prefix(&root.path) else { continue };
                let Some(parent) = local.parent() else {
                    whole.insert(root.id);
                    continue;
                };
                if names(parent).any(|name| skips_name(name, true)) || self.plan.rules.exclude(path) {
                    continue;
                }
                match fs::symlink_metadata(path) {
                    // What it leads to may be elsewhere in the index, or go; and a name that is advertised under
                    // another one depends on its neighbours.
                    Ok(found) if found.is_symlink() => drop(whole.insert(root.id)),
                    _ if !names(local).all(is_plain_name) => drop(whole.insert(root.id)),
                    Ok(found) if found.is_dir() => {
                        if !names(local).any(|name| skips_name(name, true)) {
                            trees.insert((at, local.to_owned()));
                        }
                    }
                    Ok(_) => drop(shallow.insert((at, parent.to_owned()))),
                    Err(_) => {
                        // It is gone, be it file or folder.
                        trees.insert((at, local.to_owned()));
                        shallow.insert((at, parent.to_owned()));
                    }
                }
            }
        }
        let in_tree = |at: usize, local: &Path, own: bool| {
            local.ancestors().skip(usize::from(!own)).any(|above| trees.contains(&(at, above.to_owned())))
        };
        let steps = trees
            .iter()
            .filter(|(at, local)| !in_tree(*at, local, false))
            .map(|step| (step, true))
            .chain(shallow.iter().filter(|(at, local)| !in_tree(*at, local, true)).map(|step| (step, false)));
        for ((at, local), deep) in steps {
            let root = self.plan.roots[*at].clone();
            if whole.contains(&root.id) || !self.attend(&root)? {
                continue;
            }
            let path = names(local).fold(root.alias.clone(), |path, name| path + "\\" + &String::from_utf8_lossy(name));
            let (problems, _, result) = self.with_scan((0, 0), |scan| {
                if deep { scan.tree(&root, local, &path) } else { scan.shallow(&root, local, &path) }
            });
            let told = self.problems.entry(Topic::Scan(root.id)).or_default();
            for line in problems.lines() {
                if told.len() < PROBLEMS && !told.contains(&line) {
                    told.push(line);
                }
            }
            match result {
                Ok(()) => {}
                // The rest is found by the next check.
                Err(ScanError::Stopped) => return Ok(()),
                Err(ScanError::Store(error)) => return Err(error.into()),
            }
        }
        if !whole.is_empty() {
            let roots = self.roots(|root| whole.contains(&root.id));
            self.scan(&roots)?;
        }
        Ok(())
    }

    /// Scans the roots that are back.
    fn look_for_absent(&mut self) -> Result<(), SharingError> {
        let now = self.clock.now().mono;
        if self.away.is_empty() || now < self.away_due {
            return Ok(());
        }
        self.away_due = now.saturating_add(AWAY_CHECK);
        let mut back = Vec::new();
        for root in self.roots(|root| self.away.contains(&root.id)) {
            if self.attend(&root)? {
                back.push(root);
            }
        }
        if !back.is_empty() {
            self.scan(&back)?;
        }
        Ok(())
    }

    /// Makes the browse reply if the index has changed since, and it is time.
    fn make_list(&mut self) -> Result<(), SharingError> {
        let began = self.clock.now().mono;
        if !self.list_stale || began < self.list_due {
            return Ok(());
        }
        let (generation, listed) =
            self.store.read(|txn, tables| Ok((tables.shares.generation(txn)?, tables.shares.listed(txn)?)))?;
        let to = &self.plan.settings.list;
        if listed != Some(generation) || !to.exists() {
            match list::build(&self.store, to) {
                Ok(()) => drop(self.problems.remove(&Topic::List)),
                Err(error) => {
                    self.problems.insert(Topic::List, vec![error.to_string()]);
                    self.list_due = self.clock.now().mono.saturating_add(RETRY);
                    return Ok(());
                }
            }
            let ended = self.clock.now().mono;
            self.list_due = ended.saturating_add(ended.saturating_sub(began).saturating_mul(LIST_PAUSE));
        }
        self.list_stale = false;
        Ok(())
    }

    /// Shows how things are. While scanning: files seen, and files in all the last time.
    fn publish(&self, progress: Option<(u64, u64)>) -> Result<(), StoreError> {
        let (roots, counts, bytes, scanned_at) = self.store.read(|txn, tables| {
            let reader = tables.shares.reader(txn)?;
            Ok((reader.roots().clone(), reader.counts(), reader.bytes(), tables.shares.scanned_at(txn)?))
        })?;
        let root_view = |root: &Root| {
            let record = roots.get(&root.id).filter(|record| record.alias == root.alias);
            let counts = record.map(|record| ShareCounts { folders: record.folders, files: record.files });
            ShareRootView {
                id: root.name(),
                alias: root.alias.clone(),
                local_path: root.path.display().to_string(),
                counts: counts.unwrap_or_default(),
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "shown as a bar")]
        let fraction = |(seen, total): (u64, u64)| seen.min(total) as f64 / total.max(1) as f64;
        self.view.send_replace(ShareView {
            counts,
            bytes,
            scanning: progress.is_some(),
            progress: progress.map_or(0.0, fraction),
            ready: true,
            scanned_at,
            problems: self.problems.values().flatten().take(PROBLEMS).cloned().collect(),
            roots: self.plan.roots.iter().map(root_view).collect(),
        });
        Ok(())
    }
}

/// The names a relative path is made of, as bytes.
fn names(path: &Path) -> impl Iterator<Item = &[u8]> {
    path.iter().map(std::os::unix::ffi::OsStrExt::as_bytes)
}

/// Why a shared folder that had so many files counts as away; `None` if it is there.
fn absence(path: &Path, files: u32) -> Option<String> {
    let shown = path.display();
    match fs::read_dir(path) {
        Err(error) => Some(format!("the shared folder {shown} cannot be read, nothing of it is shared: {error}")),
        Ok(mut entries) => (files > 0 && entries.next().is_none()).then(|| {
            format!(
                "the shared folder {shown} is empty and had {files} files: while its disk is not mounted they are not \
                 shared; remove the share if they are gone for good"
            )
        }),
    }
}
