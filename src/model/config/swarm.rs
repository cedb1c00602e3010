//! The sections `multi_source.swarm_scheduler` and `mesh.reputation`.

use super::Reader;

/// How sources are chosen. Weights are thousandths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swarm {
    /// Cheap sources are preferred.
    pub cost_enabled: bool,
    /// Of seconds per MiB.
    pub throughput_milli: u32,
    /// Of the share that failed.
    pub error_rate_milli: u32,
    /// Of the share that took too long.
    pub timeout_rate_milli: u32,
    /// Of seconds to the first byte.
    pub rtt_milli: u32,
    /// Of a source that never delivered.
    pub zero_throughput_milli: u32,
    /// Both shares are multiplied with it.
    pub high_error_rate_milli: u32,
    /// Work is taken back from sources that became slow.
    pub rebalance: bool,
    /// Seconds between two looks.
    pub rebalance_interval_s: u64,
    /// Times the cost before.
    pub rebalance_threshold_milli: u32,
    /// Requests between two looks.
    pub rebalance_chunks: u32,
    /// Behaviour is remembered.
    pub reputation: bool,
    /// Below it a peer is used only when nobody else has the piece.
    pub quarantine_milli: u32,
    /// Days in which it counts half.
    pub half_life_days: u64,
}

impl Reader<'_> {
    pub(super) fn swarm(&mut self) -> Swarm {
        let cost = |name: &str| format!("multi_source.swarm_scheduler.cost_function.{name}");
        Swarm {
            cost_enabled: self.flag(&cost("enabled")),
            throughput_milli: self.milli(&cost("throughput_weight"), 0.0, 1_000.0),
            error_rate_milli: self.milli(&cost("error_rate_weight"), 0.0, 1_000.0),
            timeout_rate_milli: self.milli(&cost("timeout_rate_weight"), 0.0, 1_000.0),
            rtt_milli: self.milli(&cost("rtt_weight"), 0.0, 1_000.0),
            zero_throughput_milli: self.milli(&cost("zero_throughput_penalty"), 0.0, 1_000_000.0),
            high_error_rate_milli: self.milli(&cost("high_error_rate_penalty"), 0.0, 1_000.0),
            rebalance: self.flag("multi_source.swarm_scheduler.rebalance_enabled"),
            rebalance_interval_s: self.number("multi_source.swarm_scheduler.rebalance_interval_seconds"),
            rebalance_threshold_milli: self.milli(
                "multi_source.swarm_scheduler.rebalance_cost_threshold",
                1.0,
                1_000.0,
            ),
            rebalance_chunks: self.small("multi_source.swarm_scheduler.rebalance_chunks"),
            reputation: self.flag("mesh.reputation.enabled"),
            quarantine_milli: self.milli("mesh.reputation.quarantine_threshold", 0.0, 1.0),
            half_life_days: self.number("mesh.reputation.decay_half_life_days"),
        }
    }

    /// A number between two others, in thousandths.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    pub(super) fn milli(&mut self, key: &str, least: f64, most: f64) -> u32 {
        let what = format!("a number from {least} to {most}");
        let number: f64 = self.parsed(key, &what, least);
        if !(least..=most).contains(&number) {
            self.wrong(key, format!("{what} is wanted, not `{number}`"));
            return 0;
        }
        (number * 1_000.0).round() as u32
    }
}

#[cfg(test)]
mod tests {
    use crate::model::config::{Given, Place, Raw, resolve};

    fn given(key: &str, value: &str) -> Given {
        Given { key: key.into(), value: Raw::One(value.into()), place: Place::default() }
    }

    #[test]
    fn weights_are_numbers_within_bounds() {
        let swarm = resolve(&[]).unwrap().config.swarm;
        assert_eq!((swarm.throughput_milli, swarm.rtt_milli, swarm.zero_throughput_milli), (1_000, 200, 1_000_000));
        assert_eq!((swarm.quarantine_milli, swarm.rebalance_threshold_milli), (300, 2_000));
        let key = "multi_source.swarm_scheduler.cost_function.rtt_weight";
        assert_eq!(resolve(&[vec![given(key, "0.5")]]).unwrap().config.swarm.rtt_milli, 500);
        for wrong in ["-1", "NaN", "many", "1e9"] {
            assert!(resolve(&[vec![given(key, wrong)]]).is_err(), "{wrong}");
        }
    }
}
