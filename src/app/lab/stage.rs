//! Plays a scenario: makes the file and the nodes, lets one of them fetch, and says how it went.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use tokio::runtime::Handle;

use super::children::{Fetcher, Serving, home};
use super::peer::Setup;
use super::scenario::{Copied, Kind, Peer, Scenario, Via};
use super::users::{Network, User};
use super::{LabError, material};
use crate::app::clock::Clock;
use crate::model::id::ContentHash;

/// Between two looks at the fetch.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks while connections are made.
const SOON: Duration = Duration::from_millis(20);
/// All peers must be connected by then.
const CONNECT: Duration = Duration::from_secs(60);
/// Lines of a trace in one request, and the most that are reported.
const PAGE: usize = 500;
const LINES: usize = 200_000;
/// The last line of a trace is written by then.
const WRITTEN: Duration = Duration::from_secs(3);
/// The fetching node is killed so long after it brought the last bytes, at least and at most, where kills are asked for.
const KILL_AFTER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(1_500));
/// A port where nobody listens: for the address of a peer that calls when it comes.
const NO_PORT: u16 = 1;

/// How it went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The file came.
    pub completed: bool,
    /// And is the one that was made.
    pub identical: bool,
    /// Verified bytes.
    pub bytes: u64,
    /// From the request to the rename.
    pub seconds: f64,
    /// See [`Scenario::ideal_seconds`].
    pub ideal_seconds: Option<f64>,
    /// The one by the other.
    pub ratio: Option<f64>,
    /// Verified bytes that came from each source first.
    pub bytes_by_source: BTreeMap<String, u64>,
    /// Bytes of the file that were sent and brought nothing: twice, spoiled, or cut off.
    pub wasted_bytes: u64,
    /// Proven bad pieces, of those who sent any.
    pub corrupt_pieces_by_source: BTreeMap<String, u64>,
    /// How often the fetching node was killed.
    #[serde(skip_serializing_if = "is_zero")]
    pub kills: u32,
    /// Of a scenario with `rescue`: what it came to, if one began.
    pub rescue: Option<Rescued>,
    /// Of such a scenario: what the Soulseek user saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soulseek: Option<Value>,
    /// The fetcher's.
    pub peak_rss_kib: u64,
    /// What was written down about it, if the node writes traces.
    pub trace: Option<Vec<Value>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// What a rescue came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rescued {
    /// Seconds after the request.
    pub activated_at_s: f64,
    /// Why (SPEC-FACTS 7).
    pub reason: String,
    /// `splice` or `whole_variant`.
    pub manner: String,
    /// How it ended.
    pub state: String,
    /// In one sentence.
    pub told: String,
    /// Bytes that the mesh brought, and the user.
    pub overlay_bytes: u64,
    /// As the node counts them.
    pub soulseek_bytes: u64,
    /// Guardrails that were hit.
    pub guardrails_hit: Vec<String>,
    /// How the download stood in the end, and why, if it failed or was called off.
    pub transfer: String,
    /// In one sentence.
    pub transfer_reason: String,
    /// What its bytes rest on.
    pub rung: Option<String>,
    /// Mesh peers that offered or sent what is not the file, and what was wrong.
    pub not_the_file: BTreeMap<String, String>,
}

/// The fetch at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Since the request.
    pub elapsed: Duration,
    /// Verified bytes.
    pub bytes: u64,
    /// By peer, in the scenario's order: verified bytes, bad pieces, whether it gets nothing more.
    pub sources: Vec<(u64, u64, bool)>,
    /// What it waits for.
    pub waits: String,
}

/// Is told what happens.
pub trait Watch {
    /// The lab is being set up; what is done now.
    fn prepares(&mut self, what: &str);
    /// The clock runs.
    fn looks(&mut self, look: &Look);
}

/// Plays it in this folder. Must be called by a thread that stays.
///
/// # Errors
/// The lab itself failed, or was interrupted.
pub fn play(
    scenario: &Scenario,
    folder: &Path,
    stop: &AtomicBool,
    watch: &mut dyn Watch,
    runtime: &Handle,
) -> Result<Report, LabError> {
    Stage::new(scenario, folder, stop, watch, runtime)?.play(watch)
}

/// One of those who have the file.
pub(super) enum Source {
    Mesh(Serving),
    Soulseek(User),
}

pub(super) struct Stage<'s> {
    pub(super) scenario: &'s Scenario,
    pub(super) stop: &'s AtomicBool,
    pub(super) clock: Clock,
    pub(super) content: ContentHash,
    network: Option<Network>,
    pub(super) peers: Vec<Source>,
    /// Key and value by which the API names each.
    pub(super) ids: Vec<(&'static str, String)>,
    pub(super) fetcher: Fetcher,
    /// Where its data lie, and what it is told: peers and settings.
    fetcher_home: (PathBuf, Vec<String>, Vec<String>),
    /// As a peer names it.
    fetcher_name: String,
}

/// Something that happens at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Happens {
    Begin(usize),
    Leave(usize),
}

/// A file, what it comes to, and where its list lies.
struct Made {
    folder: PathBuf,
    path: PathBuf,
    list: PathBuf,
    content: ContentHash,
}

/// When the next kill is due.
pub(super) fn moment(dice: &mut u64) -> Duration {
    // Xorshift; Marsaglia 2003.
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    let (least, most) = KILL_AFTER;
    least + Duration::from_micros(*dice % u64::try_from(most.saturating_sub(least).as_micros()).unwrap_or(1))
}

impl<'s> Stage<'s> {
    fn new(
        scenario: &'s Scenario,
        folder: &Path,
        stop: &'s AtomicBool,
        watch: &mut dyn Watch,
        runtime: &Handle,
    ) -> Result<Self, LabError> {
        let clock = Clock::start();
        watch.prepares("making the file");
        let made = make(scenario, folder, Copied::Original)?;
        let mut others = BTreeMap::new();
        for peer in scenario.peers.iter().filter(|peer| peer.copy != Copied::Original) {
            if let Entry::Vacant(free) = others.entry(peer.copy) {
                free.insert(make(scenario, folder, peer.copy)?);
            }
        }
        watch.prepares("starting the nodes");
        let users = scenario.peers.iter().any(|peer| peer.via == Via::Soulseek);
        let network = if users { Some(Network::start(runtime)?) } else { None };
        let (mut peers, mut ids) = (Vec::new(), Vec::new());
        for peer in &scenario.peers {
            let file = others.get(&peer.copy).unwrap_or(&made);
            if peer.via == Via::Soulseek {
                ids.push(("user", peer.name.clone()));
                peers.push(Source::Soulseek(User::new(peer, &file.path)));
                continue;
            }
            let data = folder.join("peers").join(&peer.name);
            ids.push(("peer", home(&data)?.to_string()));
            let setup = Setup {
                path: file.path.clone(),
                content: file.content.to_string(),
                size: scenario.size,
                list: file.list.clone(),
                recording: (scenario.kind == Kind::Flac).then(|| material::recording(scenario.seed).to_string()),
                faults: peer.faults.clone(),
                delay_us: u64::try_from(peer.rtt.as_micros() / 2).unwrap_or(0),
            };
            peers.push(Source::Mesh(Serving::start(&peer.name, &data, &file.folder, &setup)?));
        }
        let mut named = Vec::new();
        for ((peer, source), (_, id)) in scenario.peers.iter().zip(&mut peers).zip(&ids) {
            let Source::Mesh(serving) = source else { continue };
            serving.ready()?;
            stopped(stop)?;
            if peer.pinned {
                let port = if peer.starts.is_none() {
                    serving.begin(None)?;
                    serving.port()?
                } else {
                    NO_PORT
                };
                named.push(format!("{id}@127.0.0.1:{port}"));
            }
        }
        let data = folder.join("fetcher");
        let own = home(&data)?;
        let mut more = Vec::new();
        if !scenario.cost_function {
            more.push(format!("{}=false", super::COST_KEY));
        }
        if let Some(network) = &network {
            more.extend(network.settings());
        }
        more.extend(scenario.rescue.iter().flatten().cloned());
        let fetcher = Fetcher::start(&data, &named, &more)?;
        let port = fetcher.ask("GET", "/api/mesh", None)?.get("port").and_then(Value::as_u64).unwrap_or(0);
        let fetcher_name = format!("{own}@127.0.0.1:{port}");
        let content = made.content;
        let fetcher_home = (data, named, more);
        let mut stage =
            Self { scenario, stop, clock, content, network, peers, ids, fetcher, fetcher_home, fetcher_name };
        watch.prepares("connecting");
        stage.connect()?;
        Ok(stage)
    }

    fn there(&self) -> impl Iterator<Item = (usize, &'s Peer)> + use<'s> {
        self.scenario.peers.iter().enumerate().filter(|(_, peer)| peer.starts.is_none())
    }

    fn connect(&mut self) -> Result<(), LabError> {
        for (at, peer) in self.there() {
            if peer.via == Via::Soulseek || !peer.pinned {
                self.begin(at)?;
            }
        }
        let mut missing: Vec<usize> =
            self.there().filter(|(_, peer)| peer.via == Via::Mesh).map(|(at, _)| at).collect();
        let mut logged_in = self.network.is_none();
        let began = self.clock.now().mono;
        while !missing.is_empty() || !logged_in {
            stopped(self.stop)?;
            logged_in = logged_in || self.fetcher.ask("GET", "/api/status", None)?["server"]["state"] == "logged_in";
            let peers = self.fetcher.ask("GET", "/api/mesh/peers", None)?;
            let connected = |id: &str| {
                let mut rows = peers.as_array().into_iter().flatten();
                rows.any(|row| row["id"] == id && row["connected"] == true)
            };
            missing.retain(|at| !connected(&self.ids[*at].1));
            if self.clock.now().mono.saturating_sub(began) > CONNECT {
                let mut names: Vec<&str> = missing.iter().map(|at| self.scenario.peers[*at].name.as_str()).collect();
                names.extend((!logged_in).then_some("the fetching node with the Soulseek server"));
                return Err(LabError::NotConnected(names.join(", ")));
            }
            std::thread::sleep(SOON);
        }
        Ok(())
    }

    /// Lets one come.
    pub(super) fn begin(&mut self, at: usize) -> Result<(), LabError> {
        match (&mut self.peers[at], &self.network) {
            (Source::Mesh(serving), _) => serving.begin(Some(self.fetcher_name.clone())),
            (Source::Soulseek(user), Some(network)) => user.begin(network),
            (Source::Soulseek(_), None) => Ok(()),
        }
    }

    fn play(mut self, watch: &mut dyn Watch) -> Result<Report, LabError> {
        if self.scenario.rescue.is_some() {
            return self.rescue(watch);
        }
        let mut happens = self.happens().into_iter().peekable();
        let name = format!("lab.{}", extension(self.scenario.kind));
        let mut wanted = json!({ "content_hash": self.content.to_string(), "size": self.scenario.size, "name": name });
        let users = self.scenario.peers.iter().zip(&self.peers).filter_map(|(peer, source)| match source {
            Source::Soulseek(user) => Some(json!({ "username": peer.name, "filename": user.path() })),
            Source::Mesh(_) => None,
        });
        let users: Vec<Value> = users.collect();
        if !users.is_empty() {
            wanted["soulseek"] = json!(users);
        }
        let began = self.clock.now().mono;
        self.fetcher.ask("POST", "/api/mesh/fetches", Some(&wanted))?;
        let path = format!("/api/mesh/fetches/{}", self.content);
        let mut peak = 0;
        let (mut kills, mut alive, mut dice) = (0, None, self.scenario.seed | 1);
        let (fetch, elapsed) = loop {
            stopped(self.stop)?;
            let elapsed = self.clock.now().mono.saturating_sub(began);
            if kills < self.scenario.kills && alive.is_some_and(|until| elapsed >= until) {
                self.kill()?;
                (kills, alive) = (kills + 1, None);
                continue;
            }
            while let Some((_, what)) = happens.next_if(|(when, _)| *when <= elapsed) {
                self.let_happen(what)?;
            }
            let fetch = self.fetcher.ask("GET", &path, None)?;
            peak = self.fetcher.peak_rss_kib().unwrap_or(0).max(peak);
            let look = self.look(&fetch, elapsed);
            if alive.is_none() && look.sources.iter().any(|source| source.0 > 0) {
                alive = Some(elapsed + moment(&mut dice));
            }
            watch.looks(&look);
            if fetch["state"] == "done" || elapsed > self.scenario.time_limit {
                break (fetch, elapsed);
            }
            let next = happens.peek().map_or(LOOK, |(when, _)| when.saturating_sub(elapsed));
            let kill =
                alive.filter(|_| kills < self.scenario.kills).map_or(LOOK, |until| until.saturating_sub(elapsed));
            std::thread::sleep(next.min(kill).min(LOOK));
        };
        let look = self.look(&fetch, elapsed);
        let sent: u64 = self.sent()?.iter().sum();
        let trace = self.trace(&path)?;
        self.fetcher.stop();
        let completed = fetch["state"] == "done";
        let identical = completed && fetch["local_path"].as_str().is_some_and(|path| self.is_original(Path::new(path)));
        let seconds = between(&fetch["asked_at"], &fetch["ended_at"]).unwrap_or(elapsed.as_secs_f64());
        let ideal_seconds = self.scenario.ideal_seconds();
        let names = || self.scenario.peers.iter().map(|peer| peer.name.clone());
        let corrupt = names().zip(&look.sources).map(|(name, source)| (name, source.1));
        Ok(Report {
            completed,
            identical,
            bytes: look.bytes,
            seconds: rounded(seconds),
            ideal_seconds: ideal_seconds.map(rounded),
            ratio: ideal_seconds.filter(|_| completed).map(|ideal| rounded(seconds / ideal)),
            bytes_by_source: names().zip(look.sources.iter().map(|source| source.0)).collect(),
            wasted_bytes: sent.saturating_sub(look.bytes),
            corrupt_pieces_by_source: corrupt.filter(|(_, pieces)| *pieces > 0).collect(),
            kills,
            rescue: None,
            soulseek: None,
            peak_rss_kib: peak,
            trace,
        })
    }

    /// Kills the fetching node, and starts it again.
    pub(super) fn kill(&mut self) -> Result<(), LabError> {
        self.fetcher.kill();
        let (home, peers, settings) = &self.fetcher_home;
        self.fetcher = Fetcher::start(home, peers, settings)?;
        Ok(())
    }

    /// What happens, in the order of its time.
    pub(super) fn happens(&self) -> Vec<(Duration, Happens)> {
        let mut happens: Vec<(Duration, Happens)> = Vec::new();
        for (at, peer) in self.scenario.peers.iter().enumerate() {
            happens.extend(peer.starts.map(|when| (when, Happens::Begin(at))));
            happens.extend(peer.leaves.map(|when| (when, Happens::Leave(at))));
        }
        happens.sort();
        happens
    }

    pub(super) fn let_happen(&mut self, what: Happens) -> Result<(), LabError> {
        match what {
            Happens::Begin(at) => self.begin(at)?,
            Happens::Leave(at) => match &mut self.peers[at] {
                Source::Mesh(serving) => serving.leave()?,
                Source::Soulseek(user) => user.leave(),
            },
        }
        Ok(())
    }

    /// Bytes of the file that each sent.
    pub(super) fn sent(&mut self) -> Result<Vec<u64>, LabError> {
        let sent = |peer: &mut Source| match peer {
            Source::Mesh(serving) => serving.sent(),
            Source::Soulseek(user) => Ok(user.sent()),
        };
        self.peers.iter_mut().map(sent).collect()
    }

    pub(super) fn look(&self, fetch: &Value, elapsed: Duration) -> Look {
        let rows = fetch["sources"].as_array();
        let source = |(key, id): &(&'static str, String)| {
            let row = rows.into_iter().flatten().find(|row| row[*key] == id.as_str());
            let number = |key: &str| row.and_then(|row| row[key].as_u64()).unwrap_or(0);
            (number("bytes"), number("bad_pieces"), row.is_some_and(|row| row["dropped"] == true))
        };
        Look {
            elapsed,
            bytes: fetch["bytes_done"].as_u64().unwrap_or(0),
            sources: self.ids.iter().map(source).collect(),
            waits: fetch["waits_for"].as_str().unwrap_or_default().to_owned(),
        }
    }

    /// All lines of the fetch's trace; what happened last may not be written yet.
    pub(super) fn trace(&self, fetch: &str) -> Result<Option<Vec<Value>>, LabError> {
        let began = self.clock.now().mono;
        loop {
            let mut lines: Vec<Value> = Vec::new();
            loop {
                let page = format!("{fetch}/trace?offset={}&limit={PAGE}", lines.len());
                let Some(page) = self.fetcher.ask_if_there(&page)? else { return Ok(None) };
                let events = page["events"].as_array().map(Vec::as_slice).unwrap_or_default();
                lines.extend_from_slice(events);
                if events.len() < PAGE || lines.len() >= LINES {
                    break;
                }
            }
            let whole = lines.last().is_some_and(|line| line["type"] == "JobComplete");
            if whole || self.clock.now().mono.saturating_sub(began) > WRITTEN {
                return Ok(Some(lines));
            }
            std::thread::sleep(LOOK);
        }
    }

    pub(super) fn is_original(&self, path: &Path) -> bool {
        material::pieces(path).is_ok_and(|found| found.root() == self.content && found.size() == self.scenario.size)
    }
}

pub(super) fn stopped(stop: &AtomicBool) -> Result<(), LabError> {
    if stop.load(Ordering::Relaxed) { Err(LabError::Interrupted) } else { Ok(()) }
}

fn extension(kind: Kind) -> &'static str {
    match kind {
        Kind::Random => "bin",
        Kind::Flac => "flac",
    }
}

fn make(scenario: &Scenario, folder: &Path, copy: Copied) -> Result<Made, LabError> {
    let (name, seed, rip) = match copy {
        Copied::Original => ("music", scenario.seed, 0),
        Copied::OtherRip => ("other", scenario.seed, 1),
        Copied::OtherSong => ("song", scenario.seed.wrapping_add(1), 0),
        Copied::WrongTail => ("tail", scenario.seed, 0),
    };
    let share = folder.join(name);
    let path = share.join(format!("lab.{}", extension(scenario.kind)));
    let list = folder.join(format!("{name}.list"));
    let failed = |source: std::io::Error| LabError::Folder { path: path.clone(), source };
    std::fs::create_dir(&share).map_err(failed)?;
    material::make(&path, scenario.kind, scenario.size, seed, rip).map_err(failed)?;
    if copy == Copied::WrongTail {
        material::spoil(&path, scenario.size / 4 * 3).map_err(failed)?;
    }
    let pieces = material::pieces(&path).map_err(failed)?;
    let content = pieces.root();
    std::fs::write(&list, pieces.into_bytes()).map_err(failed)?;
    Ok(Made { folder: share, path, list, content })
}

/// Seconds between two moments as the API writes them: thousandths.
pub(super) fn between(from: &Value, to: &Value) -> Option<f64> {
    let moment = |value: &Value| value.as_str()?.parse::<jiff::Timestamp>().ok();
    Some(moment(to)?.duration_since(moment(from)?).as_secs_f64())
}

/// To thousandths.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
