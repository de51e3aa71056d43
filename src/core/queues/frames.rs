//! What frames about queues do.
//!
//! Every push is answered; those that were taken one after the other are answered together, once per turn. What a
//! consumer says of jobs that it has not is answered with a code for each, and the session goes on.

use super::bound::pushed_by;
use super::ledger::Waiter;
use super::queue::{Consumer, Incoming};
use super::work::{Place, refused_by};
use super::{ATTEMPTS_CEILING, Durability, QueueSettings, Right, WhenFull, cost};
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::native::{DELIVER_HEAD_BYTES, Violation, check_message};
use crate::core::quota::{Checked, Refused};
use crate::core::strategy::Strategy;
use crate::core::table::Key;
use std::sync::Arc;
use tramline_wire as wire;
use tramline_wire::limits::{ALIASES_MAX, MESSAGE_ID_BYTES_MAX, PRIORITY_MAX, REJECT_REASON_BYTES_MAX};
use tramline_wire::{Code, Consume, DeclareQueue, Push, ToClient, Verdict};

/// What a message needs in the body of the frame that gives it out, besides itself, and may be more one day.
pub(super) const PUSH_ROOM_BYTES: usize = DELIVER_HEAD_BYTES + 8;

/// Pushes that were taken and not yet answered: one behind the other, to one queue.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Taken {
    queue: u32,
    first: u64,
    last: u64,
}

impl Core {
    pub(in crate::core) fn open_queue(
        &mut self,
        key: Key,
        req: u32,
        alias: u32,
        name: &str,
    ) -> Result<(), Violation> {
        if alias >= ALIASES_MAX {
            let message = format!("queue alias {alias}; aliases are below {ALIASES_MAX}");
            return Err(Violation::new(Code::BadId, message));
        }
        self.answer_pushes(key);
        let queue = self.queue_for(key, name, Right::Push);
        let Some(session) = self.sessions.get_mut(key) else { return Ok(()) };
        let place = alias as usize;
        if session.queue_aliases.len() <= place {
            session.queue_aliases.resize_with(place + 1, || None);
        }
        session.queue_aliases[place] = Some((name.into(), queue.as_ref().ok().copied()));
        match queue {
            _ if req == 0 => {}
            Ok(_) => self.answer(key, &ToClient::Done { req }),
            Err(refused) => self.refuse(key, req, &refused),
        }
        Ok(())
    }

    /// The queue behind an alias. One that was not there, or not open to this client, may be by now.
    fn aliased_queue(&mut self, key: Key, alias: u32) -> Checked<Key> {
        let known =
            self.sessions.get_mut(key).and_then(|session| session.queue_aliases.get_mut(alias as usize));
        match known {
            Some(Some((_, Some(queue)))) => Ok(*queue),
            Some(Some((name, None))) => {
                let name = std::mem::take(name);
                let found = self.queue_for(key, &name, Right::Push);
                if let Some(session) = self.sessions.get_mut(key) {
                    session.queue_aliases[alias as usize] = Some((name, found.as_ref().ok().copied()));
                }
                found
            }
            _ => Err(Refused::new(Code::UnknownQueue, format!("queue alias {alias} is not defined"))),
        }
    }

    /// Whether a push to this alias is not to be taken now: its session is held up then.
    pub(in crate::core) fn push_is_held_up(&mut self, key: Key, alias: u32) -> bool {
        self.aliased_queue(key, alias).is_ok_and(|queue| self.store_holds_up(key, queue))
    }

    /// Whether a message of so many bytes would be taken now by the queue behind an alias, as far as room is concerned.
    pub(in crate::core) fn would_take(&mut self, key: Key, alias: u32, bytes: usize) -> Checked<()> {
        let queue_key = self.aliased_queue(key, alias)?;
        let queues = &mut self.queues;
        let Some(queue) = queues.table.get_mut(queue_key) else { return Ok(()) };
        let Some(session) = self.sessions.get(key) else { return Ok(()) };
        let waits = queue.settings.when_full != WhenFull::Refuse && cost(bytes) <= queue.settings.bytes_max;
        let full = queue.is_full_for(bytes).filter(|_| !waits);
        let refused = match full {
            Some(full) => Err(refused_by(&queue.name, full)),
            None => queues.charges.fit(queue.account(), session.identity.uid, cost(bytes), &self.limits),
        };
        queue.counts.refused += u64::from(refused.is_err());
        refused
    }

    /// Takes a push, unless its message was refused before.
    pub(in crate::core) fn take_push(
        &mut self,
        key: Key,
        push: &Push<'_>,
        bytes: Checked<Arc<[u8]>>,
        now: Now,
    ) -> Result<(), Violation> {
        let Push { queue: alias, priority, delay_millis, ttl_millis, id, message } = *push;
        check_message(&message)?;
        if priority > PRIORITY_MAX || id.len() > MESSAGE_ID_BYTES_MAX || message.after.is_some() {
            let message = format!(
                "a push of priority {priority} with an id of {} bytes; priorities end at {PRIORITY_MAX}, ids at \
                 {MESSAGE_ID_BYTES_MAX}, and a push follows no ring",
                id.len()
            );
            return Err(Violation::new(Code::Malformed, message));
        }
        let queue = self.aliased_queue(key, alias);
        let Some(session) = self.sessions.get_mut(key) else { return Ok(()) };
        session.traffic.messages_in += 1;
        session.traffic.bytes_in += message.payload.len() as u64;
        let from = session.identity.clone();
        let pushed = queue.and_then(|queue| {
            let incoming = Incoming { bytes: bytes?, priority, delay_millis, ttl_millis, id };
            let origin = pushed_by(&from, &self.nameless);
            self.push_to(queue, incoming, &origin, now)?;
            Ok(self.queues.table.get(queue).is_some_and(|queue| queue.kept.is_some()))
        });
        match pushed {
            Ok(is_kept) => {
                let waiter = Waiter::Pushes { session: key, alias, first: message.seq, last: message.seq };
                if !is_kept || !self.wait_for_store(key, waiter) {
                    self.pushes_taken(key, alias, message.seq, message.seq);
                }
            }
            Err(Refused { code, message: text, limit }) => {
                self.answer_pushes(key);
                self.totals.requests_refused += 1;
                let limit = limit.map(|(name, value, used)| wire::LimitInfo { name, value, used });
                let (code, seq) = (code.number(), message.seq);
                self.answer(key, &ToClient::PushRefused { queue: alias, seq, code, message: &text, limit });
            }
        }
        Ok(())
    }

    /// Pushes of these numbers were taken, to be answered with others.
    pub(super) fn pushes_taken(&mut self, key: Key, queue: u32, first: u64, last: u64) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        match &mut session.pushes {
            Some(taken) if taken.queue == queue && taken.last.checked_add(1) == Some(first) => {
                taken.last = last;
            }
            _ => {
                self.answer_pushes(key);
                if let Some(session) = self.sessions.get_mut(key) {
                    session.pushes = Some(Taken { queue, first, last });
                }
            }
        }
    }

    /// Answers the pushes that were taken, if there are any.
    pub(in crate::core) fn answer_pushes(&mut self, key: Key) {
        let taken = self.sessions.get_mut(key).and_then(|session| session.pushes.take());
        if let Some(Taken { queue, first, last }) = taken {
            self.answer(key, &ToClient::Pushed { queue, first, last });
        }
    }

    pub(in crate::core) fn declare_queue(&mut self, key: Key, declare: &DeclareQueue<'_>, now: Now) {
        let declared = self.declare(key, declare, now);
        let waiter = Waiter::Declared { session: key, req: declare.req };
        match declared {
            Ok(()) if declare.durable && self.wait_for_store(key, waiter) => {}
            Ok(()) => self.answer(key, &ToClient::Done { req: declare.req }),
            Err(refused) => self.refuse(key, declare.req, &refused),
        }
    }

    pub(super) fn declare(&mut self, key: Key, declare: &DeclareQueue<'_>, now: Now) -> Checked<()> {
        let Some(session) = self.sessions.get(key) else { return Ok(()) };
        if !self.access.may_declare(&session.peer) {
            let message = format!(
                "{} may not declare queues: only the broker's own user and root may, and whoever allow.declare_queues names",
                session.identity
            );
            return Err(Refused::new(Code::Denied, message));
        }
        if declare.durable && !self.access.may_declare_durable(&session.peer) {
            let message = format!(
                "{} may not declare queues on disk: only the broker's own user and root may, and whoever \
                 allow.declare_durable_queues names",
                session.identity
            );
            return Err(Refused::new(Code::Denied, message));
        }
        if declare.durable
            && let Some(refused) = self.is_read_only(declare.queue)
        {
            return Err(refused);
        }
        if declare.attempts_max > ATTEMPTS_CEILING {
            let message =
                format!("{} attempts are asked for; at most {ATTEMPTS_CEILING} can be", declare.attempts_max);
            return Err(Refused::new(Code::Malformed, message));
        }
        let default = QueueSettings::default();
        let or = |value: u64, default: u64| if value == 0 { default } else { value };
        let settings = QueueSettings {
            name: declare.queue.to_owned(),
            bind: declare.bind.split(' ').filter(|each| !each.is_empty()).map(str::to_owned).collect(),
            durability: if declare.durable { Durability::Disk } else { Durability::None },
            strategy: match declare.strategy {
                wire::Strategy::RoundRobin => Strategy::RoundRobin,
                wire::Strategy::LoadBalance => Strategy::LoadBalance,
                wire::Strategy::Failover => Strategy::Failover,
            },
            when_full: match declare.when_full {
                wire::WhenFull::Refuse => WhenFull::Refuse,
                wire::WhenFull::DropOldest => WhenFull::DropOldest,
                wire::WhenFull::DeadLetter => WhenFull::DeadLetter,
            },
            messages_max: or(declare.messages_max, default.messages_max),
            bytes_max: or(declare.bytes_max, default.bytes_max),
            ack_timeout_millis: if declare.ack_timeout_millis == 0 {
                default.ack_timeout_millis
            } else {
                declare.ack_timeout_millis
            },
            attempts_max: if declare.attempts_max == 0 { default.attempts_max } else { declare.attempts_max },
            ttl_millis: declare.ttl_millis,
            ..default
        };
        self.make_queue(settings, true, now)
    }

    pub(in crate::core) fn take_consume(&mut self, key: Key, frame: &Consume<'_>) -> Result<(), Violation> {
        let Some(session) = self.sessions.get(key) else { return Ok(()) };
        if frame.req == 0 || session.consumers.contains_key(&frame.consumer) {
            let message = format!(
                "consumer {} of request {}: the request must not be 0, the consumer must be unused",
                frame.consumer, frame.req
            );
            return Err(Violation::new(Code::BadId, message));
        }
        let mut consumer = Consumer::new(key, frame.consumer, session.identity.clone());
        consumer.credit = frame.credit;
        consumer.refill = frame.refill;
        let added = self.queue_for(key, frame.queue, Right::Consume).and_then(|queue| {
            self.add_consumer(queue, consumer, (frame.weight, frame.priority))?;
            Ok(self.queues.table.get(queue).map_or(0, |queue| queue.settings.ack_timeout_millis))
        });
        match added {
            Ok(ack_timeout_millis) => {
                let (req, consumer) = (frame.req, frame.consumer);
                self.answer(key, &ToClient::Consuming { req, consumer, ack_timeout_millis });
            }
            Err(refused) => self.refuse(key, frame.req, &refused),
        }
        Ok(())
    }

    fn consumer_of(&self, key: Key, number: u32) -> Result<Place, Violation> {
        let known = self.sessions.get(key).and_then(|session| session.consumers.get(&number).copied());
        known.ok_or_else(|| Violation::new(Code::BadId, format!("there is no consumer {number}")))
    }

    pub(in crate::core) fn take_credit(
        &mut self,
        key: Key,
        consumer: u32,
        more: u32,
    ) -> Result<(), Violation> {
        let place = self.consumer_of(key, consumer)?;
        if let Err(refused) = self.add_credit(place, more) {
            self.refuse(key, 0, &refused);
        }
        Ok(())
    }

    pub(in crate::core) fn take_settle(
        &mut self,
        key: Key,
        (req, consumer): (u32, u32),
        (first, last): (u64, u64),
        verdict: Verdict<'_>,
        now: Now,
    ) -> Result<(), Violation> {
        let most = u64::from(self.limits.prefetch_max);
        if first > last || last - first >= most {
            let message = format!(
                "jobs {first} to {last} are settled at once; at most {most} are (limits.prefetch_max)"
            );
            return Err(Violation::new(Code::Malformed, message));
        }
        if let Verdict::Reject { reason } = verdict
            && reason.len() > REJECT_REASON_BYTES_MAX
        {
            let message =
                format!("a reason of {} bytes; at most {REJECT_REASON_BYTES_MAX} are allowed", reason.len());
            return Err(Violation::new(Code::Malformed, message));
        }
        // A job may be settled when its consumer has ended already: it has been given to another.
        let failed = match self.consumer_of(key, consumer) {
            Ok(place) => self.settle_jobs(place, first..=last, verdict, now),
            Err(_) => vec![(first, Code::NotYours)],
        };
        for (tag, code) in failed {
            self.answer(key, &ToClient::JobLost { consumer, tag, code: code.number() });
        }
        if req != 0 {
            self.answer(key, &ToClient::Done { req });
        }
        Ok(())
    }

    pub(in crate::core) fn end_consume(&mut self, key: Key, req: u32, consumer: u32, seen: u64, now: Now) {
        // One that was refused, or has ended, is as gone as it is wanted to be.
        self.remove_consumer(key, consumer, seen, now);
        self.answer(key, &ToClient::Done { req });
    }
}
