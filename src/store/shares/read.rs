//! Questions to the index.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use heed::RoTxn;

use super::apply::split_key;
use super::record::{self, FileRecord, FolderRecord, RootRecord};
use super::{KEY_CUT, ShareTables, name_key, root_word, word_key};
use crate::engine::soulseek::peer::{RemoteFile, RemoteFolder};
use crate::engine::soulseek::shares::{Bits, List, Phrases, Postings, Query, search};
use crate::model::music::{Attributes, ShareCounts, SharedFile, WireText};
use crate::store::StoreError;
use crate::store::records;

/// Files of one answer about a folder; what lies behind them is left out. Chosen: a reply of about 1 MiB.
const FOLDER_FILES: usize = 10_000;

/// A shared file on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    /// The shared folder it must lie in.
    pub root_path: PathBuf,
    /// Where it is.
    pub local_path: PathBuf,
    /// Indexed size in bytes.
    pub size: u64,
}

/// A folder as the index knows it, for comparison with the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownFolder {
    /// Path on the disk below the root.
    pub local: Vec<u8>,
    /// Its files by advertised name.
    pub files: BTreeMap<String, KnownFile>,
}

/// A file as the index knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFile {
    /// Its id.
    pub id: u32,
    /// Bytes.
    pub size: u64,
    /// As in `ScannedFile`.
    pub mtime_ns: i64,
    /// Name on the disk, where it is not the advertised one.
    pub local_name: Option<Vec<u8>>,
}

/// The index at one moment. Short-lived: it holds a read transaction.
pub struct ShareReader<'t> {
    tables: &'t ShareTables,
    txn: &'t RoTxn<'t>,
    roots: BTreeMap<u32, RootRecord>,
    /// Words of the roots that are away.
    away: Vec<String>,
    /// The folder read last: neighbours in a list often share it.
    folder: RefCell<Option<(u32, Rc<FolderRecord>)>>,
}

impl<'t> ShareReader<'t> {
    pub(super) fn new(tables: &'t ShareTables, txn: &'t RoTxn<'t>) -> Result<Self, StoreError> {
        let roots: BTreeMap<u32, RootRecord> = tables.roots(txn)?.into_iter().collect();
        let away = roots.iter().filter(|(_, root)| !root.present).map(|(&id, _)| root_word(id)).collect();
        Ok(Self { tables, txn, roots, away, folder: RefCell::new(None) })
    }

    /// The roots by id, those away included.
    pub fn roots(&self) -> &BTreeMap<u32, RootRecord> {
        &self.roots
    }

    /// Folders and files that others can see.
    pub fn counts(&self) -> ShareCounts {
        let present = || self.roots.values().filter(|root| root.present);
        ShareCounts {
            folders: present().map(|root| root.folders).fold(0, u32::saturating_add),
            files: present().map(|root| root.files).fold(0, u32::saturating_add),
        }
    }

    /// Bytes of the files that others can see.
    pub fn bytes(&self) -> u64 {
        self.roots.values().filter(|root| root.present).map(|root| root.bytes).fold(0, u64::saturating_add)
    }

    /// Files that answer a query, at most `limit`.
    pub fn search(&self, query: &Query, phrases: &Phrases, limit: usize) -> Result<Vec<SharedFile>, StoreError> {
        search(self, query, phrases, limit)
    }

    /// The file advertised under exactly this path. Nothing is joined from the asked path: it is only looked up.
    pub fn find(&self, path: &WireText) -> Result<Option<FoundFile>, StoreError> {
        let Some((folder_path, name)) = path.as_str().rsplit_once('\\') else { return Ok(None) };
        let Some((folder_id, folder)) = self.folder_by_path(folder_path)? else { return Ok(None) };
        let Some(root) = self.present(folder.root) else { return Ok(None) };
        let Some(value) = self.tables.files.get(self.txn, &name_key(&folder_id.to_be_bytes(), name).0)? else {
            return Ok(None);
        };
        let file: FileRecord = records::decode(value)?;
        let root_path = PathBuf::from(OsStr::from_bytes(&root.local_path));
        let mut local_path = root_path.join(OsStr::from_bytes(&folder.local));
        local_path.push(OsStr::from_bytes(file.local.as_deref().unwrap_or(name.as_bytes())));
        Ok(Some(FoundFile { root_path, local_path, size: file.size }))
    }

    /// The file that lies at this path of the disk, if it is advertised. One whose name others see differently from how
    /// the disk has it is not found this way.
    pub fn find_local(&self, path: &Path) -> Result<Option<FoundFile>, StoreError> {
        for root in self.roots.values().filter(|root| root.present) {
            let Ok(inside) = path.strip_prefix(OsStr::from_bytes(&root.local_path)) else { continue };
            let Some(inside) = inside.to_str() else { continue };
            let virtual_path = format!("{}\\{}", root.alias, inside.replace('/', "\\"));
            let found = self.find(&WireText::from(virtual_path))?;
            if let Some(found) = found.filter(|found| found.local_path == path) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// A folder and those below it, with their files; at most about [`FOLDER_FILES`] of them. Empty if not shared.
    pub fn folder(&self, path: &str) -> Result<Vec<RemoteFolder>, StoreError> {
        let mut found = Vec::new();
        let mut files = 0;
        if let Some((id, folder)) = self.folder_by_path(path)?
            && self.present(folder.root).is_some()
        {
            found.push(self.listing(id, &folder)?);
            files = found.iter().map(|folder| folder.files.len()).sum();
        }
        self.below(path, &mut |id, folder| {
            if self.present(folder.root).is_some() {
                let listing = self.listing(id, folder)?;
                files += listing.files.len();
                found.push(listing);
            }
            Ok(files < FOLDER_FILES)
        })?;
        Ok(found)
    }

    /// The next folders that others can see, in the order of their paths, behind `after`; ends after the folder with
    /// which `files_max` files are reached. Empty at the end. So a long walk needs no long transaction.
    pub fn browse(&self, after: Option<&str>, files_max: usize) -> Result<Vec<RemoteFolder>, StoreError> {
        let mut found = Vec::new();
        let mut files = 0;
        self.walk(after, &mut |id, folder| {
            if self.present(folder.root).is_some() {
                let listing = self.listing(id, folder)?;
                // An empty folder would never end a walk by its files.
                files += listing.files.len().max(1);
                found.push(listing);
            }
            Ok(files < files_max)
        })?;
        Ok(found)
    }

    /// Folders that others can see, of one root or all: those from `offset` on, at most `limit`, and how many there
    /// are.
    pub fn page(
        &self,
        root: Option<u32>,
        offset: usize,
        limit: usize,
    ) -> Result<(Vec<RemoteFolder>, usize), StoreError> {
        let mut rows = Vec::new();
        let mut at = 0;
        let mut look = |id, folder: &Rc<FolderRecord>| {
            if self.present(folder.root).is_some() {
                if at >= offset && rows.len() < limit {
                    rows.push(self.listing(id, folder)?);
                }
                at += 1;
            }
            Ok(rows.len() < limit)
        };
        let total = match root {
            None => {
                self.walk(None, &mut look)?;
                self.counts().folders
            }
            Some(id) => {
                let Some(root) = self.present(id) else { return Ok((Vec::new(), 0)) };
                let more = match self.folder_by_path(&root.alias)? {
                    Some((id, folder)) => look(id, &folder)?,
                    None => true,
                };
                if more {
                    self.below(&root.alias, &mut look)?;
                }
                root.folders
            }
        };
        Ok((rows, total as usize))
    }

    /// What the index knows of one folder; nothing where it does not know it.
    pub fn known_folder(&self, path: &str) -> Result<KnownFolder, StoreError> {
        let Some((id, folder)) = self.folder_by_path(path)? else { return Ok(KnownFolder::default()) };
        let mut known = KnownFolder { local: folder.local.clone(), files: BTreeMap::new() };
        self.files(id, &mut |name, file| {
            let (id, size, mtime_ns) = (file.id, file.size, file.mtime_ns);
            let file = KnownFile { id, size, mtime_ns, local_name: file.local.clone() };
            known.files.insert(name.to_owned(), file);
        })?;
        Ok(known)
    }

    /// Virtual paths of the folders at and below a path, behind `after`, at most `limit`; those away included.
    pub fn paths_below(&self, path: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        let mut found = Vec::new();
        if after.is_none() && self.folder_by_path(path)?.is_some() {
            found.push(path.to_owned());
        }
        let after = after.filter(|after| *after != path);
        self.below_from(path, after, &mut |_, folder| {
            found.push(folder.path.clone());
            Ok(found.len() < limit)
        })?;
        Ok(found)
    }

    /// Ids of files of a root, lowest first, at most `limit`.
    pub fn root_files(&self, root: u32, limit: usize) -> Result<Vec<u32>, StoreError> {
        let word = root_word(root);
        let mut ids = Vec::new();
        let mut from = Some(0);
        while let Some(block) = from.map(|from| self.next_block(from)).transpose()?.flatten() {
            from = block.checked_add(1);
            if let Some(list) = self.list(block, &word)? {
                let base = block.saturating_mul(crate::engine::soulseek::shares::BLOCK_IDS);
                ids.extend(list.bits().iter().map(|number| base.saturating_add(number)).take(limit - ids.len()));
            }
            if ids.len() >= limit {
                break;
            }
        }
        Ok(ids)
    }

    fn present(&self, root: u32) -> Option<&RootRecord> {
        self.roots.get(&root).filter(|root| root.present)
    }

    fn folder_by_path(&self, path: &str) -> Result<Option<(u32, Rc<FolderRecord>)>, StoreError> {
        // An empty key is an error to LMDB, and the path may come from anybody.
        if path.is_empty() {
            return Ok(None);
        }
        let Some(value) = self.tables.paths.get(self.txn, &name_key(&[], path).0)? else { return Ok(None) };
        let id = record::id(value)?;
        Ok(Some((id, self.folder_by_id(id)?)))
    }

    fn folder_by_id(&self, id: u32) -> Result<Rc<FolderRecord>, StoreError> {
        let mut last = self.folder.borrow_mut();
        match &*last {
            Some((last, folder)) if *last == id => Ok(Rc::clone(folder)),
            _ => {
                let value = self.tables.folders.get(self.txn, &id.to_be_bytes())?;
                let value = value.ok_or_else(|| record::damaged("share folder", "gone"))?;
                let folder: Rc<FolderRecord> = Rc::new(records::decode(value)?);
                *last = Some((id, Rc::clone(&folder)));
                Ok(folder)
            }
        }
    }

    /// Folders by path behind `after`, until `look` says `false`.
    fn walk(&self, after: Option<&str>, look: &mut Look<'_>) -> Result<(), StoreError> {
        let from = after.map(|after| name_key(&[], after).0);
        let from = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        for entry in self.tables.paths.range(self.txn, &(from, Bound::Unbounded))? {
            let id = record::id(entry?.1)?;
            if !look(id, &self.folder_by_id(id)?)? {
                break;
            }
        }
        Ok(())
    }

    fn below(&self, path: &str, look: &mut Look<'_>) -> Result<(), StoreError> {
        self.below_from(path, None, look)
    }

    /// Folders below a path (not itself), behind `after`, until `look` says `false`.
    fn below_from(&self, path: &str, after: Option<&str>, look: &mut Look<'_>) -> Result<(), StoreError> {
        let prefix = format!("{path}\\");
        // Keys of longer paths are cut at `KEY_CUT`; the record decides then.
        let key_prefix = &prefix.as_bytes()[..prefix.len().min(KEY_CUT)];
        let from = after.map(|after| name_key(&[], after).0);
        let from = from.as_deref().map_or(Bound::Included(key_prefix), Bound::Excluded);
        for entry in self.tables.paths.range(self.txn, &(from, Bound::Unbounded))? {
            let (key, value) = entry?;
            if !key.starts_with(key_prefix) {
                break;
            }
            let id = record::id(value)?;
            let folder = self.folder_by_id(id)?;
            if folder.path.starts_with(&prefix) && !look(id, &folder)? {
                break;
            }
        }
        Ok(())
    }

    fn files(&self, folder: u32, look: &mut dyn FnMut(&str, &FileRecord)) -> Result<(), StoreError> {
        for entry in self.tables.files.prefix_iter(self.txn, &folder.to_be_bytes())? {
            let (key, value) = entry?;
            let file: FileRecord = records::decode(value)?;
            look(split_key(key, &file)?.1, &file);
        }
        Ok(())
    }

    fn listing(&self, id: u32, folder: &FolderRecord) -> Result<RemoteFolder, StoreError> {
        let mut files = Vec::with_capacity(folder.files as usize);
        self.files(id, &mut |name, file| files.push(remote_file(name, file)))?;
        Ok(RemoteFolder { name: WireText::from(folder.path.as_str()), files })
    }
}

type Look<'l> = dyn FnMut(u32, &Rc<FolderRecord>) -> Result<bool, StoreError> + 'l;

impl Postings for ShareReader<'_> {
    type Error = StoreError;

    fn next_block(&self, from: u32) -> Result<Option<u32>, StoreError> {
        let from = from.to_be_bytes();
        let range = (Bound::Included(&from[..]), Bound::Unbounded);
        let Some((key, _)) = self.tables.words.range(self.txn, &range)?.next().transpose()? else { return Ok(None) };
        let (block, _) = key.split_at_checked(4).ok_or_else(|| record::damaged("share list", "short key"))?;
        record::id(block).map(Some)
    }

    fn list(&self, block: u32, word: &str) -> Result<Option<List<'_>>, StoreError> {
        Ok(self.tables.words.get(self.txn, &word_key(block, word))?.map(List::new))
    }

    fn hidden(&self, block: u32) -> Result<Option<Bits>, StoreError> {
        let mut hidden: Option<Bits> = None;
        for word in &self.away {
            if let Some(list) = self.list(block, word)? {
                hidden.get_or_insert_default().join(&list.bits());
            }
        }
        Ok(hidden)
    }

    fn file(&self, id: u32) -> Result<Option<SharedFile>, StoreError> {
        let Some(key) = self.tables.ids.get(self.txn, &id.to_be_bytes())? else { return Ok(None) };
        let Some(value) = self.tables.files.get(self.txn, key)? else { return Ok(None) };
        let file: FileRecord = records::decode(value)?;
        let (folder, name) = split_key(key, &file)?;
        let folder = self.folder_by_id(folder)?;
        Ok(Some(SharedFile { path: format!("{}\\{name}", folder.path), size: file.size, attributes: file.attributes }))
    }
}

fn remote_file(name: &str, file: &FileRecord) -> RemoteFile {
    RemoteFile {
        code: 1,
        name: WireText::from(name),
        size: file.size,
        extension: WireText::default(),
        attributes: attribute_pairs(&file.attributes),
    }
}

/// Attributes with their codes on the wire, rising.
fn attribute_pairs(known: &Attributes) -> Vec<(u32, u32)> {
    let codes = [
        (0, known.bitrate_kbps),
        (1, known.duration_s),
        (2, known.vbr.map(u32::from)),
        (4, known.sample_rate_hz),
        (5, known.bit_depth),
    ];
    codes.into_iter().filter_map(|(code, value)| Some((code, value?))).collect()
}
