//! A line of JSON to a checked request, or to a fault that says which key at which column and what is
//! allowed there.
//!
//! The line is walked once. Values are kept as the text they were written in and looked at only when
//! the operation is known, so that `data` is never touched, and a fault late in a line still knows the
//! `op` and `id` that stood before it. Nothing here is sized by a number from the line.

mod queues;

mod services;

pub use queues::{Admin, Declare, Judgement, Pull, Push, QueueRequest, Settle};
pub use services::{Ask, Provide, Reply, Said};

use super::ops::{self, OpSpec};
use super::time::parse_rfc3339;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use tramline_wire::limits::HEADERS_MAX;
use tramline_wire::{Code, Encoding};

/// Longest `id` that is echoed, in bytes of its JSON text.
pub const ID_BYTES_MAX: usize = 256;

/// How much of a client's own text an error message repeats, in bytes.
const QUOTE_BYTES_MAX: usize = 48;

/// A line that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Request<'a> {
    /// The request's `id` as JSON text, to be echoed verbatim.
    pub id: Option<&'a str>,
    /// What is asked for.
    pub op: Op<'a>,
}

/// What a line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Op<'a> {
    /// The list of operations.
    Help,
    /// Nothing but an answer.
    Ping,
    /// A message.
    Publish(Publish<'a>),
    /// A subscription.
    Subscribe(Subscribe<'a>),
    /// The end of a subscription.
    Unsubscribe {
        /// Its number.
        sub: u32,
    },
    /// A message for a queue.
    Push(Push<'a>),
    /// Messages from a queue.
    Pull(Pull<'a>),
    /// What became of a job.
    Settle(Settle<'a>),
    /// What an administrator does with a queue.
    Queue(QueueRequest<'a>),
    /// The wish for a queue.
    Declare(Declare<'a>),
    /// A request to a service.
    Ask(Ask<'a>),
    /// The end of requests.
    Cancel {
        /// The `id` that they had, as JSON text.
        request: &'a str,
    },
    /// The wish to provide a service.
    Provide(Provide<'a>),
    /// The answer to a call.
    Reply(Reply<'a>),
    /// The state of the broker.
    Status,
}

impl Op<'_> {
    /// The value of `op`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Help => "help",
            Self::Ping => "ping",
            Self::Publish(_) => "pub",
            Self::Subscribe(_) => "sub",
            Self::Unsubscribe { .. } => "unsub",
            Self::Push(_) => "push",
            Self::Pull(_) => "pull",
            Self::Settle(settle) => settle.judgement.name(),
            Self::Queue(_) => "queue",
            Self::Declare(_) => "declare",
            Self::Ask(_) => "req",
            Self::Cancel { .. } => "cancel",
            Self::Provide(_) => "provide",
            Self::Reply(_) => "reply",
            Self::Status => "status",
        }
    }
}

/// A header's name and value.
pub type Header<'a> = (Cow<'a, str>, Cow<'a, [u8]>);

/// A message to publish. The topic is not checked yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Publish<'a> {
    /// The topic as given.
    pub topic: Cow<'a, str>,
    /// How the payload is to be understood: `data` is JSON, `text` is text, `base64` is binary.
    pub encoding: Encoding,
    /// The payload. That of `data` borrows the line's own bytes.
    pub payload: Cow<'a, [u8]>,
    /// The message's type; empty for none.
    pub message_type: Cow<'a, str>,
    /// Headers in the order given, with unique names, [`HEADERS_MAX`] at most.
    pub headers: Vec<Header<'a>>,
    /// When what it tells happened, nanoseconds since 1970 (UTC).
    pub source_time: Option<i64>,
    /// Whether the answer is to wait until every subscriber's queue has the message (it does in any case).
    pub confirm: bool,
}

impl Publish<'_> {
    /// Appends type and headers as they travel with a message (see [`tramline_wire::HeaderBlock`]).
    ///
    /// # Errors
    /// When they are longer than a block can be; `out` is then as it was.
    pub fn encode_head(&self, out: &mut Vec<u8>) -> Result<(), tramline_wire::headers::HeaderError> {
        let headers = self.headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
        tramline_wire::headers::encode(out, &self.message_type, headers)
    }
}

/// A subscription to make. The filter is not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// The topic or filter as given.
    pub filter: Cow<'a, str>,
    /// How many past messages of each stream to begin with; 0 unless given.
    pub history: u32,
    /// Whether publishers wait for this subscriber instead of dropping; false unless given.
    pub reliable: bool,
}

/// Why a line was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFault {
    /// The line's `op`, if it could be read and is not absurdly long.
    pub op: Option<String>,
    /// The line's `id` as JSON text, if it could be read.
    pub id: Option<String>,
    /// Stable reason.
    pub code: Code,
    /// What is wrong, where, and what is allowed.
    pub message: String,
}

impl fmt::Display for RequestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for RequestFault {}

/// A reason without `op` and `id`, which are added where the line's fields are at hand.
struct Fault(Code, String);

type Checked<T> = Result<T, Fault>;

fn malformed<T>(message: String) -> Checked<T> {
    Err(Fault(Code::Malformed, message))
}

/// The value of a key, and the key's column (from 1, in bytes).
type Value<'a> = (&'a RawValue, usize);

/// The values of a line, in its order.
#[derive(Default)]
struct Fields<'a> {
    known: Vec<(&'static str, Value<'a>)>,
    unknown: Option<(String, usize)>,
    repeated: Option<(&'static str, usize)>,
}

impl<'a> Fields<'a> {
    fn get(&self, key: &str) -> Option<Value<'a>> {
        self.known.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }
}

/// Understands one line, with or without its line end.
///
/// # Errors
/// When the line is not one JSON object, an operation, key or value is unknown, missing or repeated,
/// or a value is of the wrong kind. The topic or filter itself is checked by whoever uses it.
pub fn parse_request(line: &[u8]) -> Result<Request<'_>, RequestFault> {
    let mut fields = Fields::default();
    match read(line, &mut fields).and_then(|()| request(line, &fields)) {
        Ok(request) => Ok(request),
        Err(Fault(code, message)) => Err(RequestFault {
            op: fields
                .get("op")
                .and_then(|(value, _)| text(value))
                .filter(|op| op.len() <= QUOTE_BYTES_MAX)
                .map(Cow::into_owned),
            id: fields.get("id").and_then(|(value, _)| scalar(value)).map(str::to_owned),
            code,
            message,
        }),
    }
}

fn read<'a>(line: &'a [u8], fields: &mut Fields<'a>) -> Checked<()> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let walked = Walk { line, fields }.deserialize(&mut json).and_then(|()| json.end());
    walked.or_else(|error| {
        // Lines have no line numbers; serde_json's message ends in its own idea of a position.
        let whole = error.to_string();
        let reason = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(reason, _)| reason);
        malformed(format!("not a JSON object on one line: {reason} at column {}", error.column()))
    })
}

fn request<'a>(line: &[u8], fields: &Fields<'a>) -> Checked<Request<'a>> {
    let spec = operation(fields)?;
    if let Some((key, column)) = &fields.unknown {
        return unknown_key(spec, key, *column);
    }
    if let Some((key, column)) = fields.repeated {
        return malformed(format!("the key {key} stands a second time at column {column}"));
    }
    let allowed = |key| matches!(key, "op" | "id") || spec.keys.contains(&key);
    if let Some((key, (_, column))) = fields.known.iter().find(|(key, _)| !allowed(key)) {
        return unknown_key(spec, key, *column);
    }
    let id = match fields.get("id") {
        None => None,
        Some((value, column)) => match scalar(value) {
            Some(id) => Some(id),
            None => {
                return malformed(format!(
                    "the key id at column {column} must be a number, a text, true, false or null of at most \
                     {ID_BYTES_MAX} bytes"
                ));
            }
        },
    };
    let op = match spec.name {
        "help" => Op::Help,
        "ping" => Op::Ping,
        "pub" => {
            let topic = required_text(fields, "topic", spec)?;
            let confirm = optional(fields, "confirm", TRUE_OR_FALSE)?.unwrap_or(false);
            Op::Publish(Publish { topic, confirm, ..message(line, fields, spec)? })
        }
        "sub" => Op::Subscribe(Subscribe {
            filter: required_text(fields, "topic", spec)?,
            history: optional(fields, "history", WHOLE_NUMBER)?.unwrap_or(0),
            reliable: optional(fields, "reliable", TRUE_OR_FALSE)?.unwrap_or(false),
        }),
        "unsub" => match optional(fields, "sub", WHOLE_NUMBER)? {
            Some(sub) => Op::Unsubscribe { sub },
            None => return missing("sub", spec),
        },
        "push" | "pull" | "ack" | "nack" | "reject" | "extend" | "queue" | "declare" => {
            queues::request(line, fields, spec)?
        }
        "cancel" => match fields.get("req") {
            None => return missing("req", spec),
            Some((value, column)) => match scalar(value) {
                Some(request) => Op::Cancel { request },
                None => return Err(wrong("req", column, "the id of a request as its line had it", value)),
            },
        },
        "req" | "provide" | "reply" => services::request(line, fields, spec)?,
        _ => Op::Status,
    };
    Ok(Request { id, op })
}

fn operation(fields: &Fields<'_>) -> Checked<&'static OpSpec> {
    let all = || ops::joined(ops::OPS.iter().map(|spec| spec.name));
    let Some((value, column)) = fields.get("op") else {
        return malformed(format!("the key op is missing; it is one of {}", all()));
    };
    let Some(name) = text(value) else {
        return malformed(format!("the key op at column {column} must be a text, one of {}", all()));
    };
    match ops::find(&name) {
        Some(spec) => Ok(spec),
        None if ops::LATER.contains(&name.as_ref()) => Err(Fault(
            Code::Unsupported,
            format!("the op {name} is not yet in this version; it has {}", all()),
        )),
        None => {
            Err(Fault(Code::Unsupported, format!("there is no op {}; there are {}", quoted(&name), all())))
        }
    }
}

fn unknown_key<T>(spec: &OpSpec, key: &str, column: usize) -> Checked<T> {
    let allowed = ops::joined(["op", "id"].into_iter().chain(spec.keys.iter().copied()));
    malformed(format!(
        "the op {} has no key {} (column {column}); it takes {allowed}",
        spec.name,
        quoted(key)
    ))
}

fn missing<T>(key: &str, spec: &OpSpec) -> Checked<T> {
    malformed(format!("the op {} needs the key {key}, as in {}", spec.name, spec.example))
}

/// The message of a line, without where it goes.
fn message<'a>(line: &[u8], fields: &Fields<'a>, spec: &OpSpec) -> Checked<Publish<'a>> {
    let (encoding, payload) = payload(fields, spec)?;
    let source_time = match fields.get("time") {
        None => None,
        Some((value, column)) => {
            let text = text(value).ok_or_else(|| wrong("time", column, "an RFC 3339 time as text", value))?;
            Some(parse_rfc3339(&text).map_err(|fault| {
                Fault(
                    Code::Malformed,
                    format!("the key time at column {column} {fault}, and is {}", quoted(&text)),
                )
            })?)
        }
    };
    Ok(Publish {
        topic: Cow::Borrowed(""),
        encoding,
        payload,
        message_type: optional::<Text<'a>>(fields, "type", "a text")?
            .map_or(Cow::Borrowed(""), |text| text.0),
        headers: fields
            .get("headers")
            .map_or(Ok(Vec::new()), |(value, column)| headers(line, value, column))?,
        source_time,
        confirm: false,
    })
}

fn payload<'a>(fields: &Fields<'a>, spec: &OpSpec) -> Checked<(Encoding, Cow<'a, [u8]>)> {
    match (fields.get("data"), fields.get("text"), fields.get("base64")) {
        (Some((value, _)), None, None) => Ok((Encoding::Json, Cow::Borrowed(value.get().as_bytes()))),
        (None, Some((value, column)), None) => match text(value) {
            Some(Cow::Borrowed(text)) => Ok((Encoding::Text, Cow::Borrowed(text.as_bytes()))),
            Some(Cow::Owned(text)) => Ok((Encoding::Text, Cow::Owned(text.into_bytes()))),
            None => Err(wrong("text", column, "a text", value)),
        },
        (None, None, Some((value, column))) => {
            let bytes = binary(value).map_err(|reason| {
                Fault(Code::Malformed, format!("the key base64 at column {column} {reason}"))
            })?;
            Ok((Encoding::Binary, Cow::Owned(bytes)))
        }
        (None, None, None) => {
            malformed(format!("the op {} needs one of the keys data, text, base64", spec.name))
        }
        _ => malformed(format!("the op {} takes only one of the keys data, text, base64", spec.name)),
    }
}

fn binary(value: &RawValue) -> Result<Vec<u8>, String> {
    let text = text(value).ok_or("must be a text in base64")?;
    STANDARD.decode(text.as_bytes()).map_err(|error| format!("is not base64 (RFC 4648, padded): {error}"))
}

fn headers<'a>(line: &[u8], value: &'a RawValue, column: usize) -> Checked<Vec<Header<'a>>> {
    let raw: RawHeaders<'a> = serde_json::from_str(value.get()).map_err(|error| {
        let whole = error.to_string();
        let reason = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(reason, _)| reason);
        Fault(
            Code::Malformed,
            format!("the key headers at column {column} must be an object of texts: {reason}"),
        )
    })?;
    let mut checked: Vec<Header<'a>> = Vec::with_capacity(raw.0.len());
    for (name, value) in raw.0 {
        let at = column_of(line, value.get());
        if checked.iter().any(|(known, _)| *known == name) {
            return malformed(format!("the header {} stands a second time at column {at}", quoted(&name)));
        }
        let value = header_value(value).map_err(|reason| {
            Fault(Code::Malformed, format!("the header {} at column {at} {reason}", quoted(&name)))
        })?;
        checked.push((name, value));
    }
    Ok(checked)
}

fn header_value(value: &RawValue) -> Result<Cow<'_, [u8]>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Bytes<'b> {
        #[serde(borrow)]
        base64: &'b RawValue,
    }
    match text(value) {
        Some(Cow::Borrowed(text)) => Ok(Cow::Borrowed(text.as_bytes())),
        Some(Cow::Owned(text)) => Ok(Cow::Owned(text.into_bytes())),
        None => match serde_json::from_str::<Bytes<'_>>(value.get()) {
            Ok(bytes) => binary(bytes.base64).map(Cow::Owned),
            Err(_) => Err(r#"must be a text, or {"base64":"…"} for bytes that are none"#.to_owned()),
        },
    }
}

const WHOLE_NUMBER: &str = "a whole number from 0 to 4294967295";
const TRUE_OR_FALSE: &str = "true or false";

fn optional<'a, T: Deserialize<'a>>(fields: &Fields<'a>, key: &str, expected: &str) -> Checked<Option<T>> {
    let Some((value, column)) = fields.get(key) else { return Ok(None) };
    serde_json::from_str(value.get()).map(Some).map_err(|_| wrong(key, column, expected, value))
}

fn required_text<'a>(fields: &Fields<'a>, key: &str, spec: &OpSpec) -> Checked<Cow<'a, str>> {
    match optional::<Text<'a>>(fields, key, "a text")? {
        Some(text) => Ok(text.0),
        None => missing(key, spec),
    }
}

fn wrong(key: &str, column: usize, expected: &str, value: &RawValue) -> Fault {
    let message =
        format!("the key {key} at column {column} must be {expected}, and is {}", quoted(value.get()));
    Fault(Code::Malformed, message)
}

fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(value.get()).ok().map(|text| text.0)
}

fn scalar(value: &RawValue) -> Option<&str> {
    let text = value.get();
    (!text.starts_with(['{', '[']) && text.len() <= ID_BYTES_MAX).then_some(text)
}

/// The first bytes of a client's text, for an error message.
fn quoted(text: &str) -> &str {
    head(text, QUOTE_BYTES_MAX)
}

/// The longest beginning of `text` that has at most `bytes_max` bytes and ends between characters.
fn head(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

/// Where `part`, a piece of `line`, begins; columns count bytes from 1.
fn column_of(line: &[u8], part: &str) -> usize {
    (part.as_ptr() as usize).saturating_sub(line.as_ptr() as usize) + 1
}

/// A JSON text, borrowed where it holds no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Walk<'w, 'a> {
    line: &'a [u8],
    fields: &'w mut Fields<'a>,
}

impl<'a> DeserializeSeed<'a> for Walk<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Walk<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object such as {\"op\":\"help\"}")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key::<Text<'a>>()? {
            let value: &'a RawValue = map.next_value()?;
            let column = match &key {
                // The quotation mark stands one before the key's text.
                Cow::Borrowed(key) => column_of(self.line, key) - 1,
                // A key written with escapes lost its place; its value did not.
                Cow::Owned(_) => column_of(self.line, value.get()),
            };
            match ops::key(&key) {
                Some(key) if self.fields.get(key).is_some() => {
                    self.fields.repeated.get_or_insert((key, column));
                }
                Some(key) => self.fields.known.push((key, (value, column))),
                None => {
                    self.fields.unknown.get_or_insert_with(|| (quoted(&key).to_owned(), column));
                }
            }
        }
        Ok(())
    }
}

/// The headers of a line as written, not more than a message may have.
struct RawHeaders<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Deserialize<'a> for RawHeaders<'a> {
    fn deserialize<D: Deserializer<'a>>(json: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'a> Visitor<'a> for Pairs {
            type Value = RawHeaders<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(Text(name)) = map.next_key::<Text<'a>>()? {
                    if pairs.len() == HEADERS_MAX {
                        return Err(serde::de::Error::custom(format_args!(
                            "there are more than {HEADERS_MAX}"
                        )));
                    }
                    pairs.push((name, map.next_value()?));
                }
                Ok(RawHeaders(pairs))
            }
        }
        json.deserialize_map(Pairs)
    }
}
