//! What `slskdn hash` says about a file.
//!
//! A file's identity is its BLAKE3 hash. Its piece list holds the chaining value of each 64 KiB piece; anybody can fold
//! the list into the same hash, which proves every piece in it. Here list and hash are computed apart from one another
//! and compared, in one pass and in constant memory but for the list (32 bytes for each 64 KiB).

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::engine::swarm::list::Pieces;
use crate::model::id::ContentHash;

/// Bytes of a piece. A power of two times BLAKE3's chunk, so that every piece is a subtree.
pub const PIECE_LEN: usize = 64 * 1024;

/// What the bytes of one file come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileHashes {
    /// The file, as it was named.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// BLAKE3 of its bytes.
    #[serde(serialize_with = "hex")]
    pub content_hash: ContentHash,
    /// What its piece list folds to: the content hash.
    #[serde(serialize_with = "hex")]
    pub pieces_root: ContentHash,
    /// Pieces of 64 KiB, the last may be shorter.
    pub pieces: u64,
    /// SHA-256 of its bytes.
    #[serde(serialize_with = "hex")]
    pub sha256: Sha256Hash,
}

/// A SHA-256 hash; shown in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sha256Hash(pub [u8; 32]);

impl fmt::Display for Sha256Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn hex<S: serde::Serializer>(hash: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(hash)
}

impl fmt::Display for FileHashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.path.display())?;
        writeln!(f, "  size          {} bytes, {} pieces", self.size, self.pieces)?;
        writeln!(f, "  content hash  {}", self.content_hash)?;
        writeln!(f, "  pieces root   {}", self.pieces_root)?;
        write!(f, "  sha256        {}", self.sha256)
    }
}

/// Why a file has no hashes.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// The two computations disagree: memory or processor are at fault, not the file.
    #[error("{}: the piece list folds to {pieces_root}, the hash is {content_hash}: this machine miscalculates", path.display())]
    Disagree {
        /// The file.
        path: PathBuf,
        /// Hashed as a whole.
        content_hash: ContentHash,
        /// Folded from the pieces.
        pieces_root: ContentHash,
    },
}

/// Reads a file once and computes all of it. Blocks.
///
/// # Errors
/// When the file cannot be read, or when the machine miscalculates.
pub fn hash_file(path: &Path) -> Result<FileHashes, HashError> {
    let unreadable = |error| HashError::Unreadable { path: path.to_owned(), error };
    let mut file = File::open(path).map_err(unreadable)?;
    let mut buffer = vec![0; PIECE_LEN];
    let (mut whole, mut sha256, mut pieces) = (blake3::Hasher::new(), Sha256::new(), Pieces::default());
    loop {
        let len = read_piece(&mut file, &mut buffer).map_err(unreadable)?;
        let piece = &buffer[..len];
        whole.update(piece);
        sha256.update(piece);
        if len > 0 || pieces.size() == 0 {
            pieces.add(piece);
        }
        if len < PIECE_LEN {
            break;
        }
    }
    let content_hash = ContentHash(whole.finalize().into());
    let pieces_root = pieces.root();
    if content_hash != pieces_root {
        return Err(HashError::Disagree { path: path.to_owned(), content_hash, pieces_root });
    }
    let sha256 = Sha256Hash(sha256.finalize().into());
    let (size, pieces) = (pieces.size(), pieces.count() as u64);
    Ok(FileHashes { path: path.to_owned(), size, content_hash, pieces_root, pieces, sha256 })
}

/// A whole piece, or what is left of the file.
fn read_piece(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(bytes: &[u8]) -> FileHashes {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        hash_file(file.path()).unwrap()
    }

    #[test]
    fn every_shape_of_the_tree_folds_to_the_hash() {
        let bytes: Vec<u8> = (0..=9 * PIECE_LEN).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for pieces in 0..10 {
            for more in [0, 1, 1023, 1025] {
                let len = (pieces * PIECE_LEN + more).min(bytes.len());
                let found = hashes(&bytes[..len]);
                assert_eq!(found.content_hash.0, *blake3::hash(&bytes[..len]).as_bytes(), "{len}");
                assert_eq!(found.pieces_root, found.content_hash);
                assert_eq!((found.size, found.pieces), (len as u64, (len.div_ceil(PIECE_LEN) as u64).max(1)));
            }
        }
    }

    #[test]
    fn known_answers() {
        let empty = hashes(b"");
        assert_eq!(empty.content_hash.to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(empty.sha256.to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let abc = hashes(b"abc");
        assert_eq!(abc.content_hash.to_string(), "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
        let json = serde_json::to_value(&abc).unwrap();
        assert_eq!(json["content_hash"], abc.content_hash.to_string());
        assert_eq!(json["pieces_root"], json["content_hash"]);
        assert_eq!(json["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(abc.to_string().contains("content hash  6437b3ac"));
    }

    #[test]
    fn unreadable_files_are_named() {
        let error = hash_file(Path::new("/nonexistent/file")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/file: "), "{error}");
        assert!(hash_file(Path::new("/")).is_err());
    }
}
