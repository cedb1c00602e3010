//! How far a source is trusted to deliver: `(S+5)/(S + F + 1.5·T + 2.5·C + 10)` of what it did (SPEC-FACTS 14, C5).
//!
//! All four counters halve every seven days, so that everybody comes back to neutral. Never sent to anybody.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::time::UnixMs;

/// Of whom nothing is known.
pub const NEUTRAL: f64 = 0.5;

/// Section `mesh.reputation`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReputationSettings {
    /// Off: everybody counts as neutral.
    pub enabled: bool,
    /// Whoever is below is used only when nobody else has the piece.
    pub quarantine_threshold: f64,
    /// Time in which all counters halve.
    pub half_life: Duration,
}

impl Default for ReputationSettings {
    fn default() -> Self {
        Self { enabled: true, quarantine_threshold: 0.3, half_life: Duration::from_secs(7 * 24 * 3_600) }
    }
}

/// What a source did, faded by time. Counts of runs of pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reputation {
    /// That came whole.
    pub successful: f64,
    /// That failed otherwise.
    pub failed: f64,
    /// That took too long.
    pub timed_out: f64,
    /// With a bad piece.
    pub corrupt: f64,
    /// Requests of ours that the source itself took back after it had granted them; shown, not counted.
    pub cancelled_by_peer: f64,
    /// When it was met first.
    pub first_at: UnixMs,
    /// When the counters were faded last.
    pub last_at: UnixMs,
}

impl Reputation {
    /// 0 to 1; 0.5 is neutral.
    pub fn score(&self) -> f64 {
        let Self { successful, failed, timed_out, corrupt, .. } = *self;
        ((successful + 5.0) / (successful + failed + 1.5 * timed_out + 2.5 * corrupt + 10.0)).clamp(0.0, 1.0)
    }

    /// As it is at this moment by the calendar. A calendar that went back fades nothing: it was ahead, and from now on it
    /// is taken as it is; unless it stands before this source was ever met, as on a board that does not know the time
    /// yet, and is not believed.
    #[must_use]
    pub fn faded(mut self, now: UnixMs, half_life: Duration) -> Self {
        let half_lives = now.since(self.last_at).as_secs_f64() / half_life.as_secs_f64().max(1.0);
        let left = (-half_lives).exp2();
        for counter in self.counters() {
            *counter *= left;
        }
        // One that is not believed and comes right again has not let years pass.
        if now >= self.first_at || now >= self.last_at {
            self.last_at = now;
        }
        self
    }

    /// With what another record of the same source counted besides. Both are of the same moment.
    #[must_use]
    pub fn with(mut self, more: &Self) -> Self {
        let mut more = *more;
        for (counter, add) in self.counters().into_iter().zip(more.counters()) {
            *counter += *add;
        }
        self
    }

    fn counters(&mut self) -> [&mut f64; 5] {
        [&mut self.successful, &mut self.failed, &mut self.timed_out, &mut self.corrupt, &mut self.cancelled_by_peer]
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "halves and sums of small numbers are exact")]
mod tests {
    use super::*;

    const WEEK: u64 = 7 * 24 * 3_600 * 1_000;

    fn of(successful: f64, failed: f64, timed_out: f64, corrupt: f64) -> Reputation {
        Reputation { successful, failed, timed_out, corrupt, last_at: UnixMs(WEEK * 1_000), ..Reputation::default() }
    }

    #[test]
    fn three_bad_or_five_late_first_chunks_are_enough() {
        assert!((of(0.0, 0.0, 0.0, 0.0).score() - NEUTRAL).abs() < 1e-12);
        assert!(of(0.0, 0.0, 0.0, 2.0).score() > 0.3 && of(0.0, 0.0, 0.0, 3.0).score() < 0.3);
        assert!(of(0.0, 0.0, 4.0, 0.0).score() > 0.3 && of(0.0, 0.0, 5.0, 0.0).score() < 0.3);
        assert!((of(90.0, 0.0, 0.0, 0.0).score() - 0.95).abs() < 1e-12);
        assert!((of(0.0, 10.0, 0.0, 0.0).score() - 0.25).abs() < 1e-12);
    }

    #[test]
    fn counters_halve_every_week_exactly() {
        let half_life = ReputationSettings::default().half_life;
        let met = of(8.0, 6.0, 4.0, 2.0);
        let at = |weeks: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a test"
            )]
            let ms = (weeks * WEEK as f64) as u64;
            met.faded(UnixMs(WEEK * 1_000 + ms), half_life)
        };
        let counts = |r: Reputation| [r.successful, r.failed, r.timed_out, r.corrupt];
        assert_eq!(counts(at(1.0)), [4.0, 3.0, 2.0, 1.0]);
        assert_eq!(counts(at(2.0)), [2.0, 1.5, 1.0, 0.5]);
        assert!((at(0.5).successful - 8.0 / 2.0_f64.sqrt()).abs() < 1e-9, "it fades all the time");
        // In steps or at once.
        let stepped = at(0.25).faded(UnixMs(WEEK * 1_001), half_life);
        assert!((stepped.corrupt - 1.0).abs() < 1e-9);
    }

    #[test]
    fn clocks_may_jump() {
        let half_life = ReputationSettings::default().half_life;
        let bad = of(0.0, 0.0, 0.0, 9.0);
        let back = bad.faded(UnixMs(5), half_life);
        assert!((back.score() - bad.score()).abs() < 1e-12, "time that goes back fades nothing");
        let far = bad.faded(UnixMs(u64::MAX), half_life);
        assert!((far.score() - NEUTRAL).abs() < 1e-9 && far.score().is_finite());
        let none = bad.faded(UnixMs(WEEK * 1_001), Duration::ZERO);
        assert!(none.score().is_finite());
        // A board that begins in 1970 at each start, and learns the time a moment later.
        let met = Reputation { first_at: UnixMs(WEEK * 900), ..bad };
        let started =
            (0..20).fold(met, |known, _| known.faded(UnixMs(7), half_life).faded(UnixMs(WEEK * 1_000), half_life));
        assert_eq!((started.corrupt, started.last_at), (9.0, UnixMs(WEEK * 1_000)), "no years have passed");
        // A calendar that was ten years ahead for a moment: what was counted then fades when it is right again.
        let ahead = met.faded(UnixMs(WEEK * 1_520), half_life).with(&of(0.0, 0.0, 0.0, 8.0));
        let right = ahead.faded(UnixMs(WEEK * 1_000), half_life);
        assert!((right.corrupt - 8.0).abs() < 1e-6, "going back fades nothing");
        assert!((right.faded(UnixMs(WEEK * 1_001), half_life).corrupt - 4.0).abs() < 1e-6);
    }

    #[test]
    fn records_of_one_source_add_up() {
        let both = of(1.0, 2.0, 3.0, 4.0).with(&of(10.0, 20.0, 30.0, 40.0));
        assert_eq!([both.successful, both.failed, both.timed_out, both.corrupt], [11.0, 22.0, 33.0, 44.0]);
    }
}
