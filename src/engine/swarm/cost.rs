//! What a source costs: the lower, the better (SPEC-FACTS 6.2, form D with the reputation term, C6).

use super::metrics::SourceMetrics;

const MIB: f64 = 1024.0 * 1024.0;
/// Weight of how unsteady the throughput is: its deviation over its mean.
const VARIANCE_WEIGHT: f64 = 0.1;
/// A source of no reputation at all costs so much more than one without fault.
const REPUTATION_WEIGHT: f64 = 5.0;
/// What a source costs when nothing is known of any. Chosen: one MiB/s.
pub const UNKNOWN: f64 = 1.0;

/// Section `multi_source.swarm_scheduler.cost_function`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostSettings {
    /// Off: sources are chosen at random, and all get the same.
    pub enabled: bool,
    /// Of seconds per MiB.
    pub throughput_weight: f64,
    /// Of the share of runs that failed.
    pub error_rate_weight: f64,
    /// Of the share of runs that took too long.
    pub timeout_rate_weight: f64,
    /// Of the seconds to the first byte.
    pub rtt_weight: f64,
    /// Instead of seconds per MiB where nothing came yet.
    pub zero_throughput_penalty: f64,
    /// What both shares are multiplied with.
    pub high_error_rate_penalty: f64,
}

impl Default for CostSettings {
    /// SPEC-FACTS 17.
    fn default() -> Self {
        Self {
            enabled: true,
            throughput_weight: 1.0,
            error_rate_weight: 0.5,
            timeout_rate_weight: 0.3,
            rtt_weight: 0.2,
            zero_throughput_penalty: 1_000.0,
            high_error_rate_penalty: 10.0,
        }
    }
}

/// The cost of a source of this reputation (0 to 1); `None` while nothing is known of it.
pub fn cost(metrics: &SourceMetrics, reputation: f64, settings: &CostSettings) -> Option<f64> {
    if metrics.outcomes() == metrics.completed && metrics.sample_count == 0 {
        return None;
    }
    let mean = metrics.throughput.average;
    let (slow, unsteady) = if mean > 0.0 {
        (settings.throughput_weight * MIB / mean, metrics.throughput.deviation() / mean)
    } else {
        (settings.zero_throughput_penalty, 0.0)
    };
    let errors = settings.error_rate_weight * metrics.error_rate() * settings.high_error_rate_penalty;
    let timeouts = settings.timeout_rate_weight * metrics.timeout_rate() * settings.high_error_rate_penalty;
    let far = settings.rtt_weight * metrics.rtt_ms.average / 1_000.0;
    let distrust = (1.0 - reputation.clamp(0.0, 1.0)) * REPUTATION_WEIGHT;
    Some(slow + errors + timeouts + far + VARIANCE_WEIGHT * unsteady + distrust)
}

/// What a source of which nothing is known is taken to cost: the median of the known ones (C6).
pub fn median(mut known: Vec<f64>) -> f64 {
    known.sort_by(f64::total_cmp);
    let middle = known.len() / 2;
    match known.as_slice() {
        [] => UNKNOWN,
        even if even.len() % 2 == 0 => f64::midpoint(even[middle - 1], even[middle]),
        odd => odd[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    fn measured(bytes_per_s: f64) -> SourceMetrics {
        let mut metrics = SourceMetrics { requested: 10, completed: 10, ..SourceMetrics::default() };
        metrics.throughput_sample(bytes_per_s);
        metrics
    }

    #[test]
    fn each_term_counts_as_written() {
        let settings = CostSettings::default();
        let of = |metrics: &SourceMetrics| cost(metrics, 1.0, &settings).unwrap();
        close(of(&measured(2.0 * MIB)), 0.5);
        close(cost(&measured(MIB), 0.5, &settings).unwrap(), 1.0 + 2.5);
        close(of(&SourceMetrics { failed: 1, corrupted: 1, ..measured(MIB) }), 1.0 + 0.5 * 0.2 * 10.0);
        close(of(&SourceMetrics { timed_out: 5, ..measured(MIB) }), 1.0 + 0.3 * 0.5 * 10.0);
        let mut far = measured(MIB);
        far.rtt_ms.add(600.0);
        close(of(&far), 1.0 + 0.2 * 0.6);
        let mut unsteady = measured(MIB);
        unsteady.throughput_sample(3.0 * MIB);
        close(of(&unsteady), 1.0 / 1.6 + 0.1 / 1.6);
        close(of(&SourceMetrics { failed: 1, requested: 1, ..SourceMetrics::default() }), 1_000.0 + 5.0);
    }

    #[test]
    fn whoever_is_not_known_costs_what_others_do() {
        assert_eq!(
            cost(&SourceMetrics { requested: 1, ..SourceMetrics::default() }, 0.5, &CostSettings::default()),
            None
        );
        close(median(Vec::new()), UNKNOWN);
        close(median(vec![9.0, 1.0, 2.0]), 2.0);
        close(median(vec![4.0, 1.0]), 2.5);
    }
}
