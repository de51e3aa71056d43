//! Requests: taken in, given to instances, and what time and callers do to them.
//!
//! A request waits while there are instances and all of them have as much as they offer; without any it fails at once. It is
//! given to another instance only if its caller allows that, a bounded number of times, to none twice, and never after its
//! deadline.

use super::call::{Asker, Call, Giving};
use super::service::Service;
use super::settings::{ServiceRight, ServiceSettings};
use super::{MILLI, Place, cost};
use crate::core::broker::Core;
use crate::core::bulk::{HEAD_BYTES, Placing};
use crate::core::delivery::{Handed, line};
use crate::core::gaps::{alias_of, note_gone};

use crate::core::queues::{Account, Origin};
use crate::core::quota::{Checked, Refused, fits};
use crate::core::session::{Session, Stage};
use crate::core::table::Key;
use crate::core::timers::Timer;
use crate::core::{Language, Now};
use crate::json::{self, CallLine};
use std::sync::Arc;
use tramline_wire::codec::decode_message;
use tramline_wire::{Call as CallFrame, Code, ToClient, Topic};

/// What somebody asks of a service.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) service: &'a str,
    /// The request's number in its session.
    pub(super) request: u64,
    pub(super) asker: Asker,
    pub(super) timeout_millis: u32,
    pub(super) idempotent: bool,
    /// The message as it travels.
    pub(super) bytes: Arc<[u8]>,
}

impl Core {
    /// The settings of a service, and whether the configuration has some for it.
    pub(super) fn service_settings(&self, name: &str) -> Checked<(Arc<ServiceSettings>, bool)> {
        let topic = Topic::parse(name).ok().filter(|topic| !topic.is_reserved());
        let Some(topic) = topic else {
            let message = format!("{name:?} cannot be a service's name: it is a topic without $");
            return Err(Refused::new(Code::BadTopic, message));
        };
        let found = self.services.settings.iter().find(|settings| settings.are_of(topic));
        Ok(found.map_or_else(|| (Arc::default(), false), |settings| (settings.clone(), true)))
    }

    /// Whether a session has this right to a service with these settings.
    pub(super) fn has_service_right(
        &self,
        session: Key,
        name: &str,
        settings: &ServiceSettings,
        right: ServiceRight,
    ) -> Checked<()> {
        let Some(session) = self.sessions.get(session) else { return Ok(()) };
        if settings.allows(right, &session.peer, self.access.own_uid) {
            return Ok(());
        }
        let key = right.as_str();
        let message =
            format!("{} may not {key} service {name}: services[].{key} lets others in", session.identity);
        Err(Refused::new(Code::Denied, message))
    }

    /// Takes a request in, whose number is known to be free.
    pub(super) fn ask(&mut self, caller: Key, ask: Ask<'_>, now: Now) -> Checked<()> {
        let name = ask.service;
        let known = self.services.by_name.get(name).copied();
        let settings = match known.and_then(|key| self.services.table.get(key)) {
            Some(service) => service.settings.clone(),
            None => self.service_settings(name)?.0,
        };
        self.has_service_right(caller, name, &settings, ServiceRight::Request)?;
        let Some(session) = self.sessions.get(caller) else { return Ok(()) };
        let identity = session.identity.clone();
        let max = u64::from(self.limits.session_requests_max);
        // What routes have under way is bounded by limits of their own.
        if session.id != 0 {
            fits("session_requests_max", "requests of this client", max, session.requests.len() as u64, 1)?;
        }
        let longest = settings.timeout_millis_max;
        if ask.timeout_millis > longest {
            let message = format!(
                "an answer within {} ms is asked for; services[].timeout_millis_max of {name} is {longest}",
                ask.timeout_millis
            );
            let limit = Some(("timeout_millis_max", longest.into(), ask.timeout_millis.into()));
            return Err(Refused { code: Code::LimitReached, message, limit });
        }
        let services = &mut self.services;
        let place = known.and_then(|key| Some((key, services.table.get_mut(key)?)));
        let Some((key, service)) = place else { return Err(no_instance(name)) };
        if !service.could_take(&[]) {
            service.counts.no_instance += 1;
            return Err(no_instance(name));
        }
        let most = settings.outstanding_max;
        let used = service.outstanding + 1;
        if used > most {
            service.counts.refused += 1;
            let message = format!(
                "with this request service {name} would have {used} without an answer, and services[].outstanding_max is {most}"
            );
            let limit = Some(("outstanding_max", most.into(), used.into()));
            return Err(Refused { code: Code::LimitReached, message, limit });
        }
        let cost = cost(ask.bytes.len());
        if let Err(refused) = self.queues.charges.fit(Account::Memory, identity.uid, cost, &self.limits) {
            service.counts.refused += 1;
            return Err(refused);
        }
        self.queues.charges.add(Account::Memory, identity.uid, cost);
        let millis = if ask.timeout_millis == 0 { settings.timeout_millis } else { ask.timeout_millis };
        let deadline = now.monotonic + u64::from(millis) * MILLI;
        let order = service.next_order();
        service.outstanding += 1;
        service.counts.requests += 1;
        let call = services.calls.insert(Call {
            service: key,
            caller,
            request: ask.request,
            asker: ask.asker,
            origin: Origin { from: identity, topic: Key::NOBODY, name: self.nameless.clone() },
            bytes: ask.bytes,
            idempotent: ask.idempotent,
            taken: now.monotonic,
            deadline,
            timer_at: deadline,
            order,
            at: None,
            tried: Vec::new(),
            failure: None,
        });
        service.waiting.insert(order, call);
        self.timers.set(deadline, Timer::Call(call));
        if let Some(session) = self.sessions.get_mut(caller) {
            session.requests.insert(ask.request, call);
        }
        self.service_wants_attention(key);
        Ok(())
    }

    /// Has a service looked at before the shell is told anything.
    pub(super) fn service_wants_attention(&mut self, key: Key) {
        let Some(service) = self.services.table.get_mut(key).filter(|service| !service.is_busy) else {
            return;
        };
        service.is_busy = true;
        self.services.busy.push_back(key);
    }

    /// Gives requests that wait to whoever can take them.
    pub(in crate::core) fn give_calls_out(&mut self, now: Now) {
        while let Some(key) = self.services.busy.pop_front() {
            if let Some(service) = self.services.table.get_mut(key) {
                service.is_busy = false;
            }
            let mut from = 0;
            // One that may not go to whoever is free lets those behind it pass; any other has nobody before it.
            while let Some(next) = self.give_next(key, from, now) {
                from = next;
            }
        }
    }

    /// Gives the first request from this place on, or passes it over; from which place on to go on.
    fn give_next(&mut self, key: Key, from: u64, now: Now) -> Option<u64> {
        let outbox_bytes_max = self.limits.outbox_bytes_max as usize;
        let frame_bytes_max = self.limits.frame_bytes_max as usize;
        let services = &mut self.services;
        let service = services.table.get_mut(key)?;
        let (order, call_key) = service.waiting.range(from..).next().map(|(order, call)| (*order, *call))?;
        let call = services.calls.get_mut(call_key)?;
        if call.deadline <= now.monotonic {
            // Its time is up in this very moment; its timer says so.
            return Some(order + 1);
        }
        let Some(seat) = service.choose(&call.tried) else {
            return (!call.tried.is_empty()).then_some(order + 1);
        };
        let instance = service.instance(seat)?;
        let (session_key, provider) = (instance.session, instance.provider);
        if Some(session_key) == self.queues.own_session {
            return self.give_call_to_routes((key, seat), order, call_key, now);
        }
        let session = self.sessions.get_mut(session_key)?;
        let bulk = session.language == Language::Native && call.bytes.len() + HEAD_BYTES > frame_bytes_max;
        let bytes = Arc::clone(&call.bytes);
        let mut is_blocked = session.outbox.len() >= outbox_bytes_max || session.stage != Stage::Open;
        let mut place = None;
        if bulk && !is_blocked {
            place = self.bulk_room(session_key, &bytes);
            is_blocked = place.is_none();
        }
        let session = self.sessions.get_mut(session_key)?;
        let services = &mut self.services;
        let service = services.table.get_mut(key)?;
        let call = services.calls.get_mut(call_key)?;
        if is_blocked {
            service.change(seat, |instance| instance.blocked = true);
            session.blocked_instances.push((key, seat));
            return Some(order);
        }
        let (number, serial) = service.give(seat, call_key)?;
        service.waiting.remove(&order);
        call.at = Some((seat, number));
        call.tried.push(serial);
        let attempt = u32::try_from(call.tried.len()).unwrap_or(u32::MAX);
        if let Some(offset) = place {
            let (deadline, origin) = (call.deadline, call.origin.clone());
            let giving = Giving { provider, call: number, attempt, deadline, origin, bytes };
            self.place_bulk(session_key, offset, Placing::Call(giving));
            self.watch_attempt(call_key, now);
            return Some(order);
        }
        let message = decode_message(&call.bytes).ok()?;
        session.traffic.messages_out += 1;
        session.traffic.bytes_out += message.payload.len() as u64;
        let left = call.deadline.saturating_sub(now.monotonic).div_ceil(MILLI);
        let timeout_millis = u32::try_from(left).unwrap_or(u32::MAX);
        let origin = &call.origin;
        let Session { outbox, sources, .. } = session;
        match session.language {
            Language::Native => {
                let out = outbox.buffer();
                let (source, new) = alias_of(sources, out, &origin.from, origin.topic, &origin.name);
                ToClient::Call(CallFrame {
                    provider,
                    source,
                    call: number,
                    attempt,
                    timeout_millis,
                    message,
                })
                .encode(out);
                if new {
                    note_gone(sources, |id| self.by_id.contains_key(&id));
                }
            }
            Language::Json => {
                let max = self.limits.json_payload_bytes_max as usize;
                if let Some(handed) = Handed::of(&call.bytes, origin) {
                    let message = line(0, &handed, now);
                    let call =
                        CallLine { service: &service.name, call: number, attempt, timeout_millis, message };
                    json::write_call(outbox.buffer(), &call, max);
                }
            }
        }
        self.mark_dirty(session_key);
        self.watch_attempt(call_key, now);
        Some(order)
    }

    /// Sets the timer of a call that was just given to an instance.
    pub(super) fn watch_attempt(&mut self, key: Key, now: Now) {
        let Some(call) = self.services.calls.get(key) else { return };
        let Some(service) = self.services.table.get(call.service) else { return };
        let millis = service.settings.attempt_timeout_millis;
        if millis > 0 && may_retry(call, service) {
            let at = call.deadline.min(now.monotonic + u64::from(millis) * MILLI);
            self.set_call_timer(key, at);
        }
    }

    fn set_call_timer(&mut self, key: Key, at: u64) {
        let Some(call) = self.services.calls.get_mut(key) else { return };
        let before = std::mem::replace(&mut call.timer_at, at);
        self.timers.cancel(before, Timer::Call(key));
        self.timers.set(at, Timer::Call(key));
    }

    /// A call has waited for long enough: for an answer of this instance, or at all.
    pub(in crate::core) fn call_is_due(&mut self, key: Key, now: Now) {
        let Some(call) = self.services.calls.get(key) else { return };
        let (at, deadline) = (call.at, call.deadline);
        let Some(service) = self.services.table.get_mut(call.service) else { return };
        let name = service.name.clone();
        let millis = deadline.saturating_sub(call.taken) / MILLI;
        let Some((seat, number)) = at else {
            service.counts.timed_out += 1;
            let message =
                format!("no instance of service {name} had room for the request within {millis} ms");
            return self.fail_call(key, Code::TimedOut, &message);
        };
        let is_over = now.monotonic >= deadline;
        if !is_over && !may_retry(call, service) {
            // There was another instance, and there is none any more.
            return self.set_call_timer(key, deadline);
        }
        let place = (call.service, seat);
        let timeout = service.settings.attempt_timeout_millis;
        service.over(seat, number);
        self.tell_call_over(place, number, Code::TimedOut.number());
        self.instance_failed(place, now);
        if is_over {
            if let Some(service) = self.services.table.get_mut(place.0) {
                service.counts.timed_out += 1;
            }
            let message =
                format!("service {name} did not answer within {millis} ms; it may still do what was asked");
            self.fail_call(key, Code::TimedOut, &message);
        } else {
            let message = format!("an instance of service {name} did not answer within {timeout} ms");
            self.attempt_failed(key, Code::TimedOut, message, now);
        }
        self.leave_if_done(place, now);
    }

    /// An instance has failed at a call, which it has no more: another may try, or the caller is told.
    pub(super) fn attempt_failed(&mut self, key: Key, code: Code, message: String, now: Now) {
        let Some(call) = self.services.calls.get_mut(key) else { return };
        let Some(service) = self.services.table.get_mut(call.service) else { return };
        call.at = None;
        if !may_retry(call, service) || now.monotonic >= call.deadline {
            return self.fail_call(key, code, &message);
        }
        call.failure = Some((code, message));
        service.counts.retries += 1;
        service.waiting.insert(call.order, key);
        let (service, deadline) = (call.service, call.deadline);
        self.set_call_timer(key, deadline);
        self.service_wants_attention(service);
    }

    /// Instances have gone, or are left out: what nobody that is left may be given fails.
    pub(super) fn look_at_waiting(&mut self, key: Key) {
        let services = &self.services;
        let Some(service) = services.table.get(key) else { return };
        let somebody = service.could_take(&[]);
        let lost: Vec<Key> = service
            .waiting
            .values()
            .copied()
            .filter(|call| {
                let tried = services.calls.get(*call).map_or(&[][..], |call| &call.tried);
                if tried.is_empty() { !somebody } else { !service.could_take(tried) }
            })
            .collect();
        let name = service.name.clone();
        for call in lost {
            let failure = self.services.calls.get_mut(call).and_then(|call| call.failure.take());
            let (code, message) = failure.unwrap_or_else(|| {
                let refused = no_instance(&name);
                (refused.code, refused.message)
            });
            if code == Code::NoInstance
                && let Some(service) = self.services.table.get_mut(key)
            {
                service.counts.no_instance += 1;
            }
            self.fail_call(call, code, &message);
        }
    }

    /// Nobody wants the answer to a request any more. `code` says why to the instance that has it.
    pub(super) fn cancel_call(&mut self, key: Key, code: u16, now: Now) {
        let Some(call) = self.end_call(key) else { return };
        let Some(service) = self.services.table.get_mut(call.service) else { return };
        service.counts.cancelled += 1;
        if let Some((seat, number)) = call.at {
            service.over(seat, number);
            self.tell_call_over((call.service, seat), number, code);
            self.leave_if_done((call.service, seat), now);
        }
        self.service_wants_attention(call.service);
    }

    /// Cancels the requests of sessions that have ended.
    pub(in crate::core) fn cancel_given_up(&mut self, now: Now) {
        for call in std::mem::take(&mut self.services.given_up) {
            self.cancel_call(call, Code::PeerGone.number(), now);
        }
    }

    /// Takes a call out of all tables.
    pub(super) fn end_call(&mut self, key: Key) -> Option<Call> {
        let call = self.services.calls.remove(key)?;
        self.timers.cancel(call.timer_at, Timer::Call(key));
        self.queues.charges.release(Account::Memory, call.origin.from.uid, cost(call.bytes.len()));
        if let Some(service) = self.services.table.get_mut(call.service) {
            service.outstanding -= 1;
            if call.at.is_none() {
                service.waiting.remove(&call.order);
            }
        }
        if let Some(session) = self.sessions.get_mut(call.caller) {
            session.requests.remove(&call.request);
        }
        Some(call)
    }

    fn tell_call_over(&mut self, (key, seat): Place, call: u64, code: u16) {
        let Some(service) = self.services.table.get(key) else { return };
        let Some(instance) = service.instance(seat) else { return };
        let (session, provider, name) = (instance.session, instance.provider, service.name.clone());
        match self.sessions.get(session).map(|session| session.language) {
            Some(Language::Native) => {
                self.send_control(session, &ToClient::CallOver { provider, call, code });
            }
            Some(Language::Json) => {
                self.answer_json(session, |out| {
                    json::write_call_over(out, &name, call, Code::from_number(code))
                });
            }
            None => {}
        }
    }

    /// An instance did not answer in time, or says that it cannot.
    pub(super) fn instance_failed(&mut self, (key, seat): Place, now: Now) {
        let Some(service) = self.services.table.get_mut(key) else { return };
        if !service.went_wrong(seat, now.monotonic) {
            return;
        }
        if let Some(instance) = service.instance(seat) {
            tracing::warn!(
                "{} fails at requests of service {} and is left out for a while (services[].eject_failures is {})",
                instance.identity,
                service.name,
                service.settings.eject_failures
            );
        }
        self.arm_service(key);
        self.look_at_waiting(key);
    }

    /// Sets the timer of a service for the next instance that comes back.
    pub(super) fn arm_service(&mut self, key: Key) {
        let Some(service) = self.services.table.get_mut(key) else { return };
        let at = service.next_back();
        if at == service.timer_at {
            return;
        }
        if let Some(before) = std::mem::replace(&mut service.timer_at, at) {
            self.timers.cancel(before, Timer::Service(key));
        }
        if let Some(at) = at {
            self.timers.set(at, Timer::Service(key));
        }
    }

    /// An instance comes back on trial.
    pub(in crate::core) fn service_is_due(&mut self, key: Key, now: Now) {
        let Some(service) = self.services.table.get_mut(key) else { return };
        service.timer_at = None;
        service.let_back(now.monotonic);
        self.arm_service(key);
        self.service_wants_attention(key);
    }
}

/// Whether a call may be given to another instance after the one that has it.
fn may_retry(call: &Call, service: &Service) -> bool {
    call.idempotent
        && call.tried.len() <= service.settings.retries_max as usize
        && service.could_take(&call.tried)
}

fn no_instance(name: &str) -> Refused {
    Refused::new(Code::NoInstance, format!("nobody provides service {name} now"))
}
