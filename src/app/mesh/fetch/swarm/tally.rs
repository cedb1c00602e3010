//! What a fetch counts, keeps and shows.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::super::super::{locked, source_view};
use super::super::Progress;
use super::{KEEP, Swarm};
use crate::engine::mesh::downloader::{Downloader, State};
use crate::engine::swarm::list::PIECE_LEN;
use crate::engine::swarm::scheduler::Share;
use crate::model::mesh::SourceView;
use crate::model::swarm::Source;
use crate::model::trace::{ChunkResult, TraceKind};

/// Missing ranges that are shown.
const MISSING: usize = 16;
/// They are looked for so often.
const GAPS: Duration = Duration::from_millis(500);

/// What a fetch waits for that the rules keep from going on.
const LEASHED: &str = "it waits for its job, or max_overlay_mb_per_day is used up";

impl Swarm<'_> {
    /// Pieces of the download that this fetch helps were taken over, from this one on: so many bytes that were missing.
    pub(super) fn given(&mut self, first: usize, bytes: u64) {
        let Some(assist) = self.work.assist.as_ref().filter(|_| bytes > 0) else { return };
        let source = Source::Soulseek(assist.user.clone());
        *self.bytes.entry(source.clone()).or_default() += bytes;
        self.taken = self.taken.wrapping_add(1);
        self.trace(TraceKind::ChunkEnded {
            // Runs are numbered from below.
            run: u64::MAX - self.taken,
            source,
            offset: first as u64 * PIECE_LEN,
            bytes,
            result: ChunkResult::Ok,
            rtt_us: None,
            took_us: 0,
        });
    }

    pub(super) fn count(&mut self, source: Option<Source>, piece: usize, good: bool, first: bool) {
        let running = &self.work.running;
        let len = self.list.piece_len(piece) as u64;
        let mesh = matches!(source, Some(Source::Mesh(_)));
        if !good {
            running.bad_pieces.fetch_add(u64::from(mesh), Ordering::Relaxed);
            let peer = source.map(|source| source.to_string());
            tracing::warn!(content = %self.list.content(), piece, peer, "a peer sent a bad piece");
        } else if first {
            running.bytes_in.fetch_add(if mesh { len } else { 0 }, Ordering::Relaxed);
            if let Some(source) = source {
                *self.bytes.entry(source).or_default() += len;
            }
        }
    }

    /// Keeps what was measured.
    pub(super) async fn keep(&mut self) {
        self.keep_at = Instant::now() + KEEP;
        let records = self.scheduler.records();
        if records.is_empty() {
            return;
        }
        let running = &self.work.running;
        let now = running.parts.clock.now().wall;
        if let Err(error) = running.parts.store.learn(records, now, running.swarm.reputation.half_life).await {
            tracing::warn!(%error, "what was measured of peers could not be kept");
        }
    }

    /// The first ranges that are missing, of a fetch that helps a download: looked for now and then.
    fn look_for_gaps(&mut self) {
        if self.work.assist.is_none() || Instant::now() < self.gaps_at {
            return;
        }
        self.gaps_at = Instant::now() + GAPS;
        self.gaps = self.missing();
    }

    fn missing(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut at = 0;
        for (piece, there) in self.scheduler.verified().iter().enumerate() {
            let end = at + self.list.piece_len(piece) as u64;
            let grows = ranges.last().is_some_and(|last| last.1 == at);
            if !*there && !grows && ranges.len() >= MISSING {
                break;
            }
            match ranges.last_mut().filter(|_| grows) {
                _ if *there => {}
                Some(last) => last.1 = end,
                None => ranges.push((at, end)),
            }
            at = end;
        }
        ranges
    }

    /// The line of the user whose download this fetch helps.
    fn origin(&self) -> Option<SourceView> {
        let source = Source::Soulseek(self.work.assist.as_ref()?.user.clone());
        let bytes = self.bytes.get(&source).copied().unwrap_or(0);
        Some(SourceView {
            source,
            bytes,
            bad_pieces: 0,
            failed: 0,
            dropped: false,
            cost_milli: None,
            rate: None,
            rtt_us: 0,
            reputation_milli: 500,
            requests: 0,
            state: State::Requesting.name(),
        })
    }

    /// Bytes that are there. Asked for with every piece: only the last piece is shorter than the rest.
    fn there(&self) -> u64 {
        let last = self.list.pieces().saturating_sub(1);
        let missing = self.scheduler.left() as u64 * PIECE_LEN;
        let short = match self.scheduler.verified().last() {
            Some(false) => PIECE_LEN - self.list.piece_len(last) as u64,
            Some(true) | None => 0,
        };
        (self.list.size() + short).saturating_sub(missing)
    }

    pub(super) fn show(&mut self) {
        self.look_for_gaps();
        let now = self.now();
        let bytes = self.there();
        let view = |(source, share): (&Source, Share)| {
            let bytes = self.bytes.get(source).copied().unwrap_or(0);
            let worth = self.scheduler.worth(source, now)?;
            let state = match source {
                Source::Mesh(peer) => self.transfers.get(peer).map_or(State::Aborted, Downloader::state),
                Source::Soulseek(_) if worth.runs > 0 => State::Requesting,
                Source::Soulseek(_) => State::Completed,
            };
            Some(source_view(source.clone(), share, bytes, worth, state))
        };
        let mut sources: Vec<SourceView> = self.scheduler.shares().filter_map(view).collect();
        sources.extend(self.origin());
        let waits = match (self.scheduler.left(), self.scheduler.here()) {
            (0, _) => "the whole file is being checked",
            _ if self.work.leash.as_ref().is_some_and(|leash| leash.is_held()) => LEASHED,
            (_, 0) if self.work.users.is_empty() => "no connected peer has the file",
            (_, 0) => "no connected peer has the file, and no Soulseek user sends it yet",
            _ => "",
        };
        let twice = self.scheduler.twice();
        *locked(&self.work.progress) =
            Progress { bytes, twice, waits: waits.to_owned(), away: false, sources, missing: self.gaps.clone() };
    }
}
