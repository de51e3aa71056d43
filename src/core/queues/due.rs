//! What becomes due in a queue by the passing of time, and what an administrator does with one.
//!
//! A turn carries out a bounded number of things, so that a queue in which very much is due at once takes turns with the
//! others.

use super::charges::Charges;
use super::dead::Dead;
use super::dice::Dice;
use super::origins::Origin;
use super::queue::{Full, Incoming, PRIORITIES, Queue, TENTH};
use super::slots::{NONE, Slot, State};
use super::{Cause, cost};
use crate::core::Now;
use crate::core::durable::{Change, Shelf};
use crate::core::strategy::Seat;

/// Things that became due, or messages that are thrown away, that one turn deals with.
const TURN_MAX: usize = 1024;

impl Queue {
    /// When something is due next.
    pub(in crate::core) fn next_due(&self) -> Option<u64> {
        let out = (!self.out.is_empty()).then(|| self.slots.get(self.out.head).at);
        let delayed = self.delayed.first_key_value().map(|((at, _), _)| *at);
        let expiring = self.expiring.first_key_value().map(|((at, _), ())| self.moment(*at));
        let extended = self.extended.first_key_value().map(|((at, _), ())| *at);
        let trash = (!self.trash.is_empty() || self.is_over_limits()).then_some(0);
        [out, delayed, expiring, extended, trash].into_iter().flatten().min()
    }

    /// Carries out what is due, up to a bound for one turn. Returns seats and tags of messages that were taken away.
    pub(in crate::core) fn tick(
        &mut self,
        dice: &mut Dice,
        now: Now,
        charges: &mut Charges,
    ) -> Vec<(Seat, u64)> {
        let mut taken_away = Vec::new();
        for _ in 0..TURN_MAX {
            if let Some(entry) = self.delayed.first_entry().filter(|each| each.key().0 <= now.monotonic) {
                let slot = *entry.get();
                if self.slots.get(slot).attempts > 0 {
                    entry.remove();
                    self.count(slot, false);
                    self.make_returned(slot);
                } else if self.kept.is_some() {
                    self.take_out(slot);
                    self.move_to_waiting(slot);
                } else {
                    entry.remove();
                    self.make_ready(slot);
                }
            } else if let Some(((_, slot), ())) =
                self.expiring.first_key_value().filter(|((at, _), ())| self.moment(*at) <= now.monotonic)
            {
                let slot = *slot;
                self.take_out(slot);
                self.counts.expired += 1;
                self.bury(slot, Cause::Expired, "", None, now, charges);
            } else if let Some(slot) = self.overdue(now.monotonic) {
                let place = self.slots.get(slot);
                let (seat, tag, attempts) = (place.seat, self.tag_of(slot), place.attempts);
                taken_away.push((seat, tag));
                let delay = self.backoff(attempts, dice);
                self.take_out(slot);
                self.group.settled(seat);
                let mut by = None;
                self.change(seat, |consumer| {
                    consumer.has.remove_late(tag);
                    by = Some(consumer.identity.clone());
                });
                self.counts.timed_out += 1;
                self.give_back(slot, delay, Cause::TimedOut, by, now, charges);
            } else if let Some(thrown) = self.next_thrown() {
                if let Some(slot) = thrown {
                    self.free_thrown(slot, charges);
                }
            } else if self.is_over_limits() {
                self.drop_one(now, charges);
            } else {
                break;
            }
        }
        taken_away
    }

    fn overdue(&self, now: u64) -> Option<Slot> {
        let extended =
            self.extended.first_key_value().filter(|((at, _), ())| *at <= now).map(|((_, slot), ())| *slot);
        let head = self.out.head;
        extended.or_else(|| (head != NONE && self.slots.get(head).at <= now).then_some(head))
    }

    /// The next of what was thrown away; `Some(None)` was no message of its own.
    fn next_thrown(&mut self) -> Option<Option<Slot>> {
        let slot = self.trash.list.head;
        if slot == NONE {
            return self.trash.next_of_others();
        }
        self.slots.unlink(&mut self.trash.list, slot);
        Some(Some(slot))
    }

    /// Throws away everything that waits; what is given out stays. How many that were. Their memory is freed in turns.
    pub(in crate::core) fn purge(&mut self, charges: &mut Charges) -> u64 {
        let behind = self.purge_kept(charges);
        let purged = self.messages() - self.out_count - self.storing();
        self.trash.throw(std::mem::take(&mut self.returned).into_values().map(Some));
        self.trash.throw(std::mem::take(&mut self.delayed).into_values().map(Some));
        self.trash.throw(std::mem::take(&mut self.expiring).into_keys().map(|_| None));
        for lane in 0..PRIORITIES {
            let list = std::mem::take(&mut self.lanes[lane]);
            self.slots.append(&mut self.trash.list, list);
        }
        self.filled = 0;
        self.trash.count += purged;
        self.counts.purged += purged + behind;
        purged + behind
    }

    /// Frees one of what was thrown away. The store still has it if it was given out before; the others were a range.
    fn free_thrown(&mut self, slot: Slot, charges: &mut Charges) {
        self.trash.count -= 1;
        let place = self.slots.get(slot);
        if place.state == State::Returned || place.attempts > 0 {
            self.keep_no_more(slot);
        }
        self.free(slot, charges);
    }

    /// Frees all that was thrown away: there are no more turns.
    pub(in crate::core) fn empty_trash(&mut self, charges: &mut Charges) {
        while let Some(thrown) = self.next_thrown() {
            if let Some(slot) = thrown {
                self.free_thrown(slot, charges);
            }
        }
    }

    /// The messages that would be given out next, first to last.
    pub(in crate::core) fn peek(&self, most: usize) -> Vec<(&[u8], &Origin, u8, u16)> {
        let mut slots: Vec<Slot> = Vec::new();
        for priority in (0..PRIORITIES).rev() {
            let rank = u8::try_from(9 - priority).unwrap_or(0);
            let left = most - slots.len();
            slots.extend(self.returned.range((rank, 0)..(rank + 1, 0)).map(|(_, slot)| *slot).take(left));
            let left = most - slots.len();
            slots.extend(self.slots.iter(self.lanes[priority]).take(left));
        }
        let look = |slot: Slot| {
            let place = self.slots.get(slot);
            (&*place.bytes, self.origins.get(place.origin), place.priority, place.attempts.into())
        };
        slots.into_iter().map(look).collect()
    }

    /// Age in nanoseconds of the message that would be given out next, or was given out first.
    pub(in crate::core) fn oldest_age(&self, now: u64) -> Option<u64> {
        let heads = self.lanes.iter().map(|lane| lane.head).chain([self.out.head]);
        let returned = self.returned.values().next().copied();
        let delayed = self.delayed.values().next().copied();
        let since = heads.chain(returned).chain(delayed).filter(|slot| *slot != NONE);
        let since = since.map(|slot| u64::from(self.slots.get(slot).since) * TENTH).min()?;
        Some(self.since_made(now).saturating_sub(since))
    }

    /// Puts a dead letter back into the queue as if it had just been pushed. Whether there is one with this number; one that
    /// is kept waits in `Kept::moving` for being written.
    pub(in crate::core) fn replay(
        &mut self,
        number: u64,
        now: Now,
        charges: &mut Charges,
    ) -> Result<bool, Full> {
        let Some(bytes) = self.dead.find(number).map(|dead| dead.bytes.len()) else { return Ok(false) };
        if let Some(full) = self.is_full_for(bytes) {
            return Err(full);
        }
        let Some(Dead { bytes, origin, priority, .. }) = self.dead.remove(number) else { return Ok(false) };
        charges.release(self.account(), origin.from.uid, cost(bytes.len()));
        let incoming = Incoming { bytes, priority, delay_millis: 0, ttl_millis: 0, id: b"" };
        let slot = self.push(incoming, &origin, now, charges);
        match &mut self.kept {
            Some(kept) => {
                kept.moving.push(slot);
                kept.changes.push(Change::Remove { queue: kept.number, shelf: Shelf::Dead, number });
            }
            None => self.counts.pushed -= 1,
        }
        self.counts.replayed += 1;
        Ok(true)
    }

    /// Throws a dead letter away. Whether there was one with this number.
    pub(in crate::core) fn purge_dead(&mut self, number: u64, charges: &mut Charges) -> bool {
        let Some(dead) = self.dead.remove(number) else { return false };
        self.dead_is_gone(&dead, charges);
        self.counts.dead_purged += 1;
        true
    }
}
