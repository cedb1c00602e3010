//! Downloads from Soulseek users, as the engine's shell sees them.

use std::collections::BTreeMap;

use super::{TraceJob, Traces};
use crate::engine::soulseek::io::FileEvent;
use crate::engine::trace::transfer::{About, Attempt};
use crate::model::id::TransferId;
use crate::model::music::WireText;
use crate::model::record::Change;
use crate::model::time::Now;
use crate::model::trace::TraceKind;
use crate::model::transfer::Direction;

/// Follows the downloads whose bytes flow: as many as there are slots.
#[derive(Debug)]
pub struct Transfers {
    traces: Traces,
    /// The download that was recorded last: whose bytes are about to flow stands there.
    last: Option<(TransferId, About)>,
    moving: BTreeMap<TransferId, (TraceJob, Attempt)>,
}

impl Transfers {
    /// Follows none yet.
    pub fn new(traces: Traces) -> Self {
        Self { traces, last: None, moving: BTreeMap::new() }
    }

    /// Records that are kept.
    pub fn on_records(&mut self, changes: &[Change]) {
        for change in changes {
            let Change::Transfer(record) = change else { continue };
            if record.direction != Direction::Download {
                continue;
            }
            self.last = Some((record.id, About::of(record)));
            let mut lines = Vec::new();
            if let Some((job, attempt)) = self.moving.get_mut(&record.id) {
                let over = attempt.on_record(record, &mut lines);
                for line in lines {
                    job.record(line);
                }
                if over {
                    self.moving.remove(&record.id);
                }
            }
        }
    }

    /// Bytes are about to flow.
    pub fn on_receive(&mut self, transfer: TransferId, now: Now) {
        let Some((_, about)) = self.last.take().filter(|(id, _)| *id == transfer) else { return };
        let job = self.traces.begin_since(transfer.to_string(), about.title.clone(), Some(about.requested_at));
        let (start, queued_at, discovered) = about.begins();
        job.record_at(about.requested_at, start);
        job.record_at(queued_at.unwrap_or(about.requested_at), discovered);
        self.moving.insert(transfer, (job, Attempt::new(&about, now.mono)));
    }

    /// A user was asked about a file that had come from mesh peers.
    pub fn on_origin(&self, transfer: TransferId, path: &WireText, told: String) {
        tracing::info!(%transfer, told, "a user got round to a download that mesh peers had finished");
        let job = self.traces.afterwards(transfer.to_string(), path.base_name().to_owned());
        job.record(TraceKind::Note(told));
    }

    /// What happens to a file.
    pub fn on_event(&mut self, transfer: TransferId, event: &FileEvent, now: Now) {
        let mut lines = Vec::new();
        if let Some((job, attempt)) = self.moving.get_mut(&transfer) {
            attempt.on_event(event, now.mono, &mut lines);
            for line in lines {
                job.record(line);
            }
        }
    }
}
