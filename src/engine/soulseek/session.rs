//! The connection to the server: when to make it, how to log in, when to try again and when not to.
//!
//! | State | Waits for | Deadline |
//! |---|---|---|
//! | Unconfigured | an account in the settings | none: the owner's turn |
//! | Disconnected | the next attempt | its moment |
//! | Connecting | `on_up` or `on_down` | `CONNECT` |
//! | `LoggingIn` | the answer to Login | `LOGIN` |
//! | `LoggedIn` | anything | the next keep-alive |
//! | Parked | the owner: asked to stay out, relogged elsewhere, or refused for the account's sake | none: the owner's turn |
//!
//! A dead server is noticed by the shell (TCP keep-alive), which then reports it down. What the other machines do with
//! being on the network is theirs; `node` carries the events to them.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use md5::{Digest, Md5};

use super::chance::Chance;
use super::effect::Effects;
use super::io::NetAction;
use super::server::{FromServer, LoginRefusal, ToServer, UserStatus};
use super::{Secret, Settings};
use crate::model::id::Username;
use crate::model::music::{ShareCounts, WireText};
use crate::model::time::{Now, UnixMs};
use crate::model::view::ServerState;

/// Login major version: the number kept for software in development (SOULSEEK-FACTS 2). Never another client's.
pub const LOGIN_MAJOR: u32 = 177;
/// Login minor version: ours to choose.
pub const LOGIN_MINOR: u32 = 1;

/// TCP to the server, name look-up included. Chosen.
const CONNECT: Duration = Duration::from_secs(60);
/// For the answer to Login. A banned account never gets one (SOULSEEK-FACTS 3).
const LOGIN: Duration = Duration::from_secs(30);
/// How long a ban lasts (SOULSEEK-FACTS 3, "Speed, limits, bans").
const BAN: Duration = Duration::from_secs(30 * 60);
/// Spread of the attempt after a ban. Chosen.
const BAN_JITTER: Duration = Duration::from_secs(60);
/// First pause between attempts. Chosen.
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
/// Longest pause before jitter; with a quarter of it added, 10 minutes. Chosen.
const BACKOFF_LAST: Duration = Duration::from_secs(8 * 60);
/// A login that lasted less counts as a failure: servers ban for fast reconnects. Chosen.
const STABLE: Duration = Duration::from_secs(60);
/// Between keep-alives; the protocol text allows one a minute.
const PING: Duration = Duration::from_secs(5 * 60);
/// Characters shown of a text of the server's.
const SHOWN: usize = 200;

/// For the other machines, the page and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// On the network; everything a login needs has been sent.
    LoggedIn {
        /// Text of the day.
        greeting: String,
        /// Our address as the server sees it.
        own_ip: Ipv4Addr,
    },
    /// Not on the network: lost, refused, or an attempt failed. May follow another `LoggedOut`.
    LoggedOut {
        /// One sentence.
        reason: String,
        /// Until the next attempt of our own accord; `None`: the owner's turn.
        retry_in: Option<Duration>,
    },
}

/// What the page shows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Where it stands.
    pub state: ServerState,
    /// Why it is not logged in, in one sentence.
    pub reason: Option<String>,
    /// When the next attempt is due.
    pub retry_at: Option<UnixMs>,
    /// The server's address while connected.
    pub endpoint: Option<SocketAddrV4>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unconfigured,
    Disconnected { retry: Duration },
    Connecting { until: Duration },
    LoggingIn { until: Duration },
    LoggedIn { since: Duration, ping: Duration },
    Parked(Parked),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parked {
    /// The owner said so.
    Owner,
    /// The same account logged in somewhere else: going back would make two clients fight.
    Elsewhere,
    /// The server refuses this account or this program: asking again changes nothing.
    Refused,
}

/// Why the program stays off the network, and for how long, in few bytes: cheap to compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    parked: Option<Parked>,
    /// The monotonic moment of the next attempt.
    retry: Option<Duration>,
    failures: u32,
}

/// What must outlive an engine that failed and is made anew in the same process: the owner's word, a relogin elsewhere,
/// and the pause that a ban or failures ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    hold: Hold,
    reason: Option<String>,
    account: (Username, Secret),
}

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    state: State,
    reason: Option<String>,
    /// Attempts failed in a row.
    failures: u32,
    endpoint: Option<SocketAddrV4>,
    /// The account of the last attempt, to notice a change.
    account: (Username, Secret),
    /// As last sent.
    listen_port: u16,
    counts: ShareCounts,
    events: VecDeque<SessionEvent>,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// Does nothing until `start`.
    pub fn new() -> Self {
        Self {
            state: State::Unconfigured,
            reason: None,
            failures: 0,
            endpoint: None,
            account: (Username::default(), Secret::default()),
            listen_port: 0,
            counts: ShareCounts::default(),
            events: VecDeque::new(),
        }
    }

    /// The program begins, or goes on where the last engine stood: connects if there is an account, unless that one was
    /// off the network for a reason that still holds.
    pub fn start(&mut self, standing: Standing, settings: &Settings, now: Now, out: &mut Effects) {
        let Standing { hold, reason, account } = standing;
        let same = account.0 == settings.username && account.1 == settings.password;
        let state = match hold {
            Hold { parked: Some(Parked::Owner), .. } => Some(State::Parked(Parked::Owner)),
            Hold { parked: Some(parked), .. } if same => Some(State::Parked(parked)),
            Hold { retry: Some(retry), .. } if same && retry > now.mono => Some(State::Disconnected { retry }),
            _ => None,
        };
        if same {
            self.failures = hold.failures;
        }
        if let Some(state) = state {
            (self.state, self.reason, self.account) = (state, reason, account);
        } else {
            self.begin(settings, now, out);
        }
    }

    /// The part of [`Self::standing`] that tells whether it changed.
    pub fn hold(&self) -> Hold {
        let (parked, retry) = match self.state {
            State::Parked(parked) => (Some(parked), None),
            State::Disconnected { retry } => (None, Some(retry)),
            _ => (None, None),
        };
        Hold { parked, retry, failures: self.failures }
    }

    /// For the next engine's `start`.
    pub fn standing(&self) -> Standing {
        Standing { hold: self.hold(), reason: self.reason.clone(), account: self.account.clone() }
    }

    /// The owner wants to be on the network now. Nothing happens where that is so, or under way.
    pub fn connect(&mut self, settings: &Settings, now: Now, out: &mut Effects) {
        match self.state {
            State::Unconfigured | State::Disconnected { .. } | State::Parked(_) => {
                self.failures = 0;
                self.begin(settings, now, out);
            }
            State::Connecting { .. } | State::LoggingIn { .. } | State::LoggedIn { .. } => {}
        }
    }

    /// The owner wants to be off the network, until `connect`.
    pub fn disconnect(&mut self, out: &mut Effects) {
        if self.state != State::Unconfigured {
            self.park(Parked::Owner, "disconnected by the owner".to_owned(), out);
        }
    }

    /// Settings changed: a new account is used at once, and a refused one gets another try.
    pub fn on_settings(&mut self, settings: &Settings, now: Now, out: &mut Effects) {
        let changed = self.account.0 != settings.username || self.account.1 != settings.password;
        match self.state {
            State::Parked(Parked::Owner) => {}
            State::Parked(Parked::Elsewhere) | State::Disconnected { .. } | State::LoggingIn { .. } if !changed => {}
            State::Connecting { .. } if configured(settings) => {}
            State::LoggedIn { .. } if !changed => {
                if self.listen_port != settings.listen_port {
                    self.send_port(settings, out);
                }
            }
            State::Connecting { .. } | State::LoggingIn { .. } | State::LoggedIn { .. } => {
                self.hang_up(out);
                self.failures = 0;
                let reason = "the account was changed".to_owned();
                let retry_in = configured(settings).then_some(Duration::ZERO);
                self.events.push_back(SessionEvent::LoggedOut { reason, retry_in });
                self.begin(settings, now, out);
            }
            State::Unconfigured | State::Disconnected { .. } | State::Parked(_) => {
                self.failures = 0;
                self.begin(settings, now, out);
            }
        }
    }

    /// What we share changed; the server is told where it is not so already.
    pub fn on_counts(&mut self, counts: ShareCounts, out: &mut Effects) {
        if self.counts != counts {
            self.counts = counts;
            if self.logged_in() {
                self.send_counts(out);
            }
        }
    }

    /// The connection to the server stands: log in.
    pub fn on_up(&mut self, at: SocketAddrV4, settings: &Settings, now: Now, out: &mut Effects) {
        if !matches!(self.state, State::Connecting { .. }) {
            // A late success of an attempt that was given up.
            if !matches!(self.state, State::LoggingIn { .. } | State::LoggedIn { .. }) {
                out.net(NetAction::ServerClose);
            }
            return;
        }
        self.endpoint = Some(at);
        self.account = (settings.username.clone(), settings.password.clone());
        self.state = State::LoggingIn { until: now.in_(LOGIN) };
        let user = settings.username.as_str();
        let password = settings.password.0.as_str();
        out.net(NetAction::ServerSend(ToServer::Login {
            user: WireText::from(user),
            password: password.into(),
            major: LOGIN_MAJOR,
            hash: login_hash(user, password).into(),
            minor: LOGIN_MINOR,
        }));
    }

    /// The connection could not be made, or is gone.
    pub fn on_down(&mut self, reason: &str, chance: &mut Chance, now: Now) {
        let sentence = match self.state {
            State::Connecting { .. } => format!("the server cannot be reached: {}", shown(reason)),
            State::LoggingIn { .. } => format!("the server hung up instead of answering the login: {}", shown(reason)),
            State::LoggedIn { since, .. } => {
                if now.mono.saturating_sub(since) >= STABLE {
                    self.failures = 0;
                }
                format!("the connection to the server was lost: {}", shown(reason))
            }
            State::Unconfigured | State::Disconnected { .. } | State::Parked(_) => return,
        };
        let pause = self.backoff(chance);
        self.wait(pause, sentence, now);
    }

    /// The server says something. Looks at Login and Relogged.
    pub fn on_message(
        &mut self,
        message: &FromServer,
        settings: &Settings,
        chance: &mut Chance,
        now: Now,
        out: &mut Effects,
    ) {
        match message {
            FromServer::Login(answer) if matches!(self.state, State::LoggingIn { .. }) => match answer {
                Ok(greeting) => {
                    self.state = State::LoggedIn { since: now.mono, ping: now.in_(PING) };
                    self.reason = None;
                    self.introduce(settings, out);
                    self.events.push_back(SessionEvent::LoggedIn {
                        greeting: greeting.greeting.as_str().to_owned(),
                        own_ip: greeting.own_ip,
                    });
                }
                Err(refusal) => self.refused(refusal, chance, now, out),
            },
            FromServer::Relogged if matches!(self.state, State::LoggingIn { .. } | State::LoggedIn { .. }) => {
                let reason = "this account logged in somewhere else, so this program stays out until told to connect";
                self.park(Parked::Elsewhere, reason.to_owned(), out);
            }
            _ => {}
        }
    }

    /// The deadline passed.
    pub fn on_timeout(&mut self, settings: &Settings, chance: &mut Chance, now: Now, out: &mut Effects) {
        if self.next_timeout().is_none_or(|due| due > now.mono) {
            return;
        }
        match &mut self.state {
            State::Disconnected { .. } => self.begin(settings, now, out),
            State::Connecting { .. } => {
                self.hang_up(out);
                let pause = self.backoff(chance);
                self.wait(pause, "the server cannot be reached: no answer in time".to_owned(), now);
            }
            State::LoggingIn { .. } => {
                self.hang_up(out);
                self.failures = self.failures.saturating_add(1);
                let sentence =
                    "the server did not answer the login, as it does during a ban of 30 minutes; waiting that long";
                self.wait(BAN.saturating_add(part(BAN_JITTER, chance)), sentence.to_owned(), now);
            }
            State::LoggedIn { ping, .. } => {
                *ping = now.in_(PING);
                out.net(NetAction::ServerSend(ToServer::ServerPing));
            }
            State::Unconfigured | State::Parked(_) => {}
        }
    }

    /// When `on_timeout` is due.
    pub fn next_timeout(&self) -> Option<Duration> {
        match self.state {
            State::Disconnected { retry } => Some(retry),
            State::Connecting { until } | State::LoggingIn { until } => Some(until),
            State::LoggedIn { ping, .. } => Some(ping),
            State::Unconfigured | State::Parked(_) => None,
        }
    }

    /// The oldest event not yet taken.
    pub fn pop_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// On the network.
    pub fn logged_in(&self) -> bool {
        matches!(self.state, State::LoggedIn { .. })
    }

    /// The name used at the last login; empty before one.
    pub fn username(&self) -> &Username {
        &self.account.0
    }

    /// For the page.
    pub fn view(&self, now: Now) -> SessionView {
        let (state, retry) = match self.state {
            State::Unconfigured => (ServerState::Unconfigured, None),
            State::Disconnected { retry } => (ServerState::Disconnected, Some(retry)),
            State::Parked(_) => (ServerState::Disconnected, None),
            State::Connecting { .. } => (ServerState::Connecting, None),
            State::LoggingIn { .. } => (ServerState::LoggingIn, None),
            State::LoggedIn { .. } => (ServerState::LoggedIn, None),
        };
        SessionView {
            state,
            reason: self.reason.clone(),
            retry_at: retry.map(|at| now.wall.plus(at.saturating_sub(now.mono))),
            endpoint: self.endpoint,
        }
    }

    fn begin(&mut self, settings: &Settings, now: Now, out: &mut Effects) {
        self.account = (settings.username.clone(), settings.password.clone());
        if configured(settings) {
            self.state = State::Connecting { until: now.in_(CONNECT) };
            out.net(NetAction::ServerConnect);
        } else {
            self.state = State::Unconfigured;
            let missing = if settings.username.as_str().is_empty() { "user name" } else { "password" };
            self.reason = Some(format!("no Soulseek {missing} is set"));
        }
    }

    /// Everything the server must know after a login, in the order of the protocol text. `Tree` says later that
    /// children are welcome, when it has something to pass on.
    fn introduce(&mut self, settings: &Settings, out: &mut Effects) {
        self.send_port(settings, out);
        out.net(NetAction::ServerSend(ToServer::SetStatus { status: UserStatus::Online }));
        self.send_counts(out);
        let own = WireText::from(settings.username.as_str());
        for message in [
            ToServer::WatchUser { user: own.clone() },
            ToServer::CheckPrivileges,
            ToServer::HaveNoParent { none: true },
            ToServer::BranchRoot { user: own },
            ToServer::BranchLevel { level: 0 },
            ToServer::AcceptChildren { accept: false },
        ] {
            out.net(NetAction::ServerSend(message));
        }
    }

    fn send_port(&mut self, settings: &Settings, out: &mut Effects) {
        self.listen_port = settings.listen_port;
        let port = u32::from(settings.listen_port);
        out.net(NetAction::ServerSend(ToServer::SetWaitPort { port, obfuscated: None }));
    }

    fn send_counts(&self, out: &mut Effects) {
        let ShareCounts { folders, files } = self.counts;
        out.net(NetAction::ServerSend(ToServer::SharedFoldersFiles { folders, files }));
    }

    fn refused(&mut self, refusal: &LoginRefusal, chance: &mut Chance, now: Now, out: &mut Effects) {
        let user = self.account.0.clone();
        let detail = refusal.detail.as_ref().map_or_else(String::new, |text| format!(": {}", shown(text.as_str())));
        let (sentence, for_good) = match refusal.reason.as_str() {
            "INVALIDUSERNAME" => {
                (format!("the server does not accept the user name {}{detail}", shown(user.as_str())), true)
            }
            "EMPTYPASSWORD" => ("the server wants a password, and none is set".to_owned(), true),
            "INVALIDPASS" => {
                (format!("wrong password for {}, or the name belongs to somebody else", shown(user.as_str())), true)
            }
            "INVALIDVERSION" => {
                (format!("the server does not accept this program (version {LOGIN_MAJOR}.{LOGIN_MINOR})"), true)
            }
            "SVRFULL" => ("the server is full; trying again later".to_owned(), false),
            "SVRPRIVATE" => ("the server is private at the moment; trying again later".to_owned(), false),
            other => (format!("the server refuses the login: {}{detail}", shown(other)), false),
        };
        if for_good {
            self.park(Parked::Refused, sentence, out);
        } else {
            self.hang_up(out);
            let pause = self.backoff(chance);
            self.wait(pause, sentence, now);
        }
    }

    fn park(&mut self, why: Parked, sentence: String, out: &mut Effects) {
        let was = self.state;
        self.hang_up(out);
        self.state = State::Parked(why);
        self.reason = Some(sentence.clone());
        if was != self.state {
            self.events.push_back(SessionEvent::LoggedOut { reason: sentence, retry_in: None });
        }
    }

    fn wait(&mut self, pause: Duration, sentence: String, now: Now) {
        self.endpoint = None;
        self.state = State::Disconnected { retry: now.in_(pause) };
        self.reason = Some(sentence.clone());
        self.events.push_back(SessionEvent::LoggedOut { reason: sentence, retry_in: Some(pause) });
    }

    fn hang_up(&mut self, out: &mut Effects) {
        self.endpoint = None;
        if matches!(self.state, State::Connecting { .. } | State::LoggingIn { .. } | State::LoggedIn { .. }) {
            out.net(NetAction::ServerClose);
        }
    }

    /// The pause before the next attempt, and one more failure: doubles, and spreads by up to a quarter.
    fn backoff(&mut self, chance: &mut Chance) -> Duration {
        let doubled = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        let pause = doubled.min(BACKOFF_LAST);
        pause.saturating_add(part(pause / 4, chance))
    }
}

/// Anything from nothing to `whole`.
fn part(whole: Duration, chance: &mut Chance) -> Duration {
    let ms = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(chance.below(ms.saturating_add(1)))
}

fn configured(settings: &Settings) -> bool {
    !settings.username.as_str().is_empty() && !settings.password.0.is_empty()
}

/// md5hex(user name + password), as Login carries it.
fn login_hash(user: &str, password: &str) -> String {
    let digest = Md5::new().chain_update(user).chain_update(password).finalize();
    digest.iter().fold(String::with_capacity(32), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A stranger's text, short enough for a sentence.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

#[cfg(test)]
pub(super) mod tests;
