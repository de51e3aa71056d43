//! What a queue has besides when its messages are kept on disk: which of them are in memory, and what is to be written.
//!
//! Of each priority only the head is in memory, a *window* of so many bytes; the rest is in the store and is loaded as
//! consumers take. A message's number on its shelf is its order in the queue, so both parts make one row: all that are
//! in memory stand before all that are not. What is not due yet, what was given back with a delay, what consumers have and
//! dead letters are in memory; the first two of these are bounded by a window each.

use super::charges::{Account, Charges};
use super::dead::Dead;
use super::origins::Origin;
use super::positions::Positions;
use super::queue::{PRIORITIES, Queue, TENTH};
use super::slots::{Place, Slot, State};
use super::{Cause, MESSAGE_OVERHEAD_BYTES, MILLI, cost};
use crate::core::Now;
use crate::core::durable::{Change, QueueNumber, Record, Sender, Shelf, Stock, StoredQueue};
use crate::core::session::Identity;
use std::collections::HashMap;
use std::sync::Arc;

/// Shelves of one queue: the priorities, what is not due, dead letters.
pub(super) const SHELVES: usize = PRIORITIES + 2;
const DELAYED: usize = PRIORITIES;
const DEAD: usize = PRIORITIES + 1;

/// Messages that are loaded at a time.
const LOAD_MESSAGES_MAX: usize = 4096;

/// How much older than the broker's run a message may be and still be known to be: four years.
const AGE_MAX: i64 = 4 * 366 * 86_400 * 1_000_000_000;

/// When the clock of a queue begins that may hold messages from before.
pub(super) fn beginning(now: u64) -> i64 {
    i64::try_from(now).unwrap_or(i64::MAX) - AGE_MAX
}

/// What of one shelf is in the store only.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Behind {
    pub(super) messages: u64,
    /// What they are counted for.
    pub(super) cost: u64,
    /// The highest number that was loaded, or was in memory from the first.
    loaded_to: u64,
    /// The highest number that is in the store.
    stored_to: u64,
    /// What of it is in memory and was never given out is counted for.
    window: u64,
    /// The load that is under way.
    loading: Option<u64>,
    /// The highest number that was given. Each shelf has numbers of its own: what comes together for one has consecutive ones,
    /// which the store keeps together.
    last: u64,
}

/// The store's part of a queue.
#[derive(Debug)]
pub(in crate::core) struct Kept {
    pub(super) number: QueueNumber,
    /// What a client declared it with.
    settings: Arc<[u8]>,
    /// The size of a window.
    window_max: u64,
    /// To be written, and no matter when.
    pub(super) changes: Vec<Change>,
    /// Became due, or were put back: to be written before they count.
    pub(super) moving: Vec<Slot>,
    shelves: [Behind; SHELVES],
    /// The highest number on its shelf of what is not due yet and is stored, whether it is in memory or not.
    delayed_to: u64,
    /// What is not due yet, and what was given back with a delay, is counted for.
    delayed: u64,
    postponed: u64,
    /// Messages that are being written.
    pub(super) storing: u64,
    pub(super) positions: Positions,
    /// What is in the store only is counted for, by user.
    by_user: HashMap<u32, u64>,
}

fn place_of(shelf: Shelf) -> usize {
    match shelf {
        Shelf::Waiting(priority) => usize::from(priority.min(9)),
        Shelf::Delayed => DELAYED,
        Shelf::Dead => DEAD,
    }
}

fn shelf_at(place: usize) -> Shelf {
    match place {
        DELAYED => Shelf::Delayed,
        DEAD => Shelf::Dead,
        priority => Shelf::Waiting(u8::try_from(priority).unwrap_or(0)),
    }
}

fn cost_of(stock: Stock) -> u64 {
    stock.bytes + stock.messages * MESSAGE_OVERHEAD_BYTES
}

/// What is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) queue: QueueNumber,
    pub(super) shelf: Shelf,
    pub(super) after: u64,
    pub(super) messages_max: usize,
    pub(super) bytes_max: usize,
}

/// The message that goes first when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Oldest {
    Here(Slot),
    /// It is in the store, and is being loaded.
    NotHere,
    Nothing,
}

impl Kept {
    pub(super) fn new(number: QueueNumber, settings: Arc<[u8]>, window_max: u64) -> Self {
        Self {
            number,
            settings,
            window_max,
            changes: Vec::new(),
            moving: Vec::new(),
            shelves: [Behind::default(); SHELVES],
            delayed_to: 0,
            delayed: 0,
            postponed: 0,
            storing: 0,
            positions: Positions::default(),
            by_user: HashMap::new(),
        }
    }

    /// The store is to have nothing of this queue any more.
    pub(super) fn forget(&mut self) {
        self.changes.clear();
        self.changes.push(Change::Forget { queue: self.number });
    }

    fn next_number(&mut self, shelf: Shelf) -> u64 {
        let shelf = &mut self.shelves[place_of(shelf)];
        shelf.last += 1;
        shelf.last
    }

    /// Messages of this queue, dead letters aside, that are in the store only.
    pub(super) fn behind(&self) -> u64 {
        self.shelves[..=DELAYED].iter().map(|shelf| shelf.messages).sum()
    }

    pub(super) fn delayed_behind(&self) -> u64 {
        self.shelves[DELAYED].messages
    }

    pub(super) fn dead_behind(&self) -> (u64, u64) {
        (self.shelves[DEAD].messages, self.shelves[DEAD].cost)
    }

    /// The highest, or lowest, priority of which something is in the store only.
    pub(super) fn highest_behind(&self) -> Option<usize> {
        self.shelves[..PRIORITIES].iter().rposition(|shelf| shelf.messages > 0)
    }

    pub(super) fn lowest_behind(&self) -> Option<usize> {
        self.shelves[..PRIORITIES].iter().position(|shelf| shelf.messages > 0)
    }

    /// Whether so much was given back with a delay that nothing more is given out for the first time.
    pub(super) fn holds_too_much(&self) -> bool {
        self.postponed > self.window_max
    }

    /// What delayed messages take, if they take all they may.
    pub(super) fn too_many_delayed(&self, cost: u64) -> Option<(u64, u64)> {
        let used = self.delayed + cost;
        (used > self.window_max).then_some((self.window_max, used))
    }

    /// A message enters (`true`) or leaves the part of memory that it is counted in.
    pub(super) fn count(&mut self, state: State, place: &Place, enters: bool) {
        let cost = cost(place.bytes.len());
        let account = match state {
            State::Ready => &mut self.shelves[usize::from(place.priority)].window,
            State::Delayed if place.attempts == 0 => &mut self.delayed,
            State::Delayed => &mut self.postponed,
            _ => return,
        };
        *account = if enters { *account + cost } else { account.saturating_sub(cost) };
    }

    /// Loads that are to begin now.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        let window_max = self.window_max;
        let wants =
            |shelf: &Behind| shelf.messages > 0 && shelf.loading.is_none() && shelf.window <= window_max / 2;
        let place = (0..SHELVES).rev().find(|place| wants(&self.shelves[*place]))?;
        let shelf = &self.shelves[place];
        Some(Wanted {
            queue: self.number,
            shelf: shelf_at(place),
            after: shelf.loaded_to,
            messages_max: LOAD_MESSAGES_MAX,
            bytes_max: usize::try_from(window_max - shelf.window).unwrap_or(usize::MAX),
        })
    }

    pub(super) fn load_began(&mut self, shelf: Shelf, load: u64) {
        self.shelves[place_of(shelf)].loading = Some(load);
    }

    /// The shelf that this load is for, if it is still wanted.
    pub(super) fn load_ended(&mut self, load: u64) -> Option<Shelf> {
        let place = self.shelves.iter().position(|shelf| shelf.loading == Some(load))?;
        self.shelves[place].loading = None;
        Some(shelf_at(place))
    }

    /// Nothing more of this shelf can be read. How many messages that were, and what they were counted for.
    pub(super) fn give_up(&mut self, shelf: Shelf) -> (u64, u64) {
        let shelf = &mut self.shelves[place_of(shelf)];
        (std::mem::take(&mut shelf.messages), std::mem::take(&mut shelf.cost))
    }

    /// A message was loaded. Whether it is one that was not in memory.
    pub(super) fn loaded(&mut self, shelf: Shelf, number: u64, record: &Record) -> bool {
        let shelf = &mut self.shelves[place_of(shelf)];
        if number > shelf.stored_to || number <= shelf.loaded_to || shelf.messages == 0 {
            return false;
        }
        let cost = cost(record.bytes.len());
        shelf.loaded_to = number;
        shelf.messages -= 1;
        shelf.cost = shelf.cost.saturating_sub(cost);
        if let Some(used) = self.by_user.get_mut(&record.from.uid) {
            *used = used.saturating_sub(cost);
        }
        true
    }
}

impl Queue {
    /// Has the messages of this queue kept, beginning with what was found.
    pub(super) fn keep(&mut self, kept: Kept, found: &StoredQueue, now: Now, charges: &mut Charges) {
        let mut kept = kept;
        kept.positions = Positions::new(&found.positions);
        self.made = beginning(now.monotonic);
        let stocks = found.waiting.iter().copied().chain([found.delayed, found.dead]);
        for (shelf, stock) in kept.shelves.iter_mut().zip(stocks) {
            *shelf = Behind {
                messages: stock.messages,
                cost: cost_of(stock),
                stored_to: stock.last,
                last: stock.last,
                ..Behind::default()
            };
        }
        kept.delayed_to = found.delayed.last;
        self.bytes += kept.shelves[..=DELAYED].iter().map(|shelf| shelf.cost).sum::<u64>();
        self.dead.begin_after(found.dead.last);
        for (uid, stock) in &found.by_user {
            charges.add(Account::Disk, *uid, cost_of(*stock));
            kept.by_user.insert(*uid, cost_of(*stock));
        }
        for (uid, id, until) in &found.seen {
            let window = i64::from(self.settings.id_window_millis);
            let age = now.unix / 1_000_000 - (until - window);
            let since = now.monotonic.saturating_sub(u64::try_from(age).unwrap_or(0) * MILLI);
            self.recent.note(*uid, id, since, self.settings.ids_max as usize);
        }
        self.kept = Some(Box::new(kept));
    }

    /// The change by which there is this queue.
    pub(super) fn row(&self) -> Option<Change> {
        let kept = self.kept.as_ref()?;
        Some(Change::Queue { queue: kept.number, name: self.name.clone(), settings: kept.settings.clone() })
    }

    /// The store has nothing more of a shelf that it should have.
    pub(super) fn nothing_left(&mut self, shelf: Shelf) {
        let Some(kept) = &mut self.kept else { return };
        let (messages, cost) = kept.give_up(shelf);
        if messages == 0 {
            return;
        }
        tracing::error!(
            "{messages} messages of queue {} are not in the store any more: they are lost",
            self.name
        );
        self.counts.lose(messages);
        if shelf != Shelf::Dead {
            self.bytes -= cost;
        }
    }

    /// Which account its messages are charged to.
    pub(super) fn account(&self) -> Account {
        if self.kept.is_some() { Account::Disk } else { Account::Memory }
    }

    /// The window's size, and what delayed messages would take, if they may not take so much more.
    pub(super) fn too_many_delayed(&self, bytes: usize) -> Option<(u64, u64)> {
        self.kept.as_ref()?.too_many_delayed(cost(bytes))
    }

    pub(super) fn unix_millis(&self, since_made: u64, now: Now) -> i64 {
        let age = self.since_made(now.monotonic) / MILLI;
        now.unix / 1_000_000 - (i64::try_from(age).unwrap_or(0) - i64::try_from(since_made).unwrap_or(0))
    }

    fn millis_since_made(&self, unix_millis: i64, now: Now) -> u64 {
        let age = i64::try_from(self.since_made(now.monotonic) / MILLI).unwrap_or(0);
        u64::try_from(age - (now.unix / 1_000_000 - unix_millis)).unwrap_or(0)
    }

    /// Where a message is, or is to be, in the store.
    fn shelf_of(place: &Place) -> Shelf {
        let waits = place.attempts == 0
            && (place.state == State::Delayed || (place.state == State::Pending && place.at > 0));
        if waits { Shelf::Delayed } else { Shelf::Waiting(place.priority) }
    }

    fn record_of(&self, slot: Slot, now: Now) -> Record {
        let place = self.slots.get(slot);
        let Origin { from, name, .. } = self.origins.get(place.origin);
        let waits = matches!(place.state, State::Delayed | State::Pending) && place.at > 0;
        let due = self.since_made(place.at).div_ceil(MILLI);
        let expires = place.expires();
        Record {
            bytes: place.bytes.clone(),
            priority: place.priority,
            attempts: place.attempts,
            since_millis: self.unix_millis(u64::from(place.since) * (TENTH / MILLI), now),
            due_millis: if waits { self.unix_millis(due, now) } else { 0 },
            expires_millis: if expires > 0 { self.unix_millis(expires, now) } else { 0 },
            from: sender(from),
            topic: name.clone(),
            dead: None,
        }
    }

    /// The change by which a message is kept as it is now.
    fn put_of(&self, slot: Slot, now: Now) -> Option<Change> {
        let kept = self.kept.as_ref()?;
        let place = self.slots.get(slot);
        let record = Arc::new(self.record_of(slot, now));
        Some(Change::Put { queue: kept.number, shelf: Self::shelf_of(place), number: place.order, record })
    }

    /// A message that consumers had is kept with the attempts that it has now.
    pub(super) fn keep_attempts(&mut self, slot: Slot, now: Now) {
        if self.slots.get(slot).attempts == 0 {
            return;
        }
        let put = self.put_of(slot, now);
        if let Some(kept) = &mut self.kept {
            kept.changes.extend(put);
        }
    }

    /// A message that is in the store is to be kept no more, where it is.
    pub(super) fn keep_no_more(&mut self, slot: Slot) {
        let place = self.slots.get(slot);
        let (shelf, number) = (Self::shelf_of(place), place.order);
        if let Some(kept) = &mut self.kept {
            kept.changes.push(Change::Remove { queue: kept.number, shelf, number });
        }
    }

    /// The change by which a message that is to be stored first is kept, under a new number. Asked for when it is handed to
    /// the ledger: on each shelf messages are written in the order of their numbers, and loaded by it.
    pub(super) fn put_behind_all(&mut self, slot: Slot, now: Now) -> Option<Change> {
        let shelf = Self::shelf_of(self.slots.get(slot));
        self.slots.get_mut(slot).order = self.kept.as_mut()?.next_number(shelf);
        self.put_of(slot, now)
    }

    /// A message is to be written before it can be given out.
    pub(super) fn begin_storing(&mut self, slot: Slot, due: u64) {
        let Some(kept) = &mut self.kept else { return };
        kept.storing += 1;
        let place = self.slots.get_mut(slot);
        place.at = due;
        place.state = State::Pending;
    }

    /// A delayed message is due: it goes to its priority, behind what is there.
    pub(super) fn move_to_waiting(&mut self, slot: Slot) {
        self.keep_no_more(slot);
        self.begin_storing(slot, 0);
        if let Some(kept) = &mut self.kept {
            kept.moving.push(slot);
        }
    }

    /// A message was stored: it counts.
    pub(super) fn is_stored(&mut self, slot: Slot) {
        let place = self.slots.get(slot);
        let (at, order, lane, bytes) =
            (place.at, place.order, usize::from(place.priority), place.bytes.len());
        let Some(kept) = &mut self.kept else { return };
        kept.storing -= 1;
        if at > 0 {
            kept.delayed_to = order;
            self.delay(slot, at);
            return self.watch_expiry(slot);
        }
        let window_max = kept.window_max;
        let shelf = &mut kept.shelves[lane];
        debug_assert!(order > shelf.stored_to, "{order} is stored behind {}", shelf.stored_to);
        shelf.stored_to = order;
        let fits = shelf.window == 0 || shelf.window + cost(bytes) <= window_max;
        if shelf.messages == 0 && fits {
            shelf.loaded_to = order;
            self.make_ready(slot);
            return self.watch_expiry(slot);
        }
        shelf.messages += 1;
        shelf.cost += cost(bytes);
        let (_, origin) = self.slots.free(slot);
        let uid = self.origins.get(origin).from.uid;
        self.origins.release(origin);
        if let Some(kept) = &mut self.kept {
            *kept.by_user.entry(uid).or_default() += cost(bytes);
        }
    }

    /// A message was not stored, and nobody was told that it was.
    pub(super) fn is_refused(&mut self, slot: Slot, charges: &mut Charges) {
        if let Some(kept) = &mut self.kept {
            kept.storing -= 1;
        }
        self.counts.refused += 1;
        self.free(slot, charges);
    }

    /// Takes a message in that was in the store only.
    pub(super) fn take_loaded(
        &mut self,
        (shelf, number): (Shelf, u64),
        record: &Record,
        origin: &Origin,
        now: Now,
        charges: &mut Charges,
    ) {
        let origin = self.origins.take(origin);
        let priority = match shelf {
            Shelf::Waiting(priority) => priority,
            Shelf::Delayed | Shelf::Dead => record.priority,
        };
        let slot = self.slots.take(record.bytes.clone(), origin, priority.min(9));
        let since = self.millis_since_made(record.since_millis, now) / (TENTH / MILLI);
        let expires = self.millis_since_made(record.expires_millis, now).max(1);
        let due = self.moment(self.millis_since_made(record.due_millis, now));
        let place = self.slots.get_mut(slot);
        place.order = number;
        place.attempts = record.attempts;
        place.since = u32::try_from(since).unwrap_or(u32::MAX);
        if record.expires_millis > 0 {
            place.set_expires(expires);
        }
        place.at = if record.due_millis > 0 { due.max(1) } else { 0 };
        let (at, expires) = (place.at, place.expires());
        if shelf == Shelf::Delayed {
            self.delay(slot, at.max(1));
        } else if expires > 0 && self.moment(expires) <= now.monotonic {
            self.counts.expired += 1;
            return self.bury(slot, Cause::Expired, "", None, now, charges);
        } else if record.attempts > 0 && at > now.monotonic {
            self.delay(slot, at);
        } else if record.attempts > 0 {
            self.make_returned(slot);
        } else {
            self.make_ready(slot);
        }
        self.watch_expiry(slot);
    }

    /// Takes a dead letter in that was in the store only.
    pub(super) fn take_loaded_dead(
        &mut self,
        number: u64,
        record: &Record,
        (origin, by): (Origin, Option<Arc<Identity>>),
        charges: &mut Charges,
    ) {
        let Some(obituary) = &record.dead else { return };
        self.dead.restore(Dead {
            number,
            bytes: record.bytes.clone(),
            origin,
            priority: record.priority,
            cause: Cause::from_str(&obituary.cause),
            reason: (&*obituary.reason).into(),
            when: obituary.when,
            attempts: record.attempts.into(),
            by,
        });
        self.trim_dead(charges);
    }

    /// Throws away what is in the store of all that waits, but for what was given out before, in as few words as there are
    /// shelves. How many of them are in the store only.
    pub(super) fn purge_kept(&mut self, charges: &mut Charges) -> u64 {
        let Some(kept) = &mut self.kept else { return 0 };
        let mut purged = 0;
        for (place, shelf) in kept.shelves.iter_mut().enumerate().filter(|(place, _)| *place != DEAD) {
            // What consumers have was given out before what stands in its lane.
            let head = self.lanes.get(place).filter(|lane| !lane.is_empty()).map(|lane| lane.head);
            let first = match head {
                Some(head) => self.slots.get(head).order,
                None if place == DELAYED => 1,
                None => shelf.loaded_to + 1,
            };
            let last = if place == DELAYED { kept.delayed_to } else { shelf.stored_to };
            if first <= last {
                let queue = kept.number;
                kept.changes.push(Change::RemoveRange { queue, shelf: shelf_at(place), first, last });
            }
            purged += std::mem::take(&mut shelf.messages);
            self.bytes -= std::mem::take(&mut shelf.cost);
            shelf.loaded_to = shelf.stored_to;
            shelf.window = 0;
            shelf.loading = None;
        }
        (kept.delayed, kept.postponed) = (0, 0);
        self.balance(charges);
        purged
    }

    /// When nothing is in the store only, nobody is charged for it.
    pub(super) fn balance(&mut self, charges: &mut Charges) {
        let Some(kept) = &mut self.kept else { return };
        if kept.shelves.iter().all(|shelf| shelf.messages == 0) {
            for (uid, used) in kept.by_user.drain() {
                charges.release(Account::Disk, uid, used);
            }
        }
    }
}

/// Who sent something, as it is kept.
pub(super) fn sender(from: &Identity) -> Sender {
    Sender { name: from.name.as_str().into(), uid: from.uid, pid: from.pid }
}
