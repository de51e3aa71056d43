//! Mappings seen as what they hold: a generation, or a reader page. All conversions from addresses to references
//! are here, each behind a bound that was checked when the view was made.
//!
//! Words that two processes use at the same time are reached as atomics. Payload bytes are written by the
//! writer while nobody who will believe them reads them, and copied by readers word by word, atomically, so
//! that a copy that meets newer bytes is merely wrong (and then discarded, see
//! [`protocol`](crate::protocol)), not undefined.

use crate::ahead;
use crate::error::{RingError, claim};
use crate::layout::{
    ARENA_BYTES_MAX, DESCRIPTOR_BYTES, DESCRIPTORS_MAX, DESCRIPTORS_MIN, Descriptor, Header, LAYOUT_VERSION,
    PAGE_BYTES, PAGE_MAGIC, PAGE_SLOTS_MAX, POSITION_MAX, PageHeader, RING_MAGIC, SLOT_BYTES, Slot,
    UNIT_BYTES,
};
use crate::memory::{self, Mapping};
use crate::protocol::{note, peek};
use crate::spec::{RingIdentity, RingSpec};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Copies up to this size are stored word by word; larger ones by `memcpy`.
const WORDWISE_BYTES_MAX: usize = 256;

/// Bytes that `memcpy` is given at once. From about 2 KiB on the C library uses the processor's string instruction, which
/// copies at a twentieth of the usual rate on AMD's Zen 3 and 4 where the target lies up to 63 bytes behind the source
/// within their pages (49 GB/s and 2.3); whose memory the source is, we do not choose. In pieces it is as fast as ever.
const PIECE_BYTES: usize = 1024;

/// Sizes within a generation; a value of this type has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) descriptors: u32,
    pub(crate) arena_bytes: u64,
}

impl Extent {
    pub(crate) fn new(descriptors: u32, arena_bytes: u64) -> Result<Self, RingError> {
        let fits =
            descriptors.is_power_of_two() && (DESCRIPTORS_MIN..=DESCRIPTORS_MAX).contains(&descriptors);
        claim(fits, "the number of descriptors", descriptors.into(), "a power of two from 2 to 1048576")?;
        let fits =
            arena_bytes > 0 && arena_bytes.is_multiple_of(PAGE_BYTES) && arena_bytes <= ARENA_BYTES_MAX;
        claim(fits, "the size of the arena", arena_bytes, "whole pages, at least one, at most 256 GiB")?;
        Ok(Self { descriptors, arena_bytes })
    }

    fn arena_start(self) -> u64 {
        PAGE_BYTES + (u64::from(self.descriptors) * DESCRIPTOR_BYTES).next_multiple_of(PAGE_BYTES)
    }

    pub(crate) fn memory_bytes(self) -> u64 {
        self.arena_start() + self.arena_bytes
    }
}

/// A generation's memory.
#[derive(Debug)]
pub(crate) struct Ring {
    mapping: Mapping,
    extent: Extent,
}

/// Writes what never changes in a generation's header.
pub(crate) fn note_constants(header: &Header, spec: &RingSpec) {
    note(&header.magic, RING_MAGIC);
    note(&header.version, LAYOUT_VERSION);
    note(&header.stream, spec.stream);
    note(&header.generation, spec.generation.into());
    note(&header.descriptors, spec.descriptors.into());
    note(&header.arena_bytes, spec.arena_bytes);
    note(&header.first_position, spec.first_position);
    note(&header.first_seq, spec.first_seq);
}

impl Ring {
    /// Makes a generation's memory, written and sealed.
    pub(crate) fn create(spec: &RingSpec) -> Result<(OwnedFd, Self), RingError> {
        let extent = Extent::new(spec.descriptors, spec.arena_bytes)?;
        claim(spec.first_position < POSITION_MAX, "the first position", spec.first_position, "below 2^62")?;
        let (fd, mapping) = memory::create_sealed("tramline-ring", extent.memory_bytes(), |mapping| {
            // SAFETY: the mapping is at least a page long, page-aligned, zeroed, and lives through this call.
            let header = unsafe { mapping.base().cast::<Header>().as_ref() };
            note_constants(header, spec);
            note(&header.counters.head, spec.first_position);
            note(&header.counters.oldest, spec.first_position);
        })?;
        Ok((fd, Self { mapping, extent }))
    }

    /// Verifies and maps somebody else's generation.
    pub(crate) fn open(fd: BorrowedFd<'_>, identity: &RingIdentity) -> Result<Self, RingError> {
        let extent = Extent::new(identity.descriptors, identity.arena_bytes)?;
        memory::verify_sealed(fd, extent.memory_bytes())?;
        let ring = Self { mapping: memory::map_readonly(fd, extent.memory_bytes())?, extent };
        ring.check_header(identity)?;
        Ok(ring)
    }

    fn check_header(&self, identity: &RingIdentity) -> Result<(), RingError> {
        let header = self.header();
        let equal = |word: &AtomicU64, wanted: u64, what, rule| {
            let value = peek(word);
            claim(value == wanted, what, value, rule)
        };
        equal(&header.magic, RING_MAGIC, "the mark of a ring", "TRAMRING in ASCII")?;
        equal(&header.version, LAYOUT_VERSION, "the version of a ring's layout", "2 is known here")?;
        let declared = "what was declared on the socket";
        equal(&header.stream, identity.stream, "the stream in a ring's header", declared)?;
        equal(&header.generation, identity.generation.into(), "the generation in a ring's header", declared)?;
        equal(
            &header.descriptors,
            identity.descriptors.into(),
            "the number of descriptors in a ring's header",
            declared,
        )?;
        equal(
            &header.arena_bytes,
            identity.arena_bytes,
            "the size of the arena in a ring's header",
            declared,
        )?;
        let first = peek(&header.first_position);
        claim(first < POSITION_MAX, "the first position in a ring's header", first, "below 2^62")
    }

    /// Whether this is a fork of the process that mapped it, which has nothing of it.
    #[inline]
    pub(crate) fn is_foreign(&self) -> bool {
        self.mapping.is_foreign()
    }

    /// The process that mapped it.
    pub(crate) fn born(&self) -> u64 {
        self.mapping.born()
    }

    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }

    pub(crate) fn header(&self) -> &Header {
        // SAFETY: the mapping begins with a page that is a `Header` (all atomics, any bytes are valid) and lives
        // as long as `self`.
        unsafe { self.mapping.base().cast::<Header>().as_ref() }
    }

    #[inline]
    pub(crate) fn descriptor(&self, position: u64) -> &Descriptor {
        let index = position & u64::from(self.extent.descriptors - 1);
        let offset = usize::try_from(PAGE_BYTES + index * DESCRIPTOR_BYTES).expect("within a mapping");
        // SAFETY: the index is below the number of descriptors, which the mapping holds after its first page.
        let address = unsafe { self.mapping.base().add(offset) };
        // SAFETY: aligned to 64 as the base is to a page; all atomics; lives as long as `self`.
        unsafe { address.cast::<Descriptor>().as_ref() }
    }

    /// Address of `length` bytes at `offset` of the arena.
    fn arena(&self, offset: u64, length: usize) -> std::ptr::NonNull<u8> {
        let end = offset + length as u64;
        assert!(end <= self.extent.arena_bytes, "{length} bytes at {offset} lie outside the arena");
        let at = usize::try_from(self.extent.arena_start() + offset).expect("within a mapping");
        debug_assert!(at + length <= self.mapping.bytes(), "the arena lies within the mapping");
        // SAFETY: the mapping was made for exactly this extent, and the range was just bounded.
        unsafe { self.mapping.base().add(at) }
    }

    fn words(&self, offset: u64, count: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(8), "words are aligned");
        let address = self.arena(offset, count * 8);
        // SAFETY: in bounds, aligned, and plain memory seen as atomics.
        unsafe { std::slice::from_raw_parts(address.cast::<AtomicU64>().as_ptr(), count) }
    }

    /// Copies `bytes` to `offset` (a multiple of 8) of this writer's own arena. The block's last word must belong
    /// to the caller too: it is written whole.
    #[inline]
    pub(crate) fn copy_in(&self, offset: u64, bytes: &[u8]) {
        assert!(self.mapping.writable(), "only the writer copies in");
        if bytes.len() > WORDWISE_BYTES_MAX {
            let mut address = self.arena(offset, bytes.len());
            for piece in bytes.chunks(PIECE_BYTES) {
                // SAFETY: the pieces together are in bounds; the block belongs to the caller alone within this process,
                // other processes cannot write it and believe nothing of it until it is published.
                unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), address.as_ptr(), piece.len()) };
                // SAFETY: as far as the end of the block, where the last piece ends.
                address = unsafe { address.add(piece.len()) };
            }
            return;
        }
        let (whole, rest) = bytes.as_chunks::<8>();
        let words = self.words(offset, bytes.len().div_ceil(8));
        for (word, chunk) in words.iter().zip(whole) {
            word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            words[whole.len()].store(u64::from_le_bytes(last), Ordering::Relaxed);
        }
    }

    /// Writes a message of a pack to `offset` (a multiple of 8): its length in a word, and its bytes as
    /// [`copy_in`](Self::copy_in) does.
    #[inline]
    pub(crate) fn pack_in(&self, offset: u64, bytes: &[u8]) {
        self.words(offset, 1)[0].store(bytes.len() as u64, Ordering::Relaxed);
        self.copy_in(offset + 8, bytes);
    }

    /// Copies `count` words at `offset` (a multiple of 8) to `out`, in place of what it held. They are a claim as in
    /// [`copy_out`](Self::copy_out).
    #[inline]
    pub(crate) fn words_out(&self, offset: u64, count: usize, out: &mut Vec<[u8; 8]>) {
        out.clear();
        out.extend(self.words(offset, count).iter().map(|word| word.load(Ordering::Relaxed).to_le_bytes()));
    }

    /// Appends `length` bytes at `offset` (a multiple of 8) to `out`. They are a claim, and may be torn, until the
    /// protocol confirms them. The range must lie within the arena.
    pub(crate) fn copy_out(&self, offset: u64, length: usize, out: &mut Vec<u8>) {
        let words = self.words(offset, length.div_ceil(8));
        let start = out.len();
        out.resize(start + length, 0);
        let (whole, rest) = out[start..].as_chunks_mut::<8>();
        for (chunk, word) in whole.iter_mut().zip(words) {
            *chunk = word.load(Ordering::Relaxed).to_le_bytes();
        }
        if !rest.is_empty() {
            let last = words[whole.len()].load(Ordering::Relaxed).to_le_bytes();
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }

    /// Bytes in place.
    ///
    /// This is the soundness decision above the primitives: the slice is valid memory for as long as the ring is
    /// mapped, but a publisher that breaks the protocol can change bytes under it. The broker therefore grants
    /// in-place reading only for publishers that the reader trusts (its own uid, root, the broker) unless the user
    /// asks for more. A fork does not inherit the memory: there, nothing is left of the bytes.
    pub(crate) fn bytes(&self, offset: u64, length: usize) -> &[u8] {
        if self.is_foreign() {
            return &[];
        }
        let address = self.arena(offset, length);
        // SAFETY: in bounds, initialised (the memory began as zeros), mapped as long as `self` lives; it stays
        // unchanged while the message is pinned, by the protocol.
        unsafe { std::slice::from_raw_parts(address.as_ptr(), length) }
    }

    /// Asks for the line at `offset` of the arena, if there is one.
    #[inline]
    pub(crate) fn look_ahead(&self, offset: u64) {
        let at = usize::try_from(self.extent.arena_start() + offset).expect("within a mapping");
        ahead::to_write(self.mapping.base().as_ptr().wrapping_add(at));
    }

    /// Address of a loaned block's payload.
    pub(crate) fn loan_address(&self, offset: u64, length: usize) -> std::ptr::NonNull<u8> {
        assert!(self.mapping.writable(), "only the writer loans");
        self.arena(offset, length)
    }

    /// Whether a payload and its header block lie within the arena; all values are claims.
    pub(crate) fn bounded(&self, offset_units: u32, length: u32, head_length: u16) -> bool {
        let end = u64::from(offset_units) * UNIT_BYTES
            + u64::from(length).next_multiple_of(8)
            + u64::from(head_length).next_multiple_of(8);
        end <= self.extent.arena_bytes
    }
}

/// A reader page's memory.
#[derive(Debug)]
pub(crate) struct Page {
    mapping: Mapping,
    slots: u32,
}

impl Page {
    fn bytes_for(slots: u32) -> Result<u64, RingError> {
        let fits = (1..=PAGE_SLOTS_MAX).contains(&slots);
        claim(fits, "the number of slots of a reader page", slots.into(), "from 1 to 4095")?;
        Ok((SLOT_BYTES * (u64::from(slots) + 1)).next_multiple_of(PAGE_BYTES))
    }

    /// Makes a page of this process's own.
    pub(crate) fn create(slots: u32) -> Result<(OwnedFd, Self), RingError> {
        let (fd, mapping) = memory::create_sealed("tramline-page", Self::bytes_for(slots)?, |mapping| {
            // SAFETY: the mapping is at least a page long, page-aligned, zeroed, and lives through this call.
            let header = unsafe { mapping.base().cast::<PageHeader>().as_ref() };
            note(&header.magic, PAGE_MAGIC);
            note(&header.version, LAYOUT_VERSION);
            note(&header.slots, slots.into());
        })?;
        Ok((fd, Self { mapping, slots }))
    }

    /// Verifies and maps somebody else's page.
    pub(crate) fn open(fd: impl AsFd, slots: u32) -> Result<Self, RingError> {
        let bytes = Self::bytes_for(slots)?;
        memory::verify_sealed(fd.as_fd(), bytes)?;
        let page = Self { mapping: memory::map_readonly(fd.as_fd(), bytes)?, slots };
        // SAFETY: the mapping begins with a `PageHeader` (all atomics) and lives through this call.
        let header = unsafe { page.mapping.base().cast::<PageHeader>().as_ref() };
        let magic = peek(&header.magic);
        claim(magic == PAGE_MAGIC, "the mark of a reader page", magic, "TRAMPAGE in ASCII")?;
        let version = peek(&header.version);
        claim(
            version == LAYOUT_VERSION,
            "the version of a reader page's layout",
            version,
            "2 is known here",
        )?;
        let declared = peek(&header.slots);
        claim(
            declared == u64::from(slots),
            "the number of slots in a page's header",
            declared,
            "what was declared on the socket",
        )?;
        Ok(page)
    }

    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    /// One slot; `index` counts within the page.
    pub(crate) fn slot(&self, index: u32) -> &Slot {
        assert!(index < self.slots, "slot {index} of a page with {}", self.slots);
        let offset = usize::try_from(SLOT_BYTES * (u64::from(index) + 1)).expect("within a mapping");
        // SAFETY: the index was just bounded, and the page was sized for all its slots.
        let address = unsafe { self.mapping.base().add(offset) };
        // SAFETY: aligned to 256 as the base is to a page; all atomics; lives as long as `self`.
        unsafe { address.cast::<Slot>().as_ref() }
    }
}
