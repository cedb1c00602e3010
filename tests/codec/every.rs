//! One of each message, made of the same few values.

use std::net::Ipv4Addr;

use slskdn::engine::soulseek::distributed::{DistributedMessage, DistributedSearch};
use slskdn::engine::soulseek::peer::{Init, PeerMessage, RemoteFile, RemoteFolder, SearchReply, UserInfo};
use slskdn::engine::soulseek::server::{
    ConnectionType, FromServer, LoginGreeting, LoginRefusal, Obfuscation, PossibleParent, ToServer, UserStats,
    UserStatus,
};
use slskdn::model::id::Token;
use slskdn::model::music::WireText;

/// What the messages are made of.
#[derive(Clone, Debug)]
pub(super) struct Bits {
    pub(super) a: WireText,
    pub(super) b: WireText,
    pub(super) c: WireText,
    pub(super) n: u32,
    pub(super) m: u32,
    pub(super) big: u64,
    pub(super) flag: bool,
    pub(super) bytes: Vec<u8>,
}

impl Default for Bits {
    fn default() -> Self {
        Self {
            a: WireText::from("Músík\\a"),
            b: WireText::from_wire(b"Fj\xf6rd"),
            c: WireText::from(""),
            n: 0x8000_0001,
            m: 3,
            big: 1 << 40,
            flag: true,
            bytes: b"\x00bytes\xff".to_vec(),
        }
    }
}

impl Bits {
    fn kind(&self) -> ConnectionType {
        match self.n % 3 {
            0 => ConnectionType::Peer,
            1 => ConnectionType::File,
            _ => ConnectionType::Distributed,
        }
    }

    fn some<T>(&self, value: T) -> Option<T> {
        self.flag.then_some(value)
    }

    fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.n)
    }

    fn stats(&self) -> UserStats {
        UserStats { average_speed: self.n, uploads: self.m, unknown: 1, files: 2, folders: self.m }
    }

    fn obfuscation(&self) -> Option<Obfuscation> {
        self.some(Obfuscation { kind: self.m, port: 2235 })
    }

    fn file(&self) -> RemoteFile {
        RemoteFile {
            code: 1,
            name: self.a.clone(),
            // The topmost byte 255 is an old client's mistake and is not kept.
            size: self.big >> 8,
            extension: self.c.clone(),
            attributes: vec![(0, self.n), (self.m, 1)],
        }
    }

    fn files(&self) -> Vec<RemoteFile> {
        (0..self.m % 4).map(|_| self.file()).collect()
    }

    pub(super) fn folders(&self) -> Vec<RemoteFolder> {
        (0..self.n % 3).map(|_| RemoteFolder { name: self.b.clone(), files: self.files() }).collect()
    }
}

pub(super) fn to_server(bits: &Bits) -> Vec<ToServer> {
    let Bits { a, b, c, n, m, flag, bytes, .. } = bits.clone();
    let (token, user) = (Token(n), a.clone());
    vec![
        ToServer::Login { user: a.clone(), password: b.clone().into(), major: n, hash: c.clone().into(), minor: m },
        ToServer::SetWaitPort { port: m, obfuscated: bits.some((1, n)) },
        ToServer::GetPeerAddress { user: user.clone() },
        ToServer::WatchUser { user: user.clone() },
        ToServer::UnwatchUser { user: user.clone() },
        ToServer::GetUserStatus { user: user.clone() },
        ToServer::SayChatroom { room: b.clone(), text: c.clone() },
        ToServer::JoinRoom { room: b.clone(), private: bits.some(m) },
        ToServer::LeaveRoom { room: b.clone() },
        ToServer::ConnectToPeer { token, user: user.clone(), kind: bits.kind() },
        ToServer::MessageUser { user: user.clone(), text: c.clone() },
        ToServer::MessageAcked { id: n },
        ToServer::FileSearch { token, query: b.clone() },
        ToServer::SetStatus { status: UserStatus::from_number(m) },
        ToServer::ServerPing,
        ToServer::SharedFoldersFiles { folders: n, files: m },
        ToServer::GetUserStats { user: user.clone() },
        ToServer::UserSearch { user: user.clone(), token, query: c.clone() },
        ToServer::RoomList,
        ToServer::HaveNoParent { none: flag },
        ToServer::CheckPrivileges,
        ToServer::AcceptChildren { accept: flag },
        ToServer::WishlistSearch { token, query: b.clone() },
        ToServer::RoomSearch { room: b, token, query: c },
        ToServer::SendUploadSpeed { speed: n },
        ToServer::BranchLevel { level: m },
        ToServer::BranchRoot { user: user.clone() },
        ToServer::EnablePrivateRooms { enable: flag },
        ToServer::CantConnectToPeer { token, user },
        ToServer::Other { code: 142, body: bytes },
    ]
}

pub(super) fn from_server(bits: &Bits) -> Vec<FromServer> {
    let Bits { a, b, c, n, m, flag, bytes, .. } = bits.clone();
    let (token, user, stats) = (Token(n), a.clone(), bits.stats());
    let found = bits.some((UserStatus::from_number(m), stats));
    vec![
        FromServer::Login(Ok(LoginGreeting {
            greeting: a.clone(),
            own_ip: bits.ip(),
            password_hash: bits.some(b.clone().into()),
            supporter: bits.some(m % 2 == 0),
        })),
        FromServer::Login(Err(LoginRefusal { reason: a.clone(), detail: bits.some(b.clone()) })),
        FromServer::GetPeerAddress { user: user.clone(), ip: bits.ip(), port: m, obfuscation: bits.obfuscation() },
        FromServer::WatchUser { user: user.clone(), found, country: found.map(|_| c.clone()) },
        FromServer::GetUserStatus { user: user.clone(), status: UserStatus::from_number(n), privileged: flag },
        FromServer::SayChatroom { room: b.clone(), user: user.clone(), text: c.clone() },
        FromServer::ConnectToPeer {
            user: user.clone(),
            kind: bits.kind(),
            ip: bits.ip(),
            port: m,
            token,
            privileged: flag,
            obfuscation: bits.obfuscation(),
        },
        FromServer::MessageUser { id: n, at: m, user: user.clone(), text: b.clone(), is_new: bits.some(true) },
        FromServer::FileSearch { user: user.clone(), token, query: c.clone() },
        FromServer::ServerPing,
        FromServer::GetUserStats { user: user.clone(), stats },
        FromServer::Relogged,
        FromServer::AdminMessage { text: b.clone() },
        FromServer::PrivilegedUsers { users: vec![a.clone(), b.clone(), c.clone()] },
        FromServer::ParentMinSpeed { speed: n },
        FromServer::ParentSpeedRatio { ratio: n },
        FromServer::CheckPrivileges { seconds: n },
        FromServer::EmbeddedMessage { code: 3, body: bytes.clone() },
        FromServer::PossibleParents { parents: vec![PossibleParent { user, ip: bits.ip(), port: m }] },
        FromServer::WishlistInterval { seconds: m },
        FromServer::ResetDistributed,
        FromServer::ExcludedSearchPhrases { phrases: vec![a, b, c] },
        FromServer::CantConnectToPeer { token },
        FromServer::Other { code: 64, body: bytes },
    ]
}

pub(super) fn init(bits: &Bits) -> Vec<Init> {
    let token = Token(bits.n);
    vec![
        Init::PierceFireWall { token },
        Init::PeerInit { user: bits.a.clone(), kind: bits.kind(), token: Token(bits.m) },
    ]
}

pub(super) fn peer(bits: &Bits) -> Vec<PeerMessage> {
    let Bits { a, b, c, n, m, big, flag, bytes } = bits.clone();
    let (token, path) = (Token(n), a.clone());
    vec![
        PeerMessage::GetSharedFileList,
        PeerMessage::FileSearchResponse(SearchReply {
            user: b.clone(),
            token,
            files: bits.files(),
            free_slot: flag,
            upload_speed: n,
            queue_length: m,
            unknown: bits.some(m),
            locked_files: bits.some(bits.files()).unwrap_or_default(),
            has_locked_list: flag,
        }),
        PeerMessage::UserInfoRequest,
        PeerMessage::UserInfoResponse(UserInfo {
            description: c.clone(),
            picture: bits.some(bytes.clone()),
            slots: n,
            queue_length: m,
            free_slot: flag,
            upload_permission: bits.some(m),
        }),
        PeerMessage::FolderContentsRequest { token, folder: b.clone() },
        PeerMessage::FolderContentsResponse { token, folder: b.clone(), folders: bits.folders() },
        PeerMessage::TransferRequest { upload: flag, token, path: path.clone(), size: bits.some(big) },
        PeerMessage::TransferResponse { token, answer: Ok(bits.some(big)) },
        PeerMessage::TransferResponse { token, answer: Err(c) },
        PeerMessage::QueueUpload { path: path.clone() },
        PeerMessage::PlaceInQueueResponse { path: path.clone(), place: m },
        PeerMessage::UploadFailed { path: path.clone() },
        PeerMessage::UploadDenied { path: path.clone(), reason: b },
        PeerMessage::PlaceInQueueRequest { path },
        PeerMessage::Other { code: 52, body: bytes },
    ]
}

pub(super) fn distributed(bits: &Bits) -> Vec<DistributedMessage> {
    let Bits { a, b, n, m, bytes, .. } = bits.clone();
    vec![
        DistributedMessage::Ping,
        DistributedMessage::Search(DistributedSearch {
            identifier: m,
            user: a.clone(),
            token: Token(n),
            query: b,
            tail: bytes.clone(),
        }),
        DistributedMessage::BranchLevel { level: n.cast_signed() },
        DistributedMessage::BranchRoot { user: a },
        DistributedMessage::ChildDepth { depth: n },
        DistributedMessage::Embedded { code: 3, body: bytes.clone() },
        DistributedMessage::Other { code: 1, body: bytes },
    ]
}
