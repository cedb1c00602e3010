//! The Doctor's helpers as they are in the running program: worker processes that measure, rules that judge, and the
//! catalogs.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{Catalogue, Fact, Judge, Measure, Outcome, RecordingFacts};
use crate::app::catalog;
use crate::app::clock::Clock;
use crate::engine::audio::quality::{self, ANALYZER_VERSION};
use crate::engine::audio::{fingerprint, transcode};
use crate::engine::catalog::resolve::{Known, Proof};
use crate::engine::library::detect::{Release, Track};
use crate::model::catalog::{Service, TrackInRelease};
use crate::model::config;
use crate::model::health::{Identity, Judged, MatchedBy, Variant};
use crate::model::id::{RecordingId, ReleaseId};
use crate::model::spectrogram::Spectrogram;
use crate::model::variant::Measured;
use crate::net::catalog::{Catalog, CatalogError, Figures, Later};
use crate::probe::{self, Pool, PoolError, Tempo};
use crate::store::Store;

/// Between two looks whether a file in work is still wanted.
const LOOK: Duration = Duration::from_millis(250);

/// Measures in worker processes.
pub struct Workers {
    pool: Pool,
    tempo: Tempo,
    runtime: Handle,
}

impl Workers {
    /// So many at once. `runtime` must have a thread of its own that drives it.
    ///
    /// # Errors
    /// The workers' keeper cannot be started.
    pub fn new(workers: usize, runtime: Handle) -> Result<Self, PoolError> {
        let pool = Pool::new(PathBuf::from("/proc/self/exe"), workers)?;
        Ok(Self { pool, tempo: Tempo::default(), runtime })
    }

    /// Waits for a worker's outcome; `None` when `stop` said so meanwhile.
    fn unless(&self, stop: &(dyn Fn() -> bool + Sync), work: impl Future<Output = probe::Outcome>) -> Option<Outcome> {
        let measured = self.runtime.block_on(async {
            let mut look = tokio::time::interval(LOOK);
            tokio::pin!(work);
            loop {
                tokio::select! {
                    outcome = &mut work => return Some(outcome),
                    // Dropping the work ends its worker.
                    _ = look.tick() => if stop() { return None },
                }
            }
        });
        Some(match measured? {
            probe::Outcome::Measured(measured) => Outcome::Measured(measured),
            probe::Outcome::Corrupted { reason } => Outcome::Broken(reason),
            probe::Outcome::Unsupported { reason } => Outcome::Unsupported(reason),
            probe::Outcome::GaveUp { reason } => Outcome::GaveUp(format!("it was given up: {reason}")),
            probe::Outcome::NotTried { reason } => Outcome::NotTried(reason),
        })
    }
}

/// 0.1 s of silence in a WAV: what a worker must be able to measure, or none can work here.
fn silence() -> Vec<u8> {
    let samples: u32 = 4_410;
    let mut bytes = Vec::with_capacity(44 + 2 * 4_410);
    for part in [&b"RIFF"[..], &(36 + 2 * samples).to_le_bytes(), b"WAVEfmt ", &16_u32.to_le_bytes()] {
        bytes.extend_from_slice(part);
    }
    // PCM, one channel, 44,100 Hz, 16 bits.
    for word in [1_u16, 1] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for word in [44_100_u32, 88_200] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for word in [2_u16, 16] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(b"data");
    bytes.extend_from_slice(&(2 * samples).to_le_bytes());
    bytes.resize(44 + 2 * 4_410, 0);
    bytes
}

impl Measure for Workers {
    fn ready(&self) -> Result<(), String> {
        use std::io::Write as _;
        let cannot = |error: std::io::Error| format!("no file to try a worker with: {error}");
        let memory = rustix::fs::memfd_create("silence", rustix::fs::MemfdFlags::CLOEXEC);
        let mut file = File::from(memory.map_err(|error| cannot(error.into()))?);
        file.write_all(&silence()).map_err(cannot)?;
        match self.runtime.block_on(self.pool.measure(file, "wav", &Tempo::default())) {
            probe::Outcome::Measured(_) => Ok(()),
            probe::Outcome::Corrupted { reason }
            | probe::Outcome::Unsupported { reason }
            | probe::Outcome::GaveUp { reason }
            | probe::Outcome::NotTried { reason } => Err(format!("files cannot be measured on this machine: {reason}")),
        }
    }

    fn open(&self, path: &std::path::Path) -> std::io::Result<File> {
        probe::open(path)
    }

    fn measure(&self, file: File, name: &str, stop: &(dyn Fn() -> bool + Sync)) -> Option<Outcome> {
        self.unless(stop, self.pool.measure(file, name, &self.tempo))
    }

    fn sound(&self, file: File, name: &str, stop: &(dyn Fn() -> bool + Sync)) -> Option<Outcome> {
        self.unless(stop, self.pool.sound(file, name, &self.tempo))
    }

    fn spectrogram(&self, file: File, name: &str) -> Result<Spectrogram, String> {
        // A worker of its own, so that nobody waits for a scan, and none stays for the rare picture.
        let pool = Pool::new(PathBuf::from("/proc/self/exe"), 1).map_err(|error| error.to_string())?;
        match self.runtime.block_on(pool.spectrogram(file, name)) {
            Ok(drawn) => Ok(*drawn),
            Err(outcome) => Err(outcome.reason().unwrap_or("the file was not drawn").to_owned()),
        }
    }

    fn set_rest(&self, permille: u32) {
        self.tempo.set_rest_permille(permille);
    }
}

/// The rules of `engine::audio`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rulebook;

/// Words by which two fingerprints of one recording may lie apart: about 3 s of leading silence.
const OFFSET_MAX: usize = 24;

impl Judge for Rulebook {
    fn judge(&self, measured: &Measured) -> Judged {
        let judgement = transcode::judge(measured);
        let quality_score = quality::score(measured, &judgement);
        Judged { quality_score, judgement, analyzer: ANALYZER_VERSION.to_owned() }
    }

    fn same_sound(&self, a: &[u32], b: &[u32]) -> bool {
        fingerprint::compare(a, b, OFFSET_MAX).is_some_and(|likeness| likeness.verdict() == fingerprint::Verdict::Same)
    }

    fn version(&self) -> &'static str {
        ANALYZER_VERSION
    }
}

/// The catalogs as configured; where they cannot be asked at all (no certificates of authorities), what they keep.
///
/// # Errors
/// Not even that.
pub fn catalog(
    config: &config::Catalog,
    store: &Store,
    clock: Clock,
    cancel: &CancellationToken,
) -> Result<Catalog, CatalogError> {
    catalog::start(config, store.clone(), clock, cancel).or_else(|error| {
        tracing::warn!(%error, "no catalog is asked");
        catalog::start(&config::Catalog { offline: true, ..config.clone() }, store.clone(), clock, cancel)
    })
}

/// MusicBrainz and AcoustID, through the catalogs' own pacing and cache.
pub struct Catalogs {
    catalog: Catalog,
    runtime: Handle,
}

impl Catalogs {
    /// On a runtime that has a thread of its own.
    pub fn new(catalog: Catalog, runtime: Handle) -> Self {
        Self { catalog, runtime }
    }
}

/// What an answer of a catalog is to us.
fn fact<A, T>(answer: Result<Option<A>, Later>, read: impl FnOnce(A) -> T) -> Fact<T> {
    match answer {
        Ok(Some(found)) => Fact::Known(read(found)),
        Ok(None) => Fact::Unknown,
        Err(_) => Fact::Later,
    }
}

impl Catalogue for Catalogs {
    fn figures(&self) -> Vec<Figures> {
        self.catalog.figures().to_vec()
    }

    fn recording(&self, id: u128, offline: bool) -> Fact<RecordingFacts> {
        if offline {
            return Fact::Later;
        }
        let answer = self.runtime.block_on(self.catalog.recording(RecordingId(id)));
        fact(answer, |found| RecordingFacts { id: found.id.0, duration_ms: found.duration_ms })
    }

    fn called(&self, id: u128, offline: bool) -> Fact<(String, String)> {
        if offline {
            return Fact::Later;
        }
        let answer = self.runtime.block_on(self.catalog.recording(RecordingId(id)));
        fact(answer, |found| (found.title, found.artist))
    }

    fn release(&self, id: u128, offline: bool) -> Fact<Release> {
        if offline {
            return Fact::Later;
        }
        let answer = self.runtime.block_on(catalog::release(&self.catalog, ReleaseId(id)));
        fact(answer, |found| Release {
            id: found.id.0,
            title: found.title.clone(),
            artist: found.artist.clone(),
            tracks: found.tracks().filter(|track| track.is_expected()).map(track).collect(),
        })
    }

    fn can_identify(&self) -> bool {
        self.catalog.closed(Service::AcoustId).is_none()
    }

    fn identify(&self, variant: &Variant, offline: bool) -> Identity {
        let (measured, before) = (&variant.measured, variant.identity.clone());
        if offline {
            return before;
        }
        let known = Known {
            tagged: None,
            title: measured.tags.title.clone(),
            artist: measured.tags.artist.clone(),
            duration_ms: measured.duration_ms,
            has_fingerprint: !measured.fingerprint.is_empty(),
        };
        // Copies known here were compared when the file was measured.
        let asked = catalog::identify(&self.catalog, known, &measured.fingerprint, async || None);
        let (found, why) = self.runtime.block_on(asked);
        match found.recording {
            Ok((recording, proof)) => Identity {
                recording_id: Some(recording.0),
                acoustid: match proof {
                    Proof::AcoustId { id, .. } => Some(id.0),
                    Proof::Tags | Proof::Sound(_) => before.acoustid,
                },
                matched_by: MatchedBy::Catalog,
                ..before
            },
            // Without a key nobody was asked.
            Err(_) if found.is_unfinished || why.is_some() => before,
            Err(_) => Identity { matched_by: MatchedBy::Nobody, ..before },
        }
    }
}

fn track(track: &TrackInRelease) -> Track {
    Track {
        disc: track.medium,
        position: track.position,
        recording_id: track.recording.0,
        title: track.title.clone(),
        duration_ms: track.duration_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trial_file_is_a_wave() {
        let bytes = silence();
        assert_eq!(
            (bytes.len(), &bytes[..4], &bytes[8..16], &bytes[36..40]),
            (8_864, &b"RIFF"[..], &b"WAVEfmt "[..], &b"data"[..])
        );
        assert_eq!(u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize, bytes.len() - 8);
    }
}
