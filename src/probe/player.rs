//! Coded packets in, sound out: a symphonia decoder and the sink behind it.

use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::packet::PacketRef;
use symphonia::core::units::{Duration, Timestamp};

use super::measure::Failure;
use super::sink::{CHANNELS_MAX, Sink};
use super::wire::Wanted;

/// Decodes the packets of one file.
pub(super) struct Player {
    decoder: Box<dyn AudioDecoder>,
    planes: Vec<Vec<f32>>,
    pub(super) sink: Sink,
}

impl Player {
    /// A decoder for sound of `rate_hz` and `channels`.
    pub(super) fn new(
        params: &AudioCodecParameters,
        rate_hz: u32,
        channels: usize,
        lossless: bool,
        wanted: Wanted,
    ) -> Result<Self, Failure> {
        let sink = Sink::new(rate_hz, channels, lossless, wanted)?;
        let options = AudioDecoderOptions::default().gapless(false);
        let decoder = symphonia::default::get_codecs().make_audio_decoder(params, &options)?;
        Ok(Self { decoder, planes: vec![Vec::new(); channels], sink })
    }

    /// Decodes one packet, shows the block to `look` and hears it. The error is a sentence about this packet.
    pub(super) fn play(
        &mut self,
        data: &[u8],
        look: impl FnOnce(&GenericAudioBufferRef<'_>),
    ) -> Result<Result<(), String>, Failure> {
        let packet = PacketRef::new(0, Timestamp::ZERO, Duration::ZERO, data);
        match self.decoder.decode_ref(&packet) {
            Ok(block) => {
                let spec = block.spec();
                if spec.channels().count() != self.sink.channels() || spec.rate() != self.sink.rate_hz() {
                    return Ok(Err("the sound changes its shape".to_owned()));
                }
                look(&block);
                block.copy_to_vecs_planar::<f32>(&mut self.planes);
                let mut parts: [&[f32]; CHANNELS_MAX] = [&[]; CHANNELS_MAX];
                for (part, plane) in parts.iter_mut().zip(&self.planes) {
                    *part = plane;
                }
                self.sink.push(&parts[..self.planes.len()]);
                Ok(Ok(()))
            }
            Err(Error::DecodeError(what)) => Ok(Err(what.to_owned())),
            Err(Error::IoError(_)) => Ok(Err("the packet ends too early".to_owned())),
            Err(Error::ResetRequired) => {
                self.decoder.reset();
                Ok(Err("the decoder lost its place".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }
}
