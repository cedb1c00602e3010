//! What is done once at the start and once a day: forgotten partial files go, and the store is copied.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::apply::Folders;
use crate::model::limits;
use crate::model::transfer::Direction;
use crate::model::view::TransferFilter;
use crate::store::{Store, StoreError};

/// Between two copies of the store.
const EVERY: Duration = Duration::from_secs(24 * 3_600);
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

/// Copies the store once a day until cancelled.
///
/// # Errors
/// The store cannot be copied; the supervisor tries again.
pub async fn run(store: Store, folders: Folders, cancel: CancellationToken) -> Result<(), String> {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
        let (copied, dir) = (store.clone(), folders.data.join("snapshots"));
        let copy = tokio::task::spawn_blocking(move || copied.snapshot(&dir, COPIES)).await;
        let path = copy.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        tracing::info!(path = %path.display(), "the store was copied");
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
}
