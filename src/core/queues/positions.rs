//! Up to where a queue on disk has the rings that it is bound to, so that it goes on behind that after a restart.
//!
//! A position is written with the messages it stands for, or after them: what was not written is read again.

use crate::core::broker::Core;
use crate::core::durable::{Change, QueueNumber};
use crate::core::table::Key;
use std::collections::{BTreeMap, BTreeSet};

/// Streams of which a queue knows its position; of those that were not heard of for longest it is forgotten.
const POSITIONS_MAX: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Position {
    seq: u64,
    /// Whether it is from before the broker's start, and nothing was read since.
    is_old: bool,
    /// When it was noted last, in the order of all.
    turn: u64,
}

/// The positions of one queue.
#[derive(Debug, Default)]
pub(super) struct Positions {
    streams: BTreeMap<u64, Position>,
    by_turn: BTreeMap<u64, u64>,
    changed: BTreeSet<u64>,
    turn: u64,
}

impl Positions {
    pub(super) fn new(found: &[(u64, u64)]) -> Self {
        let mut positions = Self::default();
        found.iter().for_each(|(stream, seq)| positions.put(*stream, *seq, true));
        positions
    }

    fn put(&mut self, stream: u64, seq: u64, is_old: bool) {
        self.turn += 1;
        let turn = self.turn;
        if let Some(before) = self.streams.insert(stream, Position { seq, is_old, turn }) {
            self.by_turn.remove(&before.turn);
        }
        self.by_turn.insert(turn, stream);
    }

    /// A message was read. Whether the queue has it not; and how many before it are lost that nobody has counted.
    fn read(&mut self, stream: u64, seq: u64, counted: u64) -> (bool, u64) {
        let before = self.streams.get(&stream).copied();
        if before.is_some_and(|before| seq <= before.seq) {
            return (false, 0);
        }
        let missed = before.filter(|before| before.is_old).map_or(0, |before| seq - before.seq - 1);
        self.put(stream, seq, false);
        self.changed.insert(stream);
        (true, missed.saturating_sub(counted))
    }

    /// What is to be written.
    pub(super) fn take_changes(&mut self, queue: QueueNumber, changes: &mut Vec<Change>) {
        for stream in std::mem::take(&mut self.changed) {
            if let Some(Position { seq, .. }) = self.streams.get(&stream).copied() {
                changes.push(Change::Position { queue, stream, seq });
            }
        }
        while self.streams.len() > POSITIONS_MAX {
            let Some((_, stream)) = self.by_turn.pop_first() else { return };
            self.streams.remove(&stream);
            changes.push(Change::ForgetPosition { queue, stream });
        }
    }
}

impl Core {
    /// A message of a ring is about to be put into a queue. `false`: it is in it already.
    pub(in crate::core) fn is_new_to_queue(
        &mut self,
        queue: Key,
        stream: u64,
        seq: u64,
        counted: u64,
    ) -> bool {
        let Some(queue) = self.queues.table.get_mut(queue) else { return true };
        let Some(kept) = &mut queue.kept else { return true };
        let (is_new, lost) = kept.positions.read(stream, seq, counted);
        queue.counts.lost += lost;
        is_new
    }

    /// Whether a queue knows up to where it has a stream, so that it wants all of it that is still there.
    pub(in crate::core) fn queue_goes_on_in(&self, queue: Key, stream: u64) -> bool {
        let kept = self.queues.table.get(queue).and_then(|queue| queue.kept.as_ref());
        kept.is_some_and(|kept| kept.positions.streams.contains_key(&stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_goes_on_behind_what_it_has_and_counts_what_it_missed_once() {
        let mut positions = Positions::new(&[(7, 10)]);
        assert_eq!(positions.read(7, 10, 0), (false, 0));
        assert_eq!(positions.read(7, 14, 1), (true, 2));
        assert_eq!(positions.read(7, 20, 5), (true, 0), "what a ring loses is counted where it is read");
        assert_eq!(
            positions.read(8, 3, 0),
            (true, 0),
            "what was published before a queue was there is not missed"
        );
        let mut changes = Vec::new();
        positions.take_changes(1, &mut changes);
        let position = |stream, seq| Change::Position { queue: 1, stream, seq };
        assert_eq!(changes, [position(7, 20), position(8, 3)]);
        for stream in 0..POSITIONS_MAX as u64 {
            positions.read(100 + stream, 1, 0);
        }
        changes.clear();
        positions.take_changes(1, &mut changes);
        let forgotten =
            changes.iter().filter(|change| matches!(change, Change::ForgetPosition { .. })).count();
        assert_eq!((positions.streams.len(), forgotten), (POSITIONS_MAX, 2));
        assert!(!positions.streams.contains_key(&7) && positions.by_turn.len() == POSITIONS_MAX);
    }
}
