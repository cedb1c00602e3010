//! Change lists, listings and what is forgotten.

use slskdn::model::id::{BatchId, TransferId};
use slskdn::model::limits;
use slskdn::model::record::{Batch, Change, Wish};
use slskdn::model::time::UnixMs;
use slskdn::model::transfer::{Direction, Ending, TransferState};
use slskdn::model::view::TransferFilter;
use slskdn::store::{Store, StoreError};

use super::{done, message, open, transfer};

fn apply(store: &Store, changes: Vec<Change>) {
    store.apply(changes).wait().unwrap();
}

fn downloads() -> TransferFilter {
    TransferFilter { direction: Direction::Download, user: None, include_removed: false, offset: 0, limit: 100 }
}

fn numbers(store: &Store, filter: &TransferFilter) -> (Vec<u128>, usize) {
    let (rows, total) = store.transfers(filter).unwrap();
    (rows.iter().map(|row| row.id.0).collect(), total)
}

fn count(store: &Store, table: &str) -> u64 {
    store.stats().unwrap().tables.iter().find(|(name, _)| *name == table).unwrap().1
}

#[test]
fn transfers_are_listed_newest_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut changes: Vec<_> = (1..=9).map(|number| Change::Transfer(Box::new(done(number)))).collect();
    changes.push(Change::Transfer(Box::new(transfer(20, Direction::Upload, TransferState::InProgress))));
    changes.push(Change::Transfer(Box::new(transfer(21, Direction::Download, TransferState::QueuedRemotely))));
    changes.push(Change::Transfer(Box::new(transfer(22, Direction::Download, TransferState::Requested))));
    apply(&store, changes);

    assert_eq!(numbers(&store, &downloads()), ((1..=9).rev().collect(), 9));
    assert_eq!(numbers(&store, &TransferFilter { offset: 2, limit: 3, ..downloads() }), (vec![7, 6, 5], 9));
    let of_one = TransferFilter { user: Some("user1".into()), offset: 1, limit: 1, ..downloads() };
    assert_eq!(numbers(&store, &of_one), (vec![4], 3));
    assert_eq!(numbers(&store, &TransferFilter { direction: Direction::Upload, ..downloads() }), (vec![], 0));
    let live = store.live_transfers().unwrap();
    assert_eq!(live.iter().map(|row| row.id.0).collect::<Vec<_>>(), [22, 21, 20]);

    // A finished one leaves the live ones; one tried again comes back.
    apply(
        &store,
        vec![
            Change::Transfer(Box::new(done(21))),
            Change::Transfer(Box::new(transfer(3, Direction::Download, TransferState::Requested))),
        ],
    );
    assert_eq!(numbers(&store, &downloads()).0, [21, 9, 8, 7, 6, 5, 4, 2, 1]);
    assert_eq!(store.live_transfers().unwrap().iter().map(|row| row.id.0).collect::<Vec<_>>(), [22, 3, 20]);
    assert_eq!(store.transfer(Direction::Download, TransferId(21)).unwrap().unwrap(), done(21));
    assert_eq!(store.transfer(Direction::Upload, TransferId(21)).unwrap(), None);

    apply(&store, vec![Change::TransferGone(TransferId(9)), Change::TransferGone(TransferId(99))]);
    assert_eq!(numbers(&store, &downloads()).0, [21, 8, 7, 6, 5, 4, 2, 1]);
    assert_eq!(store.transfer(Direction::Download, TransferId(9)).unwrap(), None);
}

#[test]
fn cleared_transfers_are_hidden_not_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut upload = transfer(50, Direction::Upload, TransferState::Completed(Ending::Errored));
    upload.removed = false;
    let mut changes: Vec<_> = (1..=5).map(|number| Change::Transfer(Box::new(done(number)))).collect();
    // Same moment: keys differ in the id only.
    let mut twin = done(6);
    twin.ended_at = done(5).ended_at;
    changes.push(Change::Transfer(Box::new(twin)));
    changes.push(Change::Transfer(Box::new(upload)));
    changes.push(Change::Transfer(Box::new(transfer(7, Direction::Download, TransferState::InProgress))));
    apply(&store, changes);

    assert_eq!(store.clear_completed(Direction::Download).wait().unwrap(), 6);
    assert_eq!(store.clear_completed(Direction::Download).wait().unwrap(), 0);
    assert_eq!(numbers(&store, &downloads()), (vec![], 0));
    let all = TransferFilter { include_removed: true, ..downloads() };
    assert_eq!(numbers(&store, &all), (vec![5, 6, 4, 3, 2, 1], 6));
    assert!(store.transfer(Direction::Download, TransferId(4)).unwrap().unwrap().removed);
    assert_eq!(numbers(&store, &TransferFilter { direction: Direction::Upload, ..downloads() }), (vec![50], 1));
    assert_eq!(store.live_transfers().unwrap().len(), 1);
}

#[test]
fn the_oldest_finished_transfers_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let max = u32::try_from(limits::FINISHED_TRANSFERS).unwrap();
    let live = transfer(0, Direction::Download, TransferState::InProgress);
    let upload = transfer(max + 50, Direction::Upload, TransferState::Completed(Ending::Succeeded));
    apply(&store, vec![Change::Transfer(Box::new(live)), Change::Transfer(Box::new(upload))]);
    let numbers_in: Vec<u32> = (1..=max + 5).collect();
    for some in numbers_in.chunks(1_000) {
        apply(&store, some.iter().map(|number| Change::Transfer(Box::new(done(*number)))).collect());
    }
    let (rows, total) = store.transfers(&TransferFilter { limit: usize::MAX, ..downloads() }).unwrap();
    assert_eq!((rows.len(), total), (limits::PAGE_ROWS, limits::FINISHED_TRANSFERS));
    assert_eq!(rows.first().unwrap().id.0, u128::from(max + 5));
    assert_eq!(rows.last().unwrap().id.0, 6);
    assert_eq!(store.transfer(Direction::Download, TransferId(5)).unwrap(), None);
    assert_eq!(count(&store, "transfers"), limits::FINISHED_TRANSFERS as u64 + 2);
    // One that is taken away makes room.
    apply(&store, vec![Change::TransferGone(TransferId(8)), Change::Transfer(Box::new(done(max + 6)))]);
    assert!(store.transfer(Direction::Download, TransferId(6)).unwrap().is_some());
    // So does one that is tried again: finished once more it takes nobody's place but its own.
    let again = transfer(max, Direction::Download, TransferState::InProgress);
    apply(&store, vec![Change::Transfer(Box::new(again)), Change::Transfer(Box::new(done(max)))]);
    assert!(store.transfer(Direction::Download, TransferId(6)).unwrap().is_some());
    assert_eq!(numbers(&store, &downloads()).1, limits::FINISHED_TRANSFERS);
}

#[test]
fn messages_by_user_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ann = "ann".into();
    apply(
        &store,
        vec![
            Change::Message(message("ann", 20, 2, true)),
            Change::Message(message("ann", 10, 1, true)),
            Change::Message(message("ann", 30, 1, false)),
            Change::Message(message("annie", 5, 7, true)),
            Change::Message(message("", 1, 8, true)),
        ],
    );
    let ids = |n| store.messages(&ann, n).unwrap().iter().map(|m| (m.id, m.incoming)).collect::<Vec<_>>();
    assert_eq!(ids(10), [(1, true), (2, true), (1, false)]);
    assert_eq!(ids(2), [(2, true), (1, false)]);
    assert_eq!(store.unread().unwrap(), 4);
    let conversations = store.conversations().unwrap();
    let rows: Vec<_> = conversations.iter().map(|(last, unread)| (last.user.as_str(), last.id, *unread)).collect();
    assert_eq!(rows, [("ann", 1, 2), ("annie", 7, 1), ("", 8, 1)]);

    // The server repeats a message: it is replaced and not counted twice.
    apply(&store, vec![Change::Message(message("ann", 20, 2, true))]);
    assert_eq!(store.unread().unwrap(), 4);
    apply(&store, vec![Change::MessagesRead("ann".into()), Change::MessagesRead("nobody".into())]);
    assert_eq!(store.unread().unwrap(), 2);
    assert!(store.messages(&ann, 10).unwrap().iter().all(|m| m.read));
    apply(&store, vec![Change::MessagesGone("ann".into())]);
    assert_eq!(ids(10), []);
    assert_eq!(store.conversations().unwrap().len(), 2);
    assert_eq!(count(&store, "messages"), 2);
}

#[test]
fn old_messages_and_silent_conversations_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let max = u32::try_from(limits::MESSAGES_PER_USER).unwrap();
    let many = (0..max + 3).map(|id| Change::Message(message("ann", 1000 + u64::from(id), id, true)));
    apply(&store, many.collect());
    let kept = store.messages(&"ann".into(), usize::MAX).unwrap();
    assert_eq!((kept.len(), kept[0].id), (limits::MESSAGES_PER_USER, 3));
    assert_eq!(store.unread().unwrap(), max);

    // `old` is the most silent, but the one that just began is spared.
    let users = u32::try_from(limits::CONVERSATIONS).unwrap();
    apply(&store, (1..users).map(|n| Change::Message(message(&format!("u{n}"), 10 + u64::from(n), n, true))).collect());
    assert_eq!(count(&store, "conversations"), u64::from(users));
    apply(&store, vec![Change::Message(message("old", 1, 1, true))]);
    assert_eq!(count(&store, "conversations"), u64::from(users));
    assert_eq!(store.messages(&"u1".into(), 9).unwrap(), []);
    assert_eq!(store.messages(&"old".into(), 9).unwrap().len(), 1);
    assert_eq!(store.messages(&"u2".into(), 9).unwrap().len(), 1);
}

#[test]
fn wishes_batches_settings() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let wish = |id| Wish { id, text: format!("wish {id}"), added_at: UnixMs(id), searched_at: None, found: 0 };
    let batch = |number: u32| Batch {
        id: BatchId(u128::from(number)),
        user: "ann".into(),
        search: None,
        at: UnixMs(u64::from(number)),
        external: None,
        destination: None,
        transfers: vec![TransferId(u128::from(number))],
    };
    apply(&store, vec![Change::Wish(wish(300)), Change::Wish(wish(2)), Change::Wish(wish(1)), Change::WishGone(2)]);
    assert_eq!(store.wishes().unwrap(), [wish(1), wish(300)]);

    let max = u32::try_from(limits::BATCHES).unwrap();
    apply(&store, (1..=max + 2).map(|number| Change::Batch(batch(number))).collect());
    apply(&store, vec![Change::Batch(batch(9))]);
    let batches = store.batches().unwrap();
    assert_eq!(
        (batches.len(), batches[0].id, batches[max as usize - 1].id),
        (limits::BATCHES, BatchId(u128::from(max) + 2), BatchId(3))
    );
    assert_eq!(store.batch(BatchId(9)).unwrap(), Some(batch(9)));
    assert_eq!(store.batch(BatchId(2)).unwrap(), None);

    apply(&store, vec![Change::Setting("a".into(), Some(vec![0, 1])), Change::Setting("b".into(), Some(vec![]))]);
    assert_eq!(store.setting("a").unwrap(), Some(vec![0, 1]));
    assert_eq!(store.setting("b").unwrap(), Some(vec![]));
    apply(&store, vec![Change::Setting("a".into(), None)]);
    assert_eq!(store.setting("a").unwrap(), None);
    assert!(matches!(store.setting(""), Err(StoreError::KeyLength { .. })));
}

#[test]
fn a_list_is_there_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let endless = "x".repeat(500);
    let changes = vec![Change::Setting("kept".into(), Some(vec![1])), Change::Message(message(&endless, 1, 1, true))];
    let refused = store.apply(changes).wait().unwrap_err();
    assert_eq!(refused.to_string(), "user name has 500 bytes, 1 to 496 fit a key");
    assert_eq!(store.setting("kept").unwrap(), None);
}

#[test]
fn a_record_of_another_version_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.write_blocking(|txn, tables| Ok(tables.wishes.put(txn, &1_u64.to_be_bytes(), &[9, 1])?)).unwrap();
    assert_eq!(store.wishes().unwrap_err().to_string(), "wish record has version 9, this program knows version 1");
    store.write_blocking(|txn, tables| Ok(tables.settings.put(txn, b"s", &[9, 1])?)).unwrap();
    assert!(matches!(store.setting("s"), Err(StoreError::RecordVersion { found: 9, .. })));
}
