//! What pages and tools ask and command, and the answers.

use std::net::SocketAddrV4;

use super::{Browsed, FolderView, LogLine, ResponseView, SearchView, SettingView, UserInfoView, UserStatusView};
use crate::model::appliance::{ApplianceAnswer, ApplianceRequest};
use crate::model::health::{HealthAnswer, HealthRequest};
use crate::model::id::{BatchId, SearchId, TransferId, Username};
use crate::model::job::{JobAnswer, JobRequest};
use crate::model::mesh::{MeshAnswer, MeshRequest};
use crate::model::music::WireText;
use crate::model::record::{Batch, PrivateMessage, Wish};
use crate::model::repair::{RepairAnswer, RepairRequest};
use crate::model::rescue::{RescueAnswer, RescueRequest};
use crate::model::trace::{TraceAnswer, TraceRequest};
use crate::model::transfer::{Direction, Transfer};

/// A filter over transfers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferFilter {
    /// Which way.
    pub direction: Direction,
    /// One user only.
    pub user: Option<Username>,
    /// Hidden ones too.
    pub include_removed: bool,
    /// Rows to skip, newest first.
    pub offset: usize,
    /// Rows at most; capped by `limits::PAGE_ROWS`.
    pub limit: usize,
}

/// Asked by the web layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Answer: `Transfers`.
    Transfers(TransferFilter),
    /// Answer: `Transfer`.
    Transfer(Direction, TransferId),
    /// Answer: `Batches`, newest first.
    Batches,
    /// Answer: `Batch`.
    Batch(BatchId),
    /// Answer: `Searches`.
    Searches,
    /// Answer: `Search`.
    Search(SearchId),
    /// Answer: `Wishes`.
    Wishes,
    /// Users written with, with the last message. Answer: `Conversations`.
    Conversations,
    /// The newest messages, oldest first, at most `limits::PAGE_ROWS`. Answer: `Messages`.
    Messages(Username),
    /// Effective configuration. Answer: `Settings`.
    Settings,
    /// The effective configuration as YAML, secrets blanked. Answer: `Text`.
    SettingsYaml,
    /// Lines after this number. Answer: `Log`.
    Log(u64),
    /// Folders of our own shares below a virtual path, paged. Answer: `SharedFolders`.
    SharedFolders {
        /// Only this share, by id.
        root: Option<String>,
        /// Folders to skip.
        offset: usize,
        /// Folders at most.
        limit: usize,
    },
    /// A value kept for the web layer (password hash, session secret, set-up state). Answer: `Value`.
    Value(String),
    /// Keep or remove such a value; durable when answered. Answer: `Done`.
    KeepValue(String, Option<Vec<u8>>),
    /// Prometheus text of everything outside the web layer. Answer: `Text`.
    Metrics,
    /// Scan now: one share by id, or all. Answer: `Done`.
    Rescan(Option<String>),
    /// Stop a running scan. Answer: `Done`.
    StopScan,
    /// Start a search. Answer: `Done`.
    StartSearch(SearchRequest),
    /// Stop waiting for more results. Answer: `Done`.
    StopSearch(SearchId),
    /// Forget a search. Answer: `Done`.
    ForgetSearch(SearchId),
    /// Answer: `WishAdded`.
    AddWish(String),
    /// Answer: `Done`.
    RemoveWish(u64),
    /// Answer: `Enqueued`.
    Enqueue(EnqueueRequest),
    /// Answer: `Done`.
    Cancel {
        /// Which way.
        direction: Direction,
        /// Which.
        id: TransferId,
        /// Hide it too.
        remove: bool,
    },
    /// Answer: `Done`.
    ClearCompleted(Direction),
    /// Answer: `Done`.
    Retry(TransferId),
    /// Answer: `Place`.
    Place(TransferId),
    /// Fetch a user's whole share list. Answer: `Browsed`.
    Browse(Username),
    /// Answer: `Folders`.
    Folder(Username, String),
    /// Answer: `UserInfo`.
    UserInfo(Username),
    /// Answer: `UserStatus`.
    UserStatus(Username),
    /// Answer: `Endpoint`.
    UserEndpoint(Username),
    /// Answer: `Done`.
    SendMessage(Username, String),
    /// Answer: `Done`.
    MessagesRead(Username),
    /// Answer: `Done`.
    ForgetMessages(Username),
    /// Log in now. Answer: `Done`.
    Connect,
    /// Log out and stay out. Answer: `Done`.
    Disconnect,
    /// Change settings (dotted key, value as text or `None` for the default), checked, written to the data file and
    /// applied. Answer: `Done`, or `Refused(Invalid)` naming the key.
    ChangeSettings(Vec<(String, Option<String>)>),
    /// Write a verified copy of the store and the configuration to this file on our disk. Answer: `Text`, what is in it.
    Backup(String),
    /// Stop the process in an orderly way. Answer: `Done`.
    Shutdown,
    /// Answer: `Health`.
    Health(HealthRequest),
    /// Answer: `Mesh`.
    Mesh(MeshRequest),
    /// Answer: `Rescue`.
    Rescue(RescueRequest),
    /// Answer: `Repair`.
    Repair(RepairRequest),
    /// Answer: `Trace`.
    Trace(TraceRequest),
    /// Answer: `Jobs`.
    Jobs(JobRequest),
    /// Answer: `Appliance`.
    Appliance(ApplianceRequest),
}

/// Answers to requests.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// It is so.
    Done,
    /// It is not, and why.
    Refused(Refusal),
    /// Rows of this page, and how many there are in all.
    Transfers(Vec<Transfer>, usize),
    /// One.
    Transfer(Box<Transfer>),
    /// Batches.
    Batches(Vec<Batch>),
    /// One.
    Batch(Batch),
    /// All kept searches, newest first.
    Searches(Vec<SearchView>),
    /// One with its responses.
    Search(SearchView, Vec<ResponseView>),
    /// Wishes.
    Wishes(Vec<Wish>),
    /// Last message of each conversation and its unread count, newest first.
    Conversations(Vec<(PrivateMessage, u32)>),
    /// Messages.
    Messages(Vec<PrivateMessage>),
    /// Settings.
    Settings(Vec<SettingView>),
    /// Text.
    Text(String),
    /// Log lines, oldest first.
    Log(Vec<LogLine>),
    /// Own folders of this page, and how many there are in all.
    SharedFolders(Vec<FolderView>, usize),
    /// A kept value.
    Value(Option<Vec<u8>>),
    /// A wish was added.
    WishAdded(u64),
    /// See `EnqueueRequest`.
    Enqueued {
        /// Recorded transfers, in the order asked.
        accepted: Vec<Transfer>,
        /// Path and reason.
        failed: Vec<(String, String)>,
        /// The batch, if asked for.
        batch: Option<Batch>,
    },
    /// Place in queue, 1 is next.
    Place(u32),
    /// The spooled list: file (inflated body of code 5, see `engine::soulseek::shares`), folders, files.
    Browsed(Browsed),
    /// Folders.
    Folders(Vec<FolderView>),
    /// Info.
    UserInfo(UserInfoView),
    /// Status.
    UserStatus(UserStatusView),
    /// Endpoint.
    Endpoint(SocketAddrV4),
    /// Of the Collection Doctor.
    Health(HealthAnswer),
    /// Of the mesh.
    Mesh(MeshAnswer),
    /// Of rescue and fairness.
    Rescue(RescueAnswer),
    /// Of repairs.
    Repair(RepairAnswer),
    /// Of traces.
    Trace(TraceAnswer),
    /// Of jobs.
    Jobs(JobAnswer),
    /// Of the appliance.
    Appliance(ApplianceAnswer),
}

/// A search of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchRequest {
    /// Chosen by the client, or by us.
    pub id: SearchId,
    /// The words.
    pub text: String,
    /// One user only.
    pub user: Option<Username>,
    /// Ends so long after the last result, milliseconds (slskd: 15,000).
    pub timeout_ms: u64,
    /// At most so many responses.
    pub response_limit: u32,
    /// At most so many files.
    pub file_limit: u32,
    /// Drop responses that fail the next three.
    pub filter_responses: bool,
    /// Files a response must have.
    pub minimum_files: u32,
    /// Longest queue.
    pub maximum_queue: u32,
    /// Slowest upload speed, bytes per second.
    pub minimum_speed: u32,
}

/// Files wanted from one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnqueueRequest {
    /// Who has them.
    pub user: Username,
    /// Path and size; at most `limits::BATCH_FILES`.
    pub files: Vec<(WireText, u64)>,
    /// A batch of this id.
    pub batch: Option<BatchId>,
    /// The search they come from.
    pub search: Option<u128>,
    /// Folder below the downloads folder, as asked: made safe here.
    pub destination: Option<String>,
    /// A client's own mark.
    pub external: Option<String>,
}

/// Why a command was refused. Each maps to one HTTP status in the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// We are not logged in.
    NotConnected,
    /// No such search, transfer, user or folder.
    NotFound,
    /// The user is offline, or cannot be reached.
    UserOffline,
    /// No answer in time.
    TimedOut,
    /// The same thing exists.
    Duplicate,
    /// A stated limit is reached; the text says which.
    Full(String),
    /// The request makes no sense; the text says why.
    Invalid(String),
}
