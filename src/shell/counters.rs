//! What only shared memory knows about rings and readers, read when somebody asks for the broker's status.
//!
//! The data path keeps its counters where it writes anyway, so watching costs it nothing. What a ring or page
//! says is its owner's claim: it is shown, and nothing depends on it.

use super::broker::State;
use super::clock;
use super::descriptors::Descriptors;
use crate::core::FdId;
use crate::core::snapshot::{ReaderStatus, RingStatus, Snapshot, StreamStatus};
use std::collections::HashMap;
use tramline_ring::{Observer, PageObserver, RingIdentity};

/// Mappings of rings and pages, made when they are first asked for.
#[derive(Debug, Default)]
pub(super) struct Counters {
    rings: HashMap<FdId, Watched, foldhash::fast::RandomState>,
    pages: HashMap<FdId, Option<PageObserver>, foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct Watched {
    /// None if the memory cannot be mapped.
    observer: Option<Observer>,
    /// When it was last looked at (nanoseconds), and the messages and bytes then.
    last: Option<(u64, u64, u64)>,
}

impl Counters {
    /// The memory behind this descriptor is no longer the core's.
    pub(super) fn forget(&mut self, fd: FdId) {
        self.rings.remove(&fd);
        self.pages.remove(&fd);
    }

    fn fill(&mut self, stream: &mut StreamStatus, descriptors: &Descriptors, now: u64) {
        let StreamStatus { memory, generation, arena_bytes, .. } = *stream;
        let identity =
            RingIdentity { stream: stream.stream, generation, descriptors: stream.descriptors, arena_bytes };
        let watched = self.rings.entry(memory).or_insert_with(|| Watched {
            observer: descriptors
                .get(memory)
                .and_then(|memory| Observer::new(memory.as_ref(), &identity).ok()),
            last: None,
        });
        let Some(counters) = watched.observer.as_ref().map(Observer::counters) else { return };
        let (messages, bytes) = (counters.messages, counters.bytes);
        let last = watched.last.replace((now, messages, bytes));
        let rate = |count: u64, before: u64, since: u64| {
            let seconds = now.saturating_sub(since) as f64 / 1e9;
            if seconds > 0.0 { count.saturating_sub(before) as f64 / seconds } else { 0.0 }
        };
        stream.ring = Some(RingStatus {
            messages,
            bytes,
            dropped: counters.skipped,
            waits: counters.waits,
            depth: counters.kept,
            messages_per_second: last.map_or(0.0, |(since, before, _)| rate(messages, before, since)),
            bytes_per_second: last.map_or(0.0, |(since, _, before)| rate(bytes, before, since)),
        });
        for reader in &mut stream.readers {
            self.fill_reader(reader, counters.next_seq, descriptors);
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
        for stream in &mut snapshot.streams {
            self.counters.fill(stream, &self.descriptors, now.monotonic);
        }
        snapshot
    }
}
