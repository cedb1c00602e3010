//! SIGKILL during commits: nothing acknowledged is lost, nothing half done is kept.
//!
//! `SLSKDN_SOAK_ROUNDS` sets the rounds (20 when unset), `SLSKDN_SOAK_SEED` repeats a run.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use slskdn::model::record::Change;
use slskdn::model::transfer::{Direction, TransferState};
use slskdn::store::{Store, StoreError, StoreOptions};

use super::{open, transfer};

const CHILD: &str = "SLSKDN_STORE_CHILD";
const FROM: &str = "SLSKDN_STORE_FROM";

/// This very test binary again, running only [`child`] with a store to write to.
fn spawn(dir: &Path, from: u32) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["store::kill::child", "--exact", "--nocapture", "--test-threads", "1"])
        .env(CHILD, dir)
        .env(FROM, from.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test by itself: writes numbered records until it is killed, and prints each number that was acknowledged.
#[test]
fn child() {
    let Some(dir) = env::var_os(CHILD) else { return };
    let mut out = std::io::stdout().lock();
    // The test runner has begun a line.
    writeln!(out).unwrap();
    let store = match Store::open(Path::new(&dir), StoreOptions { map_size: super::MIB, ..StoreOptions::default() }) {
        Ok(store) => store,
        Err(error) => {
            writeln!(out, "refused {error}").unwrap();
            return;
        }
    };
    let from: u32 = env::var(FROM).unwrap().parse().unwrap();
    let mut waiting = std::collections::VecDeque::new();
    for number in from.. {
        // A record, its index and a message in one commit, and now and then something big that makes the map grow.
        let mut changes = vec![
            Change::Transfer(Box::new(transfer(number, Direction::Download, TransferState::InProgress))),
            Change::Message(super::message("ann", u64::from(number), number, true)),
        ];
        if number % 50 == 0 {
            changes.push(Change::Setting(format!("big{number}"), Some(vec![7; 60_000])));
        }
        waiting.push_back((number, store.apply(changes)));
        // Several in flight, so that groups form; acknowledged in order.
        if waiting.len() > 4 {
            let (number, ticket) = waiting.pop_front().unwrap();
            ticket.wait().unwrap();
            writeln!(out, "acknowledged {number}").unwrap();
            out.flush().unwrap();
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    let rounds: u32 = env::var("SLSKDN_SOAK_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let seed = env::var("SLSKDN_SOAK_SEED").map_or_else(|_| fresh_seed(), |seed| seed.parse().unwrap());
    eprintln!("store kill test: {rounds} rounds, SLSKDN_SOAK_SEED={seed}");
    let mut random = seed;
    let dir = tempfile::tempdir().unwrap();
    let mut next = 0;
    let mut acknowledged_in_all = 0;
    for round in 0..rounds {
        let mut child = spawn(dir.path(), next);
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let lines = 1 + usize::try_from((random >> 33) % 120).unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut acknowledged = None;
        let mut read = |line: &mut String, out: &mut BufReader<_>| {
            line.clear();
            let length: usize = BufRead::read_line(out, line).unwrap();
            if let Some(number) = line.trim_end().strip_prefix("acknowledged ")
                && line.ends_with('\n')
            {
                acknowledged = Some(number.parse::<u32>().unwrap());
            }
            length
        };
        let mut line = String::new();
        let mut seen = 0;
        while seen < lines {
            assert!(read(&mut line, &mut out) > 0, "round {round}: the child ended by itself");
            seen += usize::from(line.starts_with("acknowledged "));
        }
        child.kill().unwrap();
        // What it managed to say before it died was acknowledged too.
        while read(&mut line, &mut out) > 0 {}
        child.wait().unwrap();
        let acknowledged = acknowledged.unwrap();
        acknowledged_in_all = acknowledged + 1;

        let store = open(dir.path());
        let live = store.live_transfers().unwrap();
        // Newest first, without a gap.
        assert!(live.iter().rev().zip(0_u128..).all(|(row, n)| row.id.0 == n), "round {round}: a gap");
        let kept = u32::try_from(live.len()).unwrap();
        assert!(kept > acknowledged, "round {round}: {kept} kept, {acknowledged} was acknowledged");
        for row in live.iter().take(200) {
            assert_eq!(store.transfer(Direction::Download, row.id).unwrap().as_ref(), Some(row));
        }
        let messages = store.messages(&"ann".into(), 1).unwrap();
        assert_eq!(messages.last().map(|last| last.id), kept.checked_sub(1), "round {round}: half a list");
        next = kept;
    }
    eprintln!("{rounds} kills, {acknowledged_in_all} acknowledged, none lost");
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut child = spawn(dir.path(), 0);
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    let refusal = StoreError::Locked(dir.path().to_owned()).to_string();
    assert!(said.contains(&format!("refused {refusal}")), "{said}");
    drop(store);
}

fn fresh_seed() -> u64 {
    getrandom::u64().unwrap()
}
