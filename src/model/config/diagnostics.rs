//! The section `diagnostics`.

use super::Reader;

/// Section `diagnostics.swarm_events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwarmEvents {
    /// Traces are written.
    pub enabled: bool,
    /// Days a job's trace is kept after its last line.
    pub retention_days: u64,
    /// Lines of one job.
    pub max_events_per_job: u64,
    /// Jobs kept.
    pub retention_jobs: usize,
    /// Text logs too.
    pub log_to_file: bool,
}

impl Reader<'_> {
    pub(super) fn swarm_events(&mut self) -> SwarmEvents {
        SwarmEvents {
            enabled: self.flag("diagnostics.swarm_events.enabled"),
            retention_days: self.number("diagnostics.swarm_events.retention_days"),
            max_events_per_job: self.number("diagnostics.swarm_events.max_events_per_job"),
            retention_jobs: self.small("diagnostics.swarm_events.retention_jobs") as usize,
            log_to_file: self.flag("diagnostics.swarm_events.log_to_file"),
        }
    }
}
