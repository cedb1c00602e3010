//! The lab's Soulseek server and users: the program logs in, searches and downloads, and the scripts do as they say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use slskdn::app::lab::soulseek::{Peer, PeerReport, PeerScript, Run, RunEnd, Server};
use tokio::time::timeout;

use super::node::{Node, PATIENCE};

const PATH: &str = "music\\Some Band\\a long tone.bin";
const MIB: usize = 1024 * 1024;
const PIECE: usize = 64 * 1024;

pub(super) async fn server() -> (Server, u16) {
    Server::start(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap()
}

/// Bytes that repeat nowhere soon.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
    bytes
}

fn script() -> PeerScript {
    PeerScript { name: "ann".to_owned(), path: PATH.to_owned(), ..PeerScript::default() }
}

pub(super) async fn peer(script: PeerScript, bytes: &[u8], server: u16) -> Peer {
    Peer::start(script, Arc::new(bytes.to_vec()), server).await.unwrap()
}

/// Waits until the report is so.
pub(super) async fn until(peer: &Peer, so: impl Fn(&PeerReport) -> bool) -> PeerReport {
    let mut reports = peer.watch();
    let seen = timeout(PATIENCE, reports.wait_for(|report| so(report))).await;
    let Ok(Ok(report)) = seen.map(|seen| seen.map(|report| report.clone())) else { panic!("{:?}", peer.report()) };
    report
}

pub(super) fn ended(report: &PeerReport, end: RunEnd) -> bool {
    report.runs.last().is_some_and(|run| run.end == Some(end))
}

#[tokio::test]
async fn a_node_finds_and_downloads_the_file_in_one_run() {
    let (server, port) = server().await;
    let bytes = noise(5 * MIB + 17);
    let ann = peer(script(), &bytes, port).await;
    let node = Node::start(port, &[]).await;
    assert_eq!(server.online(), ["ann", "box"]);

    let search = node.post("/api/searches", json!({ "text": "tone band -short" })).await;
    let path = format!("/api/searches/{}", search["id"].as_str().unwrap());
    let found = node
        .until("ann answers", async |node| {
            let result = node.get(&path).await["results"][0].clone();
            (!result.is_null()).then_some(result)
        })
        .await;
    assert_eq!((&found["user"], &found["files"][0]["name"]), (&json!("ann"), &json!(PATH)));
    assert_eq!(found["files"][0]["size"], bytes.len());

    let id = node.want("ann", PATH, bytes.len()).await;
    assert!(node.finished(&id).await == bytes);
    until(&ann, |report| ended(report, RunEnd::Complete)).await;
    let report = ann.stop().await;
    let run = Run { user: "box".to_owned(), offset: 0, bytes: bytes.len() as u64, end: Some(RunEnd::Complete) };
    let one =
        PeerReport { name: "ann".to_owned(), searches: 1, asked: 1, transfers: 1, sent: run.bytes, ..report.clone() };
    assert_eq!(report, PeerReport { runs: vec![run], corrupted: 0, ..one });
    server.stop().await;
}

#[tokio::test]
async fn a_queue_keeps_waiting_and_tells_the_place() {
    let (_server, port) = server().await;
    let bytes = noise(MIB);
    let ann = peer(PeerScript { queue: Duration::from_secs(15), ..script() }, &bytes, port).await;
    let node = Node::start(port, &[]).await;
    let id = node.want("ann", PATH, bytes.len()).await;
    until(&ann, |report| report.asked == 1).await;
    let place = node.get(&format!("/api/downloads/{id}/place")).await["place_in_queue"].as_u64().unwrap();
    assert!((1..=15).contains(&place), "{place}");
    assert_eq!(ann.report().transfers, 0, "its turn has not come");
    let other = node.want("ann", "music\\other.bin", 7).await;
    node.until("what is not shared is refused", async |node| {
        let download = node.download(&other).await;
        download["reason"].as_str().unwrap_or_default().contains("File not shared").then_some(())
    })
    .await;
    assert!(node.finished(&id).await == bytes);
}

#[tokio::test]
async fn a_user_who_drops_is_resumed_at_the_offset_where_that_is_allowed() {
    let (_server, port) = server().await;
    let bytes = noise(3 * MIB);
    let limit = (MIB + 1_000) as u64;
    let ann = peer(PeerScript { disconnect_after: Some(limit), ..script() }, &bytes, port).await;
    let node = Node::start(port, &[]).await;
    let id = node.want("ann", PATH, bytes.len()).await;
    let left = until(&ann, |report| ended(report, RunEnd::Left)).await;
    assert_eq!((left.runs.len(), left.runs[0].offset, left.sent), (1, 0, limit));
    node.until("the end is noticed", async |node| {
        (node.download(&id).await["state"] == "Queued, Locally").then_some(())
    })
    .await;
    ann.stop().await;

    // Comes back as a client that refuses offsets.
    let ann = peer(PeerScript { deny_offset: true, ..script() }, &bytes, port).await;
    let retry = format!("/api/downloads/{id}/retry");
    node.post(&retry, json!({})).await;
    let denied = until(&ann, |report| ended(report, RunEnd::Denied)).await;
    assert_eq!((denied.runs[0].offset, denied.sent), (limit, 0));
    node.until("the end is noticed", async |node| {
        (node.download(&id).await["state"] == "Queued, Locally").then_some(())
    })
    .await;
    ann.stop().await;

    // Comes back as one that does not.
    let ann = peer(script(), &bytes, port).await;
    node.post(&retry, json!({})).await;
    assert!(node.finished(&id).await == bytes);
    let done = until(&ann, |report| ended(report, RunEnd::Complete)).await;
    let rest =
        Run { user: "box".to_owned(), offset: limit, bytes: bytes.len() as u64 - limit, end: Some(RunEnd::Complete) };
    assert_eq!(done.runs, [rest]);
}

#[tokio::test]
async fn a_silent_user_is_left_and_a_faulty_one_flips_bits() {
    let (_server, port) = server().await;
    let bytes = noise(10 * PIECE + 5);
    let limit = 5 * PIECE as u64 + 1;
    let ann = peer(PeerScript { stall_after: Some(limit), ..script() }, &bytes, port).await;
    let bob = PeerScript { name: "bob".to_owned(), corrupt_every: 4, rtt: Duration::from_millis(20), ..script() };
    let bob = peer(bob, &bytes, port).await;
    let node = Node::start(port, &[]).await;
    let silent = node.want("ann", PATH, bytes.len()).await;
    let faulty = node.want("bob", PATH, bytes.len()).await;

    let got = node.finished(&faulty).await;
    let wrong: Vec<usize> = (0..bytes.len()).filter(|at| got[*at] != bytes[*at]).collect();
    assert_eq!(wrong, [3 * PIECE, 7 * PIECE]);
    assert_eq!(until(&bob, |report| ended(report, RunEnd::Complete)).await.corrupted, 2);

    until(&ann, |report| report.sent == limit).await;
    node.post(&format!("/api/downloads/{silent}/cancel"), json!({})).await;
    let left = until(&ann, |report| ended(report, RunEnd::Silent)).await;
    assert_eq!((left.runs.len(), left.sent), (1, limit));
}
