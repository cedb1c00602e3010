//! One line as people and tools read it.

use crate::model::swarm::Source;
use crate::model::trace::{ChunkResult, TraceEvent, TraceKind, TraceLine};
use crate::model::units::{Bytes, BytesPerSec};

/// Whether the line tells the story: everything but runs that were asked for, came, or were taken back.
pub fn is_key(kind: &TraceKind) -> bool {
    !matches!(
        kind,
        TraceKind::ChunkRequested { .. }
            | TraceKind::ChunkCancelled { .. }
            | TraceKind::ChunkTakenBack { .. }
            | TraceKind::ChunkEnded { result: ChunkResult::Ok, .. }
    )
}

fn result_name(result: ChunkResult) -> &'static str {
    match result {
        ChunkResult::Ok => "ok",
        ChunkResult::Timeout => "timeout",
        ChunkResult::Error => "error",
        ChunkResult::Corruption => "corruption",
    }
}

/// Milliseconds with three digits.
pub(super) fn ms(us: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let us = us as f64;
    us / 1_000.0
}

/// A cost to the digits that mean something.
fn digits(cost: f64) -> f64 {
    (cost * 1e4).round() / 1e4
}

/// Bytes per second; `None` where no time passed.
pub(super) fn speed(bytes: u64, us: u64) -> Option<u64> {
    u64::try_from(u128::from(bytes) * 1_000_000 / u128::from(if us == 0 { return None } else { us })).ok()
}

/// A line for people and tools.
pub fn line(sequence: u64, event: &TraceEvent) -> TraceLine {
    let from = |source: &Source| (Some(source.network().to_owned()), Some(source.to_string()));
    let base = |kind: &str, message: String| TraceLine {
        sequence,
        at_us: event.at_us,
        kind: kind.to_owned(),
        message,
        ..TraceLine::default()
    };
    let by = |kind: &str, who: &Source, message: String| {
        let (source, peer_id) = from(who);
        TraceLine { source, peer_id, ..base(kind, message) }
    };
    match &event.kind {
        TraceKind::JobStart { size, there, .. } => {
            let there = if *there > 0 { format!(", {} are there", Bytes(*there)) } else { String::new() };
            base("JobStart", format!("the job begins: {}{there}", Bytes(*size)))
        }
        TraceKind::JobComplete(None) => base("JobComplete", "the job is complete".to_owned()),
        TraceKind::JobComplete(Some(why)) => {
            TraceLine { is_error: true, ..base("JobComplete", format!("the job failed: {why}")) }
        }
        TraceKind::PeerDiscovered(who) => by("PeerDiscovered", who, "a source that may have the file".to_owned()),
        TraceKind::PeerConnected(who) => by("PeerConnected", who, "the source has the file".to_owned()),
        TraceKind::PeerDisconnected(who, why) => by("PeerDisconnected", who, format!("the source goes: {why}")),
        TraceKind::ChunkRequested { run, source, offset, length, priority, cost, endgame } => {
            let again = if *endgame { ", of another source too" } else { "" };
            TraceLine {
                run: Some(*run),
                chunk_offset: Some(*offset),
                chunk_length: Some(*length),
                priority: Some(priority.level()),
                cost: cost.map(digits),
                ..by("ChunkRequested", source, format!("{} at {} asked for{again}", Bytes(*length), Bytes(*offset)))
            }
        }
        TraceKind::ChunkEnded { run, source, offset, bytes, result, rtt_us, took_us } => {
            let throughput_bps = speed(*bytes, *took_us);
            let (kind, message) = match result {
                ChunkResult::Ok => {
                    let speed = throughput_bps.map(|speed| format!(", {}", BytesPerSec(speed))).unwrap_or_default();
                    ("ChunkReceived", format!("{} at {} came{speed}", Bytes(*bytes), Bytes(*offset)))
                }
                ChunkResult::Timeout => ("ChunkTimedOut", format!("the run at {} took too long", Bytes(*offset))),
                ChunkResult::Error => ("ChunkFailed", format!("the run at {} failed", Bytes(*offset))),
                ChunkResult::Corruption => ("ChunkFailed", format!("the run at {} had a bad piece", Bytes(*offset))),
            };
            TraceLine {
                run: Some(*run),
                chunk_offset: Some(*offset),
                chunk_length: Some(*bytes),
                result: Some(result_name(*result).to_owned()),
                rtt_ms: rtt_us.map(ms),
                duration_ms: Some(ms(*took_us)),
                throughput_bps,
                is_error: *result != ChunkResult::Ok,
                ..by(kind, source, message)
            }
        }
        TraceKind::ChunkCancelled { run, source, reason, bytes } => TraceLine {
            run: Some(*run),
            chunk_length: Some(*bytes),
            result: Some("cancelled".to_owned()),
            ..by("ChunkCancelled", source, format!("taken back: {}", reason.name()))
        },
        TraceKind::ChunkTakenBack { run, source, offset, bytes, reason } => TraceLine {
            run: Some(*run),
            chunk_offset: Some(*offset),
            chunk_length: Some(*bytes),
            result: Some("cancelled".to_owned()),
            ..by("ChunkCancelled", source, format!("the run at {} was taken back: {}", Bytes(*offset), reason.name()))
        },
        TraceKind::BadPiece { source, piece } => TraceLine {
            chunk_offset: Some(piece.saturating_mul(64 * 1024)),
            result: Some("corruption".to_owned()),
            is_error: true,
            ..by("Error", source, format!("piece {piece} came bad"))
        },
        TraceKind::SwarmRebalanced { source, cost_then, cost_now, runs } => TraceLine {
            cost: Some(digits(*cost_now)),
            ..by(
                "SwarmRebalanced",
                source,
                format!("the source became slow (cost {cost_then:.2}, now {cost_now:.2}): {runs} runs taken back"),
            )
        },
        TraceKind::Verified(true) => base("TrackComplete", "the whole file was checked: it is right".to_owned()),
        TraceKind::Verified(false) => {
            TraceLine { is_error: true, ..base("Error", "the whole file was checked: it is wrong".to_owned()) }
        }
        TraceKind::Note(text) => base("Note", text.clone()),
        TraceKind::RescueModeActivated { transfer, reason, manner } => base(
            "RescueModeActivated",
            format!("mesh peers help the download {transfer} ({}), {}", reason.name(), manner.name()),
        ),
        TraceKind::RescueModeDeactivated(why) => base("RescueModeDeactivated", format!("the rescue is over: {why}")),
        TraceKind::GuardrailHit(guardrail, what) => base("GuardrailHit", format!("{}: {what}", guardrail.key())),
    }
}
