//! How repairs went since the program began.

use std::sync::{Mutex, PoisonError};

use super::mender::Mender;
use crate::model::repair::{Repair, RepairCounts, RepairState};

/// Short and synchronous.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<RepairCounts>);

impl Counts {
    /// These came into the states that they are in, from those given.
    pub(super) fn turned(&self, rows: &[(RepairState, Repair)]) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (before, row) in rows {
            match &row.state {
                RepairState::Done if *before != RepairState::Undoing => {
                    counts.done += 1;
                    let took = row.ended_at.map_or(0, |at| at.0.saturating_sub(row.began_at.0));
                    counts.took_ms = counts.took_ms.saturating_add(took);
                }
                RepairState::Failed(_) if *before != RepairState::Undoing => counts.failed += 1,
                RepairState::Undone => counts.undone += 1,
                // Under way; or an undo could not be done.
                RepairState::Done
                | RepairState::Failed(_)
                | RepairState::Fetching
                | RepairState::Swapping
                | RepairState::Undoing => {}
            }
        }
    }

    /// So many issues have a job now.
    pub(super) fn begun(&self, issues: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).begun += issues as u64;
    }
}

impl Mender {
    /// Since the program began.
    pub(super) fn counts(&self) -> RepairCounts {
        *self.inner.counts.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
