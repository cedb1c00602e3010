//! The reader gate: many short readers, or one change of the map's size.
//!
//! LMDB moves the map when it grows, so no reader may be inside then. The gate also keeps readers below the number of
//! slots in LMDB's table (`MDB_READERS_FULL` otherwise). Readers wait, they are never refused.
//!
//! Opening a read transaction is a good part of what a small read costs: LMDB allocates it, takes a lock, and looks the
//! table's root up once more. So a reader that leaves may leave its snapshot behind for the next. Only the newest state
//! is kept so: a snapshot of it holds back no page the next write transaction could use, and all are dropped before a
//! commit begins and before the map changes.

use std::cell::Cell;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::StoreError;

thread_local! {
    /// Seats this thread holds. A read inside a read must not wait for a door that waits for the outer read.
    static SEATS_HELD: Cell<u32> = const { Cell::new(0) };
}

/// Snapshots kept for coming readers at most. Each is a slot of LMDB's table and some kilobytes.
const IDLE_MAX: usize = 4;

struct Inside<S> {
    readers: u32,
    shut: bool,
    waiting: u32,
    broken: Option<String>,
    /// Commits begun and commits ended: odd while one runs.
    commits: u64,
    /// Snapshots of the newest state. Empty while a commit runs.
    idle: Vec<S>,
}

/// Counts readers in and out. The lock is held for a few instructions only. `S` is a snapshot.
pub(super) struct Gate<S> {
    seats: u32,
    inside: Mutex<Inside<S>>,
    changed: Condvar,
}

/// A reader's place; leaving is dropping it. It stays on its thread.
pub(super) struct Seat<'g, S> {
    gate: &'g Gate<S>,
    /// Of the gate, when the reader came.
    commits: u64,
    snapshot: Option<S>,
    _on_this_thread: std::marker::PhantomData<*const ()>,
}

impl<S> fmt::Debug for Gate<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("seats", &self.seats).finish_non_exhaustive()
    }
}

impl<S> Gate<S> {
    pub(super) fn new(seats: u32) -> Self {
        let inside = Inside {
            readers: 0,
            shut: false,
            waiting: 0,
            broken: None,
            commits: 0,
            idle: Vec::with_capacity(IDLE_MAX),
        };
        Self { seats: seats.max(1), inside: Mutex::new(inside), changed: Condvar::new() }
    }

    fn inside(&self) -> MutexGuard<'_, Inside<S>> {
        // Plain numbers: they are right whatever the thread that panicked was doing.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a free seat and an open door; takes a kept snapshot if there is one.
    pub(super) fn enter(&self) -> Result<Seat<'_, S>, StoreError> {
        self.enter_with(Vec::pop)
    }

    /// As [`Gate::enter`], for a long stay that brings its own snapshot and must hold back no other.
    pub(super) fn enter_bare(&self) -> Result<Seat<'_, S>, StoreError> {
        self.enter_with(|_| None)
    }

    fn enter_with(&self, take: fn(&mut Vec<S>) -> Option<S>) -> Result<Seat<'_, S>, StoreError> {
        let nested = SEATS_HELD.get() > 0;
        let mut inside = self.inside();
        while !nested && inside.broken.is_none() && (inside.shut || inside.readers >= self.seats) {
            inside.waiting += 1;
            inside = self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
            inside.waiting -= 1;
        }
        if let Some(reason) = &inside.broken {
            return Err(StoreError::Poisoned(reason.clone()));
        }
        inside.readers += 1;
        SEATS_HELD.set(SEATS_HELD.get() + 1);
        let (commits, snapshot) = (inside.commits, take(&mut inside.idle));
        Ok(Seat { gate: self, commits, snapshot, _on_this_thread: std::marker::PhantomData })
    }

    /// Does a commit. A reader that comes once it is done sees what it wrote, and one that comes while it runs never
    /// sees less than another before it did: no kept snapshot outlives the beginning, none opened meanwhile is kept.
    pub(super) fn around_commit<T>(&self, commit: impl FnOnce() -> T) -> T {
        let mut inside = self.inside();
        inside.commits += 1;
        inside.idle.clear();
        drop(inside);
        let result = commit();
        self.inside().commits += 1;
        result
    }

    /// Shuts the door, waits until everybody left, does the work and opens again. After an error the door stays shut
    /// for good and readers are told why: the map may be gone.
    pub(super) fn alone<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut inside = self.inside();
        inside.shut = true;
        while inside.readers > 0 {
            inside.waiting += 1;
            inside = self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
            inside.waiting -= 1;
        }
        // A reader that leaves finds no reason to keep its snapshot out of here: the last has left.
        inside.idle.clear();
        drop(inside);
        let result = work();
        let mut inside = self.inside();
        match &result {
            Ok(_) => inside.shut = false,
            Err(error) => inside.broken = Some(error.to_string()),
        }
        drop(inside);
        self.changed.notify_all();
        result
    }

    /// Readers inside now.
    pub(super) fn readers(&self) -> u32 {
        self.inside().readers
    }
}

impl<S> Seat<'_, S> {
    /// The newest state: a kept snapshot, or one opened now.
    pub(super) fn snapshot<E>(&mut self, open: impl FnOnce() -> Result<S, E>) -> Result<&S, E> {
        match &mut self.snapshot {
            Some(kept) => Ok(kept),
            none => Ok(none.insert(open()?)),
        }
    }
}

impl<S> Drop for Seat<'_, S> {
    fn drop(&mut self) {
        SEATS_HELD.set(SEATS_HELD.get().saturating_sub(1));
        let mut inside = self.gate.inside();
        if let Some(snapshot) = self.snapshot.take() {
            let newest = inside.commits == self.commits && inside.commits.is_multiple_of(2);
            if newest && inside.idle.len() < IDLE_MAX {
                inside.idle.push(snapshot);
            }
            // Otherwise it ends here, before the reader counts as gone.
        }
        inside.readers -= 1;
        let wake = inside.waiting > 0;
        drop(inside);
        if wake {
            self.gate.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, mpsc};
    use std::thread;

    use super::*;

    #[test]
    fn readers_and_the_change_never_meet() {
        let gate = Arc::new(Gate::<()>::new(3));
        let inside = Arc::new(AtomicU32::new(0));
        let readers: Vec<_> = (0..6)
            .map(|_| {
                let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
                thread::spawn(move || {
                    for _ in 0..2_000 {
                        let seat = gate.enter().unwrap();
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(seat);
                    }
                })
            })
            .collect();
        for _ in 0..200 {
            gate.alone(|| {
                assert_eq!(inside.load(Ordering::SeqCst), 0);
                Ok(())
            })
            .unwrap();
        }
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!(gate.readers(), 0);
    }

    #[test]
    fn a_read_inside_a_read_passes_a_shut_door() {
        let gate = Arc::new(Gate::<()>::new(1));
        let outer = gate.enter().unwrap();
        let (shutting, shut) = mpsc::sync_channel(1);
        let other = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                shutting.send(()).unwrap();
                gate.alone(|| Ok(())).unwrap();
            })
        };
        shut.recv().unwrap();
        while !gate.inside().shut {
            thread::yield_now();
        }
        drop(gate.enter().unwrap());
        drop(outer);
        other.join().unwrap();
    }

    #[test]
    fn a_failed_change_is_told_to_every_reader() {
        let gate = Gate::<()>::new(1);
        let failed: Result<(), _> = gate.alone(|| Err(StoreError::MapFull));
        assert!(failed.is_err());
        assert!(matches!(gate.enter(), Err(StoreError::Poisoned(_))));
    }

    fn opened(gate: &Gate<u32>, number: u32) -> u32 {
        *gate.enter().unwrap().snapshot(|| Ok::<_, ()>(number)).unwrap()
    }

    #[test]
    fn a_snapshot_is_kept_until_a_commit_begins() {
        let gate = Gate::new(8);
        assert_eq!(opened(&gate, 1), 1);
        assert_eq!(opened(&gate, 2), 1);
        let mut early = gate.enter().unwrap();
        assert_eq!(early.snapshot(|| Ok::<_, ()>(3)), Ok(&1));
        gate.around_commit(|| {
            assert_eq!(opened(&gate, 4), 4);
            assert_eq!(opened(&gate, 5), 5, "one opened while a commit runs may be of either state");
        });
        drop(early);
        assert_eq!(opened(&gate, 6), 6, "one from before the commit came back");
        assert_eq!(opened(&gate, 7), 6);
    }

    #[test]
    fn no_snapshot_is_open_while_the_map_changes() {
        let gate = Gate::new(8);
        let snapshot = Arc::new(());
        for _ in 0..2 {
            let mut seat = gate.enter().unwrap();
            seat.snapshot(|| Ok::<_, ()>(Arc::clone(&snapshot))).unwrap();
        }
        assert_eq!(Arc::strong_count(&snapshot), 2);
        gate.alone(|| {
            assert_eq!(Arc::strong_count(&snapshot), 1);
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn few_snapshots_are_kept_and_a_bare_reader_takes_none() {
        let gate = Gate::new(32);
        let snapshot = Arc::new(());
        let mut seats: Vec<_> = (0..2 * IDLE_MAX).map(|_| gate.enter().unwrap()).collect();
        for seat in &mut seats {
            seat.snapshot(|| Ok::<_, ()>(Arc::clone(&snapshot))).unwrap();
        }
        drop(seats);
        assert_eq!(Arc::strong_count(&snapshot), IDLE_MAX + 1);
        let bare = gate.enter_bare().unwrap();
        gate.around_commit(|| assert_eq!(Arc::strong_count(&snapshot), 1));
        drop(bare);
    }
}
