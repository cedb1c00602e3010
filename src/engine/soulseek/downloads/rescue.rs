//! Downloads that mesh peers help with: what each is doing, how one stands aside meanwhile, and how it ends when the file
//! came from elsewhere.

use std::time::Duration;

use super::{Disk, Download, Downloads, FINISHED, Phase, Turn};
use crate::engine::soulseek::io::{FileAction, Notice, Refusal, Reply, RescuedFile};
use crate::engine::swarm::rescue::{Seen, Stage};
use crate::model::id::{CommandId, TransferId, Username};
use crate::model::limits;
use crate::model::time::Now;
use crate::model::transfer::{Direction, Ending, Rung, Transfer, TransferState};

impl Download {
    /// Mesh peers help with it.
    pub(super) fn is_aside(&self) -> bool {
        self.order & BEHIND != 0
    }
}

/// So long it is remembered that a download is finished, for an uploader who gets round to it: its queue may still hold us
/// (DECISIONS 6). What is said then is [`super::origin`]'s.
const HIDDEN: Duration = Duration::from_secs(24 * 60 * 60);

/// A download that is finished, as its uploader knows it.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) user: Username,
    pub(super) path: String,
    until: Duration,
    /// Mesh peers brought it, and its user was not asked about it yet.
    pub(super) unasked: Option<Unasked>,
}

/// A file that mesh peers brought.
#[derive(Debug)]
pub(super) struct Unasked {
    pub(super) id: TransferId,
    /// Where it lies, absolute.
    pub(super) file: String,
    /// Bytes.
    pub(super) size: u64,
}

impl Unasked {
    /// None of a file that its own user sent.
    fn of(record: &Transfer) -> Option<Self> {
        let rescued = matches!(record.rung, Some(Rung::Verified | Rung::RescuedCopy));
        let file = record.local_path.clone().filter(|_| rescued)?;
        Some(Self { id: record.id, file, size: record.size })
    }
}

/// Put behind all others of their user.
const BEHIND: u64 = 1 << 62;

impl Downloads {
    /// Every download that is not over, as rescue sees it.
    /// Those that move or moved come first, those that wait for us last; at most `limits::RESCUE_WATCHED`.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = |(id, download): (&TransferId, &Download)| Seen {
            id: *id,
            stage: self.stage(download),
            bytes: download.record.bytes_done,
        };
        let rank = |seen: &Seen| match seen.stage {
            Stage::Active => 0,
            Stage::Held | Stage::Placing => 3,
            Stage::Offline | Stage::Queued | Stage::Failing => 1 + u8::from(seen.bytes == 0),
        };
        let mut chosen = Vec::new();
        for wanted in 0..=3 {
            let room = limits::RESCUE_WATCHED - chosen.len();
            chosen.extend(self.live.iter().map(seen).filter(|seen| rank(seen) == wanted).take(room));
        }
        chosen
    }

    fn stage(&self, download: &Download) -> Stage {
        let user = self.users.get(&download.record.user);
        let held = !self.logged_in || self.disk == Disk::Full;
        let offline = user.is_some_and(|user| user.offline);
        match &download.phase {
            Phase::Placing => Stage::Placing,
            Phase::Receiving(receiving) if receiving.stop.is_none() => Stage::Active,
            _ if super::files::is_complete(download) => Stage::Placing,
            _ if held || download.slotless => Stage::Held,
            _ if offline => Stage::Offline,
            Phase::Receiving(_) | Phase::Waiting | Phase::Seeking { .. } => Stage::Failing,
            Phase::Ready | Phase::Asked { .. } | Phase::Agreed(_) => Stage::Queued,
        }
    }

    /// Whether this user is known to have put the file into its queue, or to have sent bytes of it: it is on Soulseek.
    pub fn met(&self, id: TransferId) -> bool {
        self.live.get(&id).is_some_and(|download| {
            let record = &download.record;
            record.bytes_done > 0 || record.place_in_queue.is_some() || record.started_at.is_some()
        })
    }

    /// Mesh peers help with this one: it takes no slot from others and is asked for behind them; or no more. `false` when
    /// it is not among those not over.
    pub fn aside(&mut self, command: CommandId, id: TransferId, aside: bool, turn: &mut Turn<'_>) -> bool {
        let Some(download) = self.live.get_mut(&id) else { return false };
        let order = if aside { download.order | BEHIND } else { download.order & !BEHIND };
        let before = std::mem::replace(&mut download.order, order);
        if let Phase::Ready = download.phase
            && let Some(user) = self.users.get_mut(&download.record.user)
            && user.ready.remove(&(before, id))
        {
            user.ready.insert((order, id));
        }
        turn.out.reply(command, Reply::Done);
        self.pump(turn);
        true
    }

    /// Downloads under way that take a slot.
    pub(super) fn slots_taken(&self) -> usize {
        let counts = |id: &&TransferId| self.live.get(id).is_none_or(|download| !download.is_aside());
        self.active.iter().filter(counts).count()
    }

    /// The whole file lies in its place already, and is what the user would have sent: the download is over, and whoever
    /// offers it from now on hears that it is complete. `false` when it is not among those not over.
    pub fn rescued(&mut self, command: CommandId, id: TransferId, file: RescuedFile, turn: &mut Turn<'_>) -> bool {
        let Some(download) = self.live.get_mut(&id) else { return false };
        if matches!(download.phase, Phase::Placing) || super::files::is_complete(download) {
            turn.out.refuse(command, Refusal::Duplicate);
            return true;
        }
        let partial = download.record.partial.take();
        match (&download.phase, partial) {
            (Phase::Receiving(_), partial) => {
                turn.out.file(FileAction::Stop { transfer: id });
                if let Some(partial) = partial {
                    self.leaving.insert(id, partial.file);
                }
            }
            (_, Some(partial)) => turn.out.file(FileAction::Discard { file: partial.file }),
            (_, None) => {}
        }
        let record = &mut download.record;
        record.size = file.size;
        record.bytes_done = file.size;
        record.local_path = Some(file.path);
        record.rung = Some(file.rung);
        let (user, path, unasked) = (record.user.clone(), record.path.as_str().to_owned(), Unasked::of(record));
        self.remember(user, path, unasked, turn.now, Duration::ZERO);
        self.finish(id, Ending::Succeeded, None, turn);
        turn.out.notice(Notice::DownloadFinished(id));
        turn.out.reply(command, Reply::Done);
        self.pump(turn);
        true
    }

    /// What is finished is not taken a second time; it was finished so long ago.
    pub(super) fn remember(&mut self, user: Username, path: String, unasked: Option<Unasked>, now: Now, ago: Duration) {
        let Some(left) = HIDDEN.checked_sub(ago).filter(|left| !left.is_zero()) else { return };
        if self.finished.len() >= FINISHED {
            self.finished.pop_front();
        }
        self.finished.push_back(Finished { user, path, until: now.in_(left), unasked });
    }

    /// Those among them that were finished within the last day are remembered. A calendar that jumped back makes one of
    /// them last for a day from now, one that jumped ahead ends it: nothing else depends on it.
    pub(super) fn remember_kept(&mut self, kept: &[Transfer], now: Now) {
        let finished = |transfer: &&Transfer| {
            transfer.direction == Direction::Download && transfer.state == TransferState::Completed(Ending::Succeeded)
        };
        let mut finished: Vec<&Transfer> = kept.iter().filter(finished).collect();
        finished.sort_by_key(|transfer| transfer.ended_at);
        for transfer in finished {
            let ago = transfer.ended_at.map_or(HIDDEN, |at| now.wall.since(at));
            let path = transfer.path.as_str().to_owned();
            self.remember(transfer.user.clone(), path, Unasked::of(transfer), now, ago);
        }
    }

    /// This user's file, if it was finished within the last day: the last time, if there were several.
    pub(super) fn finished(&mut self, user: &Username, path: &str, now: Now) -> Option<&mut Finished> {
        let is_it = |done: &&mut Finished| done.user == *user && done.path == path && now.mono < done.until;
        self.finished.iter_mut().rev().find(is_it)
    }
}

const _: () = assert!((limits::DOWNLOADS as u64) < BEHIND);
