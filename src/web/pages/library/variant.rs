//! One copy: its spectrogram, its verdict with every rule that fired, and all that was measured.

use std::fmt::Write as _;

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use crate::model::health::{HealthAnswer, HealthRequest, MatchedBy, Variant, uuid_text};
use crate::model::id::ContentHash;
use crate::model::variant::{Detail, Md5Check, Measured};
use crate::model::verdict::{Reason, Rule, Source, Verdict};
use crate::model::view::Refusal;
use crate::web::api::health_shape::parse_hash;
use crate::web::pages::{Desktop, Head, answer_or_return, html, size};
use crate::web::show::{self, Moment};

use super::ask;

/// A rule that fired, for people.
pub(super) struct Why {
    /// What the rule is called.
    pub(super) title: &'static str,
    /// What it means.
    pub(super) meaning: &'static str,
    /// Its numbers by name.
    pub(super) values: Vec<(String, String)>,
}

/// What a rule is called, and what it means that it fired.
fn rule(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::Bitrate => {
            ("Small for a lossless file", "Quiet and mono recordings are, too: this alone proves nothing.")
        }
        Rule::Dynamics => ("Hardly any dynamics", "Loud masters are like that, too: this alone proves nothing."),
        Rule::Encoder => ("It names a lossy encoder", "A lossless file has no reason to."),
        Rule::Bandwidth => ("Its sound ends early", "Far below what the sample rate could carry."),
        Rule::BrickWall => ("Its sound ends at a wall", "Lossy encoders cut so; so do broadcasts and old converters."),
        Rule::Equality => ("It equals a lossy file", "The same samples are known from a lossy copy."),
        Rule::Mismatch => ("Declaration and sound disagree", "It declares more than its spectrum shows."),
        Rule::TagAnomaly => ("Header and stream disagree", "The header names one preset, the frames show another."),
        Rule::FrameGrid => ("The frame grid of a lossy codec", "It stands in the samples only if they were coded so."),
        Rule::PaddedBits => ("Low bits are never used", "It claims more depth than it has."),
    }
}

/// A named number with its unit, which ends the name: `edge_hz`, 15,996 → `edge`, `15 996 Hz`.
pub(super) fn number(name: &str, value: f64) -> (String, String) {
    let plain = |digits: usize| if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.digits$}") };
    let (stem, text) = match name.rsplit_once('_') {
        Some((stem, "hz")) => (stem, format!("{:.1} kHz", value / 1_000.0)),
        Some((stem, "db")) => (stem, format!("{value:.1} dB")),
        Some((stem, "kbps")) => (stem, format!("{} kbit/s", plain(0))),
        Some((stem, "dr")) => (stem, format!("DR {value:.1}")),
        Some((stem, "ms")) => (stem, format!("{} ms", plain(1))),
        _ => (name, plain(2)),
    };
    (stem.replace('_', " "), text)
}

/// Every rule that fired with its numbers.
pub(super) fn reasons(fired: &[Reason]) -> Vec<Why> {
    let why = |reason: &Reason| {
        let (title, meaning) = rule(reason.rule);
        Why { title, meaning, values: reason.values.iter().map(|(name, value)| number(name, *value)).collect() }
    };
    fired.iter().map(why).collect()
}

/// Minutes, seconds and a tenth.
pub(super) fn length(ms: u64) -> String {
    let seconds = ms / 1_000;
    format!("{}:{:02}.{}", seconds / 60, seconds % 60, ms % 1_000 / 100)
}

#[derive(Template)]
#[template(path = "variant.html", config = "web-min/askama.toml")]
struct VariantPage {
    head: Head,
    name: String,
    copy: String,
    paths: Vec<String>,
    verdict: &'static str,
    /// How the verdict is coloured.
    mark: &'static str,
    confidence: String,
    source: Option<String>,
    score: String,
    analyzer: String,
    reasons: Vec<Why>,
    sections: Vec<(&'static str, Vec<(&'static str, String)>)>,
    /// Other copies of its recording: content, name, score.
    others: Vec<(String, String, String)>,
    first_seen_at: Moment,
}

fn source(source: &Source) -> String {
    let mut text = source.codec.map_or("a lossy or narrower form", crate::model::variant::Codec::name).to_owned();
    if let Some(kbps) = source.bitrate_kbps {
        text.push_str(&format!(", about {kbps} kbit/s"));
    }
    if let Some(hz) = source.sample_rate_hz {
        text.push_str(&format!(", sampled at {hz} Hz"));
    }
    text
}

type Rows = Vec<(&'static str, String)>;

fn coding(m: &Measured) -> Rows {
    let mut rows = vec![
        ("Coding", format!("{} in {}", m.codec.name(), m.container.name())),
        ("Sample rate", format!("{} Hz", m.sample_rate_hz)),
    ];
    rows.extend(m.bit_depth.map(|bits| ("Bit depth", format!("{bits} bits"))));
    rows.push(("Channels", m.channels.to_string()));
    rows.push(("Duration", format!("{} ({} samples)", length(m.duration_ms), m.samples)));
    rows.push(("Bit rate", format!("{} kbit/s", m.bitrate_kbps)));
    rows.push(("Size", size(m.file_size_bytes)));
    rows.extend(m.encoder.as_deref().map(|encoder| ("Encoder", show::visible(encoder))));
    rows.extend(detail(m));
    rows
}

/// What only this codec's headers say.
fn detail(m: &Measured) -> Rows {
    let kbps = |rate: u32| format!("{rate} kbit/s");
    match &m.detail {
        Detail::Flac(flac) => {
            let check = match m.integrity.md5 {
                Md5Check::Absent => "the encoder left none",
                Md5Check::Equal => "equals the samples",
                Md5Check::Different => "differs from the samples",
            };
            vec![
                ("Block size", format!("{} to {} samples", flac.block_size_min, flac.block_size_max)),
                ("MD5 of the samples", check.to_owned()),
            ]
        }
        Detail::Mp3(mp3) => {
            let (least, most) = mp3.bitrate_range_kbps;
            let mut rows = vec![("Frames", format!("{} of {least} to {most} kbit/s", mp3.frames))];
            rows.extend(mp3.encoder_preset.as_deref().map(|preset| ("Preset", show::visible(preset))));
            rows.extend(mp3.lowpass_hz.filter(|hz| *hz > 0).map(|hz| ("Declared low-pass", format!("{hz} Hz"))));
            rows
        }
        Detail::Aac(aac) => {
            let mut rows = vec![("Profile", format!("{:?}", aac.profile).to_uppercase())];
            rows.extend(aac.nominal_bitrate_kbps.map(|rate| ("Declared bit rate", kbps(rate))));
            if aac.core_only {
                rows.push(("Measured", "the core below the replicated band only".to_owned()));
            }
            rows
        }
        Detail::Opus(opus) => vec![
            ("Mode", format!("{:?}", opus.application)),
            ("Band", format!("{:?}", opus.bandwidth)),
            ("Sampled at", format!("{} Hz before coding", opus.input_sample_rate_hz)),
        ],
        Detail::Vorbis { nominal_bitrate_kbps } => {
            nominal_bitrate_kbps.map(|rate| ("Declared bit rate", kbps(rate))).into_iter().collect()
        }
        Detail::Plain => Vec::new(),
    }
}

fn sound(m: &Measured) -> Rows {
    let one = |value: Option<f32>, unit: &str| match value {
        Some(value) => format!("{value:.1} {unit}"),
        None => "not measured".to_owned(),
    };
    let loudness = &m.loudness;
    let mut rows = vec![
        ("Loudness", one(loudness.integrated_lufs, "LUFS")),
        ("Loudness range", one(loudness.range_lu, "LU")),
        ("True peak", one(loudness.true_peak_dbtp, "dBTP")),
        ("Dynamic range", loudness.dynamic_range_dr.map_or("not measured".to_owned(), |dr| format!("DR {dr:.1}"))),
        ("Clipped runs", loudness.clipping_runs.to_string()),
        ("Sound up to", format!("{} Hz", m.spectrum.effective_bandwidth_hz)),
    ];
    rows.extend(m.spectrum.nominal_lowpass_hz.map(|hz| ("Low-pass at", format!("{hz} Hz"))));
    rows.push(("Energy above 16 kHz", format!("{:.4} %", m.spectrum.hf_energy_ratio * 100.0)));
    rows
}

fn integrity(m: &Measured) -> Rows {
    let integrity = &m.integrity;
    let mut rows = vec![("Whole", if integrity.is_whole() { "yes" } else { "no" }.to_owned())];
    if integrity.bad_frames > 0 {
        rows.push(("Damaged frames", integrity.bad_frames.to_string()));
    }
    if let Some(bad) = &integrity.first_bad {
        let what = show::visible(&bad.what);
        rows.push(("The first", format!("at byte {}, {}: {what}", bad.at_byte, length(bad.at_ms))));
    }
    if integrity.samples_missing > 0 {
        rows.push(("Samples missing", integrity.samples_missing.to_string()));
    }
    rows
}

fn identity(variant: &Variant) -> Rows {
    let (tags, identity) = (&variant.measured.tags, &variant.identity);
    let texts = [
        ("Artist", &tags.artist),
        ("Title", &tags.title),
        ("Album", &tags.album),
        ("Album artist", &tags.album_artist),
        ("Date", &tags.date),
        ("Label", &tags.label),
        ("ISRC", &tags.isrc),
    ];
    let mut rows: Rows =
        texts.into_iter().filter_map(|(name, text)| Some((name, show::visible(text.as_deref()?)))).collect();
    rows.extend(tags.track.map(|track| ("Track", track.to_string())));
    rows.extend(identity.recording_id.map(|id| ("MusicBrainz recording", uuid_text(id))));
    rows.extend(identity.release_id.map(|id| ("MusicBrainz release", uuid_text(id))));
    rows.extend(identity.acoustid.map(|id| ("AcoustID", uuid_text(id))));
    let known = match identity.matched_by {
        MatchedBy::Tags => "by its tags",
        MatchedBy::Fingerprint => "by the sound of another copy",
        MatchedBy::Catalog => "by its fingerprint",
        MatchedBy::Pending => "not yet",
        MatchedBy::Nobody => "nobody knows it",
    };
    rows.push(("Identified", known.to_owned()));
    rows
}

fn hashes(variant: &Variant) -> Rows {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    vec![
        ("Content (BLAKE3)", variant.hash().to_string()),
        ("File (SHA-256)", hex(&variant.measured.file_sha256)),
        ("Coded sound", hex(&variant.measured.stream_hash)),
    ]
}

fn wanted(text: &str) -> Result<ContentHash, Refusal> {
    parse_hash(text).map(ContentHash).ok_or(Refusal::NotFound)
}

async fn one(desktop: &Desktop, text: &str) -> Result<Variant, Refusal> {
    let request = HealthRequest::Variant(wanted(text)?);
    let found = ask!(desktop, request => HealthAnswer::Variants(found) => found)?;
    found.into_iter().next().ok_or(Refusal::NotFound)
}

/// Name of the first of its files.
fn name(variant: &Variant) -> String {
    let name = variant.paths.first().map_or(&b"a file that is gone"[..], |path| path.name());
    show::visible(&String::from_utf8_lossy(name))
}

async fn others(desktop: &Desktop, variant: &Variant) -> Result<Vec<(String, String, String)>, Refusal> {
    let Some(recording) = variant.identity.recording_id else { return Ok(Vec::new()) };
    let copies = ask!(desktop, HealthRequest::Variants(recording) => HealthAnswer::Variants(copies) => copies)?;
    let row = |copy: &Variant| {
        let score = format!("{}, {:.2}", copy.profile(), copy.judged.quality_score);
        (copy.hash().to_string(), name(copy), score)
    };
    Ok(copies.iter().filter(|copy| copy.hash() != variant.hash()).map(row).collect())
}

pub(in crate::web::pages) async fn show(desktop: Desktop, Path(text): Path<String>) -> Response {
    let variant = answer_or_return!(desktop, one(&desktop, &text).await);
    let others = match others(&desktop, &variant).await {
        // Its recording is being counted anew.
        Err(Refusal::NotFound) => Vec::new(),
        others => answer_or_return!(desktop, others),
    };
    let judgement = &variant.judged.judgement;
    let (verdict, mark) = match judgement.verdict {
        Verdict::Clean => ("Clean: no trace of an earlier, worse coding", "good"),
        Verdict::Uncertain => ("Uncertain: something looks wrong, but honest music can look so too", "warn"),
        Verdict::Transcode => ("Transcode: it was coded worse before", "bad"),
    };
    let measured = &variant.measured;
    let name = name(&variant);
    html(&VariantPage {
        head: desktop.head(name.clone(), "library"),
        name,
        copy: variant.hash().to_string(),
        paths: variant.paths.iter().map(|path| show::visible(&path.to_string())).collect(),
        verdict,
        mark,
        confidence: format!("{:.2}", judgement.confidence),
        source: judgement.source.as_ref().filter(|_| judgement.verdict != Verdict::Clean).map(source),
        score: format!("{:.2}", variant.judged.quality_score),
        analyzer: show::visible(&variant.judged.analyzer),
        reasons: reasons(&judgement.reasons),
        sections: vec![
            ("Coding", coding(measured)),
            ("Sound", sound(measured)),
            ("Integrity", integrity(measured)),
            ("Identity", identity(&variant)),
            ("Hashes", hashes(&variant)),
        ],
        others,
        first_seen_at: show::moment(variant.first_seen_at),
    })
}

#[derive(Deserialize)]
pub(in crate::web::pages) struct Form {
    #[serde(default)]
    narrow: bool,
}

/// The picture. Kept by the browser: other bytes have another address.
pub(in crate::web::pages) async fn spectrogram(
    desktop: Desktop,
    Path(text): Path<String>,
    Query(Form { narrow }): Query<Form>,
) -> Response {
    let copy = answer_or_return!(desktop, wanted(&text));
    let request = HealthRequest::Spectrogram { copy, narrow };
    let picture = ask!(desktop, request => HealthAnswer::Picture(picture) => picture);
    let picture = answer_or_return!(desktop, picture);
    let kept = [(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, "private, max-age=86400")];
    (kept, picture).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_bring_their_units() {
        let shown = |name, value| {
            let (name, text) = number(name, value);
            format!("{name}: {text}")
        };
        assert_eq!(shown("edge_hz", 15_996.0), "edge: 16.0 kHz");
        assert_eq!(shown("depth_db", 42.123), "depth: 42.1 dB");
        assert_eq!(shown("raw_kbps", 1_411.2), "raw: 1411 kbit/s");
        assert_eq!(shown("dynamic_range_dr", 4.0), "dynamic range: DR 4.0");
        assert_eq!(shown("groups_agreeing", 4.0), "groups agreeing: 4");
        assert_eq!(shown("runner_up", 3.456), "runner up: 3.46");
        assert_eq!(length(3_601_250), "60:01.2");
    }

    #[test]
    fn a_source_is_told_as_far_as_it_is_known() {
        let told = Source { codec: None, bitrate_kbps: Some(128), sample_rate_hz: None };
        assert_eq!(source(&told), "a lossy or narrower form, about 128 kbit/s");
        let told = Source { codec: None, bitrate_kbps: None, sample_rate_hz: Some(22_050) };
        assert_eq!(source(&told), "a lossy or narrower form, sampled at 22050 Hz");
    }
}
