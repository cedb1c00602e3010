//! `slskdn debug job`: by the daemon when one runs on the data directory, else out of its store.

use std::fmt::Write as _;
use std::process::ExitCode;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};

use super::{could_not, print, say};
use crate::app::control::{Control, ControlError};
use crate::app::settings::Sources;
use crate::app::traces::look;
use crate::model::limits;
use crate::model::trace::{TraceLine, TraceSummary, TraceView};
use crate::model::units::{Bytes, BytesPerSec};
use crate::store::{Store, StoreError, StoreOptions};
use crate::web::api::trace_json;

/// Why there is nothing to tell.
enum Problem {
    Unknown,
    Other(String),
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::Other(match error {
            StoreError::Locked { .. } => {
                format!("{error}; it does not answer on its control socket, so it cannot be asked")
            }
            error => error.to_string(),
        })
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Refused { status: 404, .. } => Self::Unknown,
            error => Self::Other(error.to_string()),
        }
    }
}

/// The command.
pub(super) fn job(sources: &Sources, id: &str, as_json: bool) -> ExitCode {
    let told = match Control::of(&sources.data) {
        Some(daemon) => by_daemon(&daemon, id, as_json),
        None => here(sources, id, as_json),
    };
    match told {
        Ok(document) if as_json => print(format!("{document:#}\n").as_bytes()),
        Ok(document) => match serde_json::from_value::<TraceSummary>(document["summary"].clone()) {
            Ok(summary) => print(report(&summary).as_bytes()),
            Err(error) => could_not(&format!("the answer is not understood: {error}")),
        },
        Err(Problem::Unknown) => {
            say(&format!("nothing is written down about a job `{id}`; `--data` may name another directory"));
            ExitCode::FAILURE
        }
        Err(Problem::Other(why)) => could_not(&why),
    }
}

/// The one name that begins so.
fn only<'a>(names: impl Iterator<Item = &'a str>, id: &str) -> Result<String, Problem> {
    let mut found: Vec<&str> = names.filter(|name| name.starts_with(id)).collect();
    found.retain(|name| *name != id);
    match found[..] {
        [one] => Ok(one.to_owned()),
        [] => Err(Problem::Unknown),
        _ => Err(Problem::Other(format!("{} jobs begin with `{id}`: write more of it", found.len()))),
    }
}

fn is_name(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn by_daemon(daemon: &Control, id: &str, whole: bool) -> Result<Value, Problem> {
    if !is_name(id) {
        return Err(Problem::Unknown);
    }
    let page = |id: &str, offset: usize| {
        let limit = if whole { limits::TRACE_PAGE } else { 0 };
        daemon.ask("GET", &format!("/api/jobs/{id}/trace?offset={offset}&limit={limit}"), None)
    };
    let (id, mut document) = match page(id, 0).map_err(Problem::from) {
        Err(Problem::Unknown) => {
            let jobs = daemon.ask("GET", "/api/traces", None)?;
            let names = jobs.as_array().into_iter().flatten().filter_map(|job| job["job_id"].as_str());
            let id = only(names, id)?;
            let document = page(&id, 0)?;
            (id, document)
        }
        document => (id.to_owned(), document?),
    };
    let mut events = document["events"].as_array().cloned().unwrap_or_default();
    while whole && !events.is_empty() && events.len() % limits::TRACE_PAGE == 0 {
        let more = page(&id, events.len())?;
        match more["events"].as_array() {
            Some(more) if !more.is_empty() => events.extend_from_slice(more),
            _ => break,
        }
    }
    document["events"] = json!(events);
    Ok(document)
}

fn here(sources: &Sources, id: &str, whole: bool) -> Result<Value, Problem> {
    let dir = sources.data.join("store");
    if !is_name(id) || !dir.join("data.mdb").exists() {
        return Err(Problem::Unknown);
    }
    let store = Store::open(&dir, StoreOptions::default())?;
    let limit = if whole { limits::TRACE_PAGE } else { 0 };
    let mut found = look::job(&store, id, 0, limit)?;
    if found.is_none() {
        let jobs = look::jobs(&store)?;
        found = look::job(&store, &only(jobs.iter().map(|job| job.job_id.as_str()), id)?, 0, limit)?;
    }
    let mut view: TraceView = found.ok_or(Problem::Unknown)?;
    while whole && (view.events.len() as u64) < view.summary.events {
        let more = look::job(&store, &view.summary.job_id, view.events.len() as u64, limit)?;
        match more {
            Some(more) if !more.events.is_empty() => view.events.extend(more.events),
            _ => break,
        }
    }
    Ok(trace_json(&view))
}

/// `+12.3 s`.
fn moment(line: &TraceLine) -> String {
    format!("+{}.{:03} s", line.at_us / 1_000_000, line.at_us / 1_000 % 1_000)
}

/// Text that a stranger chose, with nothing in it that a terminal obeys.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The summary for a terminal.
fn report(summary: &TraceSummary) -> String {
    let mut text = String::new();
    let s = summary;
    let why = s.error.as_deref().map(|why| format!(": {}", plain(why))).unwrap_or_default();
    let times = if s.starts > 1 { format!(", begun {} times", s.starts) } else { String::new() };
    let seconds = format!("{}.{:03}", s.duration_ms / 1_000, s.duration_ms % 1_000);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}  {}\n", s.job_id, plain(&s.title));
    let _ = writeln!(text, "Status      {}{why}", s.status);
    let _ = writeln!(text, "Duration    {seconds} s{times}");
    let there = if s.there_bytes > 0 { format!(", {} were there", Bytes(s.there_bytes)) } else { String::new() };
    let speed = BytesPerSec(s.mean_speed_bps);
    let _ = writeln!(text, "Amount      {} of {}{there}, {speed} on average", Bytes(s.bytes), Bytes(s.size_bytes));
    let _ = writeln!(text, "Networks    Soulseek {}, mesh {}", Bytes(s.soulseek_bytes), Bytes(s.overlay_bytes));
    let _ = writeln!(
        text,
        "Chunks      {} asked for, {} came, {} failed, {} taken back",
        s.chunks_total, s.chunks_ok, s.chunks_failed, s.chunks_cancelled
    );
    if s.rebalances > 0 {
        let _ = writeln!(text, "Rebalanced  {} times", s.rebalances);
    }
    if !s.sources.is_empty() {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        table.set_header(["Source", "Network", "Amount", "%", "Chunks", "Speed", "RTT", "Errors", "Retries", "Bad"]);
        for source in &s.sources {
            table.add_row([
                shortened(&plain(&source.peer_id)),
                source.source.clone(),
                Bytes(source.bytes).to_string(),
                format!("{:.1}", source.percent),
                source.chunks_requested.to_string(),
                BytesPerSec(source.mean_speed_bps).to_string(),
                source.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms")),
                source.errors.to_string(),
                source.retries.to_string(),
                source.bad_pieces.to_string(),
            ]);
        }
        for column in 2..10 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let _ = writeln!(text, "\n{table}");
    }
    if !s.key_events.is_empty() {
        let _ = writeln!(text, "\nWhat happened");
    }
    for line in &s.key_events {
        let who = line.peer_id.as_deref().map(|who| format!(" {}", shortened(&plain(who)))).unwrap_or_default();
        let _ = writeln!(text, "{:>14}  {}{who}: {}", moment(line), line.kind, plain(&line.message));
    }
    if s.events_left_out > 0 {
        let _ = writeln!(text, "\n{} lines were kept, {} only counted.", s.events, s.events_left_out);
    }
    text
}

/// Keys are long; their beginning tells them apart.
fn shortened(who: &str) -> String {
    let hex = who.len() == 64 && who.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex { who[..16].to_owned() } else { who.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::trace::SourceShare;

    #[test]
    fn a_name_is_found_by_its_beginning() {
        let names = ["abc1", "abd2", "x"];
        let found = |id| only(names.into_iter(), id);
        assert!(matches!(found("abc"), Ok(name) if name == "abc1"));
        assert!(matches!(found("q"), Err(Problem::Unknown)));
        assert!(matches!(found("ab"), Err(Problem::Other(why)) if why.starts_with("2 jobs begin")));
        assert!(is_name("0ab-9") && !is_name("../x") && !is_name(""));
    }

    #[test]
    fn the_report_tells_who_did_what() {
        let source = SourceShare {
            peer_id: "ab".repeat(32),
            source: "overlay".into(),
            bytes: 2_097_152,
            percent: 66.7,
            chunks_requested: 5,
            mean_speed_bps: 1_048_576,
            rtt_ms: Some(12.34),
            errors: 1,
            retries: 2,
            ..SourceShare::default()
        };
        let event = TraceLine {
            at_us: 1_500_000,
            kind: "PeerConnected".into(),
            peer_id: Some("bob\u{1b}[2J".into()),
            message: "the source has the file".into(),
            ..TraceLine::default()
        };
        let summary = TraceSummary {
            job_id: "j".into(),
            title: "song\n.flac".into(),
            status: "failed".into(),
            error: Some("no room".into()),
            duration_ms: 2_500,
            starts: 2,
            sources: vec![source],
            key_events: vec![event],
            events: 4,
            events_left_out: 3,
            ..TraceSummary::default()
        };
        let text = report(&summary);
        for told in [
            "j  song\u{fffd}.flac\n",
            "Status      failed: no room\n",
            "Duration    2.500 s, begun 2 times\n",
            "abababababababab ",
            "2.0 MiB",
            "66.7",
            "1.0 MiB/s",
            "12.3 ms",
            "      +1.500 s  PeerConnected bob\u{fffd}[2J: the source has the file\n",
            "4 lines were kept, 3 only counted.\n",
        ] {
            assert!(text.contains(told), "{told:?} in\n{text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains(&"ab".repeat(9)));
    }
}
