//! All sources of one file at work.
//!
//! Who may have the file is asked; each peer that has it is a transfer of `engine::mesh::downloader` and a source of
//! `engine::swarm::scheduler`, whose assignments become [`Run`]s. What is measured of sources is kept in the store every
//! few seconds and at the end.

mod tally;
mod wait;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::wait::{Wait, user_wanted};
use super::feed::Feed;
use super::land::Landing;
use super::run::{Run, Told};
use super::soulseek::{Called, Caller, Stream, Wish, call_off};
use super::{ASK_AGAIN, Stop, Work};
use crate::disk::File;
use crate::engine::mesh::downloader::{Action, Downloader, Event, State};
use crate::engine::swarm::list::PieceList;
use crate::engine::swarm::scheduler::{Assignment, Ended, RunId, Scheduler};
use crate::model::id::PeerId;
use crate::model::limits;
use crate::model::swarm::{CancelReason, Source};
use crate::model::trace::TraceKind;
use crate::net::mesh::{Link, StopCode};

/// A fetch without a source gives its turn to others after that.
const ALONE: Duration = Duration::from_secs(60);
/// Events of runs waiting to be counted; the runs wait.
const EVENTS: usize = 64;
/// The longest until a peer is asked again that had the file no more when it was asked for pieces; it doubles with each
/// time, from [`ASK_AGAIN`] on.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(600);
/// What is measured is kept so often: a kill costs that much of it.
const KEEP: Duration = Duration::from_secs(15);

/// How to take a run back.
struct Handle {
    /// None for a Soulseek user.
    peer: Option<PeerId>,
    cancel: CancellationToken,
    stop: StopCode,
}

pub(super) struct Swarm<'a> {
    work: &'a Work,
    list: Arc<PieceList>,
    file: File,
    landing: Landing,
    scheduler: Scheduler,
    began: Instant,
    told: mpsc::Sender<Told>,
    events: mpsc::Receiver<Told>,
    tasks: JoinSet<()>,
    runs: BTreeMap<RunId, Handle>,
    /// For the next one; it was waited for.
    permit: Option<OwnedSemaphorePermit>,
    /// One per peer that was asked; those that are over are kept while their peer is here.
    transfers: BTreeMap<PeerId, Downloader>,
    /// When to ask peers again that had it not.
    again: BTreeMap<PeerId, Instant>,
    /// How often in a row a peer that said it had the file had it not. Of those that are here.
    refusals: BTreeMap<PeerId, u32>,
    bytes: BTreeMap<Source, u64>,
    keep_at: Instant,
    /// What is wanted of Soulseek users.
    wish: watch::Sender<Wish>,
    /// One of them grants a transfer.
    called: Option<Box<Called>>,
    /// The run of one of them met what was there.
    met: bool,
    /// Peers that said already that they have the file.
    holders: BTreeSet<PeerId>,
    /// Times that pieces of a download were taken over.
    taken: u64,
    /// The first ranges that are missing, and when to look again.
    gaps: Vec<(u64, u64)>,
    gaps_at: Instant,
}

impl<'a> Swarm<'a> {
    pub(super) fn new(
        work: &'a Work,
        list: Arc<PieceList>,
        file: File,
        landing: Landing,
        verified: Vec<bool>,
        holders: BTreeSet<PeerId>,
    ) -> Self {
        let (told, events) = mpsc::channel(EVENTS);
        let now = Instant::now();
        Self {
            work,
            scheduler: Scheduler::new(list.size(), verified, work.running.swarm),
            list,
            file,
            landing,
            began: now,
            told,
            events,
            tasks: JoinSet::new(),
            runs: BTreeMap::new(),
            permit: None,
            transfers: BTreeMap::new(),
            again: BTreeMap::new(),
            refusals: BTreeMap::new(),
            bytes: BTreeMap::new(),
            keep_at: now + KEEP,
            wish: watch::Sender::default(),
            called: None,
            met: false,
            holders,
            taken: 0,
            gaps: Vec::new(),
            gaps_at: now,
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// One line of the fetch's story.
    fn trace(&self, kind: TraceKind) {
        tracing::debug!(content = %self.list.content(), ?kind, "fetch");
        self.work.trace.record(kind);
    }

    /// Works until every piece is there.
    pub(super) async fn run(&mut self, feed: Option<Feed>) -> Result<(), Stop> {
        if let Some(feed) = feed {
            self.scheduler.rescue();
            self.given(0, feed.fresh);
            self.tasks.spawn(feed.go(self.told.clone()));
        }
        let result = self.gather().await;
        self.permit = None;
        let reason = match &result {
            Ok(()) => CancelReason::Complete,
            Err(Stop::Cancelled) if !self.work.running.cancel.is_cancelled() => CancelReason::UserCancelled,
            Err(_) => CancelReason::Error,
        };
        for handle in self.runs.values() {
            handle.stop.set(reason);
        }
        if !self.work.users.is_empty() {
            // Before their connections end: the engine would go on with what breaks.
            self.wish.send_replace(Wish::default());
            call_off(&self.work.running.parts, self.list.content(), &self.work.running.cancel).await;
        }
        // Those that are under way are taken back with it.
        self.tasks.shutdown().await;
        if result.is_ok() {
            // The last piece is heard of before its run is: what was not taken back is whole.
            let now = self.now();
            for run in std::mem::take(&mut self.runs).into_keys() {
                self.scheduler.ended(run, Ended::Whole, now);
            }
        }
        let peers: Vec<PeerId> = self.transfers.keys().copied().collect();
        for peer in peers {
            if result.is_ok() {
                self.transfer(peer, Event::Full);
            } else {
                self.transfer(peer, Event::Cancelled);
            }
        }
        self.tell_traces();
        self.show();
        self.keep().await;
        result
    }

    /// The whole was looked at.
    pub(super) fn verified(&mut self, right: bool) {
        let peers: Vec<PeerId> = self.transfers.keys().copied().collect();
        for peer in peers {
            self.transfer(peer, Event::Verified(right));
        }
        self.tell_traces();
        self.show();
    }

    async fn gather(&mut self) -> Result<(), Stop> {
        let mut changes = self.work.running.mesh.changes();
        self.call_users();
        let mut served = Instant::now();
        while self.scheduler.left() > 0 {
            self.look_for_sources();
            let slowed = self.work.leash.as_ref().is_some_and(|leash| leash.down.is_short());
            if slowed || self.work.running.parts.pump.limiter().down.is_short() {
                self.scheduler.limited(self.now());
            }
            // What may not be asked for now lets others try.
            let held = self.is_held();
            if !held && (self.scheduler.here() > 0 || self.called.is_some()) {
                served = Instant::now();
            } else if !held {
                self.work.seek();
            }
            if served.elapsed() >= ALONE && self.work.users.is_empty() && self.work.others_wait() {
                let why = if held { "it is held back, and other fetches come first" } else { super::NOBODY };
                return Err(Stop::Later(why.to_owned()));
            }
            let waits = self.assign();
            self.wish();
            self.show();
            if Instant::now() >= self.keep_at {
                self.keep().await;
            }
            let wake = self.wake(waits);
            let runs = Arc::clone(&self.work.running.runs);
            let told = tokio::select! {
                () = self.work.cancel.cancelled() => return Err(Stop::Cancelled),
                told = self.events.recv() => told,
                _ = changes.changed() => None,
                // Kept until something is asked for: to whoever waits too it would only be handed on, and back.
                permit = runs.acquire_owned(), if waits == Wait::Run => {
                    self.permit = permit.ok();
                    None
                }
                () = sleep_until(wake) => None,
            };
            while self.tasks.try_join_next().is_some() {}
            if let Some(told) = told {
                self.hear(told)?;
            }
            // What else came meanwhile is heard before anything new is decided.
            while let Ok(told) = self.events.try_recv() {
                self.hear(told)?;
            }
        }
        Ok(())
    }

    /// Nothing may be asked for now, and perhaps not for long.
    fn is_held(&self) -> bool {
        self.work.assist.as_ref().is_some_and(|assist| assist.is_held())
            || self.work.leash.as_ref().is_some_and(|leash| leash.is_held())
    }

    /// Begins to ask the Soulseek users of this fetch, if it has any.
    fn call_users(&mut self) {
        let users = self.work.users.clone();
        if users.is_empty() {
            return;
        }
        let caller = Caller {
            parts: Arc::clone(&self.work.running.parts),
            content: self.list.content(),
            size: self.list.size(),
            users,
            told: self.told.clone(),
            wish: self.wish.subscribe(),
        };
        self.tasks.spawn(caller.go());
    }

    fn has_mesh(&self) -> bool {
        self.transfers.keys().any(|peer| self.scheduler.has(&Source::Mesh(*peer)))
    }

    /// Says what is wanted of Soulseek users now.
    fn wish(&mut self) {
        let held = self.work.running.fair.rate().is_some();
        let wanted = self.scheduler.left() > 0 && user_wanted(self.met, self.has_mesh(), held);
        let from_zero = self.scheduler.verified().first() == Some(&false);
        let wish = Wish { wanted, from_zero };
        self.wish.send_if_modified(|told| std::mem::replace(told, wish) != wish);
    }

    /// A Soulseek user's run, to the end of the file or to what is there.
    fn stream(&mut self, assignment: Assignment, permit: OwnedSemaphorePermit) {
        let Some(called) = self.called.take() else { return };
        let (cancel, stop) = (CancellationToken::new(), StopCode::default());
        self.runs.insert(assignment.run, Handle { peer: None, cancel: cancel.clone(), stop: stop.clone() });
        let stream = Stream {
            others: called.others || self.has_mesh(),
            some: false,
            called,
            list: Arc::clone(&self.list),
            file: self.file.clone(),
            running: Arc::clone(&self.work.running),
            told: self.told.clone(),
            stop,
            permit,
        };
        self.tasks.spawn(stream.go(assignment, cancel));
    }

    /// When to look again if nothing happens.
    fn wake(&self, waits: Wait) -> Instant {
        let now = self.now();
        let decide = self.scheduler.deadline(now);
        let end = self.transfers.values().filter_map(Downloader::deadline).min();
        let ask = self.again.values().min().copied();
        let at = |moment: Option<Duration>| moment.map(|moment| self.began + moment);
        let first = [at(decide), at(end), ask].into_iter().flatten().min();
        let wake = first.unwrap_or_else(|| Instant::now() + ASK_AGAIN);
        waits.within().map_or(wake, |within| wake.min(Instant::now() + within))
    }

    /// Tells a transfer what happened, and does what follows.
    fn transfer(&mut self, peer: PeerId, event: Event) {
        let now = self.now();
        let Some(transfer) = self.transfers.get_mut(&peer) else { return };
        let before = transfer.state();
        if event == Event::Picked && before == State::Completed {
            // Pieces came open again; what the peer offered still stands.
            *transfer = Downloader::offered(now);
        }
        let action = transfer.handle(event, now);
        let after = transfer.state();
        if before != after {
            tracing::trace!(%peer, from = before.name(), to = after.name(), "transfer");
        }
        match action {
            Some(Action::AskLater | Action::Penalise | Action::Never) => {
                self.scheduler.went(&Source::Mesh(peer), after.name(), now);
                self.again.insert(peer, Instant::now() + ASK_AGAIN);
            }
            // The scheduler takes back and stops asking by itself.
            Some(Action::Stop | Action::Cancel(_)) | None => {}
        }
    }

    /// A peer that was to have the file has it no more, or not for us.
    fn refused(&mut self, peer: PeerId) {
        match self.transfers.get(&peer).map(Downloader::state) {
            // Several runs were refused at once.
            None | Some(State::Aborted) => return,
            Some(State::Completed) => _ = self.transfers.remove(&peer),
            Some(_) => self.transfer(peer, Event::Refused),
        }
        let refusals = self.refusals.entry(peer).or_default();
        self.again.insert(peer, Instant::now() + back_off(*refusals));
        *refusals = refusals.saturating_add(1);
    }

    /// Asks peers that are new, or that had it not a while ago. Those that went are told to the scheduler.
    fn look_for_sources(&mut self) {
        let links = self.work.running.mesh.links();
        let here: BTreeSet<PeerId> = links.iter().map(Link::id).collect();
        let now = self.now();
        let known: Vec<PeerId> = self.transfers.keys().copied().collect();
        for peer in known {
            if here.contains(&peer) {
                self.transfer(peer, Event::Tick);
            } else {
                self.scheduler.went(&Source::Mesh(peer), "the connection is gone", now);
                self.transfer(peer, Event::Gone);
                self.transfers.remove(&peer);
            }
        }
        let moment = Instant::now();
        self.again.retain(|peer, again| here.contains(peer) && *again > moment);
        self.refusals.retain(|peer, _| here.contains(peer));
        for link in links {
            let peer = link.id();
            let busy = self.transfers.get(&peer).is_some_and(|transfer| transfer.state() != State::Aborted);
            let asking = self.transfers.values().filter(|transfer| transfer.state() == State::Negotiating).count();
            let full = self.scheduler.here() + asking >= limits::MESH_SOURCES;
            if busy || self.again.contains_key(&peer) || full {
                continue;
            }
            self.transfers.insert(peer, Downloader::new(now));
            self.transfer(peer, Event::Asked);
            if self.holders.remove(&peer) {
                self.transfer(peer, Event::Offered);
                self.source(peer);
                continue;
            }
            let (told, content, size) = (self.told.clone(), self.list.content(), self.list.size());
            self.tasks.spawn(async move {
                let has = link.ask(content).await == Some(size);
                // Nobody may listen any more.
                let _ = told.send(Told::Has(peer, has)).await;
            });
        }
    }

    /// A peer has the file: a source, with what is known of it from before.
    fn source(&mut self, peer: PeerId) {
        self.known(Source::Mesh(peer));
    }

    fn known(&mut self, source: Source) {
        let running = &self.work.running;
        let (metrics, known) = running.parts.store.source(&source).unwrap_or_else(|error| {
            tracing::warn!(%source, %error, "what is known of a source could not be read");
            Default::default()
        });
        let known = known.faded(running.parts.clock.now().wall, running.swarm.reputation.half_life);
        self.scheduler.came(source, metrics, known);
    }

    /// Starts what can be started, and says what the rest waits for.
    fn assign(&mut self) -> Wait {
        self.scheduler.tick(self.now());
        let waits = loop {
            self.take_back();
            let (assist, leash) = (self.work.assist.clone(), self.work.leash.clone());
            let room = match (&assist, &leash) {
                (Some(assist), _) => Some(assist.open()),
                (None, leash) => leash.as_ref().map(|leash| leash.open()),
            };
            let mut aside = match room {
                Some(None) => break Wait::braked(self.is_held()),
                room => room.flatten(),
            };
            let held = !self.work.running.fair.is_open();
            let free = || Arc::clone(&self.work.running.runs).try_acquire_owned().ok();
            let Some(permit) = self.permit.take().or_else(free) else { break Wait::Run };
            let next = if held { self.scheduler.next_stream(self.now()) } else { self.scheduler.next(self.now()) };
            let Some(assignment) = next else {
                let shut = self.work.running.fair.rate() == Some(0);
                break if held { Wait::braked(shut) } else { Wait::Nothing };
            };
            let link = match &assignment.source {
                Source::Mesh(peer) => self.work.running.mesh.link(*peer),
                Source::Soulseek(user) => {
                    if self.called.as_ref().is_some_and(|called| called.user == *user) {
                        self.stream(assignment, permit);
                        continue;
                    }
                    None
                }
            };
            let Some(link) = link else {
                self.scheduler.went(&assignment.source, "the connection is gone", self.now());
                self.scheduler.ended(assignment.run, Ended::Failed, self.now());
                continue;
            };
            let (peer, cancel, stop) = (link.id(), CancellationToken::new(), StopCode::default());
            self.runs.insert(assignment.run, Handle { peer: Some(peer), cancel: cancel.clone(), stop: stop.clone() });
            self.transfer(peer, Event::Picked);
            let length = self.length(&assignment.pieces);
            self.work.running.fair.spend(length);
            if let Some(assist) = &assist {
                assist.brake.spend(length);
            }
            if let Some(aside) = &mut aside {
                aside.ask(length);
            }
            let run = Run {
                assist,
                leash,
                _aside: aside,
                link,
                list: Arc::clone(&self.list),
                landing: self.landing.clone(),
                running: Arc::clone(&self.work.running),
                told: self.told.clone(),
                until: self.began + assignment.until,
                stop,
                permit,
            };
            self.tasks.spawn(run.go(assignment, cancel));
        };
        self.take_back();
        if let Some(called) = self.called.take_if(|_| waits == Wait::Nothing) {
            // Nothing is left for this user to do.
            self.scheduler.went(&Source::Soulseek(called.user.clone()), "not needed", self.now());
        }
        // Where a rule came between it is of no use now, and may be to others.
        self.permit = None;
        self.tell_traces();
        waits
    }

    /// Takes back what the scheduler does not want any more.
    fn take_back(&mut self) {
        for (run, reason) in self.scheduler.take_cancels() {
            // One that has just ended by itself is not there any more.
            let Some(handle) = self.runs.get(&run) else { continue };
            handle.stop.set(reason);
            handle.cancel.cancel();
            let peer = handle.peer;
            if let (CancelReason::SwarmRebalanced, Some(peer)) = (reason, peer) {
                self.transfer(peer, Event::Covered);
            }
            self.met |= reason == CancelReason::Complete && peer.is_none();
        }
    }

    fn tell_traces(&mut self) {
        for kind in self.scheduler.take_events() {
            self.trace(kind);
        }
    }

    fn hear(&mut self, told: Told) -> Result<(), Stop> {
        let now = self.now();
        match told {
            Told::Disk(error) => return Err(error.into()),
            Told::Has(peer, true) => {
                self.transfer(peer, Event::Offered);
                if self.transfers.get(&peer).is_some_and(|transfer| transfer.state() == State::Ready) {
                    self.source(peer);
                }
            }
            Told::Has(peer, false) => self.transfer(peer, Event::Refused),
            Told::Called(called) => {
                let source = Source::Soulseek(called.user.clone());
                self.known(source.clone());
                if called.whole_only {
                    self.scheduler.sends_whole_only(&source);
                }
                self.called = Some(called);
            }
            Told::Given(pieces) => {
                let first = pieces.start;
                let fresh = pieces.filter(|piece| self.scheduler.given(*piece));
                let bytes = fresh.map(|piece| self.list.piece_len(piece) as u64).sum();
                self.given(first, bytes);
            }
            Told::First(run) => {
                self.scheduler.first_byte(run, now);
                self.response(run);
            }
            Told::Alive(run) => {
                self.scheduler.alive(run, now);
                self.response(run);
            }
            Told::Piece(run, piece, good) => {
                let source = self.scheduler.source(run).cloned();
                let first = self.scheduler.piece(run, piece, good, now);
                self.response(run);
                self.count(source, piece, good, first);
            }
            Told::Ended(run, how) => {
                let source = self.scheduler.source(run).cloned();
                self.scheduler.ended(run, how, now);
                match self.runs.remove(&run).map(|handle| handle.peer) {
                    Some(Some(peer)) if how == Ended::Gone => self.refused(peer),
                    Some(Some(peer)) => {
                        if how == Ended::Whole {
                            self.refusals.remove(&peer);
                        }
                        self.transfer(peer, Event::RunOver);
                    }
                    // Its connection ends with its run.
                    Some(None) => {
                        if let Some(source) = source {
                            self.scheduler.went(&source, "its run is over", now);
                        }
                    }
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Bytes of these pieces.
    fn length(&self, pieces: &Range<usize>) -> u64 {
        pieces.clone().map(|piece| self.list.piece_len(piece) as u64).sum()
    }

    fn response(&mut self, run: RunId) {
        if let Some(peer) = self.runs.get(&run).and_then(|handle| handle.peer) {
            self.transfer(peer, Event::Response);
        }
    }
}

/// Until a peer is asked again that had it not so many times in a row before.
fn back_off(refusals: u32) -> Duration {
    ASK_AGAIN.saturating_mul(1 << refusals.min(16)).min(ASK_AGAIN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_it_no_more_is_asked_again_later_and_later() {
        let seconds: Vec<u64> = [0, 1, 2, 5, 6, u32::MAX].map(|refusals| back_off(refusals).as_secs()).into();
        assert_eq!(seconds, [15, 30, 60, 480, 600, 600]);
    }
}
