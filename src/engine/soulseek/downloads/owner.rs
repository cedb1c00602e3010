//! What the owner and the owner's tools ask for: want files, call off, try again, where am I in the queue.

use std::time::Duration;

use super::{ASKED_PER_USER, Downloads, Phase, Timer, Turn, files, people};
use crate::engine::soulseek::Settings;
use crate::engine::soulseek::effect::{About, Effect};
use crate::engine::soulseek::io::{Action, EnqueueRequest, FileAction, Notice, Refusal, Reply};
use crate::engine::soulseek::names;
use crate::engine::soulseek::peer::PeerMessage;
use crate::engine::soulseek::transfer::{self, TransferEvent};
use crate::model::id::{CommandId, TransferId, Username};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::record::{Batch, Change};
use crate::model::transfer::{Direction, Ending, Transfer, TransferState};
use crate::model::units::GIB;

/// Largest file we ask for: 1 TiB (chosen; a larger claim is an error or a joke).
pub const FILE_SIZE_MAX: u64 = 1024 * GIB;
/// Live downloads allowed while nothing is shared (DESIGN 7).
pub const UNSHARED_DOWNLOADS: usize = 50;
/// Commands waiting to hear a place in queue.
const PLACE_WAITS: usize = 64;
/// How long such a command waits.
const PLACE_ANSWER: Duration = Duration::from_secs(10);

impl Downloads {
    /// Files wanted from a user. Each is recorded or refused on its own; the reply follows once they are durable.
    pub fn enqueue(&mut self, command: CommandId, request: EnqueueRequest, turn: &mut Turn<'_>) {
        if let Err(refusal) = self.check_request(&request, turn.settings) {
            turn.out.refuse(command, refusal);
            return;
        }
        let user = request.user;
        let destination = request.destination.as_deref().and_then(names::safe_destination);
        let obstacle = self.obstacle(&user);
        let mut room = self
            .users
            .get(&user)
            .map_or(ASKED_PER_USER, |user| user.limit().saturating_sub(user.asked.saturating_add(user.ready.len())));
        let (mut accepted, mut failed, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        for (path, size) in request.files {
            if let Err(reason) = self.check_file(&user, &path, size) {
                failed.push((path, reason));
                continue;
            }
            let id = TransferId::from_random(turn.chance.wide());
            let (state, reason) = match &obstacle {
                Some(reason) => (TransferState::QueuedLocally, Some(reason.clone())),
                None if room == 0 => (TransferState::QueuedLocally, Some(format!("waits for its turn with {user}"))),
                None => (TransferState::Requested, None),
            };
            room = room.saturating_sub(1);
            let record = Transfer {
                id,
                direction: Direction::Download,
                user: user.clone(),
                path,
                size,
                state,
                requested_at: turn.now.wall,
                enqueued_at: None,
                started_at: None,
                ended_at: None,
                start_offset: 0,
                bytes_done: 0,
                average_speed: 0,
                place_in_queue: None,
                reason,
                attempts: 0,
                next_attempt_at: None,
                removed: false,
                batch: request.batch,
                destination: destination.clone(),
                local_path: None,
                partial: None,
                rung: None,
                tried: vec![user.clone()],
            };
            changes.push(Change::Transfer(Box::new(record.clone())));
            accepted.push(id);
            self.admit(record, false, turn);
            self.line_up(id);
        }
        if let Some(id) = request.batch {
            changes.push(Change::Batch(Batch {
                id,
                user,
                search: request.search,
                at: turn.now.wall,
                external: request.external,
                destination: request.destination,
                transfers: accepted.clone(),
            }));
        }
        if !changes.is_empty() {
            turn.out.push(Effect::Act(Action::Store(changes)));
        }
        for id in &accepted {
            turn.out.notice(Notice::TransferChanged(*id, Direction::Download));
        }
        turn.out.reply(command, Reply::Enqueued { accepted, failed, batch: request.batch });
        self.pump(turn);
    }

    fn check_request(&self, request: &EnqueueRequest, settings: &Settings) -> Result<(), Refusal> {
        let invalid = |text: &str| Err(Refusal::Invalid(text.to_owned()));
        if request.user.as_str().is_empty() || request.user.as_str().len() > limits::USERNAME_LEN {
            return invalid("the user name is empty or too long");
        }
        if request.user == settings.username {
            return invalid("these are our own files");
        }
        if request.files.is_empty() {
            return invalid("no files");
        }
        if request.files.len() > limits::BATCH_FILES {
            let found = request.files.len();
            return Err(Refusal::Full(format!("{found} files at once, at most {}", limits::BATCH_FILES)));
        }
        if request.batch.is_some() && self.live.values().any(|download| download.record.batch == request.batch) {
            return Err(Refusal::Duplicate);
        }
        Ok(())
    }

    /// Why this one file cannot be wanted.
    fn check_file(&self, user: &Username, path: &WireText, size: u64) -> Result<(), String> {
        if path.base_name().trim().is_empty() {
            return Err("the path names no file".to_owned());
        }
        let length = path.to_wire().len();
        if length > limits::PATH_LEN {
            return Err(format!("the path has {length} bytes, at most {}", limits::PATH_LEN));
        }
        if size > FILE_SIZE_MAX {
            return Err(format!("{size} bytes is more than any file we fetch"));
        }
        if self.wanted(user, path).is_some() {
            return Err("already wanted".to_owned());
        }
        if self.live.len() >= limits::DOWNLOADS {
            return Err(format!("{} downloads are waiting or running, and no more fit", limits::DOWNLOADS));
        }
        if self.shared_files == Some(0) && self.live.len() >= UNSHARED_DOWNLOADS {
            return Err(format!("nothing is shared: at most {UNSHARED_DOWNLOADS} downloads until something is"));
        }
        Ok(())
    }

    /// Calls a download off, for good with `remove`. Works in every phase. `false`, and nothing done, when it is not
    /// among those not over: the caller looks in the store then.
    pub fn cancel(&mut self, command: CommandId, id: TransferId, remove: bool, turn: &mut Turn<'_>) -> bool {
        let Some(download) = self.live.get_mut(&id) else { return false };
        download.record.removed |= remove;
        let partial = download.record.partial.take();
        match (&download.phase, partial) {
            (Phase::Receiving(_), Some(partial)) => {
                turn.out.file(FileAction::Stop { transfer: id });
                self.leaving.insert(id, partial.file);
            }
            (Phase::Placing, Some(partial)) => {
                self.leaving.insert(id, partial.file);
            }
            (_, Some(partial)) => turn.out.file(FileAction::Discard { file: partial.file }),
            (_, None) => {}
        }
        self.finish(id, Ending::Cancelled, None, turn);
        turn.out.reply(command, Reply::Done);
        self.pump(turn);
        true
    }

    /// Tries a waiting download now. `false` when it is not among those not over: see [`Self::revive`].
    pub fn retry(&mut self, command: CommandId, id: TransferId, turn: &mut Turn<'_>) -> bool {
        let Some(download) = self.live.get_mut(&id) else { return false };
        if matches!(download.phase, Phase::Waiting | Phase::Seeking { .. }) {
            download.record.attempts = 0;
            download.counted = false;
            if files::is_complete(download) {
                self.put(id, turn);
            } else {
                self.ready(id, None, turn);
            }
        }
        if let Some(user) = self.live.get(&id).and_then(|download| self.users.get_mut(&download.record.user)) {
            user.paused = false;
        }
        turn.out.reply(command, Reply::Done);
        self.pump(turn);
        true
    }

    /// Takes a failed download back from the store and tries it anew, behind the bytes that are there.
    pub fn revive(&mut self, command: CommandId, mut record: Transfer, turn: &mut Turn<'_>) {
        let Some(state) = transfer::next(record.state, TransferEvent::Revive) else {
            turn.out.refuse(command, Refusal::Invalid(format!("it is {}", record.state.name())));
            return;
        };
        if record.direction != Direction::Download {
            turn.out.refuse(command, Refusal::Invalid("uploads are retried by those who want them".to_owned()));
            return;
        }
        if self.live.contains_key(&record.id) || self.wanted(&record.user, &record.path).is_some() {
            turn.out.refuse(command, Refusal::Duplicate);
            return;
        }
        if let Err(reason) = self.check_file(&record.user, &record.path, record.size) {
            turn.out.refuse(command, Refusal::Full(reason));
            return;
        }
        record.state = state;
        record.tried = vec![record.user.clone()];
        record.attempts = 0;
        record.removed = false;
        record.reason = self.obstacle(&record.user);
        record.ended_at = None;
        record.next_attempt_at = None;
        let id = record.id;
        turn.out.keep(&record);
        turn.out.notice(Notice::TransferChanged(id, Direction::Download));
        self.admit(record, false, turn);
        self.line_up(id);
        turn.out.reply(command, Reply::Done);
        self.pump(turn);
    }

    /// Asks for a download's place in queue. The user is asked at most every five minutes; in between the last answer
    /// is given again. `false` when the download is not among those not over.
    pub fn place(&mut self, command: CommandId, id: TransferId, turn: &mut Turn<'_>) -> bool {
        let Some(download) = self.live.get_mut(&id) else { return false };
        let known = download.record.place_in_queue;
        let Phase::Asked { place_asked_at, .. } = &mut download.phase else {
            let reason = format!("it is {}", download.record.state.name());
            turn.out.refuse(command, Refusal::Invalid(reason));
            return true;
        };
        let recent = place_asked_at.is_some_and(|at| turn.now.mono < at.saturating_add(people::PLACE_INTERVAL));
        if let (true, Some(place)) = (recent, known) {
            turn.out.reply(command, Reply::Place(place));
            return true;
        }
        if self.places.len() >= PLACE_WAITS {
            turn.out.refuse(command, Refusal::Full(format!("{PLACE_WAITS} questions for a place are open")));
            return true;
        }
        if !recent {
            *place_asked_at = Some(turn.now.mono);
            let path = download.record.path.clone();
            turn.out.user(&download.record.user, PeerMessage::PlaceInQueueRequest { path }, About::Download(id));
        }
        self.places.insert(command, id);
        self.timers.set(Timer::Place(command), turn.now.in_(PLACE_ANSWER));
        true
    }
}
