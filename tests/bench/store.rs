//! The store beside `SQLite`: `cargo bench --bench store -- [--records N] [--rounds R] [--dir DIR]`.
//!
//! N records (one million by default) of about 100 bytes under random keys of 20 bytes, 1000 to a durable transaction,
//! then random reads, each in a read of its own. All do the same, each in a process of its own so that memory can be
//! told apart, one after the other on the same disk. `SQLite` runs with WAL, synchronous=FULL, its default cache and
//! prepared statements, on two tables: an ordinary one with a primary key (records by number and a second tree from
//! keys to numbers) and one without row ids (one tree by key, as ours: like beside like).
//!
//! With several rounds they take turns. The speeds are the best of each; the ratios are the medians of the rounds'
//! own ratios, for a busy machine is equally busy in one round. Reads are also told per second of processor time,
//! which waits for nobody.
//!
//! Bars: durable puts at least 1.6 times, random gets at least 3 times `SQLite`'s, anonymous memory at most 10 MiB.

use std::error::Error;
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use slskdn::store::{Store, StoreOptions};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PER_TRANSACTION: u64 = 1_000;
const GETS_MAX: u64 = 500_000;

#[derive(Serialize, Deserialize)]
struct Record {
    name: String,
    size: u64,
    hash: [u8; 32],
    flags: u32,
}

#[derive(Default)]
struct Figures {
    puts_per_s: f64,
    gets_per_s: f64,
    /// Gets in a second on the processor.
    gets_per_cpu_s: f64,
    /// Gets when a thousand share one read.
    shared_gets_per_s: f64,
    anon_kib: u64,
    disk_kib: u64,
}

impl Figures {
    /// The best speeds and the most memory of two rounds.
    fn better(&mut self, other: &Self) {
        self.puts_per_s = self.puts_per_s.max(other.puts_per_s);
        self.gets_per_s = self.gets_per_s.max(other.gets_per_s);
        self.gets_per_cpu_s = self.gets_per_cpu_s.max(other.gets_per_cpu_s);
        self.shared_gets_per_s = self.shared_gets_per_s.max(other.shared_gets_per_s);
        self.anon_kib = self.anon_kib.max(other.anon_kib);
        self.disk_kib = self.disk_kib.max(other.disk_kib);
    }
}

/// The n-th number of a fixed sequence that looks random (splitmix64).
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn key(n: u64) -> [u8; 20] {
    let mut key = [0; 20];
    key[..8].copy_from_slice(&mix(n * 3).to_be_bytes());
    key[8..16].copy_from_slice(&mix(n * 3 + 1).to_be_bytes());
    key[16..].copy_from_slice(&mix(n * 3 + 2).to_be_bytes()[..4]);
    key
}

fn value(n: u64) -> Vec<u8> {
    let mut hash = [0; 32];
    hash.chunks_mut(8).zip(0..).for_each(|(part, i)| part.copy_from_slice(&mix(n ^ i << 40).to_be_bytes()));
    let name = format!("Artist {:05}/Album {:05}/{:02} A title of some length.flac", n % 977, n % 3_001, n % 20);
    postcard::to_stdvec(&Record { name, size: mix(n) >> 40, hash, flags: 3 }).expect("a record of plain fields encodes")
}

fn check(bytes: &[u8]) -> Outcome<()> {
    let record: Record = postcard::from_bytes(bytes)?;
    black_box(record.size + u64::from(record.flags) + u64::from(record.hash[0]) + record.name.len() as u64);
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn timed(work: impl FnOnce() -> Outcome<()>) -> Outcome<Duration> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed())
}

/// Time this thread was on a processor.
fn cpu() -> Outcome<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split(' ').next().ok_or("no time in schedstat")?.parse()?))
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn anon_kib() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

fn disk_kib(dir: &Path) -> Outcome<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        total += entry?.metadata()?.len();
    }
    Ok(total / 1024)
}

/// Keys to read: every record is as likely.
fn wanted(records: u64) -> impl Iterator<Item = u64> {
    (0..records.min(GETS_MAX)).map(move |n| mix(n ^ 0xaaaa_0000_0000) % records)
}

fn ours(dir: &Path, records: u64) -> Outcome<Figures> {
    let store = Store::open(dir, StoreOptions::default())?;
    let mut figures = Figures::default();
    let took = timed(|| {
        for from in (0..records).step_by(1_000) {
            let to = records.min(from + PER_TRANSACTION);
            store.write_blocking(move |txn, tables| {
                for n in from..to {
                    tables.settings.put(txn, &key(n), &value(n))?;
                }
                Ok(())
            })?;
            if from % 20_000 == 0 {
                figures.anon_kib = figures.anon_kib.max(anon_kib()?);
            }
        }
        Ok(())
    })?;
    figures.puts_per_s = rate(records, took);
    let gets = records.min(GETS_MAX);
    let before = cpu()?;
    let took = timed(|| {
        for n in wanted(records) {
            let found = store.read(|txn, tables| Ok(tables.settings.get(txn, &key(n))?.map(check)))?;
            found.ok_or("a record is missing")??;
        }
        Ok(())
    })?;
    figures.gets_per_s = rate(gets, took);
    figures.gets_per_cpu_s = rate(gets, cpu()?.saturating_sub(before));
    let wanted: Vec<u64> = wanted(records).collect();
    let took = timed(|| {
        for some in wanted.chunks(1_000) {
            let all: Outcome<()> = store.read(|txn, tables| {
                for n in some {
                    match tables.settings.get(txn, &key(*n))?.map(check) {
                        Some(Ok(())) => {}
                        _ => return Ok(Err("a record is missing".into())),
                    }
                }
                Ok(Ok(()))
            })?;
            all?;
        }
        Ok(())
    })?;
    figures.shared_gets_per_s = rate(gets, took);
    drop(wanted);
    figures.anon_kib = figures.anon_kib.max(anon_kib()?);
    figures.disk_kib = disk_kib(dir)?;
    Ok(figures)
}

fn sqlite(dir: &Path, records: u64, table: &str) -> Outcome<Figures> {
    let mut db = rusqlite::Connection::open(dir.join("data.sqlite"))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch(&format!("CREATE TABLE records (key BLOB PRIMARY KEY, value BLOB NOT NULL) {table}"))?;
    let mut figures = Figures::default();
    let took = timed(|| {
        for from in (0..records).step_by(1_000) {
            let txn = db.transaction()?;
            {
                let mut put = txn.prepare_cached("INSERT OR REPLACE INTO records VALUES (?1, ?2)")?;
                for n in from..records.min(from + PER_TRANSACTION) {
                    put.execute((&key(n)[..], &value(n)[..]))?;
                }
            }
            txn.commit()?;
            if from % 20_000 == 0 {
                figures.anon_kib = figures.anon_kib.max(anon_kib()?);
            }
        }
        Ok(())
    })?;
    figures.puts_per_s = rate(records, took);
    let gets = records.min(GETS_MAX);
    let one = |db: &rusqlite::Connection, n: u64| -> Outcome<()> {
        let mut get = db.prepare_cached("SELECT value FROM records WHERE key = ?1")?;
        get.query_row((&key(n)[..],), |row| Ok(check(row.get_ref(0)?.as_blob()?)))?
    };
    let before = cpu()?;
    let took = timed(|| wanted(records).try_for_each(|n| one(&db, n)))?;
    figures.gets_per_s = rate(gets, took);
    figures.gets_per_cpu_s = rate(gets, cpu()?.saturating_sub(before));
    let wanted: Vec<u64> = wanted(records).collect();
    let took = timed(|| {
        for some in wanted.chunks(1_000) {
            let txn = db.unchecked_transaction()?;
            some.iter().try_for_each(|n| one(&txn, *n))?;
            txn.commit()?;
        }
        Ok(())
    })?;
    figures.shared_gets_per_s = rate(gets, took);
    drop(wanted);
    figures.anon_kib = figures.anon_kib.max(anon_kib()?);
    figures.disk_kib = disk_kib(dir)?;
    Ok(figures)
}

fn in_own_process(what: &str, records: u64, dir: &Path) -> Outcome<Figures> {
    std::fs::create_dir_all(dir)?;
    let output = Command::new(std::env::current_exe()?)
        .args(["--only", what, "--records", &records.to_string(), "--dir"])
        .arg(dir)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let [puts, gets, on_cpu, shared, anon, disk] = words[..] else {
        return Err(format!("{what} ended with {} and said {text:?}", output.status).into());
    };
    Ok(Figures {
        puts_per_s: puts.parse()?,
        gets_per_s: gets.parse()?,
        gets_per_cpu_s: on_cpu.parse()?,
        shared_gets_per_s: shared.parse()?,
        anon_kib: anon.parse()?,
        disk_kib: disk.parse()?,
    })
}

/// The median of what each round gave.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// All rounds of all three, and the table.
fn beside(parent: &Path, records: u64, rounds: u32, out: &mut impl Write) -> Outcome<()> {
    let place = tempfile::tempdir_in(parent)?;
    let mut all = Vec::new();
    let mut best = <[Figures; 3]>::default();
    for round in 0..rounds {
        let place = place.path().join(round.to_string());
        let mut these = <[Figures; 3]>::default();
        for (figures, what) in these.iter_mut().zip(["store", "sqlite", "sqlite-without-rowid"]) {
            *figures = in_own_process(what, records, &place.join(what))?;
        }
        best.iter_mut().zip(&these).for_each(|(best, figures)| best.better(figures));
        all.push(these);
        std::fs::remove_dir_all(&place)?;
    }
    writeln!(out, "{records} records, {PER_TRANSACTION} to a durable transaction, in {}", place.path().display())?;
    let (name, row_ids) = ("SQLite", "no row ids");
    writeln!(out, "{:28}{:>11}{name:>11}{row_ids:>12}{:>8}{:>8}   bar", "", "store", "ratio", "ratio")?;
    let mut row = |name: &str, of: fn(&Figures) -> f64, bar: &str| {
        let [a, b, c] = best.each_ref().map(of);
        let [ordinary, lean] =
            [1, 2].map(|other: usize| median(all.iter().map(|round| of(&round[0]) / of(&round[other])).collect()));
        writeln!(out, "{name:28}{a:>11.0}{b:>11.0}{c:>12.0}{ordinary:>8.2}{lean:>8.2}   {bar}")
    };
    row("durable puts per second", |f| f.puts_per_s, ">= 1.6")?;
    row("random gets per second", |f| f.gets_per_s, ">= 3")?;
    row("  on the processor", |f| f.gets_per_cpu_s, "")?;
    row("  a thousand to a read", |f| f.shared_gets_per_s, "")?;
    let mut row = |name: &str, of: fn(&Figures) -> u64, bar: &str| {
        let [a, b, c] = best.each_ref().map(of);
        writeln!(out, "{name:28}{a:>11}{b:>11}{c:>12}{:16}   {bar}", "")
    };
    row("anonymous memory, KiB", |f| f.anon_kib, "store <= 10240")?;
    row("files, KiB", |f| f.disk_kib, "")?;
    Ok(())
}

fn main() -> Outcome<()> {
    let mut records = 1_000_000;
    let mut rounds = 1_u32;
    let mut only = None;
    let mut dir = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut next = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--records" => records = next()?.parse()?,
            "--rounds" => rounds = next()?.parse()?,
            "--dir" => dir = Some(PathBuf::from(next()?)),
            "--only" => only = Some(next()?),
            // What cargo adds.
            "--bench" => {}
            _ => return Err(format!("unknown argument {arg}").into()),
        }
    }
    let mut out = std::io::stdout().lock();
    let Some(only) = only else {
        let parent = dir.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
        return beside(&parent, records, rounds, &mut out);
    };
    let dir = dir.ok_or("--only needs --dir")?;
    let figures = match only.as_str() {
        "store" => ours(&dir, records)?,
        "sqlite" => sqlite(&dir, records, "")?,
        "sqlite-without-rowid" => sqlite(&dir, records, "WITHOUT ROWID")?,
        other => return Err(format!("nothing is called {other}").into()),
    };
    let Figures { puts_per_s, gets_per_s, gets_per_cpu_s, shared_gets_per_s, anon_kib, disk_kib } = figures;
    writeln!(out, "{puts_per_s} {gets_per_s} {gets_per_cpu_s} {shared_gets_per_s} {anon_kib} {disk_kib}")?;
    Ok(())
}
