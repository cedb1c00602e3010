//! Soulseek users as sources of a fetch.
//!
//! Under one root a byte is a byte, whoever sends it (DECISIONS 1). A user is asked for the file as for any download: in
//! the queue, with a slot, within the limits, seen by the owner. When the transfer is granted its connection comes here
//! ([`crate::app::pump::Diversions`]) and becomes one contiguous run from where the scheduler says; each piece is checked
//! before it is written. One user at a time: the next is asked when one is done with. Nobody whose run was ended by us is
//! asked again while the mesh can do the rest, and nobody who closed on an offset is asked for one again (DESIGN
//! decision 7).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::super::Running;
use super::run::{ALIVE, STEP, Told};
use crate::app::pump::{Diversion, Diverted};
use crate::app::soulseek::Parts;
use crate::disk::File;
use crate::engine::soulseek::io::{Command, EnqueueRequest, Reply};
use crate::engine::swarm::list::{PIECE_LEN, PieceList};
use crate::engine::swarm::scheduler::{Assignment, Ended};
use crate::model::id::{BatchId, ContentHash, TransferId, Username};
use crate::model::music::WireText;
use crate::model::swarm::CancelReason;
use crate::model::transfer::{Direction, TransferState};
use crate::net::mesh::StopCode;

/// Times in a row that a user may fail at one file, without a byte that is of use, before others are preferred for long.
const TRIES: u32 = 2;
/// How often it is seen how a download stands.
const LOOK: Duration = Duration::from_secs(1);
/// A download that waits here, for a user who is offline or failed, gives the next user a turn after so long.
const HELD_UP: Duration = Duration::from_secs(10);
/// Before a user who failed is asked again.
const REST: Duration = Duration::from_secs(60);
/// The same, after so many failures in a row.
const LONG_REST: Duration = Duration::from_secs(600);
/// A user who sends less than 5 KB a second for 12 s is left, if there is somebody else (SPEC-FACTS 6.4).
const SLOW: (u64, Duration) = (60_000, Duration::from_secs(12));

/// What the swarm wants of Soulseek users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// A run is wanted.
    pub(super) wanted: bool,
    /// It would begin at the beginning of the file.
    pub(super) from_zero: bool,
}

/// A granted transfer, waiting to be told where to begin. Whoever drops it hangs up.
pub(super) struct Called {
    pub(super) user: Username,
    /// There is somebody else to ask.
    pub(super) others: bool,
    /// It closed when it was asked for an offset before.
    pub(super) whole_only: bool,
    connection: Diverted,
    over: oneshot::Sender<Over>,
}

/// How a run went. The connection is closed; the engine hears of that when it is dropped.
struct Over {
    _connection: Option<Diverted>,
    /// It was asked for an offset and closed at once.
    no_offset: bool,
    /// It brought what it was to bring.
    whole: bool,
    /// It brought something.
    some: bool,
    /// The owner called the download off.
    unwanted: bool,
}

/// What came of asking a user.
enum Asked {
    /// Its run is over.
    Over(Over),
    /// It came to no run.
    Nothing,
    /// It came to no run because none is wanted any more.
    Unneeded,
}

#[derive(Default)]
struct Experience {
    tries: u32,
    /// In a row, without anything that was of use.
    failed: u32,
    no_offset: bool,
    rests_from: Option<Instant>,
    /// By the owner.
    called_off: bool,
}

impl Experience {
    fn learn(&mut self, asked: &Asked, wanted: bool, now: Instant) {
        match asked {
            Asked::Over(over) => {
                self.no_offset |= over.no_offset;
                self.called_off |= over.unwanted;
                if over.some || over.whole {
                    self.failed = 0;
                } else {
                    self.failed = self.failed.saturating_add(1);
                }
                if !over.whole {
                    self.rests_from = Some(now);
                }
            }
            Asked::Nothing => {
                self.failed = self.failed.saturating_add(1);
                self.rests_from = Some(now);
            }
            // The wish stands, and yet there was nothing to do: it would be so again at once.
            Asked::Unneeded if wanted => self.rests_from = Some(now),
            Asked::Unneeded => {}
        }
    }

    fn rested(&self, now: Instant) -> bool {
        let rest = if self.failed < TRIES { REST } else { LONG_REST };
        self.rests_from.is_none_or(|at| now.saturating_duration_since(at) >= rest)
    }
}

/// The batch that a fetch's downloads are known by: made of the content alone, so that it is the same after a restart.
fn batch(content: ContentHash) -> BatchId {
    let mut bits = [0; 16];
    bits.copy_from_slice(&content.0[..16]);
    BatchId::from_random(u128::from_be_bytes(bits))
}

/// Calls off what is left of a fetch's downloads, until the program ends: then nobody answers.
pub(super) async fn call_off(parts: &Parts, content: ContentHash, end: &CancellationToken) {
    tokio::select! {
        () = end.cancelled() => {}
        () = cancel_all(parts, content) => {}
    }
}

async fn cancel_all(parts: &Parts, content: ContentHash) {
    let batch = batch(content);
    let live = parts.node.look(move |node, _| {
        let ours = node.live(Direction::Download).filter(|transfer| transfer.batch == Some(batch));
        ours.map(|transfer| transfer.id).collect::<Vec<_>>()
    });
    for id in live.await.unwrap_or_default() {
        cancel(parts, id).await;
    }
}

async fn cancel(parts: &Parts, id: TransferId) {
    // One that is over already needs nothing, and with the engine gone there is nothing to call off.
    let _ = parts.node.command(Command::Cancel { direction: Direction::Download, id, remove: false }).await;
}

/// The user who was asked the least, in the owner's order; nobody who must rest or was called off, and for anything but
/// the beginning nobody who refuses offsets.
fn choose(users: usize, known: &BTreeMap<usize, Experience>, from_zero: bool, now: Instant) -> Option<usize> {
    let fits = |user: &Experience| !user.called_off && user.rested(now) && (from_zero || !user.no_offset);
    let asked = |at: &usize| known.get(at).map_or(0, |user| user.tries);
    (0..users).filter(|at| known.get(at).is_none_or(fits)).min_by_key(asked)
}

/// Asks one user after the other for as long as a run is wanted.
pub(super) struct Caller {
    pub(super) parts: Arc<Parts>,
    pub(super) content: ContentHash,
    pub(super) size: u64,
    pub(super) users: Vec<(Username, WireText)>,
    pub(super) told: mpsc::Sender<Told>,
    pub(super) wish: watch::Receiver<Wish>,
}

impl Caller {
    pub(super) async fn go(mut self) {
        let Some(mut diversion) = self.parts.diversions.register(batch(self.content)) else {
            tracing::warn!(content = %self.content, "another fetch asks Soulseek users for this file");
            return;
        };
        let mut known: BTreeMap<usize, Experience> = BTreeMap::new();
        loop {
            if self.wish.wait_for(|wish| wish.wanted).await.is_err() {
                return;
            }
            let from_zero = self.wish.borrow().from_zero;
            let Some(index) = choose(self.users.len(), &known, from_zero, Instant::now()) else {
                sleep(LOOK).await;
                continue;
            };
            let good = |user: &Experience| user.failed < TRIES && !user.called_off;
            let others = (0..self.users.len()).any(|at| at != index && known.get(&at).is_none_or(good));
            let user = known.entry(index).or_default();
            user.tries += 1;
            let whole_only = user.no_offset;
            let asked = self.call(index, (others, whole_only), &mut diversion).await;
            let wanted = self.wish.borrow().wanted;
            known.entry(index).or_default().learn(&asked, wanted, Instant::now());
        }
    }

    /// One download, from the question to the end of its run.
    async fn call(&mut self, index: usize, (others, whole_only): (bool, bool), diversion: &mut Diversion) -> Asked {
        let Some((user, path)) = self.users.get(index).cloned() else { return Asked::Nothing };
        let request = EnqueueRequest {
            user: user.clone(),
            files: vec![(path, self.size)],
            batch: Some(batch(self.content)),
            search: None,
            destination: None,
            external: None,
        };
        let reply = self.parts.node.command(Command::Enqueue(request)).await;
        let id = match &reply {
            Some(Reply::Enqueued { accepted, .. }) if !accepted.is_empty() => accepted[0],
            _ => {
                tracing::info!(content = %self.content, %user, ?reply, "a Soulseek user is not asked");
                return Asked::Nothing;
            }
        };
        let asked = match self.granted(id, others, diversion).await {
            // What was wanted when it was asked need not be what is wanted now.
            Ok(_) if whole_only && !self.wish.borrow().from_zero => Asked::Unneeded,
            Ok(connection) => self.run(connection, (others, whole_only)).await,
            Err(asked) => asked,
        };
        // Before the engine hears that the connection is closed: it would try again by itself.
        cancel(&self.parts, id).await;
        asked
    }

    /// Waits until the transfer is granted, or will not be, or is not wanted any more.
    async fn granted(&mut self, id: TransferId, others: bool, diversion: &mut Diversion) -> Result<Diverted, Asked> {
        let mut held_up: Option<Instant> = None;
        loop {
            tokio::select! {
                connection = diversion.next() => {
                    // One of a download called off before is of no use.
                    if let Some(connection) = connection.filter(|connection| connection.transfer == id) {
                        return Ok(connection);
                    }
                }
                unwanted = self.wish.wait_for(|wish| !wish.wanted) => {
                    unwanted.ok();
                    return Err(Asked::Unneeded);
                }
                () = sleep(LOOK) => {}
            }
            let state = move |node: &crate::engine::soulseek::node::Node, _| {
                node.transfer(Direction::Download, id).map(|transfer| transfer.state)
            };
            match self.parts.node.look(state).await.flatten() {
                None => return Err(Asked::Nothing),
                Some(state) if state.is_over() => return Err(Asked::Nothing),
                Some(TransferState::QueuedLocally) if others => {
                    if held_up.get_or_insert_with(Instant::now).elapsed() >= HELD_UP {
                        return Err(Asked::Nothing);
                    }
                }
                Some(_) => held_up = None,
            }
        }
    }

    async fn run(&self, connection: Diverted, (others, whole_only): (bool, bool)) -> Asked {
        let (over, heard) = oneshot::channel();
        let called = Called { user: connection.user.clone(), others, whole_only, connection, over };
        if self.told.send(Told::Called(Box::new(called))).await.is_err() {
            return Asked::Unneeded;
        }
        // Dropped unheard: there was nothing left to do.
        heard.await.map_or(Asked::Unneeded, Asked::Over)
    }
}

/// The run of one user.
pub(super) struct Stream {
    pub(super) called: Box<Called>,
    pub(super) list: Arc<PieceList>,
    pub(super) file: File,
    pub(super) running: Arc<Running>,
    pub(super) told: mpsc::Sender<Told>,
    pub(super) stop: StopCode,
    pub(super) permit: OwnedSemaphorePermit,
    /// Others could do it: a slow user is left.
    pub(super) others: bool,
    /// A piece came and was right.
    pub(super) some: bool,
}

impl Stream {
    pub(super) async fn go(mut self, assignment: Assignment, cancel: CancellationToken) {
        let how = tokio::select! {
            biased;
            how = self.pieces(&assignment) => how,
            () = cancel.cancelled() => Ended::Cancelled,
        };
        let Self { called, told, stop, permit, some, .. } = self;
        let Called { user, mut connection, over, .. } = *called;
        connection.hang_up();
        drop(permit);
        let offset = assignment.pieces.start as u64 * PIECE_LEN;
        let no_offset = how == Ended::Failed && offset > 0 && connection.position() == offset;
        let whole = how == Ended::Whole || (how == Ended::Cancelled && stop.is(CancelReason::Complete));
        tracing::debug!(%user, offset, end = connection.position(), ?how, "the run of a Soulseek user is over");
        // Nobody listens any more once the file is whole.
        let _ = told.send(Told::Ended(assignment.run, how)).await;
        let unwanted = connection.is_stopped() || stop.is(CancelReason::Error);
        let _ = over.send(Over { _connection: Some(connection), no_offset, whole, some, unwanted });
    }

    async fn pieces(&mut self, assignment: &Assignment) -> Ended {
        let run = assignment.run;
        if let Err(error) = self.called.connection.begin(assignment.pieces.start as u64 * PIECE_LEN).await {
            tracing::debug!(user = %self.called.user, %error, "a Soulseek user hears no offset");
            return Ended::Failed;
        }
        let pump = self.running.parts.pump.clone();
        let slow = |bytes: u64| bytes < SLOW.0 && !pump.limiter().down.is_short();
        let mut told_at: Option<Instant> = None;
        let (mut since, mut bytes) = (Instant::now(), 0);
        for piece in assignment.pieces.clone() {
            let len = self.list.piece_len(piece);
            let mut block = pump.disk().pool().take().await;
            while block.len() < len {
                let wanted = (len - block.len()).min(STEP);
                let filled = match self.called.connection.fill(&mut block.spare()[..wanted]).await {
                    Ok(0) | Err(_) => return Ended::Failed,
                    Ok(filled) => filled,
                };
                block.grow(filled);
                bytes += filled as u64;
                if told_at.is_none_or(|at| at.elapsed() >= ALIVE) {
                    let told = if told_at.is_none() { Told::First(run) } else { Told::Alive(run) };
                    if told_at.is_none() {
                        // How long the first byte takes is not its speed.
                        since = Instant::now();
                    }
                    told_at = Some(Instant::now());
                    let _ = self.told.send(told).await;
                }
                if since.elapsed() >= SLOW.1 {
                    if self.others && slow(bytes) {
                        return Ended::Failed;
                    }
                    (since, bytes) = (Instant::now(), 0);
                }
            }
            let good = self.list.holds(piece, block.bytes());
            self.some |= good;
            if good && let Err(failed) = pump.disk().write(&self.file, piece as u64 * PIECE_LEN, vec![block]).await {
                let _ = self.told.send(Told::Disk(failed.error)).await;
                return Ended::Cancelled;
            }
            // After a bad one the run goes on: what is missing then is asked of others, and a third ends it.
            let _ = self.told.send(Told::Piece(run, piece, good)).await;
        }
        Ended::Whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over() -> Over {
        Over { _connection: None, no_offset: false, whole: false, some: false, unwanted: false }
    }

    #[test]
    fn users_are_asked_in_turn_and_rest_after_a_failure() {
        let now = Instant::now();
        let mut known = BTreeMap::new();
        assert_eq!(choose(0, &known, true, now), None);
        assert_eq!(choose(3, &known, false, now), Some(0));
        let mut first = Experience { tries: 1, ..Experience::default() };
        first.learn(&Asked::Nothing, true, now);
        known.insert(0, first);
        assert_eq!(choose(3, &known, false, now), Some(1));
        assert_eq!(choose(1, &known, false, now), None, "it rests");
        assert_eq!(choose(1, &known, false, now + REST), Some(0));
        known.insert(1, Experience { tries: 5, ..Experience::default() });
        known.entry(0).or_default().tries = 6;
        assert_eq!(choose(2, &known, false, now + REST), Some(1), "it brought what it was to bring");
        let mut second = Experience::default();
        second.learn(&Asked::Over(Over { unwanted: true, ..over() }), true, now);
        assert_eq!(choose(1, &BTreeMap::from([(0, second)]), true, now + 10 * LONG_REST), None, "the owner said no");
    }

    #[test]
    fn breaks_that_brought_something_are_forgiven_and_others_expire() {
        let now = Instant::now();
        let chosen = |user: Experience, at| choose(1, &BTreeMap::from([(0, user)]), true, at).is_some();
        let after = |ends: &[Asked]| {
            let mut user = Experience::default();
            for end in ends {
                user.learn(end, true, now);
            }
            user
        };
        let broke = |some| Asked::Over(Over { some, ..over() });
        assert!(chosen(after(&[broke(true), broke(true), broke(true)]), now + REST), "it brings a bit each time");
        assert!(!chosen(after(&[broke(false), broke(false)]), now + REST));
        assert!(chosen(after(&[broke(false), broke(true), broke(false)]), now + REST), "in a row is meant");
        assert!(!chosen(after(&[broke(false), Asked::Nothing]), now + LONG_REST - LOOK));
        assert!(chosen(after(&[broke(false), Asked::Nothing]), now + LONG_REST), "nothing is held against it for ever");
        let mut user = after(&[broke(false)]);
        user.learn(&Asked::Unneeded, false, now + LONG_REST);
        assert!(chosen(user, now + LONG_REST), "that it was not needed is not its fault");
        let mut user = after(&[]);
        user.learn(&Asked::Unneeded, true, now);
        assert!(!chosen(user, now), "and is no reason to ask it all the time");
    }

    #[test]
    fn whoever_refuses_offsets_is_asked_for_the_beginning_alone() {
        let now = Instant::now();
        let mut refuses = Experience::default();
        refuses.learn(&Asked::Over(Over { no_offset: true, ..over() }), true, now);
        let known = BTreeMap::from([(0, refuses)]);
        assert_eq!(choose(1, &known, false, now + REST), None);
        assert_eq!(choose(1, &known, true, now + REST), Some(0));
    }

    #[test]
    fn the_batch_is_that_of_the_content() {
        let content = ContentHash([7; 32]);
        assert_eq!(batch(content), batch(content));
        assert_ne!(batch(content), batch(ContentHash([8; 32])));
    }
}
