//! Numbers: their sender's digits, or what was computed of them.
//!
//! A number that nobody computed with stays as it was written. To compute, it is a whole number as far as 64 bits
//! hold it, signed or not, and else the nearest float; the two are of one kind and compare exactly.

use std::borrow::Cow;

/// A number: as its sender wrote it, or computed.
#[derive(Debug, Clone)]
pub enum Number<'a> {
    /// The sender's digits, which are a JSON number.
    Source(Cow<'a, str>),
    /// A computed whole number.
    Int(i128),
    /// Any other computed number; finite.
    Float(f64),
}

/// A number to compute with.
#[derive(Debug, Clone, Copy)]
pub enum Num {
    /// Whole and within 64 bits, signed or not.
    Int(i128),
    /// Everything else.
    Float(f64),
}

/// The range in which whole numbers are exact: what 64 bits can say, signed or not.
pub const INT_RANGE: std::ops::RangeInclusive<i128> = i64::MIN as i128..=u64::MAX as i128;

impl Num {
    /// As a floating-point number, perhaps rounded.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }

    /// How it compares; none only if one is not a number.
    #[must_use]
    pub fn compare(self, other: Self) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Self::Int(left), Self::Int(right)) => Some(left.cmp(&right)),
            (Self::Int(left), Self::Float(right)) => Some(compare_mixed(left, right)?),
            (Self::Float(left), Self::Int(right)) => {
                compare_mixed(right, left).map(std::cmp::Ordering::reverse)
            }
            (Self::Float(left), Self::Float(right)) => left.partial_cmp(&right),
        }
    }
}

/// Exactly: a rounded integer would be equal to its neighbours.
fn compare_mixed(int: i128, float: f64) -> Option<std::cmp::Ordering> {
    if float.is_nan() {
        return None;
    }
    // A cast of a float saturates, and `i128` has room far beyond what an integer here can be.
    #[expect(clippy::cast_possible_truncation, reason = "the fraction is looked at after it")]
    let whole = float.trunc() as i128;
    Some(int.cmp(&whole).then_with(|| 0.0_f64.total_cmp(&(float.fract() + 0.0))))
}

impl Number<'_> {
    /// The number to compute with: whole numbers within 64 bits exactly, others as the nearest float.
    #[must_use]
    pub fn num(&self) -> Num {
        match self {
            Self::Int(int) => Num::Int(*int),
            Self::Float(float) => Num::Float(*float),
            Self::Source(text) => parse_num(text),
        }
    }

    /// Whether it is written, or was computed, as a whole number, or is one mathematically (`1.0`, `12e1`).
    #[must_use]
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Int(_) => true,
            Self::Float(float) => float.fract() == 0.0,
            Self::Source(text) => text_is_whole(text),
        }
    }

    /// Its digits.
    #[must_use]
    pub fn digits(&self) -> Cow<'_, str> {
        match self {
            Self::Source(text) => Cow::Borrowed(text),
            Self::Int(int) => Cow::Owned(int.to_string()),
            Self::Float(float) => Cow::Owned(format!("{float:?}")),
        }
    }

    pub(super) fn into_owned(self) -> Number<'static> {
        match self {
            Self::Source(text) => Number::Source(Cow::Owned(text.into_owned())),
            Self::Int(int) => Number::Int(int),
            Self::Float(float) => Number::Float(float),
        }
    }

    pub(super) fn same(&self, other: &Number<'_>) -> bool {
        if let (Self::Source(left), Number::Source(right)) = (self, other)
            && left == right
        {
            return true;
        }
        self.num().compare(other.num()) == Some(std::cmp::Ordering::Equal)
    }
}

impl From<Num> for Number<'_> {
    fn from(num: Num) -> Self {
        match num {
            Num::Int(int) => Self::Int(int),
            Num::Float(float) => Self::Float(float),
        }
    }
}

fn parse_num(text: &str) -> Num {
    let digits = text.strip_prefix('-').unwrap_or(text);
    // Nineteen digits fit in any case; more of them are looked at before they are believed.
    if digits.len() <= 20
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(int) = text.parse::<i128>()
        && INT_RANGE.contains(&int)
        && !(int == 0 && text.starts_with('-'))
    {
        return Num::Int(int);
    }
    Num::Float(text.parse().unwrap_or(f64::NAN))
}

/// Whether the JSON number `text` is whole: its exponent reaches over all of its decimals that are not 0.
fn text_is_whole(text: &str) -> bool {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let decimals = decimals.trim_end_matches('0');
    if decimals.is_empty() && whole.trim_start_matches('-').bytes().all(|byte| byte == b'0') {
        return true;
    }
    // An exponent that 64 bits cannot hold decides by its sign alone.
    let saturated = if exponent.starts_with('-') { i64::MIN } else { i64::MAX };
    let exponent = exponent.parse::<i64>().unwrap_or(saturated);
    let needed = if decimals.is_empty() {
        let zeros = whole.len() - whole.trim_end_matches('0').len();
        -i64::try_from(zeros).unwrap_or(i64::MAX)
    } else {
        i64::try_from(decimals.len()).unwrap_or(i64::MAX)
    };
    exponent >= needed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Number<'_> {
        Number::Source(Cow::Borrowed(text))
    }

    #[test]
    fn whole_numbers_are_known_by_their_digits() {
        for whole in ["0", "-0", "0.0", "0e-999999999999999999999", "12", "1.0", "1.50e1", "100e-2", "1e400"]
        {
            assert!(source(whole).is_whole(), "{whole}");
        }
        for broken in ["0.5", "1.01e1", "10e-2", "1e-400", "1e-99999999999999999999"] {
            assert!(!source(broken).is_whole(), "{broken}");
        }
    }
}
