//! Change lists into tables, and what is forgotten when a table is full.

use std::ops::Bound;

use heed::{RoTxn, RwTxn};

use super::StoreError;
use super::records::{Conversation, SETTING_VERSION, decode, encode, get, put};
use super::tables::{
    TRANSFER_KEY_LEN, Table, Tables, batch_id_key, batch_key, direction_byte, message_key, setting_key,
    transfer_id_key, transfer_key, transfer_key_marks, transfer_range, user_key,
};
use crate::model::id::{TransferId, Username};
use crate::model::limits;
use crate::model::record::{Batch, Change, PrivateMessage};
use crate::model::transfer::{Direction, Transfer};

/// All of a list, in order.
pub(super) fn apply(changes: &[Change], txn: &mut RwTxn<'_>, tables: &Tables) -> Result<(), StoreError> {
    for change in changes {
        match change {
            Change::Transfer(transfer) => put_transfer(transfer, txn, tables)?,
            Change::TransferGone(id) => forget_transfer(*id, txn, tables)?,
            Change::Message(message) => put_message(message, txn, tables)?,
            Change::MessagesRead(user) => mark_read(user, txn, tables)?,
            Change::MessagesGone(user) => forget_conversation(&user_key(user)?, txn, tables)?,
            Change::Wish(wish) => put(tables.wishes, txn, &wish.id.to_be_bytes(), wish)?,
            Change::WishGone(id) => {
                tables.wishes.delete(txn, &id.to_be_bytes())?;
            }
            Change::Batch(batch) => put_batch(batch, txn, tables)?,
            Change::Origin(id, origin) => tables.rescue.put_origin(txn, *id, *origin)?,
            Change::Setting(name, Some(value)) => {
                let mut bytes = Vec::with_capacity(value.len() + 1);
                bytes.push(SETTING_VERSION);
                bytes.extend_from_slice(value);
                tables.settings.put(txn, setting_key(name)?, &bytes)?;
            }
            Change::Setting(name, None) => {
                tables.settings.delete(txn, setting_key(name)?)?;
            }
        }
    }
    Ok(())
}

// ---- Transfers ----

/// New or replaced. A change of state, of the time it is listed by or of its hidden mark moves it to another key.
pub(super) fn put_transfer(transfer: &Transfer, txn: &mut RwTxn<'_>, tables: &Tables) -> Result<(), StoreError> {
    let key = transfer_key(transfer);
    let id = transfer_id_key(transfer.id);
    let old = owned(tables.transfer_keys.get(txn, &id)?);
    let old_is_over = old.as_deref().is_some_and(is_over);
    if old.as_deref() != Some(&key) {
        if let Some(old) = &old {
            tables.transfers.delete(txn, old)?;
        }
        tables.transfer_keys.put(txn, &id, &key)?;
    }
    put(tables.transfers, txn, &key, transfer)?;
    if old_is_over != is_over(&key) {
        let finished = if old_is_over { -1 } else { 1 };
        let kept = count(transfer.direction, finished, txn, tables)?;
        forget_oldest_finished(transfer.direction, kept, txn, tables)?;
    }
    Ok(())
}

fn is_over(key: &[u8]) -> bool {
    transfer_key_marks(key).1
}

fn forget_transfer(id: TransferId, txn: &mut RwTxn<'_>, tables: &Tables) -> Result<(), StoreError> {
    let id = transfer_id_key(id);
    let Some(key) = owned(tables.transfer_keys.get(txn, &id)?) else { return Ok(()) };
    tables.transfer_keys.delete(txn, &id)?;
    tables.transfers.delete(txn, &key)?;
    let (direction, over, _) = transfer_key_marks(&key);
    if over {
        let directions = [Direction::Download, Direction::Upload];
        if let Some(direction) = directions.into_iter().find(|known| direction_byte(*known) == direction) {
            count(direction, -1, txn, tables)?;
        }
    }
    Ok(())
}

fn forget_oldest_finished(
    direction: Direction,
    mut kept: u64,
    txn: &mut RwTxn<'_>,
    tables: &Tables,
) -> Result<(), StoreError> {
    let range = transfer_range(direction, true);
    while kept > limits::FINISHED_TRANSFERS as u64 {
        let oldest = last_key(tables.transfers, txn, &range)?;
        let Some(id) = oldest.as_deref().and_then(|key| key.get(10..26)).map(<[u8]>::to_vec) else { break };
        tables.transfer_keys.delete(txn, &id)?;
        tables.transfers.delete(txn, oldest.as_deref().unwrap_or_default())?;
        kept = count(direction, -1, txn, tables)?;
    }
    Ok(())
}

/// Name of the count of finished transfers.
pub(super) fn count_key(direction: Direction) -> &'static [u8] {
    match direction {
        Direction::Download => b"finished-downloads",
        Direction::Upload => b"finished-uploads",
    }
}

fn count(direction: Direction, change: i64, txn: &mut RwTxn<'_>, tables: &Tables) -> Result<u64, StoreError> {
    let key = count_key(direction);
    let kept = tables.counts.get(txn, key)?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
    let kept = kept.saturating_add_signed(change);
    tables.counts.put(txn, key, &kept.to_be_bytes())?;
    Ok(kept)
}

/// Marks every finished transfer that way as removed; says how many were not yet.
pub(super) fn hide_finished(direction: Direction, txn: &mut RwTxn<'_>, tables: &Tables) -> Result<u64, StoreError> {
    let mut from = transfer_range(direction, true).to_vec();
    let mut hidden = 0;
    // One after the other, for the key changes under the cursor; each moves just behind where it was, if at all.
    while let Some(key) = next_key(tables.transfers, txn, &from, &transfer_range(direction, true))? {
        if !transfer_key_marks(&key).2
            && let Some(mut transfer) = get::<Transfer>(tables.transfers, txn, &key)?
        {
            transfer.removed = true;
            put_transfer(&transfer, txn, tables)?;
            hidden += 1;
        }
        from = key;
        // The mark is the last byte: behind both forms of this key.
        if let Some(mark) = from.get_mut(TRANSFER_KEY_LEN - 1) {
            *mark = 1;
        }
    }
    Ok(hidden)
}

// ---- Messages ----

fn put_message(message: &PrivateMessage, txn: &mut RwTxn<'_>, tables: &Tables) -> Result<(), StoreError> {
    let user = user_key(&message.user)?;
    let key = message_key(message)?;
    let known = get::<Conversation>(tables.conversations, txn, &user)?;
    let mut conversation = known.unwrap_or_default();
    match get::<PrivateMessage>(tables.messages, txn, &key)? {
        Some(old) => conversation.unread = conversation.unread.saturating_sub(is_unread(&old)),
        None => conversation.messages = conversation.messages.saturating_add(1),
    }
    conversation.unread = conversation.unread.saturating_add(is_unread(message));
    conversation.last_at = conversation.last_at.max(message.at);
    put(tables.messages, txn, &key, message)?;
    while conversation.messages as usize > limits::MESSAGES_PER_USER {
        let Some(oldest) = next_key(tables.messages, txn, &user, &user)? else { break };
        let forgotten = get::<PrivateMessage>(tables.messages, txn, &oldest)?;
        tables.messages.delete(txn, &oldest)?;
        conversation.messages -= 1;
        conversation.unread = conversation.unread.saturating_sub(forgotten.as_ref().map_or(0, is_unread));
    }
    put(tables.conversations, txn, &user, &conversation)?;
    if known.is_none() {
        forget_silent_conversations(&user, txn, tables)?;
    }
    Ok(())
}

fn is_unread(message: &PrivateMessage) -> u32 {
    u32::from(message.incoming && !message.read)
}

/// The one that just began is spared, however old its message is.
fn forget_silent_conversations(new: &[u8], txn: &mut RwTxn<'_>, tables: &Tables) -> Result<(), StoreError> {
    while tables.conversations.len(txn)? > limits::CONVERSATIONS as u64 {
        let mut silent = None;
        for entry in tables.conversations.iter(txn)? {
            let (user, bytes) = entry?;
            let last_at = decode::<Conversation>(bytes)?.last_at;
            if user != new && silent.as_ref().is_none_or(|(at, _)| last_at < *at) {
                silent = Some((last_at, user.to_vec()));
            }
        }
        let Some((_, user)) = silent else { break };
        forget_conversation(&user, txn, tables)?;
    }
    Ok(())
}

fn forget_conversation(user: &[u8], txn: &mut RwTxn<'_>, tables: &Tables) -> Result<(), StoreError> {
    tables.conversations.delete(txn, user)?;
    while let Some(key) = next_key(tables.messages, txn, user, user)? {
        tables.messages.delete(txn, &key)?;
    }
    Ok(())
}

fn mark_read(user: &Username, txn: &mut RwTxn<'_>, tables: &Tables) -> Result<(), StoreError> {
    let user = user_key(user)?;
    let Some(mut conversation) = get::<Conversation>(tables.conversations, txn, &user)? else { return Ok(()) };
    if conversation.unread == 0 {
        return Ok(());
    }
    let mut unseen = Vec::new();
    for entry in tables.messages.prefix_iter(txn, &user)? {
        let (key, bytes) = entry?;
        let message = decode::<PrivateMessage>(bytes)?;
        if is_unread(&message) > 0 {
            unseen.push((key.to_vec(), message));
        }
    }
    for (key, mut message) in unseen {
        message.read = true;
        tables.messages.put(txn, &key, &encode(&message)?)?;
    }
    conversation.unread = 0;
    put(tables.conversations, txn, &user, &conversation)
}

// ---- Batches ----

fn put_batch(batch: &Batch, txn: &mut RwTxn<'_>, tables: &Tables) -> Result<(), StoreError> {
    let key = batch_key(batch);
    let id = batch_id_key(batch.id);
    if let Some(old) = owned(tables.batch_keys.get(txn, &id)?)
        && old != key
    {
        tables.batches.delete(txn, &old)?;
    }
    tables.batch_keys.put(txn, &id, &key)?;
    put(tables.batches, txn, &key, batch)?;
    while tables.batches.len(txn)? > limits::BATCHES as u64 {
        let Some(oldest) = last_key(tables.batches, txn, &[])? else { break };
        tables.batch_keys.delete(txn, oldest.get(8..).unwrap_or_default())?;
        tables.batches.delete(txn, &oldest)?;
    }
    Ok(())
}

// ---- Keys under a cursor ----

fn owned(bytes: Option<&[u8]>) -> Option<Vec<u8>> {
    bytes.map(<[u8]>::to_vec)
}

/// The last key that begins so.
fn last_key(table: Table, txn: &RoTxn<'_>, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let last =
        if prefix.is_empty() { table.last(txn)? } else { table.rev_prefix_iter(txn, prefix)?.next().transpose()? };
    Ok(owned(last.map(|(key, _)| key)))
}

/// The first key after this one that begins so.
fn next_key(table: Table, txn: &RoTxn<'_>, after: &[u8], prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let range = (Bound::Excluded(after), Bound::Unbounded);
    let next = table.range(txn, &range)?.next().transpose()?;
    Ok(owned(next.map(|(key, _)| key).filter(|key| key.starts_with(prefix))))
}
