//! The Collection Doctor at work: walks folders, has files measured, and writes down what is wrong with them.
//!
//! [`walk`] finds files, [`scan`] measures and records them, [`settle`] looks at recordings and releases as a whole.
//! What is found is decided by `engine::library` and `engine::audio`; who measures and who knows recordings is behind
//! the traits here, so that tests bring their own.

mod answer;
mod easel;
pub mod learn;
pub mod load;
pub mod report;
pub mod scan;
pub mod service;
pub mod settle;
pub mod shells;
pub mod walk;

#[cfg(test)]
pub(in crate::app) mod tests;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::clock::Clock;
use super::sharing::rules::Rules;
use crate::engine::library::detect::Release;
use crate::engine::library::{CanonicalRules, Thresholds};
use crate::model::health::{Identity, Judged, Variant};
use crate::model::spectrogram::Spectrogram;
use crate::model::variant::Measured;
use crate::net::catalog::Figures;
use crate::store::{Store, StoreError};

/// What became of measuring a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was measured.
    Measured(Box<Measured>),
    /// It cannot be read or decoded; why.
    Broken(String),
    /// It took too much time, memory or patience, of the file's or of the machine's fault; why. A scan counts it as
    /// broken.
    GaveUp(String),
    /// Its form is not known; why.
    Unsupported(String),
    /// The machine had nothing to measure it with just now, and why; nothing is known about the file.
    NotTried(String),
}

/// Measures files. Called from threads that may wait.
pub trait Measure: Send + Sync {
    /// Whether anything can be measured here at all.
    ///
    /// # Errors
    /// One sentence.
    fn ready(&self) -> Result<(), String>;
    /// Opens a regular file, and nothing a link leads to.
    ///
    /// # Errors
    /// The system's reason.
    fn open(&self, path: &Path) -> std::io::Result<File>;
    /// Reads and decodes one open file; `None` when `stop` said so meanwhile.
    fn measure(&self, file: File, name: &str, stop: &(dyn Fn() -> bool + Sync)) -> Option<Outcome>;
    /// Decodes one open file and says what it is and whether it is whole; what was measured of its sound does not count,
    /// and need not be there. `None` when `stop` said so meanwhile.
    fn sound(&self, file: File, name: &str, stop: &(dyn Fn() -> bool + Sync)) -> Option<Outcome> {
        self.measure(file, name, stop)
    }
    /// Decodes one open file into its spectrogram, whatever else is being measured.
    ///
    /// # Errors
    /// Why there is none, in one sentence.
    fn spectrogram(&self, file: File, name: &str) -> Result<Spectrogram, String>;
    /// Rest after each step so many thousandths of the time it took, from now on.
    fn set_rest(&self, permille: u32);
}

/// Thinks about what was measured. Pure.
pub trait Judge: Send + Sync {
    /// Score and verdict.
    fn judge(&self, measured: &Measured) -> Judged;
    /// Whether two fingerprints are of one recording.
    fn same_sound(&self, a: &[u32], b: &[u32]) -> bool;
    /// The version of the rules.
    fn version(&self) -> &'static str;
}

/// An answer that may come later.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact<T> {
    /// So it is.
    Known(T),
    /// Nobody knows.
    Unknown,
    /// Nobody could be asked now: offline, or told to wait.
    Later,
}

/// What is wanted of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordingFacts {
    /// The id that stands; after a merge another than was asked for.
    pub id: u128,
    /// Milliseconds.
    pub duration_ms: Option<u64>,
}

/// Knows recordings and releases. Called from threads that may wait.
pub trait Catalogue: Send + Sync {
    /// A recording.
    fn recording(&self, id: u128, offline: bool) -> Fact<RecordingFacts>;
    /// Title and artist of a recording; the artist may be empty.
    fn called(&self, id: u128, offline: bool) -> Fact<(String, String)>;
    /// A release with its tracks.
    fn release(&self, id: u128, offline: bool) -> Fact<Release>;
    /// Whether [`Catalogue::identify`] can find anything out now.
    fn can_identify(&self) -> bool;
    /// Whose recording a copy is that neither its tags nor the local index know. `Pending`: nobody could be asked.
    fn identify(&self, variant: &Variant, offline: bool) -> Identity;
    /// What asking has cost so far, a row a service.
    fn figures(&self) -> Vec<Figures>;
}

/// What a scan works with. Cheap to clone.
#[derive(Clone)]
pub struct Ground {
    /// Where everything is kept.
    pub store: Store,
    /// Measures.
    pub measure: Arc<dyn Measure>,
    /// Judges.
    pub judge: Arc<dyn Judge>,
    /// Knows.
    pub catalogue: Arc<dyn Catalogue>,
    /// What is left out of every walk.
    pub rules: Arc<Rules>,
    /// When.
    pub clock: Clock,
    /// Limits of the detectors.
    pub thresholds: Thresholds,
    /// How copies are chosen among.
    pub canonical: CanonicalRules,
    /// Files at once.
    pub workers: usize,
}

/// Why a scan ended early.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The owner stopped it, or the program ends.
    #[error("the scan was stopped")]
    Stopped,
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was to be scanned is not there.
    #[error("{path} cannot be scanned: {error}")]
    Unreadable {
        /// As it was named.
        path: String,
        /// The system's reason.
        error: std::io::Error,
    },
    /// A folder that had files has none.
    #[error("{path} is empty, but {known} files of it are known: is its disk plugged in? Nothing was forgotten")]
    Emptied {
        /// As it was named.
        path: String,
        /// Files known of it.
        known: u64,
    },
    /// Nothing can be measured here.
    #[error("{0}")]
    NotReady(String),
    /// No threads to work with.
    #[error("no thread to work with: {0}")]
    Thread(std::io::Error),
    /// A thread of the scan ended in a defect; the log says where.
    #[error("a part of the scan ended in a defect")]
    Defect,
}
