//! The files of the lab, made from a seed.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use md5::{Digest as _, Md5};

use super::scenario::Kind;
use crate::engine::audio::container::{crc8, crc16};
use crate::engine::soulseek::chance::Chance;
use crate::engine::swarm::list::{PIECE_LEN, Pieces};

/// The shortest FLAC file made here, bytes.
pub(super) const FLAC_MIN: u64 = 64 * 1024;
/// Samples of one channel in a frame.
const FRAME: u32 = 4096;
/// Hz.
const RATE: u32 = 44_100;
/// STREAMINFO, where it stands and how long it is.
const STREAMINFO_AT: u64 = 8;
const STREAMINFO_LEN: usize = 34;

/// Writes a file of exactly `size` bytes. Those of one seed and several `rip`s are other bytes, and of one recording.
pub(super) fn make(path: &Path, kind: Kind, size: u64, seed: u64, rip: u64) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
    match kind {
        Kind::Random => random(&mut out, size, seed.wrapping_add(rip))?,
        Kind::Flac => flac(&mut out, size, seed, rip)?,
    }
    out.flush()
}

/// Alters a byte.
pub(super) fn spoil(path: &Path, at: u64) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&[!byte[0]])
}

/// The pieces of a file, which give its hash, length and list.
pub(super) fn pieces(path: &Path) -> io::Result<Pieces> {
    let file = File::open(path)?;
    let mut pieces = Pieces::default();
    let mut piece = Vec::new();
    loop {
        piece.clear();
        (&file).take(PIECE_LEN).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return Ok(pieces);
        }
        pieces.add(&piece);
    }
}

fn random(out: &mut impl io::Write, size: u64, seed: u64) -> io::Result<()> {
    let mut chance = Chance::new(seed);
    for _ in 0..size / 8 {
        out.write_all(&chance.bits().to_le_bytes())?;
    }
    let rest = usize::try_from(size % 8).unwrap_or(0);
    out.write_all(&chance.bits().to_le_bytes()[..rest])
}

/// Two channels of 16 bits, every sample stored as it is (verbatim subframes), and padding to the wanted length.
fn flac(out: &mut BufWriter<File>, size: u64, seed: u64, rip: u64) -> io::Result<()> {
    let comment = comment(seed);
    let fixed = STREAMINFO_AT + STREAMINFO_LEN as u64 + 4 + comment.len() as u64 + 4;
    let mut left = size.saturating_sub(fixed);
    let mut frames = 0_u32;
    while let Some(rest) = left.checked_sub(frame_len(frames)) {
        left = rest;
        frames += 1;
    }
    out.write_all(b"fLaC")?;
    block(out, 0, &[0; STREAMINFO_LEN])?;
    block(out, 4, &comment)?;
    block(out, 0x80 | 1, &vec![0; usize::try_from(left).unwrap_or(0)])?;
    let mut music = Music::new(seed, rip);
    let mut md5 = Md5::new();
    let mut frame = Vec::new();
    for number in 0..frames {
        let samples: Vec<[i16; 2]> = (0..FRAME).map(|_| music.sample()).collect();
        for [left, right] in &samples {
            md5.update(left.to_le_bytes());
            md5.update(right.to_le_bytes());
        }
        frame.clear();
        // Fixed block size; 4096 samples, 44.1 kHz; left and right, 16 bits.
        frame.extend([0xff, 0xf8, 0xc9, 0x18]);
        coded_number(&mut frame, number);
        frame.push(frame.iter().fold(0, |crc, byte| crc8(crc, *byte)));
        for channel in 0..2 {
            frame.push(0b0000_0010);
            for sample in &samples {
                frame.extend(sample[channel].to_be_bytes());
            }
        }
        let crc = frame.iter().fold(0, |crc, byte| crc16(crc, *byte));
        frame.extend(crc.to_be_bytes());
        out.write_all(&frame)?;
    }
    out.seek(SeekFrom::Start(STREAMINFO_AT))?;
    out.write_all(&streaminfo(u64::from(frames) * u64::from(FRAME), &md5.finalize().into()))?;
    out.flush()
}

fn block(out: &mut impl io::Write, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.write_all(&[kind, length[1], length[2], length[3]])?;
    out.write_all(bytes)
}

fn streaminfo(samples: u64, md5: &[u8; 16]) -> [u8; STREAMINFO_LEN] {
    let mut info = [0; STREAMINFO_LEN];
    info[0..2].copy_from_slice(&4096_u16.to_be_bytes());
    info[2..4].copy_from_slice(&4096_u16.to_be_bytes());
    // 20 bits of rate, 3 of channels less one, 5 of bits less one, 36 of samples.
    let packed = (u64::from(RATE) << 44) | (1 << 41) | (15 << 36) | samples;
    info[10..18].copy_from_slice(&packed.to_be_bytes());
    info[18..].copy_from_slice(md5);
    info
}

/// The recording that a seed's FLAC file is tagged as.
pub(super) fn recording(seed: u64) -> u128 {
    Chance::new(seed).wide()
}

/// Title, artist and a recording ID that goes with the seed.
fn comment(seed: u64) -> Vec<u8> {
    let id = format!("{:032x}", recording(seed));
    let id = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-");
    let texts = [
        format!("TITLE=Lab {seed}"),
        "ARTIST=slskdn lab".to_owned(),
        "ALBUM=Lab".to_owned(),
        format!("MUSICBRAINZ_TRACKID={id}"),
    ];
    let mut bytes = Vec::new();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend(u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    text(&mut bytes, "slskdn lab");
    bytes.extend(4_u32.to_le_bytes());
    for one in &texts {
        text(&mut bytes, one);
    }
    bytes
}

/// Header and its CRC, two subframes, CRC.
fn frame_len(number: u32) -> u64 {
    let mut coded = Vec::new();
    coded_number(&mut coded, number);
    4 + coded.len() as u64 + 1 + 2 * (1 + 2 * u64::from(FRAME)) + 2
}

/// As UTF-8 would code it, which FLAC extends to 36 bits; here 31 are enough.
fn coded_number(out: &mut Vec<u8>, number: u32) {
    if number < 0x80 {
        out.push(number.to_le_bytes()[0]);
        return;
    }
    let more = (1..6).find(|more| number >> (5 * more + 6) == 0).unwrap_or(5);
    let low = |value: u32| value.to_le_bytes()[0];
    let lead = !(0xff_u8 >> (more + 1));
    out.push(lead | low(number >> (6 * more)));
    for at in (0..more).rev() {
        out.push(0x80 | (low(number >> (6 * at)) & 0x3f));
    }
}

/// Three quiet tones that change twice a second, and a little noise, in which rips differ.
struct Music {
    chance: Chance,
    noise: Chance,
    phases: [u32; 3],
    steps: [u32; 3],
    left: u32,
}

impl Music {
    fn new(seed: u64, rip: u64) -> Self {
        let noise = Chance::new(seed.wrapping_add(rip).wrapping_mul(3));
        Self { chance: Chance::new(seed), noise, phases: [0; 3], steps: [0; 3], left: 0 }
    }

    fn sample(&mut self) -> [i16; 2] {
        if self.left == 0 {
            self.left = RATE / 2;
            for step in &mut self.steps {
                // 100 to 2,000 Hz.
                let hz = 100 + self.chance.below(1_900);
                *step = u32::try_from((hz << 32) / u64::from(RATE)).unwrap_or(0);
            }
        }
        self.left -= 1;
        let noise = self.noise.bits().to_le_bytes();
        let mut sides = [i16::from(noise[0].cast_signed()), i16::from(noise[1].cast_signed())];
        for (at, (phase, step)) in self.phases.iter_mut().zip(self.steps).enumerate() {
            *phase = phase.wrapping_add(step);
            // A triangle of ±4,096.
            let folded = (phase.cast_signed() >> 18).unsigned_abs();
            let level = i16::try_from(folded).unwrap_or(0) - 4_096;
            sides[0] += level;
            sides[1] += if at == 1 { -level } else { level };
        }
        sides
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::audio::container::Check;

    #[test]
    fn random_files_have_their_length_and_depend_on_the_seed_alone() {
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str, size: u64, seed: u64| {
            let path = folder.path().join(name);
            make(&path, Kind::Random, size, seed, 0).unwrap();
            let pieces = pieces(&path).unwrap();
            (pieces.root(), pieces.size())
        };
        let (one, same, other) = (made("a", 100_003, 1), made("b", 100_003, 1), made("c", 100_003, 2));
        assert_eq!((one.1, one), (100_003, same));
        assert_ne!(one.0, other.0);
    }

    #[test]
    fn flac_files_are_whole_and_exactly_as_long_as_asked() {
        let folder = tempfile::tempdir().unwrap();
        for size in [FLAC_MIN, FLAC_MIN + 1, 3_000_000, 5_000_003] {
            let path = folder.path().join(size.to_string());
            make(&path, Kind::Flac, size, 3, 0).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes.len() as u64, size);
            let mut check = Check::for_extension("flac").unwrap();
            bytes.chunks(10_000).for_each(|part| check.feed(part).unwrap());
            check.finish().unwrap();
        }
    }

    #[test]
    fn numbers_are_coded_as_utf_8_does() {
        for number in [0, 0x7f, 0x80, 0x7ff, 0x800, 0xfffd, 0x0001_0000, 0x0010_ffff] {
            let mut coded = Vec::new();
            coded_number(&mut coded, number);
            assert_eq!(coded, char::from_u32(number).unwrap().to_string().into_bytes(), "{number:x}");
        }
    }
}
