//! Expressions in CEL, the Common Expression Language: compiled once at load, evaluated in place per message.
//!
//! The crate `cel` reads them, with limits on length, depth and nodes, into its syntax tree. What that says is
//! evaluated here and not by the crate (decision 0020): numbers behave as in JSON, where 3 and 3.5 are of one kind;
//! values stay borrowed from the message; and each step is counted, so that the cost of a message has a bound
//! that does not depend on the machine. Names and functions that do not exist are errors at load.
//!
//! Expressions come from the configuration. No client's text is ever compiled.
//!
//! # Layout
//!
//! * `compile`: from the crate's tree to ours, with names looked up.
//! * `evaluate`: what each node does. `operators`: what `+`, `<`, `==`, `in` do to two values.
//! * `functions`: numbers and texts; `times`: times.
//! * `meter`: steps and time.

mod compile;

mod evaluate;

mod operators;

mod functions;

mod times;

mod meter;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod tests_against_cel;

use super::limits::{Exceeded, Limits};
use super::value::Value;
use compile::Node;
pub use meter::Meter;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Tables of the configuration that `lookup` searches.
pub type Tables = BTreeMap<String, Arc<BTreeMap<String, Value<'static>>>>;

/// What an expression may name.
#[derive(Debug, Clone, Copy)]
pub struct Names<'t> {
    /// Whether there is a `value`: in rules, not in `when`.
    pub value: bool,
    /// The tables for `lookup`.
    pub tables: &'t Tables,
}

/// A message's envelope without its data, as expressions see it.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    /// The message's type.
    pub message_type: Cow<'a, str>,
    /// Its time, in nanoseconds since 1970 (UTC).
    pub unix_nanos: i64,
    /// Who sent it.
    pub source: Cow<'a, str>,
    /// The version of its data.
    pub version: Cow<'a, str>,
    /// 0 to 9.
    pub priority: u8,
    /// The topic it was published on; empty if there is none.
    pub topic: Cow<'a, str>,
}

/// What is known while a message is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'v, 'a> {
    /// `value`: what the rule's source leads to.
    pub value: Option<&'v Value<'a>>,
    /// `data`.
    pub data: &'v Value<'a>,
    /// `metadata`, and the rest of `message`.
    pub head: &'v Head<'a>,
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// A field is not there.
    Missing(String),
    /// Something is of the wrong kind, or cannot be computed.
    Failed(String),
    /// It takes too long, or makes too much.
    Limit(Exceeded),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(field) => write!(f, "{field} is missing"),
            Self::Failed(message) => f.write_str(message),
            Self::Limit(exceeded) => exceeded.fmt(f),
        }
    }
}

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    node: Node,
    text: String,
}

impl Expression {
    /// Compiles `text`.
    ///
    /// # Errors
    /// A sentence that says what is wrong and where, or which limit is reached.
    pub fn compile(text: &str, names: Names<'_>, limits: &Limits) -> Result<Self, String> {
        let node = compile::compile(text, names, limits)?;
        Ok(Self { node, text: text.to_owned() })
    }

    /// The text it was compiled from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its value for what `scope` knows. Everything it does is charged to `meter`.
    ///
    /// # Errors
    /// When a field is missing, kinds do not fit, or a limit is reached.
    pub fn evaluate<'v, 'a>(
        &'v self,
        scope: &Scope<'v, 'a>,
        meter: &mut Meter,
    ) -> Result<Cow<'v, Value<'a>>, Trouble> {
        evaluate::evaluate(&self.node, scope, &mut Vec::new(), meter)
    }

    /// Whether it is true.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate), and when it is neither true nor false.
    pub fn is_true(&self, scope: &Scope<'_, '_>, meter: &mut Meter) -> Result<bool, Trouble> {
        match self.evaluate(scope, meter)?.as_ref() {
            Value::Bool(bool) => Ok(*bool),
            other => Err(Trouble::Failed(format!("it is {}, neither true nor false", other.kind()))),
        }
    }
}
