//! The tags of one file as a whole, by lofty: Vorbis comments, `ID3v2` or an item list. A few of them are set and the others
//! kept, or all of them come from another file, whatever its format.

use std::borrow::Cow;

use lofty::id3::v2::{Frame, Id3v2Tag};
use lofty::mp4::{Atom, AtomData, AtomIdent, Ilst};
use lofty::ogg::OggPictureStorage as _;
use lofty::ogg::tag::VorbisComments;
use lofty::picture::{MimeType, PictureInformation};
use lofty::tag::{Accessor as _, ItemKey, ItemValue, MergeTag as _, SplitTag as _, Tag, TagItem, TagType};

use super::tags::uuid;
use crate::model::sheet::Sheet;

/// Who is meant by the file identifier that names the recording.
const MUSICBRAINZ: &str = "http://musicbrainz.org";
/// The name space of iTunes' own items.
const ITUNES: &str = "com.apple.iTunes";
/// What a sheet sets.
pub(super) const MAIN: [ItemKey; 14] = [
    ItemKey::TrackTitle,
    ItemKey::TrackArtist,
    ItemKey::AlbumTitle,
    ItemKey::AlbumArtist,
    ItemKey::TrackNumber,
    ItemKey::TrackTotal,
    ItemKey::DiscNumber,
    ItemKey::DiscTotal,
    ItemKey::RecordingDate,
    ItemKey::MusicBrainzRecordingId,
    ItemKey::MusicBrainzReleaseId,
    ItemKey::MusicBrainzReleaseGroupId,
    ItemKey::MusicBrainzArtistId,
    ItemKey::MusicBrainzReleaseArtistId,
];
/// Beginnings of names whose values tell of one file's sound, its gain, its gaps, who coded it: no other file's.
const OF_SOUND: [&str; 11] = [
    "replaygain_",
    "r128_",
    "itunsmpb",
    "itunnorm",
    "itunpgap",
    "encoder",
    "encoding",
    "encodedby",
    "encoded-by",
    "encoded by",
    "mp3gain_",
];
/// The same of `ID3v2` frames: encoder, its settings, length, size, gain, tables of places in the file.
const FRAMES_OF_SOUND: [&str; 10] = ["TSSE", "TENC", "TLEN", "TSIZ", "RVA2", "RVAD", "RGAD", "MLLT", "SEEK", "ASPI"];
/// The same of items: the tool that coded it, and who did.
const ATOMS_OF_SOUND: [[u8; 4]; 3] = [*b"\xa9too", *b"\xa9enc", *b"pgap"];

/// Which recording and release a file's tags name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Named {
    /// The recording.
    pub recording: Option<u128>,
    /// The release.
    pub release: Option<u128>,
}

/// The tags of one file.
#[derive(Debug)]
pub(super) enum Sheaf {
    Vorbis(VorbisComments),
    Id3(Box<Id3v2Tag>),
    Items(Ilst),
}

/// A sheet as items; totals that it does not know are those there are.
pub(super) fn items(sheet: &Sheet, totals: (Option<u32>, Option<u32>)) -> Vec<(ItemKey, String)> {
    let mut items = vec![
        (ItemKey::TrackTitle, sheet.title.clone()),
        (ItemKey::TrackArtist, sheet.artist.clone()),
        (ItemKey::AlbumTitle, sheet.album.clone()),
        (ItemKey::AlbumArtist, sheet.album_artist.clone()),
        (ItemKey::TrackNumber, sheet.track.to_string()),
        (ItemKey::DiscNumber, sheet.disc.to_string()),
        (ItemKey::MusicBrainzRecordingId, sheet.recording.to_string()),
        (ItemKey::MusicBrainzReleaseId, sheet.release.to_string()),
    ];
    let total = |known: Option<u32>, there: Option<u32>, least: u32| known.or(there.filter(|total| *total >= least));
    let tracks = total(sheet.tracks, totals.0, sheet.track).map(|total| (ItemKey::TrackTotal, total.to_string()));
    let discs = total(sheet.discs, totals.1, sheet.disc).map(|total| (ItemKey::DiscTotal, total.to_string()));
    items.extend(tracks.into_iter().chain(discs));
    items.extend(sheet.date.iter().map(|date| (ItemKey::RecordingDate, date.clone())));
    items.extend(sheet.group.iter().map(|group| (ItemKey::MusicBrainzReleaseGroupId, group.to_string())));
    items.extend(sheet.artist_ids.iter().map(|id| (ItemKey::MusicBrainzArtistId, id.to_string())));
    items.extend(sheet.album_artist_ids.iter().map(|id| (ItemKey::MusicBrainzReleaseArtistId, id.to_string())));
    items.retain(|(_, text)| !text.is_empty());
    items
}

/// A tag of these items alone.
pub(super) fn fresh(kind: TagType, items: &[(ItemKey, String)]) -> Tag {
    let mut tag = Tag::new(kind);
    for (key, text) in items {
        tag.push(TagItem::new(*key, ItemValue::Text(text.clone())));
    }
    tag
}

/// Puts a frame in the place of those it stands for.
fn replace_frame(tag: &mut Id3v2Tag, frame: Frame<'static>) {
    match &frame {
        Frame::UserText(text) => {
            let name = text.description.clone();
            tag.retain(|old| !matches!(old, Frame::UserText(old) if old.description.eq_ignore_ascii_case(&name)));
        }
        Frame::UniqueFileIdentifier(_) => {
            tag.retain(|old| !matches!(old, Frame::UniqueFileIdentifier(old) if old.owner == MUSICBRAINZ));
        }
        _ => {
            let id = frame.id_str().to_owned();
            tag.retain(|old| old.id_str() != id);
        }
    }
    tag.insert(frame);
}

fn itunes(name: &str) -> AtomIdent<'static> {
    AtomIdent::Freeform { mean: Cow::Borrowed(ITUNES), name: Cow::Owned(name.to_owned()) }
}

fn atom_texts<'a>(atom: &'a Atom<'_>) -> impl Iterator<Item = &'a str> {
    atom.data().filter_map(|data| match data {
        AtomData::UTF8(text) | AtomData::UTF16(text) => Some(text.as_str()),
        _ => None,
    })
}

/// Whether a name's value tells of one file's sound.
fn is_of_sound(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    OF_SOUND.iter().any(|known| name.starts_with(known))
}

fn is_frame_of_sound(frame: &Frame<'_>) -> bool {
    match frame {
        Frame::UserText(text) => is_of_sound(&text.description),
        Frame::Comment(comment) => is_of_sound(&comment.description),
        other => FRAMES_OF_SOUND.contains(&other.id_str()),
    }
}

fn is_atom_of_sound(atom: &Atom<'_>) -> bool {
    match atom.ident() {
        AtomIdent::Fourcc(code) => ATOMS_OF_SOUND.contains(code),
        AtomIdent::Freeform { name, .. } => is_of_sound(name),
    }
}

impl Sheaf {
    fn kind(&self) -> TagType {
        match self {
            Self::Vorbis(_) => TagType::VorbisComments,
            Self::Id3(_) => TagType::Id3v2,
            Self::Items(_) => TagType::Mp4Ilst,
        }
    }

    /// Which recording and release it names.
    pub(super) fn named(&self) -> Named {
        let [recording, release] = match self {
            Self::Vorbis(tag) => {
                ["MUSICBRAINZ_TRACKID", "MUSICBRAINZ_ALBUMID"].map(|name| tag.get(name).and_then(uuid))
            }
            Self::Id3(tag) => {
                let id = (&**tag).into_iter().find_map(|frame| match frame {
                    Frame::UniqueFileIdentifier(id) if id.owner == MUSICBRAINZ => Some(id),
                    _ => None,
                });
                let recording = id.and_then(|id| uuid(std::str::from_utf8(&id.identifier).ok()?));
                [recording, tag.get_user_text("MusicBrainz Album Id").and_then(uuid)]
            }
            Self::Items(tag) => ["MusicBrainz Track Id", "MusicBrainz Album Id"]
                .map(|name| tag.get(&itunes(name)).and_then(|atom| atom_texts(atom).find_map(uuid))),
        };
        Named { recording, release }
    }

    /// Tracks of the medium and media of the release, as they stand there.
    pub(super) fn totals(&self) -> (Option<u32>, Option<u32>) {
        match self {
            Self::Vorbis(tag) => (tag.track_total(), tag.disk_total()),
            Self::Id3(tag) => (tag.track_total(), tag.disk_total()),
            Self::Items(tag) => (tag.track_total(), tag.disk_total()),
        }
    }

    /// Sets items; others stay. The id of the track in another release goes, since it would contradict.
    pub(super) fn set(&mut self, items: &[(ItemKey, String)]) {
        let tag = fresh(self.kind(), items);
        match self {
            Self::Vorbis(old) => {
                let names = items.iter().filter_map(|(key, _)| key.map_key(TagType::VorbisComments));
                for name in names.chain(["MUSICBRAINZ_RELEASETRACKID", "ALBUM ARTIST"]) {
                    drop(old.remove(name));
                }
                // Other names of what is set.
                for (key, other) in [
                    (ItemKey::TrackTotal, "TOTALTRACKS"),
                    (ItemKey::DiscTotal, "TOTALDISCS"),
                    (ItemKey::RecordingDate, "YEAR"),
                ] {
                    if items.iter().any(|(set, _)| *set == key) {
                        drop(old.remove(other));
                    }
                }
                for item in tag.items() {
                    if let (Some(name), Some(text)) = (item.key().map_key(TagType::VorbisComments), item.value().text())
                    {
                        old.push(name.to_owned(), text.to_owned());
                    }
                }
            }
            Self::Id3(old) => {
                drop(old.remove_user_text("MusicBrainz Release Track Id"));
                for frame in Id3v2Tag::from(tag) {
                    replace_frame(old, frame);
                }
            }
            Self::Items(old) => {
                let new = Ilst::from(tag);
                drop(old.remove(&itunes("MusicBrainz Release Track Id")));
                for atom in &new {
                    drop(old.remove(atom.ident()));
                }
                new.into_iter().for_each(|atom| old.insert(atom));
            }
        }
    }

    /// Those of its items that a sheet sets.
    pub(super) fn main_items(&self) -> Vec<(ItemKey, String)> {
        let tag: Tag = match self {
            Self::Vorbis(tag) => {
                let mut plain = VorbisComments::new();
                tag.items().for_each(|(name, text)| plain.push(name.to_owned(), text.to_owned()));
                plain.into()
            }
            Self::Id3(tag) => {
                let mut plain = tag.as_ref().clone();
                plain.retain(|frame| !matches!(frame, Frame::Picture(_) | Frame::Binary(_) | Frame::Private(_)));
                plain.into()
            }
            Self::Items(tag) => {
                let mut plain = tag.clone();
                plain.remove_pictures();
                plain.into()
            }
        };
        let text = |key: ItemKey| Some((key, tag.get_string(key)?.to_owned()));
        MAIN.into_iter().filter_map(text).collect()
    }

    /// What tells of the file's own sound, or what does not.
    fn part(self, of_sound: bool) -> Self {
        match self {
            Self::Vorbis(mut tag) => {
                let kept: Vec<_> = tag.take_items().filter(|(name, _)| is_of_sound(name) == of_sound).collect();
                for (name, text) in kept {
                    tag.push(name, text);
                }
                if of_sound {
                    tag.remove_pictures();
                }
                Self::Vorbis(tag)
            }
            Self::Id3(mut tag) => {
                tag.retain(|frame| is_frame_of_sound(frame) == of_sound);
                Self::Id3(tag)
            }
            Self::Items(mut tag) => {
                tag.retain(|atom| is_atom_of_sound(atom) == of_sound);
                Self::Items(tag)
            }
        }
    }

    /// The tags of another file instead of its own, but for what tells of its own sound.
    pub(super) fn taking(self, others: Self) -> Self {
        match (self.part(true), others.part(false)) {
            (Self::Vorbis(mut own), Self::Vorbis(mut others)) => {
                others.set_vendor(own.vendor().to_owned());
                own.take_items().for_each(|(name, text)| others.push(name, text));
                Self::Vorbis(others)
            }
            (Self::Id3(own), Self::Id3(mut others)) => {
                for frame in *own {
                    others.insert(frame);
                }
                Self::Id3(others)
            }
            (Self::Items(own), Self::Items(mut others)) => {
                own.into_iter().for_each(|atom| others.replace_atom(atom));
                Self::Items(others)
            }
            (own, others) => own.translating(others),
        }
    }

    /// The tags of a file of another format in this one's words. Names that have no common meaning are kept as they are.
    fn translating(self, others: Self) -> Self {
        let (loose, mut tag) = others.split();
        // Who coded the other file.
        tag.remove_key(ItemKey::EncoderSoftware);
        tag.re_map(self.kind());
        match self {
            Self::Vorbis(mut own) => {
                for item in tag.items() {
                    if let (Some(name), Some(text)) = (item.key().map_key(TagType::VorbisComments), item.value().text())
                    {
                        own.push(name.to_owned(), text.to_owned());
                    }
                }
                for picture in tag.pictures() {
                    let known = PictureInformation::from_picture(picture).unwrap_or_default();
                    // Fails only when it has to find them out.
                    let _ = own.insert_picture(picture.clone(), Some(known));
                }
                for (name, text) in loose {
                    let name = name.to_ascii_uppercase();
                    if !name.is_empty() && name.bytes().all(|byte| (0x20..0x7e).contains(&byte) && byte != b'=') {
                        own.push(name, text);
                    }
                }
                Self::Vorbis(own)
            }
            Self::Id3(own) => {
                let mut new = Id3v2Tag::from(tag);
                for frame in *own {
                    new.insert(frame);
                }
                for (name, text) in loose {
                    // Several values of one name stand behind one another.
                    let before = new.get_user_text(&name).map(|before| format!("{before}\0"));
                    drop(new.insert_user_text(name, before.unwrap_or_default() + &text));
                }
                Self::Id3(Box::new(new))
            }
            Self::Items(own) => {
                let known = |kind: Option<&MimeType>| {
                    let known = [MimeType::Png, MimeType::Jpeg, MimeType::Gif, MimeType::Bmp];
                    kind.is_none_or(|kind| known.contains(kind))
                };
                let unknown = (0..tag.pictures().len()).rev();
                let unknown: Vec<_> = unknown.filter(|at| !known(tag.pictures()[*at].mime_type())).collect();
                for at in unknown {
                    tag.remove_picture(at);
                }
                let mut new = Ilst::from(tag);
                own.into_iter().for_each(|atom| new.replace_atom(atom));
                for (name, text) in loose {
                    new.insert(Atom::new(itunes(&name), AtomData::UTF8(text)));
                }
                Self::Items(new)
            }
        }
    }

    /// Texts under names of somebody's own, and the rest.
    fn split(self) -> (Vec<(String, String)>, Tag) {
        match self {
            Self::Vorbis(tag) => {
                let (rest, tag) = tag.split_tag();
                (rest.items().map(|(name, text)| (name.to_owned(), text.to_owned())).collect(), tag)
            }
            Self::Id3(tag) => {
                let (rest, tag) = tag.split_tag();
                let mut loose = Vec::new();
                for frame in rest.merge_tag(Tag::new(TagType::Id3v2)) {
                    if let Frame::UserText(text) = frame {
                        let values = text.content.split('\0').filter(|value| !value.is_empty());
                        loose.extend(values.map(|value| (text.description.clone().into_owned(), value.to_owned())));
                    }
                }
                (loose, tag)
            }
            Self::Items(tag) => {
                let (rest, tag) = tag.split_tag();
                let mut loose = Vec::new();
                for atom in &rest.merge_tag(Tag::new(TagType::Mp4Ilst)) {
                    if let AtomIdent::Freeform { name, .. } = atom.ident() {
                        loose.extend(atom_texts(atom).map(|text| (name.clone().into_owned(), text.to_owned())));
                    }
                }
                (loose, tag)
            }
        }
    }
}
