//! Repairs of issues.
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | `repairs-1` | issue id | [`Repair`] |
//!
//! At most `limits::REPAIRS`: for a new one the one that ended longest ago is forgotten. While none has ended a new one
//! is not kept, and whoever writes it is told.

use heed::{RoTxn, RwTxn};

use super::records::{Record, decode, get, put};
use super::tables::{Env, Table, open_table};
use super::{Store, StoreError};
use crate::model::id::IssueId;
use crate::model::job::JobId;
use crate::model::limits;
use crate::model::repair::Repair;

impl Record for Repair {
    const NAME: &'static str = "repair";
    const VERSION: u8 = 1;
}

/// The table.
#[derive(Clone, Copy, Debug)]
pub struct RepairTables {
    repairs: Table,
}

fn key(issue: IssueId) -> [u8; 16] {
    issue.0.to_be_bytes()
}

impl RepairTables {
    /// Opens the table, and creates it if it is not there.
    pub fn open(env: &Env, txn: &mut RwTxn<'_>) -> Result<Self, StoreError> {
        Ok(Self { repairs: open_table(env, txn, "repairs-1")? })
    }

    /// The table by name, for its size.
    pub(super) fn tables(&self) -> [(&'static str, Table); 1] {
        [("repairs", self.repairs)]
    }

    /// The repair of an issue.
    pub fn repair(&self, txn: &RoTxn<'_>, issue: IssueId) -> Result<Option<Repair>, StoreError> {
        get(self.repairs, txn, &key(issue))
    }

    /// Those that are wanted, in no order that means anything.
    pub fn those(&self, txn: &RoTxn<'_>, wanted: impl Fn(&Repair) -> bool) -> Result<Vec<Repair>, StoreError> {
        let rows = self.repairs.iter(txn)?.map(|entry| decode::<Repair>(entry?.1));
        rows.filter(|row| row.as_ref().map_or(true, &wanted)).collect()
    }

    /// The repairs that one job fetches for, by track.
    pub fn of_job(&self, txn: &RoTxn<'_>, job: &JobId) -> Result<Vec<Repair>, StoreError> {
        let mut rows = self.those(txn, |repair| repair.job == *job)?;
        rows.sort_by_key(|repair| (repair.track, repair.issue));
        Ok(rows)
    }

    /// New or replaced; `false`: there is no room, and it is not kept.
    pub fn put(&self, txn: &mut RwTxn<'_>, repair: &Repair) -> Result<bool, StoreError> {
        let is_new = self.repairs.get(txn, &key(repair.issue))?.is_none();
        if is_new && self.repairs.len(txn)? >= limits::REPAIRS {
            let over = self.those(txn, |repair| !repair.state.is_live())?;
            let Some(oldest) = over.into_iter().min_by_key(|repair| (repair.ended_at, repair.issue)) else {
                return Ok(false);
            };
            self.repairs.delete(txn, &key(oldest.issue))?;
        }
        put(self.repairs, txn, &key(repair.issue), repair)?;
        Ok(true)
    }

    /// Forgets the repair of an issue.
    pub fn remove(&self, txn: &mut RwTxn<'_>, issue: IssueId) -> Result<(), StoreError> {
        self.repairs.delete(txn, &key(issue))?;
        Ok(())
    }
}

impl Store {
    /// The repair of an issue.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn repair(&self, issue: IssueId) -> Result<Option<Repair>, StoreError> {
        self.read(|txn, tables| tables.repairs.repair(txn, issue))
    }

    /// The repairs that one job fetches for.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn repairs_of(&self, job: &JobId) -> Result<Vec<Repair>, StoreError> {
        self.read(|txn, tables| tables.repairs.of_job(txn, job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::repair::{Manner, RepairState, Strategy};
    use crate::model::time::UnixMs;
    use crate::store::StoreOptions;

    fn repair(n: u64, state: RepairState) -> Repair {
        let over = !state.is_live();
        Repair {
            issue: IssueId(u128::from(n)),
            job: JobId::from_random(u128::from(n % 3)),
            track: Some(0),
            strategy: Strategy::RedownloadTracks,
            manner: Manner::Backup,
            old: None,
            new: None,
            places: None,
            state,
            by_itself: false,
            keep_tags: false,
            tags_kept: false,
            told: true,
            began_at: UnixMs(n),
            updated_at: UnixMs(n),
            ended_at: over.then_some(UnixMs(n)),
        }
    }

    #[tokio::test]
    async fn repairs_are_bounded_and_live_ones_are_never_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), StoreOptions::default()).unwrap();
        let full = limits::REPAIRS;
        store
            .write(move |txn, tables| {
                for n in 0..full {
                    // The second oldest of all is the oldest that is over.
                    let state = if n == 1 || n == 5 { RepairState::Done } else { RepairState::Fetching };
                    assert!(tables.repairs.put(txn, &repair(n, state))?);
                }
                assert!(tables.repairs.put(txn, &repair(full, RepairState::Fetching))?);
                assert!(tables.repairs.repair(txn, IssueId(1))?.is_none());
                assert!(tables.repairs.put(txn, &repair(full + 1, RepairState::Fetching))?);
                assert!(!tables.repairs.put(txn, &repair(full + 2, RepairState::Fetching))?, "nothing has ended");
                // One that is there can always be written.
                assert!(tables.repairs.put(txn, &repair(0, RepairState::Failed("why".into())))?);
                Ok(())
            })
            .await
            .unwrap();
        let count = store.read(|txn, tables| Ok(tables.repairs.those(txn, |_| true)?.len())).unwrap();
        assert_eq!(count as u64, full);
        assert_eq!(store.repair(IssueId(0)).unwrap().unwrap().state.failure(), Some("why"));
        let of_job = store.repairs_of(&JobId::from_random(1)).unwrap();
        assert!(of_job.len() as u64 >= full / 3 - 1 && of_job.is_sorted_by_key(|repair| repair.issue));
    }
}
