//! The model's clock: who held the writer up for too long is lossy for a while, and nobody holds it up for ever.

use super::World;
use tramline_ring::{GateBudget, ReadMode, SendError};

/// Times are small, so that windows begin and cool-downs end in the midst of everything.
pub(crate) const BUDGET: GateBudget = GateBudget { reader: 100, writer: 150, window: 200, cooldown: 60 };

/// Parts of a reader's budget in which one that waits looks again.
const LOOK: u64 = BUDGET.reader / 8;

/// Looks after which every budget is spent, whatever was charged before, for each of four readers and of them all.
const LOOKS_MAX: u32 = 100;

impl World {
    /// Before a message: who may be waited for again is.
    pub(crate) fn before(&mut self) {
        if self.now >= self.writer.regate_at() {
            self.writer.regate(self.now);
            self.take_changes();
        }
    }

    /// There was room.
    pub(crate) fn room(&mut self) {
        if self.writer.is_stalled() {
            self.writer.found_room(self.now);
        }
    }

    /// There was none. `true`: somebody is waited for no longer.
    pub(crate) fn full(&mut self) -> bool {
        let evicted = self.writer.found_full(self.now, false);
        let told = self.take_changes();
        assert_eq!(evicted, told > 0, "who is waited for no longer is told");
        evicted
    }

    fn take_changes(&mut self) -> usize {
        let changes = self.writer.take_mode_changes();
        let next_seq = self.writer.next_seq();
        for change in &changes {
            let follower = self.followers.iter_mut().find(|each| each.id == change.reader).unwrap();
            assert!(follower.gated && follower.mode != change.mode, "{change:?} of {:?}", follower.mode);
            follower.mode = change.mode;
            match change.mode {
                // For what it took itself, or because all together have taken what they may: then perhaps nothing.
                ReadMode::Lossy => {
                    let least = u64::from(self.now < BUDGET.writer);
                    assert!((least..=self.now).contains(&change.blocked), "{change:?} at {}", self.now);
                }
                // What comes from here on is kept for it again.
                ReadMode::Gated => follower.kept_from = next_seq,
            }
        }
        changes.len()
    }

    /// Sends as one that waits would. Where nothing is held or lent, only readers can be in the way, and those for their
    /// budgets at most.
    pub(crate) fn insist(&mut self, length: usize) {
        if !(self.samples.is_empty() && self.loans.is_empty()) {
            return;
        }
        for _ in 0..LOOKS_MAX {
            self.before();
            match self.send(length, 0) {
                Err(SendError::Full { .. }) => self.now += LOOK,
                _ => return,
            }
        }
        panic!("held up for longer than every budget");
    }
}
