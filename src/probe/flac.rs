//! FLAC in its own container (RFC 9639): metadata, then frame by frame, each with its two checksums, so that a damaged
//! one is found where it stands. The samples are compared with the encoder's MD5, as `flac -t` does.

use md5::{Digest as _, Md5};
use symphonia::core::audio::{Audio as _, GenericAudioBufferRef};
use symphonia::core::checksum::Crc16Ansi;
use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::codecs::audio::well_known::CODEC_ID_FLAC;
use symphonia::core::io::Monitor as _;

use super::input::Input;
use super::measure::{Failure, Found, bad};
use super::player::Player;
use super::text::kept;
use super::window::Window;
use super::wire::Wanted;
use crate::engine::audio::container::{FlacHeader, flac_header};
use crate::model::variant::{Codec, Container, Detail, FlacDetail, Integrity, Md5Check};

/// Longest frame header.
const HEADER_LEN: usize = 16;
/// Longest frame: 65,535 samples of 8 channels with 33 bits, stored verbatim, and some for its headers.
const FRAME_LEN: usize = 65_535 * 8 * 33 / 8 + 1024;
/// Frames that may be missing before one that is believed to go on.
const GAP: u64 = 1_024;
/// Places where a last frame may end that are tried.
const TRIES: u32 = 64;
/// Metadata blocks of one file.
const BLOCKS: u32 = 1_024;

/// STREAMINFO.
pub(super) struct Info {
    pub(super) bytes: [u8; 34],
    pub(super) rate_hz: u32,
    pub(super) channels: usize,
    pub(super) bits: u32,
    pub(super) detail: FlacDetail,
}

impl Info {
    /// Reads the block (RFC 9639, 8.2).
    pub(super) fn parse(bytes: [u8; 34], hashed: &[u8]) -> Result<Self, Failure> {
        let rate = u32::from_be_bytes([0, bytes[10], bytes[11], bytes[12]]) >> 4;
        let channels = usize::from((bytes[12] >> 1) & 7) + 1;
        let bits = u32::from(((bytes[12] & 1) << 4) | (bytes[13] >> 4)) + 1;
        let block_size_max = u16::from_be_bytes([bytes[2], bytes[3]]);
        if rate == 0 || !(4..=32).contains(&bits) || block_size_max < 16 {
            return Err(Failure::corrupted(&format!(
                "STREAMINFO says {rate} Hz, {bits} bits, {block_size_max} samples"
            )));
        }
        let mut detail = FlacDetail {
            block_size_min: u16::from_be_bytes([bytes[0], bytes[1]]),
            block_size_max,
            frame_size_min: u32::from_be_bytes([0, bytes[4], bytes[5], bytes[6]]),
            frame_size_max: u32::from_be_bytes([0, bytes[7], bytes[8], bytes[9]]),
            total_samples: (u64::from(bytes[13] & 0x0f) << 32)
                | u64::from(u32::from_be_bytes([bytes[14], bytes[15], bytes[16], bytes[17]])),
            ..FlacDetail::default()
        };
        detail.streaminfo_hash.copy_from_slice(&blake3::hash(hashed).as_bytes()[..16]);
        detail.pcm_md5.copy_from_slice(&bytes[18..]);
        Ok(Self { bytes, rate_hz: rate, channels, bits, detail })
    }

    /// A decoder for it.
    pub(super) fn player(&self, wanted: Wanted) -> Result<Player, Failure> {
        let mut params = AudioCodecParameters::new();
        params.for_codec(CODEC_ID_FLAC).with_sample_rate(self.rate_hz).with_extra_data(Box::from(self.bytes));
        Player::new(&params, self.rate_hz, self.channels, true, wanted)
    }
}

/// The MD5 of the samples as they were before coding.
pub(super) struct PcmMd5 {
    md5: Md5,
    bits: u32,
    bytes: Vec<u8>,
}

impl PcmMd5 {
    pub(super) fn new(bits: u32) -> Self {
        Self { md5: Md5::new(), bits, bytes: Vec::new() }
    }

    /// The decoder gives 32 bits, left-justified; hashed are as few whole bytes as the depth needs, interleaved, the least
    /// significant first.
    pub(super) fn update(&mut self, block: &GenericAudioBufferRef<'_>) {
        let GenericAudioBufferRef::S32(block) = block else { return };
        let (shift, width) = (32 - self.bits.min(32), self.bits.div_ceil(8) as usize);
        self.bytes.clear();
        let planes: Vec<&[i32]> = (0..block.num_planes()).filter_map(|plane| block.plane(plane)).collect();
        match (planes.as_slice(), width) {
            ([left, right], 2) => {
                self.bytes.extend(left.iter().zip(*right).flat_map(|(left, right)| {
                    let [a, b, ..] = (left >> shift).to_le_bytes();
                    let [c, d, ..] = (right >> shift).to_le_bytes();
                    [a, b, c, d]
                }));
            }
            (planes, width) => {
                for at in 0..block.frames() {
                    for plane in planes {
                        self.bytes.extend_from_slice(&(plane[at] >> shift).to_le_bytes()[..width]);
                    }
                }
            }
        }
        self.md5.update(&self.bytes);
    }

    /// Compares with what the encoder left.
    pub(super) fn check(self, wanted: [u8; 16]) -> Md5Check {
        match <[u8; 16]>::from(self.md5.finalize()) {
            _ if wanted == [0; 16] => Md5Check::Absent,
            found if found == wanted => Md5Check::Equal,
            _ => Md5Check::Different,
        }
    }
}

/// Takes the file apart, decodes it, and says what it found.
pub(super) fn read(input: &mut Input<'_>) -> Result<Found, Failure> {
    let mut window = Window::new(input);
    while window.skip_id3()? > 0 {}
    if &window.array::<4>()? != b"fLaC" {
        return Err(Failure::corrupted("no FLAC marker behind the tag"));
    }
    let (info, encoder, picture) = metadata(&mut window)?;
    let mut walk = Walk {
        player: info.player(window.wanted())?,
        md5: PcmMd5::new(info.bits),
        audio: blake3::Hasher::new(),
        audio_bytes: 0,
        integrity: Integrity::default(),
    };
    walk.frames(&mut window, &info)?;
    let decoded = walk.player.sink.decoded();
    if decoded == 0 && info.detail.total_samples != 0 {
        return Err(Failure::corrupted("not one frame could be decoded"));
    }
    let mut integrity = walk.integrity;
    integrity.md5 = walk.md5.check(info.detail.pcm_md5);
    integrity.samples_missing = info.detail.total_samples.saturating_sub(decoded);
    Ok(Found {
        codec: Codec::Flac,
        container: Container::Flac,
        bit_depth: u8::try_from(info.bits).ok(),
        audio_bytes: walk.audio_bytes,
        stream_hash: walk.audio.finalize(),
        detail: Detail::Flac(info.detail),
        encoder,
        integrity,
        sink: walk.player.sink,
        has_picture: picture || window.has_picture(),
    })
}

/// Every metadata block; pictures are read over.
fn metadata(window: &mut Window<'_, '_>) -> Result<(Info, Option<String>, bool), Failure> {
    let mut info = None;
    let mut encoder = None;
    let mut picture = false;
    for count in 0..BLOCKS {
        let at = window.offset();
        let head = window.array::<4>()?;
        let len = u32::from_be_bytes([0, head[1], head[2], head[3]]);
        match (head[0] & 0x7f, len) {
            (0, 34) if count == 0 => {
                let bytes = window.array::<34>()?;
                let mut hashed = b"fLaC".to_vec();
                hashed.extend_from_slice(&head);
                hashed.extend_from_slice(&bytes);
                info = Some(Info::parse(bytes, &hashed)?);
            }
            (0 | 127, _) => return Err(Failure::corrupted(&format!("impossible metadata block at byte {at}"))),
            (4, len) => {
                // The vendor's name comes first.
                let vendor = window.fill((4 + 1_024).min(len as usize))?;
                encoder = vendor.split_first_chunk::<4>().and_then(|(len, rest)| {
                    let vendor = rest.get(..u32::from_le_bytes(*len) as usize)?;
                    kept(&String::from_utf8_lossy(vendor))
                });
                window.skip(u64::from(len))?;
            }
            (kind, len) => {
                picture |= kind == 6;
                window.skip(u64::from(len))?;
            }
        }
        if head[0] & 0x80 != 0 {
            return Ok((info.ok_or_else(|| Failure::corrupted("no STREAMINFO"))?, encoder, picture));
        }
    }
    Err(Failure::corrupted(&format!("more than {BLOCKS} metadata blocks")))
}

struct Walk {
    player: Player,
    md5: PcmMd5,
    audio: blake3::Hasher,
    audio_bytes: u64,
    integrity: Integrity,
}

/// Where the frame at the beginning of the window ends, and what comes then.
enum End {
    /// The next frame begins there.
    Next(usize, FlacHeader),
    /// Nothing that goes on with it was found.
    Last,
}

impl Walk {
    fn frames(&mut self, window: &mut Window<'_, '_>, info: &Info) -> Result<(), Failure> {
        let Some(mut frame) = self.first(window, info)? else { return Ok(()) };
        loop {
            let begin = window.offset();
            match find_next(window, frame)? {
                End::Next(len, next) => {
                    let bytes = &window.view()[..len];
                    self.audio.update(bytes);
                    self.audio_bytes += len as u64;
                    let whole = frame.is_followed_by(&next) && crc(bytes) == 0;
                    let verdict = if whole { self.decode(bytes)? } else { Err(damage(&frame, &next, bytes)) };
                    if let Err(what) = verdict {
                        bad(&mut self.integrity, begin, self.player.sink.now_ms(), &what);
                    }
                    window.take(len);
                    frame = next;
                }
                End::Last => {
                    self.last(window)?;
                    return Ok(());
                }
            }
        }
    }

    /// The first frame that stands somewhere behind the metadata.
    fn first(&mut self, window: &mut Window<'_, '_>, info: &Info) -> Result<Option<FlacHeader>, Failure> {
        let begin = window.offset();
        loop {
            let view = window.fill(HEADER_LEN)?;
            if view.is_empty() {
                if info.detail.total_samples != 0 {
                    bad(&mut self.integrity, begin, 0, "no frame at all");
                }
                return Ok(None);
            }
            if let Some(header) = flac_header(view) {
                if window.offset() != begin || header.number != 0 {
                    bad(&mut self.integrity, begin, 0, "no frame where the first should be");
                }
                return Ok(Some(header));
            }
            window.take(1);
        }
    }

    /// The last frame: it ends where its checksum is right and it can be decoded, whatever follows.
    fn last(&mut self, window: &mut Window<'_, '_>) -> Result<(), Failure> {
        let (begin, at_ms) = (window.offset(), self.player.sink.now_ms());
        let view = window.fill(FRAME_LEN)?;
        let mut check = Crc16Ansi::new(0);
        let mut tries = 0;
        let mut what = "the last frame is cut or damaged".to_owned();
        for (at, byte) in view.iter().enumerate().take(FRAME_LEN) {
            check.process_byte(*byte);
            if check.crc() == 0 && at >= 5 && tries < TRIES {
                tries += 1;
                let bytes = &view[..=at];
                match self.decode(bytes)? {
                    Ok(()) => {
                        self.audio.update(bytes);
                        self.audio_bytes += bytes.len() as u64;
                        return Ok(());
                    }
                    Err(error) => what = error,
                }
            }
        }
        self.audio.update(view);
        self.audio_bytes += view.len() as u64;
        bad(&mut self.integrity, begin, at_ms, &what);
        Ok(())
    }

    fn decode(&mut self, bytes: &[u8]) -> Result<Result<(), String>, Failure> {
        let md5 = &mut self.md5;
        self.player.play(bytes, |block| md5.update(block))
    }
}

/// Looks for the frame behind the one that begins the window.
fn find_next(window: &mut Window<'_, '_>, frame: FlacHeader) -> Result<End, Failure> {
    let mut at = frame.length + 2;
    loop {
        let wanted = at + HEADER_LEN;
        let view = window.fill(wanted)?;
        let ended = view.len() < wanted;
        // A header is judged only when all of it is in view.
        let upto = if ended { view.len() } else { view.len() - HEADER_LEN + 1 };
        while let Some(step) = view.get(at..upto).and_then(|rest| rest.iter().position(|byte| *byte == 0xff)) {
            at += step;
            if view.get(at + 1).is_some_and(|byte| byte & 0xfe == 0xf8)
                && let Some(next) = flac_header(&view[at..])
                && goes_on(&frame, &next)
            {
                return Ok(End::Next(at, next));
            }
            at += 1;
        }
        at = upto;
        if ended || at > FRAME_LEN {
            return Ok(End::Last);
        }
    }
}

/// Whether `next` is the frame after this one, or a little later one.
fn goes_on(frame: &FlacHeader, next: &FlacHeader) -> bool {
    let unit = if frame.variable { u64::from(frame.block_size) } else { 1 };
    frame.variable == next.variable
        && next.number > frame.number
        && next.number - frame.number <= GAP.saturating_mul(unit)
}

fn damage(frame: &FlacHeader, next: &FlacHeader, bytes: &[u8]) -> String {
    if frame.is_followed_by(next) {
        "wrong checksum of a frame".to_owned()
    } else if crc(bytes) == 0 {
        format!("frame {} follows frame {}", next.number, frame.number)
    } else {
        format!("damage between frame {} and frame {}", frame.number, next.number)
    }
}

/// CRC-16 over a whole frame: zero when it is right.
pub(super) fn crc(bytes: &[u8]) -> u16 {
    let mut crc = Crc16Ansi::new(0);
    crc.process_buf_bytes(bytes);
    crc.crc()
}
