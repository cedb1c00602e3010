//! What mesh peers say of recordings and of the copies they have, and what follows from it.

use serde::{Deserialize, Serialize};

use super::id::{ContentHash, PeerId};
use super::music::Attributes;
use super::time::UnixMs;
use super::variant::{Codec, Container};

/// One copy as somebody describes it (SPEC-FACTS 9). Its form goes over the wire and into the store, so it never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// Content hash: the id of the variant, and the root of its pieces.
    pub content: ContentHash,
    /// SHA-256 of the file.
    pub file_sha256: [u8; 32],
    /// The first 64 bits of the content identity that survives new tags (SPEC-FACTS C22).
    pub flac_key: u64,
    /// Length of the file, bytes.
    pub size: u64,
    /// How the audio is coded.
    pub codec: Codec,
    /// What it is wrapped in.
    pub container: Container,
    /// Said besides the codec, and must agree with it.
    pub lossless: bool,
    /// Hz.
    pub sample_rate_hz: u32,
    /// Bits of a sample; `None` for lossy codecs.
    pub bit_depth: Option<u8>,
    /// Channels.
    pub channels: u8,
    /// Milliseconds.
    pub duration_ms: u64,
    /// kbit/s.
    pub bitrate_kbps: u32,
    /// The verdict is transcode.
    pub transcode_suspect: bool,
    /// 0..=1.
    pub quality_score: f32,
    /// DR14, dB.
    pub dynamic_range_dr: Option<f32>,
    /// LUFS.
    pub loudness_lufs: Option<f32>,
    /// Runs of samples at the ceiling.
    pub has_clipping: bool,
    /// The program that coded it, as the file says.
    pub encoder_signature: Option<String>,
}

impl Mode {
    /// By its name, as `name` gives it.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Any, Self::CanonicalMaster, Self::NoTranscodes].into_iter().find(|mode| mode.name() == name)
    }

    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::CanonicalMaster => "canonical_master",
            Self::NoTranscodes => "no_transcodes",
        }
    }
}

impl Claim {
    /// `FLAC-16bit-44100Hz-2ch` or `MP3-lossy-44100Hz-2ch` (SPEC-FACTS 2.1, C22).
    pub fn profile(&self) -> String {
        profile(self.codec, self.bit_depth, self.sample_rate_hz, self.channels)
    }
}

/// The codec profile of a copy.
pub fn profile(codec: Codec, bit_depth: Option<u8>, sample_rate_hz: u32, channels: u8) -> String {
    match bit_depth.filter(|_| codec.is_lossless()) {
        Some(bits) => format!("{}-{bits}bit-{sample_rate_hz}Hz-{channels}ch", codec.name()),
        None => format!("{}-lossy-{sample_rate_hz}Hz-{channels}ch", codec.name()),
    }
}

/// What one peer says of one recording: its last word, all its copies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// When it was heard.
    pub at: UnixMs,
    /// Copies with different bytes.
    pub claims: Vec<Claim>,
}

/// How far a peer's list was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Which list; 0 if none was heard.
    pub bundle: u64,
    /// Its last number that was heard.
    pub sequence: u64,
}

/// One copy of a recording, with what all together say of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// As measured here, else as the first who told it says; score and suspicion are the common opinion.
    pub claim: Claim,
    /// It lies here.
    pub local: bool,
    /// Distinct keys that have it, our own included.
    pub seen: u32,
    /// Distinct peers whose best copy it is.
    pub peers_agreeing: u32,
    /// The same, our own key included.
    pub keys_agreeing: u32,
    /// 0..=1 (SPEC-FACTS 4).
    pub canonicality: f32,
}

/// What is known of a recording over all codec profiles, from here and from peers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Consensus {
    /// MusicBrainz recording.
    pub recording_id: u128,
    /// Peers that have any copy of it.
    pub peers: u32,
    /// Copies with different bytes, those that are not listed included.
    pub variant_count: u32,
    /// The best first; at most `limits::CONSENSUS_VARIANTS`.
    pub variants: Vec<Known>,
    /// When this was computed.
    pub updated_at: UnixMs,
}

impl Consensus {
    /// The copy to have.
    pub fn best(&self) -> Option<&Known> {
        self.variants.first()
    }
}

/// Which copies may be chosen (SPEC-FACTS 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Whatever there is, the common order first.
    Any,
    /// The copy most agree on, and no other.
    #[default]
    CanonicalMaster,
    /// Anything that is no suspected transcode.
    NoTranscodes,
}

/// A file as somebody offers it, as far as they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Bytes.
    pub size: u64,
    /// What its name may stand for.
    pub codecs: &'static [Codec],
    /// Seconds.
    pub duration_s: Option<u32>,
    /// kbit/s.
    pub bitrate_kbps: Option<u32>,
    /// Hz.
    pub sample_rate_hz: Option<u32>,
    /// Bits of a sample.
    pub bit_depth: Option<u32>,
}

impl Offered {
    /// A file of this name; `None` if the name is not that of audio.
    pub fn of(name: &str, size: u64, attributes: &Attributes) -> Option<Self> {
        let (_, extension) = name.rsplit_once('.')?;
        let codecs: &'static [Codec] = match extension.to_ascii_lowercase().as_str() {
            "flac" => &[Codec::Flac],
            "mp3" => &[Codec::Mp3],
            "m4a" | "mp4" | "caf" => &[Codec::Aac, Codec::Alac],
            "aac" => &[Codec::Aac],
            "ogg" | "oga" => &[Codec::Vorbis, Codec::Opus, Codec::Flac],
            "opus" => &[Codec::Opus],
            "wav" | "aif" | "aiff" => &[Codec::Wav],
            _ => return None,
        };
        let Attributes { bitrate_kbps, duration_s, sample_rate_hz, bit_depth, .. } = *attributes;
        Some(Self { size, codecs, duration_s, bitrate_kbps, sample_rate_hz, bit_depth })
    }
}

/// What is said of an offered file that matches a known copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Badge {
    /// It is the copy to have.
    Canonical {
        /// Canonicality, 0..=1.
        score: f32,
        /// Peers whose best copy it is.
        peers: u32,
    },
    /// A lossy copy that sounds as it says.
    GoodLossy,
    /// It is suspected to be made of a lossy copy.
    LikelyTranscode,
}

impl Badge {
    /// Canonical first, suspects last; unknown files lie between good lossy ones and suspects.
    pub fn rank(badge: Option<Self>) -> u8 {
        match badge {
            Some(Self::Canonical { .. }) => 0,
            Some(Self::GoodLossy) => 1,
            None => 2,
            Some(Self::LikelyTranscode) => 3,
        }
    }
}

impl std::fmt::Display for Badge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Canonical { score, peers: 1 } => write!(f, "Canonical variant (score {score:.2}, 1 peer agrees)"),
            Self::Canonical { score, peers } => write!(f, "Canonical variant (score {score:.2}, {peers} peers agree)"),
            Self::GoodLossy => f.write_str("good lossy"),
            Self::LikelyTranscode => f.write_str("likely transcode"),
        }
    }
}

/// A copy that a peer's hash list names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashEntry {
    /// Place in the sender's list.
    pub sequence: u64,
    /// See [`Claim::flac_key`].
    pub flac_key: u64,
    /// SHA-256 of the first 32,768 bytes.
    pub head_sha256: [u8; 32],
    /// Content hash.
    pub content: ContentHash,
    /// Bytes.
    pub size: u64,
}

/// A copy of a recording that a peer offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Who.
    pub peer: PeerId,
    /// Of which recording.
    pub recording: u128,
    /// Its content hash.
    pub content: ContentHash,
    /// Bytes.
    pub size: u64,
    /// How it is coded.
    pub codec: Codec,
    /// kbit/s.
    pub bitrate_kbps: u32,
}

/// What a peer says it has of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Who.
    pub peer: PeerId,
    /// Title of the release.
    pub title: Option<String>,
    /// Artist of the release.
    pub artist: Option<String>,
    /// All of it is lossless.
    pub lossless: bool,
    /// Every track of it is there, as far as that is known.
    pub has_full_album: Option<bool>,
    /// Its tracks; at most `limits::GOSSIP_TRACKS`.
    pub tracks: Vec<DescribedTrack>,
}

/// One of its tracks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedTrack {
    /// From 1 on.
    pub number: u32,
    /// Title.
    pub title: Option<String>,
    /// MusicBrainz recording.
    pub recording: Option<u128>,
    /// Bytes.
    pub size: Option<u64>,
    /// How it is coded.
    pub codec: Option<Codec>,
    /// kbit/s.
    pub bitrate_kbps: Option<u32>,
    /// Thousandths of the score.
    pub quality_permille: Option<u16>,
}
