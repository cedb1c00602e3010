//! The browse reply, made once after changes and streamed from its file to everyone who asks.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use super::SharingError;
use crate::engine::soulseek::sharelist::ShareListWriter;
use crate::store::Store;

/// Files read from the index in one transaction.
const STEP_FILES: usize = 2_000;

/// Writes the list of all shared folders to `to`, by way of a temporary file beside it. The index must not change
/// meanwhile: only the thread that changes it calls this.
pub(super) fn build(store: &Store, to: &Path) -> Result<(), SharingError> {
    let (generation, folders, roots) = store.read(|txn, tables| {
        let reader = tables.shares.reader(txn)?;
        Ok((tables.shares.generation(txn)?, reader.counts().folders, reader.roots().len()))
    })?;
    tracing::debug!(folders, roots, "making the browse reply");
    let failed = |source| SharingError::List { path: to.to_owned(), source };
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let temporary = to.with_extension("new");
    let file = BufWriter::new(File::create(&temporary).map_err(failed)?);
    let mut writer = ShareListWriter::new(file, folders)?;
    let mut after: Option<String> = None;
    loop {
        let step = store.read(|txn, tables| tables.shares.reader(txn)?.browse(after.as_deref(), STEP_FILES))?;
        let Some(last) = step.last() else { break };
        after = Some(last.name.as_str().to_owned());
        for folder in &step {
            writer.folder(&folder.name, u32::try_from(folder.files.len()).unwrap_or(u32::MAX))?;
            for file in &folder.files {
                writer.file(file)?;
            }
        }
    }
    let mut file = writer.finish()?;
    file.flush().map_err(failed)?;
    // On the disk before the index says so: after a power cut an empty file would pass for the list.
    file.get_ref().sync_all().map_err(failed)?;
    fs::rename(&temporary, to).map_err(failed)?;
    store.write_blocking(move |txn, tables| tables.shares.set_listed(txn, generation))?;
    Ok(())
}
