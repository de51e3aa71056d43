//! Publishing by topic: which plane a message takes, its number, and what to wait for.
//!
//! Each attempt is one [`Shared::step`] that never waits; the blocking and the async client repeat it.

use crate::clock::{deadline_after, monotonic_nanos};
use crate::draft::Outgoing;
use crate::error::{Error, Result};
use crate::outbound::Outbound;
use crate::reactor::lock;
use crate::shared::Shared;
use crate::topics::{Route, Topic, TopicState};
use std::sync::Arc;
use std::time::Instant;
use tramline_ring::Meta;
use tramline_wire::limits::FRAME_OVERHEAD_BYTES;
use tramline_wire::{After, Code, Message, Publish, ToBroker};

/// What an attempt to publish came to.
pub(crate) enum Step {
    Sent(Sent),
    /// A ring that takes a message of this many bytes is to be opened first.
    Open(u64),
    /// Try again after the next change; if there is none in time, this is the error.
    Wait(Error),
}

/// A message that is on its way.
pub(crate) struct Sent {
    pub(crate) seq: u64,
    /// By socket: the alias it went under. In a ring: how many readers the ring has.
    pub(crate) by: Result<u32, u32>,
}

/// Variations of a step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct How {
    /// Ask the broker to confirm.
    pub(crate) confirm: bool,
    /// Write it out now, rather than with what follows.
    pub(crate) flush: bool,
}

impl Shared {
    /// Tries to publish once.
    pub(crate) fn step(&self, topic: &Arc<Topic>, message: &Outgoing<'_>, how: How) -> Result<Step> {
        let mut state = lock(&topic.state);
        match &mut state.route {
            Route::Socket => self.step_on_socket(topic, &mut state, message, how),
            Route::Opening => {
                let after = self.options.request_timeout;
                Ok(Step::Wait(Error::TimedOut { what: "answer to the opening of a ring", after }))
            }
            Route::Ring { stream, implicit } => {
                let result =
                    stream.try_send(true, message.meta(monotonic_nanos()), message.head, message.payload);
                match result {
                    Ok(seq) => {
                        if let Some(used) = implicit {
                            *used = Instant::now();
                        }
                        self.tell_left(stream);
                        let readers = u32::try_from(stream.reader_count()).unwrap_or(u32::MAX);
                        Ok(Step::Sent(Sent { seq, by: Err(readers) }))
                    }
                    Err(error) => match self.or_grow(stream, error) {
                        full @ Error::Full(_) => Ok(Step::Wait(full)),
                        // Another ring may be granted where both at a time are not.
                        error if implicit.is_some() && error.code() == Code::LimitReached => {
                            Ok(Step::Open((message.head.len() + message.payload.len()) as u64))
                        }
                        error => Err(error),
                    },
                }
            }
        }
    }

    fn step_on_socket(
        &self,
        topic: &Arc<Topic>,
        state: &mut TopicState,
        message: &Outgoing<'_>,
        how: How,
    ) -> Result<Step> {
        // For a confirmation the answer's place must exist before the question is sent.
        let mut session = how.confirm.then(|| lock(&self.session));
        let mut outbound = lock(&self.outbound);
        self.check_open(&outbound)?;
        let size = message.payload.len() + message.head.len();
        let fits = size + FRAME_OVERHEAD_BYTES <= outbound.frame_bytes_max;
        if !fits || (message.payload.len() >= self.options.ring_payload_bytes_min && !how.confirm) {
            return Ok(Step::Open(size as u64));
        }
        if !outbound.has_room() {
            self.write_out(&mut outbound);
            if !outbound.has_room() {
                let after = self.options.request_timeout;
                return Ok(Step::Wait(Error::TimedOut { what: "room on the broker's socket", after }));
            }
        }
        let alias = alias_on(&mut outbound, topic, state);
        let seq = state.next_seq;
        state.next_seq += 1;
        let meta = message.meta(monotonic_nanos());
        let flags = if how.confirm { message.flags.with_confirm() } else { message.flags };
        let frame = Message {
            flags,
            seq,
            time: meta.time,
            source_time: meta.source_time,
            after: state.after,
            head: message.head,
            payload: message.payload,
        };
        if let Some(session) = &mut session {
            session.confirmations.insert((alias, seq), None);
        }
        outbound.publish(&Publish { alias, message: frame });
        if how.flush {
            self.write_out(&mut outbound);
        }
        drop(outbound);
        drop(session);
        Ok(Step::Sent(Sent { seq, by: Ok(alias) }))
    }

    /// Appends the first of these messages, as many as go on the socket and have room there; says how many. They have
    /// one time. Written out with what follows.
    pub(crate) fn push_together<'a>(
        &self,
        topic: &Arc<Topic>,
        messages: impl Iterator<Item = Outgoing<'a>>,
    ) -> Result<usize> {
        let mut state = lock(&topic.state);
        if !matches!(state.route, Route::Socket) {
            return Ok(0);
        }
        let mut outbound = lock(&self.outbound);
        self.check_open(&outbound)?;
        let frame_bytes_max = outbound.frame_bytes_max;
        let alias = alias_on(&mut outbound, topic, &mut state);
        let (time, after) = (monotonic_nanos(), state.after);
        let mut count = 0;
        for message in messages {
            let bytes = message.payload.len();
            let large = bytes >= self.options.ring_payload_bytes_min;
            if large
                || bytes + message.head.len() + FRAME_OVERHEAD_BYTES > frame_bytes_max
                || !outbound.has_room()
            {
                break;
            }
            let Outgoing { flags, source_time, head, payload } = message;
            let message = Message { flags, seq: state.next_seq, time, source_time, after, head, payload };
            state.next_seq += 1;
            outbound.publish(&Publish { alias, message });
            count += 1;
        }
        Ok(count)
    }

    /// Publishes, waiting for room if need be.
    pub(crate) fn publish(&self, topic: &str, message: &Outgoing<'_>, how: How) -> Result<Sent> {
        self.check_process()?;
        self.take_fault()?;
        let topic = self.topics.get(topic)?;
        self.publish_to(&topic, message, how)
    }

    pub(crate) fn publish_to(&self, topic: &Arc<Topic>, message: &Outgoing<'_>, how: How) -> Result<Sent> {
        let mut step = self.step(topic, message, how)?;
        loop {
            step = match step {
                Step::Sent(sent) => return Ok(sent),
                Step::Open(bytes) => {
                    self.open_implicit(topic, bytes)?;
                    self.step(topic, message, how)?
                }
                Step::Wait(error) => {
                    let mut why = error;
                    let deadline = deadline_after(self.options.request_timeout);
                    let next = self.wait_until(deadline, || {
                        Ok(match self.step(topic, message, how)? {
                            Step::Wait(error) => {
                                why = error;
                                None
                            }
                            step => Some(step),
                        })
                    })?;
                    next.ok_or(why)?
                }
            };
        }
    }

    /// Publishes and waits until the broker has it. Returns to how many subscriptions it went.
    pub(crate) fn publish_confirmed(&self, topic: &str, message: &Outgoing<'_>) -> Result<u32> {
        let sent = self.publish(topic, message, How { confirm: true, flush: true })?;
        let alias = match sent.by {
            Ok(alias) => alias,
            // In a ring it is where its readers find it.
            Err(readers) => return Ok(readers),
        };
        let timeout = self.options.request_timeout;
        let key = (alias, sent.seq);
        let found = self.wait_until(deadline_after(timeout), || self.take_confirmation(key));
        lock(&self.session).confirmations.remove(&key);
        found?.ok_or(Error::TimedOut { what: "confirmation by the broker", after: timeout })
    }

    pub(crate) fn take_confirmation(&self, key: (u32, u64)) -> Result<Option<u32>> {
        let mut session = lock(&self.session);
        if let Some(answer) = session.confirmations.get_mut(&key).and_then(Option::take) {
            return answer.map(Some);
        }
        drop(session);
        // A refused publish is answered by an error without a number.
        self.take_fault().map(|()| None)
    }

    /// Writes out what waits, as far as the socket takes it.
    pub(crate) fn flush_now(&self) {
        self.write_out(&mut lock(&self.outbound));
    }
}

/// The alias of a topic on this connection, told to the broker if it is new.
fn alias_on(outbound: &mut Outbound, topic: &Topic, state: &mut TopicState) -> u32 {
    match state.alias {
        Some((epoch, alias)) if outbound.owns(topic.id, epoch, alias) => alias,
        _ => {
            let alias = outbound.define(topic.id, &topic.name);
            state.alias = Some((outbound.epoch(), alias));
            alias
        }
    }
}

impl Outgoing<'_> {
    pub(crate) fn meta(&self, time: u64) -> Meta {
        Meta { flags: self.flags.bits(), time, source_time: self.source_time }
    }
}

/// Ends a topic's ring: numbers go on after it, and what follows says so. Returns the request, if it could be
/// sent and is `awaited`.
pub(crate) fn close_route(shared: &Shared, state: &mut TopicState, awaited: bool) -> Option<u32> {
    let Route::Ring { stream, .. } = std::mem::replace(&mut state.route, Route::Socket) else { return None };
    let next_seq = stream.close();
    step!("close: not told");
    if next_seq > stream.first_seq {
        state.after = Some(After { stream: stream.id, seq: next_seq - 1 });
    }
    state.next_seq = next_seq;
    let mut session = lock(&shared.session);
    session.streams.remove(&stream.id);
    session.forget_kept(&stream);
    session.growths.remove(&stream.id);
    let mut outbound = lock(&shared.outbound);
    if !outbound.open {
        return None;
    }
    let req = if awaited { session.begin() } else { session.request_number() };
    outbound.push(&ToBroker::CloseStream { req, stream: stream.id, last_seq: next_seq - 1 });
    shared.write_out(&mut outbound);
    step!("close: told");
    awaited.then_some(req)
}
