//! Who provides services, and what becomes of requests that somebody had who does not any more.

use super::Place;
use super::service::{Instance, Service};
use super::settings::{ServiceRight, ServiceSettings};
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::health::Health;
use crate::core::quota::{Checked, Refused, allows, fits};
use crate::core::table::Key;
use crate::core::timers::Timer;
use std::collections::BTreeMap;
use std::sync::Arc;
use tramline_wire::{Code, Filter, Topic};

/// How somebody wants to provide a service.
#[derive(Debug)]
pub(super) struct Offer<'a> {
    pub(super) service: &'a str,
    /// The instance's number in its session, known to be free.
    pub(super) provider: u32,
    pub(super) concurrency: u32,
    pub(super) weight: u32,
    pub(super) priority: u32,
}

impl Core {
    /// Adds settings for services, behind those that were added before; they are known to be within their ranges.
    ///
    /// # Errors
    /// When the name is neither a service's nor a filter, or there are too many services.
    pub fn add_service(&mut self, settings: ServiceSettings) -> Result<(), (Code, String)> {
        let name = settings.name.clone();
        let filter = Filter::parse(&name).map_err(|error| (Code::BadTopic, error.to_string()))?;
        let settings = Arc::new(settings);
        // What a filter before it selects has the settings of that.
        let is_first = self.service_settings(&name).is_ok_and(|(_, configured)| !configured);
        if Topic::parse(&name).is_ok_and(|topic| filter.matches(topic)) && is_first {
            self.make_service(&name, settings.clone(), true)
                .map_err(|refused| (refused.code, refused.message))?;
        }
        self.services.settings.push(settings);
        Ok(())
    }

    fn make_service(&mut self, name: &str, settings: Arc<ServiceSettings>, lasting: bool) -> Checked<Key> {
        let used = self.services.by_name.len() as u64;
        fits("services_max", "services", self.limits.services_max.into(), used, 1)?;
        let name: Arc<str> = name.into();
        let key = self.services.table.insert(Service::new(name.clone(), settings, lasting));
        self.services.by_name.insert(name, key);
        Ok(key)
    }

    /// Takes an instance in.
    pub(super) fn provide(&mut self, session_key: Key, offer: &Offer<'_>) -> Checked<Place> {
        let name = offer.service;
        let known = self.services.by_name.get(name).copied();
        let (settings, configured) = self.service_settings(name)?;
        let Some(session) = self.sessions.get(session_key) else { return Ok((Key::NOBODY, 0)) };
        let identity = session.identity.clone();
        if configured {
            self.has_service_right(session_key, name, &settings, ServiceRight::Provide)?;
        } else if !self.access.may_provide(&session.peer) {
            let message = format!(
                "{identity} may not provide service {name}, which the configuration does not name: only the broker's own user and \
                 root may, and whoever allow.provide_services names"
            );
            return Err(Refused::new(Code::Denied, message));
        }
        let (max, used) = (self.limits.session_services_max.into(), session.providers.len() as u64);
        fits("session_services_max", "services provided by this client", max, used, 1)?;
        let concurrency = offer.concurrency.max(1);
        allows("prefetch_max", "requests at a time", self.limits.prefetch_max.into(), concurrency.into())?;
        let key = match known {
            Some(key) => key,
            None => self.make_service(name, settings, false)?,
        };
        let Some(service) = self.services.table.get_mut(key) else { return Ok((Key::NOBODY, 0)) };
        let instance = Instance {
            session: session_key,
            provider: offer.provider,
            identity,
            concurrency,
            ending: false,
            blocked: false,
            health: Health::default(),
            serial: 0,
            has: BTreeMap::new(),
            last: 0,
            answered: 0,
        };
        let seat = service.join(instance, offer.weight, offer.priority);
        if let Some(session) = self.sessions.get_mut(session_key) {
            session.providers.insert(offer.provider, (key, seat));
        }
        self.service_wants_attention(key);
        Ok((key, seat))
    }

    /// An instance is given no more; what it has it may still answer.
    pub(super) fn end_provide(&mut self, session: Key, provider: u32, now: Now) {
        let known = self.sessions.get(session).and_then(|session| session.providers.get(&provider).copied());
        let Some(place) = known else { return };
        if let Some(service) = self.services.table.get_mut(place.0) {
            service.change(place.1, |instance| instance.ending = true);
        }
        if !self.leave_if_done(place, now) {
            self.instances_changed(place.0, now);
        }
    }

    /// Lets an instance go that is given no more and has nothing that anybody waits for. Whether it has gone.
    pub(super) fn leave_if_done(&mut self, place: Place, now: Now) -> bool {
        let instance = self.services.table.get(place.0).and_then(|service| service.instance(place.1));
        let done =
            instance.is_some_and(|instance| instance.ending && instance.has.values().all(Option::is_none));
        if done {
            self.instance_leaves(place, now);
        }
        done
    }

    /// Instances leave whose sessions have ended.
    pub(in crate::core) fn end_instances(&mut self, now: Now) {
        for place in std::mem::take(&mut self.services.leaving) {
            self.instance_leaves(place, now);
        }
    }

    /// An instance has gone: who waits for its answers is told that nobody knows what became of the request, or another
    /// instance is asked.
    pub(super) fn instance_leaves(&mut self, (key, seat): Place, now: Now) {
        let Some(service) = self.services.table.get_mut(key) else { return };
        let Some(instance) = service.leave(seat) else { return };
        let name = service.name.clone();
        if let Some(session) = self.sessions.get_mut(instance.session) {
            session.providers.remove(&instance.provider);
            session.blocked_instances.retain(|each| *each != (key, seat));
        }
        service.let_back(now.monotonic);
        for call in instance.has.values().flatten() {
            if let Some(service) = self.services.table.get_mut(key) {
                service.counts.deaths += 1;
            }
            let message = format!(
                "{} had the request to service {name} and has gone without an answer: it may have carried it out or not",
                instance.identity
            );
            self.attempt_failed(*call, Code::OutcomeUnknown, message, now);
        }
        self.instances_changed(key, now);
    }

    /// Looks at a service that has lost an instance. It is gone with the last one, unless the configuration names it.
    fn instances_changed(&mut self, key: Key, now: Now) {
        if let Some(service) = self.services.table.get_mut(key) {
            service.let_back(now.monotonic);
        }
        self.look_at_waiting(key);
        self.arm_service(key);
        let Some(service) = self.services.table.get(key) else { return };
        if service.lasting || service.instances.iter().any(Option::is_some) {
            return self.service_wants_attention(key);
        }
        let (name, timer) = (service.name.clone(), service.timer_at);
        if let Some(at) = timer {
            self.timers.cancel(at, Timer::Service(key));
        }
        self.services.by_name.remove(&name);
        self.services.table.remove(key);
    }

    /// A session has room in its outbox again.
    pub(in crate::core) fn unblock_instances(&mut self, session: Key) {
        let outbox_bytes_max = self.limits.outbox_bytes_max as usize;
        let Some(known) = self.sessions.get_mut(session) else { return };
        if known.blocked_instances.is_empty() || known.outbox.len() >= outbox_bytes_max {
            return;
        }
        for (key, seat) in std::mem::take(&mut known.blocked_instances) {
            if let Some(service) = self.services.table.get_mut(key) {
                service.change(seat, |instance| instance.blocked = false);
            }
            self.service_wants_attention(key);
        }
    }

    /// A JSON client that writes no more can answer nothing either.
    pub(in crate::core) fn stop_providing(&mut self, session: Key) {
        if let Some(known) = self.sessions.get_mut(session) {
            self.services.leaving.extend(std::mem::take(&mut known.providers).into_values());
        }
    }

    /// This session's instance of a service.
    pub(super) fn own_instance(&self, session: Key, name: &str) -> Option<Place> {
        let key = *self.services.by_name.get(name)?;
        let session = self.sessions.get(session)?;
        session.providers.values().find(|(known, _)| *known == key).copied()
    }
}
