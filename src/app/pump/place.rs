//! A finished file to its place.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use super::{BATCH, PlaceOrder, Placing, Pump};
use crate::disk::pool::Block;
use crate::disk::{DiskError, File, Folder};
use crate::engine::soulseek::io::PlaceError;
use crate::engine::soulseek::names;

/// Numbers tried behind a taken name. Chosen: nobody keeps so many copies on purpose.
const NUMBERS_MAX: u32 = 999;

/// Bytes of a name that Linux file systems take.
const NAME_MAX: usize = 255;

/// Reads a container's own checksums.
pub trait ContainerCheck: Send {
    /// The next bytes of the file.
    fn feed(&mut self, bytes: &[u8]);

    /// After the last byte.
    ///
    /// # Errors
    /// Which checksum does not hold, in one sentence.
    fn finish(self: Box<Self>) -> Result<(), String>;
}

/// Finds the checker for a file name extension (lower case, without the dot); `None` for containers without checksums.
pub type Checks = Arc<dyn Fn(&str) -> Option<Box<dyn ContainerCheck>> + Send + Sync>;

pub(super) async fn place(pump: &Pump, order: &PlaceOrder) -> Result<Placing, PlaceError> {
    let disk = &pump.shared.disk;
    // First of all: without it nobody knows whether a file that is not here is there.
    let downloads = downloads(pump).await?;
    let from = disk.open_folder(&pump.shared.config.incomplete).await.map_err(refused)?;
    match disk.open_existing(&from, &order.file).await {
        Ok(_) => {}
        Err(DiskError::Missing(path)) => return found(pump, order).await.ok_or(refused(DiskError::Missing(path))),
        Err(error) => return Err(refused(error)),
    }
    if order.check {
        check(pump, &from, order).await?;
    }
    let (folder, name) = if downloads.takes_any_name() {
        (order.folder.clone(), order.name.clone())
    } else {
        let levels = order.folder.split('/').filter(|level| !level.is_empty());
        let levels: Vec<String> = levels.map(names::portable_name).collect();
        (levels.join("/"), names::portable_name(&order.name))
    };
    let there = if from.is_on_the_disk_of(&downloads) { refused } else { refused_elsewhere };
    let to = disk.make_folders(&downloads, &folder).await.map_err(there)?;
    // The name chosen before, unless the downloads folder is another one by now, or on a disk that does not take it.
    let chosen = order.meant.as_ref().and_then(|path| {
        let name = path.rsplit('/').next()?;
        let taken = downloads.takes_any_name() || names::portable_name(name) == name;
        (taken && absolute(&to, name) == *path).then_some((name, path))
    });
    if let Some((name, path)) = chosen
        && put(pump, &from, &order.file, &to, name).await?
    {
        return Ok(Placing::There(path.clone()));
    }
    let name = free_name(pump, &to, &name).await.map_err(there)?;
    Ok(Placing::Meant(absolute(&to, &name)))
}

/// The downloads folder, made where only its last level is missing: the first time on a disk that was just plugged in. Above
/// that nothing is made, lest the files of an absent disk come to lie where it is mounted.
async fn downloads(pump: &Pump) -> Result<Folder, PlaceError> {
    let (disk, config) = (&pump.shared.disk, &pump.shared.config);
    let away = |error| PlaceError::FolderAway(format!("the downloads folder cannot be used: {error}"));
    let path = &config.downloads;
    let missing = match disk.open_folder(path).await {
        Err(missing @ DiskError::Missing(_)) => missing,
        found => return found.map_err(away),
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
        return Err(away(missing));
    };
    let parent = disk.open_folder(parent).await.map_err(away)?;
    match disk.make_folders(&parent, name).await {
        // Not that of another disk, which is no reason for all to wait.
        Err(DiskError::Full)
            if disk.open_folder(&config.incomplete).await.is_ok_and(|ours| ours.is_on_the_disk_of(&parent)) =>
        {
            Err(PlaceError::DiskFull)
        }
        made => made.map_err(away),
    }
}

/// As the record has it.
fn absolute(folder: &Folder, name: &str) -> String {
    let path = folder.path().join(name);
    std::path::absolute(&path).unwrap_or(path).to_string_lossy().into_owned()
}

/// Without a partial file: the file where it was meant to go, if it is there and whole.
async fn found(pump: &Pump, order: &PlaceOrder) -> Option<Placing> {
    let disk = &pump.shared.disk;
    let path = Path::new(order.meant.as_ref()?);
    let (_, len) = disk.open_read(path).await.ok()?;
    let folder = disk.open_folder(path.parent()?).await.ok()?;
    // The kill may have come before that.
    disk.sync_folder(&folder).await.ok()?;
    (len == order.size).then(|| Placing::There(path.to_string_lossy().into_owned()))
}

fn refused(error: DiskError) -> PlaceError {
    match error {
        DiskError::Full => PlaceError::DiskFull,
        DiskError::Denied(..) => PlaceError::FolderAway(error.to_string()),
        other => PlaceError::Disk(other.to_string()),
    }
}

/// As [`refused`], of another disk than that of the partial files: it may be pulled out at any moment, it may be full while the
/// other has room, and FAT takes no file of 4 GiB. The partial file is fine.
fn refused_elsewhere(error: DiskError) -> PlaceError {
    match error {
        DiskError::Full => PlaceError::FolderAway("no room left on the disk of the downloads folder".to_owned()),
        DiskError::Io { .. } | DiskError::Missing(_) => {
            PlaceError::FolderAway(format!("the downloads folder cannot be used: {error}"))
        }
        other => refused(other),
    }
}

/// Moves the file to exactly this name; false where something else has it.
async fn put(pump: &Pump, from: &Folder, file: &str, to: &Folder, name: &str) -> Result<bool, PlaceError> {
    let disk = &pump.shared.disk;
    match disk.rename(from, file, to, name).await {
        Ok(()) => return Ok(true),
        Err(DiskError::Taken(_)) => return Ok(false),
        Err(DiskError::OtherFileSystem(_)) => {}
        Err(error) => return Err(refused(error)),
    }
    // Under a name of its own first, so that a name without a number never stands for half a file.
    let copy = format!(".{file}");
    if !same_bytes(pump, from, file, to, name).await? {
        copy_to(pump, from, file, to, &copy).await?;
        match disk.rename(to, &copy, to, name).await {
            Ok(()) => {}
            Err(DiskError::Taken(_)) => return Ok(false),
            Err(error) => {
                // It may have the name already, in memory only.
                if matches!(disk.open_existing(to, &copy).await, Err(DiskError::Missing(_))) {
                    let _ = disk.remove(to, name).await;
                }
                return Err(refused_elsewhere(error));
            }
        }
    }
    // Whoever pulls the disk out now gets one that needs no repair.
    if let Err(error) = disk.sync_file_system(to).await {
        // Said once only: what can be read there may never get to the disk. It is copied again.
        let _ = disk.remove(to, name).await;
        return Err(refused_elsewhere(error));
    }
    disk.remove(from, file).await.map_err(refused)?;
    Ok(true)
}

/// The first name that is free.
async fn free_name(pump: &Pump, folder: &Folder, name: &str) -> Result<String, DiskError> {
    if Path::new(name).file_name() != Some(OsStr::new(name)) {
        return Err(DiskError::UnsafeName(name.into()));
    }
    let mut candidate = name.to_owned();
    for number in 1..=NUMBERS_MAX {
        match pump.shared.disk.open_existing(folder, &candidate).await {
            Err(DiskError::Missing(_)) => return Ok(candidate),
            Ok(_) | Err(DiskError::NotAFile(_) | DiskError::SymbolicLink(_)) => candidate = numbered(name, number),
            Err(error) => return Err(error),
        }
    }
    Err(DiskError::Taken(folder.path().join(name)))
}

/// Whether the copy is there already: a process killed before it removed the original left both.
async fn same_bytes(pump: &Pump, from: &Folder, file: &str, to: &Folder, name: &str) -> Result<bool, PlaceError> {
    let disk = &pump.shared.disk;
    let (copy, copied) = match disk.open_existing(to, name).await {
        Ok(there) => there,
        Err(DiskError::Missing(_)) => return Ok(false),
        Err(error) => return Err(refused_elsewhere(error)),
    };
    let (original, len) = disk.open_existing(from, file).await.map_err(refused)?;
    let mut at = 0;
    while at < len && copied == len {
        let ours = read_some(pump, &original, at).await.map_err(refused)?;
        let theirs = read_some(pump, &copy, at).await.map_err(refused_elsewhere)?;
        let read: usize = ours.iter().map(Block::len).sum();
        if read == 0 || !ours.iter().flat_map(Block::bytes).eq(theirs.iter().flat_map(Block::bytes)) {
            return Ok(false);
        }
        at += read as u64;
    }
    Ok(copied == len)
}

/// `name (1).ext`; the name before it is shortened if the whole would be too long.
fn numbered(name: &str, number: u32) -> String {
    let path = Path::new(name);
    let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or(name);
    let extension = path.extension().and_then(OsStr::to_str).map(|extension| format!(".{extension}"));
    let tail = format!(" ({number}){}", extension.unwrap_or_default());
    let mut room = NAME_MAX.saturating_sub(tail.len()).min(stem.len());
    while !stem.is_char_boundary(room) {
        room -= 1;
    }
    format!("{}{tail}", &stem[..room])
}

/// Feeds the whole file to its container's checker.
async fn check(pump: &Pump, folder: &Folder, order: &PlaceOrder) -> Result<(), PlaceError> {
    let extension = Path::new(&order.name).extension().and_then(OsStr::to_str).unwrap_or_default().to_lowercase();
    let Some(mut checker) = (pump.shared.checks)(&extension) else {
        return Err(PlaceError::CheckFailed(format!("{extension:?} files carry no checksums")));
    };
    let (file, len) = pump.shared.disk.open_existing(folder, &order.file).await.map_err(refused)?;
    let mut at = 0;
    while at < len {
        let blocks = read_some(pump, &file, at).await.map_err(refused)?;
        let read: usize = blocks.iter().map(Block::len).sum();
        if read == 0 {
            return Err(PlaceError::Disk("the file became shorter".to_owned()));
        }
        for block in &blocks {
            checker.feed(block.bytes());
        }
        at += read as u64;
    }
    checker.finish().map_err(PlaceError::CheckFailed)
}

/// Copies a file to another file system and makes the copy durable. An earlier half copy is replaced.
async fn copy_to(pump: &Pump, from: &Folder, file: &str, to: &Folder, name: &str) -> Result<(), PlaceError> {
    let disk = &pump.shared.disk;
    let (source, len) = disk.open_existing(from, file).await.map_err(refused)?;
    if disk.free_space(to).await.map_err(refused_elsewhere)? < len.saturating_add(pump.shared.config.free_min) {
        return Err(refused_elsewhere(DiskError::Full));
    }
    disk.remove(to, name).await.map_err(refused_elsewhere)?;
    let target = disk.create_new(to, name).await.map_err(refused_elsewhere)?;
    let copied = async {
        disk.preallocate(&target, len).await.map_err(refused_elsewhere)?;
        let mut at = 0;
        while at < len {
            let blocks = read_some(pump, &source, at).await.map_err(refused)?;
            let read: usize = blocks.iter().map(Block::len).sum();
            if read == 0 {
                return Err(refused(DiskError::Missing(from.path().join(file))));
            }
            disk.write(&target, at, blocks).await.map_err(|failed| refused_elsewhere(failed.error))?;
            at += read as u64;
        }
        disk.sync_all(&target).await.map_err(refused_elsewhere)
    };
    let copied = copied.await;
    if copied.is_err() {
        // The room is needed; the source is still there. A disk that is gone needs nothing.
        let _ = disk.remove(to, name).await;
    }
    copied
}

async fn read_some(pump: &Pump, file: &File, at: u64) -> Result<Vec<Block>, DiskError> {
    let blocks = pump.shared.disk.pool().take_many(BATCH).await;
    pump.shared.disk.read(file, at, blocks).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_before_the_extension() {
        for (name, expected) in
            [("a.flac", "a (3).flac"), ("a", "a (3)"), (".hidden", ".hidden (3)"), ("a.b.mp3", "a.b (3).mp3")]
        {
            assert_eq!(numbered(name, 3), expected);
        }
        let long = numbered(&format!("{}.flac", "ü".repeat(125)), 12);
        assert!(long.len() <= NAME_MAX && long.ends_with("ü (12).flac"), "{long}");
    }
}
