//! Audio files measured through real worker processes.
#![allow(clippy::unwrap_used, reason = "tests, their helpers included")]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use slskdn::model::limits;
use slskdn::model::variant::{Codec, Container, Md5Check, Measured};
use slskdn::probe::{self, Outcome, Pool, Tempo};

fn pool() -> Pool {
    Pool::new(PathBuf::from(env!("CARGO_BIN_EXE_slskdn")), 1).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/audio").join(name)
}

fn holding(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

async fn measured(pool: &Pool, name: &str) -> Measured {
    let file = probe::open(&fixture(name)).unwrap();
    match pool.measure(file, name, &Tempo::default()).await {
        Outcome::Measured(measured) => *measured,
        other => panic!("{name}: {other:?}"),
    }
}

/// Sixteen bits, two channels, 44.1 kHz: a triangle on the left, silence on the right.
fn wav(samples: u32) -> Vec<u8> {
    let len = samples * 4;
    let mut out = b"RIFF".to_vec();
    out.extend((len + 36).to_le_bytes());
    out.extend(b"WAVEfmt \x10\0\0\0\x01\0\x02\0\x44\xac\0\0\x10\xb1\x02\0\x04\0\x10\0data");
    out.extend(len.to_le_bytes());
    for n in 0..samples {
        let left = i16::try_from(n % 200).unwrap() * 100 - 10_000;
        out.extend(left.to_le_bytes());
        out.extend([0, 0]);
    }
    out
}

#[tokio::test]
async fn every_format_is_as_long_as_what_was_coded() {
    let pool = pool();
    for (name, codec, container, samples, bits) in [
        ("tone.flac", Codec::Flac, Container::Flac, 44_100, Some(16)),
        ("tone.oga", Codec::Flac, Container::Ogg, 44_100, Some(16)),
        ("tone-alac.m4a", Codec::Alac, Container::Mp4, 44_100, Some(16)),
        ("tone.mp3", Codec::Mp3, Container::Mpeg, 44_100, None),
        ("tone.m4a", Codec::Aac, Container::Mp4, 44_100, None),
        ("tone.ogg", Codec::Vorbis, Container::Ogg, 44_100, None),
        ("tone.opus", Codec::Opus, Container::Ogg, 48_000, None),
    ] {
        let found = measured(&pool, name).await;
        assert_eq!((found.codec, found.container), (codec, container), "{name}");
        assert_eq!((found.samples, found.duration_ms, found.bit_depth), (samples, 1_000, bits), "{name}");
        assert!(found.integrity.is_whole(), "{name}: {:?}", found.integrity);
        let bytes = std::fs::read(fixture(name)).unwrap();
        assert_eq!(found.content_hash.0, *blake3::hash(&bytes).as_bytes(), "{name}");
        assert_eq!(found.file_size_bytes, bytes.len() as u64, "{name}");
        // The same sound, whatever it was coded with: a sine at half of full scale less what mixing took.
        let loudness = found.loudness.integrated_lufs.unwrap();
        assert!((loudness + 26.4).abs() < 0.7, "{name}: {loudness}");
    }
    let flac = measured(&pool, "tone.flac").await;
    assert_eq!(flac.integrity.md5, Md5Check::Equal);
    // The same coded frames in two containers, the same audio in one.
    assert_eq!(flac.stream_hash, measured(&pool, "tone.oga").await.stream_hash);
}

#[tokio::test]
async fn plain_samples_are_measured_and_hashed_once_through() {
    let bytes = wav(88_200);
    let outcome = pool().measure(holding(&bytes), "wav", &Tempo::default()).await;
    let Outcome::Measured(found) = outcome else { panic!("{outcome:?}") };
    assert_eq!((found.codec, found.container, found.samples), (Codec::Wav, Container::Wav, 88_200));
    assert_eq!(found.content_hash.0, *blake3::hash(&bytes).as_bytes());
    assert!((found.loudness.sample_peak - 10_000.0 / 32_768.0).abs() < 1e-6);
}

#[tokio::test]
async fn a_flipped_bit_in_a_flac_frame_is_found_where_it_is() {
    let pool = pool();
    let mut bytes = std::fs::read(fixture("tone.flac")).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0x10;
    let outcome = pool.measure(holding(&bytes), "flac", &Tempo::default()).await;
    let Outcome::Measured(found) = outcome else { panic!("{outcome:?}") };
    assert_eq!((found.integrity.bad_frames, found.integrity.md5), (1, Md5Check::Different));
    let bad = found.integrity.first_bad.unwrap();
    let frame = u64::from(u32::try_from(at).unwrap());
    assert!(bad.at_byte <= frame && frame - bad.at_byte < 10_000, "{bad:?} for {at}");
    assert!((400..600).contains(&bad.at_ms), "{bad:?}");
}

/// The checksum of an Ogg page (RFC 3533, section 6), its own field taken as zero.
fn ogg_sum(page: &[u8]) -> u32 {
    page.iter().enumerate().fold(0, |sum, (at, byte)| {
        let byte = if (22..26).contains(&at) { 0 } else { *byte };
        (0..8).fold(sum ^ u32::from(byte) << 24, |sum, _| if sum >> 31 == 0 { sum << 1 } else { sum << 1 ^ 0x04c1_1db7 })
    })
}

#[tokio::test]
async fn headers_said_twice_are_no_damage() {
    let pool = pool();
    let bytes = std::fs::read(fixture("tone.ogg")).unwrap();
    let (mut pages, mut rest) = (Vec::new(), bytes.as_slice());
    while !rest.is_empty() {
        let head = 27 + usize::from(rest[26]);
        let len = head + rest[27..head].iter().map(|part| usize::from(*part)).sum::<usize>();
        pages.push(rest[..len].to_vec());
        rest = &rest[len..];
    }
    // The first packet once more, between the headers and the sound; its page is no longer the first.
    let mut again = pages[0].clone();
    again[5] = 0;
    let sounding = pages.iter().position(|page| page[6..14] != [0; 8]).unwrap();
    pages.insert(sounding, again);
    for (number, page) in pages.iter_mut().enumerate() {
        page[18..22].copy_from_slice(&u32::try_from(number).unwrap().to_le_bytes());
        let sum = ogg_sum(page);
        page[22..26].copy_from_slice(&sum.to_le_bytes());
    }
    let outcome = pool.measure(holding(&pages.concat()), "ogg", &Tempo::default()).await;
    let Outcome::Measured(found) = outcome else { panic!("{outcome:?}") };
    assert_eq!((found.integrity.bad_frames, found.integrity.first_bad), (0, None));
    assert_eq!(found.duration_ms, measured(&pool, "tone.ogg").await.duration_ms);
}

#[tokio::test]
async fn what_is_no_sound_is_said_to_be_none() {
    let pool = pool();
    let nothing = vec![0; 100_000];
    for (bytes, name) in
        [(&b""[..], "mp3"), (b"plain text, and not a short one either", "flac"), (nothing.as_slice(), "wav")]
    {
        let outcome = pool.measure(holding(bytes), name, &Tempo::default()).await;
        assert!(matches!(outcome, Outcome::Corrupted { .. } | Outcome::Unsupported { .. }), "{name}: {outcome:?}");
    }
}

#[tokio::test]
async fn mutated_files_cost_a_file_and_nothing_more() {
    let pool = pool();
    let mut state = 0x5eed_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below.max(1)
    };
    for round in 0..8 {
        for name in ["tone.mp3", "tone.m4a", "tone.ogg", "tone.opus"] {
            let mut bytes = std::fs::read(fixture(name)).unwrap();
            match round % 4 {
                0 => bytes.truncate(next(bytes.len())),
                1 => {
                    let at = next(bytes.len());
                    let upto = (at + next(2_000)).min(bytes.len());
                    bytes[at..upto].fill(0);
                }
                _ => {
                    for _ in 0..=next(12) {
                        let at = next(if round % 2 == 0 { 300 } else { bytes.len() });
                        bytes[at] ^= 1 << next(8);
                    }
                }
            }
            // Any outcome will do; having none, or no worker afterwards, will not.
            pool.measure(holding(&bytes), name, &Tempo::default()).await;
        }
    }
    assert!(measured(&pool, "tone.ogg").await.integrity.is_whole());
}

#[tokio::test]
async fn a_dead_worker_is_replaced_and_a_dropped_file_ends_its_worker() {
    let pool = pool();
    measured(&pool, "tone.opus").await;
    let before = pool.idle_workers();
    let pid = rustix::process::Pid::from_raw(i32::try_from(before[0]).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    measured(&pool, "tone.opus").await;
    let after = pool.idle_workers();
    assert_ne!(before, after);
    let slow = Tempo::default();
    slow.set_rest_permille(1_000_000);
    let long = holding(&wav(44_100 * 60));
    let bounded = tokio::time::timeout(std::time::Duration::from_millis(500), pool.measure(long, "wav", &slow));
    assert!(bounded.await.is_err(), "a rest of a thousand times the work ends in no half second");
    assert_eq!(pool.idle_workers(), Vec::<u32>::new());
    measured(&pool, "tone.opus").await;
    assert_ne!(pool.idle_workers(), after);
}

#[tokio::test]
async fn a_worker_is_locked_in_and_stays_small() {
    let pool = pool();
    for name in ["tone.mp3", "tone.m4a", "tone.ogg", "tone.opus", "tone.mp3"] {
        measured(&pool, name).await;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", pool.idle_workers()[0])).unwrap();
    let field = |name: &str| {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {status}"));
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    // 2 is a filter of system calls.
    assert_eq!((field("Seccomp:"), field("NoNewPrivs:"), field("Threads:")), (2, 1, 1));
    assert!(field("RssAnon:") * 1_024 <= limits::WORKER_ANONYMOUS, "{} KiB", field("RssAnon:"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", pool.idle_workers()[0])).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max address space")).unwrap();
    assert!(line.contains(&slskdn::model::limits::WORKER_ADDRESS_SPACE.to_string()), "{line}");
}

#[tokio::test]
async fn every_format_has_a_spectrogram_with_its_tone_in_it() {
    let pool = pool();
    // 997 Hz in every one of them.
    for name in ["tone.flac", "tone.oga", "tone-alac.m4a", "tone.mp3", "tone.m4a", "tone.ogg", "tone.opus"] {
        let drawn = pool.spectrogram(probe::open(&fixture(name)).unwrap(), name).await.unwrap();
        let bytes = std::fs::read(fixture(name)).unwrap();
        assert_eq!(drawn.content_hash.0, *blake3::hash(&bytes).as_bytes(), "{name}");
        assert_eq!((usize::from(drawn.rows), drawn.duration_ms()), (limits::SPECTROGRAM_ROWS, 1_000), "{name}");
        let middle = drawn.column(drawn.columns() / 2);
        let loudest = middle.iter().enumerate().max_by_key(|(_, level)| **level).map(|(row, _)| row);
        let band = 1_000 * 2 * limits::SPECTROGRAM_ROWS / drawn.sample_rate_hz as usize;
        assert!(loudest.is_some_and(|row| row.abs_diff(band) <= 1), "{name}: {loudest:?} is not {band}");
    }
    // The same worker measures the next file.
    assert_eq!(pool.idle_workers().len(), 1);
    let worker = pool.idle_workers();
    measured(&pool, "tone.flac").await;
    assert_eq!(pool.idle_workers(), worker);
}

#[tokio::test]
async fn what_cannot_be_decoded_has_no_spectrogram_and_says_why() {
    let pool = pool();
    let none = pool.spectrogram(holding(b"this is not music"), "flac").await;
    assert!(matches!(&none, Err(Outcome::Unsupported { reason }) if !reason.is_empty()), "{none:?}");
    let none = pool.spectrogram(holding(b""), "wav").await;
    assert!(matches!(&none, Err(Outcome::Corrupted { reason }) if reason == "the file is empty"), "{none:?}");
}

#[tokio::test]
async fn the_spectrogram_of_a_long_file_fits_its_answer() {
    // Eleven minutes: more windows than columns many times over.
    let drawn = pool().spectrogram(holding(&wav(30_000_000)), "wav").await.unwrap();
    assert!((limits::SPECTROGRAM_COLUMNS / 2..=limits::SPECTROGRAM_COLUMNS).contains(&drawn.columns()));
    assert_eq!(drawn.samples, 30_000_000);
}
