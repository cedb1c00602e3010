//! Grouping, failing, growing, ending.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use slskdn::store::{Health, Store, StoreError, StoreOptions};

use super::{MIB, hold_writer, keep, kept, open, open_tiny};

#[test]
fn many_writers_share_commits() {
    const WRITERS: u32 = 8;
    const EACH: u32 = 100;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let release = hold_writer(&store);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            thread::spawn(move || (0..EACH).map(|n| keep(&store, writer * EACH + n, vec![0; 100])).collect::<Vec<_>>())
        })
        .collect();
    let tickets: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    release.send(()).unwrap();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert_eq!(kept(&store), (0..WRITERS * EACH).collect::<Vec<_>>());
    let stats = store.stats().unwrap();
    assert_eq!(stats.jobs, u64::from(WRITERS * EACH) + 1);
    assert!(stats.commits < u64::from(WRITERS * EACH), "{} commits", stats.commits);
    assert_eq!(stats.tables.iter().find(|(name, _)| *name == "settings"), Some(&("settings", 800)));
}

#[test]
fn a_failing_job_takes_nobody_down() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let release = hold_writer(&store);
    let before = keep(&store, 1, vec![1]);
    let failing = store.submit(|txn, tables| {
        tables.settings.put(txn, &2_u32.to_be_bytes(), b"half")?;
        Err::<(), _>(StoreError::Refused("on second thoughts".to_owned()))
    });
    let too_long = store.submit(|txn, tables| Ok(tables.settings.put(txn, &[7; 600], b"")?));
    let after = keep(&store, 3, vec![3]);
    drop(release);
    before.wait().unwrap();
    assert_eq!(failing.wait().unwrap_err().to_string(), "on second thoughts");
    assert!(matches!(too_long.wait(), Err(StoreError::Database(_))));
    after.wait().unwrap();
    assert_eq!(kept(&store), [1, 3]);
    assert_eq!(store.health(), Health::Well);
}

#[test]
fn a_full_map_grows_and_the_job_runs_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_tiny(dir.path());
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let release = hold_writer(&store);
    let beside = keep(&store, 0, vec![7; 10]);
    let large = store.submit(move |txn, tables| {
        counted.fetch_add(1, Ordering::SeqCst);
        for number in 1..=900_u32 {
            tables.settings.put(txn, &number.to_be_bytes(), &[9; 4000])?;
        }
        Ok("large")
    });
    drop(release);
    beside.wait().unwrap();
    assert_eq!(large.wait().unwrap(), "large");
    assert_eq!(kept(&store), (0..=900).collect::<Vec<_>>());
    assert!(runs.load(Ordering::SeqCst) > 1);
    let stats = store.stats().unwrap();
    assert!(stats.growths >= 2 && stats.map_size >= 4 * MIB as u64, "{stats:?}");
    assert_eq!(stats.map_size % (64 * 1024), 0);
}

#[test]
fn the_map_grows_before_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_tiny(dir.path());
    let runs = Arc::new(AtomicU32::new(0));
    for number in 0..40 {
        let counted = Arc::clone(&runs);
        let job = store.submit(move |txn, tables| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(tables.settings.put(txn, &u32::to_be_bytes(number), &vec![1; 50_000])?)
        });
        job.wait().unwrap();
    }
    assert!(store.stats().unwrap().growths > 0);
    assert_eq!(runs.load(Ordering::SeqCst), 40, "no job met a full map");
}

#[test]
fn the_largest_size_is_an_answer_not_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { map_size: MIB, map_size_max: 2 * MIB, ..StoreOptions::default() };
    let store = Store::open(dir.path(), options).unwrap();
    let release = hold_writer(&store);
    let before = keep(&store, 1, vec![0; 10]);
    let large = keep(&store, 2, vec![0; 4 * MIB]);
    let after = keep(&store, 3, vec![0; 10]);
    drop(release);
    before.wait().unwrap();
    assert!(matches!(large.wait(), Err(StoreError::MapFull)));
    after.wait().unwrap();
    assert_eq!(kept(&store), [1, 3]);
    assert_eq!(store.health(), Health::Well);
}

#[test]
fn readers_go_on_while_the_map_grows() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions { map_size: MIB, readers: 3, ..StoreOptions::default() }).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..6)
        .map(|_| {
            let (store, stop) = (store.clone(), Arc::clone(&stop));
            thread::spawn(move || {
                let mut reads = 0;
                while !stop.load(Ordering::Relaxed) {
                    // Numbers are kept in order, two by two: a reader sees a prefix and never half a pair.
                    let seen = kept(&store);
                    assert_eq!(seen.len() % 2, 0);
                    assert!(seen.iter().zip(0..).all(|(a, b)| *a == b));
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    for pair in 0..300_u32 {
        let job = store.submit(move |txn, tables| {
            for number in [pair * 2, pair * 2 + 1] {
                tables.settings.put(txn, &number.to_be_bytes(), &vec![1; 20_000])?;
            }
            Ok(())
        });
        job.wait().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
    assert!(store.stats().unwrap().growths >= 4);
}

#[test]
fn a_read_sees_what_was_acknowledged_and_holds_back_no_page_afterwards() {
    let used_after = |reads: bool| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for round in 0..200_u32 {
            keep(&store, 1, vec![1; 100_000]).wait().unwrap();
            let write = store.submit(move |txn, tables| {
                tables.settings.put(txn, &2_u32.to_be_bytes(), &round.to_be_bytes())?;
                Ok(())
            });
            write.wait().unwrap();
            for _ in 0..if reads { 3 } else { 0 } {
                let seen =
                    store.read(|txn, tables| Ok(tables.settings.get(txn, &2_u32.to_be_bytes())?.map(<[u8]>::to_vec)));
                assert_eq!(seen.unwrap().as_deref(), Some(&round.to_be_bytes()[..]));
            }
        }
        store.stats().unwrap().used
    };
    assert_eq!(used_after(true), used_after(false));
}

#[test]
fn a_panic_ends_writing_and_a_restart_begins_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    keep(&store, 1, vec![1]).wait().unwrap();
    let release = hold_writer(&store);
    let broken = store.submit(|txn, tables| {
        tables.settings.put(txn, &2_u32.to_be_bytes(), b"")?;
        assert!(tables.settings.is_empty(txn)?, "a broken job");
        Ok(())
    });
    let behind = keep(&store, 3, vec![3]);
    drop(release);
    assert!(matches!(broken.wait(), Err(StoreError::Poisoned(reason)) if reason.contains("a broken job")));
    assert!(matches!(behind.wait(), Err(StoreError::Poisoned(_))));
    assert!(matches!(keep(&store, 4, vec![]).wait(), Err(StoreError::Poisoned(_))));
    assert!(matches!(store.health(), Health::Poisoned(_)));
    assert_eq!(kept(&store), [1], "reads go on");
    drop(store);
    let store = open(dir.path());
    keep(&store, 5, vec![5]).wait().unwrap();
    assert_eq!(kept(&store), [1, 5]);
}

#[test]
fn closing_commits_what_was_submitted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for number in 0..700 {
        drop(keep(&store, number, vec![0; 30]));
    }
    drop(store);
    assert_eq!(kept(&open(dir.path())), (0..700).collect::<Vec<_>>());
}

#[test]
fn a_full_queue_does_not_hold_up_the_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let jobs = u32::try_from(slskdn::store::QUEUE).unwrap() + 200;
    runtime.block_on(async {
        let release = hold_writer(&store);
        let writes: Vec<_> = (0..jobs)
            .map(|number| {
                let write = store.write(move |txn, tables| {
                    tables.settings.put(txn, &number.to_be_bytes(), b"")?;
                    Ok(number)
                });
                tokio::spawn(write)
            })
            .collect();
        // The runtime is alive although the writer stands still.
        tokio::task::yield_now().await;
        drop(release);
        for (number, write) in writes.into_iter().enumerate() {
            assert_eq!(write.await.unwrap().unwrap() as usize, number);
        }
    });
    assert_eq!(kept(&store).len(), jobs as usize);
}

#[test]
fn one_store_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let second = Store::open(dir.path(), StoreOptions::default()).unwrap_err();
    assert!(matches!(second, StoreError::Locked(_)));
    assert!(second.to_string().ends_with("is in use by another process: stop it first, or ask it to do the work"));
    let clone = store.clone();
    drop(store);
    assert!(matches!(Store::open(dir.path(), StoreOptions::default()), Err(StoreError::Locked(_))));
    drop(clone);
    open(dir.path());
}
