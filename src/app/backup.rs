//! `backup` and `restore`: by the daemon when one runs on the data directory, else with the store opened here.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::cli::{could_not, print, say};
use super::settings::Sources;
use crate::store::{RESTORED_CONFIG, Store, StoreError, StoreOptions, restore as put_back, unfinished, verify_backup};

/// Where copies are checked: below the data directory, whose disk is good for a store. What lies there may go.
pub fn scratch(data: &Path) -> PathBuf {
    data.join("cache").join("verify")
}

/// Writes and verifies; answers with one sentence about what is in it. The configuration is taken along where there is
/// a file of it.
///
/// # Errors
/// One sentence.
pub fn write(store: &Store, sources: &Sources, to: &Path) -> Result<String, String> {
    let config = std::fs::read(sources.data_file()).ok();
    store.backup_with(to, config.as_deref()).map_err(|error| error.to_string())?;
    let summary = verify_backup(to, &scratch(&sources.data)).map_err(|error| error.to_string())?;
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
        let Some(name) = file.to_str() else {
            return could_not(&format!("{}: the daemon can only be told a name in UTF-8", file.display()));
        };
        return match ask(socket, name) {
            Ok((200, text)) => print(format!("{text}\n").as_bytes()),
            Ok((_, text)) => failed(&text),
            Err(error) => failed(&format!("the daemon does not answer: {error}")),
        };
    }
    if !sources.data.join("store").exists() {
        return could_not(&format!("there is no store in {}", sources.data.display()));
    }
    match Store::open(&sources.data.join("store"), StoreOptions::default()) {
        Ok(store) => match write(&store, sources, &file) {
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
fn ask(mut socket: UnixStream, file: &str) -> std::io::Result<(u16, String)> {
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
    match sources.finish_restore() {
        Ok(None) => {}
        Ok(Some(config)) => {
            let data = sources.data.display();
            return print(format!("a restore into {data} was interrupted and is now complete{config}\n").as_bytes());
        }
        Err(error) => return failed(&format!("an interrupted restore could not be completed: {error}")),
    }
    match put_back(file, &sources.data.join("store")) {
        Ok(summary) => {
            let rows: u64 = summary.tables.iter().map(|(_, rows)| rows).sum();
            let text = format!("{rows} records are in {}", sources.data.display());
            match sources.finish_restore() {
                Ok(config) => print(format!("{text}{}\n", config.unwrap_or_default()).as_bytes()),
                Err(error) => failed(&format!(
                    "{text}, but not the configuration: {error}; a start, or the same command again, will try once more"
                )),
            }
        }
        Err(error @ (StoreError::Io { .. } | StoreError::Database(_))) => failed(&error.to_string()),
        Err(error) => could_not(&error.to_string()),
    }
}

impl Sources {
    /// Takes a restored configuration out of the store's folder to its place, unless one is there. `None`: there was
    /// nothing to do; else what became of it, for the end of a sentence.
    ///
    /// # Errors
    /// What the file system refuses; to be tried again then.
    pub fn finish_restore(&self) -> std::io::Result<Option<&'static str>> {
        let (store, to) = (self.data.join("store"), self.data_file());
        let from = store.join(RESTORED_CONFIG);
        if !from.exists() {
            return Ok(None);
        }
        let kept = to.exists();
        if kept {
            std::fs::remove_file(&from)?;
        } else {
            std::fs::rename(&from, &to)?;
            std::fs::File::open(&self.data)?.sync_all()?;
        }
        std::fs::File::open(&store)?.sync_all()?;
        Ok(Some(if kept { "; the configuration that is there was kept" } else { ", and the configuration" }))
    }

    /// Says whether a restore into this data directory runs or was interrupted before it had a store: a start would
    /// make an empty one, into which nothing is restored any more.
    ///
    /// # Errors
    /// One sentence.
    pub fn no_restore_runs(&self) -> Result<(), String> {
        let unfinished = unfinished(&self.data.join("store"));
        if unfinished.exists() {
            return Err(format!(
                "a restore runs or was interrupted: wait for it, run it again, or remove {}",
                unfinished.display()
            ));
        }
        Ok(())
    }
}
