//! What a user's file says of the user: whoever gave a job what was promised is asked before others by the next one, and
//! whoever did not, behind them (SPEC-FACTS 14).
//!
//! A wait in a queue is no deed, nor what the owner's wishes or this machine's disk are to blame for.

use crate::engine::swarm::reputation::{NEUTRAL, Reputation, ReputationSettings};
use crate::model::time::UnixMs;
use crate::model::transfer::{Ending, JOINED, OWN_DISK, Rung};

/// What one file came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It came, and is what was wanted.
    Kept,
    /// It came, and is another recording, damaged, or made of a lossy copy.
    Untrue,
    /// It was refused, or broke off for good.
    Failed,
    /// It did not come in time.
    Late,
}

impl Deed {
    /// As it is counted with what else is known of the user: a file like a run of pieces.
    pub fn counted(self) -> Reputation {
        let mut counted = Reputation::default();
        *match self {
            Self::Kept => &mut counted.successful,
            Self::Untrue => &mut counted.corrupt,
            Self::Failed => &mut counted.failed,
            Self::Late => &mut counted.timed_out,
        } = 1.0;
        counted
    }
}

/// What a download says that ended, for this reason.
pub fn of_ending(ending: Ending, reason: Option<&str>) -> Option<Deed> {
    match ending {
        Ending::TimedOut => Some(Deed::Late),
        Ending::Rejected => Some(Deed::Failed),
        Ending::Errored => {
            let is_nobodys = |reason: &str| reason.starts_with(OWN_DISK) || reason.starts_with(JOINED);
            (!reason.is_some_and(is_nobodys)).then_some(Deed::Failed)
        }
        Ending::Succeeded | Ending::Cancelled | Ending::Aborted => None,
    }
}

/// Whether a finished file that rests on this came from one user alone, so that what it is says something of the user.
pub fn is_of_one(rung: Option<Rung>) -> bool {
    rung == Some(Rung::SingleSource)
}

/// What is known of a user at this moment, 0 to 1,000; 500 is nothing.
pub fn milli(known: Reputation, now: UnixMs, settings: &ReputationSettings) -> u16 {
    let score = if settings.enabled { known.faded(now, settings.half_life).score() } else { NEUTRAL };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1,000")]
    let milli = (score.clamp(0.0, 1.0) * 1_000.0) as u16;
    milli
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_the_owner_or_this_machine_did_is_not_the_users_deed() {
        let broken = "the connection broke";
        for (ending, reason, deed) in [
            (Ending::Rejected, "Banned", Some(Deed::Failed)),
            (Ending::Errored, broken, Some(Deed::Failed)),
            (Ending::TimedOut, "it cannot be reached", Some(Deed::Late)),
            (Ending::Errored, "disk: no space", None),
            (Ending::Errored, "the joined file is damaged: no end of stream", None),
            (Ending::Cancelled, broken, None),
            (Ending::Aborted, broken, None),
            (Ending::Succeeded, "", None),
        ] {
            assert_eq!(of_ending(ending, Some(reason)), deed, "{ending:?} {reason}");
        }
        assert_eq!(of_ending(Ending::Errored, None), Some(Deed::Failed));
        let only = [
            None,
            Some(Rung::SingleSource),
            Some(Rung::JoinedByOverlap),
            Some(Rung::Verified),
            Some(Rung::RescuedCopy),
        ];
        assert_eq!(only.map(is_of_one), [false, true, false, false, false]);
    }

    #[test]
    fn three_untrue_files_put_a_user_last_and_time_forgives() {
        let settings = ReputationSettings::default();
        let after =
            |deeds: &[Deed]| deeds.iter().fold(Reputation::default(), |known, deed| known.with(&deed.counted()));
        let now = |deeds: &[Deed]| milli(after(deeds), UnixMs(0), &settings);
        assert_eq!(now(&[]), 500);
        assert!(now(&[Deed::Untrue; 2]) > 300 && now(&[Deed::Untrue; 3]) < 300);
        assert!(now(&[Deed::Late]) < now(&[Deed::Failed]) && now(&[Deed::Failed]) < 500);
        assert!(now(&[Deed::Kept; 9]) > 700 && now(&[Deed::Kept, Deed::Untrue]) < 500);
        let liar = after(&[Deed::Untrue; 4]);
        let in_ten = UnixMs(u64::try_from((10 * settings.half_life).as_millis()).unwrap());
        assert!(milli(liar, UnixMs(0), &settings) < 300 && milli(liar, in_ten, &settings) > 490);
        assert_eq!(milli(liar, UnixMs(0), &ReputationSettings { enabled: false, ..settings }), 500);
        assert_eq!(milli(liar, in_ten, &ReputationSettings { half_life: Duration::ZERO, ..settings }), 500);
    }
}
