//! Our own shares.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Done, Refused, forms};
use crate::model::limits;
use crate::model::view::{Request, ShareRootView};
use crate::web::server::Web;

type Here = State<Arc<Web>>;

fn root(r: &ShareRootView) -> Value {
    json!({
        "id": r.id, "alias": r.alias, "isExcluded": false, "localPath": r.local_path, "raw": r.local_path,
        "remotePath": r.alias, "directories": r.counts.folders, "files": r.counts.files,
    })
}

pub(super) async fn list(State(web): Here) -> Json<Value> {
    let snapshot = std::future::ready(web.desk.snapshot()).await;
    Json(json!({ "local": snapshot.shares.roots.iter().map(root).collect::<Vec<_>>() }))
}

pub(super) async fn one(State(web): Here, Path(id): Path<String>) -> Answer {
    let snapshot = std::future::ready(web.desk.snapshot()).await;
    snapshot.shares.roots.iter().find(|r| r.id == id).map(|r| Json(root(r))).ok_or_else(Refused::absent)
}

pub(super) async fn scan(State(web): Here) -> Done {
    if web.desk.snapshot().shares.scanning {
        return Err(Refused(StatusCode::CONFLICT, "A share scan is already in progress.".to_owned()));
    }
    web.desk.order(Request::Rescan(None)).await?;
    Ok(StatusCode::OK)
}

pub(super) async fn stop(State(web): Here) -> Done {
    web.desk.order(Request::StopScan).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn contents(State(web): Here) -> Answer {
    folders(&web, None).await
}

pub(super) async fn contents_of(State(web): Here, Path(id): Path<String>) -> Answer {
    folders(&web, Some(id)).await
}

async fn folders(web: &Web, id: Option<String>) -> Answer {
    let (folders, _) = web.desk.shared_folders(id, 0, limits::PAGE_ROWS).await?;
    Ok(Json(Value::Array(folders.iter().map(forms::folder).collect())))
}
