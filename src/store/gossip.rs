//! What peers were told, what they told, and what all together comes to.
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | `gossip-log-1` | number | recording: what was told with it |
//! | `gossip-told-1` | recording | its number in the log, 16 bytes of a hash of what was told; zeros: it is gone |
//! | `gossip-keys-1` | flac key, content hash | recording |
//! | `observations-1` | recording, peer | `Word`: the last word of one key, with its number |
//! | `observation-order-1` | number | recording, peer |
//! | `observation-peers-1` | peer, number | recording |
//! | `gossip-peers-1` | peer | `Notes` |
//! | `gossip-standing-1` | peer | `Standing` |
//! | `peer-hashes-1` | flac key, content hash, peer | `HashRow` |
//! | `peer-hash-index-1` | peer, flac key, content hash | the number it was told with |
//! | `consensus-1` | recording | `Consensus` |
//! | `consensus-sizes-1` | size, recording, content hash | nothing |
//! | `disproved-1` | recording, content hash | when: the file was listened to, and is no copy of it |
//! | `gossip-sums-1` | `next`, `latest` | the number of the next word, the last number of the log |
//!
//! A key has one word on a recording, so it has one vote on each copy of it. Words are numbered as they come. Whatever a
//! peer said before a number of its own notes is void, and is removed in parts, so that no commit grows with what a peer
//! once said.
//!
//! Keys cost nothing, so a crowd of new ones must not push out what old ones said. A key is old once it was heard again
//! [`limits::GOSSIP_OLD_S`] after the first time. Without room for peers, a young one goes, the one silent longest; an
//! old one only after [`limits::GOSSIP_SILENT_S`] of silence; else the newcomer is not noted. Of the peers on one
//! recording the one known least long goes. Without room for words or hashes, whoever has most of them loses one, the
//! young first: so a table is shared evenly, whoever came first.

mod consensus;
mod hashes;
mod own;

use heed::{RoTxn, RwTxn};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::library::{LibraryTables, Todo};
use super::records::{Record, decode, get, put};
use super::tables::{Env, Table, open_table};
use crate::model::gossip::{Claim, Heard, Told};
use crate::model::id::{ContentHash, PeerId};
use crate::model::limits;
use crate::model::time::UnixMs;

/// One key's word on one recording.
#[derive(Debug, Serialize, Deserialize)]
struct Word {
    order: u64,
    told: Told,
}

impl Record for Word {
    const NAME: &'static str = "observation";
    const VERSION: u8 = 1;
}

/// What is noted of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Notes {
    heard: Heard,
    hashes: Heard,
    /// Words kept, void ones included.
    words: u64,
    /// Hashes kept.
    hash_rows: u64,
    /// Words with lower numbers are void.
    void_before: u64,
    at: UnixMs,
}

/// How long a peer is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Standing {
    /// First heard.
    since: UnixMs,
    /// Hashes with lower numbers are void.
    hashes_void_before: u64,
}

impl Record for Standing {
    const NAME: &'static str = "standing of a peer";
    const VERSION: u8 = 1;
}

/// Whether there is room for the notes of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Made,
    /// Somebody is going; to be asked again.
    Making,
    /// All are known longer.
    None,
}

/// What there may be too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    Words,
    Hashes,
}

impl Record for Notes {
    const NAME: &'static str = "notes of a peer";
    const VERSION: u8 = 1;
}

/// Bytes of what was told, hashed; zeros mean that it is gone.
pub type Digest = [u8; 16];
/// Words of all peers; tests need not write a quarter of a million.
const ALL: u64 = if cfg!(test) { 21_000 } else { limits::OBSERVATIONS };
const GONE: Digest = [0; 16];
const NEXT: &[u8] = b"next";
const LATEST: &[u8] = b"latest";

/// The tables of gossip.
#[derive(Clone, Copy, Debug)]
pub struct GossipTables {
    log: Table,
    told: Table,
    keys: Table,
    words: Table,
    order: Table,
    by_peer: Table,
    notes: Table,
    standing: Table,
    hashes: Table,
    hash_index: Table,
    consensus: Table,
    sizes: Table,
    disproved: Table,
    sums: Table,
}

fn damaged(reason: &str) -> StoreError {
    StoreError::RecordDamaged { record: "gossip", reason: reason.to_owned() }
}

/// A part of a key.
fn part<const N: usize>(key: &[u8], at: usize) -> Result<[u8; N], StoreError> {
    key.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(|| damaged("a key is short"))
}

fn number(key: &[u8], at: usize) -> Result<u64, StoreError> {
    Ok(u64::from_be_bytes(part(key, at)?))
}

fn recording(key: &[u8], at: usize) -> Result<u128, StoreError> {
    Ok(u128::from_be_bytes(part(key, at)?))
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn word_key(recording: u128, peer: PeerId) -> Vec<u8> {
    joined(&[&recording.to_be_bytes(), &peer.0])
}

/// Known so long that new keys do not push it out.
fn is_old(notes: &Notes, since: UnixMs) -> bool {
    notes.at.since(since).as_secs() >= limits::GOSSIP_OLD_S
}

impl GossipTables {
    /// Opens the tables, and creates those that are not there.
    pub fn open(env: &Env, txn: &mut RwTxn<'_>) -> Result<Self, StoreError> {
        let mut table = |name| open_table(env, txn, name);
        let opened = Self {
            log: table("gossip-log-1")?,
            told: table("gossip-told-1")?,
            keys: table("gossip-keys-1")?,
            words: table("observations-1")?,
            order: table("observation-order-1")?,
            by_peer: table("observation-peers-1")?,
            notes: table("gossip-peers-1")?,
            standing: table("gossip-standing-1")?,
            hashes: table("peer-hashes-1")?,
            hash_index: table("peer-hash-index-1")?,
            consensus: table("consensus-1")?,
            sizes: table("consensus-sizes-1")?,
            disproved: table("disproved-1")?,
            sums: table("gossip-sums-1")?,
        };
        opened.mend(txn)?;
        Ok(opened)
    }

    /// The larger tables by name, for their sizes.
    pub(super) fn tables(&self) -> [(&'static str, Table); 4] {
        [
            ("gossip-told", self.told),
            ("observations", self.words),
            ("peer-hashes", self.hashes),
            ("consensus", self.consensus),
        ]
    }

    fn notes(&self, txn: &RoTxn<'_>, peer: PeerId) -> Result<Option<Notes>, StoreError> {
        get(self.notes, txn, &peer.0)
    }

    /// How far a peer's recordings and hashes were heard.
    pub fn heard(&self, txn: &RoTxn<'_>, peer: PeerId) -> Result<(Heard, Heard), StoreError> {
        let notes = self.notes(txn, peer)?.unwrap_or_default();
        Ok((notes.heard, notes.hashes))
    }

    fn standing(&self, txn: &RoTxn<'_>, peer: PeerId, notes: &Notes) -> Result<Standing, StoreError> {
        let known = get(self.standing, txn, &peer.0)?;
        // Of one that was noted before there was this table.
        Ok(known.unwrap_or(Standing { since: notes.at, ..Standing::default() }))
    }

    /// All peers with their notes, and since when they are known.
    fn all(&self, txn: &RoTxn<'_>) -> Result<Vec<(PeerId, Notes, UnixMs)>, StoreError> {
        let mut all = Vec::new();
        for row in self.notes.iter(txn)? {
            let (key, value) = row?;
            let (peer, notes) = (PeerId(part(key, 0)?), decode::<Notes>(value)?);
            all.push((peer, notes, self.standing(txn, peer, &notes)?.since));
        }
        Ok(all)
    }

    /// Makes room for the notes of a peer, a part at a time.
    pub fn make_room(
        &self,
        txn: &mut RwTxn<'_>,
        peer: PeerId,
        now: UnixMs,
        library: &LibraryTables,
    ) -> Result<Room, StoreError> {
        if self.notes.len(txn)? < limits::OBSERVERS || self.notes(txn, peer)?.is_some() {
            return Ok(Room::Made);
        }
        let silent = |notes: &Notes| now.since(notes.at).as_secs() >= limits::GOSSIP_SILENT_S;
        let all = self.all(txn)?.into_iter();
        let may_go = all.filter(|(_, notes, since)| !is_old(notes, *since) || silent(notes));
        let goes = may_go.min_by_key(|(peer, notes, since)| (is_old(notes, *since), notes.at, *peer));
        let Some((goes, ..)) = goes else { return Ok(Room::None) };
        self.void(txn, goes)?;
        self.void_hashes(txn, goes)?;
        if !self.sweep(txn, goes, library)? {
            self.notes.delete(txn, &goes.0)?;
            self.standing.delete(txn, &goes.0)?;
        }
        Ok(Room::Making)
    }

    /// The peer that loses one of these, when there are too many: of the young if they have any, whoever has most.
    fn richest(&self, txn: &RoTxn<'_>, share: Share) -> Result<Option<(PeerId, bool, u64)>, StoreError> {
        let has = |notes: &Notes| if share == Share::Words { notes.words } else { notes.hash_rows };
        let all = self.all(txn)?.into_iter().filter(|(_, notes, _)| has(notes) > 0);
        let ranked = all.map(|(peer, notes, since)| (peer, !is_old(&notes, since), has(&notes)));
        Ok(ranked.max_by_key(|(peer, young, has)| (*young, *has, *peer)))
    }

    /// The number of the next word. It is never given twice: what is void is told by it.
    fn next_order(&self, txn: &RoTxn<'_>) -> Result<u64, StoreError> {
        self.sums.get(txn, NEXT)?.map_or(Ok(1), |next| number(next, 0))
    }

    /// What a peer said of recordings so far is void.
    fn void(&self, txn: &mut RwTxn<'_>, peer: PeerId) -> Result<(), StoreError> {
        let void_before = self.next_order(txn)?;
        let notes = self.notes(txn, peer)?.unwrap_or_default();
        put(self.notes, txn, &peer.0, &Notes { void_before, ..notes })
    }

    /// Removes a part of what is void of a peer's words and hashes; true if there may be more.
    pub fn sweep(&self, txn: &mut RwTxn<'_>, peer: PeerId, library: &LibraryTables) -> Result<bool, StoreError> {
        const PART: usize = 64;
        let notes = self.notes(txn, peer)?.unwrap_or_default();
        let mut found = Vec::new();
        for row in self.by_peer.prefix_iter(txn, &peer.0)?.take(PART) {
            let (key, value) = row?;
            if number(key, 32)? >= notes.void_before {
                break;
            }
            found.push(recording(value, 0)?);
        }
        let mut more = found.len() == PART;
        for id in found {
            self.remove_word(txn, id, peer)?;
            library.put_todo(txn, Todo::Recording(id))?;
        }
        more |= self.sweep_hashes(txn, peer, &notes, PART)?;
        Ok(more)
    }

    fn remove_word(&self, txn: &mut RwTxn<'_>, id: u128, peer: PeerId) -> Result<(), StoreError> {
        let key = word_key(id, peer);
        let Some(word) = get::<Word>(self.words, txn, &key)? else { return Ok(()) };
        self.words.delete(txn, &key)?;
        self.order.delete(txn, &word.order.to_be_bytes())?;
        self.by_peer.delete(txn, &joined(&[&peer.0, &word.order.to_be_bytes()]))?;
        if let Some(mut notes) = self.notes(txn, peer)? {
            notes.words = notes.words.saturating_sub(1);
            put(self.notes, txn, &peer.0, &notes)?;
        }
        Ok(())
    }

    /// Keeps a peer's last words, each in the place of its earlier one on the same recording; without copies, that one is
    /// withdrawn. `void`: everything else it said is. What follows for the recordings is noted as to be done.
    pub fn keep(
        &self,
        txn: &mut RwTxn<'_>,
        (peer, heard, void): (PeerId, Heard, bool),
        words: &[(u128, Vec<Claim>)],
        now: UnixMs,
        library: &LibraryTables,
    ) -> Result<(), StoreError> {
        // Before anything is noted: what is noted of a peer makes it one that was met before.
        self.meets(txn, peer, now)?;
        if void {
            self.void(txn, peer)?;
        }
        let notes = self.notes(txn, peer)?.unwrap_or_default();
        put(self.notes, txn, &peer.0, &Notes { heard, at: now, ..notes })?;
        let mut rich = None;
        for (id, claims) in words {
            library.put_todo(txn, Todo::Recording(*id))?;
            self.remove_word(txn, *id, peer)?;
            if claims.is_empty() {
                continue;
            }
            let order = self.next_order(txn)?;
            self.sums.put(txn, NEXT, &order.saturating_add(1).to_be_bytes())?;
            let told = Told { at: now, claims: claims.iter().take(limits::GOSSIP_VARIANTS).cloned().collect() };
            let key = word_key(*id, peer);
            put(self.words, txn, &key, &Word { order, told })?;
            self.order.put(txn, &order.to_be_bytes(), &key)?;
            self.by_peer.put(txn, &joined(&[&peer.0, &order.to_be_bytes()]), &id.to_be_bytes())?;
            let mut notes = self.notes(txn, peer)?.unwrap_or_default();
            notes.words = notes.words.saturating_add(1);
            put(self.notes, txn, &peer.0, &notes)?;
            self.forget(txn, *id, peer, notes.words, &mut rich, library)?;
        }
        Ok(())
    }

    /// The notes of a peer that says something; the first time, it is known from now on.
    fn meets(&self, txn: &mut RwTxn<'_>, peer: PeerId, now: UnixMs) -> Result<Notes, StoreError> {
        let notes = self.notes(txn, peer)?;
        if notes.is_none() {
            let standing = get::<Standing>(self.standing, txn, &peer.0)?.unwrap_or_default();
            put(self.standing, txn, &peer.0, &Standing { since: now, ..standing })?;
        } else if get::<Standing>(self.standing, txn, &peer.0)?.is_none() {
            let since = notes.map_or(now, |notes| notes.at);
            put(self.standing, txn, &peer.0, &Standing { since, ..Standing::default() })?;
        }
        Ok(notes.unwrap_or_default())
    }

    /// After one more word: what is one too many goes. `rich` is remembered from word to word: looking for it is work.
    fn forget(
        &self,
        txn: &mut RwTxn<'_>,
        id: u128,
        peer: PeerId,
        words: u64,
        rich: &mut Option<PeerId>,
        library: &LibraryTables,
    ) -> Result<(), StoreError> {
        let mut too_many: Vec<(u128, PeerId)> = Vec::new();
        let mut poor = Vec::new();
        if words > limits::OBSERVATIONS_PER_PEER {
            poor.push(peer);
        }
        if self.words.len(txn)? > ALL {
            if rich.is_none() {
                *rich = self.richest(txn, Share::Words)?.map(|(peer, ..)| peer);
            }
            poor.extend(*rich);
        }
        for peer in poor {
            match self.by_peer.prefix_iter(txn, &peer.0)?.next() {
                Some(row) => too_many.push((recording(row?.1, 0)?, peer)),
                None => *rich = None,
            }
        }
        let mut of_recording = Vec::new();
        for row in self.words.prefix_iter(txn, &id.to_be_bytes())? {
            let (key, value) = row?;
            of_recording.push((decode::<Word>(value)?.order, PeerId(part(key, 16)?)));
        }
        if of_recording.len() > limits::OBSERVERS_PER_RECORDING {
            let mut known = Vec::new();
            for (order, peer) in of_recording {
                let notes = self.notes(txn, peer)?.unwrap_or_default();
                known.push((self.standing(txn, peer, &notes)?.since, order, peer));
            }
            too_many.extend(known.into_iter().max().map(|(_, _, newest)| (id, newest)));
        }
        for (id, peer) in too_many {
            self.remove_word(txn, id, peer)?;
            library.put_todo(txn, Todo::Recording(id))?;
        }
        Ok(())
    }

    /// Nobody is believed any more who says that this file is a copy of this recording. Beyond `limits::DISPROVED` one
    /// of the oldest is forgotten.
    pub fn disprove(
        &self,
        txn: &mut RwTxn<'_>,
        id: u128,
        content: ContentHash,
        now: UnixMs,
        library: &LibraryTables,
    ) -> Result<(), StoreError> {
        self.disproved.put(txn, &joined(&[&id.to_be_bytes(), &content.0]), &now.0.to_be_bytes())?;
        if self.disproved.len(txn)? > limits::DISPROVED {
            let mut oldest: Option<(u64, Vec<u8>)> = None;
            for row in self.disproved.iter(txn)? {
                let (key, value) = row?;
                let at = number(value, 0)?;
                if oldest.as_ref().is_none_or(|(oldest, _)| at < *oldest) {
                    oldest = Some((at, key.to_vec()));
                }
            }
            if let Some((_, key)) = oldest {
                self.disproved.delete(txn, &key)?;
            }
        }
        library.put_todo(txn, Todo::Recording(id))
    }

    /// The owner wants this file: what was found out is forgotten.
    pub fn believe(
        &self,
        txn: &mut RwTxn<'_>,
        id: u128,
        content: ContentHash,
        library: &LibraryTables,
    ) -> Result<(), StoreError> {
        self.disproved.delete(txn, &joined(&[&id.to_be_bytes(), &content.0]))?;
        library.put_todo(txn, Todo::Recording(id))
    }

    /// Whether this file was found to be no copy of this recording.
    pub fn is_disproved(&self, txn: &RoTxn<'_>, id: u128, content: ContentHash) -> Result<bool, StoreError> {
        Ok(self.disproved.get(txn, &joined(&[&id.to_be_bytes(), &content.0]))?.is_some())
    }

    /// What peers say of a recording, less what was found to be wrong.
    pub fn words_on(&self, txn: &RoTxn<'_>, id: u128) -> Result<Vec<(PeerId, Told)>, StoreError> {
        let mut found = Vec::new();
        for row in self.words.prefix_iter(txn, &id.to_be_bytes())?.take(limits::OBSERVERS_PER_RECORDING) {
            let (key, value) = row?;
            let (peer, mut word) = (PeerId(part(key, 16)?), decode::<Word>(value)?);
            let wrongs = word.told.claims.iter().map(|claim| self.is_disproved(txn, id, claim.content));
            let mut wrongs = wrongs.collect::<Result<Vec<bool>, StoreError>>()?.into_iter();
            word.told.claims.retain(|_| wrongs.next() == Some(false));
            let void_before = self.notes(txn, peer)?.unwrap_or_default().void_before;
            if word.order >= void_before && !word.told.claims.is_empty() {
                found.push((peer, word.told));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
