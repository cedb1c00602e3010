//! Messages between parents and children of the distributed search network.

use crate::model::id::Token;
use crate::model::music::WireText;

/// On a distributed connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named as in the protocol text")]
pub enum DistributedMessage {
    /// 0, obsolete.
    Ping,
    /// 3
    Search(DistributedSearch),
    /// 4
    BranchLevel { level: i32 },
    /// 5
    BranchRoot { user: WireText },
    /// 7, obsolete.
    ChildDepth { depth: u32 },
    /// 93: a server's embedded message that a parent passed on unwrapped.
    Embedded { code: u8, body: Vec<u8> },
    /// Any other code: read and ignored.
    Other { code: u8, body: Vec<u8> },
}

/// A search on its way down the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistributedSearch {
    /// 0x31 from everybody; kept as it came.
    pub identifier: u32,
    /// Who searches.
    pub user: WireText,
    /// To be repeated in the reply.
    pub token: Token,
    /// The words.
    pub query: WireText,
    /// Bytes after them, forwarded untouched.
    pub tail: Vec<u8>,
}
