//! The JSON forms of what the desk answers.

use serde_json::{Value, json};

use crate::model::gossip::Badge;
use crate::model::id::SearchId;
use crate::model::mesh::MeshView;
use crate::model::music::Attributes;
use crate::model::record::{PrivateMessage, Wish};
use crate::model::time::UnixMs;
use crate::model::transfer::{Direction, Rung, Transfer};
use crate::model::view::{
    FileView, FlowView, FolderView, LogLine, ResponseView, SearchState, SearchView, ServerState, ShareView, Snapshot,
};
use crate::web::show::iso_ms;

pub(crate) fn time(at: Option<UnixMs>) -> Value {
    at.map_or(Value::Null, |at| Value::String(iso_ms(at)))
}

pub(crate) fn server_state(state: ServerState) -> &'static str {
    match state {
        ServerState::Unconfigured => "unconfigured",
        ServerState::Disconnected => "disconnected",
        ServerState::Connecting => "connecting",
        ServerState::LoggingIn => "logging_in",
        ServerState::LoggedIn => "logged_in",
    }
}

pub(crate) fn search_state(state: SearchState) -> &'static str {
    match state {
        SearchState::Queued => "queued",
        SearchState::InProgress => "in_progress",
        SearchState::TimedOut => "timed_out",
        SearchState::ResponseLimitReached => "response_limit_reached",
        SearchState::FileLimitReached => "file_limit_reached",
        SearchState::Cancelled => "cancelled",
        SearchState::Errored => "errored",
    }
}

pub(crate) fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Download => "download",
        Direction::Upload => "upload",
    }
}

fn flow(flow: FlowView) -> Value {
    json!({
        "active": flow.active, "queued": flow.queued, "speed": flow.speed,
        "succeeded": flow.succeeded, "failed": flow.failed, "bytes": flow.bytes,
    })
}

/// The few numbers that change every second.
pub(crate) fn pulse(snapshot: &Snapshot) -> Value {
    json!({
        "server": server_state(snapshot.server.state),
        "downloads": flow(snapshot.downloads),
        "uploads": flow(snapshot.uploads),
        "scanning": snapshot.shares.scanning,
        "unread_messages": snapshot.unread_messages,
    })
}

pub(crate) fn shares(shares: &ShareView) -> Value {
    json!({
        "folders": shares.counts.folders, "files": shares.counts.files, "bytes": shares.bytes,
        "scanning": shares.scanning, "progress": shares.progress, "ready": shares.ready,
        "scanned_at": time(shares.scanned_at), "problems": shares.problems,
        "roots": shares.roots.iter().map(|root| json!({
            "id": root.id, "alias": root.alias, "local_path": root.local_path,
            "folders": root.counts.folders, "files": root.counts.files,
        })).collect::<Vec<_>>(),
    })
}

pub(crate) fn snapshot(s: &Snapshot) -> Value {
    json!({
        "version": s.version,
        "started_at": iso_ms(s.started_at),
        "server": {
            "address": s.server.address, "endpoint": s.server.endpoint.map(|e| e.to_string()),
            "username": s.server.username, "state": server_state(s.server.state),
            "reason": s.server.reason, "retry_at": time(s.server.retry_at),
        },
        "shares": shares(&s.shares),
        "tree": {
            "level": s.tree.level, "root": s.tree.root, "parent": s.tree.parent, "children": s.tree.children,
        },
        "downloads": flow(s.downloads),
        "uploads": flow(s.uploads),
        "disk": {
            "backend": s.disk.backend, "backend_reason": s.disk.backend_reason,
            "free": s.disk.free, "total": s.disk.total, "full": s.disk.full,
        },
        "port": { "listen": s.port.listen, "mapping": s.port.mapping },
        "tasks": s.tasks.iter().map(|task| json!({
            "name": task.name, "state": task.state, "restarts": task.restarts, "last_error": task.last_error,
        })).collect::<Vec<_>>(),
        "warnings": s.warnings,
        "unread_messages": s.unread_messages,
        "searches_answered": s.searches_answered,
        "searches_seen": s.searches_seen,
        "mesh": mesh(&s.mesh),
    })
}

pub(crate) fn mesh(m: &MeshView) -> Value {
    json!({
        "enabled": m.enabled, "id": m.id.map(|id| id.to_string()), "port": m.port, "connected": m.connected,
        "fetching": m.fetching, "requests_served": m.served, "requests_refused": m.refused,
        "connections_refused": m.turned_away,
        "connections_refused_by": m.turned_away_by.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
        "bytes_out": m.bytes_out, "bytes_in": m.bytes_in,
        "bad_pieces": m.bad_pieces, "sources_avoided": m.avoided,
        "uploads": m.uploads.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

pub(crate) fn transfer(t: &Transfer) -> Value {
    json!({
        "id": t.id.to_string(), "direction": direction(t.direction), "user": t.user, "path": t.path.as_str(),
        "size": t.size, "state": t.state.name(), "is_over": t.state.is_over(),
        "requested_at": iso_ms(t.requested_at), "enqueued_at": time(t.enqueued_at),
        "started_at": time(t.started_at), "ended_at": time(t.ended_at),
        "start_offset": t.start_offset, "bytes_done": t.bytes_done, "average_speed": t.average_speed,
        "place_in_queue": t.place_in_queue, "reason": t.reason, "attempts": t.attempts,
        "next_attempt_at": time(t.next_attempt_at), "removed": t.removed,
        "batch": t.batch.map(|id| id.to_string()), "destination": t.destination, "local_path": t.local_path,
        "rung": t.rung.map(rung),
        "tried": t.tried,
    })
}

pub(crate) fn rung(rung: Rung) -> &'static str {
    match rung {
        Rung::SingleSource => "single_source",
        Rung::JoinedByOverlap => "joined_by_overlap",
        Rung::Verified => "verified",
        Rung::RescuedCopy => "rescued_copy",
    }
}

pub(crate) fn search(s: &SearchView) -> Value {
    json!({
        "id": s.id.to_string(), "token": s.token, "text": s.text, "state": search_state(s.state),
        "started_at": iso_ms(s.started_at), "ended_at": time(s.ended_at),
        "responses": s.responses, "files": s.files, "locked_files": s.locked_files,
    })
}

/// `badges` are those of its files, in their order.
pub(crate) fn response(r: &ResponseView, badges: &[Option<Badge>]) -> Value {
    let with_badge = |(f, badge): (&FileView, &Option<Badge>)| {
        let mut value = file(f);
        value["badge"] = json!(badge.map(|badge| badge.to_string()));
        value
    };
    json!({
        "user": r.user, "free_slot": r.free_slot, "upload_speed": r.upload_speed, "queue_length": r.queue_length,
        "files": r.files.iter().zip(badges).map(with_badge).collect::<Vec<_>>(),
        "locked_files": r.locked_files.iter().map(file).collect::<Vec<_>>(),
    })
}

fn file(f: &FileView) -> Value {
    let Attributes { bitrate_kbps, duration_s, vbr, sample_rate_hz, bit_depth } = f.attributes;
    json!({
        "name": f.name.as_str(), "size": f.size, "bitrate_kbps": bitrate_kbps, "duration_s": duration_s, "vbr": vbr,
        "sample_rate_hz": sample_rate_hz, "bit_depth": bit_depth,
    })
}

pub(crate) fn folder(f: &FolderView) -> Value {
    json!({ "name": f.name.as_str(), "files": f.files.iter().map(file).collect::<Vec<_>>() })
}

pub(crate) fn wish(w: &Wish) -> Value {
    json!({
        "id": w.id, "text": w.text, "added_at": iso_ms(w.added_at), "searched_at": time(w.searched_at),
        "found": w.found,
    })
}

pub(crate) fn message(m: &PrivateMessage) -> Value {
    json!({
        "user": m.user, "at": iso_ms(m.at), "id": m.id, "incoming": m.incoming, "text": m.text, "read": m.read,
    })
}

pub(crate) fn log_line(line: &LogLine) -> Value {
    json!({
        "sequence": line.sequence, "at": iso_ms(line.at), "level": line.level, "target": line.target,
        "text": line.text,
    })
}

/// A search id out of random bits.
pub(crate) fn new_search_id() -> Option<SearchId> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).ok()?;
    Some(SearchId::from_random(u128::from_be_bytes(bits)))
}
