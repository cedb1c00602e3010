//! The task of one service: takes questions in order, looks at what is kept, sends at the service's pace.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Cache, Clock, Counters, Later, SendError, Transport, parse};
use crate::engine::catalog::acoustid;
use crate::engine::catalog::pace::{Ending, Pace, Pacer, retry_after};
use crate::engine::catalog::request::{Request, life};
use crate::engine::catalog::values_exceed;
use crate::model::catalog::{KeptAnswer, Service};
use crate::model::limits;

/// A body, inflated, not yet read.
#[derive(Debug)]
pub(super) struct Body(pub(super) Vec<u8>);

/// Takes the outcome: a body that cannot be read is given back as what is wrong with it.
type Deliver = Box<dyn FnMut(Result<Option<&Body>, Later>) -> Result<(), String> + Send>;

/// A question, its type hidden.
pub(super) struct Question {
    request: Request,
    deliver: Deliver,
}

impl Question {
    pub(super) fn new<W, T, R>(request: Request, read: R, reply: oneshot::Sender<Result<Option<T>, Later>>) -> Self
    where
        W: DeserializeOwned + 'static,
        T: Send + 'static,
        R: Fn(W) -> Result<T, String> + Send + 'static,
    {
        let mut reply = Some(reply);
        let deliver = move |outcome: Result<Option<&Body>, Later>| {
            let outcome = match outcome {
                Ok(Some(body)) => Ok(Some(parse(body, &read)?)),
                Ok(None) => Ok(None),
                Err(later) => Err(later),
            };
            if let Some(reply) = reply.take() {
                // Who asked may have gone; the answer is kept all the same.
                drop(reply.send(outcome));
            }
            Ok(())
        };
        Self { request, deliver: Box::new(deliver) }
    }
}

/// How one attempt ended.
enum Attempt {
    /// The body, or that there is no such thing.
    Answered(Option<Body>),
    /// Try again after a silence, now or later.
    Busy(String, Option<Duration>),
    /// No use in trying.
    Refused(String),
    /// An answer that makes no sense.
    Wrong(String),
}

pub(super) struct Worker<T> {
    pub(super) service: Service,
    pub(super) transport: Option<T>,
    pub(super) closed: Option<Later>,
    pub(super) pace: Pace,
    pub(super) patience: Duration,
    pub(super) clock: Clock,
    pub(super) cache: Arc<dyn Cache>,
    pub(super) counters: Arc<Counters>,
}

impl<T: Transport> Worker<T> {
    /// Until `cancel`, or until nobody can ask any more.
    pub(super) async fn run(self, mut asked: mpsc::Receiver<Question>, cancel: CancellationToken) {
        let mut pacer = Pacer::new(self.pace);
        let mut complaint = String::new();
        loop {
            let question = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                question = asked.recv() => question,
            };
            let Some(question) = question else { return };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = self.answer(question, &mut pacer, &mut complaint) => {}
            }
        }
    }

    async fn answer(&self, mut question: Question, pacer: &mut Pacer, complaint: &mut String) {
        let name = question.request.name();
        let kept = self.cache.get(&name).and_then(|kept| Some((unpack(&kept)?, kept)));
        let now = (self.clock)();
        if let Some((body, kept)) = &kept
            && now.wall < kept.expires_at
            && (question.deliver)(Ok(body.as_ref())).is_ok()
        {
            Counters::one_more(&self.counters.cached);
            return;
        }
        let later = match self.fetch(&mut question, &name, pacer, complaint).await {
            Ok(()) => return,
            Err(later) => later,
        };
        // Better an old answer than none.
        if let Some((body, _)) = &kept
            && (question.deliver)(Ok(body.as_ref())).is_ok()
        {
            Counters::one_more(&self.counters.cached);
            return;
        }
        Counters::one_more(&self.counters.failed);
        // A reason is always taken: nothing has to be read.
        let _ = (question.deliver)(Err(later));
    }

    /// Asks until there is an answer, and keeps it.
    async fn fetch(
        &self,
        question: &mut Question,
        name: &str,
        pacer: &mut Pacer,
        complaint: &mut String,
    ) -> Result<(), Later> {
        if let Some(closed) = &self.closed {
            return Err(closed.clone());
        }
        let Some(transport) = &self.transport else { return Err(Later::Ending) };
        let service = self.service;
        let mut patience = Some(self.patience);
        loop {
            let now = (self.clock)();
            let wait = pacer.wait(now);
            if pacer.is_silent(now) {
                match patience.take() {
                    Some(patience) if wait <= patience => {}
                    _ => return Err(Later::Silent { service, after: wait, reason: complaint.clone() }),
                }
            }
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            match self.attempt(transport, &question.request, pacer).await {
                Attempt::Answered(body) => {
                    let now = (self.clock)();
                    pacer.on_ended(Ending::Answered, now);
                    if let Err(reason) = (question.deliver)(Ok(body.as_ref())) {
                        return Err(Later::Wrong { service, reason });
                    }
                    let expires_at = now.wall.plus(life(is_something(service, body.as_ref())));
                    let body = body.map(|body| pack(&body));
                    let answer = KeptAnswer { fetched_at: now.wall, expires_at, body };
                    self.cache.put(name.to_owned(), answer).await;
                    return Ok(());
                }
                Attempt::Busy(reason, asked) => {
                    Counters::one_more(&self.counters.backoffs);
                    let now = (self.clock)();
                    pacer.on_ended(Ending::Busy(asked), now);
                    tracing::debug!(%service, reason, silent_s = pacer.wait(now).as_secs(), "left alone for a while");
                    *complaint = reason;
                }
                Attempt::Refused(reason) => {
                    pacer.on_ended(Ending::Refused, (self.clock)());
                    tracing::warn!(%service, reason, "refuses");
                    complaint.clone_from(&reason);
                    return Err(Later::Refused { service, reason });
                }
                Attempt::Wrong(reason) => {
                    // It answered, so it is not to be left alone; but what it says is of no use.
                    pacer.on_ended(Ending::Answered, (self.clock)());
                    return Err(Later::Wrong { service, reason });
                }
            }
        }
    }

    /// One request, with the hops of merged ids.
    async fn attempt(&self, transport: &T, request: &Request, pacer: &mut Pacer) -> Attempt {
        let mut request = request.clone();
        for _ in 0..=limits::CATALOG_HOPS {
            let wait = pacer.wait((self.clock)());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            pacer.on_sent((self.clock)());
            Counters::one_more(&self.counters.requests);
            let reply = match transport.send(&request).await {
                Ok(reply) => reply,
                Err(SendError::Unreachable(reason)) => return Attempt::Busy(reason, None),
                Err(error @ SendError::TooLong(_)) => return Attempt::Wrong(error.to_string()),
            };
            if let Some(remaining) = reply.remaining {
                pacer.on_remaining(remaining, (self.clock)());
            }
            let asked = reply.retry_after.as_deref().and_then(retry_after);
            return match reply.status {
                200 if values_exceed(&reply.body, limits::CATALOG_ANSWER_VALUES) => {
                    Attempt::Wrong(format!("it has more than {} values", limits::CATALOG_ANSWER_VALUES))
                }
                200 => Attempt::Answered(Some(Body(reply.body))),
                404 | 410 => Attempt::Answered(None),
                301 | 302 | 307 | 308 if request.form.is_empty() => match reply.location {
                    Some(path) => {
                        request.path = path;
                        continue;
                    }
                    None => Attempt::Wrong("it sends us to another place".to_owned()),
                },
                400 if self.service == Service::AcoustId => acoustid_error(&reply.body, asked),
                401 | 403 => Attempt::Refused(format!("status {}", reply.status)),
                status @ (408 | 425 | 429 | 500..=599) => Attempt::Busy(format!("status {status}"), asked),
                status => Attempt::Wrong(format!("status {status}")),
            };
        }
        Attempt::Wrong(format!("it sends us on more than {} times", limits::CATALOG_HOPS))
    }
}

/// AcoustID tells with 400 whether the question, the key or the moment is wrong.
fn acoustid_error(body: &[u8], asked: Option<Duration>) -> Attempt {
    #[derive(Deserialize)]
    struct Told {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        code: i64,
    }
    match serde_json::from_slice::<Told>(body).map(|told| told.error.code) {
        Ok(acoustid::INVALID_FINGERPRINT | acoustid::INVALID_DURATION) => Attempt::Answered(None),
        Ok(acoustid::INVALID_KEY | acoustid::NOT_ALLOWED) => Attempt::Refused("the key is not accepted".to_owned()),
        Ok(code @ (acoustid::INTERNAL_ERROR | acoustid::UNAVAILABLE | acoustid::TOO_MANY)) => {
            Attempt::Busy(format!("error {code}"), asked)
        }
        Ok(code) => Attempt::Wrong(format!("error {code}")),
        Err(_) => Attempt::Wrong("status 400".to_owned()),
    }
}

/// Whether the answer names something: a lookup without results is asked again sooner.
fn is_something(service: Service, body: Option<&Body>) -> bool {
    #[derive(Deserialize)]
    struct Results {
        results: Vec<serde::de::IgnoredAny>,
    }
    match (service, body) {
        (_, None) => false,
        (Service::AcoustId, Some(body)) => {
            serde_json::from_slice::<Results>(&body.0).is_ok_and(|found| !found.results.is_empty())
        }
        (Service::MusicBrainz | Service::Discogs, Some(_)) => true,
    }
}

/// Deflated, to be kept.
fn pack(body: &Body) -> Vec<u8> {
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::default());
    // Writing into memory does not fail; if it did, the answer would be unreadable and asked for again.
    let _ = packed.write_all(&body.0);
    packed.finish().unwrap_or_default()
}

/// A kept answer as it came; `None` when it cannot be read.
#[expect(clippy::option_option, reason = "unreadable, none there, there")]
fn unpack(kept: &KeptAnswer) -> Option<Option<Body>> {
    let Some(packed) = &kept.body else { return Some(None) };
    let mut body = Vec::new();
    let most = limits::CATALOG_ANSWER_LEN as u64;
    DeflateDecoder::new(packed.as_slice()).take(most.saturating_add(1)).read_to_end(&mut body).ok()?;
    let fits = body.len() as u64 <= most && !values_exceed(&body, limits::CATALOG_ANSWER_VALUES);
    fits.then_some(Some(Body(body)))
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
