//! The engine's shell: one task owns the Soulseek engine, feeds it what happens and performs what it wants.
//!
//! Everybody else holds a [`NodeHandle`]: commands get one reply, and a reply is sent only when every record the engine
//! wrote before it is durable. When the task fails it is made anew from the store; connections are lost, nothing else.
//! That the owner, or another login of the account, wants it off the network outlives it in [`Parts`].

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{Mutex, broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::lookups::Lookups;
use super::pump::{Diversions, Diverted, PlaceOrder, Pump, ReceiveOrder, SendOrder};
use super::sharing::Sharing;
use super::traces::Traces;
use super::traces::transfers::Transfers;
use crate::engine::soulseek::Settings;
use crate::engine::soulseek::downloads::FINISHED;
use crate::engine::soulseek::io::{
    Action, Begin, Command, Compared, FileAction, FileEvent, Input, NetAction, Notice, PlaceError, ReceiveEnd, Refusal,
    Reply, SendEnd, ShareAsk,
};
use crate::engine::soulseek::node::Node;
use crate::engine::soulseek::session::Standing;
use crate::model::id::{CommandId, TransferId};
use crate::model::limits;
use crate::model::time::Now;
use crate::model::transfer::Direction;
use crate::model::view::{Event, TransferFilter};
use crate::net::soulseek::{NetSettings, Network};
use crate::store::{Store, StoreError, Ticket};

/// Inputs waiting for the engine; senders wait, and TCP slows the remote.
const INPUTS: usize = 512;
/// Questions of pages and tools waiting for the engine; they wait.
const MESSAGES: usize = 256;
/// Records and replies waiting for the disk; the engine waits.
const ACKS: usize = 1_024;
/// Bounds of the look-up histogram, seconds: fine around the bars of 2 and 10 ms.
const LOOKUP_SECONDS: [f64; 14] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.2, 1.0];

type Look = Box<dyn FnOnce(&Node, Now) + Send>;

enum Message {
    Command(Command, oneshot::Sender<Reply>),
    Look(Look),
}

/// Asks the engine. Cheap to clone.
#[derive(Clone)]
pub struct NodeHandle {
    messages: mpsc::Sender<Message>,
}

impl NodeHandle {
    /// Asks and waits for the reply; `None` when the engine is being restarted or stopped.
    pub async fn command(&self, command: Command) -> Option<Reply> {
        let (reply, heard) = oneshot::channel();
        self.messages.send(Message::Command(command, reply)).await.ok()?;
        heard.await.ok()
    }

    /// Reads from the engine's state; `None` when it is being restarted or stopped.
    pub async fn look<T: Send + 'static>(&self, look: impl FnOnce(&Node, Now) -> T + Send + 'static) -> Option<T> {
        let (answer, heard) = oneshot::channel();
        let look: Look = Box::new(move |node, now| {
            // Whoever asked may have gone.
            let _ = answer.send(look(node, now));
        });
        self.messages.send(Message::Look(look)).await.ok()?;
        heard.await.ok()
    }
}

/// What the task is made of, each time.
pub struct Parts {
    /// The one clock.
    pub clock: Clock,
    /// Records.
    pub store: Store,
    /// Bytes.
    pub pump: Pump,
    /// The share index.
    pub sharing: Sharing,
    /// Current settings; `Command::Configure` keeps them current for the next restart.
    pub settings: Mutex<Settings>,
    /// Where to listen and whom to call.
    pub net: Mutex<NetSettings>,
    /// What is written down about jobs.
    pub traces: Traces,
    /// Who takes over file connections of downloads.
    pub diversions: Diversions,
    /// Asks the engine.
    pub node: NodeHandle,
    /// For pages.
    pub events: broadcast::Sender<Event>,
    /// The network of the running task, for what needs it outside the engine.
    pub network: Mutex<Option<Network>>,
    /// How long searches of others took, from the question to the index's answer, waiting for its turn included.
    pub search_lookups: Histogram,
    /// Why the engine stays off the network, for the next one.
    standing: Mutex<Standing>,
    messages: Mutex<mpsc::Receiver<Message>>,
}

/// Makes the parts and the handle to what will run on them.
pub fn parts(
    clock: Clock,
    store: Store,
    pump: Pump,
    sharing: Sharing,
    traces: Traces,
    settings: Settings,
    net: NetSettings,
    events: broadcast::Sender<Event>,
) -> (Arc<Parts>, NodeHandle) {
    let (send, receive) = mpsc::channel(MESSAGES);
    let node = NodeHandle { messages: send };
    let parts = Parts {
        clock,
        store,
        pump,
        sharing,
        traces,
        diversions: Diversions::default(),
        node: node.clone(),
        settings: Mutex::new(settings),
        net: Mutex::new(net),
        events,
        network: Mutex::new(None),
        search_lookups: Histogram::new(LOOKUP_SECONDS),
        standing: Mutex::default(),
        messages: Mutex::new(receive),
    };
    (Arc::new(parts), node)
}

/// What waits for the disk, in order.
enum Ack {
    Stored(Ticket<()>),
    Reply(oneshot::Sender<Reply>, Reply),
    Net(Network, NetAction),
    /// Lets a job begin. Dropped where a record before it was lost.
    Begin(oneshot::Sender<()>),
}

/// What a transfer ends with when its job panicked.
const DEFECT: &str = "a defect of the program; the log has the details";

/// Runs until cancelled.
///
/// # Errors
/// The port cannot be had, or a record could not be made durable.
pub async fn run(parts: Arc<Parts>, cancel: CancellationToken) -> Result<(), String> {
    let (inputs, mut happened) = mpsc::channel(INPUTS);
    let net = parts.net.lock().await.clone();
    let network = Network::start(net, inputs.clone(), cancel.clone()).await.map_err(|error| error.to_string())?;
    network.set_share_list(parts.sharing.share_list().to_owned());
    *parts.network.lock().await = Some(network.clone());
    let mut settings = parts.settings.lock().await.clone();
    settings.listen_port = network.local_port();
    let seed = random()?;
    let store = parts.store.clone();
    let loaded = tokio::task::spawn_blocking(move || {
        let mut live = store.live_transfers()?;
        // Whose uploaders may still get round to us.
        let (direction, limit) = (Direction::Download, FINISHED);
        let finished = TransferFilter { direction, user: None, include_removed: true, offset: 0, limit };
        live.extend(store.transfers(&finished)?.0);
        Ok::<_, crate::store::StoreError>((live, store.wishes()?))
    });
    let (live, wishes) = loaded.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let standing = parts.standing.lock().await.clone();
    let node = Node::new(settings, seed, live, wishes, standing, parts.clock.now());
    let (acks, acked) = mpsc::channel(ACKS);
    let mut task = Task {
        node,
        network: network.clone(),
        inputs,
        waiting: BTreeMap::new(),
        next_command: 0,
        moving: BTreeMap::new(),
        jobs: JoinSet::new(),
        generation: 0,
        acks,
        lookups: Lookups::default(),
        traced: Transfers::new(parts.traces.clone()),
        parts: parts.clone(),
        cancel: cancel.clone(),
    };
    let mut acking = tokio::spawn(acknowledge(acked));
    task.perform().await?;
    let mut messages = parts.messages.lock().await;
    let mut counts = parts.sharing.view();
    counts.mark_changed();
    let mut hold = None;
    let outcome = loop {
        // Written down as it changes: an engine that fails has no time for it.
        let holds = task.node.session().hold();
        if hold.replace(holds) != Some(holds) {
            *parts.standing.lock().await = task.node.session().standing();
        }
        let deadline =
            task.node.next_timeout().map_or(Duration::from_secs(3_600), |at| at.saturating_sub(parts.clock.now().mono));
        // In random order: users who say more than the engine can hear must not silence pages, tools and the watchdog.
        tokio::select! {
            () = cancel.cancelled() => break Ok(()),
            failed = &mut acking => break failed.unwrap_or_else(|e| Err(e.to_string())),
            Some(input) = happened.recv() => task.handle(input),
            Some(message) = messages.recv() => task.message(message),
            Ok(()) = counts.changed() => {
                let counts = counts.borrow_and_update().counts;
                task.handle_command(Command::SharesChanged(counts), None);
            }
            Some(ended) = task.jobs.join_next() => task.job_ended(ended),
            () = tokio::time::sleep(deadline) => task.handle(Input::Timeout),
        }
        if let Err(why) = task.perform().await {
            break Err(why);
        }
    };
    *parts.network.lock().await = None;
    // Transfers end by the cancellation below us and say so; what they say is still recorded.
    cancel.cancel();
    // Both at once: a job that ends may wait for room to say so.
    loop {
        tokio::select! {
            ended = task.jobs.join_next() => if ended.is_none() { break },
            Some(input) = happened.recv() => task.handle(input),
        }
    }
    while let Ok(input) = happened.try_recv() {
        if matches!(input, Input::File(..)) {
            task.handle(input);
        }
    }
    let recorded = task.perform().await;
    drop(task);
    let acknowledged = if acking.is_finished() { Ok(()) } else { acking.await.unwrap_or_else(|e| Err(e.to_string())) };
    network.finished().await;
    outcome.and(recorded).and(acknowledged)
}

/// Waits for records in order, and lets replies go when everything before them is durable. A full disk costs the record
/// and turns the replies behind it into refusals, until a record is kept again; anything worse ends the task.
async fn acknowledge(mut acked: mpsc::Receiver<Ack>) -> Result<(), String> {
    let mut lost: Option<String> = None;
    while let Some(ack) = acked.recv().await {
        match ack {
            Ack::Stored(ticket) => match ticket.await {
                Ok(()) => lost = None,
                Err(error @ (StoreError::DiskFull | StoreError::MapFull)) => {
                    tracing::error!(%error, "a record could not be kept");
                    lost = Some(error.to_string());
                }
                Err(error) => return Err(format!("a record could not be kept: {error}")),
            },
            Ack::Reply(to, reply) => {
                let reply = match &lost {
                    Some(why) => Reply::Refused(Refusal::Full(why.clone())),
                    None => reply,
                };
                // Whoever asked may have gone.
                let _ = to.send(reply);
            }
            // What rests on a lost record is not said; the other side repeats itself.
            Ack::Net(network, action) if lost.is_none() => network.perform(action),
            Ack::Begin(begin) if lost.is_none() => {
                // The job may have been stopped.
                let _ = begin.send(());
            }
            Ack::Net(..) | Ack::Begin(_) => {}
        }
    }
    Ok(())
}

fn random() -> Result<u64, String> {
    getrandom::u64().map_err(|error| format!("no randomness: {error}"))
}

struct Task {
    node: Node,
    network: Network,
    inputs: mpsc::Sender<Input>,
    /// Commands without their reply yet.
    waiting: BTreeMap<CommandId, oneshot::Sender<Reply>>,
    next_command: u64,
    /// Files in transfer: what stops them, and which job it is.
    moving: BTreeMap<TransferId, (CancellationToken, u64)>,
    jobs: JoinSet<Option<(TransferId, u64)>>,
    generation: u64,
    acks: mpsc::Sender<Ack>,
    lookups: Lookups,
    /// Downloads whose bytes flow, for their traces.
    traced: Transfers,
    parts: Arc<Parts>,
    cancel: CancellationToken,
}

impl Task {
    fn handle(&mut self, input: Input) {
        let now = self.parts.clock.now();
        if let Input::File(transfer, event) = &input {
            self.traced.on_event(*transfer, event, now);
        }
        self.node.handle(input, now);
    }

    fn handle_command(&mut self, command: Command, reply: Option<oneshot::Sender<Reply>>) {
        self.next_command += 1;
        let id = CommandId(self.next_command);
        if let Some(reply) = reply {
            self.waiting.insert(id, reply);
        }
        self.handle(Input::Command(id, command));
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Command(command, reply) => self.handle_command(command, Some(reply)),
            Message::Look(look) => look(&self.node, self.parts.clock.now()),
        }
    }

    fn job_ended(&mut self, ended: Result<Option<(TransferId, u64)>, tokio::task::JoinError>) {
        match ended {
            Ok(Some((transfer, generation))) => {
                if self.moving.get(&transfer).is_some_and(|(_, current)| *current == generation) {
                    self.moving.remove(&transfer);
                }
            }
            Ok(None) => {}
            // Transfers and look-ups contain their panics and report; placing has the engine's deadline.
            Err(error) => tracing::error!(%error, "a job of the file shell failed"),
        }
    }

    /// Performs everything the engine wants.
    async fn perform(&mut self) -> Result<(), String> {
        while let Some(action) = self.node.poll() {
            match action {
                Action::Net(action) => self.network.perform(action),
                Action::File(action) => self.file(action).await?,
                Action::Share(ask) => self.share(ask),
                Action::Store(changes) => {
                    self.traced.on_records(&changes);
                    self.ack(Ack::Stored(self.parts.store.apply(changes))).await?;
                }
                Action::NetStored(action) => self.ack(Ack::Net(self.network.clone(), action)).await?,
                Action::Reply(id, reply) => {
                    if let Some(to) = self.waiting.remove(&id) {
                        self.ack(Ack::Reply(to, reply)).await?;
                    }
                }
                Action::Notice(notice) => self.notice(notice),
            }
        }
        Ok(())
    }

    async fn ack(&self, ack: Ack) -> Result<(), String> {
        self.acks.send(ack).await.map_err(|_| "records are no longer kept".to_owned())
    }

    async fn file(&mut self, action: FileAction) -> Result<(), String> {
        let (pump, inputs, network) = (self.parts.pump.clone(), self.inputs.clone(), self.network.clone());
        match action {
            FileAction::Receive { conn, transfer, file, size, begin } => {
                let (stop, generation) = self.moves(transfer);
                let taker = self
                    .node
                    .transfer(Direction::Download, transfer)
                    .and_then(|download| Some((self.parts.diversions.taker(download.batch?)?, download.user.clone())));
                if taker.is_none() {
                    // Whoever takes it over tells of it.
                    self.traced.on_receive(transfer, self.parts.clock.now());
                }
                // The record says whose bytes the partial file holds. Were it not durable before the first of them is
                // written, the file would be continued as somebody else's after a kill.
                let (go, recorded) = oneshot::channel();
                self.ack(Ack::Begin(go)).await?;
                self.jobs.spawn(async move {
                    let position = match &begin {
                        Begin::Fresh => 0,
                        Begin::Continue(partial) | Begin::Join(partial) => partial.synced,
                    };
                    let work = async {
                        if recorded.await.is_err() {
                            network.perform(NetAction::Close(conn));
                            return Some(ReceiveEnd::DiskFull { position });
                        }
                        let Some(stream) = network.take_file_stream(conn).await else {
                            return Some(ReceiveEnd::Closed { position });
                        };
                        if let Some((taker, user)) = taker {
                            let whose = (transfer, user, size);
                            let (diverted, ended) =
                                Diverted::new(whose, stream, pump.limiter().clone(), inputs.clone(), stop);
                            // A taker who is gone drops it, and then it has ended.
                            let _ = taker.send(diverted).await;
                            return Some(ended.await.unwrap_or(ReceiveEnd::Closed { position }));
                        }
                        pump.receive(stream, ReceiveOrder { transfer, file, size, begin }, &inputs, &stop).await;
                        None
                    };
                    if let Some(end) =
                        contained(work).await.unwrap_or_else(|| Some(ReceiveEnd::DiskError(DEFECT.into())))
                    {
                        let _ = inputs.send(Input::File(transfer, FileEvent::Received(end))).await;
                    }
                    Some((transfer, generation))
                });
            }
            FileAction::Send { conn, transfer, token, local_path, size } => {
                let (stop, generation) = self.moves(transfer);
                self.jobs.spawn(async move {
                    let work = async {
                        let Some(stream) = network.take_file_stream(conn).await else {
                            return Some(SendEnd::Closed { position: 0 });
                        };
                        pump.send(stream, SendOrder { transfer, token, local_path, size }, &inputs, &stop).await;
                        None
                    };
                    if let Some(end) = contained(work).await.unwrap_or_else(|| Some(SendEnd::FileError(DEFECT.into())))
                    {
                        let _ = inputs.send(Input::File(transfer, FileEvent::Sent(end))).await;
                    }
                    Some((transfer, generation))
                });
            }
            FileAction::Compare { conn, transfer, path, size } => {
                let stop = self.cancel.child_token();
                self.jobs.spawn(async move {
                    let work = async {
                        let stream = network.take_file_stream(conn).await?;
                        Some(pump.compare_end(stream, path.as_ref(), size, &stop).await)
                    };
                    let compared = contained(work).await.flatten().unwrap_or_else(Compared::stopped);
                    let _ = inputs.send(Input::File(transfer, FileEvent::Compared(compared))).await;
                    None
                });
            }
            FileAction::Place { transfer, file, folder, name, size, check, meant } => {
                // Where it goes must be on record before it is there.
                let recorded = if meant.is_some() {
                    let (go, recorded) = oneshot::channel();
                    self.ack(Ack::Begin(go)).await?;
                    Some(recorded)
                } else {
                    None
                };
                self.jobs.spawn(async move {
                    if let Some(recorded) = recorded
                        && recorded.await.is_err()
                    {
                        let placed = FileEvent::Placed(Err(PlaceError::DiskFull));
                        let _ = inputs.send(Input::File(transfer, placed)).await;
                        return None;
                    }
                    // What came of it is reported as well.
                    let order = PlaceOrder { transfer, file, folder, name, size, check, meant };
                    let _ = pump.place(order, &inputs).await;
                    None
                });
            }
            FileAction::Discard { file } => {
                // In line, so that a new partial file of this name cannot be the one removed.
                if let Err(error) = pump.discard(&file).await {
                    tracing::warn!(file, %error, "a partial file could not be removed");
                }
            }
            FileAction::Stop { transfer } => {
                if let Some((stop, _)) = self.moving.get(&transfer) {
                    stop.cancel();
                }
            }
        }
        Ok(())
    }

    fn moves(&mut self, transfer: TransferId) -> (CancellationToken, u64) {
        self.generation += 1;
        let stop = self.cancel.child_token();
        self.moving.insert(transfer, (stop.clone(), self.generation));
        (stop, self.generation)
    }

    fn share(&mut self, ask: ShareAsk) {
        if let ShareAsk::Excluded(_) = ask {
            self.parts.sharing.answer(ask);
            return;
        }
        let (sharing, inputs, lookups) = (self.parts.sharing.clone(), self.inputs.clone(), self.lookups.clone());
        let parts = matches!(ask, ShareAsk::Search { .. }).then(|| self.parts.clone());
        let asked_at = self.parts.clock.now().mono;
        self.jobs.spawn(async move {
            let answer = lookups.run(move || sharing.answer(ask)).await??;
            if let Some(parts) = parts {
                let took = parts.clock.now().mono.saturating_sub(asked_at);
                parts.search_lookups.observe(took.as_secs_f64());
            }
            let _ = inputs.send(Input::Share(answer)).await;
            None
        });
    }

    fn notice(&mut self, notice: Notice) {
        let event = match notice {
            Notice::LoggedIn { greeting } => {
                tracing::info!(greeting, "logged in");
                Event::Server
            }
            Notice::LoggedOut { reason, retry_in_s } => {
                tracing::warn!(reason, retry_in_s, "not logged in");
                Event::Server
            }
            Notice::TransferChanged(id, direction) => Event::Transfer(id, direction),
            Notice::DownloadFinished(id) => {
                tracing::info!(%id, "download finished");
                Event::DownloadFinished(id)
            }
            Notice::OriginAsked { id, path, told } => return self.traced.on_origin(id, &path, told),
            Notice::SearchChanged(id) => Event::Search(id),
            Notice::MessageReceived(user) => Event::Message(user),
            Notice::ServerSays(text) => {
                tracing::info!(text, "the server says");
                return;
            }
            Notice::Violation { user, reason } => {
                tracing::debug!(?user, reason, "a user broke the protocol");
                return;
            }
        };
        // No page may be open.
        let _ = self.parts.events.send(event);
    }
}

/// Runs a job's work; `None`: it panicked.
async fn contained<T>(work: impl Future<Output = T>) -> Option<T> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .inspect_err(|_| tracing::error!("a job of the file shell panicked"))
        .ok()
}

const _: () = assert!(limits::PENDING_LOOKUPS < INPUTS, "answers of the index never fill the engine's mailbox");

impl std::fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeHandle").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_begins_when_the_records_before_it_are_durable_and_never_when_one_is_lost() {
        let (acks, acked) = mpsc::channel(8);
        let (stored, ticket) = oneshot::channel();
        let (begin, mut begun) = oneshot::channel();
        acks.send(Ack::Stored(Ticket::of(ticket))).await.unwrap();
        acks.send(Ack::Begin(begin)).await.unwrap();
        let acking = tokio::spawn(acknowledge(acked));
        // The mailbox is empty, so the task has come to the record and waits.
        while acks.capacity() < 7 {
            tokio::task::yield_now().await;
        }
        assert_eq!(begun.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        stored.send(Ok(())).unwrap();
        begun.await.unwrap();

        let (stored, ticket) = oneshot::channel();
        let (begin, begun) = oneshot::channel();
        acks.send(Ack::Stored(Ticket::of(ticket))).await.unwrap();
        acks.send(Ack::Begin(begin)).await.unwrap();
        stored.send(Err(StoreError::DiskFull)).unwrap();
        assert!(begun.await.is_err());
        drop(acks);
        acking.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_panic_in_a_job_is_told() {
        assert_eq!(contained(async { 1 }).await, Some(1));
        assert_eq!(contained(async { panic!("a test's") }).await, None::<u8>);
    }
}
