//! What is done once at the start and once a day: forgotten partial files go, and the store is copied.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use super::apply::Folders;
use super::clock::Clock;
use crate::model::limits;
use crate::model::time::UnixMs;
use crate::model::transfer::Direction;
use crate::model::view::TransferFilter;
use crate::store::{Store, StoreError, newest_snapshot};

/// Between two copies of the store.
const EVERY: Duration = Duration::from_secs(24 * 3_600);
/// After the start, when a copy is due: first everything else gets going.
const SOON: Duration = Duration::from_secs(60);
/// After a copy that failed.
const AGAIN: Duration = Duration::from_secs(3_600);
/// Copies kept (RELIABILITY-FACTS 6).
const COPIES: usize = 7;

/// Removes partial files that no record names: their downloads were hidden, or forgotten by retention. Only files of
/// our own naming (`<uuid>.part`) are touched. Answers how many went. To be called before downloads run.
///
/// # Errors
/// The store or the folder cannot be read.
pub fn sweep(store: &Store, incomplete: &Path) -> Result<u32, StoreError> {
    let mut named: BTreeSet<String> = BTreeSet::new();
    let finished = TransferFilter {
        direction: Direction::Download,
        user: None,
        include_removed: false,
        offset: 0,
        limit: limits::FINISHED_TRANSFERS,
    };
    let (finished, _) = store.transfers(&finished)?;
    for transfer in store.live_transfers()?.into_iter().chain(finished) {
        named.extend(transfer.partial.map(|partial| partial.file));
    }
    let mut gone = 0;
    let entries = std::fs::read_dir(incomplete).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.strip_suffix(".part").is_some_and(|id| id.parse::<crate::model::id::TransferId>().is_ok());
        if ours && !named.contains(&name) {
            match std::fs::remove_file(entry.path()) {
                Ok(()) => gone += 1,
                Err(error) => tracing::warn!(name, %error, "a forgotten partial file could not be removed"),
            }
        }
    }
    Ok(gone)
}

/// How long until the store is to be copied. A copy from the future was made under a wrong clock; it counts as new.
fn due(newest: Option<UnixMs>, now: UnixMs) -> Duration {
    newest.map_or(SOON, |newest| EVERY.saturating_sub(now.since(newest)).max(SOON))
}

/// The next rest, after so much waiting for a copy that is due after `wait`, and whether it is made behind it. No longer than
/// an hour at once: the clock may be set meanwhile. At most a day in all, also when the newest copy stays in the future.
fn nap(wait: Duration, waited: Duration) -> (Duration, bool) {
    let whole = wait.min(EVERY.saturating_sub(waited));
    (whole.min(AGAIN), whole <= AGAIN)
}

fn written_at(dir: &Path) -> Result<Option<UnixMs>, StoreError> {
    let newest = newest_snapshot(dir)?;
    let since_1970 = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(newest.map(|(_, at)| UnixMs::default().plus(since_1970(at))))
}

/// Copies the store whenever the newest copy is a day old, until cancelled. A copy that fails is told and tried again
/// in an hour.
///
/// # Errors
/// A look at the copies or a copy panicked; the supervisor begins again.
pub async fn run(store: Store, folders: Folders, clock: Clock, cancel: CancellationToken) -> Result<(), String> {
    let dir = folders.data.join("snapshots");
    let mut failed = false;
    let mut waited = Duration::ZERO;
    loop {
        let looked_at = dir.clone();
        let newest = tokio::task::spawn_blocking(move || written_at(&looked_at)).await.map_err(|e| e.to_string())?;
        let wait = match newest {
            Ok(newest) if !failed => due(newest, clock.now().wall),
            Ok(_) => AGAIN,
            Err(error) => {
                tracing::warn!(%error, "the copies of the store could not be looked at");
                AGAIN
            }
        };
        let (nap, is_due) = nap(wait, waited);
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(nap) => {}
        }
        if !is_due {
            waited += nap;
            continue;
        }
        waited = Duration::ZERO;
        let (copied, to) = (store.clone(), dir.clone());
        let copied = tokio::task::spawn_blocking(move || copied.snapshot(&to, COPIES)).await;
        failed = match copied.map_err(|e| e.to_string())? {
            Ok(path) => {
                tracing::info!(path = %path.display(), "the store was copied");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "the store could not be copied");
                true
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreOptions;

    #[test]
    fn only_forgotten_partial_files_of_ours_go() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store"), StoreOptions::default()).unwrap();
        let incomplete = folder.path().join("incomplete");
        std::fs::create_dir(&incomplete).unwrap();
        for name in ["01234567-89ab-4def-8123-456789abcdef.part", "mine.part", "notes.txt"] {
            std::fs::write(incomplete.join(name), b"x").unwrap();
        }
        assert_eq!(sweep(&store, &incomplete).unwrap(), 1);
        assert!(incomplete.join("mine.part").exists() && incomplete.join("notes.txt").exists());
    }

    #[test]
    fn a_copy_is_due_when_the_newest_is_a_day_old() {
        let (now, hours) = (UnixMs(1_767_400_000_000), |n: u64| Duration::from_secs(n * 3_600));
        let ago = |n: u64| Some(UnixMs(now.0 - n * 3_600_000));
        assert_eq!(due(None, now), SOON);
        assert_eq!(due(ago(30), now), SOON);
        assert_eq!(due(ago(24), now), SOON);
        assert_eq!(due(ago(20), now), hours(4));
        assert_eq!(due(Some(now.plus(hours(1))), now), EVERY);
    }

    #[test]
    fn a_copy_from_the_future_holds_up_the_next_one_by_a_day_at_most() {
        let (mut waited, mut naps) = (Duration::ZERO, 0);
        loop {
            // The clock is right by now, the copy's years ahead.
            let (rest, is_due) = nap(EVERY, waited);
            (waited, naps) = (waited + rest, naps + 1);
            assert!(rest <= AGAIN && waited <= EVERY);
            if is_due {
                break;
            }
        }
        assert_eq!((waited, naps), (EVERY, 24));
        assert_eq!(nap(SOON, Duration::ZERO), (SOON, true));
        // The clock was set meanwhile: it is due at once.
        assert_eq!(nap(SOON, AGAIN * 3), (SOON, true));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_copy_comes_soon_and_one_that_failed_is_made_an_hour_later() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store"), StoreOptions::default()).unwrap();
        let folders = Folders {
            data: folder.path().to_owned(),
            downloads: folder.path().join("downloads"),
            incomplete: folder.path().join("incomplete"),
        };
        let snapshots = folder.path().join("snapshots");
        // Where the copy is to be written there is a folder.
        let in_the_way = snapshots.join("snapshot-00000001.backup.partial");
        std::fs::create_dir_all(&in_the_way).unwrap();
        let began = tokio::time::Instant::now();
        let cancel = CancellationToken::new();
        let running = tokio::spawn(run(store, folders, Clock::start(), cancel.clone()));
        // Time goes on by itself while everybody waits.
        tokio::time::sleep(SOON + AGAIN / 2).await;
        std::fs::remove_dir(&in_the_way).unwrap();
        tokio::time::sleep(AGAIN / 4).await;
        assert_eq!(newest_snapshot(&snapshots).unwrap(), None);
        while newest_snapshot(&snapshots).unwrap().is_none() {
            tokio::time::sleep(AGAIN / 8).await;
            assert!(began.elapsed() < SOON + 2 * AGAIN, "no copy was made");
        }
        cancel.cancel();
        running.await.unwrap().unwrap();
    }
}
