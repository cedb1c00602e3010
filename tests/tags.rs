//! Tags changed by a real tagger, and compared by real workers.
#![allow(clippy::unwrap_used, reason = "tests, their helpers included")]

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slskdn::app::doctor::{Measure, Outcome};
use slskdn::app::tags::{Tags, TagsError, Written};
use slskdn::model::id::{RecordingId, ReleaseId};
use slskdn::model::sheet::Sheet;
use slskdn::model::spectrogram::Spectrogram;
use slskdn::model::variant::Measured;
use slskdn::probe::{self, Pool, Tagger, Tempo};

const EXE: &str = env!("CARGO_BIN_EXE_slskdn");
const FORMATS: [&str; 6] = ["tone.flac", "tone.mp3", "tone.m4a", "tone-alac.m4a", "tone.ogg", "tone.opus"];

struct Workers(Pool, tokio::runtime::Runtime);

impl Workers {
    fn new() -> Arc<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Arc::new(Self(Pool::new(PathBuf::from(EXE), 1).unwrap(), runtime))
    }

    fn whole(&self, path: &Path) -> Measured {
        match self.1.block_on(self.0.measure(probe::open(path).unwrap(), "x", &Tempo::default())) {
            probe::Outcome::Measured(measured) => *measured,
            other => panic!("{other:?}"),
        }
    }

    fn quick(&self, path: &Path) -> Measured {
        match self.1.block_on(self.0.sound(probe::open(path).unwrap(), "x", &Tempo::default())) {
            probe::Outcome::Measured(measured) => *measured,
            other => panic!("{other:?}"),
        }
    }
}

impl Measure for Workers {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn open(&self, path: &Path) -> std::io::Result<File> {
        probe::open(path)
    }

    fn measure(&self, _: File, _: &str, _: &(dyn Fn() -> bool + Sync)) -> Option<Outcome> {
        None
    }

    fn sound(&self, file: File, name: &str, stop: &(dyn Fn() -> bool + Sync)) -> Option<Outcome> {
        if stop() {
            return None;
        }
        Some(match self.1.block_on(self.0.sound(file, name, &Tempo::default())) {
            probe::Outcome::Measured(measured) => Outcome::Measured(measured),
            other => Outcome::Broken(format!("{other:?}")),
        })
    }

    fn spectrogram(&self, _: File, _: &str) -> Result<Spectrogram, String> {
        Err("not here".to_owned())
    }

    fn set_rest(&self, _: u32) {}
}

fn sheet() -> Sheet {
    Sheet {
        title: "Title".to_owned(),
        artist: "Artist".to_owned(),
        album: "Album".to_owned(),
        album_artist: "Artist".to_owned(),
        track: 1,
        tracks: Some(2),
        disc: 1,
        discs: None,
        date: Some("1999".to_owned()),
        recording: RecordingId(0xabcd),
        release: ReleaseId(0x1234),
        group: None,
        artist_ids: Vec::new(),
        album_artist_ids: Vec::new(),
    }
}

fn copy(dir: &Path, name: &str) -> PathBuf {
    let to = dir.join(name);
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/audio").join(name), &to).unwrap();
    to
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn on() -> bool {
    false
}

#[test]
fn every_format_keeps_its_sound_and_is_left_alone_once_it_is_right() {
    let (dir, workers) = (tempfile::tempdir().unwrap(), Workers::new());
    let tags = Tags::new(workers.clone(), Tagger::new(PathBuf::from(EXE)));
    for name in FORMATS {
        let path = copy(dir.path(), name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let before = workers.whole(&path);
        assert_eq!(tags.write(&path, &sheet(), false, &on).unwrap(), Written::Changed, "{name}");
        let after = workers.whole(&path);
        assert_eq!((before.stream_hash, before.samples), (after.stream_hash, after.samples), "{name}");
        assert_eq!((&before.fingerprint, &before.integrity), (&after.fingerprint, &after.integrity), "{name}");
        // The short way says what the long one does.
        let quick = workers.quick(&path);
        assert_eq!(
            (quick.stream_hash, quick.samples, &quick.detail),
            (after.stream_hash, after.samples, &after.detail)
        );
        assert!(quick.fingerprint.is_empty() && quick.integrity == after.integrity, "{name}");
        assert_ne!(before.content_hash, after.content_hash, "{name}");
        assert_eq!(after.tags.recording_id, Some(0xabcd), "{name}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640, "{name}");
        // Now they are right, and the bytes stay.
        assert_eq!(tags.write(&path, &sheet(), false, &on).unwrap(), Written::Already, "{name}");
        assert_eq!(workers.quick(&path).content_hash, after.content_hash, "{name}");
        // Tags of another recording are overwritten by who is sure alone.
        let other = Sheet { recording: RecordingId(0xeeee), ..sheet() };
        let doubt = tags.write(&path, &other, false, &on).unwrap();
        assert_eq!(doubt, Written::Doubtful(RecordingId(0xabcd)), "{name}");
        assert_eq!(workers.quick(&path).content_hash, after.content_hash, "{name}");
        assert_eq!(tags.write(&path, &other, true, &on).unwrap(), Written::Changed, "{name}");
        assert_eq!(workers.quick(&path).tags.recording_id, Some(0xeeee), "{name}");
    }
    assert_eq!(names(dir.path()).len(), FORMATS.len(), "nothing else lies there");
}

#[test]
fn tags_go_over_to_another_format() {
    let (dir, workers) = (tempfile::tempdir().unwrap(), Workers::new());
    let tags = Tags::new(workers.clone(), Tagger::new(PathBuf::from(EXE)));
    let (old, new) = (copy(dir.path(), "tone.mp3"), copy(dir.path(), "tone.flac"));
    tags.write(&old, &sheet(), false, &on).unwrap();
    let before = (fs::read(&old).unwrap(), workers.quick(&new));
    tags.carry(&old, &new, &on).unwrap();
    let after = workers.quick(&new);
    assert_eq!(fs::read(&old).unwrap(), before.0);
    assert_eq!((after.stream_hash, after.detail), (before.1.stream_hash, before.1.detail));
    assert_eq!(after.tags, workers.quick(&old).tags);
    assert_eq!(names(dir.path()), ["tone.flac", "tone.mp3"]);
}

/// A tagger that says it has done what was asked, after it did this to the copy, `$part`.
fn liar(dir: &Path, deed: &str) -> Tagger {
    let said = [0_u8, 1, 0xcd, 0xd7, 2, 1, 0xb4, 0x24].map(|byte| format!("\\{byte:03o}")).concat();
    let text = format!(
        "#!/bin/sh\ncat >/dev/null\npart=$(ls {0}/music/.*.tags 2>/dev/null)\n\
         if [ -z \"$part\" ]; then printf '\\000\\000\\000' >&0; exit; fi\n{deed}\nprintf '{said}' >&0\n",
        dir.display()
    );
    let path = dir.join("liar");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Tagger::new(path)
}

#[test]
fn a_file_is_untouched_by_whatever_goes_wrong() {
    let (dir, workers) = (tempfile::tempdir().unwrap(), Workers::new());
    let music = dir.path().join("music");
    fs::create_dir(&music).unwrap();
    for name in ["tone.flac", "tone.mp3"] {
        let path = copy(&music, name);
        let before = fs::read(&path).unwrap();
        let attempt = |tagger: Tagger, stop: bool| {
            let tags = Tags::new(workers.clone(), tagger);
            let failed = tags.write(&path, &sheet(), true, &|| stop).unwrap_err();
            assert!(path.exists() && fs::read(&path).unwrap() == before, "{name}: {failed}");
            assert_eq!(names(&music), [name], "{failed}");
            failed
        };
        // It sounds different, it does not decode, it is gone, it is another's; the tagger dies, or is not there.
        let middle = before.len() / 2;
        let deed = format!("printf XXXXXXXX | dd of=\"$part\" bs=1 seek={middle} conv=notrunc 2>/dev/null");
        assert!(matches!(attempt(liar(dir.path(), &deed), false), TagsError::Sound(_)));
        let deed = format!("head -c {middle} \"$part\" >\"$part.x\"; mv \"$part.x\" \"$part\"");
        assert!(matches!(attempt(liar(dir.path(), &deed), false), TagsError::Sound(_)));
        assert!(matches!(attempt(liar(dir.path(), "rm \"$part\""), false), TagsError::Disk(_)));
        assert!(matches!(attempt(liar(dir.path(), "kill -9 $$"), false), TagsError::Tags(_)));
        assert!(matches!(attempt(Tagger::new(PathBuf::from("/bin/false")), false), TagsError::Tags(_)));
        assert!(matches!(attempt(Tagger::new(dir.path().join("nobody")), false), TagsError::Tags(_)));
        assert!(matches!(attempt(liar(dir.path(), "sleep 100"), true), TagsError::Stopped));
        // The same liar who does nothing is believed: what failed above is not its way of lying.
        let tags = Tags::new(workers.clone(), liar(dir.path(), ":"));
        assert_eq!(tags.write(&path, &sheet(), true, &on).unwrap(), Written::Changed);
        // Somebody else changes it meanwhile, and what they wrote stays.
        let deed = format!("printf more >>{}", path.display());
        let tags = Tags::new(workers.clone(), liar(dir.path(), &deed));
        let failed = tags.write(&path, &sheet(), true, &on);
        assert!(matches!(failed, Err(TagsError::Changed | TagsError::Sound(_))), "{failed:?}");
        assert!(fs::read(&path).unwrap().ends_with(b"more"));
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_a_killed_attempt_left_behind_is_no_obstacle() {
    let (dir, workers) = (tempfile::tempdir().unwrap(), Workers::new());
    let music = dir.path().join("music");
    fs::create_dir(&music).unwrap();
    let path = copy(&music, "tone.flac");
    // The copy as it lies there in the middle of the work, kept by a second name.
    let deed = format!("ln \"$part\" {0}/kept; basename \"$part\" >{0}/name; kill -9 $$", dir.path().display());
    Tags::new(workers.clone(), liar(dir.path(), &deed)).write(&path, &sheet(), true, &on).unwrap_err();
    let name = fs::read_to_string(dir.path().join("name")).unwrap();
    let tags = Tags::new(workers.clone(), Tagger::new(PathBuf::from(EXE)));
    fs::copy(dir.path().join("kept"), music.join(name.trim())).unwrap();
    assert_eq!(tags.write(&path, &sheet(), false, &on).unwrap(), Written::Changed);
    // Killed behind the rename but before anything was written down: the next attempt finds it done, and sweeps.
    fs::write(music.join(name.trim()), b"half").unwrap();
    assert_eq!(tags.write(&path, &sheet(), false, &on).unwrap(), Written::Already);
    assert_eq!(names(&music), ["tone.flac"]);
    assert_eq!(workers.quick(&path).tags.recording_id, Some(0xabcd));
}

#[test]
fn broken_and_hostile_files_are_refused() {
    let (dir, workers) = (tempfile::tempdir().unwrap(), Workers::new());
    let tags = Tags::new(workers, Tagger::new(PathBuf::from(EXE)));
    let fixture = fs::read(copy(dir.path(), "tone.flac")).unwrap();
    fs::remove_file(dir.path().join("tone.flac")).unwrap();
    // A picture that claims more than there is, and more pictures than a tagger has memory for: holes, but for their heads.
    let head = [&fixture[..4], b"\0\0\0\x22", &fixture[8..42]].concat();
    fs::write(dir.path().join("claim.flac"), [&head, &b"\x06\xff\xff\xff"[..], &fixture[42..]].concat()).unwrap();
    fs::write(dir.path().join("text.mp3"), b"no sound").unwrap();
    let mut large = File::create(dir.path().join("large.flac")).unwrap();
    large.write_all(&head).unwrap();
    for _ in 0..20 {
        let begin = large.stream_position().unwrap();
        large.write_all(b"\x06\xff\xff\xff\0\0\0\x03\0\0\0\x09image/png\0\0\0\0").unwrap();
        large.write_all(&[0, 0, 0, 1].repeat(4)).unwrap();
        let left = 0x00ff_ffff - 41_u32;
        large.write_all(&left.to_be_bytes()).unwrap();
        large.seek(SeekFrom::Start(begin + 4 + 0x00ff_ffff)).unwrap();
    }
    large.write_all(&fixture[42..]).unwrap();
    for name in ["claim.flac", "large.flac", "text.mp3"] {
        let path = dir.path().join(name);
        let stamp = |found: fs::Metadata| (found.ino(), found.len(), found.mtime(), found.mtime_nsec());
        let before = stamp(fs::metadata(&path).unwrap());
        let failed = tags.write(&path, &sheet(), true, &on);
        assert!(matches!(failed, Err(TagsError::Tags(_))), "{name}: {failed:?}");
        assert_eq!(stamp(fs::metadata(&path).unwrap()), before, "{name}");
    }
    // What is no file, and a link to one.
    assert!(tags.write(dir.path(), &sheet(), true, &on).is_err());
    std::os::unix::fs::symlink(dir.path().join("text.mp3"), dir.path().join("link.mp3")).unwrap();
    assert!(tags.write(&dir.path().join("link.mp3"), &sheet(), true, &on).is_err());
    assert_eq!(names(dir.path()), ["claim.flac", "large.flac", "link.mp3", "text.mp3"]);
}
