//! Status, shares, log, settings; and what watches us from outside: health, readiness, metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::limits;
use crate::model::view::{Request, ServerState, Snapshot};
use crate::web::guard::{Access, By};
use crate::web::server::Web;

use super::{Answer, Done, Paging, Problem, shape};

type Here = State<Arc<Web>>;

/// The process answers.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// What keeps us from being of use, in plain words; empty when nothing does.
fn not_ready(snapshot: &Snapshot) -> Vec<String> {
    let mut reasons = Vec::new();
    match snapshot.server.state {
        ServerState::LoggedIn => {}
        ServerState::Unconfigured => reasons.push("no Soulseek user name and password".to_owned()),
        _ => reasons.push("not logged in to the Soulseek server".to_owned()),
    }
    if !snapshot.shares.ready {
        reasons.push("the share index is not ready".to_owned());
    }
    if snapshot.disk.full {
        reasons.push("the disk is full".to_owned());
    }
    reasons.extend(
        snapshot
            .tasks
            .iter()
            .filter(|task| task.state != "running")
            .map(|task| format!("{} is {}", task.name, task.state)),
    );
    reasons
}

/// For everybody, so it says what is missing and nothing else.
pub(super) async fn ready(State(web): Here) -> Response {
    let reasons = not_ready(&web.desk.snapshot());
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": reasons.is_empty(), "reasons": reasons }))).into_response()
}

pub(super) async fn metrics(State(web): Here) -> Result<Response, Problem> {
    let program = web.desk.metrics().await?;
    let streams = limits::EVENT_STREAMS.saturating_sub(web.streams.available_permits());
    let text = web.counts.add_to(&program, web.auth.failed(), streams.try_into().unwrap_or(u64::MAX));
    let kind = if text.ends_with("# EOF\n") {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

pub(super) async fn status(State(web): Here) -> Json<Value> {
    Json(shape::snapshot(&web.desk.snapshot()))
}

async fn order(web: &Web, request: Request) -> Done {
    web.desk.order(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn connect(State(web): Here) -> Done {
    order(&web, Request::Connect).await
}

pub(super) async fn disconnect(State(web): Here) -> Done {
    order(&web, Request::Disconnect).await
}

pub(super) async fn shutdown(State(web): Here) -> Done {
    order(&web, Request::Shutdown).await
}

#[derive(Deserialize)]
pub(super) struct Backup {
    path: String,
}

/// For the command line of our own user: over the network, nobody names a file for the box to write.
pub(super) async fn backup(State(web): Here, access: Access, Json(Backup { path }): Json<Backup>) -> Answer {
    if access.by != By::Control {
        return Err(Problem(StatusCode::FORBIDDEN, "a backup is asked for over the control socket".to_owned()));
    }
    Ok(Json(Value::String(web.desk.backup(path).await?)))
}

pub(super) async fn shares(State(web): Here) -> Json<Value> {
    Json(shape::shares(&web.desk.snapshot().shares))
}

#[derive(Deserialize)]
pub(super) struct Folders {
    root: Option<String>,
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
}

pub(super) async fn shared_folders(State(web): Here, Query(which): Query<Folders>) -> Answer {
    let paging = Paging { offset: which.offset, limit: which.limit };
    let (folders, all) = web.desk.shared_folders(which.root, paging.offset, paging.limit()).await?;
    Ok(Json(json!({ "total": all, "folders": folders.iter().map(shape::folder).collect::<Vec<_>>() })))
}

#[derive(Default, Deserialize)]
struct Rescan {
    id: Option<String>,
}

/// The body may be left out: everything is scanned then.
pub(super) async fn rescan(State(web): Here, body: Bytes) -> Done {
    let which = if body.is_empty() {
        Rescan::default()
    } else {
        serde_json::from_slice(&body)
            .map_err(|problem| Problem(StatusCode::BAD_REQUEST, format!("the body is not understood: {problem}")))?
    };
    order(&web, Request::Rescan(which.id)).await
}

pub(super) async fn stop_scan(State(web): Here) -> Done {
    order(&web, Request::StopScan).await
}

#[derive(Deserialize)]
pub(super) struct After {
    #[serde(default)]
    after: u64,
}

pub(super) async fn log(State(web): Here, Query(After { after }): Query<After>) -> Answer {
    let lines = web.desk.log(after).await?;
    Ok(Json(Value::Array(lines.iter().map(shape::log_line).collect())))
}

pub(super) async fn settings(State(web): Here) -> Answer {
    Ok(Json(json!(web.desk.settings().await?)))
}

pub(super) async fn settings_yaml(State(web): Here) -> Result<Response, Problem> {
    let text = web.desk.settings_yaml().await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}

/// `{"dotted.key": "value" | number | true | null}`.
pub(super) async fn change(State(web): Here, Json(wanted): Json<BTreeMap<String, Value>>) -> Done {
    let mut changes = Vec::with_capacity(wanted.len());
    for (key, value) in wanted {
        let value = match value {
            Value::Null => None,
            Value::String(text) => Some(text),
            other @ (Value::Bool(_) | Value::Number(_)) => Some(other.to_string()),
            Value::Array(_) | Value::Object(_) => {
                return Err(Problem(StatusCode::BAD_REQUEST, format!("{key}: expected one value or null")));
            }
        };
        changes.push((key, value));
    }
    order(&web, Request::ChangeSettings(changes)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_what_is_missing() {
        let mut snapshot = Snapshot::default();
        assert_eq!(not_ready(&snapshot), ["no Soulseek user name and password", "the share index is not ready"]);
        snapshot.server.state = ServerState::LoggedIn;
        snapshot.shares.ready = true;
        assert!(not_ready(&snapshot).is_empty());
        snapshot.disk.full = true;
        assert_eq!(not_ready(&snapshot), ["the disk is full"]);
    }
}
