//! `/system`: which of the two systems on the card runs, an update, and disks that are plugged in.

use askama::Template;
use axum::extract::{self, Query};
use axum::http::StatusCode;
use axum::response::Response;

use crate::model::appliance::{ApplianceRequest, Outcome, Power, Progress};
use crate::model::view::Request;
use crate::web::api::appliance::{Forced, take, view};
use crate::web::show;

use super::settings::Farewell;
use super::{Desktop, Fields, Head, answer_or_return, html, size};

#[derive(Template)]
#[template(path = "system.html", config = "web-min/askama.toml")]
struct SystemPage {
    head: Head,
    version: &'static str,
    is_appliance: bool,
    board: String,
    slots: Vec<Row>,
    /// The update under way.
    step: Option<Step>,
    /// Why the last one since the start did not come to its end.
    failed: String,
    /// What became of the last one.
    last: String,
    /// What became of it is that the version before runs.
    fell_back: bool,
    disks: Vec<Disk>,
    /// Where downloads go, when that is set and on no disk that is plugged in.
    elsewhere: String,
    clock_set: bool,
}

struct Row {
    name: String,
    version: String,
    runs: bool,
    tries: u8,
}

struct Step {
    what: &'static str,
    version: String,
    percent: u64,
}

struct Disk {
    name: String,
    path: String,
    kind: String,
    room: String,
    shared: bool,
    writable: bool,
    /// It can be chosen for downloads.
    offered: bool,
    downloads: bool,
}

/// The setting that says where finished downloads go.
const DOWNLOADS: &str = "directories.downloads";

/// Folder for them on a disk that has other things too.
const FOLDER: &str = "Downloads";

fn step(progress: &Progress) -> Option<Step> {
    let what = match progress.step.as_str() {
        "checking" => "Checking the update",
        "writing" => "Writing it",
        "comparing" => "Reading it back and comparing",
        "restarting" => "Restarting",
        _ => return None,
    };
    let percent = progress.done.saturating_mul(100).checked_div(progress.all).unwrap_or(100).min(100);
    Some(Step { what, version: show::visible(&progress.version), percent })
}

pub(super) async fn show(desktop: Desktop) -> Response {
    let found = answer_or_return!(desktop, view(&desktop.web).await);
    let settings = answer_or_return!(desktop, desktop.web.desk.settings().await);
    let setting = settings.iter().find(|setting| setting.key == DOWNLOADS);
    let movable = setting.is_some_and(|setting| !setting.fixed);
    let is_set = setting.is_some_and(|setting| !setting.fixed && setting.source != "built-in");
    let elsewhere = setting.filter(|_| is_set && !found.disks.iter().any(|disk| disk.downloads));
    let mut head = desktop.head("System, updates and USB disks", "settings");
    let step = found.progress.as_ref().and_then(step);
    head.live = if step.is_some() { "every" } else { "" };
    head.refresh_s = step.as_ref().map(|_| 3);
    let last = found.systems.last.as_ref().map(|last| {
        let (version, from) = (show::visible(&last.version), show::visible(&last.from));
        match last.outcome {
            Outcome::Installed => format!("Version {version} was installed in place of {from}, and found healthy."),
            Outcome::FellBack => {
                format!("The box went back from version {version} to {from}: {}", show::visible(&last.reason))
            }
            Outcome::Failed => format!("Version {version} was not installed: {}", show::visible(&last.reason)),
        }
    });
    let failed = found.progress.as_ref().filter(|progress| progress.step == "failed");
    html(&SystemPage {
        head,
        version: env!("CARGO_PKG_VERSION"),
        is_appliance: found.is_appliance,
        board: show::visible(&found.systems.board),
        slots: found
            .systems
            .slots
            .iter()
            .map(|slot| Row {
                name: show::visible(&slot.name),
                version: show::visible(&slot.version),
                runs: slot.name == found.systems.running,
                tries: slot.tries_left,
            })
            .collect(),
        elsewhere: elsewhere.map(|setting| show::visible(&setting.value)).unwrap_or_default(),
        clock_set: found.clock_set,
        step,
        failed: failed.map(|progress| super::sentence(&show::visible(&progress.error))).unwrap_or_default(),
        last: last.unwrap_or_default(),
        fell_back: found.systems.last.as_ref().is_some_and(|last| last.outcome == Outcome::FellBack),
        disks: found
            .disks
            .iter()
            .map(|disk| Disk {
                name: show::visible(&disk.name),
                path: disk.path.clone(),
                kind: show::visible(&disk.kind),
                room: format!("{} of {} free", size(disk.free), size(disk.total)),
                shared: disk.shared,
                writable: disk.writable,
                offered: movable && (disk.writable || disk.downloads),
                downloads: disk.downloads,
            })
            .collect(),
    })
}

/// The upload of an update, streamed to the disk.
pub(super) async fn update(desktop: Desktop, forced: Query<Forced>, request: extract::Request) -> Response {
    match take(&desktop.web, forced.0, request).await {
        Ok(_) => desktop.done("/system", "update"),
        // A form without a file is a mistake of the hand.
        Err(problem) if problem.0 == StatusCode::NOT_FOUND => desktop.problem(problem.0, &problem.1),
        Err(problem) => desktop.refused(problem),
    }
}

/// Finished downloads go to a disk that is plugged in, or back to the data directory.
pub(super) async fn downloads(desktop: Desktop, fields: Fields) -> Response {
    let path = fields.get("path");
    let found = answer_or_return!(desktop, view(&desktop.web).await);
    let settings = answer_or_return!(desktop, desktop.web.desk.settings().await);
    if settings.iter().any(|setting| setting.key == DOWNLOADS && setting.fixed) {
        return desktop.problem(StatusCode::BAD_REQUEST, "this setting cannot be changed here");
    }
    let folder = match found.disks.iter().find(|disk| disk.path == path) {
        Some(disk) if !disk.writable => {
            return desktop.problem(StatusCode::BAD_REQUEST, "this disk can only be read");
        }
        Some(disk) => Some(format!("{}/{FOLDER}", disk.path)),
        None if path.is_empty() => None,
        None => return desktop.problem(StatusCode::NOT_FOUND, "this disk is not plugged in any more"),
    };
    let change = (DOWNLOADS.to_owned(), folder);
    answer_or_return!(desktop, desktop.web.desk.order(Request::ChangeSettings(vec![change])).await);
    desktop.done("/system", "downloads")
}

pub(super) async fn restart(desktop: Desktop) -> Response {
    answer_or_return!(desktop, desktop.web.desk.appliance(ApplianceRequest::Power(Power::Restart)).await);
    let head = desktop.head("Restarting", "");
    html(&Farewell { head, sentence: "The box restarts. Open this page again in a minute or two." })
}

pub(super) async fn off(desktop: Desktop) -> Response {
    answer_or_return!(desktop, desktop.web.desk.appliance(ApplianceRequest::Power(Power::Off)).await);
    let head = desktop.head("Switching off", "");
    let sentence =
        "The box switches off. Its light says when the plug may be pulled; it starts when it is plugged in again.";
    html(&Farewell { head, sentence })
}
