//! Ogg: pages one after another, each with a checksum and a number within its stream.

use std::collections::BTreeMap;

use super::CheckError;

/// Page header without its segment table (RFC 3533, 6).
const HEADER_LEN: usize = 27;
/// Streams open at once; files of music have one or two.
const STREAMS: usize = 64;
/// Flags of a page: first and last of its stream.
const FIRST: u8 = 0x02;
const LAST: u8 = 0x04;

/// Walks the pages of one Ogg file.
#[derive(Debug, Default)]
pub struct OggCheck {
    /// Fed and not yet judged; at most a page and a chunk.
    buffer: Vec<u8>,
    /// Offset of `buffer`'s first byte in the file.
    offset: u64,
    /// The next page number of every open stream, by serial number.
    streams: BTreeMap<u32, u32>,
}

impl OggCheck {
    /// At the beginning of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next bytes.
    ///
    /// # Errors
    /// What is wrong, as soon as it is certain.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), CheckError> {
        for chunk in bytes.chunks(super::CHUNK) {
            self.buffer.extend_from_slice(chunk);
            let mut at = 0;
            while let Some(length) = page_len(&self.buffer[at..]) {
                let begin = self.offset.saturating_add(at as u64);
                self.page(at, length, begin)?;
                at += length;
            }
            self.buffer.drain(..at);
            self.offset = self.offset.saturating_add(at as u64);
            if !b"OggS".starts_with(&self.buffer[..self.buffer.len().min(4)]) {
                return Err(CheckError::NoMarker { format: "Ogg", offset: self.offset });
            }
        }
        Ok(())
    }

    /// The file ends here. A stream without a page marked as its last is fine: many files are like that.
    ///
    /// # Errors
    /// What is wrong with the whole.
    pub fn finish(self) -> Result<(), CheckError> {
        match (self.buffer.is_empty(), self.offset) {
            (true, 0) => Err(CheckError::NoMarker { format: "Ogg", offset: 0 }),
            (true, _) => Ok(()),
            (false, offset) => Err(CheckError::Truncated { offset }),
        }
    }

    /// Judges one page.
    fn page(&mut self, at: usize, length: usize, offset: u64) -> Result<(), CheckError> {
        let page = &self.buffer[at..at + length];
        if !page.starts_with(b"OggS\0") {
            return Err(CheckError::NoMarker { format: "Ogg", offset });
        }
        let field = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        let (flags, serial, found, crc) = (page[5], field(14), field(18), field(22));
        let sum = ogg_page_sum(page);
        if sum != crc {
            return Err(CheckError::Page { offset });
        }
        match (self.streams.get(&serial), flags & FIRST != 0) {
            (Some(&wanted), false) if wanted != found => return Err(CheckError::Sequence { offset, found, wanted }),
            (Some(_), false) => {}
            (None, true) if self.streams.len() < STREAMS => {}
            _ => return Err(CheckError::Stream { offset }),
        }
        if flags & LAST != 0 {
            self.streams.remove(&serial);
        } else {
            self.streams.insert(serial, found.wrapping_add(1));
        }
        Ok(())
    }
}

/// Length of the page at the beginning of `bytes`, if it is all there.
fn page_len(bytes: &[u8]) -> Option<usize> {
    let segments = usize::from(*bytes.get(HEADER_LEN - 1)?);
    let table = bytes.get(HEADER_LEN..HEADER_LEN + segments)?;
    let length = HEADER_LEN + segments + table.iter().map(|segment| usize::from(*segment)).sum::<usize>();
    (bytes.len() >= length).then_some(length)
}

/// Polynomial 0x04c11db7, high bit first, no inversion.
const CRC32: [u32; 256] = {
    let mut table = [0_u32; 256];
    let mut high = 0_u32;
    while high < 256 {
        let mut crc = high << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000_0000 != 0 { (crc << 1) ^ 0x04c1_1db7 } else { crc << 1 };
            bit += 1;
        }
        table[high as usize] = crc;
        high += 1;
    }
    table
};

/// The checksum of a whole page, taken with its own field as zeros.
pub fn ogg_page_sum(page: &[u8]) -> u32 {
    page.iter().enumerate().fold(0, |sum, (n, byte)| crc32(sum, if (22..26).contains(&n) { 0 } else { *byte }))
}

fn crc32(crc: u32, byte: u8) -> u32 {
    (crc << 8) ^ CRC32[((crc >> 24) ^ u32::from(byte)) as usize]
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "low bytes are meant")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(serial: u32, number: u32, flags: u8, body: usize) -> Vec<u8> {
        let mut out = b"OggS\0".to_vec();
        out.push(flags);
        out.extend(u64::from(number * 960).to_le_bytes());
        out.extend(serial.to_le_bytes());
        out.extend(number.to_le_bytes());
        out.extend([0; 4]);
        let segments = body / 255 + 1;
        out.push(u8::try_from(segments).unwrap());
        out.extend(std::iter::repeat_n(255, segments - 1));
        out.push((body % 255) as u8);
        out.extend((0..body).map(|n| (n as u32 ^ number).wrapping_mul(31) as u8));
        let crc = out.iter().fold(0, |crc, byte| crc32(crc, *byte));
        out[22..26].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn pages() -> Vec<Vec<u8>> {
        (0..40)
            .map(|n| {
                let flags = match n {
                    0 => FIRST,
                    39 => LAST,
                    _ => 0,
                };
                page(77, n, flags, if n == 5 { 60_000 } else { 300 + n as usize * 20 })
            })
            .collect()
    }

    fn check(bytes: &[u8], step: usize) -> Result<(), CheckError> {
        let mut check = OggCheck::new();
        for chunk in bytes.chunks(step) {
            check.feed(chunk)?;
            assert!(check.buffer.len() <= super::super::CHUNK + 65_307);
        }
        check.finish()
    }

    #[test]
    fn whole_files_pass_however_they_are_fed() {
        let file = pages().concat();
        for step in [1, 3, 26, 27, 28, 4096, usize::MAX] {
            assert_eq!(check(&file, step), Ok(()), "{step}");
        }
        let mut chained = file.clone();
        chained.extend(page(78, 0, FIRST, 5));
        chained.extend(page(79, 0, FIRST, 5));
        chained.extend(page(78, 1, 0, 5));
        chained.extend(page(79, 1, LAST, 5));
        assert_eq!(check(&chained, 100), Ok(()), "one stream after another, and two at once");
    }

    #[test]
    fn the_published_checksum_is_ours() {
        // CRC-32/MPEG-2 without its initial value: the same polynomial, checked over "123456789" (reveng catalogue,
        // CRC-32/CKSUM before the length and the final inversion).
        let sum = b"123456789\x09".iter().fold(0, |crc, byte| crc32(crc, *byte));
        assert_eq!(!sum, 0x377a_6011);
    }

    #[test]
    fn swapped_missing_and_doubled_pages_are_found() {
        let all = pages();
        let build = |order: &[usize]| order.iter().flat_map(|n| all[*n].clone()).collect::<Vec<u8>>();
        let order: Vec<usize> = (0..40).collect();
        let mut swapped = order.clone();
        swapped.swap(20, 21);
        let mut missing = order.clone();
        missing.remove(30);
        let mut doubled = order.clone();
        doubled.insert(10, 10);
        for (wrong, number) in [(&swapped, 21), (&missing, 31), (&doubled, 10)] {
            assert!(
                matches!(check(&build(wrong), 333), Err(CheckError::Sequence { found, .. }) if found == number),
                "{number}"
            );
        }
        assert_eq!(check(&build(&order[1..]), 333), Err(CheckError::Stream { offset: 0 }));
    }

    #[test]
    fn gaps_and_cut_ends_are_named() {
        let all = pages();
        let first = all[0].len() as u64;
        let gap = [&all[0][..], b"junk", &all[1]].concat();
        assert_eq!(check(&gap, 50), Err(CheckError::NoMarker { format: "Ogg", offset: first }));
        let short = [&all[0][..], &all[1][..100]].concat();
        assert_eq!(check(&short, 50), Err(CheckError::Truncated { offset: first }));
        assert_eq!(check(b"", 1), Err(CheckError::NoMarker { format: "Ogg", offset: 0 }));
        let many = (0..65).flat_map(|serial| page(serial, 0, FIRST, 1)).collect::<Vec<u8>>();
        assert!(matches!(check(&many, 50), Err(CheckError::Stream { .. })));
    }

    proptest! {
        #[test]
        fn no_flipped_bit_stays_hidden(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut bytes = pages().concat();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(check(&bytes, 5000).is_err());
        }

        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..2000), step in 1_usize..100) {
            let mut marked = b"OggS\0".to_vec();
            marked.extend(&bytes);
            let _ = check(&bytes, step);
            let _ = check(&marked, step);
        }
    }
}
