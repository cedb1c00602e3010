//! What library and shares are told of a repair.

use std::path::Path;

use super::mender::{Mender, joined, write};
use crate::app::doctor::learn::Changed;
use crate::app::doctor::walk::from_path;
use crate::model::health::{Identity, LocalPath, MatchedBy};
use crate::model::job::{JobTrack, Proof, TrackState};
use crate::model::repair::{Manner, Repair, RepairState};
use crate::store::StoreError;

impl Mender {
    /// Library and shares know what this row tells of, unless something else became of it meanwhile, which is told for
    /// itself. Blocks.
    pub(super) fn told(&self, row: &Repair) -> Result<(), StoreError> {
        let (row, now) = (row.clone(), self.now());
        self.store().write_blocking(move |txn, tables| match tables.repairs.repair(txn, row.issue)? {
            Some(known) if known == row => write(txn, tables, &Repair { told: true, ..known }, now),
            _ => Ok(()),
        })
    }

    /// Files that a repair changed, for the library and the shares. Blocks.
    pub(super) fn changed(&self, row: &Repair) -> Result<Vec<Changed>, StoreError> {
        let plain = |path: LocalPath| Changed { path, proven: None };
        let mut changed: Vec<Changed> = Vec::new();
        let job = self.store().job(&row.job)?.map(|(job, _)| job);
        // A single file may have been fetched as part of any release: only what was known of the old one is one of its.
        let release = match (row.manner, &job) {
            (Manner::Add, job) => job.as_ref().map(|job| job.spec.release.0),
            _ => self.store().read(|txn, tables| tables.library.issue(txn, row.issue))?.and_then(|i| i.release_id),
        };
        let proven = |at: usize, proof: Option<Proof>| {
            let track = job.as_ref()?.spec.tracks.get(at)?;
            proven_as(track, release, proof?)
        };
        let is_undone = row.state == RepairState::Undone;
        if let Some(places) = &row.places {
            let at = row.track.and_then(|at| usize::try_from(at).ok()).unwrap_or(usize::MAX);
            if !is_undone {
                let proof = row.new.as_ref().map(|new| new.proof);
                changed.push(Changed { path: places.new.clone(), proven: proven(at, proof) });
            } else if let Some(had) = places.new.0.strip_suffix(b".bak") {
                // The new file is gone from the name it had: what is called `.bak` is no music any more.
                changed.push(plain(LocalPath(had.to_vec())));
                // `NAME.2.bak`
                let bare = had.iter().rposition(|byte| *byte == b'.').and_then(|at| had.get(..at));
                changed.extend(bare.map(|had| plain(LocalPath(had.to_vec()))));
            }
        }
        if let Some(old) = &row.old
            && changed.iter().all(|one| one.path != old.path)
        {
            changed.push(plain(old.path.clone()));
        }
        if row.manner == Manner::Add
            && let Some(job) = &job
        {
            let folder = from_path(Path::new(&job.spec.target_dir));
            for (at, child) in job.children.iter().enumerate() {
                let Some(file) = child.file.as_ref().filter(|_| child.state == TrackState::Completed) else { continue };
                let path = joined(&folder.0, file.as_bytes());
                changed.push(Changed { path, proven: proven(at, child.proof) });
            }
        }
        Ok(changed)
    }
}

/// Whose recording a file is that a job proved to be this track; `None` where only its length spoke for it.
fn proven_as(track: &JobTrack, release_id: Option<u128>, proof: Proof) -> Option<Identity> {
    let matched_by = match proof {
        Proof::Sound => MatchedBy::Fingerprint,
        Proof::AcoustId => MatchedBy::Catalog,
        Proof::Tags => MatchedBy::Tags,
        Proof::Length => return None,
    };
    Some(Identity { recording_id: Some(track.recording.0), release_id, acoustid: None, matched_by })
}
