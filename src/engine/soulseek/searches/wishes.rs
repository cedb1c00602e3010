//! Wishes: searches that are repeated, one per turn, at the interval the server allows.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Kind, Searches, WHOLE, check_words, plain_request};
use crate::engine::soulseek::downloads::Turn;
use crate::engine::soulseek::effect::Effects;
use crate::engine::soulseek::io::{Refusal, Reply};
use crate::model::id::{CommandId, SearchId};
use crate::model::limits;
use crate::model::record::{Change, Wish};
use crate::model::time::Now;

/// Until the server says otherwise: what it tells those without privileges.
const INTERVAL: Duration = Duration::from_secs(720);
/// Bounds for what it says.
const INTERVAL_MIN: Duration = Duration::from_secs(60);
const INTERVAL_MAX: Duration = Duration::from_secs(86_400);
/// The first turn after a login, if no earlier one forbids it.
const FIRST: Duration = Duration::from_secs(30);
/// Files kept of a wish's run: shares the rows of ordinary searches.
const RESPONSES: u32 = 250;

#[derive(Debug)]
pub(super) struct Wishes {
    all: BTreeMap<u64, Wish>,
    interval: Duration,
    /// The next turn.
    at: Option<Duration>,
    /// The last turn.
    last: Option<Duration>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { all: BTreeMap::new(), interval: INTERVAL, at: None, last: None }
    }
}

impl Searches {
    /// Takes over what the store holds, at start.
    pub fn load_wishes(&mut self, wishes: Vec<Wish>) {
        self.wishes.all = wishes.into_iter().take(limits::WISHES).map(|wish| (wish.id, wish)).collect();
    }

    /// All wishes, oldest first.
    pub fn wishes(&self) -> Vec<Wish> {
        self.wishes.all.values().cloned().collect()
    }

    /// One more wish.
    pub fn add_wish(&mut self, command: CommandId, text: &str, turn: &mut Turn<'_>) {
        let text = text.trim();
        let refusal = if let Err(why) = check_words(text) {
            Some(Refusal::Invalid(why))
        } else if self.wishes.all.values().any(|wish| wish.text.to_lowercase() == text.to_lowercase()) {
            Some(Refusal::Duplicate)
        } else if self.wishes.all.len() >= limits::WISHES {
            Some(Refusal::Full(format!("{} wishes are kept", limits::WISHES)))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            turn.out.refuse(command, refusal);
            return;
        }
        let id = self.wishes.all.keys().next_back().map_or(1, |last| last.saturating_add(1));
        let wish = Wish { id, text: text.to_owned(), added_at: turn.now.wall, searched_at: None, found: 0 };
        turn.out.store(Change::Wish(wish.clone()));
        self.wishes.all.insert(id, wish);
        turn.out.reply(command, Reply::Wish(id));
        self.plan_wish(turn.now);
    }

    /// One wish less. What its last run found stays until it is forgotten.
    pub fn remove_wish(&mut self, command: CommandId, id: u64, out: &mut Effects) {
        if self.wishes.all.remove(&id).is_none() {
            out.refuse(command, Refusal::NotFound);
            return;
        }
        out.store(Change::WishGone(id));
        out.reply(command, Reply::Done);
    }

    /// The server tells how often it lets wishes be searched for.
    pub fn on_wish_interval(&mut self, seconds: u32, now: Now) {
        self.wishes.interval = Duration::from_secs(u64::from(seconds)).clamp(INTERVAL_MIN, INTERVAL_MAX);
        self.plan_wish(now);
    }

    /// Sets the next turn: an interval after the last one, or soon where there was none.
    pub(super) fn plan_wish(&mut self, now: Now) {
        let soon = now.in_(FIRST);
        let at = self.wishes.last.map_or(soon, |last| last.saturating_add(self.wishes.interval).max(now.mono));
        self.wishes.at = Some(at);
    }

    pub(super) fn wish_at(&self) -> Option<Duration> {
        self.wishes.at.filter(|_| self.logged_in && !self.wishes.all.is_empty())
    }

    /// The turn of the wish that was not searched for the longest.
    pub(super) fn on_wish_due(&mut self, turn: &mut Turn<'_>) {
        if self.wish_at().is_none_or(|at| at > turn.now.mono) {
            return;
        }
        self.wishes.last = Some(turn.now.mono);
        self.plan_wish(turn.now);
        let under_way = self.runs.values().any(|run| matches!(run.kind, Kind::Wish(_)) && !run.is_over());
        let Some(wish) = self.wishes.all.values().min_by_key(|wish| (wish.searched_at, wish.id)) else { return };
        if under_way {
            return;
        }
        let (id, text) = (wish.id, wish.text.clone());
        self.runs.retain(|_, run| run.kind != Kind::Wish(id));
        if !self.make_room() {
            return;
        }
        let mut request = plain_request(SearchId::from_random(turn.chance.wide()), &text);
        request.response_limit = RESPONSES;
        self.add(Kind::Wish(id), request, format!("wish: {text}"), WHOLE, turn);
    }

    pub(super) fn on_wish_sent(&mut self, id: u64, turn: &mut Turn<'_>) {
        if let Some(wish) = self.wishes.all.get_mut(&id) {
            wish.searched_at = Some(turn.now.wall);
            turn.out.store(Change::Wish(wish.clone()));
        }
    }

    /// Its run is over.
    pub(super) fn on_wish_over(&mut self, id: u64, files: u32, out: &mut Effects) {
        if let Some(wish) = self.wishes.all.get_mut(&id) {
            wish.found = files;
            out.store(Change::Wish(wish.clone()));
        }
    }
}
