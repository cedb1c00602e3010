//! Made-up measurements for tests.

use crate::model::health::{Identity, Judged, LocalPath, MatchedBy, Variant};
use crate::model::id::ContentHash;
use crate::model::spectrum::Spectrum;
use crate::model::time::UnixMs;
use crate::model::variant::{Codec, Container, Detail, Integrity, Loudness, Measured, Tags};

/// A whole FLAC of three minutes whose content is this.
pub(crate) fn measured(content: &[u8]) -> Measured {
    let hash = *blake3::hash(content).as_bytes();
    Measured {
        codec: Codec::Flac,
        container: Container::Flac,
        sample_rate_hz: 44_100,
        bit_depth: Some(16),
        channels: 2,
        samples: 180 * 44_100,
        duration_ms: 180_000,
        bitrate_kbps: 900,
        file_size_bytes: content.len() as u64,
        content_hash: ContentHash(hash),
        file_sha256: hash,
        head_sha256: hash,
        stream_hash: [0; 16],
        fingerprint: hash.iter().map(|byte| u32::from(*byte)).collect(),
        sketch: 7,
        loudness: Loudness::default(),
        spectrum: Spectrum { effective_bandwidth_hz: 20_500, ..Spectrum::default() },
        detail: Detail::Plain,
        encoder: None,
        integrity: Integrity::default(),
        tags: Tags {
            title: Some("Title".into()),
            artist: Some("Artist".into()),
            album: Some("Album".into()),
            ..Tags::default()
        },
    }
}

/// A copy with this score at this path.
pub(crate) fn variant(path: &str, score: f32) -> Variant {
    Variant {
        measured: measured(path.as_bytes()),
        judged: Judged { quality_score: score, ..Judged::default() },
        identity: Identity { recording_id: Some(1), release_id: None, acoustid: None, matched_by: MatchedBy::Tags },
        paths: vec![LocalPath::from(path)],
        first_seen_at: UnixMs(1),
        last_seen_at: UnixMs(1),
        seen_count: 1,
    }
}
