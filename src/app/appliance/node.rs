//! The daemon's side: what it leaves for root's services, what it keeps of the card's settings, and what the page shows.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Access;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::card::{self, CODE, SOURCE, TAKEN, mark, secrets};
use super::install;
use super::places::{Health, Places, read_plain, write_note};
use super::usb;
use crate::app::config_file;
use crate::app::settings::{Sources, write_private};
use crate::model::appliance::{ApplianceAnswer, ApplianceRequest, ApplianceView, DiskOffer, Power};
use crate::model::config::{Config, Given};
use crate::model::view::Refusal;

/// Between two looks for disks and for a code that was used.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Magic number of ext2 to ext4 in `statfs`.
const EXT4: rustix::fs::FsWord = 0xEF53;

/// The upload, in the spool.
pub const UPLOAD: &str = "upload";

/// Empty, in the runtime folder: something was left for `card write` since it last began.
pub const ASKED: &str = "card-asked";

/// What the page wants of the box itself, in the runtime folder: a word of [`Power`].
pub const POWER: &str = "power";

/// What the daemon knows of the box it runs on.
#[derive(Clone, Debug)]
pub struct Appliance {
    places: Places,
    /// The daemon's own folder for others to read.
    runtime: Option<PathBuf>,
    /// One update is taken at a time.
    taking: Arc<Mutex<()>>,
}

impl Appliance {
    /// `root` is a test's folder.
    pub fn new(root: Option<PathBuf>) -> Self {
        let places = Places::new(root);
        let set = std::env::var_os("RUNTIME_DIRECTORY").filter(|value| !value.is_empty()).map(PathBuf::from);
        let runtime = if places.is_test() { Some(places.node()) } else { set };
        Self { places, runtime, taking: Arc::default() }
    }

    /// Whether the data partition is there.
    pub fn has_data(&self) -> bool {
        self.places.has_data()
    }

    /// Where an upload is written; `None` where this is no appliance.
    pub fn spool(&self) -> Option<PathBuf> {
        self.places.running().map(|_| self.places.spool())
    }

    /// Nothing of an upload outlives a start.
    pub fn sweep(&self) {
        if let Some(spool) = self.spool() {
            for name in [UPLOAD, "bundle"] {
                drop(std::fs::remove_file(spool.join(name)));
            }
        }
    }

    /// Says how the program is, for the service that keeps the running slot or gives it up.
    pub fn tell_health(&self, health: &Health) {
        if let Some(runtime) = &self.runtime
            && let Err(error) = write_note(runtime, "health.json", health)
        {
            tracing::warn!(%error, "how the program is could not be told");
        }
    }

    /// Leaves something for `card write`; `None` takes it away.
    pub fn leave(&self, name: &str, text: Option<&str>) {
        let Some(runtime) = &self.runtime else { return };
        let folder = runtime.join("card");
        let written = || -> io::Result<()> {
            if !folder.exists() {
                std::fs::create_dir_all(&folder)?;
                std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700))?;
            }
            let path = folder.join(name);
            match text {
                Some(text) => {
                    let mut options = std::fs::OpenOptions::new();
                    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
                    io::Write::write_all(&mut file, text.as_bytes())?;
                }
                None => match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
            }
            // Last. A change of the folder would go unseen while the service runs (systemd.path, PathChanged=); this waits.
            std::fs::write(runtime.join(ASKED), "")
        };
        if let Err(error) = written() {
            tracing::warn!(%error, name, "nothing could be left for the boot partition");
        }
    }

    /// The code that an earlier start left on the boot partition.
    pub fn told_code(&self) -> Option<String> {
        card::told_code(&self.places)
    }

    /// Keeps the set-up code on the screen and the boot partition until it was used, and tells when disks come and go.
    ///
    /// # Errors
    /// None; the type is the supervisor's.
    pub async fn watch(
        self,
        code: impl Fn() -> Option<String> + Send,
        changed: impl Fn() + Send,
        cancel: CancellationToken,
    ) -> Result<(), String> {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut told, mut first) = (None, true);
        let mut there = usb::plugged_in(&self.places);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            let now = code();
            if first || now != told {
                self.leave(CODE, now.as_deref());
                told = now;
                first = false;
            }
            let disks = usb::plugged_in(&self.places);
            if disks != there {
                for (name, ..) in disks.iter().filter(|disk| !there.contains(disk)) {
                    tracing::info!(name, "a disk was plugged in");
                }
                for (name, ..) in there.iter().filter(|disk| !disks.contains(disk)) {
                    tracing::info!(name, "a disk is gone");
                }
                there = disks;
                changed();
            }
        }
    }

    /// Answers the page. `shared` are the folders of the configuration.
    ///
    /// # Errors
    /// Why an update is refused.
    pub async fn answer(&self, request: ApplianceRequest, config: &Config) -> Result<ApplianceAnswer, Refusal> {
        let this = self.clone();
        let shared: Vec<PathBuf> = config.shares.directories.iter().map(|(_, path)| PathBuf::from(path)).collect();
        let downloads = PathBuf::from(&config.downloads);
        let taking = if matches!(request, ApplianceRequest::Install { .. }) {
            let busy = || Refusal::Full("another update is being looked at".to_owned());
            Some(self.taking.clone().try_lock_owned().map_err(|_| busy())?)
        } else {
            None
        };
        let answered = tokio::task::spawn_blocking(move || {
            let answer = match request {
                ApplianceRequest::View => Ok(ApplianceAnswer::View(Box::new(this.view(&shared, &downloads)))),
                ApplianceRequest::Install { forced } => this.take(forced).map(ApplianceAnswer::Taken),
                ApplianceRequest::Power(power) => this.power(power).map(|()| ApplianceAnswer::Going),
            };
            drop(taking);
            answer
        });
        answered.await.map_err(|error| Refusal::Invalid(error.to_string()))?
    }

    fn view(&self, shared: &[PathBuf], downloads: &Path) -> ApplianceView {
        let disks = usb::plugged_in(&self.places).into_iter().map(|(name, path, kind)| {
            let space = rustix::fs::statvfs(&path).ok();
            let bytes = |blocks: u64, size: u64| blocks.saturating_mul(size);
            DiskOffer {
                name,
                kind,
                free: space.as_ref().map_or(0, |space| bytes(space.f_bavail, space.f_frsize)),
                total: space.as_ref().map_or(0, |space| bytes(space.f_blocks, space.f_frsize)),
                shared: shared.iter().any(|folder| folder.starts_with(&path)),
                writable: rustix::fs::access(&path, Access::WRITE_OK).is_ok(),
                downloads: downloads.starts_with(&path),
                path: path.to_string_lossy().into_owned(),
            }
        });
        ApplianceView {
            is_appliance: self.places.running().is_some(),
            disks: disks.collect(),
            systems: self.places.systems(),
            progress: self.places.progress(),
            clock_set: self.places.clock_set(),
        }
    }

    /// Restarts the box as it is: what the rescue page offers, where no start is worth keeping.
    ///
    /// # Errors
    /// This is no appliance, or it cannot be asked for.
    pub fn restart(&self) -> Result<(), String> {
        let runtime = self.runtime.as_ref().filter(|_| self.places.running().is_some());
        ask(runtime.ok_or("this is not the appliance")?, Power::Restart).map_err(|error| error.to_string())
    }

    /// Whether this is an appliance.
    pub fn is_appliance(&self) -> bool {
        self.places.running().is_some()
    }

    /// Asks root's service to end everything.
    fn power(&self, power: Power) -> Result<(), Refusal> {
        let Some(runtime) = self.runtime.as_ref().filter(|_| self.places.running().is_some()) else {
            return Err(Refusal::Invalid("this is not the appliance: the machine is yours to switch off".to_owned()));
        };
        // The start that is being looked at has no other try: one more would be taken for a failure.
        let systems = self.places.systems();
        if !systems.slots.iter().any(|slot| slot.name == systems.running && slot.tries_left > 0) {
            return Err(Refusal::Full("this start is still being looked at: try again in a minute".to_owned()));
        }
        tracing::info!(what = power.word(), "the box goes down, as its page was asked to");
        ask(runtime, power).map_err(|error| Refusal::Full(error.to_string()))
    }

    /// Looks at an upload and hands it on; what comes of it is in `progress`. Root looks at it again.
    fn take(&self, forced: bool) -> Result<String, Refusal> {
        let refused = |error: &dyn std::fmt::Display| Refusal::Invalid(error.to_string());
        let Some(spool) = self.spool() else {
            return Err(Refusal::Invalid("this is not the appliance: update it as you installed it".to_owned()));
        };
        let upload = spool.join(UPLOAD);
        let check = || -> Result<String, Refusal> {
            if spool.join("request").exists() || spool.join("bundle").exists() {
                return Err(Refusal::Full("an update is being installed".to_owned()));
            }
            let mut file = std::fs::File::open(&upload).map_err(|error| refused(&error))?;
            let key = self.places.key().map_err(|error| refused(&error))?;
            let manifest = install::verify(&mut file, &key, &mut |_, _, _| {}).map_err(|error| refused(&error))?;
            let running = self.places.running_version().map_err(|error| refused(&error))?;
            let (board, kernel) = (self.places.board(), self.places.kernel());
            let suits = manifest.suits(board.as_deref(), kernel.as_deref(), &running, forced);
            suits.map_err(|error| refused(&error))?;
            std::fs::rename(&upload, spool.join("bundle")).map_err(|error| refused(&error))?;
            // Last: with it the service begins.
            let word = if forced { "forced" } else { "" };
            std::fs::write(spool.join("request"), word).map_err(|error| refused(&error))?;
            Ok(manifest.version.text().to_owned())
        };
        let outcome = check();
        if let Err(refusal) = &outcome {
            tracing::warn!(?refusal, "an update was refused");
            drop(std::fs::remove_file(&upload));
        }
        outcome
    }
}

/// Leaves a wish for root's service. As a whole: whoever waits for it reads it at once.
fn ask(runtime: &Path, power: Power) -> io::Result<()> {
    let temporary = runtime.join("power.new");
    std::fs::write(&temporary, power.word())?;
    std::fs::rename(&temporary, runtime.join(POWER))
}

/// Whether this folder lies on ext4: a card's data partition, and not the memory behind a missing one.
pub fn on_ext4(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|found| found.f_type == EXT4)
}

/// Secrets of the card's file move below the data directory, readable for the program alone; the card's own are blanked by
/// root's service once they are kept (DECISIONS 18).
///
/// # Errors
/// They could not be kept; they stay on the card then.
pub fn keep_secrets(sources: &Sources, appliance: &Appliance) -> io::Result<usize> {
    let Some(card) = &sources.card else { return Ok(0) };
    let bytes = match read_plain(&card.join("slskdn.yml"), 1024 * 1024) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        outcome => outcome?,
    };
    let Ok(given) = config_file::read(&String::from_utf8_lossy(&bytes), SOURCE) else { return Ok(0) };
    let found: Vec<&Given> = secrets(&given).collect();
    if found.is_empty() {
        return Ok(0);
    }
    let path = sources.secrets_file();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    }
    let read = |path: &Path| match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        outcome => outcome,
    };
    let wrong = |_| io::Error::from(io::ErrorKind::InvalidData);
    let (mut kept, mut data) = (read(&path)?, read(&sources.data_file())?);
    for secret in &found {
        kept = config_file::edit(&kept, &secret.key, Some(&secret.value)).map_err(wrong)?;
        // An older one there would count above it.
        data = config_file::edit(&data, &secret.key, None).map_err(wrong)?;
    }
    write_private(&path, &kept)?;
    write_private(&sources.data_file(), &data)?;
    appliance.leave(TAKEN, Some(&mark(&bytes)));
    Ok(found.len())
}

/// What the program says once it is up: it is healthy when its state lies on ext4 and the page listens, on the appliance at
/// `web_port`, which is the one that people type without naming it.
pub fn health(data: &Path, backend: &str, listens: &[SocketAddr], port: u16, web_port: Option<u16>) -> Health {
    let on_ext4 = on_ext4(data);
    let mut reasons = Vec::new();
    if !on_ext4 {
        reasons.push(format!("the state in {} does not lie on ext4", data.display()));
    }
    if listens.is_empty() {
        reasons.push(format!("the page does not listen on port {port}"));
    }
    if let Some(web_port) = web_port.filter(|web_port| listens.iter().all(|address| address.port() != *web_port)) {
        reasons.push(format!("the page does not listen on port {web_port}: see slskdn-web.socket"));
    }
    let listens = listens.iter().map(ToString::to_string).collect();
    Health { healthy: reasons.is_empty(), on_ext4, store: true, disk_backend: backend.to_owned(), listens, reasons }
}
