//! An update in one file: a head of fixed length, a manifest, its signature, then the files the manifest names, one after
//! the other with nothing between them. Nothing of the files is looked at before the manifest's signature was found right,
//! and no byte of them is believed before its hash was.
//!
//! ```text
//! slskdn-update 1 00000312 00000104\n      lengths of manifest and signature, eight digits each
//! product=slskdn\n
//! version=0.2.0\n
//! kernel=6.12.57+deb13-arm64\n              where EFI starts the kernel: the one it is for
//! boards=qemu-virt rpi4\n
//! file=root 38543360 SHA-256\n             the root file system, first
//! file=Image 12345678 SHA-256\n            then the slot's files on the boot partition
//! file=slot 181 SHA-256\n                  last, as the start program believes a slot that has them
//! file=slot.sig 104 SHA-256\n
//! ```

use std::cmp::Ordering;

/// Bytes of the head.
pub const HEAD_LEN: usize = 34;
/// A longer manifest is refused.
pub const MANIFEST_LEN: usize = 16 * 1024;
/// A longer signature is refused: signify's has a comment and 100 letters.
pub const SIGNATURE_LEN: usize = 1024;
/// More files are refused.
pub const FILES: usize = 64;
/// Bytes of the longest text of `slot` or `slot.sig`.
pub const SLOT_LEN: u64 = 4096;
/// A longer bundle is refused: twice what both partitions of a slot can hold together.
pub const BUNDLE_LEN: u64 = 1024 * 1024 * 1024;
/// The part that goes into the slot's partition.
pub const ROOT: &str = "root";
const PRODUCT: &str = "slskdn";

/// Why a file is no update for this box.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Something else, or cut off in the head.
    #[error("this is no update: it does not begin as one")]
    NoUpdate,
    /// A newer form.
    #[error("this update has form {0}, which this version does not know")]
    Unknown(String),
    /// A length in the head.
    #[error("{what} of {length} bytes is refused, at most {most} are read")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// As stated.
        length: u64,
        /// Limit.
        most: u64,
    },
    /// The manifest.
    #[error("the manifest makes no sense: {0}")]
    Manifest(String),
    /// For another program.
    #[error("this is an update of {0:?}")]
    Product(String),
    /// For another board.
    #[error("this update is for {boards}, and this box is {board}")]
    Board {
        /// As the manifest has it.
        boards: String,
        /// Ours.
        board: String,
    },
    /// For another kernel than this box keeps.
    #[error(
        "this update does not say that it is for {0}, the kernel this box keeps: for another one its card must be written anew"
    )]
    Kernel(String),
    /// Older than what runs.
    #[error("version {offered} is older than {running}, which runs; forced, it is installed all the same")]
    Older {
        /// In the bundle.
        offered: String,
        /// Ours.
        running: String,
    },
}

fn manifest(why: impl Into<String>) -> BundleError {
    BundleError::Manifest(why.into())
}

/// Lengths of manifest and signature, from the head.
///
/// # Errors
/// Not an update, or too long.
pub fn head(bytes: &[u8]) -> Result<(usize, usize), BundleError> {
    let text = bytes.get(..HEAD_LEN).and_then(|head| std::str::from_utf8(head).ok()).ok_or(BundleError::NoUpdate)?;
    let rest = text.strip_prefix("slskdn-update ").ok_or(BundleError::NoUpdate)?;
    let Some(rest) = rest.strip_prefix("1 ") else {
        return Err(BundleError::Unknown(rest.split([' ', '\n']).next().unwrap_or_default().to_owned()));
    };
    let rest = rest.strip_suffix('\n').ok_or(BundleError::NoUpdate)?;
    let (manifest, signature) = rest.split_once(' ').ok_or(BundleError::NoUpdate)?;
    let length = |text: &str, what, most: usize| {
        let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit());
        let length = digits.then(|| text.parse::<usize>().ok()).flatten().ok_or(BundleError::NoUpdate)?;
        if length == 0 || length > most {
            return Err(BundleError::TooLong { what, length: length as u64, most: most as u64 });
        }
        Ok(length)
    };
    Ok((length(manifest, "a manifest", MANIFEST_LEN)?, length(signature, "a signature", SIGNATURE_LEN)?))
}

/// One file of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// [`ROOT`], or a path below the slot's folder on the boot partition.
    pub name: String,
    /// Bytes.
    pub length: u64,
    /// SHA-256.
    pub sha256: [u8; 32],
}

/// What an update is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its version.
    pub version: Version,
    /// Boards it is for.
    pub boards: Vec<String>,
    /// Release of the kernel it is for, as `uname -r` tells it, where it does not bring that kernel.
    pub kernel: Option<String>,
    /// Its files in their order.
    pub parts: Vec<Part>,
}

impl Manifest {
    /// Of a manifest whose signature is right.
    ///
    /// # Errors
    /// What makes no sense in it.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let text = std::str::from_utf8(bytes).map_err(|_| manifest("it is no text"))?;
        let text = text.strip_suffix('\n').ok_or_else(|| manifest("its last line has no end"))?;
        let (mut version, mut boards, mut kernel, mut product, mut parts) = (None, None, None, None, Vec::new());
        for line in text.split('\n') {
            let (key, value) = line.split_once('=').ok_or_else(|| manifest(format!("{line:?} is no key=value")))?;
            let once = match key {
                "product" => product.replace(value.to_owned()).is_none(),
                "version" => version.replace(Version::parse(value)?).is_none(),
                "boards" => boards.replace(words(value)?).is_none(),
                "kernel" => kernel.replace(release(value)?).is_none(),
                "file" => {
                    parts.push(part(value)?);
                    true
                }
                _ => return Err(manifest(format!("{key:?} is no key of it"))),
            };
            if !once {
                return Err(manifest(format!("{key} is given twice")));
            }
        }
        match product.as_deref() {
            Some(PRODUCT) => {}
            other => return Err(BundleError::Product(other.unwrap_or_default().to_owned())),
        }
        let version = version.ok_or_else(|| manifest("version is missing"))?;
        let boards = boards.ok_or_else(|| manifest("boards is missing"))?;
        let found = Self { version, boards, kernel, parts };
        found.check()?;
        Ok(found)
    }

    /// What the order of files promises.
    fn check(&self) -> Result<(), BundleError> {
        let names: Vec<&str> = self.parts.iter().map(|part| part.name.as_str()).collect();
        if names.len() > FILES {
            return Err(manifest(format!("{} files, at most {FILES} are taken", names.len())));
        }
        if names.first() != Some(&ROOT) || names.len() < 4 || names[names.len() - 2..] != ["slot", "slot.sig"] {
            return Err(manifest(
                "root must be its first file, slot and slot.sig its last ones, a kernel between them",
            ));
        }
        for (at, name) in names.iter().enumerate() {
            // Names on a FAT do not differ by case.
            if names[..at].iter().any(|other| other.eq_ignore_ascii_case(name)) {
                return Err(manifest(format!("{name} is there twice")));
            }
            let short = matches!(*name, "slot" | "slot.sig");
            if self.parts[at].length == 0 || (short && self.parts[at].length > SLOT_LEN) {
                return Err(manifest(format!("{name} of {} bytes", self.parts[at].length)));
            }
        }
        let length = self.length();
        if length > BUNDLE_LEN {
            return Err(BundleError::TooLong { what: "an update", length, most: BUNDLE_LEN });
        }
        Ok(())
    }

    /// Bytes of all files together.
    pub fn length(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.length))
    }

    /// Whether this box may have it: its board, the kernel `kept` where that is not in the slots and stays, and not an older
    /// one unless `forced`.
    ///
    /// # Errors
    /// Why not.
    pub fn suits(
        &self,
        board: Option<&str>,
        kept: Option<&str>,
        running: &Version,
        forced: bool,
    ) -> Result<(), BundleError> {
        if let Some(board) = board
            && !self.boards.iter().any(|name| name == board)
        {
            return Err(BundleError::Board { boards: self.boards.join(", "), board: board.to_owned() });
        }
        if self.version < *running && !forced {
            return Err(BundleError::Older { offered: self.version.0.clone(), running: running.0.clone() });
        }
        if let Some(kept) = kept
            && self.kernel.as_deref() != Some(kept)
        {
            return Err(BundleError::Kernel(kept.to_owned()));
        }
        Ok(())
    }
}

/// A kernel's release: `6.12.48+deb13-arm64`.
fn release(value: &str) -> Result<String, BundleError> {
    let fine = (1..=64).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic());
    if fine { Ok(value.to_owned()) } else { Err(manifest(format!("{value:?} is no kernel's release"))) }
}

fn words(value: &str) -> Result<Vec<String>, BundleError> {
    let names: Vec<String> = value.split(' ').map(str::to_owned).collect();
    let fine =
        |name: &String| (1..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if names.iter().all(fine) { Ok(names) } else { Err(manifest(format!("{value:?} are no names of boards"))) }
}

fn part(value: &str) -> Result<Part, BundleError> {
    let wrong = || manifest(format!("{value:?} is no name, length and hash"));
    let mut fields = value.split(' ');
    let (Some(name), Some(length), Some(hash), None) = (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(wrong());
    };
    if !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let length = length.parse().map_err(|_| wrong())?;
    let sha256 = hex(hash).ok_or_else(wrong)?;
    if !is_path(name) {
        return Err(manifest(format!("{name:?} is no name for a file")));
    }
    Ok(Part { name: name.to_owned(), length, sha256 })
}

/// `Image` or `dtbs/maker/board.dtb`: plain letters, two folders at most, nothing hidden.
fn is_path(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let fine = |part: &&str| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.ends_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    name.len() <= 64 && parts.len() <= 3 && parts.iter().all(fine)
}

/// Thirty-two bytes in hexadecimal.
pub fn hex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(out)
}

/// What `slot` in a slot's folder says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotFile {
    /// Version of the system in it.
    pub version: Version,
    /// Bytes of the root file system.
    pub root_bytes: u64,
    /// Their SHA-256.
    pub root_sha256: [u8; 32],
}

impl SlotFile {
    /// `None`: it is not one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        Some(Self {
            version: Version::parse(value("version")?).ok()?,
            root_bytes: value("root_bytes")?.parse().ok()?,
            root_sha256: hex(value("root_sha256")?)?,
        })
    }
}

/// A version: numbers with dots, then perhaps `-` or `+` and a word, as in `0.2.0+7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// Of its text.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, BundleError> {
        let fine = (1..=32).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+' | b'~'))
            && text.starts_with(|c: char| c.is_ascii_digit());
        if fine { Ok(Self(text.to_owned())) } else { Err(manifest(format!("{text:?} is no version"))) }
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Runs of digits as numbers, everything else as text; `-rc` and `~` come before the version itself.
    fn pieces(&self) -> impl Iterator<Item = (u8, u64, &str)> {
        let mut rest = self.0.as_str();
        std::iter::from_fn(move || {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (piece, after) = if digits > 0 {
                let (number, after) = rest.split_at(digits);
                ((2, number.parse().unwrap_or(u64::MAX), ""), after)
            } else {
                let letters = rest.bytes().take_while(|b| !b.is_ascii_digit()).count();
                let (word, after) = rest.split_at_checked(letters).filter(|(word, _)| !word.is_empty())?;
                // Between two versions that are equal so far: `-` is before the end, `.` and `+` are behind it.
                ((if word.starts_with(['-', '~']) { 0 } else { 2 }, 0, word), after)
            };
            rest = after;
            Some(piece)
        })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        // The end of a version stands between what is before it and what is behind it.
        let end = || std::iter::once((1, 0, ""));
        self.pieces().chain(end()).cmp(other.pieces().chain(end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn good() -> String {
        format!(
            "product=slskdn\nversion=0.2.0\nboards=qemu-virt rpi4\nfile=root 100 {HASH}\nfile=Image 10 {HASH}\n\
             file=dtbs/a.dtb 10 {HASH}\nfile=slot 10 {HASH}\nfile=slot.sig 10 {HASH}\n"
        )
    }

    #[test]
    fn a_manifest_says_what_is_in_the_update() {
        let found = Manifest::parse(good().as_bytes()).unwrap();
        assert_eq!((found.version.text(), found.length(), found.parts.len()), ("0.2.0", 140, 5));
        let running = |text: &str| Version::parse(text).unwrap();
        assert_eq!(found.suits(Some("rpi4"), None, &running("0.2.0"), false), Ok(()));
        assert!(matches!(found.suits(Some("rpi5"), None, &running("0.1.0"), true), Err(BundleError::Board { .. })));
        assert!(matches!(found.suits(None, None, &running("0.3.0"), false), Err(BundleError::Older { .. })));
        assert_eq!(found.suits(None, None, &running("0.3.0"), true), Ok(()));
    }

    #[test]
    fn a_box_that_keeps_its_kernel_takes_no_update_for_another() {
        let running = Version::parse("0.1.0").unwrap();
        let silent = Manifest::parse(good().as_bytes()).unwrap();
        let named =
            Manifest::parse(good().replacen("boards", "kernel=6.12.48+deb13-arm64\nboards", 1).as_bytes()).unwrap();
        let kernel = |text: &str| Err(BundleError::Kernel(text.to_owned()));
        assert_eq!(named.suits(None, Some("6.12.48+deb13-arm64"), &running, false), Ok(()));
        assert_eq!(named.suits(None, Some("6.12.57+deb13-arm64"), &running, true), kernel("6.12.57+deb13-arm64"));
        assert_eq!(silent.suits(None, Some("6.12.48+deb13-arm64"), &running, true), kernel("6.12.48+deb13-arm64"));
        // Where each slot has its own, any will do.
        assert_eq!(named.suits(None, None, &running, false), Ok(()));
    }

    #[test]
    fn what_is_wrong_in_a_manifest_is_refused() {
        let check = |from: &str, to: &str| {
            let text = good().replacen(from, to, 1);
            assert_ne!(text, good());
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{from:?} -> {to:?}");
        };
        check("product=slskdn", "product=other");
        check("product=slskdn\n", "");
        check("version=0.2.0", "version=two");
        check("version=0.2.0\n", "version=0.2.0\nversion=0.2.0\n");
        check("boards=qemu-virt rpi4\n", "");
        check("boards=qemu-virt rpi4", "boards=");
        check("file=root", "file=toor");
        check("file=Image", "file=root");
        check("file=Image", "file=SLOT");
        check("file=Image", "file=../Image");
        check("file=Image", "file=/Image");
        check("file=Image", "file=a/b/c/d");
        check("file=Image", "file=.hidden");
        check("file=Image", "file=");
        check("file=slot ", "file=slog ");
        check(" 100 ", " -1 ");
        check(" 100 ", " 0 ");
        check(" 100 ", " 99999999999 ");
        check(" 100 ", " 99999999999999999999 ");
        check(HASH, "9f86");
        check("file=slot 10", "file=slot 999999");
        check("a08\nfile=slot.sig", "a08 more\nfile=slot.sig");
        check("boards=", "colour=blue\nboards=");
        let cut = good();
        assert!(Manifest::parse(cut.trim_end().as_bytes()).is_err());
        assert!(Manifest::parse(&[0xff, 0xfe]).is_err());
    }

    #[test]
    fn a_head_has_one_form() {
        assert_eq!(head(b"slskdn-update 1 00000312 00000104\nrest"), Ok((312, 104)));
        for wrong in [
            &b""[..],
            b"slskdn-update 1 00000312 0000010",
            b"slskdn-update 1 00000312 00000104 ",
            b"slskdn-update 1 0000031x 00000104\n",
            b"slskdn-update 1 +0000312 00000104\n",
            b"slskdn-update 1 00000000 00000104\n",
            b"slskdn-update 1 99999999 00000104\n",
            b"slskdn-update 1 00000312 00009999\n",
            b"slskdn-update 2 00000312 00000104\n",
            b"PK\x03\x04                               ",
        ] {
            assert!(head(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn versions_have_an_order() {
        let sorted =
            ["0.1.0", "0.1.0+2", "0.1.0+10", "0.1.1", "0.2.0-rc1", "0.2.0-rc2", "0.2.0", "0.2.0.1", "0.10.0", "1.0"];
        for (at, one) in sorted.iter().enumerate() {
            for (also, other) in sorted.iter().enumerate() {
                let order = Version::parse(one).unwrap().cmp(&Version::parse(other).unwrap());
                assert_eq!(order, at.cmp(&also), "{one} {other}");
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut seed = 7_u32;
        for _ in 0..20_000 {
            let mut bytes = good().into_bytes();
            for _ in 0..4 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = seed as usize % bytes.len();
                bytes[at] = (seed >> 24) as u8;
            }
            drop((Manifest::parse(&bytes), head(&bytes), SlotFile::parse(&bytes)));
        }
    }
}
