//! What is kept: the changes the engine asks the store to make, in its own words.

use serde::{Deserialize, Serialize};

use super::id::{BatchId, TransferId, Username};
use super::rescue::Origin;
use super::time::UnixMs;
use super::transfer::Transfer;

/// A private message, received or sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateMessage {
    /// The other user.
    pub user: Username,
    /// When: the server's time for received ones, ours for sent ones.
    pub at: UnixMs,
    /// The server's id of a received message, by which a repeated one is known; our own count for sent ones.
    pub id: u32,
    /// Received (true) or sent.
    pub incoming: bool,
    /// The text; at most `limits::MESSAGE_LEN` bytes.
    pub text: String,
    /// The owner has seen it.
    pub read: bool,
}

/// A search that is repeated at the server's interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Its number.
    pub id: u64,
    /// The words.
    pub text: String,
    /// When it was added.
    pub added_at: UnixMs,
    /// When it was last sent.
    pub searched_at: Option<UnixMs>,
    /// Files found by the last run.
    pub found: u32,
}

/// Downloads asked for together, as slskd's batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Its id.
    pub id: BatchId,
    /// From whom.
    pub user: Username,
    /// The search it came from, as the client said.
    pub search: Option<u128>,
    /// When.
    pub at: UnixMs,
    /// A client's own mark.
    pub external: Option<String>,
    /// Folder below the downloads folder, as asked.
    pub destination: Option<String>,
    /// Its transfers; at most `limits::BATCH_FILES`.
    pub transfers: Vec<TransferId>,
}

/// One change to the store. All changes of one commit are there together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// New or replaced.
    Transfer(Box<Transfer>),
    /// Forget it.
    TransferGone(TransferId),
    /// New or replaced (by user, time, id, direction).
    Message(PrivateMessage),
    /// All messages with this user have been seen.
    MessagesRead(Username),
    /// Forget the conversation.
    MessagesGone(Username),
    /// New or replaced.
    Wish(Wish),
    /// Forget it.
    WishGone(u64),
    /// New or replaced.
    Batch(Batch),
    /// What the user said of a file that mesh peers brought; nothing where that is not kept any more.
    Origin(TransferId, Origin),
    /// A named value: set-up state, password hash, secrets, owner's settings. `None` removes it.
    Setting(String, Option<Vec<u8>>),
}
