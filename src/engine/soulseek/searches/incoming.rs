//! Searches of others: who is looked up for, and what goes back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Searches;
use crate::engine::soulseek::downloads::Turn;
use crate::engine::soulseek::effect::{About, Effects};
use crate::engine::soulseek::io::ShareAsk;
use crate::engine::soulseek::peer::{PeerMessage, RemoteFile, SearchReply};
use crate::model::id::{Token, Username};
use crate::model::limits;
use crate::model::music::{Attributes, SharedFile, WireText};

/// Over which answers per user are counted.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// Users counted at once; searches of further ones are dropped until a window has passed.
const RATED_USERS: usize = 1_024;
/// After this long a lookup that brought no answer is given up.
const LOOKUP: Duration = Duration::from_secs(30);

/// What we say about ourselves with every answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// A slot is free now.
    pub free_slot: bool,
    /// Our upload speed, bytes per second.
    pub speed: u32,
    /// Files waiting here.
    pub queue_length: u32,
}

/// Searches of others since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchCounters {
    /// Came in.
    pub seen: u64,
    /// Answered with at least one file.
    pub answered: u64,
    /// Not looked up: too many at once, from this user, or too long.
    pub dropped: u64,
    /// Answers to searches of ours that found no room.
    pub replies_dropped: u64,
}

#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// Being looked up, since when.
    pending: BTreeMap<(Username, Token), Duration>,
    /// Begin of the window and lookups in it.
    pub(super) rates: BTreeMap<Username, (Duration, u32)>,
    seen: u64,
    answered: u64,
    dropped: u64,
}

impl Incoming {
    /// Whether there is room for one more lookup.
    fn has_room(&mut self, now: Duration) -> bool {
        if self.pending.len() >= limits::PENDING_LOOKUPS {
            self.pending.retain(|_, since| since.saturating_add(LOOKUP) > now);
        }
        self.pending.len() < limits::PENDING_LOOKUPS
    }

    /// Whether the user may have one more now; counts it.
    fn allows(&mut self, user: &Username, now: Duration) -> bool {
        if !self.rates.contains_key(user) && self.rates.len() >= RATED_USERS {
            self.rates.retain(|_, (begin, _)| begin.saturating_add(RATE_WINDOW) > now);
            if self.rates.len() >= RATED_USERS {
                return false;
            }
        }
        let (begin, count) = self.rates.entry(user.clone()).or_insert((now, 0));
        if begin.saturating_add(RATE_WINDOW) <= now {
            (*begin, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= limits::ANSWERS_PER_USER_PER_10S
    }
}

impl Searches {
    /// Somebody searches. Our own searches, and those of banned users, are nobody's business.
    pub fn on_search(&mut self, user: &Username, token: Token, query: &str, turn: &mut Turn<'_>) {
        if *user == turn.settings.username {
            return;
        }
        self.incoming.seen = self.incoming.seen.saturating_add(1);
        if turn.settings.banned.contains(user) || query.trim().is_empty() {
            return;
        }
        // The same search comes twice when we change our parent.
        let known = self.incoming.pending.contains_key(&(user.clone(), token));
        let sane = query.len() <= limits::QUERY_LEN
            && !user.as_str().is_empty()
            && user.as_str().len() <= limits::USERNAME_LEN;
        if known || !sane || !self.incoming.has_room(turn.now.mono) || !self.incoming.allows(user, turn.now.mono) {
            self.incoming.dropped = self.incoming.dropped.saturating_add(1);
            return;
        }
        self.incoming.pending.insert((user.clone(), token), turn.now.mono);
        turn.out.ask(ShareAsk::Search { user: user.clone(), token, query: query.to_owned() });
    }

    /// The share index has looked. Only a search that asked is answered, and only with files.
    pub fn on_hits(
        &mut self,
        user: &Username,
        token: Token,
        files: Vec<SharedFile>,
        standing: Standing,
        turn: &mut Turn<'_>,
    ) {
        if self.incoming.pending.remove(&(user.clone(), token)).is_none() || files.is_empty() {
            return;
        }
        self.incoming.answered = self.incoming.answered.saturating_add(1);
        let reply = SearchReply {
            user: turn.settings.username.as_str().into(),
            token,
            files: files.into_iter().take(limits::SEARCH_REPLY_FILES).map(remote).collect(),
            free_slot: standing.free_slot,
            upload_speed: standing.speed,
            queue_length: standing.queue_length,
            unknown: Some(0),
            locked_files: Vec::new(),
            has_locked_list: false,
        };
        turn.out.user(user, PeerMessage::FileSearchResponse(reply), About::Nothing);
    }

    /// The server names phrases that no path in an answer may contain.
    pub fn on_excluded(&self, phrases: &[WireText], out: &mut Effects) {
        let phrases = phrases.iter().map(|phrase| phrase.as_str().trim().to_lowercase());
        out.ask(ShareAsk::Excluded(
            phrases.filter(|phrase| !phrase.is_empty()).take(limits::EXCLUDED_PHRASES).collect(),
        ));
    }

    /// For the page.
    pub fn counters(&self) -> SearchCounters {
        SearchCounters {
            seen: self.incoming.seen,
            answered: self.incoming.answered,
            dropped: self.incoming.dropped,
            replies_dropped: self.dropped,
        }
    }
}

/// A file of ours as it goes out. The extension is left empty, as Nicotine+ does: everybody takes it from the name.
fn remote(file: SharedFile) -> RemoteFile {
    let Attributes { bitrate_kbps, duration_s, vbr, sample_rate_hz, bit_depth } = file.attributes;
    let attributes = [(0, bitrate_kbps), (1, duration_s), (2, vbr.map(u32::from)), (4, sample_rate_hz), (5, bit_depth)];
    RemoteFile {
        code: 1,
        name: file.path.into(),
        size: file.size,
        extension: WireText::default(),
        attributes: attributes.into_iter().filter_map(|(code, value)| value.map(|value| (code, value))).collect(),
    }
}
