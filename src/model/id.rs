//! Names of things: newtypes, so that two numbers or two strings cannot be swapped.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A Soulseek user's name, as the server writes it. Compared exactly; a claim, never a proof of identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Username(String);

impl Username {
    /// Wraps a name as received or typed.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Username {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// The text is not a UUID in its hyphenated or plain hexadecimal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UuidError;

impl fmt::Display for UuidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a UUID: expected 32 hexadecimal digits, with or without hyphens")
    }
}

impl std::error::Error for UuidError {}

fn parse_uuid(text: &str) -> Result<u128, UuidError> {
    let mut value = 0_u128;
    let mut digits = 0;
    for (at, c) in text.chars().enumerate() {
        if c == '-' && matches!(at, 8 | 13 | 18 | 23) {
            continue;
        }
        let digit = c.to_digit(16).ok_or(UuidError)?;
        value = (value << 4) | u128::from(digit);
        digits += 1;
        if digits > 32 {
            return Err(UuidError);
        }
    }
    if digits == 32 { Ok(value) } else { Err(UuidError) }
}

fn write_uuid(value: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let hex = format!("{value:032x}");
    write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u128);

        impl $name {
            /// Makes a version 4 UUID out of 128 random bits.
            pub fn from_random(bits: u128) -> Self {
                let versioned = (bits & !(0xf_u128 << 76)) | (4_u128 << 76);
                Self((versioned & !(0b11_u128 << 62)) | (0b10_u128 << 62))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = UuidError;

            fn from_str(text: &str) -> Result<Self, UuidError> {
                parse_uuid(text).map(Self)
            }
        }
    };
}

uuid_id!(
    /// One transfer, download or upload, for as long as its record lives.
    TransferId
);
uuid_id!(
    /// One search of ours. Clients of the API may choose it.
    SearchId
);
uuid_id!(
    /// Downloads that were asked for together.
    BatchId
);
uuid_id!(
    /// One scan of the collection.
    ScanId
);
uuid_id!(
    /// One problem of the collection; made of its kind and subject, so not random.
    IssueId
);

uuid_id!(
    /// A recording in MusicBrainz: one performance as it was mixed, on however many releases.
    RecordingId
);
uuid_id!(
    /// A release in MusicBrainz: one edition of an album.
    ReleaseId
);
uuid_id!(
    /// A release group in MusicBrainz: all editions of an album.
    ReleaseGroupId
);
uuid_id!(
    /// An artist in MusicBrainz.
    ArtistId
);
uuid_id!(
    /// A track in AcoustID: a cluster of fingerprints that sound the same.
    AcoustId
);

/// A number that names a search or a transfer on the wire: any `u32`, chosen by whoever asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token(pub u32);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One TCP connection with a user, named by whoever opened or accepted it on our side. Never reused in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// One question from a page, the API or the command line, to be answered once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// BLAKE3 hash of a file's bytes: what makes two files the same file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

impl FromStr for ContentHash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        parse_hash(text).map(Self)
    }
}

/// A mesh peer: the BLAKE3 hash of its Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId(pub [u8; 32]);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

impl FromStr for PeerId {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        parse_hash(text).map(Self)
    }
}

/// The text is not 32 bytes in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashError;

impl fmt::Display for HashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("64 hexadecimal digits are wanted")
    }
}

impl std::error::Error for HashError {}

fn parse_hash(text: &str) -> Result<[u8; 32], HashError> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(HashError);
    }
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.as_chunks::<2>().0) {
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return Err(HashError) };
        *byte = high << 4 | low;
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_survive_text() {
        let id = PeerId(std::array::from_fn(|at| u8::try_from(at * 7).unwrap()));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(ContentHash(id.0)));
        for bad in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(bad.parse::<PeerId>(), Err(HashError), "{bad}");
        }
    }

    #[test]
    fn uuids_survive_text() {
        let id = TransferId::from_random(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let text = id.to_string();
        assert_eq!(text, "01234567-89ab-4def-8123-456789abcdef");
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.replace('-', "").parse(), Ok(id));
        for bad in ["", "0123", "g1234567-89ab-4def-8123-456789abcdef", "01234567-89ab-4def-8123-456789abcdef0"] {
            assert_eq!(bad.parse::<TransferId>(), Err(UuidError), "{bad}");
        }
    }
}
