//! Which downloads hang, and which rescues begin or go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Inner, Live, Tried, job, locked};
use crate::engine::swarm::rescue::Detector;
use crate::model::id::TransferId;
use crate::model::limits;
use crate::model::rescue::{Reason, RescueJob, RescueState};
use crate::model::transfer::Direction;
use crate::store::StoreError;

/// Takes a rescue off the list of those under way, whatever ends it.
struct Listed {
    inner: Arc<Inner>,
    id: TransferId,
}

impl Drop for Listed {
    fn drop(&mut self) {
        locked(&self.inner.live).remove(&self.id);
    }
}

impl Inner {
    /// Downloads that failed since the last look, and those that failed before and may be rescued.
    async fn look_for_failed(&self, here: &BTreeSet<TransferId>) -> Vec<(TransferId, Reason)> {
        let gone: Vec<TransferId> = {
            let mut watched = locked(&self.watched);
            let before = std::mem::replace(&mut watched.here, here.clone());
            before.into_iter().chain(watched.failed.keys().copied()).filter(|id| !here.contains(id)).collect()
        };
        let mut failed = BTreeMap::new();
        if !gone.is_empty() {
            self.flush().await;
        }
        for id in gone {
            if failed.len() >= limits::RESCUES_FAILED {
                break;
            }
            if let Some(download) = self.failed_now(id).await {
                let reason = if download.bytes_done > 0 { Reason::Stalled } else { Reason::PeerDisconnected };
                failed.insert(id, reason);
            }
        }
        let told = failed.iter().map(|(id, reason)| (*id, *reason)).collect();
        // Where they may not be rescued that is said once.
        if self.rescues_failed() {
            locked(&self.watched).failed = failed;
        }
        told
    }

    /// Rescues that the last run of the program left.
    pub(super) async fn go_on(self: &Arc<Self>) -> Result<(), StoreError> {
        let store = self.parts.store.clone();
        let kept = tokio::task::spawn_blocking(move || store.rescues()).await.unwrap_or_else(|_| Ok(Vec::new()))?;
        for job in kept.into_iter().filter(|job| job.state == RescueState::Active) {
            if locked(&self.live).contains_key(&job.transfer) {
                // This task alone was restarted.
                continue;
            }
            if self.enabled {
                self.spawn(job.transfer, job.reason, Some(job));
            } else {
                let told = "rescue was switched off".to_owned();
                // Or its fetch would go on as one of the owner's.
                self.mesh.release(job.content, false).await;
                let ended_at = Some(self.parts.clock.now().wall);
                let over = RescueJob { state: RescueState::Cancelled, told, ended_at, ..job };
                self.parts.store.put_rescue(over).await?;
            }
        }
        Ok(())
    }

    fn spawn(self: &Arc<Self>, id: TransferId, reason: Reason, kept: Option<RescueJob>) {
        let live = Live { cancel: self.cancel.child_token(), view: Arc::default() };
        locked(&self.live).insert(id, live.clone());
        let listed = Listed { inner: Arc::clone(self), id };
        self.tasks.spawn(async move {
            job::run(&listed.inner, id, reason, kept, &live).await;
        });
    }

    /// Whether an earlier rescue of this download says that there is nothing to do: another copy is there, or the owner
    /// wants no help.
    fn is_settled(&self, id: TransferId) -> bool {
        let kept = self.parts.store.read(|txn, tables| tables.rescue.job(txn, id));
        kept.is_ok_and(|kept| kept.is_some_and(|job| job.settles()))
    }

    /// Of downloads that hang, those that could not be rescued for this node had not met them on Soulseek, and that it
    /// has met since: a user tells of a place in the queue only some seconds after we asked for one.
    async fn met_since(&self, hung: &[(TransferId, Reason)]) -> BTreeSet<TransferId> {
        let unmet: Vec<TransferId> = {
            let tried = locked(&self.tried);
            let unmet = |id: &TransferId| tried.get(id).is_some_and(|tried| tried.unmet);
            hung.iter().map(|(id, _)| *id).filter(unmet).collect()
        };
        if unmet.is_empty() {
            return BTreeSet::new();
        }
        let met = self.look(move |node, _| Some(unmet.into_iter().filter(|id| node.download_met(*id)).collect()));
        met.await.unwrap_or_default()
    }

    /// Looks for downloads that hang.
    pub(super) async fn detect(self: &Arc<Self>, detector: &mut Detector) {
        let helping = self.parts.diversions.clone();
        let seen = self.look(move |node, _| {
            let mut seen = node.downloads_seen();
            // Sources of a fetch have one already.
            seen.retain(|seen| {
                let batch = node.transfer(Direction::Download, seen.id).and_then(|transfer| transfer.batch);
                batch.is_none_or(|batch| helping.taker(batch).is_none())
            });
            Some(seen)
        });
        let Some(seen) = seen.await else { return };
        let now = self.parts.clock.now().mono;
        let here: BTreeSet<TransferId> = seen.iter().map(|seen| seen.id).collect();
        let failed = self.look_for_failed(&here).await;
        locked(&self.tried).retain(|id, _| here.contains(id) || failed.iter().any(|(failed, _)| failed == id));
        let mut hung = detector.look(&seen, now);
        hung.extend(failed);
        let met = self.met_since(&hung).await;
        for (id, reason) in hung {
            if locked(&self.live).contains_key(&id) {
                continue;
            }
            let known = locked(&self.tried).get(&id).cloned();
            let waits = |tried: &Tried| !tried.is_due(if met.contains(&id) { Duration::MAX } else { now });
            if known.as_ref().is_some_and(waits) {
                continue;
            }
            if known.is_none() && self.is_settled(id) {
                self.tried(id, |tried| tried.unwanted = true);
                continue;
            }
            // What is being found out costs questions to peers: no more at once than there may be rescues.
            if locked(&self.live).len() >= limits::MESH_FETCHES.min(2 * self.rails.jobs_max.max(1)) {
                return;
            }
            if known.is_none() {
                let mut counts = locked(&self.counts);
                *counts.hung.entry(reason).or_default() += 1;
                counts.waited = counts.waited.saturating_add(detector.hung_for(id));
            }
            self.spawn(id, reason, None);
        }
    }
}
