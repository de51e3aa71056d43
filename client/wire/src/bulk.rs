//! How the writer of a bulk ring keeps account of its bytes: which places are taken, and where the next payload goes.
//!
//! Numbers only; the memory is elsewhere. Places are given in turn around the ring and may come free in any order.

use crate::limits::BULK_UNIT_BYTES;
use std::collections::BTreeMap;

/// Which bytes of a bulk ring are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BulkRoom {
    bytes: u64,
    /// Lengths, by where they begin.
    taken: BTreeMap<u64, u64>,
    /// Where the last one given ends.
    next: u64,
}

impl BulkRoom {
    /// A ring of so many bytes, all free.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self { bytes, taken: BTreeMap::new(), next: 0 }
    }

    /// What a payload takes.
    #[must_use]
    pub fn needed(length: u64) -> u64 {
        length.max(1).next_multiple_of(BULK_UNIT_BYTES)
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether nothing is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Where a payload of this length would go now.
    #[must_use]
    pub fn find(&self, length: u64) -> Option<u64> {
        let needed = Self::needed(length);
        let behind = self.gap(self.next, needed);
        behind.or_else(|| self.gap(0, needed))
    }

    /// The first gap of `needed` bytes from `from` on, or from where what lies there ends.
    fn gap(&self, from: u64, needed: u64) -> Option<u64> {
        let before = self.taken.range(..from).next_back().map_or(0, |(at, length)| at + length);
        let mut at = from.max(before);
        for (taken, length) in self.taken.range(from..) {
            if taken.checked_sub(at)? >= needed {
                return Some(at);
            }
            at = taken + length;
        }
        (self.bytes.checked_sub(at)? >= needed).then_some(at)
    }

    /// Takes the place that [`find`](Self::find) named.
    pub fn take(&mut self, offset: u64, length: u64) {
        let needed = Self::needed(length);
        self.taken.insert(offset, needed);
        self.next = offset + needed;
    }

    /// A place is free again. Whether it was taken.
    pub fn free(&mut self, offset: u64) -> bool {
        let was_taken = self.taken.remove(&offset).is_some();
        if self.taken.is_empty() {
            // What is used again soon is still in the caches.
            self.next = 0;
        }
        was_taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take(room: &mut BulkRoom, length: u64) -> Option<u64> {
        let offset = room.find(length)?;
        room.take(offset, length);
        Some(offset)
    }

    #[test]
    fn places_go_around_and_come_free_in_any_order() {
        let mut room = BulkRoom::new(256);
        assert_eq!([take(&mut room, 1), take(&mut room, 65)], [Some(0), Some(64)]);
        assert_eq!([take(&mut room, 64), take(&mut room, 1)], [Some(192), None]);
        assert!(room.free(64) && !room.free(64) && !room.free(63));
        assert_eq!(room.find(129), None);
        assert_eq!(take(&mut room, 128), Some(64));
        assert!(room.free(0) && room.free(192) && room.free(64) && room.is_empty());
        assert_eq!(take(&mut room, 256), Some(0));
        assert_eq!(BulkRoom::default().find(1), None);
    }

    proptest! {
        #[test]
        fn no_two_places_overlap_and_none_reaches_over_the_end(
            steps in proptest::collection::vec((any::<bool>(), 0_u64..700, any::<prop::sample::Index>()), 1..200)
        ) {
            let mut room = BulkRoom::new(4096);
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (takes, length, which) in steps {
                if takes || held.is_empty() {
                    let needed = BulkRoom::needed(length);
                    match take(&mut room, length) {
                        Some(at) => {
                            prop_assert!(at % 64 == 0 && at + needed <= 4096);
                            let apart = |(other, taken): &(u64, u64)| at + needed <= *other || other + taken <= at;
                            prop_assert!(held.iter().all(apart));
                            held.push((at, needed));
                        }
                        None => prop_assert!(!held.is_empty()),
                    }
                } else {
                    let (at, _) = held.swap_remove(which.index(held.len()));
                    prop_assert!(room.free(at));
                }
            }
            prop_assert_eq!(room.is_empty(), held.is_empty());
        }
    }
}
