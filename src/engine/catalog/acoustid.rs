//! AcoustID's web service, version 2: the answer to a lookup.

use serde::Deserialize;

use super::wire::{AnswerError, cut, id, list, maybe_id, number, said, text};
use crate::model::catalog::{AcoustIdRecording, AcoustIdResult};

/// The fingerprint is none that AcoustID can read: asking again will not help.
pub const INVALID_FINGERPRINT: i64 = 3;
/// The key is not an application's.
pub const INVALID_KEY: i64 = 4;
/// Something broke over there.
pub const INTERNAL_ERROR: i64 = 5;
/// The duration is out of range: asking again will not help.
pub const INVALID_DURATION: i64 = 8;
/// The key may not do this.
pub const NOT_ALLOWED: i64 = 12;
/// Not now.
pub const UNAVAILABLE: i64 = 13;
/// Too fast.
pub const TOO_MANY: i64 = 14;

/// A lookup's answer as it comes.
#[derive(Debug, Deserialize)]
pub struct WireLookup {
    status: String,
    error: Option<WireError>,
    #[serde(default, deserialize_with = "list")]
    results: Vec<WireResult>,
}

#[derive(Debug, Deserialize)]
struct WireError {
    #[serde(default)]
    code: i64,
    #[serde(default, deserialize_with = "text")]
    message: String,
}

#[derive(Debug, Deserialize)]
struct WireResult {
    id: String,
    score: Option<f64>,
    #[serde(default, deserialize_with = "list")]
    recordings: Vec<WireRecording>,
}

#[derive(Debug, Deserialize)]
struct WireRecording {
    id: String,
    title: Option<String>,
    #[serde(default, deserialize_with = "number")]
    duration: Option<u64>,
    #[serde(default, deserialize_with = "number")]
    sources: Option<u64>,
    #[serde(default, deserialize_with = "list")]
    artists: Vec<WireArtist>,
    #[serde(default, deserialize_with = "list")]
    releasegroups: Vec<WireGroup>,
}

#[derive(Debug, Deserialize)]
struct WireArtist {
    name: Option<String>,
    #[serde(default, deserialize_with = "text")]
    joinphrase: String,
}

#[derive(Debug, Deserialize)]
struct WireGroup {
    id: Option<String>,
}

/// What a lookup found, best score first; ties by id.
///
/// # Errors
/// The service's own error, or an answer that is none.
pub fn results(wire: WireLookup) -> Result<Vec<AcoustIdResult>, AnswerError> {
    if let Some(WireError { code, message }) = wire.error {
        return Err(AnswerError::Service { code, message: cut(&message) });
    }
    if wire.status != "ok" {
        return Err(AnswerError::Status(cut(&wire.status)));
    }
    let mut results = Vec::with_capacity(wire.results.len());
    for result in wire.results {
        let recordings = result.recordings.into_iter().map(recording).collect::<Result<_, _>>()?;
        let score = result.score.filter(|score| score.is_finite()).unwrap_or(0.0).clamp(0.0, 1.0);
        results.push(AcoustIdResult { id: id("the AcoustID", &result.id)?, score, recordings });
    }
    results.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
    Ok(results)
}

fn recording(wire: WireRecording) -> Result<AcoustIdRecording, AnswerError> {
    let mut artist = String::new();
    let last = wire.artists.len().saturating_sub(1);
    for (at, WireArtist { name, joinphrase }) in wire.artists.iter().enumerate() {
        artist.push_str(name.as_deref().unwrap_or_default());
        // Old links have several artists and nothing between them.
        artist.push_str(if joinphrase.is_empty() && at < last { ", " } else { joinphrase });
    }
    Ok(AcoustIdRecording {
        id: id("the recording's id", &wire.id)?,
        title: said(wire.title),
        artist,
        duration_ms: wire.duration.filter(|s| *s > 0).and_then(|s| s.checked_mul(1_000)),
        sources: wire.sources.map_or(0, |sources| u32::try_from(sources).unwrap_or(u32::MAX)),
        groups: wire.releasegroups.iter().filter_map(|group| maybe_id(group.id.as_deref())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<AcoustIdResult>, AnswerError> {
        results(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn the_documented_answer_reads() {
        let real = include_str!("../../../tests/fixtures/musicbrainz/acoustid_lookup_recordings_releasegroups.json");
        let found = read(real).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].id.to_string(), "9ff43b6a-4f16-427c-93c2-92307ca505e0");
        let recording = &found[0].recordings[0];
        assert_eq!((recording.artist.as_str(), recording.duration_ms), ("M83", Some(639_000)));
        assert_eq!(recording.groups.len(), 1);
    }

    #[test]
    fn one_sound_may_have_several_ids_and_an_id_no_recording() {
        let found = read(
            r#"{"status":"ok","results":[
                {"id":"00000000-0000-4000-8000-000000000002","score":0.5},
                {"id":"00000000-0000-4000-8000-000000000003","score":0.9,"recordings":null},
                {"id":"00000000-0000-4000-8000-000000000001","score":0.9,"recordings":[
                    {"id":"00000000-0000-4000-8000-00000000000a"},
                    {"id":"00000000-0000-4000-8000-00000000000b","duration":61.4,"artists":[{"name":"A"},{"name":"B"}]}]}
            ]}"#,
        )
        .unwrap();
        let ids: Vec<u128> = found.iter().map(|result| result.id.0 & 0xf).collect();
        assert_eq!(ids, [1, 3, 2], "best first, ties by id");
        assert_eq!(found[0].recordings[0].duration_ms, None);
        assert_eq!(
            (found[0].recordings[1].duration_ms, found[0].recordings[1].artist.as_str()),
            (Some(61_000), "A, B")
        );
    }

    #[test]
    fn errors_keep_their_number() {
        let told = read(r#"{"status":"error","error":{"code":4,"message":"invalid API key"}}"#).unwrap_err();
        assert_eq!(told.to_string(), "the service answers with error 4: invalid API key");
        assert_eq!(read(r#"{"status":"busy"}"#), Err(AnswerError::Status("busy".to_owned())));
        assert!(matches!(read(r#"{"status":"ok","results":[{"id":"x"}]}"#), Err(AnswerError::Id { .. })));
    }
}
