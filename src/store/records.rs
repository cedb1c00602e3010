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

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::model::id::{BatchId, TransferId};
    use crate::model::music::WireText;
    use crate::model::transfer::{Direction, Ending, Partial, Rung, TransferState};

    fn transfer() -> Transfer {
        Transfer {
            id: TransferId(0x0102_0304),
            direction: Direction::Upload,
            user: "ann".into(),
            path: WireText::from_wire(b"a\\\xf6"),
            size: 300,
            state: TransferState::Completed(Ending::TimedOut),
            requested_at: UnixMs(1),
            enqueued_at: Some(UnixMs(2)),
            started_at: None,
            ended_at: Some(UnixMs(4)),
            start_offset: 5,
            bytes_done: 6,
            average_speed: 7,
            place_in_queue: Some(8),
            reason: Some("why".to_owned()),
            attempts: 9,
            next_attempt_at: Some(UnixMs(10)),
            removed: true,
            batch: Some(BatchId(11)),
            destination: Some("d".to_owned()),
            local_path: Some("l".to_owned()),
            partial: Some(Partial {
                file: "f".to_owned(),
                synced: 12,
                boot: 13,
                joins: vec![(14, "bob".into())],
                first_user: "cid".into(),
                first_path: "p".into(),
            }),
            rung: Some(Rung::JoinedByOverlap),
            tried: vec!["ann".into(), "bob".into()],
        }
    }

    fn message() -> PrivateMessage {
        let text = "hi \u{e9}".to_owned();
        PrivateMessage { user: "ann".into(), at: UnixMs(300), id: 2, incoming: true, text, read: false }
    }

    fn wish() -> Wish {
        Wish { id: 1, text: "w".to_owned(), added_at: UnixMs(2), searched_at: Some(UnixMs(3)), found: 4 }
    }

    fn batch() -> Batch {
        Batch {
            id: BatchId(1),
            user: "ann".into(),
            search: Some(2),
            at: UnixMs(3),
            external: Some("e".to_owned()),
            destination: None,
            transfers: vec![TransferId(4), TransferId(5)],
        }
    }

    fn check<R: Record + PartialEq + std::fmt::Debug>(record: &R, golden: &str) {
        let bytes = encode(record).unwrap();
        let mut hex = String::new();
        for byte in &bytes {
            write!(hex, "{byte:02x}").unwrap();
        }
        assert_eq!(hex, golden, "the stored form of {} changed: it needs a new version and a migration", R::NAME);
        assert_eq!(&decode::<R>(&bytes).unwrap(), record);
        for length in 0..bytes.len() {
            assert!(decode::<R>(&bytes[..length]).is_err(), "{} of {length} bytes", R::NAME);
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(decode::<R>(&longer), Err(StoreError::RecordDamaged { .. })));
        let mut newer = bytes;
        newer[0] += 1;
        let error = decode::<R>(&newer).unwrap_err();
        assert_eq!(error.to_string(), format!("{} record has version 2, this program knows version 1", R::NAME));
    }

    #[test]
    fn stored_forms_are_these_bytes() {
        let all_fields = concat!(
            "01848688080103616e6e04615cc3b601ac02050201010200010405060701080103776879",
            "09010a01010b01016401016c0101660c0d010e03626f620363696401700001010203616e6e03626f62"
        );
        check(&transfer(), all_fields);
        check(&message(), "0103616e6eac02020105686920c3a900");
        check(&wish(), "0101017702010304");
        check(&batch(), "010103616e6e01020301016500020405");
        check(&Conversation { messages: 300, unread: 1, last_at: UnixMs(2) }, "01ac020102");
    }
}
