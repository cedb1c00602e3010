//! Moves file bytes between sockets and the disk, and finished files to their place.
//!
//! The pump does what [`crate::engine::soulseek::io::FileAction`] says and reports by `FileEvent`; it decides neither
//! what to fetch nor when to try again. It holds three promises: the length of a partial file is a count of bytes really
//! received, because each transfer has one write under way at a time and room is reserved without changing the length;
//! no byte beyond the wanted size is ever written; and what it reports as synced or complete is on the disk.

mod compare;
mod divert;
mod limiter;
mod place;
mod receive;
mod send;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::divert::{Diversion, Diversions, Diverted};
pub use self::limiter::{Bucket, Limiter, Traffic, count};
pub use self::place::{Checks, ContainerCheck};
use crate::disk::{Disk, DiskError};
use crate::engine::soulseek::io::{Begin, Compared, FileEvent, Input, PlaceError, ReceiveEnd, SendEnd};
use crate::model::id::{Token, TransferId};
use crate::model::units::MIB;

/// Blocks written or read in one operation: 512 KiB. Measured: 128 KiB cost more CPU time, 2 MiB save none.
const BATCH: usize = 8;

/// Received or sent so much since the last sync or look at the free space: time for the next.
const SYNC_BYTES: u64 = 64 * MIB;

/// Time between two reports of progress, and the longest that received bytes wait to be written.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// A user who takes no byte for so long is gone.
const STALL: Duration = Duration::from_secs(60);

/// How long the other side may take to close after the last byte.
const CLOSE_WAIT: Duration = Duration::from_secs(30);

/// Where files go and how much room is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PumpConfig {
    /// Folder of partial files. Must exist.
    pub incomplete: PathBuf,
    /// Folder of finished files; on another file system the files are copied there. While it is away they wait.
    pub downloads: PathBuf,
    /// Bytes of free space that downloads leave alone.
    pub free_min: u64,
    /// A partial file is synced no later than this after its last sync, and every 64 MiB.
    pub sync_every: Duration,
}

/// Sync at least so often by default: what a power cut may cost of a slow download.
pub const SYNC_EVERY: Duration = Duration::from_secs(30);

/// The handle. Clones share disk, limits and settings.
#[derive(Clone)]
pub struct Pump {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Disk,
    limiter: Limiter,
    config: PumpConfig,
    checks: Checks,
    /// The kernel's boot id; `None` where it cannot be read, then only synced bytes are trusted.
    boot: Option<u128>,
}

/// As `FileAction::Receive`, without the connection.
#[derive(Clone, Debug)]
pub struct ReceiveOrder {
    /// The download.
    pub transfer: TransferId,
    /// Name of the partial file in the incomplete folder.
    pub file: String,
    /// Wanted size in bytes.
    pub size: u64,
    /// How to begin.
    pub begin: Begin,
}

/// As `FileAction::Send`, without the connection.
#[derive(Clone, Debug)]
pub struct SendOrder {
    /// The upload.
    pub transfer: TransferId,
    /// Sent first.
    pub token: Token,
    /// On our disk.
    pub local_path: PathBuf,
    /// Indexed size in bytes: the file must still have it.
    pub size: u64,
}

/// As `FileAction::Place`.
#[derive(Clone, Debug)]
pub struct PlaceOrder {
    /// The download.
    pub transfer: TransferId,
    /// Name in the incomplete folder.
    pub file: String,
    /// Folder below the downloads folder; `/` separates levels.
    pub folder: String,
    /// File name.
    pub name: String,
    /// Bytes of the whole file.
    pub size: u64,
    /// The container's own checksums must hold first.
    pub check: bool,
    /// Absolute path chosen before; `None`: choose one.
    pub meant: Option<String>,
}

/// How far [`Pump::place`] has come. Both are absolute paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placing {
    /// Nothing was moved yet: this place is free.
    Meant(String),
    /// The file lies there, which is durable.
    There(String),
}

impl Pump {
    /// Whether this is the kernel's name for the present boot: in it the length of a partial file can be believed.
    pub fn is_this_boot(&self, boot: u128) -> bool {
        self.shared.boot == Some(boot)
    }

    /// Puts the parts together. `checks` finds the checker for a file name extension.
    pub fn new(disk: Disk, limiter: Limiter, config: PumpConfig, checks: Checks) -> Self {
        let boot = boot_id();
        Self { shared: Arc::new(Shared { disk, limiter, config, checks, boot }) }
    }

    /// The speed limits; may be changed at any time.
    pub fn limiter(&self) -> &Limiter {
        &self.shared.limiter
    }

    /// Answers the token on a file connection with an offset, and takes the bytes that follow into the partial file.
    /// Sends `Started`, `Progress` and `Synced` on the way (one at once, when the record does not know this boot) and
    /// `Received` at the end, then closes. Returns what it said.
    pub async fn receive(
        &self,
        stream: tokio::net::TcpStream,
        order: ReceiveOrder,
        events: &mpsc::Sender<Input>,
        stop: &CancellationToken,
    ) -> ReceiveEnd {
        let report = Report::new(order.transfer, events);
        let end = receive::receive(self, &stream, &order, &report, stop).await;
        report.send(FileEvent::Received(end.clone())).await;
        end
    }

    /// Sends token and file on a file connection, from the offset that the other side asks for. Sends `Started` and
    /// `Progress` on the way and `Sent` at the end, then closes. Returns what it said.
    pub async fn send(
        &self,
        stream: tokio::net::TcpStream,
        order: SendOrder,
        events: &mpsc::Sender<Input>,
        stop: &CancellationToken,
    ) -> SendEnd {
        let report = Report::new(order.transfer, events);
        let end = send::send(self, stream, &order, &report, stop).await;
        report.send(FileEvent::Sent(end.clone())).await;
        end
    }

    /// Answers the token on a file connection with an offset near the end of a file that is here, lays what comes beside
    /// it, and closes. Changes nothing; tells nobody but the caller.
    pub async fn compare_end(
        &self,
        stream: tokio::net::TcpStream,
        path: &Path,
        size: u64,
        stop: &CancellationToken,
    ) -> Compared {
        compare::compare(self, &stream, path, size, stop).await
    }

    /// Moves a complete partial file to its place, or chooses one. Never overwrites: a taken name gets a number. A file
    /// that went there before, and of which the record does not know, is found there. Sends `Meant` or `Placed`; returns
    /// what it said.
    ///
    /// # Errors
    /// The file is not in its place; the partial file, if there is one, is still where it was.
    pub async fn place(&self, order: PlaceOrder, events: &mpsc::Sender<Input>) -> Result<Placing, PlaceError> {
        let report = Report::new(order.transfer, events);
        let placed = place::place(self, &order).await;
        let event = match placed.clone() {
            Ok(Placing::Meant(path)) => FileEvent::Meant(path),
            Ok(Placing::There(path)) => FileEvent::Placed(Ok(path)),
            Err(error) => FileEvent::Placed(Err(error)),
        };
        report.send(event).await;
        placed
    }

    /// As [`Pump::place`], and tells nobody.
    ///
    /// # Errors
    /// As there.
    pub async fn place_quietly(&self, order: &PlaceOrder) -> Result<Placing, PlaceError> {
        place::place(self, order).await
    }

    /// File data.
    pub fn disk(&self) -> &Disk {
        &self.shared.disk
    }

    /// Where files go and how much room is left alone.
    pub fn config(&self) -> &PumpConfig {
        &self.shared.config
    }

    /// Removes a partial file; one that is not there is fine.
    ///
    /// # Errors
    /// What the file system refuses.
    pub async fn discard(&self, file: &str) -> Result<(), DiskError> {
        let folder = self.shared.disk.open_folder(&self.shared.config.incomplete).await?;
        self.shared.disk.remove(&folder, file).await
    }
}

/// Tells the engine about one transfer.
struct Report<'a> {
    transfer: TransferId,
    events: &'a mpsc::Sender<Input>,
}

impl<'a> Report<'a> {
    fn new(transfer: TransferId, events: &'a mpsc::Sender<Input>) -> Self {
        Self { transfer, events }
    }

    /// Waits for room in the mailbox. An engine that is gone needs no news.
    async fn send(&self, event: FileEvent) {
        let _ = self.events.send(Input::File(self.transfer, event)).await;
    }
}

/// Lets progress through at most twice a second, and not at all while the mailbox is full.
struct Progress<'a> {
    report: &'a Report<'a>,
    last: Instant,
}

impl<'a> Progress<'a> {
    fn new(report: &'a Report<'a>) -> Self {
        Self { report, last: Instant::now() }
    }

    fn at(&mut self, position: u64) {
        let now = Instant::now();
        if now.duration_since(self.last) >= PROGRESS_EVERY {
            self.last = now;
            let event = Input::File(self.report.transfer, FileEvent::Progress { position });
            let _ = self.report.events.try_send(event);
        }
    }
}

/// The kernel's name for this boot.
fn boot_id() -> Option<u128> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    u128::from_str_radix(&text.trim().replace('-', ""), 16).ok()
}
