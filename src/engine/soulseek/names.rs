//! Names that strangers chose, made fit for our disk.
//!
//! Decides what a finished download and its folder are called. Leaves to the disk room that nothing is overwritten and
//! that the file lands below the downloads folder whatever the name (RELIABILITY-FACTS 4, row 2). Characters that only
//! Windows forbids (`?`, `*`, quotes) stay: tools look for `<downloads>/<last remote folder>/<name>` as slskd on Linux
//! lays it out. Only on a disk that refuses them they go ([`portable_name`]).

use crate::model::id::TransferId;
use crate::model::music::WireText;

/// Longest name made here, in bytes of UTF-8. Linux allows 255; the rest is for the number a taken name gets.
pub const NAME_LEN: usize = 240;

/// Longest extension that survives the cutting of a long name, in bytes with its dot.
const EXTENSION_LEN: usize = 16;

/// Folder levels kept of a destination; deeper ones are dropped.
const DESTINATION_LEVELS: usize = 8;

/// Folder of files whose path has none.
const NO_FOLDER: &str = "unsorted";

/// Names that Windows keeps for devices, with any extension.
const RESERVED: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];

/// One path component out of any text: never empty, never `.` or `..`, no separators, no control or direction
/// characters, no drive letter, no device name, at most [`NAME_LEN`] bytes with the extension kept.
pub fn safe_name(name: &str) -> String {
    let clean: String = name.chars().map(|c| if is_unfit(c) { '_' } else { c }).collect();
    let mut clean = cut(trim(&clean)).into_owned();
    if is_drive(&clean) {
        clean.replace_range(1..2, "_");
    }
    if is_reserved(&clean) {
        clean.insert(0, '_');
    }
    if clean.is_empty() { "_".to_owned() } else { clean }
}

/// As [`safe_name`], and without what exFAT and FAT refuse: for names that are ours to choose, on any disk, and for all on
/// such a disk. Elsewhere a remote file keeps its own name, which tools look for.
pub fn portable_name(name: &str) -> String {
    safe_name(&name.replace([':', '?', '"', '*', '<', '>', '|'], "_"))
}

/// The last folder of a remote folder path as one safe component; `unsorted` where there is none.
pub fn safe_folder(folder: &str) -> String {
    match parts(folder).last() {
        Some(last) => safe_name(last),
        None => NO_FOLDER.to_owned(),
    }
}

/// A destination as a person or tool typed it: safe components joined by `/`, at most eight levels. `None` where
/// nothing is left of it.
pub fn safe_destination(destination: &str) -> Option<String> {
    let levels: Vec<String> = destination
        .split(['/', '\\'])
        .filter(|level| !level.trim().is_empty() && !matches!(level.trim(), "." | ".."))
        .take(DESTINATION_LEVELS)
        .map(safe_name)
        .collect();
    (!levels.is_empty()).then(|| levels.join("/"))
}

/// Folder below the downloads folder (`/` separates levels) and name of a finished file.
pub fn layout(path: &WireText, destination: Option<&str>) -> (String, String) {
    let all = parts(path.as_str());
    let (name, folders) = all.split_last().map_or(("", &[][..]), |(name, folders)| (*name, folders));
    let folder = destination
        .and_then(safe_destination)
        .unwrap_or_else(|| folders.last().map_or_else(|| NO_FOLDER.to_owned(), |last| safe_name(last)));
    (folder, safe_name(name))
}

/// What follows the last dot of a remote path's name, in lower case; empty without one.
pub fn extension(path: &WireText) -> String {
    let all = parts(path.as_str());
    let name = all.last().copied().unwrap_or_default();
    name.rsplit_once('.').map_or_else(String::new, |(stem, extension)| {
        if stem.is_empty() { String::new() } else { extension.to_lowercase() }
    })
}

/// Name of a download's partial file in the incomplete folder. Made of our own id alone.
pub fn partial_name(id: TransferId) -> String {
    format!("{id}.part")
}

/// Components of a remote path. Backslashes separate; where there is none, slashes do (a client that shares paths of
/// its own system as they are).
fn parts(path: &str) -> Vec<&str> {
    let separator = if path.contains('\\') { '\\' } else { '/' };
    path.split(separator).filter(|part| !part.is_empty()).collect()
}

fn is_unfit(c: char) -> bool {
    c.is_control()
        || matches!(c, '/' | '\\')
        // Line and paragraph separators, then everything that turns the direction of writing: with it a name can show
        // another extension than it has.
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn is_drive(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() >= 2 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':'
}

/// Without outer spaces and final dots, which Windows and exFAT drop in silence.
fn trim(name: &str) -> &str {
    name.trim_start().trim_end_matches(|c: char| c == '.' || c.is_whitespace())
}

fn is_reserved(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_lowercase();
    let numbered = stem.strip_prefix("com").or_else(|| stem.strip_prefix("lpt"));
    RESERVED.contains(&stem.as_str())
        || numbered.is_some_and(|rest| {
            rest.chars().count() == 1 && rest.chars().all(|c| c.is_ascii_digit() || matches!(c, '¹' | '²' | '³'))
        })
}

/// At most one byte less than [`NAME_LEN`], which leaves room for the mark of a reserved name.
fn cut(name: &str) -> std::borrow::Cow<'_, str> {
    let room = NAME_LEN - 1;
    if name.len() <= room {
        return name.into();
    }
    let extension = match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= EXTENSION_LEN => &name[dot..],
        _ => "",
    };
    let mut end = room - extension.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let stem = &name[..end];
    if extension.is_empty() { trim(stem).to_owned().into() } else { format!("{stem}{extension}").into() }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_names_become_harmless() {
        for (from, to) in [
            ("01 Song.flac", "01 Song.flac"),
            ("..", "_"),
            (".", "_"),
            ("", "_"),
            ("   ", "_"),
            ("a/b\\c", "a_b_c"),
            ("../../etc/passwd", ".._.._etc_passwd"),
            ("C:evil.exe", "C_evil.exe"),
            ("Live: 1999", "Live: 1999"),
            ("What?", "What?"),
            ("nul", "_nul"),
            ("NUL.flac", "_NUL.flac"),
            ("Com1.mp3", "_Com1.mp3"),
            ("com¹", "_com¹"),
            ("lpt10", "lpt10"),
            ("comet.mp3", "comet.mp3"),
            ("name. . .", "name"),
            ("a\0b\nc\u{7f}\u{9b}", "a_b_c__"),
            ("gpj\u{202e}3pm.exe", "gpj_3pm.exe"),
            ("Fj\u{fffd}rd.mp3", "Fj\u{fffd}rd.mp3"),
            (".flac", ".flac"),
            ("日本.flac", "日本.flac"),
        ] {
            assert_eq!(safe_name(from), to, "{from:?}");
        }
    }

    #[test]
    fn long_names_keep_their_extension() {
        let name = safe_name(&format!("{}.flac", "é".repeat(300)));
        assert!(name.len() <= NAME_LEN && name.ends_with("é.flac"), "{name}");
        let name = safe_name(&format!("{}.{}", "a".repeat(300), "b".repeat(100)));
        assert_eq!(name.len(), NAME_LEN - 1);
        assert!(safe_name(&format!("nul.{}", "c".repeat(400))).len() <= NAME_LEN);
    }

    #[test]
    fn a_download_lies_in_its_last_remote_folder() {
        let check = |path: &str, destination: Option<&str>, folder: &str, name: &str| {
            assert_eq!(layout(&WireText::from(path), destination), (folder.to_owned(), name.to_owned()), "{path}");
        };
        check("music\\Artist\\Album\\01.flac", None, "Album", "01.flac");
        check("@@abc\\..\\x.mp3", None, "_", "x.mp3");
        check("x.mp3", None, "unsorted", "x.mp3");
        check("", None, "unsorted", "_");
        check("music/Artist/Album/01.flac", None, "Album", "01.flac");
        check("music\\AC/DC\\T.N.T.flac", None, "AC_DC", "T.N.T.flac");
        check("a\\b\\c.mp3", Some("Jazz/../2020\\ CON "), "Jazz/2020/_CON", "c.mp3");
        check("a\\b\\c.mp3", Some("/../"), "b", "c.mp3");
        check("a\\b\\c.mp3", Some("/etc/passwd"), "etc/passwd", "c.mp3");
        assert_eq!(safe_folder("a\\b\\"), "b");
        assert_eq!(safe_folder(""), "unsorted");
    }

    #[test]
    fn extensions_come_from_the_name() {
        for (path, expected) in [("a\\b.FLAC", "flac"), ("a.b\\c", ""), ("x\\.opus", ""), ("a\\b.tar.gz", "gz")] {
            assert_eq!(extension(&WireText::from(path)), expected, "{path}");
        }
    }

    fn is_one_component(name: &str) -> bool {
        let mut components = Path::new(name).components();
        matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_component(name in any::<String>(), odd in "[./\\\\: a\u{202e}\u{0}]{0,12}", long in "[a-z.é]{200,400}") {
            for text in [&name, &odd, &long, &format!("{odd}{name}"), &format!("{long}{odd}")] {
                let safe = safe_name(text);
                prop_assert!(is_one_component(&safe), "{text:?} became {safe:?}");
                prop_assert!(safe.len() <= NAME_LEN && !safe.chars().any(is_unfit) && !is_drive(&safe));
                prop_assert!(!safe.ends_with(['.', ' ']) && !is_reserved(&safe), "{text:?} became {safe:?}");
                let (folder, file) = layout(&WireText::from(text.as_str()), Some(text));
                prop_assert!(is_one_component(&file) && folder.split('/').all(is_one_component), "{text:?}");
            }
        }
    }
}
