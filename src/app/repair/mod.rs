//! Repairs in the running program: issues become jobs, and what the jobs bring takes the place of what was bad.

use crate::engine::soulseek::io::Refusal;
use crate::model::repair::{RepairAnswer, RepairRequest};
use crate::store::{Store, StoreError};

#[expect(clippy::needless_pass_by_value, reason = "used by map_err")]
fn unreadable(error: StoreError) -> Refusal {
    tracing::error!(%error, "the store could not be used");
    Refusal::Full(format!("the store cannot be used: {error}"))
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct RepairService {
    store: Store,
}

impl RepairService {
    /// On these records.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Answers a page or a tool.
    ///
    /// # Errors
    /// Why not.
    pub async fn answer(&self, request: RepairRequest) -> Result<RepairAnswer, Refusal> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || {
            store.read(|txn, tables| match request {
                RepairRequest::Of(issues) => {
                    let rows = issues.into_iter().map(|issue| tables.repairs.repair(txn, issue));
                    Ok(Some(rows.filter_map(Result::transpose).collect::<Result<Vec<_>, StoreError>>()?))
                }
                RepairRequest::OfJob(job) => Ok(Some(tables.repairs.of_job(txn, &job)?)),
                RepairRequest::One(issue) | RepairRequest::Undo(issue) => {
                    Ok(tables.repairs.repair(txn, issue)?.map(|row| vec![row]))
                }
                RepairRequest::Fix(_) => Ok(None),
            })
        });
        let rows = read.await.map_err(|error| Refusal::Full(error.to_string()))?.map_err(unreadable)?;
        rows.map(RepairAnswer::Repairs).ok_or(Refusal::NotFound)
    }
}
