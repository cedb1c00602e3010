//! Formats whose container symphonia takes apart.

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known as id;
use symphonia::core::codecs::audio::{AudioCodecId, AudioDecoderOptions};
use symphonia::core::common::Limit;
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::well_known as format_id;
use symphonia::core::formats::{FormatId, FormatOptions, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;

use super::input::Input;
use super::measure::{Failure, Found, bad};
use super::mp4::Facts;
use super::sink::{CHANNELS_MAX, Sink};
use crate::model::variant::{Codec, Container, Detail, Integrity};

/// Most that a tag's text or picture may take in symphonia's hands, bytes.
const TAG_LEN: usize = 256 * 1024;
/// Damaged packets after which a file is not decoded farther.
const BAD_MAX: u32 = 1_000;

/// Takes a file apart, decodes it, and says what it found.
pub(super) fn read(input: &mut Input<'_>, extension: &str) -> Result<Found, Failure> {
    let (len, wanted_of_it) = (input.len(), input.wanted());
    let mut facts = Facts::default();
    if is_mp4(input)? {
        facts = Facts::read(input)?;
        input.hide(std::mem::take(&mut facts.tag_boxes));
    }
    let stream = MediaSourceStream::new(Box::new(input), MediaSourceStreamOptions::default());
    let mut hint = Hint::new();
    hint.with_extension(extension);
    let limits =
        MetadataOptions::default().limit_tag_bytes(Limit::Maximum(TAG_LEN)).limit_visual_bytes(Limit::Maximum(TAG_LEN));
    let mut reader = symphonia::default::get_probe().probe(&hint, stream, FormatOptions::default(), limits)?;
    let container = container(reader.format_info().format)?;
    let track = reader.default_track(TrackType::Audio).ok_or_else(|| Failure::corrupted("no audio track"))?;
    let Some(CodecParameters::Audio(mut params)) = track.codec_params.clone() else {
        return Err(Failure::unsupported("the audio track's coding is unknown"));
    };
    let (track_id, wanted) = (track.id, track.num_frames);
    let delay = u64::from(track.delay.unwrap_or(0));
    let codec = codec(params.codec).ok_or_else(|| Failure::unsupported(&format!("codec {}", params.codec)))?;
    let aac = facts.aac.as_ref().filter(|_| codec == Codec::Aac);
    if let Some(aac) = aac
        && aac.detail.sbr_present
        && let Some(core) = aac.core_config()
    {
        // The decoder knows no replication: it is told of the core alone.
        params.with_extra_data(Box::from(core)).with_sample_rate(aac.core_rate_hz);
    }
    let mut decoder =
        symphonia::default::get_codecs().make_audio_decoder(&params, &AudioDecoderOptions::default().gapless(false))?;
    let mut sink: Option<Sink> = None;
    let mut integrity = Integrity::default();
    let mut planes: Vec<Vec<f32>> = Vec::new();
    let mut audio_bytes: u64 = 0;
    let mut audio = blake3::Hasher::new();
    loop {
        let packet = match reader.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            Err(Error::IoError(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Err(Error::IoError(error)) => return Err(error.into()),
            Err(error) => {
                bad(&mut integrity, 0, sink.as_ref().map_or(0, Sink::now_ms), &error.to_string());
                break;
            }
        };
        if packet.track_id != track_id {
            continue;
        }
        audio_bytes += packet.data.len() as u64;
        audio.update(&packet.data);
        match decoder.decode(&packet) {
            Ok(block) => {
                let spec = block.spec();
                let channels = spec.channels().count();
                let sink = if let Some(sink) = &mut sink {
                    sink
                } else {
                    let mut new = Sink::new(spec.rate(), channels, codec.is_lossless(), wanted_of_it)?;
                    if container == Container::Mp4 {
                        let core = if aac.is_some_and(|aac| aac.detail.core_only) { None } else { wanted };
                        let (skip, limit) = facts.trim(spec.rate(), core);
                        new.skip(skip);
                        if let Some(limit) = limit {
                            new.limit(limit);
                        }
                    } else {
                        new.skip(delay);
                    }
                    sink.insert(new)
                };
                if channels != sink.channels() || spec.rate() != sink.rate_hz() {
                    bad(&mut integrity, 0, sink.now_ms(), "the sound changes its shape");
                    continue;
                }
                planes.resize(channels, Vec::new());
                block.copy_to_vecs_planar::<f32>(&mut planes);
                let mut parts: [&[f32]; CHANNELS_MAX] = [&[]; CHANNELS_MAX];
                for (part, plane) in parts.iter_mut().zip(&planes) {
                    *part = plane;
                }
                sink.push(&parts[..channels]);
            }
            Err(error @ (Error::DecodeError(_) | Error::IoError(_))) => {
                bad(&mut integrity, 0, sink.as_ref().map_or(0, Sink::now_ms), &error.to_string());
                if integrity.bad_frames >= BAD_MAX {
                    break;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    let sink = sink.ok_or_else(|| Failure::corrupted("not one packet could be decoded"))?;
    // What ADTS and CAF say of their length is an estimate, or counts the padding; half-rate cores count half.
    let exact = matches!(container, Container::Mp4 | Container::Wav | Container::Aiff);
    if exact && !aac.is_some_and(|aac| aac.detail.core_only) {
        integrity.samples_missing = wanted.map_or(0, |wanted| wanted.saturating_sub(sink.decoded()));
    }
    let cookie = params.extra_data.as_deref().filter(|_| codec == Codec::Alac).and_then(|cookie| cookie.get(5));
    let coded = params.bits_per_sample.and_then(|bits| u8::try_from(bits).ok());
    let bit_depth = cookie.copied().or(coded).filter(|bits| (1..=64).contains(bits));
    Ok(Found {
        codec,
        container,
        bit_depth: bit_depth.filter(|_| codec.is_lossless()),
        audio_bytes: audio_bytes.min(len),
        stream_hash: audio.finalize(),
        detail: match codec {
            Codec::Aac => Detail::Aac(aac.map(|aac| aac.detail.clone()).unwrap_or_default()),
            _ => Detail::Plain,
        },
        encoder: None,
        integrity,
        sink,
        has_picture: facts.has_picture,
    })
}

/// Whether the file is of ISO base media.
fn is_mp4(input: &mut Input<'_>) -> std::io::Result<bool> {
    let mut head = [0; 8];
    Ok(input.peek(0, &mut head)? == 8 && head.ends_with(b"ftyp"))
}

fn container(format: FormatId) -> Result<Container, Failure> {
    Ok(match format {
        format_id::FORMAT_ID_ISOMP4 => Container::Mp4,
        format_id::FORMAT_ID_CAF => Container::Caf,
        format_id::FORMAT_ID_ADTS => Container::Adts,
        format_id::FORMAT_ID_WAVE => Container::Wav,
        format_id::FORMAT_ID_AIFF => Container::Aiff,
        format_id::FORMAT_ID_OGG => Container::Ogg,
        format_id::FORMAT_ID_FLAC => Container::Flac,
        format_id::FORMAT_ID_MP3 => Container::Mpeg,
        other => return Err(Failure::unsupported(&format!("container {other}"))),
    })
}

fn codec(codec: AudioCodecId) -> Option<Codec> {
    Some(match codec {
        id::CODEC_ID_FLAC => Codec::Flac,
        id::CODEC_ID_ALAC => Codec::Alac,
        id::CODEC_ID_MP3 => Codec::Mp3,
        id::CODEC_ID_AAC => Codec::Aac,
        id::CODEC_ID_VORBIS => Codec::Vorbis,
        id::CODEC_ID_PCM_S8
        | id::CODEC_ID_PCM_U8
        | id::CODEC_ID_PCM_S16LE
        | id::CODEC_ID_PCM_S16BE
        | id::CODEC_ID_PCM_S24LE
        | id::CODEC_ID_PCM_S24BE
        | id::CODEC_ID_PCM_S32LE
        | id::CODEC_ID_PCM_S32BE
        | id::CODEC_ID_PCM_F32LE
        | id::CODEC_ID_PCM_F32BE
        | id::CODEC_ID_PCM_F64LE
        | id::CODEC_ID_PCM_F64BE => Codec::Wav,
        _ => return None,
    })
}
