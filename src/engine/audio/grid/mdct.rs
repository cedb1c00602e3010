//! The modified discrete cosine transform that AAC, Vorbis and CELT are made of, with any window.

use std::f64::consts::PI;
use std::sync::Arc;

use realfft::num_complex::Complex32;
use realfft::{RealFftPlanner, RealToComplex};

/// Shape of the rising half of a window; the falling half mirrors it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// AAC's sine window (ISO 14496-3).
    Sine,
    /// AAC's Kaiser-Bessel derived window, alpha 4 (ISO 14496-3).
    Kaiser,
    /// Vorbis's window (Vorbis I specification 4.3.1).
    Vorbis,
    /// CELT's: Vorbis's slope over 120 samples at 48 kHz, flat elsewhere (RFC 6716 4.3.7).
    Celt,
}

/// One transform of `lines` lines over `2 * lines` samples.
pub(super) struct Mdct {
    lines: usize,
    window: Vec<f32>,
    twiddle: Vec<Complex32>,
    /// Turns bin k of a half-length transform.
    fft: Arc<dyn RealToComplex<f32>>,
    folded: Vec<f32>,
    re: Vec<f32>,
    im: Vec<f32>,
    re_bins: Vec<Complex32>,
    im_bins: Vec<Complex32>,
    scratch: Vec<Complex32>,
}

impl Mdct {
    /// `lines` must be a multiple of four.
    pub(super) fn new(lines: usize, shape: Shape) -> Self {
        let half = lines / 2;
        let fft = RealFftPlanner::new().plan_fft_forward(half);
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "table sizes are small")]
        let twiddle = (0..half)
            .map(|n| {
                let angle = -PI * (n as f64 + 0.125) / lines as f64;
                Complex32::new(angle.cos() as f32, angle.sin() as f32)
            })
            .collect();
        Self {
            lines,
            window: window(lines, shape),
            twiddle,
            folded: vec![0.0; lines],
            re: vec![0.0; half],
            im: vec![0.0; half],
            re_bins: fft.make_output_vec(),
            im_bins: fft.make_output_vec(),
            scratch: fft.make_scratch_vec(),
            fft,
        }
    }

    /// Transforms the first `2 * lines` samples of `samples` into `out`; white noise keeps its standard deviation.
    pub(super) fn run(&mut self, samples: &[f32], out: &mut [f32]) {
        let (lines, half) = (self.lines, self.lines / 2);
        let (x, w) = (&samples[..2 * lines], &self.window);
        for n in 0..half {
            let (a, b) = (3 * half - 1 - n, 3 * half + n);
            self.folded[n] = -x[a] * w[a] - x[b] * w[b];
            let (c, d) = (n, lines - 1 - n);
            self.folded[half + n] = x[c] * w[c] - x[d] * w[d];
        }
        for n in 0..half {
            let turned = Complex32::new(self.folded[2 * n], self.folded[lines - 1 - 2 * n]) * self.twiddle[n];
            self.re[n] = turned.re;
            self.im[n] = turned.im;
        }
        // Two real transforms make the complex one: the engine has no complex planner.
        let done = self.fft.process_with_scratch(&mut self.re, &mut self.re_bins, &mut self.scratch).is_ok()
            && self.fft.process_with_scratch(&mut self.im, &mut self.im_bins, &mut self.scratch).is_ok();
        if !done {
            // Lengths are the plan's own, so this does not happen; silence says nothing about any grid.
            out.fill(0.0);
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "table sizes are small")]
        let scale = (2.0 / lines as f32).sqrt();
        for k in 0..half {
            let (a, b) = if k <= half / 2 {
                (self.re_bins[k], self.im_bins[k])
            } else {
                (self.re_bins[half - k].conj(), self.im_bins[half - k].conj())
            };
            let y = Complex32::new(a.re - b.im, a.im + b.re) * self.twiddle[k];
            out[2 * k] = y.re * scale;
            out[lines - 1 - 2 * k] = -y.im * scale;
        }
    }
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "table sizes are small")]
pub(super) fn window(lines: usize, shape: Shape) -> Vec<f32> {
    let sine = |n: usize, of: usize| (PI * (n as f64 + 0.5) / (2 * of) as f64).sin();
    let vorbis = |n: usize, of: usize| (PI / 2.0 * sine(n, of).powi(2)).sin();
    let rise: Vec<f64> = match shape {
        Shape::Sine => (0..lines).map(|n| sine(n, lines)).collect(),
        Shape::Vorbis => (0..lines).map(|n| vorbis(n, lines)).collect(),
        Shape::Celt => {
            let (slope, flat) = (lines / 8, (lines - lines / 8) / 2);
            (0..lines)
                .map(|n| match n {
                    n if n < flat => 0.0,
                    n if n < flat + slope => vorbis(n - flat, slope),
                    _ => 1.0,
                })
                .collect()
        }
        Shape::Kaiser => {
            let kaiser = |n: usize| {
                let x = 2.0 * n as f64 / lines as f64 - 1.0;
                bessel(PI * 4.0 * (1.0 - x * x).max(0.0).sqrt())
            };
            let mut sums = Vec::with_capacity(lines + 1);
            let mut sum = 0.0;
            for n in 0..=lines {
                sum += kaiser(n);
                sums.push(sum);
            }
            sums[..lines].iter().map(|s| (s / sum).sqrt()).collect()
        }
    };
    rise.iter().chain(rise.iter().rev()).map(|&w| w as f32).collect()
}

/// Modified Bessel function of the first kind, order zero, by its power series.
pub(super) fn bessel(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..60 {
        term *= (x / 2.0 / f64::from(k)).powi(2);
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "test sizes are small")]
    fn the_fast_transform_equals_the_definition() {
        for shape in [Shape::Sine, Shape::Kaiser, Shape::Vorbis, Shape::Celt] {
            let lines = 48;
            let x: Vec<f32> = (0..2 * lines).map(|n| ((n * n * 37 + 11 * n) % 97) as f32 / 97.0 - 0.5).collect();
            let w = window(lines, shape);
            let mut fast = vec![0.0; lines];
            Mdct::new(lines, shape).run(&x, &mut fast);
            for (k, fast) in fast.iter().enumerate() {
                let sum: f64 = (0..2 * lines)
                    .map(|n| {
                        let angle = PI / lines as f64 * (n as f64 + 0.5 + lines as f64 / 2.0) * (k as f64 + 0.5);
                        f64::from(x[n] * w[n]) * angle.cos()
                    })
                    .sum();
                let slow = sum * (2.0 / lines as f64).sqrt();
                assert!((slow - f64::from(*fast)).abs() < 1e-5, "{shape:?} line {k}: {slow} {fast}");
            }
        }
    }

    #[test]
    fn every_window_overlaps_to_one() {
        for shape in [Shape::Sine, Shape::Kaiser, Shape::Vorbis, Shape::Celt] {
            let w = window(960, shape);
            for n in 0..960 {
                assert!((w[n] * w[n] + w[n + 960] * w[n + 960] - 1.0).abs() < 1e-5, "{shape:?} at {n}");
            }
        }
    }
}
