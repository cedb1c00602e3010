//! `slots.txt`: which of the two systems on the card starts next, and how many tries each has left. The start program
//! counts down, a start that was found healthy sets the number back. The layout is the image's (docs/image.md).

use std::fmt;
use std::str::FromStr;

use flate2::Crc;

/// Bytes of a copy; the file never changes its size or place.
pub const COPY_LEN: usize = 512;
/// Tries of a slot that was found healthy.
pub const TRIES: u8 = 3;

/// One of the two systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// The second partition, and `A/`.
    A,
    /// The third partition, and `B/`.
    B,
}

impl Slot {
    /// The one that is not this one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Name of its folder on the boot partition.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }

    /// Number of its partition.
    pub fn partition(self) -> u32 {
        match self {
            Self::A => 2,
            Self::B => 3,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a slot is A or B")]
pub struct NoSlot;

impl FromStr for Slot {
    type Err = NoSlot;

    fn from_str(text: &str) -> Result<Self, NoSlot> {
        match text.trim() {
            "A" => Ok(Self::A),
            "B" => Ok(Self::B),
            _ => Err(NoSlot),
        }
    }
}

/// Which slot starts next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// The one that is looked at first.
    pub first: Slot,
    /// Tries left, 0 to [`TRIES`], of A and of B.
    left: [u8; 2],
}

impl Default for Slots {
    /// What holds when neither copy is right.
    fn default() -> Self {
        Self { first: Slot::A, left: [TRIES; 2] }
    }
}

impl Slots {
    /// Of the first copy whose check is right; else the default.
    pub fn read(copies: [&[u8]; 2]) -> Self {
        copies.into_iter().find_map(Self::decode).unwrap_or_default()
    }

    /// One copy; `None` when its check or its form is not right.
    pub fn decode(copy: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(copy.get(..copy.len().min(COPY_LEN))?).ok()?;
        let at = text.find("BOOT_CHECK=")?;
        let (body, rest) = text.split_at(at);
        let check = rest.lines().next()?.strip_prefix("BOOT_CHECK=0x")?;
        if check.len() != 8 || u32::from_str_radix(check, 16).ok()? != crc(body.as_bytes()) {
            return None;
        }
        let mut lines = body.lines();
        let left = |line: Option<&str>, key: &str| {
            let digit = line?.strip_prefix(key)?.strip_prefix('=')?.parse::<u8>().ok()?;
            (digit <= TRIES).then_some(digit)
        };
        let left = [left(lines.next(), "BOOT_A_LEFT")?, left(lines.next(), "BOOT_B_LEFT")?];
        let first = match lines.next()?.strip_prefix("BOOT_ORDER=")? {
            "A B" => Slot::A,
            "B A" => Slot::B,
            _ => return None,
        };
        lines.next().is_none().then_some(Self { first, left })
    }

    /// A copy as it is written.
    pub fn encode(&self) -> [u8; COPY_LEN] {
        let [a, b] = self.left;
        let (first, second) = (self.first, self.first.other());
        let body = format!("BOOT_A_LEFT={a}\nBOOT_B_LEFT={b}\nBOOT_ORDER={first} {second}\n");
        let text = format!("{body}BOOT_CHECK=0x{:08x}\n", crc(body.as_bytes()));
        let mut copy = [b' '; COPY_LEN];
        copy[..text.len()].copy_from_slice(text.as_bytes());
        copy[COPY_LEN - 1] = b'\n';
        copy
    }

    /// Tries this slot has left.
    pub fn left(&self, slot: Slot) -> u8 {
        self.left[slot as usize]
    }

    /// Which slot starts next, and the state after its try was taken: what the start program does.
    pub fn start(&self) -> (Slot, Self) {
        let mut after = *self;
        if after.left == [0, 0] {
            after.left = [TRIES; 2];
        }
        let slot = if after.left(after.first) > 0 { after.first } else { after.first.other() };
        after.left[slot as usize] -= 1;
        (slot, after)
    }

    /// Whether the running slot was started for its only try, with another slot to go back to.
    pub fn is_last_try(&self, running: Slot) -> bool {
        self.left(running) == 0 && self.left(running.other()) > 0
    }

    /// The slot that should run, when it has no tries left and the other one runs in its place.
    pub fn lost(&self, running: Slot) -> Option<Slot> {
        (self.first != running && self.left(self.first) == 0).then_some(self.first)
    }

    /// The running slot was found healthy.
    #[must_use]
    pub fn good(mut self, running: Slot) -> Self {
        self.left[running as usize] = TRIES;
        self
    }

    /// The other slot is about to be overwritten: only the running one is to be started.
    #[must_use]
    pub fn alone(mut self, running: Slot) -> Self {
        self.first = running;
        self.left[running as usize] = TRIES;
        self.left[running.other() as usize] = 0;
        self
    }

    /// The other slot is to be started once.
    #[must_use]
    pub fn once(mut self, running: Slot) -> Self {
        self = self.alone(running);
        self.first = running.other();
        self.left[running.other() as usize] = 1;
        self
    }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_the_one_of_the_image() {
        let slots = Slots { first: Slot::A, left: [3, 0] };
        let copy = slots.encode();
        let text = std::str::from_utf8(&copy).unwrap();
        // The check was made by the zlib of another language.
        assert!(text.starts_with("BOOT_A_LEFT=3\nBOOT_B_LEFT=0\nBOOT_ORDER=A B\nBOOT_CHECK=0xae60fb0e\n   "), "{text}");
        assert!(text.ends_with(" \n"));
        assert_eq!(Slots::decode(&copy), Some(slots));
    }

    #[test]
    fn every_state_survives_its_copy_and_no_changed_byte_does() {
        for first in [Slot::A, Slot::B] {
            for left in 0..16 {
                let slots = Slots { first, left: [left % 4, left / 4] };
                let copy = slots.encode();
                assert_eq!(Slots::decode(&copy), Some(slots));
                for at in 0..copy.iter().rposition(|byte| *byte != b' ' && *byte != b'\n').unwrap() {
                    let mut wrong = copy;
                    wrong[at] ^= 1;
                    assert_eq!(Slots::decode(&wrong), None, "byte {at}");
                    assert_eq!(Slots::decode(&copy[..at]), None, "cut at {at}");
                }
            }
        }
    }

    #[test]
    fn the_first_right_copy_counts() {
        let (one, two) = (Slots::default().once(Slot::A), Slots::default());
        assert_eq!(Slots::read([&one.encode(), &two.encode()]), one);
        assert_eq!(Slots::read([b"garbage", &two.encode()]), two);
        assert_eq!(Slots::read([b"", b""]), Slots::default());
    }

    #[test]
    fn one_try_then_back() {
        let trial = Slots { first: Slot::A, left: [2, 1] }.once(Slot::A);
        let (slot, after) = trial.start();
        assert_eq!((slot, after.left(Slot::B)), (Slot::B, 0));
        // Not confirmed: the old one, and the new one never again.
        let (slot, back) = after.start();
        assert_eq!(slot, Slot::A);
        assert_eq!(back.good(Slot::A).start().0, Slot::A);
        // Confirmed: it stays.
        assert_eq!(after.good(Slot::B).start().0, Slot::B);
        // Nothing left in either: both again.
        assert_eq!(Slots { first: Slot::B, left: [0, 0] }.start().0, Slot::B);
    }
}
