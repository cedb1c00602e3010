//! Look-ups in the share index for users: a few at once, and none waits for one that hangs.
//!
//! What is looked up is the caller's; what an answer that never comes means is the engine's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

/// Index look-ups at once.
const LOOKUPS: usize = 2;
/// A look-up takes milliseconds. After this its turn goes to the next one, and its answer is not waited for: the engine
/// has its own deadlines. Chosen.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(10);
/// Threads that may hang in look-ups, in a network mount that is gone; with all of them there nothing is looked up.
const LOOKUP_THREADS: usize = 8;

/// Turns for the index: so many at once, and none for ever.
#[derive(Clone)]
pub(super) struct Lookups {
    turns: Arc<Semaphore>,
    threads: Arc<Semaphore>,
}

impl Default for Lookups {
    fn default() -> Self {
        let semaphore = |places| Arc::new(Semaphore::new(places));
        Self { turns: semaphore(LOOKUPS), threads: semaphore(LOOKUP_THREADS) }
    }
}

impl Lookups {
    /// What the look-up says; `None` where it panicked, or hangs.
    pub(super) async fn run<T: Send + 'static>(&self, look_up: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let _turn = self.turns.acquire().await.ok()?;
        let threads = Arc::clone(&self.threads);
        let work = async {
            let thread = threads.acquire_owned().await.ok()?;
            let running = tokio::task::spawn_blocking(move || {
                let _thread = thread;
                look_up()
            });
            running.await.inspect_err(|error| tracing::error!(%error, "a look-up in the share index failed")).ok()
        };
        let found = tokio::time::timeout(LOOKUP_PATIENCE, work).await;
        found.inspect_err(|_| tracing::warn!("a look-up in the share index hangs; is a shared disk gone?")).ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn look_ups_that_hang_or_panic_do_not_stop_the_others() {
        let lookups = Lookups::default();
        let (release, hung) = std::sync::mpsc::sync_channel::<()>(1);
        let hung = Arc::new(std::sync::Mutex::new(hung));
        let hanging: Vec<_> = (0..LOOKUPS)
            .map(|_| {
                let (lookups, hung) = (lookups.clone(), hung.clone());
                tokio::spawn(async move { lookups.run(move || hung.lock().unwrap().recv().is_err()).await })
            })
            .collect();
        while lookups.threads.available_permits() > LOOKUP_THREADS - LOOKUPS {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(LOOKUP_PATIENCE).await;
        for hanging in hanging {
            assert_eq!(hanging.await.unwrap(), None);
        }
        assert_eq!(lookups.run(|| 7).await, Some(7));
        assert_eq!(lookups.run(|| -> u8 { panic!("a test's") }).await, None);
        // A thread is counted for as long as it hangs.
        assert_eq!(lookups.threads.available_permits(), LOOKUP_THREADS - LOOKUPS);
        drop(release);
    }
}
