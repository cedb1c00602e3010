//! The `usb` command: mounts a disk that was plugged in, and lets go of one that was pulled out. Run by root, named by
//! udev.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::places::{Places, read_plain};
use crate::app::cli::{could_not, print, say};
use crate::engine::appliance::disks;

/// Number of the program's user, pinned in systemd/sysusers.conf.
const PROGRAM: u32 = 989;

/// Where disks appear.
pub const MEDIA: &str = "data/media";

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
    let kind = value("TYPE");
    let (driver, options) = disks::options(kind, PROGRAM, PROGRAM)
        .ok_or_else(|| io::Error::other(format!("{kind:?} is no file system that is mounted here")))?;
    let media = places.at(MEDIA);
    std::fs::create_dir_all(&media)?;
    let mounts = read_mounts()?;
    let there = disks::mounted(&mounts, &media.to_string_lossy());
    // A folder that is not mounted on is ours to use, if it is empty.
    let taken = |name: &str| {
        let busy = || std::fs::read_dir(media.join(name)).is_ok_and(|mut entries| entries.next().is_some());
        there.iter().any(|(other, ..)| other == name) || busy()
    };
    let at = media.join(disks::name(value("LABEL"), value("UUID"), taken));
    std::fs::create_dir_all(&at)?;
    let with = |options: &str| {
        Command::new("/usr/bin/mount").args(["-t", driver, "-o", options, "--"]).arg(device).arg(&at).status()
    };
    let mut done = with(&options)?;
    if !done.success() && driver == "ntfs3" {
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
