//! When it is time: to look for issues that are mended without being asked, and to try again what the disk refused.

use std::time::Duration;

/// After so long what was refused is looked at again, scan or not: a catalog may answer by then. Chosen: scans may be a
/// week apart, and each of those issues costs a look at its file.
const AGAIN: Duration = Duration::from_secs(6 * 3_600);

/// Before the second attempt at what the disk refuses; doubles with each.
const PAUSE: Duration = Duration::from_secs(30);
/// The longest.
pub const PAUSE_MAX: Duration = Duration::from_secs(30 * 60);
/// Attempts in all. Chosen: with their pauses an hour and a half, in which an owner can make room or mount a disk anew.
const ATTEMPTS: u32 = 9;

/// Before the next attempt, when so many were refused; `None`: there is none.
pub fn pause(refused: u32) -> Option<Duration> {
    let doubled = PAUSE.saturating_mul(2_u32.saturating_pow(refused.saturating_sub(1)));
    (refused < ATTEMPTS).then(|| doubled.min(PAUSE_MAX))
}

/// Says when it is time: at the start, after each scan that came to its end, now and then, and as long as there is more.
///
/// Ends of scans are counted by the one who scans. Whether one runs would not do: most are over within a moment, and the
/// next may be under way already.
#[derive(Debug, Default)]
pub struct Turn {
    /// Of the last look: ends of scans, and when all was looked at anew.
    seen: Option<(u64, Duration)>,
    due: bool,
}

impl Turn {
    /// `ended` scans have come to their end since the start, and so much time has passed. True: everything is to be looked
    /// at anew, also what was refused.
    pub fn look(&mut self, ended: u64, now: Duration) -> bool {
        let anew = self.seen.is_none_or(|(seen, at)| seen != ended || now.saturating_sub(at) >= AGAIN);
        if anew {
            (self.seen, self.due) = (Some((ended, now)), true);
        }
        anew
    }

    /// Whether issues are to be looked for now.
    pub fn is_due(&self) -> bool {
        self.due
    }

    /// It was looked for some; whether there are more than could be begun.
    pub fn went(&mut self, more: bool) {
        self.due = more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Duration = Duration::from_secs(12 * 3_600);

    #[test]
    fn a_scan_that_nobody_saw_running_counts() {
        let mut turn = Turn::default();
        assert!(!turn.is_due());
        assert!(turn.look(0, NOON) && turn.is_due(), "what was found before the start is worked off");
        turn.went(false);
        assert!(!turn.look(0, NOON) && !turn.is_due(), "nothing has happened since");
        for ended in [1, 2, 40] {
            assert!(turn.look(ended, NOON) && turn.is_due(), "{ended}");
            turn.went(false);
            assert!(!turn.is_due());
        }
    }

    #[test]
    fn what_is_left_over_comes_next_and_a_scan_meanwhile_is_not_forgotten() {
        let mut turn = Turn::default();
        turn.look(3, NOON);
        turn.went(true);
        assert!(!turn.look(3, NOON) && turn.is_due(), "there is more, and what was refused stays so");
        // A scan ended while issues were being looked for.
        turn.went(false);
        assert!(turn.look(4, NOON) && turn.is_due());
    }

    #[test]
    fn what_the_disk_refuses_is_tried_with_growing_pauses_and_not_for_ever() {
        let seconds: Vec<u64> = (1..100).map_while(pause).map(|pause| pause.as_secs()).collect();
        assert_eq!(seconds, [30, 60, 120, 240, 480, 960, 1_800, 1_800]);
        assert_eq!((pause(0), pause(u32::MAX)), (Some(PAUSE), None));
    }

    #[test]
    fn what_was_refused_is_looked_at_again_some_hours_later() {
        let mut turn = Turn::default();
        turn.look(0, NOON);
        turn.went(false);
        assert!(!turn.look(0, NOON + AGAIN.saturating_sub(Duration::from_secs(1))) && !turn.is_due());
        assert!(turn.look(0, NOON + AGAIN) && turn.is_due());
        turn.went(false);
        assert!(!turn.look(0, NOON + AGAIN) && !turn.is_due());
    }
}
