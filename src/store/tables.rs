//! Tables: names, keys and formats.
//!
//! A table carries its version in its name (DECISIONS 14). Keys are big-endian composites that sort as the common
//! listing, so a page of a list is a range scan. A room with tables of its own keeps them in a struct with an
//! `open(env, txn)` like [`Tables::open`], as a field of [`Tables`], and adds their sizes to [`Tables::sizes`].

use heed::types::Bytes;
use heed::{Database, RoTxn, RwTxn, WithoutTls};

use super::StoreError;
use super::catalog::CatalogTables;
use super::gossip::GossipTables;
use super::jobs::JobTables;
use super::library::LibraryTables;
use super::mesh::MeshTables;
use super::repair::RepairTables;
use super::rescue::RescueTables;
use super::shares::ShareTables;
use super::traces::TraceTables;
use crate::model::id::{BatchId, TransferId, Username};
use crate::model::record::{Batch, PrivateMessage};
use crate::model::transfer::{Direction, Transfer};

/// The environment. Read transactions are not tied to threads.
pub type Env = heed::Env<WithoutTls>;
/// A table of bytes under bytes; `records` gives values their types.
pub type Table = Database<Bytes, Bytes>;

/// Names the environment has room for.
pub(super) const TABLES_MAX: u32 = 80;
/// LMDB's longest key, bytes.
pub const KEY_LEN: usize = 511;

/// Opens a table, making it first if it is not there.
pub fn open_table(env: &Env, txn: &mut RwTxn<'_>, name: &str) -> Result<Table, StoreError> {
    Ok(env.create_database(txn, Some(name))?)
}

/// All tables. Handles are numbers: copying is free.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// [`transfer_key`] → `Transfer`.
    pub transfers: Table,
    /// Transfer id → its key in `transfers`.
    pub transfer_keys: Table,
    /// Name → `u64` big-endian: how many finished transfers each direction has.
    pub counts: Table,
    /// [`message_key`] → `PrivateMessage`.
    pub messages: Table,
    /// [`user_key`] → `Conversation`.
    pub conversations: Table,
    /// Wish id, big-endian → `Wish`.
    pub wishes: Table,
    /// [`batch_key`] → `Batch`.
    pub batches: Table,
    /// Batch id → its key in `batches`.
    pub batch_keys: Table,
    /// Name → version byte and value.
    pub settings: Table,
    /// The share index.
    pub shares: ShareTables,
    /// The Doctor's.
    pub library: LibraryTables,
    /// Answers of the catalogs.
    pub catalog: CatalogTables,
    /// The mesh's.
    pub mesh: MeshTables,
    /// What was written down about jobs.
    pub traces: TraceTables,
    /// What peers tell one another.
    pub gossip: GossipTables,
    /// Jobs.
    pub jobs: JobTables,
    /// Rescues, and what moved.
    pub rescue: RescueTables,
    /// Repairs.
    pub repairs: RepairTables,
}

impl Tables {
    /// Opens all tables, making those that are not there.
    pub fn open(env: &Env, txn: &mut RwTxn<'_>) -> Result<Self, StoreError> {
        let mut open = |name| open_table(env, txn, name);
        Ok(Self {
            transfers: open("transfers-1")?,
            transfer_keys: open("transfer-keys-1")?,
            counts: open("counts-1")?,
            messages: open("messages-1")?,
            conversations: open("conversations-1")?,
            wishes: open("wishes-1")?,
            batches: open("batches-1")?,
            batch_keys: open("batch-keys-1")?,
            settings: open("settings-1")?,
            shares: ShareTables::open(env, txn)?,
            library: LibraryTables::open(env, txn)?,
            catalog: CatalogTables::open(env, txn)?,
            mesh: MeshTables::open(env, txn)?,
            traces: TraceTables::open(env, txn)?,
            gossip: GossipTables::open(env, txn)?,
            jobs: JobTables::open(env, txn)?,
            rescue: RescueTables::open(env, txn)?,
            repairs: RepairTables::open(env, txn)?,
        })
    }

    /// Entries of each table, by name.
    pub fn sizes(&self, txn: &RoTxn<'_>) -> Result<Vec<(&'static str, u64)>, StoreError> {
        [
            ("transfers", self.transfers),
            ("messages", self.messages),
            ("conversations", self.conversations),
            ("wishes", self.wishes),
            ("batches", self.batches),
            ("settings", self.settings),
        ]
        .into_iter()
        .chain(self.shares.tables())
        .chain(self.library.tables())
        .chain(self.catalog.tables())
        .chain(self.mesh.tables())
        .chain(self.traces.tables())
        .chain(self.gossip.tables())
        .chain(self.jobs.tables())
        .chain(self.rescue.tables())
        .chain(self.repairs.tables())
        .map(|(name, table)| Ok((name, table.len(txn)?)))
        .collect()
    }
}

/// Length of [`transfer_key`].
pub const TRANSFER_KEY_LEN: usize = 27;

/// Direction, whether it is over, newest first, id, whether it is hidden. Live ones sort by when they were asked for,
/// finished ones by when they ended. The mark of hidden ones is in the key so that counting needs no values.
pub fn transfer_key(transfer: &Transfer) -> [u8; TRANSFER_KEY_LEN] {
    let over = transfer.state.is_over();
    let time = if over { transfer.ended_at.unwrap_or(transfer.requested_at) } else { transfer.requested_at };
    let mut key = [0; TRANSFER_KEY_LEN];
    key[..2].copy_from_slice(&transfer_range(transfer.direction, over));
    key[2..10].copy_from_slice(&(!time.0).to_be_bytes());
    key[10..26].copy_from_slice(&transfer_id_key(transfer.id));
    key[26] = u8::from(transfer.removed);
    key
}

/// The beginning of the keys of all transfers one way, over or not.
pub fn transfer_range(direction: Direction, over: bool) -> [u8; 2] {
    [direction_byte(direction), u8::from(over)]
}

pub(super) fn direction_byte(direction: Direction) -> u8 {
    match direction {
        Direction::Download => 0,
        Direction::Upload => 1,
    }
}

/// The direction, whether it is over and whether it is hidden, read from a key.
pub(super) fn transfer_key_marks(key: &[u8]) -> (u8, bool, bool) {
    let at = |index: usize| key.get(index).copied().unwrap_or_default();
    (at(0), at(1) == 1, at(26) == 1)
}

/// Key of the index of transfers.
pub fn transfer_id_key(id: TransferId) -> [u8; 16] {
    id.0.to_be_bytes()
}

/// Longest user name that fits [`message_key`], bytes; `limits::USERNAME_LEN` is less.
pub const USER_KEY_LEN: usize = KEY_LEN - 2 - 13;

/// A user: length (two bytes) and name, so that one user's keys are never the beginning of another's.
pub fn user_key(user: &Username) -> Result<Vec<u8>, StoreError> {
    let name = user.as_str().as_bytes();
    let length = u16::try_from(name.len()).ok().filter(|length| usize::from(*length) <= USER_KEY_LEN);
    let Some(length) = length else {
        return Err(StoreError::KeyLength { what: "user name", length: name.len(), length_max: USER_KEY_LEN });
    };
    let mut key = Vec::with_capacity(2 + name.len() + 13);
    key.extend_from_slice(&length.to_be_bytes());
    key.extend_from_slice(name);
    Ok(key)
}

/// User, time, id, received or sent.
pub fn message_key(message: &PrivateMessage) -> Result<Vec<u8>, StoreError> {
    let mut key = user_key(&message.user)?;
    key.extend_from_slice(&message.at.0.to_be_bytes());
    key.extend_from_slice(&message.id.to_be_bytes());
    key.push(u8::from(message.incoming));
    Ok(key)
}

/// Newest first, id.
pub fn batch_key(batch: &Batch) -> [u8; 24] {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&(!batch.at.0).to_be_bytes());
    key[8..].copy_from_slice(&batch_id_key(batch.id));
    key
}

/// Key of the index of batches.
pub fn batch_id_key(id: BatchId) -> [u8; 16] {
    id.0.to_be_bytes()
}

/// A setting's name as key.
pub fn setting_key(name: &str) -> Result<&[u8], StoreError> {
    let length = name.len();
    if (1..=KEY_LEN).contains(&length) {
        Ok(name.as_bytes())
    } else {
        Err(StoreError::KeyLength { what: "name of a setting", length, length_max: KEY_LEN })
    }
}
