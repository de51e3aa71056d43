//! Packs as a reader sees them: copied as a whole, confirmed once, and handed over message by message.
//!
//! Once a pack has been copied it belongs to this process, and the cursor may pass it although its messages have not been
//! handed over yet. What it says about their lengths is a claim and bounded at every step.

use super::{Body, Reader, Received, SEQ_MAX};
use crate::error::{RingError, claim};
use crate::layout::{Fields, PACK_BYTES_MAX, PACK_MESSAGES_MAX, UNIT_BYTES};
use crate::protocol;
use crate::writer::Meta;

/// A pack that was read.
#[derive(Default)]
pub(super) struct Pack {
    words: Vec<[u8; 8]>,
    /// Where the next message begins.
    at: usize,
    /// Messages that were not handed over yet.
    left: u32,
    meta: Meta,
    /// Lost before the next message.
    lost: u64,
}

impl std::fmt::Debug for Pack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pack").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Pack {
    #[inline]
    pub(super) const fn left(&self) -> u32 {
        self.left
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.left == 0
    }
}

/// A message of a pack.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    /// Its sequence number.
    pub seq: u64,
    /// Messages lost just before it.
    pub lost: u64,
    /// What it says about itself.
    pub meta: Meta,
    /// Its payload. Such a message has no type and headers.
    pub payload: &'a [u8],
}

impl Packed<'_> {
    /// As a message like others, its bytes copied to `scratch`.
    pub(super) fn into_received(self, scratch: &mut Vec<u8>) -> Received {
        scratch.extend_from_slice(self.payload);
        let length = self.payload.len();
        let body = Body::Copied { payload: 0..length, head: length..length };
        Received { seq: self.seq, lost: self.lost, meta: self.meta, body }
    }
}

impl Reader {
    /// How many messages [`next_packed`](Self::next_packed) has at hand.
    #[must_use]
    pub const fn packed(&self) -> u32 {
        self.pack.left
    }

    /// The next message of a pack of which [`try_next`](Self::try_next) has brought the first. The cheapest way to read
    /// small messages: it touches no shared memory.
    ///
    /// # Errors
    /// [`RingError::Claim`] when the pack is not what it must be.
    #[inline]
    pub fn next_packed(&mut self) -> Result<Option<Packed<'_>>, RingError> {
        let pack = &mut self.pack;
        if pack.left == 0 {
            return Ok(None);
        }
        let rest = &pack.words[pack.at..];
        let (length, words) = rest
            .split_first()
            .map_or((u64::MAX, rest), |(length, words)| (u64::from_le_bytes(*length), words));
        let bytes = words.as_flattened();
        let Some(payload) = usize::try_from(length).ok().and_then(|length| bytes.get(..length)) else {
            return Err(broken(length));
        };
        pack.at += 1 + payload.len().div_ceil(8);
        pack.left -= 1;
        self.last_seq += 1;
        let lost = std::mem::take(&mut pack.lost);
        Ok(Some(Packed { seq: self.last_seq, lost, meta: pack.meta, payload }))
    }

    /// Reads the pack that `fields` describe. `false`: it was overtaken meanwhile.
    pub(super) fn take_pack(&mut self, fields: &Fields) -> Result<bool, RingError> {
        let ring = &self.shared.ring;
        let descriptor = ring.descriptor(self.position);
        // Bounds first, as for any copy; then whether they were a tear.
        if let Err(error) = bound(fields).and_then(|()| self.bound(fields)) {
            return if protocol::still(descriptor, self.position) { Err(error) } else { Ok(false) };
        }
        let offset = u64::from(fields.offset()) * UNIT_BYTES;
        ring.words_out(offset, fields.length() as usize / 8, &mut self.pack.words);
        if !protocol::still(descriptor, self.position) {
            return Ok(false);
        }
        let messages = fields.packed_messages();
        let (first, last) = (fields.seq(), fields.seq().saturating_add(u64::from(messages) - 1));
        claim(
            first > 0 && last > self.last_seq && last < SEQ_MAX,
            "the last sequence number of a pack",
            last,
            "above the one before, below 2^62, and the first is not 0",
        )?;
        let lost = first.saturating_sub(self.last_seq + 1);
        self.last_seq += lost;
        self.count_lost(lost);
        let meta = Meta { flags: fields.flags(), time: fields.time(), source_time: fields.source_time() };
        (self.pack.at, self.pack.left, self.pack.meta, self.pack.lost) = (0, messages, meta, lost);
        // A reader that begins within a pack knows its first messages, or did not ask for them.
        let known = self.last_seq + 1 - first;
        for _ in 0..known {
            self.last_seq -= 1;
            self.next_packed()?;
        }
        self.position += 1;
        self.count_read(self.pack.left.into(), false);
        Ok(true)
    }
}

impl Pack {
    /// Gives its memory back; while its reader sleeps it needs none.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() {
            self.words = Vec::new();
        }
    }
}

fn bound(fields: &Fields) -> Result<(), RingError> {
    let messages = fields.packed_messages();
    claim(messages <= PACK_MESSAGES_MAX, "the number of messages of a pack", messages.into(), "at most 64")?;
    let length = fields.length();
    let fits = length <= PACK_BYTES_MAX && length.is_multiple_of(8) && fields.head_length() == 0;
    claim(fits, "the length of a pack", length.into(), "whole words, at most 8192 bytes, no headers")
}

#[cold]
fn broken(length: u64) -> RingError {
    RingError::Claim { what: "the length of a message in a pack", value: length, rule: "within the pack" }
}
