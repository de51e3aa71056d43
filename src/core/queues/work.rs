//! Queues in the core: how one is made, how a message gets into one and from there into an outbox, and when.
//!
//! Giving out happens where the core settles after each event: a queue gives up to a bound in one turn and goes behind
//! the others then, so a queue with very much to give holds nobody up for longer than that. A consumer whose
//! session does not read is passed over until it does.

use super::ledger::Pushing;
use super::origins::Origin;
use super::outstanding::Tag;
use super::queue::{Consumer, Full, Incoming, Queue};
use super::{Durability, QueueSettings, Right, cost};
use crate::core::broker::Core;
use crate::core::bulk::{HEAD_BYTES, Placing};
use crate::core::delivery::{Handed, line};
use crate::core::durable::Change;
use crate::core::gaps::{alias_of, note_gone};
use crate::core::quota::{Checked, Refused, fits};
use crate::core::session::{Session, Stage};
use crate::core::strategy::Seat;
use crate::core::table::Key;
use crate::core::timers::Timer;
use crate::core::{Action, Language, Now};
use crate::json::{self, JobLine};
use std::ops::RangeInclusive;
use tramline_wire::{Code, Job, Message, ToClient, Topic, Verdict};

/// Messages that one queue gives out before others have their turn.
const TURN_MESSAGES: usize = 256;

/// A consumer as its session knows it.
pub(in crate::core) type Place = (Key, Seat);

impl Core {
    /// Makes a queue with these settings, which are known to be within their ranges.
    ///
    /// # Errors
    /// When the name or a filter is not one, a queue of this name has other settings, or a limit is reached.
    pub fn add_queue(&mut self, settings: QueueSettings, now: Now) -> Result<(), (Code, String)> {
        let name = settings.name.clone();
        let made = self.make_queue(settings, false, now).map_err(|refused| (refused.code, refused.message));
        let key = self.queues.by_name.get(name.as_str()).filter(|_| made.is_ok());
        if let Some(queue) = key.and_then(|key| self.queues.table.get_mut(*key)) {
            queue.configured = true;
        }
        self.settle(now);
        made
    }

    pub(super) fn make_queue(&mut self, settings: QueueSettings, declared: bool, now: Now) -> Checked<()> {
        let name = Topic::parse(&settings.name).ok().filter(|topic| !topic.is_reserved());
        if name.is_none() {
            let message = format!("{:?} cannot be a queue's name: it is a topic without $", settings.name);
            return Err(Refused::new(Code::BadTopic, message));
        }
        if let Some(known) = self.queues.by_name.get(settings.name.as_str()) {
            let known = self.queues.table.get(*known).filter(|queue| !queue.retiring);
            let same = known.is_some_and(|queue| queue.settings == settings);
            let message = format!("there is a queue {} already, with other settings", settings.name);
            return if same { Ok(()) } else { Err(Refused::new(Code::QueueExists, message)) };
        }
        let used = self.queues.by_name.len() as u64;
        fits("queues_max", "queues", self.limits.queues_max.into(), used, 1)?;
        self.may_be_made(&settings)?;
        let bind = settings.bind.clone();
        let is_kept = settings.durability == Durability::Disk;
        let mut queue = Queue::new(settings, now.monotonic);
        let kept = if is_kept { self.keep_queue(&mut queue, declared, now) } else { None };
        let name = queue.name.clone();
        let key = self.queues.table.insert(queue);
        self.queues.by_name.insert(name.clone(), key);
        for filter in &bind {
            if let Err(refused) = self.bind_queue(key, filter, now) {
                self.unbind_queue(key);
                self.queues.table.remove(key);
                self.queues.by_name.remove(&name);
                self.queues.ledger.add(&mut kept.map(|queue| Change::Forget { queue }).into_iter().collect());
                return Err(refused);
            }
        }
        self.wants_attention(key);
        self.queue_event(key, "made");
        Ok(())
    }

    /// The queue of this name, if this session has this right to it.
    pub(super) fn queue_for(&self, session: Key, name: &str, right: Right) -> Checked<Key> {
        let found = self.queues.by_name.get(name).and_then(|key| Some((*key, self.queues.table.get(*key)?)));
        let Some((key, queue)) = found else {
            let message =
                format!("there is no queue {name:?}: queues in the configuration, or declared, are");
            return Err(Refused::new(Code::UnknownQueue, message));
        };
        if queue.retiring && right == Right::Push {
            let message = format!(
                "queue {name} takes nothing more: it is not in the configuration any more, and goes when it is empty"
            );
            return Err(Refused::new(Code::UnknownQueue, message));
        }
        self.has_right(session, queue, right).map(|()| key)
    }

    /// Whether a session has this right to a queue.
    pub(super) fn has_right_to(&self, session: Key, key: Key, right: Right) -> Checked<()> {
        self.queues.table.get(key).map_or(Ok(()), |queue| self.has_right(session, queue, right))
    }

    fn has_right(&self, session: Key, queue: &Queue, right: Right) -> Checked<()> {
        let Some(session) = self.sessions.get(session) else { return Ok(()) };
        if queue.settings.allows(right, &session.peer, self.access.own_uid) {
            return Ok(());
        }
        let (key, name) = (right.as_str(), &queue.name);
        let message =
            format!("{} may not {key} queue {name}: queues[].{key} lets others in", session.identity);
        Err(Refused::new(Code::Denied, message))
    }

    /// Queues a message, unless it was queued before under the same id. One that is to be kept is queued when it is stored:
    /// whoever is to be told then waits for the store.
    pub(in crate::core) fn push_to(
        &mut self,
        key: Key,
        incoming: Incoming<'_>,
        origin: &Origin,
        now: Now,
    ) -> Checked<()> {
        let kept = self.queues.table.get(key).filter(|queue| queue.kept.is_some());
        if let Some(refused) = kept.and_then(|queue| self.is_read_only(&queue.name)) {
            if let Some(queue) = self.queues.table.get_mut(key) {
                queue.counts.refused += 1;
            }
            return Err(refused);
        }
        let queues = &mut self.queues;
        let Some(queue) = queues.table.get_mut(key) else { return Ok(()) };
        let uid = origin.from.uid;
        if queue.has_seen(uid, incoming.id, now) {
            queue.counts.duplicates += 1;
            return Ok(());
        }
        if let Err(refused) =
            queues.charges.fit(queue.account(), uid, cost(incoming.bytes.len()), &self.limits)
        {
            queue.counts.refused += 1;
            return Err(refused);
        }
        if incoming.delay_millis > 0
            && let Some((value, used)) = queue.too_many_delayed(incoming.bytes.len())
        {
            queue.counts.refused += 1;
            let (what, name) = ("delayed messages of a queue on disk", "queue_cache_bytes_max");
            let message = format!("{what} would take {used} bytes of memory; limits.{name} is {value}");
            return Err(Refused { code: Code::LimitReached, message, limit: Some((name, value, used)) });
        }
        queue
            .make_room(incoming.bytes.len(), now, &mut queues.charges)
            .map_err(|full| refused_by(&queue.name, full))?;
        let (id, window) = (incoming.id, queue.settings.id_window_millis);
        let slot = queue.push(incoming, origin, now, &mut queues.charges);
        if let Some(put) = queue.put_behind_all(slot, now) {
            let number = queue.kept.as_ref().map_or(0, |kept| kept.number);
            let until_millis = now.unix / 1_000_000 + i64::from(window);
            let seen =
                (!id.is_empty()).then(|| Change::Seen { queue: number, uid, id: id.into(), until_millis });
            queues.ledger.push(Pushing { queue: key, slot, put, seen, is_new: true });
        }
        self.wants_attention(key);
        Ok(())
    }

    /// Has a queue looked at before the shell is told anything.
    pub(in crate::core) fn wants_attention(&mut self, key: Key) {
        let Some(queue) = self.queues.table.get_mut(key).filter(|queue| !queue.is_busy) else { return };
        queue.is_busy = true;
        self.queues.busy.push_back(key);
    }

    /// Gives out what the queues have for whom they have; each as much as one turn allows.
    pub(in crate::core) fn give_out(&mut self, now: Now) {
        for _ in 0..self.queues.busy.len() {
            let Some(key) = self.queues.busy.pop_front() else { break };
            let Some(queue) = self.queues.table.get_mut(key) else { continue };
            queue.is_busy = false;
            let more = self.give_out_of(key, now);
            self.look_after(key, now);
            self.let_rings_go_on(key);
            if !self.remove_if_retired(key, now) {
                let news = self.tell_news(key, now);
                self.arm(key, if more { Some(now.monotonic) } else { news }, now);
            }
        }
    }

    /// Whether there was more than one turn allows.
    fn give_out_of(&mut self, key: Key, now: Now) -> bool {
        let outbox_bytes_max = self.limits.outbox_bytes_max as usize;
        let json_max = self.limits.json_payload_bytes_max as usize;
        let frame_bytes_max = self.limits.frame_bytes_max as usize;
        for _ in 0..TURN_MESSAGES {
            let queues = &mut self.queues;
            let Some(queue) = queues.table.get_mut(key) else { return false };
            if queue.kept.is_some() && queues.ledger.clogged {
                return false;
            }
            let Some(seat) = queue.next_consumer() else { return false };
            let Some(consumer) = queue.consumer(seat) else { return false };
            let (session_key, number) = (consumer.session, consumer.number);
            if Some(session_key) == queues.own_session {
                if self.give_to_routes((key, seat), now) {
                    continue;
                }
                return false;
            }
            let Some(session) = self.sessions.get_mut(session_key) else { return false };
            let bulk = queue.next_bytes().filter(|next| next.len() + HEAD_BYTES > frame_bytes_max);
            let bulk = bulk.filter(|_| session.language == Language::Native).cloned();
            let mut is_blocked = session.outbox.len() >= outbox_bytes_max
                || session.stage != Stage::Open
                // What follows one that is being copied does not overtake it.
                || session.bulk.is_given_to(number);
            let mut place = None;
            if let Some(next) = bulk.as_ref().filter(|_| !is_blocked) {
                place = self.bulk_room(session_key, next);
                is_blocked = place.is_none();
            }
            let queues = &mut self.queues;
            let Some(queue) = queues.table.get_mut(key) else { return false };
            let Some(session) = self.sessions.get_mut(session_key) else { return false };
            if is_blocked {
                queue.change(seat, |consumer| consumer.blocked = true);
                session.blocked.push((key, seat));
                continue;
            }
            if let Some(offset) = place {
                let Some(given) = queue.give(seat, now, &mut queues.charges) else { return false };
                self.place_bulk(session_key, offset, Placing::Job { consumer: number, given });
                continue;
            }
            let Some(given) = queue.give(seat, now, &mut queues.charges) else { return false };
            session.traffic.messages_out += 1;
            session.traffic.bytes_out += given.bytes.len() as u64;
            let Session { outbox, sources, .. } = session;
            let origin = &given.origin;
            match session.language {
                Language::Native => {
                    let out = outbox.buffer();
                    let (source, new) = alias_of(sources, out, &origin.from, origin.topic, &origin.name);
                    let job = Job {
                        consumer: number,
                        source,
                        tag: given.tag,
                        attempt: given.attempt.into(),
                        priority: given.priority,
                        message: Message::default(),
                    };
                    job.encode_around(out, &given.bytes);
                    if new {
                        note_gone(sources, |id| self.by_id.contains_key(&id));
                    }
                }
                Language::Json => {
                    let auto_ack = queue.consumer(seat).is_some_and(|consumer| consumer.auto_ack);
                    if let Some(handed) = Handed::of(&given.bytes, origin) {
                        let job = JobLine {
                            queue: &queue.name,
                            tag: (!auto_ack).then_some(given.tag),
                            attempt: given.attempt,
                            priority: given.priority,
                            message: line(0, &handed, now),
                        };
                        json::write_job(outbox.buffer(), &job, json_max);
                    }
                }
            }
            self.mark_dirty(session_key);
            self.finish_if_done(session_key);
        }
        true
    }

    /// A JSON client that writes no more ends when it has been given what it asked for.
    pub(in crate::core) fn finish_if_done(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key).filter(|session| session.half_closed) else { return };
        let done = session.stage == Stage::Open && self.has_finished(key);
        if done {
            self.to_finish.push_back(key);
        }
    }

    /// Ends the sessions that have been given all that they asked for.
    pub(in crate::core) fn finish_those_done(&mut self) {
        while let Some(key) = self.to_finish.pop_front() {
            if self.sessions.get(key).is_some_and(|session| session.stage == Stage::Open) {
                self.finish(key);
            }
        }
    }

    /// Whether a client has said and heard everything.
    pub(in crate::core) fn has_finished(&self, key: Key) -> bool {
        self.sessions.get(key).is_some_and(Session::is_finished) && !self.is_waiting_for_jobs(key)
    }

    /// Whether a session may still be given messages from a queue, or has some.
    pub(in crate::core) fn is_waiting_for_jobs(&self, key: Key) -> bool {
        let Some(session) = self.sessions.get(key) else { return false };
        session.consumers.values().any(|(queue, seat)| {
            let consumer = self.queues.table.get(*queue).and_then(|queue| queue.consumer(*seat));
            consumer.is_some_and(|consumer| consumer.credit > 0 || consumer.outstanding() > 0)
        })
    }

    /// Sets the timer of a queue for what is due next in it. What is due already is for the next turn: others come first.
    fn arm(&mut self, key: Key, at_latest: Option<u64>, now: Now) {
        let Some(queue) = self.queues.table.get_mut(key) else { return };
        let Some(at) = [queue.next_due(), at_latest].into_iter().flatten().min() else { return };
        let at = at.max(now.monotonic + 1);
        if let Some(set) = queue.timer_at {
            // One that is set too early costs one look; setting it anew with each message would cost more.
            if set <= at {
                return;
            }
            self.timers.cancel(set, Timer::Queue(key));
        }
        queue.timer_at = Some(at);
        self.timers.set(at, Timer::Queue(key));
    }

    /// Something is due in a queue.
    pub(in crate::core) fn queue_is_due(&mut self, key: Key, now: Now) {
        let queues = &mut self.queues;
        let Some(queue) = queues.table.get_mut(key) else { return };
        queue.timer_at = None;
        let taken_away = queue.tick(&mut queues.dice, now, &mut queues.charges);
        for (seat, tag) in taken_away {
            let Some(consumer) = self.queues.table.get(key).and_then(|queue| queue.consumer(seat)) else {
                continue;
            };
            let (session, number) = (consumer.session, consumer.number);
            self.tell_job_lost(session, key, number, tag, Code::TooLate);
        }
        self.wants_attention(key);
    }

    /// Tells that a consumer does not have a job any more; with tag 0 that the consumer itself has ended.
    pub(super) fn tell_job_lost(&mut self, session: Key, queue: Key, consumer: u32, tag: u64, code: Code) {
        let Some(known) = self.sessions.get(session) else { return };
        match known.language {
            Language::Native => {
                self.send_control(session, &ToClient::JobLost { consumer, tag, code: code.number() });
            }
            Language::Json => {
                let Some(name) = self.queues.table.get(queue).map(|queue| queue.name.clone()) else { return };
                self.answer_json(session, |out| json::write_job_lost(out, &name, tag, code));
            }
        }
    }

    /// Takes a consumer in. Its number is known to be free.
    pub(super) fn add_consumer(
        &mut self,
        key: Key,
        consumer: Consumer,
        (weight, priority): (u32, u32),
    ) -> Checked<Seat> {
        let Some(session) = self.sessions.get_mut(consumer.session) else { return Ok(0) };
        let (max, used) = (self.limits.session_consumers_max.into(), session.consumers.len() as u64);
        fits("session_consumers_max", "consumers of this client", max, used, 1)?;
        let prefetch = self.limits.prefetch_max.into();
        fits("prefetch_max", "messages for this consumer", prefetch, 0, consumer.credit.into())?;
        let Some(queue) = self.queues.table.get_mut(key) else { return Ok(0) };
        let number = consumer.number;
        let seat = queue.join(consumer, weight, priority);
        session.consumers.insert(number, (key, seat));
        self.wants_attention(key);
        Ok(seat)
    }

    /// Lets a consumer be given more.
    pub(super) fn add_credit(&mut self, (key, seat): Place, more: u32) -> Checked<()> {
        let max = u64::from(self.limits.prefetch_max);
        let Some(queue) = self.queues.table.get_mut(key) else { return Ok(()) };
        let Some(consumer) = queue.consumer(seat) else { return Ok(()) };
        let used = u64::from(consumer.credit) + consumer.outstanding() as u64;
        fits("prefetch_max", "messages for this consumer", max, used, more.into())?;
        queue.change(seat, |consumer| consumer.credit += more);
        self.wants_attention(key);
        Ok(())
    }

    /// A consumer takes no more, and gives back what it has. Nobody has looked at what came after `seen`.
    pub(super) fn remove_consumer(&mut self, session: Key, number: u32, seen: u64, now: Now) {
        let Some(known) = self.sessions.get_mut(session) else { return };
        let Some((key, seat)) = known.consumers.remove(&number) else { return };
        known.blocked.retain(|each| *each != (key, seat));
        let queues = &mut self.queues;
        if let Some(queue) = queues.table.get_mut(key) {
            queue.leave(seat, seen, now, &mut queues.charges);
        }
        self.wants_attention(key);
    }

    /// Consumers whose sessions have ended give back what they have.
    pub(in crate::core) fn end_consumers(&mut self, now: Now) {
        for (key, seat) in std::mem::take(&mut self.queues.leaving) {
            let queues = &mut self.queues;
            if let Some(queue) = queues.table.get_mut(key) {
                // What it looked at before it died nobody knows: all of it counts.
                queue.leave(seat, u64::MAX, now, &mut queues.charges);
            }
            self.wants_attention(key);
        }
    }

    /// A session has room in its outbox again.
    pub(in crate::core) fn unblock_consumers(&mut self, session: Key) {
        let outbox_bytes_max = self.limits.outbox_bytes_max as usize;
        let Some(known) = self.sessions.get_mut(session) else { return };
        if known.blocked.is_empty() || known.outbox.len() >= outbox_bytes_max {
            return;
        }
        for (key, seat) in std::mem::take(&mut known.blocked) {
            if let Some(queue) = self.queues.table.get_mut(key) {
                queue.change(seat, |consumer| consumer.blocked = false);
            }
            self.wants_attention(key);
        }
    }

    /// Carries out what a consumer says of these jobs. Comes back with those for which that cannot be, and why.
    pub(in crate::core) fn settle_jobs(
        &mut self,
        (key, seat): Place,
        tags: RangeInclusive<u64>,
        verdict: Verdict<'_>,
        now: Now,
    ) -> Vec<(u64, Code)> {
        let mut failed = Vec::new();
        let queues = &mut self.queues;
        let Some(queue) = queues.table.get_mut(key) else { return vec![(*tags.start(), Code::UnknownQueue)] };
        let charges = &mut queues.charges;
        for tag in tags {
            let slot = match queue.look(seat, tag) {
                Tag::Has(slot) => slot,
                Tag::Late => {
                    if !matches!(verdict, Verdict::Extend { .. }) {
                        queue.settled_late(seat, tag);
                    }
                    failed.push((tag, Code::TooLate));
                    continue;
                }
                Tag::Settled => {
                    failed.push((tag, Code::SettledTwice));
                    continue;
                }
                Tag::Unknown => {
                    failed.push((tag, Code::NotYours));
                    continue;
                }
            };
            match verdict {
                Verdict::Ack => queue.ack(seat, slot, charges),
                Verdict::Nack { delay_millis } => {
                    queue.nack(seat, slot, delay_millis, &mut queues.dice, now, charges);
                }
                Verdict::Reject { reason } => queue.reject(seat, slot, reason, now, charges),
                Verdict::Extend { millis } => queue.extend(slot, millis, now),
            }
        }
        self.wants_attention(key);
        failed
    }

    /// Reads rings again whose messages did not fit.
    fn let_rings_go_on(&mut self, key: Key) {
        let Some(queue) = self.queues.table.get_mut(key) else { return };
        let stuck = queue.kept.is_some() && self.queues.ledger.is_stuck();
        if !queue.holds_rings_up || queue.is_full_for(0).is_some() || stuck {
            return;
        }
        queue.holds_rings_up = false;
        for binding in &queue.bindings {
            if let Some(subscription) = self.subscriptions.get_mut(*binding) {
                let waiting = std::mem::take(&mut subscription.waiting_proxies);
                self.actions.extend(waiting.into_iter().map(|attach| Action::ProxyResume { attach }));
            }
        }
    }
}

/// The refusal of a message by a queue that is full.
pub(super) fn refused_by(name: &str, full: Full) -> Refused {
    let Full { limit, value, used } = full;
    let message = format!(
        "queue {name} is full: with this message it would hold {used}, and queues[].{limit} is {value}"
    );
    Refused { code: Code::QueueFull, message, limit: Some((limit, value, used)) }
}
