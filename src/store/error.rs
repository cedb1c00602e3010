//! What can go wrong with the store.

use std::io;
use std::path::{Path, PathBuf};

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process, or another handle of this one, holds `store/lock`.
    #[error("the store in {0} is in use by another process: stop it first, or ask it to do the work")]
    Locked(PathBuf),
    /// The folder lies on a file system that does not keep the promises a database needs.
    #[error("the store cannot lie in {path}: {kind} is a network file system, choose a folder on a local disk")]
    NetworkFileSystem {
        /// The folder.
        path: PathBuf,
        /// The file system, as the kernel names it.
        kind: String,
    },
    /// A file operation failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried, in words that fit after "cannot".
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// LMDB answered with an error.
    #[error("database: {0}")]
    Database(heed::Error),
    /// The data does not fit the largest map the options allow.
    #[error("the store has reached its largest size")]
    MapFull,
    /// No room on the disk; nothing of this write was kept, later writes are tried again.
    #[error("no space left on the disk of the store")]
    DiskFull,
    /// A commit failed in a way after which nothing more may be promised. Reads still work; the process must restart.
    #[error("the store takes no more writes since a failure: {0}")]
    Poisoned(String),
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
    /// The store was written by a newer program.
    #[error("the store has format {found}, this program knows formats up to {known}")]
    NewerFormat {
        /// As stored.
        found: u32,
        /// The newest we know.
        known: u32,
    },
    /// No chain of migration steps leads from the stored format to ours.
    #[error("the store has format {found} and no step leads from there to format {wanted}")]
    NoMigration {
        /// As stored.
        found: u32,
        /// Ours.
        wanted: u32,
    },
    /// A record's first byte names a version this program does not know.
    #[error("{record} record has version {found}, this program knows version {known}")]
    RecordVersion {
        /// Which kind of record.
        record: &'static str,
        /// As stored.
        found: u8,
        /// Ours.
        known: u8,
    },
    /// A record does not decode.
    #[error("{record} record is damaged: {reason}")]
    RecordDamaged {
        /// Which kind of record.
        record: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// A name is empty or too long to be a key.
    #[error("{what} has {length} bytes, 1 to {length_max} fit a key")]
    KeyLength {
        /// Which name.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The most that fits.
        length_max: usize,
    },
    /// The file is not a backup of ours.
    #[error("{0} is not a backup of a store")]
    NotABackup(PathBuf),
    /// The backup's bytes are not those that were written.
    #[error("the backup {path} is damaged: {reason}")]
    BackupDamaged {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        reason: String,
    },
    /// A restore needs an absent or empty folder.
    #[error("{0} is not empty: a backup is only restored into an empty folder")]
    NotEmpty(PathBuf),
    /// A write job refused by its own judgement.
    #[error("{0}")]
    Refused(String),
}

impl StoreError {
    /// For `map_err` after a file operation.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

impl From<heed::Error> for StoreError {
    fn from(error: heed::Error) -> Self {
        match error {
            heed::Error::Mdb(heed::MdbError::MapFull) => Self::MapFull,
            heed::Error::Io(error) if is_full(&error) => Self::DiskFull,
            other => Self::Database(other),
        }
    }
}

impl From<heed::MdbError> for StoreError {
    fn from(error: heed::MdbError) -> Self {
        heed::Error::Mdb(error).into()
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
