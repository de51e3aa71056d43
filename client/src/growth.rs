//! Growth: this client's part, on both sides.
//!
//! As a publisher: a message that does not fit its ring has a larger generation made, on a thread of its own, since
//! the kernel clears the memory. The broker is told and hands it to the readers; when it says so, the leader goes on
//! in it. Whoever sends waits for that as it waits for room. As a subscriber: the memory of a later generation is
//! checked, mapped and put into the inbox.

use crate::error::{Error, Full, Limit, Result, ring_code};
use crate::inbound::Inbound;
use crate::inbox::Item;
use crate::reactor::lock;
use crate::session::Session;
use crate::shared::Shared;
use crate::stream::Stream;
use std::os::fd::AsFd;
use std::sync::Arc;
use tramline_ring::{Generation, RingIdentity, RingSpec, Successor};
use tramline_wire::limits::RING_MESSAGE_BYTES_MAX;
use tramline_wire::{Geometry, GrowStream, ToBroker};

/// Messages of the size that made it necessary that a generation has room for, unless its program asked for a number.
const MESSAGES: u32 = 4;

/// Most bytes of room for as many messages as a program asked for, of a size that it did not ask for.
const ASKED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A generation to come.
pub(crate) enum Growth {
    /// Its memory is being made.
    Making,
    /// The broker was asked.
    Announced { req: u32, next: Generation },
    /// It came to nothing; told to whoever asks next.
    Failed(Error),
    /// There can be none, because a later broker refused the stream; told to whoever asks.
    Refused(Error),
}

impl Session {
    /// The request was for a growth, which is refused. `false`: it was not.
    pub(crate) fn growth_refused(&mut self, request: u32, error: &Error) -> bool {
        let of = |growth: &&mut Growth| matches!(growth, Growth::Announced { req, .. } if *req == request);
        let Some(growth) = self.growths.values_mut().find(of) else { return false };
        *growth = Growth::Failed(copy_of(error));
        true
    }

    /// A stream is not open any more, but read on by those who read it already: it has the memory that it has.
    pub(crate) fn never_grows(&mut self, stream: u64, error: &Error) {
        self.growths.insert(stream, Growth::Refused(copy_of(error)));
    }

    /// A generation is not made any more; unless something has come between, it came to this.
    fn unmade(&mut self, stream: u64, outcome: Option<Growth>) {
        if matches!(self.growths.get(&stream), Some(Growth::Making)) {
            self.growths.remove(&stream);
            self.growths.extend(outcome.map(|outcome| (stream, outcome)));
        }
    }
}

/// A refusal, once more.
fn copy_of(error: &Error) -> Error {
    match error {
        Error::Refused { code, message, limit } => {
            Error::Refused { code: *code, message: message.clone(), limit: limit.clone() }
        }
        other => Error::Protocol(other.to_string().into()),
    }
}

impl Shared {
    /// What to make of a failed send: where the ring is too small, it grows from now on, and the error is that it is full
    /// meanwhile, or why it cannot grow.
    pub(crate) fn or_grow(&self, stream: &Arc<Stream>, error: Error) -> Error {
        match error {
            Error::TooLarge { bytes, max, .. } if bytes <= RING_MESSAGE_BYTES_MAX => {
                let topic = stream.topic.name.clone();
                match self.want_growth(stream, bytes, max) {
                    Ok(()) => Error::Full(Full { topic, holder: None, loan: None, growing: true }),
                    Err(error) => error,
                }
            }
            other => other,
        }
    }

    /// Sees to it that the ring grows.
    fn want_growth(&self, stream: &Arc<Stream>, bytes: u64, max: u64) -> Result<()> {
        let mut session = lock(&self.session);
        match session.growths.get(&stream.id) {
            Some(Growth::Making | Growth::Announced { .. }) => return Ok(()),
            Some(Growth::Failed(_)) => match session.growths.remove(&stream.id) {
                Some(Growth::Failed(error)) => return Err(error),
                _ => return Ok(()),
            },
            Some(Growth::Refused(error)) => return Err(copy_of(error)),
            None => {}
        }
        if !lock(&self.outbound).open {
            self.check_closing()?;
            return Err(Error::BrokerDown { topic: stream.topic.name.clone(), bytes, max });
        }
        if session.is_restoring(stream.id) {
            // Whoever waits looks again when the stream is open.
            return Ok(());
        }
        let ring_bytes_max = session.greeting.as_ref().map_or(u64::MAX, |greeting| greeting.ring_bytes_max);
        session.growths.insert(stream.id, Growth::Making);
        drop(session);
        step!("grow: wanted");
        let begun = self.begin_growth(stream, bytes, ring_bytes_max);
        if begun.is_err() {
            lock(&self.session).unmade(stream.id, None);
        }
        begun
    }

    fn begin_growth(&self, stream: &Arc<Stream>, bytes: u64, ring_bytes_max: u64) -> Result<()> {
        let (spec, depth) = stream.spec();
        if bytes <= spec.arena_bytes {
            // It has grown since the caller looked.
            lock(&self.session).unmade(stream.id, None);
            self.reactor.changed();
            return Ok(());
        }
        let next = larger(&spec, bytes, stream.messages.unwrap_or(MESSAGES), ring_bytes_max)?;
        self.make_generation(stream, next, depth)
    }

    /// A reader has lost its access: the stream goes on where that one cannot follow.
    pub(crate) fn renew(&self, id: u64) {
        let mut session = lock(&self.session);
        let Some(stream) = session.streams.get(&id).cloned() else { return };
        if matches!(session.growths.get(&id), Some(Growth::Making | Growth::Announced { .. })) {
            // That one is given to those who may read when the broker has checked it.
            return;
        }
        session.growths.insert(id, Growth::Making);
        drop(session);
        let (spec, depth) = stream.spec();
        if let Err(error) = self.make_generation(&stream, spec, depth) {
            lock(&self.session).unmade(id, Some(Growth::Failed(error)));
        }
    }

    /// Begins a generation of the same size, unless one is on its way. `false`: it was refused just now, or the broker is
    /// down.
    pub(crate) fn make_way(&self, id: u64) -> bool {
        let mut session = lock(&self.session);
        match session.growths.get(&id) {
            Some(Growth::Making | Growth::Announced { .. }) => return true,
            Some(Growth::Failed(_)) => {
                session.growths.remove(&id);
                return false;
            }
            Some(Growth::Refused(_)) => return false,
            None => {}
        }
        let open = lock(&self.outbound).open;
        drop(session);
        if open {
            self.renew(id);
        }
        open
    }

    fn make_generation(&self, stream: &Arc<Stream>, mut next: RingSpec, depth: u32) -> Result<()> {
        next.generation = stream.next_generation();
        let (shared, stream) = (self.weak.upgrade().ok_or(Error::Closed)?, Arc::clone(stream));
        self.makers.work(move || {
            let made = Generation::create(&next, depth).map_err(Error::from);
            step!("grow: memory made");
            if let Err(error) = made.and_then(|next| shared.announce_growth(&stream, next)) {
                lock(&shared.session).unmade(stream.id, Some(Growth::Failed(error)));
            }
            shared.reactor.changed();
        })
    }

    fn announce_growth(&self, stream: &Stream, next: Generation) -> Result<()> {
        let memory = next.memory().as_fd().try_clone_to_owned();
        let memory = memory.map_err(Error::io("duplicating a ring's descriptor"))?;
        let RingSpec { stream: id, generation, descriptors, arena_bytes, .. } = *next.spec();
        let mut session = lock(&self.session);
        if !session.streams.contains_key(&id) || session.is_restoring(id) {
            // It is gone, or not open yet on a connection that came meanwhile: whoever waits looks again.
            session.unmade(id, None);
            return Ok(());
        }
        let mut outbound = lock(&self.outbound);
        if !outbound.open {
            self.check_closing()?;
            let topic = stream.topic.name.clone();
            return Err(Error::BrokerDown { topic, bytes: arena_bytes, max: stream.message_bytes_max() });
        }
        let req = session.request_number();
        session.growths.insert(id, Growth::Announced { req, next });
        let geometry = Geometry { descriptors, arena_bytes };
        let frame = GrowStream { req, stream: id, generation, geometry, fds: 1 };
        outbound.push_with(&ToBroker::GrowStream(frame), vec![memory]);
        self.write_out(&mut outbound);
        step!("grow: announced");
        Ok(())
    }

    /// The broker handed a generation out: the stream goes on in it.
    pub(crate) fn grown(&self, id: u64, generation: u32) -> Result<()> {
        step!("grow: granted");
        let mut session = lock(&self.session);
        let growth = session.growths.remove(&id);
        let stream = session.streams.get(&id).cloned();
        drop(session);
        if let (Some(Growth::Announced { next, .. }), Some(stream)) = (growth, stream) {
            if next.spec().generation != generation {
                let message = format!("generation {generation} of a stream, which was not announced");
                return Err(Error::Protocol(message.into()));
            }
            stream.succeed(next)?;
            step!("grow: gone on");
            self.tell_left(&stream);
        }
        self.reactor.changed();
        Ok(())
    }

    /// Tells the broker of generations that nothing here holds any more. Costs a load when there are none.
    pub(crate) fn tell_left(&self, stream: &Stream) {
        for generation in stream.take_left() {
            self.answer(&ToBroker::GenerationLeft { stream: stream.id, generation });
            step!("grow: told that it was left");
        }
    }

    /// The memory of a later generation for one of this client's attachments.
    pub(crate) fn succeeded(&self, inbound: &mut Inbound, frame: &tramline_wire::Successor) -> Result<()> {
        let attach = frame.attach;
        step!("succeed: asked");
        let Some(memory) = inbound.take_fds(1)?.and_then(|mut fds| fds.next()) else {
            self.cannot_take(inbound, attach);
            return Ok(());
        };
        let mut session = lock(&self.session);
        let Some(reading) = session.readings.get_mut(&attach) else {
            drop(session);
            self.answer(&ToBroker::Detach { attach, code: 0 });
            return Ok(());
        };
        reading.generation = frame.generation;
        let (inbox, token, stream) = (Arc::clone(&reading.inbox), reading.token, reading.stream);
        drop(session);
        let Geometry { descriptors, arena_bytes } = frame.geometry;
        let identity = RingIdentity { stream, generation: frame.generation, descriptors, arena_bytes };
        match Successor::open(memory, &identity) {
            Ok(next) => {
                step!("succeed: mapped");
                inbound.add(&inbox, Item::Successor(token, Box::new(next)));
                self.answer(&ToBroker::Attached { attach });
                step!("succeed: confirmed");
            }
            Err(error) => {
                lock(&self.session).readings.remove(&attach);
                self.refuse(attach, ring_code(&error));
                inbound.add(&inbox, Item::Detached { token, gone: false });
                inbound.add(&inbox, Item::Fault(Box::new(error.into())));
            }
        }
        Ok(())
    }

    /// What tells the broker that a reader holds nothing of a generation any more.
    pub(crate) fn on_let_go(&self, attach: u64, token: u64) -> Arc<dyn Fn(u32) + Send + Sync> {
        let weak = self.weak.clone();
        Arc::new(move |generation| {
            let Some(shared) = weak.upgrade() else { return };
            let session = lock(&shared.session);
            let current = session.readings.get(&attach).is_some_and(|reading| reading.token == token);
            drop(session);
            if current {
                shared.answer(&ToBroker::Released { attach, generation });
                step!("succeed: told that it was let go");
            }
        })
    }
}

/// A generation that takes a message of `bytes`: at least twice as large as this one if that is granted, else as large as it
/// must be, and never smaller than this one, so that loans which are out keep their room.
fn larger(spec: &RingSpec, bytes: u64, messages: u32, ring_bytes_max: u64) -> Result<RingSpec> {
    let rounded = bytes.checked_next_power_of_two().unwrap_or(bytes);
    let few = messages.min(MESSAGES);
    let asked = if bytes.saturating_mul(messages.into()) <= ASKED_BYTES_MAX { messages } else { few };
    let wishes = [(bytes, asked), (rounded, few), (bytes, few), (bytes, 1)];
    let mut least = u64::MAX;
    for (at, (bytes, messages)) in wishes.into_iter().enumerate() {
        let Ok(sized) = RingSpec::sized(spec.stream, bytes, messages) else { continue };
        let floor = if at == 3 { spec.arena_bytes } else { spec.arena_bytes.saturating_mul(2) };
        let arena_bytes = sized.arena_bytes.max(floor);
        let descriptors = spec.descriptors.max(sized.descriptors);
        let next = RingSpec { arena_bytes, descriptors, ..*spec };
        match next.memory_bytes() {
            Ok(memory) if memory <= ring_bytes_max => return Ok(next),
            Ok(memory) => least = memory,
            Err(_) => {}
        }
    }
    let limit = Limit { name: "limits.ring_bytes_max".to_owned(), value: ring_bytes_max, used: least };
    Err(Error::Limit { limit: Box::new(limit) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: RingSpec = RingSpec {
        stream: 7,
        generation: 0,
        descriptors: 256,
        arena_bytes: 256 * 1024,
        first_position: 0,
        first_seq: 1,
    };

    #[test]
    fn a_ring_grows_to_twice_its_size_and_within_its_limit() {
        let grown = |bytes, messages, max| larger(&SPEC, bytes, messages, max);
        // Twice as large, though less would do.
        assert_eq!(grown(300 * 1024, 1, u64::MAX).unwrap().arena_bytes, 2 * SPEC.arena_bytes);
        let four = grown(1 << 20, 4, u64::MAX).unwrap();
        assert!(four.arena_bytes >= 4 << 20 && four.descriptors == 256);
        // As many as were asked for, unless they are too many.
        assert!(grown(1 << 20, 16, u64::MAX).unwrap().arena_bytes >= 16 << 20);
        let within = grown(1 << 20, 16, 6 << 20).unwrap();
        assert!((4 << 20..6 << 20).contains(&within.arena_bytes));
        assert!((1 << 20..2 << 20).contains(&grown(1 << 20, 16, 2 << 20).unwrap().arena_bytes));
        let Err(Error::Limit { limit }) = grown(3 << 20, 1, 2 << 20) else { panic!() };
        assert_eq!((&*limit.name, limit.value), ("limits.ring_bytes_max", 2 << 20));
        assert!(limit.used > 3 << 20);
    }
}
