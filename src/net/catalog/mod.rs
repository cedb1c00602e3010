//! Asks the catalogs: one task for each service, at the service's pace, with what was asked before at hand.
//!
//! What is asked and how fast is decided in `engine::catalog`; where answers are kept is decided by whoever gives the
//! [`Cache`]. This room sends, reads at most `limits::CATALOG_ANSWER_LEN` bytes, follows merged ids to the same host
//! and keeps what it got. While a service is silent after a complaint, questions to it end at once with [`Later`]: a
//! scan goes on and asks again another time.

mod http;
mod worker;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use self::http::Http;
use self::worker::{Body, Question, Worker};
use crate::engine::catalog::pace::Pace;
use crate::engine::catalog::request::{Request, Wanted};
use crate::engine::catalog::{acoustid, discogs, musicbrainz};
use crate::model::catalog::{AcoustIdResult, DiscogsRelease, KeptAnswer, Recording, Release, Service};
use crate::model::id::{RecordingId, ReleaseId};
use crate::model::limits;
use crate::model::time::Now;

/// Where answers are kept between runs.
pub trait Cache: Send + Sync + 'static {
    /// The kept answer, expired or not. Quick: it is called on a thread of the runtime.
    fn get(&self, name: &str) -> Option<KeptAnswer>;
    /// Keeps it, as far as that is possible.
    fn put(&self, name: String, answer: KeptAnswer) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Reads both clocks.
pub type Clock = Arc<dyn Fn() -> Now + Send + Sync>;

/// How one service is reached.
#[derive(Clone)]
pub struct ServiceSettings {
    /// `http://` or `https://`, without a slash at the end.
    pub base_url: String,
    /// Empty: none.
    pub key: String,
    /// How fast.
    pub pace: Pace,
}

impl fmt::Debug for ServiceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { base_url, pace, .. } = self;
        f.debug_struct("ServiceSettings").field("base_url", base_url).field("pace", pace).finish_non_exhaustive()
    }
}

/// How the catalogs are asked.
#[derive(Clone, Debug)]
pub struct CatalogSettings {
    /// MusicBrainz.
    pub musicbrainz: ServiceSettings,
    /// AcoustID; without a key it is not asked.
    pub acoustid: ServiceSettings,
    /// Discogs.
    pub discogs: ServiceSettings,
    /// Nothing is asked; what is kept is told, however old.
    pub offline: bool,
    /// Told to each service; may be empty. Printable ASCII.
    pub contact: String,
    /// A complaint that ends within this is waited for, once for each question; else the question ends with [`Later`].
    pub patience: Duration,
}

/// The patience of a running program. Chosen: a short complaint costs less than asking the same again.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// Why there is no answer now.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Later {
    /// `catalog.offline` is set.
    #[error("offline: {0} is not asked")]
    Offline(Service),
    /// There is no key.
    #[error("{0} is not asked without a key: set catalog.{name}.key", name = .0.name())]
    NoKey(Service),
    /// It complained, or could not be reached.
    #[error("{service} is left alone for {} s: {reason}", .after.as_secs())]
    Silent {
        /// Which.
        service: Service,
        /// Until it may be asked again.
        after: Duration,
        /// What it said, or what failed.
        reason: String,
    },
    /// It does not want us.
    #[error("{service} refuses: {reason}")]
    Refused {
        /// Which.
        service: Service,
        /// What it said.
        reason: String,
    },
    /// What it said makes no sense.
    #[error("the answer of {service} cannot be used: {reason}")]
    Wrong {
        /// Which.
        service: Service,
        /// What was wrong with it.
        reason: String,
    },
    /// The program ends.
    #[error("the program ends")]
    Ending,
}

impl Later {
    /// Whether another try can help without anybody changing the settings.
    pub fn is_a_matter_of_time(&self) -> bool {
        matches!(self, Self::Silent { .. } | Self::Wrong { .. } | Self::Ending)
    }
}

/// The catalogs cannot be asked at all.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// No client for a service.
    #[error("{service} cannot be asked: {reason}")]
    Client {
        /// Which.
        service: Service,
        /// What failed.
        reason: String,
    },
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    cached: AtomicU64,
    backoffs: AtomicU64,
    failed: AtomicU64,
}

impl Counters {
    fn one_more(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a service has cost so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Which.
    pub service: Service,
    /// Requests sent.
    pub requests: u64,
    /// Questions answered from what was kept.
    pub cached: u64,
    /// Times it complained or could not be reached.
    pub backoffs: u64,
    /// Questions that ended without an answer.
    pub failed: u64,
}

#[derive(Debug)]
struct Door {
    service: Service,
    questions: mpsc::Sender<Question>,
    counters: Arc<Counters>,
    /// A reason why nothing is asked at all; kept answers are told all the same.
    closed: Option<Later>,
}

/// The handle. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Catalog {
    doors: Arc<[Door; 3]>,
}

impl Catalog {
    /// Starts the tasks; they end with `cancel`.
    ///
    /// # Errors
    /// When a client cannot be made: no certificates of authorities on this machine, or an address that is none.
    pub fn start(
        settings: &CatalogSettings,
        clock: &Clock,
        cache: &Arc<dyn Cache>,
        cancel: &CancellationToken,
    ) -> Result<Self, CatalogError> {
        let door = |service: Service| {
            let own = match service {
                Service::MusicBrainz => &settings.musicbrainz,
                Service::AcoustId => &settings.acoustid,
                Service::Discogs => &settings.discogs,
            };
            let closed = if settings.offline {
                Some(Later::Offline(service))
            } else if service == Service::AcoustId && own.key.is_empty() {
                tracing::info!("without catalog.acoustid.key sounds are not looked up; everything else works");
                Some(Later::NoKey(service))
            } else {
                None
            };
            // Nothing is sent through a closed door, so nothing is needed to send it with.
            let http = match closed {
                Some(_) => None,
                None => Some(Http::new(service, own, &settings.contact)?),
            };
            let (questions, asked) = mpsc::channel(limits::CATALOG_WAITING);
            let counters = Arc::new(Counters::default());
            let worker = Worker {
                service,
                transport: http,
                closed: closed.clone(),
                pace: own.pace,
                patience: settings.patience,
                clock: clock.clone(),
                cache: cache.clone(),
                counters: counters.clone(),
            };
            tokio::spawn(worker.run(asked, cancel.clone()));
            Ok(Door { service, questions, counters, closed })
        };
        let [musicbrainz, acoustid, discogs] = Service::ALL;
        Ok(Self { doors: Arc::new([door(musicbrainz)?, door(acoustid)?, door(discogs)?]) })
    }

    fn door(&self, service: Service) -> &Door {
        let [musicbrainz, acoustid, discogs] = &*self.doors;
        match service {
            Service::MusicBrainz => musicbrainz,
            Service::AcoustId => acoustid,
            Service::Discogs => discogs,
        }
    }

    /// A release with its media and tracks; `None`: there is no such one. After a merge it bears another id.
    pub async fn release(&self, id: ReleaseId) -> Result<Option<Release>, Later> {
        let read = |wire: musicbrainz::WireRelease| Release::try_from(wire).map_err(|error| error.to_string());
        self.ask(&Wanted::Release(id), read).await
    }

    /// A recording; `None`: there is no such one. After a merge it bears another id.
    pub async fn recording(&self, id: RecordingId) -> Result<Option<Recording>, Later> {
        let read = |wire: musicbrainz::WireRecording| Recording::try_from(wire).map_err(|error| error.to_string());
        self.ask(&Wanted::Recording(id), read).await
    }

    /// The releases that have a recording, the one to ask for first; at most 100, and none where there are none.
    pub async fn releases_of(&self, id: RecordingId) -> Result<Vec<ReleaseId>, Later> {
        let read = |wire: musicbrainz::WireReleasesOf| Ok(wire.releases());
        Ok(self.ask(&Wanted::ReleasesOf(id), read).await?.unwrap_or_default())
    }

    /// What sounds like this, best first; empty when nothing is known. The fingerprint in AcoustID's text form, the
    /// length of the whole file in seconds.
    pub async fn lookup(&self, fingerprint: &str, duration_s: u32) -> Result<Vec<AcoustIdResult>, Later> {
        let wanted = Wanted::Sound { fingerprint: fingerprint.to_owned(), duration_s };
        let read = |wire| acoustid::results(wire).map_err(|error| error.to_string());
        Ok(self.ask(&wanted, read).await?.unwrap_or_default())
    }

    /// A release by its number in Discogs; `None`: there is no such one.
    pub async fn discogs_release(&self, number: u64) -> Result<Option<DiscogsRelease>, Later> {
        self.ask(&Wanted::DiscogsRelease(number), |wire: discogs::WireRelease| Ok(wire.into())).await
    }

    /// The release of MusicBrainz that links to a number in Discogs; `None`: none does.
    pub async fn linked_to_discogs(&self, number: u64) -> Result<Option<ReleaseId>, Later> {
        let read = |wire: musicbrainz::WireLinked| Ok(wire.release());
        Ok(self.ask(&Wanted::LinkedToDiscogs(number), read).await?.flatten())
    }

    /// Why a service is not asked at all, if so; worth one line in a report.
    pub fn closed(&self, service: Service) -> Option<Later> {
        self.door(service).closed.clone()
    }

    /// What it has cost so far.
    pub fn figures(&self) -> [Figures; 3] {
        let of = |door: &Door| {
            let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let Counters { requests, cached, backoffs, failed } = &*door.counters;
            Figures {
                service: door.service,
                requests: now(requests),
                cached: now(cached),
                backoffs: now(backoffs),
                failed: now(failed),
            }
        };
        Service::ALL.map(|service| of(self.door(service)))
    }

    async fn ask<W, T, R>(&self, wanted: &Wanted, read: R) -> Result<Option<T>, Later>
    where
        W: DeserializeOwned + 'static,
        T: Send + 'static,
        R: Fn(W) -> Result<T, String> + Send + 'static,
    {
        let door = self.door(wanted.service());
        let (reply, answer) = oneshot::channel();
        let question = Question::new(wanted.request(), read, reply);
        if door.questions.send(question).await.is_err() {
            return Err(Later::Ending);
        }
        answer.await.unwrap_or(Err(Later::Ending))
    }
}

/// What came back over the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Header `Retry-After`.
    pub retry_after: Option<String>,
    /// Header `X-Discogs-Ratelimit-Remaining`.
    pub remaining: Option<u32>,
    /// Header `Location`, if it leads to the same host: path and query below the service's address.
    pub location: Option<String>,
    /// The body, inflated.
    pub body: Vec<u8>,
}

/// Why nothing useful came back.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// No connection, or it broke, or it took too long.
    #[error("{0}")]
    Unreachable(String),
    /// More bytes than an answer may have.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
}

/// Sends one request; a real client, or a script in a test.
pub trait Transport: Send + Sync + 'static {
    /// Sends it and reads the whole answer.
    fn send(&self, request: &Request) -> impl Future<Output = Result<Reply, SendError>> + Send;
}

/// Reads a body into what was asked for.
fn parse<W: DeserializeOwned, T>(body: &Body, read: &dyn Fn(W) -> Result<T, String>) -> Result<T, String> {
    let wire = serde_json::from_slice(&body.0).map_err(|error| error.to_string())?;
    read(wire)
}
