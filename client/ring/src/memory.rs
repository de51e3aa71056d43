//! Sealed memory: making it, checking somebody else's, and mapping it.
//!
//! The owner maps its memory read-write and then seals it so that nobody, the owner included, can resize it,
//! punch holes or map it writable again. A received descriptor is believed only after [`verify_sealed`].
//! This file and [`view`](crate::view) hold the mappings; nothing here knows what the bytes mean.

use crate::error::{RingError, claim, os};
use crate::fork;
use crate::headroom;
use crate::layout::PAGE_BYTES;
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

/// `TMPFS_MAGIC` of linux/magic.h: what memfds live on (hugetlb ones do not).
const TMPFS: u64 = 0x0102_1994;

/// Pages are no smaller than this.
const TOUCH_BYTES: usize = 4096;

/// Memory of this process's address space that is shared with others.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<c_void>,
    bytes: usize,
    writable: bool,
    /// Which process mapped it: a fork has its value, but not its memory.
    born: u64,
}

// SAFETY: a mapping is an address range that stays valid until it is dropped, on every thread; what is in it is
// reached through atomics or under the rules of `view`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, bytes: u64, writable: bool) -> Result<Self, RingError> {
        let length = usize::try_from(bytes).map_err(|_| RingError::Limit {
            what: "a mapping's size",
            value: bytes,
            max: usize::MAX as u64,
        })?;
        let born = fork::born()?;
        let access = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing object.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, fd, 0) }
            .map_err(os("cannot map shared memory"))?;
        let base = NonNull::new(base).expect("the kernel maps nothing at address 0");
        let mapping = Self { base, bytes: length, writable, born };
        // SAFETY: the range is the mapping just made; the advice changes only what a forked child inherits.
        unsafe { rustix::mm::madvise(mapping.base.as_ptr(), length, Advice::LinuxDontFork) }
            .map_err(os("cannot keep shared memory from being inherited"))?;
        Ok(mapping)
    }

    /// Has every page written to. Pages that are only reserved look like holes to whoever checks the memory.
    fn populate(&self) {
        debug_assert!(self.writable, "only its owner fills memory");
        // SAFETY: the range is this mapping; the advice only makes its pages present, as writing to each would.
        let done = unsafe { rustix::mm::madvise(self.base.as_ptr(), self.bytes, Advice::LinuxPopulateWrite) };
        if done.is_ok() {
            return;
        }
        // Kernels before 5.14 do not know the advice.
        for page in (0..self.bytes).step_by(TOUCH_BYTES) {
            // SAFETY: within the mapping.
            let address = unsafe { self.base().add(page) };
            // SAFETY: mapped, writable, aligned to a page, and zero as before; nobody else has the memory yet.
            unsafe { address.cast::<AtomicU64>().as_ref() }.store(0, Ordering::Relaxed);
        }
    }

    /// Start of the mapping.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base.cast()
    }

    /// Length in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether this is a fork of the process that mapped it: then there is nothing at its address, or something else.
    pub(crate) fn is_foreign(&self) -> bool {
        fork::is_foreign(self.born)
    }

    /// The number of the process that mapped it.
    pub(crate) fn born(&self) -> u64 {
        self.born
    }

    /// Whether this process may write to it.
    pub(crate) fn writable(&self) -> bool {
        self.writable
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.is_foreign() {
            return;
        }
        // SAFETY: the range was mapped by `new` and is not used after its only owner is gone.
        let result = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.bytes) };
        debug_assert!(result.is_ok(), "a mapping made by mmap can be unmapped");
    }
}

/// Makes `bytes` (a multiple of the page size) of memory, all present and zero, maps it read-write, lets `prepare`
/// write to it, and seals it. Blocks while the kernel clears the pages.
pub(crate) fn create_sealed(
    name: &str,
    bytes: u64,
    prepare: impl FnOnce(&Mapping),
) -> Result<(OwnedFd, Mapping), RingError> {
    debug_assert!(bytes.is_multiple_of(PAGE_BYTES) && bytes > 0, "shared memory consists of whole pages");
    headroom::check(bytes)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Kernels before 6.3 do not know NOEXEC_SEAL.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        result => result,
    }
    .map_err(|errno| match errno {
        rustix::io::Errno::NOSYS => RingError::Missing("memfd_create"),
        errno => os("cannot make shared memory (memfd_create)")(errno),
    })?;
    rustix::fs::ftruncate(&fd, bytes).map_err(os("cannot size shared memory (ftruncate)"))?;
    rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, bytes)
        .map_err(os("cannot fill shared memory (fallocate)"))?;
    let mapping = Mapping::new(fd.as_fd(), bytes, true)?;
    mapping.populate();
    prepare(&mapping);
    rustix::fs::fcntl_add_seals(&fd, SEALS).map_err(|errno| match errno {
        rustix::io::Errno::INVAL => RingError::Missing("F_SEAL_FUTURE_WRITE"),
        errno => os("cannot seal shared memory")(errno),
    })?;
    Ok((fd, mapping))
}

/// Checks that `fd` is sealed memory of exactly `bytes`, all present: its owner can no longer take it away from
/// under a reader, nor make the reader pay for its pages. Blocks on file calls.
pub(crate) fn verify_sealed(fd: BorrowedFd<'_>, bytes: u64) -> Result<(), RingError> {
    // First what the kernel answers by itself: a file of some user's file system could keep the later questions waiting
    // for ever. What has no seals at all is no memfd.
    let seals = rustix::fs::fcntl_get_seals(fd).unwrap_or(SealFlags::empty());
    claim(
        seals.contains(SEALS),
        "the set of seals of shared memory",
        u64::from(seals.bits()),
        "SHRINK, GROW, FUTURE_WRITE and SEAL must be among them",
    )?;
    let system = rustix::fs::fstatfs(fd).map_err(os("cannot ask about shared memory (fstatfs)"))?;
    #[allow(clippy::cast_sign_loss, reason = "a magic number, compared as bits")]
    let magic = system.f_type as u64;
    claim(magic == TMPFS, "the file system of shared memory", magic, "a memfd lives on tmpfs")?;
    let stat = rustix::fs::fstat(fd).map_err(os("cannot ask about shared memory (fstat)"))?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    claim(size == bytes, "the size of shared memory", size, "it must be what its sender declared")?;
    // Nobody can punch holes any more. The number of blocks would not tell of older ones: blocks behind the end count, too.
    let present = rustix::fs::seek(fd, SeekFrom::Hole(0))
        .map_err(os("cannot look for holes in shared memory (lseek)"))?;
    claim(
        present == bytes,
        "the part of shared memory that is there",
        present,
        "every page of it must have been written",
    )
}

/// Maps somebody else's memory for reading. It must have been verified.
pub(crate) fn map_readonly(fd: BorrowedFd<'_>, bytes: u64) -> Result<Mapping, RingError> {
    Mapping::new(fd, bytes, false)
}

/// Kernel features that rings need and this kernel lacks; empty when rings work here. Makes a page of memory to
/// find out.
///
/// A shortage (no free descriptor, no memory) is no missing feature: whoever makes a ring then is told that.
#[must_use]
pub fn missing_features() -> Vec<&'static str> {
    let mut missing = Vec::new();
    match create_sealed("tramline-probe", PAGE_BYTES, |_| ()) {
        Err(RingError::Missing(feature)) => missing.push(feature),
        Err(RingError::Os { error, .. }) if !is_shortage(&error) => missing.push("memfd_create with sealing"),
        _ => {}
    }
    // From Linux 5.3 on: how a death is noticed although the process's number may be used again.
    let process =
        rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    if process.is_err_and(|errno| !is_shortage(&errno.into())) {
        missing.push("pidfd_open");
    }
    missing
}

fn is_shortage(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOSPC, Errno::AGAIN, Errno::INTR];
    Errno::from_io_error(error).is_some_and(|errno| shortages.contains(&errno))
}
