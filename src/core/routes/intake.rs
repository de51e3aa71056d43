//! Messages on their way in: from topics, by subscriptions of the broker's own, from queues, as their consumer, and from
//! callers of services that routes answer.
//!
//! When too much is under way nothing more is taken: a ring whose reader may hold it up is not read on, a queue gives
//! nothing out, and what is published by socket is refused here and counted, as by a queue that is full. A message that only
//! goes on to a topic is not under way at all.

use super::hands::Source;
use super::item::{Arrived, Back};
use super::set::{Candidates, OfTopic};
use super::task::Made;
use super::{Routing, cost};
use crate::core::broker::Core;
use crate::core::delivery::Handed;
use crate::core::queues::{Given, Origin, Place, Settled, priority_of};
use crate::core::table::Key;
use crate::core::{Action, Now};
use crate::routes::route::OrderKey;
use serde_json::json;
use std::sync::Arc;
use tramline_wire::HeaderBlock;
use tramline_wire::codec::decode_message;

/// Messages that routes have at a time from one queue.
pub(super) const PREFETCH: u32 = 256;

impl Routing {
    /// Which limit would be exceeded by a message of this length; its value, and what would be used.
    fn is_full_for(&self, bytes: usize) -> Option<(&'static str, u64, u64)> {
        let (messages, most) = (self.items.len() as u64 + 1, self.limits.work_messages_max as u64);
        if messages > most {
            return Some(("work_messages_max", most, messages));
        }
        let (bytes, most) = (self.bytes + cost(bytes), self.limits.work_bytes_max as u64);
        // One alone is taken however large it is.
        (bytes > most && messages > 1).then_some(("work_bytes_max", most, bytes))
    }

    /// Whether those who were held up may go on.
    fn has_room(&self) -> bool {
        let (messages, bytes) = (self.limits.work_messages_max, self.limits.work_bytes_max as u64);
        self.items.len() <= messages - messages.div_ceil(8) && self.bytes <= bytes - bytes / 8
    }
}

impl Core {
    /// A message on a topic that routes take from, by one of their subscriptions.
    pub(in crate::core) fn take_for_routes(&mut self, subscription: Key, handed: &Handed<'_>, now: Now) {
        let message = &handed.message;
        let head = HeaderBlock::parse(message.head).unwrap_or_default();
        let message_type = head.message_type().unwrap_or_default();
        let found = self.routing.of_topic(handed.topic, handed.name, message_type);
        let Some(OfTopic { by, candidates }) = found else { return };
        if by != subscription {
            return;
        }
        let counts = &mut self.routing.counts;
        if candidates.places.is_empty() {
            counts.unmatched += 1;
            return;
        }
        if handed.payload_length != message.payload.len() as u64 {
            counts.too_large += 1;
            tracing::warn!(
                "a message of {} bytes on {} is not for routes: limits.delivery_ring_bytes_max is {}",
                handed.payload_length,
                handed.name,
                self.limits.delivery_ring_bytes_max
            );
            return;
        }
        if self.went_round(handed.from.hops, handed.name) {
            return;
        }
        let source = Source::Topic(handed.from.session, handed.topic);
        let at_once =
            candidates.forward && !self.routing.publishing && !self.routing.hands.is_in_work(source);
        if at_once {
            return self.forward(&candidates, source, handed, now);
        }
        if self.refuses(handed) {
            return;
        }
        let item = self.open_item(arrived(source, handed), now);
        self.have_treated(item, &candidates);
    }

    /// Whether a message has been through as many routes as it may. It is stopped then.
    fn went_round(&mut self, hops: u8, name: &str) -> bool {
        let most = self.routing.limits.hops_max;
        if usize::from(hops) < most {
            return false;
        }
        self.routing.counts.stopped += 1;
        tracing::warn!(
            "a message on {name:?} is stopped: it went through {hops} routes (route_limits.hops_max is {most})"
        );
        self.event("$tramline.route", |_| json!({"event": "stopped", "topic": name, "hops": hops}));
        true
    }

    /// Whether there is no room for a message that was published.
    fn refuses(&mut self, handed: &Handed<'_>) -> bool {
        let Some((limit, most, used)) = self.routing.is_full_for(handed.bytes.len()) else { return false };
        self.routing.counts.refused += 1;
        if !std::mem::replace(&mut self.routing.told_full, true) {
            tracing::warn!(
                "routes take nothing more: with the next message they would have {used}, and route_limits.{limit} is {most}"
            );
            self.event("$tramline.route", |_| json!({"event": "full", "limit": limit, "value": most}));
        }
        true
    }

    /// Sends a message on that none of its routes needs to read.
    fn forward(&mut self, candidates: &Candidates, source: Source, handed: &Handed<'_>, now: Now) {
        let mut item = None;
        let is_bulk = self.is_bulk(handed.bytes.len());
        let set = self.routing.set.clone();
        for place in &*candidates.places {
            let Some(route) = set.keys.get(*place).copied() else { continue };
            let settings = set.routes.routes()[*place].settings();
            let state = self.routing.table.get(route).filter(|_| !is_bulk);
            let only = state.and_then(|state| state.only_topic());
            if item.is_none() && only.is_none() && settings.drop.is_none() {
                if self.refuses(handed) {
                    return;
                }
                item = Some(self.open_item(arrived(source, handed), now));
            }
            match (item, only) {
                (Some(item), _) => {
                    let made = match settings.drop {
                        Some(_) => Made::Dropped,
                        None => Made::AsItCame(OrderKey::default()),
                    };
                    self.take_made(item, route, made, now);
                }
                (None, only) => self.forward_at_once(route, only, settings.drop.is_some(), handed, now),
            }
            if !settings.goes_on {
                break;
            }
        }
        if let Some(item) = item {
            self.close_item(item, now);
        }
    }

    /// Publishes a message on the one topic that its route leads to, or drops it.
    fn forward_at_once(&mut self, route: Key, only: Option<Key>, drop: bool, handed: &Handed<'_>, now: Now) {
        if self.taps > 0 {
            let made = if drop { Made::Dropped } else { Made::AsItCame(OrderKey::default()) };
            self.show_tapped(route, (handed.from, handed.name), handed.message, &made, now);
        }
        let hops = handed.from.hops;
        if let Some(tap) = self.routing.table.get(route).and_then(|state| state.tap) {
            self.publish_for_route(tap, handed.message, hops, now);
        }
        if let Some(topic) = only.filter(|_| !drop) {
            self.publish_for_route(topic, handed.message, hops, now);
            if let Some(state) = self.routing.table.get_mut(route)
                && let [place] = &mut *state.destinations
            {
                place.counts.tries += 1;
                place.counts.delivered += 1;
            }
        }
        let Some(account) = self.account_of(route) else { return };
        account.counts.received += 1;
        if drop {
            account.counts.dropped += 1;
        } else {
            account.counts.delivered += 1;
            account.latency.note(0);
        }
    }

    /// Whether a ring is not read on because routes have too much for one more message of this length.
    pub(in crate::core) fn routes_hold_ring_up(&mut self, subscription: Key, bytes: usize) -> bool {
        let full = self.routing.is_full_for(bytes).is_some();
        if full && !self.routing.held.contains(&subscription) {
            self.routing.held.push(subscription);
        }
        full
    }

    /// Counts what a ring lost before routes could have it.
    pub(in crate::core) fn lost_before_routes(&mut self, lost: u64) {
        // What a ring says is a claim.
        let count = &mut self.routing.counts.lost_in_rings;
        *count = count.saturating_add(lost);
    }

    /// Whether a queue is to give nothing out to routes now.
    pub(in crate::core) fn routes_hold_queue_up(&mut self, place: Place) -> bool {
        let full = self.routing.is_full_for(0).is_some();
        if full {
            self.routing.blocked.push(place);
        }
        full
    }

    /// A message that a queue has given to the routes that take from it.
    pub(in crate::core) fn take_from_queue(&mut self, place: Place, given: Given, now: Now) {
        let Some(name) = self.queues.table.get(place.0).map(|queue| queue.name.clone()) else { return };
        let Given { bytes, origin, tag, priority, .. } = given;
        let message = decode_message(&bytes).unwrap_or_default();
        let (head, time) = (HeaderBlock::parse(message.head).unwrap_or_default(), message.time);
        let candidates = self.routing.set.of_queue(&name, head.message_type().unwrap_or_default());
        if candidates.places.is_empty() {
            self.routing.counts.unmatched += 1;
            let reason = "no route that takes from this queue takes messages of this type";
            return self.settle_own_job(place, tag, Settled::Reject { reason }, now);
        }
        if self.went_round(origin.from.hops, &name) {
            let reason = "it went through too many routes (route_limits.hops_max)";
            return self.settle_own_job(place, tag, Settled::Reject { reason }, now);
        }
        let arrived = Arrived {
            source: Source::Queue(place.0),
            back: Back::Queue { place, tag },
            from: origin.from.clone(),
            topic: origin.name.clone(),
            bytes: bytes.clone(),
            priority,
            time,
        };
        let item = self.open_item(arrived, now);
        self.have_treated(item, &candidates);
    }

    /// Whether routes are to be given no request to a service now.
    pub(in crate::core) fn routes_hold_call_up(&mut self, place: Place) -> bool {
        let full = self.routing.is_full_for(0).is_some();
        if full {
            self.routing.blocked_calls.push(place);
        }
        full
    }

    /// A request to a service that routes answer.
    pub(in crate::core) fn take_call(
        &mut self,
        place: Place,
        number: u64,
        service: &Arc<str>,
        (origin, bytes): (Origin, Arc<[u8]>),
        now: Now,
    ) {
        let message = decode_message(&bytes).unwrap_or_default();
        let (head, time) = (HeaderBlock::parse(message.head).unwrap_or_default(), message.time);
        let candidates = self.routing.set.of_service(service, head.message_type().unwrap_or_default());
        self.routing.counts.unmatched += u64::from(candidates.places.is_empty());
        let arrived = Arrived {
            source: Source::Caller(origin.from.session, place.0),
            back: Back::Call { place, number },
            from: origin.from.clone(),
            topic: service.clone(),
            priority: priority_of(head),
            bytes: bytes.clone(),
            time,
        };
        let item = self.open_item(arrived, now);
        self.have_treated(item, &candidates);
    }

    /// Lets those go on who were held up, if there is room now.
    pub(super) fn make_room_for_routes(&mut self) {
        for worker in 0..self.routing.hands.len() {
            self.hand_out(worker);
        }
        if !self.routing.has_room() {
            return;
        }
        self.routing.told_full = false;
        for subscription in std::mem::take(&mut self.routing.held) {
            if let Some(subscription) = self.subscriptions.get_mut(subscription) {
                let waiting = std::mem::take(&mut subscription.waiting_proxies);
                self.actions.extend(waiting.into_iter().map(|attach| Action::ProxyResume { attach }));
            }
        }
        for (key, seat) in std::mem::take(&mut self.routing.blocked) {
            if let Some(queue) = self.queues.table.get_mut(key) {
                queue.change(seat, |consumer| consumer.blocked = false);
            }
            self.wants_attention(key);
        }
        for place in std::mem::take(&mut self.routing.blocked_calls) {
            self.unblock_own_instance(place);
        }
    }
}

fn arrived(source: Source, handed: &Handed<'_>) -> Arrived {
    let head = HeaderBlock::parse(handed.message.head).unwrap_or_default();
    Arrived {
        source,
        back: Back::Nobody,
        from: handed.from.clone(),
        topic: handed.name.clone(),
        bytes: handed.shared.get_or_init(|| handed.bytes.into()).clone(),
        priority: priority_of(head),
        time: handed.message.time,
    }
}
