//! What a transfer to one peer goes through (SPEC-FACTS 11.2), and who is served at all.
//!
//! A transfer is one peer and one file. A request is a stream of its own; several may be under way.
//!
//! | From | Event | To | Action |
//! |---|---|---|---|
//! | idle | offered | pending, 600 s | |
//! | pending | 600 s | idle: forgotten | |
//! | idle, pending, done | request | serving | grant |
//! | idle, pending, serving, throttled | request over a cap | throttled | refuse: `rate_limited` |
//! | serving | request | serving | grant |
//! | throttled | room | serving | |
//! | throttled | request | serving | grant |
//! | serving, throttled | the peer took back one request, or it is over | same | |
//! | serving, throttled | the peer took back all; its last byte went out; 600 s with nothing under way | teardown | free the slot |
//! | any but teardown, done | file gone, disk failed, policy | rejected, 10 s | refuse with the reason |
//! | rejected | request | rejected | refuse with the reason |
//! | rejected | 10 s and nothing under way | teardown | free the slot |
//! | teardown | cleaned, 30 s | done, 300 s | |
//! | done | 300 s | idle: forgotten | |
//!
//! An offer renews or begins a transfer from idle, pending, rejected and done. A request without an offer is one that was
//! offered before our restart, or long ago: it counts as offered. What has no place in a state changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::frame::ErrorCode;
use crate::model::id::{ContentHash, PeerId};
use crate::model::limits;
use crate::model::swarm::CancelReason;

/// An offer holds so long, and a transfer without a request (SPEC-FACTS 11.2).
pub const TTL: Duration = Duration::from_secs(600);
/// One that is over is known so long.
pub const KEPT: Duration = Duration::from_secs(300);
/// Whoever was refused is refused again so long, without a look at the file. Chosen: shorter than a peer waits before it
/// asks again.
pub const COOL_DOWN: Duration = Duration::from_secs(10);
/// For requests under way to end once the transfer does.
pub const TEARDOWN: Duration = Duration::from_secs(30);
/// A peer keeps its slot so long after its last request.
pub const LINGER: Duration = Duration::from_secs(5);
/// With a speed limit, no more is granted than goes out in this time.
pub const QUEUE: Duration = Duration::from_secs(10);
/// Or than this, bytes: four pieces, so that a slow line is never idle between two requests.
pub const QUEUE_MIN: u64 = 256 * 1024;

/// Where a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nothing was offered.
    Idle,
    /// Offered, nothing asked for.
    Pending,
    /// Requests are answered.
    Serving,
    /// The peer was told to come later.
    Throttled,
    /// What is under way ends.
    Teardown,
    /// It gets nothing, for this reason.
    Rejected(ErrorCode),
    /// Over.
    Done,
}

impl State {
    /// As SPEC-FACTS 11.2 writes it, without the `U_`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Pending => "pending",
            Self::Serving => "serving",
            Self::Throttled => "throttled",
            Self::Teardown => "teardown",
            Self::Rejected(_) => "rejected",
            Self::Done => "done",
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer asked whether we have the file, and was told so.
    Offered,
    /// It asks for so many bytes, and may have them.
    Requested(u64),
    /// It asks for bytes, but slots or bandwidth are used up.
    Capped,
    /// There is room again.
    Room,
    /// Bytes went out.
    Sent(u64),
    /// A granted request of so many bytes is over, in whatever way.
    Ended(u64),
    /// The same; the peer took it back.
    Cancelled(u64, CancelReason),
    /// The file cannot be served to this peer.
    Failed(ErrorCode),
    /// Nothing of it is held any more.
    Cleaned,
    /// Time passed.
    Tick,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Serve the request.
    Grant,
    /// Refuse it.
    Refuse(ErrorCode),
    /// The transfer ends: free its slot, then tell [`Event::Cleaned`].
    Close,
    /// Nothing needs to be known of it any more.
    Forget,
}

/// A transfer to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upload {
    state: State,
    until: Duration,
    /// Length of the file.
    size: u64,
    /// Bytes that went out.
    sent: u64,
    /// Requests under way.
    open: u32,
    /// Their bytes, those that went out already included.
    owed: u64,
}

impl Upload {
    /// One of a file of this length; nothing was offered.
    pub fn new(size: u64, now: Duration) -> Self {
        Self { state: State::Idle, until: now, size, sent: 0, open: 0, owed: 0 }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// When to tick.
    pub fn deadline(&self) -> Duration {
        self.until
    }

    /// Requests under way.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// Bytes that went out.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// One event.
    pub fn handle(&mut self, event: Event, now: Duration) -> Option<Action> {
        use Event as E;
        use State as S;
        match (self.state, event) {
            (S::Idle | S::Pending | S::Rejected(_) | S::Done, E::Offered) => {
                if self.state == S::Done {
                    self.sent = 0;
                }
                self.go(S::Pending, now, None)
            }
            (S::Idle | S::Pending | S::Serving | S::Throttled | S::Done, E::Requested(bytes)) => {
                if self.state == S::Done {
                    self.sent = 0;
                }
                self.open = self.open.saturating_add(1);
                self.owed = self.owed.saturating_add(bytes);
                self.go(S::Serving, now, Some(Action::Grant))
            }
            (S::Idle | S::Pending | S::Serving | S::Throttled | S::Done, E::Capped) => {
                self.go(S::Throttled, now, Some(Action::Refuse(ErrorCode::RateLimited)))
            }
            (S::Rejected(code), E::Requested(_) | E::Capped) | (S::Teardown | S::Done, E::Failed(code)) => {
                Some(Action::Refuse(code))
            }
            (S::Teardown, E::Requested(_) | E::Capped) => Some(Action::Refuse(ErrorCode::RateLimited)),
            (S::Throttled, E::Room) => self.go(S::Serving, now, None),
            (S::Serving | S::Throttled, E::Sent(bytes)) => {
                self.sent = self.sent.saturating_add(bytes);
                self.until = now.saturating_add(TTL);
                None
            }
            (_, E::Ended(bytes)) => {
                self.ended(bytes);
                self.last_range(now)
            }
            (_, E::Cancelled(bytes, reason)) => {
                self.ended(bytes);
                let active = matches!(self.state, S::Serving | S::Throttled);
                if active && is_whole(reason) { self.close(now) } else { self.last_range(now) }
            }
            (S::Idle | S::Pending | S::Serving | S::Throttled | S::Rejected(_), E::Failed(code)) => {
                self.go(S::Rejected(code), now, Some(Action::Refuse(code)))
            }
            (S::Teardown, E::Cleaned) => self.go(S::Done, now, None),
            (_, E::Tick) => self.tick(now),
            (_, E::Offered | E::Room | E::Sent(_) | E::Cleaned) => None,
        }
    }

    fn tick(&mut self, now: Duration) -> Option<Action> {
        if now < self.until {
            return None;
        }
        match self.state {
            State::Idle => Some(Action::Forget),
            State::Pending | State::Done => self.go(State::Idle, now, Some(Action::Forget)),
            // A request under way has deadlines of its own: it ends, or its stream does.
            State::Serving | State::Throttled if self.open > 0 => self.go(self.state, now, None),
            State::Serving | State::Throttled | State::Rejected(_) => self.close(now),
            State::Teardown => self.go(State::Done, now, None),
        }
    }

    /// The last byte of the file may have gone out.
    fn last_range(&mut self, now: Duration) -> Option<Action> {
        let active = matches!(self.state, State::Serving | State::Throttled);
        if active && self.open == 0 && self.sent >= self.size { self.close(now) } else { None }
    }

    fn ended(&mut self, bytes: u64) {
        self.open = self.open.saturating_sub(1);
        self.owed = if self.open == 0 { 0 } else { self.owed.saturating_sub(bytes) };
    }

    fn close(&mut self, now: Duration) -> Option<Action> {
        self.go(State::Teardown, now, Some(Action::Close))
    }

    fn go(&mut self, to: State, now: Duration, action: Option<Action>) -> Option<Action> {
        self.state = to;
        self.until = now.saturating_add(match to {
            State::Idle => Duration::ZERO,
            State::Pending | State::Serving | State::Throttled => TTL,
            State::Rejected(_) => COOL_DOWN,
            State::Teardown => TEARDOWN,
            State::Done => KEPT,
        });
        action
    }
}

/// Whether the peer wants nothing more of the file.
fn is_whole(reason: CancelReason) -> bool {
    match reason {
        CancelReason::UserCancelled
        | CancelReason::QualityUpgrade
        | CancelReason::PolicyChange
        | CancelReason::Complete => true,
        CancelReason::SwarmRebalanced | CancelReason::Timeout | CancelReason::Error => false,
    }
}

/// A transfer's name.
pub type Key = (PeerId, ContentHash);

#[derive(Clone, Copy, Debug)]
struct Seat {
    open: u32,
    last: Duration,
    /// The owner named the peer.
    named: bool,
    /// A named peer took its place: what is under way ends, and nothing more begins.
    yields: bool,
}

/// All transfers, and the slots they share: one per peer. A named peer that finds none free gets a stranger's: that one is
/// told to come later, and what it was granted goes on to its end.
#[derive(Debug)]
pub struct Uploads {
    slots: usize,
    transfers: BTreeMap<Key, Upload>,
    /// Who holds a slot; at most as many as there are, and as many again that yield theirs.
    seats: BTreeMap<PeerId, Seat>,
}

impl Uploads {
    /// With so many slots.
    pub fn new(slots: usize) -> Self {
        Self { slots, transfers: BTreeMap::new(), seats: BTreeMap::new() }
    }

    /// A peer was told that we have the file.
    pub fn offered(&mut self, key: Key, size: u64, now: Duration) {
        if let Some(upload) = self.of(key, size, now) {
            upload.handle(Event::Offered, now);
        }
    }

    /// Why a peer is refused without a look at the file: it was a moment ago.
    pub fn cooling(&mut self, key: Key, now: Duration) -> Option<ErrorCode> {
        self.tick(now);
        match self.transfers.get(&key)?.state {
            State::Rejected(code) => Some(code),
            _ => None,
        }
    }

    /// A peer asks for so many bytes of a file it may have; `named`: the owner named it. `rate` is the limit of all
    /// uploads, bytes per second; 0 is none. `None`: serve it, and tell [`Uploads::ended`] in the end.
    pub fn requested(
        &mut self,
        key: Key,
        size: u64,
        bytes: u64,
        (named, rate): (bool, u64),
        now: Duration,
    ) -> Option<ErrorCode> {
        self.tick(now);
        let slot = self.may_sit(key.0, named);
        // What strangers were granted keeps no named peer waiting.
        let counts = |peer: &PeerId| !named || self.seats.get(peer).is_some_and(|seat| seat.named);
        let counted = self.transfers.iter().filter(|(key, _)| counts(&key.0));
        let owed = counted.fold(0_u64, |sum, (_, upload)| sum.saturating_add(upload.owed));
        // Alone, a request is granted however slow the line.
        let most = rate.saturating_mul(QUEUE.as_secs()).max(QUEUE_MIN);
        let fits = rate == 0 || owed == 0 || owed.saturating_add(bytes) <= most;
        let Some(upload) = self.of(key, size, now) else { return Some(ErrorCode::RateLimited) };
        upload.size = size;
        let event = if slot && fits { Event::Requested(bytes) } else { Event::Capped };
        match upload.handle(event, now) {
            Some(Action::Grant) => {
                if !self.seats.contains_key(&key.0) {
                    self.displace();
                }
                let seat = self.seats.entry(key.0).or_insert(Seat { open: 0, last: now, named, yields: false });
                seat.open = seat.open.saturating_add(1);
                seat.last = now;
                None
            }
            Some(Action::Refuse(code)) => Some(code),
            Some(Action::Close | Action::Forget) | None => Some(ErrorCode::RateLimited),
        }
    }

    /// Whether this peer is in the middle of this file.
    pub fn serves(&mut self, key: Key, now: Duration) -> bool {
        self.tick(now);
        self.transfers.get(&key).is_some_and(|upload| match upload.state {
            State::Serving => true,
            // Told to come later before it got anything, it is not in the middle of it.
            State::Throttled => upload.sent > 0 || upload.open > 0,
            State::Idle | State::Pending | State::Rejected(_) | State::Teardown | State::Done => false,
        })
    }

    /// Whether there is a slot for this peer.
    fn may_sit(&self, peer: PeerId, named: bool) -> bool {
        match self.seats.get(&peer) {
            Some(seat) => !seat.yields,
            None if named => self.seats.values().filter(|seat| seat.named).count() < self.slots,
            None => self.seats.len() < self.slots,
        }
    }

    /// Makes room for one more: unless there is some, the stranger with the least under way yields its slot.
    fn displace(&mut self) {
        if self.seats.values().filter(|seat| !seat.yields).count() < self.slots {
            return;
        }
        let strangers = self.seats.iter_mut().filter(|(_, seat)| !seat.named && !seat.yields);
        let Some((peer, seat)) = strangers.min_by_key(|(_, seat)| (seat.open, seat.last)) else { return };
        seat.yields = true;
        let (peer, is_idle) = (*peer, seat.open == 0);
        if is_idle {
            self.seats.remove(&peer);
        }
    }

    /// Bytes of a granted request went out.
    pub fn sent(&mut self, key: Key, bytes: u64, now: Duration) {
        if let Some(upload) = self.transfers.get_mut(&key) {
            upload.handle(Event::Sent(bytes), now);
        }
    }

    /// A granted request of so many bytes is over.
    pub fn ended(&mut self, key: Key, bytes: u64, cancelled: Option<CancelReason>, now: Duration) {
        if let Some(seat) = self.seats.get_mut(&key.0) {
            seat.open = seat.open.saturating_sub(1);
            seat.last = now;
        }
        let event = cancelled.map_or(Event::Ended(bytes), |reason| Event::Cancelled(bytes, reason));
        self.tell(key, event, now);
        self.room(now);
    }

    /// The file cannot be served to this peer.
    pub fn failed(&mut self, key: Key, code: ErrorCode, now: Duration) {
        if self.of(key, 0, now).is_some() {
            self.tell(key, Event::Failed(code), now);
        }
    }

    /// How many transfers are in each state, by its name.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for upload in self.transfers.values() {
            *counts.entry(upload.state.name()).or_insert(0) += 1;
        }
        counts
    }

    /// Time passed.
    pub fn tick(&mut self, now: Duration) {
        let due: Vec<Key> =
            self.transfers.iter().filter(|(_, upload)| upload.until <= now).map(|(key, _)| *key).collect();
        for key in due {
            self.tell(key, Event::Tick, now);
        }
        let stays = |seat: &Seat| seat.open > 0 || (!seat.yields && now.saturating_sub(seat.last) < LINGER);
        self.seats.retain(|_, seat| stays(seat));
        self.room(now);
    }

    /// Whoever was told to come later and could be served now is.
    fn room(&mut self, now: Duration) {
        if self.seats.len() < self.slots {
            for upload in self.transfers.values_mut() {
                upload.handle(Event::Room, now);
            }
        }
    }

    fn tell(&mut self, key: Key, event: Event, now: Duration) {
        let Some(upload) = self.transfers.get_mut(&key) else { return };
        match upload.handle(event, now) {
            Some(Action::Close) => {
                // A peer that wants nothing more of its only file leaves its slot at once.
                let others = self.transfers.iter().any(|(other, upload)| {
                    other.0 == key.0 && *other != key && matches!(upload.state, State::Serving | State::Throttled)
                });
                if !others && self.seats.get(&key.0).is_some_and(|seat| seat.open == 0) {
                    self.seats.remove(&key.0);
                }
                self.tell(key, Event::Cleaned, now);
            }
            Some(Action::Forget) => _ = self.transfers.remove(&key),
            Some(Action::Grant | Action::Refuse(_)) | None => {}
        }
    }

    /// A transfer, new if need be. When there is no room for one, one that is not being served is forgotten; `None` if
    /// all are.
    fn of(&mut self, key: Key, size: u64, now: Duration) -> Option<&mut Upload> {
        if !self.transfers.contains_key(&key) && self.transfers.len() >= limits::MESH_UPLOADS {
            let rank = |upload: &Upload| (upload.state != State::Done, upload.until);
            let idle = self.transfers.iter().filter(|(_, upload)| upload.open == 0);
            let gone = idle.min_by_key(|(_, upload)| rank(upload)).map(|(key, _)| *key)?;
            self.transfers.remove(&gone);
        }
        Some(self.transfers.entry(key).or_insert_with(|| Upload::new(size, now)))
    }
}
