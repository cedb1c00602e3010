//! True peak of one channel: the samples and what lies between them, by interpolation (ITU-R BS.1770-4, annex 2).
//!
//! Four times oversampled below 96 kHz, twice below 192 kHz, else the samples themselves. Interpolating everything
//! would cost more than decoding, so a block is only looked at when cheap bounds allow a new peak in it.

/// Taps of each phase; half of them lie on either side.
const TAPS: usize = 32;
const HALF: usize = TAPS / 2;
/// Samples looked at together; not less than `HALF`, so that a block and its neighbours hold every tap.
const BLOCK: usize = 32;
/// Samples taken in at once.
const CHUNK: usize = 32 * BLOCK;
/// Shape of the Kaiser window.
const BETA: f64 = 6.0;

/// One phase of the interpolator, and what it can do at most.
struct Phase {
    taps: [f32; TAPS],
    /// Largest gain: the sum of the taps' magnitudes.
    gain: f32,
    /// What it adds to linear interpolation at most, for each unit of the largest second and first difference.
    curve: f32,
    slope: f32,
}

impl Phase {
    /// The value `at` (0..1) of the way from tap `HALF - 1` to the next.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "taps are few, f32 holds them")]
    fn new(at: f64) -> Self {
        let mut exact = [0.0_f64; TAPS];
        for (place, tap) in exact.iter_mut().enumerate() {
            let x = place as f64 - (HALF - 1) as f64 - at;
            let sinc = (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x);
            *tap = sinc * kaiser(x / HALF as f64);
        }
        let sum: f64 = exact.iter().sum();
        for tap in &mut exact {
            *tap /= sum;
        }
        // Less the linear interpolation, the taps sum to zero. Summed twice they weigh second differences instead of
        // samples, when the first moment is taken out and weighed with a first difference.
        let mut rest = exact;
        rest[HALF - 1] -= 1.0 - at;
        rest[HALF] -= at;
        let moment: f64 = rest.iter().enumerate().map(|(place, tap)| place as f64 * tap).sum();
        rest[HALF - 1] += moment;
        rest[HALF] -= moment;
        let (mut once, mut twice, mut curve) = (0.0, 0.0, 0.0);
        for tap in rest {
            once += tap;
            twice += once;
            curve += f64::abs(twice);
        }
        Self {
            taps: exact.map(|tap| tap as f32),
            gain: exact.iter().map(|tap| tap.abs()).sum::<f64>() as f32,
            curve: curve as f32,
            slope: moment.abs() as f32,
        }
    }
}

/// Kaiser window at `x` in -1..=1.
fn kaiser(x: f64) -> f64 {
    super::resample::bessel_i0(BETA * (1.0 - x * x).max(0.0).sqrt()) / super::resample::bessel_i0(BETA)
}

/// Follows one channel.
pub(super) struct TruePeak {
    phases: Vec<Phase>,
    /// Samples not yet settled, after `TAPS` that are.
    held: Vec<f32>,
    sample_peak: f32,
    peak: f32,
}

impl TruePeak {
    pub(super) fn new(sample_rate_hz: u32) -> Self {
        let times: u32 = match sample_rate_hz {
            ..96_000 => 4,
            96_000..192_000 => 2,
            192_000.. => 1,
        };
        let phases = (1..times).map(|phase| Phase::new(f64::from(phase) / f64::from(times))).collect();
        Self { phases, held: vec![0.0; BLOCK], sample_peak: 0.0, peak: 0.0 }
    }

    pub(super) fn push(&mut self, samples: &[f32]) {
        for samples in samples.chunks(CHUNK) {
            self.held.extend_from_slice(samples);
            self.settle();
        }
    }

    /// Largest sample and true peak, both as magnitudes.
    pub(super) fn finish(mut self) -> (f32, f32) {
        self.held.extend_from_slice(&[0.0; 2 * BLOCK]);
        self.settle();
        (self.sample_peak, self.peak.max(self.sample_peak))
    }

    /// Looks at every block that has its neighbours on both sides, and keeps the rest.
    fn settle(&mut self) {
        let blocks = self.held.len() / BLOCK;
        if blocks < 3 {
            return;
        }
        let largest = |block: usize| magnitude(&self.held[block * BLOCK..(block + 1) * BLOCK]);
        let (mut before, mut own) = (largest(0), largest(1));
        for block in 1..blocks - 1 {
            let after = largest(block + 1);
            self.sample_peak = self.sample_peak.max(own);
            self.peak = self.peak.max(own);
            let around = before.max(own).max(after);
            let window = &self.held[(block - 1) * BLOCK..(block + 2) * BLOCK];
            self.peak = look(&self.phases, window, around, self.peak);
            (before, own) = (own, after);
        }
        self.held.drain(..(blocks - 2) * BLOCK);
    }
}

/// The peak after the middle third of `window`, whose largest sample is `around`; not below `peak`.
fn look(phases: &[Phase], window: &[f32], around: f32, mut peak: f32) -> f32 {
    if phases.iter().all(|phase| phase.gain * around <= peak) {
        return peak;
    }
    let inner = magnitude(&window[BLOCK..=2 * BLOCK]);
    let (slope, curve) = differences(window);
    for phase in phases {
        if (phase.gain * around).min(inner + phase.curve * curve + phase.slope * slope) > peak {
            peak = peak.max(interpolated(&phase.taps, window));
        }
    }
    peak
}

/// Largest magnitude between the samples of the middle third.
fn interpolated(taps: &[f32; TAPS], window: &[f32]) -> f32 {
    let mut sums = [0.0_f32; BLOCK];
    for (place, &tap) in taps.iter().enumerate() {
        let from = BLOCK + place + 1 - HALF;
        for (sum, &sample) in sums.iter_mut().zip(&window[from..from + BLOCK]) {
            *sum += tap * sample;
        }
    }
    magnitude(&sums)
}

/// Largest magnitude; eight lanes, so that the compiler uses vectors.
fn magnitude(samples: &[f32]) -> f32 {
    let mut most = [0.0_f32; 8];
    let chunks = samples.chunks_exact(8);
    for &sample in chunks.remainder() {
        most[0] = larger(most[0], sample.abs());
    }
    for chunk in chunks {
        for (most, &sample) in most.iter_mut().zip(chunk) {
            *most = larger(*most, sample.abs());
        }
    }
    most.into_iter().fold(0.0, larger)
}

/// The larger one; the first when the second is no number.
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Largest magnitudes of the first and second differences.
fn differences(samples: &[f32]) -> (f32, f32) {
    let (mut slope, mut curve) = ([0.0_f32; 8], [0.0_f32; 8]);
    let count = samples.len() - 2;
    let (first, second, third) = (&samples[..count], &samples[1..=count], &samples[2..]);
    let chunks = first.chunks_exact(8).zip(second.chunks_exact(8)).zip(third.chunks_exact(8));
    for ((a, b), c) in chunks {
        for lane in 0..8 {
            slope[lane] = larger(slope[lane], (b[lane] - a[lane]).abs());
            curve[lane] = larger(curve[lane], (c[lane] - b[lane] - (b[lane] - a[lane])).abs());
        }
    }
    for at in count / 8 * 8..count {
        slope[0] = larger(slope[0], (second[at] - first[at]).abs());
        curve[0] = larger(curve[0], (third[at] - second[at] - (second[at] - first[at])).abs());
    }
    slope[0] = larger(slope[0], (samples[count + 1] - samples[count]).abs());
    (slope.into_iter().fold(0.0, larger), curve.into_iter().fold(0.0, larger))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Loud and quiet stretches of noise: the bounds must never hide the peak.
    #[test]
    fn what_is_skipped_holds_no_peak() {
        let mut seed = 7_u32;
        for round in 0_u16..20 {
            let mut smooth = 0.0_f32;
            let samples: Vec<f32> = (0_u16..4_000)
                .map(|place| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let noise = f32::from(u16::try_from(seed >> 16).unwrap()) / 32_768.0 - 1.0;
                    smooth += (noise - smooth) * f32::from(round + 1) / 20.0;
                    smooth * (f32::from(place) / 300.0).sin()
                })
                .collect();
            let mut follower = TruePeak::new(44_100);
            follower.push(&samples);
            let (sample_peak, peak) = follower.finish();

            let mut padded = vec![0.0; 2 * BLOCK];
            padded.extend_from_slice(&samples);
            padded.extend_from_slice(&[0.0; 3 * BLOCK]);
            let phases = TruePeak::new(44_100).phases;
            let every = |phase: &Phase| {
                padded
                    .windows(TAPS)
                    .map(|window| window.iter().zip(&phase.taps).map(|(sample, tap)| sample * tap).sum::<f32>().abs())
                    .fold(0.0, f32::max)
            };
            let whole = phases.iter().map(every).fold(magnitude(&samples), f32::max);
            assert!((peak - whole).abs() < 1e-5 * whole, "round {round}: {peak} for {whole}");
            assert!((sample_peak - magnitude(&samples)).abs() < f32::EPSILON);
        }
    }
}
