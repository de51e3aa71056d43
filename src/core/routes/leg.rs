//! A way of something to a destination: begun, waiting for its turn, and ended.

use super::group::{RouteState, Target, nanos};
use super::hands::Source;
use super::task::Body;
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::session::Identity;
use crate::core::strategy::Seat;
use crate::core::table::Key;
use crate::core::timers::Timer;
use crate::routes::route::{OrderKey, Try};
use crate::routes::settings::Strategy;
use std::sync::Arc;
use tramline_wire::{Code, Encoding, Message, MessageFlags};

/// What a message needs in a frame besides itself.
pub(super) const ROOM_BYTES: usize = 128 + tramline_wire::limits::HEADER_BLOCK_BYTES_MAX;

/// What is brought somewhere.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// The message as it came.
    AsItCame(OrderKey),
    Made(Arc<Body>),
}

impl Content {
    /// How long it is, as far as that matters to a destination.
    pub(super) fn bytes(&self, original: &[u8]) -> usize {
        match self {
            Self::AsItCame(_) => original.len(),
            Self::Made(body) => body.bytes() + ROOM_BYTES,
        }
    }

    fn order_key(&self) -> OrderKey {
        match self {
            Self::AsItCame(key) => *key,
            Self::Made(body) => body.key,
        }
    }
}

/// Where it is brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    /// To one of the route's destinations.
    Any,
    /// To this one.
    One(Seat),
    /// To its invalid channel.
    Invalid,
    /// To its dead letters.
    Dead,
}

/// What is delivered one after the other: of one source, with one key, and to one destination if to each.
pub(super) type Lane = (Source, OrderKey, Option<Seat>);

/// Where a leg is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its group has no room for it, or another is to be delivered before it.
    Waiting,
    /// It is tried now.
    Trying { seat: Option<Seat>, number: u64 },
    /// Until it is tried again.
    Pausing { until: u64 },
    /// A worker writes its letter.
    Buried,
}

/// A way to a destination.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) item: Key,
    /// The route's part of the item; none: this one does not count for it.
    pub(super) taking: Option<usize>,
    pub(super) route: Key,
    pub(super) content: Content,
    pub(super) aim: Aim,
    pub(super) stage: Stage,
    /// How often it was tried, also where there was nobody to try.
    pub(super) tries: u32,
    /// Who was tried since all were.
    pub(super) tried: Vec<Seat>,
    pub(super) history: Vec<Try>,
    /// Whether it counts among the active ones of its group, and among those that were tried before.
    pub(super) is_active: bool,
    pub(super) is_retry: bool,
    /// What it is kept in order with.
    pub(super) lane: Option<Lane>,
    /// When its time in all is over, if it has one.
    pub(super) deadline: Option<u64>,
}

/// What came of a try.
#[derive(Debug)]
pub(in crate::core) enum Told {
    /// It arrived.
    Done,
    /// A service has answered.
    Answered { by: Arc<Identity>, bytes: Arc<[u8]> },
    /// A service answered with an error of its application.
    Error { number: u32, text: Box<str> },
    /// It did not arrive.
    Failed { code: Code, message: String },
}

impl Core {
    /// Brings something that a route made to its destinations.
    pub(super) fn send(&mut self, item: Key, taking: usize, content: Content, now: Now) {
        let Some(route) = self.routing.items.get(item).and_then(|item| Some(item.takings.get(taking)?.route))
        else {
            return;
        };
        let Some(state) = self.routing.table.get(route) else { return };
        let count = Seat::try_from(state.destinations.len()).unwrap_or(Seat::MAX);
        if count == 0 {
            return;
        }
        if state.deliver().strategy == Strategy::Broadcast {
            for seat in 0..count {
                self.begin_leg(item, Some(taking), route, content.clone(), Aim::One(seat), now);
            }
        } else {
            self.begin_leg(item, Some(taking), route, content, Aim::Any, now);
        }
    }

    pub(super) fn begin_leg(
        &mut self,
        item: Key,
        taking: Option<usize>,
        route: Key,
        content: Content,
        aim: Aim,
        now: Now,
    ) {
        let Some(of) = self.routing.items.get_mut(item) else { return };
        of.open += 1;
        let source = of.source;
        if let Some(taking) = taking.and_then(|taking| of.takings.get_mut(taking)) {
            taking.legs += 1;
        }
        let Some(state) = self.routing.table.get_mut(route) else { return };
        let is_letter = matches!(aim, Aim::Invalid | Aim::Dead);
        let one = if let Aim::One(seat) = aim { Some(seat) } else { None };
        let is_ordered = state.deliver().ordered && !is_letter;
        let lane = is_ordered.then(|| (source, content.order_key(), one));
        let is_behind = lane.is_some_and(|lane| state.lanes.contains_key(&lane));
        let waits = !is_letter && (is_behind || !state.has_room());
        // What is left of a message is not lost because it is late.
        let within = state.deliver().deadline.filter(|_| !is_letter);
        let deadline = within.map(|within| now.monotonic.saturating_add(nanos(within)));
        let key = self.routing.legs.insert(Leg {
            item,
            taking,
            route,
            content,
            aim,
            stage: Stage::Waiting,
            tries: 0,
            tried: Vec::new(),
            history: Vec::new(),
            is_active: !waits && !is_letter,
            is_retry: false,
            lane,
            deadline,
        });
        if let Some(lane) = lane {
            let others = state.lanes.entry(lane).or_default();
            if is_behind {
                return others.push_back(key);
            }
        }
        if waits {
            return state.waiting.push_back(key);
        }
        state.active += u32::from(!is_letter);
        self.try_leg(key, now);
    }

    /// A leg makes room in its group for the next.
    pub(super) fn leave_group(&mut self, key: Key) {
        let Some(leg) = self.routing.legs.get_mut(key) else { return };
        if !std::mem::take(&mut leg.is_active) {
            return;
        }
        let was_retry = std::mem::take(&mut leg.is_retry);
        let lane = leg.lane.take();
        let Some(state) = self.routing.table.get_mut(leg.route) else { return };
        state.active -= 1;
        state.retrying -= u32::from(was_retry);
        if let Some(lane) = lane
            && let Some(others) = state.lanes.get_mut(&lane)
        {
            match others.pop_front() {
                // Behind those of other lanes that wait already.
                Some(next) => state.waiting.push_back(next),
                None => _ = state.lanes.remove(&lane),
            }
        }
        if state.active < state.deliver().concurrency
            && let Some(next) = state.waiting.pop_front()
        {
            state.active += 1;
            if let Some(next) = self.routing.legs.get_mut(next) {
                next.is_active = true;
            }
            self.routing.ready.push_back(next);
        }
    }

    /// A leg is over. `arrived` says whether it counts as delivered for its route.
    pub(super) fn end_leg(&mut self, key: Key, arrived: bool, now: Now) {
        self.leave_group(key);
        let Some(leg) = self.routing.legs.remove(key) else { return };
        if let Some(taking) = leg.taking {
            if !arrived
                && let Some(item) = self.routing.items.get_mut(leg.item)
                && let Some(taking) = item.takings.get_mut(taking)
            {
                taking.dead = true;
            }
            self.close_taking(leg.item, taking, now);
        }
        self.close_item(leg.item, now);
    }

    /// Carries out what became due for legs while an event was handled.
    pub(in crate::core) fn settle_routes(&mut self, now: Now) {
        while self.routing.is_pressing() {
            while let Some((leg, told)) = self.routing.outcomes.pop_front() {
                self.leg_is_told(leg, told, now);
            }
            while let Some(leg) = self.routing.ready.pop_front() {
                self.try_leg(leg, now);
            }
        }
    }

    /// A service, or the store, says what came of a try.
    pub(in crate::core) fn tell_leg(&mut self, leg: Key, told: Told) {
        self.routing.outcomes.push_back((leg, told));
    }

    /// A leg has paused for long enough.
    pub(in crate::core) fn leg_is_due(&mut self, key: Key, now: Now) {
        self.try_leg(key, now);
    }

    pub(super) fn set_leg_timer(&mut self, key: Key, until: u64) {
        self.timers.set(until, Timer::Leg(key));
    }

    /// Publishes a message that has been through so many routes as the broker's own. It has to fit into a frame.
    pub(super) fn publish_for_route(&mut self, topic: Key, message: Message<'_>, hops: u8, now: Now) {
        let number = self.numbers.entry(topic).or_insert(0);
        *number += 1;
        let message = Message { seq: *number, after: None, flags: own_flags(message.flags), ..message };
        let mut bytes = std::mem::take(&mut self.routing.scratch);
        bytes.clear();
        tramline_wire::codec::encode_message(&mut bytes, &message);
        let from = self.routing.sender(hops.saturating_add(1));
        let publishing = std::mem::replace(&mut self.routing.publishing, true);
        self.route(&from, topic, &bytes, message, false, now);
        self.routing.publishing = publishing;
        self.routing.scratch = bytes;
    }
}

/// The flags of a message that goes on in the broker's name: nobody is to confirm it.
pub(super) fn own_flags(flags: MessageFlags) -> MessageFlags {
    let own = MessageFlags::new(flags.encoding());
    if flags.has_source_time() { own.with_source_time() } else { own }
}

/// Flags of JSON that was made of a message with these.
pub(super) fn json_flags(flags: MessageFlags) -> MessageFlags {
    let own = MessageFlags::new(Encoding::Json);
    if flags.has_source_time() { own.with_source_time() } else { own }
}

impl Stage {
    /// The number of the try of which something may still be told.
    pub(super) fn number(self) -> Option<u64> {
        match self {
            Self::Trying { number, .. } => Some(number),
            Self::Waiting | Self::Pausing { .. } | Self::Buried => None,
        }
    }
}

impl RouteState {
    /// Where a leg with this aim and this destination leads, and how it is called.
    pub(super) fn target(&self, aim: Aim, seat: Option<Seat>) -> Option<(Target, Arc<str>)> {
        let place = match aim {
            Aim::Any | Aim::One(_) => self.destinations.get(seat? as usize)?,
            Aim::Invalid => self.invalid.as_ref()?,
            Aim::Dead => self.dead_letter.as_ref()?,
        };
        Some((place.target.clone(), place.name.clone()))
    }
}
