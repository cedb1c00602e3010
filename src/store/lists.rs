//! Typed reads: what the pages, the API and a start-up ask for.

use super::records::{Conversation, SETTING_VERSION, decode, get};
use super::tables::{batch_id_key, setting_key, transfer_id_key, transfer_key_marks, transfer_range, user_key};
use super::{Store, StoreError, Ticket, apply};
use crate::model::id::{BatchId, TransferId, Username};
use crate::model::limits;
use crate::model::record::{Batch, PrivateMessage, Wish};
use crate::model::transfer::{Direction, Transfer};
use crate::model::view::TransferFilter;

impl Store {
    /// All transfers that are not over, both ways, each way newest first: what a start-up takes up again.
    pub fn live_transfers(&self) -> Result<Vec<Transfer>, StoreError> {
        self.read(|txn, tables| {
            let mut live = Vec::new();
            for direction in [Direction::Download, Direction::Upload] {
                for entry in tables.transfers.prefix_iter(txn, &transfer_range(direction, false))? {
                    live.push(decode(entry?.1)?);
                }
            }
            Ok(live)
        })
    }

    /// One page of the finished transfers, the last to end first, and how many match in all.
    pub fn transfers(&self, filter: &TransferFilter) -> Result<(Vec<Transfer>, usize), StoreError> {
        let limit = filter.limit.min(limits::PAGE_ROWS);
        self.read(|txn, tables| {
            let mut rows = Vec::new();
            let mut total = 0_usize;
            for entry in tables.transfers.prefix_iter(txn, &transfer_range(filter.direction, true))? {
                let (key, bytes) = entry?;
                let hidden = transfer_key_marks(key).2;
                if hidden && !filter.include_removed {
                    continue;
                }
                let wanted = total >= filter.offset && rows.len() < limit;
                // Only wanted rows are decoded, unless the user has to be looked at.
                if wanted || filter.user.is_some() {
                    let transfer: Transfer = decode(bytes)?;
                    if filter.user.as_ref().is_some_and(|user| *user != transfer.user) {
                        continue;
                    }
                    if wanted {
                        rows.push(transfer);
                    }
                }
                total += 1;
            }
            Ok((rows, total))
        })
    }

    /// One transfer, over or not, hidden or not.
    pub fn transfer(&self, direction: Direction, id: TransferId) -> Result<Option<Transfer>, StoreError> {
        self.read(|txn, tables| {
            let Some(key) = tables.transfer_keys.get(txn, &transfer_id_key(id))? else { return Ok(None) };
            if !key.starts_with(&transfer_range(direction, false)[..1]) {
                return Ok(None);
            }
            get(tables.transfers, txn, key)
        })
    }

    /// Hides all finished transfers one way (`removed`); the answer is how many were not hidden yet.
    pub fn clear_completed(&self, direction: Direction) -> Ticket<u64> {
        self.submit_sized(limits::COMMIT_BYTES, move |txn, tables| apply::hide_finished(direction, txn, tables))
    }

    /// The newest `n` messages with a user, oldest first.
    pub fn messages(&self, user: &Username, n: usize) -> Result<Vec<PrivateMessage>, StoreError> {
        let user = user_key(user)?;
        self.read(|txn, tables| {
            let newest = tables.messages.rev_prefix_iter(txn, &user)?.take(n);
            let mut messages = newest.map(|entry| decode(entry?.1)).collect::<Result<Vec<_>, StoreError>>()?;
            messages.reverse();
            Ok(messages)
        })
    }

    /// The last message of each conversation and its unread count, newest first.
    pub fn conversations(&self) -> Result<Vec<(PrivateMessage, u32)>, StoreError> {
        self.read(|txn, tables| {
            let mut rows = Vec::new();
            for entry in tables.conversations.iter(txn)? {
                let (user, bytes) = entry?;
                let conversation: Conversation = decode(bytes)?;
                if let Some(last) = tables.messages.rev_prefix_iter(txn, user)?.next() {
                    rows.push((decode::<PrivateMessage>(last?.1)?, conversation.unread));
                }
            }
            rows.sort_by(|(a, _), (b, _)| b.at.cmp(&a.at).then_with(|| a.user.cmp(&b.user)));
            Ok(rows)
        })
    }

    /// Received messages the owner has not seen, all users together.
    pub fn unread(&self) -> Result<u32, StoreError> {
        self.read(|txn, tables| {
            let mut unread = 0_u32;
            for entry in tables.conversations.iter(txn)? {
                unread = unread.saturating_add(decode::<Conversation>(entry?.1)?.unread);
            }
            Ok(unread)
        })
    }

    /// All wishes, by number.
    pub fn wishes(&self) -> Result<Vec<Wish>, StoreError> {
        self.read(|txn, tables| tables.wishes.iter(txn)?.map(|entry| decode(entry?.1)).collect())
    }

    /// All batches, newest first.
    pub fn batches(&self) -> Result<Vec<Batch>, StoreError> {
        self.read(|txn, tables| tables.batches.iter(txn)?.map(|entry| decode(entry?.1)).collect())
    }

    /// One batch.
    pub fn batch(&self, id: BatchId) -> Result<Option<Batch>, StoreError> {
        self.read(|txn, tables| {
            let Some(key) = tables.batch_keys.get(txn, &batch_id_key(id))? else { return Ok(None) };
            get(tables.batches, txn, key)
        })
    }

    /// A named value.
    pub fn setting(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = setting_key(name)?;
        self.read(|txn, tables| match tables.settings.get(txn, key)?.map(<[u8]>::split_first) {
            None => Ok(None),
            Some(Some((&SETTING_VERSION, value))) => Ok(Some(value.to_vec())),
            Some(Some((&found, _))) => {
                Err(StoreError::RecordVersion { record: "setting", found, known: SETTING_VERSION })
            }
            Some(None) => Err(StoreError::RecordDamaged { record: "setting", reason: "it is empty".to_owned() }),
        })
    }
}
