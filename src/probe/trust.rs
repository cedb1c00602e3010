//! What the daemon believes of a worker's answer. A worker has read a stranger's bytes, and may speak for them: an answer
//! is kept only when every length is within its limit, every number is a number, and what follows from one another agrees.

use super::sink::{CHANNELS_MAX, RATES_HZ, millis};
use super::text::clip;
use super::wire::{Answer, Outcome, Wanted};
use crate::model::limits;
use crate::model::spectrogram::Spectrogram;
use crate::model::spectrum::{PROFILE_BANDS, Spectrum};
use crate::model::variant::{Detail, Loudness, Measured, Tags};

/// Frame grids of a spectrum at most: one of each codec, and as many again.
const GRIDS_MAX: usize = 8;
/// Largest number that any measurement may be, whatever its unit: float files may lie far above full scale.
const NUMBER_MAX: f32 = 1e10;

/// The answer, if it is one that a worker asked for this may give; texts cut.
pub(super) fn believed(answer: Answer, wanted: Wanted) -> Option<Answer> {
    let told = |reason: &str| {
        let reason = clip(reason.trim());
        if reason.is_empty() { "it does not say why".to_owned() } else { reason.to_owned() }
    };
    match (answer, wanted) {
        (Answer::Spectrogram(drawn), Wanted::Spectrogram) if is_sound(&drawn) => Some(Answer::Spectrogram(drawn)),
        (Answer::Outcome(outcome), _) => Some(Answer::Outcome(match outcome {
            Outcome::Measured(found) if wanted != Wanted::Spectrogram && is_plausible(&found) => {
                Outcome::Measured(found)
            }
            Outcome::Corrupted { reason } => Outcome::Corrupted { reason: told(&reason) },
            Outcome::Unsupported { reason } => Outcome::Unsupported { reason: told(&reason) },
            Outcome::GaveUp { reason } => Outcome::GaveUp { reason: told(&reason) },
            // It has tried.
            Outcome::Measured(_) | Outcome::NotTried { .. } => return None,
        })),
        _ => None,
    }
}

/// Whether a picture has the measures it claims.
fn is_sound(drawn: &Spectrogram) -> bool {
    usize::from(drawn.rows) == limits::SPECTROGRAM_ROWS
        && RATES_HZ.contains(&drawn.sample_rate_hz)
        && drawn.samples_per_column > 0
        && drawn.levels.len().is_multiple_of(limits::SPECTROGRAM_ROWS)
        && drawn.columns() <= limits::SPECTROGRAM_COLUMNS
}

fn is_plausible(found: &Measured) -> bool {
    RATES_HZ.contains(&found.sample_rate_hz)
        && (1..=CHANNELS_MAX).contains(&usize::from(found.channels))
        && found.bit_depth.is_none_or(|bits| (1..=64).contains(&bits))
        && found.duration_ms == millis(found.samples, found.sample_rate_hz)
        && found.fingerprint.len() <= limits::FINGERPRINT_WORDS
        && are_numbers(&found.loudness)
        && is_spectrum(&found.spectrum)
        && texts(found).all(|text| text.len() <= limits::TAG_TEXT_LEN)
}

/// Every text of a measurement.
fn texts(found: &Measured) -> impl Iterator<Item = &str> {
    let Tags { title, artist, album, album_artist, date, label, isrc, .. } = &found.tags;
    let preset = match &found.detail {
        Detail::Mp3(detail) => detail.encoder_preset.as_ref(),
        _ => None,
    };
    let what = found.integrity.first_bad.as_ref().map(|bad| &bad.what);
    let tags = [title, artist, album, album_artist, date, label, isrc, &found.encoder];
    tags.into_iter().filter_map(Option::as_ref).chain(preset).chain(what).map(String::as_str)
}

fn is_number(value: f32) -> bool {
    value.is_finite() && value.abs() <= NUMBER_MAX
}

fn are_numbers(loudness: &Loudness) -> bool {
    let Loudness { integrated_lufs, range_lu, true_peak_dbtp, sample_peak, dynamic_range_dr, clipping_runs: _ } =
        loudness;
    let some = [integrated_lufs, range_lu, true_peak_dbtp, dynamic_range_dr];
    some.into_iter().flatten().all(|value| is_number(*value)) && is_number(*sample_peak) && *sample_peak >= 0.0
}

fn is_spectrum(spectrum: &Spectrum) -> bool {
    let Spectrum { flatness, hf_energy_ratio, edge, loud_db, median_db, side_db, grids, .. } = spectrum;
    let edge = [edge.depth_db, edge.below_db, edge.above_db, edge.floor_db, edge.floor_peak_db];
    let profile = |bands: &[i8]| bands.is_empty() || bands.len() == PROFILE_BANDS;
    let grid = |value: &crate::model::spectrum::Grid| {
        [value.strength, value.runner_up, value.share, value.usual].into_iter().all(is_number)
    };
    [*flatness, *hf_energy_ratio, *side_db].into_iter().chain(edge).all(is_number)
        && profile(loud_db)
        && profile(median_db)
        && grids.len() <= GRIDS_MAX
        && grids.iter().all(grid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::ContentHash;
    use crate::model::spectrum::{Edge, Grid, GridCodec};
    use crate::model::variant::{BadFrame, Codec, Container, Integrity};

    fn measured() -> Measured {
        Measured {
            codec: Codec::Flac,
            container: Container::Flac,
            sample_rate_hz: 44_100,
            bit_depth: Some(16),
            channels: 2,
            samples: 44_100,
            duration_ms: 1_000,
            bitrate_kbps: 900,
            file_size_bytes: 100_000,
            content_hash: ContentHash([1; 32]),
            file_sha256: [2; 32],
            head_sha256: [3; 32],
            stream_hash: [4; 16],
            fingerprint: vec![1; 8],
            sketch: 5,
            loudness: Loudness::default(),
            spectrum: Spectrum::default(),
            detail: Detail::Plain,
            encoder: None,
            integrity: Integrity::default(),
            tags: Tags::default(),
        }
    }

    fn is_believed(change: impl FnOnce(&mut Measured)) -> bool {
        let mut found = measured();
        change(&mut found);
        believed(Answer::Outcome(Outcome::Measured(Box::new(found))), Wanted::Measurements).is_some()
    }

    #[test]
    fn measurements_that_cannot_be_are_not_believed() {
        assert!(is_believed(|_| {}));
        let long = || Some("x".repeat(limits::TAG_TEXT_LEN + 1));
        let grid = |strength| Grid {
            codec: GridCodec::Aac,
            offset: 0,
            strength,
            runner_up: 0.0,
            share: 0.0,
            usual: 0.0,
            agreeing: 0,
            groups: 0,
            excerpts: 0,
        };
        assert!(is_believed(|found| found.spectrum.grids.push(grid(1.0))));
        assert!(is_believed(|found| found.tags.title = Some("x".repeat(limits::TAG_TEXT_LEN))));
        let lies: [fn(&mut Measured); 10] = [
            |found| found.sample_rate_hz = 0,
            |found| found.sample_rate_hz = u32::MAX,
            |found| found.channels = 9,
            |found| found.bit_depth = Some(0),
            |found| found.duration_ms = 36_000_000,
            |found| found.fingerprint = vec![0; limits::FINGERPRINT_WORDS + 1],
            |found| found.loudness.integrated_lufs = Some(f32::NAN),
            |found| found.loudness.sample_peak = -1.0,
            |found| found.spectrum.edge = Edge { depth_db: f32::INFINITY, ..Edge::default() },
            |found| found.spectrum.loud_db = vec![0; PROFILE_BANDS + 1],
        ];
        for (number, lie) in lies.into_iter().enumerate() {
            assert!(!is_believed(lie), "{number}");
        }
        assert!(!is_believed(|found| found.spectrum.grids.push(grid(f32::NAN))));
        assert!(!is_believed(|found| found.spectrum.grids = vec![grid(1.0); GRIDS_MAX + 1]));
        assert!(!is_believed(|found| found.tags.isrc = long()));
        assert!(!is_believed(|found| found.encoder = long()));
        let bad = |what| Some(BadFrame { at_byte: 0, at_ms: 0, what });
        assert!(!is_believed(|found| found.integrity.first_bad = bad(long().unwrap_or_default())));
    }

    #[test]
    fn an_answer_is_of_what_was_asked_and_says_why() {
        let outcome = |outcome, wanted| believed(Answer::Outcome(outcome), wanted);
        assert!(outcome(Outcome::Measured(Box::new(measured())), Wanted::Spectrogram).is_none());
        assert!(outcome(Outcome::NotTried { reason: "x".to_owned() }, Wanted::Measurements).is_none());
        assert!(believed(Answer::Ready, Wanted::Measurements).is_none());
        let reason = |reason: String| match outcome(Outcome::GaveUp { reason }, Wanted::Spectrogram) {
            Some(Answer::Outcome(Outcome::GaveUp { reason })) => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(" ".to_owned()), "it does not say why");
        assert_eq!(reason("é".repeat(limits::TAG_TEXT_LEN)).len(), limits::TAG_TEXT_LEN);
    }
}
