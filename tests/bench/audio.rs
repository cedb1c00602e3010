//! CPU seconds of each meter over half an hour of stereo: `cargo bench --bench audio -- [--rate HZ]`.
//!
//! The sound is made up: a mix of decaying tones and noise, about as loud as pop. CPU time of this process, best of
//! three, so that other programs disturb little. The fingerprint hears the first 120 s; it is printed for one file.
//!
//! Bar: loudness with true peak, dynamics and sketch together below what decoding the same sound takes (about 1.1 s).

use std::error::Error;
use std::hint::black_box;
use std::io::Write;

use slskdn::engine::audio::dynamics::DynamicsMeter;
use slskdn::engine::audio::loudness::LoudnessMeter;
use slskdn::engine::audio::sketch::Sketcher;
use slskdn::probe::fingerprint::Fingerprinter;

type Outcome<T> = Result<T, Box<dyn Error>>;

const SECONDS: u32 = 1_800;
const BLOCK: usize = 4_096;
const ROUNDS: usize = 3;

/// CPU seconds of this thread so far.
fn cpu_s() -> Outcome<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: f64 = text.split_whitespace().next().ok_or("an empty schedstat")?.parse()?;
    Ok(nanoseconds / 1e9)
}

/// Ten seconds of one channel.
#[expect(clippy::cast_possible_truncation, reason = "samples in f32")]
fn sound(rate: u32, seed: u32) -> Vec<f32> {
    let mut noise = seed;
    let sample = |place: u32| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let t = f64::from(place) / f64::from(rate);
        let beat = (-6.0 * (t % 0.5)).exp();
        let tones = (std::f64::consts::TAU * 110.0 * t).sin() * 0.6 * beat + (2_764.6 * t).sin() * 0.25;
        (tones + f64::from(noise) / f64::from(u32::MAX) * 0.1 - 0.05) as f32
    };
    (0..rate * 10).map(sample).collect()
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let rate = arguments.iter().position(|argument| argument == "--rate").and_then(|at| arguments.get(at + 1));
    let rate: u32 = rate.map_or(Ok(44_100), |rate| rate.parse())?;
    let (left, right) = (sound(rate, 1), sound(rate, 2));
    let feed = |seconds: u32, take: &mut dyn FnMut(&[&[f32]])| {
        for _ in 0..seconds / 10 {
            for (left, right) in left.chunks(BLOCK).zip(right.chunks(BLOCK)) {
                take(&[left, right]);
            }
        }
    };
    let best = |work: &dyn Fn()| -> Outcome<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let before = cpu_s()?;
            work();
            best = best.min(cpu_s()? - before);
        }
        Ok(best)
    };
    let loudness = best(&|| {
        let mut meter = LoudnessMeter::new(rate, 2);
        feed(SECONDS, &mut |planes| meter.push(planes));
        black_box(meter.finish());
    })?;
    let dynamics = best(&|| {
        let mut meter = DynamicsMeter::new(rate, 2);
        feed(SECONDS, &mut |planes| meter.push(planes));
        black_box(meter.finish());
    })?;
    let sketch = best(&|| {
        let mut sketcher = Sketcher::new(rate);
        feed(SECONDS, &mut |planes| sketcher.push(planes));
        black_box(sketcher.finish());
    })?;
    let fingerprint = best(&|| {
        let mut printer = Fingerprinter::new(rate, 2);
        feed(120, &mut |planes| printer.push(planes));
        black_box(printer.finish());
    })?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "CPU s over 30 min of stereo at {rate} Hz")?;
    writeln!(out, "loudness, range, true peak  {loudness:.3}")?;
    writeln!(out, "dynamics, clipping          {dynamics:.3}")?;
    writeln!(out, "sketch                      {sketch:.3}")?;
    writeln!(out, "fingerprint (120 s, a file) {fingerprint:.3}")?;
    Ok(())
}
