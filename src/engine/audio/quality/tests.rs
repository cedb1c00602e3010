use super::super::fixture;
use super::*;
use crate::model::variant::{FlacDetail, Mp3Detail, OpusDetail};
use crate::model::verdict::Reason;

fn described(codec: Codec, bitrate_kbps: u32) -> Described {
    Described {
        codec,
        sample_rate_hz: 44_100,
        bit_depth: codec.is_lossless().then_some(16),
        channels: 2,
        bitrate_kbps,
        dynamic_range_dr: None,
        clips: false,
    }
}

#[test]
fn the_four_factor_score_has_the_specified_values() {
    let check = |codec, kbps, expected: f32| {
        let score = four_factor(&described(codec, kbps));
        assert!((score - expected).abs() < 1e-4, "{codec:?} {kbps}: {score}, not {expected}");
    };
    check(Codec::Flac, 900, 0.90);
    check(Codec::Mp3, 320, 0.80);
    check(Codec::Mp3, 245, 0.64);
    check(Codec::Mp3, 190, 0.52);
    check(Codec::Aac, 256, 0.772);
    check(Codec::Opus, 160, 0.68);
    check(Codec::Vorbis, 256, 0.752);
}

#[test]
fn the_best_four_factor_score_is_096_and_clipping_costs() {
    let mut file = described(Codec::Flac, 900);
    file.dynamic_range_dr = Some(12.0);
    assert!((four_factor(&file) - 0.96).abs() < 1e-5);
    file.clips = true;
    assert!((four_factor(&file) - 0.90).abs() < 1e-5);
    file.dynamic_range_dr = Some(4.0);
    assert!((four_factor(&file) - 0.80).abs() < 1e-5, "the analysis factor does not go below zero");
}

#[test]
fn a_flac_below_half_of_the_expected_rate_scores_less() {
    // 0.275 of 1411.2 is 388.08 kbit/s.
    let low = four_factor(&described(Codec::Flac, 388));
    let enough = four_factor(&described(Codec::Flac, 389));
    assert!((enough - low - 0.14).abs() < 1e-5, "{low} {enough}");
}

fn suspect() -> Judgement {
    Judgement { verdict: Verdict::Transcode, ..Judgement::default() }
}

#[test]
fn a_clean_flac_stays_high_and_a_suspect_is_capped() {
    let mut file = fixture::measured(Codec::Flac, 900);
    assert!((score(&file, &Judgement::default()) - 0.95).abs() < 1e-5);
    assert!((score(&file, &suspect()) - 0.475).abs() < 1e-5);
    // A loud, clipped master loses a twentieth, not its standing.
    file.loudness.dynamic_range_dr = Some(3.0);
    file.loudness.clipping_runs = 5_000;
    assert!((score(&file, &Judgement::default()) - 0.90).abs() < 1e-5);
    file.sample_rate_hz = 96_000;
    file.spectrum.effective_bandwidth_hz = 40_000;
    file.loudness = crate::model::variant::Loudness::default();
    assert!((score(&file, &Judgement::default()) - 1.0).abs() < 1e-5);
    file.bit_depth = Some(24);
    assert!((score(&file, &Judgement::default()) - 0.95).abs() < 1e-5, "16 bits in 24");
}

#[test]
fn lossy_scores_follow_their_tables() {
    let check = |mut file: Measured, detail, hz, expected: f32| {
        file.detail = detail;
        file.spectrum.effective_bandwidth_hz = hz;
        let score = score(&file, &Judgement::default());
        assert!((score - expected).abs() < 1e-4, "{:?} {}: {score}", file.codec, file.bitrate_kbps);
    };
    let mp3 = |preset: Option<&str>| {
        Detail::Mp3(Mp3Detail {
            encoder: Mp3Encoder::Lame,
            encoder_preset: preset.map(str::to_owned),
            ..Mp3Detail::default()
        })
    };
    check(fixture::measured(Codec::Mp3, 320), mp3(Some("CBR_320")), 20_000, 0.80);
    check(fixture::measured(Codec::Mp3, 231), mp3(Some("V0")), 19_500, 0.80);
    check(fixture::measured(Codec::Mp3, 180), mp3(Some("V2")), 18_500, 0.70);
    check(fixture::measured(Codec::Mp3, 160), mp3(None), 17_000, 0.60);
    check(fixture::measured(Codec::Mp3, 128), mp3(None), 16_000, 0.50);
    check(fixture::measured(Codec::Mp3, 96), mp3(None), 15_000, 0.30);
    let opus = |bandwidth| Detail::Opus(OpusDetail { bandwidth, ..OpusDetail::default() });
    check(fixture::measured(Codec::Opus, 160), opus(OpusBandwidth::Full), 20_000, 0.85);
    check(fixture::measured(Codec::Opus, 100), opus(OpusBandwidth::Wide), 8_000, 0.60);
    check(fixture::measured(Codec::Aac, 256), Detail::Aac(crate::model::variant::AacDetail::default()), 20_000, 0.80);
    check(fixture::measured(Codec::Vorbis, 256), Detail::Vorbis { nominal_bitrate_kbps: None }, 20_000, 0.752);
}

#[test]
fn a_320_that_ends_at_its_wall_loses_and_one_without_treble_does_not() {
    let mut file = fixture::measured(Codec::Mp3, 320);
    file.detail = Detail::Mp3(Mp3Detail { encoder: Mp3Encoder::Lame, ..Mp3Detail::default() });
    file.spectrum.effective_bandwidth_hz = 15_000;
    assert!((score(&file, &Judgement::default()) - 0.80).abs() < 1e-5);
    let mismatch = Judgement {
        reasons: vec![Reason { rule: Rule::Mismatch, values: std::collections::BTreeMap::new() }],
        ..Judgement::default()
    };
    assert!((score(&file, &mismatch) - 0.56).abs() < 1e-5);
}

#[test]
fn profiles_name_depth_or_lossy() {
    assert_eq!(profile_key(&fixture::measured(Codec::Flac, 900)), "FLAC-16bit-44100Hz-2ch");
    assert_eq!(profile_key(&fixture::measured(Codec::Mp3, 320)), "MP3-lossy-44100Hz-2ch");
}

#[test]
fn the_flac_key_follows_the_samples_and_the_size() {
    let mut file = fixture::measured(Codec::Flac, 900);
    file.detail = Detail::Flac(FlacDetail { pcm_md5: [9; 16], ..FlacDetail::default() });
    let key = flac_key(&file);
    // SHA-256 of sixteen nines and 30,000,000 in big-endian, worked out apart.
    assert_eq!(key, 0xf375_9da3_1dc4_613c);
    file.stream_hash = [8; 16];
    assert_eq!(flac_key(&file), key, "the MD5 is what counts");
    file.file_size_bytes += 1;
    assert_ne!(flac_key(&file), key);
    file.detail = Detail::Flac(FlacDetail::default());
    let by_stream = flac_key(&file);
    file.stream_hash = [7; 16];
    assert_ne!(flac_key(&file), by_stream, "without an MD5 the stream hash is what counts");
}
