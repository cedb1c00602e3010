//! A 64-bit likeness of a whole file's sound that stays near when it is coded again.
//!
//! Decides how sketches are made and how far apart two are. Energies of nine bands below 2 kHz are gathered over
//! stretches of time that grow with the file, so nothing needs to be sought back; at the end the file is cut in nine
//! equal spans. A bit says whether the tilt between neighbouring bands rises or falls from one span to the next: level,
//! equalising by a constant and the codec hardly change that.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

/// Spans and bands: one more than bits each way.
const SPANS: usize = 9;
const BANDS: usize = 9;
/// The lowest edge, Hz, and the highest, below half of the 4 kHz that is looked at.
const EDGES_HZ: (f64, f64) = (80.0, 1_900.0);
/// Points of a transform at about 4 kHz, and the samples between two.
const WINDOW: usize = 512;
const HOP: usize = 1_024;
/// Stretches kept; when they are full, each two become one.
const STRETCHES: usize = 512;
/// Rate that is looked at, Hz, or a little more.
const RATE_HZ: u32 = 4_000;
/// Share of the mean energy that is added everywhere, so that silence has no tilt of its own.
const FLOOR: f64 = 1e-4;

/// Sketches one file.
pub struct Sketcher {
    /// Input samples that make one.
    fold: usize,
    folded: usize,
    sum: f32,
    samples: Vec<f32>,
    skip: usize,
    transform: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
    windowed: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
    /// First bin of each band, and the one after the last.
    edges: [usize; BANDS + 1],
    stretches: Vec<[f64; BANDS]>,
    /// Transforms that make a stretch, and those of the one under way.
    per_stretch: usize,
    under_way: (usize, [f64; BANDS]),
}

impl Sketcher {
    /// For planes at `sample_rate_hz`.
    pub fn new(sample_rate_hz: u32) -> Self {
        let fold = (sample_rate_hz / RATE_HZ).max(1);
        let rate = f64::from(sample_rate_hz.max(1)) / f64::from(fold);
        let transform = RealFftPlanner::new().plan_fft_forward(WINDOW);
        #[expect(clippy::cast_precision_loss, reason = "512")]
        let points = WINDOW as f64;
        let edge = |band: usize| {
            #[expect(clippy::cast_precision_loss, reason = "9")]
            let share = band as f64 / BANDS as f64;
            let hz = EDGES_HZ.0 * (EDGES_HZ.1 / EDGES_HZ.0).powf(share);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "cut to the bins there are")]
            let bin = (hz / rate * points).round().min(points / 2.0) as usize;
            bin
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a window in f32")]
        let window = |place: usize| (0.5 - 0.5 * (std::f64::consts::TAU * place as f64 / points).cos()) as f32;
        Self {
            fold: fold as usize,
            folded: 0,
            sum: 0.0,
            samples: Vec::with_capacity(WINDOW),
            skip: 0,
            window: (0..WINDOW).map(window).collect(),
            windowed: transform.make_input_vec(),
            spectrum: transform.make_output_vec(),
            scratch: transform.make_scratch_vec(),
            transform,
            edges: std::array::from_fn(edge),
            stretches: Vec::with_capacity(STRETCHES),
            per_stretch: 1,
            under_way: (0, [0.0; BANDS]),
        }
    }

    /// The next samples: one slice for each channel, all of one length.
    pub fn push(&mut self, planes: &[&[f32]]) {
        let length = planes.iter().map(|plane| plane.len()).min().unwrap_or(0);
        let mut at = 0;
        while at < length {
            let end = length.min(at + self.fold - self.folded);
            if self.skip == 0 {
                for plane in planes {
                    self.sum += plane[at..end].iter().sum::<f32>();
                }
            }
            self.folded += end - at;
            at = end;
            if self.folded == self.fold {
                self.folded = 0;
                let sample = std::mem::take(&mut self.sum);
                if self.skip > 0 {
                    self.skip -= 1;
                    continue;
                }
                self.samples.push(if sample.is_finite() { sample } else { 0.0 });
                if self.samples.len() == WINDOW {
                    self.look();
                    self.samples.clear();
                    self.skip = HOP - WINDOW;
                }
            }
        }
    }

    /// The sketch of everything pushed; 0 when there was too little.
    pub fn finish(mut self) -> u64 {
        if self.under_way.0 * 2 >= self.per_stretch && self.stretches.len() < STRETCHES {
            let (count, energies) = self.under_way;
            #[expect(clippy::cast_precision_loss, reason = "transforms of a stretch")]
            self.stretches.push(energies.map(|energy| energy * self.per_stretch as f64 / count as f64));
        }
        let count = self.stretches.len();
        if count < SPANS {
            return 0;
        }
        let mut spans = [[0.0_f64; BANDS]; SPANS];
        for (place, stretch) in self.stretches.iter().enumerate() {
            // A stretch on a border goes to both sides, in shares.
            let (from, to) = (place * SPANS, (place + 1) * SPANS);
            for (span, energies) in spans.iter_mut().enumerate() {
                let shared = to.min((span + 1) * count).saturating_sub(from.max(span * count));
                if shared > 0 {
                    #[expect(clippy::cast_precision_loss, reason = "at most 512 times 9")]
                    let shared = shared as f64;
                    energies.iter_mut().zip(stretch).for_each(|(sum, energy)| *sum += energy * shared);
                }
            }
        }
        let mut floors = [0.0_f64; BANDS];
        for (band, floor) in floors.iter_mut().enumerate() {
            *floor = spans.iter().map(|span| span[band]).sum::<f64>() * FLOOR + f64::MIN_POSITIVE;
        }
        let tilt = |span: usize, band: usize| {
            let level = |band: usize| (spans[span][band] + floors[band]).ln();
            level(band) - level(band + 1)
        };
        let mut sketch = 0;
        for span in 1..SPANS {
            for band in 0..BANDS - 1 {
                sketch = sketch << 1 | u64::from(tilt(span, band) > tilt(span - 1, band));
            }
        }
        sketch
    }

    fn look(&mut self) {
        for ((to, from), window) in self.windowed.iter_mut().zip(&self.samples).zip(&self.window) {
            *to = from * window;
        }
        let done =
            self.transform.process_with_scratch(&mut self.windowed, &mut self.spectrum, &mut self.scratch).is_ok();
        debug_assert!(done, "the buffers were made by the transform");
        for (band, energy) in self.under_way.1.iter_mut().enumerate() {
            let bins = self.spectrum.get(self.edges[band]..self.edges[band + 1]).unwrap_or(&[]);
            *energy += f64::from(bins.iter().map(Complex::norm_sqr).sum::<f32>());
        }
        self.under_way.0 += 1;
        if self.under_way.0 == self.per_stretch {
            let (_, energies) = std::mem::take(&mut self.under_way);
            self.stretches.push(energies);
            if self.stretches.len() == STRETCHES {
                let joined =
                    self.stretches.chunks_exact(2).map(|two| std::array::from_fn(|band| two[0][band] + two[1][band]));
                self.stretches = joined.collect();
                self.per_stretch *= 2;
            }
        }
    }
}

/// Bits in which two sketches differ, 0..=64.
pub fn distance(a: u64, b: u64) -> u32 {
    (a ^ b).count_ones()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tones that come and go, at any rate the same.
    #[expect(clippy::cast_possible_truncation, reason = "samples in f32")]
    fn music(rate: u32, seconds: u32, kind: f64) -> Vec<f32> {
        let sample = |place: u32| {
            let t = f64::from(place) / f64::from(rate);
            let voice = |n: u32| {
                let hz = 90.0 * 1.5_f64.powi(n.cast_signed());
                let loud = (t * (0.11 + 0.07 * f64::from(n)) * kind + f64::from(n) * kind).sin().powi(2);
                loud * (std::f64::consts::TAU * hz * t).sin()
            };
            ((0..8).map(voice).sum::<f64>() / 10.0) as f32
        };
        (0..seconds * rate).map(sample).collect()
    }

    fn sketch(rate: u32, samples: &[f32], block: usize) -> u64 {
        let mut sketcher = Sketcher::new(rate);
        samples.chunks(block).for_each(|block| sketcher.push(&[block, block]));
        sketcher.finish()
    }

    #[test]
    fn the_same_sound_stays_near_and_another_is_far() {
        let one = sketch(44_100, &music(44_100, 60, 1.0), 4_096);
        let quieter: Vec<f32> = music(48_000, 60, 1.0).iter().map(|sample| sample * 0.3).collect();
        assert!(distance(one, sketch(48_000, &quieter, 960)) <= 6);
        assert!(distance(one, sketch(44_100, &music(44_100, 60, 1.37), 4_096)) >= 16);
    }

    #[test]
    fn how_the_samples_are_cut_changes_nothing_and_length_needs_no_memory() {
        let samples = music(8_000, 200, 1.0);
        let whole = sketch(8_000, &samples, samples.len());
        assert_eq!(sketch(8_000, &samples, 17), whole);
        let mut sketcher = Sketcher::new(8_000);
        for _ in 0..20 {
            sketcher.push(&[&samples]);
        }
        assert!(sketcher.stretches.len() < STRETCHES);
        assert_eq!(sketch(8_000, &[], 1), 0);
        assert_eq!(sketch(8_000, &samples[..8_000], 4_096), 0);
    }
}
