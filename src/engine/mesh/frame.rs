//! Frames: `version u8, kind u16, message id [16], body length u32, body`, little-endian, the body in postcard
//! (DECISIONS 7).
//!
//! A kind never changes its form; new fields are a new kind. Unknown kinds are passed over by their length. A frame is at
//! most `limits::MESH_FRAME` bytes long, which is compared before anything is kept. What follows a frame on the wire is
//! never read by it: [`Frames::wanted`] says how many bytes may be read next.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::control::Sealed;
use crate::model::id::ContentHash;
use crate::model::limits;

/// The version of the frame itself; another one is refused.
pub const FRAME_VERSION: u8 = 1;
/// Bytes before the body.
pub const HEADER_LEN: usize = 23;
/// Longest body, bytes.
pub const BODY_LEN: usize = limits::MESH_FRAME - HEADER_LEN;

/// What joins a question and its answer.
pub type MessageId = [u8; 16];

/// Why bytes are not a frame. Each of them ends the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another version of the frame.
    #[error("frame version {0} is not known")]
    Version(u8),
    /// Longer than allowed.
    #[error("a frame body of {length} bytes is longer than {length_max}")]
    TooLong {
        /// As announced.
        length: u32,
        /// The most there may be.
        length_max: usize,
    },
    /// The body is not of its kind's form.
    #[error("the body of a frame of kind {0} is malformed")]
    Malformed(u16),
}

/// First words of both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest version of the protocol that is spoken; the lower one of both is used.
    pub version: u16,
    /// Random. The listener repeats the dialler's in `echo`.
    pub nonce: u64,
    /// The dialler's `nonce`; 0 from the dialler.
    pub echo: u64,
    /// Abilities, separated by spaces; unknown ones are ignored. See [`features`].
    pub features: String,
    /// Program and version, for people.
    pub software: String,
    /// UDP port the sender listens on; 0 if on none.
    pub port: u16,
    /// Soulseek user name: a claim; empty without one.
    pub username: String,
}

/// A run of bytes is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRequest {
    /// Of this file.
    pub content: ContentHash,
    /// First byte; a multiple of the piece length.
    pub offset: u64,
    /// Bytes, at most [`super::exchange::CHUNK_LEN`].
    pub length: u32,
    /// 0 to 10; 5 is normal.
    pub priority: u8,
    /// Milliseconds after which the answer is of no use.
    pub deadline_ms: u32,
}

/// Why a request is not answered (SPEC-FACTS 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ErrorCode {
    /// All slots are taken; later perhaps.
    RateLimited,
    /// There is no such file here.
    NotFound,
    /// The disk failed.
    IoError,
    /// This peer gets nothing.
    PolicyViolation,
    /// It took too long.
    Timeout,
    /// Not a run of this file, or too long.
    InvalidRange,
}

impl ErrorCode {
    /// As SPEC-FACTS 10 writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::NotFound => "not_found",
            Self::IoError => "io_error",
            Self::PolicyViolation => "policy_violation",
            Self::Timeout => "timeout",
            Self::InvalidRange => "invalid_range",
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// First words.
    Hello(Hello),
    /// Are you there?
    Ping,
    /// Yes; with the id of the `Ping`.
    Pong,
    /// Do you share this file?
    Query(ContentHash),
    /// Its length if so; with the id of the `Query`.
    Holding(Option<u64>),
    /// About recordings: kinds 6 to 15, see [`super::control`].
    Control(Sealed),
    /// Alone on its stream: the piece list of a file of this length.
    PieceList(ContentHash, u64),
    /// Alone on its stream: a run of bytes.
    Chunk(ChunkRequest),
    /// The request is granted: so many raw bytes follow the frame.
    Granted(u64),
    /// It is not.
    Refused(ErrorCode),
}

impl Message {
    /// The number on the wire.
    pub fn kind(&self) -> u16 {
        match self {
            Self::Hello(_) => 1,
            Self::Ping => 2,
            Self::Pong => 3,
            Self::Query(_) => 4,
            Self::Holding(_) => 5,
            Self::Control(sealed) => sealed.kind(),
            Self::PieceList(..) => 16,
            Self::Chunk(_) => 17,
            Self::Granted(_) => 18,
            Self::Refused(_) => 19,
        }
    }

    /// The whole frame.
    pub fn encode(&self, id: MessageId) -> Vec<u8> {
        let mut frame = vec![0; HEADER_LEN];
        frame[0] = FRAME_VERSION;
        frame[1..3].copy_from_slice(&self.kind().to_le_bytes());
        frame[3..19].copy_from_slice(&id);
        let mut frame = match self {
            Self::Hello(hello) => body(frame, hello),
            Self::Ping | Self::Pong => frame,
            Self::Query(content) => body(frame, content),
            Self::Holding(size) => body(frame, size),
            Self::Control(sealed) => {
                frame.extend_from_slice(sealed.body());
                frame
            }
            Self::PieceList(content, size) => body(frame, &(content, size)),
            Self::Chunk(request) => body(frame, request),
            Self::Granted(length) => body(frame, length),
            Self::Refused(code) => body(frame, code),
        };
        let length = u32::try_from(frame.len() - HEADER_LEN).unwrap_or(u32::MAX);
        frame[19..HEADER_LEN].copy_from_slice(&length.to_le_bytes());
        frame
    }

    fn decode(kind: u16, bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        Ok(Some(match kind {
            1 => Self::Hello(whole(kind, bytes)?),
            2 => whole(kind, bytes).map(|()| Self::Ping)?,
            3 => whole(kind, bytes).map(|()| Self::Pong)?,
            4 => Self::Query(whole(kind, bytes)?),
            5 => Self::Holding(whole(kind, bytes)?),
            6..=15 => Self::Control(Sealed::check(kind, bytes)?),
            16 => whole(kind, bytes).map(|(content, size)| Self::PieceList(content, size))?,
            17 => Self::Chunk(whole(kind, bytes)?),
            18 => Self::Granted(whole(kind, bytes)?),
            19 => Self::Refused(whole(kind, bytes)?),
            _ => return Ok(None),
        }))
    }
}

/// Writing into memory fails only for forms that postcard has no words for, of which there is none here.
fn body(frame: Vec<u8>, value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, frame).unwrap_or_default()
}

fn whole<T: DeserializeOwned>(kind: u16, bytes: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(FrameError::Malformed(kind)),
    }
}

/// A frame that has come in whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What joins it to another.
    pub id: MessageId,
    /// `None`: of an unknown kind, passed over.
    pub message: Option<Message>,
}

/// Takes the bytes of a stream and finds the frames in them.
#[derive(Debug, Default)]
pub struct Frames {
    held: Vec<u8>,
    /// The length of the body, once the header is there.
    body: Option<usize>,
}

impl Frames {
    /// Bytes until the next header or frame is complete; never 0.
    pub fn wanted(&self) -> usize {
        HEADER_LEN + self.body.unwrap_or(0) - self.held.len()
    }

    /// Whether part of a frame is there.
    pub fn is_inside(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes the next bytes, at most [`Frames::wanted`]; further ones are left out. Answers the frame they complete.
    ///
    /// # Errors
    /// They are no frame. Whoever sent them is not listened to any more.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        let taken = bytes.len().min(self.wanted());
        self.held.extend_from_slice(&bytes[..taken]);
        if self.body.is_none() && self.held.len() == HEADER_LEN {
            match self.header() {
                Ok(length) => self.body = Some(length),
                Err(error) => {
                    self.held.clear();
                    return Err(error);
                }
            }
        }
        match self.body {
            Some(length) if self.held.len() == HEADER_LEN + length => {}
            _ => return Ok(None),
        }
        let frame = std::mem::take(&mut self.held);
        self.body = None;
        let kind = u16::from_le_bytes([frame[1], frame[2]]);
        let mut id = [0; 16];
        id.copy_from_slice(&frame[3..19]);
        Ok(Some(Frame { id, message: Message::decode(kind, &frame[HEADER_LEN..])? }))
    }

    fn header(&self) -> Result<usize, FrameError> {
        let h = &self.held;
        if h[0] != FRAME_VERSION {
            return Err(FrameError::Version(h[0]));
        }
        let length = u32::from_le_bytes([h[19], h[20], h[21], h[22]]);
        match usize::try_from(length) {
            Ok(body) if body <= BODY_LEN => Ok(body),
            _ => Err(FrameError::TooLong { length, length_max: BODY_LEN }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn all() -> Vec<Message> {
        let content = ContentHash([7; 32]);
        let hello = Hello {
            version: 1,
            nonce: u64::MAX,
            echo: 3,
            features: "mesh chunks".into(),
            software: "slskdn/0".into(),
            port: 50305,
            username: "ann".into(),
        };
        vec![
            Message::Hello(hello),
            Message::Ping,
            Message::Pong,
            Message::Query(content),
            Message::Holding(Some(u64::MAX)),
            Message::Holding(None),
            Message::Control(crate::engine::mesh::control::tests::advert(3).seal().unwrap()),
            Message::PieceList(content, 1 << 40),
            Message::Chunk(ChunkRequest { content, offset: 65536, length: 524_288, priority: 5, deadline_ms: 5_000 }),
            Message::Granted(12),
            Message::Refused(ErrorCode::InvalidRange),
        ]
    }

    fn feed_all(frames: &mut Frames, mut bytes: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let taken = step.min(frames.wanted()).min(bytes.len());
            found.extend(frames.feed(&bytes[..taken])?);
            bytes = &bytes[taken..];
        }
        Ok(found)
    }

    #[test]
    fn every_message_survives_the_wire_however_it_is_cut() {
        let bytes: Vec<u8> = all().iter().zip(0..).flat_map(|(m, at)| m.encode([at; 16])).collect();
        for step in [1, 2, 22, 23, 24, 1000] {
            let found = feed_all(&mut Frames::default(), &bytes, step).unwrap();
            let messages: Vec<Message> = found.iter().filter_map(|frame| frame.message.clone()).collect();
            assert_eq!(messages, all(), "{step}");
            assert!(found.iter().zip(0..).all(|(frame, at)| frame.id == [at; 16]));
        }
    }

    #[test]
    fn the_bytes_are_these() {
        let frame = Message::Holding(Some(300)).encode([9; 16]);
        let mut golden = vec![1, 5, 0];
        golden.extend([9; 16]);
        golden.extend([3, 0, 0, 0, 1, 0xac, 2]);
        assert_eq!(frame, golden);
        assert_eq!(Message::Refused(ErrorCode::NotFound).encode([0; 16])[23..], [1]);
    }

    #[test]
    fn unknown_kinds_are_passed_over() {
        let mut bytes = vec![1, 0xff, 0x7f];
        bytes.extend([1; 16]);
        bytes.extend(1000_u32.to_le_bytes());
        bytes.extend([0xaa; 1000]);
        bytes.extend(Message::Ping.encode([2; 16]));
        let found = feed_all(&mut Frames::default(), &bytes, 77).unwrap();
        assert_eq!(found[0], Frame { id: [1; 16], message: None });
        assert_eq!(found[1], Frame { id: [2; 16], message: Some(Message::Ping) });
    }

    #[test]
    fn long_frames_and_other_versions_are_refused_at_their_header() {
        let length_max = u32::try_from(BODY_LEN).unwrap();
        let mut long = Message::Ping.encode([0; 16]);
        long[19..23].copy_from_slice(&(length_max + 1).to_le_bytes());
        let refused = FrameError::TooLong { length: length_max + 1, length_max: BODY_LEN };
        assert_eq!(Frames::default().feed(&long), Err(refused));
        let mut longest = Message::Ping.encode([0; 16]);
        longest[19..23].copy_from_slice(&length_max.to_le_bytes());
        let mut frames = Frames::default();
        assert_eq!(frames.feed(&longest), Ok(None));
        assert_eq!(frames.wanted(), BODY_LEN);
        let mut other = Message::Ping.encode([0; 16]);
        other[0] = 2;
        assert_eq!(Frames::default().feed(&other), Err(FrameError::Version(2)));
    }

    #[test]
    fn cut_and_stuffed_bodies_are_refused() {
        for message in all() {
            let whole = message.encode([0; 16]);
            let body = &whole[HEADER_LEN..];
            let mut stuffed = body.to_vec();
            stuffed.push(0);
            for bytes in (0..body.len()).map(|end| &body[..end]).chain([&stuffed[..]]) {
                let decoded = Message::decode(message.kind(), bytes);
                assert_eq!(decoded, Err(FrameError::Malformed(message.kind())), "{message:?}");
            }
        }
    }
}

#[cfg(test)]
mod hostile {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_u16..24) {
            let mut frames = Frames::default();
            let mut left = &bytes[..];
            while !left.is_empty() {
                let taken = frames.wanted().min(left.len());
                if frames.feed(&left[..taken]).is_err() {
                    break;
                }
                left = &left[taken..];
            }
            let _ = Message::decode(kind, &bytes);
        }
    }
}
