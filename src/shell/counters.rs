//! What only shared memory knows about rings and readers, read when somebody asks for the broker's status.
//!
//! The data path keeps its counters where it writes anyway, so watching costs it nothing. What a ring or page
//! says is its owner's claim: it is shown, and nothing depends on it.

use super::broker::State;
use super::clock;
use super::descriptors::Descriptors;
use crate::core::FdId;
use crate::core::snapshot::{
    QueueStatus, ReaderStatus, RingCounts, RingPart, RingStatus, Snapshot, StreamStatus,
};
use std::collections::HashMap;
use tramline_ring::{Counters as Header, Observer, PageObserver, RingIdentity};

/// Mappings of rings and pages, made when they are first asked for.
#[derive(Debug, Default)]
pub(super) struct Counters {
    rings: HashMap<FdId, Watched, foldhash::fast::RandomState>,
    pages: HashMap<FdId, Option<PageObserver>, foldhash::fast::RandomState>,
    /// When queues were last looked at (nanoseconds), and the messages taken in and given out then.
    queues: HashMap<String, (u64, u64, u64), foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct Watched {
    /// None if the memory cannot be mapped.
    observer: Option<Observer>,
    /// When its stream was last looked at (nanoseconds), and the messages and bytes then.
    last: Option<(u64, u64, u64)>,
}

/// What a header counts that is added up over generations and streams.
pub(super) fn counts(header: &Header) -> RingCounts {
    let Header { messages, bytes, skipped, waits, .. } = *header;
    RingCounts { messages, bytes, dropped: skipped, waits }
}

fn per_second(count: u64, before: u64, now: u64, since: u64) -> f64 {
    let seconds = now.saturating_sub(since) as f64 / 1e9;
    if seconds > 0.0 { count.saturating_sub(before) as f64 / seconds } else { 0.0 }
}

impl Counters {
    /// The memory behind this descriptor is no longer the core's.
    pub(super) fn forget(&mut self, fd: FdId) {
        self.rings.remove(&fd);
        self.pages.remove(&fd);
    }

    /// What went through a generation.
    pub(super) fn count(&mut self, stream: u64, part: &RingPart, descriptors: &Descriptors) -> RingCounts {
        let observer = &self.watched(stream, part, descriptors).observer;
        observer.as_ref().map(|ring| counts(&ring.counters())).unwrap_or_default()
    }

    fn watched(&mut self, stream: u64, part: &RingPart, descriptors: &Descriptors) -> &mut Watched {
        let RingPart { memory, generation, geometry: size, .. } = *part;
        let (count, arena_bytes) = (size.descriptors, size.arena_bytes);
        let identity = RingIdentity { stream, generation, descriptors: count, arena_bytes };
        self.rings.entry(memory).or_insert_with(|| Watched {
            observer: descriptors
                .get(memory)
                .and_then(|memory| Observer::new(memory.as_ref(), &identity).ok()),
            last: None,
        })
    }

    /// Fills in what a stream's rings and readers say. What of that is not in the counts of its topic yet.
    fn fill(&mut self, stream: &mut StreamStatus, descriptors: &Descriptors, now: u64) -> RingCounts {
        let (mut all, mut uncounted) = (stream.counted, RingCounts::default());
        let (mut depth, mut next_seq) = (None, 0);
        for part in &stream.parts {
            let watched = self.watched(stream.stream, part, descriptors);
            let Some(header) = watched.observer.as_ref().map(Observer::counters) else { continue };
            all.add(counts(&header));
            uncounted.add(counts(&header).since(part.before));
            depth = Some(header.kept);
            next_seq = header.next_seq.max(next_seq);
        }
        let (Some(depth), Some(current)) = (depth, stream.parts.last()) else { return uncounted };
        let watched = self.watched(stream.stream, current, descriptors);
        let last = watched.last.replace((now, all.messages, all.bytes));
        let rate = |count, before, since| per_second(count, before, now, since);
        stream.ring = Some(RingStatus {
            counts: all,
            depth,
            messages_per_second: last.map_or(0.0, |(since, before, _)| rate(all.messages, before, since)),
            bytes_per_second: last.map_or(0.0, |(since, _, before)| rate(all.bytes, before, since)),
        });
        for reader in &mut stream.readers {
            self.fill_reader(reader, next_seq, descriptors);
        }
        uncounted
    }

    /// Fills in how much goes through queues now. Those that have gone are forgotten.
    fn fill_queues(&mut self, queues: &mut [QueueStatus], now: u64) {
        let before = std::mem::take(&mut self.queues);
        for queue in queues {
            let (pushed, delivered) = (queue.counts.pushed, queue.counts.delivered);
            if let Some((since, pushed_then, delivered_then)) = before.get(&queue.queue).copied() {
                queue.pushed_per_second = per_second(pushed, pushed_then, now, since);
                queue.delivered_per_second = per_second(delivered, delivered_then, now, since);
            }
            self.queues.insert(queue.queue.clone(), (now, pushed, delivered));
        }
    }

    fn fill_reader(&mut self, reader: &mut ReaderStatus, next_seq: u64, descriptors: &Descriptors) {
        let Some(place) = reader.page else { return };
        let page = self.pages.entry(place.memory).or_insert_with(|| {
            let memory = descriptors.get(place.memory)?;
            PageObserver::new(memory.as_ref(), place.first_slot, place.slots).ok()
        });
        let Some(slot) = page.as_ref().and_then(|page| page.slot(place.slot)) else { return };
        reader.lag = Some(next_seq.saturating_sub(slot.seq.saturating_add(1)));
        reader.lost = Some(slot.lost);
        reader.pinned = Some(slot.pinned);
    }
}

impl State {
    /// What the broker is and does now, with what the rings say.
    pub(super) fn snapshot(&mut self) -> Snapshot {
        let now = clock::now();
        let mut snapshot = self.core.snapshot(now);
        let Snapshot { streams, topics, totals, queues, .. } = &mut snapshot;
        self.counters.fill_queues(queues, now.monotonic);
        for stream in streams {
            let uncounted = self.counters.fill(stream, &self.descriptors, now.monotonic);
            totals.rings.add(uncounted);
            if let Ok(place) = topics.binary_search_by(|topic| topic.topic.cmp(&stream.topic)) {
                topics[place].rings.add(uncounted);
            }
        }
        snapshot
    }
}
