//! The quick way of pushes: a stretch of small ones behind each other, on one alias, for a queue that has room.
//!
//! Session, queue and sender are looked up once for all of them. Nothing is decided here that `frames` and `work` would
//! decide otherwise: as soon as anything is out of the ordinary (an id, a limit, a fault, an alias without a queue), the frame
//! is left to them.

use super::bound::pushed_by;
use super::cost;
use super::frames::PUSH_ROOM_BYTES;
use super::queue::Incoming;
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::native::check_message;
use crate::core::session::Stage;
use crate::core::table::Key;
use tramline_wire::limits::PRIORITY_MAX;
use tramline_wire::{Framed, Push, ToBroker, split_frame};

impl Core {
    /// Takes the pushes at the beginning of `bytes` that are as most are, and says how many bytes of `bytes` they were; 0
    /// leaves the first frame to the general way. The session is neither paused nor closing.
    pub(in crate::core) fn take_pushes(&mut self, key: Key, bytes: &[u8], now: Now) -> usize {
        #[cfg(test)]
        if self.general_only {
            return 0;
        }
        let frame_bytes_max = self.limits.frame_bytes_max as usize;
        let next = |bytes: &'_ [u8]| match split_frame(bytes, frame_bytes_max) {
            Ok(Framed::Whole { body, consumed }) => {
                Push::decode_plain(body).map(|push| (push.queue, consumed))
            }
            _ => None,
        };
        let Some((alias, _)) = next(bytes) else { return 0 };
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.stage == Stage::Open) else {
            return 0;
        };
        let Some(Some((_, Some(queue_key)))) = session.queue_aliases.get(alias as usize) else { return 0 };
        let queue_key = *queue_key;
        let queues = &mut self.queues;
        // What is to be stored first is answered later.
        let Some(queue) = queues.table.get_mut(queue_key).filter(|queue| queue.kept.is_none()) else {
            return 0;
        };
        let origin = pushed_by(&session.identity, &self.nameless);
        let uid = origin.from.uid;
        queue.has_seen(uid, b"", now);
        let mut consumed = 0;
        let mut taken: Option<(u64, u64)> = None;
        while let Ok(Framed::Whole { body, consumed: length }) =
            split_frame(&bytes[consumed..], frame_bytes_max)
        {
            let Some(push) = Push::decode_plain(body).filter(|push| push.queue == alias) else { break };
            let Push { priority, delay_millis, ttl_millis, message, .. } = push;
            let message_bytes = ToBroker::push_message(body, 0);
            let goes_on = taken.is_none_or(|(_, last)| last.checked_add(1) == Some(message.seq));
            if !goes_on
                || priority > PRIORITY_MAX
                || message_bytes.len() + PUSH_ROOM_BYTES > frame_bytes_max
                || check_message(&message).is_err()
                || queue.is_full_for(message_bytes.len()).is_some()
                || queues.charges.fit(queue.account(), uid, cost(message_bytes.len()), &self.limits).is_err()
            {
                break;
            }
            let incoming =
                Incoming { bytes: message_bytes.into(), priority, delay_millis, ttl_millis, id: b"" };
            queue.push(incoming, &origin, now, &mut queues.charges);
            session.traffic.messages_in += 1;
            session.traffic.bytes_in += message.payload.len() as u64;
            taken = Some((taken.map_or(message.seq, |(first, _)| first), message.seq));
            consumed += length;
        }
        if let Some((first, last)) = taken {
            #[cfg(test)]
            {
                self.stretched += last - first + 1;
            }
            self.pushes_taken(key, alias, first, last);
            self.wants_attention(queue_key);
        }
        consumed
    }
}
