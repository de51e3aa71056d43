//! What one consumer has and has not settled: its messages by tag, where tags count up from 1.
//!
//! Most tags are settled soon and nearly in order, so recent ones stand in a row; one that is held for long while many
//! others come and go moves out of the row, so that the row is never much longer than what is outstanding.

use super::slots::Slot;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How much longer the row may be than what is outstanding.
const ROW_EXTRA_MAX: usize = 1024;

/// What a tag means to its consumer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// The consumer has this message.
    Has(Slot),
    /// It had it, until the time was over.
    Late,
    /// It has settled it before.
    Settled,
    /// It was never given a message with this tag.
    Unknown,
}

/// The unsettled messages of one consumer.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// The tag that stands first in `row`.
    base: u64,
    row: VecDeque<Option<Slot>>,
    strays: BTreeMap<u64, Slot>,
    late: BTreeSet<u64>,
    count: usize,
}

impl Default for Outstanding {
    fn default() -> Self {
        Self { base: 1, row: VecDeque::new(), strays: BTreeMap::new(), late: BTreeSet::new(), count: 0 }
    }
}

impl Outstanding {
    /// How many the consumer has.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Messages whose time was over and that the consumer has not settled since.
    pub(super) fn late(&self) -> usize {
        self.late.len()
    }

    /// The tag of the next message.
    pub(super) fn next_tag(&self) -> u64 {
        self.base + self.row.len() as u64
    }

    /// The half of a tag that is written down with its message.
    pub(super) fn half(tag: u64) -> u32 {
        let [a, b, c, d, ..] = tag.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// The tag of which this is the half; it was given away lately, and not more than 2³² others since.
    pub(super) fn whole(&self, half: u32) -> u64 {
        let next = self.next_tag();
        next - u64::from(Self::half(next).wrapping_sub(half))
    }

    pub(super) fn add(&mut self, slot: Slot) -> u64 {
        let tag = self.next_tag();
        self.row.push_back(Some(slot));
        self.count += 1;
        while self.row.len() > self.count + ROW_EXTRA_MAX {
            if let Some(Some(stray)) = self.row.pop_front() {
                self.strays.insert(self.base, stray);
            }
            self.base += 1;
        }
        tag
    }

    pub(super) fn look(&self, tag: u64) -> Tag {
        if tag == 0 || tag >= self.next_tag() {
            return Tag::Unknown;
        }
        let slot = match tag.checked_sub(self.base).and_then(|place| usize::try_from(place).ok()) {
            Some(place) => self.row.get(place).copied().flatten(),
            None => self.strays.get(&tag).copied(),
        };
        match slot {
            Some(slot) => Tag::Has(slot),
            None if self.late.contains(&tag) => Tag::Late,
            None => Tag::Settled,
        }
    }

    /// The consumer does not have this one any more.
    pub(super) fn remove(&mut self, tag: u64) {
        let removed = match tag.checked_sub(self.base).and_then(|place| usize::try_from(place).ok()) {
            Some(place) => self.row.get_mut(place).and_then(Option::take),
            None => self.strays.remove(&tag),
        };
        self.count -= usize::from(removed.is_some());
        while let Some(None) = self.row.front() {
            self.row.pop_front();
            self.base += 1;
        }
    }

    /// Takes a message away whose time is over.
    pub(super) fn remove_late(&mut self, tag: u64) {
        self.remove(tag);
        self.late.insert(tag);
    }

    /// The consumer has settled one that was late.
    pub(super) fn forget_late(&mut self, tag: u64) {
        self.late.remove(&tag);
    }

    /// All that it has, by tag.
    pub(super) fn all(&self) -> Vec<Slot> {
        self.strays.values().copied().chain(self.row.iter().copied().flatten()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_says_whether_it_is_held_late_settled_or_nobodys() {
        let mut has = Outstanding::default();
        assert_eq!(has.look(0), Tag::Unknown);
        assert_eq!((has.add(7), has.add(8), has.add(9)), (1, 2, 3));
        assert_eq!((has.look(2), has.look(4)), (Tag::Has(8), Tag::Unknown));
        has.remove(1);
        has.remove_late(2);
        assert_eq!((has.look(1), has.look(2), has.look(3)), (Tag::Settled, Tag::Late, Tag::Has(9)));
        has.forget_late(2);
        assert_eq!((has.look(2), has.late(), has.len()), (Tag::Settled, 0, 1));
        has.base = (1 << 40) + 2;
        let tag = has.add(1);
        assert_eq!(has.whole(Outstanding::half(tag)), tag);
        assert_eq!(has.whole(Outstanding::half(tag - 5)), tag - 5, "across the end of a half");
    }

    #[test]
    fn one_that_is_held_for_long_does_not_make_the_row_long() {
        let mut has = Outstanding::default();
        has.add(5);
        for _ in 0..10_000 {
            let tag = has.add(6);
            has.remove(tag);
        }
        assert!(has.row.len() <= 2 + ROW_EXTRA_MAX);
        assert_eq!((has.look(1), has.all()), (Tag::Has(5), vec![5]));
        has.remove(1);
        assert_eq!((has.look(1), has.len()), (Tag::Settled, 0));
    }
}
