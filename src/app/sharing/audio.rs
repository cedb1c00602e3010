//! What a file's header says about its sound.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use lofty::config::{GlobalOptions, ParseOptions, apply_global_options};
use lofty::file::{AudioFile as _, FileType};
use lofty::probe::Probe;

use crate::model::music::Attributes;

/// Bytes read of one file at most; a file that asks for more has no attributes. Chosen: headers with a large picture
/// in front fit.
const READ_MAX: u64 = 16 * 1024 * 1024;
/// Bytes one item of a header may take in memory.
const ITEM_MAX: usize = 1024 * 1024;
/// Bytes read at once.
const READ_STEP: usize = 16 * 1024;

/// Sets the limits of the calling thread; call once on each thread that calls [`attributes`].
pub(super) fn limit_this_thread() {
    let mut options = GlobalOptions::new().use_custom_resolvers(false).allocation_limit(ITEM_MAX);
    apply_global_options(options.preserve_format_specific_items(false));
}

/// Whether the name is one of a format whose header we read.
pub(super) fn is_audio(name: &Path) -> bool {
    file_type(name).is_some()
}

fn file_type(name: &Path) -> Option<FileType> {
    let extension = name.extension()?.to_str()?;
    FileType::from_ext(extension).filter(|kind| !matches!(kind, FileType::Custom(_)))
}

/// Reads the header of an audio file. Anything unreadable or implausible gives fewer attributes, never an error: the
/// file is shared as it is.
pub(super) fn attributes(path: &Path) -> Attributes {
    // The parser is other people's code over anybody's bytes: a panic is an unreadable header.
    let read = catch_unwind(AssertUnwindSafe(|| read(path)));
    read.ok().flatten().unwrap_or_default()
}

fn read(path: &Path) -> Option<Attributes> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).ok()?;
    // Opened without waiting: what was a file when listed may be a pipe now.
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let reader = BufReader::with_capacity(READ_STEP, Measured { file, left: READ_MAX });
    let options = ParseOptions::new().read_tags(false).read_cover_art(false);
    let kind = file_type(path)?;
    let probe = match kind {
        // One extension, several codecs.
        FileType::Vorbis => Probe::new(reader).options(options).guess_file_type().ok()?,
        _ => Probe::with_file_type(reader, kind).options(options),
    };
    let kind = probe.file_type()?;
    let tagged = probe.read().ok()?;
    let sound = tagged.properties();
    let positive = |value: Option<u32>| value.filter(|&value| value > 0);
    let duration = u32::try_from(sound.duration().as_secs()).ok();
    let depth = positive(sound.bit_depth().map(u32::from));
    let lossless = match kind {
        FileType::Flac | FileType::Wav | FileType::Aiff | FileType::Ape | FileType::WavPack => true,
        // AAC has no bit depth, ALAC has.
        FileType::Mp4 => depth.is_some(),
        _ => false,
    };
    let mut found = Attributes { duration_s: positive(duration), ..Attributes::default() };
    if lossless {
        found.sample_rate_hz = positive(sound.sample_rate());
        found.bit_depth = depth;
    } else {
        found.bitrate_kbps = positive(sound.audio_bitrate()).or(positive(sound.overall_bitrate()));
    }
    Some(found)
}

/// A file of which only so much is read.
struct Measured {
    file: File,
    left: u64,
}

impl Read for Measured {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the header is too large"));
        }
        let read = self.file.read(&mut buffer[..room])?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

impl Seek for Measured {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
