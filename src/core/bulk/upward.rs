//! Large payloads from clients: their ring, and frames whose payload lies in it.
//!
//! What can be refused is refused before a byte is copied. What is not is charged to its sender, and its session is not read
//! on until the payload is here; then the frame is carried out as if it had come with it.

use super::{Fetching, PAGE_BYTES, Upward};
use crate::core::broker::Core;
use crate::core::native::{Violation, check_message};
use crate::core::queues::Account;
use crate::core::quota::{Checked, Refused, allows, fits};
use crate::core::session::{Pause, Stage};
use crate::core::table::Key;
use crate::core::{Action, FdId, Now, SessionId};
use std::sync::Arc;
use tramline_wire::codec::encode_message_head;
use tramline_wire::limits::BULK_UNIT_BYTES;
use tramline_wire::{BulkFree, BulkPayload, BulkRing, Code, Message, ToBroker, ToClient};

impl Core {
    /// A client tells the memory of its ring. The descriptor is kept already, once.
    pub(in crate::core) fn take_bulk_ring(
        &mut self,
        key: Key,
        frame: &BulkRing,
        memory: Option<FdId>,
    ) -> Result<(), Violation> {
        let BulkRing { ring, bytes, .. } = *frame;
        let Some(session) = self.sessions.get(key) else { return Ok(()) };
        let last = session.bulk.up.ring;
        if ring <= last || !bytes.is_multiple_of(PAGE_BYTES) {
            let message = format!(
                "bulk ring {ring} of {bytes} bytes behind ring {last}: numbers go up, and memory is whole pages"
            );
            return Err(Violation::new(Code::BadId, message));
        }
        self.drop_upward(key);
        if let Some(memory) = memory {
            self.keep_fd(memory);
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.bulk.up = Upward { ring, bytes, memory, ..Upward::default() };
        }
        Ok(())
    }

    /// Lets go of a client's ring.
    pub(super) fn drop_upward(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let up = &mut session.bulk.up;
        let (memory, bytes) = (up.memory.take(), up.bytes);
        if std::mem::take(&mut up.charged) {
            self.streams.bytes -= bytes;
        }
        if let Some(memory) = memory {
            self.release_fd(memory);
            self.act_on(key, |session| Action::ForgetBulk { session });
        }
    }

    /// Where the payload of the next frame lies.
    pub(in crate::core) fn take_bulk_payload(
        &mut self,
        key: Key,
        payload: &BulkPayload,
    ) -> Result<(), Violation> {
        let Some(session) = self.sessions.get_mut(key) else { return Ok(()) };
        let up = &mut session.bulk.up;
        let BulkPayload { ring, offset, length } = *payload;
        if up.memory.is_none() || ring != up.ring {
            return Err(Violation::new(Code::BadId, format!("there is no bulk ring {ring}")));
        }
        let end = offset.checked_add(length);
        let fits = end.is_some_and(|end| end <= up.bytes) && length > 0;
        if !fits || !offset.is_multiple_of(BULK_UNIT_BYTES) {
            let message = format!(
                "a payload of {length} bytes at {offset} of bulk ring {ring}, which has {} bytes; places are multiples of \
                 {BULK_UNIT_BYTES}",
                up.bytes
            );
            return Err(Violation::new(Code::FalseClaim, message));
        }
        up.next = Some(*payload);
        Ok(())
    }

    /// Takes a frame whose payload lies in the client's ring. `false`: not now, its session is held up.
    pub(in crate::core) fn take_with_bulk(
        &mut self,
        key: Key,
        body: &[u8],
        frame: &ToBroker<'_>,
        payload: BulkPayload,
        now: Now,
    ) -> Result<bool, Violation> {
        let message = match frame {
            ToBroker::Push(push) => &push.message,
            ToBroker::Request(request) => &request.message,
            ToBroker::Reply(reply) => &reply.message,
            _ => {
                let message = "a payload by ring belongs to a push, a request or a reply right behind it, and to nothing else";
                return Err(Violation::new(Code::OutOfOrder, message));
            }
        };
        check_message(message)?;
        if !message.payload.is_empty() || message.after.is_some() {
            let message = "a frame with a payload by ring has none of its own, and follows no other ring";
            return Err(Violation::new(Code::Malformed, message));
        }
        if let ToBroker::Push(push) = frame
            && self.push_is_held_up(key, push.queue)
        {
            if let Some(session) = self.sessions.get_mut(key) {
                session.bulk.up.next = Some(payload);
            }
            return Ok(false);
        }
        match self.bulk_is_welcome(key, frame, message, payload, body) {
            Ok(fetching) => {
                let Some(session) = self.sessions.get_mut(key) else { return Ok(true) };
                let (session_id, up) = (session.id, &mut session.bulk.up);
                let Some(memory) = up.memory else { return Ok(true) };
                let (ring, bytes) = (up.ring, up.bytes);
                let mut head = Vec::new();
                encode_message_head(&mut head, message, payload.length);
                session.paused = Some(Pause::Bulk);
                up.fetching = Some(fetching);
                let BulkPayload { offset, length, .. } = payload;
                let session = session_id;
                self.actions.push_back(Action::FetchBulk {
                    session,
                    ring,
                    memory,
                    bytes,
                    offset,
                    length,
                    head: head.into(),
                });
                Ok(true)
            }
            Err(refused) => {
                self.carry_out_bulk(key, body, Err(refused), now)?;
                self.bulk_is_free(key, payload);
                Ok(true)
            }
        }
    }

    /// Whether a payload may be taken, as far as that can be said before it is copied. Its sender is charged for it then.
    fn bulk_is_welcome(
        &mut self,
        key: Key,
        frame: &ToBroker<'_>,
        message: &Message<'_>,
        payload: BulkPayload,
        body: &[u8],
    ) -> Checked<Fetching> {
        let whole = (ToBroker::last_message(body, message).len() as u64).saturating_add(payload.length);
        let most = self.limits.delivery_ring_bytes_max;
        allows("delivery_ring_bytes_max", "bytes for a payload", most, payload.length)?;
        if let ToBroker::Push(push) = frame {
            self.would_take(key, push.queue, usize::try_from(whole).unwrap_or(usize::MAX))?;
        }
        let Some(session) = self.sessions.get(key) else { return Err(gone()) };
        let (uid, bytes, charged) = (session.identity.uid, session.bulk.up.bytes, session.bulk.up.charged);
        if !charged {
            self.make_room_for_ring(bytes);
            let limits = &self.limits;
            allows("ring_bytes_max", "bytes for a ring", limits.ring_bytes_max, bytes)?;
            fits("rings_bytes_max", "bytes of rings", limits.rings_bytes_max, self.streams.bytes, bytes)?;
        }
        let charges = &mut self.queues.charges;
        charges.fit(Account::Memory, uid, whole, &self.limits)?;
        charges.add(Account::Memory, uid, whole);
        if !charged && let Some(session) = self.sessions.get_mut(key) {
            session.bulk.up.charged = true;
            self.streams.bytes += bytes;
        }
        Ok(Fetching { body: body.into(), payload, cost: whole })
    }

    /// The answer to [`Action::FetchBulk`]: the message as it travels, or why its payload was not copied. A false claim ends
    /// the session.
    pub fn bulk_fetched(&mut self, session: SessionId, result: Result<Arc<[u8]>, (Code, String)>, now: Now) {
        let Some(key) = self.by_id.get(&session).copied() else { return };
        let Some(known) = self.sessions.get_mut(key) else { return };
        let uid = known.identity.uid;
        let Some(fetching) = known.bulk.up.fetching.take() else { return };
        let is_open = known.stage == Stage::Open;
        self.uncharge(uid, fetching.cost);
        if is_open {
            let bytes = match result {
                Ok(bytes) => Ok(bytes),
                Err((Code::BadDescriptor, message)) => {
                    self.violated(key, &Violation::new(Code::BadDescriptor, message));
                    return self.settle(now);
                }
                Err((code, message)) => Err(Refused::new(code, message)),
            };
            if let Some(session) = self.sessions.get_mut(key).filter(|_| bytes.is_ok()) {
                session.traffic.bytes_in += fetching.payload.length;
            }
            match self.carry_out_bulk(key, &fetching.body, bytes, now) {
                Ok(()) => {
                    self.bulk_is_free(key, fetching.payload);
                    self.answer_pushes(key);
                    self.resume(key, Pause::Bulk);
                }
                Err(violation) => self.violated(key, &violation),
            }
        }
        self.settle(now);
    }

    /// Carries out a frame whose payload has come, or was refused.
    fn carry_out_bulk(
        &mut self,
        key: Key,
        body: &[u8],
        bytes: Checked<Arc<[u8]>>,
        now: Now,
    ) -> Result<(), Violation> {
        match ToBroker::decode(body)? {
            ToBroker::Push(push) => self.take_push(key, &push, bytes, now),
            ToBroker::Request(request) => self.take_request(key, &request, bytes, now),
            ToBroker::Reply(reply) => self.take_reply(key, &reply, bytes, now),
            _ => Ok(()),
        }
    }

    fn bulk_is_free(&mut self, key: Key, payload: BulkPayload) {
        let BulkPayload { ring, offset, .. } = payload;
        self.answer(key, &ToClient::BulkFree(BulkFree { ring, offset }));
    }
}

fn gone() -> Refused {
    Refused::new(Code::PeerGone, "the session has ended")
}
