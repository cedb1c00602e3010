//! Hashes that peers told: kept, shared out, made void.

use heed::{RoTxn, RwTxn};
use serde::{Deserialize, Serialize};

use super::{GossipTables, NEXT, Notes, Share, Standing, is_old, joined, number, part};
use crate::model::gossip::{HashEntry, Heard};
use crate::model::id::{ContentHash, PeerId};
use crate::model::limits;
use crate::model::time::UnixMs;
use crate::store::StoreError;
use crate::store::records::{Record, decode, get, put};

/// Of one peer, and of all; tests need not write half a million.
const PER_PEER: u64 = if cfg!(test) { 100 } else { limits::HASHES_PER_PEER };
const ALL: u64 = if cfg!(test) { 300 } else { limits::HASHES };
/// Void ones that are removed at a time for those to come, so that no commit grows with what a peer once said.
const PART: usize = 64;

/// Who has most, for as long as one commit takes.
#[derive(Clone, Copy, Debug)]
struct Rich {
    peer: PeerId,
    young: bool,
    /// Void ones of it may be left.
    void: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HashRow {
    pub(super) head_sha256: [u8; 32],
    pub(super) size: u64,
}

impl Record for HashRow {
    const NAME: &'static str = "hash of a peer";
    const VERSION: u8 = 1;
}

impl GossipTables {
    /// Hashes of a store without their index are told anew: nobody could remove them.
    pub(super) fn mend(&self, txn: &mut RwTxn<'_>) -> Result<(), StoreError> {
        if self.hashes.len(txn)? == self.hash_index.len(txn)? {
            return Ok(());
        }
        self.hashes.clear(txn)?;
        self.hash_index.clear(txn)?;
        let mut all = Vec::new();
        for row in self.notes.iter(txn)? {
            let (key, value) = row?;
            all.push((PeerId(part(key, 0)?), decode::<Notes>(value)?));
        }
        for (peer, notes) in all {
            put(self.notes, txn, &peer.0, &Notes { hashes: Heard::default(), hash_rows: 0, ..notes })?;
        }
        Ok(())
    }

    /// A peer of whose hashes nobody heard for long, if there is one: they are void.
    pub fn expire(&self, txn: &mut RwTxn<'_>, now: UnixMs) -> Result<Option<PeerId>, StoreError> {
        let silent = |notes: &Notes| now.since(notes.at).as_secs() >= limits::GOSSIP_SILENT_S;
        let found = self.all(txn)?.into_iter().find(|(_, notes, _)| notes.hash_rows > 0 && silent(notes));
        let Some((peer, notes, _)) = found else { return Ok(None) };
        put(self.notes, txn, &peer.0, &Notes { hashes: Heard::default(), ..notes })?;
        self.void_hashes(txn, peer)?;
        Ok(Some(peer))
    }

    /// What a peer said of hashes so far is void.
    pub(super) fn void_hashes(&self, txn: &mut RwTxn<'_>, peer: PeerId) -> Result<(), StoreError> {
        let order = self.next_order(txn)?;
        self.sums.put(txn, NEXT, &order.saturating_add(1).to_be_bytes())?;
        let notes = self.notes(txn, peer)?.unwrap_or_default();
        let standing = self.standing(txn, peer, &notes)?;
        put(self.standing, txn, &peer.0, &Standing { hashes_void_before: order.saturating_add(1), ..standing })
    }

    /// Removes a part of what is void of a peer's hashes; true if there may be more.
    pub(super) fn sweep_hashes(
        &self,
        txn: &mut RwTxn<'_>,
        peer: PeerId,
        notes: &Notes,
        part: usize,
    ) -> Result<bool, StoreError> {
        let void_before = self.standing(txn, peer, notes)?.hashes_void_before;
        let mut void = Vec::new();
        for row in self.hash_index.prefix_iter(txn, &peer.0)? {
            let (key, value) = row?;
            if number(value, 0)? < void_before {
                void.push(key.to_vec());
            }
            if void.len() == part {
                break;
            }
        }
        let more = void.len() == part;
        self.remove_hashes(txn, peer, &void)?;
        Ok(more)
    }

    /// Removes hashes of a peer by their keys in the index.
    fn remove_hashes(&self, txn: &mut RwTxn<'_>, peer: PeerId, keys: &[Vec<u8>]) -> Result<(), StoreError> {
        let mut removed = 0_u64;
        for key in keys {
            let what = key.get(32..).unwrap_or_default();
            self.hashes.delete(txn, &joined(&[what, &peer.0]))?;
            removed += u64::from(self.hash_index.delete(txn, key)?);
        }
        if let Some(notes) = self.notes(txn, peer)?.filter(|_| removed > 0) {
            let hash_rows = notes.hash_rows.saturating_sub(removed);
            put(self.notes, txn, &peer.0, &Notes { hash_rows, ..notes })?;
        }
        Ok(())
    }

    /// Keeps hashes of a peer. `void`: all others of it are. What is void makes room first. Without room, whoever has most
    /// of them loses one, unless that is this peer: then the new one is passed over.
    pub fn keep_hashes(
        &self,
        txn: &mut RwTxn<'_>,
        (peer, heard, void): (PeerId, Heard, bool),
        entries: &[HashEntry],
        now: UnixMs,
    ) -> Result<(), StoreError> {
        let notes = self.meets(txn, peer, now)?;
        put(self.notes, txn, &peer.0, &Notes { hashes: heard, at: now, ..notes })?;
        if void {
            self.void_hashes(txn, peer)?;
        }
        let order = self.next_order(txn)?.to_be_bytes();
        let (mut rich, mut full, mut void_left) = (None, false, true);
        for entry in entries {
            let what = joined(&[&entry.flac_key.to_be_bytes(), &entry.content.0]);
            let (key, index) = (joined(&[&what, &peer.0]), joined(&[&peer.0, &what]));
            if self.hash_index.get(txn, &index)?.is_none() {
                let mut notes = self.notes(txn, peer)?.unwrap_or_default();
                if void_left && (notes.hash_rows >= PER_PEER || self.hashes.len(txn)? >= ALL) {
                    void_left = self.sweep_hashes(txn, peer, &notes, PART)?;
                    notes = self.notes(txn, peer)?.unwrap_or_default();
                }
                if notes.hash_rows >= PER_PEER {
                    continue;
                }
                if self.hashes.len(txn)? >= ALL && (full || !self.give_way(txn, peer, &notes, &mut rich)?) {
                    full = true;
                    continue;
                }
                notes.hash_rows += 1;
                put(self.notes, txn, &peer.0, &notes)?;
            }
            put(self.hashes, txn, &key, &HashRow { head_sha256: entry.head_sha256, size: entry.size })?;
            self.hash_index.put(txn, &index, &order)?;
        }
        Ok(())
    }

    /// Whoever has most hashes loses one for this peer, the void first; false if nobody has more. `rich` is remembered from
    /// one to the next: looking for it is work.
    fn give_way(
        &self,
        txn: &mut RwTxn<'_>,
        peer: PeerId,
        notes: &Notes,
        rich: &mut Option<Rich>,
    ) -> Result<bool, StoreError> {
        let young = !is_old(notes, self.standing(txn, peer, notes)?.since);
        if let Some(known) = *rich {
            let left = self.notes(txn, known.peer)?.unwrap_or_default().hash_rows;
            if (known.young, left) <= (young, notes.hash_rows) {
                *rich = None;
            }
        }
        if rich.is_none() {
            let found = self.richest(txn, Share::Hashes)?;
            let richer = found.filter(|found| (found.1, found.2) > (young, notes.hash_rows));
            *rich = richer.map(|(peer, young, _)| Rich { peer, young, void: true });
        }
        let Some(loses) = rich.as_mut().filter(|rich| rich.peer != peer) else { return Ok(false) };
        if loses.void {
            let before = self.hashes.len(txn)?;
            let its_notes = self.notes(txn, loses.peer)?.unwrap_or_default();
            loses.void = self.sweep_hashes(txn, loses.peer, &its_notes, PART)?;
            if self.hashes.len(txn)? < before {
                return Ok(true);
            }
        }
        let loses = loses.peer;
        let first = self.hash_index.prefix_iter(txn, &loses.0)?.next().transpose()?.map(|(key, _)| key.to_vec());
        let Some(first) = first else { return Ok(false) };
        self.remove_hashes(txn, loses, &[first])?;
        Ok(true)
    }

    /// What peers say is behind a flac key; at most `limit`. The numbers are 0.
    pub fn hashes_of(
        &self,
        txn: &RoTxn<'_>,
        flac_key: u64,
        limit: usize,
    ) -> Result<Vec<(PeerId, HashEntry)>, StoreError> {
        let mut found = Vec::new();
        for row in self.hashes.prefix_iter(txn, &flac_key.to_be_bytes())?.take(limit) {
            let (key, value) = row?;
            let HashRow { head_sha256, size } = decode(value)?;
            let (content, peer) = (ContentHash(part(key, 8)?), PeerId(part(key, 40)?));
            let index = joined(&[&peer.0, key.get(..40).unwrap_or_default()]);
            let order = self.hash_index.get(txn, &index)?.map_or(Ok(0), |order| number(order, 0))?;
            let void_before = get::<Standing>(self.standing, txn, &peer.0)?.unwrap_or_default().hashes_void_before;
            if order >= void_before {
                found.push((peer, HashEntry { sequence: 0, flac_key, head_sha256, content, size }));
            }
        }
        Ok(found)
    }
}
