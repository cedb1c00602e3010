//! Messages between a client and the server, by code. Names are those of the protocol text.

mod codec;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

pub use self::codec::FRAME_MAX;
use crate::model::id::Token;
use crate::model::music::WireText;

/// What kind of connection is asked for, `P`, `F` or `D` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectionType {
    /// Peer messages.
    Peer,
    /// One file transfer.
    File,
    /// Distributed search network.
    Distributed,
}

/// A user's presence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserStatus {
    /// 0
    #[default]
    Offline,
    /// 1
    Away,
    /// 2
    Online,
    /// Any other number a server may send.
    Other(u32),
}

/// A user's figures as the server keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserStats {
    /// Average upload speed in bytes per second.
    pub average_speed: u32,
    /// Number of uploads.
    pub uploads: u32,
    /// The four bytes after it, of unknown meaning, kept so that the message goes back as it came.
    pub unknown: u32,
    /// Shared files.
    pub files: u32,
    /// Shared folders.
    pub folders: u32,
}

/// Where a user listens for obfuscated connections; parsed, not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obfuscation {
    /// 1 is "rotated".
    pub kind: u32,
    /// TCP port.
    pub port: u16,
}

/// Why the server refused a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRefusal {
    /// `INVALIDUSERNAME`, `EMPTYPASSWORD`, `INVALIDPASS`, `INVALIDVERSION`, `SVRFULL`, `SVRPRIVATE`, or another word.
    pub reason: WireText,
    /// With `INVALIDUSERNAME`: what is wrong with it.
    pub detail: Option<WireText>,
}

/// A granted login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginGreeting {
    /// Text of the day.
    pub greeting: WireText,
    /// Our address as the server sees it.
    pub own_ip: Ipv4Addr,
    /// md5hex of the password, where sent.
    pub password_hash: Option<Hidden>,
    /// Supporter flag, where sent.
    pub supporter: Option<bool>,
}

/// A user in a room's list, or offered as a parent, or joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PossibleParent {
    /// Name.
    pub user: WireText,
    /// Address.
    pub ip: Ipv4Addr,
    /// TCP port.
    pub port: u32,
}

/// A password or what is made of one: it goes over the wire and into no log.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hidden(pub WireText);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden(…)")
    }
}

impl<T: Into<WireText>> From<T> for Hidden {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

/// Client to server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named as in the protocol text")]
pub enum ToServer {
    /// 1. The hash is md5hex(username + password).
    Login { user: WireText, password: Hidden, major: u32, hash: Hidden, minor: u32 },
    /// 2. Our listening port; the obfuscated one where given.
    SetWaitPort { port: u32, obfuscated: Option<(u32, u32)> },
    /// 3
    GetPeerAddress { user: WireText },
    /// 5
    WatchUser { user: WireText },
    /// 6
    UnwatchUser { user: WireText },
    /// 7
    GetUserStatus { user: WireText },
    /// 13
    SayChatroom { room: WireText, text: WireText },
    /// 14; the trailing private flag where given.
    JoinRoom { room: WireText, private: Option<u32> },
    /// 15
    LeaveRoom { room: WireText },
    /// 18: ask the server to make `user` connect to us.
    ConnectToPeer { token: Token, user: WireText, kind: ConnectionType },
    /// 22
    MessageUser { user: WireText, text: WireText },
    /// 23
    MessageAcked { id: u32 },
    /// 26
    FileSearch { token: Token, query: WireText },
    /// 28
    SetStatus { status: UserStatus },
    /// 32
    ServerPing,
    /// 35, folders first.
    SharedFoldersFiles { folders: u32, files: u32 },
    /// 36
    GetUserStats { user: WireText },
    /// 42
    UserSearch { user: WireText, token: Token, query: WireText },
    /// 64
    RoomList,
    /// 71
    HaveNoParent { none: bool },
    /// 92
    CheckPrivileges,
    /// 100
    AcceptChildren { accept: bool },
    /// 103
    WishlistSearch { token: Token, query: WireText },
    /// 120
    RoomSearch { room: WireText, token: Token, query: WireText },
    /// 121, bytes per second.
    SendUploadSpeed { speed: u32 },
    /// 126
    BranchLevel { level: u32 },
    /// 127
    BranchRoot { user: WireText },
    /// 141
    EnablePrivateRooms { enable: bool },
    /// 1001
    CantConnectToPeer { token: Token, user: WireText },
    /// Any other code, body untouched.
    Other { code: u32, body: Vec<u8> },
}

/// Server to client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named as in the protocol text")]
pub enum FromServer {
    /// 1
    Login(Result<LoginGreeting, LoginRefusal>),
    /// 3. 0.0.0.0:0 when the user is offline.
    GetPeerAddress { user: WireText, ip: Ipv4Addr, port: u32, obfuscation: Option<Obfuscation> },
    /// 5. `None`: no such user.
    WatchUser { user: WireText, found: Option<(UserStatus, UserStats)>, country: Option<WireText> },
    /// 7
    GetUserStatus { user: WireText, status: UserStatus, privileged: bool },
    /// 13
    SayChatroom { room: WireText, user: WireText, text: WireText },
    /// 18
    ConnectToPeer {
        user: WireText,
        kind: ConnectionType,
        ip: Ipv4Addr,
        port: u32,
        token: Token,
        privileged: bool,
        obfuscation: Option<Obfuscation>,
    },
    /// 22
    MessageUser { id: u32, at: u32, user: WireText, text: WireText, is_new: Option<bool> },
    /// 26
    FileSearch { user: WireText, token: Token, query: WireText },
    /// 32
    ServerPing,
    /// 36
    GetUserStats { user: WireText, stats: UserStats },
    /// 41: the same account logged in elsewhere.
    Relogged,
    /// 66
    AdminMessage { text: WireText },
    /// 69
    PrivilegedUsers { users: Vec<WireText> },
    /// 83
    ParentMinSpeed { speed: u32 },
    /// 84
    ParentSpeedRatio { ratio: u32 },
    /// 92: seconds left.
    CheckPrivileges { seconds: u32 },
    /// 93: a distributed message for a branch root, its code and body.
    EmbeddedMessage { code: u8, body: Vec<u8> },
    /// 102
    PossibleParents { parents: Vec<PossibleParent> },
    /// 104: seconds.
    WishlistInterval { seconds: u32 },
    /// 130
    ResetDistributed,
    /// 160
    ExcludedSearchPhrases { phrases: Vec<WireText> },
    /// 1001
    CantConnectToPeer { token: Token },
    /// Any other code (rooms, tickers, recommendations): read, not understood, body untouched.
    Other { code: u32, body: Vec<u8> },
}
