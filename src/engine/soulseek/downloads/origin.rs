//! Users who get round to a download that is finished.
//!
//! Soulseek has no word for leaving a queue: whoever has us in it offers the file some day. If its own bytes are here it
//! hears that they are. If mesh peers brought the file, the user is the one who can say whether it is the right one: its
//! offer is taken once, for the last bytes alone, and they are laid beside those of the file that is here (DECISIONS 6).
//! The user sees an upload that ends as others do, of a moment. What is heard is written down, and changes nothing else.

use std::time::Duration;

use super::grants::{agreed_size, answer};
use super::rescue::Unasked;
use super::{Downloads, Timer, Turn};
use crate::engine::soulseek::effect::{About, Effect};
use crate::engine::soulseek::io::{Action, Compared, FileAction, Notice};
use crate::engine::soulseek::transfer;
use crate::model::id::{ConnId, Token, TransferId, Username};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::record::Change;
use crate::model::rescue::Origin;
use crate::model::transfer::{Direction, TransferState};

/// The shell keeps its own deadline ([`COMPARE`]); this one passes later and only catches what it lost.
const LOST: Duration = Duration::from_secs(60);
/// For the bytes to come: half a kilobyte a second. Chosen.
pub const COMPARE: Duration = Duration::from_secs(120);

/// A user who is being asked about a finished file.
#[derive(Debug)]
pub(super) struct Asked {
    user: Username,
    path: WireText,
    /// Of the offer; `None` once its connection is there.
    token: Option<Token>,
    ours: Unasked,
}

impl Downloads {
    /// A user is ready to send what we do not want, or not any more.
    pub(super) fn on_late_offer(
        &mut self,
        user: &Username,
        token: Token,
        path: &WireText,
        size: Option<u64>,
        turn: &mut Turn<'_>,
    ) {
        let room = self.asked_origins.len() < limits::ORIGINS_ASKED;
        let Some(done) = self.finished(user, path.as_str(), turn.now) else {
            answer(user, token, Err("Cancelled"), About::Nothing, turn);
            return;
        };
        // Asked once: whoever gets round to it again hears what others hear.
        let Some(ours) = done.unasked.take().filter(|_| room) else {
            answer(user, token, Err("Complete"), About::Nothing, turn);
            return;
        };
        if agreed_size(ours.size, size) != Some(ours.size) {
            answer(user, token, Err("Complete"), About::Nothing, turn);
            self.tell_origin(ours.id, path.clone(), Ok(Origin::OtherSize(size.unwrap_or_default())), turn);
            return;
        }
        let id = ours.id;
        self.asked_origins.insert(id, Asked { user: user.clone(), path: path.clone(), token: Some(token), ours });
        let patience = transfer::patience(TransferState::Initializing).unwrap_or_default();
        self.timers.set(Timer::Origin(id), turn.now.in_(patience));
        answer(user, token, Ok(()), About::Nothing, turn);
    }

    /// The token on a file connection that belongs to no download under way. `false` where it is nobody's.
    pub(super) fn on_origin_token(&mut self, user: &Username, conn: ConnId, token: Token, turn: &mut Turn<'_>) -> bool {
        let is_it = |asked: &Asked| asked.user == *user && asked.token == Some(token);
        let Some((id, asked)) = self.asked_origins.iter_mut().find(|(_, asked)| is_it(asked)) else { return false };
        asked.token = None;
        let (transfer, path, size) = (*id, asked.ours.file.clone(), asked.ours.size);
        turn.out.file(FileAction::Compare { conn, transfer, path, size });
        self.timers.set(Timer::Origin(transfer), turn.now.in_(COMPARE + LOST));
        true
    }

    /// A user was asked, and this is what came of it.
    pub(super) fn on_origin(&mut self, id: TransferId, compared: Compared, turn: &mut Turn<'_>) {
        let Some(asked) = self.asked_origins.remove(&id) else { return };
        self.timers.clear(&Timer::Origin(id));
        let heard = match compared {
            Compared::Same => Ok(Origin::Agrees),
            Compared::Other => Ok(Origin::Differs),
            Compared::Unknown(why) => Err(why),
        };
        self.tell_origin(id, asked.path, heard, turn);
    }

    #[expect(clippy::unused_self, reason = "one of the doors of the same machine")]
    fn tell_origin(&self, id: TransferId, path: WireText, heard: Result<Origin, String>, turn: &mut Turn<'_>) {
        let told = match heard {
            Ok(origin) => {
                turn.out.push(Effect::Act(Action::Store(vec![Change::Origin(id, origin)])));
                turn.out.notice(Notice::TransferChanged(id, Direction::Download));
                origin.words()
            }
            Err(why) => format!("the user\u{2019}s file could not be compared: {why}"),
        };
        turn.out.notice(Notice::OriginAsked { id, path, told });
    }
}
