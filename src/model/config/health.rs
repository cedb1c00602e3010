//! Section `library_health`: what is scanned, what counts as wrong, and what repairs do about it.

use super::Reader;

/// Section `library_health`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryHealth {
    /// Scans may be asked for.
    pub enabled: bool,
    /// Files measured at once; 0 is one per core but one.
    pub max_concurrent_files: usize,
    /// Scan by itself.
    pub auto_scan: bool,
    /// Hours between two such scans.
    pub interval_hours: u64,
    /// Folders; empty: the shared ones and the finished downloads.
    pub library_paths: Vec<String>,
    /// Thousandths of the score.
    pub quality_gap_permille: u32,
    /// Milliseconds.
    pub duration_tolerance_ms: u64,
    /// What repairs do.
    pub remediation: Remediation,
}

/// Section `library_health.remediation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remediation {
    /// The good copy takes the bad file's place; else it lies beside it.
    pub replace: bool,
    /// The bad file is kept as `NAME.bak`.
    pub backup: bool,
    /// Suspected transcodes are repaired without being asked.
    pub auto_fix_transcodes: bool,
}

impl Reader<'_> {
    pub(super) fn library_health(&mut self) -> LibraryHealth {
        let quality_gap_permille = self.permille("library_health.thresholds.quality_gap_for_upgrade");
        let paths_key = "library_health.auto_scan.library_paths";
        let library_paths = self.list(paths_key);
        if let Some(path) = library_paths.iter().find(|path| !path.starts_with('/')).cloned() {
            self.wrong(paths_key, format!("an absolute path is wanted, not `{path}`"));
        }
        LibraryHealth {
            enabled: self.flag("library_health.enabled"),
            max_concurrent_files: self.small("library_health.max_concurrent_files") as usize,
            auto_scan: self.flag("library_health.auto_scan.enabled"),
            interval_hours: self.number("library_health.auto_scan.interval_hours"),
            library_paths,
            quality_gap_permille,
            duration_tolerance_ms: self.number("library_health.thresholds.duration_tolerance_ms"),
            remediation: Remediation {
                replace: self.flag("library_health.remediation.replace_existing"),
                backup: self.flag("library_health.remediation.backup_before_replace"),
                auto_fix_transcodes: self.flag("library_health.remediation.auto_fix_transcodes"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::config::{Given, Place, Raw, resolve};

    #[test]
    fn a_repair_replaces_keeps_a_backup_and_waits_to_be_asked() {
        let remediation = resolve(&[]).unwrap().config.library_health.remediation;
        assert!(remediation.replace && remediation.backup && !remediation.auto_fix_transcodes);
        let given = |key: &str, value: &str| Given {
            key: format!("library_health.remediation.{key}"),
            value: Raw::One(value.into()),
            place: Place::default(),
        };
        let all = vec![
            given("replace_existing", "false"),
            given("backup_before_replace", "false"),
            given("auto_fix_transcodes", "true"),
        ];
        let remediation = resolve(&[all]).unwrap().config.library_health.remediation;
        assert!(!remediation.replace && !remediation.backup && remediation.auto_fix_transcodes);
    }
}
