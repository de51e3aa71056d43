//! Streams: who declared which ring on which topic, its memory, and when it counts as open.
//!
//! A stream comes with one memfd, which the shell verifies off the core's thread. Then it is offered to every
//! subscription that matches (`attachments`), and its publisher is answered once those present then are
//! admitted, or the attach timeout has passed. The broker keeps the memory's descriptor while the stream
//! lives, and never looks into it.

use super::broker::Core;
use super::generations::{Former, Growth, Handing};
use super::native::Violation;
use super::quota::{Checked, Refused, allows, fits};
use super::snapshot::{RingCounts, RingPart};
use super::table::Key;
use super::timers::{MILLI, Timer};
use super::{Action, FdId, Now, SessionId};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use tramline_wire::{Code, GatedBy, Geometry, Mode, OpenStream, ToClient, Topic};

/// Bytes of a ring's header.
const HEADER_BYTES: u64 = 4096;

/// Bytes of one descriptor.
const DESCRIPTOR_BYTES: u64 = 64;

/// Size of a page, of which an arena is a multiple.
const PAGE_BYTES: u64 = 4096;

/// The exact memory of a ring, in bytes, if its geometry is possible.
pub(crate) fn ring_bytes(geometry: Geometry) -> Option<u64> {
    let Geometry { descriptors, arena_bytes } = geometry;
    if !descriptors.is_power_of_two() || arena_bytes == 0 || !arena_bytes.is_multiple_of(PAGE_BYTES) {
        return None;
    }
    let table = (u64::from(descriptors) * DESCRIPTOR_BYTES).next_multiple_of(PAGE_BYTES);
    arena_bytes.checked_add(HEADER_BYTES + table)
}

/// How far a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The shell checks its memory.
    Verifying,
    Open,
    /// Ended with this code, kept until its memory has gone out to all who were admitted.
    Ended(u16),
}

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) session: Key,
    pub(super) publisher: SessionId,
    pub(super) topic: Key,
    pub(super) generation: u32,
    pub(super) geometry: Geometry,
    pub(super) memory: FdId,
    pub(super) memory_bytes: u64,
    pub(super) first_seq: u64,
    pub(super) gated_by: GatedBy,
    pub(super) stage: Stage,
    /// The request to be answered, and until when.
    pub(super) request: Option<(u32, u64)>,
    /// Attachments the answer waits for.
    pub(super) awaited: u32,
    /// Readers admitted so far.
    pub(super) admitted: u32,
    pub(super) attachments: BTreeSet<u64>,
    /// A generation that was announced and is being checked.
    pub(super) growth: Option<Growth>,
    /// The current generation, while it is on its way to readers.
    pub(super) handing: Option<Handing>,
    /// The generation that its publisher was told to go on in last.
    pub(super) told: u32,
    /// Whether it is to go on in another generation because a reader has lost its access.
    pub(super) renewing: bool,
    /// Earlier generations that somebody may still have mapped.
    pub(super) formers: Vec<Former>,
    /// What the current generation had counted when it came.
    pub(super) before: RingCounts,
    /// What went through generations that are over.
    pub(super) counted: RingCounts,
}

impl Stream {
    /// The memory of all its generations.
    pub(super) fn all_bytes(&self) -> u64 {
        let growth = self.growth.as_ref().map_or(0, |growth| growth.bytes);
        self.memory_bytes + growth + self.formers.iter().map(|former| former.bytes).sum::<u64>()
    }

    /// The memory of its generations that is still here, the current one last.
    pub(super) fn parts(&self) -> Vec<RingPart> {
        let Self { generation, geometry, memory, before, .. } = *self;
        let current = RingPart { memory, generation, geometry, before };
        self.formers.iter().filter_map(Former::part).chain([current]).collect()
    }
}

/// Streams and what they use.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) by_id: BTreeMap<u64, Stream>,
    /// Memory of all of them.
    pub(super) bytes: u64,
    /// How many frames, queues and streams refer to a descriptor that the core was given.
    pub(super) descriptors: BTreeMap<FdId, u32>,
}

impl Core {
    /// One more reason to keep a descriptor.
    pub(super) fn keep_fd(&mut self, fd: FdId) {
        *self.streams.descriptors.entry(fd).or_default() += 1;
    }

    /// One reason less; without any, the shell closes it.
    pub(super) fn release_fd(&mut self, fd: FdId) {
        let Some(count) = self.streams.descriptors.get_mut(&fd) else { return };
        *count -= 1;
        if *count == 0 {
            self.streams.descriptors.remove(&fd);
            self.actions.push_back(Action::CloseFd(fd));
        }
    }

    /// Takes a declared stream in, or refuses it. The descriptor is kept already, once.
    pub(super) fn open_stream(
        &mut self,
        key: Key,
        frame: &OpenStream,
        memory: FdId,
        now: Now,
    ) -> Result<Checked<()>, Violation> {
        if frame.req == 0 || frame.stream == 0 {
            return Err(Violation::new(Code::BadId, "a stream's id and its request's number must not be 0"));
        }
        let topic = self.alias_topic(key, frame.alias)?;
        Ok(self.take_stream(key, frame, topic, memory, now))
    }

    fn take_stream(
        &mut self,
        key: Key,
        frame: &OpenStream,
        topic: Key,
        memory: FdId,
        now: Now,
    ) -> Checked<()> {
        let Some(memory_bytes) = ring_bytes(frame.geometry) else {
            let Geometry { descriptors, arena_bytes } = frame.geometry;
            return Err(Refused::new(
                Code::Malformed,
                format!(
                    "a ring of {descriptors} descriptors and {arena_bytes} bytes: the first must be a power of two, \
                     the second a multiple of {PAGE_BYTES}"
                ),
            ));
        };
        self.make_room_for_ring(memory_bytes);
        self.stream_fits(key, memory_bytes)?;
        if self.streams.by_id.contains_key(&frame.stream) {
            let message = format!("a stream {:016x} is open already; ids are chosen at random", frame.stream);
            return Err(Refused::new(Code::BadId, message));
        }
        let own = |id: &&u64| {
            self.streams.by_id.get(id).is_some_and(|each| each.session == key && each.topic == topic)
        };
        let Some(entry) = self.topics.get(topic) else { return Ok(()) };
        if entry.streams.iter().any(|id| own(&id)) {
            let message = format!("this client has a stream on {} already", entry.name);
            return Err(Refused::new(Code::StreamExists, message));
        }
        let name = entry.name.clone();
        let readers = Topic::parse(&name).map_or(0, |topic| self.topics.count_matches(topic));
        self.attachments_fit(readers)?;
        let Some(session) = self.sessions.get_mut(key) else { return Ok(()) };
        session.streams.insert(frame.stream);
        let publisher = session.id;
        let gated_by = self.gated_by(topic, frame.gated_by);
        let deadline = now.monotonic + u64::from(self.limits.attach_timeout_millis) * MILLI;
        if let Ok(topic) = Topic::parse(&name) {
            self.topics.take(topic);
        }
        if let Some(entry) = self.topics.get_mut(topic) {
            entry.streams.push(frame.stream);
        }
        self.keep_fd(memory);
        self.streams.bytes += memory_bytes;
        self.streams.by_id.insert(
            frame.stream,
            Stream {
                session: key,
                publisher,
                topic,
                generation: frame.generation,
                geometry: frame.geometry,
                memory,
                memory_bytes,
                first_seq: frame.first_seq,
                gated_by,
                stage: Stage::Verifying,
                request: Some((frame.req, deadline)),
                awaited: 0,
                admitted: 0,
                attachments: BTreeSet::new(),
                growth: None,
                handing: None,
                told: frame.generation,
                formers: Vec::new(),
                renewing: false,
                before: RingCounts::default(),
                counted: RingCounts::default(),
            },
        );
        self.actions.push_back(Action::VerifyRing {
            stream: frame.stream,
            memory,
            generation: frame.generation,
            geometry: frame.geometry,
        });
        Ok(())
    }

    fn stream_fits(&self, key: Key, bytes: u64) -> Checked<()> {
        let limits = &self.limits;
        let own = self.sessions.get(key).map_or(0, |session| session.streams.len() as u64);
        let all = self.streams.by_id.len() as u64;
        fits("session_streams_max", "streams of this client", limits.session_streams_max.into(), own, 1)?;
        fits("streams_max", "streams", limits.streams_max.into(), all, 1)?;
        allows("ring_bytes_max", "bytes for a ring", limits.ring_bytes_max, bytes)?;
        fits("rings_bytes_max", "bytes of rings", limits.rings_bytes_max, self.streams.bytes, bytes)
    }

    /// Whether this many attachments more are within the limit.
    pub(super) fn attachments_fit(&self, more: usize) -> Checked<()> {
        let used = self.attachments.len() as u64;
        fits("attachments_max", "attachments", self.limits.attachments_max.into(), used, more as u64)
    }

    /// The shell has checked a stream's memory.
    pub(super) fn stream_verified(&mut self, id: u64, result: Result<RingCounts, String>, now: Now) {
        let Some(stream) = self.streams.by_id.get_mut(&id).filter(|each| each.stage == Stage::Verifying)
        else {
            return;
        };
        let (session, topic) = (stream.session, stream.topic);
        let Some((req, _)) = stream.request else { return };
        let matches = self.topics.take_matches(topic);
        let refused = match &result {
            Err(reason) => Some(Refused::new(
                Code::BadDescriptor,
                format!("the ring of stream {id:016x} is refused: {reason}"),
            )),
            // The table may have changed since the stream was declared.
            Ok(_) => self.attachments_fit(matches.len()).err(),
        };
        if let Some(refused) = refused {
            self.topics.give_back(topic, matches);
            self.refuse(session, req, &refused);
            return self.forget_stream(id);
        }
        let deadline = now.monotonic + u64::from(self.limits.attach_timeout_millis) * MILLI;
        if let Some(stream) = self.streams.by_id.get_mut(&id) {
            stream.stage = Stage::Open;
            stream.before = result.unwrap_or_default();
            stream.request = Some((req, deadline));
        }
        self.timers.set(deadline, Timer::Stream(id));
        self.retained_goes_on(id, topic);
        self.totals.streams_opened += 1;
        for subscription in &matches {
            self.offer(id, *subscription, true, false);
        }
        self.topics.give_back(topic, matches);
        self.event("$tramline.stream.opened", |core| core.describe_stream(id));
        self.answer_open(id);
    }

    /// Answers `OpenStream` if nothing is awaited any more.
    pub(super) fn answer_open(&mut self, id: u64) {
        if self.streams.by_id.get(&id).is_some_and(|stream| stream.awaited == 0) {
            self.stream_is_due(id);
        }
    }

    /// Answers `OpenStream` with the readers there are.
    pub(super) fn stream_is_due(&mut self, id: u64) {
        let Some(stream) = self.streams.by_id.get_mut(&id).filter(|each| each.stage == Stage::Open) else {
            return;
        };
        let Some((req, deadline)) = stream.request.take() else { return };
        let (session, readers, pending) = (stream.session, stream.admitted, stream.awaited);
        self.timers.cancel(deadline, Timer::Stream(id));
        self.answer(session, &ToClient::StreamOpened { req, stream: id, readers, pending });
    }

    /// A publisher closes a stream: answers what it has asked about it before.
    pub(super) fn answer_before_closing(&mut self, id: u64) {
        self.stream_is_due(id);
        self.tell_grown(id, true);
        let Some(stream) = self.streams.by_id.get(&id) else { return };
        let session = stream.session;
        let opening = stream.request.map(|(req, _)| req);
        let growing = stream.growth.as_ref().map(|growth| growth.req);
        for req in opening.into_iter().chain(growing) {
            let message = format!("stream {id:016x} was closed before its memory had been checked");
            self.refuse(session, req, &Refused::new(Code::OutOfOrder, message));
        }
    }

    /// Ends a stream: its readers read to the end of what it published.
    pub(super) fn end_stream(&mut self, id: u64, code: u16) {
        let Some(stream) = self.streams.by_id.get_mut(&id) else { return };
        if matches!(stream.stage, Stage::Ended(_)) {
            return;
        }
        let was_open = stream.stage == Stage::Open;
        if was_open {
            self.event("$tramline.stream.closed", |core| core.describe_stream(id));
        }
        let Some(stream) = self.streams.by_id.get_mut(&id) else { return };
        stream.stage = Stage::Ended(code);
        let parts = if was_open { stream.parts() } else { Vec::new() };
        let (session, topic) = (stream.session, stream.topic);
        if let Some((_, deadline)) = stream.request.take() {
            self.timers.cancel(deadline, Timer::Stream(id));
        }
        let attachments: Vec<u64> = stream.attachments.iter().copied().collect();
        self.stop_handing(id);
        if let Some(session) = self.sessions.get_mut(session) {
            session.streams.remove(&id);
        }
        if let Some(entry) = self.topics.get_mut(topic) {
            entry.streams.retain(|each| *each != id);
        }
        if was_open {
            self.retain_stream(id);
        }
        for part in parts {
            self.count_part(id, topic, part);
        }
        for attach in attachments {
            self.source_ended(attach, code);
        }
        self.end_claims_on(id, session, code);
        self.drop_if_done(id);
    }

    /// Has a generation counted that is over.
    pub(super) fn count_part(&mut self, stream: u64, topic: Key, part: RingPart) {
        if let Some(entry) = self.topics.get(topic) {
            self.actions.push_back(Action::CountRing { stream, topic: entry.name.clone(), part });
        }
    }

    /// A generation that is over was counted.
    pub(super) fn take_counts(&mut self, stream: u64, topic: &str, part: &RingPart, counts: RingCounts) {
        if let Some(stream) = self.streams.by_id.get_mut(&stream) {
            stream.counted.add(counts);
        }
        let counts = counts.since(part.before);
        self.totals.rings.add(counts);
        let known = Topic::parse(topic).ok().and_then(|topic| self.topics.find(topic));
        if let Some(entry) = known.and_then(|key| self.topics.get_mut(key)) {
            entry.rings.add(counts);
        }
    }

    /// Forgets an ended stream once nobody waits for its memory.
    pub(super) fn drop_if_done(&mut self, id: u64) {
        let Some(stream) = self.streams.by_id.get(&id) else { return };
        if matches!(stream.stage, Stage::Ended(_)) && stream.attachments.is_empty() {
            self.forget_stream(id);
        }
    }

    fn forget_stream(&mut self, id: u64) {
        let Some(stream) = self.streams.by_id.remove(&id) else { return };
        self.streams.bytes -= stream.all_bytes();
        let formers = stream.formers.iter().filter_map(|former| former.memory);
        for memory in formers.chain(stream.growth.as_ref().map(|growth| growth.memory)) {
            self.release_fd(memory);
        }
        if let Some(session) = self.sessions.get_mut(stream.session) {
            session.streams.remove(&id);
        }
        if let Some(entry) = self.topics.get_mut(stream.topic) {
            entry.streams.retain(|each| *each != id);
        }
        self.topics.release(stream.topic);
        self.release_fd(stream.memory);
    }

    /// Open streams whose topic a filter selects.
    pub(super) fn streams_of(&self, filter: tramline_wire::Filter<'_>) -> Vec<u64> {
        let open = |id: &u64| self.streams.by_id.get(id).is_some_and(|stream| stream.stage == Stage::Open);
        if filter.is_literal() {
            let topic = Topic::parse(filter.as_str()).ok().and_then(|topic| self.topics.find(topic));
            let entry = topic.and_then(|topic| self.topics.get(topic));
            return entry
                .map(|entry| entry.streams.iter().copied().filter(open).collect())
                .unwrap_or_default();
        }
        let selected = |stream: &Stream| {
            let name = self.topics.get(stream.topic).map(|entry| &*entry.name);
            name.and_then(|name| Topic::parse(name).ok()).is_some_and(|topic| filter.matches(topic))
        };
        let streams = self.streams.by_id.iter();
        streams.filter(|(id, stream)| open(id) && selected(stream)).map(|(id, _)| *id).collect()
    }

    fn describe_stream(&self, id: u64) -> serde_json::Value {
        let Some(stream) = self.streams.by_id.get(&id) else { return serde_json::Value::Null };
        let topic = self.topics.get(stream.topic).map(|entry| &*entry.name);
        json!({
            "stream": format!("{id:016x}"),
            "topic": topic,
            "session": stream.publisher,
            "readers": stream.attachments.len(),
            "memory_bytes": stream.all_bytes(),
        })
    }
}

/// The mode as people read it.
pub(super) fn mode_text(mode: Mode) -> &'static str {
    match mode {
        Mode::Gated => "gated",
        Mode::Lossy => "lossy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_to_the_page() {
        let bytes = |descriptors, arena_bytes| ring_bytes(Geometry { descriptors, arena_bytes });
        assert_eq!(bytes(256, 262_144), Some(4096 + 256 * 64 + 262_144));
        assert_eq!(bytes(1, 4096), Some(4096 + 4096 + 4096));
        assert_eq!(bytes(3, 4096), None);
        assert_eq!(bytes(0, 4096), None);
        assert_eq!(bytes(4, 100), None);
        assert_eq!(bytes(4, 0), None);
        assert_eq!(bytes(4, u64::MAX - 4095), None);
    }
}
