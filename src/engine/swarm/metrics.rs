//! What is measured of one source (SPEC-FACTS 6.1).
//!
//! Averages are exponential, deviations those of the last thirty samples, rates are counts over requests. Pure; when it is
//! measured is `app::mesh`'s, what it is worth [`super::cost`]'s.

use serde::{Deserialize, Serialize};

use crate::model::time::UnixMs;

/// Weight of a new sample in an average (C13).
pub const ALPHA: f64 = 0.3;
/// Samples a deviation is made of.
pub const WINDOW: usize = 30;

/// An average that follows, and the last samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// The average; the first sample seeds it.
    pub average: f64,
    /// The last samples, oldest first; at most [`WINDOW`].
    window: Vec<f32>,
}

impl Measure {
    /// One more sample. What is no number, or below zero, is passed over.
    pub fn add(&mut self, sample: f64) {
        if !sample.is_finite() || sample < 0.0 {
            return;
        }
        self.average = if self.window.is_empty() { sample } else { ALPHA * sample + (1.0 - ALPHA) * self.average };
        if self.window.len() >= WINDOW {
            self.window.remove(0);
        }
        #[expect(clippy::cast_possible_truncation, reason = "seven digits are plenty")]
        self.window.push(sample as f32);
    }

    /// With the samples of another one, which came after these.
    #[must_use]
    pub fn with(mut self, later: &Self) -> Self {
        for sample in &later.window {
            self.add(f64::from(*sample));
        }
        self
    }

    /// Samples in the window.
    pub fn samples(&self) -> usize {
        self.window.len()
    }

    /// The population's standard deviation of the window.
    pub fn deviation(&self) -> f64 {
        if self.window.is_empty() {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "at most thirty")]
        let count = self.window.len() as f64;
        let mean = self.window.iter().map(|sample| f64::from(*sample)).sum::<f64>() / count;
        let squares: f64 = self.window.iter().map(|sample| (f64::from(*sample) - mean).powi(2)).sum();
        (squares / count).sqrt()
    }
}

/// Everything measured of one source, over all files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceMetrics {
    /// From a request to its first byte, milliseconds.
    pub rtt_ms: Measure,
    /// Bytes per second while bytes were owed.
    pub throughput: Measure,
    /// Verified bytes.
    pub total_bytes: u64,
    /// Runs asked for.
    pub requested: u64,
    /// Runs that came whole.
    pub completed: u64,
    /// Runs that failed otherwise than by time or by wrong bytes.
    pub failed: u64,
    /// Runs whose lease ended.
    pub timed_out: u64,
    /// Runs with a bad piece.
    pub corrupted: u64,
    /// When it was met first.
    pub first_seen: UnixMs,
    /// When something was measured last.
    pub last_updated: UnixMs,
    /// Throughput samples ever taken.
    pub sample_count: u64,
}

impl SourceMetrics {
    /// A throughput sample, bytes per second.
    pub fn throughput_sample(&mut self, bytes_per_s: f64) {
        self.throughput.add(bytes_per_s);
        self.sample_count = self.sample_count.saturating_add(1);
    }

    /// With what was measured besides: its samples came after these, and its counts are added. When the source was met
    /// stays as it is.
    #[must_use]
    pub fn with(self, news: &Self) -> Self {
        Self {
            rtt_ms: self.rtt_ms.with(&news.rtt_ms),
            throughput: self.throughput.with(&news.throughput),
            total_bytes: self.total_bytes.saturating_add(news.total_bytes),
            requested: self.requested.saturating_add(news.requested),
            completed: self.completed.saturating_add(news.completed),
            failed: self.failed.saturating_add(news.failed),
            timed_out: self.timed_out.saturating_add(news.timed_out),
            corrupted: self.corrupted.saturating_add(news.corrupted),
            sample_count: self.sample_count.saturating_add(news.sample_count),
            first_seen: self.first_seen,
            last_updated: self.last_updated,
        }
    }

    /// Runs of which it is known how they ended.
    pub fn outcomes(&self) -> u64 {
        [self.completed, self.failed, self.timed_out, self.corrupted].into_iter().fold(0, u64::saturating_add)
    }

    /// Share of the requested runs that failed or were bad, 0 to 1.
    pub fn error_rate(&self) -> f64 {
        self.rate(self.failed.saturating_add(self.corrupted))
    }

    /// Share of the requested runs whose lease ended, 0 to 1.
    pub fn timeout_rate(&self) -> f64 {
        self.rate(self.timed_out)
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn rate(&self, count: u64) -> f64 {
        if self.requested == 0 { 0.0 } else { (count as f64 / self.requested as f64).min(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_follow_and_deviations_look_back_thirty() {
        let mut measure = Measure::default();
        assert_eq!((measure.average, measure.deviation()), (0.0, 0.0));
        measure.add(100.0);
        assert!((measure.average - 100.0).abs() < 1e-9, "the first one seeds");
        measure.add(200.0);
        assert!((measure.average - 130.0).abs() < 1e-9);
        assert!((measure.deviation() - 50.0).abs() < 1e-9, "of the population, not of a sample");
        measure.add(f64::NAN);
        measure.add(-1.0);
        assert_eq!(measure.samples(), 2);
        (0..WINDOW).for_each(|_| measure.add(7.0));
        assert_eq!((measure.samples(), measure.deviation()), (WINDOW, 0.0));
    }

    #[test]
    fn rates_are_counts_over_requests() {
        let mut metrics = SourceMetrics::default();
        assert_eq!((metrics.error_rate(), metrics.timeout_rate()), (0.0, 0.0));
        metrics = SourceMetrics { requested: 10, failed: 1, corrupted: 2, timed_out: 4, ..metrics };
        assert!((metrics.error_rate() - 0.3).abs() < 1e-9 && (metrics.timeout_rate() - 0.4).abs() < 1e-9);
        assert_eq!(metrics.outcomes(), 7);
    }

    #[test]
    fn what_two_measured_is_one_record() {
        let of = |speed: f64, count: u64| {
            let mut metrics = SourceMetrics { requested: count, completed: count, ..SourceMetrics::default() };
            metrics.throughput_sample(speed);
            metrics.rtt_ms.add(10.0 * speed);
            SourceMetrics { first_seen: UnixMs(count), ..metrics }
        };
        let both = of(100.0, 3).with(&of(200.0, 4)).with(&SourceMetrics::default());
        assert_eq!((both.requested, both.completed, both.sample_count, both.first_seen), (7, 7, 2, UnixMs(3)));
        assert!((both.throughput.average - 130.0).abs() < 1e-9 && (both.rtt_ms.average - 1_300.0).abs() < 1e-9);
        assert_eq!((both.throughput.samples(), both.rtt_ms.samples()), (2, 2));
        assert_eq!(SourceMetrics::default().with(&both), SourceMetrics { first_seen: UnixMs(0), ..both });
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let mut metrics = SourceMetrics { requested: 3, total_bytes: u64::MAX, ..SourceMetrics::default() };
        (0..40).for_each(|n| metrics.throughput_sample(f64::from(n)));
        let bytes = postcard::to_extend(&metrics, Vec::new()).unwrap();
        assert!(bytes.len() < 400, "{}", bytes.len());
        assert_eq!(postcard::from_bytes::<SourceMetrics>(&bytes).unwrap(), metrics);
    }
}
