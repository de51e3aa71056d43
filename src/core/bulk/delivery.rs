//! Large payloads to clients: each has a ring of its own, made by the broker when it is first needed.
//!
//! One payload at a time is copied into a session's ring, and the frame it belongs to follows when it is there. Who does not
//! give places back is given nothing more that is large, and keeps what it has taken from others by its share: rings are
//! limited by session, by user and in all. A ring that is empty is replaced when a payload does not fit, given to others that
//! have none when there is no more room, and let go after a while.

use super::{Bulk, DELIVERY_BYTES, Delivery, IDLE_MILLIS, PAGE_BYTES, Placing, RETRY_MILLIS, Stage};
use crate::core::broker::Core;
use crate::core::gaps::{alias_of, note_gone};
use crate::core::native::Violation;
use crate::core::queues::Account;
use crate::core::quota::{Checked, fits};
use crate::core::services::Held;
use crate::core::session::{self, Session};
use crate::core::table::Key;
use crate::core::timers::{MILLI, Timer};
use crate::core::{Action, FdId, Now, SessionId};
use std::sync::Arc;
use tramline_wire::codec::decode_message;
use tramline_wire::{BulkFree, BulkPayload, BulkRing, BulkRoom, Code, Job, Message, ToClient};

impl Core {
    /// Whether a message can be handed to this session by its ring now, and where to. If not, the ring is made, replaced or
    /// waited for, and the session's consumers and instances are looked at again when there is room.
    pub(in crate::core) fn bulk_room(&mut self, key: Key, bytes: &[u8]) -> Option<u64> {
        let length = payload_of(bytes).1;
        let down = &mut self.sessions.get_mut(key)?.bulk.down;
        match down.stage {
            Stage::Making | Stage::Failed => return None,
            Stage::Ready if down.placing.is_some() => return None,
            Stage::Ready => {
                let place = down.room.find(length);
                if place.is_some() || down.room.bytes() >= BulkRoom::needed(length) || !down.room.is_empty() {
                    return place;
                }
                self.drop_delivery(key);
            }
            Stage::None => {}
        }
        self.make_delivery(key, length);
        None
    }

    fn make_delivery(&mut self, key: Key, length: u64) {
        let most = self.limits.delivery_ring_bytes_max.next_multiple_of(PAGE_BYTES);
        let needed = BulkRoom::needed(length).next_multiple_of(PAGE_BYTES);
        let bytes = needed.checked_next_power_of_two().unwrap_or(needed).max(DELIVERY_BYTES);
        let bytes = bytes.min(most).max(needed);
        let Some(session) = self.sessions.get(key) else { return };
        let (uid, id) = (session.identity.uid, session.identity.clone());
        if self.delivery_fits(uid, bytes).is_err() {
            self.drop_idle_deliveries(key);
        }
        if let Err(refused) = self.delivery_fits(uid, bytes) {
            if !self.deliveries.waiting.contains(&key) {
                tracing::warn!("{id} has to wait for a large message: {}", refused.message);
                self.event_refused(uid, id.pid, refused.code, &refused.message);
                self.deliveries.waiting.push_back(key);
            }
            return;
        }
        self.deliveries.waiting.retain(|waiting| *waiting != key);
        self.deliveries.bytes += bytes;
        *self.deliveries.by_uid.entry(uid).or_default() += bytes;
        self.set_bulk_timer(key, None);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let down = &mut session.bulk.down;
        (down.stage, down.bytes) = (Stage::Making, bytes);
        down.ring += 1;
        let action = Action::MakeBulk { session: session.id, ring: down.ring, bytes };
        self.actions.push_back(action);
    }

    fn delivery_fits(&self, uid: u32, bytes: u64) -> Checked<()> {
        let limits = &self.limits;
        let own = self.deliveries.by_uid.get(&uid).copied().unwrap_or(0);
        let (name, most) = ("user_delivery_rings_bytes_max", limits.user_delivery_rings_bytes_max);
        fits(name, "bytes of this user's delivery rings", most, own, bytes)?;
        let (name, most) = ("delivery_rings_bytes_max", limits.delivery_rings_bytes_max);
        fits(name, "bytes of delivery rings", most, self.deliveries.bytes, bytes)
    }

    /// Lets go of rings in which nothing is, for somebody who has none.
    fn drop_idle_deliveries(&mut self, but: Key) {
        let idle = |bulk: &Bulk| {
            let down = &bulk.down;
            down.stage == Stage::Ready && down.room.is_empty() && down.replies.is_empty()
        };
        let idle: Vec<Key> = self
            .sessions
            .iter()
            .filter(|(key, session)| *key != but && idle(&session.bulk))
            .map(|(key, _)| key)
            .collect();
        for key in idle {
            self.let_delivery_go(key);
        }
    }

    /// Tells a client that it has no ring any more, and lets go of it.
    fn let_delivery_go(&mut self, key: Key) {
        self.drop_delivery(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.bulk.down.ring += 1;
        let ring = session.bulk.down.ring;
        self.send_control(key, &ToClient::BulkRing(BulkRing { ring, bytes: 0, fds: 0 }));
    }

    /// Gives a ring's memory back; the session may get another.
    pub(super) fn drop_delivery(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let uid = session.identity.uid;
        let down = &mut session.bulk.down;
        down.room = BulkRoom::default();
        let bytes = std::mem::take(&mut down.bytes);
        if std::mem::take(&mut down.stage) == Stage::None || bytes == 0 {
            return;
        }
        self.deliveries.bytes -= bytes;
        if let Some(own) = self.deliveries.by_uid.get_mut(&uid) {
            *own -= bytes;
            if *own == 0 {
                self.deliveries.by_uid.remove(&uid);
            }
        }
        self.act_on(key, |session| Action::DropBulk { session });
        for waiting in std::mem::take(&mut self.deliveries.waiting) {
            self.look_at_bulk(waiting);
        }
    }

    /// The answer to [`Action::MakeBulk`]. The descriptor becomes the core's.
    pub fn bulk_made(&mut self, session: SessionId, ring: u32, result: Result<FdId, String>, now: Now) {
        let key = self.by_id.get(&session).copied();
        let is_wanted = key.and_then(|key| self.sessions.get(key)).is_some_and(|session| {
            let down = &session.bulk.down;
            session.stage == session::Stage::Open && (down.ring, down.stage) == (ring, Stage::Making)
        });
        let memory = match result {
            Ok(memory) => {
                self.keep_fd(memory);
                Some(memory)
            }
            Err(reason) => {
                tracing::warn!(session, "no ring for large messages: {reason}");
                None
            }
        };
        let Some(key) = key.filter(|_| is_wanted) else {
            memory.into_iter().for_each(|memory| self.release_fd(memory));
            return self.settle(now);
        };
        match memory {
            Some(memory) => {
                let Some(Session { outbox, bulk, .. }) = self.sessions.get_mut(key) else { return };
                let bytes = bulk.down.bytes;
                bulk.down.stage = Stage::Ready;
                bulk.down.room = BulkRoom::new(bytes);
                outbox.carry(vec![memory]);
                ToClient::BulkRing(BulkRing { ring, bytes, fds: 1 }).encode(outbox.buffer());
                self.mark_dirty(key);
                // Whoever it was made for may want nothing any more.
                self.set_bulk_timer(key, Some(now.monotonic + IDLE_MILLIS * MILLI));
                self.look_at_bulk(key);
            }
            None => {
                self.drop_delivery(key);
                if let Some(session) = self.sessions.get_mut(key) {
                    session.bulk.down.stage = Stage::Failed;
                }
                self.set_bulk_timer(key, Some(now.monotonic + RETRY_MILLIS * MILLI));
            }
        }
        self.settle(now);
    }

    /// Has a message copied to where there is room for it.
    pub(in crate::core) fn place_bulk(&mut self, key: Key, offset: u64, placing: Placing) {
        self.set_bulk_timer(key, None);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let bytes = Arc::clone(placing.bytes());
        let (from, length) = payload_of(&bytes);
        let down = &mut session.bulk.down;
        down.room.take(offset, length);
        down.placing = Some((offset, placing));
        let (session, ring) = (session.id, down.ring);
        self.actions.push_back(Action::PlaceBulk { session, ring, offset, bytes, from });
    }

    /// The answer to [`Action::PlaceBulk`]: the payload is in the ring.
    pub fn bulk_placed(&mut self, session: SessionId, ring: u32, result: Result<(), String>, now: Now) {
        let Some(key) = self.by_id.get(&session).copied() else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.bulk.down.ring != ring || session.stage != session::Stage::Open {
            return;
        }
        if let Err(reason) = result {
            self.doom(key, Code::Internal, format!("a large message could not be copied for it: {reason}"));
            return self.settle(now);
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        let uid = session.identity.uid;
        let Some((offset, placing)) = session.bulk.down.placing.take() else { return };
        let length = payload_of(placing.bytes()).1;
        session.traffic.messages_out += 1;
        session.traffic.bytes_out += length;
        let Session { outbox, sources, .. } = session;
        let out = outbox.buffer();
        let origin = placing.origin();
        // Defined before: nothing may come between the payload and its frame.
        let (source, new) = alias_of(sources, out, &origin.from, origin.topic, &origin.name);
        ToClient::BulkPayload(BulkPayload { ring, offset, length }).encode(out);
        let message = decode_message(placing.bytes()).unwrap_or_default();
        let message = Message { payload: &[], ..message };
        let cost = match &placing {
            Placing::Job { consumer, given } => {
                ToClient::Job(Job {
                    consumer: *consumer,
                    source,
                    tag: given.tag,
                    attempt: given.attempt.into(),
                    priority: given.priority,
                    message,
                })
                .encode(out);
                0
            }
            Placing::Call(giving) => {
                ToClient::Call(giving.frame(source, message, now)).encode(out);
                0
            }
            Placing::Reply(held) => {
                ToClient::Replied(held.frame(source, message)).encode(out);
                held.cost()
            }
        };
        if new {
            note_gone(sources, |id| self.by_id.contains_key(&id));
        }
        self.uncharge(uid, cost);
        self.mark_dirty(key);
        self.look_at_bulk(key);
        self.settle(now);
    }

    /// A client does not read a payload any more.
    pub(in crate::core) fn take_bulk_free(
        &mut self,
        key: Key,
        free: BulkFree,
        now: Now,
    ) -> Result<(), Violation> {
        let Some(session) = self.sessions.get_mut(key) else { return Ok(()) };
        let Delivery { ring, room, placing, .. } = &mut session.bulk.down;
        // One of a ring that was replaced meanwhile means nothing.
        if free.ring < *ring {
            return Ok(());
        }
        let is_told = placing.as_ref().is_none_or(|(offset, _)| *offset != free.offset);
        if free.ring > *ring || !is_told || !room.free(free.offset) {
            let message = format!("nothing was given out at {} of bulk ring {}", free.offset, free.ring);
            return Err(Violation::new(Code::BadId, message));
        }
        if room.is_empty() {
            self.set_bulk_timer(key, Some(now.monotonic + IDLE_MILLIS * MILLI));
        }
        self.look_at_bulk(key);
        if !self.deliveries.waiting.is_empty() {
            for waiting in std::mem::take(&mut self.deliveries.waiting) {
                self.look_at_bulk(waiting);
            }
        }
        Ok(())
    }

    /// A ring was idle for long enough, or may be tried again.
    pub(in crate::core) fn bulk_is_due(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let down = &mut session.bulk.down;
        down.timer_at = None;
        match down.stage {
            Stage::Failed => {
                down.stage = Stage::None;
                self.look_at_bulk(key);
            }
            Stage::Ready if down.room.is_empty() => self.let_delivery_go(key),
            Stage::None | Stage::Making | Stage::Ready => {}
        }
    }

    fn set_bulk_timer(&mut self, key: Key, at: Option<u64>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let before = std::mem::replace(&mut session.bulk.down.timer_at, at);
        if let Some(before) = before {
            self.timers.cancel(before, Timer::Bulk(key));
        }
        if let Some(at) = at {
            self.timers.set(at, Timer::Bulk(key));
        }
    }

    /// There may be room for something large: who waits for it is looked at again.
    fn look_at_bulk(&mut self, key: Key) {
        self.unblock_consumers(key);
        self.unblock_instances(key);
        self.to_place.push_back(key);
    }

    /// Keeps an answer for a caller until there is room in its ring, if its user may have that much waiting.
    pub(in crate::core) fn hold_bulk_reply(&mut self, caller: Key, held: Held) -> Checked<()> {
        let Some(session) = self.sessions.get(caller) else { return Ok(()) };
        let uid = session.identity.uid;
        let charges = &mut self.queues.charges;
        charges.fit(Account::Memory, uid, held.cost(), &self.limits)?;
        charges.add(Account::Memory, uid, held.cost());
        if let Some(session) = self.sessions.get_mut(caller) {
            session.bulk.down.replies.push_back(held);
        }
        self.to_place.push_back(caller);
        Ok(())
    }

    /// Gives answers that wait a place, if there is one.
    pub(in crate::core) fn place_replies(&mut self) {
        while let Some(key) = self.to_place.pop_front() {
            let first = self.sessions.get(key).and_then(|session| session.bulk.down.replies.front());
            let Some(bytes) = first.map(|held| Arc::clone(held.bytes())) else { continue };
            if let Some(offset) = self.bulk_room(key, &bytes)
                && let Some(session) = self.sessions.get_mut(key)
                && let Some(held) = session.bulk.down.replies.pop_front()
            {
                self.place_bulk(key, offset, Placing::Reply(held));
            }
        }
    }
}

impl Placing {
    fn bytes(&self) -> &Arc<[u8]> {
        match self {
            Self::Job { given, .. } => &given.bytes,
            Self::Call(giving) => giving.bytes(),
            Self::Reply(held) => held.bytes(),
        }
    }

    fn origin(&self) -> &crate::core::queues::Origin {
        match self {
            Self::Job { given, .. } => &given.origin,
            Self::Call(giving) => giving.origin(),
            Self::Reply(held) => held.origin(),
        }
    }
}

/// Where the payload of a message begins in its bytes, and how long it is.
fn payload_of(bytes: &[u8]) -> (usize, u64) {
    let length = decode_message(bytes).map_or(0, |message| message.payload.len());
    (bytes.len() - length, length as u64)
}
