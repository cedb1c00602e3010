//! One file from Soulseek users and mesh peers at once, over real sockets: one transfer, one run, closed once.

use futures_util::future::join_all;
use serde_json::{Value, json};
use slskdn::app::lab::soulseek::{Peer, PeerScript, RunEnd};

use super::node::{Node, free_udp_port};
use super::soulseek::{ended, noise, peer, server, until};

const PATH: &str = "music\\Some Band\\noise.wav";
const MIB: usize = 1024 * 1024;

/// A WAV of a moment's quiet noise, and behind it a chunk of noise that no player reads: a long file, soon measured.
fn wav(len: usize) -> Vec<u8> {
    let (rate, data) = (44_100_u32, 44_100 * 2);
    let chunk = |name: &[u8; 4], body: &[u8]| {
        [name.as_slice(), &u32::try_from(body.len()).unwrap().to_le_bytes(), body].concat()
    };
    let format = [&[1, 0, 1, 0], rate.to_le_bytes().as_slice(), &(rate * 2).to_le_bytes(), &[2, 0, 16, 0]].concat();
    let quiet: Vec<u8> = noise(data).as_chunks().0.iter().flat_map(|[low, _]| [*low, 0]).collect();
    let body =
        [b"WAVE".to_vec(), chunk(b"fmt ", &format), chunk(b"data", &quiet), chunk(b"JUNK", &noise(len))].concat();
    chunk(b"RIFF", &body)
}

/// Nodes with the mesh on who share the file at this rate, and one that names them all.
struct World {
    fetcher: Node,
    _holders: Vec<Node>,
    _shares: tempfile::TempDir,
}

impl World {
    async fn start(server: u16, bytes: &[u8], holders: usize, rate_kib: usize) -> Self {
        Self::start_with(server, bytes, holders, rate_kib, &[]).await
    }

    /// The one that fetches has these settings besides.
    async fn start_with(
        server: u16,
        bytes: &[u8],
        holders: usize,
        rate_kib: usize,
        more: &[(&'static str, String)],
    ) -> Self {
        let shares = tempfile::tempdir().unwrap();
        let mut named = Vec::new();
        let mut nodes = Vec::new();
        for n in 0..holders {
            let (share, port) = (shares.path().join(n.to_string()), free_udp_port());
            std::fs::create_dir(&share).unwrap();
            std::fs::write(share.join("noise.wav"), bytes).unwrap();
            let limit = ("global.upload.speed_limit", rate_kib.to_string());
            let settings = [mesh(port).as_slice(), &[limit]].concat();
            let node = Node::start_as(&format!("holder{n}"), Some(&share), server, &settings).await;
            named.push(format!("{}@127.0.0.1:{port}", node.get("/api/mesh").await["id"].as_str().unwrap()));
            nodes.push((node, share));
        }
        join_all(nodes.iter().map(|(node, share)| node.measure(share))).await;
        let settings = [mesh(free_udp_port()).as_slice(), &[("mesh.peers", named.join(";"))], more].concat();
        let fetcher = Node::start(server, &settings).await;
        fetcher
            .until("all are connected", async |node| {
                (node.get("/api/mesh").await["connected"] == holders).then_some(())
            })
            .await;
        Self { fetcher, _holders: nodes.into_iter().map(|(node, _)| node).collect(), _shares: shares }
    }

    /// Fetches the file, also from these users; the answer is the fetch when it is done, and the bytes.
    async fn fetch(&self, bytes: &[u8], users: &[&str]) -> (Value, Vec<u8>) {
        let path = self.ask(bytes, users).await;
        self.done(&path).await
    }

    /// Asks for the file, also from these users; the answer is where the fetch is seen.
    async fn ask(&self, bytes: &[u8], users: &[&str]) -> String {
        let content = blake3::hash(bytes).to_hex().to_string();
        let users: Vec<Value> = users.iter().map(|user| json!({ "username": user, "filename": PATH })).collect();
        let wanted = json!({ "content_hash": content, "size": bytes.len(), "name": "noise.wav", "soulseek": users });
        self.fetcher.post("/api/mesh/fetches", wanted).await;
        format!("/api/mesh/fetches/{content}")
    }

    /// The fetch when it is done, and the bytes.
    async fn done(&self, path: &str) -> (Value, Vec<u8>) {
        let done = self
            .fetcher
            .until("the file is there", async |node| {
                let fetch = node.get(path).await;
                (fetch["state"] == "done").then_some(fetch)
            })
            .await;
        let got = std::fs::read(done["local_path"].as_str().unwrap()).unwrap();
        (done, got)
    }
}

fn mesh(port: u16) -> Vec<(&'static str, String)> {
    vec![("mesh.enabled", "true".to_owned()), ("mesh.address", "127.0.0.1".to_owned()), ("mesh.port", port.to_string())]
}

fn script(name: &str, rate: u64) -> PeerScript {
    PeerScript { name: name.to_owned(), path: PATH.to_owned(), rate, ..PeerScript::default() }
}

/// What a source brought.
fn of<'a>(fetch: &'a Value, user: &str) -> &'a Value {
    let sources = fetch["sources"].as_array().unwrap();
    sources.iter().find(|source| source["user"] == user).unwrap_or_else(|| panic!("{fetch}"))
}

#[tokio::test]
async fn a_soulseek_user_and_three_peers_share_the_work_in_one_run() {
    let (_server, port) = server().await;
    let bytes = wav(32 * MIB);
    let world = World::start(port, &bytes, 3, 1_000).await;
    let ann: Peer = peer(script("ann", 1_000_000), &bytes, port).await;
    let (fetch, got) = world.fetch(&bytes, &["ann"]).await;
    assert!(got == bytes, "not identical: {fetch}");

    let report = until(&ann, |report| report.runs.last().is_some_and(|run| run.end.is_some())).await;
    assert_eq!((report.asked, report.transfers, report.runs.len()), (1, 1, 1), "{report:?}");
    let run = &report.runs[0];
    assert!(matches!(run.end, Some(RunEnd::Closed | RunEnd::Complete)), "{report:?}");
    assert_eq!(run.offset % (64 * 1024), 0);
    let brought = of(&fetch, "ann")["bytes"].as_u64().unwrap();
    assert!(brought > MIB as u64 && brought <= run.bytes, "{fetch} {report:?}");
    let from_peers: Vec<u64> = fetch["sources"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|source| !source["peer"].is_null())
        .map(|source| source["bytes"].as_u64().unwrap())
        .collect();
    assert!(from_peers.len() == 3 && from_peers.iter().all(|bytes| *bytes > 0), "{fetch}");
    assert_eq!(brought + from_peers.iter().sum::<u64>(), bytes.len() as u64, "each byte counts once");

    // The owner saw one download, and it is over.
    let rows = world.fetcher.get("/api/downloads").await;
    assert_eq!((rows["total"].as_u64(), &rows["transfers"][0]["is_over"]), (Some(1), &json!(true)), "{rows}");
    let report = ann.stop().await;
    assert_eq!((report.asked, report.runs.len()), (1, 1), "nobody came back: {report:?}");

    // It is told once: by the fetch, which has what came of the run that was taken back.
    let trace = format!("/api/mesh/fetches/{}/trace", blake3::hash(&bytes).to_hex());
    let told = world
        .fetcher
        .until("its story is written", async |node| {
            let told = node.get(&trace).await;
            (told["summary"]["status"] == "completed").then_some(told)
        })
        .await;
    let summary = &told["summary"];
    assert_eq!(world.fetcher.get("/api/traces").await.as_array().map(Vec::len), Some(1));
    assert_eq!(summary["soulseek_bytes"].as_u64(), Some(brought), "{summary}");
    let cells = summary["cells"].as_array().unwrap();
    let whole = cells.iter().filter(|cell| cell["percent"] == 100).count();
    assert!(whole * 100 >= cells.len() * 95, "{whole} of {} parts are known to be there: {summary}", cells.len());
}

#[tokio::test]
async fn while_nothing_may_come_from_the_mesh_the_user_brings_everything() {
    let (_server, port) = server().await;
    let bytes = wav(4 * MIB);
    let full = [("mesh.fairness.daily_overlay_download_gb", "0".to_owned())];
    let world = World::start_with(port, &bytes, 1, 1_000, &full).await;
    let paused =
        async |node: &Node| node.get("/api/mesh/traffic-stats").await["downloads_paused"].as_bool().filter(|is| *is);
    world.fetcher.until("nothing may be fetched", paused).await;
    // Time enough to see that the peer has it.
    let ann =
        peer(PeerScript { queue: std::time::Duration::from_secs(3), ..script("ann", 1_000_000) }, &bytes, port).await;
    let (fetch, got) = world.fetch(&bytes, &["ann"]).await;
    assert!(got == bytes, "not identical: {fetch}");
    assert_eq!(of(&fetch, "ann")["bytes"].as_u64(), Some(bytes.len() as u64), "{fetch}");
    let from_peers: Vec<&Value> =
        fetch["sources"].as_array().unwrap().iter().filter(|source| !source["peer"].is_null()).collect();
    assert!(from_peers.len() == 1 && from_peers[0]["bytes"] == 0, "it has it, and is not asked: {fetch}");
    let report = until(&ann, |report| ended(report, RunEnd::Complete)).await;
    assert_eq!((report.transfers, report.runs.len(), report.sent), (1, 1, bytes.len() as u64), "{report:?}");
    // As the page on contribution tells it: files of the mesh, none.
    let day = &world.fetcher.get("/api/mesh/traffic-stats?window=24h").await["windows"]["24h"];
    assert!(day["overlay_download_bytes"].as_u64() < Some(64 * 1024), "its piece list alone: {day}");
}

#[tokio::test]
async fn a_user_who_leaves_is_followed_by_the_next_and_one_who_refuses_an_offset_is_not_asked_again() {
    let (_server, port) = server().await;
    let bytes = wav(12 * MIB);
    let world = World::start(port, &bytes, 1, 100).await;
    let rate = 1_000_000;
    let limit = 3 * MIB as u64;
    let ann = peer(PeerScript { disconnect_after: Some(limit), ..script("ann", rate) }, &bytes, port).await;
    let bob = peer(PeerScript { deny_offset: true, ..script("bob", rate) }, &bytes, port).await;
    let cat = peer(PeerScript { corrupt_every: 50, ..script("cat", rate) }, &bytes, port).await;
    let (fetch, got) = world.fetch(&bytes, &["ann", "bob", "cat"]).await;
    assert!(got == bytes, "not identical: {fetch}");

    let (ann, bob) = (ann.report(), bob.report());
    assert_eq!((ann.runs.len(), ann.sent), (1, limit), "{ann:?}");
    assert!(ended(&ann, RunEnd::Left), "{ann:?}");
    assert_eq!((bob.runs.len(), bob.sent), (1, 0), "{bob:?}");
    assert!(ended(&bob, RunEnd::Denied) && bob.runs[0].offset > 0, "{bob:?}");
    let cat = until(&cat, |report| report.runs.last().is_some_and(|run| run.end.is_some())).await;
    assert_eq!((cat.asked, cat.runs.len()), (1, 1), "{cat:?}");
    assert!(cat.runs[0].offset >= ann.runs[0].offset + limit / 2, "it goes on where the first one left: {cat:?}");
    assert_eq!(of(&fetch, "cat")["bad_pieces"].as_u64(), Some(cat.corrupted), "{fetch} {cat:?}");
}

#[tokio::test]
async fn a_kill_in_the_middle_costs_little_and_no_download_is_left_over() {
    let (_server, port) = server().await;
    let bytes = wav(6 * MIB);
    let mut world = World::start(port, &bytes, 1, 100).await;
    let ann = peer(script("ann", 1_000_000), &bytes, port).await;
    let path = world.ask(&bytes, &["ann"]).await;
    let there = world
        .fetcher
        .until("some of it is there", async |node| {
            let there = node.get(&path).await["bytes_done"].as_u64().unwrap();
            (there > 2 * MIB as u64).then_some(there)
        })
        .await;
    world.fetcher.kill();
    until(&ann, |report| report.runs[0].end.is_some()).await;
    world.fetcher.restart().await;
    let (fetch, got) = world.done(&path).await;
    assert!(got == bytes, "not identical: {fetch}");
    let report = until(&ann, |report| report.runs.len() == 2 && report.runs[1].end.is_some()).await;
    assert!(report.runs[1].offset + 2 * 64 * 1024 >= there.min(report.runs[0].bytes), "{there} {report:?}");
    let rows = world.fetcher.get("/api/downloads").await;
    let over = rows["transfers"].as_array().unwrap().iter().all(|row| row["state"] == "Completed, Cancelled");
    assert!(over && rows["total"] == 2, "{rows}");
}
