//! What the catalogs (MusicBrainz, AcoustID, Discogs) say about recordings and releases, in plain words.
//!
//! Texts are a stranger's and as long as the answer allowed. What a catalog left out is `None` or empty, never guessed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::id::{AcoustId, ArtistId, RecordingId, ReleaseGroupId, ReleaseId};
use super::time::UnixMs;

/// A service that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Service {
    /// Recordings and releases by id.
    MusicBrainz,
    /// Recordings by fingerprint.
    AcoustId,
    /// Releases by number.
    Discogs,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::MusicBrainz, Self::AcoustId, Self::Discogs];

    /// Its name in keys of the configuration, in the store and in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::MusicBrainz => "musicbrainz",
            Self::AcoustId => "acoustid",
            Self::Discogs => "discogs",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MusicBrainz => "MusicBrainz",
            Self::AcoustId => "AcoustID",
            Self::Discogs => "Discogs",
        })
    }
}

/// A date of which parts may be unknown. Sorts by what is known, unknown parts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartialDate {
    /// Year, 1 to 9999.
    pub year: Option<u16>,
    /// Month, 1 to 12.
    pub month: Option<u8>,
    /// Day, 1 to 31.
    pub day: Option<u8>,
}

/// The text is no date, not even a partial one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateError;

impl fmt::Display for DateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a date: expected YYYY, YYYY-MM or YYYY-MM-DD")
    }
}

impl std::error::Error for DateError {}

impl FromStr for PartialDate {
    type Err = DateError;

    /// `2018`, `2008-04`, `2008-04-03`; unknown parts as `?` (MusicBrainz) or zeros (Discogs).
    fn from_str(text: &str) -> Result<Self, DateError> {
        let mut parts = text.trim().splitn(3, '-');
        let mut part = |digits: usize, largest: u16| -> Result<Option<u16>, DateError> {
            let Some(part) = parts.next() else { return Ok(None) };
            let unknown = part.chars().all(|c| c == '?' || c == '0');
            if part.is_empty() || part.len() > digits || !part.chars().all(|c| c.is_ascii_digit() || c == '?') {
                return Err(DateError);
            }
            if unknown {
                return Ok(None);
            }
            let number = part.parse::<u16>().map_err(|_| DateError)?;
            if number <= largest { Ok(Some(number)) } else { Err(DateError) }
        };
        let year = part(4, 9_999)?;
        let small = |number: Option<u16>| number.and_then(|number| u8::try_from(number).ok());
        let month = small(part(2, 12)?);
        let day = small(part(2, 31)?);
        if year.is_none() && month.is_none() && day.is_none() {
            return Err(DateError);
        }
        Ok(Self { year, month, day })
    }
}

impl fmt::Display for PartialDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.year {
            Some(year) => write!(f, "{year:04}")?,
            None => f.write_str("????")?,
        }
        match (self.month, self.day) {
            (None, None) => Ok(()),
            (Some(month), None) => write!(f, "-{month:02}"),
            (Some(month), Some(day)) => write!(f, "-{month:02}-{day:02}"),
            (None, Some(day)) => write!(f, "-??-{day:02}"),
        }
    }
}

/// One artist as credited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// The name as it stands on the cover.
    pub name: String,
    /// Who that is.
    pub artist: Option<ArtistId>,
    /// What stands between this name and the next: ` feat. `, ` & `.
    pub join: String,
}

/// A performance as it was mixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// The id that stands; after a merge another than was asked for.
    pub id: RecordingId,
    /// Title.
    pub title: String,
    /// All credits joined; empty when the catalog did not tell.
    pub artist: String,
    /// The credits.
    pub credits: Vec<Credit>,
    /// Milliseconds.
    pub duration_ms: Option<u64>,
    /// Codes; a recording may have several.
    pub isrcs: Vec<String>,
    /// It is a video.
    pub is_video: bool,
    /// `live`, `radio edit`: what tells it from others of the same title; may be empty.
    pub disambiguation: String,
    /// When it first came out.
    pub first_release: Option<PartialDate>,
}

/// One edition of an album.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The id that stands; after a merge another than was asked for.
    pub id: ReleaseId,
    /// All its editions.
    pub group: Option<ReleaseGroupId>,
    /// Title.
    pub title: String,
    /// All credits joined; empty when the catalog did not tell.
    pub artist: String,
    /// The credits.
    pub credits: Vec<Credit>,
    /// Labels and catalogue numbers.
    pub labels: Vec<ReleaseLabel>,
    /// When it came out; the earliest where it came out more than once.
    pub date: Option<PartialDate>,
    /// ISO 3166-1 code, or MusicBrainz's `XW` (worldwide), `XE` (Europe) and the like.
    pub country: Option<String>,
    /// Bar code. Two editions may share one.
    pub barcode: Option<String>,
    /// `Official`, `Promotion`, `Bootleg`, `Pseudo-Release`.
    pub status: Option<String>,
    /// `Album`, `Single`, `EP`, `Broadcast`, `Other`.
    pub primary_type: Option<String>,
    /// `Compilation`, `Live`, `Soundtrack` and the like.
    pub secondary_types: Vec<String>,
    /// What tells it from other editions; may be empty.
    pub disambiguation: String,
    /// Media, by position.
    pub media: Vec<Medium>,
    /// Number in Discogs.
    pub discogs_release_id: Option<u64>,
    /// Number of all editions in Discogs.
    pub discogs_master_id: Option<u64>,
}

impl Release {
    /// The first named label; MusicBrainz's `[no label]` is none.
    pub fn label(&self) -> Option<&str> {
        let names = self.labels.iter().filter_map(|label| label.name.as_deref());
        names.into_iter().find(|name| !name.starts_with('['))
    }

    /// Every track of every medium, hidden ones and data included, in order.
    pub fn tracks(&self) -> impl Iterator<Item = &TrackInRelease> {
        self.media.iter().flat_map(|medium| &medium.tracks)
    }
}

/// A label's part in a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseLabel {
    /// The label; a catalogue number may stand alone.
    pub name: Option<String>,
    /// Catalogue number as printed.
    pub catalog_number: Option<String>,
}

/// One disc, cassette or batch of files of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Medium {
    /// From 1.
    pub position: u32,
    /// `CD`, `12" Vinyl`, `Digital Media`.
    pub format: Option<String>,
    /// Its own title; often empty.
    pub title: String,
    /// Tracks as the catalog counts them: without the pregap and data.
    pub track_count: u32,
    /// Its tracks: the pregap first, data last. Empty when they were not asked for.
    pub tracks: Vec<TrackInRelease>,
}

/// What kind of place on a medium it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TrackKind {
    /// Hidden before the first track; rips often lack it.
    Pregap,
    /// What a player plays.
    Normal,
    /// In the data part of an enhanced CD.
    Data,
}

/// A recording's place on a medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackInRelease {
    /// The release.
    pub release: ReleaseId,
    /// Medium, from 1.
    pub medium: u32,
    /// Place on the medium, from 1; 0 for the pregap.
    pub position: u32,
    /// Place as printed: `1`, `A2`.
    pub number: String,
    /// What kind of place.
    pub kind: TrackKind,
    /// The recording.
    pub recording: RecordingId,
    /// Milliseconds: the track's own, else the recording's.
    pub duration_ms: Option<u64>,
    /// As on this release.
    pub title: String,
    /// As on this release; the release's artist where the track has none of its own.
    pub artist: String,
    /// Codes of the recording.
    pub isrcs: Vec<String>,
    /// It is a video.
    pub is_video: bool,
}

impl TrackInRelease {
    /// Whether a complete rip has it as a sound file: no pregap, no data, no video.
    pub fn is_expected(&self) -> bool {
        self.kind == TrackKind::Normal && !self.is_video
    }
}

/// One cluster of fingerprints that a lookup found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AcoustIdResult {
    /// Its id.
    pub id: AcoustId,
    /// 0.0 to 1.0.
    pub score: f64,
    /// Recordings linked to it; may be none, may be several.
    pub recordings: Vec<AcoustIdRecording>,
}

/// A recording that AcoustID's users have linked to a fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcoustIdRecording {
    /// Its id in MusicBrainz; may have been merged since.
    pub id: RecordingId,
    /// Title; absent when AcoustID knows the id alone.
    pub title: Option<String>,
    /// All credits joined; empty when not told.
    pub artist: String,
    /// Milliseconds.
    pub duration_ms: Option<u64>,
    /// How many submissions say so; 0 when not told.
    pub sources: u32,
    /// Releases by group.
    pub groups: Vec<ReleaseGroupId>,
}

/// A release as Discogs has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscogsRelease {
    /// Its number.
    pub id: u64,
    /// The number of all its editions.
    pub master: Option<u64>,
    /// Title.
    pub title: String,
    /// All credits joined, without Discogs's numbering of namesakes.
    pub artist: String,
    /// Labels and catalogue numbers.
    pub labels: Vec<ReleaseLabel>,
    /// When it came out.
    pub date: Option<PartialDate>,
    /// Country in English words.
    pub country: Option<String>,
    /// Tracks; headings left out.
    pub tracks: Vec<DiscogsTrack>,
}

/// A track as Discogs has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscogsTrack {
    /// As printed: `1`, `A2`, `CD1-3`.
    pub position: String,
    /// Title.
    pub title: String,
    /// Milliseconds, in whole seconds.
    pub duration_ms: Option<u64>,
}

/// One answer of a service, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAnswer {
    /// When it came.
    pub fetched_at: UnixMs,
    /// When it is to be asked for again.
    pub expires_at: UnixMs,
    /// The service's body, deflated; `None`: the service has no such thing.
    pub body: Option<Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_dates_survive_text() {
        for (text, shown) in [
            ("2018", "2018"),
            ("2008-04", "2008-04"),
            ("2008-04-03", "2008-04-03"),
            ("????-04-03", "????-04-03"),
            ("2008-??-03", "2008-??-03"),
            ("1999-03-00", "1999-03"),
            ("1999-00-00", "1999"),
        ] {
            let date: PartialDate = text.parse().unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(date.to_string(), shown);
            assert_eq!(shown.parse(), Ok(date));
        }
        for bad in
            ["", "0000", "????", "soon", "2008-13", "2008-04-32", "2008-4x", "20081", "2008-", "-04", "2008-1-1-1"]
        {
            assert_eq!(bad.parse::<PartialDate>(), Err(DateError), "{bad}");
        }
        let [vague, exact] = ["2008", "2008-01"].map(|text| text.parse::<PartialDate>().unwrap());
        assert!(vague < exact);
    }
}
