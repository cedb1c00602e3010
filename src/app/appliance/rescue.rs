//! `rescue`: what runs in place of the daemon when its disk is missing or it failed to start three times.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;

use super::card::CODE;
use super::node::Appliance;
use super::places::Health;
use crate::app::cli::{could_not, say};
use crate::app::settings::Sources;
use crate::store::restore as put_back;
use crate::web::rescue::{Rescue, serve};

/// The box tries again by itself after so long: what was missing may be there now.
const AGAIN_AFTER: Duration = Duration::from_secs(30 * 60);
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
    match runtime.block_on(run(sources, ports)) {
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
    let reasons = reasons(sources, has_data);
    appliance.tell_health(&Health { reasons: reasons.clone(), ..Health::default() });
    let mut listeners = Vec::new();
    for port in ports {
        match bind(*port) {
            Ok(listener) => {
                listeners.push(tokio::net::TcpListener::from_std(listener).map_err(|error| error.to_string())?);
            }
            Err(error) => say(&format!("port {port} cannot be had: {error}")),
        }
    }
    if listeners.is_empty() {
        return Err("no port can be had".to_owned());
    }
    let code = crate::web::auth::new_code().map_err(|error| error.to_string())?;
    let key = crate::web::auth::new_code().map_err(|error| error.to_string())?;
    appliance.leave(CODE, Some(&code));
    say(&format!("the rescue page runs; its code is {code}"));
    for reason in &reasons {
        say(reason);
    }
    let (stop, again) = (CancellationToken::new(), CancellationToken::new());
    let data = sources.data.clone();
    let page = Rescue {
        reasons,
        code,
        log: Box::new(log),
        spool: has_data.then(|| sources.data.clone()),
        restore: Box::new(move |file| restore(&data, &file)),
        again: again.clone(),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let watchdog = sd_notify::watchdog_enabled();
    let served = tokio::spawn(serve(listeners, page, key, stop.clone()));
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut feed = tokio::time::interval(watchdog.map_or(Duration::from_secs(20), |every| every / 3));
    let deadline = tokio::time::sleep(AGAIN_AFTER);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            () = again.cancelled() => break,
            // Without a disk only a restart helps, and a person.
            () = &mut deadline, if has_data => break,
            _ = terminate.recv() => break,
            _ = feed.tick() => { let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]); }
        }
    }
    // The page's last answer is on its way.
    tokio::time::sleep(Duration::from_millis(300)).await;
    appliance.leave(CODE, None);
    stop.cancel();
    let _ = served.await;
    Ok(())
}

/// Both kinds of addresses, or the older one alone where there is no IPv6.
fn bind(port: u16) -> std::io::Result<TcpListener> {
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

/// Sets the store aside and puts the backup in its place.
fn restore(data: &Path, file: &Path) -> Result<String, String> {
    let store = data.join("store");
    let mut aside: Option<PathBuf> = None;
    if store.exists() {
        let free = (1..1000).map(|number| data.join(format!("store-set-aside-{number}"))).find(|path| !path.exists());
        let to = free.ok_or("too many stores are set aside already")?;
        std::fs::rename(&store, &to).map_err(|error| format!("the store cannot be set aside: {error}"))?;
        aside = Some(to);
    }
    match put_back(file, &store) {
        Ok(summary) => {
            let rows: u64 = summary.tables.iter().map(|(_, rows)| rows).sum();
            let kept = aside.map_or_else(String::new, |to| format!("; the one before is {}", to.display()));
            Ok(format!("{rows} records are back{kept}"))
        }
        Err(error) => {
            if let Some(to) = aside {
                // An empty folder of a lock may be there.
                drop(std::fs::remove_dir_all(&store));
                std::fs::rename(&to, &store).map_err(|error| format!("{}: {error}", to.display()))?;
            }
            Err(error.to_string())
        }
    }
}
