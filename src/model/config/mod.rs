//! The configuration: layers of (key, value, place) in, one validated [`Config`] out, or every mistake at once.
//!
//! Reading files and the environment is the shell's; this room knows names, kinds, defaults and which layer wins.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

mod diagnostics;
mod health;
mod jobs;
pub mod keys;
mod mesh;
mod rescue;
mod swarm;

pub use diagnostics::SwarmEvents;
pub use health::{LibraryHealth, Remediation};
pub use jobs::Jobs;
use keys::Kind;
pub use mesh::{Mesh, MeshDht, MeshPortMapping};
pub use rescue::{Fairness, Guardrails, RescueMode};
pub use swarm::Swarm;

/// Where a value was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// `built-in`, `file`, `environment`, `flag`, with the file's name or the variable's.
    pub source: String,
    /// From 1; 0 where there are no lines.
    pub line: usize,
    /// From 1; 0 where there are no columns.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        Ok(())
    }
}

/// A value as written: one text, or several in a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Raw {
    /// One text; `null` is empty.
    One(String),
    /// A list.
    Many(Vec<String>),
}

/// A key as written, with its value and place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Dotted key.
    pub key: String,
    /// Value.
    pub value: Raw,
    /// Where.
    pub place: Place,
}

/// Something wrong (or, as a warning, something without effect) in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// Which key; empty for a whole file.
    pub key: String,
    /// What, in one sentence.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key, message } = self;
        if place.source.is_empty() {
            write!(f, "{key}: {message}")
        } else if key.is_empty() {
            write!(f, "{place}: {message}")
        } else {
            write!(f, "{place}: {key}: {message}")
        }
    }
}

/// One effective value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Canonical key, owner's names in place of `*`.
    pub key: String,
    /// Value.
    pub value: Raw,
    /// Where it comes from.
    pub place: Place,
    /// Never shown.
    pub secret: bool,
}

/// What the layers come to.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Validated.
    pub config: Config,
    /// Every key with its value and source, in the order of the table.
    pub effective: Vec<Effective>,
    /// Without effect, but worth saying.
    pub warnings: Vec<Problem>,
}

/// The validated configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Section `soulseek`.
    pub soulseek: Soulseek,
    /// Finished downloads; empty means the default below the data directory.
    pub downloads: String,
    /// Partial files; empty means the default below the data directory.
    pub incomplete: String,
    /// Section `shares`.
    pub shares: Shares,
    /// Uploads at once.
    pub upload_slots: u32,
    /// KiB/s, 0 is none.
    pub upload_limit_kib: u64,
    /// Downloads in progress at once.
    pub download_slots: u32,
    /// KiB/s, 0 is none.
    pub download_limit_kib: u64,
    /// Files queued by everybody.
    pub queue_files: u32,
    /// MiB queued by everybody.
    pub queue_mib: u64,
    /// Files queued by one user.
    pub user_queue_files: u32,
    /// MiB queued by one user.
    pub user_queue_mib: u64,
    /// Users who get nothing.
    pub banned: Vec<String>,
    /// Attempts of one download.
    pub download_attempts: u32,
    /// Look elsewhere when a source fails.
    pub failover: bool,
    /// Section `web`.
    pub web: Web,
    /// Section `catalog`.
    pub catalog: Catalog,
    /// MiB of free space below which downloads pause.
    pub min_free_mib: u64,
    /// `auto`, `io_uring` or `blocking`.
    pub disk_backend: String,
    /// Ranges that may be dialled although not global: network and prefix length.
    pub private_ranges: Vec<(Ipv4Addr, u8)>,
    /// Section `library_health`.
    pub library_health: LibraryHealth,
    /// Hours between two computations of the statistics of all recordings.
    pub recompute_interval_hours: u64,
    /// The rest of section `audio.canonical_scoring`.
    pub canonical_scoring: CanonicalScoring,
    /// Section `mesh`.
    pub mesh: Mesh,
    /// Sections `multi_source.swarm_scheduler` and `mesh.reputation`.
    pub swarm: Swarm,
    /// Section `transfers.rescue_mode`.
    pub rescue: RescueMode,
    /// Section `mesh.fairness`.
    pub fairness: Fairness,
    /// Section `diagnostics.swarm_events`.
    pub swarm_events: SwarmEvents,
    /// Section `jobs`.
    pub jobs: Jobs,
    /// MiB the program may plan with.
    pub memory_budget_mib: u64,
    /// `error` to `trace`.
    pub log_level: String,
}

/// Section `audio.canonical_scoring`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalScoring {
    /// Results are compared with known copies.
    pub enabled: bool,
    /// Canonical ones come first.
    pub prefer_canonical: bool,
    /// Thousandths of the score.
    pub improvement_permille: u32,
    /// Thousandths of the score.
    pub local_quality_permille: u32,
}

/// Section `soulseek`.
#[derive(Clone, PartialEq, Eq)]
pub struct Soulseek {
    /// Host name or address.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// Empty: not configured.
    pub username: String,
    /// Never shown.
    pub password: String,
    /// What others read.
    pub description: String,
    /// To listen on.
    pub listen_address: Ipv4Addr,
    /// To listen on; 0 lets the system choose.
    pub listen_port: u16,
    /// Ask the router.
    pub port_mapping: bool,
    /// Children in the distributed network, at most.
    pub children_max: u32,
}

impl fmt::Debug for Soulseek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Soulseek").field("address", &self.address).field("port", &self.port).finish_non_exhaustive()
    }
}

/// Section `catalog`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// MusicBrainz.
    pub musicbrainz: CatalogService,
    /// AcoustID; without a key it is not asked.
    pub acoustid: CatalogService,
    /// Discogs.
    pub discogs: CatalogService,
    /// Nothing is asked.
    pub offline: bool,
    /// Told with each request; may be empty.
    pub contact: String,
}

/// One service of the section `catalog`.
#[derive(Clone, PartialEq, Eq)]
pub struct CatalogService {
    /// `http://` or `https://`, without a slash at the end.
    pub base_url: String,
    /// Never shown; may be empty.
    pub key: String,
}

impl fmt::Debug for CatalogService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogService").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

/// Section `shares`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Name others see (empty: the folder's own) and path.
    pub directories: Vec<(String, String)>,
    /// Folders left out.
    pub excluded: Vec<String>,
    /// Regular expressions.
    pub filters: Vec<String>,
    /// Notice changes at once.
    pub watch: bool,
    /// Between full checks.
    pub check_interval_hours: u64,
}

/// Section `web`.
#[derive(Clone, PartialEq, Eq)]
pub struct Web {
    /// To listen on.
    pub address: IpAddr,
    /// 0 lets the system choose.
    pub port: u16,
    /// Begins and ends with `/`.
    pub url_base: String,
    /// Further host names.
    pub allowed_hosts: Vec<String>,
    /// Anybody may.
    pub open: bool,
    /// For signing in.
    pub username: String,
    /// For signing in; empty: the one set on the page.
    pub password: String,
    /// API keys.
    pub api_keys: Vec<ApiKey>,
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").field("address", &self.address).field("port", &self.port).finish_non_exhaustive()
    }
}

/// An API key.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The owner's name for it.
    pub name: String,
    /// The key itself.
    pub key: String,
    /// `readonly`, `readwrite`, `administrator`.
    pub role: String,
    /// Address and prefix length.
    pub cidrs: Vec<(IpAddr, u8)>,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

/// Joins layers, lowest first, into one validated configuration.
///
/// # Errors
/// Every mistake at once: unknown keys with the nearest known one, values of the wrong kind or out of range.
pub fn resolve(layers: &[Vec<Given>]) -> Result<Resolved, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let mut values: BTreeMap<String, (Raw, Place)> = BTreeMap::new();
    for given in layers.iter().flatten() {
        match check(given) {
            Ok(Some(canonical)) => {
                values.insert(canonical, (given.value.clone(), given.place.clone()));
            }
            Ok(None) => {
                let Given { key, place, .. } = given;
                let section = keys::slskd_only(key).unwrap_or(key).to_owned();
                if !warnings.iter().any(|w: &Problem| w.key == section && w.place.source == place.source) {
                    let message = "slskd's setting, which this program does not have; it has no effect".to_owned();
                    warnings.push(Problem { place: place.clone(), key: section, message });
                }
            }
            Err(message) => problems.push(Problem { place: given.place.clone(), key: given.key.clone(), message }),
        }
    }
    let effective = effective(&values);
    let mut reader = Reader { values: &values, problems: &mut problems };
    let config = reader.config();
    if problems.is_empty() { Ok(Resolved { config, effective, warnings }) } else { Err(problems) }
}

/// The canonical name of a well-formed given, `None` for slskd's own, or what is wrong.
fn check(given: &Given) -> Result<Option<String>, String> {
    let Some(key) = keys::find(&given.key) else {
        if keys::slskd_only(&given.key).is_some() {
            return Ok(None);
        }
        if keys::is_section(&given.key) {
            // An empty section, as in a file with everything below it commented out.
            let empty = matches!(&given.value, Raw::One(text) if text.is_empty());
            return if empty { Ok(None) } else { Err("a section with keys below it, not a value".to_owned()) };
        }
        return Err(match keys::nearest(&given.key) {
            Some(near) => format!("unknown key; did you mean {near}?"),
            None => "unknown key".to_owned(),
        });
    };
    match (&given.value, key.kind) {
        (_, Kind::List) | (Raw::One(_), Kind::Text | Kind::Secret) => {}
        (Raw::Many(_), _) => return Err("one value is wanted here, not a list".to_owned()),
        (Raw::One(text), Kind::Bool) => {
            if text.parse::<bool>().is_err() {
                return Err(format!("`true` or `false` is wanted, not `{text}`"));
            }
        }
        (Raw::One(text), Kind::Number(low, high)) => match text.parse::<u64>() {
            Ok(n) if (low..=high).contains(&n) => {}
            _ => return Err(format!("a whole number from {low} to {high} is wanted, not `{text}`")),
        },
        (Raw::One(text), Kind::Word(words)) => {
            // Tools write slskd's enumerations in any case.
            if !words.iter().any(|word| word.eq_ignore_ascii_case(text)) {
                return Err(format!("one of {} is wanted, not `{text}`", words.join(", ")));
            }
        }
    }
    // Aliases have no star, so the name stands for itself or for its canonical key.
    let starred = key.name.contains('*');
    Ok(Some(if starred { given.key.clone() } else { key.name.to_owned() }))
}

fn effective(values: &BTreeMap<String, (Raw, Place)>) -> Vec<Effective> {
    let mut rows = Vec::new();
    for key in keys::KEYS {
        let secret = key.kind == Kind::Secret;
        if key.name.contains('*') {
            for (name, (value, place)) in values {
                if keys::find(name).is_some_and(|found| found.name == key.name) {
                    rows.push(Effective { key: name.clone(), value: value.clone(), place: place.clone(), secret });
                }
            }
            continue;
        }
        let (value, place) = values.get(key.name).cloned().unwrap_or_else(|| {
            let built_in = Place { source: "built-in".to_owned(), ..Place::default() };
            let value = if key.kind == Kind::List { Raw::Many(Vec::new()) } else { Raw::One(key.default.to_owned()) };
            (value, built_in)
        });
        rows.push(Effective { key: key.name.to_owned(), value, place, secret });
    }
    rows
}

/// Reads checked values into the typed form; mistakes that need meaning are found here.
struct Reader<'a> {
    values: &'a BTreeMap<String, (Raw, Place)>,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> String {
        match self.values.get(name) {
            Some((Raw::One(text), _)) => text.clone(),
            Some((Raw::Many(items), _)) => items.join(","),
            None => keys::find(name).map(|key| key.default.to_owned()).unwrap_or_default(),
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.values.get(name) {
            Some((Raw::Many(items), _)) => items.clone(),
            // Environment variables and flags write lists with semicolons, as slskd does.
            Some((Raw::One(text), _)) => {
                text.split(';').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
            }
            None => Vec::new(),
        }
    }

    /// A checked number; a value that failed its check was reported already and reads as 0.
    fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }

    fn small(&self, name: &str) -> u32 {
        u32::try_from(self.number(name)).unwrap_or(u32::MAX)
    }

    fn port(&self, name: &str) -> u16 {
        u16::try_from(self.number(name)).unwrap_or(0)
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    fn wrong(&mut self, name: &str, message: String) {
        let place = self.values.get(name).map(|(_, place)| place.clone()).unwrap_or_default();
        self.problems.push(Problem { place, key: name.to_owned(), message });
    }

    fn parsed<T: std::str::FromStr>(&mut self, name: &str, what: &str, fallback: T) -> T {
        let text = self.text(name);
        text.parse().unwrap_or_else(|_| {
            self.wrong(name, format!("{what} is wanted, not `{text}`"));
            fallback
        })
    }

    fn config(&mut self) -> Config {
        let listen_address = self.parsed("soulseek.listen_ip_address", "an IPv4 address", Ipv4Addr::UNSPECIFIED);
        let username = self.text("soulseek.username");
        let sane = username.len() <= 30
            && username.chars().all(|c| c == ' ' || c.is_ascii_graphic())
            && username.trim() == username;
        if !sane {
            self.wrong(
                "soulseek.username",
                "at most 30 printable ASCII characters are allowed, without spaces around them".to_owned(),
            );
        }
        if username.is_empty() != self.text("soulseek.password").is_empty() {
            let missing = if username.is_empty() { "soulseek.username" } else { "soulseek.password" };
            self.wrong(missing, "user name and password are needed together, and this one is missing".to_owned());
        }
        let no_children = self.flag("soulseek.distributed_network.disable_children");
        Config {
            soulseek: Soulseek {
                address: self.text("soulseek.address"),
                port: self.port("soulseek.port"),
                username,
                password: self.text("soulseek.password"),
                description: self.text("soulseek.description"),
                listen_address,
                listen_port: self.port("soulseek.listen_port"),
                port_mapping: self.text("soulseek.port_mapping").eq_ignore_ascii_case("auto"),
                children_max: if no_children { 0 } else { self.small("soulseek.distributed_network.child_limit") },
            },
            downloads: self.text("directories.downloads"),
            incomplete: self.text("directories.incomplete"),
            shares: self.shares(),
            upload_slots: self.small("global.upload.slots"),
            upload_limit_kib: self.number("global.upload.speed_limit"),
            download_slots: self.small("global.download.slots"),
            download_limit_kib: self.number("global.download.speed_limit"),
            queue_files: self.small("global.limits.queued.files"),
            queue_mib: self.number("global.limits.queued.megabytes"),
            user_queue_files: self.small("groups.default.limits.queued.files"),
            user_queue_mib: self.number("groups.default.limits.queued.megabytes"),
            banned: self.list("groups.blacklisted.members"),
            download_attempts: self.small("transfers.download.attempts"),
            failover: self.flag("transfers.download.failover"),
            web: self.web(),
            catalog: self.catalog(),
            min_free_mib: self.number("disk.min_free_mib"),
            disk_backend: self.text("disk.backend").to_ascii_lowercase(),
            private_ranges: self.ranges(),
            library_health: self.library_health(),
            recompute_interval_hours: self.number("audio.canonical_scoring.stats_recompute_interval_hours"),
            canonical_scoring: CanonicalScoring {
                enabled: self.flag("audio.canonical_scoring.enabled"),
                prefer_canonical: self.flag("audio.canonical_scoring.prefer_canonical"),
                improvement_permille: self.permille("audio.canonical_scoring.min_quality_improvement"),
                local_quality_permille: self.permille("audio.canonical_scoring.local_quality_threshold"),
            },
            mesh: self.mesh(),
            swarm: self.swarm(),
            rescue: self.rescue(),
            fairness: self.fairness(),
            swarm_events: self.swarm_events(),
            jobs: self.jobs(),
            memory_budget_mib: self.number("memory.budget"),
            log_level: self.text("log.level").to_ascii_lowercase(),
        }
    }

    fn catalog(&mut self) -> Catalog {
        let mut service = |name: &str| {
            let (address, key) = (format!("catalog.{name}.base_url"), format!("catalog.{name}.key"));
            let base_url = self.text(&address).trim_end_matches('/').to_owned();
            let host = ["http://", "https://"].iter().find_map(|scheme| base_url.strip_prefix(scheme));
            let sane = |host: &str| {
                !host.is_empty() && !host.starts_with('/') && !host.contains(['?', '#', '@', '\\', ' ', '\t'])
            };
            if !host.is_some_and(sane) {
                self.wrong(&address, format!("an address like https://host/path is wanted, not `{base_url}`"));
            }
            let secret = self.text(&key);
            if secret.len() > 255 || !secret.chars().all(|c| c.is_ascii_graphic()) {
                self.wrong(&key, "at most 255 printable ASCII characters are allowed, without spaces".to_owned());
            }
            CatalogService { base_url, key: secret }
        };
        let (musicbrainz, acoustid, discogs) = (service("musicbrainz"), service("acoustid"), service("discogs"));
        let contact = self.text("catalog.contact");
        let printable = |c: char| (c == ' ' || c.is_ascii_graphic()) && !matches!(c, '(' | ')' | '\\');
        if contact.len() > 100 || !contact.chars().all(printable) {
            let allowed = "at most 100 printable ASCII characters are allowed, without brackets and backslashes";
            self.wrong("catalog.contact", allowed.to_owned());
        }
        Catalog { musicbrainz, acoustid, discogs, offline: self.flag("catalog.offline"), contact }
    }

    fn shares(&mut self) -> Shares {
        let mut directories = Vec::new();
        let mut excluded = Vec::new();
        for entry in self.list("shares.directories") {
            if let Some(path) = entry.strip_prefix(['!', '-']) {
                excluded.push(path.to_owned());
                continue;
            }
            let (alias, path) = match entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                Some((alias, path)) => (alias.to_owned(), path.to_owned()),
                None => (String::new(), entry.clone()),
            };
            if path.starts_with('/') {
                directories.push((alias, path));
            } else {
                self.wrong("shares.directories", format!("an absolute path is wanted, not `{entry}`"));
            }
        }
        Shares {
            directories,
            excluded,
            filters: self.list("shares.filters"),
            watch: self.flag("shares.watch"),
            check_interval_hours: self.number("shares.check_interval_hours"),
        }
    }

    /// Thousandths of a number from 0 to 1.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1,000")]
    fn permille(&mut self, key: &'static str) -> u32 {
        let number: f64 = self.parsed(key, "a number from 0 to 1", 0.0);
        if !(0.0..=1.0).contains(&number) {
            self.wrong(key, format!("a number from 0 to 1 is wanted, not `{number}`"));
        }
        (number.clamp(0.0, 1.0) * 1_000.0).round() as u32
    }

    fn ranges(&mut self) -> Vec<(Ipv4Addr, u8)> {
        let mut ranges = Vec::new();
        for text in self.list("network.private_ranges") {
            match parse_cidr(&text) {
                Some((IpAddr::V4(network), length)) => ranges.push((network, length)),
                _ => self.wrong("network.private_ranges", format!("a range like 10.0.0.0/8 is wanted, not `{text}`")),
            }
        }
        ranges
    }

    fn web(&mut self) -> Web {
        let base = self.text("web.url_base");
        let trimmed = base.trim_matches('/');
        let url_base = if trimmed.is_empty() { "/".to_owned() } else { format!("/{trimmed}/") };
        Web {
            address: self.parsed("web.address", "an IP address", IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: self.port("web.port"),
            url_base,
            allowed_hosts: self.list("web.allowed_hosts"),
            open: self.flag("web.authentication.disabled"),
            username: self.text("web.authentication.username"),
            password: self.text("web.authentication.password"),
            api_keys: self.api_keys(),
        }
    }

    fn api_keys(&mut self) -> Vec<ApiKey> {
        let prefix = "web.authentication.api_keys.";
        let mut names: Vec<String> = self
            .values
            .keys()
            .filter_map(|key| Some(key.strip_prefix(prefix)?.rsplit_once('.')?.0.to_owned()))
            .collect();
        names.dedup();
        let mut found = Vec::new();
        for name in names {
            let of = |what: &str| format!("{prefix}{name}.{what}");
            let key = self.text(&of("key"));
            if !(16..=255).contains(&key.len()) {
                self.wrong(&of("key"), "16 to 255 characters are wanted".to_owned());
            }
            let mut cidrs = Vec::new();
            for text in self.text(&of("cidr")).split(',') {
                match parse_cidr(text.trim()) {
                    Some(cidr) => cidrs.push(cidr),
                    None => self.wrong(&of("cidr"), format!("a range like 192.168.0.0/16 is wanted, not `{text}`")),
                }
            }
            let role = self.text(&of("role")).to_ascii_lowercase();
            found.push(ApiKey { name, key, role, cidrs });
        }
        found
    }
}

/// `10.0.0.0/8` or `::/0`; a lone address counts as a range of one.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address.parse().ok()?, Some(length.parse::<u8>().ok()?)),
        None => (text.parse::<IpAddr>().ok()?, None),
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = length.unwrap_or(longest);
    (length <= longest).then_some((address, length))
}

#[cfg(test)]
mod tests;
