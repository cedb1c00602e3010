//! Where things lie on the appliance (docs/image.md), and the small files that its services leave for one another.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::signify::PublicKey;
use crate::engine::appliance::bundle::{SLOT_LEN, SlotFile, Version};
use crate::engine::appliance::disks;
use crate::engine::appliance::slots::Slot;
use crate::model::appliance::{LastUpdate, Progress, SlotView, Systems};

/// A note is never longer, bytes.
const NOTE_LEN: usize = 64 * 1024;

/// Every path, below `/` or below a test's folder.
#[derive(Clone, Debug)]
pub struct Places {
    root: PathBuf,
}

/// A version that is to be tried, or is being tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Where it lies.
    pub slot: String,
    /// Which.
    pub version: String,
    /// The one before.
    pub from: String,
}

/// What the program says of itself once it is up; the rescue page says why it is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// All of the below.
    pub healthy: bool,
    /// Its state lies on ext4.
    pub on_ext4: bool,
    /// The store is open and takes writes.
    pub store: bool,
    /// Which disk backend was chosen.
    pub disk_backend: String,
    /// Where the page listens.
    pub listens: Vec<String>,
    /// Why not healthy.
    pub reasons: Vec<String>,
}

impl Places {
    /// `None` is the box itself.
    pub fn new(root: Option<PathBuf>) -> Self {
        Self { root: root.unwrap_or_else(|| PathBuf::from("/")) }
    }

    /// Below a test's folder no mount is looked for and nothing is restarted.
    pub fn is_test(&self) -> bool {
        self.root != Path::new("/")
    }

    /// A path of the box.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The boot partition.
    pub fn fat(&self) -> PathBuf {
        self.at("boot/firmware")
    }

    /// Left by the page for `update --requested`.
    pub fn spool(&self) -> PathBuf {
        self.at("var/lib/slskdn/update")
    }

    /// The program's runtime folder, written by the program.
    pub fn node(&self) -> PathBuf {
        self.at("run/slskdn-node")
    }

    /// Notes that outlive a start; root's alone.
    fn notes(&self) -> PathBuf {
        self.at("data/update")
    }

    /// For everybody to read, gone at the next start.
    pub fn state(&self) -> PathBuf {
        self.at("run/slskdn-update")
    }

    /// What of the data partition is root's or the program's state by its other path: nobody who shares all of it means
    /// these. Nothing on other machines.
    pub fn not_music(&self) -> Vec<PathBuf> {
        let names = ["slskdn", "log", "ssh", "update", "machine-id", "disks.json"];
        self.running().map_or_else(Vec::new, |_| names.map(|name| self.at("data").join(name)).to_vec())
    }

    /// Whether the data partition is there.
    pub fn has_data(&self) -> bool {
        let mounted = || {
            let (data, root) = (std::fs::metadata(self.at("data")), std::fs::metadata(&self.root));
            matches!((data, root), (Ok(data), Ok(root)) if data.dev() != root.dev())
        };
        if self.is_test() { self.at("data").is_dir() } else { mounted() }
    }

    /// Whether the boot partition is there.
    pub fn has_boot(&self) -> bool {
        let (fat, root) = (std::fs::metadata(self.fat()), std::fs::metadata(&self.root));
        matches!((fat, root), (Ok(fat), Ok(root)) if fat.dev() != root.dev())
    }

    /// Which slot runs; `None` where this is no appliance.
    pub fn running(&self) -> Option<Slot> {
        let text = read_plain(&self.at("run/slskdn/slot"), 16).ok()?;
        String::from_utf8_lossy(&text).parse().ok()
    }

    /// Whether the clock was set from the network since the start.
    pub fn clock_set(&self) -> bool {
        self.at("run/systemd/timesync/synchronized").exists()
    }

    /// Name of the board, where the image says it.
    pub fn board(&self) -> Option<String> {
        self.word("board")
    }

    /// The kernel's release where it is not in the slots, so that no update brings another one.
    pub fn kernel(&self) -> Option<String> {
        self.word("kernel")
    }

    /// What a small file of the image says.
    fn word(&self, name: &str) -> Option<String> {
        let text = read_plain(&self.at("usr/share/slskdn").join(name), 128).ok()?;
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// The key updates are signed with.
    ///
    /// # Errors
    /// One sentence.
    pub fn key(&self) -> Result<PublicKey, String> {
        let path = self.at("usr/share/slskdn/update.pub");
        let text = read_plain(&path, 1024).map_err(|error| format!("{}: {error}", path.display()))?;
        PublicKey::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// What lies in a slot, as its own file says.
    pub fn slot_file(&self, slot: Slot) -> Option<SlotFile> {
        let path = self.fat().join(slot.name()).join("slot");
        SlotFile::parse(&read_plain(&path, usize::try_from(SLOT_LEN).ok()?).ok()?)
    }

    /// The version that runs: the slot's, else the program's own.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn running_version(&self) -> Result<Version, String> {
        let found = self.running().and_then(|slot| self.slot_file(slot)).map(|file| file.version);
        found.map_or_else(|| Version::parse(env!("CARGO_PKG_VERSION")), Ok).map_err(|error| error.to_string())
    }

    /// The device of a slot: the neighbour of the boot partition's.
    ///
    /// # Errors
    /// The boot partition is not mounted, or has no such neighbour.
    pub fn partition(&self, slot: Slot) -> io::Result<PathBuf> {
        if self.is_test() {
            return Ok(self.at(&format!("dev/slot-{slot}")));
        }
        let not_found = |what: &str| io::Error::new(io::ErrorKind::NotFound, what.to_owned());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let mounted = disks::mounted(&mounts, "/boot");
        let (_, device, _) = mounted
            .iter()
            .find(|(name, ..)| name == "firmware")
            .ok_or_else(|| not_found("the boot partition is not mounted"))?;
        let name = device.strip_prefix("/dev/").ok_or_else(|| not_found("the boot partition is on no device"))?;
        let disk = std::fs::canonicalize(Path::new("/sys/class/block").join(name))?;
        let disk = disk.parent().ok_or_else(|| not_found("the boot partition has no disk"))?;
        for entry in std::fs::read_dir(disk)? {
            let entry = entry?;
            let number = std::fs::read_to_string(entry.path().join("partition")).unwrap_or_default();
            if number.trim() == slot.partition().to_string() {
                let path = Path::new("/dev").join(entry.file_name());
                if super::media::is_partition(&path)? {
                    return Ok(path);
                }
            }
        }
        Err(not_found("the card has no partition for this slot"))
    }

    /// Remembers what is tried at the next start.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn note_trial(&self, slot: Slot, version: &str) -> io::Result<()> {
        let from = self.running_version().map(|version| version.text().to_owned()).unwrap_or_default();
        let trial = Trial { slot: slot.name().to_owned(), version: version.to_owned(), from };
        write_note(&self.notes(), "trial.json", &trial)
    }

    /// What is being tried.
    pub fn trial(&self) -> Option<Trial> {
        read_note(&self.notes().join("trial.json"))
    }

    /// Nothing is tried any more.
    ///
    /// # Errors
    /// The note cannot be removed.
    pub fn forget_trial(&self) -> io::Result<()> {
        remove(&self.notes().join("trial.json"))
    }

    /// Keeps what became of an update.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn note_last(&self, last: &LastUpdate) -> io::Result<()> {
        write_note(&self.notes(), "last.json", last)
    }

    /// Names that USB disks keep.
    pub fn kept_disks(&self) -> Vec<disks::Kept> {
        read_note(&self.at("data").join("disks.json")).unwrap_or_default()
    }

    /// Remembers them.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn keep_disks(&self, disks: &[disks::Kept]) -> io::Result<()> {
        write_note(&self.at("data"), "disks.json", &disks)
    }

    /// What became of the last update.
    pub fn last(&self) -> Option<LastUpdate> {
        read_note(&self.notes().join("last.json"))
    }

    /// The line of the start program about the last fall-back.
    pub fn why(&self) -> String {
        let text = read_plain(&self.fat().join("why.txt"), 4096).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(300).collect()
    }

    /// Leaves such a line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set_why(&self, why: Option<&str>) -> io::Result<()> {
        let path = self.fat().join("why.txt");
        let Some(why) = why else { return remove(&path) };
        let mut file = File::create(&path)?;
        file.write_all(format!("{why}\n").as_bytes())?;
        file.sync_all()
    }

    /// How the card stands now, for everybody to read.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn publish_systems(&self, slots: crate::engine::appliance::slots::Slots) -> io::Result<()> {
        let view = |slot: Slot| SlotView {
            name: slot.name().to_owned(),
            version: self.slot_file(slot).map(|file| file.version.text().to_owned()).unwrap_or_default(),
            tries_left: slots.left(slot),
        };
        let systems = Systems {
            running: self.running().map(|slot| slot.name().to_owned()).unwrap_or_default(),
            board: self.board().unwrap_or_default(),
            slots: [Slot::A, Slot::B].map(view).to_vec(),
            last: self.last(),
        };
        write_note(&self.state(), "systems.json", &systems)
    }

    /// As last published.
    pub fn systems(&self) -> Systems {
        read_note(&self.state().join("systems.json")).unwrap_or_default()
    }

    /// Tells how far an update is.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn publish_progress(&self, progress: &Progress) -> io::Result<()> {
        write_note(&self.state(), "progress.json", progress)
    }

    /// As last told.
    pub fn progress(&self) -> Option<Progress> {
        read_note(&self.state().join("progress.json"))
    }

    /// What the program said of itself.
    pub fn health(&self) -> Option<Health> {
        read_note(&self.node().join("health.json"))
    }

    /// Starts the box anew.
    ///
    /// # Errors
    /// It cannot be asked for.
    pub fn restart(&self) -> io::Result<()> {
        if self.is_test() {
            return std::fs::write(self.at("run/restarted"), b"");
        }
        let done = std::process::Command::new("/usr/bin/systemctl").args(["--no-block", "reboot"]).status()?;
        if done.success() { Ok(()) } else { Err(io::Error::other(format!("systemctl reboot: {done}"))) }
    }
}

/// Gone already is as good.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A plain file of at most so many bytes. Its last name may be no link, and opening it waits for nobody: others may have
/// put something there.
///
/// # Errors
/// It cannot be read, is no plain file, or is longer.
pub fn read_plain(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"));
    }
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {most} bytes")));
    }
    Ok(bytes)
}

fn read_note<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&read_plain(path, NOTE_LEN).ok()?).ok()
}

/// Replaces a note as a whole.
///
/// # Errors
/// It cannot be written.
pub fn write_note(folder: &Path, name: &str, note: &impl Serialize) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let temporary = folder.join(format!(".{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    file.sync_all()?;
    std::fs::rename(&temporary, folder.join(name))?;
    File::open(folder)?.sync_all()
}
