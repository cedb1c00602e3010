//! The format number of a store, and the steps from an older one.

use std::path::Path;

use heed::types::{Bytes, Str};
use heed::{Database, RwTxn};

use super::StoreError;
use super::backup;
use super::tables::Env;

/// The format this program writes.
pub const FORMAT: u32 = 1;

/// One step from a format to the next.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// It begins with this format and ends with the one after it.
    pub from: u32,
    /// What it does, for the log.
    pub what: &'static str,
    /// Does it: reads tables by their old names, writes those of the new names, clears the old.
    pub run: fn(&Env, &mut RwTxn<'_>) -> Result<(), StoreError>,
}

/// A format and the way to it.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// The format wanted.
    pub format: u32,
    /// Steps, in any order.
    pub steps: &'static [Step],
}

impl Schema {
    /// What this program writes and reads.
    pub const CURRENT: Self = Self { format: FORMAT, steps: &[] };
}

/// The table that holds the format; its name and its form never change.
const META: &str = "meta";
const FORMAT_KEY: &str = "format";

type Meta = Database<Str, Bytes>;

/// The stored format; `None` in an environment without one.
pub(super) fn stored_format(env: &Env) -> Result<Option<u32>, StoreError> {
    let txn = env.read_txn()?;
    let Some(meta): Option<Meta> = env.open_database(&txn, Some(META))? else { return Ok(None) };
    let Some(bytes) = meta.get(&txn, FORMAT_KEY)? else { return Ok(None) };
    let bytes: [u8; 4] = bytes.try_into().map_err(|_| StoreError::RecordDamaged {
        record: FORMAT_KEY,
        reason: format!("{} bytes instead of 4", bytes.len()),
    })?;
    Ok(Some(u32::from_be_bytes(bytes)))
}

/// Writes the format into a new store, or takes an old one to the wanted format: first a copy of the whole store into
/// `before-format-N.backup`, then all steps in one transaction.
pub(super) fn bring_to(env: &Env, dir: &Path, schema: Schema, map_size_max: usize) -> Result<(), StoreError> {
    let wanted = schema.format;
    let found = stored_format(env)?;
    let steps = match found {
        None => Vec::new(),
        Some(found) if found == wanted => return Ok(()),
        Some(found) if found > wanted => return Err(StoreError::NewerFormat { found, known: wanted }),
        Some(found) => (found..wanted)
            .map(|from| schema.steps.iter().find(|step| step.from == from))
            .collect::<Option<Vec<_>>>()
            .ok_or(StoreError::NoMigration { found, wanted })?,
    };
    if found.is_some() {
        let copy = dir.join(format!("before-format-{wanted}.backup"));
        backup::copy(env, &copy, None)?;
        tracing::info!(copy = %copy.display(), "the store was copied before its migration");
    }
    loop {
        match run(env, &steps, wanted) {
            Err(StoreError::MapFull) if grow(env, map_size_max)? => {}
            other => return other,
        }
    }
}

fn run(env: &Env, steps: &[&Step], wanted: u32) -> Result<(), StoreError> {
    let mut txn = env.write_txn()?;
    for step in steps {
        tracing::info!(from = step.from, what = step.what, "migrating the store");
        (step.run)(env, &mut txn)?;
    }
    let meta: Meta = env.create_database(&mut txn, Some(META))?;
    meta.put(&mut txn, FORMAT_KEY, &wanted.to_be_bytes())?;
    Ok(txn.commit()?)
}

fn grow(env: &Env, map_size_max: usize) -> Result<bool, StoreError> {
    let size = env.info().map_size;
    let wanted = super::round_up(size.saturating_mul(2)).min(map_size_max);
    if wanted <= size {
        return Ok(false);
    }
    #[expect(unsafe_code, reason = "LMDB leaves it to the caller that no transaction is active")]
    // SAFETY: the store is being opened: this thread alone knows the environment and has no transaction.
    let resized = unsafe { env.resize(wanted) };
    resized?;
    Ok(true)
}
