//! Queues and routes: the broker as a consumer, and as a producer that waits for the store.
//!
//! What routes have of a queue is theirs until they settle it: it is under way in this process, so no time runs out for it,
//! and it comes back only when the broker ends.

use super::Queues;
use super::ledger::Waiter;
use super::outstanding::Tag;
use super::queue::{Consumer, Queue};
use super::work::Place;
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::quota::{Checked, Refused};
use crate::core::strategy::Seat;
use tramline_wire::limits::REJECT_REASON_BYTES_MAX;
use tramline_wire::{Code, Verdict};

/// What routes say of a message that a queue gave them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Settled<'a> {
    /// It was dealt with.
    Ack,
    /// It comes again, as the queue's settings say.
    Nack,
    /// It is to be a dead letter of the queue.
    Reject {
        /// Why.
        reason: &'a str,
    },
}

impl Queue {
    /// Whether it is kept on disk.
    pub(in crate::core) fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Lets the consumer have a message for as long as it wants.
    fn keep_given(&mut self, seat: Seat, tag: u64, now: Now) {
        if let Tag::Has(slot) = self.look(seat, tag) {
            self.extend(slot, u32::MAX, now);
        }
    }
}

impl Queues {
    /// Has whoever pushed last told when that is stored. `false`: it is stored already.
    pub(in crate::core) fn ledger_waits(&mut self, waiter: Waiter) -> bool {
        self.ledger.wait(waiter).is_some()
    }
}

impl Core {
    /// Has routes take from a queue, so many messages at a time.
    pub(in crate::core) fn consume_for_routes(&mut self, queue: &str, most: u32, now: Now) -> Checked<Place> {
        let session = self.own_session(now);
        let Some(key) = self.queues.by_name.get(queue).copied() else {
            return Err(Refused::new(Code::UnknownQueue, format!("there is no queue {queue}")));
        };
        let known = self.sessions.get(session).and_then(|own| own.consumers.last_key_value());
        let number = known.map_or(1, |(last, _)| last + 1);
        let mut consumer = Consumer::new(session, number, self.identity.clone());
        consumer.credit = most.min(self.limits.prefetch_max);
        consumer.refill = true;
        Ok((key, self.add_consumer(key, consumer, (1, 0))?))
    }

    /// Has routes take nothing more from a queue; what they have they still settle.
    pub(in crate::core) fn consume_no_more(&mut self, place: Place, now: Now) {
        let Some(queue) = self.queues.table.get_mut(place.0) else { return };
        queue.change(place.1, |consumer| {
            (consumer.credit, consumer.refill) = (0, false);
        });
        self.leave_if_settled(place, now);
    }

    /// Ends a consumer that takes nothing more and has settled everything.
    fn leave_if_settled(&mut self, (key, seat): Place, now: Now) {
        let consumer = self.queues.table.get(key).and_then(|queue| queue.consumer(seat));
        if let Some(consumer) = consumer.filter(|consumer| consumer.outstanding() == 0) {
            let (session, number) = (consumer.session, consumer.number);
            self.remove_consumer(session, number, u64::MAX, now);
        }
    }

    /// Gives the next message of a queue to routes. `false`: there is none, or nobody takes it.
    pub(super) fn give_to_routes(&mut self, place: Place, now: Now) -> bool {
        let (key, seat) = place;
        if self.routes_hold_queue_up(place) {
            if let Some(queue) = self.queues.table.get_mut(key) {
                queue.change(seat, |consumer| consumer.blocked = true);
            }
            return true;
        }
        let queues = &mut self.queues;
        let Some(queue) = queues.table.get_mut(key) else { return false };
        let Some(given) = queue.give(seat, now, &mut queues.charges) else { return false };
        queue.keep_given(seat, given.tag, now);
        self.take_from_queue(place, given, now);
        true
    }

    /// Carries out what routes say of a message that a queue gave them.
    pub(in crate::core) fn settle_own_job(&mut self, place: Place, tag: u64, settled: Settled<'_>, now: Now) {
        let verdict = match settled {
            Settled::Ack => Verdict::Ack,
            Settled::Nack => Verdict::Nack { delay_millis: None },
            Settled::Reject { reason } => {
                let most = REJECT_REASON_BYTES_MAX.min(reason.len());
                let most = (0..=most).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
                Verdict::Reject { reason: &reason[..most] }
            }
        };
        self.settle_jobs(place, tag..=tag, verdict, now);
        let consumer = self.queues.table.get(place.0).and_then(|queue| queue.consumer(place.1));
        if consumer.is_some_and(|consumer| !consumer.refill) {
            self.leave_if_settled(place, now);
        }
    }
}
