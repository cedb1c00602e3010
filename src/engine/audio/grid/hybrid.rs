//! MPEG layer III's analysis: 32 polyphase bands, 18 lines in each, long blocks (ISO 11172-3).

use std::f64::consts::PI;

/// Subbands looked at: below the first there is too much signal, above the last mostly nothing.
pub(super) const BANDS: std::ops::Range<usize> = 4..25;
const WIDTH: usize = BANDS.end - BANDS.start;
/// The lines of one long block, `[line][band]`.
pub(super) type Lines = [[f32; WIDTH]; LINES];
/// Lines of a subband.
const LINES: usize = 18;
/// Time slots under one long block.
const SLOTS: usize = 36;

/// The synthesis window of ISO 11172-3 table 3-B.3 times 65,536: its first half and the middle.
#[rustfmt::skip]
const WINDOW: [i32; 257] = [
    0, -1, -1, -1, -1, -1, -1, -2, -2, -2, -2, -3, -3, -4, -4, -5, -5, -6, -7, -7, -8, -9, -10, -11, -13, -14, -16,
    -17, -19, -21, -24, -26, -29, -31, -35, -38, -41, -45, -49, -53, -58, -63, -68, -73, -79, -85, -91, -97, -104,
    -111, -117, -125, -132, -139, -147, -154, -161, -169, -176, -183, -190, -196, -202, -208, 213, 218, 222, 225, 227,
    228, 228, 227, 224, 221, 215, 208, 200, 189, 177, 163, 146, 127, 106, 83, 57, 29, -2, -36, -72, -111, -153, -197,
    -244, -294, -347, -401, -459, -519, -581, -645, -711, -779, -848, -919, -991, -1_064, -1_137, -1_210, -1_283,
    -1_356, -1_428, -1_498, -1_567, -1_634, -1_698, -1_759, -1_817, -1_870, -1_919, -1_962, -2_001, -2_032, -2_057,
    -2_075, -2_085, -2_087, -2_080, -2_063, 2_037, 2_000, 1_952, 1_893, 1_822, 1_739, 1_644, 1_535, 1_414, 1_280,
    1_131, 970, 794, 605, 402, 185, -45, -288, -545, -814, -1_095, -1_388, -1_692, -2_006, -2_330, -2_663, -3_004,
    -3_351, -3_705, -4_063, -4_425, -4_788, -5_153, -5_517, -5_879, -6_237, -6_589, -6_935, -7_271, -7_597, -7_910,
    -8_209, -8_491, -8_755, -8_998, -9_219, -9_416, -9_585, -9_727, -9_838, -9_916, -9_959, -9_966, -9_935, -9_863,
    -9_750, -9_592, -9_389, -9_139, -8_840, -8_492, -8_092, -7_640, -7_134, 6_574, 5_959, 5_288, 4_561, 3_776, 2_935,
    2_037, 1_082, 70, -998, -2_122, -3_300, -4_533, -5_818, -7_154, -8_540, -9_975, -11_455, -12_980, -14_548,
    -16_155, -17_799, -19_478, -21_189, -22_929, -24_694, -26_482, -28_289, -30_112, -31_947, -33_791, -35_640,
    -37_489, -39_336, -41_176, -43_006, -44_821, -46_617, -48_390, -50_137, -51_853, -53_534, -55_178, -56_778,
    -58_333, -59_838, -61_289, -62_684, -64_019, -65_290, -66_494, -67_629, -68_692, -69_679, -70_590, -71_420,
    -72_169, -72_835, -73_415, -73_908, -74_313, -74_630, -74_856, -74_992, 75_038,
];

/// The analysis at every offset of an excerpt.
pub(super) struct Hybrid {
    window: [f32; 512],
    matrix: [[f32; 32]; WIDTH],
    /// `[line][folded slot]`.
    basis: [[f32; LINES]; LINES],
    sine: [f32; SLOTS],
    slots: Vec<[f32; WIDTH]>,
    offsets: usize,
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "table sizes are small")]
impl Hybrid {
    pub(super) fn new() -> Self {
        let mut window = [0.0; 512];
        for (i, value) in window.iter_mut().enumerate() {
            let mirrored = if i <= 256 {
                WINDOW[i]
            } else if (512 - i) % 64 == 0 {
                WINDOW[512 - i]
            } else {
                -WINDOW[512 - i]
            };
            // C[i] of the analysis is D[i] / 32.
            *value = mirrored as f32 / 65536.0 / 32.0;
        }
        let mut matrix = [[0.0; 32]; WIDTH];
        for (row, band) in matrix.iter_mut().zip(BANDS) {
            for (m, value) in row.iter_mut().enumerate() {
                *value = ((2 * band + 1) as f64 * m as f64 * PI / 64.0).cos() as f32;
            }
        }
        // A DCT-IV of 18 points after folding 36; scaled so that white noise keeps its standard deviation:
        // 32 bands each 1/32 of the power, synthesis gain 1.
        let mut basis = [[0.0; LINES]; LINES];
        for (k, row) in basis.iter_mut().enumerate() {
            for (n, value) in row.iter_mut().enumerate() {
                *value = (((2.0 / 18.0_f64).sqrt()) * (PI / 18.0 * (n as f64 + 0.5) * (k as f64 + 0.5)).cos()) as f32;
            }
        }
        let mut sine = [0.0; SLOTS];
        for (n, value) in sine.iter_mut().enumerate() {
            *value = (PI / 36.0 * (n as f64 + 0.5)).sin() as f32;
        }
        Self { window, matrix, basis, sine, slots: Vec::new(), offsets: 0 }
    }

    /// Filters an excerpt so that the lines at every offset below `offsets` can be asked for; `samples` must hold
    /// `offsets + 1631` samples (the span of 36 slots of 32 and the 512 taps).
    pub(super) fn load(&mut self, samples: &[f32], offsets: usize) {
        let places = offsets + (SLOTS - 1) * 32;
        self.offsets = offsets;
        // Kept by phase, so that the 36 slots under one offset lie side by side.
        let rows = places.div_ceil(32);
        self.slots.clear();
        self.slots.resize(rows * 32, [0.0; WIDTH]);
        for place in 0..places {
            let x = &samples[place..place + 512];
            let mut y = [0.0_f32; 64];
            for j in 0..8 {
                let w = &self.window[64 * j..64 * j + 64];
                let x = &x[512 - 64 * j - 64..512 - 64 * j];
                for i in 0..64 {
                    y[i] += w[i] * x[63 - i];
                }
            }
            let mut folded = [0.0_f32; 32];
            folded[0] = y[16];
            for m in 1..=16 {
                folded[m] = y[16 + m] + y[16 - m];
            }
            for m in 17..32 {
                folded[m] = y[16 + m] - y[80 - m];
            }
            let out = &mut self.slots[(place % 32) * rows + place / 32];
            for (out, row) in out.iter_mut().zip(&self.matrix) {
                // Sixteen-wide sums vectorise; one running sum would not.
                let mut sums = [0.0_f32; 8];
                for (a, b) in folded.chunks_exact(8).zip(row.chunks_exact(8)) {
                    for i in 0..8 {
                        sums[i] += a[i] * b[i];
                    }
                }
                *out = sums.iter().sum::<f32>() * SCALE;
            }
        }
    }

    /// The lines of the loaded excerpt at `offset`, `[line][band]`, before the alias butterflies.
    pub(super) fn lines(&self, offset: usize, out: &mut Lines) {
        let rows = self.slots.len() / 32;
        let start = (offset % 32) * rows + offset / 32;
        let slots = &self.slots[start..start + SLOTS];
        // Odd slots of odd bands are turned over (2.4.3.4 of the standard).
        let at = |n: usize, b: usize| {
            let sign = if n % 2 == 1 && (b + BANDS.start) % 2 == 1 { -1.0 } else { 1.0 };
            slots[n][b] * self.sine[n] * sign
        };
        let mut folded = Lines::default();
        for n in 0..LINES / 2 {
            let half = LINES / 2;
            folded[n] = std::array::from_fn(|b| -at(3 * half - 1 - n, b) - at(3 * half + n, b));
            folded[half + n] = std::array::from_fn(|b| at(n, b) - at(LINES - 1 - n, b));
        }
        for (line, basis) in out.iter_mut().zip(&self.basis) {
            *line = [0.0; WIDTH];
            for (row, &c) in folded.iter().zip(basis) {
                for b in 0..WIDTH {
                    line[b] += row[b] * c;
                }
            }
        }
    }
}

/// Brings the polyphase filter's gain to one, measured with white noise.
const SCALE: f32 = 1.0;

/// The encoder's alias butterflies (table 3-B.9), which the decoder undid: they must be done again to see its lines.
pub(super) fn butterflies(lines: &mut Lines) {
    const C: [f32; 8] = [-0.6, -0.535, -0.33, -0.185, -0.095, -0.041, -0.0142, -0.0037];
    for (j, c) in C.iter().enumerate() {
        let cs = 1.0 / (1.0 + c * c).sqrt();
        let ca = c * cs;
        for b in 0..WIDTH - 1 {
            let (low, high) = (lines[17 - j][b], lines[j][b + 1]);
            lines[17 - j][b] = low * cs + high * ca;
            lines[j][b + 1] = high * cs - low * ca;
        }
    }
}
