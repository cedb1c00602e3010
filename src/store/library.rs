//! The Doctor's tables: files and their state, measured copies, issues, scans, and what is still to be done.
//!
//! Decides how they lie in LMDB and what is one commit: a file's row, the copy it is, its issues and what they leave to
//! do for recording and release are there together or not at all. What is found, and what a rescan makes of it, is
//! `engine::library`'s.
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | `files-1` | path, a long one cut and hashed | [`FileRow`] |
//! | `file-inodes-1` | device, number | key of `files-1` |
//! | `variants-1` | recording, profile, 0, content hash | [`Variant`] without its fingerprint |
//! | `variant-keys-1` | content hash | key of `variants-1` |
//! | `variant-releases-1` | release, content hash | nothing |
//! | `prints-1` | content hash | fingerprint, words of 4 bytes |
//! | `fingerprints-1` | seconds, content hash | sketch |
//! | `issues-1` | status, severity, kind, path hash, id | [`Issue`] |
//! | `issue-keys-1` | id | key of `issues-1` |
//! | `scans-1` | newest first, id | [`Scan`] |
//! | `scan-keys-1` | id | key of `scans-1` |
//! | `canonical-1` | recording, profile | [`CanonicalStats`] |
//! | `doctor-todo-1` | what, id | nothing |
//!
//! A copy whose recording is not known has recording 0, which is no MusicBrainz id.

mod files;
mod issues;
mod scans;
#[cfg(test)]
mod tests;
mod variants;

use std::ops::Bound;

use heed::{RoTxn, RwTxn};

pub use self::files::{Carry, FileChange, Settled};
use super::StoreError;
use super::records::Record;
use super::tables::{Env, KEY_LEN, Table, open_table};
use crate::model::health::{CanonicalStats, FileRow, Issue, LocalPath, Scan, Variant};
use crate::model::id::ContentHash;

impl Record for FileRow {
    const NAME: &'static str = "file";
    const VERSION: u8 = 1;
}

impl Record for Variant {
    const NAME: &'static str = "variant";
    const VERSION: u8 = 1;
}

impl Record for Issue {
    const NAME: &'static str = "issue";
    const VERSION: u8 = 1;
}

impl Record for Scan {
    const NAME: &'static str = "scan";
    const VERSION: u8 = 1;
}

impl Record for CanonicalStats {
    const NAME: &'static str = "canonical statistics";
    const VERSION: u8 = 1;
}

/// Where a path is cut so that a byte no path ends in and the hash of the whole fit.
const PATH_CUT: usize = KEY_LEN - 33;

/// The tables of the Doctor.
#[derive(Clone, Copy, Debug)]
pub struct LibraryTables {
    files: Table,
    inodes: Table,
    variants: Table,
    variant_keys: Table,
    releases: Table,
    prints: Table,
    sketches: Table,
    issues: Table,
    issue_keys: Table,
    scans: Table,
    scan_keys: Table,
    canonical: Table,
    todo: Table,
}

impl LibraryTables {
    /// Opens the tables, and creates those that are not there.
    pub fn open(env: &Env, txn: &mut RwTxn<'_>) -> Result<Self, StoreError> {
        let mut table = |name| open_table(env, txn, name);
        Ok(Self {
            files: table("files-1")?,
            inodes: table("file-inodes-1")?,
            variants: table("variants-1")?,
            variant_keys: table("variant-keys-1")?,
            releases: table("variant-releases-1")?,
            prints: table("prints-1")?,
            sketches: table("fingerprints-1")?,
            issues: table("issues-1")?,
            issue_keys: table("issue-keys-1")?,
            scans: table("scans-1")?,
            scan_keys: table("scan-keys-1")?,
            canonical: table("canonical-1")?,
            todo: table("doctor-todo-1")?,
        })
    }

    /// The larger tables by name, for their sizes.
    pub(super) fn tables(&self) -> [(&'static str, Table); 5] {
        [
            ("files", self.files),
            ("variants", self.variants),
            ("issues", self.issues),
            ("canonical", self.canonical),
            ("doctor-todo", self.todo),
        ]
    }
}

/// Something still to be done after files were measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Todo {
    /// Copies of this recording changed: statistics and issues about them are old.
    Recording(u128),
    /// Files of this release changed.
    Release(u128),
    /// The recording of this copy is to be found out.
    Identify(ContentHash),
    /// A catalogue is to be asked about this recording when one can be.
    AskRecording(u128),
    /// A catalogue is to be asked about this release when one can be.
    AskRelease(u128),
    /// Peers are to be told what there is of this recording now.
    Tell(u128),
}

/// What kind of entry of the to-do table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TodoKind {
    /// [`Todo::Recording`].
    Recording,
    /// [`Todo::Release`].
    Release,
    /// [`Todo::Identify`].
    Identify,
    /// [`Todo::AskRecording`].
    AskRecording,
    /// [`Todo::AskRelease`].
    AskRelease,
    /// [`Todo::Tell`].
    Tell,
}

impl Todo {
    fn key(self) -> Vec<u8> {
        let (kind, id): (TodoKind, &[u8]) = match &self {
            Self::Recording(id) => (TodoKind::Recording, &id.to_be_bytes()),
            Self::Release(id) => (TodoKind::Release, &id.to_be_bytes()),
            Self::Identify(hash) => (TodoKind::Identify, &hash.0),
            Self::AskRecording(id) => (TodoKind::AskRecording, &id.to_be_bytes()),
            Self::AskRelease(id) => (TodoKind::AskRelease, &id.to_be_bytes()),
            Self::Tell(id) => (TodoKind::Tell, &id.to_be_bytes()),
        };
        let mut key = vec![kind as u8];
        key.extend_from_slice(id);
        key
    }

    fn parse(key: &[u8]) -> Option<Self> {
        let (kind, id) = key.split_first()?;
        let number = || Some(u128::from_be_bytes(id.try_into().ok()?));
        match *kind {
            0 => Some(Self::Recording(number()?)),
            1 => Some(Self::Release(number()?)),
            2 => Some(Self::Identify(ContentHash(id.try_into().ok()?))),
            3 => Some(Self::AskRecording(number()?)),
            4 => Some(Self::AskRelease(number()?)),
            5 => Some(Self::Tell(number()?)),
            _ => None,
        }
    }
}

impl LibraryTables {
    /// The next entries of this kind after one, at most `limit`.
    pub fn todo(
        &self,
        txn: &RoTxn<'_>,
        kind: TodoKind,
        after: Option<Todo>,
        limit: usize,
    ) -> Result<Vec<Todo>, StoreError> {
        let mut found = Vec::new();
        let from = after.map_or_else(
            || vec![kind as u8],
            |todo| {
                let mut key = todo.key();
                key.push(0);
                key
            },
        );
        for entry in self.todo.range(txn, &(Bound::Included(from.as_slice()), Bound::Unbounded))? {
            let (key, _) = entry?;
            if found.len() >= limit || key.first() != Some(&(kind as u8)) {
                break;
            }
            found.extend(Todo::parse(key));
        }
        Ok(found)
    }

    /// Notes that something is to be done.
    pub fn put_todo(&self, txn: &mut RwTxn<'_>, todo: Todo) -> Result<(), StoreError> {
        Ok(self.todo.put(txn, &todo.key(), &[])?)
    }

    /// It is done.
    pub fn remove_todo(&self, txn: &mut RwTxn<'_>, todo: Todo) -> Result<(), StoreError> {
        self.todo.delete(txn, &todo.key())?;
        Ok(())
    }
}

/// Key of a file's row.
fn path_key(path: &LocalPath) -> Vec<u8> {
    let path = &path.0;
    if path.len() <= KEY_LEN && !path.is_empty() {
        return path.clone();
    }
    let mut key = path[..path.len().min(PATH_CUT)].to_vec();
    key.push(0xff);
    key.extend_from_slice(blake3::hash(path).as_bytes());
    key
}

/// What the keys of everything in a folder begin with.
fn folder_prefix(folder: &[u8]) -> Vec<u8> {
    let mut prefix = folder.strip_suffix(b"/").unwrap_or(folder).to_vec();
    prefix.push(b'/');
    prefix.truncate(PATH_CUT);
    prefix
}

fn owned(bytes: Option<&[u8]>) -> Option<Vec<u8>> {
    bytes.map(<[u8]>::to_vec)
}

fn damaged(record: &'static str, reason: &str) -> StoreError {
    StoreError::RecordDamaged { record, reason: reason.to_owned() }
}
