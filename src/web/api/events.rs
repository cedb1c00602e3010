//! `/api/events`: what happens, to open pages. At most [`limits::EVENT_STREAMS`] listeners; one more gets 503.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::wrappers::{BroadcastStream, WatchStream};

use crate::model::limits;
use crate::model::view::Event;
use crate::web::server::Web;

use super::{Problem, shape};

/// A comment is sent after so much silence: it finds listeners that have left.
const SILENCE: Duration = Duration::from_secs(15);

fn sent(name: &str, data: &serde_json::Value) -> Sent {
    Sent::default().event(name).data(data.to_string())
}

fn form(event: Result<Event, BroadcastStreamRecvError>) -> Sent {
    match event {
        Ok(Event::Transfer(id, direction)) => {
            sent("transfer", &json!({ "id": id.to_string(), "direction": shape::direction(direction) }))
        }
        Ok(Event::DownloadFinished(id)) => sent("download_finished", &json!({ "id": id.to_string() })),
        Ok(Event::Search(id)) => sent("search", &json!({ "id": id.to_string() })),
        Ok(Event::Message(user)) => sent("message", &json!({ "user": user })),
        Ok(Event::Server) => sent("server", &json!({})),
        Ok(Event::Shares) => sent("shares", &json!({})),
        Ok(Event::Library) => sent("library", &json!({})),
        Err(BroadcastStreamRecvError::Lagged(missed)) => sent("missed", &json!({ "events": missed })),
    }
}

pub(super) async fn stream(State(web): State<Arc<Web>>) -> Response {
    let Ok(permit) = Arc::clone(&web.streams).try_acquire_owned() else {
        let why = format!("{} event streams are open already", limits::EVENT_STREAMS);
        return Problem(StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    let events = BroadcastStream::new(web.desk.events()).map(form);
    let pulse = WatchStream::new(web.desk.watch()).map(|snapshot| sent("status", &shape::pulse(&snapshot)));
    let both = stream::select(events, pulse).take_until(web.stop.clone().cancelled_owned());
    let both = both.map(move |event| {
        // The closure owns the permit, and the stream owns the closure.
        let _held = &permit;
        Ok::<Sent, Infallible>(event)
    });
    Sse::new(both).keep_alive(KeepAlive::new().interval(SILENCE)).into_response()
}
