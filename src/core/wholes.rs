//! Messages of rings that queues and routes take whole, however large they are.
//!
//! Everybody else without rings is given the beginning of what does not fit into a frame; a queue or a route is given all of
//! it or nothing. The shell copies what is large on another thread than the core's, one message at a time in all; others wait
//! for their turn, with their message where it was published. What has no room where it goes waits as well, if its publisher
//! may be held up: so nothing that is gated is read only to be refused. It waits as a copy, at most one for each ring, since
//! what is held in place is in its publisher's way however little else is; large ones are charged to their publisher's user
//! meanwhile, as what is queued is.

use super::attachment::Attachment;
use super::broker::Core;
use super::queues::Account;
use super::subscription::Sink;
use super::table::Key;
use super::{Action, Found};
use std::collections::{BTreeMap, VecDeque};
use tramline_wire::Mode;
use tramline_wire::limits::FRAME_OVERHEAD_BYTES;

/// Whose message is copied.
#[derive(Debug, Default)]
pub(super) struct Wholes {
    /// The attachment that has the turn: its message is being copied, or it was told to ask again.
    turn: Option<u64>,
    /// Attachments that wait for it, each once.
    waiting: VecDeque<u64>,
    /// By attachments, which user is charged how much for a copy that waits for room.
    kept: BTreeMap<u64, (u32, u64)>,
}

impl Core {
    /// The longest payload that fits into a frame beside so many bytes of headers.
    pub(super) fn payload_room(&self, head_bytes: usize) -> usize {
        (self.limits.frame_bytes_max as usize).saturating_sub(FRAME_OVERHEAD_BYTES + head_bytes)
    }

    /// The shell has found a message with headers and a payload of these lengths in a ring that it reads on behalf of a
    /// subscription, or has copied it whole, as it was told to. Lengths are the ring's claims, bounded by its memory.
    pub fn proxy_found(
        &mut self,
        attach: u64,
        head_bytes: usize,
        payload_bytes: u64,
        is_copied: bool,
    ) -> Found {
        if is_copied {
            self.keep_no_longer(attach);
        }
        let Some(attachment) = self.attachments.get(&attach).filter(|each| each.proxy) else {
            return Found::Give;
        };
        let Attachment { subscription: key, mode, .. } = *attachment;
        let uid = attachment.from.uid;
        let Some(sink) = self.subscriptions.get(key).and_then(|subscription| subscription.sink) else {
            return Found::Give;
        };
        let length = usize::try_from(payload_bytes).unwrap_or(usize::MAX);
        if payload_bytes > self.limits.delivery_ring_bytes_max {
            return Found::Give;
        }
        let is_large = length > self.payload_room(head_bytes);
        if is_large && !is_copied {
            return self.copy_in_turn(attach);
        }
        let message_bytes = length.saturating_add(FRAME_OVERHEAD_BYTES + head_bytes);
        if mode != Mode::Gated || !self.sink_holds_ring_up(key, sink, message_bytes) {
            return Found::Give;
        }
        if is_large {
            let cost = message_bytes as u64;
            let charges = &mut self.queues.charges;
            if charges.fit(Account::Memory, uid, cost, &self.limits).is_err() {
                // It is refused and counted.
                return Found::Give;
            }
            charges.add(Account::Memory, uid, cost);
            self.wholes.kept.insert(attach, (uid, cost));
        }
        self.let_wait_for_room(key, attach);
        Found::Keep
    }

    fn copy_in_turn(&mut self, attach: u64) -> Found {
        if self.wholes.turn.is_none_or(|turn| turn == attach) {
            self.wholes.turn = Some(attach);
            return Found::Copy;
        }
        if !self.wholes.waiting.contains(&attach) {
            self.wholes.waiting.push_back(attach);
        }
        Found::Wait
    }

    /// Whether a ring that may be held up is not read on, since there is no room for a message of this length. One that would
    /// never fit is no reason.
    pub(super) fn sink_holds_ring_up(&mut self, key: Key, sink: Sink, message_bytes: usize) -> bool {
        match sink {
            Sink::Queue(queue) => self.queue_holds_ring_up(queue, message_bytes),
            Sink::Routes => self.routes_hold_ring_up(key, message_bytes),
        }
    }

    pub(super) fn let_wait_for_room(&mut self, key: Key, attach: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(key)
            && !subscription.waiting_proxies.contains(&attach)
        {
            subscription.waiting_proxies.push(attach);
        }
    }

    /// A message of an attachment is copied, or will not be: whoever is next has the turn.
    fn pass_turn_on(&mut self, attach: u64) {
        if self.wholes.turn != Some(attach) {
            return;
        }
        let next = loop {
            match self.wholes.waiting.pop_front() {
                Some(next) if !self.attachments.contains_key(&next) => {}
                next => break next,
            }
        };
        self.wholes.turn = next;
        if let Some(attach) = next {
            self.actions.push_back(Action::ProxyResume { attach });
        }
    }

    /// Nothing of an attachment is copied or kept any more.
    pub(super) fn keep_no_longer(&mut self, attach: u64) {
        if let Some((uid, cost)) = self.wholes.kept.remove(&attach) {
            self.queues.charges.release(Account::Memory, uid, cost);
        }
        self.pass_turn_on(attach);
    }
}
