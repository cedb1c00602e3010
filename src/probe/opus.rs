//! Opus: libopus in Rust behind a safe face, and what packets say of themselves (RFC 6716, 3.1; RFC 7845).

use unsafe_libopus::{
    OPUS_OK, OpusMSDecoder, opus_multistream_decode_float, opus_multistream_decoder_create,
    opus_multistream_decoder_destroy,
};

use super::measure::Failure;
use super::sink::{CHANNELS_MAX, Sink};
use crate::model::variant::{OpusApplication, OpusBandwidth, OpusDetail};

/// Every Opus stream is decoded at this rate, Hz.
pub(super) const RATE_HZ: u32 = 48_000;
/// Longest packet: 120 ms, samples.
const PACKET_MAX: usize = 5_760;
/// Where each channel of WAVE's order is found in Vorbis's order, by number of channels (RFC 7845, 5.1.1.2).
const ORDER: [&[usize]; CHANNELS_MAX] = [
    &[0],
    &[0, 1],
    &[0, 2, 1],
    &[0, 1, 2, 3],
    &[0, 2, 1, 3, 4],
    &[0, 2, 1, 5, 3, 4],
    &[0, 2, 1, 6, 5, 3, 4],
    &[0, 2, 1, 7, 5, 6, 3, 4],
];

/// The identification header.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) channels: usize,
    pub(super) detail: OpusDetail,
    streams: u8,
    coupled: u8,
    mapping: [u8; CHANNELS_MAX],
}

impl Head {
    /// Reads the packet that begins with `OpusHead`.
    pub(super) fn parse(packet: &[u8]) -> Result<Self, Failure> {
        let wrong = || Failure::corrupted("impossible Opus header");
        let &[version, channels, a, b, c, d, e, f, g, h, family, ref rest @ ..] =
            packet.strip_prefix(b"OpusHead").ok_or_else(wrong)?
        else {
            return Err(wrong());
        };
        let count = usize::from(channels);
        if version & 0xf0 != 0 || count == 0 {
            return Err(wrong());
        }
        let mut head = Self {
            channels: count,
            detail: OpusDetail {
                pre_skip: u16::from_le_bytes([a, b]),
                input_sample_rate_hz: u32::from_le_bytes([c, d, e, f]),
                gain_q8: i16::from_le_bytes([g, h]),
                ..OpusDetail::default()
            },
            streams: 1,
            coupled: channels.saturating_sub(1),
            mapping: [0, 1, 0, 0, 0, 0, 0, 0],
        };
        match (family, rest) {
            (0, _) if count <= 2 => {}
            (1, [streams, coupled, mapping @ ..]) if count <= CHANNELS_MAX && mapping.len() >= count => {
                (head.streams, head.coupled) = (*streams, *coupled);
                head.mapping[..count].copy_from_slice(&mapping[..count]);
            }
            _ => return Err(Failure::unsupported(&format!("Opus channel mapping {family} with {channels} channels"))),
        }
        Ok(head)
    }
}

/// A decoder of one stream.
pub(super) struct Decoder {
    state: *mut OpusMSDecoder,
    channels: usize,
    gain: f32,
    interleaved: Vec<f32>,
    planes: Vec<Vec<f32>>,
}

impl Decoder {
    pub(super) fn new(head: &Head) -> Result<Self, Failure> {
        let channels = i32::try_from(head.channels).unwrap_or(0);
        let mut error = 0;
        #[expect(unsafe_code, reason = "libopus translated from C has C's interface")]
        // SAFETY: `mapping` has CHANNELS_MAX entries and `channels` is at most that (Head::parse); the function reads that
        // many, checks streams and mapping itself, and writes `error`, which lives here.
        let state = unsafe {
            opus_multistream_decoder_create(
                i32::try_from(RATE_HZ).unwrap_or(0),
                channels,
                i32::from(head.streams),
                i32::from(head.coupled),
                head.mapping.as_ptr(),
                &raw mut error,
            )
        };
        if state.is_null() || error != OPUS_OK {
            return Err(Failure::corrupted("impossible Opus streams"));
        }
        Ok(Self {
            state,
            channels: head.channels,
            gain: 10.0_f32.powf(f32::from(head.detail.gain_q8) / (20.0 * 256.0)),
            interleaved: vec![0.0; PACKET_MAX * head.channels],
            planes: vec![Vec::with_capacity(PACKET_MAX); head.channels],
        })
    }

    /// Decodes one packet into the sink.
    pub(super) fn play(&mut self, packet: &[u8], sink: &mut Sink) -> Result<(), String> {
        let len = i32::try_from(packet.len()).map_err(|_| "packet too long")?;
        if packet.is_empty() {
            return Err("empty packet".to_owned());
        }
        #[expect(unsafe_code, reason = "libopus translated from C has C's interface")]
        // SAFETY: `state` came from the create function and is destroyed only on drop; `packet` is `len` bytes long; the
        // buffer holds PACKET_MAX samples for each channel, which is what the function is told.
        let samples = unsafe {
            opus_multistream_decode_float(
                self.state,
                packet.as_ptr(),
                len,
                self.interleaved.as_mut_ptr(),
                i32::try_from(PACKET_MAX).unwrap_or(0),
                0,
            )
        };
        let samples = usize::try_from(samples).map_err(|_| format!("packet refused ({samples})"))?;
        let mut parts: [&[f32]; CHANNELS_MAX] = [&[]; CHANNELS_MAX];
        let order = ORDER.get(self.channels - 1).copied().unwrap_or_default();
        for (plane, from) in self.planes.iter_mut().zip(order) {
            plane.clear();
            let samples = self.interleaved.iter().skip(*from).step_by(self.channels).take(samples);
            plane.extend(samples.map(|sample| sample * self.gain));
        }
        for (part, plane) in parts.iter_mut().zip(&self.planes) {
            *part = plane;
        }
        sink.push(&parts[..self.channels]);
        Ok(())
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "libopus translated from C has C's interface")]
        // SAFETY: `state` came from the create function and nobody else has it.
        unsafe {
            opus_multistream_decoder_destroy(self.state);
        }
    }
}

/// Samples of a packet at 48 kHz; 0 for what is no packet.
pub(super) fn samples(packet: &[u8]) -> u64 {
    let Some(first) = packet.first() else { return 0 };
    let config = first >> 3;
    let frame: u64 = match config {
        0..12 => [480, 960, 1_920, 2_880][usize::from(config & 3)],
        12..16 => [480, 960][usize::from(config & 1)],
        _ => [120, 240, 480, 960][usize::from(config & 3)],
    };
    let frames = match first & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => packet.get(1).map_or(0, |count| u64::from(count & 0x3f)),
    };
    let all = frame * frames;
    if all <= PACKET_MAX as u64 { all } else { 0 }
}

/// Counts what packets are of.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    voice: u64,
    music: u64,
    quick: u64,
    bandwidth: Option<OpusBandwidth>,
}

impl Kinds {
    pub(super) fn count(&mut self, packet: &[u8]) {
        let Some(first) = packet.first() else { return };
        let config = first >> 3;
        match config {
            0..16 => self.voice += 1,
            _ if config & 3 < 2 => self.quick += 1,
            _ => self.music += 1,
        }
        let bandwidth = match config {
            0..4 | 16..20 => OpusBandwidth::Narrow,
            4..8 => OpusBandwidth::Medium,
            8..12 | 20..24 => OpusBandwidth::Wide,
            12..14 | 24..28 => OpusBandwidth::Superwide,
            _ => OpusBandwidth::Full,
        };
        self.bandwidth = self.bandwidth.max(Some(bandwidth));
    }

    pub(super) fn fill(self, detail: &mut OpusDetail) {
        detail.bandwidth = self.bandwidth.unwrap_or_default();
        detail.application = if self.voice > self.music.max(self.quick) {
            OpusApplication::Voip
        } else if self.quick > self.music {
            OpusApplication::LowDelay
        } else {
            OpusApplication::Audio
        };
    }
}
