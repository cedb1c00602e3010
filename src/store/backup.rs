//! Backups: a consistent copy while the store runs, its check, and its return into an empty folder.
//!
//! One file: the line `slskdn-backup-1`, then sections of length (u64, big-endian), BLAKE3 hash and bytes. The first
//! section is a compacted LMDB file; a second, if there, is the configuration file that went with it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use heed::CompactionOption;
use heed::types::{Bytes, DecodeIgnore, Str};

use super::migrate::{self, FORMAT};
use super::records::{Conversation, Record, decode};
use super::tables::Env;
use super::{Store, StoreError, folder, open_env};
use crate::model::record::{Batch, PrivateMessage, Wish};
use crate::model::transfer::Transfer;

const MAGIC: &[u8] = b"slskdn-backup-1\n";
/// Length and hash before each section.
const SECTION_HEAD: usize = 8 + 32;
/// The longest configuration file that is taken along.
const CONFIG_LEN: u64 = 1024 * 1024;
/// The configuration file of a restored backup, in the store's folder.
pub const RESTORED_CONFIG: &str = "restored.yml";
/// Largest map a check of a backup may need: the file, and room to open tables.
const CHECK_MAP_ROOM: u64 = 1024 * 1024;

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    /// Format of the store in it.
    pub format: u32,
    /// Length of the LMDB section, bytes.
    pub length: u64,
    /// Tables by stored name, with their entries.
    pub tables: Vec<(String, u64)>,
    /// The configuration file taken along.
    pub config: Option<Vec<u8>>,
}

impl Store {
    /// Copies the store as it is now into one file, replacing that file only when the copy is on the disk. Writes go
    /// on meanwhile. Takes as long as reading and writing the data does: call it in `spawn_blocking`.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        self.backup_with(to, None)
    }

    /// As [`Store::backup`], with the text of the configuration file (at most 1 MiB).
    pub fn backup_with(&self, to: &Path, config: Option<&[u8]>) -> Result<(), StoreError> {
        let shared = &self.inner.shared;
        let _seat = shared.gate.enter_bare()?;
        shared.counters.copies.fetch_add(1, Ordering::Relaxed);
        let copied = copy(&shared.env, to, config);
        shared.counters.copies.fetch_sub(1, Ordering::Relaxed);
        copied
    }

    /// Backs up into `dir` under the next number and removes all but the newest `keep` (7 for a daily one). Answers
    /// with the new file.
    pub fn snapshot(&self, dir: &Path, keep: usize) -> Result<PathBuf, StoreError> {
        folder::make(dir)?;
        let mut kept = snapshots(dir)?;
        let next = kept.last().map_or(1, |(number, _)| number.saturating_add(1));
        let path = dir.join(format!("snapshot-{next:08}.backup"));
        self.backup(&path)?;
        kept.push((next, path.clone()));
        let surplus = kept.len().saturating_sub(keep.max(1));
        for (_, old) in kept.drain(..surplus) {
            fs::remove_file(&old).map_err(StoreError::io("remove", &old))?;
        }
        folder::sync(dir)?;
        Ok(path)
    }
}

/// The newest snapshot in a folder and when it was written; none where there is no such folder.
///
/// # Errors
/// The folder or the file cannot be looked at.
pub fn newest_snapshot(dir: &Path) -> Result<Option<(PathBuf, SystemTime)>, StoreError> {
    if !dir.exists() {
        return Ok(None);
    }
    let Some((_, path)) = snapshots(dir)?.pop() else { return Ok(None) };
    let written = fs::metadata(&path).and_then(|found| found.modified()).map_err(StoreError::io("look at", &path))?;
    Ok(Some((path, written)))
}

/// Copies of a store that lie in a data directory, newest first: the daily ones, and those from before a change of the
/// format. With the time each was written.
pub fn copies(data: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut found = Vec::new();
    let aside = fs::read_dir(data).into_iter().flatten().flatten().map(|entry| entry.path());
    let aside = aside
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("store-set-aside-")));
    let mut folders = vec![(data.join("snapshots"), "snapshot-"), (data.join("store"), "before-format-")];
    folders.extend(aside.map(|path| (path, "before-format-")));
    for (folder, prefix) in folders {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let written = entry.metadata().and_then(|found| found.modified());
            if let (true, Ok(written)) = (name.starts_with(prefix) && name.ends_with(".backup"), written) {
                found.push((entry.path(), written));
            }
        }
    }
    found.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| b.0.cmp(&a.0)));
    found
}

/// Snapshots in a folder, oldest first.
fn snapshots(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
        let path = entry.map_err(StoreError::io("list", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("snapshot-").and_then(|rest| rest.strip_suffix(".backup"));
        if let Some(number) = number.and_then(|digits| digits.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Writes the copy beside its place, syncs it, puts it in place and syncs the folder.
pub(super) fn copy(env: &Env, to: &Path, config: Option<&[u8]>) -> Result<(), StoreError> {
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = write_copy(env, &partial, config).and_then(|()| {
        fs::rename(&partial, to).map_err(StoreError::io("put in place", to))?;
        folder::sync(folder::parent(to))
    });
    if written.is_err() {
        // The error that counts is the first one.
        drop(fs::remove_file(&partial));
    }
    written
}

fn write_copy(env: &Env, path: &Path, config: Option<&[u8]>) -> Result<(), StoreError> {
    let io = |what| StoreError::io(what, path);
    if let Some(config) = config
        && config.len() as u64 > CONFIG_LEN
    {
        let reason = format!("a configuration of {} bytes is too long, at most {CONFIG_LEN}", config.len());
        return Err(StoreError::Refused(reason));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(io("make"))?;
    let start = (MAGIC.len() + SECTION_HEAD) as u64;
    file.write_all(MAGIC).map_err(io("write"))?;
    file.write_all(&[0; SECTION_HEAD]).map_err(io("write"))?;
    // LMDB writes from the file's position on.
    env.copy_to_file(&mut file, CompactionOption::Enabled)?;
    let length = file.seek(SeekFrom::End(0)).map_err(io("write"))?.saturating_sub(start);
    file.seek(SeekFrom::Start(start)).map_err(io("read back"))?;
    let hash = hash_of(&mut file, length, &mut io::sink()).map_err(io("read back"))?;
    file.write_all_at(&section_head(length, &hash), MAGIC.len() as u64).map_err(io("write"))?;
    if let Some(config) = config {
        file.seek(SeekFrom::End(0)).map_err(io("write"))?;
        let head = section_head(config.len() as u64, &blake3::hash(config));
        file.write_all(&head).and_then(|()| file.write_all(config)).map_err(io("write"))?;
    }
    file.sync_all().map_err(io("sync"))
}

fn section_head(length: u64, hash: &blake3::Hash) -> [u8; SECTION_HEAD] {
    let mut head = [0; SECTION_HEAD];
    head[..8].copy_from_slice(&length.to_be_bytes());
    head[8..].copy_from_slice(hash.as_bytes());
    head
}

/// Passes `length` bytes on and hashes them.
fn hash_of(from: &mut impl Read, length: u64, to: &mut impl Write) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut from = from.take(length);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
    }
    if from.limit() > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(hasher.finalize())
}

/// Checks a backup whole: hashes, that the store in it opens with a format this program knows, that every table has as
/// many rows as it says and every known record decodes. Needs room for the store in `scratch`, which must lie on a disk
/// of this computer; it is made if it is absent.
pub fn verify_backup(file: &Path, scratch: &Path) -> Result<BackupSummary, StoreError> {
    static CHECKS: AtomicU32 = AtomicU32::new(0);
    let name = format!("{}-{}", std::process::id(), CHECKS.fetch_add(1, Ordering::Relaxed));
    let dir = fresh_folder(&scratch.join(name))?;
    let checked = unpack(file, &dir).and_then(|(length, config)| check(file, &dir, length, config));
    let removed = fs::remove_dir_all(&dir).map_err(StoreError::io("remove", &dir));
    checked.and_then(|summary| removed.map(|()| summary))
}

/// Where a restore into this folder works; it is there only while one runs, or after one was interrupted.
pub fn unfinished(into: &Path) -> PathBuf {
    let mut beside = into.as_os_str().to_owned();
    beside.push(".restoring");
    PathBuf::from(beside)
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(StoreError::io("write", path))
}

/// Puts a backup into `into`, which must be absent or empty (a left-over lock file counts as empty). Everything
/// [`verify_backup`] checks is checked in a folder beside it first ([`unfinished`]), which is then renamed. The
/// configuration, if there is one, arrives with it as [`RESTORED_CONFIG`], for the caller to take away: after an
/// interruption there is all of the backup, or nothing.
pub fn restore(file: &Path, into: &Path) -> Result<BackupSummary, StoreError> {
    let io = |what| StoreError::io(what, into);
    let above = folder::parent(into);
    folder::make(above)?;
    let occupied = match fs::read_dir(into) {
        Ok(entries) => {
            let mut names = entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<Vec<_>, _>>();
            let names = names.as_mut().map_err(|error| io("list")(io::Error::from(error.kind())))?;
            names.retain(|name| name != folder::LOCK);
            !names.is_empty()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(io("list")(error)),
    };
    if occupied {
        return Err(StoreError::NotEmpty(into.to_owned()));
    }
    // Somebody may have the empty store open; the lock is held until the folder is replaced.
    let _lock = if into.exists() { Some(folder::lock(into)?) } else { None };
    let dir = fresh_folder(&unfinished(into))?;
    let restored = unpack(file, &dir).and_then(|(length, config)| {
        let summary = check(file, &dir, length, config)?;
        remove_if_there(&dir.join("lock.mdb"))?;
        if let Some(config) = &summary.config {
            write_synced(&dir.join(RESTORED_CONFIG), config)?;
        }
        folder::sync(&dir)?;
        remove_if_there(&into.join(folder::LOCK))?;
        fs::rename(&dir, into).map_err(io("put the restored store into"))?;
        folder::sync(above)?;
        Ok(summary)
    });
    if restored.is_err() {
        drop(fs::remove_dir_all(&dir));
    }
    restored
}

/// An empty folder of ours; what an interrupted run left there is removed.
fn fresh_folder(dir: &Path) -> Result<PathBuf, StoreError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StoreError::io("remove", dir)(error)),
        _ => {}
    }
    folder::make(dir)?;
    Ok(dir.to_owned())
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Writes the LMDB section to `data.mdb` in `dir`, synced; answers with its length and the configuration.
fn unpack(file: &Path, dir: &Path) -> Result<(u64, Option<Vec<u8>>), StoreError> {
    let io = |what| StoreError::io(what, file);
    let damaged = |reason: &str| StoreError::BackupDamaged { path: file.to_owned(), reason: reason.to_owned() };
    let source = File::open(file).map_err(io("open"))?;
    let mut left = source.metadata().map_err(io("open"))?.len();
    let mut source = BufReader::new(source);
    let mut magic = [0; MAGIC.len()];
    if left < MAGIC.len() as u64 || source.read_exact(&mut magic).is_err() || magic != MAGIC {
        return Err(StoreError::NotABackup(file.to_owned()));
    }
    left -= MAGIC.len() as u64;

    let mut section = |left: &mut u64, to: &mut dyn Write, length_max: u64| {
        let mut head = [0; SECTION_HEAD];
        *left = left.checked_sub(SECTION_HEAD as u64).ok_or_else(|| damaged("it is cut off"))?;
        source.read_exact(&mut head).map_err(io("read"))?;
        let (length, hash) = head.split_at(8);
        let length = length.try_into().map_or(u64::MAX, u64::from_be_bytes);
        if length > *left {
            return Err(damaged("it is cut off"));
        }
        if length > length_max {
            return Err(damaged("a section is longer than allowed"));
        }
        let mut to = to;
        let found = hash_of(&mut source, length, &mut to).map_err(io("copy"))?;
        *left -= length;
        if found.as_bytes() == hash { Ok(length) } else { Err(damaged("its hash does not match its bytes")) }
    };

    let data = dir.join("data.mdb");
    let mut options = OpenOptions::new();
    let mut target =
        options.write(true).create_new(true).mode(0o600).open(&data).map_err(StoreError::io("make", &data))?;
    let length = section(&mut left, &mut target, u64::MAX)?;
    target.sync_all().map_err(StoreError::io("sync", &data))?;
    let config = if left > 0 {
        let mut config = Vec::new();
        section(&mut left, &mut config, CONFIG_LEN)?;
        Some(config)
    } else {
        None
    };
    if left > 0 {
        return Err(damaged("bytes follow its end"));
    }
    Ok((length, config))
}

fn check(file: &Path, dir: &Path, length: u64, config: Option<Vec<u8>>) -> Result<BackupSummary, StoreError> {
    let damaged = |reason: String| StoreError::BackupDamaged { path: file.to_owned(), reason };
    let map = usize::try_from(length.saturating_add(CHECK_MAP_ROOM)).unwrap_or(usize::MAX);
    let env = open_env(dir, map, map, 8)?;
    let format = match migrate::stored_format(&env)? {
        None => return Err(damaged("the store in it has no format number".to_owned())),
        Some(found) if found > FORMAT => return Err(StoreError::NewerFormat { found, known: FORMAT }),
        Some(format) => format,
    };
    let txn = env.read_txn()?;
    let names = env
        .open_database::<Str, DecodeIgnore>(&txn, None)?
        .ok_or_else(|| damaged("the store in it has no tables".to_owned()))?;
    let mut tables = Vec::new();
    for entry in names.iter(&txn)? {
        let (name, ()) = entry?;
        let Some(table) = env.open_database::<Bytes, Bytes>(&txn, Some(name))? else {
            return Err(damaged(format!("table {name} does not open")));
        };
        let promised = table.len(&txn)?;
        let mut rows = 0_u64;
        for entry in table.iter(&txn)? {
            check_record(name, entry?.1)?;
            rows += 1;
        }
        if rows != promised {
            return Err(damaged(format!("table {name} has {rows} rows instead of {promised}")));
        }
        tables.push((name.to_owned(), rows));
    }
    drop(txn);
    env.prepare_for_closing().wait();
    Ok(BackupSummary { format, length, tables, config })
}

fn check_record(table: &str, bytes: &[u8]) -> Result<(), StoreError> {
    fn decodes<R: Record>(bytes: &[u8]) -> Result<(), StoreError> {
        decode::<R>(bytes).map(drop)
    }
    match table {
        "transfers-1" => decodes::<Transfer>(bytes),
        "messages-1" => decodes::<PrivateMessage>(bytes),
        "conversations-1" => decodes::<Conversation>(bytes),
        "wishes-1" => decodes::<Wish>(bytes),
        "batches-1" => decodes::<Batch>(bytes),
        _ => Ok(()),
    }
}
