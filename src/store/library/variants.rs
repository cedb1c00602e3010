//! Measured copies: by content, by recording, by release, by likeness; and what is known of each recording.

use std::ops::Bound;

use heed::{RoTxn, RwTxn};

use super::{LibraryTables, Todo, damaged, owned};
use crate::model::health::{CanonicalStats, Variant};
use crate::model::id::ContentHash;
use crate::model::limits;
use crate::store::StoreError;
use crate::store::records::{decode, get, put};

/// Recording, profile, 0, content hash.
fn variant_key(variant: &Variant) -> Vec<u8> {
    let mut key = canonical_key(variant.identity.recording_id.unwrap_or(0), &variant.profile());
    key.push(0);
    key.extend_from_slice(&variant.hash().0);
    key
}

fn canonical_key(recording: u128, profile: &str) -> Vec<u8> {
    let mut key = recording.to_be_bytes().to_vec();
    key.extend_from_slice(profile.as_bytes());
    key
}

fn release_key(release: u128, hash: ContentHash) -> [u8; 48] {
    let mut key = [0; 48];
    key[..16].copy_from_slice(&release.to_be_bytes());
    key[16..].copy_from_slice(&hash.0);
    key
}

fn sketch_key(duration_ms: u64, hash: ContentHash) -> [u8; 36] {
    let seconds = u32::try_from(duration_ms / 1_000).unwrap_or(u32::MAX);
    let mut key = [0; 36];
    key[..4].copy_from_slice(&seconds.to_be_bytes());
    key[4..].copy_from_slice(&hash.0);
    key
}

/// What a copy brings to the tables, and what it takes with it.
fn release_of(variant: &Variant) -> Option<u128> {
    variant.measured.tags.release_id.or(variant.identity.release_id)
}

impl LibraryTables {
    /// A copy by its content, with its fingerprint.
    pub fn variant(&self, txn: &RoTxn<'_>, hash: ContentHash) -> Result<Option<Variant>, StoreError> {
        let Some(mut variant) = self.bare_variant(txn, hash)? else { return Ok(None) };
        variant.measured.fingerprint = self.print(txn, hash)?;
        Ok(Some(variant))
    }

    /// A copy by its content, without its fingerprint.
    pub fn bare_variant(&self, txn: &RoTxn<'_>, hash: ContentHash) -> Result<Option<Variant>, StoreError> {
        let Some(key) = self.variant_keys.get(txn, &hash.0)? else { return Ok(None) };
        get(self.variants, txn, key)
    }

    /// The fingerprint of a copy; empty when it has none.
    pub fn print(&self, txn: &RoTxn<'_>, hash: ContentHash) -> Result<Vec<u32>, StoreError> {
        let bytes = self.prints.get(txn, &hash.0)?.unwrap_or_default();
        Ok(bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }

    /// Copies of a recording without their fingerprints, at most `limits::VARIANTS_PER_RECORDING`.
    pub fn variants_of(&self, txn: &RoTxn<'_>, recording: u128) -> Result<Vec<Variant>, StoreError> {
        let prefix = recording.to_be_bytes();
        let entries = self.variants.prefix_iter(txn, &prefix)?.take(limits::VARIANTS_PER_RECORDING);
        entries.map(|entry| decode(entry?.1)).collect()
    }

    /// Contents of the files that belong to a release, at most `limit`.
    pub fn release_variants(
        &self,
        txn: &RoTxn<'_>,
        release: u128,
        limit: usize,
    ) -> Result<Vec<ContentHash>, StoreError> {
        let entries = self.releases.prefix_iter(txn, &release.to_be_bytes())?.take(limit);
        entries
            .map(|entry| {
                let hash = entry?.0.get(16..).and_then(|hash| hash.try_into().ok());
                hash.map(ContentHash).ok_or_else(|| damaged("release of a variant", "the key is no hash"))
            })
            .collect()
    }

    /// Contents and sketches of the copies whose duration is at most `within_ms` from this one, with a fingerprint.
    pub fn like(
        &self,
        txn: &RoTxn<'_>,
        duration_ms: u64,
        within_ms: u64,
    ) -> Result<Vec<(ContentHash, u64)>, StoreError> {
        let from = sketch_key(duration_ms.saturating_sub(within_ms), ContentHash([0; 32]));
        let to = sketch_key(duration_ms.saturating_add(within_ms), ContentHash([0xff; 32]));
        let range = (Bound::Included(&from[..]), Bound::Included(&to[..]));
        let mut found = Vec::new();
        for entry in self.sketches.range(txn, &range)? {
            let (key, value) = entry?;
            let hash = key.get(4..).and_then(|hash| hash.try_into().ok());
            let sketch = value.try_into().map(u64::from_be_bytes);
            let (Some(hash), Ok(sketch)) = (hash, sketch) else { return Err(damaged("sketch", "not 8 bytes")) };
            found.push((ContentHash(hash), sketch));
        }
        Ok(found)
    }

    /// All copies after one, without fingerprints, in the order of recordings: for judging them anew.
    pub fn variants_after(
        &self,
        txn: &RoTxn<'_>,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Variant)>, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.variants.range(txn, &(from, Bound::Unbounded))?.take(limit);
        entries
            .map(|entry| {
                let (key, value) = entry?;
                Ok((key.to_vec(), decode(value)?))
            })
            .collect()
    }

    /// Writes a copy. With an empty fingerprint the stored one stays. What it changes for recordings and releases, its
    /// old ones included, is noted as to be done.
    pub(super) fn put_variant(&self, txn: &mut RwTxn<'_>, variant: &Variant) -> Result<(), StoreError> {
        let hash = variant.hash();
        let key = variant_key(variant);
        if let Some(old_key) = owned(self.variant_keys.get(txn, &hash.0)?) {
            let old: Option<Variant> = get(self.variants, txn, &old_key)?;
            if let Some(old) = &old {
                self.touch(txn, old)?;
                if let Some(release) = release_of(old) {
                    self.releases.delete(txn, &release_key(release, hash))?;
                }
            }
            if old_key != key {
                self.variants.delete(txn, &old_key)?;
            }
        }
        self.variant_keys.put(txn, &hash.0, &key)?;
        if !variant.measured.fingerprint.is_empty() {
            let words = variant.measured.fingerprint.iter().take(limits::FINGERPRINT_WORDS);
            let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
            self.prints.put(txn, &hash.0, &bytes)?;
            let sketch = variant.measured.sketch.to_be_bytes();
            self.sketches.put(txn, &sketch_key(variant.measured.duration_ms, hash), &sketch)?;
        }
        let mut bare = variant.clone();
        bare.measured.fingerprint = Vec::new();
        put(self.variants, txn, &key, &bare)?;
        if let Some(release) = release_of(variant) {
            self.releases.put(txn, &release_key(release, hash), &[])?;
        }
        self.touch(txn, variant)
    }

    pub(super) fn remove_variant(&self, txn: &mut RwTxn<'_>, variant: &Variant) -> Result<(), StoreError> {
        let hash = variant.hash();
        self.touch(txn, variant)?;
        if let Some(key) = owned(self.variant_keys.get(txn, &hash.0)?) {
            self.variants.delete(txn, &key)?;
        }
        self.variant_keys.delete(txn, &hash.0)?;
        self.prints.delete(txn, &hash.0)?;
        self.sketches.delete(txn, &sketch_key(variant.measured.duration_ms, hash))?;
        if let Some(release) = release_of(variant) {
            self.releases.delete(txn, &release_key(release, hash))?;
        }
        self.remove_todo(txn, Todo::Identify(hash))
    }

    /// What is known of its recording and release is old.
    fn touch(&self, txn: &mut RwTxn<'_>, variant: &Variant) -> Result<(), StoreError> {
        if let Some(recording) = variant.identity.recording_id {
            self.put_todo(txn, Todo::Recording(recording))?;
            self.put_todo(txn, Todo::Tell(recording))?;
        }
        if let Some(release) = release_of(variant) {
            self.put_todo(txn, Todo::Release(release))?;
        }
        Ok(())
    }

    /// What is known of a recording, by profile.
    pub fn canonical(&self, txn: &RoTxn<'_>, recording: u128) -> Result<Vec<CanonicalStats>, StoreError> {
        let entries = self.canonical.prefix_iter(txn, &recording.to_be_bytes())?;
        entries.map(|entry| decode(entry?.1)).collect()
    }

    /// Replaces what is known of a recording.
    pub(super) fn put_canonical(
        &self,
        txn: &mut RwTxn<'_>,
        recording: u128,
        stats: &[CanonicalStats],
    ) -> Result<(), StoreError> {
        let mut old = Vec::new();
        for entry in self.canonical.prefix_iter(txn, &recording.to_be_bytes())? {
            old.push(entry?.0.to_vec());
        }
        for key in old {
            self.canonical.delete(txn, &key)?;
        }
        for row in stats {
            put(self.canonical, txn, &canonical_key(recording, &row.profile), row)?;
        }
        Ok(())
    }

    /// Recordings with statistics after one, at most `limit`.
    pub fn recordings_after(
        &self,
        txn: &RoTxn<'_>,
        after: Option<u128>,
        limit: usize,
    ) -> Result<Vec<u128>, StoreError> {
        let from = after.map_or(Some(0), |id| id.checked_add(1)).map(u128::to_be_bytes);
        let Some(from) = from else { return Ok(Vec::new()) };
        let mut found: Vec<u128> = Vec::new();
        for entry in self.canonical.range(txn, &(Bound::Included(&from[..]), Bound::Unbounded))? {
            let (key, _) = entry?;
            let id = key.first_chunk().map(|id| u128::from_be_bytes(*id));
            let id = id.ok_or_else(|| damaged("canonical statistics", "the key is short"))?;
            if found.last() != Some(&id) {
                if found.len() >= limit {
                    break;
                }
                found.push(id);
            }
        }
        Ok(found)
    }
}
