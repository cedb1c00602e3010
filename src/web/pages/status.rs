//! `/`: how things are, and what is missing for them to be well.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use crate::model::mesh::MeshView;
use crate::model::units::Bytes;
use crate::model::view::{FlowView, Request, ServerState, TaskView};
use crate::web::show::{self, Moment};

use super::{Desktop, Fields, Head, answer_or_return, html, rate, size};

#[derive(Template)]
#[template(path = "status.html", config = "web-min/askama.toml")]
struct StatusPage {
    head: Head,
    warnings: Vec<String>,
    sentence: String,
    reason: Option<String>,
    retry_at: Option<Moment>,
    unconfigured: bool,
    offline: bool,
    online: bool,
    username: String,
    address: String,
    flows: [Flow; 2],
    port: u16,
    mapping: String,
    shares: String,
    sharing_nothing: bool,
    scan: Option<u64>,
    disk: String,
    disk_used: u64,
    disk_full: bool,
    backend: &'static str,
    backend_reason: Option<String>,
    tree: String,
    children: usize,
    answered: u64,
    seen: u64,
    /// Parts that do not run, or had to be started again.
    tasks: Vec<Task>,
    /// One sentence where there are none.
    well: Option<String>,
    mesh: Option<Mesh>,
    version: &'static str,
    uptime: String,
}

struct Mesh {
    sentence: String,
    id: String,
    port: u16,
    amounts: String,
}

impl Mesh {
    fn new(mesh: &MeshView) -> Option<Self> {
        let peers = show::count(mesh.connected, "peer is", "peers are");
        let files = show::count(mesh.fetching, "file is", "files are");
        Some(Self {
            sentence: format!("{peers} connected, {files} being fetched."),
            id: mesh.id?.to_string(),
            port: mesh.port,
            amounts: format!("{} fetched, {} sent", Bytes(mesh.bytes_in), Bytes(mesh.bytes_out)),
        })
    }
}

struct Flow {
    name: &'static str,
    link: &'static str,
    active: u32,
    queued: u32,
    speed: String,
    succeeded: u64,
    failed: u64,
    bytes: String,
}

struct Task {
    name: &'static str,
    state: &'static str,
    restarts: u32,
    error: String,
}

impl Flow {
    fn new(name: &'static str, link: &'static str, flow: FlowView) -> Self {
        Self {
            name,
            link,
            active: flow.active,
            queued: flow.queued,
            speed: rate(flow.speed),
            succeeded: flow.succeeded,
            failed: flow.failed,
            bytes: size(flow.bytes),
        }
    }
}

impl Task {
    fn new(task: &TaskView) -> Self {
        let error = task.last_error.as_deref().map(show::visible).unwrap_or_default();
        Self { name: task.name, state: task.state, restarts: task.restarts, error }
    }
}

pub(super) fn percent_of(part: f64) -> u64 {
    (1..=100_u8).rev().find(|p| f64::from(*p) <= part * 100.0).map_or(0, u64::from)
}

pub(super) async fn show(desktop: Desktop) -> Response {
    let s = desktop.web.desk.snapshot();
    let username = show::visible(&s.server.username);
    let sentence = match s.server.state {
        ServerState::Unconfigured => "Waiting for your Soulseek user name and password.".to_owned(),
        ServerState::Disconnected => "Not connected to the Soulseek server.".to_owned(),
        ServerState::Connecting => "Connecting to the Soulseek server\u{2026}".to_owned(),
        ServerState::LoggingIn => format!("Logging in as {username}\u{2026}"),
        ServerState::LoggedIn => format!("On the Soulseek network as {username}."),
    };
    let tree = match &s.tree.parent {
        Some(parent) => format!("level {}, below {}", s.tree.level, show::visible(parent.as_str())),
        None if s.server.state == ServerState::LoggedIn => "no parent yet; searches come from the server".to_owned(),
        None => "not connected".to_owned(),
    };
    let files = show::count(s.shares.counts.files, "file", "files");
    let folders = show::count(s.shares.counts.folders, "folder", "folders");
    let unconfigured = s.server.state == ServerState::Unconfigured;
    let well = |task: &&TaskView| task.state == "running" && task.restarts == 0 && task.last_error.is_none();
    let trouble: Vec<&TaskView> = s.tasks.iter().filter(|task| !well(task)).collect();
    let mut head = desktop.head("Status", "status");
    head.live = "server shares transfer message every";
    head.refresh_s = Some(30);
    html(&StatusPage {
        head,
        warnings: s.warnings.iter().map(|warning| super::sentence(&show::visible(warning))).collect(),
        sentence,
        reason: s.server.reason.as_deref().filter(|_| !unconfigured).map(|why| super::sentence(&show::visible(why))),
        retry_at: s.server.retry_at.map(show::moment),
        unconfigured,
        offline: s.server.state == ServerState::Disconnected,
        online: s.server.state == ServerState::LoggedIn,
        username,
        address: show::visible(&s.server.address),
        flows: [Flow::new("Downloads", "/downloads", s.downloads), Flow::new("Uploads", "/uploads", s.uploads)],
        port: s.port.listen,
        mapping: show::visible(&s.port.mapping),
        shares: format!("{files} in {folders}, {}", Bytes(s.shares.bytes)),
        sharing_nothing: s.shares.counts.files == 0 && !s.shares.scanning,
        scan: s.shares.scanning.then(|| percent_of(s.shares.progress)),
        disk: format!("{} free of {}", Bytes(s.disk.free), Bytes(s.disk.total)),
        disk_used: show::percent(s.disk.total.saturating_sub(s.disk.free), s.disk.total),
        disk_full: s.disk.full,
        backend: s.disk.backend,
        backend_reason: s.disk.backend_reason.as_deref().map(show::visible),
        tree,
        children: s.tree.children.len(),
        answered: s.searches_answered,
        seen: s.searches_seen,
        well: trouble.is_empty().then(|| format!("{} running, no trouble since the start", s.tasks.len())),
        tasks: trouble.into_iter().map(Task::new).collect(),
        mesh: Mesh::new(&s.mesh),
        version: s.version,
        uptime: show::duration(desktop.web.now().wall.since(s.started_at).as_secs()),
    })
}

pub(super) async fn connect(desktop: Desktop) -> Response {
    answer_or_return!(desktop, desktop.web.desk.order(Request::Connect).await);
    desktop.done("/", "connecting")
}

pub(super) async fn disconnect(desktop: Desktop) -> Response {
    answer_or_return!(desktop, desktop.web.desk.order(Request::Disconnect).await);
    desktop.done("/", "disconnected")
}

/// User name and password of the Soulseek network, then straight on to the network.
pub(super) async fn credentials(desktop: Desktop, fields: Fields) -> Response {
    let (username, password) = (fields.get("username").trim(), fields.get("password"));
    if username.is_empty() || password.is_empty() {
        return desktop.problem(StatusCode::BAD_REQUEST, "both a user name and a password are needed");
    }
    let changes = vec![
        ("soulseek.username".to_owned(), Some(username.to_owned())),
        ("soulseek.password".to_owned(), Some(password.to_owned())),
    ];
    answer_or_return!(desktop, desktop.web.desk.order(Request::ChangeSettings(changes)).await);
    answer_or_return!(desktop, desktop.web.desk.order(Request::Connect).await);
    desktop.done("/", "credentials")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_whole_percent() {
        for (part, percent) in [(0.0, 0), (0.5, 50), (0.999, 99), (1.0, 100), (7.0, 100), (f64::NAN, 0), (-1.0, 0)] {
            assert_eq!(percent_of(part), percent, "{part}");
        }
    }
}
