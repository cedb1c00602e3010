//! The state of things, gathered about once a second for the page, `/metrics` and systemd.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use rustix::fs::Access;
use rustix::io::Errno;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::apply::Applier;
use super::clock::Clock;
use super::doctor::service::{Doctor, Figures};
use super::mesh::MeshService;
use super::soulseek::NodeHandle;
use super::supervise::Supervisor;
use super::traces::TraceCounts;
use crate::disk::BackendReport;
use crate::engine::soulseek::node::{Node, NodeView};
use crate::model::health::{HealthSummary, IssueKind};
use crate::model::limits;
use crate::model::mesh::MeshView;
use crate::model::repair::RepairCounts;
use crate::model::rescue::{RescueCounts, TrafficView};
use crate::model::time::UnixMs;
use crate::model::units::{Bytes, MIB};
use crate::model::view::{DiskView, Event, PortView, ServerView, ShareView, Snapshot};
use crate::net::port_mapping::Mapped;
use crate::store::{Health, Stats};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// What the snapshot is made of.
#[derive(Clone)]
pub struct Publisher {
    /// The one clock.
    pub clock: Clock,
    /// When the process began.
    pub started_at: UnixMs,
    /// The engine.
    pub node: NodeHandle,
    /// What runs.
    pub applier: Applier,
    /// The Doctor.
    pub doctor: Doctor,
    /// The mesh.
    pub mesh: MeshService,
    /// Tasks.
    pub supervisor: Supervisor,
    /// Which disk backend, and why.
    pub backend: BackendReport,
    /// Floor of free space, bytes.
    pub free_min: u64,
    /// How the port mapping stands.
    pub mapping: watch::Receiver<Mapped>,
    /// Sentences known since the start.
    pub warnings: Vec<String>,
    /// Told when the shares have changed.
    pub events: broadcast::Sender<Event>,
}

/// Publishes until cancelled.
///
/// # Errors
/// None; the type is the supervisor's.
pub async fn run(
    publisher: Publisher,
    to: watch::Sender<Arc<Snapshot>>,
    cancel: CancellationToken,
) -> Result<(), String> {
    let mut tick = tokio::time::interval(EVERY);
    let mut shares = ShareView::default();
    let mut scan = None;
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let snapshot = publisher.snapshot().await;
        let changed = shares != snapshot.shares;
        if changed {
            shares = snapshot.shares.clone();
        }
        let scans = scan != snapshot.library_scan.scan;
        scan = snapshot.library_scan.scan;
        // Nobody may be looking.
        to.send_replace(Arc::new(snapshot));
        if changed {
            let _ = publisher.events.send(Event::Shares);
        }
        if scans {
            let _ = publisher.events.send(Event::Library);
        }
    }
}

impl Publisher {
    /// How things stand now.
    pub async fn snapshot(&self) -> Snapshot {
        let node = self.node.look(Node::view).await.unwrap_or_default();
        self.doctor.set_transfers(u64::from(node.downloads.active) + u64::from(node.uploads.active));
        let parts = self.applier.parts();
        let shares = parts.sharing.view().borrow().clone();
        let (store, folders) = (parts.store.clone(), self.applier.folders().clone());
        let downloads = folders.downloads.display().to_string();
        // A disk may take its time with each.
        let look = move || {
            let spaces = (space(&folders.incomplete).unwrap_or_default(), space(&folders.downloads));
            (store.unread().unwrap_or(0), spaces, can_be_had(&folders.downloads))
        };
        let looked_at = tokio::task::spawn_blocking(look).await;
        let (unread, ((free, total), there), reachable) = looked_at.unwrap_or((0, ((0, 0), None), true));
        let network = parts.network.lock().await.clone();
        let config = parts.settings.lock().await.clone();
        let mut warnings = self.warnings.clone();
        let sections = self.applier.waiting().await;
        if !sections.is_empty() {
            warnings.push(format!("new settings take effect after a restart: {}", sections.join(", ")));
        }
        if let Health::Poisoned(reason) = parts.store.health() {
            warnings.insert(0, format!("nothing can be recorded any more, restart the box: {reason}"));
        }
        let full = node.disk_full || free < self.free_min;
        if full {
            let (free, floor) = (Bytes(free), Bytes(self.free_min));
            warnings.insert(0, format!("the disk is full: {free} are free, downloads wait until there are {floor}"));
        }
        if !reachable {
            warnings.push(format!("the downloads folder {downloads} cannot be used: finished files wait for it"));
        }
        // On the same disk it has been said above.
        if let Some((left, all)) = there.filter(|(left, all)| *left < self.free_min && (*left, *all) != (free, total)) {
            let (left, all, floor) = (Bytes(left), Bytes(all), Bytes(self.free_min));
            let sentence = format!(
                "on the disk of {downloads} {left} of {all} are free: what would leave less than {floor} waits for room"
            );
            warnings.push(sentence);
        }
        warnings.extend(shares.problems.iter().take(5).cloned());
        let server = parts.net.lock().await.server.clone();
        self.mesh.server_at(node.endpoint);
        Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            started_at: self.started_at,
            server: ServerView {
                address: server,
                endpoint: node.endpoint,
                username: config.username.to_string(),
                state: node.server_state,
                reason: node.server_reason,
                retry_at: node.retry_at,
            },
            shares,
            tree: node.tree,
            downloads: node.downloads,
            uploads: node.uploads,
            disk: DiskView {
                backend: self.backend.name,
                backend_reason: (!self.backend.reason.is_empty()).then(|| self.backend.reason.clone()),
                free,
                total,
                full,
            },
            port: PortView {
                listen: network.map_or(config.listen_port, |network| network.local_port()),
                mapping: self.mapping.borrow().text.clone(),
            },
            tasks: self.supervisor.views(),
            warnings,
            unread_messages: unread,
            searches_answered: node.searches_answered,
            searches_seen: node.searches_seen,
            library_scan: self.doctor.progress().borrow().clone(),
            mesh: self.mesh.view(),
        }
    }
}

/// Whether files can be put there; its last level may still have to be made.
fn can_be_had(folder: &Path) -> bool {
    let write = |path: &Path| rustix::fs::access(path, Access::WRITE_OK);
    match (write(folder), folder.parent()) {
        (Err(Errno::NOENT), Some(parent)) => write(parent).is_ok(),
        (found, _) => found.is_ok(),
    }
}

/// Free and total bytes of the disk this folder lies on; none where there is no such folder.
fn space(folder: &Path) -> Option<(u64, u64)> {
    let fs = rustix::fs::statvfs(folder).ok()?;
    Some((fs.f_bavail.saturating_mul(fs.f_frsize), fs.f_blocks.saturating_mul(fs.f_frsize)))
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Named {
    name: &'static str,
}

/// Prometheus text of everything but the web layer's own counters.
pub async fn metrics(
    applier: &Applier,
    node: NodeView,
    store: &Stats,
    (doctor, health): (Figures, HealthSummary),
    mesh: &MeshView,
    (rescue, traffic, repairs): (&RescueCounts, &TrafficView, RepairCounts),
) -> String {
    let mut registry = Registry::with_prefix("slskdn");
    let value = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let mut gauge = |name: &str, help: &str, unit: Option<Unit>, rows: &[(&'static str, u64)]| {
        let family = Family::<Named, Gauge>::default();
        for (name, n) in rows {
            family.get_or_create(&Named { name }).set(value(*n));
        }
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, family),
            None => registry.register(name, help, family),
        }
    };
    let flows = [("downloads", node.downloads), ("uploads", node.uploads)];
    let of = |pick: fn(&crate::model::view::FlowView) -> u64| flows.map(|(name, flow)| (name, pick(&flow)));
    gauge("transfers_active", "Transfers in progress", None, &of(|f| u64::from(f.active)));
    gauge("transfers_queued", "Transfers waiting", None, &of(|f| u64::from(f.queued)));
    gauge("transfers_succeeded", "Transfers succeeded since start", None, &of(|f| f.succeeded));
    gauge("transfers_failed", "Transfers failed since start", None, &of(|f| f.failed));
    gauge("transfers", "Bytes moved since start", Some(Unit::Bytes), &of(|f| f.bytes));
    gauge("transfers_speed", "Bytes per second now", Some(Unit::Bytes), &of(|f| f.speed));
    let logged_in = u64::from(node.server_state == crate::model::view::ServerState::LoggedIn);
    gauge("server", "Whether we are logged in", None, &[("logged_in", logged_in)]);
    let searches = [("seen", node.searches_seen), ("answered", node.searches_answered)];
    gauge("incoming_searches", "Searches of others since start", None, &searches);
    gauge("tree_children", "Users we pass searches on to", None, &[("children", node.tree.children.len() as u64)]);
    let shares = applier.parts().sharing.view().borrow().clone();
    let counts = [("folders", u64::from(shares.counts.folders)), ("files", u64::from(shares.counts.files))];
    gauge("shares", "What is shared", None, &counts);
    gauge("library_files", "Audio files the Doctor knows", None, &[("files", health.files)]);
    let issues = IssueKind::ALL.map(|kind| (kind.name(), health.of(kind)));
    gauge("library_issues", "Open issues of each type", None, &issues);
    gauge("library_measured", "Audio files measured since start", None, &[("files", doctor.files)]);
    gauge("library_read", "Of them, since start", Some(Unit::Bytes), &[("files", doctor.bytes)]);
    gauge("library_audio", "Audio in them, since start", Some(Unit::Seconds), &[("audio", doctor.audio_s)]);
    for figures in &doctor.catalogs {
        let rows = [
            ("requests", figures.requests),
            ("cached", figures.cached),
            ("backoffs", figures.backoffs),
            ("failed", figures.failed),
        ];
        let name = format!("catalog_{}", figures.service.name());
        gauge(&name, "Questions to this catalog since start", None, &rows);
    }
    gauge("store", "The store's map", Some(Unit::Bytes), &[("map", store.map_size), ("used", store.used)]);
    gauge(
        "store_events",
        "Since start",
        None,
        &[("commits", store.commits), ("jobs", store.jobs), ("growths", store.growths)],
    );
    gauge("store_entries", "Rows of each table", None, &store.tables);
    if let Some(network) = applier.parts().network.lock().await.as_ref() {
        let n = network.stats();
        gauge(
            "connections",
            "Connections with users",
            None,
            &[
                ("dialling", n.dialling as u64),
                ("greeting", n.greeting as u64),
                ("peer", n.peer as u64),
                ("distributed", n.distributed as u64),
                ("file", n.file as u64),
            ],
        );
        gauge(
            "messages",
            "Bytes of messages since start",
            Some(Unit::Bytes),
            &[("in", n.bytes_in), ("out", n.bytes_out)],
        );
        gauge("connections_refused", "Since start", None, &[("violation", n.violations), ("full", n.refused)]);
    }
    mesh_gauges(mesh, &mut gauge);
    rescue_gauges(rescue, traffic, &mut gauge);
    repair_gauges(repairs, &mut gauge);
    let free = applier.parts().pump.disk().pool().permits().available_permits() as u64;
    gauge(
        "buffers",
        "Blocks of 64 KiB between network and disk",
        None,
        &[("free", free), ("all", limits::BLOCKS as u64)],
    );
    trace_gauges(&applier.parts().traces.counts(), &mut gauge);
    if let Some((resident, anonymous)) = memory() {
        gauge("memory", "Of this process", Some(Unit::Bytes), &[("resident", resident), ("anonymous", anonymous)]);
    }
    let lookups = applier.parts().search_lookups.clone();
    let help = "Searches of others, from the question to the index's answer";
    registry.register_with_unit("search_lookup", help, Unit::Seconds, lookups);
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = encode(&mut text, &registry);
    text
}

fn mesh_gauges(mesh: &MeshView, gauge: &mut impl FnMut(&str, &str, Option<Unit>, &[(&'static str, u64)])) {
    gauge("mesh_peers", "Mesh peers connected", None, &[("connected", u64::from(mesh.connected))]);
    gauge("mesh_fetches", "Files being fetched from the mesh", None, &[("running", u64::from(mesh.fetching))]);
    let requests = [("served", mesh.served), ("refused", mesh.refused)];
    gauge("mesh_requests", "Requests of mesh peers since start", None, &requests);
    gauge("mesh_connections_refused", "Since start, by reason", None, &mesh.turned_away_by);
    let bytes = [("in", mesh.bytes_in), ("out", mesh.bytes_out)];
    gauge("mesh", "Bytes of files exchanged with mesh peers since start", Some(Unit::Bytes), &bytes);
    gauge("mesh_uploads", "Transfers to mesh peers, by state", None, &mesh.uploads);
    gauge(
        "mesh_sources_avoided",
        "Sources of running fetches below the threshold",
        None,
        &[("sources", u64::from(mesh.avoided))],
    );
    let (mean, variance) = mesh.cost_milli;
    let help = "What sources of running fetches cost, thousandths";
    gauge("mesh_source_cost", help, None, &[("mean", mean), ("variance", variance)]);
    gauge("mesh_bad_pieces", "Pieces of mesh peers that were proven bad", None, &[("pieces", mesh.bad_pieces)]);
}

fn rescue_gauges(
    rescue: &RescueCounts,
    traffic: &TrafficView,
    gauge: &mut impl FnMut(&str, &str, Option<Unit>, &[(&'static str, u64)]),
) {
    gauge("rescue_hung", "Downloads that hung since start, by reason", None, &rescue.hung);
    gauge("rescue_jobs", "Rescues since start, by how they stand", None, &rescue.rescues);
    gauge("rescue_guardrail_hits", "Since start", None, &rescue.hits);
    let [overlay, soulseek] = rescue.bytes;
    let bytes = [("overlay", overlay), ("soulseek", soulseek)];
    gauge("rescue", "Bytes that came while rescues went on, since start", Some(Unit::Bytes), &bytes);
    let help = "Thousandths of a second that downloads had hung when they were found, since start";
    gauge("rescue_waited", help, None, &[("milliseconds", rescue.waited_ms)]);
    for (name, moved) in ["24h", "7d", "30d"].into_iter().zip(traffic.windows) {
        let rows = [
            ("overlay_up", moved.overlay_up),
            ("overlay_down", moved.overlay_down),
            ("soulseek_up", moved.soulseek_up),
            ("soulseek_down", moved.soulseek_down),
        ];
        gauge(&format!("traffic_{name}"), "Bytes of files within so long", Some(Unit::Bytes), &rows);
    }
    let broken = crate::model::rescue::Violation::ALL.map(|violation| {
        let holds = traffic.violations.iter().any(|(broken, _)| *broken == violation);
        (violation.name(), u64::from(holds))
    });
    gauge("fairness_violations", "Rules that are broken now", None, &broken);
}

fn repair_gauges(repairs: RepairCounts, gauge: &mut impl FnMut(&str, &str, Option<Unit>, &[(&'static str, u64)])) {
    let RepairCounts { begun, done, failed, undone, took_ms } = repairs;
    let rows = [("begun", begun), ("done", done), ("failed", failed), ("undone", undone)];
    gauge("repairs", "Issues of the library that were mended since start, by how it went", None, &rows);
    let help = "Thousandths of a second from the wish to the end of those that were done, since start";
    gauge("repairs_took", help, None, &[("milliseconds", took_ms)]);
}

fn trace_gauges(traces: &TraceCounts, gauge: &mut impl FnMut(&str, &str, Option<Unit>, &[(&'static str, u64)])) {
    for (network, name) in [("overlay", "swarm_chunks_overlay"), ("soulseek", "swarm_chunks_soulseek")] {
        let of = traces.chunks.iter().filter(|(from, ..)| *from == network);
        let rows: Vec<_> = of.map(|(_, result, runs)| (*result, *runs)).collect();
        gauge(name, "Runs of bytes asked of sources of this network since start, by result", None, &rows);
    }
    let rows = [("rebalances", traces.rebalances), ("bad_pieces", traces.bad_pieces), ("lines_lost", traces.lost)];
    gauge("swarm_events", "Of all jobs since start; lines of traces that could not be kept", None, &rows);
}

/// Resident and anonymous bytes of this process.
fn memory() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let of = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().split(' ').next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some((of("VmRSS:")?, of("RssAnon:")?))
}

/// `2 downloads, 1 upload, logged in`, for systemd's status line.
pub fn status_line(snapshot: &Snapshot) -> String {
    let Snapshot { server, downloads, uploads, shares, disk, .. } = snapshot;
    let state = match &server.reason {
        Some(reason) => reason.clone(),
        None => format!("{:?}", server.state),
    };
    let full = if disk.full { ", disk full" } else { "" };
    format!(
        "{state}; {} down, {} up, {} files shared, {} MiB free{full}",
        downloads.active,
        uploads.active,
        shares.counts.files,
        disk.free / MIB
    )
}
