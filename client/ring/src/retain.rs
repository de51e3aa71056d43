//! The last messages of a ring whose writer has gone, copied to memory of this process's own: a closed generation of
//! exactly the size that they need, sealed like any other, to be read like any other.
//!
//! What the old ring says is a claim, as for every reader: it is read by the reader's own protocol, so that only whole
//! messages are kept, wherever its writer died. A writer that lives on and goes on writing is a nuisance to
//! itself only: the work is bounded by the ring's size. Nothing here decides what is worth keeping.

use crate::error::RingError;
use crate::layout::{Fields, INLINE_BYTES_MAX, PACK_MESSAGES_MAX, PAGE_BYTES, STATE_CLOSED, UNIT_BYTES, low};
use crate::link::ReaderLink;
use crate::observe::Observer;
use crate::protocol::{self, note};
use crate::reader::{Body, Next, Reader};
use crate::spec::{RingIdentity, RingSpec};
use crate::view::Ring;
use crate::writer::{Meta, Start};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The copy of a ring's last messages.
#[derive(Debug)]
pub struct Retained {
    /// Its sealed memory.
    pub memory: OwnedFd,
    /// What it is: the stream and generation are those of the ring that was copied.
    pub identity: RingIdentity,
    /// Size of the memory in bytes.
    pub memory_bytes: u64,
    /// Sequence numbers of its messages; the first is at position 0.
    pub seqs: Vec<u64>,
}

/// One message as it was read.
struct Kept {
    seq: u64,
    meta: Meta,
    payload: Vec<u8>,
    head: Vec<u8>,
}

impl Kept {
    fn is_inline(&self) -> bool {
        self.head.is_empty() && self.payload.len() <= INLINE_BYTES_MAX
    }

    /// Units of the arena that it takes.
    fn units(&self) -> u64 {
        if self.is_inline() {
            return 0;
        }
        let head = if self.head.is_empty() { 0 } else { self.head.len().next_multiple_of(8) };
        ((self.payload.len().next_multiple_of(8) + head) as u64).div_ceil(UNIT_BYTES).max(1)
    }
}

/// Sizes of a ring that holds `count` messages in `units` of arena.
fn sized(of: &RingIdentity, count: usize, units: u64, first_seq: u64) -> RingSpec {
    let descriptors = u32::try_from(count).unwrap_or(u32::MAX / 2).next_power_of_two().max(2);
    RingSpec {
        stream: of.stream,
        generation: of.generation,
        descriptors,
        arena_bytes: (units * UNIT_BYTES).next_multiple_of(PAGE_BYTES).max(PAGE_BYTES),
        first_position: 0,
        first_seq,
    }
}

/// Copies the last `messages` messages of a ring, as many of them as fit `bytes_max` bytes of memory. `None`: there are
/// none. Blocks on file calls and for the time of the copying.
///
/// # Errors
/// [`RingError::Claim`] when the ring is not what it must be; other errors when there is no memory for the copy.
pub fn retain(
    memory: BorrowedFd<'_>,
    identity: &RingIdentity,
    messages: u32,
    bytes_max: u64,
) -> Result<Option<Retained>, RingError> {
    let kept = read_last(memory, identity, messages, bytes_max)?;
    let Some(first) = kept.front() else { return Ok(None) };
    let units = kept.iter().map(Kept::units).sum();
    let spec = sized(identity, kept.len(), units, first.seq);
    let memory_bytes = spec.memory_bytes()?;
    let (memory, ring) = Ring::create(&spec)?;
    let (mut unit, mut bytes) = (0_u64, 0);
    for (position, message) in (0_u64..).zip(&kept) {
        let fields = if message.is_inline() {
            Fields::inline(&message.payload)
        } else {
            let start = unit * UNIT_BYTES;
            ring.copy_in(start, &message.payload);
            if !message.head.is_empty() {
                ring.copy_in(start + (message.payload.len() as u64).next_multiple_of(8), &message.head);
            }
            let head = u16::try_from(message.head.len()).expect("the reader bounds header blocks");
            Fields::placed(low(unit), low(message.payload.len() as u64), head)
        };
        unit += message.units();
        bytes += message.payload.len() as u64;
        let Meta { flags, time, source_time } = message.meta;
        let fields = fields.of(message.seq, time, source_time, flags);
        protocol::publish(ring.descriptor(position), position, &fields);
    }
    let header = ring.header();
    let (end, last) = (kept.len() as u64, kept.back().map_or(0, |last| last.seq));
    note(&header.counters.head, end);
    note(&header.counters.messages, end);
    note(&header.counters.kept, end);
    note(&header.counters.bytes, bytes);
    protocol::finish(header, STATE_CLOSED, end, last + 1);
    let seqs = kept.iter().map(|message| message.seq).collect();
    Ok(Some(Retained { memory, identity: spec.identity(), memory_bytes, seqs }))
}

/// Reads the last messages, as a reader would whose writer has gone.
fn read_last(
    memory: BorrowedFd<'_>,
    identity: &RingIdentity,
    messages: u32,
    bytes_max: u64,
) -> Result<VecDeque<Kept>, RingError> {
    let counters = Observer::new(memory, identity)?.counters();
    // There may be several messages at one position, so this is early enough.
    let position = counters.head.saturating_sub(messages.into()).max(counters.oldest);
    let owned = memory
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| RingError::Os { what: "cannot duplicate a ring's descriptor", error })?;
    // A page of its own, which nobody looks at.
    let link = Arc::new(ReaderLink::new());
    let (slot, _page) = link.allocate_slot()?;
    let mut reader = Reader::attach(owned, identity, &link, slot, Start { position, seq: 1 }, false)?;
    reader.writer_gone();
    reader.no_successor();
    let mut kept = VecDeque::new();
    let mut scratch = Vec::new();
    let mut units = 0_u64;
    for _ in 0..2 * u64::from(identity.descriptors) * u64::from(PACK_MESSAGES_MAX) {
        let message = match reader.try_next(&mut scratch)? {
            Next::Message(message) => message,
            Next::Empty | Next::Ended { .. } | Next::Successor(_) => break,
        };
        let Body::Copied { payload, head } = message.body else { continue };
        let message = Kept {
            seq: message.seq,
            meta: message.meta,
            payload: scratch[payload].to_vec(),
            head: scratch[head].to_vec(),
        };
        units += message.units();
        kept.push_back(message);
        let fits = |kept: &VecDeque<Kept>, units| {
            let spec = sized(identity, kept.len(), units, 1);
            kept.len() <= messages as usize && spec.memory_bytes().is_ok_and(|bytes| bytes <= bytes_max)
        };
        while !kept.is_empty() && !fits(&kept, units) {
            units -= kept.pop_front().map_or(0, |oldest| oldest.units());
        }
    }
    Ok(kept)
}
