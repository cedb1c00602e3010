//! Bytes of the messages between client and server.

use super::{
    ConnectionType, FromServer, Hidden, LoginGreeting, LoginRefusal, Obfuscation, PossibleParent, ToServer, UserStats,
    UserStatus,
};
use crate::engine::soulseek::frame::{FrameError, Reader, Writer, check_length};
use crate::model::limits::{
    EXCLUDED_PHRASES, FRAME_INIT, FRAME_SERVER, MESSAGE_LEN, POSSIBLE_PARENTS, PRIVILEGED_USERS, USERNAME_LEN,
};
use crate::model::music::WireText;

/// The longest frame of a server message, whatever its code.
pub const FRAME_MAX: u32 = FRAME_SERVER;

impl ConnectionType {
    /// As it is called on the wire.
    pub fn letter(self) -> &'static str {
        match self {
            Self::Peer => "P",
            Self::File => "F",
            Self::Distributed => "D",
        }
    }

    /// From what it is called on the wire.
    pub fn from_letter(letter: &str) -> Option<Self> {
        match letter {
            "P" => Some(Self::Peer),
            "F" => Some(Self::File),
            "D" => Some(Self::Distributed),
            _ => None,
        }
    }
}

impl UserStatus {
    /// From its number on the wire.
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Offline,
            1 => Self::Away,
            2 => Self::Online,
            other => Self::Other(other),
        }
    }

    /// Its number on the wire.
    pub fn number(self) -> u32 {
        match self {
            Self::Offline => 0,
            Self::Away => 1,
            Self::Online => 2,
            Self::Other(number) => number,
        }
    }
}

impl UserStats {
    fn read(r: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(Self { average_speed: r.u32()?, uploads: r.u32()?, unknown: r.u32()?, files: r.u32()?, folders: r.u32()? })
    }

    fn write(self, w: &mut Writer) {
        w.u32(self.average_speed).u32(self.uploads).u32(self.unknown).u32(self.files).u32(self.folders);
    }
}

/// Names of users and rooms.
fn name(r: &mut Reader<'_>) -> Result<WireText, FrameError> {
    r.text(USERNAME_LEN)
}

/// What people and servers say, queries included: a longer text is cut, as its sender is not the one who would be
/// punished for it. A cut query is still longer than `limits::QUERY_LEN`, so it is not answered.
fn speech(r: &mut Reader<'_>) -> Result<WireText, FrameError> {
    r.text_cut(MESSAGE_LEN)
}

/// The first `kept` entries of a list; all are read.
fn list<T>(
    r: &mut Reader<'_>,
    entry_min: usize,
    kept: usize,
    mut entry: impl FnMut(&mut Reader<'_>) -> Result<T, FrameError>,
) -> Result<Vec<T>, FrameError> {
    let count = r.count(entry_min)?;
    let mut entries = Vec::with_capacity(count.min(kept));
    for at in 0..count {
        let value = entry(r)?;
        if at < kept {
            entries.push(value);
        }
    }
    Ok(entries)
}

impl ToServer {
    /// The message's code.
    pub fn code(&self) -> u32 {
        match self {
            Self::Login { .. } => 1,
            Self::SetWaitPort { .. } => 2,
            Self::GetPeerAddress { .. } => 3,
            Self::WatchUser { .. } => 5,
            Self::UnwatchUser { .. } => 6,
            Self::GetUserStatus { .. } => 7,
            Self::SayChatroom { .. } => 13,
            Self::JoinRoom { .. } => 14,
            Self::LeaveRoom { .. } => 15,
            Self::ConnectToPeer { .. } => 18,
            Self::MessageUser { .. } => 22,
            Self::MessageAcked { .. } => 23,
            Self::FileSearch { .. } => 26,
            Self::SetStatus { .. } => 28,
            Self::ServerPing => 32,
            Self::SharedFoldersFiles { .. } => 35,
            Self::GetUserStats { .. } => 36,
            Self::UserSearch { .. } => 42,
            Self::RoomList => 64,
            Self::HaveNoParent { .. } => 71,
            Self::CheckPrivileges => 92,
            Self::AcceptChildren { .. } => 100,
            Self::WishlistSearch { .. } => 103,
            Self::RoomSearch { .. } => 120,
            Self::SendUploadSpeed { .. } => 121,
            Self::BranchLevel { .. } => 126,
            Self::BranchRoot { .. } => 127,
            Self::EnablePrivateRooms { .. } => 141,
            Self::CantConnectToPeer { .. } => 1001,
            Self::Other { code, .. } => *code,
        }
    }

    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::wide(self.code());
        match self {
            Self::Login { user, password, major, hash, minor } => {
                w.text(user).text(&password.0).u32(*major).text(&hash.0).u32(*minor);
            }
            Self::SetWaitPort { port, obfuscated } => {
                w.u32(*port);
                if let Some((kind, obfuscated_port)) = obfuscated {
                    w.u32(*kind).u32(*obfuscated_port);
                }
            }
            Self::GetPeerAddress { user }
            | Self::WatchUser { user }
            | Self::UnwatchUser { user }
            | Self::GetUserStatus { user }
            | Self::GetUserStats { user }
            | Self::BranchRoot { user } => {
                w.text(user);
            }
            Self::SayChatroom { room, text } => {
                w.text(room).text(text);
            }
            Self::JoinRoom { room, private } => {
                w.text(room);
                if let Some(private) = private {
                    w.u32(*private);
                }
            }
            Self::LeaveRoom { room } => {
                w.text(room);
            }
            Self::ConnectToPeer { token, user, kind } => {
                w.token(*token).text(user).blob(kind.letter().as_bytes());
            }
            Self::MessageUser { user, text } => {
                w.text(user).text(text);
            }
            Self::MessageAcked { id } => {
                w.u32(*id);
            }
            Self::FileSearch { token, query } | Self::WishlistSearch { token, query } => {
                w.token(*token).text(query);
            }
            Self::SetStatus { status } => {
                w.u32(status.number());
            }
            Self::ServerPing | Self::RoomList | Self::CheckPrivileges => {}
            Self::SharedFoldersFiles { folders, files } => {
                w.u32(*folders).u32(*files);
            }
            Self::UserSearch { user, token, query } => {
                w.text(user).token(*token).text(query);
            }
            Self::HaveNoParent { none: flag }
            | Self::AcceptChildren { accept: flag }
            | Self::EnablePrivateRooms { enable: flag } => {
                w.bool(*flag);
            }
            Self::RoomSearch { room, token, query } => {
                w.text(room).token(*token).text(query);
            }
            Self::SendUploadSpeed { speed: number } | Self::BranchLevel { level: number } => {
                w.u32(*number);
            }
            Self::CantConnectToPeer { token, user } => {
                w.token(*token).text(user);
            }
            Self::Other { body, .. } => {
                w.bytes(body);
            }
        }
        w.finish()
    }

    /// Reads a client's message. Bytes after the last field are ignored.
    ///
    /// # Errors
    /// When a field is missing or longer than allowed.
    pub fn decode(code: u32, body: &[u8]) -> Result<Self, FrameError> {
        let r = &mut Reader::new(body);
        Ok(match code {
            1 => Self::Login {
                user: name(r)?,
                password: name(r)?.into(),
                major: r.u32()?,
                hash: name(r)?.into(),
                minor: r.u32()?,
            },
            2 => Self::SetWaitPort { port: r.u32()?, obfuscated: r.tail(|r| Ok((r.u32()?, r.u32()?))) },
            3 => Self::GetPeerAddress { user: name(r)? },
            5 => Self::WatchUser { user: name(r)? },
            6 => Self::UnwatchUser { user: name(r)? },
            7 => Self::GetUserStatus { user: name(r)? },
            13 => Self::SayChatroom { room: name(r)?, text: speech(r)? },
            14 => Self::JoinRoom { room: name(r)?, private: r.tail(Reader::u32) },
            15 => Self::LeaveRoom { room: name(r)? },
            18 => {
                let (token, user) = (r.token()?, name(r)?);
                match ConnectionType::from_letter(name(r)?.as_str()) {
                    Some(kind) => Self::ConnectToPeer { token, user, kind },
                    None => Self::Other { code, body: body.to_vec() },
                }
            }
            22 => Self::MessageUser { user: name(r)?, text: speech(r)? },
            23 => Self::MessageAcked { id: r.u32()? },
            26 => Self::FileSearch { token: r.token()?, query: speech(r)? },
            28 => Self::SetStatus { status: UserStatus::from_number(r.u32()?) },
            32 => Self::ServerPing,
            35 => Self::SharedFoldersFiles { folders: r.u32()?, files: r.u32()? },
            36 => Self::GetUserStats { user: name(r)? },
            42 => Self::UserSearch { user: name(r)?, token: r.token()?, query: speech(r)? },
            64 => Self::RoomList,
            71 => Self::HaveNoParent { none: r.bool()? },
            92 => Self::CheckPrivileges,
            100 => Self::AcceptChildren { accept: r.bool()? },
            103 => Self::WishlistSearch { token: r.token()?, query: speech(r)? },
            120 => Self::RoomSearch { room: name(r)?, token: r.token()?, query: speech(r)? },
            121 => Self::SendUploadSpeed { speed: r.u32()? },
            126 => Self::BranchLevel { level: r.u32()? },
            127 => Self::BranchRoot { user: name(r)? },
            141 => Self::EnablePrivateRooms { enable: r.bool()? },
            1001 => Self::CantConnectToPeer { token: r.token()?, user: name(r)? },
            _ => Self::Other { code, body: body.to_vec() },
        })
    }
}

impl FromServer {
    /// The message's code.
    pub fn code(&self) -> u32 {
        match self {
            Self::Login(_) => 1,
            Self::GetPeerAddress { .. } => 3,
            Self::WatchUser { .. } => 5,
            Self::GetUserStatus { .. } => 7,
            Self::SayChatroom { .. } => 13,
            Self::ConnectToPeer { .. } => 18,
            Self::MessageUser { .. } => 22,
            Self::FileSearch { .. } => 26,
            Self::ServerPing => 32,
            Self::GetUserStats { .. } => 36,
            Self::Relogged => 41,
            Self::AdminMessage { .. } => 66,
            Self::PrivilegedUsers { .. } => 69,
            Self::ParentMinSpeed { .. } => 83,
            Self::ParentSpeedRatio { .. } => 84,
            Self::CheckPrivileges { .. } => 92,
            Self::EmbeddedMessage { .. } => 93,
            Self::PossibleParents { .. } => 102,
            Self::WishlistInterval { .. } => 104,
            Self::ResetDistributed => 130,
            Self::ExcludedSearchPhrases { .. } => 160,
            Self::CantConnectToPeer { .. } => 1001,
            Self::Other { code, .. } => *code,
        }
    }

    /// The whole frame, as a server would send it.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::wide(self.code());
        match self {
            Self::Login(answer) => write_login(&mut w, answer),
            Self::GetPeerAddress { user, ip, port, obfuscation } => {
                w.text(user).ip(*ip).u32(*port);
                if let Some(Obfuscation { kind, port }) = obfuscation {
                    w.u32(*kind).u16(*port);
                }
            }
            Self::WatchUser { user, found, country } => {
                w.text(user).bool(found.is_some());
                if let Some((status, stats)) = found {
                    w.u32(status.number());
                    stats.write(&mut w);
                    if let Some(country) = country {
                        w.text(country);
                    }
                }
            }
            Self::GetUserStatus { user, status, privileged } => {
                w.text(user).u32(status.number()).bool(*privileged);
            }
            Self::SayChatroom { room, user, text } => {
                w.text(room).text(user).text(text);
            }
            Self::ConnectToPeer { user, kind, ip, port, token, privileged, obfuscation } => {
                w.text(user).blob(kind.letter().as_bytes()).ip(*ip).u32(*port).token(*token).bool(*privileged);
                if let Some(Obfuscation { kind, port }) = obfuscation {
                    w.u32(*kind).u32(u32::from(*port));
                }
            }
            Self::MessageUser { id, at, user, text, is_new } => {
                w.u32(*id).u32(*at).text(user).text(text);
                if let Some(is_new) = is_new {
                    w.bool(*is_new);
                }
            }
            Self::FileSearch { user, token, query } => {
                w.text(user).token(*token).text(query);
            }
            Self::ServerPing | Self::Relogged | Self::ResetDistributed => {}
            Self::GetUserStats { user, stats } => {
                w.text(user);
                stats.write(&mut w);
            }
            Self::AdminMessage { text } => {
                w.text(text);
            }
            Self::PrivilegedUsers { users: texts } | Self::ExcludedSearchPhrases { phrases: texts } => {
                w.count(texts.len());
                for text in texts {
                    w.text(text);
                }
            }
            Self::ParentMinSpeed { speed: number }
            | Self::ParentSpeedRatio { ratio: number }
            | Self::CheckPrivileges { seconds: number }
            | Self::WishlistInterval { seconds: number } => {
                w.u32(*number);
            }
            Self::EmbeddedMessage { code, body } => {
                w.u8(*code).bytes(body);
            }
            Self::PossibleParents { parents } => {
                w.count(parents.len());
                for PossibleParent { user, ip, port } in parents {
                    w.text(user).ip(*ip).u32(*port);
                }
            }
            Self::CantConnectToPeer { token } => {
                w.token(*token);
            }
            Self::Other { body, .. } => {
                w.bytes(body);
            }
        }
        w.finish()
    }

    /// Reads a server's message. Bytes after the last field are ignored, trailing fields that some servers leave out may
    /// be missing, lists are kept up to their limit. A message that does not decode is to be skipped: the frames around
    /// it are in order.
    ///
    /// # Errors
    /// When a field is missing or longer than allowed.
    pub fn decode(code: u32, body: &[u8]) -> Result<Self, FrameError> {
        let r = &mut Reader::new(body);
        Ok(match code {
            1 => Self::Login(read_login(r)?),
            3 => Self::GetPeerAddress {
                user: name(r)?,
                ip: r.ip()?,
                port: r.u32()?,
                obfuscation: r.tail(|r| Ok(Obfuscation { kind: r.u32()?, port: r.u16()? })),
            },
            5 => {
                let (user, exists) = (name(r)?, r.bool()?);
                let mut found = None;
                if exists && !r.is_empty() {
                    found = Some((UserStatus::from_number(r.u32()?), UserStats::read(r)?));
                }
                let country = if found.is_some() { r.tail(name) } else { None };
                Self::WatchUser { user, found, country }
            }
            7 => {
                Self::GetUserStatus { user: name(r)?, status: UserStatus::from_number(r.u32()?), privileged: r.bool()? }
            }
            13 => Self::SayChatroom { room: name(r)?, user: name(r)?, text: speech(r)? },
            18 => {
                let (user, letter) = (name(r)?, name(r)?);
                let Some(kind) = ConnectionType::from_letter(letter.as_str()) else {
                    return Ok(Self::Other { code, body: body.to_vec() });
                };
                Self::ConnectToPeer {
                    user,
                    kind,
                    ip: r.ip()?,
                    port: r.u32()?,
                    token: r.token()?,
                    privileged: r.bool()?,
                    // A number that is no port is as good as none.
                    obfuscation: r
                        .tail(|r| Ok(Obfuscation { kind: r.u32()?, port: u16::try_from(r.u32()?).unwrap_or(0) })),
                }
            }
            22 => Self::MessageUser {
                id: r.u32()?,
                at: r.u32()?,
                user: name(r)?,
                text: speech(r)?,
                is_new: r.tail(Reader::bool),
            },
            26 => Self::FileSearch { user: name(r)?, token: r.token()?, query: speech(r)? },
            32 => Self::ServerPing,
            36 => Self::GetUserStats { user: name(r)?, stats: UserStats::read(r)? },
            41 => Self::Relogged,
            66 => Self::AdminMessage { text: speech(r)? },
            69 => Self::PrivilegedUsers { users: list(r, 4, PRIVILEGED_USERS, name)? },
            83 => Self::ParentMinSpeed { speed: r.u32()? },
            84 => Self::ParentSpeedRatio { ratio: r.u32()? },
            92 => Self::CheckPrivileges { seconds: r.u32()? },
            93 => {
                // It is passed on as a distributed message of the same length, code included, and has its limit.
                check_length(u32::try_from(body.len()).unwrap_or(u32::MAX), FRAME_INIT)?;
                Self::EmbeddedMessage { code: r.u8()?, body: r.rest().to_vec() }
            }
            102 => Self::PossibleParents {
                parents: list(r, 12, POSSIBLE_PARENTS, |r| {
                    Ok(PossibleParent { user: name(r)?, ip: r.ip()?, port: r.u32()? })
                })?,
            },
            104 => Self::WishlistInterval { seconds: r.u32()? },
            130 => Self::ResetDistributed,
            160 => Self::ExcludedSearchPhrases { phrases: list(r, 4, EXCLUDED_PHRASES, speech)? },
            1001 => Self::CantConnectToPeer { token: r.token()? },
            _ => Self::Other { code, body: body.to_vec() },
        })
    }
}

fn write_login(w: &mut Writer, answer: &Result<LoginGreeting, LoginRefusal>) {
    match answer {
        Ok(LoginGreeting { greeting, own_ip, password_hash, supporter }) => {
            w.bool(true).text(greeting).ip(*own_ip);
            if let Some(hash) = password_hash {
                w.text(&hash.0);
                if let Some(supporter) = supporter {
                    w.bool(*supporter);
                }
            }
        }
        Err(LoginRefusal { reason, detail }) => {
            w.bool(false).text(reason);
            if let Some(detail) = detail {
                w.text(detail);
            }
        }
    }
}

fn read_login(r: &mut Reader<'_>) -> Result<Result<LoginGreeting, LoginRefusal>, FrameError> {
    Ok(if r.bool()? {
        let (greeting, own_ip) = (speech(r)?, r.ip()?);
        let password_hash = r.tail(name).map(Hidden);
        let supporter = if password_hash.is_some() { r.tail(Reader::bool) } else { None };
        Ok(LoginGreeting { greeting, own_ip, password_hash, supporter })
    } else {
        Err(LoginRefusal { reason: speech(r)?, detail: r.tail(speech) })
    })
}
