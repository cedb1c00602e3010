//! The one table of what there is: method, path, role, summary, handler. The router, the role checks and
//! `/api/openapi.json` are all made from it.
//!
//! The slskd-compatible `/api/v0` has a table of its own, [`api::v0`]; its two session paths stand in
//! [`super::guard::PUBLIC`].

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodRouter};

use super::guard::{Access, Denied, Visit};
use super::server::Web;
use super::settings::Role;
use super::{api, pages};

/// One thing to ask for.
#[derive(Clone, Debug)]
pub struct Route {
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: &'static str,
    /// Path with `{names}`.
    pub path: &'static str,
    /// The least role; `None` is for everybody, and stands in [`super::guard::PUBLIC`].
    pub role: Option<Role>,
    /// What it does, for the API's own description; pages have none.
    pub summary: &'static str,
    handler: MethodRouter<Arc<Web>>,
}

/// One row of the table.
pub(crate) fn route<H, T>(
    method: &'static str,
    path: &'static str,
    role: impl Into<Option<Role>>,
    summary: &'static str,
    handler: H,
) -> Route
where
    H: Handler<T, Arc<Web>>,
    T: 'static,
{
    let handler = match method {
        "POST" => routing::post(handler),
        "DELETE" => routing::delete(handler),
        "PUT" => routing::put(handler),
        "PATCH" => routing::patch(handler),
        _ => routing::get(handler),
    };
    Route { method, path, role: role.into(), summary, handler }
}

/// Every page and every endpoint of ours.
pub fn table() -> Vec<Route> {
    let mut table = pages::table();
    table.extend(api::table());
    table
}

/// The router over the whole table.
pub(crate) fn router(web: Arc<Web>) -> Router {
    let mut router = Router::new();
    for row in table().into_iter().chain(api::v0::table()) {
        let handler = match row.role {
            None => row.handler,
            Some(role) => row.handler.route_layer(middleware::from_fn(
                move |access: Access, request: Request, next: Next| async move {
                    match access.require(role) {
                        Ok(()) => next.run(request).await,
                        Err(denied) => denied.into_response(),
                    }
                },
            )),
        };
        router = router.route(row.path, handler);
    }
    router.fallback(nothing_here).with_state(web)
}

async fn nothing_here(
    axum::extract::State(web): axum::extract::State<Arc<Web>>,
    visit: Visit,
    request: Request,
) -> Response {
    if request.uri().path().starts_with("/api/") {
        Denied(StatusCode::NOT_FOUND, "there is no such endpoint".to_owned()).into_response()
    } else {
        pages::problem(&web, &visit, StatusCode::NOT_FOUND, "There is no such page.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::guard::PUBLIC;

    #[test]
    fn what_is_for_everybody_is_listed() {
        for row in table() {
            assert_eq!(row.role.is_none(), PUBLIC.contains(&row.path), "{} {}", row.method, row.path);
            let is_change = row.method != "GET";
            assert!(!is_change || row.role.is_none() || row.role >= Some(Role::Readwrite), "{}", row.path);
            assert_eq!(row.path.starts_with("/api/"), !row.summary.is_empty() && row.path.starts_with("/api/"));
        }
    }

    #[test]
    fn nothing_of_ours_is_under_v0() {
        assert!(table().iter().all(|row| !row.path.starts_with("/api/v0")));
    }
}
