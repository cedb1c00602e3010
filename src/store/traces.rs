//! Traces of jobs (SPEC-FACTS 15, DECISIONS 14).
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | `trace-jobs-1` | job's name | [`TraceHead`] |
//! | `traces-1` | length of the name (one byte), name, line's number (8 bytes) | [`TraceEvent`] |
//!
//! Lines are written with their head, so both say the same. A job is removed a part at a time, its head last: what a kill
//! leaves is removed later. How much is kept is decided by who writes.

use std::collections::BTreeSet;
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

    /// The names of all jobs.
    pub fn names(&self, txn: &RoTxn<'_>) -> Result<BTreeSet<String>, StoreError> {
        self.heads.iter(txn)?.map(|entry| Ok(String::from_utf8_lossy(entry?.0).into_owned())).collect()
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

    /// The names of all traced jobs.
    pub fn trace_names(&self) -> Result<BTreeSet<String>, StoreError> {
        self.read(|txn, tables| tables.traces.names(txn))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{ContentHash, PeerId};
    use crate::model::swarm::Source;
    use crate::model::time::UnixMs;
    use crate::model::trace::{Cell, ChunkResult, Ended, SourceTally, Tally, TraceKind};
    use crate::store::StoreOptions;
    use crate::store::records::encode;

    fn event(at_us: u64) -> TraceEvent {
        TraceEvent { at_us, kind: TraceKind::Note("n".into()) }
    }

    fn head(job: &str) -> TraceHead {
        TraceHead { job: job.into(), ..TraceHead::default() }
    }

    #[tokio::test]
    async fn jobs_are_apart_and_removed_in_parts() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), StoreOptions::default()).unwrap();
        let written = store.write(|txn, tables| {
            // One name is the beginning of the other; numbers of two bytes follow those of one.
            for (job, lines) in [("a", 300), ("ab", 2), ("b", 1)] {
                let lines: Vec<_> = (0..lines).map(|n| (n, encode(&event(n)).unwrap())).collect();
                tables.traces.append(txn, &head(job), &lines)?;
            }
            Ok(())
        });
        written.await.unwrap();
        let numbers = |job: &str, first, most| {
            store.trace_lines(job, first, most, |_| true).unwrap().iter().map(|(n, _)| *n).collect::<Vec<_>>()
        };
        assert_eq!(numbers("a", 0, 1_000), (0..300).collect::<Vec<_>>());
        assert_eq!(numbers("a", 254, 4), [254, 255, 256, 257]);
        assert_eq!(numbers("ab", 0, 10), [0, 1]);
        assert_eq!(
            store.trace_lines("a", 0, 2, |event| event.at_us > 100).unwrap(),
            [(101, event(101)), (102, event(102))]
        );
        assert_eq!(store.trace_names().unwrap(), ["a", "ab", "b"].map(str::to_owned).into());

        let gone = store.write(|txn, tables| tables.traces.remove_some(txn, "a", 200)).await.unwrap();
        assert!(!gone && store.trace_head("a").unwrap().is_some(), "the head goes last");
        let gone = store.write(|txn, tables| tables.traces.remove_some(txn, "a", 200)).await.unwrap();
        assert!(gone && store.trace_head("a").unwrap().is_none() && numbers("a", 0, 10).is_empty());
        assert_eq!((numbers("ab", 0, 10), numbers("b", 0, 10)), (vec![0, 1], vec![0]));
        let long = "x".repeat(limits::TRACE_NAME_LEN + 1);
        assert!(matches!(store.trace_head(&long), Err(StoreError::KeyLength { .. })));
        assert!(matches!(store.trace_head(""), Err(StoreError::KeyLength { .. })));
    }

    #[test]
    fn the_stored_forms_are_these() {
        let kind = TraceKind::ChunkEnded {
            run: 1,
            source: Source::Soulseek("ann".into()),
            offset: 300,
            bytes: 2,
            result: ChunkResult::Corruption,
            rtt_us: Some(3),
            took_us: 4,
        };
        let golden = [&[1, 5, 6, 1, 1, 3][..], b"ann", &[0xac, 2, 2, 3, 1, 3, 4]].concat();
        assert_eq!(encode(&TraceEvent { at_us: 5, kind }).unwrap(), golden);

        let source = SourceTally {
            source: Some(Source::Mesh(PeerId([9; 32]))),
            connected: true,
            bytes: 1,
            requested: 2,
            retries: 3,
            ok: 4,
            timed_out: 5,
            failed: 6,
            corrupted: 7,
            cancelled: 8,
            bad_pieces: 9,
            rtt_us: 10,
            rtts: 11,
            active_us: 12,
            open: 13,
            open_since_us: 14,
            gone: Some("g".into()),
        };
        let tally = Tally {
            content: Some(ContentHash([7; 32])),
            size: 1,
            there: 2,
            starts: 3,
            ended: Some(Ended { at_us: 4, error: Some("e".into()) }),
            verified: Some(true),
            sources: vec![source],
            rebalances: 5,
            cells: vec![Cell { bytes: 6, source: Some(7), bad: true }],
        };
        let head = TraceHead {
            job: "j".into(),
            title: "t".into(),
            began_at: UnixMs(1),
            last_us: 2,
            lines: 3,
            bytes: 4,
            left_out: 5,
            tally,
        };
        let mut golden = vec![1, 1, b'j', 1, b't', 1, 2, 3, 4, 5, 1];
        golden.extend([7; 32]);
        golden.extend([1, 2, 3, 1, 4, 1, 1, b'e', 1, 1, 1, 1, 0]);
        golden.extend([9; 32]);
        golden.extend([1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 1, 1, b'g', 5, 1, 6, 1, 7, 1]);
        assert_eq!(encode(&head).unwrap(), golden);
    }
}
