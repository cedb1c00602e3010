use std::path::PathBuf;

use lofty::id3::v2::{Frame, Id3v2Tag, PrivateFrame};
use lofty::ogg::tag::VorbisComments;
use lofty::picture::{MimeType, Picture, PictureType};
use lofty::tag::Tag;

use super::*;
use crate::model::id::{ArtistId, RecordingId, ReleaseGroupId, ReleaseId};
use crate::model::variant::Tags;
use crate::probe::tags;

const FORMATS: [&str; 6] = ["tone.flac", "tone.mp3", "tone.m4a", "tone-alac.m4a", "tone.ogg", "tone.opus"];

fn sheet() -> Sheet {
    Sheet {
        title: "Størm \u{2013} \u{5d0}".to_owned(),
        artist: "Somebody".to_owned(),
        album: "An Album".to_owned(),
        album_artist: "Everybody".to_owned(),
        track: 3,
        tracks: Some(9),
        disc: 2,
        discs: Some(4),
        date: Some("2000-10-09".to_owned()),
        recording: RecordingId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        release: ReleaseId(2),
        group: Some(ReleaseGroupId(3)),
        artist_ids: vec![ArtistId(4)],
        album_artist_ids: vec![ArtistId(5), ArtistId(6)],
    }
}

/// A copy of a fixture.
fn copy(dir: &tempfile::TempDir, name: &str) -> (PathBuf, File) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/audio").join(name);
    let to = dir.path().join(name);
    std::fs::copy(from, &to).unwrap();
    let file = reopen(&to);
    (to, file)
}

fn reopen(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn read(file: &File) -> Tags {
    tags::read(file, file.metadata().unwrap().len()).0
}

fn picture() -> Picture {
    // A white pixel.
    let mut png = Vec::new();
    let mut coder = png::Encoder::new(&mut png, 1, 1);
    coder.set_color(png::ColorType::Grayscale);
    coder.write_header().unwrap().write_image_data(&[255]).unwrap();
    Picture::unchecked(png).pic_type(PictureType::CoverFront).mime_type(MimeType::Png).build()
}

#[test]
fn every_format_is_written_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    for name in FORMATS {
        let (path, mut file) = copy(&dir, name);
        let wanted = Named { recording: Some(sheet().recording.0), release: Some(2) };
        assert_eq!(named(&file).unwrap(), Named::default(), "{name}");
        assert_eq!(write(&mut file, &sheet()).unwrap(), wanted, "{name}");
        let tags = read(&reopen(&path));
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        assert_eq!(text(&tags.title), sheet().title, "{name}");
        assert_eq!([text(&tags.artist), text(&tags.album)], ["Somebody", "An Album"], "{name}");
        assert_eq!([text(&tags.album_artist), text(&tags.date)], ["Everybody", "2000-10-09"], "{name}");
        assert_eq!((tags.track, tags.disc), (Some(3), Some(2)), "{name}");
        assert_eq!((tags.recording_id, tags.release_id), (wanted.recording, wanted.release), "{name}");
        assert_eq!((tags.release_group_id, tags.artist_id), (Some(3), Some(4)), "{name}");
        assert_eq!(open(&file).unwrap().1.totals(), (Some(9), Some(4)), "{name}");
        // Once more: nothing is said twice, and totals nobody knows now are those there were.
        let again = Sheet { title: "New".to_owned(), tracks: None, discs: None, ..sheet() };
        let mut file = reopen(&path);
        assert_eq!(write(&mut file, &again).unwrap(), wanted, "{name}");
        let (_, sheaf) = open(&file).unwrap();
        assert_eq!(sheaf.totals(), (Some(9), Some(4)), "{name}");
        let main = sheaf.main_items();
        let mut keys: Vec<_> = main.iter().map(|(key, _)| format!("{key:?}")).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), main.len(), "{name}: {main:?}");
        assert_eq!(read(&file).title.as_deref(), Some("New"), "{name}");
    }
}

/// Gives a file tags of all kinds: common ones, some of somebody's own, a picture, and what tells of its sound.
fn dress(file: &mut File, owner: &str) {
    let (media, mut sheaf) = open(file).unwrap();
    sheaf.set(&[(ItemKey::TrackTitle, format!("{owner}'s")), (ItemKey::Genre, owner.to_owned())]);
    match &mut sheaf {
        Sheaf::Vorbis(tag) => {
            tag.push("MY OWN".to_owned(), format!("{owner} one"));
            tag.push("MY OWN".to_owned(), format!("{owner} two"));
            tag.push("REPLAYGAIN_TRACK_GAIN".to_owned(), format!("{owner} dB"));
            tag.insert_picture(picture(), None).unwrap();
        }
        Sheaf::Id3(tag) => {
            drop(tag.insert_user_text("MY OWN".to_owned(), format!("{owner} one\0{owner} two")));
            drop(tag.insert_user_text("REPLAYGAIN_TRACK_GAIN".to_owned(), format!("{owner} dB")));
            tag.insert(Frame::Private(PrivateFrame::new(owner.to_owned(), owner.as_bytes().to_vec())));
            tag.insert_picture(picture());
        }
        Sheaf::Items(tag) => {
            let mut set = |name: &'static str, texts: Vec<String>| {
                let ident = lofty::mp4::AtomIdent::Freeform { mean: "com.apple.iTunes".into(), name: name.into() };
                let data = texts.into_iter().map(lofty::mp4::AtomData::UTF8).collect();
                tag.insert(lofty::mp4::Atom::from_collection(ident, data).unwrap());
            };
            set("MY OWN", vec![format!("{owner} one"), format!("{owner} two")]);
            set("replaygain_track_gain", vec![format!("{owner} dB")]);
            tag.insert_picture(picture());
        }
    }
    media.save(file, sheaf).unwrap();
}

/// Genre, the values of somebody's own, the gain, pictures.
fn dressed(file: &File) -> (String, Vec<String>, String, usize) {
    let (_, sheaf) = open(file).unwrap();
    match sheaf {
        Sheaf::Vorbis(tag) => {
            let tag: VorbisComments = tag;
            let own = tag.get_all("MY OWN").map(str::to_owned).collect();
            let gain = tag.get("REPLAYGAIN_TRACK_GAIN").unwrap_or_default().to_owned();
            (tag.genre().unwrap_or_default().into_owned(), own, gain, tag.pictures().len())
        }
        Sheaf::Id3(tag) => {
            let own = tag.get_user_text("MY OWN").unwrap_or_default().split('\0').map(str::to_owned).collect();
            let gain = tag.get_user_text("REPLAYGAIN_TRACK_GAIN").unwrap_or_default().to_owned();
            let pictures = (&*tag).into_iter().filter(|frame| matches!(frame, Frame::Picture(_))).count();
            (tag.genre().unwrap_or_default().into_owned(), own, gain, pictures)
        }
        Sheaf::Items(tag) => {
            let texts = |name: &str| -> Vec<String> {
                let ident =
                    lofty::mp4::AtomIdent::Freeform { mean: "com.apple.iTunes".into(), name: name.to_owned().into() };
                let atom = tag.get(&ident);
                let text = |data: &lofty::mp4::AtomData| match data {
                    lofty::mp4::AtomData::UTF8(text) => Some(text.clone()),
                    _ => None,
                };
                atom.into_iter().flat_map(|atom| atom.data().filter_map(text).collect::<Vec<_>>()).collect()
            };
            let gain = texts("replaygain_track_gain").concat();
            let pictures = tag.pictures().map_or(0, Iterator::count);
            (tag.genre().unwrap_or_default().into_owned(), texts("MY OWN"), gain, pictures)
        }
    }
}

#[test]
fn writing_keeps_what_it_does_not_set() {
    let dir = tempfile::tempdir().unwrap();
    for name in FORMATS {
        let (path, mut file) = copy(&dir, name);
        dress(&mut file, "Old");
        write(&mut reopen(&path), &sheet()).unwrap();
        let own = ["Old one", "Old two"].map(str::to_owned).to_vec();
        assert_eq!(dressed(&reopen(&path)), ("Old".to_owned(), own, "Old dB".to_owned(), 1), "{name}");
    }
    // ID3v2 frames that mean nothing to us.
    let (_, sheaf) = open(&reopen(&dir.path().join("tone.mp3"))).unwrap();
    let Sheaf::Id3(tag) = sheaf else { panic!("an MP3 has ID3v2") };
    assert!((&*tag).into_iter().any(|frame| matches!(frame, Frame::Private(private) if &*private.owner == "Old")));
}

#[test]
fn tags_are_carried_between_all_formats() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    for from in FORMATS {
        let (source, mut file) = copy(&other, from);
        dress(&mut file, "Old");
        write(&mut reopen(&source), &sheet()).unwrap();
        for to in FORMATS {
            let (path, mut file) = copy(&dir, to);
            dress(&mut file, "New");
            let said = carry(&mut reopen(&path), &reopen(&source)).unwrap();
            assert_eq!(said, named(&reopen(&source)).unwrap(), "{from} to {to}");
            let own = ["Old one", "Old two"].map(str::to_owned).to_vec();
            let now = dressed(&reopen(&path));
            assert_eq!(now, ("Old".to_owned(), own, "New dB".to_owned(), 1), "{from} to {to}");
            let (old, new) = (read(&reopen(&source)), read(&reopen(&path)));
            assert_eq!(old, new, "{from} to {to}");
        }
    }
}

#[test]
fn older_tags_of_an_mp3_do_not_contradict() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut file) = copy(&dir, "tone.mp3");
    let mut mpeg = MpegFile::read_from(&mut file, options()).unwrap();
    let mut ape = ApeTag::new();
    ape.set_title("Wrong".to_owned());
    ape.set_genre("Kept".to_owned());
    mpeg.set_ape(ape);
    let mut old = lofty::id3::v1::Id3v1Tag::new();
    old.set_title("Wrong".to_owned());
    mpeg.set_id3v1(old);
    mpeg.save_to(&mut file, WriteOptions::new()).unwrap();
    write(&mut reopen(&path), &Sheet { title: "Right".to_owned(), ..sheet() }).unwrap();
    let mpeg = MpegFile::read_from(&mut reopen(&path), options()).unwrap();
    let (ape, old) = (mpeg.ape().unwrap(), mpeg.id3v1().unwrap());
    assert_eq!((ape.title().as_deref(), ape.genre().as_deref()), (Some("Right"), Some("Kept")));
    assert_eq!((old.title().as_deref(), old.track()), (Some("Right"), Some(3)));
    let said: Tag = Id3v2Tag::clone(mpeg.id3v2().unwrap()).into();
    assert_eq!(said.get_string(ItemKey::TrackTitle), Some("Right"));
}

#[test]
fn what_cannot_be_tagged_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        write(&mut reopen(&path), &sheet()).unwrap_err()
    };
    assert!(refused("a.flac", b"no sound at all").contains("not written"), "text");
    assert!(refused("b.flac", b"").contains("not written"), "nothing");
    let fixture = |name: &str| {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/audio").join(name)).unwrap()
    };
    // FLAC in Ogg, and a song behind the song.
    assert!(
        refused("c.oga", &fixture("tone.oga")).contains("not written"),
        "an ID3v2 tag in front of it would spoil it"
    );
    let two = [fixture("tone.ogg"), fixture("tone.opus")].concat();
    assert_eq!(refused("d.ogg", &two), "it holds several streams");
    // Beyond what is read whole: mostly a hole.
    let (path, file) = copy(&dir, "tone.opus");
    file.set_len(limits::TAG_WHOLE_LEN + 1).unwrap();
    assert!(write(&mut reopen(&path), &sheet()).unwrap_err().contains("too large"));
    // Cut anywhere within its headers, or with a byte changed there: an answer, never a panic.
    for name in FORMATS {
        let bytes = fixture(name);
        for at in (0..bytes.len().min(6_000)).step_by(97) {
            let path = dir.path().join("mutated");
            let mut changed = bytes.clone();
            changed[at] ^= 0x55;
            for bytes in [&bytes[..at], &changed[..]] {
                std::fs::write(&path, bytes).unwrap();
                let _ = write(&mut reopen(&path), &sheet());
            }
        }
    }
}
