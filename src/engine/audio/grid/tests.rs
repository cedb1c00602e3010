use super::*;

/// Noise whose level falls with frequency, repeatable.
fn noise(length: usize, mut seed: u32) -> Vec<f32> {
    let mut slow = 0.0_f32;
    (0..length)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let white = (seed >> 8) as f32 / 8_388_608.0 - 1.0;
            slow += 0.2 * (white - slow);
            slow * 0.2
        })
        .collect()
}

/// What an MDCT codec does: frames from `first` on, every line smaller than `step` set to zero, put together again.
fn coded(samples: &[f32], lines: usize, shape: Shape, first: usize, step: f32) -> Vec<f32> {
    let mut transform = Mdct::new(lines, shape);
    let window = mdct::window(lines, shape);
    let mut out = samples.to_vec();
    let mut sum = vec![0.0_f32; samples.len()];
    let mut spectrum = vec![0.0_f32; lines];
    let turns: Vec<f32> = (0..8 * lines).map(|n| (PI * n as f64 / (4 * lines) as f64).cos() as f32).collect();
    let mut frame = first;
    while frame + 2 * lines <= samples.len() {
        transform.run(&samples[frame..], &mut spectrum);
        for line in &mut spectrum {
            *line = (*line / step).round() * step;
        }
        // The inverse by its definition: DCT-IV, unfolded.
        let scale = (2.0 / lines as f32).sqrt();
        let folded: Vec<f32> = (0..lines)
            .map(|n| {
                let kept = spectrum.iter().enumerate().filter(|(_, line)| **line != 0.0);
                kept.map(|(k, line)| line * turns[(2 * n + 1) * (2 * k + 1) % (8 * lines)]).sum::<f32>() * scale
            })
            .collect();
        let half = lines / 2;
        for n in 0..half {
            sum[frame + n] += window[n] * folded[half + n];
            sum[frame + lines - 1 - n] -= window[lines - 1 - n] * folded[half + n];
            sum[frame + 3 * half - 1 - n] -= window[3 * half - 1 - n] * folded[n];
            sum[frame + 3 * half + n] -= window[3 * half + n] * folded[n];
        }
        frame += lines;
    }
    // The first and last half have no partner to overlap with.
    let range = first + lines..frame;
    out[range.clone()].copy_from_slice(&sum[range]);
    // To 16 bits, as a decoder does.
    out.iter_mut().for_each(|x| *x = (*x * 32_768.0).round() / 32_768.0);
    out
}

fn search(samples: &[f32], rate: u32) -> Vec<Grid> {
    let mut meter = GridMeter::new(rate);
    let mut start = 2058;
    while start + EXCERPT < samples.len() - 2048 {
        let excerpt = &samples[start..start + EXCERPT];
        meter.offer(start as u64, excerpt, excerpt);
        start += 28 * 147;
    }
    meter.finish()
}

fn of(grids: &[Grid], codec: GridCodec) -> Grid {
    *grids.iter().find(|grid| grid.codec == codec).unwrap()
}

#[test]
fn music_that_was_never_coded_has_no_grid() {
    let samples: Vec<f32> = noise(24_000, 1).iter().map(|x| (x * 32_768.0).round() / 32_768.0).collect();
    for grid in search(&samples, 44_100) {
        assert!(grid.strength < 5.0, "{grid:?}");
    }
}

#[test]
fn an_aac_grid_is_found_where_it_begins() {
    let samples = coded(&noise(24_000, 2), 1024, Shape::Kaiser, 345, 8e-4);
    let grid = of(&search(&samples, 44_100), GridCodec::Aac);
    assert!(grid.strength > 10.0 && grid.offset == 345, "{grid:?}");
}

#[test]
fn a_vorbis_grid_is_found_where_it_begins_and_outdoes_aac() {
    let samples = coded(&noise(24_000, 3), 1024, Shape::Vorbis, 77, 8e-4);
    let grids = search(&samples, 44_100);
    let grid = of(&grids, GridCodec::Vorbis);
    assert!(grid.strength > 10.0 && grid.offset == 77, "{grid:?}");
    assert!(of(&grids, GridCodec::Aac).strength < grid.strength);
}

#[test]
fn silence_and_foreign_rates_have_no_grid() {
    assert!(search(&vec![0.0; 24_000], 44_100).is_empty());
    assert!(search(&noise(24_000, 4), 96_000).is_empty());
}

#[test]
fn places_stay_bounded_and_spread_over_the_stream() {
    let mut meter = GridMeter::new(44_100);
    let samples = noise(EXCERPT, 5);
    for number in 0..10_000_u64 {
        meter.offer(number * 147, &samples, &samples);
        assert!(meter.kept.len() <= 2 * PLACES);
    }
    let last = meter.kept.last().unwrap().start / 147;
    assert!(meter.kept.len() >= PLACES && meter.kept[0].start < 147 * 1000 && last > 8_000, "{last}");
}
