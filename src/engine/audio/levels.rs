//! Energies of many blocks in bounded memory: counted by level in narrow bins, each with the exact sum of its energies,
//! so that means stay exact and only the choice of a bin is rounded.

/// Block energies (mean squares) by level.
pub(super) struct Levels {
    floor_db: f64,
    step_db: f64,
    bins: Box<[Bin]>,
    count: u64,
}

#[derive(Clone, Copy, Default)]
struct Bin {
    count: u32,
    energy: f64,
}

impl Bin {
    fn mean(self) -> f64 {
        self.energy / f64::from(self.count.max(1))
    }
}

impl Levels {
    /// Bins of `step_db` from `floor_db` to `ceiling_db`; what lies beyond falls into the first or the last.
    pub(super) fn new(floor_db: f64, ceiling_db: f64, step_db: f64) -> Self {
        let count = ((ceiling_db - floor_db) / step_db).ceil().max(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and some thousands")]
        let bins = vec![Bin::default(); count as usize].into_boxed_slice();
        Self { floor_db, step_db, bins, count: 0 }
    }

    /// One block; nothing happens when `energy` is zero, negative or no number.
    pub(super) fn add(&mut self, energy: f64) {
        if !(energy > 0.0 && energy.is_finite()) {
            return;
        }
        let place = ((10.0 * energy.log10() - self.floor_db) / self.step_db).max(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, cut to the last bin"
        )]
        let place = (place as usize).min(self.bins.len() - 1);
        let bin = &mut self.bins[place];
        bin.count = bin.count.saturating_add(1);
        bin.energy += energy;
        self.count += 1;
    }

    /// Mean energy of the blocks at or above `threshold` (an energy).
    pub(super) fn mean_from(&self, threshold: f64) -> Option<f64> {
        let (count, energy) = self
            .bins
            .iter()
            .filter(|bin| bin.count > 0 && bin.mean() >= threshold)
            .fold((0, 0.0), |(count, energy), bin| (count + u64::from(bin.count), energy + bin.energy));
        #[expect(clippy::cast_precision_loss, reason = "a count of blocks")]
        let mean = energy / count as f64;
        (count > 0).then_some(mean)
    }

    /// The energies that `low` and `high` (0..=1) of the blocks at or above `threshold` do not exceed, by rank, rounded
    /// down.
    pub(super) fn percentiles(&self, threshold: f64, low: f64, high: f64) -> Option<(f64, f64)> {
        let above = || self.bins.iter().filter(|bin| bin.count > 0 && bin.mean() >= threshold);
        let count: u64 = above().map(|bin| u64::from(bin.count)).sum();
        let at = |share: f64| {
            #[expect(clippy::cast_precision_loss, reason = "a count of blocks")]
            let rank = (count as f64 * share).floor();
            let mut seen = 0.0;
            let found = above().find(|bin| {
                seen += f64::from(bin.count);
                seen >= rank
            });
            found.map(|bin| bin.mean())
        };
        Some((at(low)?, at(high)?))
    }

    /// Mean energy of the loudest `count` blocks.
    pub(super) fn top_mean(&self, count: u64) -> Option<f64> {
        let mut left = count.min(self.count);
        let mut energy = 0.0;
        for bin in self.bins.iter().rev().filter(|bin| bin.count > 0) {
            let taken = left.min(u64::from(bin.count));
            #[expect(clippy::cast_precision_loss, reason = "a count of blocks")]
            let taken_f = taken as f64;
            energy += bin.mean() * taken_f;
            left -= taken;
            if left == 0 {
                break;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of blocks")]
        let mean = energy / count.min(self.count) as f64;
        (count.min(self.count) > 0).then_some(mean)
    }
}
