//! How much may be on its way on a connection, each way, and what pays for it.
//!
//! A window is wide while somebody uses it and blocks for it are to be had, and grows with what moves in a round trip:
//! QUIC's own window doubles in a round, so that it must be wider before it is full.
//!
//! What a peer was once allowed to send cannot be taken back: when a receiving window narrows, the peer owes the
//! difference, and what it sends next pays for that first. QUIC forgets this when a window widens again and allows the
//! whole difference once more; here what is owed is counted, so that a peer may never have more on its way than the widest
//! window, however often it was widened.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::VarInt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::link::Link;
use super::{BLOCK, locked, spare};
use crate::model::limits;

/// Further blocks for receiving files at first: a window of 1 MiB with the one it has.
const RECEIVE_BLOCKS: u32 = 15;
/// Further blocks for sending files at first: 512 KiB.
const SEND_BLOCKS: u32 = 7;
/// The widest a window grows, in blocks: 4 MiB (DECISIONS 8).
const WINDOW_BLOCKS: u32 = 64;
/// A window is judged by what moves in a round trip, or in this time if that is shorter: less is the business of a busy
/// processor, not of the way. Chosen.
const ROUND_MIN: Duration = Duration::from_millis(10);
/// A window stays as it is for so long after its last use: a far peer's next request is on its way.
const LINGER: Duration = Duration::from_secs(5);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// One window of a connection.
#[derive(Debug)]
pub(super) struct Window {
    way: Way,
    /// Short and synchronous.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    users: usize,
    paid: Option<OwnedSemaphorePermit>,
    /// Bytes, as QUIC was told.
    told: u32,
    /// Bytes that the peer may send beyond that, because it was once allowed to.
    owed: u64,
    /// The last user left.
    left: Instant,
    /// Somebody waits to narrow it.
    lingers: bool,
    /// Beginning of the round that is being measured.
    since: Instant,
    /// Bytes that moved in it.
    moved: u64,
}

impl State {
    /// Bytes that are paid for, the first block included.
    fn size(&self) -> u32 {
        let more = self.paid.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        BLOCK.saturating_mul(u32::try_from(more).unwrap_or(u32::MAX).saturating_add(1))
    }
}

impl Window {
    pub(super) fn new(way: Way) -> Self {
        let now = Instant::now();
        let state =
            State { users: 0, paid: None, told: BLOCK, owed: 0, left: now, lingers: false, since: now, moved: 0 };
        Self { way, state: Mutex::new(state) }
    }

    /// Blocks besides the one it has, at first.
    fn first(&self) -> u32 {
        match self.way {
            Way::In => RECEIVE_BLOCKS,
            Way::Out => SEND_BLOCKS,
        }
    }

    /// Tells QUIC what is paid for, less what is owed. While little is owed it is told at once, else in steps.
    fn tell(&self, state: &mut State, set: impl FnOnce(u32)) {
        let size = state.size();
        let owed = u32::try_from(state.owed).unwrap_or(u32::MAX);
        let told = size.saturating_sub(owed).max(BLOCK);
        if told < state.told && self.way == Way::In {
            state.owed += u64::from(state.told - told);
        }
        if told != state.told {
            state.told = told;
            set(told);
        }
    }

    fn enter(&self, blocks: &Arc<Semaphore>, set: impl FnOnce(u32)) {
        let mut state = locked(&self.state);
        state.users += 1;
        // Half of the pool is left to those who move bytes now.
        let plenty = blocks.available_permits() > limits::BLOCKS / 2;
        if state.paid.is_none() && plenty {
            state.paid = Arc::clone(blocks).try_acquire_many_owned(self.first()).ok();
            self.tell(&mut state, set);
        }
    }

    /// So many bytes moved on a way whose round trip `rtt` tells.
    fn moved(&self, bytes: u64, blocks: &Arc<Semaphore>, rtt: impl FnOnce() -> Duration, set: impl FnOnce(u32)) {
        let mut state = locked(&self.state);
        state.moved += bytes;
        if state.owed > 0 {
            state.owed = state.owed.saturating_sub(bytes);
            if state.owed == 0 || u64::from(state.size() - state.told) >= state.owed + u64::from(BLOCK) {
                return self.tell(&mut state, set);
            }
        }
        let took = state.since.elapsed();
        if took < ROUND_MIN {
            return;
        }
        // Asking for it takes the connection's own lock: not for every packet.
        let round = rtt().max(ROUND_MIN);
        if took < round {
            return;
        }
        let per_round = u128::from(state.moved) * round.as_micros() / took.as_micros().max(1);
        (state.since, state.moved) = (Instant::now(), 0);
        let Some(paid) = &mut state.paid else {
            // There were no blocks when it was entered.
            state.paid = spare(blocks, self.first());
            return self.tell(&mut state, set);
        };
        let now = 1 + u32::try_from(paid.num_permits()).unwrap_or(u32::MAX);
        let more = now.min(WINDOW_BLOCKS.saturating_sub(now));
        if per_round * 8 < u128::from(now) * u128::from(BLOCK) * 5 || more == 0 {
            return;
        }
        if let Some(permits) = spare(blocks, more) {
            paid.merge(permits);
            self.tell(&mut state, set);
        }
    }

    /// Whether somebody uses it.
    pub(super) fn is_used(&self) -> bool {
        locked(&self.state).users > 0
    }

    /// True if somebody has to wait now until the window is of no use.
    fn leave(&self) -> bool {
        let mut state = locked(&self.state);
        state.users = state.users.saturating_sub(1);
        state.left = Instant::now();
        let waits = state.users == 0 && state.paid.is_some() && !state.lingers;
        state.lingers |= waits;
        waits
    }

    /// When it may be narrow again, unless it is used; nothing once that is settled.
    fn narrow(&self, set: impl FnOnce(u32)) -> Option<Instant> {
        let mut state = locked(&self.state);
        let at = state.left + LINGER;
        if state.users == 0 && at > Instant::now() {
            return Some(at);
        }
        state.lingers = false;
        if state.users == 0 && state.paid.take().is_some() {
            self.tell(&mut state, set);
        }
        None
    }
}

/// A use of a window.
#[derive(Debug)]
pub(super) struct Wide {
    link: Link,
    way: Way,
}

impl Wide {
    pub(super) fn new(link: Link, way: Way) -> Self {
        link.window(way).enter(&link.shared().blocks, |size| set(&link, way, size));
        Self { link, way }
    }

    /// So many bytes came or went.
    pub(super) fn moved(&self, bytes: u64) {
        let Self { link, way } = self;
        let rtt = || link.connection().rtt();
        link.window(*way).moved(bytes, &link.shared().blocks, rtt, |size| set(link, *way, size));
    }
}

fn set(link: &Link, way: Way, size: u32) {
    match way {
        Way::In => link.connection().set_receive_window(VarInt::from_u32(size)),
        Way::Out => link.connection().set_send_window(u64::from(size)),
    }
}

impl Drop for Wide {
    fn drop(&mut self) {
        if !self.link.window(self.way).leave() {
            return;
        }
        let (link, way) = (self.link.clone(), self.way);
        let tasks = link.shared().tasks.clone();
        tasks.spawn(async move {
            while let Some(at) = link.window(way).narrow(|size| set(&link, way, size)) {
                tokio::select! {
                    () = sleep_until(at) => {}
                    _ = link.connection().closed() => return,
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What quinn 0.11 makes of its windows: narrowing is a debt that what comes pays, widening allows more at once.
    struct Quic {
        window: u64,
        allowed: u64,
        debt: u64,
        came: u64,
    }

    impl Quic {
        fn set(&mut self, window: u32) {
            let window = u64::from(window);
            self.allowed += window.saturating_sub(self.window);
            self.debt += self.window.saturating_sub(window);
            self.window = window;
        }

        fn comes(&mut self, bytes: u64) {
            assert!(self.came + bytes <= self.allowed, "the peer may not send that");
            self.came += bytes;
            let paid = bytes.min(self.debt);
            self.debt -= paid;
            self.allowed += bytes - paid;
        }

        fn may_come(&self) -> u64 {
            self.allowed - self.came
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_never_allowed_more_than_the_widest_window() {
        let widest = u64::from(WINDOW_BLOCKS * BLOCK);
        let blocks = Arc::new(Semaphore::new(limits::BLOCKS));
        let window = Window::new(Way::In);
        let mut quic = Quic { window: u64::from(BLOCK), allowed: u64::from(BLOCK), debt: 0, came: 0 };
        for round in 0_u64..24 {
            window.enter(&blocks, |size| quic.set(size));
            // Some rounds bring much and the window grows, some next to nothing.
            for _ in 0..(round % 4) * 40 {
                let bytes = quic.may_come();
                quic.comes(bytes);
                tokio::time::advance(ROUND_MIN).await;
                window.moved(bytes, &blocks, || ROUND_MIN, |size| quic.set(size));
                assert!(quic.may_come() <= widest, "{round}: {}", quic.may_come());
            }
            assert!(quic.may_come() <= widest, "{round}: {}", quic.may_come());
            if round % 4 == 3 {
                assert_eq!(quic.may_come(), widest, "what is paid for is allowed in the end");
            }
            assert!(window.leave());
            tokio::time::advance(LINGER).await;
            assert_eq!(window.narrow(|size| quic.set(size)), None);
            assert_eq!((quic.window, blocks.available_permits()), (u64::from(BLOCK), limits::BLOCKS));
        }
        assert!(quic.may_come() > u64::from(BLOCK), "what was allowed is not taken back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sending_window_is_as_wide_as_is_paid_for() {
        let blocks = Arc::new(Semaphore::new(limits::BLOCKS));
        let (window, mut now) = (Window::new(Way::Out), BLOCK);
        for _ in 0..3 {
            window.enter(&blocks, |size| now = size);
            assert_eq!(now, (1 + SEND_BLOCKS) * BLOCK);
            assert!(window.leave());
            tokio::time::advance(LINGER).await;
            assert_eq!(window.narrow(|size| now = size), None);
            assert_eq!(now, BLOCK);
        }
    }
}
