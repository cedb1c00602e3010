//! The life of one transfer, as a table of transitions.
//!
//! ```text
//! state            Hold     Ask      Agree    Flow     End(e)    Revive
//! Requested        locally  remotely initial. -        over(e)   -
//! QueuedLocally    locally  remotely initial. -        over(e)   -
//! QueuedRemotely   locally  remotely initial. -        over(e)   -
//! Initializing     locally  remotely initial. flowing  over(e)   -
//! InProgress       locally  -        -        flowing  over(e)   -
//! Succeeded        -        -        -        -        -         -
//! other endings    -        -        -        -        -         locally
//! ```
//!
//! Agree comes in any waiting state, because a user may answer hours after we stopped waiting, or with a second token
//! where the first led nowhere. A running transfer is never asked for again: it ends or falls back to waiting first.
//! Decides which changes are possible; `downloads` and `uploads` decide when they happen.

use std::time::Duration;

use crate::model::transfer::{Ending, TransferState};

/// What can happen to a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferEvent {
    /// It has to wait for us: a retry's time, the login, a slot, room on the disk.
    Hold,
    /// The other user was asked, or is known to have it in the queue.
    Ask,
    /// Both sides agreed; the file connection is being made.
    Agree,
    /// Bytes flow.
    Flow,
    /// It is over.
    End(Ending),
    /// The owner wants a failed one again.
    Revive,
}

/// The state after an event; `None` where the event makes no sense and is to be ignored.
pub fn next(state: TransferState, event: TransferEvent) -> Option<TransferState> {
    use TransferEvent as E;
    use TransferState as S;
    match (state, event) {
        (S::Completed(Ending::Succeeded), _) => None,
        (S::Completed(_), E::Revive) => Some(S::QueuedLocally),
        (S::Completed(_), _) | (_, E::Revive) => None,
        (_, E::End(ending)) => Some(S::Completed(ending)),
        (_, E::Hold) => Some(S::QueuedLocally),
        (S::Initializing | S::InProgress, E::Flow) => Some(S::InProgress),
        (_, E::Flow) | (S::InProgress, _) => None,
        (_, E::Ask) => Some(S::QueuedRemotely),
        (_, E::Agree) => Some(S::Initializing),
    }
}

/// How long a download may stay in a state without anything happening before something is done about it. `None` for
/// what is over.
///
/// - `Requested`: chosen, a minute; it is left within the call that made it or by the next one.
/// - `QueuedLocally`: the longest pause between two attempts; whatever it waits for is looked at again then.
/// - `QueuedRemotely`: silence after which the user is asked again (chosen; a restarted client forgets its queue).
/// - `Initializing`: for the file connection (chosen; three dials).
/// - `InProgress`: without a byte (RELIABILITY-FACTS 4, row 3).
pub fn patience(state: TransferState) -> Option<Duration> {
    match state {
        TransferState::Requested | TransferState::InProgress => Some(Duration::from_secs(60)),
        TransferState::QueuedLocally | TransferState::QueuedRemotely => Some(Duration::from_secs(30 * 60)),
        TransferState::Initializing => Some(Duration::from_secs(30)),
        TransferState::Completed(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDINGS: [Ending; 6] =
        [Ending::Succeeded, Ending::Cancelled, Ending::TimedOut, Ending::Errored, Ending::Rejected, Ending::Aborted];

    /// The table of the module's head, written a second time.
    fn expected(state: TransferState, event: TransferEvent) -> Option<TransferState> {
        use TransferState as S;
        let rows = [
            (S::Requested, [true, true, true, false, true]),
            (S::QueuedLocally, [true, true, true, false, true]),
            (S::QueuedRemotely, [true, true, true, false, true]),
            (S::Initializing, [true, true, true, true, true]),
            (S::InProgress, [true, false, false, true, true]),
        ];
        let (column, target) = match event {
            TransferEvent::Hold => (0, S::QueuedLocally),
            TransferEvent::Ask => (1, S::QueuedRemotely),
            TransferEvent::Agree => (2, S::Initializing),
            TransferEvent::Flow => (3, S::InProgress),
            TransferEvent::End(ending) => (4, S::Completed(ending)),
            TransferEvent::Revive => {
                return matches!(state, S::Completed(ending) if ending != Ending::Succeeded)
                    .then_some(S::QueuedLocally);
            }
        };
        rows.iter().find(|(from, _)| *from == state).and_then(|(_, allowed)| allowed[column].then_some(target))
    }

    #[test]
    fn every_state_and_event_follow_the_table() {
        let mut states = vec![
            TransferState::Requested,
            TransferState::QueuedLocally,
            TransferState::QueuedRemotely,
            TransferState::Initializing,
            TransferState::InProgress,
        ];
        states.extend(ENDINGS.map(TransferState::Completed));
        let mut events = vec![
            TransferEvent::Hold,
            TransferEvent::Ask,
            TransferEvent::Agree,
            TransferEvent::Flow,
            TransferEvent::Revive,
        ];
        events.extend(ENDINGS.map(TransferEvent::End));
        for state in &states {
            assert_eq!(patience(*state).is_none(), state.is_over(), "{state:?}");
            for event in &events {
                assert_eq!(next(*state, *event), expected(*state, *event), "{state:?} {event:?}");
            }
        }
    }
}
