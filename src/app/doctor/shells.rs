//! The Doctor's helpers as they are in the running program: worker processes that measure, rules that judge, and a
//! catalogue of what is known without asking anybody.

use std::fs::File;
use std::path::PathBuf;

use tokio::runtime::Handle;

use super::{Catalogue, Fact, Judge, Measure, Outcome};
use crate::engine::library::detect::Release;
use crate::engine::library::statistics;
use crate::model::health::{ANALYZER, CanonicalStats, Identity, Judgement, Variant, Verdict};
use crate::model::time::UnixMs;
use crate::model::variant::Measured;
use crate::probe::{self, Pool, PoolError, Tempo};

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
            | probe::Outcome::GaveUp { reason } => Err(format!("files cannot be measured on this machine: {reason}")),
        }
    }

    fn open(&self, path: &std::path::Path) -> std::io::Result<File> {
        probe::open(path)
    }

    fn measure(&self, file: File, name: &str) -> Outcome {
        match self.runtime.block_on(self.pool.measure(file, name, &self.tempo)) {
            probe::Outcome::Measured(measured) => Outcome::Measured(measured),
            probe::Outcome::Corrupted { reason } => Outcome::Broken(reason),
            probe::Outcome::Unsupported { reason } => Outcome::Unsupported(reason),
            probe::Outcome::GaveUp { reason } => Outcome::Broken(format!("it was given up: {reason}")),
        }
    }

    fn set_rest(&self, permille: u32) {
        self.tempo.set_rest_permille(permille);
    }
}

/// Judges by the four factors of SPEC-FACTS 2.2, which need no spectrum. They cannot tell a transcode.
#[derive(Clone, Copy, Debug, Default)]
pub struct FourFactors;

impl Judge for FourFactors {
    fn judge(&self, measured: &Measured) -> Judgement {
        Judgement {
            quality_score: statistics::four_factors(measured),
            verdict: Verdict::Uncertain,
            confidence: 0.0,
            reasons: Vec::new(),
            analyzer: ANALYZER.to_owned(),
        }
    }

    fn same_sound(&self, a: &[u32], b: &[u32]) -> bool {
        a == b
    }

    fn sketch_distance_max(&self) -> u32 {
        12
    }

    fn statistics(&self, recording: u128, profile: &str, copies: &[&Variant], now: UnixMs) -> Option<CanonicalStats> {
        statistics::of_copies(recording, profile, copies, now)
    }
}

/// Knows nothing and asks nobody: what could be asked is left for later.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Catalogue for Nobody {
    fn recording_ms(&self, _: u128, _: bool) -> Fact<u64> {
        Fact::Later
    }

    fn release(&self, _: u128, _: bool) -> Fact<Release> {
        Fact::Later
    }

    fn identify(&self, variant: &Variant, _: bool) -> Identity {
        variant.identity.clone()
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
