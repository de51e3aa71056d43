//! One route, and what it does to one message.
//!
//! Nothing in here sends anything: what comes out says what would be sent.

use super::envelope::{Input, Native, Output};
use super::expression::{Expression, Meter, Names, Scope, Tables, Trouble};
use super::limits::{Exceeded, Limits};
use super::path::Path;
use super::rules::Rules;
use super::schema::Schema;
use super::settings::{Form, Intake, RouteSettings};
use super::times::iso;
use super::value::{Object, Value, write_text};
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;
use tramline_wire::{Filter, Topic};

/// Where a message was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin<'a> {
    /// Published on a topic.
    Topic(&'a str),
    /// Taken from a queue.
    Queue(&'a str),
    /// A request to a service.
    Service(&'a str),
}

/// A route, ready for messages.
#[derive(Debug)]
pub struct Route {
    settings: RouteSettings,
    when: Option<Expression>,
    schema: Option<Schema>,
    rules: Rules,
    reply: Option<Rules>,
    split: Option<Path>,
    order_key: Option<Path>,
}

/// What messages of one source must have in common to be kept in order, in short. What differs may share it: then it is
/// kept in order as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct OrderKey(u64);

/// What is wrong with routes, and at which key of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key, such as `routes.0.transform.rules.2.source`.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

/// Why a route left a message alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    /// `when` is false.
    False,
    /// `when` asks for a field that is missing, which counts as false.
    Missing(String),
    /// `when` cannot be computed, which counts as false.
    Trouble(String),
}

/// What a route makes of a message.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// Nothing: it is for others.
    Passed(Passed),
    /// It ends here, for this reason.
    Dropped(&'a str),
    /// It goes on as it came.
    Forwarded(OrderKey),
    /// It is not valid as a whole, for this reason.
    Invalid(String),
    /// What it was made into: one, or as many as it was split into.
    Made(Vec<(Part<'a>, OrderKey)>),
}

/// A try to deliver a message that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Try {
    /// Where to; empty if there was nowhere.
    pub destination: Arc<str>,
    /// When it failed, in nanoseconds since 1970.
    pub unix_nanos: i64,
    /// Why.
    pub reason: String,
}

/// One message that goes out.
#[derive(Debug)]
pub enum Part<'a> {
    /// An envelope.
    Enveloped(Output<'a>),
    /// Data alone.
    Bare(Value<'a>),
    /// A part that is not valid, and why; the others are not touched by that.
    Invalid {
        /// The part as it was.
        part: Value<'a>,
        /// Why.
        reason: String,
    },
}

impl Part<'_> {
    /// The data that goes out; none if there is none.
    #[must_use]
    pub fn data(&self) -> Option<&Value<'_>> {
        match self {
            Self::Enveloped(output) => Some(&output.data),
            Self::Bare(data) => Some(data),
            Self::Invalid { .. } => None,
        }
    }

    /// Appends what `destination` gets, `took` after work on it began. Nothing for a part that is not valid.
    pub fn write(&self, destination: &str, took: Duration, out: &mut Vec<u8>) {
        match self {
            Self::Enveloped(output) => output.write(destination, took, out),
            Self::Bare(data) => data.write(out),
            Self::Invalid { .. } => {}
        }
    }

    /// Appends what a destination gets, without its name; where that goes in `out`, if it is named in there.
    pub fn write_around(&self, took: Duration, out: &mut Vec<u8>) -> Option<usize> {
        match self {
            Self::Enveloped(output) => Some(output.write_around(took, out)),
            Self::Bare(data) => {
                data.write(out);
                None
            }
            Self::Invalid { .. } => None,
        }
    }
}

impl Route {
    pub(super) fn compile(
        settings: &RouteSettings,
        tables: &Tables,
        limits: &Limits,
        load: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Self, Fault> {
        let key = |name: &str| {
            if settings.key.is_empty() { name.to_owned() } else { format!("{}.{name}", settings.key) }
        };
        let fault = |name: &str, message: String| Fault { key: key(name), message };
        let names = Names { value: false, tables };
        let when = settings.when.as_deref().map(|text| Expression::compile(text, names, limits)).transpose();
        let schema = settings
            .validate
            .as_deref()
            .map(|file| Schema::compile(&load(file)?, limits).map_err(|error| format!("{file}: {error}")));
        let split = settings.split.as_deref().map(|text| Path::parse(text, limits)).transpose();
        let split = split.map_err(|error| fault("split", error))?;
        if split.as_ref().is_some_and(|path| path.stars() > 0) {
            return Err(fault("split", "leads to one array, without *".to_owned()));
        }
        let order_key =
            settings.deliver.order_key.as_deref().map(|text| Path::parse(text, limits)).transpose();
        let order_key = order_key.map_err(|error| fault("deliver.order_key", error))?;
        if order_key.as_ref().is_some_and(|path| path.stars() > 0) {
            return Err(fault("deliver.order_key", "leads to one value, without *".to_owned()));
        }
        let rules = Rules::compile(&settings.rules, settings.start, tables, limits).map_err(|error| {
            Fault { key: format!("{}.{}", settings.rules_key, error.key), message: error.message }
        })?;
        let reply = settings.reply.as_ref().map(|reply| {
            Rules::compile(&reply.rules, reply.start, tables, limits)
                .map_err(|error| fault(&format!("reply.rules.{}", error.key), error.message))
        });
        Ok(Self {
            when: when.map_err(|error| fault("when", error))?,
            schema: schema.transpose().map_err(|error| fault("validate", error))?,
            rules,
            reply: reply.transpose()?,
            split,
            order_key,
            settings: settings.clone(),
        })
    }

    /// What the configuration says of it.
    #[must_use]
    pub fn settings(&self) -> &RouteSettings {
        &self.settings
    }

    /// Why it does not look at messages of this origin and type; none if it does.
    #[must_use]
    pub fn declines(&self, origin: Origin<'_>, message_type: &str) -> Option<String> {
        let from = &self.settings.from;
        if !from.iter().any(|intake| meets(intake, origin)) {
            let from: Vec<String> = from.iter().map(ToString::to_string).collect();
            return Some(format!("it takes from {}", from.join(", ")));
        }
        let types = &self.settings.message_types;
        if !types.is_empty() && !types.iter().any(|known| known == message_type) {
            return Some(format!("it takes messages of type {}, not {message_type:?}", types.join(", ")));
        }
        None
    }

    /// Whether it needs to know what is in a message.
    #[must_use]
    pub fn reads(&self) -> bool {
        let settings = &self.settings;
        let takes_apart = self.when.is_some() || self.schema.is_some() || self.split.is_some();
        takes_apart || self.order_key.is_some() || settings.transforms
    }

    /// What it makes of a message that it does not decline. All expressions are charged to `meter`.
    #[must_use]
    pub fn treat<'a>(
        &'a self,
        native: &Native<'a>,
        sources: &BTreeMap<String, String>,
        limits: &Limits,
        meter: &mut Meter,
    ) -> Outcome<'a> {
        if !self.reads() {
            let forwarded = Outcome::Forwarded(OrderKey::default());
            return self.settings.drop.as_deref().map_or(forwarded, Outcome::Dropped);
        }
        let read = match self.settings.input {
            Form::Payload => Input::wrap(native, limits),
            Form::Envelope => Input::read(native.payload, native.topic, limits),
        };
        let Input { head, data } = match read {
            Ok(input) => input,
            Err(error) => return Outcome::Invalid(error.to_string()),
        };
        let known = head.source == native.publisher
            || sources.get(head.source.as_ref()).is_some_and(|session| session == native.publisher);
        if !known {
            return Outcome::Invalid(format!(
                "envelope: source is {:?}, but it was sent by {:?}; the key sources: may map them",
                head.source, native.publisher
            ));
        }
        if let Some(when) = &self.when {
            match when.is_true(&Scope { value: None, data: &data, head: &head }, meter) {
                Ok(true) => {}
                Ok(false) => return Outcome::Passed(Passed::False),
                Err(Trouble::Missing(field)) => return Outcome::Passed(Passed::Missing(field)),
                Err(trouble) => return Outcome::Passed(Passed::Trouble(trouble.to_string())),
            }
        }
        if let Some(reason) = &self.settings.drop {
            return Outcome::Dropped(reason);
        }
        let parts = match &self.split {
            None if !self.settings.transforms => {
                return match self.judge(&data) {
                    Ok(()) => Outcome::Forwarded(self.order_key(&data)),
                    Err(reason) => Outcome::Invalid(reason),
                };
            }
            None => vec![data],
            Some(path) => match split(path, data, limits) {
                Ok(parts) => parts,
                Err(reason) => return Outcome::Invalid(reason),
            },
        };
        let whole = self.split.is_none();
        let mut made = Vec::with_capacity(parts.len());
        for part in parts {
            let key = self.order_key(&part);
            if let Err(reason) = self.judge(&part) {
                if whole {
                    return Outcome::Invalid(reason);
                }
                made.push((Part::Invalid { part, reason }, key));
                continue;
            }
            if !self.settings.transforms {
                made.push((Part::Bare(part), key));
                continue;
            }
            // A part that fails is told as it was, so it is kept; the whole is with whoever calls.
            let kept = if whole { Value::Null } else { part.clone() };
            match self.rules.apply(part, &head, meter) {
                Ok(data) => made.push((self.part(data, &head), key)),
                Err(error) if whole => return Outcome::Invalid(error.to_string()),
                Err(error) => made.push((Part::Invalid { part: kept, reason: error.to_string() }, key)),
            }
        }
        Outcome::Made(made)
    }

    /// Whether it makes something else of replies.
    #[must_use]
    pub fn transforms_replies(&self) -> bool {
        self.reply.is_some()
    }

    /// What who asked gets as payload, of a service's reply.
    pub(super) fn treat_reply(
        &self,
        reply: &Native<'_>,
        limits: &Limits,
        meter: &mut Meter,
    ) -> Result<Vec<u8>, String> {
        let Some(rules) = &self.reply else { return Ok(reply.payload.to_vec()) };
        let why = |why: String| format!("route {}: the reply is not valid: {why}", self.settings.name);
        let Input { head, data } = Input::wrap(reply, limits).map_err(|error| why(error.to_string()))?;
        let made = rules.apply(data, &head, meter).map_err(|error| why(error.to_string()))?;
        let mut payload = Vec::new();
        made.write(&mut payload);
        Ok(payload)
    }

    fn part<'a>(&'a self, data: Value<'a>, head: &super::expression::Head<'a>) -> Part<'a> {
        match self.settings.output {
            Form::Payload => Part::Bare(data),
            Form::Envelope => Part::Enveloped(Output {
                message_type: head.message_type.clone(),
                unix_nanos: head.unix_nanos,
                data,
                version: self.settings.version.as_str().into(),
            }),
        }
    }

    /// By which this data is kept in order. What has no such value is so with everything else that has none.
    fn order_key(&self, data: &Value<'_>) -> OrderKey {
        let Some(value) = self.order_key.as_ref().and_then(|path| path.get(data)) else {
            return OrderKey::default();
        };
        let mut text = Vec::new();
        value.write(&mut text);
        OrderKey(foldhash::fast::FixedState::default().hash_one(text))
    }

    fn judge(&self, data: &Value<'_>) -> Result<(), String> {
        let Some(schema) = &self.schema else { return Ok(()) };
        schema
            .check(data)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    /// Appends what the invalid channel gets: the route, the reason, and the message as it came.
    pub fn write_invalid(&self, native: &Native<'_>, reason: &str, out: &mut Vec<u8>) {
        self.write_letter(native, reason, &[], out);
    }

    /// Appends what the dead letter channel gets: as the invalid channel, and every try.
    pub fn write_dead(&self, native: &Native<'_>, reason: &str, tries: &[Try], out: &mut Vec<u8>) {
        self.write_letter(native, reason, tries, out);
    }

    fn write_letter(&self, native: &Native<'_>, reason: &str, tries: &[Try], out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"route\":");
        write_text(&self.settings.name, out);
        for (key, text) in [("reason", reason), ("topic", native.topic), ("messageType", native.message_type)]
        {
            out.extend_from_slice(format!(",\"{key}\":").as_bytes());
            write_text(text, out);
        }
        for (place, Try { destination, unix_nanos, reason }) in tries.iter().enumerate() {
            out.extend_from_slice(if place == 0 {
                b",\"tries\":[{\"destination\":"
            } else {
                b",{\"destination\":"
            });
            write_text(destination, out);
            out.extend_from_slice(b",\"at\":");
            write_text(&iso(*unix_nanos), out);
            out.extend_from_slice(b",\"reason\":");
            write_text(reason, out);
            out.push(b'}');
        }
        if !tries.is_empty() {
            out.push(b']');
        }
        match std::str::from_utf8(native.payload) {
            Ok(text) => {
                out.extend_from_slice(b",\"original\":");
                write_text(text, out);
            }
            Err(_) => {
                use base64::Engine as _;
                out.extend_from_slice(b",\"originalBase64\":");
                write_text(&base64::engine::general_purpose::STANDARD.encode(native.payload), out);
            }
        }
        out.push(b'}');
    }
}

pub(super) fn meets(intake: &Intake, origin: Origin<'_>) -> bool {
    match (intake, origin) {
        (Intake::Queue(name), Origin::Queue(from)) | (Intake::Service(name), Origin::Service(from)) => {
            name == from
        }
        (Intake::Filter(filter), Origin::Topic(topic)) => matches(filter, topic),
        _ => false,
    }
}

/// Whether a topic matches a filter, both by name.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    match (Filter::parse(filter), Topic::parse(topic)) {
        (Ok(filter), Ok(topic)) => filter.matches(topic),
        _ => false,
    }
}

/// The elements of the array that `path` leads to, each as data of its own.
fn split<'a>(path: &Path, mut data: Value<'a>, limits: &Limits) -> Result<Vec<Value<'a>>, String> {
    let items = match path.get_mut(&mut data) {
        Some(Value::Array(items)) => std::mem::take(items),
        Some(other) => return Err(format!("split: {path} is {}, not an array", other.kind())),
        None => return Err(format!("split: {path} is missing")),
    };
    if items.len() > limits.split_messages_max {
        let what = format!("split: {path} has {} elements", items.len());
        return Err(Exceeded::new("split_messages_max", limits.split_messages_max, what).to_string());
    }
    let wrapped = |item| match item {
        object @ Value::Object(_) => object,
        other => Value::Object([("value", other)].into_iter().collect::<Object<'_>>()),
    };
    Ok(items.into_iter().map(wrapped).collect())
}
