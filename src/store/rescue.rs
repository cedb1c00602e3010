//! Rescues, and what moved.
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | `rescue-jobs-1` | transfer id | [`RescueJob`] |
//! | `rescue-origins-1` | transfer id of a rescue | [`Origin`] |
//! | `download-recordings-1` | transfer id | MusicBrainz recording, 16 bytes |
//! | `traffic-1` | hour, 8 bytes | [`Moved`] |
//! | `traffic-mark-1` | nothing, one byte | [`Mark`] |

use std::collections::BTreeMap;
use std::ops::Bound;

use heed::{RoTxn, RwTxn};

use super::records::{Record, decode, get, put};
use super::tables::{Env, Table, open_table};
use super::{Store, StoreError};
use crate::engine::fairness::{HOURS, Mark};
use crate::model::id::TransferId;
use crate::model::limits;
use crate::model::rescue::{Moved, Origin, RescueJob, RescueState};

impl Record for RescueJob {
    const NAME: &'static str = "rescue";
    const VERSION: u8 = 1;
}

impl Record for Origin {
    const NAME: &'static str = "word of an origin";
    const VERSION: u8 = 1;
}

impl Record for Moved {
    const NAME: &'static str = "traffic";
    const VERSION: u8 = 1;
}

impl Record for Mark {
    const NAME: &'static str = "time of the traffic";
    const VERSION: u8 = 1;
}

const MARK: &[u8] = &[0];

/// The tables.
#[derive(Clone, Copy, Debug)]
pub struct RescueTables {
    jobs: Table,
    origins: Table,
    recordings: Table,
    traffic: Table,
    mark: Table,
}

impl RescueTables {
    /// Opens the tables, and creates those that are not there.
    pub fn open(env: &Env, txn: &mut RwTxn<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            jobs: open_table(env, txn, "rescue-jobs-1")?,
            origins: open_table(env, txn, "rescue-origins-1")?,
            recordings: open_table(env, txn, "download-recordings-1")?,
            traffic: open_table(env, txn, "traffic-1")?,
            mark: open_table(env, txn, "traffic-mark-1")?,
        })
    }

    /// The tables by name, for their sizes.
    pub(super) fn tables(&self) -> [(&'static str, Table); 3] {
        [("rescue-jobs", self.jobs), ("download-recordings", self.recordings), ("traffic", self.traffic)]
    }

    /// All rescues.
    pub fn jobs(&self, txn: &RoTxn<'_>) -> Result<Vec<RescueJob>, StoreError> {
        self.jobs.iter(txn)?.map(|entry| decode(entry?.1)).collect()
    }

    /// One rescue.
    pub fn job(&self, txn: &RoTxn<'_>, transfer: TransferId) -> Result<Option<RescueJob>, StoreError> {
        get(self.jobs, txn, &transfer.0.to_be_bytes())
    }

    /// New or replaced. Beyond `limits::RESCUES_KEPT` the oldest that is over is forgotten.
    pub fn put_job(&self, txn: &mut RwTxn<'_>, job: &RescueJob) -> Result<(), StoreError> {
        let key = job.transfer.0.to_be_bytes();
        if self.jobs.get(txn, &key)?.is_none() && self.jobs.len(txn)? >= limits::RESCUES_KEPT as u64 {
            let over = self.jobs(txn)?.into_iter().filter(|job| job.state != RescueState::Active);
            if let Some(oldest) = over.min_by_key(|job| job.ended_at) {
                self.jobs.delete(txn, &oldest.transfer.0.to_be_bytes())?;
                self.origins.delete(txn, &oldest.transfer.0.to_be_bytes())?;
            }
        }
        put(self.jobs, txn, &key, job)
    }

    /// What the user said of a file that a rescue brought.
    pub fn origin(&self, txn: &RoTxn<'_>, transfer: TransferId) -> Result<Option<Origin>, StoreError> {
        get(self.origins, txn, &transfer.0.to_be_bytes())
    }

    /// Keeps that, for as long as the rescue is kept. What was said first stays.
    pub fn put_origin(&self, txn: &mut RwTxn<'_>, transfer: TransferId, origin: Origin) -> Result<(), StoreError> {
        let key = transfer.0.to_be_bytes();
        let is_known = self.origins.get(txn, &key)?.is_some();
        if is_known || self.jobs.get(txn, &key)?.is_none() { Ok(()) } else { put(self.origins, txn, &key, &origin) }
    }

    /// The recording that a download is of.
    pub fn recording(&self, txn: &RoTxn<'_>, transfer: TransferId) -> Result<Option<u128>, StoreError> {
        let bytes = self.recordings.get(txn, &transfer.0.to_be_bytes())?;
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map(u128::from_be_bytes))
    }

    /// Keeps it. Of as many downloads as there may be; for one more another is forgotten.
    pub fn put_recording(&self, txn: &mut RwTxn<'_>, transfer: TransferId, recording: u128) -> Result<(), StoreError> {
        self.recordings.put(txn, &transfer.0.to_be_bytes(), &recording.to_be_bytes())?;
        if self.recordings.len(txn)? > limits::DOWNLOADS as u64 {
            let first = self
                .recordings
                .iter(txn)?
                .map(|row| row.map(|(key, _)| key.to_vec()))
                .find(|key| key.as_ref().is_ok_and(|key| key.as_slice() != transfer.0.to_be_bytes()));
            if let Some(first) = first.transpose()? {
                self.recordings.delete(txn, &first)?;
            }
        }
        Ok(())
    }

    /// What moved, by hour, and where time stood.
    pub fn traffic(&self, txn: &RoTxn<'_>) -> Result<(Vec<(u64, Moved)>, Mark), StoreError> {
        let rows = self.traffic.iter(txn)?.map(|row| {
            let (key, value) = row?;
            let hour = key.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)).unwrap_or_default();
            Ok((hour, decode(value)?))
        });
        let rows = rows.collect::<Result<_, StoreError>>()?;
        Ok((rows, get(self.mark, txn, MARK)?.unwrap_or_default()))
    }

    /// Keeps what moved in hours, and forgets those that are older than a month.
    pub fn put_traffic(&self, txn: &mut RwTxn<'_>, hours: &[(u64, Moved)], mark: Mark) -> Result<(), StoreError> {
        for (hour, moved) in hours {
            put(self.traffic, txn, &hour.to_be_bytes(), moved)?;
        }
        put(self.mark, txn, MARK, &mark)?;
        let oldest = (mark.hour + 1).saturating_sub(HOURS).to_be_bytes();
        self.traffic.delete_range(txn, &(Bound::Unbounded, Bound::Excluded(oldest.as_slice())))?;
        Ok(())
    }
}

impl Store {
    /// What users said of files that rescues brought, of these rescues.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn origins(&self, jobs: &[RescueJob]) -> Result<BTreeMap<TransferId, Origin>, StoreError> {
        self.read(|txn, tables| {
            let of = |job: &RescueJob| Ok(tables.rescue.origin(txn, job.transfer)?.map(|said| (job.transfer, said)));
            jobs.iter().filter_map(|job| of(job).transpose()).collect()
        })
    }

    /// All rescues.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn rescues(&self) -> Result<Vec<RescueJob>, StoreError> {
        self.read(|txn, tables| tables.rescue.jobs(txn))
    }

    /// Writes a rescue and waits until it is durable.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn put_rescue(&self, job: RescueJob) -> Result<(), StoreError> {
        self.write(move |txn, tables| tables.rescue.put_job(txn, &job)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::ContentHash;
    use crate::model::record::Change;
    use crate::model::rescue::{Manner, Reason};
    use crate::model::time::UnixMs;
    use crate::store::StoreOptions;

    #[tokio::test]
    async fn a_month_of_traffic_is_kept_through_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let moved = |n| Moved { overlay_up: n, ..Moved::default() };
        {
            let store = Store::open(folder.path(), StoreOptions::default()).unwrap();
            for hour in 0..800_u64 {
                let mark = Mark { hour, into_ms: 5, wall: UnixMs(7) };
                let hours = [(hour, moved(hour))];
                store.write(move |txn, tables| tables.rescue.put_traffic(txn, &hours, mark)).await.unwrap();
            }
        }
        let store = Store::open(folder.path(), StoreOptions::default()).unwrap();
        let (rows, mark) = store.read(|txn, tables| tables.rescue.traffic(txn)).unwrap();
        assert_eq!((rows.len() as u64, rows[0]), (HOURS, (79, moved(79))));
        assert_eq!(mark, Mark { hour: 799, into_ms: 5, wall: UnixMs(7) });
    }

    fn rescue(transfer: usize) -> RescueJob {
        RescueJob {
            transfer: TransferId(transfer as u128),
            user: "bob".into(),
            path: "a\\1.flac".into(),
            recording: None,
            reason: Reason::Stalled,
            activated_at: UnixMs(0),
            ended_at: Some(UnixMs(transfer as u64)),
            state: RescueState::Completed,
            content: ContentHash([0; 32]),
            size: 1,
            manner: Manner::Splice,
            name: String::new(),
            vouched_by: None,
            overlay_bytes: 0,
            soulseek_bytes: 0,
            hits: Vec::new(),
            told: String::new(),
            local_path: None,
            unwanted: false,
            liars: Vec::new(),
        }
    }

    #[tokio::test]
    async fn what_an_origin_said_is_kept_with_its_rescue_and_without_one_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), StoreOptions::default()).unwrap();
        store.put_rescue(rescue(1)).await.unwrap();
        let said = |transfer| Change::Origin(TransferId(transfer), Origin::OtherSize(7));
        store.apply(vec![said(1), said(2)]).await.unwrap();
        let of = |transfer| store.read(|txn, tables| tables.rescue.origin(txn, TransferId(transfer))).unwrap();
        assert_eq!((of(1), of(2)), (Some(Origin::OtherSize(7)), None));
        let known = store.origins(&[rescue(1), rescue(2)]).unwrap();
        assert_eq!(known, [(TransferId(1), Origin::OtherSize(7))].into());
        // Forgotten together.
        for transfer in 2..=limits::RESCUES_KEPT + 1 {
            store.put_rescue(rescue(transfer)).await.unwrap();
        }
        assert_eq!((store.rescues().unwrap().len(), of(1)), (limits::RESCUES_KEPT, None));
    }
}
