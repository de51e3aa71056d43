//! Services and routes: the broker as a caller, and as an instance whose requests routes answer.

use super::Place;
use super::asking::Ask;
use super::call::Asker;
use super::instances::Offer;
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::quota::Checked;
use crate::core::table::Key;
use std::sync::Arc;
use tramline_wire::Outcome;

impl Core {
    /// Whether a service would be given a request now: somebody provides it, and it is not full.
    pub(in crate::core) fn service_could_take(&self, name: &str) -> bool {
        let key = self.services.by_name.get(name);
        let service = key.and_then(|key| self.services.table.get(*key));
        service.is_some_and(|service| {
            service.could_take(&[]) && service.outstanding < service.settings.outstanding_max
        })
    }

    /// Asks a service on behalf of a leg, which is told what comes of it.
    pub(in crate::core) fn ask_for_route(
        &mut self,
        leg: Key,
        service: &str,
        request: u64,
        timeout_millis: u32,
        bytes: Arc<[u8]>,
        now: Now,
    ) -> Checked<()> {
        let own = self.own_session(now);
        let longest = self.service_settings(service)?.0.timeout_millis_max;
        let timeout_millis = timeout_millis.min(longest);
        let asker = Asker::Leg(leg);
        // The route itself says who is asked again, and how often.
        self.ask(own, Ask { service, request, asker, timeout_millis, idempotent: false, bytes }, now)
    }

    /// Has routes answer requests to a service, so many at a time.
    pub(in crate::core) fn provide_for_routes(
        &mut self,
        service: &str,
        concurrency: u32,
        now: Now,
    ) -> Checked<Place> {
        let own = self.own_session(now);
        let last = self.sessions.get(own).and_then(|own| own.providers.last_key_value());
        let provider = last.map_or(1, |(last, _)| last + 1);
        let concurrency = concurrency.min(self.limits.prefetch_max);
        self.provide(own, &Offer { service, provider, concurrency, weight: 1, priority: 0 })
    }

    /// Has routes answer no more requests to a service; what they have they still answer.
    pub(in crate::core) fn provide_no_more(&mut self, place: Place, now: Now) {
        let own = self.own_session(now);
        let Some(session) = self.sessions.get(own) else { return };
        let provider =
            session.providers.iter().find(|(_, known)| **known == place).map(|(number, _)| *number);
        if let Some(provider) = provider {
            self.end_provide(own, provider, now);
        }
    }

    /// Gives a request to the routes that answer it; from which place on to go on.
    pub(super) fn give_call_to_routes(
        &mut self,
        place: Place,
        order: u64,
        call_key: Key,
        now: Now,
    ) -> Option<u64> {
        let (key, seat) = place;
        let held_up = self.routes_hold_call_up(place);
        let service = self.services.table.get_mut(key)?;
        if held_up {
            service.change(seat, |instance| instance.blocked = true);
            return Some(order);
        }
        let (number, serial) = service.give(seat, call_key)?;
        service.waiting.remove(&order);
        let name = service.name.clone();
        let call = self.services.calls.get_mut(call_key)?;
        call.at = Some((seat, number));
        call.tried.push(serial);
        let (origin, bytes) = (call.origin.clone(), call.bytes.clone());
        self.watch_attempt(call_key, now);
        self.take_call(place, number, &name, (origin, bytes), now);
        Some(order)
    }

    /// Routes have room for requests again.
    pub(in crate::core) fn unblock_own_instance(&mut self, (key, seat): Place) {
        if let Some(service) = self.services.table.get_mut(key) {
            service.change(seat, |instance| instance.blocked = false);
        }
        self.service_wants_attention(key);
    }

    /// Answers a request that routes were given.
    pub(in crate::core) fn answer_for_route(
        &mut self,
        place: Place,
        number: u64,
        outcome: Outcome<'_>,
        bytes: &Arc<[u8]>,
        now: Now,
    ) {
        // Nobody may wait for it any more, which is counted there.
        self.take_answer(place, number, outcome, bytes, now);
    }
}
