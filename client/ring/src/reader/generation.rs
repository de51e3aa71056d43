//! Growth as a reader sees it: a generation ends by naming the next, whose memory comes from elsewhere, before that or
//! after. The reader goes on where the old one ended, in the same slot, with the same numbers; samples keep
//! the generation they lie in mapped.

use super::{Next, Reader, Shared};
use crate::error::{RingError, claim};
use crate::layout::low;
use crate::protocol::{Ended, peek};
use crate::spec::RingIdentity;
use crate::view::Ring;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Most generations that are kept for a reader which is still in an earlier one.
const OFFERED_MAX: usize = 64;

/// What runs, with its number, when a generation that a reader has left is mapped no more.
type Tell = Arc<dyn Fn(u32) + Send + Sync>;

/// Tells that a generation is not mapped any more.
pub struct LetGo {
    tell: Tell,
    generation: u32,
}

impl LetGo {
    pub(super) fn tell(self) {
        (self.tell)(self.generation);
    }
}

impl std::fmt::Debug for LetGo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LetGo").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// A later generation of a stream, verified and mapped.
#[derive(Debug)]
pub struct Successor {
    ring: Ring,
    generation: u32,
}

impl Successor {
    /// Verifies and maps it. Blocks on file calls.
    ///
    /// # Errors
    /// [`RingError::Claim`] when the memory is not what it must be.
    pub fn open(memory: OwnedFd, identity: &RingIdentity) -> Result<Self, RingError> {
        Ok(Self { ring: Ring::open(memory.as_fd(), identity)?, generation: identity.generation })
    }

    /// Its number.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }
}

/// Where a reader is among the generations of its stream.
pub(super) struct Generations {
    current: u32,
    /// Memory that was given and not reached yet, in ascending order.
    offered: VecDeque<Successor>,
    /// The generation that carries on, once the current one has been read to its end.
    awaited: Option<u32>,
    /// No more memory will be given.
    last: bool,
    tell: Option<Tell>,
}

impl std::fmt::Debug for Generations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generations").field("current", &self.current).finish_non_exhaustive()
    }
}

impl Generations {
    pub(super) const fn new(current: u32) -> Self {
        Self { current, offered: VecDeque::new(), awaited: None, last: false, tell: None }
    }

    /// Whether everything was read that is to be had without more memory.
    pub(super) const fn awaits(&self) -> bool {
        self.awaited.is_some()
    }

    /// The first that was offered, if its number fits.
    fn take_offered(&mut self, fits: impl FnOnce(u32) -> bool) -> Option<Successor> {
        let first = self.offered.pop_front()?;
        if fits(first.generation) {
            return Some(first);
        }
        self.offered.push_front(first);
        None
    }

    fn let_go(&self, generation: u32) -> Option<LetGo> {
        self.tell.as_ref().map(|tell| LetGo { tell: Arc::clone(tell), generation })
    }
}

impl Reader {
    /// The generation that is being read.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generations.current
    }

    /// The generation that carries on behind all that was read, and that is not at hand.
    #[must_use]
    pub const fn awaited(&self) -> Option<u32> {
        self.generations.awaited
    }

    /// Runs `tell` with the number of each generation that this reader has left, once it and its samples hold nothing of
    /// it any more. For the last one [`on_release`](Self::on_release) says so.
    pub fn on_let_go(&mut self, tell: Arc<dyn Fn(u32) + Send + Sync>) {
        self.generations.tell = Some(tell);
    }

    /// Gives a later generation to go on with when the current one ends. One that comes twice, or late, is dropped.
    ///
    /// # Errors
    /// [`RingError::Limit`] when too many wait already.
    pub fn offer(&mut self, next: Successor) -> Result<(), RingError> {
        let known = self.generations.offered.back().map_or(self.generations.current, |last| last.generation);
        if next.generation <= known {
            return Ok(());
        }
        if self.generations.offered.len() == OFFERED_MAX {
            let (value, max) = (OFFERED_MAX as u64 + 1, OFFERED_MAX as u64);
            return Err(RingError::Limit { what: "the generations that wait for a reader", value, max });
        }
        self.generations.offered.push_back(next);
        Ok(())
    }

    /// No further generation will be given: when all that is at hand has been read, the stream has ended for this
    /// reader. What a generation carried that it was not given is not known to it.
    pub fn no_successor(&mut self) {
        self.generations.last = true;
    }

    /// Whether a reader that awaits a generation has it, or will not get it.
    pub(super) fn successor_settled(&self) -> bool {
        let awaited = self.generations.awaited;
        let has = |next: &Successor| awaited.is_some_and(|awaited| next.generation >= awaited);
        self.generations.last || self.generations.offered.back().is_some_and(has)
    }

    /// The current generation ended, all of it was read, and another one carries on. `None`: look again.
    pub(super) fn go_on(&mut self, ended: Ended) -> Result<Option<Next>, RingError> {
        let successor = peek(&self.shared.ring.header().end.successor);
        let fits = successor > self.generations.current.into() && successor <= u32::MAX.into();
        claim(fits, "the number of the next generation", successor, "above the one before, below 2^32")?;
        let wanted = low(successor);
        self.generations.awaited = Some(wanted);
        step!("succeed: end seen");
        // What was announced and then given up by its writer is passed over.
        while let Some(next) = self.generations.take_offered(|generation| generation < wanted) {
            if let Some(let_go) = self.generations.let_go(next.generation) {
                drop(next);
                let_go.tell();
            }
        }
        let Some(next) = self.generations.take_offered(|generation| generation == wanted) else {
            let ended = self.generations.last || !self.generations.offered.is_empty();
            return Ok(Some(if ended { Next::Ended { lost: 0 } } else { Next::Successor(wanted) }));
        };
        let header = next.ring.header();
        let (first, first_seq) = (peek(&header.first_position), peek(&header.first_seq));
        let where_ended = "where the one before ended";
        claim(first == ended.position, "the first position of a generation", first, where_ended)?;
        claim(
            first_seq == ended.next_seq,
            "the first sequence number of a generation",
            first_seq,
            where_ended,
        )?;
        claim(first == self.position, "the end of a generation", first, "what was published in it")?;
        let batch = super::cursor_batch(&next.ring);
        let shared = Shared::new(next.ring, Arc::clone(&self.shared.place), self.shared.slot.clone());
        let old = std::mem::replace(&mut self.shared, Arc::new(shared));
        if let Some(let_go) = self.generations.let_go(self.generations.current) {
            // Told when `old` and the last of its samples are gone.
            let _ = old.let_go.set(let_go);
        }
        step!("succeed: gone on");
        self.generations.current = wanted;
        self.generations.awaited = None;
        self.cursor_batch = batch;
        self.gave_up_at = None;
        Ok(None)
    }
}
