//! Answers the web layer: reads come from the store, the index or the engine; orders go to the engine.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::appliance::card::SOURCE;
use super::appliance::node::Appliance;
use super::apply::Applier;
use super::doctor::service::Doctor;
use super::jobs::Jobs;
use super::logging::LogTail;
use super::mesh::MeshService;
use super::repair::RepairService;
use super::rescue::RescueService;
use super::settings::{self, Sources};
use super::sharing::{Sharing, SharingError};
use super::soulseek::NodeHandle;
use super::traces::{self, Traces};
use crate::engine::soulseek::io::{Command, Refusal, Reply};
use crate::engine::soulseek::peer::{RemoteFile, RemoteFolder};
use crate::engine::soulseek::server::UserStatus;
use crate::engine::soulseek::sharelist::ShareListReader;
use crate::model::config::Resolved;
use crate::model::id::{TransferId, Username};
use crate::model::limits;
use crate::model::record::Change;
use crate::model::trace::{TraceAnswer, TraceRequest};
use crate::model::transfer::{Direction, Transfer};
use crate::model::view::{
    Browsed, EnqueueRequest, FileView, FolderStream, FolderView, Request, Response, SettingView, TransferFilter,
    UserInfoView, UserStatusView,
};
use crate::store::{Store, StoreError};
use crate::web::Ask;

/// Questions answered at once; further ones wait.
const AT_ONCE: usize = 64;

/// What answers come from.
pub struct Desk {
    /// The engine.
    pub node: NodeHandle,
    /// Records.
    pub store: Store,
    /// The share index.
    pub sharing: Sharing,
    /// Log lines.
    pub tail: LogTail,
    /// Where the configuration lies.
    pub sources: Sources,
    /// The configuration in force.
    pub resolved: Mutex<Arc<Resolved>>,
    /// Puts a new configuration to work.
    pub applier: Applier,
    /// The Collection Doctor.
    pub doctor: Doctor,
    /// The mesh.
    pub mesh: MeshService,
    /// Rescue and fairness.
    pub rescue: RescueService,
    /// Repairs.
    pub repair: RepairService,
    /// Jobs.
    pub jobs: Jobs,
    /// What was written down about jobs.
    pub traces: Traces,
    /// The box we run on.
    pub appliance: Appliance,
    /// Stops the process.
    pub shutdown: CancellationToken,
}

/// Answers until the web layer is gone or `cancel`.
///
/// # Errors
/// None; the type is the supervisor's.
pub async fn run(
    desk: Arc<Desk>,
    asks: Arc<Mutex<mpsc::Receiver<Ask>>>,
    cancel: CancellationToken,
) -> Result<(), String> {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut asks = asks.lock().await;
    loop {
        let permit = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            permit = permits.clone().acquire_owned() => permit.map_err(|e| e.to_string())?,
        };
        let ask = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            ask = asks.recv() => ask,
        };
        let Some(ask) = ask else { return Ok(()) };
        let desk = desk.clone();
        tokio::spawn(async move {
            let lets_go = waits_for_others(&ask.request);
            tell(ask.answer, lets_go, desk.answer(ask.request)).await;
            drop(permit);
        });
    }
}

/// Waits for the answer and gives it; where it `lets_go`, only as long as somebody waits for it.
async fn tell(
    mut to: oneshot::Sender<Response>,
    lets_go: bool,
    answer: impl Future<Output = Result<Response, Refusal>>,
) {
    let response = tokio::select! {
        response = answer => response.unwrap_or_else(Response::Refused),
        () = to.closed(), if lets_go => return,
    };
    // Whoever asked may have gone.
    let _ = to.send(response);
}

/// Whether the answer comes from the network and changes nothing here: such a question is let go of when nobody waits
/// for its answer any more. Everything else is brought to its end.
fn waits_for_others(request: &Request) -> bool {
    matches!(
        request,
        Request::Browse(_)
            | Request::Folder(..)
            | Request::Place(_)
            | Request::UserInfo(_)
            | Request::UserStatus(_)
            | Request::UserEndpoint(_)
    )
}

fn restarting() -> Refusal {
    Refusal::Full("the engine is being started; try again".to_owned())
}

#[expect(clippy::needless_pass_by_value, reason = "used by map_err")]
fn unreadable(error: StoreError) -> Refusal {
    tracing::error!(%error, "the store could not be used");
    Refusal::Full(format!("the store cannot be used: {error}"))
}

impl Desk {
    /// What was recorded up to now is in the answer.
    async fn trace(&self, request: TraceRequest) -> Result<TraceAnswer, Refusal> {
        match request {
            TraceRequest::Names => Ok(TraceAnswer::Names(self.read(Store::trace_names).await?)),
            TraceRequest::Jobs => {
                self.traces.settle().await;
                Ok(TraceAnswer::Jobs(self.read(traces::look::jobs).await?))
            }
            TraceRequest::Job { job, offset, limit } => {
                self.traces.settle().await;
                let found = self.read(move |store| traces::look::job(store, &job, offset, limit)).await?;
                Ok(TraceAnswer::Job(Box::new(found.ok_or(Refusal::NotFound)?)))
            }
        }
    }

    async fn answer(&self, request: Request) -> Result<Response, Refusal> {
        Ok(match request {
            Request::Transfers(filter) => self.transfers(filter).await?,
            Request::Transfer(direction, id) => Response::Transfer(Box::new(self.transfer(direction, id).await?)),
            Request::Batches => Response::Batches(self.read(Store::batches).await?),
            Request::Batch(id) => {
                Response::Batch(self.read(move |store| store.batch(id)).await?.ok_or(Refusal::NotFound)?)
            }
            Request::Searches => {
                Response::Searches(self.node.look(|node, _| node.searches()).await.ok_or_else(restarting)?)
            }
            Request::Search(id) => {
                let found = self.node.look(move |node, _| node.search(id)).await.ok_or_else(restarting)?;
                let (view, responses) = found.ok_or(Refusal::NotFound)?;
                Response::Search(view, responses)
            }
            Request::Wishes => Response::Wishes(self.read(Store::wishes).await?),
            Request::Conversations => Response::Conversations(self.read(Store::conversations).await?),
            Request::Messages(user) => {
                Response::Messages(self.read(move |store| store.messages(&user, limits::MESSAGES_PER_USER)).await?)
            }
            Request::Settings => Response::Settings(self.settings().await),
            Request::SettingsYaml => Response::Text(settings::print(&self.resolved.lock().await.clone())),
            Request::Log(after) => Response::Log(self.tail.after(after)),
            Request::SharedFolders { root, offset, limit } => {
                let sharing = self.sharing.clone();
                let read = move || sharing.folders(root.as_deref(), offset, limit);
                let (rows, all) = blocking(read).await?.map_err(|error| shares(&error))?;
                Response::SharedFolders(rows, all)
            }
            Request::Value(name) => Response::Value(self.read(move |store| store.setting(&name)).await?),
            Request::KeepValue(name, value) => {
                self.store.apply(vec![Change::Setting(name, value)]).await.map_err(unreadable)?;
                Response::Done
            }
            Request::Metrics => Response::Text(self.metrics().await?),
            Request::Rescan(root) => {
                self.sharing.rescan(root.as_deref()).map_err(|error| shares(&error))?;
                Response::Done
            }
            Request::StopScan => {
                self.sharing.stop_scan();
                Response::Done
            }
            Request::Enqueue(request) => self.enqueue(request).await?,
            Request::ClearCompleted(direction) => {
                self.store.clear_completed(direction).await.map_err(unreadable)?;
                Response::Done
            }
            Request::Cancel { direction, id, remove } => self.cancel(direction, id, remove).await?,
            Request::Browse(user) => self.browse(user).await?,
            Request::ChangeSettings(changes) => self.change(changes).await?,
            Request::Backup(path) => self.backup(path).await?,
            Request::Health(request) => {
                let doctor = self.doctor.clone();
                Response::Health(blocking(move || doctor.answer(request)).await??)
            }
            Request::Mesh(request) => Response::Mesh(self.mesh.answer(request).await?),
            Request::Rescue(request) => Response::Rescue(self.rescue.answer(request).await?),
            Request::Repair(request) => Response::Repair(self.repair.answer(request).await?),
            Request::Jobs(request) => Response::Jobs(self.jobs.answer(request).await?),
            Request::Trace(request) => Response::Trace(self.trace(request).await?),
            Request::Appliance(request) => {
                let resolved = self.resolved.lock().await.clone();
                Response::Appliance(self.appliance.answer(request, &resolved.config).await?)
            }
            Request::Shutdown => {
                self.shutdown.cancel();
                Response::Done
            }
            Request::StartSearch(search) => self.order(Command::Search(search)).await?,
            Request::StopSearch(id) => self.order(Command::SearchStop(id)).await?,
            Request::ForgetSearch(id) => self.order(Command::SearchForget(id)).await?,
            Request::AddWish(text) => self.order(Command::WishAdd(text)).await?,
            Request::RemoveWish(id) => self.order(Command::WishRemove(id)).await?,
            Request::Retry(id) => match self.order(Command::Retry(id)).await {
                Err(Refusal::NotFound) => {
                    let record = self.transfer(Direction::Download, id).await?;
                    self.order(Command::Revive(Box::new(record))).await?
                }
                outcome => outcome?,
            },
            Request::Place(id) => self.order(Command::Place(id)).await?,
            Request::Folder(user, path) => self.order(Command::Folder(user, path.as_str().into())).await?,
            Request::UserInfo(user) => self.order(Command::UserInfo(user)).await?,
            Request::UserStatus(user) => self.order(Command::UserStatus(user)).await?,
            Request::UserEndpoint(user) => self.order(Command::UserEndpoint(user)).await?,
            Request::SendMessage(user, text) => self.order(Command::SendMessage(user, text)).await?,
            Request::MessagesRead(user) => self.order(Command::MessagesRead(user)).await?,
            Request::ForgetMessages(user) => self.order(Command::MessagesForget(user)).await?,
            Request::Connect => self.order(Command::Connect).await?,
            Request::Disconnect => self.order(Command::Disconnect).await?,
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let store = self.store.clone();
        blocking(move || read(&store)).await?.map_err(unreadable)
    }

    async fn command(&self, command: Command) -> Result<Reply, Refusal> {
        match self.node.command(command).await.ok_or_else(restarting)? {
            Reply::Refused(refusal) => Err(refusal),
            reply => Ok(reply),
        }
    }

    /// A command whose reply needs nothing but translation.
    async fn order(&self, command: Command) -> Result<Response, Refusal> {
        Ok(match self.command(command).await? {
            Reply::Done | Reply::Enqueued { .. } | Reply::Browsed { .. } => Response::Done,
            Reply::Refused(refusal) => Response::Refused(refusal),
            Reply::Wish(id) => Response::WishAdded(id),
            Reply::Place(place) => Response::Place(place),
            Reply::Folder(folders) => Response::Folders(folders.into_iter().map(folder_view).collect()),
            Reply::Info(info) => Response::UserInfo(UserInfoView {
                description: info.description.as_str().to_owned(),
                picture: info.picture,
                slots: info.slots,
                queue_length: info.queue_length,
                free_slot: info.free_slot,
            }),
            Reply::Status { status, privileged, stats } => Response::UserStatus(UserStatusView {
                presence: match status {
                    UserStatus::Away => "Away",
                    UserStatus::Online => "Online",
                    UserStatus::Offline | UserStatus::Other(_) => "Offline",
                },
                privileged,
                stats: stats.map(|s| (s.average_speed, s.uploads, s.files, s.folders)),
            }),
            Reply::Endpoint(at) => Response::Endpoint(at),
        })
    }

    /// Waits until the store shows all that the engine has recorded so far. Between a look at the engine and one at the
    /// store, so that a transfer that is just over is seen by one of them. Writes nothing, so it costs no sync.
    async fn settled(&self) {
        // A store that takes no more writes says so elsewhere; it is read all the same.
        let _ = self.store.apply(Vec::new()).await;
    }

    /// Live ones from the engine, then finished ones from the store, as one list.
    async fn transfers(&self, filter: TransferFilter) -> Result<Response, Refusal> {
        let wanted = filter.clone();
        let limit = filter.limit.min(limits::PAGE_ROWS);
        let live = self.node.look(move |node, _| {
            let shown = |t: &&Transfer| {
                (wanted.include_removed || !t.removed) && wanted.user.as_ref().is_none_or(|user| t.user == *user)
            };
            let mut all: Vec<&Transfer> = node.live(wanted.direction).filter(shown).collect();
            all.sort_by(|a, b| b.requested_at.cmp(&a.requested_at).then_with(|| a.path.cmp(&b.path)));
            // Only what is asked for is copied: there may be thousands, and the engine waits meanwhile.
            let rows: Vec<Transfer> = all.iter().skip(wanted.offset).take(limit).copied().cloned().collect();
            let listed: BTreeSet<TransferId> = all.iter().map(|transfer| transfer.id).collect();
            (rows, listed)
        });
        let (mut rows, listed) = live.await.ok_or_else(restarting)?;
        self.settled().await;
        let count = listed.len();
        let finished =
            TransferFilter { offset: filter.offset.saturating_sub(count), limit: limit - rows.len(), ..filter };
        let (more, finished_count) = self.read(move |store| store.transfers(&finished)).await?;
        // What has ended between the two looks is in both.
        rows.extend(more.into_iter().filter(|transfer| !listed.contains(&transfer.id)));
        Ok(Response::Transfers(rows, count + finished_count))
    }

    async fn transfer(&self, direction: Direction, id: TransferId) -> Result<Transfer, Refusal> {
        let live = self.node.look(move |node, _| node.transfer(direction, id).cloned()).await.ok_or_else(restarting)?;
        if let Some(transfer) = live {
            return Ok(transfer);
        }
        self.settled().await;
        self.read(move |store| store.transfer(direction, id)).await?.ok_or(Refusal::NotFound)
    }

    async fn enqueue(&self, request: EnqueueRequest) -> Result<Response, Refusal> {
        if let Some(id) = request.batch
            && self.read(move |store| store.batch(id)).await?.is_some()
        {
            return Err(Refusal::Duplicate);
        }
        let Reply::Enqueued { accepted, failed, batch } = self.command(Command::Enqueue(request)).await? else {
            return Err(restarting());
        };
        let mut rows = Vec::with_capacity(accepted.len());
        for id in accepted {
            // One that is over already has its record in the store.
            if let Ok(transfer) = self.transfer(Direction::Download, id).await {
                rows.push(transfer);
            }
        }
        let batch = match batch {
            Some(id) => self.read(move |store| store.batch(id)).await?,
            None => None,
        };
        let failed = failed.into_iter().map(|(path, why)| (path.as_str().to_owned(), why)).collect();
        Ok(Response::Enqueued { accepted: rows, failed, batch })
    }

    /// A live one is called off by the engine; one that is over is only hidden.
    async fn cancel(&self, direction: Direction, id: TransferId, remove: bool) -> Result<Response, Refusal> {
        let command = Command::Cancel { direction, id, remove };
        match self.node.command(command).await.ok_or_else(restarting)? {
            Reply::Refused(Refusal::NotFound) => {
                let mut transfer = self.transfer(direction, id).await?;
                if remove && !transfer.removed {
                    transfer.removed = true;
                    // Kept so that the download could be begun anew; now nobody can ask for that any more.
                    if let Some(partial) = transfer.partial.take()
                        && let Err(error) = self.applier.parts().pump.discard(&partial.file).await
                    {
                        tracing::warn!(file = partial.file, %error, "a partial file could not be removed");
                    }
                    self.store.apply(vec![Change::Transfer(Box::new(transfer))]).await.map_err(unreadable)?;
                }
                Ok(Response::Done)
            }
            Reply::Refused(refusal) => Err(refusal),
            _ => Ok(Response::Done),
        }
    }

    async fn browse(&self, user: Username) -> Result<Response, Refusal> {
        let Reply::Browsed { folders, files } = self.command(Command::Browse(user.clone())).await? else {
            return Err(restarting());
        };
        let path = self.applier.spool_path(&user).await.ok_or_else(restarting)?;
        let open = Arc::new(move || {
            let reader = ShareListReader::new(std::io::BufReader::new(std::fs::File::open(&path)?));
            let folders: FolderStream = Box::new(reader.map(|folder| match folder {
                Ok(folder) => Ok(folder_view(folder)),
                Err(error) => Err(std::io::Error::other(error.to_string())),
            }));
            Ok(folders)
        });
        Ok(Response::Browsed(Browsed { folders, files, open }))
    }

    async fn settings(&self) -> Vec<SettingView> {
        let resolved = self.resolved.lock().await.clone();
        let own = self.sources.data_file().display().to_string();
        let kept = self.sources.secrets_file().display().to_string();
        let folders = self.applier.folders();
        let row = |row: &crate::model::config::Effective| {
            let value = match (row.key.as_str(), settings::shown(row)) {
                ("directories.downloads", empty) if empty.is_empty() => folders.downloads.display().to_string(),
                ("directories.incomplete", empty) if empty.is_empty() => folders.incomplete.display().to_string(),
                (_, value) => value,
            };
            let source = if row.place.source == kept {
                // Where its owner wrote it.
                SOURCE.to_owned()
            } else if row.place.line > 0 {
                format!("file {}", row.place)
            } else {
                row.place.to_string()
            };
            // Below our own file lies what was taken from the card, too.
            let fixed = ![own.as_str(), kept.as_str(), "built-in"].contains(&row.place.source.as_str());
            SettingView { key: row.key.clone(), value, source, fixed }
        };
        resolved.effective.iter().map(row).collect()
    }

    async fn change(&self, changes: Vec<(String, Option<String>)>) -> Result<Response, Refusal> {
        // One at a time, the file included.
        let mut current = self.resolved.lock().await;
        let sources = self.sources.clone();
        let changed = match blocking(move || sources.change(&changes)).await? {
            Ok(changed) => changed,
            Err(problems) => {
                let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
                return Err(Refusal::Invalid(told.join("; ")));
            }
        };
        if let Err(why) = self.applier.apply(&current.config, &changed.resolved.config).await {
            // What could not be put to work now could keep the program from starting later.
            let sources = self.sources.clone();
            if let Err(error) = blocking(move || sources.undo(&changed)).await? {
                tracing::error!(%error, "a refused change stays in the configuration file");
            }
            return Err(Refusal::Invalid(why));
        }
        *current = Arc::new(changed.resolved);
        Ok(Response::Done)
    }

    async fn backup(&self, path: String) -> Result<Response, Refusal> {
        let path = PathBuf::from(path);
        if path.exists() {
            return Err(Refusal::Invalid(format!("{} exists already", path.display())));
        }
        let (store, sources) = (self.store.clone(), self.sources.clone());
        let written = blocking(move || super::backup::write(&store, &sources, &path)).await?;
        written.map(Response::Text).map_err(Refusal::Invalid)
    }

    async fn metrics(&self) -> Result<String, Refusal> {
        let stats = self.read(Store::stats).await?;
        let health = self.read(|store| store.read(|txn, tables| tables.library.summary(txn, None))).await?;
        let (counts, traffic) = (self.rescue.counts(), self.rescue.traffic());
        let doctor = (self.doctor.figures(), health);
        let helped = (&counts, &traffic, self.repair.counts());
        Ok(self.applier.metrics(&stats, doctor, &self.mesh.view(), helped).await)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a question could not be answered");
        Refusal::Full("the question could not be answered; the log says why".to_owned())
    })
}

fn shares(error: &SharingError) -> Refusal {
    match error {
        SharingError::UnknownShare(_) => Refusal::NotFound,
        other => Refusal::Full(other.to_string()),
    }
}

fn folder_view(folder: RemoteFolder) -> FolderView {
    FolderView { name: folder.name, files: folder.files.into_iter().map(file_view).collect() }
}

fn file_view(file: RemoteFile) -> FileView {
    let attributes = file.known_attributes();
    FileView {
        name: file.name,
        size: file.size,
        code: file.code,
        extension: file.extension.as_str().to_owned(),
        attributes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_waits_for_a_stranger_on_behalf_of_nobody() {
        let (to, heard) = oneshot::channel();
        let asked = tokio::spawn(tell(to, waits_for_others(&Request::Browse("u".into())), std::future::pending()));
        tokio::task::yield_now().await;
        drop(heard);
        asked.await.unwrap();

        // A change is brought to its end.
        let (to, heard) = oneshot::channel();
        drop(heard);
        let mut done = false;
        let work = async {
            tokio::task::yield_now().await;
            done = true;
            Ok(Response::Done)
        };
        tell(to, waits_for_others(&Request::ChangeSettings(Vec::new())), work).await;
        assert!(done);
    }
}
