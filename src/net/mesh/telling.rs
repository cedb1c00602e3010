//! One word about recordings at a time, and the slow after the others.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::locked;

/// Who took longer than this to take a word about recordings is told nothing more for [`SLOW`] times as long: few words
/// are under way at once, and the slow must not have all of them.
const SLOWLY: Duration = Duration::from_millis(250);
const SLOW: u32 = 16;

/// Of one connection: one word at a time.
#[derive(Debug)]
pub(super) struct Teller {
    alone: Arc<Semaphore>,
    /// Nothing until then. Short and synchronous.
    rests: Arc<Mutex<Option<Instant>>>,
}

impl Default for Teller {
    fn default() -> Self {
        Self { alone: Arc::new(Semaphore::new(1)), rests: Arc::default() }
    }
}

impl Teller {
    /// Leave for one word, of those that all connections together may have under way.
    pub(super) fn leave(&self, all: &Arc<Semaphore>) -> Option<Telling> {
        if locked(&self.rests).is_some_and(|until| until > Instant::now()) {
            return None;
        }
        let alone = Arc::clone(&self.alone).try_acquire_owned().ok()?;
        let all = Arc::clone(all).try_acquire_owned().ok()?;
        Some(Telling { _permits: [alone, all], since: None, rests: Arc::clone(&self.rests) })
    }
}

/// Leave to tell a peer one thing about recordings.
#[derive(Debug)]
pub struct Telling {
    _permits: [OwnedSemaphorePermit; 2],
    /// When it was given away to be written.
    since: Option<Instant>,
    rests: Arc<Mutex<Option<Instant>>>,
}

impl Telling {
    /// It is made, and waits to be written.
    pub(super) fn goes(&mut self) {
        self.since = Some(Instant::now());
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let took = self.since.map(|since| since.elapsed()).unwrap_or_default();
        if took > SLOWLY {
            *locked(&self.rests) = Some(Instant::now() + took * SLOW);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_leaves_room_to_others() {
        let all = Arc::new(Semaphore::new(2));
        let (slow, quick, third) = (Teller::default(), Teller::default(), Teller::default());
        let mut word = slow.leave(&all).unwrap();
        assert!(slow.leave(&all).is_none(), "one at a time");
        let other = quick.leave(&all).unwrap();
        assert!(third.leave(&all).is_none(), "two of all");
        drop(other);
        assert!(quick.leave(&all).is_some(), "what was not told took no time");
        word.goes();
        tokio::time::advance(Duration::from_secs(4)).await;
        drop(word);
        tokio::time::advance(Duration::from_secs(63)).await;
        assert!(slow.leave(&all).is_none() && quick.leave(&all).is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        let mut word = slow.leave(&all).unwrap();
        word.goes();
        tokio::time::advance(Duration::from_millis(100)).await;
        drop(word);
        assert!(slow.leave(&all).is_some());
    }
}
