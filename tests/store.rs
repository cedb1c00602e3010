//! The store: what was acknowledged is there, whatever happens.
#![allow(clippy::unwrap_used, reason = "tests")]

mod backups;
mod faults;
mod kill;
mod lists;
mod writing;

use std::path::Path;

use slskdn::model::id::{TransferId, Username};
use slskdn::model::record::PrivateMessage;
use slskdn::model::time::UnixMs;
use slskdn::model::transfer::{Direction, Ending, Transfer, TransferState};
use slskdn::store::{Store, StoreError, StoreOptions};

const MIB: usize = 1024 * 1024;

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).unwrap()
}

/// A store whose map is as small as it can be.
fn open_tiny(dir: &Path) -> Store {
    Store::open(dir, StoreOptions { map_size: MIB, ..StoreOptions::default() }).unwrap()
}

/// A write job that keeps a raw value under a number in the table of settings.
fn keep(store: &Store, number: u32, value: Vec<u8>) -> slskdn::store::Ticket<()> {
    store.submit(move |txn, tables| Ok(tables.settings.put(txn, &number.to_be_bytes(), &value)?))
}

/// All numbers kept so.
fn kept(store: &Store) -> Vec<u32> {
    store
        .read(|txn, tables| {
            let mut numbers = Vec::new();
            for entry in tables.settings.iter(txn)? {
                numbers.push(u32::from_be_bytes(entry?.0.try_into().unwrap()));
            }
            Ok(numbers)
        })
        .unwrap()
}

/// A job that holds the writer until the returned sender is used or dropped.
fn hold_writer(store: &Store) -> std::sync::mpsc::SyncSender<()> {
    let (release, released) = std::sync::mpsc::sync_channel(1);
    let (begun, begins) = std::sync::mpsc::sync_channel(8);
    drop(store.submit(move |_, _| {
        // Run again after another job's failure it does not wait any more: the sender is gone.
        let _ = begun.try_send(());
        let _ = released.recv();
        Ok::<(), StoreError>(())
    }));
    begins.recv().unwrap();
    release
}

fn transfer(number: u32, direction: Direction, state: TransferState) -> Transfer {
    Transfer {
        id: TransferId(u128::from(number)),
        direction,
        user: Username::new(format!("user{}", number % 3)),
        path: format!("music\\album\\{number}.flac").into(),
        size: 1000,
        state,
        requested_at: UnixMs(u64::from(number)),
        enqueued_at: None,
        started_at: None,
        ended_at: state.is_over().then(|| UnixMs(u64::from(number) + 100_000)),
        start_offset: 0,
        bytes_done: 0,
        average_speed: 0,
        place_in_queue: None,
        reason: None,
        attempts: 0,
        next_attempt_at: None,
        removed: false,
        batch: None,
        destination: None,
        local_path: None,
        partial: None,
        rung: None,
        tried: Vec::new(),
    }
}

fn done(number: u32) -> Transfer {
    transfer(number, Direction::Download, TransferState::Completed(Ending::Succeeded))
}

fn message(user: &str, at: u64, id: u32, incoming: bool) -> PrivateMessage {
    PrivateMessage { user: user.into(), at: UnixMs(at), id, incoming, text: format!("number {id}"), read: !incoming }
}
