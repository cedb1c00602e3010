//! A Soulseek user who shares one file and follows a script.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::report::PeerReport;
use super::{OUTBOX, PATIENCE, invalid, md5_hex, read_init, read_wide, upload};
use crate::app::pump::Bucket;
use crate::engine::soulseek::frame::Writer;
use crate::engine::soulseek::peer::{Init, PeerMessage, RemoteFile, RemoteFolder, SearchReply, UserInfo, frame_max};
use crate::engine::soulseek::server::{ConnectionType, FRAME_MAX, FromServer, ToServer, UserStatus};
use crate::engine::soulseek::sharelist::{ShareListError, ShareListWriter};
use crate::engine::soulseek::shares::Query;
use crate::model::id::Token;
use crate::model::limits::FRAME_PEER;
use crate::model::music::{Attributes, WireText};

/// Connections, searches and uploads under way at once; further ones are ignored.
const TASKS: usize = 128;
/// Code of a share list.
const SHARED_FILE_LIST: u32 = 5;

/// How a user behaves. The default shares nothing of use: a name and a path are needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerScript {
    /// User name: at most 30 printable ASCII characters.
    pub name: String,
    /// The file as others name it, with backslashes: `music\album\song.flac`.
    pub path: String,
    /// Upload speed, all transfers together, bytes per second; 0 is no limit. Bursts are at most 64 KiB.
    pub rate: u64,
    /// Delay of every answer and of the first byte of a transfer.
    pub rtt: Duration,
    /// So long it keeps somebody queued.
    pub queue: Duration,
    /// Having sent so many bytes it says nothing any more.
    pub stall_after: Option<u64>,
    /// So long after it fell silent it goes on as if nothing had been.
    pub recovers: Option<Duration>,
    /// Having sent so many bytes it drops every connection and stays away.
    pub disconnect_after: Option<u64>,
    /// It closes the connection when asked for anything but the beginning.
    pub deny_offset: bool,
    /// It says that the file is not shared.
    pub refuses: bool,
    /// A bit of every so manieth piece of 64 KiB that it sends is flipped; 0 is none.
    pub corrupt_every: u64,
    /// So long after its start it leaves as after `disconnect_after`.
    pub leave_at: Option<Duration>,
}

/// The bytes of the file that is shared. Reading may block for as long as a disk does.
pub trait Content: Send + Sync + 'static {
    /// Length in bytes.
    fn size(&self) -> u64;

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// The bytes are not there.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
}

impl Content for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(invalid)?;
        let held = self.get(start..).and_then(|rest| rest.get(..bytes.len()));
        bytes.copy_from_slice(held.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Content for std::fs::File {
    fn size(&self) -> u64 {
        self.metadata().map_or(0, |file| file.len())
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, bytes, offset)
    }
}

/// A scripted user at work. It leaves the network when dropped.
pub struct Peer {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("name", &self.shared.script.name).finish_non_exhaustive()
    }
}

pub(super) struct Shared {
    pub(super) script: PeerScript,
    pub(super) content: Arc<dyn Content>,
    pub(super) bucket: Bucket,
    pub(super) report: watch::Sender<PeerReport>,
    /// The user has left.
    pub(super) away: CancellationToken,
    /// When it fell silent.
    pub(super) silent_since: OnceLock<Instant>,
    tasks: TaskTracker,
    to_server: mpsc::Sender<Vec<u8>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The latest peer connection with each user.
    connections: BTreeMap<String, mpsc::Sender<Vec<u8>>>,
    /// Waiting for the server to tell an address.
    lookups: BTreeMap<String, Vec<oneshot::Sender<Option<SocketAddrV4>>>>,
    /// Offers waiting for their answer.
    offers: BTreeMap<Token, oneshot::Sender<bool>>,
    /// Who waits for the file or gets it, and until when it is kept waiting.
    wanting: BTreeMap<String, Instant>,
    tokens: u32,
}

impl Peer {
    /// Logs in at the server on this port of 127.0.0.1, and serves `content` from then on.
    ///
    /// # Errors
    /// The server is not there or refuses the name.
    pub async fn start(script: PeerScript, content: Arc<dyn Content>, server_port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)).await?;
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = stream.into_split();
        writer.write_all(&login(&script.name)).await?;
        let (code, body) = timeout(PATIENCE, read_wide(&mut reader, |_| FRAME_MAX)).await??;
        match FromServer::decode(code, &body).map_err(invalid)? {
            FromServer::Login(Ok(_)) => {}
            other => return Err(invalid(format!("the server refuses {}: {other:?}", script.name))),
        }
        for message in [
            ToServer::SetWaitPort { port: u32::from(listener.local_addr()?.port()), obfuscated: None },
            ToServer::SetStatus { status: UserStatus::Online },
            ToServer::SharedFoldersFiles { folders: 1, files: 1 },
            ToServer::HaveNoParent { none: true },
        ] {
            writer.write_all(&message.encode()).await?;
        }
        let (to_server, orders) = mpsc::channel(OUTBOX);
        let report = PeerReport { name: script.name.clone(), ..PeerReport::default() };
        let shared = Arc::new(Shared {
            bucket: Bucket::new(script.rate),
            script,
            content,
            report: watch::Sender::new(report),
            away: CancellationToken::new(),
            silent_since: OnceLock::new(),
            tasks: TaskTracker::new(),
            to_server,
            state: Mutex::default(),
        });
        shared.run(Arc::clone(&shared).with_server(reader, writer, orders));
        shared.run(Arc::clone(&shared).accept(listener));
        if let Some(after) = shared.script.leave_at {
            let away = shared.away.clone();
            shared.run(async move {
                sleep(after).await;
                away.cancel();
            });
        }
        Ok(Self { shared })
    }

    /// What it did so far.
    pub fn report(&self) -> PeerReport {
        self.shared.report.borrow().clone()
    }

    /// The report as it changes.
    pub fn watch(&self) -> watch::Receiver<PeerReport> {
        self.shared.report.subscribe()
    }

    /// Drops every connection and stays away. What was under way ends as [`super::RunEnd::Left`].
    pub fn leave(&self) {
        self.shared.away.cancel();
    }

    /// Leaves, waits until everything has ended, and answers with the last report.
    pub async fn stop(self) -> PeerReport {
        self.leave();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.report()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.leave();
    }
}

fn login(name: &str) -> Vec<u8> {
    let password = "lab";
    let hash = md5_hex([name, password].concat().as_bytes());
    // 177 is for development (SLSKPROTOCOL).
    ToServer::Login { user: name.into(), password: password.into(), major: 177, hash: hash.into(), minor: 1 }.encode()
}

impl Shared {
    pub(super) fn path(&self) -> WireText {
        WireText::from(self.script.path.as_str())
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs until the user leaves.
    fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        if self.tasks.len() >= TASKS {
            return;
        }
        let away = self.away.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = away.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// It has sent what its script allows and says nothing any more. Whoever sends nothing at all grants a transfer first.
    pub(super) fn is_silent(&self) -> bool {
        let sent = self.script.stall_after.is_some_and(|limit| self.report.borrow().sent >= limit);
        let granted = self.script.stall_after != Some(0) || self.silent_since.get().is_some();
        sent && granted && !self.has_recovered()
    }

    /// Its silence is over.
    pub(super) fn has_recovered(&self) -> bool {
        let since = self.silent_since.get();
        self.script.recovers.zip(since).is_some_and(|(after, since)| since.elapsed() >= after)
    }

    async fn with_server(
        self: Arc<Self>,
        mut reader: OwnedReadHalf,
        mut writer: OwnedWriteHalf,
        mut orders: mpsc::Receiver<Vec<u8>>,
    ) {
        let reading = async {
            loop {
                let (code, body) = read_wide(&mut reader, |_| FRAME_MAX).await?;
                self.hear_server(FromServer::decode(code, &body).map_err(invalid)?);
            }
        };
        let writing = async {
            while let Some(frame) = orders.recv().await {
                writer.write_all(&frame).await?;
            }
            Ok::<(), io::Error>(())
        };
        let ended: io::Result<()> = tokio::select! {
            ended = reading => ended,
            ended = writing => ended,
        };
        tracing::debug!(name = self.script.name, ?ended, "a scripted user has lost the server");
        self.away.cancel();
    }

    fn hear_server(self: &Arc<Self>, message: FromServer) {
        match message {
            FromServer::GetPeerAddress { user, ip, port, .. } => {
                let port = u16::try_from(port).ok().filter(|port| *port > 0);
                let at = port.filter(|_| !ip.is_unspecified()).map(|port| SocketAddrV4::new(ip, port));
                for waiting in self.locked().lookups.remove(user.as_str()).unwrap_or_default() {
                    // Whoever asked may have given up.
                    let _ = waiting.send(at);
                }
            }
            FromServer::ConnectToPeer { user, kind: ConnectionType::Peer, ip, port, token, .. } => {
                let Ok(port) = u16::try_from(port) else { return };
                let this = Arc::clone(self);
                self.run(async move {
                    let init = Init::PierceFireWall { token };
                    // They call as well, and one way is enough.
                    let _ = this.call(user.as_str(), SocketAddrV4::new(ip, port), &init).await;
                });
            }
            FromServer::FileSearch { user, token, query } => {
                let found = Query::parse(query.as_str()).is_some_and(|query| query.matches(&self.script.path));
                if found && user.as_str() != self.script.name && !self.is_silent() {
                    let this = Arc::clone(self);
                    self.run(async move { this.answer_search(user.as_str(), token).await });
                }
            }
            // Presence, tree and rooms: not this user's concern.
            _ => {}
        }
    }

    async fn answer_search(self: Arc<Self>, user: &str, token: Token) {
        sleep(self.script.rtt).await;
        let reply = SearchReply {
            user: self.script.name.as_str().into(),
            token,
            files: vec![RemoteFile::new(self.path(), self.content.size(), &Attributes::default())],
            free_slot: self.script.queue.is_zero(),
            upload_speed: u32::try_from(self.script.rate).unwrap_or(u32::MAX),
            ..SearchReply::default()
        };
        if self.tell(user, None, &PeerMessage::FileSearchResponse(reply)).await.is_ok() {
            self.report.send_modify(|report| report.searches += 1);
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let this = Arc::clone(&self);
            self.run(async move {
                let _ = this.greet(stream).await;
            });
        }
    }

    async fn greet(self: &Arc<Self>, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        // It never asks to be called and fetches nothing: only peer connections are of use.
        if let Init::PeerInit { user, kind: ConnectionType::Peer, .. } =
            timeout(PATIENCE, read_init(&mut stream)).await??
        {
            self.converse(user.as_str(), stream);
        }
        Ok(())
    }

    /// A peer connection stands.
    fn converse(self: &Arc<Self>, user: &str, stream: TcpStream) -> mpsc::Sender<Vec<u8>> {
        let (out, mut orders) = mpsc::channel::<Vec<u8>>(OUTBOX);
        self.locked().connections.insert(user.to_owned(), out.clone());
        let (this, user, own) = (Arc::clone(self), user.to_owned(), out.clone());
        self.run(async move {
            let (mut reader, mut writer) = stream.into_split();
            let reading = async {
                loop {
                    let (code, body) = read_wide(&mut reader, |code| frame_max(code).min(FRAME_PEER)).await?;
                    let message = PeerMessage::decode(code, &body).map_err(invalid)?;
                    sleep(this.script.rtt).await;
                    if !this.is_silent() {
                        this.hear_user(&user, message, &own).map_err(invalid)?;
                    }
                }
            };
            let writing = async {
                while let Some(frame) = orders.recv().await {
                    writer.write_all(&frame).await?;
                }
                Ok::<(), io::Error>(())
            };
            let _: io::Result<()> = tokio::select! {
                ended = reading => ended,
                ended = writing => ended,
            };
            let mut state = this.locked();
            if state.connections.get(&user).is_some_and(|latest| latest.same_channel(&own)) {
                state.connections.remove(&user);
            }
        });
        out
    }

    fn hear_user(
        self: &Arc<Self>,
        user: &str,
        message: PeerMessage,
        out: &mpsc::Sender<Vec<u8>>,
    ) -> Result<(), ShareListError> {
        let send = |message: PeerMessage| {
            // Whoever does not read is not answered.
            let _ = out.try_send(message.encode());
        };
        match message {
            PeerMessage::QueueUpload { path } => self.want(user, path, out),
            PeerMessage::TransferRequest { upload: false, token, path, .. } => {
                send(PeerMessage::TransferResponse { token, answer: Err("Queued".into()) });
                self.want(user, path, out);
            }
            PeerMessage::TransferResponse { token, answer } => {
                if let Some(offer) = self.locked().offers.remove(&token) {
                    // The offer may have been given up.
                    let _ = offer.send(answer.is_ok());
                }
            }
            PeerMessage::PlaceInQueueRequest { path } => {
                let until = self.locked().wanting.get(user).copied();
                if let Some(left) = until.map(|until| until.saturating_duration_since(Instant::now()))
                    && !left.is_zero()
                {
                    let place = u32::try_from(left.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
                    send(PeerMessage::PlaceInQueueResponse { path, place });
                }
            }
            PeerMessage::UserInfoRequest => send(PeerMessage::UserInfoResponse(UserInfo {
                description: "a scripted user".into(),
                slots: 1,
                free_slot: self.script.queue.is_zero(),
                ..UserInfo::default()
            })),
            PeerMessage::FolderContentsRequest { token, folder } => {
                let folders = if folder.as_str() == self.path().folder() { vec![self.folder()] } else { Vec::new() };
                send(PeerMessage::FolderContentsResponse { token, folder, folders });
            }
            PeerMessage::GetSharedFileList => {
                let RemoteFolder { name, files } = self.folder();
                let mut list = ShareListWriter::new(Vec::new(), 1)?;
                list.folder(&name, 1)?;
                for file in &files {
                    list.file(file)?;
                }
                let mut frame = Writer::wide(SHARED_FILE_LIST);
                frame.bytes(&list.finish()?);
                let _ = out.try_send(frame.finish());
            }
            _ => {}
        }
        Ok(())
    }

    fn folder(&self) -> RemoteFolder {
        let file = RemoteFile::new(self.path().base_name(), self.content.size(), &Attributes::default());
        RemoteFolder { name: self.path().folder().into(), files: vec![file] }
    }

    /// Somebody asks for the file.
    fn want(self: &Arc<Self>, user: &str, path: WireText, out: &mpsc::Sender<Vec<u8>>) {
        self.report.send_modify(|report| report.asked += 1);
        if path != self.path() || self.script.refuses {
            let _ = out.try_send(PeerMessage::UploadDenied { path, reason: "File not shared.".into() }.encode());
            return;
        }
        let mut state = self.locked();
        // As Nicotine+ does: asked again while it waits or is under way, it says nothing.
        if state.wanting.contains_key(user) {
            return;
        }
        state.wanting.insert(user.to_owned(), Instant::now() + self.script.queue);
        drop(state);
        let wish = Wish { shared: Arc::clone(self), user: user.to_owned() };
        let out = out.clone();
        self.run(async move {
            sleep(wish.shared.script.queue).await;
            if let Err(error) = upload::offer(&wish.shared, &wish.user, &out).await {
                tracing::debug!(user = wish.user, %error, "an upload of the lab failed");
            }
        });
    }

    /// A token for an offer, and what tells its answer.
    pub(super) fn offer(&self) -> (Token, oneshot::Receiver<bool>) {
        let (told, answer) = oneshot::channel();
        let mut state = self.locked();
        state.tokens = state.tokens.wrapping_add(1);
        let token = Token(state.tokens);
        state.offers.insert(token, told);
        (token, answer)
    }

    /// An offer needs no answer any more.
    pub(super) fn withdraw(&self, token: Token) {
        self.locked().offers.remove(&token);
    }

    /// Sends on the connection given, else on the latest with this user, else on a new one.
    pub(super) async fn tell(
        self: &Arc<Self>,
        user: &str,
        on: Option<&mpsc::Sender<Vec<u8>>>,
        message: &PeerMessage,
    ) -> io::Result<()> {
        let latest = self.locked().connections.get(user).cloned();
        for out in on.cloned().into_iter().chain(latest) {
            if out.send(message.encode()).await.is_ok() {
                return Ok(());
            }
        }
        let at = self.address(user).await?;
        let own = self.script.name.as_str().into();
        let init = Init::PeerInit { user: own, kind: ConnectionType::Peer, token: Token(0) };
        let out = self.call(user, at, &init).await?;
        out.send(message.encode()).await.map_err(|_| io::ErrorKind::ConnectionReset.into())
    }

    async fn call(self: &Arc<Self>, user: &str, at: SocketAddrV4, init: &Init) -> io::Result<mpsc::Sender<Vec<u8>>> {
        let mut stream = timeout(PATIENCE, TcpStream::connect(at)).await??;
        stream.set_nodelay(true)?;
        stream.write_all(&init.encode()).await?;
        Ok(self.converse(user, stream))
    }

    /// Where a user listens, as the server knows it.
    pub(super) async fn address(&self, user: &str) -> io::Result<SocketAddrV4> {
        let (told, answer) = oneshot::channel();
        self.locked().lookups.entry(user.to_owned()).or_default().push(told);
        let question = ToServer::GetPeerAddress { user: user.into() }.encode();
        self.to_server.send(question).await.map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?;
        let at = timeout(PATIENCE, answer).await?.map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?;
        at.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{user} is offline")))
    }
}

/// Takes a user off the list of those who want the file, whatever ends it.
struct Wish {
    shared: Arc<Shared>,
    user: String,
}

impl Drop for Wish {
    fn drop(&mut self) {
        self.shared.locked().wanting.remove(&self.user);
    }
}
