//! The file a worker was given, read once: every byte that passes is hashed on the way, in order, as far as reading goes
//! without gaps. Demuxers may jump; what they jumped over is read and hashed at the end, still from the same open file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd as _;

use sha2::{Digest as _, Sha256};
use symphonia::core::io::MediaSource;

use super::pulse::Pulse;
use super::wire::Wanted;
use crate::model::id::ContentHash;

/// Bytes that `Measured::head_sha256` covers.
const HEAD: u64 = 32 * 1024;
/// Bytes read at once when nobody but the hashes wants them.
const STEP: usize = 64 * 1024;

/// The file and its running hashes.
pub(super) struct Input<'p> {
    file: &'p File,
    len: u64,
    at: u64,
    /// Up to here every byte was hashed.
    hashed: u64,
    content: blake3::Hasher,
    whole: Sha256,
    head: Sha256,
    pulse: &'p mut Pulse,
    wanted: Wanted,
    /// Where four bytes are shown as `free`, which makes a demuxer read over a box; hashed are the real ones.
    hidden: Vec<u64>,
}

/// What the bytes came to.
pub(super) struct Hashes {
    pub(super) content: ContentHash,
    pub(super) whole: [u8; 32],
    pub(super) head: [u8; 32],
    pub(super) len: u64,
}

impl<'p> Input<'p> {
    /// A file from its beginning; `len` bytes long.
    pub(super) fn new(file: &'p File, len: u64, wanted: Wanted, pulse: &'p mut Pulse) -> Self {
        Self {
            file,
            len,
            at: 0,
            hashed: 0,
            content: blake3::Hasher::new(),
            whole: Sha256::new(),
            head: Sha256::new(),
            pulse,
            wanted,
            hidden: Vec::new(),
        }
    }

    /// Shows the box types at these places as `free` from now on.
    pub(super) fn hide(&mut self, types: Vec<u64>) {
        self.hidden = types;
    }

    /// Its length in bytes when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What is to be made of its sound.
    pub(super) fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// Reads at a place without moving or hashing: for headers that are looked at ahead of time.
    pub(super) fn peek(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let from = at.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
            let n = rustix::io::retry_on_intr(|| rustix::io::pread(self.file.as_fd(), &mut *rest, from))?;
            if n == 0 {
                break;
            }
            filled += n;
        }
        self.pulse.beat(filled)?;
        Ok(filled)
    }

    /// Reads what was left out, and says what everything came to.
    pub(super) fn finish(mut self) -> io::Result<Hashes> {
        self.at = self.hashed;
        let mut buffer = vec![0; STEP];
        while self.read(&mut buffer)? > 0 {}
        Ok(Hashes {
            content: ContentHash(*self.content.finalize().as_bytes()),
            whole: self.whole.finalize().into(),
            head: self.head.finalize().into(),
            len: self.hashed,
        })
    }

    fn hash(&mut self, bytes: &[u8]) {
        let left = usize::try_from(HEAD.saturating_sub(self.hashed)).unwrap_or(usize::MAX);
        self.head.update(&bytes[..bytes.len().min(left)]);
        self.whole.update(bytes);
        self.content.update(bytes);
        self.hashed += bytes.len() as u64;
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(self.file.as_fd(), &mut *buffer, self.at))?;
        let from = self.hashed.checked_sub(self.at).and_then(|seen| usize::try_from(seen).ok());
        if let Some(new) = from.and_then(|from| buffer.get(from..read)) {
            self.hash(new);
        }
        for hidden in &self.hidden {
            for (place, byte) in (*hidden..).zip(b"free") {
                let inside = place.checked_sub(self.at).and_then(|at| usize::try_from(at).ok());
                if let Some(shown) = inside.filter(|at| *at < read).and_then(|at| buffer.get_mut(at)) {
                    *shown = *byte;
                }
            }
        }
        self.at += read as u64;
        self.pulse.beat(read)?;
        Ok(read)
    }
}

impl Seek for Input<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.filter(|at| *at <= i64::MAX.unsigned_abs()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl MediaSource for &mut Input<'_> {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.len)
    }
}
