//! Answers pages and tools. Blocks on the store.

use super::DoctorError;
use super::service::{Doctor, StartError};
use crate::engine::library::merge;
use crate::engine::library::statistics::best_first;
use crate::model::health::{HealthAnswer, HealthRequest};
use crate::model::view::Refusal;
use crate::store::StoreError;

#[expect(clippy::needless_pass_by_value, reason = "used by map_err")]
fn unreadable(error: StoreError) -> Refusal {
    tracing::error!(%error, "the store could not be used");
    Refusal::Full(format!("the store cannot be used: {error}"))
}

impl Doctor {
    /// Answers one question.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn answer(&self, request: HealthRequest) -> Result<HealthAnswer, Refusal> {
        let store = &self.ground().store;
        Ok(match request {
            HealthRequest::Start(request) => {
                HealthAnswer::Started(self.start(request).map_err(|error| match error {
                    StartError::Busy => Refusal::Duplicate,
                    StartError::Nowhere(_) => Refusal::Invalid(error.to_string()),
                    StartError::Store(error) => unreadable(error),
                    StartError::Random => Refusal::Full(error.to_string()),
                })?)
            }
            HealthRequest::Stop(id) => {
                if self.stop(id) {
                    HealthAnswer::Done
                } else {
                    return Err(Refusal::NotFound);
                }
            }
            HealthRequest::Scan(id) => {
                let scan = store.read(|txn, tables| tables.library.scan(txn, id)).map_err(unreadable)?;
                let progress = self.progress().borrow().clone();
                let running = (progress.scan == Some(id)).then(|| Box::new(progress));
                HealthAnswer::Scan(Box::new(scan.ok_or(Refusal::NotFound)?), running)
            }
            HealthRequest::Scans => {
                HealthAnswer::Scans(store.read(|txn, tables| tables.library.scans(txn)).map_err(unreadable)?)
            }
            HealthRequest::Summary(path) => {
                let summary = store.read(|txn, tables| tables.library.summary(txn, path.as_ref()));
                HealthAnswer::Summary(Box::new(summary.map_err(unreadable)?))
            }
            HealthRequest::Issues(filter) => {
                let found = store.read(|txn, tables| tables.library.issues(txn, &filter)).map_err(unreadable)?;
                HealthAnswer::Issues(found.0, found.1)
            }
            HealthRequest::Issue(id) => {
                let issue = store.read(|txn, tables| tables.library.issue(txn, id)).map_err(unreadable)?;
                HealthAnswer::Issue(Box::new(issue.ok_or(Refusal::NotFound)?))
            }
            HealthRequest::ByArtist => {
                HealthAnswer::Groups(store.read(|txn, tables| tables.library.groups(txn, false)).map_err(unreadable)?)
            }
            HealthRequest::ByRelease => {
                HealthAnswer::Groups(store.read(|txn, tables| tables.library.groups(txn, true)).map_err(unreadable)?)
            }
            HealthRequest::SetStatus(id, status) => {
                let now = self.ground().clock.now().wall;
                // Read and written in one transaction: a scan may find the issue again meanwhile.
                let changed = store.write_blocking(move |txn, tables| {
                    let Some(issue) = tables.library.issue(txn, id)? else { return Ok(None) };
                    let changed = merge::set_status(&issue, status, now);
                    if let Ok(issue) = &changed {
                        tables.library.put_issue(txn, issue)?;
                    }
                    Ok(Some(changed))
                });
                let changed = changed.map_err(unreadable)?.ok_or(Refusal::NotFound)?;
                HealthAnswer::Issue(Box::new(changed.map_err(|error| Refusal::Invalid(error.to_string()))?))
            }
            HealthRequest::Canonical(recording) => {
                let rows = store.read(|txn, tables| tables.library.canonical(txn, recording)).map_err(unreadable)?;
                HealthAnswer::Canonical(if rows.is_empty() { return Err(Refusal::NotFound) } else { rows })
            }
            HealthRequest::Variants(recording) => {
                let rows = store.read(|txn, tables| tables.library.variants_of(txn, recording)).map_err(unreadable)?;
                HealthAnswer::Variants(if rows.is_empty() { return Err(Refusal::NotFound) } else { best_first(rows) })
            }
            HealthRequest::Variant(hash) => {
                let variant = store.read(|txn, tables| tables.library.variant(txn, hash)).map_err(unreadable)?;
                HealthAnswer::Variants(vec![variant.ok_or(Refusal::NotFound)?])
            }
            HealthRequest::Rejudge(force) => {
                HealthAnswer::Rejudged(self.rejudge(force).map_err(|error| match error {
                    DoctorError::Store(error) => unreadable(error),
                    other => Refusal::Full(other.to_string()),
                })?)
            }
        })
    }
}
