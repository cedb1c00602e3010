//! Writes an update into the slot that does not run, so that a cut at any moment leaves a slot that starts.
//!
//! | Step | On the card afterwards |
//! |---|---|
//! | the whole bundle is read and checked | as before |
//! | the running slot alone may start | the old system |
//! | the other slot's files go, `slot` first | the old system |
//! | root, kernel and the rest are written, synced, read back and compared | the old system |
//! | the other slot first, with one try | the new system once, then the old one again |

use std::io::{self, Read, Seek, SeekFrom};

use ring::digest::{Context, SHA256};

use super::signify::{PublicKey, SignatureError};
use crate::engine::appliance::bundle::{self, BundleError, HEAD_LEN, Manifest, Part, ROOT, SlotFile};
use crate::engine::appliance::slots::{COPY_LEN, Slot, Slots};

/// Read and written at once.
const CHUNK_LEN: usize = 256 * 1024;
/// Left free on the boot partition: the set-up code, a line about why.
const FAT_FLOOR: u64 = 1024 * 1024;

/// Why an update was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Not for this box.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Not by whom it should be.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The file's length.
    #[error(
        "the update is {found} bytes long where its manifest says {stated}: it was cut off, or something was added"
    )]
    Length {
        /// As it is.
        found: u64,
        /// As it should be.
        stated: u64,
    },
    /// A file's hash.
    #[error("{0} in the update is not what was signed")]
    Hash(String),
    /// Another update lies where the one lay that was looked at.
    #[error("the update was replaced by another one while it was being looked at")]
    Changed,
    /// `slot` says something else than the manifest.
    #[error("slot in the update does not fit to its other files")]
    Slot,
    /// The slot is too small.
    #[error("{what} has {have} bytes, the update needs {need}")]
    Room {
        /// Which.
        what: &'static str,
        /// Bytes there are.
        have: u64,
        /// Bytes it takes.
        need: u64,
    },
    /// The card does not give back what was written.
    #[error("the card gives back {0} different from what was written: it is worn out")]
    ReadBack(String),
    /// A read or a write failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why not.
        source: io::Error,
    },
}

fn doing<T>(what: impl Into<String>, result: io::Result<T>) -> Result<T, InstallError> {
    result.map_err(|source| InstallError::Io { doing: what.into(), source })
}

/// The card. Parts are [`ROOT`] (the slot's partition) and files in the slot's folder.
pub trait Media {
    /// Both copies as they are; empty where there is none.
    fn slots(&mut self) -> io::Result<[Vec<u8>; 2]>;
    /// Writes one copy in its place, synced.
    fn write_slots(&mut self, copy: usize, bytes: &[u8; COPY_LEN]) -> io::Result<()>;
    /// Removes the slot's files, `slot` before all others, synced.
    fn clear(&mut self, slot: Slot) -> io::Result<()>;
    /// Bytes of the slot's partition, and bytes its files may have: those they have now, and what is free.
    fn room(&mut self, slot: Slot) -> io::Result<(u64, u64)>;
    /// Writes into a part.
    fn write(&mut self, slot: Slot, part: &str, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Brings a part to the card; what is read afterwards comes from there.
    fn settle(&mut self, slot: Slot, part: &str) -> io::Result<()>;
    /// Reads from a part.
    fn read(&mut self, slot: Slot, part: &str, at: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Remembers which version is about to be tried.
    fn note(&mut self, slot: Slot, version: &str) -> io::Result<()>;
}

/// Reads the copies of `slots.txt`.
///
/// # Errors
/// They cannot be read.
pub fn read_slots(media: &mut impl Media) -> io::Result<Slots> {
    let [one, two] = media.slots()?;
    Ok(Slots::read([&one, &two]))
}

/// Writes both copies, the second one first: one of them is right at any moment.
///
/// # Errors
/// They cannot be written.
pub fn write_slots(media: &mut impl Media, slots: Slots) -> io::Result<()> {
    let bytes = slots.encode();
    media.write_slots(1, &bytes)?;
    media.write_slots(0, &bytes)
}

/// Told while it goes on: the step, bytes done, bytes in all.
pub type Told<'a> = &'a mut dyn FnMut(&'static str, u64, u64);

/// Reads the head, the manifest and its signature; the bundle then stands at its first file.
///
/// # Errors
/// It is no update, or not signed with this key.
pub fn open(bundle: &mut (impl Read + Seek), key: &PublicKey) -> Result<Manifest, InstallError> {
    let found = doing("reading the update", bundle.seek(SeekFrom::End(0)))?;
    doing("reading the update", bundle.rewind())?;
    let mut head = [0; HEAD_LEN];
    if found < HEAD_LEN as u64 {
        return Err(BundleError::NoUpdate.into());
    }
    doing("reading the update", bundle.read_exact(&mut head))?;
    let (manifest_len, signature_len) = bundle::head(&head)?;
    let before = (HEAD_LEN + manifest_len + signature_len) as u64;
    if found < before {
        return Err(InstallError::Length { found, stated: before });
    }
    let (mut manifest, mut signature) = (vec![0; manifest_len], vec![0; signature_len]);
    doing("reading the update", bundle.read_exact(&mut manifest))?;
    doing("reading the update", bundle.read_exact(&mut signature))?;
    // Before a word of it is believed.
    key.check(&manifest, &signature)?;
    let manifest = Manifest::parse(&manifest)?;
    let stated = before.saturating_add(manifest.length());
    if found != stated {
        return Err(InstallError::Length { found, stated });
    }
    Ok(manifest)
}

/// Reads all files of a bundle and compares their hashes. Touches nothing.
///
/// # Errors
/// What is wrong with it.
pub fn verify(bundle: &mut (impl Read + Seek), key: &PublicKey, told: Told) -> Result<Manifest, InstallError> {
    let manifest = open(bundle, key)?;
    let (mut done, all) = (0, manifest.length());
    let (mut slot, mut signature) = (Vec::new(), Vec::new());
    for part in &manifest.parts {
        let mut keep = match part.name.as_str() {
            "slot" => Some(&mut slot),
            "slot.sig" => Some(&mut signature),
            _ => None,
        };
        copy(bundle, part, |_, bytes| {
            if let Some(keep) = &mut keep {
                keep.extend_from_slice(bytes);
            }
            done += bytes.len() as u64;
            told("checking", done, all);
            Ok(())
        })?;
    }
    // What the start program will ask.
    key.check(&slot, &signature)?;
    let about = SlotFile::parse(&slot).ok_or(InstallError::Slot)?;
    let root = manifest.parts.first().filter(|part| part.name == ROOT).ok_or(InstallError::Slot)?;
    if about.root_bytes != root.length || about.root_sha256 != root.sha256 || about.version != manifest.version {
        return Err(InstallError::Slot);
    }
    Ok(manifest)
}

/// Hands one file to `take` in chunks and checks its hash.
fn copy(
    from: &mut impl Read,
    part: &Part,
    mut take: impl FnMut(u64, &[u8]) -> Result<(), InstallError>,
) -> Result<(), InstallError> {
    let mut hash = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK_LEN];
    let mut at = 0;
    while at < part.length {
        let length = usize::try_from(part.length - at).unwrap_or(CHUNK_LEN).min(CHUNK_LEN);
        let piece = &mut chunk[..length];
        doing(format!("reading {} of the update", part.name), from.read_exact(piece))?;
        hash.update(piece);
        take(at, piece)?;
        at += length as u64;
    }
    if hash.finish().as_ref() == part.sha256 { Ok(()) } else { Err(InstallError::Hash(part.name.clone())) }
}

/// Writes a bundle that [`verify`] found right into the slot that does not run, and has it tried at the next start. Its
/// manifest and the hashes are compared again: somebody may have changed the file meanwhile, and another signed one may be
/// older, or for another board.
///
/// # Errors
/// Why it is not installed; the running slot is then the one that starts.
pub fn install(
    media: &mut impl Media,
    running: Slot,
    bundle: &mut (impl Read + Seek),
    key: &PublicKey,
    verified: &Manifest,
    told: Told,
) -> Result<(), InstallError> {
    let manifest = open(bundle, key)?;
    if manifest != *verified {
        return Err(InstallError::Changed);
    }
    let other = running.other();
    // Before the version in the other slot is given up for this one.
    let (root, fat) = doing("looking at the other slot", media.room(other))?;
    let need = manifest.parts.first().map_or(0, |part| part.length);
    if need > root {
        return Err(InstallError::Room { what: "the slot's partition", have: root, need });
    }
    let need = manifest.length() - need + FAT_FLOOR;
    if need > fat {
        return Err(InstallError::Room { what: "the boot partition", have: fat, need });
    }
    let slots = doing("reading slots.txt", read_slots(media))?;
    doing("writing slots.txt", write_slots(media, slots.alone(running)))?;
    doing("emptying the other slot", media.clear(other))?;
    let (mut done, all) = (0, manifest.length());
    for part in &manifest.parts {
        copy(bundle, part, |at, bytes| {
            doing(format!("writing {}", part.name), media.write(other, &part.name, at, bytes))?;
            done += bytes.len() as u64;
            told("writing", done, all);
            Ok(())
        })?;
        doing(format!("writing {}", part.name), media.settle(other, &part.name))?;
    }
    done = 0;
    for part in &manifest.parts {
        let mut back = Back { media, slot: other, part: &part.name, at: 0 };
        let same = copy(&mut back, part, |_, bytes| {
            done += bytes.len() as u64;
            told("comparing", done, all);
            Ok(())
        });
        match same {
            Err(InstallError::Hash(name)) => return Err(InstallError::ReadBack(name)),
            outcome => outcome?,
        }
    }
    doing("noting which version is tried", media.note(other, manifest.version.text()))?;
    doing("writing slots.txt", write_slots(media, slots.once(running)))
}

/// A part as a stream.
struct Back<'a, M> {
    media: &'a mut M,
    slot: Slot,
    part: &'a str,
    at: u64,
}

impl<M: Media> Read for Back<'_, M> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.media.read(self.slot, self.part, self.at, into)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
