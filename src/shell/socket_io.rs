//! One `recvmsg` and one `sendmsg`, with descriptors. Neither waits. No state.

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, send, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tramline_wire::limits::FRAME_FDS_MAX;

/// Most descriptors taken with one read. A peer that sends more with one `sendmsg` loses its connection.
pub(super) const READ_FDS_MAX: usize = 64;

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Read {
    /// Bytes; 0 at the end of the stream.
    pub(super) bytes: usize,
    /// Descriptors that were appended.
    pub(super) fds: usize,
    /// The kernel threw descriptors away: more than [`READ_FDS_MAX`], or this process may open no more.
    pub(super) fds_cut_off: bool,
}

/// Reads what is there into `buffer`, and appends the descriptors that came along to `fds`.
///
/// # Errors
/// `AGAIN` when nothing is there, otherwise what ended the connection.
pub(super) fn read(socket: impl AsFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<Read, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(READ_FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let before = fds.len();
    let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = ancillary {
            fds.extend(received);
        }
    }
    let fds_cut_off = message.flags.contains(ReturnFlags::CTRUNC);
    Ok(Read { bytes: message.bytes, fds: fds.len() - before, fds_cut_off })
}

/// Writes the beginning of `bytes`, and with its first byte the descriptors `fds`. Returns how many bytes
/// were taken, at least one.
///
/// # Errors
/// `AGAIN` when there is no room, `TOOMANYREFS` when too many descriptors are on their way, otherwise what ended
/// the connection.
pub(super) fn write(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    if fds.is_empty() {
        return send(socket, bytes, flags);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FRAME_FDS_MAX as usize))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = control.push(SendAncillaryMessage::ScmRights(fds));
    assert!(fits, "a frame carries at most FRAME_FDS_MAX descriptors");
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_arrive_with_the_first_byte_of_their_write() {
        let (one, other) = UnixStream::pair().unwrap();
        let (passed, kept) = UnixStream::pair().unwrap();
        assert_eq!(write(&one, b"before", &[]), Ok(6));
        assert_eq!(write(&one, b"with", &[passed.as_fd()]), Ok(4));
        assert_eq!(write(&one, b"after", &[]), Ok(5));
        drop(passed);
        let (mut buffer, mut fds) = ([0; 64], Vec::new());
        // The kernel joins what came before with what carries descriptors, and stops behind it.
        assert_eq!(read(&other, &mut buffer, &mut fds), Ok(Read { bytes: 10, fds: 1, fds_cut_off: false }));
        assert_eq!(&buffer[..10], b"beforewith");
        assert!(rustix::io::fcntl_getfd(&fds[0]).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(write(&fds[0], b"x", &[]), Ok(1));
        assert_eq!(read(&kept, &mut buffer, &mut fds).unwrap().bytes, 1);
        assert_eq!(read(&other, &mut buffer, &mut fds).unwrap().bytes, 5);
        assert_eq!(read(&other, &mut buffer, &mut fds), Err(Errno::AGAIN));
        drop(one);
        assert_eq!(read(&other, &mut buffer, &mut fds).unwrap().bytes, 0);
    }

    #[test]
    fn descriptors_that_are_cut_off_are_noticed() {
        let (one, other) = UnixStream::pair().unwrap();
        let many = vec![one.as_fd(); READ_FDS_MAX + 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(READ_FDS_MAX + 16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
        sendmsg(&one, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        let mut fds = Vec::new();
        let read = read(&other, &mut [0; 8], &mut fds).unwrap();
        assert!(read.fds_cut_off);
        assert_eq!(fds.len(), read.fds);
    }
}
