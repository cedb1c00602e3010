//! Messages about recordings: frames of the kinds 6 to 15, their form and what may stand in them (SPEC-FACTS 9, 12).
//!
//! | Kind | Message |
//! |---|---|
//! | 6 | `fingerprint_bundle_advert` |
//! | 7 | `mbid_swarm_descriptor` |
//! | 8 | `mesh_cache_job`, request or offer |
//! | 9 | hash sync: hello |
//! | 10 | hash sync: `req_delta` |
//! | 11 | hash sync: `push_delta` |
//! | 12, 13 | hash sync: `req_key`, `resp_key` |
//! | 14 | hash sync: ack |
//! | 15 | ask: for bundles from a number on, or for a release's descriptor |
//!
//! The sender is the key of the connection and the message id is the frame's, so neither stands in the body. There is no
//! word for a path, a file name or a folder. Lists stop being read at their limit. What may stand in a
//! field is [`super::lie`]'s; when each is sent, and what becomes of it, is [`super::gossip`]'s.

use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::frame::{BODY_LEN, FrameError};
use crate::model::gossip::{Claim, HashEntry};
use crate::model::id::ContentHash;
use crate::model::limits;
use crate::model::variant::Codec;

/// Copies of one recording, with what identifies it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecordingAdvert {
    /// MusicBrainz recording.
    pub mb_recording_id: Option<u128>,
    /// `AcoustID`.
    pub acoustid: Option<u128>,
    /// SHA-1 of the fingerprint's words, little-endian.
    pub fingerprint_sha1: Option<[u8; 20]>,
    /// Title of the track.
    pub title: Option<String>,
    /// Artist of the track.
    pub artist: Option<String>,
    /// All copies the sender has; none: it has none any more.
    #[serde(deserialize_with = "list::<{ limits::GOSSIP_VARIANTS }, _, _>")]
    pub variants: Vec<Claim>,
}

/// What the sender has, or what changed of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Advert {
    /// Which list: random, not 0, new when the sender's store is.
    pub bundle_id: u64,
    /// The number this one follows.
    pub after: u64,
    /// The number it brings the receiver to.
    pub sequence: u64,
    /// Everything that was told before is void.
    pub full_snapshot: bool,
    /// What is told.
    #[serde(deserialize_with = "list::<{ limits::GOSSIP_RECORDINGS }, _, _>")]
    pub recordings: Vec<RecordingAdvert>,
}

/// What an edition is, as the files of it tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Edition {
    /// Record label.
    pub label: Option<String>,
    /// Its number for the release.
    pub catalog_number: Option<String>,
    /// Country.
    pub release_country: Option<String>,
    /// Date as written.
    pub release_date: Option<String>,
    /// Medium.
    pub medium_format: Option<String>,
    /// All tracks are lossless.
    pub lossless: bool,
    /// Of most tracks.
    pub codec: Option<Codec>,
    /// Of most tracks, Hz.
    pub sample_rate_hz: u32,
    /// Of most tracks.
    pub bit_depth: Option<u8>,
    /// Of most tracks.
    pub channels: u8,
}

/// How much of a track is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrackState {
    /// All of it.
    Complete,
    /// Some of it.
    Partial,
    /// Nothing.
    Missing,
}

/// One track of a release and how much of it is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrackHave {
    /// From 1 on, over all media.
    pub track_number: u32,
    /// Title.
    pub title: Option<String>,
    /// MusicBrainz recording.
    pub mb_recording_id: Option<u128>,
    /// Milliseconds.
    pub duration_ms: Option<u64>,
    /// Bytes.
    pub file_size_bytes: Option<u64>,
    /// How it is coded.
    pub codec: Option<Codec>,
    /// kbit/s.
    pub bitrate_kbps: Option<u32>,
    /// Whether it is lossless.
    pub lossless: Option<bool>,
    /// 0..=1.
    pub quality_score: Option<f32>,
    /// How much of it is there.
    pub availability: TrackState,
}

/// What the sender does and does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// Soulseek first.
    pub prefer_soulseek_primary: bool,
    /// Peers served at once.
    pub max_overlay_upload_slots: u32,
    /// kbit/s; 0 is no limit.
    pub max_overlay_bandwidth_kbps: u32,
    /// Peers it fetches one file from at once.
    pub max_concurrent_overlay_peers: u32,
    /// It passes on what it is still fetching from Soulseek.
    pub allow_relay_from_soulseek: bool,
}

/// What the sender has of a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Descriptor {
    /// MusicBrainz release.
    pub mb_release_id: u128,
    /// MusicBrainz release group.
    pub mb_release_group_id: Option<u128>,
    /// Discogs release.
    pub discogs_release_id: Option<u64>,
    /// Title of the release.
    pub title: Option<String>,
    /// Artist of the release.
    pub artist: Option<String>,
    /// Which edition.
    pub edition: Edition,
    /// Every track of it is there, as far as that is known.
    pub has_full_album: Option<bool>,
    /// What is known of its tracks.
    #[serde(deserialize_with = "list::<{ limits::GOSSIP_TRACKS }, _, _>")]
    pub tracks: Vec<TrackHave>,
    /// What the sender does.
    pub policies: Policies,
    /// It keeps the release for others.
    pub cache: bool,
    /// MusicBrainz labels.
    #[serde(deserialize_with = "list::<8, _, _>")]
    pub mb_label_ids: Vec<u128>,
}

/// A track that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedTrack {
    /// From 1 on, over all media.
    pub track_number: u32,
    /// MusicBrainz recording.
    pub mb_recording_id: Option<u128>,
    /// 0 to 10.
    pub priority: u8,
    /// Others will not do; none: any will.
    #[serde(deserialize_with = "list::<8, _, _>")]
    pub allowed_codecs: Vec<Codec>,
    /// kbit/s.
    pub min_bitrate_kbps: Option<u32>,
    /// Lossy ones will not do.
    pub lossless_required: bool,
}

/// A track that can be had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfferedTrack {
    /// As it was asked for.
    pub track_number: u32,
    /// MusicBrainz recording.
    pub mb_recording_id: Option<u128>,
    /// Content hash: the id of the variant.
    pub variant_id: ContentHash,
    /// Root of its pieces; the content hash again (DESIGN 2.5).
    pub pieces_root: ContentHash,
    /// Bytes.
    pub file_size_bytes: u64,
    /// SHA-256 of the file.
    pub file_sha256: [u8; 32],
    /// Whether it is lossless.
    pub lossless: bool,
    /// How it is coded.
    pub codec: Codec,
    /// kbit/s.
    pub bitrate_kbps: u32,
}

/// A request for tracks, or what is offered in answer to it, with the request's message id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheJob {
    /// Random; an offer has that of the request.
    pub job_id: u128,
    /// An offer, not a request.
    pub is_offer: bool,
    /// MusicBrainz release.
    pub mb_release_id: Option<u128>,
    /// Of a request.
    #[serde(deserialize_with = "list::<{ limits::GOSSIP_TRACKS }, _, _>")]
    pub requested: Vec<WantedTrack>,
    /// Of an offer.
    #[serde(deserialize_with = "list::<{ limits::GOSSIP_TRACKS }, _, _>")]
    pub offered: Vec<OfferedTrack>,
    /// Seconds for which it holds.
    pub ttl_seconds: u32,
    /// KiB the sender means to move for it.
    pub max_total_overlay_kib: u64,
    /// Peers it deals with at once.
    pub max_concurrent_overlay_peers: u32,
    /// kbit/s; 0 is no limit.
    pub max_overlay_bandwidth_kbps: u32,
    /// Soulseek first.
    pub prefer_soulseek_primary: bool,
}

/// What the sender wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Bundles after this number, and later ones as they come. Of another list than this, all.
    Bundles {
        /// The list it has; 0 for none.
        bundle_id: u64,
        /// As far as it has it.
        after: u64,
    },
    /// The descriptor of a release.
    Release(u128),
}

/// A message of the kinds 6 to 15.
#[derive(Clone, Debug, PartialEq)]
pub enum Control {
    /// What the sender has.
    Advert(Advert),
    /// What it has of a release.
    Descriptor(Box<Descriptor>),
    /// Tracks wanted or offered.
    CacheJob(Box<CacheJob>),
    /// Hashes: how many there are.
    SyncHello {
        /// Which list.
        bundle_id: u64,
        /// Its last number.
        latest: u64,
        /// Entries.
        count: u64,
    },
    /// Hashes: the next ones after a number.
    SyncAsk {
        /// Those after it.
        after: u64,
        /// At most so many.
        max: u16,
    },
    /// Hashes: some.
    SyncDelta {
        /// Which list.
        bundle_id: u64,
        /// In the order of their numbers.
        entries: Vec<HashEntry>,
        /// The number it brings the receiver to.
        sequence: u64,
        /// There are more.
        has_more: bool,
    },
    /// Hashes: what is behind this key?
    SyncAskKey(u64),
    /// Hashes: this is.
    SyncKey(u64, Vec<HashEntry>),
    /// Hashes: heard up to this number.
    SyncAck(u64),
    /// Something is to be told.
    Ask(Ask),
}

/// A control message as it lies in its frame, of the form of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    kind: u16,
    body: Vec<u8>,
}

impl Sealed {
    /// The first and the last kind.
    pub const KINDS: std::ops::RangeInclusive<u16> = 6..=15;

    /// Looks at a body and keeps it.
    ///
    /// # Errors
    /// It is not of its kind's form.
    pub fn check(kind: u16, body: &[u8]) -> Result<Self, FrameError> {
        Control::parse(kind, body)?;
        Ok(Self { kind, body: body.to_vec() })
    }

    /// The number on the wire.
    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// What it says.
    ///
    /// # Errors
    /// None after [`Sealed::check`].
    pub fn open(&self) -> Result<Control, FrameError> {
        Control::parse(self.kind, &self.body)
    }
}

impl Control {
    /// The number on the wire.
    pub fn kind(&self) -> u16 {
        match self {
            Self::Advert(_) => 6,
            Self::Descriptor(_) => 7,
            Self::CacheJob(_) => 8,
            Self::SyncHello { .. } => 9,
            Self::SyncAsk { .. } => 10,
            Self::SyncDelta { .. } => 11,
            Self::SyncAskKey(_) => 12,
            Self::SyncKey(..) => 13,
            Self::SyncAck(_) => 14,
            Self::Ask(_) => 15,
        }
    }

    /// As it lies in its frame; `None` if it does not fit into one.
    pub fn seal(&self) -> Option<Sealed> {
        let body = match self {
            Self::Advert(advert) => bytes(advert),
            Self::Descriptor(descriptor) => bytes(descriptor),
            Self::CacheJob(job) => bytes(job),
            Self::SyncHello { bundle_id, latest, count } => bytes(&(bundle_id, latest, count)),
            Self::SyncAsk { after, max } => bytes(&(after, max)),
            Self::SyncDelta { bundle_id, entries, sequence, has_more } => {
                bytes(&(bundle_id, Few(entries.clone()), sequence, has_more))
            }
            Self::SyncAskKey(key) | Self::SyncAck(key) => bytes(key),
            Self::SyncKey(key, entries) => bytes(&(key, Few(entries.clone()))),
            Self::Ask(ask) => bytes(ask),
        };
        Some(Sealed { kind: self.kind(), body }).filter(|sealed| sealed.body.len() <= BODY_LEN)
    }

    fn parse(kind: u16, body: &[u8]) -> Result<Self, FrameError> {
        Ok(match kind {
            6 => Self::Advert(whole(kind, body)?),
            7 => Self::Descriptor(Box::new(whole(kind, body)?)),
            8 => Self::CacheJob(Box::new(whole(kind, body)?)),
            9 => {
                let (bundle_id, latest, count) = whole(kind, body)?;
                Self::SyncHello { bundle_id, latest, count }
            }
            10 => {
                let (after, max) = whole(kind, body)?;
                Self::SyncAsk { after, max }
            }
            11 => {
                let (bundle_id, Few(entries), sequence, has_more) = whole(kind, body)?;
                Self::SyncDelta { bundle_id, entries, sequence, has_more }
            }
            12 => Self::SyncAskKey(whole(kind, body)?),
            13 => {
                let (key, Few(entries)) = whole(kind, body)?;
                Self::SyncKey(key, entries)
            }
            14 => Self::SyncAck(whole(kind, body)?),
            15 => Self::Ask(whole(kind, body)?),
            _ => return Err(FrameError::Malformed(kind)),
        })
    }
}

/// Writing into memory fails only for forms that postcard has no words for, of which there is none here.
fn bytes(value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, Vec::new()).unwrap_or_default()
}

fn whole<T: DeserializeOwned>(kind: u16, body: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(FrameError::Malformed(kind)),
    }
}

/// Hashes, no more of them than one request is for.
#[derive(Serialize, Deserialize)]
struct Few(#[serde(deserialize_with = "list::<{ limits::GOSSIP_DELTA as usize }, _, _>")] Vec<HashEntry>);

/// A list that ends the reading where it becomes longer than it may be.
fn list<'de, const N: usize, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Short<T, const N: usize>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Short<T, N> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "at most {N} entries")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
            let mut found = Vec::new();
            while let Some(entry) = entries.next_element()? {
                if found.len() >= N {
                    return Err(serde::de::Error::invalid_length(N + 1, &self));
                }
                found.push(entry);
            }
            Ok(found)
        }
    }

    from.deserialize_seq(Short::<T, N>(std::marker::PhantomData))
}

/// Counts what goes into one frame, entry by entry.
#[derive(Debug)]
pub struct Room {
    left: usize,
}

impl Default for Room {
    fn default() -> Self {
        // Numbers and lengths around the list take less than this.
        Self { left: BODY_LEN - 64 }
    }
}

impl Room {
    /// Whether one more entry fits; if so it is counted.
    pub fn takes(&mut self, entry: &impl Serialize) -> bool {
        let length = bytes(entry).len();
        let fits = length <= self.left;
        if fits {
            self.left -= length;
        }
        fits
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
pub(crate) mod tests;
