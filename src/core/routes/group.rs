//! The destinations of a route: who of them is tried next, and who is left out for a while because it fails.
//!
//! A destination is asked only if it can take something: a service that somebody provides and that is not full, a queue
//! that has room, a topic always. What fails after that counts against it, and so many failures one after the other have
//! it left out. If nobody else can be tried, those that were left out are, so the last one is never left out.

use super::MILLI;
use super::leg::Lane;
use super::tap::tap_topic;
use crate::core::broker::Core;
use crate::core::health::Health;
use crate::core::native::DELIVER_HEAD_BYTES;
use crate::core::queues::WhenFull;
use crate::core::snapshot::DestinationCounts;
use crate::core::strategy::{Group, Seat, Strategy as Order};
use crate::core::table::Key;
use crate::routes::Routes;
use crate::routes::route::Route;
use crate::routes::settings::{Deliver, Destination, RouteSettings, Strategy};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tramline_wire::{Code, Topic};

/// Where a leg leads.
#[derive(Debug, Clone)]
pub(super) enum Target {
    Topic(Key),
    Queue(Arc<str>),
    Service(Arc<str>),
}

/// One destination of a route.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) target: Target,
    /// As the configuration writes it.
    pub(super) name: Arc<str>,
    pub(super) health: Health,
    pub(super) counts: DestinationCounts,
}

/// What a route of the set has, or one of a set before it.
#[derive(Debug)]
pub(super) struct RouteState {
    pub(super) routes: Arc<Routes>,
    /// Where it stands among them.
    pub(super) place: usize,
    /// Where it is counted.
    pub(super) account: Key,
    pub(super) destinations: Vec<Place>,
    pub(super) group: Group,
    pub(super) invalid: Option<Place>,
    pub(super) dead_letter: Option<Place>,
    pub(super) tap: Option<Key>,
    /// The topic on which it is shown live.
    pub(super) shown_on: Option<Key>,
    /// Legs that are tried, or pause between tries.
    pub(super) active: u32,
    /// Those of them that were tried before.
    pub(super) retrying: u32,
    /// Legs for which there is no room among those.
    pub(super) waiting: VecDeque<Key>,
    /// What is delivered one after the other: who waits for the one that is.
    pub(super) lanes: HashMap<Lane, VecDeque<Key>, foldhash::fast::FixedState>,
}

impl RouteState {
    pub(super) fn route(&self) -> &Route {
        &self.routes.routes()[self.place]
    }

    pub(super) fn settings(&self) -> &RouteSettings {
        self.route().settings()
    }

    pub(super) fn deliver(&self) -> &Deliver {
        &self.settings().deliver
    }

    /// Whether one more may be delivered now.
    pub(super) fn has_room(&self) -> bool {
        self.active < self.deliver().concurrency && self.waiting.is_empty()
    }

    /// Deliveries that wait for others to be over.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() + self.lanes.values().map(VecDeque::len).sum::<usize>()
    }

    /// The destination, if it is the only one, and a topic that can be published to without anything being noted.
    pub(super) fn only_topic(&self) -> Option<Key> {
        match &*self.destinations {
            [Place { target: Target::Topic(topic), .. }] if self.waiting.is_empty() => Some(*topic),
            _ => None,
        }
    }

    /// The queues that it may push to.
    fn queues(&self) -> impl Iterator<Item = &Arc<str>> {
        let ends = [&self.invalid, &self.dead_letter].into_iter().flatten();
        self.destinations.iter().chain(ends).filter_map(|place| match &place.target {
            Target::Queue(name) => Some(name),
            Target::Topic(_) | Target::Service(_) => None,
        })
    }
}

impl Core {
    /// Whether a route may still push to a queue.
    pub(in crate::core) fn routes_need_queue(&self, name: &str) -> bool {
        self.routing.table.iter().any(|(_, state)| state.queues().any(|known| **known == *name))
    }

    /// Forgets the routes of sets that were replaced and of which nothing is under way any more.
    pub(super) fn forget_routes(&mut self) {
        // Whatever is under way has the keys of its set.
        let is_over = |keys: &mut Arc<[Key]>| Arc::strong_count(keys) == 1;
        let over: Vec<Arc<[Key]>> = self.routing.retired.extract_if(.., is_over).collect();
        for key in over.iter().flat_map(|keys| keys.iter()) {
            let Some(state) = self.routing.table.remove(*key) else { continue };
            for queue in state.queues() {
                if let Some(key) = self.queues.by_name.get(queue).copied() {
                    self.wants_attention(key);
                }
            }
        }
    }

    /// Makes the state of a route.
    pub(super) fn new_route(&mut self, routes: &Arc<Routes>, place: usize, account: Key) -> RouteState {
        let settings = routes.routes()[place].settings();
        let order = match settings.deliver.strategy {
            Strategy::RoundRobin | Strategy::Broadcast => Order::RoundRobin,
            Strategy::Failover => Order::Failover,
            Strategy::LoadBalance => Order::LoadBalance,
        };
        let mut group = Group::new(order);
        let mut destinations: Vec<Place> = Vec::new();
        for (index, to) in settings.deliver.to.iter().enumerate() {
            let Some(place) = self.new_place(to) else { continue };
            destinations.push(place);
            let seat = group.join(settings.deliver.weight(index), 0);
            group.set_ready(seat, true);
        }
        let tap = settings.tap.as_ref().and_then(|tap| self.new_place(tap));
        let shown_on = self.lasting_topic(&tap_topic(&settings.name));
        RouteState {
            place,
            account,
            destinations,
            group,
            invalid: settings.invalid.as_ref().and_then(|to| self.new_place(to)),
            dead_letter: settings.deliver.dead_letter.as_ref().and_then(|to| self.new_place(to)),
            tap: tap.and_then(|tap| match tap.target {
                Target::Topic(topic) => Some(topic),
                Target::Queue(_) | Target::Service(_) => None,
            }),
            shown_on,
            active: 0,
            retrying: 0,
            waiting: VecDeque::new(),
            lanes: HashMap::default(),
            routes: routes.clone(),
        }
    }

    /// A topic that stays known: its numbers go on as long as the broker runs.
    fn lasting_topic(&mut self, name: &str) -> Option<Key> {
        let name = Topic::parse(name).ok()?;
        let topic = self.topics.find(name).or_else(|| self.topics.take(name));
        if topic.is_none() {
            tracing::error!("topic {} is not known: limits.topics_max is reached", name.as_str());
        }
        topic
    }

    fn new_place(&mut self, destination: &Destination) -> Option<Place> {
        let target = match destination {
            Destination::Topic(name) => {
                let topic = self.lasting_topic(name)?;
                self.note_retain(topic);
                Target::Topic(topic)
            }
            Destination::Queue(name) => Target::Queue(name.as_str().into()),
            Destination::Service(name) => Target::Service(name.as_str().into()),
        };
        let name = destination.to_string().into();
        Some(Place { target, name, health: Health::default(), counts: DestinationCounts::default() })
    }

    /// Who is tried next with a message of this length, if these were tried already. Nobody can take it if there is none.
    pub(super) fn choose(&mut self, route: Key, tried: &[Seat], bytes: usize) -> Option<Seat> {
        if let Some(seat) = self.choose_well(route, tried, bytes) {
            return Some(seat);
        }
        let state = self.routing.table.get_mut(route)?;
        let mut some = false;
        for place in state.destinations.iter_mut().filter(|place| place.health.is_ejected()) {
            place.health.try_again();
            some = true;
        }
        if some { self.choose_well(route, tried, bytes) } else { None }
    }

    fn choose_well(&self, route: Key, tried: &[Seat], bytes: usize) -> Option<Seat> {
        let state = self.routing.table.get(route)?;
        let fits = |seat: Seat| {
            let place = state.destinations.get(seat as usize);
            place.is_some_and(|place| place.health.lets_another() && self.can_take(&place.target, bytes))
        };
        state
            .group
            .choose_of(|seat| !tried.contains(&seat) && fits(seat))
            .or_else(|| state.group.choose_of(fits))
    }

    /// Which limit is in the way of a message of this length, however much room there is: the limit's name and value.
    pub(super) fn is_too_large_for(&self, target: &Target, bytes: usize) -> Option<(&'static str, u64)> {
        let (name, most, room) = match target {
            Target::Topic(_) => {
                ("frame_bytes_max", u64::from(self.limits.frame_bytes_max), DELIVER_HEAD_BYTES as u64)
            }
            Target::Queue(_) | Target::Service(_) => {
                ("delivery_ring_bytes_max", self.limits.delivery_ring_bytes_max, 0)
            }
        };
        (bytes as u64 + room > most).then_some((name, most))
    }

    /// Whether a destination would take a message of this length now.
    fn can_take(&self, target: &Target, bytes: usize) -> bool {
        if self.is_too_large_for(target, bytes).is_some() {
            return false;
        }
        match target {
            Target::Topic(_) => true,
            Target::Queue(name) => {
                let key = self.queues.by_name.get(name);
                let Some(queue) = key.and_then(|key| self.queues.table.get(*key)) else { return false };
                let refuses = queue.settings.when_full == WhenFull::Refuse;
                // One that goes stays as long as a route needs it.
                !(refuses && queue.is_full_for(bytes).is_some())
            }
            Target::Service(name) => self.service_could_take(name),
        }
    }

    /// Notes that a destination did what it was asked for.
    pub(super) fn destination_did_well(&mut self, route: Key, seat: Seat, number: u64, now: u64) {
        let Some(state) = self.routing.table.get_mut(route) else { return };
        state.group.settled(seat);
        let step = nanos(state.deliver().eject_time);
        let Some(place) = state.destinations.get_mut(seat as usize) else { return };
        place.health.done(number);
        place.health.went_well(step, now);
        place.counts.delivered += 1;
    }

    /// Notes that a destination failed; `is_its_fault` has it left out if that goes on.
    pub(super) fn destination_failed(
        &mut self,
        route: Key,
        seat: Seat,
        number: u64,
        (code, is_its_fault): (Code, bool),
        now: u64,
    ) {
        let Some(state) = self.routing.table.get_mut(route) else { return };
        state.group.settled(seat);
        let Deliver { eject_failures, eject_time, eject_time_max, .. } = *state.deliver();
        let Some(place) = state.destinations.get_mut(seat as usize) else { return };
        place.health.done(number);
        place.counts.failures += 1;
        *place.counts.failures_by.slot(code) += 1;
        if !is_its_fault || !place.health.went_wrong(eject_failures) {
            return;
        }
        place.health.eject(nanos(eject_time), nanos(eject_time_max), now);
        place.counts.ejections += 1;
        let destination = place.name.clone();
        let name = state.settings().name.clone();
        tracing::warn!(
            "route {name}: {destination} fails and is left out for a while (deliver.eject.failures is {eject_failures})"
        );
        self.event(
            "$tramline.route",
            |_| serde_json::json!({"route": name, "event": "ejected", "destination": &*destination}),
        );
    }

    /// Puts destinations on trial whose time is over.
    pub(super) fn let_destinations_back(&mut self, route: Key, now: u64) {
        let Some(state) = self.routing.table.get_mut(route) else { return };
        for place in &mut state.destinations {
            if place.health.until().is_some_and(|until| until <= now) {
                place.health.try_again();
            }
        }
    }
}

pub(super) fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A span in whole milliseconds, one at least.
pub(super) fn millis(duration: std::time::Duration) -> u32 {
    u32::try_from(nanos(duration).div_ceil(MILLI)).unwrap_or(u32::MAX).max(1)
}
