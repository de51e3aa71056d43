//! A message that routes have, from when it is taken until it is settled.
//!
//! What came from a queue is acknowledged when everything that was to become of it has: delivered, dropped, or given to an
//! invalid channel or a dead letter. What could be given to none of these goes back to its queue.

use super::group::Target;
use super::hands::Source;
use super::leg::Content;
use super::set::Candidates;
use super::task::{Came, Carried, Done, Job, LetterBytes, Made, Of};
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::delivery::own_time;
use crate::core::queues::{Place, Settled};
use crate::core::session::Identity;
use crate::core::table::Key;
use crate::routes::route::Passed;
use std::sync::Arc;
use tramline_wire::limits::REPLY_TEXT_BYTES_MAX;
use tramline_wire::{ErrorReply, Message, Outcome};

/// The error with which a request is answered that is not valid.
const INVALID: u32 = 422;

/// The error with which a request is answered that no route takes.
const NOT_TAKEN: u32 = 404;

/// Who waits for what becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Back {
    /// Nobody.
    Nobody,
    /// A queue, which gave it out under this tag.
    Queue { place: Place, tag: u64 },
    /// Whoever asked a service, of which this is a call.
    Call { place: Place, number: u64 },
}

/// Why a request is not answered with what a service said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It is not valid.
    Invalid(String),
    /// It could not be delivered.
    Dead(String),
}

/// What a queue is told of a message, the worst last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Verdict {
    #[default]
    Settled,
    /// It is not valid, and there is no channel for that.
    Rejected(String),
    /// It could be brought nowhere.
    GivenBack,
}

/// One route's part of an item.
#[derive(Debug)]
pub(super) struct Taking {
    pub(super) route: Key,
    /// Legs that have not ended.
    pub(super) legs: u32,
    /// Whether one of them did not arrive.
    pub(super) dead: bool,
}

/// A message that routes have.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) source: Source,
    pub(super) back: Back,
    pub(super) from: Arc<Identity>,
    pub(super) topic: Arc<str>,
    /// As it travels.
    pub(super) bytes: Arc<[u8]>,
    pub(super) priority: u8,
    /// What it is counted for; and what was made of it.
    pub(super) cost: u64,
    pub(super) made: u64,
    /// What is not over: being treated, and legs.
    pub(super) open: u32,
    pub(super) takings: Vec<Taking>,
    pub(super) verdict: Verdict,
    /// Whether a route took it; what a service answered; and why there may be no answer.
    pub(super) was_taken: bool,
    pub(super) reply: Option<Arc<[u8]>>,
    /// Why a reply was not valid, which counts unless another is.
    pub(super) reply_fault: Option<String>,
    pub(super) trouble: Option<Trouble>,
    pub(super) taken: u64,
    pub(super) unix_nanos: i64,
    /// The set's states of routes, by their places.
    pub(super) keys: Arc<[Key]>,
}

impl Item {
    fn worse(&mut self, verdict: Verdict) {
        let rank = |verdict: &Verdict| match verdict {
            Verdict::Settled => 0,
            Verdict::Rejected(_) => 1,
            Verdict::GivenBack => 2,
        };
        if rank(&verdict) > rank(&self.verdict) {
            self.verdict = verdict;
        }
    }
}

/// A message that is to become an item.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) source: Source,
    pub(super) back: Back,
    pub(super) from: Arc<Identity>,
    pub(super) topic: Arc<str>,
    pub(super) bytes: Arc<[u8]>,
    pub(super) priority: u8,
    /// When it was published, by its publisher's clock.
    pub(super) time: u64,
}

impl Core {
    /// Makes an item, which stays until [`Core::close_item`].
    pub(super) fn open_item(&mut self, arrived: Arrived, now: Now) -> Key {
        let Arrived { source, back, from, topic, bytes, priority, time } = arrived;
        let cost = super::cost(bytes.len());
        let keys = self.routing.set.keys.clone();
        self.routing.bytes += cost;
        self.routing.items.insert(Item {
            source,
            back,
            from,
            topic,
            bytes,
            priority,
            cost,
            made: 0,
            open: 1,
            takings: Vec::new(),
            verdict: Verdict::default(),
            was_taken: false,
            reply: None,
            reply_fault: None,
            trouble: None,
            taken: now.monotonic,
            unix_nanos: own_time(time, now),
            keys,
        })
    }

    /// Has an item treated by these routes.
    pub(super) fn have_treated(&mut self, key: Key, candidates: &Candidates) {
        let routing = &mut self.routing;
        let Some(item) = routing.items.get(key) else { return };
        let worker = routing.hands.begin(item.source);
        let carried = carried(item);
        let (routes, places) = (routing.set.routes.clone(), candidates.places.clone());
        routing.hands.put(worker, Job::Treat { item: key, routes, places, carried });
        self.hand_out(worker);
    }

    /// The answers to [`Action::Work`](crate::core::Action::Work), in order as far as each worker is concerned.
    pub fn worked(&mut self, done: impl IntoIterator<Item = Done>, now: Now) {
        for Done { worker, came } in done {
            self.routing.hands.done(worker);
            match came {
                Came::Treated(item, made) => self.is_treated(item, made, now),
                Came::Letter(leg, body) => self.letter_written(leg, body, now),
                Came::Failed(Of::Item(item), message) => self.was_not_treated(item, &message, now),
                Came::Reply(item, route, watched, made) => {
                    self.reply_is_treated(item, route, watched, made, now);
                }
                Came::Failed(Of::Reply(item, route, watched), message) => {
                    self.reply_was_not_treated(item, route, watched, &message, now);
                }
                Came::Failed(Of::Leg(leg), message) => self.was_not_written(leg, &message, now),
            }
            self.hand_out(worker);
        }
        self.settle(now);
    }

    /// A worker failed at an item: nobody knows what becomes of it.
    fn was_not_treated(&mut self, key: Key, why: &str, now: Now) {
        let Some(item) = self.routing.items.get_mut(key) else { return };
        item.worse(Verdict::GivenBack);
        let (source, topic, back) = (item.source, item.topic.clone(), item.back);
        self.routing.hands.end(source);
        self.routing.counts.failed += 1;
        tracing::error!("a message on {topic:?} was not treated: {why}");
        if back == Back::Nobody {
            tracing::error!("it is lost");
        }
        self.close_item(key, now);
    }

    /// A worker has treated an item.
    fn is_treated(&mut self, key: Key, made: Vec<(usize, Made)>, now: Now) {
        let Some(item) = self.routing.items.get(key) else { return };
        let (source, keys) = (item.source, item.keys.clone());
        self.routing.hands.end(source);
        for (place, made) in made {
            if let Some(route) = keys.get(place) {
                self.take_made(key, *route, made, now);
            }
        }
        drop(keys);
        self.close_item(key, now);
    }

    /// What one route made of an item.
    pub(super) fn take_made(&mut self, key: Key, route: Key, made: Made, now: Now) {
        let Some(account) = self.account_of(route) else { return };
        account.counts.received += 1;
        if self.taps > 0 {
            self.show_item(key, route, &made, now);
        }
        let Some(account) = self.account_of(route) else { return };
        match &made {
            Made::Passed(why) => {
                account.counts.passed += 1;
                match why {
                    Passed::False => {}
                    Passed::Missing(_) => account.counts.passed_missing += 1,
                    Passed::Trouble(_) => account.counts.passed_trouble += 1,
                }
                return;
            }
            Made::Dropped => account.counts.dropped += 1,
            Made::Invalid(..) => account.counts.invalid += 1,
            Made::AsItCame(_) | Made::Parts(_) => {}
        }
        if let Some(item) = self.routing.items.get_mut(key) {
            item.was_taken = true;
        }
        self.tap(key, route, now);
        match made {
            Made::Passed(_) | Made::Dropped => {}
            Made::AsItCame(order) => {
                let taking = self.open_taking(key, route);
                self.send(key, taking, Content::AsItCame(order), now);
                self.close_taking(key, taking, now);
            }
            Made::Invalid(reason, letter) => self.is_invalid(key, route, reason, letter, now),
            Made::Parts(parts) => {
                let taking = self.open_taking(key, route);
                for part in parts {
                    if let Some(account) = self.account_of(route) {
                        account.counts.parts += 1;
                        account.counts.parts_invalid += u64::from(part.is_err());
                    }
                    match part {
                        Ok(body) => {
                            self.note_made(key, body.bytes());
                            self.send(key, taking, Content::Made(body), now);
                        }
                        Err((reason, letter)) => self.is_invalid(key, route, reason, letter, now),
                    }
                }
                self.close_taking(key, taking, now);
            }
        }
    }

    /// Counts what was made of an item.
    pub(super) fn note_made(&mut self, key: Key, bytes: usize) {
        let bytes = bytes as u64;
        if let Some(item) = self.routing.items.get_mut(key) {
            item.made += bytes;
            self.routing.bytes += bytes;
            self.routing.made_bytes += bytes;
        }
    }

    /// Shows what a route made of an item to whoever looks.
    fn show_item(&mut self, key: Key, route: Key, made: &Made, now: Now) {
        let Some(item) = self.routing.items.get(key) else { return };
        let (from, topic, bytes) = (item.from.clone(), item.topic.clone(), item.bytes.clone());
        if let Ok(message) = tramline_wire::codec::decode_message(&bytes) {
            self.show_tapped(route, (&from, &topic), message, made, now);
        }
    }

    fn is_invalid(
        &mut self,
        key: Key,
        route: Key,
        reason: String,
        letter: Option<Arc<super::task::Body>>,
        now: Now,
    ) {
        if let Some(state) = self.routing.table.get(route) {
            tracing::debug!("route {}: a message is not valid: {reason}", state.settings().name);
        }
        if let Some(item) = self.routing.items.get_mut(key) {
            item.trouble.get_or_insert_with(|| Trouble::Invalid(reason.clone()));
        }
        match letter {
            Some(body) => {
                self.note_made(key, body.bytes());
                self.send_invalid(key, route, body, now);
            }
            None => {
                if let Some(item) = self.routing.items.get_mut(key) {
                    item.worse(Verdict::Rejected(reason));
                }
            }
        }
    }

    /// What could be brought nowhere, not even to a channel for that, is lost, unless a queue takes it back.
    pub(super) fn is_lost(&mut self, key: Key, route: Key, why: &str) {
        let Some(item) = self.routing.items.get_mut(key) else { return };
        item.worse(Verdict::GivenBack);
        if item.back != Back::Nobody {
            return;
        }
        let topic = item.topic.clone();
        if let Some(account) = self.account_of(route) {
            account.counts.lost += 1;
        }
        if let Some(state) = self.routing.table.get(route) {
            tracing::warn!("route {}: a message on {topic} is lost: {why}", state.settings().name);
        }
    }

    /// Publishes a copy of an item, if its route is to.
    fn tap(&mut self, key: Key, route: Key, now: Now) {
        let Some(topic) = self.routing.table.get(route).and_then(|state| state.tap) else { return };
        let Some(item) = self.routing.items.get(key) else { return };
        let (bytes, hops) = (item.bytes.clone(), item.from.hops);
        if self.is_too_large_for(&Target::Topic(topic), bytes.len()).is_some() {
            self.routing.counts.not_tapped += 1;
            return;
        }
        if let Ok(message) = tramline_wire::codec::decode_message(&bytes) {
            self.publish_for_route(topic, message, hops, now);
        }
    }

    /// Begins a route's part of an item, with one leg that keeps it open until [`Core::close_taking`].
    fn open_taking(&mut self, key: Key, route: Key) -> usize {
        if let Some(account) = self.account_of(route) {
            account.counts.in_flight += 1;
        }
        let Some(item) = self.routing.items.get_mut(key) else { return 0 };
        item.takings.push(Taking { route, legs: 1, dead: false });
        item.takings.len() - 1
    }

    /// A leg of a route's part of an item is over.
    pub(super) fn close_taking(&mut self, key: Key, taking: usize, now: Now) {
        let Some(item) = self.routing.items.get_mut(key) else { return };
        let taken = item.taken;
        let Some(taking) = item.takings.get_mut(taking) else { return };
        taking.legs -= 1;
        if taking.legs > 0 {
            return;
        }
        let (route, dead) = (taking.route, taking.dead);
        let Some(account) = self.account_of(route) else { return };
        account.counts.in_flight -= 1;
        if dead {
            account.counts.dead += 1;
        } else {
            account.counts.delivered += 1;
            account.latency.note(now.monotonic.saturating_sub(taken));
        }
    }

    /// Something of an item is over; with the last of it the item is.
    pub(super) fn close_item(&mut self, key: Key, now: Now) {
        let Some(item) = self.routing.items.get_mut(key) else { return };
        item.open -= 1;
        if item.open > 0 {
            return;
        }
        let Some(item) = self.routing.items.remove(key) else { return };
        self.routing.bytes -= item.cost + item.made;
        self.routing.made_bytes -= item.made;
        if let Back::Queue { place, tag } = item.back {
            let settled = match &item.verdict {
                Verdict::Settled => Settled::Ack,
                Verdict::Rejected(reason) => Settled::Reject { reason },
                Verdict::GivenBack => Settled::Nack,
            };
            self.settle_own_job(place, tag, settled, now);
        }
        if let Back::Call { place, number } = item.back {
            self.answer_call(place, number, &item, now);
        }
        drop(item);
        if !self.routing.retired.is_empty() {
            self.forget_routes();
        }
        self.make_room_for_routes();
    }

    /// Answers a request: with what the destination said, or with nothing if that says nothing.
    fn answer_call(&mut self, place: Place, number: u64, item: &Item, now: Now) {
        let error = |number, text| Outcome::Error(ErrorReply { number, text });
        let mut nothing = Vec::new();
        tramline_wire::codec::encode_message(&mut nothing, &Message::default());
        let nothing = Arc::from(nothing);
        let (outcome, bytes) = match (&item.trouble, &item.reply) {
            (Some(Trouble::Invalid(reason)), _) => (error(INVALID, shortened(reason)), &nothing),
            (Some(Trouble::Dead(why)), _) => (Outcome::Failed { text: shortened(why) }, &nothing),
            (None, _) if item.verdict != Verdict::Settled => {
                (Outcome::Failed { text: "it could not be treated" }, &nothing)
            }
            (None, _) if !item.was_taken => (error(NOT_TAKEN, "no route takes this request"), &nothing),
            (None, Some(reply)) => (Outcome::Done, reply),
            (None, None) => match &item.reply_fault {
                Some(reason) => (error(INVALID, shortened(reason)), &nothing),
                None => (Outcome::Done, &nothing),
            },
        };
        self.answer_for_route(place, number, outcome, bytes, now);
    }

    /// Gives a worker what waits for it, as far as it can take it.
    pub(super) fn hand_out(&mut self, worker: usize) {
        let room =
            |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX).saturating_sub(super::leg::ROOM_BYTES);
        let letters = LetterBytes {
            to_topic: room(self.limits.frame_bytes_max.into()),
            to_queue: room(self.limits.delivery_ring_bytes_max),
        };
        let routing = &mut self.routing;
        loop {
            let too_much = routing.made_bytes >= routing.limits.work_bytes_max as u64;
            // What is there already gets through in any case.
            let too_much = too_much && !(routing.hands.is_idle() && routing.legs.len() == 0);
            let Some(job) = routing.hands.take(worker, routing.limits.batch_size, too_much) else { return };
            let task = super::Task { worker, job, letters };
            self.actions.push_back(crate::core::Action::Work(task));
        }
    }

    /// A route's counts.
    pub(super) fn account_of(&mut self, route: Key) -> Option<&mut super::Account> {
        let account = self.routing.table.get(route)?.account;
        self.routing.books.get_mut(account)
    }
}

/// As much of a text as an answer may carry.
fn shortened(text: &str) -> &str {
    let most = REPLY_TEXT_BYTES_MAX.min(text.len());
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// An item as workers get it.
pub(super) fn carried(item: &Item) -> Carried {
    Carried {
        from: item.from.clone(),
        topic: item.topic.clone(),
        bytes: item.bytes.clone(),
        unix_nanos: item.unix_nanos,
    }
}
