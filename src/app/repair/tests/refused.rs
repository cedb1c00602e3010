//! What the disk refuses, and what becomes of it; and whose the new file is.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::time::Duration;

use super::*;
use crate::app::repair::Kept;
use crate::engine::repair::turn;

#[test]
fn what_the_disk_refuses_is_given_up_in_the_end() {
    // One comes after the other, whichever it is.
    for (blocked, other) in [("song.flac", "again.flac"), ("again.flac", "song.flac")] {
        one_of_two_is_given_up(blocked, other);
    }

    // Alone.
    let world = World::new(&[("a/song.flac", BAD)]);
    world.begin(&["a/song.flac"], Manner::Backup);
    let blocked = world.at("a/.song.flac.slskdn-new");
    fs::create_dir(&blocked).unwrap();
    (0..8).for_each(|_| assert!(matches!(world.place(), Placed::Later(..))));
    assert!(matches!(world.place(), Placed::Refused(_)));
    assert_eq!((world.issue("a/song.flac").status, world.content("a/song.flac.bak")), (IssueStatus::Failed, None));
    // Another wish begins to count anew.
    world.begin(&["a/song.flac"], Manner::Backup);
    assert!(matches!(world.place(), Placed::Later(..)));
    fs::remove_dir(&blocked).unwrap();
    assert!(matches!(world.place(), Placed::Swapped(..)));
}

#[test]
fn whoever_asks_again_does_not_wait_for_the_pause() {
    let world = World::new(&[("a/song.flac", BAD)]);
    world.begin(&["a/song.flac"], Manner::Backup);
    let blocked = world.at("a/.song.flac.slskdn-new");
    fs::create_dir(&blocked).unwrap();
    let refused = || match world.place() {
        Placed::Later(_, pause) => pause,
        other => panic!("{other:?}"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let clock = tokio::time::Instant::now;
    let mut first = None;
    for track in [Some(0), None] {
        let pauses: Vec<Duration> = (0..8).map(|_| refused()).collect();
        // Counted anew each time, or the next refusal would be the last.
        assert_eq!((*first.get_or_insert(pauses[0]), pauses[7]), (pauses[0], turn::PAUSE_MAX), "{pauses:?}");
        assert!(!world.mender.hurry(&world.job, track), "nobody rests");
        if track.is_none() {
            assert_eq!(refused(), pauses[0], "a job that goes on begins anew");
        }
        let took = runtime.block_on(async {
            let (began, other) = (clock(), JobId::from_random(8));
            let asks = async {
                assert!(!world.mender.hurry(&other, None) && !world.mender.hurry(&world.job, Some(1)));
                assert!(world.mender.hurry(&world.job, track));
            };
            tokio::join!(biased; world.mender.rest(&world.job, 0, turn::PAUSE_MAX), asks);
            began.elapsed()
        });
        assert_eq!(took, Duration::ZERO, "the pause was not waited for");
    }
    // Without the owner it lasts as long as it is to.
    let took = runtime.block_on(async {
        let began = clock();
        world.mender.rest(&world.job, 0, turn::PAUSE_MAX).await;
        began.elapsed()
    });
    assert_eq!(took, turn::PAUSE_MAX);
    fs::remove_dir(&blocked).unwrap();
    assert!(matches!(world.place(), Placed::Swapped(..)));
}

fn one_of_two_is_given_up(blocked: &str, other: &str) {
    let (song, again) = (format!("a/{blocked}"), format!("a/{other}"));
    let world = World::new(&[(&song, BAD), (&again, BAD)]);
    world.begin(&[&song, &again], Manner::Backup);
    // Nothing can be written under that name.
    fs::create_dir(world.at(&format!("a/.{blocked}.slskdn-new"))).unwrap();
    let mut pauses = Vec::new();
    let why = loop {
        match world.place() {
            Placed::Later(_, pause) => pauses.push(pause),
            // The other file has its new one all the same.
            Placed::Swapped(name, _) => break name,
            other => panic!("{other:?} after {pauses:?}"),
        }
        assert_eq!(world.repair(&song).state, RepairState::Swapping);
        assert_eq!(world.content(&again).as_deref(), Some(GOOD), "{other} waits for {blocked}");
        assert!(pauses.len() < 20);
    };
    assert_eq!((why.as_str(), pauses.len()), (other, 8));
    assert!(pauses.is_sorted() && pauses[0] < pauses[7], "{pauses:?}");
    assert_eq!(world.content(&song).as_deref(), Some(BAD));
    let repair = world.repair(&song);
    assert!(repair.state.failure().is_some_and(|why| why.contains("tried 9 times")), "{repair:?}");
    assert_eq!((world.issue(&song).status, world.repair(&again).state), (IssueStatus::Failed, RepairState::Done));
}

#[test]
fn a_disk_that_is_not_plugged_in_is_waited_for_and_counts_for_nothing() {
    let world = World::new(&[("a/song.flac", BAD)]);
    world.begin(&["a/song.flac"], Manner::Backup);
    let (finished, root) = (world.fetched(), world.at(""));
    let elsewhere = root.with_extension("unplugged");
    fs::rename(&root, &elsewhere).unwrap();
    for _ in 0..20 {
        let placed = world.mender.place(&world.job, 0, &finished).unwrap();
        assert!(matches!(placed, Placed::Later(_, turn::PAUSE_MAX)), "{placed:?}");
    }
    fs::rename(&elsewhere, &root).unwrap();
    assert!(matches!(world.place(), Placed::Swapped(..)));
}

#[test]
fn what_a_swap_left_on_the_disk_is_not_forgotten() {
    let world = World::new(&[("a/song.flac", BAD)]);
    world.begin(&["a/song.flac"], Manner::Backup);
    let blocked = world.at("a/.song.flac.slskdn-new");
    fs::create_dir(&blocked).unwrap();
    world.place();
    // The files have changed places, and the folder cannot be tidied up.
    fs::rename(world.at("a/song.flac"), world.at("a/song.flac.bak")).unwrap();
    fs::write(world.at("a/song.flac"), GOOD).unwrap();
    (0..12).for_each(|_| assert!(matches!(world.place(), Placed::Later(..))));
    let last = world.place();
    assert!(matches!(last, Placed::Later(_, turn::PAUSE_MAX)), "{last:?}");
    let row = world.repair("a/song.flac");
    assert!(row.state == RepairState::Swapping && row.places.is_some(), "{row:?}");
    fs::remove_dir(&blocked).unwrap();
    assert!(matches!(world.place(), Placed::Swapped(..)));
    assert_eq!(world.mender.undo(&world.repair("a/song.flac")).unwrap().state, RepairState::Undone);
    assert_eq!(world.content("a/song.flac").as_deref(), Some(BAD));
}

#[test]
fn a_file_whose_tags_cannot_be_carried_over_goes_to_its_place_in_the_end() {
    let world = World::new(&[("a/song.flac", BAD)]);
    world.begin(&["a/song.flac"], Manner::Backup);
    let finished = world.fetched();
    let row = Repair { keep_tags: true, ..world.repair("a/song.flac") };
    world.mender.store().write_blocking(move |txn, tables| tables.repairs.put(txn, &row)).unwrap();
    // What is in the way of the copy that would get the tags.
    let name = blake3::hash(b"new.flac").to_hex();
    fs::create_dir(world.at(&format!(".{}.tags", &name[..32]))).unwrap();
    let keep = || world.mender.keep_tags(&world.job, 0, &finished, &|| false).unwrap();
    let mut pauses = Vec::new();
    while let Kept::Later(_, pause) = keep() {
        assert_eq!(world.repair("a/song.flac").state, RepairState::Fetching);
        pauses.push(pause);
        assert!(pauses.len() < 20);
    }
    assert_eq!(pauses.len(), 8);
    assert_eq!(keep(), Kept::Yes, "nothing more is done about them");
    // The disk has its own nine attempts.
    let blocked = world.at("a/.song.flac.slskdn-new");
    fs::create_dir(&blocked).unwrap();
    let place = || world.mender.place(&world.job, 0, &finished).unwrap();
    assert!(matches!(place(), Placed::Later(..)));
    fs::remove_dir(&blocked).unwrap();
    assert!(matches!(place(), Placed::Swapped(..)));
    assert_eq!(world.content("a/song.flac").as_deref(), Some(GOOD));
}

#[test]
fn an_undoing_whose_folder_is_gone_ends_with_the_reason() {
    let world = World::new(&[("a/song.flac", BAD), ("b/other.flac", GOOD)]);
    world.begin(&["a/song.flac"], Manner::Backup);
    world.place();
    let row = Repair { state: RepairState::Undoing, ..world.repair("a/song.flac") };
    let put = |row: Repair| world.mender.store().write_blocking(move |txn, tables| tables.repairs.put(txn, &row));
    put(row).unwrap();
    let (away, folder) = (world.at("away"), world.at("a"));
    // A disk that is not plugged in: it is waited for.
    let root = world.at("");
    fs::rename(&root, root.with_file_name("elsewhere")).unwrap();
    world.mender.recover().unwrap();
    assert_eq!(world.repair_of(&folder).state, RepairState::Undoing);
    fs::rename(root.with_file_name("elsewhere"), &root).unwrap();
    fs::rename(&folder, &away).unwrap();
    world.mender.recover().unwrap();
    let row = world.repair_of(&folder);
    assert!(row.state.failure().is_some_and(|why| why.contains("not put back")), "{row:?}");
    assert!(row.not_undone_because().is_some());
    assert_eq!(listed(&away).len(), 2, "what lies there stays");
}

#[test]
fn the_new_file_has_the_rights_of_the_old_one() {
    let album = Album::new(&[("a.flac", OLD)]);
    let old = album.folder.join("a.flac");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
    // Where we may not give files away there is one owner and one group anyway.
    let _ = chown(&old, Some(1234), Some(2345));
    let before = fs::metadata(&old).unwrap();
    let want = Want { same_name: true, fate: Fate::Kept };
    let names = names("a.flac", "a.flac", Some("a.flac.bak"));
    assert_eq!(album.open().swap(want, &names, &pair(), Some(&album.finished), &|| Ok(())).unwrap(), Outcome::Done);
    let now = fs::metadata(&old).unwrap();
    assert_ne!(now.ino(), before.ino());
    assert_eq!((now.mode(), now.uid(), now.gid()), (before.mode(), before.uid(), before.gid()));
}
