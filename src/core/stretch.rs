//! The quick way of small messages: a stretch of publishes on one alias whose subscribers keep up, or do not read at all.
//!
//! Looking up the session, the topic, its subscribers and their sessions, and counting, costs more than appending a
//! small message; here it is done once for all publishes that stand behind each other in what was read. Nothing is
//! decided here that `native`, `router` and `delivery` would decide otherwise: as soon as anything is out of the
//! ordinary (a queue that moves or may hold somebody up, an unread loss, a confirmation, a fault, an outbox near its
//! limit), the frame is left to them. A subscriber that has stopped reading gets the stretch as one entry of its queue
//! (`runs`), one that reads JSON gets each message by itself; neither takes the quick way from the others. A test holds
//! both ways to the same outboxes and counts.

use super::broker::Core;
use super::delivery::Handed;
use super::gaps::alias_of;
use super::runs::Run;
use super::session::{Identity, Stage};
use super::table::Key;
use super::{Language, Now};
use std::cell::OnceCell;
use std::sync::Arc;
use tramline_wire::codec::Framed;
use tramline_wire::{
    FRAME_PREFIX_BYTES, HeaderBlock, MessageFlags, Publish, SlowPolicy, ToBroker, ToClient, split_frame,
};

/// Bytes of a delivery besides the message itself.
const DELIVERY_BYTES: usize = FRAME_PREFIX_BYTES + super::native::DELIVER_HEAD_BYTES;

/// A message of the stretch: where it is in what was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    start: usize,
    end: usize,
    pub(super) payload_bytes: usize,
}

impl Piece {
    pub(super) const fn message_bytes(&self) -> usize {
        self.end - self.start
    }

    /// The message, in the bytes that this is a piece of.
    pub(super) fn message<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start..self.end]
    }
}

/// How a subscription is given a stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Straight to its session's outbox.
    Straight,
    /// As one entry of its queue, which does not move.
    Run,
    /// Message by message.
    Each,
}

impl Core {
    /// Takes the publishes at the beginning of `bytes` that can go straight to all outboxes, and says how many bytes
    /// of `bytes` they were; 0 leaves the first frame to the general way. The session is neither paused nor closing.
    pub(super) fn take_stretch(&mut self, key: Key, bytes: &[u8], now: Now) -> usize {
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
            self.append_stretch(key, topic, &matches, (&bytes[..consumed], &pieces), now);
        }
        pieces.clear();
        self.pieces = pieces;
        self.topics.give_back(topic, matches);
        consumed
    }

    /// How this subscription is given a stretch; `None` if only the general way knows.
    fn way_to(&self, key: Key) -> Option<Way> {
        let subscription = self.subscriptions.get(key)?;
        let outbox = &self.sessions.get(subscription.session)?.outbox;
        let outbox_is_full = outbox.len() >= self.limits.outbox_bytes_max as usize;
        if subscription.stalls(outbox_is_full) {
            Some(Way::Run)
        } else if subscription.language == Language::Json {
            // One that drops holds nobody up, whatever comes.
            (subscription.slow == SlowPolicy::DropOldest).then_some(Way::Each)
        } else {
            subscription.is_clear().then_some(Way::Straight)
        }
    }

    /// How many bytes of deliveries each of these subscriptions can take for certain, if nothing is in the way of any.
    fn room_of_all(&self, matches: &[Key]) -> Option<usize> {
        let outbox_bytes_max = self.limits.outbox_bytes_max as usize;
        let (mut least, mut straight) = (outbox_bytes_max, 0);
        for key in matches {
            if self.way_to(*key)? == Way::Straight {
                let subscription = self.subscriptions.get(*key)?;
                let session = self.sessions.get(subscription.session)?;
                least = least.min(outbox_bytes_max.checked_sub(session.outbox.len())?);
                straight += 1;
            }
        }
        // They may all be of one session.
        Some(least / straight.max(1))
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

    fn append_stretch(
        &mut self,
        key: Key,
        topic: Key,
        matches: &[Key],
        (bytes, pieces): (&[u8], &[Piece]),
        now: Now,
    ) {
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
        // Queued for several, it is copied once.
        let mut run = None;
        let mut one_by_one = Vec::new();
        for key in matches {
            let way = self.way_to(*key);
            let Some(subscription) = self.subscriptions.get_mut(*key) else { continue };
            match way {
                Some(Way::Straight) => {}
                Some(Way::Run) => {
                    let run = run.get_or_insert_with(|| Run {
                        from: from.clone(),
                        topic,
                        name: name.clone(),
                        bytes: bytes.into(),
                        pieces: pieces.into(),
                        next: 0,
                    });
                    let lost = subscription.queue_run(run.clone());
                    self.count_lost(*key, lost);
                    self.join_backlog(*key);
                    continue;
                }
                Some(Way::Each) | None => {
                    one_by_one.push(*key);
                    continue;
                }
            }
            let Some(session) = self.sessions.get_mut(subscription.session) else { continue };
            subscription.messages += messages;
            session.traffic.messages_out += messages;
            session.traffic.bytes_out += payload_bytes;
            let out = session.outbox.buffer();
            let (source, _) = alias_of(&mut session.sources, out, &from, topic, &name);
            for piece in pieces {
                let (length, message) = (piece.payload_bytes as u64, piece.message(bytes));
                ToClient::encode_deliver(out, subscription.number, source, length, message);
            }
            self.totals.traffic.messages_out += messages;
            self.totals.traffic.bytes_out += payload_bytes;
            if !session.dirty {
                session.dirty = true;
                self.dirty.push_back(session.id);
            }
        }
        if !one_by_one.is_empty() {
            self.hand_over_each((&from, topic, &name), &one_by_one, (bytes, pieces), now);
        }
    }

    /// Gives the messages of a stretch to those subscriptions that take them one by one.
    fn hand_over_each(
        &mut self,
        (from, topic, name): (&Arc<Identity>, Key, &Arc<str>),
        to: &[Key],
        (bytes, pieces): (&[u8], &[Piece]),
        now: Now,
    ) {
        for piece in pieces {
            let (payload_length, bytes) = (piece.payload_bytes as u64, piece.message(bytes));
            let Ok(message) = tramline_wire::codec::decode_message(bytes) else { continue };
            let shared = OnceCell::new();
            let handed = Handed { from, topic, name, bytes, message, payload_length, shared };
            for key in to {
                self.hand_over(*key, &handed, now);
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
