//! When peers are told about recordings, and how much of what they tell is listened to.
//!
//! | What | When |
//! |---|---|
//! | ask for bundles | when they connect, every 15 min, and 30 s after a gap at the earliest; unanswered after 30 s, 60 s… |
//! | advert | once asked: all or what is new; then on every change and every 15 min; one frame in 250 ms |
//! | descriptor | when asked for; then every 15 min while the connection lasts, for the last 8 that were asked for |
//! | offer | in answer to a request |
//! | hash sync hello | when they connect, and every 1,800 s, also if they come back meanwhile |
//! | hash sync | after a hello with more than we have: 1,800 s after the last one with this peer, 5 peers in 5 min |
//! | one key | when somebody wants to know; again after 30 s |
//!
//! A word can be lost: nobody had time to listen. An answer that cannot be told at once is told later.
//!
//! All of it within an hour is counted for each key, and goes on being counted when it leaves and comes back: what it
//! says, and what it is told. Who has been told as much as a list takes hears nothing more of lists until the next hour, so
//! that nobody can have ours sent again and again.
//!
//! Nothing is believed that cannot be: [`super::lie`] looks at every field, and whoever lies, or says more in an hour
//! than anybody has to say, is struck. A list that does not follow on what was heard is passed over and asked for again.
//! What is shared, and what becomes of what was heard, is for the holder to know: it does the [`Deed`]s.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::control::{Advert, Ask, CacheJob, Control, Descriptor, RecordingAdvert};
use super::lie::check_hashes;
use crate::model::gossip::{HashEntry, Heard};
use crate::model::id::PeerId;
use crate::model::limits;

/// Between two frames to one peer. Chosen: less than half of what a peer may be sent.
const PACE: Duration = Duration::from_millis(250);
/// Before another attempt when the last word is still on its way.
const BUSY: Duration = Duration::from_secs(1);
/// SPEC-FACTS 9.
const PERIOD: Duration = Duration::from_secs(900);
/// Between two questions for one and the same gap.
const GAP: Duration = Duration::from_secs(30);
/// Between two syncs with one peer (SPEC-FACTS 8).
const SYNC: Duration = Duration::from_secs(1_800);
/// A cycle of syncs. Chosen.
const CYCLE: Duration = Duration::from_secs(300);
/// Peers of one cycle (SPEC-FACTS 12).
const SYNCS: usize = 5;
/// Releases one peer is kept up to date about.
const ACTIVE: usize = 8;
/// Keys that one peer was asked for and did not answer yet.
const KEYS: usize = 16;
const HOUR: Duration = Duration::from_secs(3_600);
/// Feature of those who speak of recordings.
pub const MBID: &str = "mbid";
/// Feature of those who exchange hashes.
pub const HASH_SYNC: &str = "hash_sync";

/// What we have to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Which list: random, not 0.
    pub bundle_id: u64,
    /// The same for those whom the owner named: they are told more, so theirs is another list, and whoever is named from
    /// now on hears all of it.
    pub named_id: u64,
    /// Its last number.
    pub latest: u64,
    /// Recordings in it.
    pub count: u64,
}

impl Own {
    /// Which list a peer is told.
    pub fn list(&self, named: bool) -> u64 {
        if named { self.named_id } else { self.bundle_id }
    }
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// Tell a peer this. If it cannot be told now: [`Gossip::on_unsaid`].
    Say(PeerId, Control),
    /// Tell a peer the recordings after this number, as many as fit a frame; `whole`: as the beginning of all. Then
    /// [`Gossip::on_advertised`].
    Advertise {
        /// Whom.
        peer: PeerId,
        /// The number before them.
        after: u64,
        /// It is a snapshot.
        whole: bool,
    },
    /// Tell a peer hashes after this number. If it cannot be told now: [`Gossip::on_untold`].
    Delta {
        /// Whom.
        peer: PeerId,
        /// The number before them.
        after: u64,
        /// At most so many.
        max: u16,
    },
    /// Tell a peer the hashes of this key. If it cannot be told now: [`Gossip::on_untold`].
    Key(PeerId, u64),
    /// Tell a peer what we have of this release. If it cannot be told now: [`Gossip::on_untold`].
    Describe(PeerId, u128),
    /// Tell a peer which of these tracks we have.
    Offer(PeerId, Box<CacheJob>),
    /// Keep a peer's word on recordings.
    Keep {
        /// Whose.
        peer: PeerId,
        /// How far it was heard with it.
        heard: Heard,
        /// Forget everything else of this peer first.
        void: bool,
        /// Its last words.
        recordings: Vec<RecordingAdvert>,
    },
    /// Keep a peer's hashes.
    KeepHashes {
        /// Whose.
        peer: PeerId,
        /// How far they were heard with these.
        heard: Heard,
        /// Forget all other hashes of this peer first.
        void: bool,
        /// What they are.
        entries: Vec<HashEntry>,
    },
    /// A peer says what it has of a release.
    Described(PeerId, Box<Descriptor>),
    /// A peer offers tracks.
    Offered(PeerId, Box<CacheJob>),
    /// A peer did what it must not.
    Strike(PeerId, String),
}

/// Counts within an hour.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    from: Duration,
    count: u32,
}

impl Meter {
    fn takes(&mut self, now: Duration, max: u32) -> bool {
        if now.saturating_sub(self.from) >= HOUR {
            *self = Self { from: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= max
    }
}

/// What is counted of one key, connected or not.
#[derive(Clone, Copy, Debug, Default)]
struct Meters {
    adverts: Meter,
    deltas: Meter,
    /// Deltas that we asked it for.
    own_deltas: Meter,
    others: Meter,
    /// Bundles it was told.
    told: Meter,
    /// Not before this is it told more.
    told_again: Duration,
    /// Everything else it was told.
    own_others: Meter,
    hello_due: Duration,
    sync_due: Duration,
}

impl Meters {
    fn new(now: Duration) -> Self {
        let meter = Meter { from: now, count: 0 };
        let [adverts, deltas, own_deltas, others, told, own_others] = [meter; 6];
        Self { adverts, deltas, own_deltas, others, told, told_again: now, own_others, hello_due: now, sync_due: now }
    }

    /// When something was last begun to be counted.
    fn last(&self) -> Duration {
        let Self { adverts, deltas, own_deltas, others, told, own_others, .. } = self;
        [adverts, deltas, own_deltas, others, told, own_others]
            .map(|meter| meter.from)
            .into_iter()
            .max()
            .unwrap_or_default()
    }
}

/// A key that a peer was asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    last: Duration,
    /// Answers that may still come.
    open: u32,
}

/// One peer.
#[derive(Clone, Debug)]
struct Peer {
    /// The owner named it.
    named: bool,
    /// Not before this is it told anything by ourselves.
    next: Duration,
    /// It asked for bundles.
    wants: bool,
    /// It was told up to this number.
    sent: u64,
    /// It is to be told all.
    whole: bool,
    /// An advert is being made.
    telling: bool,
    advert_due: Duration,
    heard: Heard,
    ask_due: Duration,
    asked: Option<Duration>,
    /// How often it was asked since it last told anything.
    unanswered: u32,
    /// It exchanges hashes.
    syncs: bool,
    hashes: Heard,
    /// The list that it was asked for hashes of, and that its first ones are awaited.
    syncing: Option<(u64, bool)>,
    keys: BTreeMap<u64, Asked>,
    /// Answers that could not be told yet; at most `limits::GOSSIP_OWED`.
    owed: VecDeque<Deed>,
    /// Releases it is told of, and when again.
    active: BTreeMap<u128, Duration>,
    meters: Meters,
}

impl Peer {
    /// When it is to be told something by ourselves.
    fn due(&self, own: &Own) -> Option<Duration> {
        let advert = (self.wants && !self.telling).then(|| {
            let news = self.whole || self.sent < own.latest;
            let due = if news { Duration::ZERO } else { self.advert_due };
            due.max(self.meters.told_again)
        });
        let hello = (self.syncs && own.count > 0).then_some(self.meters.hello_due);
        let owed = (!self.owed.is_empty()).then_some(Duration::ZERO);
        let first = self.active.values().copied().chain(advert).chain(hello).chain(owed).chain([self.ask_due]).min()?;
        Some(first.max(self.next))
    }
}

/// The machine.
#[derive(Debug, Default)]
pub struct Gossip {
    own: Own,
    peers: BTreeMap<PeerId, Peer>,
    /// What was counted of keys that are gone; at most `limits::GOSSIP_METERS`.
    gone: BTreeMap<PeerId, Meters>,
    /// The cycle of syncs: when it began, and how many there were.
    cycle: (Duration, usize),
}

impl Gossip {
    /// With this to tell.
    pub fn new(own: Own) -> Self {
        Self { own, ..Self::default() }
    }

    /// What we have to tell has changed.
    pub fn on_changed(&mut self, own: Own) {
        for peer in self.peers.values_mut() {
            if own.list(peer.named) != self.own.list(peer.named) {
                (peer.whole, peer.sent) = (true, 0);
            }
        }
        self.own = own;
    }

    /// A peer with these abilities, named by the owner or not, is here; so much was heard of it before.
    pub fn on_connected(
        &mut self,
        (peer, named): (PeerId, bool),
        features: &[String],
        heard: Heard,
        hashes: Heard,
        now: Duration,
    ) {
        let can = |feature: &str| features.iter().any(|has| has == feature);
        if !can(MBID) || self.peers.len() >= limits::MESH_CONNECTIONS {
            return;
        }
        self.on_gone(peer);
        let meters = self.gone.remove(&peer).unwrap_or_else(|| Meters::new(now));
        let state = Peer {
            named,
            next: now,
            wants: false,
            sent: 0,
            whole: false,
            telling: false,
            advert_due: now,
            heard,
            ask_due: now,
            asked: None,
            unanswered: 0,
            syncs: can(HASH_SYNC),
            hashes,
            syncing: None,
            keys: BTreeMap::new(),
            owed: VecDeque::new(),
            active: BTreeMap::new(),
            meters,
        };
        self.peers.insert(peer, state);
    }

    /// A peer is gone.
    pub fn on_gone(&mut self, peer: PeerId) {
        let Some(state) = self.peers.remove(&peer) else { return };
        self.gone.insert(peer, state.meters);
        while self.gone.len() > limits::GOSSIP_METERS {
            let oldest = self.gone.iter().min_by_key(|(_, meters)| meters.last()).map(|(peer, _)| *peer);
            oldest.and_then(|oldest| self.gone.remove(&oldest));
        }
    }

    /// Peers that speak of recordings.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.peers.keys().copied()
    }

    /// Asks a peer for what is behind this key; false if it cannot be asked now, or was a moment ago.
    pub fn ask_key(&mut self, peer: PeerId, key: u64, now: Duration, out: &mut Vec<Deed>) -> bool {
        let Some(state) = self.peers.get_mut(&peer).filter(|state| state.syncs) else { return false };
        if state.keys.len() >= KEYS {
            // What was not answered in so long was lost.
            state.keys.retain(|_, asked| asked.last.saturating_add(PERIOD) > now);
        }
        let before = state.keys.get(&key).copied();
        let room = before.map_or(state.keys.len() < KEYS, |asked| asked.last.saturating_add(GAP) <= now);
        if !room || !state.meters.own_deltas.takes(now, limits::GOSSIP_DELTAS_PER_HOUR) {
            return false;
        }
        state.keys.insert(key, Asked { last: now, open: before.map_or(0, |asked| asked.open) + 1 });
        out.push(Deed::Say(peer, Control::SyncAskKey(key)));
        true
    }

    /// When [`Gossip::on_timeout`] is due, by the monotonic clock.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.peers.values().filter_map(|peer| peer.due(&self.own)).min()
    }

    /// Time passed.
    pub fn on_timeout(&mut self, now: Duration, out: &mut Vec<Deed>) {
        let own = self.own;
        for (id, peer) in &mut self.peers {
            if peer.due(&own).is_none_or(|at| at > now) {
                continue;
            }
            peer.next = now.saturating_add(PACE);
            if let Some(owed) = peer.owed.pop_front() {
                out.push(owed);
                continue;
            }
            let described = peer.active.iter().find(|(_, due)| **due <= now).map(|(release, _)| *release);
            let saying = peer.ask_due <= now || described.is_some();
            if saying && !peer.meters.own_others.takes(now, limits::GOSSIP_OTHERS_PER_HOUR / 2) {
                // It comes and goes, or asks for more than anybody needs.
                let again = peer.meters.own_others.from.saturating_add(HOUR);
                peer.ask_due = peer.ask_due.max(again);
                peer.active.clear();
            } else if peer.ask_due <= now {
                peer.asked = Some(now);
                peer.ask_due = now.saturating_add(GAP.saturating_mul(1 << peer.unanswered.min(5)).min(PERIOD));
                peer.unanswered = peer.unanswered.saturating_add(1);
                let Heard { bundle, sequence } = peer.heard;
                out.push(Deed::Say(*id, Control::Ask(Ask::Bundles { bundle_id: bundle, after: sequence })));
            } else if peer.syncs && own.count > 0 && peer.meters.hello_due <= now {
                peer.meters.hello_due = now.saturating_add(SYNC);
                let Own { latest, count, .. } = own;
                out.push(Deed::Say(*id, Control::SyncHello { bundle_id: own.list(peer.named), latest, count }));
            } else if let Some(release) = described {
                peer.active.insert(release, now.saturating_add(PERIOD));
                out.push(Deed::Describe(*id, release));
            } else {
                peer.telling = true;
                let after = if peer.whole { 0 } else { peer.sent };
                out.push(Deed::Advertise { peer: *id, after, whole: peer.whole });
            }
        }
    }

    /// What became of [`Deed::Advertise`]: told up to this number, or not now.
    pub fn on_advertised(&mut self, peer: PeerId, sequence: Option<u64>, now: Duration) {
        let Some(peer) = self.peers.get_mut(&peer) else { return };
        peer.telling = false;
        match sequence {
            Some(sequence) => {
                (peer.whole, peer.sent) = (false, sequence);
                let Meters { told, told_again, .. } = &mut peer.meters;
                if !told.takes(now, limits::GOSSIP_TELLS_PER_HOUR - 1) {
                    *told_again = told.from.saturating_add(HOUR);
                }
                peer.next = now.saturating_add(PACE);
                peer.advert_due = now.saturating_add(PERIOD);
            }
            None => peer.next = now.saturating_add(BUSY),
        }
    }

    /// What became of [`Deed::Say`]: it could not be told now.
    pub fn on_unsaid(&mut self, peer: PeerId, control: &Control, now: Duration) {
        let Some(peer) = self.peers.get_mut(&peer) else { return };
        let soon = now.saturating_add(BUSY);
        peer.next = soon;
        match control {
            Control::Ask(Ask::Bundles { .. }) => {
                peer.ask_due = soon;
                peer.unanswered = peer.unanswered.saturating_sub(1);
                peer.meters.own_others.count = peer.meters.own_others.count.saturating_sub(1);
            }
            Control::SyncHello { .. } => peer.meters.hello_due = soon,
            // The next hello begins it again.
            Control::SyncAsk { .. } => (peer.syncing, peer.meters.sync_due) = (None, soon),
            Control::SyncAskKey(key) => peer.answered(*key),
            Control::Advert(_)
            | Control::Descriptor(_)
            | Control::CacheJob(_)
            | Control::SyncDelta { .. }
            | Control::SyncKey(..)
            | Control::SyncAck(_)
            | Control::Ask(Ask::Release(_)) => {}
        }
    }

    /// What became of [`Deed::Delta`], [`Deed::Key`] or [`Deed::Describe`]: it could not be told now, and is given again
    /// later. Of one peer at most `limits::GOSSIP_OWED` are; further ones are lost.
    pub fn on_untold(&mut self, deed: Deed, now: Duration) {
        let (Deed::Delta { peer, .. } | Deed::Key(peer, _) | Deed::Describe(peer, _)) = &deed else { return };
        let Some(peer) = self.peers.get_mut(peer) else { return };
        peer.next = peer.next.max(now.saturating_add(BUSY));
        if peer.owed.len() < limits::GOSSIP_OWED && !peer.owed.contains(&deed) {
            peer.owed.push_back(deed);
        }
    }

    /// A peer says something.
    pub fn on_message(&mut self, peer: PeerId, control: Control, now: Duration, out: &mut Vec<Deed>) {
        let own = self.own;
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let done = match control {
            Control::Advert(advert) => state.advert(peer, advert, now, out),
            Control::Descriptor(descriptor) => state.other(now).and_then(|()| {
                descriptor.check().map_err(|lie| lie.to_string())?;
                out.push(Deed::Described(peer, descriptor));
                Ok(())
            }),
            Control::CacheJob(job) => state.other(now).and_then(|()| {
                job.check().map_err(|lie| lie.to_string())?;
                out.push(if job.is_offer { Deed::Offered(peer, job) } else { Deed::Offer(peer, job) });
                Ok(())
            }),
            Control::SyncHello { bundle_id, latest, .. } => state.other(now).map(|()| {
                if now.saturating_sub(self.cycle.0) >= CYCLE {
                    self.cycle = (now, 0);
                }
                let known = state.hashes.bundle == bundle_id;
                let news = bundle_id != 0 && (!known || latest > state.hashes.sequence);
                if news
                    && state.syncs
                    && state.meters.sync_due <= now
                    && self.cycle.1 < SYNCS
                    && state.meters.own_deltas.takes(now, limits::GOSSIP_DELTAS_PER_HOUR)
                {
                    self.cycle.1 += 1;
                    state.meters.sync_due = now.saturating_add(SYNC);
                    state.syncing = Some((bundle_id, !known));
                    let after = if known { state.hashes.sequence } else { 0 };
                    out.push(Deed::Say(peer, Control::SyncAsk { after, max: limits::GOSSIP_DELTA }));
                }
            }),
            Control::SyncAsk { after, max } => state.delta(now).map(|()| {
                let max = max.min(limits::GOSSIP_DELTA);
                out.extend((max > 0).then_some(Deed::Delta { peer, after, max }));
            }),
            Control::SyncAskKey(key) => state.delta(now).map(|()| out.push(Deed::Key(peer, key))),
            Control::SyncDelta { bundle_id, entries, sequence, has_more } => {
                state.hashes_came(peer, bundle_id, entries, sequence, has_more, now, out)
            }
            Control::SyncKey(key, entries) => state.other(now).and_then(|()| {
                if !state.keys.contains_key(&key) || entries.iter().any(|entry| entry.flac_key != key) {
                    return Err("it answers a key that nobody asked for".to_owned());
                }
                state.answered(key);
                check_hashes(&entries, u64::MAX).map_err(|lie| lie.to_string())?;
                let heard = state.hashes;
                out.push(Deed::KeepHashes { peer, heard, void: false, entries });
                Ok(())
            }),
            Control::SyncAck(_) => state.other(now),
            Control::Ask(Ask::Bundles { bundle_id, after }) => state.other(now).map(|()| {
                state.wants = true;
                state.whole = bundle_id != own.list(state.named) || after > own.latest;
                state.sent = if state.whole { 0 } else { after };
                state.advert_due = now;
            }),
            Control::Ask(Ask::Release(release)) => state.other(now).map(|()| {
                if release == 0 {
                    return;
                }
                if state.active.len() >= ACTIVE && !state.active.contains_key(&release) {
                    let oldest = state.active.iter().min_by_key(|(_, due)| **due).map(|(release, _)| *release);
                    oldest.and_then(|oldest| state.active.remove(&oldest));
                }
                state.active.insert(release, now);
            }),
        };
        if let Err(why) = done {
            self.on_gone(peer);
            out.push(Deed::Strike(peer, why));
        }
    }
}

impl Peer {
    /// One answer less may come.
    fn answered(&mut self, key: u64) {
        let Some(asked) = self.keys.get_mut(&key) else { return };
        asked.open -= 1;
        if asked.open == 0 {
            self.keys.remove(&key);
        }
    }

    fn other(&mut self, now: Duration) -> Result<(), String> {
        let enough = self.meters.others.takes(now, limits::GOSSIP_OTHERS_PER_HOUR);
        if enough { Ok(()) } else { Err("too many messages about releases within an hour".to_owned()) }
    }

    fn delta(&mut self, now: Duration) -> Result<(), String> {
        let enough = self.meters.deltas.takes(now, limits::GOSSIP_DELTAS_PER_HOUR);
        if enough { Ok(()) } else { Err("too many requests for hashes within an hour".to_owned()) }
    }

    fn advert(&mut self, peer: PeerId, advert: Advert, now: Duration, out: &mut Vec<Deed>) -> Result<(), String> {
        if !self.meters.adverts.takes(now, limits::GOSSIP_ADVERTS_PER_HOUR) {
            return Err("too many adverts within an hour".to_owned());
        }
        advert.check().map_err(|lie| lie.to_string())?;
        let Advert { bundle_id, after, sequence, full_snapshot, recordings } = advert;
        if self.unanswered > 0 {
            self.unanswered = 0;
            self.ask_due = self.asked.map_or(now, |asked| asked.saturating_add(PERIOD));
        }
        if full_snapshot {
            self.heard = Heard { bundle: bundle_id, sequence };
        } else if bundle_id != self.heard.bundle || after > self.heard.sequence {
            let at = self.asked.map_or(now, |asked| asked.saturating_add(GAP));
            self.ask_due = self.ask_due.min(at);
            return Ok(());
        } else {
            self.heard.sequence = self.heard.sequence.max(sequence);
        }
        if full_snapshot || !recordings.is_empty() {
            out.push(Deed::Keep { peer, heard: self.heard, void: full_snapshot, recordings });
        }
        Ok(())
    }

    fn hashes_came(
        &mut self,
        peer: PeerId,
        bundle_id: u64,
        entries: Vec<HashEntry>,
        sequence: u64,
        has_more: bool,
        now: Duration,
        out: &mut Vec<Deed>,
    ) -> Result<(), String> {
        let Some((asked, void)) = self.syncing.take() else {
            return Err("hashes that nobody asked for".to_owned());
        };
        check_hashes(&entries, sequence).map_err(|lie| lie.to_string())?;
        let before = if void { 0 } else { self.hashes.sequence };
        if bundle_id != asked || sequence < before || has_more && sequence == before {
            return Err("hashes that do not follow on what was asked for".to_owned());
        }
        self.hashes = Heard { bundle: bundle_id, sequence };
        out.push(Deed::KeepHashes { peer, heard: self.hashes, void, entries });
        if has_more && self.meters.own_deltas.takes(now, limits::GOSSIP_DELTAS_PER_HOUR) {
            self.meters.sync_due = now.saturating_add(SYNC);
            self.syncing = Some((bundle_id, false));
            out.push(Deed::Say(peer, Control::SyncAsk { after: sequence, max: limits::GOSSIP_DELTA }));
        } else {
            out.push(Deed::Say(peer, Control::SyncAck(sequence)));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "gossip_tests.rs"]
mod tests;
