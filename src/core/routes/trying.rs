//! One try to bring something to a destination, and what comes of it.
//!
//! A topic is reached when the message was routed, to however many subscribers there are; a queue when it has the message,
//! on disk if it is kept there; a service when it has answered, and not with an error, within the timeout. What failed is
//! tried again elsewhere if there is somewhere else, after a pause that doubles each time, as often as the route says.

use super::group::{RouteState, Target, millis, nanos};
use super::leg::{Aim, Content, Leg, Stage, Told, json_flags, own_flags};
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::queues::{Incoming, Waiter};
use crate::core::quota::Refused;
use crate::core::table::Key;
use crate::routes::route::Try;
use crate::routes::settings::RetryBudget;
use std::sync::Arc;
use std::time::Duration;
use tramline_wire::codec::{decode_message, encode_message};
use tramline_wire::{Code, Message};

/// Why a try failed.
struct Failure {
    code: Code,
    why: String,
    /// Whether it would fail anywhere and at any time.
    is_final: bool,
    /// Whether the destination is to blame.
    is_its_fault: bool,
}

impl Failure {
    fn of(refused: Refused) -> Self {
        let why = format!("{}: {}", refused.code, refused.message);
        Self { code: refused.code, why, is_final: false, is_its_fault: true }
    }

    fn too_large(bytes: usize, whom: &str, (limit, most): (&str, u64)) -> Self {
        let why = format!("a message of {bytes} bytes is too large for {whom}: limits.{limit} is {most}");
        Self { code: Code::PayloadTooLarge, why, is_final: true, is_its_fault: false }
    }
}

impl Leg {
    /// Says of its last failure why it is the last.
    fn because(&mut self, why: &str) {
        if let Some(last) = self.history.last_mut() {
            last.reason = format!("{}; {why}", last.reason);
        }
    }
}

impl RouteState {
    /// How long a try may take that is begun now: not longer than what is left of the time in all.
    fn try_millis(&self, deadline: Option<u64>, now: Now) -> u32 {
        let left = deadline.map(|deadline| Duration::from_nanos(deadline.saturating_sub(now.monotonic)));
        let timeout = self.deliver().timeout;
        millis(left.map_or(timeout, |left| left.min(timeout)))
    }
}

impl Core {
    /// Tries a leg that is nowhere now.
    pub(super) fn try_leg(&mut self, key: Key, now: Now) {
        let Some(leg) = self.routing.legs.get(key) else { return };
        let (route, aim) = (leg.route, leg.aim);
        if leg.deadline.is_some_and(|deadline| deadline <= now.monotonic) {
            return self.is_too_late(key, "before it could be tried", now);
        }
        let Some(item) = self.routing.items.get(leg.item) else { return };
        let bytes = leg.content.bytes(&item.bytes);
        let seat = match aim {
            Aim::Any => {
                let tried = leg.tried.clone();
                self.let_destinations_back(route, now.monotonic);
                match self.choose(route, &tried, bytes) {
                    Some(seat) => Some(seat),
                    None => return self.nobody_can_take(key, bytes, now),
                }
            }
            Aim::One(seat) => Some(seat),
            Aim::Invalid | Aim::Dead => None,
        };
        self.routing.last_number += 1;
        let number = self.routing.last_number;
        let Some(leg) = self.routing.legs.get_mut(key) else { return };
        leg.stage = Stage::Trying { seat, number };
        leg.tries += 1;
        let is_again = leg.tries > 1;
        if let Some(seat) = seat {
            if leg.tried.contains(&seat) {
                leg.tried.clear();
            }
            leg.tried.push(seat);
        }
        let Some(state) = self.routing.table.get_mut(route) else { return };
        if let Some(seat) = seat {
            state.group.served(seat);
            if let Some(place) = state.destinations.get_mut(seat as usize) {
                place.counts.tries += 1;
                place.health.gave(number);
            }
        }
        let Some((target, name)) = state.target(aim, seat) else { return };
        if is_again && let Some(account) = self.account_of(route) {
            account.counts.retries += 1;
        }
        match self.hand_to(key, &target, &name, number, now) {
            Ok(true) => self.arrived(key, now),
            // It is told later what came of it.
            Ok(false) => {}
            Err(failure) => self.try_failed(key, failure, now),
        }
    }

    /// Gives a leg's content to a destination. Whether it has arrived already.
    fn hand_to(
        &mut self,
        key: Key,
        target: &Target,
        name: &str,
        number: u64,
        now: Now,
    ) -> Result<bool, Failure> {
        let Some(leg) = self.routing.legs.get(key) else { return Ok(false) };
        let (content, route, deadline) = (leg.content.clone(), leg.route, leg.deadline);
        let Some(item) = self.routing.items.get(leg.item) else { return Ok(false) };
        let (original, hops, priority) = (item.bytes.clone(), item.from.hops, item.priority);
        let Ok(message) = decode_message(&original) else { return Ok(false) };
        let (flags, after) = (message.flags, message.after);
        let payload;
        let message = match &content {
            Content::AsItCame(_) => Message { flags: own_flags(message.flags), after: None, ..message },
            Content::Made(body) => {
                payload = body.payload_for(name);
                Message {
                    flags: json_flags(message.flags),
                    after: None,
                    head: body.head.as_deref().unwrap_or(message.head),
                    payload: &payload,
                    ..message
                }
            }
        };
        if let Some(limit) = self.is_too_large_for(target, content.bytes(&original)) {
            return Err(Failure::too_large(content.bytes(&original), "it", limit));
        }
        if let Target::Topic(topic) = target {
            self.publish_for_route(*topic, message, hops, now);
            return Ok(true);
        }
        // What is large goes on in the memory in which it came: the core copies no megabytes.
        let is_as_it_came =
            matches!(content, Content::AsItCame(_)) && own_flags(flags) == flags && after.is_none();
        let bytes = if is_as_it_came && self.is_bulk(original.len()) {
            original
        } else {
            let mut bytes = Vec::with_capacity(message.payload.len() + message.head.len() + 64);
            encode_message(&mut bytes, &Message { seq: number, ..message });
            bytes.into()
        };
        match target {
            Target::Topic(_) => Ok(true),
            Target::Queue(queue) => self.push_for_route(key, queue, bytes, (hops, priority), now),
            Target::Service(service) => {
                let timeout =
                    self.routing.table.get(route).map_or(1, |state| state.try_millis(deadline, now));
                self.ask_for_route(key, service, number, timeout, bytes, now)
                    .map(|()| false)
                    .map_err(Failure::of)
            }
        }
    }

    fn push_for_route(
        &mut self,
        key: Key,
        queue: &Arc<str>,
        bytes: Arc<[u8]>,
        (hops, priority): (u8, u8),
        now: Now,
    ) -> Result<bool, Failure> {
        let Some(queue_key) = self.queues.by_name.get(queue).copied() else {
            let refused = Refused::new(Code::UnknownQueue, format!("there is no queue {queue}"));
            return Err(Failure::of(refused));
        };
        let from = self.routing.sender(hops.saturating_add(1));
        let origin = crate::core::queues::pushed_by(&from, &self.nameless);
        let incoming = Incoming { bytes, priority, delay_millis: 0, ttl_millis: 0, id: b"" };
        self.push_to(queue_key, incoming, &origin, now).map_err(Failure::of)?;
        let is_kept = self.queues.table.get(queue_key).is_some_and(|queue| queue.is_kept());
        // One on disk has it when the store does.
        Ok(!(is_kept && self.queues.ledger_waits(Waiter::Leg { leg: key, queue: queue.clone() })))
    }

    /// A service or the store has said what came of a try.
    pub(super) fn leg_is_told(&mut self, key: Key, told: Told, now: Now) {
        if self.routing.legs.get(key).is_none_or(|leg| leg.stage.number().is_none()) {
            return;
        }
        match told {
            Told::Done => self.arrived(key, now),
            Told::Answered { by, bytes } => {
                self.leg_is_answered(key, by, bytes, now);
                self.arrived(key, now);
            }
            Told::Error { number, text } => {
                let why = format!("it answered with error {number}: {text}");
                // That is an answer: the destination is well.
                let code = Code::ErrorReply;
                self.try_failed(key, Failure { code, why, is_final: false, is_its_fault: false }, now);
            }
            Told::Failed { code, message } => {
                // A try that had less than its time, because all of it was over, says nothing of the destination.
                let deadline = self.routing.legs.get(key).and_then(|leg| leg.deadline);
                let was_cut = deadline.is_some_and(|deadline| deadline <= now.monotonic);
                let is_its_fault = code != Code::NoInstance && !(code == Code::TimedOut && was_cut);
                let why = format!("{code}: {message}");
                self.try_failed(key, Failure { code, why, is_final: false, is_its_fault }, now);
            }
        }
    }

    /// A try went well.
    fn arrived(&mut self, key: Key, now: Now) {
        let Some(leg) = self.routing.legs.get(key) else { return };
        let (route, aim) = (leg.route, leg.aim);
        if let Stage::Trying { seat: Some(seat), number } = leg.stage {
            self.destination_did_well(route, seat, number, now.monotonic);
        }
        // What is a dead letter was not delivered.
        self.end_leg(key, matches!(aim, Aim::Any | Aim::One(_)), now);
    }

    fn try_failed(&mut self, key: Key, failure: Failure, now: Now) {
        let Failure { code, why, is_final, is_its_fault } = failure;
        let Some(leg) = self.routing.legs.get(key) else { return };
        let (route, aim, stage) = (leg.route, leg.aim, leg.stage);
        let mut destination: Arc<str> = "".into();
        if let Stage::Trying { seat, number } = stage {
            let target = self.routing.table.get(route).and_then(|state| state.target(aim, seat));
            destination = target.map_or(destination, |(_, name)| name);
            if let Some(seat) = seat {
                self.destination_failed(route, seat, number, (code, is_its_fault), now.monotonic);
            }
        }
        self.note_failure(key, destination, why, is_final, now);
    }

    /// Nobody among the destinations can take a leg now.
    fn nobody_can_take(&mut self, key: Key, bytes: usize, now: Now) {
        let Some(leg) = self.routing.legs.get_mut(key) else { return };
        leg.tries += 1;
        let Some(state) = self.routing.table.get(leg.route) else { return };
        // The widest of the limits, if it is too large for each.
        let limits = state.destinations.iter().map(|place| self.is_too_large_for(&place.target, bytes));
        let widest = limits.reduce(|a, b| Some(a?).zip(b).map(|(a, b)| if a.1 < b.1 { b } else { a }));
        let (why, is_final) = match widest.flatten() {
            Some(limit) => (Failure::too_large(bytes, "every destination", limit).why, true),
            None => {
                let why =
                    "no destination can take it now: services without instances or full, queues without room";
                (why.to_owned(), false)
            }
        };
        self.note_failure(key, "".into(), why, is_final, now);
    }

    /// Writes a failure down, and sees whether it is tried again.
    fn note_failure(&mut self, key: Key, destination: Arc<str>, why: String, is_final: bool, now: Now) {
        let Some(leg) = self.routing.legs.get_mut(key) else { return };
        leg.history.push(Try { destination, unix_nanos: now.unix, reason: why });
        let (tries, route) = (leg.tries, leg.route);
        let Some(state) = self.routing.table.get(route) else { return };
        let deliver = state.deliver();
        if is_final || tries > deliver.retries {
            return self.give_up(key, now);
        }
        let (initial, most) = (nanos(deliver.backoff_initial), nanos(deliver.backoff_max));
        let whole = initial.saturating_mul(1 << tries.saturating_sub(1).min(40)).min(most);
        // Between half and all of it, so that what failed together does not come back together.
        let until = now.monotonic + whole / 2 + self.queues.dice.below(whole / 2 + 1);
        let Some(leg) = self.routing.legs.get(key) else { return };
        if leg.deadline.is_some_and(|deadline| deadline <= until) {
            return self.is_too_late(key, "before it could be tried again", now);
        }
        if leg.is_active && !leg.is_retry && !self.may_retry(key, route) {
            return self.give_up(key, now);
        }
        let Some(leg) = self.routing.legs.get_mut(key) else { return };
        leg.stage = Stage::Pausing { until };
        self.set_leg_timer(key, until);
    }

    /// Whether a leg may go on to its first retry. It is counted, either way.
    fn may_retry(&mut self, key: Key, route: Key) -> bool {
        let Some(state) = self.routing.table.get_mut(route) else { return false };
        let Some(leg) = self.routing.legs.get_mut(key) else { return false };
        let (retrying, active) = (state.retrying, state.active);
        let budget = state.deliver().retry_budget;
        let Some(budget) = budget.filter(|budget| !budget.lets_another(retrying, active)) else {
            leg.is_retry = true;
            state.retrying += 1;
            return true;
        };
        let RetryBudget { percent, min } = budget;
        leg.because(&format!(
            "not tried again: {retrying} of {active} deliveries are retried (deliver.retry_budget: {percent} %, at least {min})"
        ));
        if let Some(account) = self.account_of(route) {
            account.counts.retries_refused += 1;
        }
        false
    }

    /// A leg's time in all is over, or will be.
    fn is_too_late(&mut self, key: Key, when: &str, now: Now) {
        let Some(leg) = self.routing.legs.get_mut(key) else { return };
        let route = leg.route;
        let Some(state) = self.routing.table.get(route) else { return };
        let deadline = state.deliver().deadline.unwrap_or_default();
        let why = format!("its time in all of {deadline:?} is over {when} (deliver.deadline)");
        if leg.history.is_empty() {
            leg.history.push(Try { destination: "".into(), unix_nanos: now.unix, reason: why });
        } else {
            leg.because(&why);
        }
        if let Some(account) = self.account_of(route) {
            account.counts.too_late += 1;
        }
        self.give_up(key, now);
    }
}
