//! The file shell and the store of the test world: partial files are a length and the name of their content.

use std::collections::{BTreeMap, VecDeque};

use super::world::{Wire, World};
use crate::engine::soulseek::io::{Begin, FileAction, FileEvent, Input, PlaceError, ReceiveEnd, SendEnd};
use crate::model::id::{ConnId, TransferId};
use crate::model::limits::OVERLAP_BYTES;
use crate::model::record::{Change, PrivateMessage, Wish};
use crate::model::transfer::Transfer;

/// The store, which survives the death of the process.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) transfers: BTreeMap<TransferId, Transfer>,
    pub(super) messages: BTreeMap<(String, u64, u32, bool), PrivateMessage>,
    pub(super) wishes: BTreeMap<u64, Wish>,
}

/// A partial file.
#[derive(Clone, Copy, Debug, Default)]
struct Partial {
    len: u64,
    synced: u64,
    content: u32,
}

/// What survives the death of the process; of a power cut, what was synced.
#[derive(Debug, Default)]
pub(super) struct Disk {
    partials: BTreeMap<String, Partial>,
    /// Finished: path and (bytes, content).
    pub(super) finished: BTreeMap<String, (u64, u32)>,
    boot: u128,
}

impl Disk {
    pub(super) fn restart(&mut self, power_cut: bool) {
        if power_cut {
            self.boot += 1;
            self.partials.values_mut().for_each(|partial| partial.len = partial.synced);
        }
    }
}

#[derive(Debug)]
struct Receive {
    conn: ConnId,
    file: String,
    size: u64,
    /// Bytes to repeat first.
    overlap: u64,
}

#[derive(Debug)]
struct Send {
    conn: ConnId,
    size: u64,
    content: u32,
    /// Asked for and reached.
    at: Option<(u64, u64)>,
}

/// Under way.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    receives: BTreeMap<TransferId, Receive>,
    sends: BTreeMap<TransferId, Send>,
    pub(super) reports: VecDeque<(TransferId, FileEvent)>,
    /// The partial file, where it goes, its size, and whether that is chosen yet.
    places: VecDeque<(String, String, u64, bool)>,
}

impl Jobs {
    pub(super) fn ready_to_send(&self) -> impl Iterator<Item = TransferId> + '_ {
        let ready = |send: &Send| send.at.is_some_and(|(_, at)| at < send.size);
        self.sends.iter().filter(move |(_, send)| ready(send)).map(|(id, _)| *id)
    }

    fn tell(&mut self, id: TransferId, event: FileEvent) {
        self.reports.push_back((id, event));
    }

    /// Whether a running job writes this file.
    fn writes(&self, file: &str) -> bool {
        self.receives.values().any(|receive| receive.file == file)
            || self.places.iter().any(|(placing, ..)| placing == file)
    }
}

impl World {
    pub(super) fn start_file(&mut self, at: usize, action: FileAction) {
        match action {
            FileAction::Receive { conn, transfer, file, size, begin } => {
                let held = self.hold(at, conn, transfer);
                let station = &mut self.stations[at];
                assert!(!station.jobs.writes(&file), "two write {file}");
                if !held {
                    return station.jobs.tell(transfer, FileEvent::Received(ReceiveEnd::Closed { position: 0 }));
                }
                let boot = station.disk.boot;
                let partial = station.disk.partials.entry(file.clone()).or_default();
                let trusted = match &begin {
                    Begin::Fresh => 0,
                    Begin::Continue(record) | Begin::Join(record) => {
                        let same_boot = record.boot == boot;
                        // A file that is in its place already has no bytes here.
                        let moved = partial.len == 0;
                        assert!(moved || record.synced <= partial.synced, "claims bytes it has not");
                        if same_boot { partial.len } else { partial.len.min(record.synced) }
                    }
                };
                let trusted = trusted.min(size);
                let join = matches!(begin, Begin::Join(_));
                partial.len = if join && trusted < OVERLAP_BYTES { 0 } else { trusted };
                partial.synced = partial.synced.min(partial.len);
                let overlap = if join && partial.len > 0 && partial.len < size { OVERLAP_BYTES } else { 0 };
                let offset = partial.len - overlap;
                self.wire(at, conn, Wire::Offset(offset));
                let complete = self.stations[at].disk.partials[&file].len == size;
                self.stations[at].jobs.receives.insert(transfer, Receive { conn, file, size, overlap });
                if complete {
                    self.complete(at, transfer);
                } else {
                    self.stations[at].jobs.tell(transfer, FileEvent::Started { offset });
                }
            }
            FileAction::Compare { .. } => panic!("nothing came from a mesh"),
            FileAction::Send { conn, transfer, token, local_path, size } => {
                if !self.hold(at, conn, transfer) {
                    let end = SendEnd::Closed { position: 0 };
                    return self.stations[at].jobs.tell(transfer, FileEvent::Sent(end));
                }
                let (_, content) = self.stations[at].shares[&local_path.display().to_string()];
                self.wire(at, conn, Wire::Token(token));
                let earlier = self.stations[at].jobs.sends.insert(transfer, Send { conn, size, content, at: None });
                assert!(earlier.is_none(), "sent twice at once");
            }
            FileAction::Place { transfer, file, folder, name, size, meant, .. } => {
                let jobs = &mut self.stations[at].jobs;
                assert!(!jobs.writes(&file), "placed while it is written");
                let chosen = meant.is_some();
                let path = meant.unwrap_or_else(|| format!("/downloads/{folder}/{name}"));
                jobs.places.push_back((file, path, size, chosen));
                // Its report is made when its turn comes.
                jobs.tell(transfer, FileEvent::Placed(Err(PlaceError::DiskFull)));
            }
            FileAction::Discard { file } => {
                let station = &mut self.stations[at];
                assert!(!station.jobs.writes(&file), "discarded while it is written");
                station.disk.partials.remove(&file);
            }
            FileAction::Stop { transfer } => {
                if let Some(receive) = self.stations[at].jobs.receives.remove(&transfer) {
                    let position = self.stations[at].disk.partials[&receive.file].len;
                    self.close(at, receive.conn);
                    self.stations[at].jobs.tell(transfer, FileEvent::Received(ReceiveEnd::Stopped { position }));
                } else if let Some(send) = self.stations[at].jobs.sends.remove(&transfer) {
                    self.close(at, send.conn);
                    self.stations[at].jobs.tell(transfer, FileEvent::Sent(SendEnd::Stopped));
                }
            }
        }
    }

    /// Every byte is there.
    fn complete(&mut self, at: usize, id: TransferId) {
        let Some(receive) = self.stations[at].jobs.receives.remove(&id) else { return };
        self.close(at, receive.conn);
        self.sync(at, id, &receive.file);
        self.stations[at].jobs.tell(id, FileEvent::Received(ReceiveEnd::Complete));
    }

    fn sync(&mut self, at: usize, id: TransferId, file: &str) {
        let Some(partial) = self.stations[at].disk.partials.get_mut(file) else { return };
        partial.synced = partial.len;
        let (synced, boot) = (partial.synced, self.stations[at].disk.boot);
        self.stations[at].jobs.tell(id, FileEvent::Synced { synced, boot });
    }

    /// Something arrived on a file connection.
    pub(super) fn read_file(&mut self, at: usize, conn: ConnId, id: TransferId) {
        let Some(wire) = self.stations[at].ends.get_mut(&conn).and_then(|end| end.inbox.pop_front()) else { return };
        let mine = self.stations[at].jobs.receives.get(&id).is_some_and(|receive| receive.conn == conn);
        if mine { self.receive_some(at, id, wire) } else { self.heard_while_sending(at, id, conn, wire) }
    }

    fn receive_some(&mut self, at: usize, id: TransferId, wire: Wire) {
        let synced_now = self.dice.below(8) == 0;
        let full = self.faults && self.dice.below(60) == 0;
        let station = &mut self.stations[at];
        let Some(receive) = station.jobs.receives.get_mut(&id) else { return };
        let (file, conn) = (receive.file.clone(), receive.conn);
        let partial = station.disk.partials.get_mut(&file).expect("a partial file that is being written");
        let end = match wire {
            Wire::Bytes(content, _) if partial.len > 0 && partial.content != content => {
                assert!(receive.overlap > 0, "bytes of another file behind ours");
                ReceiveEnd::OverlapDiffers
            }
            Wire::Bytes(..) if full => ReceiveEnd::DiskFull { position: partial.len },
            Wire::Bytes(content, count) => {
                let repeated = count.min(receive.overlap);
                receive.overlap -= repeated;
                partial.content = content;
                partial.len = (partial.len + count - repeated).min(receive.size);
                let (position, complete) = (partial.len, partial.len == receive.size);
                if complete {
                    return self.complete(at, id);
                }
                station.jobs.tell(id, FileEvent::Progress { position });
                if synced_now {
                    self.sync(at, id, &file);
                }
                return;
            }
            Wire::HangUp => ReceiveEnd::Closed { position: partial.len },
            other => panic!("{other:?} to somebody who receives"),
        };
        station.jobs.receives.remove(&id);
        self.close(at, conn);
        self.sync(at, id, &file);
        self.stations[at].jobs.tell(id, FileEvent::Received(end));
    }

    fn heard_while_sending(&mut self, at: usize, id: TransferId, conn: ConnId, wire: Wire) {
        let station = &mut self.stations[at];
        let Some(send) = station.jobs.sends.get_mut(&id).filter(|send| send.conn == conn) else { return };
        match wire {
            Wire::Offset(offset) => {
                send.at = Some((offset, offset));
                station.jobs.tell(id, FileEvent::Started { offset });
            }
            Wire::HangUp => {
                let end = match send.at {
                    Some((offset, at)) if at == send.size => SendEnd::Complete { offset },
                    Some((_, position)) => SendEnd::Closed { position },
                    None => SendEnd::Closed { position: 0 },
                };
                station.jobs.sends.remove(&id);
                station.jobs.tell(id, FileEvent::Sent(end));
                self.close(at, conn);
            }
            other => panic!("{other:?} to somebody who sends"),
        }
    }

    pub(super) fn send_some(&mut self, at: usize, id: TransferId) {
        let most = 1 + self.dice.below(80_000);
        let Some(send) = self.stations[at].jobs.sends.get_mut(&id) else { return };
        let Some((_, position)) = &mut send.at else { return };
        let count = most.min(send.size - *position);
        *position += count;
        let (conn, content, position) = (send.conn, send.content, *position);
        self.wire(at, conn, Wire::Bytes(content, count));
        self.stations[at].jobs.tell(id, FileEvent::Progress { position });
    }

    /// The engine hears what the file shell has to say.
    pub(super) fn report(&mut self, at: usize) {
        let fault = if self.faults { self.dice.below(20) } else { 20 };
        let station = &mut self.stations[at];
        let Some((id, mut event)) = station.jobs.reports.pop_front() else { return };
        if matches!(event, FileEvent::Placed(_)) {
            let (file, path, size, chosen) = station.jobs.places.pop_front().expect("a file to place");
            let recorded = station.kept.transfers.get(&id).is_some_and(|kept| kept.local_path.as_ref() == Some(&path));
            if chosen && !recorded && !station.all_kept() {
                // Not before the record says where it goes.
                station.jobs.places.push_back((file, path, size, chosen));
                return station.jobs.tell(id, event);
            }
            let free = |path: &String| {
                let numbers = (0..).map(|n| if n == 0 { path.clone() } else { format!("{path} ({n})") });
                let free = numbers.into_iter().find(|path| !station.disk.finished.contains_key(path));
                free.expect("a free name")
            };
            let there = station.disk.finished.get(&path).is_some_and(|(bytes, _)| *bytes == size);
            let gone = !station.disk.partials.contains_key(&file);
            event = FileEvent::Placed(match fault {
                0 => Err(PlaceError::DiskFull),
                1 => Err(PlaceError::Disk("io".to_owned())),
                2 => Err(PlaceError::CheckFailed("crc".to_owned())),
                // Moved there before the process died; now the record learns of it.
                _ if chosen && gone && there => Ok(path),
                _ if !chosen || station.disk.finished.contains_key(&path) => {
                    let path = free(&path);
                    return self.handle(at, Input::File(id, FileEvent::Meant(path)));
                }
                _ => match station.disk.partials.remove(&file) {
                    Some(partial) => {
                        assert_eq!(partial.len, partial.synced, "placed before it was synced");
                        station.disk.finished.insert(path.clone(), (partial.len, partial.content));
                        Ok(path)
                    }
                    None => Err(PlaceError::Disk("no such file".to_owned())),
                },
            });
        }
        self.handle(at, Input::File(id, event));
    }
}

impl Kept {
    pub(super) fn apply_all(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.apply(change);
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Transfer(record) => {
                self.transfers.insert(record.id, *record);
            }
            Change::TransferGone(id) => {
                self.transfers.remove(&id);
            }
            Change::Message(message) => {
                let key = (message.user.as_str().to_owned(), message.at.0, message.id, message.incoming);
                self.messages.insert(key, message);
            }
            Change::MessagesGone(user) => self.messages.retain(|_, message| message.user != user),
            Change::Wish(wish) => {
                self.wishes.insert(wish.id, wish);
            }
            Change::WishGone(id) => {
                self.wishes.remove(&id);
            }
            Change::MessagesRead(_) | Change::Batch(_) | Change::Setting(..) | Change::Origin(..) => {}
        }
    }
}
