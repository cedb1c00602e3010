//! Comparing Chromaprint fingerprints: the same sound in another coding differs in some bits of some words.
//!
//! Decides how alike two fingerprints are and which few of thousands are worth comparing. Computing one is the probe's
//! work.

use std::collections::{BTreeMap, BTreeSet};

/// Up to this share of differing bits it is the same recording (SPEC-FACTS 1).
pub const SAME_MAX: f32 = 0.15;
/// Up to this share it may be (SPEC-FACTS 1).
pub const UNSURE_MAX: f32 = 0.30;
/// Words that must lie beside one another for a comparison to mean anything: about 5 s.
pub const OVERLAP_MIN: usize = 40;
/// Keys of one fingerprint in the local index.
pub const KEYS_MAX: usize = 64;
/// Candidates counted at once by [`rank`]; further ones are left out.
pub const CANDIDATES_MAX: usize = 4_096;
/// Bits of a word that make a key.
const KEY_BITS: u32 = 24;

/// What a comparison says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The same recording.
    Same,
    /// It may be: something else must decide.
    Unsure,
    /// Another one.
    Different,
}

/// How two fingerprints lie best beside one another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likeness {
    /// Share of differing bits, 0..=1.
    pub error_rate: f32,
    /// Words by which the second lags: word `i` of the first lies on word `i + offset` of the second.
    pub offset: isize,
    /// Words compared.
    pub overlap: usize,
}

impl Likeness {
    /// What the error rate says.
    pub fn verdict(&self) -> Verdict {
        if self.error_rate <= SAME_MAX {
            Verdict::Same
        } else if self.error_rate <= UNSURE_MAX {
            Verdict::Unsure
        } else {
            Verdict::Different
        }
    }
}

/// The best of all placements within `offset_max` words (about 0.124 s each). `None` when fewer than [`OVERLAP_MIN`]
/// words ever lie beside one another.
pub fn compare(a: &[u32], b: &[u32], offset_max: usize) -> Option<Likeness> {
    let offsets = (0..=offset_max).flat_map(|by| if by == 0 { vec![(0, 0)] } else { vec![(0, by), (by, 0)] });
    let mut best: Option<(u32, Likeness)> = None;
    for (skip_a, skip_b) in offsets {
        let (Some(a), Some(b)) = (a.get(skip_a..), b.get(skip_b..)) else { continue };
        let overlap = a.len().min(b.len());
        if overlap < OVERLAP_MIN {
            continue;
        }
        let wrong: u32 = a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum();
        #[expect(clippy::cast_precision_loss, reason = "words of 120 s")]
        let error_rate = wrong as f32 / (overlap as f32 * 32.0);
        if best.as_ref().is_none_or(|(_, best)| error_rate < best.error_rate) {
            best = Some((wrong, Likeness { error_rate, offset: skip_b.cast_signed() - skip_a.cast_signed(), overlap }));
        }
    }
    best.map(|(_, best)| best)
}

/// The keys under which the local index holds a fingerprint, and by which it is looked up: at most [`KEYS_MAX`].
///
/// Of the words' top 24 bits those that come first in a scrambled order that depends on nothing but the bits: where two
/// fingerprints share words, they mostly choose the same ones, wherever in the track they stand.
pub fn index_keys(words: &[u32]) -> BTreeSet<u32> {
    let mut chosen = BTreeMap::new();
    for word in words {
        let key = word >> (32 - KEY_BITS);
        chosen.insert(scrambled(key), key);
        if chosen.len() > KEYS_MAX {
            chosen.pop_last();
        }
    }
    chosen.into_values().collect()
}

/// Candidates by the number of keys they share, most first and at most `limit`. `hits` names a candidate once for each
/// key it was found under.
pub fn rank<I: Ord + Copy>(hits: impl IntoIterator<Item = I>, limit: usize) -> Vec<(I, u32)> {
    let mut votes: BTreeMap<I, u32> = BTreeMap::new();
    for hit in hits {
        if votes.len() < CANDIDATES_MAX || votes.contains_key(&hit) {
            *votes.entry(hit).or_default() += 1;
        }
    }
    let mut ranked: Vec<_> = votes.into_iter().collect();
    ranked.sort_by_key(|&(_, votes)| std::cmp::Reverse(votes));
    ranked.truncate(limit);
    ranked
}

/// A one-to-one scrambling of 32 bits (multiply, fold, multiply), so that "first" has nothing to do with the sound.
fn scrambled(key: u32) -> u32 {
    let key = (key ^ (key >> 16)).wrapping_mul(0x9e37_79b1);
    (key ^ (key >> 15)).wrapping_mul(0x85eb_ca77)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(seed: u32, count: u32) -> Vec<u32> {
        (0..count).map(|at| scrambled(seed.wrapping_mul(7_919).wrapping_add(at))).collect()
    }

    /// One bit of each word differs, another one each time.
    fn damaged(words: &[u32]) -> Vec<u32> {
        words.iter().zip(0..).map(|(word, at)| word ^ 1 << (at % 32)).collect()
    }

    #[test]
    fn the_same_sound_is_found_at_its_offset() {
        let first = words(1, 900);
        let later = damaged(&first[5..]);
        let likeness = compare(&later, &first, 8).unwrap();
        assert_eq!((likeness.offset, likeness.overlap), (5, 895));
        assert!((likeness.error_rate - 1.0 / 32.0).abs() < 1e-6);
        assert_eq!(likeness.verdict(), Verdict::Same);
        assert_eq!(compare(&first, &later, 8).unwrap().offset, -5);
        assert_eq!(compare(&first, &words(2, 900), 8).unwrap().verdict(), Verdict::Different);
        assert_eq!(compare(&first[..39], &first, 8), None);
        assert_eq!(compare(&[], &[], usize::MAX >> 40), None);
    }

    #[test]
    fn few_keys_find_it_among_many() {
        let library: Vec<Vec<u32>> = (0..300).map(|seed| words(seed, 900)).collect();
        let keys: Vec<_> = library.iter().map(|words| index_keys(words)).collect();
        assert!(keys.iter().all(|keys| keys.len() == KEYS_MAX));
        let wanted = index_keys(&damaged(&library[77][4..]));
        let hits = wanted.iter().flat_map(|key| (0..300).filter(|&at| keys[at].contains(key)));
        assert_eq!(rank(hits, 5)[0].0, 77);
    }

    #[test]
    fn rank_is_bounded() {
        assert_eq!(rank([3, 1, 3, 2, 3, 1], 2), vec![(3, 3), (1, 2)]);
        assert_eq!(rank(0..100_000, usize::MAX).len(), CANDIDATES_MAX);
    }
}
