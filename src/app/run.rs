//! Wires the daemon together, in the order in which things depend on one another, and takes it apart in the opposite
//! one.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::appliance::node::{self, Appliance};
use super::apply::{self, Applier, Folders};
use super::backup;
use super::cli::{could_not, say};
use super::clock::Clock;
use super::desk::{self, Desk};
use super::doctor::service::{self, Doctor};
use super::doctor::shells::{self, Catalogs, Rulebook, Workers};
use super::doctor::{Ground, load};
use super::jobs::{self, JobSettings, Jobs, Tools};
use super::logging::{self, LogTail};
use super::mesh::MeshService;
use super::publish::{self, Publisher};
use super::pump::{ContainerCheck, Limiter, Pump, PumpConfig, SYNC_EVERY};
use super::repair::{self, Mender, RepairService, RepairSettings};
use super::rescue::{self, RescueService};
use super::settings::Sources;
use super::sharing::Sharing;
use super::sharing::rules::Rules;
use super::soulseek::{self, NodeHandle};
use super::supervise::Supervisor;
use super::traces::Traces;
use super::upkeep;
use crate::disk::pool::Pool;
use crate::disk::{Backend, Disk};
use crate::engine::audio::container::{Check, CheckError};
use crate::model::config::{Config, Resolved};
use crate::model::limits;
use crate::model::units::{KIB, MIB};
use crate::model::view::Snapshot;
use crate::net::catalog::Catalog;
use crate::net::port_mapping::{Mode, PortMapping, Protocol};
use crate::store::{Store, StoreOptions};
use crate::web::{ApiKey, Ask, Bound, Role, Server, WebSettings};

/// An orderly stop leaves within this.
const STOP: Duration = Duration::from_secs(5);
/// Questions of the web layer waiting; they wait.
const ASKS: usize = 64;
/// Events a slow page may lag behind; it loses the oldest.
const EVENTS: usize = 256;
/// Web, engine, disk completions: two threads are enough on every board, and each costs a stack.
const RUNTIME_THREADS: usize = 2;
/// Where the appliance's page is for who names no port: that of `slskdn-web.socket`.
const WEB_PORT: u16 = 80;

/// Runs the appliance until it is told to stop. Every failure before it runs is one clear sentence and exit code 2.
pub fn serve(sources: Sources) -> ExitCode {
    let clock = Clock::start();
    // Before anything is opened: nothing of ours can have these numbers yet.
    let passed = match passed_sockets() {
        Ok(passed) => passed,
        Err(sentence) => return could_not(&sentence),
    };
    if let Err(sentence) = sources.no_restore_runs() {
        return could_not(&sentence);
    }
    // Before a sample is put where the restored configuration belongs.
    if let Err(error) = sources.finish_restore() {
        return could_not(&format!("an interrupted restore could not be completed: {error}"));
    }
    if let Err(error) = sources.prepare() {
        return could_not(&format!("the data directory {} cannot be used: {error}", sources.data.display()));
    }
    let appliance = Appliance::new(sources.root.clone());
    appliance.sweep();
    // Of a rescue page that ended in the middle of an upload.
    drop(std::fs::remove_file(sources.data.join(crate::web::rescue::UPLOAD)));
    let kept = node::keep_secrets(&sources, &appliance);
    let resolved = match sources.load() {
        Ok(resolved) => resolved,
        Err(problems) => {
            for problem in &problems {
                say(&problem.to_string());
            }
            return could_not("the configuration has mistakes; nothing was started");
        }
    };
    if let Err(problem) = limits::fits(&resolved.config) {
        return could_not(&problem);
    }
    let level = std::env::var("SLSKDN_LOG").unwrap_or_else(|_| resolved.config.log_level.clone());
    let tail = logging::install(&level, clock);
    match kept {
        Ok(0) => {}
        Ok(kept) => tracing::info!(kept, "secrets were taken from the card"),
        Err(error) => tracing::warn!(%error, "secrets could not be taken from the card, and stay there"),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("slskdn")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return could_not(&format!("no threads to work with: {error}")),
    };
    let code = match runtime.block_on(run(clock, sources, resolved, tail, passed, appliance)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => could_not(&sentence),
    };
    // A disk that does not answer must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn run(
    clock: Clock,
    sources: Sources,
    resolved: Resolved,
    tail: LogTail,
    passed: Vec<Arc<TcpListener>>,
    appliance: Appliance,
) -> Result<(), String> {
    let started_at = clock.now().wall;
    let data = sources.data.clone();
    let config = resolved.config.clone();
    let warnings: Vec<String> = resolved.warnings.iter().map(ToString::to_string).collect();
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let folders = Folders::new(&sources.data, &config);
    for folder in [&folders.incomplete, &folders.cache()] {
        make(folder)?;
    }
    if config.downloads.is_empty() {
        make(&folders.downloads)?;
    } else if let Err(why) = make_last(&folders.downloads) {
        // It may lie on a disk that is not plugged in now, or comes up after us: finished files wait for it.
        tracing::warn!("{why}");
    }

    let store_dir = sources.data.join("store");
    let store = tokio::task::spawn_blocking(move || Store::open(&store_dir, StoreOptions::default())).await;
    let store = store.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    // From here on there is something to put away. Whoever sees our sockets may already want us to end.
    let end = End::listen().map_err(|error| error.to_string())?;
    // Before anybody is told that we are here: a taken port ends the start.
    let mut web = web(&config, &sources.data, clock, passed);
    web.update_spool = appliance.spool();
    let bound = Bound::new(&web).map_err(|error| error.to_string())?;
    let (disk, backend) = disk(&config)?;
    tracing::info!(backend = backend.name, reason = backend.reason, "disk");
    let limiter =
        Limiter::new(config.download_limit_kib.saturating_mul(KIB), config.upload_limit_kib.saturating_mul(KIB));
    let pump = Pump::new(
        disk.clone(),
        limiter,
        PumpConfig {
            incomplete: folders.incomplete.clone(),
            downloads: folders.downloads.clone(),
            free_min: config.min_free_mib.saturating_mul(MIB),
            sync_every: SYNC_EVERY,
        },
        Arc::new(container_check),
    );
    let (index, shares) = (store.clone(), apply::shares(&config, &folders));
    let sharing = tokio::task::spawn_blocking(move || Sharing::start(index, shares, clock)).await;
    let sharing = sharing.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;

    let cancel = CancellationToken::new();
    let catalog = shells::catalog(&config.catalog, &store, clock, &cancel).map_err(|error| error.to_string())?;
    let doctor = doctor(&config, &folders, &store, clock, catalog.clone())?;

    // The port is tried once here, so that a taken one is a sentence and not a task that fails for ever.
    let mut net = apply::net(&config, &folders);
    net.port = free_port(&config)?;
    let (events, _) = broadcast::channel(EVENTS);
    let settings = apply::engine(&config, net.port);
    let listen_port = net.port;
    let traces = Traces::start(store.clone(), clock, config.swarm_events.clone(), sources.data.join("traces"));
    let (parts, node) =
        soulseek::parts(clock, store.clone(), pump, sharing.clone(), traces.clone(), settings, net, events.clone());
    let supervisor = Supervisor::new(clock, cancel.clone());
    let measure = Arc::clone(&doctor.ground().measure);
    let mesh = MeshService::start(&config, &sources.data, parts.clone(), measure, cancel.child_token())?;
    let ground = doctor.ground().clone();
    let rescue = RescueService::new(&config, parts.clone(), mesh.clone(), ground, cancel.child_token())?;
    let applier = Applier::new(parts.clone(), node.clone(), folders);
    let (swept, incomplete) = (store.clone(), applier.folders().incomplete.clone());
    match tokio::task::spawn_blocking(move || upkeep::sweep(&swept, &incomplete)).await {
        Ok(Ok(0)) => {}
        Ok(Ok(gone)) => tracing::info!(gone, "forgotten partial files were removed"),
        failed => tracing::warn!(?failed, "forgotten partial files could not be looked for"),
    }
    // Left by a backup that was killed. Usually nothing is there.
    let _ = tokio::fs::remove_dir_all(backup::scratch(&sources.data)).await;
    let (kept, kept_folders) = (store.clone(), applier.folders().clone());
    supervisor.run("upkeep", move |cancel| upkeep::run(kept.clone(), kept_folders.clone(), clock, cancel)).await;
    supervisor.run("soulseek", move |cancel| soulseek::run(parts.clone(), cancel)).await;

    let watching = rescue.clone();
    supervisor.run("rescue", move |cancel| rescue::run(watching.clone(), cancel)).await;

    let treating = doctor.clone();
    supervisor.run("doctor", move |cancel| service::run(treating.clone(), cancel)).await;

    let job_settings = JobSettings::new(&config, applier.folders());
    let improvement_min = apply::canonical(&config).improvement_min;
    let mender = Mender::new(doctor.ground().clone(), job_settings.allowed(), improvement_min);
    // Before anybody asks where a file belongs.
    let recovering = mender.clone();
    let recovered = tokio::task::spawn_blocking(move || recovering.recover()).await;
    recovered.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let tools = Tools {
        store: store.clone(),
        node: node.clone(),
        doctor: doctor.clone(),
        catalog: catalog.clone(),
        traces: traces.clone(),
        mender: mender.clone(),
        mesh: mesh.clone(),
        rescue: rescue.clone(),
    };
    let jobs = Jobs::new(tools, job_settings);
    let working = jobs.clone();
    supervisor.run("jobs", move |cancel| jobs::run(working.clone(), cancel)).await;
    let parts = repair::Parts { mender, jobs: jobs.clone(), catalog, doctor: doctor.clone(), sharing: sharing.clone() };
    let settings = RepairSettings { remediation: config.library_health.remediation, offline: config.catalog.offline };
    let repair = RepairService::new(parts, settings);
    let mending = repair.clone();
    supervisor.run("repair", move |cancel| repair::run(mending.clone(), cancel)).await;

    let shutdown = CancellationToken::new();
    let (asks, asked) = mpsc::channel::<Ask>(ASKS);
    let asked = Arc::new(Mutex::new(asked));
    let desk = Arc::new(Desk {
        node: node.clone(),
        store: store.clone(),
        sharing: sharing.clone(),
        tail,
        sources: sources.clone(),
        resolved: Mutex::new(Arc::new(resolved)),
        applier: applier.clone(),
        doctor: doctor.clone(),
        mesh: mesh.clone(),
        rescue: rescue.clone(),
        repair,
        jobs,
        traces: traces.clone(),
        appliance: appliance.clone(),
        shutdown: shutdown.clone(),
    });
    supervisor.run("desk", move |cancel| desk::run(desk.clone(), asked.clone(), cancel)).await;

    let mode = if config.soulseek.port_mapping { Mode::Auto } else { Mode::Off };
    let publisher = Publisher {
        clock,
        started_at,
        node: node.clone(),
        applier,
        doctor,
        mesh: mesh.clone(),
        supervisor: supervisor.clone(),
        backend: backend.clone(),
        free_min: config.min_free_mib.saturating_mul(MIB),
        mapping: PortMapping::start(Protocol::Tcp, listen_port, mode, cancel.clone()),
        warnings,
        events: events.clone(),
    };
    let (snapshots, snapshot) = watch::channel(Arc::new(publisher.snapshot().await));
    let publishing = publisher.clone();
    supervisor.run("status", move |cancel| publish::run(publishing.clone(), snapshots.clone(), cancel)).await;

    let web_desk = crate::web::Desk::new(snapshot.clone(), asks, events);
    let web = Server::begin(bound, web, web_desk, cancel.child_token()).await;
    let web = web.map_err(|error| error.to_string())?;
    greet(&web, &config);
    let (watching, door, disks) = (appliance.clone(), Arc::clone(web.web()), sharing.clone());
    let needs_code = web.setup_code().is_some();
    supervisor
        .run("appliance", move |cancel| {
            let (door, disks) = (Arc::clone(&door), disks.clone());
            let code = move || if needs_code { door.auth.setup_code() } else { None };
            let changed = move || {
                if let Err(error) = disks.rescan(None) {
                    tracing::warn!(%error, "the shares could not be looked at after a disk came or went");
                }
            };
            watching.clone().watch(code, changed, cancel)
        })
        .await;
    notify(&snapshot, &node, &store, &disk, &cancel);

    let web_port = appliance.is_appliance().then_some(WEB_PORT);
    appliance.tell_health(&node::health(&data, backend.name, web.addresses(), config.web.port, web_port));

    end.wait(&shutdown).await;
    tracing::info!("stopping");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    cancel.cancel();
    if tokio::time::timeout(STOP, rescue.stopped()).await.is_err() {
        tracing::warn!("rescues did not stop in time");
    }
    if tokio::time::timeout(STOP, mesh.stopped()).await.is_err() {
        tracing::warn!("the mesh did not stop in time");
    }
    let late = supervisor.stop(STOP).await;
    if late > 0 {
        tracing::warn!(tasks = late, "did not stop in time");
    }
    let _ = tokio::time::timeout(Duration::from_secs(1), web.stopped()).await;
    if tokio::time::timeout(STOP, traces.stop()).await.is_err() {
        tracing::warn!("the last lines of traces could not be written in time");
    }
    let ended = tokio::task::spawn_blocking(move || sharing.end(Duration::from_secs(1))).await;
    if !ended.unwrap_or(false) {
        tracing::warn!("the share scan did not stop in time");
    }
    drop(store);
    Ok(())
}

/// The Doctor with its workers, which start when the first file is to be measured.
fn doctor(config: &Config, folders: &Folders, store: &Store, clock: Clock, catalog: Catalog) -> Result<Doctor, String> {
    let runtime = tokio::runtime::Handle::current();
    let workers = load::workers(config.library_health.max_concurrent_files);
    let measure = Workers::new(workers, runtime.clone()).map_err(|error| error.to_string())?;
    let settings = apply::shares(config, folders);
    let rules = Rules::new(&settings.filters, &settings.excluded).map_err(|error| error.to_string())?;
    let ground = Ground {
        store: store.clone(),
        measure: Arc::new(measure),
        judge: Arc::new(Rulebook),
        catalogue: Arc::new(Catalogs::new(catalog, runtime)),
        rules: Arc::new(rules),
        clock,
        thresholds: apply::thresholds(config),
        canonical: apply::canonical(config),
        workers,
    };
    Ok(Doctor::new(ground, apply::schedule(config, folders)))
}

fn make(folder: &Path) -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("the folder {} cannot be used: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(cannot)?;
    // A read-only disk says so here and not at the first download.
    let probe = folder.join(".slskdn-probe");
    std::fs::write(&probe, b"").map_err(cannot)?;
    std::fs::remove_file(&probe).map_err(cannot)
}

/// As [`make`], but nothing above the folder itself: where a disk is to be mounted, nothing is put.
fn make_last(folder: &Path) -> Result<(), String> {
    match folder.parent() {
        Some(parent) if !parent.is_dir() => Err(format!("the folder {} is not there", parent.display())),
        _ => make(folder),
    }
}

fn disk(config: &Config) -> Result<(Disk, crate::disk::BackendReport), String> {
    let backend = match config.disk_backend.as_str() {
        "io_uring" => Backend::Uring,
        "blocking" => Backend::Blocking,
        _ => Backend::Auto,
    };
    Disk::start(backend, Pool::new(limits::BLOCKS)).map_err(|error| error.to_string())
}

/// The configured port if it can be had now.
fn free_port(config: &Config) -> Result<u16, String> {
    let (address, port) = (config.soulseek.listen_address, config.soulseek.listen_port);
    let listener = TcpListener::bind((address, port)).map_err(|error| {
        format!("port {port} on {address} (soulseek.listen_port) cannot be had: {error}; is another program using it?")
    })?;
    listener.local_addr().map(|at| at.port()).map_err(|error| error.to_string())
}

fn web(config: &Config, data: &Path, clock: Clock, passed: Vec<Arc<TcpListener>>) -> WebSettings {
    let mut settings = WebSettings::new(Arc::new(move || clock.now()));
    settings.addresses = vec![SocketAddr::new(config.web.address, config.web.port)];
    settings.listeners = passed;
    settings.control_socket = Some(data.join("control.sock"));
    settings.allowed_hosts.clone_from(&config.web.allowed_hosts);
    settings.authentication = !config.web.open;
    config.web.url_base.trim_end_matches('/').clone_into(&mut settings.url_base);
    settings.username.clone_from(&config.web.username);
    settings.password = (!config.web.password.is_empty()).then(|| config.web.password.clone());
    settings.api_keys = config
        .web
        .api_keys
        .iter()
        .map(|key| ApiKey {
            name: key.name.clone(),
            key: key.key.clone(),
            role: match key.role.as_str() {
                "administrator" => Role::Administrator,
                "readwrite" => Role::Readwrite,
                _ => Role::Readonly,
            },
            cidr: key.cidrs.iter().filter_map(|(address, length)| format!("{address}/{length}").parse().ok()).collect(),
        })
        .collect();
    settings
}

/// A container's checksums, kept going after the first mistake only to report it.
struct Checked {
    check: Option<Check>,
    wrong: Option<CheckError>,
}

impl ContainerCheck for Checked {
    fn feed(&mut self, bytes: &[u8]) {
        if self.wrong.is_none()
            && let Some(check) = &mut self.check
        {
            self.wrong = check.feed(bytes).err();
        }
    }

    fn finish(self: Box<Self>) -> Result<(), String> {
        match (self.wrong, self.check) {
            (Some(wrong), _) => Err(wrong.to_string()),
            (None, Some(check)) => check.finish().map_err(|wrong| wrong.to_string()),
            (None, None) => Ok(()),
        }
    }
}

fn container_check(extension: &str) -> Option<Box<dyn ContainerCheck>> {
    let check = Check::for_extension(extension)?;
    Some(Box::new(Checked { check: Some(check), wrong: None }))
}

/// Listening sockets from systemd (`LISTEN_FDS`).
fn passed_sockets() -> Result<Vec<Arc<TcpListener>>, String> {
    use std::os::fd::{BorrowedFd, FromRawFd as _};
    let wrong = |error: &dyn std::fmt::Display| format!("the sockets named in LISTEN_FDS cannot be used: {error}");
    let numbers = sd_notify::listen_fds().map_err(|error| wrong(&error))?;
    let mut passed = Vec::with_capacity(numbers.len());
    for number in numbers {
        // SAFETY: `listen_fds` has set a flag on this descriptor, so it is open, and nobody closes it meanwhile.
        #[expect(unsafe_code, reason = "sockets passed by systemd arrive as numbers")]
        let looked_at = unsafe { BorrowedFd::borrow_raw(number) };
        if !rustix::net::sockopt::socket_acceptconn(looked_at).unwrap_or(false) {
            return Err(wrong(&format!("descriptor {number} is no listening socket")));
        }
        // SAFETY: a listening socket at the start of the process was passed to it, and nobody else here takes it.
        #[expect(unsafe_code, reason = "sockets passed by systemd arrive as numbers")]
        let listener = unsafe { TcpListener::from_raw_fd(number) };
        passed.push(Arc::new(listener));
    }
    Ok(passed)
}

/// What a person at the terminal needs to know.
fn greet(web: &Server, config: &Config) {
    for address in web.addresses() {
        // By multicast DNS a machine is known as its name, without what a domain adds to it.
        let name = || {
            let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
            format!("{}.local", name.split('.').next().unwrap_or_default())
        };
        let host = if address.ip().is_unspecified() { name() } else { address.ip().to_string() };
        tracing::info!("the page is at http://{host}:{}{}", address.port(), config.web.url_base);
    }
    if let Some(code) = web.setup_code() {
        tracing::info!("set-up code: {code} (open the page and set a password with it)");
    }
    if config.soulseek.username.is_empty() {
        tracing::info!("waiting for a Soulseek user name and password: enter them on the page or in slskdn.yml");
    }
    if config.shares.directories.is_empty() {
        tracing::info!("nothing is shared: name a folder on the page, in slskdn.yml, or with --music");
    }
}

/// READY, then a status line and the watchdog, fed only while the engine, the store's writer and the thread that reads and
/// writes files answer.
fn notify(
    snapshot: &watch::Receiver<Arc<Snapshot>>,
    node: &NodeHandle,
    store: &Store,
    disk: &Disk,
    cancel: &CancellationToken,
) {
    use sd_notify::NotifyState;
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let every = sd_notify::watchdog_enabled().map_or(Duration::from_secs(10), |timeout| timeout / 3);
    let (snapshot, node, store, disk, cancel) =
        (snapshot.clone(), node.clone(), store.clone(), disk.clone(), cancel.clone());
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(every);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            let line = publish::status_line(&snapshot.borrow().clone());
            let _ = sd_notify::notify(&[NotifyState::Status(&line)]);
            // An empty commit costs no write, but its answer comes from the writing thread.
            let written = store.write(|_, _| Ok(())).await;
            if node.look(|_, _| ()).await.is_some() && written.is_ok() && disk.is_there().await {
                let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            }
        }
    });
}

/// The signals that ask for an orderly stop. One that comes before it is waited for is not lost.
struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl End {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(mut self, shutdown: &CancellationToken) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = shutdown.cancelled() => {}
        }
    }
}
