//! Where the messages of one queue are kept: places of a fixed size in blocks, and lists that run through them.
//!
//! A place is a few dozen bytes and knows its neighbours by number, so that a waiting message costs its place and its
//! own bytes, and nothing for standing in a list. Blocks are never moved when there are more of them. Nothing here
//! knows what a state means.

use super::origins::OriginId;
use crate::core::strategy::Seat;
use std::sync::Arc;

/// Places in one block.
const BLOCK: usize = 512;

/// Milliseconds of thirty years fit into these.
const EXPIRES_BYTES: usize = 5;

/// No place.
pub(super) const NONE: u32 = u32::MAX;

/// The number of a place.
pub(super) type Slot = u32;

/// What a message is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The place is empty.
    Free,
    /// Being written to the store.
    Pending,
    /// In the lane of its priority.
    Ready,
    /// Was given out before, and is to be given out again, before those in its lane.
    Returned,
    /// Not before `at`.
    Delayed,
    /// Given to a consumer until `at`, which is the queue's usual time.
    Out,
    /// The same, with a time of its own.
    Extended,
}

/// A message in a queue.
#[derive(Debug)]
pub(super) struct Place {
    /// The message as it travels, shared between all queues that hold it.
    pub(super) bytes: Arc<[u8]>,
    /// Its number in the order of the queue, and in the store.
    pub(super) order: u64,
    /// When it is due, or has to be acknowledged; nanoseconds of the monotonic clock. One that is being written: when it is
    /// due, or 0.
    pub(super) at: u64,
    /// The lower half of its number at the consumer that has it.
    pub(super) tag: u32,
    /// When it came, in tenths of a second since the queue was made.
    pub(super) since: u32,
    pub(super) origin: OriginId,
    next: Slot,
    prev: Slot,
    /// Who has it.
    pub(super) seat: Seat,
    /// When it expires, in milliseconds since the queue was made, little-endian; 0 is never.
    expires: [u8; EXPIRES_BYTES],
    /// How often it was given out.
    pub(super) attempts: u8,
    pub(super) priority: u8,
    pub(super) state: State,
}

// A waiting message may cost 150 bytes besides its payload: this; two counts, a word of the allocator and what it rounds
// up; and 43 bytes in which the message says what it is.
const _: () = assert!(size_of::<Place>() + 16 + 8 + 15 + 43 <= 150);

impl Place {
    /// When it expires, in milliseconds since the queue was made; 0 is never.
    pub(super) fn expires(&self) -> u64 {
        let mut whole = [0; 8];
        whole[..EXPIRES_BYTES].copy_from_slice(&self.expires);
        u64::from_le_bytes(whole)
    }

    /// Has it expire then. What is too far away to be written down is as good as never.
    pub(super) fn set_expires(&mut self, millis: u64) {
        let millis = if millis >> (8 * EXPIRES_BYTES) == 0 { millis } else { 0 };
        self.expires.copy_from_slice(&millis.to_le_bytes()[..EXPIRES_BYTES]);
    }
}

/// A list through places.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    pub(super) head: Slot,
    tail: Slot,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NONE, tail: NONE }
    }
}

impl List {
    pub(super) fn is_empty(self) -> bool {
        self.head == NONE
    }
}

/// All places of one queue.
#[derive(Debug)]
pub(super) struct Slots {
    blocks: Vec<Vec<Place>>,
    free: List,
    used: usize,
    nothing: Arc<[u8]>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { blocks: Vec::new(), free: List::default(), used: 0, nothing: Arc::from([].as_slice()) }
    }
}

impl Slots {
    pub(super) fn get(&self, slot: Slot) -> &Place {
        &self.blocks[slot as usize / BLOCK][slot as usize % BLOCK]
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> &mut Place {
        &mut self.blocks[slot as usize / BLOCK][slot as usize % BLOCK]
    }

    /// How many are taken.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    pub(super) fn take(&mut self, bytes: Arc<[u8]>, origin: OriginId, priority: u8) -> Slot {
        self.used += 1;
        let place = Place {
            bytes,
            order: 0,
            at: 0,
            expires: [0; EXPIRES_BYTES],
            tag: 0,
            since: 0,
            origin,
            next: NONE,
            prev: NONE,
            seat: 0,
            attempts: 0,
            priority,
            state: State::Ready,
        };
        let slot = self.free.head;
        if slot != NONE {
            self.free.head = self.get(slot).next;
            *self.get_mut(slot) = place;
            return slot;
        }
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK) {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        let last = self.blocks.len() - 1;
        let block = &mut self.blocks[last];
        block.push(place);
        Slot::try_from(last * BLOCK + block.len() - 1).expect("messages are limited far below 2^32")
    }

    /// Frees a place; gives back what was in it. With the last one all memory is given back.
    pub(super) fn free(&mut self, slot: Slot) -> (Arc<[u8]>, OriginId) {
        self.used -= 1;
        let (head, nothing) = (self.free.head, self.nothing.clone());
        let place = self.get_mut(slot);
        let bytes = std::mem::replace(&mut place.bytes, nothing);
        let origin = place.origin;
        place.state = State::Free;
        place.next = head;
        self.free.head = slot;
        if self.used == 0 && self.blocks.len() > 1 {
            self.blocks.clear();
            self.free = List::default();
        }
        (bytes, origin)
    }

    pub(super) fn push_back(&mut self, list: &mut List, slot: Slot) {
        let tail = list.tail;
        let place = self.get_mut(slot);
        place.prev = tail;
        place.next = NONE;
        if tail == NONE {
            list.head = slot;
        } else {
            self.get_mut(tail).next = slot;
        }
        list.tail = slot;
    }

    pub(super) fn unlink(&mut self, list: &mut List, slot: Slot) {
        let Place { next, prev, .. } = *self.get(slot);
        if prev == NONE {
            list.head = next;
        } else {
            self.get_mut(prev).next = next;
        }
        if next == NONE {
            list.tail = prev;
        } else {
            self.get_mut(next).prev = prev;
        }
    }

    /// The places of a list, first to last.
    pub(super) fn iter(&self, list: List) -> impl Iterator<Item = Slot> {
        let mut next = list.head;
        std::iter::from_fn(move || {
            let slot = (next != NONE).then_some(next)?;
            next = self.get(slot).next;
            Some(slot)
        })
    }

    /// Puts a whole list behind another.
    pub(super) fn append(&mut self, list: &mut List, other: List) {
        if other.is_empty() {
            return;
        }
        if list.is_empty() {
            *list = other;
            return;
        }
        self.get_mut(list.tail).next = other.head;
        self.get_mut(other.head).prev = list.tail;
        list.tail = other.tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_their_order_and_places_are_used_again() {
        let mut slots = Slots::default();
        let bytes: Arc<[u8]> = Arc::from([1, 2].as_slice());
        let all: Vec<Slot> = (0..1500).map(|_| slots.take(bytes.clone(), OriginId(0), 4)).collect();
        let mut list = List::default();
        all.iter().for_each(|slot| slots.push_back(&mut list, *slot));
        for slot in all.iter().filter(|slot| *slot % 3 == 0) {
            slots.unlink(&mut list, *slot);
            slots.free(*slot);
        }
        let left: Vec<Slot> = all.iter().copied().filter(|slot| slot % 3 != 0).collect();
        assert_eq!(slots.iter(list).collect::<Vec<_>>(), left);
        let again = slots.take(bytes.clone(), OriginId(0), 4);
        assert_eq!(again % 3, 0);
        let mut other = List::default();
        slots.push_back(&mut other, again);
        slots.append(&mut other, list);
        assert_eq!(slots.iter(other).count(), 1001);
        assert_eq!(slots.used(), 1001);
        let rest: Vec<Slot> = slots.iter(other).collect();
        rest.into_iter().for_each(|slot| drop(slots.free(slot)));
        assert!(slots.blocks.is_empty());
        assert_eq!(Arc::strong_count(&bytes), 1);
    }
}
