//! Plain shared memory between two processes, without any of the ring's promises: what `tramline bench`
//! compares the ring with.
//!
//! An [`Exchange`] is one sealed memfd that a first and one or several second processes map for reading and writing: a
//! header of turn counters and a few slots of bytes. A slot belongs to the first side or to all second sides at a time
//! and goes to the other with one Release store; nobody sleeps, nothing is numbered, nothing is checked, and all ends
//! trust each other. This is the least that processes on several cores must do, hence the limit of what a ring can
//! reach.
//!
//! It lives in this crate because mapping and sharing memory needs unsafe code; nothing in Tramline's data
//! path uses it, and it is built only with the feature `baseline`.
//!
//! ```text
//! header    magic · slots · slot bytes · seconds · joined       one 128-byte line
//!           slot i: first's count │ count of each second side   a 128-byte line each
//! then      slot 0 · slot 1 · …                                 each a multiple of the page size
//! ```
//!
//! Slot i is the first side's while all counts are equal, and a second's while the first's is one ahead of its own.

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

const MAGIC: u64 = u64::from_le_bytes(*b"TrmlBase");
const PAGE: usize = 4096;
/// Two cache lines: the neighbour line is prefetched along on common processors.
const LINE: usize = 128;
/// Most slots of one exchange.
pub const SLOTS_MAX: usize = 64;
/// Most second sides of one exchange.
pub const SECONDS_MAX: usize = 64;
/// Most bytes of one slot.
pub const SLOT_BYTES_MAX: usize = 1 << 30;
/// Looks at a counter before the processor is told that this is a spinning loop: a short wait ends sooner
/// without, a long one leaves more of a shared core to the other side with.
const LOOKS_AT_ONCE: u32 = 512;
/// Looks at a counter between two questions whether to give up; also between two yields of the processor.
const LOOKS_PER_QUESTION: u32 = 768;

/// Which end of an exchange this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It made the exchange and has the first turn on every slot.
    First,
    /// It joined, as the one with this number.
    Second(usize),
}

/// One end of a few slots of shared memory that processes hand back and forth.
#[derive(Debug)]
pub struct Exchange {
    base: NonNull<u8>,
    mapped: usize,
    slots: usize,
    slot_bytes: usize,
    seconds: usize,
    side: Side,
    memory: OwnedFd,
}

// SAFETY: the mapping belongs to this value alone (it is unmapped by its drop only), and every access to
// bytes that the other process also touches goes through atomics or follows the turn protocol.
unsafe impl Send for Exchange {}

impl Exchange {
    /// Makes and seals the memory for this many second sides and maps it, as the first side.
    ///
    /// # Errors
    /// When a number is zero or above [`SLOTS_MAX`], [`SLOT_BYTES_MAX`] or [`SECONDS_MAX`], or the system refuses the
    /// memory.
    pub fn create(slots: usize, slot_bytes: usize, seconds: usize) -> io::Result<Self> {
        let mapped = mapped_bytes(slots, slot_bytes, seconds)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an exchange of impossible size"))?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("tramline-baseline", flags)?;
        rustix::fs::ftruncate(&memory, mapped as u64)?;
        rustix::fs::fallocate(&memory, rustix::fs::FallocateFlags::empty(), 0, mapped as u64)?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let exchange = Self::map(memory, mapped, (slots, slot_bytes, seconds), Side::First)?;
        exchange.word(3).store(seconds as u64, Ordering::Relaxed);
        exchange.word(1).store(slots as u64, Ordering::Relaxed);
        exchange.word(2).store(slot_bytes as u64, Ordering::Relaxed);
        exchange.word(0).store(MAGIC, Ordering::Release);
        Ok(exchange)
    }

    /// Maps what [`Exchange::create`] made in another process, as a second side.
    ///
    /// # Errors
    /// When the memory is not an exchange, already has its second sides, or cannot be mapped.
    pub fn join(memory: impl AsFd) -> io::Result<Self> {
        let memory = memory.as_fd().try_clone_to_owned()?;
        let seals = rustix::fs::fcntl_get_seals(&memory)?;
        let size = usize::try_from(rustix::fs::fstat(&memory)?.st_size).unwrap_or(0);
        if !seals.contains(SealFlags::SHRINK) || size < PAGE {
            return Err(foreign());
        }
        // The header is read through a mapping of the true size, and checked against it before use.
        let mut exchange = Self::map(memory, size, (0, 0, 0), Side::Second(0))?;
        let magic = exchange.word(0).load(Ordering::Acquire);
        let slots = usize::try_from(exchange.word(1).load(Ordering::Relaxed)).unwrap_or(0);
        let slot_bytes = usize::try_from(exchange.word(2).load(Ordering::Relaxed)).unwrap_or(0);
        let seconds = usize::try_from(exchange.word(3).load(Ordering::Relaxed)).unwrap_or(0);
        if magic != MAGIC || mapped_bytes(slots, slot_bytes, seconds) != Some(size) {
            return Err(foreign());
        }
        let number = usize::try_from(exchange.word(4).fetch_add(1, Ordering::AcqRel)).unwrap_or(usize::MAX);
        if number >= seconds {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "this exchange has all its sides"));
        }
        (exchange.slots, exchange.slot_bytes, exchange.seconds) = (slots, slot_bytes, seconds);
        exchange.side = Side::Second(number);
        Ok(exchange)
    }

    /// The memory's descriptor, to be handed to the other process.
    #[must_use]
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// How many slots there are.
    #[must_use]
    pub const fn slots(&self) -> usize {
        self.slots
    }

    /// Bytes of one slot.
    #[must_use]
    pub const fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Spins until `slot` is this side's and lends its bytes; they are given away by [`Exchange::pass`].
    /// `None` when `give_up` said so; it is asked now and then while waiting, and never before the first look.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn take(&mut self, slot: usize, mut give_up: impl FnMut() -> bool) -> Option<&mut [u8]> {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        let mut looks = 0;
        while !self.is_mine(slot) {
            looks += 1;
            if looks > LOOKS_AT_ONCE {
                std::hint::spin_loop();
            }
            if looks == LOOKS_PER_QUESTION {
                if give_up() {
                    return None;
                }
                // Two sides on one core would otherwise wait for each other's whole time slice.
                std::thread::yield_now();
                looks = 0;
            }
        }
        let offset = header_bytes(self.slots, self.seconds) + slot * stride(self.slot_bytes);
        // SAFETY: `slot < slots`, and `mapped_bytes` made the mapping hold the header and `slots` strides.
        let start = unsafe { self.base.add(offset) };
        // SAFETY: the bytes are mapped and initialised (a memfd starts as zeroes). They are this side's until
        // it passes the slot: each side (`join` claims a number) alone advances its own counter, and `is_mine` read the
        // others' with Acquire, which pairs with the Release in `pass`. Several second sides have a slot at the same
        // time only in other processes, and only read. The slice borrows `self` mutably, so it is gone before `pass`
        // or another `take`.
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.slot_bytes) })
    }

    /// Gives `slot` to the other side. Does nothing when it is not this side's.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn pass(&mut self, slot: usize) {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        if self.is_mine(slot) {
            let own = self.count(slot, self.side);
            // Only this side writes its counter, so load and store need not be one step.
            own.store(own.load(Ordering::Relaxed) + 1, Ordering::Release);
        }
    }

    fn is_mine(&self, slot: usize) -> bool {
        match self.side {
            Side::First => {
                let own = self.count(slot, Side::First).load(Ordering::Relaxed);
                (0..self.seconds)
                    .all(|number| self.count(slot, Side::Second(number)).load(Ordering::Acquire) == own)
            }
            Side::Second(_) => {
                let own = self.count(slot, self.side).load(Ordering::Relaxed);
                self.count(slot, Side::First).load(Ordering::Acquire) == own + 1
            }
        }
    }

    fn count(&self, slot: usize, side: Side) -> &AtomicU64 {
        let number = match side {
            Side::First => 0,
            Side::Second(number) => 1 + number,
        };
        let line = 1 + slot * (1 + self.seconds) + number;
        self.word(line * (LINE / size_of::<AtomicU64>()))
    }

    /// The n-th word of the header.
    fn word(&self, index: usize) -> &AtomicU64 {
        let header = header_bytes(self.slots, self.seconds).min(self.mapped);
        assert!(index < header / size_of::<AtomicU64>(), "word {index} is beyond the header");
        // SAFETY: the index lies within the mapping.
        let word = unsafe { self.base.cast::<AtomicU64>().add(index) };
        // SAFETY: page-aligned plus a multiple of 8, mapped for as long as `self`, and both processes use
        // these words as atomics only.
        unsafe { word.as_ref() }
    }

    fn map(
        memory: OwnedFd,
        mapped: usize,
        (slots, slot_bytes, seconds): (usize, usize, usize),
        side: Side,
    ) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of this process; the
        // memfd is sealed against shrinking, so that every page stays there.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                mapped,
                protection,
                MapFlags::SHARED | MapFlags::POPULATE,
                &memory,
                0,
            )
        }?;
        let base =
            NonNull::new(base.cast::<u8>()).expect("the kernel maps nothing at address zero unless asked");
        Ok(Self { base, mapped, slots, slot_bytes, seconds, side, memory })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no borrow of it outlives `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.mapped) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping: {unmapped:?}");
    }
}

fn stride(slot_bytes: usize) -> usize {
    slot_bytes.next_multiple_of(PAGE)
}

/// The first line and the counters.
fn header_bytes(slots: usize, seconds: usize) -> usize {
    (LINE * (1 + slots * (1 + seconds))).next_multiple_of(PAGE)
}

fn mapped_bytes(slots: usize, slot_bytes: usize, seconds: usize) -> Option<usize> {
    let possible = (1..=SLOTS_MAX).contains(&slots)
        && (1..=SLOT_BYTES_MAX).contains(&slot_bytes)
        && (1..=SECONDS_MAX).contains(&seconds);
    possible.then(|| header_bytes(slots, seconds) + slots * stride(slot_bytes))
}

fn foreign() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this memory is not an exchange")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_go_back_and_forth_with_their_bytes() {
        let mut first = Exchange::create(2, 100, 1).unwrap();
        let mut second = Exchange::join(first.memory()).unwrap();
        assert_eq!((second.slots(), second.slot_bytes()), (2, 100));
        assert!(second.take(1, || true).is_none());
        for round in 0..3 {
            first.take(1, || true).unwrap().fill(round);
            first.pass(1);
            assert!(first.take(1, || true).is_none());
            assert_eq!(second.take(1, || true).unwrap(), [round; 100]);
            second.pass(1);
            second.pass(1);
        }
        assert!(first.take(0, || true).is_some());
    }

    #[test]
    fn a_slot_comes_back_when_all_seconds_have_passed_it() {
        let mut first = Exchange::create(1, 8, 2).unwrap();
        let mut seconds = [Exchange::join(first.memory()).unwrap(), Exchange::join(first.memory()).unwrap()];
        assert!(Exchange::join(first.memory()).is_err());
        first.take(0, || true).unwrap().fill(7);
        first.pass(0);
        for second in &mut seconds {
            assert!(first.take(0, || true).is_none());
            assert_eq!(second.take(0, || true).unwrap(), [7; 8]);
            second.pass(0);
            assert!(second.take(0, || true).is_none());
        }
        assert!(first.take(0, || true).is_some());
    }

    #[test]
    fn only_one_process_joins_and_only_an_exchange_is_joined() {
        let first = Exchange::create(1, 1, 1).unwrap();
        let _second = Exchange::join(first.memory()).unwrap();
        assert_eq!(Exchange::join(first.memory()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let other = rustix::fs::memfd_create("other", flags).unwrap();
        rustix::fs::ftruncate(&other, 65536).unwrap();
        assert!(Exchange::join(&other).is_err());
        rustix::fs::fcntl_add_seals(&other, SealFlags::SHRINK).unwrap();
        assert_eq!(Exchange::join(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(Exchange::create(0, 1, 1).is_err());
        assert!(Exchange::create(1, 0, 1).is_err());
        assert!(Exchange::create(SLOTS_MAX + 1, 1, 1).is_err());
    }

    #[test]
    fn two_threads_stream_through_the_slots() {
        let mut first = Exchange::create(3, 64, 1).unwrap();
        let mut second = Exchange::join(first.memory()).unwrap();
        let reader = std::thread::spawn(move || {
            let mut sum = 0_u64;
            for round in 0..3000 {
                sum += u64::from(second.take(round % 3, || false).unwrap()[63]);
                second.pass(round % 3);
            }
            sum
        });
        let mut sum = 0;
        for round in 0..3000_usize {
            let byte = u8::try_from(round % 251).unwrap();
            first.take(round % 3, || false).unwrap().fill(byte);
            first.pass(round % 3);
            sum += u64::from(byte);
        }
        assert_eq!(reader.join().unwrap(), sum);
    }
}
