//! A small Soulseek server: any password, searches straight to every other user, no rooms and no messages.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{OUTBOX, PATIENCE, invalid, md5_hex, read_wide};
use crate::engine::soulseek::server::{
    FromServer, LoginGreeting, LoginRefusal, Obfuscation, ToServer, UserStats, UserStatus,
};
use crate::model::limits::FRAME_INIT;
use crate::model::music::WireText;

/// Users at once, and names remembered; further ones are refused.
const USERS: usize = 256;
/// The longest user name (the real server's rule).
const NAME_LEN: usize = 30;
/// Speed that the server tells of a user: enough to be taken for a good source. Bytes per second.
const SPEED: u32 = 1_000_000;

/// The server. It ends when dropped.
#[derive(Debug)]
pub struct Server {
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct State {
    online: BTreeMap<String, User>,
    known: BTreeSet<String>,
    sessions: u64,
}

#[derive(Debug)]
struct User {
    /// Which connection this is, as a name may log in again.
    session: u64,
    out: mpsc::Sender<Vec<u8>>,
    cut: CancellationToken,
    ip: Ipv4Addr,
    port: u32,
    status: UserStatus,
    stats: UserStats,
    watches: BTreeSet<String>,
}

impl User {
    /// Whoever reads nothing is cut off.
    fn tell(&self, message: &FromServer) {
        if self.out.try_send(message.encode()).is_err() {
            self.cut.cancel();
        }
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Listens at `bind`; port 0 lets the system choose. Answers with the port.
    ///
    /// # Errors
    /// The port cannot be had.
    pub async fn start(bind: SocketAddr) -> io::Result<(Self, u16)> {
        let listener = TcpListener::bind(bind).await?;
        let port = listener.local_addr()?.port();
        let server = Self { state: Arc::default(), stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let (state, stop, tasks) = (Arc::clone(&server.state), server.stop.clone(), server.tasks.clone());
        server.tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = stop.cancelled() => break,
                    accepted = listener.accept() => accepted,
                };
                let Ok((stream, from)) = accepted else { continue };
                let (state, stop) = (Arc::clone(&state), stop.child_token());
                tasks.spawn(async move {
                    if let Err(error) = serve(&state, stream, from, &stop).await {
                        tracing::debug!(%from, %error, "a user of the lab's server is gone");
                    }
                });
            }
        });
        Ok((server, port))
    }

    /// Names of the users who are logged in.
    pub fn online(&self) -> Vec<String> {
        locked(&self.state).online.keys().cloned().collect()
    }

    /// Ends everything and waits for it.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One connection, from its first byte to its last.
async fn serve(state: &Mutex<State>, stream: TcpStream, from: SocketAddr, cut: &CancellationToken) -> io::Result<()> {
    let SocketAddr::V4(from) = from else { return Err(invalid("only IPv4 has a place in this protocol")) };
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    let (code, body) = timeout(PATIENCE, read_wide(&mut reader, |_| FRAME_INIT)).await??;
    let ToServer::Login { user, password, hash, .. } = ToServer::decode(code, &body).map_err(invalid)? else {
        return Err(invalid("the first message is no login"));
    };
    let (out, mut orders) = mpsc::channel(OUTBOX);
    let entered = locked(state).enter(&user, &password.0, &hash.0, *from.ip(), out, cut);
    let session = match entered {
        Ok(session) => session,
        Err(reason) => {
            let refusal = LoginRefusal { reason: reason.into(), detail: None };
            return writer.write_all(&FromServer::Login(Err(refusal)).encode()).await;
        }
    };
    let name = user.as_str();
    let reading = async {
        loop {
            let (code, body) = read_wide(&mut reader, |_| FRAME_INIT).await?;
            let message = ToServer::decode(code, &body).map_err(invalid)?;
            locked(state).handle(name, session, message);
        }
    };
    // Ends when nobody has the other end of the mailbox: the name logged in elsewhere.
    let writing = async {
        while let Some(frame) = orders.recv().await {
            writer.write_all(&frame).await?;
        }
        Ok(())
    };
    let ended: io::Result<()> = tokio::select! {
        () = cut.cancelled() => Ok(()),
        ended = reading => ended,
        ended = writing => ended,
    };
    locked(state).left(name, session);
    ended
}

impl State {
    /// A login; the answer is the session, or the server's word for why not.
    fn enter(
        &mut self,
        user: &WireText,
        password: &WireText,
        hash: &WireText,
        ip: Ipv4Addr,
        out: mpsc::Sender<Vec<u8>>,
        cut: &CancellationToken,
    ) -> Result<u64, &'static str> {
        let name = user.as_str();
        let printable = name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if name.is_empty() || name.len() > NAME_LEN || !printable || name.trim() != name {
            return Err("INVALIDUSERNAME");
        }
        if password.as_str().is_empty() {
            return Err("EMPTYPASSWORD");
        }
        if md5_hex(&[user.to_wire(), password.to_wire()].concat()) != hash.as_str() {
            return Err("INVALIDPASS");
        }
        if self.known.len() >= USERS && !self.known.contains(name) {
            return Err("SVRFULL");
        }
        if let Some(old) = self.online.remove(name) {
            old.tell(&FromServer::Relogged);
        }
        self.known.insert(name.to_owned());
        self.sessions += 1;
        let stats = UserStats { average_speed: SPEED, ..UserStats::default() };
        let newcomer = User {
            session: self.sessions,
            out,
            cut: cut.clone(),
            ip,
            port: 0,
            status: UserStatus::Online,
            stats,
            watches: BTreeSet::new(),
        };
        let greeting = LoginGreeting {
            greeting: "a laboratory".into(),
            own_ip: ip,
            password_hash: Some(md5_hex(&password.to_wire()).into()),
            supporter: Some(false),
        };
        for message in [
            FromServer::Login(Ok(greeting)),
            FromServer::ParentMinSpeed { speed: 1 },
            FromServer::ParentSpeedRatio { ratio: 50 },
            FromServer::WishlistInterval { seconds: 720 },
            FromServer::PrivilegedUsers { users: Vec::new() },
            FromServer::ExcludedSearchPhrases { phrases: Vec::new() },
        ] {
            newcomer.tell(&message);
        }
        self.online.insert(name.to_owned(), newcomer);
        self.tell_status(name, UserStatus::Online);
        Ok(self.sessions)
    }

    fn left(&mut self, name: &str, session: u64) {
        if self.online.get(name).is_some_and(|user| user.session == session) {
            self.online.remove(name);
            self.tell_status(name, UserStatus::Offline);
        }
    }

    fn tell_status(&self, name: &str, status: UserStatus) {
        for user in self.online.values().filter(|user| user.watches.contains(name)) {
            user.tell(&FromServer::GetUserStatus { user: name.into(), status, privileged: false });
        }
    }

    fn others(&self, me: &str) -> impl Iterator<Item = &User> {
        self.online.iter().filter(move |(name, _)| *name != me).map(|(_, user)| user)
    }

    fn presence(&self, user: &WireText) -> (UserStatus, UserStats) {
        self.online.get(user.as_str()).map_or_else(Default::default, |user| (user.status, user.stats))
    }

    fn handle(&mut self, me: &str, session: u64, message: ToServer) {
        let Some(own) = self.online.get_mut(me).filter(|user| user.session == session) else { return };
        let none = || Some(Obfuscation { kind: 0, port: 0 });
        match message {
            ToServer::SetWaitPort { port, .. } => own.port = port,
            ToServer::SetStatus { status } => {
                own.status = status;
                self.tell_status(me, status);
            }
            ToServer::SharedFoldersFiles { folders, files } => {
                (own.stats.folders, own.stats.files) = (folders, files);
            }
            ToServer::SendUploadSpeed { speed } => {
                own.stats.average_speed = speed;
                own.stats.uploads = own.stats.uploads.saturating_add(1);
            }
            ToServer::CheckPrivileges => own.tell(&FromServer::CheckPrivileges { seconds: 0 }),
            ToServer::ServerPing => own.tell(&FromServer::ServerPing),
            ToServer::WatchUser { user } => {
                let known = self.known.contains(user.as_str());
                if known && own.watches.len() < USERS {
                    own.watches.insert(user.as_str().to_owned());
                }
                let found = known.then(|| self.presence(&user));
                self.answer(me, &FromServer::WatchUser { user, found, country: Some("XX".into()) });
            }
            ToServer::UnwatchUser { user } => {
                own.watches.remove(user.as_str());
            }
            ToServer::GetUserStatus { user } => {
                let (status, _) = self.presence(&user);
                self.answer(me, &FromServer::GetUserStatus { user, status, privileged: false });
            }
            ToServer::GetUserStats { user } => {
                let (_, stats) = self.presence(&user);
                self.answer(me, &FromServer::GetUserStats { user, stats });
            }
            ToServer::GetPeerAddress { user } => {
                let at = self.online.get(user.as_str()).map(|other| (other.ip, other.port));
                let (ip, port) = at.unwrap_or((Ipv4Addr::UNSPECIFIED, 0));
                self.answer(me, &FromServer::GetPeerAddress { user, ip, port, obfuscation: none() });
            }
            ToServer::ConnectToPeer { token, user, kind } => {
                let (ip, port) = (own.ip, own.port);
                match self.online.get(user.as_str()) {
                    Some(other) => other.tell(&FromServer::ConnectToPeer {
                        user: me.into(),
                        kind,
                        ip,
                        port,
                        token,
                        privileged: false,
                        obfuscation: none(),
                    }),
                    None => self.answer(me, &FromServer::CantConnectToPeer { token }),
                }
            }
            ToServer::CantConnectToPeer { token, user } => {
                self.answer(user.as_str(), &FromServer::CantConnectToPeer { token });
            }
            ToServer::FileSearch { token, query } | ToServer::WishlistSearch { token, query } => {
                let search = FromServer::FileSearch { user: me.into(), token, query };
                self.others(me).for_each(|user| user.tell(&search));
            }
            ToServer::UserSearch { user, token, query } => {
                self.answer(user.as_str(), &FromServer::FileSearch { user: me.into(), token, query });
            }
            // Rooms, messages and the search tree are not what a lab is about.
            _ => {}
        }
    }

    fn answer(&self, name: &str, message: &FromServer) {
        if let Some(user) = self.online.get(name) {
            user.tell(message);
        }
    }
}
