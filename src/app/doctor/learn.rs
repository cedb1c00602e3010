//! Single files that changed by our own doing: what a scan of them would have found, without a scan of their folder,
//! which would stand in the list of scans and put off the scheduled one.

use super::scan::{Reins, file_issues, identify, is_gone};
use super::{DoctorError, Ground, Outcome, settle, walk};
use crate::engine::library::detect;
use crate::engine::library::{FILE_KINDS, all_file_kinds};
use crate::model::health::{FileOutcome, FileRow, Identity, LocalPath, Variant};
use crate::model::id::ScanId;
use crate::store::library::FileChange;

/// The scan that rows of these files name: none.
const NO_SCAN: ScanId = ScanId(0);

/// A file that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Where it lies, or lay.
    pub path: LocalPath,
    /// Whose recording it was proven to be when it was put there, for the case that it does not say so itself.
    pub proven: Option<Identity>,
}

/// Looks at these files, and then at the recordings and releases they belong to. A file that is gone is forgotten; one
/// that is passed over by scans is not looked at. Blocks.
///
/// # Errors
/// The store cannot be used, or nothing can be measured now: it is to be tried again.
pub fn learn(ground: &Ground, files: &[Changed], reins: &Reins, offline: bool) -> Result<(), DoctorError> {
    for Changed { path, proven } in files {
        let now = ground.clock.now().wall;
        if is_gone(path) {
            let path = path.clone();
            ground.store.write_blocking(move |txn, tables| tables.library.forget_file(txn, &path, now))?;
            continue;
        }
        if let Some(change) = look(ground, path, proven.as_ref(), reins)? {
            ground.store.write_blocking(move |txn, tables| {
                tables.library.put_files(txn, std::slice::from_ref(&change), None, now)
            })?;
        }
    }
    let settler = settle::Settler::new(ground, reins, offline);
    settler.recordings()?;
    settler.releases()?;
    Ok(())
}

/// What a file says of itself goes first, and what was proven fills what it leaves open.
fn known(own: Identity, proven: Option<&Identity>) -> Identity {
    match proven {
        Some(proven) if own.recording_id.is_none() => {
            let release_id = own.release_id.or(proven.release_id);
            Identity { release_id, acoustid: own.acoustid, ..proven.clone() }
        }
        Some(proven) if own.recording_id == proven.recording_id => {
            Identity { release_id: own.release_id.or(proven.release_id), ..own }
        }
        _ => own,
    }
}

/// What became of one file; `None`: it changes just now, or is none.
fn look(
    ground: &Ground,
    path: &LocalPath,
    proven: Option<&Identity>,
    reins: &Reins,
) -> Result<Option<FileChange>, DoctorError> {
    let real = walk::to_path(path);
    let seen = || std::fs::symlink_metadata(&real).ok().as_ref().and_then(walk::seen);
    let Some(before) = seen() else { return Ok(None) };
    let name = String::from_utf8_lossy(path.name()).into_owned();
    let outcome = match ground.measure.open(&real) {
        Ok(file) => ground.measure.measure(file, &name, &|| reins.must_stop()).ok_or(DoctorError::Stopped)?,
        Err(error) => Outcome::Broken(format!("it cannot be read: {error}")),
    };
    if seen() != Some(before) {
        return Ok(None);
    }
    let row = |outcome| FileRow {
        path: path.clone(),
        size: before.size,
        mtime_ns: before.mtime_ns,
        inode: before.inode,
        outcome,
        scan: NO_SCAN,
    };
    let now = ground.clock.now().wall;
    let plain = |outcome, issues| FileChange {
        row: row(outcome),
        variant: None,
        issues,
        judged: all_file_kinds().collect(),
        moved_from: None,
    };
    Ok(Some(match outcome {
        Outcome::NotTried(why) => return Err(DoctorError::NotReady(why)),
        Outcome::Broken(why) | Outcome::GaveUp(why) => {
            let issue = detect::broken_file(path, &why, now);
            plain(FileOutcome::Broken(why), vec![issue])
        }
        Outcome::Unsupported(why) => plain(FileOutcome::Unsupported(why), Vec::new()),
        Outcome::Measured(measured) => {
            let variant = Variant {
                judged: ground.judge.judge(&measured),
                identity: known(identify(ground, &measured)?, proven),
                measured: *measured,
                paths: vec![path.clone()],
                first_seen_at: now,
                last_seen_at: now,
                seen_count: 1,
            };
            FileChange {
                row: row(FileOutcome::Measured(variant.hash())),
                issues: file_issues(&variant, path, now),
                variant: Some(Box::new(variant)),
                judged: FILE_KINDS.to_vec(),
                moved_from: None,
            }
        }
    }))
}
