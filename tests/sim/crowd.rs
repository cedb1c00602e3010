//! Many nodes in virtual time: what the mesh costs each, whether what is shared is found, and what leaves a node.
//!
//! Real: the control sessions of both ends of each connection with every byte they send, gossip, the sealed messages,
//! the plan of meeting, the table of candidates, the guard at the door, and claims made of the Doctor's copies.
//!
//! Modelled: the DHT, TLS and QUIC, the store, and what is told of a copy besides its claim (titles, descriptors). A
//! key of the DHT holds the addresses announced there; a look-up hears of at most 32 of those of the last half hour, in
//! no order. It costs ceil(log2 N) messages of 100 bytes, and so does an announcement, which is a look-up first. A line
//! has one delay and loses nothing; handshakes and the headers of packets are not counted. Of two nodes that call one
//! another at once the second one finds itself connected. The program looks only at the meeting places and announces
//! recordings for others to find; a look-up at a recording's key is counted for success, not for cost. A holder counts
//! as found if it is there and has room for one more connection.
//!
//! `mesh.dht.max_neighbors` (10) bounds whom a node calls; who is called takes anybody up to `mesh.max_connections`
//! (50). One node in four cannot be called, and one in ten is gone for ten minutes. What a node shares is drawn from a
//! common catalogue in which the n-th recording is shared in proportion to 1/n.

use std::collections::BTreeSet;
use std::env;
use std::time::{Duration, Instant};

use slskdn::engine::mesh::meeting::content_key;
use slskdn::engine::swarm::reputation::Reputation;
use slskdn::model::time::UnixMs;

use super::mesh::{Crowd, KEPT};
use super::node::{CONNECTIONS_MAX, NEIGHBOURS_MAX, Node, Private, id_of};

/// One message of the DHT, bytes.
const DHT_MESSAGE: u64 = 100;
const HOUR: Duration = Duration::from_secs(3_600);

fn mean(crowd: &Crowd, what: &dyn Fn(&Node) -> u64) -> f64 {
    crowd.nodes.iter().map(what).sum::<u64>() as f64 / crowd.nodes.len() as f64
}

fn most(crowd: &Crowd, what: &dyn Fn(&Node) -> u64) -> u64 {
    crowd.nodes.iter().map(what).max().unwrap()
}

/// Plays an hour, prints and checks it; the bytes that the mean node sent.
#[expect(clippy::disallowed_methods, reason = "how long it took is printed, no more")]
fn hour(count: usize) -> f64 {
    let began = Instant::now();
    let mut crowd = Crowd::new(count, count as u64, &Private::default());
    crowd.run(HOUR);
    assert_eq!(crowd.strikes, Vec::<String>::new(), "nobody lies here");
    let total = |node: &Node| node.sent.frame_bytes + node.sent.dht * DHT_MESSAGE;
    let messages = |node: &Node| node.sent.frames + node.sent.dht;
    let bytes = mean(&crowd, &total);
    println!(
        "{count} nodes: each {:.0} messages an hour (most {}), {bytes:.0} bytes (most {}), of them DHT {:.0} messages",
        mean(&crowd, &messages),
        most(&crowd, &messages),
        most(&crowd, &total),
        mean(&crowd, &|node| node.sent.dht),
    );
    let neighbours = mean(&crowd, &|node| node.links.len() as u64);
    let crowded = most(&crowd, &|node| node.neighbours_most as u64);
    assert!(crowded <= CONNECTIONS_MAX as u64, "{crowded} neighbours");
    let mut dialled = vec![0; count];
    for link in crowd.links.iter().filter(|link| !link.ends[0].closed) {
        dialled[link.ends[0].node] += 1;
    }
    assert!(dialled.iter().all(|dialled| *dialled <= NEIGHBOURS_MAX), "{dialled:?}");
    let lonely = crowd.nodes.iter().filter(|node| node.up && node.links.is_empty()).count();
    assert_eq!(lonely, 0, "everybody meets somebody");
    let full = crowd.nodes.iter().filter(|node| node.up && node.guard.open() >= CONNECTIONS_MAX).count();
    println!(
        "{count} nodes: {neighbours:.1} neighbours, most {crowded}, called by itself {}; {full} take nobody more",
        dialled.iter().max().unwrap()
    );

    let shared: BTreeSet<u128> =
        crowd.nodes.iter().filter(|n| n.up).flat_map(|node| node.copies.keys().copied()).collect();
    let shared: Vec<u128> = shared.into_iter().collect();
    let (mut told, mut looked, mut either, mut announced, mut found) = (0, 0, 0, 0, 0);
    let mut asked = 0;
    while asked < 2_000 {
        let at = crowd.chance.below(count as u64) as usize;
        let recording = shared[crowd.chance.below(shared.len() as u64) as usize];
        if !crowd.nodes[at].up || crowd.nodes[at].copies.contains_key(&recording) {
            continue;
        }
        asked += 1;
        let in_dht = crowd.dht.get(&content_key(recording)).is_some_and(|told| {
            let lives =
                |(other, at): (&usize, &Duration)| crowd.nodes[*other].up && crowd.now.saturating_sub(*at) < KEPT;
            told.iter().any(lives)
        });
        let (by_advert, by_look) = crowd.finds(at, recording);
        told += u32::from(by_advert);
        looked += u32::from(by_look);
        either += u32::from(by_advert || by_look);
        announced += u32::from(in_dht);
        found += u32::from(in_dht && (by_advert || by_look));
    }
    let share = |part: u32| f64::from(part) / f64::from(asked);
    let success = f64::from(found) / f64::from(announced);
    println!(
        "{count} nodes: of {asked} {:.3} found by adverts, {:.3} in the DHT, {:.3} by either; \
         of {announced} announced {success:.4}",
        share(told),
        share(looked),
        share(either),
    );
    // Who came first is met by most and fills up: what only such a node has is not to be had from it for a while.
    assert!(success >= 0.98, "{success}");
    let deltas = mean(&crowd, &|node| node.hashes.values().map(|kept| kept.len() as u64).sum());
    let answers = mean(&crowd, &|node| node.described + node.keys_answered + node.holders);
    assert!(deltas > 1.0 && answers > 0.1, "hashes {deltas}, answers {answers}");
    println!("{count} nodes: {:.1} s", began.elapsed().as_secs_f64());
    bytes
}

/// From 10 nodes on, bytes grow by no more than one and a half times what the logarithm of their number does.
#[test]
fn what_a_node_sends_grows_as_the_logarithm() {
    let most: usize = env::var("SLSKDN_SIM_NODES").map_or(100, |count| count.parse().unwrap());
    let first = hour(10);
    for count in [100, 1_000].into_iter().filter(|count| *count <= most) {
        let (grown, logarithm) = (hour(count) / first, (count as f64).log10());
        println!("{count} nodes: {grown:.2} times the bytes of 10 nodes, the logarithm {logarithm:.2} times");
        assert!(grown <= 1.5 * logarithm, "{grown}");
    }
}

#[test]
fn a_day_of_a_node_tells_no_secrets() {
    let search = "what-was-searched-22f9c4";
    let private = Private {
        folder: "/srv/Folder-b41d77/Hidden-9c02ee".to_owned(),
        file: "file-name-5d1af0".to_owned(),
        title: "Told-e83a6c ".to_owned(),
        searches: vec![search.to_owned()],
    };
    let mut crowd = Crowd::new(5, 5, &private);
    let known = Reputation {
        successful: 1_234.567_891,
        failed: 77.123_456_7,
        timed_out: 3.271_828_653,
        corrupt: 0.271_828_182,
        cancelled_by_peer: 19.191_919_19,
        first_at: UnixMs(1_726_354_657_687),
        last_at: UnixMs(1_798_765_432_109),
    };
    crowd.nodes[0].reputation.insert(id_of(1), known);
    crowd.run(24 * HOUR);
    assert_eq!(crowd.strikes, Vec::<String>::new());
    let node = &crowd.nodes[0];
    let sent = &crowd.captured.1;
    println!("a day: {} bytes in {} frames to {} peers", sent.len(), node.sent.frames, node.links.len());
    assert_eq!(sent.len() as u64, node.sent.frame_bytes, "every byte is looked at");
    assert!(node.sent.frames > 4 * 24 * 60 && node.links.len() == 4, "pings all day");
    let holds = |what: &[u8]| sent.windows(what.len()).any(|window| window == what);
    let path = &node.copies.values().next().unwrap()[0].paths[0];
    assert!(
        path.0.starts_with(private.folder.as_bytes()) && path.name().windows(16).any(|w| w == private.file.as_bytes())
    );
    let own = node.reputation[&id_of(1)];
    assert!(own.failed > known.failed && own.successful >= known.successful, "it is used");
    let mut secrets: Vec<Vec<u8>> =
        ["Folder-b41d77", "Hidden-9c02ee", &private.folder, &private.file, &node.private.searches[0], "/srv/"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec();
    for record in [known, own] {
        secrets.push(postcard::to_stdvec(&record).unwrap());
        secrets.push(postcard::to_stdvec(&record.score()).unwrap());
        let Reputation { successful, failed, timed_out, corrupt, cancelled_by_peer, .. } = record;
        for number in [successful, failed, timed_out, corrupt, cancelled_by_peer] {
            secrets.push(postcard::to_stdvec(&number).unwrap());
            secrets.push(format!("{number:.3}").into_bytes());
        }
    }
    for secret in &secrets {
        assert!(!holds(secret), "{}", secret.escape_ascii());
    }
    assert!(holds(b"Told-e83a6c Track"), "what is told is seen");
}
