//! What the tags of one audio file are to say.

use serde::{Deserialize, Serialize};

use super::id::{ArtistId, RecordingId, ReleaseGroupId, ReleaseId};

/// A track's place in a release, as tags tell it. What is `None` or empty here stays as it is in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sheet {
    /// Title of the track.
    pub title: String,
    /// Artist of the track.
    pub artist: String,
    /// Title of the release.
    pub album: String,
    /// Artist of the release.
    pub album_artist: String,
    /// Place on the medium, from 1.
    pub track: u32,
    /// Tracks of the medium.
    pub tracks: Option<u32>,
    /// Medium, from 1.
    pub disc: u32,
    /// Media of the release.
    pub discs: Option<u32>,
    /// When the release came out: `2000`, `2000-10` or `2000-10-09`.
    pub date: Option<String>,
    /// The recording.
    pub recording: RecordingId,
    /// The release.
    pub release: ReleaseId,
    /// All editions of the release.
    pub group: Option<ReleaseGroupId>,
    /// Who made the track.
    pub artist_ids: Vec<ArtistId>,
    /// Who made the release.
    pub album_artist_ids: Vec<ArtistId>,
}
