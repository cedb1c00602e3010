//! Frames: the length and code before each message, the primitives inside, and zlib with a limit.
//!
//! Everything is little-endian. A frame is a `u32` length that counts the code, the code (`u32` between client and server
//! and between peers, `u8` in init and distributed messages) and a body. This room reads and writes the pieces and
//! refuses what cannot be true before it allocates for it; which piece follows which is told by `server`, `peer` and
//! `distributed`.

#[cfg(test)]
mod tests;
mod zlib;

use std::net::Ipv4Addr;

use thiserror::Error;

pub use self::zlib::{Inflater, deflate, inflate, inflate_prefix};
use crate::model::id::Token;
use crate::model::music::WireText;

/// Bytes before the body of a server or peer message: length and `u32` code.
pub const WIDE_HEADER_LEN: usize = 8;
/// Bytes before the body of an init or distributed message: length and `u8` code.
pub const NARROW_HEADER_LEN: usize = 5;

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length says more than this code may have.
    #[error("a frame of {length} bytes where at most {length_max} are allowed")]
    FrameTooLong {
        /// As sent.
        length: u32,
        /// From `model::limits`.
        length_max: u32,
    },
    /// The length does not even cover the code.
    #[error("a frame of {length} bytes is too short for its code")]
    FrameTooShort {
        /// As sent.
        length: u32,
    },
    /// The message ends inside a field.
    #[error("the message ends {missing} bytes too early")]
    Truncated {
        /// Bytes.
        missing: usize,
    },
    /// A text is longer than its kind may be.
    #[error("a text of {length} bytes where at most {length_max} are allowed")]
    TextTooLong {
        /// As sent.
        length: usize,
        /// From `model::limits`.
        length_max: usize,
    },
    /// A list claims more entries than the bytes after it can hold.
    #[error("a list of {count} entries in {left} bytes")]
    CountTooLarge {
        /// As sent.
        count: u32,
        /// Bytes after the count.
        left: usize,
    },
    /// A list has more entries than its kind may have.
    #[error("a list of {count} entries where at most {count_max} are allowed")]
    TooMany {
        /// As sent.
        count: u32,
        /// From `model::limits`.
        count_max: usize,
    },
    /// The compressed body is damaged.
    #[error("the compressed body is damaged")]
    Inflate,
    /// The compressed body ends before its end mark.
    #[error("the compressed body ends too early")]
    InflateTruncated,
    /// The body would inflate to more than is allowed.
    #[error("the body inflates to more than {length_max} bytes")]
    InflatedTooLong {
        /// From `model::limits`.
        length_max: u64,
    },
    /// A connection begins with something else than the two init messages.
    #[error("a connection begins with code {code}")]
    UnknownInit {
        /// As sent.
        code: u8,
    },
    /// A connection is for nothing we know.
    #[error("a connection of the unknown type {kind:?}")]
    UnknownConnectionType {
        /// As sent, in place of `P`, `F` or `D`.
        kind: String,
    },
    /// A share list (code 5) came where a whole message is decoded: it is only ever streamed.
    #[error("a share list is read as a stream, not as a message")]
    ShareListAsMessage,
}

/// Refuses a frame length before anything is allocated for it.
///
/// # Errors
/// `FrameTooLong` above `length_max`.
pub fn check_length(length: u32, length_max: u32) -> Result<(), FrameError> {
    if length > length_max { Err(FrameError::FrameTooLong { length, length_max }) } else { Ok(()) }
}

/// Code and body length of a server or peer message. `length_max` gives the longest frame of a code.
///
/// # Errors
/// `FrameTooShort` below 4, `FrameTooLong` above the code's limit.
pub fn wide_header(
    header: [u8; WIDE_HEADER_LEN],
    length_max: impl FnOnce(u32) -> u32,
) -> Result<(u32, usize), FrameError> {
    let mut reader = Reader::new(&header);
    let (length, code) = (reader.u32()?, reader.u32()?);
    check_length(length, length_max(code))?;
    let body = length.checked_sub(4).ok_or(FrameError::FrameTooShort { length })?;
    Ok((code, body as usize))
}

/// Code and body length of an init or distributed message.
///
/// # Errors
/// `FrameTooShort` for 0, `FrameTooLong` above `length_max`.
pub fn narrow_header(header: [u8; NARROW_HEADER_LEN], length_max: u32) -> Result<(u8, usize), FrameError> {
    let mut reader = Reader::new(&header);
    let (length, code) = (reader.u32()?, reader.u8()?);
    check_length(length, length_max)?;
    let body = length.checked_sub(1).ok_or(FrameError::FrameTooShort { length })?;
    Ok((code, body as usize))
}

/// Takes primitives off the front of a body.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// At the beginning of a body.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// `Truncated`, as every reading method.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let Some((bytes, rest)) = self.rest.split_at_checked(length) else {
            return Err(FrameError::Truncated { missing: length.saturating_sub(self.rest.len()) });
        };
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let Some((bytes, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(FrameError::Truncated { missing: N.saturating_sub(self.rest.len()) });
        };
        self.rest = rest;
        Ok(*bytes)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, FrameError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// One byte; everything but 0 is true.
    pub fn bool(&mut self) -> Result<bool, FrameError> {
        self.u8().map(|byte| byte != 0)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, FrameError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Four bytes with a sign.
    pub fn i32(&mut self) -> Result<i32, FrameError> {
        self.array().map(i32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, FrameError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A token.
    pub fn token(&mut self) -> Result<Token, FrameError> {
        self.u32().map(Token)
    }

    /// An address: a `u32`, so its bytes come last one first.
    pub fn ip(&mut self) -> Result<Ipv4Addr, FrameError> {
        self.u32().map(Ipv4Addr::from_bits)
    }

    /// Bytes behind their `u32` length.
    pub fn blob(&mut self) -> Result<&'a [u8], FrameError> {
        let length = self.u32()?;
        self.bytes(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// A text of at most `length_max` bytes.
    ///
    /// # Errors
    /// `TextTooLong`, even where the bytes are not there.
    pub fn text(&mut self, length_max: usize) -> Result<WireText, FrameError> {
        let length = Reader::new(self.rest).u32()? as usize;
        if length > length_max {
            return Err(FrameError::TextTooLong { length, length_max });
        }
        self.blob().map(WireText::from_wire)
    }

    /// A text of any length; of a longer one the first `kept` bytes, to a whole character.
    pub fn text_cut(&mut self, kept: usize) -> Result<WireText, FrameError> {
        let bytes = self.blob()?;
        if bytes.len() <= kept {
            return Ok(WireText::from_wire(bytes));
        }
        Ok(match std::str::from_utf8(bytes) {
            Ok(text) => {
                let end = (0..=kept).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
                WireText::from(&text[..end])
            }
            Err(_) => WireText::from_wire(&bytes[..kept]),
        })
    }

    /// How many entries follow, each of at least `entry_min` bytes.
    ///
    /// # Errors
    /// `CountTooLarge` when that many cannot be there, so a caller may allocate for the count.
    pub fn count(&mut self, entry_min: usize) -> Result<usize, FrameError> {
        let count = self.u32()?;
        let fits = (count as usize).checked_mul(entry_min).is_some_and(|needed| needed <= self.rest.len());
        if fits { Ok(count as usize) } else { Err(FrameError::CountTooLarge { count, left: self.rest.len() }) }
    }

    /// A field that some senders leave out: `None`, and nothing read, when what is left is too short for it.
    pub fn tail<T>(&mut self, field: impl FnOnce(&mut Self) -> Result<T, FrameError>) -> Option<T> {
        let mut ahead = self.clone();
        let value = field(&mut ahead).ok()?;
        *self = ahead;
        Some(value)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}

/// Writes primitives one after the other.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    framed: bool,
}

impl Writer {
    /// A body without a header, for `into_body`.
    pub fn body() -> Self {
        Self::default()
    }

    /// A server or peer message with this code.
    pub fn wide(code: u32) -> Self {
        let mut writer = Self { bytes: vec![0; 4], framed: true };
        writer.u32(code);
        writer
    }

    /// An init or distributed message with this code.
    pub fn narrow(code: u8) -> Self {
        let mut writer = Self { bytes: vec![0; 4], framed: true };
        writer.u8(code);
        writer
    }

    /// The bytes; a frame's length is filled in. Lists and texts of ours are far below 4 GiB.
    pub fn finish(mut self) -> Vec<u8> {
        if self.framed {
            let length = count_of(self.bytes.len().saturating_sub(4));
            self.bytes[..4].copy_from_slice(&length.to_le_bytes());
        }
        self.bytes
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    /// One byte, 0 or 1.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Four bytes with a sign.
    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// A token.
    pub fn token(&mut self, token: Token) -> &mut Self {
        self.u32(token.0)
    }

    /// An address, last byte first.
    pub fn ip(&mut self, ip: Ipv4Addr) -> &mut Self {
        self.u32(ip.to_bits())
    }

    /// How many entries follow.
    pub fn count(&mut self, count: usize) -> &mut Self {
        self.u32(count_of(count))
    }

    /// Bytes behind their length.
    pub fn blob(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len()).bytes(bytes)
    }

    /// A text behind its length, in the encoding it came in.
    pub fn text(&mut self, text: &WireText) -> &mut Self {
        self.blob(&text.to_wire())
    }
}

fn count_of(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
