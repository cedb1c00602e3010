//! `rescue`: what runs in place of the daemon when its disk is missing or it failed to start three times.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::card::CODE;
use super::node::Appliance;
use super::places::Health;
use crate::app::cli::{could_not, say};
use crate::app::settings::Sources;
use crate::model::time::UnixMs;
use crate::store::{BackupSummary, restore as put_back, unfinished};
use crate::web::rescue::{Rescue, UPLOAD, serve};

/// The box tries again by itself after so long: what was missing may be there now.
const AGAIN_AFTER: Duration = Duration::from_secs(30 * 60);
/// A box that has run for so long restarts by itself when its data partition can no longer be written.
const RESTART_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// While a backup is put back the next try waits, and is thought of again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// A card that takes longer for one byte is broken. The watchdog wants to be fed meanwhile.
const PROBED_WITHIN: Duration = Duration::from_secs(20);
/// Copies that are offered.
const COPIES: usize = 16;
/// Lines of the log that are shown.
const LOG_LINES: &str = "400";
/// Their bytes.
const LOG_LEN: usize = 256 * 1024;

/// Serves the page on port 80 and the page's usual one until the owner wants another try.
pub fn rescue(sources: &Sources, ports: &[u16]) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return could_not(&format!("no threads to work with: {error}")),
    };
    let ended = runtime.block_on(run(sources, ports));
    // A backup that is being put back comes to its end first.
    drop(runtime);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            say(&sentence);
            ExitCode::FAILURE
        }
    }
}

async fn run(sources: &Sources, ports: &[u16]) -> Result<(), String> {
    let appliance = Appliance::new(sources.root.clone());
    let has_data = sources.card.is_none() || appliance.has_data();
    // Of an upload that was cut short.
    drop(std::fs::remove_file(sources.data.join(UPLOAD)));
    let reasons = reasons(sources, has_data);
    appliance.tell_health(&Health { reasons: reasons.clone(), ..Health::default() });
    // The appliance is found from the network. Elsewhere the page is where the owner's own page is, or, where that cannot
    // be read, for this machine alone.
    let address = match sources.load() {
        _ if sources.card.is_some() => None,
        Ok(settings) => Some(settings.config.web.address),
        Err(_) => Some(Ipv4Addr::LOCALHOST.into()),
    };
    let mut listeners = Vec::new();
    for port in ports {
        match bind(address, *port) {
            Ok(listener) => {
                listeners.push(tokio::net::TcpListener::from_std(listener).map_err(|error| error.to_string())?);
            }
            Err(error) => say(&format!("port {port} cannot be had: {error}")),
        }
    }
    if listeners.is_empty() {
        return Err("no port can be had".to_owned());
    }
    // Before it is told: one that comes early is not lost.
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let code = match appliance.told_code() {
        Some(code) => code,
        None => crate::web::auth::new_code().map_err(|error| error.to_string())?,
    };
    let key = crate::web::auth::new_code().map_err(|error| error.to_string())?;
    appliance.leave(CODE, Some(&code));
    say(&format!("the rescue page runs; its code is {code}"));
    for reason in &reasons {
        say(reason);
    }
    let (stop, again, turn) = (CancellationToken::new(), CancellationToken::new(), Arc::new(Semaphore::new(1)));
    let (data, kept) = (sources.data.clone(), sources.data.clone());
    let page = Rescue {
        reasons,
        code,
        log: Box::new(log),
        spool: has_data.then(|| sources.data.clone()),
        restore: Box::new(move |file| restore(&data, &file)),
        copies: Box::new(move || if has_data { copies(&kept) } else { Vec::new() }),
        restart: appliance.is_appliance().then(|| {
            let appliance = appliance.clone();
            Box::new(move || appliance.restart()) as Box<dyn Fn() -> Result<(), String> + Send + Sync>
        }),
        again: again.clone(),
        turn: Arc::clone(&turn),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let watchdog = sd_notify::watchdog_enabled();
    let served = tokio::spawn(serve(listeners, page, key, stop.clone()));
    let mut feed = tokio::time::interval(watchdog.map_or(Duration::from_secs(20), |every| every / 3));
    let deadline = tokio::time::sleep(AGAIN_AFTER);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            () = again.cancelled() => break,
            () = &mut deadline => {
                let Ok(held) = turn.try_acquire() else {
                    deadline.as_mut().reset(tokio::time::Instant::now() + LOOK_AGAIN);
                    continue;
                };
                let is_broken = !has_data || is_broken(&sources.data).await;
                if !is_broken {
                    held.forget();
                    break;
                }
                // Only a restart checks the card. Not often: each takes one of the slot's tries.
                if appliance.is_appliance() && uptime() >= RESTART_AFTER {
                    say("the data partition is missing or can only be read: the box restarts");
                    appliance.restart().unwrap_or_else(|error| say(&error));
                } else if has_data {
                    held.forget();
                    break;
                }
                deadline.as_mut().reset(tokio::time::Instant::now() + AGAIN_AFTER);
            }
            _ = terminate.recv() => break,
            _ = feed.tick() => { let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]); }
        }
    }
    // The page's last answer is on its way.
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The code stays: who has read it on the card may need it at the next start of this page.
    stop.cancel();
    let _ = served.await;
    Ok(())
}

/// On `address`; without one on all addresses of both kinds, or of the older kind alone where there is no IPv6.
fn bind(address: Option<IpAddr>, port: u16) -> std::io::Result<TcpListener> {
    let listen = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(64)?;
        Ok(TcpListener::from(socket))
    };
    if let Some(address) = address {
        return listen((address, port).into());
    }
    listen((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|_| listen((Ipv4Addr::UNSPECIFIED, port).into()))
}

/// Why there is this page: the disk, the configuration, or the last words of the program.
fn reasons(sources: &Sources, has_data: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    if !has_data {
        reasons.push(
            "The data partition is not there, or cannot be repaired. Nothing is lost by looking: the card can be read on \
             a PC with Linux."
                .to_owned(),
        );
    } else if let Err(problems) = sources.load() {
        reasons.extend(problems.iter().map(|problem| format!("A mistake in the configuration: {problem}")));
    }
    if reasons.is_empty() {
        let last = journal(&["--unit=slskdn.service", "--lines=200", "--output=cat"]);
        let ours = last.lines().rev().find_map(|line| line.strip_prefix("slskdn: "));
        reasons.push(match ours {
            Some(sentence) => format!("slskdn did not start: {sentence}"),
            None => "slskdn did not start three times in a row; the log says more.".to_owned(),
        });
    }
    reasons
}

fn journal(arguments: &[&str]) -> String {
    let told = Command::new("journalctl").args(["--no-pager", "--quiet"]).args(arguments).output();
    let told = told.map(|told| told.stdout).unwrap_or_default();
    let from = told.len().saturating_sub(LOG_LEN);
    let text = String::from_utf8_lossy(told.get(from..).unwrap_or_default()).into_owned();
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn log() -> String {
    let lines = journal(&["--lines", LOG_LINES, "--output=short-iso"]);
    if lines.is_empty() { "The log cannot be read.".to_owned() } else { lines }
}

fn uptime() -> Duration {
    Duration::from_secs(u64::try_from(rustix::system::sysinfo().uptime).unwrap_or_default())
}

/// Whether nothing can be written there any more, or not within any time that makes sense.
async fn is_broken(folder: &Path) -> bool {
    let folder = folder.to_owned();
    let (done, probed) = oneshot::channel();
    // A thread of its own, which nobody waits for: it may never come back.
    let started = std::thread::Builder::new().spawn(move || done.send(is_read_only(&folder)));
    started.is_err() || !matches!(tokio::time::timeout(PROBED_WITHIN, probed).await, Ok(Ok(false)))
}

/// After an error of the card the kernel lets nothing be written any more. Its flag does not say so since Linux 6.12.
fn is_read_only(folder: &Path) -> bool {
    let path = folder.join(".rescue-probe");
    let write = || -> io::Result<()> {
        let mut file = File::create(&path)?;
        file.write_all(b"x")?;
        file.sync_all()
    };
    let outcome = write();
    drop(std::fs::remove_file(&path));
    let broken = [Errno::ROFS, Errno::IO, Errno::SHUTDOWN];
    outcome.is_err_and(|error| Errno::from_io_error(&error).is_some_and(|errno| broken.contains(&errno)))
}

/// What can be put back without a file of the owner's.
fn copies(data: &Path) -> Vec<(UnixMs, PathBuf)> {
    let at = |at: SystemTime| UnixMs::default().plus(at.duration_since(UNIX_EPOCH).unwrap_or_default());
    crate::store::copies(data).into_iter().take(COPIES).map(|(path, written)| (at(written), path)).collect()
}

/// Makes a store of the backup, and then changes places with the one that is there, which stays beside it.
fn restore(data: &Path, file: &Path) -> Result<String, String> {
    let store = data.join("store");
    let rows = |summary: BackupSummary| -> u64 { summary.tables.iter().map(|(_, rows)| rows).sum() };
    if !store.exists() {
        let summary = put_back(file, &store).map_err(|error| error.to_string())?;
        return Ok(format!("{} records are back", rows(summary)));
    }
    let free = (1..1000).map(|number| data.join(format!("store-set-aside-{number}")));
    let aside = free.into_iter().find(|path| !path.exists() && !unfinished(path).exists());
    let aside = aside.ok_or("too many stores are set aside already")?;
    let put = put_back(file, &aside).map_err(|error| error.to_string()).and_then(|summary| {
        // In one step: whatever happens, there is a store.
        renameat_with(CWD, &aside, CWD, &store, RenameFlags::EXCHANGE)
            .map_err(|error| format!("the store cannot be set aside: {error}"))?;
        Ok(rows(summary))
    });
    match put {
        Ok(rows) => {
            if let Err(error) = File::open(data).and_then(|data| data.sync_all()) {
                say(&format!("{}: {error}", data.display()));
            }
            Ok(format!("{rows} records are back; the one before is {}", aside.display()))
        }
        Err(error) => {
            // Only what was just made of the backup.
            drop(std::fs::remove_dir_all(&aside));
            Err(error)
        }
    }
}
