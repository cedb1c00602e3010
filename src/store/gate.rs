//! The reader gate: many short readers, or one change of the map's size.
//!
//! LMDB moves the map when it grows, so no reader may be inside then. The gate also keeps readers below the number of
//! slots in LMDB's table (`MDB_READERS_FULL` otherwise). Readers wait, they are never refused.

use std::cell::Cell;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::StoreError;

thread_local! {
    /// Seats this thread holds. A read inside a read must not wait for a door that waits for the outer read.
    static SEATS_HELD: Cell<u32> = const { Cell::new(0) };
}

#[derive(Debug, Default)]
struct Inside {
    readers: u32,
    shut: bool,
    waiting: u32,
    broken: Option<String>,
}

/// Counts readers in and out. The lock is held for a few instructions only.
#[derive(Debug)]
pub(super) struct Gate {
    seats: u32,
    inside: Mutex<Inside>,
    changed: Condvar,
}

/// A reader's place; leaving is dropping it. It stays on its thread.
#[derive(Debug)]
pub(super) struct Seat<'g> {
    gate: &'g Gate,
    _on_this_thread: std::marker::PhantomData<*const ()>,
}

impl Gate {
    pub(super) fn new(seats: u32) -> Self {
        Self { seats: seats.max(1), inside: Mutex::default(), changed: Condvar::new() }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // Plain numbers: they are right whatever the thread that panicked was doing.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a free seat and an open door.
    pub(super) fn enter(&self) -> Result<Seat<'_>, StoreError> {
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
        Ok(Seat { gate: self, _on_this_thread: std::marker::PhantomData })
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

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        SEATS_HELD.set(SEATS_HELD.get().saturating_sub(1));
        let mut inside = self.gate.inside();
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
        let gate = Arc::new(Gate::new(3));
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
        let gate = Arc::new(Gate::new(1));
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
        let gate = Gate::new(1);
        let failed: Result<(), _> = gate.alone(|| Err(StoreError::MapFull));
        assert!(failed.is_err());
        assert!(matches!(gate.enter(), Err(StoreError::Poisoned(_))));
    }
}
