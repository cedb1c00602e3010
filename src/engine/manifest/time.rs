//! Moments in manifests: RFC 3339 in UTC with milliseconds.

use crate::model::time::UnixMs;

const DAY_MS: u64 = 24 * 3_600_000;
/// 9999-12-31, in days since 1970-01-01.
const LAST_DAY: u64 = 2_932_896;

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Leap days before the first of January of a year.
fn leaps_before(year: u64) -> u64 {
    let past = year.saturating_sub(1);
    past / 4 - past / 100 + past / 400
}

/// Days from 1970-01-01 to the first of January of a year from 1970 on.
fn days_before(year: u64) -> u64 {
    (year - 1_970) * 365 + leaps_before(year) - leaps_before(1_970)
}

/// As text; years beyond 9999 are the last moment of it.
pub fn show(at: UnixMs) -> String {
    let at = at.0.min(LAST_DAY * DAY_MS + DAY_MS - 1);
    let (mut day, ms) = (at / DAY_MS, at % DAY_MS);
    let mut year = 1_970 + day / 366;
    while days_before(year + 1) <= day {
        year += 1;
    }
    day -= days_before(year);
    let mut month = 1;
    while day >= month_days(year, month) {
        day -= month_days(year, month);
        month += 1;
    }
    let (hours, minutes, seconds, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000);
    format!("{year:04}-{month:02}-{:02}T{hours:02}:{minutes:02}:{seconds:02}.{ms:03}Z", day + 1)
}

/// Reads what [`show`] writes; the milliseconds may be shorter or missing. `None`: it is no such time, or before 1970.
pub fn parse(text: &str) -> Option<UnixMs> {
    let rest = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00"))?;
    let (date, clock) = rest.split_once('T')?;
    let fixed = |part: Option<&str>, digits: usize| -> Option<u64> {
        let part = part?;
        (part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit())).then(|| part.parse().ok())?
    };
    let mut date = date.split('-');
    let (year, month, day) = (fixed(date.next(), 4)?, fixed(date.next(), 2)?, fixed(date.next(), 2)?);
    let (clock, fraction) = clock.split_once('.').map_or((clock, None), |(clock, fraction)| (clock, Some(fraction)));
    let mut clock = clock.split(':');
    let (hour, minute, second) = (fixed(clock.next(), 2)?, fixed(clock.next(), 2)?, fixed(clock.next(), 2)?);
    let fits = date.next().is_none()
        && clock.next().is_none()
        && year >= 1_970
        && (1..=12).contains(&month)
        && (1..=month_days(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !fits {
        return None;
    }
    let ms = match fraction {
        None => 0,
        Some(digits) if (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{digits:0<3}").get(..3)?.parse::<u64>().ok()?
        }
        Some(_) => return None,
    };
    let days = days_before(year) + (1..month).map(|month| month_days(year, month)).sum::<u64>() + day - 1;
    Some(UnixMs(days * DAY_MS + hour * 3_600_000 + minute * 60_000 + second * 1_000 + ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_text() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_795_268_412_007, "2026-11-21T13:40:12.007Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(show(UnixMs(ms)), text);
            assert_eq!(parse(text), Some(UnixMs(ms)), "{text}");
        }
        assert_eq!(parse("2000-02-29T00:00:00+00:00"), Some(UnixMs(951_782_400_000)));
        assert_eq!(parse("2000-02-29T00:00:00.5Z"), Some(UnixMs(951_782_400_500)));
        for bad in [
            "",
            "2001-02-29T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2000-13-01T00:00:00Z",
            "2000-01-01T24:00:00Z",
            "2000-01-01",
            "2000-01-01T00:00:00",
            "2000-01-01T00:00:00.Z",
            "+000-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(show(UnixMs(u64::MAX)), "9999-12-31T23:59:59.999Z");
    }
}
