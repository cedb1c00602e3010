//! What a transfer from one peer goes through, from the question to the end (SPEC-FACTS 11.1).
//!
//! | From | Event | To | Action |
//! |---|---|---|---|
//! | new | asked | negotiating | |
//! | negotiating | offered | ready | |
//! | negotiating | refused, 30 s | aborted | ask again later |
//! | ready, requesting, draining | refused | aborted | ask again later |
//! | ready, draining | picked | requesting | |
//! | requesting | picked, response, run over | requesting | |
//! | ready, requesting | covered by others | draining | ask for no more |
//! | draining | nothing is owed any more | completed | tell the peer: complete |
//! | ready, requesting, draining | every piece is there | verifying | ask for no more |
//! | verifying | right | completed | tell the peer: complete |
//! | verifying | wrong | aborted | never again for this file |
//! | any active | the peer is gone, 30 s without a byte that is owed | aborted | count it against the peer |
//! | any active | the owner does not want it | aborted | tell the peer: `user_cancelled` |
//!
//! Nothing leaves completed and aborted; every other state has a deadline. Pieces are verified one by one as they come, so
//! a transfer whose own pieces hold is completed, whatever becomes of the file (C17). A piece that was covered by others
//! and comes open again may make a draining transfer request again.

use std::time::Duration;

use crate::model::swarm::CancelReason;

/// For an answer to the question.
pub const NEGOTIATING: Duration = Duration::from_secs(30);
/// Without a byte that is owed.
pub const IDLE: Duration = Duration::from_secs(30);
/// An offer holds so long without a request (SPEC-FACTS 11.2).
pub const OFFERED: Duration = Duration::from_secs(600);
/// For the file to be checked as a whole. Chosen: a slow card reads 4 GiB in less.
pub const VERIFYING: Duration = Duration::from_secs(600);

/// Where a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Wanted, nobody asked yet.
    New,
    /// The peer was asked.
    Negotiating,
    /// It has the file for us.
    Ready,
    /// Pieces are asked for.
    Requesting,
    /// What is owed may still come; no more is asked for.
    Draining,
    /// Every piece is there.
    Verifying,
    /// Over, well.
    Completed,
    /// Over, badly.
    Aborted,
}

impl State {
    /// Whether it is over.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Aborted)
    }

    /// As SPEC-FACTS 11.1 writes it, without the `D_`.
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Negotiating => "negotiating",
            Self::Ready => "ready",
            Self::Requesting => "requesting",
            Self::Draining => "draining",
            Self::Verifying => "verifying",
            Self::Completed => "completed",
            Self::Aborted => "aborted",
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer was asked for the file.
    Asked,
    /// It has it for us.
    Offered,
    /// It has not, or not for us, or not any more.
    Refused,
    /// It was asked for a run of pieces.
    Picked,
    /// Bytes came.
    Response,
    /// A run is over, however.
    RunOver,
    /// Others have, or will have, all that it could bring.
    Covered,
    /// Every piece of the file is there.
    Full,
    /// The whole was checked.
    Verified(bool),
    /// The connection is gone.
    Gone,
    /// The owner does not want the file any more.
    Cancelled,
    /// Time passed.
    Tick,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask for no more pieces.
    Stop,
    /// Take back what is under way and tell why.
    Cancel(CancelReason),
    /// It may be asked for the file again, later.
    AskLater,
    /// It counts against the peer; it may be asked again later.
    Penalise,
    /// Never again for this file.
    Never,
}

/// A transfer from one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downloader {
    state: State,
    until: Duration,
    owed: u32,
}

impl Downloader {
    /// One that is wanted.
    pub fn new(now: Duration) -> Self {
        Self { state: State::New, until: now.saturating_add(NEGOTIATING), owed: 0 }
    }

    /// One with a peer whose offer still stands.
    pub fn offered(now: Duration) -> Self {
        Self { state: State::Ready, until: now.saturating_add(OFFERED), owed: 0 }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// When to tick; none once it is over.
    pub fn deadline(&self) -> Option<Duration> {
        (!self.state.is_over()).then_some(self.until)
    }

    /// One event; what has no place in a state changes nothing.
    pub fn handle(&mut self, event: Event, now: Duration) -> Option<Action> {
        use Event as E;
        use State as S;
        if self.state.is_over() {
            return None;
        }
        match (self.state, event) {
            (_, E::Gone) => self.go(S::Aborted, now, Some(Action::Penalise)),
            (_, E::Cancelled) => self.go(S::Aborted, now, Some(Action::Cancel(CancelReason::UserCancelled))),
            (_, E::Tick) => self.tick(now),
            (S::New, E::Asked) => self.go(S::Negotiating, now, None),
            (S::Negotiating, E::Offered) => self.go(S::Ready, now, None),
            (S::Negotiating | S::Ready | S::Requesting | S::Draining, E::Refused) => {
                self.go(S::Aborted, now, Some(Action::AskLater))
            }
            (S::Ready | S::Requesting | S::Draining, E::Picked) => {
                self.owed = self.owed.saturating_add(1);
                // What was asked for before is not forgiven by asking for more.
                if self.owed == 1 || self.state != S::Requesting { self.go(S::Requesting, now, None) } else { None }
            }
            (S::Requesting | S::Draining, E::Response) => self.go(self.state, now, None),
            (S::Requesting, E::RunOver) => {
                self.owed = self.owed.saturating_sub(1);
                self.go(S::Requesting, now, None)
            }
            (S::Draining, E::RunOver) => {
                self.owed = self.owed.saturating_sub(1);
                self.drained(now)
            }
            (S::Ready | S::Requesting, E::Covered) => {
                self.go(S::Draining, now, None);
                self.drained(now).or(Some(Action::Stop))
            }
            (S::Ready | S::Requesting | S::Draining, E::Full) => self.go(S::Verifying, now, Some(Action::Stop)),
            (S::Verifying, E::Verified(true)) => {
                self.go(S::Completed, now, Some(Action::Cancel(CancelReason::Complete)))
            }
            (S::Verifying, E::Verified(false)) => self.go(S::Aborted, now, Some(Action::Never)),
            _ => None,
        }
    }

    fn drained(&mut self, now: Duration) -> Option<Action> {
        if self.owed == 0 { self.go(State::Completed, now, Some(Action::Cancel(CancelReason::Complete))) } else { None }
    }

    fn tick(&mut self, now: Duration) -> Option<Action> {
        if now < self.until {
            return None;
        }
        let action = match self.state {
            State::New | State::Negotiating | State::Ready => Action::AskLater,
            // Nothing was owed: we did not ask.
            State::Requesting if self.owed == 0 => Action::AskLater,
            State::Verifying => Action::Never,
            _ => Action::Penalise,
        };
        self.go(State::Aborted, now, Some(action))
    }

    fn go(&mut self, state: State, now: Duration, action: Option<Action>) -> Option<Action> {
        self.state = state;
        let time = match state {
            State::New | State::Negotiating => NEGOTIATING,
            State::Ready => OFFERED,
            State::Requesting if self.owed == 0 => OFFERED,
            State::Requesting | State::Draining => IDLE,
            State::Verifying => VERIFYING,
            State::Completed | State::Aborted => Duration::ZERO,
        };
        self.until = now.saturating_add(time);
        action
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVENTS: [Event; 13] = [
        Event::Asked,
        Event::Offered,
        Event::Refused,
        Event::Picked,
        Event::Response,
        Event::RunOver,
        Event::Covered,
        Event::Full,
        Event::Verified(true),
        Event::Verified(false),
        Event::Gone,
        Event::Cancelled,
        Event::Tick,
    ];

    const NOW: Duration = Duration::from_secs(1_000);

    /// In this state, with one run under way where there can be one.
    fn in_state(state: State) -> Downloader {
        let owed = u32::from(matches!(state, State::Requesting | State::Draining));
        Downloader { state, until: NOW, owed }
    }

    #[test]
    #[allow(clippy::match_same_arms, reason = "row by row, as the table")]
    fn every_state_answers_every_event_as_the_table_says() {
        use Action as A;
        use Event as E;
        use State as S;
        let states =
            [S::New, S::Negotiating, S::Ready, S::Requesting, S::Draining, S::Verifying, S::Completed, S::Aborted];
        let complete = A::Cancel(CancelReason::Complete);
        for state in states {
            for event in EVENTS {
                let wanted = match (state, event) {
                    (S::Completed | S::Aborted, _) => (state, None),
                    (_, E::Gone) => (S::Aborted, Some(A::Penalise)),
                    (_, E::Cancelled) => (S::Aborted, Some(A::Cancel(CancelReason::UserCancelled))),
                    (S::New, E::Asked) => (S::Negotiating, None),
                    (S::Negotiating, E::Offered) => (S::Ready, None),
                    (S::Negotiating | S::Ready | S::Requesting | S::Draining, E::Refused) => {
                        (S::Aborted, Some(A::AskLater))
                    }
                    (S::New | S::Negotiating | S::Ready, E::Tick) => (S::Aborted, Some(A::AskLater)),
                    (S::Requesting | S::Draining, E::Tick) => (S::Aborted, Some(A::Penalise)),
                    (S::Verifying, E::Tick | E::Verified(false)) => (S::Aborted, Some(A::Never)),
                    (S::Ready | S::Requesting | S::Draining, E::Picked) => (S::Requesting, None),
                    (S::Ready, E::Covered) => (S::Completed, Some(complete)),
                    (S::Requesting, E::Covered) => (S::Draining, Some(A::Stop)),
                    (S::Draining, E::RunOver) => (S::Completed, Some(complete)),
                    (S::Ready | S::Requesting | S::Draining, E::Full) => (S::Verifying, Some(A::Stop)),
                    (S::Verifying, E::Verified(true)) => (S::Completed, Some(complete)),
                    _ => (state, None),
                };
                let mut transfer = in_state(state);
                let action = transfer.handle(event, NOW);
                assert_eq!((transfer.state(), action), wanted, "{state:?} on {event:?}");
                assert_eq!(transfer.deadline().is_none(), transfer.state().is_over());
            }
        }
    }

    #[test]
    fn bytes_that_come_keep_a_transfer_alive() {
        let at = Duration::from_secs;
        let mut transfer = Downloader::new(at(0));
        transfer.handle(Event::Asked, at(1));
        transfer.handle(Event::Tick, at(30));
        transfer.handle(Event::Offered, at(30));
        assert_eq!(transfer.deadline(), Some(at(630)));
        transfer.handle(Event::Picked, at(40));
        transfer.handle(Event::Response, at(60));
        transfer.handle(Event::Picked, at(80));
        assert_eq!(transfer.deadline(), Some(at(90)), "asking for more is no sign of life of the peer");
        transfer.handle(Event::RunOver, at(85));
        transfer.handle(Event::RunOver, at(86));
        assert_eq!(transfer.deadline(), Some(at(686)), "whoever owes nothing is not late");
        transfer.handle(Event::Picked, at(100));
        assert_eq!(transfer.handle(Event::Tick, at(130)), Some(Action::Penalise));
        assert_eq!(transfer.state(), State::Aborted);
    }

    proptest! {
        /// Whatever comes in whatever order: nothing panics, and with time alone every transfer ends.
        #[test]
        fn every_transfer_ends(steps in proptest::collection::vec((0_usize..EVENTS.len(), 0_u64..40), 0..200)) {
            let mut transfer = Downloader::new(Duration::ZERO);
            let mut now = Duration::ZERO;
            for (event, seconds) in steps {
                now += Duration::from_secs(seconds);
                let before = transfer.state();
                transfer.handle(EVENTS[event], now);
                prop_assert!(!before.is_over() || transfer.state() == before);
            }
            for _ in 0..4 {
                if let Some(at) = transfer.deadline() {
                    now = now.max(at);
                    transfer.handle(Event::Tick, now);
                }
            }
            prop_assert!(transfer.state().is_over());
        }
    }
}
