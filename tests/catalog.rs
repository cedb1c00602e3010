//! The catalogs over loopback: the real client against a server that replays real answers and misbehaves.
#![allow(clippy::unwrap_used, reason = "tests, their helpers included")]

use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use slskdn::app::clock::Clock;
use slskdn::engine::catalog::pace::Pace;
use slskdn::model::catalog::{KeptAnswer, Service};
use slskdn::model::id::{RecordingId, ReleaseId};
use slskdn::net::catalog::{Cache, Catalog, CatalogSettings, Later, ServiceSettings};
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

const RELEASE: &str = include_str!("fixtures/musicbrainz/mb_release_lift_your_skinny_fists_ca_12in_2018.json");
const SOUND: &str = include_str!("fixtures/musicbrainz/acoustid_lookup_recordings_releasegroups.json");
const DISCOGS: &str = include_str!("fixtures/musicbrainz/discogs_release_1.json");

#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, KeptAnswer>>);

impl Cache for Memory {
    fn get(&self, name: &str) -> Option<KeptAnswer> {
        self.0.lock().unwrap().get(name).cloned()
    }

    fn put(&self, name: String, answer: KeptAnswer) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.0.lock().unwrap().insert(name, answer);
        Box::pin(std::future::ready(()))
    }
}

/// One request as it came.
struct Seen {
    path: String,
    agent: String,
    authorization: String,
    form: String,
}

#[derive(Clone, Default)]
struct Served {
    replies: Arc<Mutex<VecDeque<Response>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

async fn serve(State(served): State<Served>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name| headers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    let mut form = String::new();
    if header("content-encoding") == "gzip" {
        flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut form).unwrap();
    }
    let (agent, authorization) = (header("user-agent"), header("authorization"));
    served.seen.lock().unwrap().push(Seen { path: uri.to_string(), agent, authorization, form });
    served.replies.lock().unwrap().pop_front().unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

struct World {
    served: Served,
    catalog: Catalog,
    base: String,
    _end: DropGuard,
}

/// Beats and silences of milliseconds.
fn pace() -> Pace {
    let ms = Duration::from_millis;
    Pace { beat: ms(1), silence: ms(2), silence_max: ms(20), asked_max: ms(50) }
}

impl World {
    async fn new(replies: Vec<Response>) -> Self {
        Self::with(replies, "hush", false).await
    }

    async fn with(replies: Vec<Response>, key: &str, offline: bool) -> Self {
        let served = Served { replies: Arc::new(Mutex::new(replies.into())), ..Served::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/ws/2", listener.local_addr().unwrap());
        let router = Router::new().fallback(serve).with_state(served.clone());
        let cancel = CancellationToken::new();
        let ended = cancel.clone().cancelled_owned();
        tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(ended).into_future());
        let service = || ServiceSettings { base_url: base.clone(), key: key.to_owned(), pace: pace() };
        let settings = CatalogSettings {
            musicbrainz: service(),
            acoustid: service(),
            discogs: service(),
            offline,
            contact: "me@example.org".to_owned(),
            patience: Duration::from_secs(1),
        };
        let clock = Clock::start();
        let cache: Arc<dyn Cache> = Arc::new(Memory::default());
        let catalog = Catalog::start(&settings, &(Arc::new(move || clock.now()) as _), &cache, &cancel).unwrap();
        Self { served, catalog, base, _end: cancel.drop_guard() }
    }

    fn paths(&self) -> Vec<String> {
        self.served.seen.lock().unwrap().iter().map(|seen| seen.path.split('?').next().unwrap().to_owned()).collect()
    }
}

fn json(text: &str) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text.to_owned()).into_response()
}

fn gzipped(text: &[u8]) -> Response {
    let mut packed = flate2::read::GzEncoder::new(text, flate2::Compression::default());
    let mut body = Vec::new();
    packed.read_to_end(&mut body).unwrap();
    ([(header::CONTENT_ENCODING, "gzip")], body).into_response()
}

fn to(location: String) -> Response {
    (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, location)]).into_response()
}

#[tokio::test]
async fn real_answers_arrive_and_are_asked_for_once() {
    let world = World::new(vec![gzipped(RELEASE.as_bytes())]).await;
    let id: ReleaseId = "748e3e26-5ac3-41a1-8b40-08f0bf8ad4d0".parse().unwrap();
    let release = world.catalog.release(id).await.unwrap().unwrap();
    assert_eq!((release.date.unwrap().to_string().as_str(), release.tracks().count()), ("2018", 4));
    assert_eq!(world.catalog.release(id).await.unwrap().unwrap(), release);
    assert_eq!(world.paths(), [format!("/ws/2/release/{id}")]);
    {
        let seen = world.served.seen.lock().unwrap();
        assert_eq!(seen[0].agent, format!("slskdn/{} (me@example.org)", env!("CARGO_PKG_VERSION")));
        assert_eq!(seen[0].authorization, "Bearer hush");
        assert!(seen[0].path.contains("inc=artist-credits+isrcs+labels"), "{}", seen[0].path);
    }
    let [musicbrainz, ..] = world.catalog.figures();
    assert_eq!((musicbrainz.requests, musicbrainz.cached, musicbrainz.backoffs), (1, 1, 0));
}

#[tokio::test]
async fn sounds_are_posted_packed_with_the_key() {
    let world = World::new(vec![json(SOUND), json(DISCOGS)]).await;
    let found = world.catalog.lookup("AQAD-_x", 639).await.unwrap();
    assert_eq!(found[0].recordings[0].artist, "M83");
    assert_eq!(world.catalog.discogs_release(1).await.unwrap().unwrap().artist, "The Persuader");
    let seen = world.served.seen.lock().unwrap();
    let want =
        "format=json&meta=recordings+releasegroups+sources+compress&duration=639&fingerprint=AQAD-_x&client=hush";
    assert_eq!((seen[0].path.as_str(), seen[0].form.as_str()), ("/ws/2/lookup", want));
    assert_eq!((seen[1].path.as_str(), seen[1].authorization.as_str()), ("/ws/2/releases/1", "Discogs token=hush"));
}

#[tokio::test]
async fn durations_that_musicbrainz_lacks_are_those_of_the_linked_discogs_release() {
    let id: ReleaseId = "748e3e26-5ac3-41a1-8b40-08f0bf8ad4d0".parse().unwrap();
    // The recorded answers, made one release: MusicBrainz forgets its durations and links, Discogs has its titles.
    let titles = ["Storm", "STATIC", "Sleep", "Antennas to Heaven"];
    let mut release: serde_json::Value = serde_json::from_str(RELEASE).unwrap();
    let link =
        serde_json::json!({ "type": "discogs", "url": { "resource": "https://www.discogs.com/release/1-Stockholm" } });
    release["relations"] = serde_json::json!([link]);
    let media = release["media"].as_array_mut().unwrap().iter_mut();
    for (track, title) in media.flat_map(|medium| medium["tracks"].as_array_mut().unwrap()).zip(titles) {
        track["length"] = serde_json::Value::Null;
        track["recording"]["length"] = serde_json::Value::Null;
        track["title"] = title.to_lowercase().into();
    }
    for titles_there in [&titles[..], &titles[..3]] {
        let mut linked: serde_json::Value = serde_json::from_str(DISCOGS).unwrap();
        let tracks = linked["tracklist"].as_array_mut().unwrap();
        tracks.truncate(titles_there.len());
        for (track, title) in tracks.iter_mut().zip(titles_there) {
            track["title"] = (*title).into();
        }
        let world = World::new(vec![json(&release.to_string()), json(&linked.to_string())]).await;
        let found = slskdn::app::catalog::release(&world.catalog, id).await.unwrap().unwrap();
        assert_eq!(world.paths(), [format!("/ws/2/release/{id}"), "/ws/2/releases/1".to_owned()]);
        let known = found.tracks().filter(|track| track.duration_ms.is_some()).count();
        // Other tracks there, other release.
        assert_eq!(known, if titles_there.len() == 4 { 4 } else { 0 });
    }
}

#[tokio::test]
async fn merged_ids_lead_to_the_one_that_stands() {
    let world = World::new(Vec::new()).await;
    let (old, new) = (ReleaseId(1), "748e3e26-5ac3-41a1-8b40-08f0bf8ad4d0");
    let there = to(format!("{}/release/{new}?fmt=json", world.base));
    world.served.replies.lock().unwrap().extend([there, json(RELEASE)]);
    let release = world.catalog.release(old).await.unwrap().unwrap();
    assert_ne!(release.id, old);
    assert_eq!(world.paths()[1], format!("/ws/2/release/{new}"));
    // The old name is known from now on.
    assert_eq!(world.catalog.release(old).await.unwrap().unwrap().id, release.id);
    assert_eq!(world.paths().len(), 2);
}

#[tokio::test]
async fn nobody_is_led_to_another_host() {
    let other = World::new(vec![json(RELEASE)]).await;
    let world = World::new(vec![to(format!("{}/release/1", other.base)), to("/admin".to_owned())]).await;
    for id in [1, 2] {
        assert!(matches!(world.catalog.release(ReleaseId(id)).await, Err(Later::Wrong { .. })));
    }
    assert!(other.paths().is_empty());
    assert_eq!(world.paths().len(), 2);
}

#[tokio::test]
async fn storms_end() {
    let busy = |retry: Option<&'static str>| {
        let mut response = StatusCode::SERVICE_UNAVAILABLE.into_response();
        if let Some(retry) = retry {
            response.headers_mut().insert(header::RETRY_AFTER, retry.parse().unwrap());
        }
        response
    };
    let dates = "Wed, 21 Oct 2015 07:28:00 GMT";
    let world =
        World::new(vec![busy(None), busy(Some("0")), busy(Some("1000000")), busy(Some(dates)), json(RELEASE)]).await;
    let mut asked = 0;
    let release = loop {
        asked += 1;
        match world.catalog.release(ReleaseId(1)).await {
            Ok(release) => break release,
            Err(Later::Silent { service, .. }) => assert_eq!(service, Service::MusicBrainz),
            Err(other) => panic!("{other}"),
        }
        assert!(asked < 10_000, "the storm does not end");
    };
    assert!(release.is_some());
    let [musicbrainz, ..] = world.catalog.figures();
    assert_eq!((musicbrainz.requests, musicbrainz.backoffs), (5, 4));
}

#[tokio::test]
async fn what_makes_no_sense_harms_nobody() {
    let huge = vec![b' '; slskdn::model::limits::CATALOG_ANSWER_LEN + 1];
    let deep = "[".repeat(100_000);
    let world = World::new(vec![
        gzipped(&huge),
        json("<html>maintenance</html>"),
        json(&deep),
        json(r#"{"error":"Not Found"}"#),
        json(""),
        (StatusCode::BAD_REQUEST, "no").into_response(),
        ([(header::CONTENT_ENCODING, "gzip")], "no gzip at all").into_response(),
    ])
    .await;
    for id in 1..=6 {
        let told = world.catalog.recording(RecordingId(id)).await;
        assert!(matches!(told, Err(Later::Wrong { .. })), "{id}: {told:?}");
    }
    // A body that breaks off is asked for again; the script's end answers 404.
    assert_eq!(world.catalog.recording(RecordingId(7)).await, Ok(None));
    assert_eq!(world.paths().len(), 8);
}

#[tokio::test]
async fn offline_and_keyless_ask_nobody() {
    let world = World::with(Vec::new(), "", true).await;
    assert_eq!(world.catalog.release(ReleaseId(1)).await, Err(Later::Offline(Service::MusicBrainz)));
    assert!(world.paths().is_empty());
    let world = World::with(Vec::new(), "", false).await;
    let told = world.catalog.lookup("AQAA", 1).await.unwrap_err();
    assert_eq!(told.to_string(), "AcoustID is not asked without a key: set catalog.acoustid.key");
    assert_eq!(world.catalog.closed(Service::AcoustId), Some(told));
    assert_eq!(world.catalog.release(ReleaseId(1)).await, Ok(None));
    assert_eq!(world.paths().len(), 1);
}

#[tokio::test]
async fn a_service_that_is_away_is_a_matter_of_time() {
    let world = World::new(Vec::new()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let service = || ServiceSettings { base_url: nobody.clone(), key: "hush".to_owned(), pace: pace() };
    let settings = CatalogSettings {
        musicbrainz: service(),
        acoustid: service(),
        discogs: service(),
        offline: false,
        contact: String::new(),
        patience: Duration::ZERO,
    };
    let (clock, cancel) = (Clock::start(), CancellationToken::new());
    let cache: Arc<dyn Cache> = Arc::new(Memory::default());
    let catalog = Catalog::start(&settings, &(Arc::new(move || clock.now()) as _), &cache, &cancel).unwrap();
    let told = catalog.lookup("AQAA", 1).await.unwrap_err();
    assert!(told.is_a_matter_of_time() && matches!(told, Later::Silent { .. }), "{told:?}");
    assert!(!told.to_string().contains("hush"), "{told}");
    cancel.cancel();
    let ended = catalog.lookup("AQAB", 1).await.unwrap_err();
    assert!(matches!(ended, Later::Ending | Later::Silent { .. }), "{ended:?}");
    drop(world);
}
