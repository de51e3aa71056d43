//! What the shared memory looks like, byte by byte. `docs/ring.md` says the same in prose.
//!
//! ```text
//! generation   header, 4096 B │ N descriptors of 64 B, rounded up to a page │ arena
//! reader page  header,  256 B │ slots of 256 B
//! ```
//!
//! Everything is little-endian and made of 64-bit words, read and written atomically: a peer may change
//! its memory at any time, and what is loaded from it is a claim until it has been bounded. This file
//! only describes; it neither maps nor decides.

use crate::sync::AtomicU64;

/// First word of a generation: "TRAMRING".
pub(crate) const RING_MAGIC: u64 = u64::from_le_bytes(*b"TRAMRING");

/// First word of a reader page: "TRAMPAGE".
pub(crate) const PAGE_MAGIC: u64 = u64::from_le_bytes(*b"TRAMPAGE");

/// Version of both layouts.
pub(crate) const LAYOUT_VERSION: u64 = 2;

/// Size of a generation's header, and what sizes are rounded up to.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// Size of a descriptor.
pub(crate) const DESCRIPTOR_BYTES: u64 = 64;

/// Size of a reader slot, and of a reader page's header.
pub(crate) const SLOT_BYTES: u64 = 256;

/// Payloads begin at multiples of this; the arena is handed out in units of it.
pub(crate) const UNIT_BYTES: u64 = 64;

/// Samples that one reader of one stream holds in place at a time; beyond it, payloads are copied.
pub const PINS_PER_SLOT: usize = if cfg!(loom) { 2 } else { 16 };

/// Payloads up to this size without type and headers stand in the descriptor itself.
pub(crate) const INLINE_BYTES_MAX: usize = 20;

/// Most messages of a pack.
pub(crate) const PACK_MESSAGES_MAX: u32 = 64;

/// Most bytes of a pack: it is copied out as a whole, into memory that stays in the nearest cache.
pub(crate) const PACK_BYTES_MAX: u32 = 8192;

/// Positions stay below this, so that stamps (twice a position) never wrap.
pub(crate) const POSITION_MAX: u64 = 1 << 62;

/// Fewest and most descriptors of a generation; a power of two.
pub(crate) const DESCRIPTORS_MIN: u32 = 2;
/// See [`DESCRIPTORS_MIN`].
pub(crate) const DESCRIPTORS_MAX: u32 = 1 << 20;

/// Largest arena: units are counted in 32 bits, and one is kept apart as a mark.
pub(crate) const ARENA_BYTES_MAX: u64 = (u32::MAX as u64 - 1) / (PAGE_BYTES / UNIT_BYTES) * PAGE_BYTES;

/// Most slots of one reader page.
pub(crate) const PAGE_SLOTS_MAX: u32 = 4095;

/// The stream takes messages.
pub(crate) const STATE_OPEN: u64 = 0;
/// No more messages will come.
pub(crate) const STATE_CLOSED: u64 = 1;
/// The next generation carries on where this one ends.
pub(crate) const STATE_SUCCEEDED: u64 = 2;

/// A generation's first page. Written by the writer only.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Header {
    /// Line 0: set before the memory is sealed, constant from then on.
    pub(crate) magic: AtomicU64,
    pub(crate) version: AtomicU64,
    pub(crate) stream: AtomicU64,
    pub(crate) generation: AtomicU64,
    pub(crate) descriptors: AtomicU64,
    pub(crate) arena_bytes: AtomicU64,
    pub(crate) first_position: AtomicU64,
    pub(crate) first_seq: AtomicU64,
    /// Line 1: counters, for readers that were overtaken and for whoever watches.
    pub(crate) counters: Counted,
    /// Line 2: the writer's wish to be rung.
    pub(crate) wait: Wait,
    /// Line 3: whether it goes on.
    pub(crate) end: End,
}

/// The writer's counters. None of them guards memory.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Counted {
    /// Position that the next message will have.
    pub(crate) head: AtomicU64,
    /// Position of the oldest message that is still to be had.
    pub(crate) oldest: AtomicU64,
    /// Payload bytes published.
    pub(crate) bytes: AtomicU64,
    /// Sequence numbers consumed without a message.
    pub(crate) skipped: AtomicU64,
    /// How often the writer began to wait for room.
    pub(crate) waits: AtomicU64,
    /// Messages published; more than positions where messages are packed.
    pub(crate) messages: AtomicU64,
    /// Messages that are still to be had.
    pub(crate) kept: AtomicU64,
}

/// How a waiting writer asks readers to ring.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Wait {
    /// Odd while the writer waits; a new number each time it looks again.
    pub(crate) epoch: AtomicU64,
    /// A reader whose cursor reaches this rings.
    pub(crate) wanted: AtomicU64,
}

/// How a generation ends.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct End {
    /// `STATE_…`.
    pub(crate) state: AtomicU64,
    /// Position after the last message, once the state is not open.
    pub(crate) position: AtomicU64,
    /// Sequence number that the next message would have had.
    pub(crate) next_seq: AtomicU64,
    /// The generation that carries on.
    pub(crate) successor: AtomicU64,
}

/// One entry of the descriptor ring. Written by the writer only.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Descriptor {
    /// `2 × (position + 1)` while the message is to be had, one more once it is not; 0 at first.
    pub(crate) stamp: AtomicU64,
    /// See [`Fields`].
    pub(crate) words: [AtomicU64; 7],
}

/// The seven words of a descriptor after its stamp, unpacked only where they are looked at.
///
/// ```text
/// 0 seq │ 1 time │ 2 source time │ 3 offset in units (32), length (32)
/// 4 head length (15), inline (1), flags (16), inline bytes 0..4 or number of packed messages │ 5, 6 inline bytes 4..20
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Fields(pub(crate) [u64; 7]);

const INLINE_BIT: u64 = 1 << 15;

impl Fields {
    /// A message whose payload stands in the arena, `offset` units from its start, with `head_length` bytes of type and
    /// headers behind it at the next multiple of 8.
    pub(crate) const fn placed(offset: u32, length: u32, head_length: u16) -> Self {
        debug_assert!((head_length as u64) < INLINE_BIT, "header blocks are bounded well below 32 KiB");
        Self([0, 0, 0, offset as u64 | (length as u64) << 32, head_length as u64, 0, 0])
    }

    /// Several messages with consecutive sequence numbers, packed into `length` bytes.
    pub(crate) const fn packed(offset: u32, length: u32, messages: u32) -> Self {
        Self([0, 0, 0, offset as u64 | (length as u64) << 32, (messages as u64) << 32, 0, 0])
    }

    /// A message whose payload, at most [`INLINE_BYTES_MAX`] bytes, stands in the descriptor.
    pub(crate) fn inline(payload: &[u8]) -> Self {
        let mut tail = [0; 24];
        tail[4..4 + payload.len()].copy_from_slice(payload);
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| tail[at * 8 + i]));
        Self([0, 0, 0, (payload.len() as u64) << 32, INLINE_BIT | word(0), word(1), word(2)])
    }

    /// These fields with what the message says about itself.
    pub(crate) const fn of(mut self, seq: u64, time: u64, source_time: i64, flags: u16) -> Self {
        self.0[0] = seq;
        self.0[1] = time;
        self.0[2] = source_time.cast_unsigned();
        self.0[4] |= (flags as u64) << 16;
        self
    }

    pub(crate) const fn seq(&self) -> u64 {
        self.0[0]
    }

    pub(crate) const fn time(&self) -> u64 {
        self.0[1]
    }

    pub(crate) const fn source_time(&self) -> i64 {
        self.0[2].cast_signed()
    }

    /// Start of the payload in the arena, in units.
    pub(crate) const fn offset(&self) -> u32 {
        low(self.0[3])
    }

    /// Length of the payload in bytes.
    pub(crate) const fn length(&self) -> u32 {
        low(self.0[3] >> 32)
    }

    /// Length of type and headers.
    pub(crate) const fn head_length(&self) -> u16 {
        short(self.0[4] & !INLINE_BIT)
    }

    /// Whether the payload stands in the descriptor instead of the arena.
    pub(crate) const fn is_inline(&self) -> bool {
        self.0[4] & INLINE_BIT != 0
    }

    /// How many messages are packed; 0 where it is one that is not.
    pub(crate) const fn packed_messages(&self) -> u32 {
        if self.is_inline() { 0 } else { low(self.0[4] >> 32) }
    }

    /// The message's flags, which mean nothing to the ring.
    pub(crate) const fn flags(&self) -> u16 {
        short(self.0[4] >> 16)
    }

    pub(crate) fn inline_bytes(&self) -> [u8; INLINE_BYTES_MAX] {
        let mut bytes = [0; INLINE_BYTES_MAX];
        bytes[..4].copy_from_slice(&self.0[4].to_le_bytes()[4..]);
        bytes[4..12].copy_from_slice(&self.0[5].to_le_bytes());
        bytes[12..].copy_from_slice(&self.0[6].to_le_bytes());
        bytes
    }
}

/// The low 32 bits.
#[allow(clippy::cast_possible_truncation, reason = "cutting off is the meaning")]
pub(crate) const fn low(word: u64) -> u32 {
    word as u32
}

/// The low 16 bits.
#[allow(clippy::cast_possible_truncation, reason = "cutting off is the meaning")]
const fn short(word: u64) -> u16 {
    word as u16
}

/// First 256 bytes of a reader page. Written by the reader only.
#[repr(C, align(256))]
#[derive(Debug)]
pub(crate) struct PageHeader {
    pub(crate) magic: AtomicU64,
    pub(crate) version: AtomicU64,
    pub(crate) slots: AtomicU64,
}

/// What one reader says about one stream. Written by the reader only.
#[repr(C, align(256))]
#[derive(Debug)]
pub(crate) struct Slot {
    /// Line 0: positions below this are done with, but for pins.
    pub(crate) cursor: Cursor,
    /// From line 0 on: position + 1 of each message it holds in place, 0 for none. Who holds few at a time tells all by
    /// the one line that the writer looks at anyway.
    pub(crate) pins: [AtomicU64; PINS_PER_SLOT],
    /// Line 3: whether it sleeps, and what it lost. Written now and then only: the writer looks at it for each message.
    pub(crate) sleep: Sleep,
}

impl Slot {
    /// Asks for what a writer reads of it.
    #[inline]
    pub(crate) fn look_ahead(&self) {
        crate::ahead::to_read(&raw const self.sleep);
    }
}

/// How far a reader has come.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) position: AtomicU64,
    /// Sequence number of the last message below it, for whoever watches.
    pub(crate) seq: AtomicU64,
}

/// Whether a reader sleeps.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Sleep {
    /// Odd while it sleeps or is about to; a new number each time.
    pub(crate) epoch: AtomicU64,
    /// Messages it lost, for whoever watches.
    pub(crate) lost: AtomicU64,
    /// How many of its pins, from the first on, it has ever used: the writer need not look at the others.
    pub(crate) pins_used: AtomicU64,
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Header>() == 256 && align_of::<Header>() == 64);
    assert!(
        offset_of!(Header, counters) == 64
            && offset_of!(Header, wait) == 128
            && offset_of!(Header, end) == 192
    );
    assert!(size_of::<Descriptor>() as u64 == DESCRIPTOR_BYTES && align_of::<Descriptor>() == 64);
    assert!(size_of::<Slot>() as u64 == SLOT_BYTES && size_of::<PageHeader>() as u64 == SLOT_BYTES);
    assert!(offset_of!(Slot, pins) == 16 && offset_of!(Slot, sleep) == 192);
    assert!(cfg!(target_endian = "little"), "the ring's layout is little-endian");
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_survive_the_words() {
        let placed = Fields::placed(u32::MAX, 77, 0x7fff).of(u64::MAX, 1, -1, 0xffff);
        let seen = (placed.seq(), placed.time(), placed.source_time(), placed.flags());
        assert_eq!(seen, (u64::MAX, 1, -1, 0xffff));
        assert_eq!((placed.offset(), placed.length(), placed.head_length()), (u32::MAX, 77, 0x7fff));
        assert!(!placed.is_inline() && placed.packed_messages() == 0);

        let packed = Fields::packed(7, 4096, 64).of(9, 1, -1, 0xffff);
        assert_eq!((packed.offset(), packed.length(), packed.head_length()), (7, 4096, 0));
        assert_eq!((packed.packed_messages(), packed.seq(), packed.flags()), (64, 9, 0xffff));

        let bytes: [u8; INLINE_BYTES_MAX] = std::array::from_fn(|i| u8::try_from(i * 11 % 256).unwrap());
        for length in 0..=INLINE_BYTES_MAX {
            let inline = Fields::inline(&bytes[..length]).of(5, 6, 7, 0xffff);
            assert!(inline.is_inline() && inline.head_length() == 0 && inline.flags() == 0xffff);
            assert_eq!(inline.packed_messages(), 0);
            assert_eq!(&inline.inline_bytes()[..inline.length() as usize], &bytes[..length]);
        }
    }
}
