//! Rules: what becomes of the fields of one message, in order, compiled once.
//!
//! A rule takes what its `source` leads to, or a `literal`, or what an expression makes without either, and puts it
//! at its `target` in the result. With `*` in both it does so element by element; with `*` in the source only, what
//! is found is gathered in an array. An error names the rule by its number, the path and the value.

use super::expression::{Expression, Head, Meter, Names, Scope, Tables, Trouble};
use super::limits::{Exceeded, Limits};
use super::path::Path;
use super::value::{Object, Value};
use std::borrow::Cow;
use std::fmt;

/// Longest part of a value that an error shows, in bytes.
const SHOWN_BYTES: usize = 60;

/// What happens when a rule cannot be carried out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnError {
    /// The message is invalid.
    #[default]
    Fail,
    /// The rule does nothing.
    Skip,
    /// The rule's `default` is put at the target.
    Default,
}

/// What a result begins as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// An empty object: only what rules put there comes out.
    #[default]
    Empty,
    /// The message's data.
    Data,
}

/// A rule as the configuration says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleSettings {
    /// Where the value is, in the data.
    pub source: Option<String>,
    /// Where it goes, in the result; the same as `source` if it is not said.
    pub target: Option<String>,
    /// An expression over `value`, `data`, `metadata` and `message`.
    pub transform: Option<String>,
    /// The value itself.
    pub literal: Option<Value<'static>>,
    /// The value where the source is missing.
    pub default: Option<Value<'static>>,
    /// Whether a message without it is invalid; `null` is without it.
    pub required: bool,
    /// What happens when it cannot be carried out.
    pub on_error: OnError,
    /// Whether the source is taken away: from the data that later rules see, and from a result that began as it.
    pub takes: bool,
    /// Whether the source is taken away and put nowhere.
    pub drops: bool,
}

/// Why a rule could not be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    /// The rule's number, from 1.
    pub rule: usize,
    /// Its source, or its target if it has none.
    pub path: String,
    /// The value it stumbled over, shortened.
    pub value: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} ({})", self.rule, self.path)?;
        if let Some(value) = &self.value {
            write!(f, " with the value {value}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for RuleError {}

#[derive(Debug)]
enum Action {
    Copy,
    Literal(Value<'static>),
    Compute(Expression),
    Drop,
}

#[derive(Debug)]
struct Rule {
    number: usize,
    source: Option<Path>,
    target: Option<Path>,
    action: Action,
    default: Option<Value<'static>>,
    required: bool,
    on_error: OnError,
    takes: bool,
}

/// The rules of a route.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    start: Start,
    result_bytes_max: usize,
}

/// What is wrong with the rules, and at which key below them: `2.source`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleFault {
    /// The key, from the rule's index (from 0) on.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

impl Rules {
    /// Compiles rules.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn compile(
        settings: &[RuleSettings],
        start: Start,
        tables: &Tables,
        limits: &Limits,
    ) -> Result<Self, RuleFault> {
        if let Some(index) = settings.get(limits.rules_max).map(|_| limits.rules_max) {
            let what = format!("there are {} rules", settings.len());
            let message = Exceeded::new("rules_max", limits.rules_max, what).to_string();
            return Err(RuleFault { key: index.to_string(), message });
        }
        let compiled = settings.iter().enumerate().map(|(index, rule)| {
            compile(rule, index + 1, tables, limits).map_err(|(key, message)| {
                let key = if key.is_empty() { index.to_string() } else { format!("{index}.{key}") };
                RuleFault { key, message: format!("rule {}: {message}", index + 1) }
            })
        });
        Ok(Self {
            rules: compiled.collect::<Result<_, _>>()?,
            start,
            result_bytes_max: limits.result_bytes_max,
        })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the rules make of a message's data.
    ///
    /// # Errors
    /// The first rule that fails, unless it says what then.
    pub fn apply<'a>(
        &'a self,
        mut data: Value<'a>,
        head: &Head<'a>,
        meter: &mut Meter,
    ) -> Result<Value<'a>, RuleError> {
        let mut result = match self.start {
            Start::Empty => Value::Object(Object::default()),
            Start::Data => data.clone(),
        };
        let mut made = if self.start == Start::Data { data.weight() } else { 0 };
        for rule in &self.rules {
            let mut put = Put { result: &mut result, made: &mut made, most: self.result_bytes_max };
            rule.apply(&data, head, meter, &mut put)?;
            let gone = rule.takes || matches!(rule.action, Action::Drop);
            if let Some(source) = rule.source.as_ref().filter(|_| gone) {
                source.remove(&mut data);
                // What a rule has just put there stays, if it is the same place.
                if self.start == Start::Data && rule.target.as_ref() != Some(source) {
                    source.remove(&mut result);
                }
            }
        }
        Ok(result)
    }
}

type Named = (&'static str, String);

fn compile(settings: &RuleSettings, number: usize, tables: &Tables, limits: &Limits) -> Result<Rule, Named> {
    let path = |key: &'static str, text: &Option<String>| {
        text.as_deref().map(|text| Path::parse(text, limits).map_err(|error| (key, error))).transpose()
    };
    let source = path("source", &settings.source)?;
    let target = path("target", &settings.target)?;
    let wrong = |key: &'static str, message: &str| Err((key, message.to_owned()));
    let action = match (&source, &settings.literal, &settings.transform, settings.drops) {
        (None, .., true) => return wrong("drop", "says nothing without a source"),
        (Some(_), None, None, true) => Action::Drop,
        (.., true) => return wrong("drop", "goes with a source only"),
        (None, Some(literal), None, false) => Action::Literal(literal.clone()),
        (_, Some(_), ..) => return wrong("literal", "goes without source and transform"),
        (_, None, Some(text), false) => {
            let names = Names { value: source.is_some(), tables };
            Action::Compute(Expression::compile(text, names, limits).map_err(|error| ("transform", error))?)
        }
        (Some(_), None, None, false) => Action::Copy,
        (None, None, None, false) => return wrong("", "says neither source nor literal nor transform"),
    };
    let drops = settings.drops;
    if drops && (target.is_some() || settings.default.is_some() || settings.takes) {
        return wrong("drop", "goes with a source only");
    }
    let target = if drops { None } else { target.or_else(|| source.clone()) };
    let Some(stars) = target.as_ref().map(Path::stars).or(Some(0)) else {
        return wrong("target", "is missing");
    };
    if !drops && target.is_none() {
        return wrong("", "the key target is missing: it says where the value goes");
    }
    let from = source.as_ref().map_or(0, Path::stars);
    if stars != 0 && stars != from {
        return wrong("target", &format!("has {stars} *, but the source has {from}"));
    }
    if settings.required && settings.default.is_some() {
        return wrong("default", "is never used where required is true");
    }
    if settings.on_error == OnError::Default && settings.default.is_none() {
        return wrong("on_error", "is default, but there is no default");
    }
    if (settings.takes || settings.required) && source.is_none() {
        return wrong(if settings.takes { "move" } else { "required" }, "goes with a source only");
    }
    Ok(Rule {
        number,
        source,
        target,
        action,
        default: settings.default.clone(),
        required: settings.required,
        on_error: settings.on_error,
        takes: settings.takes,
    })
}

/// The result while it grows.
struct Put<'r, 'a> {
    result: &'r mut Value<'a>,
    made: &'r mut usize,
    most: usize,
}

impl<'a> Put<'_, 'a> {
    fn set(&mut self, target: &'a Path, elements: &[usize], value: Value<'a>) -> Result<(), Stumble> {
        *self.made += value.weight();
        if *self.made > self.most {
            let what = format!("the result would have {} bytes", self.made);
            return Err(Stumble::Limit(Exceeded::new("result_bytes_max", self.most, what).to_string()));
        }
        target
            .set(self.result, elements, value)
            .map_err(|blocked| Stumble::Said(format!("target: {blocked}")))
    }
}

/// Why one value could not be treated; a limit fails whatever the rule says.
enum Stumble {
    Said(String),
    Limit(String),
}

impl From<Trouble> for Stumble {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Limit(exceeded) => Self::Limit(exceeded.to_string()),
            other => Self::Said(other.to_string()),
        }
    }
}

impl Rule {
    fn error(&self, value: Option<&Value<'_>>, message: String) -> RuleError {
        let path = self.source.as_ref().or(self.target.as_ref());
        RuleError {
            rule: self.number,
            path: path.map_or_else(String::new, ToString::to_string),
            value: value.map(|value| value.excerpt(SHOWN_BYTES)),
            message,
        }
    }

    fn apply<'a>(
        &'a self,
        data: &Value<'a>,
        head: &Head<'a>,
        meter: &mut Meter,
        put: &mut Put<'_, 'a>,
    ) -> Result<(), RuleError> {
        let Some(source) = &self.source else { return self.one(None, &[], data, head, meter, put) };
        let stars = source.stars();
        if stars == 0 {
            return self.one(source.get(data), &[], data, head, meter, put);
        }
        let element_by_element = self.target.as_ref().is_none_or(|target| target.stars() > 0);
        if element_by_element {
            return source.each(data, &mut |elements, value| {
                if elements.len() == stars {
                    return self.one(value, elements, data, head, meter, put);
                }
                self.nothing_there()
            });
        }
        self.gather(source, data, head, meter, put)
    }

    /// Where there is no array for a `*`.
    fn nothing_there(&self) -> Result<(), RuleError> {
        if self.required { Err(self.error(None, "it is required and missing".to_owned())) } else { Ok(()) }
    }

    /// All that the source leads to, as one array.
    fn gather<'a>(
        &'a self,
        source: &Path,
        data: &Value<'a>,
        head: &Head<'a>,
        meter: &mut Meter,
        put: &mut Put<'_, 'a>,
    ) -> Result<(), RuleError> {
        let (mut items, mut found) = (Vec::new(), false);
        let mut bytes = 0;
        source.each(data, &mut |elements, value| {
            if elements.len() < source.stars() {
                return self.nothing_there();
            }
            found = true;
            if let Some(value) = self.value(value, data, head, meter)? {
                bytes += value.weight();
                if bytes > put.most {
                    let what = format!("the array would have {bytes} bytes");
                    let message = Exceeded::new("result_bytes_max", put.most, what).to_string();
                    return Err(self.error(None, message));
                }
                items.push(value);
            }
            Ok(())
        })?;
        let all = match (found, &self.default) {
            (true, _) => Value::Array(items),
            (false, Some(default)) => default.borrowed(),
            (false, None) => return Ok(()),
        };
        self.place(&[], all, put).map_err(|message| self.error(None, message))
    }

    /// One value to one place.
    fn one<'a>(
        &'a self,
        value: Option<&Value<'a>>,
        elements: &[usize],
        data: &Value<'a>,
        head: &Head<'a>,
        meter: &mut Meter,
        put: &mut Put<'_, 'a>,
    ) -> Result<(), RuleError> {
        let Some(made) = self.value(value, data, head, meter)? else { return Ok(()) };
        self.place(elements, made, put).map_err(|message| self.error(value, message))
    }

    fn place<'a>(
        &'a self,
        elements: &[usize],
        value: Value<'a>,
        put: &mut Put<'_, 'a>,
    ) -> Result<(), String> {
        let Some(target) = &self.target else { return Ok(()) };
        match put.set(target, elements, value) {
            Ok(()) => Ok(()),
            Err(Stumble::Said(_)) if self.on_error == OnError::Skip => Ok(()),
            Err(Stumble::Said(message) | Stumble::Limit(message)) => Err(message),
        }
    }

    /// What the rule makes of what its source leads to; none if that is nothing.
    fn value<'a>(
        &'a self,
        value: Option<&Value<'a>>,
        data: &Value<'a>,
        head: &Head<'a>,
        meter: &mut Meter,
    ) -> Result<Option<Value<'a>>, RuleError> {
        if self.required && value.is_none_or(|value| matches!(value, Value::Null)) {
            return Err(self.error(value, "it is required and missing".to_owned()));
        }
        if self.source.is_some() && value.is_none() {
            return Ok(self.default.as_ref().map(Value::borrowed));
        }
        let computed = match (&self.action, value) {
            (Action::Drop, _) => return Ok(None),
            (Action::Literal(literal), _) => return Ok(Some(literal.borrowed())),
            (Action::Copy, value) => return Ok(value.cloned()),
            (Action::Compute(expression), value) => {
                expression.evaluate(&Scope { value, data, head }, meter).map(Cow::into_owned)
            }
        };
        match (computed.map_err(Stumble::from), self.on_error) {
            (Ok(made), _) => Ok(Some(made)),
            (Err(Stumble::Said(_)), OnError::Skip) => Ok(None),
            (Err(Stumble::Said(_)), OnError::Default) => Ok(self.default.as_ref().map(Value::borrowed)),
            (Err(Stumble::Said(message) | Stumble::Limit(message)), _) => Err(self.error(value, message)),
        }
    }
}
