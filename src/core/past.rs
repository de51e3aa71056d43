//! The last messages that went by socket to topics with `retain`, kept in the broker's queue memory.
//!
//! They stand behind the copy of what a ring left (`retained`), if there is one, and together these are at most as many as
//! the topic retains. The copy of a later ring takes their place. A new subscription with history gets them before
//! anything else. Their bytes count against the same limit as the copies; where there is no room, the oldest go, and
//! what does not fit at all is not kept and counted.

use super::broker::Core;
use super::session::Identity;
use super::snapshot::RetainedStatus;
use super::subscription::{Entry, Waiting, cost};
use super::table::Key;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tramline_wire::Topic;
use tramline_wire::codec::decode_message;

/// Messages of one topic, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Past {
    messages: VecDeque<Waiting>,
    bytes: u64,
}

impl Past {
    fn pop(&mut self) -> u64 {
        let bytes = self.messages.pop_front().map_or(0, |oldest| oldest.cost() as u64);
        self.bytes -= bytes;
        bytes
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }
}

/// All that is kept.
#[derive(Debug, Default)]
pub(super) struct Pasts {
    pub(super) by_topic: BTreeMap<Key, Past>,
    pub(super) bytes: u64,
}

impl Core {
    /// Notes how much is to be kept of a topic that somebody is about to publish to.
    pub(super) fn note_retain(&mut self, topic: Key) {
        let retain = self.retain_of(topic);
        if let Some(entry) = self.topics.get_mut(topic) {
            entry.retain = retain;
        }
    }

    /// Keeps a message that was published by socket to a topic that retains so many.
    pub(super) fn keep_past(&mut self, topic: Key, from: &Arc<Identity>, bytes: &[u8], retain: u32) {
        let Some(name) = self.topics.get(topic).map(|entry| entry.name.clone()) else { return };
        let size = cost(bytes.len()) as u64;
        let mut past = match self.pasts.by_topic.remove(&topic) {
            Some(past) => past,
            None => {
                let used = self.pasts.by_topic.len() + self.retention.by_topic.len();
                if used >= self.limits.retained_topics_max as usize && !self.drop_oldest_retained() {
                    self.totals.retained_dropped += 1;
                    return;
                }
                if let Ok(name) = Topic::parse(&name) {
                    self.topics.take(name);
                }
                Past::default()
            }
        };
        while past.len() >= retain as usize {
            self.pasts.bytes -= past.pop();
        }
        let max = self.limits.retained_bytes_max;
        while self.retention.bytes + self.pasts.bytes + size > max {
            match past.pop() {
                0 if self.drop_oldest_retained() => {}
                0 => break,
                freed => self.pasts.bytes -= freed,
            }
        }
        if self.retention.bytes + self.pasts.bytes + size <= max {
            self.pasts.bytes += size;
            past.bytes += size;
            let payload_length = decode_message(bytes).map_or(0, |message| message.payload.len() as u64);
            past.messages.push_back(Waiting {
                from: from.clone(),
                topic,
                name,
                bytes: bytes.into(),
                payload_length,
            });
        } else {
            self.totals.retained_dropped += 1;
        }
        if past.len() == 0 {
            return self.topics.release(topic);
        }
        let all = past.len() >= retain as usize;
        self.pasts.by_topic.insert(topic, past);
        if all {
            // Nothing of a copy is among the last any more.
            self.drop_retained(topic, false);
        }
    }

    /// What a ring left is later than all this.
    pub(super) fn forget_past(&mut self, topic: Key) {
        if let Some(past) = self.pasts.by_topic.remove(&topic) {
            self.pasts.bytes -= past.bytes;
            self.topics.release(topic);
        }
    }

    /// How many of a subscription's `history` messages of a topic went by socket.
    pub(super) fn past_of(&self, topic: Key, history: u32) -> usize {
        self.pasts.by_topic.get(&topic).map_or(0, |past| past.len().min(history as usize))
    }

    /// Puts the last messages of these topics into the queue of a new subscription, as far as they fit.
    pub(super) fn queue_past(&mut self, key: Key, selected: impl Fn(&str) -> bool) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        for past in self.pasts.by_topic.values() {
            let chosen = past.messages.iter().rev().take(subscription.history as usize);
            let mut room = subscription.backlog_bytes_max.saturating_sub(subscription.backlog_bytes);
            let fits = |waiting: &&Waiting| {
                let cost = waiting.cost();
                let fits = cost <= room;
                room = room.saturating_sub(cost);
                fits && selected(&waiting.name)
            };
            let mut chosen: Vec<&Waiting> = chosen.take_while(fits).collect();
            chosen.reverse();
            for waiting in chosen {
                let Waiting { from, topic, name, bytes, payload_length } = waiting;
                let copy = Waiting {
                    from: from.clone(),
                    topic: *topic,
                    name: name.clone(),
                    bytes: bytes.clone(),
                    payload_length: *payload_length,
                };
                subscription.backlog_bytes += copy.cost();
                if subscription.retained_pending > 0 {
                    subscription.held.push_back((copy, None));
                } else {
                    subscription.queue.push_back(Entry::Message(copy));
                }
            }
        }
    }

    pub(super) fn past_status(&self) -> impl Iterator<Item = RetainedStatus> {
        self.pasts.by_topic.values().filter_map(|past| {
            let last = past.messages.back()?;
            Some(RetainedStatus {
                topic: last.name.to_string(),
                name: last.from.name.clone(),
                pid: last.from.pid,
                uid: last.from.uid,
                messages: past.len() as u64,
                last_seq: decode_message(&last.bytes).map_or(0, |message| message.seq),
                memory_bytes: past.bytes,
            })
        })
    }
}
