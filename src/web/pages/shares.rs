//! `/shares`: what others may fetch from us.

use askama::Template;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use crate::model::units::Bytes;
use crate::model::view::{Refusal, Request};
use crate::web::show::{self, Moment};

use super::{Desktop, Fields, Head, Pager, answer_or_return, html, offset};

/// Folders of a page: each is shown with its files.
const FOLDERS: usize = 20;
/// Files shown of one folder.
const FILES: usize = 200;

#[derive(Template)]
#[template(path = "shares.html", config = "web-min/askama.toml")]
struct SharesPage {
    head: Head,
    counts: String,
    scanning: bool,
    percent: u64,
    ready: bool,
    scanned_at: Option<Moment>,
    problems: Vec<String>,
    roots: Vec<Root>,
    /// As configured: what a button takes away, and how it is shown.
    entries: Vec<(String, String)>,
    /// Named by a flag or the environment: not to be changed here.
    fixed: Option<String>,
}

/// The setting that names shared folders, one a line.
const DIRECTORIES: &str = "shares.directories";

struct Root {
    id: String,
    link: String,
    alias: String,
    path: String,
    folders: u32,
    files: u32,
}

/// The folders as configured, and where that cannot be changed here, why.
async fn configured(desktop: &Desktop) -> Result<(Vec<String>, Option<String>), Refusal> {
    let settings = desktop.web.desk.settings().await?;
    let Some(setting) = settings.into_iter().find(|setting| setting.key == DIRECTORIES) else {
        return Ok((Vec::new(), None));
    };
    let entries = setting.value.lines().map(str::to_owned).collect();
    Ok((entries, setting.fixed.then_some(setting.source)))
}

async fn configure(desktop: Desktop, entries: &[String]) -> Response {
    let change = (DIRECTORIES.to_owned(), Some(entries.join("\n")));
    answer_or_return!(desktop, desktop.web.desk.order(Request::ChangeSettings(vec![change])).await);
    desktop.done("/shares", "changed")
}

/// One more shared folder.
pub(super) async fn add(desktop: Desktop, fields: Fields) -> Response {
    let (path, name) = (fields.get("path").trim(), fields.get("name").trim());
    if !path.starts_with('/') || path.contains(['\n', '\r']) || name.contains(['\n', '\r', '[', ']', '/', '\\']) {
        let why =
            "a folder is named by its whole path, as in /home/me/Music; its name for others has no slashes or brackets";
        return desktop.problem(StatusCode::BAD_REQUEST, why);
    }
    let (mut entries, _) = answer_or_return!(desktop, configured(&desktop).await);
    let entry = if name.is_empty() { path.to_owned() } else { format!("[{name}]{path}") };
    if !entries.contains(&entry) {
        entries.push(entry);
    }
    configure(desktop, &entries).await
}

/// One shared folder less; its files stay where they are.
pub(super) async fn remove(desktop: Desktop, fields: Fields) -> Response {
    let (mut entries, _) = answer_or_return!(desktop, configured(&desktop).await);
    entries.retain(|entry| entry != fields.get("entry"));
    configure(desktop, &entries).await
}

pub(super) async fn show(desktop: Desktop) -> Response {
    let (entries, fixed) = answer_or_return!(desktop, configured(&desktop).await);
    let snapshot = desktop.web.desk.snapshot();
    let shares = &snapshot.shares;
    let files = show::count(shares.counts.files, "file", "files");
    let folders = show::count(shares.counts.folders, "folder", "folders");
    let mut head = desktop.head("Shares", "shares");
    head.live = "shares";
    if shares.scanning {
        head.live = "shares every";
        head.refresh_s = Some(5);
    }
    html(&SharesPage {
        head,
        counts: format!("{files} in {folders}, {}", Bytes(shares.bytes)),
        scanning: shares.scanning,
        percent: super::status::percent_of(shares.progress),
        ready: shares.ready,
        scanned_at: shares.scanned_at.map(show::moment),
        problems: shares.problems.iter().map(|problem| super::sentence(&show::visible(problem))).collect(),
        roots: shares
            .roots
            .iter()
            .map(|root| Root {
                id: root.id.clone(),
                link: show::segment(&root.id),
                alias: show::visible(&root.alias),
                path: show::visible(&root.local_path),
                folders: root.counts.folders,
                files: root.counts.files,
            })
            .collect(),
        entries: entries.iter().map(|entry| (entry.clone(), show::visible(entry))).collect(),
        fixed: fixed.map(|source| show::visible(&source)),
    })
}

pub(super) async fn rescan(desktop: Desktop, fields: Fields) -> Response {
    let root = Some(fields.get("root")).filter(|id| !id.is_empty()).map(str::to_owned);
    answer_or_return!(desktop, desktop.web.desk.order(Request::Rescan(root)).await);
    desktop.done("/shares", "rescan")
}

pub(super) async fn stop(desktop: Desktop) -> Response {
    answer_or_return!(desktop, desktop.web.desk.order(Request::StopScan).await);
    desktop.done("/shares", "scan_stopped")
}

#[derive(Template)]
#[template(path = "folders.html", config = "web-min/askama.toml")]
struct FoldersPage {
    head: Head,
    all: usize,
    folders: Vec<Folder>,
    pager: Pager,
}

struct Folder {
    name: String,
    files: Vec<(String, String)>,
    more: usize,
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    root: Option<String>,
    #[serde(default)]
    page: usize,
}

pub(super) async fn folders(desktop: Desktop, Query(wanted): Query<Wanted>) -> Response {
    let root = wanted.root.filter(|id| !id.is_empty());
    let link = match &root {
        Some(id) => format!("/shares/folders?root={}&", show::segment(id)),
        None => "/shares/folders?".to_owned(),
    };
    let skip = offset(wanted.page, FOLDERS);
    let (folders, all) = answer_or_return!(desktop, desktop.web.desk.shared_folders(root, skip, FOLDERS).await);
    html(&FoldersPage {
        head: desktop.head("What others see", "shares"),
        all,
        folders: folders
            .iter()
            .map(|folder| Folder {
                name: show::visible(folder.name.as_str()),
                files: folder
                    .files
                    .iter()
                    .take(FILES)
                    .map(|file| (show::visible(file.name.base_name()), super::size(file.size)))
                    .collect(),
                more: folder.files.len().saturating_sub(FILES),
            })
            .collect(),
        pager: Pager::new(wanted.page, all, FOLDERS, &link),
    })
}
