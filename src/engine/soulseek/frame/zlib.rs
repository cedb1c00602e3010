//! zlib around the bodies of share lists, search replies and folder replies, inflated in steps up to a limit.

use std::io::Write;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Decompress, FlushDecompress, Status};

use super::FrameError;

/// Bytes inflated at a time, chosen: half of zlib's window.
const STEP_LEN: usize = 16 * 1024;

/// Inflates a stream that arrives in pieces, into pieces of bounded size.
pub struct Inflater {
    stream: Decompress,
    step: Box<[u8; STEP_LEN]>,
    ended: bool,
    written: u64,
    length_max: u64,
}

impl Inflater {
    /// At most `length_max` bytes come out of it.
    pub fn new(length_max: u64) -> Self {
        Self { stream: Decompress::new(true), step: Box::new([0; STEP_LEN]), ended: false, written: 0, length_max }
    }

    /// Takes the next compressed bytes and hands on what they inflate to. Bytes after the end mark are ignored.
    ///
    /// # Errors
    /// `Inflate` and `InflatedTooLong`, or the first error of `sink`; the stream is of no use after that.
    pub fn push<E: From<FrameError>>(
        &mut self,
        mut chunk: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !self.ended {
            let (taken_before, written_before) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress(chunk, &mut self.step[..], FlushDecompress::None)
                .map_err(|_| FrameError::Inflate)?;
            // Both differences are at most the lengths of the two slices.
            let taken = usize::try_from(self.stream.total_in() - taken_before).unwrap_or(usize::MAX);
            let written = usize::try_from(self.stream.total_out() - written_before).unwrap_or(usize::MAX);
            chunk = chunk.get(taken..).unwrap_or_default();
            self.written = self.stream.total_out();
            if self.written > self.length_max {
                return Err(FrameError::InflatedTooLong { length_max: self.length_max }.into());
            }
            sink(self.step.get(..written).unwrap_or_default())?;
            self.ended = status == Status::StreamEnd;
            if taken == 0 && written == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Bytes that came out so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether the stream came to its end mark and its checksum held.
    ///
    /// # Errors
    /// `InflateTruncated` otherwise.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.ended { Ok(()) } else { Err(FrameError::InflateTruncated) }
    }
}

/// A whole compressed body, inflated. Memory grows with what really comes out and never beyond `length_max`.
///
/// # Errors
/// `Inflate`, `InflateTruncated`, `InflatedTooLong`.
pub fn inflate(compressed: &[u8], length_max: usize) -> Result<Vec<u8>, FrameError> {
    let mut inflater = Inflater::new(length_max as u64);
    let mut inflated = Vec::new();
    inflater.push(compressed, |piece| {
        if inflated.capacity() - inflated.len() < piece.len() {
            // Doubling, as a `Vec` would, but not past the limit, which the inflater has checked already.
            let room = length_max.saturating_sub(inflated.len());
            inflated.reserve_exact(inflated.len().max(piece.len()).min(room));
        }
        inflated.extend_from_slice(piece);
        Ok::<(), FrameError>(())
    })?;
    inflater.finish()?;
    Ok(inflated)
}

/// The first bytes of a compressed body, as many as fit into `prefix` or are there; the rest stays compressed.
///
/// # Errors
/// `Inflate` when damage shows that early.
pub fn inflate_prefix<'a>(mut compressed: &[u8], prefix: &'a mut [u8]) -> Result<&'a [u8], FrameError> {
    let mut stream = Decompress::new(true);
    let mut filled = 0;
    while filled < prefix.len() {
        let taken_before = stream.total_in();
        let status = stream
            .decompress(compressed, &mut prefix[filled..], FlushDecompress::None)
            .map_err(|_| FrameError::Inflate)?;
        let taken = usize::try_from(stream.total_in() - taken_before).unwrap_or(usize::MAX);
        let filled_before = filled;
        filled = usize::try_from(stream.total_out()).unwrap_or(usize::MAX).min(prefix.len());
        compressed = compressed.get(taken..).unwrap_or_default();
        if status == Status::StreamEnd || (taken == 0 && filled == filled_before) {
            break;
        }
    }
    Ok(&prefix[..filled])
}

/// A body, compressed.
pub fn deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // The one thing that can fail here is the writer below, and a `Vec` takes every byte.
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("a Vec takes every byte")
}
