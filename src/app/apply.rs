//! Puts a configuration to work: what each room is told at the start, and what changes while the program runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;

use super::appliance::places::Places;
use super::doctor::service::{Figures, Schedule};
use super::doctor::walk::from_path;
use super::sharing::ShareSettings;
use super::soulseek::{NodeHandle, Parts};
use crate::engine::library::{CanonicalRules, Thresholds};
use crate::engine::soulseek::io::Command;
use crate::engine::soulseek::node::Node;
use crate::engine::soulseek::{Secret, Settings};
use crate::model::config::Config;
use crate::model::health::{HealthSummary, LocalPath};
use crate::model::id::Username;
use crate::model::mesh::MeshView;
use crate::model::repair::RepairCounts;
use crate::model::rescue::{RescueCounts, TrafficView};
use crate::model::units::KIB;
use crate::net::soulseek::{Deadlines, NetSettings};

/// Where everything lies.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The data directory.
    pub data: PathBuf,
    /// Finished downloads.
    pub downloads: PathBuf,
    /// Partial files.
    pub incomplete: PathBuf,
}

impl Folders {
    /// The configured ones, else those below the data directory; absolute, since tools are told them.
    pub fn new(data: &Path, config: &Config) -> Self {
        let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let or =
            |given: &str, name: &str| whole(&if given.is_empty() { data.join(name) } else { PathBuf::from(given) });
        Self {
            data: whole(data),
            downloads: or(&config.downloads, "downloads"),
            incomplete: or(&config.incomplete, "incomplete"),
        }
    }

    /// Scratch: what may be deleted at any time while the program is stopped.
    pub fn cache(&self) -> PathBuf {
        self.data.join("cache")
    }
}

/// For the engine.
pub fn engine(config: &Config, listen_port: u16) -> Settings {
    Settings {
        username: Username::new(config.soulseek.username.clone()),
        password: Secret(config.soulseek.password.clone()),
        listen_port,
        description: config.soulseek.description.clone(),
        upload_slots: config.upload_slots,
        download_slots: config.download_slots,
        user_queue_files: config.user_queue_files,
        user_queue_mib: config.user_queue_mib,
        queue_files: config.queue_files,
        queue_mib: config.queue_mib,
        banned: config.banned.iter().map(|name| Username::new(name.clone())).collect(),
        children_max: config.soulseek.children_max,
        upload_limit: (config.upload_limit_kib > 0).then_some(config.upload_limit_kib.saturating_mul(KIB)),
        download_attempts_max: config.download_attempts,
        failover: config.failover,
        private_ranges: config.private_ranges.clone(),
    }
}

/// For the network.
pub fn net(config: &Config, folders: &Folders) -> NetSettings {
    NetSettings {
        bind: config.soulseek.listen_address,
        port: config.soulseek.listen_port,
        server: server(config),
        spool_dir: folders.cache().join("browse"),
        deadlines: Deadlines::default(),
    }
}

fn server(config: &Config) -> String {
    format!("{}:{}", config.soulseek.address, config.soulseek.port)
}

/// A scan rests half as long as it worked: it leaves a third of the disk to transfers (STYLE, garage).
const SCAN_REST: f64 = 0.5;

/// For the share index. Our own folders are never shared while they are being written, whatever the owner names.
pub fn shares(config: &Config, folders: &Folders) -> ShareSettings {
    let mut excluded: Vec<PathBuf> = config.shares.excluded.iter().map(PathBuf::from).collect();
    excluded.push(folders.incomplete.clone());
    excluded.push(folders.downloads.join(super::jobs::STAGING));
    // Passwords, messages and copies of them.
    let private = ["store", "identity", "cache", "snapshots", "slskdn.yml"];
    excluded.extend(private.map(|name| folders.data.join(name)));
    excluded.extend(Places::new(None).not_music());
    ShareSettings {
        directories: config.shares.directories.iter().map(|(alias, path)| (alias.clone(), path.into())).collect(),
        excluded,
        filters: config.shares.filters.clone(),
        watch: config.shares.watch,
        check_every: std::time::Duration::from_secs(config.shares.check_interval_hours.saturating_mul(3_600)),
        list: folders.cache().join("shares.list"),
        rest: SCAN_REST,
    }
}

/// When and what the Doctor scans by itself.
pub fn schedule(config: &Config, folders: &Folders) -> Schedule {
    let health = &config.library_health;
    let hours = |n: u64| std::time::Duration::from_secs(n.saturating_mul(3_600));
    let mut paths: Vec<LocalPath> = health.library_paths.iter().map(|path| LocalPath::from(path.as_str())).collect();
    if paths.is_empty() {
        paths.extend(config.shares.directories.iter().map(|(_, path)| LocalPath::from(path.as_str())));
        paths.push(from_path(&folders.downloads));
    }
    Schedule {
        enabled: health.enabled,
        paths,
        every: health.auto_scan.then(|| hours(health.interval_hours)),
        recount_every: hours(config.recompute_interval_hours),
        offline: config.catalog.offline,
    }
}

/// Limits of the Doctor's detectors.
#[expect(clippy::cast_precision_loss, reason = "at most 1,000")]
pub fn thresholds(config: &Config) -> Thresholds {
    Thresholds {
        quality_gap: config.library_health.quality_gap_permille as f32 / 1_000.0,
        duration_tolerance_ms: config.library_health.duration_tolerance_ms,
    }
}

/// How copies of a recording are chosen among.
#[expect(clippy::cast_precision_loss, reason = "at most 1,000")]
pub fn canonical(config: &Config) -> CanonicalRules {
    let scoring = &config.canonical_scoring;
    CanonicalRules {
        enabled: scoring.enabled,
        prefer: scoring.prefer_canonical,
        improvement_min: scoring.improvement_permille as f32 / 1_000.0,
        local_enough: scoring.local_quality_permille as f32 / 1_000.0,
    }
}

/// Changes what runs.
#[derive(Clone)]
pub struct Applier {
    parts: Arc<Parts>,
    node: NodeHandle,
    folders: Folders,
    later: Arc<Mutex<Vec<&'static str>>>,
}

impl Applier {
    /// For what runs on these parts.
    pub fn new(parts: Arc<Parts>, node: NodeHandle, folders: Folders) -> Self {
        Self { parts, node, folders, later: Arc::default() }
    }

    /// Tells every room what is new. What cannot change while the program runs is remembered, see `waiting`.
    ///
    /// # Errors
    /// One sentence: the new port cannot be had, or a share filter is not a regular expression.
    pub async fn apply(&self, old: &Config, new: &Config) -> Result<(), String> {
        if old.shares != new.shares {
            let settings = shares(new, &self.folders);
            self.parts.sharing.configure(settings).map_err(|error| error.to_string())?;
        }
        let network = self.parts.network.lock().await.clone();
        let mut net_settings = self.parts.net.lock().await;
        if old.soulseek.listen_port != new.soulseek.listen_port {
            let wanted = new.soulseek.listen_port;
            net_settings.port = match &network {
                Some(network) => match network.rebind(wanted).await {
                    Ok(port) => port,
                    Err(error) => {
                        // All or nothing: the folders were understood before.
                        if old.shares != new.shares {
                            let _ = self.parts.sharing.configure(shares(old, &self.folders));
                        }
                        return Err(error.to_string());
                    }
                },
                // It is being made anew, and takes the port then.
                None => wanted,
            };
        }
        net_settings.server = server(new);
        drop(net_settings);
        if let Some(network) = &network {
            network.set_server(server(new));
        }
        self.parts.pump.limiter().down.set_rate(new.download_limit_kib.saturating_mul(KIB));
        self.parts.pump.limiter().up.set_rate(new.upload_limit_kib.saturating_mul(KIB));
        let port = network.as_ref().map_or(new.soulseek.listen_port, crate::net::soulseek::Network::local_port);
        let settings = engine(new, port);
        *self.parts.settings.lock().await = settings.clone();
        // Without an engine it reads these settings when it is made anew.
        let _ = self.node.command(Command::Configure(Box::new(settings))).await;
        let mut later = self.later.lock().await;
        let differs = [
            ("web", old.web != new.web),
            ("directories", (&old.downloads, &old.incomplete) != (&new.downloads, &new.incomplete)),
            ("disk", (old.min_free_mib, &old.disk_backend) != (new.min_free_mib, &new.disk_backend)),
            (
                "library_health",
                (&old.library_health, old.recompute_interval_hours, &old.canonical_scoring)
                    != (&new.library_health, new.recompute_interval_hours, &new.canonical_scoring),
            ),
            ("mesh", old.mesh != new.mesh),
            ("catalog", old.catalog != new.catalog),
            ("memory", old.memory_budget_mib != new.memory_budget_mib),
            ("log", old.log_level != new.log_level),
            (
                "soulseek.listen_ip_address or port_mapping",
                (old.soulseek.listen_address, old.soulseek.port_mapping)
                    != (new.soulseek.listen_address, new.soulseek.port_mapping)
                    // The router forwards the old port until then.
                    || (new.soulseek.port_mapping && old.soulseek.listen_port != new.soulseek.listen_port),
            ),
        ];
        for (section, differs) in differs {
            if differs && !later.contains(&section) {
                later.push(section);
            }
        }
        Ok(())
    }

    /// Sections whose new values wait for a restart.
    pub async fn waiting(&self) -> Vec<&'static str> {
        self.later.lock().await.clone()
    }

    /// Where a user's share list was spooled; `None` while the engine is being restarted.
    pub async fn spool_path(&self, user: &Username) -> Option<PathBuf> {
        Some(self.parts.network.lock().await.as_ref()?.spool_path(user))
    }

    /// Where everything lies.
    pub fn folders(&self) -> &Folders {
        &self.folders
    }

    /// Prometheus text of everything outside the web layer.
    pub async fn metrics(
        &self,
        store: &crate::store::Stats,
        doctor: (Figures, HealthSummary),
        mesh: &MeshView,
        helped: (&RescueCounts, &TrafficView, RepairCounts),
    ) -> String {
        let node = self.node.look(Node::view).await.unwrap_or_default();
        super::publish::metrics(self, node, store, doctor, mesh, helped).await
    }

    /// What runs.
    pub fn parts(&self) -> &Arc<Parts> {
        &self.parts
    }
}
