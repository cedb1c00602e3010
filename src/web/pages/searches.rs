//! `/search` and `/searches/{id}`: ask the network, look at what came, ask for files; and the wishes.

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;

use crate::model::gossip::Badge;
use crate::model::id::{SearchId, Username};
use crate::model::music::{Attributes, WireText};
use crate::model::view::{FileView, Refusal, Request, ResponseView, SearchState, SearchView};
use crate::web::api::shape::new_search_id;
use crate::web::api::{plain_search, search_text};
use crate::web::badges::Badges;
use crate::web::show::{self, Moment};

use super::transfers::{Known, file_word, folder_word};
use super::{Desktop, Fields, Head, PageNumber, Pager, answer_or_return, html, offset, rate, size};

/// Users on one page of results.
const USERS: usize = 20;
/// Files shown of one user.
const FILES: usize = 100;

#[derive(Template)]
#[template(path = "searches.html", config = "web-min/askama.toml")]
struct SearchesPage {
    head: Head,
    online: bool,
    searches: Vec<Line>,
    wishes: Vec<WishLine>,
}

struct Line {
    id: String,
    text: String,
    state: &'static str,
    running: bool,
    at: Moment,
    files: u32,
    responses: u32,
}

struct WishLine {
    id: u64,
    text: String,
    searched_at: Option<Moment>,
    found: u32,
}

fn state_words(state: SearchState) -> &'static str {
    match state {
        SearchState::Queued => "waits for its turn",
        SearchState::InProgress => "searching",
        SearchState::TimedOut => "finished",
        SearchState::ResponseLimitReached | SearchState::FileLimitReached => "finished: enough results",
        SearchState::Cancelled => "stopped",
        SearchState::Errored => "not sent",
    }
}

fn is_running(state: SearchState) -> bool {
    matches!(state, SearchState::Queued | SearchState::InProgress)
}

impl Line {
    fn new(search: &SearchView) -> Self {
        Self {
            id: search.id.to_string(),
            text: show::visible(&search.text),
            state: state_words(search.state),
            running: is_running(search.state),
            at: show::moment(search.started_at),
            files: search.files,
            responses: search.responses,
        }
    }
}

pub(super) async fn list(desktop: Desktop) -> Response {
    let searches = answer_or_return!(desktop, desktop.web.desk.searches().await);
    let wishes = answer_or_return!(desktop, desktop.web.desk.wishes().await);
    let mut head = desktop.head("Search", "search");
    head.live = "search";
    head.refresh_s = searches.iter().any(|search| is_running(search.state)).then_some(10);
    html(&SearchesPage {
        online: head.server == "online",
        head,
        searches: searches.iter().map(Line::new).collect(),
        wishes: wishes
            .iter()
            .map(|wish| WishLine {
                id: wish.id,
                text: show::visible(&wish.text),
                searched_at: wish.searched_at.map(show::moment),
                found: wish.found,
            })
            .collect(),
    })
}

pub(super) async fn start(desktop: Desktop, fields: Fields) -> Response {
    if super::jobs::names_a_release(fields.get("text")) {
        let reference = fields.get("text").to_owned();
        return super::jobs::begin(desktop, &reference, "").await;
    }
    let text = answer_or_return!(desktop, search_text(fields.get("text")));
    let user = Some(fields.get("user").trim()).filter(|name| !name.is_empty()).map(Username::from);
    let Some(id) = new_search_id() else {
        return desktop.problem(StatusCode::INTERNAL_SERVER_ERROR, "the system gives no random bytes");
    };
    answer_or_return!(desktop, desktop.web.desk.order(Request::StartSearch(plain_search(id, text, user))).await);
    desktop.done(format_args!("/searches/{id}"), "searching")
}

pub(super) async fn add_wish(desktop: Desktop, fields: Fields) -> Response {
    let text = answer_or_return!(desktop, search_text(fields.get("text")));
    answer_or_return!(desktop, desktop.web.desk.add_wish(text).await);
    desktop.done("/search", "wish_added")
}

pub(super) async fn remove_wish(desktop: Desktop, fields: Fields) -> Response {
    let Ok(id) = fields.get("id").parse() else {
        return desktop.problem(StatusCode::BAD_REQUEST, "the form did not say which wish is meant");
    };
    answer_or_return!(desktop, desktop.web.desk.order(Request::RemoveWish(id)).await);
    desktop.done("/search", "wish_removed")
}

#[derive(Template)]
#[template(path = "search.html", config = "web-min/askama.toml")]
struct SearchPage {
    head: Head,
    search: Line,
    /// What was found, counted in words.
    found: String,
    locked: u32,
    groups: Vec<Group>,
    pager: Pager,
    /// Responses that were counted but not kept.
    dropped: u64,
}

struct Group {
    user: String,
    user_link: String,
    free: bool,
    speed: String,
    queue: u32,
    folders: Vec<Folder>,
    more: usize,
    /// Files that only some may fetch, counted in words.
    locked: Option<String>,
}

struct Folder {
    name: String,
    word: String,
    files: Vec<File>,
}

/// A file that can be asked for.
pub(super) struct File {
    pub(super) name: String,
    pub(super) word: String,
    /// What became of it, where it was asked for before.
    pub(super) state: Option<&'static str>,
    /// It may be asked for.
    pub(super) wanted: bool,
    pub(super) size: String,
    pub(super) quality: String,
    pub(super) length: String,
    /// What is known of it, where it matches a known copy.
    pub(super) badge: Option<String>,
}

/// Bitrate, or sample rate and depth where they are told: `320 kbit/s`, `44.1 kHz, 16 bit`.
fn quality(a: &Attributes) -> String {
    let mut parts = Vec::new();
    if let Some(bitrate) = a.bitrate_kbps {
        parts.push(format!("{bitrate} kbit/s{}", if a.vbr == Some(true) { " VBR" } else { "" }));
    }
    if let Some(rate) = a.sample_rate_hz {
        parts.push(match rate % 1000 {
            0 => format!("{} kHz", rate / 1000),
            rest => format!("{}.{} kHz", rate / 1000, rest / 100),
        });
    }
    parts.extend(a.bit_depth.map(|depth| format!("{depth} bit")));
    parts.join(", ")
}

impl File {
    /// `path` is the whole name by which the file is asked for.
    pub(super) fn new(file: &FileView, user: &Username, path: &WireText, known: &Known) -> Self {
        let (state, wanted) = known.of(user, path);
        Self {
            name: show::visible(file.name.base_name()),
            word: file_word(user, path, file.size),
            state,
            wanted,
            size: size(file.size),
            quality: quality(&file.attributes),
            length: file.attributes.duration_s.map(show::track_length).unwrap_or_default(),
            badge: None,
        }
    }
}

impl Group {
    fn new(response: &ResponseView, badges: &[Option<Badge>], known: &Known) -> Self {
        let mut files: Vec<(&FileView, Option<Badge>)> = response.files.iter().zip(badges.iter().copied()).collect();
        files.sort_by(|(a, _), (b, _)| (a.name.folder(), a.name.as_str()).cmp(&(b.name.folder(), b.name.as_str())));
        let more = files.len().saturating_sub(FILES);
        let mut folders: Vec<Folder> = Vec::new();
        let mut last = None;
        for (file, badge) in files.into_iter().take(FILES) {
            let folder = file.name.folder();
            if last != Some(folder) {
                last = Some(folder);
                let word = folder_word(&response.user, &folder.into());
                folders.push(Folder { name: show::visible(folder), word, files: Vec::new() });
            }
            if let Some(folder) = folders.last_mut() {
                let badge = badge.map(|badge| badge.to_string());
                folder.files.push(File { badge, ..File::new(file, &response.user, &file.name, known) });
            }
        }
        Self {
            user: show::visible(response.user.as_str()),
            user_link: show::segment(response.user.as_str()),
            free: response.free_slot,
            speed: rate(response.upload_speed.into()),
            queue: response.queue_length,
            folders,
            more,
            locked: Some(u64::try_from(response.locked_files.len()).unwrap_or(u64::MAX))
                .filter(|n| *n > 0)
                .map(|n| show::count(n, "locked file", "locked files")),
        }
    }
}

fn parse_id(id: &str) -> Result<SearchId, Refusal> {
    id.parse().map_err(|_| Refusal::NotFound)
}

pub(super) async fn show(
    desktop: Desktop,
    Path(id): Path<String>,
    Query(PageNumber { page }): Query<PageNumber>,
) -> Response {
    let id = answer_or_return!(desktop, parse_id(&id));
    let (search, mut responses) = answer_or_return!(desktop, desktop.web.desk.search(id).await);
    let known = answer_or_return!(desktop, Known::look(&desktop).await);
    responses.sort_by(|a, b| {
        let rank = |r: &ResponseView| (!r.free_slot, u32::MAX - r.upload_speed, r.queue_length);
        rank(a).cmp(&rank(b)).then_with(|| a.user.cmp(&b.user))
    });
    let all = responses.len();
    let responses = Badges::look(&desktop.web.desk, &responses).await.sorted(responses);
    let pager = Pager::new(page, all, USERS, &format!("/searches/{id}?"));
    let mut head = desktop.head("Search results", "search");
    if is_running(search.state) {
        head.refresh_s = Some(5);
        head.live = "search";
    }
    html(&SearchPage {
        head,
        found: format!(
            "{} from {}",
            show::count(search.files, "file", "files"),
            show::count(search.responses, "user", "users")
        ),
        locked: search.locked_files,
        dropped: u64::from(search.responses).saturating_sub(all.try_into().unwrap_or(u64::MAX)),
        groups: responses
            .iter()
            .skip(offset(pager.page, USERS))
            .take(USERS)
            .map(|(r, badges)| Group::new(r, badges, &known))
            .collect(),
        search: Line::new(&search),
        pager,
    })
}

pub(super) async fn stop(desktop: Desktop, Path(id): Path<String>) -> Response {
    let id = answer_or_return!(desktop, parse_id(&id));
    answer_or_return!(desktop, desktop.web.desk.order(Request::StopSearch(id)).await);
    desktop.done(format_args!("/searches/{id}"), "stopped")
}

pub(super) async fn forget(desktop: Desktop, Path(id): Path<String>) -> Response {
    let id = answer_or_return!(desktop, parse_id(&id));
    answer_or_return!(desktop, desktop.web.desk.order(Request::ForgetSearch(id)).await);
    desktop.done("/search", "forgotten")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_is_told_as_far_as_it_is_known() {
        let check = |attributes: Attributes, text: &str| assert_eq!(quality(&attributes), text);
        check(Attributes::default(), "");
        check(Attributes { bitrate_kbps: Some(245), vbr: Some(true), ..Attributes::default() }, "245 kbit/s VBR");
        check(
            Attributes { sample_rate_hz: Some(44_100), bit_depth: Some(16), ..Attributes::default() },
            "44.1 kHz, 16 bit",
        );
        check(Attributes { sample_rate_hz: Some(96_000), ..Attributes::default() }, "96 kHz");
    }
}
