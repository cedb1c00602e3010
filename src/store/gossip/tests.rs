//! Votes, their limits, and the log of what was told.

use super::*;
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
async fn words_are_bounded_and_the_oldest_goes() {
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
        Ok((words, tables.gossip.words_on(txn, 100)?.len(), tables.gossip.words_on(txn, 105)?.len()))
    });
    assert_eq!(kept.await.unwrap(), (limits::OBSERVATIONS_PER_PEER, 0, 1));
    let said = words(&store, 10);
    assert_eq!(said.len(), limits::OBSERVERS_PER_RECORDING);
    assert!(said.iter().all(|(from, _)| (0..3).all(|n| *from != peer(n))), "the first three are forgotten");
}

#[tokio::test]
async fn peers_are_bounded_and_the_one_longest_silent_goes_with_all_it_said() {
    let (_folder, store) = store();
    let made = store.write(|txn, tables| {
        let library = tables.library;
        for n in 0..limits::OBSERVERS {
            let words: Vec<_> = if n == 7 { (0..100).map(|id| (id, vec![claim(1)])).collect() } else { Vec::new() };
            let at = if n == 7 { 0 } else { 10 + n };
            tables.gossip.keep(txn, (peer(n), heard(1), false), &words, UnixMs(at), &library)?;
        }
        let mut parts = 0;
        while tables.gossip.make_room(txn, peer(5_000), &library)? {
            parts += 1;
        }
        let known = tables.gossip.make_room(txn, peer(3), &library)?;
        Ok((parts, known, tables.gossip.notes.len(txn)?, tables.gossip.words.len(txn)?))
    });
    assert_eq!(made.await.unwrap(), (2, false, limits::OBSERVERS - 1, 0));
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
        Ok((first, gossip.own(txn)?, gossip.own_after(txn, 0, 9)?, gossip.own_after(txn, 3, 9)?))
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

#[tokio::test]
async fn hashes_are_found_by_their_key_and_bounded() {
    let (_folder, store) = store();
    let entry = |n: u64| HashEntry {
        sequence: n,
        flac_key: n % 3,
        head_sha256: [1; 32],
        content: ContentHash(peer(n).0),
        size: n,
    };
    let kept = store.write(move |txn, tables| {
        let gossip = tables.gossip;
        let entries: Vec<_> = (1..=9).map(entry).collect();
        gossip.keep_hashes(txn, peer(1), heard(9), &entries, UnixMs(1))?;
        gossip.keep_hashes(txn, peer(1), heard(9), &entries, UnixMs(1))?;
        gossip.keep_hashes(txn, peer(2), heard(9), &entries[..1], UnixMs(1))?;
        Ok((gossip.hashes.len(txn)?, gossip.hashes_of(txn, 1, 99)?.len(), gossip.heard(txn, peer(1))?.1))
    });
    assert_eq!(kept.await.unwrap(), (10, 4, heard(9)));
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
