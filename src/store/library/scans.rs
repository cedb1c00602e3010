//! Scans, newest first.

use heed::{RoTxn, RwTxn};

use super::{LibraryTables, owned};
use crate::model::health::{LocalPath, Scan, ScanStatus};
use crate::model::id::ScanId;
use crate::model::limits;
use crate::store::StoreError;
use crate::store::records::{decode, get, put};

/// Newest first, id.
fn scan_key(scan: &Scan) -> [u8; 24] {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&(!scan.started_at.0).to_be_bytes());
    key[8..].copy_from_slice(&scan.id.0.to_be_bytes());
    key
}

impl LibraryTables {
    /// One scan.
    pub fn scan(&self, txn: &RoTxn<'_>, id: ScanId) -> Result<Option<Scan>, StoreError> {
        let Some(key) = self.scan_keys.get(txn, &id.0.to_be_bytes())? else { return Ok(None) };
        get(self.scans, txn, key)
    }

    /// All scans, newest first.
    pub fn scans(&self, txn: &RoTxn<'_>) -> Result<Vec<Scan>, StoreError> {
        self.scans.iter(txn)?.map(|entry| decode(entry?.1)).collect()
    }

    /// The scan that was cut short, if one was.
    pub fn unfinished_scan(&self, txn: &RoTxn<'_>) -> Result<Option<Scan>, StoreError> {
        Ok(self.scans(txn)?.into_iter().find(|scan| scan.status == ScanStatus::Running))
    }

    /// The last scan that ended and looked at this folder, or at anything.
    pub(super) fn last_scan(&self, txn: &RoTxn<'_>, folder: Option<&LocalPath>) -> Result<Option<Scan>, StoreError> {
        let covers =
            |scan: &Scan| folder.is_none_or(|folder| scan.request.paths.iter().any(|path| folder.is_within(&path.0)));
        let mut scans = self.scans(txn)?.into_iter();
        Ok(scans.find(|scan| scan.status != ScanStatus::Running && covers(scan)))
    }

    /// Writes a scan; the oldest is forgotten when there are too many.
    pub fn put_scan(&self, txn: &mut RwTxn<'_>, scan: &Scan) -> Result<(), StoreError> {
        let (id, key) = (scan.id.0.to_be_bytes(), scan_key(scan));
        if let Some(old) = owned(self.scan_keys.get(txn, &id)?)
            && old != key
        {
            self.scans.delete(txn, &old)?;
        }
        self.scan_keys.put(txn, &id, &key)?;
        put(self.scans, txn, &key, scan)?;
        while self.scans.len(txn)? > limits::SCANS as u64 {
            let Some(oldest) = owned(self.scans.last(txn)?.map(|(key, _)| key)) else { break };
            self.scan_keys.delete(txn, oldest.get(8..).unwrap_or_default())?;
            self.scans.delete(txn, &oldest)?;
        }
        Ok(())
    }
}
