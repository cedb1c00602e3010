//! The server of the test world: who is where, who wants to be called, searches and private messages.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::world::{Line, World, address};
use crate::engine::soulseek::io::Input;
use crate::engine::soulseek::server::{FromServer, LoginGreeting, ToServer, UserStats, UserStatus};
use crate::model::id::Token;
use crate::model::music::WireText;

/// What it knows.
#[derive(Debug, Default)]
pub(super) struct Server {
    ports: BTreeMap<String, u32>,
    mail: Vec<Mail>,
    sent: u32,
}

/// A private message that the server holds until it is acknowledged.
#[derive(Clone, Debug)]
struct Mail {
    id: u32,
    to: String,
    from: String,
    text: String,
}

impl World {
    /// The server hangs up.
    pub(super) fn server_hangs_up(&mut self, at: usize) {
        if self.stations[at].line.up {
            self.offline(at);
            self.stations[at].line = Line::default();
            self.handle(at, Input::ServerDown { reason: "hung up".to_owned() });
        }
    }

    fn who(&self, user: &WireText) -> Option<usize> {
        self.stations.iter().position(|station| station.line.user.as_deref() == Some(user.as_str()))
    }

    pub(super) fn offline(&mut self, at: usize) {
        if let Some(user) = self.stations[at].line.user.take() {
            self.announce(at, &user, UserStatus::Offline);
        }
    }

    fn announce(&mut self, except: usize, user: &str, status: UserStatus) {
        for (_, other) in self.stations.iter_mut().enumerate().filter(|(at, _)| *at != except) {
            if other.line.user.is_some() {
                other.line.from.push_back(FromServer::GetUserStatus { user: user.into(), status, privileged: false });
            }
        }
    }

    pub(super) fn serve(&mut self, at: usize, message: ToServer) {
        let own = self.stations[at].line.user.clone().unwrap_or_default();
        let mut answers = Vec::new();
        match message {
            ToServer::Login { user, .. } => {
                let greeting = LoginGreeting {
                    greeting: "hello".into(),
                    own_ip: address(at),
                    password_hash: None,
                    supporter: None,
                };
                answers.push(FromServer::Login(Ok(greeting)));
                self.stations[at].line.user = Some(user.as_str().to_owned());
                self.announce(at, user.as_str(), UserStatus::Online);
                answers.extend(self.server.mail.iter().filter(|mail| mail.to == user.as_str()).map(Mail::message));
            }
            ToServer::SetWaitPort { port, .. } => {
                self.server.ports.insert(own, port);
            }
            ToServer::GetPeerAddress { user } => {
                let found =
                    self.who(&user).map(|other| (address(other), self.server.ports.get(user.as_str()).copied()));
                let (ip, port) = found.unwrap_or((Ipv4Addr::UNSPECIFIED, None));
                answers.push(FromServer::GetPeerAddress { user, ip, port: port.unwrap_or(0), obfuscation: None });
            }
            ToServer::WatchUser { user } => {
                let status = if self.who(&user).is_some() { UserStatus::Online } else { UserStatus::Offline };
                let found = Some((status, UserStats::default()));
                answers.push(FromServer::WatchUser { user, found, country: None });
            }
            ToServer::GetUserStatus { user } => {
                let status = if self.who(&user).is_some() { UserStatus::Online } else { UserStatus::Offline };
                answers.push(FromServer::GetUserStatus { user, status, privileged: false });
            }
            ToServer::GetUserStats { user } => {
                answers.push(FromServer::GetUserStats { user, stats: UserStats::default() });
            }
            ToServer::ConnectToPeer { token, user, kind } => match self.who(&user) {
                Some(other) => self.stations[other].line.from.push_back(FromServer::ConnectToPeer {
                    user: own.as_str().into(),
                    kind,
                    ip: address(at),
                    port: self.server.ports.get(&own).copied().unwrap_or(0),
                    token,
                    privileged: false,
                    obfuscation: None,
                }),
                None => answers.push(FromServer::CantConnectToPeer { token }),
            },
            ToServer::CantConnectToPeer { token, user } => {
                if let Some(other) = self.who(&user) {
                    self.stations[other].line.from.push_back(FromServer::CantConnectToPeer { token });
                }
            }
            ToServer::FileSearch { token, query } | ToServer::WishlistSearch { token, query } => {
                for other in (0..self.stations.len()).filter(|other| *other != at) {
                    self.search(other, &own, token, &query);
                }
            }
            ToServer::UserSearch { user, token, query } => {
                if let Some(other) = self.who(&user) {
                    self.search(other, &own, token, &query);
                }
            }
            ToServer::MessageUser { user, text } => {
                self.server.sent += 1;
                let (to, text) = (user.as_str().to_owned(), text.as_str().to_owned());
                let mail = Mail { id: self.server.sent, to, from: own, text };
                if let Some(other) = self.who(&user) {
                    self.stations[other].line.from.push_back(mail.message());
                }
                self.server.mail.push(mail);
            }
            ToServer::MessageAcked { id } => self.server.mail.retain(|mail| mail.id != id || mail.to != own),
            _ => {}
        }
        self.stations[at].line.from.extend(answers);
    }

    fn search(&mut self, at: usize, user: &str, token: Token, query: &WireText) {
        if self.stations[at].line.user.is_some() {
            let message = FromServer::FileSearch { user: user.into(), token, query: query.clone() };
            self.stations[at].line.from.push_back(message);
        }
    }

    /// Messages that the server took, and those of them that nobody acknowledged yet.
    pub(super) fn delivered(&self) -> (u32, usize) {
        (self.server.sent, self.server.mail.len())
    }
}

impl Mail {
    fn message(&self) -> FromServer {
        let (user, text) = (self.from.as_str().into(), self.text.as_str().into());
        FromServer::MessageUser { id: self.id, at: 1_000_000, user, text, is_new: Some(true) }
    }
}
