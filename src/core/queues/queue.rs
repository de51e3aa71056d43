//! One queue: what waits in it, what is given out and until when, and what becomes of each message.
//!
//! Messages of higher priority always come first, and within a priority each comes in the order in which it became
//! ready; one that was given out and came back stands before those that never were. Whatever happens to a message
//! happens here, is counted once, and gives its bytes back to the account of its sender. Sessions and frames are
//! unknown here: a consumer is a seat.

use super::charges::Charges;
use super::dead::{Dead, DeadLetters};
use super::origins::{Origin, OriginId, Origins};
use super::outstanding::Outstanding;
use super::recent::RecentIds;
use super::settings::{QueueSettings, WhenFull};
use super::slots::{List, Slot, Slots, State};
use super::{Cause, MILLI, cost};
use crate::core::Now;
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
    pub(super) made: u64,
    pub(super) slots: Slots,
    pub(super) origins: Origins,
    pub(super) group: Group,
    pub(super) recent: RecentIds,
    pub(super) lanes: [List; PRIORITIES],
    /// Bit n: lane n has something.
    pub(super) filled: u16,
    /// By 9 less the priority, and order.
    pub(super) returned: BTreeMap<(u8, u64), Slot>,
    pub(super) delayed: BTreeMap<(u64, u64), Slot>,
    /// By when they expire, in milliseconds since the queue was made.
    pub(super) expiring: BTreeMap<(u64, Slot), ()>,
    /// Given out, by when they have to be acknowledged.
    pub(super) out: List,
    pub(super) extended: BTreeMap<(u64, Slot), ()>,
    pub(super) out_count: u64,
    pub(super) trash: List,
    pub(super) trash_count: u64,
    /// What is counted against `bytes_max`.
    pub(in crate::core) bytes: u64,
    last_order: u64,
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
            made: now,
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
            trash: List::default(),
            trash_count: 0,
            bytes: 0,
            last_order: 0,
        }
    }

    /// Messages it holds: waiting and given out.
    pub(in crate::core) fn messages(&self) -> u64 {
        self.slots.used() as u64 - self.trash_count
    }

    /// Messages that are given out.
    pub(in crate::core) fn in_flight(&self) -> u64 {
        self.out_count
    }

    /// Messages that are not due yet.
    pub(in crate::core) fn delayed(&self) -> u64 {
        self.delayed.len() as u64
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
                WhenFull::Refuse => None,
                WhenFull::DropOldest | WhenFull::DeadLetter => self.oldest_waiting(),
            };
            // One that alone is too large must not empty the queue.
            let Some(slot) = oldest.filter(|_| cost(bytes) <= self.settings.bytes_max) else {
                self.counts.refused += 1;
                return Err(full);
            };
            self.take_out(slot);
            if self.settings.when_full == WhenFull::DeadLetter {
                self.bury(slot, Cause::Overflow, "", None, now, charges);
            } else {
                self.counts.dropped += 1;
                self.free(slot, charges);
            }
        }
        Ok(())
    }

    /// Queues a message for which there is room.
    pub(in crate::core) fn push(
        &mut self,
        incoming: Incoming<'_>,
        origin: &Origin,
        now: Now,
        charges: &mut Charges,
    ) {
        let Incoming { bytes, priority, delay_millis, ttl_millis, id } = incoming;
        let uid = origin.from.uid;
        if !id.is_empty() {
            self.recent.note(uid, id, now.monotonic, self.settings.ids_max as usize);
        }
        let cost = cost(bytes.len());
        self.bytes += cost;
        charges.add(uid, cost);
        self.counts.pushed += 1;
        let origin = self.origins.take(origin);
        let slot = self.slots.take(bytes, origin, priority.min(9));
        let due = now.monotonic + u64::from(delay_millis) * MILLI;
        let ttl = match (ttl_millis, self.settings.ttl_millis) {
            (0, most) => most,
            (own, 0) => own,
            (own, most) => own.min(most),
        };
        let since = u32::try_from(now.monotonic.saturating_sub(self.made) / TENTH).unwrap_or(u32::MAX);
        let place = self.slots.get_mut(slot);
        place.since = since;
        if ttl > 0 {
            place.set_expires((due - self.made).div_ceil(MILLI) + u64::from(ttl));
        }
        if delay_millis > 0 {
            self.delay(slot, due);
        } else {
            self.make_ready(slot);
        }
        self.watch_expiry(slot);
    }

    pub(super) fn delay(&mut self, slot: Slot, due: u64) {
        let order = self.slots.get(slot).order;
        let order = if order == 0 { self.next_order() } else { order };
        let place = self.slots.get_mut(slot);
        place.order = order;
        place.at = due;
        place.state = State::Delayed;
        self.delayed.insert((due, order), slot);
    }

    fn next_order(&mut self) -> u64 {
        self.last_order += 1;
        self.last_order
    }

    /// A time given in milliseconds since the queue was made.
    pub(super) fn moment(&self, millis: u64) -> u64 {
        self.made + millis * MILLI
    }

    pub(super) fn watch_expiry(&mut self, slot: Slot) {
        let expires = self.slots.get(slot).expires();
        if expires > 0 {
            self.expiring.insert((expires, slot), ());
        }
    }

    /// Puts one that was never given out behind all others of its priority.
    pub(super) fn make_ready(&mut self, slot: Slot) {
        let order = self.next_order();
        let place = self.slots.get_mut(slot);
        place.order = order;
        place.state = State::Ready;
        let lane = usize::from(place.priority);
        self.slots.push_back(&mut self.lanes[lane], slot);
        self.filled |= 1 << lane;
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
        match (returned, lane) {
            (Some((priority, slot)), lane) if lane.is_none_or(|lane| priority >= lane) => Some(slot),
            (_, Some(lane)) => Some(self.lanes[lane as usize].head),
            (_, None) => None,
        }
    }

    /// The oldest of the lowest priority that is not given out.
    fn oldest_waiting(&self) -> Option<Slot> {
        let lane = (self.filled != 0).then(|| self.filled.trailing_zeros());
        let returned = self.returned.last_key_value().map(|((rank, _), _)| u32::from(9 - rank));
        match (returned, lane) {
            (Some(priority), lane) if lane.is_none_or(|lane| priority <= lane) => {
                let rank = u8::try_from(9 - priority).ok()?;
                self.returned.range((rank, 0)..).next().map(|(_, slot)| *slot)
            }
            (_, Some(lane)) => Some(self.lanes[lane as usize].head),
            (_, None) => self.delayed.first_key_value().map(|(_, slot)| *slot),
        }
    }

    /// Takes a message out of wherever it stands.
    pub(super) fn take_out(&mut self, slot: Slot) {
        let place = self.slots.get(slot);
        let (at, order, expires, priority, state) =
            (place.at, place.order, place.expires(), place.priority, place.state);
        let lane = usize::from(priority);
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
                self.delayed.remove(&(at, order));
            }
            State::Out => {
                self.slots.unlink(&mut self.out, slot);
                self.out_count -= 1;
            }
            State::Extended => {
                self.extended.remove(&(at, slot));
                self.out_count -= 1;
            }
            State::Free => {}
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
        charges.release(uid, cost(bytes));
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
        let place = self.slots.get(slot);
        let (priority, attempts) = (place.priority, u16::from(place.attempts));
        let (bytes, id) = self.slots.free(slot);
        let origin = self.origins.get(id).clone();
        self.origins.release(id);
        self.bytes -= cost(bytes.len());
        self.counts.dead += 1;
        let reason = reason.into();
        self.dead.push(Dead {
            number: 0,
            bytes,
            origin,
            priority,
            cause,
            reason,
            when: now.unix,
            attempts,
            by,
        });
        let (messages, bytes) = (u64::from(self.settings.dead_messages_max), self.settings.dead_bytes_max);
        while self.dead.is_over(messages, bytes) {
            let Some(oldest) = self.dead.pop_oldest() else { break };
            self.counts.dead_dropped += 1;
            charges.release(oldest.origin.from.uid, cost(oldest.bytes.len()));
        }
    }
}
