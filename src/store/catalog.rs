//! Answers of the catalogs, kept for as long as they stand.
//!
//! Two tables: answers by name, and their names by age, so that the oldest goes when there are too many or their bytes
//! are too many. An answer that has expired stays until then: it is better than none when the service is away.

use heed::{RoTxn, RwTxn};
use std::future::Future;

use super::records::{Record, decode, encode};
use super::tables::{Env, KEY_LEN, Table, Tables, open_table};
use super::{Store, StoreError};
use crate::model::catalog::KeptAnswer;
use crate::model::limits;

impl Record for KeptAnswer {
    const NAME: &'static str = "catalog answer";
    const VERSION: u8 = 1;
}

/// The tables of this room.
#[derive(Clone, Copy, Debug)]
pub struct CatalogTables {
    /// Name of the request → `KeptAnswer`.
    answers: Table,
    /// When it came, big-endian, then the name → length of the stored answer, big-endian.
    ages: Table,
    /// `bytes` → `u64` big-endian: the sum of the lengths.
    sums: Table,
}

const BYTES: &[u8] = b"bytes";
/// The longest name: the key of its age fits LMDB.
const NAME_LEN: usize = KEY_LEN - 8;

/// What is kept at most; `limits` outside of tests.
#[derive(Clone, Copy, Debug)]
struct Room {
    answers: u64,
    bytes: u64,
}

impl CatalogTables {
    /// Opens them, making those that are not there.
    pub(super) fn open(env: &Env, txn: &mut RwTxn<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            answers: open_table(env, txn, "catalog-1")?,
            ages: open_table(env, txn, "catalog-ages-1")?,
            sums: open_table(env, txn, "catalog-sums-1")?,
        })
    }

    /// Those that count for the page.
    pub(super) fn tables(&self) -> [(&'static str, Table); 1] {
        [("catalog", self.answers)]
    }

    fn get(&self, txn: &RoTxn<'_>, name: &str) -> Result<Option<KeptAnswer>, StoreError> {
        self.answers.get(txn, name.as_bytes())?.map(decode).transpose()
    }

    fn bytes(&self, txn: &RoTxn<'_>) -> Result<u64, StoreError> {
        Ok(number(self.sums.get(txn, BYTES)?))
    }

    fn put(&self, txn: &mut RwTxn<'_>, name: &str, answer: &KeptAnswer, room: Room) -> Result<(), StoreError> {
        let (key, value) = (key(name)?, encode(answer)?);
        let mut bytes = self.bytes(txn)?;
        if let Some(old) = self.answers.get(txn, key)? {
            bytes = bytes.saturating_sub(old.len() as u64);
            let old = decode::<KeptAnswer>(old)?;
            self.ages.delete(txn, &age_key(&old, key))?;
        }
        bytes = bytes.saturating_add(value.len() as u64);
        self.answers.put(txn, key, &value)?;
        self.ages.put(txn, &age_key(answer, key), &(value.len() as u64).to_be_bytes())?;
        while bytes > room.bytes || self.answers.len(txn)? > room.answers {
            let Some((oldest, length)) = self.ages.first(txn)?.map(|(k, v)| (k.to_vec(), number(Some(v)))) else {
                break;
            };
            self.ages.delete(txn, &oldest)?;
            self.answers.delete(txn, oldest.get(8..).unwrap_or_default())?;
            bytes = bytes.saturating_sub(length);
        }
        self.sums.put(txn, BYTES, &bytes.to_be_bytes())?;
        Ok(())
    }
}

fn number(bytes: Option<&[u8]>) -> u64 {
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn key(name: &str) -> Result<&[u8], StoreError> {
    let length = name.len();
    if (1..=NAME_LEN).contains(&length) {
        Ok(name.as_bytes())
    } else {
        Err(StoreError::KeyLength { what: "name of a catalog answer", length, length_max: NAME_LEN })
    }
}

fn age_key(answer: &KeptAnswer, name: &[u8]) -> Vec<u8> {
    let mut key = answer.fetched_at.0.to_be_bytes().to_vec();
    key.extend_from_slice(name);
    key
}

impl Store {
    /// The kept answer to a request, expired or not.
    pub fn catalog_answer(&self, name: &str) -> Result<Option<KeptAnswer>, StoreError> {
        if key(name).is_err() {
            return Ok(None);
        }
        self.read(|txn, tables| tables.catalog.get(txn, name))
    }

    /// Keeps an answer, new or replaced; the oldest go when there are too many (`limits::CATALOG_ANSWERS`,
    /// `limits::CATALOG_BYTES`). Queued at once, answered when durable.
    pub fn keep_catalog_answer(
        &self,
        name: String,
        answer: KeptAnswer,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        const ROOM: Room = Room { answers: limits::CATALOG_ANSWERS, bytes: limits::CATALOG_BYTES };
        self.write(move |txn, tables: &Tables| tables.catalog.put(txn, &name, &answer, ROOM))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::UnixMs;
    use crate::store::StoreOptions;

    fn answer(at: u64, length: usize) -> KeptAnswer {
        KeptAnswer { fetched_at: UnixMs(at), expires_at: UnixMs(at + 10), body: Some(vec![7; length]) }
    }

    fn world() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        (dir, store)
    }

    fn put(store: &Store, name: &str, answer: KeptAnswer, room: Room) {
        let name = name.to_owned();
        store.write_blocking(move |txn, tables| tables.catalog.put(txn, &name, &answer, room)).unwrap();
    }

    fn kept(store: &Store, names: &[&str]) -> Vec<bool> {
        names.iter().map(|name| store.catalog_answer(name).unwrap().is_some()).collect()
    }

    #[test]
    fn stored_forms_are_these_bytes() {
        let record = KeptAnswer { fetched_at: UnixMs(300), expires_at: UnixMs(2), body: Some(vec![1, 2]) };
        assert_eq!(encode(&record).unwrap(), [1, 0xac, 2, 2, 1, 2, 1, 2]);
        assert_eq!(decode::<KeptAnswer>(&[1, 0xac, 2, 2, 1, 2, 1, 2]).unwrap(), record);
        assert_eq!(encode(&KeptAnswer { body: None, ..record }).unwrap(), [1, 0xac, 2, 2, 0]);
    }

    #[test]
    fn answers_come_back_and_are_replaced() {
        let (_dir, store) = world();
        let room = Room { answers: 10, bytes: 10_000 };
        assert_eq!(store.catalog_answer("a").unwrap(), None);
        put(&store, "a", answer(1, 100), room);
        put(&store, "a", answer(2, 50), room);
        assert_eq!(store.catalog_answer("a").unwrap(), Some(answer(2, 50)));
        let (bytes, ages) = store.read(|txn, t| Ok((t.catalog.bytes(txn)?, t.catalog.ages.len(txn)?))).unwrap();
        assert_eq!((bytes, ages), (encode(&answer(2, 50)).unwrap().len() as u64, 1));
        let none = KeptAnswer { body: None, ..answer(3, 0) };
        put(&store, "b", none.clone(), room);
        assert_eq!(store.catalog_answer("b").unwrap(), Some(none));
    }

    #[test]
    fn the_oldest_go_by_number_and_by_bytes() {
        let (_dir, store) = world();
        let by_number = Room { answers: 2, bytes: 1_000_000 };
        for (name, at) in [("a", 3), ("b", 1), ("c", 2)] {
            put(&store, name, answer(at, 10), by_number);
        }
        assert_eq!(kept(&store, &["a", "b", "c"]), [true, false, true]);
        let by_bytes = Room { answers: 100, bytes: 280 };
        put(&store, "d", answer(4, 250), by_bytes);
        assert_eq!(kept(&store, &["a", "c", "d"]), [true, false, true]);
        put(&store, "e", answer(5, 265), by_bytes);
        assert_eq!(kept(&store, &["a", "d", "e"]), [false, false, true]);
        // One that is too large alone is not kept at all.
        put(&store, "f", answer(6, 301), by_bytes);
        assert_eq!(kept(&store, &["e", "f"]), [false, false]);
        let bytes = store.read(|txn, tables| tables.catalog.bytes(txn)).unwrap();
        assert_eq!(bytes, 0);
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let (_dir, store) = world();
        let long = "x".repeat(NAME_LEN + 1);
        assert_eq!(store.catalog_answer(&long).unwrap(), None);
        let refused = store.write_blocking(move |txn, tables| {
            tables.catalog.put(txn, &long, &answer(1, 1), Room { answers: 1, bytes: 1 })
        });
        assert!(matches!(refused, Err(StoreError::KeyLength { .. })));
    }
}
