//! What waits to be written to the store, in groups, and who waits for it.
//!
//! One batch is being written at most. What comes in meanwhile, from whomever and for whatever queue, shares the next one.
//! Batches have a size, and all that waits has a limit: beyond it producers are not read on, and queues give nothing out
//! that would have to be written down. What nobody waits for (acknowledgements) waits a little for company.
//!
//! When a batch could not be written, everything that somebody waits for is refused; what already happened (settled,
//! given back, given up) stays here to be written when there is room again, or is let go when that will never be known.

use super::MILLI;
use super::slots::Slot;
use crate::core::durable::{Change, QueueNumber, StoreFailure, StoredQueue};
use crate::core::snapshot::StoreCounts;
use crate::core::table::Key;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// How long what nobody waits for waits for company.
const LINGER: u64 = 20 * MILLI;

/// After how long a full disk is tried again.
const RETRY: u64 = 1000 * MILLI;

/// What a change is counted for besides the bytes of its message.
const CHANGE_OVERHEAD_BYTES: u64 = 128;

/// A message that is to be stored before it counts.
#[derive(Debug)]
pub(super) struct Pushing {
    pub(super) queue: Key,
    pub(super) slot: Slot,
    pub(super) put: Change,
    /// The id that it is known by.
    pub(super) seen: Option<Change>,
    /// Whether somebody pushed it just now, so that it can be refused; others are in the store already, elsewhere.
    pub(super) is_new: bool,
}

/// Who is told when a batch is stored.
#[derive(Debug)]
pub(in crate::core) enum Waiter {
    /// A native session: pushes to the queue of this alias, one behind the other.
    Pushes { session: Key, alias: u32, first: u64, last: u64 },
    /// A JSON session: one push or declaration, and the id of its line.
    Line { session: Key, op: &'static str, id: Option<Box<str>>, queue: Arc<str> },
    /// A session that declared a queue.
    Declared { session: Key, req: u32 },
    /// A publisher whose ring a queue begins to read by this attachment.
    Beginning { attach: u64 },
    /// A leg of a route, to this queue.
    Leg { leg: Key, queue: Arc<str> },
}

/// Changes that are written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) rest: Vec<Change>,
    pub(super) pushes: Vec<Pushing>,
    pub(super) waiters: Vec<Waiter>,
    bytes: u64,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty() && self.pushes.is_empty()
    }

    /// Whether somebody waits for it.
    fn is_urgent(&self) -> bool {
        !(self.waiters.is_empty() && self.pushes.is_empty())
    }

    fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.rest.len() + 2 * self.pushes.len());
        changes.extend_from_slice(&self.rest);
        for push in &self.pushes {
            changes.push(push.put.clone());
            changes.extend(push.seen.clone());
        }
        changes
    }
}

fn bytes_of(change: &Change) -> u64 {
    CHANGE_OVERHEAD_BYTES
        + match change {
            Change::Put { record, .. } => record.bytes.len() as u64,
            Change::Queue { settings, .. } => settings.len() as u64,
            Change::Seen { id, .. } => id.len() as u64,
            _ => 0,
        }
}

/// The core's side of the store.
#[derive(Debug)]
pub(in crate::core) struct Ledger {
    open: VecDeque<Batch>,
    flight: Option<(u64, Batch)>,
    last_batch: u64,
    last_load: u64,
    /// Loads that are under way.
    pub(super) loads: HashMap<u64, Key>,
    /// What waits or is being written is counted for.
    bytes: u64,
    batch_bytes_max: u64,
    waiting_bytes_max: u64,
    /// Why nothing is stored.
    pub(super) failure: Option<StoreFailure>,
    /// Whether the next batch may go although nobody waits for it, or the last one failed.
    go: bool,
    pub(super) timer_at: Option<u64>,
    /// Sessions that are not read on until less waits.
    pub(super) held: Vec<Key>,
    /// Whether queues give nothing out until less waits.
    pub(super) clogged: bool,
    last_queue: QueueNumber,
    /// What was found at the start and belongs to no queue yet; or to none in this run, once all is restored.
    pub(super) found: BTreeMap<Arc<str>, StoredQueue>,
    pub(super) is_restored: bool,
    pub(in crate::core) counts: StoreCounts,
}

impl Ledger {
    pub(super) fn new(batch_bytes_max: u64, waiting_bytes_max: u64) -> Self {
        Self {
            open: VecDeque::new(),
            flight: None,
            last_batch: 0,
            last_load: 0,
            loads: HashMap::new(),
            bytes: 0,
            batch_bytes_max,
            waiting_bytes_max,
            failure: None,
            go: false,
            timer_at: None,
            held: Vec::new(),
            clogged: false,
            last_queue: 0,
            found: BTreeMap::new(),
            is_restored: false,
            counts: StoreCounts::default(),
        }
    }

    /// What waits for the store, in bytes.
    pub(in crate::core) fn waiting_bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether so much waits that nothing is to be added which can be held up.
    pub(in crate::core) fn is_behind(&self) -> bool {
        self.bytes >= self.waiting_bytes_max
    }

    /// Whether nothing can be added that would be refused, or held up, now.
    pub(in crate::core) fn is_stuck(&self) -> bool {
        self.failure.is_some() || self.is_behind()
    }

    /// Whether those who were held up may go on.
    pub(super) fn has_caught_up(&self) -> bool {
        self.bytes <= self.waiting_bytes_max / 2
    }

    /// Whether nothing waits and nothing is under way.
    pub(in crate::core) fn is_idle(&self) -> bool {
        self.flight.is_none() && self.open.is_empty()
    }

    /// Whether what is written from now on is known to be lost.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| !failure.full)
    }

    pub(super) fn next_queue(&mut self) -> QueueNumber {
        self.last_queue += 1;
        self.last_queue
    }

    pub(super) fn knows_queue(&mut self, number: QueueNumber) {
        self.last_queue = self.last_queue.max(number);
    }

    pub(super) fn next_load(&mut self, queue: Key) -> u64 {
        self.last_load += 1;
        self.loads.insert(self.last_load, queue);
        self.last_load
    }

    /// The batch that is added to.
    fn back(&mut self) -> &mut Batch {
        if self.open.back().is_none_or(|batch| batch.bytes >= self.batch_bytes_max) {
            self.open.push_back(Batch::default());
        }
        self.open.back_mut().expect("there is one now")
    }

    pub(super) fn push(&mut self, push: Pushing) {
        self.add_all(vec![push], &mut Vec::new());
    }

    /// Changes that nobody waits for. They stay together.
    pub(super) fn add(&mut self, changes: &mut Vec<Change>) {
        self.add_all(Vec::new(), changes);
    }

    /// What moves, and the changes by which it is no more where it was: never the one without the other.
    pub(super) fn add_all(&mut self, mut pushes: Vec<Pushing>, changes: &mut Vec<Change>) {
        if self.has_failed() {
            return changes.clear();
        }
        if pushes.is_empty() && changes.is_empty() {
            return;
        }
        let of = |push: &Pushing| bytes_of(&push.put) + push.seen.as_ref().map_or(0, bytes_of);
        let bytes = changes.iter().map(bytes_of).sum::<u64>() + pushes.iter().map(of).sum::<u64>();
        let back = self.back();
        back.rest.append(changes);
        back.pushes.append(&mut pushes);
        back.bytes += bytes;
        self.bytes += bytes;
    }

    /// Somebody waits for what was added last. `None`: there is nothing to wait for; otherwise whether that is one more answer.
    pub(super) fn wait(&mut self, waiter: Waiter) -> Option<bool> {
        if self.is_idle() {
            return None;
        }
        // Not `back`: what was added last may have filled its batch.
        if self.open.is_empty() {
            self.open.push_back(Batch::default());
        }
        let batch = self.open.back_mut()?;
        if let Waiter::Pushes { session, alias, first, .. } = waiter
            && let Some(Waiter::Pushes { session: of, alias: to, last, .. }) = batch.waiters.last_mut()
            && (*of, *to, last.checked_add(1)) == (session, alias, Some(first))
        {
            *last = first;
            return Some(false);
        }
        batch.waiters.push(waiter);
        Some(true)
    }

    /// The next batch, if it may be written now.
    pub(super) fn hand_over(&mut self) -> Option<(u64, Vec<Change>)> {
        if self.flight.is_some() {
            return None;
        }
        let ready =
            self.go || (self.failure.is_none() && (self.open.len() > 1 || self.open.front()?.is_urgent()));
        if !ready {
            return None;
        }
        let batch = self.open.pop_front()?;
        self.go = false;
        self.last_batch += 1;
        let changes = batch.changes();
        self.flight = Some((self.last_batch, batch));
        Some((self.last_batch, changes))
    }

    /// When the core wants to be asked again.
    pub(super) fn wants_timer(&self, now: u64) -> Option<u64> {
        if self.flight.is_some() || self.timer_at.is_some() || self.go {
            return None;
        }
        match &self.failure {
            Some(failure) if failure.full => Some(now + RETRY),
            Some(_) => None,
            None => self.open.front().map(|_| now + LINGER),
        }
    }

    /// The time has come. Whether something is there to be written.
    pub(super) fn is_due(&mut self) -> bool {
        self.timer_at = None;
        let is_full = self.failure.is_some() && !self.has_failed();
        self.go = self.flight.is_none() && (is_full || (self.failure.is_none() && !self.open.is_empty()));
        !self.open.is_empty()
    }

    /// Everything is to be written as soon as it can be: the broker stops.
    pub(in crate::core) fn flush(&mut self) {
        self.go = self.failure.is_none() && !self.open.is_empty();
    }

    /// A batch was written.
    pub(super) fn written(&mut self, number: u64) -> Option<Batch> {
        let (_, batch) = self.flight.take_if(|(of, _)| *of == number)?;
        self.bytes -= batch.bytes;
        Some(batch)
    }

    /// Those behind it that have nothing to be written, only somebody who waits.
    pub(super) fn pop_empty(&mut self) -> Option<Batch> {
        if self.open.front()?.is_empty() { self.open.pop_front() } else { None }
    }

    /// A batch was not written, and nothing behind it will be for now: all of it.
    pub(super) fn take_all(&mut self, number: u64) -> Option<Batch> {
        let (_, mut all) = self.flight.take_if(|(of, _)| *of == number)?;
        for batch in std::mem::take(&mut self.open) {
            let Batch { rest, pushes, waiters, .. } = batch;
            all.rest.extend(rest);
            all.pushes.extend(pushes);
            all.waiters.extend(waiters);
        }
        self.bytes = 0;
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remove(number: u64) -> Change {
        Change::Remove { queue: 1, shelf: crate::core::durable::Shelf::Waiting(4), number }
    }

    #[test]
    fn what_nobody_waits_for_waits_for_company_and_one_batch_is_under_way_at_most() {
        let mut ledger = Ledger::new(1000, 10_000);
        let line = || Waiter::Declared { session: Key::NOBODY, req: 1 };
        assert_eq!(ledger.wait(line()), None, "nothing to wait for");
        ledger.add(&mut vec![remove(1)]);
        assert_eq!(ledger.hand_over(), None);
        assert_eq!(ledger.wants_timer(5), Some(5 + LINGER));
        assert_eq!(ledger.wait(line()), Some(true));
        assert_eq!(ledger.hand_over(), Some((1, vec![remove(1)])));
        ledger.add(&mut (2..40).map(remove).collect());
        ledger.add(&mut vec![remove(40)]);
        assert_eq!((ledger.open.len(), ledger.hand_over()), (2, None), "a batch has a size");
        assert!(ledger.is_behind() == (ledger.waiting_bytes() >= 10_000));
        assert_eq!(ledger.written(1).map(|batch| batch.waiters.len()), Some(1));
        assert_eq!(ledger.hand_over().map(|(number, changes)| (number, changes.len())), Some((2, 38)));
        let all = ledger.take_all(2).unwrap();
        assert_eq!((all.rest.len(), ledger.waiting_bytes(), ledger.is_idle()), (39, 0, true));
    }

    #[test]
    fn pushes_one_behind_the_other_are_answered_together() {
        let mut ledger = Ledger::new(1 << 20, 1 << 20);
        ledger.add(&mut vec![remove(1)]);
        for seq in [1, 2, 3, 5] {
            let (session, alias) = (Key::NOBODY, 0);
            ledger.wait(Waiter::Pushes { session, alias, first: seq, last: seq });
        }
        assert_eq!(ledger.open[0].waiters.len(), 2);
    }
}
