//! A message that was found in a ring: as the core takes it, or as it waits until the core wants it.
//!
//! Nothing is decided here, and what is in a ring is copied before anybody looks at it.

use crate::core::RingMessage;
use crate::shell::bulk::Whole;
use tramline_ring::{Body, Received};

/// A message that waits.
pub(super) enum Kept {
    /// As it was found, with its bytes if they are not where they were published.
    Found(Received, Vec<u8>),
    Whole(Whole),
}

impl Kept {
    /// Takes a message out of the ring; if it was copied already, `scratch` holds its bytes.
    pub(super) fn taken_out(received: Received, scratch: Vec<u8>) -> Self {
        let Body::Pinned(pinned) = &received.body else { return Self::Found(received, scratch) };
        let bytes = [pinned.head(), pinned.payload()].concat();
        let head = 0..pinned.head().len();
        let body = Body::Copied { payload: head.end..bytes.len(), head };
        Self::Found(Received { body, ..received }, bytes)
    }
}

/// How long a message's headers and its payload are.
pub(super) fn lengths(received: &Received) -> (usize, usize) {
    match &received.body {
        Body::Copied { payload, head } => (head.len(), payload.len()),
        Body::Pinned(pinned) => (pinned.head().len(), pinned.payload().len()),
    }
}

/// A message as the core takes it, in this process's own memory: at most `bytes_max` of its payload.
pub(super) fn message<'a>(
    received: &Received,
    scratch: &'a [u8],
    copy: &'a mut Vec<u8>,
    bytes_max: usize,
) -> RingMessage<'a> {
    let (payload, head, payload_length) = match &received.body {
        Body::Copied { payload, head } => {
            let length = payload.len();
            let end = payload.start + length.min(bytes_max);
            (&scratch[payload.start..end], &scratch[head.clone()], length)
        }
        Body::Pinned(pinned) => {
            let (payload, head) = (pinned.payload(), pinned.head());
            let taken = payload.len().min(bytes_max);
            copy.clear();
            copy.extend_from_slice(head);
            copy.extend_from_slice(&payload[..taken]);
            let (head, rest) = copy.split_at(head.len());
            (rest, head, payload.len())
        }
    };
    RingMessage {
        seq: received.seq,
        lost: received.lost,
        flags: received.meta.flags,
        time: received.meta.time,
        source_time: received.meta.source_time,
        head,
        payload,
        payload_length: payload_length as u64,
        whole: None,
    }
}
