//! Looks for the frame grid of a lossy codec in decoded samples.
//!
//! A lossy codec sets many spectral lines to zero. Whoever transforms the decoded samples with the codec's own transform
//! at the codec's own frame offset sees those zeros again; at any other offset they are smeared away. So each transform
//! is tried at every offset of its frame, over loud excerpts of the file, and an offset that stands out is the trace.
//! Nothing depends on bit rate or low-pass: 320 kbit/s leave fewer zeros than 128, but music that was never coded has
//! no offset at all.
//!
//! This room measures; what strength means something is the business of [`super::transcode`].

mod hybrid;
mod mdct;

use std::f64::consts::PI;

use crate::model::spectrum::{Grid, GridCodec};
use hybrid::Hybrid;
use mdct::{Mdct, Shape};

/// Samples of an excerpt, per channel: the widest search (MDCT, 2048 samples at 1024 offsets) and its margins.
pub const EXCERPT: usize = 3136;
/// Excerpts begin at multiples of this many samples, so that the Opus grid's rate has whole samples there too (44.1
/// to 48 kHz is 147 to 160).
pub const EXCERPT_STEP: u64 = 147;
/// Places kept while streaming; at twice as many, neighbours are merged.
const PLACES: usize = 16;
/// Offsets looked at beyond both ends of a frame, to compare each with its neighbourhood.
const MARGIN: usize = 16;
/// Nearest neighbours left out of that comparison: a grid's peak is a few samples wide.
const PEAK: usize = 3;
/// Disjoint groups of excerpts that may agree on an offset.
const GROUPS: usize = 4;
/// A line this small (in units of a 16-bit sample's step) is as good as zero: rounding leaves 0.29 on average.
const ZERO: f32 = 0.5;
/// The same for Opus, whose pre-emphasis lifts the rounding noise.
const ZERO_OPUS: f32 = 1.0;

struct Excerpt {
    start: u64,
    /// Energy of the quietest quarter after differencing: steady treble is best, an attack is coded in short blocks.
    worth: f32,
    left: Vec<f32>,
    right: Vec<f32>,
}

/// Keeps the most telling excerpts of a stream, spread over its length, and searches them at the end.
pub struct GridMeter {
    sample_rate_hz: u32,
    kept: Vec<Excerpt>,
    /// Offers that share one place.
    per_place: u32,
    /// Offers in the place that is being filled.
    filled: u32,
}

impl GridMeter {
    /// For a stream of `sample_rate_hz`.
    pub fn new(sample_rate_hz: u32) -> Self {
        Self { sample_rate_hz, kept: Vec::new(), per_place: 1, filled: 0 }
    }

    /// Offers [`EXCERPT`] samples that begin at sample `start`, a multiple of [`EXCERPT_STEP`]; shorter ones are ignored.
    pub fn offer(&mut self, start: u64, left: &[f32], right: &[f32]) {
        let (Some(left), Some(right)) = (left.get(..EXCERPT), right.get(..EXCERPT)) else {
            return;
        };
        let worth = worth(left, right);
        let opens = self.filled == 0 || self.kept.is_empty();
        if opens {
            if self.kept.len() == 2 * PLACES {
                self.merge();
            }
            self.kept.push(Excerpt { start, worth, left: left.to_vec(), right: right.to_vec() });
        } else if let Some(last) = self.kept.last_mut()
            && worth > last.worth
        {
            last.start = start;
            last.worth = worth;
            last.left.copy_from_slice(left);
            last.right.copy_from_slice(right);
        }
        self.filled = (self.filled + 1) % self.per_place;
    }

    /// Halves the places; of two neighbours the better stays.
    fn merge(&mut self) {
        let mut merged: Vec<Excerpt> = Vec::with_capacity(2 * PLACES);
        for (i, excerpt) in self.kept.drain(..).enumerate() {
            match merged.last_mut() {
                Some(last) if i % 2 == 1 => {
                    if excerpt.worth > last.worth {
                        *last = excerpt;
                    }
                }
                _ => merged.push(excerpt),
            }
        }
        self.kept = merged;
        self.per_place = self.per_place.saturating_mul(2);
    }

    /// Searches every grid that can exist at this sample rate. Empty when no excerpt was worth it.
    pub fn finish(mut self) -> Vec<Grid> {
        self.kept.retain(|excerpt| excerpt.worth > 0.0);
        self.kept.sort_by(|a, b| b.worth.total_cmp(&a.worth).then(a.start.cmp(&b.start)));
        self.kept.truncate(SEARCHED);
        self.kept.sort_by_key(|excerpt| excerpt.start);
        if self.kept.is_empty() || !(16_000..=48_000).contains(&self.sample_rate_hz) {
            return Vec::new();
        }
        let signals: Vec<Signal> = self.kept.iter().enumerate().map(|(i, excerpt)| Signal::of(excerpt, i)).collect();
        let mut grids = vec![mp3(&signals)];
        let sine = glance(&signals, |signals| mdct(signals, GridCodec::Aac, Shape::Sine));
        let kaiser = mdct(&signals, GridCodec::Aac, Shape::Kaiser);
        grids.push(if sine.strength > kaiser.strength { sine } else { kaiser });
        grids.push(mdct(&signals, GridCodec::Vorbis, Shape::Vorbis));
        if let Some(signals) = at_48_khz(&signals, self.sample_rate_hz) {
            grids.push(mdct(&signals, GridCodec::Opus, Shape::Celt));
        }
        grids
    }
}

/// Excerpts searched at most.
const SEARCHED: usize = 12;
/// Excerpts of a first look.
const GLANCED: usize = 4;
/// Strength of the first look from which all excerpts are searched.
const SECOND_LOOK: f32 = 3.8;

/// Looks at a few excerpts, and at all of them only when those hint at something: for AAC's rarer window.
fn glance(signals: &[Signal], mut look: impl FnMut(&[Signal]) -> Grid) -> Grid {
    let first = look(&signals[..signals.len().min(GLANCED)]);
    if first.strength < SECOND_LOOK || signals.len() <= GLANCED { first } else { look(signals) }
}

/// How telling an excerpt is.
fn worth(left: &[f32], right: &[f32]) -> f32 {
    let quarter = EXCERPT / 4;
    let energy = |plane: &[f32]| plane.windows(2).map(|pair| (pair[1] - pair[0]).powi(2)).sum::<f32>();
    left.chunks_exact(quarter)
        .zip(right.chunks_exact(quarter))
        .map(|(left, right)| energy(left) + energy(right))
        .fold(f32::MAX, f32::min)
}

/// One channel of an excerpt, in steps of a 16-bit sample.
struct Signal {
    start: u64,
    samples: Vec<f32>,
}

impl Signal {
    /// Encoders code left and right, or their sum and difference: the excerpts take turns.
    fn of(excerpt: &Excerpt, number: usize) -> Self {
        let pairs = excerpt.left.iter().zip(&excerpt.right);
        let samples = if number.is_multiple_of(2) {
            pairs.map(|(left, right)| (left + right) * (32_768.0 * std::f32::consts::FRAC_1_SQRT_2)).collect()
        } else {
            pairs.map(|(left, _)| left * 32_768.0).collect()
        };
        Self { start: excerpt.start, samples }
    }
}

/// 1 for a line that is zero, towards 0 for one that is not.
fn nearness(lines: &[f32], zero: f32) -> f32 {
    let zero = zero * zero;
    lines.iter().map(|x| zero / (zero + x * x)).sum()
}

#[expect(clippy::cast_precision_loss, reason = "counts are small")]
fn mdct(signals: &[Signal], codec: GridCodec, shape: Shape) -> Grid {
    // Below the range there is too much signal to be zeroed; above, Opus has nothing, and others mostly not.
    let (frame, range, zero) =
        if codec == GridCodec::Opus { (960, 500..855, ZERO_OPUS) } else { (1024, 180..700, ZERO) };
    let mut transform = Mdct::new(frame, shape);
    let mut lines = vec![0.0; frame];
    let rows = signals
        .iter()
        .map(|signal| {
            let row = (0..frame + 2 * MARGIN)
                .map(|offset| {
                    transform.run(&signal.samples[offset..], &mut lines);
                    nearness(&lines[range.clone()], zero) / range.len() as f32
                })
                .collect();
            (signal.start, row)
        })
        .collect::<Vec<_>>();
    peak(codec, frame, &rows)
}

#[expect(clippy::cast_precision_loss, reason = "counts are small")]
fn mp3(signals: &[Signal]) -> Grid {
    let frame = 576;
    let mut filter = Hybrid::new();
    let mut lines = hybrid::Lines::default();
    let rows = signals
        .iter()
        .map(|signal| {
            filter.load(&signal.samples, frame + 2 * MARGIN);
            let row = (0..frame + 2 * MARGIN)
                .map(|offset| {
                    filter.lines(offset, &mut lines);
                    hybrid::butterflies(&mut lines);
                    let near: f32 = lines.iter().map(|line| nearness(line, ZERO)).sum();
                    near / (lines.len() * lines[0].len()) as f32
                })
                .collect();
            (signal.start, row)
        })
        .collect::<Vec<_>>();
    peak(GridCodec::Mp3, frame, &rows)
}

/// Sums the excerpts' rows modulo the frame and measures how far the best offset stands out.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "offsets are below 1024 and counts small"
)]
fn peak(codec: GridCodec, frame: usize, rows: &[(u64, Vec<f32>)]) -> Grid {
    let mut excess = vec![0.0_f32; frame];
    let mut plain = vec![0.0_f32; frame];
    let mut groups = vec![vec![0.0_f32; frame]; GROUPS];
    for (number, (start, row)) in rows.iter().enumerate() {
        let shift = (start % frame as u64) as usize;
        for centre in MARGIN..MARGIN + frame {
            let around: f32 = (PEAK + 1..=MARGIN).map(|d| row[centre - d] + row[centre + d]).sum();
            let over = row[centre] - around / (2 * (MARGIN - PEAK)) as f32;
            let at = (shift + centre) % frame;
            excess[at] += over;
            plain[at] += row[centre];
            groups[number % GROUPS][at] += over;
        }
    }
    let highest =
        |values: &[f32]| values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(offset, _)| offset);
    let median = |values: &[f32]| {
        let mut sorted = values.to_vec();
        sorted.sort_by(f32::total_cmp);
        sorted[frame / 2]
    };
    let apart = |a: usize, b: usize| {
        let distance = a.abs_diff(b);
        distance.min(frame - distance)
    };
    let best = highest(&excess);
    let middle = median(&excess);
    let deviations: Vec<f32> = excess.iter().map(|value| (value - middle).abs()).collect();
    // 1.4826 makes the median deviation of a normal distribution its standard deviation; the addend keeps a constant
    // row (silence, digital black) from dividing by nothing.
    let spread = 1.4826 * median(&deviations) + 1e-4 * rows.len() as f32;
    let runner_up = (0..frame).filter(|&o| apart(o, best) > PEAK).map(|o| excess[o]).fold(f32::MIN, f32::max);
    let used = GROUPS.min(rows.len());
    Grid {
        codec,
        offset: best as u16,
        strength: (excess[best] - middle) / spread,
        runner_up: (runner_up - middle) / spread,
        share: plain[best] / rows.len() as f32,
        usual: median(&plain) / rows.len() as f32,
        agreeing: groups[..used].iter().filter(|group| apart(highest(group), best) <= 1).count() as u8,
        groups: used as u8,
        excerpts: rows.len() as u8,
    }
}

/// Opus codes at 48 kHz with pre-emphasis: brings the excerpts there. `None` for other rates than 44.1 and 48 kHz.
fn at_48_khz(signals: &[Signal], sample_rate_hz: u32) -> Option<Vec<Signal>> {
    /// Coefficient of the pre-emphasis (RFC 6716 4.3.7.2).
    const EMPHASIS: f32 = 0.850_006_1;
    let mut out = Vec::with_capacity(signals.len());
    let resampler = match sample_rate_hz {
        48_000 => None,
        44_100 => Some(Resampler::new()),
        _ => return None,
    };
    for signal in signals {
        let (start, samples) = match &resampler {
            None => (signal.start, signal.samples.clone()),
            Some(resampler) => (signal.start / EXCERPT_STEP * 160 + SKIPPED, resampler.run(&signal.samples)),
        };
        let samples = samples.windows(2).map(|pair| pair[1] - EMPHASIS * pair[0]).collect();
        out.push(Signal { start: start + 1, samples });
    }
    Some(out)
}

/// 44.1 to 48 kHz by a windowed sinc: 48 taps, 160 phases, Kaiser beta 9.
struct Resampler {
    taps: Vec<f32>,
}

/// Half the taps.
const REACH: usize = 24;
/// Output samples left out at the start, where the filter has no past.
const SKIPPED: u64 = 32;

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "table sizes are small")]
impl Resampler {
    fn new() -> Self {
        let mut taps = Vec::with_capacity(160 * 2 * REACH);
        for phase in 0..160 {
            for tap in 0..2 * REACH {
                let distance = tap as f64 - (REACH - 1) as f64 - f64::from(phase) / 160.0;
                let sinc = if distance.abs() < 1e-9 { 1.0 } else { (PI * distance).sin() / (PI * distance) };
                let place = distance / REACH as f64;
                let window = mdct::bessel(9.0 * (1.0 - place * place).max(0.0).sqrt()) / mdct::bessel(9.0);
                taps.push((sinc * window) as f32);
            }
        }
        Self { taps }
    }

    fn run(&self, samples: &[f32]) -> Vec<f32> {
        let mut out = Vec::with_capacity(samples.len() * 160 / 147);
        for number in SKIPPED as usize.. {
            let (whole, phase) = (number * 147 / 160, number * 147 % 160);
            let Some(under) = samples.get(whole + 1 - REACH..whole + 1 + REACH) else {
                break;
            };
            let taps = &self.taps[phase * 2 * REACH..(phase + 1) * 2 * REACH];
            out.push(under.iter().zip(taps).map(|(x, h)| x * h).sum());
        }
        out
    }
}

#[cfg(test)]
mod tests;
