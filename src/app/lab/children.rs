//! The processes of the lab. They die with it, however it ends.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::LabError;
use super::peer::{Order, PEER_COMMAND, Setup, Told};
use crate::app::control::{Control, ControlError};
use crate::model::id::PeerId;
use crate::net::mesh::Identity;

/// For a child to answer an order.
const PROMPT: Duration = Duration::from_secs(30);
/// For one to be there at all: many start at once.
const START: Duration = Duration::from_secs(120);
/// For an orderly stop.
const STOP: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Answers waiting to be read.
const ANSWERS: usize = 16;

/// A process with a data directory of its own.
#[derive(Debug)]
struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Must be called by a thread that stays: the child dies with it.
    fn start(name: &str, home: &Path, settings: &[String], command: &str, talks: bool) -> Result<Self, LabError> {
        let failed = |error: io::Error| LabError::Child { name: name.to_owned(), why: error.to_string() };
        let log = home.with_extension("log");
        let out = File::create(&log).map_err(failed)?;
        let mut order = Command::new(std::env::current_exe().map_err(failed)?);
        order.arg("--data").arg(home);
        for setting in settings {
            order.arg("--set").arg(setting);
        }
        // What is set for the owner's own node must not reach into the lab; how much is logged may.
        for (key, _) in std::env::vars_os() {
            let ours = key.to_str().is_some_and(|key| key.starts_with("SLSKDN_") && key != "SLSKDN_LOG");
            if ours || key == "NOTIFY_SOCKET" || key == "LISTEN_FDS" || key == "WATCHDOG_USEC" {
                order.env_remove(key);
            }
        }
        order.arg(command).stderr(out.try_clone().map_err(failed)?);
        if talks {
            order.stdin(Stdio::piped()).stdout(Stdio::piped());
        } else {
            order.stdin(Stdio::null()).stdout(out);
        }
        // A process group of its own: an interrupt at the terminal is the lab's to handle.
        order.process_group(0);
        #[expect(unsafe_code, reason = "nothing else lets a child die with its parent")]
        // SAFETY: between fork and exec this makes one system call and allocates nothing.
        unsafe {
            order.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = order.spawn().map_err(failed)?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    fn failed(&self, why: &str) -> LabError {
        // The last thing it said is most often the reason.
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let last = log.lines().last().unwrap_or_default();
        LabError::Child { name: self.name.clone(), why: format!("{why}; it says: {last}") }
    }

    /// Orderly if it can be, and in any case.
    fn stop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Some(pid), Ok(None)) = (pid, self.child.try_wait()) {
            // Fails only when it has ended meanwhile.
            let _ = rustix::process::kill_process(pid, Signal::TERM);
            let mut waited = Duration::ZERO;
            while waited < STOP && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(LOOK);
                waited += LOOK;
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Only where it was not stopped: fails when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A data directory with a key in it; says whose.
pub(super) fn home(path: &Path) -> Result<PeerId, LabError> {
    let failed = |source: io::Error| LabError::Folder { path: path.to_owned(), source };
    let random = |error: crate::net::mesh::MeshError| failed(io::Error::other(error.to_string()));
    let secret = Identity::make().map_err(random)?;
    let folder = path.join("identity");
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
    let key = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join("mesh.key"));
    key.and_then(|mut key| key.write_all(&secret)).map_err(failed)?;
    Ok(Identity::from_secret(&secret).map_err(random)?.id())
}

/// A peer that serves.
#[derive(Debug)]
pub(super) struct Serving {
    process: Process,
    orders: ChildStdin,
    told: Receiver<Told>,
    left: bool,
}

impl Serving {
    /// Starts it; [`Serving::ready`] waits for it.
    pub(super) fn start(name: &str, home: &Path, share: &Path, setup: &Setup) -> Result<Self, LabError> {
        let settings = [
            "mesh.enabled=true".to_owned(),
            "mesh.address=127.0.0.1".to_owned(),
            "mesh.port=0".to_owned(),
            "shares.watch=false".to_owned(),
            format!("shares.directories={}", share.display()),
        ];
        let mut process = Process::start(name, home, &settings, PEER_COMMAND, true)?;
        let (Some(orders), Some(answers)) = (process.child.stdin.take(), process.child.stdout.take()) else {
            return Err(process.failed("it cannot be talked to"));
        };
        let (send, told) = sync_channel(ANSWERS);
        std::thread::spawn(move || {
            for line in BufReader::new(answers).lines() {
                let Some(told) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else { return };
                if send.send(told).is_err() {
                    return;
                }
            }
        });
        let mut serving = Self { process, orders, told, left: false };
        serving.say(setup)?;
        Ok(serving)
    }

    fn say(&mut self, order: &impl serde::Serialize) -> Result<(), LabError> {
        let line = serde_json::to_string(order).map_err(|error| self.process.failed(&error.to_string()))?;
        let said = self.orders.write_all(format!("{line}\n").as_bytes());
        said.map_err(|error| self.process.failed(&format!("it hears nothing any more: {error}")))
    }

    fn hear<T>(&mut self, wait: Duration, wanted: impl Fn(&Told) -> Option<T>) -> Result<T, LabError> {
        loop {
            match self.told.recv_timeout(wait) {
                Ok(Told::Failed(why)) => return Err(self.process.failed(&why)),
                Ok(told) => {
                    if let Some(found) = wanted(&told) {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Err(self.process.failed("it does not answer")),
                Err(RecvTimeoutError::Disconnected) => return Err(self.process.failed("it ended")),
            }
        }
    }

    /// Waits until it has the file.
    pub(super) fn ready(&mut self) -> Result<(), LabError> {
        self.hear(START, |told| matches!(told, Told::Ready).then_some(()))
    }

    /// Opens its port, and lets it call somebody.
    pub(super) fn begin(&mut self, call: Option<String>) -> Result<(), LabError> {
        self.say(&Order::Begin(call))
    }

    /// The port it opened.
    pub(super) fn port(&mut self) -> Result<u16, LabError> {
        self.hear(PROMPT, |told| if let Told::Open(port) = told { Some(*port) } else { None })
    }

    /// Closes its connections, soon.
    pub(super) fn leave(&mut self) -> Result<(), LabError> {
        self.left = true;
        self.say(&Order::Leave)
    }

    /// Bytes of the file it sent.
    pub(super) fn sent(&mut self) -> Result<u64, LabError> {
        if !self.left {
            self.say(&Order::Report)?;
        }
        self.hear(PROMPT, |told| if let Told::Sent(bytes) = told { Some(*bytes) } else { None })
    }
}

/// The node that fetches: the appliance itself.
#[derive(Debug)]
pub(super) struct Fetcher {
    process: Process,
    control: Control,
}

impl Fetcher {
    /// Starts it and waits until it answers.
    pub(super) fn start(home: &Path, peers: &[String], more: &[String]) -> Result<Self, LabError> {
        let mut settings: Vec<String> = [
            "web.address=127.0.0.1",
            "web.port=0",
            "soulseek.listen_ip_address=127.0.0.1",
            "soulseek.listen_port=0",
            "catalog.offline=true",
            "disk.min_free_mib=1",
            "mesh.enabled=true",
            "mesh.address=127.0.0.1",
            "mesh.port=0",
        ]
        .map(str::to_owned)
        .into();
        settings.push(format!("mesh.peers={}", peers.join(";")));
        settings.extend_from_slice(more);
        let mut process = Process::start("fetcher", home, &settings, "serve", false)?;
        let mut waited = Duration::ZERO;
        loop {
            if let Some(control) = Control::of(home) {
                return Ok(Self { process, control });
            }
            if !matches!(process.child.try_wait(), Ok(None)) {
                return Err(process.failed("it ended"));
            }
            if waited >= START {
                return Err(process.failed("it does not answer"));
            }
            std::thread::sleep(LOOK);
            waited += LOOK;
        }
    }

    /// One request to its API.
    pub(super) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, LabError> {
        self.control.ask(method, path, body).map_err(|error| self.process.failed(&error.to_string()))
    }

    /// Asks for something that may not be there.
    pub(super) fn ask_if_there(&self, path: &str) -> Result<Option<Value>, LabError> {
        match self.control.ask("GET", path, None) {
            Ok(found) => Ok(Some(found)),
            Err(ControlError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(self.process.failed(&error.to_string())),
        }
    }

    /// The most memory it had so far, KiB.
    pub(super) fn peak_rss_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Stops it.
    pub(super) fn stop(&mut self) {
        self.process.stop();
    }

    /// Kills it, as a power cut would end the process.
    pub(super) fn kill(&mut self) {
        // Fails only when it has ended.
        let _ = self.process.child.kill();
        let _ = self.process.child.wait();
    }
}
