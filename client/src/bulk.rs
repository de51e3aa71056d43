//! Payloads of queues and services that no frame holds: this client's ring for what it sends, and the broker's for what it
//! receives.
//!
//! What is sent is copied into a ring of this client's own, made when it is first needed, replaced when a payload does not fit
//! and let go when it is idle; the broker says when a place is free again. What is received is read in place, in memory that
//! only the broker writes, and its place is given back when the message is dropped. Neither outlives its connection: a later
//! broker is told of a ring anew, and what lies in the ring of an earlier one stays readable.
//!
//! Locks: `Outgoing` before `session` and `outbound`; the list of what came free by itself.

use crate::error::{Error, Result};
use crate::inbound::Inbound;
use crate::message::Message;
use crate::outbound::Outbound;
use crate::reactor::{lock, try_lock};
use crate::run::{message_of, parts_of};
use crate::shared::Shared;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};
use tramline_ring::{BulkReader, BulkWriter};
use tramline_wire as wire;
use tramline_wire::limits::FRAME_OVERHEAD_BYTES;
use tramline_wire::{BulkFree, BulkPayload, BulkRing, BulkRoom, ToBroker};

/// Smallest ring for what is sent: room for the next payload while the broker copies one.
const RING_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// Memory is made in whole pages.
const PAGE_BYTES: u64 = 4096;

/// After how long without a payload this client's ring is let go.
const IDLE: Duration = Duration::from_secs(10);

/// What this client sends by ring.
#[derive(Default)]
pub(crate) struct BulkOut {
    ring: Mutex<OutRing>,
    /// Places that the broker gave back: of which ring, and where.
    freed: Mutex<Vec<(u32, u64)>>,
}

#[derive(Default)]
struct OutRing {
    number: u32,
    writer: Option<BulkWriter>,
    room: BulkRoom,
    /// The connection that was told of it; 0: none.
    told: u64,
    used: Option<Instant>,
}

/// A payload that lies in this client's ring, and is to be told of. Dropped before that, its place is free.
struct Placed<'a> {
    ring: MutexGuard<'a, OutRing>,
    payload: BulkPayload,
    /// The ring's memory, if the broker does not know it.
    memory: Option<OwnedFd>,
    epoch: u64,
}

/// How a payload travels: within its frame, or by ring.
pub(crate) struct Carriage<'a>(Option<Placed<'a>>);

impl Carriage<'_> {
    /// What stands in the frame that is appended right behind: the payload, or nothing, after the broker has been told where
    /// it is. `None`: there is another connection now.
    pub(crate) fn tell<'p>(&mut self, outbound: &mut Outbound, payload: &'p [u8]) -> Option<&'p [u8]> {
        let Some(placed) = &mut self.0 else { return Some(payload) };
        if outbound.epoch() != placed.epoch {
            return None;
        }
        let BulkPayload { ring, offset, length } = placed.payload;
        if let Some(memory) = placed.memory.take() {
            let bytes = placed.ring.room.bytes();
            outbound.push_with(&ToBroker::BulkRing(BulkRing { ring, bytes, fds: 1 }), vec![memory]);
            placed.ring.told = placed.epoch;
        }
        outbound.push(&ToBroker::BulkPayload(placed.payload));
        placed.ring.room.take(offset, length);
        Some(&[])
    }
}

impl BulkOut {
    /// A place may be used again.
    fn free(&self, free: BulkFree) {
        lock(&self.freed).push((free.ring, free.offset));
    }

    fn take_freed(&self, ring: &mut OutRing) {
        for (number, offset) in lock(&self.freed).drain(..) {
            if number == ring.number {
                ring.room.free(offset);
            }
        }
    }
}

impl Shared {
    /// Copies a payload into this client's ring if a message of so many bytes is too large for a frame; `None`: there is no room
    /// now.
    pub(crate) fn place_if_large(&self, bytes: usize, payload: &[u8]) -> Result<Option<Carriage<'_>>> {
        let most = lock(&self.outbound).frame_bytes_max - FRAME_OVERHEAD_BYTES;
        if bytes <= most || payload.is_empty() {
            return Ok(Some(Carriage(None)));
        }
        Ok(self.place_bulk(payload)?.map(|placed| Carriage(Some(placed))))
    }

    fn place_bulk(&self, payload: &[u8]) -> Result<Option<Placed<'_>>> {
        let mut ring = lock(&self.bulk.ring);
        self.bulk.take_freed(&mut ring);
        let most = lock(&self.session).greeting.as_ref().map_or(u64::MAX, |greeting| greeting.ring_bytes_max);
        let outbound = lock(&self.outbound);
        self.check_open(&outbound)?;
        let epoch = outbound.epoch();
        drop(outbound);
        let length = payload.len() as u64;
        let needed = BulkRoom::needed(length).next_multiple_of(PAGE_BYTES);
        if needed > most {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            return Err(Error::over("ring_bytes_max", most, payload.len()));
        }
        if ring.told != 0 && ring.told != epoch {
            // Nobody reads what was told to an earlier broker.
            ring.told = 0;
            ring.number += 1;
            ring.room = BulkRoom::new(ring.room.bytes());
        }
        if ring.writer.is_none() || ring.room.bytes() < needed {
            let bytes = needed.checked_next_power_of_two().unwrap_or(needed).max(RING_BYTES_MIN);
            ring.writer = None;
            ring.writer = Some(BulkWriter::create(bytes.min(most / PAGE_BYTES * PAGE_BYTES))?);
            ring.number += 1;
            ring.told = 0;
            ring.room = BulkRoom::new(ring.writer.as_ref().map_or(0, BulkWriter::bytes));
        }
        let Some(offset) = ring.room.find(length) else { return Ok(None) };
        ring.used = Some(Instant::now());
        let (number, told) = (ring.number, ring.told);
        let Some(writer) = &mut ring.writer else { return Ok(None) };
        writer.write(offset, payload)?;
        step!("bulk: written");
        let memory = if told == 0 {
            let copy = writer.memory().try_clone_to_owned();
            Some(copy.map_err(Error::io("duplicating a ring's descriptor"))?)
        } else {
            None
        };
        let payload = BulkPayload { ring: number, offset, length };
        Ok(Some(Placed { ring, payload, memory, epoch }))
    }

    /// The broker gives a place back.
    pub(crate) fn bulk_freed(&self, free: BulkFree) {
        self.bulk.free(free);
        step!("bulk: given back");
        self.reactor.changed();
    }

    /// Lets this client's ring go if it is idle. Returns when to look again.
    pub(crate) fn let_bulk_go(&self) -> Option<Instant> {
        // Whoever holds the lock is using it right now.
        let Some(mut ring) = try_lock(&self.bulk.ring) else { return Some(Instant::now() + IDLE) };
        let used = ring.used?;
        self.bulk.take_freed(&mut ring);
        let mut outbound = lock(&self.outbound);
        let is_over = ring.told != outbound.epoch() || !outbound.open;
        if used.elapsed() < IDLE || !(ring.room.is_empty() || is_over) {
            return Some(used.max(Instant::now() - IDLE / 2) + IDLE);
        }
        ring.number += 1;
        (ring.writer, ring.used, ring.room) = (None, None, BulkRoom::default());
        let told = std::mem::take(&mut ring.told);
        if told == outbound.epoch() && outbound.open {
            let ring = ring.number;
            outbound.push(&ToBroker::BulkRing(BulkRing { ring, bytes: 0, fds: 0 }));
            self.write_out(&mut outbound);
        }
        None
    }
}

/// What this client receives by ring on one connection.
#[derive(Default)]
pub(crate) struct BulkIn {
    ring: Option<Arc<InRing>>,
    number: u32,
    /// The payload of the next frame.
    next: Option<BulkBytes>,
}

impl BulkIn {
    /// Whether the next frame's payload lies in a ring.
    pub(crate) fn is_next(&self) -> bool {
        self.next.is_some()
    }

    pub(crate) fn take_next(&mut self) -> Option<BulkBytes> {
        self.next.take()
    }
}

impl Drop for BulkIn {
    fn drop(&mut self) {
        // The connection is over: nobody is to be told.
        if let Some(ring) = &self.ring {
            ring.over.store(true, Ordering::Release);
        }
    }
}

/// The memory of the broker's ring, mapped for as long as something in it is read.
struct InRing {
    reader: BulkReader,
    number: u32,
    /// The connection, or this ring, is over.
    over: AtomicBool,
    shared: Weak<Shared>,
}

/// A payload in the broker's ring. Its place is given back when it is dropped.
pub(crate) struct BulkBytes {
    ring: Arc<InRing>,
    offset: u64,
    length: usize,
}

impl BulkBytes {
    pub(crate) fn payload(&self) -> &[u8] {
        self.ring.reader.bytes(self.offset, self.length)
    }
}

impl Drop for BulkBytes {
    fn drop(&mut self) {
        if self.ring.over.load(Ordering::Acquire) {
            return;
        }
        let Some(shared) = self.ring.shared.upgrade().filter(|shared| shared.check_process().is_ok()) else {
            return;
        };
        let (ring, offset) = (self.ring.number, self.offset);
        step!("bulk: let go");
        shared.answer(&ToBroker::BulkFree(BulkFree { ring, offset }));
    }
}

impl Inbound {
    /// The broker tells the memory of its ring, or that there is none any more.
    pub(crate) fn take_bulk_ring(&mut self, shared: &Shared, frame: &BulkRing) -> Result<()> {
        let BulkRing { ring, bytes, fds } = *frame;
        let Some(mut memory) = self.take_fds(fds)? else {
            return Err(Error::os("receiving the memory for large messages")(rustix::io::Errno::MFILE));
        };
        if ring <= self.bulk.number {
            return Err(Error::Protocol(format!("bulk ring {ring} a second time").into()));
        }
        let memory = memory.next().map(|memory| BulkReader::open(memory, bytes)).transpose()?;
        step!("bulk: mapped");
        self.bulk = BulkIn::default();
        self.bulk.number = ring;
        self.bulk.ring = memory.map(|reader| {
            let (over, shared) = (AtomicBool::new(false), shared.weak.clone());
            Arc::new(InRing { reader, number: ring, over, shared })
        });
        Ok(())
    }

    /// The broker says where the payload of the next frame lies.
    pub(crate) fn take_bulk_payload(&mut self, frame: &BulkPayload) -> Result<()> {
        let BulkPayload { ring, offset, length } = *frame;
        let known = self.bulk.ring.as_ref().filter(|known| known.number == ring);
        let known = known.ok_or_else(|| Error::Protocol(format!("there is no bulk ring {ring}").into()))?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        known.reader.check(offset, length)?;
        self.bulk.next = Some(BulkBytes { ring: Arc::clone(known), offset, length });
        step!("bulk: told where");
        Ok(())
    }

    /// A message that came whole, or whose payload lies in the broker's ring.
    pub(crate) fn whole_message(&mut self, message: &wire::Message<'_>, source: u32) -> Result<Message> {
        let bulk = self.bulk.take_next();
        let source = self.source(source)?;
        Ok(match bulk {
            Some(bulk) => Message::from_bulk(parts_of(message, source), Box::new(bulk)),
            None => message_of(message, source),
        })
    }
}
