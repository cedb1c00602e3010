//! Piece lists: the BLAKE3 chaining value of each 64 KiB piece of a file.
//!
//! Anybody can fold a list into the file's hash, which proves every entry, whoever sent it. So each piece can be checked
//! alone. A file of one piece has no list: its hash is enough.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::model::id::ContentHash;
use crate::model::limits;

pub use crate::engine::mesh::exchange::PIECE_LEN;

/// Why bytes are not the piece list of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Of another number of pieces.
    #[error("a piece list of {found} bytes where a file of {size} bytes has one of {wanted}")]
    Length {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        wanted: u64,
        /// Of the file.
        size: u64,
    },
    /// It folds to another hash: somebody lies.
    #[error("the piece list folds to {0}")]
    Root(ContentHash),
    /// Longer than `limits::PIECE_LIST_LEN`.
    #[error("a file of {0} bytes is too large")]
    TooLarge(u64),
}

/// Collects the list of a file, piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    values: Vec<ChainingValue>,
    size: u64,
    /// The hash of the first piece as a whole file: a file of one piece has only that.
    single: Option<ContentHash>,
}

impl Pieces {
    /// The next piece. All but the last have [`PIECE_LEN`] bytes.
    pub fn add(&mut self, piece: &[u8]) {
        if self.values.is_empty() {
            self.single = Some(ContentHash(blake3::hash(piece).into()));
        }
        self.values.push(value_of(piece, self.size));
        self.size += piece.len() as u64;
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.values.len()
    }

    /// Bytes of all of them.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Folds the list as anybody would who was sent it.
    pub fn root(&self) -> ContentHash {
        match (self.values.as_slice(), self.single) {
            ([] | [_], single) => single.unwrap_or(ContentHash(blake3::hash(&[]).into())),
            (several, _) => root_of(several),
        }
    }

    /// As it is sent.
    pub fn into_bytes(self) -> Vec<u8> {
        self.values.into_flattened()
    }
}

/// The list of a file, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceList {
    content: ContentHash,
    size: u64,
    /// Empty for a file of one piece.
    values: Vec<ChainingValue>,
}

impl PieceList {
    /// Whether a file of this length can be fetched by pieces.
    ///
    /// # Errors
    /// Its list would be too long.
    pub fn fits(size: u64) -> Result<(), ListError> {
        let wanted = size.div_ceil(PIECE_LEN).saturating_mul(32);
        if wanted > limits::PIECE_LIST_LEN as u64 { Err(ListError::TooLarge(size)) } else { Ok(()) }
    }

    /// The list of a file that needs none; `None` for a longer file.
    pub fn single(content: ContentHash, size: u64) -> Option<Self> {
        (size <= PIECE_LEN).then_some(Self { content, size, values: Vec::new() })
    }

    /// Proves a list.
    ///
    /// # Errors
    /// It is not the list of this file.
    pub fn prove(content: ContentHash, size: u64, bytes: &[u8]) -> Result<Self, ListError> {
        Self::proves(content, size, bytes)?;
        if let Some(single) = Self::single(content, size) {
            return Ok(single);
        }
        Ok(Self { content, size, values: bytes.as_chunks::<32>().0.to_vec() })
    }

    /// The same, without another copy.
    ///
    /// # Errors
    /// As there.
    pub fn proves(content: ContentHash, size: u64, bytes: &[u8]) -> Result<(), ListError> {
        Self::fits(size)?;
        if size <= PIECE_LEN {
            return Ok(());
        }
        let wanted = size.div_ceil(PIECE_LEN) * 32;
        let (values, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() || values.len() as u64 * 32 != wanted {
            return Err(ListError::Length { found: bytes.len(), wanted, size });
        }
        let root = root_of(values);
        if root == content { Ok(()) } else { Err(ListError::Root(root)) }
    }

    /// Of which file.
    pub fn content(&self) -> ContentHash {
        self.content
    }

    /// Length of the file, bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Pieces of the file. An empty file has none.
    pub fn pieces(&self) -> usize {
        if self.values.is_empty() { usize::from(self.size > 0) } else { self.values.len() }
    }

    /// Bytes of a piece; 0 where there is none.
    pub fn piece_len(&self, piece: usize) -> usize {
        let left = self.size.saturating_sub((piece as u64).saturating_mul(PIECE_LEN));
        usize::try_from(left.min(PIECE_LEN)).unwrap_or(0)
    }

    /// Whether these bytes are this piece.
    pub fn holds(&self, piece: usize, bytes: &[u8]) -> bool {
        if bytes.len() != self.piece_len(piece) || bytes.is_empty() {
            return false;
        }
        match self.values.get(piece) {
            Some(value) => value_of(bytes, piece as u64 * PIECE_LEN) == *value,
            None => piece == 0 && self.values.is_empty() && blake3::hash(bytes).as_bytes() == &self.content.0,
        }
    }

    /// As it is sent and kept; empty for a file of one piece.
    pub fn bytes(&self) -> &[u8] {
        self.values.as_flattened()
    }
}

fn value_of(piece: &[u8], offset: u64) -> ChainingValue {
    // An empty file has no subtree, only a root; its value stands for nothing.
    if piece.is_empty() {
        return [0; 32];
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(piece).finalize_non_root()
}

/// Of two pieces or more.
fn root_of(values: &[ChainingValue]) -> ContentHash {
    let (left, right) = values.split_at(left_count(values.len()));
    ContentHash(merge_subtrees_root(&fold(left), &fold(right), Mode::Hash).into())
}

fn fold(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [] => [0; 32],
        [only] => *only,
        several => {
            let (left, right) = several.split_at(left_count(several.len()));
            merge_subtrees_non_root(&fold(left), &fold(right), Mode::Hash)
        }
    }
}

/// Pieces of the left subtree: the largest power of two that leaves some for the right.
fn left_count(count: usize) -> usize {
    count.div_ceil(2).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 64 * 1024;

    fn list_of(bytes: &[u8]) -> (ContentHash, Vec<u8>) {
        let mut pieces = Pieces::default();
        bytes.chunks(LEN).for_each(|piece| pieces.add(piece));
        assert_eq!((pieces.size(), pieces.count()), (bytes.len() as u64, bytes.len().div_ceil(LEN)));
        (pieces.root(), pieces.into_bytes())
    }

    #[test]
    fn every_piece_of_every_shape_is_proven() {
        let bytes: Vec<u8> = (0..=9 * LEN).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for len in [1, LEN - 1, LEN, LEN + 1, 2 * LEN, 3 * LEN + 7, 5 * LEN, 9 * LEN + 1] {
            let bytes = &bytes[..len];
            let (root, list) = list_of(bytes);
            assert_eq!(root.0, *blake3::hash(bytes).as_bytes(), "{len}");
            let list = PieceList::prove(root, len as u64, &list).unwrap();
            assert_eq!(list.pieces(), len.div_ceil(LEN));
            for (at, piece) in bytes.chunks(LEN).enumerate() {
                assert!(list.holds(at, piece), "{len} {at}");
                let mut wrong = piece.to_vec();
                wrong[0] ^= 1;
                assert!(!list.holds(at, &wrong));
                assert!(!list.holds(at, &piece[1..]));
                assert!(!list.holds(list.pieces(), piece));
            }
        }
        let empty = PieceList::prove(ContentHash(*blake3::hash(&[]).as_bytes()), 0, &[]).unwrap();
        assert_eq!((empty.pieces(), empty.holds(0, &[])), (0, false));
    }

    #[test]
    fn lies_are_found_out() {
        let bytes = vec![5; 4 * LEN];
        let (root, list) = list_of(&bytes);
        let size = bytes.len() as u64;
        assert!(matches!(PieceList::prove(root, size + 1, &list), Err(ListError::Length { .. })));
        assert!(matches!(PieceList::prove(root, size, &list[1..]), Err(ListError::Length { .. })));
        assert!(matches!(PieceList::prove(ContentHash([0; 32]), size, &list), Err(ListError::Root(_))));
        let mut bent = list.clone();
        bent[70] ^= 4;
        assert!(matches!(PieceList::prove(root, size, &bent), Err(ListError::Root(_))));
        assert_eq!(PieceList::fits(1 << 32), Ok(()));
        assert_eq!(PieceList::fits((1 << 32) + 1), Err(ListError::TooLarge((1 << 32) + 1)));
        assert!(PieceList::prove(root, u64::MAX, &list).is_err());
    }
}
