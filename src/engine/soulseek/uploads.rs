//! Uploads that are not over: who may have what, in which order, and what the other side is told.
//!
//! ```text
//! asked ──look-up──> waiting ──slot──> checking ──still shared──> offered ──accepted──> opening ──connected──> sending ──> over
//!   └ not shared, banned, too much: denied          └ "Queued": waiting again, later
//! ```
//!
//! The index decides what is shared; a path is never joined to a folder here. Waiting uploads live in memory only: after
//! a restart the other side asks again, and a queue that strangers fill costs the card no writes. Finished ones are kept.

mod asking;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use asking::{Asked, deny};

use super::Settings;
use super::effect::{About, Effect, Effects};
use super::io::{FileAction, FileEvent, Notice, Refusal, Reply, SendEnd};
use super::peer::PeerMessage;
use super::queue::UploadQueue;
use super::server::ToServer;
use crate::model::id::{CommandId, ConnId, Token, TransferId, Username};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::time::Now;
use crate::model::transfer::{Direction, Ending, Transfer, TransferState};
use crate::model::view::FlowView;

/// An offer is answered within this, or the upload is over (Nicotine+ 3.3 waits as long).
const OFFER: Duration = Duration::from_secs(30);
/// A file connection stands within this: both ways of making one have their own, shorter limits.
const OPENING: Duration = Duration::from_secs(60);
/// Without progress for so long an upload is stopped; the shell gives up a silent socket earlier.
const STALL: Duration = Duration::from_secs(120);
/// A user whose download slots are full is offered the file again after this, then after twice as long, up to the
/// longest. One who asks again is served as soon as a slot is free.
const LATER: Duration = Duration::from_secs(60);
const LATER_MAX: Duration = Duration::from_secs(30 * 60);
/// Who takes less than `limits::UPLOAD_FLOOR` over this time loses the slot.
const FLOOR_WINDOW: Duration = Duration::from_secs(limits::UPLOAD_FLOOR_S);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// In the queue; not before this moment.
    Waiting,
    /// Told "Queued" by the other side: back into the queue at this moment.
    Postponed(Duration),
    /// It has a slot; the index is asked whether it is still shared.
    Checking { until: Duration },
    /// TransferRequest sent.
    Offered { token: Token, until: Duration },
    /// The other side wants it.
    Opening { token: Token, until: Duration },
    /// Bytes flow.
    Sending { began: Duration, until: Duration, window: Window },
}

/// Where an upload was when its speed was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    since: Duration,
    position: u64,
}

#[derive(Debug)]
struct Upload {
    transfer: Transfer,
    /// On our disk; may not be UTF-8, so the record's own copy is for people.
    file: PathBuf,
    phase: Phase,
    /// When the index last said that it is shared.
    looked_at: Duration,
    /// Times the other side had no free slot, in a row.
    postponed: u32,
}

/// The machine.
#[derive(Debug, Default)]
pub struct Uploads {
    all: BTreeMap<TransferId, Upload>,
    queue: UploadQueue,
    asked: BTreeMap<(Username, WireText), Asked>,
    /// Seeds tokens; any `u32`.
    tokens: u32,
    succeeded: u64,
    failed: u64,
    bytes: u64,
    last_speed: u32,
    /// Nobody can be offered anything, nor a file connection be made, while not.
    logged_in: bool,
}

/// What the other side is told.
mod denial {
    pub(super) const NOT_SHARED: &str = "File not shared.";
    pub(super) const READ_ERROR: &str = "File read error.";
    pub(super) const FILES: &str = "Too many files";
    pub(super) const MEGABYTES: &str = "Too many megabytes";
    pub(super) const BANNED: &str = "Banned";
    pub(super) const CANCELLED: &str = "Cancelled";
    pub(super) const QUEUED: &str = "Queued";
}

impl Uploads {
    /// None. `seed` makes the tokens of one run differ from those of the last.
    pub fn new(seed: u32) -> Self {
        Self { tokens: seed, ..Self::default() }
    }

    /// All that are not over.
    pub fn iter(&self) -> impl Iterator<Item = &Transfer> {
        self.all.values().map(|upload| &upload.transfer)
    }

    /// One.
    pub fn get(&self, id: TransferId) -> Option<&Transfer> {
        self.all.get(&id).map(|upload| &upload.transfer)
    }

    /// Uploads that take a slot.
    pub fn active(&self) -> u32 {
        self.count(|phase| !matches!(phase, Phase::Waiting | Phase::Postponed(_)))
    }

    /// Uploads that wait.
    pub fn queued(&self) -> u32 {
        self.count(|phase| matches!(phase, Phase::Waiting | Phase::Postponed(_)))
    }

    fn count(&self, which: impl Fn(Phase) -> bool) -> u32 {
        u32::try_from(self.all.values().filter(|upload| which(upload.phase)).count()).unwrap_or(u32::MAX)
    }

    /// Whether a file asked for now would start at once.
    pub fn free_slot(&self, settings: &Settings) -> bool {
        self.active() < settings.upload_slots && self.queue.is_empty()
    }

    /// Bytes per second of the last upload that succeeded, for search answers; 0 before one.
    pub fn usual_speed(&self) -> u32 {
        self.last_speed
    }

    /// Counters for the page.
    pub fn flow(&self) -> FlowView {
        let speed =
            self.all.values().filter(|u| matches!(u.phase, Phase::Sending { .. })).map(|u| u.transfer.average_speed);
        FlowView {
            active: self.active(),
            queued: self.queued(),
            speed: speed.sum(),
            succeeded: self.succeeded,
            failed: self.failed,
            bytes: self.bytes,
        }
    }

    /// A message of a user; false if it is not about uploads.
    pub fn on_peer_message(
        &mut self,
        user: &Username,
        message: &PeerMessage,
        settings: &Settings,
        now: Now,
        out: &mut Effects,
    ) -> bool {
        match message {
            PeerMessage::QueueUpload { path } => self.on_asked(user, path, None, settings, now, out),
            PeerMessage::TransferRequest { upload: false, token, path, .. } => {
                self.on_asked(user, path, Some(*token), settings, now, out);
            }
            PeerMessage::TransferResponse { token, answer } => {
                let offered = self.all.iter().find(|(_, upload)| {
                    upload.transfer.user == *user
                        && matches!(upload.phase, Phase::Offered { token: ours, .. } if ours == *token)
                });
                let Some((&id, _)) = offered else { return false };
                self.on_answer(id, answer.as_ref().err().map(WireText::as_str), *token, settings, now, out);
            }
            PeerMessage::PlaceInQueueRequest { path } => {
                // Active ones get silence, as from other clients.
                let waiting = self.all.iter().find(|(_, u)| u.transfer.user == *user && u.transfer.path == *path);
                if let Some(place) = waiting.and_then(|(id, _)| self.queue.place(user, *id)) {
                    let message = PeerMessage::PlaceInQueueResponse { path: path.clone(), place };
                    out.user(user, message, About::Nothing);
                }
            }
            _ => return false,
        }
        true
    }

    /// We are on the network.
    pub fn on_logged_in(&mut self, settings: &Settings, now: Now, out: &mut Effects) {
        self.logged_in = true;
        self.fill_slots(settings, now, out);
    }

    /// We are not. Running uploads go on, and whoever waits keeps the place.
    pub fn on_logged_out(&mut self) {
        self.logged_in = false;
    }

    /// Offers waiting files while slots are free: one file a user at a time.
    fn fill_slots(&mut self, settings: &Settings, now: Now, out: &mut Effects) {
        while self.logged_in && self.active() < settings.upload_slots {
            let busy: BTreeSet<Username> = self
                .all
                .values()
                .filter(|u| !matches!(u.phase, Phase::Waiting | Phase::Postponed(_)))
                .map(|u| u.transfer.user.clone())
                .collect();
            let Some(id) = self.queue.next(&busy) else { return };
            self.begin(id, now, out);
        }
    }

    fn offer(&mut self, id: TransferId, now: Now, out: &mut Effects) {
        let Some(upload) = self.all.get_mut(&id) else { return };
        self.tokens = self.tokens.wrapping_add(1);
        let token = Token(self.tokens);
        upload.phase = Phase::Offered { token, until: now.in_(OFFER) };
        upload.transfer.state = TransferState::Requested;
        upload.transfer.attempts += 1;
        let Transfer { user, path, size, .. } = &upload.transfer;
        let message = PeerMessage::TransferRequest { upload: true, token, path: path.clone(), size: Some(*size) };
        out.user(user, message, About::Upload(id));
        out.notice(Notice::TransferChanged(id, Direction::Upload));
    }

    fn on_answer(
        &mut self,
        id: TransferId,
        refused: Option<&str>,
        token: Token,
        settings: &Settings,
        now: Now,
        out: &mut Effects,
    ) {
        match refused {
            None => {
                let Some(upload) = self.all.get_mut(&id) else { return };
                upload.postponed = 0;
                upload.phase = Phase::Opening { token, until: now.in_(OPENING) };
                upload.transfer.state = TransferState::Initializing;
                out.push(Effect::OpenFile { user: upload.transfer.user.clone(), transfer: id });
                out.notice(Notice::TransferChanged(id, Direction::Upload));
            }
            Some(denial::QUEUED) => {
                let Some(upload) = self.all.get_mut(&id) else { return };
                let pause = LATER.saturating_mul(1 << upload.postponed.min(6)).min(LATER_MAX);
                upload.phase = Phase::Postponed(now.in_(pause));
                upload.postponed = upload.postponed.saturating_add(1);
                upload.transfer.state = TransferState::QueuedLocally;
                upload.transfer.reason = Some("the other side has no free download slot".to_owned());
                out.notice(Notice::TransferChanged(id, Direction::Upload));
            }
            Some(reason) => {
                let sentence = format!("the other side answers: {}", short(reason));
                self.end(id, Ending::Cancelled, Some(sentence), now, out);
            }
        }
        self.fill_slots(settings, now, out);
    }

    /// The file connection of an upload stands.
    pub fn on_file_opened(&mut self, id: TransferId, conn: ConnId, now: Now, out: &mut Effects) {
        let opening = self.all.get_mut(&id).and_then(|upload| match upload.phase {
            Phase::Opening { token, .. } => Some((upload, token)),
            _ => None,
        });
        let Some((upload, token)) = opening else {
            // Called off meanwhile.
            return out.push(Effect::Hang(conn));
        };
        let window = Window { since: now.mono, position: 0 };
        upload.phase = Phase::Sending { began: now.mono, until: now.in_(STALL), window };
        upload.transfer.state = TransferState::InProgress;
        upload.transfer.started_at = Some(now.wall);
        out.file(FileAction::Send {
            conn,
            transfer: id,
            token,
            local_path: upload.file.clone(),
            size: upload.transfer.size,
        });
        out.notice(Notice::TransferChanged(id, Direction::Upload));
    }

    /// The file connection of an upload cannot be made.
    pub fn on_file_failed(&mut self, id: TransferId, reason: &str, settings: &Settings, now: Now, out: &mut Effects) {
        let Some(upload) = self.all.get(&id) else { return };
        if !matches!(upload.phase, Phase::Opening { .. }) {
            return;
        }
        let Transfer { user, path, .. } = &upload.transfer;
        out.user(user, PeerMessage::UploadFailed { path: path.clone() }, About::Nothing);
        self.end(id, Ending::Errored, Some(format!("no file connection: {}", short(reason))), now, out);
        self.fill_slots(settings, now, out);
    }

    /// A message about this upload did not reach the user.
    pub fn on_unreachable(&mut self, id: TransferId, offline: bool, settings: &Settings, now: Now, out: &mut Effects) {
        let Some(upload) = self.all.get_mut(&id).filter(|upload| matches!(upload.phase, Phase::Offered { .. })) else {
            return;
        };
        if !self.logged_in {
            // That is our fault and not the user's.
            upload.phase = Phase::Waiting;
            upload.transfer.state = TransferState::QueuedLocally;
            self.queue.push(&upload.transfer.user, id);
            out.notice(Notice::TransferChanged(id, Direction::Upload));
            return;
        }
        let reason = if offline { "the user is offline" } else { "the user cannot be reached" };
        self.end(id, Ending::Errored, Some(reason.to_owned()), now, out);
        self.fill_slots(settings, now, out);
    }

    /// What became of the bytes.
    pub fn on_file_event(
        &mut self,
        id: TransferId,
        event: &FileEvent,
        settings: &Settings,
        now: Now,
        out: &mut Effects,
    ) {
        let sending = self.count(|phase| matches!(phase, Phase::Sending { .. }));
        let Some(upload) = self.all.get_mut(&id) else { return };
        let Phase::Sending { began, window, .. } = upload.phase else { return };
        let transfer = &mut upload.transfer;
        match event {
            FileEvent::Started { offset } => {
                transfer.start_offset = *offset;
                transfer.bytes_done = *offset;
                let window = Window { since: now.mono, position: *offset };
                upload.phase = Phase::Sending { began: now.mono, until: now.in_(STALL), window };
                out.notice(Notice::TransferChanged(id, Direction::Upload));
            }
            FileEvent::Progress { position } => {
                self.bytes = self.bytes.saturating_add(position.saturating_sub(transfer.bytes_done));
                transfer.bytes_done = *position;
                transfer.average_speed = speed(position.saturating_sub(transfer.start_offset), began, now);
                let Some(window) = window.at(*position, limited(settings, sending), now) else {
                    let (user, path) = (transfer.user.clone(), transfer.path.clone());
                    out.file(FileAction::Stop { transfer: id });
                    // Who still wants it asks again, and waits behind the others.
                    out.user(&user, PeerMessage::UploadFailed { path }, About::Nothing);
                    let reason = format!("taken more slowly than {} bytes/s", limits::UPLOAD_FLOOR);
                    self.end(id, Ending::TimedOut, Some(reason), now, out);
                    return self.fill_slots(settings, now, out);
                };
                upload.phase = Phase::Sending { began, until: now.in_(STALL), window };
            }
            FileEvent::Sent(end) => {
                let (ending, reason) = match end {
                    SendEnd::Complete { offset } => {
                        self.bytes = self.bytes.saturating_add(transfer.size.saturating_sub(transfer.bytes_done));
                        transfer.start_offset = *offset;
                        transfer.bytes_done = transfer.size;
                        let sent = transfer.size.saturating_sub(*offset);
                        transfer.average_speed = speed(sent, began, now);
                        if sent > 0 {
                            let speed = u32::try_from(transfer.average_speed).unwrap_or(u32::MAX);
                            self.last_speed = speed;
                            out.server(ToServer::SendUploadSpeed { speed });
                        }
                        (Ending::Succeeded, None)
                    }
                    SendEnd::Closed { position } => {
                        transfer.bytes_done = *position;
                        let reason = format!("the other side closed the connection at byte {position}");
                        (Ending::Cancelled, Some(reason))
                    }
                    SendEnd::FileError(error) => {
                        let (user, path) = (transfer.user.clone(), transfer.path.clone());
                        let reason = WireText::from(denial::READ_ERROR);
                        out.user(&user, PeerMessage::UploadDenied { path, reason }, About::Nothing);
                        (Ending::Errored, Some(format!("the file cannot be read: {error}")))
                    }
                    // Whatever is stopped here is over here already; what is left is the end of the program.
                    SendEnd::Stopped => (Ending::Aborted, Some("interrupted by a restart".to_owned())),
                };
                self.end(id, ending, reason, now, out);
                self.fill_slots(settings, now, out);
            }
            FileEvent::Synced { .. }
            | FileEvent::Received(_)
            | FileEvent::Meant(_)
            | FileEvent::Placed(_)
            | FileEvent::Compared(_) => {}
        }
    }

    /// The owner calls one off; false if there is no such upload.
    pub fn cancel(
        &mut self,
        command: CommandId,
        id: TransferId,
        remove: bool,
        settings: &Settings,
        now: Now,
        out: &mut Effects,
    ) -> bool {
        let Some(upload) = self.all.get_mut(&id) else { return false };
        upload.transfer.removed |= remove;
        if matches!(upload.phase, Phase::Sending { .. }) {
            out.file(FileAction::Stop { transfer: id });
        }
        let Transfer { user, path, .. } = &upload.transfer;
        let reason = WireText::from(denial::CANCELLED);
        out.user(user, PeerMessage::UploadDenied { path: path.clone(), reason }, About::Nothing);
        self.end(id, Ending::Cancelled, Some("called off by the owner".to_owned()), now, out);
        out.reply(command, Reply::Done);
        self.fill_slots(settings, now, out);
        true
    }

    /// Place of a waiting upload, 1 is next.
    pub fn place(&self, id: TransferId) -> Result<u32, Refusal> {
        let upload = self.all.get(&id).ok_or(Refusal::NotFound)?;
        self.queue.place(&upload.transfer.user, id).ok_or(Refusal::NotFound)
    }

    /// New settings: the banned lose their place, and there may be more slots.
    pub fn on_settings(&mut self, settings: &Settings, now: Now, out: &mut Effects) {
        let banned: Vec<TransferId> =
            self.all.iter().filter(|(_, u)| settings.banned.contains(&u.transfer.user)).map(|(id, _)| *id).collect();
        for id in banned {
            let Some(upload) = self.all.get(&id) else { continue };
            if matches!(upload.phase, Phase::Sending { .. }) {
                out.file(FileAction::Stop { transfer: id });
            }
            let Transfer { user, path, .. } = &upload.transfer;
            let reason = WireText::from(denial::BANNED);
            out.user(user, PeerMessage::UploadDenied { path: path.clone(), reason }, About::Nothing);
            self.end(id, Ending::Aborted, Some("the user is banned".to_owned()), now, out);
        }
        self.fill_slots(settings, now, out);
    }

    /// Deadlines.
    pub fn on_timeout(&mut self, settings: &Settings, now: Now, out: &mut Effects) {
        self.give_up_look_ups(now, out);
        let due: Vec<TransferId> = self
            .all
            .iter()
            .filter(|(_, u)| deadline(u.phase).is_some_and(|at| at <= now.mono))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(upload) = self.all.get_mut(&id) else { continue };
            match upload.phase {
                Phase::Waiting => {}
                Phase::Postponed(_) => {
                    upload.phase = Phase::Waiting;
                    upload.transfer.reason = None;
                    self.queue.push(&upload.transfer.user, id);
                }
                Phase::Checking { .. } => {
                    let Transfer { user, path, .. } = &upload.transfer;
                    deny(user, path, None, denial::READ_ERROR, out);
                    self.end(id, Ending::Errored, Some("the share index does not answer".to_owned()), now, out);
                }
                Phase::Offered { .. } => {
                    self.end(
                        id,
                        Ending::TimedOut,
                        Some("the other side does not answer the offer".to_owned()),
                        now,
                        out,
                    );
                }
                Phase::Opening { .. } => {
                    let Transfer { user, path, .. } = &upload.transfer;
                    out.user(user, PeerMessage::UploadFailed { path: path.clone() }, About::Nothing);
                    self.end(id, Ending::TimedOut, Some("no file connection in time".to_owned()), now, out);
                }
                Phase::Sending { .. } => {
                    out.file(FileAction::Stop { transfer: id });
                    self.end(id, Ending::TimedOut, Some("no progress".to_owned()), now, out);
                }
            }
        }
        self.fill_slots(settings, now, out);
    }

    /// The next deadline.
    pub fn next_timeout(&self) -> Option<Duration> {
        let uploads = self.all.values().filter_map(|upload| deadline(upload.phase));
        uploads.chain(self.asked.values().map(|asked| asked.until)).min()
    }

    fn end(&mut self, id: TransferId, ending: Ending, reason: Option<String>, now: Now, out: &mut Effects) {
        let Some(mut upload) = self.all.remove(&id) else { return };
        self.queue.remove(&upload.transfer.user, id);
        if ending == Ending::Succeeded {
            self.succeeded += 1;
        } else {
            self.failed += 1;
        }
        upload.transfer.state = TransferState::Completed(ending);
        upload.transfer.ended_at = Some(now.wall);
        upload.transfer.reason = reason;
        out.keep(&upload.transfer);
        out.notice(Notice::TransferChanged(id, Direction::Upload));
    }
}

fn deadline(phase: Phase) -> Option<Duration> {
    match phase {
        Phase::Waiting => None,
        Phase::Postponed(at) => Some(at),
        Phase::Checking { until }
        | Phase::Offered { until, .. }
        | Phase::Opening { until, .. }
        | Phase::Sending { until, .. } => Some(until),
    }
}

impl Window {
    /// The window now that this position is reached; `None`: the user took too little for its whole length.
    fn at(self, position: u64, limited: bool, now: Now) -> Option<Self> {
        let passed = now.mono.saturating_sub(self.since);
        if passed < FLOOR_WINDOW {
            return Some(self);
        }
        let floor = limits::UPLOAD_FLOOR.saturating_mul(passed.as_secs());
        let enough = limited || position.saturating_sub(self.position) >= floor;
        enough.then_some(Self { since: now.mono, position })
    }
}

/// Whether our own speed limit may be why an upload is slow: its share of it is not well above the floor.
fn limited(settings: &Settings, sending: u32) -> bool {
    let share = |limit: u64| limit / u64::from(sending.max(1));
    settings.upload_limit.is_some_and(|limit| share(limit) < limits::UPLOAD_FLOOR * 4)
}

/// Bytes per second since `began`; at least a millisecond is taken to have passed.
fn speed(bytes: u64, began: Duration, now: Now) -> u64 {
    let ms = u64::try_from(now.mono.saturating_sub(began).as_millis()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1_000) / ms
}

/// A stranger's sentence, cut.
fn short(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
#[path = "uploads_tests.rs"]
mod tests;
