//! What to search for. Users' clients look for every word of a query in the path of a file, and differ in what a word
//! is: punctuation may part words, vanish or stay. So the first query keeps the words as they are read, the next ones
//! leave out whatever could be read differently.

use crate::engine::catalog::matching::normal;
use crate::model::job::{JobTrack, MbRelease};

/// Words of an artist in a query. Chosen: four find Godspeed You! Black Emperor.
const ARTIST_WORDS: usize = 4;
/// Words of a title; a longer one would only add chances to differ.
const TITLE_WORDS: usize = 6;
/// Letters a query must have in all; a shorter one would find everything.
const LETTERS_MIN: usize = 3;
/// A title alone is searched for only with so many letters.
const ALONE_MIN: usize = 8;

/// A word, and whether it had anything in it that clients may read differently.
struct Word {
    text: String,
    is_plain: bool,
}

/// The words of a text. What stands in brackets is left out where something else stands outside of them.
fn words(text: &str) -> Vec<Word> {
    let outside = without_brackets(text);
    let text = if outside.trim().is_empty() { text } else { &outside };
    let mut words = Vec::new();
    for piece in
        text.split(|c: char| c.is_whitespace() || matches!(c, '-' | '/' | '\\' | ':' | ',' | '\u{2010}'..='\u{2015}'))
    {
        let parts: Vec<&str> = piece.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()).collect();
        // `S.M.A.R.T.` and `!!!` have no part that stands for them; of `Don't` it is the longest.
        let Some(longest) = parts.iter().rev().max_by_key(|part| part.chars().count()) else { continue };
        let inner = piece.trim_matches(|c: char| !c.is_alphanumeric());
        let is_plain = inner.is_ascii() && inner.bytes().all(|byte| byte.is_ascii_alphanumeric());
        // One letter of a wide script is a word.
        if is_plain || longest.chars().count() > 1 || !longest.is_ascii() {
            words.push(Word { text: (*longest).to_owned(), is_plain });
        }
    }
    words
}

fn without_brackets(text: &str) -> String {
    let (mut out, mut depth) = (String::with_capacity(text.len()), 0_u32);
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => depth = depth.saturating_add(1),
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out
}

/// Whether the artist stands for many.
pub fn is_various(artist: &str) -> bool {
    matches!(normal(artist).as_str(), "various artists" | "various" | "va" | "" | "unknown" | "[unknown]")
}

/// The queries for an artist's title, from the most telling one on; the artist may be empty.
fn ladder(artist: &str, title: &str) -> Vec<String> {
    let text = |words: &[&Word]| words.iter().map(|word| word.text.to_lowercase()).collect::<Vec<_>>().join(" ");
    let (artist, title) = (words(artist), words(title));
    let first =
        |words: &[Word], count: usize| words.iter().take(count).map(|w| w.text.to_lowercase()).collect::<Vec<_>>();
    let whole = [first(&artist, ARTIST_WORDS), first(&title, TITLE_WORDS)].concat().join(" ");
    let is_article =
        |word: &&Word| matches!(word.text.to_lowercase().as_str(), "the" | "a" | "an" | "and" | "feat" | "ft");
    let plain = |words: &[Word], count: usize| {
        // A single letter may be what is left of a word, as the N of Guns N' Roses.
        let is_telling = |word: &&Word| word.is_plain && word.text.len() > 1 && !is_article(word);
        let kept: Vec<&Word> = words.iter().filter(is_telling).take(count).collect();
        text(&kept)
    };
    let careful = join(&plain(&artist, ARTIST_WORDS), &plain(&title, TITLE_WORDS - 2));
    // Letters without their accents, for those who write them so.
    let bare = |words: &[Word], count: usize| {
        let words = words.iter().take(count).map(|word| normal(&word.text)).filter(|word| word.len() > 1);
        words.collect::<Vec<_>>().join(" ")
    };
    let folded = join(&bare(&artist, ARTIST_WORDS), &bare(&title, TITLE_WORDS));
    let mut ladder = vec![whole, folded, careful];
    let alone = plain(&title, TITLE_WORDS);
    if alone.len() >= ALONE_MIN && !artist.is_empty() {
        ladder.push(alone);
    }
    ladder
}

fn join(a: &str, b: &str) -> String {
    format!("{a} {b}").trim().to_owned()
}

fn told_once(queries: Vec<String>) -> Vec<String> {
    let mut once: Vec<String> = Vec::new();
    for query in queries {
        let letters = query.chars().filter(|c| c.is_alphanumeric()).count();
        // One letter of a wide script is a word.
        let enough = letters >= LETTERS_MIN || (!query.is_ascii() && letters > 1);
        if enough && !once.contains(&query) {
            once.push(query);
        }
    }
    once
}

/// For the release as a whole.
pub fn for_release(spec: &MbRelease) -> Vec<String> {
    if !is_various(&spec.artist) {
        return told_once(ladder(&spec.artist, &spec.title));
    }
    let mut queries = ladder("", &spec.title);
    // Without any artist nobody says that there are many.
    let with = queries.first().filter(|_| !spec.artist.is_empty()).map(|first| format!("various {first}"));
    // A short title finds too much alone.
    if let Some(with) = with {
        if words(&spec.title).len() < 2 { queries.insert(0, with) } else { queries.push(with) }
    }
    told_once(queries)
}

/// For one track, when no album folder had it.
pub fn for_track(spec: &MbRelease, track: &JobTrack) -> Vec<String> {
    let artist = if track.artist.is_empty() { &spec.artist } else { &track.artist };
    let artist = if is_various(artist) { "" } else { artist.as_str() };
    told_once(ladder(artist, &track.title))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::jobs::fixtures::{spec, track};

    fn release(artist: &str, title: &str) -> Vec<String> {
        for_release(&spec(artist, title, &[]))
    }

    #[test]
    fn punctuation_parts_words_or_leaves_them_out() {
        assert_eq!(
            release("Guns N\u{2019} Roses", "Don't Damn Me (Deluxe Edition)"),
            ["guns n roses don damn me", "guns roses don damn me", "guns roses damn me"]
        );
        assert_eq!(release("Björk", "Vespertine"), ["björk vespertine", "bjork vespertine", "vespertine"]);
        assert_eq!(release("AC/DC", "Back in Black"), ["ac dc back in black", "back in black"]);
        assert_eq!(release("!!!", "Louden Up Now"), ["louden up now"]);
        assert_eq!(release("Sigur Rós", "( )"), ["sigur rós", "sigur ros", "sigur"]);
        // Nothing in it excludes or wildcards.
        assert!(release("-ziq *word", "+plus -minus").iter().all(|query| !query.contains(['-', '*', '+'])));
    }

    #[test]
    fn various_artists_are_not_searched_for_by_name() {
        assert_eq!(release("Various Artists", "Warp 10"), ["warp 10", "various warp 10"]);
        assert_eq!(release("Various Artists", "Antics")[0], "various antics");
        let album = spec("Various Artists", "Warp 10", &[]);
        let one = track(1, 1, "Windowlicker", "Aphex Twin", 1);
        assert_eq!(for_track(&album, &one)[0], "aphex twin windowlicker");
    }

    #[test]
    fn long_titles_are_cut() {
        let long = "When the Pawn Hits the Conflicts He Thinks Like a King What He Knows Throws the Blows";
        let queries = release("Fiona Apple", long);
        assert_eq!(queries[0], "fiona apple when the pawn hits the conflicts");
        assert!(queries.iter().all(|query| query.split(' ').count() <= ARTIST_WORDS + TITLE_WORDS));
    }

    #[test]
    fn what_would_find_everything_is_not_asked() {
        assert_eq!(release("", "A"), [""; 0]);
        assert_eq!(release("\u{5cac}", "\u{5927}"), ["\u{5cac} \u{5927}"]);
    }
}
