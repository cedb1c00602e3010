//! Downloads, uploads and batches.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Done, Refused, forms, input};
use crate::model::id::{BatchId, TransferId, Username};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::record::Batch;
use crate::model::transfer::{Direction, Transfer};
use crate::model::view::{EnqueueRequest, Refusal, Request, TransferFilter};
use crate::web::routes::{Route, route};
use crate::web::server::Web;
use crate::web::settings::Role::{Readonly, Readwrite};
use crate::web::show::iso_ms;

type Here = State<Arc<Web>>;
type Rows = (StatusCode, Json<Value>);

use Direction::{Download, Upload};

pub(super) fn table() -> Vec<Route> {
    vec![
        route("GET", "/api/v0/transfers/downloads", Readonly, "", |web: Here, p: input::Parameters| {
            all(web, p, Download)
        }),
        route("GET", "/api/v0/transfers/uploads", Readonly, "", |web: Here, p: input::Parameters| all(web, p, Upload)),
        route("GET", "/api/v0/transfers/downloads/batches", Readonly, "", batches),
        route("POST", "/api/v0/transfers/downloads/batches", Readwrite, "", enqueue_batch),
        route("GET", "/api/v0/transfers/downloads/batches/{id}", Readonly, "", batch),
        route("DELETE", "/api/v0/transfers/downloads/all/completed", Readwrite, "", |web: Here| clear(web, Download)),
        route("DELETE", "/api/v0/transfers/uploads/all/completed", Readwrite, "", |web: Here| clear(web, Upload)),
        route(
            "GET",
            "/api/v0/transfers/downloads/{user}",
            Readonly,
            "",
            |web: Here, user: Path<String>, p: input::Parameters| of_user(web, user, p, Download),
        ),
        route(
            "GET",
            "/api/v0/transfers/uploads/{user}",
            Readonly,
            "",
            |web: Here, user: Path<String>, p: input::Parameters| of_user(web, user, p, Upload),
        ),
        route("POST", "/api/v0/transfers/downloads/{user}", Readwrite, "", enqueue),
        route(
            "GET",
            "/api/v0/transfers/downloads/{user}/{id}",
            Readonly,
            "",
            |web: Here, path: Path<(String, String)>| one(web, path, Download),
        ),
        route(
            "GET",
            "/api/v0/transfers/uploads/{user}/{id}",
            Readonly,
            "",
            |web: Here, path: Path<(String, String)>| one(web, path, Upload),
        ),
        route("GET", "/api/v0/transfers/downloads/{user}/{id}/position", Readonly, "", position),
        route(
            "DELETE",
            "/api/v0/transfers/downloads/{user}/{id}",
            Readwrite,
            "",
            |web: Here, path: Path<(String, String)>, p: input::Parameters| cancel(web, path, p, Download),
        ),
        route(
            "DELETE",
            "/api/v0/transfers/uploads/{user}/{id}",
            Readwrite,
            "",
            |web: Here, path: Path<(String, String)>, p: input::Parameters| cancel(web, path, p, Upload),
        ),
    ]
}

async fn rows(
    web: &Web,
    p: &input::Parameters,
    direction: Direction,
    user: Option<Username>,
) -> Result<Vec<Transfer>, Refused> {
    let filter = TransferFilter {
        direction,
        user,
        include_removed: p.flag("includeremoved"),
        offset: p.number("offset").unwrap_or(0),
        limit: p.number("limit").unwrap_or(limits::PAGE_ROWS),
    };
    Ok(web.desk.transfers(filter).await?.0)
}

async fn all(State(web): Here, p: input::Parameters, direction: Direction) -> Answer {
    let rows = rows(&web, &p, direction, None).await?;
    Ok(Json(Value::Array(forms::transfers(&rows, web.now().wall))))
}

async fn of_user(State(web): Here, Path(user): Path<String>, p: input::Parameters, direction: Direction) -> Answer {
    let rows = rows(&web, &p, direction, Some(Username::new(user))).await?;
    forms::transfers(&rows, web.now().wall).pop().map(Json).ok_or_else(Refused::absent)
}

fn id(text: &str) -> Result<TransferId, Refused> {
    text.parse().map_err(|_| Refused::absent())
}

/// One transfer, if it is this user's.
async fn find(web: &Web, user: &str, text: &str, direction: Direction) -> Result<Transfer, Refused> {
    let transfer = web.desk.transfer(direction, id(text)?).await?;
    // After a fail-over it is another user's; the one first asked still leads to it.
    let is_theirs = transfer.user.as_str() == user || transfer.tried.iter().any(|tried| tried.as_str() == user);
    if is_theirs { Ok(transfer) } else { Err(Refused::absent()) }
}

async fn one(State(web): Here, Path((user, text)): Path<(String, String)>, direction: Direction) -> Answer {
    let transfer = find(&web, &user, &text, direction).await?;
    Ok(Json(forms::transfer(&transfer, web.now().wall)))
}

async fn position(State(web): Here, Path((user, text)): Path<(String, String)>) -> Answer {
    let transfer = find(&web, &user, &text, Download).await?;
    Ok(Json(json!(web.desk.place(transfer.id).await?)))
}

async fn cancel(
    State(web): Here,
    Path((user, text)): Path<(String, String)>,
    p: input::Parameters,
    direction: Direction,
) -> Done {
    let transfer = find(&web, &user, &text, direction).await?;
    let remove = p.flag("remove");
    web.desk.order(Request::Cancel { direction, id: transfer.id, remove }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn clear(State(web): Here, direction: Direction) -> Done {
    web.desk.order(Request::ClearCompleted(direction)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct File {
    filename: String,
    size: Option<u64>,
}

fn files(list: Vec<File>) -> Vec<(WireText, u64)> {
    list.into_iter().map(|file| (WireText::from(file.filename), file.size.unwrap_or(0))).collect()
}

fn failures(failed: &[(String, String)]) -> Vec<Value> {
    failed.iter().map(|(path, why)| json!({ "filename": path, "message": why })).collect()
}

/// Tools take a user who is offline for a reason to ask another one, so nothing is queued for later here. When the server
/// does not tell, the files are wanted all the same.
async fn check_online(web: &Web, user: &Username) -> Result<(), Refused> {
    match web.desk.user_endpoint(user.clone()).await {
        Err(refusal @ Refusal::UserOffline) => Err(refusal.into()),
        _ => Ok(()),
    }
}

/// 201 as soon as one file is wanted, or is wanted already; else the first reason.
async fn enqueue(State(web): Here, Path(user): Path<String>, body: Bytes) -> Result<Rows, Refused> {
    let list: Vec<File> = input::body(&body)?;
    if list.is_empty() {
        return Err(Refused::invalid("At least one file is required"));
    }
    let user = Username::new(user);
    check_online(&web, &user).await?;
    let request =
        EnqueueRequest { user, files: files(list), batch: None, search: None, destination: None, external: None };
    let outcome = web.desk.enqueue(request).await?;
    let now = web.now().wall;
    let known = |why: &str| why.contains("already");
    if outcome.accepted.is_empty()
        && let Some((_, why)) = outcome.failed.iter().find(|(_, why)| !known(why))
    {
        return Err(Refused::invalid(why.clone()));
    }
    let enqueued: Vec<Value> = outcome.accepted.iter().map(|t| forms::transfer(t, now)).collect();
    Ok((StatusCode::CREATED, Json(json!({ "enqueued": enqueued, "failed": failures(&outcome.failed) }))))
}

#[derive(Deserialize)]
struct BatchBody {
    id: Option<String>,
    #[serde(rename = "searchid")]
    search_id: Option<String>,
    username: String,
    files: Vec<File>,
    options: Option<BatchOptions>,
}

#[derive(Default, Deserialize)]
struct BatchOptions {
    destination: Option<String>,
    #[serde(rename = "externalid")]
    external_id: Option<String>,
}

fn batch_id(text: &str) -> Result<BatchId, Refused> {
    text.parse().map_err(|_| Refused::invalid("The id is not a UUID"))
}

/// 201 all, 207 some, 200 none.
async fn enqueue_batch(State(web): Here, body: Bytes) -> Result<Rows, Refused> {
    let body: BatchBody = input::body(&body)?;
    if body.files.is_empty() {
        return Err(Refused::invalid("At least one file is required"));
    }
    let random = || crate::web::api::shape::new_search_id().map(|fresh| BatchId(fresh.0));
    let id = match body.id.as_deref().filter(|id| !id.is_empty()) {
        Some(text) => batch_id(text)?,
        None => random().ok_or(Refused(StatusCode::INTERNAL_SERVER_ERROR, String::new()))?,
    };
    let search = body.search_id.as_deref().and_then(|text| text.parse::<BatchId>().ok()).map(|id| id.0);
    let user = Username::new(body.username);
    check_online(&web, &user).await?;
    let options = body.options.unwrap_or_default();
    let request = EnqueueRequest {
        user,
        files: files(body.files),
        batch: Some(id),
        search,
        destination: options.destination,
        external: options.external_id,
    };
    let outcome = web.desk.enqueue(request).await?;
    let status = match (outcome.accepted.is_empty(), outcome.failed.is_empty()) {
        (false, true) => StatusCode::CREATED,
        (false, false) => StatusCode::MULTI_STATUS,
        (true, _) => StatusCode::OK,
    };
    let now = web.now().wall;
    let rows: Vec<Value> = outcome.accepted.iter().map(|t| forms::transfer(t, now)).collect();
    let form = outcome.batch.as_ref().map(|batch| batch_form(batch, &rows));
    Ok((status, Json(json!({ "batch": form, "failures": failures(&outcome.failed) }))))
}

fn batch_form(batch: &Batch, transfers: &[Value]) -> Value {
    let mut form = json!({
        "id": batch.id.to_string(),
        "username": batch.user,
        "createdAt": iso_ms(batch.at),
        "options": {},
        "transfers": transfers,
    });
    if let Some(search) = batch.search {
        form["searchId"] = json!(BatchId(search).to_string());
    }
    if let Some(destination) = &batch.destination {
        form["options"]["destination"] = json!(destination);
    }
    if let Some(external) = &batch.external {
        form["options"]["externalId"] = json!(external);
    }
    form
}

async fn with_transfers(web: &Web, batch: &Batch) -> Result<Value, Refused> {
    let now = web.now().wall;
    let mut rows = Vec::with_capacity(batch.transfers.len());
    for id in &batch.transfers {
        match web.desk.transfer(Download, *id).await {
            Ok(transfer) => rows.push(forms::transfer(&transfer, now)),
            // Forgotten by retention.
            Err(Refusal::NotFound) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Ok(batch_form(batch, &rows))
}

async fn batch(State(web): Here, Path(text): Path<String>) -> Answer {
    let batch = web.desk.batch(batch_id(&text)?).await?;
    Ok(Json(with_transfers(&web, &batch).await?))
}

async fn batches(State(web): Here) -> Answer {
    let list = web.desk.batches().await?;
    Ok(Json(Value::Array(list.iter().map(|batch| batch_form(batch, &[])).collect())))
}
