//! Messages between parents and children of the distributed search network.

use super::frame::{FrameError, Reader, Writer};
use crate::model::id::Token;
use crate::model::limits::{FRAME_INIT, USERNAME_LEN};
use crate::model::music::WireText;

/// The longest frame of a distributed message, whatever its code.
pub const FRAME_MAX: u32 = FRAME_INIT;

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

impl DistributedSearch {
    /// Reads the body of code 3, or of a server's embedded message with that code. The query is as long as it is: it is
    /// passed on untouched.
    ///
    /// # Errors
    /// When a field is missing or too long.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let r = &mut Reader::new(body);
        Ok(Self {
            identifier: r.u32()?,
            user: r.text(USERNAME_LEN)?,
            token: r.token()?,
            query: r.text(FRAME_INIT as usize)?,
            tail: r.rest().to_vec(),
        })
    }

    /// The body of code 3.
    pub fn encode_body(&self) -> Vec<u8> {
        let mut w = Writer::body();
        self.write(&mut w);
        w.finish()
    }

    fn write(&self, w: &mut Writer) {
        w.u32(self.identifier).text(&self.user).token(self.token).text(&self.query).bytes(&self.tail);
    }
}

impl DistributedMessage {
    /// The message's code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Ping => 0,
            Self::Search(_) => 3,
            Self::BranchLevel { .. } => 4,
            Self::BranchRoot { .. } => 5,
            Self::ChildDepth { .. } => 7,
            Self::Embedded { .. } => 93,
            Self::Other { code, .. } => *code,
        }
    }

    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::narrow(self.code());
        match self {
            Self::Ping => {}
            Self::Search(search) => search.write(&mut w),
            Self::BranchLevel { level } => {
                w.i32(*level);
            }
            Self::BranchRoot { user } => {
                w.text(user);
            }
            Self::ChildDepth { depth } => {
                w.u32(*depth);
            }
            Self::Embedded { code, body } => {
                w.u8(*code).bytes(body);
            }
            Self::Other { body, .. } => {
                w.bytes(body);
            }
        }
        w.finish()
    }

    /// Reads a parent's or child's message. Bytes after the last field are ignored, except those of a search.
    ///
    /// # Errors
    /// When a field is missing or too long.
    pub fn decode(code: u8, body: &[u8]) -> Result<Self, FrameError> {
        let r = &mut Reader::new(body);
        Ok(match code {
            0 => Self::Ping,
            3 => Self::Search(DistributedSearch::decode(body)?),
            4 => Self::BranchLevel { level: r.i32()? },
            5 => Self::BranchRoot { user: r.text(USERNAME_LEN)? },
            7 => Self::ChildDepth { depth: r.u32()? },
            93 => {
                // Older SoulseekQt passes the server's message on with its code still a `u32` (Nicotine+): three zeros
                // come before the embedded code.
                if let [0, 0, 0, embedded, ..] = body
                    && *embedded != 0
                {
                    r.bytes(3)?;
                }
                Self::Embedded { code: r.u8()?, body: r.rest().to_vec() }
            }
            _ => Self::Other { code, body: body.to_vec() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedded_search_may_come_behind_a_wide_code() {
        let search = DistributedSearch {
            identifier: 49,
            user: "u".into(),
            token: Token(7),
            query: "jazz".into(),
            tail: b"more".to_vec(),
        };
        let body = search.encode_body();
        let embedded = DistributedMessage::Embedded { code: 3, body: body.clone() };
        let narrow = [&[3][..], &body].concat();
        assert_eq!(DistributedMessage::decode(93, &narrow), Ok(embedded.clone()));
        assert_eq!(DistributedMessage::decode(93, &[&[0; 3][..], &narrow].concat()), Ok(embedded));
        assert_eq!(DistributedSearch::decode(&body), Ok(search));
    }

    #[test]
    fn names_have_limits_and_queries_do_not() {
        let length = USERNAME_LEN + 1;
        let root = DistributedMessage::BranchRoot { user: "x".repeat(length).into() };
        let refusal = FrameError::TextTooLong { length, length_max: USERNAME_LEN };
        assert_eq!(DistributedMessage::decode(5, &root.encode()[5..]), Err(refusal));
        let query = WireText::from("x".repeat(10_000));
        let search = DistributedSearch { identifier: 49, user: "u".into(), token: Token(7), query, tail: Vec::new() };
        let frame = DistributedMessage::Search(search.clone()).encode();
        assert_eq!(DistributedMessage::decode(3, &frame[5..]), Ok(DistributedMessage::Search(search)));
    }
}
