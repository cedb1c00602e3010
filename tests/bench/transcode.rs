//! The transcode verdict over the corpus of `tests/bench/corpus`: the confusion table of `docs/doctor.md`.
//!
//! `cargo bench --bench transcode -- CORPUS [--list] [CLASS...]` judges every `CORPUS/CLASS/*.wav` as if it were a
//! lossless file, prints a row per class, the misjudged files and the CPU time of spectrum and grids for 30 minutes of
//! audio. `--list` prints every file with its measurements instead, tab-separated.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program for people to run"
)]

use std::fs;
use std::path::Path;

use slskdn::engine::audio::spectrum::SpectrumMeter;
use slskdn::engine::audio::transcode::judge;
use slskdn::model::id::ContentHash;
use slskdn::model::spectrum::Spectrum;
use slskdn::model::variant::{Codec, Container, Detail, Integrity, Loudness, Measured, Tags};
use slskdn::model::verdict::{Judgement, Verdict};

/// Name of a set, and its classes.
const SETS: [(&str, &[&str]); 4] = [
    (
        "clean",
        &[
            "lossless",
            "clipped_6db",
            "mono",
            "dual_mono",
            "quiet_24db",
            "vinyl",
            "band_gentle",
            "band_tape_12k",
            "band_old_5k",
            "band_fm_15k",
            "band_conv_20k",
            "rate_32k",
            "rate_44k_24bit",
            "rate_48_to_44",
            "rate_48k_16bit",
            "rate_48k_24bit",
            "rate_96k_24bit",
            "real_flac",
        ],
    ),
    (
        "tuned",
        &[
            "mp3_128",
            "mp3_192",
            "mp3_256",
            "mp3_320",
            "mp3_V2",
            "mp3_V0",
            "aac_128",
            "aac_256",
            "vorbis_q5",
            "vorbis_q8",
            "opus_128",
            "up_22k",
        ],
    ),
    (
        "held",
        &[
            "mp3_224",
            "mp3_V1",
            "mp3_V4",
            "lame_256_q0",
            "lame_320_q7_stereo",
            "lame_abr160",
            "aac_192",
            "aac_320_fast",
            "vorbis_q3",
            "vorbis_q6",
            "opus_96",
            "opus_160",
        ],
    ),
    ("real", &["real_vorbis", "real_opus"]),
];

struct Wav {
    rate: u32,
    bits: u16,
    planes: Vec<Vec<f32>>,
}

/// Plain PCM of 8 to 32 bits.
fn read(path: &Path) -> Option<Wav> {
    let bytes = fs::read(path).unwrap();
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (mut at, mut format) = (12, None);
    loop {
        let length = usize::try_from(word(at + 4)?).ok()?;
        match bytes.get(at..at + 4)? {
            b"fmt " => format = Some((usize::from(half(at + 10)?), word(at + 12)?, half(at + 22)?)),
            b"data" => {
                let (channels, rate, bits) = format?;
                let width = usize::from(bits / 8);
                let mut planes = vec![Vec::new(); channels];
                let data = &bytes[at + 8..(at + 8 + length).min(bytes.len())];
                for frame in data.chunks_exact(width * channels) {
                    for (plane, sample) in planes.iter_mut().zip(frame.chunks_exact(width)) {
                        let mut top = [0; 4];
                        top[4 - width..].copy_from_slice(sample);
                        if width == 1 {
                            top[3] ^= 0x80;
                        }
                        plane.push((f64::from(i32::from_le_bytes(top)) / 2_147_483_648.0) as f32);
                    }
                }
                return Some(Wav { rate, bits, planes });
            }
            _ => {}
        }
        at += 8 + length + length % 2;
    }
}

/// As much of a measured file as the verdict on a lossless one reads.
fn measured(wav: &Wav, spectrum: Spectrum) -> Measured {
    let channels = u8::try_from(wav.planes.len()).unwrap();
    Measured {
        codec: Codec::Wav,
        container: Container::Wav,
        sample_rate_hz: wav.rate,
        bit_depth: Some(u8::try_from(wav.bits).unwrap()),
        channels,
        samples: wav.planes[0].len() as u64,
        duration_ms: wav.planes[0].len() as u64 * 1000 / u64::from(wav.rate),
        bitrate_kbps: wav.rate * u32::from(wav.bits) * u32::from(channels) / 1000,
        file_size_bytes: 0,
        content_hash: ContentHash([0; 32]),
        file_sha256: [0; 32],
        head_sha256: [0; 32],
        stream_hash: [0; 16],
        fingerprint: Vec::new(),
        sketch: 0,
        loudness: Loudness::default(),
        spectrum,
        detail: Detail::Plain,
        encoder: None,
        integrity: Integrity::default(),
        tags: Tags::default(),
    }
}

/// CPU time of this thread, seconds.
fn cpu() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn list(class: &str, name: &str, spectrum: &Spectrum, judgement: &Judgement) {
    let edge = spectrum.edge;
    print!("{class}\t{name}\t{}\t{:.2}\t", judgement.verdict.name(), judgement.confidence);
    print!(
        "windows {}\tedge {} Hz {:.1} dB {} Hz wide, {:.0} over {:.0}, floor {:.0} to {:.0}\tband {}\tbits {}\tside {:.0}",
        spectrum.windows,
        edge.hz,
        edge.depth_db,
        edge.width_hz,
        edge.below_db,
        edge.above_db,
        edge.floor_db,
        edge.floor_peak_db,
        spectrum.effective_bandwidth_hz,
        spectrum.used_bits,
        spectrum.side_db
    );
    for grid in &spectrum.grids {
        let name = grid.codec.name();
        print!(
            "\t{name} {:.1} {:.1} @{} {}/{} {}",
            grid.strength, grid.runner_up, grid.offset, grid.agreeing, grid.groups, grid.excerpts
        );
    }
    println!();
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let listing = arguments.iter().any(|word| word == "--list");
    arguments.retain(|word| word != "--list");
    let Some(corpus) = arguments.first().cloned() else {
        println!("usage: cargo bench --bench transcode -- CORPUS [--list] [CLASS...]");
        return;
    };
    let wanted = &arguments[1..];
    let (mut seconds, mut spent) = (0.0, 0.0);
    let mut wrong = Vec::new();
    if !listing {
        println!(
            "| set | class | files | transcode | uncertain | clean | codec named |\n|---|---|---|---|---|---|---|"
        );
    }
    for (set, classes) in SETS {
        let mut sums = [0_usize; 5];
        for class in classes {
            if !wanted.is_empty() && !wanted.iter().any(|name| name == class) {
                continue;
            }
            let Ok(folder) = fs::read_dir(Path::new(&corpus).join(class)) else {
                continue;
            };
            let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
            files.sort();
            let mut counts = [0_usize; 5];
            for path in files {
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                let Some(wav) = read(&path).filter(|wav| !wav.planes[0].is_empty()) else {
                    println!("not read: {}", path.display());
                    continue;
                };
                let before = cpu();
                let mut meter = SpectrumMeter::new(wav.rate, wav.planes.len()).with_grids();
                let planes: Vec<&[f32]> = wav.planes.iter().map(Vec::as_slice).collect();
                meter.push(&planes);
                let spectrum = meter.finish();
                spent += cpu() - before;
                seconds += wav.planes[0].len() as f64 / f64::from(wav.rate);
                let judgement = judge(&measured(&wav, spectrum.clone()));
                if listing {
                    list(class, &name, &spectrum, &judgement);
                }
                counts[0] += 1;
                counts[match judgement.verdict {
                    Verdict::Transcode => 1,
                    Verdict::Uncertain => 2,
                    Verdict::Clean => 3,
                }] += 1;
                let codec = judgement.source.and_then(|source| source.codec).map_or("", Codec::name).to_lowercase();
                let class_codec = class.replace("lame", "mp3");
                counts[4] += usize::from(!codec.is_empty() && class_codec.contains(&codec));
                if (set == "clean") != (judgement.verdict == Verdict::Clean) {
                    let rules: Vec<_> = judgement.reasons.iter().map(|reason| format!("{:?}", reason.rule)).collect();
                    let strongest = spectrum.grids.iter().map(|grid| grid.strength).fold(0.0, f32::max);
                    wrong.push(format!(
                        "{class}/{name}: {} by {}; edge {} Hz {:.0} dB, strongest grid {strongest:.1}",
                        judgement.verdict.name(),
                        rules.join(", "),
                        spectrum.edge.hz,
                        spectrum.edge.depth_db
                    ));
                }
            }
            if !listing {
                println!(
                    "| {set} | {class} | {} | {} | {} | {} | {} |",
                    counts[0], counts[1], counts[2], counts[3], counts[4]
                );
            }
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        if !listing && sums[0] > 0 {
            let share = |count: usize| format!("{count} ({:.1} %)", 100.0 * count as f64 / sums[0] as f64);
            println!(
                "| **{set}** | all | {} | {} | {} | {} | {} |",
                sums[0],
                share(sums[1]),
                share(sums[2]),
                share(sums[3]),
                sums[4]
            );
        }
    }
    if !listing {
        println!("\nNot as they should be:");
        wrong.iter().for_each(|line| println!("  {line}"));
        println!(
            "\nspectrum and grids: {:.2} CPU s per 30 min of audio ({seconds:.0} s judged)",
            spent / seconds * 1800.0
        );
    }
}
