//! One audio file as it was measured: what it is, how it sounds, what its bytes hash to.
//!
//! Only measurements and marks stand here, no judgements: a new version of the rules judges anew without decoding again.

use serde::{Deserialize, Serialize};

use super::id::ContentHash;
use super::spectrum::Spectrum;

/// How the audio is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Codec {
    /// Free Lossless Audio Codec, in its own container or in Ogg.
    Flac,
    /// Apple Lossless.
    Alac,
    /// Uncompressed samples, in WAV or AIFF.
    Wav,
    /// MPEG-1, -2 and -2.5 layer III.
    Mp3,
    /// MPEG-4 AAC, every profile.
    Aac,
    /// Opus.
    Opus,
    /// Vorbis.
    Vorbis,
}

impl Codec {
    /// Whether decoding gives back the samples that were coded.
    pub fn is_lossless(self) -> bool {
        matches!(self, Self::Flac | Self::Alac | Self::Wav)
    }

    /// All of them.
    pub const ALL: [Self; 7] = [Self::Flac, Self::Alac, Self::Wav, Self::Mp3, Self::Aac, Self::Opus, Self::Vorbis];

    /// The codec of this name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(name))
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flac => "FLAC",
            Self::Alac => "ALAC",
            Self::Wav => "WAV",
            Self::Mp3 => "MP3",
            Self::Aac => "AAC",
            Self::Opus => "Opus",
            Self::Vorbis => "Vorbis",
        }
    }
}

/// What the coded audio is wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Container {
    /// FLAC's own.
    Flac,
    /// Ogg.
    Ogg,
    /// ISO base media: `.m4a`, `.mp4`.
    Mp4,
    /// RIFF WAVE, RF64 included.
    Wav,
    /// AIFF and AIFF-C.
    Aiff,
    /// Bare MPEG audio frames.
    Mpeg,
    /// Bare AAC frames with ADTS headers.
    Adts,
    /// Core Audio.
    Caf,
}

impl Container {
    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flac => "FLAC",
            Self::Ogg => "Ogg",
            Self::Mp4 => "MP4",
            Self::Wav => "WAV",
            Self::Aiff => "AIFF",
            Self::Mpeg => "MPEG",
            Self::Adts => "ADTS",
            Self::Caf => "CAF",
        }
    }
}

/// What a worker found out about one file in one pass over its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// How the audio is coded.
    pub codec: Codec,
    /// What it is wrapped in.
    pub container: Container,
    /// Hz.
    pub sample_rate_hz: u32,
    /// Bits of a sample; `None` for lossy codecs.
    pub bit_depth: Option<u8>,
    /// Channels.
    pub channels: u8,
    /// Samples of one channel that a player hears: decoded, less the encoder's delay and padding where the file says it.
    pub samples: u64,
    /// `samples` in milliseconds, rounded to the nearest.
    pub duration_ms: u64,
    /// Mean over the audio bytes (tags and pictures left out), kbit/s.
    pub bitrate_kbps: u32,
    /// Length of the file, bytes.
    pub file_size_bytes: u64,
    /// BLAKE3 of the file's bytes: its content identity.
    pub content_hash: ContentHash,
    /// SHA-256 of the file's bytes.
    pub file_sha256: [u8; 32],
    /// SHA-256 of the first 32,768 bytes (of all, if fewer).
    pub head_sha256: [u8; 32],
    /// The first 128 bits of the BLAKE3 hash of the coded audio alone, tags and headers left out.
    pub stream_hash: [u8; 16],
    /// Chromaprint (AcoustID's algorithm) over the first 120 s; empty when shorter than one word takes.
    pub fingerprint: Vec<u32>,
    /// A 64-bit likeness of the sound; near ones differ in few bits, whatever the codec.
    pub sketch: u64,
    /// EBU R128 and dynamics; `None` where nothing could be measured (silence, no whole block).
    pub loudness: Loudness,
    /// Where the energy lies.
    pub spectrum: Spectrum,
    /// What this codec's headers say.
    pub detail: Detail,
    /// The program that coded it, as the file says; at most `limits::TAG_TEXT_LEN` bytes.
    pub encoder: Option<String>,
    /// Whether the bytes are whole.
    pub integrity: Integrity,
    /// What the tags say.
    pub tags: Tags,
}

/// Loudness, peaks and dynamics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loudness {
    /// Integrated loudness, LUFS (ITU-R BS.1770-4); `None` below the absolute gate throughout.
    pub integrated_lufs: Option<f32>,
    /// Loudness range, LU (EBU Tech 3342).
    pub range_lu: Option<f32>,
    /// True peak, dBTP (BS.1770-4 annex 2); `None` for silence.
    pub true_peak_dbtp: Option<f32>,
    /// Largest sample, 1.0 is full scale.
    pub sample_peak: f32,
    /// DR14 value, dB, unrounded; `None` when shorter than one 3 s block or silent.
    pub dynamic_range_dr: Option<f32>,
    /// Runs of samples at the ceiling: at least three in a row at the same extreme, near full scale.
    pub clipping_runs: u32,
}

/// What only one codec's headers say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Detail {
    /// FLAC.
    Flac(FlacDetail),
    /// MP3.
    Mp3(Mp3Detail),
    /// AAC.
    Aac(AacDetail),
    /// Opus.
    Opus(OpusDetail),
    /// Vorbis: the nominal bit rate its header declares, kbit/s.
    Vorbis {
        /// `None` when the header leaves it open.
        nominal_bitrate_kbps: Option<u32>,
    },
    /// ALAC and plain samples say nothing more.
    Plain,
}

/// FLAC's STREAMINFO.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlacDetail {
    /// The first 128 bits of the BLAKE3 hash of magic, block header and STREAMINFO (42 bytes).
    pub streaminfo_hash: [u8; 16],
    /// MD5 of the samples as the encoder wrote it; all zero means it wrote none.
    pub pcm_md5: [u8; 16],
    /// Samples.
    pub block_size_min: u16,
    /// Samples.
    pub block_size_max: u16,
    /// Bytes; 0 is unknown.
    pub frame_size_min: u32,
    /// Bytes; 0 is unknown.
    pub frame_size_max: u32,
    /// Samples of one channel as declared; 0 is unknown.
    pub total_samples: u64,
}

/// MP3's frames and its Xing, Info, VBRI and LAME headers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mp3Detail {
    /// LAME, GOGO, FhG or Unknown, from the headers.
    pub encoder: Mp3Encoder,
    /// The preset the LAME header names or the frames show, such as `CBR_320`, `V0`.
    pub encoder_preset: Option<String>,
    /// Frames walked.
    pub frames: u64,
    /// Bit rates seen, kbit/s: smallest and largest.
    pub bitrate_range_kbps: (u32, u32),
    /// The low-pass the LAME header declares, Hz.
    pub lowpass_hz: Option<u32>,
    /// Samples of delay and padding the LAME header declares.
    pub delay_padding: Option<(u32, u32)>,
}

/// Who coded an MP3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mp3Encoder {
    /// LAME, and Lavc which uses it.
    Lame,
    /// GOGO.
    Gogo,
    /// Fraunhofer (VBRI header).
    Fhg,
    /// The headers do not say.
    #[default]
    Unknown,
}

/// AAC's AudioSpecificConfig.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AacDetail {
    /// The profile.
    pub profile: AacProfile,
    /// Spectral band replication.
    pub sbr_present: bool,
    /// Parametric stereo.
    pub ps_present: bool,
    /// The mean bit rate `esds` declares, kbit/s.
    pub nominal_bitrate_kbps: Option<u32>,
    /// What was measured is only the core below the replicated band: the decoder goes no farther.
    pub core_only: bool,
}

/// AAC profiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AacProfile {
    /// Low complexity.
    #[default]
    Lc,
    /// LC with spectral band replication.
    He,
    /// HE with parametric stereo.
    HeV2,
    /// Low delay.
    Ld,
    /// Enhanced low delay.
    Eld,
    /// Any other object type.
    Other,
}

/// Opus's identification header and packets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpusDetail {
    /// Samples at 48 kHz to leave out at the start.
    pub pre_skip: u16,
    /// Output gain, 1/256 dB.
    pub gain_q8: i16,
    /// Rate of what was coded, Hz, as the header says.
    pub input_sample_rate_hz: u32,
    /// What the packets' configurations are mostly of.
    pub application: OpusApplication,
    /// The widest band among the packets.
    pub bandwidth: OpusBandwidth,
}

/// What an Opus encoder was asked to be good at, as its packets' modes show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpusApplication {
    /// Mostly SILK or hybrid packets.
    Voip,
    /// Mostly CELT packets of 20 ms or more.
    #[default]
    Audio,
    /// Mostly CELT packets below 10 ms.
    LowDelay,
}

/// Opus bands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OpusBandwidth {
    /// 4 kHz.
    Narrow,
    /// 6 kHz.
    Medium,
    /// 8 kHz.
    Wide,
    /// 12 kHz.
    Superwide,
    /// 20 kHz.
    #[default]
    Full,
}

/// Whether a file's bytes are whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Integrity {
    /// Frames or packets that did not decode or whose checksum was wrong.
    pub bad_frames: u32,
    /// The first of them.
    pub first_bad: Option<BadFrame>,
    /// FLAC's samples against STREAMINFO's MD5.
    pub md5: Md5Check,
    /// The audio ends before the headers say it does: samples missing of one channel.
    pub samples_missing: u64,
}

impl Integrity {
    /// Whether nothing is wrong with it.
    pub fn is_whole(&self) -> bool {
        self.bad_frames == 0 && self.md5 != Md5Check::Different && self.samples_missing == 0
    }
}

/// Where a file is broken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BadFrame {
    /// Offset in the file, bytes, where it is known; else of the last good one.
    pub at_byte: u64,
    /// Moment in the audio, milliseconds.
    pub at_ms: u64,
    /// What was wrong with it.
    pub what: String,
}

/// How the decoded samples compare with the MD5 the encoder left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Md5Check {
    /// The format has none, or the encoder left none.
    #[default]
    Absent,
    /// Equal.
    Equal,
    /// Not equal: the audio is not what was coded.
    Different,
}

/// What the tags say; every text at most `limits::TAG_TEXT_LEN` bytes, cut at a character.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    /// Title of the track.
    pub title: Option<String>,
    /// Artist of the track.
    pub artist: Option<String>,
    /// Title of the release.
    pub album: Option<String>,
    /// Artist of the release.
    pub album_artist: Option<String>,
    /// Place on the medium.
    pub track: Option<u32>,
    /// Medium of the release.
    pub disc: Option<u32>,
    /// Date as written.
    pub date: Option<String>,
    /// Record label as written.
    pub label: Option<String>,
    /// International standard recording code.
    pub isrc: Option<String>,
    /// MusicBrainz recording (tag `MUSICBRAINZ_TRACKID`).
    pub recording_id: Option<u128>,
    /// MusicBrainz release (tag `MUSICBRAINZ_ALBUMID`).
    pub release_id: Option<u128>,
    /// MusicBrainz release group.
    pub release_group_id: Option<u128>,
    /// MusicBrainz artist.
    pub artist_id: Option<u128>,
    /// AcoustID.
    pub acoustid: Option<u128>,
    /// Discogs release number.
    pub discogs_release_id: Option<u64>,
    /// A picture is embedded.
    pub has_picture: bool,
}
