//! Changing the tags of a file, in a process of its own that may do nothing else: parsing what strangers wrote is done
//! locked in, here as in the workers. The tagger is told of one file, opens it, locks itself in, changes it in place, says
//! what its tags name now, and ends. That the file is a copy, and what becomes of it, is left to who asks.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use lofty::ape::ApeTag;
use lofty::config::{GlobalOptions, ParseOptions, WriteOptions, apply_global_options};
use lofty::file::{AudioFile as _, FileType};
use lofty::flac::FlacFile;
use lofty::id3::v2::Id3v2Version;
use lofty::mp4::Mp4File;
use lofty::mpeg::MpegFile;
use lofty::ogg::{OggPictureStorage as _, OpusFile, VorbisFile};
use lofty::probe::Probe;
use lofty::tag::{Accessor as _, ItemKey, TagType};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::sandbox;
use super::sheaf::{Named, Sheaf, fresh, items};
use super::text::clip;
use crate::model::limits;
use crate::model::sheet::Sheet;

/// The hidden subcommand that makes this program a tagger.
pub const TAGGER_COMMAND: &str = "tagger";
/// Between two looks whether the answer is still wanted.
const LOOK: Duration = Duration::from_millis(250);
/// Bytes of an Ogg page before its lacing values.
const PAGE_LEN: usize = 27;

/// What is to be done with a file's tags.
#[derive(Clone, Copy, Debug)]
pub enum Deed<'a> {
    /// Nothing; only what they name is asked.
    Read,
    /// Set them; others stay.
    Write(&'a Sheet),
    /// Replace them by those of this file, pictures included; what tells of the file's own sound stays.
    Carry(&'a Path),
}

/// Why a file's tags were not changed.
#[derive(Debug, Error)]
pub enum TagError {
    /// Something about the file.
    #[error("{0}")]
    Refused(String),
    /// Something about the machine.
    #[error("its tags cannot be worked on here: {0}")]
    Machine(#[from] io::Error),
    /// Nobody waits for it any more.
    #[error("it was stopped")]
    Stopped,
}

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    file: Vec<u8>,
    sheet: Option<Sheet>,
    source: Option<Vec<u8>>,
}

/// Changes tags in processes of its own.
#[derive(Clone, Debug)]
pub struct Tagger {
    exe: PathBuf,
}

impl Tagger {
    /// Each is `exe tagger`.
    pub fn new(exe: PathBuf) -> Self {
        Self { exe }
    }

    /// Does something with the tags of a file, in place, and says what they name afterwards. After an error the file may be
    /// in any state. Waits for it; `stop` is asked now and then.
    ///
    /// # Errors
    /// See [`TagError`].
    pub fn work(&self, file: &Path, deed: Deed<'_>, stop: &(dyn Fn() -> bool + Sync)) -> Result<Named, TagError> {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let (sheet, source) = match deed {
            Deed::Read => (None, None),
            Deed::Write(sheet) => (Some(sheet.clone()), None),
            Deed::Carry(source) => (None, Some(bytes(source))),
        };
        let order = postcard::to_allocvec(&Order { file: bytes(file), sheet, source }).map_err(io::Error::other)?;
        if order.len() > limits::TAG_ORDER_LEN {
            return Err(TagError::Refused("its tags would be too long".to_owned()));
        }
        let (mut ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(LOOK))?;
        // It dies with the thread that started it, which waits here.
        let mut child = Command::new(&self.exe)
            .arg(TAGGER_COMMAND)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let heard = ours.write_all(&order).and_then(|()| ours.shutdown(std::net::Shutdown::Write));
        let heard = heard.map_err(TagError::from).and_then(|()| hear(&mut ours, stop));
        if heard.is_err() {
            // Fails only when it has ended already.
            let _ = child.kill();
        }
        let status = child.wait()?;
        let answer: Option<Result<Named, String>> = postcard::from_bytes(&heard?).ok();
        match answer {
            Some(answer) => answer.map_err(|why| TagError::Refused(clip(&why).to_owned())),
            None => Err(TagError::Refused(format!("its tags took too much, the tagger ended with {status}"))),
        }
    }
}

/// What it says, to its end.
fn hear(socket: &mut UnixStream, stop: &(dyn Fn() -> bool + Sync)) -> Result<Vec<u8>, TagError> {
    let mut answer = Vec::new();
    let mut part = [0; 1_024];
    loop {
        match socket.read(&mut part) {
            Ok(0) => return Ok(answer),
            Ok(read) => answer.extend_from_slice(part.get(..read).unwrap_or_default()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // It ended without having read all.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(answer),
            Err(error) => return Err(error.into()),
        }
        if stop() {
            return Err(TagError::Stopped);
        }
        if answer.len() > limits::TAG_ORDER_LEN {
            return Err(TagError::Refused("the tagger's answer made no sense".to_owned()));
        }
    }
}

/// The hidden command: standard input is the socket.
pub fn run() -> ExitCode {
    // What a hostile file makes a parser say belongs in no log.
    panic::set_hook(Box::new(|_| {}));
    let Ok(socket) = rustix::io::dup(rustix::stdio::stdin()) else { return ExitCode::FAILURE };
    let mut socket = UnixStream::from(socket);
    let answer = obey(&mut socket);
    let sent = postcard::to_allocvec(&answer).map_err(io::Error::other).and_then(|answer| socket.write_all(&answer));
    if sent.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn obey(socket: &mut UnixStream) -> Result<Named, String> {
    let said = |error: io::Error| format!("it cannot be opened: {error}");
    let mut order = Vec::new();
    socket.take(limits::TAG_ORDER_LEN as u64).read_to_end(&mut order).map_err(said)?;
    let order: Order = postcard::from_bytes(&order).map_err(|error| error.to_string())?;
    let open = |path: Vec<u8>, write: bool| {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).unwrap_or(0);
        OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(flags)
            .open(PathBuf::from(std::ffi::OsString::from_vec(path)))
    };
    let is_deed = order.sheet.is_some() || order.source.is_some();
    let mut file = open(order.file, is_deed).map_err(said)?;
    let source = order.source.map(|path| open(path, false)).transpose().map_err(said)?;
    let len = |file: &File| rustix::fs::fstat(file).map(|found| u64::try_from(found.st_size).unwrap_or(0));
    let all = len(&file).and_then(|own| Ok(own.saturating_add(source.as_ref().map_or(Ok(0), len)?)));
    let all = all.map_err(|error| said(error.into()))?;
    let most = len(&file).map_err(|error| said(error.into()))?.saturating_add(limits::TAG_GROWTH);
    sandbox::enter_to_write(most).and_then(|()| sandbox::grant_cpu(all)).map_err(|error| error.to_string())?;
    let deed = panic::catch_unwind(AssertUnwindSafe(|| match (&order.sheet, &source) {
        (Some(sheet), _) => write(&mut file, sheet),
        (None, Some(source)) => carry(&mut file, source),
        (None, None) => named(&file),
    }));
    deed.unwrap_or_else(|_| Err("its tags are such that the parser failed".to_owned()))
}

/// A file taken apart, its tags beside it.
enum Media {
    Flac(FlacFile),
    Mpeg(MpegFile),
    Mp4(Mp4File),
    Vorbis(VorbisFile),
    Opus(OpusFile),
}

/// What the tags of an open file name.
pub(super) fn named(file: &File) -> Result<Named, String> {
    open(file).map(|(_, sheaf)| sheaf.named())
}

/// Sets tags.
pub(super) fn write(file: &mut File, sheet: &Sheet) -> Result<Named, String> {
    let (mut media, mut sheaf) = open(file)?;
    let items = items(sheet, sheaf.totals());
    sheaf.set(&items);
    media.echo(&items);
    media.save(file, sheaf)?;
    named(file)
}

/// Takes all tags of another file over.
pub(super) fn carry(file: &mut File, source: &File) -> Result<Named, String> {
    let (_, others) = open(source)?;
    let (mut media, own) = open(file)?;
    let sheaf = own.taking(others);
    media.echo(&sheaf.main_items());
    media.save(file, sheaf)?;
    named(file)
}

fn options() -> ParseOptions {
    ParseOptions::new().read_properties(false)
}

fn open(file: &File) -> Result<(Media, Sheaf), String> {
    let mut global = GlobalOptions::new().use_custom_resolvers(false).allocation_limit(limits::TAG_ITEM_LEN);
    apply_global_options(global.preserve_format_specific_items(false));
    let unread = |error: io::Error| format!("it cannot be read: {error}");
    let odd = |error: lofty::error::FileParseError| format!("its tags cannot be read: {error}");
    let mut reader = BufReader::new(file);
    reader.rewind().map_err(unread)?;
    let kind = Probe::new(&mut reader).options(options()).guess_file_type();
    let kind = kind.map_err(|error| format!("it cannot be read: {error}"))?.file_type();
    reader.rewind().map_err(unread)?;
    // Lofty looks for a frame of MPEG in whatever it does not know, and would put an ID3v2 tag in front of it.
    let is_mpeg = matches!(reader.fill_buf().map_err(unread)?, [b'I', b'D', b'3', ..] | [0xff, 0xe0..=0xff, ..]);
    Ok(match kind {
        Some(FileType::Flac) => {
            let mut flac = FlacFile::read_from(&mut reader, options()).map_err(odd)?;
            // Not FLAC's own: lofty would not write it, and it stays where it is.
            flac.remove_id3v2();
            let mut tag = flac.remove_vorbis_comments().unwrap_or_default();
            for (picture, known) in flac.remove_pictures() {
                // Fails only when it has to find out what is known.
                let _ = tag.insert_picture(picture, Some(known));
            }
            (Media::Flac(flac), Sheaf::Vorbis(tag))
        }
        Some(FileType::Mpeg) if is_mpeg => {
            let mut mpeg = MpegFile::read_from(&mut reader, options()).map_err(odd)?;
            let tag = mpeg.remove_id3v2().unwrap_or_default();
            (Media::Mpeg(mpeg), Sheaf::Id3(Box::new(tag)))
        }
        Some(FileType::Mp4) => {
            let mut mp4 = Mp4File::read_from(&mut reader, options()).map_err(odd)?;
            let tag = mp4.remove_ilst().unwrap_or_default();
            (Media::Mp4(mp4), Sheaf::Items(tag))
        }
        Some(FileType::Vorbis) => {
            let mut ogg = VorbisFile::read_from(&mut reader, options()).map_err(odd)?;
            let tag = ogg.remove_vorbis_comments();
            (Media::Vorbis(ogg), Sheaf::Vorbis(tag))
        }
        Some(FileType::Opus) => {
            let mut ogg = OpusFile::read_from(&mut reader, options()).map_err(odd)?;
            let tag = ogg.remove_vorbis_comments();
            (Media::Opus(ogg), Sheaf::Vorbis(tag))
        }
        _ => return Err("tags of its format are not written".to_owned()),
    })
}

impl Media {
    /// Tells older tags of the file, where there are any, what its own are to say, so that they do not contradict.
    fn echo(&mut self, items: &[(ItemKey, String)]) {
        let Self::Mpeg(mpeg) = self else { return };
        if let Some(ape) = mpeg.ape_mut() {
            for item in ApeTag::from(fresh(TagType::Ape, items)) {
                ape.insert(item);
            }
        }
        let Some(old) = mpeg.id3v1_mut() else { return };
        for (key, text) in items {
            match key {
                ItemKey::TrackTitle => old.set_title(text.clone()),
                ItemKey::TrackArtist => old.set_artist(text.clone()),
                ItemKey::AlbumTitle => old.set_album(text.clone()),
                ItemKey::TrackNumber => {
                    // It has room for one byte.
                    if let Ok(track) = text.parse::<u8>() {
                        old.set_track(track.into());
                    }
                }
                _ => {}
            }
        }
    }

    fn save(self, file: &mut File, sheaf: Sheaf) -> Result<(), String> {
        let unread = |error: io::Error| format!("it cannot be read: {error}");
        let len = rustix::fs::fstat(&*file).map_err(|error| unread(error.into()))?.st_size;
        let is_whole = match &self {
            Self::Flac(_) => false,
            Self::Mpeg(mpeg) => mpeg.ape().is_some(),
            Self::Mp4(_) | Self::Vorbis(_) | Self::Opus(_) => true,
        };
        if is_whole && u64::try_from(len).is_ok_and(|len| len > limits::TAG_WHOLE_LEN) {
            return Err(format!("with {len} bytes it is too large to be given tags"));
        }
        if matches!(self, Self::Vorbis(_) | Self::Opus(_)) && !is_one_stream(file).map_err(unread)? {
            return Err("it holds several streams".to_owned());
        }
        file.rewind().map_err(unread)?;
        let mut options = WriteOptions::new();
        let saved = match (self, sheaf) {
            (Self::Flac(mut flac), Sheaf::Vorbis(tag)) => {
                flac.set_vorbis_comments(tag);
                flac.save_to(file, options)
            }
            (Self::Mpeg(mut mpeg), Sheaf::Id3(tag)) => {
                // Players that know only the older version go on knowing it.
                options.use_id3v23(tag.original_version() == Id3v2Version::V3);
                mpeg.set_id3v2(*tag);
                mpeg.save_to(file, options)
            }
            (Self::Mp4(mut mp4), Sheaf::Items(tag)) => {
                mp4.set_ilst(tag);
                mp4.save_to(file, options)
            }
            // Their padding would be 64 KiB.
            (Self::Vorbis(mut ogg), Sheaf::Vorbis(tag)) => {
                ogg.set_vorbis_comments(tag);
                ogg.save_to(file, options.preferred_padding(0))
            }
            (Self::Opus(mut ogg), Sheaf::Vorbis(tag)) => {
                ogg.set_vorbis_comments(tag);
                ogg.save_to(file, options.preferred_padding(0))
            }
            _ => return Err("tags of its format are not written".to_owned()),
        };
        saved.map_err(|error| format!("its tags cannot be written: {error}"))
    }
}

/// Whether the pages of an Ogg file are all of one stream: of others lofty would change the numbers.
fn is_one_stream(file: &File) -> io::Result<bool> {
    let mut reader = BufReader::new(file);
    reader.rewind()?;
    let mut serial = None;
    while reader.fill_buf()?.first() == Some(&b'O') {
        let mut head = [0; PAGE_LEN];
        let mut lacing = [0; 255];
        let lacing = match reader.read_exact(&mut head).and_then(|()| {
            let lacing = lacing.get_mut(..usize::from(head[26])).unwrap_or_default();
            reader.read_exact(lacing)?;
            Ok(lacing)
        }) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(true),
            read => read?,
        };
        let (number, is_first) = ([head[14], head[15], head[16], head[17]], head[5] & 2 != 0);
        if serial.is_some_and(|serial| serial != number || is_first) {
            return Ok(false);
        }
        serial = Some(number);
        reader.seek_relative(lacing.iter().map(|part| i64::from(*part)).sum())?;
    }
    Ok(true)
}

#[cfg(test)]
#[path = "tagger_tests.rs"]
mod tests;
