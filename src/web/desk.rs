//! The counter between the web layer and the rest of the program: a snapshot to look at, questions to ask, events to
//! hear. Who answers, and how, is not known here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::model::appliance::{ApplianceAnswer, ApplianceRequest};
use crate::model::health::{HealthAnswer, HealthRequest};
use crate::model::id::{BatchId, SearchId, TransferId, Username};
use crate::model::job::{JobAnswer, JobRequest};
use crate::model::mesh::{MeshAnswer, MeshRequest};
use crate::model::record::{Batch, PrivateMessage, Wish};
use crate::model::repair::{RepairAnswer, RepairRequest};
use crate::model::rescue::{RescueAnswer, RescueRequest};
use crate::model::trace::{TraceAnswer, TraceRequest};
use crate::model::transfer::{Direction, Transfer};
use crate::model::view::{
    Browsed, EnqueueRequest, Event, FolderView, LogLine, Refusal, Request, Response, ResponseView, SearchView,
    SettingView, Snapshot, TransferFilter, UserInfoView, UserStatusView,
};

/// Longest wait for an answer: a share list may take two minutes to arrive.
pub const ANSWER_S: u64 = 150;

/// One question and where its answer goes. Dropping `answer` means there will be none.
#[derive(Debug)]
pub struct Ask {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Response>,
}

/// A handle to ask through; cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    asks: mpsc::Sender<Ask>,
    events: broadcast::Sender<Event>,
}

/// What an `Enqueue` came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Enqueued {
    /// Recorded transfers, in the order asked.
    pub accepted: Vec<Transfer>,
    /// Path and reason.
    pub failed: Vec<(String, String)>,
    /// The batch, if asked for.
    pub batch: Option<Batch>,
}

/// A method that asks one request and unpacks the one kind of answer it has.
macro_rules! asks {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $kind:ty),*) -> $out:ty
       = $request:expr => $pattern:pat => $value:expr;)*) => {
        $($(#[$doc])*
        pub async fn $name(&self, $($arg: $kind),*) -> Result<$out, Refusal> {
            match self.ask($request).await? {
                $pattern => Ok($value),
                other => Err(mismatch(&other)),
            }
        })*
    };
}

fn mismatch(answer: &Response) -> Refusal {
    tracing::error!(?answer, "an answer of the wrong kind");
    Refusal::Invalid("the program gave an answer of the wrong kind".to_owned())
}

impl Desk {
    /// Puts the three ends together. Whoever holds the receiver of `asks` answers.
    pub fn new(
        snapshot: watch::Receiver<Arc<Snapshot>>,
        asks: mpsc::Sender<Ask>,
        events: broadcast::Sender<Event>,
    ) -> Self {
        Self { snapshot, asks, events }
    }

    /// The state of things, now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// The state of things, as it changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// Events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Asks and waits, at most [`ANSWER_S`] seconds in all. `Response::Refused` comes back as the error.
    pub async fn ask(&self, request: Request) -> Result<Response, Refusal> {
        let exchange = async {
            let (answer, heard) = oneshot::channel();
            let stopping = || Refusal::Full("the program is stopping".to_owned());
            self.asks.send(Ask { request, answer }).await.map_err(|_| stopping())?;
            match heard.await.map_err(|_| stopping())? {
                Response::Refused(refusal) => Err(refusal),
                response => Ok(response),
            }
        };
        tokio::time::timeout(Duration::from_secs(ANSWER_S), exchange).await.unwrap_or(Err(Refusal::TimedOut))
    }

    /// Asks for something whose answer is `Done`.
    pub async fn order(&self, request: Request) -> Result<(), Refusal> {
        match self.ask(request).await? {
            Response::Done => Ok(()),
            other => Err(mismatch(&other)),
        }
    }

    asks! {
        /// Rows and how many there are in all.
        transfers(filter: TransferFilter) -> (Vec<Transfer>, usize)
            = Request::Transfers(filter) => Response::Transfers(rows, all) => (rows, all);
        /// One transfer.
        transfer(direction: Direction, id: TransferId) -> Transfer
            = Request::Transfer(direction, id) => Response::Transfer(transfer) => *transfer;
        /// Batches, newest first.
        batches() -> Vec<Batch> = Request::Batches => Response::Batches(batches) => batches;
        /// One batch.
        batch(id: BatchId) -> Batch = Request::Batch(id) => Response::Batch(batch) => batch;
        /// Kept searches, newest first.
        searches() -> Vec<SearchView> = Request::Searches => Response::Searches(searches) => searches;
        /// One search with its responses.
        search(id: SearchId) -> (SearchView, Vec<ResponseView>)
            = Request::Search(id) => Response::Search(search, responses) => (search, responses);
        /// Wishes.
        wishes() -> Vec<Wish> = Request::Wishes => Response::Wishes(wishes) => wishes;
        /// A new wish's number.
        add_wish(text: String) -> u64 = Request::AddWish(text) => Response::WishAdded(id) => id;
        /// Last message and unread count of each conversation, newest first.
        conversations() -> Vec<(PrivateMessage, u32)>
            = Request::Conversations => Response::Conversations(list) => list;
        /// The newest messages with a user, oldest first.
        messages(user: Username) -> Vec<PrivateMessage> = Request::Messages(user) => Response::Messages(list) => list;
        /// Effective configuration.
        settings() -> Vec<SettingView> = Request::Settings => Response::Settings(list) => list;
        /// Effective configuration as YAML.
        settings_yaml() -> String = Request::SettingsYaml => Response::Text(text) => text;
        /// Log lines after a number.
        log(after: u64) -> Vec<LogLine> = Request::Log(after) => Response::Log(lines) => lines;
        /// A page of our own folders, and how many there are in all.
        shared_folders(root: Option<String>, offset: usize, limit: usize) -> (Vec<FolderView>, usize)
            = Request::SharedFolders { root, offset, limit } => Response::SharedFolders(list, all) => (list, all);
        /// A value kept for the web layer.
        value(name: &str) -> Option<Vec<u8>> = Request::Value(name.to_owned()) => Response::Value(value) => value;
        /// Writes a backup to a new file on the box; a sentence about it.
        backup(path: String) -> String = Request::Backup(path) => Response::Text(text) => text;
        /// Prometheus text of everything outside the web layer.
        metrics() -> String = Request::Metrics => Response::Text(text) => text;
        /// Asks for files of a user.
        enqueue(request: EnqueueRequest) -> Enqueued
            = Request::Enqueue(request)
            => Response::Enqueued { accepted, failed, batch } => Enqueued { accepted, failed, batch };
        /// Place in the other side's queue, 1 is next.
        place(id: TransferId) -> u32 = Request::Place(id) => Response::Place(place) => place;
        /// A user's whole share list.
        browse(user: Username) -> Browsed = Request::Browse(user) => Response::Browsed(browsed) => browsed;
        /// A user's folder and those below it.
        folder(user: Username, folder: String) -> Vec<FolderView>
            = Request::Folder(user, folder) => Response::Folders(folders) => folders;
        /// What a user says about itself.
        user_info(user: Username) -> UserInfoView = Request::UserInfo(user) => Response::UserInfo(info) => info;
        /// A user's presence.
        user_status(user: Username) -> UserStatusView
            = Request::UserStatus(user) => Response::UserStatus(status) => status;
        /// A user's address.
        user_endpoint(user: Username) -> std::net::SocketAddrV4
            = Request::UserEndpoint(user) => Response::Endpoint(endpoint) => endpoint;
        /// Something of the mesh.
        mesh(request: MeshRequest) -> MeshAnswer
            = Request::Mesh(request) => Response::Mesh(answer) => answer;
        /// Something of rescue and fairness.
        rescue(request: RescueRequest) -> RescueAnswer
            = Request::Rescue(request) => Response::Rescue(answer) => answer;
        /// Something of repairs.
        repair(request: RepairRequest) -> RepairAnswer
            = Request::Repair(request) => Response::Repair(answer) => answer;
        /// Something of the appliance.
        appliance(request: ApplianceRequest) -> ApplianceAnswer
            = Request::Appliance(request) => Response::Appliance(answer) => answer;
        /// Something of traces.
        trace(request: TraceRequest) -> TraceAnswer
            = Request::Trace(request) => Response::Trace(answer) => answer;
        /// Something of jobs.
        jobs(request: JobRequest) -> JobAnswer
            = Request::Jobs(request) => Response::Jobs(answer) => answer;
        /// Something of the Collection Doctor.
        health(request: HealthRequest) -> HealthAnswer
            = Request::Health(request) => Response::Health(answer) => answer;
    }

    /// Keeps or removes a value; durable when this returns.
    pub async fn keep_value(&self, name: &str, value: Option<Vec<u8>>) -> Result<(), Refusal> {
        self.order(Request::KeepValue(name.to_owned(), value)).await
    }
}
