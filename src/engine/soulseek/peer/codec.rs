//! Bytes of the messages between users.

use super::{Init, PeerMessage, RemoteFile, RemoteFolder, SearchReply, UserInfo};
use crate::engine::soulseek::frame::{FrameError, Reader, Writer, deflate, inflate, inflate_prefix};
use crate::engine::soulseek::server::ConnectionType;
use crate::model::id::Token;
use crate::model::limits::{
    DESCRIPTION_LEN, FILE_ATTRIBUTES, FOLDER_ENTRIES, FRAME_INIT, FRAME_PEER, FRAME_RESULTS, FRAME_SHARES,
    INFLATED_FOLDER, INFLATED_RESULTS, MESSAGE_LEN, PATH_LEN, PICTURE_LEN, SEARCH_ROWS, USERNAME_LEN,
};
use crate::model::music::{Attributes, WireText};

/// The longest frame of an init message.
pub const INIT_FRAME_MAX: u32 = FRAME_INIT;
/// Bytes of the shortest file entry: code, three lengths and a size.
pub(in crate::engine::soulseek) const FILE_MIN: usize = 21;
/// Bytes of the shortest folder entry: a length and a count.
pub(in crate::engine::soulseek) const FOLDER_MIN: usize = 8;

/// The longest frame of a peer message with this code.
pub fn frame_max(code: u32) -> u32 {
    match code {
        5 => FRAME_SHARES,
        9 | 37 => FRAME_RESULTS,
        _ => FRAME_PEER,
    }
}

/// The token of a compressed search reply (the body of code 9), for which only its first bytes are inflated.
///
/// # Errors
/// When not even that much is there.
pub fn search_reply_token(body: &[u8]) -> Result<Token, FrameError> {
    let mut prefix = [0; 4 + USERNAME_LEN + 4];
    let mut reader = Reader::new(inflate_prefix(body, &mut prefix)?);
    reader.text(USERNAME_LEN)?;
    reader.token()
}

impl Init {
    /// The message's code.
    pub fn code(&self) -> u8 {
        match self {
            Self::PierceFireWall { .. } => 0,
            Self::PeerInit { .. } => 1,
        }
    }

    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::narrow(self.code());
        match self {
            Self::PierceFireWall { token } => w.token(*token),
            Self::PeerInit { user, kind, token } => w.text(user).blob(kind.letter().as_bytes()).token(*token),
        };
        w.finish()
    }

    /// Reads the first message of a connection. Its token may be missing, or followed by anything.
    ///
    /// # Errors
    /// `UnknownInit`, `UnknownConnectionType`, or a field that is missing or too long.
    pub fn decode(code: u8, body: &[u8]) -> Result<Self, FrameError> {
        let r = &mut Reader::new(body);
        Ok(match code {
            0 => Self::PierceFireWall { token: r.token()? },
            1 => {
                let (user, letter) = (r.text(USERNAME_LEN)?, r.text(USERNAME_LEN)?);
                let Some(kind) = ConnectionType::from_letter(letter.as_str()) else {
                    return Err(FrameError::UnknownConnectionType { kind: letter.as_str().to_owned() });
                };
                Self::PeerInit { user, kind, token: r.tail(Reader::token).unwrap_or_default() }
            }
            _ => return Err(FrameError::UnknownInit { code }),
        })
    }
}

impl RemoteFile {
    /// One of our files, to be sent: a full path in a search reply, a bare name elsewhere.
    pub fn new(name: impl Into<WireText>, size: u64, attributes: &Attributes) -> Self {
        Self {
            code: 1,
            name: name.into(),
            size,
            extension: WireText::default(),
            attributes: attribute_pairs(attributes),
        }
    }

    pub(in crate::engine::soulseek) fn read(r: &mut Reader<'_>) -> Result<Self, FrameError> {
        let code = r.u8()?;
        let name = r.text(PATH_LEN)?;
        let size = plausible_size(r.u64()?);
        let extension = r.text(PATH_LEN)?;
        let count = r.count(8)?;
        check_attributes(count)?;
        let mut attributes = Vec::with_capacity(count);
        for _ in 0..count {
            attributes.push((r.u32()?, r.u32()?));
        }
        Ok(Self { code, name, size, extension, attributes })
    }

    pub(in crate::engine::soulseek) fn write(&self, w: &mut Writer) {
        w.u8(self.code).text(&self.name).u64(self.size).text(&self.extension).count(self.attributes.len());
        for &(code, value) in &self.attributes {
            w.u32(code).u32(value);
        }
    }
}

/// Soulseek NS writes files above 2 GiB with 4 bytes of size and 4 of rubbish that end in 255 (Nicotine+).
pub(in crate::engine::soulseek) fn plausible_size(size: u64) -> u64 {
    if size >> 56 == 0xff { size & 0xffff_ffff } else { size }
}

pub(in crate::engine::soulseek) fn check_attributes(count: usize) -> Result<(), FrameError> {
    if count > FILE_ATTRIBUTES {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        return Err(FrameError::TooMany { count, count_max: FILE_ATTRIBUTES });
    }
    Ok(())
}

/// As other clients send them: length, sample rate and depth for lossless files; bitrate, length and VBR for others.
fn attribute_pairs(known: &Attributes) -> Vec<(u32, u32)> {
    let pairs = if known.bit_depth.is_some() {
        [(1, known.duration_s), (4, known.sample_rate_hz), (5, known.bit_depth)]
    } else {
        [(0, known.bitrate_kbps), (1, known.duration_s), (2, known.vbr.map(u32::from))]
    };
    pairs.into_iter().filter_map(|(code, value)| value.map(|value| (code, value))).collect()
}

/// A list of files, of which the first `kept` are kept.
fn read_files(r: &mut Reader<'_>, kept: usize) -> Result<Vec<RemoteFile>, FrameError> {
    let count = r.count(FILE_MIN)?;
    let mut files = Vec::with_capacity(count.min(kept));
    for at in 0..count {
        let file = RemoteFile::read(r)?;
        if at < kept {
            files.push(file);
        }
    }
    Ok(files)
}

fn write_files(w: &mut Writer, files: &[RemoteFile]) {
    w.count(files.len());
    for file in files {
        file.write(w);
    }
}

impl SearchReply {
    /// Reads an inflated body. Of each list the first `limits::SEARCH_ROWS` files are kept: a search keeps no more.
    ///
    /// # Errors
    /// When a field is missing or too long.
    pub fn from_inflated(body: &[u8]) -> Result<Self, FrameError> {
        let r = &mut Reader::new(body);
        let mut reply = Self {
            user: r.text(USERNAME_LEN)?,
            token: r.token()?,
            files: read_files(r, SEARCH_ROWS)?,
            free_slot: r.bool()?,
            upload_speed: r.u32()?,
            queue_length: r.u32()?,
            unknown: r.tail(Reader::u32),
            locked_files: Vec::new(),
            has_locked_list: false,
        };
        if reply.unknown.is_some() && !r.is_empty() {
            reply.has_locked_list = true;
            reply.locked_files = read_files(r, SEARCH_ROWS)?;
        }
        Ok(reply)
    }

    /// The body before compression.
    pub fn to_inflated(&self) -> Vec<u8> {
        let mut w = Writer::body();
        w.text(&self.user).token(self.token);
        write_files(&mut w, &self.files);
        w.bool(self.free_slot).u32(self.upload_speed).u32(self.queue_length);
        let has_locked_list = self.has_locked_list || !self.locked_files.is_empty();
        if let Some(unknown) = self.unknown.or(has_locked_list.then_some(0)) {
            w.u32(unknown);
        }
        if has_locked_list {
            write_files(&mut w, &self.locked_files);
        }
        w.finish()
    }
}

impl UserInfo {
    fn read(r: &mut Reader<'_>) -> Result<Self, FrameError> {
        let description = r.text_cut(DESCRIPTION_LEN)?;
        let mut picture = None;
        if r.bool()? {
            let bytes = r.blob()?;
            picture = (bytes.len() <= PICTURE_LEN).then(|| bytes.to_vec());
        }
        Ok(Self {
            description,
            picture,
            slots: r.u32()?,
            queue_length: r.u32()?,
            free_slot: r.bool()?,
            upload_permission: r.tail(Reader::u32),
        })
    }

    fn write(&self, w: &mut Writer) {
        w.text(&self.description).bool(self.picture.is_some());
        if let Some(picture) = &self.picture {
            w.blob(picture);
        }
        w.u32(self.slots).u32(self.queue_length).bool(self.free_slot);
        if let Some(permission) = self.upload_permission {
            w.u32(permission);
        }
    }
}

impl PeerMessage {
    /// The message's code.
    pub fn code(&self) -> u32 {
        match self {
            Self::GetSharedFileList => 4,
            Self::SharedFileList { .. } => 5,
            Self::FileSearchResponse(_) => 9,
            Self::UserInfoRequest => 15,
            Self::UserInfoResponse(_) => 16,
            Self::FolderContentsRequest { .. } => 36,
            Self::FolderContentsResponse { .. } => 37,
            Self::TransferRequest { .. } => 40,
            Self::TransferResponse { .. } => 41,
            Self::QueueUpload { .. } => 43,
            Self::PlaceInQueueResponse { .. } => 44,
            Self::UploadFailed { .. } => 46,
            Self::UploadDenied { .. } => 50,
            Self::PlaceInQueueRequest { .. } => 51,
            Self::Other { code, .. } => *code,
        }
    }

    /// The whole frame. `SharedFileList` stands for a list that was spooled and has no bytes of its own: nothing, not
    /// even a header, comes out for it (`sharelist` writes the real one).
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::wide(self.code());
        match self {
            Self::SharedFileList { .. } => return Vec::new(),
            Self::GetSharedFileList | Self::UserInfoRequest => {}
            Self::FileSearchResponse(reply) => {
                w.bytes(&deflate(&reply.to_inflated()));
            }
            Self::UserInfoResponse(info) => info.write(&mut w),
            Self::FolderContentsRequest { token, folder } => {
                w.token(*token).text(folder);
            }
            Self::FolderContentsResponse { token, folder, folders } => {
                w.bytes(&deflate(&folders_to_inflated(*token, folder, folders)));
            }
            Self::TransferRequest { upload, token, path, size } => {
                w.u32(u32::from(*upload)).token(*token).text(path);
                if let Some(size) = size {
                    w.u64(*size);
                }
            }
            Self::TransferResponse { token, answer } => {
                w.token(*token).bool(answer.is_ok());
                match answer {
                    Ok(None) => {}
                    Ok(Some(size)) => {
                        w.u64(*size);
                    }
                    Err(reason) => {
                        w.text(reason);
                    }
                }
            }
            Self::QueueUpload { path } | Self::UploadFailed { path } | Self::PlaceInQueueRequest { path } => {
                w.text(path);
            }
            Self::PlaceInQueueResponse { path, place } => {
                w.text(path).u32(*place);
            }
            Self::UploadDenied { path, reason } => {
                w.text(path).text(reason);
            }
            Self::Other { body, .. } => {
                w.bytes(body);
            }
        }
        w.finish()
    }

    /// Reads a user's message. Bytes after the last field are ignored, and trailing fields that some clients leave out
    /// may be missing.
    ///
    /// # Errors
    /// When a field is missing or too long, a compressed body is damaged or inflates to too much; `ShareListAsMessage`
    /// for code 5, which `sharelist` reads.
    pub fn decode(code: u32, body: &[u8]) -> Result<Self, FrameError> {
        let r = &mut Reader::new(body);
        Ok(match code {
            4 => Self::GetSharedFileList,
            5 => return Err(FrameError::ShareListAsMessage),
            9 => Self::FileSearchResponse(SearchReply::from_inflated(&inflate(body, INFLATED_RESULTS)?)?),
            15 => Self::UserInfoRequest,
            16 => Self::UserInfoResponse(UserInfo::read(r)?),
            36 => Self::FolderContentsRequest { token: r.token()?, folder: r.text(PATH_LEN)? },
            37 => Self::folder_contents_from_inflated(&inflate(body, INFLATED_FOLDER)?)?,
            40 => {
                let direction = r.u32()?;
                if direction > 1 {
                    return Ok(Self::Other { code, body: body.to_vec() });
                }
                Self::TransferRequest {
                    upload: direction == 1,
                    token: r.token()?,
                    path: r.text(PATH_LEN)?,
                    size: r.tail(Reader::u64),
                }
            }
            41 => {
                let (token, allowed) = (r.token()?, r.bool()?);
                let answer = if allowed {
                    Ok(r.tail(Reader::u64))
                } else if r.is_empty() {
                    Err(WireText::default())
                } else {
                    Err(r.text_cut(MESSAGE_LEN)?)
                };
                Self::TransferResponse { token, answer }
            }
            43 => Self::QueueUpload { path: r.text(PATH_LEN)? },
            44 => Self::PlaceInQueueResponse { path: r.text(PATH_LEN)?, place: r.u32()? },
            46 => Self::UploadFailed { path: r.text(PATH_LEN)? },
            50 => Self::UploadDenied { path: r.text(PATH_LEN)?, reason: r.text_cut(MESSAGE_LEN)? },
            51 => Self::PlaceInQueueRequest { path: r.text(PATH_LEN)? },
            _ => Self::Other { code, body: body.to_vec() },
        })
    }

    /// Reads the inflated body of code 37. The first `limits::FOLDER_ENTRIES` folders and files, counted together, are
    /// kept.
    ///
    /// # Errors
    /// When a field is missing or too long.
    pub fn folder_contents_from_inflated(body: &[u8]) -> Result<Self, FrameError> {
        let r = &mut Reader::new(body);
        let (token, folder) = (r.token()?, r.text(PATH_LEN)?);
        let mut folders = Vec::new();
        let mut room = FOLDER_ENTRIES;
        for _ in 0..r.count(FOLDER_MIN)? {
            let name = r.text(PATH_LEN)?;
            let files = read_files(r, room.saturating_sub(1))?;
            if room > 0 {
                room = room.saturating_sub(files.len().saturating_add(1));
                folders.push(RemoteFolder { name, files });
            }
        }
        Ok(Self::FolderContentsResponse { token, folder, folders })
    }
}

fn folders_to_inflated(token: Token, folder: &WireText, folders: &[RemoteFolder]) -> Vec<u8> {
    let mut w = Writer::body();
    w.token(token).text(folder).count(folders.len());
    for RemoteFolder { name, files } in folders {
        w.text(name);
        write_files(&mut w, files);
    }
    w.finish()
}
