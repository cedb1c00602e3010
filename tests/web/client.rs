//! A server for one test, and a caller that sends exactly the bytes it is told to.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use slskdn::model::time::{Now, UnixMs};
use slskdn::model::view::{Event, Snapshot};
use slskdn::web::{ApiKey, PasswordCost, Role, Server, WebSettings};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::desk::{self, Told};

pub(super) const PASSWORD: &str = "correct horse battery";
pub(super) const READONLY: &str = "readonly-key-0123456789";
pub(super) const READWRITE: &str = "readwrite-key-0123456789";
pub(super) const ADMINISTRATOR: &str = "administrator-key-012345";

/// A running server and everything around it.
pub(super) struct House {
    pub(super) server: Server,
    pub(super) address: SocketAddr,
    pub(super) told: Told,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) publish: watch::Sender<Arc<Snapshot>>,
    pub(super) clock: Arc<Mutex<Now>>,
    /// The next look at the clock panics: a handler's fault, made to order.
    pub(super) broken_clock: Arc<AtomicBool>,
    pub(super) stop: CancellationToken,
}

/// How a house is built.
pub(super) struct Plan {
    /// `127.0.0.1`, or `0.0.0.0` where the set-up code is to be asked for. Callers come over loopback always.
    pub(super) bind: &'static str,
    pub(super) password: bool,
    pub(super) authentication: bool,
    pub(super) header_timeout: Duration,
    pub(super) control_socket: Option<PathBuf>,
    pub(super) url_base: &'static str,
}

impl Default for Plan {
    fn default() -> Self {
        let header_timeout = Duration::from_secs(30);
        Self {
            bind: "127.0.0.1",
            password: true,
            authentication: true,
            header_timeout,
            control_socket: None,
            url_base: "",
        }
    }
}

fn key(name: &str, key: &str, role: Role, cidr: &[&str]) -> ApiKey {
    let cidr = cidr.iter().map(|range| range.parse().unwrap()).collect();
    ApiKey { name: name.to_owned(), key: key.to_owned(), role, cidr }
}

impl House {
    pub(super) async fn build(plan: Plan) -> Self {
        let (desk, told, events, publish) = desk::open();
        let start = Now { mono: Duration::from_secs(1_000), wall: UnixMs(1_767_400_000_000) };
        let clock = Arc::new(Mutex::new(start));
        let broken_clock = Arc::new(AtomicBool::new(false));
        let (hands, broken) = (Arc::clone(&clock), Arc::clone(&broken_clock));
        let mut settings = WebSettings::new(Arc::new(move || {
            assert!(!broken.load(Ordering::Relaxed), "made to panic");
            *hands.lock().unwrap()
        }));
        settings.addresses = vec![format!("{}:0", plan.bind).parse().unwrap()];
        settings.allowed_hosts = vec!["music.example.org".to_owned()];
        settings.api_keys = vec![
            key("r", READONLY, Role::Readonly, &[]),
            key("w", READWRITE, Role::Readwrite, &["127.0.0.0/8"]),
            key("a", ADMINISTRATOR, Role::Administrator, &[]),
            key("far", "key-for-far-away-only", Role::Administrator, &["203.0.113.0/24"]),
        ];
        settings.password_cost = PasswordCost { memory_kib: 8, passes: 1 };
        settings.authentication = plan.authentication;
        settings.header_timeout = plan.header_timeout;
        settings.control_socket = plan.control_socket;
        plan.url_base.clone_into(&mut settings.url_base);
        let stop = CancellationToken::new();
        let server = Server::start(settings, desk, stop.clone()).await.unwrap();
        let port = server.addresses()[0].port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if plan.password {
            let from = address.ip();
            server.web().auth.set_up(from, None, PASSWORD).await.unwrap();
        }
        Self { server, address, told, events, publish, clock, broken_clock, stop }
    }

    pub(super) async fn with_password() -> Self {
        Self::build(Plan::default()).await
    }

    pub(super) async fn open() -> Self {
        Self::build(Plan { password: false, ..Plan::default() }).await
    }

    pub(super) fn pass(&self, time: Duration) {
        let mut now = self.clock.lock().unwrap();
        *now = Now { mono: now.mono + time, wall: now.wall.plus(time) };
    }

    pub(super) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// One request on a connection of its own. `Host` is ours unless `headers` name one.
    pub(super) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        exchange(stream, &request(&self.address.to_string(), method, path, headers, body)).await
    }

    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", path, headers, "").await
    }

    /// A browser's form.
    pub(super) async fn form(&self, path: &str, cookie: &str, csrf: &str, fields: &str) -> Answer {
        let origin = self.origin();
        let headers =
            [("Origin", origin.as_str()), ("Cookie", cookie), ("Content-Type", "application/x-www-form-urlencoded")];
        self.send("POST", path, &headers, &format!("csrf={csrf}&{fields}")).await
    }

    /// Signs in and gives the cookie and the CSRF token that belongs to it.
    pub(super) async fn sign_in(&self) -> (String, String) {
        let csrf = token_of(&self.get("/login", &[]).await);
        let answer = self.form("/login", "", &csrf, &format!("password={}", PASSWORD.replace(' ', "+"))).await;
        assert_eq!(answer.status, 303, "{}", answer.body);
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let page = self.get("/settings", &[("Cookie", &cookie)]).await;
        assert_eq!(page.status, 200);
        (cookie, token_of(&page))
    }
}

/// The CSRF token of a page's first form.
pub(super) fn token_of(page: &Answer) -> String {
    let (_, rest) = page.body.split_once("name=\"csrf\" value=\"").expect("a form with a token");
    rest.split('"').next().unwrap().to_owned()
}

pub(super) fn request(host: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.extend(["Host: ", host, "\r\n"]);
    }
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        text.extend([*name, ": ", *value, "\r\n"]);
    }
    if !body.is_empty() || !matches!(method, "GET" | "HEAD" | "OPTIONS") {
        text.extend(["Content-Length: ", &body.len().to_string(), "\r\n"]);
    }
    format!("{text}\r\n{body}")
}

/// An answer, read to the end of its connection.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self { status, headers, body: body.to_owned() }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The headers every answer must have, and those none may have.
    pub(super) fn check_protection(&self, what: &str) {
        let csp = self.header("content-security-policy").unwrap_or_default();
        assert!(csp.starts_with("default-src 'none'; ") && !csp.contains("unsafe"), "{what}: {csp}");
        assert!(csp.contains("frame-ancestors 'none'") && csp.contains("form-action 'self'"), "{what}: {csp}");
        assert_eq!(self.header("x-content-type-options"), Some("nosniff"), "{what}");
        assert_eq!(self.header("referrer-policy"), Some("same-origin"), "{what}");
        assert_eq!(self.header("x-frame-options"), Some("DENY"), "{what}");
        assert!(self.header("cache-control").is_some(), "{what}");
        assert!(!self.headers.iter().any(|(name, _)| name.starts_with("access-control")), "{what}: CORS");
    }
}

pub(super) async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    Answer::parse(&bytes)
}

pub(super) async fn over_socket(path: &std::path::Path, method: &str, target: &str, body: &str) -> Answer {
    let stream = UnixStream::connect(path).await.unwrap();
    let headers = [("Content-Type", "application/json")];
    exchange(stream, &request("slskdn", method, target, &headers, body)).await
}
