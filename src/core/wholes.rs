//! Messages of rings that queues and routes take whole, however large they are.
//!
//! Everybody else without rings is given the beginning of what does not fit into a frame; a queue or a route is given all of
//! it or nothing. The shell copies what is large on another thread than the core's, one message at a time in all: that is
//! what bounds the memory that this takes, besides what queues and routes have. Others wait for their turn, with their message
//! where it was published; so does what there is no room for, if its publisher may be held up. So nothing that is gated is
//! read only to be refused.

use super::broker::Core;
use super::subscription::Sink;
use super::table::Key;
use super::{Action, Found};
use std::collections::VecDeque;
use tramline_wire::Mode;
use tramline_wire::limits::FRAME_OVERHEAD_BYTES;

/// Whose message is copied.
#[derive(Debug, Default)]
pub(super) struct Wholes {
    /// The attachment that has the turn: its message is being copied, or it was told to ask again.
    turn: Option<u64>,
    /// Who keeps room for the message that is being copied.
    awaited_by: Option<Sink>,
    /// Attachments that wait for it, each once.
    waiting: VecDeque<u64>,
}

impl Core {
    /// The longest payload that fits into a frame beside so many bytes of headers.
    pub(super) fn payload_room(&self, head_bytes: usize) -> usize {
        (self.limits.frame_bytes_max as usize).saturating_sub(FRAME_OVERHEAD_BYTES + head_bytes)
    }

    pub(super) fn what_of_found(&mut self, attach: u64, head_bytes: usize, payload_bytes: u64) -> Found {
        let Some(key) = self.attachments.get(&attach).filter(|each| each.proxy).map(|each| each.subscription)
        else {
            return Found::Give;
        };
        let Some(subscription) = self.subscriptions.get(key) else { return Found::Give };
        let Some(sink) = subscription.sink else { return Found::Give };
        let is_gated = subscription.mode == Mode::Gated;
        let length = usize::try_from(payload_bytes).unwrap_or(usize::MAX);
        let most = self.limits.delivery_ring_bytes_max;
        let is_far_too_large = payload_bytes > most;
        let message_bytes = length.saturating_add(FRAME_OVERHEAD_BYTES + head_bytes);
        if is_gated && !is_far_too_large && self.sink_holds_ring_up(key, sink, message_bytes) {
            self.let_wait_for_room(key, attach);
            self.pass_turn_on(attach);
            return Found::Wait;
        }
        if length <= self.payload_room(head_bytes) || is_far_too_large {
            return Found::Give;
        }
        if self.wholes.turn.is_none_or(|turn| turn == attach) {
            self.wholes.turn = Some(attach);
            if is_gated {
                self.wholes.awaited_by = Some(sink);
                self.sink_awaits(sink, Some(message_bytes));
            }
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

    /// Keeps room for what is being copied, so that what is published meanwhile does not take it.
    fn sink_awaits(&mut self, sink: Sink, message_bytes: Option<usize>) {
        match sink {
            Sink::Queue(queue) => self.queue_awaits(queue, message_bytes),
            Sink::Routes => self.routes_await(message_bytes),
        }
    }

    pub(super) fn let_wait_for_room(&mut self, key: Key, attach: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(key)
            && !subscription.waiting_proxies.contains(&attach)
        {
            subscription.waiting_proxies.push(attach);
        }
    }

    /// An attachment needs its turn no longer, if it had it.
    pub(super) fn pass_turn_on(&mut self, attach: u64) {
        if self.wholes.turn != Some(attach) {
            return;
        }
        if let Some(sink) = self.wholes.awaited_by.take() {
            self.sink_awaits(sink, None);
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
}
