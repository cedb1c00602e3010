//! What one machine of the engine wants of another, or of the shell. Machines never call one another: they push
//! effects, and `node` carries each to its place.

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use super::io::{Action, FileAction, NetAction, Notice, Refusal, Reply, ShareAsk};
use super::peer::PeerMessage;
use super::server::ToServer;
use crate::model::id::{CommandId, ConnId, TransferId, Username};
use crate::model::record::Change;
use crate::model::transfer::Transfer;

/// One wish.
#[derive(Debug)]
pub enum Effect {
    /// For the shell.
    Act(Action),
    /// For the server; dropped while not logged in.
    ToServer(ToServer),
    /// A message for a user, over the connection they last spoke on, else a new one. If it cannot be delivered the
    /// machine named by `about` is told.
    ToUser {
        /// To whom.
        user: Username,
        /// What.
        message: PeerMessage,
        /// On whose behalf.
        about: About,
    },
    /// Fetch a user's share list: sends `GetSharedFileList` and lets the reply in.
    AskShareList {
        /// Whose.
        user: Username,
        /// On whose behalf.
        about: About,
    },
    /// Stream our share list to a user who asked.
    ShareListTo(Username),
    /// Open a file connection for an upload; `Uploads` is told `on_file_opened` or `on_file_failed`.
    OpenFile {
        /// To whom: only ever at the address the server gives.
        user: Username,
        /// The upload.
        transfer: TransferId,
    },
    /// Open a distributed connection to a possible parent; `Tree` is told.
    OpenDistributed {
        /// Who.
        user: Username,
        /// Where, as the server said.
        at: SocketAddrV4,
    },
    /// Close a connection.
    Hang(ConnId),
    /// Look for another source of a file; `Downloads` is told `on_candidates`.
    Failover {
        /// The download.
        transfer: TransferId,
        /// Words to search for.
        query: String,
    },
}

/// On whose behalf a message to a user is sent, so that a failure reaches the right machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// Nobody waits for it.
    Nothing,
    /// A download.
    Download(TransferId),
    /// An upload.
    Upload(TransferId),
    /// An inquiry, by its number.
    Inquiry(u64),
}

/// Effects in the order they were wished.
#[derive(Debug, Default)]
pub struct Effects(VecDeque<Effect>);

impl Effects {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The oldest.
    pub fn pop(&mut self) -> Option<Effect> {
        self.0.pop_front()
    }

    /// One more.
    pub fn push(&mut self, effect: Effect) {
        self.0.push_back(effect);
    }

    /// For the network shell.
    pub fn net(&mut self, action: NetAction) {
        self.push(Effect::Act(Action::Net(action)));
    }

    /// For the file shell.
    pub fn file(&mut self, action: FileAction) {
        self.push(Effect::Act(Action::File(action)));
    }

    /// For the share index.
    pub fn ask(&mut self, ask: ShareAsk) {
        self.push(Effect::Act(Action::Share(ask)));
    }

    /// For the store.
    pub fn store(&mut self, change: Change) {
        self.push(Effect::Act(Action::Store(vec![change])));
    }

    /// For the store: this transfer as it is now.
    pub fn keep(&mut self, transfer: &Transfer) {
        self.store(Change::Transfer(Box::new(transfer.clone())));
    }

    /// Answer a command.
    pub fn reply(&mut self, command: CommandId, reply: Reply) {
        self.push(Effect::Act(Action::Reply(command, reply)));
    }

    /// Refuse a command.
    pub fn refuse(&mut self, command: CommandId, refusal: Refusal) {
        self.reply(command, Reply::Refused(refusal));
    }

    /// Tell pages and logs.
    pub fn notice(&mut self, notice: Notice) {
        self.push(Effect::Act(Action::Notice(notice)));
    }

    /// For the server.
    pub fn server(&mut self, message: ToServer) {
        self.push(Effect::ToServer(message));
    }

    /// For a user.
    pub fn user(&mut self, user: &Username, message: PeerMessage, about: About) {
        self.push(Effect::ToUser { user: user.clone(), message, about });
    }
}
