//! The functions of times: between ISO 8601, Unix seconds and any format.

use super::functions::{Made, failed, made, number, text, to_int};
use super::{Meter, Value};
use crate::routes::number::Num;
use crate::routes::times;

const NANOS: i64 = 1_000_000_000;

/// ISO 8601 to seconds since 1970, whole where they are.
pub(super) fn unix(values: &[&Value<'_>], _: &mut Meter) -> Made {
    let nanos = nanos(values)?;
    Ok(made(if nanos % NANOS == 0 {
        Num::Int((nanos / NANOS).into())
    } else {
        Num::Float(nanos as f64 / 1e9)
    }))
}

/// Seconds since 1970 to ISO 8601, to the microsecond where they are not whole.
pub(super) fn iso(values: &[&Value<'_>], _: &mut Meter) -> Made {
    let nanos = match number(values, 0)? {
        Num::Int(int) => int.checked_mul(NANOS.into()),
        // A float of today resolves a quarter of a microsecond; its further digits would be noise.
        Num::Float(float) => match to_int((float * 1e6).round()) {
            Some(Num::Int(micros)) => Some(micros * 1000),
            _ => None,
        },
    };
    match nanos.and_then(|nanos| i64::try_from(nanos).ok()) {
        Some(nanos) => Ok(Value::text(times::iso(nanos))),
        None => failed("it lies outside 1677 to 2262"),
    }
}

/// A time in any format to ISO 8601.
pub(super) fn parse(values: &[&Value<'_>], meter: &mut Meter) -> Made {
    let (time, format) = (text(values, 0)?, text(values, 1)?);
    meter.charge(time.len() + format.len())?;
    times::parse(time, format).map_or_else(failed, |nanos| Ok(Value::text(times::iso(nanos))))
}

/// ISO 8601 to any format.
pub(super) fn format(values: &[&Value<'_>], meter: &mut Meter) -> Made {
    let nanos = nanos(values)?;
    let format = text(values, 1)?;
    meter.charge(format.len())?;
    times::format(nanos, format).map_or_else(failed, |text| Ok(Value::text(text)))
}

fn nanos(values: &[&Value<'_>]) -> Result<i64, super::Trouble> {
    let time = text(values, 0)?;
    times::parse_iso(time).or_else(|error| failed(format!("{} {error}", Value::text(time).excerpt(40))))
}
