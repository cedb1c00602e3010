//! Searches.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::{Answer, Done, Refused, forms, input};
use crate::model::id::SearchId;
use crate::model::view::{Request, SearchRequest};
use crate::web::api::{search_text, shape};
use crate::web::server::Web;

type Here = State<Arc<Web>>;

/// slskd's defaults where a key is missing.
#[derive(Deserialize)]
struct Body {
    id: Option<String>,
    #[serde(rename = "searchtext")]
    search_text: String,
    #[serde(rename = "searchtimeout")]
    search_timeout: Option<u64>,
    #[serde(rename = "filelimit")]
    file_limit: Option<u32>,
    #[serde(rename = "responselimit")]
    response_limit: Option<u32>,
    #[serde(rename = "filterresponses")]
    filter_responses: Option<bool>,
    #[serde(rename = "minimumresponsefilecount")]
    minimum_files: Option<u32>,
    #[serde(rename = "maximumpeerqueuelength")]
    maximum_queue: Option<u32>,
    #[serde(rename = "minimumpeeruploadspeed")]
    minimum_speed: Option<u32>,
}

fn id(text: &str) -> Result<SearchId, Refused> {
    text.parse().map_err(|_| Refused::invalid("The id is not a UUID"))
}

pub(super) async fn start(State(web): Here, body: Bytes) -> Answer {
    let body: Body = input::body(&body)?;
    let fresh = || shape::new_search_id().ok_or(Refused(StatusCode::INTERNAL_SERVER_ERROR, String::new()));
    let id = body.id.as_deref().filter(|id| !id.is_empty()).map_or_else(fresh, id)?;
    let text = search_text(&body.search_text).map_err(|problem| Refused(problem.0, problem.1))?;
    let request = SearchRequest {
        id,
        text,
        user: None,
        timeout_ms: body.search_timeout.unwrap_or(15_000),
        response_limit: body.response_limit.unwrap_or(250),
        file_limit: body.file_limit.unwrap_or(10_000),
        filter_responses: body.filter_responses.unwrap_or(true),
        minimum_files: body.minimum_files.unwrap_or(1),
        maximum_queue: body.maximum_queue.unwrap_or(1_000_000),
        minimum_speed: body.minimum_speed.unwrap_or(0),
    };
    web.desk.order(Request::StartSearch(request)).await?;
    let (search, _) = web.desk.search(id).await?;
    Ok(Json(forms::search(&search, &[])))
}

pub(super) async fn list(State(web): Here) -> Answer {
    let searches = web.desk.searches().await?;
    Ok(Json(Value::Array(searches.iter().map(|search| forms::search(search, &[])).collect())))
}

pub(super) async fn one(State(web): Here, Path(text): Path<String>, parameters: input::Parameters) -> Answer {
    let (search, responses) = web.desk.search(id(&text)?).await?;
    let responses = if parameters.flag("includeresponses") { responses } else { Vec::new() };
    Ok(Json(forms::search(&search, &responses)))
}

pub(super) async fn responses(State(web): Here, Path(text): Path<String>) -> Answer {
    let (_, responses) = web.desk.search(id(&text)?).await?;
    Ok(Json(Value::Array(responses.iter().map(forms::response).collect())))
}

pub(super) async fn stop(State(web): Here, Path(text): Path<String>) -> Done {
    web.desk.order(Request::StopSearch(id(&text)?)).await?;
    Ok(StatusCode::OK)
}

pub(super) async fn forget(State(web): Here, Path(text): Path<String>) -> Done {
    web.desk.order(Request::ForgetSearch(id(&text)?)).await?;
    Ok(StatusCode::NO_CONTENT)
}
