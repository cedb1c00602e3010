//! The index under random changes, beside a plain list of paths.

use std::collections::BTreeMap;
use std::sync::Arc;

use slskdn::engine::soulseek::shares::{Phrases, Query};
use slskdn::model::music::{Attributes, WireText};
use slskdn::store::shares::{FolderPlace, ScannedFile, ShareChange};
use slskdn::store::{Store, StoreOptions};

use super::library::Dice;

fn put(root: u32, folder: &str, name: &str, size: u64) -> ShareChange {
    let place = FolderPlace { root, path: folder.to_owned(), local: folder.as_bytes().to_vec() };
    let file =
        ScannedFile { name: name.to_owned(), local_name: None, size, mtime_ns: 1, attributes: Attributes::default() };
    ShareChange::Put(Arc::new(place), file)
}

/// Applies a batch and hands out how many files were left out.
fn apply(store: &Store, changes: Vec<ShareChange>) -> usize {
    store.write_blocking(move |txn, tables| tables.shares.apply(txn, &changes)).unwrap()
}

fn check(store: &Store, model: &BTreeMap<(u32, String, String), u64>, dice: &mut Dice) {
    store
        .read(|txn, tables| {
            let reader = tables.shares.reader(txn)?;
            assert_eq!(reader.counts().files as usize, model.len());
            let folders: std::collections::BTreeSet<_> = model.keys().map(|(_, folder, _)| folder).collect();
            assert_eq!(reader.counts().folders as usize, folders.len());
            assert_eq!(reader.bytes(), model.values().sum::<u64>());
            for _ in 0..5 {
                let text = format!("w{} n{} -n{}", dice.below(12), dice.below(40), dice.below(40));
                let query = Query::parse(&text).unwrap();
                let mut found: Vec<_> = reader.search(&query, &Phrases::default(), 10_000)?;
                found.sort_by(|a, b| a.path.cmp(&b.path));
                let mut naive: Vec<(String, u64)> = model
                    .iter()
                    .map(|((_, folder, name), &size)| (format!("{folder}\\{name}"), size))
                    .filter(|(path, _)| query.matches(path))
                    .collect();
                naive.sort();
                assert_eq!(found.into_iter().map(|file| (file.path, file.size)).collect::<Vec<_>>(), naive, "{text}");
            }
            let mut seen = 0;
            let mut after: Option<String> = None;
            loop {
                let step = reader.browse(after.as_deref(), 50)?;
                let Some(last) = step.last() else { break };
                assert!(after.as_deref() < Some(last.name.as_str()));
                after = Some(last.name.as_str().to_owned());
                seen += step.iter().map(|folder| folder.files.len()).sum::<usize>();
            }
            assert_eq!(seen, model.len());
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_index_agrees_with_a_list_of_paths_after_any_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    store
        .write_blocking(|txn, tables| {
            tables.shares.put_root(txn, 1, "A", b"/a", true)?;
            tables.shares.put_root(txn, 2, "B", b"/b", true)
        })
        .unwrap();
    let mut dice = Dice::new(42);
    let mut model: BTreeMap<(u32, String, String), u64> = BTreeMap::new();
    for round in 0..60 {
        let mut changes = Vec::new();
        for _ in 0..dice.below(300) {
            let root = u32::try_from(1 + dice.below(2)).unwrap();
            let alias = if root == 1 { "A" } else { "B" };
            let folder = format!("{alias}\\w{} w{}", dice.below(12), dice.below(12));
            let name = format!("n{} n{}.mp3", dice.below(40), dice.below(40));
            let size = dice.roll() % 1_000;
            changes.push(put(root, &folder, &name, size));
            model.insert((root, folder, name), size);
        }
        assert_eq!(apply(&store, changes), 0);
        // Some of what is there leaves again, so that ids are used twice.
        let mut gone = Vec::new();
        let keys: Vec<_> = model.keys().cloned().collect();
        for key in keys.into_iter().filter(|_| dice.below(3) == 0) {
            let known = store.read(|txn, tables| tables.shares.reader(txn)?.known_folder(&key.1)).unwrap();
            gone.push(ShareChange::Remove(known.files[&key.2].id));
            model.remove(&key);
        }
        apply(&store, gone);
        if round % 5 == 0 {
            check(&store, &model, &mut dice);
        }
    }
    check(&store, &model, &mut dice);
    let ids = store.read(|txn, tables| tables.shares.reader(txn)?.root_files(1, usize::MAX)).unwrap();
    assert_eq!(ids.len(), model.keys().filter(|(root, ..)| *root == 1).count());
    assert!(ids.iter().all(|&id| id < 16_384), "ids are used again");
}

#[test]
fn a_root_goes_when_its_files_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    store.write_blocking(|txn, tables| tables.shares.put_root(txn, 9, "A", b"/a", true)).unwrap();
    apply(&store, vec![put(9, "A", "one.mp3", 3), put(9, "A\\B", "two.mp3", 4)]);
    let remove = || store.write_blocking(|txn, tables| tables.shares.remove_root(txn, 9)).unwrap();
    assert!(!remove());
    let ids = store.read(|txn, tables| tables.shares.reader(txn)?.root_files(9, 10)).unwrap();
    // An id that is not there is ignored.
    apply(&store, ids.into_iter().chain([77]).map(ShareChange::Remove).collect());
    assert!(remove());
    let found = store.read(|txn, tables| tables.shares.reader(txn)?.find(&WireText::from("A\\one.mp3"))).unwrap();
    assert_eq!(found, None);
    let sizes = store.stats().unwrap().tables;
    assert!(sizes.iter().filter(|(name, _)| name.starts_with("shares")).all(|(_, size)| *size == 0), "{sizes:?}");
}
