//! Queues of the configuration that was read again: new ones are made, changed settings count from now on, and those that it
//! does not name any more are worked off and go.
//!
//! What a client declared stays as it is, unless the configuration names it. What cannot be done is said with its reason
//! in the log, and the rest is done. However much a lower limit has dropped, each turn drops a bounded part of it.

use super::Right;
use super::charges::Charges;
use super::kept::Oldest;
use super::queue::Queue;
use super::settings::{QueueSettings, WhenFull};
use super::slots::{NONE, State};
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::strategy::Seat;
use crate::core::table::Key;
use crate::core::timers::Timer;
use tramline_wire::Code;

impl Core {
    /// The operator changed queues in the configuration: these are all that it names.
    pub fn change_queues(&mut self, wanted: &[QueueSettings], now: Now) {
        for settings in wanted {
            match self.queues.by_name.get(settings.name.as_str()).copied() {
                Some(key) => self.change_queue(key, settings, now),
                None => match self.add_queue(settings.clone(), now) {
                    Ok(()) => tracing::info!("queue {} is there from now on", settings.name),
                    Err((code, message)) => {
                        tracing::error!("queue {} is not made: {code}: {message}", settings.name);
                    }
                },
            }
        }
        let is_out = |queue: &Queue| {
            queue.configured && !wanted.iter().any(|settings| settings.name.as_str() == &*queue.name)
        };
        let out: Vec<Key> =
            self.queues.table.iter().filter(|(_, queue)| is_out(queue)).map(|(key, _)| key).collect();
        for key in out {
            self.retire(key);
        }
        self.settle(now);
    }

    fn change_queue(&mut self, key: Key, wanted: &QueueSettings, now: Now) {
        let Some(queue) = self.queues.table.get_mut(key) else { return };
        (queue.configured, queue.retiring) = (true, false);
        let durability = queue.settings.durability;
        if durability != wanted.durability {
            tracing::error!(
                "queue {} stays with durability {}, and does not get {}, until the broker is started again",
                wanted.name,
                durability.as_str(),
                wanted.durability.as_str()
            );
        }
        let changes = changes(&queue.settings, wanted);
        if changes.is_empty() {
            return;
        }
        let bind = std::mem::take(&mut queue.settings.bind);
        let before =
            std::mem::replace(&mut queue.settings, QueueSettings { bind, durability, ..wanted.clone() });
        if before.strategy != wanted.strategy {
            queue.group.set_strategy(wanted.strategy);
        }
        if before.ack_timeout_millis != wanted.ack_timeout_millis {
            queue.keep_deadlines();
        }
        tracing::info!("queue {} is as the configuration says now: {}", wanted.name, changes.join(", "));
        self.rebind(key, &wanted.bind, now);
        self.revoke(key, now);
        self.queue_event(key, "changed");
        self.wants_attention(key);
    }

    /// Binds a queue to these filters and no others.
    fn rebind(&mut self, key: Key, wanted: &[String], now: Now) {
        let Some(queue) = self.queues.table.get_mut(key) else { return };
        let (filters, bindings) =
            (std::mem::take(&mut queue.settings.bind), std::mem::take(&mut queue.bindings));
        let (kept, ended): (Vec<_>, Vec<_>) =
            filters.into_iter().zip(bindings).partition(|(filter, _)| wanted.contains(filter));
        ended.into_iter().for_each(|(_, binding)| self.end_subscription(binding, 0));
        let Some(queue) = self.queues.table.get_mut(key) else { return };
        (queue.settings.bind, queue.bindings) = kept.into_iter().unzip();
        for filter in wanted {
            let Some(queue) =
                self.queues.table.get(key).filter(|queue| !queue.settings.bind.contains(filter))
            else {
                continue;
            };
            let name = queue.name.clone();
            match self.bind_queue(key, filter, now) {
                Ok(()) => {
                    if let Some(queue) = self.queues.table.get_mut(key) {
                        queue.settings.bind.push(filter.clone());
                    }
                }
                Err(refused) => {
                    let (code, message) = (refused.code, refused.message);
                    tracing::error!("queue {name} is not bound to {filter}: {code}: {message}");
                }
            }
        }
    }

    /// Ends consumers that may not consume any more, and has producers asked anew whether they may push.
    fn revoke(&mut self, key: Key, now: Now) {
        self.ask_anew(key);
        let Some(queue) = self.queues.table.get(key) else { return };
        let consumers: Vec<(Seat, Key)> = queue.consumers_by_seat().collect();
        for (seat, session) in consumers {
            if self.has_right_to(session, key, Right::Consume).is_err() {
                self.end_consumer(key, seat, Code::Denied, now);
            }
        }
    }

    /// Has producers that know a queue under an alias asked again whether they may push to it, with their next push.
    fn ask_anew(&mut self, key: Key) {
        let sessions: Vec<Key> = self.sessions.iter().map(|(key, _)| key).collect();
        for session in sessions {
            let aliases = self.sessions.get_mut(session).map(|session| session.queue_aliases.iter_mut());
            for (_, known) in aliases.into_iter().flatten().flatten() {
                known.take_if(|known| *known == key);
            }
        }
    }

    /// Ends a consumer that its client has not ended, and tells it so.
    fn end_consumer(&mut self, key: Key, seat: Seat, code: Code, now: Now) {
        let queues = &mut self.queues;
        let Some(consumer) =
            queues.table.get_mut(key).and_then(|queue| queue.leave(seat, u64::MAX, now, &mut queues.charges))
        else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(consumer.session) {
            session.consumers.remove(&consumer.number);
            session.blocked.retain(|each| *each != (key, seat));
        }
        self.tell_job_lost(consumer.session, key, consumer.number, 0, code);
    }

    /// A queue is not in the configuration any more: it takes nothing, and goes when it is empty. What one on disk holds until
    /// then is there again when the broker is started with it again.
    fn retire(&mut self, key: Key) {
        if self.queues.table.get(key).is_none_or(|queue| queue.retiring) {
            return;
        }
        self.unbind_queue(key);
        let Some(queue) = self.queues.table.get_mut(key) else { return };
        (queue.configured, queue.retiring) = (false, true);
        queue.settings.bind.clear();
        tracing::info!(
            "queue {} is not in the configuration any more: it takes nothing, and goes when its {} messages and {} dead \
             letters have gone",
            queue.name,
            queue.messages(),
            queue.dead.len()
        );
        self.ask_anew(key);
        self.queue_event(key, "retiring");
        self.wants_attention(key);
    }

    /// Removes a queue that was waiting to be empty, and is. Whether it is gone.
    pub(super) fn remove_if_retired(&mut self, key: Key, now: Now) -> bool {
        let Some(queue) = self.queues.table.get(key) else { return true };
        let behind = queue.kept.as_ref().map_or(0, |kept| kept.dead_behind().0);
        let holds = queue.messages() + queue.dead.len() as u64 + behind > 0 || !queue.trash.is_empty();
        if !queue.retiring || holds || self.routes_need_queue(&queue.name) {
            return false;
        }
        let consumers: Vec<Seat> = queue.consumers_by_seat().map(|(seat, _)| seat).collect();
        for seat in consumers {
            self.end_consumer(key, seat, Code::UnknownQueue, now);
        }
        self.queue_event(key, "removed");
        if let Some(mut queue) = self.queues.table.remove(key) {
            tracing::info!("queue {} is empty and has gone", queue.name);
            self.queues.by_name.remove(&queue.name);
            if let Some(kept) = &mut queue.kept {
                kept.forget();
                self.queues.ledger.add(&mut kept.changes);
                self.arm_store(now);
            }
            queue.timer_at.into_iter().for_each(|at| self.timers.cancel(at, Timer::Queue(key)));
        }
        true
    }
}

/// The keys in which two settings differ, with what they are now.
fn changes(before: &QueueSettings, now: &QueueSettings) -> Vec<String> {
    let mut changes = Vec::new();
    macro_rules! compare {
        ($($name:ident)+) => {$(
            if before.$name != now.$name {
                changes.push(format!(concat!(stringify!($name), " {:?}"), now.$name));
            }
        )+};
    }
    compare! {
        bind strategy messages_max bytes_max when_full ack_timeout_millis attempts_max backoff_millis backoff_millis_max
        ttl_millis dead_messages_max dead_bytes_max id_window_millis ids_max push consume administer
    }
    changes
}

impl Queue {
    /// What is given out keeps its time, although others have another from now on.
    fn keep_deadlines(&mut self) {
        while self.out.head != NONE {
            let slot = self.out.head;
            self.slots.unlink(&mut self.out, slot);
            let place = self.slots.get_mut(slot);
            place.state = State::Extended;
            self.extended.insert((place.at, slot), ());
        }
    }

    /// Whether a limit was lowered below what is there, and something that is in memory may go because of it.
    pub(super) fn is_over_limits(&self) -> bool {
        let QueueSettings { messages_max, bytes_max, dead_messages_max, dead_bytes_max, .. } = self.settings;
        let over = self.messages() > messages_max || self.bytes > bytes_max;
        (over
            && self.settings.when_full != WhenFull::Refuse
            && matches!(self.oldest_waiting(), Oldest::Here(_)))
            || self.dead.is_over(dead_messages_max.into(), dead_bytes_max)
    }

    /// Drops one of what is too much.
    pub(super) fn drop_one(&mut self, now: Now, charges: &mut Charges) {
        let QueueSettings { dead_messages_max, dead_bytes_max, .. } = self.settings;
        if self.dead.is_over(dead_messages_max.into(), dead_bytes_max) {
            if let Some(oldest) = self.dead.pop_oldest() {
                self.counts.dead_dropped += 1;
                self.dead_is_gone(&oldest, charges);
            }
        } else if let Oldest::Here(slot) = self.oldest_waiting() {
            self.drop_for_room(slot, now, charges);
        }
    }

    /// Its consumers: seat and session.
    pub(super) fn consumers_by_seat(&self) -> impl Iterator<Item = (Seat, Key)> {
        (0..).zip(&self.consumers).filter_map(|(seat, each)| Some((seat, each.as_ref()?.session)))
    }
}
