//! Bulk rings: memory for payloads that no frame holds, from one writer to one reader.
//!
//! There is nothing in them but bytes. Where a payload lies, and when its place is free again, is said on the socket, so
//! there is nothing to be scribbled over that anybody decides by: who writes bytes other than those it means harms its own
//! message. The memory is made, sealed and checked like that of every ring; only the writer can write to it.

use crate::error::{RingError, claim};
use crate::layout::{PAGE_BYTES, UNIT_BYTES};
use crate::memory::{self, Mapping};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes written at once; see `view` on why not all.
const PIECE_BYTES: usize = 1024;

/// Where the bytes of a payload begin, if they lie within the memory. All are claims.
fn place(mapping: &Mapping, offset: u64, length: usize) -> Result<NonNull<u8>, RingError> {
    claim(offset.is_multiple_of(UNIT_BYTES), "the place of a payload", offset, "a multiple of 64")?;
    let end = offset.saturating_add(length as u64);
    claim(end <= mapping.bytes() as u64, "the end of a payload", end, "within its ring's memory")?;
    let offset = usize::try_from(offset).expect("within a mapping");
    // SAFETY: the offset lies within the mapping, or at its end if there are no bytes.
    Ok(unsafe { mapping.base().add(offset) })
}

/// Bytes that a payload is to be copied to and that many may hold then, all 0. They are cleared at once: an
/// iterator takes many times as long where nothing is optimized, and readers that slow hold publishers up.
#[must_use]
pub fn cleared_bytes(length: usize) -> Arc<[u8]> {
    let mut bytes = Arc::<[u8]>::new_uninit_slice(length);
    let room = Arc::get_mut(&mut bytes).expect("nobody else has it yet");
    // SAFETY: the slice is this function's own, `length` bytes long, and any bytes may be written to what has no value yet.
    unsafe { std::ptr::write_bytes(room.as_mut_ptr(), 0, room.len()) };
    // SAFETY: each of them has just been written.
    unsafe { bytes.assume_init() }
}

/// The writing end of a bulk ring, and its memory.
#[derive(Debug)]
pub struct BulkWriter {
    memory: OwnedFd,
    mapping: Mapping,
}

impl BulkWriter {
    /// Makes the memory, whole pages of it. Blocks while the kernel clears them.
    ///
    /// # Errors
    /// When there is no room for it, or the kernel lacks a feature.
    pub fn create(bytes: u64) -> Result<Self, RingError> {
        let whole = bytes > 0 && bytes.is_multiple_of(PAGE_BYTES);
        claim(whole, "the size of a bulk ring", bytes, "whole pages, at least one")?;
        let (memory, mapping) = memory::create_sealed("tramline-bulk", bytes, |_| ())?;
        Ok(Self { memory, mapping })
    }

    /// The memory, for its reader.
    #[must_use]
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.mapping.bytes() as u64
    }

    /// Writes a payload to a place that its reader has given back, or was never told.
    ///
    /// # Errors
    /// When the place is not within the memory, or this is a fork of the process that made it.
    pub fn write(&mut self, offset: u64, payload: &[u8]) -> Result<(), RingError> {
        claim(!self.mapping.is_foreign(), "the process that writes", 0, "the one that made the memory")?;
        let mut address = place(&self.mapping, offset, payload.len())?;
        for piece in payload.chunks(PIECE_BYTES) {
            // SAFETY: the pieces together were bounded; the memory is this value's own to write, by the exclusive borrow
            // within this process and by its seals in all others; what its reader may read meanwhile lies elsewhere.
            unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), address.as_ptr(), piece.len()) };
            // SAFETY: as far as the end of the payload.
            address = unsafe { address.add(piece.len()) };
        }
        Ok(())
    }
}

/// The reading end of a bulk ring.
#[derive(Debug)]
pub struct BulkReader {
    mapping: Mapping,
}

impl BulkReader {
    /// Verifies and maps somebody else's memory. Blocks on file calls.
    ///
    /// # Errors
    /// [`RingError::Claim`] when it is not what it must be.
    pub fn open(memory: impl AsFd, bytes: u64) -> Result<Self, RingError> {
        let whole = bytes > 0 && bytes.is_multiple_of(PAGE_BYTES);
        claim(whole, "the size of a bulk ring", bytes, "whole pages, at least one")?;
        memory::verify_sealed(memory.as_fd(), bytes)?;
        Ok(Self { mapping: memory::map_readonly(memory.as_fd(), bytes)? })
    }

    /// Copies a payload out, whatever its writer does meanwhile.
    ///
    /// # Errors
    /// [`RingError::Claim`] when it does not lie within the memory.
    pub fn copy(&self, offset: u64, out: &mut [u8]) -> Result<(), RingError> {
        let address = place(&self.mapping, offset, out.len())?;
        claim(!self.mapping.is_foreign(), "the process that reads", 0, "the one that mapped the memory")?;
        let count = out.len().div_ceil(8);
        // SAFETY: in bounds (the memory is whole pages, so the last word is whole as well), aligned, and seen as atomics:
        // the writer may be a liar that changes the bytes now.
        let words = unsafe { std::slice::from_raw_parts(address.cast::<AtomicU64>().as_ptr(), count) };
        let (whole, rest) = out.as_chunks_mut::<8>();
        for (chunk, word) in whole.iter_mut().zip(words) {
            *chunk = word.load(Ordering::Relaxed).to_le_bytes();
        }
        if !rest.is_empty() {
            let last = words[whole.len()].load(Ordering::Relaxed).to_le_bytes();
            rest.copy_from_slice(&last[..rest.len()]);
        }
        Ok(())
    }

    /// Whether a payload lies within the memory.
    ///
    /// # Errors
    /// [`RingError::Claim`] when it does not.
    pub fn check(&self, offset: u64, length: usize) -> Result<(), RingError> {
        place(&self.mapping, offset, length).map(drop)
    }

    /// A payload in place; nothing where it does not lie within the memory, and in a fork.
    ///
    /// As with other rings read in place this is a decision: the writer (here always the broker) leaves the bytes alone until
    /// it is told that they are read no more.
    #[must_use]
    pub fn bytes(&self, offset: u64, length: usize) -> &[u8] {
        match place(&self.mapping, offset, length) {
            // SAFETY: in bounds, initialised (the memory began as zeros), mapped as long as `self` lives, and unchanged as the
            // writer promises.
            Ok(address) if !self.mapping.is_foreign() => unsafe {
                std::slice::from_raw_parts(address.as_ptr(), length)
            },
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_by_copy_and_in_place() {
        let mut writer = BulkWriter::create(8192).unwrap();
        let reader = BulkReader::open(writer.memory(), writer.bytes()).unwrap();
        let payload: Vec<u8> = (0..4099_u32).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
        writer.write(64, &payload).unwrap();
        let mut copy = vec![0; payload.len()];
        reader.copy(64, &mut copy).unwrap();
        assert_eq!((&copy[..], reader.bytes(64, payload.len())), (&payload[..], &payload[..]));
        writer.write(8192 - 64, &[7; 64]).unwrap();
        assert_eq!(reader.bytes(8192 - 64, 64), [7; 64]);
        assert!(reader.check(64, 8128).is_ok());
    }

    #[test]
    fn places_that_are_not_there_are_claims() {
        let mut writer = BulkWriter::create(4096).unwrap();
        let reader = BulkReader::open(writer.memory(), 4096).unwrap();
        for (offset, length) in [(0, 4097), (4096, 1), (32, 8), (u64::MAX - 63, 64), (1 << 40, 1)] {
            let mut out = vec![0; length];
            assert!(reader.copy(offset, &mut out).unwrap_err().is_claim(), "{offset} {length}");
            assert!(reader.check(offset, length).unwrap_err().is_claim());
            assert!(writer.write(offset, &out).unwrap_err().is_claim());
            assert!(reader.bytes(offset, length).is_empty());
        }
    }

    #[test]
    fn memory_that_is_not_what_was_declared_is_refused() {
        let writer = BulkWriter::create(8192).unwrap();
        for bytes in [0, 4096, 8191, 12_288] {
            assert!(BulkReader::open(writer.memory(), bytes).unwrap_err().is_claim(), "{bytes}");
        }
        assert!(BulkWriter::create(0).is_err() && BulkWriter::create(100).is_err());
        let plain = rustix::fs::memfd_create("unsealed", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&plain, 4096).unwrap();
        assert!(BulkReader::open(&plain, 4096).unwrap_err().is_claim());
    }
}
