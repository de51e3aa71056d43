//! What the broker says in JSON: one whole line per call, appended to a buffer.
//!
//! Keys stand in the order of `docs/json.md`. Nothing is allocated except by the buffer itself. A payload's
//! JSON text is written as it was published; whatever a publisher claims about a payload is checked
//! here before it is written as if it were true, because a false claim would break the line of somebody else.

use super::ops::OPS;
use super::request::RequestFault;
use super::time::write_rfc3339;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use tramline_wire::{Code, Encoding, HeaderBlock};

/// How much of a payload that is too large is shown, in bytes of the payload.
pub const PREVIEW_BYTES_MAX: usize = 256;

/// A value in an answer.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// A number.
    Number(u64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(&'a str),
    /// JSON on one line, written as it is.
    Json(&'a str),
}

/// Who published, as the broker vouches.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// Its name as it gave it; empty if it gave none.
    pub name: &'a str,
    /// Its uid.
    pub uid: u32,
    /// Its process id.
    pub pid: u32,
}

/// What was published, as far as the broker has it.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a> {
    /// What the publisher says it is.
    pub encoding: Encoding,
    /// The payload, or its first bytes.
    pub bytes: &'a [u8],
    /// Its whole length.
    pub length: u64,
}

/// A message for a JSON subscriber.
#[derive(Debug, Clone, Copy)]
pub struct MessageLine<'a> {
    /// The subscription's number.
    pub sub: u32,
    /// The topic.
    pub topic: &'a str,
    /// The message's number in its publisher's numbering of this topic.
    pub seq: u64,
    /// When it was published, nanoseconds since 1970 (UTC).
    pub unix_nanos: i64,
    /// When what it tells happened, nanoseconds since 1970 (UTC).
    pub source_time: Option<i64>,
    /// Who published it.
    pub from: Sender<'a>,
    /// Type and headers.
    pub head: HeaderBlock<'a>,
    /// The payload.
    pub payload: Payload<'a>,
}

/// Appends `{"ok":true,"op":…,"id":…,…}`.
pub fn write_ok(out: &mut Vec<u8>, op: &str, id: Option<&str>, members: &[(&str, Value<'_>)]) {
    out.extend_from_slice(br#"{"ok":true,"op":"#);
    text(out, op);
    write_id(out, id);
    for (name, value) in members {
        out.push(b',');
        text(out, name);
        out.push(b':');
        match value {
            Value::Number(number) => write_number(out, *number),
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Text(value) => text(out, value),
            Value::Json(json) => one_line(out, json.as_bytes()),
        }
    }
    out.extend_from_slice(b"}\n");
}

/// Appends `{"ok":false,"op":…,"id":…,"error":{"code":…,"message":…}}`; without `op` if it is not known.
pub fn write_error(out: &mut Vec<u8>, op: Option<&str>, id: Option<&str>, code: Code, message: &str) {
    out.extend_from_slice(br#"{"ok":false"#);
    if let Some(op) = op {
        out.extend_from_slice(br#","op":"#);
        text(out, op);
    }
    write_id(out, id);
    write_reason(out, code, message);
    out.extend_from_slice(b"}\n");
}

/// Appends the answer to a line that was not understood.
pub fn write_fault(out: &mut Vec<u8>, fault: &RequestFault) {
    write_error(out, fault.op.as_deref(), fault.id.as_deref(), fault.code, &fault.message);
}

/// Appends `{"op":"close","error":{"code":…,"message":…}}`, the last line of a session that the broker ends.
pub fn write_close(out: &mut Vec<u8>, code: Code, message: &str) {
    out.extend_from_slice(br#"{"op":"close""#);
    write_reason(out, code, message);
    out.extend_from_slice(b"}\n");
}

/// Appends `{"op":"gap","sub":…,"topic":…,"lost":…}`. An empty topic, for losses on several, is left out.
pub fn write_gap(out: &mut Vec<u8>, sub: u32, topic: &str, lost: u64) {
    out.extend_from_slice(br#"{"op":"gap","sub":"#);
    write_number(out, u64::from(sub));
    if !topic.is_empty() {
        out.extend_from_slice(br#","topic":"#);
        text(out, topic);
    }
    out.extend_from_slice(br#","lost":"#);
    write_number(out, lost);
    out.extend_from_slice(b"}\n");
}

/// Appends that a subscription reads a topic's ring in another mode than before; `blocked_millis` is how long it held its
/// publisher up, if that is why.
pub fn write_mode(out: &mut Vec<u8>, sub: u32, topic: &str, mode: &str, blocked_millis: u32) {
    out.extend_from_slice(br#"{"op":"mode","sub":"#);
    write_number(out, u64::from(sub));
    out.extend_from_slice(br#","topic":"#);
    text(out, topic);
    out.extend_from_slice(br#","mode":"#);
    text(out, mode);
    out.extend_from_slice(br#","blocked_millis":"#);
    write_number(out, u64::from(blocked_millis));
    out.extend_from_slice(b"}\n");
}

/// Appends the answer to `help`: every operation with what it does and an example.
pub fn write_help(out: &mut Vec<u8>, id: Option<&str>) {
    out.extend_from_slice(br#"{"ok":true,"op":"help""#);
    write_id(out, id);
    out.extend_from_slice(br#","ops":["#);
    for (place, spec) in OPS.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(br#"{"op":"#);
        text(out, spec.name);
        out.extend_from_slice(br#","about":"#);
        text(out, spec.about);
        out.extend_from_slice(br#","example":"#);
        out.extend_from_slice(spec.example.as_bytes());
        out.push(b'}');
    }
    out.extend_from_slice(b"]}\n");
}

/// Appends a message. A payload of more than `payload_bytes_max` bytes, or of which only the beginning is at
/// hand, appears as `"bytes"`, `"encoding"` and a `"preview"` of [`PREVIEW_BYTES_MAX`] bytes: text, or base64 where
/// it is none.
///
/// What claims to be JSON and is not is written as text, and text that is not UTF-8 as base64.
pub fn write_message(out: &mut Vec<u8>, message: &MessageLine<'_>, payload_bytes_max: usize) {
    out.extend_from_slice(br#"{"op":"msg","sub":"#);
    write_number(out, u64::from(message.sub));
    write_content(out, message, payload_bytes_max);
    out.extend_from_slice(b"}\n");
}

/// A message from a queue.
#[derive(Debug, Clone, Copy)]
pub struct JobLine<'a> {
    /// The queue.
    pub queue: &'a str,
    /// By what it is settled; none if it counts as acknowledged.
    pub tag: Option<u64>,
    /// How often it was given out, this time included.
    pub attempt: u16,
    /// 0 to 9.
    pub priority: u8,
    /// The message.
    pub message: MessageLine<'a>,
}

/// Appends a job: `{"op":"job","queue":…,"tag":…,"attempt":…,"priority":…,…}` and then as in a message.
pub fn write_job(out: &mut Vec<u8>, job: &JobLine<'_>, payload_bytes_max: usize) {
    out.extend_from_slice(br#"{"op":"job","queue":"#);
    text(out, job.queue);
    if let Some(tag) = job.tag {
        out.extend_from_slice(br#","tag":"#);
        write_number(out, tag);
    }
    out.extend_from_slice(br#","attempt":"#);
    write_number(out, u64::from(job.attempt));
    out.extend_from_slice(br#","priority":"#);
    write_number(out, u64::from(job.priority));
    write_content(out, &job.message, payload_bytes_max);
    out.extend_from_slice(b"}\n");
}

/// Appends that a consumer has a job no more, or never had it.
pub fn write_job_lost(out: &mut Vec<u8>, queue: &str, tag: u64, code: Code) {
    out.extend_from_slice(br#"{"op":"job_lost","queue":"#);
    text(out, queue);
    out.extend_from_slice(br#","tag":"#);
    write_number(out, tag);
    out.extend_from_slice(br#","code":"#);
    text(out, code.as_str());
    out.extend_from_slice(b"}\n");
}

/// A request for an instance.
#[derive(Debug, Clone, Copy)]
pub struct CallLine<'a> {
    /// The service.
    pub service: &'a str,
    /// By what it is answered.
    pub call: u64,
    /// How often it was given out, this time included.
    pub attempt: u32,
    /// How much time is left.
    pub timeout_millis: u32,
    /// The request.
    pub message: MessageLine<'a>,
}

/// Appends a request: `{"op":"call","service":…,"call":…,"attempt":…,"timeout_millis":…,…}` and then as in a message.
pub fn write_call(out: &mut Vec<u8>, call: &CallLine<'_>, payload_bytes_max: usize) {
    out.extend_from_slice(br#"{"op":"call","service":"#);
    text(out, call.service);
    out.extend_from_slice(br#","call":"#);
    write_number(out, call.call);
    out.extend_from_slice(br#","attempt":"#);
    write_number(out, call.attempt.into());
    out.extend_from_slice(br#","timeout_millis":"#);
    write_number(out, call.timeout_millis.into());
    write_content(out, &call.message, payload_bytes_max);
    out.extend_from_slice(b"}\n");
}

/// Appends that nobody waits for the answer to a call any more, and why, unless its caller just does not want it.
pub fn write_call_over(out: &mut Vec<u8>, service: &str, call: u64, code: Option<Code>) {
    out.extend_from_slice(br#"{"op":"call_over","service":"#);
    text(out, service);
    out.extend_from_slice(br#","call":"#);
    write_number(out, call);
    if let Some(code) = code {
        out.extend_from_slice(br#","code":"#);
        text(out, code.as_str());
    }
    out.extend_from_slice(b"}\n");
}

/// The answer of a service.
#[derive(Debug, Clone, Copy)]
pub struct ReplyLine<'a> {
    /// The service.
    pub service: &'a str,
    /// Number and words of its error, if it is one.
    pub error: Option<(u32, &'a str)>,
    /// The answer.
    pub message: MessageLine<'a>,
}

/// Appends the answer to a request: `{"ok":true,"op":"req","id":…,"service":…,…}` and then as in a message; an error as
/// `{"ok":false,…,"error":{"code":"error_reply","number":…,"message":…},…}`, with a message only if it has a payload.
pub fn write_reply(out: &mut Vec<u8>, id: Option<&str>, reply: &ReplyLine<'_>, payload_bytes_max: usize) {
    let ok = reply.error.is_none();
    out.extend_from_slice(if ok { br#"{"ok":true,"op":"req""# } else { &br#"{"ok":false,"op":"req""#[..] });
    write_id(out, id);
    out.extend_from_slice(br#","service":"#);
    text(out, reply.service);
    if let Some((number, words)) = reply.error {
        out.extend_from_slice(br#","error":{"code":"#);
        text(out, Code::ErrorReply.as_str());
        out.extend_from_slice(br#","number":"#);
        write_number(out, number.into());
        out.extend_from_slice(br#","message":"#);
        text(out, words);
        out.push(b'}');
    }
    if ok || reply.message.payload.length > 0 {
        write_content(out, &reply.message, payload_bytes_max);
    }
    out.extend_from_slice(b"}\n");
}

/// A message that is shown and not given out: one that waits, or a dead letter.
#[derive(Debug, Clone, Copy)]
pub struct StoredLine<'a> {
    /// How often it was given out.
    pub attempts: u16,
    /// 0 to 9.
    pub priority: u8,
    /// Of a dead letter: its number, why, what the consumer said, when (nanoseconds since 1970), and who had it last.
    pub dead: Option<(u64, &'a str, &'a str, i64, Option<Sender<'a>>)>,
    /// The message.
    pub message: MessageLine<'a>,
}

/// Appends a stored message as a JSON object, without a line end.
pub fn write_stored(out: &mut Vec<u8>, stored: &StoredLine<'_>, payload_bytes_max: usize) {
    out.push(b'{');
    if let Some((number, cause, reason, when, by)) = stored.dead {
        out.extend_from_slice(br#""number":"#);
        write_number(out, number);
        out.extend_from_slice(br#","cause":"#);
        text(out, cause);
        if !reason.is_empty() {
            out.extend_from_slice(br#","reason":"#);
            text(out, reason);
        }
        out.extend_from_slice(br#","when":""#);
        write_rfc3339(out, when);
        out.push(b'"');
        if let Some(by) = by {
            out.extend_from_slice(br#","by":"#);
            write_sender(out, by);
        }
        out.push(b',');
    }
    out.extend_from_slice(br#""attempts":"#);
    write_number(out, u64::from(stored.attempts));
    out.extend_from_slice(br#","priority":"#);
    write_number(out, u64::from(stored.priority));
    write_content(out, &stored.message, payload_bytes_max);
    out.push(b'}');
}

fn write_sender(out: &mut Vec<u8>, from: Sender<'_>) {
    out.extend_from_slice(br#"{"name":"#);
    text(out, from.name);
    out.extend_from_slice(br#","uid":"#);
    write_number(out, u64::from(from.uid));
    out.extend_from_slice(br#","pid":"#);
    write_number(out, u64::from(from.pid));
    out.push(b'}');
}

/// Appends what a message says, from its topic to its payload. A topic that is empty is left out.
fn write_content(out: &mut Vec<u8>, message: &MessageLine<'_>, payload_bytes_max: usize) {
    if !message.topic.is_empty() {
        out.extend_from_slice(br#","topic":"#);
        text(out, message.topic);
    }
    out.extend_from_slice(br#","seq":"#);
    write_number(out, message.seq);
    out.extend_from_slice(br#","time":""#);
    write_rfc3339(out, message.unix_nanos);
    out.push(b'"');
    if let Some(source_time) = message.source_time {
        out.extend_from_slice(br#","source_time":""#);
        write_rfc3339(out, source_time);
        out.push(b'"');
    }
    out.extend_from_slice(br#","from":"#);
    write_sender(out, message.from);
    write_head(out, message.head);
    write_payload(out, message.payload, payload_bytes_max);
}

fn write_head(out: &mut Vec<u8>, block: HeaderBlock<'_>) {
    if let Some(message_type) = block.message_type() {
        out.extend_from_slice(br#","type":"#);
        text(out, message_type);
    }
    for (place, (name, value)) in block.iter().enumerate() {
        out.extend_from_slice(if place == 0 { br#","headers":{"# } else { b"," });
        text(out, name);
        out.push(b':');
        match std::str::from_utf8(value) {
            Ok(value) => text(out, value),
            Err(_) => {
                out.extend_from_slice(br#"{"base64":"#);
                base64(out, value);
                out.push(b'}');
            }
        }
    }
    if block.iter().next().is_some() {
        out.push(b'}');
    }
}

fn write_payload(out: &mut Vec<u8>, payload: Payload<'_>, payload_bytes_max: usize) {
    let whole = payload.bytes.len() as u64 == payload.length && payload.bytes.len() <= payload_bytes_max;
    if !whole {
        return write_preview(out, payload);
    }
    let bytes = payload.bytes;
    match (payload.encoding, std::str::from_utf8(bytes)) {
        (Encoding::Json, Ok(json)) if is_json(json) => {
            out.extend_from_slice(br#","data":"#);
            one_line(out, bytes);
        }
        (Encoding::Json | Encoding::Text, Ok(words)) => {
            out.extend_from_slice(br#","text":"#);
            text(out, words);
        }
        _ => {
            out.extend_from_slice(br#","base64":"#);
            base64(out, bytes);
        }
    }
}

fn write_preview(out: &mut Vec<u8>, payload: Payload<'_>) {
    out.extend_from_slice(br#","bytes":"#);
    write_number(out, payload.length);
    let first = &payload.bytes[..payload.bytes.len().min(PREVIEW_BYTES_MAX)];
    let words = match std::str::from_utf8(first) {
        _ if payload.encoding == Encoding::Binary => None,
        Ok(words) => Some(words),
        // Cut in the middle of a character: what stands before it is text.
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&first[..error.valid_up_to()]).ok(),
        Err(_) => None,
    };
    out.extend_from_slice(br#","encoding":"#);
    match (words, payload.encoding) {
        (None, _) => out.extend_from_slice(br#""binary""#),
        (_, Encoding::Json) => out.extend_from_slice(br#""json""#),
        _ => out.extend_from_slice(br#""text""#),
    }
    out.extend_from_slice(br#","preview":"#);
    match words {
        Some(words) => text(out, words),
        None => base64(out, first),
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// Appends JSON with its line feeds as spaces. In JSON a raw line feed stands only between tokens, where
/// a space means the same.
fn one_line(out: &mut Vec<u8>, json: &[u8]) {
    let start = out.len();
    out.extend_from_slice(json);
    for byte in &mut out[start..] {
        if *byte == b'\n' {
            *byte = b' ';
        }
    }
}

fn write_reason(out: &mut Vec<u8>, code: Code, message: &str) {
    out.extend_from_slice(br#","error":{"code":"#);
    text(out, code.as_str());
    out.extend_from_slice(br#","message":"#);
    text(out, message);
    out.push(b'}');
}

fn write_id(out: &mut Vec<u8>, id: Option<&str>) {
    if let Some(id) = id {
        out.extend_from_slice(br#","id":"#);
        one_line(out, id.as_bytes());
    }
}

fn write_number(out: &mut Vec<u8>, number: u64) {
    serde_json::to_writer(out, &number).expect("a Vec takes every byte");
}

fn text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a Vec takes every byte");
}

fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    let length = base64::encoded_len(bytes.len(), true).expect("a payload is far below the address space");
    out.resize(start + length, b'=');
    STANDARD.encode_slice(bytes, &mut out[start..]).expect("the room was measured");
    out.push(b'"');
}
