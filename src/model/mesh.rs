//! The mesh as pages and tools see it, what they may ask of it, and what is kept of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::gossip::{Described, HashEntry, Mode, Offer};
use super::id::{ContentHash, PeerId, Username};
use super::music::WireText;
use super::swarm::Source;
use super::time::UnixMs;

/// How a fetch stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchState {
    /// It waits for its turn, looks for peers, or moves bytes.
    Running,
    /// The file lies at this absolute path.
    Done(String),
    /// What came is not what was wanted; why. It was removed.
    Failed(String),
}

/// A file the owner wants from the mesh, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Which file.
    pub content: ContentHash,
    /// Its length, bytes.
    pub size: u64,
    /// Its name below the downloads folder, made safe.
    pub name: String,
    /// Folder below the downloads folder, made safe; empty for none.
    pub folder: String,
    /// When it was asked for.
    pub asked_at: UnixMs,
    /// When it was over.
    pub ended_at: Option<UnixMs>,
    /// How it stands.
    pub state: FetchState,
    /// Where the finished file is about to go: found there after a kill in between.
    pub meant: Option<String>,
}

/// What one peer did for a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceView {
    /// Who.
    pub source: Source,
    /// Verified bytes that came from it first.
    pub bytes: u64,
    /// Proven bad pieces.
    pub bad_pieces: u32,
    /// Requests that failed.
    pub failed: u64,
    /// It gets no more of this file.
    pub dropped: bool,
    /// What the scheduler thinks it costs, thousandths, if it knows (SPEC-FACTS 6.2).
    pub cost_milli: Option<u64>,
    /// Bytes per second, if known.
    pub rate: Option<u64>,
    /// From a request to its first byte, microseconds, average.
    pub rtt_us: u64,
    /// Thousandths; 500 is neutral. Never sent to anybody.
    pub reputation_milli: u64,
    /// Requests under way.
    pub requests: u64,
    /// Where the transfer is (SPEC-FACTS 11.1).
    pub state: &'static str,
}

/// A fetch with what is known of it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchView {
    /// What is kept.
    pub fetch: Fetch,
    /// Bytes verified and in the partial file.
    pub bytes: u64,
    /// Pieces of 64 KiB that came twice.
    pub twice: u64,
    /// What it waits for, in a few words; empty while it moves, and when it is over.
    pub waits: String,
    /// It is whole, and the folder is missing which it goes to.
    pub away: bool,
    /// Since the program began.
    pub sources: Vec<SourceView>,
    /// What is missing: from byte, to byte; the first of them.
    pub missing: Vec<(u64, u64)>,
}

/// A key of the DHT: the SHA-1 hash of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DhtKey(pub [u8; 20]);

impl fmt::Display for DhtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Who told of a peer that the owner did not name. Better ones are less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The own network, by mDNS.
    Lan,
    /// The DHT.
    Dht,
}

/// Something announced in the DHT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announced {
    /// A meeting place, by its text.
    Place(String),
    /// A `MusicBrainz` release, with its title as tagged.
    Release(u128, String),
    /// A `MusicBrainz` recording, with its title as tagged.
    Recording(u128, String),
}

/// What is announced in the DHT, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncementView {
    /// Where.
    pub key: DhtKey,
    /// What.
    pub what: Announced,
    /// The owner allows it.
    pub wanted: bool,
    /// When it was announced last, since the start.
    pub announced_at: Option<UnixMs>,
}

/// A look-up in the DHT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookView {
    /// Where.
    pub key: DhtKey,
    /// When it was over.
    pub at: UnixMs,
    /// Addresses found.
    pub found: usize,
    /// Of these, taken as candidates or known as such.
    pub taken: usize,
    /// Why there was no answer; empty if there was one.
    pub problem: String,
}

/// How nodes meet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeetingView {
    /// The mesh is switched on.
    pub mesh: bool,
    /// The DHT is used.
    pub dht: bool,
    /// Recordings and releases may be announced.
    pub announce_content: bool,
    /// Peers of the own network are found.
    pub mdns: bool,
    /// Why they are not, though switched on; empty if nothing is wrong.
    pub mdns_problem: String,
    /// Others can reach our port.
    pub reachable: bool,
    /// How that is known, or what is missing.
    pub reach: String,
    /// Peers connected.
    pub neighbours: u32,
    /// Nobody is looked for with so many.
    pub neighbours_min: u32,
    /// Nobody found is called with so many.
    pub neighbours_max: u32,
    /// Candidates known.
    pub candidates: u32,
    /// What was wrong with the DHT the last time; empty if nothing.
    pub problem: String,
    /// The last look-ups, newest first.
    pub looks: Vec<LookView>,
    /// Everything that is announced, or would be.
    pub announcements: Vec<AnnouncementView>,
}

/// A peer, named or connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its key's hash.
    pub id: PeerId,
    /// As named in the configuration, or where it called from.
    pub address: String,
    /// It is named in the configuration.
    pub named: bool,
    /// A connection is open.
    pub connected: bool,
    /// We called.
    pub dialled: bool,
    /// Who told of it, if it was found.
    pub origin: Option<Origin>,
    /// What it says of itself.
    pub software: String,
    /// Its Soulseek user name, as it claims.
    pub username: String,
    /// Its abilities.
    pub features: Vec<String>,
    /// Round trip, microseconds.
    pub rtt_us: u64,
    /// Why there is no connection, or why the last one ended; empty when nothing is wrong.
    pub problem: String,
}

/// The mesh at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshView {
    /// It is switched on.
    pub enabled: bool,
    /// Our own id.
    pub id: Option<PeerId>,
    /// UDP port in use.
    pub port: u16,
    /// Peers connected.
    pub connected: u32,
    /// Fetches that are not over.
    pub fetching: u32,
    /// Requests of peers granted since the start.
    pub served: u64,
    /// Requests of peers refused since the start.
    pub refused: u64,
    /// Connections refused since the start: limits, bans, wrong keys.
    pub turned_away: u64,
    /// The same by reason.
    pub turned_away_by: Vec<(&'static str, u64)>,
    /// Bytes of files and lists sent to peers since the start.
    pub bytes_out: u64,
    /// Verified bytes fetched since the start.
    pub bytes_in: u64,
    /// Proven bad pieces received since the start.
    pub bad_pieces: u64,
    /// Transfers to peers, by state (SPEC-FACTS 11.2).
    pub uploads: Vec<(&'static str, u64)>,
    /// Sources of running fetches whose reputation is below the threshold.
    pub avoided: u32,
    /// Mean and variance of what sources of running fetches cost, thousandths.
    pub cost_milli: (u64, u64),
}

/// A file asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// Which.
    pub content: ContentHash,
    /// Its length, bytes.
    pub size: u64,
    /// What to call it; the content hash if empty.
    pub name: String,
    /// Folder below the downloads folder.
    pub folder: String,
    /// Soulseek users who share the same bytes, and under which path; at most `limits::FETCH_USERS`.
    pub soulseek: Vec<(Username, WireText)>,
    /// The `MusicBrainz` recording that it is fetched as: what came must be one, and who has it may be found by it.
    pub recording: Option<u128>,
}

/// A recording asked for, whichever copy of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingRequest {
    /// MusicBrainz recording.
    pub recording: u128,
    /// Which copies may be chosen; `None`: as configured.
    pub mode: Option<Mode>,
    /// What to call it; the content hash if empty.
    pub name: String,
    /// Folder below the downloads folder.
    pub folder: String,
    /// Also when a good copy is here already.
    pub even_if_here: bool,
    /// Not these copies.
    pub but: Vec<ContentHash>,
}

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshRequest {
    /// Answer: `Peers`.
    Peers,
    /// Answer: `Meeting`.
    Meeting,
    /// Answer: `Fetches`, newest first.
    Fetches,
    /// Answer: `Fetches` with one.
    Fetch(ContentHash),
    /// Begin. Answer: `Done`.
    Start(FetchRequest),
    /// Choose a copy and begin. Answer: `Chosen`.
    StartRecording(RecordingRequest),
    /// Which of these recordings do connected peers have? Answer: `Offers`.
    Offers(Vec<u128>),
    /// What do connected peers have of this release? Answer: `Releases`.
    Release(u128),
    /// What do peers say is behind this flac key? Where nobody said anything yet, they are asked. Answer: `Hashes`.
    Hashes(u64),
    /// Stop it if it runs, and forget it with its partial file. A finished file stays. Answer: `Done`.
    Forget(ContentHash),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshAnswer {
    /// It is so.
    Done,
    /// Peers, by id.
    Peers(Vec<PeerView>),
    /// How nodes meet.
    Meeting(Box<MeetingView>),
    /// Fetches.
    Fetches(Vec<FetchView>),
    /// A copy was chosen.
    Chosen {
        /// Which.
        content: ContentHash,
        /// Too few peers have any copy; those with one and the same bytes count.
        by_hash: bool,
    },
    /// Offers of peers.
    Offers(Vec<Offer>),
    /// What each peer has of it.
    Releases(Vec<Described>),
    /// What peers said; a few of them.
    Hashes(Vec<(PeerId, HashEntry)>),
}
