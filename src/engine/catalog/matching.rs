//! Which file is which track of a release, and when two texts mean the same title.

use std::collections::BTreeSet;

use super::discogs::plain_name;
use crate::model::catalog::{Release, TrackInRelease};
use crate::model::id::RecordingId;

/// How far the lengths of two copies of one track may differ, milliseconds (SPEC-FACTS 1).
pub const TRACK_TOLERANCE_MS: u64 = 3_000;

/// A title or name as it is compared: lower case without accents, punctuation, guests and numbering of namesakes. Never
/// empty unless the text is: a title of nothing but marks keeps them.
pub fn normal(text: &str) -> String {
    let plain = plain_name(text);
    let folded = fold(&plain);
    let words: Vec<&str> = folded.split_whitespace().collect();
    let guests = |word: &&&str| matches!(**word, "feat" | "ft" | "featuring");
    let end = match words.iter().position(|word| guests(&word)) {
        None | Some(0) => words.len(),
        Some(at) => at,
    };
    let words: Vec<&str> = words[..end].to_vec();
    let words = match words.split_first() {
        Some((&"the", rest)) if !rest.is_empty() => rest.to_vec(),
        _ => words,
    };
    if words.is_empty() { plain.to_lowercase() } else { words.join(" ") }
}

/// Whether a file shared under this path, whose parts are set apart by backslashes, is called after a track: the words of
/// the title stand in its name, those of the artist anywhere.
pub fn is_called(path: &str, title: &str, artist: &str) -> bool {
    let (folder, name) = path.rsplit_once('\\').unwrap_or(("", path));
    let name = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let words = |text: &str| fold(text).split_whitespace().map(str::to_owned).collect::<BTreeSet<String>>();
    let mut there = words(name);
    let title: Vec<String> = normal(title).split_whitespace().map(str::to_owned).collect();
    if title.is_empty() || !title.iter().all(|word| there.contains(word)) {
        return false;
    }
    there.extend(words(folder));
    normal(artist).split_whitespace().all(|word| there.contains(word))
}

/// Lower case, letters and digits; everything else is a space or nothing.
fn fold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Full-width forms of ASCII.
        let c = match u32::from(c) {
            wide @ 0xff01..=0xff5e => char::from_u32(wide - 0xfee0).unwrap_or(c),
            _ => c,
        };
        match c {
            '&' | '+' => out.push_str(" and "),
            // Apostrophes, full stops of initials and accents that stand alone go without a trace.
            '\'' | '\u{2019}' | '\u{2018}' | '\u{2bc}' | '\u{b4}' | '`' | '.' | '\u{300}'..='\u{36f}' => {}
            _ if c.is_alphanumeric() => c.to_lowercase().for_each(|c| push_plain(c, &mut out)),
            _ => out.push(' '),
        }
    }
    out
}

/// A lower-case letter without its accent (Latin-1 and Latin Extended-A); others as they are.
fn push_plain(c: char, out: &mut String) {
    let plain = match c {
        '\u{e0}'..='\u{e5}' | '\u{101}' | '\u{103}' | '\u{105}' => "a",
        '\u{e6}' => "ae",
        '\u{e7}' | '\u{107}' | '\u{109}' | '\u{10b}' | '\u{10d}' => "c",
        '\u{f0}' | '\u{10f}' | '\u{111}' => "d",
        '\u{e8}'..='\u{eb}' | '\u{113}' | '\u{115}' | '\u{117}' | '\u{119}' | '\u{11b}' => "e",
        '\u{11d}' | '\u{11f}' | '\u{121}' | '\u{123}' => "g",
        '\u{125}' | '\u{127}' => "h",
        '\u{ec}'..='\u{ef}' | '\u{129}' | '\u{12b}' | '\u{12d}' | '\u{12f}' | '\u{131}' => "i",
        '\u{135}' => "j",
        '\u{137}' => "k",
        '\u{13a}' | '\u{13c}' | '\u{13e}' | '\u{142}' => "l",
        '\u{f1}' | '\u{144}' | '\u{146}' | '\u{148}' => "n",
        '\u{f2}'..='\u{f6}' | '\u{f8}' | '\u{14d}' | '\u{14f}' | '\u{151}' => "o",
        '\u{153}' => "oe",
        '\u{155}' | '\u{157}' | '\u{159}' => "r",
        '\u{15b}' | '\u{15d}' | '\u{15f}' | '\u{161}' => "s",
        '\u{df}' => "ss",
        '\u{163}' | '\u{165}' | '\u{167}' => "t",
        '\u{fe}' => "th",
        '\u{f9}'..='\u{fc}' | '\u{169}' | '\u{16b}' | '\u{16d}' | '\u{16f}' | '\u{171}' | '\u{173}' => "u",
        '\u{175}' => "w",
        '\u{fd}' | '\u{ff}' | '\u{177}' => "y",
        '\u{17a}' | '\u{17c}' | '\u{17e}' => "z",
        // What the lower case of a dotted capital I leaves behind.
        '\u{300}'..='\u{36f}' => "",
        _ => {
            out.push(c);
            return;
        }
    };
    out.push_str(plain);
}

/// Whether two texts mean the same title or name.
pub fn same_text(a: &str, b: &str) -> bool {
    a == b || normal(a) == normal(b)
}

/// Whether two lengths may be of one track. Unknown ones may.
pub fn near(a_ms: Option<u64>, b_ms: Option<u64>, tolerance_ms: u64) -> bool {
    match (a_ms, b_ms) {
        (Some(a), Some(b)) => a.abs_diff(b) <= tolerance_ms,
        _ => true,
    }
}

/// What is known of a file in the folder of a release.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// The recording it was identified as.
    pub recording: Option<RecordingId>,
    /// Medium, by tag or folder.
    pub medium: Option<u32>,
    /// Place on the medium, by tag.
    pub position: Option<u32>,
    /// By tag.
    pub title: Option<String>,
    /// By tag.
    pub artist: Option<String>,
    /// Milliseconds, measured.
    pub duration_ms: Option<u64>,
}

/// Which files are which tracks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseMatch {
    /// For each candidate its track: medium and position.
    pub tracks: Vec<Option<(u32, u32)>>,
    /// Expected tracks without a file: medium and position.
    pub missing: Vec<(u32, u32)>,
}

type Rule<'a> = &'a dyn Fn(&Candidate, &TrackInRelease) -> bool;

/// Gives every file at most one track and every track at most one file: first by recording, then by place with a length
/// within ±3 s (C26), then by title, artist and length. A copy of a track that has its file already counts as none.
pub fn match_release(release: &Release, files: &[Candidate]) -> ReleaseMatch {
    let lone = release.media.len() == 1;
    let by_recording = |file: &Candidate, track: &TrackInRelease| file.recording == Some(track.recording);
    let by_place = |file: &Candidate, track: &TrackInRelease| {
        let medium = file.medium.or(lone.then_some(track.medium));
        let known = file.duration_ms.is_some() && track.duration_ms.is_some();
        let elsewhere = file.recording.is_some_and(|recording| release.tracks().any(|t| t.recording == recording));
        medium == Some(track.medium)
            && file.position == Some(track.position)
            && known
            && !elsewhere
            && near(file.duration_ms, track.duration_ms, TRACK_TOLERANCE_MS)
    };
    let by_words = |file: &Candidate, track: &TrackInRelease| {
        let said = |text: &Option<String>, other: &str| text.as_deref().is_some_and(|text| same_text(text, other));
        let artist = file.artist.is_none() || track.artist.is_empty() || said(&file.artist, &track.artist);
        said(&file.title, &track.title) && artist && near(file.duration_ms, track.duration_ms, TRACK_TOLERANCE_MS)
    };
    let mut found: Vec<Option<(u32, u32)>> = vec![None; files.len()];
    let mut taken = BTreeSet::new();
    let rules: [Rule<'_>; 3] = [&by_recording, &by_place, &by_words];
    for rule in rules {
        for (file, place) in files.iter().zip(&mut found) {
            if place.is_some() {
                continue;
            }
            // A recording may stand twice on a release: the place in the tag decides, else the first that is free.
            let free = |track: &&TrackInRelease| !taken.contains(&(track.medium, track.position)) && rule(file, track);
            let tagged = |track: &&TrackInRelease| {
                file.position == Some(track.position) && file.medium.is_none_or(|medium| medium == track.medium)
            };
            let track = release.tracks().filter(free).find(tagged).or_else(|| release.tracks().find(free));
            if let Some(track) = track {
                taken.insert((track.medium, track.position));
                *place = Some((track.medium, track.position));
            }
        }
    }
    let places = release.tracks().filter(|track| track.is_expected()).map(|track| (track.medium, track.position));
    ReleaseMatch { tracks: found, missing: places.filter(|place| !taken.contains(place)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::catalog::musicbrainz::WireRelease;

    fn skinny_fists() -> Release {
        let json =
            include_str!("../../../tests/fixtures/musicbrainz/mb_release_lift_your_skinny_fists_us_2cd_2000.json");
        serde_json::from_str::<WireRelease>(json).unwrap().try_into().unwrap()
    }

    fn like(track: &TrackInRelease) -> Candidate {
        Candidate {
            recording: None,
            medium: Some(track.medium),
            position: Some(track.position),
            title: Some(track.title.clone()),
            artist: Some(track.artist.clone()),
            duration_ms: track.duration_ms,
        }
    }

    #[test]
    fn a_file_is_called_after_its_title_and_its_artist() {
        for (path, title, artist, called) in [
            ("m\\Nobody\\Loud\\01 - Noise.flac", "Noise", "Nobody", true),
            ("m\\Loud\\Nobody - Don't stop (live).flac", "Don\u{2019}t Stop", "The Nobody", true),
            ("m\\Nobody\\Noise (feat. Her).flac", "Noise feat. Her", "Nobody", true),
            ("m\\Nobody\\Silence.flac", "Noise", "Nobody", false),
            // The title must stand in the name itself.
            ("m\\Noise\\Nobody 02.flac", "Noise", "Nobody", false),
            ("m\\Somebody\\Noise.flac", "Noise", "Nobody", false),
            ("Noise.flac", "Noise", "", true),
            ("x.flac", "", "", false),
        ] {
            assert_eq!(is_called(path, title, artist), called, "{path}");
        }
    }

    #[test]
    fn titles_that_mean_the_same() {
        for (a, b) in [
            ("Bye\u{2010}Bye Butterfly", "Bye-Bye Butterfly"),
            ("Don\u{2019}t Stop", "dont stop"),
            ("\u{d6}stermalm", "O\u{308}stermalm"),
            ("Persuader, The", "The Persuader"),
            ("Nirvana (2)", "NIRVANA"),
            ("Song (feat. Somebody)", "Song"),
            ("Simon & Garfunkel", "Simon and Garfunkel"),
            ("\u{ff21}\u{ff22}\u{ff23}", "abc"),
            ("\u{141}\u{f3}d\u{17a}", "Lodz"),
            ("R.E.M.", "REM"),
        ] {
            assert!(same_text(a, b), "{a} / {b}: {} / {}", normal(a), normal(b));
        }
        for (a, b) in [
            ("Song (live)", "Song"),
            ("Part 1", "Part 2"),
            ("!!!", "???"),
            ("\u{30b1}\u{30a2}\u{30ec}\u{30b9}", "\u{30b1}\u{30a2}"),
            ("The The", "A"),
            ("Featuring", ""),
        ] {
            assert!(!same_text(a, b), "{a} / {b}");
        }
        assert_eq!(normal("The The"), "the");
        assert_eq!(normal("The"), "the");
    }

    #[test]
    fn a_whole_release_matches_by_any_one_rule() {
        let release = skinny_fists();
        let whole: Vec<Candidate> = release.tracks().map(like).collect();
        let places: Vec<_> = release.tracks().map(|track| Some((track.medium, track.position))).collect();
        let recordings: Vec<_> = release.tracks().map(|track| track.recording).collect();
        let check = |change: &dyn Fn(usize, &mut Candidate)| {
            let mut files = whole.clone();
            files.iter_mut().enumerate().for_each(|(at, file)| change(at, file));
            match_release(&release, &files)
        };
        let all = ReleaseMatch { tracks: places, missing: Vec::new() };
        assert_eq!(check(&|_, file| file.title = None), all, "by place");
        assert_eq!(check(&|_, file| (file.medium, file.position) = (None, None)), all, "by words");
        let bare = |at: usize, file: &mut Candidate| {
            *file = Candidate { recording: Some(recordings[at]), ..Candidate::default() };
        };
        assert_eq!(check(&bare), all, "by recording");
        let off = |ms: u64| check(&|_, file| file.duration_ms = file.duration_ms.map(|own| own + ms)).missing.len();
        assert_eq!((off(3_000), off(3_001)), (0, whole.len()), "the tolerance");
    }

    #[test]
    fn what_lacks_is_told_and_copies_take_no_second_place() {
        let release = skinny_fists();
        let first = like(release.tracks().next().unwrap());
        let found = match_release(&release, &[first.clone(), first.clone()]);
        assert_eq!(found.tracks, [Some((1, 1)), None]);
        assert_eq!(found.missing, [(1, 2), (2, 1), (2, 2)]);
        // Track 1 of which disc? With two media a place alone says nothing.
        let lost = Candidate { medium: None, title: None, ..first };
        assert_eq!(match_release(&release, &[lost]).tracks, [None]);
    }
}
