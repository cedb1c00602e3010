//! What users ask for, and the look-ups in the index that follow.

use std::time::Duration;

use super::{Phase, Upload, Uploads, denial};
use crate::engine::soulseek::Settings;
use crate::engine::soulseek::chance::Chance;
use crate::engine::soulseek::effect::{About, Effects};
use crate::engine::soulseek::io::{Notice, ShareAsk, SharedLocation};
use crate::engine::soulseek::peer::PeerMessage;
use crate::model::id::{Token, TransferId, Username};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::time::Now;
use crate::model::transfer::{Direction, Ending, Transfer, TransferState};
use crate::model::units::MIB;

/// Somebody's wish while the index looks the file up.
#[derive(Debug)]
pub(super) struct Asked {
    /// Answer by TransferResponse as well: the legacy form of asking.
    legacy: Option<Token>,
    /// The index answers within this, or never.
    pub(super) until: Duration,
}

/// A look-up takes milliseconds; one that takes so long has come to a dead disk, or to a defect. Chosen.
const LOOK_UP: Duration = Duration::from_secs(30);
/// What the index said so short a time ago is believed without asking again. Chosen.
const FRESH: Duration = Duration::from_secs(5);

impl Uploads {
    pub(super) fn on_asked(
        &mut self,
        user: &Username,
        path: &WireText,
        legacy: Option<Token>,
        settings: &Settings,
        now: Now,
        out: &mut Effects,
    ) {
        if settings.banned.contains(user) {
            return deny(user, path, legacy, denial::BANNED, out);
        }
        let known = self.all.iter_mut().find(|(_, u)| u.transfer.user == *user && u.transfer.path == *path);
        let key = (user.clone(), path.clone());
        if known.is_some() || self.asked.contains_key(&key) {
            if let Some(token) = legacy {
                let answer = Err(WireText::from(denial::QUEUED));
                out.user(user, PeerMessage::TransferResponse { token, answer }, About::Nothing);
            }
            // Whoever asks again has room by now.
            if let Some((&id, upload)) = known
                && matches!(upload.phase, Phase::Postponed(_))
            {
                upload.phase = Phase::Waiting;
                upload.transfer.reason = None;
                self.queue.push(user, id);
                self.fill_slots(settings, now, out);
            }
            return;
        }
        if path.as_str().len() > limits::PATH_LEN {
            return deny(user, path, legacy, denial::NOT_SHARED, out);
        }
        let theirs = self.all.values().filter(|u| u.transfer.user == *user).count()
            + self.asked.keys().filter(|(asker, _)| asker == user).count();
        let everybody = self.all.len() + self.asked.len();
        let full = theirs >= settings.user_queue_files as usize
            || everybody >= (settings.queue_files as usize).min(limits::UPLOADS);
        if full {
            return deny(user, path, legacy, denial::FILES, out);
        }
        self.asked.insert(key, Asked { legacy, until: now.in_(LOOK_UP) });
        out.ask(ShareAsk::File { user: user.clone(), path: path.clone() });
    }

    /// The index has looked a file up.
    pub fn on_found(
        &mut self,
        user: &Username,
        path: &WireText,
        found: Option<SharedLocation>,
        settings: &Settings,
        chance: &mut Chance,
        now: Now,
        out: &mut Effects,
    ) {
        let Some(asked) = self.asked.remove(&(user.clone(), path.clone())) else {
            return self.on_checked(user, path, found, settings, now, out);
        };
        let Some(location) = found else {
            return deny(user, path, asked.legacy, denial::NOT_SHARED, out);
        };
        let bytes = |mine: bool| -> u64 {
            let counted = self.all.values().filter(|u| !mine || u.transfer.user == *user);
            counted.map(|u| u.transfer.size).fold(location.size, u64::saturating_add)
        };
        let over = |used: u64, mib: u64| mib > 0 && used > mib.saturating_mul(MIB) && used != location.size;
        if over(bytes(true), settings.user_queue_mib) || over(bytes(false), settings.queue_mib) {
            return deny(user, path, asked.legacy, denial::MEGABYTES, out);
        }
        if let Some(token) = asked.legacy {
            let answer = Err(WireText::from(denial::QUEUED));
            out.user(user, PeerMessage::TransferResponse { token, answer }, About::Nothing);
        }
        let id = TransferId::from_random(chance.wide());
        let transfer = Transfer {
            id,
            direction: Direction::Upload,
            user: user.clone(),
            path: path.clone(),
            size: location.size,
            state: TransferState::QueuedLocally,
            requested_at: now.wall,
            enqueued_at: Some(now.wall),
            started_at: None,
            ended_at: None,
            start_offset: 0,
            bytes_done: 0,
            average_speed: 0,
            place_in_queue: None,
            reason: None,
            attempts: 0,
            next_attempt_at: None,
            removed: false,
            batch: None,
            destination: None,
            local_path: Some(location.local_path.display().to_string()),
            partial: None,
            rung: None,
            tried: Vec::new(),
        };
        self.all.insert(
            id,
            Upload { transfer, file: location.local_path, phase: Phase::Waiting, looked_at: now.mono, postponed: 0 },
        );
        self.queue.push(user, id);
        out.notice(Notice::TransferChanged(id, Direction::Upload));
        self.fill_slots(settings, now, out);
    }

    /// A file whose turn has come. It may have waited for days, so the index is asked again whether it is shared.
    pub(super) fn begin(&mut self, id: TransferId, now: Now, out: &mut Effects) {
        let Some(upload) = self.all.get_mut(&id) else { return };
        if now.mono.saturating_sub(upload.looked_at) <= FRESH {
            return self.offer(id, now, out);
        }
        upload.phase = Phase::Checking { until: now.in_(LOOK_UP) };
        let Transfer { user, path, .. } = &upload.transfer;
        out.ask(ShareAsk::File { user: user.clone(), path: path.clone() });
    }

    /// The index has looked up again what has a slot now.
    fn on_checked(
        &mut self,
        user: &Username,
        path: &WireText,
        found: Option<SharedLocation>,
        settings: &Settings,
        now: Now,
        out: &mut Effects,
    ) {
        let checked = self.all.iter_mut().find(|(_, upload)| {
            matches!(upload.phase, Phase::Checking { .. })
                && upload.transfer.user == *user
                && upload.transfer.path == *path
        });
        let Some((&id, upload)) = checked else { return };
        if let Some(location) = found {
            upload.transfer.size = location.size;
            upload.transfer.local_path = Some(location.local_path.display().to_string());
            upload.file = location.local_path;
            upload.looked_at = now.mono;
            if self.logged_in {
                self.offer(id, now, out);
            } else {
                upload.phase = Phase::Waiting;
                self.queue.push(user, id);
            }
        } else {
            deny(user, path, None, denial::NOT_SHARED, out);
            self.end(id, Ending::Rejected, Some("the file is no longer shared".to_owned()), now, out);
        }
        self.fill_slots(settings, now, out);
    }

    /// Look-ups that the index will not answer any more: whoever waits for them is told, and may ask again.
    pub(super) fn give_up_look_ups(&mut self, now: Now, out: &mut Effects) {
        self.asked.retain(|(user, path), asked| {
            let late = asked.until <= now.mono;
            if late {
                deny(user, path, asked.legacy, denial::READ_ERROR, out);
            }
            !late
        });
    }
}

pub(super) fn deny(user: &Username, path: &WireText, legacy: Option<Token>, reason: &str, out: &mut Effects) {
    let reason = WireText::from(reason);
    let message = match legacy {
        Some(token) => PeerMessage::TransferResponse { token, answer: Err(reason) },
        None => PeerMessage::UploadDenied { path: path.clone(), reason },
    };
    out.user(user, message, About::Nothing);
}
