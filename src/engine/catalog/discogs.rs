//! Discogs: a release by number.
//!
//! Traps that are settled here: `The` stands behind the name, namesakes are numbered `(2)`, an unknown day is `00`, an
//! unknown year `0`, headings stand among the tracks, and a track of several parts hides them one level down.

use serde::Deserialize;

use super::matching::same_text;
use super::wire::{date, list, number, said, text};
use crate::model::catalog::{DiscogsRelease, DiscogsTrack, PartialDate, Release, ReleaseLabel};

/// A release as it comes.
#[derive(Debug, Deserialize)]
pub struct WireRelease {
    id: u64,
    title: String,
    #[serde(default, deserialize_with = "number")]
    master_id: Option<u64>,
    #[serde(default, deserialize_with = "list")]
    artists: Vec<WireArtist>,
    #[serde(default, deserialize_with = "list")]
    labels: Vec<WireLabel>,
    released: Option<String>,
    #[serde(default, deserialize_with = "number")]
    year: Option<u64>,
    country: Option<String>,
    #[serde(default, deserialize_with = "list")]
    tracklist: Vec<WireTrack>,
}

#[derive(Debug, Deserialize)]
struct WireArtist {
    #[serde(default, deserialize_with = "text")]
    name: String,
    #[serde(default, deserialize_with = "text")]
    anv: String,
    #[serde(default, deserialize_with = "text")]
    join: String,
}

#[derive(Debug, Deserialize)]
struct WireLabel {
    name: Option<String>,
    catno: Option<String>,
}

#[derive(Debug, Deserialize)]
struct WireTrack {
    #[serde(default, deserialize_with = "text")]
    position: String,
    #[serde(default, deserialize_with = "text")]
    title: String,
    #[serde(default, deserialize_with = "text")]
    duration: String,
    #[serde(default, deserialize_with = "text")]
    type_: String,
    #[serde(default, deserialize_with = "list")]
    sub_tracks: Vec<WireSubTrack>,
}

#[derive(Debug, Deserialize)]
struct WireSubTrack {
    #[serde(default, deserialize_with = "text")]
    position: String,
    #[serde(default, deserialize_with = "text")]
    title: String,
    #[serde(default, deserialize_with = "text")]
    duration: String,
}

/// A name as people write it: `Persuader, The (2)` is `The Persuader`.
pub fn plain_name(name: &str) -> String {
    let name = name.trim();
    let numbered = name.strip_suffix(')').and_then(|rest| rest.rsplit_once(" ("));
    let name = match numbered {
        Some((before, digits)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => before,
        _ => name,
    };
    match name.strip_suffix(", The") {
        Some(rest) => format!("The {rest}"),
        None => name.to_owned(),
    }
}

/// `1:02:03` or `4:45` in milliseconds.
fn duration_ms(text: &str) -> Option<u64> {
    let mut seconds = 0_u64;
    let parts: Vec<&str> = text.trim().splitn(4, ':').collect();
    if !(2..=3).contains(&parts.len()) {
        return None;
    }
    for part in parts {
        seconds = seconds.checked_mul(60)?.checked_add(part.parse::<u16>().ok()?.into())?;
    }
    seconds.checked_mul(1_000).filter(|ms| *ms > 0)
}

impl From<WireRelease> for DiscogsRelease {
    fn from(wire: WireRelease) -> Self {
        let mut artist = String::new();
        let last = wire.artists.len().saturating_sub(1);
        for (at, credit) in wire.artists.iter().enumerate() {
            artist.push_str(&plain_name(if credit.anv.is_empty() { &credit.name } else { &credit.anv }));
            if at < last {
                artist.push_str(&match credit.join.trim() {
                    "" | "," => ", ".to_owned(),
                    join => format!(" {join} "),
                });
            }
        }
        let year = wire.year.and_then(|year| u16::try_from(year).ok()).filter(|year| (1..=9_999).contains(year));
        let year = year.map(|year| PartialDate { year: Some(year), month: None, day: None });
        let mut tracks = Vec::new();
        for track in wire.tracklist {
            if track.type_ == "heading" {
                continue;
            }
            if track.type_ == "index" && !track.sub_tracks.is_empty() {
                tracks.extend(track.sub_tracks.into_iter().map(|part| DiscogsTrack {
                    position: part.position,
                    duration_ms: duration_ms(&part.duration),
                    title: part.title,
                }));
                continue;
            }
            tracks.push(DiscogsTrack {
                position: track.position,
                duration_ms: duration_ms(&track.duration),
                title: track.title,
            });
        }
        Self {
            id: wire.id,
            master: wire.master_id.filter(|number| *number > 0),
            title: wire.title,
            artist,
            labels: wire
                .labels
                .into_iter()
                .map(|label| ReleaseLabel {
                    name: said(label.name).map(|name| plain_name(&name)),
                    catalog_number: said(label.catno).filter(|number| !number.eq_ignore_ascii_case("none")),
                })
                .collect(),
            date: date(wire.released.as_deref()).or(year),
            country: said(wire.country),
            tracks,
        }
    }
}

/// Whether MusicBrainz lacks the duration of a track that Discogs may know.
pub fn lacks_durations(release: &Release) -> bool {
    release.discogs_release_id.is_some()
        && release.tracks().any(|track| track.is_expected() && track.duration_ms.is_none())
}

/// Takes over the durations that MusicBrainz does not know from the release it links to. Places are counted differently
/// there, so both must list the same titles in the same order; otherwise nothing is taken.
pub fn fill_durations(release: &mut Release, linked: &DiscogsRelease) {
    let mut tracks: Vec<_> = release.media.iter_mut().flat_map(|medium| &mut medium.tracks).collect();
    tracks.retain(|track| track.is_expected());
    let is_alike = tracks.len() == linked.tracks.len()
        && tracks.iter().zip(&linked.tracks).all(|(ours, theirs)| same_text(&ours.title, &theirs.title));
    if is_alike {
        for (ours, theirs) in tracks.into_iter().zip(&linked.tracks) {
            ours.duration_ms = ours.duration_ms.or(theirs.duration_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> DiscogsRelease {
        serde_json::from_str::<WireRelease>(json).unwrap().into()
    }

    #[test]
    fn a_real_release_reads() {
        let release = read(include_str!("../../../tests/fixtures/musicbrainz/discogs_release_1.json"));
        assert_eq!((release.id, release.master, release.artist.as_str()), (1, Some(5427), "The Persuader"));
        assert_eq!(release.date.unwrap().to_string(), "1999-03", "the day is 00");
        let label = ReleaseLabel { name: Some("Svek".to_owned()), catalog_number: Some("SK032".to_owned()) };
        assert_eq!(release.labels, [label]);
        assert_eq!(release.tracks.len(), 6);
        assert_eq!((release.tracks[0].position.as_str(), release.tracks[0].duration_ms), ("A", Some(285_000)));
    }

    #[test]
    fn headings_parts_and_namesakes() {
        let release = read(
            r#"{"id": 2, "title": "T", "master_id": 0, "year": 0, "released": "",
                "artists": [{"name": "Nirvana (2)", "join": "&"}, {"name": "X", "anv": "Ex"}],
                "labels": [{"name": "Antidote (4)", "catno": "none"}],
                "tracklist": [
                  {"type_": "heading", "title": "Side A"},
                  {"type_": "track", "position": "A1", "title": "One", "duration": ""},
                  {"type_": "index", "title": "Suite", "sub_tracks": [
                    {"position": "A2.a", "title": "I", "duration": "1:00:01"}, {"position": "A2.b", "title": "II"}]}]}"#,
        );
        assert_eq!((release.master, release.date), (None, None));
        assert_eq!(release.artist, "Nirvana & Ex");
        assert_eq!(release.labels, [ReleaseLabel { name: Some("Antidote".to_owned()), catalog_number: None }]);
        let places: Vec<_> = release.tracks.iter().map(|t| (t.position.as_str(), t.duration_ms)).collect();
        assert_eq!(places, [("A1", None), ("A2.a", Some(3_601_000)), ("A2.b", None)]);
        assert_eq!(plain_name("Godspeed (You) Black"), "Godspeed (You) Black");
        assert_eq!(read(r#"{"id": 3, "title": "", "tracklist": null}"#).tracks, []);
    }
}
