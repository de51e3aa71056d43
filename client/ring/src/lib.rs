//! Skeleton of the public API (bodies follow).
#![allow(missing_docs, unused_variables, clippy::missing_errors_doc, clippy::todo)]
#[cfg(feature = "baseline")]
pub mod baseline;

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// What went wrong with shared memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    #[error("{what}: {error}")]
    Os { what: &'static str, error: std::io::Error },
    /// The kernel lacks a feature, named.
    #[error("this kernel lacks {0}")]
    Missing(&'static str),
    /// A peer's memory or descriptor is not what it must be (maps to Code::FalseClaim / BadDescriptor).
    #[error("{what} is {value}, which is impossible: {rule}")]
    Claim { what: &'static str, value: u64, rule: &'static str },
    /// A spec or argument outside its limit.
    #[error("{what} is {value}; at most {max} is allowed")]
    Limit { what: &'static str, value: u64, max: u64 },
    /// Not enough memory in the machine or the cgroup: refused before the kernel would kill.
    #[error("a ring of {wanted} bytes does not fit: {available} bytes are available ({scope})")]
    NoMemory { wanted: u64, available: u64, scope: &'static str },
}

/// What a generation's memory must be; agreed over the socket, checked against the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSpec {
    pub stream: u64,
    pub generation: u32,
    pub descriptors: u32,
    pub arena_bytes: u64,
    /// Position of the generation's first message (0 for generation 0, any start in tests).
    pub first_position: u64,
    /// Sequence number that its first message will have.
    pub first_seq: u64,
}
impl RingSpec {
    /// Total size of the memfd in bytes: header page, descriptors, arena.
    pub fn memory_bytes(&self) -> u64 { todo!() }
    /// Smallest geometry (descriptors: power of two, arena: page multiple) for `messages` messages of up to `bytes`.
    pub fn sized(stream: u64, message_bytes: u64, messages: u32) -> Result<Self, RingError> { todo!() }
}

/// Which generation of which stream a ring must be, and its size: what the socket said, checked against the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingIdentity { pub stream: u64, pub generation: u32, pub descriptors: u32, pub arena_bytes: u64 }
/// Checks a ring's memfd: tmpfs, seals, exact size, no holes, header. For the broker (blocking file calls).
pub fn verify_ring(fd: BorrowedFd<'_>, identity: &RingIdentity) -> Result<(), RingError> { todo!() }
/// Checks a reader page's memfd.
pub fn verify_page(fd: BorrowedFd<'_>, slots: u32) -> Result<(), RingError> { todo!() }

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadMode { Gated, Lossy }

/// Where a reader begins: the position, and the sequence number of the first message from there on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start { pub position: u64, pub seq: u64 }

/// What a message says besides its bytes. `flags` are wire's MessageFlags bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meta { pub flags: u16, pub time: u64, pub source_time: i64 }

/// Why a message was not taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// No room until a gated reader moves on or a sample is let go. `holder`: id of a reader in the way.
    #[error("the ring is full")]
    Full { holder: Option<u64> },
    #[error("a message of {bytes} bytes; the ring takes {max}")]
    TooLarge { bytes: u64, max: u64 },
    #[error("the stream is closed")]
    Closed,
}

/// The writer's side of a link: reader pages mapped read-only, doorbell to write, space bell to read.
/// Shared (Arc) by all writers of this process to the same subscription.
pub struct WriterLink {}
impl WriterLink {
    pub fn new(doorbell: OwnedFd, space: OwnedFd) -> Result<Self, RingError> { todo!() }
    /// Verifies and maps one more reader page (blocking file calls).
    pub fn add_page(&self, page: OwnedFd, first_slot: u32, slots: u32) -> Result<(), RingError> { todo!() }
    /// The space bell's reading end, to wait on. Hang-up means the reader died.
    pub fn space(&self) -> BorrowedFd<'_> { todo!() }
    /// Empties the space bell. `false`: hung up.
    pub fn drain_space(&self) -> bool { todo!() }
}

/// The one writer of a generation. Not shared between threads by itself; put it in a Mutex.
pub struct Writer {}
impl Writer {
    /// Makes, fills, maps and seals the memory (blocking; may take milliseconds for large rings).
    /// `depth`: how many messages are kept for late and lossy readers (at most `descriptors`).
    pub fn create(spec: &RingSpec, depth: u32) -> Result<Self, RingError> { todo!() }
    pub fn memory(&self) -> BorrowedFd<'_> { todo!() }
    pub fn spec(&self) -> &RingSpec { todo!() }
    /// Admits a reader under `id` (the attachment's id), `history` messages back; returns where it starts.
    pub fn add_reader(&mut self, id: u64, link: &Arc<WriterLink>, slot: u32, mode: ReadMode, history: u32) -> Result<Start, RingError> { todo!() }
    /// Forgets a reader; what it held is free again. `false` if unknown.
    pub fn remove_reader(&mut self, id: u64) -> bool { todo!() }
    pub fn reader_count(&self) -> usize { todo!() }
    /// Copies a message in, publishes it and wakes sleepers. Returns its sequence number.
    pub fn try_send(&mut self, meta: Meta, head: &[u8], payload: &[u8]) -> Result<u64, SendError> { todo!() }
    /// As `try_send`, but wakes nobody until `flush`: one fence and one look at the readers per batch.
    pub fn try_push(&mut self, meta: Meta, head: &[u8], payload: &[u8]) -> Result<u64, SendError> { todo!() }
    pub fn flush(&mut self) { todo!() }
    /// Takes room for a payload to be filled in place, without holding the writer.
    pub fn try_loan(&mut self, payload_bytes: usize, head_bytes: usize) -> Result<Loan, SendError> { todo!() }
    /// Publishes a loan's first `used` bytes and wakes sleepers. `head` at most as long as announced (else cut off: assert). Never full: the loan reserved its descriptor.
    pub fn commit(&mut self, loan: Loan, used: usize, meta: Meta, head: &[u8]) -> u64 { todo!() }
    /// Gives a loan's room back.
    pub fn cancel(&mut self, loan: Loan) { todo!() }
    /// Consumes a sequence number without a message (OnFull::Drop); readers see it as lost.
    pub fn skip(&mut self) -> u64 { todo!() }
    /// The sequence number the next message gets.
    pub fn next_seq(&self) -> u64 { todo!() }
    /// Announces that the writer waits for room, so that readers ring their space bells. Then try again, and
    /// only then sleep on the links' space bells. Call again after each wake that did not help.
    pub fn begin_wait(&mut self) { todo!() }
    pub fn end_wait(&mut self) { todo!() }
    /// No more messages: readers read to the end and then see `Next::Ended`.
    pub fn close(&mut self) { todo!() }
}

/// Room in a ring's arena, writable by this process until committed. `Send`. Dropping it without commit or
/// cancel keeps the room taken until the writer goes.
pub struct Loan {}
impl Loan {
    /// All bytes are initialised (zero or old data of this stream).
    pub fn bytes_mut(&mut self) -> &mut [u8] { todo!() }
    pub fn len(&self) -> usize { todo!() }
    pub fn is_empty(&self) -> bool { todo!() }
}

/// A reader page this process has just made, to be sent to the other side.
pub struct NewPage { pub fd: OwnedFd, pub first_slot: u32, pub slots: u32 }

/// The reader's side of a link: its pages and bells. Share as Arc.
pub struct ReaderLink {}
impl ReaderLink {
    pub fn new() -> Self { todo!() }
    /// A free slot, and the page that was made for it if all known ones were taken.
    pub fn allocate_slot(&self) -> Result<(u32, Option<NewPage>), RingError> { todo!() }
    pub fn set_bells(&self, doorbell: OwnedFd, space: OwnedFd) -> Result<(), RingError> { todo!() }
    /// The doorbell's reading end, to wait on; None before `set_bells`. Hang-up means the writer died.
    pub fn doorbell(&self) -> Option<BorrowedFd<'_>> { todo!() }
    /// Empties the doorbell; slots that woke are appended to `slots`.
    pub fn drain(&self, slots: &mut Vec<u32>) -> Drained { todo!() }
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// The slots that were rung.
    Some,
    /// So many that all must be looked at.
    All,
    /// The writer has gone; look at all, then they end.
    HungUp,
}

/// One subscription's reader of one stream.
pub struct Reader {}
impl Reader {
    /// Verifies and maps. `in_place`: large payloads may be pinned and read where they are; otherwise copied.
    pub fn attach(memory: OwnedFd, identity: &RingIdentity, link: &Arc<ReaderLink>, slot: u32, start: Start, in_place: bool) -> Result<Self, RingError> { todo!() }
    pub fn slot(&self) -> u32 { todo!() }
    /// The next message if there is one. Small payloads are copied into `scratch` (cleared first), large ones pinned.
    pub fn try_next(&mut self, scratch: &mut Vec<u8>) -> Result<Next, RingError> { todo!() }
    /// Cheap: whether `try_next` would find something (message, loss or end).
    pub fn ready(&self) -> bool { todo!() }
    /// Before sleeping: publishes the cursor, takes an odd epoch, fences and looks again. `true`: something is
    /// there, do not sleep (the reader is disarmed again).
    pub fn arm(&mut self) -> bool { todo!() }
    /// After waking or on the first look after a sleep.
    pub fn disarm(&mut self) { todo!() }
    pub fn is_armed(&self) -> bool { todo!() }
    /// Publishes the cursor now (otherwise in batches, and always by `arm`), ringing a waiting writer.
    pub fn publish_cursor(&mut self) { todo!() }
    /// The writer's end has hung up: once everything published is read, `try_next` says `Ended`.
    pub fn writer_gone(&mut self) { todo!() }
    /// Sequence number of the last message read or known lost.
    pub fn last_seq(&self) -> u64 { todo!() }
    pub fn lost(&self) -> u64 { todo!() }
    /// Messages published and not yet read.
    pub fn lag(&self) -> u64 { todo!() }
}
#[derive(Debug)]
pub enum Next {
    Empty,
    Message(Received),
    /// All was read and no more will come. `lost`: dropped by the publisher after the last message.
    Ended { lost: u64 },
    /// All of this generation was read; its successor is to be asked for (growth, not yet written).
    Successor,
}
#[derive(Debug)]
pub struct Received {
    pub seq: u64,
    /// Messages lost just before this one, exactly.
    pub lost: u64,
    pub meta: Meta,
    pub body: Body,
}
#[derive(Debug)]
pub enum Body {
    /// In `scratch`.
    Copied { payload: Range<usize>, head: Range<usize> },
    /// Where it was published.
    Pinned(Pinned),
}
/// A message held in place; its bytes stay until this is dropped. `Send + Sync + 'static`.
#[derive(Debug)]
pub struct Pinned {}
impl Pinned {
    pub fn payload(&self) -> &[u8] { todo!() }
    pub fn head(&self) -> &[u8] { todo!() }
}

/// Looks at a ring's header without reading messages (for status and metrics). All values are claims.
pub struct Observer {}
impl Observer {
    pub fn new(memory: impl AsFd) -> Result<Self, RingError> { todo!() }
    pub fn counters(&self) -> Counters { todo!() }
}
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters { pub head: u64, pub oldest: u64, pub messages: u64, pub bytes: u64, pub skipped: u64, pub waits: u64, pub closed: bool }

/// Looks at the slots of a reader page (for status and metrics). All values are claims.
pub struct PageObserver {}
impl PageObserver {
    pub fn new(page: impl AsFd, first_slot: u32, slots: u32) -> Result<Self, RingError> { todo!() }
    pub fn slot(&self, slot: u32) -> Option<SlotCounters> { todo!() }
}
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotCounters { pub cursor: u64, pub lost: u64, pub pinned: u32, pub asleep: bool }

/// Adaptive waiting: check and `sched_yield` in turn for a while after the last success, then say "park".
/// Never spins where the affinity mask holds one core.
pub struct Spinner {}
impl Spinner {
    /// `spin`: how long to go on after the last traffic; zero never spins.
    pub fn new(spin: std::time::Duration) -> Self { todo!() }
    /// Call when something arrived.
    pub fn busy(&mut self) { todo!() }
    /// Call when nothing was there: yields and returns `true` to look again, `false` to park.
    pub fn turn(&mut self) -> bool { todo!() }
}

/// Missing kernel features, named; empty when rings work here.
pub fn missing_features() -> Vec<&'static str> { todo!() }
