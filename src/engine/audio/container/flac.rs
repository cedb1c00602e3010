//! FLAC: metadata blocks, then frames one after another.
//!
//! A frame does not say how long it is. It ends where the CRC-16 over everything since its first byte, its own last two
//! bytes included, is zero and the header of the frame that is next in order follows. A frame whose bytes are wrong
//! never meets both, swallows the rest of the file, and is found at the end by its checksum or the sample count.

use super::CheckError;

/// Longest frame header: sync and codes 4, coded number 7, block size 2, sample rate 2, CRC 1.
const HEADER_LEN: usize = 16;
/// Longest frame: 65,535 samples of 8 channels with 33 bits, stored verbatim, and some for its headers.
const FRAME_LEN: u64 = 65_535 * 8 * 33 / 8 + 1024;
/// Metadata blocks of one file; no sane file has more.
const METADATA_BLOCKS: u32 = 1_024;
/// Length of STREAMINFO.
const STREAMINFO_LEN: u32 = 34;
/// How tags begin that other programs put behind the last frame.
const TAILS: [&[u8]; 3] = [b"TAG", b"APETAGEX", b"LYRICSBEGIN"];

/// Walks the frames of one FLAC file.
#[derive(Debug)]
pub struct FlacCheck {
    /// Fed and not yet judged; at most a chunk and a header.
    buffer: Vec<u8>,
    /// Offset of `buffer`'s first byte in the file.
    offset: u64,
    stage: Stage,
    /// Samples in the whole file by STREAMINFO; 0 is unknown.
    wanted: u64,
    /// Samples of the frames begun so far, the current one included.
    samples: u64,
    blocks: u32,
    frame: Frame,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// `fLaC`, or an `ID3v2` tag before it.
    Marker,
    /// So many bytes of a tag or block that nobody looks at; then the next block, or the frames.
    Skip { left: u32, next: After },
    /// The header of a metadata block.
    Block,
    /// STREAMINFO; whether it is the last block.
    StreamInfo { last: bool },
    /// The first frame's header.
    FirstFrame,
    /// Within a frame.
    Frame,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Marker,
    Block,
    Frames,
}

/// The frame being walked.
#[derive(Debug, Clone, Copy, Default)]
struct Frame {
    begin: u64,
    /// Bytes taken.
    length: u64,
    header: FlacHeader,
    crc: u16,
    /// The checksum held right before something that looks like a foreign tag.
    tail: bool,
}

/// What a frame's header says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlacHeader {
    /// Numbers count samples instead of frames.
    pub variable: bool,
    /// Which frame it is, or its first sample.
    pub number: u64,
    /// Samples per channel.
    pub block_size: u32,
    /// Bytes, CRC included.
    pub length: usize,
}

impl FlacHeader {
    /// Whether `next` is the frame after this one.
    pub fn is_followed_by(&self, next: &Self) -> bool {
        let step = if self.variable { u64::from(self.block_size) } else { 1 };
        self.variable == next.variable && self.number.checked_add(step) == Some(next.number)
    }
}

impl FlacCheck {
    /// At the beginning of a file.
    pub fn new() -> Self {
        Self {
            buffer: Vec::new(),
            offset: 0,
            stage: Stage::Marker,
            wanted: 0,
            samples: 0,
            blocks: 0,
            frame: Frame::default(),
        }
    }

    /// The next bytes.
    ///
    /// # Errors
    /// What is wrong, as soon as it is certain.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), CheckError> {
        for chunk in bytes.chunks(super::CHUNK) {
            self.buffer.extend_from_slice(chunk);
            self.walk(false)?;
        }
        Ok(())
    }

    /// The file ends here.
    ///
    /// # Errors
    /// What is wrong with the whole.
    pub fn finish(mut self) -> Result<(), CheckError> {
        self.walk(true)?;
        if self.stage != Stage::Frame {
            // Metadata and no audio is a whole file only if it says so.
            let empty = self.stage == Stage::FirstFrame && self.buffer.is_empty() && self.wanted == 0;
            return if empty { Ok(()) } else { Err(CheckError::Truncated { offset: self.offset }) };
        }
        if self.frame.crc != 0 && !self.frame.tail {
            return Err(CheckError::Frame { offset: self.frame.begin });
        }
        if self.wanted != 0 && self.wanted != self.samples {
            return Err(CheckError::Samples { found: self.samples, wanted: self.wanted });
        }
        Ok(())
    }

    /// Takes as much of the buffer as can be judged; `at_end` when nothing follows it.
    fn walk(&mut self, at_end: bool) -> Result<(), CheckError> {
        let mut at = 0;
        loop {
            let rest = &self.buffer[at..];
            let here = self.offset.saturating_add(at as u64);
            let taken = match self.stage {
                Stage::Frame => {
                    at += self.walk_frames(at, at_end)?;
                    break;
                }
                Stage::Skip { left, next } => {
                    let step = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - u32::try_from(step).unwrap_or(left);
                    self.stage = match next {
                        _ if left > 0 => Stage::Skip { left, next },
                        After::Marker => Stage::Marker,
                        After::Block => Stage::Block,
                        After::Frames => Stage::FirstFrame,
                    };
                    step
                }
                Stage::Marker => {
                    if rest.len() < 10 && !at_end {
                        break;
                    }
                    let (stage, taken) = marker(rest, here)?;
                    self.stage = stage;
                    taken
                }
                Stage::Block => {
                    let &[first, a, b, c, ..] = rest else { break };
                    self.stage = self.block(first, u32::from_be_bytes([0, a, b, c]), here)?;
                    4
                }
                Stage::StreamInfo { last } => {
                    let Some(info) = rest.get(..STREAMINFO_LEN as usize) else { break };
                    // 36 bits behind sizes, rate, channels and depth.
                    self.wanted = (u64::from(info[13] & 0x0f) << 32)
                        | u64::from(u32::from_be_bytes([info[14], info[15], info[16], info[17]]));
                    self.stage = if last { Stage::FirstFrame } else { Stage::Block };
                    info.len()
                }
                Stage::FirstFrame => {
                    if rest.is_empty() || (rest.len() < HEADER_LEN && !at_end) {
                        break;
                    }
                    let header = flac_header(rest).ok_or(CheckError::NoFrame { offset: here })?;
                    self.begin(header, here);
                    0
                }
            };
            at += taken;
            if taken == 0 && self.stage != Stage::Frame && at >= self.buffer.len() {
                break;
            }
        }
        self.buffer.drain(..at);
        self.offset = self.offset.saturating_add(at as u64);
        Ok(())
    }

    fn block(&mut self, first: u8, length: u32, here: u64) -> Result<Stage, CheckError> {
        let (last, kind) = (first & 0x80 != 0, first & 0x7f);
        let fits = match (self.blocks, kind) {
            (0, 0) => length == STREAMINFO_LEN,
            (0, _) | (_, 0 | 127) => false,
            (blocks, _) => blocks < METADATA_BLOCKS,
        };
        self.blocks += 1;
        match (fits, kind) {
            (false, _) => Err(CheckError::Metadata { offset: here }),
            (true, 0) => Ok(Stage::StreamInfo { last }),
            (true, _) => Ok(Stage::Skip { left: length, next: if last { After::Frames } else { After::Block } }),
        }
    }

    fn begin(&mut self, header: FlacHeader, begin: u64) {
        self.frame = Frame { begin, header, ..Frame::default() };
        self.samples = self.samples.saturating_add(u64::from(header.block_size));
        self.stage = Stage::Frame;
    }

    /// Walks frames from `from` in the buffer; how many bytes were taken.
    fn walk_frames(&mut self, from: usize, at_end: bool) -> Result<usize, CheckError> {
        let mut at = from;
        while at < self.buffer.len() && (at_end || self.buffer.len() - at >= HEADER_LEN) {
            if self.frame.crc == 0 && self.frame.length > self.frame.header.length as u64 {
                let rest = &self.buffer[at..];
                match flac_header(rest) {
                    Some(next) if self.frame.header.is_followed_by(&next) => {
                        let begin = self.offset.saturating_add(at as u64);
                        self.begin(next, begin);
                    }
                    // A right checksum and a valid header by chance: 2^-40 a byte. So this is a frame of another place.
                    Some(_) => return Err(CheckError::Order { offset: self.offset.saturating_add(at as u64) }),
                    None if TAILS.iter().any(|tag| rest.starts_with(tag)) => self.frame.tail = true,
                    None => {}
                }
            }
            self.frame.crc = crc16(self.frame.crc, self.buffer[at]);
            self.frame.length += 1;
            if self.frame.length > FRAME_LEN {
                return Err(CheckError::Frame { offset: self.frame.begin });
            }
            at += 1;
        }
        Ok(at - from)
    }
}

impl Default for FlacCheck {
    fn default() -> Self {
        Self::new()
    }
}

/// What stands at the beginning, and how long it is.
fn marker(rest: &[u8], here: u64) -> Result<(Stage, usize), CheckError> {
    match rest {
        [b'f', b'L', b'a', b'C', ..] => Ok((Stage::Block, 4)),
        // An ID3v2 tag other programs put first; its length is four times seven bits.
        [b'I', b'D', b'3', _, _, _, a, b, c, d, ..] if here == 0 && (a | b | c | d) & 0x80 == 0 => {
            let left = [a, b, c, d].iter().fold(0_u32, |sum, byte| (sum << 7) | u32::from(**byte));
            Ok((Stage::Skip { left, next: After::Marker }, 10))
        }
        _ => Err(CheckError::NoMarker { format: "FLAC", offset: here }),
    }
}

/// A frame header at the beginning of `bytes`, its CRC-8 included (RFC 9639, 9.1).
pub fn flac_header(bytes: &[u8]) -> Option<FlacHeader> {
    let &[0xff, second, codes, more, first, ..] = bytes else { return None };
    if second & 0xfe != 0xf8 {
        return None;
    }
    let (size_code, rate_code) = (codes >> 4, codes & 0x0f);
    let (channels, depth) = (more >> 4, (more >> 1) & 0x07);
    if size_code == 0 || rate_code == 15 || channels > 10 || depth == 3 || more & 1 != 0 {
        return None;
    }
    let following = match first.leading_ones() {
        0 => 0,
        ones @ 2..=7 => ones as usize - 1,
        _ => return None,
    };
    let mut number = u64::from(if following == 0 { first } else { first & (0x3f_u8 >> following) });
    let mut at = 5;
    for _ in 0..following {
        let byte = *bytes.get(at)?;
        if byte & 0xc0 != 0x80 {
            return None;
        }
        number = (number << 6) | u64::from(byte & 0x3f);
        at += 1;
    }
    let block_size = match size_code {
        1 => 192,
        2..=5 => 144 << size_code,
        6 => {
            at += 1;
            u32::from(*bytes.get(at - 1)?) + 1
        }
        7 => {
            at += 2;
            u32::from(u16::from_be_bytes([*bytes.get(at - 2)?, *bytes.get(at - 1)?])) + 1
        }
        _ => 1 << size_code,
    };
    at += match rate_code {
        12 => 1,
        13 | 14 => 2,
        _ => 0,
    };
    let crc = *bytes.get(at)?;
    let length = at + 1;
    (bytes[..at].iter().fold(0, |crc, byte| crc8(crc, *byte)) == crc).then_some(FlacHeader {
        variable: second & 1 != 0,
        number,
        block_size,
        length,
    })
}

/// Polynomial x^8 + x^2 + x + 1.
pub(crate) fn crc8(crc: u8, byte: u8) -> u8 {
    (0..8).fold(crc ^ byte, |crc, _| if crc & 0x80 != 0 { (crc << 1) ^ 0x07 } else { crc << 1 })
}

/// Polynomial x^16 + x^15 + x^2 + 1, one table entry per value of the high byte.
const CRC16: [u16; 256] = {
    let mut table = [0_u16; 256];
    let mut high = 0_u16;
    while high < 256 {
        let mut crc = high << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x8005 } else { crc << 1 };
            bit += 1;
        }
        table[high as usize] = crc;
        high += 1;
    }
    table
};

pub(crate) fn crc16(crc: u16, byte: u8) -> u16 {
    (crc << 8) ^ CRC16[usize::from((crc >> 8) ^ u16::from(byte))]
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "low bytes are meant")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame of mono 8-bit samples stored verbatim, or constant where `fill` is given.
    fn frame(variable: bool, number: u64, samples: u16, fill: Option<u8>) -> Vec<u8> {
        let mut out = vec![0xff, if variable { 0xf9 } else { 0xf8 }, 0x70, 0x02];
        match number {
            0..0x80 => out.push(u8::try_from(number).unwrap()),
            0x80..0x800 => out.extend([0xc0 | (number >> 6) as u8, 0x80 | (number & 0x3f) as u8]),
            _ => out.extend([
                0xe0 | (number >> 12) as u8,
                0x80 | ((number >> 6) & 0x3f) as u8,
                0x80 | (number & 0x3f) as u8,
            ]),
        }
        out.extend((samples - 1).to_be_bytes());
        out.push(out.iter().fold(0, |crc, byte| crc8(crc, *byte)));
        if let Some(value) = fill {
            out.extend([0x00, value]);
        } else {
            out.push(0x02);
            let mut noise = number.wrapping_mul(0x9e37_79b9) | 1;
            out.extend((0..samples).map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (noise >> 56) as u8
            }));
        }
        let crc = out.iter().fold(0, |crc, byte| crc16(crc, *byte));
        out.extend(crc.to_be_bytes());
        out
    }

    fn head(total: u64) -> Vec<u8> {
        let mut out = b"fLaC\x00\x00\x00\x22".to_vec();
        let mut info = [0_u8; 34];
        info[13] = (total >> 32) as u8;
        info[14..18].copy_from_slice(&(total as u32).to_be_bytes());
        out.extend(info);
        out.extend([0x81, 0, 0, 5, 1, 2, 3, 4, 5]);
        out
    }

    fn frames(variable: bool) -> Vec<Vec<u8>> {
        let size = |n: u64| if n == 199 { 77_u16 } else { 256 };
        (0..200_u64)
            .map(|n| {
                let number = if variable { n * 256 } else { n };
                frame(variable, number, size(n), (n % 7 == 3).then_some(9))
            })
            .collect()
    }

    const TOTAL: u64 = 199 * 256 + 77;

    fn file(variable: bool) -> Vec<u8> {
        let mut out = head(TOTAL);
        out.extend(frames(variable).concat());
        out
    }

    fn check(bytes: &[u8], step: usize) -> Result<(), CheckError> {
        let mut check = FlacCheck::new();
        for chunk in bytes.chunks(step) {
            check.feed(chunk)?;
            assert!(check.buffer.len() < super::super::CHUNK + 64);
        }
        check.finish()
    }

    #[test]
    fn whole_files_pass_however_they_are_fed() {
        for variable in [false, true] {
            let file = file(variable);
            for step in [1, 2, 7, 15, 16, 17, 1000, usize::MAX] {
                assert_eq!(check(&file, step), Ok(()), "{variable} {step}");
            }
        }
        let mut unknown = head(0);
        unknown.extend(frames(false).concat());
        assert_eq!(check(&unknown, 100), Ok(()));
        assert_eq!(check(&head(0), 3), Ok(()), "no audio at all");
    }

    #[test]
    fn foreign_tags_around_the_audio_do_no_harm() {
        let mut tagged = b"ID3\x04\x00\x00\x00\x00\x01\x02".to_vec();
        tagged.extend([0x55; 130]);
        tagged.extend(file(false));
        assert_eq!(check(&tagged, 9), Ok(()));
        tagged.extend(b"TAG");
        tagged.extend([0x20; 125]);
        assert_eq!(check(&tagged, 9), Ok(()));
        let mut junk = file(false);
        junk.extend([0x20; 125]);
        assert!(matches!(check(&junk, 9), Err(CheckError::Frame { .. })));
    }

    #[test]
    fn swapped_missing_and_doubled_frames_are_found() {
        let all = frames(false);
        let build = |order: &[usize]| {
            let mut out = head(TOTAL);
            out.extend(order.iter().flat_map(|n| all[*n].clone()));
            out
        };
        let order: Vec<usize> = (0..200).collect();
        assert_eq!(check(&build(&order), 333), Ok(()));
        let mut swapped = order.clone();
        swapped.swap(50, 51);
        let mut missing = order.clone();
        missing.remove(120);
        let mut doubled = order.clone();
        doubled.insert(10, 10);
        for wrong in [&swapped, &missing, &doubled] {
            assert!(matches!(check(&build(wrong), 333), Err(CheckError::Order { .. })), "{wrong:?}");
        }
        assert_eq!(check(&build(&order[..150]), 333), Err(CheckError::Samples { found: 150 * 256, wanted: TOTAL }));
    }

    #[test]
    fn broken_beginnings_are_named() {
        let good = file(false);
        assert_eq!(check(b"", 1), Err(CheckError::NoMarker { format: "FLAC", offset: 0 }));
        assert_eq!(check(b"RIFFxxxxWAVE", 1), Err(CheckError::NoMarker { format: "FLAC", offset: 0 }));
        let mut long = good.clone();
        long[7] = 0x23;
        assert_eq!(check(&long, 50), Err(CheckError::Metadata { offset: 4 }));
        let mut kind = good.clone();
        kind[42] = 0xff;
        assert_eq!(check(&kind, 50), Err(CheckError::Metadata { offset: 42 }));
        let mut sync = good.clone();
        sync[51] = 0xfe;
        assert_eq!(check(&sync, 50), Err(CheckError::NoFrame { offset: 51 }));
        assert_eq!(check(&good[..20], 50), Err(CheckError::Truncated { offset: 8 }));
        assert_eq!(check(&good[..52], 50), Err(CheckError::NoFrame { offset: 51 }));
    }

    #[test]
    fn an_endless_frame_is_cut_off() {
        let mut bytes = head(0);
        bytes.extend(frame(false, 0, 300, None));
        bytes.resize(bytes.len() + 3 * 1024 * 1024, 0x77);
        assert_eq!(check(&bytes, 4096), Err(CheckError::Frame { offset: 51 }));
    }

    proptest! {
        #[test]
        fn no_flipped_bit_of_the_audio_stays_hidden(at in 51_usize..40_000, bit in 0_u8..8) {
            let mut bytes = file(false);
            prop_assume!(at < bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(check(&bytes, 5000).is_err());
        }

        #[test]
        fn a_seam_between_two_files_is_found(at in 60_usize..30_000) {
            let (one, other) = (file(false), file(true));
            prop_assume!(at < one.len());
            let mut joined = one[..at].to_vec();
            joined.extend(&other[at.min(other.len())..]);
            prop_assert!(check(&joined, 5000).is_err());
        }

        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..2000), step in 1_usize..100) {
            let mut with_head = head(5);
            with_head.extend(&bytes);
            let _ = check(&bytes, step);
            let _ = check(&with_head, step);
        }
    }
}
