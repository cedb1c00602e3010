//! What is read about jobs, from a daemon's store or from one that no daemon has open.

use crate::engine::trace::{is_key, line, short, summarize};
use crate::model::limits;
use crate::model::trace::{TraceSummary, TraceView};
use crate::store::{Store, StoreError};

/// All jobs in short, the one written to last first.
///
/// # Errors
/// The store cannot be read.
pub fn jobs(store: &Store) -> Result<Vec<TraceSummary>, StoreError> {
    let mut heads = store.trace_heads()?;
    heads.sort_by(|a, b| b.last_at().cmp(&a.last_at()).then_with(|| a.job.cmp(&b.job)));
    Ok(heads.iter().map(short).collect())
}

/// One job with some of its lines; `None` if nothing was written down about it.
///
/// # Errors
/// The store cannot be read.
pub fn job(store: &Store, job: &str, offset: u64, most: usize) -> Result<Option<TraceView>, StoreError> {
    if !(1..=limits::TRACE_NAME_LEN).contains(&job.len()) {
        return Ok(None);
    }
    let Some(head) = store.trace_head(job)? else { return Ok(None) };
    let tell = |lines: crate::store::traces::Lines| lines.iter().map(|(number, event)| line(*number, event)).collect();
    let key = store.trace_lines(job, 0, limits::TRACE_KEY_LINES, |event| is_key(&event.kind))?;
    let events = store.trace_lines(job, offset, most.min(limits::TRACE_PAGE), |_| true)?;
    Ok(Some(TraceView { summary: summarize(&head, tell(key)), events: tell(events) }))
}
