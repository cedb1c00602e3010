//! MPEG audio layer III without a container: frame after frame, and what the Xing, Info, VBRI and LAME headers say of them.

use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::codecs::audio::well_known::CODEC_ID_MP3;

use super::input::Input;
use super::measure::{Failure, Found, bad};
use super::player::Player;
use super::text::kept;
use super::window::Window;
use crate::model::variant::{Codec, Container, Detail, Integrity, Mp3Detail, Mp3Encoder};

/// Samples a decoder's filter bank lags behind, which the LAME header does not count.
const DECODER_DELAY: u64 = 529;
/// Longest frame of layer III: 320 kbit/s at 32 kHz, or 160 at 8 kHz.
const FRAME_LEN: usize = 2_881;
/// Bytes before the first frame that are searched for it.
const JUNK_MAX: u64 = 1024 * 1024;
/// How tags begin that other programs put behind the last frame.
const TAILS: [&[u8]; 4] = [b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3"];
/// Frames at the beginning whose bits may lie in frames that were cut off: no damage of this file.
const LEAD: u64 = 3;

/// A frame header (ISO/IEC 11172-3, 2.4.1.3; 13818-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    /// 0 is MPEG-2.5, 2 MPEG-2, 3 MPEG-1.
    version: u8,
    rate_hz: u32,
    bitrate_kbps: u32,
    mono: bool,
    len: usize,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let &[0xff, second, third, fourth, ..] = bytes else { return None };
        let (version, layer) = ((second >> 3) & 3, (second >> 1) & 3);
        if second & 0xe0 != 0xe0 || version == 1 || layer != 1 || fourth & 3 == 2 {
            return None;
        }
        let rate_hz = *[44_100, 48_000, 32_000].get(usize::from((third >> 2) & 3))?;
        let index = usize::from(third >> 4);
        let (rate_hz, bitrate_kbps, unit) = if version == 3 {
            (rate_hz, *[0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320].get(index)?, 144)
        } else {
            let rate = if version == 2 { rate_hz / 2 } else { rate_hz / 4 };
            (rate, *[0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160].get(index)?, 72)
        };
        if bitrate_kbps == 0 {
            return None;
        }
        let len = (unit * bitrate_kbps * 1_000 / rate_hz + u32::from((third >> 1) & 1)) as usize;
        Some(Self { version, rate_hz, bitrate_kbps, mono: fourth >> 6 == 3, len })
    }

    fn samples(&self) -> u64 {
        if self.version == 3 { 1_152 } else { 576 }
    }

    /// Where a Xing header stands in a frame: behind the side information.
    fn xing_at(&self) -> usize {
        match (self.version == 3, self.mono) {
            (true, false) => 36,
            (true, true) | (false, false) => 21,
            (false, true) => 13,
        }
    }

    fn goes_with(&self, other: &Self) -> bool {
        self.version == other.version && self.rate_hz == other.rate_hz && self.mono == other.mono
    }
}

/// What a first frame without sound says.
#[derive(Debug, Default)]
struct Declared {
    detail: Mp3Detail,
    encoder: Option<String>,
    frames: Option<u64>,
    method: u8,
    preset: u16,
}

/// Takes the file apart, decodes it, and says what it found.
pub(super) fn read(input: &mut Input<'_>) -> Result<Found, Failure> {
    let mut window = Window::new(input);
    while window.skip_id3()? > 0 {}
    let Some(first) = sync(&mut window, None, JUNK_MAX)? else {
        return Err(Failure::unsupported("no sound of a known format"));
    };
    let mut params = AudioCodecParameters::new();
    params.for_codec(CODEC_ID_MP3).with_sample_rate(first.rate_hz);
    let mut player = Player::new(&params, first.rate_hz, if first.mono { 1 } else { 2 }, false, window.wanted())?;
    let declared = declared(window.fill(first.len)?, &first);
    if declared.is_some() {
        window.take(first.len);
    }
    let declared = declared.unwrap_or_default();
    if let Some((delay, padding)) = declared.detail.delay_padding {
        player.sink.skip(u64::from(delay) + DECODER_DELAY);
        if let Some(frames) = declared.frames {
            let all = frames.saturating_mul(first.samples());
            player.sink.limit(all.saturating_sub(u64::from(delay) + u64::from(padding)));
        }
    }
    let mut integrity = Integrity::default();
    let mut detail = declared.detail;
    let (mut low, mut high) = (u32::MAX, 0);
    let mut audio = blake3::Hasher::new();
    let mut audio_bytes = 0_u64;
    let silence = [0.0; 1_152];
    loop {
        let begin = window.offset();
        let view = window.fill(FRAME_LEN + 4)?;
        let header = Header::parse(view).filter(|header| header.goes_with(&first));
        let Some(header) = header else {
            if view.is_empty() || TAILS.iter().any(|tail| view.starts_with(tail)) {
                break;
            }
            // Junk: frames may go on behind it, else it is the tail of the file.
            if sync(&mut window, Some(&first), u64::MAX)?.is_none() {
                break;
            }
            bad(&mut integrity, begin, player.sink.now_ms(), &format!("{} foreign bytes", window.offset() - begin));
            continue;
        };
        let Some(bytes) = view.get(..header.len) else {
            bad(&mut integrity, begin, player.sink.now_ms(), "the last frame is cut");
            break;
        };
        audio.update(bytes);
        audio_bytes += bytes.len() as u64;
        detail.frames += 1;
        (low, high) = (low.min(header.bitrate_kbps), high.max(header.bitrate_kbps));
        if let Err(what) = player.play(bytes, |_| {})? {
            if detail.frames > LEAD {
                bad(&mut integrity, begin, player.sink.now_ms(), &what);
            }
            // Time goes on all the same.
            let samples = &silence[..usize::try_from(header.samples()).unwrap_or(0)];
            player.sink.push(&[samples, samples][..player.sink.channels()]);
        }
        window.take(header.len);
    }
    if detail.frames == 0 {
        return Err(Failure::corrupted("not one whole frame"));
    }
    let wanted = declared.frames.unwrap_or(0);
    integrity.samples_missing = wanted.saturating_sub(detail.frames).saturating_mul(first.samples());
    detail.bitrate_range_kbps = (low, high);
    detail.encoder_preset = preset(declared.method, declared.preset, low, high);
    Ok(Found {
        codec: Codec::Mp3,
        container: Container::Mpeg,
        bit_depth: None,
        audio_bytes,
        stream_hash: audio.finalize(),
        detail: Detail::Mp3(detail),
        encoder: declared.encoder,
        integrity,
        sink: player.sink,
        has_picture: window.has_picture(),
    })
}

/// Goes to the next frame that another one follows; `None` when there is none within so many bytes.
fn sync(window: &mut Window<'_, '_>, like: Option<&Header>, within: u64) -> Result<Option<Header>, Failure> {
    let mut left = within;
    loop {
        let view = window.fill(2 * FRAME_LEN + 4)?;
        if view.len() < 4 || left == 0 {
            return Ok(None);
        }
        if let Some(header) = Header::parse(view).filter(|header| like.is_none_or(|like| header.goes_with(like))) {
            let next = view.get(header.len..).unwrap_or_default();
            let follows = Header::parse(next).is_some_and(|next| next.goes_with(&header));
            let ends = view.len() >= header.len && (next.is_empty() || TAILS.iter().any(|tail| next.starts_with(tail)));
            if follows || ends {
                return Ok(Some(header));
            }
        }
        let step = 1 + view[1..].iter().position(|byte| *byte == 0xff).unwrap_or(view.len() - 1);
        window.take(step);
        left = left.saturating_sub(step as u64);
    }
}

/// Reads a Xing, Info or VBRI header; `None` when the frame holds sound.
fn declared(frame: &[u8], header: &Header) -> Option<Declared> {
    let frame = frame.get(..header.len)?;
    let mut declared = Declared::default();
    if let Some(vbri) = frame.get(36..).and_then(|rest| rest.strip_prefix(b"VBRI")) {
        declared.detail.encoder = Mp3Encoder::Fhg;
        declared.frames = vbri.get(10..14).and_then(|frames| Some(u32::from_be_bytes(frames.try_into().ok()?).into()));
        declared.encoder = Some("Fraunhofer".to_owned());
        return Some(declared);
    }
    let rest = frame.get(header.xing_at()..)?;
    let rest = rest.strip_prefix(b"Xing").or_else(|| rest.strip_prefix(b"Info"))?;
    let (flags, mut rest) = rest.split_first_chunk::<4>()?;
    let flags = u32::from_be_bytes(*flags);
    for (flag, len) in [(1, 4), (2, 4), (4, 100), (8, 4)] {
        if flags & flag == 0 {
            continue;
        }
        let Some((field, tail)) = rest.split_at_checked(len) else { return Some(declared) };
        if flag == 1 {
            declared.frames = field.first_chunk().map(|frames| u32::from_be_bytes(*frames).into());
        }
        rest = tail;
    }
    let Some(lame) = rest.first_chunk::<36>() else { return Some(declared) };
    let name = &lame[..9];
    let printable = name.iter().take_while(|byte| byte.is_ascii_graphic() || **byte == b' ').count();
    declared.encoder = std::str::from_utf8(&name[..printable]).ok().filter(|name| name.len() >= 4).and_then(kept);
    declared.detail.encoder = match &name[..4] {
        b"LAME" | b"Lavc" | b"Lavf" | b"L3.9" => Mp3Encoder::Lame,
        b"GOGO" => Mp3Encoder::Gogo,
        _ => return Some(declared),
    };
    declared.method = lame[9] & 0x0f;
    declared.detail.lowpass_hz = Some(u32::from(lame[10]) * 100).filter(|hz| *hz > 0);
    let delay = u32::from_be_bytes([0, lame[21], lame[22], lame[23]]);
    declared.detail.delay_padding = Some((delay >> 12, delay & 0xfff));
    declared.preset = u16::from_be_bytes([lame[26], lame[27]]) & 0x07ff;
    Some(declared)
}

/// The preset's usual name, from LAME's numbers or else from the bit rates seen.
fn preset(method: u8, preset: u16, low: u32, high: u32) -> Option<String> {
    match (method, preset) {
        (3..=5, 410..=500) if preset.is_multiple_of(10) => Some(format!("V{}", (500 - preset) / 10)),
        (3..=5, 1_001 | 1_006) => Some("V2".to_owned()),
        (3..=5, 1_002 | 1_004) => Some("V0".to_owned()),
        (2 | 9, 8..=320) => Some(format!("ABR_{preset}")),
        _ if low == high => Some(format!("CBR_{low}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_how_long_their_frames_are() {
        for (bytes, len, rate) in [
            ([0xff, 0xfb, 0x90, 0x00], 417, 44_100),
            ([0xff, 0xfb, 0x92, 0x00], 418, 44_100),
            ([0xff, 0xfb, 0xe8, 0x00], 1_440, 32_000),
            ([0xff, 0xf3, 0x80, 0xc0], 208, 22_050),
            ([0xff, 0xe3, 0xe8, 0x00], 1_440, 8_000),
        ] {
            let header = Header::parse(&bytes).unwrap();
            assert_eq!((header.len, header.rate_hz), (len, rate), "{bytes:x?}");
        }
        // Layer II, free format, the reserved rate, no sync, a reserved emphasis.
        for bytes in [
            [0xff, 0xfd, 0x90, 0x00],
            [0xff, 0xfb, 0x00, 0x00],
            [0xff, 0xfb, 0x9c, 0x00],
            [0xff, 0x1b, 0x90, 0x00],
            [0xff, 0xfb, 0x90, 0x02],
        ] {
            assert_eq!(Header::parse(&bytes), None, "{bytes:x?}");
        }
    }

    #[test]
    fn presets_have_their_usual_names() {
        assert_eq!(preset(4, 480, 32, 320).as_deref(), Some("V2"));
        assert_eq!(preset(3, 500, 32, 320).as_deref(), Some("V0"));
        assert_eq!(preset(1, 320, 320, 320).as_deref(), Some("CBR_320"));
        assert_eq!(preset(2, 190, 32, 320).as_deref(), Some("ABR_190"));
        assert_eq!(preset(0, 0, 128, 128).as_deref(), Some("CBR_128"));
        assert_eq!(preset(0, 0, 32, 320), None);
    }
}
