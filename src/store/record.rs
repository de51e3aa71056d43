//! One kept thing as bytes: a version, lengths that must add up, and a checksum over its key and itself, so that a bit that
//! flips in either is found out before anything is believed. Nothing is allocated that is not there.
//!
//! ```text
//! message:   1 version · 1 priority · 1 attempts · 1 flags (1: a dead letter, 2: somebody had it)
//!            8 since · 8 due · 8 expires (milliseconds since 1970) · 4 uid · 4 pid
//!            4 length of name · 4 of topic · 4 of the message
//!            dead letters: 8 when (nanoseconds) · 4 length of cause · 4 of reason · 4 of who had it · 4 uid · 4 pid
//!            name · topic · cause · reason · who had it · message
//! queue:     1 version · 4 length of name · name · settings
//! position:  1 version · 8 number
//! seen:      1 version
//! all:       … · 8 checksum: the first bytes of BLAKE3 over one letter for the kind, the key, then everything before
//! ```
//! Numbers are little-endian. Sheets of messages, and what of them is done, are in `sheet.rs`.

use super::sheet::{self, Done, Sheet};
use crate::core::durable::{Obituary, Record, Sender};
use std::sync::Arc;

/// The version of each layout above.
const VERSION: u8 = 1;
pub(super) const CHECKSUM_BYTES: usize = 8;
const FLAG_DEAD: u8 = 1;
const FLAG_BY: u8 = 2;

/// Longest message that is kept, in bytes, with everything that belongs to it: more than one user may have waiting unless
/// `limits.user_queued_bytes_max` is raised.
pub const RECORD_BYTES_MAX: usize = 640 << 20;

/// What is wrong with bytes that were to be a kept thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Shorter than its own lengths say, or longer.
    #[error("its lengths do not add up")]
    Length,
    /// A later program wrote it, or nobody did.
    #[error("it has version {0}, and this program knows version {VERSION}")]
    Version(u8),
    /// A bit is not as it was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// The checksum is right and the content is not: whoever wrote it was wrong.
    #[error("it holds a value that cannot be")]
    Value,
    /// The key cannot be one.
    #[error("its key cannot be one")]
    Key,
}

/// What a kept thing is, so that none is ever taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    Queue,
    Number,
    Seen,
    /// What stands behind the messages of a sheet.
    Sheet,
    /// What of a sheet is done.
    Done,
}

pub(super) fn checksum(kind: Kind, key: &[u8], body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let letter = match kind {
        Kind::Message => b'm',
        Kind::Queue => b'q',
        Kind::Number => b'n',
        Kind::Seen => b's',
        Kind::Sheet => b't',
        Kind::Done => b'd',
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[letter]).update(key).update(body);
    let mut first = [0; CHECKSUM_BYTES];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_BYTES]);
    first
}

/// Puts a checksum behind what stands in `out` from `from` on.
fn seal_from(kind: Kind, key: &[u8], out: &mut Vec<u8>, from: usize) {
    let sum = checksum(kind, key, &out[from..]);
    out.extend_from_slice(&sum);
}

pub(super) fn seal(kind: Kind, key: &[u8], out: &mut Vec<u8>) {
    seal_from(kind, key, out, 0);
}

/// The body behind a right version and before a right checksum.
pub(super) fn unseal<'a>(kind: Kind, key: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], Wrong> {
    let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(Wrong::Length)?;
    let (version, rest) = body.split_first().ok_or(Wrong::Length)?;
    if checksum(kind, key, body) != *sum {
        return Err(Wrong::Checksum);
    }
    if *version != VERSION {
        return Err(Wrong::Version(*version));
    }
    Ok(rest)
}

/// Takes bytes from the front.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Wrong::Length)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u32(&mut self) -> Result<u32, Wrong> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, Wrong> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    fn bytes(&mut self, length: u32) -> Result<&'a [u8], Wrong> {
        let length = usize::try_from(length).map_err(|_| Wrong::Length)?;
        let (first, rest) = self.0.split_at_checked(length).ok_or(Wrong::Length)?;
        self.0 = rest;
        Ok(first)
    }

    fn text(&mut self, length: u32) -> Result<&'a str, Wrong> {
        std::str::from_utf8(self.bytes(length)?).map_err(|_| Wrong::Value)
    }
}

/// A length as it is written. Nothing longer comes here: [`RECORD_BYTES_MAX`] is looked at before.
fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

/// How long a record becomes.
pub(super) fn encoded_bytes(record: &Record) -> usize {
    let dead = record.dead.as_ref().map_or(0, |dead| {
        28 + dead.cause.len() + dead.reason.len() + dead.by.as_ref().map_or(0, |by| by.name.len())
    });
    48 + record.from.name.len() + record.topic.len() + record.bytes.len() + dead + CHECKSUM_BYTES
}

/// Writes a message into `out`, which it empties first.
pub(super) fn encode(key: u128, record: &Record, out: &mut Vec<u8>) {
    out.clear();
    append(key, record, out);
}

/// Writes a message behind what stands in `out`.
pub(super) fn append(key: u128, record: &Record, out: &mut Vec<u8>) {
    let from = out.len();
    out.reserve(encoded_bytes(record));
    let by = record.dead.as_ref().and_then(|dead| dead.by.as_ref());
    let flags = if record.dead.is_some() { FLAG_DEAD } else { 0 } | if by.is_some() { FLAG_BY } else { 0 };
    out.extend_from_slice(&[VERSION, record.priority, record.attempts, flags]);
    for time in [record.since_millis, record.due_millis, record.expires_millis] {
        out.extend_from_slice(&time.to_le_bytes());
    }
    out.extend_from_slice(&record.from.uid.to_le_bytes());
    out.extend_from_slice(&record.from.pid.to_le_bytes());
    out.extend_from_slice(&length(record.from.name.as_bytes()));
    out.extend_from_slice(&length(record.topic.as_bytes()));
    out.extend_from_slice(&length(&record.bytes));
    let by_name = by.map_or("", |by| &by.name);
    if let Some(dead) = &record.dead {
        out.extend_from_slice(&dead.when.to_le_bytes());
        out.extend_from_slice(&length(dead.cause.as_bytes()));
        out.extend_from_slice(&length(dead.reason.as_bytes()));
        out.extend_from_slice(&length(by_name.as_bytes()));
        out.extend_from_slice(&by.map_or(0, |by| by.uid).to_le_bytes());
        out.extend_from_slice(&by.map_or(0, |by| by.pid).to_le_bytes());
    }
    out.extend_from_slice(record.from.name.as_bytes());
    out.extend_from_slice(record.topic.as_bytes());
    if let Some(dead) = &record.dead {
        out.extend_from_slice(dead.cause.as_bytes());
        out.extend_from_slice(dead.reason.as_bytes());
        out.extend_from_slice(by_name.as_bytes());
    }
    out.extend_from_slice(&record.bytes);
    seal_from(Kind::Message, &key.to_le_bytes(), out, from);
}

/// How long the message is that begins here, if what it says of its lengths is true.
pub(super) fn length_of(bytes: &[u8]) -> Option<usize> {
    let flags = *bytes.get(3)?;
    let u32_at = |at: usize| Some(u64::from(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)));
    let texts = if flags & FLAG_DEAD == 0 { 0 } else { 28 + u32_at(56)? + u32_at(60)? + u32_at(64)? };
    let all = 48 + u32_at(36)? + u32_at(40)? + u32_at(44)? + texts + CHECKSUM_BYTES as u64;
    usize::try_from(all).ok().filter(|all| *all <= bytes.len())
}

/// A message as it lies in the file, checked; nothing is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View<'a> {
    priority: u8,
    attempts: u8,
    /// Since, due, expires.
    times: [i64; 3],
    pub(super) uid: u32,
    pid: u32,
    name: &'a str,
    topic: &'a str,
    dead: Option<Late<'a>>,
    pub(super) bytes: &'a [u8],
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Late<'a> {
    when: i64,
    cause: &'a str,
    reason: &'a str,
    by: Option<(&'a str, u32, u32)>,
}

/// Reads a message.
pub(super) fn view(key: u128, bytes: &[u8]) -> Result<View<'_>, Wrong> {
    let mut rest = Rest(unseal(Kind::Message, &key.to_le_bytes(), bytes)?);
    let [priority, attempts, flags] = rest.array()?;
    if flags & !(FLAG_DEAD | FLAG_BY) != 0 || flags == FLAG_BY || priority > 9 {
        return Err(Wrong::Value);
    }
    let times = [rest.i64()?, rest.i64()?, rest.i64()?];
    let (uid, pid) = (rest.u32()?, rest.u32()?);
    let [name, topic, message] = [rest.u32()?, rest.u32()?, rest.u32()?];
    let late = if flags & FLAG_DEAD == 0 {
        None
    } else {
        let when = rest.i64()?;
        Some((when, [rest.u32()?, rest.u32()?, rest.u32()?], [rest.u32()?, rest.u32()?]))
    };
    let (name, topic) = (rest.text(name)?, rest.text(topic)?);
    let dead = match late {
        None => None,
        Some((when, [cause, reason, by], [by_uid, by_pid])) => {
            let (cause, reason, by) = (rest.text(cause)?, rest.text(reason)?, rest.text(by)?);
            let by = (flags & FLAG_BY != 0).then_some((by, by_uid, by_pid));
            if by.is_none() && (by_uid, by_pid) != (0, 0) {
                return Err(Wrong::Value);
            }
            Some(Late { when, cause, reason, by })
        }
    };
    let bytes = rest.bytes(message)?;
    if !rest.0.is_empty() {
        return Err(Wrong::Length);
    }
    Ok(View { priority, attempts, times, uid, pid, name, topic, dead, bytes })
}

impl View<'_> {
    /// The same with memory of its own.
    pub(super) fn to_record(&self) -> Record {
        let [since_millis, due_millis, expires_millis] = self.times;
        Record {
            bytes: self.bytes.into(),
            priority: self.priority,
            attempts: self.attempts,
            since_millis,
            due_millis,
            expires_millis,
            from: Sender { name: self.name.into(), uid: self.uid, pid: self.pid },
            topic: self.topic.into(),
            dead: self.dead.as_ref().map(|dead| Obituary {
                cause: dead.cause.into(),
                reason: dead.reason.into(),
                when: dead.when,
                by: dead.by.map(|(name, uid, pid)| Sender { name: name.into(), uid, pid }),
            }),
        }
    }
}

/// Writes a queue into `out`, which it empties first.
pub(super) fn encode_queue(key: u128, name: &str, settings: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.push(VERSION);
    out.extend_from_slice(&length(name.as_bytes()));
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(settings);
    seal(Kind::Queue, &key.to_le_bytes(), out);
}

/// Reads a queue: its name and settings.
pub(super) fn queue(key: u128, bytes: &[u8]) -> Result<(Arc<str>, Arc<[u8]>), Wrong> {
    let mut rest = Rest(unseal(Kind::Queue, &key.to_le_bytes(), bytes)?);
    let name = rest.u32()?;
    let name = rest.text(name)?;
    Ok((name.into(), rest.0.into()))
}

/// Writes a number into `out`, which it empties first.
pub(super) fn encode_number(key: u128, number: u64, out: &mut Vec<u8>) {
    out.clear();
    out.push(VERSION);
    out.extend_from_slice(&number.to_le_bytes());
    seal(Kind::Number, &key.to_le_bytes(), out);
}

/// Reads a number.
pub(super) fn number(key: u128, bytes: &[u8]) -> Result<u64, Wrong> {
    let mut rest = Rest(unseal(Kind::Number, &key.to_le_bytes(), bytes)?);
    let number = u64::from_le_bytes(rest.array()?);
    if rest.0.is_empty() { Ok(number) } else { Err(Wrong::Length) }
}

/// Writes what stands behind a seen id into `out`, which it empties first: all of it is in the key.
pub(super) fn encode_seen(key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.push(VERSION);
    seal(Kind::Seen, key, out);
}

/// Checks what stands behind a seen id.
pub(super) fn seen(key: &[u8], bytes: &[u8]) -> Result<(), Wrong> {
    if unseal(Kind::Seen, key, bytes)?.is_empty() { Ok(()) } else { Err(Wrong::Length) }
}

/// Takes bytes for a kept thing behind a right checksum, which a fuzzer would not find by itself, and writes again what they
/// say. The first byte says what it is to be; the next sixteen are its key.
#[must_use]
pub fn read_and_write(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (kind, rest) = bytes.split_first()?;
    let (key, body) = rest.split_first_chunk::<16>()?;
    let of = u128::from_le_bytes(*key);
    let kind = [Kind::Message, Kind::Queue, Kind::Number, Kind::Seen, Kind::Sheet, Kind::Done]
        [usize::from(*kind % 6)];
    let mut sealed = body.to_vec();
    let mut again = Vec::new();
    if kind == Kind::Sheet {
        sheet::seal(of, &mut sealed)?;
    } else {
        seal(kind, key, &mut sealed);
    }
    match kind {
        Kind::Message => encode(of, &view(of, &sealed).ok()?.to_record(), &mut again),
        Kind::Queue => {
            let (name, settings) = queue(of, &sealed).ok()?;
            encode_queue(of, &name, &settings, &mut again);
        }
        Kind::Number => encode_number(of, number(of, &sealed).ok()?, &mut again),
        Kind::Seen => {
            seen(key, &sealed).ok()?;
            encode_seen(key, &mut again);
        }
        Kind::Sheet => {
            let sheet = Sheet::read(of, &sealed);
            if sheet.wrong.is_some() {
                return None;
            }
            again = sheet.write_again();
        }
        Kind::Done => Done::read(of, None, &sealed).ok()?.encode(of, &mut again),
    }
    Some((sealed, again))
}

/// Whether bytes as they are can be any kept thing of this key.
#[must_use]
pub fn readable(key: u128, bytes: &[u8]) -> bool {
    let kept = [
        view(key, bytes).map(|_| ()),
        queue(key, bytes).map(|_| ()),
        number(key, bytes).map(|_| ()),
        seen(&key.to_le_bytes(), bytes),
        whole(&Sheet::read(key, bytes)),
        Done::read(key, None, bytes).map(|_| ()),
    ];
    kept.contains(&Ok(()))
}

/// Whether a sheet and each of its messages are as they were written.
fn whole(sheet: &Sheet<'_>) -> Result<(), Wrong> {
    sheet.wrong.map_or(Ok(()), Err)?;
    sheet.messages().try_for_each(|(key, bytes)| view(key, bytes).map(|_| ()))
}
