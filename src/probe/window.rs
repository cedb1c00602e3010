//! A sliding view of the file for formats that are walked from the first byte to the last.

use std::io::{self, Read as _};

use super::input::Input;
use super::wire::Wanted;

/// Bytes read at once.
const STEP: usize = 64 * 1024;

/// Bytes that were read and not yet taken.
pub(super) struct Window<'w, 'p> {
    input: &'w mut Input<'p>,
    buffer: Vec<u8>,
    /// First byte not yet taken.
    start: usize,
    /// Place of that byte in the file.
    offset: u64,
    ended: bool,
    /// An `ID3v2` tag that was read over holds a picture.
    has_picture: bool,
}

impl<'w, 'p> Window<'w, 'p> {
    /// At the beginning of a file.
    pub(super) fn new(input: &'w mut Input<'p>) -> Self {
        Self { input, buffer: Vec::with_capacity(2 * STEP), start: 0, offset: 0, ended: false, has_picture: false }
    }

    /// Place in the file of the first byte not yet taken.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Length of the file.
    pub(super) fn file_len(&self) -> u64 {
        self.input.len()
    }

    /// What is to be made of the sound.
    pub(super) fn wanted(&self) -> Wanted {
        self.input.wanted()
    }

    /// All that is there, at least `len` bytes unless the file ends before.
    pub(super) fn fill(&mut self, len: usize) -> io::Result<&[u8]> {
        while self.buffer.len() - self.start < len && !self.ended {
            if self.start > 0 {
                self.buffer.drain(..self.start);
                self.start = 0;
            }
            let filled = self.buffer.len();
            self.buffer.resize(filled + STEP, 0);
            let read = self.input.read(&mut self.buffer[filled..])?;
            self.buffer.truncate(filled + read);
            self.ended = read == 0;
        }
        Ok(&self.buffer[self.start..])
    }

    /// Whether a tag that was read over holds a picture.
    pub(super) fn has_picture(&self) -> bool {
        self.has_picture
    }

    /// What is in view already.
    pub(super) fn view(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Takes bytes in view; at most as many as there are.
    pub(super) fn take(&mut self, len: usize) {
        let len = len.min(self.buffer.len() - self.start);
        self.start += len;
        self.offset += len as u64;
    }

    /// Reads over so many bytes; `false` when the file ends before.
    pub(super) fn skip(&mut self, len: u64) -> io::Result<bool> {
        let mut left = len;
        while left > 0 {
            let here = self.fill(1)?.len();
            if here == 0 {
                return Ok(false);
            }
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(here);
            self.take(step);
            left -= step as u64;
        }
        Ok(true)
    }

    /// The next bytes, taken; fails when the file ends before.
    pub(super) fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let bytes = self.fill(N)?.first_chunk().copied().ok_or(io::ErrorKind::UnexpectedEof)?;
        self.take(N);
        Ok(bytes)
    }

    /// Reads over an `ID3v2` tag, if one stands here; its length with header.
    pub(super) fn skip_id3(&mut self) -> io::Result<u64> {
        let &[b'I', b'D', b'3', major, minor, flags, a, b, c, d, ..] = self.fill(10)? else { return Ok(0) };
        if major == 0xff || minor == 0xff || (a | b | c | d) & 0x80 != 0 {
            return Ok(0);
        }
        // Four times seven bits; a footer repeats the header.
        let body = [a, b, c, d].iter().fold(0_u64, |sum, byte| (sum << 7) | u64::from(*byte));
        let len = 10 + body + if flags & 0x10 != 0 { 10 } else { 0 };
        // A frame's name, by its letters alone: texts seldom hold it, and what follows from it is little.
        let mut left = len;
        while left > 0 {
            let view = self.fill(STEP.min(usize::try_from(left).unwrap_or(STEP)))?;
            let here = view.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if here == 0 {
                break;
            }
            let found = view[..here].windows(4).any(|name| name == b"APIC" || name == b"PIC\0");
            self.has_picture |= found;
            self.take(here);
            left -= here as u64;
        }
        Ok(len)
    }
}
