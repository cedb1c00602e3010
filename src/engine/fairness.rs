//! Whether this node gives as much as it takes (SPEC-FACTS 14, C10).
//!
//! A [`Ledger`] keeps how many bytes moved in each hour of the last 30 days. Hours are counted by the monotonic clock, so
//! a calendar that jumps moves nothing; only the time that the program did not run is read off the calendar, and never as
//! less than nothing. "Today" is the last 24 hours, counted on from the moment: of the oldest hour counts what still lies
//! in the window.
//!
//! [`judge`] is the law; counting bytes is done where they move (`app::pump`, `app::mesh`), and slowing, pausing and
//! refusing too.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::config::Fairness;
use crate::model::rescue::{Moved, Violation};
use crate::model::time::{Now, UnixMs};

/// The shortest time that is told apart.
const HOUR: Duration = Duration::from_secs(3_600);
/// Hours that are kept: 30 days, and the one that falls out.
pub const HOURS: u64 = 30 * 24 + 1;
/// The windows of the report, hours.
pub const WINDOWS: [u64; 3] = [24, 7 * 24, 30 * 24];
/// A calendar before this was never set (2020): no time is read off it.
const CALENDAR_MIN: UnixMs = UnixMs(1_577_836_800_000);

/// Where the ledger's time stood, and what the calendar said then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Hours since the ledger began.
    pub hour: u64,
    /// Milliseconds into it.
    pub into_ms: u64,
    /// By the calendar.
    pub wall: UnixMs,
}

/// What moved in each hour.
#[derive(Clone, Debug)]
pub struct Ledger {
    slots: BTreeMap<u64, Moved>,
    hour: u64,
    into: Duration,
    /// When it was moved on last.
    at: Duration,
}

impl Ledger {
    /// What was kept, moved on by the time since.
    pub fn new(kept: impl IntoIterator<Item = (u64, Moved)>, mark: Mark, now: Now) -> Self {
        let mut ledger = Self {
            slots: kept.into_iter().filter(|(hour, _)| *hour <= mark.hour).collect(),
            hour: mark.hour,
            into: Duration::from_millis(mark.into_ms).min(HOUR),
            at: now.mono,
        };
        if mark.wall >= CALENDAR_MIN {
            ledger.pass(now.wall.since(mark.wall));
        }
        ledger
    }

    fn pass(&mut self, time: Duration) {
        let whole = self.into.saturating_add(time);
        self.hour = self.hour.saturating_add(whole.as_secs() / HOUR.as_secs());
        self.into = Duration::from_secs(whole.as_secs() % HOUR.as_secs())
            .saturating_add(Duration::from_nanos(u64::from(whole.subsec_nanos())));
        let oldest = (self.hour + 1).saturating_sub(HOURS);
        self.slots = self.slots.split_off(&oldest);
    }

    /// Time goes on, and so much moved since the last time.
    pub fn add(&mut self, moved: Moved, now: Now) {
        self.pass(now.mono.saturating_sub(self.at));
        self.at = self.at.max(now.mono);
        if moved != Moved::default() {
            let slot = self.slots.entry(self.hour).or_default();
            *slot = slot.plus(moved);
        }
    }

    /// What moved within the last `hours`.
    pub fn sum(&self, hours: u64) -> Moved {
        let left = u64::try_from(HOUR.saturating_sub(self.into).as_millis()).unwrap_or(0);
        let whole = u64::try_from(HOUR.as_millis()).unwrap_or(1);
        let part =
            |bytes: u64| u64::try_from(u128::from(bytes) * u128::from(left) / u128::from(whole)).unwrap_or(bytes);
        let of = |(hour, moved): (&u64, &Moved)| {
            let age = self.hour.saturating_sub(*hour);
            match age.cmp(&hours) {
                std::cmp::Ordering::Less => *moved,
                std::cmp::Ordering::Equal => Moved {
                    overlay_up: part(moved.overlay_up),
                    overlay_down: part(moved.overlay_down),
                    soulseek_up: part(moved.soulseek_up),
                    soulseek_down: part(moved.soulseek_down),
                    rescue_down: part(moved.rescue_down),
                },
                std::cmp::Ordering::Greater => Moved::default(),
            }
        };
        self.slots.iter().map(of).fold(Moved::default(), Moved::plus)
    }

    /// What must be kept now: where time stands, and this hour.
    pub fn keep(&self, now: Now) -> (Mark, Moved) {
        let into_ms = u64::try_from(self.into.as_millis()).unwrap_or(0);
        let mark = Mark { hour: self.hour, into_ms, wall: now.wall };
        (mark, self.slots.get(&self.hour).copied().unwrap_or_default())
    }
}

/// What is broken, and what follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What is broken.
    pub violations: Vec<Violation>,
    /// Mesh downloads are held to half their speed.
    pub throttle: bool,
    /// They stop.
    pub pause: bool,
    /// New uploads to mesh peers are refused.
    pub refuse: bool,
}

/// How this node stands. A ratio counts once more than the grace was received in its window; where nothing was received
/// all is well.
pub fn judge(ledger: &Ledger, rules: &Fairness) -> Verdict {
    let mut verdict = Verdict::default();
    if !rules.enabled {
        return verdict;
    }
    let (day, week) = (ledger.sum(WINDOWS[0]), ledger.sum(WINDOWS[1]));
    let below = |part: u64, whole: u64, milli: u64| u128::from(part) * 1_000 < u128::from(whole) * u128::from(milli);
    let week_counts = week.down() > rules.grace;
    if week_counts && below(week.up(), week.down(), rules.contribution_milli) {
        verdict.violations.push(Violation::LowContribution);
        verdict.throttle = rules.throttle;
        verdict.pause = rules.pause;
    }
    if day.down() > rules.grace && below(day.overlay_up, day.overlay_down, rules.overlay_milli) {
        verdict.violations.push(Violation::LowOverlayContribution);
    }
    let most = u128::from(week.soulseek_up) * u128::from(rules.overlay_to_soulseek_milli);
    if week_counts && u128::from(week.overlay_up) * 1_000 > most {
        verdict.violations.push(Violation::ExcessiveOverlay);
        verdict.refuse = true;
    }
    if day.overlay_down >= rules.daily {
        verdict.violations.push(Violation::DailyOverlay);
        verdict.pause = true;
    }
    verdict
}

impl Verdict {
    /// What is done about one of its violations.
    pub fn action(&self, violation: Violation) -> &'static str {
        match violation {
            Violation::LowContribution if self.pause => "mesh downloads are paused",
            Violation::LowContribution if self.throttle => "mesh downloads are held to half their speed",
            Violation::LowContribution | Violation::LowOverlayContribution => "nothing; share more",
            Violation::ExcessiveOverlay => "new uploads to mesh peers are refused",
            Violation::DailyOverlay => "mesh downloads are paused",
        }
    }
}

/// Seconds of bytes by which a speed is known.
const MEASURED_S: u64 = 5;
/// Nothing is held to less than this, bytes per second: it must be able to end. Chosen.
pub const HELD_MIN: u64 = 16 * 1024;

/// Half of the speed that mesh downloads had when they were to be held back: found out while bytes come, once for all
/// that run at the same time, and anew when others begin after all have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Half {
    /// Bytes, and milliseconds in which some came, while it is being measured.
    measured: (u64, u64),
    held: Option<u64>,
}

impl Half {
    /// So many bytes came in so long, and so many downloads run. Answers what they are held to, bytes per second; `None`
    /// while that is not `wanted`, or not known yet.
    pub fn pulse(&mut self, wanted: bool, running: usize, bytes: u64, passed: Duration) -> Option<u64> {
        if running == 0 {
            *self = Self::default();
        }
        if !wanted {
            self.held = None;
        }
        if self.held.is_none() && bytes > 0 {
            let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
            self.measured.0 = self.measured.0.saturating_add(bytes);
            self.measured.1 = self.measured.1.saturating_add(millis);
            let (bytes, millis) = self.measured;
            if millis >= MEASURED_S * 1_000 {
                if wanted {
                    self.held = Some((bytes.saturating_mul(1_000) / millis / 2).max(HELD_MIN));
                }
                // Older seconds count less and less.
                self.measured = (bytes / 2, millis / 2);
            }
        }
        self.held.filter(|_| wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::resolve;
    use crate::model::units::GIB;

    fn rules() -> Fairness {
        resolve(&[]).unwrap().config.fairness
    }

    fn at(hours: u64) -> Now {
        let mono = HOUR * u32::try_from(hours).unwrap();
        Now { mono, wall: UnixMs(1_767_400_000_000).plus(mono) }
    }

    fn empty() -> Ledger {
        Ledger::new([], Mark::default(), at(0))
    }

    fn down(overlay: u64, soulseek: u64) -> Moved {
        Moved { overlay_down: overlay, soulseek_down: soulseek, ..Moved::default() }
    }

    fn up(overlay: u64, soulseek: u64) -> Moved {
        Moved { overlay_up: overlay, soulseek_up: soulseek, ..Moved::default() }
    }

    #[test]
    fn downloads_are_held_to_half_of_what_they_had() {
        let second = Duration::from_secs(1);
        let mut half = Half::default();
        // It is wanted before anything runs: there is nothing to halve yet.
        for _ in 0..60 {
            assert_eq!(half.pulse(true, 0, 0, second), None);
        }
        // Bytes come at 1,000,000 a second, told every two seconds.
        let told: Vec<_> = (0..6).map(|_| half.pulse(true, 1, 2_000_000, second * 2)).collect();
        assert_eq!(told, [None, None, Some(500_000), Some(500_000), Some(500_000), Some(500_000)]);
        // Now it is slower, and not halved again; nor by another download.
        for _ in 0..60 {
            assert_eq!(half.pulse(true, 2, 500_000, second), Some(500_000));
        }
        assert_eq!(half.pulse(false, 2, 500_000, second), None);
        // All have ended: the next is measured anew.
        assert_eq!(half.pulse(true, 0, 0, second), None);
        let told: Vec<_> = (0..6).map(|_| half.pulse(true, 1, 100_000, second)).collect();
        assert_eq!(told[3..], [None, Some(50_000), Some(50_000)]);
        let mut slow = Half::default();
        assert_eq!((0..9).map(|_| slow.pulse(true, 1, 100, second)).last(), Some(Some(HELD_MIN)));
        // What ran before it was wanted is known already.
        let mut known = Half::default();
        for _ in 0..30 {
            known.pulse(false, 1, 400_000, second);
        }
        let told: Vec<_> = (0..4).map(|_| known.pulse(true, 1, 400_000, second)).collect();
        // Halves of halves are rounded.
        assert!(told.last().copied().flatten().is_some_and(|held| held.abs_diff(200_000) < 10), "{told:?}");
    }

    /// A week of traffic, hour by hour: each rule trips and releases where it should.
    #[test]
    fn a_week_in_which_every_rule_trips_and_releases() {
        use Violation::{DailyOverlay, ExcessiveOverlay, LowContribution, LowOverlayContribution};
        let mut ledger = empty();
        let mut told: Vec<(u64, Vec<Violation>)> = vec![(0, Vec::new())];
        for hour in 0..24 * 16 {
            ledger.add(
                match hour {
                    // Six hours of taking, 1 GiB each: from the sixth on the grace is used up.
                    0..6 => down(GIB, 0),
                    // Giving it back on Soulseek takes a while, and so it does in the end.
                    30..36 | 110..170 => up(0, GIB),
                    // Then to the mesh alone: twelve times one GiB are within twice six.
                    40..53 => up(GIB, 0),
                    // A day of a great many downloads from the mesh.
                    100..110 => down(5 * GIB, 0),
                    _ => Moved::default(),
                },
                at(hour),
            );
            let verdict = judge(&ledger, &rules());
            if told.last().is_some_and(|(_, last)| *last != verdict.violations) {
                told.push((hour, verdict.violations.clone()));
            }
            assert_eq!(verdict.refuse, verdict.violations.contains(&Violation::ExcessiveOverlay));
            assert_eq!(verdict.throttle, verdict.violations.contains(&Violation::LowContribution));
            assert_eq!(verdict.pause, verdict.violations.contains(&Violation::DailyOverlay));
        }
        let wanted: [(u64, &[Violation]); 12] = [
            (0, &[]),
            (5, &[LowContribution, LowOverlayContribution]),
            // The first hour leaves the window of a day: not more than the grace is left in it.
            (25, &[LowContribution]),
            (35, &[]),
            (52, &[ExcessiveOverlay]),
            (101, &[LowOverlayContribution, ExcessiveOverlay]),
            (102, &[LowContribution, LowOverlayContribution, ExcessiveOverlay]),
            // Fifty GiB within 24 hours, until the first of them leave.
            (109, &[LowContribution, LowOverlayContribution, ExcessiveOverlay, DailyOverlay]),
            (110, &[LowContribution, LowOverlayContribution, DailyOverlay]),
            (125, &[LowContribution, LowOverlayContribution]),
            (133, &[LowContribution]),
            (146, &[]),
        ];
        assert!(told.iter().map(|(hour, violations)| (*hour, violations.as_slice())).eq(wanted), "{told:?}");
    }

    #[test]
    fn within_the_grace_and_without_downloads_all_is_well() {
        let mut ledger = empty();
        ledger.add(up(100 * GIB, 0), at(1));
        ledger.add(down(5 * GIB, 0), at(1));
        assert_eq!(judge(&ledger, &rules()), Verdict::default());
        ledger.add(down(1, 0), at(1));
        assert_eq!(judge(&ledger, &rules()).violations, [Violation::ExcessiveOverlay]);
        assert_eq!(judge(&ledger, &Fairness { enabled: false, ..rules() }), Verdict::default());
    }

    #[test]
    fn today_is_the_last_24_hours_counted_on() {
        let mut ledger = empty();
        ledger.add(down(3_600, 0), at(0));
        let mut sums = Vec::new();
        for minutes in [0, 23 * 60 + 59, 24 * 60 + 30, 24 * 60 + 45, 25 * 60] {
            let mono = Duration::from_secs(minutes * 60);
            ledger.add(Moved::default(), Now { mono, wall: UnixMs(5) });
            sums.push(ledger.sum(24).overlay_down);
        }
        assert_eq!(sums, [3_600, 3_600, 1_800, 900, 0]);
        assert_eq!(ledger.sum(7 * 24).overlay_down, 3_600);
    }

    #[test]
    fn a_restart_forgets_nothing_and_a_jumping_calendar_moves_nothing() {
        let mut ledger = empty();
        ledger.add(down(7, 5), at(3));
        let kept = |ledger: &Ledger, now: Now| {
            let (mark, _) = ledger.keep(now);
            (ledger.slots.clone(), mark)
        };
        let begins = |wall: u64| Now { mono: Duration::ZERO, wall: UnixMs(wall) };
        let (slots, mark) = kept(&ledger, at(3));
        let after = |hours: u64| begins(at(3 + hours).wall.0);
        for (now, day, week) in [
            (after(0), 12, 12),
            (after(23), 12, 12),
            (after(25), 0, 12),
            (after(8 * 24), 0, 0),
            // The calendar went back: the time in between is not known, so none passed.
            (begins(0), 12, 12),
        ] {
            let again = Ledger::new(slots.clone(), mark, now);
            assert_eq!((again.sum(24).down(), again.sum(7 * 24).down()), (day, week), "{now:?}");
        }
        // A box without a clock of its own begins in 1970 and is told the time later.
        let (slots, mark) = kept(&ledger, begins(1_000));
        assert_eq!(Ledger::new(slots, mark, after(0)).sum(24).down(), 12);
        // While it runs the calendar means nothing at all.
        ledger.add(down(1, 0), Now { mono: at(4).mono, wall: UnixMs(u64::MAX) });
        assert_eq!(ledger.sum(24).down(), 13);
    }

    #[test]
    fn a_month_is_kept_and_no_more() {
        let mut ledger = empty();
        for hour in 0..2_000 {
            ledger.add(down(1, 0), at(hour));
        }
        assert!(ledger.slots.len() as u64 <= HOURS);
        assert_eq!(ledger.sum(30 * 24).overlay_down, 721);
    }
}
