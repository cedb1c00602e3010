//! `slskdn analyze`: files measured one after the other, a JSON object a line. Names are SPEC-FACTS 2.1's, flat.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{COULD_NOT, could_not, print, say};
use crate::engine::audio::{quality, transcode};
use crate::model::variant::{Detail, Measured};
use crate::model::verdict::Verdict;
use crate::probe::{self, Outcome, Pool, Tempo};

/// Some files are damaged, or are no audio that is decoded here.
const SOME_FAILED: u8 = 3;

/// Measures every file; the exit code is 0, 3 when some could not be measured, 2 when nothing could be tried.
pub(super) fn analyze(files: &[PathBuf], fingerprint: bool) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return could_not(&format!("no runtime: {error}")),
    };
    let pool = match Pool::new(PathBuf::from("/proc/self/exe"), 1) {
        Ok(pool) => pool,
        Err(error) => return could_not(&error.to_string()),
    };
    let mut failed = false;
    let mut unreadable = false;
    for path in files {
        // A link may be named here; what it points to is what is measured.
        let file = match std::fs::canonicalize(path).and_then(|path| probe::open(&path)) {
            Ok(file) => file,
            Err(error) => {
                say(&format!("{}: {error}", path.display()));
                unreadable = true;
                continue;
            }
        };
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let outcome = runtime.block_on(pool.measure(file, &name, &Tempo::default()));
        failed |= !matches!(outcome, Outcome::Measured(_));
        print(format!("{}\n", line(path, &outcome, fingerprint)).as_bytes());
    }
    match (unreadable, failed) {
        (true, _) => ExitCode::from(COULD_NOT),
        (false, true) => ExitCode::from(SOME_FAILED),
        (false, false) => ExitCode::SUCCESS,
    }
}

/// One file's line.
fn line(path: &Path, outcome: &Outcome, fingerprint: bool) -> Value {
    let error = |outcome: &str, reason: &str| json!({"file_path": path, "outcome": outcome, "error": reason});
    match outcome {
        Outcome::Measured(measured) => flat(path, measured, fingerprint),
        Outcome::Corrupted { reason } => error("corrupted", reason),
        Outcome::Unsupported { reason } => error("unsupported", reason),
        Outcome::GaveUp { reason } => error("gave_up", reason),
        Outcome::NotTried { reason } => error("not_tried", reason),
    }
}

fn flat(path: &Path, measured: &Measured, fingerprint: bool) -> Value {
    let mut value = json!({
        "file_path": path,
        "outcome": "measured",
        "file_size_bytes": measured.file_size_bytes,
        "file_sha256": hex(&measured.file_sha256),
        "head_sha256": hex(&measured.head_sha256),
        "content_hash": measured.content_hash.to_string(),
        // The piece list folds to the content hash.
        "pieces_root": measured.content_hash.to_string(),
        "stream_hash": hex(&measured.stream_hash),
        "codec": measured.codec.name(),
        "container": measured.container.name(),
        "sample_rate_hz": measured.sample_rate_hz,
        "bit_depth": measured.bit_depth,
        "channels": measured.channels,
        "samples": measured.samples,
        "duration_ms": measured.duration_ms,
        "bitrate_kbps": measured.bitrate_kbps,
        "encoder_signature": measured.encoder,
        "mb_recording_id": measured.tags.recording_id.map(uuid),
        "mb_release_id": measured.tags.release_id.map(uuid),
        "acoustid_id": measured.tags.acoustid.map(uuid),
        "audio_sketch_hash": format!("{:016x}", measured.sketch),
        "loudness_lufs": measured.loudness.integrated_lufs,
        "loudness_range_lu": measured.loudness.range_lu,
        "true_peak_dbtp": measured.loudness.true_peak_dbtp,
        "sample_peak": measured.loudness.sample_peak,
        "dynamic_range_dr": measured.loudness.dynamic_range_dr,
        "clipping_runs": measured.loudness.clipping_runs,
        "has_clipping": measured.loudness.clipping_runs > 0,
        "effective_bandwidth_hz": measured.spectrum.effective_bandwidth_hz,
        "nominal_lowpass_hz": measured.spectrum.nominal_lowpass_hz,
        "spectral_flatness_score": measured.spectrum.flatness,
        "hf_energy_ratio": measured.spectrum.hf_energy_ratio,
        "bad_frames": measured.integrity.bad_frames,
        "first_bad_frame": measured.integrity.first_bad,
        "samples_missing": measured.integrity.samples_missing,
        "is_whole": measured.integrity.is_whole(),
    });
    if let Value::Object(fields) = &mut value {
        for more in [judged(measured), detail(measured)] {
            if let Value::Object(more) = more {
                fields.extend(more);
            }
        }
        if fingerprint {
            fields.insert("fingerprint".to_owned(), json!(measured.fingerprint));
        }
    }
    value
}

/// What the rules say.
fn judged(measured: &Measured) -> Value {
    let judgement = transcode::judge(measured);
    let suspect = judgement.verdict == Verdict::Transcode;
    json!({
        "flac_key": format!("{:016x}", quality::flac_key(measured)),
        "profile_key": quality::profile_key(measured),
        "quality_score": quality::score(measured, &judgement),
        "verdict": judgement.verdict,
        "confidence": judgement.confidence,
        "source": judgement.source,
        "transcode_suspect": suspect,
        "transcode_reason": judgement.reasons.first().filter(|_| suspect).map(|reason| reason.rule),
        "reasons": judgement.reasons,
        "analyzer_version": quality::ANALYZER_VERSION,
    })
}

/// What only this codec has.
fn detail(measured: &Measured) -> Value {
    match &measured.detail {
        Detail::Flac(flac) => json!({
            "streaminfo_hash42": hex(&flac.streaminfo_hash),
            "pcm_md5": hex(&flac.pcm_md5),
            "pcm_md5_check": format!("{:?}", measured.integrity.md5).to_lowercase(),
            "min_block_size": flac.block_size_min,
            "max_block_size": flac.block_size_max,
            "min_frame_size": flac.frame_size_min,
            "max_frame_size": flac.frame_size_max,
            "total_samples": flac.total_samples,
        }),
        Detail::Mp3(mp3) => json!({
            "encoder": format!("{:?}", mp3.encoder),
            "encoder_preset": mp3.encoder_preset,
            "frames_analyzed": mp3.frames,
            "min_bitrate_kbps": mp3.bitrate_range_kbps.0,
            "max_bitrate_kbps": mp3.bitrate_range_kbps.1,
            "declared_lowpass_hz": mp3.lowpass_hz,
            "delay_samples": mp3.delay_padding.map(|(delay, _)| delay),
            "padding_samples": mp3.delay_padding.map(|(_, padding)| padding),
        }),
        Detail::Aac(aac) => json!({
            "profile": format!("{:?}", aac.profile),
            "sbr_present": aac.sbr_present,
            "ps_present": aac.ps_present,
            "nominal_bitrate_kbps": aac.nominal_bitrate_kbps,
            "core_only": aac.core_only,
        }),
        Detail::Opus(opus) => json!({
            "nominal_bitrate_kbps": measured.bitrate_kbps,
            "application": format!("{:?}", opus.application),
            "bandwidth_mode": format!("{:?}", opus.bandwidth),
            "pre_skip": opus.pre_skip,
            "output_gain_q8": opus.gain_q8,
            "input_sample_rate_hz": opus.input_sample_rate_hz,
        }),
        Detail::Vorbis { nominal_bitrate_kbps } => json!({ "nominal_bitrate_kbps": nominal_bitrate_kbps }),
        Detail::Plain => json!({}),
    }
}

/// The usual form, in groups of 8, 4, 4, 4 and 12 digits.
fn uuid(id: u128) -> String {
    let digits = format!("{id:032x}");
    [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]).join("-")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
