//! Traces of jobs (SPEC-FACTS 15, DECISIONS 14).
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | `trace-jobs-1` | job's name | [`TraceHead`] |
//! | `traces-1` | length of the name (one byte), name, line's number (8 bytes) | [`TraceEvent`] |
//!
//! Lines are written with their head, so both say the same. A job is removed a part at a time, its head last: what a kill
//! leaves is removed later. How much is kept is decided by who writes.

use std::ops::Bound;

use heed::{RoTxn, RwTxn};

use super::records::{Record, decode, get, put};
use super::tables::{Env, Table, open_table};
use super::{Store, StoreError};
use crate::model::limits;
use crate::model::trace::{TraceEvent, TraceHead};

impl Record for TraceHead {
    const NAME: &'static str = "trace";
    const VERSION: u8 = 1;
}

impl Record for TraceEvent {
    const NAME: &'static str = "line of a trace";
    const VERSION: u8 = 1;
}

/// The tables of traces.
#[derive(Clone, Copy, Debug)]
pub struct TraceTables {
    heads: Table,
    lines: Table,
}

/// Lines with their numbers.
pub type Lines = Vec<(u64, TraceEvent)>;

fn job_key(job: &str) -> Result<(u8, &[u8]), StoreError> {
    let bytes = job.as_bytes();
    match u8::try_from(bytes.len()) {
        Ok(length) if (1..=limits::TRACE_NAME_LEN).contains(&bytes.len()) => Ok((length, bytes)),
        _ => Err(StoreError::KeyLength {
            what: "name of a job",
            length: bytes.len(),
            length_max: limits::TRACE_NAME_LEN,
        }),
    }
}

fn line_key(job: &str, sequence: u64) -> Result<Vec<u8>, StoreError> {
    let (length, name) = job_key(job)?;
    let mut key = Vec::with_capacity(name.len() + 9);
    key.push(length);
    key.extend_from_slice(name);
    key.extend_from_slice(&sequence.to_be_bytes());
    Ok(key)
}

impl TraceTables {
    /// Opens the tables, and creates those that are not there.
    pub fn open(env: &Env, txn: &mut RwTxn<'_>) -> Result<Self, StoreError> {
        Ok(Self { heads: open_table(env, txn, "trace-jobs-1")?, lines: open_table(env, txn, "traces-1")? })
    }

    /// The tables by name, for their sizes.
    pub(super) fn tables(&self) -> [(&'static str, Table); 2] {
        [("trace-jobs", self.heads), ("traces", self.lines)]
    }

    /// All jobs, by name.
    pub fn heads(&self, txn: &RoTxn<'_>) -> Result<Vec<TraceHead>, StoreError> {
        self.heads.iter(txn)?.map(|entry| decode(entry?.1)).collect()
    }

    /// How many jobs there are.
    pub fn count(&self, txn: &RoTxn<'_>) -> Result<u64, StoreError> {
        Ok(self.heads.len(txn)?)
    }

    /// One job.
    pub fn head(&self, txn: &RoTxn<'_>, job: &str) -> Result<Option<TraceHead>, StoreError> {
        job_key(job)?;
        get(self.heads, txn, job.as_bytes())
    }

    /// Lines of a job from `first` on that are `wanted`, at most so many.
    pub fn lines(
        &self,
        txn: &RoTxn<'_>,
        job: &str,
        first: u64,
        most: usize,
        wanted: impl Fn(&TraceEvent) -> bool,
    ) -> Result<Lines, StoreError> {
        let (from, to) = (line_key(job, first)?, line_key(job, u64::MAX)?);
        let range = (Bound::Included(from.as_slice()), Bound::Included(to.as_slice()));
        let mut lines = Vec::new();
        for entry in self.lines.range(txn, &range)? {
            if lines.len() >= most {
                break;
            }
            let (key, value) = entry?;
            let number = key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes)).unwrap_or_default();
            let event = decode(value)?;
            if wanted(&event) {
                lines.push((number, event));
            }
        }
        Ok(lines)
    }

    /// A head, new or replaced, and its new lines in their stored form.
    pub fn append(&self, txn: &mut RwTxn<'_>, head: &TraceHead, lines: &[(u64, Vec<u8>)]) -> Result<(), StoreError> {
        for (sequence, line) in lines {
            self.lines.put(txn, &line_key(&head.job, *sequence)?, line)?;
        }
        job_key(&head.job)?;
        put(self.heads, txn, head.job.as_bytes(), head)
    }

    /// Removes lines of a job, at most so many, and then its head. True if it is gone.
    pub fn remove_some(&self, txn: &mut RwTxn<'_>, job: &str, most: usize) -> Result<bool, StoreError> {
        let (from, to) = (line_key(job, 0)?, line_key(job, u64::MAX)?);
        let range = (Bound::Included(from.as_slice()), Bound::Included(to.as_slice()));
        let keys: Result<Vec<Vec<u8>>, StoreError> =
            self.lines.range(txn, &range)?.take(most).map(|entry| Ok(entry?.0.to_vec())).collect();
        let keys = keys?;
        for key in &keys {
            self.lines.delete(txn, key)?;
        }
        if keys.len() < most {
            self.heads.delete(txn, job.as_bytes())?;
        }
        Ok(keys.len() < most)
    }
}

impl Store {
    /// All traced jobs, by name.
    pub fn trace_heads(&self) -> Result<Vec<TraceHead>, StoreError> {
        self.read(|txn, tables| tables.traces.heads(txn))
    }

    /// One traced job.
    pub fn trace_head(&self, job: &str) -> Result<Option<TraceHead>, StoreError> {
        self.read(|txn, tables| tables.traces.head(txn, job))
    }

    /// Lines of a job from `first` on that are `wanted`, at most so many.
    pub fn trace_lines(
        &self,
        job: &str,
        first: u64,
        most: usize,
        wanted: impl Fn(&TraceEvent) -> bool,
    ) -> Result<Lines, StoreError> {
        self.read(|txn, tables| tables.traces.lines(txn, job, first, most, wanted))
    }
}
