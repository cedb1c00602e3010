//! The transcode verdict: a pure function of what was measured.
//!
//! A lossless file is called a transcode when a lossy codec's frame grid stands in its samples, or when it ends at a
//! wall where only a lower sample rate puts one. A wall alone elsewhere, as broadcasts and old converters have, is
//! `uncertain` at most: the codecs that make such walls leave a grid as well. Bit rate, dynamics and encoder names (T1
//! to T3) never decide: loud masters, quiet and mono recordings would fall to them. Lossy files are judged by what they
//! declare against what they hold (T7, T8). The origin of every threshold is in `docs/doctor.md`.

use std::collections::BTreeMap;

use crate::model::spectrum::{Edge, Grid, GridCodec};
use crate::model::variant::{Codec, Detail, Measured};
use crate::model::verdict::{Judgement, Reason, Rule, Source, Verdict};

/// Grid strength that convicts: clean files stay below 5.3, nearly every transcode lies above 11.
pub const GRID_SURE: f32 = 8.0;
/// Grid strength that raises doubt.
pub const GRID_DOUBT: f32 = 6.0;
/// A grid of this strength convicts too, when at least three of four groups of excerpts found it on their own.
const GRID_AGREED: f32 = 6.0;
/// Excerpts below which the absence of a grid says little.
const EXCERPTS_ENOUGH: u8 = 4;
/// Depth of a wall, dB.
pub const WALL_DB: f32 = 25.0;
/// A wall falls within this, Hz: analogue filters take kilohertz.
pub const WALL_WIDTH_HZ: u32 = 900;
/// No lossy codec ends music lower than this, Hz: a fall further down is the end of a bass or of a drone.
const WALL_LOWEST_HZ: u32 = 9_000;
/// Opus ends at 20 kHz at every music rate, Hz; its grid is weaker when the file was cut between samples of 48 kHz.
const OPUS_WALL_HZ: std::ops::RangeInclusive<u32> = 19_800..=20_600;
/// Strength that convicts an Opus grid with that wall.
const OPUS_SURE: f32 = 4.8;
/// Walls from here up are those of converters and resamplers, Hz.
const CONVERTER_HZ: u32 = 19_400;
/// Content that ends below this share of half the sample rate (T4).
const BANDWIDTH_SHARE: f32 = 0.6;
/// Share of the raw bit rate below which T1 fires.
const BITRATE_SHARE: f64 = 0.5;
/// DR below which T2 fires.
const DYNAMICS_DR: f32 = 5.0;
/// Windows below which nothing is said about the spectrum.
const WINDOWS_ENOUGH: u32 = 3;
/// Sample rates files are upsampled from, Hz.
const LOWER_RATES_HZ: [u32; 6] = [8_000, 11_025, 12_000, 16_000, 22_050, 24_000];
/// How far below half of such a rate a resampler's filter may end, as a share of it.
const RESAMPLER_SHARE: f32 = 0.12;

/// Judges one file.
pub fn judge(measured: &Measured) -> Judgement {
    let mut judgement = if measured.codec.is_lossless() { judge_lossless(measured) } else { judge_lossy(measured) };
    judgement.reasons.sort_by_key(|reason| reason.rule);
    judgement
}

/// Whether there is a wall: deep, narrow, and with nothing above.
pub fn is_wall(edge: &Edge) -> bool {
    edge.depth_db >= WALL_DB && edge.width_hz <= WALL_WIDTH_HZ && edge.floor_peak_db < edge.below_db - WALL_DB / 2.0
}

fn reason(rule: Rule, values: &[(&str, f64)]) -> Reason {
    let values: BTreeMap<String, f64> = values.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    Reason { rule, values }
}

fn edge_values(edge: &Edge) -> [(&'static str, f64); 4] {
    [
        ("edge_hz", f64::from(edge.hz)),
        ("depth_db", f64::from(edge.depth_db)),
        ("width_hz", f64::from(edge.width_hz)),
        ("floor_db", f64::from(edge.floor_db)),
    ]
}

fn judge_lossless(measured: &Measured) -> Judgement {
    let spectrum = &measured.spectrum;
    let edge = &spectrum.edge;
    let mut reasons = suspicions(measured);
    let measured_enough = spectrum.windows >= WINDOWS_ENOUGH;
    let wall = measured_enough && is_wall(edge);
    let half_rate = measured.sample_rate_hz / 2;
    let mut verdict = Verdict::Clean;
    let mut source = None;

    let strongest = spectrum.grids.iter().max_by(|a, b| a.strength.total_cmp(&b.strength));
    let searched = strongest.map_or(0, |grid| grid.excerpts);
    let mut confidence: f32 = if !measured_enough {
        0.3
    } else if searched >= EXCERPTS_ENOUGH {
        0.95
    } else {
        0.6
    };

    // Every file ends somewhat below half of its own rate.
    let own_end_hz = half_rate - half_rate / 10;
    if wall && (WALL_LOWEST_HZ..CONVERTER_HZ.min(own_end_hz)).contains(&edge.hz) {
        reasons.push(reason(Rule::BrickWall, &edge_values(edge)));
        verdict = Verdict::Uncertain;
        confidence = 0.5;
        source = Some(Source { codec: None, bitrate_kbps: Some(likely_kbps(edge.hz)), sample_rate_hz: None });
    }
    #[expect(clippy::cast_precision_loss, reason = "sample rates are small")]
    let narrow = (spectrum.effective_bandwidth_hz as f32) < BANDWIDTH_SHARE * half_rate as f32;
    if measured_enough && narrow {
        let mut values = vec![("bandwidth_hz", f64::from(spectrum.effective_bandwidth_hz))];
        values.extend(edge_values(edge));
        reasons.push(reason(Rule::Bandwidth, &values));
        if let (true, Some(rate)) = (wall, upsampled_from(edge.hz, measured.sample_rate_hz)) {
            verdict = Verdict::Transcode;
            confidence = confidence.max(0.9);
            source = Some(Source { codec: None, bitrate_kbps: None, sample_rate_hz: Some(rate) });
        }
    }
    let of_opus = |grid: &Grid| {
        grid.codec == GridCodec::Opus && grid.strength >= OPUS_SURE && wall && OPUS_WALL_HZ.contains(&edge.hz)
    };
    if let Some(grid) = strongest
        && (grid.strength >= GRID_DOUBT || of_opus(grid))
    {
        reasons.push(reason(Rule::FrameGrid, &grid_values(grid)));
        let agreed = grid.groups >= 4 && grid.agreeing >= 3 && grid.strength >= GRID_AGREED;
        if grid.strength >= GRID_SURE || agreed || of_opus(grid) {
            verdict = Verdict::Transcode;
            // 0.9 at the threshold, towards 1 with strength.
            confidence = 1.0 - 0.1 * (GRID_SURE / grid.strength).min(2.0);
            source = Some(Source {
                codec: Some(codec_of(grid.codec)),
                bitrate_kbps: wall.then(|| likely_kbps(edge.hz)),
                sample_rate_hz: None,
            });
        } else if verdict == Verdict::Clean {
            verdict = Verdict::Uncertain;
            confidence = 0.5;
        }
    }
    if verdict == Verdict::Clean && reasons.iter().any(|reason| reason.rule == Rule::Encoder) {
        // Its own label says it was lossy; the samples do not.
        verdict = Verdict::Uncertain;
        confidence = 0.5;
    }
    Judgement { verdict, confidence, source, reasons }
}

/// T1, T2, T3 and padding: listed, never deciding.
fn suspicions(measured: &Measured) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let depth = measured.bit_depth.unwrap_or(16);
    let raw_kbps = f64::from(measured.sample_rate_hz) * f64::from(depth) * f64::from(measured.channels) / 1000.0;
    let kbps = f64::from(measured.bitrate_kbps);
    let packed = matches!(measured.codec, Codec::Flac | Codec::Alac);
    if packed && kbps < BITRATE_SHARE * raw_kbps {
        reasons.push(reason(Rule::Bitrate, &[("bitrate_kbps", kbps), ("raw_kbps", raw_kbps)]));
    }
    if let Some(dr) = measured.loudness.dynamic_range_dr
        && dr < DYNAMICS_DR
    {
        reasons.push(reason(Rule::Dynamics, &[("dynamic_range_dr", f64::from(dr))]));
    }
    if measured.encoder.as_deref().is_some_and(names_lossy_encoder) {
        reasons.push(reason(Rule::Encoder, &[]));
    }
    let used = measured.spectrum.used_bits;
    if used > 0 && used < depth {
        reasons.push(reason(Rule::PaddedBits, &[("used_bits", f64::from(used)), ("bit_depth", f64::from(depth))]));
    }
    reasons
}

/// Whether an encoder string is that of a lossy encoder.
fn names_lossy_encoder(encoder: &str) -> bool {
    let lower = encoder.to_ascii_lowercase();
    // The names their headers and tags carry.
    let names = ["lame", "gogo", "faac", "libopus", "libvorbis", "nero aac", "fraunhofer", "xing", "blade", "aac_"];
    names.iter().any(|name| lower.contains(name))
}

fn grid_values(grid: &Grid) -> [(&'static str, f64); 7] {
    [
        ("frame_samples", f64::from(frame_samples(grid.codec))),
        ("offset_samples", f64::from(grid.offset)),
        ("strength", f64::from(grid.strength)),
        ("runner_up", f64::from(grid.runner_up)),
        ("groups_agreeing", f64::from(grid.agreeing)),
        ("groups", f64::from(grid.groups)),
        ("excerpts", f64::from(grid.excerpts)),
    ]
}

fn frame_samples(codec: GridCodec) -> u16 {
    match codec {
        GridCodec::Mp3 => 576,
        GridCodec::Aac | GridCodec::Vorbis => 1024,
        GridCodec::Opus => 960,
    }
}

fn codec_of(codec: GridCodec) -> Codec {
    match codec {
        GridCodec::Mp3 => Codec::Mp3,
        GridCodec::Aac => Codec::Aac,
        GridCodec::Vorbis => Codec::Vorbis,
        GridCodec::Opus => Codec::Opus,
    }
}

/// T4's table: where a low-pass lies, and the bit rate that usually puts it there.
fn likely_kbps(edge_hz: u32) -> u32 {
    match edge_hz {
        19_000.. => 320,
        17_000.. => 192,
        15_000.. => 160,
        _ => 128,
    }
}

/// The lower rate whose half lies just above the wall, if the file's own rate is well above it. A wall of 16 kHz could
/// be a 32 kHz broadcast or a codec's low-pass, so that rate is left out.
fn upsampled_from(edge_hz: u32, sample_rate_hz: u32) -> Option<u32> {
    LOWER_RATES_HZ.into_iter().find(|&rate| {
        let half = f64::from(rate) / 2.0;
        let edge = f64::from(edge_hz);
        // The transition may end a little above half the rate.
        f64::from(sample_rate_hz) >= 1.4 * f64::from(rate)
            && edge <= 1.03 * half
            && edge >= (1.0 - f64::from(RESAMPLER_SHARE)) * half
    })
}

/// Low-pass that encoders give at a bit rate, Hz: LAME 3.100's table for stereo, rounded; others go farther.
fn usual_lowpass_hz(kbps: u32) -> u32 {
    match kbps {
        310.. => 20_000,
        250.. => 19_700,
        220.. => 19_200,
        185.. => 18_500,
        155.. => 17_000,
        124.. => 16_000,
        90.. => 15_000,
        _ => 0,
    }
}

/// A wall this far below the usual one is a mismatch (T7), Hz.
const MISMATCH_HZ: u32 = 2_500;

fn judge_lossy(measured: &Measured) -> Judgement {
    let spectrum = &measured.spectrum;
    let edge = &spectrum.edge;
    let mut judgement = Judgement { confidence: 0.7, ..Judgement::default() };
    if let Some(anomaly) = tag_anomaly(measured) {
        judgement.reasons.push(anomaly);
        judgement.verdict = Verdict::Uncertain;
        judgement.confidence = 0.5;
    }
    if spectrum.windows < WINDOWS_ENOUGH {
        judgement.confidence = 0.3;
        return judgement;
    }
    let (kbps, core_only) = match &measured.detail {
        Detail::Aac(aac) => (measured.bitrate_kbps, aac.core_only || aac.sbr_present),
        _ => (measured.bitrate_kbps, false),
    };
    let usual_hz = usual_lowpass_hz(kbps).min(measured.sample_rate_hz / 2);
    // A replicated band ends where its core's does not: nothing to compare with.
    if core_only || !is_wall(edge) || edge.hz + MISMATCH_HZ > usual_hz {
        return judgement;
    }
    let declared_hz = match &measured.detail {
        Detail::Mp3(mp3) => mp3.lowpass_hz.filter(|&hz| hz > 0),
        _ => None,
    };
    let mut values = vec![("bitrate_kbps", f64::from(kbps)), ("usual_lowpass_hz", f64::from(usual_hz))];
    values.extend(edge_values(edge));
    if let Some(hz) = declared_hz {
        values.push(("declared_lowpass_hz", f64::from(hz)));
    }
    judgement.reasons.push(reason(Rule::Mismatch, &values));
    judgement.source = Some(Source { codec: None, bitrate_kbps: Some(likely_kbps(edge.hz)), sample_rate_hz: None });
    // Whoever asked the encoder for that low-pass got it; and a small step down may be the encoder's own choice.
    let asked_for = declared_hz.is_some_and(|hz| hz < edge.hz + MISMATCH_HZ / 2);
    if !asked_for && kbps >= 185 && likely_kbps(edge.hz) * 8 <= kbps * 5 {
        judgement.verdict = Verdict::Transcode;
        judgement.confidence = 0.8;
    } else {
        judgement.verdict = judgement.verdict.max(Verdict::Uncertain);
        judgement.confidence = 0.5;
    }
    judgement
}

/// T8: the LAME header names one preset, the frames show another.
fn tag_anomaly(measured: &Measured) -> Option<Reason> {
    let Detail::Mp3(mp3) = &measured.detail else {
        return None;
    };
    let preset = mp3.encoder_preset.as_deref()?;
    let mean = measured.bitrate_kbps;
    let (least, most) = mp3.bitrate_range_kbps;
    let fits = if let Some(rate) = preset.strip_prefix("CBR_").and_then(|rate| rate.parse::<u32>().ok()) {
        mean.abs_diff(rate) <= rate / 20 + 2
    } else {
        // Mean rates of LAME's V presets over music, widely: V0 about 245, V2 190, V4 165; mono takes half.
        let expected = match preset {
            "V0" => 150..=320,
            "V1" => 130..=310,
            "V2" => 110..=300,
            "V3" => 95..=280,
            "V4" => 85..=260,
            _ => return None,
        };
        measured.channels < 2 || *expected.start() / 2 <= mean && mean <= *expected.end() && least < most
    };
    (!fits).then(|| {
        reason(
            Rule::TagAnomaly,
            &[
                ("bitrate_kbps", f64::from(mean)),
                ("bitrate_min_kbps", f64::from(least)),
                ("bitrate_max_kbps", f64::from(most)),
            ],
        )
    })
}

#[cfg(test)]
mod tests;
