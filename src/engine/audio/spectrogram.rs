//! The picture of a file's sound, made as the samples come, in bounded memory whatever the length.
//!
//! Decides how much time and how wide a band one point of the picture stands for. When all columns are used, two become
//! one and each stands for twice the time, so a picture has between half of the columns and all of them. Levels are means
//! of the power over the windows of a column and over the channels: a codec's low-pass is an edge that a mean shows and a
//! maximum hides behind clicks. Colours and axes are left to whoever draws.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use crate::model::id::ContentHash;
use crate::model::limits::{SPECTROGRAM_COLUMNS, SPECTROGRAM_ROWS};
use crate::model::spectrogram::{FLOOR_DB, Spectrogram};

/// Samples of one window: 46 ms at 44.1 kHz, 21.5 Hz between lines.
const WINDOW: usize = 4 * SPECTROGRAM_ROWS;
/// Samples between the beginnings of two windows.
const HOP: usize = WINDOW / 2;
/// Lines that make one band.
const LINES: usize = WINDOW / 2 / SPECTROGRAM_ROWS;
/// Power of a sine of full scale in its line: half the window's length times the Hann window's mean, squared.
#[expect(clippy::cast_precision_loss, reason = "a power of two")]
const FULL_SCALE: f32 = (WINDOW as f32 / 4.0) * (WINDOW as f32 / 4.0);

/// Draws one file's sound.
pub struct Spectrographer {
    rate_hz: u32,
    fft: Arc<dyn RealToComplex<f32>>,
    hann: Vec<f32>,
    windowed: Vec<f32>,
    lines: Vec<Complex<f32>>,
    /// The samples of each channel that the next window begins with.
    waiting: Vec<Vec<f32>>,
    samples: u64,
    /// Windows of one column.
    windows: u32,
    /// Summed power of finished columns over full scale, one band after the other; each of `windows` windows.
    columns: Vec<f32>,
    /// The column that is being filled, and its windows so far.
    column: Vec<f32>,
    filled: u32,
}

impl Spectrographer {
    /// For `channels` planes (at least one) at `sample_rate_hz`.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand samples")]
    pub fn new(sample_rate_hz: u32, channels: usize) -> Self {
        let fft = RealFftPlanner::new().plan_fft_forward(WINDOW);
        let turn = std::f32::consts::TAU / WINDOW as f32;
        Self {
            rate_hz: sample_rate_hz,
            windowed: fft.make_input_vec(),
            lines: fft.make_output_vec(),
            fft,
            hann: (0..WINDOW).map(|at| 0.5 - 0.5 * (turn * at as f32).cos()).collect(),
            waiting: vec![Vec::with_capacity(WINDOW); channels.max(1)],
            samples: 0,
            windows: 1,
            columns: Vec::new(),
            column: vec![0.0; SPECTROGRAM_ROWS],
            filled: 0,
        }
    }

    /// The next samples: one slice for each channel, all of one length.
    pub fn push(&mut self, planes: &[&[f32]]) {
        let length = planes.iter().map(|plane| plane.len()).min().unwrap_or(0);
        if planes.len() < self.waiting.len() {
            return;
        }
        self.samples = self.samples.saturating_add(length as u64);
        let mut at = 0;
        while at < length {
            let have = self.waiting[0].len();
            let end = length.min(at + WINDOW - have);
            for (waiting, plane) in self.waiting.iter_mut().zip(planes) {
                waiting.extend_from_slice(&plane[at..end]);
            }
            at = end;
            if self.waiting[0].len() == WINDOW {
                self.window();
                for waiting in &mut self.waiting {
                    waiting.drain(..HOP);
                }
            }
        }
    }

    /// The picture of everything that came. What is shorter than a window is one column.
    pub fn finish(mut self, content_hash: ContentHash) -> Spectrogram {
        if self.filled == 0 && self.columns.is_empty() && self.samples > 0 {
            for waiting in &mut self.waiting {
                waiting.resize(WINDOW, 0.0);
            }
            self.window();
        }
        let each = self.windows;
        let mut levels: Vec<u8> = self.columns.iter().map(|sum| level(*sum, each)).collect();
        if self.filled > 0 {
            levels.extend(self.column.iter().map(|sum| level(*sum, self.filled)));
        }
        Spectrogram {
            content_hash,
            sample_rate_hz: self.rate_hz,
            samples: self.samples,
            samples_per_column: u64::from(self.windows).saturating_mul(HOP as u64),
            rows: u16::try_from(SPECTROGRAM_ROWS).unwrap_or(u16::MAX),
            levels,
        }
    }

    /// Adds one window of every channel to the column.
    #[expect(clippy::cast_precision_loss, reason = "a handful of channels")]
    fn window(&mut self) {
        let share = 1.0 / (FULL_SCALE * self.waiting.len() as f32);
        for waiting in &self.waiting {
            for ((place, sample), weight) in self.windowed.iter_mut().zip(waiting).zip(&self.hann) {
                // What is no number would spread over the whole column.
                *place = if sample.is_finite() { sample.clamp(-8.0, 8.0) * weight } else { 0.0 };
            }
            // Fails only for buffers of the wrong length, and these are the plan's own.
            if self.fft.process(&mut self.windowed, &mut self.lines).is_err() {
                return;
            }
            for (band, lines) in self.column.iter_mut().zip(self.lines.chunks_exact(LINES)) {
                let strongest = lines.iter().map(Complex::norm_sqr).fold(0.0, f32::max);
                *band += strongest * share;
            }
        }
        self.filled += 1;
        if self.filled == self.windows {
            self.end_column();
        }
    }

    fn end_column(&mut self) {
        if self.columns.len() == SPECTROGRAM_COLUMNS * SPECTROGRAM_ROWS {
            self.halve();
            // This one is half of a column now.
            return;
        }
        self.columns.extend_from_slice(&self.column);
        self.column.fill(0.0);
        self.filled = 0;
    }

    /// Two columns become one.
    fn halve(&mut self) {
        for column in 0..SPECTROGRAM_COLUMNS / 2 {
            let (to, from) = (column * SPECTROGRAM_ROWS, 2 * column * SPECTROGRAM_ROWS);
            for row in 0..SPECTROGRAM_ROWS {
                self.columns[to + row] = self.columns[from + row] + self.columns[from + SPECTROGRAM_ROWS + row];
            }
        }
        self.columns.truncate(SPECTROGRAM_COLUMNS / 2 * SPECTROGRAM_ROWS);
        self.windows = self.windows.saturating_mul(2);
    }
}

/// A mean power as a level.
#[expect(clippy::cast_precision_loss, reason = "one digit in a thousand is not seen")]
fn level(sum: f32, windows: u32) -> u8 {
    let db = 10.0 * (sum / windows.max(1) as f32).max(1e-30).log10();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
    let level = ((1.0 - db / FLOOR_DB) * 255.0).round().clamp(0.0, 255.0) as u8;
    level
}

const _: () = {
    assert!(LINES >= 1 && SPECTROGRAM_COLUMNS.is_multiple_of(2), "columns are halved, bands hold whole lines");
};

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 44_100;

    fn sine(hz: f32, amplitude: f32, samples: usize) -> Vec<f32> {
        (0..samples)
            .map(|at| amplitude * (std::f32::consts::TAU * hz * (at % 44_100) as f32 / 44_100.0).sin())
            .collect()
    }

    fn draw(planes: &[&[f32]], block: usize) -> Spectrogram {
        let mut drawn = Spectrographer::new(RATE, planes.len());
        let length = planes[0].len();
        for at in (0..length).step_by(block) {
            let parts: Vec<&[f32]> = planes.iter().map(|plane| &plane[at..length.min(at + block)]).collect();
            drawn.push(&parts);
        }
        drawn.finish(ContentHash([7; 32]))
    }

    /// Band with the highest level of a column, and that level in dB.
    fn loudest(column: &[u8]) -> (usize, f32) {
        let (row, level) = column.iter().enumerate().max_by_key(|(_, level)| **level).unwrap();
        (row, FLOOR_DB * (1.0 - f32::from(*level) / 255.0))
    }

    #[test]
    fn a_tone_stands_in_its_band_at_its_level() {
        // Lines lie 21.5 Hz apart: 10,012.9 Hz is one of them, and its band is 465 / 2.
        let tone = sine(10_012.9, 0.1, 44_100);
        let picture = draw(&[&tone], 44_100);
        assert_eq!((picture.rows, picture.samples, picture.duration_ms()), (512, 44_100, 1_000));
        for column in 0..picture.columns() {
            let (row, db) = loudest(picture.column(column));
            assert!((231..=233).contains(&row) && (db + 20.0).abs() < 0.6, "row {row}, {db} dB");
            assert!(picture.column(column)[400] < 30, "nothing is elsewhere");
        }
    }

    #[test]
    fn time_goes_from_left_to_right() {
        let mut sound = vec![0.0; 88_200];
        sound.extend(sine(1_000.0, 0.5, 88_200));
        let picture = draw(&[&sound], 1_000);
        let columns = picture.columns();
        assert!(picture.column(columns / 4).iter().all(|level| *level == 0));
        assert!(picture.column(3 * columns / 4).iter().any(|level| *level > 200));
    }

    #[test]
    fn a_long_file_has_as_many_columns_as_a_picture_and_no_more() {
        let second = sine(5_000.0, 0.5, 44_100);
        let mut drawn = Spectrographer::new(RATE, 1);
        for _ in 0..240 {
            drawn.push(&[&second]);
        }
        let picture = drawn.finish(ContentHash([7; 32]));
        assert!((SPECTROGRAM_COLUMNS / 2..=SPECTROGRAM_COLUMNS).contains(&picture.columns()), "{}", picture.columns());
        let covered = picture.samples_per_column * picture.columns() as u64;
        assert!(covered.abs_diff(picture.samples) <= picture.samples_per_column + 2 * HOP as u64, "{covered}");
        for column in 0..picture.columns() {
            let (row, db) = loudest(picture.column(column));
            assert!((115..=117).contains(&row) && (-8.5..-5.5).contains(&db), "column {column}: row {row}, {db} dB");
        }
    }

    #[test]
    fn the_size_of_blocks_changes_nothing_and_channels_are_averaged() {
        let (left, right) = (sine(3_000.0, 0.5, 50_000), vec![0.0; 50_000]);
        let picture = draw(&[&left, &right], 50_000);
        assert_eq!(picture, draw(&[&left, &right], 777));
        let alone = loudest(draw(&[&left], 4_096).column(3)).1;
        assert!((alone - loudest(picture.column(3)).1 - 3.0).abs() < 0.6);
    }

    #[test]
    fn hostile_samples_and_short_files_make_a_picture() {
        let picture = draw(&[&[f32::NAN, f32::INFINITY, -1e30, 0.5]], 4);
        assert_eq!((picture.columns(), picture.levels.len()), (1, 512));
        assert_eq!(draw(&[&[]], 1).columns(), 0);
    }
}
