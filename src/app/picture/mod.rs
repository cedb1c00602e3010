//! Draws a spectrogram as a PNG: time to the right, frequency upwards, the level as a colour, with axes and a legend.
//!
//! Decides measures, colours and where labels stand. A picture is opaque and dark whatever surrounds it, so that it looks
//! the same in a browser, a mail and a report.

mod font;

use std::io;

use crate::model::spectrogram::{FLOOR_DB, Spectrogram};

/// How large a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Points of the plot, across.
    width: usize,
    /// Points of the plot, down.
    height: usize,
}

impl Size {
    /// One point for each column and band: for a window.
    pub const WIDE: Self = Self { width: 960, height: 512 };
    /// For a telephone.
    pub const NARROW: Self = Self { width: 304, height: 256 };
}

/// Points of a dot of the font.
const DOT: usize = 2;
/// Points from one letter to the next.
const LETTER: usize = (font::WIDTH + 1) * DOT;
/// Points of a line of text.
const LINE: usize = font::HEIGHT * DOT;
/// Room left of the plot: three letters, a tick, some air.
const LEFT: usize = 3 * LETTER + TICK + 6;
/// Room above the plot: a line and some air.
const TOP: usize = LINE + 16;
/// Room right of the plot: half a label of the time axis.
const RIGHT: usize = 12;
/// Length of a tick.
const TICK: usize = 5;
/// Height of the legend's bar.
const BAR: usize = 12;
/// Room below the plot: ticks and labels of the time, the bar, its labels.
const BOTTOM: usize = TICK + 4 + LINE + 14 + BAR + 4 + LINE + 8;

/// Colours that levels take; the others are for what surrounds the plot.
const SHADES: usize = 250;
const PAPER: u8 = 250;
const INK: u8 = 251;
/// Stops of the colours, from silence to full scale: dark to bright throughout, so that they read without colours too.
const STOPS: [[u8; 3]; 7] =
    [[4, 5, 18], [32, 18, 84], [96, 20, 122], [168, 38, 104], [228, 88, 54], [250, 170, 40], [253, 248, 196]];

/// The picture of a spectrogram as a PNG.
///
/// # Errors
/// The encoder's, which writes to memory and has no reason to.
pub fn png(spectrogram: &Spectrogram, size: Size) -> io::Result<Vec<u8>> {
    let sheet = draw(spectrogram, size);
    let mut bytes = Vec::new();
    let across = u32::try_from(sheet.width).map_err(io::Error::other)?;
    let down = u32::try_from(sheet.points.len() / sheet.width.max(1)).map_err(io::Error::other)?;
    let mut encoder = png::Encoder::new(&mut bytes, across, down);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette());
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&sheet.points)?;
    writer.finish()?;
    Ok(bytes)
}

/// Points as numbers of the palette.
struct Sheet {
    width: usize,
    points: Vec<u8>,
}

impl Sheet {
    /// Colours one point; what lies outside is left out.
    fn set(&mut self, x: usize, y: usize, colour: u8) {
        if x < self.width
            && let Some(point) = self.points.get_mut(y * self.width + x)
        {
            *point = colour;
        }
    }

    fn fill(&mut self, (x, y): (usize, usize), (width, height): (usize, usize), colour: u8) {
        for (x, y) in (y..y + height).flat_map(|y| (x..x + width).map(move |x| (x, y))) {
            self.set(x, y, colour);
        }
    }

    /// Writes text whose first letter's upper left corner is there.
    fn write(&mut self, x: usize, y: usize, text: &str) {
        for (n, letter) in text.chars().enumerate() {
            for (down, row) in font::rows(letter).into_iter().enumerate() {
                for across in (0..font::WIDTH).filter(|across| row >> (font::WIDTH - 1 - across) & 1 == 1) {
                    self.fill((x + n * LETTER + across * DOT, y + down * DOT), (DOT, DOT), INK);
                }
            }
        }
    }

    /// The same, with its middle at `x` as far as the sheet goes.
    fn write_at(&mut self, x: usize, y: usize, text: &str) {
        let half = wide(text) / 2;
        let most = self.width.saturating_sub(wide(text));
        self.write(x.saturating_sub(half).min(most), y, text);
    }
}

/// Points that a text takes.
fn wide(text: &str) -> usize {
    (text.chars().count() * LETTER).saturating_sub(DOT)
}

fn draw(spectrogram: &Spectrogram, size: Size) -> Sheet {
    let width = LEFT + size.width + RIGHT;
    let mut sheet = Sheet { width, points: vec![PAPER; width * (TOP + size.height + BOTTOM)] };
    plot(&mut sheet, spectrogram, size);
    frequencies(&mut sheet, u64::from(spectrogram.sample_rate_hz / 2), size);
    times(&mut sheet, spectrogram.duration_ms(), size);
    legend(&mut sheet, size);
    sheet
}

/// The levels themselves. Of bands that share a point the loudest is shown, and so of columns.
fn plot(sheet: &mut Sheet, spectrogram: &Spectrogram, size: Size) {
    let (columns, rows) = (spectrogram.columns(), usize::from(spectrogram.rows));
    for x in 0..size.width {
        // By time: the last column may stand for less than the others.
        let at = |x: usize| {
            let sample = u128::from(spectrogram.samples) * x as u128 / size.width.max(1) as u128;
            usize::try_from(sample / u128::from(spectrogram.samples_per_column.max(1))).unwrap_or(usize::MAX)
        };
        let first = at(x).min(columns.saturating_sub(1));
        let beyond = at(x + 1).clamp(first + 1, columns.max(first + 1));
        for y in 0..size.height {
            let (from, to) = (y * rows / size.height, (y + 1) * rows / size.height);
            let level = (first..beyond)
                .filter_map(|column| spectrogram.column(column).get(from..to.max(from + 1))?.iter().max())
                .max();
            sheet.set(LEFT + x, TOP + size.height - 1 - y, shade(level.copied().unwrap_or(0)));
        }
    }
}

/// The number of a level's colour.
fn shade(level: u8) -> u8 {
    u8::try_from(usize::from(level) * (SHADES - 1) / 255).unwrap_or(0)
}

/// The first step at which `count` labels have room.
fn step(steps: &[u64], whole: u64, points: usize, room: usize) -> u64 {
    let fits = |step: &&u64| whole / **step <= (points / room.max(1)) as u64;
    steps.iter().find(fits).or(steps.last()).copied().unwrap_or(1)
}

/// Where a part of the whole lies on an axis of so many points.
fn place(part: u64, whole: u64, points: usize) -> usize {
    usize::try_from(u128::from(part) * points as u128 / u128::from(whole.max(1))).unwrap_or(points).min(points)
}

/// The axis of frequencies, in kHz.
fn frequencies(sheet: &mut Sheet, top_hz: u64, size: Size) {
    sheet.write(2, 2, "kHz");
    let step_khz = step(&[1, 2, 5, 10, 20, 50, 100], top_hz / 1_000, size.height, 2 * LINE);
    for khz in (0..=top_hz / 1_000).step_by(usize::try_from(step_khz).unwrap_or(1)) {
        let y = (TOP + size.height - 1).saturating_sub(place(khz * 1_000, top_hz, size.height));
        let text = khz.to_string();
        sheet.write((LEFT - TICK - 4).saturating_sub(wide(&text)), y.saturating_sub(LINE / 2), &text);
        sheet.fill((LEFT - TICK, y), (TICK, 1), INK);
    }
}

/// The axis of time, in minutes and seconds.
fn times(sheet: &mut Sheet, whole_ms: u64, size: Size) {
    const STEPS_S: [u64; 13] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200];
    let below = TOP + size.height;
    let room = 8 * LETTER;
    let step_s = step(&STEPS_S, whole_ms / 1_000, size.width, room);
    let unit = "min";
    let unit_at = sheet.width - wide(unit) - 2;
    sheet.write(unit_at, below + TICK + 4, unit);
    for second in (0..=whole_ms / 1_000).step_by(usize::try_from(step_s).unwrap_or(1)) {
        let x = LEFT + place(second * 1_000, whole_ms, size.width);
        sheet.fill((x, below), (1, TICK), INK);
        let text = format!("{}:{:02}", second / 60, second % 60);
        if x + wide(&text) / 2 + LETTER <= unit_at {
            sheet.write_at(x, below + TICK + 4, &text);
        }
    }
}

/// Which colour is which level, dB below a sine of full scale.
fn legend(sheet: &mut Sheet, size: Size) {
    let top = TOP + size.height + TICK + 4 + LINE + 14;
    for x in 0..size.width {
        let colour = u8::try_from(x * (SHADES - 1) / size.width.max(1)).unwrap_or(0);
        sheet.fill((LEFT + x, top), (1, BAR), colour);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a constant of whole dB")]
    let whole = -FLOOR_DB as u64;
    let unit = "dBFS";
    let unit_at = sheet.width - wide(unit) - 2;
    let step = step(&[10, 20, 30, 60], whole, size.width, 6 * LETTER);
    for part in (0..=whole).step_by(usize::try_from(step).unwrap_or(1)) {
        let x = LEFT + place(part, whole, size.width);
        let text = if part == whole { "0".to_owned() } else { format!("-{}", whole - part) };
        sheet.fill((x, top + BAR), (1, 3), INK);
        if x + wide(&text) / 2 + LETTER <= unit_at {
            sheet.write_at(x, top + BAR + 4, &text);
        }
    }
    sheet.write(unit_at, top + BAR + 4, unit);
}

/// Red, green and blue of every colour.
fn palette() -> Vec<u8> {
    let mut colours = Vec::with_capacity(256 * 3);
    for shade in 0..SHADES {
        let along = shade * (STOPS.len() - 1);
        let (stop, part) = (along / (SHADES - 1), along % (SHADES - 1));
        let next = STOPS[(stop + 1).min(STOPS.len() - 1)];
        for (from, to) in STOPS[stop].into_iter().zip(next) {
            let mixed = (usize::from(from) * (SHADES - 1 - part) + usize::from(to) * part) / (SHADES - 1);
            colours.push(u8::try_from(mixed).unwrap_or(u8::MAX));
        }
    }
    // Paper and ink.
    colours.extend([24, 29, 33, 226, 231, 230]);
    colours
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::ContentHash;
    use crate::model::limits;

    /// Two seconds at 44.1 kHz: silence, then everything above 8 kHz at full scale.
    fn picture() -> Spectrogram {
        let mut levels = vec![0; 20 * limits::SPECTROGRAM_ROWS];
        for column in 10..20 {
            levels[column * limits::SPECTROGRAM_ROWS..][186..limits::SPECTROGRAM_ROWS].fill(255);
        }
        Spectrogram {
            content_hash: ContentHash([0; 32]),
            sample_rate_hz: 44_100,
            samples: 88_200,
            samples_per_column: 4_410,
            rows: 512,
            levels,
        }
    }

    fn at(sheet: &Sheet, x: usize, y: usize) -> u8 {
        sheet.points[y * sheet.width + x]
    }

    #[test]
    fn time_goes_right_and_frequency_up() {
        for size in [Size::WIDE, Size::NARROW] {
            let sheet = draw(&picture(), size);
            let (low, high) = (TOP + size.height - 10, TOP + 10);
            let (early, late) = (LEFT + size.width / 4, LEFT + 3 * size.width / 4);
            let corners = [(early, low), (early, high), (late, low), (late, high)].map(|(x, y)| at(&sheet, x, y));
            assert_eq!(corners, [0, 0, 0, shade(255)]);
            // 8 kHz of 22.05 is the edge.
            let edge = TOP + size.height - size.height * 8_000 / 22_050;
            assert_eq!((at(&sheet, late, edge + 4), at(&sheet, late, edge - 4)), (0, shade(255)));
        }
    }

    #[test]
    fn axes_are_labelled_and_stay_on_the_sheet() {
        let texts = |sample_rate_hz, samples, size| {
            let spectrogram = Spectrogram { sample_rate_hz, samples, ..picture() };
            draw(&spectrogram, size).points.into_iter().filter(|point| *point == INK).count()
        };
        for rate in [8_000, 44_100, 192_000, 4_000_000] {
            for seconds in [0, 1, 200, 36_000] {
                for size in [Size::WIDE, Size::NARROW] {
                    assert!(texts(rate, u64::from(rate) * seconds, size) > 500, "{rate} Hz, {seconds} s");
                }
            }
        }
        assert_eq!(step(&[1, 2, 5, 10], 22, 512, 28), 2, "a label every 2 kHz");
        assert_eq!(place(11_025, 22_050, 512), 256);
    }

    #[test]
    fn the_png_decodes_to_what_was_drawn() {
        let bytes = png(&picture(), Size::WIDE).unwrap();
        let mut decoder = png::Decoder::new(io::Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut points = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut points).unwrap();
        assert_eq!((info.width, info.color_type), (1_019, png::ColorType::Rgb));
        let sheet = draw(&picture(), Size::WIDE);
        let colours = palette();
        for (at, point) in sheet.points.iter().enumerate() {
            assert_eq!(points[3 * at..3 * at + 3], colours[3 * usize::from(*point)..3 * usize::from(*point) + 3]);
        }
    }

    #[test]
    fn colours_grow_brighter() {
        let colours = palette();
        let light = |shade: usize| -> u32 {
            let weighted = colours[3 * shade..3 * shade + 3].iter().zip([2_126_u32, 7_152, 722]);
            weighted.map(|(part, weight)| u32::from(*part) * weight).sum()
        };
        assert!((1..SHADES).all(|shade| light(shade) >= light(shade - 1)));
    }
}
