//! The four frames that every small message travels in, read and written at fixed places.
//!
//! They are frames like any other, and `codec` reads and writes them as well; but it does so field by field, and on
//! the way of a message that was most of what a profile showed. Only messages that follow no ring are taken
//! here, which is nearly all; the rest, and everything that is malformed, is `codec`'s affair, so there is one
//! place that says what is wrong with a frame. The tests hold both to the same bytes and values.

use crate::codec::FRAME_PREFIX_BYTES;
use crate::frames::{Deliver, Job, Publish, Push, ToBroker};
use crate::message::{Message, MessageFlags};

/// The variant of `Publish`, and the bytes of its body before its message: variant and alias.
pub(crate) const PUBLISH: u32 = 2;
pub(crate) const PUBLISH_HEAD_BYTES: usize = 8;

/// The variant of `Deliver`, and the bytes of its body before its message: variant, subscription, source, length.
pub(crate) const DELIVER: u32 = 6;
pub(crate) const DELIVER_HEAD_BYTES: usize = 20;

/// The variant of `Push`, and the bytes of its body before its id: variant, queue, priority, times, length of the id.
pub(crate) const PUSH: u32 = 19;
pub(crate) const PUSH_HEAD_BYTES: usize = 25;

/// The variant of `Job`, and the bytes of its body before its message: variant, consumer, source, tag, attempt, priority.
pub(crate) const JOB: u32 = 25;
pub(crate) const JOB_HEAD_BYTES: usize = 25;

/// Bytes of a message that follows no ring, before its header block: flags, number, times, no `after`, length.
pub(crate) const PLAIN_HEAD_BYTES: usize = 2 + 8 + 8 + 8 + 1 + 8;

/// The eight bytes at `at`, which the caller knows to be there.
#[inline]
fn word(bytes: &[u8; PLAIN_HEAD_BYTES], at: usize) -> [u8; 8] {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    word
}

/// A message that follows no ring, as most do: read at fixed places. `None` leaves it, and whatever is wrong with it,
/// to the general way. A test holds both ways to the same results.
#[inline]
pub(crate) fn plain_message(bytes: &[u8]) -> Option<Message<'_>> {
    let (fixed, rest) = bytes.split_first_chunk::<PLAIN_HEAD_BYTES>()?;
    if fixed[26] != 0 {
        return None;
    }
    let head_bytes = usize::try_from(u64::from_le_bytes(word(fixed, 27))).ok()?;
    let (head, rest) = rest.split_at_checked(head_bytes)?;
    let (payload_bytes, payload) = rest.split_first_chunk::<8>()?;
    if u64::from_le_bytes(*payload_bytes) != payload.len() as u64 {
        return None;
    }
    Some(Message {
        flags: MessageFlags::from_wire(u16::from_le_bytes([fixed[0], fixed[1]])),
        seq: u64::from_le_bytes(word(fixed, 2)),
        time: u64::from_le_bytes(word(fixed, 10)),
        source_time: i64::from_le_bytes(word(fixed, 18)),
        after: None,
        head,
        payload,
    })
}

/// Appends a message that follows no ring.
#[inline]
fn append_plain(out: &mut Vec<u8>, message: &Message<'_>) {
    let mut fixed = [0; PLAIN_HEAD_BYTES];
    fixed[..2].copy_from_slice(&message.flags.bits().to_le_bytes());
    fixed[2..10].copy_from_slice(&message.seq.to_le_bytes());
    fixed[10..18].copy_from_slice(&message.time.to_le_bytes());
    fixed[18..26].copy_from_slice(&message.source_time.to_le_bytes());
    fixed[27..].copy_from_slice(&(message.head.len() as u64).to_le_bytes());
    out.extend_from_slice(&fixed);
    out.extend_from_slice(message.head);
    out.extend_from_slice(&(message.payload.len() as u64).to_le_bytes());
    out.extend_from_slice(message.payload);
}

impl<'a> Publish<'a> {
    /// Appends the frame, prefix included: the bytes of [`ToBroker::encode`], sooner.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Self { alias, message } = self;
        if message.after.is_some() {
            return ToBroker::Publish(*self).encode(out);
        }
        let body = PUBLISH_HEAD_BYTES + PLAIN_HEAD_BYTES + message.head.len() + 8 + message.payload.len();
        out.reserve(FRAME_PREFIX_BYTES + body);
        let length = u32::try_from(body).expect("a frame is below 4 GiB");
        let mut start = [0; FRAME_PREFIX_BYTES + PUBLISH_HEAD_BYTES];
        start[..4].copy_from_slice(&length.to_le_bytes());
        start[4..8].copy_from_slice(&PUBLISH.to_le_bytes());
        start[8..].copy_from_slice(&alias.to_le_bytes());
        out.extend_from_slice(&start);
        append_plain(out, message);
    }

    /// Reads the body of a `Publish` whose message follows no ring, as most are. `None`: see
    /// [`ToBroker::decode`].
    #[inline]
    #[must_use]
    pub fn decode_plain(body: &'a [u8]) -> Option<Self> {
        let (start, message) = body.split_first_chunk::<PUBLISH_HEAD_BYTES>()?;
        let [k, l, m, n, alias @ ..] = *start;
        if u32::from_le_bytes([k, l, m, n]) != PUBLISH {
            return None;
        }
        Some(Self { alias: u32::from_le_bytes(alias), message: plain_message(message)? })
    }
}

impl<'a> Deliver<'a> {
    /// Reads the body of a `Deliver` whose message follows no ring, as most are. `None`: see
    /// [`ToClient::decode`](crate::ToClient::decode).
    #[inline]
    #[must_use]
    pub fn decode_plain(body: &'a [u8]) -> Option<Self> {
        let (start, message) = body.split_first_chunk::<DELIVER_HEAD_BYTES>()?;
        let number = |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
        if number(0) != DELIVER {
            return None;
        }
        let payload_length = u64::from(number(12)) | u64::from(number(16)) << 32;
        Some(Self { sub: number(4), source: number(8), payload_length, message: plain_message(message)? })
    }
}

/// The four bytes at `at`, which the caller knows to be there.
#[inline]
fn half<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl<'a> Push<'a> {
    /// Appends the frame, prefix included: the bytes of [`ToBroker::encode`], sooner.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Self { queue, priority, delay_millis, ttl_millis, id, message } = self;
        if message.after.is_some() || !id.is_empty() {
            return ToBroker::Push(*self).encode(out);
        }
        let body = PUSH_HEAD_BYTES + PLAIN_HEAD_BYTES + message.head.len() + 8 + message.payload.len();
        out.reserve(FRAME_PREFIX_BYTES + body);
        let length = u32::try_from(body).expect("a frame is below 4 GiB");
        let mut start = [0; FRAME_PREFIX_BYTES + PUSH_HEAD_BYTES];
        start[..4].copy_from_slice(&length.to_le_bytes());
        start[4..8].copy_from_slice(&PUSH.to_le_bytes());
        start[8..12].copy_from_slice(&queue.to_le_bytes());
        start[12] = *priority;
        start[13..17].copy_from_slice(&delay_millis.to_le_bytes());
        start[17..21].copy_from_slice(&ttl_millis.to_le_bytes());
        out.extend_from_slice(&start);
        append_plain(out, message);
    }

    /// Reads the body of a `Push` without an id, as most are. `None`: see [`ToBroker::decode`].
    #[inline]
    #[must_use]
    pub fn decode_plain(body: &'a [u8]) -> Option<Self> {
        let (start, message) = body.split_first_chunk::<PUSH_HEAD_BYTES>()?;
        if half(start, 0) != PUSH || start[17..] != [0; 8] {
            return None;
        }
        Some(Self {
            queue: half(start, 4),
            priority: start[8],
            delay_millis: half(start, 9),
            ttl_millis: half(start, 13),
            id: &[],
            message: plain_message(message)?,
        })
    }
}

impl<'a> Job<'a> {
    /// Reads the body of a `Job` whose message follows no ring, as most are. `None`: see
    /// [`ToClient::decode`](crate::ToClient::decode).
    #[inline]
    #[must_use]
    pub fn decode_plain(body: &'a [u8]) -> Option<Self> {
        let (start, message) = body.split_first_chunk::<JOB_HEAD_BYTES>()?;
        if half(start, 0) != JOB {
            return None;
        }
        Some(Self {
            consumer: half(start, 4),
            source: half(start, 8),
            tag: u64::from(half(start, 12)) | u64::from(half(start, 16)) << 32,
            attempt: half(start, 20),
            priority: start[24],
            message: plain_message(message)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ToClient;
    use crate::codec::{decode_generally, encode_message};
    use proptest::prelude::*;

    proptest! {
        /// Whatever bytes come, changed or cut anywhere: what is read here is what the general way reads.
        #[test]
        fn reads_what_the_general_way_reads(
            flags in any::<u16>(), seq in any::<u64>(), time in any::<u64>(), source_time in any::<i64>(),
            head in proptest::collection::vec(any::<u8>(), 0..24),
            payload in proptest::collection::vec(any::<u8>(), 0..80),
            numbers in any::<(u32, u32, u64)>(),
            cut in 0_usize..400, change in any::<Option<(u8, u8)>>(),
        ) {
            let flags = MessageFlags::from_wire(flags);
            let message = Message { flags, seq, time, source_time, after: None, head: &head, payload: &payload };
            let (alias, source, payload_length) = numbers;
            let mut bytes = Vec::new();
            encode_message(&mut bytes, &message);
            let mut deliver = Vec::new();
            ToClient::encode_deliver(&mut deliver, alias, source, payload_length, &bytes);
            let mut publish = Vec::new();
            let frame = Publish { alias, message };
            frame.encode(&mut publish);
            let mut generally = Vec::new();
            ToBroker::Publish(frame).encode(&mut generally);
            prop_assert_eq!(&publish, &generally);
            let frame = Push {
                queue: alias, priority: u8::try_from(head.len()).unwrap(), delay_millis: source, ttl_millis: alias, id: &[], message,
            };
            let mut push = Vec::new();
            frame.encode(&mut push);
            let mut generally = Vec::new();
            ToBroker::Push(frame).encode(&mut generally);
            prop_assert_eq!(&push, &generally);
            let frame = Job {
                consumer: alias, source, tag: payload_length, attempt: alias, priority: u8::try_from(head.len()).unwrap(), message,
            };
            let mut job = Vec::new();
            frame.encode_around(&mut job, &bytes);
            let mut generally = Vec::new();
            ToClient::Job(frame).encode(&mut generally);
            prop_assert_eq!(&job, &generally);
            for frame in [&mut deliver, &mut publish, &mut push, &mut job] {
                frame.drain(..FRAME_PREFIX_BYTES);
                if let Some((at, value)) = change {
                    let at = usize::from(at) % frame.len();
                    frame[at] = value;
                }
                frame.truncate(cut);
            }
            if let Some(read) = Deliver::decode_plain(&deliver) {
                prop_assert_eq!(decode_generally(&deliver), Ok(ToClient::Deliver(read)));
            } else {
                prop_assert!(change.is_some() || cut == deliver.len());
            }
            if let Some(read) = Publish::decode_plain(&publish) {
                prop_assert_eq!(decode_generally(&publish), Ok(ToBroker::Publish(read)));
            }
            if let Some(read) = Push::decode_plain(&push) {
                prop_assert_eq!(decode_generally(&push), Ok(ToBroker::Push(read)));
            }
            if let Some(read) = Job::decode_plain(&job) {
                prop_assert_eq!(decode_generally(&job), Ok(ToClient::Job(read)));
            }
        }
    }
}
