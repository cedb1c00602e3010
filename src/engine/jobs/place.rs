//! Where an album and its files go.

use super::query::is_various;
use crate::engine::soulseek::names;
use crate::model::job::{JobTrack, MbRelease};

/// The album's folder below the downloads folder when the owner names none: `Artist/Title (Year)`.
pub fn folder(artist: &str, title: &str, year: Option<u16>) -> String {
    let artist = if is_various(artist) { "Various Artists" } else { artist };
    let year = year.map(|year| format!(" ({year})")).unwrap_or_default();
    format!("{}/{}", names::portable_name(artist), names::portable_name(&format!("{title}{year}")))
}

/// A finished file's name in the album's folder: `03 Title.flac`, with several media `2-03 Title.flac`, with many
/// artists `03 Artist - Title.flac`.
pub fn file_name(spec: &MbRelease, track: &JobTrack, extension: &str) -> String {
    let medium =
        if spec.tracks.iter().any(|other| other.medium != 1) { format!("{}-", track.medium) } else { String::new() };
    let wide = if spec.tracks.iter().any(|other| other.position > 99) { 3 } else { 2 };
    let by = if is_various(&spec.artist) && !track.artist.is_empty() {
        format!("{} - ", track.artist)
    } else {
        String::new()
    };
    let extension = if extension.is_empty() { String::new() } else { format!(".{extension}") };
    names::portable_name(&format!("{medium}{:0wide$} {by}{}{extension}", track.position, track.title))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::jobs::fixtures::{spec, track};

    #[test]
    fn files_are_named_after_their_place() {
        let one = track(1, 3, "A/B: C", "X", 1);
        assert_eq!(file_name(&spec("A", "B", std::slice::from_ref(&one)), &one, "flac"), "03 A_B_ C.flac");
        let two = track(2, 3, "T", "X", 1);
        assert_eq!(file_name(&spec("A", "B", &[one, two.clone()]), &two, "flac"), "2-03 T.flac");
        let guest = track(1, 1, "T", "X", 1);
        assert_eq!(
            file_name(&spec("Various Artists", "B", std::slice::from_ref(&guest)), &guest, "mp3"),
            "01 X - T.mp3"
        );
        assert_eq!(folder("Some/one", "..", Some(1999)), "Some_one/.. (1999)");
        assert_eq!(folder("What?", "\"Heroes\" <1*|2>", None), "What_/_Heroes_ _1__2_");
        assert_eq!(folder("", "T", None), "Various Artists/T");
    }
}
