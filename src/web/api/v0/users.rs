//! Users.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::{Answer, Refused, forms, input};
use crate::model::id::Username;
use crate::model::view::Browsed;
use crate::web::server::Web;

type Here = State<Arc<Web>>;

pub(super) async fn endpoint(State(web): Here, Path(user): Path<String>) -> Answer {
    let at = web.desk.user_endpoint(Username::new(user)).await?;
    Ok(Json(json!({ "addressFamily": "InterNetwork", "address": at.ip().to_string(), "port": at.port() })))
}

pub(super) async fn status(State(web): Here, Path(user): Path<String>) -> Answer {
    let status = web.desk.user_status(Username::new(user)).await?;
    Ok(Json(json!({ "presence": status.presence, "isPrivileged": status.privileged })))
}

pub(super) async fn info(State(web): Here, Path(user): Path<String>) -> Answer {
    let info = web.desk.user_info(Username::new(user)).await?;
    let mut form = json!({
        "description": info.description,
        "hasFreeUploadSlot": info.free_slot,
        "hasPicture": info.picture.is_some(),
        "queueLength": info.queue_length,
        "uploadSlots": info.slots,
    });
    if let Some(picture) = info.picture {
        form["picture"] = Value::String(STANDARD.encode(picture));
    }
    Ok(Json(form))
}

#[derive(Deserialize)]
struct Directory {
    directory: String,
}

pub(super) async fn directory(State(web): Here, Path(user): Path<String>, body: Bytes) -> Answer {
    let Directory { directory } = input::body(&body)?;
    let folders = web.desk.folder(Username::new(user), directory).await?;
    Ok(Json(Value::Array(folders.iter().map(forms::folder).collect())))
}

/// Pieces of the answer that may wait for a slow client.
const PIECES: usize = 4;
/// A piece is sent when it is this long.
const PIECE_LEN: usize = 64 * 1024;

/// A user's whole share list, written folder by folder as it is read, so that none is whole in memory.
pub(super) async fn browse(State(web): Here, Path(user): Path<String>) -> Result<Response, Refused> {
    let list = web.desk.browse(Username::new(user)).await?;
    let (pieces, body) = mpsc::channel::<std::io::Result<Bytes>>(PIECES);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = write(&list, &pieces) {
            // The client hears a broken answer instead of a short list; it may have gone already.
            let _ = pieces.blocking_send(Err(error));
        }
    });
    let stream = ReceiverStream::new(body).map(|piece| piece);
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(stream)).into_response())
}

fn write(list: &Browsed, pieces: &mpsc::Sender<std::io::Result<Bytes>>) -> std::io::Result<()> {
    let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    let mut piece = String::from("{\"directories\":[");
    for (at, folder) in (list.open)()?.enumerate() {
        if at > 0 {
            piece.push(',');
        }
        piece.push_str(&forms::folder(&folder?).to_string());
        if piece.len() >= PIECE_LEN {
            pieces.blocking_send(Ok(Bytes::from(std::mem::take(&mut piece)))).map_err(gone)?;
        }
    }
    let end = format!("],\"directoryCount\":{},\"lockedDirectories\":[],\"lockedDirectoryCount\":0}}", list.folders);
    piece.push_str(&end);
    pieces.blocking_send(Ok(Bytes::from(piece))).map_err(gone)
}

/// A list is fetched while its request waits, so there is never one half done to report on.
pub(super) async fn browse_status(Path(_): Path<String>) -> Refused {
    std::future::ready(Refused::absent()).await
}
