//! The page for a box that does not start: why, the log, a restore from a backup, another try. It needs no store and no
//! settings. Everything but the reason is behind a code that only the screen and the boot partition show.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Form, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::token::same;
use super::{pages, show, upload};
use crate::model::time::UnixMs;

/// Connections at once; further ones wait in the kernel.
const CONNECTIONS: usize = 8;
/// Wrong codes until the next start of this page.
const TRIES: usize = 20;
/// Where an upload is written, in the spool.
pub const UPLOAD: &str = "rescue-upload";
/// A backup of at most so many bytes is taken.
const BACKUP_LEN: u64 = 4 * 1024 * 1024 * 1024;
const HEADERS_WITHIN: Duration = Duration::from_secs(5);
const CSP: &str = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What the page is started with.
pub struct Rescue {
    /// Why the box does not start, a sentence each.
    pub reasons: Vec<String>,
    /// The code.
    pub code: String,
    /// The newest lines of the log.
    pub log: Box<dyn Fn() -> String + Send + Sync>,
    /// Where an uploaded backup is written; `None` where there is no disk to restore to.
    pub spool: Option<PathBuf>,
    /// Puts the backup of this path back; a sentence about it.
    pub restore: Box<dyn Fn(PathBuf) -> Result<String, String> + Send + Sync>,
    /// Copies of the store that lie on the box: when each was written, and where it is.
    pub copies: Box<dyn Fn() -> Vec<(UnixMs, PathBuf)> + Send + Sync>,
    /// Restarts the box; `None` where it is not ours to restart.
    pub restart: Option<Box<dyn Fn() -> Result<(), String> + Send + Sync>>,
    /// Cancelled when the owner wants another try.
    pub again: CancellationToken,
    /// One permit: of the one backup that is being uploaded or put back, or of the end of this page, which waits for it.
    pub turn: Arc<Semaphore>,
}

struct Desk {
    rescue: Rescue,
    /// Of the cookie of whoever gave the code.
    key: String,
    wrong: AtomicUsize,
    /// What was done last.
    told: Mutex<String>,
}

#[derive(Template)]
#[template(path = "rescue.html", config = "web-min/askama.toml")]
struct Page<'a> {
    reasons: &'a [String],
    known: bool,
    told: String,
    log: String,
    may_restore: bool,
    copies: Vec<(String, String)>,
    may_restart: bool,
    mark: &'static str,
}

impl Desk {
    fn known(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut found = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().strip_prefix("rescue="));
        found.any(|value| same(value, &self.key))
    }

    /// The only one's turn; `None`, and told, while another has it.
    fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.rescue.turn).try_acquire_owned().ok();
        if turn.is_none() {
            self.tell("Another backup is being uploaded or put back: wait until this page says how that ended.");
        }
        turn
    }

    fn tell(&self, sentence: impl Into<String>) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = sentence.into();
    }
}

/// A form of ours comes from the host it goes to; others' forms do not carry the cookie either.
fn is_ours(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    text(header::ORIGIN).is_some_and(|origin| origin.strip_prefix("http://") == Some(host))
}

fn back() -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, "/")]).into_response()
}

async fn show(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Response {
    let known = desk.known(&headers);
    let log = if known {
        let asked = Arc::clone(&desk);
        tokio::task::spawn_blocking(move || (asked.rescue.log)()).await.unwrap_or_default()
    } else {
        String::new()
    };
    let line = |(at, path): (UnixMs, PathBuf)| {
        (format!("The box's own copy of {}", show::moment(at).text), path.to_string_lossy().into_owned())
    };
    let copies = if known { copies(&desk).await.into_iter().map(line).collect() } else { Vec::new() };
    let page = Page {
        reasons: &desk.rescue.reasons,
        known,
        told: desk.told.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        log,
        may_restore: desk.rescue.spool.is_some(),
        copies,
        may_restart: desk.rescue.restart.is_some(),
        mark: pages::mark(),
    };
    match page.render() {
        Ok(text) => (StatusCode::SERVICE_UNAVAILABLE, Html(text)).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(Deserialize)]
struct Code {
    #[serde(default)]
    code: String,
}

async fn open(State(desk): State<Arc<Desk>>, headers: HeaderMap, Form(given): Form<Code>) -> Response {
    if !is_ours(&headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    if desk.wrong.load(Relaxed) >= TRIES {
        desk.tell("Too many wrong codes: restart the box, and try again.");
        return back();
    }
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    if !same(&plain(&given.code), &plain(&desk.rescue.code)) {
        desk.wrong.fetch_add(1, Relaxed);
        desk.tell("That is not the code.");
        return back();
    }
    desk.tell("");
    let cookie = format!("rescue={}; Path=/; HttpOnly; SameSite=Strict", desk.key);
    (StatusCode::SEE_OTHER, [(header::LOCATION, "/".to_owned()), (header::SET_COOKIE, cookie)]).into_response()
}

async fn again(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Response {
    if !is_ours(&headers) || !desk.known(&headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Some(turn) = desk.turn() else { return back() };
    // No backup is begun any more.
    turn.forget();
    desk.rescue.again.cancel();
    Html("<!DOCTYPE html><title>slskdn</title><p>The box tries again. Load the page in a minute.").into_response()
}

async fn restart(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Response {
    let (true, true, Some(restart)) = (is_ours(&headers), desk.known(&headers), &desk.rescue.restart) else {
        return StatusCode::FORBIDDEN.into_response();
    };
    let Some(_turn) = desk.turn() else { return back() };
    match restart() {
        Ok(()) => Html("<!DOCTYPE html><title>slskdn</title><p>The box restarts. Load the page in some minutes.")
            .into_response(),
        Err(sentence) => {
            desk.tell(format!("The box could not be restarted: {sentence}."));
            back()
        }
    }
}

#[derive(Deserialize)]
struct Which {
    which: String,
}

/// One of the copies that lie on the box.
async fn copy(State(desk): State<Arc<Desk>>, headers: HeaderMap, Form(Which { which }): Form<Which>) -> Response {
    if !is_ours(&headers) || !desk.known(&headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Some(turn) = desk.turn() else { return back() };
    // One of the list: nothing else is ever opened.
    match copies(&desk).await.into_iter().find(|(_, path)| path.to_str() == Some(&which)) {
        Some((_, path)) => put(&desk, path, turn).await,
        None => told(&desk, Err("this copy is not there any more".to_owned())),
    }
    back()
}

async fn copies(desk: &Arc<Desk>) -> Vec<(UnixMs, PathBuf)> {
    let asked = Arc::clone(desk);
    tokio::task::spawn_blocking(move || (asked.rescue.copies)()).await.unwrap_or_default()
}

/// Puts a backup back, and tells. It goes on, and keeps its turn, when the visitor does not wait for it.
async fn put(desk: &Arc<Desk>, path: PathBuf, turn: OwnedSemaphorePermit) {
    desk.tell("A backup is being put back. Load this page again in a while.");
    let asked = Arc::clone(desk);
    let done = tokio::task::spawn_blocking(move || {
        let outcome = (asked.rescue.restore)(path.clone());
        if asked.rescue.spool.as_ref().is_some_and(|spool| path == spool.join(UPLOAD)) {
            // It was taken apart, or it is of no use.
            drop(std::fs::remove_file(path));
        }
        told(&asked, outcome);
        drop(turn);
    });
    if let Err(error) = done.await {
        told(desk, Err(error.to_string()));
    }
}

fn told(desk: &Desk, outcome: Result<String, String>) {
    match outcome {
        Ok(sentence) => desk.tell(format!("{sentence}. Let the box try again.")),
        Err(sentence) => desk.tell(format!("The backup was not put back: {sentence}.")),
    }
}

async fn restore(State(desk): State<Arc<Desk>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (true, true, Some(spool)) = (is_ours(&parts.headers), desk.known(&parts.headers), &desk.rescue.spool) else {
        return StatusCode::FORBIDDEN.into_response();
    };
    let Some(turn) = desk.turn() else { return back() };
    let path = spool.join(UPLOAD);
    match upload::receive(&parts.headers, Body::new(body), &path, BACKUP_LEN).await {
        Ok(_) => put(&desk, path, turn).await,
        Err(error) => {
            told(&desk, Err(error.to_string()));
            drop(tokio::fs::remove_file(&path).await);
        }
    }
    back()
}

async fn protected(request: Request, next: axum::middleware::Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CSP));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Serves the page on these sockets until `stop`. `key` is a secret of this run.
pub async fn serve(listeners: Vec<TcpListener>, rescue: Rescue, key: String, stop: CancellationToken) {
    let desk = Arc::new(Desk { rescue, key, wrong: AtomicUsize::new(0), told: Mutex::default() });
    let router = Router::new()
        .route("/", get(show))
        .route("/health", get(|| async { (StatusCode::SERVICE_UNAVAILABLE, "rescue\n") }))
        .route("/open", post(open))
        .route("/again", post(again))
        .route("/restart", post(restart))
        .route("/copy", post(copy))
        .route("/restore", post(restore).layer(DefaultBodyLimit::disable()))
        .route("/static/style.css", get(pages::style))
        .layer(DefaultBodyLimit::max(16 * 1024))
        .layer(axum::middleware::from_fn(protected))
        .fallback(|| async { back() })
        .with_state(desk);
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut doors = tokio::task::JoinSet::new();
    for listener in listeners {
        doors.spawn(keep(listener, router.clone(), Arc::clone(&permits)));
    }
    stop.cancelled().await;
    doors.shutdown().await;
}

async fn keep(listener: TcpListener, router: Router, permits: Arc<Semaphore>) {
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let Ok((stream, _)): Result<(_, SocketAddr), _> = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let stream = super::stall::Stall::new(stream, Duration::from_secs(30));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS_WITHIN)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // What a caller breaks is its own loss.
            let _ = connection.await;
            drop(permit);
        });
    }
}
