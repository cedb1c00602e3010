//! What jobs let their fetches take: a speed for all fetches of one job together, and bytes within 24 hours for those of all
//! jobs. Which fetches are a job's is told by the folder they go to, so that it holds for those that go on after a
//! restart as well: until their job says how fast they may be, nothing is asked for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::assist::{Quota, RUN_LEN, SetAside};
use super::{MeshService, locked};
use crate::app::jobs::STAGING;
use crate::app::pump::Bucket;

/// Holds the fetches of one job.
#[derive(Debug)]
pub(super) struct Leash {
    /// What all of them get together.
    pub(super) down: Bucket,
    /// Its job said how fast.
    known: AtomicBool,
    quota: Arc<Quota>,
}

impl Leash {
    fn new(quota: &Arc<Quota>) -> Self {
        Self { down: Bucket::new(0), known: AtomicBool::new(false), quota: Arc::clone(quota) }
    }

    /// Nothing may be asked for now, and perhaps not for long: not as one that is merely slowed down.
    pub(super) fn is_held(&self) -> bool {
        !self.known.load(Ordering::Relaxed) || self.quota.left() < RUN_LEN
    }

    /// Room for a run, if one may be asked for now.
    pub(super) fn open(&self) -> Option<SetAside> {
        if self.known.load(Ordering::Relaxed) { self.quota.set_aside() } else { None }
    }
}

/// Those of all jobs.
#[derive(Debug, Default)]
pub(super) struct Leashes {
    quota: Arc<Quota>,
    /// By folder; those that no fetch has go with the next change. Short and synchronous.
    all: Mutex<BTreeMap<String, Arc<Leash>>>,
}

impl Leashes {
    /// What holds a fetch into this folder; `None`: it is no job's.
    pub(super) fn of(&self, folder: &str) -> Option<Arc<Leash>> {
        folder.strip_prefix(STAGING).filter(|rest| rest.starts_with('/'))?;
        let mut all = locked(&self.all);
        all.retain(|known, leash| known == folder || Arc::strong_count(leash) > 1);
        let leash = all.entry(folder.to_owned()).or_insert_with(|| Arc::new(Leash::new(&self.quota)));
        Some(Arc::clone(leash))
    }
}

impl MeshService {
    fn leash(&self, folder: &str) -> Option<Arc<Leash>> {
        self.running.as_ref()?.leashes.of(folder)
    }

    /// Fetches into this folder, a job's, get so many bytes per second together; `None`: as many as come.
    pub fn slow_down(&self, folder: &str, rate: Option<u64>) {
        let Some(leash) = self.leash(folder) else { return };
        // Of a bucket 0 is no limit.
        let rate = rate.map_or(0, |rate| rate.max(1));
        if leash.down.rate() != rate {
            leash.down.set_rate(rate);
        }
        leash.known.store(true, Ordering::Relaxed);
    }

    /// Whether nothing is asked for on behalf of a job with this folder, by a rule and not for want of peers.
    pub fn holds(&self, folder: &str) -> bool {
        self.is_paused() || self.leash(folder).is_some_and(|leash| leash.is_held())
    }

    /// What the fetches of all jobs may still bring; `None`: the mesh is off.
    pub fn quota_of_jobs(&self) -> Option<Arc<Quota>> {
        Some(Arc::clone(&self.running.as_ref()?.leashes.quota))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_fetches_waits_for_its_word_and_for_room() {
        let leashes = Leashes::default();
        leashes.quota.set(2 * RUN_LEN, 0);
        for folder in ["", "Music", ".jobs", ".jobsx/1"] {
            assert!(leashes.of(folder).is_none(), "{folder} is no job's");
        }
        let leash = leashes.of(".jobs/1").unwrap();
        assert!(leash.is_held() && leash.open().is_none(), "how fast is not known yet");
        leash.known.store(true, Ordering::Relaxed);
        let again = leashes.of(".jobs/1").unwrap();
        assert!(!again.is_held(), "all fetches of a job have one");
        let mut first = leash.open().unwrap();
        first.ask(RUN_LEN);
        let other = leashes.of(".jobs/2").unwrap();
        other.known.store(true, Ordering::Relaxed);
        let mut second = other.open().unwrap();
        second.ask(RUN_LEN);
        assert!(leash.open().is_none() && leash.is_held() && other.is_held(), "the day's bytes are all jobs'");
        drop((first, second));
        assert!(leash.is_held(), "what came counts until it is in what is set");
        leashes.quota.set(RUN_LEN, leashes.quota.over());
        assert!(leash.open().is_some());
    }

    #[test]
    fn those_of_jobs_that_are_over_are_forgotten() {
        let leashes = Leashes::default();
        let kept = leashes.of(".jobs/kept").unwrap();
        for n in 0..100 {
            leashes.of(&format!(".jobs/{n}"));
        }
        let all = locked(&leashes.all);
        assert!(all.len() <= 2 && Arc::ptr_eq(&all[".jobs/kept"], &kept), "{}", all.len());
    }
}
