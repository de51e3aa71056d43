//! Bytes that readers hold in place while the writer has no room.
//!
//! What is held is stepped around, so whoever holds a message is in nobody's way as long as there is other room. When there
//! is none, for as long as a gated reader may be in the way, whoever holds more than it may is *set aside*: the writer
//! forgets it as a reader and leaves its bytes alone until it lets go of them or the generation is left. What it holds
//! stays as it is. Whether there is other room then, or a new generation is wanted, is the caller's business.

use super::{ReaderState, Writer};
use crate::layout::UNIT_BYTES;
use crate::protocol;

/// A reader that was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetAside {
    /// The reader, by the id under which it was admitted.
    pub reader: u64,
    /// Bytes that it held in the writer's way.
    pub bytes: u64,
}

/// What the writer keeps about held bytes.
#[derive(Debug)]
pub(super) struct Holding {
    max: u64,
    /// Readers that are none any more, but hold bytes of this generation.
    pub(super) aside: Vec<ReaderState>,
    told: Vec<SetAside>,
}

impl Default for Holding {
    fn default() -> Self {
        Self { max: u64::MAX, aside: Vec::new(), told: Vec::new() }
    }
}

impl Writer {
    /// Sets how many bytes a reader may hold in the way of this writer; 0 for a quarter of the arena. Any number unless set.
    /// How long it may is [`GateBudget::reader`](super::GateBudget::reader).
    pub fn set_held_bytes_max(&mut self, bytes: u64) {
        self.holding.max = bytes;
    }

    /// Whether bytes of this generation are set aside, so that a new one would have more room.
    #[must_use]
    pub fn has_set_aside(&self) -> bool {
        !self.holding.aside.is_empty()
    }

    /// Whether there is something that [`take_set_aside`](Self::take_set_aside) has not returned.
    #[must_use]
    pub fn has_news_of_holders(&self) -> bool {
        !self.holding.told.is_empty()
    }

    /// Who was set aside since the last call.
    pub fn take_set_aside(&mut self) -> Vec<SetAside> {
        std::mem::take(&mut self.holding.told)
    }

    /// Bytes of retired messages that a reader holds.
    fn held_by(&self, reader: &ReaderState) -> u64 {
        let held = self.held.iter().filter(|item| protocol::pinned(reader.slot.get(), item.position));
        held.map(|item| u64::from(item.block.units()) * UNIT_BYTES).sum()
    }

    /// Who holds most, if that is more than it may.
    fn worst_holder(&self) -> Option<(usize, u64)> {
        if self.holding.max == u64::MAX || self.held.is_empty() {
            return None;
        }
        let max = if self.holding.max == 0 { self.spec.arena_bytes / 4 } else { self.holding.max };
        let holders = self.readers.iter().enumerate().map(|(at, reader)| (at, self.held_by(reader)));
        holders.filter(|(_, bytes)| *bytes > max).max_by_key(|(_, bytes)| *bytes)
    }

    /// When a reader is to be set aside, if nothing changes.
    pub(super) fn holder_due(&self, began: u64, budget: u64) -> Option<u64> {
        self.worst_holder().and_then(|_| began.checked_add(budget))
    }

    /// Sets the worst holder aside if the writer has been without room for as long as it may be. `true`: one was.
    pub(super) fn set_aside_holder(&mut self, since: u64, budget: u64) -> bool {
        if since < budget {
            return false;
        }
        let Some((at, bytes)) = self.worst_holder() else { return false };
        let reader = self.readers.swap_remove(at);
        self.holding.told.push(SetAside { reader: reader.id, bytes });
        self.holding.aside.push(reader);
        true
    }
}
