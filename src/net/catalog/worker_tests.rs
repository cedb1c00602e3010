use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;

use tokio::time::Instant;

use super::super::Reply;
use super::*;
use crate::engine::catalog::request::Wanted;
use crate::model::id::RecordingId;
use crate::model::time::{Now, UnixMs};

/// Answers from a script, and when each request came.
#[derive(Clone, Default)]
struct Script {
    replies: Arc<Mutex<VecDeque<Result<Reply, SendError>>>>,
    sent: Arc<Mutex<Vec<Instant>>>,
}

impl Transport for Script {
    async fn send(&self, _: &Request) -> Result<Reply, SendError> {
        self.sent.lock().unwrap().push(Instant::now());
        self.replies.lock().unwrap().pop_front().unwrap_or(Ok(reply(404, None)))
    }
}

#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, KeptAnswer>>);

impl Cache for Memory {
    fn get(&self, name: &str) -> Option<KeptAnswer> {
        self.0.lock().unwrap().get(name).cloned()
    }

    fn put(&self, name: String, answer: KeptAnswer) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.0.lock().unwrap().insert(name, answer);
        Box::pin(std::future::ready(()))
    }
}

fn reply(status: u16, retry_after: Option<&str>) -> Reply {
    let retry_after = retry_after.map(str::to_owned);
    Reply { status, retry_after, remaining: None, location: None, body: b"7".to_vec() }
}

struct World {
    script: Script,
    memory: Arc<Memory>,
    counters: Arc<Counters>,
    questions: mpsc::Sender<Question>,
    began: Instant,
}

impl World {
    fn new(service: Service, replies: Vec<Result<Reply, SendError>>) -> Self {
        let script = Script { replies: Arc::new(Mutex::new(replies.into())), ..Script::default() };
        let (memory, counters) = (Arc::new(Memory::default()), Arc::new(Counters::default()));
        let began = Instant::now();
        let clock = move || {
            let mono = began.elapsed();
            Now { mono, wall: UnixMs(1_000_000).plus(mono) }
        };
        let worker = Worker {
            service,
            transport: Some(script.clone()),
            closed: None,
            pace: Pace::of(service, true),
            patience: Duration::from_secs(8),
            clock: Arc::new(clock),
            cache: memory.clone(),
            counters: counters.clone(),
        };
        let (questions, asked) = mpsc::channel(limits::CATALOG_WAITING);
        tokio::spawn(worker.run(asked, CancellationToken::new()));
        Self { script, memory, counters, questions, began }
    }

    /// Asks for a number; the script's bodies are one.
    async fn ask(&self, id: u128) -> Result<Option<u32>, Later> {
        let (reply, answer) = oneshot::channel();
        let request = Wanted::Recording(RecordingId(id)).request();
        let question = Question::new(request, |number: u32| Ok::<_, String>(number), reply);
        self.questions.send(question).await.ok().unwrap();
        answer.await.unwrap()
    }

    fn sent_ms(&self) -> Vec<u128> {
        self.script.sent.lock().unwrap().iter().map(|at| at.duration_since(self.began).as_millis()).collect()
    }

    fn count(counter: &std::sync::atomic::AtomicU64) -> u64 {
        counter.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn the_beat_is_kept_and_what_is_kept_costs_nothing() {
    let world = World::new(Service::MusicBrainz, (0..3).map(|_| Ok(reply(200, None))).collect());
    for id in [1, 2, 1, 3, 2] {
        assert_eq!(world.ask(id).await, Ok(Some(7)));
    }
    let sent = world.sent_ms();
    assert_eq!(sent.len(), 3);
    assert!(sent.windows(2).all(|pair| pair[1] - pair[0] >= 1_050), "{sent:?}");
    assert_eq!(World::count(&world.counters.cached), 2);
    // No such thing: an answer too, kept for a shorter time.
    assert_eq!((world.ask(9).await, world.ask(9).await), (Ok(None), Ok(None)));
    assert_eq!(world.sent_ms().len(), 4);
    tokio::time::advance(Duration::from_secs(8 * 24 * 3_600)).await;
    world.script.replies.lock().unwrap().push_back(Ok(reply(200, None)));
    assert_eq!(world.ask(9).await, Ok(Some(7)), "it exists by now");
    assert_eq!(world.ask(1).await, Ok(Some(7)));
    assert_eq!(world.sent_ms().len(), 5, "what was found stands for 30 days");
}

#[tokio::test(start_paused = true)]
async fn a_storm_is_sat_out_and_the_scan_goes_on() {
    let storm = (0..4).map(|_| Ok(reply(503, None))).chain([Ok(reply(200, None))]).collect();
    let world = World::new(Service::MusicBrainz, storm);
    // 2 s are within our patience, the 4 s after them are not spent on the same question.
    let Err(Later::Silent { after, reason, .. }) = world.ask(1).await else { panic!("no answer can come") };
    assert_eq!((world.sent_ms().len(), after.as_secs(), reason.as_str()), (2, 4, "status 503"));
    // Whoever asks meanwhile waits once more (4 s), and is told the rest.
    let Err(Later::Silent { after, .. }) = world.ask(2).await else { panic!("no answer can come") };
    assert_eq!((world.sent_ms().len(), after.as_secs()), (3, 8));
    assert!(world.ask(3).await.is_err(), "8 s are waited for, then it fails the fourth time");
    let Err(Later::Silent { after, .. }) = world.ask(4).await else { panic!("16 s are not waited for") };
    assert_eq!((world.sent_ms().len(), after.as_secs()), (4, 16));
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(world.ask(4).await, Ok(Some(7)));
    assert_eq!((World::count(&world.counters.backoffs), World::count(&world.counters.failed)), (4, 4));
}

#[tokio::test(start_paused = true)]
async fn the_time_asked_for_is_given() {
    let world = World::new(Service::AcoustId, vec![Ok(reply(429, Some("120"))), Ok(reply(200, None))]);
    let Err(Later::Silent { after, .. }) = world.ask(1).await else { panic!("no answer can come") };
    assert_eq!(after.as_secs(), 120);
    tokio::time::advance(Duration::from_millis(119_900)).await;
    assert_eq!(world.ask(1).await, Ok(Some(7)), "the rest is waited for");
    let sent = world.sent_ms();
    assert!(sent.len() == 2 && sent[1] - sent[0] >= 120_000, "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn an_old_answer_is_better_than_none() {
    let away = || Err(SendError::Unreachable("no route".to_owned()));
    let world = World::new(Service::MusicBrainz, vec![Ok(reply(200, None)), away(), away(), away()]);
    assert_eq!(world.ask(1).await, Ok(Some(7)));
    tokio::time::advance(Duration::from_secs(31 * 24 * 3_600)).await;
    assert_eq!(world.ask(1).await, Ok(Some(7)));
    assert_eq!(world.sent_ms().len(), 3, "it was asked for anew, in vain");
    assert!(world.ask(2).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_repeated_with_every_file() {
    let world = World::new(Service::Discogs, vec![Ok(reply(401, None))]);
    assert!(matches!(world.ask(1).await, Err(Later::Refused { .. })));
    assert!(matches!(world.ask(2).await, Err(Later::Silent { after, .. }) if after.as_secs() > 800));
    assert_eq!(world.sent_ms().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn answers_without_sense_are_not_kept() {
    let body = |body: &[u8]| Ok(Reply { body: body.to_vec(), ..reply(200, None) });
    let many = format!("[{}0]", "0,".repeat(limits::CATALOG_ANSWER_VALUES + 1));
    let replies =
        vec![body(b"{\"half"), body(b"\xff\xfe"), body(many.as_bytes()), Err(SendError::TooLong(9)), body(b"7")];
    let world = World::new(Service::MusicBrainz, replies);
    for _ in 0..4 {
        assert!(matches!(world.ask(1).await, Err(Later::Wrong { .. })));
        assert!(world.memory.0.lock().unwrap().is_empty());
    }
    assert_eq!(world.ask(1).await, Ok(Some(7)));
    // What was kept and has been spoilt is asked for again.
    for kept in world.memory.0.lock().unwrap().values_mut() {
        kept.body = Some(vec![0xff; 4]);
    }
    world.script.replies.lock().unwrap().push_back(body(b"8"));
    assert_eq!(world.ask(1).await, Ok(Some(8)));
}

#[tokio::test(start_paused = true)]
async fn merged_ids_are_followed_so_far_and_at_the_beat() {
    let on = |path: Option<&str>| Ok(Reply { location: path.map(str::to_owned), ..reply(301, None) });
    let world = World::new(Service::MusicBrainz, vec![on(Some("/recording/b")), Ok(reply(200, None)), on(None)]);
    assert_eq!(world.ask(1).await, Ok(Some(7)));
    let sent = world.sent_ms();
    assert!(sent.len() == 2 && sent[1] - sent[0] >= 1_050, "{sent:?}");
    assert!(matches!(world.ask(2).await, Err(Later::Wrong { .. })), "to another host");
    let circle = (0..9).map(|_| on(Some("/recording/c")));
    world.script.replies.lock().unwrap().extend(circle);
    assert!(matches!(world.ask(3).await, Err(Later::Wrong { .. })));
    assert_eq!(world.sent_ms().len(), 3 + 1 + limits::CATALOG_HOPS);
}

#[test]
fn acoustid_says_whose_fault_it_is() {
    let told =
        |code: i64| acoustid_error(format!(r#"{{"status":"error","error":{{"code":{code}}}}}"#).as_bytes(), None);
    assert!(matches!(told(3), Attempt::Answered(None)));
    assert!(matches!(told(4), Attempt::Refused(_)));
    assert!(matches!(told(14), Attempt::Busy(_, None)));
    assert!(matches!(told(99), Attempt::Wrong(_)));
    assert!(matches!(acoustid_error(b"<html>", None), Attempt::Wrong(_)));
}

#[test]
fn packed_answers_unpack_within_bounds() {
    let kept = |body: Option<Vec<u8>>| KeptAnswer { fetched_at: UnixMs(0), expires_at: UnixMs(0), body };
    let body = Body(b"{\"a\": 1}".repeat(100));
    assert_eq!(unpack(&kept(Some(pack(&body)))).unwrap().unwrap().0, body.0);
    assert!(unpack(&kept(None)).unwrap().is_none());
    let bomb = pack(&Body(vec![b' '; limits::CATALOG_ANSWER_LEN + 1]));
    assert!(bomb.len() < 20_000 && unpack(&kept(Some(bomb))).is_none());
}
