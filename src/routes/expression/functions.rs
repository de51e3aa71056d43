//! The functions of expressions: numbers, texts, conversions. Those of times are in `times`.
//!
//! Each gets its arguments, as many as the table says, and makes a value of its own. What it makes or looks through
//! is charged before it is made.

use super::operators::float;
use super::{Meter, Trouble, Value, times};
use crate::routes::number::{INT_RANGE, Num, Number};
use std::borrow::Cow;
use std::cmp::Ordering;

/// What a function does.
pub(super) type Call = fn(&[&Value<'_>], &mut Meter) -> Made;
/// What a function makes.
pub(super) type Made = Result<Value<'static>, Trouble>;

/// A function.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) least: usize,
    pub(super) most: usize,
    pub(super) call: Call,
}

/// Most arguments of a function that takes any number.
const MANY: usize = 32;

const fn function(name: &'static str, least: usize, most: usize, call: Call) -> Function {
    Function { name, least, most, call }
}

/// Every function but those that get more than values: `coalesce`, `lookup`, `matches`, `regex_find`, `regex_replace`.
pub(super) static FUNCTIONS: &[Function] = &[
    function("round", 1, 2, round),
    function("floor", 1, 1, |values, _| whole(values, f64::floor)),
    function("ceil", 1, 1, |values, _| whole(values, f64::ceil)),
    function("abs", 1, 1, abs),
    function("min", 1, MANY, |values, _| best(values, Ordering::Less)),
    function("max", 1, MANY, |values, _| best(values, Ordering::Greater)),
    function("clamp", 3, 3, clamp),
    function("scale", 5, 5, scale),
    function("int", 1, 1, int),
    function("double", 1, 1, double),
    function("string", 1, 1, string),
    function("bool", 1, 1, bool),
    function("size", 1, 1, size),
    function("lower", 1, 1, |values, meter| mapped(values, meter, str::to_lowercase)),
    function("upper", 1, 1, |values, meter| mapped(values, meter, str::to_uppercase)),
    function("trim", 1, 1, |values, meter| mapped(values, meter, |text| text.trim().to_owned())),
    function("contains", 2, 2, |values, meter| asked(values, meter, |text, part| text.contains(part))),
    function("startsWith", 2, 2, |values, meter| asked(values, meter, |text, part| text.starts_with(part))),
    function("endsWith", 2, 2, |values, meter| asked(values, meter, |text, part| text.ends_with(part))),
    function("split", 2, 2, split),
    function("join", 1, 2, join),
    function("replace", 3, 3, replace),
    function("substring", 2, 3, substring),
    function("format", 1, MANY, format),
    function("redact", 1, 2, redact),
    function("time_unix", 1, 1, times::unix),
    function("time_iso", 1, 1, times::iso),
    function("time_parse", 2, 2, times::parse),
    function("time_format", 2, 2, times::format),
];

pub(super) fn failed<T>(message: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Failed(message.into()))
}

pub(super) fn number(values: &[&Value<'_>], at: usize) -> Result<Num, Trouble> {
    match values[at] {
        Value::Number(number) => Ok(number.num()),
        other => failed(format!("argument {} is {}, not a number", at + 1, other.kind())),
    }
}

pub(super) fn text<'t>(values: &[&'t Value<'_>], at: usize) -> Result<&'t str, Trouble> {
    match values[at] {
        Value::Text(text) => Ok(text),
        other => failed(format!("argument {} is {}, not a text", at + 1, other.kind())),
    }
}

pub(super) fn made(num: Num) -> Value<'static> {
    Value::Number(Number::from(num))
}

/// A float as a whole number, where 64 bits hold it.
pub(super) fn to_int(float: f64) -> Option<Num> {
    // Saturates, far outside of the range that is looked at.
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    let int = float.trunc() as i128;
    (float.is_finite() && INT_RANGE.contains(&int)).then_some(Num::Int(int))
}

fn round(values: &[&Value<'_>], _: &mut Meter) -> Made {
    let num = number(values, 0)?;
    let digits = if values.len() > 1 { number(values, 1)? } else { Num::Int(0) };
    let Num::Int(digits @ -18..=18) = digits else {
        return failed("the digits must be a whole number from -18 to 18");
    };
    let digits = i32::try_from(digits).expect("it is within -18 to 18");
    let Num::Float(value) = num else {
        if digits >= 0 {
            return Ok(made(num));
        }
        let factor = 10_f64.powi(-digits);
        let rounded = (num.as_f64() / factor).round() * factor;
        return Ok(made(to_int(rounded).unwrap_or(Num::Float(rounded))));
    };
    let factor = 10_f64.powi(digits.abs());
    let rounded =
        if digits >= 0 { (value * factor).round() / factor } else { (value / factor).round() * factor };
    // Beyond what a float resolves there is nothing to round.
    let rounded = if rounded.is_finite() { rounded } else { value };
    Ok(made(if digits <= 0 { to_int(rounded).unwrap_or(Num::Float(rounded)) } else { Num::Float(rounded) }))
}

fn whole(values: &[&Value<'_>], round: fn(f64) -> f64) -> Made {
    Ok(made(match number(values, 0)? {
        Num::Float(float) => to_int(round(float)).unwrap_or(Num::Float(float)),
        int => int,
    }))
}

fn abs(values: &[&Value<'_>], _: &mut Meter) -> Made {
    Ok(made(match number(values, 0)? {
        Num::Int(int) => Num::Int(int.abs()),
        Num::Float(float) => Num::Float(float.abs()),
    }))
}

fn best(values: &[&Value<'_>], wanted: Ordering) -> Made {
    // One list, or the numbers themselves.
    if let [Value::Array(items)] = values {
        let items: Vec<&Value<'_>> = items.iter().collect();
        return if items.is_empty() { failed("of nothing there is none") } else { best(&items, wanted) };
    }
    let mut best = number(values, 0)?;
    for at in 1..values.len() {
        let next = number(values, at)?;
        if next.compare(best) == Some(wanted) {
            best = next;
        }
    }
    Ok(made(best))
}

fn clamp(values: &[&Value<'_>], _: &mut Meter) -> Made {
    let (num, low, high) = (number(values, 0)?, number(values, 1)?, number(values, 2)?);
    if low.compare(high) == Some(Ordering::Greater) {
        return failed("the lower bound is above the upper one");
    }
    let at_least = if num.compare(low) == Some(Ordering::Less) { low } else { num };
    Ok(made(if at_least.compare(high) == Some(Ordering::Greater) { high } else { at_least }))
}

/// From one range to another: `scale(x, 0, 1023, 0, 5)`.
fn scale(values: &[&Value<'_>], _: &mut Meter) -> Made {
    let at = |index| number(values, index).map(Num::as_f64);
    let (value, from, to, low, high) = (at(0)?, at(1)?, at(2)?, at(3)?, at(4)?);
    match float(low + (value - from) * (high - low) / (to - from)) {
        Some(num) => Ok(made(num)),
        None => failed("the first range is empty, or a number too large"),
    }
}

fn int(values: &[&Value<'_>], _: &mut Meter) -> Made {
    let num = match values[0] {
        Value::Text(text) => parsed(text)?,
        Value::Bool(bool) => Num::Int((*bool).into()),
        _ => number(values, 0)?,
    };
    match num {
        Num::Int(_) => Ok(made(num)),
        Num::Float(float) => {
            to_int(float).map(made).map_or_else(|| failed("it is more than 64 bits can say"), Ok)
        }
    }
}

fn double(values: &[&Value<'_>], _: &mut Meter) -> Made {
    let num = match values[0] {
        Value::Text(text) => parsed(text)?,
        _ => number(values, 0)?,
    };
    float(num.as_f64()).map(made).map_or_else(|| failed("it is too large"), Ok)
}

fn parsed(text: &str) -> Result<Num, Trouble> {
    let trimmed = text.trim();
    let signs = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
    let number = Number::Source(Cow::Borrowed(trimmed.strip_prefix('+').unwrap_or(trimmed))).num();
    if trimmed.chars().all(signs) && number.as_f64().is_finite() {
        return Ok(number);
    }
    failed(format!("{:?} is no number", Value::text(text).excerpt(40)))
}

fn string(values: &[&Value<'_>], meter: &mut Meter) -> Made {
    meter.room(values[0].weight())?;
    Ok(Value::text(match values[0] {
        Value::Text(text) => text.to_string(),
        other => other.to_string(),
    }))
}

fn bool(values: &[&Value<'_>], _: &mut Meter) -> Made {
    match values[0] {
        Value::Bool(bool) => Ok(Value::Bool(*bool)),
        Value::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "t" | "1" => Ok(Value::Bool(true)),
            "false" | "f" | "0" => Ok(Value::Bool(false)),
            _ => failed("it is neither true nor false"),
        },
        Value::Number(number) => Ok(Value::Bool(number.num().as_f64() != 0.0)),
        other => failed(format!("{} is neither true nor false", other.kind())),
    }
}

fn size(values: &[&Value<'_>], meter: &mut Meter) -> Made {
    let size = match values[0] {
        Value::Text(text) => {
            meter.charge(text.len())?;
            text.chars().count()
        }
        Value::Array(items) => items.len(),
        Value::Object(object) => object.len(),
        other => return failed(format!("{} has no size", other.kind())),
    };
    Ok(Value::int(size as i128))
}

fn mapped(values: &[&Value<'_>], meter: &mut Meter, map: fn(&str) -> String) -> Made {
    let text = text(values, 0)?;
    // No letter becomes more than three times as long by its other case.
    meter.room(3 * text.len())?;
    Ok(Value::text(map(text)))
}

fn asked(values: &[&Value<'_>], meter: &mut Meter, ask: fn(&str, &str) -> bool) -> Made {
    let (whole, part) = (text(values, 0)?, text(values, 1)?);
    meter.charge(whole.len())?;
    Ok(Value::Bool(ask(whole, part)))
}

fn split(values: &[&Value<'_>], meter: &mut Meter) -> Made {
    let (whole, separator) = (text(values, 0)?, text(values, 1)?);
    if separator.is_empty() {
        return failed("the separator is empty");
    }
    meter.charge(whole.len())?;
    // Each part is a value of its own, whatever its length.
    let parts = whole.matches(separator).count() + 1;
    meter.room(whole.len() + parts * size_of::<Value<'_>>())?;
    Ok(Value::Array(whole.split(separator).map(|part| Value::text(part.to_owned())).collect()))
}

fn join(values: &[&Value<'_>], meter: &mut Meter) -> Made {
    let Value::Array(items) = values[0] else {
        return failed(format!("argument 1 is {}, not an array", values[0].kind()));
    };
    let separator = if values.len() > 1 { text(values, 1)? } else { "" };
    meter.room(values[0].weight() + items.len() * separator.len())?;
    let texts: Vec<Cow<'_, str>> = items.iter().map(shown).collect();
    Ok(Value::text(texts.join(separator)))
}

/// A value as text within text: without the quotation marks of JSON.
fn shown<'t>(value: &'t Value<'_>) -> Cow<'t, str> {
    match value {
        Value::Text(text) => Cow::Borrowed(text),
        Value::Number(number) => number.digits(),
        other => Cow::Owned(other.to_string()),
    }
}

fn replace(values: &[&Value<'_>], meter: &mut Meter) -> Made {
    let (whole, from, to) = (text(values, 0)?, text(values, 1)?, text(values, 2)?);
    if from.is_empty() {
        return failed("what is to be replaced is empty");
    }
    meter.charge(whole.len())?;
    let count = whole.matches(from).count();
    meter.room(whole.len() - count * from.len() + count * to.len())?;
    Ok(Value::text(whole.replace(from, to)))
}

/// Characters from a place, counted from 0, up to another: `substring("tramline", 0, 4)`.
fn substring(values: &[&Value<'_>], meter: &mut Meter) -> Made {
    let whole = text(values, 0)?;
    let place = |at: usize| match number(values, at)? {
        Num::Int(int) => usize::try_from(int).map_or_else(|_| failed(format!("there is no place {int}")), Ok),
        Num::Float(_) => failed(format!("argument {} is not whole", at + 1)),
    };
    let from = place(1)?;
    let to = if values.len() > 2 { place(2)? } else { usize::MAX };
    meter.room(whole.len())?;
    Ok(Value::text(whole.chars().skip(from).take(to.saturating_sub(from)).collect::<String>()))
}

/// `format("{} at {:.1} km/h", name, speed)`; `{{` and `}}` are braces.
fn format(values: &[&Value<'_>], meter: &mut Meter) -> Made {
    let pattern = text(values, 0)?;
    let mut given = values[1..].iter();
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..];
        if brace.starts_with("{{") || brace.starts_with("}}") {
            out.push_str(&brace[..1]);
            rest = &brace[2..];
            continue;
        }
        let Some(end) = brace.find('}').filter(|_| brace.starts_with('{')) else {
            return failed("a brace stands alone; {{ and }} are braces");
        };
        let Some(value) = given.next() else { return failed("there are more {} than values") };
        let part = placed(value, &brace[1..end])?;
        meter.room(out.len() + part.len())?;
        out.push_str(&part);
        rest = &brace[end + 1..];
    }
    if given.next().is_some() {
        return failed("there are more values than {}");
    }
    out.push_str(rest);
    meter.room(out.len())?;
    Ok(Value::text(out))
}

fn placed<'t>(value: &'t Value<'_>, how: &str) -> Result<Cow<'t, str>, Trouble> {
    if how.is_empty() {
        return Ok(shown(value));
    }
    let digits = how.strip_prefix(":.").and_then(|digits| digits.parse::<usize>().ok());
    match (digits.filter(|digits| *digits <= 18), value) {
        (Some(digits), Value::Number(number)) => {
            Ok(Cow::Owned(format!("{:.digits$}", number.num().as_f64())))
        }
        (Some(_), other) => failed(format!("{{{how}}} needs a number, not {}", other.kind())),
        (None, _) => failed(format!("there is no {{{how}}}, but {{}} and {{:.0}} to {{:.18}}")),
    }
}

/// `***`, with as many last characters left as are asked for, but never more than half of them.
fn redact(values: &[&Value<'_>], meter: &mut Meter) -> Made {
    let keep = match values.get(1) {
        None => 0,
        Some(_) => match number(values, 1)? {
            Num::Int(int @ 0..=64) => usize::try_from(int).expect("it is within 0 to 64"),
            _ => return failed("what is left must be 0 to 64 characters"),
        },
    };
    meter.room(values[0].weight())?;
    let whole = shown(values[0]);
    let length = whole.chars().count();
    let keep = keep.min(length / 2);
    Ok(Value::text(format!("***{}", whole.chars().skip(length - keep).collect::<String>())))
}
