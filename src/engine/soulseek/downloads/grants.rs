//! What uploaders say: offers, refusals, failures; and the file connection that follows an offer we took.

use std::time::Duration;

use super::{Disk, Downloads, FILE_SIZE_MAX, Phase, Receiving, Stop, Timer, Turn, files};
use crate::engine::audio::container::Check;
use crate::engine::soulseek::effect::About;
use crate::engine::soulseek::io::{Begin, FileAction};
use crate::engine::soulseek::names;
use crate::engine::soulseek::peer::PeerMessage;
use crate::engine::soulseek::transfer::{self, TransferEvent};
use crate::model::id::{ConnId, Token, TransferId, Username};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::transfer::{DISK_FULL, Ending, Transfer, TransferState};
use crate::model::units::GIB;

/// So long a ban is remembered. Chosen: an owner who was unbanned by hand can ask for a single file at any time.
const BANNED: Duration = Duration::from_secs(60 * 60);

impl Downloads {
    /// A peer message. `false` where it is not about downloads of ours: somebody else's business.
    pub fn on_peer_message(&mut self, user: &Username, message: &PeerMessage, turn: &mut Turn<'_>) -> bool {
        match message {
            PeerMessage::TransferRequest { upload: true, token, path, size } => {
                self.heard(user);
                self.on_offer(user, *token, path, *size, turn);
            }
            PeerMessage::PlaceInQueueResponse { path, place } => {
                self.heard(user);
                if let Some(id) = self.wanted(user, path) {
                    self.on_place(id, *place, turn);
                }
            }
            PeerMessage::UploadFailed { path } => {
                self.heard(user);
                if let Some(id) = self.wanted(user, path) {
                    self.on_upload_failed(id, turn);
                }
            }
            PeerMessage::UploadDenied { path, reason } => {
                self.heard(user);
                if let Some(id) = self.wanted(user, path) {
                    self.on_denied(id, reason.as_str(), turn);
                }
            }
            _ => return false,
        }
        self.pump(turn);
        true
    }

    /// A sign of life ends the caution after a failure.
    fn heard(&mut self, user: &Username) {
        if let Some(user) = self.users.get_mut(user) {
            (user.cautious, user.offline) = (false, false);
        }
    }

    /// The user is ready to send a file. Only what we want from this user under this path is taken.
    fn on_offer(&mut self, user: &Username, token: Token, path: &WireText, size: Option<u64>, turn: &mut Turn<'_>) {
        let Some(id) = self.wanted(user, path) else {
            self.on_late_offer(user, token, path, size, turn);
            return;
        };
        let about = About::Download(id);
        if self.leaving.contains_key(&id) {
            // The file shell has not let go of the attempt before.
            answer(user, token, Err("Queued"), about, turn);
            return;
        }
        let Some(download) = self.live.get_mut(&id) else { return };
        if matches!(download.phase, Phase::Placing) || files::is_complete(download) {
            answer(user, token, Err("Complete"), about, turn);
            return;
        }
        if let Phase::Receiving(receiving) = &mut download.phase {
            // The connection is dead on the other side. Asked for again once ours has ended.
            receiving.stop.get_or_insert(Stop::Superseded);
            turn.out.file(FileAction::Stop { transfer: id });
            answer(user, token, Err("Queued"), about, turn);
            return;
        }
        let wanted = download.record.size;
        let Some(agreed) = agreed_size(wanted, size) else {
            answer(user, token, Err("Cancelled"), about, turn);
            let reason = format!("{user} offers {} bytes instead of {wanted}", size.unwrap_or_default());
            self.give_up(id, Ending::Rejected, reason, turn);
            return;
        };
        if agreed != wanted {
            download.record.size = agreed;
            if let Some(partial) = download.record.partial.take() {
                turn.out.file(FileAction::Discard { file: partial.file });
            }
        }
        let holds_slot = matches!(download.phase, Phase::Agreed(_));
        let disk_takes = match self.disk {
            Disk::Fine => true,
            Disk::Full => false,
            Disk::Probing(probe) => probe.is_none_or(|probe| probe == id),
        };
        if !disk_takes || (!holds_slot && self.free_slots(turn) == 0) {
            answer(user, token, Err("Queued"), about, turn);
            let reason = if disk_takes { "waits for a free download slot" } else { DISK_FULL };
            if let Some(download) = self.live.get_mut(&id) {
                download.slotless = true;
            }
            self.ready(id, Some(reason.to_owned()), turn);
            return;
        }
        self.leave(id);
        let Some(download) = self.live.get_mut(&id) else { return };
        download.phase = Phase::Agreed(token);
        download.deferred = 0;
        download.slotless = false;
        download.record.place_in_queue = None;
        download.record.next_attempt_at = None;
        if !std::mem::replace(&mut download.counted, true) {
            download.record.attempts = download.record.attempts.saturating_add(1);
        }
        if let Disk::Probing(probe) = &mut self.disk {
            *probe = Some(id);
        }
        self.tokens.insert((user.clone(), token), id);
        self.active.insert(id);
        let patience = transfer::patience(TransferState::Initializing).unwrap_or_default();
        self.timers.set(Timer::Download(id), turn.now.in_(patience));
        self.change(id, TransferEvent::Agree, None, turn);
        answer(user, token, Ok(()), about, turn);
    }

    /// The uploader could not go through with it. Once that may be chance.
    fn on_upload_failed(&mut self, id: TransferId, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        // A running transfer ends by its connection; the message is then only an echo.
        if !matches!(download.phase, Phase::Asked { .. } | Phase::Agreed(_)) {
            return;
        }
        if std::mem::replace(&mut download.requeued, true) {
            let reason = format!("{} reports that the upload failed", download.record.user);
            self.fail(id, Ending::Errored, reason, turn);
        } else {
            self.ready(id, None, turn);
        }
    }

    /// The uploader refuses, with one of the network's fixed sentences.
    fn on_denied(&mut self, id: TransferId, reason: &str, turn: &mut Turn<'_>) {
        let Some(download) = self.live.get_mut(&id) else { return };
        if files::is_complete(download) {
            // Nothing is wanted of them any more.
            return;
        }
        let user = download.record.user.clone();
        let sentence: String = reason.chars().take(200).collect();
        let told = format!("{user} refuses: {}", sentence.trim_end_matches('.'));
        // Called off over there while bytes flowed: this may be heard before the end of the file connection, or after.
        let called_off = matches!(reason, "Banned" | "Cancelled");
        match &mut download.phase {
            Phase::Receiving(receiving) if called_off => {
                receiving.refused = Some(told);
                return;
            }
            Phase::Waiting | Phase::Ready if called_off => {}
            Phase::Asked { .. } | Phase::Agreed(_) => {}
            Phase::Waiting | Phase::Ready | Phase::Receiving(_) | Phase::Placing | Phase::Seeking { .. } => return,
        }
        match reason {
            "Queued" => {
                if let Phase::Asked { heard_at, .. } = &mut download.phase {
                    *heard_at = turn.now.mono;
                }
            }
            "Too many files" | "Too many megabytes" | "Pending shutdown." => self.defer(id, told, turn),
            "File not shared." => {
                if let Some(path) = download.record.path.as_latin1() {
                    // Some clients only know Latin-1. It goes out so from now on, and only once more.
                    download.record.path = path;
                    self.ready(id, None, turn);
                } else {
                    download.moved = true;
                    self.give_up(id, Ending::Rejected, told, turn);
                }
            }
            "Banned" => self.on_banned(id, &user, &told, turn),
            _ => self.give_up(id, Ending::Rejected, told, turn),
        }
    }

    /// The user wants nothing to do with us: no other file is asked for either.
    fn on_banned(&mut self, id: TransferId, name: &Username, told: &str, turn: &mut Turn<'_>) {
        if self.refusing.len() >= limits::REFUSING_USERS
            && let Some(oldest) = self.refusing.iter().min_by_key(|(_, until)| **until).map(|(user, _)| user.clone())
        {
            self.refusing.remove(&oldest);
        }
        self.refusing.insert(name.clone(), turn.now.in_(BANNED));
        if let Some(user) = self.users.get_mut(name) {
            // None of the others is asked for while they are taken elsewhere one by one.
            user.cautious = true;
            user.paused = true;
        }
        self.give_up(id, Ending::Rejected, told.to_owned(), turn);
        for other in self.ids_of(name) {
            let waits = self.live.get(&other).is_some_and(|download| {
                let idle = matches!(download.phase, Phase::Waiting | Phase::Ready | Phase::Asked { .. });
                download.record.user == *name && idle && !files::is_complete(download)
            });
            if waits {
                self.give_up(other, Ending::Rejected, told.to_owned(), turn);
            }
        }
        // Whatever is left there is on its way. What the owner wants from now on is asked for one by one.
        if let Some(user) = self.users.get_mut(name) {
            user.paused = false;
        }
    }

    /// The uploader's token on a file connection. `false` where we agreed to no such transfer: the connection is
    /// nobody's.
    pub fn on_file_token(&mut self, user: &Username, conn: ConnId, token: Token, turn: &mut Turn<'_>) -> bool {
        let Some(id) = self.tokens.get(&(user.clone(), token)).copied() else {
            return self.on_origin_token(user, conn, token, turn);
        };
        let Some(download) = self.live.get_mut(&id) else { return false };
        self.tokens.remove(&(user.clone(), token));
        let begin = begin(&mut download.record, download.solo);
        download.phase = Phase::Receiving(Receiving {
            position: 0,
            began_at: turn.now.mono,
            moved_at: turn.now.mono,
            rate: 0,
            joining: matches!(begin, Begin::Join(_)),
            stop: None,
            refused: None,
        });
        // Whose bytes these are goes to the store before the shell may ask for the first of them.
        turn.out.keep(&download.record);
        let file = download.record.partial.as_ref().map_or_else(|| names::partial_name(id), |p| p.file.clone());
        let size = download.record.size;
        turn.out.file(FileAction::Receive { conn, transfer: id, file, size, begin });
        self.timers.set(Timer::Download(id), turn.now.in_(files::STALL));
        true
    }
}

pub(super) fn answer(user: &Username, token: Token, answer: Result<(), &str>, about: About, turn: &mut Turn<'_>) {
    let answer = answer.map(|()| None).map_err(WireText::from);
    turn.out.user(user, PeerMessage::TransferResponse { token, answer }, about);
}

/// How the next receive begins (DECISIONS 2). Whoever the bytes at hand come from, only the same user and path may
/// simply go on; another user's are joined where the container can prove the seam, else the file begins anew.
fn begin(record: &mut Transfer, solo: bool) -> Begin {
    if let Some(partial) = &record.partial {
        let same = partial.first_user == record.user && partial.first_path.as_str() == record.path.as_str();
        if same && partial.joins.is_empty() {
            return Begin::Continue(partial.clone());
        }
        let provable = Check::for_extension(&names::extension(&record.path)).is_some();
        if provable && !solo && partial.joins.len() < limits::FAILOVER_USERS {
            return Begin::Join(partial.clone());
        }
    }
    record.partial = Some(files::empty_partial(record));
    Begin::Fresh
}

/// The size to expect, or `None` where the offer is another file.
///
/// Old clients write sizes past 2 or 4 GiB wrongly, in search answers or in offers: 0, cut to 32 bits, or with a sign.
pub(super) fn agreed_size(wanted: u64, offered: Option<u64>) -> Option<u64> {
    const LOW: u64 = 0xffff_ffff;
    let Some(offered) = offered else { return Some(wanted) };
    if wanted == 0 {
        return (offered <= FILE_SIZE_MAX).then_some(offered);
    }
    if offered == wanted || offered == 0 {
        return Some(wanted);
    }
    if offered & LOW != wanted & LOW {
        return None;
    }
    match offered >> 32 {
        0 | LOW if wanted >= 2 * GIB => Some(wanted),
        1.. if wanted <= LOW && offered <= FILE_SIZE_MAX => Some(offered),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_old_clients_are_understood() {
        let g = GIB;
        for (wanted, offered, expected) in [
            (100, Some(100), Some(100)),
            (100, None, Some(100)),
            (100, Some(0), Some(100)),
            (0, Some(100), Some(100)),
            (0, Some(u64::MAX), None),
            (100, Some(101), None),
            (5 * g, Some(g), Some(5 * g)),
            (3 * g, Some(0xffff_ffff_0000_0000 | (3 * g)), Some(3 * g)),
            (g, Some(5 * g), Some(5 * g)),
            (g, Some(0xffff_ffff_0000_0000 | g), None),
            (5 * g, Some(9 * g), None),
        ] {
            assert_eq!(agreed_size(wanted, offered), expected, "{wanted} {offered:?}");
        }
    }
}
