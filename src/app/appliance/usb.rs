//! The `usb` command: mounts a disk that was plugged in, and lets go of one that was pulled out. Run by root, named by
//! udev.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use rustix::fs::{FlockOperation, flock};

use super::places::{Places, read_plain};
use crate::app::cli::{could_not, print, say};
use crate::engine::appliance::disks;

/// Number of the program's user, pinned in systemd/sysusers.conf.
const PROGRAM: u32 = 989;

/// Where disks appear.
pub const MEDIA: &str = "data/media";

/// Where the disk is mounted that a path of the box lies on, by its name; `None` for a path on no such disk.
pub fn disk_of(path: &Path) -> Option<PathBuf> {
    let media = Path::new("/").join(MEDIA);
    let name = path.strip_prefix(&media).ok()?.components().next()?;
    Some(media.join(name))
}

/// `usb mount DEVICE`.
pub fn mount(places: &Places, device: &Path) -> ExitCode {
    match try_mount(places, device) {
        Ok(at) => print(format!("{} is at {}\n", device.display(), at.display()).as_bytes()),
        Err(error) => could_not(&format!("{}: {error}", device.display())),
    }
}

fn try_mount(places: &Places, device: &Path) -> io::Result<PathBuf> {
    let told = Command::new("/usr/sbin/blkid").args(["--probe", "--output", "export"]).arg(device).output()?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let found = disks::properties(&told);
    let value = |key: &str| found.get(key).copied().unwrap_or_default();
    let (kind, label, uuid) = (value("TYPE"), value("LABEL"), value("UUID"));
    let (drivers, options) = disks::options(kind, PROGRAM, PROGRAM)
        .ok_or_else(|| io::Error::other(format!("{kind:?} is no file system that is mounted here")))?;
    let media = places.at(MEDIA);
    std::fs::create_dir_all(&media)?;
    // Locked until the disk is mounted: at a start several ask at once.
    let (at, _lock) = claim(&media, |refused| disks::name(label, uuid, &places.kept_disks(), refused))?;
    let with = |options: &str| {
        let mut done = Err(io::ErrorKind::NotFound.into());
        for (driver, own) in drivers {
            let options = format!("{options}{own}");
            let mut mount = Command::new("/usr/bin/mount");
            done = mount.args(["-t", driver, "-o", options.as_str(), "--"]).arg(device).arg(&at).status();
            if done.as_ref().is_ok_and(ExitStatus::success) {
                break;
            }
        }
        done
    };
    let name = at.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Err(error) = keep_name(places, &media, disks::Kept { name, uuid: uuid.to_owned() }) {
        say(&format!("which disk has which name is not kept: {error}"));
    }
    let mut done = with(&options)?;
    if !done.success() && drivers.iter().any(|(driver, _)| *driver == "ntfs3") {
        // Pulled out of a running machine, or not ejected in Windows: until that has mended it, it can be read only.
        done = with(&format!("{options},ro"))?;
    }
    if !done.success() {
        // Empty, as nothing is on it.
        drop(std::fs::remove_dir(&at));
        return Err(io::Error::other(format!("mount: {done}")));
    }
    Ok(at)
}

/// A folder below `media` that nobody else mounts on, by the first name that `choose` finds when told which are taken.
fn claim(media: &Path, choose: impl Fn(&dyn Fn(&str) -> bool) -> String) -> io::Result<(PathBuf, File)> {
    let mut lost: Vec<String> = Vec::new();
    loop {
        let mounts = read_mounts()?;
        let there = disks::mounted(&mounts, &media.to_string_lossy());
        let is_there = |name: &str| there.iter().any(|(other, ..)| other == name);
        // A folder that is not mounted on is ours to use, if it is empty.
        let busy = |name: &str| std::fs::read_dir(media.join(name)).is_ok_and(|mut entries| entries.next().is_some());
        let name = choose(&|name: &str| lost.iter().any(|other| other == name) || is_there(name) || busy(name));
        if lost.contains(&name) {
            return Err(io::Error::other("there is no name left for it"));
        }
        let at = media.join(&name);
        std::fs::create_dir_all(&at)?;
        let lock = File::open(&at)?;
        let is_ours = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        // Mounted by another in between: what is locked is then the top of that disk, or what lies below it.
        let mounts = read_mounts()?;
        let mounted = disks::mounted(&mounts, &media.to_string_lossy()).iter().any(|(other, ..)| *other == name);
        if is_ours && !mounted {
            return Ok((at, lock));
        }
        lost.push(name);
    }
}

/// Remembers who is who: before the disk is seen by anybody, so that no cut of the power makes it another.
fn keep_name(places: &Places, media: &Path, disk: disks::Kept) -> io::Result<()> {
    let lock = File::open(media)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    disks::keep(&places.kept_disks(), disk).map_or(Ok(()), |kept| places.keep_disks(&kept))
}

fn read_mounts() -> io::Result<String> {
    std::fs::read_to_string("/proc/self/mountinfo")
}

/// `usb unmount DEVICE`. The disk may be gone already.
pub fn unmount(places: &Places, device: &Path) -> ExitCode {
    let media = places.at(MEDIA);
    let mounts = match read_mounts() {
        Ok(mounts) => mounts,
        Err(error) => return could_not(&error.to_string()),
    };
    let device = device.to_string_lossy();
    let mut code = ExitCode::SUCCESS;
    for (name, ..) in disks::mounted(&mounts, &media.to_string_lossy()).iter().filter(|(_, from, _)| *from == device) {
        let at = media.join(name);
        let done = Command::new("/usr/bin/umount").arg("--lazy").arg("--").arg(&at).status();
        if done.is_ok_and(|done| done.success()) {
            drop(std::fs::remove_dir(&at));
        } else {
            say(&format!("{} could not be let go of", at.display()));
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// What is plugged in now: name, folder, kind.
pub fn plugged_in(places: &Places) -> Vec<(String, PathBuf, String)> {
    let media = places.at(MEDIA);
    let mounts = read_plain(Path::new("/proc/self/mountinfo"), 1024 * 1024).unwrap_or_default();
    let mounts = String::from_utf8_lossy(&mounts);
    let found = disks::mounted(&mounts, &media.to_string_lossy());
    found.into_iter().map(|(name, _, kind)| (name.clone(), media.join(name), kind.to_owned())).collect()
}
