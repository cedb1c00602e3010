//! What an MP4 says beside its samples (ISO/IEC 14496-12, 14496-1): how AAC is coded, and how much of the sound is not
//! meant to be heard. The demuxer does not look at either.

use std::io;

use super::input::Input;
use crate::model::variant::{AacDetail, AacProfile};

/// Boxes of one file that are looked at.
const BOXES: u32 = 4_096;
/// Bytes of an edit list, a decoder description, or a text that are looked at.
const BODY_LEN: usize = 512;
/// Boxes within which others are looked for.
const DEPTH: u32 = 8;
/// Sample rates by index (14496-3, table 1.18).
const RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// For an AAC track.
    pub(super) aac: Option<Aac>,
    /// The edit list's first sound: samples of the media's time scale left out, and the duration in the movie's.
    edit: Option<(u64, u64)>,
    movie_scale: u64,
    media_scale: u64,
    /// What iTunes says: delay, padding and length, samples.
    itunes: Option<(u64, u64)>,
    /// Where the types of boxes stand that hold only tags: those the demuxer need not see.
    pub(super) tag_boxes: Vec<u64>,
    /// A cover picture.
    pub(super) has_picture: bool,
    left: u32,
}

/// AudioSpecificConfig.
#[derive(Clone, Debug)]
pub(super) struct Aac {
    pub(super) detail: AacDetail,
    /// Rate and channels of what is coded before replication.
    pub(super) core_rate_hz: u32,
    channels: u8,
}

impl Aac {
    /// A description of the core alone, which an LC decoder understands.
    pub(super) fn core_config(&self) -> Option<[u8; 2]> {
        let index = RATES.iter().position(|rate| *rate == self.core_rate_hz)?;
        let bits = (2_u16 << 11) | (u16::try_from(index).ok()? << 7) | (u16::from(self.channels) << 3);
        Some(bits.to_be_bytes())
    }
}

impl Facts {
    /// Looks through the boxes of a file.
    pub(super) fn read(input: &mut Input<'_>) -> io::Result<Self> {
        let mut facts = Self { left: BOXES, ..Self::default() };
        let len = input.len();
        facts.walk(input, 0, len, DEPTH, b"file")?;
        Ok(facts)
    }

    /// Samples to leave out at the beginning, and how many are to be heard; `media` is what the sample table holds.
    pub(super) fn trim(&self, rate_hz: u32, media: Option<u64>) -> (u64, Option<u64>) {
        if let Some((delay, length)) = self.itunes {
            return (delay, Some(length));
        }
        let rate = u64::from(rate_hz);
        let Some((start, duration)) = self.edit else { return (0, media) };
        let scaled = |value: u64, scale: u64| {
            u64::try_from(u128::from(value) * u128::from(rate) / u128::from(scale.max(1))).unwrap_or(u64::MAX)
        };
        let skip = scaled(start, self.media_scale);
        let rest = media.map(|media| media.saturating_sub(skip));
        // The movie's clock is often coarser than the sound's: it counts only where it says less by more than a tick.
        let edit = scaled(duration, self.movie_scale);
        let tick = rate / self.movie_scale.max(1) + 1;
        match rest {
            Some(rest) if duration > 0 && edit + tick < rest => (skip, Some(edit)),
            rest => (skip, rest),
        }
    }

    fn walk(&mut self, input: &mut Input<'_>, from: u64, to: u64, depth: u32, within: &[u8; 4]) -> io::Result<()> {
        let mut at = from;
        while at.saturating_add(8) <= to && self.left > 0 {
            self.left -= 1;
            let mut head = [0; 16];
            let seen = input.peek(at, &mut head)?;
            if seen < 8 {
                break;
            }
            let kind = [head[4], head[5], head[6], head[7]];
            let (body, len) = match u32::from_be_bytes([head[0], head[1], head[2], head[3]]) {
                0 => (8, to - at),
                1 if seen == 16 => (16, u64::from_be_bytes([8, 9, 10, 11, 12, 13, 14, 15].map(|at| head[at]))),
                len => (8, u64::from(len)),
            };
            let Some(end) = at.checked_add(len).filter(|end| len >= body && *end <= to) else { break };
            if depth > 0 {
                self.look(input, kind, at, at + body, end, depth, within)?;
            }
            at = end;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one box: what it is, where, and within what")]
    fn look(
        &mut self,
        input: &mut Input<'_>,
        kind: [u8; 4],
        at: u64,
        body: u64,
        end: u64,
        depth: u32,
        within: &[u8; 4],
    ) -> io::Result<()> {
        let mut bytes = [0; BODY_LEN];
        let len = usize::try_from(end - body).unwrap_or(usize::MAX).min(BODY_LEN);
        let mut take = |input: &mut Input<'_>, from: u64| -> io::Result<Vec<u8>> {
            let seen = input.peek(from, &mut bytes[..len])?;
            Ok(bytes[..seen].to_vec())
        };
        match &kind {
            b"moov" | b"trak" | b"mdia" | b"minf" | b"stbl" | b"edts" | b"ilst" | b"wave" => {
                self.walk(input, body, end, depth - 1, &kind)?;
            }
            b"udta" | b"meta" if matches!(within, b"moov" | b"udta" | b"trak" | b"file") => {
                if within != b"udta" {
                    self.tag_boxes.push(at + 4);
                }
                // `meta` begins with a version; QuickTime's does not.
                let skip = if kind == *b"meta" && take(input, body)?.get(4..8) != Some(b"hdlr") { 4 } else { 0 };
                self.walk(input, body + skip, end, depth - 1, &kind)?;
            }
            b"stsd" => self.walk(input, body + 8, end, depth - 1, &kind)?,
            b"mp4a" => self.walk(input, body + 28, end, depth - 1, &kind)?,
            b"covr" => self.has_picture = true,
            b"mvhd" => self.movie_scale = scale(&take(input, body)?),
            b"mdhd" if self.media_scale == 0 => self.media_scale = scale(&take(input, body)?),
            b"elst" if self.edit.is_none() => self.edit = edit(&take(input, body)?),
            b"esds" if self.aac.is_none() => self.aac = esds(&take(input, body)?),
            b"----" => self.itunes = self.itunes.or(smpb(&take(input, body)?)),
            _ => {}
        }
        Ok(())
    }
}

/// The time scale of `mvhd` and `mdhd`.
fn scale(body: &[u8]) -> u64 {
    let at = if body.first() == Some(&1) { 20 } else { 12 };
    body.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |scale| u32::from_be_bytes(*scale).into())
}

/// The first entry that plays something: media time, duration.
fn edit(body: &[u8]) -> Option<(u64, u64)> {
    let wide = body.first() == Some(&1);
    let entries = body.get(8..)?;
    entries.chunks_exact(if wide { 20 } else { 12 }).find_map(|entry| {
        let (duration, time) = if wide {
            (u64::from_be_bytes(*entry.first_chunk()?), i64::from_be_bytes(*entry.get(8..)?.first_chunk()?))
        } else {
            let duration = u32::from_be_bytes(*entry.first_chunk()?);
            (duration.into(), i32::from_be_bytes(*entry.get(4..)?.first_chunk()?).into())
        };
        Some((u64::try_from(time).ok()?, duration))
    })
}

/// iTunes' note on gaps: hexadecimal words, the second the delay, the third the padding, the fourth the length.
fn smpb(body: &[u8]) -> Option<(u64, u64)> {
    let text = body.windows(8).position(|window| window == b"iTunSMPB").and_then(|at| body.get(at + 8..))?;
    let text = String::from_utf8_lossy(text.get(16..)?).into_owned();
    let mut words = text.split_whitespace().map(|word| u64::from_str_radix(word.trim_matches('\0'), 16));
    let (_, delay, _, length) = (words.next()?, words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?);
    (length > 0).then_some((delay, length))
}

/// The decoder's description in an elementary stream descriptor.
fn esds(body: &[u8]) -> Option<Aac> {
    let mut rest = body.get(4..)?;
    let mut bitrate = 0;
    for tag in [3, 4, 5] {
        let (&found, tail) = rest.split_first()?;
        if found != tag {
            return None;
        }
        rest = tail;
        // Up to four bytes of seven bits.
        for _ in 0..4 {
            let (&byte, tail) = rest.split_first()?;
            rest = tail;
            if byte & 0x80 == 0 {
                break;
            }
        }
        rest = match tag {
            3 => {
                let flags = *rest.get(2)?;
                let mut skip = 3;
                skip += if flags & 0x80 != 0 { 2 } else { 0 };
                skip += if flags & 0x40 != 0 { 1 + usize::from(*rest.get(skip)?) } else { 0 };
                skip += if flags & 0x20 != 0 { 2 } else { 0 };
                rest.get(skip..)?
            }
            4 => {
                bitrate = u32::from_be_bytes(*rest.get(9..)?.first_chunk()?);
                rest.get(13..)?
            }
            _ => rest,
        };
    }
    let mut aac = config(rest)?;
    aac.detail.nominal_bitrate_kbps = Some(bitrate / 1_000).filter(|rate| *rate > 0);
    Some(aac)
}

/// AudioSpecificConfig (14496-3, 1.6.2.1).
fn config(bytes: &[u8]) -> Option<Aac> {
    let mut bits = Bits { bytes, at: 0 };
    let kind = |bits: &mut Bits<'_>| match bits.take(5)? {
        31 => bits.take(6).map(|more| more + 32),
        kind => Some(kind),
    };
    let rate = |bits: &mut Bits<'_>| match bits.take(4)? {
        15 => bits.take(24),
        index => RATES.get(index as usize).copied(),
    };
    let mut object = kind(&mut bits)?;
    let core_rate_hz = rate(&mut bits)?;
    let channels = u8::try_from(bits.take(4)?).ok()?;
    let mut detail = AacDetail::default();
    if matches!(object, 5 | 29) {
        (detail.sbr_present, detail.ps_present) = (true, object == 29);
        rate(&mut bits)?;
        object = kind(&mut bits)?;
    } else if object == 2 {
        // What a decoder that knows only LC reads over: frame length, core coder, extension; then a mark of its own.
        bits.take(3)?;
        if bits.take(11) == Some(0x2b7) && bits.take(5) == Some(5) && bits.take(1) == Some(1) {
            detail.sbr_present = true;
            rate(&mut bits)?;
            detail.ps_present = bits.take(11) == Some(0x548) && bits.take(1) == Some(1);
        }
    }
    detail.profile = match (object, detail.sbr_present, detail.ps_present) {
        (2, _, true) => AacProfile::HeV2,
        (2, true, false) => AacProfile::He,
        (2, false, false) => AacProfile::Lc,
        (23, ..) => AacProfile::Ld,
        (39, ..) => AacProfile::Eld,
        _ => AacProfile::Other,
    };
    detail.core_only = detail.sbr_present;
    Some(Aac { detail, core_rate_hz, channels })
}

/// Bits, the highest first.
struct Bits<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = *self.bytes.get(self.at / 8)?;
            value = (value << 1) | u32::from((byte >> (7 - self.at % 8)) & 1);
            self.at += 1;
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_told_apart() {
        for (bytes, profile, core, sbr, ps) in [
            (&[0x12, 0x10][..], AacProfile::Lc, 44_100, false, false),
            // SBR said first, with its rate: 22,050 becomes 44,100.
            (&[0x2b, 0x92, 0x08, 0x00], AacProfile::He, 22_050, true, false),
            (&[0xeb, 0x8a, 0x08, 0x00], AacProfile::HeV2, 22_050, true, true),
            // SBR behind the mark that LC decoders read over.
            (&[0x13, 0x90, 0x56, 0xe5, 0xa0], AacProfile::He, 22_050, true, false),
        ] {
            let aac = config(bytes).unwrap();
            let detail = &aac.detail;
            assert_eq!((detail.profile, aac.core_rate_hz), (profile, core), "{bytes:x?}");
            assert_eq!((detail.sbr_present, detail.ps_present, detail.core_only), (sbr, ps, sbr), "{bytes:x?}");
        }
        assert_eq!(config(&[0x12, 0x10]).unwrap().core_config(), Some([0x12, 0x10]));
    }

    #[test]
    fn gaps_are_read_from_both_places() {
        let mut body = b"\0\0\0\x14nameiTunSMPB\0\0\0\x84data\0\0\0\x01\0\0\0\0".to_vec();
        body.extend_from_slice(b" 00000000 00000840 000001C0 0000000000D5F800 00000000");
        assert_eq!(smpb(&body), Some((0x840, 0xd5_f800)));
        let mut list = vec![0, 0, 0, 0, 0, 0, 0, 1];
        list.extend_from_slice(&19_876_u32.to_be_bytes());
        list.extend_from_slice(&1_024_u32.to_be_bytes());
        list.extend_from_slice(&[0, 1, 0, 0]);
        assert_eq!(edit(&list), Some((1_024, 19_876)));
        let facts = Facts { edit: Some((1_024, 19_876)), movie_scale: 1_000, media_scale: 44_100, ..Facts::default() };
        assert_eq!(facts.trim(44_100, Some(877_567)), (1_024, Some(876_543)));
        assert_eq!(facts.trim(44_100, Some(1_000_000)), (1_024, Some(876_531)));
    }
}
