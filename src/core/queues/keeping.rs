//! Queues on disk in the core: what is handed to the store, what comes of it, and what is loaded again.
//!
//! A push is answered when it is stored, and counts then. What consumers say takes effect at once and is written with
//! the next batch. While nothing can be written, queues on disk refuse what is pushed and go on giving out.

use super::kept::Wanted;
use super::ledger::{Batch, Pushing, Waiter};
use super::recent::Id;
use super::{QueueSettings, Queues};
use crate::core::broker::Core;
use crate::core::durable::{Change, Record, StoreFailure, Written};
use crate::core::quota::Refused;
use crate::core::routes::Told;
use crate::core::session::{Pause, Session};
use crate::core::table::Key;
use crate::core::timers::Timer;
use crate::core::{Action, Now};
use crate::json::{self, Value};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tramline_wire::{Code, ToClient};

impl Core {
    /// What is to be written next, if it is to be now. Asked when the shell has taken everything else.
    pub(in crate::core) fn next_batch(&mut self) -> Option<Action> {
        let (batch, changes) = self.queues.ledger.hand_over()?;
        Some(Action::Store { batch, changes })
    }

    /// Takes what a queue wants to have written, and has loaded what it will want to give out.
    pub(super) fn look_after(&mut self, key: Key, now: Now) {
        let queues = &mut self.queues;
        let Some(queue) = queues.table.get_mut(key) else { return };
        let Some(kept) = &mut queue.kept else { return };
        let moving = std::mem::take(&mut kept.moving);
        let moves = moving.into_iter().filter_map(|slot| {
            let put = queue.put_behind_all(slot, now)?;
            Some(Pushing { queue: key, slot, put, seen: None, is_new: false })
        });
        let moves: Vec<Pushing> = moves.collect();
        let Some(kept) = &mut queue.kept else { return };
        kept.positions.take_changes(kept.number, &mut kept.changes);
        queues.ledger.add_all(moves, &mut kept.changes);
        if queues.ledger.is_behind() {
            queues.ledger.clogged = true;
        }
        // What is loaded may have expired, and then has to be written again.
        while !queues.ledger.clogged
            && let Some(Wanted { queue, shelf, after, messages_max, bytes_max }) = kept.wanted()
        {
            let load = queues.ledger.next_load(key);
            kept.load_began(shelf, load);
            self.actions.push_back(Action::Load { load, queue, shelf, after, messages_max, bytes_max });
        }
        self.arm_store(now);
    }

    /// Sets the timer for what waits to be written.
    pub(super) fn arm_store(&mut self, now: Now) {
        if let Some(at) = self.queues.ledger.wants_timer(now.monotonic) {
            self.queues.ledger.timer_at = Some(at);
            self.timers.set(at, Timer::Store);
        }
    }

    /// What nobody waits for is to be written now, or a full disk to be tried again.
    pub(in crate::core) fn store_is_due(&mut self) {
        if !self.queues.ledger.is_due() && self.queues.ledger.failure.is_some() {
            // Something that is there already is as good as anything to try with.
            let probe = self.queues.table.iter().find_map(|(_, queue)| queue.row());
            self.queues.ledger.add(&mut probe.into_iter().collect());
        }
    }

    /// Why a queue on disk takes nothing now.
    pub(super) fn is_read_only(&self, name: &str) -> Option<Refused> {
        let failure = self.queues.ledger.failure.as_ref()?;
        let what = if failure.full {
            "it takes messages again by itself once there is room in that file system"
        } else {
            "the broker has to be restarted to find out what the file holds, and its disk looked at"
        };
        let message = format!("queue {name} is read-only: {}; {what}", failure.message);
        Some(Refused::new(Code::StoreReadOnly, message))
    }

    /// Has a session told when what it pushed last is stored. `false`: it is stored already.
    pub(super) fn wait_for_store(&mut self, session: Key, waiter: Waiter) -> bool {
        let waits = self.queues.ledger.wait(waiter);
        if let Some(session) = self.sessions.get_mut(session) {
            session.storing += u32::from(waits == Some(true));
        }
        waits.is_some()
    }

    /// Whether a session has to be held up before it pushes to this queue. It is then.
    pub(in crate::core) fn store_holds_up(&mut self, key: Key, queue: Key) -> bool {
        let ledger = &self.queues.ledger;
        let is_kept = self.queues.table.get(queue).is_some_and(|queue| queue.kept.is_some());
        if !is_kept || ledger.failure.is_some() || !ledger.is_behind() {
            return false;
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.paused = Some(Pause::Store);
            self.queues.ledger.held.push(key);
        }
        true
    }

    /// The answer to [`Action::Store`]: the whole batch is on disk, or nothing of it.
    pub fn stored(&mut self, batch: u64, result: Result<Written, StoreFailure>, now: Now) {
        match result {
            Ok(written) => self.is_written(batch, written, now),
            Err(failure) => self.is_not_written(batch, failure),
        }
        let caught_up = self.queues.ledger.has_caught_up();
        if caught_up || self.queues.ledger.failure.is_some() {
            for session in std::mem::take(&mut self.queues.ledger.held) {
                self.resume(session, Pause::Store);
            }
        }
        if caught_up && std::mem::take(&mut self.queues.ledger.clogged) {
            self.look_at_all_kept();
        }
        self.arm_store(now);
        self.settle(now);
    }

    /// Those that wait for the store have something to look at.
    fn look_at_all_kept(&mut self) {
        let kept = self.queues.table.iter().filter(|(_, queue)| queue.kept.is_some());
        for key in kept.map(|(key, _)| key).collect::<Vec<_>>() {
            self.wants_attention(key);
        }
    }

    fn is_written(&mut self, number: u64, written: Written, now: Now) {
        let Some(batch) = self.queues.ledger.written(number) else { return };
        let counts = &mut self.queues.ledger.counts;
        counts.note(written, batch.rest.len() as u64 + batch.pushes.len() as u64);
        if self.queues.ledger.failure.take().is_some() {
            tracing::info!("there is room for the store again: queues on disk take messages");
            self.event("$tramline.store", |_| json!({"state": "writable"}));
            self.look_at_all_kept();
        }
        for Pushing { queue: key, slot, is_new, .. } in &batch.pushes {
            let queues = &mut self.queues;
            let Some(queue) = queues.table.get_mut(*key) else { continue };
            queue.counts.pushed += u64::from(*is_new);
            queue.is_stored(*slot);
            queue.make_up_for_room(now, &mut queues.charges);
            self.wants_attention(*key);
        }
        self.positions_are_stored(&batch.rest);
        self.answer_waiters(batch, None);
        while let Some(batch) = self.queues.ledger.pop_empty() {
            self.answer_waiters(batch, None);
        }
    }

    fn is_not_written(&mut self, number: u64, failure: StoreFailure) {
        let Some(mut all) = self.queues.ledger.take_all(number) else { return };
        let StoreFailure { full, message } = &failure;
        let known = self.queues.ledger.failure.replace(failure.clone());
        if known.as_ref() != Some(&failure) {
            tracing::error!("queues on disk are read-only: {message}");
            self.event(
                "$tramline.store",
                |_| json!({"state": "read_only", "full": full, "message": message}),
            );
        }
        self.queues.ledger.counts.failures += 1;
        let (refused, moved): (Vec<_>, Vec<_>) =
            std::mem::take(&mut all.pushes).into_iter().partition(|push| push.is_new);
        let mut ids: HashMap<Key, HashSet<Id>> = HashMap::new();
        for Pushing { queue: key, slot, seen, .. } in refused {
            let queues = &mut self.queues;
            let Some(queue) = queues.table.get_mut(key) else { continue };
            queue.is_refused(slot, &mut queues.charges);
            if let Some(Change::Seen { uid, id, .. }) = seen {
                ids.entry(key).or_default().insert((uid, id));
            }
            self.wants_attention(key);
        }
        for (key, ids) in ids {
            if let Some(queue) = self.queues.table.get_mut(key) {
                queue.recent.forget(&ids);
            }
        }
        // What has happened is written when there is room; what moves waits for that where it is.
        self.queues.ledger.add_all(moved, &mut all.rest);
        self.answer_waiters(all, Some(&failure));
    }

    fn answer_waiters(&mut self, batch: Batch, failure: Option<&StoreFailure>) {
        for waiter in batch.waiters {
            let session = match &waiter {
                Waiter::Pushes { session, .. }
                | Waiter::Line { session, .. }
                | Waiter::Declared { session, .. } => *session,
                Waiter::Leg { .. } | Waiter::Beginning { .. } => Key::NOBODY,
            };
            let refused = failure.and_then(|_| {
                let name = self.name_of(&waiter);
                self.is_read_only(&name)
            });
            match (waiter, refused) {
                (Waiter::Pushes { alias, first, last, .. }, None) => {
                    self.answer(session, &ToClient::Pushed { queue: alias, first, last });
                }
                (Waiter::Pushes { alias, first, last, .. }, Some(Refused { code, message, .. })) => {
                    self.totals.requests_refused += last - first + 1;
                    for seq in first..=last {
                        let (queue, code, message) = (alias, code.number(), &*message);
                        self.answer(
                            session,
                            &ToClient::PushRefused { queue, seq, code, message, limit: None },
                        );
                    }
                }
                (Waiter::Line { op, id, queue, .. }, None) => {
                    let members = [("queue", Value::Text(&queue))];
                    self.answer_json(session, |out| json::write_ok(out, op, id.as_deref(), &members));
                }
                (Waiter::Line { op, id, .. }, Some(Refused { code, message, .. })) => {
                    self.totals.requests_refused += 1;
                    self.answer_json(session, |out| {
                        json::write_error(out, Some(op), id.as_deref(), code, &message);
                    });
                }
                // Without it the queue is as good as it can be: nobody is held up for that.
                (Waiter::Beginning { attach }, _) => self.beginning_is_noted(attach),
                (Waiter::Leg { leg, .. }, None) => self.tell_leg(leg, Told::Done),
                (Waiter::Leg { leg, .. }, Some(Refused { code, message, .. })) => {
                    self.tell_leg(leg, Told::Failed { code, message });
                }
                (Waiter::Declared { req, .. }, None) => self.answer(session, &ToClient::Done { req }),
                (Waiter::Declared { req, .. }, Some(refused)) => self.refuse(session, req, &refused),
            }
            if let Some(session) = self.sessions.get_mut(session) {
                session.storing = session.storing.saturating_sub(1);
            }
            self.finish_if_done(session);
        }
    }

    fn name_of(&self, waiter: &Waiter) -> Arc<str> {
        match waiter {
            Waiter::Line { queue, .. } | Waiter::Leg { queue, .. } => queue.clone(),
            Waiter::Pushes { session, alias, .. } => {
                let known = self.sessions.get(*session).and_then(|it| it.queue_aliases.get(*alias as usize));
                known.and_then(Option::as_ref).map_or_else(|| "".into(), |(name, _)| (**name).into())
            }
            Waiter::Declared { .. } => "just declared".into(),
            Waiter::Beginning { .. } => "".into(),
        }
    }

    /// The answer to [`Action::Load`], with the numbers of what was found.
    pub fn loaded(&mut self, load: u64, result: Result<Vec<(u64, Record)>, StoreFailure>, now: Now) {
        let Some(key) = self.queues.ledger.loads.remove(&load) else { return };
        let found = match result {
            Ok(found) => found,
            Err(failure) => {
                // The shelf is not asked for again, so that a broken disk is not asked for ever.
                let name = self.queues.table.get(key).map(|queue| queue.name.clone());
                let (queue, message) = (name.unwrap_or_default(), failure.message);
                tracing::error!("what queue {queue} has in the store cannot be read: {message}");
                self.event(
                    "$tramline.store",
                    |_| json!({"state": "unreadable", "queue": &*queue, "message": message}),
                );
                self.queues.ledger.counts.failures += 1;
                return self.settle(now);
            }
        };
        let queues = &mut self.queues;
        let Some(queue) = queues.table.get_mut(key) else { return };
        let Some(shelf) = queue.kept.as_mut().and_then(|kept| kept.load_ended(load)) else { return };
        let mut taken = 0;
        for (number, record) in &found {
            let kept = self.queues.table.get_mut(key).and_then(|queue| queue.kept.as_mut());
            if !kept.is_some_and(|kept| kept.loaded(shelf, *number, record)) {
                continue;
            }
            taken += 1;
            self.take_loaded(key, (shelf, *number), record, now);
        }
        let queues = &mut self.queues;
        let Some(queue) = queues.table.get_mut(key) else { return };
        if taken == 0 {
            queue.nothing_left(shelf);
        }
        queue.balance(&mut queues.charges);
        queue.make_up_for_room(now, &mut queues.charges);
        self.wants_attention(key);
        self.settle(now);
    }

    /// Whether everything is written that is to be, so that the broker may stop.
    #[must_use]
    pub fn is_all_stored(&self) -> bool {
        self.queues.ledger.is_idle() || self.queues.ledger.failure.is_some()
    }

    /// Has everything written that waits, because the broker stops.
    pub fn flush_store(&mut self) {
        let Queues { table, by_name, ledger, charges, .. } = &mut self.queues;
        for key in by_name.values() {
            let Some(queue) = table.get_mut(*key) else { continue };
            queue.empty_trash(charges);
            if let Some(kept) = &mut queue.kept {
                ledger.add(&mut kept.changes);
            }
        }
        ledger.flush();
    }
}

impl Session {
    /// Whether something of this session is being stored that it is to be told of.
    pub(in crate::core) fn waits_for_store(&self) -> bool {
        self.storing > 0
    }
}

/// Whether the settings of a queue that is made now can be those of what was found.
pub(super) fn cannot_be_in_memory(settings: &QueueSettings, messages: u64) -> Refused {
    let message = format!(
        "queue {} is to have durability none, and {messages} messages of it are on disk: give it durability disk and have \
         them consumed, or purged, before this is changed",
        settings.name
    );
    Refused::new(Code::QueueExists, message)
}

/// Whoever makes a queue while the broker runs does not get what the store has of another one of that name: it may be for
/// others only.
pub(super) fn is_left_over(settings: &QueueSettings, messages: u64) -> Refused {
    let message = format!(
        "{messages} messages of a queue {} are in the store from before the broker's start: it is there again when the broker \
         is started with it in its configuration",
        settings.name
    );
    Refused::new(Code::QueueExists, message)
}
