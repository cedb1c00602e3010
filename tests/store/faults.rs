//! A full disk and a broken one, each in a child process of this test binary.
//!
//! They need `unshare` and `strace`; where these are missing or refused the tests say so on stderr and end.

use std::env;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use slskdn::store::{Health, Store, StoreError, StoreOptions};

use super::{MIB, keep, kept, open};

const FULL: &str = "SLSKDN_STORE_FULL_DISK";
const BROKEN: &str = "SLSKDN_STORE_BROKEN_DISK";

/// Runs a shell script in which `"$@"` is this test binary running one test; answers with what it said.
fn run(script: &str, test: &str, variable: &str, dir: &Path) -> String {
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads", "1"])
        .env(variable, dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn possible(command: &str) -> bool {
    let probe = Command::new("sh").args(["-c", command]).output();
    let possible = probe.is_ok_and(|output| output.status.success());
    if !possible {
        eprintln!("skipped: {command} does not work here");
    }
    possible
}

#[test]
fn a_full_disk_is_told_and_survived() {
    let dir = tempfile::tempdir().unwrap();
    if !possible("unshare -rm mount -t tmpfs none /mnt") {
        return;
    }
    let script = format!("unshare -rm sh -c 'mount -t tmpfs -o size=6m none \"${FULL}\" && exec \"$@\"' sh \"$@\"");
    let said = run(&script, "store::faults::on_a_small_disk", FULL, dir.path());
    assert!(said.contains("survived"), "{said}");
}

/// Not a test by itself: fills the disk, makes room, goes on.
#[test]
fn on_a_small_disk() {
    let Some(dir) = env::var_os(FULL) else { return };
    let dir = Path::new(&dir);
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![1; 2 * MIB]).unwrap();
    let at = dir.join("store");
    let store = open(&at);
    let mut numbers = 0..;
    let mut acknowledged = Vec::new();
    let error = loop {
        let number = numbers.next().unwrap();
        match keep(&store, number, vec![0; 30_000]).wait() {
            Ok(()) => acknowledged.push(number),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::DiskFull), "{error}");
    assert_eq!(error.to_string(), "no space left on the disk of the store");
    assert_eq!(store.health(), Health::Well);
    assert_eq!(kept(&store), acknowledged);
    assert!(store.backup(&dir.join("no room.backup")).is_err());
    assert!(!dir.join("no room.backup").exists() && !dir.join("no room.backup.partial").exists());
    std::fs::remove_file(ballast).unwrap();
    let number = numbers.next().unwrap();
    keep(&store, number, vec![0; 30_000]).wait().unwrap();
    acknowledged.push(number);
    drop(store);
    assert_eq!(kept(&open(&at)), acknowledged);
    writeln!(std::io::stdout(), "survived").unwrap();
}

#[test]
fn an_io_error_in_a_commit_ends_writing() {
    let dir = tempfile::tempdir().unwrap();
    if !possible("strace -f -o /dev/null true") {
        return;
    }
    let script = "exec strace -f -o /dev/null -e trace=fdatasync -e inject=fdatasync:error=EIO:when=20+ \"$@\"";
    let said = run(script, "store::faults::on_a_broken_disk", BROKEN, dir.path());
    let Some(acknowledged) = said.lines().find_map(|line| line.strip_prefix("acknowledged ")) else {
        panic!("{said}");
    };
    // After a restart on a disk that works again, everything acknowledged is there.
    let store = open(dir.path());
    let acknowledged: usize = acknowledged.parse().unwrap();
    assert!(acknowledged > 0 && kept(&store).len() >= acknowledged, "{acknowledged} of {:?}", kept(&store));
    keep(&store, 1_000_000, vec![]).wait().unwrap();
}

/// Not a test by itself: writes until the disk fails.
#[test]
fn on_a_broken_disk() {
    let Some(dir) = env::var_os(BROKEN) else { return };
    let store = Store::open(Path::new(&dir), StoreOptions::default()).unwrap();
    let mut acknowledged = 0;
    let error = loop {
        match keep(&store, acknowledged, vec![0; 3_000]).wait() {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Poisoned(_)), "{error}");
    assert!(matches!(store.health(), Health::Poisoned(reason) if reason.contains("Input/output error")));
    assert!(matches!(keep(&store, 1, vec![]).wait(), Err(StoreError::Poisoned(_))));
    assert!(store.unread().is_ok());
    writeln!(std::io::stdout(), "\nacknowledged {acknowledged}").unwrap();
}
