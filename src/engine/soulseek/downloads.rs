//! Our downloads that are not over: whom to ask, what to grant, when to try again, where else to look.
//!
//! Decides when a file is asked for, whether an uploader's offer is taken, how a receive begins, what a failure means
//! and where the finished file goes. Leaves bytes to the file shell, connections to `connections`, searches for other
//! sources to `searches`, and downloads that are over to the store.
//!
//! ```text
//! phase      state            waits for                                  deadline
//! Waiting    QueuedLocally    a moment: retry, or room for the file      that moment, at most 30 min
//! Ready      Requested or     login, the user, the disk, a slot, pace    each of these has its own; a user is tried
//!            QueuedLocally                                               again after 30 min even if said to be offline
//! Asked      QueuedRemotely   the uploader's offer                       place asked every 5 min; 30 min of silence:
//!                                                                        asked again
//! Agreed     Initializing     the file connection                        30 s
//! Receiving  InProgress       bytes                                      60 s without one
//! Placing    as before        the finished file in its folder            30 min
//! Seeking    QueuedLocally    another user who has the file              15 min
//! ```
//!
//! An attempt is counted when the user is asked. What is not the user's fault (login, disk, slots, the user being
//! offline) never costs one.

mod endings;
mod files;
mod grants;
mod origin;
mod owner;
mod people;
mod rescue;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub use self::origin::COMPARE;
pub use self::owner::{FILE_SIZE_MAX, UNSHARED_DOWNLOADS};
use self::timers::{Timer, Timers};
use super::Settings;
use super::chance::Chance;
use super::effect::{Effect, Effects};
use super::io::{Action, Compared, FileAction, Notice};
use super::transfer::{self, TransferEvent};
use crate::model::id::{CommandId, Token, TransferId, Username};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::record::Change;
use crate::model::time::Now;
use crate::model::transfer::{Direction, Ending, Transfer, TransferState};
use crate::model::view::FlowView;

/// Requests waiting in one user's queue at once (half of Nicotine+'s limit of 100).
const ASKED_PER_USER: usize = 50;
/// Requests sent per second, all users together.
const ASKS_PER_SECOND: u32 = 100;
/// Users whose presence the server tells us.
const WATCHED_USERS: usize = 100;
/// Finished files remembered, so that an uploader who offers one again hears `Complete`; the first is forgotten.
pub const FINISHED: usize = 1_000;
/// Searches for other sources at once; further ones wait.
const SEEKING: usize = 4;

/// What a machine needs to take one decision.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The moment.
    pub now: Now,
    /// What the owner configured.
    pub settings: &'a Settings,
    /// For ids and jitter.
    pub chance: &'a mut Chance,
    /// Where wishes go.
    pub out: &'a mut Effects,
}

/// A user who, by a search answer, has a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub user: Username,
    /// Under which path.
    pub path: WireText,
    /// Bytes.
    pub size: u64,
    /// A slot is free.
    pub free_slot: bool,
    /// Upload speed claimed, bytes per second.
    pub speed: u32,
    /// Files waiting there.
    pub queue: u32,
}

/// All downloads not over.
#[derive(Debug, Default)]
pub struct Downloads {
    live: BTreeMap<TransferId, Download>,
    users: BTreeMap<Username, User>,
    /// Agreed, file connection not yet there.
    tokens: BTreeMap<(Username, Token), TransferId>,
    /// Called off while the file shell was at it; the partial file to forget once it lets go.
    leaving: BTreeMap<TransferId, String>,
    /// Agreed or receiving.
    active: BTreeSet<TransferId>,
    /// Those being put into their places.
    placing: BTreeSet<TransferId>,
    /// Being searched for, and those waiting for their turn.
    seeking: BTreeSet<TransferId>,
    seekers: BTreeSet<TransferId>,
    finished: VecDeque<rescue::Finished>,
    /// Users who are being asked about a finished file, by its download.
    asked_origins: BTreeMap<TransferId, origin::Asked>,
    /// Users who banned us, and until when that is believed.
    refusing: BTreeMap<Username, Duration>,
    places: BTreeMap<CommandId, TransferId>,
    timers: Timers,
    logged_in: bool,
    shared_files: Option<u32>,
    disk: Disk,
    /// The second in which `paced` requests were sent.
    second: Duration,
    paced: u32,
    /// Rising number that keeps the order asked for.
    order: u64,
    succeeded: u64,
    failed: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Download {
    record: Transfer,
    phase: Phase,
    order: u64,
    /// The coming request belongs to an attempt that is already counted.
    counted: bool,
    /// The one free try after `UploadFailed` was taken.
    requeued: bool,
    /// Refused for lack of a slot: asked again when one is free.
    slotless: bool,
    /// Joining failed: from one user, or not at all.
    solo: bool,
    /// `File not shared.` was heard: the same user may have it under another path.
    moved: bool,
    /// Times a finished file could not be put in its place.
    misplaced: u32,
    /// Times the user said "later" in a row.
    deferred: u32,
    /// Other sources found and not yet tried.
    spare: Vec<Candidate>,
}

#[derive(Debug)]
enum Phase {
    Waiting,
    Ready,
    Asked { heard_at: Duration, place_asked_at: Option<Duration> },
    Agreed(Token),
    Receiving(Receiving),
    Placing,
    Seeking { ending: Ending, reason: String, fresh: bool },
}

/// A running receive.
#[derive(Debug)]
struct Receiving {
    position: u64,
    began_at: Duration,
    moved_at: Duration,
    /// Bytes per second, smoothed.
    rate: u64,
    /// Another user's bytes are to be joined to ours.
    joining: bool,
    /// We told the shell to end it.
    stop: Option<Stop>,
    /// The uploader refuses it by now: why not to ask again once the connection has ended.
    refused: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// No bytes.
    Stalled,
    /// The uploader began anew.
    Superseded,
}

/// One user we want files from.
#[derive(Debug, Default)]
struct User {
    /// Wanted paths, as text: the same path may come back in another encoding.
    paths: BTreeMap<String, TransferId>,
    ready: BTreeSet<(u64, TransferId)>,
    asked: usize,
    offline: bool,
    /// Not heard from since a failure: one request at a time.
    cautious: bool,
    paused: bool,
    watched: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Disk {
    #[default]
    Fine,
    /// Nothing is asked for or taken.
    Full,
    /// One download may try.
    Probing(Option<TransferId>),
}

impl Downloads {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over what the store holds, at start. Of finished ones it is remembered that they are; uploads are left out;
    /// what was on its way when the process ended is due at once.
    pub fn load(&mut self, transfers: Vec<Transfer>, turn: &mut Turn<'_>) {
        self.remember_kept(&transfers, turn.now);
        let mut transfers: Vec<Transfer> =
            transfers.into_iter().filter(|t| t.direction == Direction::Download && !t.state.is_over()).collect();
        transfers.sort_by(|a, b| (a.requested_at, &a.path, a.id).cmp(&(b.requested_at, &b.path, b.id)));
        let mut changes = Vec::new();
        for mut record in transfers.into_iter().take(limits::DOWNLOADS) {
            if record.state != TransferState::QueuedLocally {
                record.state = TransferState::QueuedLocally;
                record.next_attempt_at = None;
                record.reason = Some("interrupted by a restart".to_owned());
                changes.push(Change::Transfer(Box::new(record.clone())));
            }
            // A calendar that jumped back must not hold a download for years.
            let longest = transfer::patience(TransferState::QueuedLocally).unwrap_or_default();
            let wait = record.next_attempt_at.map(|at| at.since(turn.now.wall).min(longest));
            let (id, counted) = (record.id, record.next_attempt_at.is_none() && record.attempts > 0);
            self.admit(record, counted, turn);
            match wait {
                Some(wait) if !wait.is_zero() => self.timers.set(Timer::Download(id), turn.now.in_(wait)),
                // Only its place was missing: no user is needed for that.
                _ if self.live.get(&id).is_some_and(files::is_complete) => self.put(id, turn),
                _ => self.line_up(id),
            }
        }
        if !changes.is_empty() {
            turn.out.push(Effect::Act(Action::Store(changes)));
        }
        self.pump(turn);
    }

    /// How many files we share: with none, nothing is downloaded in bulk.
    pub fn set_shared_files(&mut self, files: u32) {
        self.shared_files = Some(files);
    }

    /// The earliest moment at which [`Self::on_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// Deadlines have passed.
    pub fn on_timeout(&mut self, turn: &mut Turn<'_>) {
        while let Some(timer) = self.timers.pop(turn.now.mono) {
            match timer {
                Timer::Download(id) => self.on_due(id, turn),
                Timer::User(user) => {
                    if let Some(user) = self.users.get_mut(&user) {
                        user.offline = false;
                        user.paused = false;
                    }
                }
                Timer::Place(command) => self.answer_place(command, turn.out),
                Timer::Origin(id) => self.on_origin(id, Compared::Unknown("no connection came".to_owned()), turn),
                Timer::Disk if self.disk == Disk::Full => self.disk = Disk::Probing(None),
                Timer::Disk | Timer::Pace => {}
            }
        }
        self.pump(turn);
    }

    /// A download's own deadline.
    fn on_due(&mut self, id: TransferId, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        let complete = files::is_complete(download);
        match &mut download.phase {
            Phase::Waiting if complete => self.put(id, turn),
            Phase::Waiting => self.ready(id, None, turn),
            Phase::Ready => {}
            Phase::Asked { .. } => self.on_silence(id, turn),
            Phase::Agreed(_) => {
                let reason = format!("{} agreed but made no file connection", download.record.user);
                self.fail(id, Ending::TimedOut, reason, turn);
            }
            Phase::Receiving(receiving) => {
                receiving.stop.get_or_insert(Stop::Stalled);
                receiving.rate = 0;
                turn.out.file(FileAction::Stop { transfer: id });
                self.timers.set(Timer::Download(id), turn.now.in_(files::STALL));
            }
            Phase::Placing => self.on_misplaced(id, "no answer", turn),
            Phase::Seeking { .. } if self.logged_in => self.on_candidates(id, Vec::new(), turn),
            Phase::Seeking { .. } => self.timers.set(Timer::Download(id), turn.now.in_(endings::SEEK)),
        }
    }

    /// Every download not over, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Transfer> {
        self.live.values().map(|download| &download.record)
    }

    /// One download not over.
    pub fn get(&self, id: TransferId) -> Option<&Transfer> {
        self.live.get(&id).map(|download| &download.record)
    }

    /// How many are not over.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether all are over.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Whether downloads wait because the disk is full.
    pub fn disk_full(&self) -> bool {
        self.disk != Disk::Fine
    }

    /// Counters for the page. Speed is the sum over what moved in the last five seconds.
    pub fn flow(&self, now: Now) -> FlowView {
        let moving = |receiving: &Receiving| now.mono <= receiving.moved_at.saturating_add(Duration::from_secs(5));
        let speed = self.active.iter().filter_map(|id| match &self.live.get(id)?.phase {
            Phase::Receiving(receiving) if moving(receiving) => Some(receiving.rate),
            _ => None,
        });
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        FlowView {
            active: count(self.active.len()),
            queued: count(self.live.len().saturating_sub(self.active.len())),
            speed: speed.fold(0, u64::saturating_add),
            succeeded: self.succeeded,
            failed: self.failed,
            bytes: self.bytes,
        }
    }

    /// The download of this user's path.
    fn wanted(&self, user: &Username, path: &WireText) -> Option<TransferId> {
        self.users.get(user)?.paths.get(path.as_str()).copied()
    }

    /// Puts a record among the live ones, in phase `Waiting` without a deadline: the caller gives it one or lines it up.
    fn admit(&mut self, record: Transfer, counted: bool, turn: &mut Turn<'_>) {
        self.order = self.order.saturating_add(1);
        let download = Download {
            phase: Phase::Waiting,
            order: self.order,
            counted,
            requeued: false,
            slotless: false,
            solo: false,
            moved: false,
            misplaced: 0,
            deferred: 0,
            spare: Vec::new(),
            record,
        };
        self.meet(&download.record.user, &download.record.path, download.record.id, turn.now, turn.out);
        self.live.insert(download.record.id, download);
    }

    /// Changes a record's state by the table, keeps it and tells.
    fn change(&mut self, id: TransferId, event: TransferEvent, reason: Option<String>, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        let record = &mut download.record;
        let Some(state) = transfer::next(record.state, event) else { return };
        record.state = state;
        record.reason = reason;
        turn.out.keep(record);
        turn.out.notice(Notice::TransferChanged(id, Direction::Download));
    }

    /// Ends a phase: nothing of it is left behind. The caller enters the next one.
    fn leave(&mut self, id: TransferId) {
        let Some(download) = self.live.get_mut(&id) else { return };
        let user = self.users.get_mut(&download.record.user);
        match std::mem::replace(&mut download.phase, Phase::Waiting) {
            Phase::Waiting | Phase::Receiving(_) | Phase::Placing => {}
            Phase::Ready => {
                user.map(|user| user.ready.remove(&(download.order, id)));
            }
            Phase::Asked { .. } => {
                if let Some(user) = user {
                    user.asked = user.asked.saturating_sub(1);
                }
            }
            Phase::Agreed(token) => {
                self.tokens.remove(&(download.record.user.clone(), token));
            }
            Phase::Seeking { .. } => {
                self.seeking.remove(&id);
                self.seekers.remove(&id);
            }
        }
        self.active.remove(&id);
        self.placing.remove(&id);
        if self.disk == Disk::Probing(Some(id)) {
            self.disk = Disk::Probing(None);
        }
        self.timers.clear(&Timer::Download(id));
    }

    /// From any phase to `Ready`, the record untouched.
    fn line_up(&mut self, id: TransferId) {
        self.leave(id);
        let Some(download) = self.live.get_mut(&id) else { return };
        download.phase = Phase::Ready;
        if let Some(user) = self.users.get_mut(&download.record.user) {
            user.ready.insert((download.order, id));
        }
    }

    /// It may be asked for (again) as soon as nothing stands in the way.
    fn ready(&mut self, id: TransferId, reason: Option<String>, turn: &mut Turn<'_>) {
        self.line_up(id);
        let Some(download) = self.live.get_mut(&id) else { return };
        download.record.next_attempt_at = None;
        download.record.place_in_queue = None;
        let user = download.record.user.clone();
        let full = self.users.get(&user).is_some_and(|user| user.asked >= user.limit());
        let turn_comes = || full.then(|| format!("waits for its turn with {user}"));
        let reason = reason.or_else(|| self.obstacle(&user)).or_else(turn_comes);
        self.change(id, TransferEvent::Hold, reason, turn);
    }

    /// It waits for a moment.
    fn wait(&mut self, id: TransferId, delay: Duration, reason: String, turn: &mut Turn<'_>) {
        self.leave(id);
        let Some(download) = self.live.get_mut(&id) else { return };
        download.record.next_attempt_at = Some(turn.now.wall.plus(delay));
        download.record.place_in_queue = None;
        self.timers.set(Timer::Download(id), turn.now.in_(delay));
        self.change(id, TransferEvent::Hold, Some(reason), turn);
    }
}
