//! One queue: what waits in it, what is given out and until when, and what becomes of each message.
//!
//! Messages of higher priority always come first, and within a priority each comes in the order in which it became
//! ready; one that was given out and came back stands before those that never were. Whatever happens to a message
//! happens here, is counted once, and gives its bytes back to the account of its sender. Sessions and frames are
//! unknown here: a consumer is a seat.

use super::charges::Charges;
use super::dead::{Dead, DeadLetters};
use super::kept::{Kept, Oldest, sender};
use super::news::Told;
use super::origins::{Origin, OriginId, Origins};
use super::outstanding::Outstanding;
use super::recent::RecentIds;
use super::settings::{QueueSettings, WhenFull};
use super::slots::{List, Place, Slot, Slots, State};
use super::trash::Trash;
use super::{Cause, MILLI, cost};
use crate::core::Now;
use crate::core::durable::{Change, Obituary, Record, Shelf};
use crate::core::session::Identity;
use crate::core::snapshot::QueueCounts;
use crate::core::strategy::Group;
use crate::core::table::Key;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Priorities: 0 to 9, higher first.
pub(super) const PRIORITIES: usize = 10;

/// Tenths of a second.
pub(super) const TENTH: u64 = 100 * MILLI;

/// A message that somebody wants to have queued.
#[derive(Debug)]
pub(in crate::core) struct Incoming<'a> {
    pub(in crate::core) bytes: Arc<[u8]>,
    pub(in crate::core) priority: u8,
    /// Not before so many milliseconds from now.
    pub(in crate::core) delay_millis: u32,
    /// Not after so many milliseconds from when it is due; 0: as long as the queue lets it.
    pub(in crate::core) ttl_millis: u32,
    /// Its sender's id for it; empty: none.
    pub(in crate::core) id: &'a [u8],
}

/// Why a queue does not take a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) struct Full {
    /// Which of its limits, by its key in the configuration.
    pub(in crate::core) limit: &'static str,
    pub(in crate::core) value: u64,
    pub(in crate::core) used: u64,
}

/// One who takes messages.
#[derive(Debug)]
pub(in crate::core) struct Consumer {
    pub(in crate::core) session: Key,
    pub(in crate::core) number: u32,
    pub(in crate::core) identity: Arc<Identity>,
    /// How many more it may be given.
    pub(in crate::core) credit: u32,
    /// Whether settling one lets it be given another.
    pub(in crate::core) refill: bool,
    /// Whether what is given to it counts as acknowledged.
    pub(in crate::core) auto_ack: bool,
    /// Whether its session has no room now.
    pub(in crate::core) blocked: bool,
    pub(in crate::core) delivered: u64,
    pub(super) has: Outstanding,
}

impl Consumer {
    pub(in crate::core) fn new(session: Key, number: u32, identity: Arc<Identity>) -> Self {
        Self {
            session,
            number,
            identity,
            credit: 0,
            refill: false,
            auto_ack: false,
            blocked: false,
            delivered: 0,
            has: Outstanding::default(),
        }
    }

    /// Messages it has and has not settled.
    pub(in crate::core) fn outstanding(&self) -> usize {
        self.has.len() + self.has.late()
    }
}

/// A message on its way to a consumer.
#[derive(Debug)]
pub(in crate::core) struct Given {
    pub(in crate::core) bytes: Arc<[u8]>,
    pub(in crate::core) origin: Origin,
    pub(in crate::core) tag: u64,
    pub(in crate::core) attempt: u16,
    pub(in crate::core) priority: u8,
}

/// One queue.
#[derive(Debug)]
pub(in crate::core) struct Queue {
    pub(in crate::core) name: Arc<str>,
    pub(in crate::core) settings: QueueSettings,
    /// Subscriptions by which published messages land in it.
    pub(in crate::core) bindings: Vec<Key>,
    pub(in crate::core) paused: bool,
    pub(in crate::core) consumers: Vec<Option<Consumer>>,
    pub(in crate::core) dead: DeadLetters,
    pub(in crate::core) counts: QueueCounts,
    /// When its timer is set.
    pub(in crate::core) timer_at: Option<u64>,
    /// Whether it stands in `Queues::busy`.
    pub(super) is_busy: bool,
    /// Whether a ring is not read on because there was no room.
    pub(super) holds_rings_up: bool,
    /// Its part of the store, if it is kept on disk.
    pub(super) kept: Option<Box<Kept>>,
    /// When its own clock begins: when it was made, or long before if it may hold what is older.
    pub(super) made: i64,
    pub(super) slots: Slots,
    pub(super) origins: Origins,
    pub(super) group: Group,
    pub(super) recent: RecentIds,
    pub(super) lanes: [List; PRIORITIES],
    /// Bit n: lane n has something.
    pub(super) filled: u16,
    /// By 9 less the priority, and order.
    pub(super) returned: BTreeMap<(u8, u64), Slot>,
    /// By [`due_key`].
    pub(super) delayed: BTreeMap<(u64, u64), Slot>,
    /// By when they expire, in milliseconds since the queue was made.
    pub(super) expiring: BTreeMap<(u64, Slot), ()>,
    /// Given out, by when they have to be acknowledged.
    pub(super) out: List,
    pub(super) extended: BTreeMap<(u64, Slot), ()>,
    pub(super) out_count: u64,
    pub(super) trash: Trash,
    /// Whether the configuration names it.
    pub(super) configured: bool,
    /// It is not in the configuration any more, and goes when it is empty.
    pub(in crate::core) retiring: bool,
    pub(super) told: Told,
    /// What is counted against `bytes_max`.
    pub(in crate::core) bytes: u64,
    last_order: u64,
}

/// Where a delayed message stands: by when it is due, then by its number. On disk each priority has numbers of its own, as have
/// those that were never given out.
fn due_key(place: &Place) -> (u64, u64) {
    let shelf = if place.attempts == 0 { 0xf } else { place.priority };
    (place.at, place.order << 4 | u64::from(shelf))
}

impl Queue {
    pub(in crate::core) fn new(settings: QueueSettings, now: u64) -> Self {
        Self {
            name: settings.name.as_str().into(),
            group: Group::new(settings.strategy),
            settings,
            bindings: Vec::new(),
            paused: false,
            consumers: Vec::new(),
            dead: DeadLetters::default(),
            counts: QueueCounts::default(),
            timer_at: None,
            is_busy: false,
            holds_rings_up: false,
            kept: None,
            made: i64::try_from(now).unwrap_or(i64::MAX),
            slots: Slots::default(),
            origins: Origins::default(),
            recent: RecentIds::default(),
            lanes: [List::default(); PRIORITIES],
            filled: 0,
            returned: BTreeMap::new(),
            delayed: BTreeMap::new(),
            expiring: BTreeMap::new(),
            out: List::default(),
            extended: BTreeMap::new(),
            out_count: 0,
            trash: Trash::default(),
            configured: false,
            retiring: false,
            told: Told::default(),
            bytes: 0,
            last_order: 0,
        }
    }

    /// Messages it holds: waiting and given out.
    pub(in crate::core) fn messages(&self) -> u64 {
        let behind = self.kept.as_ref().map_or(0, |kept| kept.behind());
        self.slots.used() as u64 - self.trash.count + behind
    }

    /// Messages that are given out.
    pub(in crate::core) fn in_flight(&self) -> u64 {
        self.out_count
    }

    /// Messages that are not due yet.
    pub(in crate::core) fn delayed(&self) -> u64 {
        self.delayed.len() as u64 + self.kept.as_ref().map_or(0, |kept| kept.delayed_behind())
    }

    /// Messages that are being written to the store.
    pub(in crate::core) fn storing(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.storing)
    }

    /// Messages that were given out and wait to be given out again; and all that are in memory.
    #[cfg(test)]
    pub(in crate::core) fn returned(&self) -> u64 {
        self.returned.len() as u64
    }

    #[cfg(test)]
    pub(in crate::core) fn in_memory(&self) -> u64 {
        self.slots.used() as u64 - self.trash.count
    }

    /// Whether it would not take a message of this length, and none that waits may go in its place.
    pub(in crate::core) fn is_full_for(&self, bytes: usize) -> Option<Full> {
        let Self { settings, .. } = self;
        let messages = self.messages() + 1;
        let bytes = self.bytes + cost(bytes);
        if messages > settings.messages_max {
            return Some(Full { limit: "messages_max", value: settings.messages_max, used: messages });
        }
        if bytes > settings.bytes_max {
            return Some(Full { limit: "bytes_max", value: settings.bytes_max, used: bytes });
        }
        None
    }

    /// Whether a message of this length would not fit even if the queue were empty.
    pub(in crate::core) fn is_too_small_for(&self, bytes: usize) -> bool {
        cost(bytes) > self.settings.bytes_max
    }

    /// Whether a message with this id was queued within the window.
    pub(in crate::core) fn has_seen(&mut self, uid: u32, id: &[u8], now: Now) -> bool {
        let window = u64::from(self.settings.id_window_millis) * MILLI;
        self.recent.pass(now.monotonic, window);
        !id.is_empty() && self.recent.contains(uid, id)
    }

    /// Makes room as the queue's settings say. It must be called before [`Queue::push`].
    pub(in crate::core) fn make_room(
        &mut self,
        bytes: usize,
        now: Now,
        charges: &mut Charges,
    ) -> Result<(), Full> {
        while let Some(full) = self.is_full_for(bytes) {
            let oldest = match self.settings.when_full {
                // One that alone is too large must not empty the queue.
                _ if self.is_too_small_for(bytes) => Oldest::Nothing,
                WhenFull::Refuse => Oldest::Nothing,
                WhenFull::DropOldest | WhenFull::DeadLetter => self.oldest_waiting(),
            };
            match oldest {
                Oldest::Here(slot) => self.drop_for_room(slot, now, charges),
                // It goes as soon as it is here.
                Oldest::NotHere => return Ok(()),
                Oldest::Nothing => {
                    self.counts.refused += 1;
                    return Err(full);
                }
            }
        }
        Ok(())
    }

    pub(super) fn drop_for_room(&mut self, slot: Slot, now: Now, charges: &mut Charges) {
        self.take_out(slot);
        if self.settings.when_full == WhenFull::DeadLetter {
            self.bury(slot, Cause::Overflow, "", None, now, charges);
        } else {
            self.counts.dropped += 1;
            self.keep_no_more(slot);
            self.free(slot, charges);
        }
    }

    /// Drops what was not there to be dropped when there was no room.
    pub(super) fn make_up_for_room(&mut self, now: Now, charges: &mut Charges) {
        let has_policy = self.settings.when_full != WhenFull::Refuse;
        while has_policy
            && (self.messages() > self.settings.messages_max || self.bytes > self.settings.bytes_max)
        {
            let Oldest::Here(slot) = self.oldest_waiting() else { return };
            self.drop_for_room(slot, now, charges);
        }
    }

    /// Queues a message for which there is room. One that is to be kept is not in the queue before it is stored: its place.
    pub(in crate::core) fn push(
        &mut self,
        incoming: Incoming<'_>,
        origin: &Origin,
        now: Now,
        charges: &mut Charges,
    ) -> Slot {
        let Incoming { bytes, priority, delay_millis, ttl_millis, id } = incoming;
        let uid = origin.from.uid;
        if !id.is_empty() {
            self.recent.note(uid, id, now.monotonic, self.settings.ids_max as usize);
        }
        let cost = cost(bytes.len());
        self.bytes += cost;
        charges.add(self.account(), uid, cost);
        let origin = self.origins.take(origin);
        let slot = self.slots.take(bytes, origin, priority.min(9));
        let due = now.monotonic + u64::from(delay_millis) * MILLI;
        let ttl = match (ttl_millis, self.settings.ttl_millis) {
            (0, most) => most,
            (own, 0) => own,
            (own, most) => own.min(most),
        };
        let since = u32::try_from(self.since_made(now.monotonic) / TENTH).unwrap_or(u32::MAX);
        let expires = self.since_made(due).div_ceil(MILLI) + u64::from(ttl);
        let place = self.slots.get_mut(slot);
        place.since = since;
        if ttl > 0 {
            place.set_expires(expires);
        }
        if self.kept.is_some() {
            self.begin_storing(slot, if delay_millis > 0 { due } else { 0 });
            return slot;
        }
        self.counts.pushed += 1;
        if delay_millis > 0 {
            self.delay(slot, due);
        } else {
            self.make_ready(slot);
        }
        self.watch_expiry(slot);
        slot
    }

    pub(super) fn delay(&mut self, slot: Slot, due: u64) {
        let order = self.slots.get(slot).order;
        let order = if order == 0 { self.next_order() } else { order };
        let place = self.slots.get_mut(slot);
        place.order = order;
        place.at = due;
        place.state = State::Delayed;
        self.delayed.insert(due_key(place), slot);
        self.count(slot, true);
    }

    /// A message of a queue on disk enters or leaves the state that it is in.
    pub(super) fn count(&mut self, slot: Slot, enters: bool) {
        if let Some(kept) = &mut self.kept {
            let place = self.slots.get(slot);
            kept.count(place.state, place, enters);
        }
    }

    fn next_order(&mut self) -> u64 {
        self.last_order += 1;
        self.last_order
    }

    /// A time given in milliseconds since the queue was made.
    pub(super) fn moment(&self, millis: u64) -> u64 {
        let since = i64::try_from(millis.saturating_mul(MILLI)).unwrap_or(i64::MAX);
        u64::try_from(self.made.saturating_add(since)).unwrap_or(0)
    }

    /// A time in nanoseconds since the queue was made.
    pub(super) fn since_made(&self, at: u64) -> u64 {
        u64::try_from(i64::try_from(at).unwrap_or(i64::MAX).saturating_sub(self.made)).unwrap_or(0)
    }

    pub(super) fn watch_expiry(&mut self, slot: Slot) {
        let expires = self.slots.get(slot).expires();
        if expires > 0 {
            self.expiring.insert((expires, slot), ());
        }
    }

    /// Puts one that was never given out behind all others of its priority.
    pub(super) fn make_ready(&mut self, slot: Slot) {
        let order = match self.kept {
            Some(_) => self.slots.get(slot).order,
            None => self.next_order(),
        };
        let place = self.slots.get_mut(slot);
        place.order = order;
        place.state = State::Ready;
        let lane = usize::from(place.priority);
        self.slots.push_back(&mut self.lanes[lane], slot);
        self.filled |= 1 << lane;
        self.count(slot, true);
    }

    /// Puts one that was given out before where it stood.
    pub(super) fn make_returned(&mut self, slot: Slot) {
        let place = self.slots.get_mut(slot);
        place.state = State::Returned;
        self.returned.insert((9 - place.priority, place.order), slot);
    }

    /// The message that is to be given out next.
    pub(super) fn next_ready(&self) -> Option<Slot> {
        let lane = self.filled.checked_ilog2();
        let returned = self.returned.first_key_value().map(|((rank, _), slot)| (u32::from(9 - rank), *slot));
        // Of a higher priority there may be something that is not here yet.
        let least = self.kept.as_ref().and_then(|kept| kept.highest_behind()).unwrap_or(0);
        let holds_too_much = self.kept.as_ref().is_some_and(|kept| kept.holds_too_much());
        match (returned, lane) {
            (Some((priority, slot)), lane) if lane.is_none_or(|lane| priority >= lane) => {
                (priority as usize >= least).then_some(slot)
            }
            (_, Some(lane)) => {
                (lane as usize >= least && !holds_too_much).then_some(self.lanes[lane as usize].head)
            }
            (_, None) => None,
        }
    }

    /// Its bytes.
    pub(super) fn next_bytes(&self) -> Option<&Arc<[u8]>> {
        self.next_ready().map(|slot| &self.slots.get(slot).bytes)
    }

    /// The oldest of the lowest priority that is not given out.
    pub(super) fn oldest_waiting(&self) -> Oldest {
        let lane = (self.filled != 0).then(|| self.filled.trailing_zeros());
        let returned = self.returned.last_key_value().map(|((rank, _), _)| u32::from(9 - rank));
        let here = match (returned, lane) {
            (Some(priority), lane) if lane.is_none_or(|lane| priority <= lane) => {
                let rank = u8::try_from(9 - priority).unwrap_or(0);
                self.returned.range((rank, 0)..).next().map(|(_, slot)| (priority, *slot))
            }
            (_, Some(lane)) => Some((lane, self.lanes[lane as usize].head)),
            (_, None) => None,
        };
        let behind = self.kept.as_ref().and_then(|kept| kept.lowest_behind());
        match (here, behind) {
            (here, Some(behind)) if here.is_none_or(|(lane, _)| behind < lane as usize) => Oldest::NotHere,
            (Some((_, slot)), _) => Oldest::Here(slot),
            (None, _) => self.delayed.values().next().map_or(Oldest::Nothing, |slot| Oldest::Here(*slot)),
        }
    }

    /// Takes a message out of wherever it stands.
    pub(super) fn take_out(&mut self, slot: Slot) {
        let place = self.slots.get(slot);
        let (at, order, expires, priority, state) =
            (place.at, place.order, place.expires(), place.priority, place.state);
        let due = due_key(place);
        let lane = usize::from(priority);
        self.count(slot, false);
        match state {
            State::Ready => {
                self.slots.unlink(&mut self.lanes[lane], slot);
                if self.lanes[lane].is_empty() {
                    self.filled &= !(1 << lane);
                }
            }
            State::Returned => {
                self.returned.remove(&(9 - priority, order));
            }
            State::Delayed => {
                self.delayed.remove(&due);
            }
            State::Out => {
                self.slots.unlink(&mut self.out, slot);
                self.out_count -= 1;
            }
            State::Extended => {
                self.extended.remove(&(at, slot));
                self.out_count -= 1;
            }
            State::Free | State::Pending => {}
        }
        if expires > 0 && !matches!(state, State::Out | State::Extended) {
            self.expiring.remove(&(expires, slot));
        }
    }

    /// Frees a message that stands nowhere any more.
    pub(super) fn free(&mut self, slot: Slot, charges: &mut Charges) {
        let (bytes, origin) = self.slots.free(slot);
        self.release(bytes.len(), origin, charges);
    }

    pub(super) fn release(&mut self, bytes: usize, origin: OriginId, charges: &mut Charges) {
        let uid = self.origins.get(origin).from.uid;
        self.origins.release(origin);
        self.bytes -= cost(bytes);
        charges.release(self.account(), uid, cost(bytes));
    }

    /// Makes a dead letter of a message that stands nowhere any more. Its sender goes on to be charged for it.
    pub(super) fn bury(
        &mut self,
        slot: Slot,
        cause: Cause,
        reason: &str,
        by: Option<Arc<Identity>>,
        now: Now,
        charges: &mut Charges,
    ) {
        self.keep_no_more(slot);
        let place = self.slots.get(slot);
        let (priority, attempts) = (place.priority, u16::from(place.attempts));
        let since_millis = self.unix_millis(u64::from(place.since) * (TENTH / MILLI), now);
        let (bytes, id) = self.slots.free(slot);
        let origin = self.origins.get(id).clone();
        self.origins.release(id);
        self.bytes -= cost(bytes.len());
        self.counts.dead += 1;
        self.told.is_dead(&origin);
        let reason: Box<str> = reason.into();
        let record = self.kept.is_some().then(|| Record {
            bytes: bytes.clone(),
            priority,
            attempts: u8::try_from(attempts).unwrap_or(u8::MAX),
            since_millis,
            due_millis: 0,
            expires_millis: 0,
            from: sender(&origin.from),
            topic: origin.name.clone(),
            dead: Some(Obituary {
                cause: cause.as_str().into(),
                reason: (&*reason).into(),
                when: now.unix,
                by: by.as_deref().map(sender),
            }),
        });
        let when = now.unix;
        let dead = Dead { number: 0, bytes, origin, priority, cause, reason, when, attempts, by };
        let number = self.dead.push(dead);
        if let (Some(kept), Some(record)) = (&mut self.kept, record) {
            let record = Arc::new(record);
            kept.changes.push(Change::Put { queue: kept.number, shelf: Shelf::Dead, number, record });
        }
        self.trim_dead(charges);
    }

    /// Drops the oldest dead letters while there are more than may be.
    pub(super) fn trim_dead(&mut self, charges: &mut Charges) {
        let (messages, bytes) = (u64::from(self.settings.dead_messages_max), self.settings.dead_bytes_max);
        while self.dead.is_over(messages, bytes) {
            let Some(oldest) = self.dead.pop_oldest() else { break };
            self.counts.dead_dropped += 1;
            self.dead_is_gone(&oldest, charges);
        }
    }

    /// A dead letter was taken out for good.
    pub(super) fn dead_is_gone(&mut self, dead: &Dead, charges: &mut Charges) {
        charges.release(self.account(), dead.origin.from.uid, cost(dead.bytes.len()));
        if let Some(kept) = &mut self.kept {
            let (queue, number) = (kept.number, dead.number);
            kept.changes.push(Change::Remove { queue, shelf: Shelf::Dead, number });
        }
    }
}
