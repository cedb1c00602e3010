//! One file: which format it is, who takes it apart, and everything that was found put together.

use std::fs::File;
use std::io;

use symphonia::core::errors::Error;

use super::input::Input;
use super::pulse::Pulse;
use super::sink::{Heard, Sink, millis};
use super::text::clip;
use super::wire::{Answer, Outcome, Wanted};
use super::{flac, generic, mpeg, ogg, tags};
use crate::model::variant::{BadFrame, Codec, Container, Detail, Integrity, Measured, Tags};

/// What the reader of a format found.
pub(super) struct Found {
    pub(super) codec: Codec,
    pub(super) container: Container,
    pub(super) bit_depth: Option<u8>,
    /// Bytes of coded audio alone.
    pub(super) audio_bytes: u64,
    pub(super) stream_hash: blake3::Hash,
    pub(super) detail: Detail,
    pub(super) encoder: Option<String>,
    pub(super) integrity: Integrity,
    pub(super) sink: Sink,
    /// A picture is embedded.
    pub(super) has_picture: bool,
}

/// Why a file was not measured.
#[derive(Debug)]
pub(super) enum Failure {
    Corrupted(String),
    Unsupported(String),
    GaveUp(String),
}

impl Failure {
    pub(super) fn corrupted(reason: &str) -> Self {
        Self::Corrupted(reason.to_owned())
    }

    pub(super) fn unsupported(reason: &str) -> Self {
        Self::Unsupported(reason.to_owned())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::corrupted("the file ends within its headers"),
            // The system has numbers for its errors; others are a decoder's, about the bytes it was given.
            io::ErrorKind::Other if error.raw_os_error().is_none() => {
                Self::Corrupted(format!("its headers make no sense: {error}"))
            }
            _ => Self::GaveUp(format!("the file cannot be read: {error}")),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::IoError(error) => error.into(),
            Error::Unsupported(what) => Self::unsupported(what),
            Error::LimitError(what) => Self::GaveUp(format!("the file asks for too much: {what}")),
            other => Self::Corrupted(other.to_string()),
        }
    }
}

/// Who takes a file apart.
enum Format {
    Flac,
    Mpeg,
    Ogg,
    Other,
}

impl Format {
    /// What the first bytes say, behind `ID3v2` tags that other programs put there. Names are not believed.
    fn of(input: &mut Input<'_>) -> io::Result<Self> {
        let mut at = 0_u64;
        let mut head = [0; 12];
        loop {
            let seen = input.peek(at, &mut head)?;
            match head.get(..seen).unwrap_or_default() {
                [b'I', b'D', b'3', _, _, flags, a, b, c, d, ..] if (a | b | c | d) & 0x80 == 0 => {
                    let body = [a, b, c, d].iter().fold(0_u64, |sum, byte| (sum << 7) | u64::from(**byte));
                    at = at.saturating_add(10 + body + if flags & 0x10 != 0 { 10 } else { 0 });
                }
                [b'f', b'L', b'a', b'C', ..] => return Ok(Self::Flac),
                [b'R', b'I', b'F', b'F', ..]
                | [b'F', b'O', b'R', b'M', ..]
                | [b'c', b'a', b'f', b'f', ..]
                | [_, _, _, _, b'f', b't', b'y', b'p', ..] => return Ok(Self::Other),
                [b'O', b'g', b'g', b'S', ..] => return Ok(Self::Ogg),
                // ADTS: a sync word of twelve bits, layer 0.
                [0xff, second, ..] if second & 0xf6 == 0xf0 => return Ok(Self::Other),
                _ => return Ok(Self::Mpeg),
            }
        }
    }
}

/// Counts a damaged frame, and remembers where the first one is.
pub(super) fn bad(integrity: &mut Integrity, at_byte: u64, at_ms: u64, what: &str) {
    integrity.bad_frames = integrity.bad_frames.saturating_add(1);
    integrity.first_bad.get_or_insert_with(|| BadFrame { at_byte, at_ms, what: clip(what).to_owned() });
}

/// Fills the tables that are made once, so that they are there before the worker locks itself in.
pub(super) fn warm_up() {
    let _ = symphonia::default::get_probe();
    let _ = symphonia::default::get_codecs();
}

/// Measures or draws an open file of `len` bytes.
pub(super) fn measure(file: &File, len: u64, extension: &str, wanted: Wanted, pulse: &mut Pulse) -> Answer {
    Answer::Outcome(match attempt(file, len, extension, wanted, pulse) {
        Ok(answer) => return answer,
        Err(Failure::Corrupted(reason)) => Outcome::Corrupted { reason: clip(&reason).to_owned() },
        Err(Failure::Unsupported(reason)) => Outcome::Unsupported { reason: clip(&reason).to_owned() },
        Err(Failure::GaveUp(reason)) => Outcome::GaveUp { reason: clip(&reason).to_owned() },
    })
}

fn attempt(file: &File, len: u64, extension: &str, wanted: Wanted, pulse: &mut Pulse) -> Result<Answer, Failure> {
    if len == 0 {
        return Err(Failure::corrupted("the file is empty"));
    }
    let mut input = Input::new(file, len, wanted, pulse);
    let Found {
        codec,
        container,
        bit_depth,
        audio_bytes,
        stream_hash,
        detail,
        encoder,
        mut integrity,
        sink,
        has_picture,
    } = match Format::of(&mut input)? {
        Format::Flac => flac::read(&mut input)?,
        Format::Mpeg => mpeg::read(&mut input)?,
        Format::Ogg => ogg::read(&mut input)?,
        Format::Other => generic::read(&mut input, extension)?,
    };
    if sink.wild() > 0 {
        bad(&mut integrity, 0, 0, &format!("{} samples are no sound", sink.wild()));
    }
    let hashes = input.finish()?;
    let (tags, software) = tags::read(file, len);
    let (sample_rate_hz, channels, samples) = (sink.rate_hz(), sink.channels(), sink.heard());
    pulse.say(&Answer::Judging)?;
    let heard = match sink.finish() {
        Heard::Measurements(heard) => heard,
        Heard::Spectrogram(drawn) => return Ok(Answer::Spectrogram(Box::new(drawn.finish(hashes.content)))),
    };
    let duration_ms = millis(samples, sample_rate_hz);
    let bitrate = u128::from(audio_bytes) * 8 * u128::from(sample_rate_hz) / u128::from(samples.max(1)) / 1_000;
    let mut short = [0; 16];
    short.copy_from_slice(&stream_hash.as_bytes()[..16]);
    let measured = Measured {
        codec,
        container,
        sample_rate_hz,
        bit_depth,
        channels: u8::try_from(channels).unwrap_or(u8::MAX),
        samples,
        duration_ms,
        bitrate_kbps: u32::try_from(bitrate).unwrap_or(u32::MAX),
        file_size_bytes: hashes.len,
        content_hash: hashes.content,
        file_sha256: hashes.whole,
        head_sha256: hashes.head,
        stream_hash: short,
        fingerprint: heard.fingerprint,
        sketch: heard.sketch,
        loudness: heard.loudness,
        spectrum: heard.spectrum,
        detail,
        encoder: encoder.or(software),
        integrity,
        tags: Tags { has_picture, ..tags },
    };
    Ok(Answer::Outcome(Outcome::Measured(Box::new(measured))))
}
