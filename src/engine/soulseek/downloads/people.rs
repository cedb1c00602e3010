//! The users we want files from: who can be asked, how fast, and what silence means.

use std::time::Duration;

use super::{
    ASKED_PER_USER, ASKS_PER_SECOND, Disk, Downloads, Phase, SEEKING, Timer, Turn, User, WATCHED_USERS, endings, files,
};
use crate::engine::soulseek::effect::{About, Effect, Effects};
use crate::engine::soulseek::io::{Refusal, Reply};
use crate::engine::soulseek::peer::PeerMessage;
use crate::engine::soulseek::server::ToServer;
use crate::engine::soulseek::transfer::{self, TransferEvent};
use crate::model::id::{CommandId, TransferId, Username};
use crate::model::music::WireText;
use crate::model::time::Now;
use crate::model::transfer::{DISK_FULL, Ending, TransferState};

/// A place in queue is asked at most so often (SOULSEEK-FACTS, transfer negotiation).
pub(super) const PLACE_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// The first time, so that a page soon has something to show, and rescue knows that the user took it.
const FIRST_PLACE: Duration = Duration::from_secs(5);
/// A user said to be offline is tried again after this, should the server's word never come.
const OFFLINE: Duration = Duration::from_secs(30 * 60);
/// A user who cannot be reached is left alone for this long.
const UNREACHABLE: Duration = Duration::from_secs(60);

impl User {
    /// Requests that may wait in the user's queue.
    pub(super) fn limit(&self) -> usize {
        if self.cautious { 1 } else { ASKED_PER_USER }
    }
}

impl Downloads {
    /// We are on the network.
    pub fn on_logged_in(&mut self, turn: &mut Turn<'_>) {
        self.logged_in = true;
        for (name, user) in &mut self.users {
            user.offline = false;
            if user.watched {
                turn.out.server(ToServer::WatchUser { user: name.as_str().into() });
            }
        }
        self.pump(turn);
    }

    /// We are not. Running transfers go on, for they need no server; everything else waits here.
    pub fn on_logged_out(&mut self, turn: &mut Turn<'_>) {
        self.logged_in = false;
        let asked: Vec<TransferId> = self
            .live
            .iter()
            .filter(|(_, download)| matches!(download.phase, Phase::Asked { .. }))
            .map(|(id, _)| *id)
            .collect();
        for id in asked {
            self.ready(id, None, turn);
        }
    }

    /// The server tells a user's presence.
    pub fn on_user_status(&mut self, name: &Username, online: bool, turn: &mut Turn<'_>) {
        let Some(user) = self.users.get_mut(name) else { return };
        if !online {
            self.on_offline(name, turn);
            return;
        }
        user.cautious = false;
        if std::mem::take(&mut user.offline) {
            user.paused = false;
            self.timers.clear(&Timer::User(name.clone()));
            for id in self.ids_of(name) {
                let complete = self.live.get(&id).is_some_and(files::is_complete);
                if self.live.get(&id).is_some_and(|download| matches!(download.phase, Phase::Waiting)) && !complete {
                    self.ready(id, None, turn);
                }
            }
            self.pump(turn);
        }
    }

    /// A message could not be delivered, `offline` when the server says the user is not there.
    pub fn on_unreachable(&mut self, name: &Username, about: About, offline: bool, turn: &mut Turn<'_>) {
        let About::Download(id) = about else { return };
        let Some(user) = self.users.get_mut(name) else { return };
        user.cautious = true;
        if offline {
            self.on_offline(name, turn);
            if self.live.get(&id).is_some_and(|d| d.record.user == *name && matches!(d.phase, Phase::Agreed(_))) {
                self.ready(id, None, turn);
            }
        } else {
            user.paused = true;
            self.timers.set(Timer::User(name.clone()), turn.now.in_(UNREACHABLE));
            let concerns = |phase: &Phase| matches!(phase, Phase::Asked { .. } | Phase::Agreed(_));
            if self.live.get(&id).is_some_and(|d| d.record.user == *name && concerns(&d.phase)) {
                self.fail(id, Ending::TimedOut, format!("{name} cannot be reached"), turn);
            }
        }
        self.pump(turn);
    }

    /// What waits in the user's queue is lost with the user; it waits here instead, at no cost.
    fn on_offline(&mut self, name: &Username, turn: &mut Turn<'_>) {
        let Some(user) = self.users.get_mut(name) else { return };
        user.offline = true;
        user.cautious = true;
        self.timers.set(Timer::User(name.clone()), turn.now.in_(OFFLINE));
        for id in self.ids_of(name) {
            if self.live.get(&id).is_some_and(|download| matches!(download.phase, Phase::Asked { .. })) {
                self.ready(id, None, turn);
            }
        }
    }

    pub(super) fn ids_of(&self, name: &Username) -> Vec<TransferId> {
        self.users.get(name).map_or_else(Vec::new, |user| user.paths.values().copied().collect())
    }

    /// Why nothing can be asked of a user now.
    pub(super) fn obstacle(&self, name: &Username) -> Option<String> {
        let user = self.users.get(name);
        if !self.logged_in {
            Some("not logged in".to_owned())
        } else if self.disk == Disk::Full {
            Some(DISK_FULL.to_owned())
        } else if user.is_some_and(|user| user.offline) {
            Some(format!("{name} is offline"))
        } else if user.is_some_and(|user| user.paused) {
            Some(format!("{name} is left alone for a while"))
        } else {
            None
        }
    }

    /// Asks for whatever may be asked for now: users in turn, so that a long list does not hold up a short one.
    pub(super) fn pump(&mut self, turn: &mut Turn<'_>) {
        if !self.logged_in {
            return;
        }
        while self.seeking.len() < SEEKING
            && let Some(id) = self.seekers.pop_first()
        {
            self.seeking.insert(id);
            self.timers.set(Timer::Download(id), turn.now.in_(endings::SEEK));
            if let Some(download) = self.live.get(&id) {
                let query = endings::query(&download.record.path);
                turn.out.push(Effect::Failover { transfer: id, query });
            }
        }
        if self.disk == Disk::Full {
            return;
        }
        let second = Duration::from_secs(turn.now.mono.as_secs());
        if second != self.second {
            (self.second, self.paced) = (second, 0);
        }
        // What was refused for lack of a slot or of room is only asked for when its offer can be taken, or the two of us
        // would say the same to each other for ever.
        let mut slots = match self.disk {
            Disk::Fine => self.free_slots(turn),
            Disk::Probing(None) => self.free_slots(turn).min(1),
            Disk::Probing(Some(_)) | Disk::Full => 0,
        };
        let mut names: Vec<Username> =
            self.users.iter().filter(|(_, user)| user.can_ask()).map(|(n, _)| n.clone()).collect();
        while !names.is_empty() {
            let mut again = Vec::new();
            for name in names {
                let Some(id) = self.next_of(&name, slots) else { continue };
                if self.paced >= ASKS_PER_SECOND {
                    self.timers.set(Timer::Pace, second.saturating_add(Duration::from_secs(1)));
                    return;
                }
                self.paced += 1;
                if self.live.get_mut(&id).is_some_and(|download| std::mem::take(&mut download.slotless)) {
                    slots = slots.saturating_sub(1);
                }
                self.ask(id, turn);
                again.push(name);
            }
            names = again;
        }
    }

    /// Downloads that may still begin.
    pub(super) fn free_slots(&self, turn: &Turn<'_>) -> usize {
        let slots = usize::try_from(turn.settings.download_slots.max(1)).unwrap_or(usize::MAX);
        slots.saturating_sub(self.slots_taken())
    }

    /// The user's next download in line that may be asked for.
    fn next_of(&self, name: &Username, slots: usize) -> Option<TransferId> {
        let user = self.users.get(name).filter(|user| user.can_ask())?;
        let fits = |id: &TransferId| slots > 0 || self.live.get(id).is_some_and(|download| !download.slotless);
        user.ready.iter().map(|(_, id)| *id).find(fits)
    }

    /// Asks the user for a file; or, where all of it is already here, puts it in its place.
    fn ask(&mut self, id: TransferId, turn: &mut Turn<'_>) {
        if self.live.get(&id).is_some_and(files::is_complete) {
            self.put(id, turn);
            return;
        }
        self.leave(id);
        let Some(download) = self.live.get_mut(&id) else { return };
        if !std::mem::replace(&mut download.counted, true) {
            download.record.attempts = download.record.attempts.saturating_add(1);
        }
        download.phase = Phase::Asked { heard_at: turn.now.mono, place_asked_at: None };
        download.record.enqueued_at = Some(turn.now.wall);
        download.record.next_attempt_at = None;
        if let Some(user) = self.users.get_mut(&download.record.user) {
            user.asked = user.asked.saturating_add(1);
        }
        let path = download.record.path.clone();
        turn.out.user(&download.record.user, PeerMessage::QueueUpload { path }, About::Download(id));
        self.timers.set(Timer::Download(id), turn.now.in_(FIRST_PLACE));
        self.change(id, TransferEvent::Ask, None, turn);
    }

    /// Time to ask for the place, or, after long silence, for the file again: a client that was restarted has
    /// forgotten its queue, and to one that has not the request is nothing new.
    pub(super) fn on_silence(&mut self, id: TransferId, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        let Phase::Asked { heard_at, place_asked_at } = &mut download.phase else { return };
        let path = download.record.path.clone();
        let patience = transfer::patience(TransferState::QueuedRemotely).unwrap_or_default();
        let message = if turn.now.mono >= heard_at.saturating_add(patience) {
            *heard_at = turn.now.mono;
            Some(PeerMessage::QueueUpload { path })
        } else if place_asked_at.is_none_or(|at| turn.now.mono >= at.saturating_add(PLACE_INTERVAL)) {
            *place_asked_at = Some(turn.now.mono);
            Some(PeerMessage::PlaceInQueueRequest { path })
        } else {
            None
        };
        if let Some(message) = message {
            turn.out.user(&download.record.user, message, About::Download(id));
        }
        self.timers.set(Timer::Download(id), turn.now.in_(PLACE_INTERVAL));
    }

    /// A user tells a place in queue.
    pub(super) fn on_place(&mut self, id: TransferId, place: u32, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        let Phase::Asked { heard_at, .. } = &mut download.phase else { return };
        *heard_at = turn.now.mono;
        download.deferred = 0;
        download.record.place_in_queue = Some(place);
        let waiting: Vec<CommandId> =
            self.places.iter().filter(|(_, about)| **about == id).map(|(command, _)| *command).collect();
        for command in waiting {
            self.timers.clear(&Timer::Place(command));
            self.answer_place(command, turn.out);
        }
    }

    /// Answers a command that waits for a place with what is known by now.
    pub(super) fn answer_place(&mut self, command: CommandId, out: &mut Effects) {
        let Some(id) = self.places.remove(&command) else { return };
        match self.live.get(&id).map(|download| download.record.place_in_queue) {
            Some(Some(place)) => out.reply(command, Reply::Place(place)),
            Some(None) => out.refuse(command, Refusal::TimedOut),
            None => out.refuse(command, Refusal::NotFound),
        }
    }

    /// One more path wanted from a user.
    ///
    /// Of a user who banned us not long ago one file is asked for; the answer goes for all.
    pub(super) fn meet(&mut self, name: &Username, path: &WireText, id: TransferId, now: Now, out: &mut Effects) {
        if !self.users.contains_key(name) {
            let watched = self.users.values().filter(|user| user.watched).count() < WATCHED_USERS;
            if watched && self.logged_in {
                out.server(ToServer::WatchUser { user: name.as_str().into() });
            }
            let cautious = self.refuses(name, now);
            self.users.insert(name.clone(), User { cautious, watched, ..User::default() });
        }
        if let Some(user) = self.users.get_mut(name) {
            user.paths.insert(path.as_str().to_owned(), id);
        }
    }

    /// Whether the user banned us not long ago.
    pub(super) fn refuses(&self, name: &Username, now: Now) -> bool {
        self.refusing.get(name).is_some_and(|until| *until > now.mono)
    }

    /// One path less. With the last one the user is no longer watched, and another one may be.
    pub(super) fn part(&mut self, name: &Username, path: &WireText, id: TransferId, out: &mut Effects) {
        let Some(user) = self.users.get_mut(name) else { return };
        if user.paths.get(path.as_str()) == Some(&id) {
            user.paths.remove(path.as_str());
        }
        if !user.paths.is_empty() {
            return;
        }
        let watched = user.watched;
        self.users.remove(name);
        self.timers.clear(&Timer::User(name.clone()));
        if !watched {
            return;
        }
        if self.logged_in {
            out.server(ToServer::UnwatchUser { user: name.as_str().into() });
        }
        if let Some((next, user)) = self.users.iter_mut().find(|(_, user)| !user.watched) {
            user.watched = true;
            if self.logged_in {
                out.server(ToServer::WatchUser { user: next.as_str().into() });
            }
        }
    }
}

impl User {
    fn can_ask(&self) -> bool {
        !self.ready.is_empty() && !self.offline && !self.paused && self.asked < self.limit()
    }
}
