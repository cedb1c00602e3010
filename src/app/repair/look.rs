//! What it takes to mend one issue: which recording it is, on which release, and what exactly lies there now.

use std::path::{Path, PathBuf};

use super::mender::Mender;
use super::swap::{Bytes, Folder, bytes_of};
use crate::app::catalog;
use crate::app::doctor::walk::{seen, to_path};
use crate::app::jobs::{self, job_track};
use crate::engine::library::{About, issue_id};
use crate::engine::repair::plan::{self, Wanted};
use crate::model::catalog::{Release, TrackInRelease};
use crate::model::health::{Evidence, FileOutcome, Issue, IssueKind, LocalPath, MissingTrack};
use crate::model::id::{IssueId, RecordingId, ReleaseId};
use crate::model::job::MbRelease;
use crate::model::limits;
use crate::model::repair::{OldFile, Strategy};
use crate::net::catalog::{Catalog, Later};
use crate::probe::{Deed, Named, Tagger};
use crate::store::StoreError;

/// Releases that are looked at for one that has a recording; further ones are not. Each may cost the catalog a second.
const RELEASES: usize = 5;

/// An issue that can be mended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Case {
    /// What is to be fetched.
    pub(super) wanted: Wanted,
    /// What is to be replaced.
    pub(super) old: Option<OldFile>,
}

/// What is known here of a file that is to be replaced.
struct Known {
    old: OldFile,
    recording: RecordingId,
    /// The likelier first.
    releases: Vec<ReleaseId>,
}

/// An issue on its way to being mended.
enum Start {
    Replace(Strategy, Known),
    Complete(ReleaseId, Vec<MissingTrack>),
}

fn store_failed(error: &StoreError) -> String {
    tracing::error!(%error, "the store could not be used");
    format!("the store cannot be used: {error}")
}

/// Looks at one issue.
///
/// # Errors
/// Why it cannot be mended, in one sentence.
pub(super) async fn look(mender: &Mender, catalog: &Catalog, id: IssueId) -> Result<Case, String> {
    let here = mender.clone();
    let begun = tokio::task::spawn_blocking(move || {
        let issue = here.store().read(|txn, tables| tables.library.issue(txn, id)).map_err(|e| store_failed(&e))?;
        let issue = issue.ok_or("there is no such issue")?;
        let folder = target_dir(&here, &issue)?;
        Ok::<_, String>((start(&here, &issue)?, folder))
    });
    let (start, folder) = begun.await.map_err(|error| error.to_string())??;
    match start {
        Start::Replace(strategy, known) => {
            let (release, track) = release_of(catalog, &known).await?;
            let wanted = Wanted { issue: id, strategy, spec: spec(&release, &[&track], folder) };
            Ok(Case { wanted, old: Some(known.old) })
        }
        Start::Complete(release, missing) => {
            let release = fetch(catalog, release).await.map_err(|error| later(&error))?;
            let release = release.ok_or("MusicBrainz has no such release any more")?;
            let is_missing = |track: &TrackInRelease| {
                missing.iter().any(|missing| {
                    let at = (missing.disc, missing.position) == (track.medium, track.position);
                    missing.recording_id == track.recording.0 || at
                })
            };
            let tracks: Vec<&TrackInRelease> =
                release.tracks().filter(|track| track.is_expected() && is_missing(track)).collect();
            if tracks.is_empty() {
                return Err("the release has none of the missing tracks any more: scan it again".to_owned());
            }
            if tracks.len() > limits::JOB_TRACKS {
                return Err(format!("more than {} tracks are missing", limits::JOB_TRACKS));
            }
            let wanted = Wanted { issue: id, strategy: Strategy::CompleteAlbum, spec: spec(&release, &tracks, folder) };
            Ok(Case { wanted, old: None })
        }
    }
}

fn later(error: &Later) -> String {
    format!("the catalog cannot be asked now: {error}")
}

async fn fetch(catalog: &Catalog, id: ReleaseId) -> Result<Option<Release>, Later> {
    catalog::release(catalog, id).await
}

fn spec(release: &Release, tracks: &[&TrackInRelease], target_dir: String) -> MbRelease {
    MbRelease {
        release: release.id,
        title: jobs::cut(&release.title),
        artist: jobs::cut(&release.artist),
        target_dir,
        tracks: tracks.iter().map(|track| job_track(release, track)).collect(),
        constraints: plan::constraints(),
    }
}

/// The folder that the job works for, as jobs name it.
fn target_dir(mender: &Mender, issue: &Issue) -> Result<String, String> {
    let folder = if issue.kind == IssueKind::MissingTrackInRelease { &issue.path.0[..] } else { issue.path.folder() };
    let path = to_path(&LocalPath(folder.to_vec()));
    Folder::open(&path, &mender.inner.roots).map_err(|error| error.to_string())?;
    if rustix::fs::access(&path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_err() {
        return Err(format!("the folder {} cannot be written to", path.display()));
    }
    let text = path.to_str().ok_or("the name of its folder is no text, and jobs cannot name it")?;
    jobs::may_go_to(text, &mender.inner.roots)?;
    Ok(text.to_owned())
}

/// What is known of an issue without asking anybody. Blocks.
fn start(mender: &Mender, issue: &Issue) -> Result<Start, String> {
    let strategy = plan::wanted(issue)?;
    if strategy == Strategy::CompleteAlbum {
        let release = issue.release_id.ok_or("nobody knows which release it is")?;
        let Evidence::Missing { missing, .. } = &issue.evidence else {
            return Err("it is not known which tracks are missing: scan it again".to_owned());
        };
        return Ok(Start::Complete(ReleaseId(release), missing.clone()));
    }
    known(mender, issue).map(|known| Start::Replace(strategy, known))
}

fn known(mender: &Mender, issue: &Issue) -> Result<Known, String> {
    let real: PathBuf = to_path(&issue.path);
    let metadata = std::fs::symlink_metadata(&real).map_err(|error| format!("the file cannot be read: {error}"))?;
    let now = seen(&metadata).ok_or("it is a link, or no file")?;
    let (row, variant, others) = mender
        .store()
        .read(|txn, tables| {
            let library = &tables.library;
            let row = library.file(txn, &issue.path)?;
            let variant = match row.as_ref().map(|row| &row.outcome) {
                Some(FileOutcome::Measured(hash)) => library.bare_variant(txn, *hash)?,
                _ => None,
            };
            // What was found out about the file when it could still be read.
            let ids = IssueKind::ALL.map(|kind| issue_id(kind, About::File(&issue.path)));
            let others = ids.into_iter().map(|id| library.issue(txn, id)).filter_map(Result::transpose);
            Ok((row, variant, others.collect::<Result<Vec<Issue>, StoreError>>()?))
        })
        .map_err(|error| store_failed(&error))?;
    let row = row.ok_or("the library does not know the file any more: scan it again")?;
    if !now.is(&row) {
        return Err("the file has changed since it was looked at: scan it again".to_owned());
    }
    let (content, score) = match &variant {
        Some(variant) => {
            let is_whole = variant.measured.integrity.is_whole();
            (variant.hash(), is_whole.then_some(variant.judged.quality_score))
        }
        None => (read(&real)?.content, None),
    };
    let identity = variant.as_ref().map(|variant| &variant.identity);
    let mut recording = issue.recording_id.or_else(|| identity.and_then(|identity| identity.recording_id));
    let mut releases: Vec<u128> = issue.release_id.into_iter().collect();
    releases.extend(identity.and_then(|identity| identity.release_id));
    if recording.is_none() {
        // What a file says of itself goes before what was found out about the path, where another may have lain. A worker
        // made nothing of it: whoever reads its tags is locked in as well.
        let tags = Tagger::new(PathBuf::from("/proc/self/exe")).work(&real, Deed::Read, &|| false);
        let tags = tags.unwrap_or(Named { recording: None, release: None });
        let before = others.iter().filter(|other| other.status.is_open());
        let told = before.clone().find_map(|other| other.recording_id);
        if let (Some(tagged), Some(told)) = (tags.recording, told)
            && tagged != told
        {
            return Err("its tags name another recording than what lay there before: scan it again".to_owned());
        }
        recording = tags.recording.or(told);
        releases.extend(tags.release);
        releases.extend(before.filter_map(|other| other.release_id));
    }
    let recording = recording.ok_or(
        "nobody knows which recording it is: tag it with its MusicBrainz recording, scan it again, or remove it by hand",
    )?;
    let mut unique: Vec<ReleaseId> = Vec::new();
    for id in releases {
        if !unique.contains(&ReleaseId(id)) {
            unique.push(ReleaseId(id));
        }
    }
    let old = OldFile { path: issue.path.clone(), content, size: row.size, score };
    Ok(Known { old, recording: RecordingId(recording), releases: unique })
}

fn read(path: &Path) -> Result<Bytes, String> {
    bytes_of(path).map_err(|error| format!("the file cannot be read: {error}"))
}

/// A release that has the recording: one that the file is known to belong to, else any.
async fn release_of(catalog: &Catalog, known: &Known) -> Result<(Release, TrackInRelease), String> {
    let mut recording = known.recording;
    let (mut waits, mut looked_at): (Option<Later>, Vec<Release>) = (None, Vec::new());
    let on = |release: &Release, recording: RecordingId| {
        release.tracks().find(|track| track.recording == recording && track.is_expected()).cloned()
    };
    for id in known.releases.iter().take(RELEASES) {
        match fetch(catalog, *id).await {
            Ok(Some(release)) => match on(&release, recording) {
                Some(track) => return Ok((release, track)),
                None => looked_at.push(release),
            },
            Ok(None) => {}
            Err(error) => waits = Some(error),
        }
    }
    // It may have been merged into another one.
    match catalog.recording(recording).await {
        Ok(Some(found)) => recording = found.id,
        Ok(None) => {}
        Err(error) => waits = Some(error),
    }
    if let Some((release, track)) = looked_at.iter().find_map(|release| Some((release, on(release, recording)?))) {
        return Ok((release.clone(), track));
    }
    match catalog.releases_of(recording).await {
        Ok(found) => {
            for id in found.into_iter().take(RELEASES) {
                match fetch(catalog, id).await {
                    Ok(Some(release)) => {
                        if let Some(track) = on(&release, recording) {
                            return Ok((release, track));
                        }
                    }
                    Ok(None) => {}
                    Err(error) => waits = Some(error),
                }
            }
        }
        Err(error) => waits = Some(error),
    }
    Err(match waits {
        Some(error) => later(&error),
        None => format!("no release of MusicBrainz has the recording {recording}"),
    })
}
