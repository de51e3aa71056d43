//! A reader whose cursor follows what was made safe elsewhere, not what was read.
//!
//! A gated writer overwrites what a cursor has passed. For a reader that copies messages out and has them written to a
//! disk, what was read proves nothing: it dies with the reader's process. Such a reader holds its cursor back, and moves
//! it as it is told which messages are safe. It leaves the cursor there when it ends, too, so that a writer that waits for
//! it a little longer still has what the next one needs.

use super::Reader;
use std::collections::VecDeque;

/// Marks that are kept; what is read beyond them shares the last one, so that the cursor moves in larger steps.
const MARKS_MAX: usize = 4096;

/// Where a cursor is that is held back.
#[derive(Debug)]
pub(super) struct HeldBack {
    /// Messages up to this number are safe.
    safe: u64,
    /// The position below which all are, and the number of the last one there.
    position: u64,
    seq: u64,
    /// Read and not safe yet: the number of a descriptor's last message, and the position behind it, in ascending order.
    marks: VecDeque<(u64, u64)>,
}

impl HeldBack {
    /// A descriptor was read whose last message has number `seq`; `position` is the one behind it.
    pub(super) fn read(&mut self, seq: u64, position: u64) {
        if seq <= self.safe {
            (self.seq, self.position) = (seq, position);
            return;
        }
        if self.marks.len() == MARKS_MAX {
            self.marks.pop_back();
        }
        self.marks.push_back((seq, position));
    }

    fn is_safe(&mut self, seq: u64) {
        self.safe = self.safe.max(seq);
        while let Some((last, position)) = self.marks.front().copied().filter(|(last, _)| *last <= self.safe)
        {
            (self.seq, self.position) = (last, position);
            self.marks.pop_front();
        }
    }
}

impl Reader {
    /// Holds the cursor back from now on: it passes a message once that is safe, as [`is_safe`](Self::is_safe) says, and
    /// stays where it is when this reader is dropped. Messages up to number `safe` are already. Call it before the first
    /// message is read.
    pub fn hold_back(&mut self, safe: u64) {
        let (seq, position) = (self.last_seq, self.position);
        self.held_back = Some(Box::new(HeldBack { safe, position, seq, marks: VecDeque::new() }));
    }

    /// Messages up to number `seq` are safe: the writer may reuse their room. Nothing for a reader that does not hold its
    /// cursor back.
    pub fn is_safe(&mut self, seq: u64) {
        if let Some(held_back) = &mut self.held_back {
            held_back.is_safe(seq);
            self.publish_cursor();
        }
    }

    /// The position to publish as the cursor, and the number of the last message below it.
    #[inline]
    pub(super) fn cursor(&self) -> (u64, u64) {
        let read = || (self.position, self.last_seq + u64::from(self.packed()));
        self.held_back.as_ref().map_or_else(read, |held_back| (held_back.position, held_back.seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_bounded_and_never_let_the_cursor_run_ahead() {
        let mut held = HeldBack { safe: 3, position: 0, seq: 2, marks: VecDeque::new() };
        held.read(3, 1);
        assert_eq!(held.position, 1, "it was safe before it was read");
        let max = MARKS_MAX as u64;
        for seq in 4..4 + 2 * max {
            held.read(seq, seq - 2);
        }
        assert_eq!((held.marks.len(), held.position), (MARKS_MAX, 1));
        held.is_safe(5);
        assert_eq!((held.position, held.seq), (3, 5));
        held.is_safe(4);
        assert_eq!(held.position, 3, "what is safe stays so");
        // Those that share a mark are passed together, by the last of them.
        held.is_safe(3 + 2 * max - 1);
        assert_eq!(held.position, max);
        held.is_safe(3 + 2 * max);
        assert_eq!((held.position, held.marks.len()), (1 + 2 * max, 0));
    }
}
