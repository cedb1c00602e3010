//! What the tags say, by lofty, from the same open file. Pictures are never loaded.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd as _;

use lofty::config::{GlobalOptions, ParseOptions, ParsingMode, apply_global_options};
use lofty::file::TaggedFileExt as _;
use lofty::tag::{Accessor as _, ItemKey, Tag};

use super::text::kept;
use crate::model::variant::Tags;

/// Most that one item of a tag may take in memory, bytes: a picture in an Ogg comment is read before it is left out.
const ITEM_LEN: usize = 8 * 1024 * 1024;

/// Reads the tags of a file, and which program they say coded it; what cannot be read is left empty, which is no fault of
/// the sound.
pub(super) fn read(file: &File, len: u64) -> (Tags, Option<String>) {
    let global = GlobalOptions::new().allocation_limit(ITEM_LEN).preserve_format_specific_items(false);
    apply_global_options(global);
    let options = ParseOptions::new().read_properties(false).read_cover_art(false).parsing_mode(ParsingMode::Relaxed);
    let probe = lofty::probe::Probe::new(io::BufReader::new(Again { file, len, at: 0 })).options(options);
    let Ok(tagged) = probe.guess_file_type().map_err(drop).and_then(|probe| probe.read().map_err(drop)) else {
        return (Tags::default(), None);
    };
    let mut tags = Tags::default();
    let mut software = None;
    // The format's own kind of tag first; others fill what it leaves open.
    let primary = tagged.primary_tag();
    let others = tagged.tags().iter().filter(|tag| Some(tag.tag_type()) != primary.map(Tag::tag_type));
    for tag in primary.into_iter().chain(others) {
        fill(&mut tags, tag);
        software = software.or_else(|| tag.get_string(ItemKey::EncoderSoftware).and_then(kept));
    }
    (tags, software)
}

fn fill(tags: &mut Tags, tag: &Tag) {
    let text = |key: ItemKey| tag.get_string(key).and_then(kept);
    let id = |key: ItemKey| tag.get_string(key).and_then(uuid);
    let some = |slot: &mut Option<String>, key: ItemKey| {
        if slot.is_none() {
            *slot = text(key);
        }
    };
    some(&mut tags.title, ItemKey::TrackTitle);
    some(&mut tags.artist, ItemKey::TrackArtist);
    some(&mut tags.album, ItemKey::AlbumTitle);
    some(&mut tags.album_artist, ItemKey::AlbumArtist);
    some(&mut tags.date, ItemKey::RecordingDate);
    some(&mut tags.date, ItemKey::Year);
    some(&mut tags.label, ItemKey::Label);
    some(&mut tags.isrc, ItemKey::Isrc);
    tags.track = tags.track.or_else(|| tag.track());
    tags.disc = tags.disc.or_else(|| tag.disk());
    tags.recording_id = tags.recording_id.or_else(|| id(ItemKey::MusicBrainzRecordingId));
    tags.release_id = tags.release_id.or_else(|| id(ItemKey::MusicBrainzReleaseId));
    tags.release_group_id = tags.release_group_id.or_else(|| id(ItemKey::MusicBrainzReleaseGroupId));
    tags.artist_id = tags.artist_id.or_else(|| id(ItemKey::MusicBrainzArtistId));
    tags.acoustid = tags.acoustid.or_else(|| id(ItemKey::AcoustId));
}

/// The number of a UUID, with or without its dashes; the first of several joined by `;` or `/`.
pub(super) fn uuid(text: &str) -> Option<u128> {
    let first = text.trim_matches(|c: char| c.is_whitespace() || c == '\0').split([';', '/', ',', ' ']).next()?;
    let digits: String = first.chars().filter(|c| *c != '-').take(33).collect();
    if digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        u128::from_str_radix(&digits, 16).ok()
    } else {
        None
    }
}

/// The file from its beginning once more, beside whoever else reads it.
struct Again<'f> {
    file: &'f File,
    len: u64,
    at: u64,
}

impl Read for Again<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(self.file.as_fd(), &mut *buffer, self.at))?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Again<'_> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A FLAC of metadata alone: a picture of so many bytes, then a comment.
    fn flac(picture: u32) -> File {
        use std::io::Write as _;
        let mut bytes = b"fLaC\0\0\0\x22".to_vec();
        bytes.extend([16, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0x0a, 0xc4, 0x42, 0xf0]);
        bytes.extend([0; 20]);
        bytes.push(6);
        bytes.extend(&picture.to_be_bytes()[1..]);
        bytes.resize(bytes.len() + picture as usize, 1);
        let items = ["TITLE=A title", "MUSICBRAINZ_TRACKID=01234567-89ab-cdef-0123-456789abcdef", "TRACKNUMBER=3/9"];
        let mut comment = vec![0, 0, 0, 0, 3, 0, 0, 0];
        for item in items {
            comment.extend(u32::try_from(item.len()).unwrap().to_le_bytes());
            comment.extend(item.as_bytes());
        }
        bytes.push(0x84);
        bytes.extend(&u32::try_from(comment.len()).unwrap().to_be_bytes()[1..]);
        bytes.extend(comment);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    #[test]
    fn tags_behind_a_large_picture_are_read() {
        for picture in [10, 3_000_000] {
            let file = flac(picture);
            let (tags, _) = read(&file, file.metadata().unwrap().len());
            assert_eq!(tags.title.as_deref(), Some("A title"), "{picture}");
            assert_eq!(tags.recording_id, Some(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), "{picture}");
            assert_eq!(tags.track, Some(3), "{picture}");
        }
    }

    #[test]
    fn identifiers_are_read_as_they_are_written() {
        let id = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
        for text in [
            "01234567-89ab-cdef-0123-456789abcdef",
            "0123456789ABCDEF0123456789abcdef",
            " 01234567-89ab-cdef-0123-456789abcdef; 11111111-89ab-cdef-0123-456789abcdef",
        ] {
            assert_eq!(uuid(text), Some(id), "{text}");
        }
        for text in ["", "0123", "g1234567-89ab-cdef-0123-456789abcdef", "+1234567-89ab-cdef-0123-456789abcdef"] {
            assert_eq!(uuid(text), None, "{text}");
        }
    }
}
