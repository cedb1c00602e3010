//! The section `jobs`.

use super::Reader;

/// Section `jobs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jobs {
    /// Every job is written down as a file too.
    pub manifests: bool,
    /// Where; below the data directory unless it is a whole path.
    pub manifests_path: String,
    /// Rounds of searches before a job with missing tracks is over.
    pub search_rounds: u32,
    /// Minutes between two of them.
    pub search_again_minutes: u64,
    /// The tags of what a job brings home are written.
    pub write_tags: bool,
}

impl Reader<'_> {
    pub(super) fn jobs(&mut self) -> Jobs {
        Jobs {
            manifests: self.flag("jobs.manifests.enabled"),
            manifests_path: self.text("jobs.manifests.path"),
            search_rounds: self.small("jobs.search_rounds"),
            search_again_minutes: self.number("jobs.search_again_minutes"),
            write_tags: self.flag("jobs.write_tags"),
        }
    }
}
