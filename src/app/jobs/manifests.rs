//! Manifests on the disk: one file a job, in `active` until it is over, then in `completed`. A file is whole or not
//! there. What the store has forgotten, or never knew, is taken up again from the active ones at the start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{JobSettings, place, yaml};
use crate::engine::manifest;
use crate::model::job::{Child, Job, JobId, JobState, TrackState};
use crate::model::limits;
use crate::model::time::UnixMs;

/// Where manifests lie; `None` where the owner wants none.
#[derive(Clone, Debug)]
pub struct Manifests {
    folder: Option<PathBuf>,
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

impl Manifests {
    /// In this folder.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    fn file(&self, over: bool, id: &JobId) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?.join(if over { "completed" } else { "active" });
        Some(folder.join(format!("{id}.yaml")))
    }

    /// Writes a job down where it belongs now, and takes away what is elsewhere. Durable when it returns.
    pub fn keep(&self, job: &Job) -> io::Result<()> {
        let over = job.state.is_over();
        let (Some(file), Some(other)) = (self.file(over, &job.id), self.file(!over, &job.id)) else { return Ok(()) };
        let folder = file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let part = folder.join(format!(".{}.part", job.id));
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        out.write_all(manifest::write(job).as_bytes())?;
        out.sync_all()?;
        fs::rename(&part, &file)?;
        sync(folder)?;
        match fs::remove_file(&other) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The active ones.
    pub fn active(&self) -> Vec<PathBuf> {
        self.folder.as_ref().map(|folder| files(&folder.join("active"))).unwrap_or_default()
    }
}

/// Manifests of a folder by name, at most `limits::MANIFESTS`; hidden files and links are passed over.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let is_manifest = |path: &PathBuf| {
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let extension = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        !hidden && extension && fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
    };
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(is_manifest).take(limits::MANIFESTS).collect();
    found.sort();
    found
}

/// A manifest's text; no more of it than a manifest may have.
pub fn text_of(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(limits::MANIFEST_LEN as u64 + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(format!("it cannot be read: {error}")),
        Ok(_) if text.len() > limits::MANIFEST_LEN => Err(format!("longer than {} bytes", limits::MANIFEST_LEN)),
        Ok(_) => Ok(text),
    }
}

/// The job that a manifest tells of, as it is written there.
///
/// # Errors
/// The first mistake with its line.
pub fn read(text: &str, settings: &JobSettings, now: UnixMs) -> Result<Job, manifest::Problem> {
    let allowed = |dir: &str| {
        place::target(dir, &settings.folders.downloads, &settings.roots).map(drop).map_err(|error| error.to_string())
    };
    manifest::read(&yaml::read(text)?, allowed, now)
}

/// An imported job as it begins here: what was under way elsewhere is wanted, and so is what does not lie in its place.
/// What is over stays as it was.
pub fn taken_up(mut job: Job, settings: &JobSettings) -> Job {
    if job.state.is_over() {
        return job;
    }
    if job.state == JobState::Running {
        job.state = JobState::Pending;
    }
    job.completed_at = None;
    job.error = None;
    let folder = place::target(&job.spec.target_dir, &settings.folders.downloads, &settings.roots).ok();
    for child in &mut job.children {
        let lies_there = child.state == TrackState::Completed
            && folder.as_ref().zip(child.file.as_ref()).is_some_and(|(folder, file)| {
                let found = fs::symlink_metadata(folder.join(file));
                found.is_ok_and(|found| found.is_file() && child.size.is_none_or(|size| size == found.len()))
            });
        if !lies_there {
            *child = Child { note: child.note.take(), ..Child::new() };
        }
    }
    job
}
