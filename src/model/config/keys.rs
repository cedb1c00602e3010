//! The table of every key: name, kind, default and meaning. Parsing, the printed configuration, the schema and the
//! nearest-key suggestion all read it, so a key exists in one place.

/// What a value must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
    /// `true` or `false`.
    Bool,
    /// A whole number in this range, both ends included.
    Number(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of texts.
    List,
}

/// One key. A `*` in the name stands for any one name chosen by the owner.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted name.
    pub name: &'static str,
    /// Other names it is known by (slskd's older or newer ones).
    pub aliases: &'static [&'static str],
    /// What it must look like.
    pub kind: Kind,
    /// Its default as text; for lists, empty.
    pub default: &'static str,
    /// What it is for, with its unit.
    pub about: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, aliases: &[], kind, default, about }
}

const fn also(
    name: &'static str,
    aliases: &'static [&'static str],
    kind: Kind,
    default: &'static str,
    about: &'static str,
) -> Key {
    Key { name, aliases, kind, default, about }
}

const PORT: Kind = Kind::Number(1, 65_535);

/// Every key there is.
pub const KEYS: &[Key] = &[
    key("soulseek.address", Kind::Text, "server.slsknet.org", "Host name or IPv4 address of the Soulseek server."),
    key("soulseek.port", PORT, "2242", "TCP port of the server."),
    key("soulseek.username", Kind::Text, "", "Your Soulseek user name. Empty: the node waits for it."),
    key("soulseek.password", Kind::Secret, "", "Your Soulseek password."),
    key("soulseek.description", Kind::Text, "", "What other users read about you."),
    key("soulseek.listen_ip_address", Kind::Text, "0.0.0.0", "IPv4 address to listen on for other users."),
    key(
        "soulseek.listen_port",
        Kind::Number(0, 65_535),
        "50300",
        "TCP port for other users; 0 lets the system choose.",
    ),
    key("soulseek.port_mapping", Kind::Word(&["auto", "off"]), "off", "Ask the router to forward the port."),
    key(
        "soulseek.distributed_network.child_limit",
        Kind::Number(0, 10),
        "10",
        "Users we pass searches on to, at most; the server's speed rule may allow fewer.",
    ),
    key("soulseek.distributed_network.disable_children", Kind::Bool, "false", "Pass searches on to nobody."),
    key("directories.downloads", Kind::Text, "", "Finished downloads. Empty: `downloads` in the data directory."),
    key("directories.incomplete", Kind::Text, "", "Partial files. Empty: `incomplete` in the data directory."),
    key(
        "shares.directories",
        Kind::List,
        "",
        "Folders to share: a path, or `[name]path` to choose the name others see; `!path` leaves a folder out.",
    ),
    key("shares.filters", Kind::List, "", "Regular expressions; a file whose path matches one is not shared."),
    key("shares.watch", Kind::Bool, "true", "Notice changed files at once where the file system tells."),
    key("shares.check_interval_hours", Kind::Number(1, 8_760), "6", "Hours between full checks of the shared folders."),
    also("global.upload.slots", &["transfers.upload.slots"], Kind::Number(1, 100), "4", "Uploads at once."),
    also(
        "global.upload.speed_limit",
        &["transfers.upload.speed_limit"],
        Kind::Number(0, 10_000_000),
        "0",
        "All uploads together, KiB per second; 0 is no limit.",
    ),
    also(
        "global.download.slots",
        &["transfers.download.slots"],
        Kind::Number(1, 100),
        "8",
        "Downloads in progress at once.",
    ),
    also(
        "global.download.speed_limit",
        &["transfers.download.speed_limit"],
        Kind::Number(0, 10_000_000),
        "0",
        "All downloads together, KiB per second; 0 is no limit.",
    ),
    also(
        "global.limits.queued.files",
        &["transfers.limits.queued.files"],
        Kind::Number(1, 5_000),
        "5000",
        "Uploads waiting or running for all users, files.",
    ),
    also(
        "global.limits.queued.megabytes",
        &["transfers.limits.queued.megabytes"],
        Kind::Number(1, 10_000_000),
        "500000",
        "Uploads waiting or running for all users, MiB.",
    ),
    also(
        "groups.default.limits.queued.files",
        &["transfers.groups.default.limits.queued.files"],
        Kind::Number(1, 5_000),
        "500",
        "Uploads waiting or running for one user, files.",
    ),
    also(
        "groups.default.limits.queued.megabytes",
        &["transfers.groups.default.limits.queued.megabytes"],
        Kind::Number(1, 10_000_000),
        "50000",
        "Uploads waiting or running for one user, MiB.",
    ),
    also(
        "groups.blacklisted.members",
        &["transfers.groups.blacklisted.members"],
        Kind::List,
        "",
        "Users who get nothing from us.",
    ),
    key(
        "transfers.download.attempts",
        Kind::Number(1, 100),
        "12",
        "Attempts of one download with one user before it fails.",
    ),
    key(
        "transfers.download.failover",
        Kind::Bool,
        "true",
        "Look for the same file at another user when one fails for good.",
    ),
    key(
        "transfers.rescue_mode.enabled",
        Kind::Bool,
        "true",
        "Let mesh peers help where a download from Soulseek hangs.",
    ),
    key(
        "transfers.rescue_mode.max_queue_time_seconds",
        Kind::Number(1, 31_536_000),
        "1800",
        "Seconds in a user's queue after which a download hangs.",
    ),
    key(
        "transfers.rescue_mode.min_throughput_kbps",
        Kind::Number(0, 1_000_000),
        "10",
        "KiB per second below which a download is slow; 0 is never.",
    ),
    key(
        "transfers.rescue_mode.min_duration_seconds",
        Kind::Number(1, 86_400),
        "300",
        "Seconds that it must have been slow.",
    ),
    key(
        "transfers.rescue_mode.stall_timeout_seconds",
        Kind::Number(1, 86_400),
        "120",
        "Seconds without a byte, or with the user offline, after which a download hangs.",
    ),
    key(
        "transfers.rescue_mode.sample_window_size",
        Kind::Number(5, 1_000),
        "12",
        "Samples of a download's speed that are kept; together they must span min_duration_seconds.",
    ),
    key("transfers.rescue_mode.sample_interval_seconds", Kind::Number(1, 3_600), "30", "Seconds between two samples."),
    key(
        "transfers.rescue_mode.guardrails.require_soulseek_origin",
        Kind::Bool,
        "true",
        "Rescue only what is still wanted from a Soulseek user.",
    ),
    key(
        "transfers.rescue_mode.guardrails.require_seen_on_soulseek",
        Kind::Bool,
        "true",
        "Rescue only what this node has met on Soulseek.",
    ),
    key(
        "transfers.rescue_mode.guardrails.require_fingerprint_verification",
        Kind::Bool,
        "true",
        "Rescue only what is known to be a certain recording.",
    ),
    key(
        "transfers.rescue_mode.guardrails.max_overlay_to_soulseek_ratio",
        Kind::Text,
        "2.0",
        "Bytes from the mesh for each byte from Soulseek; above it the mesh is held to half its speed.",
    ),
    key("transfers.rescue_mode.guardrails.max_concurrent_rescue_jobs", Kind::Number(1, 16), "5", "Rescues at once."),
    key(
        "transfers.rescue_mode.guardrails.max_overlay_mb_per_day",
        Kind::Number(0, 10_000_000),
        "5000",
        "MiB that rescues may bring from the mesh within 24 hours.",
    ),
    key(
        "transfers.rescue_mode.guardrails.allow_overlay_only",
        Kind::Bool,
        "false",
        "Dangerous: rescue without a download from Soulseek, and without being held to a ratio.",
    ),
    also(
        "web.address",
        &["web.ip_address"],
        Kind::Text,
        "127.0.0.1",
        "Address the page listens on; 0.0.0.0 for the whole LAN.",
    ),
    key("web.port", Kind::Number(0, 65_535), "5030", "TCP port of the page; 0 lets the system choose."),
    key("web.url_base", Kind::Text, "/", "Path below which a reverse proxy serves the page."),
    key("web.allowed_hosts", Kind::List, "", "Further host names under which the page may be opened."),
    key("web.authentication.disabled", Kind::Bool, "false", "Let anybody who reaches the page use it."),
    key("web.authentication.username", Kind::Text, "slskdn", "User name for signing in."),
    key("web.authentication.password", Kind::Secret, "", "Password for signing in; empty: the one set on the page."),
    key("web.authentication.api_keys.*.key", Kind::Secret, "", "An API key, 16 to 255 characters."),
    key(
        "web.authentication.api_keys.*.role",
        Kind::Word(&["readonly", "readwrite", "administrator"]),
        "readonly",
        "What the key may do.",
    ),
    key(
        "web.authentication.api_keys.*.cidr",
        Kind::Text,
        "0.0.0.0/0,::/0",
        "Addresses the key may be used from, separated by commas.",
    ),
    key("disk.min_free_mib", Kind::Number(0, 1_000_000_000), "512", "Downloads pause below this much free space, MiB."),
    key("disk.backend", Kind::Word(&["auto", "io_uring", "blocking"]), "auto", "How file data is read and written."),
    key(
        "catalog.musicbrainz.base_url",
        Kind::Text,
        "https://musicbrainz.org/ws/2",
        "Address of MusicBrainz's web service, or of a mirror of yours.",
    ),
    key("catalog.musicbrainz.key", Kind::Secret, "", "Bearer token for a mirror that asks for one."),
    key("catalog.acoustid.base_url", Kind::Text, "https://api.acoustid.org/v2", "Address of AcoustID's web service."),
    key(
        "catalog.acoustid.key",
        Kind::Secret,
        "",
        "AcoustID application key, free at acoustid.org. Empty: sounds are not looked up.",
    ),
    key("catalog.discogs.base_url", Kind::Text, "https://api.discogs.com", "Address of Discogs's web service."),
    key("catalog.discogs.key", Kind::Secret, "", "Personal access token of Discogs. Empty: asked more slowly."),
    key("catalog.offline", Kind::Bool, "false", "Ask no catalog; what was asked before is still known."),
    key(
        "catalog.contact",
        Kind::Text,
        "",
        "Your e-mail or web address, told to the catalogs with each request; MusicBrainz wants one.",
    ),
    key(
        "network.private_ranges",
        Kind::List,
        "",
        "Address ranges (`10.0.0.0/8`) of your own network that may be dialled.",
    ),
    key("library_health.enabled", Kind::Bool, "true", "Scan the music library for what is wrong with it, when asked."),
    key(
        "library_health.max_concurrent_files",
        Kind::Number(0, 16),
        "0",
        "Files measured at once, at most one per core; 0 is one per core but one.",
    ),
    key("library_health.auto_scan.enabled", Kind::Bool, "false", "Scan the library by itself."),
    key("library_health.auto_scan.interval_hours", Kind::Number(1, 8_760), "168", "Hours between two such scans."),
    key(
        "library_health.auto_scan.library_paths",
        Kind::List,
        "",
        "Folders to scan; empty: the shared folders and the finished downloads.",
    ),
    key(
        "library_health.thresholds.quality_gap_for_upgrade",
        Kind::Text,
        "0.2",
        "A better copy of a recording is told when its score, 0 to 1, is better by more than this.",
    ),
    key(
        "library_health.thresholds.duration_tolerance_ms",
        Kind::Number(0, 600_000),
        "3000",
        "Difference to the catalogue's duration that is no problem, milliseconds.",
    ),
    key(
        "library_health.remediation.replace_existing",
        Kind::Bool,
        "true",
        "A repair puts the good copy in the bad file's place; false: beside it, and the bad one stays.",
    ),
    key(
        "library_health.remediation.backup_before_replace",
        Kind::Bool,
        "true",
        "A replaced file is kept as NAME.bak; false: it is removed, and the repair cannot be undone.",
    ),
    key(
        "library_health.remediation.auto_fix_transcodes",
        Kind::Bool,
        "false",
        "Repair suspected transcodes by itself after a scan, a few at a time.",
    ),
    key(
        "audio.canonical_scoring.enabled",
        Kind::Bool,
        "true",
        "Compare offered files with the copies of their recording that are known here and to mesh peers.",
    ),
    key(
        "audio.canonical_scoring.prefer_canonical",
        Kind::Bool,
        "true",
        "Show and choose the copy of a recording first that most agree on.",
    ),
    key(
        "audio.canonical_scoring.min_quality_improvement",
        Kind::Text,
        "0.1",
        "A copy is fetched beside a good one only when its score, 0 to 1, is better by at least this.",
    ),
    key(
        "audio.canonical_scoring.local_quality_threshold",
        Kind::Text,
        "0.85",
        "Score, 0 to 1, from which on a copy that is here is a good one.",
    ),
    key(
        "audio.canonical_scoring.stats_recompute_interval_hours",
        Kind::Number(1, 8_760),
        "24",
        "Hours between two computations of the statistics of all recordings.",
    ),
    key("mesh.enabled", Kind::Bool, "false", "Exchange files with mesh peers."),
    key("mesh.address", Kind::Text, "0.0.0.0", "Address to listen on for mesh peers."),
    key("mesh.port", Kind::Number(0, 65_535), "50305", "UDP port for mesh peers; 0 lets the system choose."),
    key(
        "mesh.peers",
        Kind::List,
        "",
        "Peers to call, each as `ID@host:port`; the ID stands on the peer's status page.",
    ),
    key("mesh.banned", Kind::List, "", "IDs of peers that are neither called nor let in."),
    key("mesh.max_connections", Kind::Number(1, 50), "50", "Connections with mesh peers at once."),
    key("mesh.upload_slots", Kind::Number(1, 50), "2", "Mesh peers served at once."),
    key("mesh.gso", Kind::Bool, "true", "Let the kernel cut packets; off where a driver does it wrong."),
    key(
        "mesh.port_mapping",
        Kind::Word(&["auto", "manual", "off"]),
        "off",
        "`auto` asks the router to forward mesh.port; `manual` says that you had it forwarded yourself.",
    ),
    key("mesh.mdns", Kind::Bool, "true", "Find peers on your own network, and be found there, while the mesh is on."),
    key("mesh.dht.enabled", Kind::Bool, "false", "Find peers by the public DHT of BitTorrent, and be found there."),
    key(
        "mesh.dht.announce_content",
        Kind::Bool,
        "false",
        "Announce recordings and releases that you share: links your address to their titles, for everybody to see.",
    ),
    key("mesh.dht.announce_interval", Kind::Number(5, 86_400), "900", "Seconds between two announcements of one key."),
    key("mesh.dht.discovery_interval", Kind::Number(5, 86_400), "600", "Seconds between two looks for peers."),
    key("mesh.dht.min_neighbors", Kind::Number(1, 50), "3", "Peers are looked for while fewer are connected."),
    key(
        "mesh.dht.max_neighbors",
        Kind::Number(1, 50),
        "10",
        "Found peers are called while fewer of them are connected.",
    ),
    key(
        "mesh.dht.bootstrap_nodes",
        Kind::List,
        "",
        "Nodes to enter the DHT by, each as `host:port`; empty: well-known public ones.",
    ),
    key(
        "mesh.dht.rendezvous_keys",
        Kind::List,
        "",
        "Texts whose hashes are the meeting places; empty: those of this program. Others make a mesh of your own.",
    ),
    key(
        "mesh.gossip",
        Kind::Bool,
        "true",
        "Tell mesh peers which recordings are shared, in which quality, and keep what they tell; no names or folders.",
    ),
    key(
        "mesh.reputation.enabled",
        Kind::Bool,
        "true",
        "Remember how mesh peers and users of jobs behaved, and avoid bad ones.",
    ),
    key(
        "mesh.reputation.quarantine_threshold",
        Kind::Text,
        "0.3",
        "A peer whose reputation, 0 to 1, is below this is used only when nobody else has the piece.",
    ),
    key(
        "mesh.reputation.decay_half_life_days",
        Kind::Number(1, 3_650),
        "7",
        "Days in which what is known of a peer's behaviour counts half.",
    ),
    key("mesh.fairness.enabled", Kind::Bool, "true", "Watch that this node gives as much as it takes."),
    key(
        "mesh.fairness.min_contribution_ratio",
        Kind::Text,
        "1.0",
        "Bytes sent for each byte received, both networks together, within 7 days.",
    ),
    key(
        "mesh.fairness.min_overlay_upload_download_ratio",
        Kind::Text,
        "0.8",
        "Bytes sent to mesh peers for each byte received from them, within 24 hours; less is a warning.",
    ),
    key(
        "mesh.fairness.max_overlay_to_soulseek_upload_ratio",
        Kind::Text,
        "2.0",
        "Bytes sent to mesh peers for each byte sent on Soulseek, within 7 days; above it new peers are refused.",
    ),
    key(
        "mesh.fairness.throttle_overlay_downloads",
        Kind::Bool,
        "true",
        "Fetch from the mesh at half the speed while too little is given.",
    ),
    key("mesh.fairness.pause_overlay_downloads", Kind::Bool, "false", "Fetch nothing from the mesh in that case."),
    key("mesh.fairness.enforcement_interval_minutes", Kind::Number(1, 1_440), "10", "Minutes between two looks."),
    key(
        "mesh.fairness.daily_overlay_download_gb",
        Kind::Number(0, 1_000_000),
        "50",
        "GiB that may be fetched from the mesh within 24 hours.",
    ),
    key(
        "mesh.fairness.grace_gib",
        Kind::Number(0, 1_000_000),
        "5",
        "GiB received in a window before its ratios count.",
    ),
    key(
        "multi_source.swarm_scheduler.cost_function.enabled",
        Kind::Bool,
        "true",
        "Prefer cheap sources; without it sources are chosen at random.",
    ),
    key(
        "multi_source.swarm_scheduler.cost_function.throughput_weight",
        Kind::Text,
        "1.0",
        "What a second per MiB costs.",
    ),
    key(
        "multi_source.swarm_scheduler.cost_function.error_rate_weight",
        Kind::Text,
        "0.5",
        "What the share of failed requests costs, times high_error_rate_penalty.",
    ),
    key(
        "multi_source.swarm_scheduler.cost_function.timeout_rate_weight",
        Kind::Text,
        "0.3",
        "What the share of late requests costs, times high_error_rate_penalty.",
    ),
    key(
        "multi_source.swarm_scheduler.cost_function.rtt_weight",
        Kind::Text,
        "0.2",
        "What a second until the first byte costs.",
    ),
    key(
        "multi_source.swarm_scheduler.cost_function.zero_throughput_penalty",
        Kind::Text,
        "1000",
        "What a source costs that never delivered.",
    ),
    key(
        "multi_source.swarm_scheduler.cost_function.high_error_rate_penalty",
        Kind::Text,
        "10",
        "What both shares are multiplied with.",
    ),
    key(
        "multi_source.swarm_scheduler.rebalance_enabled",
        Kind::Bool,
        "true",
        "Take work back from sources that became slow.",
    ),
    key(
        "multi_source.swarm_scheduler.rebalance_interval_seconds",
        Kind::Number(5, 3_600),
        "30",
        "Seconds between two looks for such sources.",
    ),
    key(
        "multi_source.swarm_scheduler.rebalance_cost_threshold",
        Kind::Text,
        "2.0",
        "A source became slow when it costs more than so many times what it did.",
    ),
    key(
        "multi_source.swarm_scheduler.rebalance_chunks",
        Kind::Number(1, 10_000),
        "10",
        "Requests after which they are looked for before the time, at least 5 seconds apart.",
    ),
    key("jobs.manifests.enabled", Kind::Bool, "true", "Write every job down as a YAML file too."),
    key(
        "jobs.manifests.path",
        Kind::Text,
        "jobs/",
        "Folder of these files, with `active` and `completed` in it; below the data directory unless it is a whole path.",
    ),
    key(
        "jobs.search_rounds",
        Kind::Number(1, 100),
        "4",
        "Times the network is searched for what a job lacks, before the job is over.",
    ),
    key("jobs.search_again_minutes", Kind::Number(1, 10_080), "60", "Minutes between two such times."),
    key(
        "jobs.write_tags",
        Kind::Bool,
        "true",
        "Write the tags of a finished file that do not name its recording and release; false: leave every file as it came.",
    ),
    key("diagnostics.swarm_events.enabled", Kind::Bool, "true", "Write down who was asked for what and what came."),
    key("diagnostics.swarm_events.retention_days", Kind::Number(1, 3_650), "30", "Days a job's trace is kept."),
    key(
        "diagnostics.swarm_events.max_events_per_job",
        Kind::Number(20, 1_000_000),
        "10000",
        "Lines of one job's trace, at most; its sums count further ones too.",
    ),
    key("diagnostics.swarm_events.retention_jobs", Kind::Number(1, 10_000), "100", "Jobs whose traces are kept."),
    key(
        "diagnostics.swarm_events.log_to_file",
        Kind::Bool,
        "false",
        "Write each job's trace as text too, into `traces` in the data directory; wears SD cards.",
    ),
    key("memory.budget", Kind::Number(32, 1_048_576), "160", "Memory the program may plan with, MiB."),
    key("log.level", Kind::Word(&["error", "warn", "info", "debug", "trace"]), "info", "How much is logged."),
];

/// Sections and keys of slskd's file that mean something we do not have: a warning each, not an error.
pub const SLSKD_ONLY: &[&str] = &[
    "blacklist",
    "debug",
    "destinations",
    "diagnostics.allow_memory_dump",
    "directories.staging",
    "docker",
    "experimental",
    "feature",
    "features",
    "filters",
    "flags",
    "global.limits",
    "global.upload",
    "global.download",
    "groups",
    "headless",
    "instance_name",
    "integration",
    "integrations",
    "logger",
    "metrics",
    "permissions",
    "relay",
    "remote_configuration",
    "remote_file_management",
    "retention",
    "rooms",
    "searches",
    "shares.cache",
    "soulseek.connection",
    "soulseek.diagnostic_level",
    "soulseek.distributed_network",
    "soulseek.picture",
    "storage",
    "telemetry",
    "throttling",
    "transfers",
    "web.authentication.jwt",
    "web.authentication.passthrough",
    "web.content_path",
    "web.cors",
    "web.enforce_security",
    "web.https",
    "web.logging",
    "web.rate_limiting",
    "web.socket",
];

/// The key of this name or alias, `*` matching any one segment.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| matches(key.name, name) || key.aliases.iter().any(|alias| matches(alias, name)))
}

/// Whether some key lies below this name, so that a mapping belongs there.
pub fn is_section(name: &str) -> bool {
    let depth = name.split('.').count();
    KEYS.iter().flat_map(|key| std::iter::once(&key.name).chain(key.aliases)).any(|full| {
        full.split('.').count() > depth && matches(&full.split('.').take(depth).collect::<Vec<_>>().join("."), name)
    })
}

/// The section or key of slskd's that covers this name and that we do not have.
pub fn slskd_only(name: &str) -> Option<&'static str> {
    SLSKD_ONLY
        .iter()
        .find(|section| name == **section || name.strip_prefix(**section).is_some_and(|rest| rest.starts_with('.')))
        .copied()
}

fn matches(pattern: &str, name: &str) -> bool {
    let mut given = name.split('.');
    pattern.split('.').all(|want| given.next().is_some_and(|have| want == "*" || want == have))
        && given.next().is_none()
}

/// The key whose name is nearest to a mistyped one, if any is near enough to be meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    let last = name.rsplit('.').next().unwrap_or(name);
    KEYS.iter()
        .map(|key| {
            let end = key.name.rsplit('.').next().unwrap_or(key.name);
            let whole = distance(name, key.name);
            // A right name in the wrong section is meant as well.
            (if end == last { whole.min(1) } else { whole }, key.name)
        })
        .filter(|(far, _)| *far <= 2 + name.len() / 6)
        .min()
        .map(|(_, found)| found)
}

/// Edit distance with insertion, deletion, substitution (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
