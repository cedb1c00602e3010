//! Answers pages and tools. Blocks on the store.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::service::{Doctor, StartError};
use super::{DoctorError, Ground};
use crate::app::picture::{self, Size};
use crate::engine::library::consensus::badge;
use crate::engine::library::merge;
use crate::engine::library::statistics::best_first;
use crate::model::health::{FileOutcome, HealthAnswer, HealthRequest, Scores};
use crate::model::id::ContentHash;
use crate::model::spectrogram::Spectrogram;
use crate::model::view::Refusal;
use crate::store::StoreError;

/// Recordings looked at that have a copy of one and the same size.
const SAME_SIZE: usize = 8;
/// Rows counted in one read.
const ROWS_AT_ONCE: usize = 1_000;

impl Doctor {
    /// Decodes the first of a copy's files that still has its bytes.
    fn draw(&self, copy: ContentHash) -> Result<Spectrogram, Refusal> {
        let Ground { store, measure, .. } = self.ground();
        let variant = store.read(|txn, tables| tables.library.bare_variant(txn, copy)).map_err(unreadable)?;
        let mut why = "no file has these bytes any more".to_owned();
        for path in variant.ok_or(Refusal::NotFound)?.paths {
            let drawn = measure
                .open(Path::new(OsStr::from_bytes(&path.0)))
                .map_err(|error| format!("{path}: {error}"))
                .and_then(|file| measure.spectrogram(file, &String::from_utf8_lossy(path.name())));
            match drawn {
                Ok(drawn) if drawn.content_hash == copy => return Ok(drawn),
                Ok(_) => why = format!("{path} has changed since it was measured: scan the library again"),
                Err(reason) => why = reason,
            }
        }
        Err(Refusal::Invalid(why))
    }

    /// Counts all copies, some at a time so that no read lasts long.
    fn scores(&self) -> Result<Scores, StoreError> {
        let (mut scores, mut after) = (Scores::default(), None::<Vec<u8>>);
        loop {
            let rows = self
                .ground()
                .store
                .read(|txn, tables| tables.library.variants_after(txn, after.as_deref(), ROWS_AT_ONCE))?;
            for (_, variant) in &rows {
                scores.add(&variant.judged);
            }
            match rows.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => return Ok(scores),
            }
        }
    }
}

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
            HealthRequest::Consensus(recording) => {
                let known = store.read(|txn, tables| tables.gossip.consensus(txn, recording)).map_err(unreadable)?;
                HealthAnswer::Consensus(known.map(Box::new))
            }
            HealthRequest::Badges(offered) => {
                let rules = self.ground().canonical;
                if !rules.enabled {
                    return Ok(HealthAnswer::Badges(vec![None; offered.len()], false));
                }
                let badges = store.read(|txn, tables| {
                    offered
                        .iter()
                        .map(|offered| {
                            let ids = tables.gossip.of_size(txn, offered.size, SAME_SIZE)?;
                            let known = ids.into_iter().map(|id| tables.gossip.consensus(txn, id));
                            let known: Vec<_> = known.filter_map(Result::transpose).collect::<Result<_, _>>()?;
                            Ok(badge(offered, &known))
                        })
                        .collect::<Result<Vec<_>, _>>()
                });
                HealthAnswer::Badges(badges.map_err(unreadable)?, rules.prefer)
            }
            HealthRequest::Variants(recording) => {
                let rows = store.read(|txn, tables| tables.library.variants_of(txn, recording)).map_err(unreadable)?;
                HealthAnswer::Variants(if rows.is_empty() { return Err(Refusal::NotFound) } else { best_first(rows) })
            }
            HealthRequest::Variant(hash) => {
                let variant = store.read(|txn, tables| tables.library.variant(txn, hash)).map_err(unreadable)?;
                HealthAnswer::Variants(vec![variant.ok_or(Refusal::NotFound)?])
            }
            HealthRequest::CopyAt(path) => {
                let copy = store.read(|txn, tables| match tables.library.file(txn, &path)?.map(|file| file.outcome) {
                    Some(FileOutcome::Measured(hash)) => tables.library.bare_variant(txn, hash),
                    _ => Ok(None),
                });
                HealthAnswer::Variants(copy.map_err(unreadable)?.into_iter().collect())
            }
            HealthRequest::Spectrogram { copy, narrow } => {
                let size = if narrow { Size::NARROW } else { Size::WIDE };
                let none = |error| Refusal::Full(format!("no picture could be made: {error}"));
                let png = self.easel().draw(|| picture::png(&self.draw(copy)?, size).map_err(none))?;
                HealthAnswer::Picture(png)
            }
            HealthRequest::Scores => HealthAnswer::Scores(Box::new(self.scores().map_err(unreadable)?)),
            HealthRequest::Rejudge(force) => {
                HealthAnswer::Rejudged(self.rejudge(force).map_err(|error| match error {
                    DoctorError::Store(error) => unreadable(error),
                    other => Refusal::Full(other.to_string()),
                })?)
            }
        })
    }
}
