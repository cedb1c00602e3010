//! The mesh: how it stands, its peers, and files fetched from it.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Done, Problem, shape};
use crate::model::gossip::{Described, DescribedTrack, HashEntry, Mode, Offer};
use crate::model::health::uuid_text;
use crate::model::id::{ContentHash, PeerId, TransferId, Username};
use crate::model::limits;
use crate::model::mesh::{
    Announced, AnnouncementView, FetchRequest, FetchState, FetchView, LookView, MeetingView, MeshAnswer, MeshRequest,
    Origin, PeerView, RecordingRequest,
};
use crate::model::music::WireText;
use crate::model::swarm::Source;
use crate::model::variant::Codec;
use crate::web::routes::{Route, route};
use crate::web::server::Web;
use crate::web::settings::Role::{Readonly, Readwrite};
use crate::web::show::iso_ms;

type Here = State<Arc<Web>>;

pub(super) fn table() -> Vec<Route> {
    vec![
        route("GET", "/api/mesh", Readonly, "The mesh at a glance", status),
        route("GET", "/api/mesh/peers", Readonly, "Mesh peers, named and connected", peers),
        route("GET", "/api/mesh/meeting", Readonly, "How mesh nodes meet: by the DHT and on the own network", meeting),
        route("GET", "/api/mesh/announcements", Readonly, "What is announced in the DHT, or would be", announcements),
        route("GET", "/api/mesh/fetches", Readonly, "Files fetched from the mesh, newest first", fetches),
        route("POST", "/api/mesh/fetches", Readwrite, "Fetch a file by its content hash and size", start),
        route(
            "POST",
            "/api/mesh/recordings/{id}/fetch",
            Readwrite,
            "Fetch the best copy of a recording",
            start_recording,
        ),
        route("GET", "/api/mesh/releases/{id}", Readonly, "Ask peers what they have of a release", release),
        route("GET", "/api/mesh/hashes/{key}", Readonly, "What peers say is behind a flac key", hashes),
        route("GET", "/api/mesh/recordings/{id}/offers", Readonly, "Ask peers which copies they offer", offers),
        route("GET", "/api/mesh/fetches/{hash}", Readonly, "One file fetched from the mesh", fetch),
        route(
            "DELETE",
            "/api/mesh/fetches/{hash}",
            Readwrite,
            "Stop and forget a fetch; a finished file stays",
            forget,
        ),
    ]
}

fn bad(sentence: String) -> Problem {
    Problem(StatusCode::BAD_REQUEST, sentence)
}

fn content(text: &str) -> Result<ContentHash, Problem> {
    text.parse().map_err(|wrong| bad(format!("`{text}` is no content hash: {wrong}")))
}

fn mismatch() -> Problem {
    Problem(StatusCode::INTERNAL_SERVER_ERROR, "the program gave an answer of the wrong kind".to_owned())
}

async fn status(State(web): Here) -> Json<Value> {
    Json(shape::mesh(&web.desk.snapshot().mesh))
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Lan => "mdns",
        Origin::Dht => "dht",
    }
}

fn peer(p: &PeerView) -> Value {
    json!({
        "id": p.id.to_string(), "address": p.address, "named": p.named, "connected": p.connected,
        "dialled": p.dialled, "found_by": p.origin.map(origin), "software": p.software, "claimed_username": p.username, "features": p.features,
        "rtt_us": p.rtt_us, "problem": p.problem,
    })
}

async fn peers(State(web): Here) -> Answer {
    match web.desk.mesh(MeshRequest::Peers).await? {
        MeshAnswer::Peers(peers) => Ok(Json(json!(peers.iter().map(peer).collect::<Vec<_>>()))),
        _ => Err(mismatch()),
    }
}

async fn met(web: &Web) -> Result<MeetingView, Problem> {
    match web.desk.mesh(MeshRequest::Meeting).await? {
        MeshAnswer::Meeting(view) => Ok(*view),
        _ => Err(mismatch()),
    }
}

async fn meeting(State(web): Here) -> Answer {
    let view = met(&web).await?;
    let look = |look: &LookView| {
        json!({
            "key": look.key.to_string(), "at": iso_ms(look.at), "found": look.found, "taken": look.taken,
            "problem": look.problem,
        })
    };
    Ok(Json(json!({
        "enabled": view.mesh,
        "mdns": { "enabled": view.mdns, "problem": view.mdns_problem },
        "dht": {
            "enabled": view.dht, "announce_content": view.announce_content, "problem": view.problem,
            "min_neighbors": view.neighbours_min, "max_neighbors": view.neighbours_max,
            "lookups": view.looks.iter().map(look).collect::<Vec<_>>(),
        },
        "neighbors": view.neighbours, "candidates": view.candidates,
        "reachable": view.reachable, "reachability": view.reach,
    })))
}

async fn announcements(State(web): Here) -> Answer {
    let view = met(&web).await?;
    let announcement = |a: &AnnouncementView| {
        let (kind, mbid, title) = match &a.what {
            Announced::Place(name) => ("rendezvous", None, name),
            Announced::Release(id, title) => ("release", Some(uuid_text(*id)), title),
            Announced::Recording(id, title) => ("recording", Some(uuid_text(*id)), title),
        };
        json!({
            "key": a.key.to_string(), "kind": kind, "mbid": mbid, "title": title, "allowed": a.wanted,
            "announced_at": shape::time(a.announced_at),
        })
    };
    Ok(Json(json!(view.announcements.iter().map(announcement).collect::<Vec<_>>())))
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn thousandths(value: u64) -> f64 {
    value as f64 / 1_000.0
}

fn fetched(view: &FetchView) -> Value {
    let fetch = &view.fetch;
    let (state, local_path, error) = match &fetch.state {
        FetchState::Running => ("running", None, None),
        FetchState::Done(path) => ("done", Some(path), None),
        FetchState::Failed(why) => ("failed", None, Some(why)),
    };
    json!({
        "content_hash": fetch.content.to_string(), "size": fetch.size, "name": fetch.name, "folder": fetch.folder,
        "state": state, "local_path": local_path, "error": error, "bytes_done": view.bytes, "pieces_twice": view.twice,
        "waits_for": view.waits, "asked_at": iso_ms(fetch.asked_at), "ended_at": shape::time(fetch.ended_at),
        "sources": view.sources.iter().map(|s| json!({
            "peer": match &s.source { Source::Mesh(peer) => Some(peer.to_string()), Source::Soulseek(_) => None },
            "user": match &s.source { Source::Mesh(_) => None, Source::Soulseek(user) => Some(user) },
            "network": s.source.network(), "bytes": s.bytes, "bad_pieces": s.bad_pieces, "failed": s.failed,
            "dropped": s.dropped, "cost": s.cost_milli.map(thousandths), "rate_bytes_per_s": s.rate, "rtt_us": s.rtt_us,
            "reputation": thousandths(s.reputation_milli), "requests": s.requests, "state": s.state,
        })).collect::<Vec<_>>(),
    })
}

async fn fetches(State(web): Here) -> Answer {
    match web.desk.mesh(MeshRequest::Fetches).await? {
        MeshAnswer::Fetches(found) => Ok(Json(json!(found.iter().map(fetched).collect::<Vec<_>>()))),
        _ => Err(mismatch()),
    }
}

async fn fetch(State(web): Here, Path(hash): Path<String>) -> Answer {
    match web.desk.mesh(MeshRequest::Fetch(content(&hash)?)).await? {
        MeshAnswer::Fetches(found) => found.first().map(|view| Json(fetched(view))).ok_or_else(mismatch),
        _ => Err(mismatch()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    content_hash: String,
    size: u64,
    #[serde(default)]
    name: String,
    #[serde(default)]
    folder: String,
    #[serde(default)]
    soulseek: Vec<WantedOf>,
    mb_recording_id: Option<String>,
}

/// Who shares the same bytes on Soulseek.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedOf {
    username: String,
    filename: String,
}

async fn start(State(web): Here, body: Bytes) -> Result<Response, Problem> {
    let wanted: Wanted =
        serde_json::from_slice(&body).map_err(|problem| bad(format!("the body is not understood: {problem}")))?;
    let content = content(&wanted.content_hash)?;
    if wanted.soulseek.len() > limits::FETCH_USERS {
        return Err(bad(format!("at most {} Soulseek users may be named", limits::FETCH_USERS)));
    }
    let mut soulseek = Vec::new();
    for WantedOf { username, filename } in wanted.soulseek {
        if username.is_empty() || username.len() > limits::USERNAME_LEN {
            return Err(bad(format!("`{username}` is no user name")));
        }
        if filename.is_empty() || filename.len() > limits::PATH_LEN {
            return Err(bad(format!("`{filename}` is no file name")));
        }
        soulseek.push((Username::new(username), WireText::from(filename)));
    }
    let recording = wanted.mb_recording_id.as_deref().map(mbid).transpose()?;
    let Wanted { size, name, folder, .. } = wanted;
    let request = FetchRequest { content, size, name, folder, soulseek, recording };
    match web.desk.mesh(MeshRequest::Start(request)).await? {
        MeshAnswer::Done => {
            Ok((StatusCode::ACCEPTED, Json(json!({ "content_hash": content.to_string() }))).into_response())
        }
        _ => Err(mismatch()),
    }
}

/// A recording asked for.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WantedRecording {
    mode: Option<String>,
    name: String,
    folder: String,
}

/// The id of a recording or a release.
fn mbid(text: &str) -> Result<u128, Problem> {
    let id: Result<TransferId, _> = text.parse();
    id.map(|id| id.0).map_err(|_| bad(format!("`{text}` is no MusicBrainz id")))
}

async fn start_recording(State(web): Here, Path(id): Path<String>, body: Bytes) -> Result<Response, Problem> {
    let wanted: WantedRecording = if body.is_empty() {
        WantedRecording::default()
    } else {
        serde_json::from_slice(&body).map_err(|problem| bad(format!("the body is not understood: {problem}")))?
    };
    let known = |name: String| {
        Mode::parse(&name)
            .ok_or_else(|| bad(format!("`{name}` is no mode; there are any, canonical_master, no_transcodes")))
    };
    let mode = wanted.mode.map(known).transpose()?;
    let request = RecordingRequest {
        recording: mbid(&id)?,
        mode,
        name: wanted.name,
        folder: wanted.folder,
        even_if_here: false,
        but: Vec::new(),
    };
    match web.desk.mesh(MeshRequest::StartRecording(request)).await? {
        MeshAnswer::Chosen { content, by_hash } => {
            let told = json!({ "content_hash": content.to_string(), "by_hash": by_hash });
            Ok((StatusCode::ACCEPTED, Json(told)).into_response())
        }
        _ => Err(mismatch()),
    }
}

async fn offers(State(web): Here, Path(id): Path<String>) -> Answer {
    let shown = |offer: &Offer| {
        json!({
            "peer": offer.peer.to_string(), "mb_recording_id": uuid_text(offer.recording),
            "content_hash": offer.content.to_string(), "file_size_bytes": offer.size,
            "codec": offer.codec.name(), "bitrate_kbps": offer.bitrate_kbps,
        })
    };
    match web.desk.mesh(MeshRequest::Offers(vec![mbid(&id)?])).await? {
        MeshAnswer::Offers(found) => Ok(Json(json!(found.iter().map(shown).collect::<Vec<_>>()))),
        _ => Err(mismatch()),
    }
}

async fn release(State(web): Here, Path(id): Path<String>) -> Answer {
    let track = |t: &DescribedTrack| {
        json!({
            "track_number": t.number, "title": t.title, "mb_recording_id": t.recording.map(uuid_text),
            "file_size_bytes": t.size, "codec": t.codec.map(Codec::name), "bitrate_kbps": t.bitrate_kbps,
            "quality_score": t.quality_permille.map(|permille| f64::from(permille) / 1_000.0),
        })
    };
    let shown = |d: &Described| {
        json!({
            "peer": d.peer.to_string(), "title": d.title, "artist": d.artist, "lossless": d.lossless,
            "has_full_album": d.has_full_album, "tracks": d.tracks.iter().map(track).collect::<Vec<_>>(),
        })
    };
    match web.desk.mesh(MeshRequest::Release(mbid(&id)?)).await? {
        MeshAnswer::Releases(found) => Ok(Json(json!(found.iter().map(shown).collect::<Vec<_>>()))),
        _ => Err(mismatch()),
    }
}

async fn hashes(State(web): Here, Path(key): Path<String>) -> Answer {
    let digits = key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u64::from_str_radix(&key, 16).ok().filter(|_| digits);
    let number = number.ok_or_else(|| bad(format!("`{key}` is no flac key: 16 hexadecimal digits")))?;
    let shown = |(peer, entry): &(PeerId, HashEntry)| {
        json!({
            "peer": peer.to_string(), "content_hash": entry.content.to_string(), "file_size_bytes": entry.size,
            "head_sha256": ContentHash(entry.head_sha256).to_string(),
        })
    };
    match web.desk.mesh(MeshRequest::Hashes(number)).await? {
        MeshAnswer::Hashes(found) => Ok(Json(json!(found.iter().map(shown).collect::<Vec<_>>()))),
        _ => Err(mismatch()),
    }
}

async fn forget(State(web): Here, Path(hash): Path<String>) -> Done {
    match web.desk.mesh(MeshRequest::Forget(content(&hash)?)).await? {
        MeshAnswer::Done => Ok(StatusCode::NO_CONTENT),
        _ => Err(mismatch()),
    }
}
