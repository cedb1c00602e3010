//! Fetches a recording: chooses one of its copies by what is known of them, and who of those connected has it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::{MeshService, Running, locked, unreadable};
use crate::engine::audio::canonical::{choose, skip_download};
use crate::engine::mesh::control::{Ask, CacheJob, Control, Descriptor, OfferedTrack, Sealed, TrackHave, WantedTrack};
use crate::engine::mesh::gossip::MBID;
use crate::engine::soulseek::io::Refusal;
use crate::model::gossip::{Consensus, Described, DescribedTrack, HashEntry, Mode, Offer};
use crate::model::id::PeerId;
use crate::model::limits;
use crate::model::mesh::{FetchRequest, MeshAnswer, RecordingRequest};
use crate::net::mesh::{Link, spare};

/// For peers to say what they have.
const OFFERS: Duration = Duration::from_secs(3);
/// For all of them to be told.
const TELLING: Duration = Duration::from_secs(1);
/// Before another attempt to tell one.
const AGAIN: Duration = Duration::from_millis(20);
/// Answers that wait to be read, each at most a frame: one block.
const ANSWERS: u32 = 8;
/// Answers to one key that are shown.
const HASHES: usize = 64;

impl MeshService {
    fn on(&self) -> Result<&Arc<Running>, Refusal> {
        self.running.as_ref().ok_or_else(|| Refusal::Invalid("the mesh is off: mesh.enabled".to_owned()))
    }

    /// Chooses a copy of a recording and begins to fetch it.
    pub(super) async fn begin_recording(&self, request: RecordingRequest) -> Result<MeshAnswer, Refusal> {
        let running = self.on()?;
        let (store, id) = (self.parts.store.clone(), request.recording);
        let read =
            move || store.read(|txn, tables| Ok((tables.gossip.consensus(txn, id)?, tables.gossip.words_on(txn, id)?)));
        let read = tokio::task::spawn_blocking(read).await.map_err(|error| Refusal::Full(error.to_string()))?;
        let (known, told) = read.map_err(unreadable)?;
        let Some(known) = known else {
            running.seek(id);
            return Err(Refusal::NotFound);
        };
        let here: BTreeSet<PeerId> = running.mesh.links().iter().map(Link::id).collect();
        let sources = |content| {
            let has = |(peer, told): &&(PeerId, _)| here.contains(peer) && has(told, content);
            told.iter().filter(has).count()
        };
        let others = known.variants.iter().filter(|variant| !variant.local);
        let others: Vec<_> = others.filter(|variant| !request.but.contains(&variant.claim.content)).collect();
        let candidates: Vec<(bool, usize)> =
            others.iter().map(|variant| (variant.claim.transcode_suspect, sources(variant.claim.content))).collect();
        let mode = request.mode.unwrap_or_else(|| running.mode());
        let Some(choice) = choose(mode, &candidates) else {
            let sought =
                if running.seek(id) { "; who has one is looked up in the DHT: try again in a minute" } else { "" };
            return Err(Refusal::Invalid(format!("no connected peer has a copy that will do{sought}")));
        };
        let chosen = &others[choice.at].claim;
        if let Some(own) = good_enough(&known, chosen.quality_score, running).filter(|_| !request.even_if_here) {
            return Err(Refusal::Invalid(format!(
                "a good copy is here already: its score is {own:.2}, that of the other one {:.2}",
                chosen.quality_score
            )));
        }
        let (content, size) = (chosen.content, chosen.size);
        let name = if request.name.trim().is_empty() {
            format!("{content}.{}", extension(chosen.container))
        } else {
            request.name
        };
        let (folder, soulseek, recording) = (request.folder, Vec::new(), Some(id));
        self.begin(FetchRequest { content, size, name, folder, soulseek, recording }, None).await?;
        Ok(MeshAnswer::Chosen { content, by_hash: choice.by_hash })
    }

    /// Asks all connected peers which of these recordings they have, and waits a moment for what they say.
    pub(super) async fn offers(&self, recordings: Vec<u128>) -> Result<Vec<Offer>, Refusal> {
        let running = self.on()?;
        let job_id = getrandom::u64().map_err(|error| Refusal::Full(format!("no randomness: {error}")))?.into();
        let wanted = recordings.iter().zip(1..).take(limits::GOSSIP_TRACKS).map(|(id, track_number)| WantedTrack {
            track_number,
            mb_recording_id: Some(*id),
            priority: 5,
            allowed_codecs: Vec::new(),
            min_bitrate_kbps: None,
            lossless_required: false,
        });
        let job = CacheJob {
            job_id,
            is_offer: false,
            mb_release_id: None,
            requested: wanted.collect(),
            offered: Vec::new(),
            ttl_seconds: 600,
            max_total_overlay_kib: 0,
            max_concurrent_overlay_peers: u32::try_from(limits::MESH_SOURCES).unwrap_or(u32::MAX),
            max_overlay_bandwidth_kbps: 0,
            prefer_soulseek_primary: true,
        };
        let Some(sealed) = Control::CacheJob(Box::new(job)).seal() else {
            return Err(Refusal::Invalid("too many recordings are asked for at once".to_owned()));
        };
        let paid = spare(&running.blocks, ANSWERS);
        let (answers, mut answered) = mpsc::channel(ANSWERS as usize);
        {
            let mut waiting = locked(&running.answers);
            if paid.is_none() || !waiting.offers.is_empty() {
                return Err(Refusal::Full("peers are being asked already; try again".to_owned()));
            }
            waiting.offers.insert(job_id, answers);
        }
        let (mut asked, mut found, until) = (running.tell_all(&sealed).await, Vec::new(), Instant::now() + OFFERS);
        while !asked.is_empty() {
            let Ok(Some((peer, job))) = timeout_at(until, answered.recv()).await else { break };
            if asked.remove(&peer) {
                found.extend(job.offered.iter().filter_map(|track| offer(peer, track, &recordings)));
            }
        }
        locked(&running.answers).offers.remove(&job_id);
        Ok(found)
    }

    /// Asks all connected peers what they have of a release, and waits a moment for what they say.
    pub(super) async fn releases(&self, release: u128) -> Result<Vec<Described>, Refusal> {
        let running = self.on()?;
        let Some(sealed) = Control::Ask(Ask::Release(release)).seal() else { return Ok(Vec::new()) };
        // What waits, and what is found.
        let paid = spare(&running.blocks, 3 * ANSWERS);
        let (answers, mut answered) = mpsc::channel(ANSWERS as usize);
        {
            let mut waiting = locked(&running.answers);
            if paid.is_none() || !waiting.descriptors.is_empty() {
                return Err(Refusal::Full("peers are being asked already; try again".to_owned()));
            }
            waiting.descriptors.insert(release, answers);
        }
        let (mut asked, mut found, until) = (running.tell_all(&sealed).await, Vec::new(), Instant::now() + OFFERS);
        while !asked.is_empty() && found.len() < ANSWERS as usize {
            let Ok(Some((peer, descriptor))) = timeout_at(until, answered.recv()).await else { break };
            if asked.remove(&peer) {
                found.push(described(peer, *descriptor));
            }
        }
        locked(&running.answers).descriptors.remove(&release);
        Ok(found)
    }
}

impl MeshService {
    /// What peers say is behind a flac key; with nothing said yet, they are asked.
    pub(super) async fn hashes(&self, key: u64) -> Result<Vec<(PeerId, HashEntry)>, Refusal> {
        let running = self.on()?;
        let store = self.parts.store.clone();
        let read = move || store.read(|txn, tables| tables.gossip.hashes_of(txn, key, HASHES));
        let read = tokio::task::spawn_blocking(read).await.map_err(|error| Refusal::Full(error.to_string()))?;
        let found = read.map_err(unreadable)?;
        if found.is_empty() {
            // With many keys waiting this one is asked for another time.
            let _ = running.keys.try_send(key);
        }
        Ok(found)
    }
}

impl Running {
    /// Tells all who speak of recordings, but those who are told something else all the while; answers whom.
    async fn tell_all(&self, sealed: &Sealed) -> BTreeSet<PeerId> {
        let mut left = self.mesh.links();
        left.retain(|link| link.greeted().features.iter().any(|feature| feature == MBID));
        let (mut told, until) = (BTreeSet::new(), Instant::now() + TELLING);
        loop {
            left.retain(|link| {
                let told_it = link.may_tell().is_some_and(|leave| link.tell(sealed.clone(), leave));
                !(told_it && told.insert(link.id()))
            });
            if left.is_empty() || Instant::now() >= until {
                return told;
            }
            sleep(AGAIN).await;
        }
    }

    /// The owner's choice.
    fn mode(&self) -> Mode {
        if self.canonical.enabled && self.canonical.prefer { Mode::CanonicalMaster } else { Mode::Any }
    }
}

fn has(told: &crate::model::gossip::Told, content: crate::model::id::ContentHash) -> bool {
    told.claims.iter().any(|claim| claim.content == content)
}

/// The score of our best copy if fetching one of this score is of no use.
fn good_enough(known: &Consensus, offered: f32, running: &Running) -> Option<f32> {
    let ours = known.variants.iter().filter(|variant| variant.local && !variant.claim.transcode_suspect);
    let best = ours.map(|variant| variant.claim.quality_score).max_by(f32::total_cmp)?;
    let rules = (running.canonical.local_enough, running.canonical.improvement_min);
    skip_download(best, offered, rules).then_some(best)
}

/// What was asked for, and nothing else.
fn offer(peer: PeerId, track: &OfferedTrack, recordings: &[u128]) -> Option<Offer> {
    let recording = track.mb_recording_id.filter(|id| recordings.contains(id))?;
    Some(Offer {
        peer,
        recording,
        content: track.variant_id,
        size: track.file_size_bytes,
        codec: track.codec,
        bitrate_kbps: track.bitrate_kbps,
    })
}

/// Of a score that was looked at: 0 to 1.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1,000")]
fn permille(score: f32) -> u16 {
    (score.clamp(0.0, 1.0) * 1_000.0).round() as u16
}

fn described(peer: PeerId, descriptor: Descriptor) -> Described {
    let track = |track: TrackHave| DescribedTrack {
        number: track.track_number,
        title: track.title,
        recording: track.mb_recording_id,
        size: track.file_size_bytes,
        codec: track.codec,
        bitrate_kbps: track.bitrate_kbps,
        quality_permille: track.quality_score.map(permille),
    };
    Described {
        peer,
        title: descriptor.title,
        artist: descriptor.artist,
        lossless: descriptor.edition.lossless,
        has_full_album: descriptor.has_full_album,
        tracks: descriptor.tracks.into_iter().map(track).collect(),
    }
}

/// What files in this container are called.
pub(in crate::app) fn extension(container: crate::model::variant::Container) -> &'static str {
    use crate::model::variant::Container as C;
    match container {
        C::Flac => "flac",
        C::Ogg => "ogg",
        C::Mp4 => "m4a",
        C::Wav => "wav",
        C::Aiff => "aiff",
        C::Mpeg => "mp3",
        C::Adts => "aac",
        C::Caf => "caf",
    }
}
