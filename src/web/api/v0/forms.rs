//! slskd's JSON forms of what the desk answers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::model::time::UnixMs;
use crate::model::transfer::{Direction, Ending, Transfer, TransferState};
use crate::model::view::{FileView, FolderView, ResponseView, SearchState, SearchView, ServerState, ServerView};
use crate::web::show::iso_ms;

/// Absent values are left out, as slskd does.
pub(super) fn without_null(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.into_iter().filter(|(_, value)| !value.is_null()).collect()),
        other => other,
    }
}

fn time(at: Option<UnixMs>) -> Value {
    at.map_or(Value::Null, |at| Value::String(iso_ms(at)))
}

/// .NET's form of a time span: `1.02:03:04.0000000`.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let days = seconds / 86_400;
    let days = if days > 0 { format!("{days}.") } else { String::new() };
    let (h, m, s) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{days}{h:02}:{m:02}:{s:02}.{:07}", span.subsec_nanos() / 100)
}

#[expect(clippy::cast_precision_loss, reason = "shown as a percentage")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

pub(super) fn transfer(t: &Transfer, now: UnixMs) -> Value {
    let remaining = t.size.saturating_sub(t.bytes_done);
    let elapsed = t.started_at.map(|began| span(t.ended_at.unwrap_or(now).since(began)));
    let running = t.state == TransferState::InProgress && t.average_speed > 0;
    let left = running.then(|| span(Duration::from_secs(remaining / t.average_speed.max(1))));
    let succeeded = t.state == TransferState::Completed(Ending::Succeeded);
    without_null(json!({
        "id": t.id.to_string(),
        "batchId": t.batch.map(|id| id.to_string()),
        "username": t.user,
        "direction": match t.direction { Direction::Download => "Download", Direction::Upload => "Upload" },
        "filename": t.path.as_str(),
        "size": t.size,
        "startOffset": t.start_offset,
        "state": t.state.name(),
        "stateDescription": t.state.name(),
        "requestedAt": iso_ms(t.requested_at),
        "enqueuedAt": time(t.enqueued_at),
        "startedAt": time(t.started_at),
        "endedAt": time(t.ended_at),
        "bytesTransferred": t.bytes_done,
        "averageSpeed": t.average_speed,
        "bytesRemaining": remaining,
        "elapsedTime": elapsed,
        "percentComplete": percent(t.bytes_done, t.size),
        "remainingTime": left,
        "placeInQueue": t.place_in_queue,
        "exception": if succeeded { None } else { t.reason.as_deref() },
        "attempts": t.attempts,
        "nextAttemptAt": time(t.next_attempt_at),
        "removed": t.removed,
    }))
}

/// By user, then by folder.
pub(super) fn transfers(rows: &[Transfer], now: UnixMs) -> Vec<Value> {
    let mut users: BTreeMap<&str, BTreeMap<&str, Vec<Value>>> = BTreeMap::new();
    for t in rows {
        let folders = users.entry(t.user.as_str()).or_default();
        folders.entry(t.path.folder()).or_default().push(transfer(t, now));
    }
    let directory =
        |(name, files): (&str, Vec<Value>)| json!({ "directory": name, "fileCount": files.len(), "files": files });
    let user = |(name, folders): (&str, BTreeMap<&str, Vec<Value>>)| json!({ "username": name, "directories": folders.into_iter().map(directory).collect::<Vec<_>>() });
    users.into_iter().map(user).collect()
}

/// What waits for its turn counts as in progress: clients end their wait at any other word.
fn search_state(state: SearchState) -> &'static str {
    match state {
        SearchState::Queued | SearchState::InProgress => "InProgress",
        SearchState::TimedOut => "Completed, TimedOut",
        SearchState::ResponseLimitReached => "Completed, ResponseLimitReached",
        SearchState::FileLimitReached => "Completed, FileLimitReached",
        SearchState::Cancelled => "Completed, Cancelled",
        SearchState::Errored => "Completed, Errored",
    }
}

pub(super) fn search(s: &SearchView, responses: &[ResponseView]) -> Value {
    without_null(json!({
        "id": s.id.to_string(),
        "searchText": s.text,
        "token": s.token,
        "state": search_state(s.state),
        "isComplete": !matches!(s.state, SearchState::Queued | SearchState::InProgress),
        "startedAt": iso_ms(s.started_at),
        "endedAt": time(s.ended_at),
        "fileCount": s.files,
        "lockedFileCount": s.locked_files,
        "responseCount": s.responses,
        "responses": responses.iter().map(response).collect::<Vec<_>>(),
    }))
}

pub(super) fn response(r: &ResponseView) -> Value {
    json!({
        "username": r.user,
        "token": r.token,
        "hasFreeUploadSlot": r.free_slot,
        "uploadSpeed": r.upload_speed,
        "queueLength": r.queue_length,
        "fileCount": r.files.len(),
        "files": r.files.iter().map(|f| file(f, false)).collect::<Vec<_>>(),
        "lockedFileCount": r.locked_files.len(),
        "lockedFiles": r.locked_files.iter().map(|f| file(f, true)).collect::<Vec<_>>(),
    })
}

pub(super) fn file(f: &FileView, locked: bool) -> Value {
    let a = f.attributes;
    let extension = match f.extension.as_str() {
        "" => f.name.base_name().rsplit_once('.').map_or("", |(_, extension)| extension),
        sent => sent,
    };
    without_null(json!({
        "filename": f.name.as_str(),
        "size": f.size,
        "code": f.code,
        "extension": extension,
        "isLocked": locked,
        "bitRate": a.bitrate_kbps,
        "bitDepth": a.bit_depth,
        "sampleRate": a.sample_rate_hz,
        "length": a.duration_s,
        "isVariableBitRate": a.vbr,
    }))
}

/// A file of a share list: its attributes are listed one by one as well.
fn shared_file(f: &FileView) -> Value {
    let a = f.attributes;
    let attributes: Vec<Value> = [
        ("BitRate", a.bitrate_kbps),
        ("Length", a.duration_s),
        ("VariableBitRate", a.vbr.map(u32::from)),
        ("SampleRate", a.sample_rate_hz),
        ("BitDepth", a.bit_depth),
    ]
    .into_iter()
    .filter_map(|(kind, value)| value.map(|value| json!({ "type": kind, "value": value })))
    .collect();
    let mut form = file(f, false);
    form["attributeCount"] = json!(attributes.len());
    form["attributes"] = Value::Array(attributes);
    form
}

pub(super) fn folder(f: &FolderView) -> Value {
    json!({
        "name": f.name.as_str(),
        "fileCount": f.files.len(),
        "files": f.files.iter().map(shared_file).collect::<Vec<_>>(),
    })
}

pub(super) fn server(s: &ServerView) -> Value {
    let state = match s.state {
        ServerState::Unconfigured | ServerState::Disconnected => "Disconnected",
        ServerState::Connecting => "Connecting",
        ServerState::LoggingIn => "Connected, LoggingIn",
        ServerState::LoggedIn => "Connected, LoggedIn",
    };
    let is = |states: &[ServerState]| states.contains(&s.state);
    let connected = is(&[ServerState::LoggingIn, ServerState::LoggedIn]);
    without_null(json!({
        "address": s.address,
        "ipEndPoint": s.endpoint.map(|at| at.to_string()),
        "username": s.username,
        "state": state,
        "isConnected": connected,
        "isConnecting": is(&[ServerState::Connecting]),
        "isLoggedIn": is(&[ServerState::LoggedIn]),
        "isLoggingIn": is(&[ServerState::LoggingIn]),
        "isTransitioning": is(&[ServerState::Connecting, ServerState::LoggingIn]),
    }))
}

/// `snake_case` becomes `camelCase`.
fn camel(name: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    out
}

/// Puts a dotted key's value into nested objects.
pub(super) fn insert(root: &mut Map<String, Value>, key: &str, value: Value) {
    let mut at = root;
    let mut parts: Vec<String> = key.split('.').map(camel).collect();
    let Some(last) = parts.pop() else { return };
    for part in parts {
        let slot = at.entry(part).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(next) = slot else { return };
        at = next;
    }
    at.insert(last, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::music::{Attributes, WireText};

    #[test]
    fn spans_are_dotnets() {
        assert_eq!(span(Duration::from_millis(1_500)), "00:00:01.5000000");
        assert_eq!(span(Duration::from_secs(90_061)), "1.01:01:01.0000000");
    }

    #[test]
    fn shared_files_list_their_attributes() {
        let view = |name: &str, attributes| FileView {
            name: WireText::from(name),
            size: 5,
            code: 1,
            extension: String::new(),
            attributes,
        };
        let known =
            Attributes { bitrate_kbps: Some(320), duration_s: Some(7), vbr: Some(true), ..Attributes::default() };
        let form = folder(&FolderView {
            name: WireText::from("Music"),
            files: vec![view("a.b.mp3", known), view("none", Attributes::default())],
        });
        assert_eq!(
            form["files"],
            json!([
                {
                    "filename": "a.b.mp3", "size": 5, "code": 1, "extension": "mp3", "isLocked": false,
                    "bitRate": 320, "length": 7, "isVariableBitRate": true, "attributeCount": 3,
                    "attributes": [
                        {"type": "BitRate", "value": 320}, {"type": "Length", "value": 7},
                        {"type": "VariableBitRate", "value": 1},
                    ],
                },
                {
                    "filename": "none", "size": 5, "code": 1, "extension": "", "isLocked": false,
                    "attributeCount": 0, "attributes": [],
                },
            ])
        );
    }

    #[test]
    fn keys_become_nested_camels() {
        let mut root = Map::new();
        insert(&mut root, "soulseek.listen_port", json!(1));
        insert(&mut root, "soulseek.username", json!("a"));
        assert_eq!(Value::Object(root), json!({"soulseek": {"listenPort": 1, "username": "a"}}));
    }
}
