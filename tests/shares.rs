//! Shared folders: what is found, what is not, and that it stays right while the disk changes.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use slskdn::app::clock::Clock;
use slskdn::app::sharing::{ShareSettings, Sharing, SharingError};
use slskdn::engine::soulseek::io::{ShareAnswer, ShareAsk};
use slskdn::engine::soulseek::sharelist::ShareListReader;
use slskdn::engine::soulseek::shares::{Query, words};
use slskdn::model::id::Token;
use slskdn::model::music::{ShareCounts, WireText};
use slskdn::model::view::ShareView;
use slskdn::store::{Store, StoreOptions};
use tempfile::TempDir;
use tokio::sync::watch::Receiver;

#[path = "shares/index.rs"]
mod index;
#[path = "fixtures/library.rs"]
mod library;

/// A music folder and a data folder.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("music")).unwrap();
        Self { dir }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn put(&self, path: impl AsRef<Path>, content: &[u8]) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn store(&self) -> Store {
        Store::open(&self.at("store"), StoreOptions::default()).unwrap()
    }

    fn settings(&self) -> ShareSettings {
        ShareSettings {
            directories: vec![("Music".to_owned(), self.at("music"))],
            excluded: Vec::new(),
            filters: Vec::new(),
            watch: false,
            check_every: Duration::from_secs(6 * 3600),
            rest: 0.0,
            list: self.at("cache/shares.zlib"),
        }
    }

    fn start(&self) -> Shared {
        self.start_with(self.settings())
    }

    fn start_with(&self, settings: ShareSettings) -> Shared {
        let sharing = Sharing::start(self.store(), settings, Clock::start()).unwrap();
        let view = sharing.view();
        Shared { sharing, view }
    }

    /// Started and scanned once.
    fn scanned(&self) -> Shared {
        let mut shared = self.start();
        shared.wait(|view| view.scanned_at.is_some());
        shared
    }
}

struct Shared {
    sharing: Sharing,
    view: Receiver<ShareView>,
}

impl Shared {
    /// Waits until the view is so and no scan runs.
    fn wait(&mut self, so: impl Fn(&ShareView) -> bool) -> ShareView {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let view = self.view.wait_for(|view| !view.scanning && so(view));
        let waited = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), view).await });
        let view = waited.ok().and_then(Result::ok).map(|view| view.clone());
        view.unwrap_or_else(|| panic!("never seen; at last {:?}", self.sharing.view().borrow()))
    }

    fn rescan(&mut self) -> ShareView {
        let before = self.view.borrow().scanned_at;
        while Some(Clock::start().now().wall) <= before {
            std::hint::spin_loop();
        }
        self.sharing.rescan(None).unwrap();
        self.wait(|view| view.scanned_at != before)
    }

    fn search(&self, query: &str) -> Vec<String> {
        self.sharing.search(query, 1_000).unwrap().into_iter().map(|file| file.path).collect()
    }

    fn find(&self, path: &str) -> Option<PathBuf> {
        self.sharing.find(&WireText::from(path)).unwrap().map(|found| found.local_path)
    }

    /// Ends it, so that the store can be opened again.
    fn end(self) {
        assert!(self.sharing.end(Duration::from_secs(30)));
    }
}

fn counts(folders: u32, files: u32) -> ShareCounts {
    ShareCounts { folders, files }
}

#[test]
fn only_changed_files_are_opened_and_the_index_follows_the_disk() {
    let world = World::new();
    for track in 1..=5 {
        world.put(format!("music/Artist/Album/{track} Song.mp3"), b"not really sound");
    }
    world.put("music/Artist/notes.txt", b"words");
    let mut shared = world.scanned();
    assert_eq!(shared.view.borrow().counts, counts(2, 6));
    assert_eq!(shared.view.borrow().bytes, 5 * 16 + 5);
    assert_eq!(shared.sharing.opened(), 5, "a text has no audio header");

    shared.rescan();
    assert_eq!(shared.sharing.opened(), 5);

    world.put("music/Artist/Album/2 Song.mp3", b"longer than it was before");
    fs::remove_file(world.at("music/Artist/Album/3 Song.mp3")).unwrap();
    fs::rename(world.at("music/Artist/Album/4 Song.mp3"), world.at("music/Artist/Album/4 Other.mp3")).unwrap();
    world.put("music/Artist/Live/1 New.flac", b"new");
    let view = shared.rescan();
    assert_eq!(shared.sharing.opened(), 8, "changed, renamed, new");
    assert_eq!(view.counts, counts(3, 6));
    assert_eq!(view.problems, [""; 0]);
    assert_eq!(shared.search("artist album song").len(), 3);
    assert_eq!(shared.search("other"), [r"Music\Artist\Album\4 Other.mp3"]);
    assert_eq!(shared.find(r"Music\Artist\Album\3 Song.mp3"), None);
    let found = shared.sharing.find(&WireText::from(r"Music\Artist\Album\2 Song.mp3")).unwrap().unwrap();
    assert_eq!((found.size, found.local_path), (25, world.at("music/Artist/Album/2 Song.mp3")));

    fs::remove_dir_all(world.at("music/Artist/Album")).unwrap();
    assert_eq!(shared.rescan().counts, counts(2, 2));
    assert!(shared.search("album").is_empty());
    shared.end();

    // A restart answers from the index, before anything is scanned, and opens nothing.
    let mut shared = world.start();
    assert_eq!(shared.view.borrow().counts, counts(2, 2));
    assert!(shared.view.borrow().ready);
    assert_eq!(shared.search("artist live"), [r"Music\Artist\Live\1 New.flac"]);
    let before = shared.view.borrow().scanned_at;
    shared.wait(|view| view.scanned_at != before);
    assert_eq!(shared.sharing.opened(), 0);
    assert_eq!(shared.view.borrow().counts, counts(2, 2));
    shared.end();
}

#[test]
fn paths_are_looked_up_and_never_joined() {
    let world = World::new();
    world.put("music/Artist/Song.mp3", b"x");
    world.put("secret.txt", b"x");
    let shared = world.scanned();
    assert!(shared.find(r"Music\Artist\Song.mp3").is_some());
    for path in [
        r"Music\..\secret.txt",
        r"Music\Artist\..\Artist\Song.mp3",
        r"music\Artist\Song.mp3",
        r"Music\Artist\song.mp3",
        "Music/Artist/Song.mp3",
        r"Music\Artist",
        r"\Music\Artist\Song.mp3",
        "",
        "\\",
        "Song.mp3",
        "Music\\Artist\\Song.mp3\0",
        &world.at("secret.txt").to_string_lossy(),
    ] {
        assert_eq!(shared.find(path), None, "{path:?}");
    }
    assert_eq!(shared.find(&"a\\".repeat(3_000)), None);
}

#[test]
fn links_stay_inside_their_share_and_make_no_loops() {
    let world = World::new();
    world.put("music/Real/Song.mp3", b"x");
    world.put("outside/Secret.mp3", b"x");
    symlink(world.at("outside"), world.at("music/Out")).unwrap();
    symlink(world.at("outside/Secret.mp3"), world.at("music/Out.mp3")).unwrap();
    symlink("../music/Real", world.at("music/In")).unwrap();
    symlink("Real/Song.mp3", world.at("music/In.mp3")).unwrap();
    symlink("..", world.at("music/Real/Up")).unwrap();
    symlink(".", world.at("music/Self")).unwrap();
    symlink("nowhere", world.at("music/Dangling.mp3")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        world.at("music/pipe.mp3"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let mut shared = world.scanned();
    let mut found = shared.search("mp3");
    found.sort();
    assert_eq!(found, [r"Music\In.mp3", r"Music\In\Song.mp3", r"Music\Real\Song.mp3"]);
    let problems = shared.view.borrow().problems.clone();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().all(|line| line.contains("leads out of its share")), "{problems:?}");
    assert!(shared.find(r"Music\In\Song.mp3").is_some());

    // A file that became a link since the scan is not handed out.
    fs::remove_file(world.at("music/Real/Song.mp3")).unwrap();
    symlink(world.at("outside/Secret.mp3"), world.at("music/Real/Song.mp3")).unwrap();
    assert_eq!(shared.find(r"Music\Real\Song.mp3"), None);
    assert_eq!(shared.rescan().counts, counts(0, 0));
}

#[test]
fn names_that_are_no_text_are_found_and_resolve() {
    let world = World::new();
    let odd_folder = world.at("music").join(OsStr::from_bytes(b"Bj\xf6rk"));
    fs::create_dir(&odd_folder).unwrap();
    let names: [&[u8]; 4] = [b"J\xf3ga.mp3", "Jóga.mp3".as_bytes(), b"a\\b.mp3", b"line\nbreak.mp3"];
    for (size, name) in names.iter().enumerate() {
        fs::write(odd_folder.join(OsStr::from_bytes(name)), vec![0; size]).unwrap();
    }
    // Longer than a key of the index.
    let long = odd_folder.join("ö".repeat(120)).join("é".repeat(120)).join("ü".repeat(120));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join(OsStr::from_bytes(&[0xe9; 250])), b"long").unwrap();
    let mut shared = world.scanned();
    let mut found = shared.search("björk");
    found.sort();
    assert_eq!(found.len(), 5);
    assert_eq!(
        found[..4],
        [r"Music\Björk\Jóga (2).mp3", r"Music\Björk\Jóga.mp3", r"Music\Björk\a_b.mp3", r"Music\Björk\line_break.mp3"]
    );
    for (path, name) in found.iter().zip([names[0], names[1], names[2], names[3]]) {
        let local = shared.find(path).unwrap();
        assert_eq!(local.file_name().unwrap().as_bytes(), name);
        File::open(local).unwrap();
    }
    assert_eq!(fs::read(shared.find(&found[4]).unwrap()).unwrap(), b"long");
    // The same path, asked for in Latin-1.
    let latin1 = WireText::from_wire(b"Music\\Bj\xf6rk\\J\xf3ga.mp3");
    assert_eq!(shared.sharing.find(&latin1).unwrap().unwrap().size, 1);
    assert_eq!(shared.sharing.folder(&WireText::from(r"Music\Björk")).unwrap().len(), 2);
    let opened = shared.sharing.opened();
    shared.rescan();
    assert_eq!(shared.sharing.opened(), opened, "odd names are recognised");
}

#[test]
fn an_unreadable_folder_is_a_problem_and_no_failure() {
    let world = World::new();
    world.put("music/Good/Song.mp3", b"x");
    world.put("music/Bad/Song.mp3", b"x");
    fs::set_permissions(world.at("music/Bad"), fs::Permissions::from_mode(0o000)).unwrap();
    let view = std::thread::scope(|scope| {
        let scan = scope.spawn(|| {
            // Root reads everything; a thread, and those it starts, can do without that.
            let none = rustix::thread::CapabilitySet::empty();
            let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
            rustix::thread::set_capabilities(None, sets).unwrap();
            let shared = world.scanned();
            let view = shared.view.borrow().clone();
            shared.end();
            view
        });
        scan.join().unwrap()
    });
    fs::set_permissions(world.at("music/Bad"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(view.counts, counts(1, 1));
    assert_eq!(view.problems.len(), 1, "{:?}", view.problems);
    assert!(view.problems[0].contains("music/Bad: Permission denied"), "{:?}", view.problems);
}

#[test]
fn a_share_that_is_away_is_kept_and_not_answered() {
    let world = World::new();
    world.put("music/Artist/Song.mp3", b"x");
    world.put("more/Artist/Tune.mp3", b"x");
    let mut settings = world.settings();
    settings.directories.push(("More".to_owned(), world.at("more")));
    let mut shared = world.start_with(settings);
    assert_eq!(shared.wait(|view| view.scanned_at.is_some()).counts, counts(2, 2));
    let opened = shared.sharing.opened();

    fs::rename(world.at("music"), world.at("unmounted")).unwrap();
    let view = shared.rescan();
    assert!(view.problems[0].contains("cannot be read"), "{:?}", view.problems);
    fs::create_dir(world.at("music")).unwrap();
    let view = shared.rescan();
    assert!(view.problems[0].contains("is empty and had 1 files"), "{:?}", view.problems);
    assert_eq!(view.counts, counts(1, 1));
    assert_eq!(view.roots[0].counts, counts(1, 1), "they are kept");
    assert_eq!(shared.search("artist"), [r"More\Artist\Tune.mp3"]);
    assert_eq!(shared.find(r"Music\Artist\Song.mp3"), None);
    assert!(shared.sharing.folder(&WireText::from("Music")).unwrap().is_empty());
    assert_eq!(shared.sharing.folders(None, 0, 10).unwrap().1, 1);

    fs::remove_dir(world.at("music")).unwrap();
    fs::rename(world.at("unmounted"), world.at("music")).unwrap();
    let view = shared.rescan();
    assert_eq!((view.counts, view.problems.len()), (counts(2, 2), 0));
    assert_eq!(shared.search("artist").len(), 2);
    assert_eq!(shared.sharing.opened(), opened);
}

#[test]
fn what_is_not_wanted_is_not_shared() {
    let world = World::new();
    for path in [
        "Song.mp3",
        ".hidden/Song.mp3",
        ".hidden.mp3",
        "@eaDir/Song.mp3",
        "Song2.mp3.part",
        "Thumbs.db",
        "list.INI",
        "private/Song.mp3",
        "data/key",
        "slskdn.yml",
    ] {
        world.put(Path::new("music").join(path), b"x");
    }
    let mut settings = world.settings();
    settings.filters = vec![r"\.ini$".to_owned(), "/PRIVATE/".to_owned()];
    settings.excluded = vec![world.at("music/data"), world.at("music/slskdn.yml")];
    let mut shared = world.start_with(settings.clone());
    assert_eq!(shared.wait(|view| view.scanned_at.is_some()).counts, counts(1, 1));
    settings.filters = vec!["(".to_owned()];
    assert!(matches!(shared.sharing.configure(settings), Err(SharingError::Filter { .. })));
}

#[test]
fn shares_come_go_and_change_names() {
    let world = World::new();
    world.put("music/a.mp3", b"x");
    world.put("more/b.mp3", b"x");
    let mut shared = world.scanned();
    let before = shared.view.borrow().roots[0].clone();
    let mut settings = world.settings();
    // The new share takes the name, the old one gets another.
    settings.directories = vec![("Music".to_owned(), world.at("more")), ("Music".to_owned(), world.at("music"))];
    shared.sharing.configure(settings.clone()).unwrap();
    let view = shared.wait(|view| view.roots.len() == 2 && view.roots.iter().all(|root| root.counts.files == 1));
    assert_eq!((view.roots[1].id.as_str(), view.roots[1].alias.as_str()), (before.id.as_str(), "Music (2)"));
    assert_eq!(shared.find(r"Music\b.mp3"), Some(world.at("more/b.mp3")));
    assert_eq!(shared.find(r"Music (2)\a.mp3"), Some(world.at("music/a.mp3")));
    assert_eq!(shared.find(r"Music\a.mp3"), None);

    world.put("music/c.mp3", b"x");
    world.put("more/d.mp3", b"x");
    shared.sharing.rescan(Some(&before.id)).unwrap();
    let view = shared.wait(|view| view.counts.files == 3);
    assert_eq!(view.roots[0].counts.files, 1, "only the one asked for");
    assert!(matches!(shared.sharing.rescan(Some("0")), Err(SharingError::UnknownShare(_))));

    settings.directories.remove(0);
    shared.sharing.configure(settings).unwrap();
    shared.wait(|view| view.roots.len() == 1 && view.counts == counts(1, 2));
    assert!(shared.search("b").is_empty());
    shared.end();

    // A share removed while the program was off does not answer when it starts.
    let mut settings = world.settings();
    settings.directories.clear();
    let mut shared = world.start_with(settings);
    assert!(shared.search("mp3").is_empty());
    assert_eq!(shared.view.borrow().counts, counts(0, 0));
    let before = shared.view.borrow().scanned_at;
    shared.wait(|view| view.scanned_at != before);
    shared.end();
    let roots = world.store().read(|txn, tables| tables.shares.roots(txn)).unwrap();
    assert!(roots.is_empty());
}

#[test]
fn a_scan_can_be_stopped() {
    let world = World::new();
    let paths = library::paths(3, 5_000);
    library::build(&world.at("music"), &paths).unwrap();
    let mut settings = world.settings();
    // It rests so long that it would take most of a minute.
    settings.rest = 1e6;
    let mut shared = world.start_with(settings.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(shared.view.wait_for(|view| view.scanning)).unwrap();
    shared.sharing.stop_scan();
    let view = shared.wait(|_| true);
    assert!(view.counts.files < 5_000 && view.scanned_at.is_none());
    settings.rest = 0.0;
    shared.sharing.configure(settings).unwrap();
    assert_eq!(shared.wait(|view| view.scanned_at.is_some()).counts.files, 5_000);
}

#[test]
fn changes_are_noticed_without_a_scan_being_asked_for() {
    let world = World::new();
    world.put("music/Artist/Song.mp3", b"x");
    world.put("music/Artist/Old/Song.mp3", b"x");
    let mut settings = world.settings();
    settings.watch = true;
    let mut shared = world.start_with(settings);
    let scanned_at = shared.wait(|view| view.scanned_at.is_some()).scanned_at;
    world.put("music/Artist/Album/1.mp3", b"x");
    world.put("music/Artist/2.mp3", b"x");
    fs::remove_dir_all(world.at("music/Artist/Old")).unwrap();
    let view = shared.wait(|view| view.counts == counts(2, 3));
    assert_eq!(view.scanned_at, scanned_at, "only what changed was looked at");
    assert_eq!(shared.search("album"), [r"Music\Artist\Album\1.mp3"]);
    fs::rename(world.at("music/Artist/Album"), world.at("music/Moved")).unwrap();
    world.put("music/Moved/3.mp3", b"x");
    shared.wait(|view| view.counts == counts(2, 4));
    assert_eq!(shared.search("moved").len(), 2);
    assert!(shared.search("album").is_empty());
}

#[test]
fn headers_are_read_and_damaged_ones_do_no_harm() {
    let world = World::new();
    let mut wav = b"RIFF\x24\xb1\x02\x00WAVEfmt \x10\0\0\0\x01\0\x02\0".to_vec();
    wav.extend(44_100_u32.to_le_bytes().iter().chain(&176_400_u32.to_le_bytes()));
    wav.extend(b"\x04\0\x10\0data");
    wav.extend(352_800_u32.to_le_bytes());
    wav.resize(wav.len() + 352_800, 0);
    world.put("music/tone.wav", &wav);
    let mut frame = vec![0xff, 0xfb, 0x90, 0x64];
    frame.resize(417, 0);
    world.put("music/tone.mp3", &frame.repeat(200));
    let mut dice = library::Dice::new(11);
    for ending in ["mp3", "flac", "ogg", "opus", "m4a", "wav", "aiff", "wv", "ape"] {
        let noise: Vec<u8> = (0..2_000).map(|_| dice.roll().to_le_bytes()[0]).collect();
        world.put(format!("music/noise.{ending}"), &noise);
        world.put(format!("music/nothing.{ending}"), b"");
        world.put(format!("music/cut.{ending}"), &wav[..40]);
    }
    let shared = world.scanned();
    assert_eq!(shared.view.borrow().counts.files, 29);
    let file = |query: &str| shared.sharing.search(query, 10).unwrap().remove(0).attributes;
    let wav = file("tone wav");
    assert_eq!((wav.duration_s, wav.sample_rate_hz, wav.bit_depth), (Some(2), Some(44_100), Some(16)));
    let mp3 = file("tone mp3");
    assert_eq!((mp3.duration_s, mp3.bitrate_kbps, mp3.bit_depth), (Some(5), Some(128), None));
    let folder = shared.sharing.folder(&WireText::from("Music")).unwrap().remove(0);
    let sent = folder.files.iter().find(|file| file.name.as_str() == "tone.wav").unwrap();
    assert_eq!(sent.attributes, [(1, 2), (4, 44_100), (5, 16)]);
}

#[test]
fn a_large_share_is_searched_listed_and_browsed_rightly() {
    let world = World::new();
    let paths = library::paths(7, 20_000);
    library::build(&world.at("music"), &paths).unwrap();
    let mut shared = world.scanned();
    let folders: BTreeSet<_> = paths.iter().map(|path| path.parent().unwrap().to_owned()).collect();
    let counted = counts(u32::try_from(folders.len()).unwrap(), 20_000);
    assert_eq!(shared.view.borrow().counts, counted);

    let virtual_paths: Vec<String> =
        paths.iter().map(|path| format!("Music\\{}", path.to_string_lossy().replace('/', "\\"))).collect();
    let worded: Vec<(&String, BTreeSet<String>)> =
        virtual_paths.iter().map(|path| (path, words(path).collect())).collect();
    let mut dice = library::Dice::new(8);
    let mut answered = 0;
    for _ in 0..60 {
        let text = library::query(&mut dice, &paths);
        let query = Query::parse(&text).unwrap();
        let has = |path: &BTreeSet<String>| {
            query.words.iter().all(|word| path.contains(word)) && !query.excluded.iter().any(|word| path.contains(word))
        };
        let naive: BTreeSet<&String> = worded.iter().filter(|(_, words)| has(words)).map(|(path, _)| *path).collect();
        let found = shared.search(&text);
        if naive.len() <= 1_000 {
            assert_eq!(found.iter().collect::<BTreeSet<_>>(), naive, "{text:?}");
        } else {
            assert!(found.len() == 1_000 && found.iter().all(|path| naive.contains(path)), "{text:?}");
        }
        answered += usize::from(!found.is_empty());
    }
    assert!(answered > 40, "{answered}");

    // Excluded phrases, as the server sends them.
    let artist = paths[0].iter().next().unwrap().to_str().unwrap().to_owned();
    let ask = |query: &str| match shared.sharing.answer(ShareAsk::Search {
        user: "somebody".into(),
        token: Token(5),
        query: query.to_owned(),
    }) {
        Some(ShareAnswer::Hits { token: Token(5), files, .. }) => files.len(),
        other => panic!("{other:?}"),
    };
    assert!(ask(&artist) > 0 && ask("music") == 250);
    assert!(shared.sharing.answer(ShareAsk::Excluded(vec![artist.to_uppercase()])).is_none());
    assert_eq!(ask(&artist), 0);

    // Pages of the owner's page, in order, without gaps.
    let root = shared.view.borrow().roots[0].id.clone();
    let (all, total) = shared.sharing.folders(None, 0, 10_000).unwrap();
    assert_eq!((all.len(), total), (folders.len(), folders.len()));
    let mut paged = Vec::new();
    while paged.len() < total {
        paged.extend(shared.sharing.folders(Some(&root), paged.len(), 100).unwrap().0);
    }
    assert_eq!(paged, all);
    assert_eq!(shared.sharing.folder(&WireText::from(format!("Music\\{artist}"))).unwrap().len(), {
        folders.iter().filter(|folder| folder.starts_with(&artist)).count()
    });

    // The browse reply holds the same; it is made behind the scan.
    shared.rescan();
    shared.sharing.end(Duration::from_secs(30));
    let list = File::open(shared.sharing.share_list()).unwrap();
    let reader = ShareListReader::new(flate2::read::ZlibDecoder::new(list));
    let listed: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(listed.iter().map(|folder| folder.name.clone()).collect::<Vec<_>>(), {
        all.iter().map(|folder| folder.name.clone()).collect::<Vec<_>>()
    });
    assert_eq!(listed.iter().map(|folder| folder.files.len()).sum::<usize>(), 20_000);
}
