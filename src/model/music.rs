//! Shared files as users name them.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Text from the wire that must go back as the same bytes: UTF-8, or Latin-1 where it was not valid UTF-8.
///
/// Paths are opaque to us (`\` separates folders), so a path is sent back exactly as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WireText {
    text: String,
    latin1: bool,
}

impl WireText {
    /// Decodes UTF-8, else Latin-1 (which never fails).
    pub fn from_wire(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { text: text.to_owned(), latin1: false },
            Err(_) => Self { text: bytes.iter().copied().map(char::from).collect(), latin1: true },
        }
    }

    /// The bytes it came as.
    pub fn to_wire(&self) -> Cow<'_, [u8]> {
        if self.latin1 {
            // Every char is below 256: the text was made from bytes, or checked by `as_latin1`.
            Cow::Owned(self.text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect())
        } else {
            Cow::Borrowed(self.text.as_bytes())
        }
    }

    /// The same text to be sent as Latin-1, where that is possible and different: some clients only know it.
    pub fn as_latin1(&self) -> Option<Self> {
        let fits = self.text.chars().all(|c| u32::from(c) < 256);
        (fits && !self.latin1 && !self.text.is_ascii()).then(|| Self { text: self.text.clone(), latin1: true })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it goes out as Latin-1.
    pub fn is_latin1(&self) -> bool {
        self.latin1
    }

    /// What follows the last backslash (or the whole, without one).
    pub fn base_name(&self) -> &str {
        self.text.rsplit('\\').next().unwrap_or(&self.text)
    }

    /// What precedes the last backslash; empty without one.
    pub fn folder(&self) -> &str {
        self.text.rsplit_once('\\').map_or("", |(folder, _)| folder)
    }
}

impl From<&str> for WireText {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), latin1: false }
    }
}

impl From<String> for WireText {
    fn from(text: String) -> Self {
        Self { text, latin1: false }
    }
}

impl fmt::Display for WireText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a client claims about an audio file. Any subset may be there, and any of it may be wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// kbit/s (wire code 0).
    pub bitrate_kbps: Option<u32>,
    /// Seconds (wire code 1).
    pub duration_s: Option<u32>,
    /// Variable bitrate (wire code 2).
    pub vbr: Option<bool>,
    /// Hz (wire code 4).
    pub sample_rate_hz: Option<u32>,
    /// Bits per sample (wire code 5).
    pub bit_depth: Option<u32>,
}

/// One of our shared files, as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFile {
    /// Full virtual path: `Share\Folder\name.flac`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// As measured from the file's header when it was scanned.
    pub attributes: Attributes,
}

/// How many things we share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareCounts {
    /// Folders with at least one file.
    pub folders: u32,
    /// Files.
    pub files: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_text_goes_back_as_it_came() {
        for bytes in [&b"plain"[..], "Fj\u{f6}rd".as_bytes(), b"Fj\xf6rd", b"\xff\xfe\x00"] {
            assert_eq!(WireText::from_wire(bytes).to_wire().as_ref(), bytes);
        }
        assert_eq!(
            WireText::from("Fj\u{f6}rd").as_latin1().map(|t| t.to_wire().into_owned()),
            Some(b"Fj\xf6rd".to_vec())
        );
        assert_eq!(WireText::from("plain").as_latin1(), None);
        assert_eq!(WireText::from("\u{65e5}").as_latin1(), None);
    }
}
