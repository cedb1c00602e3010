//! Checksums that containers carry: FLAC frames (RFC 9639) and Ogg pages (RFC 3533), walked without decoding.
//!
//! Decides whether bytes of two users, joined behind an overlap, still make one undamaged file (RELIABILITY-FACTS 3,
//! rung C). It finds accidents and mixed sources; it proves nothing against the author of a fake. Formats without such
//! checksums are left to the rule that they are never joined.

mod flac;
mod ogg;

use thiserror::Error;

pub use flac::{FlacCheck, FlacHeader, flac_header};
pub(crate) use flac::{crc8, crc16};
pub use ogg::{OggCheck, ogg_page_sum};

/// Bytes taken at once, so that memory stays bounded whatever a caller feeds.
const CHUNK: usize = 64 * 1024;

/// Why a file fails its own checksums. Offsets are bytes from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CheckError {
    /// No marker of the format at the beginning.
    #[error("no {format} marker at byte {offset}")]
    NoMarker {
        /// Which format.
        format: &'static str,
        /// Where it should be.
        offset: u64,
    },
    /// FLAC: a metadata block that cannot be.
    #[error("impossible metadata block at byte {offset}")]
    Metadata {
        /// Where it begins.
        offset: u64,
    },
    /// FLAC: no valid frame header where the first frame should be.
    #[error("no frame header at byte {offset}")]
    NoFrame {
        /// Where it should be.
        offset: u64,
    },
    /// FLAC: from here on no frame ends with a right checksum before the next one in order begins.
    #[error("damaged frame at byte {offset}")]
    Frame {
        /// Where it begins.
        offset: u64,
    },
    /// FLAC: a whole frame, but not the one that is next in order.
    #[error("frame out of order at byte {offset}")]
    Order {
        /// Where it begins.
        offset: u64,
    },
    /// FLAC: the frames hold another number of samples than the file's header says.
    #[error("{found} samples instead of {wanted}")]
    Samples {
        /// Sum over the frames.
        found: u64,
        /// STREAMINFO.
        wanted: u64,
    },
    /// Ogg: the page's checksum is wrong.
    #[error("damaged page at byte {offset}")]
    Page {
        /// Where it begins.
        offset: u64,
    },
    /// Ogg: a page is missing, doubled or out of order in its stream.
    #[error("page {found} instead of {wanted} at byte {offset}")]
    Sequence {
        /// Where the page begins.
        offset: u64,
        /// Its number.
        found: u32,
        /// The number in order.
        wanted: u32,
    },
    /// Ogg: a stream that never began, or more streams at once than a file can need.
    #[error("unexpected stream at byte {offset}")]
    Stream {
        /// Where the page begins.
        offset: u64,
    },
    /// The file ends within something.
    #[error("the file ends within what begins at byte {offset}")]
    Truncated {
        /// Where that begins.
        offset: u64,
    },
}

/// A running check: feed the file from its beginning, then finish.
#[derive(Debug)]
pub enum Check {
    /// FLAC.
    Flac(FlacCheck),
    /// Ogg: Vorbis, Opus, Speex or FLAC inside.
    Ogg(OggCheck),
}

impl Check {
    /// The check for files with this extension (any case, no dot); `None` where the format has no checksums we know.
    pub fn for_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "flac" => Some(Self::Flac(FlacCheck::new())),
            "ogg" | "oga" | "opus" | "spx" => Some(Self::Ogg(OggCheck::new())),
            _ => None,
        }
    }

    /// The next bytes of the file.
    ///
    /// # Errors
    /// What is wrong, as soon as it is certain. The check is over then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), CheckError> {
        bytes.chunks(CHUNK).try_for_each(|chunk| match self {
            Self::Flac(check) => check.feed(chunk),
            Self::Ogg(check) => check.feed(chunk),
        })
    }

    /// The file ends here.
    ///
    /// # Errors
    /// What is wrong with the whole.
    pub fn finish(self) -> Result<(), CheckError> {
        match self {
            Self::Flac(check) => check.finish(),
            Self::Ogg(check) => check.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_formats_with_checksums_can_be_checked() {
        for name in ["flac", "FLAC"] {
            assert!(matches!(Check::for_extension(name), Some(Check::Flac(_))), "{name}");
        }
        for name in ["ogg", "oga", "Opus"] {
            assert!(matches!(Check::for_extension(name), Some(Check::Ogg(_))), "{name}");
        }
        for name in ["mp3", "wav", "m4a", "", "flac2"] {
            assert!(Check::for_extension(name).is_none(), "{name}");
        }
    }
}
