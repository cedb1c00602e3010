//! Spectrograms on demand: one file is decoded at a time, a few pictures are kept, few may wait.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::id::ContentHash;
use crate::model::limits;
use crate::model::spectrogram::Spectrogram;
use crate::model::view::Refusal;

/// The kept ones, the last looked at first.
#[derive(Debug, Default)]
pub(super) struct Gallery {
    /// Held for a few instructions.
    kept: Mutex<VecDeque<Arc<Spectrogram>>>,
    /// Held while one is made.
    turn: Mutex<()>,
    waiting: AtomicUsize,
}

/// One who waits, until dropped.
struct Waiting<'g>(&'g AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gallery {
    /// The picture of this content, made if it is not kept. Blocks while it or another is made.
    ///
    /// # Errors
    /// Those of `make`, and `Full` when too many wait.
    pub(super) fn of(
        &self,
        hash: ContentHash,
        make: impl FnOnce() -> Result<Spectrogram, Refusal>,
    ) -> Result<Arc<Spectrogram>, Refusal> {
        if let Some(kept) = self.kept(hash) {
            return Ok(kept);
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        // One is at work, the others wait.
        if before > limits::SPECTROGRAMS_WAITING {
            return Err(Refusal::Full(format!("{before} spectrograms are waited for already; try again soon")));
        }
        let _turn = lock(&self.turn);
        if let Some(kept) = self.kept(hash) {
            return Ok(kept);
        }
        let made = Arc::new(make()?);
        let mut kept = lock(&self.kept);
        kept.truncate(limits::SPECTROGRAMS - 1);
        kept.push_front(Arc::clone(&made));
        Ok(made)
    }

    fn kept(&self, hash: ContentHash) -> Option<Arc<Spectrogram>> {
        let mut kept = lock(&self.kept);
        let at = kept.iter().position(|one| one.content_hash == hash)?;
        let found = kept.remove(at)?;
        kept.push_front(Arc::clone(&found));
        Some(found)
    }
}

/// Nothing is left half done by a panic under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    fn picture(n: u8) -> Spectrogram {
        Spectrogram {
            content_hash: ContentHash([n; 32]),
            sample_rate_hz: 44_100,
            samples: 0,
            samples_per_column: 1,
            rows: 1,
            levels: vec![n],
        }
    }

    #[test]
    fn few_are_kept_and_those_looked_at_stay() {
        let gallery = Gallery::default();
        let made = |n: u8| {
            let mut made = false;
            gallery.of(ContentHash([n; 32]), || (made = true, Ok(picture(n))).1).unwrap();
            made
        };
        assert!((0..4).all(made));
        assert!(!made(0), "it is kept");
        assert!(made(4), "the fifth");
        assert!(!made(0), "it was looked at since");
        assert!(made(1), "the one longest not looked at made room");
    }

    #[test]
    fn one_is_made_at_a_time_and_few_wait() {
        let gallery = Gallery::default();
        let refusal = Refusal::Invalid("no".to_owned());
        let (begun, begins) = sync_channel(0);
        let (go, gone) = sync_channel::<()>(0);
        std::thread::scope(|threads| {
            let gallery = &gallery;
            threads.spawn(move || {
                gallery.of(ContentHash([1; 32]), || {
                    begun.send(()).unwrap();
                    gone.recv().unwrap();
                    Ok(picture(1))
                })
            });
            begins.recv().unwrap();
            let waiting: Vec<_> = (0..limits::SPECTROGRAMS_WAITING)
                .map(|_| threads.spawn(|| gallery.of(ContentHash([1; 32]), || Err(refusal.clone())).is_ok()))
                .collect();
            while gallery.waiting.load(Ordering::Relaxed) <= limits::SPECTROGRAMS_WAITING {
                std::thread::yield_now();
            }
            let late = gallery.of(ContentHash([2; 32]), || Ok(picture(2)));
            assert!(matches!(late, Err(Refusal::Full(_))));
            go.send(()).unwrap();
            assert!(waiting.into_iter().all(|thread| thread.join().unwrap()), "they get what the first one made");
        });
        assert_eq!(gallery.of(ContentHash([2; 32]), || Err(refusal.clone())), Err(refusal), "nobody waits any more");
    }
}
