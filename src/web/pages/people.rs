//! `/users`: conversations; `/users/{name}`: who it is, what was said, what they share.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::model::id::Username;
use crate::model::limits;
use crate::model::view::{Refusal, Request, UserInfoView};
use crate::web::Role;
use crate::web::api::message_text;
use crate::web::show::{self, Moment};

use super::searches::File;
use super::transfers::{Known, find_folder, folder_word, join};
use super::{Desktop, Fields, Head, Pager, ROWS, answer_or_return, html, offset, rate, size, why};

/// How long a page waits for what another user has to tell; a reload waits again.
const PATIENCE: Duration = Duration::from_secs(4);
/// Messages of the page.
const MESSAGES: usize = 200;

#[derive(Template)]
#[template(path = "users.html", config = "web-min/askama.toml")]
struct UsersPage {
    head: Head,
    conversations: Vec<Conversation>,
}

struct Conversation {
    user: String,
    link: String,
    unread: u32,
    from_us: bool,
    text: String,
    at: Moment,
}

#[derive(Deserialize)]
pub(super) struct Find {
    #[serde(default)]
    name: String,
}

/// With `?name=` it leads to that user: the form of the page, without a script.
pub(super) async fn list(desktop: Desktop, Query(find): Query<Find>) -> Response {
    let name = find.name.trim();
    if !name.is_empty() {
        return desktop.go(format_args!("/users/{}", show::segment(name)));
    }
    let conversations = answer_or_return!(desktop, desktop.web.desk.conversations().await);
    let mut head = desktop.head("Users", "users");
    head.live = "message";
    html(&UsersPage {
        head,
        conversations: conversations
            .into_iter()
            .map(|(last, unread)| Conversation {
                user: show::visible(last.user.as_str()),
                link: show::segment(last.user.as_str()),
                unread,
                from_us: !last.incoming,
                text: show::visible(&first_words(&last.text)),
                at: show::moment(last.at),
            })
            .collect(),
    })
}

/// The beginning of a text, on one line.
fn first_words(text: &str) -> String {
    const LETTERS: usize = 120;
    let line = text.lines().collect::<Vec<_>>().join(" ");
    let cut: String = line.chars().take(LETTERS).collect();
    if cut.len() < line.len() { format!("{}\u{2026}", cut.trim_end()) } else { cut }
}

#[derive(Template)]
#[template(path = "user.html", config = "web-min/askama.toml")]
struct UserPage {
    head: Head,
    user: String,
    link: String,
    presence: String,
    stats: Vec<(&'static str, String)>,
    info: Vec<(&'static str, String)>,
    description: String,
    picture: bool,
    info_missing: Option<String>,
    messages: Vec<Message>,
    message_len: usize,
}

struct Message {
    from_us: bool,
    at: Moment,
    text: String,
}

async fn patiently<T>(answer: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or(Err(Refusal::TimedOut))
}

/// What the user tells, or told lately.
async fn info_of(desktop: &Desktop, user: Username) -> Result<Arc<UserInfoView>, Refusal> {
    let Desktop { web, .. } = desktop;
    if let Some(info) = web.told.get(&user, web.now().wall) {
        return Ok(info);
    }
    let info = web.desk.user_info(user.clone()).await?;
    Ok(web.told.put(user, info, web.now().wall))
}

pub(super) async fn show(desktop: Desktop, Path(name): Path<String>) -> Response {
    let user = Username::from(name.as_str());
    let desk = &desktop.web.desk;
    let messages = answer_or_return!(desktop, desk.messages(user.clone()).await);
    let mut unread = desktop.web.desk.snapshot().unread_messages;
    let new = messages.iter().filter(|message| message.incoming && !message.read).count();
    if new > 0 && desktop.visit.access.as_ref().is_some_and(|access| access.role >= Role::Readwrite) {
        answer_or_return!(desktop, desk.order(Request::MessagesRead(user.clone())).await);
        unread = unread.saturating_sub(u32::try_from(new).unwrap_or(u32::MAX));
    }
    let (status, info) =
        tokio::join!(patiently(desk.user_status(user.clone())), patiently(info_of(&desktop, user.clone())));
    let (presence, stats) = match status {
        Ok(status) => {
            let privileged = if status.privileged { ", with privileges" } else { "" };
            // Of a user it does not know the server tells nothing but zeros.
            let stats = status.stats.filter(|stats| *stats != (0, 0, 0, 0)).map_or_else(
                Vec::new,
                |(speed, uploads, files, folders)| {
                    vec![
                        ("Average upload speed", rate(speed.into())),
                        ("Uploads so far", uploads.to_string()),
                        (
                            "Shares",
                            format!(
                                "{} in {}",
                                show::count(files, "file", "files"),
                                show::count(folders, "folder", "folders")
                            ),
                        ),
                    ]
                },
            );
            (format!("{}{privileged}", status.presence), stats)
        }
        Err(refusal) => (why(refusal), Vec::new()),
    };
    let mut head = desktop.head(format!("User {}", show::visible(&name)), "users");
    head.live = "message";
    // The snapshot learns of it later.
    head.unread = head.unread.min(unread);
    let (mut rows, mut description, mut picture, mut info_missing) = (Vec::new(), String::new(), false, None);
    match info {
        Ok(info) => {
            rows.push(("Upload slots", info.slots.to_string()));
            rows.push(("Files waiting", info.queue_length.to_string()));
            rows.push(("A slot is free", if info.free_slot { "yes" } else { "no" }.to_owned()));
            description = show::visible_lines(&info.description);
            picture = info.picture.is_some();
        }
        Err(refusal) => info_missing = Some(why(refusal)),
    }
    let skip = messages.len().saturating_sub(MESSAGES);
    html(&UserPage {
        head,
        user: show::visible(&name),
        link: show::segment(&name),
        presence,
        stats,
        info: rows,
        description,
        picture,
        info_missing,
        messages: messages
            .iter()
            .skip(skip)
            .map(|message| Message {
                from_us: !message.incoming,
                at: show::moment(message.at),
                text: show::visible_lines(&message.text),
            })
            .collect(),
        message_len: limits::MESSAGE_LEN,
    })
}

/// Only what begins like a picture is sent as one.
fn picture_kind(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

pub(super) async fn picture(desktop: Desktop, Path(name): Path<String>) -> Response {
    let info = answer_or_return!(desktop, info_of(&desktop, Username::new(name)).await);
    let picture = info.picture.as_ref().and_then(|bytes| Some((picture_kind(bytes)?, bytes.clone())));
    let Some((kind, bytes)) = picture else {
        return desktop.problem(StatusCode::NOT_FOUND, "the user has no picture that a browser knows");
    };
    ([(header::CONTENT_TYPE, kind)], bytes).into_response()
}

pub(super) async fn send(desktop: Desktop, Path(name): Path<String>, fields: Fields) -> Response {
    let text = answer_or_return!(desktop, message_text(fields.get("text")));
    let link = show::segment(&name);
    answer_or_return!(desktop, desktop.web.desk.order(Request::SendMessage(Username::new(name), text)).await);
    desktop.done(format_args!("/users/{link}"), "sent")
}

pub(super) async fn forget(desktop: Desktop, Path(name): Path<String>) -> Response {
    answer_or_return!(desktop, desktop.web.desk.order(Request::ForgetMessages(Username::new(name))).await);
    desktop.done("/users", "forgotten")
}

#[derive(Template)]
#[template(path = "browse.html", config = "web-min/askama.toml")]
struct BrowsePage {
    head: Head,
    user: String,
    link: String,
    /// Nothing was fetched yet.
    fetched_at: Option<Moment>,
    /// How much was fetched, in words.
    all: String,
    words: String,
    /// How many folders have the words.
    found: String,
    lines: Vec<Line>,
    pager: Pager,
}

struct Line {
    name: String,
    empty: bool,
    link: String,
    files: String,
    size: String,
}

#[derive(Deserialize)]
pub(super) struct Browse {
    #[serde(default)]
    words: String,
    #[serde(default)]
    page: usize,
}

pub(super) async fn browse(desktop: Desktop, Path(name): Path<String>, Query(wanted): Query<Browse>) -> Response {
    let user = Username::from(name.as_str());
    let link = show::segment(&name);
    let head = desktop.head(format!("Shares of {}", show::visible(&name)), "users");
    // What would have to be shown in another form cannot stand in a field.
    let plain = |c: &char| show::visible(c.encode_utf8(&mut [0; 4])).chars().eq([*c]);
    let words: String = wanted.words.chars().filter(plain).take(200).collect();
    let pages = format!("/users/{link}/browse?words={}&", show::segment(&words));
    let mut page = BrowsePage {
        head,
        user: show::visible(&name),
        fetched_at: None,
        all: String::new(),
        found: String::new(),
        lines: Vec::new(),
        pager: Pager::new(1, 0, ROWS, &pages),
        words,
        link,
    };
    if let Some((list, at)) = desktop.web.browsed.get(&user) {
        match desktop.web.browsed.lines(&list, &page.words, offset(wanted.page, ROWS), ROWS).await {
            Ok(found) => {
                page.fetched_at = Some(show::moment(at));
                let folders = show::count(list.folders, "folder", "folders");
                page.all = format!("{} in {folders}", show::count(list.files, "file", "files"));
                page.found = show::count(u64::try_from(found.all).unwrap_or(u64::MAX), "folder", "folders");
                page.pager = Pager::new(wanted.page, found.all, ROWS, &pages);
                page.lines = found
                    .lines
                    .iter()
                    .map(|line| Line {
                        name: show::visible(line.name.as_str()),
                        empty: line.files == 0,
                        link: show::pack(&line.name),
                        files: show::count(u64::try_from(line.files).unwrap_or(u64::MAX), "file", "files"),
                        size: size(line.bytes),
                    })
                    .collect();
            }
            // The list's file is gone, or broken: it is fetched again when asked for.
            Err(problem) => {
                tracing::warn!(%problem, "a fetched share list cannot be read");
                desktop.web.browsed.forget(&user);
            }
        }
    }
    html(&page)
}

pub(super) async fn fetch(desktop: Desktop, Path(name): Path<String>) -> Response {
    let user = Username::from(name.as_str());
    let list = answer_or_return!(desktop, desktop.web.desk.browse(user.clone()).await);
    desktop.web.browsed.put(user, list, desktop.web.now().wall);
    desktop.done(format_args!("/users/{}/browse", show::segment(&name)), "fetched")
}

#[derive(Template)]
#[template(path = "folder.html", config = "web-min/askama.toml")]
struct FolderPage {
    head: Head,
    user: String,
    link: String,
    name: String,
    word: String,
    files: Vec<File>,
    more: usize,
}

#[derive(Deserialize)]
pub(super) struct Which {
    #[serde(default)]
    folder: String,
}

pub(super) async fn folder(desktop: Desktop, Path(name): Path<String>, Query(which): Query<Which>) -> Response {
    let user = Username::from(name.as_str());
    let Some(wanted) = show::unpack(&which.folder).filter(|folder| !folder.as_str().is_empty()) else {
        return desktop.problem(StatusCode::BAD_REQUEST, "the address did not say which folder is meant");
    };
    let folder = answer_or_return!(desktop, find_folder(&desktop, &user, &wanted).await);
    let known = answer_or_return!(desktop, Known::look(&desktop).await);
    html(&FolderPage {
        head: desktop.head(format!("Folder of {}", show::visible(&name)), "users"),
        user: show::visible(&name),
        link: show::segment(&name),
        name: show::visible(folder.name.as_str()),
        word: folder_word(&user, &folder.name),
        files: folder
            .files
            .iter()
            .take(limits::BATCH_FILES)
            .map(|file| File::new(file, &user, &join(&folder.name, &file.name), &known))
            .collect(),
        more: folder.files.len().saturating_sub(limits::BATCH_FILES),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_show_how_the_last_message_begins() {
        assert_eq!(first_words("one\r\ntwo\nthree"), "one two three");
        assert_eq!(first_words(&"x".repeat(120)), "x".repeat(120));
        assert_eq!(first_words(&"x ".repeat(61)), format!("{}x\u{2026}", "x ".repeat(59)));
    }

    #[test]
    fn only_pictures_are_sent_as_pictures() {
        assert_eq!(picture_kind(b"\x89PNG\r\n"), Some("image/png"));
        assert_eq!(picture_kind(b"RIFF0000WEBPVP8 "), Some("image/webp"));
        for other in [&b""[..], b"<svg onload=alert(1)>", b"<html>", b"RIFF0000WAVE"] {
            assert_eq!(picture_kind(other), None);
        }
    }
}
