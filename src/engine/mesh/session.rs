//! The control stream of one connection.
//!
//! | State | Event | Next | Does |
//! |---|---|---|---|
//! | Fresh | opened | Greeting | the dialler says hello |
//! | Greeting | hello of a version we speak | Open | the listener answers with its own; ready |
//! | Greeting | anything else, or 5 s | Closed | |
//! | Open | ping | Open | pong |
//! | Open | query | Open | asks whoever knows the shares; [`Input::Answer`] sends it |
//! | Open | word about recordings | Open | told; [`Input::Tell`] says one |
//! | Open | answer to a query of ours | Open | told once; 10 s without one count as "no" |
//! | Open | 30 s quiet | Open | ping |
//! | Open | no pong for 30 s | Closed | |
//! | Open | hello, too many messages | Closed | |
//! | any | bytes that are no frame, the stream's end | Closed | |
//! | Closed | anything | Closed | nothing |
//!
//! Messages that belong on a stream of their own are violations here; unknown kinds are passed over but counted.

use std::collections::BTreeMap;
use std::time::Duration;

use super::control::Sealed;
use super::frame::{Frame, FrameError, Frames, Hello, Message, MessageId};
use crate::model::id::ContentHash;
use crate::model::limits;

/// The version of the protocol we speak.
pub const PROTOCOL: u16 = 1;
/// Versions up to this one are thought to understand ours (SPEC-FACTS 8).
pub const PROTOCOL_MAX: u16 = 100;
/// What we can do: abilities by name (SPEC-FACTS 8).
pub const FEATURES: &str = "mesh chunks mbid hash_sync";
/// The same of one that says nothing about recordings.
pub const FEATURES_SILENT: &str = "mesh chunks";
/// Abilities of one peer that are looked at, and their longest name, bytes; further ones are left out.
const FEATURES_MAX: usize = 20;
const FEATURE_LEN: usize = 32;
/// Longest user name and program name, bytes (SPEC-FACTS 8: 64); longer ones are a violation.
const NAME_LEN: usize = 64;

/// For the first words of the other side (SPEC-FACTS 8).
const HELLO: Duration = Duration::from_secs(5);
/// Quiet so long: a ping. Chosen below the 2 min of SPEC-FACTS 8, so that a stall of the program behind a living
/// connection shows within a minute.
const QUIET: Duration = Duration::from_secs(30);
/// For the answer to it (SPEC-FACTS 8).
const PONG: Duration = Duration::from_secs(30);
/// For the answer to a question.
const ANSWER: Duration = Duration::from_secs(10);

/// Which side we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We called.
    Dialler,
    /// We were called.
    Listener,
}

/// What happens to a session.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// The stream is there.
    Opened,
    /// These bytes came, at most [`Session::wanted`].
    Bytes(&'a [u8]),
    /// The stream ended.
    Ended,
    /// Time passed.
    Tick,
    /// Ask whether the peer shares this file. The number comes back in [`Action::Heard`].
    Ask(u64, ContentHash),
    /// Tell the peer something about recordings.
    Tell(Sealed),
    /// The answer to [`Action::Asked`].
    Answer(MessageId, Option<u64>),
}

/// What a session wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// These bytes on the stream.
    Send(Vec<u8>),
    /// Both sides have greeted. Once.
    Ready(Greeted),
    /// The peer wants to know how long our file of this content is, if we share it with this peer.
    Asked(MessageId, ContentHash),
    /// The peer says this about recordings.
    Told(Sealed),
    /// What came of [`Input::Ask`]: the length, or that there is none.
    Heard(u64, Option<u64>),
    /// It is over. Once, last.
    Close(CloseReason),
}

/// What the other side said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeted {
    /// The version both speak.
    pub version: u16,
    /// Its abilities, the known and the unknown.
    pub features: Vec<String>,
    /// Its program.
    pub software: String,
    /// The UDP port it listens on; 0 if on none.
    pub port: u16,
    /// Its Soulseek user name, as it claims.
    pub username: String,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The stream ended.
    #[error("the peer closed its control stream")]
    Ended,
    /// No hello in time.
    #[error("no greeting within 5 s")]
    NoHello,
    /// No pong in time.
    #[error("no answer to a ping")]
    NoPong,
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A version that we do not speak.
    #[error("protocol version {0} is not spoken here")]
    Version(u16),
    /// A message where it may not be.
    #[error("a message of kind {0} where none may be")]
    Unexpected(u16),
    /// The greeting says something impossible.
    #[error("the greeting is wrong: {0}")]
    Greeting(&'static str),
    /// More messages than anybody needs.
    #[error("too many messages")]
    TooMany,
}

impl CloseReason {
    /// Whether the peer did what it must not.
    pub fn is_violation(&self) -> bool {
        !matches!(self, Self::Ended | Self::NoPong | Self::Version(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fresh,
    Greeting,
    Open,
    Closed,
}

/// One control stream.
#[derive(Debug)]
pub struct Session {
    side: Side,
    state: State,
    hello: Hello,
    frames: Frames,
    ids: u64,
    /// Questions of ours: number and when the answer is no longer waited for.
    questions: BTreeMap<MessageId, (u64, Duration)>,
    /// Of this state: hello or pong are due, or the next ping.
    deadline: Option<Duration>,
    pinged: Option<MessageId>,
    /// Thousandths of messages that may still come now, as of `metered`.
    allowance: u64,
    metered: Duration,
}

impl Session {
    /// A session of this side. `hello` is what we say; its `nonce` must be random, `echo` is filled in here.
    pub fn new(side: Side, hello: Hello) -> Self {
        Self {
            side,
            state: State::Fresh,
            hello: Hello { echo: 0, ..hello },
            frames: Frames::default(),
            ids: 0,
            questions: BTreeMap::new(),
            deadline: None,
            pinged: None,
            allowance: Self::allowance_max(),
            metered: Duration::ZERO,
        }
    }

    fn allowance_max() -> u64 {
        u64::from(limits::MESH_MESSAGES_PER_SECOND) * 10_000
    }

    /// Bytes to read next, at most.
    pub fn wanted(&self) -> usize {
        self.frames.wanted()
    }

    /// When [`Input::Tick`] is due, by the monotonic clock.
    pub fn deadline(&self) -> Option<Duration> {
        if self.state == State::Closed {
            return None;
        }
        self.questions.values().map(|(_, at)| *at).chain(self.deadline).min()
    }

    /// Takes one input at this moment of the monotonic clock and adds what it wants to `out`.
    pub fn handle(&mut self, input: Input<'_>, now: Duration, out: &mut Vec<Action>) {
        match (self.state, input) {
            (State::Closed | State::Fresh | State::Greeting, Input::Ask(number, _)) => {
                out.push(Action::Heard(number, None));
            }
            (State::Closed, _)
            | (State::Open | State::Greeting, Input::Opened)
            | (State::Fresh, Input::Bytes(_) | Input::Tick)
            | (State::Fresh | State::Greeting, Input::Answer(..) | Input::Tell(_)) => {}
            (State::Fresh, Input::Opened) => {
                self.state = State::Greeting;
                self.metered = now;
                self.deadline = Some(now.saturating_add(HELLO));
                if self.side == Side::Dialler {
                    self.say_hello(out);
                }
            }
            (_, Input::Ended) => self.close(CloseReason::Ended, out),
            (State::Greeting | State::Open, Input::Bytes(bytes)) => match self.frames.feed(bytes) {
                Ok(None) => {}
                Ok(Some(frame)) => self.frame(frame, now, out),
                Err(error) => self.close(error.into(), out),
            },
            (State::Greeting, Input::Tick) => {
                if self.deadline.is_some_and(|at| at <= now) {
                    self.close(CloseReason::NoHello, out);
                }
            }
            (State::Open, Input::Tick) => self.tick(now, out),
            (State::Open, Input::Ask(number, content)) => {
                if self.questions.len() >= limits::MESH_QUESTIONS {
                    out.push(Action::Heard(number, None));
                    return;
                }
                let id = self.next_id();
                self.questions.insert(id, (number, now.saturating_add(ANSWER)));
                out.push(Action::Send(Message::Query(content).encode(id)));
            }
            (State::Open, Input::Tell(sealed)) => {
                let id = self.next_id();
                out.push(Action::Send(Message::Control(sealed).encode(id)));
            }
            (State::Open, Input::Answer(id, size)) => out.push(Action::Send(Message::Holding(size).encode(id))),
        }
    }

    fn next_id(&mut self) -> MessageId {
        self.ids += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.hello.nonce.to_le_bytes());
        id[8..].copy_from_slice(&self.ids.to_le_bytes());
        id
    }

    fn say_hello(&mut self, out: &mut Vec<Action>) {
        let id = self.next_id();
        out.push(Action::Send(Message::Hello(self.hello.clone()).encode(id)));
    }

    fn frame(&mut self, frame: Frame, now: Duration, out: &mut Vec<Action>) {
        if self.state == State::Greeting {
            match frame.message {
                Some(Message::Hello(hello)) => self.greeted(hello, now, out),
                Some(other) => self.close(CloseReason::Unexpected(other.kind()), out),
                None => self.close(CloseReason::Greeting("it is not the first message"), out),
            }
            return;
        }
        // An answer to a question of ours was asked for, so it is not counted.
        if let Some(Message::Holding(size)) = frame.message
            && let Some((number, _)) = self.questions.remove(&frame.id)
        {
            self.heard_something(now);
            out.push(Action::Heard(number, size));
            return;
        }
        if !self.spend(now) {
            self.close(CloseReason::TooMany, out);
            return;
        }
        self.heard_something(now);
        match frame.message {
            Some(Message::Ping) => out.push(Action::Send(Message::Pong.encode(frame.id))),
            Some(Message::Pong) => {
                if self.pinged == Some(frame.id) {
                    self.pinged = None;
                    self.deadline = Some(now.saturating_add(QUIET));
                }
            }
            Some(Message::Query(content)) => out.push(Action::Asked(frame.id, content)),
            Some(Message::Control(sealed)) => out.push(Action::Told(sealed)),
            // Late, or to nothing: a kind to come may be of use to others.
            Some(Message::Holding(_)) | None => {}
            Some(
                other @ (Message::Hello(_)
                | Message::PieceList(..)
                | Message::Chunk(_)
                | Message::Granted(_)
                | Message::Refused(_)),
            ) => self.close(CloseReason::Unexpected(other.kind()), out),
        }
    }

    /// The peer lives; a pong that is due stays due.
    fn heard_something(&mut self, now: Duration) {
        if self.pinged.is_none() {
            self.deadline = Some(now.saturating_add(QUIET));
        }
    }

    fn greeted(&mut self, hello: Hello, now: Duration, out: &mut Vec<Action>) {
        if hello.version == 0 || hello.version > PROTOCOL_MAX {
            return self.close(CloseReason::Version(hello.version), out);
        }
        if hello.software.len() > NAME_LEN || hello.username.len() > NAME_LEN {
            return self.close(CloseReason::Greeting("a name is too long"), out);
        }
        if self.side == Side::Dialler && hello.echo != self.hello.nonce {
            return self.close(CloseReason::Greeting("it answers somebody else"), out);
        }
        if self.side == Side::Listener {
            self.hello.echo = hello.nonce;
            self.say_hello(out);
        }
        self.state = State::Open;
        self.deadline = Some(now.saturating_add(QUIET));
        let known = hello.features.split(' ').filter(|word| (1..=FEATURE_LEN).contains(&word.len()));
        out.push(Action::Ready(Greeted {
            version: hello.version.min(self.hello.version),
            features: known.take(FEATURES_MAX).map(str::to_owned).collect(),
            software: hello.software,
            port: hello.port,
            username: hello.username,
        }));
    }

    fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        let late: Vec<MessageId> = self.questions.iter().filter(|(_, (_, at))| *at <= now).map(|(id, _)| *id).collect();
        for id in late {
            if let Some((number, _)) = self.questions.remove(&id) {
                out.push(Action::Heard(number, None));
            }
        }
        if self.deadline.is_none_or(|at| at > now) {
            return;
        }
        if self.pinged.is_some() {
            return self.close(CloseReason::NoPong, out);
        }
        let id = self.next_id();
        self.pinged = Some(id);
        self.deadline = Some(now.saturating_add(PONG));
        out.push(Action::Send(Message::Ping.encode(id)));
    }

    /// One message of the allowance, if there is one left.
    fn spend(&mut self, now: Duration) -> bool {
        let passed = u64::try_from(now.saturating_sub(self.metered).as_millis()).unwrap_or(u64::MAX);
        self.metered = now;
        let earned = passed.saturating_mul(u64::from(limits::MESH_MESSAGES_PER_SECOND));
        self.allowance = self.allowance.saturating_add(earned).min(Self::allowance_max());
        let enough = self.allowance >= 1_000;
        self.allowance = self.allowance.saturating_sub(1_000);
        enough
    }

    fn close(&mut self, reason: CloseReason, out: &mut Vec<Action>) {
        self.state = State::Closed;
        let questions = std::mem::take(&mut self.questions);
        out.extend(questions.into_values().map(|(number, _)| Action::Heard(number, None)));
        out.push(Action::Close(reason));
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
