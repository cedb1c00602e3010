//! The part of slskd's API that its tools use, as its clients use it: names in camelCase, absent values left out,
//! refusals as plain text.
//!
//! What clients send is taken as they send it (ECOSYSTEM-FACTS 2.3): keys and booleans in any case, unknown keys, bodies
//! of any content type, path segments percent-encoded.

mod forms;
mod input;
mod searches;
mod shares;
mod system;
mod transfers;
mod users;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::model::view::Refusal;
use crate::web::routes::{Route, route};
use crate::web::settings::Role::{Administrator, Readonly, Readwrite};

/// The version of slskd's API we follow: clients refuse older ones (soularr 0.22.2, a Lidarr plugin 0.26.0) and read its
/// parts as numbers.
pub(crate) const COMPATIBLE: &str = "0.26.0.0";

/// A refused request: status and one sentence.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) StatusCode, pub(crate) String);

impl Refused {
    fn invalid(why: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, why.into())
    }

    fn absent() -> Self {
        Self(StatusCode::NOT_FOUND, String::new())
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let say = |status, text: &str| Self(status, text.to_owned());
        match refusal {
            Refusal::NotConnected => say(
                StatusCode::CONFLICT,
                "The server connection must be connected and logged in to perform this action",
            ),
            Refusal::NotFound => Self::absent(),
            Refusal::UserOffline => say(StatusCode::NOT_FOUND, "User is offline or cannot be reached"),
            Refusal::TimedOut => say(StatusCode::GATEWAY_TIMEOUT, "No answer came in time"),
            Refusal::Duplicate => say(StatusCode::CONFLICT, "It exists already"),
            Refusal::Full(what) => Self(StatusCode::TOO_MANY_REQUESTS, what),
            Refusal::Invalid(why) => Self::invalid(why),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

type Answer = Result<Json<Value>, Refused>;
type Done = Result<StatusCode, Refused>;

/// Every endpoint.
pub(crate) fn table() -> Vec<Route> {
    let mut table = vec![
        route("GET", "/api/v0/application", Readonly, "", system::application),
        route("DELETE", "/api/v0/application", Administrator, "", system::shutdown),
        route("GET", "/api/v0/application/version", Readonly, "", system::version),
        route("GET", "/api/v0/application/version/latest", Readonly, "", system::latest),
        route("GET", "/api/v0/options", Readonly, "", system::options),
        route("GET", "/api/v0/server", Readonly, "", system::server),
        route("PUT", "/api/v0/server", Readwrite, "", system::connect),
        route("DELETE", "/api/v0/server", Readwrite, "", system::disconnect),
        route("GET", "/api/v0/logs", Readonly, "", system::logs),
        route("GET", "/api/v0/telemetry/metrics", Readonly, "", system::metrics),
        route("GET", "/api/v0/session", None, "", system::session),
        route("POST", "/api/v0/session", None, "", system::sign_in),
        route("GET", "/api/v0/session/enabled", None, "", system::session_enabled),
        route("GET", "/api/v0/searches", Readonly, "", searches::list),
        route("POST", "/api/v0/searches", Readwrite, "", searches::start),
        route("GET", "/api/v0/searches/{id}", Readonly, "", searches::one),
        route("PUT", "/api/v0/searches/{id}", Readwrite, "", searches::stop),
        route("DELETE", "/api/v0/searches/{id}", Readwrite, "", searches::forget),
        route("GET", "/api/v0/searches/{id}/responses", Readonly, "", searches::responses),
        route("GET", "/api/v0/users/{user}/endpoint", Readonly, "", users::endpoint),
        route("GET", "/api/v0/users/{user}/status", Readonly, "", users::status),
        route("GET", "/api/v0/users/{user}/info", Readonly, "", users::info),
        route("GET", "/api/v0/users/{user}/browse", Readonly, "", users::browse),
        route("GET", "/api/v0/users/{user}/browse/status", Readonly, "", users::browse_status),
        route("POST", "/api/v0/users/{user}/directory", Readwrite, "", users::directory),
        route("GET", "/api/v0/shares", Readonly, "", shares::list),
        route("PUT", "/api/v0/shares", Readwrite, "", shares::scan),
        route("DELETE", "/api/v0/shares", Readwrite, "", shares::stop),
        route("GET", "/api/v0/shares/contents", Readonly, "", shares::contents),
        route("GET", "/api/v0/shares/{id}", Readonly, "", shares::one),
        route("GET", "/api/v0/shares/{id}/contents", Readonly, "", shares::contents_of),
    ];
    table.extend(transfers::table());
    table
}
