//! Measuring audio files: one pass over one open file, in a process of its own that may do nothing else.
//!
//! Decides how a file is read, hashed and decoded, and what becomes of one that cannot be. A stranger's file is decoded
//! only in a worker (DESIGN decision 10): the same program, started again, locked in, given one open file after the other.
//! What the measurements mean, and which file is next, is left to others.

pub mod fingerprint;
mod flac;
mod generic;
mod input;
mod measure;
mod mp4;
mod mpeg;
mod ogg;
mod opus;
mod player;
mod pool;
mod pulse;
mod sandbox;
mod sheaf;
mod sink;
mod tagger;
mod tags;
mod text;
mod trust;
mod window;
mod wire;
mod worker;

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

pub use pool::{Pool, PoolError, Tempo, WORKER_COMMAND};
pub use sheaf::Named;
pub use tagger::{Deed, TAGGER_COMMAND, TagError, Tagger, run as run_tagger};
pub use wire::Outcome;
pub use worker::run as run_worker;

/// Opens a file to be measured: a regular file, not a link, and without leaving a trace in its access time where the
/// system allows it.
///
/// # Errors
/// The system's reason; `InvalidInput` for what is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // A pipe of that name must not make us wait for its other end.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let descriptor = match rustix::fs::open(path, flags | OFlags::NOATIME, Mode::empty()) {
        // Only its owner may leave the access time alone.
        Err(rustix::io::Errno::PERM) => rustix::fs::open(path, flags, Mode::empty())?,
        other => other?,
    };
    let file = File::from(descriptor);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}
