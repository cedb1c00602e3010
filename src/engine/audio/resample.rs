//! Sample-rate conversion of one channel by a polyphase windowed sinc, as AcoustID's reference program has it done.
//!
//! Fingerprints are compared bit by bit, so the filter follows the parameters that program asks its resampler for: 16
//! taps widened by the ratio of the rates, at most 256 phases without interpolation between them, cutoff 0.8 of the
//! lower rate, a Kaiser window with β 9, each phase of unit gain. The beginning and the end are mirrored. The first
//! sample that comes out lies on the first that went in.

/// Taps at equal rates.
const TAPS: f64 = 16.0;
/// Most phases.
const PHASES_MAX: u32 = 256;
/// Cutoff as a share of the lower rate's half.
const CUTOFF: f64 = 0.8;
/// Shape of the Kaiser window.
const BETA: f64 = 9.0;
/// Taps are a multiple of this, so that the compiler uses vectors.
const LANES: usize = 8;
/// Input samples worked through at once.
const CHUNK: usize = 16_384;

/// Rates a [`Resampler`] takes, Hz.
pub const RATES_HZ: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Turns samples at one rate into samples at another.
pub struct Resampler {
    /// Phase by phase.
    taps: Vec<f32>,
    length: usize,
    phases: u64,
    /// Advance of one output sample in phases: whole, and the rest over `rest_of`.
    advance: u64,
    rest: u64,
    rest_of: u64,
    /// Place of the next output sample in phases, from the first of `held`.
    place: u64,
    place_rest: u64,
    /// Samples from `length / 2` before the next output on.
    held: Vec<f32>,
    started: bool,
}

impl Resampler {
    /// From one rate to another; `None` outside [`RATES_HZ`].
    pub fn new(from_hz: u32, to_hz: u32) -> Option<Self> {
        if !RATES_HZ.contains(&from_hz) || !RATES_HZ.contains(&to_hz) {
            return None;
        }
        let common = greatest_common_divisor(from_hz, to_hz);
        let (from, to) = (from_hz / common, to_hz / common);
        let phases = if to <= PHASES_MAX { PHASES_MAX / to * to } else { PHASES_MAX };
        let factor = (f64::from(to) / f64::from(from)).min(1.0) * CUTOFF;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 20 and 16,000")]
        let length = ((TAPS / factor).ceil() as usize).next_multiple_of(LANES);
        let taps = (0..phases).flat_map(|phase| taps(f64::from(phase) / f64::from(phases), factor, length)).collect();
        let step = u64::from(from) * u64::from(phases);
        let rest_of = u64::from(to);
        Some(Self {
            taps,
            length,
            phases: u64::from(phases),
            advance: step / rest_of,
            rest: step % rest_of,
            rest_of,
            place: 0,
            place_rest: 0,
            held: Vec::new(),
            started: false,
        })
    }

    /// Takes the next samples and appends what comes out of them.
    pub fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        for samples in samples.chunks(CHUNK) {
            self.held.extend_from_slice(samples);
            if self.started || self.held.len() > self.length {
                self.begin();
                self.run(out);
            }
        }
    }

    /// Appends what the end, mirrored, still gives.
    pub fn finish(mut self, out: &mut Vec<f32>) {
        if self.held.is_empty() {
            return;
        }
        self.begin();
        let mirrored = self.held.len().min(self.length).div_ceil(2);
        let end: Vec<f32> = self.held.iter().rev().take(mirrored).copied().collect();
        self.held.extend(end);
        self.run(out);
    }

    /// Puts the mirrored beginning before the first sample.
    fn begin(&mut self) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let before = (self.length - 1) / 2;
        let mirror = |back: usize| self.held.get(back).or(self.held.last()).copied().unwrap_or(0.0);
        let mut held: Vec<f32> = (1..=before).rev().map(mirror).collect();
        held.append(&mut self.held);
        self.held = held;
    }

    fn run(&mut self, out: &mut Vec<f32>) {
        loop {
            #[expect(clippy::cast_possible_truncation, reason = "within `held` or just beyond")]
            let (at, phase) = ((self.place / self.phases) as usize, (self.place % self.phases) as usize);
            let Some(window) = self.held.get(at..).and_then(|rest| rest.get(..self.length)) else {
                let done = at.min(self.held.len());
                self.held.drain(..done);
                self.place -= done as u64 * self.phases;
                return;
            };
            out.push(dot(window, &self.taps[phase * self.length..(phase + 1) * self.length]));
            self.place += self.advance;
            self.place_rest += self.rest;
            if self.place_rest >= self.rest_of {
                self.place_rest -= self.rest_of;
                self.place += 1;
            }
        }
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// One phase: a sinc of `factor` of the input's band around `at` past the centre tap, windowed, of unit gain.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "taps are few, f32 holds them")]
fn taps(at: f64, factor: f64, length: usize) -> Vec<f32> {
    let centre = ((length - 1) / 2) as f64;
    let exact: Vec<f64> = (0..length)
        .map(|place| {
            let from_centre = place as f64 - centre - at;
            let x = std::f64::consts::PI * from_centre * factor;
            let sinc = if x.abs() < 1e-12 { 1.0 } else { x.sin() / x };
            let across = 2.0 * from_centre / length as f64;
            sinc * bessel_i0(BETA * (1.0 - across * across).max(0.0).sqrt())
        })
        .collect();
    let sum: f64 = exact.iter().sum();
    exact.into_iter().map(|tap| (tap / sum) as f32).collect()
}

/// Modified Bessel function of the first kind, order zero: the sum of `(x/2)^2k / k!^2`.
pub(super) fn bessel_i0(x: f64) -> f64 {
    let quarter = x * x / 4.0;
    let (mut sum, mut term, mut k) = (1.0, 1.0, 1.0);
    while term > sum * 1e-17 {
        term *= quarter / (k * k);
        sum += term;
        k += 1.0;
    }
    sum
}

/// Sum of products; both have one length, a multiple of [`LANES`].
fn dot(samples: &[f32], taps: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    for (samples, taps) in samples.chunks_exact(LANES).zip(taps.chunks_exact(LANES)) {
        for lane in 0..LANES {
            sums[lane] += samples[lane] * taps[lane];
        }
    }
    sums.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "samples in f32")]
    fn tone(rate: u32, count: usize) -> Vec<f32> {
        (0..count).map(|at| (std::f64::consts::TAU * 440.0 * at as f64 / f64::from(rate)).cos() as f32).collect()
    }

    fn resampled(from: u32, samples: &[f32], block: usize) -> Vec<f32> {
        let mut resampler = Resampler::new(from, 11_025).unwrap();
        let mut out = Vec::new();
        samples.chunks(block).for_each(|block| resampler.push(block, &mut out));
        resampler.finish(&mut out);
        out
    }

    #[test]
    fn a_tone_stays_where_it_was() {
        for rate in [8_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000] {
            let out = resampled(rate, &tone(rate, rate as usize), 4_096);
            assert!(out.len().abs_diff(11_025) <= 20, "{} samples from {rate} Hz", out.len());
            let wanted = tone(11_025, out.len());
            let worst = out.iter().zip(&wanted).take(10_900).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-3, "{worst} off at {rate} Hz");
        }
    }

    #[test]
    fn how_the_samples_are_cut_changes_nothing() {
        let samples = tone(48_000, 20_000);
        let whole = resampled(48_000, &samples, samples.len());
        for block in [1, 333, 4_096] {
            assert_eq!(resampled(48_000, &samples, block), whole);
        }
    }

    #[test]
    fn few_samples_and_odd_rates_do_no_harm() {
        assert!(resampled(44_100, &[], 1).is_empty());
        assert!(resampled(44_100, &[0.5], 1).len() <= 12);
        assert!(Resampler::new(999, 11_025).is_none());
        assert!(Resampler::new(768_001, 11_025).is_none());
        assert!(resampled(767_999, &vec![0.1; 50_000], 4_096).len() > 700);
    }
}
