//! One word about recordings at a time, and the slow after the others.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::{locked, spare};

/// Who took longer than this to take a word about recordings is told nothing more for [`SLOW`] times as long, up to
/// [`SLOW`] times [`PASSED`]: few words are under way at once, and the slow must not have all of them.
const SLOWLY: Duration = Duration::from_millis(250);
const SLOW: u32 = 16;
/// A word that is still under way after this gives its turn to the next one: while files are on their way to a peer, how
/// slowly it may read is for them to say, which can take minutes. Chosen.
const PASSED: Duration = Duration::from_secs(5);

/// Words of all connections.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    /// Permits of the pool: the slow pay for their words themselves.
    blocks: Arc<Semaphore>,
    /// Words that have a turn. Short and synchronous.
    going: Mutex<Vec<Weak<Mutex<Turn>>>>,
}

/// What a word is paid with.
#[derive(Debug)]
struct Turn {
    permit: OwnedSemaphorePermit,
    /// When the word was given away to be written.
    since: Option<Instant>,
}

impl Turns {
    /// For so many words at once.
    pub(super) fn new(words: usize, blocks: Arc<Semaphore>) -> Self {
        Self { all: Arc::new(Semaphore::new(words)), blocks, going: Mutex::default() }
    }

    fn take(&self) -> Option<Arc<Mutex<Turn>>> {
        let permit = Arc::clone(&self.all).try_acquire_owned().ok().or_else(|| self.passed_on())?;
        let turn = Arc::new(Mutex::new(Turn { permit, since: None }));
        let mut going = locked(&self.going);
        going.retain(|turn| turn.strong_count() > 0);
        going.push(Arc::downgrade(&turn));
        Some(turn)
    }

    /// The turn of a word that has been under way for long, and has a block of the pool for it now.
    fn passed_on(&self) -> Option<OwnedSemaphorePermit> {
        let mut going = locked(&self.going);
        let is_slow = |turn: &Turn| turn.since.is_some_and(|since| since.elapsed() >= PASSED);
        let slow = going.iter().position(|turn| turn.upgrade().is_some_and(|turn| is_slow(&locked(&turn))))?;
        let block = spare(&self.blocks, 1)?;
        // What has its own block has no turn any more.
        let turn = going.swap_remove(slow).upgrade()?;
        let permit = std::mem::replace(&mut locked(&turn).permit, block);
        Some(permit)
    }
}

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
    pub(super) fn leave(&self, turns: &Turns) -> Option<Telling> {
        if locked(&self.rests).is_some_and(|until| until > Instant::now()) {
            return None;
        }
        let alone = Arc::clone(&self.alone).try_acquire_owned().ok()?;
        Some(Telling { turn: turns.take()?, _alone: alone, rests: Arc::clone(&self.rests) })
    }
}

/// Leave to tell a peer one thing about recordings.
#[derive(Debug)]
pub struct Telling {
    turn: Arc<Mutex<Turn>>,
    _alone: OwnedSemaphorePermit,
    rests: Arc<Mutex<Option<Instant>>>,
}

impl Telling {
    /// It is made, and waits to be written.
    pub(super) fn goes(&mut self) {
        locked(&self.turn).since = Some(Instant::now());
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let took = locked(&self.turn).since.map(|since| since.elapsed()).unwrap_or_default();
        if took > SLOWLY {
            *locked(&self.rests) = Some(Instant::now() + took.min(PASSED) * SLOW);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits;

    fn turns(words: usize, blocks: usize) -> Turns {
        Turns::new(words, Arc::new(Semaphore::new(blocks)))
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_leaves_room_to_others() {
        let all = turns(2, 0);
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

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_a_word_for_minutes_keeps_no_turn() {
        let all = turns(2, limits::BLOCKS);
        let tellers: Vec<Teller> = (0..6).map(|_| Teller::default()).collect();
        let tell = |at: usize| {
            tellers[at].leave(&all).map(|mut word| {
                word.goes();
                word
            })
        };
        let slow = [tell(0).unwrap(), tell(1).unwrap()];
        tokio::time::advance(PASSED / 2).await;
        assert!(tell(2).is_none());
        tokio::time::advance(PASSED / 2).await;
        let others = [tell(2).unwrap(), tell(3).unwrap()];
        assert!(tell(4).is_none(), "two at a time, beside those that pay for themselves");
        assert_eq!(all.blocks.available_permits(), limits::BLOCKS - 2);
        // Each gives back what it has.
        drop(slow);
        assert_eq!((all.all.available_permits(), all.blocks.available_permits()), (0, limits::BLOCKS));
        drop(others);
        assert_eq!(all.all.available_permits(), 2);
        // What is made only now is not slow, and without a block to pay with it goes on as before.
        let made = tellers[4].leave(&all).unwrap();
        let slow = tell(5).unwrap();
        tokio::time::advance(PASSED).await;
        let short = Arc::clone(&all.blocks).try_acquire_many_owned(3 * 64 + 1).unwrap();
        assert!(Teller::default().leave(&all).is_none());
        drop(short);
        assert!(Teller::default().leave(&all).is_some());
        assert!(Teller::default().leave(&all).is_some(), "the turn that was passed on came back");
        drop((made, slow));
    }
}
