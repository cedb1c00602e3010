//! What cannot be so, whoever says it: every field of what peers tell has its range.

use super::control::{Advert, CacheJob, Descriptor, Edition};
use crate::model::gossip::{Claim, HashEntry};
use crate::model::limits;

/// What a peer says cannot be so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Lie {
    /// A number outside its range.
    #[error("{field} cannot be {value}")]
    Number {
        /// Which.
        field: &'static str,
        /// As told.
        value: f64,
    },
    /// A text too long or with control characters.
    #[error("{0} is too long, or no text")]
    Text(&'static str),
    /// Two fields contradict one another.
    #[error("{0}")]
    Contradiction(&'static str),
}

/// Longest file that is believed in, bytes (SPEC-FACTS 8).
pub const SIZE_MAX: u64 = 10_000_000_000;
/// Longest audio that is believed in, milliseconds: three days.
const DURATION_MAX_MS: u64 = 3 * 86_400_000;

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn number(field: &'static str, value: u64, range: std::ops::RangeInclusive<u64>) -> Result<(), Lie> {
    if range.contains(&value) { Ok(()) } else { Err(Lie::Number { field, value: value as f64 }) }
}

fn real(field: &'static str, value: Option<f32>, range: std::ops::RangeInclusive<f32>) -> Result<(), Lie> {
    match value {
        Some(value) if !range.contains(&value) => Err(Lie::Number { field, value: f64::from(value) }),
        _ => Ok(()),
    }
}

fn text(field: &'static str, text: Option<&String>, length_max: usize) -> Result<(), Lie> {
    match text {
        Some(text) if text.is_empty() || text.len() > length_max || text.chars().any(char::is_control) => {
            Err(Lie::Text(field))
        }
        _ => Ok(()),
    }
}

/// Whether a copy could be as it is told.
///
/// # Errors
/// What cannot be.
pub fn check_claim(claim: &Claim) -> Result<(), Lie> {
    number("file_size_bytes", claim.size, 1..=SIZE_MAX - 1)?;
    number("sample_rate_hz", claim.sample_rate_hz.into(), 4_000..=1_536_000)?;
    number("channels", claim.channels.into(), 1..=32)?;
    number("duration_ms", claim.duration_ms, 0..=DURATION_MAX_MS)?;
    number("bitrate_kbps", claim.bitrate_kbps.into(), 0..=200_000)?;
    number("bit_depth", claim.bit_depth.unwrap_or(16).into(), 1..=64)?;
    real("quality_score", Some(claim.quality_score), 0.0..=1.0)?;
    real("dynamic_range", claim.dynamic_range_dr, -100.0..=200.0)?;
    real("loudness_lufs", claim.loudness_lufs, -200.0..=50.0)?;
    text("encoder_signature", claim.encoder_signature.as_ref(), limits::GOSSIP_ENCODER)?;
    if claim.lossless != claim.codec.is_lossless() {
        return Err(Lie::Contradiction("a codec is told to be what it is not: lossless or lossy"));
    }
    if claim.bit_depth.is_some() && !claim.lossless {
        return Err(Lie::Contradiction("a lossy copy has no bit depth"));
    }
    Ok(())
}

impl Advert {
    /// Whether everything in it could be so.
    ///
    /// # Errors
    /// What cannot be.
    pub fn check(&self) -> Result<(), Lie> {
        if self.bundle_id == 0 {
            return Err(Lie::Contradiction("a bundle without an id"));
        }
        if self.sequence < self.after {
            return Err(Lie::Contradiction("a bundle that goes backwards"));
        }
        for recording in &self.recordings {
            text("title", recording.title.as_ref(), limits::GOSSIP_TEXT)?;
            text("artist", recording.artist.as_ref(), limits::GOSSIP_TEXT)?;
            if recording.mb_recording_id == Some(0) {
                return Err(Lie::Contradiction("a recording of the id 0"));
            }
            recording.variants.iter().try_for_each(check_claim)?;
        }
        Ok(())
    }
}

impl Descriptor {
    /// Whether everything in it could be so.
    ///
    /// # Errors
    /// What cannot be.
    pub fn check(&self) -> Result<(), Lie> {
        let Edition { label, catalog_number, release_country, release_date, medium_format, .. } = &self.edition;
        let texts = [
            ("title", &self.title),
            ("artist", &self.artist),
            ("label", label),
            ("catalog_number", catalog_number),
            ("release_country", release_country),
            ("release_date", release_date),
            ("medium_format", medium_format),
        ];
        for (field, value) in texts {
            text(field, value.as_ref(), limits::GOSSIP_TEXT)?;
        }
        for track in &self.tracks {
            text("title", track.title.as_ref(), limits::GOSSIP_TEXT)?;
            number("track_number", track.track_number.into(), 1..=10_000)?;
            number("file_size_bytes", track.file_size_bytes.unwrap_or(1), 1..=SIZE_MAX - 1)?;
            number("duration_ms", track.duration_ms.unwrap_or(0), 0..=DURATION_MAX_MS)?;
            real("quality_score", track.quality_score, 0.0..=1.0)?;
        }
        Ok(())
    }
}

impl CacheJob {
    /// Whether everything in it could be so.
    ///
    /// # Errors
    /// What cannot be.
    pub fn check(&self) -> Result<(), Lie> {
        if self.is_offer && !self.requested.is_empty() || !self.is_offer && !self.offered.is_empty() {
            return Err(Lie::Contradiction("a job that is a request and an offer"));
        }
        for track in &self.requested {
            number("priority", track.priority.into(), 0..=10)?;
        }
        for track in &self.offered {
            number("file_size_bytes", track.file_size_bytes, 1..=SIZE_MAX - 1)?;
            if track.pieces_root != track.variant_id {
                return Err(Lie::Contradiction("pieces that do not fold to the variant"));
            }
            if track.lossless != track.codec.is_lossless() {
                return Err(Lie::Contradiction("a codec is told to be what it is not: lossless or lossy"));
            }
        }
        Ok(())
    }
}

/// Whether hashes could be so: sizes, and numbers that rise up to the last one.
///
/// # Errors
/// What cannot be.
pub fn check_hashes(entries: &[HashEntry], sequence: u64) -> Result<(), Lie> {
    let mut last = 0;
    for entry in entries {
        number("size", entry.size, 1..=SIZE_MAX - 1)?;
        if entry.sequence < last || entry.sequence > sequence {
            return Err(Lie::Contradiction("hashes out of their order"));
        }
        last = entry.sequence;
    }
    Ok(())
}
