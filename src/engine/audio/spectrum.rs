//! The spectrum of a stream, window by window: levels per frequency, the edge of a low-pass, and the excerpts in which
//! codec grids are looked for.
//!
//! This room measures. Whether an edge or a grid means anything is decided by [`super::transcode`].

use std::f64::consts::PI;
use std::sync::Arc;

use realfft::num_complex::Complex32;
use realfft::{RealFftPlanner, RealToComplex};

use super::grid::{self, GridMeter};
use crate::model::spectrum::{Edge, PROFILE_BANDS, Spectrum};

/// Samples of a window.
const WINDOW: usize = 4096;
/// Rows of the histogram: two bins of the transform each, 21.5 Hz at 44.1 kHz.
const ROWS: usize = WINDOW / 4;
/// Samples from one window to the next: about a quarter of the audio is looked at. A multiple of the grid's step.
const HOP: u64 = 112 * grid::EXCERPT_STEP;
/// The same at the start, so that short files have windows too.
const HOP_AT_START: u64 = 28 * grid::EXCERPT_STEP;
/// Where the start ends, samples.
const START: u64 = 64 * HOP_AT_START;
/// Mean square below which a window does not count: -60 dBFS.
const AUDIBLE: f32 = 1e-6;
/// Levels of the histogram: one mantissa bit of the power, so 1.5 dB each, from -160 dB up.
const LEVELS: usize = 112;
const LOWEST: u32 = 146;
/// Power of that lowest level.
const POWER_MIN: f32 = 1.2e-16;

/// Measures the spectrum of one stream. Memory: about 0.4 MB, and 0.8 MB for the grids.
pub struct SpectrumMeter {
    sample_rate_hz: u32,
    channels: usize,
    /// Samples of one channel seen.
    seen: u64,
    /// Where the window being filled begins.
    begins: u64,
    /// The first two channels of that window.
    left: Vec<f32>,
    right: Vec<f32>,
    window: Vec<f32>,
    fft: Arc<dyn RealToComplex<f32>>,
    frame: Vec<f32>,
    bins: Vec<Complex32>,
    scratch: Vec<Complex32>,
    /// `[row][level]`: how many windows had this level there.
    histogram: Vec<u16>,
    /// Sums of power: all, and above 16 kHz.
    energy: (f64, f64),
    /// Sums of squares: difference and sum of the first two channels.
    sides: (f64, f64),
    /// Every bit any sample used, as of 24.
    bits: u32,
    windows: u32,
    grids: Option<GridMeter>,
}

impl SpectrumMeter {
    /// For planar samples of `channels` channels; also looks for grids only after [`Self::with_grids`].
    pub fn new(sample_rate_hz: u32, channels: usize) -> Self {
        let fft = RealFftPlanner::new().plan_fft_forward(WINDOW);
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "table sizes are small")]
        let window = (0..WINDOW).map(|n| (0.5 - 0.5 * (2.0 * PI * n as f64 / WINDOW as f64).cos()) as f32).collect();
        Self {
            sample_rate_hz,
            channels,
            seen: 0,
            begins: 0,
            left: Vec::with_capacity(WINDOW),
            right: Vec::with_capacity(WINDOW),
            window,
            frame: fft.make_input_vec(),
            bins: fft.make_output_vec(),
            scratch: fft.make_scratch_vec(),
            fft,
            histogram: vec![0; ROWS * LEVELS],
            energy: (0.0, 0.0),
            sides: (0.0, 0.0),
            bits: 0,
            windows: 0,
            grids: None,
        }
    }

    /// Looks for codec grids as well: meant for lossless codecs, whose samples should bear none.
    #[must_use]
    pub fn with_grids(mut self) -> Self {
        self.grids = Some(GridMeter::new(self.sample_rate_hz));
        self
    }

    /// Takes the next samples: one slice per channel, of equal length, full scale ±1.0.
    pub fn push(&mut self, planes: &[&[f32]]) {
        let Some(left) = planes.first() else {
            return;
        };
        let right = planes.get(1).unwrap_or(left);
        let length = left.len().min(right.len());
        let mut at = 0;
        while at < length {
            if self.seen < self.begins {
                let skipped = usize::try_from(self.begins - self.seen).unwrap_or(usize::MAX).min(length - at);
                at += skipped;
                self.seen += skipped as u64;
                continue;
            }
            let taken = (WINDOW - self.left.len()).min(length - at);
            self.left.extend_from_slice(&left[at..at + taken]);
            self.right.extend_from_slice(&right[at..at + taken]);
            at += taken;
            self.seen += taken as u64;
            if self.left.len() == WINDOW {
                self.measure();
                let hop = if self.begins < START { HOP_AT_START } else { HOP };
                self.begins += hop;
                self.left.clear();
                self.right.clear();
            }
        }
    }

    fn measure(&mut self) {
        let square = |plane: &[f32]| plane.iter().map(|x| x * x).sum::<f32>();
        #[expect(clippy::cast_precision_loss, reason = "a small constant")]
        let loud = square(&self.left).max(square(&self.right)) / WINDOW as f32;
        if loud.is_nan() || loud < AUDIBLE {
            return;
        }
        self.windows = self.windows.saturating_add(1);
        let (mut side, mut mid, mut bits) = (0.0_f32, 0.0_f32, 0_u32);
        for (&left, &right) in self.left.iter().zip(&self.right) {
            side += (left - right).powi(2);
            mid += (left + right).powi(2);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the bits are what is wanted")]
            let pattern = (left * 8_388_608.0) as i32 as u32;
            bits |= pattern;
        }
        self.bits |= bits;
        self.sides.0 += f64::from(side);
        self.sides.1 += f64::from(mid);
        if let Some(grids) = &mut self.grids {
            grids.offer(self.begins, &self.left, &self.right);
        }
        // The channels take turns: half the transforms, and a low-pass shows in either.
        let channel = if self.windows.is_multiple_of(2) && self.channels > 1 { &self.right } else { &self.left };
        for ((out, x), w) in self.frame.iter_mut().zip(channel).zip(&self.window) {
            *out = x * w;
        }
        if self.fft.process_with_scratch(&mut self.frame, &mut self.bins, &mut self.scratch).is_err() {
            // Lengths are the plan's own, so this does not happen; the window does not count then.
            return;
        }
        let full_row =
            usize::try_from(16_000 * 2 * ROWS as u64 / u64::from(self.sample_rate_hz.max(1))).unwrap_or(ROWS);
        #[expect(clippy::cast_precision_loss, reason = "a small constant")]
        // A full-scale sine has |X| = WINDOW / 4 under a Hann window; two bins are averaged.
        let scale = 0.5 * (4.0 / WINDOW as f32).powi(2);
        let (mut all, mut high) = (0.0_f64, 0.0_f64);
        for (row, pair) in self.bins[..2 * ROWS].chunks_exact(2).enumerate() {
            let power = (pair[0].norm_sqr() + pair[1].norm_sqr()) * scale;
            all += f64::from(power);
            if row >= full_row {
                high += f64::from(power);
            }
            let level = ((power.max(POWER_MIN).to_bits() >> 22).saturating_sub(LOWEST) as usize).min(LEVELS - 1);
            let cell = &mut self.histogram[row * LEVELS + level];
            *cell = cell.saturating_add(1);
        }
        self.energy.0 += all;
        self.energy.1 += high;
    }

    /// Level in dB below which `share` of the windows lie in this row.
    fn percentile(&self, row: usize, share: f32) -> f32 {
        let cells = &self.histogram[row * LEVELS..(row + 1) * LEVELS];
        let total: f32 = cells.iter().map(|&count| f32::from(count)).sum();
        let mut left = total * share;
        for (level, &count) in cells.iter().enumerate() {
            let count = f32::from(count);
            if left <= count && count > 0.0 {
                #[expect(clippy::cast_precision_loss, reason = "at most 112")]
                let place = level as f32 + left / count;
                #[expect(clippy::cast_precision_loss, reason = "a small constant")]
                return 10.0 * std::f32::consts::LOG10_2 * (place / 2.0 + LOWEST as f32 / 2.0 - 127.0);
            }
            left -= count;
        }
        -160.0
    }

    /// What was measured.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rows, levels and rates are small, and casts of floats saturate"
    )]
    pub fn finish(mut self) -> Spectrum {
        let grids = self.grids.take().map(GridMeter::finish).unwrap_or_default();
        if self.windows == 0 {
            return Spectrum { side_db: -120.0, grids, ..Spectrum::default() };
        }
        let loud: Vec<f32> = (0..ROWS).map(|row| self.percentile(row, 0.9)).collect();
        let median: Vec<f32> = (0..ROWS).map(|row| self.percentile(row, 0.5)).collect();
        let hz = self.sample_rate_hz as f32 / 2.0 / ROWS as f32;
        let edge = steepest(&loud, hz);
        let banded = |rows: &[f32]| -> Vec<i8> {
            rows.chunks_exact(ROWS / PROFILE_BANDS).map(|band| mean(band).round().clamp(-128.0, 20.0) as i8).collect()
        };
        // From 100 Hz up.
        let first = ((100.0 / hz) as usize).min(ROWS - 1);
        let powers: Vec<f32> = median[first..].iter().map(|db| 10_f32.powf(db / 10.0)).collect();
        let flatness = 10_f32.powf(mean(&median[first..]) / 10.0) / mean(&powers).max(1e-20);
        let side_db = 10.0 * ((self.sides.0 + 1e-12) / (self.sides.1 + 1e-9)).log10() as f32;
        let sharp = edge.depth_db >= LOWPASS_DB;
        Spectrum {
            windows: self.windows,
            effective_bandwidth_hz: bandwidth(&loud, hz, &edge),
            nominal_lowpass_hz: sharp.then_some(edge.hz),
            flatness: flatness.clamp(0.0, 1.0),
            hf_energy_ratio: (self.energy.1 / self.energy.0.max(1e-30)) as f32,
            edge,
            loud_db: banded(&loud),
            median_db: banded(&median),
            used_bits: 24_u8.saturating_sub(self.bits.trailing_zeros().min(24) as u8),
            side_db: side_db.max(-120.0),
            grids,
        }
    }
}

/// A fall this deep within a kilohertz is called a low-pass: music itself falls by 3 to 6 dB there.
const LOWPASS_DB: f32 = 15.0;

#[expect(clippy::cast_precision_loss, reason = "lengths are small")]
fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len().max(1) as f32
}

/// The steepest fall above 1 kHz after which nothing rises again; `hz` is the width of a row.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rows and rates are small, and casts of floats saturate"
)]
fn steepest(loud: &[f32], hz: f32) -> Edge {
    let far = ((500.0 / hz) as usize).max(3);
    let near = ((90.0 / hz) as usize).max(1);
    let last = loud.len().saturating_sub(far);
    // The highest mean of a span from each row on: a gap between two tones is not an edge.
    let mut rises = vec![-160.0_f32; loud.len()];
    for row in (0..last).rev() {
        rises[row] = mean(&loud[row + near..row + far]).max(rises[row + 1]);
    }
    let first = ((1000.0 / hz) as usize).max(far);
    if first >= last {
        // Rates below 3 kHz have nothing there.
        return Edge::default();
    }
    let mut best = (first, f32::MIN);
    for row in first..last {
        let fall = mean(&loud[row - far..row - near]) - rises[row];
        if fall > best.1 {
            best = (row, fall);
        }
    }
    let (row, depth_db) = best;
    let below_db = mean(&loud[row - far..row - near]);
    let above_db = rises[row];
    // The inner 80 % of the fall.
    let (top, bottom) = (below_db - 0.1 * depth_db, above_db + 0.1 * depth_db);
    let upper = (row - far..row + far).rev().find(|&r| loud[r] >= top).unwrap_or(row - far);
    let lower = (upper..loud.len()).find(|&r| loud[r] <= bottom).unwrap_or(loud.len() - 1);
    let rest = &loud[(row + (700.0 / hz) as usize).min(loud.len() - 1)..];
    Edge {
        hz: ((row as f32 + 0.5) * hz) as u32,
        depth_db,
        below_db,
        above_db,
        width_hz: ((lower - upper) as f32 * hz) as u32,
        floor_db: mean(rest),
        floor_peak_db: rest.iter().copied().fold(-160.0, f32::max),
    }
}

/// Up to where there is content: below the edge of a low-pass with nothing above it, or up to the last row that rises
/// out of 16-bit rounding noise.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rows and rates are small, and casts of floats saturate"
)]
fn bandwidth(loud: &[f32], hz: f32, edge: &Edge) -> u32 {
    /// Rounding noise at its 90th percentile with triangular dither, and 3 dB.
    const NOISE_DB: f32 = -119.0;
    let highest = loud.iter().rposition(|&level| level > NOISE_DB).map_or(0, |row| ((row + 1) as f32 * hz) as u32);
    let empty_above = edge.depth_db >= LOWPASS_DB && edge.floor_peak_db < edge.below_db - LOWPASS_DB;
    if empty_above { edge.hz.min(highest) } else { highest }
}
