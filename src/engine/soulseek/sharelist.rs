//! The browse reply, folder by folder, both ways.
//!
//! A share list (peer code 5) may be hundreds of megabytes, so it is never a message in memory. Ours is written once,
//! compressed, into whatever the shell gives ([`ShareListWriter`]) and sent from there behind [`header`]. Another user's
//! is inflated as it arrives, checked on the way and written to a spool ([`ShareListInflater`]), from which pages read a
//! folder at a time ([`ShareListReader`]). Where spools lie and how long they live is the shell's business.

mod check;
#[cfg(test)]
mod tests;

use std::io::{self, BufReader, Read, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use thiserror::Error;

use self::check::Check;
use super::frame::{FrameError, Inflater, WIDE_HEADER_LEN, Writer, check_length};
use super::peer::{RemoteFile, RemoteFolder, check_attributes, plausible_size};
use crate::model::limits::{FRAME_SHARES_OUT, INFLATED_SHARES, PATH_LEN};
use crate::model::music::{ShareCounts, WireText};

/// Wire bytes of a folder after which the reader hands out what it has, chosen: a few MiB as values.
const PART_LEN: usize = 1024 * 1024;

/// Why a share list cannot be written or read.
#[derive(Debug, Error)]
pub enum ShareListError {
    /// The shell's file or socket.
    #[error("share list: {0}")]
    Io(#[from] io::Error),
    /// The bytes are not a share list.
    #[error("share list: {0}")]
    Frame(#[from] FrameError),
    /// More folders or files were written than announced.
    #[error("share list: more entries than announced")]
    Unannounced,
    /// Fewer folders or files were written than announced.
    #[error("share list: {folders} folders and {files} files less than announced")]
    Missing {
        /// Folders not begun.
        folders: u32,
        /// Files of the last folder not written.
        files: u32,
    },
}

/// Length and code to send before a compressed list of this many bytes.
///
/// # Errors
/// `FrameTooLong` for a list that others would refuse.
pub fn header(compressed_len: u64) -> Result<[u8; WIDE_HEADER_LEN], FrameError> {
    let length = u32::try_from(compressed_len.saturating_add(4)).unwrap_or(u32::MAX);
    check_length(length, FRAME_SHARES_OUT)?;
    let mut header = [0; WIDE_HEADER_LEN];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..].copy_from_slice(&5_u32.to_le_bytes());
    Ok(header)
}

/// Writes our share list, compressed. The order of calls is that of the bytes: `folder`, then its files, and so on.
pub struct ShareListWriter<W: Write> {
    out: ZlibEncoder<W>,
    folders_left: u32,
    files_left: u32,
}

impl<W: Write> ShareListWriter<W> {
    /// Begins a list of so many folders.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(out: W, folder_count: u32) -> Result<Self, ShareListError> {
        let mut out = ZlibEncoder::new(out, Compression::default());
        out.write_all(&folder_count.to_le_bytes())?;
        Ok(Self { out, folders_left: folder_count, files_left: 0 })
    }

    /// Begins a folder of so many files.
    ///
    /// # Errors
    /// `Unannounced` or `Missing` when the counts given before do not hold, else those of `out`.
    pub fn folder(&mut self, name: &WireText, file_count: u32) -> Result<(), ShareListError> {
        if self.files_left > 0 {
            return Err(ShareListError::Missing { folders: self.folders_left, files: self.files_left });
        }
        self.folders_left = self.folders_left.checked_sub(1).ok_or(ShareListError::Unannounced)?;
        self.files_left = file_count;
        self.write(|w| {
            w.text(name).u32(file_count);
        })
    }

    /// One file of the folder begun last: its bare name.
    ///
    /// # Errors
    /// `Unannounced` when the folder has all its files, else those of `out`.
    pub fn file(&mut self, file: &RemoteFile) -> Result<(), ShareListError> {
        self.files_left = self.files_left.checked_sub(1).ok_or(ShareListError::Unannounced)?;
        self.write(|w| file.write(w))
    }

    fn write(&mut self, fill: impl FnOnce(&mut Writer)) -> Result<(), ShareListError> {
        let mut w = Writer::body();
        fill(&mut w);
        Ok(self.out.write_all(&w.finish())?)
    }

    /// Ends the list, without private folders.
    ///
    /// # Errors
    /// `Missing` when something announced was not written, else those of `out`.
    pub fn finish(mut self) -> Result<W, ShareListError> {
        if self.folders_left > 0 || self.files_left > 0 {
            return Err(ShareListError::Missing { folders: self.folders_left, files: self.files_left });
        }
        self.write(|w| {
            // A number of unknown meaning, always 0, and the count of private folders.
            w.u32(0).u32(0);
        })?;
        Ok(self.out.finish()?)
    }
}

/// Inflates another user's share list as it arrives and checks it on the way, so that a spool is always readable.
pub struct ShareListInflater<W: Write> {
    inflater: Inflater,
    check: Check,
    out: W,
}

impl<W: Write> ShareListInflater<W> {
    /// Inflates into `out`, at most `limits::INFLATED_SHARES` bytes.
    pub fn new(out: W) -> Self {
        Self::with_limit(out, INFLATED_SHARES)
    }

    /// Inflates into `out`, at most `length_max` bytes.
    pub fn with_limit(out: W, length_max: u64) -> Self {
        Self { inflater: Inflater::new(length_max), check: Check::new(length_max), out }
    }

    /// Takes the next bytes of the body.
    ///
    /// # Errors
    /// When they are damaged, inflate to too much, are no share list, or `out` fails. Nothing more can be pushed then.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), ShareListError> {
        let Self { inflater, check, out } = self;
        inflater.push(chunk, |piece| {
            check.push(piece)?;
            Ok(out.write_all(piece)?)
        })
    }

    /// Bytes written to `out` so far.
    pub fn written(&self) -> u64 {
        self.inflater.written()
    }

    /// The body is over: gives back `out` and what the list holds, private folders included.
    ///
    /// # Errors
    /// When the list is not over.
    pub fn finish(self) -> Result<(W, ShareCounts), ShareListError> {
        self.inflater.finish()?;
        let counts = self.check.finish()?;
        Ok((self.out, counts))
    }
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Before the count of public folders.
    Begin,
    /// So many public folders follow.
    Public(u32),
    /// So many private folders follow.
    Private(u32),
    /// At the end, or past an error.
    Over,
}

/// Reads an inflated share list folder by folder, public ones first. A folder too large for one piece comes in several,
/// each with its name.
pub struct ShareListReader<R: Read> {
    input: BufReader<R>,
    part: Part,
    private: bool,
    /// Name of the folder being read and the number of its files to come.
    open: Option<(WireText, u32)>,
}

impl<R: Read> ShareListReader<R> {
    /// At the beginning of a list.
    pub fn new(input: R) -> Self {
        Self { input: BufReader::new(input), part: Part::Begin, private: false, open: None }
    }

    /// Whether the folder handed out last is one that only some may see.
    pub fn in_private(&self) -> bool {
        self.private
    }

    fn step(&mut self) -> Result<Option<RemoteFolder>, ShareListError> {
        if let Some((name, left)) = self.open.take() {
            return self.files(name, left).map(Some);
        }
        loop {
            self.part = match self.part {
                Part::Begin => Part::Public(self.u32()?),
                Part::Public(0) => match self.tail()?.zip(self.tail()?) {
                    Some((_unknown, count)) => Part::Private(count),
                    None => Part::Over,
                },
                Part::Public(left) => {
                    self.private = false;
                    self.part = Part::Public(left.saturating_sub(1));
                    return self.folder().map(Some);
                }
                Part::Private(0) => Part::Over,
                Part::Private(left) => {
                    self.private = true;
                    self.part = Part::Private(left.saturating_sub(1));
                    return self.folder().map(Some);
                }
                Part::Over => return Ok(None),
            };
        }
    }

    fn folder(&mut self) -> Result<RemoteFolder, ShareListError> {
        let name = self.text()?;
        let count = self.u32()?;
        self.files(name, count)
    }

    /// Files of a folder until it or the piece is full.
    fn files(&mut self, name: WireText, mut left: u32) -> Result<RemoteFolder, ShareListError> {
        let mut files = Vec::new();
        let mut length = 0_usize;
        while left > 0 {
            if length > PART_LEN {
                self.open = Some((name.clone(), left));
                break;
            }
            let file = self.file()?;
            // Each text is at most `PATH_LEN`, so the sum stays near `PART_LEN`.
            length += 21 + file.name.as_str().len() + file.extension.as_str().len() + 8 * file.attributes.len();
            files.push(file);
            left -= 1;
        }
        Ok(RemoteFolder { name, files })
    }

    fn file(&mut self) -> Result<RemoteFile, ShareListError> {
        let [code] = self.array()?;
        let name = self.text()?;
        let size = plausible_size(u64::from_le_bytes(self.array()?));
        let extension = self.text()?;
        let count = self.u32()? as usize;
        check_attributes(count)?;
        let mut attributes = Vec::with_capacity(count);
        for _ in 0..count {
            attributes.push((self.u32()?, self.u32()?));
        }
        Ok(RemoteFile { code, name, size, extension, attributes })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ShareListError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(early)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, ShareListError> {
        self.array().map(u32::from_le_bytes)
    }

    /// A number that some senders leave out.
    fn tail(&mut self) -> Result<Option<u32>, ShareListError> {
        match self.u32() {
            Err(ShareListError::Frame(FrameError::Truncated { .. })) => Ok(None),
            number => number.map(Some),
        }
    }

    fn text(&mut self) -> Result<WireText, ShareListError> {
        let length = self.u32()? as usize;
        if length > PATH_LEN {
            return Err(FrameError::TextTooLong { length, length_max: PATH_LEN }.into());
        }
        let mut bytes = vec![0; length];
        self.input.read_exact(&mut bytes).map_err(early)?;
        Ok(WireText::from_wire(&bytes))
    }
}

/// An end where bytes were due is the list's fault, not the file's.
fn early(error: io::Error) -> ShareListError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        FrameError::Truncated { missing: 1 }.into()
    } else {
        error.into()
    }
}

impl<R: Read> Iterator for ShareListReader<R> {
    type Item = Result<RemoteFolder, ShareListError>;

    fn next(&mut self) -> Option<Self::Item> {
        let folder = self.step();
        if folder.is_err() {
            self.part = Part::Over;
            self.open = None;
        }
        folder.transpose()
    }
}
