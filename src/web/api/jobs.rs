//! Jobs: what is being brought home, and how far it is (SPEC-FACTS 18).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Problem, shape};
use crate::model::id::RecordingId;
use crate::model::job::{Constraints, Job, JobAnswer, JobId, JobRequest, JobState, JobTrack, JobView, NewJob};
use crate::model::variant::Codec;
use crate::web::routes::{Route, route};
use crate::web::server::Web;
use crate::web::settings::Role::{Readonly, Readwrite};
use crate::web::show::iso_ms;

type Here = State<Arc<Web>>;

pub(super) fn table() -> Vec<Route> {
    vec![
        route("GET", "/api/jobs", Readonly, "Jobs, newest first; by type and status", list),
        route("POST", "/api/jobs/mb-release", Readwrite, "Bring a release home from Soulseek users", create),
        route("GET", "/api/jobs/{id}", Readonly, "One job with its tracks", one),
        route("POST", "/api/jobs/{id}/pause", Readwrite, "Stop a job, to go on later", pause),
        route("POST", "/api/jobs/{id}/resume", Readwrite, "Go on with a job that was stopped", resume),
        route("POST", "/api/jobs/{id}/cancel", Readwrite, "Call a job off; finished tracks stay", cancel),
        route("POST", "/api/jobs/{id}/export", Readwrite, "The manifest of a job, as YAML", export),
        route("GET", "/api/jobs/{id}/manifest", Readonly, "The same", export),
        route("POST", "/api/jobs/import", Readwrite, "Take up a job from the YAML of its manifest", import),
    ]
}

fn bad(sentence: impl Into<String>) -> Problem {
    Problem(StatusCode::BAD_REQUEST, sentence.into())
}

fn mismatch() -> Problem {
    Problem(StatusCode::INTERNAL_SERVER_ERROR, "the program gave an answer of the wrong kind".to_owned())
}

/// A name of a job that may be one.
pub(crate) fn name(text: &str) -> Result<JobId, Problem> {
    // What cannot be a name is none of ours.
    text.parse().map_err(|_| Problem(StatusCode::NOT_FOUND, "there is no such thing".to_owned()))
}

fn constraints(c: &Constraints) -> Value {
    json!({
        "preferred_codecs": c.preferred_codecs.iter().map(|codec| codec.name()).collect::<Vec<_>>(),
        "allow_lossy": c.allow_lossy, "max_lossy_tracks_per_album": c.max_lossy_tracks,
        "prefer_canonical": c.prefer_canonical, "use_overlay": c.use_overlay,
        "overlay_bandwidth_kbps": c.overlay_bandwidth_kbps,
    })
}

/// A job as JSON, with or without its tracks.
pub(crate) fn job_json(view: &JobView, with_tracks: bool) -> Value {
    if with_tracks { whole(view) } else { in_short(view) }
}

fn in_short(view: &JobView) -> Value {
    let job = &view.job;
    let progress = job.progress();
    json!({
        "id": job.id.as_str(), "origin_id": job.origin.as_ref().map(JobId::as_str), "type": Job::KIND,
        "status": job.state.name(), "title": job.spec.title, "artist": job.spec.artist,
        "progress": {
            "tracks_total": progress.tracks, "tracks_done": progress.done, "tracks_in_progress": progress.busy,
            "bytes_total": progress.bytes, "bytes_done": progress.bytes_done,
        },
        "created_at": iso_ms(job.created_at), "updated_at": iso_ms(job.updated_at),
        "started_at": shape::time(job.started_at), "completed_at": shape::time(job.completed_at),
        "doing": view.doing, "error": job.error,
    })
}

fn whole(view: &JobView) -> Value {
    let job = &view.job;
    let track = |(track, child): (&JobTrack, &crate::model::job::Child)| {
        json!({
            "medium": track.medium, "position": track.position, "title": track.title, "artist": track.artist,
            "mb_recording_id": track.recording.to_string(), "duration_ms": track.duration_ms,
            "status": child.state.name(), "size": child.size, "bytes_done": child.done, "file": child.file,
            "verified_by": child.proof.map(crate::model::job::Proof::name), "note": child.note,
        })
    };
    let mut value = in_short(view);
    value["spec"] = json!({
        "mb_release_id": job.spec.release.to_string(), "title": job.spec.title, "artist": job.spec.artist,
        "target_dir": job.spec.target_dir, "constraints": constraints(&job.spec.constraints),
    });
    value["tracks"] = json!(job.spec.tracks.iter().zip(&job.children).map(track).collect::<Vec<_>>());
    value
}

#[derive(Deserialize)]
struct Filter {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    status: Option<String>,
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
}

async fn list(State(web): Here, Query(filter): Query<Filter>) -> Answer {
    if filter.kind.as_deref().is_some_and(|kind| !kind.is_empty() && kind != Job::KIND) {
        return Ok(Json(json!([])));
    }
    let state = match filter.status.as_deref().filter(|status| !status.is_empty()) {
        Some(status) => Some(JobState::named(status).ok_or_else(|| bad(format!("`{status}` is no status of a job")))?),
        None => None,
    };
    let request = JobRequest::List { offset: filter.offset, limit: filter.limit.unwrap_or(usize::MAX), state };
    match web.desk.jobs(request).await? {
        JobAnswer::Jobs(rows, _) => Ok(Json(json!(rows.iter().map(in_short).collect::<Vec<_>>()))),
        _ => Err(mismatch()),
    }
}

async fn ask(web: &Web, request: JobRequest) -> Result<JobView, Problem> {
    match web.desk.jobs(request).await? {
        JobAnswer::Job(view) => Ok(*view),
        _ => Err(mismatch()),
    }
}

async fn one(State(web): Here, Path(id): Path<String>) -> Answer {
    Ok(Json(whole(&ask(&web, JobRequest::One(name(&id)?)).await?)))
}

async fn pause(State(web): Here, Path(id): Path<String>) -> Answer {
    Ok(Json(in_short(&ask(&web, JobRequest::Pause(name(&id)?)).await?)))
}

async fn resume(State(web): Here, Path(id): Path<String>) -> Answer {
    Ok(Json(in_short(&ask(&web, JobRequest::Resume(name(&id)?)).await?)))
}

async fn cancel(State(web): Here, Path(id): Path<String>) -> Answer {
    Ok(Json(in_short(&ask(&web, JobRequest::Cancel(name(&id)?)).await?)))
}

#[derive(Deserialize)]
struct As {
    #[serde(default, rename = "as")]
    form: String,
}

/// As a file, or with `?as=json` as `{"manifest": …}`.
async fn export(State(web): Here, Path(id): Path<String>, Query(form): Query<As>) -> Result<Response, Problem> {
    match web.desk.jobs(JobRequest::Export(name(&id)?)).await? {
        JobAnswer::Text(text) if form.form == "json" => Ok(Json(json!({ "manifest": text })).into_response()),
        JobAnswer::Text(text) => Ok(manifest(text, &id)),
        _ => Err(mismatch()),
    }
}

/// A manifest to be saved as a file.
pub(crate) fn manifest(text: String, id: &str) -> Response {
    let kind = (header::CONTENT_TYPE, "application/yaml; charset=utf-8".to_owned());
    // The id is a name of a job: letters, digits and little else.
    let file = (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.yaml\""));
    ([kind, file], text).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Import {
    manifest: String,
}

/// The YAML itself, or `{"manifest": …}`.
async fn import(State(web): Here, body: String) -> Result<(StatusCode, Json<Value>), Problem> {
    let text = match serde_json::from_str::<Import>(&body) {
        Ok(import) => import.manifest,
        Err(_) => body,
    };
    let view = ask(&web, JobRequest::Import(text)).await?;
    let mut value = in_short(&view);
    value["job_id"] = json!(view.job.id.as_str());
    Ok((StatusCode::CREATED, Json(value)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    mb_release_id: String,
    target_dir: Option<String>,
    #[serde(default)]
    tracks: Option<Tracks>,
    constraints: Option<Wanted>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Tracks {
    Word(String),
    List(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    preferred_codecs: Option<Vec<String>>,
    allow_lossy: Option<bool>,
    #[serde(alias = "max_lossy_tracks")]
    max_lossy_tracks_per_album: Option<u32>,
    #[serde(alias = "prefer_canonical_variants")]
    prefer_canonical: Option<bool>,
    use_overlay: Option<bool>,
    overlay_bandwidth_kbps: Option<u32>,
}

impl Wanted {
    fn read(self) -> Result<Constraints, Problem> {
        let usual = Constraints::default();
        let codecs = match self.preferred_codecs {
            None => usual.preferred_codecs,
            Some(names) => names
                .iter()
                .map(|name| Codec::named(name).ok_or_else(|| bad(format!("`{name}` is no codec that is known here"))))
                .collect::<Result<Vec<_>, _>>()?,
        };
        Ok(Constraints {
            preferred_codecs: codecs,
            allow_lossy: self.allow_lossy.unwrap_or(usual.allow_lossy),
            max_lossy_tracks: self.max_lossy_tracks_per_album,
            prefer_canonical: self.prefer_canonical.unwrap_or(usual.prefer_canonical),
            use_overlay: self.use_overlay.unwrap_or(usual.use_overlay),
            overlay_bandwidth_kbps: self.overlay_bandwidth_kbps,
        })
    }
}

async fn create(State(web): Here, Json(wanted): Json<Create>) -> Result<(StatusCode, Json<Value>), Problem> {
    let recording =
        |id: &String| id.parse::<RecordingId>().map_err(|why| bad(format!("tracks: `{id}` is no recording: {why}")));
    let tracks = match &wanted.tracks {
        None => Vec::new(),
        Some(Tracks::Word(word)) if word == "all" => Vec::new(),
        Some(Tracks::Word(word)) => return Err(bad(format!("tracks: `{word}` is neither \"all\" nor a list"))),
        Some(Tracks::List(list)) if list.is_empty() => return Err(bad("tracks: an empty list wants nothing")),
        Some(Tracks::List(list)) => list.iter().map(recording).collect::<Result<_, _>>()?,
    };
    let constraints = wanted.constraints.map(Wanted::read).transpose()?;
    let new = NewJob { reference: wanted.mb_release_id, target_dir: wanted.target_dir, tracks, constraints };
    let view = ask(&web, JobRequest::Create(Box::new(new))).await?;
    let mut value = in_short(&view);
    value["job_id"] = json!(view.job.id.as_str());
    Ok((StatusCode::CREATED, Json(value)))
}
