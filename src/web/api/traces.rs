//! Traces of jobs: who was asked for what and what came.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Paging, Problem};
use crate::model::id::ContentHash;
use crate::model::time::UnixMs;
use crate::model::trace::{TraceAnswer, TraceLine, TraceRequest, TraceSummary, TraceView};
use crate::web::routes::{Route, route};
use crate::web::server::Web;
use crate::web::settings::Role::Readonly;
use crate::web::show::iso_ms;

type Here = State<Arc<Web>>;

pub(super) fn table() -> Vec<Route> {
    vec![
        route("GET", "/api/traces", Readonly, "Jobs with a trace, the one written to last first", jobs),
        route("GET", "/api/jobs/{id}/trace", Readonly, "Summary of a job, and a page of what happened", job),
        route("GET", "/api/mesh/fetches/{hash}/trace", Readonly, "The same for a file fetched from the mesh", fetch),
    ]
}

fn mismatch() -> Problem {
    Problem(StatusCode::INTERNAL_SERVER_ERROR, "the program gave an answer of the wrong kind".to_owned())
}

async fn jobs(State(web): Here) -> Answer {
    match web.desk.trace(TraceRequest::Jobs).await? {
        TraceAnswer::Jobs(jobs) => Ok(Json(json!(jobs.iter().map(in_short).collect::<Vec<_>>()))),
        _ => Err(mismatch()),
    }
}

async fn job(State(web): Here, Path(id): Path<String>, Query(paging): Query<Paging>) -> Answer {
    let request = TraceRequest::Job { job: id, offset: paging.offset as u64, limit: paging.limit() };
    match web.desk.trace(request).await? {
        TraceAnswer::Job(view) => Ok(Json(trace_json(&view))),
        _ => Err(mismatch()),
    }
}

async fn fetch(web: Here, Path(hash): Path<String>, paging: Query<Paging>) -> Answer {
    let wrong = |why| Problem(StatusCode::BAD_REQUEST, format!("`{hash}` is no content hash: {why}"));
    let content: ContentHash = hash.parse().map_err(wrong)?;
    job(web, Path(content.to_string()), paging).await
}

fn with_time(line: &TraceLine, began: u64) -> Value {
    let mut value = json!(line);
    value["time"] = json!(iso_ms(UnixMs(began.saturating_add(line.at_us / 1_000))));
    value
}

fn timed(summary: &TraceSummary) -> Value {
    let mut value = json!(summary);
    value["started_at"] = json!(iso_ms(UnixMs(summary.started_ms)));
    value
}

fn in_short(summary: &TraceSummary) -> Value {
    let mut value = timed(summary);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("cells");
        fields.remove("key_events");
    }
    value
}

/// A job with a part of its lines, as the API and the command line give it.
pub(crate) fn trace_json(view: &TraceView) -> Value {
    let began = view.summary.started_ms;
    let lines = |lines: &[TraceLine]| lines.iter().map(|line| with_time(line, began)).collect::<Vec<_>>();
    let mut summary = timed(&view.summary);
    summary["key_events"] = json!(lines(&view.summary.key_events));
    json!({ "summary": summary, "events": lines(&view.events) })
}
