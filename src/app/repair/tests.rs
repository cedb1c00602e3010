mod refused;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::look::look;
use super::mender::job_number;
use super::swap::{Bytes, Folder, Names, Outcome, Pair};
use super::{Mender, Placed, learn};
use crate::app::clock::Clock;
use crate::app::doctor::scan::{self, Reins};
use crate::app::doctor::tests::Box_;
use crate::app::doctor::walk::from_path;
use crate::app::{catalog, jobs};
use crate::engine::jobs::judge::Verdict;
use crate::engine::jobs::work::Work;
use crate::engine::library::fixtures::measured;
use crate::engine::library::{About, issue_id, merge};
use crate::engine::repair::plan;
use crate::engine::repair::swap::{Fate, Want, Why, backup_name};
use crate::model::config;
use crate::model::health::{Identity, Issue, IssueKind, IssueStatus, MatchedBy, ResolvedBy, Variant};
use crate::model::id::{ContentHash, RecordingId, ReleaseId};
use crate::model::job::{Job, JobId, JobState, JobTrack, MbRelease, Proof};
use crate::model::repair::{Manner, NewFile, OldFile, Places, Repair, RepairState, Strategy};
use crate::model::time::UnixMs;

const OLD: &[u8] = b"the old file";
const NEW: &[u8] = b"the new file, which is longer";

// ---- Files ----

fn bytes(content: &[u8]) -> Bytes {
    Bytes { size: content.len() as u64, content: ContentHash(*blake3::hash(content).as_bytes()) }
}

fn pair() -> Pair {
    Pair { old: bytes(OLD), new: bytes(NEW) }
}

fn names(old: &str, new: &str, backup: Option<&str>) -> Names {
    let name = |text: &str| text.as_bytes().to_vec();
    Names { old: name(old), new: name(new), backup: backup.map(name), aside: None }
}

/// Every file of a folder.
fn listed(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = |entry: io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
    };
    fs::read_dir(folder).unwrap().map(file).collect()
}

fn is_music(content: &[u8]) -> bool {
    content == OLD || content == NEW
}

struct Album {
    _dir: tempfile::TempDir,
    folder: PathBuf,
    finished: PathBuf,
}

impl Album {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (folder, finished) = (root.join("album"), root.join("finished.flac"));
        fs::create_dir(&folder).unwrap();
        fs::write(&finished, NEW).unwrap();
        for (name, content) in files {
            fs::write(folder.join(name), content).unwrap();
        }
        Self { _dir: dir, folder, finished }
    }

    fn open(&self) -> Folder {
        Folder::open(&self.folder, &[self.folder.parent().unwrap().to_owned()]).unwrap()
    }
}

/// Lets so many changes happen, then kills.
fn kill_after(left: &Cell<u32>) -> impl Fn() -> io::Result<()> + '_ {
    move || {
        left.set(left.get().checked_sub(1).ok_or_else(|| io::Error::other("killed"))?);
        Ok(())
    }
}

/// Does something whole, and once for every moment at which it can be killed: a file of the track lies there at that
/// moment, and afterwards it comes to the same end.
fn at_every_moment(
    album: impl Fn() -> Album,
    work: impl Fn(&Album, &dyn Fn() -> io::Result<()>) -> io::Result<Outcome>,
    check: impl Fn(&BTreeMap<String, Vec<u8>>),
) -> BTreeMap<String, Vec<u8>> {
    let whole = album();
    let counted = Cell::new(0);
    let count = || {
        counted.set(counted.get() + 1);
        Ok(())
    };
    assert_eq!(work(&whole, &count).unwrap(), Outcome::Done);
    let end = listed(&whole.folder);
    assert!(counted.get() > 1);
    for moment in 0..counted.get() {
        let album = album();
        let left = Cell::new(moment);
        let killed = work(&album, &kill_after(&left));
        assert!(killed.is_err(), "moment {moment}");
        check(&listed(&album.folder));
        assert_eq!(work(&album, &|| Ok(())).unwrap(), Outcome::Done, "moment {moment}");
        assert_eq!(listed(&album.folder), end, "moment {moment}");
    }
    end
}

#[test]
fn a_swap_that_is_killed_at_any_moment_leaves_a_file_and_goes_on() {
    for (names, fate, expect) in [
        (names("a.flac", "a.flac", Some("a.flac.bak")), Fate::Kept, vec![("a.flac", NEW), ("a.flac.bak", OLD)]),
        (names("a.flac", "a.flac", Some("a.flac.bak")), Fate::Removed, vec![("a.flac", NEW)]),
        (names("a.mp3", "a.flac", Some("a.mp3.bak")), Fate::Kept, vec![("a.flac", NEW), ("a.mp3.bak", OLD)]),
        (names("a.mp3", "a.flac", Some("a.mp3.bak")), Fate::Removed, vec![("a.flac", NEW)]),
        (names("a.flac", "a (2).flac", None), Fate::Stays, vec![("a.flac", OLD), ("a (2).flac", NEW)]),
    ] {
        let old = String::from_utf8(names.old.clone()).unwrap();
        let want = Want { same_name: names.old == names.new, fate };
        let end = at_every_moment(
            || Album::new(&[(&old, OLD)]),
            |album, before| album.open().swap(want, &names, &pair(), Some(&album.finished), before),
            |files| {
                let playable = files.iter().filter(|(name, content)| {
                    is_music(content) && !name.as_bytes().ends_with(b".bak") && !name.starts_with('.')
                });
                assert!(playable.count() > 0, "{files:?}");
            },
        );
        let expect: BTreeMap<String, Vec<u8>> =
            expect.into_iter().map(|(name, content)| (name.to_owned(), content.to_vec())).collect();
        assert_eq!(end, expect);
    }
}

#[test]
fn a_killed_swap_whose_finished_file_is_gone_ends_one_way_or_the_other() {
    for (old, new, backup) in [("a.flac", "a.flac", "a.flac.bak"), ("a.mp3", "a.flac", "a.mp3.bak")] {
        let names = names(old, new, Some(backup));
        let want = Want { same_name: old == new, fate: Fate::Kept };
        let (mut done, mut stopped) = (0, 0);
        for moment in 0.. {
            let album = Album::new(&[(old, OLD)]);
            let left = Cell::new(moment);
            if album.open().swap(want, &names, &pair(), Some(&album.finished), &kill_after(&left)).is_ok() {
                break;
            }
            fs::remove_file(&album.finished).unwrap();
            match album.open().swap(want, &names, &pair(), None, &|| Ok(())).unwrap() {
                Outcome::Done => {
                    done += 1;
                    assert_eq!(listed(&album.folder).get(new).map(Vec::as_slice), Some(NEW), "moment {moment}");
                    assert_eq!(listed(&album.folder).len(), 2, "moment {moment}");
                }
                Outcome::Stopped(why) => {
                    stopped += 1;
                    assert_eq!((why, listed(&album.folder)), (Why::Gone, [(old.to_owned(), OLD.to_vec())].into()));
                }
            }
        }
        assert!(done > 0 && stopped > 0, "{old}: {done} {stopped}");
    }
}

#[test]
fn an_undoing_that_is_killed_at_any_moment_loses_nothing() {
    for (mut names, files, expect) in [
        (
            names("a.flac", "a.flac", Some("a.flac.bak")),
            vec![("a.flac", NEW), ("a.flac.bak", OLD)],
            vec![("a.flac", OLD), ("a.flac.bak", NEW)],
        ),
        (
            names("a.mp3", "a.flac", Some("a.mp3.bak")),
            vec![("a.flac", NEW), ("a.mp3.bak", OLD)],
            vec![("a.mp3", OLD), ("a.flac.bak", NEW)],
        ),
    ] {
        if names.old != names.new {
            names.aside = Some(backup_name(&names.new, 1));
        }
        let end = at_every_moment(
            || Album::new(&files),
            |album, before| album.open().undo(&names, &pair(), before),
            |files| {
                assert!(files.values().any(|content| content == OLD) && files.values().any(|content| content == NEW));
            },
        );
        let expect: BTreeMap<String, Vec<u8>> =
            expect.into_iter().map(|(name, content)| (name.to_owned(), content.to_vec())).collect();
        assert_eq!(end, expect);
    }
}

#[test]
fn what_the_owner_did_meanwhile_stays() {
    let names = names("a.flac", "a.flac", Some("a.flac.bak"));
    let want = Want { same_name: true, fate: Fate::Kept };
    for (files, why) in [
        (vec![("a.flac", &b"tagged anew"[..])], Why::Changed),
        (vec![], Why::Changed),
        (vec![("a.flac", OLD), ("a.flac.bak", &b"the owner's"[..])], Why::Taken),
    ] {
        let album = Album::new(&files);
        let before = listed(&album.folder);
        let outcome = album.open().swap(want, &names, &pair(), Some(&album.finished), &|| Ok(())).unwrap();
        assert_eq!((outcome, listed(&album.folder)), (Outcome::Stopped(why), before));
    }
}

#[test]
fn links_and_strange_folders_are_not_written_to() {
    let album = Album::new(&[("b.flac", OLD)]);
    let root = album.folder.parent().unwrap().to_owned();
    let link = root.join("link");
    std::os::unix::fs::symlink(&album.folder, &link).unwrap();
    assert!(Folder::open(&link, std::slice::from_ref(&root)).is_err());
    fs::create_dir(album.folder.join("inner")).unwrap();
    assert!(Folder::open(&link.join("inner"), std::slice::from_ref(&root)).is_err(), "a link on the way");
    assert!(Folder::open(&album.folder, &[root.join("elsewhere")]).is_err());
    assert!(Folder::open(&album.folder, std::slice::from_ref(&root)).is_ok());
    // A link in the place of the file.
    std::os::unix::fs::symlink(album.folder.join("b.flac"), album.folder.join("a.flac")).unwrap();
    let names = names("a.flac", "a.flac", Some("a.flac.bak"));
    let want = Want { same_name: true, fate: Fate::Kept };
    let outcome = album.open().swap(want, &names, &pair(), Some(&album.finished), &|| Ok(())).unwrap();
    assert_eq!(outcome, Outcome::Stopped(Why::Changed));
    assert_eq!(fs::read(album.folder.join("b.flac")).unwrap(), OLD);
}

// ---- Records ----

const BAD: &str = "recording=11\nscore=-0.4";
const GOOD: &str = "recording=11\nscore=0.9";

struct World {
    library: Box_,
    mender: Mender,
    job: JobId,
}

impl World {
    /// A library with these files, looked at.
    fn new(files: &[(&str, &str)]) -> Self {
        let mut library = Box_::new();
        for (name, lines) in files {
            library.put(name, lines);
        }
        library.scan();
        let root = library.music.path().canonicalize().unwrap();
        let mender = Mender::new(library.ground.clone(), vec![root], 0.1);
        Self { library, mender, job: JobId::from_random(7) }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.library.music.path().canonicalize().unwrap().join(name)
    }

    fn issue(&self, name: &str) -> Issue {
        let id = issue_id(IssueKind::SuspectedTranscode, About::File(&from_path(&self.at(name))));
        self.mender.store().read(|txn, tables| tables.library.issue(txn, id)).unwrap().unwrap()
    }

    fn repair(&self, name: &str) -> Repair {
        self.mender.store().repair(self.issue(name).id).unwrap().unwrap()
    }

    /// That of a file which may be gone.
    fn repair_of(&self, folder: &Path) -> Repair {
        let rows = self.mender.store().repairs_of(&self.job).unwrap();
        let is_in = |row: &&Repair| row.old.as_ref().is_some_and(|old| old.path.folder() == from_path(folder).0);
        rows.iter().find(is_in).unwrap().clone()
    }

    fn job_in(&self, state: JobState) -> Job {
        let track = JobTrack {
            medium: 1,
            position: 1,
            title: "T".to_owned(),
            artist: String::new(),
            recording: RecordingId(11),
            duration_ms: None,
        };
        let spec = MbRelease {
            release: ReleaseId(9),
            title: "Album".to_owned(),
            artist: "Artist".to_owned(),
            target_dir: self.at("a").display().to_string(),
            tracks: vec![track],
            constraints: plan::constraints(),
        };
        Job { state, ..jobs::new_job(self.job.clone(), spec, UnixMs(1)) }
    }

    fn keep_job(&self, state: JobState) -> Job {
        let job = self.job_in(state);
        let kept = job.clone();
        let put = move |txn: &mut heed::RwTxn<'_>, tables: &crate::store::tables::Tables| {
            tables.jobs.put(txn, &kept, &Work::new(1)).map(drop)
        };
        self.mender.store().write_blocking(put).unwrap();
        job
    }

    /// The owner wanted these mended: records as they are when the job was taken up.
    fn begin(&self, names: &[&str], manner: Manner) {
        self.keep_job(JobState::Running);
        for name in names {
            let issue = self.issue(name);
            let content = fs::read(self.at(name)).unwrap();
            let Bytes { size, content } = bytes(&content);
            let repair = Repair {
                issue: issue.id,
                job: self.job.clone(),
                track: Some(0),
                strategy: Strategy::RedownloadTracks,
                manner,
                old: Some(OldFile { path: issue.path.clone(), content, size, score: Some(0.4) }),
                new: None,
                places: None,
                state: RepairState::Fetching,
                by_itself: false,
                keep_tags: false,
                tags_kept: false,
                told: true,
                began_at: UnixMs(1),
                updated_at: UnixMs(1),
                ended_at: None,
            };
            let number = job_number(&self.job).unwrap();
            self.mender
                .store()
                .write_blocking(move |txn, tables| {
                    tables.library.put_issue(txn, &merge::fixing(&issue, number))?;
                    tables.repairs.put(txn, &repair)
                })
                .unwrap();
        }
    }

    /// The job brought a file and found it to be right.
    fn fetched(&self) -> PathBuf {
        let finished = self.at("new.flac");
        fs::write(&finished, GOOD).unwrap();
        let Bytes { size, content } = bytes(GOOD.as_bytes());
        self.mender.found(&self.job, 0, &NewFile { content, size, score: 0.9, proof: Proof::Tags }, &[]).unwrap();
        finished
    }

    fn place(&self) -> Placed {
        let finished = self.fetched();
        self.mender.place(&self.job, 0, &finished).unwrap()
    }

    fn learn(&self, name: &str) {
        let files = self.mender.changed(&self.repair(name)).unwrap();
        learn::learn(&self.library.ground, &files, &Reins::default(), true).unwrap();
    }

    fn content(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.at(name)).ok()
    }
}

#[test]
fn a_transcode_is_replaced_and_put_back() {
    let world = World::new(&[("a/song.mp3", BAD)]);
    world.begin(&["a/song.mp3"], Manner::Backup);
    let bench = world.mender.bench(&world.job, 0).unwrap().unwrap();
    let judged = |score| bench.judge(Verdict::Right(Proof::Tags), &measured(GOOD.as_bytes()), score);
    assert!(matches!(judged(0.3), (Verdict::Wrong(why), _) if why.contains("0.40 is wanted")));
    assert_eq!(judged(0.9), (Verdict::Right(Proof::Tags), Vec::new()));

    assert!(matches!(world.place(), Placed::Swapped(name, _) if name == "song.flac"));
    assert_eq!(world.content("a/song.flac").as_deref(), Some(GOOD));
    assert_eq!(world.content("a/song.mp3.bak").as_deref(), Some(BAD));
    assert_eq!((world.content("a/song.mp3"), world.content("new.flac")), (None, None));
    let issue = world.issue("a/song.mp3");
    assert_eq!((issue.status, issue.resolved_by), (IssueStatus::Resolved, Some(ResolvedBy::AutoFixed)));
    assert_eq!(issue.job, job_number(&world.job));
    // A second time, as after a kill before the job heard of it.
    assert!(matches!(world.place(), Placed::Swapped(name, _) if name == "song.flac"));
    assert_eq!(world.content("a/song.flac.bak"), None);
    world.learn("a/song.mp3");
    assert!(world.library.issues().is_empty());

    let repair = world.mender.undo(&world.repair("a/song.mp3")).unwrap();
    assert_eq!(repair.state, RepairState::Undone);
    assert_eq!(world.content("a/song.mp3").as_deref(), Some(BAD));
    assert_eq!(world.content("a/song.flac.bak").as_deref(), Some(GOOD));
    assert_eq!((world.content("a/song.mp3.bak"), world.content("a/song.flac")), (None, None));
    assert_eq!(world.issue("a/song.mp3").status, IssueStatus::Acknowledged);
    world.learn("a/song.mp3");
    assert_eq!(world.library.issues(), [(IssueKind::SuspectedTranscode, "a/song.mp3".to_owned())]);
    assert!(world.mender.undo(&repair).unwrap_err().contains("already"));
}

#[test]
fn what_the_job_proved_is_known_of_a_file_without_tags() {
    let world = World::new(&[("a/song.flac", BAD)]);
    world.begin(&["a/song.flac"], Manner::Backup);
    let (finished, untagged) = (world.at("new.flac"), "score=0.9");
    fs::write(&finished, untagged).unwrap();
    let Bytes { size, content } = bytes(untagged.as_bytes());
    world.mender.found(&world.job, 0, &NewFile { content, size, score: 0.9, proof: Proof::AcoustId }, &[]).unwrap();
    world.mender.place(&world.job, 0, &finished).unwrap();
    world.learn("a/song.flac");
    assert!(world.library.issues().is_empty(), "{:?}", world.library.issues());
    let variant = world.mender.store().read(|txn, tables| tables.library.bare_variant(txn, content)).unwrap().unwrap();
    let identity = variant.identity;
    // The job took it from release 9, which nobody says that the album is.
    assert_eq!((identity.recording_id, identity.release_id), (Some(11), None));
    assert_eq!(identity.matched_by, MatchedBy::Catalog);
}

#[test]
fn one_fetched_file_mends_every_copy() {
    let mut world = World::new(&[("a/x.flac", BAD), ("b/y.flac", "recording=11\nscore=-0.4\n")]);
    world.begin(&["a/x.flac", "b/y.flac"], Manner::Backup);
    assert!(matches!(world.place(), Placed::Swapped(..)));
    for name in ["a/x.flac", "b/y.flac"] {
        assert_eq!(world.content(name).as_deref(), Some(GOOD), "{name}");
        assert_eq!(world.issue(name).status, IssueStatus::Resolved);
        assert_eq!(world.repair(name).state, RepairState::Done);
    }
    // A scan passes the backups over.
    world.library.scan();
    assert!(world.library.with(&[IssueStatus::Detected]).iter().all(|(_, path)| !path.contains("bak")));
    world.mender.undo(&world.repair("b/y.flac")).unwrap();
    assert_eq!(world.content("a/x.flac").as_deref(), Some(GOOD), "the other one stays mended");
    assert_eq!(world.content("b/y.flac.bak").as_deref(), Some(GOOD));
}

#[test]
fn a_file_that_sounds_otherwise_is_left() {
    let world = World::new(&[("a/x.flac", BAD), ("b/y.flac", "recording=11\nscore=-0.4\n")]);
    world.begin(&["a/x.flac", "b/y.flac"], Manner::Backup);
    let finished = world.at("new.flac");
    fs::write(&finished, GOOD).unwrap();
    let Bytes { size, content } = bytes(GOOD.as_bytes());
    let other = world.issue("b/y.flac").id;
    let new = NewFile { content, size, score: 0.9, proof: Proof::Sound };
    world.mender.found(&world.job, 0, &new, &[other]).unwrap();
    assert!(matches!(world.mender.place(&world.job, 0, &finished).unwrap(), Placed::Swapped(..)));
    assert_eq!(world.content("a/x.flac").as_deref(), Some(GOOD));
    assert_eq!(world.content("b/y.flac").as_deref(), Some("recording=11\nscore=-0.4\n"));
    assert_eq!(world.issue("b/y.flac").status, IssueStatus::Failed);
    assert!(world.repair("b/y.flac").state.failure().unwrap().contains("does not sound like"));
}

#[test]
fn without_a_backup_nothing_is_undone_and_beside_nothing_is_replaced() {
    let world = World::new(&[("a/song.flac", BAD)]);
    world.begin(&["a/song.flac"], Manner::NoBackup);
    world.place();
    assert_eq!((world.content("a/song.flac").as_deref(), world.content("a/song.flac.bak")), (Some(GOOD), None));
    assert!(world.mender.undo(&world.repair("a/song.flac")).unwrap_err().contains("backup_before_replace"));

    let world = World::new(&[("a/song.flac", BAD)]);
    world.begin(&["a/song.flac"], Manner::Beside);
    world.place();
    assert_eq!(world.content("a/song.flac").as_deref(), Some(BAD));
    assert_eq!(world.content("a/song (2).flac").as_deref(), Some(GOOD));
    assert_eq!(world.issue("a/song.flac").status, IssueStatus::Acknowledged);
}

#[test]
fn a_file_that_the_owner_changed_is_left_and_the_new_one_goes_as_usual() {
    let world = World::new(&[("a/song.flac", BAD)]);
    world.begin(&["a/song.flac"], Manner::Backup);
    fs::write(world.at("a/song.flac"), "recording=11\nscore=-0.4\ntagged").unwrap();
    assert_eq!(world.place(), Placed::AsUsual);
    assert_eq!(listed(&world.at("a")).len(), 1);
    assert_eq!(world.content("new.flac").as_deref(), Some(GOOD), "the job places it");
    assert_eq!(world.issue("a/song.flac").status, IssueStatus::Failed);
    let RepairState::Failed(why) = world.repair("a/song.flac").state else { panic!() };
    assert!(why.contains("changed or removed") && why.contains("folder of the job"), "{why}");
}

#[test]
fn a_job_that_ends_ends_its_repairs() {
    for (state, word) in [(JobState::Cancelled, "cancelled"), (JobState::Failed, "nobody had it")] {
        let world = World::new(&[("a/song.flac", BAD)]);
        world.begin(&["a/song.flac"], Manner::Backup);
        let job = Job { error: Some("nobody had it".to_owned()), ..world.keep_job(state) };
        world.mender.over(&job).unwrap();
        assert_eq!(world.issue("a/song.flac").status, IssueStatus::Failed);
        assert_eq!(world.repair("a/song.flac").state.failure(), Some(word));
        assert_eq!(world.content("a/song.flac").as_deref(), Some(BAD));
    }
}

#[test]
fn a_swap_whose_job_is_called_off_is_taken_back() {
    for name in ["a/song.flac", "a/song.mp3"] {
        let world = World::new(&[(name, BAD)]);
        world.begin(&[name], Manner::Backup);
        let finished = world.fetched();
        // Killed, or out of room, when the new file was written and the old one had its second name.
        let old = name.strip_prefix("a/").unwrap();
        let (new, backup) = ("song.flac", format!("{old}.bak"));
        let at = |name: &str| from_path(&world.at(&format!("a/{name}")));
        let mut row = world.repair(name);
        row.state = RepairState::Swapping;
        row.places = Some(Places { new: at(new), backup: Some(at(&backup)), aside: None });
        let put = move |txn: &mut heed::RwTxn<'_>, tables: &crate::store::tables::Tables| tables.repairs.put(txn, &row);
        world.mender.store().write_blocking(put).unwrap();
        fs::copy(&finished, world.at(&format!("a/.{old}.slskdn-new"))).unwrap();
        if old == new {
            fs::hard_link(world.at(name), world.at("a/song.flac.bak")).unwrap();
        }
        let job = world.keep_job(JobState::Cancelled);
        world.mender.over(&job).unwrap();
        assert_eq!(listed(&world.at("a")), [(old.to_owned(), BAD.as_bytes().to_vec())].into());
        assert_eq!(world.repair(name).state.failure(), Some("cancelled"));
        assert_eq!(world.issue(name).status, IssueStatus::Failed);
    }
}

#[test]
fn what_the_owner_dismissed_meanwhile_is_left() {
    let world = World::new(&[("a/song.flac", BAD)]);
    world.begin(&["a/song.flac"], Manner::Backup);
    let dismissed = merge::set_status(&world.issue("a/song.flac"), IssueStatus::Ignored, UnixMs(5)).unwrap();
    world.mender.store().write_blocking(move |txn, tables| tables.library.put_issue(txn, &dismissed)).unwrap();
    assert_eq!(world.place(), Placed::AsUsual);
    assert_eq!(world.content("a/song.flac").as_deref(), Some(BAD));
    assert_eq!(world.issue("a/song.flac").status, IssueStatus::Ignored);
    assert!(world.repair("a/song.flac").state.failure().unwrap().contains("dismissed"));
}

#[test]
fn an_album_is_mended_once_the_library_has_looked_at_it() {
    let world = World::new(&[("a/song.flac", BAD)]);
    // Any issue will do: what counts is that its repair adds and replaces nothing.
    world.begin(&["a/song.flac"], Manner::Add);
    let job = world.keep_job(JobState::Completed);
    world.mender.over(&job).unwrap();
    assert_eq!(world.repair("a/song.flac").state, RepairState::Done);
    world.mender.recover().unwrap();
    assert_eq!(world.issue("a/song.flac").status, IssueStatus::Fixing, "a scan may still find it");
    world.mender.told(&world.repair("a/song.flac")).unwrap();
    let issue = world.issue("a/song.flac");
    assert_eq!((issue.status, issue.resolved_by), (IssueStatus::Resolved, Some(ResolvedBy::AutoFixed)));
    assert!(world.repair("a/song.flac").told);
}

#[test]
fn a_file_that_was_known_and_is_ruined_can_still_be_mended() {
    let mut world = World::new(&[("a/song.flac", GOOD)]);
    for ruin in ["broken=no frame", "broken=no frame\nat all"] {
        fs::write(world.at("a/song.flac"), ruin).unwrap();
        world.library.scan();
        let id = issue_id(IssueKind::CorruptedFile, About::File(&from_path(&world.at("a/song.flac"))));
        let issue = world.mender.store().read(|txn, tables| tables.library.issue(txn, id)).unwrap().unwrap();
        assert_eq!((issue.recording_id, issue.title.as_str()), (Some(11), "Title"), "{ruin}");
    }
}

#[test]
fn a_scan_that_asked_in_vain_does_not_forget_what_was_proven() {
    let world = World::new(&[("a/song.flac", "score=0.9")]);
    let content = bytes(b"score=0.9").content;
    let read = || world.mender.store().read(|txn, tables| tables.library.variant(txn, content)).unwrap().unwrap();
    let unknown = read();
    let proven = Identity { recording_id: Some(11), matched_by: MatchedBy::Catalog, ..unknown.identity.clone() };
    let file = learn::Changed { path: from_path(&world.at("a/song.flac")), proven: Some(proven.clone()) };
    learn::learn(&world.library.ground, &[file], &Reins::default(), true).unwrap();
    assert_eq!(read().identity, proven);
    assert!(world.library.issues().is_empty());
    // It began to ask before, and nobody knew.
    let identity = Identity { matched_by: MatchedBy::Nobody, ..unknown.identity.clone() };
    let asked = Variant { identity, ..unknown };
    let issues = scan::file_issues(&asked, &asked.paths[0], UnixMs(9));
    assert_eq!(issues.len(), 1);
    let put = move |txn: &mut heed::RwTxn<'_>, tables: &crate::store::tables::Tables| {
        tables.library.put_known(txn, &asked, &issues, &[IssueKind::MissingMetadata], UnixMs(9))
    };
    world.mender.store().write_blocking(put).unwrap();
    assert_eq!(read().identity, proven);
    assert!(world.library.issues().is_empty());
}

#[test]
fn a_rescan_neither_loses_nor_fights_a_repair() {
    let mut world = World::new(&[("a/song.flac", BAD)]);
    world.begin(&["a/song.flac"], Manner::Backup);
    world.library.scan();
    let issue = world.issue("a/song.flac");
    assert_eq!((issue.status, issue.job), (IssueStatus::Fixing, job_number(&world.job)));
    world.place();
    world.library.scan();
    let issue = world.issue("a/song.flac");
    assert_eq!((issue.status, issue.resolved_by), (IssueStatus::Resolved, Some(ResolvedBy::AutoFixed)));
}

#[test]
fn at_the_start_what_was_cut_short_is_brought_to_its_end() {
    // The job is gone: nobody will bring anything.
    let world = World::new(&[("a/song.flac", BAD)]);
    world.begin(&["a/song.flac"], Manner::Backup);
    let job = world.job.clone();
    world.mender.recover().unwrap();
    assert_eq!(world.issue("a/song.flac").status, IssueStatus::Fixing, "its job runs");
    world.keep_job(JobState::Cancelled);
    world.mender.recover().unwrap();
    assert_eq!(world.issue("a/song.flac").status, IssueStatus::Failed);
    assert_eq!(world.repair("a/song.flac").state.failure(), Some("cancelled"));

    // Killed between the swap and its record.
    let world = World::new(&[("a/song.flac", BAD)]);
    world.begin(&["a/song.flac"], Manner::Backup);
    world.place();
    let mut row = world.repair("a/song.flac");
    row.state = RepairState::Swapping;
    let put = move |txn: &mut heed::RwTxn<'_>, tables: &crate::store::tables::Tables| tables.repairs.put(txn, &row);
    world.mender.store().write_blocking(put).unwrap();
    world.mender.recover().unwrap();
    assert_eq!((world.repair("a/song.flac").state, world.job.clone()), (RepairState::Done, job));
    assert_eq!(world.content("a/song.flac.2.bak"), None, "never two backups");

    // An issue without a record.
    let issue = merge::fixing(&world.issue("a/song.flac"), 1234);
    world.mender.store().write_blocking(move |txn, tables| tables.library.put_issue(txn, &issue)).unwrap();
    world.mender.recover().unwrap();
    assert_eq!(world.issue("a/song.flac").status, IssueStatus::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mended_is_refused_with_the_reason() {
    let files = [("a/song.flac", BAD), ("a/odd.flac", "broken=no frame"), ("a/gone.flac", BAD)];
    let world = tokio::task::block_in_place(|| World::new(&files));
    let service = |name: &str| config::CatalogService { base_url: format!("http://{name}.invalid"), key: "k".into() };
    let offline = config::Catalog {
        musicbrainz: service("m"),
        acoustid: service("a"),
        discogs: service("d"),
        offline: true,
        contact: String::new(),
    };
    let cancel = CancellationToken::new();
    let catalog = catalog::start(&offline, world.mender.store().clone(), Clock::start(), &cancel).unwrap();
    let refused = async |mender: &Mender, kind, name: &str, word: &str| {
        let id = issue_id(kind, About::File(&from_path(&world.at(name))));
        let why = look(mender, &catalog, id).await.unwrap_err();
        assert!(why.contains(word), "{name}: {why}");
    };
    let (suspect, corrupt) = (IssueKind::SuspectedTranscode, IssueKind::CorruptedFile);
    refused(&world.mender, suspect, "a/none.flac", "no such issue").await;
    refused(&world.mender, suspect, "a/song.flac", "catalog cannot be asked now").await;
    refused(&world.mender, corrupt, "a/odd.flac", "nobody knows which recording").await;
    fs::remove_file(world.at("a/gone.flac")).unwrap();
    refused(&world.mender, suspect, "a/gone.flac", "cannot be read").await;
    fs::write(world.at("a/song.flac"), "another").unwrap();
    refused(&world.mender, suspect, "a/song.flac", "changed since").await;
    let elsewhere = Mender::new(world.library.ground.clone(), vec!["/nowhere".into()], 0.1);
    refused(&elsewhere, suspect, "a/song.flac", "outside").await;
    let dismissed = merge::set_status(&world.issue("a/song.flac"), IssueStatus::Ignored, UnixMs(5)).unwrap();
    world.mender.store().write(move |txn, tables| tables.library.put_issue(txn, &dismissed)).await.unwrap();
    refused(&world.mender, suspect, "a/song.flac", "dismissed").await;
    cancel.cancel();
}
