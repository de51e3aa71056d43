//! What the operators do to two values.
//!
//! Numbers are of one kind, as in JSON: whole ones stay exact as long as 64 bits hold them, and where a result
//! is not whole, as that of `7 / 2`, it is the float that everybody expects.

use super::{Meter, Trouble, Value};
use crate::routes::number::{INT_RANGE, Num, Number};
use std::borrow::Cow;
use std::cmp::Ordering;

/// An operator with two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Equal,
    Different,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

/// Every operator, as the parser and as people call it.
const OPERATORS: [(Operator, &str, &str); 12] = [
    (Operator::Add, "_+_", "+"),
    (Operator::Subtract, "_-_", "-"),
    (Operator::Multiply, "_*_", "*"),
    (Operator::Divide, "_/_", "/"),
    (Operator::Remainder, "_%_", "%"),
    (Operator::Equal, "_==_", "=="),
    (Operator::Different, "_!=_", "!="),
    (Operator::Less, "_<_", "<"),
    (Operator::LessOrEqual, "_<=_", "<="),
    (Operator::Greater, "_>_", ">"),
    (Operator::GreaterOrEqual, "_>=_", ">="),
    (Operator::In, "@in", "in"),
];

impl Operator {
    /// The operator that the parser calls `name`.
    pub(super) fn named(name: &str) -> Option<Self> {
        OPERATORS.iter().find(|(_, known, _)| *known == name).map(|(operator, ..)| *operator)
    }

    fn sign(self) -> &'static str {
        OPERATORS.iter().find(|(known, ..)| *known == self).map_or("?", |(.., sign)| sign)
    }

    /// Applies it.
    pub(super) fn apply<'v, 'a>(
        self,
        left: Cow<'v, Value<'a>>,
        right: &Value<'a>,
        meter: &mut Meter,
    ) -> Result<Cow<'v, Value<'a>>, Trouble> {
        let truth = |truth| Ok(Cow::Owned(Value::Bool(truth)));
        if let Some(bytes) = self.looks_through(&left, right) {
            meter.charge(bytes)?;
        }
        match self {
            Self::Equal => truth(*left == *right),
            Self::Different => truth(*left != *right),
            Self::Less => truth(self.order(&left, right)? == Ordering::Less),
            Self::LessOrEqual => truth(self.order(&left, right)? != Ordering::Greater),
            Self::Greater => truth(self.order(&left, right)? == Ordering::Greater),
            Self::GreaterOrEqual => truth(self.order(&left, right)? != Ordering::Less),
            Self::In => match right {
                Value::Array(items) => truth(items.contains(left.as_ref())),
                // What is no text is no key.
                Value::Object(object) => truth(left.as_text().is_some_and(|key| object.get(key).is_some())),
                _ => Err(self.misfit(&left, right)),
            },
            Self::Add => self.add(left, right, meter),
            Self::Subtract | Self::Multiply | Self::Divide | Self::Remainder => self.compute(&left, right),
        }
    }

    /// How much of its operands it looks through; none where that is paid for by the step itself.
    fn looks_through(self, left: &Value<'_>, right: &Value<'_>) -> Option<usize> {
        match (self, left, right) {
            (Self::Add, ..) => None,
            (Self::In, _, Value::Object(object)) => Some(object.len()),
            (Self::In, _, list) => Some(list.weight()),
            (_, Value::Text(left), Value::Text(right)) => Some(left.len().min(right.len())),
            (_, Value::Array(_), Value::Array(_)) | (_, Value::Object(_), Value::Object(_)) => {
                Some(left.weight())
            }
            _ => None,
        }
    }

    fn add<'v, 'a>(
        self,
        left: Cow<'v, Value<'a>>,
        right: &Value<'a>,
        meter: &mut Meter,
    ) -> Result<Cow<'v, Value<'a>>, Trouble> {
        match (left.as_ref(), right) {
            (Value::Text(start), Value::Text(end)) => {
                meter.room(start.len() + end.len())?;
                Ok(Cow::Owned(Value::Text(Cow::Owned([start.as_ref(), end].concat()))))
            }
            (Value::Array(_), Value::Array(more)) => {
                // Only what is new is paid for when the list is ours already.
                let copied = if matches!(left, Cow::Owned(_)) { 0 } else { left.weight() };
                meter.room(copied + right.weight())?;
                let mut all = left.into_owned();
                if let Value::Array(items) = &mut all {
                    items.extend_from_slice(more);
                }
                Ok(Cow::Owned(all))
            }
            _ => self.compute(&left, right),
        }
    }

    fn compute<'v, 'a>(self, left: &Value<'a>, right: &Value<'a>) -> Result<Cow<'v, Value<'a>>, Trouble> {
        let (Value::Number(a), Value::Number(b)) = (left, right) else {
            return Err(self.misfit(left, right));
        };
        let num = self.numbers(a.num(), b.num()).ok_or_else(|| {
            let what = match self {
                Self::Divide | Self::Remainder if b.num().as_f64() == 0.0 => "there is no division by 0",
                _ => "is more than a number can say",
            };
            Trouble::Failed(format!("{left} {} {right}: {what}", self.sign()))
        })?;
        Ok(Cow::Owned(Value::Number(Number::from(num))))
    }

    fn numbers(self, left: Num, right: Num) -> Option<Num> {
        if let (Num::Int(a), Num::Int(b)) = (left, right) {
            let exact = match self {
                Self::Add => a.checked_add(b),
                Self::Subtract => a.checked_sub(b),
                Self::Multiply => a.checked_mul(b),
                Self::Divide if b != 0 && a % b == 0 => Some(a / b),
                Self::Divide => return float(a as f64 / b as f64),
                _ => a.checked_rem(b),
            };
            return exact.filter(|exact| INT_RANGE.contains(exact)).map(Num::Int);
        }
        let (a, b) = (left.as_f64(), right.as_f64());
        float(match self {
            Self::Add => a + b,
            Self::Subtract => a - b,
            Self::Multiply => a * b,
            Self::Divide => a / b,
            _ => a % b,
        })
    }

    fn order(self, left: &Value<'_>, right: &Value<'_>) -> Result<Ordering, Trouble> {
        match (left, right) {
            (Value::Number(a), Value::Number(b)) => a.num().compare(b.num()),
            (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            _ => None,
        }
        .ok_or_else(|| self.misfit(left, right))
    }

    fn misfit(self, left: &Value<'_>, right: &Value<'_>) -> Trouble {
        Trouble::Failed(format!("{} cannot be applied to {} and {}", self.sign(), left.kind(), right.kind()))
    }
}

/// A float as a result: finite, or none.
pub(super) fn float(float: f64) -> Option<Num> {
    float.is_finite().then_some(Num::Float(float))
}
