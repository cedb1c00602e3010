//! Two nodes on loopback: why a request is taken back reaches the one who serves it, and who reads nothing is not waited for.
//! And how long a slow one is waited for.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::VarInt;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{FLOOR, Patience, STALL, TooSlow};
use crate::engine::mesh::candidates::Range;
use crate::engine::mesh::exchange::Wanted;
use crate::engine::mesh::frame::{ChunkRequest, ErrorCode, Hello};
use crate::model::id::{ContentHash, PeerId};
use crate::model::limits;
use crate::model::swarm::CancelReason;
use crate::net::mesh::{Answer, Identity, Incoming, Link, Mesh, MeshSettings, Named, StopCode};

fn node(peer: Option<(PeerId, u16)>, blocks: usize, cancel: &CancellationToken) -> (Mesh, mpsc::Receiver<Incoming>) {
    let (incoming, asked) = mpsc::channel(8);
    let settings = MeshSettings {
        range: Range::default(),
        strangers_max: 0,
        bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        identity: Identity::from_secret(&Identity::make().unwrap()).unwrap(),
        peers: peer.map(|(id, port)| Named { id, address: format!("127.0.0.1:{port}") }).into_iter().collect(),
        banned: [].into(),
        connections_max: 4,
        gso: false,
        hello: Hello::default(),
        blocks: Arc::new(Semaphore::new(blocks)),
        delay: Duration::ZERO,
    };
    (Mesh::start(settings, incoming, cancel.clone()).unwrap(), asked)
}

async fn request(asked: &mut mpsc::Receiver<Incoming>) -> Box<Answer> {
    loop {
        if let Incoming::Request { answer, .. } = asked.recv().await.unwrap() {
            return answer;
        }
    }
}

/// One that serves, and a connection with it of one that has so many blocks.
async fn pair(blocks: usize, cancel: &CancellationToken) -> (mpsc::Receiver<Incoming>, (Mesh, Mesh), Link) {
    let (server, asked) = node(None, limits::BLOCKS, cancel);
    let (client, _unasked) = node(Some((server.id(), server.port())), blocks, cancel);
    let mut changes = client.changes();
    let connected = async {
        while client.links().is_empty() {
            changes.changed().await.unwrap();
        }
    };
    let connected = tokio::time::timeout(Duration::from_secs(30), connected).await;
    assert!(connected.is_ok(), "{:?}", client.peers());
    let link = client.links()[0].clone();
    (asked, (server, client), link)
}

fn chunk(length: u32) -> Wanted {
    Wanted::Chunk(ChunkRequest { content: ContentHash([1; 32]), offset: 0, length, priority: 5, deadline_ms: 1_000 })
}

#[tokio::test]
async fn the_reason_reaches_whoever_serves() {
    let cancel = CancellationToken::new();
    let (mut asked, _nodes, link) = pair(limits::BLOCKS, &cancel).await;
    let wanted = chunk(512 * 1024);
    for reason in CancelReason::ALL {
        let stop = StopCode::default();
        let (body, answer) = tokio::join!(link.request_until(wanted, stop.clone()), async {
            let mut answer = request(&mut asked).await;
            assert!(answer.grant().await);
            answer
        });
        let (body, mut answer) = (body.unwrap(), answer);
        assert_eq!(answer.taken_back(), None);
        stop.set(reason);
        drop(body);
        // Whether the next byte or the hundred thousandth meets the stop is the network's.
        let mut sent = 0;
        while answer.send(Bytes::from_static(&[0; 1_024])).await {
            sent += 1_024;
            assert!(sent < 512 * 1024, "{reason:?} was not heard");
            tokio::task::yield_now().await;
        }
        assert_eq!(answer.taken_back(), Some(reason));
    }
    cancel.cancel();
}

#[tokio::test]
async fn a_refusal_that_nobody_reads_is_not_waited_for_as_long_as_a_file() {
    let cancel = CancellationToken::new();
    // Three for the connection, none for a wider window.
    let (mut asked, _nodes, link) = pair(3, &cancel).await;
    let (body, mut file) = tokio::join!(link.request(chunk(512 * 1024)), async {
        let mut answer = request(&mut asked).await;
        assert!(answer.grant().await);
        answer
    });
    // Held and not read, so that nothing finds room any more.
    let _body = body.unwrap();
    let mut sending = std::pin::pin!(async { file.send(vec![0; 512 * 1024].into()).await });
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let link = link.clone();
        asking.spawn(async move { link.request(chunk(65_536)).await.map(drop) });
    }
    let mut next = async || {
        tokio::select! {
            sent = &mut sending => panic!("somebody reads it: {sent}"),
            asked = request(&mut asked) => asked,
        }
    };
    let (mut granted, refused) = (next().await, next().await);
    // What is granted was first and is given up first, if a refusal is worth as much.
    tokio::select! {
        biased;
        heard = granted.grant() => panic!("the refusal is waited for as long as a file: {heard}"),
        () = refused.refuse(ErrorCode::RateLimited) => {}
    }
    cancel.cancel();
    link.connection().close(VarInt::from_u32(0), b"");
    assert!(!sending.await && asking.join_all().await.iter().all(Result::is_err));
}

/// A reader that takes so many bytes each time, after such a pause. How many it got until it was given up, and when.
async fn reads(most: usize, pause: Duration, whole: u64) -> (u64, Duration) {
    let (mut patience, mut taken, began) = (Patience::default(), 0, Instant::now());
    while taken < whole {
        let write = async {
            sleep(pause).await;
            Ok::<_, ()>(most)
        };
        match patience.take(write).await {
            Ok(count) => taken += count.unwrap() as u64,
            Err(TooSlow) => break,
        }
    }
    (taken, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_served_and_one_that_only_pretends_is_not() {
    let whole = 512 * 1024;
    // Just above the floor, in all: it gets everything, though that takes minutes.
    let fair = usize::try_from(FLOOR).unwrap() + 100;
    assert_eq!(reads(fair, Duration::from_secs(1), whole).await.0, (whole / fair as u64 + 1) * fair as u64);
    // A byte now and then keeps nobody waiting beyond the first patience.
    let (taken, took) = reads(1, Duration::from_secs(7), whole).await;
    assert_eq!((taken, took), (4, STALL));
    // Half of the floor: what it took buys it half of the time that it needed.
    let half = usize::try_from(FLOOR / 2).unwrap();
    let (taken, took) = reads(half, Duration::from_secs(1), whole).await;
    assert!(taken < whole && took >= STALL && took <= 2 * STALL, "{taken} in {took:?}");
    // Nothing at all.
    assert_eq!(reads(1, 2 * STALL, whole).await, (0, STALL));
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_our_own_is_not_the_readers() {
    let mut patience = Patience::default();
    for _ in 0..100 {
        // Our limit lets nothing out.
        sleep(STALL).await;
        let write = async {
            sleep(Duration::from_millis(200)).await;
            Ok::<_, ()>(1_024)
        };
        assert_eq!(patience.take(write).await, Ok(Ok(1_024)));
    }
}
