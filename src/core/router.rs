//! From a publish to the subscriptions it reaches.
//!
//! The way of a small message: alias → topic → subscriptions kept ready → each one's outbox. On this way
//! nothing is allocated or hashed per message while subscribers keep up. Before anything is handed over it is
//! known that nobody must be waited for: a message is routed to all, or not yet at all.

use super::Now;
use super::broker::Core;
use super::delivery::Handed;
use super::session::Identity;
use super::subscription::cost;
use super::table::Key;
use std::cell::OnceCell;
use std::sync::Arc;
use tramline_wire::{After, Message};

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routed {
    /// Handed to this many subscriptions.
    To(u32),
    /// Not taken: this subscription is full and its publishers wait.
    Full(Key),
}

impl Core {
    /// Routes a message. With `may_wait`, a full subscription may refuse it; without, it drops its oldest instead.
    pub(super) fn route(
        &mut self,
        from: &Arc<Identity>,
        topic: Key,
        bytes: &[u8],
        message: Message<'_>,
        may_wait: bool,
        now: Now,
    ) -> Routed {
        let matches = self.topics.take_matches(topic);
        if may_wait
            && self.backlogs > 0
            && let Some(full) = self.who_holds_up(&matches, cost(bytes.len()))
        {
            // The clocks of all that are full run together, so that the publisher waits for the slowest of them and not
            // for one after another.
            for key in &matches {
                self.start_clock(*key, cost(bytes.len()), now);
            }
            self.topics.give_back(topic, matches);
            return Routed::Full(full);
        }
        let payload_length = message.payload.len() as u64;
        self.totals.traffic.messages_in += 1;
        self.totals.traffic.bytes_in += payload_length;
        let Some(entry) = self.topics.get_mut(topic) else { return Routed::To(0) };
        entry.messages += 1;
        entry.bytes += payload_length;
        let retain = entry.retain;
        let name = entry.name.clone();
        if retain > 0 {
            self.keep_past(topic, from, bytes, retain);
        }
        if !matches.is_empty() {
            let shared = OnceCell::new();
            let handed = Handed { from, topic, name: &name, bytes, message, payload_length, shared };
            for subscription in &matches {
                self.hand_over(*subscription, &handed, now);
            }
        }
        let receivers = u32::try_from(matches.len()).unwrap_or(u32::MAX);
        self.topics.give_back(topic, matches);
        Routed::To(receivers)
    }

    fn who_holds_up(&self, matches: &[Key], cost: usize) -> Option<Key> {
        let full = |key: &&Key| self.subscriptions.get(**key).is_some_and(|each| each.holds_up(cost));
        matches.iter().find(full).copied()
    }

    /// Whether a socket message must wait for what gone publishers left, or for the broker to have read the ring
    /// messages before it, which it reads on this subscription's behalf.
    pub(super) fn must_hold(&self, subscription: Key, after: Option<After>) -> bool {
        let Some(subscription) = self.subscriptions.get(subscription) else { return false };
        if subscription.retained_pending > 0 {
            return true;
        }
        let Some(after) = after.filter(|_| subscription.proxies > 0) else { return false };
        subscription.attachments.iter().filter_map(|attach| self.attachments.get(attach)).any(|attachment| {
            attachment.proxy
                && attachment.stream == after.stream
                && attachment.stage.is_reading()
                && attachment.last_seq < after.seq
        })
    }

    /// Gives the messages on that were held behind ring messages, as far as these have been read.
    pub(super) fn release_held(&mut self, key: Key, now: Now) {
        let Some(subscription) = self.subscriptions.get(key) else { return };
        let Some((_, after)) = subscription.held.front() else { return };
        if self.must_hold(key, *after) {
            return;
        }
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        let held = std::mem::take(&mut subscription.held);
        let mut released = held.into_iter();
        while let Some((waiting, after)) = released.next() {
            if self.must_hold(key, after) {
                let Some(subscription) = self.subscriptions.get_mut(key) else { return };
                subscription.held.push_back((waiting, after));
                subscription.held.extend(released);
                break;
            }
            let Some(subscription) = self.subscriptions.get_mut(key) else { return };
            if subscription.sink.is_some() {
                subscription.backlog_bytes -= waiting.cost();
                if let Some(handed) = waiting.handed() {
                    self.enqueue(key, &handed, true, now);
                }
                continue;
            }
            subscription.queue.push_back(super::subscription::Entry::Message(waiting));
        }
        self.set_in_motion(key, now);
    }
}
