//! What pages and tools are shown and may command: plain structs with public fields. The web layer knows nothing else of
//! the program; `app` fills these in.

mod asked;
mod browsed;

use std::net::SocketAddrV4;

use serde::Serialize;

pub use self::asked::{EnqueueRequest, Refusal, Request, Response, SearchRequest, TransferFilter};
pub use self::browsed::{Browsed, FolderStream};

use super::health::Progress;
use super::id::{SearchId, TransferId, Username};
use super::mesh::MeshView;
use super::music::{Attributes, ShareCounts, WireText};
use super::time::UnixMs;
use super::transfer::Direction;

/// The state of things at a glance, published about once a second and at every change of the connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Program version, as in `Cargo.toml`.
    pub version: &'static str,
    /// When the process began.
    pub started_at: UnixMs,
    /// The server connection.
    pub server: ServerView,
    /// What we share and whether a scan runs.
    pub shares: ShareView,
    /// Place in the distributed search network.
    pub tree: TreeView,
    /// Counters of downloads.
    pub downloads: FlowView,
    /// Counters of uploads.
    pub uploads: FlowView,
    /// The disk under the data directory.
    pub disk: DiskView,
    /// Our listening port as others may reach it.
    pub port: PortView,
    /// Background tasks: name, state, restarts.
    pub tasks: Vec<TaskView>,
    /// Sentences the owner should read, worst first.
    pub warnings: Vec<String>,
    /// Unread private messages.
    pub unread_messages: u32,
    /// Searches of others answered with at least one file since start.
    pub searches_answered: u64,
    /// Searches of others seen since start.
    pub searches_seen: u64,
    /// The library scan, if one runs.
    pub library_scan: Progress,
    /// The mesh at a glance.
    pub mesh: MeshView,
}

/// The server connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerView {
    /// `host:port` as configured.
    pub address: String,
    /// The address in use.
    pub endpoint: Option<SocketAddrV4>,
    /// Our user name; empty when none is configured.
    pub username: String,
    /// Where it stands.
    pub state: ServerState,
    /// Why it is not logged in, in one sentence.
    pub reason: Option<String>,
    /// When the next attempt is due.
    pub retry_at: Option<UnixMs>,
}

/// States of the server connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerState {
    /// No user name and password yet.
    #[default]
    Unconfigured,
    /// Not connected (by the owner's wish, or waiting for the next attempt).
    Disconnected,
    /// TCP is being made.
    Connecting,
    /// Login sent.
    LoggingIn,
    /// On the network.
    LoggedIn,
}

/// What we share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShareView {
    /// Folders and files in the index.
    pub counts: ShareCounts,
    /// Total bytes.
    pub bytes: u64,
    /// A scan runs.
    pub scanning: bool,
    /// 0 to 1 while scanning.
    pub progress: f64,
    /// The index can answer.
    pub ready: bool,
    /// End of the last scan.
    pub scanned_at: Option<UnixMs>,
    /// Why the last scan failed or skipped something, one sentence each.
    pub problems: Vec<String>,
    /// The shared folders.
    pub roots: Vec<ShareRootView>,
}

/// One shared folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShareRootView {
    /// Short stable id for the API.
    pub id: String,
    /// Name others see.
    pub alias: String,
    /// On our disk.
    pub local_path: String,
    /// Folders and files below it.
    pub counts: ShareCounts,
}

/// Our place in the distributed network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeView {
    /// Depth below the root.
    pub level: u32,
    /// Who the root is.
    pub root: Option<Username>,
    /// Our parent.
    pub parent: Option<Username>,
    /// Our children.
    pub children: Vec<Username>,
}

/// Counters of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowView {
    /// In progress.
    pub active: u32,
    /// Waiting.
    pub queued: u32,
    /// Bytes per second, now.
    pub speed: u64,
    /// Succeeded since start.
    pub succeeded: u64,
    /// Failed since start.
    pub failed: u64,
    /// Bytes since start.
    pub bytes: u64,
}

/// The disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskView {
    /// `io_uring` or `blocking`.
    pub backend: &'static str,
    /// Why the blocking backend was taken.
    pub backend_reason: Option<String>,
    /// Free bytes, where partial files lie.
    pub free: u64,
    /// Size in bytes.
    pub total: u64,
    /// Downloads pause because of it.
    pub full: bool,
}

/// Our listening port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortView {
    /// TCP port we listen on.
    pub listen: u16,
    /// How a mapping stands: `off`, `PCP`, `NAT-PMP`, `UPnP`, or why there is none.
    pub mapping: String,
}

/// A background task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskView {
    /// Its name.
    pub name: &'static str,
    /// `running`, `restarting`, `stopped`.
    pub state: &'static str,
    /// Times it was restarted.
    pub restarts: u32,
    /// Why, the last time.
    pub last_error: Option<String>,
}

/// A search of ours, without its responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchView {
    /// Id.
    pub id: SearchId,
    /// Token on the wire.
    pub token: u32,
    /// The words.
    pub text: String,
    /// Waits for the pacing bucket, runs, or why it ended.
    pub state: SearchState,
    /// When it was asked for.
    pub started_at: UnixMs,
    /// When it ended.
    pub ended_at: Option<UnixMs>,
    /// Responses kept.
    pub responses: u32,
    /// Files in them.
    pub files: u32,
    /// Locked files in them.
    pub locked_files: u32,
}

/// States of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchState {
    /// Waits for its turn.
    Queued,
    /// Sent.
    InProgress,
    /// Over: no more answers came.
    TimedOut,
    /// Over: response limit.
    ResponseLimitReached,
    /// Over: file limit.
    FileLimitReached,
    /// Over: stopped by the owner.
    Cancelled,
    /// Over: not sent.
    Errored,
}

/// One user's answer to a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseView {
    /// Who.
    pub user: Username,
    /// Token.
    pub token: u32,
    /// A slot is free.
    pub free_slot: bool,
    /// Bytes per second.
    pub upload_speed: u32,
    /// Files waiting there.
    pub queue_length: u32,
    /// Files.
    pub files: Vec<FileView>,
    /// Files only some may fetch.
    pub locked_files: Vec<FileView>,
}

/// A remote file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileView {
    /// Full path in search answers, bare name in folders.
    pub name: WireText,
    /// Bytes.
    pub size: u64,
    /// Wire code, 1.
    pub code: u8,
    /// Extension as sent; often empty.
    pub extension: String,
    /// Claims about it.
    pub attributes: Attributes,
}

/// A remote folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderView {
    /// Virtual path.
    pub name: WireText,
    /// Bare names.
    pub files: Vec<FileView>,
}

/// What a user says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfoView {
    /// Free text.
    pub description: String,
    /// Has a picture.
    pub picture: Option<Vec<u8>>,
    /// Upload slots.
    pub slots: u32,
    /// Files waiting.
    pub queue_length: u32,
    /// A slot is free.
    pub free_slot: bool,
}

/// A user's presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserStatusView {
    /// `Offline`, `Away`, `Online`.
    pub presence: &'static str,
    /// Paid privileges.
    pub privileged: bool,
    /// Average upload speed in bytes per second, uploads, files, folders.
    pub stats: Option<(u32, u32, u32, u32)>,
}

/// One effective setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingView {
    /// Dotted key.
    pub key: String,
    /// Value as text; secrets are shown as `(set)`.
    pub value: String,
    /// `built-in`, `file PATH:LINE:COLUMN`, `environment variable NAME` or `flag NAME`.
    pub source: String,
    /// A layer above the file that the page writes gives the value: changing it on the page would change nothing.
    pub fixed: bool,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Rising number.
    pub sequence: u64,
    /// When.
    pub at: UnixMs,
    /// `ERROR` to `DEBUG`.
    pub level: &'static str,
    /// Module.
    pub target: String,
    /// Text with fields, control characters escaped.
    pub text: String,
}

/// Told to open pages as it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A transfer changed its state.
    Transfer(TransferId, Direction),
    /// A download lies in its place.
    DownloadFinished(TransferId),
    /// A search got results or ended.
    Search(SearchId),
    /// A message came.
    Message(Username),
    /// The connection changed.
    Server,
    /// The shares changed.
    Shares,
    /// A library scan began or ended.
    Library,
}
