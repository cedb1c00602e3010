//! What there is to tell: made of the Doctor's copies whose files are shared, and of nothing else.

use crate::app::mesh::{Running, serve};
use crate::engine::library::consensus::{claim_of, sha1_of, tellable};
use crate::engine::library::statistics::best_first;
use crate::engine::library::{About, issue_id};
use crate::engine::mesh::control::{
    Advert, CacheJob, Control, Descriptor, Edition, OfferedTrack, Policies, RecordingAdvert, Room, TrackHave,
    TrackState, WantedTrack,
};
use crate::engine::mesh::lie::check_claim;
use crate::model::gossip::{Claim, HashEntry};
use crate::model::health::{IssueKind, Variant};
use crate::model::id::ContentHash;
use crate::model::limits;
use crate::store::StoreError;
use crate::store::library::{Todo, TodoKind};

/// Copies of a recording that are shared, the best first.
fn shared_copies(running: &Running, id: u128) -> Result<Vec<Variant>, StoreError> {
    let copies = running.parts.store.read(|txn, tables| tables.library.variants_of(txn, id))?;
    Ok(shared(running, best_first(copies), limits::GOSSIP_VARIANTS))
}

/// Those that are shared, and of which nothing untellable is to be said.
fn shared(running: &Running, copies: Vec<Variant>, at_most: usize) -> Vec<Variant> {
    let is_shared = |copy: &Variant| serve::find(&running.parts.store, &running.parts.sharing, copy.hash()).is_some();
    let tellable = |copy: &Variant| check_claim(&claim_of(copy)).is_ok();
    copies.into_iter().filter(|copy| tellable(copy) && is_shared(copy)).take(at_most).collect()
}

/// What is told of a recording now; without copies, that there is nothing any more.
fn recording(running: &Running, id: u128) -> Result<RecordingAdvert, StoreError> {
    let copies = shared_copies(running, id)?;
    let Some(best) = copies.first() else {
        return Ok(RecordingAdvert { mb_recording_id: Some(id), ..RecordingAdvert::default() });
    };
    let print = running.parts.store.read(|txn, tables| tables.library.print(txn, best.hash()))?;
    let tags = &best.measured.tags;
    Ok(RecordingAdvert {
        mb_recording_id: Some(id),
        acoustid: best.identity.acoustid,
        fingerprint_sha1: (!print.is_empty()).then(|| sha1_of(&print)),
        title: tellable(tags.title.as_ref(), limits::GOSSIP_TEXT),
        artist: tellable(tags.artist.as_ref(), limits::GOSSIP_TEXT),
        variants: copies.iter().map(claim_of).collect(),
    })
}

/// The key of what is told, so that the same is not told twice.
fn digest(told: &RecordingAdvert) -> [u8; 16] {
    let mut first = [0; 16];
    let control = Control::Advert(Advert { recordings: vec![told.clone()], ..Advert::default() });
    if let Some(sealed) = control.seal() {
        blake3::Hasher::new().update(sealed.body()).finalize_xof().fill(&mut first);
    }
    first[0] |= 1;
    first
}

/// Where the look over everything is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Over {
    /// At its end.
    #[default]
    Done,
    /// Behind this recording, or at the beginning.
    After(Option<u128>),
}

/// What came of a look.
#[derive(Default)]
pub(super) struct Looked {
    /// There is something new to tell.
    pub(super) changed: bool,
    /// Where the look over everything goes on.
    pub(super) next: Over,
    /// More copies have changed.
    pub(super) more: bool,
    /// Recordings with changed copies that are not shared.
    pub(super) unshared: Vec<u128>,
}

/// Looks at the next recordings that changed, at some `again`, and at the next of all while `over` says where.
pub(super) fn look(running: &Running, over: Over, again: Vec<u128>, batch: usize) -> Result<Looked, StoreError> {
    let store = &running.parts.store;
    let mut looked = Looked::default();
    let todo = store.read(|txn, tables| tables.library.todo(txn, TodoKind::Tell, None, batch))?;
    looked.more = todo.len() == batch;
    let mut ids = again;
    ids.extend(todo.iter().filter_map(|todo| if let Todo::Tell(id) = todo { Some(*id) } else { None }));
    if !todo.is_empty() {
        // Before looking, so that a change meanwhile is noted anew. After a kill in between, the look over everything at
        // the next start finds it.
        store.write_blocking(move |txn, tables| {
            todo.iter().try_for_each(|entry| tables.library.remove_todo(txn, *entry))
        })?;
    }
    for id in &ids {
        let copies = store.read(|txn, tables| tables.library.variants_of(txn, *id))?;
        if copies.iter().any(|copy| serve::find(store, &running.parts.sharing, copy.hash()).is_none()) {
            looked.unshared.push(*id);
        }
    }
    if let Over::After(after) = over {
        let page = store.read(|txn, tables| tables.library.recordings_after(txn, after, batch))?;
        looked.next = if page.len() == batch { Over::After(page.last().copied()) } else { Over::Done };
        ids.extend(page);
    }
    let mut told = Vec::with_capacity(ids.len());
    for id in ids {
        let advert = recording(running, id)?;
        let digest = (!advert.variants.is_empty()).then(|| digest(&advert));
        let keys: Vec<(u64, ContentHash)> = advert.variants.iter().map(|c| (c.flac_key, c.content)).collect();
        told.push((id, digest, keys));
    }
    if !told.is_empty() {
        looked.changed = store.write_blocking(move |txn, tables| {
            let mut changed = false;
            for (id, digest, keys) in &told {
                changed |= tables.gossip.put_own(txn, *id, *digest, keys)?;
            }
            Ok(changed)
        })?;
    }
    Ok(looked)
}

/// Which recordings a peer is told of: whom the owner named, all; others, of a large library, some thousand. Which ones
/// is the same for all strangers, or many keys together would hear of all.
#[derive(Clone, Copy, Debug)]
struct Told {
    bundle_id: u64,
    /// Of 2^32 recordings.
    share: u64,
}

impl Told {
    fn new(bundle_id: u64, count: u64, named: bool) -> Self {
        let most = if named { u64::MAX } else { limits::GOSSIP_TOLD_STRANGERS };
        let share = if count <= most { 1 << 32 } else { (most << 32) / count };
        Self { bundle_id, share }
    }

    fn is(&self, id: u128) -> bool {
        let mut first = [0; 4];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.bundle_id.to_le_bytes()).update(&id.to_be_bytes()).finalize_xof().fill(&mut first);
        u64::from(u32::from_le_bytes(first)) < self.share
    }
}

/// Which list a peer is told. That of those whom the owner named is another one: who was a stranger until now has heard
/// part of ours, and asks for what came after it.
pub(super) fn list(bundle_id: u64, named: bool) -> u64 {
    if !named {
        return bundle_id;
    }
    let mut id = [0; 8];
    blake3::Hasher::new().update(b"named").update(&bundle_id.to_le_bytes()).finalize_xof().fill(&mut id);
    u64::from_le_bytes(id).max(1)
}

/// The recordings after a number of our log, as many as fit.
pub(super) fn advert(
    running: &Running,
    bundle_id: u64,
    after: u64,
    whole: bool,
    named: bool,
) -> Result<Advert, StoreError> {
    let store = &running.parts.store;
    let (latest, rows) = store.read(|txn, tables| {
        let (latest, count) = tables.gossip.own(txn)?;
        let told = Told::new(bundle_id, count, named);
        let rows = tables.gossip.own_after(txn, after, limits::GOSSIP_RECORDINGS, |id| told.is(id))?;
        Ok((latest, rows))
    })?;
    let mut room = Room::default();
    let mut made = Advert {
        bundle_id: list(bundle_id, named),
        after,
        sequence: after,
        full_snapshot: whole,
        recordings: Vec::new(),
    };
    for (sequence, id) in &rows {
        let told = recording(running, *id)?;
        if !room.takes(&told) {
            return Ok(made);
        }
        made.sequence = *sequence;
        made.recordings.push(told);
    }
    if rows.len() < limits::GOSSIP_RECORDINGS {
        made.sequence = latest.max(after);
    }
    Ok(made)
}

fn hash_of(sequence: u64, copy: &Variant) -> HashEntry {
    let Claim { flac_key, content, size, .. } = claim_of(copy);
    HashEntry { sequence, flac_key, head_sha256: copy.measured.head_sha256, content, size }
}

/// Hashes after a number of our log: at most `max`, as many as fit, those of one number together.
pub(super) fn delta(
    running: &Running,
    bundle_id: u64,
    after: u64,
    max: u16,
    named: bool,
) -> Result<Control, StoreError> {
    let max = usize::from(max);
    let store = &running.parts.store;
    let (latest, rows) = store.read(|txn, tables| {
        let (latest, count) = tables.gossip.own(txn)?;
        let told = Told::new(bundle_id, count, named);
        Ok((latest, tables.gossip.own_after(txn, after, max, |id| told.is(id))?))
    })?;
    let (mut room, mut entries, mut reached) = (Room::default(), Vec::new(), after);
    let mut all = rows.len() < max;
    for (sequence, id) in &rows {
        let of_it: Vec<HashEntry> = shared_copies(running, *id)?.iter().map(|copy| hash_of(*sequence, copy)).collect();
        if entries.len() + of_it.len() > max || !of_it.iter().all(|entry| room.takes(entry)) {
            all = false;
            break;
        }
        entries.extend(of_it);
        reached = *sequence;
    }
    if all {
        // What comes after is not for this peer.
        reached = latest.max(after);
    }
    // Less than one recording's copies were asked for: there is no going on.
    let has_more = reached < latest && reached > after;
    Ok(Control::SyncDelta { bundle_id: list(bundle_id, named), entries, sequence: reached, has_more })
}

/// What is shared of this flac key.
pub(super) fn key(running: &Running, key: u64) -> Result<Vec<HashEntry>, StoreError> {
    let ids = running.parts.store.read(|txn, tables| tables.gossip.own_key(txn, key, 16))?;
    let mut entries = Vec::new();
    for id in ids {
        entries.extend(shared_copies(running, id)?.iter().map(|copy| hash_of(0, copy)));
    }
    entries.retain(|entry| entry.flac_key == key);
    Ok(entries)
}

/// The value that most have.
fn most<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts = std::collections::BTreeMap::<T, u32>::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(value, _)| value)
}

/// What is shared of a release; `None` if nothing is.
pub(super) fn descriptor(running: &Running, release: u128) -> Result<Option<Descriptor>, StoreError> {
    let lacks = issue_id(IssueKind::MissingTrackInRelease, About::Release(release));
    let (copies, lacks) = running.parts.store.read(|txn, tables| {
        let lacks = tables.library.issue(txn, lacks)?.is_some_and(|issue| issue.status.is_open());
        let hashes = tables.library.release_variants(txn, release, limits::GOSSIP_TRACKS)?;
        let read = hashes.into_iter().map(|hash| tables.library.bare_variant(txn, hash));
        Ok((read.filter_map(Result::transpose).collect::<Result<Vec<Variant>, _>>()?, lacks))
    })?;
    let mut copies = shared(running, copies, limits::GOSSIP_TRACKS);
    let place = |copy: &Variant| (copy.measured.tags.disc.unwrap_or(1), copy.measured.tags.track.unwrap_or(0));
    copies.sort_by_key(|copy| (place(copy), copy.hash()));
    let Some(first) = copies.first() else { return Ok(None) };
    let tags = &first.measured.tags;
    let text = |text: &Option<String>| tellable(text.as_ref(), limits::GOSSIP_TEXT);
    let mut room = Room::default();
    let mut tracks = Vec::new();
    for (copy, number) in copies.iter().zip(1_u32..) {
        let claim = claim_of(copy);
        let track = TrackHave {
            track_number: copy.measured.tags.track.filter(|n| (1..=10_000).contains(n)).unwrap_or(number),
            title: text(&copy.measured.tags.title),
            mb_recording_id: copy.identity.recording_id,
            duration_ms: Some(claim.duration_ms),
            file_size_bytes: Some(claim.size),
            codec: Some(claim.codec),
            bitrate_kbps: Some(claim.bitrate_kbps),
            lossless: Some(claim.lossless),
            quality_score: Some(claim.quality_score),
            availability: TrackState::Complete,
        };
        // The rest of the descriptor takes less than this much.
        if tracks.is_empty() && !room.takes(&[0_u8; 4 * limits::GOSSIP_TEXT].as_slice()) || !room.takes(&track) {
            break;
        }
        tracks.push(track);
    }
    let measured = || copies.iter().map(|copy| &copy.measured);
    let edition = Edition {
        label: text(&tags.label),
        release_date: text(&tags.date),
        lossless: measured().all(|measured| measured.codec.is_lossless()),
        codec: most(measured().map(|measured| measured.codec)),
        sample_rate_hz: most(measured().map(|measured| measured.sample_rate_hz)).unwrap_or(0),
        bit_depth: most(measured().map(|measured| measured.bit_depth)).flatten(),
        channels: most(measured().map(|measured| measured.channels)).unwrap_or(0),
        ..Edition::default()
    };
    Ok(Some(Descriptor {
        mb_release_id: release,
        mb_release_group_id: tags.release_group_id,
        discogs_release_id: tags.discogs_release_id,
        title: text(&tags.album),
        artist: text(&tags.album_artist).or_else(|| text(&tags.artist)),
        edition,
        has_full_album: lacks.then_some(false),
        tracks,
        policies: policies(running),
        cache: false,
        mb_label_ids: Vec::new(),
    }))
}

fn policies(running: &Running) -> Policies {
    Policies {
        prefer_soulseek_primary: true,
        max_overlay_upload_slots: u32::try_from(running.upload_slots).unwrap_or(u32::MAX),
        max_overlay_bandwidth_kbps: 0,
        max_concurrent_overlay_peers: u32::try_from(limits::MESH_SOURCES).unwrap_or(u32::MAX),
        allow_relay_from_soulseek: false,
    }
}

/// Whether a copy will do.
fn will_do(wanted: &WantedTrack, claim: &Claim) -> bool {
    (wanted.allowed_codecs.is_empty() || wanted.allowed_codecs.contains(&claim.codec))
        && (!wanted.lossless_required || claim.lossless)
        && wanted.min_bitrate_kbps.is_none_or(|min| claim.bitrate_kbps >= min)
}

/// What is shared of the tracks that somebody wants.
pub(in crate::app::mesh) fn own_offer(running: &Running, job: &CacheJob) -> Result<CacheJob, StoreError> {
    let mut offered = Vec::new();
    for wanted in &job.requested {
        let Some(id) = wanted.mb_recording_id else { continue };
        let claims = shared_copies(running, id)?.iter().map(claim_of).collect::<Vec<_>>();
        let Some(claim) = claims.into_iter().find(|claim| will_do(wanted, claim)) else { continue };
        offered.push(OfferedTrack {
            track_number: wanted.track_number,
            mb_recording_id: Some(id),
            variant_id: claim.content,
            pieces_root: claim.content,
            file_size_bytes: claim.size,
            file_sha256: claim.file_sha256,
            lossless: claim.lossless,
            codec: claim.codec,
            bitrate_kbps: claim.bitrate_kbps,
        });
    }
    Ok(CacheJob { is_offer: true, requested: Vec::new(), offered, ..job.clone() })
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn those_whom_the_owner_named_are_told_another_list_and_always_the_same() {
        assert_eq!(list(7, false), 7);
        assert_ne!(list(7, true), 7);
        assert_ne!(list(7, true), list(8, true));
        assert_eq!(list(7, true), list(7, true));
        assert_ne!(list(7, true), 0, "0 is no list");
    }
}
