//! The application, its options, its server connection, its log, and signing in.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Answer, COMPATIBLE, Done, Refused, forms, input};
use crate::model::view::Request;
use crate::web::auth::SignInError;
use crate::web::guard::{Access, Visit};
use crate::web::server::Web;
use crate::web::show::iso_ms;

type Here = State<Arc<Web>>;

fn versions() -> Value {
    json!({
        "full": COMPATIBLE, "current": COMPATIBLE, "latest": COMPATIBLE,
        "isUpdateAvailable": false, "isCanary": false, "isDevelopment": false,
    })
}

pub(super) async fn application(State(web): Here) -> Json<Value> {
    let s = std::future::ready(web.desk.snapshot()).await;
    Json(json!({
        "version": versions(),
        "pendingReconnect": false,
        "pendingRestart": s.warnings.iter().any(|warning| warning.contains("after a restart")),
        "server": forms::server(&s.server),
        "connectionWatchdog": { "isEnabled": true, "isAttemptingConnection": s.server.retry_at.is_some() },
        "vpn": { "isReady": false },
        "relay": { "mode": "Controller" },
        "health": { "status": if s.warnings.is_empty() { "Healthy" } else { "Degraded" } },
        "user": { "username": s.server.username },
        "distributedNetwork": forms::without_null(json!({
            "branchLevel": s.tree.level,
            "branchRoot": s.tree.root,
            "hasParent": s.tree.parent.is_some(),
            "isBranchRoot": s.tree.parent.is_none() && s.tree.root.is_some(),
            "parent": s.tree.parent,
            "children": s.tree.children,
        })),
        "shares": {
            "scanPending": false,
            "scanning": s.shares.scanning,
            "ready": s.shares.ready,
            "faulted": !s.shares.problems.is_empty(),
            "cancelled": false,
            "scanProgress": s.shares.progress,
            "directories": s.shares.counts.folders,
            "files": s.shares.counts.files,
        },
        "rooms": [],
        "users": [],
        "slskdn": { "version": s.version },
    }))
}

pub(super) async fn version() -> Json<Value> {
    std::future::ready(Json(Value::String(COMPATIBLE.to_owned()))).await
}

pub(super) async fn latest() -> Json<Value> {
    std::future::ready(Json(versions())).await
}

/// For the owner, not for keys (slskd asks for a session too).
pub(super) async fn shutdown(State(web): Here, access: Access) -> Done {
    if !access.is_owner() {
        return Err(Refused(StatusCode::FORBIDDEN, String::new()));
    }
    web.desk.order(Request::Shutdown).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The effective settings as nested objects; secrets are masked.
pub(super) async fn options(State(web): Here) -> Answer {
    let mut root = Map::new();
    for row in web.desk.settings().await? {
        let value = match row.value.as_str() {
            "(set)" => json!("*****"),
            "true" => json!(true),
            "false" => json!(false),
            text => text.parse::<u64>().map_or_else(|_| json!(text), |n| json!(n)),
        };
        let is_list = ["shares.directories", "shares.filters", "groups.blacklisted.members", "web.allowed_hosts"]
            .contains(&row.key.as_str())
            || row.key == "network.private_ranges";
        let value = if is_list { json!(row.value.lines().collect::<Vec<_>>()) } else { value };
        // A user name of digits is text all the same.
        let value = if row.key.ends_with("username") { json!(row.value) } else { value };
        forms::insert(&mut root, &row.key, value);
    }
    // Clients look whether files could be deleted remotely; they cannot.
    root.insert("remoteFileManagement".to_owned(), json!(false));
    root.insert("remoteConfiguration".to_owned(), json!(false));
    Ok(Json(Value::Object(root)))
}

pub(super) async fn server(State(web): Here) -> Json<Value> {
    let s = std::future::ready(web.desk.snapshot()).await;
    Json(forms::server(&s.server))
}

pub(super) async fn connect(State(web): Here) -> Done {
    web.desk.order(Request::Connect).await?;
    Ok(StatusCode::OK)
}

/// The body is a message for the log, which clients leave empty.
pub(super) async fn disconnect(State(web): Here, _: Bytes) -> Done {
    web.desk.order(Request::Disconnect).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn logs(State(web): Here) -> Answer {
    let lines = web.desk.log(0).await?;
    let form = |line: &crate::model::view::LogLine| {
        let level = match line.level {
            "ERROR" => "Error",
            "WARN" => "Warning",
            "INFO" => "Information",
            _ => "Debug",
        };
        json!({ "timestamp": iso_ms(line.at), "context": line.target, "level": level, "message": line.text })
    };
    Ok(Json(Value::Array(lines.iter().map(form).collect())))
}

pub(super) async fn metrics(State(web): Here) -> Result<impl IntoResponse, Refused> {
    let text = web.desk.metrics().await?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}

pub(super) async fn session(visit: Visit) -> StatusCode {
    std::future::ready(if visit.access.is_some() { StatusCode::OK } else { StatusCode::UNAUTHORIZED }).await
}

pub(super) async fn session_enabled(State(web): Here) -> Json<bool> {
    std::future::ready(Json(web.settings.authentication)).await
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
}

pub(super) async fn sign_in(State(web): Here, visit: Visit, body: Bytes) -> Answer {
    let Credentials { username, password } = input::body(&body)?;
    let from = visit.address();
    if username != web.settings.username {
        // The password is checked all the same, so that a wrong name costs what a wrong password costs.
        let _ = web.auth.sign_in(from, "").await;
        return Err(Refused(StatusCode::UNAUTHORIZED, String::new()));
    }
    match web.auth.sign_in(from, &password).await {
        Ok(()) => {}
        Err(SignInError::Wrong) => return Err(Refused(StatusCode::UNAUTHORIZED, String::new())),
        Err(other) => return Err(Refused(StatusCode::TOO_MANY_REQUESTS, other.to_string())),
    }
    let token = web.auth.issue_token(&username);
    Ok(Json(json!({
        "token": token.token, "tokenType": "Bearer", "name": token.name,
        "issued": token.issued, "expires": token.expires, "notBefore": token.not_before,
    })))
}
