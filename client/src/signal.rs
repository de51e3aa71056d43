//! A wake-up that is remembered: an eventfd that is written at most once until it is cleared.
//!
//! Owns one eventfd. Never carries a reason: whoever is woken looks at the state again.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug)]
pub(crate) struct Signal {
    fd: OwnedFd,
    raised: AtomicBool,
}

impl Signal {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd, raised: AtomicBool::new(false) })
    }

    /// Makes the descriptor readable. Costs a system call only if it was not raised already.
    pub(crate) fn raise(&self) {
        if !self.raised.swap(true, Ordering::AcqRel) {
            // The counter is 0 or 1, so the write can neither block nor overflow.
            let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
        }
    }

    /// Takes the wake-up back; what was done before any `raise` up to now is visible afterwards, so the
    /// caller looks at the state after this, not before. Says whether it was raised.
    pub(crate) fn clear(&self) -> bool {
        if !self.raised.load(Ordering::Acquire) {
            return false;
        }
        let mut count = [0; 8];
        // Read first: a raise in between finds the flag still set and writes nothing, but the caller's
        // look at the state comes after the swap and sees what that raise announced.
        let _ = rustix::io::read(&self.fd, &mut count);
        self.raised.swap(false, Ordering::AcqRel)
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
