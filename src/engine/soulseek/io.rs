//! The door of the Soulseek engine: what comes in, what goes out. The shell performs the actions and reports back; it
//! decides nothing that could be decided here.

use std::net::SocketAddrV4;
use std::path::PathBuf;

use super::distributed::DistributedMessage;
use super::peer::{Init, PeerMessage, RemoteFolder, UserInfo};
use super::server::{ConnectionType, FromServer, ToServer, UserStats, UserStatus};
use crate::model::id::{BatchId, CommandId, ConnId, SearchId, Token, TransferId, Username};
use crate::model::music::{ShareCounts, SharedFile, WireText};
use crate::model::record::Change;
use crate::model::transfer::{Direction, Partial, Transfer};
pub use crate::model::view::{EnqueueRequest, Refusal, SearchRequest};

/// Everything that can happen to the engine.
#[derive(Debug)]
pub enum Input {
    /// The connection to the server stands.
    ServerUp {
        /// The server's address: whether non-global peers may be dialled depends on it.
        at: SocketAddrV4,
    },
    /// It could not be made, or is gone.
    ServerDown {
        /// For the page and the log.
        reason: String,
    },
    /// A message from the server.
    Server(FromServer),
    /// Something happened on a connection between users.
    Conn(ConnId, ConnEvent),
    /// Something happened to a file in transfer.
    File(TransferId, FileEvent),
    /// The share index answers.
    Share(ShareAnswer),
    /// A person or a tool asks for something; exactly one `Action::Reply` follows, now or later.
    Command(CommandId, Command),
    /// The deadline passed.
    Timeout,
}

/// On a connection between users.
#[derive(Debug)]
pub enum ConnEvent {
    /// Our dial succeeded; nothing was sent yet.
    Dialled,
    /// Our dial failed.
    DialFailed {
        /// For the log.
        reason: String,
    },
    /// Somebody called; an `Init` follows, or `Closed`.
    Accepted {
        /// The caller's address.
        from: SocketAddrV4,
    },
    /// The first message of a connection that somebody made to us. The shell waits for `Adopt` before it reads on.
    Init(Init),
    /// On an adopted peer connection.
    Peer(PeerMessage),
    /// On an adopted distributed connection.
    Distributed(DistributedMessage),
    /// On an adopted `FileIn` connection: the uploader's token. The shell waits for `FileAction::Receive` or `Close`.
    FileToken(Token),
    /// It is gone. Last event of this connection; not sent after our own `Close`.
    Closed {
        /// For the log; empty for an ordinary end.
        reason: String,
        /// The other side broke the protocol (oversized, malformed, bomb): a strike.
        violation: bool,
    },
}

/// On a file in transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    /// Bytes begin to flow at this offset.
    Started {
        /// From the file's beginning.
        offset: u64,
    },
    /// At most twice a second.
    Progress {
        /// Position in the file.
        position: u64,
    },
    /// A prefix of the partial file is on the disk for good.
    Synced {
        /// Bytes.
        synced: u64,
        /// In which boot of the kernel.
        boot: u128,
    },
    /// A download's connection is done with.
    Received(ReceiveEnd),
    /// An upload's connection is done with.
    Sent(SendEnd),
    /// A finished file would go to this path, which was free. `FileAction::Place` with `meant` follows once the record
    /// says so.
    Meant(String),
    /// A finished file lies in its place: folder synced, or it does not.
    Placed(Result<String, PlaceError>),
    /// What came of `FileAction::Compare`; its connection is done with.
    Compared(Compared),
}

/// How the end of a user's file compares with that of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// Every byte asked for came, and is ours.
    Same,
    /// What came is neither that nor the beginning of the file, which some send whatever they are asked for.
    Other,
    /// Nobody knows, and why.
    Unknown(String),
}

/// How receiving ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiveEnd {
    /// Every byte is in the partial file, and synced.
    Complete,
    /// The other side closed before the end.
    Closed {
        /// Bytes that are there.
        position: u64,
    },
    /// The new source does not repeat the bytes we hold.
    OverlapDiffers,
    /// No room: below the configured floor of free space, or the disk said so. What was written is kept.
    DiskFull {
        /// Bytes that are there.
        position: u64,
    },
    /// The disk refuses for another reason.
    DiskError(String),
    /// We stopped it.
    Stopped {
        /// Bytes that are there.
        position: u64,
    },
}

/// How sending ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendEnd {
    /// All bytes from the asked offset went out, and the other side closed (or had the time to).
    Complete {
        /// Offset the other side asked for.
        offset: u64,
    },
    /// The other side closed early, or asked for an offset past the end.
    Closed {
        /// Position reached.
        position: u64,
    },
    /// The file cannot be read as it was indexed (gone, shorter, other size).
    FileError(String),
    /// We stopped it.
    Stopped,
}

/// Why a finished partial file is not in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceError {
    /// Joined bytes fail the container's own checksums: start again from zero with one source.
    CheckFailed(String),
    /// No room for the folder entry.
    DiskFull,
    /// The downloads folder cannot be had now: its disk is not plugged in, or is not for us to write. The partial file is fine.
    FolderAway(String),
    /// Another refusal of the file system.
    Disk(String),
}

impl Compared {
    /// There was nobody to ask, or nothing to ask with.
    pub fn stopped() -> Self {
        Self::Unknown("the connection was gone".to_owned())
    }
}

/// What the share index found.
#[derive(Debug)]
pub enum ShareAnswer {
    /// For somebody's search. Empty answers are sent too, so that the pending count is right.
    Hits {
        /// Who searches.
        user: Username,
        /// Their token.
        token: Token,
        /// At most `limits::SEARCH_REPLY_FILES`.
        files: Vec<SharedFile>,
    },
    /// A file somebody wants.
    File {
        /// Who wants it.
        user: Username,
        /// As they named it.
        path: WireText,
        /// `None`: not shared.
        found: Option<SharedLocation>,
    },
    /// A folder somebody wants to see.
    Folder {
        /// Who.
        user: Username,
        /// Their token.
        token: Token,
        /// As they named it.
        path: WireText,
        /// The folder and what lies below it; empty when not shared.
        folders: Vec<RemoteFolder>,
    },
}

/// Where a shared file lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedLocation {
    /// On our disk. Not a `String`: a path need not be text.
    pub local_path: PathBuf,
    /// Indexed size in bytes.
    pub size: u64,
}

/// What the shell must do.
#[derive(Debug)]
pub enum Action {
    /// On the network.
    Net(NetAction),
    /// With a file in transfer.
    File(FileAction),
    /// Ask the share index; it answers by `Input::Share`.
    Share(ShareAsk),
    /// Make these changes durable, in this order, together.
    Store(Vec<Change>),
    /// Answer a command; not before every earlier `Store` action is durable.
    Reply(CommandId, Reply),
    /// On the network, but not before every earlier `Store` action is durable.
    NetStored(NetAction),
    /// Tell pages, logs and hooks.
    Notice(Notice),
}

/// On the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetAction {
    /// Resolve and connect to the configured server.
    ServerConnect,
    /// Send to it.
    ServerSend(ToServer),
    /// Hang up. No `ServerDown` follows.
    ServerClose,
    /// Open a TCP connection to a user.
    Dial {
        /// Its name from now on.
        conn: ConnId,
        /// Where.
        to: SocketAddrV4,
    },
    /// Send the first message on a connection we dialled.
    SendInit(ConnId, Init),
    /// What the connection is for; the shell reads on accordingly.
    Adopt(ConnId, Purpose),
    /// Send on a peer connection.
    SendPeer(ConnId, PeerMessage),
    /// Send on a distributed connection.
    SendDistributed(ConnId, DistributedMessage),
    /// Stream our share list (code 5) on a peer connection.
    SendShareList(ConnId),
    /// A share list (code 5) is welcome on this connection; spool it as this user's. Unasked ones are a violation.
    ExpectShareList(ConnId, Username),
    /// Replies to these searches are decoded, all others dropped after their token.
    SearchTokens(Vec<Token>),
    /// Close politely.
    Close(ConnId),
}

/// What an adopted connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Peer messages.
    Peer,
    /// Distributed messages.
    Distributed,
    /// A file to us: the shell reads the token.
    FileIn,
    /// A file from us: the shell waits for `FileAction::Send`.
    FileOut,
}

impl From<ConnectionType> for Purpose {
    /// For a connection that somebody made to us of their own accord.
    fn from(kind: ConnectionType) -> Self {
        match kind {
            ConnectionType::Peer => Self::Peer,
            ConnectionType::File => Self::FileIn,
            ConnectionType::Distributed => Self::Distributed,
        }
    }
}

/// With a file in transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileAction {
    /// Answer the token on a `FileIn` connection with an offset and take the bytes that follow.
    Receive {
        /// The connection.
        conn: ConnId,
        /// The download.
        transfer: TransferId,
        /// Name of the partial file in the incomplete folder.
        file: String,
        /// Wanted size.
        size: u64,
        /// How to begin.
        begin: Begin,
    },
    /// Send token, read offset, send bytes, wait for the other side to close.
    Send {
        /// The connection.
        conn: ConnId,
        /// The upload.
        transfer: TransferId,
        /// As in our TransferRequest.
        token: Token,
        /// On our disk. Not a `String`: a path need not be text.
        local_path: PathBuf,
        /// Indexed size: the file must still have it.
        size: u64,
    },
    /// Answer the token on a `FileIn` connection with an offset near the end, and lay the bytes that follow beside those of
    /// a file that lies in its place. `Compared` follows.
    Compare {
        /// The connection.
        conn: ConnId,
        /// The download, which is over.
        transfer: TransferId,
        /// Our file, absolute.
        path: String,
        /// Bytes of the whole file.
        size: u64,
    },
    /// Move a complete partial file to its place below the downloads folder. Never overwrites: a taken name gets a
    /// number. In two steps, so that a process killed in between does not fetch the file again: first the place is
    /// chosen and told by `FileEvent::Meant`, then the file goes there.
    Place {
        /// The download.
        transfer: TransferId,
        /// Name in the incomplete folder.
        file: String,
        /// Folder below the downloads folder, already safe; `/` separates levels.
        folder: String,
        /// File name, already safe.
        name: String,
        /// Bytes of the whole file.
        size: u64,
        /// The bytes come from two users: the container's own checksums must hold first.
        check: bool,
        /// The second step: the path chosen before. Not before every earlier `Store` action is durable. Where the partial
        /// file is gone and a file of this size lies there, it is in its place already.
        meant: Option<String>,
    },
    /// Forget a partial file.
    Discard {
        /// Name in the incomplete folder.
        file: String,
    },
    /// End a running transfer; `Received` or `Sent` follows.
    Stop {
        /// Which.
        transfer: TransferId,
    },
}

/// How a receive begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// From zero; an old partial file is cut to nothing.
    Fresh,
    /// Behind what the partial file surely holds (same user and path).
    Continue(Partial),
    /// As `Continue`, but the source must first repeat the last `limits::OVERLAP_BYTES` (another user). With fewer
    /// bytes than that it is `Fresh`.
    Join(Partial),
}

/// Asked of the share index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareAsk {
    /// Somebody searches. Phrases of the server that a path must not contain come along.
    Search {
        /// Who.
        user: Username,
        /// Their token.
        token: Token,
        /// The words.
        query: String,
    },
    /// From now on, leave files whose path contains one of these out of search answers.
    Excluded(Vec<String>),
    /// Somebody wants a file.
    File {
        /// Who.
        user: Username,
        /// As they named it.
        path: WireText,
    },
    /// Somebody wants to see a folder.
    Folder {
        /// Who.
        user: Username,
        /// Their token.
        token: Token,
        /// As they named it.
        path: WireText,
    },
}

/// What people and tools ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Log in (again). Replies `Done` at once.
    Connect,
    /// Log out and stay out.
    Disconnect,
    /// Credentials or other settings changed.
    Configure(Box<super::Settings>),
    /// The index has new counts.
    SharesChanged(ShareCounts),
    /// Search the network (or one user's shares).
    Search(SearchRequest),
    /// Stop waiting for more results.
    SearchStop(SearchId),
    /// Forget a search.
    SearchForget(SearchId),
    /// Add a wish; replies `Wish`.
    WishAdd(String),
    /// Remove a wish.
    WishRemove(u64),
    /// Want these files; replies `Enqueued`.
    Enqueue(EnqueueRequest),
    /// Call a transfer off; with `remove`, also hide it. Idempotent.
    Cancel {
        /// Which way, so that an upload's id is unknown among downloads.
        direction: Direction,
        /// Which.
        id: TransferId,
        /// Hide it as well.
        remove: bool,
    },
    /// Try a waiting download again now; `NotFound` for one that is over, see `Revive`.
    Retry(TransferId),
    /// Begin a download anew that is over; its record as the store has it.
    Revive(Box<Transfer>),
    /// Mesh peers help with this download: it stands aside for others; or no more.
    Aside(TransferId, bool),
    /// The file of this download came from mesh peers and lies in its place.
    Rescued(TransferId, Box<RescuedFile>),
    /// Ask for a download's place in queue; replies `Place`.
    Place(TransferId),
    /// See all of a user's shares; replies `Browsed`.
    Browse(Username),
    /// See one folder; replies `Folder`.
    Folder(Username, WireText),
    /// Replies `Info`.
    UserInfo(Username),
    /// Replies `Status`.
    UserStatus(Username),
    /// Replies `Endpoint`.
    UserEndpoint(Username),
    /// Replies `Done` once the server has it.
    SendMessage(Username, String),
    /// The owner has read a conversation.
    MessagesRead(Username),
    /// Forget a conversation.
    MessagesForget(Username),
}

/// A file that mesh peers brought for a download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RescuedFile {
    /// Where it lies, absolute.
    pub path: String,
    /// Its length, bytes.
    pub size: u64,
    /// What its bytes rest on.
    pub rung: crate::model::transfer::Rung,
}

/// Answers to commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is so.
    Done,
    /// It is not, and why.
    Refused(Refusal),
    /// A wish was added.
    Wish(u64),
    /// Downloads recorded, and those refused with their reason.
    Enqueued {
        /// Their ids, in the order asked.
        accepted: Vec<TransferId>,
        /// Path and reason.
        failed: Vec<(WireText, String)>,
        /// The batch, if one was asked for.
        batch: Option<BatchId>,
    },
    /// A place in queue, 1 is next.
    Place(u32),
    /// A share list was spooled under the user's name.
    Browsed {
        /// Folders.
        folders: u32,
        /// Files.
        files: u32,
    },
    /// A folder and what lies below it.
    Folder(Vec<RemoteFolder>),
    /// About a user.
    Info(UserInfo),
    /// About a user.
    Status {
        /// Presence.
        status: UserStatus,
        /// Paid for privileges.
        privileged: bool,
        /// Figures, when the server gave them.
        stats: Option<UserStats>,
    },
    /// Where a user listens.
    Endpoint(SocketAddrV4),
}

/// Told to pages, logs and hooks. Never needed for correctness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Logged in.
    LoggedIn {
        /// Server's text of the day.
        greeting: String,
    },
    /// Not logged in, and why; `retry_in_s` where we try again by ourselves.
    LoggedOut {
        /// In one sentence.
        reason: String,
        /// Seconds.
        retry_in_s: Option<u64>,
    },
    /// A transfer changed its state (not its position).
    TransferChanged(TransferId, Direction),
    /// A download lies in its place.
    DownloadFinished(TransferId),
    /// A user was asked about a file that had come from mesh peers, see `Change::Origin`.
    OriginAsked {
        /// The download.
        id: TransferId,
        /// The file, as the user names it.
        path: WireText,
        /// What came of it, in one sentence.
        told: String,
    },
    /// A search got results or ended.
    SearchChanged(SearchId),
    /// A private message came.
    MessageReceived(Username),
    /// The server, or its admin, says something.
    ServerSays(String),
    /// A peer broke the protocol.
    Violation {
        /// Who, where known.
        user: Option<Username>,
        /// How.
        reason: String,
    },
}
