//! The program itself as a process of its own, on a network on loopback, driven over HTTP.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// Long enough for the slowest machine; only a broken test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Between two questions.
const AGAIN: Duration = Duration::from_millis(50);

/// A running node. It is killed when dropped.
pub(crate) struct Node {
    process: Child,
    arguments: Vec<OsString>,
    web: u16,
    pub(crate) home: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port below those that the kernel hands out (32768 on), so that nobody gets it before it is listened on.
fn port_that(is_free: impl Fn(u16) -> bool) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % 20_000).unwrap_or_default();
    let next = || 12_000 + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
    std::iter::repeat_with(next).take(1_000).find(|port| is_free(*port)).expect("a free port")
}

pub(crate) fn free_udp_port() -> u16 {
    port_that(|port| std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok())
}

fn free_port() -> u16 {
    port_that(|port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok())
}

fn spawn(arguments: &[OsString], home: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slskdn"));
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SLSKDN_") {
            command.env_remove(name);
        }
    }
    let log = std::fs::File::create(home.join("log")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

impl Node {
    /// Logs in to the server on this port as `box`.
    pub(crate) async fn start(server: u16, settings: &[(&str, String)]) -> Self {
        Self::start_as("box", None, server, settings).await
    }

    /// Logs in to the server on this port, and shares a folder.
    pub(crate) async fn start_as(name: &str, share: Option<&Path>, server: u16, settings: &[(&str, String)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let web = free_port();
        let own = [
            ("web.port", web.to_string()),
            ("soulseek.address", "127.0.0.1".to_owned()),
            ("soulseek.port", server.to_string()),
            ("soulseek.username", name.to_owned()),
            ("soulseek.password", "secret".to_owned()),
            ("soulseek.listen_ip_address", "127.0.0.1".to_owned()),
            ("soulseek.listen_port", "0".to_owned()),
            ("disk.min_free_mib", "1".to_owned()),
        ];
        let mut arguments = vec!["--data".into(), home.path().into()];
        for (key, value) in own.iter().chain(settings) {
            arguments.extend(["--set".into(), format!("{key}={value}").into()]);
        }
        arguments.push("serve".into());
        arguments.extend(share.iter().flat_map(|share| ["--music".into(), share.into()]));
        let mut node = Self { process: spawn(&arguments, home.path()), arguments, web, home };
        node.ready().await;
        node
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again with what it had.
    pub(crate) async fn restart(&mut self) {
        self.process = spawn(&self.arguments, self.home.path());
        self.ready().await;
    }

    async fn ready(&mut self) {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.web)).await.is_err() {
            assert!(self.process.try_wait().unwrap().is_none() && Instant::now() < end, "{}", self.log());
            sleep(AGAIN).await;
        }
        self.until("it is logged in", async |node| {
            (node.get("/api/status").await["server"]["state"] == "logged_in").then_some(())
        })
        .await;
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.web)).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.web,
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, "").await;
        assert_eq!(status, 200, "{path}: {body}\n{}", self.log());
        body
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call("POST", path, &body.to_string()).await;
        assert!((200..300).contains(&status), "{path} {body}: {status} {answer}\n{}", self.log());
        answer
    }

    /// Asks until the answer is there.
    pub(crate) async fn until<T>(&self, what: &str, ask: impl AsyncFn(&Self) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask(self).await {
                return answer;
            }
            assert!(Instant::now() < end, "never: {what}\n{}", self.log());
            sleep(AGAIN).await;
        }
    }

    /// Wants a file; the answer is the download's id.
    pub(crate) async fn want(&self, user: &str, path: &str, size: usize) -> String {
        let wanted = json!({ "user": user, "files": [{ "path": path, "size": size }] });
        let answer = self.post("/api/downloads", wanted).await;
        answer["accepted"][0]["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    pub(crate) async fn download(&self, id: &str) -> Value {
        self.get(&format!("/api/downloads/{id}")).await
    }

    /// Waits until a download is in this state.
    pub(crate) async fn download_is(&self, id: &str, state: &str) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let download = self.download(id).await;
            if download["state"] == state {
                return download;
            }
            assert!(Instant::now() < end, "never {state}: {download}\n{}", self.log());
            sleep(AGAIN).await;
        }
    }

    /// Waits for a download's end; the answer is its bytes.
    pub(crate) async fn finished(&self, id: &str) -> Vec<u8> {
        let done = self.download_is(id, "Completed, Succeeded").await;
        std::fs::read(PathBuf::from(done["local_path"].as_str().unwrap())).unwrap()
    }

    /// Lets the Doctor look at the share, and waits until the one file in it can be served.
    pub(crate) async fn measure(&self, share: &Path) {
        let wanted = json!({ "library_path": share, "offline": true });
        let scan = self.post("/api/library/health/scans", wanted).await;
        let path = format!("/api/library/health/scans/{}", scan["scan_id"].as_str().unwrap());
        self.until("the share is measured", async |node| {
            (node.get(&path).await["status"] == "completed").then_some(())
        })
        .await;
        self.until("the file is shared", async |node| {
            (node.get("/api/status").await["shares"]["files"] == 1).then_some(())
        })
        .await;
    }
}
