//! Votes, their limits, and the log of what was told.

use super::hashes::HashRow;
use super::*;
use crate::model::gossip::{Consensus, HashEntry};
use crate::model::variant::{Codec, Container};
use crate::store::library::TodoKind;
use crate::store::records::encode;
use crate::store::{Store, StoreOptions};

fn claim(n: u8) -> Claim {
    Claim {
        content: ContentHash([n; 32]),
        file_sha256: [n; 32],
        flac_key: 5,
        size: 1_000 + u64::from(n),
        codec: Codec::Flac,
        container: Container::Flac,
        lossless: true,
        sample_rate_hz: 44_100,
        bit_depth: Some(16),
        channels: 2,
        duration_ms: 9,
        bitrate_kbps: 900,
        transcode_suspect: false,
        quality_score: 0.5,
        dynamic_range_dr: None,
        loudness_lufs: None,
        has_clipping: false,
        encoder_signature: None,
    }
}

fn peer(n: u64) -> PeerId {
    PeerId(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn heard(sequence: u64) -> Heard {
    Heard { bundle: 7, sequence }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), StoreOptions::default()).unwrap();
    (folder, store)
}

async fn keep(store: &Store, from: PeerId, void: bool, words: Vec<(u128, Vec<Claim>)>, now: u64) {
    let kept = store.write(move |txn, tables| {
        let library = tables.library;
        tables.gossip.keep(txn, (from, heard(now), void), &words, UnixMs(now), &library)
    });
    kept.await.unwrap();
}

fn words(store: &Store, id: u128) -> Vec<(PeerId, Vec<u8>)> {
    let words = store.read(|txn, tables| tables.gossip.words_on(txn, id)).unwrap();
    words.into_iter().map(|(peer, told)| (peer, told.claims.iter().map(|c| c.content.0[0]).collect())).collect()
}

async fn sweep(store: &Store, from: PeerId) -> u32 {
    let mut parts = 1;
    loop {
        let more = store.write(move |txn, tables| {
            let library = tables.library;
            tables.gossip.sweep(txn, from, &library)
        });
        if !more.await.unwrap() {
            return parts;
        }
        parts += 1;
    }
}

fn sizes(store: &Store) -> (u64, u64, u64) {
    let sizes =
        store.read(|txn, t| Ok((t.gossip.words.len(txn)?, t.gossip.order.len(txn)?, t.gossip.by_peer.len(txn)?)));
    sizes.unwrap()
}

#[tokio::test]
async fn a_key_has_one_word_on_a_recording_and_the_newer_replaces_it() {
    let (_folder, store) = store();
    keep(&store, peer(1), false, vec![(10, vec![claim(1)]), (11, vec![claim(2)])], 1).await;
    keep(&store, peer(1), false, vec![(10, vec![claim(3), claim(4)])], 2).await;
    keep(&store, peer(2), false, vec![(10, vec![claim(3)])], 3).await;
    let mut said = words(&store, 10);
    said.sort_by_key(|(_, contents)| contents.len());
    assert_eq!(said, [(peer(2), vec![3]), (peer(1), vec![3, 4])]);
    assert_eq!(sizes(&store), (3, 3, 3));
    assert_eq!(store.read(|txn, tables| tables.gossip.heard(txn, peer(1))).unwrap().0, heard(2));
    let todo = store.read(|txn, tables| tables.library.todo(txn, TodoKind::Recording, None, 9)).unwrap();
    assert_eq!(todo, [Todo::Recording(10), Todo::Recording(11)]);
    // Withdrawn.
    keep(&store, peer(1), false, vec![(10, vec![])], 4).await;
    assert_eq!(words(&store, 10), [(peer(2), vec![3])]);
    assert_eq!(sizes(&store), (2, 2, 2));
}

#[tokio::test]
async fn a_snapshot_voids_at_once_and_is_swept_in_parts() {
    let (_folder, store) = store();
    let all = (1..=100).map(|id| (id, vec![claim(1)])).collect();
    keep(&store, peer(1), false, all, 1).await;
    keep(&store, peer(2), false, vec![(1, vec![claim(2)])], 1).await;
    keep(&store, peer(1), true, vec![(5, vec![claim(9)])], 2).await;
    assert_eq!((words(&store, 1), words(&store, 5)), (vec![(peer(2), vec![2])], vec![(peer(1), vec![9])]));
    assert_eq!(sizes(&store).0, 101, "what is void is there until it is swept");
    assert_eq!(sweep(&store, peer(1)).await, 2);
    assert_eq!(sizes(&store), (2, 2, 2));
    assert_eq!(words(&store, 5), [(peer(1), vec![9])]);
    // The newest word of all, said anew in a snapshot: it takes the place of what the snapshot made void.
    keep(&store, peer(1), true, vec![(5, vec![claim(8)])], 3).await;
    assert_eq!(words(&store, 5), [(peer(1), vec![8])]);
    sweep(&store, peer(1)).await;
    assert_eq!(words(&store, 5), [(peer(1), vec![8])]);
}

#[tokio::test]
async fn nobody_is_believed_in_what_was_disproved() {
    let (_folder, store) = store();
    keep(&store, peer(1), false, vec![(10, vec![claim(3), claim(4)]), (11, vec![claim(3)])], 1).await;
    keep(&store, peer(2), false, vec![(10, vec![claim(3)])], 2).await;
    let disprove = || {
        store.write(|txn, tables| {
            let library = tables.library;
            tables.gossip.disprove(txn, 10, ContentHash([3; 32]), UnixMs(2), &library)
        })
    };
    store.write(|txn, tables| tables.library.remove_todo(txn, Todo::Recording(10))).await.unwrap();
    disprove().await.unwrap();
    assert_eq!(words(&store, 10), [(peer(1), vec![4])], "who says nothing else says nothing");
    assert_eq!(words(&store, 11), [(peer(1), vec![3])], "of another recording it may be a copy");
    let is = |id, n| store.read(|txn, t| t.gossip.is_disproved(txn, id, ContentHash([n; 32]))).unwrap();
    assert!(is(10, 3) && !is(11, 3) && !is(10, 4));
    let todo = store.read(|txn, tables| tables.library.todo(txn, TodoKind::Recording, None, 9)).unwrap();
    assert!(todo.contains(&Todo::Recording(10)), "what follows is computed anew");
    // Said again it is no truer.
    keep(&store, peer(3), false, vec![(10, vec![claim(3)])], 3).await;
    assert_eq!(words(&store, 10).len(), 1);
    // Of so many the oldest is forgotten.
    let many = store.write(|txn, tables| {
        let library = tables.library;
        for n in 1..=limits::DISPROVED {
            let mut content = [0; 32];
            content[..8].copy_from_slice(&n.to_be_bytes());
            tables.gossip.disprove(txn, 10, ContentHash(content), UnixMs(2 + n), &library)?;
        }
        tables.gossip.disproved.len(txn).map_err(Into::into)
    });
    assert_eq!(many.await.unwrap(), limits::DISPROVED);
    assert_eq!(words(&store, 10).len(), 3);
    disprove().await.unwrap();
    let believe = store.write(|txn, tables| {
        let library = tables.library;
        tables.gossip.believe(txn, 10, ContentHash([3; 32]), &library)
    });
    believe.await.unwrap();
    assert_eq!(words(&store, 10).len(), 3, "the owner wants it");
}

#[tokio::test]
async fn words_are_bounded_and_who_says_most_or_is_new_gives_way() {
    let (_folder, store) = store();
    let many = limits::OBSERVERS_PER_RECORDING as u64 + 3;
    let kept = store.write(move |txn, tables| {
        let library = tables.library;
        for n in 0..many {
            tables.gossip.keep(txn, (peer(n), heard(1), false), &[(10, vec![claim(1)])], UnixMs(n), &library)?;
        }
        let more = limits::OBSERVATIONS_PER_PEER + 5;
        for id in 0..u128::from(more) {
            tables.gossip.keep(
                txn,
                (peer(9_999), heard(1), false),
                &[(100 + id, vec![claim(1)])],
                UnixMs(9),
                &library,
            )?;
        }
        let words = tables.gossip.notes(txn, peer(9_999))?.unwrap().words;
        let of_itself = (tables.gossip.words_on(txn, 100)?.len(), tables.gossip.words_on(txn, 105)?.len());
        // All together have no more room: whoever said most loses what it said first.
        for id in 0..1_000 {
            let word = [(50_000 + id, vec![claim(1)])];
            tables.gossip.keep(txn, (peer(9_998), heard(1), false), &word, UnixMs(10), &library)?;
        }
        let all = (tables.gossip.words.len(txn)?, tables.gossip.notes(txn, peer(9_998))?.unwrap().words);
        Ok((words, of_itself, all, tables.gossip.notes(txn, peer(9_999))?.unwrap().words))
    });
    let of_rich = ALL - 1_000 - limits::OBSERVERS_PER_RECORDING as u64;
    assert_eq!(kept.await.unwrap(), (limits::OBSERVATIONS_PER_PEER, (0, 1), (ALL, 1_000), of_rich));
    let said = words(&store, 10);
    assert_eq!(said.len(), limits::OBSERVERS_PER_RECORDING);
    assert!(said.iter().all(|(from, _)| (many - 3..many).all(|n| *from != peer(n))), "those known longest stay");
}

#[tokio::test]
async fn peers_are_bounded_and_a_crowd_of_new_ones_does_not_push_out_the_old() {
    let (_folder, store) = store();
    let day = 86_400_000;
    let made = store.write(move |txn, tables| {
        let (library, gossip) = (tables.library, tables.gossip);
        let say = |txn: &mut RwTxn<'_>, n: u64, at: u64, words: &[(u128, Vec<Claim>)]| {
            gossip.keep(txn, (peer(n), heard(1), true), words, UnixMs(at), &library)
        };
        // Half of them are heard again after a week.
        let old = limits::OBSERVERS / 2;
        for n in 0..limits::OBSERVERS {
            // The first that a peer says is all it has.
            gossip.keep(txn, (peer(n), heard(1), true), &[], UnixMs(n), &library)?;
            let notes = gossip.notes(txn, peer(n))?.unwrap();
            assert_eq!(gossip.standing(txn, peer(n), &notes)?.since, UnixMs(n));
        }
        let all: Vec<_> = (0..100).map(|id| (id, vec![claim(1)])).collect();
        say(txn, old, old, &all)?;
        for n in 0..old {
            say(txn, n, 8 * day, &[])?;
        }
        let mut parts = 0;
        while gossip.make_room(txn, peer(5_000), UnixMs(8 * day), &library)? == Room::Making {
            parts += 1;
        }
        let left = (gossip.notes.len(txn)?, gossip.words.len(txn)?, gossip.notes(txn, peer(old))?.is_some());
        let known = gossip.make_room(txn, peer(3), UnixMs(8 * day), &library)?;
        // Ten times as many new keys as there is room for.
        for n in 0..10 * limits::OBSERVERS {
            let at = 8 * day + n;
            while gossip.make_room(txn, peer(100_000 + n), UnixMs(at), &library)? == Room::Making {}
            say(txn, 100_000 + n, at, &[])?;
        }
        let all_old = (0..old).all(|n| gossip.notes(txn, peer(n)).unwrap().is_some());
        let count = gossip.notes.len(txn)?;
        Ok((parts, left, known, all_old, count, gossip.standing.len(txn)?))
    });
    let (parts, left, known, all_old, count, standing) = made.await.unwrap();
    // The young one silent longest goes, in parts, with all it said.
    assert_eq!((parts, left, known), (2, (limits::OBSERVERS - 1, 0, false), Room::Made));
    assert!(all_old, "whoever is known for a week stays");
    assert_eq!((count, standing), (limits::OBSERVERS, limits::OBSERVERS));
    let full = store.write(move |txn, tables| {
        let (library, gossip) = (tables.library, tables.gossip);
        for (peer, notes, _) in gossip.all(txn)? {
            gossip.keep(txn, (peer, notes.heard, false), &[], UnixMs(20 * day), &library)?;
        }
        let none = gossip.make_room(txn, peer(7), UnixMs(20 * day), &library)?;
        let newcomer = gossip.make_room(txn, peer(999_999), UnixMs(20 * day), &library)?;
        Ok((none, newcomer, gossip.make_room(txn, peer(999_999), UnixMs(51 * day), &library)?))
    });
    assert_eq!(full.await.unwrap(), (Room::Made, Room::None, Room::Making), "the silent go after a month");
}

#[tokio::test]
async fn what_was_told_is_numbered_and_told_again_only_when_it_is_new() {
    let (_folder, store) = store();
    let told = store.write(|txn, tables| {
        let gossip = tables.gossip;
        let (key, other) = ([(5, ContentHash([1; 32]))], [(5, ContentHash([2; 32]))]);
        let first = [
            gossip.put_own(txn, 10, Some([1; 16]), &key)?,
            gossip.put_own(txn, 11, Some([1; 16]), &other)?,
            gossip.put_own(txn, 10, Some([1; 16]), &key)?,
            gossip.put_own(txn, 12, None, &[])?,
            gossip.put_own(txn, 10, Some([2; 16]), &key)?,
            gossip.put_own(txn, 11, None, &[])?,
        ];
        Ok((first, gossip.own(txn)?, gossip.own_after(txn, 0, 9, |_| true)?, gossip.own_after(txn, 3, 9, |_| true)?))
    });
    let (first, own, all, last) = told.await.unwrap();
    assert_eq!(first, [true, true, false, false, true, true]);
    assert_eq!((own, all, last), ((4, 2), vec![(3, 10), (4, 11)], vec![(4, 11)]));
    let read = store.read(|txn, t| Ok((t.gossip.told_after(txn, None, 9)?, t.gossip.own_key(txn, 5, 9)?)));
    assert_eq!(read.unwrap(), (vec![10], vec![10, 11]));
    // The last one changes: its number is a new one, or nobody who heard it would hear of the change.
    let again = store.write(|txn, t| Ok((t.gossip.put_own(txn, 11, Some([9; 16]), &[])?, t.gossip.own(txn)?)));
    assert_eq!(again.await.unwrap(), (true, (5, 2)));
}

fn entry(n: u64) -> HashEntry {
    HashEntry { sequence: n, flac_key: n % 3, head_sha256: [1; 32], content: ContentHash(peer(n).0), size: n }
}

fn entries(numbers: std::ops::Range<u64>) -> Vec<HashEntry> {
    numbers.map(entry).collect()
}

#[tokio::test]
async fn hashes_are_found_by_their_key_and_void_ones_are_not() {
    let (_folder, store) = store();
    let kept = store.write(move |txn, tables| {
        let (gossip, library) = (tables.gossip, tables.library);
        let say = |txn: &mut RwTxn<'_>, n: u64, void: bool, numbers| {
            gossip.keep_hashes(txn, (peer(n), heard(9), void), &entries(numbers), UnixMs(1))
        };
        say(txn, 1, true, 1..10)?;
        say(txn, 1, false, 1..10)?;
        say(txn, 2, true, 1..2)?;
        let first = (gossip.hashes.len(txn)?, gossip.hashes_of(txn, 1, 99)?.len(), gossip.heard(txn, peer(1))?.1);
        // A new list: of what was told before, only what is told again.
        say(txn, 1, true, 4..5)?;
        let second =
            (gossip.hashes.len(txn)?, gossip.hashes_of(txn, 1, 99)?.len(), gossip.hashes_of(txn, 2, 99)?.len());
        let more = gossip.sweep(txn, peer(1), &library)?;
        let third = (gossip.hashes.len(txn)?, gossip.hash_index.len(txn)?, gossip.hashes_of(txn, 1, 99)?.len());
        let rows = gossip.notes(txn, peer(1))?.unwrap().hash_rows;
        Ok((first, second, more, third, rows))
    });
    assert_eq!(kept.await.unwrap(), ((10, 4, heard(9)), (10, 2, 0), false, (2, 2, 2), 1));
    // After a month of silence they are void too, and told anew when the peer comes back.
    let gone = store.write(move |txn, tables| {
        let (gossip, library) = (tables.gossip, tables.library);
        let month = UnixMs(1 + limits::GOSSIP_SILENT_S * 1_000);
        let early = gossip.expire(txn, UnixMs(month.0 - 1))?;
        let mut gone = std::collections::BTreeSet::new();
        while let Some(peer) = gossip.expire(txn, month)? {
            gone.insert(peer);
            while gossip.sweep(txn, peer, &library)? {}
        }
        Ok((early, gone.len(), gossip.hashes.len(txn)?, gossip.heard(txn, peer(1))?.1))
    });
    assert_eq!(gone.await.unwrap(), (None, 2, 0, Heard::default()));
}

#[tokio::test]
async fn hashes_are_shared_evenly_whoever_came_first() {
    let (_folder, store) = store();
    let kept = store.write(move |txn, tables| {
        let gossip = tables.gossip;
        let say = |txn: &mut RwTxn<'_>, n: u64, at: u64, from: u64, count: u64| {
            gossip.keep_hashes(txn, (peer(n), heard(9), false), &entries(from..from + count), UnixMs(at))
        };
        let rows = |txn: &RwTxn<'_>, n: u64| gossip.notes(txn, peer(n)).unwrap().unwrap().hash_rows;
        // An old one, and three that fill the table.
        say(txn, 9, 0, 0, 60)?;
        say(txn, 9, limits::GOSSIP_OLD_S * 1_000, 0, 0)?;
        for n in 1..=3 {
            say(txn, n, 5, 1_000 * n, 150)?;
        }
        let mut full = [1, 2, 3].map(|n| rows(txn, n));
        full.sort_unstable();
        let full = (full, gossip.hashes.len(txn)?);
        say(txn, 4, 6, 9_000, 70)?;
        let shared = (rows(txn, 1) + rows(txn, 2) + rows(txn, 3), rows(txn, 4), rows(txn, 9));
        // More than its share it does not get.
        for n in 0..20 {
            say(txn, 4, 7, 20_000 + 10 * n, 10)?;
        }
        let most = (1..=4).map(|n| rows(txn, n)).max();
        Ok((full, shared, most, rows(txn, 9), gossip.hashes.len(txn)?, gossip.hash_index.len(txn)?))
    });
    let (full, shared, most, old, all, index) = kept.await.unwrap();
    // Ten of a hundred and fifty at a time are passed over at its limit; the third took of the first.
    assert_eq!((full.1, full.0.iter().sum::<u64>()), (300, 240));
    assert!(full.0[0] >= 70, "{full:?}");
    assert_eq!(shared.1 + shared.0, 240);
    assert!(shared.1 >= 60 && shared.2 == 60, "{shared:?}");
    assert!(most <= Some(70), "{most:?}");
    assert_eq!((old, all, index), (60, 300, 300));
}

#[tokio::test]
async fn what_is_void_takes_no_room_from_what_is_not() {
    let (_folder, store) = store();
    let kept = store.write(move |txn, tables| {
        let gossip = tables.gossip;
        let say = |txn: &mut RwTxn<'_>, n: u64, void: bool, numbers| {
            gossip.keep_hashes(txn, (peer(n), heard(9), void), &entries(numbers), UnixMs(1))
        };
        let count = |txn: &RwTxn<'_>| Ok::<_, StoreError>((gossip.hashes.len(txn)?, gossip.hash_index.len(txn)?));
        let valid = |txn: &RwTxn<'_>, n: u64| {
            let told = (0..3).map(|key| gossip.hashes_of(txn, key, 999).unwrap());
            told.flatten().filter(|(from, _)| *from == peer(n)).count()
        };
        // All that one peer may have is void, and is not swept yet: the whole new list is kept.
        say(txn, 1, true, 0..100)?;
        say(txn, 1, true, 500..600)?;
        let anew = (valid(txn, 1), count(txn)?, gossip.notes(txn, peer(1))?.unwrap().hash_rows);
        say(txn, 1, false, 600..700)?;
        let most = (valid(txn, 1), count(txn)?);
        // The table is full, and whoever has most of it has void ones: nobody loses what counts.
        say(txn, 2, false, 1_000..1_090)?;
        say(txn, 3, false, 2_000..2_090)?;
        say(txn, 1, true, 0..0)?;
        say(txn, 4, false, 3_000..3_070)?;
        let others = [1, 2, 3, 4].map(|n| valid(txn, n));
        Ok((anew, most, others, count(txn)?))
    });
    let (anew, most, others, all) = kept.await.unwrap();
    assert_eq!(anew, (100, (100, 100), 100));
    assert_eq!(most, (100, (100, 100)), "no more than a peer may have");
    assert_eq!((others, all), ([0, 90, 90, 70], (286, 286)));
}

#[tokio::test]
async fn a_consensus_is_found_by_the_sizes_of_its_copies() {
    let (_folder, store) = store();
    let known = |n: u8| crate::model::gossip::Known {
        claim: claim(n),
        local: false,
        seen: 1,
        peers_agreeing: 1,
        keys_agreeing: 1,
        canonicality: 0.9,
    };
    let of = move |variants: Vec<u8>| Consensus {
        recording_id: 10,
        peers: 1,
        variant_count: 2,
        variants: variants.into_iter().map(known).collect(),
        updated_at: UnixMs(1),
    };
    let found = store.write(move |txn, tables| {
        let gossip = tables.gossip;
        gossip.put_consensus(txn, 10, Some(&of(vec![1, 2])))?;
        let first = (gossip.of_size(txn, 1_001, 9)?, gossip.of_size(txn, 1_002, 9)?);
        gossip.put_consensus(txn, 10, Some(&of(vec![2, 3])))?;
        let second = (gossip.of_size(txn, 1_001, 9)?, gossip.of_size(txn, 1_003, 9)?);
        let read = gossip.consensus(txn, 10)?;
        gossip.put_consensus(txn, 10, None)?;
        Ok((first, second, read.is_some(), gossip.sizes.len(txn)?, gossip.consensus_after(txn, None, 9)?))
    });
    assert_eq!(found.await.unwrap(), ((vec![10], vec![10]), (vec![], vec![10]), true, 0, vec![]));
}

#[test]
fn the_stored_forms_are_these() {
    let notes = Notes { heard: heard(1), hashes: heard(2), words: 3, hash_rows: 4, void_before: 5, at: UnixMs(6) };
    assert_eq!(encode(&notes).unwrap(), [1, 7, 1, 7, 2, 3, 4, 5, 6]);
    let word = Word { order: 300, told: Told { at: UnixMs(2), claims: vec![claim(1)] } };
    let bytes = encode(&word).unwrap();
    assert_eq!((&bytes[..5], bytes.len()), (&[1, 0xac, 2, 2, 1][..], 5 + 64 + 24));
    assert_eq!(encode(&HashRow { head_sha256: [7; 32], size: 300 }).unwrap()[32..], [7, 0xac, 2]);
}
