//! Asks the daemon that runs on a data directory, over its control socket (DECISIONS 11).

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Longest answer that is read, bytes; lists are asked for page by page.
const ANSWER_LEN: u64 = 64 * 1024 * 1024;

/// Why the daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It cannot be reached, or broke off.
    #[error("the daemon does not answer: {0}")]
    Silent(#[from] std::io::Error),
    /// It refused.
    #[error("{sentence}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its reason.
        sentence: String,
    },
}

/// A daemon that answers.
#[derive(Clone, Debug)]
pub struct Control {
    socket: PathBuf,
}

impl Control {
    /// The daemon of this data directory; `None` when none listens.
    pub fn of(data: &Path) -> Option<Self> {
        let socket = data.join("control.sock");
        UnixStream::connect(&socket).ok().map(|_| Self { socket })
    }

    /// One request; the answer is JSON, or nothing.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, ControlError> {
        let mut socket = UnixStream::connect(&self.socket)?;
        let body = body.map(Value::to_string).unwrap_or_default();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        hear(socket)
    }

    /// Sends a file of this length as it is; the answer is as for [`Control::ask`].
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub fn send(&self, path: &str, length: u64, file: &mut impl std::io::Read) -> Result<Value, ControlError> {
        let mut socket = UnixStream::connect(&self.socket)?;
        write!(
            socket,
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
        )?;
        // A refusal may come before all was sent.
        let sent = std::io::copy(&mut file.take(length), &mut socket);
        match (hear(socket), sent) {
            (Err(ControlError::Refused { status: 0, .. }), Err(error)) => Err(error.into()),
            (answer, _) => answer,
        }
    }
}

/// The answer ends when the daemon closes.
fn hear(socket: UnixStream) -> Result<Value, ControlError> {
    let mut answer = Vec::new();
    socket.take(ANSWER_LEN).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let text = answer.split_once("\r\n\r\n").map_or("", |(_, text)| text);
    let value: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    if (200..300).contains(&status) {
        return Ok(value);
    }
    let told = value.get("error").and_then(Value::as_str).map(str::to_owned);
    Err(ControlError::Refused { status, sentence: told.unwrap_or_else(|| text.trim().to_owned()) })
}
