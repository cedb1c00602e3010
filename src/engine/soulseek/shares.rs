//! Words of paths and queries, and how a query finds its files.
//!
//! Decides what a word is, what a query means, which indexed files answer it, and under which name a file of the disk
//! is advertised. It keeps nothing: whoever holds the index lends its lists through [`Postings`].
//!
//! The index is cut into blocks of [`BLOCK_IDS`] files. For each block and word there is one [`List`] of the files
//! whose path has that word: a few numbers, or one bit per file where that is shorter. A search goes through the
//! blocks, and in each begins with the shortest list.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::model::limits;
use crate::model::music::SharedFile;

/// Longest word in bytes; the rest of a longer one is ignored, in paths and queries alike. Chosen: no real word is
/// longer, and a key of the index must stay below 511 bytes.
pub const WORD_LEN: usize = 64;
/// Words of one kind in a query; a query with more is not answered. Chosen: titles with artist and album need 20.
pub const QUERY_WORDS: usize = 32;
/// Files of one block. Chosen so that a list never exceeds 1 KiB, which LMDB keeps inside its page.
pub const BLOCK_IDS: u32 = 8192;
/// Files one search looks at beyond the lists (word ends, excluded phrases); then it answers with what it has.
/// Chosen: about 5 ms on the smallest board.
pub const CANDIDATES: usize = 4_000;

/// Bytes of a list with one bit per file; a shorter list is two bytes per file.
const BITMAP_LEN: usize = BLOCK_IDS as usize / 8;

/// The normalised words of a path or query: lower case, split at everything that is neither letter nor digit.
///
/// Combining accents (U+0300 to U+036F) neither split a word nor stay in it.
pub fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric() && !is_combining(c)).filter_map(|part| {
        let mut word = String::with_capacity(part.len().min(WORD_LEN));
        for c in part.chars().flat_map(char::to_lowercase).filter(|&c| !is_combining(c)) {
            if word.len() + c.len_utf8() > WORD_LEN {
                break;
            }
            word.push(c);
        }
        (!word.is_empty()).then_some(word)
    })
}

fn is_combining(c: char) -> bool {
    ('\u{300}'..='\u{36f}').contains(&c)
}

/// What somebody searches for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Every one of these must be a word of the path. Never empty.
    pub words: Vec<String>,
    /// None of these may be (`-word`).
    pub excluded: Vec<String>,
    /// Each of these must end a word of the path (`*ord`).
    pub suffixes: Vec<String>,
}

impl Query {
    /// Reads a query. `None` without a plain word, or beyond [`limits::QUERY_LEN`] or [`QUERY_WORDS`].
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > limits::QUERY_LEN {
            return None;
        }
        let mut query = Self::default();
        for term in text.split_whitespace() {
            let list = match term.as_bytes().first() {
                Some(b'-') => &mut query.excluded,
                Some(b'*') => &mut query.suffixes,
                _ => &mut query.words,
            };
            for word in words(term) {
                if !list.contains(&word) {
                    list.push(word);
                }
            }
            if list.len() > QUERY_WORDS {
                return None;
            }
        }
        (!query.words.is_empty()).then_some(query)
    }

    /// Whether a path answers this query.
    pub fn matches(&self, path: &str) -> bool {
        let path: BTreeSet<String> = words(path).collect();
        self.words.iter().all(|word| path.contains(word))
            && !self.excluded.iter().any(|word| path.contains(word))
            && self.ends_match(&path)
    }

    /// Whether each wanted end is that of one of these words.
    fn ends_match(&self, words: &BTreeSet<String>) -> bool {
        self.suffixes.iter().all(|end| words.iter().any(|word| word.ends_with(end.as_str())))
    }
}

/// Phrases of the server: a file whose path contains one is left out of search answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phrases(Vec<String>);

impl Phrases {
    /// Takes them in any case. Empty ones, and those beyond [`limits::EXCLUDED_PHRASES`], are ignored.
    pub fn new(phrases: impl IntoIterator<Item = String>) -> Self {
        let phrases = phrases.into_iter().map(|phrase| phrase.to_lowercase()).filter(|phrase| !phrase.is_empty());
        Self(phrases.take(limits::EXCLUDED_PHRASES).collect())
    }

    /// Whether a path contains one of them, in any case.
    pub fn hide(&self, path: &str) -> bool {
        !self.0.is_empty() && {
            let path = path.to_lowercase();
            self.0.iter().any(|phrase| path.contains(phrase.as_str()))
        }
    }
}

/// A set of files of one block, by their number inside it.
#[derive(Clone, PartialEq, Eq)]
pub struct Bits([u64; BITMAP_LEN / 8]);

impl std::fmt::Debug for Bits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Default for Bits {
    fn default() -> Self {
        Self([0; BITMAP_LEN / 8])
    }
}

impl Bits {
    /// Adds a file; the number is taken modulo [`BLOCK_IDS`].
    pub fn insert(&mut self, number: u32) {
        let number = (number % BLOCK_IDS) as usize;
        self.0[number / 64] |= 1 << (number % 64);
    }

    /// Takes a file out; the number is taken modulo [`BLOCK_IDS`].
    pub fn remove(&mut self, number: u32) {
        let number = (number % BLOCK_IDS) as usize;
        self.0[number / 64] &= !(1 << (number % 64));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// How many.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// The files, rising.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0_u32..).zip(&self.0).flat_map(|(at, &word)| {
            std::iter::successors((word != 0).then_some(word), |rest| {
                let rest = rest & (rest - 1);
                (rest != 0).then_some(rest)
            })
            .map(move |rest| at * 64 + rest.trailing_zeros())
        })
    }

    /// The lowest number that is not in it.
    pub fn first_free(&self) -> Option<u32> {
        let at = self.0.iter().position(|&word| word != u64::MAX)?;
        Some(u32::try_from(at).ok()? * 64 + self.0[at].trailing_ones())
    }

    /// Keeps only what is in `other` too.
    pub fn keep(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine &= theirs);
    }

    /// Takes out all that is in `other`.
    pub fn subtract(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine &= !theirs);
    }

    /// Adds all that is in `other`.
    pub fn join(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }

    /// As kept in the index: see [`List`].
    pub fn encode(&self) -> Vec<u8> {
        if self.count() as usize * 2 < BITMAP_LEN {
            let numbers = self.iter().filter_map(|number| u16::try_from(number).ok());
            numbers.flat_map(u16::to_le_bytes).collect()
        } else {
            self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
        }
    }
}

/// The files of one block that have a word, as kept in the index: a bitmap of 1,024 bytes, or if it is shorter the
/// numbers themselves, two bytes each; little-endian both.
#[derive(Clone, Copy, Debug)]
pub struct List<'a>(&'a [u8]);

impl<'a> List<'a> {
    /// Any bytes will do; numbers out of range are taken modulo [`BLOCK_IDS`], an odd last byte is ignored.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The set.
    pub fn bits(self) -> Bits {
        let mut bits = Bits::default();
        if self.0.len() == BITMAP_LEN {
            for (word, bytes) in bits.0.iter_mut().zip(self.0.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bytes);
            }
        } else {
            for bytes in self.0.as_chunks::<2>().0 {
                bits.insert(u32::from(u16::from_le_bytes(*bytes)));
            }
        }
        bits
    }
}

/// The lists of an index at one moment.
pub trait Postings {
    /// Why a list could not be read.
    type Error;

    /// The first block with files, counted from `from` on.
    fn next_block(&self, from: u32) -> Result<Option<u32>, Self::Error>;

    /// The files of a block that have a word.
    fn list(&self, block: u32, word: &str) -> Result<Option<List<'_>>, Self::Error>;

    /// The files of a block that must not be answered at the moment.
    fn hidden(&self, block: u32) -> Result<Option<Bits>, Self::Error>;

    /// A file by its id, which is `block * BLOCK_IDS + number`. `None` if it is not there.
    fn file(&self, id: u32) -> Result<Option<SharedFile>, Self::Error>;
}

/// The files that answer a query, at most `limit`, in the order of their ids.
pub fn search<P: Postings>(
    postings: &P,
    query: &Query,
    phrases: &Phrases,
    limit: usize,
) -> Result<Vec<SharedFile>, P::Error> {
    let mut found = Vec::new();
    if query.words.is_empty() || limit == 0 {
        return Ok(found);
    }
    // A long word is likely to be rare: the first one missing from a block ends the look at that block.
    let mut by_length: Vec<&str> = query.words.iter().map(String::as_str).collect();
    by_length.sort_by_key(|word| std::cmp::Reverse(word.len()));
    let mut lists = Vec::with_capacity(by_length.len());
    let mut candidates = 0;
    let mut from = Some(0);
    while let Some(block) = from.map(|from| postings.next_block(from)).transpose()?.flatten() {
        from = block.checked_add(1);
        lists.clear();
        for word in &by_length {
            match postings.list(block, word)? {
                Some(list) => lists.push(list),
                None => break,
            }
        }
        if lists.len() < by_length.len() {
            continue;
        }
        lists.sort_by_key(|list| list.0.len());
        let mut bits = lists[0].bits();
        for list in &lists[1..] {
            bits.keep(&list.bits());
        }
        for word in &query.excluded {
            if let Some(list) = postings.list(block, word)? {
                bits.subtract(&list.bits());
            }
        }
        if bits.is_empty() {
            continue;
        }
        if let Some(hidden) = postings.hidden(block)? {
            bits.subtract(&hidden);
        }
        for number in bits.iter() {
            candidates += 1;
            if candidates > CANDIDATES {
                return Ok(found);
            }
            let id = block.saturating_mul(BLOCK_IDS).saturating_add(number);
            let Some(file) = postings.file(id)? else { continue };
            // The lists have answered for the words; ends and phrases are in no list.
            let ends_match = query.suffixes.is_empty() || query.ends_match(&words(&file.path).collect());
            if ends_match && !phrases.hide(&file.path) {
                found.push(file);
                if found.len() == limit {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

/// The form in which a name of the disk is shown to others: UTF-8 where it is, else read as Latin-1; backslashes and
/// control characters become `_`, because a backslash separates folders and the others confuse clients.
fn shown(name: &[u8]) -> Cow<'_, str> {
    let text = match std::str::from_utf8(name) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => name.iter().copied().map(char::from).collect::<String>().into(),
    };
    if text.contains(|c: char| c == '\\' || c.is_control()) {
        text.replace(|c: char| c == '\\' || c.is_control(), "_").into()
    } else {
        text
    }
}

/// Whether a name of the disk is advertised as it is, whatever lies beside it.
pub fn is_plain_name(name: &[u8]) -> bool {
    matches!(shown(name), Cow::Borrowed(_))
}

/// The names under which the entries of one folder are advertised, in the order given.
///
/// A name that can be shown as it is keeps its form. Others are made unique beside them with a number before the
/// extension, the same way whatever order they come in.
pub fn advertise<N: AsRef<[u8]>>(names: &[N]) -> Vec<String> {
    let mut forms: Vec<String> = names.iter().map(|name| shown(name.as_ref()).into_owned()).collect();
    let mut odd: Vec<usize> = (0..names.len()).filter(|&at| !is_plain_name(names[at].as_ref())).collect();
    if odd.is_empty() {
        return forms;
    }
    odd.sort_by_key(|&at| names[at].as_ref());
    let mut taken: BTreeSet<String> =
        names.iter().zip(&forms).filter(|(name, _)| is_plain_name(name.as_ref())).map(|(_, f)| f.clone()).collect();
    for at in odd {
        let form = std::mem::take(&mut forms[at]);
        let mut free = form.clone();
        let (stem, extension) = match form.rfind('.') {
            Some(dot) if dot > 0 => form.split_at(dot),
            _ => (form.as_str(), ""),
        };
        let mut count = 2_u32;
        while taken.contains(&free) {
            free = format!("{stem} ({count}){extension}");
            count = count.saturating_add(1);
        }
        taken.insert(free.clone());
        forms[at] = free;
    }
    forms
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::model::music::Attributes;

    fn check_words(text: &str, expect: &[&str]) {
        assert_eq!(words(text).collect::<Vec<_>>(), expect, "{text:?}");
    }

    #[test]
    fn words_are_lower_case_and_end_at_punctuation() {
        check_words(
            r"Music\Sigur Rós - Ágætis byrjun\01_Intro.FLAC",
            &["music", "sigur", "rós", "ágætis", "byrjun", "01", "intro", "flac"],
        );
        check_words("Don't—stop…“now”", &["don", "t", "stop", "now"]);
        check_words("ДДТ\\Осень.mp3", &["ддт", "осень", "mp3"]);
        check_words("東京事変/教育", &["東京事変", "教育"]);
        check_words("Bjo\u{308}rk ΣΊΣΥΦΟΣ İz", &["bjork", "σίσυφοσ", "iz"]);
        check_words(" -- \\ ♥ \u{301}", &[]);
        check_words(&"a".repeat(100), &["a".repeat(64).as_str()]);
        check_words(&"é".repeat(100), &["é".repeat(32).as_str()]);
    }

    fn check_query(text: &str, words: &[&str], excluded: &[&str], suffixes: &[&str]) {
        let own = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        let expect = Query { words: own(words), excluded: own(excluded), suffixes: own(suffixes) };
        assert_eq!(Query::parse(text), (!words.is_empty()).then_some(expect), "{text:?}");
    }

    #[test]
    fn queries_have_words_exclusions_and_word_ends() {
        check_query("Foo bar", &["foo", "bar"], &[], &[]);
        check_query("foo FOO Foo.bar", &["foo", "bar"], &[], &[]);
        check_query("foo -live -mp3", &["foo"], &["live", "mp3"], &[]);
        check_query("foo - bar", &["foo", "bar"], &[], &[]);
        check_query("foo -re-mix", &["foo"], &["re", "mix"], &[]);
        check_query("foo *rk", &["foo"], &[], &["rk"]);
        check_query("ÜBER-foo", &["über", "foo"], &[], &[]);
        check_query("\"exact phrase\"", &["exact", "phrase"], &[], &[]);
        for wordless in ["", "-only -excluded", "*only", "- * ♥"] {
            check_query(wordless, &[], &[], &[]);
        }
        assert_eq!(Query::parse(&"x".repeat(257)), None);
        let many = |count: u32| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert!(Query::parse(&many(32)).is_some());
        assert_eq!(Query::parse(&many(33)), None);
    }

    #[test]
    fn a_path_matches_whole_words_only() {
        for (text, expect) in [
            ("bjork homogenic", true),
            ("HOMOGENIC flac", true),
            ("homogen", false),
            ("homogenic -flac", false),
            ("homogenic -mp3", true),
            ("homogenic *nter", true),
            ("homogenic *unter *lac", true),
            ("homogenic *unte", false),
            ("homogenic 01 music", true),
        ] {
            let query = Query::parse(text).unwrap();
            assert_eq!(query.matches(r"Music\Bjork\1997 - Homogenic\01 Hunter.flac"), expect, "{text:?}");
        }
    }

    #[test]
    fn excluded_phrases_hide_in_any_case() {
        let phrases = Phrases::new(["Some BAND".to_owned(), String::new(), "Ünder".to_owned()]);
        assert!(phrases.hide(r"Music\awesome band\x.mp3"));
        assert!(phrases.hide(r"Music\ÜNDERworld\x.mp3"));
        assert!(!phrases.hide(r"Music\some\band\x.mp3"));
        assert!(!Phrases::default().hide("anything"));
        assert_eq!(Phrases::new((0..2_000).map(|n| n.to_string())).0.len(), limits::EXCLUDED_PHRASES);
    }

    #[test]
    fn odd_names_become_unique_and_plain_ones_stay() {
        let names: Vec<&[u8]> =
            vec![b"Fj\xf6rd.mp3", "Fjörd.mp3".as_bytes(), b"a\\b", b"a_b", b"a\nb", b"plain", b"\xff", b".\x01"];
        let shown = advertise(&names);
        assert_eq!(shown, ["Fjörd (2).mp3", "Fjörd.mp3", "a_b (3)", "a_b", "a_b (2)", "plain", "ÿ", "._"]);
        let mut turned = names.clone();
        turned.reverse();
        let mut again = advertise(&turned);
        again.reverse();
        assert_eq!(again, shown);
    }

    proptest! {
        #[test]
        fn sets_survive_their_bytes(numbers in prop::collection::btree_set(0..BLOCK_IDS, 0..1500)) {
            let mut bits = Bits::default();
            for &number in &numbers {
                bits.insert(number);
            }
            prop_assert_eq!(bits.count() as usize, numbers.len());
            let bytes = bits.encode();
            prop_assert!(bytes.len() <= BITMAP_LEN);
            prop_assert_eq!(List::new(&bytes).bits().iter().collect::<BTreeSet<_>>(), numbers.clone());
            let free = (0..BLOCK_IDS).find(|number| !numbers.contains(number));
            prop_assert_eq!(bits.first_free(), free);
            for &number in &numbers {
                bits.remove(number);
            }
            prop_assert!(bits.is_empty());
        }

        #[test]
        fn any_bytes_are_a_list(bytes in prop::collection::vec(any::<u8>(), 0..1100)) {
            let _ = List::new(&bytes).bits();
        }
    }

    #[test]
    fn a_full_block_has_no_free_number() {
        let mut bits = Bits::default();
        (0..BLOCK_IDS).for_each(|number| bits.insert(number));
        assert_eq!(bits.first_free(), None);
        bits.remove(77);
        assert_eq!(bits.first_free(), Some(77));
    }

    /// An index in memory, to compare with `Query::matches`.
    #[derive(Default)]
    struct Memory {
        paths: BTreeMap<u32, String>,
        lists: BTreeMap<(u32, String), Vec<u8>>,
        hidden: BTreeMap<u32, Bits>,
    }

    impl Memory {
        fn new(paths: impl IntoIterator<Item = (u32, String)>) -> Self {
            let paths: BTreeMap<u32, String> = paths.into_iter().collect();
            let mut sets: BTreeMap<(u32, String), Bits> = BTreeMap::new();
            for (id, path) in &paths {
                for word in words(path) {
                    sets.entry((id / BLOCK_IDS, word)).or_default().insert(id % BLOCK_IDS);
                }
            }
            let lists = sets.into_iter().map(|(key, bits)| (key, bits.encode())).collect();
            Self { paths, lists, hidden: BTreeMap::new() }
        }
    }

    impl Postings for Memory {
        type Error = Infallible;

        fn next_block(&self, from: u32) -> Result<Option<u32>, Infallible> {
            Ok(self.paths.range(from * BLOCK_IDS..).next().map(|(id, _)| id / BLOCK_IDS))
        }

        fn list(&self, block: u32, word: &str) -> Result<Option<List<'_>>, Infallible> {
            Ok(self.lists.get(&(block, word.to_owned())).map(|bytes| List::new(bytes)))
        }

        fn hidden(&self, block: u32) -> Result<Option<Bits>, Infallible> {
            Ok(self.hidden.get(&block).cloned())
        }

        fn file(&self, id: u32) -> Result<Option<SharedFile>, Infallible> {
            let file = |path: &String| SharedFile { path: path.clone(), size: 0, attributes: Attributes::default() };
            Ok(self.paths.get(&id).map(file))
        }
    }

    #[test]
    fn search_agrees_with_looking_at_every_path() {
        // Ids with gaps over several blocks; words of every frequency.
        let paths = (0..30_000_u32).map(|n| {
            let rare = if n % 997 == 0 { "jewel" } else { "stone" };
            (
                n * 3,
                format!("Share\\Artist {}\\Album {}\\{n:05} {rare}.{}", n % 50, n % 7, ["mp3", "flac"][n as usize % 2]),
            )
        });
        let memory = Memory::new(paths);
        for text in
            ["jewel", "jewel flac", "artist 7 -flac", "share *el", "album 3 jewel -mp3", "00000 share", "no such thing"]
        {
            let query = Query::parse(text).unwrap();
            let naive: Vec<_> = memory.paths.values().filter(|path| query.matches(path)).take(100).cloned().collect();
            let found = search(&memory, &query, &Phrases::default(), 100).unwrap();
            let found: Vec<_> = found.into_iter().map(|file| file.path).collect();
            // `*el` looks at every candidate and gives up after `CANDIDATES`; the naive way does not.
            if query.suffixes.is_empty() {
                assert_eq!(found, naive, "{text:?}");
            } else {
                assert!(naive.starts_with(&found) && !found.is_empty(), "{text:?}");
            }
        }
    }

    #[test]
    fn hidden_files_and_phrases_are_left_out() {
        let mut memory = Memory::new((0..10).map(|n| (n, format!("Share\\tune {n}.mp3"))));
        let query = Query::parse("tune").unwrap();
        let mut hidden = Bits::default();
        (0..5).for_each(|n| hidden.insert(n));
        memory.hidden.insert(0, hidden);
        let found = search(&memory, &query, &Phrases::new(["TUNE 7".to_owned()]), 100).unwrap();
        let found: Vec<_> = found.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(found, ["Share\\tune 5.mp3", "Share\\tune 6.mp3", "Share\\tune 8.mp3", "Share\\tune 9.mp3"]);
        assert_eq!(search(&memory, &query, &Phrases::default(), 2).unwrap().len(), 2);
    }
}
