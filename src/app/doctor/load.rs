//! How busy and how warm the box is, as the kernel says.

use crate::model::limits;

/// Cores, at least 1.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Files measured at once: as asked, at most one per core and `limits::SCAN_WORKERS`; for 0 one per core but one.
pub fn workers(asked: usize) -> usize {
    match asked {
        0 => cores().saturating_sub(1).max(1),
        asked => asked.min(cores()),
    }
    .min(limits::SCAN_WORKERS)
}

/// Load average of the last minute over the cores; 0 where the kernel does not say.
#[expect(clippy::cast_precision_loss, reason = "a handful of cores")]
pub fn per_core(cores: usize) -> f32 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    first_number(&text).map_or(0.0, |load| load / cores.max(1) as f32)
}

fn first_number(text: &str) -> Option<f32> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// Of the hottest sensor, °C.
pub fn temperature_c() -> Option<f32> {
    let zones = std::fs::read_dir("/sys/class/thermal").ok()?;
    zones
        .filter_map(Result::ok)
        .filter(|zone| zone.file_name().as_encoded_bytes().starts_with(b"thermal_zone"))
        .filter_map(|zone| celsius(&std::fs::read_to_string(zone.path().join("temp")).ok()?))
        .reduce(f32::max)
}

/// Thousandths of a degree; a sensor that says what cannot be is not listened to.
fn celsius(text: &str) -> Option<f32> {
    text.trim().parse::<f32>().ok().map(|thousandths| thousandths / 1_000.0).filter(|c| (-40.0..150.0).contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(first_number("0.52 0.58 0.59 1/467 12345\n"), Some(0.52));
        assert_eq!(first_number(""), None);
        assert_eq!((celsius("61234\n"), celsius("999999999"), celsius("x")), (Some(61.234), None, None));
        assert!(cores() >= 1 && per_core(1) >= 0.0);
    }
}
