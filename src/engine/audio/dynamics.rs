//! Dynamic range by the published DR14 method, and runs of clipped samples.
//!
//! Decides how much a master breathes and whether it was cut off at the top; what that means for a score is left to
//! `quality`. Memory does not grow with the length: block levels go into one histogram for each channel.

use super::levels::Levels;

/// Length of a block, s.
const BLOCK_S: usize = 3;
/// One block in so many counts: the loudest fifth.
const LOUDEST: u64 = 5;
/// Histogram of block levels, dB.
const LEVELS_DB: (f64, f64, f64) = (-100.0, 20.0, 0.02);
/// From here on a level counts as near full scale.
const NEAR_FULL_SCALE: f32 = 0.999;
/// The file's own ceiling counts from here on (-6 dBFS): below it equal samples are coarse steps of a quiet recording.
const CEILING_MIN: f32 = 0.5;
/// Samples in a row at one value that make a run.
const RUN: u32 = 3;
/// Most channels that are measured; further ones are left out.
const CHANNELS_MAX: usize = 24;
/// Samples worked through at once.
const CHUNK: usize = 1_024;

/// What one file measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicsResult {
    /// DR14 value, dB, mean over the channels that sound, unrounded; `None` for silence and below five whole
    /// blocks of 3 s: of fewer there is no loudest fifth.
    pub dynamic_range_dr: Option<f64>,
    /// Runs of at least three samples at one value near full scale, or at the file's own ceiling, over all channels.
    pub clipping_runs: u32,
}

/// Measures one file.
pub struct DynamicsMeter {
    channels: Vec<Channel>,
    block: usize,
    filled: usize,
    blocks: u64,
}

struct Channel {
    energy: f64,
    peak: f32,
    /// Highest and second highest peak of a block.
    peaks: [f32; 2],
    levels: Levels,
    top: Ceiling,
    bottom: Ceiling,
}

impl DynamicsMeter {
    /// For `channels` planes at `sample_rate_hz`.
    pub fn new(sample_rate_hz: u32, channels: usize) -> Self {
        let channel = || Channel {
            energy: 0.0,
            peak: 0.0,
            peaks: [0.0; 2],
            levels: Levels::new(LEVELS_DB.0, LEVELS_DB.1, LEVELS_DB.2),
            top: Ceiling::default(),
            bottom: Ceiling::default(),
        };
        Self {
            channels: (0..channels.min(CHANNELS_MAX)).map(|_| channel()).collect(),
            block: (sample_rate_hz as usize).max(1) * BLOCK_S,
            filled: 0,
            blocks: 0,
        }
    }

    /// The next samples: one slice for each channel, all of one length.
    pub fn push(&mut self, planes: &[&[f32]]) {
        let length = planes.iter().map(|plane| plane.len()).min().unwrap_or(0);
        let mut at = 0;
        while at < length {
            let end = length.min(at + self.block - self.filled).min(at + CHUNK);
            for (channel, plane) in self.channels.iter_mut().zip(planes) {
                channel.push(&plane[at..end]);
            }
            self.filled += end - at;
            at = end;
            if self.filled == self.block {
                self.end_block();
            }
        }
    }

    /// The measurements of everything pushed. A last, shorter block counts as one.
    pub fn finish(mut self) -> DynamicsResult {
        let whole = self.blocks >= LOUDEST;
        if self.filled > 0 {
            self.end_block();
        }
        let counted = self.blocks.div_ceil(LOUDEST);
        let ranges: Vec<f64> = self.channels.iter().filter_map(|channel| channel.range(counted)).collect();
        #[expect(clippy::cast_precision_loss, reason = "channels are few")]
        let mean = ranges.iter().sum::<f64>() / ranges.len() as f64;
        let ceiling =
            self.channels.iter().fold(0.0_f32, |most, channel| most.max(channel.top.at).max(channel.bottom.at));
        let runs = |channel: Channel| channel.top.finish(ceiling).saturating_add(channel.bottom.finish(ceiling));
        DynamicsResult {
            dynamic_range_dr: (whole && !ranges.is_empty()).then_some(mean),
            clipping_runs: self.channels.into_iter().map(runs).fold(0, u32::saturating_add),
        }
    }

    fn end_block(&mut self) {
        for channel in &mut self.channels {
            channel.end_block(self.filled);
        }
        self.filled = 0;
        self.blocks += 1;
    }
}

impl Channel {
    fn push(&mut self, samples: &[f32]) {
        let Extremes { energy, high, low } = Extremes::of(samples);
        self.energy += energy;
        self.peak = self.peak.max(high).max(-low);
        self.top.push(samples, high, |sample| sample);
        self.bottom.push(samples, -low, |sample| -sample);
    }

    /// The level of a block is that of a sine with its energy: twice the mean square.
    fn end_block(&mut self, length: usize) {
        #[expect(clippy::cast_precision_loss, reason = "samples of 3 s")]
        let energy = 2.0 * std::mem::take(&mut self.energy) / length.max(1) as f64;
        self.levels.add(energy);
        let peak = std::mem::take(&mut self.peak);
        if peak > self.peaks[0] {
            self.peaks = [peak, self.peaks[0]];
        } else if peak > self.peaks[1] {
            self.peaks[1] = peak;
        }
    }

    /// The second highest peak over the level of the `counted` loudest blocks, dB.
    fn range(&self, counted: u64) -> Option<f64> {
        let peak = if self.peaks[1] > 0.0 { self.peaks[1] } else { self.peaks[0] };
        let energy = self.levels.top_mean(counted)?;
        (peak > 0.0).then(|| 20.0 * f64::from(peak).log10() - 10.0 * energy.log10())
    }
}

/// Energy and extremes of a stretch.
struct Extremes {
    energy: f64,
    high: f32,
    low: f32,
}

impl Extremes {
    /// In lanes, so that the compiler uses vectors. What is no number counts nothing.
    fn of(samples: &[f32]) -> Self {
        const LANES: usize = 16;
        let (mut energy, mut high, mut low) = ([0.0_f32; LANES], [0.0_f32; LANES], [0.0_f32; LANES]);
        let mut take = |lane: usize, sample: f32| {
            energy[lane] += sample * sample;
            high[lane] = if sample > high[lane] { sample } else { high[lane] };
            low[lane] = if sample < low[lane] { sample } else { low[lane] };
        };
        let chunks = samples.chunks_exact(LANES);
        chunks.remainder().iter().for_each(|&sample| take(0, sample));
        for chunk in chunks {
            for (lane, &sample) in chunk.iter().enumerate() {
                take(lane, sample);
            }
        }
        let energy: f64 = energy.into_iter().map(f64::from).sum();
        Self {
            energy: if energy.is_finite() { energy } else { 0.0 },
            high: high.into_iter().fold(0.0, f32::max),
            low: low.into_iter().fold(0.0, f32::min),
        }
    }
}

/// Runs at one side's extreme values. A decoder may go beyond full scale; a player's converter cuts there, and so is it
/// counted here.
#[derive(Default)]
struct Ceiling {
    /// Highest value so far, at most full scale.
    at: f32,
    /// The value of the run under way, and its samples.
    value: f32,
    length: u32,
    /// Runs at the highest value while that is below full scale, and runs near full scale.
    runs_own: u32,
    runs_full: u32,
}

impl Ceiling {
    /// `high` is the highest of `samples` as `side` turns them.
    fn push(&mut self, samples: &[f32], high: f32, side: impl Fn(f32) -> f32) {
        let interesting = self.at.clamp(CEILING_MIN, NEAR_FULL_SCALE);
        if high < interesting {
            self.end_run();
            return;
        }
        for &sample in samples {
            let value = side(sample).min(1.0);
            if self.length > 0 && value.to_bits() == self.value.to_bits() {
                self.length = self.length.saturating_add(1);
                continue;
            }
            self.end_run();
            if value >= self.at.clamp(CEILING_MIN, NEAR_FULL_SCALE) {
                if value > self.at {
                    self.at = value;
                    self.runs_own = 0;
                }
                (self.value, self.length) = (value, 1);
            }
        }
    }

    fn end_run(&mut self) {
        if std::mem::take(&mut self.length) < RUN {
            return;
        }
        let runs = if self.value >= NEAR_FULL_SCALE { &mut self.runs_full } else { &mut self.runs_own };
        *runs = runs.saturating_add(1);
    }

    /// Runs, when the highest value of all channels is `ceiling`.
    fn finish(mut self, ceiling: f32) -> u32 {
        self.end_run();
        if self.at >= NEAR_FULL_SCALE {
            self.runs_full
        } else if self.at >= ceiling * NEAR_FULL_SCALE {
            self.runs_own
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(planes: &[&[f32]], block: usize) -> DynamicsResult {
        let mut meter = DynamicsMeter::new(1_000, planes.len());
        for from in (0..planes[0].len()).step_by(block) {
            let blocks: Vec<&[f32]> = planes.iter().map(|plane| &plane[from..plane.len().min(from + block)]).collect();
            meter.push(&blocks);
        }
        meter.finish()
    }

    /// Ten blocks of a square wave, the `n`-th at `levels[n]`.
    fn square(levels: &[f32; 10]) -> Vec<f32> {
        let sample = |place: usize| if place.is_multiple_of(2) { 1.0 } else { -1.0 } * levels[place / 3_000];
        (0..30_000).map(sample).collect()
    }

    #[test]
    fn range_is_the_second_peak_over_the_loudest_fifth() {
        // The loudest two blocks are at 0.8 and 0.4, the second highest peak is 0.4; a square's level is √2 its peak.
        let plane = square(&[0.1, 0.1, 0.8, 0.1, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1]);
        let wanted = 20.0 * 0.4_f64.log10() - 10.0 * (2.0 * (0.64_f64 + 0.16) / 2.0).log10();
        let range = measure(&[&plane], 777).dynamic_range_dr.unwrap();
        assert!((range - wanted).abs() < 1e-3, "{range} is not {wanted}");
    }

    #[test]
    fn silent_channels_and_short_files_have_no_range() {
        let (plane, silence) = (square(&[0.5; 10]), vec![0.0; 30_000]);
        let one = measure(&[&plane], 4_096).dynamic_range_dr.unwrap();
        let both = measure(&[&plane, &silence], 4_096).dynamic_range_dr.unwrap();
        assert!((one - both).abs() < 1e-9);
        assert_eq!(measure(&[&silence], 4_096).dynamic_range_dr, None);
        assert_eq!(measure(&[&plane[..14_999]], 4_096).dynamic_range_dr, None);
        assert!(measure(&[&plane[..15_000]], 4_096).dynamic_range_dr.is_some());
    }

    #[test]
    fn runs_count_near_full_scale_on_both_sides() {
        let mut plane = vec![0.1; 6_000];
        plane[100..103].fill(1.0);
        plane[200..202].fill(1.0);
        plane[300..310].fill(-1.0);
        // What a decoder leaves beyond full scale is cut by the player's converter.
        plane[400..403].copy_from_slice(&[1.1, 1.3, 1.05]);
        // Near, but not one value.
        plane[500..503].copy_from_slice(&[0.9991, 0.9992, 0.9993]);
        for block in [6_000, 101, 1] {
            assert_eq!(measure(&[&plane], block).clipping_runs, 3, "cut in blocks of {block}");
        }
    }

    #[test]
    fn runs_count_at_the_files_own_ceiling() {
        let mut plane = vec![0.1; 6_000];
        plane[100..104].fill(0.6);
        plane[200..204].fill(0.7);
        plane[300..304].fill(0.7);
        assert_eq!(measure(&[&plane], 64).clipping_runs, 2);
        let quiet: Vec<f32> = plane.iter().map(|sample| sample / 2.0).collect();
        assert_eq!(measure(&[&quiet], 64).clipping_runs, 0);
    }
}
