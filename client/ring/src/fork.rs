//! Whether this process is a fork of the one that mapped something.
//!
//! Rings are not inherited by a fork, so touching one there would end the process. Asking the kernel who one is
//! costs a system call; a page that the kernel empties in every fork answers with a load.

use crate::error::RingError;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the page; the kernel rounds them up to its own.
const MARK_BYTES: usize = 4096;

/// A mark that a fork does not inherit.
#[derive(Debug)]
pub struct ForkMark {
    page: NonNull<c_void>,
}

// SAFETY: the page is private to this value, lives as long as it, and is only reached as an atomic.
unsafe impl Send for ForkMark {}

// SAFETY: as above.
unsafe impl Sync for ForkMark {}

impl ForkMark {
    /// Makes a mark for this process.
    ///
    /// # Errors
    /// When the kernel has no memory for a page.
    pub fn new() -> Result<Self, RingError> {
        let failed =
            |error: rustix::io::Errno| RingError::Os { what: "making a fork mark", error: error.into() };
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), MARK_BYTES, access, MapFlags::PRIVATE)
        };
        let base = base.map_err(failed)?;
        let mark = Self { page: NonNull::new(base).expect("the kernel maps nothing at address 0") };
        // SAFETY: the range is exactly this value's mapping; the advice changes only what a fork sees.
        let advised = unsafe { rustix::mm::madvise(base, MARK_BYTES, Advice::LinuxWipeOnFork) };
        advised.map_err(failed)?;
        mark.word().store(1, Ordering::Relaxed);
        Ok(mark)
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: the page is mapped readable and writable as long as `self` lives, aligned, and initialised by the
        // kernel; in a fork it is mapped as well, and zero.
        unsafe { self.page.cast::<AtomicU64>().as_ref() }
    }

    /// Whether this process is a fork of the one that made the mark. Costs a load.
    #[must_use]
    pub fn is_forked(&self) -> bool {
        self.word().load(Ordering::Relaxed) == 0
    }
}

impl Drop for ForkMark {
    fn drop(&mut self) {
        // SAFETY: this value mapped the page, and nothing borrowed from it outlives it.
        let result = unsafe { rustix::mm::munmap(self.page.as_ptr(), MARK_BYTES) };
        debug_assert!(result.is_ok(), "a mapping made by mmap can be unmapped");
    }
}

/// The one mark that all mappings of this process share.
static PROCESS: OnceLock<ForkMark> = OnceLock::new();

/// A number that this process has and no fork of it.
pub(crate) fn born() -> Result<u64, RingError> {
    let mark = match PROCESS.get() {
        Some(mark) => mark,
        None => {
            let mark = ForkMark::new()?;
            mark.word().store(0, Ordering::Relaxed);
            PROCESS.get_or_init(|| mark)
        }
    };
    // The kernel empties it in a fork, where time has passed since: the numbers differ.
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanos =
        now.tv_sec.unsigned_abs().wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.unsigned_abs());
    match mark.word().compare_exchange(0, nanos.max(1), Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => Ok(nanos.max(1)),
        Err(known) => Ok(known),
    }
}

/// Whether what was made under the number `born` belongs to another process, of which this is a fork. Costs a load.
pub(crate) fn is_foreign(born: u64) -> bool {
    PROCESS.get().is_none_or(|mark| mark.word().load(Ordering::Relaxed) != born)
}

/// Forks, for tests: `child` runs in a child of this process, which then ends with its answer as the exit code (101
/// after a panic). Returns the child's process id, to be waited for. Threads other than the caller's do not exist in
/// the child, so what it calls must not wait for any.
///
/// # Errors
/// When the system has no room for a process.
#[cfg(feature = "fork")]
#[doc(hidden)]
pub fn fork(child: impl FnOnce() -> u8) -> std::io::Result<u32> {
    // SAFETY: the child runs the caller's function and leaves without unwinding into what belongs to the parent. The C
    // library keeps its allocator usable in a fork; other locks are the caller's matter, as said above.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()),
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(101);
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(code.into()) }
        }
        pid => Ok(pid.unsigned_abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_is_told_apart_and_its_parent_is_not() {
        let mark = ForkMark::new().unwrap();
        assert!(!mark.is_forked());
        // SAFETY: the child only loads a byte and leaves, which is allowed after a fork of many threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = i32::from(!mark.is_forked());
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(code) };
        }
        let mut status = -1;
        // SAFETY: `status` is a valid place for the child's status.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((waited, status), (child, 0));
        assert!(!mark.is_forked());
    }
}
