//! The daemon's side: so many workers at most, each busy with one file, ended and replaced when it misbehaves.

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot};

use super::trust;
use super::wire::{Answer, Order, Outcome, Wanted, frame};
use crate::model::limits;
use crate::model::spectrogram::Spectrogram;

/// The hidden subcommand that makes this program a worker.
pub const WORKER_COMMAND: &str = "worker";
/// Longest extension that is passed on, bytes; no format of ours has a longer one.
const EXTENSION_LEN: usize = 16;
/// Of an answer that does not fit what was asked.
const NONSENSE: &str = "the worker's answer made no sense";
/// Requests the keeper holds; each worker has at most two under way.
const KEEPER_MAILBOX: usize = 64;

/// How long workers rest: after each step so many thousandths of the time it took. Clones share it, and a change reaches
/// the files in work within a second.
#[derive(Clone, Debug, Default)]
pub struct Tempo(Arc<AtomicU32>);

impl Tempo {
    /// 0 is no rest, 1,000 as much as work, 100,000 nearly a standstill.
    pub fn set_rest_permille(&self, permille: u32) {
        self.0.store(permille, Ordering::Relaxed);
    }

    /// What was set last.
    pub fn rest_permille(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why there is no pool.
#[derive(Debug, Error)]
pub enum PoolError {
    /// The thread that starts and ends workers.
    #[error("cannot start the keeper of the workers: {0}")]
    Keeper(io::Error),
}

/// Measures files in worker processes. Dropping it ends them.
#[derive(Debug)]
pub struct Pool {
    permits: Semaphore,
    /// Workers that wait for a file; short, synchronous access only.
    idle: Mutex<Vec<Worker>>,
    keeper: SyncSender<Request>,
}

impl Pool {
    /// At most `workers` (at least one) at once, each running `exe worker`. They start when they are needed.
    ///
    /// # Errors
    /// The thread that looks after them cannot be started.
    pub fn new(exe: PathBuf, workers: usize) -> Result<Self, PoolError> {
        let (keeper, requests) = sync_channel(KEEPER_MAILBOX);
        // A worker dies with the thread that started it (PR_SET_PDEATHSIG), so that thread is one that stays.
        std::thread::Builder::new()
            .name("probe-keeper".to_owned())
            .spawn(move || keep(&exe, &requests))
            .map_err(PoolError::Keeper)?;
        Ok(Self { permits: Semaphore::new(workers.max(1)), idle: Mutex::default(), keeper })
    }

    /// Measures one open regular file from its first byte to its last. `name_hint` is a file name or extension. Waits for
    /// a free worker; may be dropped at any time, which ends the worker it had.
    pub async fn measure(&self, file: File, name_hint: &str, tempo: &Tempo) -> Outcome {
        match self.work(&file, name_hint, Wanted::Measurements, tempo).await {
            Answer::Outcome(outcome) => outcome,
            _ => gave_up(NONSENSE),
        }
    }

    /// Decodes one open regular file and says what it is and whether it is whole: fingerprint, loudness and spectrum stay
    /// empty. Otherwise as [`Pool::measure`], and much quicker.
    pub async fn sound(&self, file: File, name_hint: &str, tempo: &Tempo) -> Outcome {
        match self.work(&file, name_hint, Wanted::Sound, tempo).await {
            Answer::Outcome(outcome) => outcome,
            _ => gave_up(NONSENSE),
        }
    }

    /// Draws the spectrogram of one open regular file; otherwise as [`Pool::measure`].
    ///
    /// # Errors
    /// Why there is none: an outcome that is not `Measured`.
    pub async fn spectrogram(&self, file: File, name_hint: &str) -> Result<Box<Spectrogram>, Outcome> {
        match self.work(&file, name_hint, Wanted::Spectrogram, &Tempo::default()).await {
            Answer::Spectrogram(drawn) => Ok(drawn),
            Answer::Outcome(outcome) if !matches!(outcome, Outcome::Measured(_)) => Err(outcome),
            _ => Err(gave_up(NONSENSE)),
        }
    }

    async fn work(&self, file: &File, name_hint: &str, wanted: Wanted, tempo: &Tempo) -> Answer {
        let not_tried = |reason: String| Answer::Outcome(Outcome::NotTried { reason });
        let Ok(_permit) = self.permits.acquire().await else { return not_tried("the workers are gone".to_owned()) };
        let extension = name_hint.rsplit_once('.').map_or(name_hint, |(_, extension)| extension);
        let extension = Some(extension).filter(|text| text.len() <= EXTENSION_LEN).unwrap_or_default();
        let mut waiting = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut is_second = false;
        loop {
            let mut worker = match waiting.take() {
                Some(worker) => worker,
                None => match self.start().await {
                    Ok(worker) => worker,
                    Err(error) => return not_tried(format!("no worker could be started: {error}")),
                },
            };
            match worker.work(file, extension, wanted, tempo).await {
                // One that gave a file up may be broken in itself.
                Ok(answer) if !matches!(answer, Answer::Outcome(Outcome::GaveUp { .. })) => {
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
                    return answer;
                }
                Ok(answer) => return answer,
                Err(fate) => match worker.end(fate).await {
                    // Ended from outside, in this file or while it waited: once more with a new one. When that is ended
                    // as well, the file may be what the system has no memory for.
                    End { is_from_outside: true, .. } if !is_second => is_second = true,
                    End { reason, .. } => return Answer::Outcome(gave_up(&reason)),
                },
            }
        }
    }

    /// Process ids of the workers that wait for a file.
    pub fn idle_workers(&self) -> Vec<u32> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.iter().filter_map(|worker| worker.child.as_ref().map(Child::id)).collect()
    }

    async fn start(&self) -> io::Result<Worker> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (reply, started) = oneshot::channel();
        let request = Request::Start { socket: OwnedFd::from(theirs), reply };
        self.keeper.try_send(request).map_err(|_| io::ErrorKind::ResourceBusy)?;
        let child = started.await.map_err(|_| io::ErrorKind::BrokenPipe)??;
        let socket = UnixStream::from_std(ours)?;
        let mut worker = Worker { socket, child: Some(child), keeper: self.keeper.clone() };
        let fate = match tokio::time::timeout_at(stall(), worker.receive(limits::WORKER_MEASURED_LEN)).await {
            Ok(Ok(Answer::Ready)) => return Ok(worker),
            Ok(Ok(Answer::Unfit(reason))) => return Err(io::Error::other(reason)),
            Ok(Ok(_)) => Fate::Nonsense,
            Ok(Err(fate)) => fate,
            Err(_) => Fate::Stalled,
        };
        Err(io::Error::other(worker.end(fate).await.reason))
    }
}

/// Why a worker has no answer.
enum Fate {
    /// Its end of the socket closed: it died.
    Died,
    /// It said nothing new for too long.
    Stalled,
    /// It sent something that is no answer.
    Nonsense,
}

/// How a worker ended.
struct End {
    reason: String,
    /// By a signal that nothing in a worker raises, or nobody knows: its file need not be the cause.
    is_from_outside: bool,
}

/// One worker process.
#[derive(Debug)]
struct Worker {
    socket: UnixStream,
    /// `None` once it was handed to the keeper.
    child: Option<Child>,
    keeper: SyncSender<Request>,
}

impl Worker {
    /// One file, to the answer that is none of the signs of life.
    async fn work(&mut self, file: &File, extension: &str, wanted: Wanted, tempo: &Tempo) -> Result<Answer, Fate> {
        let mut rest_permille = tempo.rest_permille();
        let order = Order::Measure { wanted, extension: extension.to_owned(), rest_permille };
        self.send(&order, Some(file)).await.map_err(|_| Fate::Died)?;
        let most = match wanted {
            Wanted::Measurements | Wanted::Sound => limits::WORKER_MEASURED_LEN,
            Wanted::Spectrogram => limits::WORKER_ANSWER_LEN,
        };
        let mut done = 0;
        let mut deadline = stall();
        let mut is_judging = false;
        loop {
            let answer = match tokio::time::timeout_at(deadline, self.receive(most)).await {
                Err(_) => return Err(Fate::Stalled),
                Ok(answer) => answer?,
            };
            match answer {
                Answer::Progress(now) if now > done && !is_judging => (done, deadline) = (now, stall()),
                Answer::Progress(_) => {}
                Answer::Judging if !is_judging => (is_judging, deadline) = (true, judging()),
                answer => return trust::believed(answer, wanted).ok_or(Fate::Nonsense),
            }
            if rest_permille != tempo.rest_permille() {
                rest_permille = tempo.rest_permille();
                self.send(&Order::Tempo(rest_permille), None).await.map_err(|_| Fate::Died)?;
            }
        }
    }

    async fn send(&self, order: &Order, file: Option<&File>) -> io::Result<()> {
        let frame = frame(order).ok_or(io::ErrorKind::InvalidData)?;
        let mut sent = 0;
        while let Some(rest) = frame.get(sent..).filter(|rest| !rest.is_empty()) {
            sent += self
                .socket
                .async_io(Interest::WRITABLE, || {
                    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                    let mut control = SendAncillaryBuffer::new(&mut space);
                    let descriptors: Vec<_> = file.iter().filter(|_| sent == 0).map(|file| file.as_fd()).collect();
                    if !descriptors.is_empty() {
                        control.push(SendAncillaryMessage::ScmRights(&descriptors));
                    }
                    Ok(rustix::net::sendmsg(&self.socket, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL)?)
                })
                .await?;
        }
        Ok(())
    }

    async fn receive(&mut self, most: usize) -> Result<Answer, Fate> {
        let len = self.socket.read_u32_le().await.map_err(|_| Fate::Died)? as usize;
        if len > most {
            return Err(Fate::Nonsense);
        }
        let mut body = vec![0; len];
        self.socket.read_exact(&mut body).await.map_err(|_| Fate::Died)?;
        postcard::from_bytes(&body).map_err(|_| Fate::Nonsense)
    }

    /// Ends the worker and says how that came.
    async fn end(mut self, fate: Fate) -> End {
        let (reply, ended) = oneshot::channel();
        if let Some(child) = self.child.take() {
            let kill = !matches!(fate, Fate::Died);
            // When the mailbox is full the closed socket ends the worker, and nobody knows how.
            let _ = self.keeper.try_send(Request::End { child, reply: Some(reply), kill });
        }
        let status = ended.await.ok();
        let of_itself = |reason: String| End { reason, is_from_outside: false };
        match (fate, status) {
            (Fate::Stalled, _) => of_itself(format!("no progress for {} s", limits::WORKER_STALL_S)),
            (Fate::Nonsense, _) => of_itself(NONSENSE.to_owned()),
            (Fate::Died, Some(status)) => how_it_died(status),
            (Fate::Died, None) => End { reason: "the worker ended".to_owned(), is_from_outside: true },
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            // When the mailbox is full the closed socket ends the worker all the same.
            let _ = self.keeper.try_send(Request::End { child, reply: None, kill: true });
        }
    }
}

/// What the keeper is asked for.
#[derive(Debug)]
enum Request {
    Start { socket: OwnedFd, reply: oneshot::Sender<io::Result<Child>> },
    End { child: Child, reply: Option<oneshot::Sender<ExitStatus>>, kill: bool },
}

/// Starts and ends workers until the pool and its last worker are gone.
fn keep(exe: &Path, requests: &Receiver<Request>) {
    for request in requests {
        match request {
            Request::Start { socket, reply } => {
                let started = Command::new(exe)
                    .arg(WORKER_COMMAND)
                    .env_clear()
                    .current_dir("/")
                    .stdin(Stdio::from(socket))
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn();
                // Nobody waits any more: the socket is closed, and the worker ends by itself.
                let _ = reply.send(started);
            }
            Request::End { mut child, reply, kill } => {
                if kill {
                    // Fails only when it has ended already.
                    let _ = child.kill();
                }
                if let (Ok(status), Some(reply)) = (child.wait(), reply) {
                    let _ = reply.send(status);
                }
            }
        }
    }
}

fn how_it_died(status: ExitStatus) -> End {
    let reason = match status.signal() {
        Some(libc::SIGXCPU) => "it took more processor time than a file of its size may".to_owned(),
        // Rust ends so when it is refused memory; a panic is caught and told.
        Some(libc::SIGABRT) => "it took more memory than a worker may have".to_owned(),
        Some(signal @ (libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP | libc::SIGSYS)) => {
            format!("the decoder crashed with signal {signal}")
        }
        Some(signal) => {
            let reason = format!("the worker was ended by signal {signal}, twice");
            return End { reason, is_from_outside: true };
        }
        None => format!("the worker ended with {status}"),
    };
    End { reason, is_from_outside: false }
}

fn gave_up(reason: &str) -> Outcome {
    Outcome::GaveUp { reason: reason.to_owned() }
}

/// The processor time that a worker is granted bounds this; on a busy machine it takes longer by the clock.
fn judging() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(4 * limits::WORKER_CPU_S)
}

fn stall() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(limits::WORKER_STALL_S)
}
