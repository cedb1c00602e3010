//! The `update` command: by hand, by the page's request, and the look at the running system that keeps it or gives it up.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use super::install::{self, InstallError, read_slots, write_slots};
use super::media::Card;
use super::places::{Places, Trial, read_plain};
use crate::app::cli::{could_not, print, say};
use crate::app::clock::Clock;
use crate::app::control::Control;
use crate::app::settings::Sources;
use crate::engine::appliance::slots::Slot;
use crate::model::appliance::{LastUpdate, Outcome, Progress};

/// Between two looks at a starting system.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A version that is tried must be up within this. Chosen: a store to be put in order after a power cut may take three
/// minutes of it.
pub const HEALTHY_WITHIN_S: u64 = 300;
/// Progress is told when so much more is done.
const TELL_EVERY: u64 = 4 * 1024 * 1024;

/// `update FILE`: as root it writes the other slot itself; else the daemon is asked.
pub fn update(places: &Places, sources: &Sources, file: &Path, forced: bool) -> ExitCode {
    if places.running().is_none() {
        return could_not("this is not the appliance: /run/slskdn/slot names no slot; update it as you installed it");
    }
    if !places.is_test() && !rustix::process::geteuid().is_root() {
        return by_daemon(sources, file, forced);
    }
    let mut file = match File::open(file) {
        Ok(file) => file,
        Err(error) => return could_not(&format!("{}: {error}", file.display())),
    };
    match install(places, &mut file, forced) {
        Ok(version) => {
            let slot = places.running().map(Slot::other).map_or_else(String::new, |slot| slot.to_string());
            print(format!("version {version} is in slot {slot}; restart the box to try it: reboot\n").as_bytes())
        }
        Err(Stop::Refused(sentence)) => could_not(&sentence),
        Err(Stop::Failed(sentence)) => {
            say(&sentence);
            ExitCode::FAILURE
        }
    }
}

fn by_daemon(sources: &Sources, file: &Path, forced: bool) -> ExitCode {
    let Some(control) = Control::of(&sources.data) else {
        return could_not("an update is written by root, and no daemon runs here that could be asked: use sudo");
    };
    let opened = File::open(file).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (length, mut file) = match opened {
        Ok(opened) => opened,
        Err(error) => return could_not(&format!("{}: {error}", file.display())),
    };
    let path = if forced { "/api/update?force=true" } else { "/api/update" };
    match control.send(path, length, &mut file) {
        Ok(answer) => {
            let version = answer.get("version").and_then(|version| version.as_str()).unwrap_or_default().to_owned();
            print(format!("version {version} is being installed; the box restarts when it is written\n").as_bytes())
        }
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Why there is no update.
enum Stop {
    /// Nothing was touched.
    Refused(String),
    /// The other slot is not whole.
    Failed(String),
}

fn install(places: &Places, file: &mut File, forced: bool) -> Result<String, Stop> {
    let refused = |error: &dyn std::fmt::Display| Stop::Refused(error.to_string());
    let running = places.running().ok_or_else(|| Stop::Refused("no slot runs".to_owned()))?;
    if let Some(trial) = places.trial()
        && trial.slot == running.name()
    {
        let version = trial.version;
        return Err(Stop::Refused(format!("version {version} is being tried: wait until it was found good")));
    }
    let key = places.key().map_err(Stop::Refused)?;
    let ours = places.running_version().map_err(Stop::Refused)?;
    let mut teller = Teller::new(places);
    let checked = install::verify(file, &key, &mut |step, done, all| teller.tell(step, done, all));
    let manifest = checked.map_err(|error| refused(&error))?;
    manifest.version.text().clone_into(&mut teller.progress.version);
    let (board, kernel) = (places.board(), places.kernel());
    manifest.suits(board.as_deref(), kernel.as_deref(), &ours, forced).map_err(|error| refused(&error))?;
    // What it says is about an update before this one.
    places.set_why(None).map_err(|error| refused(&error))?;
    let mut card = Card::new(places);
    let written = install::install(&mut card, running, file, &key, &manifest, &mut |step, done, all| {
        teller.tell(step, done, all);
    });
    let slots = read_slots(&mut card);
    if written.is_err() && slots.as_ref().is_ok_and(|slots| slots.first == running) {
        // It will not be tried: what went wrong is told here, and not at the next start.
        drop(places.forget_trial());
    }
    let outcome = written.map(|()| manifest.version.text().to_owned()).map_err(|error| {
        let sentence = error.to_string();
        let room = matches!(error, InstallError::Room { .. });
        if room { Stop::Refused(sentence) } else { Stop::Failed(sentence) }
    });
    if let Err(error) = places.publish_systems(slots.unwrap_or_default()) {
        say(&format!("how the card stands could not be told: {error}"));
    }
    outcome
}

/// Progress, for the page and for a terminal.
struct Teller<'a> {
    places: &'a Places,
    progress: Progress,
    terminal: bool,
}

impl<'a> Teller<'a> {
    fn new(places: &'a Places) -> Self {
        Self { places, progress: Progress::default(), terminal: io::stderr().is_terminal() }
    }

    fn tell(&mut self, step: &'static str, done: u64, all: u64) {
        let news = self.progress.step != step || done >= self.progress.done + TELL_EVERY || done == all;
        if !news {
            return;
        }
        self.progress = Progress { step: step.to_owned(), done, all, ..std::mem::take(&mut self.progress) };
        // The update does not depend on somebody seeing how far it is.
        let _ = self.places.publish_progress(&self.progress);
        if self.terminal {
            say(&format!("{step}: {} of {} MiB", done >> 20, all >> 20));
        }
    }
}

/// `update --requested`: what the page left in the spool. Restarts the box when it is written.
pub fn requested(places: &Places) -> ExitCode {
    let spool = places.spool();
    let request = read_plain(&spool.join("request"), 64);
    // Taken, whatever becomes of it: a bundle that brings the box down is not tried for ever.
    let taken = remove_in(&spool, &["request"]);
    let outcome = match (request, taken) {
        (Ok(request), Ok(())) => {
            let forced = request.trim_ascii() == b"forced";
            match open_in(&spool, "bundle") {
                Ok(mut file) => install(places, &mut file, forced),
                Err(error) => Err(Stop::Refused(format!("the upload cannot be read: {error}"))),
            }
        }
        (Err(error), _) | (_, Err(error)) => Err(Stop::Refused(format!("the request cannot be read: {error}"))),
    };
    let _ = remove_in(&spool, &["bundle"]);
    let sentence = match outcome {
        Ok(version) => {
            let progress = Progress { step: "restarting".to_owned(), version, ..Progress::default() };
            let told = places.publish_progress(&progress).and_then(|()| places.restart());
            match told {
                Ok(()) => return ExitCode::SUCCESS,
                Err(error) => format!("it is written, but the box does not restart: {error}"),
            }
        }
        Err(Stop::Refused(sentence)) => sentence,
        Err(Stop::Failed(sentence)) => {
            let last = LastUpdate {
                outcome: Outcome::Failed,
                version: places.progress().unwrap_or_default().version,
                from: places.running_version().map(|version| version.text().to_owned()).unwrap_or_default(),
                reason: sentence.clone(),
            };
            if let Err(error) = places.note_last(&last) {
                say(&format!("what became of the update could not be noted: {error}"));
            }
            sentence
        }
    };
    let before = places.progress().unwrap_or_default();
    let progress = Progress { step: "failed".to_owned(), error: sentence.clone(), ..before };
    if let Err(error) = places.publish_progress(&progress) {
        say(&format!("how the update ended could not be told: {error}"));
    }
    let slots = read_slots(&mut Card::new(places)).unwrap_or_default();
    let _ = places.publish_systems(slots);
    say(&sentence);
    ExitCode::FAILURE
}

/// Opens a file in a folder that belongs to somebody else: neither may be a link.
fn open_in(folder: &Path, name: &str) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, openat};
    let folder = folder_of_others(folder)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(folder, name, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no plain file")) }
}

fn remove_in(folder: &Path, names: &[&str]) -> io::Result<()> {
    let folder = folder_of_others(folder)?;
    for name in names {
        match rustix::fs::unlinkat(&folder, *name, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn folder_of_others(folder: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY | libc::O_CLOEXEC;
    File::options().read(true).custom_flags(flags).open(folder)
}

/// `update --status`: how the card stands, as JSON.
pub fn status(places: &Places) -> ExitCode {
    if places.running().is_none() {
        return could_not("this is not the appliance: /run/slskdn/slot names no slot");
    }
    let systems = places.systems();
    let shown = serde_json::json!({ "systems": systems, "progress": places.progress(), "why": places.why() });
    print(format!("{shown:#}\n").as_bytes())
}

/// `update --confirm`: waits until the program is up and healthy, then keeps the running slot. A version that is only
/// tried and is not up `within` so many seconds, or says that it cannot, is given up: the box restarts into the other one.
pub fn confirm(places: &Places, within: u64) -> ExitCode {
    let Some(running) = places.running() else {
        return could_not("this is not the appliance: /run/slskdn/slot names no slot");
    };
    let outcome = confirm_or_give_up(places, running, Duration::from_secs(within));
    match outcome {
        Ok(sentence) => print(format!("{sentence}\n").as_bytes()),
        Err(error) => {
            say(&format!("slot {running} could not be confirmed: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn confirm_or_give_up(places: &Places, running: Slot, within: Duration) -> io::Result<String> {
    let mut card = Card::new(places);
    let trial = places.trial().filter(|_| places.has_data());
    if let Some(trial) = trial.as_ref().filter(|trial| trial.slot != running.name()) {
        note_gone_back(places, trial, &mut card, running)?;
        places.forget_trial()?;
    }
    if trial.is_none() && places.has_data() {
        let lost = read_slots(&mut card).ok().and_then(|slots| slots.lost(running));
        lost.map_or(Ok(()), |lost| note_lost(places, lost))?;
    }
    let trial = trial.filter(|trial| trial.slot == running.name());
    let slots = read_slots(&mut card);
    // A version that cannot mount the data cannot read the note there either; the counters tell it too.
    let untold = trial.is_none() && !places.has_data() && slots.as_ref().is_ok_and(|slots| slots.is_last_try(running));
    // Only for the page: a card that cannot be read must not keep a bad version from being given up.
    if let Err(error) = slots.and_then(|slots| places.publish_systems(slots)) {
        say(&format!("what the slots hold could not be told: {error}"));
    }
    let clock = Clock::start();
    loop {
        let health = places.health();
        match (health, &trial) {
            (Some(health), _) if health.healthy && places.has_data() => break,
            (Some(health), Some(trial)) if !health.reasons.is_empty() => {
                return give_up(places, &format!("version {}: {}", trial.version, health.reasons.join("; ")));
            }
            (_, Some(trial)) if clock.now().mono >= within => {
                let seconds = within.as_secs();
                return give_up(places, &format!("version {} was not up within {seconds} seconds", trial.version));
            }
            _ if untold && clock.now().mono >= within => {
                return give_up(places, &format!("slot {running} was tried and came up without its data"));
            }
            _ => sleep(LOOK_EVERY),
        }
    }
    let slots = read_slots(&mut card)?.good(running);
    write_slots(&mut card, slots)?;
    if let Some(trial) = trial {
        let (version, from) = (trial.version, trial.from);
        places.note_last(&LastUpdate { outcome: Outcome::Installed, version, from, reason: String::new() })?;
        places.forget_trial()?;
        places.set_why(None)?;
    }
    places.publish_systems(slots)?;
    Ok(format!("slot {running} is found good"))
}

/// The update that was noted as being tried is not what runs.
fn note_gone_back(places: &Places, trial: &Trial, card: &mut Card, running: Slot) -> io::Result<()> {
    let slots = read_slots(card);
    // Its slot is put first when all else is written, and each start takes a try.
    let untried = match &slots {
        Ok(slots) if slots.first == running => {
            Some("the last step of writing it was not done, as when the plug is pulled")
        }
        Ok(slots) if slots.left(running.other()) > 0 => {
            Some("its start could not be written down, as on a card that is worn out")
        }
        _ => None,
    };
    let why = places.why();
    let (outcome, reason) = match untried {
        Some(why) => (Outcome::Failed, format!("it was not tried: {why}")),
        None if why.is_empty() => (Outcome::FellBack, "it was started and did not come up".to_owned()),
        None => (Outcome::FellBack, why),
    };
    say(&format!("slot {running} runs, and not version {}: {reason}", trial.version));
    places.note_last(&LastUpdate { outcome, version: trial.version.clone(), from: trial.from.clone(), reason })?;
    match (untried, slots) {
        // Without the note nobody would look after it, should it be started after all.
        (Some(_), Ok(slots)) => write_slots(card, slots.alone(running)),
        _ => Ok(()),
    }
}

/// The slot that comes first used up its tries without an update being tried: it was refused at a start, or cut short
/// three times. Told once.
fn note_lost(places: &Places, lost: Slot) -> io::Result<()> {
    let Some(file) = places.slot_file(lost) else { return Ok(()) };
    let version = file.version.text().to_owned();
    let is_told = |last: &LastUpdate| last.outcome == Outcome::FellBack && last.version == version;
    if places.last().as_ref().is_some_and(is_told) {
        return Ok(());
    }
    let why = places.why();
    let reason = if why.starts_with(&format!("slot {lost} ")) {
        why
    } else {
        "three starts of it in a row ended before it was found good, as when the plug is pulled each time. \
         Install it again to go back to it"
            .to_owned()
    };
    say(&format!("the box went back from version {version}: {reason}"));
    let from = places.running_version().map(|version| version.text().to_owned()).unwrap_or_default();
    places.note_last(&LastUpdate { outcome: Outcome::FellBack, version, from, reason })
}

fn give_up(places: &Places, why: &str) -> io::Result<String> {
    // Without a word of why the box goes back all the same.
    if let Err(error) = places.set_why(Some(why)) {
        say(&format!("why it is given up could not be kept: {error}"));
    }
    places.restart()?;
    Ok(format!("given up: {why}; the box goes back to the version before"))
}
