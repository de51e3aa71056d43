//! One subscription's reader of one stream.
//!
//! Small payloads are copied and then confirmed; large ones are pinned and read in place. Gated and lossy readers
//! follow the same protocol, so that one may become the other at any time without a read becoming unsound.
//! Whatever the ring says is a claim: it is read once, bounded, and only the local copy is used. A claim that cannot
//! be true is an error, after which the reader must be dropped.

use crate::error::{RingError, claim};
use crate::fork;
use crate::layout::{Fields, INLINE_BYTES_MAX, POSITION_MAX, UNIT_BYTES};
use crate::link::{ReaderLink, SlotRef};
use crate::protocol::{self, Look, note, peek};
use crate::spec::RingIdentity;
use crate::view::Ring;
use crate::writer::{Meta, Start};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

mod edges;
mod generation;
mod holding_back;
mod pack;

mod pinned;

use generation::Generations;
pub use generation::{LetGo, Successor};
use holding_back::HeldBack;
use pack::Pack;
pub use pack::Packed;
pub use pinned::Pinned;

/// Payloads from this size on are read in place where that is allowed; below it a copy is cheaper than a fence.
pub const PIN_BYTES_MIN: u32 = 4096;

/// A cursor is published after this many messages at the latest.
const CURSOR_BATCH_MAX: u64 = 64;

/// Sequence numbers stay below this; what lies between two of them can be counted without care.
const SEQ_MAX: u64 = 1 << 62;

/// Longest header block a descriptor may claim.
const HEAD_BYTES_MAX: u16 = 16 * 1024;

/// What [`Reader::try_next`] found.
#[derive(Debug)]
pub enum Next {
    /// Nothing new.
    Empty,
    /// A message.
    Message(Received),
    /// All was read and no more will come.
    Ended {
        /// Dropped by the publisher, or lost, after the last message.
        lost: u64,
    },
    /// All of this generation was read; the one with this number carries on, and its memory has not been
    /// given by [`Reader::offer`] yet.
    Successor(u32),
}

/// A message as it was received.
#[derive(Debug)]
pub struct Received {
    /// Its sequence number.
    pub seq: u64,
    /// Messages lost just before it.
    pub lost: u64,
    /// What it says about itself.
    pub meta: Meta,
    /// Where its bytes are.
    pub body: Body,
}

/// Where a message's bytes are.
#[derive(Debug)]
pub enum Body {
    /// Copied to the buffer given to [`Reader::try_next`].
    Copied {
        /// The payload's place in it.
        payload: Range<usize>,
        /// Type and headers.
        head: Range<usize>,
    },
    /// Where they were published.
    Pinned(Pinned),
}

/// What runs when a reader and the last of its samples are gone.
pub type Release = Box<dyn FnOnce() + Send + Sync>;

/// The place of a reader on its link, for all generations; whoever drops it last gives the slot back.
struct Place {
    link: Arc<ReaderLink>,
    number: u32,
    release: Mutex<Option<Release>>,
    /// The process that reads.
    born: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let release = self.release.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if fork::is_foreign(self.born) {
            // The slot is not mapped here, and who is told lives in the parent.
            return std::mem::forget(release);
        }
        self.link.free_slot(self.number);
        if let Some(release) = release {
            release();
        }
    }
}

/// What a reader and its samples share of one generation.
struct Shared {
    ring: Ring,
    place: Arc<Place>,
    slot: SlotRef,
    /// The waiting epoch in which this reader last rang the writer.
    rung: AtomicU64,
    /// Set when the reader goes on to another generation.
    let_go: OnceLock<LetGo>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("slot", &self.place.number).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        match self.let_go.take() {
            // Who is told lives in the parent.
            Some(let_go) if self.ring.is_foreign() => std::mem::forget(let_go),
            Some(let_go) => let_go.tell(),
            None => {}
        }
    }
}

impl Shared {
    fn new(ring: Ring, place: Arc<Place>, slot: SlotRef) -> Self {
        Self { ring, place, slot, rung: AtomicU64::new(0), let_go: OnceLock::new() }
    }

    /// After something became free: rings the writer if it waits for that and has not been rung for it.
    fn tell_writer(&self, cursor: u64) {
        if let Some((epoch, wanted)) = protocol::writer_waits(self.ring.header())
            && cursor >= wanted
            && self.rung.swap(epoch, Ordering::Relaxed) != epoch
        {
            self.place.link.ring_space();
        }
    }
}

/// Reads one stream.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    generations: Generations,
    in_place: bool,
    position: u64,
    /// The sequence number of the last message read or known lost.
    last_seq: u64,
    lost: u64,
    published_cursor: u64,
    cursor_batch: u64,
    epoch: u64,
    writer_gone: bool,
    /// The head as it was claimed when this reader last failed to catch up.
    gave_up_at: Option<u64>,
    /// Read, and not handed over yet.
    pack: Pack,
    /// Messages read since the cursor was published.
    unpublished: u64,
    /// Where the cursor is, if it does not follow the position.
    held_back: Option<Box<HeldBack>>,
}

impl Reader {
    /// Verifies and maps a generation and begins at `start`. With `in_place`, payloads of 4 KiB and more are read
    /// where they are; without, everything is copied. Blocks on file calls.
    ///
    /// # Errors
    /// [`RingError::Claim`] when the memory is not what it must be.
    pub fn attach(
        memory: OwnedFd,
        identity: &RingIdentity,
        link: &Arc<ReaderLink>,
        slot: u32,
        start: Start,
        in_place: bool,
    ) -> Result<Self, RingError> {
        let place = link.slot(slot).ok_or(RingError::Claim {
            what: "a slot's number",
            value: slot.into(),
            rule: "this link has no such slot",
        })?;
        claim(start.position < POSITION_MAX, "the position to begin at", start.position, "below 2^62")?;
        let fits = (1..SEQ_MAX).contains(&start.seq);
        claim(fits, "the sequence number to begin at", start.seq, "from 1 on, below 2^62")?;
        let ring = Ring::open(memory.as_fd(), identity)?;
        step!("attach: mapped");
        let cursor_batch = cursor_batch(&ring);
        let owned =
            Place { link: Arc::clone(link), number: slot, release: Mutex::new(None), born: ring.born() };
        let shared = Shared::new(ring, Arc::new(owned), place);
        note(&shared.slot.get().cursor.seq, start.seq - 1);
        protocol::move_cursor(shared.slot.get(), start.position);
        step!("attach: cursor set");
        Ok(Self {
            shared: Arc::new(shared),
            generations: Generations::new(identity.generation),
            in_place,
            position: start.position,
            last_seq: start.seq - 1,
            lost: 0,
            published_cursor: start.position,
            cursor_batch,
            epoch: 0,
            writer_gone: false,
            gave_up_at: None,
            pack: Pack::default(),
            unpublished: 0,
            held_back: None,
        })
    }

    /// Runs `release` once this reader and the last of its samples have been dropped. Only then may the writer be told
    /// to forget the reader.
    pub fn on_release(&self, release: Release) {
        *self.shared.place.release.lock().unwrap_or_else(PoisonError::into_inner) = Some(release);
    }

    /// Its slot within the link.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.shared.place.number
    }

    /// The next message, if there is one. `scratch` is cleared; small payloads are copied into it.
    ///
    /// # Errors
    /// [`RingError::Claim`] when the ring says something impossible.
    pub fn try_next(&mut self, scratch: &mut Vec<u8>) -> Result<Next, RingError> {
        let mut tries = 0;
        loop {
            scratch.clear();
            if let Some(packed) = self.next_packed()? {
                return Ok(Next::Message(packed.into_received(scratch)));
            }
            match protocol::look(self.shared.ring.descriptor(self.position), self.position) {
                Look::NotYet => match self.nothing_there()? {
                    Some(next) => return Ok(next),
                    None => continue,
                },
                Look::There(fields) if fields.packed_messages() > 0 => {
                    if self.take_pack(&fields)? {
                        continue;
                    }
                }
                Look::There(fields) => {
                    if let Some(received) = self.take(&fields, scratch)? {
                        return Ok(Next::Message(received));
                    }
                }
                Look::Overtaken => {}
            }
            tries += 1;
            if !self.catch_up(tries)? {
                return Ok(Next::Empty);
            }
        }
    }

    /// Cheap: whether [`try_next`](Self::try_next) would find a message, a loss or an end.
    #[must_use]
    pub fn ready(&self) -> bool {
        if self.generations.awaits() {
            return self.successor_settled();
        }
        self.has_message() || self.writer_gone || protocol::ended(self.shared.ring.header()).is_some()
    }

    /// Cheaper still: whether a message, or its loss, is to be found; an end is not.
    #[must_use]
    pub fn has_message(&self) -> bool {
        !self.pack.is_empty() || protocol::stirs(self.shared.ring.descriptor(self.position), self.position)
    }

    /// Before parking: publishes the cursor, says that this reader sleeps, and looks again. `true`: something is there,
    /// do not park (it is awake again).
    pub fn arm(&mut self) -> bool {
        self.publish_cursor();
        // A new odd epoch each time: the writer rings once in each.
        self.epoch += if self.epoch.is_multiple_of(2) { 1 } else { 2 };
        if self.generations.awaits() {
            // The writer need not ring: what is waited for comes from elsewhere.
            let settled = self.successor_settled();
            self.epoch += u64::from(settled);
            return settled;
        }
        protocol::fall_asleep(self.shared.slot.get(), self.epoch);
        if self.ready() {
            self.disarm();
            return true;
        }
        self.pack.shrink();
        step!("sleep: about to park");
        false
    }

    /// After parking: says that this reader is awake.
    pub fn disarm(&mut self) {
        if self.is_armed() {
            self.epoch += 1;
            protocol::wake_up(self.shared.slot.get(), self.epoch);
        }
    }

    /// Whether the writer would ring for the next message.
    #[must_use]
    pub const fn is_armed(&self) -> bool {
        self.epoch % 2 == 1
    }

    /// Publishes the cursor now; otherwise it is published in batches, and always by [`arm`](Self::arm).
    pub fn publish_cursor(&mut self) {
        let (cursor, seq) = self.cursor();
        if self.published_cursor != cursor {
            self.published_cursor = cursor;
            self.unpublished = 0;
            note(&self.shared.slot.get().cursor.seq, seq);
            protocol::move_cursor(self.shared.slot.get(), cursor);
            step!("read: cursor moved");
            self.shared.tell_writer(cursor);
        }
    }

    /// The doorbell hung up: once everything that was published has been read, the stream has ended.
    pub fn writer_gone(&mut self) {
        self.writer_gone = true;
    }

    /// The sequence number of the last message read or known lost.
    #[must_use]
    pub const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Messages lost so far.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Messages published and not read yet, as the writer claims.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let header = self.shared.ring.header();
        let published = peek(&header.counters.messages).saturating_add(peek(&header.counters.skipped));
        peek(&header.first_seq).saturating_add(published).saturating_sub(self.last_seq + 1)
    }

    /// Reads the message that `fields` describe. `None`: it was overtaken meanwhile.
    fn take(&mut self, fields: &Fields, scratch: &mut Vec<u8>) -> Result<Option<Received>, RingError> {
        step!("read: found");
        let pin = if self.in_place && !fields.is_inline() && fields.length() >= PIN_BYTES_MIN {
            protocol::free_pin(self.shared.slot.get())
        } else {
            None
        };
        let (fields, body) = match pin {
            Some(index) => match self.take_in_place(index)? {
                Some(taken) => taken,
                None => return Ok(None),
            },
            None => match self.take_copy(fields, scratch)? {
                Some(body) => (*fields, body),
                None => return Ok(None),
            },
        };
        let seq = fields.seq();
        claim(
            seq > self.last_seq && seq < SEQ_MAX,
            "a sequence number",
            seq,
            "above the one before, below 2^62",
        )?;
        let lost = fields.seq() - self.last_seq - 1;
        self.last_seq = fields.seq();
        self.count_lost(lost);
        self.position += 1;
        step!("read: taken");
        self.count_read(1, fields.length() >= PIN_BYTES_MIN);
        let meta = Meta { flags: fields.flags(), time: fields.time(), source_time: fields.source_time() };
        Ok(Some(Received { seq: fields.seq(), lost, meta, body }))
    }

    /// Publishes the cursor when it is time to.
    #[inline]
    fn count_read(&mut self, messages: u64, large: bool) {
        self.unpublished += messages;
        if let Some(held_back) = &mut self.held_back {
            held_back.read(self.last_seq + u64::from(self.pack.left()), self.position);
        }
        if large
            || self.unpublished >= self.cursor_batch
            || protocol::writer_seems_to_wait(self.shared.ring.header())
        {
            self.publish_cursor();
        }
    }

    fn take_copy(&self, fields: &Fields, scratch: &mut Vec<u8>) -> Result<Option<Body>, RingError> {
        let ring = &self.shared.ring;
        let descriptor = ring.descriptor(self.position);
        let length = fields.length() as usize;
        let head_length = usize::from(fields.head_length());
        // Bounds first: the fields may be torn, and nothing outside the arena must be touched. Whether a value out of
        // bounds is a lie or a tear is known after `still`.
        if let Err(error) = self.bound(fields) {
            return if protocol::still(descriptor, self.position) { Err(error) } else { Ok(None) };
        }
        if fields.is_inline() {
            scratch.extend_from_slice(&fields.inline_bytes()[..length]);
        } else {
            let offset = u64::from(fields.offset()) * UNIT_BYTES;
            ring.copy_out(offset, length, scratch);
            if head_length > 0 {
                ring.copy_out(offset + (length as u64).next_multiple_of(8), head_length, scratch);
            }
        }
        step!("read: copied");
        if !protocol::still(descriptor, self.position) {
            return Ok(None);
        }
        Ok(Some(Body::Copied { payload: 0..length, head: length..length + head_length }))
    }

    fn take_in_place(&self, index: usize) -> Result<Option<(Fields, Body)>, RingError> {
        let ring = &self.shared.ring;
        let slot = self.shared.slot.get();
        let Some(fields) = protocol::pin(slot, index, ring.descriptor(self.position), self.position) else {
            return Ok(None);
        };
        step!("read: pinned");
        let offset = u64::from(fields.offset()) * UNIT_BYTES;
        let length = fields.length() as usize;
        let pinned = Pinned {
            shared: Arc::clone(&self.shared),
            index,
            payload: (offset, length),
            head: (offset + (length as u64).next_multiple_of(8), usize::from(fields.head_length())),
        };
        // Confirmed fields that are out of bounds are a lie; `pinned` lets go of the pin.
        let alone = !fields.is_inline() && fields.packed_messages() == 0;
        claim(alone, "a large message", fields.length().into(), "not within its descriptor, not in a pack")?;
        self.bound(&fields)?;
        Ok(Some((fields, Body::Pinned(pinned))))
    }

    fn bound(&self, fields: &Fields) -> Result<(), RingError> {
        let head = fields.head_length();
        claim(head <= HEAD_BYTES_MAX, "the length of type and headers", head.into(), "at most 16384")?;
        if fields.is_inline() {
            let fits = fields.length() as usize <= INLINE_BYTES_MAX && head == 0;
            return claim(
                fits,
                "the length of a message in its descriptor",
                fields.length().into(),
                "at most 20, no headers",
            );
        }
        let fits = self.shared.ring.bounded(fields.offset(), fields.length(), head);
        claim(
            fits,
            "the end of a message",
            (u64::from(fields.offset()) * UNIT_BYTES).saturating_add(fields.length().into()),
            "within the arena",
        )
    }

    fn count_lost(&mut self, lost: u64) {
        if lost > 0 {
            self.lost = self.lost.saturating_add(lost);
            note(&self.shared.slot.get().sleep.lost, self.lost);
        }
    }
}

/// How many messages a reader of this generation reads between two publications of its cursor.
fn cursor_batch(ring: &Ring) -> u64 {
    u64::from(ring.extent().descriptors / 8).clamp(1, CURSOR_BATCH_MAX)
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.shared.ring.is_foreign() {
            return;
        }
        if self.held_back.is_some() {
            return;
        }
        // Samples may outlive the reader; its cursor must hold up nobody any more.
        self.position = u64::MAX;
        step!("detach: reader dropped");
        self.publish_cursor();
    }
}
