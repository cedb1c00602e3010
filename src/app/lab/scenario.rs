//! What a scenario file says, and when the best of all schedulers would be done with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::faults::Wanted;
use super::yaml::{self, Node, Value, join};
use crate::engine::swarm::list::PieceList;
use crate::model::config::{Place, Problem, keys};
use crate::model::limits;
use crate::model::units::{KIB, MIB};

/// What the file is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes without any order.
    Random,
    /// A FLAC file that plays.
    Flac,
}

/// Where a peer is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A node of the mesh.
    Mesh,
    /// A scripted user.
    Soulseek,
}

/// One peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// What the report calls it.
    pub name: String,
    /// Where it is met.
    pub via: Via,
    /// What becomes of the bytes it serves.
    pub faults: Wanted,
    /// Round trip.
    pub rtt: Duration,
    /// When it comes; `None` is before the clock starts.
    pub starts: Option<Duration>,
    /// When it goes.
    pub leaves: Option<Duration>,
    /// What it has.
    pub copy: Copied,
    /// The fetcher names it in its configuration; otherwise it calls.
    pub pinned: bool,
    /// It sends from the beginning or not at all.
    pub deny_offset: bool,
    /// It shares the file no more.
    pub refuses: bool,
    /// So long after it fell silent it goes on.
    pub recovers: Option<Duration>,
}

/// What a peer has of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Copied {
    /// The file.
    #[default]
    Original,
    /// Other bytes that sound alike.
    OtherRip,
    /// Another song.
    OtherSong,
    /// Its beginning, and then other bytes.
    WrongTail,
}

impl Copied {
    /// Those that are not the file: their keys, and what is said of who has one.
    pub const OTHERS: [(Self, &'static str, &'static str); 3] = [
        (Self::OtherRip, "other_rip", "has another file"),
        (Self::OtherSong, "other_song", "has another song"),
        (Self::WrongTail, "wrong_tail", "has a file that ends otherwise"),
    ];
}

/// A whole scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Bytes of the file.
    pub size: u64,
    /// What it is made of.
    pub kind: Kind,
    /// Who has it.
    pub peers: Vec<Peer>,
    /// Whether sources are chosen by cost.
    pub cost_function: bool,
    /// What the file's bytes come from.
    pub seed: u64,
    /// The fetch is given up after that.
    pub time_limit: Duration,
    /// So often the fetching node is killed, at moments that the seed chooses.
    pub kills: u32,
    /// The file is asked of the Soulseek user alone, and mesh peers may rescue it: settings for that.
    pub rescue: Option<Vec<String>>,
}

/// Reads a scenario.
///
/// # Errors
/// Every mistake, with its place.
pub fn read(text: &str, source: &str) -> Result<Scenario, Vec<Problem>> {
    let root = yaml::read(text, source).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    let scenario = scenario(&root, &mut problems);
    if problems.is_empty() { Ok(scenario) } else { Err(problems) }
}

fn scenario(root: &Node, problems: &mut Vec<Problem>) -> Scenario {
    let mut whole = Fields::new(root, "", problems);
    let (thresholds, rails) = (whole.take("rescue"), whole.take("guardrails"));
    let cost_function = whole.flag("cost_function", true);
    let seed = whole.number("seed", 0.0..=9e15).unwrap_or(1.0);
    let time_limit = whole.number("time_limit_s", 0.001..=86_400.0).unwrap_or(300.0);
    let kills = whole.number("kills", 0.0..=1e4).unwrap_or(0.0);
    let file = whole.take("file");
    let peers = whole.take("peers");
    if file.is_none() {
        whole.wrong("file", "is missing: which file is fetched");
    }
    if peers.is_none() {
        whole.wrong("peers", "is missing: who has the file");
    }
    whole.end();
    let mut rescue = thresholds.map(|node| settings(node, "rescue", RESCUE, problems));
    if let Some(node) = rails {
        let rails = settings(node, "guardrails", &format!("{RESCUE}guardrails."), problems);
        rescue.get_or_insert_default().extend(rails);
    }
    let (mut size, mut kind) = (0, Kind::Random);
    if let Some(node) = file {
        let mut file = Fields::new(node, "file", problems);
        let mib = file.number("size_mib", 1e-6..=1e6);
        size = bytes(mib.unwrap_or(1.0), MIB);
        kind = match file.word("kind", &["random", "flac"]) {
            Some("flac") => Kind::Flac,
            _ => Kind::Random,
        };
        if !file.places.contains_key("size_mib") {
            file.wrong("size_mib", "is missing");
        } else if PieceList::fits(size).is_err() {
            file.wrong("size_mib", "the file is longer than the mesh exchanges");
        } else if kind == Kind::Flac && size < super::material::FLAC_MIN {
            let least = super::material::FLAC_MIN;
            file.wrong("size_mib", &format!("a FLAC file has at least {least} bytes here"));
        }
        file.end();
    }
    let mut found = Vec::new();
    match peers {
        Some(Node { value: Value::List(nodes), place }) => {
            if nodes.is_empty() || nodes.len() > limits::MESH_CONNECTIONS {
                let message = format!("1 to {} are wanted, not {}", limits::MESH_CONNECTIONS, nodes.len());
                problems.push(Problem { place: place.clone(), key: "peers".to_owned(), message });
            }
            let mut names = BTreeSet::new();
            for (at, node) in nodes.iter().enumerate() {
                let path = format!("peers[{at}]");
                let peer = peer(node, &path, at, problems);
                if !names.insert(peer.name.clone()) {
                    let message = format!("another peer is called `{}`", peer.name);
                    problems.push(Problem { place: node.place.clone(), key: join(&path, "name"), message });
                }
                found.push(peer);
            }
        }
        Some(node) => {
            let message = "a list of peers is wanted".to_owned();
            problems.push(Problem { place: node.place.clone(), key: "peers".to_owned(), message });
        }
        None => {}
    }
    let rescued = rescue.filter(|_| {
        let users = found.iter().filter(|peer| peer.via == Via::Soulseek).count();
        if users != 1 {
            let place = thresholds.or(rails).map(|node| node.place.clone()).unwrap_or_default();
            let message = format!("one Soulseek user is wanted for it, not {users}");
            problems.push(Problem { place, key: "rescue".to_owned(), message });
        }
        users == 1
    });
    Scenario {
        size,
        kind,
        peers: found,
        cost_function,
        seed: bytes(seed, 1),
        time_limit: Duration::from_secs_f64(time_limit),
        kills: u32::try_from(bytes(kills, 1)).unwrap_or(u32::MAX),
        rescue: rescued,
    }
}

/// Where the keys of rescue stand in the configuration.
const RESCUE: &str = "transfers.rescue_mode.";

/// Keys of one section of the configuration and what they are set to.
fn settings(node: &Node, path: &str, section: &str, problems: &mut Vec<Problem>) -> Vec<String> {
    let mut wrong = |place: &Place, key: &str, message: String| {
        problems.push(Problem { place: place.clone(), key: join(path, key), message });
    };
    let Value::Map(entries) = &node.value else {
        wrong(&node.place, "", "keys with values are wanted, as in `name: one`".to_owned());
        return Vec::new();
    };
    let mut set = Vec::new();
    for (key, place, value) in entries {
        let known = keys::KEYS.iter().filter_map(|known| known.name.strip_prefix(section));
        let known: Vec<&str> = known.filter(|rest| !rest.contains('.')).collect();
        match &value.value {
            _ if !known.contains(&key.as_str()) => {
                wrong(place, key, format!("unknown key; there are {}", known.join(", ")));
            }
            Value::Text(text) => set.push(format!("{section}{key}={text}")),
            Value::List(_) | Value::Map(_) => wrong(place, key, "one value is wanted".to_owned()),
        }
    }
    set
}

fn peer(node: &Node, path: &str, at: usize, problems: &mut Vec<Problem>) -> Peer {
    let mut peer = Fields::new(node, path, problems);
    let name = peer.text("name").unwrap_or_else(|| format!("peer{}", at + 1));
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
        peer.wrong("name", "1 to 32 letters, digits, `-` and `_` are wanted");
    }
    let via = match peer.word("via", &["mesh", "soulseek"]) {
        Some("soulseek") => Via::Soulseek,
        _ => Via::Mesh,
    };
    if via == Via::Soulseek && name.len() > 30 {
        peer.wrong("name", "a Soulseek user has at most 30 characters");
    }
    let deny_offset = peer.flag("deny_offset", false);
    if deny_offset && via == Via::Mesh {
        peer.wrong("deny_offset", "only a Soulseek user can deny an offset");
    }
    let refuses = peer.flag("refuses", false);
    if refuses && via == Via::Mesh {
        peer.wrong("refuses", "only a Soulseek user can refuse a file that it offered");
    }
    // Bytes and not KiB where a file says so: 4 MB/s are no whole KiB.
    let rate = peer.number("rate_kib_s", 0.1..=1e8).map(|kib| bytes(kib, KIB).max(1));
    let exact = peer.number("rate_bytes_s", 1.0..=1e11).map(|rate| bytes(rate, 1));
    if rate.is_some() && exact.is_some() {
        peer.wrong("rate_bytes_s", "is the same as rate_kib_s; one of them is enough");
    }
    let after = |peer: &mut Fields<'_, '_>, key: &'static str| peer.number(key, 0.0..=1e9).map(|kib| bytes(kib, KIB));
    let wrong_root = peer.flag("wrong_root", false);
    if wrong_root && via == Via::Soulseek {
        peer.wrong("wrong_root", "only a mesh peer has piece lists; a Soulseek user may have an other_rip");
    }
    let every = peer.number("corrupt_every", 1.0..=1e9).map(|every| bytes(every, 1));
    let faults = Wanted {
        rate: rate.or(exact),
        stall_after: after(&mut peer, "stall_after_kib"),
        disconnect_after: after(&mut peer, "disconnect_after_kib"),
        // Who sends the list of another file sends its pieces too.
        corrupt_every: if wrong_root { Some(1) } else { every },
        wrong_root,
        queue_ms: bytes(peer.number("queue_s", 0.0..=86_400.0).unwrap_or(0.0), 1_000),
    };
    let seconds = |peer: &mut Fields<'_, '_>, key: &'static str| {
        peer.number(key, 0.0..=86_400.0).map(Duration::from_secs_f64).filter(|at| !at.is_zero())
    };
    let recovers = seconds(&mut peer, "recovers_after_s");
    if recovers.is_some() && (via == Via::Mesh || faults.stall_after.is_none()) {
        peer.wrong("recovers_after_s", "only a Soulseek user who falls silent can recover");
    }
    let mut copy = Copied::Original;
    for (other, key, _) in Copied::OTHERS {
        if peer.flag(key, false) {
            if copy != Copied::Original {
                peer.wrong(key, "it has one file");
            }
            copy = other;
        }
    }
    let found = Peer {
        name,
        faults,
        rtt: Duration::from_secs_f64(peer.number("rtt_ms", 0.0..=10_000.0).unwrap_or(0.0) / 1_000.0),
        starts: seconds(&mut peer, "start_at_s"),
        leaves: seconds(&mut peer, "leave_at_s"),
        copy,
        pinned: peer.flag("pinned", true),
        via,
        deny_offset,
        refuses,
        recovers,
    };
    if found.leaves.is_some_and(|leaves| found.starts.is_some_and(|starts| starts >= leaves)) {
        peer.wrong("leave_at_s", "it must come before it leaves");
    }
    peer.end();
    found
}

/// So many units, in whole ones.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "in range")]
fn bytes(count: f64, unit: u64) -> u64 {
    (count * unit as f64).round() as u64
}

/// The keys of one map, taken one by one; what is left is unknown.
struct Fields<'n, 'p> {
    path: String,
    entries: Vec<&'n (String, Place, Node)>,
    known: Vec<&'static str>,
    problems: &'p mut Vec<Problem>,
    places: BTreeMap<&'n str, Place>,
    /// Of the map.
    place: Place,
}

impl<'n, 'p> Fields<'n, 'p> {
    fn new(node: &'n Node, path: &str, problems: &'p mut Vec<Problem>) -> Self {
        let entries: Vec<_> = match &node.value {
            Value::Map(entries) => entries.iter().collect(),
            Value::Text(_) | Value::List(_) => {
                let message = "keys with values are wanted, as in `name: one`".to_owned();
                problems.push(Problem { place: node.place.clone(), key: path.to_owned(), message });
                Vec::new()
            }
        };
        let places = entries.iter().map(|(key, place, _)| (key.as_str(), place.clone())).collect();
        Self { path: path.to_owned(), entries, known: Vec::new(), problems, places, place: node.place.clone() }
    }

    /// At the key, or where the map begins.
    fn wrong(&mut self, key: &str, message: &str) {
        let place = self.places.get(key).unwrap_or(&self.place).clone();
        self.problems.push(Problem { place, key: join(&self.path, key), message: message.to_owned() });
    }

    fn take(&mut self, key: &'static str) -> Option<&'n Node> {
        self.known.push(key);
        let at = self.entries.iter().position(|(name, ..)| name == key)?;
        Some(&self.entries.remove(at).2)
    }

    fn text(&mut self, key: &'static str) -> Option<String> {
        let node = self.take(key)?;
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            Value::List(_) | Value::Map(_) => {
                self.wrong(key, "one value is wanted");
                None
            }
        }
    }

    fn word(&mut self, key: &'static str, words: &[&'static str]) -> Option<&'static str> {
        let text = self.text(key)?;
        let found = words.iter().find(|word| **word == text).copied();
        if found.is_none() {
            self.wrong(key, &format!("{} is wanted, not `{text}`", words.join(" or ")));
        }
        found
    }

    fn flag(&mut self, key: &'static str, fallback: bool) -> bool {
        self.word(key, &["true", "false"]).map_or(fallback, |word| word == "true")
    }

    fn number(&mut self, key: &'static str, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
        let text = self.text(key)?;
        let found = text.parse().ok().filter(|number| range.contains(number));
        if found.is_none() {
            let (least, most) = range.into_inner();
            self.wrong(key, &format!("a number from {least} to {most} is wanted, not `{text}`"));
        }
        found
    }

    /// Tells of what nobody took.
    fn end(mut self) {
        let known = self.known.join(", ");
        for (key, ..) in std::mem::take(&mut self.entries) {
            self.wrong(key, &format!("unknown key; there are {known}"));
        }
    }
}

impl Peer {
    /// Seconds after the start from which on it sends, the bytes of the file it sends in all, and bytes per second:
    /// nothing if nothing good comes from it.
    fn good(&self) -> Option<(f64, u64, Option<f64>)> {
        let Wanted { rate, stall_after, disconnect_after, corrupt_every, wrong_root, queue_ms } = &self.faults;
        if self.copy != Copied::Original || *wrong_root || corrupt_every.is_some() {
            return None;
        }
        let starts = self.starts.unwrap_or_default() + Duration::from_millis(*queue_ms);
        let most = stall_after.iter().chain(disconnect_after).copied().min().unwrap_or(u64::MAX);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        Some((starts.as_secs_f64(), most, rate.map(|rate| rate as f64)))
    }
}

impl Scenario {
    /// Seconds in which the good peers at full rate have delivered the file, each counted from when it is there and only
    /// for the good bytes it sends before it fails. `None`: no speed is given, or they never have.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub fn ideal_seconds(&self) -> Option<f64> {
        let good: Vec<_> = self.peers.iter().filter_map(|peer| Some((peer.good()?, peer.leaves))).collect();
        let delivered = |at: f64| -> f64 {
            let of = |((starts, most, rate), leaves): &((f64, u64, Option<f64>), Option<Duration>)| {
                let until = leaves.map_or(at, |leaves| leaves.as_secs_f64().min(at));
                rate.map_or(f64::INFINITY, |rate| (rate * (until - starts).max(0.0)).min(*most as f64))
            };
            good.iter().map(of).sum()
        };
        let (mut low, mut high) = (0.0, 1e6);
        let size = self.size as f64;
        if delivered(high) < size || delivered(1e-6) >= size {
            return None;
        }
        for _ in 0..100 {
            let middle = f64::midpoint(low, high);
            if delivered(middle) < size {
                low = middle;
            } else {
                high = middle;
            }
        }
        Some(high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        read(text, "s.yml").unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        for (text, wanted) in [
            ("", "s.yml: file: is missing"),
            ("file: {size_mib: 1}\npeers: []", "s.yml:2:8: peers: 1 to 50"),
            ("file: {size_mib: x}\npeers: [{}]", "s.yml:1:8: file.size_mib: a number"),
            ("file: {size_mib: 1, kind: mp3}\npeers: [{}]", "file.kind: random or flac is wanted, not `mp3`"),
            ("file: {size_mib: 1}\npeers:\n- {name: a}\n- name: b\n  rate: 3", "s.yml:5:3: peers[1].rate: unknown key"),
            ("file: {size_mib: 1}\npeers: [{name: a}, {name: a}]", "peers[1].name: another peer"),
            ("file: {size_mib: 1}\npeers: [{name: a/b}]", "peers[0].name: 1 to 32"),
            ("file: {size_mib: 1}\npeers: [{via: http}]", "peers[0].via: mesh or soulseek is wanted, not `http`"),
            ("file: {size_mib: 1}\npeers: [{deny_offset: true}]", "peers[0].deny_offset: only a Soulseek user"),
            (
                "file: {size_mib: 1}\npeers: [{via: soulseek, wrong_root: true}]",
                "peers[0].wrong_root: only a mesh peer",
            ),
            ("file: {size_mib: 1}\npeers: [{}]\nrescue: {}", "s.yml:3:9: rescue: one Soulseek user"),
            (
                "file: {size_mib: 1}\npeers: [{via: soulseek}]\nrescue: {stall: 1}",
                "rescue.stall: unknown key; there are",
            ),
            ("file: {size_mib: 1}\npeers: [{recovers_after_s: 1}]", "peers[0].recovers_after_s: only a Soulseek user"),
            ("file: {size_mib: 1}\npeers: [{}]\nguardrails: {a: 1}", "guardrails.a: unknown key"),
            ("file: {size_mib: 1}\npeers: [{rate_kib_s: -1}]", "peers[0].rate_kib_s: a number from 0.1"),
            ("file: {size_mib: 1}\npeers: [{pinned: yes}]", "peers[0].pinned: true or false is wanted, not `yes`"),
            ("file: {size_mib: 1}\npeers: [{start_at_s: 2, leave_at_s: 1}]", "it must come before it leaves"),
            ("file: {size_mib: 1}\nfile: {size_mib: 1}", "s.yml:2:1: file: given twice"),
            ("file: {size_mib: 1e9}\npeers: [{}]", "file.size_mib"),
            ("- 1", "keys with values are wanted"),
            ("a: &x 1\nb: *x", "only plain values"),
            ("a: [", "not YAML"),
        ] {
            let told = told(text);
            assert!(told.contains(wanted), "{text:?}: {told}");
        }
        let deep = format!("{}1{}", "{a: ".repeat(20), "}".repeat(20));
        assert!(told(&deep).contains("too much for a scenario"), "{}", told(&deep));
        let two = told("file: {size_mib: 0, kind: x}\npeers: [{colour: red}]\n");
        assert_eq!(two.split('|').count(), 3, "{two}");
    }

    #[test]
    fn a_scenario_says_what_it_says() {
        let text = "file: {size_mib: 28.6102294921875, kind: flac}\nseed: 7\ncost_function: false\ntime_limit_s: 9\n\
                    peers:\n- {name: a, via: mesh, rate_kib_s: 3906.25, rtt_ms: 80, pinned: false}\n\
                    - {rate_bytes_s: 500000, stall_after_kib: 1, queue_s: 0.5, start_at_s: 2, leave_at_s: 3}\n\
                    - {wrong_root: true, other_rip: true}\n";
        let scenario = read(text, "s").unwrap();
        assert_eq!((scenario.size, scenario.kind, scenario.seed), (30_000_000, Kind::Flac, 7));
        assert_eq!((scenario.cost_function, scenario.time_limit), (false, Duration::from_secs(9)));
        let [a, b, c] = scenario.peers.as_slice() else { panic!("{scenario:?}") };
        assert_eq!((a.faults.rate, a.rtt, a.pinned), (Some(4_000_000), Duration::from_millis(80), false));
        assert_eq!((b.faults.rate, b.faults.stall_after, b.faults.queue_ms), (Some(500_000), Some(1_024), 500));
        assert_eq!(
            (b.name.as_str(), b.starts, b.leaves),
            ("peer2", Some(Duration::from_secs(2)), Some(Duration::from_secs(3)))
        );
        assert_eq!((c.faults.corrupt_every, c.copy), (Some(1), Copied::OtherRip));
    }

    #[test]
    fn the_ideal_counts_good_bytes_of_good_peers() {
        let ideal = |mib: f64, peers: &str| {
            read(&format!("file: {{size_mib: {mib}}}\npeers: [{peers}]"), "s").unwrap().ideal_seconds()
        };
        let five = [4_000_000, 2_000_000, 1_000_000, 500_000, 100_000]
            .map(|rate| format!("{{rate_bytes_s: {rate}}}"))
            .join(",");
        let near = |found: Option<f64>, wanted: f64| {
            assert!(found.is_some_and(|found| (found - wanted).abs() < 0.01), "{found:?} {wanted}");
        };
        near(ideal(96.0, &five), 13.25);
        near(ideal(96.0, &format!("{five}, {{rate_bytes_s: 3000000, stall_after_kib: 14648.4375}}")), 11.27);
        near(ideal(96.0, &format!("{five}, {{rate_bytes_s: 3000000, corrupt_every: 1}}")), 13.25);
        near(ideal(1.0, "{rate_kib_s: 1024, start_at_s: 2, queue_s: 1}"), 4.0);
        near(ideal(2.0, "{rate_kib_s: 1024, leave_at_s: 1}, {rate_kib_s: 512}"), 2.0);
        assert_eq!(ideal(1.0, "{rate_kib_s: 1024, leave_at_s: 0.5}"), None, "never");
        assert_eq!(ideal(1.0, "{}"), None, "as fast as it goes");
    }
}
