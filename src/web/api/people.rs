//! Users and messages.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::id::Username;
use crate::model::limits;
use crate::model::view::Request;
use crate::web::server::Web;

use super::{Answer, Done, Paging, Problem, shape};

type Here = State<Arc<Web>>;

pub(super) async fn status(State(web): Here, Path(name): Path<String>) -> Answer {
    let status = web.desk.user_status(Username::new(name)).await?;
    let stats = status.stats.map(|(speed, uploads, files, folders)| {
        json!({ "average_speed": speed, "uploads": uploads, "files": files, "folders": folders })
    });
    Ok(Json(json!({ "presence": status.presence, "privileged": status.privileged, "stats": stats })))
}

pub(super) async fn info(State(web): Here, Path(name): Path<String>) -> Answer {
    let info = web.desk.user_info(Username::new(name)).await?;
    Ok(Json(json!({
        "description": info.description, "has_picture": info.picture.is_some(), "slots": info.slots,
        "queue_length": info.queue_length, "free_slot": info.free_slot,
    })))
}

#[derive(Deserialize)]
pub(super) struct Folder {
    path: String,
}

pub(super) async fn folder(State(web): Here, Path(name): Path<String>, Query(folder): Query<Folder>) -> Answer {
    let folders = web.desk.folder(Username::new(name), folder.path).await?;
    Ok(Json(Value::Array(folders.iter().map(shape::folder).collect())))
}

#[derive(Deserialize)]
pub(super) struct Browse {
    #[serde(default)]
    words: String,
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
}

pub(super) async fn browse(State(web): Here, Path(name): Path<String>, Query(which): Query<Browse>) -> Answer {
    let user = Username::new(name);
    let list = match web.browsed.get(&user) {
        Some((list, _)) => list,
        None => web.browsed.put(user.clone(), web.desk.browse(user.clone()).await?, web.now().wall),
    };
    let paging = Paging { offset: which.offset, limit: which.limit };
    let found = web.browsed.lines(&list, &which.words, paging.offset, paging.limit()).await.map_err(|problem| {
        tracing::warn!(%problem, "a fetched share list cannot be read");
        web.browsed.forget(&user);
        Problem(StatusCode::BAD_GATEWAY, "the share list cannot be read; ask again to fetch it anew".to_owned())
    })?;
    let lines: Vec<Value> = found
        .lines
        .iter()
        .map(|line| json!({ "name": line.name.as_str(), "files": line.files, "bytes": line.bytes }))
        .collect();
    Ok(Json(json!({ "folders": list.folders, "files": list.files, "total": found.all, "list": lines })))
}

pub(super) async fn conversations(State(web): Here) -> Answer {
    let list = web.desk.conversations().await?;
    let form = |(last, unread): &(_, u32)| json!({ "unread": unread, "last": shape::message(last) });
    Ok(Json(Value::Array(list.iter().map(form).collect())))
}

pub(super) async fn messages(State(web): Here, Path(name): Path<String>) -> Answer {
    let list = web.desk.messages(Username::new(name)).await?;
    Ok(Json(Value::Array(list.iter().map(shape::message).collect())))
}

/// A message as it is sent: not empty, not too long.
pub(crate) fn message_text(text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if (1..=limits::MESSAGE_LEN).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        let why = format!("a message needs some text, at most {} bytes of it", limits::MESSAGE_LEN);
        Err(Problem(StatusCode::BAD_REQUEST, why))
    }
}

#[derive(Deserialize)]
pub(super) struct Message {
    text: String,
}

pub(super) async fn send(State(web): Here, Path(name): Path<String>, Json(message): Json<Message>) -> Done {
    web.desk.order(Request::SendMessage(Username::new(name), message_text(&message.text)?)).await?;
    Ok(StatusCode::CREATED)
}

pub(super) async fn read(State(web): Here, Path(name): Path<String>) -> Done {
    web.desk.order(Request::MessagesRead(Username::new(name))).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn forget(State(web): Here, Path(name): Path<String>) -> Done {
    web.desk.order(Request::ForgetMessages(Username::new(name))).await?;
    Ok(StatusCode::NO_CONTENT)
}
