//! Growth: the stream goes on in another generation, where the current one ends.
//!
//! Readers, slots, doorbells, positions and sequence numbers carry over. Nothing is retired in the generation that was
//! left, so whoever is still in it reads it to its end, and what is held there stays by itself: the writer keeps no
//! account of its bytes any more. Positions in the new one begin above all of it, so old pins and cursors mean nothing
//! there, except that a gated reader that is still in an earlier one holds up the new one as it would have
//! held up the old.

use super::{Arena, Block, Writer};
use crate::error::{RingError, claim};
use crate::layout::{Header, STATE_SUCCEEDED, UNIT_BYTES};
use crate::protocol::{self, note};
use crate::spec::RingSpec;
use crate::view::Ring;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A generation that was left.
#[derive(Debug)]
pub(super) struct Former {
    ring: Arc<Ring>,
    generation: u32,
    /// Position where the next one began.
    end: u64,
}

/// Memory for a generation to come. It may be given to readers before the stream goes on in it.
#[derive(Debug)]
pub struct Generation {
    pub(super) ring: Ring,
    pub(super) memory: OwnedFd,
    pub(super) spec: RingSpec,
    pub(super) depth: u32,
}

impl Generation {
    /// Makes the memory; see [`Writer::create`]. Where it begins is set when the stream goes on in it.
    ///
    /// # Errors
    /// As [`Writer::create`].
    pub fn create(spec: &RingSpec, depth: u32) -> Result<Self, RingError> {
        claim(spec.stream != 0, "a stream's id", spec.stream, "not 0")?;
        let (memory, ring) = Ring::create(spec)?;
        Ok(Self { ring, memory, spec: *spec, depth: depth.clamp(1, spec.descriptors) })
    }

    /// The sealed memory, to be sent to the broker.
    #[must_use]
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// What was made.
    #[must_use]
    pub const fn spec(&self) -> &RingSpec {
        &self.spec
    }
}

impl Writer {
    /// The stream goes on in `next` from here on. Readers that sleep are woken; each needs the memory to go on. Loans
    /// that are out keep their room.
    ///
    /// # Errors
    /// [`RingError::Claim`] when `next` is another stream's or not a later generation, or this one has ended;
    /// [`RingError::Limit`] when the loans that are out do not fit, which cannot be in one that is not smaller. The stream then
    /// goes on where it is.
    pub fn succeed(&mut self, next: Generation) -> Result<(), RingError> {
        let Generation { ring, memory, mut spec, depth } = next;
        claim(spec.stream == self.spec.stream, "the stream of a generation", spec.stream, "as before")?;
        let later = spec.generation > self.spec.generation;
        claim(later, "the number of a generation", spec.generation.into(), "above the one before")?;
        claim(!self.closed, "the end of a stream", self.head, "no generation follows it")?;
        let units = u32::try_from(spec.arena_bytes / UNIT_BYTES).expect("the extent was checked");
        let mut arena = Arena::new(units);
        let kept: Option<Vec<Block>> = self.loans.iter().map(|loan| loan.reserve(&mut arena)).collect();
        let Some(kept) = kept.filter(|kept| (kept.len() as u64) < spec.descriptors.into()) else {
            let units: u64 = self.loans.iter().map(|loan| u64::from(loan.block.units())).sum();
            return Err(RingError::Limit {
                what: "the bytes of the loans that are out, which a new generation must have room for",
                value: units * UNIT_BYTES,
                max: spec.arena_bytes,
            });
        };
        for (loan, block) in self.loans.iter_mut().zip(kept) {
            loan.block = block;
        }
        (spec.first_position, spec.first_seq) = (self.head, self.next_seq);
        let header = ring.header();
        note(&header.first_position, self.head);
        note(&header.first_seq, self.next_seq);
        note(&header.counters.head, self.head);
        note(&header.counters.oldest, self.head);
        // What a header counts, it counts from its generation's beginning on; what was skipped says what the readers of a
        // dead writer lost.
        (self.bytes, self.messages, self.skipped, self.waits) = (0, 0, 0, 0);
        step!("grow: begun");
        let old = std::mem::replace(&mut self.ring, Arc::new(ring));
        let generation = self.spec.generation;
        note(&old.header().end.successor, spec.generation.into());
        step!("grow: successor named");
        // Everything above is seen by whoever sees this (P7).
        protocol::finish(old.header(), STATE_SUCCEEDED, self.head, self.next_seq);
        step!("grow: old one ended");
        self.formers.push(Former { ring: old, generation, end: self.head });
        self.memory = memory;
        self.spec = spec;
        self.depth = depth.into();
        self.arena = arena;
        self.entries.clear();
        self.kept = 0;
        self.held.clear();
        // What is set aside lies in the generation that was left.
        self.holding.aside.clear();
        self.oldest = self.head;
        if !self.wait_epoch.is_multiple_of(2) {
            self.begin_wait();
        }
        self.unflushed = true;
        self.flush();
        Ok(())
    }

    /// How many messages are kept for late and lossy readers.
    #[must_use]
    pub fn depth(&self) -> u32 {
        u32::try_from(self.depth).unwrap_or(u32::MAX)
    }

    /// How many earlier generations are still mapped here.
    #[must_use]
    pub fn former_generations(&self) -> usize {
        self.formers.len()
    }

    /// Unmaps those earlier generations that no gated reader can be in and no loan lies in; returns their numbers.
    pub fn leave_formers(&mut self) -> Vec<u32> {
        if self.formers.is_empty() {
            return Vec::new();
        }
        self.look_at_cursors();
        // Beyond the end, not at it: whoever stands there may not have the next memory, and looks at the wait words here.
        let behind = self.gate();
        let done = |former: &mut Former| former.end < behind && Arc::strong_count(&former.ring) == 1;
        self.formers.extract_if(.., done).map(|former| former.generation).collect()
    }

    /// The headers at which readers may look whether the writer waits.
    pub(super) fn headers(&self) -> impl Iterator<Item = &Header> {
        self.formers.iter().map(|former| former.ring.header()).chain(std::iter::once(self.ring.header()))
    }
}
