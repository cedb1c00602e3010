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
        (0..8)
            .fold(sum ^ u32::from(byte) << 24, |sum, _| if sum >> 31 == 0 { sum << 1 } else { sum << 1 ^ 0x04c1_1db7 })
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

/// A pool whose workers are a script of ours; `slskdn` in it is the program. Beside it the file they may write to.
fn scripted(script: &str) -> (Pool, tempfile::TempDir) {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("worker");
    let text =
        script.replace("slskdn", env!("CARGO_BIN_EXE_slskdn")).replace("LOG", dir.path().join("log").to_str().unwrap());
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    (Pool::new(path, 1).unwrap(), dir)
}

/// Workers that note their process ids before they begin.
const NOTING: &str = "echo $$ >>LOG\nexec slskdn \"$@\"";

/// The process id of the so manieth worker, once it has a file: it grants itself processor time for it then.
async fn busy(dir: &tempfile::TempDir, number: usize) -> rustix::process::Pid {
    loop {
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        if let Some(pid) = log.lines().nth(number).and_then(|line| line.parse().ok()) {
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
            let line = limits.lines().find(|line| line.starts_with("Max cpu time")).unwrap_or_default();
            if line.split_whitespace().nth(3).is_some_and(|most| most != "unlimited") {
                return rustix::process::Pid::from_raw(pid).unwrap();
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// A tempo at which ten seconds of sound take long enough to be disturbed.
fn slow() -> Tempo {
    let tempo = Tempo::default();
    tempo.set_rest_permille(100_000);
    tempo
}

#[tokio::test]
async fn a_worker_killed_in_a_file_is_replaced_and_the_file_tried_once_more() {
    let (pool, dir) = scripted(NOTING);
    let tempo = slow();
    let kill = async {
        let pid = busy(&dir, 0).await;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        tempo.set_rest_permille(0);
        pid
    };
    let (outcome, killed) = tokio::join!(pool.measure(holding(&wav(441_000)), "wav", &tempo), kill);
    let Outcome::Measured(found) = outcome else { panic!("{outcome:?}") };
    assert_eq!(found.samples, 441_000);
    assert_ne!(i32::try_from(pool.idle_workers()[0]).unwrap(), killed.as_raw_nonzero().get());
}

#[tokio::test]
async fn a_file_whose_worker_is_killed_twice_is_given_up() {
    let (pool, dir) = scripted(NOTING);
    let tempo = slow();
    let kill = async {
        for number in 0..2 {
            let pid = busy(&dir, number).await;
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    };
    let (outcome, ()) = tokio::join!(pool.measure(holding(&wav(441_000)), "wav", &tempo), kill);
    let reason = "the worker was ended by signal 9, twice".to_owned();
    assert_eq!(outcome, Outcome::GaveUp { reason });
    measured(&pool, "tone.opus").await;
}

#[tokio::test]
async fn too_much_processor_time_or_memory_costs_the_file() {
    use rustix::process::{Resource, Rlimit, prlimit};
    for (resource, most, maximum, told) in [
        (Resource::Cpu, 0, None, "it took more processor time than a file of its size may"),
        // No more than it has.
        (Resource::As, 1, Some(limits::WORKER_ADDRESS_SPACE), "it took more memory than a worker may have"),
    ] {
        let (pool, dir) = scripted(NOTING);
        let tempo = slow();
        let limit = async {
            let pid = busy(&dir, 0).await;
            prlimit(Some(pid), resource, Rlimit { current: Some(most), maximum }).unwrap();
            tempo.set_rest_permille(0);
        };
        let (outcome, ()) = tokio::join!(pool.measure(holding(&wav(44_100 * 120)), "wav", &tempo), limit);
        assert_eq!(outcome, Outcome::GaveUp { reason: told.to_owned() });
        measured(&pool, "tone.opus").await;
    }
}

#[tokio::test]
async fn a_worker_that_stands_still_is_ended() {
    let (pool, dir) = scripted(NOTING);
    let tempo = slow();
    let stop = async {
        let pid = busy(&dir, 0).await;
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        // From here on waiting takes no time.
        tokio::time::pause();
    };
    let (outcome, ()) = tokio::join!(pool.measure(holding(&wav(441_000)), "wav", &tempo), stop);
    let reason = format!("no progress for {} s", limits::WORKER_STALL_S);
    assert_eq!(outcome, Outcome::GaveUp { reason });
    tokio::time::resume();
    measured(&pool, "tone.opus").await;
}

#[tokio::test]
async fn a_worker_that_cannot_begin_says_nothing_about_the_file() {
    for (script, told) in [
        ("exit 1", "the worker ended with exit status: 1"),
        ("kill -9 $$", "signal 9"),
        // A frame of four gigabytes.
        ("printf '\\377\\377\\377\\377' >&0; read line", "made no sense"),
        // `Unfit`: no filter here.
        ("printf '\\013\\0\\0\\0\\001\\011no filter' >&0; read line", "no filter"),
    ] {
        let (pool, _dir) = scripted(script);
        match pool.measure(holding(&wav(100)), "wav", &Tempo::default()).await {
            Outcome::NotTried { reason } => {
                assert!(
                    reason.starts_with("no worker could be started: ") && reason.contains(told),
                    "{script}: {reason}"
                );
            }
            other => panic!("{script}: {other:?}"),
        }
    }
    let absent = Pool::new(PathBuf::from("/nowhere/slskdn"), 1).unwrap();
    let outcome = absent.measure(holding(&wav(100)), "wav", &Tempo::default()).await;
    assert!(matches!(&outcome, Outcome::NotTried { reason } if reason.contains("No such file")), "{outcome:?}");
}

#[tokio::test]
async fn a_worker_that_lies_is_not_believed() {
    for (answer, told) in [
        // `GaveUp` without a reason.
        ("\\003\\0\\0\\0\\004\\003\\0", "it does not say why"),
        // `NotTried`, with the file in its hands.
        ("\\004\\0\\0\\0\\004\\004\\001x", "the worker's answer made no sense"),
        // `Ready` again.
        ("\\001\\0\\0\\0\\0", "the worker's answer made no sense"),
        // No answer at all.
        ("\\001\\0\\0\\0\\177", "the worker's answer made no sense"),
        ("\\377\\377\\0\\0", "the worker's answer made no sense"),
    ] {
        let (pool, _dir) = scripted(&format!("printf '\\001\\0\\0\\0\\0{answer}' >&0; read line"));
        let outcome = pool.measure(holding(&wav(100)), "wav", &Tempo::default()).await;
        assert_eq!(outcome, Outcome::GaveUp { reason: told.to_owned() }, "{answer}");
        assert_eq!(pool.idle_workers(), Vec::<u32>::new(), "{answer}");
    }
}

#[tokio::test]
async fn samples_and_rates_that_no_sound_has_are_told() {
    let pool = pool();
    // 32-bit float: quiet, and three that are no numbers or beyond all measure.
    let mut bytes = wav(44_100);
    (bytes[20], bytes[34]) = (3, 32);
    bytes[28..32].copy_from_slice(&352_800_u32.to_le_bytes());
    bytes[32] = 8;
    for (number, sample) in bytes[44..].chunks_exact_mut(4).enumerate() {
        let value = match number {
            1_000 => f32::NAN,
            2_000 => f32::INFINITY,
            3_000 => -f32::MAX,
            _ => 0.25,
        };
        sample.copy_from_slice(&value.to_le_bytes());
    }
    let outcome = pool.measure(holding(&bytes), "wav", &Tempo::default()).await;
    let Outcome::Measured(found) = outcome else { panic!("{outcome:?}") };
    assert_eq!((found.samples, found.loudness.sample_peak.to_bits()), (22_050, 0.25_f32.to_bits()));
    assert_eq!(found.integrity.first_bad.unwrap().what, "3 samples are no sound");
    for rate in [0, 1, 4_000_000_000_u32] {
        let mut bytes = wav(4_410);
        bytes[24..28].copy_from_slice(&rate.to_le_bytes());
        let outcome = pool.measure(holding(&bytes), "wav", &Tempo::default()).await;
        assert!(matches!(&outcome, Outcome::Unsupported { .. } | Outcome::Corrupted { .. }), "{rate}: {outcome:?}");
    }
}
