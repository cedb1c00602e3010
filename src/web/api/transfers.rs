//! Downloads and uploads.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::id::{BatchId, TransferId, Username};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::rescue::{RescueRequest, RescueView};
use crate::model::transfer::{Direction, Rung, Transfer};
use crate::model::view::{EnqueueRequest, Request, TransferFilter};
use crate::web::routes::{Route, route};
use crate::web::server::Web;
use crate::web::settings::Role::{Readonly, Readwrite};

use super::{Answer, Done, Paging, Problem, rescue, shape};

type Here = State<Arc<Web>>;

pub(super) fn table() -> Vec<Route> {
    use Direction::{Download, Upload};
    vec![
        route("GET", "/api/downloads", Readonly, "Downloads, newest first", |s: Here, q| list(Download, s, q)),
        route("POST", "/api/downloads", Readwrite, "Ask a user for files", enqueue),
        route("DELETE", "/api/downloads", Readwrite, "Hide all that are over", |s: Here| clear(Download, s)),
        route("GET", "/api/downloads/{id}", Readonly, "One download", |s: Here, p| one(Download, s, p)),
        route("DELETE", "/api/downloads/{id}", Readwrite, "Cancel and hide", |s: Here, p| end(Download, true, s, p)),
        route("POST", "/api/downloads/{id}/cancel", Readwrite, "Cancel", |s: Here, p| end(Download, false, s, p)),
        route("POST", "/api/downloads/{id}/retry", Readwrite, "Try again", retry),
        route("GET", "/api/downloads/{id}/place", Readonly, "Ask for the place in the user's queue", place),
        route("GET", "/api/uploads", Readonly, "Uploads, newest first", |s: Here, q| list(Upload, s, q)),
        route("DELETE", "/api/uploads", Readwrite, "Hide all that are over", |s: Here| clear(Upload, s)),
        route("GET", "/api/uploads/{id}", Readonly, "One upload", |s: Here, p| one(Upload, s, p)),
        route("DELETE", "/api/uploads/{id}", Readwrite, "Cancel and hide", |s: Here, p| end(Upload, true, s, p)),
        route("POST", "/api/uploads/{id}/cancel", Readwrite, "Cancel", |s: Here, p| end(Upload, false, s, p)),
        route("GET", "/api/batches", Readonly, "Downloads asked for together", batches),
    ]
}

#[derive(Deserialize)]
struct Which {
    user: Option<String>,
    #[serde(default)]
    removed: bool,
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
}

async fn list(direction: Direction, State(web): Here, Query(which): Query<Which>) -> Answer {
    let paging = Paging { offset: which.offset, limit: which.limit };
    let filter = TransferFilter {
        direction,
        user: which.user.map(Username::new),
        include_removed: which.removed,
        offset: paging.offset,
        limit: paging.limit(),
    };
    let (rows, all) = web.desk.transfers(filter).await?;
    let rescues = rescue::by_transfer(&web, &rows).await;
    let rows = rows.iter().map(|row| with_rescue(row, &rescues));
    Ok(Json(json!({ "total": all, "transfers": rows.collect::<Vec<_>>() })))
}

pub(super) fn transfer_id(text: &str) -> Result<TransferId, Problem> {
    text.parse().map_err(|_| Problem(StatusCode::BAD_REQUEST, "the id is not a UUID".to_owned()))
}

async fn one(direction: Direction, State(web): Here, Path(id): Path<String>) -> Answer {
    let transfer = web.desk.transfer(direction, transfer_id(&id)?).await?;
    let rescues = rescue::by_transfer(&web, std::slice::from_ref(&transfer)).await;
    Ok(Json(with_rescue(&transfer, &rescues)))
}

/// A row with its rescue, if it has one. While the download brought no file of its own, the copy that the mesh brought
/// is its file.
fn with_rescue(transfer: &Transfer, rescues: &BTreeMap<TransferId, RescueView>) -> Value {
    let mut row = shape::transfer(transfer);
    let found = rescues.get(&transfer.id);
    if let Some(path) = found.and_then(|view| view.job.copy_beside()).filter(|_| transfer.local_path.is_none()) {
        row["local_path"] = json!(path);
        row["rung"] = json!(shape::rung(Rung::RescuedCopy));
    }
    row["rescue"] = json!(found.map(rescue::view));
    row
}

async fn end(direction: Direction, remove: bool, State(web): Here, Path(id): Path<String>) -> Done {
    web.desk.order(Request::Cancel { direction, id: transfer_id(&id)?, remove }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn clear(direction: Direction, State(web): Here) -> Done {
    web.desk.order(Request::ClearCompleted(direction)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn retry(State(web): Here, Path(id): Path<String>) -> Done {
    web.desk.order(Request::Retry(transfer_id(&id)?)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn place(State(web): Here, Path(id): Path<String>) -> Answer {
    Ok(Json(json!({ "place_in_queue": web.desk.place(transfer_id(&id)?).await? })))
}

async fn batches(State(web): Here) -> Answer {
    let batches = web.desk.batches().await?;
    let form = |batch: &crate::model::record::Batch| {
        json!({
            "id": batch.id.to_string(), "user": batch.user, "at": shape::time(Some(batch.at)),
            "transfers": batch.transfers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    };
    Ok(Json(Value::Array(batches.iter().map(form).collect())))
}

#[derive(Deserialize)]
struct Wanted {
    user: String,
    files: Vec<WantedFile>,
    batch: Option<String>,
    destination: Option<String>,
}

#[derive(Deserialize)]
struct WantedFile {
    path: String,
    size: u64,
    /// MusicBrainz recording that it is.
    recording: Option<String>,
}

async fn enqueue(State(web): Here, Json(wanted): Json<Wanted>) -> Result<(StatusCode, Json<Value>), Problem> {
    if wanted.files.is_empty() || wanted.files.len() > limits::BATCH_FILES {
        let why = format!("between 1 and {} files may be asked for at once", limits::BATCH_FILES);
        return Err(Problem(StatusCode::BAD_REQUEST, why));
    }
    let mut recordings = BTreeMap::new();
    for file in &wanted.files {
        if let Some(id) = &file.recording {
            recordings.insert(file.path.clone(), rescue::recording(id)?);
        }
    }
    let batch = wanted.batch.map(|id| id.parse::<BatchId>()).transpose();
    let request = EnqueueRequest {
        user: Username::new(wanted.user),
        files: wanted.files.into_iter().map(|file| (WireText::from(file.path), file.size)).collect(),
        batch: batch.map_err(|_| Problem(StatusCode::BAD_REQUEST, "the batch is not a UUID".to_owned()))?,
        search: None,
        destination: wanted.destination,
        external: None,
    };
    let done = web.desk.enqueue(request).await?;
    let known =
        done.accepted.iter().filter_map(|transfer| Some((transfer.id, *recordings.get(transfer.path.as_str())?)));
    let known: Vec<_> = known.collect();
    // What was asked for is asked for, whether that can be kept or not.
    if !known.is_empty()
        && let Err(error) = web.desk.rescue(RescueRequest::Know(known)).await
    {
        tracing::warn!(?error, "which recordings downloads are of could not be kept");
    }
    let failed: Vec<Value> =
        done.failed.iter().map(|(path, reason)| json!({ "path": path, "reason": reason })).collect();
    let accepted: Vec<Value> = done.accepted.iter().map(shape::transfer).collect();
    Ok((StatusCode::CREATED, Json(json!({ "accepted": accepted, "failed": failed }))))
}
