//! The pages: plain HTML out of `web-min/`, forms that post and are redirected, nothing that needs a script.
//!
//! Each room fills one or two templates. Remote text goes through [`super::show::visible`] here and is escaped by
//! askama there. Success is told by a word in the address ([`flash`]), failure by a page of its own ([`problem`]), so
//! that no text of a request is ever shown back.

mod assets;
mod contribution;
mod flash;
mod jobs;
mod library;
mod log;
mod mesh;
mod people;
mod searches;
mod settings;
mod shares;
mod sign_in;
mod status;
mod system;
mod traces;
mod transfers;

use std::fmt::Display;
use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Deserialize;

use crate::model::view::{Refusal, ServerState};

use super::api::Problem;
use super::guard::{By, Denied, Visit};
use super::routes::{Route, route};
use super::server::Web;
use super::settings::Role::{Administrator, Readonly, Readwrite};
use super::show;

pub(crate) use assets::{mark, style};

/// Rows of a page of transfers, folders and the like.
const ROWS: usize = 100;

pub(crate) fn table() -> Vec<Route> {
    vec![
        route("GET", "/", Readonly, "", status::show),
        route("POST", "/connect", Administrator, "", status::connect),
        route("POST", "/disconnect", Administrator, "", status::disconnect),
        route("POST", "/credentials", Administrator, "", status::credentials),
        route("GET", "/search", Readonly, "", searches::list),
        route("POST", "/search", Readwrite, "", searches::start),
        route("POST", "/wishes", Readwrite, "", searches::add_wish),
        route("POST", "/wishes/remove", Readwrite, "", searches::remove_wish),
        route("GET", "/searches/{id}", Readonly, "", searches::show),
        route("POST", "/searches/{id}/stop", Readwrite, "", searches::stop),
        route("POST", "/searches/{id}/forget", Readwrite, "", searches::forget),
        route("GET", "/downloads", Readonly, "", transfers::downloads),
        route("POST", "/downloads", Readwrite, "", transfers::change_download),
        route("POST", "/downloads/add", Readwrite, "", transfers::add),
        route("POST", "/downloads/clear", Readwrite, "", transfers::clear_downloads),
        route("GET", "/uploads", Readonly, "", transfers::uploads),
        route("POST", "/uploads", Readwrite, "", transfers::change_upload),
        route("POST", "/uploads/clear", Readwrite, "", transfers::clear_uploads),
        route("GET", "/shares", Readonly, "", shares::show),
        route("POST", "/shares/rescan", Readwrite, "", shares::rescan),
        route("POST", "/shares/stop", Readwrite, "", shares::stop),
        route("POST", "/shares/add", Administrator, "", shares::add),
        route("POST", "/shares/remove", Administrator, "", shares::remove),
        route("GET", "/shares/folders", Readonly, "", shares::folders),
        route("GET", "/library", Readonly, "", library::show),
        route("POST", "/library/scan", Readwrite, "", library::scan),
        route("POST", "/library/scan/stop", Readwrite, "", library::stop),
        route("GET", "/library/artists", Readonly, "", library::by_artist),
        route("GET", "/library/releases", Readonly, "", library::by_release),
        route("GET", "/library/scores", Readonly, "", library::scores),
        route("GET", "/library/issues", Readonly, "", library::issues::list),
        route("POST", "/library/issues/fix", Readwrite, "", library::repair::fix),
        route("GET", "/library/issues/{id}", Readonly, "", library::issues::show),
        route("POST", "/library/issues/{id}", Readwrite, "", library::issues::change),
        route("POST", "/library/issues/{id}/undo", Readwrite, "", library::repair::undo),
        route("GET", "/library/variants/{copy}", Readonly, "", library::variant::show),
        route("GET", "/library/variants/{copy}/spectrogram.png", Readonly, "", library::variant::spectrogram),
        route("GET", "/users", Readonly, "", people::list),
        route("GET", "/users/{name}", Readonly, "", people::show),
        route("GET", "/users/{name}/picture", Readonly, "", people::picture),
        route("POST", "/users/{name}/messages", Readwrite, "", people::send),
        route("POST", "/users/{name}/forget", Readwrite, "", people::forget),
        route("GET", "/users/{name}/browse", Readonly, "", people::browse),
        route("POST", "/users/{name}/browse", Readwrite, "", people::fetch),
        route("GET", "/users/{name}/folder", Readonly, "", people::folder),
        route("GET", "/jobs", Readonly, "", jobs::list),
        route("POST", "/jobs", Readwrite, "", jobs::add),
        route("POST", "/jobs/import", Readwrite, "", jobs::import),
        route("GET", "/jobs/{id}", Readonly, "", jobs::show),
        route("POST", "/jobs/{id}", Readwrite, "", jobs::change),
        route("GET", "/jobs/{id}/manifest", Readonly, "", jobs::export),
        route("GET", "/traces", Readonly, "", traces::list),
        route("GET", "/traces/{id}", Readonly, "", traces::show),
        route("GET", "/mesh", Readonly, "", mesh::show),
        route("GET", "/contribution", Readonly, "", contribution::show),
        route("GET", "/log", Readonly, "", log::show),
        route("GET", "/settings", Readonly, "", settings::show),
        route("POST", "/settings", Administrator, "", settings::change),
        route("POST", "/settings/password", Administrator, "", settings::password),
        route("GET", "/system", Readonly, "", system::show),
        route("POST", "/system/update", Administrator, "", system::update),
        route("POST", "/system/downloads", Administrator, "", system::downloads),
        route("POST", "/system/restart", Administrator, "", system::restart),
        route("POST", "/system/off", Administrator, "", system::off),
        route("POST", "/shutdown", Administrator, "", settings::shutdown),
        route("GET", "/login", None, "", sign_in::show),
        route("POST", "/login", None, "", sign_in::sign_in),
        route("GET", "/setup", None, "", sign_in::show_setup),
        route("POST", "/setup", None, "", sign_in::set_up),
        route("POST", "/logout", Readwrite, "", sign_in::sign_out),
        route("GET", "/static/style.css", None, "", assets::style),
        route("GET", "/static/page.js", None, "", assets::script),
        route("GET", "/static/icon.svg", None, "", assets::icon),
    ]
}

/// What every page needs around its own content.
pub(crate) struct Head {
    /// Title of the page.
    title: String,
    /// Which entry of the menu is this page.
    here: &'static str,
    /// Prefix of every link.
    base: String,
    csrf: String,
    /// A sentence about something that was done.
    flash: Option<&'static str>,
    /// Nobody is asked who they are, because there is no password.
    no_password: bool,
    /// Nobody is asked who they are, because the owner switched that off.
    switched_off: bool,
    /// The menu is shown.
    known: bool,
    /// There is a session to sign out of.
    session: bool,
    /// Seconds after which browsers without scripts load the page again.
    refresh_s: Option<u32>,
    /// Events upon which scripts load the page's content again; empty for none.
    live: &'static str,
    /// The connection in two words.
    server: &'static str,
    down: String,
    up: String,
    unread: u32,
    warnings: usize,
    /// Part of the addresses of style and script, so that new ones are fetched.
    mark: &'static str,
}

/// The word of what was done, in the page's address.
#[derive(Default, Deserialize)]
struct Told {
    #[serde(default)]
    done: String,
}

/// What a page's handler starts from: the program, the visitor, and the sentence to show.
pub(crate) struct Desktop {
    web: Arc<Web>,
    visit: Visit,
    flash: Option<&'static str>,
}

impl FromRequestParts<Arc<Web>> for Desktop {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, web: &Arc<Web>) -> Result<Self, Denied> {
        let visit = Visit::from_request_parts(parts, web).await?;
        let told = Query::<Told>::try_from_uri(&parts.uri).map(|told| told.0).unwrap_or_default();
        Ok(Self { web: Arc::clone(web), visit, flash: flash::sentence(&told.done) })
    }
}

impl Desktop {
    fn head(&self, title: impl Into<String>, here: &'static str) -> Head {
        head(&self.web, &self.visit, title.into(), here, self.flash)
    }

    /// To another page of ours.
    fn go(&self, to: impl Display) -> Response {
        redirect(&self.visit.base, &to.to_string())
    }

    /// To another page, where a sentence says what was done.
    fn done(&self, to: impl Display, word: &'static str) -> Response {
        let to = to.to_string();
        let join = if to.contains('?') { '&' } else { '?' };
        redirect(&self.visit.base, &format!("{to}{join}done={word}"))
    }

    fn problem(&self, status: StatusCode, sentence: &str) -> Response {
        problem(&self.web, &self.visit, status, sentence)
    }

    /// A refusal as a page.
    fn refused(&self, refusal: impl Into<Problem>) -> Response {
        let Problem(status, why) = refusal.into();
        self.problem(status, &sentence(&show::visible(&why)))
    }
}

/// With a capital and a full stop; names of files and settings in front stay as they are written.
fn sentence(why: &str) -> String {
    let is_name = why.split_whitespace().next().is_some_and(|word| word.trim_end_matches('.').contains('.'));
    let mut letters = why.chars();
    let first = letters.next().map(|c| if is_name { c.to_string() } else { c.to_uppercase().collect() });
    let first = first.unwrap_or_default();
    let stop = if why.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{stop}", letters.as_str())
}

fn server_words(state: ServerState) -> &'static str {
    match state {
        ServerState::Unconfigured => "not set up",
        ServerState::Disconnected => "offline",
        ServerState::Connecting => "connecting",
        ServerState::LoggingIn => "logging in",
        ServerState::LoggedIn => "online",
    }
}

fn head(web: &Web, visit: &Visit, title: String, here: &'static str, flash: Option<&'static str>) -> Head {
    let snapshot = web.desk.snapshot();
    let by = visit.access.as_ref().map(|access| &access.by);
    let open = by == Some(&By::Open);
    Head {
        title,
        here,
        base: visit.base.clone(),
        csrf: visit.csrf.clone(),
        flash,
        no_password: open && web.settings.authentication,
        switched_off: open && !web.settings.authentication,
        known: by.is_some(),
        session: matches!(by, Some(By::Session(_))),
        refresh_s: None,
        live: "",
        server: server_words(snapshot.server.state),
        down: rate(snapshot.downloads.speed),
        up: rate(snapshot.uploads.speed),
        unread: snapshot.unread_messages,
        warnings: snapshot.warnings.len(),
        mark: assets::mark(),
    }
}

fn rate(speed: u64) -> String {
    crate::model::units::BytesPerSec(speed).to_string()
}

fn size(bytes: u64) -> String {
    crate::model::units::Bytes(bytes).to_string()
}

/// Fills a template.
fn html(page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => Html(text).into_response(),
        Err(problem) => {
            tracing::error!(%problem, "a page could not be filled");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// 303, so that the browser asks with GET and a reload repeats nothing.
pub(crate) fn redirect(base: &str, to: &str) -> Response {
    let Ok(to) = HeaderValue::try_from(format!("{base}{to}")) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
}

#[derive(Template)]
#[template(path = "problem.html", config = "web-min/askama.toml")]
struct ProblemPage<'a> {
    head: Head,
    sentence: &'a str,
}

/// A page that says what went wrong.
pub(crate) fn problem(web: &Web, visit: &Visit, status: StatusCode, why: &str) -> Response {
    let head = head(web, visit, "That did not work".to_owned(), "", None);
    let mut response = html(&ProblemPage { head, sentence: &sentence(why) });
    *response.status_mut() = status;
    response
}

#[derive(Template)]
#[template(path = "confirm.html", config = "web-min/askama.toml")]
struct ConfirmPage {
    head: Head,
    /// What is about to happen, and what is lost.
    sentence: String,
    /// Where the form goes.
    action: String,
    name: &'static str,
    value: String,
    /// Words of the button.
    button: &'static str,
    /// Where to go instead.
    back: String,
}

/// Fields of a form; one name may come several times.
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    fn of(form: Form<Vec<(String, String)>>) -> Self {
        Self(form.0)
    }

    /// The first value of this name; empty when there is none.
    fn get(&self, name: &'static str) -> &str {
        self.all(name).next().unwrap_or_default()
    }

    fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl axum::extract::FromRequest<Arc<Web>> for Fields {
    type Rejection = axum::extract::rejection::FormRejection;

    async fn from_request(request: axum::extract::Request, web: &Arc<Web>) -> Result<Self, Self::Rejection> {
        Form::from_request(request, web).await.map(Self::of)
    }
}

/// Which page of a list, counted from 1.
#[derive(Clone, Copy, Default, Deserialize)]
struct PageNumber {
    #[serde(default)]
    page: usize,
}

/// Links to the other pages of a list.
struct Pager {
    page: usize,
    pages: usize,
    /// Address up to the number.
    link: String,
}

impl Pager {
    /// `link` ends in `?` or `&`.
    fn new(number: usize, all: usize, rows: usize, link: &str) -> Self {
        let pages = all.div_ceil(rows).max(1);
        Self { page: number.clamp(1, pages), pages, link: format!("{link}page=") }
    }
}

/// Rows to skip before a page.
fn offset(page: usize, rows: usize) -> usize {
    page.saturating_sub(1).saturating_mul(rows)
}

/// The answer or the page that says why there is none.
macro_rules! answer_or_return {
    ($desktop:expr, $outcome:expr) => {
        match $outcome {
            Ok(value) => value,
            Err(refusal) => return $desktop.refused(refusal),
        }
    };
}
use answer_or_return;

/// Why a part of a page is missing, as a sentence.
fn why(refusal: Refusal) -> String {
    sentence(&show::visible(&Problem::from(refusal).1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pagers_stay_within_their_pages() {
        let check = |number, all, page, pages| {
            let pager = Pager::new(number, all, 100, "/log?");
            assert_eq!((pager.page, pager.pages), (page, pages));
            assert_eq!(pager.link, "/log?page=");
        };
        check(0, 0, 1, 1);
        check(1, 100, 1, 1);
        check(9, 101, 2, 2);
        check(usize::MAX, 1, 1, 1);
        assert_eq!(offset(usize::MAX, 100), usize::MAX);
    }

    #[test]
    fn reasons_become_sentences() {
        assert_eq!(sentence("there is no such thing"), "There is no such thing.");
        assert_eq!(sentence("slskdn.yml is empty"), "slskdn.yml is empty.");
        assert_eq!(sentence("done."), "Done.");
        assert_eq!(sentence(""), ".");
    }
}
