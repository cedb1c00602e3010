//! Has the tags of a job's finished file written before it goes to its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::app::catalog;
use crate::app::doctor::Ground;
use crate::app::tags::{Tags, TagsError, Written};
use crate::engine::jobs::sheet;
use crate::model::job::{JobTrack, MbRelease, Proof};
use crate::net::catalog::Catalog;
use crate::probe::Tagger;

/// What came of it.
pub(super) enum Tagged {
    /// The tags are as they should be.
    Right,
    /// They stay as they were, and why.
    Left(String),
    /// The program ends.
    Stopped,
}

/// A finished file whose tags are to be written.
pub(super) struct Tagging {
    pub(super) ground: Ground,
    pub(super) catalog: Catalog,
    pub(super) spec: MbRelease,
    pub(super) track: JobTrack,
    pub(super) proof: Option<Proof>,
    pub(super) path: PathBuf,
    pub(super) cancel: CancellationToken,
    /// So many files at once are measured or tagged.
    pub(super) permits: Arc<Semaphore>,
}

impl Tagging {
    /// Has them written.
    pub(super) async fn run(self) -> Tagged {
        let Self { ground, catalog, spec, track, proof, path, cancel, permits } = self;
        if matches!(proof, None | Some(Proof::Length)) {
            // Whoever reads the tags later would take them for a proof.
            return Tagged::Left("its tags were left: only its length says which recording it is".to_owned());
        }
        // Kept since the job was made, as a rule; without it the tags say less.
        let known = catalog::release(&catalog, spec.release).await.ok().flatten();
        let sheet = sheet::of(&spec, &track, known.as_ref());
        let sure = matches!(proof, Some(Proof::Sound | Proof::AcoustId));
        let _permit = tokio::select! {
            permit = permits.acquire_owned() => permit,
            () = cancel.cancelled() => return Tagged::Stopped,
        };
        let work = move || {
            let tags = Tags::new(ground.measure.clone(), Tagger::new(PathBuf::from("/proc/self/exe")));
            tags.write(&path, &sheet, sure, &|| cancel.is_cancelled())
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(Written::Already | Written::Changed)) => Tagged::Right,
            Ok(Ok(Written::Doubtful(other))) => Tagged::Left(format!(
                "its tags were left: they name the recording {other}, and nothing says that they are wrong"
            )),
            Ok(Err(TagsError::Stopped)) => Tagged::Stopped,
            Ok(Err(error)) => Tagged::Left(error.to_string()),
            Err(error) => Tagged::Left(format!("its tags were not changed: {error}")),
        }
    }
}

/// Bytes of a finished file; `None`: it is not there.
pub(super) async fn size(path: &Path) -> Option<u64> {
    tokio::fs::symlink_metadata(path).await.ok().filter(std::fs::Metadata::is_file).map(|found| found.len())
}
