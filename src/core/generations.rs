//! Growth: a stream goes on in another generation, and what becomes of the memory of earlier ones.
//!
//! ```text
//! GrowStream ─► checked by the shell ─► Successor to each reader that was admitted ─► StreamGrown to the publisher
//! ```
//!
//! From `StreamGrown` on the publisher writes to the new generation. It is sent when every reader has confirmed the new
//! memory, or did not within the attach timeout: so a broker that dies on the way takes no message with it. A reader
//! that was asked for before that frame is admitted to the earlier generation, gets that one's memory and then the
//! later ones. An earlier generation's descriptor is closed when nobody can be given it any more and its publisher, who
//! counts in it, has left it; its bytes stay counted until the publisher and everyone who was given it have let go.

use super::attachment::{Attachment, Stage as Attaching};
use super::broker::Core;
use super::native::Violation;
use super::quota::{Checked, Refused, allows, fits};
use super::rings::{Stage, Stream, ring_bytes};
use super::snapshot::{RingCounts, RingPart};
use super::table::Key;
use super::timers::{MILLI, Timer};
use super::{Action, FdId, Now};
use std::collections::{BTreeSet, VecDeque};
use tramline_wire::limits::STREAM_GENERATIONS_MAX;
use tramline_wire::{Code, Geometry, GrowStream, Successor, ToClient};

/// A generation to come.
#[derive(Debug)]
pub(super) struct Growth {
    pub(super) req: u32,
    generation: u32,
    geometry: Geometry,
    pub(super) memory: FdId,
    pub(super) bytes: u64,
}

/// A generation that is on its way to readers, of which the publisher has not been told.
#[derive(Debug)]
pub(super) struct Handing {
    req: u32,
    deadline: u64,
    awaited: BTreeSet<u64>,
}

/// An earlier generation.
#[derive(Debug)]
pub(super) struct Former {
    pub(super) generation: u32,
    geometry: Geometry,
    /// Until nobody can be given it any more.
    pub(super) memory: Option<FdId>,
    pub(super) bytes: u64,
    /// What it had counted when it came.
    before: RingCounts,
    /// Whether the publisher has it mapped.
    publisher: bool,
}

impl Former {
    /// Its memory, if it is still here.
    pub(super) fn part(&self) -> Option<RingPart> {
        let Self { generation, geometry, before, .. } = *self;
        Some(RingPart { memory: self.memory?, generation, geometry, before })
    }
}

/// An attachment's share of a stream's generations.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// The generation that was current when its publisher was asked.
    asked: u32,
    /// What it is still to be given, in order.
    owed: VecDeque<u32>,
    /// What it was given and has not let go.
    held: BTreeSet<u32>,
}

impl Share {
    /// The publisher is asked while this generation is current.
    pub(super) fn asked(&mut self, generation: u32) {
        self.asked = generation;
    }

    /// The publisher admitted it in this generation: it is to be given that one and all later ones. `false`: that cannot be.
    pub(super) fn admitted(&mut self, stream: &Stream, generation: u32) -> bool {
        let formers = stream.formers.iter().map(|former| former.generation);
        let from = formers.chain([stream.generation]).filter(|known| *known >= generation);
        self.owed = from.collect();
        generation >= self.asked && self.owed.front() == Some(&generation)
    }

    /// The share of a reader from before, which has the memory up to this generation. `None`: that cannot be.
    pub(super) fn adopted(stream: &Stream, generation: u32) -> Option<Self> {
        let mut share = Self { asked: stream.generation, ..Self::default() };
        if generation < stream.generation {
            share.owed.push_back(stream.generation);
        }
        share.held.insert(generation);
        (generation <= stream.generation).then_some(share)
    }

    /// Whether it is still to be given something.
    pub(super) fn is_owed(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Takes the next generation that it is to be given.
    pub(super) fn hand_next(&mut self, stream: &Stream) -> Option<(u32, Geometry, FdId)> {
        let generation = self.owed.pop_front()?;
        self.held.insert(generation);
        if generation == stream.generation {
            return Some((generation, stream.geometry, stream.memory));
        }
        let former = stream.formers.iter().find(|former| former.generation == generation)?;
        Some((generation, former.geometry, former.memory?))
    }
}

impl Stream {
    /// The generation that its publisher writes to, as far as the broker has told it: number, size, memory, bytes.
    pub(super) fn written(&self) -> (u32, Geometry, FdId, u64) {
        let earlier = self.formers.iter().find(|former| former.generation == self.told);
        let earlier =
            earlier.and_then(|each| Some((each.generation, each.geometry, each.memory?, each.bytes)));
        earlier.unwrap_or((self.generation, self.geometry, self.memory, self.memory_bytes))
    }
}

impl Attachment {
    /// Whether a later generation is to be sent to its subscriber now.
    pub(super) fn wants_successor(&self) -> bool {
        let reads = matches!(self.stage, Attaching::Attaching | Attaching::Attached);
        reads && self.share.is_owed() && self.subscriber_fds == 0
    }

    /// Whether it may still be given this generation.
    fn may_want(&self, generation: u32) -> bool {
        (self.stage == Attaching::Admitting && self.share.asked <= generation)
            || self.share.owed.contains(&generation)
    }
}

impl Core {
    /// Takes another generation of a stream in, or refuses it. The descriptor is kept already, once.
    pub(super) fn grow_stream(
        &mut self,
        key: Key,
        frame: &GrowStream,
        memory: FdId,
    ) -> Result<Checked<()>, Violation> {
        let Some(stream) = self.streams.by_id.get(&frame.stream).filter(|stream| stream.session == key)
        else {
            let message = format!("this client has no stream {:016x} open", frame.stream);
            return Err(Violation::new(Code::BadId, message));
        };
        if frame.req == 0 {
            return Err(Violation::new(Code::BadId, "the number of a request must not be 0"));
        }
        let busy = stream.growth.is_some() || stream.handing.is_some();
        if stream.stage != Stage::Open || busy || frame.generation <= stream.generation {
            let message = format!(
                "generation {} of stream {:016x}: the stream must be open and in an earlier generation (it is in {}), and \
                 one is announced at a time",
                frame.generation, frame.stream, stream.generation
            );
            return Err(Violation::new(Code::OutOfOrder, message));
        }
        Ok(self.take_growth(frame, memory))
    }

    fn take_growth(&mut self, frame: &GrowStream, memory: FdId) -> Checked<()> {
        let Some(bytes) = ring_bytes(frame.geometry) else {
            let Geometry { descriptors, arena_bytes } = frame.geometry;
            let message = format!("a ring of {descriptors} descriptors and {arena_bytes} bytes cannot be");
            return Err(Refused::new(Code::Malformed, message));
        };
        self.make_room_for_ring(bytes);
        let limits = &self.limits;
        allows("ring_bytes_max", "bytes for a ring", limits.ring_bytes_max, bytes)?;
        let Some(stream) = self.streams.by_id.get_mut(&frame.stream) else { return Ok(()) };
        // Whoever has lost its access must not go on reading because memory is scarce.
        if !stream.renewing || bytes > stream.memory_bytes {
            fits("rings_bytes_max", "bytes of rings", limits.rings_bytes_max, self.streams.bytes, bytes)?;
        }
        let used = stream.formers.len() as u64 + 1;
        if used >= STREAM_GENERATIONS_MAX.into() {
            let message = format!(
                "{used} generations of this stream are in use, because subscribers hold messages of earlier ones; \
                 STREAM_GENERATIONS_MAX is {STREAM_GENERATIONS_MAX}"
            );
            let limit = Some(("STREAM_GENERATIONS_MAX", STREAM_GENERATIONS_MAX.into(), used + 1));
            return Err(Refused { code: Code::LimitReached, message, limit });
        }
        let GrowStream { req, generation, geometry, .. } = *frame;
        stream.growth = Some(Growth { req, generation, geometry, memory, bytes });
        self.streams.bytes += bytes;
        self.keep_fd(memory);
        self.actions.push_back(Action::VerifyRing { stream: frame.stream, memory, generation, geometry });
        Ok(())
    }

    /// The shell has checked the memory of a generation, a stream's first or a later one.
    pub(super) fn generation_verified(
        &mut self,
        id: u64,
        generation: u32,
        result: Result<RingCounts, String>,
        now: Now,
    ) {
        let Some(stream) = self.streams.by_id.get_mut(&id) else { return };
        if stream.generation == generation {
            return self.stream_verified(id, result, now);
        }
        let Some(growth) = stream.growth.take_if(|growth| growth.generation == generation) else { return };
        let (session, is_open) = (stream.session, stream.stage == Stage::Open);
        match result {
            Ok(_) if is_open => return self.grow(id, growth, now),
            Err(reason) if is_open => {
                let message = format!("generation {generation} of stream {id:016x} is refused: {reason}");
                self.refuse(session, growth.req, &Refused::new(Code::BadDescriptor, message));
            }
            // Its publisher was answered when it closed the stream, or has gone.
            _ => {}
        }
        self.streams.bytes -= growth.bytes;
        self.release_fd(growth.memory);
    }

    /// The stream goes on in a generation that was checked.
    fn grow(&mut self, id: u64, growth: Growth, now: Now) {
        let Some(stream) = self.streams.by_id.get_mut(&id) else { return };
        let Growth { req, generation, geometry, memory, bytes } = growth;
        stream.formers.push(Former {
            generation: std::mem::replace(&mut stream.generation, generation),
            geometry: std::mem::replace(&mut stream.geometry, geometry),
            memory: Some(std::mem::replace(&mut stream.memory, memory)),
            bytes: std::mem::replace(&mut stream.memory_bytes, bytes),
            before: std::mem::take(&mut stream.before),
            publisher: true,
        });
        // Whoever has lost its access is not among those it is given to.
        stream.renewing = false;
        let attachments: Vec<u64> = stream.attachments.iter().copied().collect();
        let mut awaited = BTreeSet::new();
        for attach in attachments {
            let Some(attachment) = self.attachments.get_mut(&attach) else { continue };
            if attachment.stage.is_reading() {
                attachment.share.owed.push_back(generation);
                if !attachment.proxy {
                    awaited.insert(attach);
                }
                self.hand_on(attach);
            }
        }
        let deadline = now.monotonic + u64::from(self.limits.attach_timeout_millis) * MILLI;
        self.timers.set(deadline, Timer::Growth(id));
        if let Some(stream) = self.streams.by_id.get_mut(&id) {
            stream.handing = Some(Handing { req, deadline, awaited });
        }
        self.tell_grown(id, false);
        self.settle_formers(id);
    }

    /// A reader has confirmed all that it was given, or has gone.
    pub(super) fn growth_confirmed(&mut self, id: u64, attach: u64) {
        let handing = self.streams.by_id.get_mut(&id).and_then(|stream| stream.handing.as_mut());
        if handing.is_some_and(|handing| handing.awaited.remove(&attach)) {
            self.tell_grown(id, false);
        }
    }

    /// Lets the publisher go on in the new generation, if nobody is awaited or it is `due`.
    pub(super) fn tell_grown(&mut self, id: u64, due: bool) {
        let Some(stream) = self.streams.by_id.get_mut(&id).filter(|stream| stream.stage == Stage::Open)
        else {
            return;
        };
        let told = stream.handing.take_if(|handing| due || handing.awaited.is_empty());
        let Some(Handing { req, deadline, .. }) = told else { return };
        stream.told = stream.generation;
        let (session, generation, renewing) = (stream.session, stream.generation, stream.renewing);
        self.timers.cancel(deadline, Timer::Growth(id));
        self.answer(session, &ToClient::StreamGrown { req, stream: id, generation });
        if renewing {
            // This generation was handed to somebody who has lost its access since.
            self.send_control(session, &ToClient::Renew { stream: id });
        }
        self.settle_formers(id);
    }

    /// A stream that has ended grows no more.
    pub(super) fn stop_handing(&mut self, id: u64) {
        let handing = self.streams.by_id.get_mut(&id).and_then(|stream| stream.handing.take());
        if let Some(Handing { deadline, .. }) = handing {
            self.timers.cancel(deadline, Timer::Growth(id));
        }
    }

    /// Hands over the next generation, if there is one and the last was confirmed.
    pub(super) fn hand_on(&mut self, attach: u64) {
        let Some(attachment) = self.attachments.get_mut(&attach).filter(|each| each.wants_successor()) else {
            return;
        };
        if !attachment.proxy {
            return self.want_fds(attach);
        }
        let stream = attachment.stream;
        let Some(known) = self.streams.by_id.get(&stream) else { return };
        while let Some((generation, geometry, memory)) = attachment.share.hand_next(known) {
            self.actions.push_back(Action::ProxySuccessor { attach, memory, generation, geometry });
        }
        self.settle_formers(stream);
    }

    pub(super) fn send_successor(&mut self, attach: u64) {
        let Some(attachment) = self.attachments.get_mut(&attach) else { return };
        let Some(stream) = self.streams.by_id.get(&attachment.stream) else { return };
        let Some((generation, geometry, memory)) = attachment.share.hand_next(stream) else { return };
        attachment.subscriber_fds = 1;
        let (subscriber, stream) = (attachment.subscriber, attachment.stream);
        let frame = Successor { attach, generation, geometry, fds: 1 };
        self.send_with_fds(subscriber, &ToClient::Successor(frame), &[memory]);
        self.end_if_all_handed(attach);
        self.settle_formers(stream);
    }

    /// A stream that has ended meanwhile is over for this reader once all of its memory is on the way.
    pub(super) fn end_if_all_handed(&mut self, attach: u64) {
        let Some(attachment) = self.attachments.get(&attach).filter(|each| !each.share.is_owed()) else {
            return;
        };
        let (subscriber, Some(code)) = (attachment.subscriber, attachment.ended) else { return };
        self.send_control(subscriber, &ToClient::Detach { attach, code });
        self.remove_attachment(attach);
    }

    /// A subscriber holds nothing of a generation any more.
    pub(super) fn released(&mut self, key: Key, attach: u64, generation: u32) -> Result<(), Violation> {
        let Some(attachment) = self.attachments.get_mut(&attach) else {
            return self.late_or_false(key, attach);
        };
        if attachment.subscriber != key || attachment.proxy {
            return Err(Self::foreign(attach));
        }
        attachment.share.held.remove(&generation);
        let stream = attachment.stream;
        self.settle_formers(stream);
        Ok(())
    }

    /// The shell holds nothing of the generations before this one.
    pub(super) fn released_below(&mut self, attach: u64, generation: u32) {
        let Some(attachment) = self.attachments.get_mut(&attach) else { return };
        attachment.share.held.retain(|held| *held >= generation);
        let stream = attachment.stream;
        self.settle_formers(stream);
    }

    /// A publisher holds nothing of an earlier generation any more.
    pub(super) fn generation_left(&mut self, key: Key, id: u64, generation: u32) -> Result<(), Violation> {
        let own = self.streams.by_id.get_mut(&id).filter(|stream| stream.session == key);
        // What a stream's end has overtaken is late, not false.
        let Some(stream) = own else { return Ok(()) };
        if generation >= stream.generation {
            let message = format!("stream {id:016x} is in generation {}, not beyond it", stream.generation);
            return Err(Violation::new(Code::FalseClaim, message));
        }
        let former = stream.formers.iter_mut().find(|former| former.generation == generation);
        if let Some(former) = former {
            former.publisher = false;
        }
        self.settle_formers(id);
        Ok(())
    }

    /// Closes and stops counting what nobody needs or has any more.
    pub(super) fn settle_formers(&mut self, id: u64) {
        let Some(stream) = self.streams.by_id.get_mut(&id).filter(|stream| !stream.formers.is_empty()) else {
            return;
        };
        let mut formers = std::mem::take(&mut stream.formers);
        let (told, topic, is_open) = (stream.told, stream.topic, stream.stage == Stage::Open);
        let readers = || stream.attachments.iter().filter_map(|attach| self.attachments.get(attach));
        let (mut closed, mut freed) = (Vec::new(), 0);
        formers.retain_mut(|former| {
            let generation = former.generation;
            // Whoever is asked for before the publisher goes on is admitted where it is still.
            let is_written = generation == told;
            if !is_written && !former.publisher && !readers().any(|reader| reader.may_want(generation)) {
                closed.extend(former.part());
                former.memory = None;
            }
            let in_use = former.memory.is_some()
                || former.publisher
                || readers().any(|reader| reader.share.held.contains(&generation));
            freed += if in_use { 0 } else { former.bytes };
            in_use
        });
        stream.formers = formers;
        self.streams.bytes -= freed;
        for part in closed {
            // Those of a stream that has ended were counted then.
            if is_open {
                self.count_part(id, topic, part);
            }
            self.release_fd(part.memory);
        }
    }
}
