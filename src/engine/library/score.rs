//! The health score (SPEC-FACTS 5.2).

use crate::model::health::Severity;

/// What one open issue of this severity costs a file.
pub fn weight(severity: Severity) -> f64 {
    match severity {
        Severity::Critical => 1.0,
        Severity::High => 0.6,
        Severity::Medium => 0.3,
        Severity::Low => 0.1,
        Severity::Info => 0.0,
    }
}

/// `1 − min(1, (1.0·critical + 0.6·high + 0.3·medium + 0.1·low) / files)`; 1 with no files. `open` is in the order of
/// [`Severity::ALL`].
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub fn health(open: &[u64; 5], files: u64) -> f64 {
    if files == 0 {
        return 1.0;
    }
    let cost: f64 = Severity::ALL.iter().zip(open).map(|(severity, n)| weight(*severity) * *n as f64).sum();
    1.0 - (cost / files as f64).min(1.0)
}
