//! `backup` and `restore`: by the daemon when one runs on the data directory, else with the store opened here.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use super::cli::{could_not, print, say};
use super::settings::Sources;
use crate::store::{Store, StoreError, StoreOptions, restore as put_back, verify_backup};

/// Writes and verifies; answers with one sentence about what is in it. `config` is taken along where it exists.
///
/// # Errors
/// One sentence.
pub fn write(store: &Store, config: &Path, to: &Path) -> Result<String, String> {
    let config = std::fs::read(config).ok();
    store.backup_with(to, config.as_deref()).map_err(|error| error.to_string())?;
    let summary = verify_backup(to).map_err(|error| error.to_string())?;
    let rows: u64 = summary.tables.iter().map(|(_, rows)| rows).sum();
    let with = if summary.config.is_some() { "with" } else { "without" };
    Ok(format!("{}: {rows} records, {with} the configuration; verified", to.display()))
}

/// The `backup` command.
pub fn backup(sources: &Sources, file: &Path) -> ExitCode {
    let file = match std::path::absolute(file) {
        Ok(file) => file,
        Err(error) => return could_not(&format!("{}: {error}", file.display())),
    };
    if file.exists() {
        return could_not(&format!("{} exists already", file.display()));
    }
    if let Ok(socket) = UnixStream::connect(sources.data.join("control.sock")) {
        return match ask(socket, &file) {
            Ok((200, text)) => print(format!("{text}\n").as_bytes()),
            Ok((_, text)) => failed(&text),
            Err(error) => failed(&format!("the daemon does not answer: {error}")),
        };
    }
    if !sources.data.join("store").exists() {
        return could_not(&format!("there is no store in {}", sources.data.display()));
    }
    match Store::open(&sources.data.join("store"), StoreOptions::default()) {
        Ok(store) => match write(&store, &sources.data_file(), &file) {
            Ok(text) => print(format!("{text}\n").as_bytes()),
            Err(error) => failed(&error),
        },
        Err(error) => could_not(&error.to_string()),
    }
}

fn failed(sentence: &str) -> ExitCode {
    say(sentence);
    ExitCode::FAILURE
}

/// One HTTP request over the control socket; the answer ends when the daemon closes.
fn ask(mut socket: UnixStream, file: &Path) -> std::io::Result<(u16, String)> {
    let body = serde_json::json!({ "path": file }).to_string();
    write!(
        socket,
        "POST /api/backup HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    socket.take(1024 * 1024).read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let text = answer.split_once("\r\n\r\n").map_or("", |(_, text)| text);
    let text = match serde_json::from_str(text) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(serde_json::Value::Object(problem)) => {
            problem.get("error").and_then(|e| e.as_str()).unwrap_or(text).to_owned()
        }
        _ => text.trim().to_owned(),
    };
    Ok((status, text))
}

/// The `restore` command: into a data directory without a store. The backup's configuration is put there if none is.
pub fn restore(sources: &Sources, file: &Path) -> ExitCode {
    if let Err(error) = std::fs::create_dir_all(&sources.data) {
        return could_not(&format!("{}: {error}", sources.data.display()));
    }
    match put_back(file, &sources.data.join("store")) {
        Ok(summary) => {
            let rows: u64 = summary.tables.iter().map(|(_, rows)| rows).sum();
            let mut text = format!("{rows} records are in {}", sources.data.display());
            if let Some(config) = summary.config {
                if sources.data_file().exists() {
                    text.push_str("; the configuration that is there was kept");
                } else if let Err(error) = super::settings::write_private(&sources.data_file(), &config) {
                    return failed(&format!("{text}, but the configuration could not be written: {error}"));
                } else {
                    text.push_str(", and the configuration");
                }
            }
            print(format!("{text}\n").as_bytes())
        }
        Err(error @ (StoreError::Io { .. } | StoreError::Database(_))) => failed(&error.to_string()),
        Err(error) => could_not(&error.to_string()),
    }
}
