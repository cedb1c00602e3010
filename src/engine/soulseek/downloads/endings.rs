//! Failures: try again, look elsewhere, or end.

use std::time::Duration;

use super::{Candidate, Downloads, Phase, Timer, Turn, files};
use crate::engine::soulseek::names;
use crate::engine::soulseek::transfer::TransferEvent;
use crate::model::id::TransferId;
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::transfer::{Ending, Transfer};

/// Longest wait for a search for other sources.
pub(super) const SEEK: Duration = Duration::from_secs(15 * 60);
/// First pause after a failure; each further one is twice as long.
const BACKOFF: Duration = Duration::from_secs(30);
/// Pause after the user said "later": times 1, 2, 4, up to the longest.
const LATER: Duration = Duration::from_secs(5 * 60);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// Words of a search for other sources.
const QUERY_WORDS: usize = 6;

impl Downloads {
    /// An attempt failed: again after a pause, or, when there were enough, elsewhere.
    pub(super) fn fail(&mut self, id: TransferId, ending: Ending, reason: String, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        download.counted = false;
        let attempts = download.record.attempts;
        // While mesh peers help nobody is in a hurry, and the user stays the origin.
        if !download.is_aside() && attempts >= turn.settings.download_attempts_max.max(1) {
            self.give_up(id, ending, reason, turn);
        } else {
            let delay = pause(BACKOFF, attempts.saturating_sub(1), turn);
            self.wait(id, delay, reason, turn);
        }
    }

    /// The user says "later". That is no failure; but all our requests to this user wait.
    pub(super) fn defer(&mut self, id: TransferId, reason: String, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        let delay = pause(LATER, download.deferred, turn);
        download.deferred = download.deferred.saturating_add(1);
        let name = download.record.user.clone();
        if let Some(user) = self.users.get_mut(&name) {
            user.paused = true;
            self.timers.set(Timer::User(name), turn.now.in_(delay));
        }
        self.wait(id, delay, reason, turn);
    }

    /// This user is no source (any more): the next one found before, a search for others, or the end.
    pub(super) fn give_up(&mut self, id: TransferId, ending: Ending, reason: String, turn: &mut Turn<'_>) {
        self.look_elsewhere(id, ending, reason, false, turn);
    }

    /// As [`Self::give_up`], but with nobody else this user's file is taken from its beginning.
    pub(super) fn give_up_or_begin_anew(
        &mut self,
        id: TransferId,
        ending: Ending,
        reason: String,
        turn: &mut Turn<'_>,
    ) {
        self.look_elsewhere(id, ending, reason, true, turn);
    }

    fn look_elsewhere(&mut self, id: TransferId, ending: Ending, reason: String, fresh: bool, turn: &mut Turn<'_>) {
        self.leave(id);
        let Some(download) = self.live.get_mut(&id) else { return };
        let spare = std::mem::take(&mut download.spare);
        let allowed = turn.settings.failover && download.record.tried.len() < limits::FAILOVER_USERS;
        if allowed && self.switch(id, spare, turn) {
            return;
        }
        let searchable = self.live.get(&id).is_some_and(|download| !query(&download.record.path).is_empty());
        if !allowed || !searchable {
            self.end_or_begin_anew(id, ending, reason, fresh, turn);
            return;
        }
        let Some(download) = self.live.get_mut(&id) else { return };
        let told = format!("{reason}; looking for another user");
        download.record.next_attempt_at = None;
        download.phase = Phase::Seeking { ending, reason, fresh };
        self.seekers.insert(id);
        self.change(id, TransferEvent::Hold, Some(told), turn);
        self.pump(turn);
    }

    /// What a search for other sources of a download found; nothing, where it found or could do nothing.
    pub fn on_candidates(&mut self, id: TransferId, candidates: Vec<Candidate>, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        let Phase::Seeking { ending, reason, fresh } = &mut download.phase else { return };
        let (ending, reason, fresh) = (*ending, std::mem::take(reason), *fresh);
        self.leave(id);
        if !self.switch(id, candidates, turn) {
            self.end_or_begin_anew(id, ending, reason, fresh, turn);
        }
        self.pump(turn);
    }

    fn end_or_begin_anew(&mut self, id: TransferId, ending: Ending, reason: String, fresh: bool, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        if !fresh {
            self.finish(id, ending, Some(reason), turn);
            return;
        }
        download.solo = true;
        files::discard(&mut download.record, turn);
        self.ready(id, None, turn);
    }

    /// Goes over to the best of these that fits. `false` where none does.
    fn switch(&mut self, id: TransferId, candidates: Vec<Candidate>, turn: &mut Turn<'_>) -> bool {
        let Some(download) = self.live.get(&id) else { return false };
        let (record, moved) = (&download.record, download.moved);
        let mut fitting: Vec<Candidate> = candidates
            .into_iter()
            .filter(|candidate| {
                candidate.user != turn.settings.username
                    && !self.refuses(&candidate.user, turn.now)
                    && fits(record, moved, candidate)
                    && self.wanted(&candidate.user, &candidate.path).is_none()
            })
            .collect();
        fitting.sort_by(|a, b| {
            (b.free_slot, b.speed, a.queue, &a.user, &a.path).cmp(&(a.free_slot, a.speed, b.queue, &b.user, &b.path))
        });
        fitting.dedup_by(|a, b| a.user == b.user);
        fitting.truncate(limits::FAILOVER_USERS);
        if fitting.is_empty() {
            return false;
        }
        let best = fitting.remove(0);
        let (user, path) = (record.user.clone(), record.path.clone());
        self.leave(id);
        self.part(&user, &path, id, turn.out);
        self.meet(&best.user, &best.path, id, turn.now, turn.out);
        let Some(download) = self.live.get_mut(&id) else { return false };
        let told = format!("goes on with {} instead of {user}", best.user);
        // The file still lands in the folder it was asked for in, beside the rest of its album.
        download.record.destination.get_or_insert_with(|| names::layout(&path, None).0);
        if !download.record.tried.contains(&best.user) {
            download.record.tried.push(best.user.clone());
        }
        download.record.user = best.user;
        download.record.path = best.path;
        download.record.attempts = 0;
        download.record.enqueued_at = None;
        (download.counted, download.requeued, download.slotless, download.moved) = (false, false, false, false);
        download.deferred = 0;
        download.spare = fitting;
        self.ready(id, Some(told), turn);
        self.pump(turn);
        true
    }

    /// It is over, and no longer ours.
    pub(super) fn finish(&mut self, id: TransferId, ending: Ending, reason: Option<String>, turn: &mut Turn<'_>) {
        self.leave(id);
        let Some(download) = self.live.get_mut(&id) else { return };
        let record = &mut download.record;
        record.ended_at = Some(turn.now.wall);
        record.next_attempt_at = None;
        record.place_in_queue = None;
        let (user, path) = (record.user.clone(), record.path.clone());
        self.change(id, TransferEvent::End(ending), reason, turn);
        self.live.remove(&id);
        self.part(&user, &path, id, turn.out);
        match ending {
            Ending::Succeeded => self.succeeded = self.succeeded.saturating_add(1),
            Ending::Cancelled => {}
            _ => self.failed = self.failed.saturating_add(1),
        }
        let waiting: Vec<_> = self.places.iter().filter(|(_, about)| **about == id).map(|(c, _)| *c).collect();
        for command in waiting {
            self.timers.clear(&Timer::Place(command));
            self.answer_place(command, turn.out);
        }
        if self.live.is_empty() {
            self.disk = super::Disk::Fine;
            self.timers.clear(&Timer::Disk);
        }
    }
}

/// Whether a candidate can stand in for the present source: equal size and kind, and a user not tried before; or the
/// same user, whose path has changed.
fn fits(record: &Transfer, moved: bool, candidate: &Candidate) -> bool {
    let alike = record.size > 0
        && candidate.size == record.size
        && names::extension(&candidate.path) == names::extension(&record.path);
    let renamed = moved && candidate.user == record.user && candidate.path.as_str() != record.path.as_str();
    alike && (renamed || !record.tried.contains(&candidate.user))
}

/// `base` doubled so many times, with up to a quarter of jitter, never more than the longest pause.
fn pause(base: Duration, doublings: u32, turn: &mut Turn<'_>) -> Duration {
    let plain = base.saturating_mul(1 << doublings.min(6)).min(LONGEST * 4 / 5);
    let jitter = turn.chance.below(u64::try_from(plain.as_millis()).unwrap_or(u64::MAX) / 4);
    plain.saturating_add(Duration::from_millis(jitter))
}

/// Plain words that should find the same file at other users: those of its name, and of its folder where the name has
/// few. Numbers come last, since many people number their tracks in another way. Empty where there are no such words.
pub(super) fn query(path: &WireText) -> String {
    let name = path.base_name();
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let folder = path.folder().rsplit('\\').next().unwrap_or_default();
    let mut chosen: Vec<&str> = Vec::new();
    for (text, wanted) in [(stem, QUERY_WORDS), (folder, QUERY_WORDS / 2)] {
        for numbers in [false, true] {
            for word in words(text) {
                let number = word.chars().all(char::is_numeric);
                if chosen.len() < wanted && number == numbers && !chosen.contains(&word) {
                    chosen.push(word);
                }
            }
        }
    }
    chosen.join(" ")
}

/// Runs of letters and digits, single ASCII letters left out (they are what an apostrophe cuts off).
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.chars().nth(1).is_some() || !word.is_ascii() && !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_plain_and_short() {
        for (path, expected) in [
            ("m\\Artist\\Album (2001)\\03 - Don't Stop -Me- Now.flac", "Don Stop Me Now 03"),
            ("m\\Album\\One two three four five six seven.mp3", "One two three four five six"),
            ("m\\Some Band - Debut\\01 Intro.flac", "Intro 01 Some"),
            ("x\\02.mp3", "02"),
            ("x\\-1-.mp3", ""),
            ("x\\日本 語.flac", "日本 語"),
        ] {
            assert_eq!(query(&WireText::from(path)), expected, "{path}");
        }
    }
}
