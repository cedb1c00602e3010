//! The share index on a large library: scan, restart, searches, memory.
//!
//! `cargo bench --bench shares -- [FILES] [SEED]` makes a library of empty files (100,000 by default) in a temporary
//! folder, scans it through the real scanner, and prints its figures with their bars. Memory is that of a fresh
//! process with the store opened again, so the program runs itself once more.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program for people to run"
)]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use slskdn::app::clock::Clock;
use slskdn::app::sharing::{ShareSettings, Sharing};
use slskdn::store::{Store, StoreOptions};

#[path = "../fixtures/library.rs"]
mod library;

const QUERIES: usize = 5_000;

fn settings(dir: &Path) -> ShareSettings {
    ShareSettings {
        directories: vec![("Music".to_owned(), dir.join("music"))],
        excluded: Vec::new(),
        filters: Vec::new(),
        watch: true,
        check_every: Duration::from_secs(6 * 3600),
        rest: 0.0,
        list: dir.join("shares.zlib"),
    }
}

fn start(dir: &Path) -> Sharing {
    let store = Store::open(&dir.join("store"), StoreOptions::default()).unwrap();
    Sharing::start(store, settings(dir), Clock::start()).unwrap()
}

/// Waits for the end of a scan that ended after `before`.
fn scanned(sharing: &Sharing, before: Option<slskdn::model::time::UnixMs>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut view = sharing.view();
    let ended = view.wait_for(|view| !view.scanning && view.scanned_at != before);
    let view = runtime.block_on(ended).unwrap().clone();
    for problem in view.problems {
        println!("problem: {problem}");
    }
}

/// A line of `/proc/self/status`, KiB.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn row(what: &str, figure: impl std::fmt::Display, bar: &str) {
    println!("{what:<44} {:>14}   {bar}", figure.to_string());
}

fn millis(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

/// In a process of its own, with the index of the run before.
fn restarted(dir: &Path, count: usize, seed: u64) {
    let began = Instant::now();
    let sharing = start(dir);
    let first = sharing.search("music flac", 250).unwrap();
    row("restart to the first answer", millis(began.elapsed()), "bar: < 1 s");
    assert_eq!(first.len(), 250.min(count / 20));
    row("  anonymous memory then", format!("{} KiB", status("RssAnon")), "bar: <= 16 MiB");

    // The check after the start runs beside the first searches, as in life; it is waited for before measuring.
    let before = sharing.view().borrow().scanned_at;
    scanned(&sharing, before);
    row("check of an unchanged library", millis(began.elapsed()), "");
    row("  audio headers opened in it", sharing.opened(), "bar: 0");
    row("  anonymous memory after it, folders watched", format!("{} KiB", status("RssAnon")), "bar: <= 16 MiB");

    let paths = library::paths(seed, count);
    let mut dice = library::Dice::new(seed ^ 1);
    let queries: Vec<String> = (0..QUERIES).map(|_| library::query(&mut dice, &paths)).collect();
    let mut hits = 0;
    let mut times: Vec<(Duration, usize)> = Vec::with_capacity(queries.len());
    for (at, query) in queries.iter().enumerate() {
        let began = Instant::now();
        hits += sharing.search(query, 250).unwrap().len();
        times.push((began.elapsed(), at));
    }
    times.sort_unstable();
    row(&format!("search, median of {QUERIES}"), millis(times[QUERIES / 2].0), "bar: < 2 ms");
    row("search, p99", millis(times[QUERIES * 99 / 100].0), "bar: < 10 ms");
    let (slowest, at) = times[QUERIES - 1];
    row("search, slowest", millis(slowest), &format!("{:?}", queries[at]));
    row("files found per search", format!("{:.1}", hits as f64 / QUERIES as f64), "");
    sharing.end(Duration::from_secs(60));
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter(|word| !word.starts_with('-'));
    if let Ok(dir) = std::env::var("SHARES_BENCH_RESTARTED") {
        let (count, seed) = (numbers.next().unwrap(), numbers.next().unwrap());
        return restarted(Path::new(&dir), count.parse().unwrap(), seed.parse().unwrap());
    }
    // `cargo test --all-targets` runs this too, without a word.
    if std::env::args().len() < 2 {
        return println!("run by `cargo bench --bench shares`");
    }
    let count: usize = numbers.next().map_or(100_000, |word| word.parse().unwrap());
    let seed: u64 = numbers.next().map_or(1, |word| word.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    println!("{count} files, seed {seed}, in {}", dir.path().display());
    let paths: Vec<PathBuf> = library::paths(seed, count);
    library::build(&dir.path().join("music"), &paths).unwrap();
    drop(paths);

    let before = status("RssAnon");
    let began = Instant::now();
    let sharing = start(dir.path());
    scanned(&sharing, None);
    let took = began.elapsed();
    row(
        "first scan",
        format!("{:.2} s", took.as_secs_f64()),
        &format!("{:.0} files/s", count as f64 / took.as_secs_f64()),
    );
    row("  anonymous memory gained by it", format!("{} KiB", status("RssAnon").saturating_sub(before)), "");
    let began = Instant::now();
    assert!(sharing.end(Duration::from_secs(600)));
    row("  stop, browse reply included where begun", millis(began.elapsed()), "");
    drop(sharing);
    let size = fs::metadata(dir.path().join("store/data.mdb")).unwrap().len();
    row("store file", format!("{:.1} MiB", size as f64 / 1_048_576.0), &format!("{} bytes/file", size / count as u64));
    if let Ok(list) = fs::metadata(dir.path().join("shares.zlib")) {
        row("browse reply file", format!("{:.1} MiB", list.len() as f64 / 1_048_576.0), "");
    }

    let again = Command::new(std::env::current_exe().unwrap())
        .args([count.to_string(), seed.to_string()])
        .env("SHARES_BENCH_RESTARTED", dir.path())
        .status();
    assert!(again.unwrap().success());
}
