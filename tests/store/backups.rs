//! Backups, restores, snapshots and migrations.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use heed::RwTxn;
use slskdn::model::record::{Change, Wish};
use slskdn::model::time::UnixMs;
use slskdn::store::tables::{Env, open_table};
use slskdn::store::{FORMAT, Schema, Step, Store, StoreError, StoreOptions, restore, verify_backup};

use super::{done, keep, kept, open, open_tiny};

#[test]
fn a_backup_while_writing_is_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_tiny(&dir.path().join("store"));
    let acknowledged = Arc::new(AtomicU32::new(0));
    let writer = {
        let (store, acknowledged) = (store.clone(), Arc::clone(&acknowledged));
        thread::spawn(move || {
            for number in 0..400_u32 {
                // Two tables in one commit: a copy has both or neither.
                let job = store.submit(move |txn, tables| {
                    tables.settings.put(txn, &number.to_be_bytes(), &[1; 5_000])?;
                    Ok(tables.counts.put(txn, b"last", &number.to_be_bytes())?)
                });
                job.wait().unwrap();
                acknowledged.store(number + 1, Ordering::SeqCst);
            }
        })
    };
    let mut round = 0;
    while !writer.is_finished() || round == 0 {
        let file = dir.path().join(format!("{round}.backup"));
        let into = dir.path().join(format!("restored{round}"));
        let before = acknowledged.load(Ordering::SeqCst);
        store.backup(&file).unwrap();
        let summary = restore(&file, &into).unwrap();
        assert_eq!(summary.format, FORMAT);
        let copy = open(&into);
        let numbers = kept(&copy);
        assert!(numbers.len() >= before as usize, "what was acknowledged before the copy is in it");
        assert!(numbers.iter().zip(0..).all(|(a, b)| *a == b));
        let last = copy.read(|txn, tables| Ok(tables.counts.get(txn, b"last")?.map(<[u8]>::to_vec))).unwrap();
        assert_eq!(last, numbers.last().map(|last| last.to_be_bytes().to_vec()));
        let settings = summary.tables.iter().find(|(name, _)| name == "settings-1").unwrap();
        assert_eq!(settings.1, numbers.len() as u64);
        keep(&copy, 1_000_000, vec![1]).wait().unwrap();
        round += 1;
    }
    writer.join().unwrap();
    assert_eq!(kept(&store).len(), 400);
}

#[test]
fn a_damaged_backup_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    store.apply((1..50).map(|number| Change::Transfer(Box::new(done(number)))).collect()).wait().unwrap();
    let file = dir.path().join("good.backup");
    store.backup_with(&file, Some(b"web:\n  port: 5030\n")).unwrap();
    let good = fs::read(&file).unwrap();
    let summary = verify_backup(&file, &dir.path().join("scratch")).unwrap();
    assert_eq!(summary.config.as_deref(), Some(&b"web:\n  port: 5030\n"[..]));
    assert_eq!(summary.tables.iter().find(|(name, _)| name == "transfers-1").unwrap().1, 49);

    let bad = dir.path().join("bad.backup");
    let into = dir.path().join("restored");
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&bad, bytes).unwrap();
        let error = verify_backup(&bad, &dir.path().join("scratch")).unwrap_err();
        assert!(matches!(error, StoreError::BackupDamaged { .. } | StoreError::NotABackup(_)), "{what}: {error}");
        assert!(restore(&bad, &into).is_err(), "{what}");
        assert!(!into.exists() && !dir.path().join("restored.restoring").exists(), "{what} leaves nothing");
    };
    let places = [0, 15, 16, 23, 24, 55, 56, 4096, good.len() / 2, good.len() - 18, good.len() - 30, good.len() - 1];
    for place in places {
        let mut flipped = good.clone();
        flipped[place] ^= 1;
        refused(&flipped, &format!("bit flipped at {place}"));
    }
    for length in [0, 10, 16, 40, 56, 5000, good.len() - 18, good.len() - 1] {
        refused(&good[..length], &format!("cut to {length}"));
    }
    refused(&[&good[..], b"more"].concat(), "bytes behind the end");

    // A store inside that is whole by its hash but not ours.
    let mut unknown = store.read(|_, _| Ok(())).map(|()| good[..56].to_vec()).unwrap();
    let data = vec![0_u8; 8192];
    unknown[16..24].copy_from_slice(&8192_u64.to_be_bytes());
    unknown[24..56].copy_from_slice(blake3::hash(&data).as_bytes());
    unknown.extend_from_slice(&data);
    fs::write(&bad, unknown).unwrap();
    assert!(restore(&bad, &into).is_err());
    assert!(!into.exists());
}

#[test]
fn a_restore_needs_an_empty_folder() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("store");
    let store = open(&at);
    keep(&store, 1, vec![1]).wait().unwrap();
    let file = dir.path().join("one.backup");
    store.backup(&file).unwrap();
    assert!(matches!(restore(&file, &at), Err(StoreError::NotEmpty(_))));
    drop(store);
    assert!(matches!(restore(&file, &at), Err(StoreError::NotEmpty(_))));
    assert_eq!(kept(&open(&at)), [1]);

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("lock"), "").unwrap();
    restore(&file, &empty).unwrap();
    assert_eq!(kept(&open(&empty)), [1]);
    restore(&file, &dir.path().join("deep/er/store")).unwrap();
}

#[test]
fn snapshots_are_numbered_and_few() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    let snapshots = dir.path().join("snapshots");
    for number in 0..5 {
        keep(&store, number, vec![1]).wait().unwrap();
        store.snapshot(&snapshots, 3).unwrap();
    }
    fs::write(snapshots.join("notes"), "").unwrap();
    let newest = store.snapshot(&snapshots, 3).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(&snapshots).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["notes", "snapshot-00000004.backup", "snapshot-00000005.backup", "snapshot-00000006.backup"]);
    assert_eq!(
        verify_backup(&newest, &dir.path().join("scratch"))
            .unwrap()
            .tables
            .iter()
            .find(|(name, _)| name == "settings-1")
            .unwrap()
            .1,
        5
    );
}

/// A made-up next format: wishes move to a table of the next version, their words in capitals.
fn wishes_shout(env: &Env, txn: &mut RwTxn<'_>) -> Result<(), StoreError> {
    let old = open_table(env, txn, "wishes-1")?;
    let new = open_table(env, txn, "wishes-2")?;
    let rows = old.iter(txn)?.map(|row| row.map(|(k, v)| (k.to_vec(), v.to_ascii_uppercase())));
    for (key, value) in rows.collect::<Result<Vec<_>, _>>()? {
        new.put(txn, &key, &value)?;
    }
    // Enough to fill the smallest map, which must grow under a migration too.
    new.put(txn, &[0xff; 8], &vec![0; 3 * super::MIB])?;
    new.delete(txn, &[0xff; 8])?;
    Ok(old.clear(txn)?)
}

const NEXT: Schema =
    Schema { format: FORMAT + 1, steps: &[Step { from: FORMAT, what: "wishes shout", run: wishes_shout }] };

#[test]
fn an_older_store_is_copied_and_migrated() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("store");
    let store = open_tiny(&at);
    let wish = Wish { id: 1, text: "quiet".to_owned(), added_at: UnixMs(2), searched_at: None, found: 3 };
    store.apply(vec![Change::Wish(wish.clone())]).wait().unwrap();
    drop(store);

    let next = StoreOptions { map_size: super::MIB, schema: NEXT, ..StoreOptions::default() };
    let store = Store::open(&at, next).unwrap();
    assert_eq!(store.wishes().unwrap(), []);
    drop(store);
    let store = Store::open(&at, next).unwrap();
    drop(store);

    let newer = Store::open(&at, StoreOptions::default()).unwrap_err();
    assert_eq!(
        newer.to_string(),
        format!("the store has format {}, this program knows formats up to {FORMAT}", FORMAT + 1)
    );
    let no_way = Schema { format: FORMAT + 2, steps: NEXT.steps };
    let error = Store::open(&at, StoreOptions { schema: no_way, ..next }).unwrap_err();
    assert!(matches!(error, StoreError::NoMigration { .. }), "{error}");

    // The new table holds the changed row, and the copy made before gives the old store back.
    let (_, seen) = wishes_2(&at);
    assert_eq!(seen, [b"\x01\x01\x05QUIET\x02\x00\x03".to_vec()]);
    let back = dir.path().join("back");
    restore(&at.join(format!("before-format-{}.backup", FORMAT + 1)), &back).unwrap();
    assert_eq!(open(&back).wishes().unwrap(), [wish]);
}

#[test]
fn a_failed_migration_changes_nothing() {
    fn fails(env: &Env, txn: &mut RwTxn<'_>) -> Result<(), StoreError> {
        open_table(env, txn, "wishes-1")?.clear(txn)?;
        Err(StoreError::Refused("no".to_owned()))
    }
    const BROKEN: Schema = Schema { format: FORMAT + 1, steps: &[Step { from: FORMAT, what: "fails", run: fails }] };
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let wish = Wish { id: 1, text: "w".to_owned(), added_at: UnixMs(2), searched_at: None, found: 3 };
    store.apply(vec![Change::Wish(wish.clone())]).wait().unwrap();
    drop(store);
    let broken = Store::open(dir.path(), StoreOptions { schema: BROKEN, ..StoreOptions::default() });
    assert_eq!(broken.unwrap_err().to_string(), "no");
    assert_eq!(open(dir.path()).wishes().unwrap(), [wish]);
}

/// Rows of the made-up table, read through a job that opens it.
fn wishes_2(at: &std::path::Path) -> (Store, Vec<Vec<u8>>) {
    fn look(env: &Env, txn: &mut RwTxn<'_>) -> Result<(), StoreError> {
        let table = open_table(env, txn, "wishes-2")?;
        let settings = open_table(env, txn, "settings-1")?;
        let rows = table.iter(txn)?.map(|row| row.map(|(_, v)| v.to_vec())).collect::<Result<Vec<_>, _>>()?;
        for (number, row) in rows.iter().enumerate() {
            settings.put(txn, &u32::try_from(number).unwrap().to_be_bytes(), row)?;
        }
        Ok(())
    }
    const LOOK: Schema = Schema { format: FORMAT + 2, steps: &[Step { from: FORMAT + 1, what: "looks", run: look }] };
    let store = Store::open(at, StoreOptions { schema: LOOK, ..StoreOptions::default() }).unwrap();
    let rows = store
        .read(|txn, tables| {
            Ok(tables.settings.iter(txn)?.map(|row| row.map(|(_, v)| v.to_vec())).collect::<Result<_, _>>()?)
        })
        .unwrap();
    (store, rows)
}
