//! A measured file for the unit tests of the rules, to be changed where a test needs it.

use crate::model::id::ContentHash;
use crate::model::spectrum::{Edge, Grid, GridCodec, Spectrum};
use crate::model::variant::{Codec, Container, Detail, Integrity, Loudness, Measured, Tags};

/// A whole, full-band CD track in `codec`, DR unknown.
pub(super) fn measured(codec: Codec, bitrate_kbps: u32) -> Measured {
    let grid = |codec| Grid {
        codec,
        offset: 7,
        strength: 3.0,
        runner_up: 2.8,
        share: 0.02,
        usual: 0.02,
        agreeing: 1,
        groups: 4,
        excerpts: 4,
    };
    Measured {
        codec,
        container: Container::Flac,
        sample_rate_hz: 44_100,
        bit_depth: codec.is_lossless().then_some(16),
        channels: 2,
        samples: 44_100 * 240,
        duration_ms: 240_000,
        bitrate_kbps,
        file_size_bytes: 30_000_000,
        content_hash: ContentHash([1; 32]),
        file_sha256: [2; 32],
        head_sha256: [3; 32],
        stream_hash: [4; 16],
        fingerprint: Vec::new(),
        sketch: 0,
        loudness: Loudness::default(),
        spectrum: Spectrum {
            windows: 600,
            effective_bandwidth_hz: 21_500,
            edge: Edge {
                hz: 21_300,
                depth_db: 12.0,
                below_db: -90.0,
                above_db: -102.0,
                width_hz: 400,
                floor_db: -104.0,
                floor_peak_db: -102.0,
            },
            used_bits: 16,
            side_db: -9.0,
            grids: [GridCodec::Mp3, GridCodec::Aac, GridCodec::Vorbis, GridCodec::Opus].map(grid).to_vec(),
            ..Spectrum::default()
        },
        detail: Detail::Plain,
        encoder: None,
        integrity: Integrity::default(),
        tags: Tags::default(),
    }
}

/// A wall at `hz`, 45 dB deep, with nothing above.
pub(super) fn wall(hz: u32) -> Edge {
    Edge {
        hz,
        depth_db: 45.0,
        below_db: -70.0,
        above_db: -115.0,
        width_hz: 200,
        floor_db: -118.0,
        floor_peak_db: -115.0,
    }
}
