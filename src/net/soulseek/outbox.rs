//! What waits to be sent on one connection: bounded in messages and in bytes, never blocking whoever adds to it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A message of at most this many bytes is queued even while [`Bounds::total_bytes`] is spent.
const SMALL: usize = 4 * 1024;

/// Capacities of an outbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Messages from which on the other side counts as behind.
    pub(super) full: usize,
    /// Messages above which the outbox is overrun.
    pub(super) messages: usize,
    /// Bytes above which it is overrun, unless it holds one message only.
    pub(super) bytes: usize,
    /// Bytes in all outboxes that share a sum.
    pub(super) total_bytes: usize,
}

/// What became of a pushed item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits its turn.
    Queued,
    /// It waits its turn, and the outbox has just become full: watch it with [`Outbox::overdue`].
    Filled,
    /// There is no room for it; the outbox is overrun from now on.
    Overrun,
    /// The outbox was closed before.
    Closed,
}

struct Waiting<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    watched: bool,
}

/// The mailbox of one connection. One task takes from it, anybody adds.
pub(super) struct Outbox<T> {
    // Held for a push or a pop only, never across an await.
    waiting: Mutex<Waiting<T>>,
    bounds: Bounds,
    total: Arc<AtomicUsize>,
    more: Notify,
    room: Notify,
    closing: CancellationToken,
    overrun: CancellationToken,
}

impl<T> Outbox<T> {
    /// Empty. `closing` ends it politely; `total` counts the bytes of all outboxes that share it.
    pub(super) fn new(bounds: Bounds, total: Arc<AtomicUsize>, closing: CancellationToken) -> Self {
        Self {
            waiting: Mutex::new(Waiting { items: VecDeque::new(), bytes: 0, watched: false }),
            bounds,
            total,
            more: Notify::new(),
            room: Notify::new(),
            closing,
            overrun: CancellationToken::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        // Nothing panics while it is held, so a poisoned lock still guards a sound queue.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item of about `weight` bytes.
    pub(super) fn push(&self, item: T, weight: usize) -> Pushed {
        if self.closing.is_cancelled() {
            return Pushed::Closed;
        }
        let mut waiting = self.lock();
        let too_many = waiting.items.len() >= self.bounds.messages;
        let too_heavy = !waiting.items.is_empty() && waiting.bytes.saturating_add(weight) > self.bounds.bytes;
        let total_spent =
            weight > SMALL && self.total.load(Ordering::Relaxed).saturating_add(weight) > self.bounds.total_bytes;
        if too_many || too_heavy || total_spent {
            self.overrun.cancel();
            return Pushed::Overrun;
        }
        waiting.items.push_back((item, weight));
        waiting.bytes = waiting.bytes.saturating_add(weight);
        self.total.fetch_add(weight, Ordering::Relaxed);
        let filled = waiting.items.len() >= self.bounds.full && !waiting.watched;
        waiting.watched |= filled;
        drop(waiting);
        self.more.notify_one();
        if filled { Pushed::Filled } else { Pushed::Queued }
    }

    /// The oldest item, when there is one. `None`: closed, and everything was taken.
    pub(super) async fn next(&self) -> Option<T> {
        loop {
            if let Some(item) = self.pop() {
                return Some(item);
            }
            if self.closing.is_cancelled() {
                return None;
            }
            tokio::select! {
                () = self.more.notified() => {}
                () = self.closing.cancelled() => {}
            }
        }
    }

    fn pop(&self) -> Option<T> {
        let mut waiting = self.lock();
        let (item, weight) = waiting.items.pop_front()?;
        waiting.bytes = waiting.bytes.saturating_sub(weight);
        self.total.fetch_sub(weight, Ordering::Relaxed);
        let has_room = waiting.items.len() < self.bounds.full;
        if has_room {
            waiting.watched = false;
        }
        drop(waiting);
        if has_room {
            self.room.notify_waiters();
        }
        Some(item)
    }

    /// Lets what waits go out, takes nothing more.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }

    /// Resolves once [`Outbox::close`] was called.
    pub(super) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Resolves once there was no room.
    pub(super) async fn overrun(&self) {
        self.overrun.cancelled().await;
    }

    /// Gives a full outbox `patience` to have room again; then it is overrun.
    pub(super) async fn overdue(&self, patience: std::time::Duration) {
        let room = self.room.notified();
        tokio::pin!(room);
        room.as_mut().enable();
        if self.lock().items.len() < self.bounds.full {
            return;
        }
        tokio::select! {
            () = room => {}
            () = self.closing.cancelled() => {}
            () = tokio::time::sleep(patience) => self.overrun.cancel(),
        }
    }
}

impl<T> Drop for Outbox<T> {
    fn drop(&mut self) {
        let left = self.lock().bytes;
        self.total.fetch_sub(left, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BOUNDS: Bounds = Bounds { full: 2, messages: 4, bytes: 100, total_bytes: 10_000 };

    fn outbox(total: &Arc<AtomicUsize>) -> Outbox<u32> {
        Outbox::new(BOUNDS, Arc::clone(total), CancellationToken::new())
    }

    #[tokio::test]
    async fn items_leave_in_order_and_a_closed_outbox_empties_first() {
        let total = Arc::new(AtomicUsize::new(0));
        let outbox = outbox(&total);
        assert_eq!(outbox.push(1, 10), Pushed::Queued);
        assert_eq!(outbox.push(2, 10), Pushed::Filled);
        assert_eq!(outbox.push(3, 10), Pushed::Queued);
        assert_eq!(total.load(Ordering::Relaxed), 30);
        outbox.close();
        assert_eq!(outbox.push(4, 10), Pushed::Closed);
        assert_eq!(outbox.next().await, Some(1));
        assert_eq!(outbox.next().await, Some(2));
        assert_eq!(outbox.next().await, Some(3));
        assert_eq!(outbox.next().await, None);
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn too_many_or_too_heavy_is_an_overrun() {
        let total = Arc::new(AtomicUsize::new(0));
        let many = outbox(&total);
        for n in 0..4 {
            assert_ne!(many.push(n, 1), Pushed::Overrun);
        }
        assert_eq!(many.push(4, 1), Pushed::Overrun);
        many.overrun().await;

        let heavy = outbox(&total);
        assert_eq!(heavy.push(1, 5_000), Pushed::Queued, "one message alone may be large");
        assert_eq!(heavy.push(2, 1), Pushed::Overrun);

        let late = outbox(&total);
        assert_eq!(late.push(1, 6_000), Pushed::Overrun, "the sum of all is spent");
        drop(heavy);
        drop(many);
        assert_eq!(total.load(Ordering::Relaxed), 0, "what was never sent is given back");
        assert_eq!(outbox(&total).push(1, 6_000), Pushed::Queued);
    }

    #[tokio::test]
    async fn a_full_outbox_has_a_while_to_get_room() {
        let total = Arc::new(AtomicUsize::new(0));
        let outbox = outbox(&total);
        outbox.push(1, 1);
        assert_eq!(outbox.push(2, 1), Pushed::Filled);
        let ((), taken) = tokio::join!(outbox.overdue(Duration::from_secs(600)), outbox.next());
        assert_eq!(taken, Some(1));
        assert!(!outbox.overrun.is_cancelled());

        assert_eq!(outbox.push(3, 1), Pushed::Filled, "filled again after it had room");
        outbox.overdue(Duration::from_millis(1)).await;
        assert!(outbox.overrun.is_cancelled());
    }
}
