//! Messages between two users: the first one on a connection, peer messages, and the two numbers that open a file
//! connection.

mod codec;
#[cfg(test)]
mod tests;

pub(super) use self::codec::{FILE_MIN, FOLDER_MIN, check_attributes, plausible_size};
pub use self::codec::{INIT_FRAME_MAX, frame_max, search_reply_token};
use super::server::ConnectionType;
use crate::model::id::Token;
use crate::model::music::{Attributes, WireText};

/// The first message on a fresh connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Init {
    /// 0: "you asked the server to make me call; here I am".
    PierceFireWall {
        /// As in the ConnectToPeer that asked.
        token: Token,
    },
    /// 1: a call of the sender's own accord.
    PeerInit {
        /// Who calls: a claim.
        user: WireText,
        /// What for.
        kind: ConnectionType,
        /// Of no meaning; usually 0.
        token: Token,
    },
}

/// A file in a search reply, a browse reply or a folder reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// 1, of no known meaning.
    pub code: u8,
    /// A full path in search replies, a bare name in browse and folder replies.
    pub name: WireText,
    /// Bytes.
    pub size: u64,
    /// Often empty: take it from the name.
    pub extension: WireText,
    /// Attribute pairs as they came, at most `limits::FILE_ATTRIBUTES`.
    pub attributes: Vec<(u32, u32)>,
}

impl RemoteFile {
    /// The attributes we understand.
    pub fn known_attributes(&self) -> Attributes {
        let mut known = Attributes::default();
        for &(code, value) in &self.attributes {
            match code {
                0 => known.bitrate_kbps = Some(value),
                1 => known.duration_s = Some(value),
                2 => known.vbr = Some(value == 1),
                4 => known.sample_rate_hz = Some(value),
                5 => known.bit_depth = Some(value),
                _ => {}
            }
        }
        known
    }
}

/// A folder with its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteFolder {
    /// Virtual path.
    pub name: WireText,
    /// Its files, bare names.
    pub files: Vec<RemoteFile>,
}

/// What a user found among their shares for somebody's search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchReply {
    /// Who answers.
    pub user: WireText,
    /// The search's token.
    pub token: Token,
    /// Files, full paths.
    pub files: Vec<RemoteFile>,
    /// A slot is free now.
    pub free_slot: bool,
    /// Bytes per second.
    pub upload_speed: u32,
    /// Files waiting.
    pub queue_length: u32,
    /// Four bytes of unknown meaning, where sent.
    pub unknown: Option<u32>,
    /// Files only some may fetch, where sent.
    pub locked_files: Vec<RemoteFile>,
    /// Whether the list of locked files was there at all.
    pub has_locked_list: bool,
}

/// What a user says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// Free text.
    pub description: WireText,
    /// A picture's bytes, where there is one.
    pub picture: Option<Vec<u8>>,
    /// Upload slots.
    pub slots: u32,
    /// Files waiting.
    pub queue_length: u32,
    /// A slot is free now.
    pub free_slot: bool,
    /// Who may upload to them, where sent.
    pub upload_permission: Option<u32>,
}

/// On a peer connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named as in the protocol text")]
pub enum PeerMessage {
    /// 4: browse.
    GetSharedFileList,
    /// 5: browse reply. Ours is streamed from a file made beforehand and theirs into one, so that no list is ever
    /// whole in memory; this variant stands for "the reply came and was spooled".
    SharedFileList {
        /// Folders, private ones included.
        folders: u32,
        /// Files, private ones included.
        files: u32,
    },
    /// 9
    FileSearchResponse(SearchReply),
    /// 15
    UserInfoRequest,
    /// 16
    UserInfoResponse(UserInfo),
    /// 36
    FolderContentsRequest { token: Token, folder: WireText },
    /// 37
    FolderContentsResponse { token: Token, folder: WireText, folders: Vec<RemoteFolder> },
    /// 40. Direction 0: the sender wants to download (legacy); 1: the sender is ready to upload, with size.
    TransferRequest { upload: bool, token: Token, path: WireText, size: Option<u64> },
    /// 41. Allowed (with the size in legacy replies), or refused with a reason.
    TransferResponse { token: Token, answer: Result<Option<u64>, WireText> },
    /// 43
    QueueUpload { path: WireText },
    /// 44
    PlaceInQueueResponse { path: WireText, place: u32 },
    /// 46
    UploadFailed { path: WireText },
    /// 50
    UploadDenied { path: WireText, reason: WireText },
    /// 51
    PlaceInQueueRequest { path: WireText },
    /// Any other code: read and ignored.
    Other { code: u32, body: Vec<u8> },
}
