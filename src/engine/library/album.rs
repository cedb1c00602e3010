//! Which folder is the album's, and which medium a file lies on: by the names people give their folders.

use super::detect::Present;
use crate::model::health::LocalPath;

/// Words a folder of one medium begins with, lower case.
const DISC_WORDS: [&str; 6] = ["cd", "disc", "disk", "dvd", "vinyl", "lp"];

/// Medium and place of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Medium, from 1.
    pub disc: Option<u32>,
    /// Place on it, from 1.
    pub position: Option<u32>,
}

/// The album's folder: the file's own, or the one above when its own is one medium's (`CD 1`, `Disc 2 - Live`).
pub fn folder(path: &LocalPath) -> &[u8] {
    let own = path.folder();
    let slash = own.iter().rposition(|byte| *byte == b'/');
    match slash {
        Some(at) if disc_number(&own[at + 1..]).is_some() => &own[..at],
        _ => own,
    }
}

/// Medium and place: the tags', and where they are silent the folder's number and the numbers the name begins with.
pub fn place(file: &Present) -> Place {
    let (medium, number) = leading_numbers(file.path.name());
    let own = file.path.folder();
    let folder_name = own.iter().rposition(|byte| *byte == b'/').map_or(own, |at| &own[at + 1..]);
    Place { disc: file.disc.or_else(|| disc_number(folder_name)).or(medium), position: file.position.or(number) }
}

/// The number of a medium's folder: a disc word, perhaps a space or sign, a number of at most two digits, then nothing
/// or something that is no letter or digit.
fn disc_number(name: &[u8]) -> Option<u32> {
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    let rest = DISC_WORDS.iter().find_map(|word| name.strip_prefix(word))?;
    let rest = rest.trim_start_matches([' ', '-', '_', '.', '#']);
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if !(1..=2).contains(&digits) || rest[digits..].starts_with(char::is_alphanumeric) {
        return None;
    }
    rest[..digits].parse().ok().filter(|number| *number > 0)
}

/// `07 Title` is place 7, `2-07 Title` (as jobs name files) place 7 of medium 2.
fn leading_numbers(name: &[u8]) -> (Option<u32>, Option<u32>) {
    let (first, rest) = leading_number(name);
    let Some(behind) = rest.strip_prefix(b"-") else { return (None, first) };
    let (second, end) = leading_number(behind);
    let digits = behind.len() - end.len();
    let is_pair = (2..=3).contains(&digits) && !end.first().is_some_and(u8::is_ascii_alphanumeric);
    match (first, second) {
        (Some(medium), Some(place)) if is_pair && medium < 100 => (Some(medium), Some(place)),
        _ => (None, first),
    }
}

/// A number of at most three digits, and what follows the digits.
fn leading_number(name: &[u8]) -> (Option<u32>, &[u8]) {
    let digits = name.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = name.split_at(digits);
    let number = std::str::from_utf8(number).ok().filter(|_| (1..=3).contains(&digits));
    (number.and_then(|text| text.parse().ok()).filter(|number| *number > 0), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mediums_folder_is_not_the_albums() {
        let check = |path: &str, album: &str| {
            assert_eq!(std::str::from_utf8(folder(&LocalPath::from(path))).unwrap(), album, "{path}");
        };
        check("/m/Artist/Album/01.flac", "/m/Artist/Album");
        check("/m/Artist/Album/CD1/01.flac", "/m/Artist/Album");
        check("/m/Artist/Album/Disc 02 - Live/01.flac", "/m/Artist/Album");
        check("/m/Artist/Album/disk-3/01.flac", "/m/Artist/Album");
        check("/m/CDs/01.flac", "/m/CDs");
        check("/m/Discovery/01.flac", "/m/Discovery");
        check("/m/LP 1999/01.flac", "/m/LP 1999");
        check("/m/CD 5th/01.flac", "/m/CD 5th");
        check("01.flac", "");
    }

    #[test]
    fn names_tell_the_place_when_tags_do_not() {
        let file = |path: &str, disc, position| Present {
            path: LocalPath::from(path),
            recording_id: None,
            disc,
            position,
            duration_ms: 0,
        };
        let at = |disc, position| Place { disc, position };
        assert_eq!(place(&file("/a/CD 2/07 - x.mp3", None, None)), at(Some(2), Some(7)));
        assert_eq!(place(&file("/a/CD 2/07 - x.mp3", Some(1), Some(3))), at(Some(1), Some(3)));
        assert_eq!(place(&file("/a/x.mp3", None, None)), at(None, None));
        assert_eq!(place(&file("/a/1984.mp3", None, None)), at(None, None));
        assert_eq!(place(&file("/a/2-02 x.flac", None, Some(2))), at(Some(2), Some(2)));
        assert_eq!(place(&file("/a/2-07.flac", None, None)), at(Some(2), Some(7)));
        assert_eq!(place(&file("/a/2-07 x.flac", Some(1), None)), at(Some(1), Some(7)));
        assert_eq!(place(&file("/a/04-Title.flac", None, None)), at(None, Some(4)));
        assert_eq!(place(&file("/a/04-1984.flac", None, None)), at(None, Some(4)));
        assert_eq!(place(&file("/a/3-5 feet.flac", None, None)), at(None, Some(3)));
    }
}
