//! Sums over the lines of a job, as they come.

use crate::model::limits::{TRACE_CELLS, TRACE_SOURCES};
use crate::model::swarm::{Priority, Source};
use crate::model::trace::{Cell, ChunkResult, Ended, SourceTally, Tally, TraceKind};

/// A cell is no smaller than a piece.
const CELL_LEN_MIN: u64 = 64 * 1024;

/// Adds a line. `at_us` never goes back.
pub fn add(tally: &mut Tally, at_us: u64, kind: &TraceKind) {
    match kind {
        TraceKind::JobStart { content, size, there } => start(tally, at_us, (*content, *size, *there)),
        TraceKind::JobComplete(error) => {
            settle(tally, at_us);
            tally.ended = Some(Ended { at_us, error: error.clone() });
        }
        TraceKind::PeerDiscovered(source) => {
            of(tally, source);
        }
        TraceKind::PeerConnected(source) => {
            let (_, source) = of(tally, source);
            (source.connected, source.gone) = (true, None);
        }
        TraceKind::PeerDisconnected(source, why) => {
            let (_, source) = of(tally, source);
            (source.connected, source.gone) = (false, Some(why.clone()));
        }
        TraceKind::ChunkRequested { source, priority, .. } => {
            let (_, source) = of(tally, source);
            source.requested += 1;
            source.retries += u64::from(*priority == Priority::Retry);
            if source.open == 0 {
                source.open_since_us = at_us;
            }
            source.open += 1;
        }
        TraceKind::ChunkEnded { source, offset, bytes, result, rtt_us, took_us, .. } => {
            let (place, source) = of(tally, source);
            match result {
                ChunkResult::Ok => source.ok += 1,
                ChunkResult::Timeout => source.timed_out += 1,
                ChunkResult::Error => source.failed += 1,
                ChunkResult::Corruption => source.corrupted += 1,
            }
            if let Some(rtt) = rtt_us {
                source.rtt_us = source.rtt_us.saturating_add(*rtt);
                source.rtts += 1;
            }
            if source.open == 0 {
                // Nobody asked for it: a Soulseek user sends by itself.
                source.requested += 1;
                source.active_us = source.active_us.saturating_add(*took_us);
            } else {
                ended(source, at_us);
            }
            source.bytes = source.bytes.saturating_add(*bytes);
            fill(tally, *offset, *bytes, place);
        }
        TraceKind::ChunkCancelled { source, bytes, .. } => _ = cancelled(tally, at_us, source, *bytes),
        TraceKind::ChunkTakenBack { source, offset, bytes, .. } => {
            let place = cancelled(tally, at_us, source, *bytes);
            fill(tally, *offset, *bytes, place);
        }
        TraceKind::BadPiece { source, piece } => {
            let (_, source) = of(tally, source);
            source.bad_pieces += 1;
            let len = cell_len(tally.size);
            let cell = usize::try_from(piece.saturating_mul(CELL_LEN_MIN) / len).unwrap_or(usize::MAX);
            if let Some(cell) = tally.cells.get_mut(cell) {
                cell.bad = true;
            }
        }
        TraceKind::SwarmRebalanced { .. } => tally.rebalances += 1,
        TraceKind::Verified(held) => tally.verified = Some(*held),
        TraceKind::Note(_)
        | TraceKind::RescueModeActivated { .. }
        | TraceKind::RescueModeDeactivated(_)
        | TraceKind::GuardrailHit(..) => {}
    }
}

fn start(tally: &mut Tally, at_us: u64, (content, size, there): (Option<crate::model::id::ContentHash>, u64, u64)) {
    // Whatever was under way ended with the program.
    settle(tally, at_us);
    tally.starts += 1;
    tally.ended = None;
    tally.content = content.or(tally.content);
    if size != tally.size {
        tally.size = size;
        let cells = usize::try_from(size.div_ceil(cell_len(size))).unwrap_or(TRACE_CELLS);
        tally.cells = vec![Cell::default(); cells];
    }
    let came = tally.sources.iter().fold(0_u64, |sum, source| sum.saturating_add(source.bytes));
    tally.there = there.saturating_sub(came);
}

fn settle(tally: &mut Tally, at_us: u64) {
    for source in &mut tally.sources {
        if source.open > 0 {
            source.open = 1;
            ended(source, at_us);
        }
        source.connected = false;
    }
}

/// A run was taken back; the place of its source.
fn cancelled(tally: &mut Tally, at_us: u64, source: &Source, bytes: u64) -> u16 {
    let (place, source) = of(tally, source);
    source.cancelled += 1;
    source.bytes = source.bytes.saturating_add(bytes);
    ended(source, at_us);
    place
}

/// One run of a source is over.
fn ended(source: &mut SourceTally, at_us: u64) {
    source.open = source.open.saturating_sub(1);
    if source.open == 0 {
        source.active_us = source.active_us.saturating_add(at_us.saturating_sub(source.open_since_us));
        source.open_since_us = at_us;
    }
}

/// A source's place and sums; beyond [`TRACE_SOURCES`] those of all others.
fn of<'a>(tally: &'a mut Tally, source: &Source) -> (u16, &'a mut SourceTally) {
    let known = tally.sources.iter().position(|known| known.source.as_ref() == Some(source));
    let place = known.unwrap_or_else(|| {
        if tally.sources.len() < TRACE_SOURCES {
            tally.sources.push(SourceTally { source: Some(source.clone()), ..SourceTally::default() });
        } else if tally.sources.len() == TRACE_SOURCES {
            tally.sources.push(SourceTally::default());
        }
        tally.sources.len().saturating_sub(1)
    });
    (u16::try_from(place).unwrap_or(u16::MAX), &mut tally.sources[place])
}

/// Length of all cells but the last.
fn cell_len(size: u64) -> u64 {
    let pieces = size.div_ceil(CELL_LEN_MIN).max(1);
    pieces.div_ceil(TRACE_CELLS as u64).saturating_mul(CELL_LEN_MIN)
}

fn fill(tally: &mut Tally, offset: u64, bytes: u64, source: u16) {
    let (len, size) = (cell_len(tally.size), tally.size);
    let end = offset.saturating_add(bytes).min(size);
    let mut at = offset;
    while at < end {
        let index = at / len;
        let cell_end = ((index + 1).saturating_mul(len)).min(size);
        let part = cell_end.min(end) - at;
        if let Some(cell) = usize::try_from(index).ok().and_then(|index| tally.cells.get_mut(index)) {
            // The same bytes may have come twice, or been lost with the power.
            cell.bytes = cell.bytes.saturating_add(part).min(cell_end - index * len);
            cell.source = Some(source);
        }
        at += part;
    }
}

/// How long a cell of this number is, bytes.
pub(super) fn cell_bytes(size: u64, index: usize) -> u64 {
    let len = cell_len(size);
    size.saturating_sub((index as u64).saturating_mul(len)).min(len)
}
