//! A trace as pages and tools see it, and what they may ask.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What one source did, in figures for people.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceShare {
    /// A peer's id or a user's name; `others` for all that found no place of their own.
    pub peer_id: String,
    /// `overlay` or `soulseek`.
    pub source: String,
    /// It is there.
    pub connected: bool,
    /// Why it went, or gets no more.
    pub gone: Option<String>,
    /// Bytes that were verified first by it.
    pub bytes: u64,
    /// Its part of all bytes that came, percent.
    pub percent: f64,
    /// Runs asked for.
    pub chunks_requested: u64,
    /// Runs that came.
    pub chunks_ok: u64,
    /// Runs that failed, for whatever reason.
    pub errors: u64,
    /// Of these, runs whose lease ended.
    pub timeouts: u64,
    /// Of these, runs with a bad piece.
    pub corrupt: u64,
    /// Runs taken back by us.
    pub cancelled: u64,
    /// Runs that had failed elsewhere before.
    pub retries: u64,
    /// Pieces proven bad.
    pub bad_pieces: u64,
    /// While runs were under way, bytes per second.
    pub mean_speed_bps: u64,
    /// From a request to its first byte, milliseconds, if it was measured.
    pub rtt_ms: Option<f64>,
}

/// A part of the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceCell {
    /// Percent of it that was seen coming.
    pub percent: u8,
    /// Who sent the last of it: place in [`TraceSummary::sources`].
    pub source: Option<usize>,
    /// A piece of it came bad.
    pub bad: bool,
}

/// A job in short.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceSummary {
    /// Its name.
    pub job_id: String,
    /// What it fetches.
    pub title: String,
    /// `running`, `completed` or `failed`.
    pub status: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Of the file, if known.
    pub content_hash: Option<String>,
    /// Whether the whole file held.
    pub verified: Option<bool>,
    /// When it began, milliseconds since 1970.
    pub started_ms: u64,
    /// From the beginning to the end, or to the last line, milliseconds.
    pub duration_ms: u64,
    /// How often it began or went on.
    pub starts: u64,
    /// Length of the file, bytes; 0 if not known.
    pub size_bytes: u64,
    /// Bytes that were there before.
    pub there_bytes: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// Over the whole duration, bytes per second.
    pub mean_speed_bps: u64,
    /// Bytes from Soulseek users.
    pub soulseek_bytes: u64,
    /// Bytes from mesh peers.
    pub overlay_bytes: u64,
    /// Runs asked for.
    pub chunks_total: u64,
    /// Runs that came.
    pub chunks_ok: u64,
    /// Runs that failed.
    pub chunks_failed: u64,
    /// Runs taken back by us.
    pub chunks_cancelled: u64,
    /// Times work was taken from a source that became slow.
    pub rebalances: u64,
    /// Sources in the order in which they came.
    pub sources: Vec<SourceShare>,
    /// Parts of the file, from its beginning; empty if its length is not known.
    pub cells: Vec<TraceCell>,
    /// Lines kept.
    pub events: u64,
    /// Lines that were not kept.
    pub events_left_out: u64,
    /// The lines that tell the story: all but runs that were asked for and came.
    pub key_events: Vec<TraceLine>,
}

/// One line, flat. What does not apply is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceLine {
    /// Its number within the job, from 0.
    pub sequence: u64,
    /// Microseconds since the job began.
    pub at_us: u64,
    /// What happened, in one word of SPEC-FACTS 15.
    #[serde(rename = "type")]
    pub kind: String,
    /// `overlay` or `soulseek`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A peer's id or a user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<String>,
    /// Names the run of bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u64>,
    /// Its first byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_offset: Option<u64>,
    /// Bytes asked for, or verified first by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_length: Option<u64>,
    /// 0 to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// What the source cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// `ok`, `timeout`, `error`, `corruption` or `cancelled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// From the request to the first byte, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// From the request to the end, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// Bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput_bps: Option<u64>,
    /// Something went wrong.
    pub is_error: bool,
    /// One sentence for people, without the time and without the source.
    pub message: String,
}

/// A job with a part of its lines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceView {
    /// In short.
    pub summary: TraceSummary,
    /// Lines of this page.
    pub events: Vec<TraceLine>,
}

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceRequest {
    /// Answer: `Jobs`, the one written to last first.
    Jobs,
    /// Answer: `Names`.
    Names,
    /// Answer: `Job`.
    Job {
        /// Its name.
        job: String,
        /// Lines to skip.
        offset: u64,
        /// Lines at most; capped by `limits::TRACE_PAGE`.
        limit: usize,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum TraceAnswer {
    /// In short, without cells and key lines.
    Jobs(Vec<TraceSummary>),
    /// Of every job with a trace.
    Names(BTreeSet<String>),
    /// One job.
    Job(Box<TraceView>),
}
