//! How long gated readers may hold the writer up, and what becomes of those who do for longer.
//!
//! Waiting for a reader is a favour, and a favour has a measure. The time in which a reader is in the way counts for it,
//! and once that reaches its budget within one window the writer waits for it no longer: it is *evicted* to lossy.
//! It reads on by the same protocol, loses what it does not reach in time, and knows exactly how much. After a
//! cool-down, and once it has read something, it is gated again from where it is then.
//!
//! In the way are the gated readers furthest behind; they are charged for the same time, not one after another.
//! When one is evicted, those go with it that had something to read and stood still for as long. All together
//! have a budget as well. The clock is the writer's own: the caller says the time. Nothing here is shared with
//! another process, and what readers claim (cursors) decides only about themselves.

use super::{ReadMode, ReaderState, Writer};
use crate::protocol;

/// Parts of a budget by which a writer that waits may be late with a look before it is believed to have been
/// stopped itself.
const LATE_PART: u64 = 4;

/// How long a writer that is held up looks at nothing, in nanoseconds, however large the budget is: a reader that goes on and
/// stops again before it has made as much room as it is to ring for tells nobody.
const LOOK_MAX: u64 = 1_000_000_000;

/// How long gated readers may hold a writer up. All times in nanoseconds of the caller's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateBudget {
    /// One reader, within one window.
    pub reader: u64,
    /// All readers of a writer together, within one window.
    pub writer: u64,
    /// A window begins with the first time that a reader is in the way, and lasts this long.
    pub window: u64,
    /// How long an evicted reader is lossy at least.
    pub cooldown: u64,
}

impl GateBudget {
    /// Readers may hold the writer up for ever.
    pub const UNLIMITED: Self =
        Self { reader: u64::MAX, writer: u64::MAX, window: u64::MAX, cooldown: u64::MAX };
}

/// The writer began or ceased to wait for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeChange {
    /// The reader, by the id under which it was admitted.
    pub reader: u64,
    /// How it reads from now on.
    pub mode: ReadMode,
    /// For how long it was in the way within this window, in nanoseconds; 0 when it is gated again.
    pub blocked: u64,
}

/// Time in the way, within one window.
#[derive(Debug, Clone, Copy, Default)]
struct Account {
    from: u64,
    spent: u64,
}

impl Account {
    /// Adds the time from `since` to `now`.
    fn charge(&mut self, since: u64, now: u64, window: u64) {
        if self.spent == 0 || since.saturating_sub(self.from) >= window {
            *self = Self { from: since, spent: 0 };
        }
        self.spent += now.saturating_sub(since);
    }
}

/// What the writer keeps about one reader's gate.
#[derive(Debug, Default)]
pub(super) struct Gate {
    account: Account,
    /// Whether it was in the way at the last look.
    blocks: bool,
    /// Where it stood when the writer began to be held up.
    stood_at: u64,
    evicted: Option<Evicted>,
}

#[derive(Debug, Clone, Copy)]
struct Evicted {
    until: u64,
    /// Its cursor then; one that has not moved since is not waited for again.
    cursor: u64,
}

/// A time in which there was no room.
#[derive(Debug, Clone, Copy)]
struct Stall {
    began: u64,
    /// Up to here it has been charged.
    since: u64,
    /// When the next look is due at the latest, if somebody is in the way who may be evicted then.
    due: Option<u64>,
    /// Whether the writer waits, so that it looks when it is rung and when it is due.
    waits: bool,
}

/// What the writer keeps about all gates.
#[derive(Debug)]
pub(super) struct Gates {
    budget: GateBudget,
    all: Account,
    stall: Option<Stall>,
    /// When to look whether an evicted reader may be gated again; `u64::MAX` without any.
    regate_at: u64,
    changes: Vec<ModeChange>,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            budget: GateBudget::UNLIMITED,
            all: Account::default(),
            stall: None,
            regate_at: u64::MAX,
            changes: Vec::new(),
        }
    }
}

impl Writer {
    /// Whether this reader is waited for now; `None` if there is none of that id.
    #[must_use]
    pub fn mode_of(&self, id: u64) -> Option<ReadMode> {
        self.readers.iter().find(|reader| reader.id == id).map(|reader| reader.mode)
    }

    /// Sets how long gated readers may hold this writer up; for ever unless set.
    pub fn set_gate_budget(&mut self, budget: GateBudget) {
        self.gates.budget = budget;
    }

    /// To be called when there was no room at `now`, by a caller that `waits` for it or reports that it is full. `true`:
    /// a reader was evicted, there may be room now; try again.
    pub fn found_full(&mut self, now: u64, waits: bool) -> bool {
        let budget = self.gates.budget;
        let stall = self.gates.stall.unwrap_or_else(|| {
            for reader in &mut self.readers {
                reader.gate.stood_at = reader.cursor;
            }
            Stall { began: now, since: now, due: None, waits }
        });
        let since = stall.charged_from(now, budget.reader);
        let (oldest, head) = (self.oldest, self.head);
        let mut least = u64::MAX;
        for reader in &mut self.readers {
            reader.gate.blocks = reader.is_in_the_way(oldest, head);
            if reader.gate.blocks {
                reader.gate.account.charge(since, now, budget.window);
                least = least.min(budget.reader.saturating_sub(reader.gate.account.spent));
            }
        }
        let blocked = self.is_blocked();
        if blocked {
            self.gates.all.charge(since, now, budget.window);
        }
        let all_spent = blocked && self.gates.all.spent >= budget.writer;
        if all_spent || least == 0 {
            self.evict(now, stall.began, all_spent);
            self.gates.stall = Some(Stall { since: now, due: Some(now), waits, ..stall });
            return true;
        }
        if !blocked && self.set_aside_holder(now.saturating_sub(stall.began), budget.reader) {
            self.gates.stall = Some(Stall { since: now, due: Some(now), waits, ..stall });
            return true;
        }
        let left = least.min(budget.writer.saturating_sub(self.gates.all.spent));
        let due = if blocked {
            now.checked_add(left.min(LOOK_MAX))
        } else {
            self.holder_due(stall.began, budget.reader)
        };
        self.gates.stall = Some(Stall { since: now, due, waits, ..stall });
        false
    }

    /// While there is no room and nobody tries: looks where the readers are, as a try would. `true`: there may be room, since a
    /// reader was evicted, or none is in the way any more; try again.
    pub fn look_at_gates(&mut self, now: u64) -> bool {
        let Some(stall) = self.gates.stall.filter(|stall| stall.due.is_some_and(|due| due <= now)) else {
            return false;
        };
        let was_blocked = self.is_blocked();
        self.look_at_cursors();
        let evicted = self.found_full(now, stall.waits);
        evicted || (was_blocked && !self.is_blocked())
    }

    /// Whether a reader was in the way at the last look.
    fn is_blocked(&self) -> bool {
        self.readers.iter().any(|reader| reader.gate.blocks)
    }

    /// Evicts those whose budget, or the common one, is spent, and those that stood still meanwhile.
    fn evict(&mut self, now: u64, began: u64, all_spent: bool) {
        let budget = self.gates.budget;
        let head = self.head;
        let long = now.saturating_sub(began) >= budget.reader;
        for reader in &mut self.readers {
            let gate = &reader.gate;
            let spent = gate.blocks && (all_spent || gate.account.spent >= budget.reader);
            let stands = long && reader.cursor < head && reader.cursor == gate.stood_at;
            if reader.mode != ReadMode::Gated || !(spent || stands) {
                continue;
            }
            let until = now.saturating_add(budget.cooldown);
            reader.mode = ReadMode::Lossy;
            // Those that only stood still were not charged: it is the same time.
            let blocked = gate.account.spent.max(if spent { 0 } else { now.saturating_sub(began) });
            self.gates.changes.push(ModeChange { reader: reader.id, mode: ReadMode::Lossy, blocked });
            *reader.gate =
                Gate { evicted: Some(Evicted { until, cursor: reader.cursor }), ..Gate::default() };
            self.gates.regate_at = self.gates.regate_at.min(until);
        }
    }

    /// To be called when there was room at `now`, if [`is_stalled`](Self::is_stalled).
    pub fn found_room(&mut self, now: u64) {
        let Some(stall) = self.gates.stall.take() else { return };
        let budget = self.gates.budget;
        // Who does not wait does not know since when there has been room: at the last look there was none.
        let since = if stall.waits { stall.charged_from(now, budget.reader) } else { now };
        let mut blocked = false;
        for reader in &mut self.readers {
            if std::mem::take(&mut reader.gate.blocks) {
                blocked = true;
                reader.gate.account.charge(since, now, budget.window);
            }
        }
        if blocked {
            self.gates.all.charge(since, now, budget.window);
        }
    }

    /// Whether [`found_full`](Self::found_full) was called after the last message.
    #[must_use]
    pub const fn is_stalled(&self) -> bool {
        self.gates.stall.is_some()
    }

    /// While there is no room: when to look again at the latest, since a reader's budget is spent then, or to see whether it
    /// went on.
    #[must_use]
    pub fn look_again_at(&self) -> Option<u64> {
        self.gates.stall.and_then(|stall| stall.due)
    }

    /// When [`regate`](Self::regate) is to be called; `u64::MAX` for never. Costs a load.
    #[must_use]
    pub const fn regate_at(&self) -> u64 {
        self.gates.regate_at
    }

    /// Waits again for evicted readers whose cool-down is over and who have read something since.
    pub fn regate(&mut self, now: u64) {
        let mut next = u64::MAX;
        let (oldest, head) = (self.oldest, self.head);
        let patience = self.gates.budget.cooldown / LATE_PART;
        for reader in &mut self.readers {
            let Some(evicted) = reader.gate.evicted else { continue };
            if now < evicted.until {
                next = next.min(evicted.until);
                continue;
            }
            let cursor = protocol::cursor(reader.slot.get()).min(head);
            if cursor <= evicted.cursor {
                next = next.min(now.saturating_add(patience.max(1)));
                continue;
            }
            // What was retired meanwhile it has lost.
            reader.cursor = cursor.max(reader.cursor).max(oldest);
            reader.mode = ReadMode::Gated;
            *reader.gate = Gate::default();
            self.gates.changes.push(ModeChange { reader: reader.id, mode: ReadMode::Gated, blocked: 0 });
        }
        self.gates.regate_at = next;
    }

    /// Whether there are changes that [`take_mode_changes`](Self::take_mode_changes) has not returned.
    #[must_use]
    pub fn has_mode_changes(&self) -> bool {
        !self.gates.changes.is_empty()
    }

    /// Who was evicted or is waited for again since the last call, in order.
    pub fn take_mode_changes(&mut self) -> Vec<ModeChange> {
        std::mem::take(&mut self.gates.changes)
    }
}

impl Stall {
    /// From when on the time up to `now` counts. A writer that waits is rung when there is room and looks when it is
    /// due: if it comes much later it was stopped itself, and nobody is charged for that.
    fn charged_from(&self, now: u64, budget: u64) -> u64 {
        let late = self.due.is_some_and(|due| now > due.saturating_add(budget / LATE_PART));
        if self.waits && late { now } else { self.since }
    }
}

impl ReaderState {
    fn is_in_the_way(&self, oldest: u64, head: u64) -> bool {
        self.mode == ReadMode::Gated && self.cursor <= oldest && self.cursor < head
    }

    /// It is waited for no more, now and later.
    pub(super) fn give_up(&mut self) {
        self.mode = ReadMode::Lossy;
        *self.gate = Gate::default();
    }
}
