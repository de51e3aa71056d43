//! Messages of a queue to its consumers, and back: given out, settled, taken away.
//!
//! A consumer is given a message while it has credit. What it has it settles by tag, once; whatever it does not settle
//! in time, or at all because it has gone, goes to others with the attempt counted.

use super::Cause;
use super::MILLI;
use super::charges::Charges;
use super::dice::Dice;
use super::outstanding::{Outstanding, Tag};
use super::queue::{Consumer, Given, Queue};
use super::settings::QueueSettings;
use super::slots::{Slot, State};
use crate::core::Now;
use crate::core::session::Identity;
use crate::core::strategy::Seat;
use std::sync::Arc;

impl Queue {
    pub(in crate::core) fn join(&mut self, consumer: Consumer, weight: u32, priority: u32) -> Seat {
        let seat = self.group.join(weight, priority);
        if self.consumers.len() <= seat as usize {
            self.consumers.resize_with(seat as usize + 1, || None);
        }
        self.consumers[seat as usize] = Some(consumer);
        self.look_at(seat);
        seat
    }

    pub(in crate::core) fn consumer(&self, seat: Seat) -> Option<&Consumer> {
        self.consumers.get(seat as usize)?.as_ref()
    }

    /// Changes a consumer, and sees whether it can take something now.
    pub(in crate::core) fn change(&mut self, seat: Seat, change: impl FnOnce(&mut Consumer)) {
        if let Some(Some(consumer)) = self.consumers.get_mut(seat as usize) {
            change(consumer);
            self.look_at(seat);
        }
    }

    fn look_at(&mut self, seat: Seat) {
        let ready = self.consumer(seat).is_some_and(|each| each.credit > 0 && !each.blocked);
        self.group.set_ready(seat, ready);
    }

    /// Who would get a message now; none if nothing is to be given, or nobody can take it.
    pub(in crate::core) fn next_consumer(&self) -> Option<Seat> {
        if self.paused || (self.filled == 0 && self.returned.is_empty()) {
            return None;
        }
        if self.kept.is_some() {
            self.next_ready()?;
        }
        self.group.choose()
    }

    /// Gives the next message to this consumer.
    pub(in crate::core) fn give(&mut self, seat: Seat, now: Now, charges: &mut Charges) -> Option<Given> {
        let slot = self.next_ready()?;
        self.take_out(slot);
        let consumer = self.consumers.get_mut(seat as usize)?.as_mut()?;
        consumer.credit = consumer.credit.saturating_sub(1);
        consumer.delivered += 1;
        self.counts.delivered += 1;
        let tag = consumer.has.next_tag();
        let place = self.slots.get_mut(slot);
        place.attempts += 1;
        let origin = self.origins.get(place.origin).clone();
        let (attempt, priority) = (place.attempts.into(), place.priority);
        let given = Given { bytes: place.bytes.clone(), origin, tag, attempt, priority };
        if consumer.auto_ack {
            consumer.has.add(slot);
            consumer.has.remove(tag);
            self.counts.acked += 1;
            self.keep_no_more(slot);
            self.free(slot, charges);
        } else {
            consumer.has.add(slot);
            place.tag = Outstanding::half(tag);
            place.seat = seat;
            place.state = State::Out;
            place.at = now.monotonic + u64::from(self.settings.ack_timeout_millis) * MILLI;
            self.slots.push_back(&mut self.out, slot);
            self.out_count += 1;
            self.group.served(seat);
        }
        self.look_at(seat);
        Some(given)
    }

    /// The tag of a message that is given out.
    pub(super) fn tag_of(&self, slot: Slot) -> u64 {
        let place = self.slots.get(slot);
        self.consumer(place.seat).map_or(0, |consumer| consumer.has.whole(place.tag))
    }

    /// What this tag means to this consumer.
    pub(super) fn look(&self, seat: Seat, tag: u64) -> Tag {
        self.consumer(seat).map_or(Tag::Unknown, |consumer| consumer.has.look(tag))
    }

    /// The consumer has settled a message that had been taken away from it: it can be given another.
    pub(in crate::core) fn settled_late(&mut self, seat: Seat, tag: u64) {
        self.change(seat, |consumer| {
            consumer.has.forget_late(tag);
            consumer.credit += u32::from(consumer.refill);
        });
    }

    fn no_longer_has(&mut self, seat: Seat, tag: u64) {
        self.group.settled(seat);
        self.change(seat, |consumer| {
            consumer.has.remove(tag);
            consumer.credit += u32::from(consumer.refill);
        });
    }

    pub(in crate::core) fn ack(&mut self, seat: Seat, slot: Slot, charges: &mut Charges) {
        let tag = self.tag_of(slot);
        self.take_out(slot);
        self.no_longer_has(seat, tag);
        self.counts.acked += 1;
        self.keep_no_more(slot);
        self.free(slot, charges);
    }

    pub(in crate::core) fn reject(
        &mut self,
        seat: Seat,
        slot: Slot,
        reason: &str,
        now: Now,
        charges: &mut Charges,
    ) {
        let tag = self.tag_of(slot);
        let by = self.consumer(seat).map(|consumer| consumer.identity.clone());
        self.take_out(slot);
        self.no_longer_has(seat, tag);
        self.counts.rejected += 1;
        self.bury(slot, Cause::Rejected, reason, by, now, charges);
    }

    /// Gives a message back: after `delay_millis`, or without that as the backoff of the queue says.
    pub(in crate::core) fn nack(
        &mut self,
        seat: Seat,
        slot: Slot,
        delay_millis: Option<u32>,
        dice: &mut Dice,
        now: Now,
        charges: &mut Charges,
    ) {
        let place = self.slots.get(slot);
        let (tag, attempts) = (self.tag_of(slot), place.attempts);
        let delay =
            delay_millis.map_or_else(|| self.backoff(attempts, dice), |millis| u64::from(millis) * MILLI);
        let by = self.consumer(seat).map(|consumer| consumer.identity.clone());
        self.take_out(slot);
        self.no_longer_has(seat, tag);
        self.counts.nacked += 1;
        self.give_back(slot, delay, Cause::Attempts, by, now, charges);
    }

    /// Lets a consumer keep a message for so long from now.
    pub(in crate::core) fn extend(&mut self, slot: Slot, millis: u32, now: Now) {
        self.take_out(slot);
        self.out_count += 1;
        let at = now.monotonic + u64::from(millis) * MILLI;
        let place = self.slots.get_mut(slot);
        place.at = at;
        place.state = State::Extended;
        self.extended.insert((at, slot), ());
    }

    /// A consumer has gone: what it had goes to others at once. What it was given after `seen` does not count as an attempt.
    pub(in crate::core) fn leave(
        &mut self,
        seat: Seat,
        seen: u64,
        now: Now,
        charges: &mut Charges,
    ) -> Option<Consumer> {
        let consumer = self.consumers.get_mut(seat as usize)?.take()?;
        self.group.leave(seat);
        for slot in consumer.has.all() {
            self.take_out(slot);
            let place = self.slots.get_mut(slot);
            place.attempts -= u8::from(consumer.has.whole(place.tag) > seen);
            self.counts.returned += 1;
            self.give_back(slot, 0, Cause::Attempts, Some(consumer.identity.clone()), now, charges);
        }
        Some(consumer)
    }

    /// How long a message waits after so many attempts: the base doubled for each, and between half and all of that.
    pub(super) fn backoff(&self, attempts: u8, dice: &mut Dice) -> u64 {
        let QueueSettings { backoff_millis, backoff_millis_max, .. } = self.settings;
        let doubled = u64::from(backoff_millis) << u32::from(attempts.saturating_sub(1)).min(31);
        let whole = doubled.min(u64::from(backoff_millis_max)) * MILLI;
        whole / 2 + dice.below(whole / 2 + 1)
    }

    /// Takes a message back that was given out and stands nowhere now.
    pub(super) fn give_back(
        &mut self,
        slot: Slot,
        delay: u64,
        cause: Cause,
        by: Option<Arc<Identity>>,
        now: Now,
        charges: &mut Charges,
    ) {
        let place = self.slots.get(slot);
        if u16::from(place.attempts) >= self.settings.attempts_max {
            return self.bury(slot, cause, "", by, now, charges);
        }
        if place.expires() > 0 && self.moment(place.expires()) <= now.monotonic {
            self.counts.expired += 1;
            return self.bury(slot, Cause::Expired, "", by, now, charges);
        }
        if delay > 0 {
            self.delay(slot, now.monotonic + delay);
        } else {
            self.make_returned(slot);
        }
        self.watch_expiry(slot);
        self.keep_attempts(slot, now);
    }
}
