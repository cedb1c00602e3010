//! Searches and wishes.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::id::{SearchId, Username};
use crate::model::limits;
use crate::model::view::{Request, SearchRequest};
use crate::web::server::Web;

use super::{Answer, Done, Problem, shape};
use crate::web::badges::Badges;

type Here = State<Arc<Web>>;

/// A search as slskd starts it when nothing else is said.
pub(crate) fn plain_search(id: SearchId, text: String, user: Option<Username>) -> SearchRequest {
    SearchRequest {
        id,
        text,
        user,
        timeout_ms: 15_000,
        response_limit: 250,
        file_limit: 10_000,
        filter_responses: true,
        minimum_files: 1,
        maximum_queue: 1_000_000,
        minimum_speed: 0,
    }
}

/// The words of a search or a wish, without the space around them.
pub(crate) fn search_text(text: &str) -> Result<String, Problem> {
    let text = text.trim();
    let fits = (1..=limits::QUERY_LEN).contains(&text.len()) && !text.chars().any(char::is_control);
    if fits {
        Ok(text.to_owned())
    } else {
        let why = format!("a search needs some words, at most {} bytes of them", limits::QUERY_LEN);
        Err(Problem(StatusCode::BAD_REQUEST, why))
    }
}

fn search_id(text: &str) -> Result<SearchId, Problem> {
    text.parse().map_err(|_| Problem(StatusCode::BAD_REQUEST, "the id is not a UUID".to_owned()))
}

pub(super) async fn list(State(web): Here) -> Answer {
    let searches = web.desk.searches().await?;
    Ok(Json(Value::Array(searches.iter().map(shape::search).collect())))
}

pub(super) async fn one(State(web): Here, Path(id): Path<String>) -> Answer {
    let (search, responses) = web.desk.search(search_id(&id)?).await?;
    let badges = Badges::look(&web.desk, &responses).await;
    let results: Vec<Value> = badges.sorted(responses).iter().map(|(r, badges)| shape::response(r, badges)).collect();
    Ok(Json(json!({ "search": shape::search(&search), "results": results })))
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    text: String,
    user: Option<String>,
}

pub(super) async fn start(State(web): Here, Json(wanted): Json<Wanted>) -> Result<(StatusCode, Json<Value>), Problem> {
    let text = search_text(&wanted.text)?;
    let id = shape::new_search_id()
        .ok_or_else(|| Problem(StatusCode::INTERNAL_SERVER_ERROR, "the system gives no random bytes".to_owned()))?;
    let user = wanted.user.filter(|name| !name.is_empty()).map(Username::new);
    web.desk.order(Request::StartSearch(plain_search(id, text, user))).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id.to_string() }))))
}

pub(super) async fn stop(State(web): Here, Path(id): Path<String>) -> Done {
    web.desk.order(Request::StopSearch(search_id(&id)?)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn forget(State(web): Here, Path(id): Path<String>) -> Done {
    web.desk.order(Request::ForgetSearch(search_id(&id)?)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn wishes(State(web): Here) -> Answer {
    let wishes = web.desk.wishes().await?;
    Ok(Json(Value::Array(wishes.iter().map(shape::wish).collect())))
}

pub(super) async fn add_wish(
    State(web): Here,
    Json(wanted): Json<Wanted>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let id = web.desk.add_wish(search_text(&wanted.text)?).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))))
}

pub(super) async fn remove_wish(State(web): Here, Path(id): Path<u64>) -> Done {
    web.desk.order(Request::RemoveWish(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
