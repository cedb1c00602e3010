//! One node of the crowd: the machines it runs, what it shares, and what it tells of it, as `app::mesh::gossip` would.
//!
//! Copies are the Doctor's, with local paths, and become claims by the engine's own rule.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use slskdn::engine::library::consensus::claim_of;
use slskdn::engine::mesh::candidates::{Candidates, Range};
use slskdn::engine::mesh::control::{
    Advert, Control, Descriptor, Edition, Policies, RecordingAdvert, Room, TrackHave, TrackState,
};
use slskdn::engine::mesh::gossip::{Gossip, Own};
use slskdn::engine::mesh::guard::{Guard, Seats};
use slskdn::engine::mesh::meeting::{Meeting, RENDEZVOUS, Rules, Standing, content_key, rendezvous_key};
use slskdn::engine::soulseek::chance::Chance;
use slskdn::engine::swarm::reputation::Reputation;
use slskdn::model::gossip::{HashEntry, Heard};
use slskdn::model::health::{Identity, Judged, LocalPath, MatchedBy, Variant};
use slskdn::model::id::{ContentHash, PeerId};
use slskdn::model::limits;
use slskdn::model::mesh::DhtKey;
use slskdn::model::time::UnixMs;
use slskdn::model::variant::{Codec, Container, Detail, Integrity, Loudness, Measured, Tags};

/// Defaults of `mesh.dht.*` and `mesh.max_connections`.
pub(super) const NEIGHBOURS_MIN: usize = 3;
pub(super) const NEIGHBOURS_MAX: usize = 10;
pub(super) const CONNECTIONS_MAX: usize = 50;
const ANNOUNCE: Duration = Duration::from_secs(900);
const DISCOVER: Duration = Duration::from_secs(600);
/// Tracks of one release.
const RELEASE: u128 = 10;
pub(super) const NEVER: Duration = Duration::MAX;

pub(super) fn id_of(node: usize) -> PeerId {
    let mut id = [7; 32];
    id[..8].copy_from_slice(&(node as u64).to_be_bytes());
    PeerId(id)
}

pub(super) fn node_of(id: PeerId) -> usize {
    u64::from_be_bytes(id.0[..8].try_into().unwrap()) as usize
}

/// Each in a network of its own.
pub(super) fn address_of(node: usize) -> SocketAddr {
    SocketAddr::new(ip_of(node), 5_000)
}

pub(super) fn ip_of(node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x5000_0001 + ((node as u32) << 8)))
}

pub(super) fn node_at(at: SocketAddr) -> usize {
    let IpAddr::V4(ip) = at.ip() else { panic!("{at}") };
    ((ip.to_bits() - 0x5000_0001) >> 8) as usize
}

pub(super) fn release_of(recording: u128) -> u128 {
    1_000_000 + recording / RELEASE
}

/// What nobody else may ever see.
#[derive(Clone, Debug, Default)]
pub(super) struct Private {
    pub(super) folder: String,
    pub(super) file: String,
    /// Before the title of each track; this is told.
    pub(super) title: String,
    /// What the owner searched for on Soulseek.
    pub(super) searches: Vec<String>,
}

/// A copy of a recording: with the same `version` the same bytes.
pub(super) fn copy(recording: u128, version: u64, private: &Private) -> Variant {
    let hash = *blake3::hash(format!("{recording} {version}").as_bytes()).as_bytes();
    let lossless = version.is_multiple_of(2);
    let measured = Measured {
        codec: if lossless { Codec::Flac } else { Codec::Mp3 },
        container: if lossless { Container::Flac } else { Container::Mpeg },
        sample_rate_hz: 44_100,
        bit_depth: lossless.then_some(16),
        channels: 2,
        samples: 180 * 44_100,
        duration_ms: 180_000,
        bitrate_kbps: if lossless { 900 } else { 320 },
        file_size_bytes: 7_000_000 + u64::from(hash[0]) * 65_536,
        content_hash: ContentHash(hash),
        file_sha256: hash,
        head_sha256: hash,
        stream_hash: hash[..16].try_into().unwrap(),
        fingerprint: vec![u32::from(hash[1]); 8],
        sketch: version,
        loudness: Loudness {
            integrated_lufs: Some(-14.0),
            dynamic_range_dr: Some(9.0),
            sample_peak: 0.9,
            ..Loudness::default()
        },
        spectrum: slskdn::model::spectrum::Spectrum::default(),
        detail: Detail::Plain,
        encoder: Some("reference libFLAC 1.4.3".to_owned()),
        integrity: Integrity::default(),
        tags: Tags {
            title: Some(format!("{}Track {recording}", private.title)),
            artist: Some(format!("Artist {}", recording % 97)),
            album: Some(format!("Album {}", recording / RELEASE)),
            ..Tags::default()
        },
    };
    let path = format!("{}/{recording}-{}-{version}.flac", private.folder, private.file);
    Variant {
        measured,
        judged: Judged { quality_score: 0.9, ..Judged::default() },
        identity: Identity {
            recording_id: Some(recording),
            release_id: Some(release_of(recording)),
            acoustid: Some(recording << 8),
            matched_by: MatchedBy::Tags,
        },
        paths: vec![LocalPath(path.into_bytes())],
        first_seen_at: UnixMs(1),
        last_seen_at: UnixMs(1),
        seen_count: 1,
    }
}

/// What a node sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    pub(super) frames: u64,
    pub(super) frame_bytes: u64,
    pub(super) dht: u64,
}

pub(super) struct Node {
    pub(super) up: bool,
    /// Counts starts, so that what belongs to an earlier life is passed over.
    pub(super) life: u32,
    pub(super) reachable: bool,
    pub(super) chance: Chance,
    pub(super) meeting: Meeting,
    pub(super) candidates: Candidates,
    pub(super) guard: Guard,
    pub(super) gossip: Gossip,
    pub(super) bundle_id: u64,
    /// The log of what is told: number and recording, and the copies.
    pub(super) log: BTreeMap<u64, u128>,
    pub(super) copies: BTreeMap<u128, Vec<Variant>>,
    pub(super) latest: u64,
    pub(super) links: BTreeMap<PeerId, usize>,
    /// Those that it called.
    pub(super) dialled: BTreeSet<PeerId>,
    pub(super) heard: BTreeMap<PeerId, (Heard, Heard)>,
    /// What peers say they have, by their adverts and by their hashes.
    pub(super) told: BTreeMap<PeerId, BTreeSet<u128>>,
    pub(super) hashes: BTreeMap<PeerId, BTreeSet<ContentHash>>,
    pub(super) described: u64,
    pub(super) keys_answered: u64,
    pub(super) holders: u64,
    pub(super) reputation: BTreeMap<PeerId, Reputation>,
    pub(super) wake_at: Duration,
    pub(super) sent: Sent,
    pub(super) neighbours_most: usize,
    pub(super) private: Private,
}

fn rules() -> Rules {
    Rules {
        announce_every: ANNOUNCE,
        discover_every: DISCOVER,
        neighbours_min: NEIGHBOURS_MIN,
        rendezvous: RENDEZVOUS.map(rendezvous_key).to_vec(),
    }
}

impl Node {
    pub(super) fn new(node: usize, seed: u64, reachable: bool, private: Private) -> Self {
        Self {
            up: false,
            life: 0,
            reachable,
            chance: Chance::new(seed),
            meeting: Meeting::new(rules(), Duration::ZERO),
            candidates: Candidates::new(id_of(node), Range::default(), NEIGHBOURS_MAX),
            guard: Guard::new(Seats::new(CONNECTIONS_MAX, 0, NEIGHBOURS_MAX)),
            gossip: Gossip::default(),
            bundle_id: node as u64 + 1,
            log: BTreeMap::new(),
            copies: BTreeMap::new(),
            latest: 0,
            links: BTreeMap::new(),
            dialled: BTreeSet::new(),
            heard: BTreeMap::new(),
            told: BTreeMap::new(),
            hashes: BTreeMap::new(),
            described: 0,
            keys_answered: 0,
            holders: 0,
            reputation: BTreeMap::new(),
            wake_at: NEVER,
            sent: Sent::default(),
            neighbours_most: 0,
            private,
        }
    }

    /// The program begins; what is in its store is still there.
    pub(super) fn start(&mut self, node: usize, now: Duration, keys: &[DhtKey]) {
        (self.up, self.life, self.wake_at) = (true, self.life + 1, NEVER);
        self.meeting = Meeting::new(rules(), now);
        self.meeting.set_content(keys, now);
        self.candidates = Candidates::new(id_of(node), Range::default(), NEIGHBOURS_MAX);
        self.candidates.is_ours(address_of(node));
        self.guard = Guard::new(Seats::new(CONNECTIONS_MAX, 0, NEIGHBOURS_MAX));
        self.gossip = Gossip::new(self.own());
        self.stand(now);
    }

    pub(super) fn stand(&mut self, now: Duration) {
        let standing = Standing { neighbours: self.dialled.len(), reachable: self.reachable };
        self.meeting.set_standing(standing, now);
    }

    pub(super) fn own(&self) -> Own {
        Own { bundle_id: self.bundle_id, named_id: 0, latest: self.latest, count: self.log.len() as u64 }
    }

    /// The recordings' keys in the DHT.
    pub(super) fn keys(&self) -> Vec<DhtKey> {
        self.copies.keys().map(|recording| content_key(*recording)).collect()
    }

    /// Shares these copies of it from now on.
    pub(super) fn share(&mut self, recording: u128, versions: &[u64]) {
        self.log.retain(|_, logged| *logged != recording);
        self.latest += 1;
        self.log.insert(self.latest, recording);
        let copies = versions.iter().map(|version| copy(recording, *version, &self.private)).collect();
        self.copies.insert(recording, copies);
    }

    pub(super) fn holding(&self, content: ContentHash) -> Option<u64> {
        let mut copies = self.copies.values().flatten();
        copies.find(|copy| copy.hash() == content).map(|copy| copy.measured.file_size_bytes)
    }

    fn recording(&self, id: u128) -> RecordingAdvert {
        let copies = &self.copies[&id];
        RecordingAdvert {
            mb_recording_id: Some(id),
            acoustid: copies[0].identity.acoustid,
            fingerprint_sha1: Some([copies[0].measured.stream_hash[0]; 20]),
            title: copies[0].measured.tags.title.clone(),
            artist: copies[0].measured.tags.artist.clone(),
            variants: copies.iter().map(claim_of).collect(),
        }
    }

    /// The recordings after a number, as many as fit.
    pub(super) fn advert(&self, after: u64, whole: bool) -> Advert {
        let mut room = Room::default();
        let bundle_id = self.bundle_id;
        let mut made = Advert { bundle_id, after, sequence: after, full_snapshot: whole, recordings: Vec::new() };
        for (sequence, id) in self.log.range(after + 1..).take(limits::GOSSIP_RECORDINGS) {
            let told = self.recording(*id);
            if !room.takes(&told) {
                return made;
            }
            made.sequence = *sequence;
            made.recordings.push(told);
        }
        if made.recordings.len() < limits::GOSSIP_RECORDINGS {
            made.sequence = self.latest.max(after);
        }
        made
    }

    fn entries(&self, sequence: u64, id: u128) -> Vec<HashEntry> {
        let entry = |copy: &Variant| {
            let claim = claim_of(copy);
            let head_sha256 = copy.measured.head_sha256;
            HashEntry { sequence, flac_key: claim.flac_key, head_sha256, content: claim.content, size: claim.size }
        };
        self.copies[&id].iter().map(entry).collect()
    }

    /// Hashes after a number: at most `max`, as many as fit.
    pub(super) fn delta(&self, after: u64, max: u16) -> Control {
        let (mut room, mut entries, mut reached) = (Room::default(), Vec::new(), after);
        for (sequence, id) in self.log.range(after + 1..) {
            let of_it = self.entries(*sequence, *id);
            if entries.len() + of_it.len() > usize::from(max) || !of_it.iter().all(|entry| room.takes(entry)) {
                break;
            }
            entries.extend(of_it);
            reached = *sequence;
        }
        let has_more = reached < self.latest && reached > after;
        Control::SyncDelta { bundle_id: self.bundle_id, entries, sequence: reached, has_more }
    }

    pub(super) fn key(&self, key: u64) -> Vec<HashEntry> {
        let all = self.copies.keys().flat_map(|id| self.entries(0, *id));
        all.filter(|entry| entry.flac_key == key).take(16).collect()
    }

    /// What is shared of a release.
    pub(super) fn descriptor(&self, release: u128) -> Option<Descriptor> {
        let of_it: Vec<&Variant> =
            self.copies.iter().filter(|(id, _)| release_of(**id) == release).map(|(_, copies)| &copies[0]).collect();
        let first = of_it.first()?;
        let track = |copy: &&Variant| TrackHave {
            track_number: (copy.identity.recording_id.unwrap() % RELEASE) as u32 + 1,
            title: copy.measured.tags.title.clone(),
            mb_recording_id: copy.identity.recording_id,
            duration_ms: Some(copy.measured.duration_ms),
            file_size_bytes: Some(copy.measured.file_size_bytes),
            codec: Some(copy.measured.codec),
            bitrate_kbps: Some(copy.measured.bitrate_kbps),
            lossless: Some(copy.measured.codec.is_lossless()),
            quality_score: Some(copy.judged.quality_score),
            availability: TrackState::Complete,
        };
        Some(Descriptor {
            mb_release_id: release,
            mb_release_group_id: None,
            discogs_release_id: None,
            title: first.measured.tags.album.clone(),
            artist: first.measured.tags.artist.clone(),
            edition: Edition { codec: Some(first.measured.codec), sample_rate_hz: 44_100, ..Edition::default() },
            has_full_album: None,
            tracks: of_it.iter().map(track).collect(),
            policies: Policies {
                prefer_soulseek_primary: true,
                max_overlay_upload_slots: 2,
                max_overlay_bandwidth_kbps: 0,
                max_concurrent_overlay_peers: 16,
                allow_relay_from_soulseek: false,
            },
            cache: false,
            mb_label_ids: Vec::new(),
        })
    }
}
