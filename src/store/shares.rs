//! The share index: which files we share, under which names, and which words their paths have.
//!
//! Decides how the index lies in LMDB and how a batch of changes becomes one commit after which searches see all of
//! it. What is shared, and when the disk is looked at, is decided by `app::sharing`; how a query finds files, by
//! `engine::soulseek::shares`.
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | `shares-roots-1` | root id | [`RootRecord`] |
//! | `shares-folders-1` | folder id | folder record: root, virtual path, local path below the root |
//! | `shares-paths-1` | virtual path of a folder | folder id |
//! | `shares-files-1` | folder id, advertised name | file record: id, size, time, attributes, local name |
//! | `shares-ids-1` | file id | key of `shares-files-1` |
//! | `shares-words-1` | block, word | list of files (`engine::soulseek::shares::List`) |
//! | `shares-counters-1` | name | number |
//!
//! Ids are big-endian `u32`. The block comes before the word so that new files, which get neighbouring ids, touch
//! neighbouring pages. Two kinds of keys in `shares-words-1` are no words: the empty one lists every file of the
//! block, and one per root (it begins with a zero byte) lists the files of that root. A name too long for a key is cut
//! and ends in its hash; the whole name is then in the record.

mod apply;
mod read;
mod record;

use heed::{RoTxn, RwTxn};

pub use self::apply::{FolderPlace, ScannedFile, ShareChange};
pub use self::read::{FoundFile, KnownFile, KnownFolder, ShareReader};
pub use self::record::RootRecord;
use super::StoreError;
use super::records;
use super::tables::{Env, Table, open_table};
use crate::model::time::UnixMs;

/// Longest key we make; LMDB takes 511 bytes.
const KEY_LEN: usize = 480;
/// Where a longer name is cut, so that a byte that is in no UTF-8 text and the hash of the whole fit.
const KEY_CUT: usize = KEY_LEN - 33;

/// Numbers kept beside the tables.
mod counter {
    /// Rises with every commit that changes what others see.
    pub(super) const GENERATION: &[u8] = b"generation";
    /// The generation of which the browse reply file was made.
    pub(super) const LISTED: &[u8] = b"listed";
    /// End of the last complete scan, Unix milliseconds.
    pub(super) const SCANNED_AT: &[u8] = b"scanned-at";
    /// Next folder id.
    pub(super) const NEXT_FOLDER: &[u8] = b"next-folder";
    /// No block below this one has a free file id.
    pub(super) const FREE_BLOCK: &[u8] = b"free-block";
}

/// The tables of the share index.
#[derive(Clone, Copy, Debug)]
pub struct ShareTables {
    roots: Table,
    folders: Table,
    paths: Table,
    files: Table,
    ids: Table,
    words: Table,
    counters: Table,
}

impl ShareTables {
    /// Opens the tables, and creates those that are not there.
    pub fn open(env: &Env, txn: &mut RwTxn<'_>) -> Result<Self, StoreError> {
        let mut table = |name| open_table(env, txn, name);
        Ok(Self {
            roots: table("shares-roots-1")?,
            folders: table("shares-folders-1")?,
            paths: table("shares-paths-1")?,
            files: table("shares-files-1")?,
            ids: table("shares-ids-1")?,
            words: table("shares-words-1")?,
            counters: table("shares-counters-1")?,
        })
    }

    /// The larger tables by name, for their sizes.
    pub(super) fn tables(&self) -> [(&'static str, Table); 3] {
        [("shares-folders", self.folders), ("shares-files", self.files), ("shares-words", self.words)]
    }

    /// The index as it is in this transaction.
    pub fn reader<'t>(&'t self, txn: &'t RoTxn<'t>) -> Result<ShareReader<'t>, StoreError> {
        ShareReader::new(self, txn)
    }

    /// The roots by id, those away included.
    pub fn roots(&self, txn: &RoTxn<'_>) -> Result<Vec<(u32, RootRecord)>, StoreError> {
        let mut roots = Vec::new();
        for entry in self.roots.iter(txn)? {
            let (key, value) = entry?;
            roots.push((record::id(key)?, records::decode(value)?));
        }
        Ok(roots)
    }

    /// Adds a root without files, or changes what is known of one. Counts of an existing root are kept.
    pub fn put_root(
        &self,
        txn: &mut RwTxn<'_>,
        id: u32,
        alias: &str,
        local_path: &[u8],
        present: bool,
    ) -> Result<(), StoreError> {
        let mut root = self.root(txn, id)?.unwrap_or_default();
        if root.present != present {
            self.bump(txn)?;
        }
        alias.clone_into(&mut root.alias);
        local_path.clone_into(&mut root.local_path);
        root.present = present;
        self.roots.put(txn, &id.to_be_bytes(), &records::encode(&root)?)?;
        Ok(())
    }

    /// Forgets a root that has no files any more. With files it stays, and the answer is `false`.
    pub fn remove_root(&self, txn: &mut RwTxn<'_>, id: u32) -> Result<bool, StoreError> {
        match self.root(txn, id)? {
            Some(root) if root.files > 0 => Ok(false),
            _ => {
                self.roots.delete(txn, &id.to_be_bytes())?;
                self.bump(txn)?;
                Ok(true)
            }
        }
    }

    fn root(&self, txn: &RoTxn<'_>, id: u32) -> Result<Option<RootRecord>, StoreError> {
        self.roots.get(txn, &id.to_be_bytes())?.map(records::decode).transpose()
    }

    /// A number that changes with every change of what others see.
    pub fn generation(&self, txn: &RoTxn<'_>) -> Result<u64, StoreError> {
        Ok(self.counter(txn, counter::GENERATION)?.unwrap_or(0))
    }

    /// The generation of which the browse reply file was made last.
    pub fn listed(&self, txn: &RoTxn<'_>) -> Result<Option<u64>, StoreError> {
        self.counter(txn, counter::LISTED)
    }

    /// Notes of which generation the browse reply file is.
    pub fn set_listed(&self, txn: &mut RwTxn<'_>, generation: u64) -> Result<(), StoreError> {
        self.set_counter(txn, counter::LISTED, generation)
    }

    /// End of the last complete scan.
    pub fn scanned_at(&self, txn: &RoTxn<'_>) -> Result<Option<UnixMs>, StoreError> {
        Ok(self.counter(txn, counter::SCANNED_AT)?.map(UnixMs))
    }

    /// Notes the end of a complete scan.
    pub fn set_scanned_at(&self, txn: &mut RwTxn<'_>, at: UnixMs) -> Result<(), StoreError> {
        self.set_counter(txn, counter::SCANNED_AT, at.0)
    }

    fn bump(&self, txn: &mut RwTxn<'_>) -> Result<(), StoreError> {
        let generation = self.generation(txn)?.wrapping_add(1);
        self.set_counter(txn, counter::GENERATION, generation)
    }

    fn counter(&self, txn: &RoTxn<'_>, name: &[u8]) -> Result<Option<u64>, StoreError> {
        let Some(value) = self.counters.get(txn, name)? else { return Ok(None) };
        let number = value.try_into().map(u64::from_be_bytes);
        number.map(Some).map_err(|_| record::damaged("share counter", "not 8 bytes"))
    }

    fn set_counter(&self, txn: &mut RwTxn<'_>, name: &[u8], value: u64) -> Result<(), StoreError> {
        Ok(self.counters.put(txn, name, &value.to_be_bytes())?)
    }
}

/// `prefix` and a name, cut where it would not fit; the second value says whether it was.
fn name_key(prefix: &[u8], name: &str) -> (Vec<u8>, bool) {
    let mut key = Vec::with_capacity(KEY_LEN);
    key.extend_from_slice(prefix);
    let room = KEY_LEN - prefix.len();
    if name.len() <= room {
        key.extend_from_slice(name.as_bytes());
        (key, false)
    } else {
        key.extend_from_slice(&name.as_bytes()[..KEY_CUT - prefix.len()]);
        key.push(0xff);
        key.extend_from_slice(blake3::hash(name.as_bytes()).as_bytes());
        (key, true)
    }
}

/// Key of a list.
fn word_key(block: u32, word: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(4 + word.len());
    key.extend_from_slice(&block.to_be_bytes());
    key.extend_from_slice(word.as_bytes());
    key
}

/// Stands for the word that every file of a root has.
fn root_word(root: u32) -> String {
    format!("\0{root:08x}")
}

/// Stands for the word that every file has.
const EVERY_FILE: &str = "";
