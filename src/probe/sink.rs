//! Where decoded sound goes: trimmed to what a player hears, then to every analyser, block by block.

use crate::model::limits;
use crate::model::spectrum::Spectrum;
use crate::model::variant::Loudness;

/// Most channels that are measured: 7.1.
pub(super) const CHANNELS_MAX: usize = 8;

/// What the analysers found.
#[derive(Debug, Default)]
pub(super) struct Heard {
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
}

impl Sink {
    /// `channels` is 1 to `CHANNELS_MAX`.
    pub(super) fn new(rate_hz: u32, channels: usize) -> Self {
        Self { rate_hz, channels, skip: 0, limit: None, heard: 0, decoded: 0 }
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
    }

    /// Nothing more comes.
    pub(super) fn finish(self) -> Heard {
        let mut heard = Heard::default();
        heard.fingerprint.truncate(limits::FINGERPRINT_WORDS);
        heard
    }
}

/// Samples as milliseconds, rounded to the nearest.
pub(super) fn millis(samples: u64, rate_hz: u32) -> u64 {
    let rate = u64::from(rate_hz.max(1));
    (samples / rate).saturating_mul(1_000).saturating_add(((samples % rate) * 1_000 + rate / 2) / rate)
}
