//! What a download from one Soulseek user tells.
//!
//! Such a source sends by itself, so there is no line per request: what came is told in steps of [`STEP`].

use std::time::Duration;

use crate::engine::soulseek::io::{FileEvent, ReceiveEnd};
use crate::model::id::Username;
use crate::model::swarm::Source;
use crate::model::time::UnixMs;
use crate::model::trace::{ChunkResult, TraceKind};
use crate::model::transfer::{Ending, Transfer, TransferState};
use crate::model::units::MIB;

/// Bytes of one line.
const STEP: u64 = 8 * MIB;

/// What is known when bytes are about to flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The file's name, for people.
    pub title: String,
    /// When it was asked for.
    pub requested_at: UnixMs,
    user: Username,
    size: u64,
    there: u64,
    queued_at: Option<UnixMs>,
}

impl About {
    /// Out of the record that is kept before bytes may flow.
    pub fn of(record: &Transfer) -> Self {
        Self {
            title: record.path.base_name().to_owned(),
            requested_at: record.requested_at,
            user: record.user.clone(),
            size: record.size,
            there: record.bytes_done.min(record.size),
            queued_at: record.enqueued_at,
        }
    }

    /// The first lines. The last may be told with its own time.
    pub fn begins(&self) -> (TraceKind, Option<UnixMs>, TraceKind) {
        let start = TraceKind::JobStart { content: None, size: self.size, there: self.there };
        (start, self.queued_at, TraceKind::PeerDiscovered(Source::Soulseek(self.user.clone())))
    }
}

/// One attempt at a download, from its first byte on.
#[derive(Debug)]
pub struct Attempt {
    source: Source,
    size: u64,
    /// Bytes of this offset and behind it were not told yet.
    told: u64,
    since: Duration,
    position: u64,
    lines: u64,
    ended: bool,
}

impl Attempt {
    /// Bytes are about to flow.
    pub fn new(about: &About, now: Duration) -> Self {
        let (size, there) = (about.size, about.there);
        let source = Source::Soulseek(about.user.clone());
        Self { source, size, told: there, since: now, position: there, lines: 0, ended: false }
    }

    /// What the shell tells of its file.
    pub fn on_event(&mut self, event: &FileEvent, now: Duration, out: &mut Vec<TraceKind>) {
        match event {
            FileEvent::Started { offset } => {
                (self.told, self.position, self.since) = (*offset, *offset, now);
                out.push(TraceKind::PeerConnected(self.source.clone()));
            }
            FileEvent::Progress { position } => {
                self.position = self.position.max(*position);
                if self.position.saturating_sub(self.told) >= STEP {
                    self.step(ChunkResult::Ok, now, out);
                }
            }
            FileEvent::Received(end) => {
                let (position, result, why) = match end {
                    ReceiveEnd::Complete => (self.size, ChunkResult::Ok, "everything came".to_owned()),
                    ReceiveEnd::Closed { position } => {
                        (*position, ChunkResult::Error, "the user closed the connection".to_owned())
                    }
                    ReceiveEnd::OverlapDiffers => {
                        (self.position, ChunkResult::Corruption, "the user has other bytes".to_owned())
                    }
                    ReceiveEnd::DiskFull { position } => {
                        (*position, ChunkResult::Error, "no room on the disk".to_owned())
                    }
                    ReceiveEnd::DiskError(why) => (self.position, ChunkResult::Error, format!("the disk: {why}")),
                    ReceiveEnd::Stopped { position } => (*position, ChunkResult::Ok, "stopped by us".to_owned()),
                };
                self.position = self.position.max(position);
                if self.position > self.told || result != ChunkResult::Ok {
                    self.step(result, now, out);
                }
                self.ended = true;
                out.push(TraceKind::PeerDisconnected(self.source.clone(), why));
            }
            FileEvent::Synced { .. }
            | FileEvent::Sent(_)
            | FileEvent::Meant(_)
            | FileEvent::Placed(_)
            | FileEvent::Compared(_) => {}
        }
    }

    /// What the record says. True once nothing more is to be told.
    pub fn on_record(&mut self, record: &Transfer, out: &mut Vec<TraceKind>) -> bool {
        let TransferState::Completed(ending) = record.state else {
            // Another attempt begins with its own first lines.
            return self.ended && record.state != TransferState::InProgress;
        };
        let error = match ending {
            Ending::Succeeded => None,
            _ => Some(record.reason.clone().unwrap_or_else(|| record.state.name().to_owned())),
        };
        out.push(TraceKind::JobComplete(error));
        true
    }

    fn step(&mut self, result: ChunkResult, now: Duration, out: &mut Vec<TraceKind>) {
        let took = now.saturating_sub(self.since);
        out.push(TraceKind::ChunkEnded {
            run: self.lines,
            source: self.source.clone(),
            offset: self.told,
            bytes: self.position.saturating_sub(self.told),
            result,
            rtt_us: None,
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        });
        self.lines += 1;
        (self.told, self.since) = (self.position, now);
    }
}
