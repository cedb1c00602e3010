//! `slskdn jobs`: by the daemon when one runs on the data directory, else out of its store.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use serde_json::{Value, json};

use super::{could_not, print, say};
use crate::app::apply::Folders;
use crate::app::clock::Clock;
use crate::app::control::{Control, ControlError};
use crate::app::doctor::report::plain;
use crate::app::jobs::{JobSettings, manifests};
use crate::app::settings::Sources;
use crate::engine::jobs::work::Work;
use crate::engine::manifest;
use crate::model::job::{Job, JobId, JobState};
use crate::model::limits;
use crate::store::{Store, StoreError, StoreOptions};

/// What is asked.
#[derive(Debug, Clone, clap::Subcommand)]
pub(super) enum JobsCommand {
    /// List jobs, newest first.
    List {
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Bring a release home: a MusicBrainz id, `discogs:` and a number, or the address of either's page.
    Add {
        /// The release.
        release: String,
        /// Folder of the album [default: `Artist/Title (Year)` below the downloads folder].
        #[arg(long, value_name = "DIR")]
        target_dir: Option<String>,
    },
    /// Show one job with its tracks.
    Show {
        /// The job.
        id: String,
    },
    /// Print the manifest of a job.
    Export {
        /// The job.
        id: String,
    },
    /// Take up jobs from manifests; one bad file does not stop the others.
    Import {
        /// A manifest, or a folder of them.
        path: PathBuf,
    },
    /// Stop a job, to go on later.
    Pause {
        /// The job.
        id: String,
    },
    /// Go on with a job that was stopped.
    Resume {
        /// The job.
        id: String,
    },
    /// Call a job off; finished tracks stay.
    Cancel {
        /// The job.
        id: String,
    },
}

enum Problem {
    /// It was tried, and refused.
    Refused(String),
    /// It could not be tried.
    CouldNot(String),
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Refused { sentence, .. } => Self::Refused(sentence),
            error @ ControlError::Silent(_) => Self::CouldNot(error.to_string()),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::CouldNot(error.to_string())
    }
}

/// The command.
pub(super) fn jobs(sources: &Sources, command: &JobsCommand) -> ExitCode {
    let done = match Control::of(&sources.data) {
        Some(daemon) => by_daemon(&daemon, command),
        None => here(sources, command),
    };
    match done {
        Ok(code) => code,
        Err(Problem::Refused(why)) => {
            say(&why);
            ExitCode::FAILURE
        }
        Err(Problem::CouldNot(why)) => could_not(&why),
    }
}

/// Into a path of the API: what cannot be a name is none of any job.
fn name(id: &str) -> Result<JobId, Problem> {
    id.parse().map_err(|error: crate::model::job::JobIdError| Problem::Refused(error.to_string()))
}

fn by_daemon(daemon: &Control, command: &JobsCommand) -> Result<ExitCode, Problem> {
    let order = |id: &str, verb: &str| -> Result<ExitCode, Problem> {
        let job = daemon.ask("POST", &format!("/api/jobs/{}/{verb}", name(id)?), None)?;
        Ok(print(format!("{} is {}\n", id, job["status"].as_str().unwrap_or_default()).as_bytes()))
    };
    match command {
        JobsCommand::List { json } => {
            let mut all = Vec::new();
            loop {
                let page = daemon.ask("GET", &format!("/api/jobs?offset={}", all.len()), None)?;
                let rows = page.as_array().cloned().unwrap_or_default();
                let last = rows.len() < limits::JOBS_PAGE;
                all.extend(rows);
                if last {
                    break;
                }
            }
            Ok(listed(&all, *json))
        }
        JobsCommand::Add { release, target_dir } => {
            let body = json!({ "mb_release_id": release, "target_dir": target_dir });
            let job = daemon.ask("POST", "/api/jobs/mb-release", Some(&body))?;
            Ok(print(format!("{}\n", job["job_id"].as_str().unwrap_or_default()).as_bytes()))
        }
        JobsCommand::Show { id } => {
            let job = daemon.ask("GET", &format!("/api/jobs/{}", name(id)?), None)?;
            Ok(print(format!("{job:#}\n").as_bytes()))
        }
        JobsCommand::Export { id } => {
            let told = daemon.ask("GET", &format!("/api/jobs/{}/manifest?as=json", name(id)?), None)?;
            Ok(print(told["manifest"].as_str().unwrap_or_default().as_bytes()))
        }
        JobsCommand::Import { path } => import(path, |text| {
            let job = daemon.ask("POST", "/api/jobs/import", Some(&json!({ "manifest": text })))?;
            Ok(job["job_id"].as_str().unwrap_or_default().to_owned())
        }),
        JobsCommand::Pause { id } => order(id, "pause"),
        JobsCommand::Resume { id } => order(id, "resume"),
        JobsCommand::Cancel { id } => order(id, "cancel"),
    }
}

/// A terminal must not obey what a stranger wrote.
fn listed(rows: &[Value], as_json: bool) -> ExitCode {
    if as_json {
        return print(format!("{:#}\n", json!(rows)).as_bytes());
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["Job", "Status", "Tracks", "Release"]);
    for row in rows {
        let text = |key: &str| plain(row[key].as_str().unwrap_or_default());
        let progress = &row["progress"];
        let tracks = format!("{}/{}", progress["tracks_done"], progress["tracks_total"]);
        table.add_row([text("id"), text("status"), tracks, format!("{} \u{2013} {}", text("artist"), text("title"))]);
    }
    print(format!("{table}\n").as_bytes())
}

/// Every manifest of a file or folder; a line each.
fn import(path: &Path, mut take: impl FnMut(&str) -> Result<String, Problem>) -> Result<ExitCode, Problem> {
    let files = if path.is_dir() {
        let mut files = manifests::files(path);
        for folder in ["active", "completed"] {
            files.extend(manifests::files(&path.join(folder)));
        }
        files
    } else {
        vec![path.to_owned()]
    };
    if files.is_empty() {
        return Err(Problem::CouldNot(format!("{} has no manifests", path.display())));
    }
    let (mut out, mut code) = (String::new(), ExitCode::SUCCESS);
    for file in files.iter().take(limits::MANIFESTS) {
        let taken = match manifests::text_of(file) {
            Ok(text) => take(&text),
            Err(why) => Err(Problem::Refused(why)),
        };
        match taken {
            Ok(id) => {
                let _ = writeln!(out, "{}: job {id}", file.display());
            }
            Err(Problem::Refused(why)) => {
                code = ExitCode::FAILURE;
                say(&format!("{}: {}", file.display(), plain(&why)));
            }
            Err(other) => return Err(other),
        }
    }
    if files.len() > limits::MANIFESTS {
        code = ExitCode::FAILURE;
        say(&format!("{} files were not looked at", files.len() - limits::MANIFESTS));
    }
    print(out.as_bytes());
    Ok(code)
}

fn here(sources: &Sources, command: &JobsCommand) -> Result<ExitCode, Problem> {
    let dir = sources.data.join("store");
    if !dir.join("data.mdb").exists() && !matches!(command, JobsCommand::Import { .. }) {
        return Err(Problem::CouldNot(format!(
            "{} has no store; `--data` may name another directory",
            sources.data.display()
        )));
    }
    let resolved = sources.load().map_err(|problems| {
        Problem::CouldNot(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    })?;
    let folders = Folders::new(&sources.data, &resolved.config);
    let settings = JobSettings::new(&resolved.config, &folders);
    let store = Store::open(&dir, StoreOptions::default())?;
    let now = Clock::start().now().wall;
    let find = |id: &str| -> Result<(Job, Work), Problem> {
        store.job(&name(id)?)?.ok_or_else(|| Problem::Refused(format!("there is no job `{id}`")))
    };
    let put = |job: &Job, work: &Work| -> Result<(), Problem> {
        if let Err(error) = settings.manifests.keep(job) {
            say(&format!("its manifest could not be written: {error}"));
        }
        let (job, work) = (job.clone(), work.clone());
        store.write_blocking(move |txn, tables| tables.jobs.put(txn, &job, &work).map(drop))?;
        Ok(())
    };
    let turn = |id: &str, to: JobState| -> Result<ExitCode, Problem> {
        let (mut job, work) = find(id)?;
        let fits = match to {
            JobState::Pending => job.state == JobState::Paused,
            JobState::Paused => matches!(job.state, JobState::Pending | JobState::Running),
            _ => false,
        };
        if !fits {
            return Err(Problem::Refused(format!("the job is {}", job.state.name())));
        }
        (job.state, job.updated_at) = (to, now);
        put(&job, &work)?;
        Ok(print(format!("{id} is {}\n", to.name()).as_bytes()))
    };
    match command {
        JobsCommand::List { json } => {
            let mut rows = Vec::new();
            store.read(|txn, tables| {
                tables.jobs.each(txn, |job| {
                    rows.push(crate::web::api::job_json(
                        &crate::model::job::JobView { job, doing: String::new() },
                        false,
                    ));
                    true
                })
            })?;
            Ok(listed(&rows, *json))
        }
        JobsCommand::Show { id } => {
            let (job, work) = find(id)?;
            let view = crate::model::job::JobView { job, doing: work.doing };
            Ok(print(format!("{:#}\n", crate::web::api::job_json(&view, true)).as_bytes()))
        }
        JobsCommand::Export { id } => Ok(print(manifest::write(&find(id)?.0).as_bytes())),
        JobsCommand::Import { path } => import(path, |text| {
            let job = manifests::read(text, &settings, now).map_err(|error| Problem::Refused(error.to_string()))?;
            let mut job = manifests::taken_up(job, &settings);
            if store.job(&job.id)?.is_some() {
                let fresh = crate::app::jobs::new_id().map_err(Problem::CouldNot)?;
                job.origin = Some(std::mem::replace(&mut job.id, fresh));
            }
            put(&job, &Work::new(job.spec.tracks.len()))?;
            Ok(job.id.to_string())
        }),
        JobsCommand::Pause { id } => turn(id, JobState::Paused),
        JobsCommand::Resume { id } => turn(id, JobState::Pending),
        JobsCommand::Add { .. } | JobsCommand::Cancel { .. } => {
            Err(Problem::CouldNot("that needs the daemon, and none runs on this data directory".to_owned()))
        }
    }
}
