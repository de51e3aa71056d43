//! What a subscriber receives.
//!
//! A message owns what it shows: small payloads are stored in it, larger copied ones in a vector, and
//! payloads read in place hold the pin that keeps their bytes where they are. It never refers back to
//! its subscription, so it may outlive it and move between threads.

use crate::bulk::BulkBytes;
use crate::error::{Error, Result};
use std::fmt;
use std::sync::Arc;
use tramline_ring::{Meta, Pinned};
use tramline_wire::{Encoding, HeaderBlock, MessageFlags};

/// Payloads up to this many bytes are stored in the message itself, without an allocation.
pub const INLINE_BYTES_MAX: usize = 64;

/// Who publishes what, as the broker vouches: uid and process id come from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The topic.
    pub topic: String,
    /// What the publisher calls itself; anybody may use any name.
    pub name: String,
    /// The publisher's session in this run of the broker; 0 is the broker itself.
    pub session: u64,
    /// The publisher's user.
    pub uid: u32,
    /// The publisher's process.
    pub pid: u32,
    /// The number it keeps on all its connections; 0: none.
    pub(crate) client: u64,
}

/// Bytes in the message itself, aligned so that most types can be viewed in them.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct Inline([u8; INLINE_BYTES_MAX]);

enum Body {
    Inline {
        bytes: Inline,
        length: u8,
    },
    /// The payload begins at `start` in `bytes` and ends at `end`.
    Owned {
        bytes: Vec<u8>,
        start: usize,
        end: usize,
    },
    Pinned(Pinned),
    /// In the ring by which the broker hands large messages over.
    Bulk(Box<BulkBytes>),
}

/// One message: `Send + Sync + 'static`, readable as `&[u8]`.
///
/// Dropping it lets its bytes go; a message read in place keeps its bytes in the publisher's ring until
/// then, so a program that collects many should copy them.
pub struct Message {
    body: Body,
    source: Arc<Source>,
    seq: u64,
    time: u64,
    rare: Option<Box<Rare>>,
    flags: u16,
    from_ring: bool,
}

/// A message is moved from hand to hand on its way to its program, which takes as long as reading a small one: up to two
/// cache lines are moved in registers, more by a call that waits for what was just written.
const _: () = assert!(size_of::<Option<Message>>() <= 128);

/// What few messages say.
#[derive(Default)]
struct Rare {
    head: Box<[u8]>,
    lost: u64,
    source_time: i64,
    /// More than the payload has here, by this many bytes.
    cut: u64,
}

impl Rare {
    fn new(head: &[u8], lost: u64, source_time: i64, cut: u64) -> Option<Box<Self>> {
        if head.is_empty() && lost == 0 && source_time == 0 && cut == 0 {
            return None;
        }
        // Checked here, once: what it says later cannot fail. A malformed block is as good as none.
        let head = HeaderBlock::parse(head).map_or_else(|_| Box::default(), |block| block.as_bytes().into());
        Some(Box::new(Self { head, lost, source_time, cut }))
    }
}

/// What a message says besides its payload, as it is made from either plane.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) source: &'a Arc<Source>,
    pub(crate) seq: u64,
    pub(crate) lost: u64,
    pub(crate) meta: Meta,
    pub(crate) head: &'a [u8],
}

impl Message {
    #[inline]
    fn new(parts: Parts<'_>, body: Body, cut: u64, from_ring: bool) -> Self {
        let Parts { source, seq, lost, meta, head } = parts;
        let rare = Rare::new(head, lost, meta.source_time, cut);
        Self { body, source: Arc::clone(source), seq, time: meta.time, rare, flags: meta.flags, from_ring }
    }

    /// From a frame: the payload is copied.
    pub(crate) fn from_socket(parts: Parts<'_>, payload: &[u8], payload_length: u64) -> Self {
        Self::new(parts, copy(payload), payload_length.saturating_sub(payload.len() as u64), false)
    }

    /// From a ring, copied small.
    #[inline]
    pub(crate) fn from_ring(parts: Parts<'_>, payload: &[u8]) -> Self {
        Self::new(parts, copy(payload), 0, true)
    }

    /// From a ring, copied large: `bytes[start..end]` is the payload.
    pub(crate) fn from_ring_buffer(parts: Parts<'_>, bytes: Vec<u8>, start: usize, end: usize) -> Self {
        Self::new(parts, Body::Owned { bytes, start, end }, 0, true)
    }

    /// From a ring, in place.
    pub(crate) fn from_ring_pinned(parts: Parts<'_>, pinned: Pinned) -> Self {
        Self::new(parts, Body::Pinned(pinned), 0, true)
    }

    /// From the broker's ring, in place.
    pub(crate) fn from_bulk(parts: Parts<'_>, bulk: Box<BulkBytes>) -> Self {
        Self::new(parts, Body::Bulk(bulk), 0, true)
    }

    /// The message, to be looked at.
    #[must_use]
    pub fn by_ref(&self) -> MessageRef<'_> {
        let rare = self.rare.as_deref();
        let (lost, source_time) = rare.map_or((0, 0), |rare| (rare.lost, rare.source_time));
        let meta = Meta { flags: self.flags, time: self.time, source_time };
        let parts = Parts { source: &self.source, seq: self.seq, lost, meta, head: self.head() };
        MessageRef::new(parts, self.payload())
    }

    /// Bytes it takes in this process's memory while it waits.
    pub(crate) fn held_bytes(&self) -> usize {
        let body = match &self.body {
            Body::Owned { bytes, .. } => bytes.capacity(),
            Body::Inline { .. } | Body::Pinned(_) | Body::Bulk(_) => 0,
        };
        let rare = self.rare.as_ref().map_or(0, |rare| size_of::<Rare>() + rare.head.len());
        size_of::<Self>() + body + rare
    }

    fn head(&self) -> &[u8] {
        self.rare.as_ref().map_or(&[], |rare| &rare.head)
    }

    pub(crate) fn add_lost(&mut self, lost: u64) {
        let rare = self.rare.get_or_insert_default();
        rare.lost = rare.lost.saturating_add(lost);
    }

    /// The topic it was published on.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.source.topic
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.body {
            Body::Inline { bytes, length } => &bytes.0[..usize::from(*length)],
            Body::Owned { bytes, start, end } => &bytes[*start..*end],
            Body::Pinned(pinned) => pinned.payload(),
            Body::Bulk(bulk) => bulk.payload(),
        }
    }

    /// The payload's length in bytes as it was published. It is more than `payload().len()` only when
    /// the payload was too large for the socket of a subscription without rings.
    #[must_use]
    pub fn payload_length(&self) -> u64 {
        self.payload().len() as u64 + self.rare.as_ref().map_or(0, |rare| rare.cut)
    }

    /// The payload as text.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(self.payload())
            .map_err(|error| Error::Payload { what: "UTF-8", reason: error.to_string().into() })
    }

    /// Its number among what this publisher published on this topic; the first is 1.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// How many messages this subscription lost since the message before this one.
    #[must_use]
    pub fn lost_before(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.lost)
    }

    /// When it was published: nanoseconds of `CLOCK_MONOTONIC` (see [`monotonic_nanos`](crate::monotonic_nanos)).
    #[must_use]
    pub fn time(&self) -> u64 {
        self.time
    }

    /// When what it tells happened, if its publisher said so: nanoseconds since 1970, UTC.
    #[must_use]
    pub fn source_time(&self) -> Option<i64> {
        self.flags().has_source_time().then(|| self.rare.as_ref().map_or(0, |rare| rare.source_time))
    }

    /// How its bytes are to be understood, as the publisher says.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.flags().encoding()
    }

    fn flags(&self) -> MessageFlags {
        // Flags in a ring are a claim; unknown ones say nothing.
        MessageFlags::from_bits(self.flags).unwrap_or_default()
    }

    /// Who published it.
    #[must_use]
    pub fn publisher(&self) -> &Source {
        &self.source
    }

    /// Its type, if it has one.
    #[must_use]
    pub fn message_type(&self) -> Option<&str> {
        self.block().message_type()
    }

    /// Its headers, name and value, in the order they were given.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.block().iter()
    }

    /// The value of one header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.block().get(name)
    }

    fn block(&self) -> HeaderBlock<'_> {
        HeaderBlock::parse(self.head()).unwrap_or_default()
    }

    /// Whether it came through a ring; otherwise through the broker's socket.
    #[must_use]
    pub fn through_ring(&self) -> bool {
        self.from_ring
    }

    /// Whether its payload is read where it was published, without a copy.
    #[must_use]
    pub fn in_place(&self) -> bool {
        matches!(self.body, Body::Pinned(_) | Body::Bulk(_))
    }

    /// The payload read as JSON. Borrows from the payload where `T` does.
    ///
    /// # Errors
    /// When it is not JSON, or not of this shape.
    #[cfg(feature = "serde")]
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_slice(self.payload())
            .map_err(|error| Error::Payload { what: "the JSON wanted", reason: error.to_string().into() })
    }

    /// The payload read as bincode, in that crate's standard configuration.
    ///
    /// # Errors
    /// When it is not of this shape, or bytes are left over.
    #[cfg(feature = "serde")]
    pub fn bincode<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        crate::payload::from_bincode(self.payload())
    }

    /// The payload as [`Bytes`](bytes::Bytes), which keeps the pin of a payload read in place: no copy.
    #[cfg(feature = "bytes")]
    #[must_use]
    pub fn into_bytes(self) -> bytes::Bytes {
        bytes::Bytes::from_owner(self)
    }

    /// The payload viewed as a `T`, without a copy.
    ///
    /// Payloads in place are aligned to 64 bytes, small copied ones to 16.
    ///
    /// # Errors
    /// When the size or the alignment does not fit, or the bytes are no valid `T`.
    #[cfg(feature = "zerocopy")]
    pub fn view<T>(&self) -> Result<&T>
    where
        T: zerocopy::TryFromBytes + zerocopy::KnownLayout + zerocopy::Immutable + ?Sized,
    {
        T::try_ref_from_bytes(self.payload()).map_err(|error| {
            let reason = match error {
                zerocopy::ConvertError::Alignment(_) => "its address is not aligned for it",
                zerocopy::ConvertError::Size(_) => "its size is another",
                zerocopy::ConvertError::Validity(_) => "its bytes are no valid value",
            };
            Error::Payload { what: std::any::type_name::<T>(), reason: reason.into() }
        })
    }
}

/// A message that is only looked at, where it lies; see
/// [`Subscription::recv_each`](crate::Subscription::recv_each).
#[derive(Clone, Copy)]
pub struct MessageRef<'a> {
    parts: Parts<'a>,
    payload: &'a [u8],
}

impl<'a> MessageRef<'a> {
    #[inline]
    pub(crate) fn new(parts: Parts<'a>, payload: &'a [u8]) -> Self {
        Self { parts, payload }
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The topic it was published on.
    #[must_use]
    pub fn topic(&self) -> &'a str {
        &self.parts.source.topic
    }

    /// Who published it.
    #[must_use]
    pub fn publisher(&self) -> &'a Source {
        self.parts.source
    }

    /// Its number among what this publisher published on this topic; the first is 1.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.parts.seq
    }

    /// How many messages this subscription lost since the message before this one.
    #[must_use]
    pub fn lost_before(&self) -> u64 {
        self.parts.lost
    }

    /// When it was published: nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn time(&self) -> u64 {
        self.parts.meta.time
    }

    /// Its type, if it has one.
    #[must_use]
    pub fn message_type(&self) -> Option<&'a str> {
        self.block().message_type()
    }

    /// The value of one header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.block().get(name)
    }

    fn block(&self) -> HeaderBlock<'a> {
        HeaderBlock::parse(self.parts.head).unwrap_or_default()
    }
}

impl AsRef<[u8]> for MessageRef<'_> {
    fn as_ref(&self) -> &[u8] {
        self.payload
    }
}

impl fmt::Debug for MessageRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageRef")
            .field("topic", &self.topic())
            .field("seq", &self.seq())
            .field("lost_before", &self.lost_before())
            .field("payload_length", &self.payload.len())
            .finish_non_exhaustive()
    }
}

#[inline]
fn copy(payload: &[u8]) -> Body {
    match u8::try_from(payload.len()) {
        Ok(length) if payload.len() <= INLINE_BYTES_MAX => {
            let mut bytes = Inline([0; INLINE_BYTES_MAX]);
            bytes.0[..payload.len()].copy_from_slice(payload);
            Body::Inline { bytes, length }
        }
        _ => Body::Owned { bytes: payload.to_vec(), start: 0, end: payload.len() },
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self.payload()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic())
            .field("seq", &self.seq)
            .field("lost_before", &self.lost_before())
            .field("publisher", &self.source.name)
            .field("payload_length", &self.payload_length())
            .field("from_ring", &self.from_ring)
            .finish_non_exhaustive()
    }
}
