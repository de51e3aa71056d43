//! Times as envelopes and expressions write them: ISO 8601 in and out, durations, and formats with `%`.
//!
//! A time is a number of nanoseconds since 1970 (UTC), which reaches from 1677 to 2262. A time without an offset
//! is taken as UTC: so programs write it that think of none.

use crate::json::time::{civil_from_days, days_from_civil, days_in, parse_rfc3339, write_rfc3339};
use std::fmt::Write as _;
use std::time::Duration;

const NANOS: i64 = 1_000_000_000;
const DAY_SECONDS: i64 = 86_400;
/// Longest text that is looked at as a time, in bytes.
const TIME_BYTES_MAX: usize = 64;
/// Longest text that a format may make, in bytes.
const FORMATTED_BYTES_MAX: usize = 1024;

/// ISO 8601 in UTC with as many decimals as are needed: none, 3, 6 or 9.
#[must_use]
pub fn iso(unix_nanos: i64) -> String {
    let mut bytes = Vec::with_capacity(30);
    write_rfc3339(&mut bytes, unix_nanos);
    let nanos = unix_nanos.rem_euclid(NANOS);
    let cut = match nanos {
        0 => 10,
        _ if nanos % 1_000_000 == 0 => 6,
        _ if nanos % 1_000 == 0 => 3,
        _ => 0,
    };
    let keep = bytes.len() - 1 - cut;
    bytes.truncate(keep);
    bytes.push(b'Z');
    String::from_utf8(bytes).expect("digits and signs")
}

/// Reads an ISO 8601 time: a date, `T` or a space, a time of day, perhaps with decimals and an offset.
///
/// # Errors
/// Says what is wrong.
pub fn parse_iso(text: &str) -> Result<i64, &'static str> {
    if text.len() > TIME_BYTES_MAX {
        return Err("is too long for a time");
    }
    let clock = text.get(10..).unwrap_or_default();
    let has_offset = clock.contains(['Z', 'z', '+', '-']);
    if has_offset { parse_rfc3339(text) } else { parse_rfc3339(&format!("{text}Z")) }.map_err(|error| {
        if error.starts_with("must") { "is no ISO 8601 time such as 2026-11-23T12:34:56.5Z" } else { error }
    })
}

/// An ISO 8601 duration: seconds with as many decimals as are needed, `PT0.000012S`.
#[must_use]
pub fn iso_duration(duration: Duration) -> String {
    let mut text = format!("PT{}", duration.as_secs());
    if duration.subsec_nanos() > 0 {
        let decimals = format!("{:09}", duration.subsec_nanos());
        let _ = write!(text, ".{}", decimals.trim_end_matches('0'));
    }
    text.push('S');
    text
}

/// Writes a time by a format: `%Y %m %d %H %M %S`, `%f` (microseconds), `%j` (day of the year), `%s` (Unix seconds),
/// `%z` (always `+0000`), `%%`.
///
/// # Errors
/// Names what it does not know.
pub fn format(unix_nanos: i64, format: &str) -> Result<String, String> {
    let seconds = unix_nanos.div_euclid(NANOS);
    let days = seconds.div_euclid(DAY_SECONDS);
    let (year, month, day) = civil_from_days(days);
    let clock = seconds.rem_euclid(DAY_SECONDS);
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if out.len() > FORMATTED_BYTES_MAX {
            return Err(format!("the format makes more than {FORMATTED_BYTES_MAX} bytes"));
        }
        if letter != '%' {
            out.push(letter);
            continue;
        }
        // Writing into a String cannot fail.
        let _ = match letters.next() {
            Some('Y') => write!(out, "{year:04}"),
            Some('m') => write!(out, "{month:02}"),
            Some('d') => write!(out, "{day:02}"),
            Some('H') => write!(out, "{:02}", clock / 3600),
            Some('M') => write!(out, "{:02}", clock / 60 % 60),
            Some('S') => write!(out, "{:02}", clock % 60),
            Some('f') => write!(out, "{:06}", unix_nanos.rem_euclid(NANOS) / 1000),
            Some('j') => write!(out, "{:03}", days - days_from_civil(year, 1, 1) + 1),
            Some('s') => write!(out, "{seconds}"),
            Some('z') => write!(out, "+0000"),
            Some('%') => write!(out, "%"),
            other => return Err(unknown(other)),
        };
    }
    Ok(out)
}

fn unknown(letter: Option<char>) -> String {
    let letter = letter.map(String::from).unwrap_or_default();
    format!("a format knows no %{letter}, but %Y %m %d %H %M %S %f %j %s %z %%")
}

/// Reads a time by a format. What the format leaves out is that of 1970-01-01T00:00:00Z.
///
/// # Errors
/// Says what does not fit.
pub fn parse(text: &str, format: &str) -> Result<i64, String> {
    let misfit = || format!("{text:?} does not fit the format {format:?}");
    let mut rest = text;
    let (mut year, mut month, mut day, mut clock, mut nanos, mut offset) = (1970, 1, 1, 0, 0, 0);
    let (mut day_of_year, mut unix) = (None, None);
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            if !take(&mut rest, letter) {
                return Err(misfit());
            }
            continue;
        }
        match letters.next() {
            Some('Y') => year = digits(&mut rest, 4).ok_or_else(misfit)?,
            Some('m') => month = digits(&mut rest, 2).ok_or_else(misfit)?,
            Some('d') => day = digits(&mut rest, 2).ok_or_else(misfit)?,
            Some('H') => clock += 3600 * digits(&mut rest, 2).filter(|hour| *hour < 24).ok_or_else(misfit)?,
            Some('M') => {
                clock += 60 * digits(&mut rest, 2).filter(|minute| *minute < 60).ok_or_else(misfit)?
            }
            Some('S') => clock += digits(&mut rest, 2).filter(|second| *second < 61).ok_or_else(misfit)?,
            Some('j') => day_of_year = Some(digits(&mut rest, 3).ok_or_else(misfit)?),
            Some('f') => nanos = decimals(&mut rest).ok_or_else(misfit)?,
            Some('s') => unix = Some(signed(&mut rest).ok_or_else(misfit)?),
            Some('z') => offset = offset_seconds(&mut rest).ok_or_else(misfit)?,
            Some('%') if take(&mut rest, '%') => {}
            Some('%') => return Err(misfit()),
            other => return Err(unknown(other)),
        }
    }
    if !rest.is_empty() {
        return Err(misfit());
    }
    if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        return Err(format!("{text:?} names a day that does not exist"));
    }
    let days = match day_of_year {
        Some(number) if (1..=366).contains(&number) => days_from_civil(year, 1, 1) + number - 1,
        Some(_) => return Err(format!("{text:?} names a day that does not exist")),
        None => days_from_civil(year, month, day),
    };
    let seconds = unix.unwrap_or(days * DAY_SECONDS + clock - offset);
    let all = i128::from(seconds) * i128::from(NANOS) + i128::from(nanos);
    i64::try_from(all).map_err(|_| format!("{text:?} lies outside 1677 to 2262"))
}

fn take(rest: &mut &str, letter: char) -> bool {
    match rest.strip_prefix(letter) {
        Some(behind) => {
            *rest = behind;
            true
        }
        None => false,
    }
}

fn digits(rest: &mut &str, width: usize) -> Option<i64> {
    let head = rest.get(..width).filter(|head| head.bytes().all(|byte| byte.is_ascii_digit()))?;
    *rest = &rest[width..];
    head.parse().ok()
}

fn decimals(rest: &mut &str) -> Option<i64> {
    let count = rest.bytes().take_while(u8::is_ascii_digit).count();
    let head = &rest[..count.min(9)];
    *rest = &rest[count..];
    let number: i64 = head.parse().ok()?;
    Some((head.len()..9).fold(number, |number, _| number * 10))
}

fn signed(rest: &mut &str) -> Option<i64> {
    let sign = usize::from(rest.starts_with('-'));
    let count = rest.bytes().skip(sign).take_while(u8::is_ascii_digit).count();
    let (head, behind) = rest.split_at(sign + count);
    *rest = behind;
    head.parse().ok()
}

fn offset_seconds(rest: &mut &str) -> Option<i64> {
    if take(rest, 'Z') {
        return Some(0);
    }
    let direction = if take(rest, '+') {
        1
    } else if take(rest, '-') {
        -1
    } else {
        return None;
    };
    let hours = digits(rest, 2)?;
    take(rest, ':');
    let minutes = digits(rest, 2)?;
    Some(direction * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso_times_have_the_decimals_that_they_need() {
        let again = |text: &str| iso(parse_iso(text).unwrap());
        assert_eq!(again("2005-06-09T14:34:44Z"), "2005-06-09T14:34:44Z");
        assert_eq!(again("2005-06-09T14:34:44.280Z"), "2005-06-09T14:34:44.280Z");
        assert_eq!(again("2005-06-09T16:34:44.2800005+02:00"), "2005-06-09T14:34:44.280000500Z");
        assert_eq!(again("2026-11-24T10:00:00.123456"), "2026-11-24T10:00:00.123456Z");
        assert_eq!(again("1969-12-31 23:59:59.5"), "1969-12-31T23:59:59.500Z");
        for wrong in
            ["", "2005-06-09", "2005-13-01T00:00:00Z", "2005-02-29T00:00:00", "now", "é".repeat(40).as_str()]
        {
            assert!(parse_iso(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_iso_8601() {
        assert_eq!(iso_duration(Duration::from_micros(12)), "PT0.000012S");
        assert_eq!(iso_duration(Duration::from_millis(61_500)), "PT61.5S");
        assert_eq!(iso_duration(Duration::ZERO), "PT0S");
    }

    #[test]
    fn formats_write_and_read_the_same_times() {
        let nanos = parse_iso("2005-06-09T14:34:44.280Z").unwrap();
        for pattern in ["%Y-%m-%dT%H:%M:%S.%f%z", "%s.%f", "%j/%Y %H%M%S,%f %%", "%d.%m.%Y %H:%M:%S %f"] {
            let text = format(nanos, pattern).unwrap();
            assert_eq!(parse(&text, pattern), Ok(nanos), "{pattern}: {text}");
        }
        assert_eq!(format(nanos, "%d/%m/%Y %j %%"), Ok("09/06/2005 160 %".to_owned()));
        assert_eq!(
            parse("20050609 1534+0100", "%Y%m%d %H%M%z"),
            parse_iso("2005-06-09T14:34:00Z").map_err(String::from)
        );
        assert!(format(nanos, "%q").unwrap_err().contains("%q"));
        assert!(parse("2005", "%Y%m").unwrap_err().contains("does not fit"));
        assert!(
            parse("2005x", "%Y").is_err()
                && parse("a", "b").is_err()
                && parse("2005-02-30", "%Y-%m-%d").is_err()
        );
        assert!(parse("9999", "%Y").unwrap_err().contains("1677 to 2262"));
        assert!(format(nanos, &"%f".repeat(1000)).is_err());
    }
}
