//! MusicBrainz's web service, version 2: its JSON into plain words.
//!
//! Traps that are settled here: `null`, absent and `""` are the same; a date may lack month and day; a pregap and data
//! tracks stand beside the tracks; a track's own title, artist and length go before the recording's; one recording has
//! several ISRCs; after a merge the answer bears another id than was asked for.

use serde::Deserialize;

use super::wire::{AnswerError, date, id, list, maybe_id, number, said, text};
use crate::model::catalog::{Credit, Medium, Recording, Release, ReleaseLabel, TrackInRelease, TrackKind};
use crate::model::id::ReleaseId;

/// A release as it comes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WireRelease {
    id: String,
    title: String,
    #[serde(default, deserialize_with = "list")]
    artist_credit: Vec<WireCredit>,
    release_group: Option<WireGroup>,
    #[serde(default, deserialize_with = "list")]
    label_info: Vec<WireLabelInfo>,
    date: Option<String>,
    country: Option<String>,
    barcode: Option<String>,
    status: Option<String>,
    disambiguation: Option<String>,
    #[serde(default, deserialize_with = "list")]
    release_events: Vec<WireEvent>,
    #[serde(default, deserialize_with = "list")]
    media: Vec<WireMedium>,
    #[serde(default, deserialize_with = "list")]
    relations: Vec<WireRelation>,
}

#[derive(Debug, Deserialize)]
struct WireCredit {
    name: Option<String>,
    #[serde(default, deserialize_with = "text")]
    joinphrase: String,
    artist: Option<WireArtist>,
}

#[derive(Debug, Deserialize)]
struct WireArtist {
    id: Option<String>,
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireGroup {
    id: Option<String>,
    primary_type: Option<String>,
    #[serde(default, deserialize_with = "list")]
    secondary_types: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    relations: Vec<WireRelation>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireLabelInfo {
    catalog_number: Option<String>,
    label: Option<WireLabel>,
}

#[derive(Debug, Deserialize)]
struct WireLabel {
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct WireEvent {
    date: Option<String>,
    area: Option<WireArea>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireArea {
    #[serde(default, deserialize_with = "list", rename = "iso-3166-1-codes")]
    codes: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct WireRelation {
    #[serde(rename = "type")]
    kind: Option<String>,
    url: Option<WireUrl>,
}

#[derive(Debug, Deserialize)]
struct WireUrl {
    resource: Option<String>,
}

/// What links to an address, as it comes.
#[derive(Debug, Deserialize)]
pub struct WireLinked {
    #[serde(default, deserialize_with = "list")]
    relations: Vec<WireLink>,
}

#[derive(Debug, Deserialize)]
struct WireLink {
    release: Option<WireLinkedRelease>,
}

#[derive(Debug, Deserialize)]
struct WireLinkedRelease {
    id: Option<String>,
}

impl WireLinked {
    /// The first release that links to it.
    pub fn release(&self) -> Option<ReleaseId> {
        let mut releases = self.relations.iter().filter_map(|link| link.release.as_ref());
        releases.find_map(|release| release.id.as_deref()?.parse().ok())
    }
}

/// The releases that have a recording, as they come.
#[derive(Debug, Deserialize)]
pub struct WireReleasesOf {
    #[serde(default, deserialize_with = "list")]
    releases: Vec<WireFound>,
}

#[derive(Debug, Deserialize)]
struct WireFound {
    id: Option<String>,
    status: Option<String>,
    date: Option<String>,
}

impl WireReleasesOf {
    /// Official ones first, and of these the earliest; those whose date is not known last.
    pub fn releases(self) -> Vec<ReleaseId> {
        let mut found: Vec<_> = self
            .releases
            .into_iter()
            .filter_map(|release| {
                let is_official = release.status.as_deref() == Some("Official");
                let date = date(release.date.as_deref());
                let id: ReleaseId = release.id.as_deref()?.parse().ok()?;
                Some((!is_official, date.is_none(), date, id))
            })
            .collect();
        found.sort();
        found.into_iter().map(|(.., id)| id).collect()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireMedium {
    #[serde(default, deserialize_with = "number")]
    position: Option<u64>,
    format: Option<String>,
    title: Option<String>,
    #[serde(default, deserialize_with = "number")]
    track_count: Option<u64>,
    pregap: Option<WireTrack>,
    #[serde(default, deserialize_with = "list")]
    tracks: Vec<WireTrack>,
    #[serde(default, deserialize_with = "list")]
    data_tracks: Vec<WireTrack>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireTrack {
    #[serde(default, deserialize_with = "number")]
    position: Option<u64>,
    number: Option<String>,
    title: Option<String>,
    #[serde(default, deserialize_with = "number")]
    length: Option<u64>,
    #[serde(default, deserialize_with = "list")]
    artist_credit: Vec<WireCredit>,
    recording: WireRecording,
}

/// A recording as it comes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WireRecording {
    id: String,
    #[serde(default, deserialize_with = "text")]
    title: String,
    #[serde(default, deserialize_with = "number")]
    length: Option<u64>,
    #[serde(default, deserialize_with = "list")]
    artist_credit: Vec<WireCredit>,
    #[serde(default, deserialize_with = "list")]
    isrcs: Vec<String>,
    video: Option<bool>,
    disambiguation: Option<String>,
    first_release_date: Option<String>,
}

/// The credits, and how they read together.
fn credits(wire: Vec<WireCredit>) -> (Vec<Credit>, String) {
    let mut joined = String::new();
    let mut credits = Vec::with_capacity(wire.len());
    for WireCredit { name, joinphrase, artist } in wire {
        let (artist, own_name) = artist.map_or((None, None), |artist| (artist.id, artist.name));
        let name = said(name).or(own_name).unwrap_or_default();
        joined.push_str(&name);
        joined.push_str(&joinphrase);
        credits.push(Credit { name, artist: maybe_id(artist.as_deref()), join: joinphrase });
    }
    (credits, joined)
}

fn small(number: Option<u64>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

/// The number in `https://www.discogs.com/release/249504-Rick-Astley`.
fn discogs_number(relations: &[WireRelation], what: &str) -> Option<u64> {
    let discogs = relations.iter().filter(|relation| relation.kind.as_deref() == Some("discogs"));
    discogs.filter_map(|relation| relation.url.as_ref()?.resource.as_deref()).find_map(|address| {
        let (_, rest) = address.split_once(what)?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok().filter(|number| *number > 0)
    })
}

impl TryFrom<WireRecording> for Recording {
    type Error = AnswerError;

    fn try_from(wire: WireRecording) -> Result<Self, AnswerError> {
        let (credits, artist) = credits(wire.artist_credit);
        Ok(Self {
            id: id("the recording's id", &wire.id)?,
            title: wire.title,
            artist,
            credits,
            duration_ms: wire.length.filter(|ms| *ms > 0),
            isrcs: wire.isrcs,
            is_video: wire.video.unwrap_or(false),
            disambiguation: wire.disambiguation.unwrap_or_default(),
            first_release: date(wire.first_release_date.as_deref()),
        })
    }
}

impl TryFrom<WireRelease> for Release {
    type Error = AnswerError;

    fn try_from(wire: WireRelease) -> Result<Self, AnswerError> {
        let release = id("the release's id", &wire.id)?;
        let (credits, artist) = credits(wire.artist_credit);
        let group = wire.release_group;
        let master = group.as_ref().and_then(|group| discogs_number(&group.relations, "/master/"));
        let (group, primary_type, secondary_types) = match group {
            Some(group) => (maybe_id(group.id.as_deref()), said(group.primary_type), group.secondary_types),
            None => (None, None, Vec::new()),
        };
        // Unknown parts sort first, so among the events of one year the vaguest counts.
        let first_event = wire.release_events.iter().filter_map(|event| date(event.date.as_deref())).min();
        let code = wire.release_events.iter().find_map(|event| event.area.as_ref()?.codes.first());
        let mut media = Vec::with_capacity(wire.media.len());
        for (at, medium) in (1..).zip(wire.media) {
            media.push(read_medium(release, at, &artist, medium)?);
        }
        media.sort_by_key(|medium| medium.position);
        Ok(Self {
            id: release,
            group,
            title: wire.title,
            artist,
            credits,
            labels: wire
                .label_info
                .into_iter()
                .map(|info| ReleaseLabel {
                    name: said(info.label.and_then(|label| label.name)),
                    catalog_number: said(info.catalog_number),
                })
                .filter(|label| label.name.is_some() || label.catalog_number.is_some())
                .collect(),
            date: date(wire.date.as_deref()).or(first_event),
            country: said(wire.country).or_else(|| code.cloned()),
            barcode: said(wire.barcode),
            status: said(wire.status),
            primary_type,
            secondary_types,
            disambiguation: wire.disambiguation.unwrap_or_default(),
            media,
            discogs_release_id: discogs_number(&wire.relations, "/release/"),
            discogs_master_id: master,
        })
    }
}

fn read_medium(release: ReleaseId, at: u32, artist: &str, wire: WireMedium) -> Result<Medium, AnswerError> {
    let position = small(wire.position).unwrap_or(at);
    let count = small(wire.track_count).or_else(|| u32::try_from(wire.tracks.len()).ok()).unwrap_or_default();
    let kinds = wire.pregap.into_iter().map(|track| (TrackKind::Pregap, track));
    let kinds = kinds.chain(wire.tracks.into_iter().map(|track| (TrackKind::Normal, track)));
    let kinds = kinds.chain(wire.data_tracks.into_iter().map(|track| (TrackKind::Data, track)));
    let mut tracks = Vec::new();
    let mut next = 1;
    for (kind, track) in kinds {
        let place = if kind == TrackKind::Pregap { 0 } else { next };
        let place = small(track.position).unwrap_or(place);
        next = place.saturating_add(1);
        let recording = Recording::try_from(track.recording)?;
        let (_, own_artist) = credits(track.artist_credit);
        let artists = [own_artist, recording.artist, artist.to_owned()];
        tracks.push(TrackInRelease {
            release,
            medium: position,
            position: place,
            number: said(track.number).unwrap_or_else(|| place.to_string()),
            kind,
            recording: recording.id,
            duration_ms: track.length.filter(|ms| *ms > 0).or(recording.duration_ms),
            title: said(track.title).unwrap_or(recording.title),
            artist: artists.into_iter().find(|artist| !artist.is_empty()).unwrap_or_default(),
            isrcs: recording.isrcs,
            is_video: recording.is_video,
        });
    }
    Ok(Medium {
        position,
        format: said(wire.format),
        title: wire.title.unwrap_or_default(),
        track_count: count,
        tracks,
    })
}

#[cfg(test)]
#[path = "musicbrainz_tests.rs"]
mod tests;
