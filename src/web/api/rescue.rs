//! Rescues, and whether this node gives as much as it takes.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::transfers::transfer_id;
use super::{Answer, Done, Problem};
use crate::model::health::uuid_text;
use crate::model::id::{BatchId, TransferId};
use crate::model::mesh::SourceView;
use crate::model::rescue::{Liar, Moved, Origin, RescueAnswer, RescueRequest, RescueView};
use crate::model::swarm::Source;
use crate::model::transfer::{Direction, Transfer};
use crate::web::routes::{Route, route};
use crate::web::server::Web;
use crate::web::settings::Role::{Readonly, Readwrite};
use crate::web::show::iso_ms;

type Here = State<Arc<Web>>;

/// The windows by name.
const WINDOWS: [&str; 3] = ["24h", "7d", "30d"];

pub(super) fn table() -> Vec<Route> {
    vec![
        route("GET", "/api/rescue/jobs", Readonly, "Downloads that mesh peers help or helped, newest first", jobs),
        route("GET", "/api/rescue/jobs/{id}", Readonly, "One of them; the id is the download's", one),
        route("DELETE", "/api/rescue/jobs/{id}", Readwrite, "End a rescue; the download goes on without", cancel),
        route("PUT", "/api/downloads/{id}/recording", Readwrite, "Say which recording a download is of", know),
        route("GET", "/api/mesh/traffic-stats", Readonly, "What moved, by network, and what follows from it", traffic),
    ]
}

fn mismatch() -> Problem {
    Problem(StatusCode::INTERNAL_SERVER_ERROR, "the program gave an answer of the wrong kind".to_owned())
}

fn source(view: &SourceView) -> Value {
    let (peer, user) = match &view.source {
        Source::Mesh(peer) => (Some(peer.to_string()), None),
        Source::Soulseek(user) => (None, Some(user)),
    };
    json!({
        "peer": peer, "user": user, "network": view.source.network(), "bytes": view.bytes,
        "speed": view.rate, "state": view.state, "bad_pieces": view.bad_pieces, "dropped": view.dropped,
    })
}

/// A rescue as the API shows it.
pub(crate) fn view(view: &RescueView) -> Value {
    let job = &view.job;
    let fetched = job.content.0 != [0; 32];
    json!({
        "rescue_job_id": job.transfer.to_string(), "original_transfer_id": job.transfer.to_string(),
        "user": job.user, "filename": job.path.as_str(), "recording_id": job.recording.map(uuid_text),
        "state": job.state.name(), "reason": job.reason.name(), "manner": job.manner.name(),
        "content_hash": fetched.then(|| job.content.to_string()), "size": job.size, "vouched_by": job.vouched_by,
        "activated_at": iso_ms(job.activated_at), "ended_at": job.ended_at.map(iso_ms), "told": job.told,
        "overlay_bytes": job.overlay_bytes, "soulseek_bytes": job.soulseek_bytes, "bytes_done": view.bytes,
        "overlay_speed": view.overlay_speed, "soulseek_speed": view.soulseek_speed,
        "throttled_to": view.throttled_to, "yields": view.yields, "waits_for": view.waits,
        "guardrails_hit": job.hits.iter().map(|rail| rail.key()).collect::<Vec<_>>(),
        "missing_ranges": view.missing, "overlay_peers": view.sources.iter().map(source).collect::<Vec<_>>(),
        "local_path": job.local_path, "unwanted": job.unwanted,
        "origin": view.origin.map(Origin::name), "not_the_file": job.liars.iter().map(liar).collect::<Vec<_>>(),
    })
}

/// Who offered or sent what is not the file.
fn liar(liar: &Liar) -> Value {
    json!({ "peer": liar.peer.to_string(), "content_hash": liar.content.to_string(), "why": liar.why })
}

/// The rescues of these rows, by their download; none where they cannot be had: rows are worth more than what stands
/// beside them.
pub(crate) async fn by_transfer(web: &Web, rows: &[Transfer]) -> BTreeMap<TransferId, RescueView> {
    let downloads = rows.iter().filter(|row| row.direction == Direction::Download);
    let ids: Vec<TransferId> = downloads.map(|row| row.id).collect();
    if ids.is_empty() {
        return BTreeMap::new();
    }
    match web.desk.rescue(RescueRequest::Of(ids)).await {
        Ok(RescueAnswer::Jobs(jobs)) => jobs.into_iter().map(|view| (view.job.transfer, view)).collect(),
        Ok(_) | Err(_) => BTreeMap::new(),
    }
}

async fn jobs(State(web): Here) -> Answer {
    match web.desk.rescue(RescueRequest::Jobs).await? {
        RescueAnswer::Jobs(jobs) => Ok(Json(json!(jobs.iter().map(view).collect::<Vec<_>>()))),
        _ => Err(mismatch()),
    }
}

async fn one(State(web): Here, Path(id): Path<String>) -> Answer {
    match web.desk.rescue(RescueRequest::Job(transfer_id(&id)?)).await? {
        RescueAnswer::Jobs(jobs) => Ok(Json(jobs.first().map(view).ok_or_else(mismatch)?)),
        _ => Err(mismatch()),
    }
}

async fn cancel(State(web): Here, Path(id): Path<String>) -> Done {
    web.desk.rescue(RescueRequest::Cancel(transfer_id(&id)?)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Known {
    recording: String,
}

/// A MusicBrainz ID.
pub(super) fn recording(text: &str) -> Result<u128, Problem> {
    // Ids of this form are read in one place.
    let id = text.parse::<BatchId>();
    id.map(|id| id.0).map_err(|_| Problem(StatusCode::BAD_REQUEST, "the recording is not a UUID".to_owned()))
}

async fn know(State(web): Here, Path(id): Path<String>, Json(known): Json<Known>) -> Done {
    let recording = recording(&known.recording)?;
    let id = transfer_id(&id)?;
    web.desk.transfer(Direction::Download, id).await?;
    web.desk.rescue(RescueRequest::Know(vec![(id, recording)])).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn moved(moved: &Moved) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let ratio = moved.ratio_milli().map(|milli| milli as f64 / 1_000.0);
    json!({
        "overlay_upload_bytes": moved.overlay_up, "overlay_download_bytes": moved.overlay_down,
        "soulseek_upload_bytes": moved.soulseek_up, "soulseek_download_bytes": moved.soulseek_down,
        "rescue_download_bytes": moved.rescue_down, "upload_bytes": moved.up(), "download_bytes": moved.down(),
        "ratio": ratio,
    })
}

#[derive(Deserialize)]
struct Window {
    window: Option<String>,
}

async fn traffic(State(web): Here, Query(wanted): Query<Window>) -> Answer {
    let RescueAnswer::Traffic(view) = web.desk.rescue(RescueRequest::Traffic).await? else {
        return Err(mismatch());
    };
    let wanted: Vec<&str> = match &wanted.window {
        Some(window) => window.split(',').collect(),
        None => WINDOWS.into(),
    };
    if let Some(unknown) = wanted.iter().find(|window| !WINDOWS.contains(window)) {
        let why = format!("`{unknown}` is no window; there are {}", WINDOWS.join(", "));
        return Err(Problem(StatusCode::BAD_REQUEST, why));
    }
    let windows: serde_json::Map<String, Value> = WINDOWS
        .iter()
        .zip(&view.windows)
        .filter(|(name, _)| wanted.contains(name))
        .map(|(name, window)| ((*name).to_owned(), moved(window)))
        .collect();
    let violations = view.violations.iter().map(
        |(violation, action)| json!({ "type": violation.name(), "message": violation.message(), "action": action }),
    );
    Ok(Json(json!({
        "enabled": view.enabled, "windows": windows, "is_healthy": view.violations.is_empty(),
        "violations": violations.collect::<Vec<_>>(), "grace_bytes": view.grace,
        "rescue_bytes_left": view.rescue_left.0, "rescue_bytes_per_day": view.rescue_left.1,
        "downloads_throttled": view.throttled, "downloads_held_to": view.held_to,
         "downloads_paused": view.paused, "uploads_refused": view.refusing,
    })))
}
