//! What the runtime watches: a socket for reading always, for writing only while somebody waits for it, and the
//! process that connected for its end.
//!
//! The kernel reports room for writing each time a peer reads something. A broker whose subscribers read at their
//! leisure would be woken for nothing, so the writing side is watched (by a duplicate of the descriptor, because a
//! descriptor is watched once) only while an outbox waits for room, or for the news that the peer is gone.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// A socket that is watched for reading.
pub(super) type Reading = AsyncFd<Arc<OwnedFd>>;

/// Watches for input.
///
/// # Errors
/// When the system watches no more.
pub(super) fn reading(socket: &Arc<OwnedFd>) -> Result<Reading, std::io::Error> {
    watch(Arc::clone(socket), Interest::READABLE)
}

/// A process that is watched: readable once it has ended.
pub(super) type Process = AsyncFd<OwnedFd>;

/// Watches for the end of a process.
///
/// # Errors
/// When the system watches no more.
pub(super) fn process(process: OwnedFd) -> Result<Process, std::io::Error> {
    watch(process, Interest::READABLE)
}

#[expect(
    deprecated,
    reason = "its successor may be called by the ring crate only; these descriptors stay open while watched"
)]
fn watch<T: AsRawFd>(fd: T, interest: Interest) -> Result<AsyncFd<T>, std::io::Error> {
    AsyncFd::with_interest(fd, interest)
}

/// What the writing side of a socket has to say.
pub(super) enum Room<'a> {
    /// It takes more; the guard is cleared when it does not.
    Some(AsyncFdReadyGuard<'a, OwnedFd>),
    /// The peer has closed its socket, not only shut down its writing side.
    HungUp,
}

/// A socket that is watched for room to write.
pub(super) struct Writing(AsyncFd<OwnedFd>);

impl Writing {
    /// Watches for room.
    ///
    /// # Errors
    /// When there is no descriptor for it, or the system watches no more.
    pub(super) fn new(socket: &OwnedFd) -> Result<Self, std::io::Error> {
        let duplicate =
            rustix::io::fcntl_dupfd_cloexec(socket, 0).map_err(|error: Errno| std::io::Error::from(error))?;
        Ok(Self(watch(duplicate, Interest::WRITABLE)?))
    }

    /// Waits for room, or for the end of the peer.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Room<'_>> {
        let room = ready!(self.0.poll_write_ready(cx));
        Poll::Ready(match room {
            Ok(room) if !room.ready().is_write_closed() => Room::Some(room),
            _ => Room::HungUp,
        })
    }
}
