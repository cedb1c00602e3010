//! One request on a stream of its own: asked on one side, served on the other.
//!
//! Asking:
//!
//! | State | Event | Next |
//! |---|---|---|
//! | Asked | granted, of the length wanted | Body |
//! | Asked | refused | Over |
//! | Body | the last byte | Over: whole |
//! | Body | fewer bytes than were left | Body |
//! | any but Over | another frame, more bytes than granted, the stream's end, the lease's end | Over: failed |
//!
//! Serving:
//!
//! | State | Event | Next |
//! |---|---|---|
//! | Waiting | a request that could be | Deciding |
//! | Waiting | one that cannot | Over, refused |
//! | Deciding | grant | Sending |
//! | Deciding | refuse | Over |
//! | Sending | bytes written | Sending, Over with the last |
//! | any but Over | any other frame, the stream's end | Over: failed |
//!
//! Nothing leaves Over.

use super::frame::{ChunkRequest, ErrorCode, Frame, FrameError, Frames, Message, MessageId};
use crate::model::id::ContentHash;
use crate::model::limits;
use crate::model::swarm::CancelReason;

/// Bytes of a piece: a power of two times BLAKE3's chunk, so that every piece is a subtree (DESIGN 2).
pub const PIECE_LEN: u64 = 64 * 1024;
/// The longest run of pieces asked for at once, bytes (SPEC-FACTS 10).
pub const CHUNK_LEN: u64 = 8 * PIECE_LEN;
/// Bytes of one entry of a piece list.
pub const ENTRY_LEN: u64 = 32;

/// The code of the first reason for taking a request back; the others follow in the order of their numbers.
const CANCEL_CODE: u32 = 16;

/// The code with which a stream is stopped or reset when its request is taken back for this reason.
pub fn cancel_code(reason: CancelReason) -> u32 {
    let at = CancelReason::ALL.iter().position(|other| *other == reason).unwrap_or_default();
    CANCEL_CODE.saturating_add(u32::try_from(at).unwrap_or_default())
}

/// The reason that a code stands for; other codes stand for none.
pub fn cancel_reason(code: u64) -> Option<CancelReason> {
    let at = usize::try_from(code.checked_sub(u64::from(CANCEL_CODE))?).ok()?;
    CancelReason::ALL.get(at).copied()
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The piece list of a file of this length.
    PieceList(ContentHash, u64),
    /// A run of bytes.
    Chunk(ChunkRequest),
}

impl Wanted {
    /// Bytes of the answer.
    pub fn length(&self) -> u64 {
        match self {
            Self::PieceList(_, size) => size.div_ceil(PIECE_LEN).saturating_mul(ENTRY_LEN),
            Self::Chunk(chunk) => u64::from(chunk.length),
        }
    }

    /// Of which file.
    pub fn content(&self) -> ContentHash {
        match self {
            Self::PieceList(content, _) => *content,
            Self::Chunk(chunk) => chunk.content,
        }
    }

    /// Whether it could be a request at all.
    pub fn is_possible(&self) -> bool {
        match self {
            Self::PieceList(_, size) => *size > PIECE_LEN && self.length() <= limits::PIECE_LIST_LEN as u64,
            Self::Chunk(chunk) => {
                let length = u64::from(chunk.length);
                (1..=CHUNK_LEN).contains(&length)
                    && chunk.offset.is_multiple_of(PIECE_LEN)
                    && chunk.offset.checked_add(length).is_some()
            }
        }
    }

    fn message(self) -> Message {
        match self {
            Self::PieceList(content, size) => Message::PieceList(content, size),
            Self::Chunk(chunk) => Message::Chunk(chunk),
        }
    }
}

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The other side does not want to, or cannot.
    #[error("refused: {}", .0.name())]
    Refused(ErrorCode),
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame that has no place here.
    #[error("a frame that has no place on this stream")]
    Unexpected,
    /// Another length than was asked for.
    #[error("{granted} bytes were granted where {wanted} were wanted")]
    Length {
        /// As the other side said.
        granted: u64,
        /// As we asked.
        wanted: u64,
    },
    /// The stream ended too early.
    #[error("the stream ended {left} bytes too early")]
    Short {
        /// Bytes that were to come.
        left: u64,
    },
    /// The lease ran out.
    #[error("no answer in time")]
    Late,
}

/// The asking side.
#[derive(Debug)]
pub struct Asking {
    wanted: Wanted,
    state: AskState,
}

#[derive(Debug)]
enum AskState {
    Asked(Frames),
    Body(u64),
    Over,
}

impl Asking {
    /// A request and the bytes it begins with.
    pub fn new(wanted: Wanted, id: MessageId) -> (Self, Vec<u8>) {
        let frame = wanted.message().encode(id);
        (Self { wanted, state: AskState::Asked(Frames::default()) }, frame)
    }

    /// Bytes of the answer's head to read next; 0 when the body is next or all is over.
    pub fn wants_head(&self) -> usize {
        match &self.state {
            AskState::Asked(frames) => frames.wanted(),
            AskState::Body(_) | AskState::Over => 0,
        }
    }

    /// Bytes of the body still to come; 0 before it is granted.
    pub fn left(&self) -> u64 {
        match self.state {
            AskState::Body(left) => left,
            AskState::Asked(_) | AskState::Over => 0,
        }
    }

    /// Whether the last byte of the body has come, or all has failed.
    pub fn is_over(&self) -> bool {
        matches!(self.state, AskState::Over)
    }

    /// Bytes of the head came.
    ///
    /// # Errors
    /// The request is over.
    pub fn head(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let AskState::Asked(frames) = &mut self.state else { return Err(self.fail(Failure::Unexpected)) };
        let frame = match frames.feed(bytes) {
            Ok(None) => return Ok(()),
            Ok(Some(frame)) => frame,
            Err(error) => return Err(self.fail(error.into())),
        };
        let wanted = self.wanted.length();
        match frame.message {
            Some(Message::Granted(granted)) if granted == wanted => {
                self.state = AskState::Body(granted);
                Ok(())
            }
            Some(Message::Granted(granted)) => Err(self.fail(Failure::Length { granted, wanted })),
            Some(Message::Refused(code)) => Err(self.fail(Failure::Refused(code))),
            Some(_) | None => Err(self.fail(Failure::Unexpected)),
        }
    }

    /// So many bytes of the body came.
    ///
    /// # Errors
    /// More than were granted.
    pub fn body(&mut self, count: u64) -> Result<(), Failure> {
        let AskState::Body(left) = self.state else { return Err(self.fail(Failure::Unexpected)) };
        match left.checked_sub(count) {
            None => Err(self.fail(Failure::Unexpected)),
            Some(0) => {
                self.state = AskState::Over;
                Ok(())
            }
            Some(left) => {
                self.state = AskState::Body(left);
                Ok(())
            }
        }
    }

    /// The stream ended, or the lease.
    pub fn end(&mut self, late: bool) -> Result<(), Failure> {
        let left = match self.state {
            AskState::Over => return Ok(()),
            AskState::Body(left) => left,
            AskState::Asked(_) => self.wanted.length(),
        };
        Err(self.fail(if late { Failure::Late } else { Failure::Short { left } }))
    }

    fn fail(&mut self, why: Failure) -> Failure {
        self.state = AskState::Over;
        why
    }
}

/// The serving side.
#[derive(Debug, Default)]
pub struct Serving {
    state: ServeState,
    id: MessageId,
}

#[derive(Debug)]
enum ServeState {
    Waiting(Frames),
    Deciding(Wanted),
    Sending(u64),
    Over,
}

impl Default for ServeState {
    fn default() -> Self {
        Self::Waiting(Frames::default())
    }
}

/// What became of a request's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// More are wanted.
    More,
    /// Decide: [`Serving::grant`] or [`Serving::refuse`].
    Decide(Wanted),
    /// These bytes, then the end: it cannot be.
    Refuse(Vec<u8>),
}

impl Serving {
    /// Bytes of the request to read next; 0 once it is there.
    pub fn wants(&self) -> usize {
        match &self.state {
            ServeState::Waiting(frames) => frames.wanted(),
            ServeState::Deciding(_) | ServeState::Sending(_) | ServeState::Over => 0,
        }
    }

    /// Whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        matches!(self.state, ServeState::Over)
    }

    /// Bytes of the request came.
    ///
    /// # Errors
    /// They are none: a violation.
    pub fn request(&mut self, bytes: &[u8]) -> Result<Served, Failure> {
        let ServeState::Waiting(frames) = &mut self.state else { return Err(self.fail(Failure::Unexpected)) };
        let Frame { id, message } = match frames.feed(bytes) {
            Ok(None) => return Ok(Served::More),
            Ok(Some(frame)) => frame,
            Err(error) => return Err(self.fail(error.into())),
        };
        let wanted = match message {
            Some(Message::PieceList(content, size)) => Wanted::PieceList(content, size),
            Some(Message::Chunk(chunk)) => Wanted::Chunk(chunk),
            Some(_) | None => return Err(self.fail(Failure::Unexpected)),
        };
        self.id = id;
        self.state = ServeState::Deciding(wanted);
        if wanted.is_possible() {
            Ok(Served::Decide(wanted))
        } else {
            Ok(Served::Refuse(self.refuse(ErrorCode::InvalidRange)))
        }
    }

    /// Grants the request: the bytes before the body. Empty when there is nothing to grant.
    pub fn grant(&mut self) -> Vec<u8> {
        let ServeState::Deciding(wanted) = self.state else { return Vec::new() };
        self.state = ServeState::Sending(wanted.length());
        Message::Granted(wanted.length()).encode(self.id)
    }

    /// Refuses the request: all the bytes there will be. Empty when there is nothing to refuse.
    pub fn refuse(&mut self, code: ErrorCode) -> Vec<u8> {
        let ServeState::Deciding(_) = self.state else { return Vec::new() };
        self.state = ServeState::Over;
        Message::Refused(code).encode(self.id)
    }

    /// Bytes of the body still to be sent.
    pub fn left(&self) -> u64 {
        match self.state {
            ServeState::Sending(left) => left,
            ServeState::Waiting(_) | ServeState::Deciding(_) | ServeState::Over => 0,
        }
    }

    /// So many bytes of the body were sent.
    ///
    /// # Errors
    /// More than were granted.
    pub fn sent(&mut self, count: u64) -> Result<(), Failure> {
        let ServeState::Sending(left) = self.state else { return Err(self.fail(Failure::Unexpected)) };
        match left.checked_sub(count) {
            None => Err(self.fail(Failure::Unexpected)),
            Some(0) => {
                self.state = ServeState::Over;
                Ok(())
            }
            Some(left) => {
                self.state = ServeState::Sending(left);
                Ok(())
            }
        }
    }

    /// The stream broke, or the request did not come in time.
    pub fn end(&mut self) {
        self.state = ServeState::Over;
    }

    fn fail(&mut self, why: Failure) -> Failure {
        self.state = ServeState::Over;
        why
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
