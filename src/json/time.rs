//! Nanoseconds since 1970 (UTC) to RFC 3339 text and back.
//!
//! The calendar arithmetic is that of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"
//! (`days_from_civil`, `civil_from_days`): years begin in March, so that the leap day is the last of
//! its year, and 400-year eras are all alike. No table, no time zone data, no leap seconds: a second 60 is
//! read as the first of the next minute, as POSIX clocks do.

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_SHIFT_DAYS: i64 = 719_468;

/// Length of what [`write_rfc3339`] appends, in bytes.
pub const RFC3339_BYTES: usize = "2026-11-23T12:34:56.123456789Z".len();

/// Appends `unix_nanos` as `2026-11-23T12:34:56.123456789Z`: UTC, always nine decimals, always
/// [`RFC3339_BYTES`] long. Every `i64` has a four-digit year (1677 to 2262).
pub fn write_rfc3339(out: &mut Vec<u8>, unix_nanos: i64) {
    let seconds = unix_nanos.div_euclid(NANOS_PER_SECOND);
    let days = seconds.div_euclid(SECONDS_PER_DAY);
    let in_day = seconds.rem_euclid(SECONDS_PER_DAY);
    let (year, month, day) = civil_from_days(days);
    digits(out, year, 4, b'-');
    digits(out, month, 2, b'-');
    digits(out, day, 2, b'T');
    digits(out, in_day / 3600, 2, b':');
    digits(out, in_day / 60 % 60, 2, b':');
    digits(out, in_day % 60, 2, b'.');
    digits(out, unix_nanos.rem_euclid(NANOS_PER_SECOND), 9, b'Z');
}

fn digits(out: &mut Vec<u8>, number: i64, width: usize, after: u8) {
    let start = out.len();
    out.resize(start + width, b'0');
    let mut rest = number;
    for place in out[start..].iter_mut().rev() {
        *place = b'0' + u8::try_from(rest % 10).expect("a digit of a number that is not negative");
        rest /= 10;
    }
    out.push(after);
}

/// Reads an RFC 3339 time with any offset and up to nine decimals (more are cut off).
///
/// # Errors
/// Says what is wrong, without position: the caller knows the key.
pub fn parse_rfc3339(text: &str) -> Result<i64, &'static str> {
    const SHAPE: &str =
        "must be an RFC 3339 time such as 2026-11-23T12:34:56.5Z or 2026-11-23T13:34:56+01:00";
    let mut rest = text.as_bytes();
    let year = number(&mut rest, 4).ok_or(SHAPE)?;
    let month = after(&mut rest, b"-").and_then(|()| number(&mut rest, 2)).ok_or(SHAPE)?;
    let day = after(&mut rest, b"-").and_then(|()| number(&mut rest, 2)).ok_or(SHAPE)?;
    let hour = after(&mut rest, b"Tt ").and_then(|()| number(&mut rest, 2)).ok_or(SHAPE)?;
    let minute = after(&mut rest, b":").and_then(|()| number(&mut rest, 2)).ok_or(SHAPE)?;
    let second = after(&mut rest, b":").and_then(|()| number(&mut rest, 2)).ok_or(SHAPE)?;
    let nanos = fraction(&mut rest).ok_or(SHAPE)?;
    let offset = offset_seconds(&mut rest).ok_or(SHAPE)?;
    if !rest.is_empty() {
        return Err(SHAPE);
    }
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return Err("names a day that does not exist");
    }
    if hour > 23 || minute > 59 || second > 60 {
        return Err("names a time of day that does not exist");
    }
    let seconds =
        days_from_civil(year, month, day) * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second - offset;
    // In 128 bits: the first nanoseconds of 1677 are in range although their whole second is not.
    let all = i128::from(seconds) * i128::from(NANOS_PER_SECOND) + i128::from(nanos);
    i64::try_from(all).map_err(|_| "lies outside 1677-09-21 to 2262-04-11, the range of 64-bit nanoseconds")
}

fn number(rest: &mut &[u8], width: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(width)?;
    *rest = tail;
    head.iter().try_fold(0_i64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

fn after(rest: &mut &[u8], any_of: &[u8]) -> Option<()> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    any_of.contains(first).then_some(())
}

fn fraction(rest: &mut &[u8]) -> Option<i64> {
    let Some((b'.', tail)) = rest.split_first() else { return Some(0) };
    let count = tail.iter().take_while(|byte| byte.is_ascii_digit()).count();
    *rest = &tail[count..];
    let place = |at: usize| tail[..count].get(at).map_or(0, |byte| i64::from(byte - b'0'));
    (count > 0).then(|| (0..9).fold(0, |sum, at| sum * 10 + place(at)))
}

fn offset_seconds(rest: &mut &[u8]) -> Option<i64> {
    let (sign, tail) = rest.split_first()?;
    *rest = tail;
    let direction = match sign {
        b'Z' | b'z' => return Some(0),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let hours = number(rest, 2)?;
    after(rest, b":")?;
    let minutes = number(rest, 2)?;
    (hours <= 23 && minutes <= 59).then_some(direction * (hours * 3600 + minutes * 60))
}

/// How many days a month has.
pub(crate) fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date.
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - EPOCH_SHIFT_DAYS
}

/// Year, month and day of so many days since 1970-01-01.
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + EPOCH_SHIFT_DAYS;
    let era = shifted.div_euclid(DAYS_PER_ERA);
    let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(nanos: i64) -> String {
        let mut out = Vec::new();
        write_rfc3339(&mut out, nanos);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_instants() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(-1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(text(951_782_400_000_000_000), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(text(1_234_567_890_123_456_789), "2009-02-13T23:31:30.123456789Z");
        assert_eq!(text(i64::MAX), "2262-04-11T23:47:16.854775807Z");
        assert_eq!(text(i64::MIN), "1677-09-21T00:12:43.145224192Z");
    }

    #[test]
    fn offsets_and_fractions_are_understood() {
        assert_eq!(parse_rfc3339("1970-01-01T01:00:00+01:00"), Ok(0));
        assert_eq!(parse_rfc3339("1969-12-31t19:30:00.5-04:30"), Ok(500_000_000));
        assert_eq!(parse_rfc3339("1970-01-01 00:00:00.1234567899z"), Ok(123_456_789));
        assert_eq!(parse_rfc3339("2016-12-31T23:59:60Z"), parse_rfc3339("2017-01-01T00:00:00Z"));
    }

    #[test]
    fn impossible_times_are_refused() {
        for bad in [
            "",
            "now",
            "2026-11-23",
            "2026-11-23T12:00:00",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00Zx",
            "2026-01-01T00:00:00+24:00",
            "2262-04-11T23:47:16.854775808Z",
            "9999-01-01T00:00:00Z",
            "2026-1-1T00:00:00Z",
        ] {
            assert!(parse_rfc3339(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_instant_comes_back(nanos in any::<i64>()) {
            let written = text(nanos);
            prop_assert_eq!(written.len(), RFC3339_BYTES);
            prop_assert_eq!(parse_rfc3339(&written), Ok(nanos));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9TZ:+. -]{0,40}") {
            let _ = parse_rfc3339(&text);
        }
    }
}
