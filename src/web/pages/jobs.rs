//! `/jobs` and `/jobs/{id}`: what is being brought home, and its manifests.

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;

use super::{Desktop, Fields, Head, PageNumber, Pager, answer_or_return, html, offset, size};
use crate::model::id::ReleaseId;
use crate::model::job::{Child, Job, JobAnswer, JobRequest, JobState, JobTrack, JobView, NewJob, Proof, TrackState};
use crate::model::limits;
use crate::model::repair::{Repair, RepairAnswer, RepairRequest};
use crate::web::api::{job_name, manifest_file};
use crate::web::show::{self, Moment};

#[derive(Template)]
#[template(path = "jobs.html", config = "web-min/askama.toml")]
struct JobsPage {
    head: Head,
    rows: Vec<Row>,
    pager: Pager,
}

#[derive(Template)]
#[template(path = "job.html", config = "web-min/askama.toml")]
struct JobPage {
    head: Head,
    row: Row,
    doing: String,
    error: String,
    folder: String,
    release: String,
    origin: String,
    /// Issues of the library that it mends, by the names of their files.
    mends: Vec<(String, String)>,
    tracks: Vec<Line>,
}

struct Row {
    id: String,
    title: String,
    artist: String,
    state: &'static str,
    good: bool,
    bad: bool,
    percent: u64,
    tracks: String,
    amount: String,
    at: Moment,
    can_pause: bool,
    can_resume: bool,
    can_cancel: bool,
}

struct Line {
    place: String,
    title: String,
    state: &'static str,
    good: bool,
    bad: bool,
    amount: String,
    checked: &'static str,
    note: String,
}

pub(super) fn state_words(state: JobState) -> &'static str {
    match state {
        JobState::Pending => "waits for its turn",
        JobState::Running => "running",
        JobState::Paused => "paused",
        JobState::Completed => "completed",
        JobState::Failed => "incomplete",
        JobState::Cancelled => "cancelled",
    }
}

pub(super) fn track_words(state: TrackState) -> &'static str {
    match state {
        TrackState::Pending => "wanted",
        TrackState::Downloading => "downloading",
        TrackState::Checking => "being checked",
        TrackState::Completed => "in its place",
        TrackState::Failed => "not found",
    }
}

pub(super) fn proof_words(proof: Proof) -> &'static str {
    match proof {
        Proof::Sound => "sounds like a known copy",
        Proof::AcoustId => "AcoustID knows its sound",
        Proof::Tags => "by its tags and length",
        Proof::Length => "by its name and length only",
    }
}

impl Row {
    fn new(job: &Job) -> Self {
        let progress = job.progress();
        let part = |of: u64, all: u64| (of * 100).checked_div(all).unwrap_or(0).min(100);
        let amount = if progress.bytes == 0 {
            String::new()
        } else {
            format!("{} of {}", size(progress.bytes_done), size(progress.bytes))
        };
        Self {
            id: job.id.to_string(),
            title: show::visible(&job.spec.title),
            artist: show::visible(&job.spec.artist),
            state: state_words(job.state),
            good: job.state == JobState::Completed,
            bad: job.state == JobState::Failed,
            percent: part(u64::from(progress.done), u64::from(progress.tracks)),
            tracks: format!("{} of {}", progress.done, progress.tracks),
            amount,
            at: show::moment(job.created_at),
            can_pause: matches!(job.state, JobState::Pending | JobState::Running),
            can_resume: job.state == JobState::Paused,
            can_cancel: !job.state.is_over(),
        }
    }
}

impl Line {
    fn new(track: &JobTrack, child: &Child, many_media: bool) -> Self {
        let place =
            if many_media { format!("{}-{}", track.medium, track.position) } else { track.position.to_string() };
        let amount = match child.size {
            Some(all) if child.state == TrackState::Downloading => format!("{} of {}", size(child.done), size(all)),
            Some(all) => size(all),
            None => String::new(),
        };
        let note = child.note.as_deref().filter(|_| child.state != TrackState::Completed).unwrap_or_default();
        Self {
            place,
            title: show::visible(&track.title),
            state: track_words(child.state),
            good: child.state == TrackState::Completed,
            bad: child.state == TrackState::Failed,
            amount,
            checked: child.proof.map(proof_words).unwrap_or_default(),
            note: show::visible(note),
        }
    }
}

const WRONG_ANSWER: &str = "the program gave an answer of the wrong kind";

pub(super) async fn list(desktop: Desktop, Query(number): Query<PageNumber>) -> Response {
    let rows = limits::JOBS_PAGE;
    let request = JobRequest::List { offset: offset(number.page, rows), limit: rows, state: None };
    let JobAnswer::Jobs(jobs, all) = answer_or_return!(desktop, desktop.web.desk.jobs(request).await) else {
        return desktop.problem(StatusCode::INTERNAL_SERVER_ERROR, WRONG_ANSWER);
    };
    let mut head = desktop.head("Jobs", "jobs");
    head.live = "every";
    head.refresh_s = jobs.iter().any(|view| !view.job.state.is_over()).then_some(10);
    let rows_of_page = jobs.iter().map(|view| Row::new(&view.job)).collect();
    html(&JobsPage { head, rows: rows_of_page, pager: Pager::new(number.page, all, rows, "/jobs?") })
}

pub(super) async fn show(desktop: Desktop, Path(id): Path<String>) -> Response {
    let id = answer_or_return!(desktop, job_name(&id));
    let view = match one(&desktop, JobRequest::One(id)).await {
        Ok(view) => view,
        Err(page) => return page,
    };
    let job = &view.job;
    let mends = mends(&desktop, job).await;
    let mut head = desktop.head(show::visible(&job.spec.title), "jobs");
    head.live = if job.state.is_over() { "" } else { "every" };
    head.refresh_s = (!job.state.is_over()).then_some(5);
    let many_media = job.spec.tracks.iter().any(|track| track.medium > 1);
    let lines = job.spec.tracks.iter().zip(&job.children);
    html(&JobPage {
        head,
        row: Row::new(job),
        doing: show::visible(&view.doing),
        error: show::visible(job.error.as_deref().unwrap_or_default()),
        folder: show::visible(&job.spec.target_dir),
        release: job.spec.release.to_string(),
        origin: job.origin.as_ref().map(ToString::to_string).unwrap_or_default(),
        mends,
        tracks: lines.map(|(track, child)| Line::new(track, child, many_media)).collect(),
    })
}

/// What stands beside the job is left out where it cannot be had.
async fn mends(desktop: &Desktop, job: &Job) -> Vec<(String, String)> {
    let Ok(RepairAnswer::Repairs(rows)) = desktop.web.desk.repair(RepairRequest::OfJob(job.id.clone())).await else {
        return Vec::new();
    };
    let name = |repair: &Repair| match &repair.old {
        Some(old) => show::visible(&String::from_utf8_lossy(old.path.name())),
        None => "missing tracks".to_owned(),
    };
    rows.iter().map(|repair| (repair.issue.to_string(), name(repair))).collect()
}

async fn one(desktop: &Desktop, request: JobRequest) -> Result<JobView, Response> {
    match desktop.web.desk.jobs(request).await {
        Ok(JobAnswer::Job(view)) => Ok(*view),
        Ok(_) => Err(desktop.problem(StatusCode::INTERNAL_SERVER_ERROR, WRONG_ANSWER)),
        Err(refusal) => Err(desktop.refused(refusal)),
    }
}

/// Whether a text in a search box names a release instead of asking for words.
pub(super) fn names_a_release(text: &str) -> bool {
    let text = text.trim().to_ascii_lowercase();
    let address = ["musicbrainz.org/", "discogs.com/"].iter().any(|site| text.contains(site));
    text.starts_with("discogs:") || (address && !text.contains(' ')) || text.parse::<ReleaseId>().is_ok()
}

/// Takes up a release by its name in a catalog.
pub(super) async fn begin(desktop: Desktop, reference: &str, folder: &str) -> Response {
    let target_dir = Some(folder.trim().to_owned()).filter(|folder| !folder.is_empty());
    let new = NewJob { reference: reference.trim().to_owned(), target_dir, ..NewJob::default() };
    match one(&desktop, JobRequest::Create(Box::new(new))).await {
        Ok(view) => desktop.done(format_args!("/jobs/{}", view.job.id), "job_begun"),
        Err(page) => page,
    }
}

pub(super) async fn add(desktop: Desktop, fields: Fields) -> Response {
    let (reference, folder) = (fields.get("release").to_owned(), fields.get("folder").to_owned());
    begin(desktop, &reference, &folder).await
}

pub(super) async fn change(desktop: Desktop, Path(id): Path<String>, fields: Fields) -> Response {
    let id = answer_or_return!(desktop, job_name(&id));
    let (request, word) = match fields.get("do") {
        "pause" => (JobRequest::Pause(id), "job_paused"),
        "resume" => (JobRequest::Resume(id), "job_resumed"),
        "cancel" => (JobRequest::Cancel(id), "job_cancelled"),
        _ => return desktop.problem(StatusCode::BAD_REQUEST, "the form did not say what is to be done"),
    };
    match one(&desktop, request).await {
        Ok(view) => desktop.done(format_args!("/jobs/{}", view.job.id), word),
        Err(page) => page,
    }
}

pub(super) async fn export(desktop: Desktop, Path(id): Path<String>) -> Response {
    let name = answer_or_return!(desktop, job_name(&id));
    match desktop.web.desk.jobs(JobRequest::Export(name)).await {
        Ok(JobAnswer::Text(text)) => manifest_file(text, &id),
        Ok(_) => desktop.problem(StatusCode::INTERNAL_SERVER_ERROR, WRONG_ANSWER),
        Err(refusal) => desktop.refused(refusal),
    }
}

pub(super) async fn import(desktop: Desktop, fields: Fields) -> Response {
    match one(&desktop, JobRequest::Import(fields.get("manifest").to_owned())).await {
        Ok(view) => desktop.done(format_args!("/jobs/{}", view.job.id), "job_imported"),
        Err(page) => page,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_searched_for_and_names_of_releases_are_not() {
        for name in [
            "6a76904c-0caf-34e1-8cc2-7d95e86a3824",
            "https://musicbrainz.org/release/6a76904c-0caf-34e1-8cc2-7d95e86a3824",
            " discogs:1",
            "https://www.discogs.com/release/1-x",
        ] {
            assert!(names_a_release(name), "{name}");
        }
        for words in ["lift your skinny fists", "discogs", "songs about musicbrainz.org/ and more", ""] {
            assert!(!names_a_release(words), "{words}");
        }
    }
}
