//! Topics that stay readable after their publisher has gone: the last messages of its stream, as the broker keeps them.
//!
//! When a stream on a topic with `retain` ends, the shell copies its last messages, off the core's thread, into memory of
//! the broker's own: a closed generation, which takes the place of the topic's earlier copy if anything was
//! published. A later subscription with history gets the copy before anything else of that topic. To the rest of
//! the core that is an attachment without a publisher: it is offered and taken like any other, then the memory is
//! handed over at once, and the attachment is over. What comes of live publishers meanwhile waits behind it. Copies are
//! bounded in number and bytes; the oldest go first. Nothing here outlives the broker.

use super::attachment::{Attachment, Stage};
use super::broker::Core;
use super::session::Identity;
use super::snapshot::RetainedStatus;
use super::table::Key;
use super::{Action, FdId, Now, RetainedCopy};
use std::collections::BTreeMap;
use std::sync::Arc;
use tramline_wire::{Code, Filter, Geometry, Offer, ToClient, Topic};

/// The memory of a copy, as it is handed over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    pub(super) memory: FdId,
    pub(super) generation: u32,
    pub(super) geometry: Geometry,
}

/// What is kept of one topic.
#[derive(Debug)]
pub(super) struct Retained {
    pub(super) stream: u64,
    pub(super) from: Arc<Identity>,
    pub(super) copy: Memory,
    pub(super) bytes: u64,
    /// Numbers of its messages.
    pub(super) seqs: Vec<u64>,
    /// Grows with each copy made.
    order: u64,
}

/// A copy that the shell is making.
#[derive(Debug)]
struct Making {
    topic: Key,
    from: Arc<Identity>,
    /// Memory of the ring that is copied, and its bytes, which are counted until then.
    memory: FdId,
    bytes: u64,
    /// Subscriptions that came meanwhile.
    waiting: Vec<Key>,
}

/// All that is kept.
#[derive(Debug, Default)]
pub(super) struct Retention {
    pub(super) by_topic: BTreeMap<Key, Retained>,
    /// Bytes of all copies.
    pub(super) bytes: u64,
    making: BTreeMap<u64, Making>,
    order: u64,
}

impl Core {
    pub(super) fn retain_of(&self, topic: Key) -> u32 {
        let name = self.topics.get(topic).map(|entry| &*entry.name);
        let settings =
            name.and_then(|name| Topic::parse(name).ok()).and_then(|topic| self.access.settings(topic));
        settings.map_or(0, |settings| settings.retain)
    }

    /// A stream has ended: has its last messages copied, if its topic says so.
    pub(super) fn retain_stream(&mut self, id: u64) {
        let Some(stream) = self.streams.by_id.get(&id) else { return };
        let topic = stream.topic;
        let (generation, geometry, memory, bytes) = stream.written();
        let messages = self.retain_of(topic);
        if messages == 0 || self.retention.making.contains_key(&id) {
            return;
        }
        let Some(from) = self.sessions.get(stream.session).map(|session| session.identity.clone()) else {
            return;
        };
        let Some(name) = self.topics.get(topic).map(|entry| entry.name.clone()) else { return };
        if let Ok(name) = Topic::parse(&name) {
            self.topics.take(name);
        }
        self.keep_fd(memory);
        self.streams.bytes += bytes;
        self.retention.making.insert(id, Making { topic, from, memory, bytes, waiting: Vec::new() });
        let bytes_max = self.limits.retained_bytes_max.min(self.limits.ring_bytes_max);
        self.actions.push_back(Action::Retain {
            stream: id,
            memory,
            generation,
            geometry,
            messages,
            bytes_max,
        });
    }

    /// The shell has copied a stream's last messages; none if there were none.
    pub(super) fn take_retained(&mut self, id: u64, result: Result<Option<RetainedCopy>, String>) {
        let Some(making) = self.retention.making.remove(&id) else {
            if let Ok(Some(copy)) = result {
                self.actions.push_back(Action::CloseFd(copy.memory));
            }
            return;
        };
        let Making { topic, from, memory, bytes, waiting } = making;
        self.streams.bytes -= bytes;
        self.release_fd(memory);
        match result {
            Ok(None) => {}
            Ok(Some(copy)) => self.keep_retained(id, topic, from, copy),
            Err(reason) => {
                self.totals.retained_dropped += 1;
                tracing::warn!("the last messages of stream {id:016x} of {from} are not kept: {reason}");
            }
        }
        for key in waiting {
            if self.offer_retained(topic, key) {
                self.one_less_awaited(key, false);
            } else if self.subscriptions.get(key).is_some() {
                self.one_less_awaited(key, false);
                self.one_less_retained(key);
            }
        }
        self.topics.release(topic);
    }

    fn keep_retained(&mut self, id: u64, topic: Key, from: Arc<Identity>, made: RetainedCopy) {
        let RetainedCopy { memory, generation, geometry, bytes, seqs } = made;
        self.keep_fd(memory);
        self.drop_retained(topic, false);
        self.forget_past(topic);
        let (count_max, bytes_max) =
            (self.limits.retained_topics_max as usize, self.limits.retained_bytes_max);
        let rings_max = self.limits.rings_bytes_max;
        while self.retention.by_topic.len() + self.pasts.by_topic.len() >= count_max
            || self.retention.bytes + self.pasts.bytes + bytes > bytes_max
            || self.streams.bytes + bytes > rings_max
        {
            if !self.drop_oldest_retained() {
                self.totals.retained_dropped += 1;
                tracing::warn!(
                    "the last messages of stream {id:016x} of {from} are not kept: {bytes} bytes do not fit \
                     (limits.retained_bytes_max is {bytes_max}, limits.rings_bytes_max {rings_max}, \
                     limits.retained_topics_max {count_max})"
                );
                return self.release_fd(memory);
            }
        }
        let Some(name) = self.topics.get(topic).map(|entry| entry.name.clone()) else {
            return self.release_fd(memory);
        };
        if let Ok(name) = Topic::parse(&name) {
            self.topics.take(name);
        }
        self.streams.bytes += bytes;
        self.retention.bytes += bytes;
        self.retention.order += 1;
        let order = self.retention.order;
        let copy = Memory { memory, generation, geometry };
        self.retention.by_topic.insert(topic, Retained { stream: id, from, copy, bytes, seqs, order });
    }

    /// Drops what is kept of a topic; `counted` if that is for want of room.
    pub(super) fn drop_retained(&mut self, topic: Key, counted: bool) {
        let Some(dropped) = self.retention.by_topic.remove(&topic) else { return };
        self.totals.retained_dropped += u64::from(counted);
        self.retention.bytes -= dropped.bytes;
        self.streams.bytes -= dropped.bytes;
        self.release_fd(dropped.copy.memory);
        self.topics.release(topic);
    }

    /// Makes room by dropping the oldest copy, and says whether there was one.
    pub(super) fn drop_oldest_retained(&mut self) -> bool {
        let oldest =
            self.retention.by_topic.iter().min_by_key(|(_, each)| each.order).map(|(topic, _)| *topic);
        oldest.map(|topic| self.drop_retained(topic, true)).is_some()
    }

    /// A stream is open. If it is the one that was copied, its publisher came back with it, and the copy is void.
    pub(super) fn retained_goes_on(&mut self, id: u64, topic: Key) {
        if self.retention.by_topic.get(&topic).is_some_and(|each| each.stream == id) {
            self.drop_retained(topic, false);
        }
    }

    /// Offers a new subscription with history what is kept of its topics.
    pub(super) fn offer_all_retained(&mut self, key: Key, filter: Filter<'_>) {
        let selected = |core: &Self, topic: Key| {
            let name = core.topics.get(topic).map(|entry| entry.name.clone());
            name.is_some_and(|name| Topic::parse(&name).is_ok_and(|topic| filter.matches(topic)))
        };
        let kept: Vec<Key> =
            self.retention.by_topic.keys().copied().filter(|each| selected(self, *each)).collect();
        let made: Vec<u64> = self
            .retention
            .making
            .iter()
            .map(|(id, making)| (*id, making.topic))
            .filter(|(_, each)| selected(self, *each))
            .map(|(id, _)| id)
            .collect();
        let making: Vec<Key> =
            made.iter().filter_map(|id| self.retention.making.get(id)).map(|each| each.topic).collect();
        for id in made {
            if let Some(making) = self.retention.making.get_mut(&id) {
                making.waiting.push(key);
            }
            if let Some(subscription) = self.subscriptions.get_mut(key) {
                subscription.retained_pending += 1;
                if let Some(confirmation) = &mut subscription.confirmation {
                    confirmation.awaited += 1;
                }
            }
        }
        // What is being replaced is not offered.
        for topic in kept.into_iter().filter(|topic| !making.contains(topic)) {
            if let Some(subscription) = self.subscriptions.get_mut(key) {
                subscription.retained_pending += 1;
            }
            if !self.offer_retained(topic, key) {
                self.one_less_retained(key);
            }
        }
        self.queue_past(key, |name| Topic::parse(name).is_ok_and(|topic| filter.matches(topic)));
    }

    /// Offers what is kept of a topic to a subscription, which waits for it already. `false`: there is nothing.
    fn offer_retained(&mut self, topic: Key, key: Key) -> bool {
        let Some(subscription) = self.subscriptions.get(key) else { return false };
        let Some(retained) = self.retention.by_topic.get(&topic) else { return false };
        if self.attachments_fit(1).is_err() {
            return false;
        }
        let (number, proxy, subscriber) = (subscription.number, !subscription.rings, subscription.session);
        let mode = subscription.mode;
        let history =
            (subscription.history as usize).saturating_sub(self.past_of(topic, subscription.history));
        if history == 0 {
            return false;
        }
        let start = retained.seqs.len().saturating_sub(history);
        let start_seq = retained.seqs.get(start).copied().unwrap_or(1);
        let (stream, from, copy) = (retained.stream, retained.from.clone(), retained.copy);
        self.keep_fd(copy.memory);
        let link = self.link_alone(key);
        let attach = self.new_attachment_id();
        let ends = (Key::NOBODY, subscriber);
        self.add_attachment(
            attach,
            Attachment {
                link,
                granted: mode,
                mode,
                proxy,
                awaited_by_subscription: true,
                start: start as u64,
                start_seq,
                copy: Some(copy),
                last_seq: start_seq.saturating_sub(1),
                ended: Some(Code::PeerGone.number()),
                ..Attachment::new(stream, topic, key, ends, from.clone())
            },
        );
        if proxy {
            self.actions.push_back(Action::ProxyOffer { attach, link, stream });
            return true;
        }
        let source = self.source_alias(subscriber, &from, topic);
        // The copy is the broker's own.
        let offer = Offer { attach, sub: number, source, stream, link, mode, in_place: true, retained: true };
        self.send_control(subscriber, &ToClient::Offer(offer));
        if !self.by_id.contains_key(&from.session)
            && let Some(session) = self.sessions.get_mut(subscriber)
        {
            session.sources.publisher_gone(from.session);
        }
        true
    }

    pub(super) fn retained_status(&self) -> Vec<RetainedStatus> {
        let describe = |(topic, each): (&Key, &Retained)| {
            let Identity { name, uid, pid, .. } = &*each.from;
            Some(RetainedStatus {
                topic: self.topics.get(*topic)?.name.to_string(),
                name: name.clone(),
                pid: *pid,
                uid: *uid,
                messages: each.seqs.len() as u64,
                last_seq: each.seqs.last().copied().unwrap_or(0),
                memory_bytes: each.bytes,
            })
        };
        let mut all: Vec<RetainedStatus> = self.retention.by_topic.iter().filter_map(describe).collect();
        all.extend(self.past_status());
        all.sort_by(|one, other| one.topic.cmp(&other.topic));
        all
    }

    /// Drops copies, the oldest first, if that makes room for a ring of so many bytes: who publishes goes before who did.
    pub(super) fn make_room_for_ring(&mut self, bytes: u64) {
        let max = self.limits.rings_bytes_max;
        let live = self.streams.bytes - self.retention.bytes;
        if live.saturating_add(bytes) <= max {
            while self.streams.bytes.saturating_add(bytes) > max && self.drop_oldest_retained() {}
        }
    }

    /// A copy has been handed over, or will not be: what waited behind it may go on.
    pub(super) fn one_less_retained(&mut self, key: Key) {
        if let Some(subscription) = self.subscriptions.get_mut(key) {
            subscription.retained_pending -= 1;
            self.to_release.push_back(key);
        }
    }

    /// Hands over the memory of live streams that waited behind copies.
    pub(super) fn hand_over_behind_retained(&mut self, key: Key, now: Now) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        if subscription.retained_pending > 0 || subscription.behind_retained.is_empty() {
            return;
        }
        for attach in std::mem::take(&mut subscription.behind_retained) {
            match self.attachments.get(&attach).filter(|each| each.stage == Stage::Handover) {
                Some(attachment) if attachment.proxy => self.send_attach(attach),
                Some(_) => self.queue_attach(key, attach, now),
                None => {}
            }
        }
    }

    /// Whether a live stream's memory must wait behind copies.
    pub(super) fn waits_behind_retained(&mut self, key: Key, attach: u64) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(key).filter(|each| each.retained_pending > 0)
        else {
            return false;
        };
        subscription.behind_retained.push(attach);
        true
    }
}
