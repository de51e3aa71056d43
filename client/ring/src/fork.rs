//! Whether this process is a fork of the one that mapped something.
//!
//! Rings are not inherited by a fork, so touching one there would end the process. Asking the kernel who one is
//! costs a system call; a page that the kernel empties in every fork answers with a load.

use crate::error::RingError;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

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
        mark.byte().store(1, Ordering::Relaxed);
        Ok(mark)
    }

    fn byte(&self) -> &AtomicU8 {
        // SAFETY: the page is mapped readable and writable as long as `self` lives, aligned, and initialised by the
        // kernel; in a fork it is mapped as well, and zero.
        unsafe { self.page.cast::<AtomicU8>().as_ref() }
    }

    /// Whether this process is a fork of the one that made the mark. Costs a load.
    #[must_use]
    pub fn is_forked(&self) -> bool {
        self.byte().load(Ordering::Relaxed) == 0
    }
}

impl Drop for ForkMark {
    fn drop(&mut self) {
        // SAFETY: this value mapped the page, and nothing borrowed from it outlives it.
        let result = unsafe { rustix::mm::munmap(self.page.as_ptr(), MARK_BYTES) };
        debug_assert!(result.is_ok(), "a mapping made by mmap can be unmapped");
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
