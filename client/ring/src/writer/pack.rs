//! Packs: small messages that are handed over together share a descriptor and lie side by side.
//!
//! A descriptor and a payload of one's own are two cache lines that travel from core to core for each message. In a pack
//! of 64 messages the descriptor's line is one of some seventy, and the fence, the counters and the accounts are
//! paid once. Whoever sees the descriptor sees the whole pack: nothing in it is read before it is complete.

use super::{Meta, SendError, Writer};
use crate::layout::{Fields, PACK_BYTES_MAX, PACK_MESSAGES_MAX, UNIT_BYTES, low};

/// Longest message that is packed, in bytes: above it a descriptor of its own costs little.
const PACKED_BYTES_MAX: usize = 1024;

/// A pack takes no more than this part of the arena.
const ARENA_PART: u64 = 64;

/// What became of messages that were handed over together.
#[derive(Debug)]
pub struct Pushed<T> {
    /// The sequence number of the last one that was published.
    pub last: Option<u64>,
    /// The one that found no room, and why. All before it were published, none after it was looked at.
    pub refused: Option<(T, SendError)>,
}

impl Writer {
    /// Publishes payloads, without type and headers, until one finds no room. Small ones are packed. Readers that sleep
    /// are not woken before [`flush`](Self::flush).
    pub fn try_push_all<T: AsRef<[u8]>>(
        &mut self,
        meta: Meta,
        payloads: impl IntoIterator<Item = T>,
    ) -> Pushed<T> {
        let mut payloads = payloads.into_iter();
        let mut last = None;
        let mut next = payloads.next();
        // Late readers count on `depth` messages: a pack that is retired takes no more than an eighth of them away.
        let most = low((self.depth / 8).min(PACK_MESSAGES_MAX.into()));
        while let Some(payload) = next {
            if most > 1
                && payload.as_ref().len() <= PACKED_BYTES_MAX
                && let Some(room) = self.pack_bytes(payload.as_ref().len())
                && let Ok(block) = self.place(room)
            {
                let start = u64::from(block.start()) * UNIT_BYTES;
                let (mut used, mut messages, mut bytes) = (0, 0, 0);
                next = Some(payload);
                while let Some(payload) = &next {
                    let payload = payload.as_ref();
                    let end = used + packed_bytes(payload.len());
                    if end > room || messages == most || payload.len() > PACKED_BYTES_MAX {
                        break;
                    }
                    self.ring.pack_in(start + used, payload);
                    (used, messages, bytes) = (end, messages + 1, bytes + payload.len() as u64);
                    next = payloads.next();
                }
                let block = self.arena.trim(block, low(used.div_ceil(UNIT_BYTES)));
                let fields = Fields::packed(block.start(), low(used), messages);
                last = Some(self.publish_all(block, fields, meta, messages.into(), bytes));
                continue;
            }
            match self.try_push(meta, &[], payload.as_ref()) {
                Ok(seq) => last = Some(seq),
                Err(error) => return Pushed { last, refused: Some((payload, error)) },
            }
            next = payloads.next();
        }
        Pushed { last, refused: None }
    }

    /// Room for a pack that begins with a message of this length, if the arena is large enough for packs of it.
    fn pack_bytes(&self, payload: usize) -> Option<u64> {
        let room = (self.spec.arena_bytes / ARENA_PART).min(PACK_BYTES_MAX.into());
        (room >= 2 * packed_bytes(payload)).then_some(room)
    }
}

/// Bytes of a message within a pack: its length in a word, and its payload up to the next multiple of 8.
const fn packed_bytes(payload: usize) -> u64 {
    8 + (payload as u64).next_multiple_of(8)
}
