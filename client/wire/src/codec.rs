//! Frames to bytes and back: the only file that knows bincode's configuration.
//!
//! A frame is a `u32` length of its body, then the body; all integers little-endian and of fixed
//! width. In a body: an enum is a `u32` (the variant's place) then the variant's fields; `Option` is a
//! byte 0 or 1; `bool` is a byte 0 or 1; text and bytes are a `u64` length then the bytes; a struct is
//! its fields in order without padding. A body must be used up exactly.
//!
//! Decoding borrows: it allocates nothing, and every length is checked against what is there.

use crate::frames::{Deliver, Job, Publish, Push, ToBroker, ToClient};
use crate::message::Message;
use crate::plain::{
    DELIVER, DELIVER_HEAD_BYTES, JOB, JOB_HEAD_BYTES, PLAIN_HEAD_BYTES, PUBLISH_HEAD_BYTES, PUSH_HEAD_BYTES,
    plain_message,
};
use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::enc::write::Writer;
use bincode::{BorrowDecode, Encode};

/// Bytes before a frame's body.
pub const FRAME_PREFIX_BYTES: usize = 4;

const CONFIG: Configuration<LittleEndian, Fixint, Limit<{ crate::limits::FRAME_BYTES_CEILING }>> =
    bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<{ crate::limits::FRAME_BYTES_CEILING }>();

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body is longer than agreed.
    #[error("a frame of {length} bytes; at most {max} are taken (limits.frame_bytes_max)")]
    TooLarge {
        /// The length in the prefix.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// The variant's number is not known in this version.
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u32),
    /// The fields are cut short or have impossible values.
    #[error("a malformed frame of kind {kind}: {reason}")]
    Malformed {
        /// The variant's number.
        kind: u32,
        /// What the decoder stumbled over.
        reason: String,
    },
    /// Bytes are left after the last field.
    #[error("a frame of kind {kind} with {extra} bytes too many")]
    Trailing {
        /// The variant's number.
        kind: u32,
        /// How many.
        extra: usize,
    },
    /// The declared number of descriptors does not fit the frame's fields.
    #[error(
        "a frame of kind {kind} that declares {declared} file descriptors, which its fields do not call for"
    )]
    Descriptors {
        /// The variant's number.
        kind: u32,
        /// What the frame declares.
        declared: u8,
    },
}

/// What stands at the beginning of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framed<'a> {
    /// Not yet a whole frame: at least this many bytes in all are needed.
    Incomplete {
        /// Total length needed, prefix included.
        needed: usize,
    },
    /// A whole frame.
    Whole {
        /// Its body.
        body: &'a [u8],
        /// Bytes it takes in the buffer.
        consumed: usize,
    },
}

/// Finds the first frame in `buffer`.
///
/// # Errors
/// [`DecodeError::TooLarge`] when its prefix claims more than `frame_bytes_max`.
pub fn split_frame(buffer: &[u8], frame_bytes_max: usize) -> Result<Framed<'_>, DecodeError> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<FRAME_PREFIX_BYTES>() else {
        return Ok(Framed::Incomplete { needed: FRAME_PREFIX_BYTES });
    };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length > frame_bytes_max {
        return Err(DecodeError::TooLarge { length, max: frame_bytes_max });
    }
    Ok(match rest.get(..length) {
        Some(body) => Framed::Whole { body, consumed: FRAME_PREFIX_BYTES + length },
        None => Framed::Incomplete { needed: FRAME_PREFIX_BYTES + length },
    })
}

struct Appender<'v>(&'v mut Vec<u8>);

impl Writer for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn append(out: &mut Vec<u8>, value: &impl Encode) {
    bincode::encode_into_writer(value, Appender(out), CONFIG).expect("a Vec takes every byte");
}

fn frame(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_PREFIX_BYTES]);
    body(out);
    let length = u32::try_from(out.len() - start - FRAME_PREFIX_BYTES).expect("a frame is below 4 GiB");
    out[start..start + FRAME_PREFIX_BYTES].copy_from_slice(&length.to_le_bytes());
}

fn kind_of(body: &[u8]) -> u32 {
    body.first_chunk().map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes))
}

fn decode<'a, T: BorrowDecode<'a, ()>>(body: &'a [u8]) -> Result<T, DecodeError> {
    let kind = kind_of(body);
    match bincode::borrow_decode_from_slice(body, CONFIG) {
        Ok((value, used)) if used == body.len() => Ok(value),
        Ok((_, used)) => Err(DecodeError::Trailing { kind, extra: body.len() - used }),
        // An unknown variant of the frame itself, not of something within it.
        Err(bincode::error::DecodeError::UnexpectedVariant { found, type_name, .. })
            if found == kind && std::any::type_name::<T>().contains(type_name) =>
        {
            Err(DecodeError::UnknownKind(kind))
        }
        Err(error) => Err(DecodeError::Malformed { kind, reason: error.to_string() }),
    }
}

/// A frame, if it declares as many descriptors as its fields call for.
fn decode_frame<'a, T: BorrowDecode<'a, ()>>(
    body: &'a [u8],
    fds_fit: impl FnOnce(&T) -> bool,
    fds: impl FnOnce(&T) -> u8,
) -> Result<T, DecodeError> {
    let value = decode(body)?;
    if fds_fit(&value) {
        return Ok(value);
    }
    Err(DecodeError::Descriptors { kind: kind_of(body), declared: fds(&value) })
}

/// As [`ToBroker::decode`] and [`ToClient::decode`], without their short cut.
#[cfg(test)]
pub(crate) fn decode_generally<'a, T: BorrowDecode<'a, ()>>(body: &'a [u8]) -> Result<T, DecodeError> {
    decode(body)
}

impl<'a> ToBroker<'a> {
    /// Appends the frame, prefix included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, |out| append(out, self));
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is no frame of this direction, or not used up exactly.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        if let Some(publish) = Publish::decode_plain(body) {
            return Ok(Self::Publish(publish));
        }
        if let Some(push) = Push::decode_plain(body) {
            return Ok(Self::Push(push));
        }
        decode_frame(body, Self::fds_fit, Self::fds)
    }

    /// The bytes of the message in the body of a `Publish`, to be delivered as they are.
    ///
    /// The body must have been decoded as a `Publish` before.
    #[must_use]
    pub fn publish_message(body: &[u8]) -> &[u8] {
        body.get(PUBLISH_HEAD_BYTES..).unwrap_or_default()
    }

    /// The bytes of the message in the body of a `Push` whose id has `id_bytes`, to be given out as they are.
    ///
    /// The body must have been decoded as a `Push` before.
    #[must_use]
    pub fn push_message(body: &[u8], id_bytes: usize) -> &[u8] {
        body.get(PUSH_HEAD_BYTES + id_bytes..).unwrap_or_default()
    }

    /// The bytes of `message` at the end of the body that it was decoded from, to be passed on as they are. It must follow
    /// no ring.
    #[must_use]
    pub fn last_message<'b>(body: &'b [u8], message: &Message<'_>) -> &'b [u8] {
        let bytes = PLAIN_HEAD_BYTES + message.head.len() + 8 + message.payload.len();
        body.get(body.len().saturating_sub(bytes)..).unwrap_or_default()
    }
}

impl<'a> ToClient<'a> {
    /// Appends the frame, prefix included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, |out| append(out, self));
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is no frame of this direction, or not used up exactly.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        if let Some(deliver) = Deliver::decode_plain(body) {
            return Ok(Self::Deliver(deliver));
        }
        if let Some(job) = Job::decode_plain(body) {
            return Ok(Self::Job(job));
        }
        decode_frame(body, Self::fds_fit, Self::fds)
    }

    /// Appends a `Deliver` frame around a message that is encoded already (see
    /// [`ToBroker::publish_message`], [`encode_message`]), without decoding it again.
    #[inline]
    pub fn encode_deliver(out: &mut Vec<u8>, sub: u32, source: u32, payload_length: u64, message: &[u8]) {
        let length = u32::try_from(DELIVER_HEAD_BYTES + message.len()).expect("a frame is below 4 GiB");
        out.reserve(FRAME_PREFIX_BYTES + DELIVER_HEAD_BYTES + message.len());
        let mut start = [0; FRAME_PREFIX_BYTES + DELIVER_HEAD_BYTES];
        start[..4].copy_from_slice(&length.to_le_bytes());
        start[4..8].copy_from_slice(&DELIVER.to_le_bytes());
        start[8..12].copy_from_slice(&sub.to_le_bytes());
        start[12..16].copy_from_slice(&source.to_le_bytes());
        start[16..].copy_from_slice(&payload_length.to_le_bytes());
        out.extend_from_slice(&start);
        out.extend_from_slice(message);
    }
}

impl Job<'_> {
    /// Appends a `Job` frame around a message that is encoded already: what this frame says is taken from `self`, except
    /// for its message.
    #[inline]
    pub fn encode_around(&self, out: &mut Vec<u8>, message: &[u8]) {
        let length = u32::try_from(JOB_HEAD_BYTES + message.len()).expect("a frame is below 4 GiB");
        out.reserve(FRAME_PREFIX_BYTES + JOB_HEAD_BYTES + message.len());
        let mut start = [0; FRAME_PREFIX_BYTES + JOB_HEAD_BYTES];
        start[..4].copy_from_slice(&length.to_le_bytes());
        start[4..8].copy_from_slice(&JOB.to_le_bytes());
        start[8..12].copy_from_slice(&self.consumer.to_le_bytes());
        start[12..16].copy_from_slice(&self.source.to_le_bytes());
        start[16..24].copy_from_slice(&self.tag.to_le_bytes());
        start[24..28].copy_from_slice(&self.attempt.to_le_bytes());
        start[28] = self.priority;
        out.extend_from_slice(&start);
        out.extend_from_slice(message);
    }
}

/// Appends a message as it stands at the end of a `Publish` or `Deliver` body.
pub fn encode_message(out: &mut Vec<u8>, message: &Message<'_>) {
    append(out, message);
}

/// Appends a message as far as its payload, which has so many bytes and is to follow: what is large is then copied once, to
/// where it stays. The payload in `message` is not looked at.
pub fn encode_message_head(out: &mut Vec<u8>, message: &Message<'_>, payload_length: u64) {
    append(out, &Message { payload: &[], ..*message });
    // The length of a payload stands right before it.
    let end = out.len() - size_of::<u64>();
    out[end..].copy_from_slice(&payload_length.to_le_bytes());
}

/// Reads what [`encode_message`] wrote.
///
/// # Errors
/// When the bytes are no message, or not used up exactly.
pub fn decode_message(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    plain_message(bytes).map_or_else(|| decode(bytes), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Deliver, Publish};
    use crate::message::{After, Encoding, MessageFlags};

    fn message() -> Message<'static> {
        Message {
            flags: MessageFlags::new(Encoding::Json).with_confirm(),
            seq: 7,
            time: 1_000,
            source_time: 0,
            after: Some(After { stream: 3, seq: 6 }),
            head: b"\x01t",
            payload: b"{}",
        }
    }

    #[test]
    fn a_message_can_be_written_in_two_parts() {
        let mut whole = Vec::new();
        encode_message(&mut whole, &message());
        let mut parts = Vec::new();
        encode_message_head(&mut parts, &Message { payload: b"not looked at", ..message() }, 2);
        parts.extend_from_slice(message().payload);
        assert_eq!(parts, whole);
    }

    #[test]
    fn a_delivery_built_from_a_publish_is_the_same_as_an_encoded_one() {
        let mut published = Vec::new();
        ToBroker::Publish(Publish { alias: 5, message: message() }).encode(&mut published);
        let Framed::Whole { body, consumed } = split_frame(&published, 4096).unwrap() else { panic!() };
        assert_eq!(consumed, published.len());
        let mut fast = Vec::new();
        ToClient::encode_deliver(&mut fast, 1, 2, 2, ToBroker::publish_message(body));
        let mut slow = Vec::new();
        let deliver = Deliver { sub: 1, source: 2, payload_length: 2, message: message() };
        ToClient::Deliver(deliver).encode(&mut slow);
        assert_eq!(fast, slow);
        assert_eq!(ToClient::decode(&fast[4..]), Ok(ToClient::Deliver(deliver)));
    }

    #[test]
    fn half_a_frame_is_not_an_error_and_a_huge_one_is() {
        assert_eq!(split_frame(&[1, 0], 64), Ok(Framed::Incomplete { needed: 4 }));
        assert_eq!(split_frame(&[9, 0, 0, 0, 1], 64), Ok(Framed::Incomplete { needed: 13 }));
        let error = split_frame(&[255, 255, 255, 255], 64);
        assert_eq!(error, Err(DecodeError::TooLarge { length: u32::MAX as usize, max: 64 }));
    }

    #[test]
    fn bodies_are_used_up_exactly() {
        let mut out = Vec::new();
        ToBroker::Ping { req: 9 }.encode(&mut out);
        assert_eq!(ToBroker::decode(&out[4..]), Ok(ToBroker::Ping { req: 9 }));
        assert!(matches!(ToBroker::decode(&out[4..11]), Err(DecodeError::Malformed { kind: 11, .. })));
        out.push(0);
        assert_eq!(ToBroker::decode(&out[4..]), Err(DecodeError::Trailing { kind: 11, extra: 1 }));
        assert_eq!(ToBroker::decode(&[200, 0, 0, 0]), Err(DecodeError::UnknownKind(200)));
        assert!(ToBroker::decode(&[]).is_err());
    }

    #[test]
    fn an_impossible_value_within_a_frame_is_no_unknown_frame() {
        let mut out = Vec::new();
        ToBroker::Publish(Publish { alias: 5, message: message() }).encode(&mut out);
        // The option byte of `after`: 2 is the number of the frame's kind as well.
        out[4 + 8 + 2 + 8 + 8 + 8] = 2;
        assert!(matches!(ToBroker::decode(&out[4..]), Err(DecodeError::Malformed { kind: 2, .. })));
    }

    #[test]
    fn a_length_beyond_the_body_allocates_nothing_and_is_refused() {
        let mut body = 0_u32.to_le_bytes().to_vec();
        body.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(ToBroker::decode(&body), Err(DecodeError::Malformed { kind: 0, .. })));
    }

    #[test]
    fn unknown_message_flags_are_seen_by_whoever_checks_them() {
        assert!(MessageFlags::from_bits(3).is_none());
        assert!(MessageFlags::from_bits(16).is_none());
        assert_eq!(MessageFlags::from_bits(2).unwrap().encoding(), Encoding::Json);
    }

    #[test]
    fn declared_descriptors_must_fit_the_frame() {
        let accept = crate::frames::Accept { attach: 1, slot: 0, page: None, fds: 1 };
        let mut out = Vec::new();
        ToBroker::Accept(accept).encode(&mut out);
        assert_eq!(ToBroker::decode(&out[4..]), Err(DecodeError::Descriptors { kind: 7, declared: 1 }));
    }
}
