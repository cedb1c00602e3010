//! The log of what peers were told of our recordings.

use std::ops::Bound;

use heed::{RoTxn, RwTxn};

use super::{Digest, GONE, GossipTables, LATEST, joined, number, part, recording};
use crate::model::id::ContentHash;
use crate::model::limits;
use crate::store::StoreError;

impl GossipTables {
    /// The last number of the log, and how many entries it has.
    pub fn own(&self, txn: &RoTxn<'_>) -> Result<(u64, u64), StoreError> {
        let latest = self.sums.get(txn, LATEST)?.map_or(Ok(0), |latest| number(latest, 0))?;
        Ok((latest, self.log.len(txn)?))
    }

    /// Notes what there is to tell of a recording now, by its digest, and the flac keys of its copies; `None`: nothing
    /// any more. False if that was told already, or never was anything.
    pub fn put_own(
        &self,
        txn: &mut RwTxn<'_>,
        id: u128,
        digest: Option<Digest>,
        keys: &[(u64, ContentHash)],
    ) -> Result<bool, StoreError> {
        let key = id.to_be_bytes();
        let digest = digest.unwrap_or(GONE);
        match self.told.get(txn, &key)?.map(<[u8]>::to_vec) {
            None if digest == GONE => return Ok(false),
            None => {}
            Some(row) if row.get(8..) == Some(&digest[..]) => return Ok(false),
            Some(row) => _ = self.log.delete(txn, &part::<8>(&row, 0)?)?,
        }
        let next = self.own(txn)?.0.saturating_add(1).to_be_bytes();
        self.sums.put(txn, LATEST, &next)?;
        self.log.put(txn, &next, &key)?;
        self.told.put(txn, &key, &joined(&[&next, &digest]))?;
        for (flac_key, content) in keys {
            self.keys.put(txn, &joined(&[&flac_key.to_be_bytes(), &content.0]), &key)?;
        }
        if self.log.len(txn)? > limits::GOSSIP_TOLD
            && let Some(oldest) = self.log.first(txn)?.map(|(key, _)| key.to_vec())
        {
            self.log.delete(txn, &oldest)?;
        }
        Ok(true)
    }

    /// Recordings after a number of the log that may be told, with theirs; at most `limit`. With fewer there are no more.
    pub fn own_after(
        &self,
        txn: &RoTxn<'_>,
        after: u64,
        limit: usize,
        may: impl Fn(u128) -> bool,
    ) -> Result<Vec<(u64, u128)>, StoreError> {
        let (from, mut found) = (after.to_be_bytes(), Vec::new());
        for row in self.log.range(txn, &(Bound::Excluded(&from[..]), Bound::Unbounded))? {
            if found.len() >= limit {
                break;
            }
            let (key, value) = row?;
            let id = recording(value, 0)?;
            if may(id) {
                found.push((number(key, 0)?, id));
            }
        }
        Ok(found)
    }

    /// Recordings that were told and not withdrawn, after one; at most `limit`.
    pub fn told_after(&self, txn: &RoTxn<'_>, after: Option<u128>, limit: usize) -> Result<Vec<u128>, StoreError> {
        let from = after.map(u128::to_be_bytes);
        let from = from.as_ref().map_or(Bound::Unbounded, |from| Bound::Excluded(&from[..]));
        let mut found = Vec::new();
        for row in self.told.range(txn, &(from, Bound::Unbounded))? {
            let (key, value) = row?;
            if found.len() >= limit {
                break;
            }
            if value.get(8..) != Some(&GONE[..]) {
                found.push(recording(key, 0)?);
            }
        }
        Ok(found)
    }

    /// Recordings whose copies had this flac key when they were told.
    pub fn own_key(&self, txn: &RoTxn<'_>, flac_key: u64, limit: usize) -> Result<Vec<u128>, StoreError> {
        let rows = self.keys.prefix_iter(txn, &flac_key.to_be_bytes())?.take(limit);
        let mut found: Vec<u128> = rows.map(|row| recording(row?.1, 0)).collect::<Result<_, StoreError>>()?;
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}
