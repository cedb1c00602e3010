//! What a job came to.

use super::line::{ms, speed};
use super::tally::cell_bytes;
use crate::model::swarm::Source;
use crate::model::trace::{SourceShare, SourceTally, TraceCell, TraceHead, TraceLine, TraceSummary};

/// A job in short, without cells and key lines.
pub fn short(head: &TraceHead) -> TraceSummary {
    let tally = &head.tally;
    let status = match &tally.ended {
        None => "running",
        Some(ended) if ended.error.is_some() => "failed",
        Some(_) => "completed",
    };
    let sum =
        |pick: fn(&SourceTally) -> u64| tally.sources.iter().fold(0_u64, |sum, one| sum.saturating_add(pick(one)));
    let bytes = sum(|one| one.bytes);
    let from = |network: &str| {
        let of = |one: &&SourceTally| network_of(one) == network;
        tally.sources.iter().filter(of).fold(0_u64, |sum, one| sum.saturating_add(one.bytes))
    };
    let took_us = tally.ended.as_ref().map_or(head.last_us, |ended| ended.at_us);
    TraceSummary {
        job_id: head.job.clone(),
        title: head.title.clone(),
        status: status.to_owned(),
        error: tally.ended.as_ref().and_then(|ended| ended.error.clone()),
        content_hash: tally.content.map(|content| content.to_string()),
        verified: tally.verified,
        started_ms: head.began_at.0,
        duration_ms: took_us / 1_000,
        starts: tally.starts,
        size_bytes: tally.size,
        there_bytes: tally.there,
        bytes,
        mean_speed_bps: speed(bytes, took_us).unwrap_or(0),
        soulseek_bytes: from("soulseek"),
        overlay_bytes: from("overlay"),
        chunks_total: sum(|one| one.requested),
        chunks_ok: sum(|one| one.ok),
        chunks_failed: sum(failed),
        chunks_cancelled: sum(|one| one.cancelled),
        rebalances: tally.rebalances,
        sources: tally.sources.iter().map(|one| share(one, bytes)).collect(),
        cells: Vec::new(),
        events: head.lines,
        events_left_out: head.left_out,
        key_events: Vec::new(),
    }
}

/// A job with its picture and its story.
pub fn summarize(head: &TraceHead, key_events: Vec<TraceLine>) -> TraceSummary {
    let cells = head.tally.cells.iter().enumerate().map(|(index, cell)| TraceCell {
        percent: percent(cell.bytes, cell_bytes(head.tally.size, index)),
        source: cell.source.map(usize::from),
        bad: cell.bad,
    });
    TraceSummary { cells: cells.collect(), key_events, ..short(head) }
}

fn failed(one: &SourceTally) -> u64 {
    one.timed_out.saturating_add(one.failed).saturating_add(one.corrupted)
}

/// Only mesh peers come in such numbers that some find no place of their own.
fn network_of(one: &SourceTally) -> &'static str {
    one.source.as_ref().map_or("overlay", Source::network)
}

/// Whole percent; not 100 before everything is there.
fn percent(part: u64, whole: u64) -> u8 {
    u8::try_from(u128::from(part) * 100 / u128::from(whole.max(1))).unwrap_or(100)
}

fn share(one: &SourceTally, all: u64) -> SourceShare {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let percent = if all == 0 { 0.0 } else { (one.bytes as f64 / all as f64 * 1_000.0).round() / 10.0 };
    SourceShare {
        peer_id: one.source.as_ref().map_or_else(|| "others".to_owned(), Source::to_string),
        source: network_of(one).to_owned(),
        connected: one.connected,
        gone: one.gone.clone(),
        bytes: one.bytes,
        percent,
        chunks_requested: one.requested,
        chunks_ok: one.ok,
        errors: failed(one),
        timeouts: one.timed_out,
        corrupt: one.corrupted,
        cancelled: one.cancelled,
        retries: one.retries,
        bad_pieces: one.bad_pieces,
        mean_speed_bps: speed(one.bytes, one.active_us).unwrap_or(0),
        rtt_ms: one.rtt_us.checked_div(one.rtts).map(ms),
    }
}
