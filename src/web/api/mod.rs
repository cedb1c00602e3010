//! The JSON twins of the pages, under `/api/…`: names in `snake_case`, sizes in bytes, speeds in bytes per second, times
//! in RFC 3339. Lists are paged by `offset` and `limit`. Errors are `{"error": "…"}`.
//!
//! The slskd-compatible endpoints live in `api/v0`, apart from these.

pub(crate) mod appliance;
mod events;
mod health;
pub(crate) mod health_shape;
mod jobs;
mod mesh;
mod openapi;
mod people;
pub(crate) mod repair;
pub(crate) mod rescue;
mod searches;
pub(crate) mod shape;
mod system;
mod traces;
mod transfers;
pub(crate) mod v0;

pub(crate) use health_shape as health_json;
pub(crate) use jobs::{job_json, manifest as manifest_file, name as job_name};
pub(crate) use people::message_text;
pub(crate) use repair as repair_json;
pub(crate) use rescue as rescue_json;
pub(crate) use searches::{plain_search, search_text};
pub(crate) use traces::trace_json;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::model::limits;
use crate::model::view::Refusal;

use super::routes::{Route, route};
use super::settings::Role::{Administrator, Readonly, Readwrite};

/// A refused request: its status and one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem(pub(crate) StatusCode, pub(crate) String);

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let say = |status, text: &str| Self(status, text.to_owned());
        match refusal {
            Refusal::NotConnected => say(StatusCode::CONFLICT, "not logged in to the Soulseek server"),
            Refusal::NotFound => say(StatusCode::NOT_FOUND, "there is no such thing"),
            Refusal::UserOffline => say(StatusCode::NOT_FOUND, "the user is offline or cannot be reached"),
            Refusal::TimedOut => say(StatusCode::GATEWAY_TIMEOUT, "no answer came in time"),
            Refusal::Duplicate => say(StatusCode::CONFLICT, "it is there already"),
            Refusal::Full(what) => Self(StatusCode::TOO_MANY_REQUESTS, what),
            Refusal::Invalid(why) => Self(StatusCode::BAD_REQUEST, why),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

/// A JSON answer, or why there is none.
pub(crate) type Answer = Result<Json<serde_json::Value>, Problem>;
/// An answer without content.
pub(crate) type Done = Result<StatusCode, Problem>;

/// Which rows of a list.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Paging {
    /// Rows to skip.
    #[serde(default)]
    pub(crate) offset: usize,
    /// Rows at most; 100 unless told.
    pub(crate) limit: Option<usize>,
}

impl Paging {
    pub(crate) fn limit(self) -> usize {
        self.limit.unwrap_or(100).min(limits::PAGE_ROWS)
    }
}

pub(crate) fn table() -> Vec<Route> {
    let mut table = vec![
        route("GET", "/health", None, "", system::health),
        route("GET", "/ready", None, "", system::ready),
        route("GET", "/metrics", Readonly, "", system::metrics),
        route("GET", "/api/openapi.json", Readonly, "This description", openapi::describe),
        route("GET", "/api/events", Readonly, "What happens, as server-sent events", events::stream),
        route("GET", "/api/status", Readonly, "The state of things at a glance", system::status),
        route("POST", "/api/connect", Administrator, "Log in to the Soulseek server", system::connect),
        route("POST", "/api/disconnect", Administrator, "Log out and stay out", system::disconnect),
        route("POST", "/api/shutdown", Administrator, "Stop the program in an orderly way", system::shutdown),
        route("POST", "/api/backup", Administrator, "Write a backup; over the control socket only", system::backup),
        route("GET", "/api/shares", Readonly, "Shared folders and the state of the scan", system::shares),
        route("GET", "/api/shares/folders", Readonly, "What others see, folder by folder", system::shared_folders),
        route("POST", "/api/shares/rescan", Readwrite, "Scan all shares, or one by id", system::rescan),
        route("POST", "/api/shares/stop", Readwrite, "Stop a running scan", system::stop_scan),
        route("GET", "/api/log", Readonly, "Log lines after a number", system::log),
        route("GET", "/api/settings", Readonly, "Effective settings and where each comes from", system::settings),
        route("POST", "/api/settings", Administrator, "Change settings; null means the default", system::change),
        route("GET", "/api/settings/yaml", Readonly, "Effective settings as YAML", system::settings_yaml),
        route("POST", "/api/library/health/scans", Readwrite, "Scan the library, or a folder of it", health::start),
        route("POST", "/api/library/health/scan", Readwrite, "The same", health::start),
        route("GET", "/api/library/health/scans", Readonly, "Library scans, newest first", health::scans),
        route("GET", "/api/library/health/scans/{id}", Readonly, "One scan and how far it is", health::scan),
        route("DELETE", "/api/library/health/scans/{id}", Readwrite, "Stop a library scan", health::stop),
        route("GET", "/api/library/health/summary", Readonly, "Counts and score of the library", health::summary),
        route("GET", "/api/library/health/issues", Readonly, "What is wrong, worst first", health::issues),
        route("GET", "/api/library/health/issues/by-type", Readonly, "Open issues of each type", health::by_type),
        route("GET", "/api/library/health/issues/by-artist", Readonly, "Open issues by artist", health::by_artist),
        route("GET", "/api/library/health/issues/by-release", Readonly, "Open issues by release", health::by_release),
        route("GET", "/api/library/health/issues/{id}", Readonly, "One issue", health::issue),
        route("PATCH", "/api/library/health/issues/{id}", Readwrite, "Give an issue a status", health::set_status),
        route("GET", "/api/audio/canonical/{recording}", Readonly, "What is known of a recording", health::canonical),
        route("GET", "/api/audio/variants/{hash}", Readonly, "One audio file by its content hash", health::variant),
        route("GET", "/api/audio/variants/dedupe/{recording}", Readonly, "Copies, the best first", health::dedupe),
        route("POST", "/api/audio/analyzers/migrate", Administrator, "Judge all copies anew", health::migrate),
        route("GET", "/api/searches", Readonly, "Searches, newest first", searches::list),
        route("POST", "/api/searches", Readwrite, "Start a search", searches::start),
        route("GET", "/api/searches/{id}", Readonly, "One search with its results", searches::one),
        route("DELETE", "/api/searches/{id}", Readwrite, "Forget a search", searches::forget),
        route("POST", "/api/searches/{id}/stop", Readwrite, "Stop waiting for more results", searches::stop),
        route("GET", "/api/wishlist", Readonly, "Searches that are repeated", searches::wishes),
        route("POST", "/api/wishlist", Readwrite, "Add a wish", searches::add_wish),
        route("DELETE", "/api/wishlist/{id}", Readwrite, "Remove a wish", searches::remove_wish),
        route("GET", "/api/users/{name}", Readonly, "Presence of a user", people::status),
        route("GET", "/api/users/{name}/info", Readonly, "What a user says about itself", people::info),
        route("GET", "/api/users/{name}/folder", Readonly, "One folder of a user", people::folder),
        route("GET", "/api/users/{name}/browse", Readonly, "Folders a user shares", people::browse),
        route("GET", "/api/messages", Readonly, "Conversations, newest first", people::conversations),
        route("GET", "/api/messages/{name}", Readonly, "Messages with a user, oldest first", people::messages),
        route("POST", "/api/messages/{name}", Readwrite, "Send a message", people::send),
        route("DELETE", "/api/messages/{name}", Readwrite, "Forget a conversation", people::forget),
        route("POST", "/api/messages/{name}/read", Readwrite, "Mark a conversation as read", people::read),
    ];
    table.extend(transfers::table());
    table.extend(jobs::table());
    table.extend(mesh::table());
    table.extend(repair::table());
    table.extend(rescue::table());
    table.extend(traces::table());
    table.extend(appliance::table());
    table
}
