//! Records: a version byte, then postcard.
//!
//! Postcard is positional, so a stored struct never changes in place: it gets a new version here, a table of a new name
//! and a migration step. The golden bytes below hold that.

use heed::{RoTxn, RwTxn};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::tables::Table;
use crate::model::record::{Batch, PrivateMessage, Wish};
use crate::model::time::UnixMs;
use crate::model::transfer::Transfer;

/// Something with a versioned form in a table.
pub trait Record: Serialize + DeserializeOwned {
    /// Its name in errors.
    const NAME: &'static str;
    /// The version that is written, and the only one that is read.
    const VERSION: u8;
}

impl Record for Transfer {
    const NAME: &'static str = "transfer";
    const VERSION: u8 = 1;
}

impl Record for PrivateMessage {
    const NAME: &'static str = "message";
    const VERSION: u8 = 1;
}

impl Record for Wish {
    const NAME: &'static str = "wish";
    const VERSION: u8 = 1;
}

impl Record for Batch {
    const NAME: &'static str = "batch";
    const VERSION: u8 = 1;
}

/// What is known of the messages with one user without reading them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    /// Messages kept.
    pub messages: u32,
    /// Received ones the owner has not seen.
    pub unread: u32,
    /// When the last one came or went.
    pub last_at: UnixMs,
}

impl Record for Conversation {
    const NAME: &'static str = "conversation";
    const VERSION: u8 = 1;
}

/// Version byte of settings; the value follows as it is.
pub(super) const SETTING_VERSION: u8 = 1;

/// The stored form.
pub fn encode<R: Record>(record: &R) -> Result<Vec<u8>, StoreError> {
    postcard::to_extend(record, vec![R::VERSION])
        .map_err(|error| StoreError::RecordDamaged { record: R::NAME, reason: error.to_string() })
}

/// Back from the stored form. Unknown versions and left-over bytes are errors.
pub fn decode<R: Record>(bytes: &[u8]) -> Result<R, StoreError> {
    let damaged = |reason: String| StoreError::RecordDamaged { record: R::NAME, reason };
    let (&version, rest) = bytes.split_first().ok_or_else(|| damaged("it is empty".to_owned()))?;
    if version != R::VERSION {
        return Err(StoreError::RecordVersion { record: R::NAME, found: version, known: R::VERSION });
    }
    let (record, left) = postcard::take_from_bytes(rest).map_err(|error| damaged(error.to_string()))?;
    if left.is_empty() { Ok(record) } else { Err(damaged(format!("{} bytes too many", left.len()))) }
}

/// Reads one record.
pub fn get<R: Record>(table: Table, txn: &RoTxn<'_>, key: &[u8]) -> Result<Option<R>, StoreError> {
    table.get(txn, key)?.map(decode).transpose()
}

/// Writes one record.
pub fn put<R: Record>(table: Table, txn: &mut RwTxn<'_>, key: &[u8], record: &R) -> Result<(), StoreError> {
    Ok(table.put(txn, key, &encode(record)?)?)
}
