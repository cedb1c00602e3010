//! The appliance: how its two systems stand, and an update.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Problem};
use crate::model::appliance::{ApplianceAnswer, ApplianceRequest, ApplianceView, Power};
use crate::model::limits;
use crate::model::view::Refusal;
use crate::web::routes::{Route, route};
use crate::web::server::Web;
use crate::web::settings::Role::{Administrator, Readonly};
use crate::web::upload::{self, UploadError};

pub(super) fn table() -> Vec<Route> {
    vec![
        route("GET", "/api/appliance", Readonly, "Both systems of the card, an update under way, disks", show),
        route("POST", "/api/update", Administrator, "Install a signed update: the file as the body", update),
        route("POST", "/api/appliance/restart", Administrator, "Restart the box", restart),
        route("POST", "/api/appliance/off", Administrator, "Switch the box off", off),
    ]
}

/// `?force=true`: also when it is older.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Forced {
    #[serde(default)]
    force: bool,
}

/// How it stands.
pub(crate) async fn view(web: &Web) -> Result<ApplianceView, Refusal> {
    match web.desk.appliance(ApplianceRequest::View).await? {
        ApplianceAnswer::View(view) => Ok(*view),
        _ => Err(Refusal::Invalid("the program gave an answer of the wrong kind".to_owned())),
    }
}

/// Takes an upload and has it installed; the version.
pub(crate) async fn take(web: &Web, forced: Forced, request: Request) -> Result<String, Problem> {
    let Some(spool) = &web.settings.update_spool else {
        let why = "this is not the appliance: update the program as you installed it";
        return Err(Problem(StatusCode::NOT_FOUND, why.to_owned()));
    };
    let busy = || Problem(StatusCode::CONFLICT, "another update is being uploaded".to_owned());
    let _turn = web.upload.try_acquire().map_err(|_| busy())?;
    let (parts, body) = request.into_parts();
    let path = spool.join("upload");
    let received = upload::receive(&parts.headers, body, &path, limits::UPDATE_LEN).await;
    if let Err(error) = received {
        // Half of it is of no use.
        drop(tokio::fs::remove_file(&path).await);
        let status = match error {
            UploadError::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            UploadError::Room { .. } | UploadError::Disk(_) => StatusCode::INSUFFICIENT_STORAGE,
            UploadError::BrokenOff | UploadError::Form => StatusCode::BAD_REQUEST,
        };
        return Err(Problem(status, error.to_string()));
    }
    match web.desk.appliance(ApplianceRequest::Install { forced: forced.force }).await? {
        ApplianceAnswer::Taken(version) => Ok(version),
        _ => Err(Problem::from(Refusal::NotFound)),
    }
}

async fn restart(State(web): State<Arc<Web>>) -> Result<StatusCode, Problem> {
    web.desk.appliance(ApplianceRequest::Power(Power::Restart)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn off(State(web): State<Arc<Web>>) -> Result<StatusCode, Problem> {
    web.desk.appliance(ApplianceRequest::Power(Power::Off)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn show(State(web): State<Arc<Web>>) -> Answer {
    Ok(Json(json!(view(&web).await?)))
}

async fn update(State(web): State<Arc<Web>>, forced: Query<Forced>, request: Request) -> Answer {
    Ok(Json(json!({ "version": take(&web, forced.0, request).await? })))
}
