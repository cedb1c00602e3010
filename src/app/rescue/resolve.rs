//! What a hanging download is, and which copies of it mesh peers have (SPEC-FACTS 7).
//!
//! In this order: what is known of the download; its first bytes, by which peers' hash lists name whole files; its tags
//! and, from 5 MiB on, its fingerprint beside those of the copies here, then by AcoustID; its size, if its name says title and artist of the one recording that has such a
//! copy. What peers say is one vote each and decides nothing but whom to ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Inner, unreadable};
use crate::app::doctor::scan::sounds_like;
use crate::app::doctor::{DoctorError, Fact, Ground, Outcome};
use crate::app::mesh::choose::extension as container_extension;
use crate::engine::audio::quality::flac_key;
use crate::engine::catalog::matching::is_called;
use crate::engine::soulseek::io::Refusal;
use crate::model::gossip::{Claim, HashEntry, Offer, Offered};
use crate::model::health::{Identity, MatchedBy, Variant};
use crate::model::id::{ContentHash, PeerId};
use crate::model::music::Attributes;
use crate::model::transfer::Transfer;
use crate::model::units::MIB;
use crate::model::variant::{Detail, Measured};

/// Whoever asked for the download said it, or an earlier look did.
pub(super) const KNOWN: &str = "known";
/// A shorter partial file sounds like too much (SPEC-FACTS 7).
const FINGERPRINT_MIN: u64 = 5 * MIB;
/// A shorter one says nothing about itself.
const HEAD_MIN: u64 = 64 * 1024;
/// Recordings of one size that are looked at.
const OF_SIZE: usize = 16;
/// Words of peers on one flac key that are looked at.
const HASHES: usize = 64;

/// One copy that connected peers have.
#[derive(Clone, Debug, Default)]
pub(super) struct CopyHere {
    pub(super) peers: BTreeSet<PeerId>,
    /// Of them, those whose hash lists say that it is the very file of which the first bytes are there.
    pub(super) same: BTreeSet<PeerId>,
    /// This node has, or had, it.
    pub(super) ours: bool,
    /// As they say.
    pub(super) lossless: Option<bool>,
    /// How many say that it is a transcode, and that it is none.
    suspected: [usize; 2],
    pub(super) score: f32,
    pub(super) extension: Option<&'static str>,
}

impl CopyHere {
    /// Most of those who say something of it say that it is a transcode.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspected[0] > self.suspected[1]
    }
}

/// What was found out.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) recording: Option<u128>,
    /// By which way.
    pub(super) how: &'static str,
    /// It rests on a name and a size: bytes must tell before anything is joined.
    pub(super) guessed: bool,
    /// By content and size, as peers say: each pair is another claim, and proven only by its piece list.
    pub(super) copies: BTreeMap<(ContentHash, u64), CopyHere>,
}

impl Found {
    fn named(&mut self, recording: Option<u128>, how: &'static str) {
        if self.recording.is_none() && recording.is_some() {
            (self.recording, self.how) = (recording, how);
        }
    }

    fn claim(&mut self, peer: PeerId, claim: &Claim) {
        let copy = self.copies.entry((claim.content, claim.size)).or_default();
        copy.peers.insert(peer);
        copy.lossless = Some(claim.lossless);
        copy.suspected[usize::from(!claim.transcode_suspect)] += 1;
        copy.score = copy.score.max(claim.quality_score);
        copy.extension = Some(container_extension(claim.container));
    }

    /// A peer that was asked has a copy, whatever it told before.
    fn offer(&mut self, offer: &Offer) {
        let copy = self.copies.entry((offer.content, offer.size)).or_default();
        copy.lossless = Some(offer.codec.is_lossless());
        copy.peers.insert(offer.peer);
    }
}

impl Inner {
    /// What this download is.
    pub(super) async fn resolve(self: &Arc<Self>, download: &Transfer) -> Result<Found, Refusal> {
        let here = self.mesh.connected();
        let (inner, record) = (Arc::clone(self), download.clone());
        let looked = tokio::task::spawn_blocking(move || inner.look_up(&record)).await;
        let (mut found, entries) = looked.map_err(|error| Refusal::Full(error.to_string()))?;
        for (peer, entry) in entries {
            let copy = found.copies.entry((entry.content, entry.size)).or_default();
            copy.peers.insert(peer);
            copy.same.insert(peer);
        }
        if let Some(recording) = found.recording {
            let read = self.parts.store.read(|txn, tables| {
                Ok((tables.gossip.words_on(txn, recording)?, tables.library.variants_of(txn, recording)?))
            });
            let (words, own) = read.map_err(unreadable)?;
            for (peer, told) in &words {
                told.claims.iter().for_each(|claim| found.claim(*peer, claim));
            }
            // Nobody answers for a moment when others are being asked: their words will do.
            self.mesh.offers_of(recording).await.iter().for_each(|offer| found.offer(offer));
            // Peers offer, and name by their hashes, what was found to be no copy of it as well.
            let contents: Vec<ContentHash> = found.copies.keys().map(|(content, _)| *content).collect();
            let disproved = self.parts.store.read(|txn, tables| {
                let wrong = |content: &ContentHash| tables.gossip.is_disproved(txn, recording, *content);
                let told = contents.into_iter().map(|content| Ok((content, wrong(&content)?)));
                told.collect::<Result<BTreeMap<ContentHash, bool>, _>>()
            });
            let disproved = disproved.map_err(unreadable)?;
            found.copies.retain(|(content, _), _| disproved.get(content) != Some(&true));
            for variant in own {
                if let Some(copy) = found.copies.get_mut(&(variant.hash(), variant.measured.file_size_bytes)) {
                    copy.ours = true;
                }
            }
        }
        for copy in found.copies.values_mut() {
            copy.peers.retain(|peer| here.contains(peer));
            copy.same.retain(|peer| here.contains(peer));
        }
        found.copies.retain(|_, copy| !copy.peers.is_empty());
        Ok(found)
    }

    /// What the store and the bytes that are there say. On a thread that may wait.
    fn look_up(&self, download: &Transfer) -> (Found, Vec<(PeerId, HashEntry)>) {
        let store = &self.parts.store;
        let mut found = Found::default();
        let told = |error| {
            tracing::warn!(%error, "a download could not be looked up");
        };
        found.named(
            store.read(|txn, tables| tables.rescue.recording(txn, download.id)).unwrap_or_else(|error| {
                told(error);
                None
            }),
            KNOWN,
        );
        let mut entries = Vec::new();
        // What is known need not be found out; that takes a worker and its time.
        let measured = if found.recording.is_none() { self.partial(download) } else { None };
        if let Some(measured) = measured {
            let key = flac_key(&Measured { file_size_bytes: download.size, ..(*measured).clone() });
            let looked = store.read(|txn, tables| {
                let mut named = tables.gossip.hashes_of(txn, key, HASHES)?;
                named.retain(|(_, entry)| {
                    entry.head_sha256 == measured.head_sha256 && (download.size == 0 || entry.size == download.size)
                });
                Ok((named, tables.gossip.own_key(txn, key, 1)?.first().copied()))
            });
            match looked {
                Ok((named, own)) => {
                    let of = named.first().and_then(|(_, entry)| self.recording_of(entry.size, Some(entry.content)));
                    found.named(own.or(of), "hash of the partial file");
                    entries = named;
                }
                Err(error) => told(error),
            }
            if found.recording.is_none() {
                match self.heard(download, &measured) {
                    Ok(Some((recording, how))) => found.named(Some(recording), how),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "a partial file could not be identified"),
                }
            }
        }
        if found.recording.is_none() && download.size > 0 {
            found.named(self.by_name(download), "name and size");
            found.guessed = found.recording.is_some();
        }
        (found, entries)
    }

    /// The recording of a partial file, and what told it: its tags, else how it sounds beside the copies that are here,
    /// else what `AcoustID` says to that.
    fn heard(&self, download: &Transfer, measured: &Measured) -> Result<Option<(u128, &'static str)>, DoctorError> {
        if let Some(recording) = measured.tags.recording_id {
            return Ok(Some((recording, "tags of the partial file")));
        }
        if download.bytes_done <= FINGERPRINT_MIN || measured.fingerprint.is_empty() {
            return Ok(None);
        }
        let ground = &self.ground;
        let whole = Measured { duration_ms: whole_ms(measured, download), ..measured.clone() };
        if let Some(recording) =
            sounds_like(ground, &whole.fingerprint, whole.duration_ms, None, &|| self.cancel.is_cancelled())?
        {
            return Ok(Some((recording, "fingerprint of the partial file")));
        }
        if !ground.catalogue.can_identify() {
            return Ok(None);
        }
        let now = ground.clock.now().wall;
        let Measured { tags, .. } = &whole;
        let asked = Variant {
            identity: Identity {
                recording_id: None,
                release_id: tags.release_id,
                acoustid: tags.acoustid,
                matched_by: MatchedBy::Pending,
            },
            judged: ground.judge.judge(&whole),
            measured: whole,
            paths: Vec::new(),
            first_seen_at: now,
            last_seen_at: now,
            seen_count: 1,
        };
        let told = ground.catalogue.identify(&asked, false).recording_id;
        Ok(told.map(|recording| (recording, "fingerprint of the partial file, as AcoustID knows it")))
    }

    /// What the bytes that are there say of themselves.
    pub(super) fn partial(&self, download: &Transfer) -> Option<Box<Measured>> {
        let partial = download.partial.as_ref().filter(|_| download.bytes_done >= HEAD_MIN)?;
        let path = self.parts.pump.config().incomplete.join(&partial.file);
        measure(&self.ground, &path, download, &|| self.cancel.is_cancelled()).ok()
    }

    /// The recording that this content is a copy of, as peers say; without a content, if only one has the size.
    fn recording_of(&self, size: u64, content: Option<ContentHash>) -> Option<u128> {
        let found = self.parts.store.read(|txn, tables| {
            let mut found = Vec::new();
            for id in tables.gossip.of_size(txn, size, OF_SIZE)? {
                let known = tables.gossip.consensus(txn, id)?;
                let has = known.is_some_and(|known| {
                    known.variants.iter().any(|variant| content.is_none_or(|content| variant.claim.content == content))
                });
                if has {
                    found.push(id);
                }
            }
            Ok(found)
        });
        found.ok().filter(|found| found.len() == 1 || content.is_some())?.first().copied()
    }

    /// The one recording of which a copy has this size and is of the kind that the name stands for, if the path says its
    /// title and its artist. What those are is told by copies that are here, else by the catalogue; never by peers.
    fn by_name(&self, download: &Transfer) -> Option<u128> {
        let offered = Offered::of(download.path.base_name(), download.size, &Attributes::default())?;
        let found = self.parts.store.read(|txn, tables| {
            let mut found = Vec::new();
            for id in tables.gossip.of_size(txn, download.size, OF_SIZE)? {
                let known = tables.gossip.consensus(txn, id)?;
                let fits = |known: &crate::model::gossip::Consensus| {
                    known.variants.iter().any(|variant| {
                        variant.claim.size == download.size && offered.codecs.contains(&variant.claim.codec)
                    })
                };
                if known.as_ref().is_some_and(fits) {
                    found.push(id);
                }
            }
            Ok(found)
        });
        let recording = found.ok().filter(|found| found.len() == 1)?.first().copied()?;
        let own = self.parts.store.read(|txn, tables| tables.library.variants_of(txn, recording)).ok()?;
        let tags = own.into_iter().find_map(|variant| {
            let tags = variant.measured.tags;
            Some((tags.title?, tags.artist.unwrap_or_default()))
        });
        let (title, artist) = match tags {
            Some(called) => called,
            None => match self.ground.catalogue.called(recording, false) {
                Fact::Known(called) => called,
                Fact::Unknown | Fact::Later => return None,
            },
        };
        is_called(download.path.as_str(), &title, &artist).then_some(recording)
    }
}

/// Milliseconds that a file says it plays for, however little of it is there.
pub(super) fn declared_ms(measured: &Measured) -> Option<u64> {
    match &measured.detail {
        Detail::Flac(flac) if flac.total_samples > 0 && measured.sample_rate_hz > 0 => {
            flac.total_samples.checked_mul(1_000).map(|samples| samples / u64::from(measured.sample_rate_hz))
        }
        _ => None,
    }
}

/// Milliseconds that the whole file plays for: as it says, else as can be guessed.
fn whole_ms(measured: &Measured, download: &Transfer) -> u64 {
    let missing = download.size.saturating_sub(download.bytes_done);
    declared_ms(measured).unwrap_or_else(|| with_the_rest(measured.duration_ms, missing, measured.bitrate_kbps))
}

/// As long as what is there and, at the rate of its sound, the bytes that are not. By bytes alone it would be too short: what
/// is there may begin with a picture.
fn with_the_rest(heard_ms: u64, missing: u64, kbps: u32) -> u64 {
    heard_ms.saturating_add(missing.saturating_mul(8) / u64::from(kbps.max(1)))
}

/// Why there are no measurements of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unmeasured {
    /// Of the file's fault.
    Bad(String),
    /// Of the machine's, or nobody knows: another time perhaps.
    NotNow(String),
}

/// Measures a file in a worker of its own; its kind is that of the download's name.
pub(super) fn measure(
    ground: &Ground,
    path: &std::path::Path,
    download: &Transfer,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Box<Measured>, Unmeasured> {
    let file = ground.measure.open(path).map_err(|error| Unmeasured::NotNow(error.to_string()))?;
    match ground.measure.measure(file, download.path.base_name(), stop) {
        Some(Outcome::Measured(measured)) => Ok(measured),
        Some(Outcome::Broken(why) | Outcome::Unsupported(why)) => Err(Unmeasured::Bad(why)),
        Some(Outcome::GaveUp(why) | Outcome::NotTried(why)) => Err(Unmeasured::NotNow(why)),
        None => Err(Unmeasured::NotNow("the program ends".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::variant::Codec;

    #[test]
    fn a_picture_at_the_beginning_does_not_make_a_song_shorter() {
        // 10 MB of 320 kbit/s, 0.5 MB of them a picture; 5.5 MB are there.
        assert_eq!(with_the_rest(125_000, 4_500_000, 320), 237_500);
        assert_eq!(with_the_rest(125_000, 0, 320), 125_000);
        assert_eq!(with_the_rest(1, u64::MAX, 0), u64::MAX);
    }

    #[test]
    fn who_offers_a_copy_when_asked_is_as_good_as_who_told_of_it() {
        let offer = |peer: u8, content: u8, codec| Offer {
            peer: PeerId([peer; 32]),
            recording: 7,
            content: ContentHash([content; 32]),
            size: 9,
            codec,
            bitrate_kbps: 900,
        };
        let told = CopyHere { peers: [PeerId([1; 32])].into(), score: 0.5, ..CopyHere::default() };
        let mut found = Found { copies: [((ContentHash([1; 32]), 9), told)].into(), ..Found::default() };
        for offer in [offer(2, 1, Codec::Flac), offer(3, 2, Codec::Mp3), offer(3, 2, Codec::Mp3)] {
            found.offer(&offer);
        }
        let copy = |content| found.copies[&(ContentHash([content; 32]), 9)].clone();
        assert_eq!(copy(1).peers, [PeerId([1; 32]), PeerId([2; 32])].into());
        assert!((copy(1).score - 0.5).abs() < f32::EPSILON, "what was told of it stays");
        assert_eq!((copy(2).peers.len(), copy(2).lossless, copy(2).is_suspect()), (1, Some(false), false));
        assert!(copy(2).same.is_empty(), "nobody said that these are the very bytes");
    }
}
