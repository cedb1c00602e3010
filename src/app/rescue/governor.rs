//! What moved through the sockets is written down, and held against the rules of fairness.

use std::time::Duration;

use super::{Inner, locked};
use crate::app::soulseek::Parts;
use crate::engine::fairness::{Half, Ledger, Verdict, WINDOWS, judge};
use crate::model::config::Fairness;
use crate::model::rescue::{Moved, TrafficView, Violation};
use crate::store::StoreError;

/// What moved is kept so often: a kill costs that much of it.
const KEEP: Duration = Duration::from_secs(30);

/// While a rule stops or refuses something, what moves between mesh peers is kept so often: it decides for how long.
const KEEP_BROKEN: Duration = Duration::from_secs(2);

/// Where time stands is kept so often while nothing moves: a kill makes the hour longer by that, and a card is not written to
/// twice a minute for nothing.
const KEEP_TIME: Duration = Duration::from_secs(600);

/// The ledger, and what follows from it.
pub(super) struct Governor {
    rules: Fairness,
    ledger: Ledger,
    /// What the sockets had counted the last time.
    counted: Moved,
    verdict: Verdict,
    judge_at: Duration,
    keep_at: Duration,
    /// What this hour had come to the last time, and when.
    kept: (Moved, Duration),
    /// Since it was kept, hours that are over.
    hours: Vec<(u64, Moved)>,
    /// When it was looked last.
    at: Duration,
    half: Half,
    /// Mesh downloads are held to this.
    held: Option<u64>,
}

impl Governor {
    /// Goes on with what was kept.
    pub(super) fn new(rules: Fairness, parts: &Parts) -> Result<Self, StoreError> {
        let (rows, mark) = parts.store.read(|txn, tables| tables.rescue.traffic(txn))?;
        Ok(Self {
            rules,
            ledger: Ledger::new(rows, mark, parts.clock.now()),
            counted: parts.pump.limiter().traffic.moved(),
            verdict: Verdict::default(),
            judge_at: Duration::ZERO,
            keep_at: Duration::ZERO,
            kept: (Moved::default(), Duration::ZERO),
            hours: Vec::new(),
            at: parts.clock.now().mono,
            half: Half::default(),
            held: None,
        })
    }
}

fn less(now: Moved, before: Moved) -> Moved {
    Moved {
        overlay_up: now.overlay_up.saturating_sub(before.overlay_up),
        overlay_down: now.overlay_down.saturating_sub(before.overlay_down),
        soulseek_up: now.soulseek_up.saturating_sub(before.soulseek_up),
        soulseek_down: now.soulseek_down.saturating_sub(before.soulseek_down),
        rescue_down: now.rescue_down.saturating_sub(before.rescue_down),
    }
}

impl Inner {
    /// A second passed.
    pub(super) async fn pulse(&self) {
        let now = self.parts.clock.now();
        let keep = {
            let mut governor = locked(&self.governor);
            let governor = &mut *governor;
            // Before what moved: a run that ends in between counts twice for a second, rather than not at all.
            let over = self.quota.over();
            let counted = self.parts.pump.limiter().traffic.moved();
            let moved = less(counted, governor.counted);
            governor.counted = counted;
            let (before, of_hour) = governor.ledger.keep(now);
            governor.ledger.add(moved, now);
            if governor.ledger.keep(now).0.hour != before.hour {
                governor.hours.push((before.hour, of_hour));
            }
            let left = self.rails.daily.saturating_sub(governor.ledger.sum(WINDOWS[0]).rescue_down);
            self.quota.set(left, over);
            let before = governor.verdict.violations.len();
            governor.judge(now.mono);
            let passed = now.mono.saturating_sub(governor.at);
            governor.at = now.mono;
            let verdict = &governor.verdict;
            let half = governor.half.pulse(verdict.throttle, self.mesh.fetching(), moved.overlay_down, passed);
            governor.held = if verdict.pause { Some(0) } else { half };
            self.mesh.hold_back(governor.held);
            self.mesh.refuse_uploads(governor.verdict.refuse);
            // What has consequences outlives a kill.
            let of_hour = governor.ledger.keep(now).1;
            let has_changed = of_hour != governor.kept.0 || !governor.hours.is_empty();
            let since = now.mono.saturating_sub(governor.kept.1);
            let now_stops = governor.verdict.pause || governor.verdict.refuse;
            let of_mesh = |moved: &Moved| (moved.overlay_up, moved.overlay_down);
            let due = (now.mono >= governor.keep_at && (has_changed || since >= KEEP_TIME))
                || (now_stops && of_mesh(&of_hour) != of_mesh(&governor.kept.0) && since >= KEEP_BROKEN)
                || governor.verdict.violations.len() != before;
            if due {
                governor.keep_at = now.mono + KEEP;
                governor.kept = (of_hour, now.mono);
            }
            due
        };
        if keep {
            self.keep_traffic().await;
        }
    }

    /// Keeps what moved.
    pub(super) async fn keep_traffic(&self) {
        let (mark, hours) = {
            let mut governor = locked(&self.governor);
            let (mark, moved) = governor.ledger.keep(self.parts.clock.now());
            let mut hours = std::mem::take(&mut governor.hours);
            hours.push((mark.hour, moved));
            (mark, hours)
        };
        let kept = self.parts.store.write(move |txn, tables| tables.rescue.put_traffic(txn, &hours, mark)).await;
        if let Err(error) = kept {
            tracing::warn!(%error, "what moved could not be kept");
        }
    }

    /// Bytes that rescues brought within 24 hours.
    pub(super) fn today(&self) -> u64 {
        locked(&self.governor).ledger.sum(WINDOWS[0]).rescue_down
    }

    /// How fairness stands.
    pub(super) fn traffic(&self) -> TrafficView {
        let governor = locked(&self.governor);
        let verdict = &governor.verdict;
        TrafficView {
            enabled: governor.rules.enabled,
            windows: WINDOWS.map(|hours| governor.ledger.sum(hours)),
            violations: verdict.violations.iter().map(|violation| (*violation, verdict.action(*violation))).collect(),
            grace: governor.rules.grace,
            rescue_left: (self.quota.left(), self.rails.daily),
            throttled: verdict.throttle && !verdict.pause,
            held_to: governor.held.filter(|held| *held > 0),
            paused: verdict.pause,
            refusing: verdict.refuse,
        }
    }
}

impl Governor {
    /// Ratios are looked at every few minutes, caps at once.
    fn judge(&mut self, now: Duration) {
        let caps = |verdict: &Verdict| {
            [Violation::ExcessiveOverlay, Violation::DailyOverlay].map(|cap| verdict.violations.contains(&cap))
        };
        let verdict = judge(&self.ledger, &self.rules);
        if now < self.judge_at && caps(&verdict) == caps(&self.verdict) {
            return;
        }
        if now >= self.judge_at {
            self.judge_at = now + Duration::from_secs(self.rules.interval_min.saturating_mul(60));
        }
        if verdict.violations != self.verdict.violations {
            for violation in &verdict.violations {
                tracing::warn!(violation = violation.name(), action = verdict.action(*violation), "fairness");
            }
        }
        self.verdict = verdict;
    }
}
