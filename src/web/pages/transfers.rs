//! `/downloads` and `/uploads`, and the buttons that ask for files.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use crate::model::id::{SearchId, TransferId, Username};
use crate::model::limits;
use crate::model::mesh::SourceView;
use crate::model::music::WireText;
use crate::model::rescue::{Liar, RescueJob, RescueState, RescueView};
use crate::model::swarm::Source;
use crate::model::trace::{TraceAnswer, TraceRequest};
use crate::model::transfer::{Direction, Ending, Rung, Transfer, TransferState};
use crate::model::view::{EnqueueRequest, FolderView, Refusal, Request, TransferFilter};
use crate::web::api::Problem;
use crate::web::api::rescue_json::by_transfer;
use crate::web::show::{self, Moment};

use super::{ConfirmPage, Desktop, Fields, Head, Pager, ROWS, answer_or_return, html, offset, rate, size};

#[derive(Template)]
#[template(path = "transfers.html", config = "web-min/askama.toml")]
struct TransfersPage {
    head: Head,
    download: bool,
    /// `/downloads` or `/uploads`.
    path: &'static str,
    all: usize,
    active: u32,
    queued: u32,
    speed: String,
    user: Option<String>,
    groups: Vec<Group>,
    /// There is, or may be on another page, something that is over.
    clearable: bool,
    pager: Pager,
}

/// Rows of one user and folder that follow one another.
struct Group {
    user: String,
    user_link: String,
    folder: String,
    rows: Vec<Row>,
}

struct Row {
    id: String,
    name: String,
    state: &'static str,
    over: bool,
    succeeded: bool,
    percent: u64,
    /// A bar says something here.
    bar: bool,
    amount: String,
    speed: Option<String>,
    left: Option<String>,
    place: Option<u32>,
    reason: Option<String>,
    next: Option<Moment>,
    rung: Option<String>,
    retry: bool,
    /// Cancelling loses bytes, so it is asked about.
    ask: bool,
    /// There is a trace.
    traced: bool,
    /// Mesh peers help, or helped.
    rescue: Option<Rescue>,
}

struct Rescue {
    active: bool,
    told: String,
    /// A line per source.
    lines: Vec<String>,
}

impl Rescue {
    /// Of a download in this state.
    fn new(view: &RescueView, download: TransferState) -> Self {
        let RescueJob { state, reason, told, size: whole, .. } = &view.job;
        let reason = match download {
            TransferState::Completed(Ending::Rejected) => "refused by the user",
            TransferState::Completed(Ending::TimedOut) => "it timed out",
            TransferState::Completed(Ending::Errored) => "it failed",
            _ => reason.words(),
        };
        let active = *state == RescueState::Active;
        let mut words = if active {
            let there = format!("{reason}: {} of {}", size(view.bytes), size(*whole));
            let speed = (view.overlay_speed > 0).then(|| format!(", {} from mesh peers", rate(view.overlay_speed)));
            there + &speed.unwrap_or_default()
        } else {
            format!("Rescue: {}", show::visible(told))
        };
        if view.throttled_to.is_some() {
            words.push_str(", held to half the speed");
        }
        if active && !view.waits.is_empty() {
            words = format!("{words}; {}", show::visible(&view.waits));
        }
        if let Some(origin) = view.origin {
            words = format!("{words}; {}", origin.words());
        }
        if let Some(path) = view.job.copy_beside() {
            words = format!("{words} ({})", show::visible(path));
        }
        let line = |source: &SourceView| {
            let who = match &source.source {
                Source::Mesh(peer) => format!("mesh peer {}", &peer.to_string()[..8]),
                Source::Soulseek(user) => format!("Soulseek user {}", show::visible(user.as_str())),
            };
            let speed = source.rate.filter(|rate| *rate > 0).map(|speed| format!(", {}", rate(speed)));
            let dropped = if source.dropped { ", dropped" } else { "" };
            let percent = show::percent(source.bytes, *whole);
            format!("{who}: {}, {percent} %{}{dropped}", source.state, speed.unwrap_or_default())
        };
        let liar = |liar: &Liar| format!("mesh peer {}: {}", &liar.peer.to_string()[..8], show::visible(&liar.why));
        let lines = view.sources.iter().map(line).chain(view.job.liars.iter().map(liar)).collect();
        Self { active, told: words, lines }
    }
}

fn state_words(direction: Direction, state: TransferState) -> &'static str {
    use Direction::{Download, Upload};
    match (state, direction) {
        (TransferState::Requested, _) => "about to begin",
        (TransferState::QueuedLocally, Download) => "waiting",
        (TransferState::QueuedLocally, Upload) => "waits for a slot",
        (TransferState::QueuedRemotely, _) => "in the user\u{2019}s queue",
        (TransferState::Initializing, _) => "connecting",
        (TransferState::InProgress, Download) => "downloading",
        (TransferState::InProgress, Upload) => "uploading",
        (TransferState::Completed(ending), direction) => match (ending, direction) {
            (Ending::Succeeded, _) => "finished",
            (Ending::Cancelled, _) => "cancelled",
            (Ending::TimedOut, _) => "timed out",
            (Ending::Errored, _) => "failed",
            (Ending::Rejected, Download) => "refused by the user",
            (Ending::Rejected, Upload) => "refused",
            (Ending::Aborted, _) => "ended here",
        },
    }
}

impl Row {
    fn new(t: &Transfer, beside: &Beside) -> Self {
        let over = t.state.is_over();
        let succeeded = t.state == TransferState::Completed(Ending::Succeeded);
        let running = t.state == TransferState::InProgress;
        let left = t.size.saturating_sub(t.bytes_done);
        let done = if succeeded { t.size } else { t.bytes_done };
        Self {
            id: t.id.to_string(),
            name: show::visible(t.path.base_name()),
            state: state_words(t.direction, t.state),
            over,
            succeeded,
            percent: show::percent(done, t.size),
            bar: running || (!over && done > 0),
            amount: if succeeded || (done == 0 && !running) {
                size(t.size)
            } else {
                format!("{} of {}", size(done), size(t.size))
            },
            speed: ((running || succeeded) && t.average_speed > 0).then(|| rate(t.average_speed)),
            left: left.checked_div(t.average_speed).filter(|_| running).map(show::duration),
            place: t.place_in_queue.filter(|_| t.state == TransferState::QueuedRemotely),
            reason: t.reason.as_deref().filter(|_| !succeeded).map(show::visible),
            next: t.next_attempt_at.filter(|_| !over).map(show::moment),
            rung: t.rung.or(beside.copy(t)).map(|rung| match rung {
                Rung::SingleSource => "single source".to_owned(),
                Rung::JoinedByOverlap => "joined by overlap".to_owned(),
                Rung::Verified => match beside.rescues.get(&t.id).and_then(|view| view.job.vouched_by.as_deref()) {
                    Some(name) => format!("verified (by {})", show::visible(name)),
                    None => "verified".to_owned(),
                },
                Rung::RescuedCopy => "rescued copy".to_owned(),
            }),
            retry: t.direction == Direction::Download && over && !succeeded,
            ask: t.direction == Direction::Download && t.bytes_done > 0,
            traced: beside.traced.contains(&t.id.to_string()),
            rescue: beside.rescues.get(&t.id).map(|view| Rescue::new(view, t.state)),
        }
    }
}

/// What stands beside rows.
#[derive(Default)]
struct Beside {
    traced: BTreeSet<String>,
    rescues: BTreeMap<TransferId, RescueView>,
}

impl Beside {
    /// While a download brought no file of its own, the copy that the mesh brought is its file.
    fn copy(&self, transfer: &Transfer) -> Option<Rung> {
        self.rescues.get(&transfer.id)?.job.copy_beside().map(|_| Rung::RescuedCopy)
    }

    /// Mesh peers help with one of these downloads.
    fn helps(&self) -> bool {
        self.rescues.values().any(|view| view.job.state == RescueState::Active)
    }
}

fn groups(rows: &[Transfer], beside: &Beside) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut last = None;
    for transfer in rows {
        let key = (&transfer.user, transfer.path.folder());
        if last != Some(key) {
            last = Some(key);
            groups.push(Group {
                user: show::visible(transfer.user.as_str()),
                user_link: show::segment(transfer.user.as_str()),
                folder: show::visible(transfer.path.folder()),
                rows: Vec::new(),
            });
        }
        if let Some(group) = groups.last_mut() {
            group.rows.push(Row::new(transfer, beside));
        }
    }
    groups
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    user: Option<String>,
    #[serde(default)]
    page: usize,
}

pub(super) async fn downloads(desktop: Desktop, Query(wanted): Query<Wanted>) -> Response {
    list(&desktop, Direction::Download, wanted).await
}

pub(super) async fn uploads(desktop: Desktop, Query(wanted): Query<Wanted>) -> Response {
    list(&desktop, Direction::Upload, wanted).await
}

async fn list(desktop: &Desktop, direction: Direction, wanted: Wanted) -> Response {
    let user = wanted.user.filter(|name| !name.is_empty());
    let filter = TransferFilter {
        direction,
        user: user.as_deref().map(Username::from),
        include_removed: false,
        offset: offset(wanted.page, ROWS),
        limit: ROWS,
    };
    let (rows, all) = answer_or_return!(desktop, desktop.web.desk.transfers(filter).await);
    let traced = match desktop.web.desk.trace(TraceRequest::Names).await {
        Ok(TraceAnswer::Names(names)) => names,
        // The list is worth more than its links.
        _ => BTreeSet::new(),
    };
    let beside = Beside { traced, rescues: by_transfer(&desktop.web, &rows).await };
    let snapshot = desktop.web.desk.snapshot();
    let (title, path, here, flow) = match direction {
        Direction::Download => ("Downloads", "/downloads", "downloads", snapshot.downloads),
        Direction::Upload => ("Uploads", "/uploads", "uploads", snapshot.uploads),
    };
    let link =
        user.as_deref().map_or_else(|| format!("{path}?"), |user| format!("{path}?user={}&", show::segment(user)));
    let mut head = desktop.head(title, here);
    // The rows are newer than the snapshot's counts.
    let flows = |transfer: &Transfer| transfer.state == TransferState::InProgress;
    let running = flow.active > 0 || beside.helps() || rows.iter().any(flows);
    head.live = if running { "transfer every" } else { "transfer" };
    let waiting = flow.queued > 0 || rows.iter().any(|transfer| !transfer.state.is_over());
    head.refresh_s = (running || waiting).then_some(10);
    let pager = Pager::new(wanted.page, all, ROWS, &link);
    html(&TransfersPage {
        head,
        clearable: pager.pages > 1 || rows.iter().any(|transfer| transfer.state.is_over()),
        download: direction == Direction::Download,
        path,
        all,
        active: flow.active,
        queued: flow.queued,
        speed: rate(flow.speed),
        user: user.as_deref().map(show::visible),
        groups: groups(&rows, &beside),
        pager,
    })
}

pub(super) async fn change_download(desktop: Desktop, fields: Fields) -> Response {
    change(&desktop, Direction::Download, &fields).await
}

pub(super) async fn change_upload(desktop: Desktop, fields: Fields) -> Response {
    change(&desktop, Direction::Upload, &fields).await
}

/// One button of a row: `ask`, `cancel`, `remove` or `retry`, with the transfer's id.
async fn change(desktop: &Desktop, direction: Direction, fields: &Fields) -> Response {
    let path = if direction == Direction::Download { "/downloads" } else { "/uploads" };
    for (button, word) in [("ask", ""), ("cancel", "cancelled"), ("remove", "removed"), ("retry", "retried")] {
        let value = fields.get(button);
        if value.is_empty() {
            continue;
        }
        let Ok(id) = value.parse::<TransferId>() else { break };
        if button == "ask" {
            return ask(desktop, direction, id).await;
        }
        let request = match button {
            "retry" => Request::Retry(id),
            _ => Request::Cancel { direction, id, remove: button == "remove" },
        };
        answer_or_return!(desktop, desktop.web.desk.order(request).await);
        return desktop.done(path, word);
    }
    desktop.problem(StatusCode::BAD_REQUEST, "the form did not say which transfer is meant")
}

async fn ask(desktop: &Desktop, direction: Direction, id: TransferId) -> Response {
    let transfer = answer_or_return!(desktop, desktop.web.desk.transfer(direction, id).await);
    html(&ConfirmPage {
        head: desktop.head("Cancel this download?", "downloads"),
        sentence: format!(
            "{} has {} of {}. If you cancel it, what is there already may have to be fetched again.",
            show::visible(transfer.path.base_name()),
            size(transfer.bytes_done),
            size(transfer.size)
        ),
        action: "/downloads".to_owned(),
        name: "cancel",
        value: id.to_string(),
        button: "Cancel the download",
        back: "/downloads".to_owned(),
    })
}

pub(super) async fn clear_downloads(desktop: Desktop) -> Response {
    answer_or_return!(desktop, desktop.web.desk.order(Request::ClearCompleted(Direction::Download)).await);
    desktop.done("/downloads", "cleared")
}

pub(super) async fn clear_uploads(desktop: Desktop) -> Response {
    answer_or_return!(desktop, desktop.web.desk.order(Request::ClearCompleted(Direction::Upload)).await);
    desktop.done("/uploads", "cleared")
}

/// Downloads that results are compared with: the newest.
const KNOWN: usize = 1_000;

/// What became of files that were asked for before.
pub(super) struct Known(BTreeMap<(Username, WireText), TransferState>);

impl Known {
    /// Looks at the newest downloads.
    pub(super) async fn look(desktop: &Desktop) -> Result<Self, Refusal> {
        let filter = TransferFilter {
            direction: Direction::Download,
            user: None,
            include_removed: false,
            offset: 0,
            limit: KNOWN,
        };
        let (rows, _) = desktop.web.desk.transfers(filter).await?;
        // The newest come first, so they are put in last.
        Ok(Self(rows.into_iter().rev().map(|t| ((t.user, t.path), t.state)).collect()))
    }

    /// The state in words, and whether the file may be asked for (again).
    pub(super) fn of(&self, user: &Username, path: &WireText) -> (Option<&'static str>, bool) {
        // One tuple of owned parts a file: pages are small.
        match self.0.get(&(user.clone(), path.clone())) {
            None => (None, true),
            Some(state) => {
                let wanted = state.is_over() && *state != TransferState::Completed(Ending::Succeeded);
                (Some(state_words(Direction::Download, *state)), wanted)
            }
        }
    }
}

/// The value of a button that asks for one file.
pub(super) fn file_word(user: &Username, path: &WireText, size: u64) -> String {
    format!("{}/{size}/{}", show::pack(&user.as_str().into()), show::pack(path))
}

/// The value of a button that asks for a folder.
pub(super) fn folder_word(user: &Username, folder: &WireText) -> String {
    format!("{}/{}", show::pack(&user.as_str().into()), show::pack(folder))
}

/// A bare name below its folder, byte for byte.
pub(super) fn join(folder: &WireText, name: &WireText) -> WireText {
    WireText::from_wire(&[&folder.to_wire(), b"\\".as_slice(), &name.to_wire()].concat())
}

type Files = Vec<(WireText, u64)>;

fn parse_file(word: &str) -> Option<(Username, (WireText, u64))> {
    let mut parts = word.splitn(3, '/');
    let user = show::unpack(parts.next()?)?;
    let size = parts.next()?.parse().ok()?;
    Some((Username::from(user.as_str()), (show::unpack(parts.next()?)?, size)))
}

fn parse_folder(word: &str) -> Option<(Username, WireText)> {
    let (user, folder) = word.split_once('/')?;
    Some((Username::from(show::unpack(user)?.as_str()), show::unpack(folder)?))
}

/// The files of a folder, out of the search it was found by, else out of the user's share list.
async fn folder_files(
    desktop: &Desktop,
    search: Option<SearchId>,
    user: &Username,
    folder: &WireText,
) -> Result<Files, Refusal> {
    let desk = &desktop.web.desk;
    if let Some(id) = search {
        let (_, responses) = desk.search(id).await?;
        let response = responses.into_iter().find(|response| response.user == *user).ok_or(Refusal::NotFound)?;
        let inside = |path: &WireText| path.folder() == folder.as_str();
        return Ok(response.files.into_iter().filter(|f| inside(&f.name)).map(|f| (f.name, f.size)).collect());
    }
    let folder = find_folder(desktop, user, folder).await?;
    let name = folder.name;
    Ok(folder.files.into_iter().map(|file| (join(&name, &file.name), file.size)).collect())
}

/// A folder of a user: from the list fetched lately, else by asking the user.
pub(super) async fn find_folder(desktop: &Desktop, user: &Username, name: &WireText) -> Result<FolderView, Refusal> {
    let web = &desktop.web;
    if let Some((list, _)) = web.browsed.get(user) {
        match web.browsed.folder(&list, name.clone()).await {
            Ok(Some(folder)) => return Ok(folder),
            Ok(None) => {}
            Err(problem) => {
                tracing::warn!(%problem, "a fetched share list cannot be read");
                web.browsed.forget(user);
            }
        }
    }
    let folders = web.desk.folder(user.clone(), name.as_str().to_owned()).await?;
    folders.into_iter().find(|folder| folder.name == *name).ok_or(Refusal::NotFound)
}

/// Asks for files: any number of `file`, or one `folder`, perhaps found by a `search`.
pub(super) async fn add(desktop: Desktop, fields: Fields) -> Response {
    let search = fields.get("search").parse::<SearchId>().ok();
    let mut wanted: BTreeMap<Username, Files> = BTreeMap::new();
    for word in fields.all("file") {
        let Some((user, file)) = parse_file(word) else {
            return desktop.problem(StatusCode::BAD_REQUEST, "the form named a file that makes no sense");
        };
        wanted.entry(user).or_default().push(file);
    }
    if let Some((user, folder)) = parse_folder(fields.get("folder")) {
        let files = answer_or_return!(desktop, folder_files(&desktop, search, &user, &folder).await);
        wanted.entry(user).or_default().extend(files);
    }
    if wanted.values().all(Vec::is_empty) {
        return desktop.problem(StatusCode::BAD_REQUEST, "no file was chosen");
    }
    let (mut accepted, mut failed) = (0, None);
    for (user, files) in wanted {
        for part in files.chunks(limits::BATCH_FILES) {
            let request = EnqueueRequest {
                user: user.clone(),
                files: part.to_vec(),
                batch: None,
                search: search.map(|id| id.0),
                destination: None,
                external: None,
            };
            match desktop.web.desk.enqueue(request).await {
                Ok(done) => {
                    accepted += done.accepted.len();
                    failed = failed.or(done.failed.into_iter().next().map(|(_, why)| Refusal::Invalid(why)));
                }
                Err(refusal) => failed = Some(refusal),
            }
        }
    }
    let back = search.map_or_else(|| "/downloads".to_owned(), |id| format!("/searches/{id}"));
    match failed {
        Some(refusal) if accepted == 0 => desktop.refused(Problem::from(refusal)),
        Some(_) => desktop.done(back, "asked_some"),
        None => desktop.done(back, "asked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_buttons_come_back_whole() {
        let user = Username::from("a/b \u{202e}");
        let path = WireText::from_wire(b"M\\F\xf6\\x\n.mp3");
        assert_eq!(parse_file(&file_word(&user, &path, 7)), Some((user.clone(), (path.clone(), 7))));
        assert_eq!(parse_folder(&folder_word(&user, &path)), Some((user, path)));
        for wrong in ["", "/", "YQ/x/YQ", "YQ/-1/YQ", "?/1/YQ", "YQ/1"] {
            assert_eq!(parse_file(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_are_joined_byte_for_byte() {
        let joined = join(&WireText::from_wire(b"M\\\xf6"), &WireText::from("b.mp3"));
        assert_eq!(joined.to_wire().as_ref(), b"M\\\xf6\\b.mp3");
    }
}
