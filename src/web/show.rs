//! How values are shown: remote text with its tricks made visible, addresses of pages, sizes, times.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::model::music::WireText;
use crate::model::time::UnixMs;

/// Everything but what RFC 3986 calls unreserved. The full stop too, so that no name is `..` to a browser.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// Text as it may be shown: control characters become their pictures, marks that hide or turn text become their number.
pub(crate) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match u32::from(c) {
            code @ 0..0x20 => out.push(char::from_u32(0x2400 + code).unwrap_or('\u{fffd}')),
            0x7f => out.push('\u{2421}'),
            code @ (0x80..0xa0
            | 0xad
            | 0x61c
            | 0x115f..=0x1160
            | 0x180e
            | 0x200b
            | 0x200e..=0x200f
            | 0x2028..=0x202e
            | 0x2060..=0x206f
            | 0x3164
            | 0xfeff
            | 0xfff9..=0xfffb
            | 0xe0000..=0xe007f) => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\u{27e8}U+{code:04X}\u{27e9}");
            }
            _ => out.push(c),
        }
    }
    out
}

/// The same for text of several lines: line ends stay.
pub(crate) fn visible_lines(text: &str) -> String {
    text.lines().map(visible).collect::<Vec<_>>().join("\n")
}

/// One segment of a path or one value of a query.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// A remote path as one word that a form brings back unharmed.
pub(crate) fn pack(text: &WireText) -> String {
    URL_SAFE_NO_PAD.encode(text.to_wire())
}

/// The text a form brought back.
pub(crate) fn unpack(word: &str) -> Option<WireText> {
    URL_SAFE_NO_PAD.decode(word).ok().map(|bytes| WireText::from_wire(&bytes))
}

/// A moment for people and for scripts.
pub(crate) struct Moment {
    /// `2026-01-02T03:04:05Z`.
    pub(crate) iso: String,
    /// `2026-01-02 03:04 UTC`.
    pub(crate) text: String,
}

pub(crate) fn moment(at: UnixMs) -> Moment {
    let stamp = i64::try_from(at.0 / 1000).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or_default();
    Moment { iso: stamp.to_string(), text: stamp.strftime("%Y-%m-%d %H:%M UTC").to_string() }
}

/// The same to the second, for the log.
pub(crate) fn moment_s(at: UnixMs) -> Moment {
    let moment = moment(at);
    Moment { text: moment.iso.replace('T', " ").replace('Z', " UTC"), ..moment }
}

/// The moment in RFC 3339 with milliseconds, for programs.
pub(crate) fn iso_ms(at: UnixMs) -> String {
    let stamp = i64::try_from(at.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    stamp.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// A length of time in at most two units.
pub(crate) fn duration(seconds: u64) -> String {
    let two = |big: u64, big_name: &str, small: u64, small_name: &str| {
        if small == 0 { format!("{big} {big_name}") } else { format!("{big} {big_name} {small} {small_name}") }
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// A track's length, `3:07`.
pub(crate) fn track_length(seconds: u32) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// Whole percent, 0 to 100; nothing of nothing is all.
pub(crate) fn percent(done: u64, of: u64) -> u64 {
    if of == 0 { 100 } else { (u128::from(done.min(of)) * 100 / u128::from(of)).try_into().unwrap_or(100) }
}

/// `1 file`, `2 files`.
pub(crate) fn count(n: impl Into<u64>, one: &str, many: &str) -> String {
    let n = n.into();
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tricks_become_visible() {
        assert_eq!(visible("plain \u{65e5}\u{672c} \u{e9}"), "plain \u{65e5}\u{672c} \u{e9}");
        assert_eq!(visible("a\0b\nc\x7f"), "a\u{2400}b\u{240a}c\u{2421}");
        assert_eq!(visible("exe\u{202e}3pm.\u{200b}"), "exe\u{27e8}U+202E\u{27e9}3pm.\u{27e8}U+200B\u{27e9}");
        assert_eq!(visible("\u{85}\u{e0041}"), "\u{27e8}U+0085\u{27e9}\u{27e8}U+E0041\u{27e9}");
        assert_eq!(visible_lines("a\r\nb\u{202e}\n"), "a\nb\u{27e8}U+202E\u{27e9}");
    }

    #[test]
    fn names_become_one_segment() {
        assert_eq!(segment("a/b?c#d&e=f %\"<'"), "a%2Fb%3Fc%23d%26e%3Df%20%25%22%3C%27");
        assert_eq!(segment(".."), "%2E%2E");
        let path = WireText::from_wire(b"Music\\Fj\xf6rd\n\0.mp3");
        assert_eq!(unpack(&pack(&path)), Some(path));
        assert_eq!(unpack("!"), None);
    }

    #[test]
    fn quantities_read_well() {
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(3_725), "1 h 2 min");
        assert_eq!(duration(86_400), "1 d");
        assert_eq!(track_length(187), "3:07");
        assert_eq!((percent(1, 3), percent(9, 3), percent(0, 0)), (33, 100, 100));
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
        assert_eq!(moment(UnixMs(1_700_000_000_000)).text, "2023-11-14 22:13 UTC");
        assert_eq!(moment(UnixMs(u64::MAX)).iso, "1970-01-01T00:00:00Z", "beyond the calendar");
        assert_eq!(moment_s(UnixMs(1_700_000_000_999)).text, "2023-11-14 22:13:20 UTC");
        assert_eq!(iso_ms(UnixMs(1_700_000_000_123)), "2023-11-14T22:13:20.123Z");
    }
}
