//! Looking at rings and reader pages from outside, for status and metrics. Counters live where the data path writes
//! them anyway, so watching costs it nothing. Everything seen is a claim of whoever wrote it.

use crate::error::RingError;
use crate::layout::PINS_PER_SLOT;
use crate::protocol::{ended, peek};
use crate::spec::RingIdentity;
use crate::view::{Page, Ring};
use std::os::fd::AsFd;

/// Looks at a generation's header.
#[derive(Debug)]
pub struct Observer {
    ring: Ring,
}

/// What a generation's header says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Position that the next message will have.
    pub head: u64,
    /// Position of the oldest message that is still to be had.
    pub oldest: u64,
    /// Messages published in this generation; several at one position where they are packed.
    pub messages: u64,
    /// Messages that are still to be had.
    pub kept: u64,
    /// Sequence number that the next message will have.
    pub next_seq: u64,
    /// Payload bytes published in this generation.
    pub bytes: u64,
    /// Sequence numbers consumed without a message.
    pub skipped: u64,
    /// How often the writer began to wait for room.
    pub waits: u64,
    /// Whether it has ended.
    pub closed: bool,
}

impl Observer {
    /// Verifies and maps a generation for reading. Blocks on file calls. The mapping takes address space, no memory.
    ///
    /// # Errors
    /// [`RingError::Claim`] when it is not what it must be.
    pub fn new(memory: impl AsFd, identity: &RingIdentity) -> Result<Self, RingError> {
        Ok(Self { ring: Ring::open(memory.as_fd(), identity)? })
    }

    /// The counters now; each is read once, not all at the same instant.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let header = self.ring.header();
        let head = peek(&header.counters.head);
        let (messages, skipped) = (peek(&header.counters.messages), peek(&header.counters.skipped));
        Counters {
            head,
            oldest: peek(&header.counters.oldest).min(head),
            messages,
            kept: peek(&header.counters.kept).min(messages),
            next_seq: peek(&header.first_seq).saturating_add(messages).saturating_add(skipped),
            bytes: peek(&header.counters.bytes),
            skipped,
            waits: peek(&header.counters.waits),
            closed: ended(header).is_some(),
        }
    }
}

/// Looks at the slots of a reader page.
#[derive(Debug)]
pub struct PageObserver {
    page: Page,
    first_slot: u32,
}

/// What a slot says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotCounters {
    /// Position up to which its reader has read, as last published by it.
    pub cursor: u64,
    /// Sequence number of the last message below it.
    pub seq: u64,
    /// Messages it lost.
    pub lost: u64,
    /// Messages it holds in place, 16 at most.
    pub pinned: u32,
    /// Whether it sleeps.
    pub asleep: bool,
}

impl PageObserver {
    /// Verifies and maps a page. Blocks on file calls.
    ///
    /// # Errors
    /// [`RingError::Claim`] when it is not what it must be.
    pub fn new(page: impl AsFd, first_slot: u32, slots: u32) -> Result<Self, RingError> {
        Ok(Self { page: Page::open(page, slots)?, first_slot })
    }

    /// A slot by its number within the link; `None` if another page has it.
    #[must_use]
    pub fn slot(&self, slot: u32) -> Option<SlotCounters> {
        let index = slot.checked_sub(self.first_slot).filter(|index| *index < self.page.slots())?;
        let slot = self.page.slot(index);
        let pinned = slot.pins.iter().filter(|pin| peek(pin) != 0).count();
        debug_assert!(pinned <= PINS_PER_SLOT);
        Some(SlotCounters {
            cursor: peek(&slot.cursor.position),
            seq: peek(&slot.cursor.seq),
            lost: peek(&slot.sleep.lost),
            pinned: u32::try_from(pinned).unwrap_or(u32::MAX),
            asleep: peek(&slot.sleep.epoch) % 2 == 1,
        })
    }
}
