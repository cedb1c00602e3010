//! Ogg (RFC 3533) with Vorbis, Opus or FLAC inside: pages with their checksums, packets out of them, and the moment that
//! the last page says the sound ends.

use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::codecs::audio::well_known::CODEC_ID_VORBIS;

use super::flac::{Info, PcmMd5, crc};
use super::input::Input;
use super::measure::{Failure, Found, bad};
use super::opus;
use super::player::Player;
use super::sink::Sink;
use super::text::kept;
use super::window::Window;
use super::wire::Wanted;
use crate::engine::audio::container::ogg_page_sum;
use crate::model::variant::{Codec, Container, Detail, Integrity};

/// Longest page: header, 255 lacing values, 255 × 255 bytes.
const PAGE_LEN: usize = 27 + 255 + 255 * 255;
/// Longest packet that is put together; a comment with pictures is cut, which harms nothing.
const PACKET_LEN: usize = 1024 * 1024;
/// What is kept of a comment packet: the vendor stands first.
const COMMENT_LEN: usize = 4 * 1_024;
/// Bytes before the first page that are searched for it, and between pages.
const JUNK_MAX: u64 = 1024 * 1024;

/// One page's header.
struct Page {
    continued: bool,
    first: bool,
    last: bool,
    granule: Option<u64>,
    serial: u32,
    number: u32,
    /// Bytes of header and body.
    head: usize,
    len: usize,
}

/// What the packets are.
enum Coding {
    Vorbis { ident: Vec<u8>, nominal_bitrate_kbps: Option<u32>, rate_hz: u32, channels: usize, player: Option<Player> },
    Opus { head: opus::Head, decoder: opus::Decoder, kinds: opus::Kinds, sink: Sink },
    Flac { info: Box<Info>, player: Player, md5: PcmMd5 },
}

/// Takes the file apart, decodes it, and says what it found.
pub(super) fn read(input: &mut Input<'_>) -> Result<Found, Failure> {
    let mut window = Window::new(input);
    while window.skip_id3()? > 0 {}
    let mut stream: Option<Stream> = None;
    let mut integrity = Integrity::default();
    loop {
        let begin = window.offset();
        let Some(page) = next_page(&mut window)? else { break };
        let now_ms = stream.as_ref().map_or(0, Stream::now_ms);
        if window.offset() != begin && stream.is_some() {
            bad(&mut integrity, begin, now_ms, "no page where the next should be");
        }
        let begin = window.offset();
        let bytes = &window.view()[..page.len];
        let (head, body) = bytes.split_at(page.head);
        let lacing = head.get(27..).unwrap_or_default();
        match &mut stream {
            None if page.first => stream = Stream::begin(&page, body, window.wanted())?,
            Some(stream) if page.serial == stream.serial && !page.first => {
                stream.page(&page, lacing, body, begin, &mut integrity)?;
            }
            // Another stream of the file: a picture, a film, a song behind the song.
            _ => {}
        }
        window.take(page.len);
        if stream.as_ref().is_some_and(|stream| stream.ended) {
            break;
        }
    }
    let stream = stream.ok_or_else(|| Failure::unsupported("no sound of a known format in the Ogg file"))?;
    stream.finish(integrity, window.file_len())
}

/// Goes to the next page with a right checksum; `None` at the end of the file.
fn next_page(window: &mut Window<'_, '_>) -> Result<Option<Page>, Failure> {
    let mut left = JUNK_MAX;
    loop {
        let view = window.fill(PAGE_LEN)?;
        if let Some(page) = parse(view) {
            return Ok(Some(page));
        }
        if view.len() < 27 || left == 0 {
            return Ok(None);
        }
        let step = 1 + view[1..].iter().position(|byte| *byte == b'O').unwrap_or(view.len() - 1);
        window.take(step);
        left = left.saturating_sub(step as u64);
    }
}

fn parse(view: &[u8]) -> Option<Page> {
    let header = view.first_chunk::<27>()?;
    if header[..5] != *b"OggS\0" {
        return None;
    }
    let head = 27 + usize::from(header[26]);
    let len = head + view.get(27..head)?.iter().map(|part| usize::from(*part)).sum::<usize>();
    let bytes = view.get(..len)?;
    let field = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if ogg_page_sum(bytes) != field(22) {
        return None;
    }
    let granule = u64::from(field(6)) | u64::from(field(10)) << 32;
    Some(Page {
        continued: header[5] & 1 != 0,
        first: header[5] & 2 != 0,
        last: header[5] & 4 != 0,
        // All ones: no packet ends here. Negative ones make no sense.
        granule: Some(granule).filter(|granule| i64::try_from(*granule).is_ok()),
        serial: field(14),
        number: field(18),
        head,
        len,
    })
}

struct Stream {
    wanted: Wanted,
    serial: u32,
    number: u32,
    coding: Coding,
    packet: Vec<u8>,
    /// The packet under way lost its beginning.
    torn: bool,
    headers_left: u32,
    encoder: Option<String>,
    picture: bool,
    audio: blake3::Hasher,
    audio_bytes: u64,
    /// What the first page of sound says more than it holds.
    origin: Option<u64>,
    packets: u64,
    ended: bool,
}

impl Stream {
    /// From the packet on a first page; `None` for streams that are not sound.
    fn begin(page: &Page, body: &[u8], wanted: Wanted) -> Result<Option<Self>, Failure> {
        let (coding, headers_left) = if body.starts_with(b"OpusHead") {
            let head = opus::Head::parse(body)?;
            let mut sink = Sink::new(opus::RATE_HZ, head.channels, false, wanted)?;
            sink.skip(u64::from(head.detail.pre_skip));
            (Coding::Opus { decoder: opus::Decoder::new(&head)?, head, kinds: opus::Kinds::default(), sink }, 1)
        } else if let Some(ident) = body.strip_prefix(b"\x01vorbis").and_then(|rest| rest.first_chunk::<23>()) {
            let field = |at: usize| u32::from_le_bytes([ident[at], ident[at + 1], ident[at + 2], ident[at + 3]]);
            let nominal = i32::from_le_bytes([ident[13], ident[14], ident[15], ident[16]]);
            let coding = Coding::Vorbis {
                ident: body.to_vec(),
                nominal_bitrate_kbps: u32::try_from(nominal).ok().filter(|rate| *rate > 0).map(|rate| rate / 1_000),
                rate_hz: field(5),
                channels: usize::from(ident[4]),
                player: None,
            };
            (coding, 2)
        } else if let Some(head) = body.strip_prefix(b"\x7fFLAC").and_then(|rest| rest.first_chunk::<46>()) {
            if head[4..8] != *b"fLaC" {
                return Err(Failure::corrupted("no FLAC marker in the Ogg stream"));
            }
            let mut block = [0; 34];
            block.copy_from_slice(&head[12..]);
            let info = Info::parse(block, &head[4..])?;
            let coding =
                Coding::Flac { player: info.player(wanted)?, md5: PcmMd5::new(info.bits), info: Box::new(info) };
            // Blocks follow one to a packet; what is no frame is a header.
            (coding, 0)
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            wanted,
            serial: page.serial,
            number: page.number,
            coding,
            packet: Vec::new(),
            torn: false,
            headers_left,
            encoder: None,
            picture: false,
            audio: blake3::Hasher::new(),
            audio_bytes: 0,
            origin: None,
            packets: 0,
            ended: false,
        }))
    }

    fn sink(&mut self) -> Option<&mut Sink> {
        match &mut self.coding {
            Coding::Vorbis { player, .. } => player.as_mut().map(|player| &mut player.sink),
            Coding::Opus { sink, .. } => Some(sink),
            Coding::Flac { player, .. } => Some(&mut player.sink),
        }
    }

    fn now_ms(&self) -> u64 {
        match &self.coding {
            Coding::Vorbis { player, .. } => player.as_ref().map_or(0, |player| player.sink.now_ms()),
            Coding::Opus { sink, .. } => sink.now_ms(),
            Coding::Flac { player, .. } => player.sink.now_ms(),
        }
    }

    fn page(
        &mut self,
        page: &Page,
        lacing: &[u8],
        body: &[u8],
        begin: u64,
        integrity: &mut Integrity,
    ) -> Result<(), Failure> {
        if page.number != self.number.wrapping_add(1) {
            let missing = format!("page {} follows page {}", page.number, self.number);
            bad(integrity, begin, self.now_ms(), &missing);
            self.packet.clear();
            self.torn = page.continued;
        }
        self.number = page.number;
        let sounding = self.headers_left == 0;
        if page.last && sounding {
            self.end_at(page.granule);
        }
        let before = self.sink().map_or(0, |sink| sink.decoded());
        let mut opus_samples = 0;
        let mut at = 0;
        for part in lacing {
            let len = usize::from(*part);
            let bytes = body.get(at..at + len).unwrap_or_default();
            at += len;
            let most = if self.headers_left > 0 && self.packets == 0 { COMMENT_LEN } else { PACKET_LEN };
            if self.headers_left > 0 {
                // Its usual spellings; only the beginning of a comment is kept.
                let name = |window: &[u8]| window.eq_ignore_ascii_case(b"METADATA_BLOCK_PICTURE=");
                self.picture |= bytes.windows(23).any(name);
            }
            let room = most.saturating_sub(self.packet.len()).min(bytes.len());
            self.packet.extend_from_slice(&bytes[..room]);
            if len == 255 {
                continue;
            }
            let packet = std::mem::take(&mut self.packet);
            if !std::mem::take(&mut self.torn) {
                opus_samples += if self.headers_left == 0 { opus::samples(&packet) } else { 0 };
                self.take(&packet, begin, integrity)?;
            }
            self.packet = packet;
            self.packet.clear();
        }
        if sounding
            && self.origin.is_none()
            && let Some(granule) = page.granule
        {
            let held = match self.coding {
                Coding::Opus { .. } => opus_samples,
                _ => self.sink().map_or(0, |sink| sink.decoded()) - before,
            };
            // The first page may begin later than zero, as a recording of a stream does.
            self.origin = Some(if page.last { 0 } else { granule.saturating_sub(held) });
        }
        self.ended = page.last;
        Ok(())
    }

    /// The sound ends at this position, whatever the packets hold.
    fn end_at(&mut self, granule: Option<u64>) {
        let skip = match &self.coding {
            Coding::Opus { head, .. } => u64::from(head.detail.pre_skip),
            _ => 0,
        };
        let origin = self.origin.unwrap_or(0);
        if let (Some(granule), Some(sink)) = (granule, self.sink()) {
            sink.limit(granule.saturating_sub(origin).saturating_sub(skip));
        }
    }

    fn take(&mut self, packet: &[u8], begin: u64, integrity: &mut Integrity) -> Result<(), Failure> {
        self.packets += 1;
        if self.headers_left > 0 {
            self.headers_left -= 1;
            return self.header(packet);
        }
        if let Coding::Flac { .. } = self.coding
            && packet.first() != Some(&0xff)
        {
            self.encoder = self.encoder.take().or_else(|| vendor(packet.get(4..)?));
            return Ok(());
        }
        self.audio.update(packet);
        self.audio_bytes += packet.len() as u64;
        let result = match &mut self.coding {
            // Some encoders say their headers again; players pass over them.
            Coding::Vorbis { .. } if is_vorbis_header(packet) => Ok(()),
            Coding::Vorbis { player: Some(player), .. } => player.play(packet, |_| {})?,
            Coding::Vorbis { player: None, .. } => Ok(()),
            Coding::Opus { decoder, kinds, sink, .. } => {
                kinds.count(packet);
                decoder.play(packet, sink)
            }
            Coding::Flac { player, md5, .. } if crc(packet) == 0 => player.play(packet, |block| md5.update(block))?,
            Coding::Flac { .. } => Err("wrong checksum of a frame".to_owned()),
        };
        if let Err(what) = result {
            bad(integrity, begin, self.now_ms(), &what);
        }
        Ok(())
    }

    fn header(&mut self, packet: &[u8]) -> Result<(), Failure> {
        match &mut self.coding {
            Coding::Opus { .. } => self.encoder = packet.strip_prefix(b"OpusTags").and_then(vendor),
            Coding::Vorbis { ident, rate_hz, channels, player, .. } => {
                if let Some(comment) = packet.strip_prefix(b"\x03vorbis") {
                    self.encoder = vendor(comment);
                }
                if self.headers_left == 0 {
                    ident.extend_from_slice(packet);
                    let mut params = AudioCodecParameters::new();
                    params
                        .for_codec(CODEC_ID_VORBIS)
                        .with_sample_rate(*rate_hz)
                        .with_extra_data(std::mem::take(ident).into_boxed_slice());
                    *player = Some(Player::new(&params, *rate_hz, *channels, false, self.wanted)?);
                }
            }
            Coding::Flac { .. } => {}
        }
        Ok(())
    }

    fn finish(self, mut integrity: Integrity, len: u64) -> Result<Found, Failure> {
        if !self.ended {
            let at_ms = self.now_ms();
            bad(&mut integrity, len, at_ms, "the stream ends without its last page");
        }
        let (codec, bit_depth, detail, sink) = match self.coding {
            Coding::Vorbis { player, nominal_bitrate_kbps, .. } => {
                let player = player.ok_or_else(|| Failure::corrupted("the file ends within its headers"))?;
                (Codec::Vorbis, None, Detail::Vorbis { nominal_bitrate_kbps }, player.sink)
            }
            Coding::Opus { head, kinds, sink, .. } => {
                let mut detail = head.detail;
                kinds.fill(&mut detail);
                (Codec::Opus, None, Detail::Opus(detail), sink)
            }
            Coding::Flac { info, player, md5 } => {
                integrity.md5 = md5.check(info.detail.pcm_md5);
                let decoded = player.sink.decoded();
                integrity.samples_missing = info.detail.total_samples.saturating_sub(decoded);
                (Codec::Flac, u8::try_from(info.bits).ok(), Detail::Flac(info.detail), player.sink)
            }
        };
        if sink.decoded() == 0 && self.audio_bytes > 0 && integrity.bad_frames > 0 {
            return Err(Failure::corrupted("not one packet could be decoded"));
        }
        Ok(Found {
            codec,
            container: Container::Ogg,
            bit_depth,
            audio_bytes: self.audio_bytes,
            stream_hash: self.audio.finalize(),
            detail,
            encoder: self.encoder,
            integrity,
            sink,
            has_picture: self.picture,
        })
    }
}

/// Packets of sound are even.
fn is_vorbis_header(packet: &[u8]) -> bool {
    matches!(packet, [1 | 3 | 5, name @ ..] if name.starts_with(b"vorbis"))
}

/// The program that coded it, which begins every comment.
fn vendor(comment: &[u8]) -> Option<String> {
    let (len, rest) = comment.split_first_chunk::<4>()?;
    kept(&String::from_utf8_lossy(rest.get(..u32::from_le_bytes(*len) as usize)?))
}
