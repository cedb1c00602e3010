//! The lab: a private network on loopback with given speeds, delays and faults, in which downloads are tried, measured
//! and shown.
//!
//! Everything in it is real but the network between: nodes are processes of their own that run the code of every day.
//! [`scenario`] says what is to happen, [`material`] makes the file, [`children`] keeps the processes, [`peer`] is one of
//! them, [`faults`] is what a peer does to the bytes that it serves, [`users`] are those of Soulseek, and [`stage`] plays
//! it all. How far away a peer is, its socket decides (`net::mesh`). [`soulseek`] is the network there.

mod children;
pub mod faults;
mod material;
pub mod peer;
mod rescue;
pub mod scenario;
mod show;
pub mod soulseek;
pub mod stage;
mod users;
mod yaml;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use self::scenario::Scenario;
use self::show::Show;
use super::cli::{could_not, print, say};
use crate::model::config::{Place, Problem, keys};

/// Switches the choice of sources by cost (SPEC-FACTS 17).
const COST_KEY: &str = "multi_source.swarm_scheduler.cost_function.enabled";
/// What is played when nothing is named.
const DEMO: &str = include_str!("demo.yml");

/// Why the lab itself failed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Something in its folder cannot be made.
    #[error("{}: {source}", path.display())]
    Folder {
        /// Which path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A node is not what it should be.
    #[error("the node {name}: {why}")]
    Child {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
    /// Peers that do not connect.
    #[error("not connected in time: {0}")]
    NotConnected(String),
    /// Somebody wants it to end.
    #[error("interrupted")]
    Interrupted,
}

/// What is asked for.
#[derive(Debug)]
pub struct Options {
    /// The scenario's file; none is the demonstration.
    pub scenario: Option<PathBuf>,
    /// The report as JSON and nothing else on standard output.
    pub json: bool,
    /// The folder stays.
    pub keep: bool,
}

/// The command: 0 completed and identical, 1 otherwise, 2 a bad scenario.
pub fn run(options: &Options) -> ExitCode {
    let scenario = match read(options.scenario.as_deref()) {
        Ok(scenario) => scenario,
        Err(problems) => {
            for problem in &problems {
                say(&problem.to_string());
            }
            return could_not("the scenario has mistakes; nothing was started");
        }
    };
    let mut folder = match Folder::new(options.keep) {
        Ok(folder) => folder,
        Err(error) => return could_not(&error.to_string()),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = match runtime(Arc::clone(&stop)) {
        Ok(runtime) => runtime,
        Err(error) => return could_not(&format!("no threads to work with: {error}")),
    };
    let mut show = Show::new(&scenario, options.json);
    let played = stage::play(&scenario, &folder.path, &stop, &mut show, runtime.handle());
    show.over();
    let code = match played {
        Ok(report) => {
            let text = if options.json {
                serde_json::to_string(&report).unwrap_or_default() + "\n"
            } else {
                show::summary(&scenario, &report)
            };
            let printed = print(text.as_bytes());
            if report.completed && report.identical { printed } else { ExitCode::FAILURE }
        }
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    };
    folder.end();
    code
}

fn read(path: Option<&Path>) -> Result<Scenario, Vec<Problem>> {
    let Some(path) = path else { return scenario::read(DEMO, "the demonstration") };
    let source = path.display().to_string();
    let whole = |message: String| {
        let place = Place { source: source.clone(), ..Place::default() };
        vec![Problem { place, key: String::new(), message }]
    };
    let text = std::fs::read_to_string(path).map_err(|error| whole(format!("cannot be read: {error}")))?;
    let scenario = scenario::read(&text, &source)?;
    if !scenario.cost_function && keys::find(COST_KEY).is_none() {
        return Err(whole("cost_function: the scheduler has none yet that could be off".to_owned()));
    }
    Ok(scenario)
}

/// A private folder that goes when the lab is over.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn new(keep: bool) -> Result<Self, LabError> {
        let mut bits = [0; 4];
        let path = std::env::temp_dir();
        let failed = |source: std::io::Error| LabError::Folder { path: path.clone(), source };
        getrandom::fill(&mut bits).map_err(|error| failed(std::io::Error::other(error.to_string())))?;
        let path = path.join(format!("slskdn-lab-{:08x}", u32::from_ne_bytes(bits)));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| LabError::Folder { path: path.clone(), source })?;
        if keep {
            say(&format!("everything lies in {}", path.display()));
        }
        Ok(Self { path, keep })
    }

    fn end(&mut self) {
        if !self.keep
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            say(&format!("the folder {} stays: {error}", self.path.display()));
        }
        self.keep = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs the Soulseek side, and notes an interrupt or a wish to end, so that the lab can clean up.
fn runtime(stop: Arc<AtomicBool>) -> std::io::Result<tokio::runtime::Runtime> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let guard = runtime.enter();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    drop(guard);
    runtime.spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            stop.store(true, Ordering::Relaxed);
        }
    });
    Ok(runtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demonstration_is_a_scenario_of_ten_to_fifteen_seconds() {
        let demo = read(None).unwrap();
        let ideal = demo.ideal_seconds().unwrap();
        assert!((9.0..15.0).contains(&ideal), "{ideal}");
    }
}
