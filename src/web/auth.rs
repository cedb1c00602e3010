//! Who may come in: the owner's password, sessions, bearer tokens, keys, and the set-up code of the first run.
//!
//! There is no default password. Until one is set, whoever reaches us over the loopback bind is the owner; everybody
//! else needs the set-up code, which only the terminal and the log show. Values are kept through the desk, under
//! `web.password`, `web.configured_password`, `web.session_secret` and `web.sessions`. Which request needs what is
//! [`super::guard`]'s.
//!
//! A password in the configuration counts above the one set on the page. Whichever way the password in force changes,
//! sessions and tokens that were given under the old one end: also when it happened while the program was stopped.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use crate::model::limits;
use crate::model::view::Refusal;

use super::backoff::Backoff;
use super::desk::Desk;
use super::password;
use super::settings::{ApiKey, ClockFn, PasswordCost, WebSettings};
pub use super::token::Token;
use super::token::{LIFE_S, Secret, same};

const PASSWORD: &str = "web.password";
/// The hash of the configuration's password, as of the last start with one.
const CONFIGURED: &str = "web.configured_password";
const SECRET: &str = "web.session_secret";
const SESSIONS: &str = "web.sessions";
/// While there is no password: who reads the code on the card has to switch the box off for that.
const CODE: &str = "web.set_up_code";
/// The configuration's key.
const KEY: &str = "web.authentication.password";
/// Letters of a set-up code: no vowels (no words), nothing that looks alike. 10 of 24 letters are 45 bits, against five
/// tries per quarter of an hour.
const CODE_LETTERS: &[u8; 24] = b"bcdfghjkmnpqrstvwxz23456";
const CODE_LEN: usize = 10;

/// Why somebody may not come in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignInError {
    /// Wrong password or set-up code.
    #[error("that is not right")]
    Wrong,
    /// Too many tries.
    #[error("too many tries: wait {} minutes", .0.as_secs().div_ceil(60))]
    TooMany(Duration),
    /// The new password is too short or too long.
    #[error("a password needs at least {} characters and at most {} bytes", password::SHORTEST, password::LONGEST)]
    BadPassword,
    /// There is a password already.
    #[error("a password is set already")]
    AlreadySet,
    /// The configuration names one, which would count again at the next start.
    #[error("the password is set by {0}; change it there, and start the program anew")]
    Configured(String),
    /// The password could not be kept.
    #[error("the password could not be kept: the store did not answer")]
    NotKept,
}

/// Why the web layer could not get its secrets ready.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The desk did not answer.
    #[error("the kept secrets cannot be read: {0:?}")]
    Desk(Refusal),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// The configured password cannot be hashed.
    #[error("web.authentication.password cannot be hashed: the page is not opened without it")]
    Password,
}

/// The door.
pub struct Auth {
    desk: Desk,
    clock: ClockFn,
    cost: PasswordCost,
    keys: Vec<ApiKey>,
    /// One password is hashed at a time: each takes 19 MiB.
    hashing: Semaphore,
    /// Held for a few instructions, never across an await.
    state: Mutex<State>,
    /// As above.
    backoff: Mutex<Backoff>,
    /// Wrong passwords and set-up codes since start.
    failed: AtomicU64,
}

struct State {
    password: Option<String>,
    secret: Secret,
    sessions: Vec<Session>,
    setup_code: Option<String>,
}

#[derive(Clone, Copy)]
struct Session {
    id: u128,
    expires_s: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A code for a person to copy: ten letters that look unlike one another.
///
/// # Errors
/// The system gives no random bytes.
pub fn new_code() -> Result<String, getrandom::Error> {
    let mut code = String::with_capacity(CODE_LEN + 1);
    let mut letters = 0;
    while letters < CODE_LEN {
        for byte in random::<32>()? {
            // 240 = 10 × 24: what lies above would favour the first letters.
            if byte < 240 && letters < CODE_LEN {
                if letters == CODE_LEN / 2 {
                    code.push('-');
                }
                code.push(char::from(CODE_LETTERS[usize::from(byte % 24)]));
                letters += 1;
            }
        }
    }
    Ok(code)
}

fn plain_code(typed: &str) -> String {
    typed.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn write_sessions(sessions: &[Session]) -> Vec<u8> {
    sessions.iter().flat_map(|s| format!("{:032x} {}\n", s.id, s.expires_s).into_bytes()).collect()
}

fn read_sessions(bytes: &[u8]) -> Vec<Session> {
    let parse = |line: &str| {
        let (id, expires) = line.split_once(' ')?;
        Some(Session { id: u128::from_str_radix(id, 16).ok()?, expires_s: expires.parse().ok()? })
    };
    String::from_utf8_lossy(bytes).lines().filter_map(parse).take(limits::SESSIONS).collect()
}

impl Auth {
    /// Fetches what is kept; makes and keeps a secret on the first run, and a set-up code while there is no password.
    pub async fn load(desk: Desk, settings: &WebSettings) -> Result<Self, LoadError> {
        let InForce { password, configured, changed } = InForce::find(&desk, settings).await?;
        let kept = desk.value(SECRET).await.map_err(LoadError::Desk)?;
        let kept = kept.filter(|_| !changed).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let (secret, sessions) = if let Some(secret) = kept {
            let sessions = desk.value(SESSIONS).await.map_err(LoadError::Desk)?;
            (secret, sessions.map(|bytes| read_sessions(&bytes)).unwrap_or_default())
        } else {
            let fresh = random().map_err(LoadError::Random)?;
            desk.keep_value(SECRET, Some(fresh.to_vec())).await.map_err(LoadError::Desk)?;
            desk.keep_value(SESSIONS, None).await.map_err(LoadError::Desk)?;
            (fresh, Vec::new())
        };
        if changed {
            // Last: a start that is interrupted before does all of it again.
            let hash = password.clone().filter(|_| configured).map(String::into_bytes);
            desk.keep_value(CONFIGURED, hash).await.map_err(LoadError::Desk)?;
        }
        let code = desk.value(CODE).await.map_err(LoadError::Desk)?;
        let known = code.as_ref().and_then(|bytes| String::from_utf8(bytes.clone()).ok());
        let setup_code = match (&password, known) {
            (Some(_), _) => None,
            (None, Some(known)) => Some(known),
            (None, None) => Some(new_code().map_err(LoadError::Random)?),
        };
        let wanted = setup_code.clone().map(String::into_bytes);
        if wanted != code {
            desk.keep_value(CODE, wanted).await.map_err(LoadError::Desk)?;
        }
        Ok(Self {
            desk,
            clock: settings.clock.clone(),
            cost: settings.password_cost,
            keys: settings.api_keys.clone(),
            hashing: Semaphore::new(1),
            state: Mutex::new(State { password, secret: Secret(secret), sessions, setup_code }),
            backoff: Mutex::new(Backoff::default()),
            failed: AtomicU64::new(0),
        })
    }

    /// Where the configuration sets the password, if it does: what the page sets would not count at the next start.
    pub async fn set_by(&self) -> Result<Option<String>, Refusal> {
        let settings = self.desk.settings().await?;
        let named = settings.into_iter().find(|setting| setting.key == KEY && !setting.value.is_empty());
        Ok(named.map(|setting| setting.source))
    }

    async fn may_be_set_here(&self) -> Result<(), SignInError> {
        match self.set_by().await {
            Ok(None) => Ok(()),
            Ok(Some(source)) => Err(SignInError::Configured(source)),
            Err(refusal) => {
                tracing::error!(?refusal, "the configuration could not be read");
                Err(SignInError::NotKept)
            }
        }
    }

    fn now_s(&self) -> u64 {
        (self.clock)().wall.0 / 1000
    }

    /// Whether a password is set.
    pub fn has_password(&self) -> bool {
        locked(&self.state).password.is_some()
    }

    /// The code that sets the first password; none once there is one.
    pub fn setup_code(&self) -> Option<String> {
        locked(&self.state).setup_code.clone()
    }

    /// Wrong passwords and set-up codes since start.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Checks the owner's password, from this address. Without a set password nothing is right.
    pub async fn sign_in(&self, from: IpAddr, given: &str) -> Result<(), SignInError> {
        if given.len() > password::LONGEST {
            return Err(SignInError::Wrong);
        }
        self.begin(from)?;
        let Ok(_turn) = self.hashing.acquire().await else { return Err(SignInError::Wrong) };
        let phc = locked(&self.state).password.clone();
        let (given, cost) = (given.to_owned(), self.cost);
        let check = tokio::task::spawn_blocking(move || password::verify(&given, phc.as_deref(), cost));
        if check.await.unwrap_or(false) {
            locked(&self.backoff).succeeded(from);
            Ok(())
        } else {
            self.failed.fetch_add(1, Relaxed);
            tracing::warn!("a wrong password was given");
            Err(SignInError::Wrong)
        }
    }

    fn begin(&self, from: IpAddr) -> Result<(), SignInError> {
        let now = (self.clock)().mono;
        locked(&self.backoff).begin(from, now).map_err(|wait| {
            tracing::warn!(seconds = wait.as_secs(), "sign-in is closed after too many tries");
            SignInError::TooMany(wait)
        })
    }

    /// Sets the first password with the set-up code. `code` is not asked for where the owner needs none (`None`).
    pub async fn set_up(&self, from: IpAddr, code: Option<&str>, new: &str) -> Result<(), SignInError> {
        check_new(new)?;
        self.may_be_set_here().await?;
        if let Some(code) = code {
            self.begin(from)?;
            let known = self.setup_code().ok_or(SignInError::AlreadySet)?;
            if !same(&plain_code(code), &plain_code(&known)) {
                self.failed.fetch_add(1, Relaxed);
                tracing::warn!("a wrong set-up code was given");
                return Err(SignInError::Wrong);
            }
            locked(&self.backoff).succeeded(from);
        }
        let Ok(_turn) = self.hashing.acquire().await else { return Err(SignInError::NotKept) };
        if self.has_password() {
            return Err(SignInError::AlreadySet);
        }
        self.keep_password(new).await
    }

    /// Replaces the password. Ends all sessions and tokens.
    pub async fn change_password(&self, from: IpAddr, current: &str, new: &str) -> Result<(), SignInError> {
        check_new(new)?;
        self.may_be_set_here().await?;
        self.sign_in(from, current).await?;
        let Ok(_turn) = self.hashing.acquire().await else { return Err(SignInError::NotKept) };
        self.keep_password(new).await
    }

    /// The caller holds the turn for hashing, so that two new passwords cannot cross.
    async fn keep_password(&self, new: &str) -> Result<(), SignInError> {
        let (Ok(salt), Ok(secret)) = (random(), random::<32>()) else { return Err(SignInError::NotKept) };
        let (new, cost) = (new.to_owned(), self.cost);
        let hashed = tokio::task::spawn_blocking(move || password::hash(&new, salt, cost)).await;
        let Ok(Ok(phc)) = hashed else { return Err(SignInError::NotKept) };
        // The password goes last: should one fail, the old one is still there, and only sessions or a set-up code are lost,
        // of which the next start makes a new one.
        let values =
            [(SECRET, Some(secret.to_vec())), (SESSIONS, None), (CODE, None), (PASSWORD, Some(phc.clone().into()))];
        for (name, value) in values {
            self.desk.keep_value(name, value).await.map_err(|refusal| {
                tracing::error!(name, ?refusal, "a secret could not be kept");
                SignInError::NotKept
            })?;
        }
        let mut state = locked(&self.state);
        state.secret = Secret(secret);
        state.sessions.clear();
        state.password = Some(phc);
        state.setup_code = None;
        Ok(())
    }

    /// Begins a session and gives the value of its cookie. The oldest session is forgotten when there are too many.
    pub async fn open_session(&self) -> Result<String, SignInError> {
        let id = u128::from_be_bytes(random().map_err(|_| SignInError::NotKept)?);
        let now_s = self.now_s();
        let (cookie, sessions) = {
            let mut state = locked(&self.state);
            state.sessions.retain(|session| session.expires_s > now_s);
            let surplus = (state.sessions.len() + 1).saturating_sub(limits::SESSIONS);
            state.sessions.drain(..surplus);
            state.sessions.push(Session { id, expires_s: now_s.saturating_add(LIFE_S) });
            (state.secret.cookie(id), write_sessions(&state.sessions))
        };
        self.keep_sessions(sessions).await;
        Ok(cookie)
    }

    /// The live session of a cookie.
    pub fn session(&self, cookie: &str) -> Option<u128> {
        let now_s = self.now_s();
        let state = locked(&self.state);
        let id = state.secret.session_of(cookie)?;
        state.sessions.iter().any(|session| session.id == id && session.expires_s > now_s).then_some(id)
    }

    /// Ends a session.
    pub async fn close_session(&self, id: u128) {
        let sessions = {
            let mut state = locked(&self.state);
            state.sessions.retain(|session| session.id != id);
            write_sessions(&state.sessions)
        };
        self.keep_sessions(sessions).await;
    }

    /// A session that is not kept is good until the next restart; that is no reason to refuse it.
    async fn keep_sessions(&self, sessions: Vec<u8>) {
        if let Err(refusal) = self.desk.keep_value(SESSIONS, Some(sessions)).await {
            tracing::warn!(?refusal, "sessions could not be kept");
        }
    }

    /// The CSRF token that belongs to a session, or to visitors without one.
    pub fn csrf(&self, session: Option<u128>) -> String {
        locked(&self.state).secret.csrf(session)
    }

    /// Gives a bearer token, good for 7 days. The caller has checked the password (`sign_in`).
    pub fn issue_token(&self, name: &str) -> Token {
        let now_s = self.now_s();
        locked(&self.state).secret.issue(name, now_s)
    }

    /// Whom a bearer token was given to, while it is good.
    pub fn check_token(&self, token: &str) -> Option<String> {
        let now_s = self.now_s();
        locked(&self.state).secret.check(token, now_s)
    }

    /// The key with this secret, if it is accepted from that address. The control socket counts as loopback.
    pub fn key(&self, given: &str, from: Option<IpAddr>) -> Option<&ApiKey> {
        let from = from.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let given = Sha256::digest(given.as_bytes());
        let mut found = None;
        for key in &self.keys {
            // Every key is compared, by hash: neither time nor length tells which was near.
            let fits: bool = given.ct_eq(&Sha256::digest(key.key.as_bytes())).into();
            let welcome = key.cidr.is_empty() || key.cidr.iter().any(|range| range.contains(from));
            if fits && welcome {
                found = Some(key);
            }
        }
        found
    }
}

/// The password that counts.
struct InForce {
    /// Its hash.
    password: Option<String>,
    /// It is the configuration's.
    configured: bool,
    /// The configuration had another at the last start, or had one and has none, or the other way round.
    changed: bool,
}

impl InForce {
    async fn find(desk: &Desk, settings: &WebSettings) -> Result<Self, LoadError> {
        let text = |bytes: Option<Vec<u8>>| bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let known = text(desk.value(CONFIGURED).await.map_err(LoadError::Desk)?);
        let Some(named) = settings.password.clone() else {
            let password = text(desk.value(PASSWORD).await.map_err(LoadError::Desk)?);
            return Ok(Self { password, configured: false, changed: known.is_some() });
        };
        let (salt, cost) = (random().map_err(LoadError::Random)?, settings.password_cost);
        let work = move || match known {
            Some(known) if password::verify(&named, Some(&known), cost) => Ok((known, false)),
            _ => password::hash(&named, salt, cost).map(|fresh| (fresh, true)),
        };
        // Hashed like any other, so that checking it costs and hides the same. A failure is never "no password": that
        // would open a loopback bind.
        let hashed = tokio::task::spawn_blocking(work).await;
        let (phc, changed) = hashed.ok().and_then(Result::ok).ok_or(LoadError::Password)?;
        Ok(Self { password: Some(phc), configured: true, changed })
    }
}

fn check_new(password: &str) -> Result<(), SignInError> {
    let long_enough = password.chars().count() >= password::SHORTEST;
    if long_enough && password.len() <= password::LONGEST { Ok(()) } else { Err(SignInError::BadPassword) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_up_codes_are_long_and_forgive_how_they_are_typed() {
        let code = new_code().unwrap();
        assert_eq!(code.len(), CODE_LEN + 1);
        assert_eq!(plain_code(&code).len(), CODE_LEN);
        assert_eq!(plain_code(&format!(" {} ", code.to_uppercase().replace('-', " "))), plain_code(&code));
        assert_ne!(new_code().unwrap(), code);
    }

    #[test]
    fn sessions_survive_being_kept() {
        let sessions = [Session { id: 1, expires_s: 2 }, Session { id: u128::MAX, expires_s: u64::MAX }];
        let back = read_sessions(&write_sessions(&sessions));
        assert_eq!(back.iter().map(|s| (s.id, s.expires_s)).collect::<Vec<_>>(), [(1, 2), (u128::MAX, u64::MAX)]);
        assert!(read_sessions(b"\xff rubbish\n1\n").is_empty());
    }
}
