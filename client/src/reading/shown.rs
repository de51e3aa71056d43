//! A message that a look at a ring found, in the two ways in which it is handed over: shown where it lies, or as one that
//! owns what it shows.

use crate::message::{INLINE_BYTES_MAX, Message, MessageRef, Parts, Source};
use std::sync::Arc;
use tramline_ring::{Body, Received};

/// A message as it was found in a ring, not in a pack: its small bytes in `scratch`, its large ones pinned.
pub(crate) struct Alone<'a> {
    pub(super) source: &'a Arc<Source>,
    pub(super) received: Received,
    pub(super) scratch: &'a mut Vec<u8>,
}

impl Alone<'_> {
    /// A message that owns what it shows.
    pub(crate) fn into_message(self) -> Message {
        message(self.source, self.received, self.scratch)
    }

    /// Shows the message where it lies.
    #[inline]
    pub(crate) fn show(&self, show: impl FnOnce(MessageRef<'_>)) {
        let Received { seq, lost, meta, body } = &self.received;
        let (head, payload) = match body {
            Body::Copied { payload, head } => (&self.scratch[head.clone()], &self.scratch[payload.clone()]),
            Body::Pinned(pinned) => (pinned.head(), pinned.payload()),
        };
        let parts = Parts { source: self.source, seq: *seq, lost: *lost, meta: *meta, head };
        show(MessageRef::new(parts, payload));
    }
}

#[inline]
pub(super) fn message(source: &Arc<Source>, received: Received, scratch: &mut Vec<u8>) -> Message {
    let Received { seq, lost, meta, body } = received;
    match body {
        Body::Copied { payload, head } => {
            let parts = Parts { source, seq, lost, meta, head: &scratch[head] };
            if payload.len() <= INLINE_BYTES_MAX {
                return Message::from_ring(parts, &scratch[payload]);
            }
            let (start, end) = (payload.start, payload.end);
            if end < scratch.capacity() / 2 {
                return Message::from_ring(parts, &scratch[payload]);
            }
            // Large, and the buffer is filled well: hand it over instead of copying it once more.
            let head = parts.head.to_vec();
            let bytes = std::mem::take(scratch);
            Message::from_ring_buffer(Parts { source, seq, lost, meta, head: &head }, bytes, start, end)
        }
        Body::Pinned(pinned) => {
            let head = pinned.head().to_vec();
            Message::from_ring_pinned(Parts { source, seq, lost, meta, head: &head }, pinned)
        }
    }
}
