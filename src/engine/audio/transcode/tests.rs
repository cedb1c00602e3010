use super::super::fixture::{measured, wall};
use super::*;
use crate::model::variant::{AacDetail, Mp3Detail};

fn rules(judgement: &Judgement) -> Vec<Rule> {
    judgement.reasons.iter().map(|reason| reason.rule).collect()
}

fn with_grid(codec: GridCodec, strength: f32, agreeing: u8) -> Measured {
    let mut file = measured(Codec::Flac, 900);
    for grid in &mut file.spectrum.grids {
        if grid.codec == codec {
            grid.strength = strength;
            grid.agreeing = agreeing;
            grid.excerpts = 12;
        }
    }
    file
}

#[test]
fn a_full_band_file_without_a_grid_is_clean() {
    let judgement = judge(&measured(Codec::Flac, 900));
    assert_eq!(judgement.verdict, Verdict::Clean);
    assert!(judgement.reasons.is_empty() && judgement.source.is_none() && judgement.confidence > 0.9);
}

#[test]
fn loud_quiet_and_mono_files_are_clean_and_say_what_was_noticed() {
    let mut loud = measured(Codec::Flac, 1100);
    loud.loudness.dynamic_range_dr = Some(3.0);
    assert_eq!((judge(&loud).verdict, rules(&judge(&loud))), (Verdict::Clean, vec![Rule::Dynamics]));
    let mut mono = measured(Codec::Flac, 350);
    mono.spectrum.side_db = -120.0;
    assert_eq!((judge(&mono).verdict, rules(&judge(&mono))), (Verdict::Clean, vec![Rule::Bitrate]));
}

#[test]
fn an_old_recording_without_treble_is_clean() {
    let mut file = measured(Codec::Flac, 500);
    file.spectrum.effective_bandwidth_hz = 9_000;
    file.spectrum.edge = Edge { hz: 8_700, depth_db: 14.0, width_hz: 2_500, ..wall(8_700) };
    let judgement = judge(&file);
    assert_eq!((judgement.verdict, rules(&judgement)), (Verdict::Clean, vec![Rule::Bitrate, Rule::Bandwidth]));
}

#[test]
fn a_frame_grid_convicts_and_names_its_codec() {
    for (grid, codec) in [
        (GridCodec::Mp3, Codec::Mp3),
        (GridCodec::Aac, Codec::Aac),
        (GridCodec::Vorbis, Codec::Vorbis),
        (GridCodec::Opus, Codec::Opus),
    ] {
        let judgement = judge(&with_grid(grid, 30.0, 4));
        assert_eq!(judgement.verdict, Verdict::Transcode);
        assert_eq!(judgement.source.and_then(|source| source.codec), Some(codec));
        assert_eq!(rules(&judgement), [Rule::FrameGrid]);
        assert!(judgement.confidence > 0.95 && judgement.reasons[0].values["strength"] > 29.0);
    }
}

#[test]
fn a_weak_grid_is_a_doubt_unless_the_excerpts_agree() {
    assert_eq!(judge(&with_grid(GridCodec::Mp3, 5.2, 1)).verdict, Verdict::Clean);
    assert_eq!(judge(&with_grid(GridCodec::Mp3, 6.5, 1)).verdict, Verdict::Uncertain);
    assert_eq!(judge(&with_grid(GridCodec::Mp3, 6.5, 3)).verdict, Verdict::Transcode);
}

#[test]
fn an_opus_grid_cut_between_samples_convicts_with_its_wall() {
    let mut file = with_grid(GridCodec::Opus, 5.2, 1);
    assert_eq!(judge(&file).verdict, Verdict::Clean);
    file.spectrum.edge = wall(20_200);
    assert_eq!(judge(&file).verdict, Verdict::Transcode);
    let mut other = with_grid(GridCodec::Mp3, 5.2, 1);
    other.spectrum.edge = wall(20_200);
    assert_eq!(judge(&other).verdict, Verdict::Clean);
}

#[test]
fn a_wall_alone_is_a_doubt_a_converters_is_none_and_a_halved_rate_convicts() {
    let at = |hz| {
        let mut file = measured(Codec::Flac, 900);
        file.spectrum.edge = wall(hz);
        file.spectrum.effective_bandwidth_hz = hz;
        judge(&file)
    };
    assert_eq!((at(16_000).verdict, rules(&at(16_000))), (Verdict::Uncertain, vec![Rule::BrickWall]));
    assert_eq!(at(16_000).source.and_then(|source| source.bitrate_kbps), Some(160));
    assert_eq!(at(20_000).verdict, Verdict::Clean);
    assert_eq!(at(1_600).verdict, Verdict::Clean, "the end of a bass");
    assert_eq!(at(10_900).verdict, Verdict::Transcode);
    assert_eq!(at(10_900).source.and_then(|source| source.sample_rate_hz), Some(22_050));
}

#[test]
fn a_lossy_encoders_name_in_a_lossless_file_is_a_doubt() {
    let mut file = measured(Codec::Flac, 900);
    file.encoder = Some("LAME 3.100".to_owned());
    assert_eq!((judge(&file).verdict, rules(&judge(&file))), (Verdict::Uncertain, vec![Rule::Encoder]));
    file.encoder = Some("reference libFLAC 1.4.2 20221022".to_owned());
    assert_eq!(judge(&file).verdict, Verdict::Clean);
}

#[test]
fn a_320_that_ends_like_a_128_is_a_transcode_unless_it_was_asked_for() {
    let mut file = measured(Codec::Mp3, 320);
    file.spectrum.grids.clear();
    file.spectrum.edge = wall(16_000);
    let detail = |lowpass_hz| Mp3Detail {
        encoder_preset: Some("CBR_320".to_owned()),
        bitrate_range_kbps: (320, 320),
        lowpass_hz,
        ..Mp3Detail::default()
    };
    file.detail = Detail::Mp3(detail(Some(20_000)));
    assert_eq!((judge(&file).verdict, rules(&judge(&file))), (Verdict::Transcode, vec![Rule::Mismatch]));
    file.detail = Detail::Mp3(detail(Some(16_000)));
    assert_eq!(judge(&file).verdict, Verdict::Uncertain);
    file.detail = Detail::Mp3(detail(None));
    file.spectrum.edge = wall(20_000);
    assert_eq!(judge(&file).verdict, Verdict::Clean);
    // No treble is no wall.
    file.spectrum.edge = Edge { depth_db: 9.0, ..wall(13_000) };
    assert_eq!(judge(&file).verdict, Verdict::Clean);
}

#[test]
fn an_aac_core_below_a_replicated_band_is_not_compared() {
    let mut file = measured(Codec::Aac, 256);
    file.spectrum.edge = wall(11_000);
    file.detail = Detail::Aac(AacDetail::default());
    assert_eq!(judge(&file).verdict, Verdict::Transcode);
    file.detail = Detail::Aac(AacDetail { core_only: true, sbr_present: true, ..AacDetail::default() });
    assert_eq!(judge(&file).verdict, Verdict::Clean);
}

#[test]
fn a_preset_the_stream_does_not_follow_is_an_anomaly() {
    let mut file = measured(Codec::Mp3, 192);
    let detail = |preset: &str, range| Mp3Detail {
        encoder_preset: Some(preset.to_owned()),
        bitrate_range_kbps: range,
        ..Mp3Detail::default()
    };
    file.detail = Detail::Mp3(detail("CBR_320", (192, 192)));
    assert_eq!((judge(&file).verdict, rules(&judge(&file))), (Verdict::Uncertain, vec![Rule::TagAnomaly]));
    file.detail = Detail::Mp3(detail("V2", (32, 320)));
    assert_eq!(judge(&file).verdict, Verdict::Clean);
    file.detail = Detail::Mp3(detail("V2", (192, 192)));
    assert_eq!(judge(&file).verdict, Verdict::Uncertain);
}

#[test]
fn a_file_too_short_to_measure_is_clean_with_little_confidence() {
    let mut file = measured(Codec::Wav, 1411);
    file.spectrum = crate::model::spectrum::Spectrum::default();
    let judgement = judge(&file);
    assert!(judgement.verdict == Verdict::Clean && judgement.confidence < 0.5);
}
