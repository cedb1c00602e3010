//! The JSON forms of what the Doctor answers. A variant's names are SPEC-FACTS 2.1's, flat (DECISIONS 22).

use serde_json::{Map, Value, json};

use super::shape::time;
use crate::model::gossip::{Consensus, Known};
use crate::model::health::{
    CanonicalStats, Evidence, HealthSummary, Issue, IssueGroup, IssueKind, Progress, Scan, Severity, Variant, uuid_text,
};
use crate::model::variant::{Detail, Md5Check, Measured};
use crate::model::verdict::Reason;
use crate::web::show::iso_ms;

fn uuid(id: Option<u128>) -> Option<String> {
    id.map(uuid_text)
}

/// A measurement to the digits it has.
pub(crate) fn digits(value: f32) -> f64 {
    (f64::from(value) * 1e5).round() / 1e5
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// 64 hexadecimal digits.
pub(crate) fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

pub(crate) fn scan(scan: &Scan, progress: Option<&Progress>) -> Value {
    let counts = progress.map_or(scan.counts, |progress| progress.counts);
    json!({
        "scan_id": scan.id.to_string(),
        "library_path": scan.request.paths.first().map(ToString::to_string),
        "library_paths": scan.request.paths.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "started_at": iso_ms(scan.started_at),
        "completed_at": time(scan.completed_at),
        "status": scan.status.name(),
        "files_scanned": counts.files,
        "files_measured": counts.measured,
        "files_unsupported": counts.unsupported,
        "files_moved": counts.moved,
        "files_gone": counts.gone,
        "bytes_measured": counts.bytes,
        "audio_seconds": counts.audio_ms / 1_000,
        "issues_detected": counts.issues,
        "error_message": scan.error,
        "progress": progress.map(|p| json!({
            "phase": p.phase, "files_total": p.files_total, "bytes_total": p.bytes_total, "bytes_done": p.bytes_done,
            "walked": p.walked, "file": p.last.to_string(), "elapsed_seconds": p.elapsed_ms / 1_000,
            "seconds_left": p.left_ms.map(|ms| ms / 1_000),
        })),
    })
}

pub(crate) fn summary(s: &HealthSummary) -> Value {
    let by_type: Map<String, Value> =
        IssueKind::ALL.into_iter().map(|kind| (kind.name().to_owned(), json!(s.of(kind)))).collect();
    let by_severity: Map<String, Value> = Severity::ALL
        .into_iter()
        .zip(s.by_severity)
        .map(|(severity, n)| (severity.name().to_owned(), json!(n)))
        .collect();
    json!({
        "files": s.files,
        "suspected_transcodes": s.of(IssueKind::SuspectedTranscode),
        "non_canonical_variants": s.of(IssueKind::NonCanonicalVariant),
        "incomplete_releases": s.of(IssueKind::MissingTrackInRelease),
        "issues": s.open(),
        "by_type": by_type,
        "by_severity": by_severity,
        "health_score": s.health_score,
        "last_scan": s.last_scan.as_ref().map(|last| scan(last, None)),
    })
}

pub(crate) fn issue(i: &Issue) -> Value {
    json!({
        "issue_id": i.id.to_string(),
        "type": i.kind.name(),
        "severity": i.severity.name(),
        "file_path": i.path.to_string(),
        "mb_recording_id": uuid(i.recording_id),
        "mb_release_id": uuid(i.release_id),
        "artist": i.artist,
        "album": i.album,
        "title": i.title,
        "reason": i.reason,
        "metadata": evidence(&i.evidence),
        "can_auto_fix": i.kind.can_auto_fix(),
        "suggested_action": i.kind.suggested_action(),
        "remediation_job_id": uuid(i.job),
        "status": i.status.name(),
        "detected_at": iso_ms(i.detected_at),
        "resolved_at": time(i.resolved_at),
        "resolved_by": i.resolved_by.map(crate::model::health::ResolvedBy::name),
    })
}

fn reasons(reasons: &[Reason]) -> Value {
    let values = |reason: &Reason| -> Map<String, Value> {
        reason.values.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
    };
    reasons.iter().map(|reason| json!({ "rule": reason.rule.name(), "values": values(reason) })).collect()
}

fn evidence(evidence: &Evidence) -> Value {
    match evidence {
        Evidence::Transcode {
            quality_score,
            codec,
            bitrate_kbps,
            dynamic_range,
            bandwidth_hz,
            confidence,
            reasons: r,
        } => {
            json!({
                "quality_score": digits(*quality_score), "codec": codec.name(), "bitrate": bitrate_kbps,
                "dynamic_range": dynamic_range.map(digits), "effective_bandwidth_hz": bandwidth_hz,
                "confidence": digits(*confidence),
                "reasons": reasons(r),
            })
        }
        Evidence::NonCanonical {
            current_quality,
            canonical_quality,
            canonical_codec,
            canonical_bitrate_kbps,
            canonical_variant,
        } => json!({
            "current_quality": digits(*current_quality), "canonical_quality": digits(*canonical_quality),
            "canonical_codec": canonical_codec.name(), "canonical_bitrate": canonical_bitrate_kbps,
            "canonical_variant": canonical_variant.to_string(),
        }),
        Evidence::NotInRelease { tracks } => json!({ "tracks": tracks }),
        Evidence::Missing { missing, missing_count, tracks } => json!({
            "missing": missing.iter().map(|track| json!({
                "disc": track.disc, "position": track.position, "title": track.title,
                "recording_id": uuid_text(track.recording_id),
            })).collect::<Vec<_>>(),
            "missing_count": missing_count, "tracks": tracks,
        }),
        Evidence::Corrupted { bad_frames, first_bad, md5_differs, samples_missing } => json!({
            "bad_frames": bad_frames, "first_bad_byte": first_bad.map(|(byte, _)| byte),
            "first_bad_ms": first_bad.map(|(_, ms)| ms), "md5_differs": md5_differs,
            "samples_missing": samples_missing,
        }),
        Evidence::Unknown { has_tags, has_fingerprint } => {
            json!({ "has_tags": has_tags, "has_fingerprint": has_fingerprint })
        }
        Evidence::Copies { copies } => json!({
            "copies": copies.iter().map(|copy| json!({
                "file_path": copy.path.to_string(), "quality_score": digits(copy.quality_score),
                "codec": copy.codec.name(),
                "bitrate": copy.bitrate_kbps,
            })).collect::<Vec<_>>(),
        }),
        Evidence::Duration { file_duration_ms, mb_duration_ms } => {
            json!({ "file_duration_ms": file_duration_ms, "mb_duration_ms": mb_duration_ms })
        }
    }
}

pub(crate) fn group(g: &IssueGroup) -> Value {
    json!({
        "name": g.name, "mb_release_id": uuid(g.release_id), "count": g.count, "severity": g.severity.name(),
    })
}

pub(crate) fn canonical(c: &CanonicalStats) -> Value {
    let counted = |rows: &[(u32, u32)]| -> Vec<Value> {
        rows.iter().map(|(what, count)| json!({ "value": what, "count": count })).collect()
    };
    json!({
        "mb_recording_id": uuid_text(c.recording_id),
        "codec_profile": c.profile,
        "variant_count": c.variant_count,
        "total_seen_count": c.total_seen_count,
        "avg_quality": digits(c.avg_quality),
        "max_quality": digits(c.max_quality),
        "percent_transcode_suspect": digits(c.percent_transcode_suspect),
        "codec_distribution": c.codecs.iter().map(|(codec, count)| json!({ "value": codec.name(), "count": count }))
            .collect::<Vec<_>>(),
        "bitrate_distribution": counted(&c.bitrates_kbps),
        "sample_rate_distribution": counted(&c.sample_rates_hz),
        "best_variant_id": c.best_variant.to_string(),
        "canonicality_score": digits(c.canonicality_score),
        "last_updated": iso_ms(c.updated_at),
    })
}

/// Adds the fields of one object to another.
pub(crate) fn add(value: &mut Value, more: Value) {
    if let (Value::Object(fields), Value::Object(more)) = (value, more) {
        fields.extend(more);
    }
}

/// What is known over all profiles, from here and from peers.
pub(crate) fn consensus(c: &Consensus) -> Value {
    let best = c.best();
    json!({
        "canonicality_score": best.map(|known| digits(known.canonicality)),
        "peers_agreeing": best.map(|known| known.peers_agreeing),
        "keys_agreeing": best.map(|known| known.keys_agreeing),
        "peers": c.peers,
        "best_variant": best.map(known),
        "variant_count": c.variant_count,
        "variants": c.variants.iter().map(known).collect::<Vec<_>>(),
        "last_updated": iso_ms(c.updated_at),
    })
}

fn known(k: &Known) -> Value {
    let claim = &k.claim;
    json!({
        "variant_id": claim.content.to_string(), "file_sha256": hex(&claim.file_sha256),
        "flac_key": format!("{:016x}", claim.flac_key), "file_size_bytes": claim.size,
        "codec": claim.codec.name(), "container": claim.container.name(), "lossless": claim.lossless,
        "codec_profile": claim.profile(), "sample_rate_hz": claim.sample_rate_hz, "bit_depth": claim.bit_depth,
        "channels": claim.channels, "duration_ms": claim.duration_ms, "bitrate_kbps": claim.bitrate_kbps,
        "quality_score": digits(claim.quality_score), "transcode_suspect": claim.transcode_suspect,
        "dynamic_range_dr": claim.dynamic_range_dr.map(digits), "loudness_lufs": claim.loudness_lufs.map(digits),
        "has_clipping": claim.has_clipping, "encoder_signature": claim.encoder_signature,
        "local": k.local, "seen_count": k.seen, "peers_agreeing": k.peers_agreeing,
        "keys_agreeing": k.keys_agreeing,
        "canonicality_score": digits(k.canonicality),
    })
}

pub(crate) fn variant(v: &Variant, fingerprint: bool) -> Value {
    let mut value = measured(&v.measured, fingerprint);
    let Measured { tags, .. } = &v.measured;
    let more = json!({
        "variant_id": v.hash().to_string(),
        "codec_profile": v.profile(),
        "file_path": v.paths.first().map(ToString::to_string),
        "file_paths": v.paths.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "mb_recording_id": uuid(v.identity.recording_id),
        "mb_release_id": uuid(v.identity.release_id),
        "acoustid_id": uuid(v.identity.acoustid),
        "title": tags.title, "artist": tags.artist, "album": tags.album,
        "quality_score": digits(v.judged.quality_score),
        "transcode_suspect": v.judged.is_suspect(),
        "transcode_reason": v.judged.judgement.reasons.iter().map(|r| r.rule.name()).collect::<Vec<_>>().join(", "),
        "verdict": v.judged.judgement.verdict.name(),
        "confidence": digits(v.judged.judgement.confidence),
        "reasons": reasons(&v.judged.judgement.reasons),
        "analyzer_version": v.judged.analyzer,
        "first_seen_at": iso_ms(v.first_seen_at),
        "last_seen_at": iso_ms(v.last_seen_at),
        "seen_count": v.seen_count,
    });
    if let (Value::Object(fields), Value::Object(more)) = (&mut value, more) {
        fields.extend(more);
    }
    value
}

/// What was measured, by the names of SPEC-FACTS 2.1.
fn measured(m: &Measured, fingerprint: bool) -> Value {
    let mut value = json!({
        "file_size_bytes": m.file_size_bytes,
        "file_sha256": hex(&m.file_sha256),
        "head_sha256": hex(&m.head_sha256),
        "content_hash": m.content_hash.to_string(),
        "pieces_root": m.content_hash.to_string(),
        "stream_hash": hex(&m.stream_hash),
        "codec": m.codec.name(),
        "container": m.container.name(),
        "sample_rate_hz": m.sample_rate_hz,
        "bit_depth": m.bit_depth,
        "channels": m.channels,
        "samples": m.samples,
        "duration_ms": m.duration_ms,
        "bitrate_kbps": m.bitrate_kbps,
        "encoder_signature": m.encoder,
        "audio_sketch_hash": format!("{:016x}", m.sketch),
        "loudness_lufs": m.loudness.integrated_lufs.map(digits),
        "loudness_range_lu": m.loudness.range_lu.map(digits),
        "true_peak_dbtp": m.loudness.true_peak_dbtp.map(digits),
        "sample_peak": digits(m.loudness.sample_peak),
        "dynamic_range_dr": m.loudness.dynamic_range_dr.map(digits),
        "clipping_runs": m.loudness.clipping_runs,
        "has_clipping": m.loudness.clipping_runs > 0,
        "effective_bandwidth_hz": m.spectrum.effective_bandwidth_hz,
        "nominal_lowpass_hz": m.spectrum.nominal_lowpass_hz,
        "spectral_flatness_score": digits(m.spectrum.flatness),
        "hf_energy_ratio": digits(m.spectrum.hf_energy_ratio),
        "bad_frames": m.integrity.bad_frames,
        "first_bad_frame": m.integrity.first_bad.as_ref().map(|bad| json!({
            "at_byte": bad.at_byte, "at_ms": bad.at_ms, "what": bad.what,
        })),
        "samples_missing": m.integrity.samples_missing,
        "is_whole": m.integrity.is_whole(),
    });
    if let Value::Object(fields) = &mut value {
        if let Value::Object(more) = detail(m) {
            fields.extend(more);
        }
        if fingerprint {
            fields.insert("fingerprint".to_owned(), json!(m.fingerprint));
        }
    }
    value
}

/// What only this codec has.
fn detail(m: &Measured) -> Value {
    match &m.detail {
        Detail::Flac(d) => json!({
            "streaminfo_hash42": hex(&d.streaminfo_hash),
            "pcm_md5": hex(&d.pcm_md5),
            "pcm_md5_check": match m.integrity.md5 {
                Md5Check::Absent => "absent",
                Md5Check::Equal => "equal",
                Md5Check::Different => "different",
            },
            "min_block_size": d.block_size_min, "max_block_size": d.block_size_max,
            "min_frame_size": d.frame_size_min, "max_frame_size": d.frame_size_max,
            "total_samples": d.total_samples,
        }),
        Detail::Mp3(d) => json!({
            "encoder": format!("{:?}", d.encoder), "encoder_preset": d.encoder_preset, "frames_analyzed": d.frames,
        }),
        Detail::Aac(d) => json!({
            "profile": format!("{:?}", d.profile), "sbr_present": d.sbr_present, "ps_present": d.ps_present,
            "nominal_bitrate_kbps": d.nominal_bitrate_kbps, "core_only": d.core_only,
        }),
        Detail::Opus(d) => json!({
            "application": format!("{:?}", d.application), "bandwidth_mode": format!("{:?}", d.bandwidth),
            "pre_skip": d.pre_skip, "output_gain_q8": d.gain_q8,
        }),
        Detail::Vorbis { nominal_bitrate_kbps } => json!({ "nominal_bitrate_kbps": nominal_bitrate_kbps }),
        Detail::Plain => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_read_back() {
        let bytes: [u8; 32] = std::array::from_fn(|at| u8::try_from(at * 7).unwrap_or(255));
        assert_eq!(parse_hash(&hex(&bytes)), Some(bytes));
        assert!(parse_hash("ab").is_none() && parse_hash(&"x".repeat(64)).is_none() && parse_hash("é").is_none());
    }
}
