//! The quality score of one file, and the keys under which files of one recording are compared.
//!
//! Where a codec's own features were measured, its own table counts (FLAC, ALAC, WAV, MP3, AAC, Opus); Vorbis has none
//! and takes the four-factor formula, which is also there for descriptions of files that were never decoded (search
//! results, peers' claims). Dynamics move a codec's own score by 0.1 at most. A transcode is capped.

use sha2::{Digest, Sha256};

use crate::model::spectrum::Spectrum;
use crate::model::variant::{AacProfile, Codec, Detail, Measured, Mp3Encoder, OpusBandwidth};
use crate::model::verdict::{Judgement, Rule, Verdict};

/// The version of rules and scores; stored beside every score so that a new one recomputes them.
pub const ANALYZER_VERSION: &str = "audioqa-1";

/// What the four-factor score needs to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Described {
    /// How it is coded.
    pub codec: Codec,
    /// Hz.
    pub sample_rate_hz: u32,
    /// Bits of a sample; `None` for lossy codecs.
    pub bit_depth: Option<u8>,
    /// Channels.
    pub channels: u8,
    /// kbit/s.
    pub bitrate_kbps: u32,
    /// DR; `None` when unknown.
    pub dynamic_range_dr: Option<f32>,
    /// Whether it clips; `false` when unknown.
    pub clips: bool,
}

impl Described {
    /// Of a measured file.
    pub fn of(measured: &Measured) -> Self {
        Self {
            codec: measured.codec,
            sample_rate_hz: measured.sample_rate_hz,
            bit_depth: measured.bit_depth,
            channels: measured.channels,
            bitrate_kbps: measured.bitrate_kbps,
            dynamic_range_dr: measured.loudness.dynamic_range_dr,
            clips: clips(measured),
        }
    }
}

/// The quality of a measured file, 0..=1.
pub fn score(measured: &Measured, judgement: &Judgement) -> f32 {
    let suspect = judgement.verdict == Verdict::Transcode;
    let kbps = measured.bitrate_kbps;
    let spectrum = &measured.spectrum;
    match &measured.detail {
        _ if measured.codec.is_lossless() => lossless(measured, suspect),
        Detail::Mp3(mp3) => {
            let base = mp3_base(mp3.encoder_preset.as_deref(), kbps);
            let mut score = base;
            // Content that was decoded decides, not the name of the preset.
            if kbps >= 310
                && has_content(spectrum)
                && spectrum.effective_bandwidth_hz < 16_000
                && has_mismatch(judgement)
            {
                score *= 0.7;
            } else if kbps < 200 && spectrum.effective_bandwidth_hz >= 19_000 {
                score *= 1.05;
            }
            if mp3.encoder == Mp3Encoder::Unknown {
                score -= 0.05;
            }
            score += dynamics(measured);
            if suspect {
                score = (score - 0.25).min(0.5);
            }
            score.clamp(0.0, 0.85)
        }
        Detail::Aac(aac) => {
            let mut score = match aac.profile {
                AacProfile::He | AacProfile::HeV2 => steps(kbps, &[(64, 0.65), (48, 0.55)], 0.40),
                _ => steps(kbps, &[(256, 0.80), (192, 0.75), (128, 0.70), (96, 0.60)], 0.40),
            };
            let narrow = has_content(spectrum) && spectrum.effective_bandwidth_hz < 16_000;
            if kbps >= 250 && narrow && !aac.core_only && has_mismatch(judgement) {
                score *= 0.7;
            }
            suspect_lossy(score + dynamics(measured), suspect)
        }
        Detail::Opus(opus) => {
            let mut score = steps(kbps, &[(160, 0.80), (128, 0.75), (96, 0.70), (64, 0.60)], 0.40);
            if opus.bandwidth == OpusBandwidth::Full && spectrum.effective_bandwidth_hz >= 18_000 {
                score += 0.05;
            } else if matches!(opus.bandwidth, OpusBandwidth::Narrow | OpusBandwidth::Wide) {
                score -= 0.1;
            }
            suspect_lossy(score + dynamics(measured), suspect)
        }
        _ => {
            let score = four_factor(&Described::of(measured));
            let score = if suspect { (score * 0.65).min(0.5) } else { score };
            score.clamp(0.0, 0.85)
        }
    }
}

/// The four-factor score, `0.4 codec + 0.2 rate + 0.2 bit rate + 0.2 analysis`, 0..=1.
pub fn four_factor(file: &Described) -> f32 {
    let kbps = file.bitrate_kbps;
    let deep = file.bit_depth.is_some_and(|bits| bits >= 16);
    let otherwise = || steps(kbps, &[(192, 0.5), (128, 0.3)], 0.1);
    let codec = match file.codec {
        Codec::Flac if deep => 1.0,
        Codec::Alac if deep => 0.98,
        Codec::Wav if deep => 0.95,
        Codec::Mp3 if kbps >= 320 => 0.75,
        Codec::Aac if kbps >= 256 => 0.73,
        Codec::Opus if kbps >= 160 => 0.70,
        Codec::Vorbis if kbps >= 256 => 0.68,
        _ => otherwise(),
    };
    let rate = match file.sample_rate_hz {
        44_100 | 48_000 => 1.0,
        88_200 | 96_000 => 0.95,
        176_400 | 192_000 => 0.90,
        22_050 | 11_025 => 0.4,
        _ => 0.5,
    };
    let bitrate = if file.codec.is_lossless() {
        let bits = u64::from(file.bit_depth.unwrap_or(16));
        let raw_bps = u64::from(file.sample_rate_hz) * bits * u64::from(file.channels);
        // Expected is 0.55 of the raw rate; below half of that is odd.
        if u64::from(kbps) * 1000 * 1000 < raw_bps * 275 { 0.3 } else { 1.0 }
    } else {
        steps(kbps, &[(320, 1.0), (256, 0.9), (192, 0.7), (128, 0.5)], 0.2)
    };
    let analysis = match file.dynamic_range_dr {
        None => 0.5_f32,
        Some(dr) => {
            let step = if dr >= 10.0 {
                0.3
            } else if dr >= 7.0 {
                0.1
            } else {
                -0.2
            };
            let clipped = if file.clips { 0.3 } else { 0.0 };
            (0.5_f32 + step - clipped).clamp(0.0, 1.0)
        }
    };
    (0.4 * codec + 0.2 * rate + 0.2 * bitrate + 0.2 * analysis).clamp(0.0, 1.0)
}

/// FLAC's own score; ALAC and WAV take the same.
fn lossless(measured: &Measured, suspect: bool) -> f32 {
    let spectrum = &measured.spectrum;
    let depth = measured.bit_depth.unwrap_or(16);
    let high_rate = measured.sample_rate_hz > 48_000;
    let real_above_20_khz = spectrum.effective_bandwidth_hz > 20_000;
    let mut score = if high_rate && real_above_20_khz { 1.0 } else { 0.95_f32 };
    // A rate that no record is made at, or a high one with nothing in it.
    score -= match measured.sample_rate_hz {
        44_100 | 48_000 => 0.0,
        88_200 | 96_000 | 176_400 | 192_000 if real_above_20_khz => 0.0,
        88_200 | 96_000 | 176_400 | 192_000 => 0.05,
        _ => 0.10,
    };
    if spectrum.used_bits > 0 && spectrum.used_bits < depth {
        score -= if depth - spectrum.used_bits >= 8 { 0.05 } else { 0.02 };
    }
    score += dynamics(measured);
    if suspect { (score * 0.5).clamp(0.0, 0.6) } else { score.clamp(0.0, 1.0).max(0.80) }
}

/// MP3's base by what the header says, and by mean rate otherwise.
fn mp3_base(preset: Option<&str>, kbps: u32) -> f32 {
    match preset {
        Some("CBR_320" | "V0") => 0.80,
        Some("V1") => 0.75,
        Some("V2") => 0.70,
        _ => steps(kbps, &[(310, 0.80), (240, 0.78), (220, 0.75), (180, 0.70), (150, 0.60), (120, 0.50)], 0.30),
    }
}

/// AAC and Opus: 0.4..=0.85, a suspect at most 0.5.
fn suspect_lossy(score: f32, suspect: bool) -> f32 {
    let score = score.clamp(0.4, 0.85);
    if suspect { (score * 0.65).min(0.5) } else { score }
}

/// The value of the first step that `kbps` reaches.
fn steps(kbps: u32, steps: &[(u32, f32)], below: f32) -> f32 {
    steps.iter().find(|(from, _)| kbps >= *from).map_or(below, |(_, value)| *value)
}

/// What dynamics add to a codec's own score: at most a twentieth either way, so that two masters of one recording
/// differ by a tenth and no loud master looks like a worse coding.
fn dynamics(measured: &Measured) -> f32 {
    let by_range = match measured.loudness.dynamic_range_dr {
        None => 0.0,
        Some(dr) if dr >= 10.0 => 0.05,
        Some(dr) if dr >= 7.0 => 0.02,
        Some(dr) if dr >= 5.0 => -0.02,
        Some(_) => -0.05,
    };
    if clips(measured) { (by_range - 0.03_f32).max(-0.05) } else { by_range }
}

/// More than a stray clipped peak.
fn clips(measured: &Measured) -> bool {
    measured.loudness.clipping_runs >= 10
}

fn has_content(spectrum: &Spectrum) -> bool {
    spectrum.windows > 0
}

fn has_mismatch(judgement: &Judgement) -> bool {
    judgement.reasons.iter().any(|reason| reason.rule == Rule::Mismatch)
}

/// The profile under which variants of one recording compete: `FLAC-16bit-44100Hz-2ch`, `MP3-lossy-44100Hz-2ch`.
pub fn profile_key(measured: &Measured) -> String {
    let codec = measured.codec.name();
    let (rate, channels) = (measured.sample_rate_hz, measured.channels);
    match measured.bit_depth.filter(|_| measured.codec.is_lossless()) {
        Some(bits) => format!("{codec}-{bits}bit-{rate}Hz-{channels}ch"),
        None => format!("{codec}-lossy-{rate}Hz-{channels}ch"),
    }
}

/// The first 64 bits of SHA-256 over the content identity: for FLAC its samples' MD5 and the file's size, else (or when
/// the encoder left no MD5) the stream hash.
pub fn flac_key(measured: &Measured) -> u64 {
    let mut hash = Sha256::new();
    match &measured.detail {
        Detail::Flac(flac) if flac.pcm_md5 != [0; 16] => {
            hash.update(flac.pcm_md5);
            hash.update(measured.file_size_bytes.to_be_bytes());
        }
        _ => hash.update(measured.stream_hash),
    }
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests;
