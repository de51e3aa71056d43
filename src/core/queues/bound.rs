//! Queues that are bound to topics: what is published there lands in them like anything that is pushed.
//!
//! To the rest of the core a binding is a subscription of the broker's own, so that rings are read for it as for any
//! other subscriber without rings. The publisher is asked nothing: what a full queue does not take is counted there. A ring
//! that may be held up is not read on meanwhile, so nothing in it is lost.

use super::origins::Origin;
use super::queue::Incoming;
use super::settings::WhenFull;
use crate::core::broker::Core;
use crate::core::delivery::Handed;
use crate::core::quota::Checked;
use crate::core::session::Session;
use crate::core::subscribe::Wanted;
use crate::core::subscription::{Asker, Sink};
use crate::core::table::Key;
use crate::core::{Language, Now, Peer};
use std::sync::Arc;
use tramline_wire::limits::{PRIORITY_DEFAULT, PRIORITY_MAX};
use tramline_wire::{HeaderBlock, Mode, SlowPolicy};

impl Core {
    /// Has messages on topics that match `filter` land in a queue.
    pub(super) fn bind_queue(&mut self, queue: Key, filter: &str, now: Now) -> Checked<()> {
        let binding = self.own_subscription(filter, Sink::Queue(queue), now)?;
        if let Some((binding, queue)) = binding.zip(self.queues.table.get_mut(queue)) {
            queue.bindings.push(binding);
        }
        Ok(())
    }

    /// A subscription of the broker's own.
    pub(in crate::core) fn own_subscription(
        &mut self,
        filter: &str,
        sink: Sink,
        now: Now,
    ) -> Checked<Option<Key>> {
        let session_key = self.own_session(now);
        let Some(session) = self.sessions.get_mut(session_key) else { return Ok(None) };
        session.last_subscription += 1;
        let wanted = Wanted {
            asker: Asker::Nobody,
            number: session.last_subscription,
            filter,
            mode: Mode::Gated,
            rings: false,
            history: 0,
            slow: SlowPolicy::DropOldest,
            backlog_bytes_max: 0,
            gated_only: false,
            sink: Some(sink),
        };
        let number = wanted.number;
        self.subscribe(session_key, wanted, now)?;
        Ok(self.sessions.get(session_key).and_then(|session| session.subscriptions.get(&number).copied()))
    }

    pub(super) fn unbind_queue(&mut self, key: Key) {
        let Some(queue) = self.queues.table.get_mut(key) else { return };
        for binding in std::mem::take(&mut queue.bindings) {
            self.end_subscription(binding, 0);
        }
    }

    pub(in crate::core) fn own_session(&mut self, now: Now) -> Key {
        if let Some(own) = self.queues.own_session {
            return own;
        }
        let (uid, pid) = (self.access.own_uid, self.access.own_pid);
        let peer = Peer { pid, uid, gid: 0, groups: Vec::new() };
        let mut session = Session::new(0, peer, Language::Json, now.monotonic);
        session.identity = self.identity.clone();
        // Nobody reads what is written to it.
        session.mute = true;
        let key = self.sessions.insert(session);
        self.queues.own_session = Some(key);
        key
    }

    /// A message for a subscription that is a queue's.
    pub(in crate::core) fn queue_message(&mut self, queue: Key, handed: &Handed<'_>, now: Now) {
        let message = &handed.message;
        if handed.payload_length != message.payload.len() as u64 {
            if let Some(queue) = self.queues.table.get_mut(queue) {
                queue.counts.lose(1);
            }
            tracing::warn!(
                "a message of {} bytes on {} does not go into a queue: limits.delivery_ring_bytes_max is {}",
                handed.payload_length,
                handed.name,
                self.limits.delivery_ring_bytes_max
            );
            return;
        }
        let head = HeaderBlock::parse(message.head).unwrap_or_default();
        let bytes = handed.shared.get_or_init(|| handed.bytes.into()).clone();
        let incoming = Incoming {
            bytes,
            priority: priority_of(head),
            delay_millis: 0,
            ttl_millis: 0,
            id: head.get("message_id").filter(|id| id.len() <= 64).unwrap_or_default(),
        };
        let origin = Origin { from: handed.from.clone(), topic: handed.topic, name: handed.name.clone() };
        if let Err(refused) = self.push_to(queue, incoming, &origin, now) {
            // It is counted there; whoever published was not to be told.
            tracing::debug!("{} on {} was not queued: {}", handed.from, handed.name, refused.message);
        }
    }

    /// Whether a queue has no room for a message of this length, so that a ring that may be held up is not read on.
    pub(in crate::core) fn queue_holds_ring_up(&mut self, key: Key, bytes: usize) -> bool {
        let Some(queue) = self.queues.table.get_mut(key) else { return false };
        let stuck = queue.kept.is_some() && self.queues.ledger.is_stuck();
        let refuses = queue.settings.when_full == WhenFull::Refuse && !queue.is_too_small_for(bytes);
        let full = stuck || (refuses && queue.is_full_for(bytes).is_some());
        queue.holds_rings_up |= full;
        full
    }

    /// Counts what a ring lost before its message could be queued.
    pub(in crate::core) fn lost_before_queue(&mut self, key: Key, lost: u64) {
        if let Some(queue) = self.queues.table.get_mut(key) {
            queue.counts.lose(lost);
        }
    }
}

/// The priority that a published message names in its header `priority`.
pub(in crate::core) fn priority_of(head: HeaderBlock<'_>) -> u8 {
    match head.get("priority") {
        Some([digit @ b'0'..=b'9']) => (digit - b'0').min(PRIORITY_MAX),
        _ => PRIORITY_DEFAULT,
    }
}

/// The origin of what is pushed to a queue itself.
pub(in crate::core) fn pushed_by(from: &Arc<crate::core::session::Identity>, nameless: &Arc<str>) -> Origin {
    Origin { from: from.clone(), topic: Key::NOBODY, name: nameless.clone() }
}
