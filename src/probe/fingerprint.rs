//! Chromaprint, AcoustID's algorithm, over the first 120 s of samples, and its text form.
//!
//! Decides how decoded samples become what AcoustID's reference program would hash: mixed to one channel, brought to
//! 11,025 Hz by [`Resampler`] and rounded to 16 bits. All of it happens in `f32` and rounding comes last, as that
//! program does for decoders that give `f32` and for integers of more than 16 bits. For 16-bit sources it rounds after
//! mixing and again after each filter; the difference is one step of 16 bits, and changes at most some words in a
//! thousand.

use rusty_chromaprint::{Configuration, FingerprintCompressor};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::engine::audio::resample::Resampler;
use crate::model::limits;

/// The rate Chromaprint works at, Hz.
const RATE_HZ: u32 = 11_025;
/// What is heard, s; the rest of a file is left out.
pub const HEARD_S: u32 = 120;
/// Full scale of 16 bits.
const FULL_SCALE: f32 = 32_768.0;
/// Samples worked through at once.
const CHUNK: usize = 16_384;

/// Fingerprints one file.
pub struct Fingerprinter {
    /// `None` once enough was heard, or when the rate cannot be taken.
    at_work: Option<Box<AtWork>>,
    words: Vec<u32>,
}

struct AtWork {
    printer: rusty_chromaprint::Fingerprinter,
    resampler: Option<Resampler>,
    weights: Vec<f32>,
    mono: Vec<f32>,
    resampled: Vec<f32>,
    samples: Vec<i16>,
    /// Samples at 11,025 Hz still to be heard.
    left: usize,
}

impl Fingerprinter {
    /// For `channels` planes at `sample_rate_hz`, in the order of WAVE. Outside 1–768 kHz the fingerprint stays empty.
    pub fn new(sample_rate_hz: u32, channels: usize) -> Self {
        Self { at_work: AtWork::new(sample_rate_hz, channels).map(Box::new), words: Vec::new() }
    }

    /// The next samples: one slice for each channel, all of one length. Costs nothing after the first 120 s.
    pub fn push(&mut self, planes: &[&[f32]]) {
        let length = planes.iter().map(|plane| plane.len()).min().unwrap_or(0);
        let mut at = 0;
        while at < length {
            let Some(work) = &mut self.at_work else { return };
            let end = length.min(at + CHUNK);
            work.mix(planes, at..end);
            work.push();
            at = end;
            if work.left == 0 {
                self.end();
            }
        }
    }

    /// Whether more samples would change nothing.
    pub fn is_done(&self) -> bool {
        self.at_work.is_none()
    }

    /// The words, oldest first; empty when there was less than about 2.5 s.
    pub fn finish(mut self) -> Vec<u32> {
        self.end();
        self.words
    }

    fn end(&mut self) {
        let Some(mut work) = self.at_work.take() else { return };
        work.end();
        self.words = work.printer.fingerprint().iter().copied().take(limits::FINGERPRINT_WORDS).collect();
    }
}

impl AtWork {
    fn new(sample_rate_hz: u32, channels: usize) -> Option<Self> {
        let resampler = if sample_rate_hz == RATE_HZ { None } else { Some(Resampler::new(sample_rate_hz, RATE_HZ)?) };
        let mut printer = rusty_chromaprint::Fingerprinter::new(&Configuration::preset_test2());
        printer.start(RATE_HZ, 1).ok()?;
        Some(Self {
            printer,
            resampler,
            weights: mono_weights(channels),
            mono: Vec::new(),
            resampled: Vec::new(),
            samples: Vec::new(),
            left: (RATE_HZ * HEARD_S) as usize,
        })
    }

    fn mix(&mut self, planes: &[&[f32]], range: std::ops::Range<usize>) {
        self.mono.clear();
        self.mono.resize(range.len(), 0.0);
        for (plane, &weight) in planes.iter().zip(&self.weights) {
            for (sum, &sample) in self.mono.iter_mut().zip(&plane[range.clone()]) {
                *sum += weight * sample;
            }
        }
    }

    fn push(&mut self) {
        self.resampled.clear();
        match &mut self.resampler {
            Some(resampler) => resampler.push(&self.mono, &mut self.resampled),
            None => self.resampled.extend_from_slice(&self.mono),
        }
        self.hear();
    }

    fn end(&mut self) {
        if let Some(resampler) = self.resampler.take() {
            self.resampled.clear();
            resampler.finish(&mut self.resampled);
            self.hear();
        }
        self.printer.finish();
    }

    fn hear(&mut self) {
        let heard = self.resampled.len().min(self.left);
        self.left -= heard;
        self.samples.clear();
        self.samples.extend(self.resampled[..heard].iter().map(|&sample| to_16_bit(sample)));
        self.printer.consume(&self.samples);
    }
}

/// To the nearest step, ties to even, cut at full scale; what is no number becomes 0.
fn to_16_bit(sample: f32) -> i16 {
    #[expect(clippy::cast_possible_truncation, reason = "a cast from float to integer saturates")]
    let rounded = (sample * FULL_SCALE).round_ties_even() as i16;
    rounded
}

/// What each channel gives to the mix: the centre 1, left and right and what has no name 0.7, surrounds 0.5, the LFE
/// nothing, all together 1 (ITU-R BS.775's downmix, carried on to one channel).
fn mono_weights(channels: usize) -> Vec<f32> {
    const SIDE: f32 = std::f32::consts::FRAC_1_SQRT_2;
    let weight = |channel: usize| match (channels, channel) {
        (4, 2..) | (5, 3..) | (6..=8, 4..) => 0.5,
        (3 | 5.., 2) => 1.0,
        (6.., 3) => 0.0,
        _ => SIDE,
    };
    let weights: Vec<f32> = (0..channels).map(weight).collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// The text AcoustID takes: compressed, with its header, in the URL-safe alphabet of base64 without padding.
pub fn acoustid_text(words: &[u32]) -> String {
    let configuration = Configuration::preset_test2();
    URL_SAFE_NO_PAD.encode(FingerprintCompressor::from(&configuration).compress(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(rate: u32, samples: &[f32], block: usize) -> Vec<u32> {
        let mut printer = Fingerprinter::new(rate, 2);
        samples.chunks(block).for_each(|block| printer.push(&[block, block]));
        printer.finish()
    }

    #[expect(clippy::cast_possible_truncation, reason = "samples in f32")]
    fn chirps(rate: u32, seconds: u32) -> Vec<f32> {
        let sample = |place: u32| {
            let t = f64::from(place) / f64::from(rate);
            (0.5 * (std::f64::consts::TAU * (300.0 + 200.0 * (t * 0.9).sin()) * t).sin()) as f32
        };
        (0..rate * seconds).map(sample).collect()
    }

    #[test]
    fn how_the_samples_are_cut_changes_nothing() {
        let samples = chirps(44_100, 12);
        let whole = words(44_100, &samples, samples.len());
        assert!(whole.len() > 60);
        assert_eq!(words(44_100, &samples, 1_152), whole);
        // Another rate, the same sound.
        let other = words(48_000, &chirps(48_000, 12), 960);
        let wrong: u32 = whole.iter().zip(&other).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert!((wrong as usize) < whole.len(), "{wrong} bits of {} words", whole.len());
    }

    #[test]
    fn only_the_first_two_minutes_are_heard() {
        let mut samples = chirps(12_000, 130);
        let first = words(12_000, &samples, 4_096);
        samples[12_000 * 122..].fill(0.0);
        assert_eq!(words(12_000, &samples, 4_096), first);
        let mut printer = Fingerprinter::new(12_000, 1);
        printer.push(&[&samples]);
        assert!(printer.is_done());
    }

    #[test]
    fn odd_input_gives_no_words() {
        assert_eq!(words(44_100, &[], 1), Vec::<u32>::new());
        assert_eq!(words(100, &[0.0; 1_000], 100), Vec::<u32>::new());
        let mut printer = Fingerprinter::new(44_100, 0);
        printer.push(&[]);
        assert_eq!(printer.finish(), Vec::<u32>::new());
        words(44_100, &vec![f32::NAN; 200_000], 4_096);
    }

    #[test]
    fn the_text_names_its_algorithm_and_length() {
        // One byte algorithm (1), three bytes count.
        assert!(acoustid_text(&[0; 2]).starts_with("AQAAAg"), "{}", acoustid_text(&[0; 2]));
    }
}
