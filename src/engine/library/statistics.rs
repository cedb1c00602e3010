//! What the copies of one recording come to (SPEC-FACTS 4), and the score that needs no spectrum (SPEC-FACTS 2.2).

use std::collections::BTreeMap;

use super::detect::best_of;
use crate::model::health::{CanonicalStats, Variant, Verdict};
use crate::model::time::UnixMs;
use crate::model::variant::{Codec, Measured};

/// Steps of the bit-rate distribution, kbit/s.
const BITRATE_STEP: u32 = 32;

/// `0.4·codec + 0.2·rate + 0.2·bitrate + 0.2·analysis`, 0..=1.
#[expect(clippy::cast_precision_loss, reason = "bit rates far below 2^24")]
pub fn four_factors(measured: &Measured) -> f32 {
    let kbps = measured.bitrate_kbps;
    let full_depth = measured.bit_depth.is_some_and(|bits| bits >= 16);
    let codec = match measured.codec {
        Codec::Flac if full_depth => 1.0,
        Codec::Alac if full_depth => 0.98,
        Codec::Wav if full_depth => 0.95,
        Codec::Mp3 if kbps >= 320 => 0.75,
        Codec::Aac if kbps >= 256 => 0.73,
        Codec::Opus if kbps >= 160 => 0.70,
        Codec::Vorbis if kbps >= 256 => 0.68,
        _ if kbps >= 192 => 0.5,
        _ if kbps >= 128 => 0.3,
        _ => 0.1,
    };
    let rate = match measured.sample_rate_hz {
        44_100 | 48_000 => 1.0,
        88_200 | 96_000 => 0.95,
        176_400 | 192_000 => 0.90,
        22_050 | 11_025 => 0.4,
        _ => 0.5,
    };
    let bitrate = if measured.codec.is_lossless() {
        let depth = u32::from(measured.bit_depth.unwrap_or(16));
        let raw = measured.sample_rate_hz as f32 * depth as f32 * f32::from(measured.channels) / 1_000.0;
        if (kbps as f32) < 0.55 * raw / 2.0 { 0.3 } else { 1.0 }
    } else {
        match kbps {
            320.. => 1.0,
            256.. => 0.9,
            192.. => 0.7,
            128.. => 0.5,
            _ => 0.2,
        }
    };
    let loudness = &measured.loudness;
    let analysis: f32 = match loudness.dynamic_range_dr {
        None => 0.5,
        Some(dr) => {
            let dynamics = if dr >= 10.0 {
                0.3
            } else if dr >= 7.0 {
                0.1
            } else {
                -0.2
            };
            let clipping = if loudness.clipping_runs > 0 { 0.3 } else { 0.0 };
            (0.5_f32 + dynamics - clipping).clamp(0.0, 1.0)
        }
    };
    (0.4 * codec + 0.2 * rate + 0.2 * bitrate + 0.2 * analysis).clamp(0.0, 1.0)
}

/// Statistics of the copies of one recording in one profile; `None` without copies.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^24")]
pub fn of_copies(recording_id: u128, profile: &str, copies: &[&Variant], now: UnixMs) -> Option<CanonicalStats> {
    let best = best_of(copies)?;
    let count = u32::try_from(copies.len()).unwrap_or(u32::MAX);
    let scores = copies.iter().map(|copy| copy.judgement.quality_score);
    let seen: u64 = copies.iter().map(|copy| u64::from(copy.seen_count)).sum();
    let suspects = copies.iter().filter(|copy| copy.judgement.verdict == Verdict::Transcode).count();
    let clean = if best.judgement.verdict == Verdict::Transcode { 0.0 } else { 1.0 };
    let share = if seen == 0 { 0.0 } else { best.seen_count as f32 / seen as f32 };
    // 1/ln(n + 1) is above 1 for a single copy (C21).
    let agreement = (1.0 / (count as f32 + 1.0).ln()).min(1.0);
    let canonicality = 0.4 * best.judgement.quality_score + 0.3 * share + 0.2 * clean + 0.1 * agreement;
    Some(CanonicalStats {
        recording_id,
        profile: profile.to_owned(),
        variant_count: count,
        total_seen_count: seen,
        avg_quality: scores.clone().sum::<f32>() / count as f32,
        max_quality: scores.fold(0.0, f32::max),
        percent_transcode_suspect: 100.0 * suspects as f32 / count as f32,
        codecs: counted(copies.iter().map(|copy| copy.measured.codec)),
        bitrates_kbps: counted(copies.iter().map(|copy| copy.measured.bitrate_kbps / BITRATE_STEP * BITRATE_STEP)),
        sample_rates_hz: counted(copies.iter().map(|copy| copy.measured.sample_rate_hz)),
        best_variant: best.hash(),
        canonicality_score: canonicality.clamp(0.0, 1.0),
        updated_at: now,
    })
}

fn counted<T: Ord>(values: impl Iterator<Item = T>) -> Vec<(T, u32)> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_insert(0_u32) += 1;
    }
    counts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::library::fixtures::{measured, variant};

    #[test]
    fn the_check_values_of_the_four_factors() {
        let check = |codec: Codec, kbps: u32, expect: f32| {
            let bit_depth = codec.is_lossless().then_some(16);
            let made = Measured { codec, bit_depth, bitrate_kbps: kbps, ..measured(b"") };
            let score = four_factors(&made);
            assert!((score - expect).abs() < 1e-4, "{codec:?} {kbps}: {score}");
        };
        check(Codec::Flac, 900, 0.90);
        check(Codec::Mp3, 320, 0.80);
        check(Codec::Mp3, 245, 0.64);
        check(Codec::Aac, 256, 0.772);
        check(Codec::Opus, 160, 0.68);
        check(Codec::Vorbis, 256, 0.752);
    }

    #[test]
    fn the_best_copy_and_how_sure_it_is() {
        let (mut a, mut b) = (variant("/a", 0.9), variant("/b", 0.8));
        (a.seen_count, b.seen_count) = (1, 3);
        b.measured.bitrate_kbps = 1_000;
        let stats = of_copies(1, "p", &[&b, &a], UnixMs(5)).unwrap();
        assert_eq!((stats.best_variant, stats.variant_count, stats.total_seen_count), (a.hash(), 2, 4));
        assert_eq!(stats.bitrates_kbps, [(896, 1), (992, 1)]);
        let expect = 0.4 * 0.9 + 0.3 * 0.25 + 0.2 + 0.1 * (1.0 / 3_f32.ln());
        assert!((stats.canonicality_score - expect).abs() < 1e-6);
        assert!(of_copies(1, "p", &[&a], UnixMs(5)).unwrap().canonicality_score <= 1.0);
        assert!(of_copies(1, "p", &[], UnixMs(5)).is_none());
    }
}
