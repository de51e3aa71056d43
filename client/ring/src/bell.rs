//! Bells: the pipes of a link. One end each belongs to one process, so a hang-up is a death notice that needs no
//! broker.
//!
//! A doorbell carries the numbers of slots that woke, four bytes each; a space bell carries single bytes. Both
//! ends are non-blocking. A full pipe needs no more bytes: whoever drains that much looks at everything.

use crate::error::{RingError, os};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Whoever drains at least this many slot numbers at once looks at all slots instead: the pipe may have been
/// full. (A pipe holds at least one page.)
const LISTED_SLOTS_MAX: usize = 512;

/// An end to write to.
#[derive(Debug)]
pub(crate) struct Ringer {
    fd: OwnedFd,
    guard_sigpipe: bool,
}

/// What came of ringing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rung {
    /// The other side will wake, or is awake.
    Heard,
    /// Nobody holds the other end any more.
    HungUp,
}

impl Ringer {
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, RingError> {
        make_nonblocking(fd.as_fd())?;
        Ok(Self { fd, guard_sigpipe: !sigpipe_is_ignored() })
    }

    pub(crate) fn ring(&self, bytes: &[u8]) -> Rung {
        let write = || rustix::io::write(&self.fd, bytes);
        match if self.guard_sigpipe { sigpipe::guarded(write) } else { write() } {
            Err(Errno::PIPE) => Rung::HungUp,
            // Full: whoever drains it looks at everything. Anything else cannot be helped here, and
            // the reader's own hang-up check finds a dead pipe.
            _ => Rung::Heard,
        }
    }
}

/// An end to read from.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
}

/// What was in a bell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// The slots that were rung.
    Some,
    /// So many that all must be looked at.
    All,
    /// Nobody holds the other end any more: look at all for the last time.
    HungUp,
}

impl Listener {
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, RingError> {
        make_nonblocking(fd.as_fd())?;
        Ok(Self { fd })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Empties the pipe; slot numbers are appended to `slots`.
    pub(crate) fn drain(&self, slots: &mut Vec<u32>) -> Drained {
        let mut buffer = [0_u8; LISTED_SLOTS_MAX * 4];
        let before = slots.len();
        // A peer that keeps writing less than a number at a time must not keep its reader here.
        for _ in 0..LISTED_SLOTS_MAX {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) => return Drained::HungUp,
                Ok(length) => {
                    // Writes of four bytes to a pipe are atomic, so numbers arrive whole; an odd rest can only come
                    // from a peer that does not keep to that, and is ignored.
                    let (numbers, _) = buffer[..length].as_chunks::<4>();
                    if numbers.len() + (slots.len() - before) >= LISTED_SLOTS_MAX {
                        return self.drain_rest();
                    }
                    slots.extend(numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)));
                    // Read on although that was all: a hang-up behind it comes with the same wake-up, and whoever
                    // waits for edges is not told again.
                }
                Err(Errno::INTR) => {}
                Err(_) => return Drained::Some,
            }
        }
        self.drain_rest()
    }

    /// Empties the pipe without minding what is in it, a bounded number of bytes.
    fn drain_rest(&self) -> Drained {
        // More than an unprivileged process can put into a pipe (1 MiB).
        const READS_MAX: usize = 320;
        let mut buffer = [0_u8; 4096];
        for _ in 0..READS_MAX {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) => return Drained::HungUp,
                // Read on to the end, for the same reason as above.
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        Drained::All
    }

    /// Empties the pipe of a space bell. `false`: hung up.
    pub(crate) fn hush(&self) -> bool {
        self.drain_rest() != Drained::HungUp
    }
}

fn make_nonblocking(fd: BorrowedFd<'_>) -> Result<(), RingError> {
    let flags = rustix::fs::fcntl_getfl(fd).map_err(os("cannot ask about a bell"))?;
    let kind = rustix::fs::fstat(fd).map_err(os("cannot ask about a bell"))?.st_mode;
    crate::error::claim(
        rustix::fs::FileType::from_raw_mode(kind) == rustix::fs::FileType::Fifo,
        "the kind of a bell's file",
        kind.into(),
        "a bell is a pipe",
    )?;
    if flags.contains(OFlags::NONBLOCK) {
        return Ok(());
    }
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK).map_err(os("cannot make a bell non-blocking"))
}

/// Whether this process ignores SIGPIPE, as Rust programs do unless told otherwise.
fn sigpipe_is_ignored() -> bool {
    const SIGPIPE: u64 = 13;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (SIGPIPE - 1) & 1 == 1)
}

/// Writing to a pipe in a program that has not ignored SIGPIPE: the signal is kept from this thread for the time
/// of the write and taken away if it came.
mod sigpipe {
    use std::mem::MaybeUninit;

    pub(super) fn guarded<T>(write: impl FnOnce() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
        let pipe = only_sigpipe();
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: both sets are valid for the call; only this thread's mask changes.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe, before.as_mut_ptr()) };
        // SAFETY: filled in by the call above (and zeroes are an empty set).
        let before = unsafe { before.assume_init() };
        // SAFETY: a valid set that is only read.
        let was_blocked = unsafe { libc::sigismember(&raw const before, libc::SIGPIPE) } == 1;
        let result = write();
        if matches!(result, Err(rustix::io::Errno::PIPE)) && !was_blocked {
            let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: all pointers are valid for the call; SIGPIPE is pending on this very thread.
            unsafe { libc::sigtimedwait(&raw const pipe, std::ptr::null_mut(), &raw const at_once) };
        }
        // SAFETY: `before` is the mask this thread had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
        result
    }

    fn only_sigpipe() -> libc::sigset_t {
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the set is valid for writing.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: the set was initialised just above.
        unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE) };
        // SAFETY: initialised by `sigemptyset`.
        unsafe { set.assume_init() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (Listener, Ringer) {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        (Listener::new(read).unwrap(), Ringer::new(write).unwrap())
    }

    /// Drops one end, and waits until the other hangs up: a process that another test is just starting has the dropped one,
    /// too, until it runs its program.
    fn hang_up<T>(end: T, other: &OwnedFd) {
        use rustix::event::{PollFd, PollFlags, poll};
        drop(end);
        let mut polled = [PollFd::new(other, PollFlags::empty())];
        while poll(&mut polled, None) != Ok(1) {}
    }

    #[test]
    fn slot_numbers_arrive_and_a_hang_up_is_seen_on_both_sides() {
        let (listener, ringer) = pipe();
        assert_eq!(ringer.ring(&7_u32.to_le_bytes()), Rung::Heard);
        assert_eq!(ringer.ring(&9_u32.to_le_bytes()), Rung::Heard);
        let mut slots = Vec::new();
        assert_eq!(listener.drain(&mut slots), Drained::Some);
        assert_eq!(slots, [7, 9]);
        hang_up(ringer, &listener.fd);
        assert_eq!(listener.drain(&mut slots), Drained::HungUp);
        let (listener, ringer) = pipe();
        hang_up(listener, &ringer.fd);
        assert_eq!(ringer.ring(&[0]), Rung::HungUp);
    }

    #[test]
    fn a_hang_up_behind_bytes_is_seen_in_the_same_look() {
        for bytes in [4, 40_000] {
            let (listener, ringer) = pipe();
            for _ in 0..bytes / 4 {
                ringer.ring(&7_u32.to_le_bytes());
            }
            hang_up(ringer, &listener.fd);
            assert_eq!(listener.drain(&mut Vec::new()), Drained::HungUp);
            let (listener, ringer) = pipe();
            for _ in 0..bytes {
                ringer.ring(&[1]);
            }
            hang_up(ringer, &listener.fd);
            assert!(!listener.hush());
        }
    }

    #[test]
    fn a_full_bell_makes_its_listener_look_at_all() {
        let (listener, ringer) = pipe();
        for slot in 0..40_000_u32 {
            assert_eq!(ringer.ring(&slot.to_le_bytes()), Rung::Heard);
        }
        let mut slots = Vec::new();
        assert_eq!(listener.drain(&mut slots), Drained::All);
        assert_eq!(listener.drain(&mut slots), Drained::Some);
        assert!(slots.len() < LISTED_SLOTS_MAX);
    }

    #[test]
    fn sigpipe_does_not_end_a_program_that_has_not_ignored_it() {
        let (listener, mut ringer) = pipe();
        ringer.guard_sigpipe = true;
        hang_up(listener, &ringer.fd);
        assert_eq!(ringer.ring(&[0]), Rung::HungUp);
    }

    #[test]
    fn a_bell_is_a_pipe() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Listener::new(socket.into()).unwrap_err().is_claim());
    }
}
