//! What all words on a recording come to, and the recordings found by it.

use std::ops::Bound;

use heed::{RoTxn, RwTxn};

use super::{GossipTables, joined, recording};
use crate::model::gossip::Consensus;
use crate::model::id::ContentHash;
use crate::store::StoreError;
use crate::store::records::{Record, get, put};

impl Record for Consensus {
    const NAME: &'static str = "consensus";
    const VERSION: u8 = 1;
}

fn size_key(size: u64, recording: u128, content: ContentHash) -> Vec<u8> {
    joined(&[&size.to_be_bytes(), &recording.to_be_bytes(), &content.0])
}

impl GossipTables {
    /// What is known of a recording.
    pub fn consensus(&self, txn: &RoTxn<'_>, id: u128) -> Result<Option<Consensus>, StoreError> {
        get(self.consensus, txn, &id.to_be_bytes())
    }

    /// Replaces what is known of a recording.
    pub fn put_consensus(
        &self,
        txn: &mut RwTxn<'_>,
        id: u128,
        consensus: Option<&Consensus>,
    ) -> Result<(), StoreError> {
        if let Some(old) = self.consensus(txn, id)? {
            for known in &old.variants {
                self.sizes.delete(txn, &size_key(known.claim.size, id, known.claim.content))?;
            }
            self.consensus.delete(txn, &id.to_be_bytes())?;
        }
        let Some(consensus) = consensus else { return Ok(()) };
        for known in &consensus.variants {
            self.sizes.put(txn, &size_key(known.claim.size, id, known.claim.content), &[])?;
        }
        put(self.consensus, txn, &id.to_be_bytes(), consensus)
    }

    /// Recordings that have a copy of this size, at most `limit`.
    pub fn of_size(&self, txn: &RoTxn<'_>, size: u64, limit: usize) -> Result<Vec<u128>, StoreError> {
        let mut found = Vec::new();
        for row in self.sizes.prefix_iter(txn, &size.to_be_bytes())?.take(limit) {
            let id = recording(row?.0, 8)?;
            if found.last() != Some(&id) {
                found.push(id);
            }
        }
        Ok(found)
    }

    /// Recordings of which something is known after one, at most `limit`.
    pub fn consensus_after(&self, txn: &RoTxn<'_>, after: Option<u128>, limit: usize) -> Result<Vec<u128>, StoreError> {
        let from = after.map(u128::to_be_bytes);
        let from = from.as_ref().map_or(Bound::Unbounded, |from| Bound::Excluded(&from[..]));
        let rows = self.consensus.range(txn, &(from, Bound::Unbounded))?.take(limit);
        rows.map(|row| recording(row?.0, 0)).collect()
    }
}
