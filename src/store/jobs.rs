//! The tables of jobs.
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | `jobs-1` | id | [`Job`] |
//! | `job-order-1` | created, newest first; id | nothing |
//! | `job-work-2` | id | [`Work`] |
//!
//! At most `limits::JOBS`: for a new one the oldest that is over is forgotten. Its manifest stays where it is.

use std::time::Duration;

use heed::{RoTxn, RwTxn};

use super::records::{Record, decode, get, put};
use super::tables::{Env, Table, Tables, open_table};
use super::{Store, StoreError};
use crate::engine::jobs::work::Work;
use crate::engine::swarm::metrics::SourceMetrics;
use crate::engine::swarm::reputation::Reputation;
use crate::model::id::Username;
use crate::model::job::{Job, JobId};
use crate::model::limits;
use crate::model::swarm::Source;
use crate::model::time::UnixMs;

impl Record for Job {
    const NAME: &'static str = "job";
    const VERSION: u8 = 1;
}

impl Record for Work {
    const NAME: &'static str = "work of a job";
    const VERSION: u8 = 1;
}

/// The tables of jobs.
#[derive(Clone, Copy, Debug)]
pub struct JobTables {
    jobs: Table,
    order: Table,
    work: Table,
}

fn order_key(job: &Job) -> Vec<u8> {
    let mut key = (!job.created_at.0).to_be_bytes().to_vec();
    key.extend_from_slice(job.id.as_str().as_bytes());
    key
}

impl JobTables {
    /// Opens the tables, and creates those that are not there.
    pub fn open(env: &Env, txn: &mut RwTxn<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            jobs: open_table(env, txn, "jobs-1")?,
            order: open_table(env, txn, "job-order-1")?,
            work: open_table(env, txn, "job-work-2")?,
        })
    }

    /// The tables by name, for their sizes.
    pub(super) fn tables(&self) -> [(&'static str, Table); 1] {
        [("jobs", self.jobs)]
    }

    /// One job.
    pub fn job(&self, txn: &RoTxn<'_>, id: &JobId) -> Result<Option<Job>, StoreError> {
        get(self.jobs, txn, id.as_str().as_bytes())
    }

    /// What a job has been through; nothing if nothing is known.
    pub fn work(&self, txn: &RoTxn<'_>, id: &JobId) -> Result<Work, StoreError> {
        Ok(get(self.work, txn, id.as_str().as_bytes())?.unwrap_or_default())
    }

    /// Hands out all jobs, newest first, one at a time, until `each` has enough.
    pub fn each(&self, txn: &RoTxn<'_>, mut each: impl FnMut(Job) -> bool) -> Result<(), StoreError> {
        for entry in self.order.iter(txn)? {
            let (key, _) = entry?;
            let Some(value) = self.jobs.get(txn, key.get(8..).unwrap_or_default())? else { continue };
            if !each(decode(value)?) {
                break;
            }
        }
        Ok(())
    }

    /// New or replaced, with what it has been through; nothing of that is kept of one that is over. `Some`: another was
    /// forgotten for it.
    pub fn put(&self, txn: &mut RwTxn<'_>, job: &Job, work: &Work) -> Result<Option<JobId>, StoreError> {
        let key = job.id.as_str().as_bytes();
        let mut forgotten = None;
        if self.jobs.get(txn, key)?.is_none() && self.jobs.len(txn)? >= limits::JOBS {
            let mut oldest = None;
            self.each(txn, |old| {
                if old.state.is_over() {
                    oldest = Some(old);
                }
                true
            })?;
            if let Some(old) = oldest {
                let key = old.id.as_str().as_bytes();
                self.jobs.delete(txn, key)?;
                self.work.delete(txn, key)?;
                self.order.delete(txn, &order_key(&old))?;
                forgotten = Some(old.id);
            }
        }
        put(self.jobs, txn, key, job)?;
        self.order.put(txn, &order_key(job), &[])?;
        if job.state.is_over() {
            self.work.delete(txn, key)?;
        } else {
            put(self.work, txn, key, work)?;
        }
        Ok(forgotten)
    }
}

impl Store {
    /// One job and what it has been through.
    pub fn job(&self, id: &JobId) -> Result<Option<(Job, Work)>, StoreError> {
        self.read(|txn, tables| match tables.jobs.job(txn, id)? {
            Some(job) => Ok(Some((job, tables.jobs.work(txn, id)?))),
            None => Ok(None),
        })
    }

    /// Writes a job, and what it learned of users by now, both or neither; waits until it is durable.
    pub async fn put_job_and_learn(
        &self,
        job: Job,
        work: Work,
        deeds: Vec<(Username, Reputation)>,
        now: UnixMs,
        half_life: Duration,
    ) -> Result<(), StoreError> {
        let of = |(user, deed)| (Source::Soulseek(user), SourceMetrics::default(), deed);
        let records: Vec<_> = deeds.into_iter().map(of).collect();
        let both = move |txn: &mut RwTxn<'_>, tables: &Tables| {
            tables.jobs.put(txn, &job, &work)?;
            if records.is_empty() { Ok(()) } else { tables.mesh.learn(txn, &records, now, half_life) }
        };
        self.write(both).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::jobs::deed::Deed;
    use crate::model::id::{RecordingId, ReleaseId};
    use crate::model::job::{Child, Constraints, JobState, JobTrack, MbRelease};
    use crate::model::time::UnixMs;
    use crate::store::StoreOptions;

    fn job(n: u64, state: JobState) -> Job {
        let track = JobTrack {
            medium: 1,
            position: 1,
            title: "t".into(),
            artist: String::new(),
            recording: RecordingId(1),
            duration_ms: Some(1_000),
        };
        Job {
            id: format!("job-{n}").parse().unwrap(),
            origin: None,
            created_at: UnixMs(n),
            updated_at: UnixMs(n),
            started_at: None,
            completed_at: None,
            spec: MbRelease {
                release: ReleaseId(1),
                title: "t".into(),
                artist: "a".into(),
                target_dir: "d".into(),
                tracks: vec![track],
                constraints: Constraints::default(),
            },
            state,
            error: None,
            children: vec![Child::new()],
        }
    }

    #[tokio::test]
    async fn jobs_are_kept_newest_first_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), StoreOptions::default()).unwrap();
        let work = Work { rounds: 3, ..Work::new(1) };
        store
            .put_job_and_learn(job(1, JobState::Running), work.clone(), Vec::new(), UnixMs(0), Duration::ZERO)
            .await
            .unwrap();
        store
            .put_job_and_learn(job(2, JobState::Completed), work.clone(), Vec::new(), UnixMs(0), Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(store.job(&job(1, JobState::Running).id).unwrap(), Some((job(1, JobState::Running), work.clone())));
        let over = store.job(&job(2, JobState::Running).id).unwrap().unwrap();
        assert_eq!(over.1, Work::default(), "nothing is remembered of one that is over");
        let ids = |store: &Store| {
            let mut ids = Vec::new();
            let read = store.read(|txn, tables| {
                tables.jobs.each(txn, |job| {
                    ids.push(job.created_at.0);
                    true
                })
            });
            read.unwrap();
            ids
        };
        assert_eq!(ids(&store), [2, 1]);
        store
            .write(move |txn, tables| {
                for n in 3..=limits::JOBS + 1 {
                    tables.jobs.put(txn, &job(n, JobState::Completed), &Work::default())?;
                }
                Ok(())
            })
            .await
            .unwrap();
        let kept = ids(&store);
        assert_eq!((kept.len() as u64, kept.last(), kept.contains(&2)), (limits::JOBS, Some(&1), false));
    }

    #[tokio::test]
    #[allow(clippy::float_cmp, reason = "ones and halves are exact")]
    async fn what_a_job_learned_of_users_is_kept_with_it_and_fades() {
        let folder = tempfile::tempdir().unwrap();
        let half_life = Duration::from_secs(7 * 24 * 3_600);
        let week = u64::try_from(half_life.as_millis()).unwrap();
        let store = Store::open(folder.path(), StoreOptions::default()).unwrap();
        let known = |user: &str| store.source(&Source::Soulseek(user.into())).unwrap().1;
        let deeds = |list: &[(&str, Deed)]| list.iter().map(|(user, deed)| ((*user).into(), deed.counted())).collect();
        let put = |n, list: &[(&str, Deed)], now| {
            store.put_job_and_learn(job(n, JobState::Running), Work::new(1), deeds(list), now, half_life)
        };
        put(1, &[("liar", Deed::Untrue), ("honest", Deed::Kept), ("liar", Deed::Untrue)], UnixMs(week)).await.unwrap();
        put(2, &[], UnixMs(week)).await.unwrap();
        assert_eq!((known("liar").corrupt, known("honest").successful), (2.0, 1.0));
        assert_eq!(known("nobody"), Reputation::default());
        assert!(store.job(&job(2, JobState::Running).id).unwrap().is_some());
        // Another job, a week later.
        put(2, &[("liar", Deed::Late)], UnixMs(2 * week)).await.unwrap();
        assert_eq!((known("liar").corrupt, known("liar").timed_out), (1.0, 1.0));
    }
}
