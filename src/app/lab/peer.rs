//! `slskdn lab-peer`: a node that only serves. Everything between the store and the socket is the node's own; its one
//! file was put into the library as the Doctor puts what it measured, and into the share index by the sharer.
//!
//! It is told what to do in lines of JSON, and ends when they end.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::faults::{Faults, Wanted};
use crate::app::apply::{self, Folders};
use crate::app::cli::{could_not, print};
use crate::app::clock::Clock;
use crate::app::doctor::walk::{from_path, seen};
use crate::app::logging;
use crate::app::mesh::MeshService;
use crate::app::pump::{Limiter, Pump, PumpConfig, SYNC_EVERY};
use crate::app::settings::Sources;
use crate::app::sharing::Sharing;
use crate::app::soulseek;
use crate::app::traces::Traces;
use crate::disk::pool::Pool;
use crate::disk::{Backend, Disk};
use crate::model::config::Config;
use crate::model::health::{FileOutcome, FileRow, Identity, Judged, MatchedBy, Variant};
use crate::model::id::{ContentHash, PeerId, ScanId};
use crate::model::limits;
use crate::model::spectrum::Spectrum;
use crate::model::variant::{Codec, Container, Detail, Integrity, Loudness, Measured, Tags};
use crate::store::library::FileChange;
use crate::store::{Store, StoreOptions};

/// The hidden subcommand.
pub const PEER_COMMAND: &str = "lab-peer";
/// The share index must have the file by then.
const SHARED: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// Orders waiting.
const ORDERS: usize = 4;

/// The first line: what there is to serve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) path: PathBuf,
    /// In hexadecimal.
    pub(super) content: String,
    pub(super) size: u64,
    /// Where the file's piece list lies: it has served the file before.
    pub(super) list: PathBuf,
    pub(super) faults: Wanted,
    /// The recording it is told to be, in decimal.
    pub(super) recording: Option<String>,
    /// Each way, microseconds.
    pub(super) delay_us: u64,
}

/// The lines after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Open the port, and call this peer if one is named (`ID@address`). Answer: `Told::Open`.
    Begin(Option<String>),
    /// Answer: `Told::Sent`.
    Report,
    /// Close all connections. Answer: `Told::Sent`.
    Leave,
}

/// Its answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Told {
    /// It has the file and waits.
    Ready,
    /// UDP port.
    Open(u16),
    /// Bytes of the file sent so far.
    Sent(u64),
    /// It cannot go on.
    Failed(String),
}

/// The command.
pub fn run(sources: &Sources) -> ExitCode {
    let clock = Clock::start();
    let resolved = match sources.load() {
        Ok(resolved) => resolved,
        Err(problems) => return could_not(&problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    };
    let level = std::env::var("SLSKDN_LOG").unwrap_or_else(|_| resolved.config.log_level.clone());
    let _tail = logging::install(&level, clock);
    // One thread: many of these run beside one another, and none has much to do.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return could_not(&format!("no threads to work with: {error}")),
    };
    let done = runtime.block_on(serve(clock, &sources.data, resolved.config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            tell(&Told::Failed(sentence.clone()));
            could_not(&sentence)
        }
    }
}

fn tell(told: &Told) {
    // Nobody listens any more when the lab is gone; then the orders end too.
    if let Ok(line) = serde_json::to_string(told) {
        let _ = print(format!("{line}\n").as_bytes());
    }
}

/// Lines of standard input, until it ends.
fn orders() -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel(ORDERS);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receive
}

fn understood<'t, T: Deserialize<'t>>(line: &'t str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|error| format!("an order is not understood: {error}"))
}

async fn serve(clock: Clock, data: &Path, mut config: Config) -> Result<(), String> {
    let mut orders = orders();
    let Some(first) = orders.recv().await else { return Ok(()) };
    let setup: Setup = understood(&first)?;
    let content = setup.content.parse().map_err(|wrong| format!("{}: {wrong}", setup.content))?;
    let node = Node::new(clock, data, &config, &setup, content).await?;
    tell(&Told::Ready);
    let gone = CancellationToken::new();
    let faults = Arc::new(Faults::new(setup.faults.clone(), gone.clone()));
    let mut mesh: Option<MeshService> = None;
    loop {
        let line = tokio::select! {
            line = orders.recv() => line,
            () = gone.cancelled(), if mesh.is_some() => {
                // It left by itself; who asks is still told what it sent.
                if let Some(mesh) = mesh.take() {
                    mesh.stopped().await;
                }
                continue;
            }
        };
        let Some(line) = line else { break };
        match understood(&line)? {
            Order::Begin(call) => {
                if let Some(call) = call {
                    config.mesh.peers.push(named(&call)?);
                }
                let (faults, delay) = (Some(Arc::clone(&faults)), Duration::from_micros(setup.delay_us));
                let begun =
                    MeshService::start_in_lab(&config, data, Arc::clone(&node.parts), gone.clone(), faults, delay)?;
                tell(&Told::Open(begun.view().port));
                mesh = Some(begun);
            }
            Order::Report => tell(&Told::Sent(faults.sent())),
            Order::Leave => {
                gone.cancel();
                if let Some(mesh) = mesh.take() {
                    mesh.stopped().await;
                }
                tell(&Told::Sent(faults.sent()));
            }
        }
    }
    gone.cancel();
    if let Some(mesh) = mesh {
        // The lab is over: nobody waits for an orderly end for long.
        let _ = tokio::time::timeout(Duration::from_secs(1), mesh.stopped()).await;
    }
    Ok(())
}

fn named(text: &str) -> Result<(PeerId, String), String> {
    let parts = text.split_once('@').and_then(|(id, address)| Some((id.parse().ok()?, address.to_owned())));
    parts.ok_or_else(|| format!("`{text}` is no peer"))
}

/// What the mesh stands on.
struct Node {
    parts: Arc<soulseek::Parts>,
    /// Its other end must stay.
    _handle: soulseek::NodeHandle,
}

impl Node {
    async fn new(
        clock: Clock,
        data: &Path,
        config: &Config,
        setup: &Setup,
        content: ContentHash,
    ) -> Result<Self, String> {
        let folders = Folders::new(data, config);
        for folder in [&folders.downloads, &folders.incomplete, &folders.cache()] {
            std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let store = Store::open(&data.join("store"), StoreOptions::default()).map_err(|error| error.to_string())?;
        let (disk, _) = Disk::start(Backend::Auto, Pool::new(limits::BLOCKS)).map_err(|error| error.to_string())?;
        let pump = Pump::new(
            disk,
            Limiter::new(0, 0),
            PumpConfig {
                incomplete: folders.incomplete.clone(),
                downloads: folders.downloads.clone(),
                free_min: 0,
                sync_every: SYNC_EVERY,
            },
            Arc::new(|_| None),
        );
        let change = measured(setup, content, clock)?;
        let now = clock.now().wall;
        let put =
            store.write(move |txn, tables| tables.library.put_files(txn, std::slice::from_ref(&change), None, now));
        put.await.map_err(|error| error.to_string())?;
        let list = std::fs::read(&setup.list).map_err(|error| format!("{}: {error}", setup.list.display()))?;
        store.put_piece_list(content, list).await.map_err(|error| error.to_string())?;
        let (index, shares) = (store.clone(), apply::shares(config, &folders));
        let sharing = tokio::task::spawn_blocking(move || Sharing::start(index, shares, clock)).await;
        let sharing = sharing.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let (index, path, size) = (sharing.clone(), setup.path.clone(), setup.size);
        let shared = async {
            while !matches!(index.find_local(&path), Ok(Some(found)) if found.size == size) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(SHARED, shared).await.is_err() {
            return Err(format!("{} is not in the share index in time", setup.path.display()));
        }
        let (events, _) = broadcast::channel(1);
        let (settings, net) = (apply::engine(config, 0), apply::net(config, &folders));
        let (parts, handle) = soulseek::parts(clock, store, pump, sharing, Traces::default(), settings, net, events);
        Ok(Self { parts, _handle: handle })
    }
}

/// The file as the Doctor would write it down, but for what it sounds like.
fn measured(setup: &Setup, content: ContentHash, clock: Clock) -> Result<FileChange, String> {
    let metadata = std::fs::metadata(&setup.path).map_err(|error| format!("{}: {error}", setup.path.display()))?;
    let seen = seen(&metadata).ok_or_else(|| format!("{} is no file", setup.path.display()))?;
    let (path, now) = (from_path(&setup.path), clock.now().wall);
    let measured = Measured {
        codec: Codec::Flac,
        container: Container::Flac,
        sample_rate_hz: 44_100,
        bit_depth: Some(16),
        channels: 2,
        samples: 0,
        duration_ms: 0,
        bitrate_kbps: 0,
        file_size_bytes: setup.size,
        content_hash: content,
        file_sha256: [0; 32],
        head_sha256: [0; 32],
        stream_hash: [0; 16],
        fingerprint: Vec::new(),
        sketch: 0,
        loudness: Loudness::default(),
        spectrum: Spectrum::default(),
        detail: Detail::Plain,
        encoder: None,
        integrity: Integrity::default(),
        tags: Tags::default(),
    };
    Ok(FileChange {
        row: FileRow {
            path: path.clone(),
            size: seen.size,
            mtime_ns: seen.mtime_ns,
            inode: seen.inode,
            outcome: FileOutcome::Measured(content),
            scan: ScanId(0),
        },
        variant: Some(Box::new(Variant {
            measured,
            judged: Judged::default(),
            identity: Identity {
                recording_id: setup.recording.as_ref().and_then(|id| id.parse().ok()),
                matched_by: MatchedBy::Tags,
                ..Identity::default()
            },
            paths: vec![path],
            first_seen_at: now,
            last_seen_at: now,
            seen_count: 1,
        })),
        issues: Vec::new(),
        judged: Vec::new(),
        moved_from: None,
    })
}
