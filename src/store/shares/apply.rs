//! One batch of changes, in one commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use heed::RwTxn;

use super::record::{self, FileRecord, FolderRecord, RootRecord};
use super::{EVERY_FILE, ShareTables, counter, name_key, root_word, word_key};
use crate::engine::soulseek::shares::{BLOCK_IDS, Bits, List, words};
use crate::model::limits;
use crate::model::music::Attributes;
use crate::store::StoreError;
use crate::store::records;

/// A folder as the scanner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderPlace {
    /// Which root it is in.
    pub root: u32,
    /// Virtual path, at most [`limits::PATH_LEN`] bytes with the file's name.
    pub path: String,
    /// Path on the disk below the root, without a leading slash; empty for the root itself.
    pub local: Vec<u8>,
}

/// A file as the scanner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedFile {
    /// Advertised name, without backslash.
    pub name: String,
    /// Name on the disk, where it is not the same bytes.
    pub local_name: Option<Vec<u8>>,
    /// Bytes.
    pub size: u64,
    /// Time of the last change, nanoseconds since 1970, as the file system says.
    pub mtime_ns: i64,
    /// From its header.
    pub attributes: Attributes,
}

/// One change of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShareChange {
    /// New, or known by folder and name and changed.
    Put(Arc<FolderPlace>, ScannedFile),
    /// Gone. An id that is not there is ignored.
    Remove(u32),
}

impl ShareTables {
    /// Makes all changes in this transaction, removals first. Says how many new files were left out because
    /// [`limits::SHARED_FILES`] is reached.
    pub fn apply(&self, txn: &mut RwTxn<'_>, changes: &[ShareChange]) -> Result<usize, StoreError> {
        let mut batch = Batch::new(self, txn)?;
        for change in changes {
            if let ShareChange::Remove(id) = change {
                batch.remove(txn, *id)?;
            }
        }
        let mut left_out = 0;
        for change in changes {
            if let ShareChange::Put(place, file) = change
                && !batch.put(txn, place, file)?
            {
                left_out += 1;
            }
        }
        batch.finish(txn)?;
        Ok(left_out)
    }
}

/// What a batch has read and changed and not written yet.
struct Batch<'t> {
    tables: &'t ShareTables,
    roots: BTreeMap<u32, RootRecord>,
    folders: BTreeMap<u32, FolderRecord>,
    /// Folder ids by virtual path, of this batch.
    paths: BTreeMap<String, u32>,
    /// Files that come and go, by block and word: number, and whether it comes.
    lists: BTreeMap<(u32, String), Vec<(u32, bool)>>,
    /// All files of the blocks looked at.
    blocks: BTreeMap<u32, Bits>,
    free_block: u32,
    next_folder: u32,
    changed: bool,
}

impl<'t> Batch<'t> {
    fn new(tables: &'t ShareTables, txn: &RwTxn<'_>) -> Result<Self, StoreError> {
        let number = |name| -> Result<u32, StoreError> {
            let value = tables.counter(txn, name)?.unwrap_or(0);
            u32::try_from(value).map_err(|_| record::damaged("share counter", "out of range"))
        };
        Ok(Self {
            tables,
            roots: tables.roots(txn)?.into_iter().collect(),
            folders: BTreeMap::new(),
            paths: BTreeMap::new(),
            lists: BTreeMap::new(),
            blocks: BTreeMap::new(),
            free_block: number(counter::FREE_BLOCK)?,
            next_folder: number(counter::NEXT_FOLDER)?,
            changed: false,
        })
    }

    fn remove(&mut self, txn: &mut RwTxn<'_>, id: u32) -> Result<(), StoreError> {
        let Some(key) = self.tables.ids.get(txn, &id.to_be_bytes())?.map(<[u8]>::to_vec) else { return Ok(()) };
        let Some(value) = self.tables.files.get(txn, &key)? else { return Err(record::damaged("share file", "gone")) };
        let file: FileRecord = records::decode(value)?;
        let (folder_id, name) = split_key(&key, &file)?;
        let name = name.to_owned();
        self.tables.files.delete(txn, &key)?;
        self.tables.ids.delete(txn, &id.to_be_bytes())?;

        let folder = self.folder(txn, folder_id)?;
        folder.files = folder.files.saturating_sub(1);
        let (root_id, path) = (folder.root, format!("{}\\{name}", folder.path));
        self.note(id, root_id, &path, false);
        let root = self.roots.entry(root_id).or_default();
        root.files = root.files.saturating_sub(1);
        root.bytes = root.bytes.saturating_sub(file.size);

        let block = id / BLOCK_IDS;
        self.block(txn, block)?.remove(id % BLOCK_IDS);
        self.free_block = self.free_block.min(block);
        Ok(())
    }

    fn put(&mut self, txn: &mut RwTxn<'_>, place: &FolderPlace, scanned: &ScannedFile) -> Result<bool, StoreError> {
        let known = self.folder_id(txn, &place.path)?;
        let mut old: Option<FileRecord> = None;
        if let Some(folder_id) = known {
            let (key, _) = name_key(&folder_id.to_be_bytes(), &scanned.name);
            old = self.tables.files.get(txn, &key)?.map(records::decode).transpose()?;
        }
        let total: usize = self.roots.values().map(|root| root.files as usize).sum();
        if old.is_none() && total >= limits::SHARED_FILES {
            return Ok(false);
        }
        let folder_id = match known {
            Some(id) => id,
            None => self.new_folder(place)?,
        };
        let folder = self.folder(txn, folder_id)?;
        folder.local.clone_from(&place.local);
        let root_id = folder.root;
        let id = match &old {
            Some(old) => old.id,
            None => self.new_file(txn, folder_id, root_id, &scanned.name)?,
        };
        let (key, cut) = name_key(&folder_id.to_be_bytes(), &scanned.name);
        let file = FileRecord {
            id,
            size: scanned.size,
            mtime_ns: scanned.mtime_ns,
            attributes: scanned.attributes,
            local: scanned.local_name.clone(),
            long_name: cut.then(|| scanned.name.clone()),
        };
        self.tables.files.put(txn, &key, &records::encode(&file)?)?;
        self.tables.ids.put(txn, &id.to_be_bytes(), &key)?;
        let root = self.roots.entry(root_id).or_default();
        root.bytes = root.bytes.saturating_sub(old.map_or(0, |old| old.size)).saturating_add(scanned.size);
        self.changed = true;
        Ok(true)
    }

    fn new_folder(&mut self, place: &FolderPlace) -> Result<u32, StoreError> {
        let id = self.next_folder;
        let full = || StoreError::Refused("the share index has used up its folder numbers".to_owned());
        self.next_folder = id.checked_add(1).ok_or_else(full)?;
        let record = FolderRecord { root: place.root, path: place.path.clone(), local: place.local.clone(), files: 0 };
        self.folders.insert(id, record);
        self.paths.insert(place.path.clone(), id);
        let root = self.roots.entry(place.root).or_default();
        root.folders = root.folders.saturating_add(1);
        Ok(id)
    }

    fn new_file(&mut self, txn: &RwTxn<'_>, folder_id: u32, root_id: u32, name: &str) -> Result<u32, StoreError> {
        let id = loop {
            let block = self.free_block;
            let bits = self.block(txn, block)?;
            if let Some(number) = bits.first_free() {
                bits.insert(number);
                break block.saturating_mul(BLOCK_IDS).saturating_add(number);
            }
            // Bounded: `limits::SHARED_FILES` fill 245 blocks.
            self.free_block = block.saturating_add(1);
        };
        let folder = self.folder(txn, folder_id)?;
        folder.files = folder.files.saturating_add(1);
        let path = format!("{}\\{name}", folder.path);
        self.note(id, root_id, &path, true);
        let root = self.roots.entry(root_id).or_default();
        root.files = root.files.saturating_add(1);
        Ok(id)
    }

    /// The file comes into, or leaves, the lists of its words.
    fn note(&mut self, id: u32, root: u32, path: &str, comes: bool) {
        self.changed = true;
        for word in words(path).chain([root_word(root)]) {
            self.lists.entry((id / BLOCK_IDS, word)).or_default().push((id % BLOCK_IDS, comes));
        }
    }

    fn folder_id(&mut self, txn: &RwTxn<'_>, path: &str) -> Result<Option<u32>, StoreError> {
        if let Some(&id) = self.paths.get(path) {
            return Ok(Some(id));
        }
        let found = self.tables.paths.get(txn, &name_key(&[], path).0)?.map(record::id).transpose()?;
        if let Some(id) = found {
            self.paths.insert(path.to_owned(), id);
        }
        Ok(found)
    }

    fn folder(&mut self, txn: &RwTxn<'_>, id: u32) -> Result<&mut FolderRecord, StoreError> {
        match self.folders.entry(id) {
            std::collections::btree_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::btree_map::Entry::Vacant(slot) => {
                let value = self.tables.folders.get(txn, &id.to_be_bytes())?;
                let value = value.ok_or_else(|| record::damaged("share folder", "gone"))?;
                Ok(slot.insert(records::decode(value)?))
            }
        }
    }

    fn block(&mut self, txn: &RwTxn<'_>, block: u32) -> Result<&mut Bits, StoreError> {
        match self.blocks.entry(block) {
            std::collections::btree_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::btree_map::Entry::Vacant(slot) => {
                let value = self.tables.words.get(txn, &word_key(block, EVERY_FILE))?;
                Ok(slot.insert(value.map(|bytes| List::new(bytes).bits()).unwrap_or_default()))
            }
        }
    }

    fn finish(self, txn: &mut RwTxn<'_>) -> Result<(), StoreError> {
        let words = self.tables.words;
        let write = |txn: &mut RwTxn<'_>, key: &[u8], bits: &Bits| -> Result<(), StoreError> {
            if bits.is_empty() {
                words.delete(txn, key)?;
            } else {
                words.put(txn, key, &bits.encode())?;
            }
            Ok(())
        };
        for ((block, word), numbers) in self.lists {
            let key = word_key(block, &word);
            let mut bits = words.get(txn, &key)?.map(|bytes| List::new(bytes).bits()).unwrap_or_default();
            for (number, comes) in numbers {
                if comes {
                    bits.insert(number);
                } else {
                    bits.remove(number);
                }
            }
            write(txn, &key, &bits)?;
        }
        for (block, bits) in &self.blocks {
            write(txn, &word_key(*block, EVERY_FILE), bits)?;
        }
        let mut roots = self.roots;
        for (id, folder) in self.folders {
            let path_key = name_key(&[], &folder.path).0;
            if folder.files == 0 {
                self.tables.folders.delete(txn, &id.to_be_bytes())?;
                self.tables.paths.delete(txn, &path_key)?;
                let root = roots.entry(folder.root).or_default();
                root.folders = root.folders.saturating_sub(1);
            } else {
                self.tables.folders.put(txn, &id.to_be_bytes(), &records::encode(&folder)?)?;
                self.tables.paths.put(txn, &path_key, &id.to_be_bytes())?;
            }
        }
        for (id, root) in roots {
            self.tables.roots.put(txn, &id.to_be_bytes(), &records::encode(&root)?)?;
        }
        self.tables.set_counter(txn, counter::FREE_BLOCK, u64::from(self.free_block))?;
        self.tables.set_counter(txn, counter::NEXT_FOLDER, u64::from(self.next_folder))?;
        if self.changed { self.tables.bump(txn) } else { Ok(()) }
    }
}

/// Folder and advertised name of a file, from its key and record.
pub(super) fn split_key<'k>(key: &'k [u8], file: &'k FileRecord) -> Result<(u32, &'k str), StoreError> {
    let (folder, name) = key.split_at_checked(4).ok_or_else(|| record::damaged("share file", "short key"))?;
    let name = match &file.long_name {
        Some(name) => name,
        None => std::str::from_utf8(name).map_err(|error| record::damaged("share file", &error))?,
    };
    Ok((record::id(folder)?, name))
}
