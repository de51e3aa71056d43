//! The quick way of small messages: a stretch of publishes on one alias whose subscribers all keep up.
//!
//! Looking up the session, the topic, its subscribers and their sessions, and counting, costs more than appending a
//! small message; here it is done once for all publishes that stand behind each other in what was read. Nothing is
//! decided here that `native`, `router` and `delivery` would decide otherwise: as soon as anything is out of the
//! ordinary (a queue, an unread loss, a JSON subscriber, a confirmation, a fault, an outbox near its limit), the
//! frame is left to them. A test holds both ways to the same outboxes and counts.

use super::Language;
use super::broker::Core;
use super::gaps::alias_of;
use super::session::Stage;
use super::table::Key;
use tramline_wire::codec::Framed;
use tramline_wire::{
    FRAME_PREFIX_BYTES, HeaderBlock, MessageFlags, Publish, ToBroker, ToClient, split_frame,
};

/// Bytes of a delivery besides the message itself.
const DELIVERY_BYTES: usize = FRAME_PREFIX_BYTES + super::native::DELIVER_HEAD_BYTES;

/// A message of the stretch: where it is in what was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    start: usize,
    end: usize,
    payload_bytes: usize,
}

impl Core {
    /// Takes the publishes at the beginning of `bytes` that can go straight to all outboxes, and says how many bytes
    /// of `bytes` they were; 0 leaves the first frame to the general way. The session is neither paused nor closing.
    pub(super) fn take_stretch(&mut self, key: Key, bytes: &[u8]) -> usize {
        #[cfg(test)]
        if self.general_only {
            return 0;
        }
        let Some(alias) = first_alias(bytes) else { return 0 };
        let Some(session) = self.sessions.get(key).filter(|session| session.stage == Stage::Open) else {
            return 0;
        };
        let Some(topic) = session.aliases.get(alias as usize).copied().flatten() else { return 0 };
        if self.topics.get(topic).is_some_and(|entry| entry.retain > 0) {
            return 0;
        }
        let matches = self.topics.take_matches(topic);
        let mut pieces = std::mem::take(&mut self.pieces);
        let consumed = match self.room_of_all(&matches) {
            Some(room) => self.gather(bytes, alias, room, &mut pieces),
            None => 0,
        };
        if consumed > 0 {
            self.append_stretch(key, topic, &matches, bytes, &pieces);
        }
        pieces.clear();
        self.pieces = pieces;
        self.topics.give_back(topic, matches);
        consumed
    }

    /// How many bytes of deliveries each of these subscriptions can take for certain, if nothing is in the way of any.
    fn room_of_all(&self, matches: &[Key]) -> Option<usize> {
        let outbox_bytes_max = self.limits.outbox_bytes_max as usize;
        let mut least = outbox_bytes_max;
        for key in matches {
            let subscription = self.subscriptions.get(*key)?;
            let session = self.sessions.get(subscription.session)?;
            if subscription.language != Language::Native || !subscription.is_clear() {
                return None;
            }
            least = least.min(outbox_bytes_max.checked_sub(session.outbox.len())?);
        }
        // They may all be of one session.
        Some(least / matches.len().max(1))
    }

    /// Notes the messages at the beginning of `bytes` that have nothing special and fit into `room`; says how many
    /// bytes their frames take.
    fn gather(&self, bytes: &[u8], alias: u32, room: usize, pieces: &mut Vec<Piece>) -> usize {
        let frame_bytes_max = self.limits.frame_bytes_max as usize;
        let (mut consumed, mut delivered) = (0, 0);
        while let Ok(Framed::Whole { body, consumed: length }) =
            split_frame(&bytes[consumed..], frame_bytes_max)
        {
            let Some(publish) = Publish::decode_plain(body).filter(|publish| publish.alias == alias) else {
                break;
            };
            let message = publish.message;
            let plain = MessageFlags::from_bits(message.flags.bits()).is_some_and(|flags| !flags.confirm())
                && (message.head.is_empty() || HeaderBlock::parse(message.head).is_ok());
            let message_bytes = ToBroker::publish_message(body).len();
            delivered += DELIVERY_BYTES + message_bytes;
            if !plain
                || delivered > room
                || message_bytes + super::native::DELIVER_HEAD_BYTES > frame_bytes_max
            {
                break;
            }
            consumed += length;
            pieces.push(Piece {
                start: consumed - message_bytes,
                end: consumed,
                payload_bytes: message.payload.len(),
            });
        }
        consumed
    }

    fn append_stretch(&mut self, key: Key, topic: Key, matches: &[Key], bytes: &[u8], pieces: &[Piece]) {
        let messages = pieces.len() as u64;
        #[cfg(test)]
        {
            self.stretched += messages;
        }
        let payload_bytes: u64 = pieces.iter().map(|piece| piece.payload_bytes as u64).sum();
        let Some(publisher) = self.sessions.get_mut(key) else { return };
        publisher.traffic.messages_in += messages;
        publisher.traffic.bytes_in += payload_bytes;
        let from = publisher.identity.clone();
        self.totals.traffic.messages_in += messages;
        self.totals.traffic.bytes_in += payload_bytes;
        let Some(entry) = self.topics.get_mut(topic) else { return };
        entry.messages += messages;
        entry.bytes += payload_bytes;
        let name = entry.name.clone();
        for subscription in matches {
            let Some(subscription) = self.subscriptions.get_mut(*subscription) else { continue };
            let Some(session) = self.sessions.get_mut(subscription.session) else { continue };
            subscription.messages += messages;
            session.traffic.messages_out += messages;
            session.traffic.bytes_out += payload_bytes;
            let out = session.outbox.buffer();
            let (source, _) = alias_of(&mut session.sources, out, &from, topic, &name);
            for Piece { start, end, payload_bytes } in pieces {
                let message = &bytes[*start..*end];
                ToClient::encode_deliver(out, subscription.number, source, *payload_bytes as u64, message);
            }
            self.totals.traffic.messages_out += messages;
            self.totals.traffic.bytes_out += payload_bytes;
            if !session.dirty {
                session.dirty = true;
                self.dirty.push_back(session.id);
            }
        }
    }
}

/// The alias of the publish that stands first, if it is a plain and whole one.
fn first_alias(bytes: &[u8]) -> Option<u32> {
    match split_frame(bytes, usize::MAX) {
        Ok(Framed::Whole { body, .. }) => Publish::decode_plain(body).map(|publish| publish.alias),
        _ => None,
    }
}
