//! What people and tools ask about a user, and what users ask about us.
//!
//! A question goes out once, however many ask it at the same time; the answer goes to each of them. Every question has
//! a deadline. What others ask (our description, our share list, a folder) is answered as long as they are not banned
//! and do not ask too often. How a message reaches a user is decided by `connections`.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

use super::Settings;
use super::chance::Chance;
use super::connections::SHARE_LIST;
use super::effect::{About, Effect, Effects};
use super::io::{Refusal, Reply, ShareAsk};
use super::peer::{PeerMessage, RemoteFolder, UserInfo};
use super::server::{FromServer, ToServer, UserStats, UserStatus};
use crate::model::id::{CommandId, Token, Username};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::time::Now;

/// For an answer other than a share list. Chosen.
const DEADLINE: Duration = Duration::from_secs(30);
/// For a user's figures once their status is known: the server sends both at once. Chosen.
const FIGURES: Duration = Duration::from_secs(3);
/// Our share list goes to one user once in this time. Chosen: reading it costs us disk and upload.
const SHARE_LIST_PAUSE: Duration = Duration::from_secs(10);
/// A folder that the share index has not answered for counts as pending so long.
const FOLDER: Duration = Duration::from_secs(30);

/// How our uploads stand, for those who ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Upload slots.
    pub slots: u32,
    /// Files waiting.
    pub queue_length: u32,
    /// A slot is free now.
    pub free_slot: bool,
}

/// What is asked about a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Their whole share list; answered `Browsed`.
    Browse,
    /// One folder by its path; answered `Folder`.
    Folder(WireText),
    /// What they say about themselves; answered `Info`.
    Info,
    /// Presence and figures; answered `Status`.
    Status,
    /// Where they listen; answered `Endpoint`.
    Endpoint,
}

#[derive(Debug)]
struct Inquiry {
    user: Username,
    question: Question,
    /// Of a folder request.
    token: Token,
    askers: Vec<CommandId>,
    until: Duration,
    /// The server's answers about a status, which come one by one.
    status: Option<(UserStatus, bool)>,
    stats: Option<UserStats>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Inquiries {
    own: Option<Username>,
    next: u64,
    open: BTreeMap<u64, Inquiry>,
    /// Who got our share list lately, and until when they get no other.
    share_lists: BTreeMap<Username, Duration>,
    /// Folders that the share index is looking up for others, and until when.
    folders: VecDeque<Duration>,
}

impl Default for Inquiries {
    fn default() -> Self {
        Self::new()
    }
}

impl Inquiries {
    /// Nobody asks.
    pub fn new() -> Self {
        Self { own: None, next: 0, open: BTreeMap::new(), share_lists: BTreeMap::new(), folders: VecDeque::new() }
    }

    /// On the network.
    pub fn on_logged_in(&mut self, own: &Username) {
        self.own = Some(own.clone());
    }

    /// Off the network: questions to the server are refused; those to users may still be answered.
    pub fn on_logged_out(&mut self, out: &mut Effects) {
        self.own = None;
        self.finish(out, |inquiry| {
            let to_server = matches!(inquiry.question, Question::Status | Question::Endpoint);
            to_server.then_some(Reply::Refused(Refusal::NotConnected))
        });
    }

    /// Somebody asks; exactly one reply follows, now or later.
    pub fn ask(
        &mut self,
        id: CommandId,
        user: Username,
        question: Question,
        chance: &mut Chance,
        now: Now,
        out: &mut Effects,
    ) {
        if let Err(refusal) = self.begin(id, user, question, chance, now, out) {
            out.refuse(id, refusal);
        }
    }

    fn begin(
        &mut self,
        id: CommandId,
        user: Username,
        question: Question,
        chance: &mut Chance,
        now: Now,
        out: &mut Effects,
    ) -> Result<(), Refusal> {
        let own = self.own.as_ref().ok_or(Refusal::NotConnected)?;
        let length = user.as_str().len();
        if length == 0 || length > limits::USERNAME_LEN {
            return Err(Refusal::Invalid(format!("a user name has 1 to {} bytes", limits::USERNAME_LEN)));
        }
        if user == *own && !matches!(question, Question::Status | Question::Endpoint) {
            return Err(Refusal::Invalid("that user is this program itself".to_owned()));
        }
        if let Question::Folder(folder) = &question
            && folder.to_wire().len() > limits::PATH_LEN
        {
            return Err(Refusal::Invalid(format!("a folder's path has at most {} bytes", limits::PATH_LEN)));
        }
        if let Some(same) = self.open.values_mut().find(|open| open.user == user && open.question == question) {
            if same.askers.len() >= limits::INQUIRY_ASKERS {
                return Err(Refusal::Full("too many wait for the same answer".to_owned()));
            }
            same.askers.push(id);
            return Ok(());
        }
        if self.open.len() >= limits::INQUIRIES {
            return Err(Refusal::Full("too many users are being asked at once".to_owned()));
        }
        self.next = self.next.saturating_add(1);
        let about = About::Inquiry(self.next);
        let token = Token(u32::try_from(chance.bits() >> 32).unwrap_or(0));
        let name = WireText::from(user.as_str());
        match &question {
            Question::Browse => out.push(Effect::AskShareList { user: user.clone(), about }),
            Question::Folder(folder) => {
                out.user(&user, PeerMessage::FolderContentsRequest { token, folder: folder.clone() }, about);
            }
            Question::Info => out.user(&user, PeerMessage::UserInfoRequest, about),
            Question::Status => {
                out.server(ToServer::GetUserStatus { user: name.clone() });
                out.server(ToServer::GetUserStats { user: name });
            }
            Question::Endpoint => out.server(ToServer::GetPeerAddress { user: name }),
        }
        let until = now.in_(if question == Question::Browse { SHARE_LIST } else { DEADLINE });
        let inquiry = Inquiry { user, question, token, askers: vec![id], until, status: None, stats: None };
        self.open.insert(self.next, inquiry);
        Ok(())
    }

    /// The server says something. Looks at status, figures and addresses of users.
    pub fn on_server(&mut self, message: &FromServer, now: Now, out: &mut Effects) {
        match message {
            FromServer::GetUserStatus { user, status, privileged } => {
                self.on_status(user, now, out, |inquiry| inquiry.status = Some((*status, *privileged)));
            }
            FromServer::GetUserStats { user, stats } | FromServer::WatchUser { user, found: Some((_, stats)), .. } => {
                self.on_status(user, now, out, |inquiry| inquiry.stats = Some(*stats));
            }
            FromServer::WatchUser { user, found: None, .. } => self.finish(out, |inquiry| {
                asked(inquiry, user, &Question::Status).then_some(Reply::Refused(Refusal::NotFound))
            }),
            FromServer::GetPeerAddress { user, ip, port, .. } => {
                let reply = match u16::try_from(*port) {
                    Ok(port) if !ip.is_unspecified() => Reply::Endpoint(SocketAddrV4::new(*ip, port)),
                    _ => Reply::Refused(Refusal::UserOffline),
                };
                self.finish(out, |inquiry| asked(inquiry, user, &Question::Endpoint).then(|| reply.clone()));
            }
            _ => {}
        }
    }

    /// A user asks or answers. Looks at `UserInfoRequest`, `GetSharedFileList`, `FolderContentsRequest`,
    /// `UserInfoResponse`, `SharedFileList` and `FolderContentsResponse`; others are not for this machine.
    pub fn on_peer(
        &mut self,
        user: &Username,
        message: PeerMessage,
        standing: Standing,
        settings: &Settings,
        now: Now,
        out: &mut Effects,
    ) {
        let welcome = !settings.banned.contains(user);
        match message {
            PeerMessage::UserInfoRequest if welcome => {
                let info = UserInfo {
                    description: WireText::from(settings.description.as_str()),
                    picture: None,
                    slots: standing.slots,
                    queue_length: standing.queue_length,
                    free_slot: standing.free_slot,
                    upload_permission: None,
                };
                out.user(user, PeerMessage::UserInfoResponse(info), About::Nothing);
            }
            PeerMessage::GetSharedFileList if welcome => self.on_share_list_wanted(user, now, out),
            PeerMessage::FolderContentsRequest { token, folder } if welcome => {
                self.folders.retain(|until| *until > now.mono);
                if self.folders.len() < limits::PENDING_LOOKUPS {
                    self.folders.push_back(now.in_(FOLDER));
                    out.ask(ShareAsk::Folder { user: user.clone(), token, path: folder });
                }
            }
            PeerMessage::UserInfoResponse(info) => self.finish(out, |inquiry| {
                (inquiry.user == *user && inquiry.question == Question::Info).then(|| Reply::Info(info.clone()))
            }),
            PeerMessage::SharedFileList { folders, files } => self.finish(out, |inquiry| {
                let mine = inquiry.user == *user && inquiry.question == Question::Browse;
                mine.then_some(Reply::Browsed { folders, files })
            }),
            PeerMessage::FolderContentsResponse { token, folder, folders } => self.finish(out, |inquiry| {
                let Question::Folder(wanted) = &inquiry.question else { return None };
                // By its text: some clients answer in another encoding than they were asked in.
                let mine = inquiry.user == *user && inquiry.token == token && wanted.as_str() == folder.as_str();
                let found = || Reply::Folder(folders.clone());
                mine.then(|| if folders.is_empty() { Reply::Refused(Refusal::NotFound) } else { found() })
            }),
            _ => {}
        }
    }

    /// The share index answers for a folder.
    pub fn on_folder(
        &mut self,
        user: &Username,
        token: Token,
        path: WireText,
        folders: Vec<RemoteFolder>,
        out: &mut Effects,
    ) {
        self.folders.pop_front();
        out.user(user, PeerMessage::FolderContentsResponse { token, folder: path, folders }, About::Nothing);
    }

    /// A question did not reach its user: `about` is the number in `About::Inquiry`.
    pub fn on_unreachable(&mut self, about: u64, out: &mut Effects) {
        if let Some(inquiry) = self.open.remove(&about) {
            answer(&inquiry, &Reply::Refused(Refusal::UserOffline), out);
        }
    }

    /// The deadline passed.
    pub fn on_timeout(&mut self, now: Now, out: &mut Effects) {
        self.finish(out, |inquiry| {
            let late = match inquiry.status {
                // Figures are an extra.
                Some((status, privileged)) => Reply::Status { status, privileged, stats: inquiry.stats },
                None => Reply::Refused(Refusal::TimedOut),
            };
            (inquiry.until <= now.mono).then_some(late)
        });
        self.share_lists.retain(|_, until| *until > now.mono);
    }

    /// When `on_timeout` is due.
    pub fn next_timeout(&self) -> Option<Duration> {
        let open = self.open.values().map(|inquiry| inquiry.until);
        open.chain(self.share_lists.values().copied()).min()
    }

    fn on_status(&mut self, user: &WireText, now: Now, out: &mut Effects, note: impl Fn(&mut Inquiry)) {
        for inquiry in self.open.values_mut().filter(|inquiry| asked(inquiry, user, &Question::Status)) {
            note(inquiry);
            if inquiry.status.is_some() {
                inquiry.until = inquiry.until.min(now.in_(FIGURES));
            }
        }
        self.finish(out, |inquiry| {
            let ((status, privileged), stats) = (inquiry.status?, inquiry.stats?);
            Some(Reply::Status { status, privileged, stats: Some(stats) })
        });
    }

    fn on_share_list_wanted(&mut self, user: &Username, now: Now, out: &mut Effects) {
        self.share_lists.retain(|_, until| *until > now.mono);
        if !self.share_lists.contains_key(user) && self.share_lists.len() < limits::SHARE_LIST_ASKERS {
            self.share_lists.insert(user.clone(), now.in_(SHARE_LIST_PAUSE));
            out.push(Effect::ShareListTo(user.clone()));
        }
    }

    /// Ends every inquiry for which there is a reply.
    fn finish(&mut self, out: &mut Effects, reply: impl Fn(&Inquiry) -> Option<Reply>) {
        self.open.retain(|_, inquiry| match reply(inquiry) {
            Some(reply) => {
                answer(inquiry, &reply, out);
                false
            }
            None => true,
        });
    }
}

fn asked(inquiry: &Inquiry, user: &WireText, question: &Question) -> bool {
    inquiry.user.as_str() == user.as_str() && inquiry.question == *question
}

fn answer(inquiry: &Inquiry, reply: &Reply, out: &mut Effects) {
    for &asker in &inquiry.askers {
        out.reply(asker, reply.clone());
    }
}

#[cfg(test)]
mod tests;
