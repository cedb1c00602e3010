//! Where decoded sound goes: trimmed to what a player hears, then to every analyser, block by block.

use std::ops::RangeInclusive;

use super::fingerprint::Fingerprinter;
use super::measure::Failure;
use super::wire::Wanted;
use crate::engine::audio::dynamics::DynamicsMeter;
use crate::engine::audio::loudness::LoudnessMeter;
use crate::engine::audio::sketch::Sketcher;
use crate::engine::audio::spectrogram::Spectrographer;
use crate::engine::audio::spectrum::SpectrumMeter;
use crate::model::limits;
use crate::model::spectrum::Spectrum;
use crate::model::variant::Loudness;

/// Most channels that are measured: 7.1.
pub(super) const CHANNELS_MAX: usize = 8;

/// Sample rates that are measured, Hz. What lies outside is a header that lies, and filters made for it would have
/// millions of taps, or none.
pub(super) const RATES_HZ: RangeInclusive<u32> = 1_000..=1_536_000;
/// Samples beyond that are no sound. Float files whose full scale is that of 24-bit integers stay below.
const SAMPLE_MAX: f32 = 1e9;

/// What came of the sound.
pub(super) enum Heard {
    Measurements(Box<Measurements>),
    Spectrogram(Box<Spectrographer>),
}

/// What the analysers found; nothing where nobody listened.
#[derive(Default)]
pub(super) struct Measurements {
    pub(super) fingerprint: Vec<u32>,
    pub(super) sketch: u64,
    pub(super) loudness: Loudness,
    pub(super) spectrum: Spectrum,
}

/// Takes the sound of one file.
pub(super) struct Sink {
    rate_hz: u32,
    channels: usize,
    /// Samples of one channel still to be left out at the beginning.
    skip: u64,
    /// Samples of one channel to be heard in all, where that is known.
    limit: Option<u64>,
    heard: u64,
    decoded: u64,
    /// Samples that were no numbers, or beyond all measure; heard as silence.
    wild: u64,
    ears: Ears,
}

/// Who hears.
enum Ears {
    Meters(Box<Meters>),
    Spectrogram(Box<Spectrographer>),
    Nobody,
}

struct Meters {
    fingerprint: Fingerprinter,
    sketch: Sketcher,
    loudness: LoudnessMeter,
    dynamics: DynamicsMeter,
    spectrum: SpectrumMeter,
}

impl Meters {
    fn new(rate_hz: u32, channels: usize, lossless: bool) -> Self {
        let spectrum = SpectrumMeter::new(rate_hz, channels);
        Self {
            fingerprint: Fingerprinter::new(rate_hz, channels),
            sketch: Sketcher::new(rate_hz),
            loudness: LoudnessMeter::new(rate_hz, channels),
            dynamics: DynamicsMeter::new(rate_hz, channels),
            spectrum: if lossless { spectrum.with_grids() } else { spectrum },
        }
    }

    fn push(&mut self, planes: &[&[f32]]) {
        self.fingerprint.push(planes);
        self.sketch.push(planes);
        self.loudness.push(planes);
        self.dynamics.push(planes);
        self.spectrum.push(planes);
    }

    fn finish(self) -> Measurements {
        let loudness = self.loudness.finish();
        let dynamics = self.dynamics.finish();
        let mut fingerprint = self.fingerprint.finish();
        fingerprint.truncate(limits::FINGERPRINT_WORDS);
        Measurements {
            fingerprint,
            sketch: self.sketch.finish(),
            loudness: Loudness {
                integrated_lufs: loudness.integrated_lufs.map(narrow),
                range_lu: loudness.range_lu.map(narrow),
                true_peak_dbtp: loudness.true_peak_dbtp.map(narrow),
                sample_peak: narrow(loudness.sample_peak),
                dynamic_range_dr: dynamics.dynamic_range_dr.map(narrow),
                clipping_runs: dynamics.clipping_runs,
            },
            spectrum: self.spectrum.finish(),
        }
    }
}

impl Sink {
    /// In what was coded losslessly, traces of lossy codecs are looked for. Fails for more channels than
    /// `CHANNELS_MAX`, and for rates that none has.
    pub(super) fn new(rate_hz: u32, channels: usize, lossless: bool, wanted: Wanted) -> Result<Self, Failure> {
        if !(1..=CHANNELS_MAX).contains(&channels) || !RATES_HZ.contains(&rate_hz) {
            return Err(Failure::unsupported(&format!("{channels} channels at {rate_hz} Hz")));
        }
        let ears = match wanted {
            Wanted::Measurements => Ears::Meters(Box::new(Meters::new(rate_hz, channels, lossless))),
            Wanted::Spectrogram => Ears::Spectrogram(Box::new(Spectrographer::new(rate_hz, channels))),
            Wanted::Sound => Ears::Nobody,
        };
        Ok(Self { rate_hz, channels, skip: 0, limit: None, heard: 0, decoded: 0, wild: 0, ears })
    }

    pub(super) fn channels(&self) -> usize {
        self.channels
    }

    pub(super) fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Leaves out so many samples before the first that is heard.
    pub(super) fn skip(&mut self, samples: u64) {
        self.skip = samples;
    }

    /// Hears no more than so many samples in all.
    pub(super) fn limit(&mut self, samples: u64) {
        self.limit = Some(samples);
    }

    /// Samples of one channel heard so far.
    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// Samples of one channel decoded so far, trimmed ones too.
    pub(super) fn decoded(&self) -> u64 {
        self.decoded
    }

    /// Samples, all channels together, that were no numbers, or beyond all measure.
    pub(super) fn wild(&self) -> u64 {
        self.wild
    }

    /// The moment that comes next, milliseconds.
    pub(super) fn now_ms(&self) -> u64 {
        millis(self.heard, self.rate_hz)
    }

    /// A block: one slice for each channel, all of one length, full scale ±1.0.
    pub(super) fn push(&mut self, planes: &[&[f32]]) {
        let len = planes.first().map_or(0, |plane| plane.len());
        if planes.len() != self.channels || planes.iter().any(|plane| plane.len() != len) {
            return;
        }
        self.decoded += len as u64;
        let from = usize::try_from(self.skip).unwrap_or(usize::MAX).min(len);
        self.skip -= from as u64;
        let room = self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.heard));
        let upto = usize::try_from(room).unwrap_or(usize::MAX).min(len - from) + from;
        if upto == from {
            return;
        }
        let mut parts: [&[f32]; CHANNELS_MAX] = [&[]; CHANNELS_MAX];
        for (part, plane) in parts.iter_mut().zip(planes) {
            *part = &plane[from..upto];
        }
        self.heard += (upto - from) as u64;
        let parts = &parts[..self.channels];
        // Without a way out of the loop, which makes it fast.
        let is_wild = |plane: &[f32]| plane.iter().fold(false, |wild, sample| wild | is_wild(*sample));
        if !parts.iter().any(|plane| is_wild(plane)) {
            return self.hear(parts);
        }
        let mut tamed: [Vec<f32>; CHANNELS_MAX] = Default::default();
        for (tame, plane) in tamed.iter_mut().zip(parts) {
            self.wild += plane.iter().filter(|sample| self::is_wild(**sample)).count() as u64;
            *tame = plane.iter().map(|sample| if self::is_wild(*sample) { 0.0 } else { *sample }).collect();
        }
        let tamed: [&[f32]; CHANNELS_MAX] = std::array::from_fn(|channel| tamed[channel].as_slice());
        self.hear(&tamed[..self.channels]);
    }

    fn hear(&mut self, parts: &[&[f32]]) {
        match &mut self.ears {
            Ears::Meters(meters) => meters.push(parts),
            Ears::Spectrogram(drawn) => drawn.push(parts),
            Ears::Nobody => {}
        }
    }

    /// Nothing more comes.
    pub(super) fn finish(self) -> Heard {
        match self.ears {
            Ears::Meters(meters) => Heard::Measurements(Box::new(meters.finish())),
            Ears::Spectrogram(drawn) => Heard::Spectrogram(drawn),
            Ears::Nobody => Heard::Measurements(Box::default()),
        }
    }
}

/// Whether it is no number, or beyond all measure.
fn is_wild(sample: f32) -> bool {
    sample.is_nan() | (sample.abs() > SAMPLE_MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "seven digits are more than any measurement here has")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// Samples as milliseconds, rounded to the nearest.
pub(super) fn millis(samples: u64, rate_hz: u32) -> u64 {
    let rate = u64::from(rate_hz.max(1));
    (samples / rate).saturating_mul(1_000).saturating_add(((samples % rate) * 1_000 + rate / 2) / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_that_is_taken_is_measured() {
        for rate_hz in [*RATES_HZ.start(), 4_001, 5_512, 7_000, 8_000, 11_025, 96_000, 384_000, *RATES_HZ.end()] {
            for wanted in [Wanted::Measurements, Wanted::Spectrogram] {
                let mut sink = Sink::new(rate_hz, 2, true, wanted).unwrap();
                let mut state = 1_u32;
                for _ in 0..50 {
                    let block: Vec<f32> = (0..1_000)
                        .map(|_| {
                            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                            f32::from(i16::from_le_bytes([state.to_le_bytes()[2], state.to_le_bytes()[3]])) / 65_536.0
                        })
                        .collect();
                    sink.push(&[&block, &block]);
                }
                assert_eq!((sink.heard(), sink.wild()), (50_000, 0), "{rate_hz}");
                sink.finish();
            }
        }
        for rate_hz in [0, *RATES_HZ.start() - 1, *RATES_HZ.end() + 1, u32::MAX] {
            assert!(Sink::new(rate_hz, 2, true, Wanted::Measurements).is_err(), "{rate_hz}");
        }
    }
}
