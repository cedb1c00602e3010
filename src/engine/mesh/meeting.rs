//! When the DHT is asked for peers, and when it is told of us.
//!
//! | Errand | When |
//! |---|---|
//! | look, a rendezvous key | every discovery interval, while there are fewer neighbours than wanted |
//! | look, the key of a recording that is wanted and nobody has | at once, then after 1, 2, 4 … 15 min |
//! | announce, any key | every announce interval, while others can reach us |
//!
//! One errand at a time, with a pause behind each, so that a hundred announcements are spread over their interval and
//! never a burst. An announcement finds out who else is at its key and counts as a look. While the DHT does not answer
//! the pauses grow. The errands themselves are `net::dht`'s; what they find goes to [`super::candidates`]. What is
//! announced besides the rendezvous keys, and whether anything is, the owner decides (C8: it links our address to a
//! title).

use std::collections::BTreeMap;
use std::time::Duration;

use sha1::{Digest as _, Sha1};

use crate::engine::soulseek::chance::Chance;
use crate::model::health::uuid_text;
use crate::model::mesh::DhtKey;

/// Where nodes of this program meet when the owner names no other places (C8: a namespace of our own).
pub const RENDEZVOUS: [&str; 3] =
    ["slskdn-appliance-mesh-v1", "slskdn-appliance-mesh-v1-backup-1", "slskdn-appliance-mesh-v1-backup-2"];
/// Before the id of a recording or release.
const CONTENT: &str = "slskdn-appliance-mb-v1:";
/// Behind each errand.
const SPACING: Duration = Duration::from_secs(2);
/// After the first look for somebody who has a recording; doubles with each.
const SOUGHT: Duration = Duration::from_secs(60);
/// The longest.
const SOUGHT_MAX: Duration = Duration::from_secs(900);
/// After the first errand that failed; doubles with each, up to the shorter interval.
const FAILED: Duration = Duration::from_secs(15);

/// The key of a meeting place.
pub fn rendezvous_key(name: &str) -> DhtKey {
    DhtKey(Sha1::digest(name.as_bytes()).into())
}

/// The key of a MusicBrainz recording or release.
pub fn content_key(id: u128) -> DhtKey {
    rendezvous_key(&format!("{CONTENT}{}", uuid_text(id)))
}

/// How often, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Between two announcements of one key.
    pub announce_every: Duration,
    /// Between two looks at one key.
    pub discover_every: Duration,
    /// Neighbours with which nobody is looked for.
    pub neighbours_min: usize,
    /// Where nodes meet.
    pub rendezvous: Vec<DhtKey>,
}

/// How we stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Peers connected.
    pub neighbours: usize,
    /// Others can reach our port.
    pub reachable: bool,
}

/// Something to do in the DHT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Who is at this key?
    Look(DhtKey),
    /// We are at this key; who else is?
    Announce(DhtKey),
}

/// When each key is due.
#[derive(Clone, Copy, Debug)]
struct Key {
    /// `None`: nobody is looked for here.
    look: Option<Duration>,
    announce: Duration,
}

/// When a recording's key is looked up next.
#[derive(Clone, Copy, Debug)]
struct Sought {
    due: Duration,
    looks: u32,
}

/// The plan.
#[derive(Debug)]
pub struct Meeting {
    rules: Rules,
    standing: Standing,
    keys: BTreeMap<DhtKey, Key>,
    /// Keys of recordings that nobody has yet.
    sought: BTreeMap<DhtKey, Sought>,
    /// After the last errand.
    not_before: Duration,
    busy: bool,
    failures: u32,
}

impl Meeting {
    /// Begins with a look at the meeting places.
    pub fn new(rules: Rules, now: Duration) -> Self {
        let keys = rules.rendezvous.iter().map(|key| (*key, Key { look: Some(now), announce: now })).collect();
        let (standing, sought) = (Standing::default(), BTreeMap::new());
        Self { rules, standing, keys, sought, not_before: now, busy: false, failures: 0 }
    }

    /// What is announced besides the meeting places, from now on. New keys are spread over an interval.
    pub fn set_content(&mut self, content: &[DhtKey], now: Duration) {
        self.keys.retain(|key, duty| duty.look.is_some() || content.contains(key));
        let count = u32::try_from(content.len()).unwrap_or(u32::MAX).max(1);
        for (key, n) in content.iter().zip(1_u32..) {
            let announce = now.saturating_add(self.rules.announce_every / count * n);
            self.keys.entry(*key).or_insert(Key { look: None, announce });
        }
    }

    /// Where somebody is looked for who has a recording, from now on. However many neighbours there are: it is not any
    /// neighbour that is wanted.
    pub fn set_sought(&mut self, keys: &[DhtKey], now: Duration) {
        self.sought.retain(|key, _| keys.contains(key));
        for key in keys {
            self.sought.entry(*key).or_insert(Sought { due: now, looks: 0 });
        }
    }

    /// How we stand now.
    pub fn set_standing(&mut self, standing: Standing, now: Duration) {
        if standing.reachable && !self.standing.reachable {
            // What fell due meanwhile would come all at once.
            let content: Vec<DhtKey> =
                self.keys.iter().filter(|(_, duty)| duty.look.is_none()).map(|(key, _)| *key).collect();
            self.keys.retain(|_, duty| duty.look.is_some());
            self.set_content(&content, now);
        }
        self.standing = standing;
    }

    /// What to do now. [`Meeting::done`] must follow.
    pub fn next(&mut self, now: Duration) -> Option<Errand> {
        if self.busy || now < self.not_before {
            return None;
        }
        let (due, errand) = self.first()?;
        self.busy = due <= now;
        self.busy.then_some(errand)
    }

    /// The errand is over. `reached`: the DHT answered.
    pub fn done(&mut self, errand: Errand, reached: bool, now: Duration, chance: &mut Chance) {
        self.busy = false;
        if !reached {
            let longest = self.rules.discover_every.min(self.rules.announce_every);
            let pause = FAILED.saturating_mul(1 << self.failures.min(16)).min(longest);
            self.failures = self.failures.saturating_add(1);
            self.not_before = now.saturating_add(later(pause, chance));
            return;
        }
        self.failures = 0;
        self.not_before = now.saturating_add(later(SPACING, chance));
        let (Errand::Look(key) | Errand::Announce(key)) = errand;
        if let Some(sought) = self.sought.get_mut(&key) {
            let pause = SOUGHT.saturating_mul(1 << sought.looks.min(16)).min(SOUGHT_MAX);
            sought.looks = sought.looks.saturating_add(1);
            sought.due = now.saturating_add(later(pause, chance));
        }
        let Some(duty) = self.keys.get_mut(&key) else { return };
        if let Some(look) = &mut duty.look {
            *look = now.saturating_add(later(self.rules.discover_every, chance));
        }
        if errand == Errand::Announce(key) {
            duty.announce = now.saturating_add(later(self.rules.announce_every, chance));
        }
    }

    /// When to ask [`Meeting::next`] again, if nothing else happens.
    pub fn next_timeout(&self) -> Option<Duration> {
        if self.busy {
            return None;
        }
        self.first().map(|(due, _)| due.max(self.not_before))
    }

    /// What is due first, and when. Of the same moment, a look goes first.
    fn first(&self) -> Option<(Duration, Errand)> {
        let looking = self.standing.neighbours < self.rules.neighbours_min;
        let looks = self.keys.iter().filter(|_| looking);
        let looks = looks.filter_map(|(key, duty)| Some((duty.look?, 0, Errand::Look(*key))));
        let announcements = self.keys.iter().filter(|_| self.standing.reachable);
        let announcements = announcements.map(|(key, duty)| (duty.announce, 1, Errand::Announce(*key)));
        let sought = self.sought.iter().map(|(key, sought)| (sought.due, 0, Errand::Look(*key)));
        let first = looks.chain(sought).chain(announcements).min_by_key(|(due, kind, _)| (*due, *kind));
        first.map(|(due, _, errand)| (due, errand))
    }
}

/// Up to a tenth later, so that nodes do not come in step; never earlier, which others would take for haste.
fn later(pause: Duration, chance: &mut Chance) -> Duration {
    let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(ms.saturating_add(chance.below(ms / 10 + 1)))
}

#[cfg(test)]
#[path = "meeting_tests.rs"]
mod tests;
