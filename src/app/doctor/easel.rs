//! Spectrograms on demand: one is drawn at a time, and few may wait for their turn. None is kept: `limits` has room for one,
//! and browsers keep what they were sent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::model::limits;
use crate::model::view::Refusal;

/// Where they are drawn.
#[derive(Debug, Default)]
pub(super) struct Easel {
    /// Held while one is drawn.
    turn: Mutex<()>,
    /// Those who draw or wait.
    here: AtomicUsize,
}

/// One who draws or waits, until dropped.
struct Here<'e>(&'e AtomicUsize);

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Easel {
    /// Draws when it is this one's turn. Blocks until then.
    ///
    /// # Errors
    /// Those of `draw`, and `Full` when too many wait.
    pub(super) fn draw<T>(&self, draw: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
        let before = self.here.fetch_add(1, Ordering::Relaxed);
        let _here = Here(&self.here);
        // One draws, the others wait.
        if before > limits::SPECTROGRAMS_WAITING {
            return Err(Refusal::Full(format!("{before} spectrograms are waited for already; try again soon")));
        }
        // Nothing is left half done by a panic.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        draw()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn one_is_drawn_at_a_time_and_few_wait() {
        let easel = Easel::default();
        let drawing = AtomicUsize::new(0);
        let (begun, begins) = sync_channel(0);
        let (go, gone) = sync_channel::<()>(0);
        std::thread::scope(|threads| {
            let (easel, drawing) = (&easel, &drawing);
            threads.spawn(move || {
                easel.draw(|| {
                    assert_eq!(drawing.fetch_add(1, Ordering::Relaxed), 0);
                    begun.send(()).unwrap();
                    gone.recv().unwrap();
                    drawing.fetch_sub(1, Ordering::Relaxed);
                    Ok(())
                })
            });
            begins.recv().unwrap();
            let wait = || easel.draw(|| Ok(drawing.load(Ordering::Relaxed)));
            let waiting: Vec<_> = (0..limits::SPECTROGRAMS_WAITING).map(|_| threads.spawn(wait)).collect();
            while easel.here.load(Ordering::Relaxed) <= limits::SPECTROGRAMS_WAITING {
                std::thread::yield_now();
            }
            assert!(matches!(easel.draw(|| Ok(())), Err(Refusal::Full(_))));
            go.send(()).unwrap();
            for thread in waiting {
                assert_eq!(thread.join().unwrap(), Ok(0), "nobody else draws meanwhile");
            }
        });
        assert_eq!(easel.draw(|| Ok(1)), Ok(1), "nobody waits any more");
    }
}
