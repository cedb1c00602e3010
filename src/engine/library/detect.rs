//! One function per kind of issue (SPEC-FACTS 5.1): evidence in, issue out, nothing else.

use super::album::{self, Place};
use super::{About, Thresholds, issue_id};
use crate::model::health::{
    CopyOf, Evidence, Issue, IssueKind, IssueStatus, LocalPath, MatchedBy, MissingTrack, Severity, Variant,
};
use crate::model::limits;
use crate::model::time::UnixMs;
use crate::model::variant::Md5Check;
use crate::model::verdict::Verdict;

/// A file and what is known of its content.
#[derive(Clone, Copy, Debug)]
pub struct Copy<'a> {
    /// Where it lies.
    pub path: &'a LocalPath,
    /// Its content.
    pub variant: &'a Variant,
    /// When it is looked at.
    pub now: UnixMs,
}

/// A track of a release, as a catalogue has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// Medium, from 1.
    pub disc: u32,
    /// Place on it, from 1.
    pub position: u32,
    /// MusicBrainz recording.
    pub recording_id: u128,
    /// Title.
    pub title: String,
    /// Milliseconds.
    pub duration_ms: Option<u64>,
}

/// A release, as a catalogue has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// MusicBrainz release.
    pub id: u128,
    /// Title.
    pub title: String,
    /// Artist.
    pub artist: String,
    /// Its tracks; those without sound (data, video) left out.
    pub tracks: Vec<Track>,
}

/// A file of an album's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Where it lies.
    pub path: LocalPath,
    /// Recording, where known.
    pub recording_id: Option<u128>,
    /// Medium as tagged.
    pub disc: Option<u32>,
    /// Place as tagged.
    pub position: Option<u32>,
    /// Milliseconds.
    pub duration_ms: u64,
}

/// How far a track's duration may be from a file's to be the same track, milliseconds (C26).
const SAME_TRACK_MS: u64 = 3_000;

impl Copy<'_> {
    fn issue(&self, kind: IssueKind, severity: Severity, reason: String, evidence: Evidence) -> Issue {
        let (tags, identity) = (&self.variant.measured.tags, &self.variant.identity);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Issue {
            id: issue_id(kind, About::File(self.path)),
            kind,
            severity,
            path: self.path.clone(),
            recording_id: identity.recording_id,
            release_id: identity.release_id,
            artist: text(&tags.artist),
            album: text(&tags.album),
            title: text(&tags.title),
            reason,
            evidence,
            job: None,
            status: IssueStatus::Detected,
            detected_at: self.now,
            resolved_at: None,
            resolved_by: None,
        }
    }
}

/// Made of a lossy copy, or of a poorer one than it claims: the verdict says so.
pub fn suspected_transcode(copy: &Copy<'_>) -> Option<Issue> {
    let (measured, judged) = (&copy.variant.measured, &copy.variant.judged);
    let judgement = &judged.judgement;
    if judgement.verdict != Verdict::Transcode {
        return None;
    }
    let khz = f64::from(measured.spectrum.effective_bandwidth_hz) / 1_000.0;
    let rules: Vec<&str> = judgement.reasons.iter().map(|reason| reason.rule.name()).collect();
    let past = if measured.codec.is_lossless() { "a lossy copy" } else { "a copy of lower bit rate" };
    let reason = format!(
        "made of {past}, as it seems: content up to {khz:.1} kHz, confidence {:.0} % ({})",
        f64::from(judgement.confidence) * 100.0,
        rules.join(", ")
    );
    let evidence = Evidence::Transcode {
        quality_score: judged.quality_score,
        codec: measured.codec,
        bitrate_kbps: measured.bitrate_kbps,
        dynamic_range: measured.loudness.dynamic_range_dr,
        bandwidth_hz: measured.spectrum.effective_bandwidth_hz,
        confidence: judgement.confidence,
        reasons: judgement.reasons.clone(),
    };
    Some(copy.issue(IssueKind::SuspectedTranscode, Severity::High, reason, evidence))
}

/// A copy of the same recording is better by more than the gap; by more than twice the gap it is grave.
pub fn non_canonical_variant(copy: &Copy<'_>, best: &Variant, thresholds: &Thresholds) -> Option<Issue> {
    let (own, other) = (copy.variant.judged.quality_score, best.judged.quality_score);
    let gap = other - own;
    if best.hash() == copy.variant.hash() || gap <= thresholds.quality_gap {
        return None;
    }
    let severity = if gap > 2.0 * thresholds.quality_gap { Severity::High } else { Severity::Medium };
    let reason = format!(
        "scores {own:.2}; a {} copy at {} kbit/s scores {other:.2}",
        best.measured.codec.name(),
        best.measured.bitrate_kbps
    );
    let evidence = Evidence::NonCanonical {
        current_quality: own,
        canonical_quality: other,
        canonical_codec: best.measured.codec,
        canonical_bitrate_kbps: best.measured.bitrate_kbps,
        canonical_variant: best.hash(),
    };
    Some(copy.issue(IssueKind::NonCanonicalVariant, severity, reason, evidence))
}

/// The release its tags name does not have its recording.
pub fn track_not_in_tagged_release(copy: &Copy<'_>, release: &Release) -> Option<Issue> {
    let tagged = copy.variant.measured.tags.release_id?;
    let recording = copy.variant.identity.recording_id?;
    if tagged != release.id
        || release.tracks.is_empty()
        || release.tracks.iter().any(|track| track.recording_id == recording)
    {
        return None;
    }
    let tracks = count(release.tracks.len());
    let reason = format!("its recording is none of the {tracks} of “{}”, the release its tags name", release.title);
    let evidence = Evidence::NotInRelease { tracks };
    Some(copy.issue(IssueKind::TrackNotInTaggedRelease, Severity::Medium, reason, evidence))
}

/// The album's folder lacks tracks of its release. `present` is every file of every album folder that has a file of
/// this release; of several folders the fullest counts, and one that has everything ends the matter (C26).
pub fn missing_track_in_release(release: &Release, present: &[Present], now: UnixMs) -> Option<Issue> {
    let mut folders: Vec<&[u8]> = present.iter().map(|file| album::folder(&file.path)).collect();
    folders.sort_unstable();
    folders.dedup();
    let mut fullest: Option<(&[u8], Vec<&Track>)> = None;
    for folder in folders {
        let files: Vec<&Present> = present.iter().filter(|file| album::folder(&file.path) == folder).collect();
        let missing = absent(release, &files);
        if fullest.as_ref().is_none_or(|(_, least)| missing.len() < least.len()) {
            fullest = Some((folder, missing));
        }
    }
    let (folder, missing) = fullest?;
    if missing.is_empty() {
        return None;
    }
    let (absent, tracks) = (count(missing.len()), count(release.tracks.len()));
    let severity = if absent.saturating_mul(2) > tracks { Severity::High } else { Severity::Medium };
    let named = missing.iter().take(limits::MISSING_TRACKS).map(|track| MissingTrack {
        disc: track.disc,
        position: track.position,
        title: track.title.clone(),
        recording_id: track.recording_id,
    });
    let kind = IssueKind::MissingTrackInRelease;
    Some(Issue {
        id: issue_id(kind, About::Release(release.id)),
        kind,
        severity,
        path: LocalPath(folder.to_vec()),
        recording_id: None,
        release_id: Some(release.id),
        artist: release.artist.clone(),
        album: release.title.clone(),
        title: String::new(),
        reason: format!("{absent} of {tracks} tracks are not there"),
        evidence: Evidence::Missing { missing: named.collect(), missing_count: absent, tracks },
        job: None,
        status: IssueStatus::Detected,
        detected_at: now,
        resolved_at: None,
        resolved_by: None,
    })
}

/// Tracks no file of this folder is: neither by recording nor by place and duration. A file stands for one track.
fn absent<'r>(release: &'r Release, files: &[&Present]) -> Vec<&'r Track> {
    let mut left: Vec<&Present> = files.to_vec();
    let mut missing: Vec<&Track> = Vec::new();
    for track in &release.tracks {
        match left.iter().position(|file| file.recording_id == Some(track.recording_id)) {
            Some(at) => {
                left.swap_remove(at);
            }
            None => missing.push(track),
        }
    }
    let one_medium = release.tracks.iter().all(|track| track.disc == 1);
    missing.retain(|track| {
        let found = left.iter().position(|file| {
            let Place { disc, position } = album::place(file);
            let there = position == Some(track.position) && (disc == Some(track.disc) || one_medium);
            let known_other = file.recording_id.is_some_and(|id| release.tracks.iter().any(|t| t.recording_id == id));
            there && !known_other && track.duration_ms.is_some_and(|ms| ms.abs_diff(file.duration_ms) <= SAME_TRACK_MS)
        });
        if let Some(at) = found {
            left.swap_remove(at);
        }
        found.is_none()
    });
    missing
}

/// Its audio is not whole.
pub fn corrupted_file(copy: &Copy<'_>) -> Option<Issue> {
    let measured = &copy.variant.measured;
    let integrity = &measured.integrity;
    if integrity.is_whole() {
        return None;
    }
    let mut said = Vec::new();
    if integrity.bad_frames > 0 {
        let at = integrity.first_bad.as_ref().map_or(String::new(), |bad| {
            format!(", the first at {} (byte {}): {}", moment(bad.at_ms), bad.at_byte, bad.what)
        });
        let frames = if integrity.bad_frames == 1 { "frame" } else { "frames" };
        said.push(format!("{} damaged {frames}{at}", integrity.bad_frames));
    }
    if integrity.md5 == Md5Check::Different {
        said.push("the audio is not what was encoded (MD5 differs)".to_owned());
    }
    if integrity.samples_missing > 0 {
        let missing_ms = integrity.samples_missing.saturating_mul(1_000) / u64::from(measured.sample_rate_hz.max(1));
        said.push(format!("the end is missing: {} of audio", moment(missing_ms)));
    }
    let evidence = Evidence::Corrupted {
        bad_frames: integrity.bad_frames,
        first_bad: integrity.first_bad.as_ref().map(|bad| (bad.at_byte, bad.at_ms)),
        md5_differs: integrity.md5 == Md5Check::Different,
        samples_missing: integrity.samples_missing,
    };
    Some(copy.issue(IssueKind::CorruptedFile, Severity::Critical, said.join("; "), evidence))
}

/// A file that could not be read or decoded at all.
pub fn broken_file(path: &LocalPath, why: &str, now: UnixMs) -> Issue {
    let kind = IssueKind::CorruptedFile;
    Issue {
        id: issue_id(kind, About::File(path)),
        kind,
        severity: Severity::Critical,
        path: path.clone(),
        recording_id: None,
        release_id: None,
        artist: String::new(),
        album: String::new(),
        title: String::new(),
        reason: why.to_owned(),
        evidence: Evidence::Corrupted { bad_frames: 0, first_bad: None, md5_differs: false, samples_missing: 0 },
        job: None,
        status: IssueStatus::Detected,
        detected_at: now,
        resolved_at: None,
        resolved_by: None,
    }
}

/// Nobody knows which recording it is. While somebody is still to be asked it is only a remark.
pub fn missing_metadata(copy: &Copy<'_>) -> Option<Issue> {
    let Variant { identity, measured, .. } = copy.variant;
    if identity.recording_id.is_some() {
        return None;
    }
    let (severity, asked) = match identity.matched_by {
        MatchedBy::Pending => (Severity::Info, "nobody could be asked yet"),
        _ => (Severity::Low, "nobody who was asked knows it"),
    };
    let has_tags = measured.tags.title.is_some() && measured.tags.artist.is_some();
    let evidence = Evidence::Unknown { has_tags, has_fingerprint: !measured.fingerprint.is_empty() };
    let tagged =
        if has_tags { "its tags have title and artist but name no recording" } else { "its tags say too little" };
    Some(copy.issue(IssueKind::MissingMetadata, severity, format!("{tagged}, and {asked}"), evidence))
}

/// The recording is kept in several qualities. Copies that belong to different releases are no duplicates: an album and
/// a compilation may share a recording.
pub fn multiple_variants(recording_id: u128, copies: &[Copy<'_>]) -> Option<Issue> {
    let release = |copy: &Copy<'_>| copy.variant.identity.release_id;
    let is_double = |copy: &Copy<'_>| {
        copies.iter().any(|other| {
            other.variant.hash() != copy.variant.hash()
                && (release(other) == release(copy) || release(other).is_none() || release(copy).is_none())
        })
    };
    let mut doubles: Vec<&Copy<'_>> = copies.iter().filter(|copy| is_double(copy)).collect();
    doubles.sort_by(|a, b| {
        let score = |copy: &Copy<'_>| copy.variant.judged.quality_score;
        score(b).total_cmp(&score(a)).then_with(|| a.path.cmp(b.path))
    });
    let best = **doubles.first()?;
    let forms: Vec<String> = doubles
        .iter()
        .take(limits::VARIANT_PATHS)
        .map(|copy| {
            let measured = &copy.variant.measured;
            format!("{} {} kbit/s ({:.2})", measured.codec.name(), measured.bitrate_kbps, score_of(copy))
        })
        .collect();
    let listed = doubles.iter().take(limits::VARIANT_PATHS).map(|copy| CopyOf {
        path: copy.path.clone(),
        quality_score: score_of(copy),
        codec: copy.variant.measured.codec,
        bitrate_kbps: copy.variant.measured.bitrate_kbps,
    });
    let evidence = Evidence::Copies { copies: listed.collect() };
    let kind = IssueKind::MultipleVariants;
    let mut issue =
        best.issue(kind, Severity::Low, format!("{} copies: {}", doubles.len(), forms.join(", ")), evidence);
    issue.id = issue_id(kind, About::Recording(recording_id));
    issue.recording_id = Some(recording_id);
    Some(issue)
}

/// Longer or shorter than the recording by more than the tolerance.
pub fn wrong_duration(copy: &Copy<'_>, recording_ms: Option<u64>, thresholds: &Thresholds) -> Option<Issue> {
    let (own, known) = (copy.variant.measured.duration_ms, recording_ms?);
    if own.abs_diff(known) <= thresholds.duration_tolerance_ms {
        return None;
    }
    let reason = format!("{} long, the recording is {}", moment(own), moment(known));
    let evidence = Evidence::Duration { file_duration_ms: own, mb_duration_ms: known };
    Some(copy.issue(IssueKind::WrongDuration, Severity::Low, reason, evidence))
}

/// The copy of a recording to measure the others by: the best that is no transcode, else the best.
pub fn best_of<'v>(variants: &[&'v Variant]) -> Option<&'v Variant> {
    variants.iter().copied().min_by(|a, b| {
        let suspect = |v: &Variant| v.judged.is_suspect();
        suspect(a)
            .cmp(&suspect(b))
            .then_with(|| b.judged.quality_score.total_cmp(&a.judged.quality_score))
            .then_with(|| b.seen_count.cmp(&a.seen_count))
            .then_with(|| a.hash().cmp(&b.hash()))
    })
}

fn score_of(copy: &Copy<'_>) -> f32 {
    copy.variant.judged.quality_score
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// `3:07.2`
fn moment(ms: u64) -> String {
    let (minutes, tenths) = (ms / 60_000, ms % 60_000 / 100);
    format!("{minutes}:{:02}.{}", tenths / 10, tenths % 10)
}
