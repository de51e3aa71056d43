//! How large a ring is and what it carries: arguments, checked where they are made.

use crate::error::RingError;
use crate::layout::{ARENA_BYTES_MAX, DESCRIPTORS_MAX, PAGE_BYTES, UNIT_BYTES};
use crate::view::{Extent, Ring};
use std::os::fd::BorrowedFd;

/// Room that [`RingSpec::sized`] adds to each message for type and headers, in bytes.
pub const HEAD_ALLOWANCE_BYTES: u64 = 512;

/// Descriptors that [`RingSpec::sized`] takes at least: small messages between large ones need them too.
const SIZED_DESCRIPTORS_MIN: u32 = 16;

/// What a writer makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSpec {
    /// The stream's id, random, not 0.
    pub stream: u64,
    /// Which generation of it; the first is 0.
    pub generation: u32,
    /// Number of descriptors: a power of two from 2 to 2^20.
    pub descriptors: u32,
    /// Bytes for payloads: a multiple of 4096, up to 256 GiB.
    pub arena_bytes: u64,
    /// Position of the generation's first message: 0 in generation 0.
    pub first_position: u64,
    /// Sequence number of its first message.
    pub first_seq: u64,
}

impl RingSpec {
    /// A first generation with room for `messages` messages of up to `message_bytes` each, with 512 bytes of type
    /// and headers.
    ///
    /// # Errors
    /// [`RingError::Limit`] when that is more than an arena can hold, or no message at all.
    pub fn sized(stream: u64, message_bytes: u64, messages: u32) -> Result<Self, RingError> {
        let too_large =
            |value| RingError::Limit { what: "a ring's capacity in bytes", value, max: ARENA_BYTES_MAX };
        if messages == 0 || messages > DESCRIPTORS_MAX {
            return Err(RingError::Limit {
                what: "a ring's capacity in messages (0 is none)",
                value: messages.into(),
                max: DESCRIPTORS_MAX.into(),
            });
        }
        let block = message_bytes
            .checked_add(HEAD_ALLOWANCE_BYTES + UNIT_BYTES)
            .ok_or_else(|| too_large(message_bytes))?
            .next_multiple_of(UNIT_BYTES);
        // Small blocks are cut from chunks, whose ends are lost; half as much again covers that.
        let blocks = block.checked_mul(u64::from(messages)).ok_or_else(|| too_large(message_bytes))?;
        let slack = if block < 64 * 1024 { blocks / 2 } else { 0 };
        let arena_bytes =
            blocks.saturating_add(slack).saturating_add(PAGE_BYTES).next_multiple_of(PAGE_BYTES);
        if arena_bytes > ARENA_BYTES_MAX {
            return Err(too_large(arena_bytes));
        }
        let descriptors = messages.next_power_of_two().max(SIZED_DESCRIPTORS_MIN);
        Ok(Self { stream, generation: 0, descriptors, arena_bytes, first_position: 0, first_seq: 1 })
    }

    /// Size of the memory in bytes: header page, descriptors rounded up to pages, arena.
    ///
    /// # Errors
    /// When the sizes are outside their limits.
    pub fn memory_bytes(&self) -> Result<u64, RingError> {
        Extent::new(self.descriptors, self.arena_bytes).map(Extent::memory_bytes)
    }

    /// What the other side is told of it.
    #[must_use]
    pub const fn identity(&self) -> RingIdentity {
        RingIdentity {
            stream: self.stream,
            generation: self.generation,
            descriptors: self.descriptors,
            arena_bytes: self.arena_bytes,
        }
    }
}

/// Which generation of which stream a ring must be, and its size: what the socket said, checked against the
/// memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingIdentity {
    /// The stream.
    pub stream: u64,
    /// The generation.
    pub generation: u32,
    /// Number of descriptors.
    pub descriptors: u32,
    /// Bytes for payloads.
    pub arena_bytes: u64,
}

impl RingIdentity {
    /// Size of the memory in bytes.
    ///
    /// # Errors
    /// When the sizes are outside their limits.
    pub fn memory_bytes(&self) -> Result<u64, RingError> {
        Extent::new(self.descriptors, self.arena_bytes).map(Extent::memory_bytes)
    }
}

/// Checks that `memory` is a ring as `identity` says: a memfd on tmpfs with all seals, of exactly the right size,
/// without holes, with the right header. Blocks on file calls; keep it off an event loop.
///
/// # Errors
/// [`RingError::Claim`] with what is wrong.
pub fn verify_ring(memory: BorrowedFd<'_>, identity: &RingIdentity) -> Result<(), RingError> {
    Ring::open(memory, identity).map(drop)
}

/// Checks that `page` is a reader page with `slots` slots, as [`verify_ring`] does for rings.
///
/// # Errors
/// [`RingError::Claim`] with what is wrong.
pub fn verify_page(page: BorrowedFd<'_>, slots: u32) -> Result<(), RingError> {
    crate::view::Page::open(page, slots).map(drop)
}
