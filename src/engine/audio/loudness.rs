//! Loudness and true peak (ITU-R BS.1770-4, EBU R 128, EBU Tech 3342) over samples as they come.
//!
//! Decides what one file's integrated loudness, loudness range and peaks are. Memory does not grow with the length:
//! 100 ms energies of the last 3 s, and two histograms. Channels are taken in the order of WAVE and FLAC.

use super::levels::Levels;
use super::true_peak::TruePeak;

/// Loudness of a full-scale reference: `L = OFFSET + 10 log10(sum of weighted mean squares)` (BS.1770-4, equation 2).
const OFFSET_DB: f64 = -0.691;
/// Absolute gate, LUFS (BS.1770-4, annex 1).
const GATE_ABSOLUTE_LUFS: f64 = -70.0;
/// Relative gate of integrated loudness, LU (BS.1770-4, annex 1).
const GATE_RELATIVE_LU: f64 = -10.0;
/// Relative gate of loudness range, LU, and its percentiles (EBU Tech 3342, 3).
const RANGE_GATE_LU: f64 = -20.0;
const RANGE_PERCENTILES: (f64, f64) = (0.10, 0.95);
/// Steps of 100 ms in a gating block of 400 ms, and in a short-term window of 3 s.
const STEPS_BLOCK: usize = 4;
const STEPS_SHORT: usize = 30;
/// Fineness of the histograms, and their top: 24 channels of full-scale square waves stay below it.
const BIN_DB: f64 = 0.01;
const TOP_DB: f64 = 20.0;
/// Most channels that are measured; further ones are left out.
const CHANNELS_MAX: usize = 24;

/// What one file measures. `None` where nothing passed the gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoudnessResult {
    /// Integrated loudness, LUFS.
    pub integrated_lufs: Option<f64>,
    /// Loudness range, LU.
    pub range_lu: Option<f64>,
    /// True peak, dBTP; `None` for silence.
    pub true_peak_dbtp: Option<f64>,
    /// Largest sample, 1.0 is full scale.
    pub sample_peak: f64,
}

/// Measures one file.
pub struct LoudnessMeter {
    weighting: Weighting,
    pairs: Vec<Pair>,
    peaks: Vec<TruePeak>,
    /// Samples of a 100 ms step, and of the step under way.
    step: usize,
    filled: usize,
    /// Energy of the last 3 s by step, the oldest overwritten first.
    steps: [f64; STEPS_SHORT],
    steps_seen: usize,
    blocks: Levels,
    shorts: Levels,
}

impl LoudnessMeter {
    /// For `channels` planes at `sample_rate_hz`, in the order of WAVE: left, right, centre, LFE, surrounds.
    pub fn new(sample_rate_hz: u32, channels: usize) -> Self {
        let channels = channels.min(CHANNELS_MAX);
        let pairs = (0..channels.div_ceil(2)).map(|pair| {
            let weights = [2 * pair, 2 * pair + 1].map(|channel| channel_weight(channel, channels));
            Pair { weights, state: [[0.0; 2]; 4], energy: [0.0; 2] }
        });
        let levels = || Levels::new(GATE_ABSOLUTE_LUFS - OFFSET_DB, TOP_DB, BIN_DB);
        Self {
            weighting: Weighting::new(f64::from(sample_rate_hz.max(1))),
            pairs: pairs.collect(),
            peaks: (0..channels).map(|_| TruePeak::new(sample_rate_hz)).collect(),
            step: (sample_rate_hz as usize).div_ceil(10).max(1),
            filled: 0,
            steps: [0.0; STEPS_SHORT],
            steps_seen: 0,
            blocks: levels(),
            shorts: levels(),
        }
    }

    /// The next samples: one slice for each channel, all of one length.
    pub fn push(&mut self, planes: &[&[f32]]) {
        let length = planes.iter().map(|plane| plane.len()).min().unwrap_or(0);
        for (peak, plane) in self.peaks.iter_mut().zip(planes) {
            peak.push(&plane[..length]);
        }
        let mut at = 0;
        while at < length {
            let end = length.min(at + self.step - self.filled);
            for (pair, planes) in self.pairs.iter_mut().zip(planes.chunks(2)) {
                let left = &planes[0][at..end];
                let right = planes.get(1).map_or(left, |plane| &plane[at..end]);
                pair.push(&self.weighting, left, right);
            }
            self.filled += end - at;
            at = end;
            if self.filled == self.step {
                self.filled = 0;
                self.end_step();
            }
        }
    }

    /// The measurements of everything pushed.
    pub fn finish(self) -> LoudnessResult {
        let peaks: Vec<(f32, f32)> = self.peaks.into_iter().map(TruePeak::finish).collect();
        let sample_peak = f64::from(peaks.iter().fold(0.0_f32, |most, peak| most.max(peak.0)));
        let true_peak = f64::from(peaks.iter().fold(0.0_f32, |most, peak| most.max(peak.1)));
        let gated = |levels: &Levels, relative: f64| {
            let mean = levels.mean_from(0.0)?;
            Some(mean * 10_f64.powf(relative / 10.0))
        };
        let integrated = gated(&self.blocks, GATE_RELATIVE_LU).and_then(|gate| self.blocks.mean_from(gate));
        let range = gated(&self.shorts, RANGE_GATE_LU)
            .and_then(|gate| self.shorts.percentiles(gate, RANGE_PERCENTILES.0, RANGE_PERCENTILES.1));
        LoudnessResult {
            integrated_lufs: integrated.map(|energy| OFFSET_DB + 10.0 * energy.log10()),
            range_lu: range.map(|(low, high)| 10.0 * (high / low).log10()),
            true_peak_dbtp: (true_peak > 0.0).then(|| 20.0 * true_peak.log10()),
            sample_peak,
        }
    }

    fn end_step(&mut self) {
        let energy: f64 = self.pairs.iter_mut().map(Pair::take_energy).sum();
        #[expect(clippy::cast_precision_loss, reason = "samples of 100 ms")]
        let energy = energy / self.step as f64;
        self.steps[self.steps_seen % STEPS_SHORT] = energy;
        self.steps_seen += 1;
        for (length, levels) in [(STEPS_BLOCK, &mut self.blocks), (STEPS_SHORT, &mut self.shorts)] {
            if self.steps_seen < length {
                continue;
            }
            let sum: f64 = (1..=length).map(|back| self.steps[(self.steps_seen - back) % STEPS_SHORT]).sum();
            #[expect(clippy::cast_precision_loss, reason = "at most 30")]
            let mean = sum / length as f64;
            if OFFSET_DB + 10.0 * mean.log10() >= GATE_ABSOLUTE_LUFS {
                levels.add(mean);
            }
        }
    }
}

/// Weight of a channel (BS.1770-4, table 3): the LFE of 5.1, 6.1 and 7.1 counts nothing, surrounds 1.41.
fn channel_weight(channel: usize, channels: usize) -> f64 {
    const SURROUND: f64 = 1.41;
    match (channels, channel) {
        (_, _) if channel >= channels => 0.0,
        (6.., 3) => 0.0,
        // Behind left and right; behind the centre; behind the LFE.
        (4, 2..) | (5, 3..) | (6..=8, 4..) => SURROUND,
        _ => 1.0,
    }
}

/// The two stages of K-weighting as biquads: numerator, then the denominator's last two (its first is 1).
struct Weighting {
    shelf: [f64; 5],
    pass: [f64; 2],
}

impl Weighting {
    /// The filters BS.1770-4 tables for 48 kHz, as bilinear transforms of their analogue prototypes.
    fn new(rate: f64) -> Self {
        // Prototypes that give the tabled coefficients at 48 kHz to their last digit.
        let (shelf_hz, shelf_db, shelf_q) = (1_681.974_450_955_533, 3.999_843_853_973_347, 0.707_175_236_955_419_6);
        let (pass_hz, pass_q) = (38.135_470_876_024_44, 0.500_327_037_323_877_3);
        // The bilinear transform has no place for a corner at or above half the rate.
        let warp = |hz: f64| (std::f64::consts::PI * (hz / rate).min(0.49)).tan();
        let k = warp(shelf_hz);
        let high = 10_f64.powf(shelf_db / 20.0);
        let band = high.powf(0.499_666_774_154_541_6);
        let a0 = 1.0 + k / shelf_q + k * k;
        let shelf = [
            (high + band * k / shelf_q + k * k) / a0,
            2.0 * (k * k - high) / a0,
            (high - band * k / shelf_q + k * k) / a0,
            2.0 * (k * k - 1.0) / a0,
            (1.0 - k / shelf_q + k * k) / a0,
        ];
        let k = warp(pass_hz);
        let a0 = 1.0 + k / pass_q + k * k;
        Self { shelf, pass: [2.0 * (k * k - 1.0) / a0, (1.0 - k / pass_q + k * k) / a0] }
    }
}

/// Two channels side by side, so that one instruction works on both.
struct Pair {
    weights: [f64; 2],
    state: [[f64; 2]; 4],
    energy: [f64; 2],
}

impl Pair {
    /// Transposed direct form II, shelf then high-pass. Both slices have one length.
    fn push(&mut self, weighting: &Weighting, left: &[f32], right: &[f32]) {
        let Weighting { shelf: [b0, b1, b2, a1, a2], pass: [c1, c2] } = *weighting;
        let [mut s0, mut s1, mut s2, mut s3] = self.state;
        let mut energy = self.energy;
        for (&left, &right) in left.iter().zip(right) {
            let x = [f64::from(left), f64::from(right)];
            for lane in 0..2 {
                let x = x[lane];
                let y = b0 * x + s0[lane];
                s0[lane] = b1 * x - a1 * y + s1[lane];
                s1[lane] = b2 * x - a2 * y;
                let z = y + s2[lane];
                s2[lane] = s3[lane] - 2.0 * y - c1 * z;
                s3[lane] = y - c2 * z;
                energy[lane] += z * z;
            }
        }
        self.state = [s0, s1, s2, s3];
        self.energy = energy;
    }

    /// Weighted energy since the last call. Tails of silence are cut before they become slow tiny numbers.
    fn take_energy(&mut self) -> f64 {
        const NOTHING: f64 = 1e-30;
        for value in self.state.iter_mut().flatten() {
            if !(value.abs() > NOTHING && value.is_finite()) {
                *value = 0.0;
            }
        }
        let [left, right] = std::mem::take(&mut self.energy);
        left * self.weights[0] + right * self.weights[1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sines of `hz`, one stretch after another: seconds and level in dBFS.
    #[expect(clippy::cast_possible_truncation, reason = "samples in f32")]
    fn sine(rate: u32, hz: f64, phase: f64, stretches: &[(u32, f64)]) -> Vec<f32> {
        let samples = stretches.iter().flat_map(|&(seconds, level)| {
            (0..seconds * rate).map(move |place| {
                let angle = std::f64::consts::TAU * hz * f64::from(place) / f64::from(rate) + phase;
                (10_f64.powf(level / 20.0) * angle.sin()) as f32
            })
        });
        samples.collect()
    }

    fn measure(rate: u32, planes: &[&[f32]], block: usize) -> LoudnessResult {
        let mut meter = LoudnessMeter::new(rate, planes.len());
        for from in (0..planes[0].len()).step_by(block) {
            let blocks: Vec<&[f32]> = planes.iter().map(|plane| &plane[from..plane.len().min(from + block)]).collect();
            meter.push(&blocks);
        }
        meter.finish()
    }

    fn near(value: Option<f64>, wanted: f64, tolerance: f64) {
        assert!(value.is_some_and(|value| (value - wanted).abs() <= tolerance), "{value:?} is not {wanted}");
    }

    // EBU Tech 3341, cases 1 and 3, at rates whose coefficients no table gives.
    #[test]
    fn loudness_is_that_of_the_test_tones_at_every_rate() {
        for rate in [32_000, 44_100, 48_000, 96_000] {
            let tone = sine(rate, 1_000.0, 0.0, &[(20, -23.0)]);
            near(measure(rate, &[&tone, &tone], 4_096).integrated_lufs, -23.0, 0.1);
        }
        let gated = sine(44_100, 1_000.0, 0.0, &[(10, -36.0), (60, -23.0), (10, -36.0)]);
        near(measure(44_100, &[&gated, &gated], 1_000).integrated_lufs, -23.0, 0.1);
    }

    // EBU Tech 3342, cases 1 and 3.
    #[test]
    fn range_is_that_of_the_test_tones() {
        let tone = sine(48_000, 1_000.0, 0.0, &[(20, -20.0), (20, -30.0)]);
        near(measure(48_000, &[&tone, &tone], 4_096).range_lu, 10.0, 0.5);
        let tone = sine(48_000, 1_000.0, 0.0, &[(20, -40.0), (20, -20.0)]);
        near(measure(48_000, &[&tone, &tone], 4_096).range_lu, 20.0, 0.5);
    }

    // EBU Tech 3341, cases 15 to 17: a quarter of the rate, sampled beside its peaks.
    #[test]
    fn true_peak_lies_between_the_samples() {
        for rate in [44_100, 48_000, 96_000] {
            let tone = sine(rate, f64::from(rate) / 4.0, std::f64::consts::FRAC_PI_4, &[(1, -6.0)]);
            let measured = measure(rate, &[&tone], 777);
            near(measured.true_peak_dbtp, -6.0, 0.1);
            near(Some(20.0 * measured.sample_peak.log10()), -9.01, 0.01);
        }
    }

    #[test]
    fn surrounds_weigh_more_and_the_lfe_nothing() {
        let tone = sine(48_000, 1_000.0, 0.0, &[(5, -20.0)]);
        let silence = vec![0.0; tone.len()];
        let only = |channel: usize| {
            let planes: Vec<&[f32]> = (0..6).map(|at| if at == channel { &tone[..] } else { &silence[..] }).collect();
            measure(48_000, &planes, 4_096).integrated_lufs
        };
        near(only(0), -23.0, 0.1);
        near(only(2), -23.0, 0.1);
        assert_eq!(only(3), None);
        near(only(5), -21.5, 0.1);
    }

    #[test]
    fn how_the_samples_are_cut_changes_nothing() {
        let tone = sine(44_100, 441.7, 0.3, &[(2, -20.0), (3, -9.0), (1, -30.0)]);
        let whole = measure(44_100, &[&tone, &tone], tone.len());
        for block in [37, 4_410, 65_536] {
            assert_eq!(measure(44_100, &[&tone, &tone], block), whole);
        }
    }

    #[test]
    fn silence_and_no_numbers_measure_nothing() {
        let nothing = LoudnessResult { integrated_lufs: None, range_lu: None, true_peak_dbtp: None, sample_peak: 0.0 };
        assert_eq!(measure(44_100, &[&vec![0.0; 44_100]], 4_096), nothing);
        let meter = LoudnessMeter::new(44_100, 2);
        assert_eq!(meter.finish(), nothing);
        assert_eq!(measure(44_100, &[&vec![f32::NAN; 44_100]], 4_096).integrated_lufs, None);
    }
}
