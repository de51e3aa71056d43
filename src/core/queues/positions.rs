//! Up to where a queue on disk has the rings that it is bound to, so that it goes on behind that after a restart.
//!
//! A position is written with the messages it stands for, or after them: what was not written is read again. The cursor that
//! the publisher sees follows what was written, so that its ring still has the rest when this broker is killed.

use super::ledger::Waiter;
use crate::core::broker::Core;
use crate::core::durable::{Change, QueueNumber};
use crate::core::subscription::Sink;
use crate::core::table::Key;
use crate::core::{Action, Now};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Streams of which a queue knows its position; of those that were not heard of for longest it is forgotten.
const POSITIONS_MAX: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Position {
    seq: u64,
    /// Up to where that is on disk.
    stored: u64,
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
        for (stream, seq) in found {
            positions.put(*stream, *seq, true);
            positions.is_stored(*stream, *seq);
        }
        positions
    }

    fn put(&mut self, stream: u64, seq: u64, is_old: bool) {
        self.turn += 1;
        let turn = self.turn;
        let position = self.streams.entry(stream).or_insert(Position { seq, stored: 0, is_old, turn });
        self.by_turn.remove(&position.turn);
        *position = Position { seq, is_old, turn, ..*position };
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

    /// A stream begins to be read behind this number: if nothing of it is known yet, what is missed from there on will
    /// be. It takes no other stream's place, since there may be very many that carry nothing. Whether it is new.
    fn begin(&mut self, stream: u64, seq: u64) -> bool {
        let is_new = !self.streams.contains_key(&stream) && self.streams.len() < POSITIONS_MAX;
        if is_new {
            self.put(stream, seq, false);
            self.changed.insert(stream);
        }
        is_new
    }

    /// A position is on disk.
    fn is_stored(&mut self, stream: u64, seq: u64) {
        if let Some(position) = self.streams.get_mut(&stream) {
            position.stored = position.stored.max(seq);
        }
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
    pub(in crate::core) fn is_new_to_queue(&mut self, key: Key, stream: u64, seq: u64, counted: u64) -> bool {
        let Some(queue) = self.queues.table.get_mut(key) else { return true };
        let Some(kept) = &mut queue.kept else { return true };
        let (is_new, lost) = kept.positions.read(stream, seq, counted);
        queue.counts.lose(lost);
        if is_new {
            // The position is to be written also if the message is refused: the ring waits for that.
            self.wants_attention(key);
        }
        is_new
    }

    /// A publisher has admitted the broker's reader: a queue on disk that knows nothing of that stream notes where it
    /// begins. Whether the publisher is to wait until that is on disk, so that whatever it publishes from then on will be
    /// missed.
    pub(in crate::core) fn queue_notes_beginning(&mut self, attach: u64, now: Now) -> bool {
        let Some(attachment) = self.attachments.get(&attach).filter(|each| each.proxy) else { return false };
        let (stream, before) = (attachment.stream, attachment.start_seq.saturating_sub(1));
        let sink = self.subscriptions.get(attachment.subscription).and_then(|it| it.sink);
        let Some(Sink::Queue(key)) = sink else { return false };
        let queues = &mut self.queues;
        let Some(kept) = queues.table.get_mut(key).and_then(|queue| queue.kept.as_mut()) else {
            return false;
        };
        if !kept.positions.begin(stream, before) {
            return false;
        }
        kept.positions.take_changes(kept.number, &mut kept.changes);
        queues.ledger.add(&mut kept.changes);
        let waits =
            queues.ledger.failure.is_none() && queues.ledger.wait(Waiter::Beginning { attach }).is_some();
        self.arm_store(now);
        waits
    }

    /// These changes are on disk: the cursors of rings may pass what the positions among them stand for.
    pub(super) fn positions_are_stored(&mut self, changes: &[Change]) {
        let mut by_number: Option<HashMap<QueueNumber, Key>> = None;
        for change in changes {
            let Change::Position { queue, stream, seq } = *change else { continue };
            let by_number = by_number.get_or_insert_with(|| {
                let kept = self.queues.table.iter();
                kept.filter_map(|(key, queue)| Some((queue.kept.as_ref()?.number, key))).collect()
            });
            let Some(key) = by_number.get(&queue).copied() else { continue };
            if let Some(kept) = self.queues.table.get_mut(key).and_then(|queue| queue.kept.as_mut()) {
                kept.positions.is_stored(stream, seq);
            }
            let Some(stream) = self.streams.by_id.get(&stream) else { continue };
            for attach in &stream.attachments {
                let reads = self.attachments.get(attach).filter(|each| each.proxy);
                let sink = reads.and_then(|each| self.subscriptions.get(each.subscription)?.sink);
                if sink.is_some_and(|sink| matches!(sink, Sink::Queue(to) if to == key)) {
                    self.actions.push_back(Action::ProxyStored { attach: *attach, seq });
                }
            }
        }
    }

    /// Up to where a queue on disk has a stream there, if the cursor is to follow that: not for a queue in memory, and not
    /// where the cursor would be dropped at the broker's death anyway, so that publishers need not wait for the disk.
    pub(in crate::core) fn stored_by_queue(&self, queue: Key, stream: u64) -> Option<u64> {
        if self.limits.cursor_grace_millis == 0 {
            return None;
        }
        let kept = self.queues.table.get(queue)?.kept.as_ref()?;
        Some(kept.positions.streams.get(&stream).map_or(0, |position| position.stored))
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
