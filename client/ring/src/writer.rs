//! The one writer of a stream: finds room, publishes, wakes, waits. Growth is in `generation`, loans are in `loan`.
//!
//! Everything it decides by is in its private memory: which blocks of the arena belong to which message, which
//! readers there are and how far they were last seen. The shared header and descriptors are output only, and
//! what readers write (cursors, pins, epochs) is input that can only delay the reuse of memory, bounded
//! by what the writer itself knows.
//!
//! A message's life: room is taken from the arena → bytes are written → its descriptor is published → when it is one
//! of more than `depth` messages, or room is short, and every gated reader has passed it, it is retired →
//! its room is free, unless a reader holds it in place: then the room is set aside until the pin goes.

mod budget;

pub use budget::{GateBudget, ModeChange};

use crate::arena::{Arena, Block};
use crate::error::{RingError, claim};
use crate::layout::{Fields, INLINE_BYTES_MAX, POSITION_MAX, STATE_CLOSED, UNIT_BYTES, low};
use crate::link::{SlotRef, WriterLink};
use crate::protocol::{self, note};
use crate::spec::RingSpec;
use crate::view::Ring;
use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

mod generation;
mod holding;
mod loan;
mod pack;
mod waiting;
mod warming;

use generation::Former;
pub use generation::Generation;
use holding::Holding;
pub use holding::SetAside;
pub use loan::Loan;
use loan::Outstanding;
pub use pack::Pushed;

/// Most messages retired between two fences.
const RETIRE_BATCH_MAX: u64 = 64;

/// Most readers of one stream.
pub const READERS_MAX: usize = 1024;

/// Whether the writer waits for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadMode {
    /// It does: the reader loses nothing.
    Gated,
    /// It never does: an overtaken reader moves on and knows how many it lost.
    Lossy,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Position of its first message.
    pub position: u64,
    /// The sequence number it may expect there.
    pub seq: u64,
}

/// What a message says about itself, besides its bytes. It means nothing to the ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meta {
    /// Flags of the message.
    pub flags: u16,
    /// When it was published, nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// When what it tells happened, nanoseconds since 1970.
    pub source_time: i64,
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// No room until a gated reader moves on, a sample is dropped or a loan ends.
    #[error("the ring is full")]
    Full {
        /// A reader in the way, by the id under which it was admitted; `None` when loans of this process are.
        holder: Option<u64>,
    },
    /// It can never fit this ring.
    #[error("a message of {bytes} bytes with its headers; this ring takes up to {max}")]
    TooLarge {
        /// Payload and header block together.
        bytes: u64,
        /// Bytes of the arena.
        max: u64,
    },
    /// The stream was closed.
    #[error("the stream is closed")]
    Closed,
}

/// What the writer knows of one position: of a message, or of several in a pack.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Sequence number of the first.
    seq: u64,
    block: Block,
    messages: u64,
}

#[derive(Debug)]
struct ReaderState {
    id: u64,
    link: Arc<WriterLink>,
    slot: SlotRef,
    number: u32,
    mode: ReadMode,
    /// How far it has read as far as the writer believes: never backwards, never past what was published.
    cursor: u64,
    /// The sleep epoch it was last rung for.
    rung: u64,
    gate: Box<budget::Gate>,
}

/// A retired message whose bytes a reader still holds.
#[derive(Debug)]
struct Held {
    position: u64,
    block: Block,
}

/// The writer of one stream. It is not shared between threads by itself; put it behind a lock.
#[derive(Debug)]
pub struct Writer {
    ring: Arc<Ring>,
    memory: OwnedFd,
    spec: RingSpec,
    depth: u64,
    arena: Arena,
    entries: VecDeque<Entry>,
    /// Messages in the entries.
    kept: u64,
    head: u64,
    oldest: u64,
    next_seq: u64,
    bytes: u64,
    messages: u64,
    skipped: u64,
    waits: u64,
    wait_epoch: u64,
    loans: Vec<Outstanding>,
    /// Generations before this one that readers may still be in.
    formers: Vec<Former>,
    holding: Holding,
    readers: Vec<ReaderState>,
    held: Vec<Held>,
    gates: budget::Gates,
    unflushed: bool,
    closed: bool,
}

impl Writer {
    /// Makes a generation. `depth` messages, at most as many as there are descriptors, are kept for late and lossy
    /// readers (up to an eighth fewer at a time, since room is taken back in batches). Blocks while the kernel clears
    /// the memory: about a millisecond for 4 MiB.
    ///
    /// # Errors
    /// When the sizes are outside their limits, the memory does not fit, or the kernel refuses.
    pub fn create(spec: &RingSpec, depth: u32) -> Result<Self, RingError> {
        claim(spec.stream != 0, "a stream's id", spec.stream, "not 0")?;
        let (memory, ring) = Ring::create(spec)?;
        let units = u32::try_from(spec.arena_bytes / UNIT_BYTES).expect("the extent was checked");
        Ok(Self {
            ring: Arc::new(ring),
            memory,
            spec: *spec,
            depth: u64::from(depth.clamp(1, spec.descriptors)),
            arena: Arena::new(units),
            entries: VecDeque::new(),
            kept: 0,
            head: spec.first_position,
            oldest: spec.first_position,
            next_seq: spec.first_seq,
            bytes: 0,
            messages: 0,
            skipped: 0,
            waits: 0,
            wait_epoch: 0,
            loans: Vec::new(),
            formers: Vec::new(),
            holding: Holding::default(),
            readers: Vec::new(),
            held: Vec::new(),
            gates: budget::Gates::default(),
            unflushed: false,
            closed: false,
        })
    }

    /// The sealed memory, to be sent to the broker.
    #[must_use]
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// What was made.
    #[must_use]
    pub const fn spec(&self) -> &RingSpec {
        &self.spec
    }

    /// Admits a reader under `id`, `history` messages back as far as they are there. Messages from its start on are
    /// kept for it from now on if it is gated.
    ///
    /// # Errors
    /// [`RingError::Claim`] for a slot that no page of the link has or an id that is taken; [`RingError::Limit`]
    /// beyond [`READERS_MAX`].
    pub fn add_reader(
        &mut self,
        id: u64,
        link: &Arc<WriterLink>,
        slot: u32,
        mode: ReadMode,
        history: u32,
    ) -> Result<Start, RingError> {
        let taken = self.readers.iter().any(|reader| reader.id == id);
        claim(!taken, "a reader's id", id, "it reads this stream already")?;
        if self.readers.len() == READERS_MAX {
            let value = READERS_MAX as u64 + 1;
            return Err(RingError::Limit {
                what: "the readers of one stream",
                value,
                max: READERS_MAX as u64,
            });
        }
        let start = self.back(history.into());
        let place = link.slot(slot)?;
        let reader = ReaderState {
            id,
            link: Arc::clone(link),
            slot: place,
            number: slot,
            mode,
            cursor: start.position,
            rung: 0,
            gate: Box::default(),
        };
        self.readers.push(reader);
        Ok(start)
    }

    /// Forgets a reader; what it held is free again. `false` if there is none of that id.
    ///
    /// Call it only when the reader has let go of its samples, or its process has gone.
    pub fn remove_reader(&mut self, id: u64) -> bool {
        let aside = &mut self.holding.aside;
        let before = self.readers.len() + aside.len();
        self.readers.retain(|reader| reader.id != id);
        aside.retain(|reader| reader.id != id);
        self.readers.len() + aside.len() < before
    }

    /// Waits for this reader no longer, as if it were lossy. What it holds in place still stays until it lets go or
    /// is removed. `false` if there is none of that id.
    pub fn ungate(&mut self, id: u64) -> bool {
        let found = self.readers.iter_mut().find(|reader| reader.id == id);
        found.map(ReaderState::give_up).is_some()
    }

    /// How many readers there are.
    #[must_use]
    pub fn reader_count(&self) -> usize {
        self.readers.len()
    }

    /// The sequence number that the next message gets.
    #[must_use]
    pub const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Largest payload and header block together that can ever fit, in bytes.
    #[must_use]
    pub const fn message_bytes_max(&self) -> u64 {
        let arena = self.spec.arena_bytes;
        if arena < u32::MAX as u64 { arena } else { u32::MAX as u64 }
    }

    /// Copies a message in, publishes it and wakes sleeping readers. Returns its sequence number.
    ///
    /// # Errors
    /// When there is no room now, or never will be.
    pub fn try_send(&mut self, meta: Meta, head: &[u8], payload: &[u8]) -> Result<u64, SendError> {
        let seq = self.try_push(meta, head, payload)?;
        self.flush();
        Ok(seq)
    }

    /// As [`try_send`](Self::try_send), but readers that sleep are not woken before [`flush`](Self::flush): one fence and
    /// one look at the readers for many messages.
    ///
    /// # Errors
    /// When there is no room now, or never will be.
    pub fn try_push(&mut self, meta: Meta, head: &[u8], payload: &[u8]) -> Result<u64, SendError> {
        let is_inline = head.is_empty() && payload.len() <= INLINE_BYTES_MAX;
        let block = self.place(if is_inline { 0 } else { block_bytes(payload.len(), head.len()) })?;
        step!("publish: room taken");
        let fields = if is_inline {
            Fields::inline(payload)
        } else {
            self.ring.copy_in(u64::from(block.start()) * UNIT_BYTES, payload);
            self.write_head(block, payload.len(), head)
        };
        step!("publish: bytes written");
        Ok(self.publish(block, fields, meta))
    }

    /// Wakes the readers that sleep although messages were pushed.
    pub fn flush(&mut self) {
        if !self.unflushed {
            return;
        }
        self.unflushed = false;
        if self.readers.is_empty() {
            return;
        }
        protocol::fence_wake();
        step!("publish: about to wake");
        for reader in &mut self.readers {
            if let Some(epoch) = protocol::sleeps(reader.slot.get())
                && epoch != reader.rung
            {
                reader.rung = epoch;
                reader.link.ring(reader.number);
                step!("publish: one woken");
            }
        }
        // Readers have this line from the time before; it is fetched back while they read, not when they wait for it.
        if let Some(unit) = self.arena.next() {
            self.ring.look_ahead(u64::from(unit) * UNIT_BYTES);
        }
    }

    /// Consumes a sequence number without a message: readers see it as lost.
    pub fn skip(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.skipped += 1;
        note(&self.ring.header().counters.skipped, self.skipped);
        seq
    }

    /// Ends the stream: readers read to the end and are told. Also done when the writer is dropped.
    pub fn close(&mut self) {
        if self.closed {
            return;
        }
        self.closed = true;
        protocol::finish(self.ring.header(), STATE_CLOSED, self.head, self.next_seq);
        step!("close: ended");
        self.unflushed = true;
        self.flush();
    }

    /// The memory as this process may write it.
    #[cfg(any(test, feature = "scribble"))]
    pub(crate) fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring)
    }

    /// Where a reader begins that wants up to this many past messages. It may be within a pack.
    fn back(&self, history: u64) -> Start {
        let mut start = Start { position: self.head, seq: self.next_seq };
        let mut wanted = history;
        for entry in self.entries.iter().rev() {
            if wanted == 0 {
                break;
            }
            let taken = entry.messages.min(wanted);
            start = Start { position: start.position - 1, seq: entry.seq + entry.messages - taken };
            wanted -= taken;
        }
        start
    }

    /// Takes a block and makes sure of a descriptor for it. The usual case is inlined, see [`Arena::take`].
    #[inline]
    fn place(&mut self, bytes: u64) -> Result<Block, SendError> {
        if !self.closed
            && bytes <= self.message_bytes_max()
            && self.kept < self.depth
            && self.head - self.oldest + (self.loans.len() as u64) < self.spec.descriptors.into()
            && let Some(block) = self.arena.take(low(bytes.div_ceil(UNIT_BYTES)))
        {
            return Ok(block);
        }
        self.make_place(bytes)
    }

    #[cold]
    fn make_place(&mut self, bytes: u64) -> Result<Block, SendError> {
        if self.closed {
            return Err(SendError::Closed);
        }
        let max = self.message_bytes_max();
        if bytes > max {
            return Err(SendError::TooLarge { bytes, max });
        }
        assert!(self.head < POSITION_MAX, "a stream ends before its positions do");
        let units = low(bytes.div_ceil(UNIT_BYTES));
        // Keeping no more than `depth` keeps the working set, and so the cache, small. Readers that are in the way of
        // this are in the way of nothing else.
        if self.kept >= self.depth {
            self.retire_some();
        }
        loop {
            if self.head - self.oldest + (self.loans.len() as u64) < self.spec.descriptors.into()
                && let Some(block) = self.arena.take(units)
            {
                return Ok(block);
            }
            if !self.retire_some() && !self.free_held() {
                return Err(SendError::Full { holder: self.holder() });
            }
        }
    }

    /// Writes type and headers behind the payload, and says where both are.
    fn write_head(&self, block: Block, payload_bytes: usize, head: &[u8]) -> Fields {
        if !head.is_empty() {
            let start = u64::from(block.start()) * UNIT_BYTES;
            self.ring.copy_in(start + (payload_bytes as u64).next_multiple_of(8), head);
        }
        let head_length = u16::try_from(head.len()).expect("header blocks are bounded well below 32 KiB");
        Fields::placed(block.start(), low(payload_bytes as u64), head_length)
    }

    /// Publishes a message.
    #[inline]
    fn publish(&mut self, block: Block, fields: Fields, meta: Meta) -> u64 {
        self.publish_all(block, fields, meta, 1, fields.length().into())
    }

    /// Publishes a descriptor, which describes this many messages, and moves the head. Returns the last one's sequence
    /// number.
    #[inline]
    fn publish_all(
        &mut self,
        block: Block,
        fields: Fields,
        meta: Meta,
        messages: u64,
        payload_bytes: u64,
    ) -> u64 {
        let seq = self.next_seq;
        let fields = fields.of(seq, meta.time, meta.source_time, meta.flags);
        protocol::publish(self.ring.descriptor(self.head), self.head, &fields);
        self.entries.push_back(Entry { seq, block, messages });
        self.head += 1;
        self.next_seq += messages;
        self.kept += messages;
        self.messages += messages;
        self.bytes += payload_bytes;
        self.unflushed = true;
        let counters = &self.ring.header().counters;
        note(&counters.head, self.head);
        note(&counters.bytes, self.bytes);
        note(&counters.messages, self.messages);
        note(&counters.kept, self.kept);
        step!("publish: counted");
        self.next_seq - 1
    }

    /// Retires up to a batch of the oldest messages that no gated reader still needs. `false` if there is none.
    fn retire_some(&mut self) -> bool {
        let wanted = self.oldest + self.retire_batch();
        let mut limit = self.gate();
        if limit < wanted {
            self.look_at_cursors();
            limit = self.gate();
        }
        let target = wanted.min(limit);
        if target <= self.oldest {
            return false;
        }
        let range = self.oldest..target;
        for position in range.clone() {
            protocol::retire(self.ring.descriptor(position), position);
        }
        self.oldest = target;
        note(&self.ring.header().counters.oldest, target);
        protocol::fence_reuse();
        step!("retire: fenced");
        if !self.held.is_empty() {
            self.free_held();
        }
        self.take_back(range);
        step!("retire: taken back");
        true
    }

    /// How many positions hold the oldest messages that are retired together.
    fn retire_batch(&self) -> u64 {
        let batch = (self.depth / 8).clamp(1, RETIRE_BATCH_MAX);
        let (mut positions, mut messages) = (0, 0);
        for entry in &self.entries {
            if messages >= batch {
                break;
            }
            positions += 1;
            messages += entry.messages;
        }
        positions
    }

    /// After the fence: what nobody holds is free, the rest is set aside.
    fn take_back(&mut self, retired: Range<u64>) {
        let aside = &self.holding.aside;
        let any_used =
            self.readers.iter().chain(aside).any(|reader| protocol::pins_used(reader.slot.get()) > 0);
        for position in retired {
            let entry = self.entries.pop_front().expect("there is an entry for every position that is kept");
            self.kept -= entry.messages;
            if any_used && entry.block != Block::NONE && self.is_pinned(position) {
                self.held.push(Held { position, block: entry.block });
            } else {
                self.arena.give(entry.block);
            }
        }
    }

    fn is_pinned(&self, position: u64) -> bool {
        let mut holders = self.readers.iter().chain(&self.holding.aside);
        holders.any(|reader| protocol::pinned(reader.slot.get(), position))
    }

    /// Frees what was held and is not any more. `false` if that is nothing.
    fn free_held(&mut self) -> bool {
        let before = self.held.len();
        let held = std::mem::take(&mut self.held);
        for item in held {
            if self.is_pinned(item.position) {
                self.held.push(item);
            } else {
                self.arena.give(item.block);
            }
        }
        self.held.len() < before
    }

    /// The lowest cursor of a gated reader, as last seen.
    fn gate(&self) -> u64 {
        self.gated().map(|reader| reader.cursor).min().unwrap_or(u64::MAX)
    }

    fn gated(&self) -> impl Iterator<Item = &ReaderState> {
        self.readers.iter().filter(|reader| reader.mode == ReadMode::Gated)
    }

    fn look_at_cursors(&mut self) {
        for reader in &mut self.readers {
            // A claim: what lies outside cannot be true, and believing it would hurt nobody but that reader.
            let claimed = protocol::cursor(reader.slot.get()).min(self.head);
            reader.cursor = reader.cursor.max(claimed);
        }
    }

    /// Who is in the way: the gated reader furthest behind, or one that holds a sample.
    fn holder(&self) -> Option<u64> {
        let behind =
            self.gated().filter(|reader| reader.cursor < self.head).min_by_key(|reader| reader.cursor);
        let holds = |reader: &&ReaderState| {
            self.held.iter().any(|item| protocol::pinned(reader.slot.get(), item.position))
        };
        behind.or_else(|| self.readers.iter().find(holds)).map(|reader| reader.id)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.ring.is_foreign() {
            self.close();
        }
    }
}

/// Bytes of a block: the payload, then type and headers at the next multiple of 8.
fn block_bytes(payload: usize, head: usize) -> u64 {
    if head == 0 { payload as u64 } else { (payload as u64).next_multiple_of(8) + head as u64 }
}
