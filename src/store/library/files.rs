//! Files, and the commits that everything found out about one belongs to.

use std::ops::Bound;

use heed::{RoTxn, RwTxn};

use super::{LibraryTables, Todo, folder_prefix, owned, path_key};
use crate::engine::library::{About, all_file_kinds, issue_id};
use crate::model::gossip::Consensus;
use crate::model::health::{
    CanonicalStats, FileOutcome, FileRow, Issue, IssueKind, LocalPath, MatchedBy, Scan, Variant,
};
use crate::model::id::ContentHash;
use crate::model::limits;
use crate::model::time::UnixMs;
use crate::store::StoreError;
use crate::store::records::{decode, get, put};

/// What became of one file, to be written at once.
#[derive(Clone, Debug, PartialEq)]
pub struct FileChange {
    /// Its new row.
    pub row: FileRow,
    /// Its content, if it was measured.
    pub variant: Option<Box<Variant>>,
    /// Its issues of the kinds in `judged`; those of these kinds that are stored and not here are resolved.
    pub issues: Vec<Issue>,
    /// Kinds that were looked for.
    pub judged: Vec<IssueKind>,
    /// The path it had before.
    pub moved_from: Option<LocalPath>,
}

/// What was found out about the copies of a recording, or the files of a release.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settled {
    /// Found issues.
    pub issues: Vec<Issue>,
    /// What was looked for: kind and the path, recording or release it is about.
    pub judged: Vec<(IssueKind, Carry)>,
    /// New statistics of a recording, replacing all it has.
    pub canonical: Option<(u128, Vec<CanonicalStats>)>,
    /// What is known of a recording with the words of peers, replacing what was.
    pub consensus: Option<(u128, Option<Consensus>)>,
    /// Done with.
    pub done: Vec<Todo>,
    /// Left to do.
    pub todo: Vec<Todo>,
}

/// What an issue is about, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carry {
    /// One file.
    File(LocalPath),
    /// One recording.
    Recording(u128),
    /// One release.
    Release(u128),
}

impl Carry {
    fn about(&self) -> About<'_> {
        match self {
            Self::File(path) => About::File(path),
            Self::Recording(id) => About::Recording(*id),
            Self::Release(id) => About::Release(*id),
        }
    }
}

impl LibraryTables {
    /// What is known of the file at this path.
    pub fn file(&self, txn: &RoTxn<'_>, path: &LocalPath) -> Result<Option<FileRow>, StoreError> {
        get(self.files, txn, &path_key(path))
    }

    /// What is known of the file with this device and number.
    pub fn file_by_inode(&self, txn: &RoTxn<'_>, inode: (u64, u64)) -> Result<Option<FileRow>, StoreError> {
        let Some(key) = self.inodes.get(txn, &inode_key(inode))? else { return Ok(None) };
        get(self.files, txn, key)
    }

    /// Rows of the files in a folder and those below it, after a path, at most `limit`.
    pub fn files_in(
        &self,
        txn: &RoTxn<'_>,
        folder: &[u8],
        after: Option<&LocalPath>,
        limit: usize,
    ) -> Result<Vec<FileRow>, StoreError> {
        let prefix = folder_prefix(folder);
        let from = after.map_or_else(
            || prefix.clone(),
            |path| {
                let mut key = path_key(path);
                key.push(0);
                key
            },
        );
        let mut rows = Vec::new();
        for entry in self.files.range(txn, &(Bound::Included(from.as_slice()), Bound::Unbounded))? {
            let (key, value) = entry?;
            if rows.len() >= limit || !key.starts_with(&prefix) {
                break;
            }
            let row: FileRow = decode(value)?;
            if row.path.is_within(folder) {
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// How many files are known, in all or in a folder.
    pub fn file_count(&self, txn: &RoTxn<'_>, folder: Option<&LocalPath>) -> Result<u64, StoreError> {
        let Some(folder) = folder else { return Ok(self.files.len(txn)?) };
        let mut count = u64::from(self.files.get(txn, &path_key(folder))?.is_some());
        let prefix = folder_prefix(&folder.0);
        for entry in self.files.prefix_iter(txn, &prefix)? {
            let (key, value) = entry?;
            // Only cut keys may lie elsewhere below the same long beginning.
            let inside = key.len() <= prefix.len() || prefix.len() < super::PATH_CUT || {
                decode::<FileRow>(value)?.path.is_within(&folder.0)
            };
            count += u64::from(inside);
        }
        Ok(count)
    }

    /// Writes what became of files, and the scan's new counts, as one commit. Says how many files were left out because
    /// `limits::DOCTOR_FILES` is reached.
    pub fn put_files(
        &self,
        txn: &mut RwTxn<'_>,
        changes: &[FileChange],
        scan: Option<&Scan>,
        now: UnixMs,
    ) -> Result<usize, StoreError> {
        let mut left_out = 0;
        for change in changes {
            left_out += usize::from(!self.put_file(txn, change, now)?);
        }
        if let Some(scan) = scan {
            self.put_scan(txn, scan)?;
        }
        Ok(left_out)
    }

    fn put_file(&self, txn: &mut RwTxn<'_>, change: &FileChange, now: UnixMs) -> Result<bool, StoreError> {
        let key = path_key(&change.row.path);
        let old = get::<FileRow>(self.files, txn, &key)?;
        if old.is_none() && self.files.len(txn)? >= limits::DOCTOR_FILES as u64 {
            return Ok(false);
        }
        let content = match &change.row.outcome {
            FileOutcome::Measured(hash) => Some(*hash),
            FileOutcome::Broken(_) | FileOutcome::Unsupported(_) => None,
        };
        // What the file was when it could still be read.
        let before = match old.as_ref().map(|old| &old.outcome) {
            Some(FileOutcome::Measured(hash)) if content.is_none() => self.bare_variant(txn, *hash)?,
            _ => None,
        };
        if let Some(old) = &old {
            self.inodes.delete(txn, &inode_key(old.inode))?;
            self.leave(txn, old, content)?;
        }
        if let Some(from) = &change.moved_from
            && let Some(old) = self.file(txn, from)?
        {
            self.files.delete(txn, &path_key(from))?;
            self.inodes.delete(txn, &inode_key(old.inode))?;
            self.leave(txn, &old, content)?;
            self.move_issues(txn, from, &change.row.path)?;
        }
        if let Some(variant) = &change.variant {
            self.meet(txn, variant, &change.row.path)?;
        } else if let Some(hash) = content
            && let Some(variant) = self.bare_variant(txn, hash)?
        {
            // Renamed: its content is known, only its path is new.
            self.meet_path(txn, variant, &change.row.path)?;
        }
        put(self.files, txn, &key, &change.row)?;
        self.inodes.put(txn, &inode_key(change.row.inode), &key)?;
        let is_known = match content {
            Some(hash) => self.bare_variant(txn, hash)?.is_some_and(|variant| variant.identity.recording_id.is_some()),
            None => false,
        };
        for kind in &change.judged {
            let id = issue_id(*kind, About::File(&change.row.path));
            let found = change.issues.iter().find(|issue| issue.id == id).filter(|_| !is_answered(*kind, is_known));
            let found = match (found.cloned(), &before) {
                (Some(found), Some(before)) if found.kind == IssueKind::CorruptedFile => Some(known_as(found, before)),
                (found, _) => found,
            };
            self.merge_issue(txn, id, found, now)?;
        }
        Ok(true)
    }

    /// The file is gone: its row, its place among the paths of its content, and its open issues.
    pub fn forget_file(&self, txn: &mut RwTxn<'_>, path: &LocalPath, now: UnixMs) -> Result<(), StoreError> {
        let Some(row) = self.file(txn, path)? else { return Ok(()) };
        self.files.delete(txn, &path_key(path))?;
        // By now the number may belong to another file.
        if owned(self.inodes.get(txn, &inode_key(row.inode))?).is_some_and(|key| key == path_key(path)) {
            self.inodes.delete(txn, &inode_key(row.inode))?;
        }
        self.leave(txn, &row, None)?;
        for kind in all_file_kinds() {
            self.merge_issue(txn, issue_id(kind, About::File(path)), None, now)?;
        }
        Ok(())
    }

    /// The file of this row no longer has this content, unless it is `now`.
    fn leave(&self, txn: &mut RwTxn<'_>, row: &FileRow, now: Option<ContentHash>) -> Result<(), StoreError> {
        let FileOutcome::Measured(hash) = row.outcome else { return Ok(()) };
        let Some(mut variant) = self.bare_variant(txn, hash)? else { return Ok(()) };
        variant.paths.retain(|path| *path != row.path);
        if variant.paths.is_empty() && now != Some(hash) {
            self.remove_variant(txn, &variant)
        } else {
            self.put_variant(txn, &variant)
        }
    }

    /// A measured copy meets what is known of the same content.
    fn meet(&self, txn: &mut RwTxn<'_>, measured: &Variant, path: &LocalPath) -> Result<(), StoreError> {
        let mut variant = measured.clone();
        variant.paths.clear();
        if let Some(known) = self.bare_variant(txn, variant.hash())? {
            variant.paths = known.paths;
            variant.first_seen_at = known.first_seen_at;
            variant.seen_count = known.seen_count.saturating_add(1);
            if variant.identity.matched_by == MatchedBy::Pending {
                variant.identity = known.identity;
            }
        }
        let hash = variant.hash();
        if variant.identity.matched_by == MatchedBy::Pending {
            self.put_todo(txn, Todo::Identify(hash))?;
        } else {
            self.remove_todo(txn, Todo::Identify(hash))?;
        }
        self.meet_path(txn, variant, path)
    }

    fn meet_path(&self, txn: &mut RwTxn<'_>, mut variant: Variant, path: &LocalPath) -> Result<(), StoreError> {
        if !variant.paths.contains(path) && variant.paths.len() < limits::VARIANT_PATHS {
            variant.paths.push(path.clone());
        }
        self.put_variant(txn, &variant)
    }

    /// Changes what is known of a copy's recording, or what is thought of it, with the issues that follow from it.
    pub fn put_known(
        &self,
        txn: &mut RwTxn<'_>,
        variant: &Variant,
        issues: &[Issue],
        judged: &[IssueKind],
        now: UnixMs,
    ) -> Result<(), StoreError> {
        let Some(stored) = self.bare_variant(txn, variant.hash())? else { return Ok(()) };
        // Somebody may have found out while the catalog, which knows nothing, was asked.
        let is_known = stored.identity.recording_id.is_some();
        let loses = is_known && variant.identity.recording_id.is_none();
        let identity = if loses { stored.identity.clone() } else { variant.identity.clone() };
        let updated = Variant { identity, judged: variant.judged.clone(), ..stored };
        self.put_variant(txn, &updated)?;
        if updated.identity.matched_by != MatchedBy::Pending {
            self.remove_todo(txn, Todo::Identify(updated.hash()))?;
        }
        for path in &updated.paths {
            for kind in judged {
                let id = issue_id(*kind, About::File(path));
                let found = issues.iter().find(|issue| issue.id == id).filter(|_| !is_answered(*kind, loses));
                self.merge_issue(txn, id, found.cloned(), now)?;
            }
        }
        Ok(())
    }

    /// Writes what was found out about recordings and releases.
    pub fn settle(&self, txn: &mut RwTxn<'_>, settled: &Settled, now: UnixMs) -> Result<(), StoreError> {
        for (kind, about) in &settled.judged {
            let id = issue_id(*kind, about.about());
            let found = settled.issues.iter().find(|issue| issue.id == id);
            self.merge_issue(txn, id, found.cloned(), now)?;
        }
        if let Some((recording, stats)) = &settled.canonical {
            self.put_canonical(txn, *recording, stats)?;
        }
        for todo in &settled.done {
            self.remove_todo(txn, *todo)?;
        }
        for todo in &settled.todo {
            self.put_todo(txn, *todo)?;
        }
        Ok(())
    }
}

/// Whether this kind of issue is none any more, since it is known which recording the file is.
fn is_answered(kind: IssueKind, is_known: bool) -> bool {
    kind == IssueKind::MissingMetadata && is_known
}

/// An issue of a file that nothing can be read of any more, with what was known of it before.
fn known_as(issue: Issue, before: &Variant) -> Issue {
    let (identity, tags) = (&before.identity, &before.measured.tags);
    let text = |own: String, known: &Option<String>| {
        if own.is_empty() { known.clone().unwrap_or_default() } else { own }
    };
    Issue {
        recording_id: issue.recording_id.or(identity.recording_id),
        release_id: issue.release_id.or(identity.release_id),
        artist: text(issue.artist, &tags.artist),
        album: text(issue.album, &tags.album),
        title: text(issue.title, &tags.title),
        ..issue
    }
}

fn inode_key(inode: (u64, u64)) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&inode.0.to_be_bytes());
    key[8..].copy_from_slice(&inode.1.to_be_bytes());
    key
}
