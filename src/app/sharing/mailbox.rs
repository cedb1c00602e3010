//! What the scanning thread is asked to do. Bounded: orders are flags and sets of known roots, and of touched paths
//! only so many are kept before everything is looked at again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Plan;
use crate::app::clock::Clock;

/// Touched paths kept; one more and all shares are scanned.
const TOUCHED: usize = 1_000;
/// Changes are looked at when nothing was touched for so long,
const QUIET: Duration = Duration::from_secs(2);
/// or so long after the first touch.
const PATIENCE: Duration = Duration::from_secs(30);
/// At least so long between two scans because too much was touched: a scan touches folders itself.
const OVERFLOW_PAUSE: Duration = Duration::from_secs(600);

/// The next thing to do.
#[derive(Debug)]
pub(super) enum Order {
    /// End the thread.
    End,
    /// Take other folders and rules.
    Adopt(Box<Plan>),
    /// Scan every root.
    ScanAll,
    /// Scan these roots.
    Scan(BTreeSet<u32>),
    /// Look at these paths.
    Look(BTreeSet<PathBuf>),
    /// Nothing was asked for until the deadline.
    Timeout,
}

#[derive(Debug, Default)]
struct Waiting {
    end: bool,
    plan: Option<Box<Plan>>,
    all: bool,
    roots: BTreeSet<u32>,
    touched: BTreeSet<PathBuf>,
    /// When the first and the last of them were touched.
    touched_at: Option<(Duration, Duration)>,
    overflow: bool,
    overflow_not_before: Duration,
}

/// Shared by the handle, the watcher and the thread. The lock is held for a few instructions.
#[derive(Debug)]
pub(super) struct Mailbox {
    clock: Clock,
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// The running scan must end.
    stop: AtomicBool,
}

impl Mailbox {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, waiting: Mutex::default(), changed: Condvar::new(), stop: AtomicBool::new(false) }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Sets and flags: right whatever a thread that panicked was doing.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting());
        self.changed.notify_all();
    }

    pub(super) fn end(&self) {
        self.put(|waiting| {
            waiting.end = true;
            self.stop.store(true, Ordering::Relaxed);
        });
    }

    pub(super) fn adopt(&self, plan: Box<Plan>) {
        self.put(|waiting| {
            waiting.plan = Some(plan);
            self.stop.store(true, Ordering::Relaxed);
        });
    }

    /// One root, or all.
    pub(super) fn scan(&self, root: Option<u32>) {
        self.put(|waiting| match root {
            Some(id) => {
                waiting.roots.insert(id);
            }
            None => waiting.all = true,
        });
    }

    /// Ends the running scan and forgets those asked for.
    pub(super) fn stop_scan(&self) {
        self.put(|waiting| {
            waiting.all = false;
            waiting.roots.clear();
            self.stop.store(true, Ordering::Relaxed);
        });
    }

    pub(super) fn must_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn touch(&self, path: &Path) {
        let now = self.clock.now().mono;
        self.put(|waiting| {
            let first = waiting.touched_at.map_or(now, |(first, _)| first);
            waiting.touched_at = Some((first, now));
            if waiting.touched.len() < TOUCHED {
                waiting.touched.insert(path.to_owned());
            } else if !waiting.touched.contains(path) {
                waiting.overflow = true;
            }
        });
    }

    pub(super) fn overflow(&self) {
        self.put(|waiting| waiting.overflow = true);
    }

    /// Waits for something to do, at most until `deadline` (monotonic).
    pub(super) fn next(&self, deadline: Duration) -> Order {
        let mut waiting = self.waiting();
        loop {
            let now = self.clock.now().mono;
            if let Some(order) = waiting.take(now) {
                // Whoever asked for the end asked before; a stop from here on is for the scan that begins now.
                if !matches!(order, Order::End) {
                    self.stop.store(false, Ordering::Relaxed);
                }
                return order;
            }
            if now >= deadline {
                self.stop.store(false, Ordering::Relaxed);
                return Order::Timeout;
            }
            let until = waiting.next_due().map_or(deadline, |due| due.min(deadline));
            let wait = until.saturating_sub(now).max(Duration::from_millis(1));
            waiting = self.changed.wait_timeout(waiting, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Waiting {
    fn take(&mut self, now: Duration) -> Option<Order> {
        if self.end {
            return Some(Order::End);
        }
        if let Some(plan) = self.plan.take() {
            return Some(Order::Adopt(plan));
        }
        let overflow = self.overflow && now >= self.overflow_not_before;
        if self.all || overflow {
            if overflow {
                self.overflow_not_before = now.saturating_add(OVERFLOW_PAUSE);
            }
            let not_before = self.overflow_not_before;
            *self = Self { overflow_not_before: not_before, ..Self::default() };
            return Some(Order::ScanAll);
        }
        if !self.roots.is_empty() {
            return Some(Order::Scan(std::mem::take(&mut self.roots)));
        }
        if self.touched_due().is_some_and(|due| now >= due) {
            self.touched_at = None;
            return Some(Order::Look(std::mem::take(&mut self.touched)));
        }
        None
    }

    fn touched_due(&self) -> Option<Duration> {
        self.touched_at.map(|(first, last)| last.saturating_add(QUIET).min(first.saturating_add(PATIENCE)))
    }

    fn next_due(&self) -> Option<Duration> {
        let overflow = self.overflow.then_some(self.overflow_not_before);
        overflow.into_iter().chain(self.touched_due()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(paths: usize) -> Waiting {
        let touched = (0..paths).map(|n| PathBuf::from(format!("/{n}"))).collect();
        let touched_at = Some((Duration::from_secs(100), Duration::from_secs(101)));
        Waiting { touched, touched_at, ..Waiting::default() }
    }

    #[test]
    fn touched_paths_wait_for_quiet_but_not_for_ever() {
        let mut waiting = touched(3);
        assert_eq!(waiting.next_due(), Some(Duration::from_secs(103)));
        assert!(waiting.take(Duration::from_secs(102)).is_none());
        waiting.touched_at = Some((Duration::from_secs(100), Duration::from_secs(129)));
        assert_eq!(waiting.next_due(), Some(Duration::from_secs(130)));
        assert!(matches!(waiting.take(Duration::from_secs(130)), Some(Order::Look(paths)) if paths.len() == 3));
        assert!(waiting.take(Duration::from_secs(1_000)).is_none());
    }

    #[test]
    fn too_many_paths_are_one_scan_and_not_again_at_once() {
        let mailbox = Mailbox::new(Clock::start());
        for n in 0..TOUCHED + 5 {
            mailbox.touch(Path::new(&format!("/{n}")));
        }
        assert!(matches!(mailbox.next(Duration::ZERO), Order::ScanAll));
        let mut waiting = mailbox.waiting();
        assert!(waiting.touched.is_empty());
        waiting.overflow = true;
        let due = waiting.next_due().unwrap();
        assert!(due >= OVERFLOW_PAUSE);
        assert!(waiting.take(due.saturating_sub(Duration::from_secs(1))).is_none());
        assert!(matches!(waiting.take(due), Some(Order::ScanAll)));
    }

    #[test]
    fn the_end_comes_first_and_stopping_forgets_scans() {
        let mailbox = Mailbox::new(Clock::start());
        mailbox.scan(Some(7));
        assert!(matches!(mailbox.next(Duration::ZERO), Order::Scan(roots) if roots.contains(&7)));
        mailbox.scan(None);
        mailbox.stop_scan();
        assert!(mailbox.must_stop());
        assert!(matches!(mailbox.next(Duration::ZERO), Order::Timeout));
        assert!(!mailbox.must_stop(), "a stop is for the scan it stops");
        mailbox.scan(None);
        mailbox.end();
        assert!(matches!(mailbox.next(Duration::ZERO), Order::End));
        assert!(mailbox.must_stop());
    }
}
