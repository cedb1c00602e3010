//! What the file shell reports: bytes, ends, a full disk, the finished file in its place.

use std::time::Duration;

use super::{Disk, Download, Downloads, Phase, Receiving, Stop, Timer, Turn};
use crate::engine::soulseek::io::{FileAction, FileEvent, Notice, PlaceError, ReceiveEnd};
use crate::engine::soulseek::names;
use crate::engine::soulseek::transfer::TransferEvent;
use crate::model::id::TransferId;
use crate::model::transfer::{DISK_FULL, Ending, JOINED, OWN_DISK, Partial, Rung, Transfer, TransferState};

/// Time without a byte after which a transfer is stopped (RELIABILITY-FACTS 4, row 3).
pub(super) const STALL: Duration = Duration::from_secs(60);
/// After this long it is seen whether the disk has room again.
const DISK_RETRY: Duration = Duration::from_secs(60);
/// For checking and moving a finished file; a Pi reads a few GiB from a slow disk in this time.
const PLACING: Duration = Duration::from_secs(30 * 60);
/// So many finished files are put into their places at once: on a slow disk each copy takes its time.
const PLACING_AT_ONCE: usize = 4;
/// The others look again after this long. Chosen.
const PLACING_TURN: Duration = Duration::from_secs(2);

impl Downloads {
    /// Something happened to a file of ours.
    pub fn on_file_event(&mut self, id: TransferId, event: FileEvent, turn: &mut Turn<'_>) {
        match event {
            FileEvent::Started { offset } => self.on_started(id, offset, turn),
            FileEvent::Progress { position } => self.on_progress(id, position, turn),
            FileEvent::Synced { synced, boot } => {
                if let Some(download) = self.live.get_mut(&id)
                    && let Some(partial) = &mut download.record.partial
                {
                    (partial.synced, partial.boot) = (synced, boot);
                    turn.out.keep(&download.record);
                }
            }
            FileEvent::Received(end) => {
                if let Some(file) = self.leaving.remove(&id) {
                    turn.out.file(FileAction::Discard { file });
                } else {
                    self.on_received(id, end, turn);
                }
                self.pump(turn);
            }
            FileEvent::Meant(path) => {
                if let Some(file) = self.leaving.remove(&id) {
                    turn.out.file(FileAction::Discard { file });
                } else if let Some(download) = self.live.get_mut(&id)
                    && matches!(download.phase, Phase::Placing)
                {
                    download.record.local_path = Some(path);
                    turn.out.keep(&download.record);
                    self.put(id, turn);
                }
                self.pump(turn);
            }
            FileEvent::Placed(result) => {
                if let Some(file) = self.leaving.remove(&id) {
                    if result.is_err() {
                        turn.out.file(FileAction::Discard { file });
                    }
                } else {
                    self.on_placed(id, result, turn);
                }
                self.pump(turn);
            }
            FileEvent::Compared(compared) => self.on_origin(id, compared, turn),
            FileEvent::Sent(_) => {}
        }
    }

    fn on_started(&mut self, id: TransferId, offset: u64, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        let Phase::Receiving(receiving) = &mut download.phase else { return };
        receiving.position = offset;
        (receiving.began_at, receiving.moved_at) = (turn.now.mono, turn.now.mono);
        let joining = receiving.joining;
        let record = &mut download.record;
        record.start_offset = offset;
        record.bytes_done = offset;
        record.average_speed = 0;
        record.started_at = Some(turn.now.wall);
        if offset == 0 {
            // Also where a join had too little to overlap with: the file is this user's alone then.
            // The shell tells the boot only where the record does not know it.
            let boot = record.partial.as_ref().map_or(0, |partial| partial.boot);
            record.partial = Some(Partial { boot, ..empty_partial(record) });
        } else if joining
            && let Some(partial) = &mut record.partial
            && partial.joins.last().is_none_or(|(_, user)| *user != record.user)
        {
            partial.joins.push((offset, record.user.clone()));
        }
        self.timers.set(Timer::Download(id), turn.now.in_(STALL));
        self.change(id, TransferEvent::Flow, None, turn);
    }

    /// Positions are not stored: the partial file itself says how far it is.
    fn on_progress(&mut self, id: TransferId, position: u64, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        let Phase::Receiving(receiving) = &mut download.phase else { return };
        let step = position.saturating_sub(receiving.position);
        if step == 0 {
            return;
        }
        let rate = per_second(step, turn.now.mono.saturating_sub(receiving.moved_at));
        receiving.rate = if receiving.rate == 0 { rate } else { receiving.rate / 4 * 3 + rate / 4 };
        receiving.moved_at = turn.now.mono;
        self.bytes = self.bytes.saturating_add(reached(&mut download.record, receiving, position, turn.now.mono));
        download.requeued = false;
        if receiving.stop.is_none() {
            self.timers.set(Timer::Download(id), turn.now.in_(STALL));
        }
        self.disk_works(id, turn);
    }

    fn on_received(&mut self, id: TransferId, end: ReceiveEnd, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        let Phase::Receiving(receiving) = &mut download.phase else { return };
        let (stop, refused) = (receiving.stop, receiving.refused.take());
        if end == ReceiveEnd::Complete {
            // What came since the last report, which in a quick download is all of it.
            let (size, now) = (download.record.size, turn.now.mono);
            self.bytes = self.bytes.saturating_add(reached(&mut download.record, receiving, size, now));
        }
        let (user, size) = (download.record.user.clone(), download.record.size);
        if let ReceiveEnd::Closed { position } | ReceiveEnd::DiskFull { position } | ReceiveEnd::Stopped { position } =
            end
        {
            download.record.bytes_done = position;
        }
        match (end, stop) {
            (ReceiveEnd::Complete, _) => {
                if let Some(partial) = &mut download.record.partial {
                    partial.synced = size;
                }
                turn.out.keep(&download.record);
                self.disk_works(id, turn);
                self.put(id, turn);
            }
            (ReceiveEnd::DiskFull { .. }, _) => self.on_disk_full(id, turn),
            (ReceiveEnd::OverlapDiffers, _) => {
                let reason = format!("{user} has other bytes than those already here");
                self.give_up_or_begin_anew(id, Ending::Errored, reason, turn);
            }
            (ReceiveEnd::DiskError(error), _) => self.fail(id, Ending::Errored, format!("{OWN_DISK}{error}"), turn),
            (_, Some(Stop::Superseded)) => self.ready(id, None, turn),
            (_, Some(Stop::Stalled)) => {
                self.fail(id, Ending::TimedOut, format!("{user} sent nothing for {} s", STALL.as_secs()), turn);
            }
            // Nobody here told it to: the program ends. That is nobody's failure.
            (ReceiveEnd::Stopped { .. }, None) if refused.is_none() => {
                self.ready(id, Some("interrupted by a restart".to_owned()), turn);
            }
            (ReceiveEnd::Closed { position } | ReceiveEnd::Stopped { position }, None) => {
                if let Some(reason) = refused {
                    self.give_up(id, Ending::Rejected, reason, turn);
                } else {
                    let reason = format!("{user} closed the connection at {position} of {size} bytes");
                    self.fail(id, Ending::Errored, reason, turn);
                }
            }
        }
    }

    /// Has the finished partial file put in its place: the one in its record, else a free one is chosen first.
    pub(super) fn put(&mut self, id: TransferId, turn: &mut Turn<'_>) {
        self.leave(id);
        if self.placing.len() >= PLACING_AT_ONCE {
            return self.rest(id, PLACING_TURN, None, turn);
        }
        let Some(download) = self.live.get_mut(&id) else { return };
        let record = &download.record;
        let Some(partial) = &record.partial else { return };
        let (folder, name) = names::layout(&record.path, record.destination.as_deref());
        let (file, check) = (partial.file.clone(), !partial.joins.is_empty());
        let (size, meant) = (record.size, record.local_path.clone());
        download.phase = Phase::Placing;
        self.placing.insert(id);
        turn.out.file(FileAction::Place { transfer: id, file, folder, name, size, check, meant });
        self.timers.set(Timer::Download(id), turn.now.in_(PLACING));
    }

    fn on_placed(&mut self, id: TransferId, result: Result<String, PlaceError>, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        match result {
            Ok(path) => {
                let record = &mut download.record;
                let joined = record.partial.take().is_some_and(|partial| !partial.joins.is_empty());
                record.rung = Some(if joined { Rung::JoinedByOverlap } else { Rung::SingleSource });
                record.local_path = Some(path);
                record.bytes_done = record.size;
                let (name, path) = (record.user.clone(), record.path.as_str().to_owned());
                if let Some(user) = self.users.get_mut(&name) {
                    // Their queue has room again.
                    user.paused = false;
                }
                self.remember(name, path, None, turn.now, Duration::ZERO);
                self.disk_works(id, turn);
                self.finish(id, Ending::Succeeded, None, turn);
                turn.out.notice(Notice::DownloadFinished(id));
            }
            Err(_) if !matches!(download.phase, Phase::Placing) => {}
            Err(PlaceError::CheckFailed(error)) => {
                download.solo = true;
                discard(&mut download.record, turn);
                self.fail(id, Ending::Errored, format!("{JOINED}{error}"), turn);
            }
            Err(PlaceError::DiskFull) => self.on_disk_full(id, turn),
            Err(PlaceError::FolderAway(error)) => self.on_folder_away(id, &error, turn),
            Err(PlaceError::Disk(error)) => self.on_misplaced(id, &error, turn),
        }
    }

    /// Costs no attempt: the file is whole, and people plug disks in when they come to it. That is put down once.
    fn on_folder_away(&mut self, id: TransferId, error: &str, turn: &mut Turn<'_>) {
        self.rest(id, DISK_RETRY, Some(format!("{OWN_DISK}{error}")), turn);
    }

    /// A whole file waits. Nothing is written down where it did so before, for that reason or, with none, for any.
    fn rest(&mut self, id: TransferId, delay: Duration, reason: Option<String>, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get(&id) else { return };
        let waits = download.record.state == TransferState::QueuedLocally;
        if waits && (reason.is_none() || download.record.reason == reason) {
            self.leave(id);
            self.timers.set(Timer::Download(id), turn.now.in_(delay));
        } else {
            self.wait(id, delay, reason.unwrap_or_else(|| "others are put into their places first".to_owned()), turn);
        }
    }

    /// The finished file is not in its place. Tried a second time, since much on a disk passes; then the partial file
    /// itself is not to be trusted.
    pub(super) fn on_misplaced(&mut self, id: TransferId, error: &str, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        download.misplaced = download.misplaced.saturating_add(1);
        if download.misplaced > 1 {
            download.misplaced = 0;
            discard(&mut download.record, turn);
        }
        self.fail(id, Ending::Errored, format!("{OWN_DISK}{error}"), turn);
    }

    /// No room. Costs no attempt; nothing is asked for or taken until one download got further.
    fn on_disk_full(&mut self, id: TransferId, turn: &mut Turn<'_>) {
        self.disk = Disk::Full;
        self.timers.set(Timer::Disk, turn.now.in_(DISK_RETRY));
        for download in self.live.values_mut().filter(|download| matches!(download.phase, Phase::Ready)) {
            download.record.reason = Some(DISK_FULL.to_owned());
        }
        if self.live.get(&id).is_some_and(is_complete) {
            self.wait(id, DISK_RETRY, DISK_FULL.to_owned(), turn);
        } else {
            self.ready(id, Some(DISK_FULL.to_owned()), turn);
        }
    }

    /// Bytes went to the disk: if it was full, it is so no more.
    fn disk_works(&mut self, id: TransferId, turn: &mut Turn<'_>) {
        let placing = self.live.get(&id).is_some_and(|download| matches!(download.phase, Phase::Placing));
        if matches!(self.disk, Disk::Probing(Some(probe)) if probe == id) || (self.disk != Disk::Fine && placing) {
            self.disk = Disk::Fine;
            self.timers.clear(&Timer::Disk);
            self.pump(turn);
        }
    }
}

/// Forgets the bytes that are there.
pub(super) fn discard(record: &mut Transfer, turn: &mut Turn<'_>) {
    record.bytes_done = 0;
    record.start_offset = 0;
    record.local_path = None;
    if let Some(partial) = record.partial.take() {
        turn.out.file(FileAction::Discard { file: partial.file });
    }
}

/// Every byte is here and durable; only the place is missing.
pub(super) fn is_complete(download: &Download) -> bool {
    let size = download.record.size;
    size > 0 && download.record.partial.as_ref().is_some_and(|partial| partial.synced >= size)
}

/// A partial file that begins with the present user's bytes.
pub(super) fn empty_partial(record: &Transfer) -> Partial {
    Partial {
        file: names::partial_name(record.id),
        synced: 0,
        boot: 0,
        joins: Vec::new(),
        first_user: record.user.clone(),
        first_path: record.path.clone(),
    }
}

/// Puts down how far the file is; the answer is how many bytes came since the last time.
fn reached(record: &mut Transfer, receiving: &mut Receiving, position: u64, now: Duration) -> u64 {
    let step = position.saturating_sub(receiving.position);
    receiving.position = position;
    record.bytes_done = position;
    let since_start = position.saturating_sub(record.start_offset);
    record.average_speed = per_second(since_start, now.saturating_sub(receiving.began_at));
    step
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1_000) / millis
}
