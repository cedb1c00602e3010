//! What the disk refuses, and what becomes of it; and whose the new file is.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use super::*;

#[test]
fn what_the_disk_refuses_is_given_up_in_the_end() {
    let world = World::new(&[("a/song.flac", BAD), ("a/again.flac", BAD)]);
    world.begin(&["a/song.flac", "a/again.flac"], Manner::Backup);
    let blocked = world.at("a/.song.flac.slskdn-new");
    // Nothing can be written under that name.
    fs::create_dir(&blocked).unwrap();
    let mut pauses = Vec::new();
    let why = loop {
        match world.place() {
            Placed::Later(_, pause) => pauses.push(pause),
            // The other file has its new one all the same.
            Placed::Swapped(name, _) => break name,
            other => panic!("{other:?} after {pauses:?}"),
        }
        assert_eq!(world.repair("a/song.flac").state, RepairState::Swapping);
        assert!(pauses.len() < 20);
    };
    assert_eq!((why.as_str(), pauses.len()), ("again.flac", 8));
    assert!(pauses.is_sorted() && pauses[0] < pauses[7], "{pauses:?}");
    assert_eq!(world.content("a/song.flac").as_deref(), Some(BAD));
    assert_eq!(world.content("a/again.flac").as_deref(), Some(GOOD));
    let repair = world.repair("a/song.flac");
    assert!(repair.state.failure().is_some_and(|why| why.contains("tried 9 times")), "{repair:?}");
    assert_eq!(
        (world.issue("a/song.flac").status, world.repair("a/again.flac").state),
        (IssueStatus::Failed, RepairState::Done)
    );

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
